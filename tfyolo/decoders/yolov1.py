"""YOLOv1's boxes."""

from keras import ops

from tfyolo.boxes import boxes_to_yxhw
from tfyolo.config.ranges import Level, Repeats
from tfyolo.decoders.decoder import Decoder, around


class Grid(Decoder):
    """YOLOv1's boxes: an offset inside the cell, and the square roots of the sides as parts of the image's.

    Outputs are linear: they are the codes, and scores are clipped to 0..1.

    Args:
        boxes_per_cell: A.
        level: its one feature level: "p6" where a cell is 64 pixels.
        name: of the Keras layer.

    Source: Redmon et al. 2016, arXiv:1506.02640, section 2.
    """

    def __init__(self, *, boxes_per_cell: Repeats = 2, level: Level = "p6", name="decoder"):
        super().__init__({level: [(0.0, 0.0)] * boxes_per_cell}, name)

    @staticmethod
    def _probability(x):
        return ops.clip(x, 0.0, 1.0)

    def _activate(self, logits):
        return ops.split(logits, 2, axis=-1)

    @staticmethod
    def _image_hw(priors):
        return ops.max(priors.centers + priors.strides[..., None] / 2, axis=-2, keepdims=True)  # [..., 1, 2]

    def _decode(self, first, second, priors):
        yx = priors.centers + (first - 0.5) * priors.strides[..., None]
        return around(yx, ops.square(second) * self._image_hw(priors))

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        boxes_yxhw = boxes_to_yxhw(boxes)
        yx = (boxes_yxhw[..., :2] - priors.centers) / priors.strides[..., None] + 0.5
        hw = ops.sqrt(ops.maximum(boxes_yxhw[..., 2:], 0.0) / self._image_hw(priors))
        return ops.concatenate([yx, hw], axis=-1)
