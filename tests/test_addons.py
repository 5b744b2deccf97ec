"""Against tensorflow-addons 0.23.0, through the values that tools/addons_goldens.py took from it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tfyolo import boxes
from tfyolo.data import geometry
from tfyolo.losses import elementwise
from tfyolo.nn import activations

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "addons.json").read_text(encoding="utf-8"))


def golden(section, name):
    return np.array(GOLDENS[section][name], np.float32)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_giou_is_one_minus_giou_loss():
    first, second, loss = (golden("giou", name) for name in ("first", "second", "loss"))
    assert np.isfinite(loss).all() and len(loss) == 20
    np.testing.assert_allclose(1 - numpy(boxes.giou(first, second)), loss, atol=1e-6)
    np.testing.assert_allclose(1 - numpy(boxes.giou(second, first)), loss, atol=1e-6)


@pytest.mark.parametrize("index, alpha, gamma", [(i, *pair) for i, pair in enumerate(GOLDENS["focal"]["alpha_gamma"])])
def test_focal_is_sigmoid_focal_cross_entropy(index, alpha, gamma):
    targets, logits, p = (golden("focal", name) for name in ("targets", "logits", "probabilities"))
    of_logits = numpy(elementwise.focal(targets, logits, alpha=alpha, gamma=gamma))
    np.testing.assert_allclose(of_logits, golden("focal", "loss_of_logits")[index], rtol=1e-3, atol=1e-6)
    of_probabilities = numpy(elementwise.focal(targets, np.log(p) - np.log1p(-p), alpha=alpha, gamma=gamma))
    # Its form for probabilities adds 1e-7 inside the logarithms.
    np.testing.assert_allclose(of_probabilities, golden("focal", "loss_of_probabilities")[index], rtol=1e-4, atol=1e-6)


def test_focal_defaults_are_its_defaults():
    assert GOLDENS["focal"]["alpha_gamma"][0] == [0.25, 2.0]
    targets, logits = golden("focal", "targets"), golden("focal", "logits")
    expected = golden("focal", "loss_of_logits")[0]
    np.testing.assert_allclose(numpy(elementwise.focal(targets, logits)), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mish", [keras.activations.mish, activations.ACTIVATIONS["mish"]], ids=["keras", "tfyolo"])
def test_mish(mish):
    np.testing.assert_allclose(numpy(mish(golden("mish", "points"))), golden("mish", "mish"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("index, degrees", list(enumerate(GOLDENS["rotate"]["degrees"])))
def test_rotation_is_image_rotate(index, degrees):
    image = np.array(GOLDENS["rotate"]["image"], np.uint8)
    height, width = image.shape[:2]
    inside = golden("rotate", "inside")[index] > 1 - 1e-4  # elsewhere the fill has a share: black there, grey here
    assert inside.sum() > 30
    matrix = geometry.rotation(degrees, (height / 2, width / 2))
    rotated = numpy(geometry.warp(image, matrix, (height, width)))
    np.testing.assert_allclose(rotated[inside], golden("rotate", "rotated")[index][inside], atol=1e-4)
