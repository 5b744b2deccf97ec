"""Losses: elementwise functions, and the objectives that sum them up, term by term.

    sums(raw, candidates, sample) -> (sums, counts)      what is summed over the images given, and what divides the sums
    normalised(sums, counts) -> {name: weighted scalar}  the terms: each a sum over a count, times its gain
    terms                                                their names
    reads_aux                                            whether it has terms of raw["aux"]; None: if there is one
    without_aux()                                        the same objective without them

A training step receives the global batch in pieces: one on each replica, and of each of these train.accumulate parts.
It adds up the counts of all pieces first, then normalises the sums of each by the counts of all; so the terms of the
pieces, and their gradients, add up to those of the whole batch. An objective keeps three laws, which
tests/test_losses.py checks:
- sums and counts are dictionaries, nested if need be, of tensors that are sums over images: those of two pieces add up
  to those of both.
- normalised is linear in the sums; a count of 0 (no image with a box) divides nothing.
- No gradient flows through counts.
objective(raw, candidates, sample) is both at once, for images that are the whole batch.
"""

import copy
import functools
import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfyolo.boxes import OVERLAPS, area, boxes_to_yxhw, intersection
from tfyolo.config import parts
from tfyolo.config.ranges import BelowOne, Level, NonNegative, OpenProbability
from tfyolo.decoders import by_level, check_levels
from tfyolo.structures import BACKGROUND, IGNORE, level_stride


def bce(targets, logits):
    """Binary cross-entropy of logits, elementwise, in the form that does not overflow.

    Args:
        targets: [...] in 0..1.
        logits: [...], before the sigmoid.

    Returns:
        [...], at least 0.
    """
    return ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.absolute(logits)))


def focal(targets, logits, alpha=0.25, gamma=2.0):
    """Focal loss, elementwise: easy examples count less.

    Args:
        targets: [...] in 0..1.
        logits: [...], before the sigmoid.
        alpha: the weight of positives, 0..1; negatives have 1 - alpha.
        gamma: the power, at least 0; 0 is cross-entropy.

    Returns:
        [...], at least 0.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5.
    """
    p = ops.sigmoid(logits)
    p_t = targets * p + (1 - targets) * (1 - p)
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    # The floor keeps the gradient of the power finite where p_t rounds to 1.
    return weight * ops.power(ops.maximum(1 - p_t, 1e-9), gamma) * bce(targets, logits)


def smooth_l1(targets, values):
    """Huber's loss, elementwise [...]: squared errors below 1, absolute ones above.

    Source: Girshick 2015, arXiv:1504.08083, eq. 3.
    """
    error = ops.absolute(targets - values)
    return ops.where(error < 1, 0.5 * ops.square(error), error - 0.5)


def squared(targets, values):
    """Squared error, elementwise: [...], [...] -> [...]."""
    return ops.square(targets - values)


TERMS = {"bce": bce, "focal": focal, "squared": squared}


def softmax_cross_entropy(targets, logits):
    """Cross-entropy of one class out of K: targets [..., K] that add up to 1, logits [..., K] -> [...]."""
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def distribution_focal(targets, logits):
    """Distribution focal loss: the cross-entropies of the two bins beside a target.

    Args:
        targets: [...] in bins; clipped to 0 .. bins - 1.01, so that each lies between two.
        logits: [..., bins], before the softmax.

    Returns:
        [...], at least 0.

    Source: Li et al. 2020, arXiv:2006.04388, eq. 6.
    """
    bins = logits.shape[-1]
    targets = ops.clip(targets, 0.0, bins - 1 - 0.01)
    # Each bin's share: 1 less its distance to the target, at least 0.
    share = ops.maximum(1 - ops.absolute(ops.expand_dims(targets, -1) - ops.arange(bins, dtype="float32")), 0.0)
    return softmax_cross_entropy(share, logits)


def _required(assigner, name):
    """The assigner that an objective of this name needs; ValueError for None."""
    if assigner is None:
        raise ValueError(f"{name}: expected an assigner (model.assigner), received none")
    return assigner


def _targets(assigner, candidates, sample, guide=None):
    """Each candidate's targets: (Assignment, positive [B, N] bool, boxes [B, N, 4], labels [B, N], index [B, N]).

    index: the assignment's, with the background candidates inside a crowd ignored. Without a ground truth, boxes are
    the candidates' own: every value stays finite, so nothing leaks through a mask's gradient. guide: other candidates,
    in the same places, whose predictions the assigner reads.
    """
    assignment = assigner(guide or candidates, sample.boxes, ops.where(sample.crowd, -1, sample.labels))
    index = assignment.gt_index
    positive = index >= 0
    gt = ops.maximum(index, 0)
    boxes = ops.take_along_axis(sample.boxes, ops.expand_dims(gt, -1), axis=1)
    boxes = ops.where(positive[..., None], boxes, ops.stop_gradient(candidates.boxes))
    labels = ops.take_along_axis(sample.labels, gt, axis=1)
    in_crowd = ops.logical_and(index == BACKGROUND, _inside_crowd(candidates.boxes, sample))
    return assignment, positive, boxes, labels, ops.where(in_crowd, IGNORE, index)


def _inside_crowd(boxes, sample):
    """Whether half of a candidate's box lies in a crowd: [B, N] bool."""
    crowds = ops.where(sample.crowd[..., None], sample.boxes, 0.0)
    shared = intersection(ops.expand_dims(boxes, 2), ops.expand_dims(crowds, 1))  # [B, N, M]
    return ops.stop_gradient(ops.any(shared > 0.5 * ops.expand_dims(area(boxes), -1), axis=-1))


class Objective:
    """What objectives share. Their contract is at the head of this file."""

    def __call__(self, raw, candidates, sample):
        """The terms of a whole batch: Raw, Candidates, Sample -> {name: weighted scalar}."""
        return self.normalised(*self.sums(raw, candidates, sample))

    def without_aux(self):
        """The same objective for a network without its auxiliary head: only a deeply supervised one differs."""
        return self


def _images(sample):
    return ops.cast(ops.shape(sample.image)[0], "float32")


class Dense(Objective):
    """Box, objectness and class terms over all candidates, as in Darknet.

    Each is a sum over the batch, divided by its number of images. The target of the objectness is the assignment's
    quality; classes are learned by the matched candidates. Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder with objectness.
        assigner: an assigner with its options bound.
        box: "squared" (errors of the codes, arXiv:1506.02640, eq. 3), or the overlap of 1 - overlap: "iou", "giou",
            "diou", "ciou".
        obj: "bce", "focal" or "squared".
        cls: the same, or "softmax": cross-entropy of one class out of K.
        box_gain, obj_gain, cls_gain: factors on the terms, Darknet's iou_, obj_ and cls_normalizer; obj_gain may be
            {level: gain}.
        noobj_gain: a further factor on the objectness term of background candidates.
        small_boxes: each box term is multiplied by 2 - the box's share of the image's area (YOLOv3).
        label_smoothing: moves class targets from 0 and 1 towards one half, or towards 1 / K under "softmax".

    Raises:
        ValueError: an option is unknown, the decoder has no objectness, or there is no assigner.
    """

    def __init__(
        self,
        decoder,
        assigner,
        *,
        box: str = "ciou",
        obj: str = "bce",
        cls: str = "bce",
        box_gain: NonNegative = 1.0,
        obj_gain: NonNegative | dict[Level, NonNegative] = 1.0,
        noobj_gain: NonNegative = 1.0,
        cls_gain: NonNegative = 1.0,
        small_boxes: bool = True,
        label_smoothing: BelowOne = 0.0,
    ):
        for name, value, choices in (
            ("box", box, ["squared", *OVERLAPS]),
            ("obj", obj, TERMS),
            ("cls", cls, [*TERMS, "softmax"]),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, received {value!r}")
        if not decoder.has_objectness:
            raise ValueError("dense: expected a decoder with objectness; aligned is for those without")
        check_levels("obj_gain", obj_gain, decoder.levels)
        self.decoder, self.assigner = decoder, _required(assigner, "dense")
        self.box, self.obj, self.cls = box, TERMS[obj], cls
        self.box_gain, self.obj_gain, self.noobj_gain, self.cls_gain = box_gain, obj_gain, noobj_gain, cls_gain
        self.small_boxes, self.label_smoothing = small_boxes, label_smoothing

    terms, reads_aux = ("box", "obj", "cls"), False

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        assignment, positive, boxes, labels, index = _targets(self.assigner, candidates, sample)
        height, width = sample.image.shape[-3:-1]
        box = self._box_term(candidates, boxes)
        if self.small_boxes:
            box = box * (2 - area(boxes) / (height * width))

        objectness = self.obj(ops.stop_gradient(assignment.quality), candidates.logits["obj"][..., 0])
        gain = by_level(self.obj_gain, candidates.priors) * ops.where(positive, 1.0, self.noobj_gain)  # [B, N]
        gain = gain * ops.cast(index != IGNORE, "float32")

        classes = self._class_term(candidates.logits["cls"], labels)
        sums = {
            "box": ops.sum(ops.where(positive, box, 0.0)),
            "obj": ops.sum(gain * objectness),
            "cls": ops.sum(ops.where(positive, classes, 0.0)),
        }
        return sums, {"images": _images(sample)}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        gains = {"box": self.box_gain, "obj": 1.0, "cls": self.cls_gain}  # the objectness's are each level's own
        return {name: gains[name] * value / counts["images"] for name, value in sums.items()}

    def _box_term(self, candidates, boxes):
        if self.box == "squared":
            codes = self.decoder.activate(candidates.logits["box"])
            return ops.sum(squared(self.decoder.encode(boxes, candidates.priors), codes), axis=-1)
        return 1 - OVERLAPS[self.box](candidates.boxes, boxes)

    def _class_term(self, logits, labels):
        """[B, N, K], [B, N] -> [B, N]."""
        K = logits.shape[-1]
        center = 1 / K if self.cls == "softmax" else 0.5
        targets = ops.one_hot(labels, K) * (1 - self.label_smoothing) + center * self.label_smoothing
        if self.cls == "softmax":
            return softmax_cross_entropy(targets, logits)
        return ops.sum(TERMS[self.cls](targets, logits), axis=-1)


def _with_options(assigner, options):
    """The assigner with other options; ValueError if it has no such ones, or they are out of their ranges."""
    known, checked = parts.options_of(assigner), {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"aux: the assigner has no option {name!r}; its options: {', '.join(known) or 'none'}")
        try:
            checked[name] = parts.typed(value, known[name].annotation)
        except ValueError as error:
            raise ValueError(f"aux: {name}: {error}") from None
    return functools.partial(assigner, **checked)


class _Deep(Objective):
    """Deep supervision: what objectives with terms of raw["aux"] share; their assigner has other options there (aux).

    A subclass has a decoder, an assigner, gains {term: factor} and, for one head, _sums(assigner, candidates, sample,
    guide) and _normalised(sums, counts), which keep the contract. The auxiliary head's sums and counts stand beside the
    main head's, as "aux". guide: whose candidates the assigner reads: "lead": the main head's; "own": the auxiliary
    head's.
    """

    def __init__(self, aux, aux_gain=1.0, guide="own"):
        if guide not in ("lead", "own"):
            raise ValueError(f"guide: expected lead or own, received {guide!r}")
        self.aux_assigner = None if aux is None else _with_options(self.assigner, aux)
        self.aux_gain, self.guide = aux_gain, guide
        self.reads_aux = self.aux_assigner is not None
        self.terms = tuple(self.gains)
        if self.aux_assigner:
            self.terms += tuple(f"aux_{name}" for name in self.gains)

    def without_aux(self):
        """The same objective for a network without its auxiliary head."""
        if not self.aux_assigner:
            return self
        other = copy.copy(self)
        other.aux_assigner, other.reads_aux, other.terms = None, False, tuple(self.gains)
        return other

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        sums, counts = self._sums(self.assigner, candidates, sample)
        if self.aux_assigner:
            guide = candidates if self.guide == "lead" else None
            sums["aux"], counts["aux"] = self._sums(self.aux_assigner, self.decoder(raw["aux"]), sample, guide)
        return sums, counts

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        terms = self._normalised(sums, counts)
        if self.aux_assigner:
            aux = self._normalised(sums["aux"], counts["aux"])
            terms |= {f"aux_{name}": self.aux_gain * value for name, value in aux.items()}
        return terms


class Balanced(_Deep):
    """YOLOv7's box, objectness and class terms, level by level, which it shares with YOLOv5.

    Of each level: the mean of 1 - overlap and of the classes' binary cross-entropy over the matched candidates, and the
    mean of the objectness's over all, times the level's balance. The target of the objectness is the overlap, at least
    0. The levels add up and are multiplied by the number of images, which the published learning rates assume.
    Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder with objectness.
        assigner: an assigner with its options bound.
        box: the overlap: "iou", "giou", "diou" or "ciou".
        box_gain, obj_gain, cls_gain: factors on the terms at three levels, 80 classes and 640 x 640 pixels. All shrink
            with more levels; the objectness's grows with the area, the classes' with their number.
        balance: {level: factor}, where it is not 1.
        label_smoothing: moves class targets from 0 and 1 towards one half.
        aux: for a head that gives raw["aux"]: the assigner's options that differ there.
        aux_gain: a factor on its terms, aux_box and so on.
        aux_bound: its objectness target is at most 1 - aux_bound * the distance of the ground truth's centre in cells,
            so that what only the wider set holds is learned less surely than the lead head's (section 4.2, which leaves
            open by how much).
        guide: whose predictions the auxiliary head's assignment follows: "lead": the main head's, which are better
            (ibid.); "own": its own.

    Raises:
        ValueError: an option is unknown, the decoder has no objectness, or there is no assigner.

    Source: Wang et al. 2022, arXiv:2207.02696, section 4.2.
    """

    def __init__(
        self,
        decoder,
        assigner,
        *,
        box: str = "ciou",
        box_gain: NonNegative = 0.05,
        obj_gain: NonNegative = 0.7,
        cls_gain: NonNegative = 0.3,
        balance: dict[Level, NonNegative] | None = None,
        label_smoothing: BelowOne = 0.0,
        aux: dict[str, int | float] | None = None,
        aux_gain: NonNegative = 0.25,
        aux_bound: NonNegative = 0.0,
        guide: str = "lead",
    ):
        if box not in OVERLAPS:
            raise ValueError(f"box: expected one of {', '.join(OVERLAPS)}, received {box!r}")
        if not decoder.has_objectness:
            raise ValueError("balanced: expected a decoder with objectness; aligned is for those without")
        balance = dict.fromkeys(decoder.levels, 1.0) | (balance or {})
        check_levels("balance", balance, decoder.levels)
        self.decoder, self.assigner, self.box, self.balance = decoder, _required(assigner, "balanced"), box, balance
        self.gains = {"box": box_gain, "obj": obj_gain, "cls": cls_gain}
        self.label_smoothing = label_smoothing
        super().__init__(aux, aux_gain, guide)
        self.aux_bound = aux_bound

    def _sums(self, assigner, candidates, sample, guide=None):
        _, positive, boxes, labels, index = _targets(assigner, candidates, sample, guide)
        height, width = sample.image.shape[-3:-1]
        K = candidates.logits["cls"].shape[-1]
        strides = ops.array([level_stride(level) for level in self.decoder.levels], "float32")
        levels = ops.cast(ops.expand_dims(candidates.priors.strides, -1) == strides, "float32")  # [N, L]

        def each_level(values):
            """[B, N] -> [L]. No matmul: a GPU computes it with mantissas of ten bits."""
            return ops.sum(ops.expand_dims(ops.sum(values, axis=0), -1) * levels, axis=0)

        overlap = OVERLAPS[self.box](candidates.boxes, boxes)
        targets = ops.one_hot(labels, K) * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        classes = ops.mean(bce(targets, candidates.logits["cls"]), axis=-1)
        quality = ops.stop_gradient(ops.where(positive, ops.maximum(overlap, 0.0), 0.0))
        if assigner is self.aux_assigner:
            yx = boxes_to_yxhw(boxes)[..., :2]
            away = ops.norm(yx - candidates.priors.centers, axis=-1) / candidates.priors.strides  # [B, N], in cells
            quality = ops.minimum(quality, ops.maximum(1 - self.aux_bound * away, 0.0))
        objectness = bce(quality, candidates.logits["obj"][..., 0])
        sums = {
            "box": each_level(ops.where(positive, 1 - overlap, 0.0)),
            "obj": each_level(ops.where(index != IGNORE, objectness, 0.0)) / ops.sum(levels, axis=0),  # an image's mean
            "cls": each_level(ops.where(positive, classes, 0.0)),
        }
        scale = {"box": 1.0, "obj": height * width / 640**2, "cls": K / 80}
        sums = {name: scale[name] * value for name, value in sums.items()}
        return sums, {"images": _images(sample), "positives": each_level(ops.cast(positive, "float32"))}

    def _normalised(self, sums, counts):
        # Means times images: of the objectness the mean over images, times images, is its sum.
        images = counts["images"] / ops.maximum(counts["positives"], 1.0)  # [L]
        means = {
            "box": ops.sum(sums["box"] * images),
            "obj": ops.sum(sums["obj"] * ops.array(list(self.balance.values()), "float32")),
            "cls": ops.sum(sums["cls"] * images),
        }
        return {name: self.gains[name] * 3 / len(self.balance) * value for name, value in means.items()}


class Aligned(_Deep):
    """YOLOv8's box, distribution and class terms, weighted by the assignment's quality, without objectness.

    The target of the matched class is the quality: binary cross-entropy over all candidates. All terms are sums over
    the batch divided by the sum of all qualities, at least 1. Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder without objectness and without a background class.
        assigner: an assigner with its options bound.
        box: the overlap of 1 - overlap: "iou", "giou", "diou" or "ciou".
        box_gain, dfl_gain, cls_gain: factors on the terms. dfl: for a decoder of distributions, their focal loss, the
            mean of the four sides.
        aux: for a head that gives raw["aux"]: the assigner's options that differ there. Its terms, aux_box and so on,
            are further ones.

    Raises:
        ValueError: an option is unknown, the decoder does not fit, or there is no assigner.

    Source: Feng et al. 2021, arXiv:2108.07755, section 3.3.
    """

    def __init__(
        self,
        decoder,
        assigner,
        *,
        box: str = "ciou",
        box_gain: NonNegative = 7.5,
        dfl_gain: NonNegative = 1.5,
        cls_gain: NonNegative = 0.5,
        aux: dict[str, int | float] | None = None,
    ):
        if box not in OVERLAPS:
            raise ValueError(f"box: expected one of {', '.join(OVERLAPS)}, received {box!r}")
        if decoder.has_objectness:
            raise ValueError(
                "aligned: expected a decoder without objectness, such as dfl; dense is for those that have it"
            )
        if not decoder.has_boxes:
            raise ValueError("aligned: expected a decoder of boxes, received that of corners")
        if decoder.has_background:
            raise ValueError(
                "aligned: expected a decoder without a class for the background; multibox is for those with it"
            )
        self.decoder, self.assigner, self.box = decoder, _required(assigner, "aligned"), box
        self.gains = {"box": box_gain, "cls": cls_gain}
        if decoder.is_distribution:
            self.gains["dfl"] = dfl_gain
        super().__init__(aux)

    def _sums(self, assigner, candidates, sample, guide=None):
        assignment, positive, boxes, labels, index = _targets(assigner, candidates, sample, guide)
        quality = ops.where(positive, assignment.quality, 0.0)  # [B, N]

        logits = candidates.logits["cls"]
        targets = ops.one_hot(labels, logits.shape[-1]) * quality[..., None]
        classes = ops.sum(bce(targets, logits), axis=-1) * ops.cast(index != IGNORE, "float32")
        sums = {
            "box": ops.sum(quality * (1 - OVERLAPS[self.box](candidates.boxes, boxes))),
            "cls": ops.sum(classes),
        }
        if "dfl" in self.gains:
            distances = self.decoder.encode(boxes, candidates.priors)
            sides = distribution_focal(distances, self.decoder.distributions(candidates.logits["box"]))
            sums["dfl"] = ops.sum(quality * ops.mean(sides, axis=-1))
        return sums, {"quality": ops.sum(quality)}

    def _normalised(self, sums, counts):
        quality = ops.maximum(counts["quality"], 1.0)
        return {name: gain * sums[name] / quality for name, gain in self.gains.items()}


class MultiBox(Objective):
    """SSD's box and class terms, sums over the batch divided by its positives.

    box: smooth L1 of the codes. cls: cross-entropy of one class out of K and the background, of the positives and, in
    each image, of the hardest negatives. Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder with a background class.
        assigner: an assigner with its options bound.
        negatives: how many negatives are learned for each positive; an image without positives counts as having one.
        box_gain, cls_gain: factors on the terms.

    Raises:
        ValueError: the decoder has no background class, or there is no assigner.

    Source: Liu et al. 2016, arXiv:1512.02325, eq. 1 to 3.
    """

    terms, reads_aux = ("box", "cls"), False

    def __init__(
        self,
        decoder,
        assigner,
        *,
        negatives: NonNegative = 3.0,
        box_gain: NonNegative = 1.0,
        cls_gain: NonNegative = 1.0,
    ):
        if not decoder.has_background:
            raise ValueError("multibox: expected a decoder with a class for the background, such as ssd")
        self.decoder, self.assigner = decoder, _required(assigner, "multibox")
        self.negatives, self.box_gain, self.cls_gain = negatives, box_gain, cls_gain

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        _, positive, boxes, labels, index = _targets(self.assigner, candidates, sample)
        found = ops.sum(ops.cast(positive, "int32"), axis=1, keepdims=True)  # [B, 1]

        codes = self.decoder.encode(boxes, candidates.priors)
        box = ops.sum(smooth_l1(codes, self.decoder.activate(candidates.logits["box"])), axis=-1)

        logits = candidates.logits["cls"]  # [B, N, 1 + K]
        classes = softmax_cross_entropy(ops.one_hot(ops.where(positive, labels + 1, 0), logits.shape[-1]), logits)
        cost = ops.where(index == BACKGROUND, ops.stop_gradient(classes), -1.0)  # of what may be a negative
        rank = ops.argsort(ops.argsort(-cost, axis=1), axis=1)
        most = ops.cast(self.negatives * ops.cast(ops.maximum(found, 1), "float32"), rank.dtype)
        learned = ops.logical_or(positive, ops.logical_and(rank < most, index == BACKGROUND))
        sums = {"box": ops.sum(ops.where(positive, box, 0.0)), "cls": ops.sum(ops.where(learned, classes, 0.0))}
        return sums, {"positives": ops.cast(ops.sum(found), "float32")}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        positives = ops.maximum(counts["positives"], 1.0)
        gains = {"box": self.box_gain, "cls": self.cls_gain}
        return {name: gains[name] * value / positives for name, value in sums.items()}


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
        shape = raw["cls"][level].shape
        targets = corner_targets(sample, shape[1:3], shape[-1], level_stride(level), self.overlap)
        targets = CornerTargets(*map(ops.stop_gradient, targets))
        objects = ops.sum(ops.cast(targets.real, "float32"), axis=1)  # [B]
        stacks = []
        while raw is not None:
            maps = {part: ops.cast(raw[part][level], "float32") for part in ("cls", "embed", "offset")}
            stacks.append(self._stack_sums(maps, targets, objects))
            raw = raw.get("aux")
        sums = {name: sum(stack[name] for stack in stacks) / len(stacks) for name in self.gains}
        corners = ops.cast(ops.equal(targets.heat, 1.0), "float32")
        corners = ops.sum(corners, axis=(0, 1, 2, 4))  # [2], cells of each kind
        return sums, {"images": _images(sample), "corners": corners, "objects": ops.sum(objects)}

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


OBJECTIVES = {
    "dense": Dense,
    "balanced": Balanced,
    "aligned": Aligned,
    "multibox": MultiBox,
    "corner": Corner,
}
