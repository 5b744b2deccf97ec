"""Weights that were published with their batch norms fused: networks of them compute the same, and can be trained."""

import keras
import numpy as np
import pytest
from conftest import TINY, lively, load_config

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.data import demo
from tfyolo.graph.fusion import fuse
from tfyolo.graph.unfusing import renormalised, unfused, without_statistics
from tfyolo.training.train import train
from tfyolo.weights.darknet import importing as darknet_importing
from tfyolo.weights.initial import initialise, normalising

CLASSES = tuple(demo.CLASSES)


def arrays_of(network):
    return {variable.path: np.asarray(variable).copy() for variable in network.variables}


def outputs(network, images, training=False):
    return [np.asarray(x) for x in keras.tree.flatten(network(images, training=training))]


def off(found, wanted):
    """The largest difference of outputs, as a part of what they span."""
    return max(np.abs(ours - theirs).max() / np.ptp(theirs) for ours, theirs in zip(found, wanted, strict=True))


def statistics(network, seed=0):
    """Norms as a trained network may have them."""
    rng = np.random.default_rng(seed)
    ranges = {"gamma": (0.5, 1.5), "beta": (-1, 1), "moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 2)}
    for variable in network.variables:
        if bounds := ranges.get(variable.path.rpartition("/")[2]):
            variable.assign(rng.uniform(*bounds, variable.shape))


# Depthwise convolutions; RepConvs of two branches.
NETWORKS = {
    "demo": {},
    "yolov8n": {},
    "lite0": {"model.input_size": [96, 64]},
    "yolov7": {"model.head.knowledge": "false"},
}


@pytest.fixture(
    scope="module", params=[name if name == "demo" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def published(request):
    """(config, {variable: array}, images, outputs) of a network as it is published, fused."""
    model = lively(request.param, CLASSES, **NETWORKS[request.param])
    statistics(model.network)
    fused = fuse(model).network
    images = np.random.default_rng(0).uniform(size=(3, 4, *model.config.model.input_size, 3)).astype("f4")
    return model.config, arrays_of(fused), images, outputs(fused, images[0])


def test_a_network_with_norms_computes_as_the_fused_one_and_then_has_its_statistics(published):
    config, arrays, images, wanted = published
    model = models.build(config, CLASSES)
    before = arrays_of(model.network)
    weights = unfused(model, arrays)
    for name, array in arrays_of(model.network).items():  # the model itself stays as it is
        np.testing.assert_array_equal(array, before[name])
    checkpoint.assign(model.network, weights)
    assert off(outputs(model.network, images[0]), wanted) < 1e-5
    assert off(outputs(model.network, images[0], training=True), wanted) > 0.1  # it could not be trained
    checkpoint.assign(model.network, weights)
    norms = without_statistics(model.network)
    assert norms and set(norms) == {layer for layer in model.network.layers if hasattr(layer, "moving_mean")}

    assert renormalised(model.network, lambda: images[:1]) == len(norms)
    assert off(outputs(model.network, images[0]), wanted) < 1e-5
    assert not without_statistics(model.network)
    assert renormalised(model.network, lambda: pytest.fail("there is nothing to measure")) == 0
    one = arrays_of(model.network)
    # Of the images that the statistics are of, training computes the same.
    assert off(outputs(model.network, images[0], training=True), wanted) < 1e-3
    # Of several batches, they are those of all their images together.
    found = []
    for batches in (images, images.reshape(1, -1, *images.shape[2:])):
        checkpoint.assign(model.network, weights)
        renormalised(model.network, lambda batches=batches: batches)
        found.append(arrays_of(model.network))
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert any(not np.allclose(array, one[name], rtol=1e-3) for name, array in found[0].items())


def test_what_cannot_be_unfused_is_said():
    model = lively("demo", CLASSES)
    arrays = arrays_of(fuse(model).network)
    name = next(iter(arrays))
    for wrong in (
        {key: array for key, array in arrays.items() if key != name},
        arrays | {name: arrays[name][1:]},
        arrays | {"x": arrays[name]},
        arrays_of(model.network),
    ):
        with pytest.raises(ValueError, match=r"expected the arrays of demo, fused; \d+ are others"):
            unfused(model, wrong)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(folder of a run, its Model) as an importer writes it."""
    config = load_config("demo", *TINY)
    model = models.build(config, CLASSES)
    statistics(model.network)
    imported = models.build(config, CLASSES)
    checkpoint.assign(imported.network, unfused(imported, arrays_of(fuse(model).network)))
    folder = tmp_path_factory.mktemp("there")
    models.save_model(folder / "best.h5", imported)
    return folder, imported


def told(model):
    count = sum(hasattr(layer, "moving_mean") for layer in model.network.layers)
    return f"batch norms: {count} came fused with their convolutions"


def test_what_is_initialised_from_an_import_computes_as_it_does(imported):
    """Layers that begin anew keep the norms of a new layer."""
    folder, model = imported
    images = np.random.default_rng(0).uniform(size=(4, 64, 64, 3)).astype("f4")
    fresh = models.build(model.config, CLASSES)
    report, _, _ = initialise(fresh, folder, lambda: [images])
    assert any(told(model) in line for line in report)
    assert off(outputs(fresh.network, images), outputs(model.network, images)) < 1e-5
    assert not without_statistics(fresh.network)
    wider = models.build(load_config("demo", *TINY, "model.neck.width=0.25"), CLASSES)
    report, _, _ = initialise(wider, folder, lambda: [images])
    assert {layer.name.partition(".")[0] for layer in without_statistics(wider.network)} >= {"neck"}
    assert not [layer for layer in without_statistics(wider.network) if layer.name.startswith("backbone.")]


@pytest.mark.slow
def test_training_from_a_run_that_was_imported_fused(imported, demo_data, tmp_path, capsys):
    """It says so and goes on from there; what has statistics keeps them."""
    folder, model = imported
    options = [*TINY, f"data={demo_data}", "train.ema=0", "train.stages=[{epochs: 1, lr: 1e-9}]"]
    run = train(load_config("demo", *options, f"train.init={folder}"), tmp_path / "here", progress=False)
    assert told(model) in capsys.readouterr().err
    trained = models.load_model(run.folder)
    assert not without_statistics(trained.network)
    before = arrays_of(model.network)
    for name, array in arrays_of(trained.network).items():
        if name.endswith("/kernel"):
            np.testing.assert_allclose(array, before[name], atol=1e-4, err_msg=name)
    train(load_config("demo", *options, f"train.init={run.folder}"), tmp_path / "again", progress=False)
    assert "came fused" not in capsys.readouterr().err


def test_a_darknet_network_without_norms_is_trained_with_them(tmp_path):
    """Behind each convolution but the last; what it computes stays, with the bias of each as a shift."""
    hidden = "".join(
        f"[convolutional]\nfilters={filters}\nsize=3\nstride=2\npad=1\nactivation=leaky\n" for filters in (8, 16, 24)
    )
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + hidden
    text += "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n"
    text += "[yolo]\nmask=0,1\nanchors=8,9,20,16\nclasses=3\nnum=2\n"
    (tmp_path / "x.cfg").write_text(text)
    floats = 8 * (27 + 1) + 16 * (72 + 1) + 24 * (144 + 1) + 16 * (24 + 1)
    values = np.random.default_rng(0).normal(0, 0.3, floats).astype("<f4")
    header = np.array([0, 2, 0], "<i4").tobytes() + bytes(8)
    (tmp_path / "x.weights").write_bytes(header + values.tobytes())
    imported = darknet_importing.load(tmp_path / "x.cfg", tmp_path / "x.weights").model
    (tmp_path / "run").mkdir()
    models.save_model(tmp_path / "run" / "best.h5", imported)
    assert normalising(imported.config) is imported.config  # not from scratch

    train_section = imported.config.train.model_copy(update={"init": str(tmp_path / "run")})
    config = normalising(imported.config.model_copy(update={"train": train_section}))
    assert normalising(config) is config
    model = models.build(configs.from_json(configs.to_json(config)), imported.classes)
    images = np.random.default_rng(1).uniform(size=(4, 64, 64, 3)).astype("f4")
    report, origin, _ = initialise(model, tmp_path / "run", lambda: [images])
    assert any("batch norms: 3 came fused" in line for line in report) and "darknet" not in origin
    wanted = outputs(imported.network, images)
    assert off(outputs(model.network, images), wanted) < 1e-5
    assert off(outputs(model.network, images, training=True), wanted) < 1e-3
    assert all(
        layer.use_bias == layer.name.startswith("head.") for layer in model.network.layers if "conv" in layer.name
    )
