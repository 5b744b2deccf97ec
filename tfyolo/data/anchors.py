"""Anchors from data: k-means over the sizes of boxes, with 1 - IoU as the distance.

YOLO9000 (arXiv:1612.08242), section 2.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfyolo.boxes import shape_iou
from tfyolo.data.geometry import FITS
from tfyolo.errors import Error
from tfyolo.messages import counted

SAMPLE = 20_000  # boxes that k-means uses, drawn at random from more; their mean IoU then differs by less than 0.003
RESTARTS = 5


class AnchorError(Error):
    """Anchors cannot be found. The message says what is missing."""


class Fitness(NamedTuple):
    """How well anchors fit boxes by shape.

    Attributes:
        mean_iou: of each box with its best anchor, 0..1.
        below_half: the share of boxes whose best IoU is below 0.5.
        shares: [k], the share of boxes whose best each anchor is.
    """

    mean_iou: float
    below_half: float
    shares: np.ndarray


def dataset_sizes(source, input_size, preprocess="letterbox"):
    """The sizes of all boxes of a Source that are learned.

    Args:
        source: a Source.
        input_size: (H, W) that images are brought to.
        preprocess: how, a key of geometry.FITS.

    Returns:
        [M, 2] (h, w) in pixels of the input.
    """
    records = source.records
    learned = ~records.ignored
    boxes, scale = records.boxes[learned], np.divide(input_size, records.sizes)
    if FITS[preprocess].keeps_aspect:
        scale = scale.min(axis=1, keepdims=True)
    return (boxes[:, 2:] - boxes[:, :2]) * scale[records.image_of[learned]]


def kmeans(sizes_hw, k, seed=0):
    """The anchors that best cover sizes.

    Of several runs from k-means++ seeds it is the one of the best mean IoU. A cluster moves to the median of its
    boxes, which raises IoU where the mean, pulled by the largest boxes, may lower it.

    Args:
        sizes_hw: [M, 2] (h, w) in pixels.
        k: how many anchors.
        seed: of all chance.

    Returns:
        [k, 2] float32 (h, w), the smallest area first.

    Raises:
        AnchorError: there are not k different sizes.
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


class AnchorFit(NamedTuple):
    """Anchors found for a data set's boxes.

    Attributes:
        source: "name split" of the data.
        input_size: (H, W) in whose pixels the sizes count.
        boxes: how many boxes there are.
        anchors: {level: [[h, w], ...]}, the smallest at the finest level.
        mean_iou: of each box with its best anchor, 0..1.
        mean_iou_of_config: the same of the anchors before.
    """

    source: str
    input_size: tuple[int, int]
    boxes: int
    anchors: dict[str, list[list[float]]]
    mean_iou: float
    mean_iou_of_config: float

    def to_json(self) -> dict[str, Any]:
        """All but the source, in types that json.dumps takes."""
        values = self._asdict()
        del values["source"]
        return {**values, "input_size": list(self.input_size)}

    def __str__(self):
        height, width = self.input_size
        lines = [
            f"# {counted(self.boxes, 'box')} of {self.source} at {height} x {width}: mean best overlap "
            f"{self.mean_iou:.3f}, with the config's anchors {self.mean_iou_of_config:.3f}",
            "anchors:  # (h, w)",
            *(f"  {level}: {anchors}" for level, anchors in self.anchors.items()),
            f"# on the command line: 'model.decoder.anchors={json.dumps(self.anchors)}'",
        ]
        return "\n".join(lines)


def fit_anchors(source, before, input_size, *, preprocess="letterbox", seed=0) -> AnchorFit:
    """The anchors that fit the boxes of a Source best, as many at each level as there were.

    Args:
        source: whose boxes count.
        before: {level: [(h, w)]}, the anchors that the config has.
        input_size: (H, W) that images are brought to.
        preprocess: how, a key of geometry.FITS.
        seed: of the first guess, which clustering improves.

    Raises:
        AnchorError: there are not as many different boxes as anchors.
    """
    sizes = dataset_sizes(source, input_size, preprocess)
    found = kmeans(sizes, sum(map(len, before.values())), seed=seed)
    levels, start = {}, 0
    for level in sorted(before):  # the smallest to the finest
        here = found[start : start + len(before[level])]
        levels[level] = [[round(float(h), 1), round(float(w), 1)] for h, w in here]
        start += len(here)
    old = [anchor for level in sorted(before) for anchor in before[level]]
    means = float(mean_iou(sizes, found)), float(mean_iou(sizes, old))
    return AnchorFit(f"{source.name} {source.split}", tuple(input_size), len(sizes), levels, *means)


def mean_iou(sizes_hw, anchors) -> float:
    """The mean over boxes of the IoU, by shape, with the best anchor: [M, 2], [k, 2] -> 0..1."""
    return fitness(sizes_hw, anchors).mean_iou


def fitness(sizes_hw, anchors) -> Fitness:
    """The Fitness of anchors.

    Args:
        sizes_hw: [M, 2] (h, w) of boxes.
        anchors: [k, 2] (h, w).

    Raises:
        AnchorError: there are no boxes.
    """
    if not len(sizes_hw):
        raise AnchorError("expected at least one box to hold the anchors against, received none")
    overlaps = _overlaps(sizes_hw, anchors)
    best = overlaps.max(axis=1)
    shares = np.bincount(overlaps.argmax(axis=1), minlength=len(anchors)) / len(best)
    return Fitness(float(best.mean(dtype=np.float64)), float((best < 0.5).mean()), shares)


def _overlaps(sizes, anchors):
    return ops.convert_to_numpy(shape_iou(np.asarray(sizes, np.float32), np.asarray(anchors, np.float32)))
