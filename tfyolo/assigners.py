"""Assigners: which ground truth each candidate is matched to.

    def best_anchor(candidates, boxes, labels, *, ...) -> Assignment

No gradient flows through an Assignment.
"""

from typing import Any, Literal, NamedTuple

from keras import ops

from tfyolo.boxes import boxes_to_yxhw, ciou, iou, pairwise_iou, shape_iou, yxhw_to_boxes
from tfyolo.config.ranges import AboveOne, Count, NonNegative, Positive, Probability
from tfyolo.structures import BACKGROUND, IGNORE, Assignment


def in_cell(priors, boxes, labels):
    """Whether a candidate's cell holds the centre of a ground truth.

    Args:
        priors: Priors of N candidates.
        boxes: [B, M, 4] ground truths, in pixels of the network's input.
        labels: [B, M], -1 for padding.

    Returns:
        [B, N, M] bool; False for padding.
    """
    yx = ops.expand_dims(boxes_to_yxhw(boxes)[..., :2], 1)  # [B, 1, M, 2]
    offset = yx - priors.centers[None, :, None, :]  # [B, N, M, 2]
    half = priors.strides[None, :, None, None] / 2
    inside = ops.all(ops.logical_and(offset >= -half, offset < half), axis=-1)
    return ops.logical_and(inside, ops.expand_dims(labels, 1) >= 0)


def _best_per_gt(score, eligible):
    """Marks each ground truth's eligible candidate of the highest score: [B, N, M] -> [B, N, M] bool."""
    score = ops.where(eligible, score, -float("inf"))
    best = ops.argmax(score, axis=1)  # [B, M]
    chosen = ops.arange(ops.shape(score)[1])[None, :, None] == ops.cast(ops.expand_dims(best, 1), "int32")
    return ops.logical_and(chosen, eligible)


def _one_each(score, eligible, rounds=3):
    """One candidate for each ground truth, and none twice: [B, N, M] -> [B, N, M] bool.

    In each round every unmatched ground truth asks for the free candidate it scores highest, which takes the asker of
    the highest score.
    """
    matched = ops.zeros_like(eligible)
    rows = ops.arange(ops.shape(score)[2])
    for _ in range(rounds):
        taken = ops.logical_or(ops.any(matched, axis=1, keepdims=True), ops.any(matched, axis=2, keepdims=True))
        asked = _best_per_gt(score, ops.logical_and(eligible, ops.logical_not(taken)))
        winner = ops.argmax(ops.where(asked, score, -float("inf")), axis=2)  # [B, N]
        won = ops.cast(ops.expand_dims(winner, -1), "int32") == rows
        matched = ops.logical_or(matched, ops.logical_and(asked, won))
    return matched


def _assign(matched, score, otherwise):
    """Each candidate's match of the highest score: matched, score [B, N, M]; otherwise [B, N] -> [B, N] int32."""
    gt = ops.cast(ops.argmax(ops.where(matched, score, -float("inf")), axis=-1), "int32")
    return ops.where(ops.any(matched, axis=-1), gt, otherwise)


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
    priors = candidates.priors
    cell = in_cell(priors, boxes, labels)
    shape = shape_iou(priors.anchors, boxes_to_yxhw(boxes)[..., 2:])  # [B, N, M]
    matched = _one_each(shape, cell)
    free = ops.logical_not(ops.any(matched, axis=2, keepdims=True))
    matched = ops.logical_or(matched, ops.logical_and(free, ops.logical_and(cell, shape > match)))

    overlap = pairwise_iou(candidates.boxes, boxes)  # [B, N, M]
    overlap = ops.max(ops.where(ops.expand_dims(labels, 1) >= 0, overlap, 0.0), axis=-1)
    gt_index = _assign(matched, shape, otherwise=ops.where(overlap > ignore, IGNORE, BACKGROUND))
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
    priors = candidates.priors
    predicted = ops.stop_gradient(candidates.boxes)
    cell = in_cell(priors, boxes, labels)
    owner = ops.argmax(ops.cast(cell, "int32"), axis=-1)  # [B, N], the cell's first ground truth
    first = ops.cast(ops.expand_dims(owner, -1), "int32") == ops.arange(ops.shape(boxes)[1])[None, None, :]
    cell = ops.logical_and(cell, first)

    overlap = pairwise_iou(predicted, boxes)  # [B, N, M]
    distance = ops.sum(ops.square(ops.expand_dims(predicted, 2) - ops.expand_dims(boxes, 1)), axis=-1)
    score = ops.where(overlap > 0, overlap, -distance)
    matched = _best_per_gt(score, cell)
    gt_index = _assign(matched, score, otherwise=BACKGROUND)
    return Assignment(ops.stop_gradient(gt_index), ops.sum(ops.where(matched, overlap, 0.0), axis=-1))


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
    scores, M = ops.stop_gradient(candidates.scores), ops.shape(boxes)[1]
    N, K = scores.shape[1:]
    inside = _holds(ops.expand_dims(boxes, 2), candidates.priors.centers)  # [B, M, N]
    inside = ops.logical_and(inside, ops.expand_dims(labels >= 0, 2))

    pairs = _pairs(inside, candidates, boxes, labels)
    score = ops.take(ops.reshape(scores, (-1,)), pairs.rows * K + pairs.labels)
    overlap = ops.maximum(ciou(pairs.predicted, pairs.gt_boxes), 0.0)
    alignment = ops.power(score, alpha) * ops.power(overlap, beta)
    overlap = ops.scatter(pairs.index, overlap, ops.shape(inside))  # [B, M, N]
    alignment = ops.scatter(pairs.index, alignment, ops.shape(inside))  # [B, M, N]

    _, best = ops.top_k(alignment, min(topk, N))  # [B, M, k]
    claimed = ops.logical_and(_marked(best, inside), alignment > 0)
    claims = ops.sum(ops.cast(claimed, "int32"), axis=1)  # [B, N]
    gt = ops.where(claims > 1, ops.argmax(overlap, axis=1), ops.argmax(ops.cast(claimed, "int32"), axis=1))
    gt = ops.cast(gt, "int32")
    gt_index = ops.where(claims > 0, gt, BACKGROUND)

    def own(values):
        """[B, M, N] -> each candidate's value with its ground truth, and that ground truth's best: [B, N] both."""
        values = ops.take_along_axis(values, ops.expand_dims(gt, 1), axis=1)[:, 0]
        values = ops.where(claims > 0, values, 0.0)
        rows = ops.expand_dims(ops.arange(ops.shape(boxes)[0]), 1) * M + gt
        most = ops.segment_max(ops.reshape(values, (-1,)), ops.reshape(rows, (-1,)), ops.shape(boxes)[0] * M)
        return values, ops.take(most, rows)

    alignment, most_aligned = own(alignment)
    _, most_overlap = own(overlap)
    quality = alignment * most_overlap / (most_aligned + 1e-9)
    return Assignment(ops.stop_gradient(gt_index), ops.stop_gradient(quality))


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
    eligible = _near(candidates.priors, boxes, labels, cells, ratio)  # [B, M, N]
    gt_index = _cheapest(candidates, boxes, labels, eligible, topk, overlap_cost)
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
    priors, gt_boxes = candidates.priors, ops.expand_dims(boxes, 2)  # [B, M, 1, 4]
    inside = _holds(gt_boxes, priors.centers)  # [B, M, N]
    reach = radius * ops.expand_dims(priors.strides, -1)  # [N, 1]
    yx = boxes_to_yxhw(gt_boxes)[..., :2]
    central = _holds(ops.concatenate([yx - reach, yx + reach], axis=-1), priors.centers)  # [B, M, N]
    eligible = ops.logical_and(ops.logical_or(inside, central), ops.expand_dims(labels >= 0, 2))
    cost = ops.where(ops.logical_and(inside, central), 0.0, outside_cost)
    gt_index = _cheapest(candidates, boxes, labels, eligible, topk, overlap_cost, cost)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index, iou))


def _holds(boxes, points):
    """Whether boxes [..., N or 1, 4] hold points [N, 2], borders excluded: [..., N] bool."""
    first, last = ops.split(boxes, 2, axis=-1)
    return ops.all(ops.logical_and(points > first, points < last), axis=-1)


def _cheapest(candidates, boxes, labels, eligible, topk, overlap_cost, more=None):
    """SimOTA's choice among the eligible [B, M, N]: gt_index [B, N]. more: [B, M, N], a further cost of each pair.

    A ground truth takes its k cheapest candidates, where k is the sum of its topk largest IoUs, rounded down, at least
    1; a candidate that several claim takes the one it is cheapest for.
    """
    scores = ops.stop_gradient(candidates.scores)
    N, K = scores.shape[1:]
    pairs = _pairs(eligible, candidates, boxes, labels)
    overlap = iou(pairs.predicted, pairs.gt_boxes)  # [P]
    right = ops.one_hot(pairs.labels, K)
    p = ops.clip(ops.sqrt(ops.take(ops.reshape(scores, (-1, K)), pairs.rows, axis=0)), 1e-6, 1 - 1e-6)  # [P, K]
    cost = -ops.sum(right * ops.log(p) + (1 - right) * ops.log(1 - p), axis=-1) - overlap_cost * ops.log(overlap + 1e-8)
    if more is not None:
        b, m, n = ops.unstack(pairs.index, 3, axis=-1)
        cost = cost + ops.take(ops.reshape(more, (-1,)), (b * ops.shape(boxes)[1] + m) * N + n)
    # The cheapest is worth most; what is not eligible, nothing.
    worth = ops.scatter(pairs.index, 1 / (1 + cost), ops.shape(eligible))  # [B, M, N]
    overlap = ops.scatter(pairs.index, overlap, ops.shape(eligible))  # [B, M, N]

    best, _ = ops.top_k(overlap, min(topk, N))
    k = ops.maximum(ops.cast(ops.sum(best, axis=-1), "int32"), 1)  # [B, M]
    ranked, places = ops.top_k(worth, min(topk, N))
    taken = ops.logical_and(ops.arange(min(topk, N)) < ops.expand_dims(k, -1), ranked > 0)  # [B, M, topk]
    claimed = _marked(places, eligible, taken)
    worth = ops.where(claimed, worth, 0.0)
    gt = ops.cast(ops.argmax(worth, axis=1), "int32")  # [B, N]
    return ops.where(ops.any(claimed, axis=1), gt, BACKGROUND)


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
    eligible = ops.transpose(_near(candidates.priors, boxes, labels, cells, ratio), (0, 2, 1))
    shape = shape_iou(candidates.priors.anchors, boxes_to_yxhw(boxes)[..., 2:])  # [B, N, M]
    gt_index = _assign(eligible, shape, otherwise=BACKGROUND)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index, ciou))


def _near(priors, boxes, labels, cells, ratio):
    """Which candidates lie in a ground truth's cell or beside it, and have a similar anchor: [B, M, N] bool."""
    yxhw = ops.expand_dims(boxes_to_yxhw(boxes), 2)  # [B, M, 1, 4]
    offset = (yxhw[..., :2] - priors.centers) / ops.expand_dims(priors.strides, -1)  # [B, M, N, 2], in cells
    own = ops.logical_and(offset >= -0.5, offset < 0.5)
    # Along one axis it may lie in the next cell: in either, or in the half of it that is nearer.
    near = ops.logical_and(offset >= -1.5, offset < 1.5) if cells == 5 else ops.absolute(offset) < 1.0
    beside = ops.any(ops.logical_and(own, near[..., ::-1]), axis=-1)
    factor = ops.maximum(yxhw[..., 2:], 1e-6) / priors.anchors
    alike = ops.max(ops.maximum(factor, 1 / factor), axis=-1) < ratio
    return ops.logical_and(ops.logical_and(beside, alike), ops.expand_dims(labels >= 0, 2))


class _Pairs(NamedTuple):
    """Pairs of a ground truth and a candidate: P of all images together.

    Attributes:
        index: [P, 3] int32: image, ground truth, candidate.
        rows: [P] int32: the candidate's place in [B * N].
        predicted: [P, 4], the candidate's box; no gradient flows through it.
        gt_boxes: [P, 4], the ground truth's.
        labels: [P], the ground truth's.
    """

    index: Any
    rows: Any
    predicted: Any
    gt_boxes: Any
    labels: Any


def _pairs(eligible, candidates, boxes, labels):
    """The eligible pairs, [B, M, N] bool. Few candidates are eligible for a ground truth: only those are compared."""
    predicted = ops.stop_gradient(candidates.boxes)
    N, M = predicted.shape[1], ops.shape(boxes)[1]
    index = ops.stack([ops.cast(axis, "int32") for axis in ops.nonzero(eligible)], axis=-1)  # [P, 3]
    b, m, n = ops.unstack(index, 3, axis=-1)  # [P]
    return _Pairs(
        index=index,
        rows=b * N + n,
        predicted=ops.take(ops.reshape(predicted, (-1, 4)), b * N + n, axis=0),
        gt_boxes=ops.take(ops.reshape(boxes, (-1, 4)), b * M + m, axis=0),
        labels=ops.take(ops.reshape(labels, (-1,)), b * M + m),
    )


def _overlap_of(candidates, boxes, gt_index, measure):
    """An overlap, iou or ciou, of candidates with their ground truths, at least 0; 0 without one: [B, N]."""
    gt_boxes = ops.take_along_axis(boxes, ops.expand_dims(ops.maximum(gt_index, 0), -1), axis=1)
    overlap = ops.maximum(measure(candidates.boxes, gt_boxes), 0.0)
    return ops.stop_gradient(ops.where(gt_index >= 0, overlap, 0.0))


def _marked(index, like, chosen=True):
    """Positions in the last axis, each at most once: [B, M, k] -> [B, M, N] bool. chosen: which of them count."""
    b, m, k = ops.shape(index)
    rows = ops.broadcast_to(ops.reshape(ops.arange(b * m), (b, m, 1)), (b, m, k))
    places = ops.reshape(ops.stack([rows // m, rows % m, index], axis=-1), (-1, 3))
    marks = ops.reshape(ops.broadcast_to(ops.cast(chosen, "int32"), (b, m, k)), (-1,))
    return ops.scatter(places, marks, ops.shape(like)) > 0


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
    stand = yxhw_to_boxes(ops.concatenate([priors.centers, priors.anchors], axis=-1))
    overlap = pairwise_iou(ops.expand_dims(stand, 0), boxes)  # [B, N, M]
    real = ops.broadcast_to(ops.expand_dims(labels, 1) >= 0, ops.shape(overlap))
    forced = _one_each(overlap, ops.logical_and(real, overlap > 0))
    near = ops.logical_and(real, overlap > match)
    most = ops.max(ops.where(real, overlap, 0.0), axis=-1)
    otherwise = ops.where(most > ignore, IGNORE, BACKGROUND)
    # What is forced comes first, then what overlaps most.
    gt_index = _assign(ops.logical_or(near, forced), overlap + ops.cast(forced, "float32"), otherwise=otherwise)
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
