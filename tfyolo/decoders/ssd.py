"""SSD's boxes."""

import keras
import numpy as np
from keras import ops

from tfyolo.boxes import boxes_to_yxhw
from tfyolo.config.ranges import Levels, Positive, Ratios, Sizes
from tfyolo.decoders.decoder import Decoder, around, make_priors, namespace
from tfyolo.structures import as_raw, level_stride


class Ssd(Decoder):
    """SSD's boxes: offsets and logarithms relative to boxes of fixed shapes.

    The classes are a softmax whose first class is the background, which is dropped. Grids may be any that cover the
    image. A cell has a square of its level's size, one of the geometric mean of it and the next, and for each ratio a
    wide and a tall box; no side is longer than the image's.

    Args:
        sizes: of the boxes, as parts of the image's sides: one for each level, and one more.
        ratios: of long and short sides.
        levels: the feature levels.
        variances: the factors on the network's offsets and logarithms.
        largest: the longest side, in pixels, so that an untrained network cannot overflow.
        name: of the Keras layer.

    Raises:
        ValueError: the number of sizes does not fit the levels.

    Source: Liu et al. 2016, arXiv:1512.02325, section 2.2.
    """

    has_objectness, has_background, has_largest = False, True, True

    def __init__(
        self,
        *,
        sizes: Sizes,
        ratios: Ratios = (2.0, 3.0),
        levels: Levels = ("p3", "p4", "p5", "p6", "p7", "p8"),
        variances: tuple[Positive, Positive] = (0.1, 0.2),
        largest: Positive = 32768.0,
        name="decoder",
    ):
        if len(sizes) != len(levels) + 1:
            raise ValueError(
                f"sizes: expected {len(levels) + 1}, one of each level and one more, received {len(sizes)}"
            )
        units = {}
        for level, size, following in zip(levels, sizes, sizes[1:], strict=False):
            roots = [np.sqrt(ratio) for ratio in ratios]
            shapes = [(size, size), (np.sqrt(size * following),) * 2]
            for root in roots:
                shapes += [(size / root, size * root), (size * root, size / root)]
            units[level] = np.clip(shapes, 0.0, 1.0).tolist()
        super().__init__(units, name)
        self.multiple = 2 * level_stride(self.levels[0])
        self.variances, self.largest = variances, largest

    @staticmethod
    def _probability(logits):
        """The softmax of all classes [..., 1 + K], without the background -> [..., K]."""
        return ops.softmax(logits)[..., 1:]

    def objectness(self, raw):
        """1 - the background's probability: Raw -> {level: [B, h, w]}, 0..1."""
        return {
            level: ops.max(1 - ops.softmax(ops.cast(as_raw(raw).parts["cls"][level], "float32"))[..., 0], axis=-1)
            for level in self.levels
        }

    def check(self, raw):
        """Accepts any grids."""

    def _priors(self, grids):
        xp = namespace(grids)
        counts = {level: xp.array(xp.stack(list(grid)), dtype="float32") for level, grid in grids.items()}
        image_hw = counts[self.levels[0]] * float(level_stride(self.levels[0]))
        anchors = {level: np.array(units, "float32") * image_hw for level, units in self.anchors.items()}
        return make_priors(grids, anchors, {level: image_hw / count for level, count in counts.items()})

    def _activate(self, logits):
        return ops.split(logits, 2, axis=-1)

    def _decode(self, first, second, priors):
        offset, factor = self.variances
        hw = ops.exp(ops.minimum(factor * second + ops.log(priors.anchors), float(np.log(self.largest))))
        return around(priors.centers + offset * first * priors.anchors, hw)

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        boxes_yxhw, (offset, factor) = boxes_to_yxhw(boxes), self.variances
        yx = (boxes_yxhw[..., :2] - priors.centers) / (offset * priors.anchors)
        hw = ops.log(ops.maximum(boxes_yxhw[..., 2:] / priors.anchors, keras.config.epsilon())) / factor
        return ops.concatenate([yx, hw], axis=-1)
