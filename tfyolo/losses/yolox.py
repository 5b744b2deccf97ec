"""YOLOX's terms."""

from keras import ops

from tfyolo.boxes import iou
from tfyolo.config.ranges import NonNegative
from tfyolo.losses.elementwise import bce, bce_of_class
from tfyolo.losses.objective import Objective, at_positives, required, targets_of
from tfyolo.structures import IGNORE


class IouAware(Objective):
    """YOLOX's terms: box, objectness, classes and an L1 of the codes, sums over the batch divided by its positives.

    box: 1 - IoU^2. obj: binary cross-entropy of all candidates, whose target is 1 for the positives. cls: binary
    cross-entropy of the positives, whose target is the IoU for the right class and 0 for the others. l1: the absolute
    errors of the codes, summed; the paper has it in the last epochs alone: its factor is a stage's loss_weights.l1.
    Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder with objectness.
        assigner: an assigner with its options bound.
        box_gain, obj_gain, cls_gain, l1_gain: factors on the terms.

    Raises:
        ValueError: the decoder has no objectness, or there is no assigner.

    Source: Ge et al. 2021, arXiv:2107.08430, section 2; the code published with it.
    """

    terms, reads_aux = ("box", "obj", "cls", "l1"), False

    def __init__(
        self,
        decoder,
        assigner,
        *,
        box_gain: NonNegative = 5.0,
        obj_gain: NonNegative = 1.0,
        cls_gain: NonNegative = 1.0,
        l1_gain: NonNegative = 1.0,
    ):
        if not decoder.has_objectness:
            raise ValueError(
                "iou_aware: expected a decoder with objectness, such as point; aligned is for those without"
            )
        self.decoder, self.assigner = decoder, required(assigner, "iou_aware")
        self.gains = {"box": box_gain, "obj": obj_gain, "cls": cls_gain, "l1": l1_gain}

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        positive, boxes, labels, index, _ = targets_of(self.assigner, candidates, sample)
        overlap = iou(candidates.boxes, boxes)  # [B, N]

        objectness = bce(ops.cast(positive, "float32"), candidates.logits["obj"][..., 0])
        classes = at_positives(positive, bce_of_class, labels, candidates.logits["cls"], ops.stop_gradient(overlap))
        codes = self.decoder.activate(candidates.logits["box"])
        errors = ops.sum(ops.absolute(self.decoder.encode(boxes, candidates.priors) - codes), axis=-1)
        sums = {
            "box": ops.sum(ops.where(positive, 1 - ops.square(overlap), 0.0)),
            "obj": ops.sum(ops.where(index != IGNORE, objectness, 0.0)),
            "cls": ops.sum(classes),
            "l1": ops.sum(ops.where(positive, errors, 0.0)),
        }
        return sums, {"positives": ops.sum(ops.cast(positive, "float32"))}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        positives = ops.maximum(counts["positives"], 1.0)
        return {name: gain * sums[name] / positives for name, gain in self.gains.items()}
