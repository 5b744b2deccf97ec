"""The terms of Darknet's detectors: YOLOv1 to v4."""

from keras import ops

from tfyolo.boxes import OVERLAPS, area
from tfyolo.config.ranges import BelowOne, Level, NonNegative
from tfyolo.decoders.decoder import by_level, check_levels
from tfyolo.losses.elementwise import TERMS, bce_of_class, softmax_cross_entropy, squared
from tfyolo.losses.objective import Objective, at_positives, count_of_images, required, targets_of
from tfyolo.structures import IGNORE


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
        self.decoder, self.assigner = decoder, required(assigner, "dense")
        self.box, self.obj, self.cls = box, TERMS[obj], cls
        self.box_gain, self.obj_gain, self.noobj_gain, self.cls_gain = box_gain, obj_gain, noobj_gain, cls_gain
        self.small_boxes, self.label_smoothing = small_boxes, label_smoothing

    terms, reads_aux = ("box", "obj", "cls"), False

    def sums(self, raw, candidates, sample):
        """What is summed and what divides it: Raw, Candidates, Sample -> (sums, counts), dictionaries of tensors."""
        positive, boxes, labels, index, quality = targets_of(self.assigner, candidates, sample)
        height, width = sample.image.shape[-3:-1]
        box = self._box_term(candidates, boxes)
        if self.small_boxes:
            box = box * (2 - area(boxes) / (height * width))

        objectness = self.obj(ops.stop_gradient(quality), candidates.logits["obj"][..., 0])
        gain = by_level(self.obj_gain, candidates.priors) * ops.where(positive, 1.0, self.noobj_gain)  # [B, N]
        gain = gain * ops.cast(index != IGNORE, "float32")

        classes = at_positives(positive, self._class_term, labels, candidates.logits["cls"])
        sums = {
            "box": ops.sum(ops.where(positive, box, 0.0)),
            "obj": ops.sum(gain * objectness),
            "cls": ops.sum(classes),
        }
        return sums, {"images": count_of_images(sample)}

    def normalised(self, sums, counts):
        """The weighted terms of sums, by the counts of the whole batch: -> {name: scalar}."""
        gains = {"box": self.box_gain, "obj": 1.0, "cls": self.cls_gain}  # the objectness's are each level's own
        return {name: gains[name] * value / counts["images"] for name, value in sums.items()}

    def _box_term(self, candidates, boxes):
        if self.box == "squared":
            codes = self.decoder.activate(candidates.logits["box"])
            return ops.sum(squared(self.decoder.encode(boxes, candidates.priors), codes), axis=-1)
        return 1 - OVERLAPS[self.box](candidates.boxes, boxes)

    def _class_term(self, labels, logits):
        """[P], [P, K] -> [P]."""
        K = logits.shape[-1]
        off = self.label_smoothing * (1 / K if self.cls == "softmax" else 0.5)
        on = 1 - self.label_smoothing + off
        if self.cls == "bce":
            return bce_of_class(labels, logits, on, off)
        targets = ops.one_hot(labels, K) * (1 - self.label_smoothing) + off
        if self.cls == "softmax":
            return softmax_cross_entropy(targets, logits)
        return ops.sum(TERMS[self.cls](targets, logits), axis=-1)
