"""YOLOX's boxes, from a point and two logarithms."""

from keras import ops

from tfyolo.config.ranges import Levels, Positive
from tfyolo.decoders.anchors import Anchor
from tfyolo.structures import level_stride


class Point(Anchor):
    """YOLOX's boxes: an offset from the cell's top left corner and the logarithms of the sides, both in cells.

    A box for each cell, without anchors: its prior is the cell itself. The codes are the raw outputs; so a centre may
    lie in any cell.

    Args:
        levels: the feature levels.
        largest: the longest side, in pixels, so that an untrained network cannot overflow.
        name: of the Keras layer.

    Source: Ge et al. 2021, arXiv:2107.08430, section 2.1, "Anchor-free"; the code published with it.
    """

    saturating = ("obj", "cls")

    def __init__(self, *, levels: Levels = ("p3", "p4", "p5"), largest: Positive = 32768.0, name="decoder"):
        strides = {level: float(level_stride(level)) for level in levels}
        super().__init__(anchors={level: [(side, side)] for level, side in strides.items()}, largest=largest, name=name)

    def _activate(self, logits):
        return ops.split(logits, 2, axis=-1)
