"""Overlaps against areas counted on a pixel grid and values derived by hand; conversions against their inverses."""

import math

import numpy as np
import pytest

from tfyolo import boxes as bx


def random_boxes(count, seed=0, side=20):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, side, (count, 2, 2))
    low, high = corners.min(1), corners.max(1) + 1
    return np.concatenate([low, high], -1).astype("float32")


def painted(box, side=21):
    canvas = np.zeros((side, side), bool)
    y1, x1, y2, x2 = box.astype(int)
    canvas[y1:y2, x1:x2] = True
    return canvas


def test_iou_equals_counted_pixels():
    a, b = random_boxes(200, 1), random_boxes(200, 2)
    counted = [(painted(p) & painted(q)).sum() / (painted(p) | painted(q)).sum() for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(bx.iou(a, b), counted, atol=1e-6)
    np.testing.assert_allclose(np.diagonal(bx.pairwise_iou(a, b)), counted, atol=1e-6)


def test_giou_equals_counted_pixels():
    a, b = random_boxes(100, 3), random_boxes(100, 4)
    for p, q in zip(a, b, strict=True):
        union = (painted(p) | painted(q)).sum()
        hull = painted(np.concatenate([np.minimum(p, q)[:2], np.maximum(p, q)[2:]])).sum()
        expected = (painted(p) & painted(q)).sum() / union - (hull - union) / hull
        assert float(bx.giou(p, q)) == pytest.approx(expected, abs=1e-6)


def test_diou_and_ciou_by_hand():
    a = np.array([0.0, 0.0, 4.0, 2.0], "float32")  # 4 high, 2 wide, centre (2, 1)
    b = np.array([0.0, 2.0, 2.0, 6.0], "float32")  # 2 high, 4 wide, centre (1, 4); hull 4 x 6
    assert float(bx.diou(a, b)) == pytest.approx(0 - (1 + 9) / (16 + 36), abs=1e-6)
    v = 4 / math.pi**2 * (math.atan(4 / 2) - math.atan(2 / 4)) ** 2
    assert float(bx.ciou(a, b)) == pytest.approx(-10 / 52 - v * v / (1 - 0 + v), abs=1e-6)


@pytest.mark.parametrize("name", bx.OVERLAPS)
def test_overlap_laws(name):
    overlap = bx.OVERLAPS[name]
    a, b = random_boxes(100, 5), random_boxes(100, 6)
    values = np.asarray(overlap(a, b))
    np.testing.assert_allclose(overlap(a, a), 1.0, atol=1e-5)
    np.testing.assert_allclose(overlap(a * 7 + 3, b * 7 + 3), values, atol=1e-4)  # scale and place do not matter
    swapped = overlap(a[:, [1, 0, 3, 2]], b[:, [1, 0, 3, 2]])
    np.testing.assert_allclose(swapped, values, atol=1e-4)  # nor does the order of the axes
    assert (values <= 1 + 1e-6).all() and (values <= np.asarray(bx.iou(a, b)) + 1e-6).all()


@pytest.mark.parametrize("name", bx.OVERLAPS)
@pytest.mark.parametrize("box", [[3, 3, 3, 3], [0, 0, 0, 5], [5, 5, 2, 2], [0, 0, 1e5, 1e5]])
def test_degenerate_boxes_have_finite_overlaps_and_gradients(name, box):
    import tensorflow as tf

    a = tf.constant([box], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(a)
        value = bx.OVERLAPS[name](a, tf.constant([[1.0, 1.0, 4.0, 6.0]]))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, a)).all()


def test_shape_iou_is_iou_over_one_centre():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 50, (6, 2)).astype("float32"), rng.uniform(1, 50, (4, 2)).astype("float32")
    centred = [np.concatenate([-hw / 2, hw / 2], -1) for hw in (a, b)]
    np.testing.assert_allclose(bx.shape_iou(a, b), bx.pairwise_iou(*centred), atol=1e-6)


def test_conversion_round_trip():
    boxes = random_boxes(50, 7)
    np.testing.assert_allclose(bx.yxhw_to_boxes(bx.boxes_to_yxhw(boxes)), boxes, atol=1e-5)
    np.testing.assert_allclose(bx.boxes_to_yxhw(np.array([1.0, 2.0, 5.0, 10.0])), [3, 6, 4, 8])
