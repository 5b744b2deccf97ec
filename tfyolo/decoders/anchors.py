"""Boxes as factors on anchors: YOLOv3, YOLOv5 and later, YOLOv2."""

import keras
import numpy as np
from keras import ops

from tfyolo.boxes import boxes_to_yxhw
from tfyolo.config.ranges import Anchors, Level, Positive
from tfyolo.decoders.decoder import Decoder, around, by_level, check_levels


class Anchor(Decoder):
    """YOLOv3's boxes: an offset inside the cell and a factor on an anchor.

    The codes are sigmoid(t) of the offset and the logarithm of the factor.

    Args:
        anchors: {level: [(h, w), ...]} in pixels of the network's input.
        scale_yx: s in s * sigmoid(t) - (s - 1) / 2, a number or {level: s}. Above 1, centres reach the cell's border
            (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4: "eliminate grid sensitivity").
        largest: the longest side, in pixels, so that an untrained network cannot overflow.
        name: of the Keras layer.

    Raises:
        ValueError: the anchors or scale_yx do not fit the levels.

    Source: Redmon and Farhadi 2018, arXiv:1804.02767, section 2.1.
    """

    has_largest, saturating = True, ("box", "obj", "cls")  # e^8 anchors are beyond any image

    def __init__(
        self,
        *,
        anchors: Anchors,
        scale_yx: Positive | dict[Level, Positive] = 1.0,
        largest: Positive = 32768.0,
        name="decoder",
    ):
        super().__init__(anchors, name)
        check_levels("scale_yx", scale_yx, self.levels)
        self.scale_yx, self.largest = scale_yx, largest

    _probability = staticmethod(ops.sigmoid)

    def _activate(self, logits):
        yx, hw = ops.split(logits, 2, axis=-1)
        return ops.sigmoid(yx), hw

    def _reach(self, priors):
        """Pixels between the two ends of sigmoid: [..., N, 1]."""
        return (by_level(self.scale_yx, priors) * priors.strides)[..., None]

    def _sides(self, codes_hw, anchors):
        # The anchor is inside the exponent: in an int8 file the factors of all anchors would share one scale.
        return ops.exp(ops.minimum(codes_hw + ops.log(anchors), float(np.log(self.largest))))

    @staticmethod
    def _codes_hw(factor):
        return ops.log(ops.maximum(factor, keras.config.epsilon()))

    def _decode(self, first, second, priors):
        # s * sigmoid(t) - (s - 1) / 2 is relative to the cell's corner; to its centre it is s * (sigmoid(t) - 1 / 2).
        return around(priors.centers + (first - 0.5) * self._reach(priors), self._sides(second, priors.anchors))

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        boxes_yxhw = boxes_to_yxhw(boxes)
        yx = (boxes_yxhw[..., :2] - priors.centers) / self._reach(priors) + 0.5
        return ops.concatenate([yx, self._codes_hw(boxes_yxhw[..., 2:] / priors.anchors)], axis=-1)


class Wide(Anchor):
    """The boxes of YOLOv4-CSP and YOLOv7: no exponential, sides of at most four anchors (Darknet's new_coords=1).

    y, x = s * sigmoid(t) - (s - 1) / 2, with s = 2 half a cell beyond each border; h, w = (2 * sigmoid(t))^2 * anchor.
    All four codes are sigmoid(t). For a side above four anchors, encode returns a code above 1, which decodes to that
    side.

    Args:
        anchors: {level: [(h, w), ...]} in pixels of the network's input.
        scale_yx: s, a number or {level: s}.
        name: of the Keras layer.
    """

    has_largest = False

    def __init__(
        self,
        *,
        anchors: Anchors,
        scale_yx: Positive | dict[Level, Positive] = 2.0,
        name="decoder",
    ):
        super().__init__(anchors=anchors, scale_yx=scale_yx, name=name)

    def _activate(self, logits):
        return ops.split(ops.sigmoid(logits), 2, axis=-1)

    def _sides(self, codes_hw, anchors):
        return ops.square(2 * codes_hw) * anchors

    @staticmethod
    def _codes_hw(factor):
        return ops.sqrt(ops.maximum(factor, 0.0)) / 2


class Region(Anchor):
    """YOLOv2's boxes: those of Anchor, with a softmax over the classes, whose scores add up to the objectness.

    Source: Redmon and Farhadi 2017, arXiv:1612.08242, section 2.
    """

    saturating = ("box", "obj")
    _class_probability = staticmethod(ops.softmax)
