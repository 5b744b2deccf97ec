"""YOLOv8's terms."""

from keras import ops

from tfyolo.boxes import OVERLAPS
from tfyolo.config.ranges import NonNegative
from tfyolo.losses.elementwise import bce, bce_of_others, distribution_focal, logits_of
from tfyolo.losses.objective import Deep, at_positives, required, targets_of
from tfyolo.structures import IGNORE


class Aligned(Deep):
    """YOLOv8's box, distribution and class terms, weighted by the assignment's quality, without objectness.

    The target of the matched class is the quality: binary cross-entropy over all candidates. All terms are sums over
    the batch divided by the sum of all qualities, at least 1. Candidates inside a crowd are not counted as background.

    Args:
        decoder: a Decoder without objectness and without a background class.
        assigner: an assigner with its options bound.
        box: the overlap of 1 - overlap: "iou", "giou", "diou" or "ciou".
        box_gain, dfl_gain, cls_gain: factors on the terms. dfl: for a decoder of distributions, their focal loss, the
            mean of the four sides.
        aux: for a head that gives Raw.aux: the assigner's options that differ there.
        aux_gain: a factor on its terms, aux_box and so on.

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
        aux_gain: NonNegative = 1.0,
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
        self.decoder, self.assigner, self.box = decoder, required(assigner, "aligned"), box
        self.gains = {"box": box_gain, "cls": cls_gain}
        if decoder.is_distribution:
            self.gains["dfl"] = dfl_gain
        super().__init__(aux, aux_gain)

    def _sums(self, assigner, candidates, sample, guide=None):
        positive, boxes, labels, index, quality = targets_of(assigner, candidates, sample, guide)
        quality = ops.where(positive, quality, 0.0)  # [B, N]

        logits = candidates.logits["cls"]
        classes = bce_of_others(ops.where(positive, labels, -1), logits) + at_positives(
            positive, lambda labels, logits, quality: bce(quality, logits_of(labels, logits)), labels, logits, quality
        )
        classes = classes * ops.cast(index != IGNORE, "float32")
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
