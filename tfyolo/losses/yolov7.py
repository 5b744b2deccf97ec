"""YOLOv7's terms."""

from keras import ops

from tfyolo.boxes import OVERLAPS, boxes_to_yxhw
from tfyolo.config.ranges import BelowOne, Level, NonNegative
from tfyolo.decoders.decoder import check_levels
from tfyolo.losses.elementwise import bce, bce_of_class
from tfyolo.losses.objective import Deep, at_positives, count_of_images, required, targets_of
from tfyolo.structures import IGNORE, level_stride


class Balanced(Deep):
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
        aux: for a head that gives Raw.aux: the assigner's options that differ there.
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
        self.decoder, self.assigner, self.box, self.balance = decoder, required(assigner, "balanced"), box, balance
        self.gains = {"box": box_gain, "obj": obj_gain, "cls": cls_gain}
        self.label_smoothing = label_smoothing
        super().__init__(aux, aux_gain, guide)
        self.aux_bound = aux_bound

    def _sums(self, assigner, candidates, sample, guide=None):
        positive, boxes, labels, index, _ = targets_of(assigner, candidates, sample, guide)
        height, width = sample.image.shape[-3:-1]
        K = candidates.logits["cls"].shape[-1]
        strides = ops.array([level_stride(level) for level in self.decoder.levels], "float32")
        levels = ops.cast(ops.expand_dims(candidates.priors.strides, -1) == strides, "float32")  # [N, L]

        def each_level(values):
            """[B, N] -> [L]. No matmul: a GPU computes it with mantissas of ten bits."""
            return ops.sum(ops.expand_dims(ops.sum(values, axis=0), -1) * levels, axis=0)

        overlap = OVERLAPS[self.box](candidates.boxes, boxes)
        off = 0.5 * self.label_smoothing
        classes = at_positives(
            positive,
            lambda labels, logits: bce_of_class(labels, logits, 1 - off, off),
            labels,
            candidates.logits["cls"],
        )
        quality = ops.stop_gradient(ops.where(positive, ops.maximum(overlap, 0.0), 0.0))
        if assigner is self.aux_assigner:
            yx = boxes_to_yxhw(boxes)[..., :2]
            away = ops.norm(yx - candidates.priors.centers, axis=-1) / candidates.priors.strides  # [B, N], in cells
            quality = ops.minimum(quality, ops.maximum(1 - self.aux_bound * away, 0.0))
        objectness = bce(quality, candidates.logits["obj"][..., 0])
        sums = {
            "box": each_level(ops.where(positive, 1 - overlap, 0.0)),
            "obj": each_level(ops.where(index != IGNORE, objectness, 0.0)) / ops.sum(levels, axis=0),  # an image's mean
            "cls": each_level(classes) / K,
        }
        scale = {"box": 1.0, "obj": height * width / 640**2, "cls": K / 80}
        sums = {name: scale[name] * value for name, value in sums.items()}
        return sums, {"images": count_of_images(sample), "positives": each_level(ops.cast(positive, "float32"))}

    def _normalised(self, sums, counts):
        # Means times images: of the objectness the mean over images, times images, is its sum.
        images = counts["images"] / ops.maximum(counts["positives"], 1.0)  # [L]
        means = {
            "box": ops.sum(sums["box"] * images),
            "obj": ops.sum(sums["obj"] * ops.array(list(self.balance.values()), "float32")),
            "cls": ops.sum(sums["cls"] * images),
        }
        return {name: self.gains[name] * 3 / len(self.balance) * value for name, value in means.items()}
