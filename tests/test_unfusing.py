"""Weights that were published with their batch norms fused: networks of them compute the same, and can be trained."""

import keras
import numpy as np
import pytest
from conftest import TINY, load_config, small

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.data import demo
from tfyolo.graph.fusion import fuse
from tfyolo.graph.unfusing import renormalised, unfused, without_statistics
from tfyolo.training.train import train
from tfyolo.weights.initial import initialise

CLASSES = tuple(demo.CLASSES)
IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 96, 64, 3)).astype("f4")  # three batches


def arrays_of(network):
    return {variable.path: np.asarray(variable).copy() for variable in network.variables}


def outputs(network, images, training=False):
    return [np.asarray(x) for x in keras.tree.flatten(network(images, training=training))]


def assert_same(found, wanted, tolerance=1e-5):
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


def statistics(network, seed=0):
    """Norms as a trained network may have them."""
    rng = np.random.default_rng(seed)
    ranges = {"gamma": (0.5, 1.5), "beta": (-1, 1), "moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 2)}
    for variable in network.variables:
        if bounds := ranges.get(variable.path.rpartition("/")[2]):
            variable.assign(rng.uniform(*bounds, variable.shape))


# Depthwise and grouped convolutions, RepConvs of three branches, and a head with none.
NETWORKS = {
    "yolov8n": {"model.input_size": [96, 64]},
    "lite0": {"model.input_size": [96, 64]},
    "yolov7": {"model.head.knowledge": "false", "model.input_size": [96, 64]},
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name == "yolov7" else name for name in NETWORKS],
)
def published(request):
    """(config, {variable: array}) of a network as it is published, fused."""
    model = models.build(small(request.param, **NETWORKS[request.param]), ("a", "b"))
    statistics(model.network)
    fused = fuse(model).network
    return model.config, arrays_of(fused), outputs(fused, IMAGES[0])


def test_a_network_with_norms_computes_as_the_fused_one_and_then_has_their_statistics(published):
    config, arrays, wanted = published
    model = models.build(config, ("a", "b"))
    before = arrays_of(model.network)
    weights = unfused(model, arrays)
    for name, array in arrays_of(model.network).items():  # the model itself stays as it is
        np.testing.assert_array_equal(array, before[name])
    checkpoint.assign(model.network, weights)
    assert_same(outputs(model.network, IMAGES[0]), wanted)
    norms = without_statistics(model.network)
    assert norms and set(norms) == {layer for layer in model.network.layers if hasattr(layer, "moving_mean")}

    assert renormalised(model.network, lambda: IMAGES[:1]) == len(norms)
    assert_same(outputs(model.network, IMAGES[0]), wanted)
    assert not without_statistics(model.network)
    assert renormalised(model.network, lambda: pytest.fail("there is nothing to measure")) == 0
    # Of the images that the statistics are of, training computes the same: a step moves it no further than it should.
    moving = arrays_of(model.network)
    if config.name != "yolov7":  # whose branches of no weight have statistics of no consequence
        assert_same(outputs(model.network, IMAGES[0], training=True), wanted, 2e-3)
    checkpoint.assign(model.network, weights)
    assert not np.allclose(outputs(model.network, IMAGES[0], training=True)[0], wanted[0], atol=0.5)
    # Of several batches together, those of all their images.
    checkpoint.assign(model.network, weights)
    renormalised(model.network, lambda: IMAGES)
    parts = arrays_of(model.network)
    checkpoint.assign(model.network, weights)
    renormalised(model.network, lambda: [IMAGES.reshape(-1, *IMAGES.shape[2:])])
    for name, array in arrays_of(model.network).items():
        np.testing.assert_allclose(parts[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    assert any(not np.allclose(parts[name], moving[name], rtol=1e-3) for name in parts)


def test_what_cannot_be_unfused_is_said():
    model = models.build(small("yolov8n"), ("a", "b"))
    arrays = arrays_of(fuse(model).network)
    name = next(iter(arrays))
    for wrong in (
        {key: array for key, array in arrays.items() if key != name},
        arrays | {name: arrays[name][1:]},
        arrays | {"x": arrays[name]},
        arrays_of(model.network),
    ):
        with pytest.raises(ValueError, match=r"expected the arrays of yolov8n, fused; \d+ are others"):
            unfused(model, wrong)


def test_training_from_a_run_that_was_imported_fused(demo_data, tmp_path, capsys):
    """It starts where the run is, says so, and goes on from there; a trained run keeps the statistics that it has."""
    config = load_config("demo", *TINY, f"data={demo_data}")
    model = models.build(config, CLASSES)
    statistics(model.network)
    imported = models.build(config, CLASSES)
    checkpoint.assign(imported.network, unfused(imported, arrays_of(fuse(model).network)))
    (tmp_path / "there").mkdir()
    models.save_model(tmp_path / "there" / "best.h5", imported)
    images = np.random.default_rng(0).uniform(size=(4, 64, 64, 3)).astype("f4")
    assert_same(outputs(models.load_model(tmp_path / "there").network, images), outputs(model.network, images))

    norms = [layer for layer in imported.network.layers if hasattr(layer, "moving_mean")]
    told = f"batch norms: {len(norms)} came fused with their convolutions"
    fresh = models.build(config, CLASSES)
    report, _ = initialise(fresh, tmp_path / "there", lambda: [images])
    assert any(told in line for line in report)
    assert_same(outputs(fresh.network, images), outputs(imported.network, images))

    options = [*TINY, f"data={demo_data}", "train.ema=0", "train.stages=[{epochs: 1, lr: 1e-9}]"]
    run = train(load_config("demo", *options, f"train.init={tmp_path / 'there'}"), tmp_path / "here", progress=False)
    assert told in capsys.readouterr().err
    trained = models.load_model(run.folder)
    assert not without_statistics(trained.network)
    for name, array in arrays_of(trained.network).items():  # of the same images, but for their augmentation
        if name.endswith("/kernel"):
            np.testing.assert_allclose(array, arrays_of(model.network)[name], atol=1e-4, err_msg=name)
    train(load_config("demo", *options, f"train.init={run.folder}"), tmp_path / "again", progress=False)
    assert "came fused" not in capsys.readouterr().err
