"""Decoders against the papers' formulas, written out in numpy, and against their own inverses."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGS, small

from tfyolo import model as models
from tfyolo.boxes import iou
from tfyolo.decoders import DECODERS
from tfyolo.decoders.anchors import Anchor, Region, Wide
from tfyolo.decoders.decoder import SATURATED, by_level, make_priors
from tfyolo.decoders.ssd import Ssd
from tfyolo.decoders.yolov1 import Grid
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.decoders.yolox import Point
from tfyolo.structures import level_stride


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


# How each makes a factor on the anchor and the probabilities of the classes, of logits.
FORMULAS = {
    Anchor: (np.exp, sigmoid),
    Wide: (lambda t: (2 * sigmoid(t)) ** 2, sigmoid),
    Region: (np.exp, softmax),
}
SCALES = [1.0, 1.2, {"p4": 1.1, "p5": 1.05}]
ANCHORS = {"p5": [[20, 30], [60, 40]], "p4": [[10, 12], [8, 5]]}
GRIDS = {"p4": (4, 6), "p5": (2, 3)}


def noise(decoder, classes=3, spread=1.0):
    """Raw outputs of two images, in float32."""
    rng = np.random.default_rng(0)
    return {
        part: {level: rng.normal(0, spread, size=(2, *grid, 2, z)).astype("float32") for level, grid in GRIDS.items()}
        for part, z in decoder.parts(classes).items()
    }


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("kind", FORMULAS)
def test_boxes_and_scores_equal_the_formulas(kind, scale):
    factor, probabilities = FORMULAS[kind]
    decoder = kind(anchors=ANCHORS, scale_yx=scale)
    raw = noise(decoder)
    candidates = decoder(raw)
    n = 0
    for level, stride in (("p4", 16), ("p5", 32)):
        s = scale[level] if isinstance(scale, dict) else scale
        box, obj, cls = (raw[part][level][1].astype("float64") for part in ("box", "obj", "cls"))
        for row, column, a in np.ndindex(*GRIDS[level], 2):
            yx, hw = box[row, column, a, :2], box[row, column, a, 2:]
            yx = (np.array([row, column]) + s * sigmoid(yx) - (s - 1) / 2) * stride
            hw = factor(hw) * ANCHORS[level][a]
            expected = np.concatenate([yx - hw / 2, yx + hw / 2])
            np.testing.assert_allclose(candidates.boxes[1, n], expected, rtol=1e-4, atol=1e-3)
            scores = sigmoid(obj[row, column, a]) * probabilities(cls[row, column, a])
            np.testing.assert_allclose(candidates.scores[1, n], scores, rtol=1e-5)
            n += 1
    assert n == candidates.boxes.shape[1]


@pytest.mark.parametrize("kind, scale", [(Anchor, 1.0), (Wide, 2.0), (Region, 1.0)])
def test_a_cell_reaches_as_far_as_its_papers_say(kind, scale):
    """YOLOv3 and v2: to the cell's borders. YOLOv4-CSP: half a cell beyond, and four times the anchor."""
    decoder = kind(anchors={"p5": [[20, 30]]})
    raw = {part: {"p5": np.zeros((1, 1, 1, 1, z), "float32")} for part, z in decoder.parts(2).items()}
    raw["box"]["p5"][:] = [-100, 100, 0, 100]
    y1, x1, y2, x2 = np.asarray(decoder(raw).boxes)[0, 0]
    assert ((y1 + y2) / 2 / 32, y2 - y1) == pytest.approx(((1 - scale) / 2, 20), rel=1e-3)
    if kind is Wide:
        assert ((x1 + x2) / 2 / 32, x2 - x1) == pytest.approx(((1 + scale) / 2, 120))


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("kind", FORMULAS)
def test_encode_is_the_inverse_of_decode(kind, scale):
    decoder = kind(anchors=ANCHORS, scale_yx=scale)
    candidates = decoder(noise(decoder, spread=2.0))
    codes = decoder.activate(candidates.logits["box"])
    np.testing.assert_allclose(decoder.encode(candidates.boxes, candidates.priors), codes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "decoder",
    [
        *(kind(anchors=ANCHORS, scale_yx={"p4": 1.1, "p5": 1.05}) for kind in FORMULAS),
        Dfl(levels=("p4", "p5")),
        Point(levels=("p4", "p5")),
        Grid(),
        Ssd(sizes=(0.2, 0.4, 0.6), levels=("p4", "p5")),
    ],
    ids=lambda decoder: type(decoder).__name__,
)
def test_nothing_is_broadcast_to_more_sides(decoder):
    """A phone's GPU multiplies and adds no [N, 2] and [B, N, 2], as what is made of priors once was."""
    sides = {level: 128 // level_stride(level) for level in decoder.levels}
    raw = {
        part: {level: tf.TensorSpec([1, side, side, decoder.num_anchors, z]) for level, side in sides.items()}
        for part, z in decoder.parts(3).items()
    }
    operations = tf.function(lambda raw: decoder(raw)[:2]).get_concrete_function(raw).graph.get_operations()
    joined = [op for op in operations if op.type in ("Mul", "AddV2", "Sub", "RealDiv", "Minimum", "Maximum")]
    ranks = [[each.shape.rank for each in op.inputs if each.shape.rank > 1] for op in joined]
    assert len(ranks) > 2 and all(len(set(each)) < 2 for each in ranks)


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_box_without_sides_has_finite_codes(kind):
    decoder = kind(anchors=ANCHORS)
    priors = make_priors({"p4": (1, 1)}, {"p4": ANCHORS["p4"]})
    assert np.isfinite(decoder.encode(np.zeros((1, 2, 4), "float32"), priors)).all()


def test_a_number_by_level_goes_to_the_levels_candidates():
    priors = make_priors({"p3": (1, 2), "p5": (1, 1)}, {"p3": [(1, 1)], "p5": [(2, 2)]})
    np.testing.assert_array_equal(by_level({"p5": 3.0, "p3": 0.5}, priors), [0.5, 0.5, 3.0])
    np.testing.assert_array_equal(by_level(2.0, priors), [2.0, 2.0, 2.0])


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


# (has_boxes, has_objectness, has_background, is_distribution), and the parts for three classes, as the papers have
# them.
CAPABILITIES = {
    "anchor": ((True, True, False, False), {"box": 4, "obj": 1, "cls": 3}),
    "wide": ((True, True, False, False), {"box": 4, "obj": 1, "cls": 3}),
    "region": ((True, True, False, False), {"box": 4, "obj": 1, "cls": 3}),
    "grid": ((True, True, False, False), {"box": 4, "obj": 1, "cls": 3}),
    "point": ((True, True, False, False), {"box": 4, "obj": 1, "cls": 3}),
    "dfl": ((True, False, False, True), {"box": 4 * 16, "cls": 3}),
    "ssd": ((True, False, True, False), {"box": 4, "cls": 4}),
    "corner": ((False, False, False, False), {"cls": 3, "embed": 1, "offset": 2}),
}


@pytest.mark.parametrize("name", DECODERS)
def test_parts_follow_from_the_capabilities(name):
    needed = {"ssd": {"sizes": [0.1] * 7}}.get(
        name, {"anchors": ANCHORS} if name in ("anchor", "wide", "region") else {}
    )
    decoder = DECODERS[name](**needed)
    capabilities, parts = CAPABILITIES[name]
    found = decoder.has_boxes, decoder.has_objectness, decoder.has_background, decoder.is_distribution
    assert found == capabilities
    assert decoder.has_largest == ("largest" in inspect.signature(DECODERS[name]).parameters)
    assert list(decoder.parts(3).items()) == list(parts.items()), "in this order: it is that of the weights"


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_is_the_inverse_of_encode(name):
    config = small(name)
    builder, options = models.resolve(config, "model.decoder", config.model.decoder, DECODERS)
    decoder = builder(**options)
    if not decoder.has_boxes:
        pytest.skip("corners have no codes: tests/test_cornernet.py")
    height, width = config.model.input_size
    raw = {
        part: {
            level: np.zeros(
                (1, *(side // level_stride(level) or 1 for side in (height, width)), decoder.num_anchors, Z)
            )
            for level in decoder.levels
        }
        for part, Z in decoder.parts(3).items()
    }
    priors = decoder(raw).priors
    rng = np.random.default_rng(0)
    count = len(priors.centers)
    centers = priors.centers + rng.uniform(-0.5, 0.5, (count, 2)) * priors.strides[:, None]
    sides = rng.uniform(2, 60, (count, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")[None]
    again = decoder.decode(decoder.encode(boxes, priors), priors)
    np.testing.assert_allclose(again, boxes, rtol=1e-3, atol=2e-3)
    assert np.min(iou(again, boxes)) > 0.999


@pytest.mark.parametrize("kind", [Anchor, Wide, Region, Dfl, Point])
def test_what_saturates_decodes_alike_beyond_the_bound(kind):
    decoder = kind(anchors=ANCHORS) if kind in FORMULAS else kind(levels=("p4", "p5"))
    rng = np.random.default_rng(0)
    raw = {
        part: {
            level: rng.normal(0, 10, (2, *grid, decoder.num_anchors, z)).astype("float32")
            for level, grid in GRIDS.items()
        }
        for part, z in decoder.parts(3).items()
    }
    bounded = {
        part: {
            level: np.clip(values, -SATURATED, SATURATED) if part in decoder.saturating else values
            for level, values in levels.items()
        }
        for part, levels in raw.items()
    }
    found, expected = decoder(bounded), decoder(raw)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(*(np.clip(each.boxes, 0, 1000) for each in (found, expected)), atol=0.2)  # pixels


@pytest.mark.parametrize("kind", FORMULAS)
def test_huge_logits_stay_finite(kind):
    decoder = kind(anchors={"p5": [[300, 300]]})
    raw = {part: {"p5": np.full((1, 1, 1, 1, z), 1e4, "float32")} for part, z in decoder.parts(2).items()}
    candidates = decoder(raw)
    assert np.isfinite(candidates.boxes).all() and np.isfinite(candidates.scores).all()


def test_priors_cover_the_image_once():
    priors = make_priors({"p3": (2, 3)}, {"p3": [(5, 6)]})
    expected = [[4, 4], [4, 12], [4, 20], [12, 4], [12, 12], [12, 20]]
    np.testing.assert_array_equal(priors.centers, expected)
