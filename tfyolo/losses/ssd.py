"""SSD's terms."""

from keras import ops

from tfyolo.config.ranges import NonNegative
from tfyolo.losses.elementwise import smooth_l1, softmax_cross_entropy_of_class
from tfyolo.losses.objective import Objective, at_positives, required, targets_of
from tfyolo.structures import BACKGROUND


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
        self.decoder, self.assigner = decoder, required(assigner, "multibox")
        self.negatives, self.box_gain, self.cls_gain = negatives, box_gain, cls_gain

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        positive, boxes, labels, index, _ = targets_of(self.assigner, candidates, sample)
        found = ops.sum(ops.cast(positive, "int32"), axis=1, keepdims=True)  # [B, 1]

        codes = self.decoder.encode(boxes, candidates.priors)
        box = ops.sum(smooth_l1(codes, self.decoder.activate(candidates.logits["box"])), axis=-1)

        logits = candidates.logits["cls"]  # [B, N, 1 + K]
        cost = softmax_cross_entropy_of_class(ops.zeros_like(labels), ops.stop_gradient(logits))  # as background
        cost = ops.where(index == BACKGROUND, cost, -1.0)  # of what may be a negative
        rank = ops.argsort(ops.argsort(-cost, axis=1), axis=1)
        most = ops.cast(self.negatives * ops.cast(ops.maximum(found, 1), "float32"), rank.dtype)
        learned = ops.logical_or(positive, ops.logical_and(rank < most, index == BACKGROUND))
        classes = at_positives(learned, softmax_cross_entropy_of_class, ops.where(positive, labels + 1, 0), logits)
        sums = {"box": ops.sum(ops.where(positive, box, 0.0)), "cls": ops.sum(classes)}
        return sums, {"positives": ops.cast(ops.sum(found), "float32")}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        positives = ops.maximum(counts["positives"], 1.0)
        gains = {"box": self.box_gain, "cls": self.cls_gain}
        return {name: gains[name] * value / positives for name, value in sums.items()}
