"""Assigners: which truth each candidate answers for.

    def best_anchor(candidates, boxes, labels, *, ...) -> Assignment

boxes: [B, M, 4] in pixels of the network's input; labels: [B, M], -1 for rows that hold nothing to learn. No gradient flows through.
"""

import functools
from typing import Literal

from keras import ops

from tfyolo.boxes import boxes_to_yxhw, ciou, iou, pairwise_iou, shape_iou, yxhw_to_boxes
from tfyolo.config.ranges import AboveOne, Count, NonNegative, Probability
from tfyolo.structures import BACKGROUND, IGNORE, Assignment


def in_cell(priors, boxes, labels):
    """Whether a candidate's cell holds the centre of a truth: [B, N, M] bool. False for padding."""
    yx = ops.expand_dims(boxes_to_yxhw(boxes)[..., :2], 1)  # [B, 1, M, 2]
    offset = yx - priors.centers[None, :, None, :]  # [B, N, M, 2]
    half = priors.strides[None, :, None, None] / 2
    inside = ops.all(ops.logical_and(offset >= -half, offset < half), axis=-1)
    return ops.logical_and(inside, ops.expand_dims(labels, 1) >= 0)


def _best_per_truth(score, eligible):
    """The one candidate with the highest score among the eligible of each truth: [B, N, M] -> [B, N, M] bool."""
    score = ops.where(eligible, score, -float("inf"))
    best = ops.argmax(score, axis=1)  # [B, M]
    chosen = ops.arange(ops.shape(score)[1])[None, :, None] == ops.cast(ops.expand_dims(best, 1), "int32")
    return ops.logical_and(chosen, eligible)


def _one_each(score, eligible, rounds=3):
    """One candidate for each truth, and none twice: [B, N, M] -> [B, N, M] bool.

    In each round every truth without a candidate asks for the free one with its highest score, which takes the asker of the highest.
    """
    matched = ops.zeros_like(eligible)
    truths = ops.arange(ops.shape(score)[2])
    for _ in range(rounds):
        taken = ops.logical_or(ops.any(matched, axis=1, keepdims=True), ops.any(matched, axis=2, keepdims=True))
        asked = _best_per_truth(score, ops.logical_and(eligible, ops.logical_not(taken)))
        winner = ops.argmax(ops.where(asked, score, -float("inf")), axis=2)  # [B, N]
        won = ops.cast(ops.expand_dims(winner, -1), "int32") == truths
        matched = ops.logical_or(matched, ops.logical_and(asked, won))
    return matched


def _assign(matched, score, otherwise):
    """Each candidate takes the matched truth with the highest score: matched, score [B, N, M]; otherwise [B, N] -> [B, N] int32."""
    truth = ops.cast(ops.argmax(ops.where(matched, score, -float("inf")), axis=-1), "int32")
    return ops.where(ops.any(matched, axis=-1), truth, otherwise)


def best_anchor(candidates, boxes, labels, *, ignore: Probability = 0.7, match: Probability = 1.0):
    """YOLOv3: the anchor whose shape fits a truth best answers for it, in the cell of its centre (arXiv:1804.02767, section 2.1).

    Of several truths that want one anchor it goes to the one it fits best, the others take their next best: in Darknet, the last in
    the file wins and the others are never learned, which touches one in twenty where small pictures hold many small objects.
    ignore: a background candidate whose box overlaps any truth by more than this is not told that it holds nothing.
    match: further anchors of the cell whose shape overlaps the truth's by more than this answer too (Darknet's iou_thresh).
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
    """YOLOv1: of the boxes of the cell that holds a truth's centre, the one that overlaps it most (arXiv:1506.02640, section 2.2).

    If none overlaps it, the one with the smallest distance. A cell answers for one truth, the first in the list. The objectness to be
    learned is the overlap.
    """
    priors = candidates.priors
    predicted = ops.stop_gradient(candidates.boxes)
    cell = in_cell(priors, boxes, labels)
    owner = ops.argmax(ops.cast(cell, "int32"), axis=-1)  # [B, N], the first truth of the cell
    first = ops.cast(ops.expand_dims(owner, -1), "int32") == ops.arange(ops.shape(boxes)[1])[None, None, :]
    cell = ops.logical_and(cell, first)

    overlap = pairwise_iou(predicted, boxes)  # [B, N, M]
    distance = ops.sum(ops.square(ops.expand_dims(predicted, 2) - ops.expand_dims(boxes, 1)), axis=-1)
    score = ops.where(overlap > 0, overlap, -distance)
    matched = _best_per_truth(score, cell)
    gt_index = _assign(matched, score, otherwise=BACKGROUND)
    return Assignment(ops.stop_gradient(gt_index), ops.sum(ops.where(matched, overlap, 0.0), axis=-1))


def task_aligned(candidates, boxes, labels, *, topk: Count = 10, alpha: NonNegative = 0.5, beta: NonNegative = 6.0):
    """TOOD's assigner as YOLOv8 has it (Feng et al. 2021, arXiv:2108.07755, section 3.2): score ^ alpha * overlap ^ beta.

    Of the candidates whose cell's centre lies in a truth and that overlap it, the topk best aligned ones answer for it; overlap is
    CIoU, cut at 0. A candidate that several truths claim goes to the one it overlaps most, of all that its cell's centre lies in.
    The quality is the alignment, scaled so that a truth's best aligned candidate is worth the best overlap among its own. A truth
    that holds no centre is not learned.
    """
    scores, M = ops.stop_gradient(candidates.scores), ops.shape(boxes)[1]
    N, K = scores.shape[1:]
    y, x = ops.unstack(candidates.priors.centers, 2, axis=-1)  # [N]
    y1, x1, y2, x2 = ops.unstack(ops.expand_dims(boxes, 2), 4, axis=-1)  # [B, M, 1]
    inside = [y > y1, y < y2, x > x1, x < x2, ops.expand_dims(labels >= 0, 2)]
    inside = functools.reduce(ops.logical_and, inside)  # [B, M, N]

    pairs, rows, theirs, truths, label = _pairs(inside, candidates, boxes, labels)
    score = ops.take(ops.reshape(scores, (-1,)), rows * K + label)
    overlap = ops.maximum(ciou(theirs, truths), 0.0)
    alignment = ops.power(score, alpha) * ops.power(overlap, beta)
    overlap, alignment = (ops.scatter(pairs, values, ops.shape(inside)) for values in (overlap, alignment))  # [B, M, N]

    _, best = ops.top_k(alignment, min(topk, N))  # [B, M, k]
    claimed = ops.logical_and(_marked(best, inside), alignment > 0)
    claims = ops.sum(ops.cast(claimed, "int32"), axis=1)  # [B, N]
    truth = ops.where(claims > 1, ops.argmax(overlap, axis=1), ops.argmax(ops.cast(claimed, "int32"), axis=1))
    truth = ops.cast(truth, "int32")
    gt_index = ops.where(claims > 0, truth, BACKGROUND)

    def own(values):
        """[B, M, N] -> of each candidate with its truth, and the best of that truth: [B, N] both."""
        values = ops.take_along_axis(values, ops.expand_dims(truth, 1), axis=1)[:, 0]
        values = ops.where(claims > 0, values, 0.0)
        rows = ops.expand_dims(ops.arange(ops.shape(boxes)[0]), 1) * M + truth
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
    """YOLOv7's assigner (Wang et al. 2022, arXiv:2207.02696, section 4.2), after SimOTA (Ge et al. 2021, arXiv:2107.08430, section 2.1).

    What can answer for a truth: the anchors whose sides are less than `ratio` times longer or shorter than its own, in the cell of its
    centre and the two nearest beside, above or below it (cells: 3) or all four (5). Of these the k cheapest do, where k is the sum of
    the topk largest overlaps (IoU), in whole numbers and at least 1. The cost is the binary cross-entropy of the roots of the scores
    and the truth's class, plus overlap_cost times -log(IoU). A candidate that several truths claim goes to the one it is cheapest for.
    The quality is the CIoU, cut at 0.
    """
    scores = ops.stop_gradient(candidates.scores)
    N, K = scores.shape[1:]
    eligible = _near(candidates.priors, boxes, labels, cells, ratio)  # [B, M, N]
    pairs, rows, theirs, truths, label = _pairs(eligible, candidates, boxes, labels)
    overlap = iou(theirs, truths)
    right = ops.one_hot(label, K)
    p = ops.clip(ops.sqrt(ops.take(ops.reshape(scores, (-1, K)), rows, axis=0)), 1e-6, 1 - 1e-6)
    cost = -ops.sum(right * ops.log(p) + (1 - right) * ops.log(1 - p), axis=-1) - overlap_cost * ops.log(overlap + 1e-8)
    # The cheapest is worth most; what cannot answer, nothing.
    worth = ops.scatter(pairs, 1 / (1 + cost), ops.shape(eligible))
    overlap = ops.scatter(pairs, overlap, ops.shape(eligible))

    best, _ = ops.top_k(overlap, min(topk, N))
    k = ops.maximum(ops.cast(ops.sum(best, axis=-1), "int32"), 1)  # [B, M]
    ranked, places = ops.top_k(worth, min(topk, N))
    taken = ops.logical_and(ops.arange(min(topk, N)) < ops.expand_dims(k, -1), ranked > 0)  # [B, M, topk]
    claimed = _marked(places, eligible, taken)
    worth = ops.where(claimed, worth, 0.0)
    truth = ops.cast(ops.argmax(worth, axis=1), "int32")  # [B, N]
    gt_index = ops.where(ops.any(claimed, axis=1), truth, BACKGROUND)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index))


def anchor_ratio(candidates, boxes, labels, *, cells: Literal[3, 5] = 3, ratio: AboveOne = 4.0):
    """Every anchor of a shape like the truth's answers, in its centre's cell and those beside it: the candidates of `ota`, all of them.

    One that several truths claim goes to the one whose shape is most like it. The quality is the CIoU, cut at 0.
    """
    eligible = ops.transpose(_near(candidates.priors, boxes, labels, cells, ratio), (0, 2, 1))
    shape = shape_iou(candidates.priors.anchors, boxes_to_yxhw(boxes)[..., 2:])  # [B, N, M]
    gt_index = _assign(eligible, shape, otherwise=BACKGROUND)
    return Assignment(ops.stop_gradient(gt_index), _overlap_of(candidates, boxes, gt_index))


def _near(priors, boxes, labels, cells, ratio):
    """What lies in a truth's cell or beside it, and has an anchor like it: [B, M, N] bool. cells, ratio: as of `ota`."""
    yxhw = ops.expand_dims(boxes_to_yxhw(boxes), 2)  # [B, M, 1, 4]
    offset = (yxhw[..., :2] - priors.centers) / ops.expand_dims(priors.strides, -1)  # [B, M, N, 2], in cells
    own = ops.logical_and(offset >= -0.5, offset < 0.5)
    # Along one axis it may lie in the next cell: in either, or in the half of it that is nearer.
    near = ops.logical_and(offset >= -1.5, offset < 1.5) if cells == 5 else ops.absolute(offset) < 1.0
    beside = ops.any(ops.logical_and(own, near[..., ::-1]), axis=-1)
    factor = ops.maximum(yxhw[..., 2:], 1e-6) / priors.anchors
    alike = ops.max(ops.maximum(factor, 1 / factor), axis=-1) < ratio
    return ops.logical_and(ops.logical_and(beside, alike), ops.expand_dims(labels >= 0, 2))


def _pairs(eligible, candidates, boxes, labels):
    """The eligible pairs [P, 3] (picture, truth, candidate); of each the candidate's row in [B * N], its box, the truth's, its label.

    Few candidates are eligible for a truth: only those pairs are compared.
    """
    predicted = ops.stop_gradient(candidates.boxes)
    N, M = predicted.shape[1], ops.shape(boxes)[1]
    pairs = ops.stack([ops.cast(index, "int32") for index in ops.nonzero(eligible)], axis=-1)  # [P, 3]
    b, m, n = ops.unstack(pairs, 3, axis=-1)
    label = ops.take(ops.reshape(labels, (-1,)), b * M + m)  # [P], as all that follows
    theirs = ops.take(ops.reshape(predicted, (-1, 4)), b * N + n, axis=0)
    truths = ops.take(ops.reshape(boxes, (-1, 4)), b * M + m, axis=0)
    return pairs, b * N + n, theirs, truths, label


def _overlap_of(candidates, boxes, gt_index):
    """The CIoU of candidates with their truths, cut at 0; 0 without one: [B, N]."""
    truths = ops.take_along_axis(boxes, ops.expand_dims(ops.maximum(gt_index, 0), -1), axis=1)
    overlap = ops.maximum(ciou(candidates.boxes, truths), 0.0)
    return ops.stop_gradient(ops.where(gt_index >= 0, overlap, 0.0))


def _marked(index, like, chosen=True):
    """Positions in the last axis, each at most once: [B, M, k] -> [B, M, N] bool. chosen: which of them count."""
    b, m, k = ops.shape(index)
    rows = ops.broadcast_to(ops.reshape(ops.arange(b * m), (b, m, 1)), (b, m, k))
    places = ops.reshape(ops.stack([rows // m, rows % m, index], axis=-1), (-1, 3))
    marks = ops.reshape(ops.broadcast_to(ops.cast(chosen, "int32"), (b, m, k)), (-1,))
    return ops.scatter(places, marks, ops.shape(like)) > 0


def max_iou(candidates, boxes, labels, *, match: Probability = 0.5, ignore: Probability = 0.5):
    """SSD's: a prior answers for the truth that it overlaps most, if by more than `match` (Liu et al. 2016, arXiv:1512.02325, section 2.2).

    And each truth has the prior that overlaps it most, whatever else that one overlaps; of two truths that want one, the other has its
    next best, up to the third. ignore: what overlaps a truth by more than this, and answers for none, is not told that it holds nothing.
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
    "anchor_ratio": anchor_ratio,
    "max_iou": max_iou,
}
