"""Decoders: Raw -> Candidates. Keras layers without a single weight, with two readers: the losses and the post-processing.

    num_anchors                     boxes a cell proposes
    levels                          the feature levels it reads, finest first
    parts(num_classes)              {part: channels}, what the head must give
    call(raw) -> Candidates         everything decoded, in float32
    activate(logits) -> codes       raw box outputs [..., N, 4] -> codes, the space that squared errors are taken in
    decode(codes, priors) -> boxes  [..., N, 4] -> [..., N, 4]
    encode(boxes, priors) -> codes  the inverse of decode
    objectness(raw) -> {level: [B, h, w]}  how sure each cell is that it holds something, 0..1, to look at

Codes are computed in two halves: what is joined has one scale in an int8 file, and a sigmoid's would become a logarithm's, too. A
decoder of one's own says how, in halves of the last axis:
    _activate(logits) -> (first, second)      _decode(first, second, priors) -> boxes

Candidates stand in the order level (finest first), row, column, anchor.
"""

import keras
import numpy as np
from keras import ops

from tfyolo.boxes import boxes_to_yxhw
from tfyolo.structures import Candidates, Priors, level_stride


def make_priors(grids, anchors):
    """Priors of the cells of all levels.

    grids: {level: (h, w)}, finest first; of a picture whose size is open, tensors. anchors: {level: [A, 2] (h, w) in pixels}.
    """
    known = all(isinstance(side, int) for grid in grids.values() for side in grid)
    xp = np if known else ops  # the same words: constants where they can be
    centers, strides, sizes = [], [], []
    for level, (height, width) in grids.items():
        stride, shapes = float(level_stride(level)), np.asarray(anchors[level], "float32")
        y, x = xp.meshgrid(*(xp.arange(side, dtype="float32") for side in (height, width)), indexing="ij")
        cells = (xp.stack([xp.ravel(y), xp.ravel(x)], -1) + 0.5) * stride
        centers.append(xp.repeat(cells, len(shapes), axis=0))
        strides.append(xp.full_like(centers[-1][:, 0], stride))
        sizes.append(xp.reshape(xp.zeros_like(cells)[:, None] + shapes, (-1, 2)))
    return Priors(*(xp.concatenate(values) for values in (centers, strides, sizes)))


def _around(yx, hw):
    """Boxes with these middles and sides: [..., 2] each."""
    return ops.concatenate([yx - hw / 2, yx + hw / 2], axis=-1)


def check_levels(name, value, levels):
    """Raises ValueError unless an option is one number, or holds one for each of the levels."""
    if isinstance(value, dict) and set(value) != set(levels):
        raise ValueError(f"{name}: expected a number for each of {', '.join(levels)}, received {value}")


def by_level(value, priors):
    """Each candidate's share of an option that is one number, or {level: number}: [N] float32."""
    values = value if isinstance(value, dict) else {}
    shares = ops.full_like(priors.strides, 0.0 if values else value)
    for level, number in values.items():
        shares = ops.where(ops.equal(priors.strides, level_stride(level)), number, shares)
    return shares


class Decoder(keras.layers.Layer):
    """What the decoders of grids of cells share: flattening Raw, and the scores.

    anchors: {level: [(h, w), ...]} in pixels of the network's input.
    """

    def __init__(self, anchors, name):
        super().__init__(name=name, dtype="float32")
        counts = {level: len(sizes) for level, sizes in anchors.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"expected the same number of anchors at every level, at least 1, received {counts}")
        self.anchors = {level: anchors[level] for level in sorted(anchors, key=level_stride)}
        self.levels = tuple(self.anchors)
        self.num_anchors = next(iter(counts.values()))

    def _class_probability(self, logits):
        return self._probability(logits)

    def parts(self, num_classes):
        return {"box": 4, "obj": 1, "cls": num_classes}

    def _flatten(self, levels):
        """{level: [B, h, w, A or 1, Z]} -> [B, N, Z] float32. What is said once a cell is repeated for each of its boxes."""
        flat = []
        for level in self.levels:
            x = ops.cast(levels[level], "float32")  # a head under mixed precision hands over its own type
            _, height, width, count, channels = ops.shape(x)
            if count < self.num_anchors:
                x = ops.repeat(x, self.num_anchors, axis=3)
            flat.append(ops.reshape(x, (-1, height * width * self.num_anchors, channels)))
        return ops.concatenate(flat, axis=1)

    def call(self, raw):
        logits = {part: self._flatten(levels) for part, levels in raw.items() if part != "aux"}
        priors = make_priors({level: ops.shape(raw["box"][level])[1:3] for level in self.levels}, self.anchors)
        boxes = self._decode(*self._activate(logits["box"]), priors)
        scores = self._class_probability(logits["cls"])
        if "obj" in logits:
            scores = self._probability(logits["obj"]) * scores
        return Candidates(boxes, scores, logits, priors)

    def activate(self, logits):
        return ops.concatenate(self._activate(logits), axis=-1)

    def decode(self, codes, priors):
        return self._decode(*ops.split(codes, 2, axis=-1), priors)

    def objectness(self, raw):
        told = raw.get("obj", raw["cls"])
        return {
            level: ops.max(self._probability(ops.cast(told[level], "float32")), axis=(-2, -1)) for level in self.levels
        }


class Anchor(Decoder):
    """YOLOv3's boxes: an offset inside the cell and a factor on an anchor (Redmon and Farhadi 2018, arXiv:1804.02767, section 2.1).

    anchors: {level: [(h, w), ...]} in pixels of the network's input.
    scale_yx: s in s * sigmoid(t) - (s - 1) / 2, above 1 to let centres reach the cell's border (Bochkovskiy et al. 2020,
    arXiv:2004.10934, section 3.4: "eliminate grid sensitivity"); of all levels or {level: s}. The codes are sigmoid(t) and the
    factor's logarithm.
    largest: pixels that no side is longer than; an untrained network cannot overflow.
    """

    def __init__(
        self,
        *,
        anchors: dict[str, list[tuple[float, float]]],
        scale_yx: float | dict[str, float] = 1.0,
        largest: float = 32768.0,
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
        """Pixels between the two ends of sigmoid: [N, 1]."""
        return (by_level(self.scale_yx, priors) * priors.strides)[:, None]

    def _sides(self, codes_hw, anchors):
        # The anchor within the exponent: in an int8 file the factors of large and small anchors would share one scale.
        return ops.exp(ops.minimum(codes_hw + ops.log(anchors), float(np.log(self.largest))))

    @staticmethod
    def _codes_hw(factor):
        return ops.log(ops.maximum(factor, keras.config.epsilon()))

    def _decode(self, first, second, priors):
        # s * sigmoid(t) - (s - 1) / 2 is counted from the cell's corner; from its centre it is s * (sigmoid(t) - 1 / 2).
        return _around(priors.centers + (first - 0.5) * self._reach(priors), self._sides(second, priors.anchors))

    def encode(self, boxes, priors):
        boxes_yxhw = boxes_to_yxhw(boxes)
        yx = (boxes_yxhw[..., :2] - priors.centers) / self._reach(priors) + 0.5
        return ops.concatenate([yx, self._codes_hw(boxes_yxhw[..., 2:] / priors.anchors)], axis=-1)


class Wide(Anchor):
    """The boxes of YOLOv4-CSP and YOLOv7: no exponential, sides of at most four anchors (Darknet's new_coords=1).

    y, x = s * sigmoid(t) - (s - 1) / 2, with s = 2 half a cell beyond each border; h, w = (2 * sigmoid(t))^2 * anchor. The codes are
    sigmoid(t), all four; of a side above four anchors, encode gives a code above 1: it still decodes to that side.
    """

    def __init__(
        self,
        *,
        anchors: dict[str, list[tuple[float, float]]],
        scale_yx: float | dict[str, float] = 2.0,
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
    """YOLOv2's boxes: those of `anchor`, of one class out of K (Redmon and Farhadi 2017, arXiv:1612.08242, section 2).

    The classes are a softmax: their scores add up to the objectness.
    """

    _class_probability = staticmethod(ops.softmax)


class Dfl(Decoder):
    """YOLOv8's boxes: the distances from a cell's centre to the four sides, each the mean of a distribution over so many cells.

    (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388, section 3.2.) There are no anchors and there is no objectness: a
    class's score says how well the box fits, too. The codes are the distances to the top, left, bottom and right side in cells.

    bins: numbers of cells that the distributions are over: 0 .. bins - 1. The raw outputs are their logits, side by side.
    levels: the feature levels.
    """

    def __init__(self, *, bins: int = 16, levels: tuple[str, ...] = ("p3", "p4", "p5"), name="decoder"):
        if bins < 2:
            raise ValueError(f"bins: expected at least 2, received {bins}")
        super().__init__({level: [(0.0, 0.0)] for level in levels}, name)
        self.bins = bins

    _probability = staticmethod(ops.sigmoid)

    def parts(self, num_classes):
        return {"box": 4 * self.bins, "cls": num_classes}

    def distributions(self, logits):
        """Raw box outputs [..., 4 * bins] -> [..., 4, bins], still logits."""
        return ops.reshape(logits, (-1, *ops.shape(logits)[1:-1], 4, self.bins))

    def _activate(self, logits):
        share = ops.softmax(self.distributions(logits), axis=-1)
        return ops.split(ops.sum(share * np.arange(self.bins, dtype="float32"), axis=-1), 2, axis=-1)

    def _decode(self, first, second, priors):
        cell = priors.strides[:, None]
        return ops.concatenate([priors.centers - first * cell, priors.centers + second * cell], axis=-1)

    def encode(self, boxes, priors):
        before, after = ops.split(boxes, 2, axis=-1)
        return ops.concatenate([priors.centers - before, after - priors.centers], axis=-1) / priors.strides[:, None]


class Grid(Decoder):
    """YOLOv1's boxes: an offset inside the cell, and the roots of the sides as parts of the picture (arXiv:1506.02640, section 2).

    Outputs are linear, squared errors taken on them as they are; scores are cut to 0..1. level: "p6" where a cell is 64 pixels.
    """

    def __init__(self, *, boxes_per_cell: int = 2, level: str = "p6", name="decoder"):
        super().__init__({level: [(0.0, 0.0)] * boxes_per_cell}, name)

    @staticmethod
    def _probability(x):
        return ops.clip(x, 0.0, 1.0)

    def _activate(self, logits):
        return ops.split(logits, 2, axis=-1)

    @staticmethod
    def _picture_hw(priors):
        return ops.max(priors.centers + priors.strides[:, None] / 2, axis=0)  # [2]

    def _decode(self, first, second, priors):
        yx = priors.centers + (first - 0.5) * priors.strides[:, None]
        return _around(yx, ops.square(second) * self._picture_hw(priors))

    def encode(self, boxes, priors):
        boxes_yxhw = boxes_to_yxhw(boxes)
        yx = (boxes_yxhw[..., :2] - priors.centers) / priors.strides[:, None] + 0.5
        hw = ops.sqrt(ops.maximum(boxes_yxhw[..., 2:], 0.0) / self._picture_hw(priors))
        return ops.concatenate([yx, hw], axis=-1)


DECODERS = {
    "anchor": Anchor,
    "wide": Wide,
    "region": Region,
    "dfl": Dfl,
    "grid": Grid,
}
