"""Sensitivity: where an int8 network's errors come from, and what is left in float."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow
from test_quantization import gated

from tfyolo.exports import job
from tfyolo.graph import calibration
from tfyolo.graph.quantization import FakeQuantize, quantize, tied
from tfyolo.graph.sensitivity import sensitivities


class Scores:
    """A decoder of one score for each cell."""

    levels = ("p3",)

    def __call__(self, raw):
        (maps,) = raw["box"].values()
        flat = keras.ops.reshape(maps, (maps.shape[0], -1, maps.shape[-1]))
        return type("Candidates", (), {"scores": flat, "boxes": 0.0 * flat})


@pytest.fixture
def images():
    return np.random.default_rng(0).random((8, 16, 16, 3)).astype("float32")


@pytest.fixture
def measured(images):
    model = gated(0.5)._replace(decoder=Scores())
    return calibration.calibrate(model, lambda: [images])


def error(calibrated, floats, images):
    (a,), (b,) = (tf.nest.flatten(each.network(images)) for each in (calibrated.fused, calibrated.quantized(floats)))
    return float(tf.reduce_mean((a - b) ** 2))


def quantizers(model):
    return [layer.name for layer in model.network.layers if type(layer) is FakeQuantize]


@pytest.mark.parametrize("below", [slow(0.0), 20.0])
def test_shares_are_those_of_each_map_alone(below, images, monkeypatch):
    """Against the error of a network in which nothing but that map is quantized.

    Args:
        below: how far half of the channels lie below 0. Their SiLU is 0, clipped or not: to first order the clipping
            would seem to move much.
    """
    model = gated(0.5)._replace(decoder=Scores())
    bias = model.network.get_layer("first").bias
    bias.assign(bias - below * (np.arange(8) >= 4))
    measured = calibration.calibrate(model, lambda: [images])
    for name in ("correct_biases", "refit_ends"):
        monkeypatch.setattr(calibration, name, lambda *_: None)
    every = [name.removesuffix(".int8") for name in quantizers(measured.quantized())]
    everything_float = error(measured, every, images)  # the kernels' part
    alone = {
        name: max(error(measured, [each for each in every if each != name], images) - everything_float, 0.0)
        for name in every
    }
    found = dict(sensitivities(measured.quantized(), tf.constant(images)))
    assert found.keys() == alone.keys() and sum(found.values()) == pytest.approx(1)
    for name, value in alone.items():
        assert found[name] == pytest.approx(value / sum(alone.values()), abs=0.15)


def test_a_coarse_map_comes_first_and_in_float_costs_nothing(measured, images):
    name = "second"
    coarse = measured._replace(ranges=measured.ranges | {name: (-500.0, 500.0)})
    (worst, share), *_ = sensitivities(coarse.quantized(), tf.constant(images))
    assert worst == name and share > 0.9
    assert error(coarse, [name], images) < 0.05 * error(coarse, [], images)


def test_maps_in_float_are_not_quantized_nor_what_only_moves_them():
    x = images = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 1, name="conv")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    network = keras.Model(images, {"box": {"p3": keras.layers.Conv2D(4, 1, name="out")(x)}})
    model = gated(0)._replace(network=network)
    names = quantizers(quantize(model))
    assert len(names) == 2 and "conv.int8" in names
    assert tied(network) == {"conv", "pool"}
    assert [each for each in quantizers(quantize(model, floats=["conv"])) if "conv" in each] == []


def test_a_job_leaves_as_many_in_float_as_it_takes_and_begins_anew(measured, images, monkeypatch):
    work = job.Job(gated(0.5), 1, True, None)
    monkeypatch.setattr(job.Job, "_calibration", measured)
    monkeypatch.setattr(job.Job, "images", lambda _: [images])
    monkeypatch.setattr(job, "sensitivities", lambda *_: [("moved", 0.5), ("a", 0.3), ("b", 0.15), ("c", 0.05)])
    monkeypatch.setattr(job, "tied", lambda _: {"moved"})
    assert not work.leave_in_float(0.0) and work.floats == ()
    assert work.leave_in_float(0.5) and work.floats == ("a",)
    assert not work.leave_in_float(0.55)
    assert work.leave_in_float(0.75) and work.floats == ("a", "b")
    assert work.leave_in_float(0.0) and work.floats == ()
