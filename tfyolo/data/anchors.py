"""Anchors from data: k-means over the sizes of boxes, with 1 - IoU as the distance (YOLO9000, arXiv:1612.08242,
section 2)."""

from typing import NamedTuple

import numpy as np
from keras import ops

from tfyolo.boxes import shape_iou
from tfyolo.data.geometry import FITS
from tfyolo.errors import Error

SAMPLE = (
    20_000  # boxes that k-means looks at, drawn at random from more; their mean IoU then differs by less than 0.003
)
RESTARTS = 5


class AnchorError(Error):
    """Anchors cannot be found. The message says what is missing."""


class Fitness(NamedTuple):
    """How well anchors fit boxes by shape. mean_iou: of each box with its best anchor, in 0..1.

    below_half: the share of boxes whose best IoU is below 0.5. shares: [k], the share of boxes whose best each anchor
    is.
    """

    mean_iou: float
    below_half: float
    shares: np.ndarray


def dataset_sizes(source, input_size, preprocess="letterbox"):
    """(h, w) of all boxes of a Source that are learned, in pixels of a picture brought to `input_size`: [M, 2]."""
    sizes = [np.zeros([0, 2], np.float32)]
    for record in source.records:
        boxes = record.boxes[~record.ignored]
        scale = np.divide(input_size, record.size)
        if FITS[preprocess].keeps_aspect:
            scale = scale.min()
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * scale)
    return np.concatenate(sizes)


def kmeans(sizes_hw, k, seed=0):
    """The k anchors (h, w) that best cover sizes: [M, 2] pixels -> [k, 2] float32, smallest area first.

    Of several runs from k-means++ seeds the one of the best average IoU. A cluster moves to the median of its boxes,
    which raises IoU where the mean, pulled by the largest boxes, may lower it. Raises AnchorError without k different
    sizes.
    """
    sizes = np.asarray(sizes_hw, np.float32).reshape(-1, 2)
    if k < 1 or len(sizes) == 0:
        raise AnchorError(f"expected at least one box and one anchor, received {len(sizes)} boxes for {k} anchors")
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise AnchorError("expected sizes above 0, received some that are 0, negative or not finite")
    rng = np.random.default_rng(seed)
    if len(sizes) > SAMPLE:
        sizes = sizes[rng.choice(len(sizes), SAMPLE, replace=False)]
    if (distinct := len(np.unique(sizes, axis=0))) < k:
        raise AnchorError(f"expected at least {k} different box sizes for {k} anchors, received {distinct}")
    runs = [_cluster(sizes, k, rng) for _ in range(RESTARTS)]
    best = max(runs, key=lambda anchors: mean_iou(sizes, anchors))
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _cluster(sizes, k, rng):
    anchors = sizes[rng.integers(len(sizes))][None]
    while len(anchors) < k:  # k-means++ (Arthur and Vassilvitskii 2007): far from those there are
        distance = 1 - _overlaps(sizes, anchors).max(axis=1)
        odds = np.maximum(distance, 0).astype(np.float64) ** 2
        anchors = np.concatenate([anchors, sizes[rng.choice(len(sizes), p=odds / odds.sum())][None]])
    for _ in range(300):
        overlaps = _overlaps(sizes, anchors)
        before, owner = anchors.copy(), overlaps.argmax(axis=1)
        for place in range(k):
            mine = sizes[owner == place]
            anchors[place] = np.median(mine, axis=0) if len(mine) else sizes[overlaps.max(axis=1).argmin()]
        if np.allclose(before, anchors, rtol=1e-3):
            break
    return anchors


def mean_iou(sizes_hw, anchors) -> float:
    """The average over boxes of the IoU, by shape, with the best anchor: [M, 2], [k, 2] -> 0..1."""
    return fitness(sizes_hw, anchors).mean_iou


def fitness(sizes_hw, anchors) -> Fitness:
    """[M, 2], [k, 2] -> Fitness. Raises AnchorError without boxes."""
    if not len(sizes_hw):
        raise AnchorError("expected at least one box to hold the anchors against, received none")
    overlaps = _overlaps(sizes_hw, anchors)
    best = overlaps.max(axis=1)
    shares = np.bincount(overlaps.argmax(axis=1), minlength=len(anchors)) / len(best)
    return Fitness(float(best.mean(dtype=np.float64)), float((best < 0.5).mean()), shares)


def _overlaps(sizes, anchors):
    return ops.convert_to_numpy(shape_iou(np.asarray(sizes, np.float32), np.asarray(anchors, np.float32)))
