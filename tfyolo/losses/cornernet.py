"""CornerNet's terms and their targets."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfyolo.config.ranges import NonNegative, OpenProbability
from tfyolo.losses.elementwise import smooth_l1
from tfyolo.losses.objective import Objective, count_of_images
from tfyolo.structures import as_raw, level_stride


def corner_radius(boxes, overlap):
    """How far both corners of a box may move so that it still overlaps the original by so much.

    The smallest of three cases: both corners move outward, both inward, or both the same way.

    Args:
        boxes: [..., 4].
        overlap: the least IoU, in 0..1, both excluded.

    Returns:
        [...], in the units of the boxes.

    Source: Law and Deng 2018, arXiv:1808.01244, section 3.2.
    """
    y1, x1, y2, x2 = ops.unstack(boxes, 4, axis=-1)
    h, w = y2 - y1, x2 - x1
    # IoU = overlap, a quadratic equation in r each; the smaller positive root.
    same = _root(1.0, -(h + w), h * w * (1 - overlap) / (1 + overlap))
    inward = _root(4.0, -2 * (h + w), (1 - overlap) * h * w)
    outward = _root(4 * overlap, 2 * overlap * (h + w), (overlap - 1) * h * w)
    return ops.minimum(ops.minimum(same, inward), outward)


def _root(a, b, c):
    """The smallest positive root of a r^2 + b r + c."""
    root = ops.sqrt(ops.maximum(b * b - 4 * a * c, 0.0))
    small, large = (-b - root) / (2 * a), (-b + root) / (2 * a)
    return ops.where(small > 0, small, large)


class CornerTargets(NamedTuple):
    """The targets of CornerNet's maps for a batch; A = 2 are both corners.

    Attributes:
        heat: [B, h, w, 2, K] in 0..1, 1 where a corner is.
        counted: [B, h, w, K] bool, False in a crowd of the class.
        cells: [B, M, 2] int32, the index in a map [h * w] of each ground truth's corners.
        offsets: [B, M, 2, 2] (y, x) of the corner in its cell, in cells.
        real: [B, M] bool, False for padding and crowds.
    """

    heat: Any
    counted: Any
    cells: Any
    offsets: Any
    real: Any


def corner_targets(sample, grid, K, stride, overlap=0.3):
    """The CornerTargets of a batch.

    Around a corner the heat falls off as a Gaussian. Its standard deviation is a sixth of the diameter, 2 * radius + 1;
    the radius is rounded down to whole cells.

    Args:
        sample: Sample with B in front.
        grid: (h, w) of the maps.
        K: classes.
        stride: pixels a cell.
        overlap: the IoU that boxes of corners within the radius still have, in 0..1, both excluded.

    Returns:
        CornerTargets.

    Source: Law and Deng 2018, arXiv:1808.01244, section 3.2.
    """
    height, width = grid
    real = ops.logical_and(sample.labels >= 0, ops.logical_not(sample.crowd))  # [B, M]
    boxes = sample.boxes / stride
    points = ops.reshape(boxes, (-1, *ops.shape(boxes)[1:2], 2, 2))  # [B, M, corner, (y, x)]
    last = np.array([height - 1, width - 1], "float32")
    cells = ops.clip(ops.floor(points), 0.0, last)
    radius = ops.floor(ops.maximum(corner_radius(boxes, overlap), 0.0))
    deviation = (2 * radius + 1) / 6

    def bell(size, axis):
        """[B, M, 2, size]: along one axis; 0 beyond the radius."""
        away = ops.arange(size, dtype="float32") - ops.expand_dims(cells[..., axis], -1)
        values = ops.exp(-ops.square(away) / (2 * ops.square(deviation)[..., None, None]))
        return ops.where(ops.absolute(away) <= radius[..., None, None], values, 0.0)

    B, M = ops.shape(real)

    def highest(values, chosen):
        """Each class's highest value among the chosen [B, M], else 0: [B, M, ...] -> [B, K, ...]."""
        # The others go to a further class, which is dropped.
        places = ops.expand_dims(ops.arange(B), 1) * (K + 1) + ops.where(chosen, sample.labels, K)
        most = ops.segment_max(ops.reshape(values, (B * M, -1)), ops.reshape(places, (-1,)), B * (K + 1))
        return ops.maximum(ops.reshape(most, (B, K + 1, *values.shape[2:]))[:, :K], 0.0)  # none: the lowest number

    spots = ops.expand_dims(bell(height, 0), -1) * ops.expand_dims(bell(width, 1), -2)  # [B, M, 2, h, w]
    heat = ops.transpose(highest(spots, real), (0, 3, 4, 2, 1))

    y, x = (ops.arange(side, dtype="float32") + 0.5 for side in grid)
    y1, x1, y2, x2 = (ops.expand_dims(side, -1) for side in ops.unstack(boxes, 4, axis=-1))  # [B, M, 1]
    rows, columns = ops.logical_and(y > y1, y < y2), ops.logical_and(x > x1, x < x2)
    inside = ops.logical_and(ops.expand_dims(rows, -1), ops.expand_dims(columns, -2))  # [B, M, h, w]
    crowded = ops.transpose(highest(ops.cast(inside, "float32"), sample.crowd), (0, 2, 3, 1)) > 0
    index = ops.cast(cells[..., 0] * width + cells[..., 1], "int32")
    return CornerTargets(heat, ops.logical_not(crowded), index, points - cells, real)


CERTAIN = math.log((1 - 1e-4) / 1e-4)  # the logit beyond which CornerNet's heat has no gradient


class Corner(Objective):
    """CornerNet's terms, the mean over all stacks.

    heat: a focal loss, divided by the corners of the batch, in which cells near a corner count the less the nearer they
    are. pull, push: the embeddings of one object's corners are drawn together, the means of different objects' driven
    apart; means over objects and pairs, and over images. offset: smooth L1, the mean over the corners of both kinds.
    Cells in a crowd are not counted as background of its class.

    Args:
        decoder: the Decoder of corners.
        assigner: None.
        alpha, beta: the powers of the focal loss: of the error, and of 1 - heat near a corner.
        overlap: that of corner_targets.
        margin: how far apart the means of embeddings are driven.
        pull_gain, push_gain, offset_gain: factors on the terms.

    Raises:
        ValueError: there is an assigner, or the decoder is one of boxes.

    Source: Law and Deng 2018, arXiv:1808.01244, eq. 1 to 5.
    """

    terms, reads_aux = ("heat", "pull", "push", "offset"), None

    def __init__(
        self,
        decoder,
        assigner,
        *,
        alpha: NonNegative = 2.0,
        beta: NonNegative = 4.0,
        overlap: OpenProbability = 0.3,
        margin: NonNegative = 1.0,
        pull_gain: NonNegative = 0.1,
        push_gain: NonNegative = 0.1,
        offset_gain: NonNegative = 1.0,
    ):
        if assigner is not None:
            raise ValueError("corner: it reads the raw maps, expected no assigner (model.assigner: null)")
        if decoder.has_boxes:
            raise ValueError("corner: expected the decoder of corners (model.decoder: corner)")
        self.decoder, self.assigner = decoder, None
        self.alpha, self.beta, self.overlap, self.margin = alpha, beta, overlap, margin
        self.gains = {"heat": 1.0, "pull": pull_gain, "push": push_gain, "offset": offset_gain}

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        (level,) = self.decoder.levels
        raw = as_raw(raw)
        shape = raw.parts["cls"][level].shape
        targets = corner_targets(sample, shape[1:3], shape[-1], level_stride(level), self.overlap)
        targets = CornerTargets(*map(ops.stop_gradient, targets))
        objects = ops.sum(ops.cast(targets.real, "float32"), axis=1)  # [B]
        stacks = []
        while raw is not None:
            maps = {part: ops.cast(raw.parts[part][level], "float32") for part in ("cls", "embed", "offset")}
            stacks.append(self._stack_sums(maps, targets, objects))
            raw = raw.aux and as_raw(raw.aux)
        sums = {name: sum(stack[name] for stack in stacks) / len(stacks) for name in self.gains}
        corners = ops.cast(ops.equal(targets.heat, 1.0), "float32")
        corners = ops.sum(corners, axis=(0, 1, 2, 4))  # [2], cells of each kind
        return sums, {"images": count_of_images(sample), "corners": corners, "objects": ops.sum(objects)}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        images, objects = counts["images"], ops.maximum(counts["objects"], 1.0)
        means = {
            "heat": ops.sum(sums["heat"] / ops.maximum(counts["corners"], 1.0)),
            "pull": sums["pull"] / images,
            "push": sums["push"] / images,
            "offset": sums["offset"] / objects,
        }
        return {name: gain * means[name] for name, gain in self.gains.items()}

    def _stack_sums(self, maps, targets, objects):
        """The sums of one stack's maps. objects: [B]."""
        offsets = self._at_corners(maps["offset"], targets.cells)  # [B, M, corner, 2]
        error = ops.sum(smooth_l1(targets.offsets, offsets), axis=(2, 3))
        pull, push = self._embeddings(self._at_corners(maps["embed"], targets.cells)[..., 0], targets.real, objects)
        return {
            "heat": self._heat(maps["cls"], targets),
            "pull": ops.sum(pull),
            "push": ops.sum(push),
            "offset": ops.sum(ops.where(targets.real, error, 0.0)),
        }

    def _heat(self, logits, targets):
        """The focal loss of each kind of corner, summed: [2]."""
        # p is kept from both ends, as published: from 1e-4 on.
        z = ops.clip(logits, -CERTAIN, CERTAIN)
        log_p = ops.minimum(z, 0.0) - ops.log1p(ops.exp(-ops.absolute(z)))
        log_q = log_p - z  # of 1 - p
        corner = ops.equal(targets.heat, 1.0)
        right = ops.exp(self.alpha * log_q) * log_p
        wrong = ops.power(1 - targets.heat, self.beta) * ops.exp(self.alpha * log_p) * log_q
        wrong = ops.where(ops.expand_dims(targets.counted, 3), wrong, 0.0)
        return -ops.sum(ops.where(corner, right, wrong), axis=(0, 1, 2, 4))

    @staticmethod
    def _at_corners(maps, cells):
        """[B, h, w, 2, Z] -> [B, M, 2, Z], at the ground truths' corners."""
        found = []
        for i in (0, 1):
            flat = ops.reshape(maps[..., i, :], (-1, maps.shape[1] * maps.shape[2], maps.shape[-1]))
            index = ops.expand_dims(cells[..., i], -1)
            found.append(ops.take_along_axis(flat, ops.repeat(index, maps.shape[-1], axis=-1), axis=1))
        return ops.stack(found, axis=2)

    def _embeddings(self, tags, real, count):
        """Eq. 4 and 5 of each image: tags [B, M, 2] -> [B] and [B]."""
        mean = ops.mean(tags, axis=-1)  # [B, M]
        pull = ops.sum(ops.square(tags - mean[..., None]), axis=-1)
        pull = ops.sum(ops.where(real, pull, 0.0), axis=1) / ops.maximum(count, 1.0)
        near = ops.maximum(self.margin - ops.absolute(mean[:, :, None] - mean[:, None, :]), 0.0)
        M = ops.shape(mean)[1]
        others = ops.arange(M)[:, None] != ops.arange(M)
        pairs = ops.logical_and(ops.logical_and(real[:, :, None], real[:, None, :]), others)
        push = ops.sum(ops.where(pairs, near, 0.0), axis=(1, 2)) / ops.maximum(count * (count - 1), 1.0)
        return pull, push
