"""The last convolutions of a quantized network are those of a weighted ridge regression, computed another way."""

import keras
import numpy as np
import pytest
from conftest import lively
from keras import layers

from tfyolo.graph.calibration import observe
from tfyolo.graph.ends import ends
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import source
from tfyolo.graph.quantization import quantize
from tfyolo.graph.refitting import RIDGE, _cell_weights, _Sums, refit_ends

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_that_of_the_regression(groups):
    """Ridge regression as least squares with a row of its own for each coefficient."""
    layer = layers.Conv2D(6, 1, groups=groups)
    layer.build((None, 5, 4, 8))
    layer.set_weights([RNG.normal(size=layer.kernel.shape), RNG.normal(size=6)])
    kernel, bias = layer.get_weights()
    x, y, w = RNG.normal(size=(3, 5, 4, 8)), RNG.normal(size=(3, 5, 4, 6)), RNG.uniform(0.1, 1, (3, 5, 4))
    sums = _Sums(layer)
    sums.add(x[:2], y[:2], w[:2])
    sums.add(x[2:], y[2:], w[2:])
    sums.solve()
    for group in range(groups):
        own, out = (
            slice(8 // groups * group, 8 // groups * (group + 1)),
            slice(6 // groups * group, 6 // groups * (group + 1)),
        )
        rows = np.c_[x[..., own].reshape(60, -1), np.ones(60)] * np.sqrt(w.reshape(60, 1))
        cost = RIDGE * (rows[:, :-1] ** 2).sum() / (8 // groups)
        before = np.r_[kernel[0, 0][:, out], bias[None, out]]
        errors = y[..., out].reshape(60, -1) * np.sqrt(w.reshape(60, 1)) - rows @ before
        extra = np.sqrt(cost) * np.eye(8 // groups, 8 // groups + 1)
        change, *_ = np.linalg.lstsq(np.r_[rows, extra], np.r_[errors, np.zeros((8 // groups, 6 // groups))])
        found = np.r_[layer.get_weights()[0][0, 0][:, out], layer.get_weights()[1][None, out]]
        np.testing.assert_allclose(found, before + change, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["demo", *(pytest.param(each, marks=pytest.mark.slow) for each in ("yolov9t", "yolov8n"))]
)
def test_outputs_come_nearer_to_those_in_float(name):
    model = fuse(lively(name, ("a", "b", "c")))
    images = RNG.random((4, *model.input_size, 3)).astype("float32")
    quantized = quantize(model, observe(model, [images]))
    probe = keras.Model(quantized.network.input, ends(quantized.network))
    wanted = keras.Model(model.network.input, ends(model.network))(images)
    before = probe(images)
    refit_ends(quantized, model, [images[:3], images[3:]])
    after = probe(images)
    raw = model.network(images)
    weights = _cell_weights(raw, model.decoder(raw).scores.numpy(), model.decoder.levels)
    for end, value in wanted.items():
        each = weights[end.partition("_")[0]][..., None]
        off = [float((each * (np.asarray(found[end]) - np.asarray(value)) ** 2).sum()) for found in (before, after)]
        assert off[1] < 0.95 * off[0], end


def test_a_cell_weighs_as_much_as_its_best_candidate():
    model = lively("demo", ("a", "b", "c"))
    raw = model.network(RNG.random((2, *model.input_size, 3)).astype("float32"))
    scores = model.decoder(raw).scores.numpy()
    found = _cell_weights(raw, scores, model.decoder.levels)
    best = np.concatenate([each.reshape(2, -1) for each in found.values()], axis=1)
    anchors = scores.shape[1] // best.shape[1]
    np.testing.assert_allclose(best, 1e-3 + scores.max(-1).reshape(2, -1, anchors).max(-1), rtol=1e-6)


@pytest.mark.slow
def test_a_network_of_corners_stays_as_it_is():
    model = fuse(lively("demo-cornernet", ("a", "b")))
    images = RNG.random((1, *model.input_size, 3)).astype("float32")
    quantized = quantize(model, observe(model, [images]))
    before = quantized.network.get_weights()
    refit_ends(quantized, model, [images])
    assert all((a == b).all() for a, b in zip(before, quantized.network.get_weights(), strict=True))


def test_the_last_layers_of_both_networks_are_paired_by_their_ends():
    model = fuse(lively("demo", ("a", "b", "c")))
    quantized = quantize(model)
    for name, tensor in ends(quantized.network).items():
        assert source(tensor)[0].name == source(ends(model.network)[name])[0].name
