"""Decoders against the papers' formulas, written out in numpy, and against their own inverses."""

import numpy as np
import pytest
from conftest import CONFIGS, random_sample, small

from tfyolo import model as models
from tfyolo.boxes import iou
from tfyolo.decoders import Anchor, Grid, make_priors


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_anchor_boxes_equal_the_formula(scale):
    decoder = Anchor(anchors={"p5": [[20, 30], [60, 40]], "p4": [[10, 12], [8, 5]]}, scale_yx=scale)
    rng = np.random.default_rng(0)
    grids = {"p4": (4, 6), "p5": (2, 3)}
    raw = {
        part: {level: rng.normal(size=(2, *grid, 2, z)).astype("float32") for level, grid in grids.items()}
        for part, z in decoder.parts(3).items()
    }
    candidates = decoder(raw)
    n = 0
    for level, stride in (("p4", 16), ("p5", 32)):
        for row in range(grids[level][0]):
            for column in range(grids[level][1]):
                for a, (height, width) in enumerate(decoder.anchors[level]):
                    ty, tx, th, tw = raw["box"][level][1, row, column, a]
                    y = (row + scale * sigmoid(ty) - (scale - 1) / 2) * stride
                    x = (column + scale * sigmoid(tx) - (scale - 1) / 2) * stride
                    h, w = height * np.exp(th), width * np.exp(tw)
                    expected = [y - h / 2, x - w / 2, y + h / 2, x + w / 2]
                    np.testing.assert_allclose(candidates.boxes[1, n], expected, rtol=1e-4, atol=1e-3)
                    scores = sigmoid(raw["obj"][level][1, row, column, a]) * sigmoid(
                        raw["cls"][level][1, row, column, a]
                    )
                    np.testing.assert_allclose(candidates.scores[1, n], scores, rtol=1e-5)
                    n += 1
    assert n == candidates.boxes.shape[1]


def test_grid_boxes_equal_the_formula():
    decoder = Grid(boxes_per_cell=2)
    rng = np.random.default_rng(0)
    raw = {
        "box": {"p6": rng.normal(size=(1, 2, 3, 2, 4)).astype("float32")},
        "obj": {"p6": rng.uniform(-0.5, 1.5, size=(1, 2, 3, 2, 1)).astype("float32")},
        "cls": {"p6": rng.uniform(-0.5, 1.5, size=(1, 2, 3, 1, 4)).astype("float32")},
    }
    candidates = decoder(raw)
    n = ((1 * 3) + 2) * 2 + 1  # row 1, column 2, the second box
    ty, tx, root_h, root_w = raw["box"]["p6"][0, 1, 2, 1]
    y, x, h, w = (1 + ty) * 64, (2 + tx) * 64, root_h**2 * 128, root_w**2 * 192
    np.testing.assert_allclose(
        candidates.boxes[0, n], [y - h / 2, x - w / 2, y + h / 2, x + w / 2], rtol=1e-4, atol=1e-3
    )
    scores = np.clip(raw["obj"]["p6"][0, 1, 2, 1], 0, 1) * np.clip(raw["cls"]["p6"][0, 1, 2, 0], 0, 1)
    np.testing.assert_allclose(candidates.scores[0, n], scores, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_is_the_inverse_of_encode(name):
    model = models.build(small(name), ("a", "b", "c"))
    priors = model.decoder(model.network(random_sample(model.config.model.input_size).image)).priors
    rng = np.random.default_rng(0)
    count = len(priors.centers)
    centers = priors.centers + rng.uniform(-0.5, 0.5, (count, 2)) * priors.strides[:, None]
    sides = rng.uniform(2, 60, (count, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")[None]
    again = model.decoder.decode(model.decoder.encode(boxes, priors), priors)
    np.testing.assert_allclose(again, boxes, rtol=1e-3, atol=2e-3)
    assert np.min(iou(again, boxes)) > 0.999


def test_huge_logits_stay_finite():
    decoder = Anchor(anchors={"p5": [[300, 300]]})
    raw = {part: {"p5": np.full((1, 1, 1, 1, z), 1e4, "float32")} for part, z in decoder.parts(2).items()}
    candidates = decoder(raw)
    assert np.isfinite(candidates.boxes).all() and np.isfinite(candidates.scores).all()


def test_priors_cover_the_picture_once():
    priors = make_priors({"p3": (2, 3)}, {"p3": [(5, 6)]})
    expected = [[4, 4], [4, 12], [4, 20], [12, 4], [12, 12], [12, 20]]
    np.testing.assert_array_equal(priors.centers, expected)
