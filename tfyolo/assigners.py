"""Assigners: which ground truth each candidate is matched to.

    def best_anchor(candidates, boxes, labels, *, ...) -> Assignment

No gradient flows through an Assignment. Most compare pairs: each ground truth with the few candidates that it may be
matched to, P in all images together. What must see all pairs does so for a part of the ground truths at a time. So
memory does not grow with N x M.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops

from tfyolo.boxes import boxes_to_yxhw, ciou, iou, pairwise_iou, shape_iou, yxhw_to_boxes
from tfyolo.config.ranges import AboveOne, Count, NonNegative, Positive, Probability
from tfyolo.nn.chunks import over_chunks
from tfyolo.structures import BACKGROUND, IGNORE, Assignment

AT_ONCE = 2**18  # pairs of an image that are compared at a time, where all are
SCORES_AT_ONCE = 2**24  # of candidates and classes


class _Pairs(NamedTuple):
    """Pairs of a ground truth and a candidate, by image, ground truth, candidate.

    Attributes:
        gt: [P] int32, the ground truth's place in [B * M].
        rows: [P] int32, the candidate's place in [B * N].
        sizes: (B, M, N).
    """

    gt: Any
    rows: Any
    sizes: tuple

    def of_gt(self, values):
        """[B, M, ...] -> [P, ...]."""
        return ops.take(ops.reshape(values, (-1, *values.shape[2:])), self.gt, axis=0)

    def of_candidate(self, values):
        """[B, N, ...] -> [P, ...]; no gradient flows through it."""
        return ops.take(ops.reshape(ops.stop_gradient(values), (-1, *values.shape[2:])), self.rows, axis=0)

    def of_class(self, scores, labels):
        """The candidates' scores of the ground truths' classes: [B, N, K], [B, M] -> [P]."""
        # The places of B * N * K may need more than 32 bits.
        places = ops.cast(self.rows, "int64") * scores.shape[-1] + ops.cast(self.of_gt(labels), "int64")
        return ops.take(ops.reshape(ops.stop_gradient(scores), (-1,)), places)

    def of_prior(self, values):
        """[N, ...] -> [P, ...]."""
        return ops.take(values, self.rows % self.sizes[2], axis=0)

    def where(self, chosen):
        """Those that are chosen, [P] bool."""
        places = ops.cast(ops.nonzero(chosen)[0], "int32")
        return _Pairs(ops.take(self.gt, places), ops.take(self.rows, places), self.sizes)

    def best_of_gt(self, values, chosen=True):
        """Marks each ground truth's chosen candidate of the highest value, the first of several: [P] -> [P] bool."""
        return _first_best(values, chosen, self.gt, self.sizes[0] * self.sizes[1])

    def best_of_candidate(self, values, chosen=True):
        """Marks each candidate's chosen ground truth of the highest value, the first of several: [P] -> [P] bool."""
        return _first_best(values, chosen, self.rows, self.sizes[0] * self.sizes[2])

    def any_of_gt(self, chosen):
        """Whether one of the ground truth's pairs is chosen: [P] bool -> [P] bool."""
        return _any(chosen, self.gt, self.sizes[0] * self.sizes[1])

    def any_of_candidate(self, chosen):
        """Whether one of the candidate's pairs is chosen: [P] bool -> [P] bool."""
        return _any(chosen, self.rows, self.sizes[0] * self.sizes[2])

    def rank(self, values):
        """A pair's place among those of its ground truth, highest first, of several the first: [P] -> [P] int32."""
        order = ops.argsort(-values)
        order = ops.take(order, ops.argsort(ops.take(self.gt, order)))  # stable: still the highest first
        places = ops.arange(ops.shape(self.gt)[0], dtype="int32")
        first = -ops.segment_max(-places, self.gt, self.sizes[0] * self.sizes[1])
        return ops.scatter(order[:, None], places - ops.take(first, self.gt), ops.shape(places))

    def assigned(self, chosen, otherwise=BACKGROUND):
        """gt_index [B, N] int32 of chosen pairs, at most one of each candidate. otherwise: for those without one."""
        B, M, N = self.sizes
        index = ops.segment_max(ops.where(chosen, self.gt % ops.maximum(M, 1), -1), self.rows, B * N)
        index = ops.reshape(index, (B, N))
        return ops.where(index >= 0, index, otherwise)

    def spread(self, values, chosen):
        """Values of chosen pairs, at most one of each candidate, at the candidate: [P] -> [B, N]; 0 elsewhere."""
        B, _, N = self.sizes
        return ops.reshape(ops.segment_sum(ops.where(chosen, values, 0.0), self.rows, B * N), (B, N))


def _first_best(values, chosen, segments, count):
    values, places = ops.where(chosen, values, -float("inf")), ops.arange(ops.shape(values)[0], dtype="int32")
    best = ops.logical_and(chosen, values == ops.take(ops.segment_max(values, segments, count), segments))
    # A negative place: the highest is the first.
    first = ops.segment_max(ops.where(best, -places, -(2**31 - 1)), segments, count)
    return ops.logical_and(best, -places == ops.take(first, segments))


def _any(chosen, segments, count):
    return ops.take(ops.segment_max(ops.cast(chosen, "int32"), segments, count), segments) > 0


def _grids(priors):
    """[(the cells' centres' y [h], their x [w], candidates of a cell A, stride)] of each level, in NumPy."""
    found = []
    _, starts = np.unique(priors.strides, return_index=True)
    for own in np.split(np.arange(len(priors.strides)), np.sort(starts)[1:]):
        y, x = (np.unique(priors.centers[own, axis]) for axis in (0, 1))
        each = len(own) // (len(y) * len(x))
        whole = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2).repeat(each, axis=0)
        if not np.array_equal(whole, priors.centers[own]):
            raise ValueError("expected priors that are whole grids, level by level, as make_priors gives them")
        found.append((y, x, each, priors.strides[own[0]]))
    return found


def _between(candidates, boxes, labels, corners):
    """The pairs of a ground truth and the candidates whose cell's centre lies between two points, borders excluded.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths.
        labels: [B, M], -1 for rows that are padding or are not learned: they have no pairs.
        corners: stride -> (first [B, M, 2], last [B, M, 2]) (y, x), on the level of that stride.

    Returns:
        _Pairs.
    """
    B, M = ops.shape(boxes)[:2]
    levels, counts, begins, widths = _grids(candidates.priors), [], [], []
    for y, x, each, stride in levels:
        first, last = corners(stride)
        begin, sides = [], []
        for axis, centers in enumerate((y, x)):
            before = ops.sum(ops.cast(centers <= first[..., axis, None], "int32"), axis=-1)  # [B, M]
            begin.append(before)
            sides.append(ops.maximum(ops.sum(ops.cast(centers < last[..., axis, None], "int32"), axis=-1) - before, 0))
        begins.append(begin)
        widths.append(sides[1] * each)  # [B, M], candidates in a row
        counts.append(ops.where(labels >= 0, sides[0] * sides[1] * each, 0))

    # A segment is a ground truth on a level, S = B * M * L. Each is a rectangle of cells, row by row.
    def of_segments(values):
        return ops.reshape(ops.stack(values, axis=-1), (-1,))

    counts = of_segments(counts)
    ends = ops.cumsum(counts)
    place = ops.arange(ops.sum(counts), dtype="int32")  # [P]
    segment = ops.cast(ops.searchsorted(ends, place, side="right"), "int32")
    place = place - ops.take(ends - counts, segment)
    width = ops.maximum(ops.take(of_segments(widths), segment), 1)
    across = np.array([len(x) * each for _, x, each, _ in levels], "int32")  # candidates in a whole row of a level
    bases = np.cumsum([0, *(len(y) * row for (y, *_), row in zip(levels, across, strict=True))], dtype="int32")
    top = of_segments([begin[0] for begin in begins])
    left = of_segments([begin[1] * each for begin, (_, _, each, _) in zip(begins, levels, strict=True)])
    level, gt = segment % len(levels), segment // len(levels)
    n = ops.take(bases, level) + (ops.take(top, segment) + place // width) * ops.take(across, level)
    n = n + ops.take(left, segment) + place % width
    return _Pairs(gt, gt // ops.maximum(M, 1) * bases[-1] + n, (B, M, int(bases[-1])))


def _in_cell(candidates, boxes, labels):
    """The _Pairs where a candidate's cell holds the ground truth's centre."""
    yx = boxes_to_yxhw(boxes)[..., :2]
    near = _between(candidates, boxes, labels, lambda stride: (yx - stride, yx + stride))
    offset = near.of_gt(yx) - near.of_prior(candidates.priors.centers)  # [P, 2]
    half = near.of_prior(candidates.priors.strides)[:, None] / 2
    return near.where(ops.all(ops.logical_and(offset >= -half, offset < half), axis=-1))


def _alike(pairs, candidates, boxes):
    """The IoU of the shapes of a candidate's anchor and a ground truth, of _Pairs: [P]."""
    anchors, hw = pairs.of_prior(candidates.priors.anchors), pairs.of_gt(boxes_to_yxhw(boxes))[:, 2:]
    return shape_iou(anchors[:, None], hw[:, None])[:, 0, 0]


def _one_each(pairs, score, rounds=3):
    """One candidate for each ground truth, and none twice: [P] -> [P] bool.

    In each round every unmatched ground truth asks for the free candidate it scores highest, which takes the asker of
    the highest score.
    """
    matched = ops.zeros_like(score, dtype="bool")
    for _ in range(rounds):
        taken = ops.logical_or(pairs.any_of_candidate(matched), pairs.any_of_gt(matched))
        asked = pairs.best_of_gt(score, ops.logical_not(taken))
        matched = ops.logical_or(matched, pairs.best_of_candidate(score, asked))
    return matched


def _most_overlap(candidates, boxes, labels):
    """Each candidate's largest IoU with any ground truth: [B, N]."""

    def part(most, boxes, labels):
        overlap = pairwise_iou(predicted, boxes)  # [B, N, m]
        return ops.maximum(most, ops.max(ops.where(ops.expand_dims(labels, 1) >= 0, overlap, 0.0), axis=-1)), ()

    predicted = ops.stop_gradient(candidates.boxes)
    N = predicted.shape[1]
    return over_chunks(part, ops.zeros_like(predicted[..., 0]), [(boxes, 0), (labels, -1)], max(AT_ONCE // N, 1))[0]


def best_anchor(candidates, boxes, labels, *, ignore: Probability = 0.7, match: Probability = 1.0):
    """YOLOv3's: a ground truth is matched to the anchor of the most similar shape in the cell of its centre.

    If several ground truths want one anchor, it takes the most similar and the others take their next best. In Darknet
    the last in the file wins and the others are never learned: one in twenty, where small images hold many small
    objects. The quality is 1.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        ignore: a background candidate whose box overlaps any ground truth by more than this IoU is ignored.
        match: further anchors of the cell are matched, if their shape's IoU is more than this (Darknet's iou_thresh).

    Returns:
        Assignment [B, N].

    Source: Redmon and Farhadi 2018, arXiv:1804.02767, section 2.1.
    """
    pairs = _in_cell(candidates, boxes, labels)
    shape = _alike(pairs, candidates, boxes)
    matched = _one_each(pairs, shape)
    more = ops.logical_and(ops.logical_not(pairs.any_of_candidate(matched)), shape > match)
    matched = pairs.best_of_candidate(shape, ops.logical_or(matched, more))
    overlap = _most_overlap(candidates, boxes, labels)
    gt_index = pairs.assigned(matched, otherwise=ops.where(overlap > ignore, IGNORE, BACKGROUND))
    return Assignment(ops.stop_gradient(gt_index), ops.cast(gt_index >= 0, "float32"))


def responsible_cell(candidates, boxes, labels):
    """YOLOv1's: a ground truth is matched to the box that overlaps it most in the cell of its centre.

    If none overlaps it, the one with the smallest squared distance of the sides. A cell is matched to one ground truth,
    the first in the list. The quality is the IoU.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.

    Returns:
        Assignment [B, N].

    Source: Redmon et al. 2016, arXiv:1506.02640, section 2.2.
    """
    pairs = _in_cell(candidates, boxes, labels)
    predicted, gt_boxes = pairs.of_candidate(candidates.boxes), pairs.of_gt(boxes)  # [P, 4]
    first = pairs.best_of_candidate(ops.zeros_like(predicted[:, 0]))
    overlap = iou(predicted, gt_boxes)
    score = ops.where(overlap > 0, overlap, -ops.sum(ops.square(predicted - gt_boxes), axis=-1))
    matched = pairs.best_of_gt(score, first)
    quality = pairs.spread(overlap, matched)
    return Assignment(ops.stop_gradient(pairs.assigned(matched)), ops.stop_gradient(quality))


def task_aligned(candidates, boxes, labels, *, topk: Count = 10, alpha: NonNegative = 0.5, beta: NonNegative = 6.0):
    """TOOD's assigner, as YOLOv8 has it: alignment is score ^ alpha * overlap ^ beta.

    The overlap is CIoU, at least 0. Eligible are the candidates whose cell's centre lies in a ground truth and that
    overlap it; the topk best aligned are matched. A candidate that several ground truths claim takes the one it
    overlaps most, of all that its cell's centre lies in. A ground truth that holds no centre is not learned. The
    quality is the alignment, scaled so that a ground truth's best aligned candidate has the best overlap among its own.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        topk: the most candidates of a ground truth.
        alpha: the power of the score, from 0 up.
        beta: the power of the overlap, from 0 up.

    Returns:
        Assignment [B, N].

    Source: Feng et al. 2021, arXiv:2108.07755, section 3.2.
    """
    first, last = ops.split(boxes, 2, axis=-1)
    pairs = _between(candidates, boxes, labels, lambda stride: (first, last))
    score = pairs.of_class(candidates.scores, labels)
    overlap = ops.maximum(ciou(pairs.of_candidate(candidates.boxes), pairs.of_gt(boxes)), 0.0)
    alignment = ops.power(score, alpha) * ops.power(overlap, beta)

    claimed = ops.logical_and(pairs.rank(alignment) < topk, alignment > 0)
    claims = pairs.spread(ops.ones_like(alignment), claimed)  # [B, N]
    several = pairs.of_candidate(claims[..., None])[:, 0] > 1
    matched = ops.where(
        several, ops.logical_and(pairs.best_of_candidate(overlap), pairs.any_of_candidate(claimed)), claimed
    )

    def best(values):
        """The best value of a pair's ground truth, of the matched ones: [P] -> [P]."""
        most = ops.segment_max(ops.where(matched, values, 0.0), pairs.gt, pairs.sizes[0] * pairs.sizes[1])
        return ops.take(most, pairs.gt)

    quality = pairs.spread(alignment * best(overlap) / (best(alignment) + 1e-9), matched)
    return Assignment(ops.stop_gradient(pairs.assigned(matched)), ops.stop_gradient(quality))


def ota(
    candidates,
    boxes,
    labels,
    *,
    cells: Literal[3, 5] = 3,
    ratio: AboveOne = 4.0,
    topk: Count = 10,
    overlap_cost: NonNegative = 3.0,
):
    """YOLOv7's assigner, after SimOTA: each ground truth takes its k cheapest candidates.

    Eligible are the anchors of a similar shape in the cell of the ground truth's centre and in those beside it. k is
    the sum of the topk largest IoUs, rounded down, at least 1. The cost is the binary cross-entropy of the roots of the
    scores and the ground truth's class, plus overlap_cost times -log(IoU). A candidate that several ground truths claim
    takes the one it is cheapest for. The quality is the CIoU, at least 0.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        cells: 3: the centre's cell and the two nearest beside, above or below it; 5: it and all four.
        ratio: an anchor's sides are less than so many times longer or shorter than the ground truth's.
        topk: how many IoUs k is the sum of.
        overlap_cost: the weight of -log(IoU).

    Returns:
        Assignment [B, N].

    Source: Wang et al. 2022, arXiv:2207.02696, section 4.2; Ge et al. 2021, arXiv:2107.08430, section 2.1.
    """
    pairs = _near(candidates, boxes, labels, cells, ratio)
    gt_index = _cheapest(candidates, boxes, labels, pairs, topk, overlap_cost)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index, ciou))


def simota(
    candidates,
    boxes,
    labels,
    *,
    radius: Positive = 2.5,
    topk: Count = 10,
    overlap_cost: NonNegative = 3.0,
    outside_cost: NonNegative = 100_000.0,
):
    """YOLOX's assigner: each ground truth takes its k cheapest candidates, as in `ota`.

    Eligible are the candidates whose cell's centre lies in the ground truth, or in a square about its centre. The cost
    is that of `ota`, plus outside_cost where it does not lie in both. The quality is the IoU. The code published with
    the paper also lets a ground truth take a candidate that is eligible for another alone.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        radius: half the side of the square, in the candidate's cells.
        topk: how many IoUs k is the sum of.
        overlap_cost: the weight of -log(IoU).
        outside_cost: of a candidate that lies in one of the two alone.

    Returns:
        Assignment [B, N].

    Source: Ge et al. 2021, arXiv:2107.08430, section 2.1, "SimOTA"; the code published with it.
    """
    yx, (first, last) = boxes_to_yxhw(boxes)[..., :2], ops.split(boxes, 2, axis=-1)

    def hull(stride):
        return ops.minimum(first, yx - radius * stride), ops.maximum(last, yx + radius * stride)

    pairs = _between(candidates, boxes, labels, hull)
    centers, yx = pairs.of_prior(candidates.priors.centers), pairs.of_gt(yx)  # [P, 2]
    reach = radius * pairs.of_prior(candidates.priors.strides)[:, None]
    inside = _holds(pairs.of_gt(boxes), centers)
    central = _holds(ops.concatenate([yx - reach, yx + reach], axis=-1), centers)
    either = ops.logical_or(inside, central)
    cost = ops.where(ops.logical_and(inside, central), 0.0, outside_cost)[either]
    gt_index = _cheapest(candidates, boxes, labels, pairs.where(either), topk, overlap_cost, cost)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index, iou))


def _holds(boxes, points):
    """Whether boxes [P, 4] hold points [P, 2], borders excluded: [P] bool."""
    first, last = ops.split(boxes, 2, axis=-1)
    return ops.all(ops.logical_and(points > first, points < last), axis=-1)


def _cheapest(candidates, boxes, labels, pairs, topk, overlap_cost, more=0.0):
    """SimOTA's choice among eligible _Pairs: gt_index [B, N]. more: [P], a further cost of each.

    A ground truth takes its k cheapest candidates, where k is the sum of its topk largest IoUs, rounded down, at least
    1; a candidate that several claim takes the one it is cheapest for.
    """
    overlap = iou(pairs.of_candidate(candidates.boxes), pairs.of_gt(boxes))  # [P]
    cost = _class_cost(candidates, labels, pairs) - overlap_cost * ops.log(overlap + 1e-8) + more
    worth = 1 / (1 + cost)  # the cheapest is worth most
    rank = pairs.rank(overlap)
    among = ops.nonzero(rank < topk)[0]
    places = ops.stack([ops.take(pairs.gt, among), ops.take(rank, among)], axis=-1)
    best = ops.scatter(places, ops.take(overlap, among), (pairs.sizes[0] * pairs.sizes[1], topk))
    k = ops.maximum(ops.cast(ops.sum(best, axis=-1), "int32"), 1)  # [B * M]
    claimed = ops.logical_and(pairs.rank(worth) < ops.minimum(ops.take(k, pairs.gt), topk), worth > 0)
    return pairs.assigned(pairs.best_of_candidate(worth, claimed))


def _class_cost(candidates, labels, pairs):
    """The binary cross-entropy of the roots of a candidate's scores and a ground truth's class, of _Pairs: [P]."""
    B, _, N = pairs.sizes
    scores = ops.reshape(ops.stop_gradient(candidates.scores), (-1, candidates.scores.shape[-1]))

    def root(scores):
        return ops.clip(ops.sqrt(scores), 1e-6, 1 - 1e-6)

    # Of each candidate once, as if it had no class; then of the one class that a ground truth has.
    own = ops.nonzero(ops.segment_max(ops.ones_like(pairs.rows), pairs.rows, B * N) > 0)[0]
    (none,) = over_chunks(
        lambda _, rows: ((), (ops.sum(ops.log(1 - root(ops.take(scores, rows, axis=0))), axis=-1),)),
        (),
        [(ops.expand_dims(own, 0), 0)],
        max(SCORES_AT_ONCE // scores.shape[-1], 1),
        ("float32",),
    )[1]
    none = ops.scatter(ops.expand_dims(own, -1), none[0], (B * N,))
    p = root(pairs.of_class(candidates.scores, labels))
    return ops.log(1 - p) - ops.log(p) - ops.take(none, pairs.rows)


def anchor_ratio(candidates, boxes, labels, *, cells: Literal[3, 5] = 3, ratio: AboveOne = 4.0):
    """YOLOv5's: every candidate that is eligible for `ota` is matched.

    One that several ground truths claim takes the one of the most similar shape. The quality is the CIoU, at least 0.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        cells: 3 or 5, as for `ota`.
        ratio: as for `ota`, above 1.

    Returns:
        Assignment [B, N].
    """
    pairs = _near(candidates, boxes, labels, cells, ratio)
    gt_index = pairs.assigned(pairs.best_of_candidate(_alike(pairs, candidates, boxes)))
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index, ciou))


def _near(candidates, boxes, labels, cells, ratio):
    """The _Pairs where a candidate lies in the ground truth's cell or beside it, and has a similar anchor."""
    yx = boxes_to_yxhw(boxes)[..., :2]
    pairs = _between(candidates, boxes, labels, lambda stride: (yx - 2 * stride, yx + 2 * stride))
    centers, strides, anchors = map(pairs.of_prior, candidates.priors)
    yxhw = pairs.of_gt(boxes_to_yxhw(boxes))  # [P, 4]
    offset = (yxhw[:, :2] - centers) / strides[:, None]  # [P, 2], in cells
    own = ops.logical_and(offset >= -0.5, offset < 0.5)
    # Along one axis it may lie in the next cell: in either, or in the half of it that is nearer.
    near = ops.logical_and(offset >= -1.5, offset < 1.5) if cells == 5 else ops.absolute(offset) < 1.0
    beside = ops.any(ops.logical_and(own, near[:, ::-1]), axis=-1)
    factor = ops.maximum(yxhw[:, 2:], 1e-6) / anchors
    alike = ops.all(ops.maximum(factor, 1 / factor) < ratio, axis=-1)
    return pairs.where(ops.logical_and(beside, alike))


def _overlap_of(candidates, boxes, gt_index, measure):
    """An overlap, iou or ciou, of candidates with their ground truths, at least 0; 0 without one: [B, N]."""
    boxes = ops.pad(boxes, ((0, 0), (0, 1), (0, 0)))  # a row for those without one, where there is none at all
    gt_boxes = ops.take_along_axis(boxes, ops.expand_dims(ops.maximum(gt_index, 0), -1), axis=1)
    overlap = ops.maximum(measure(candidates.boxes, gt_boxes), 0.0)
    return ops.stop_gradient(ops.where(gt_index >= 0, overlap, 0.0))


def max_iou(candidates, boxes, labels, *, match: Probability = 0.5, ignore: Probability = 0.5):
    """SSD's: a prior is matched to the ground truth that it overlaps most.

    Each ground truth also takes the prior that overlaps it most, whatever else that one overlaps; of two that want one
    prior, the other takes its next best, up to the third. The quality is 1.

    Args:
        candidates: Candidates, N of each image.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for rows that are padding or are not learned.
        match: the IoU above which a prior is matched.
        ignore: an unmatched prior that overlaps a ground truth by more than this IoU is ignored.

    Returns:
        Assignment [B, N].

    Source: Liu et al. 2016, arXiv:1512.02325, section 2.2.
    """
    priors = candidates.priors
    stand = yxhw_to_boxes(ops.concatenate([priors.centers, priors.anchors], axis=-1))  # [N, 4]
    (B, M), N = ops.shape(labels), len(priors.strides)

    def survey(boxes, labels, rows, free):
        """((each prior's largest overlap, whose it is), (each ground truth's with a free prior, which that is))."""

        def part(carried, boxes, labels, rows):
            most, owner = carried  # [B, N]
            overlap = ops.where(ops.expand_dims(labels, 1) >= 0, pairwise_iou(stand, boxes), 0.0)  # [B, N, m]
            here = ops.max(overlap, axis=-1)
            whose = ops.take_along_axis(rows, ops.argmax(overlap, axis=-1), axis=1)
            overlap = ops.where(ops.expand_dims(free, -1), overlap, 0.0)
            best = ops.max(overlap, axis=1), ops.cast(ops.argmax(overlap, axis=1), "int32")  # [B, m]
            return (ops.maximum(most, here), ops.where(here > most, whose, owner)), best

        none = ops.zeros((B, N)), ops.zeros((B, N), "int32")
        items = (boxes, 0), (labels, -1), (rows, 0)
        return over_chunks(part, none, items, max(AT_ONCE // N, 1), ("float32", "int32"))

    rows = ops.broadcast_to(ops.arange(M), (B, M))
    forced, left, nearest = ops.full((B, N), -1, "int32"), labels >= 0, None
    for _ in range(3):  # as _one_each
        order = ops.argsort(ops.where(left, 0, 1), axis=1)[:, : ops.max(ops.sum(ops.cast(left, "int32"), axis=1))]
        gt = ops.take_along_axis(rows, order, axis=1)
        own = ops.where(ops.take_along_axis(left, order, axis=1), ops.take_along_axis(labels, order, axis=1), -1)
        own_boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
        first, (overlap, asked) = survey(own_boxes, own, gt, forced < 0)
        nearest = nearest or first
        asked = ops.reshape(ops.arange(B)[:, None] * N + asked, (-1,))
        places = ops.reshape(ops.arange(B)[:, None] * M + gt, (-1,))
        overlap, gt = ops.reshape(overlap, (-1,)), ops.reshape(gt, (-1,))
        won = ops.where(_first_best(overlap, overlap > 0, asked, B * N), gt, -1)
        forced = ops.maximum(forced, ops.reshape(ops.segment_max(won, asked, B * N), (B, N)))
        taken = ops.segment_max(ops.cast(won >= 0, "int32"), places, B * M)
        left = ops.logical_and(left, ops.reshape(taken, (B, M)) <= 0)
    most, owner = nearest
    gt_index = ops.where(most > match, owner, ops.where(most > ignore, IGNORE, BACKGROUND))
    gt_index = ops.where(forced >= 0, forced, gt_index)  # what is forced comes first, then what overlaps most
    return Assignment(ops.stop_gradient(gt_index), ops.cast(gt_index >= 0, "float32"))


ASSIGNERS = {
    "best_anchor": best_anchor,
    "responsible_cell": responsible_cell,
    "task_aligned": task_aligned,
    "ota": ota,
    "simota": simota,
    "anchor_ratio": anchor_ratio,
    "max_iou": max_iou,
}
