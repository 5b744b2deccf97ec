"""Decoders: Raw -> Candidates. Keras layers without weights; the losses and the post-processing read them.

    levels                          the feature levels it reads, finest first
    num_anchors                     boxes, or corners, that a cell proposes
    multiple                        what the sides of an image must be multiples of
    has_boxes                       whether it reads raw["box"], and has codes, priors and logits
    has_objectness                  whether it reads raw["obj"], which the class scores are multiplied by
    has_background                  whether raw["cls"] holds 1 + K classes, the background first
    is_distribution                 whether raw["box"] holds logits of distributions: distributions(logits)
    parts(num_classes)              {part: channels}, what the head must give
    check(raw)                      ValueError if the grids are not those that it reads
    count(raw)                      candidates of an image
    call(raw) -> Candidates         everything decoded, in float32
    activate(logits) -> codes       raw box outputs [..., N, 4] -> codes, the space that squared errors are taken in
    decode(codes, priors) -> boxes  [..., N, 4] -> [..., N, 4]
    encode(boxes, priors) -> codes  the inverse of decode
    objectness(raw) -> {level: [B, h, w]}  how likely each cell holds an object, 0..1, for plots

What an objective may ask is one of the attributes above; it never infers them from the parts.

Codes are computed in two halves: a tensor that joins them has one scale in an int8 file, and a sigmoid would share that
of a logarithm. A subclass of Decoder implements both, in halves of the last axis:
    _activate(logits) -> (first, second)      _decode(first, second, priors) -> boxes

Candidates stand in the order level (finest first), row, column, anchor.
"""

import keras
import numpy as np
from keras import ops

from tfyolo.boxes import boxes_to_yxhw
from tfyolo.config.ranges import Anchors, Bins, Corners, Count, Level, Levels, Positive, Ratios, Repeats, Sizes
from tfyolo.structures import Candidates, Priors, level_stride


def _namespace(grids):
    """NumPy where the grids are known, so that what it makes is constant; else keras.ops, with the same functions."""
    return np if all(isinstance(side, int) for grid in grids.values() for side in grid) else ops


def make_priors(grids, anchors, cells=None):
    """The priors of the cells of all levels.

    Args:
        grids: {level: (h, w)}, finest first; tensors for an image of an open size.
        anchors: {level: [A, 2] (h, w) in pixels}.
        cells: {level: [2] (h, w), a cell's sides in pixels}; None: the level's stride.

    Returns:
        Priors.
    """
    xp = _namespace(grids)
    centers, strides, sizes = [], [], []
    for level, (height, width) in grids.items():
        cell = cells[level] if cells else np.full(2, level_stride(level), "float32")
        shapes = xp.array(anchors[level], dtype="float32")
        y, x = xp.meshgrid(*(xp.arange(side, dtype="float32") for side in (height, width)), indexing="ij")
        points = (xp.stack([xp.ravel(y), xp.ravel(x)], -1) + 0.5) * cell
        centers.append(xp.repeat(points, shapes.shape[0], axis=0))
        strides.append(xp.zeros_like(centers[-1][:, 0]) + xp.max(cell))
        sizes.append(xp.reshape(xp.zeros_like(points)[:, None] + shapes, (-1, 2)))
    return Priors(*(xp.concatenate(values) for values in (centers, strides, sizes)))


def _image_size(grids, level):
    """[2] float32 (H, W) of the image that grids {level: (h, w)} cover, from its finest level."""
    return _namespace(grids).array([side * level_stride(level) for side in grids[level]], dtype="float32")


def _around(yx, hw):
    """Boxes [..., 4] with these centres and sides, [..., 2] each."""
    return ops.concatenate([yx - hw / 2, yx + hw / 2], axis=-1)


def check_levels(name, value, levels):
    """Checks an option that is one number or {level: number}.

    Args:
        name: of the option, for the error.
        value: the number or the dictionary.
        levels: names of the levels.

    Raises:
        ValueError: it is a dictionary of other levels.
    """
    if isinstance(value, dict) and set(value) != set(levels):
        raise ValueError(f"{name}: expected a number for each of {', '.join(levels)}, received {value}")


def by_level(value, priors):
    """Each candidate's value of an option.

    Args:
        value: one number, or {level: number}.
        priors: Priors of N candidates.

    Returns:
        [N] float32.
    """
    numbers = value if isinstance(value, dict) else {}
    values = ops.full_like(priors.strides, 0.0 if numbers else value)
    for level, number in numbers.items():
        values = ops.where(ops.equal(priors.strides, level_stride(level)), number, values)
    return values


class Decoder(keras.layers.Layer):
    """What the decoders of grids of cells share: flattening Raw, and the scores.

    Args:
        anchors: {level: [(h, w), ...]} in pixels of the network's input.
        name: of the Keras layer.

    Raises:
        ValueError: the levels have different numbers of anchors, or none.
    """

    has_boxes, has_objectness, has_background, is_distribution = True, True, False, False
    box_channels = 4

    def __init__(self, anchors, name):
        super().__init__(name=name, dtype="float32")
        counts = {level: len(sizes) for level, sizes in anchors.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"expected the same number of anchors at every level, at least 1, received {counts}")
        self.anchors = {level: anchors[level] for level in sorted(anchors, key=level_stride)}
        self.levels = tuple(self.anchors)
        self.multiple = level_stride(self.levels[-1])
        self.num_anchors = next(iter(counts.values()))

    def _class_probability(self, logits):
        return self._probability(logits)

    def parts(self, num_classes):
        """{part: channels Z} that the head must give for K = num_classes."""
        objectness = {"obj": 1} if self.has_objectness else {}
        return {"box": self.box_channels, **objectness, "cls": num_classes + self.has_background}

    def _flatten(self, levels):
        """{level: [B, h, w, A or 1, Z]} -> [B, N, Z] float32. A cell's one output is repeated for each of its boxes."""
        flat = []
        for level in self.levels:
            x = ops.cast(levels[level], "float32")  # a head under mixed precision hands over its own type
            _, height, width, count, channels = ops.shape(x)
            if count < self.num_anchors:
                x = ops.repeat(x, self.num_anchors, axis=3)
            flat.append(ops.reshape(x, (-1, height * width * self.num_anchors, channels)))
        return ops.concatenate(flat, axis=1)

    def call(self, raw):
        """Raw -> Candidates, float32."""
        logits = {part: self._flatten(levels) for part, levels in raw.items() if part != "aux"}
        grids = {level: ops.shape(raw["box"][level])[1:3] for level in self.levels}
        priors = self._priors(grids)
        boxes = self._decode(*self._activate(logits["box"]), priors)
        scores = self._class_probability(logits["cls"])
        if self.has_objectness:
            scores = self._probability(logits["obj"]) * scores
        return Candidates(boxes, scores, logits, priors, _image_size(grids, self.levels[0]))

    def _priors(self, grids):
        return make_priors(grids, self.anchors)

    def check(self, raw):
        """Raises ValueError unless the grids of Raw halve from level to level."""
        sides = {
            level: [side and side * level_stride(level) for side in raw["box"][level].shape[1:3]]
            for level in self.levels
        }
        if len({tuple(each) for each in sides.values()}) > 1:
            raise ValueError(f"expected grids that halve from level to level, received ones of images of {sides}")

    def count(self, raw):
        """How many candidates an image of a known size has."""
        return sum(int(np.prod(raw["box"][level].shape[1:3])) * self.num_anchors for level in self.levels)

    def activate(self, logits):
        """Raw box outputs [..., N, Z] -> codes [..., N, 4]."""
        return ops.concatenate(self._activate(logits), axis=-1)

    def decode(self, codes, priors):
        """Codes [..., N, 4] -> boxes [..., N, 4]."""
        return self._decode(*ops.split(codes, 2, axis=-1), priors)

    def objectness(self, raw):
        """How likely each cell holds an object: Raw -> {level: [B, h, w]}, 0..1."""
        logits = raw["obj" if self.has_objectness else "cls"]
        return {
            level: ops.max(self._probability(ops.cast(logits[level], "float32")), axis=(-2, -1))
            for level in self.levels
        }


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
        """Pixels between the two ends of sigmoid: [N, 1]."""
        return (by_level(self.scale_yx, priors) * priors.strides)[:, None]

    def _sides(self, codes_hw, anchors):
        # The anchor is inside the exponent: in an int8 file the factors of all anchors would share one scale.
        return ops.exp(ops.minimum(codes_hw + ops.log(anchors), float(np.log(self.largest))))

    @staticmethod
    def _codes_hw(factor):
        return ops.log(ops.maximum(factor, keras.config.epsilon()))

    def _decode(self, first, second, priors):
        # s * sigmoid(t) - (s - 1) / 2 is relative to the cell's corner; to its centre it is s * (sigmoid(t) - 1 / 2).
        return _around(priors.centers + (first - 0.5) * self._reach(priors), self._sides(second, priors.anchors))

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

    _class_probability = staticmethod(ops.softmax)


class Dfl(Decoder):
    """YOLOv8's boxes: distances from a cell's centre to the four sides, each the mean of a distribution.

    There are no anchors and no objectness: a class's score also measures how well the box fits. The codes are the
    distances to the top, left, bottom and right side, in cells.

    Args:
        bins: the distances 0 .. bins - 1, in cells, that a distribution covers. The raw outputs are their logits, side
            by side.
        levels: the feature levels.
        name: of the Keras layer.

    Source: Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388, section 3.2.
    """

    has_objectness, is_distribution = False, True

    def __init__(self, *, bins: Bins = 16, levels: Levels = ("p3", "p4", "p5"), name="decoder"):
        super().__init__({level: [(0.0, 0.0)] for level in levels}, name)
        self.bins, self.box_channels = bins, 4 * bins

    _probability = staticmethod(ops.sigmoid)

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
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        before, after = ops.split(boxes, 2, axis=-1)
        return ops.concatenate([priors.centers - before, after - priors.centers], axis=-1) / priors.strides[:, None]


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
        return ops.max(priors.centers + priors.strides[:, None] / 2, axis=0)  # [2]

    def _decode(self, first, second, priors):
        yx = priors.centers + (first - 0.5) * priors.strides[:, None]
        return _around(yx, ops.square(second) * self._image_hw(priors))

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        boxes_yxhw = boxes_to_yxhw(boxes)
        yx = (boxes_yxhw[..., :2] - priors.centers) / priors.strides[:, None] + 0.5
        hw = ops.sqrt(ops.maximum(boxes_yxhw[..., 2:], 0.0) / self._image_hw(priors))
        return ops.concatenate([yx, hw], axis=-1)


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

    has_objectness, has_background = False, True

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
            level: ops.max(1 - ops.softmax(ops.cast(raw["cls"][level], "float32"))[..., 0], axis=-1)
            for level in self.levels
        }

    def check(self, raw):
        """Accepts any grids."""

    def _priors(self, grids):
        xp = _namespace(grids)
        counts = {level: xp.array(xp.stack(list(grid)), dtype="float32") for level, grid in grids.items()}
        image_hw = counts[self.levels[0]] * float(level_stride(self.levels[0]))
        anchors = {level: np.array(units, "float32") * image_hw for level, units in self.anchors.items()}
        return make_priors(grids, anchors, {level: image_hw / count for level, count in counts.items()})

    def _activate(self, logits):
        return ops.split(logits, 2, axis=-1)

    def _decode(self, first, second, priors):
        offset, factor = self.variances
        hw = ops.exp(ops.minimum(factor * second + ops.log(priors.anchors), float(np.log(self.largest))))
        return _around(priors.centers + offset * first * priors.anchors, hw)

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        boxes_yxhw, (offset, factor) = boxes_to_yxhw(boxes), self.variances
        yx = (boxes_yxhw[..., :2] - priors.centers) / (offset * priors.anchors)
        hw = ops.log(ops.maximum(boxes_yxhw[..., 2:] / priors.anchors, keras.config.epsilon())) / factor
        return ops.concatenate([yx, hw], axis=-1)


class Corner(keras.layers.Layer):
    """CornerNet's boxes: pairs of corners of one class whose embeddings are close.

    The best peaks of each corner's heatmaps, cells that no neighbour exceeds, are paired. A pair is no box if its
    corners are of different classes, in the wrong order, or too far apart in embedding. The score is the mean of both.
    The best pairs are the candidates; they have neither priors nor logits.

    Args:
        level: its one feature level.
        corners: how many peaks of each kind of corner are paired.
        pairs: N, how many pairs are candidates, at most.
        apart: embeddings of one object differ by less than this.
        name: of the Keras layer.

    Source: Law and Deng 2018, arXiv:1808.01244, section 3.
    """

    has_boxes, has_objectness, has_background, is_distribution = False, False, False, False

    def __init__(
        self, *, level: Level = "p2", corners: Corners = 100, pairs: Count = 1000, apart: Positive = 0.5, name="decoder"
    ):
        super().__init__(name=name, dtype="float32")
        self.levels, self.num_anchors, self.multiple = (level,), 2, level_stride(level)
        self.corners, self.pairs, self.apart = corners, pairs, apart

    def parts(self, num_classes):
        """{part: channels Z} that the head must give for K = num_classes."""
        return {"cls": num_classes, "embed": 1, "offset": 2}

    def check(self, raw):
        """Accepts any grid."""

    def count(self, raw):
        """How many candidates an image of a known size has."""
        return min(self.pairs, self._corners(raw["cls"][self.levels[0]].shape) ** 2)

    def _corners(self, shape):
        """How many peaks are picked of maps of a shape [B, h, w, 2, K]."""
        known = None not in (shape[1], shape[2])
        return min(self.corners, shape[1] * shape[2] * shape[4]) if known else self.corners

    def objectness(self, raw):
        """The highest heat of any class: Raw -> {corner: [B, h, w]}, 0..1."""
        heat = ops.max(ops.sigmoid(ops.cast(raw["cls"][self.levels[0]], "float32")), axis=-1)
        return {"top left": heat[..., 0], "bottom right": heat[..., 1]}

    def call(self, raw):
        """Raw -> Candidates without priors and logits, float32."""
        (level,) = self.levels
        heat, embed, offset = (ops.cast(raw[part][level], "float32") for part in ("cls", "embed", "offset"))
        size = _image_size({level: ops.shape(heat)[1:3]}, level)
        K, count = heat.shape[-1], self._corners(heat.shape)
        found = [self._peaks(heat[..., i, :], embed[..., i, :], offset[..., i, :], count) for i in (0, 1)]
        scores, labels, points, tags = zip(*found, strict=True)  # [B, k], [B, k], [B, k, 2], [B, k]

        def paired(values):
            """[B, k] of either corner -> [B, k, 1] and [B, 1, k]."""
            return ops.expand_dims(values[0], 2), ops.expand_dims(values[1], 1)

        first, second = paired(scores)
        (label, other), (tag, twin) = paired(labels), paired(tags)
        (y1, x1), (y2, x2) = (ops.unstack(xy, 2, axis=-1) for xy in paired(points))
        fits = [label == other, ops.absolute(tag - twin) < self.apart, y2 > y1, x2 > x1, first * second > 0]
        alike = ops.cast(ops.all(ops.stack(fits, axis=-1), axis=-1), "float32")
        score, pair = ops.top_k(
            ops.reshape(alike * (first + second) / 2, (-1, count * count)), min(self.pairs, count**2)
        )
        start, end = pair // count, pair % count
        boxes = ops.concatenate([_picked(points[0], start), _picked(points[1], end)], axis=-1)
        labels = ops.take_along_axis(labels[0], start, axis=1)
        return Candidates(boxes, ops.one_hot(labels, K) * ops.expand_dims(score, -1), {}, None, size)

    def _peaks(self, heat, embed, offset, count):
        """The best corners of one kind: scores, labels [B, k], points [B, k, 2] in pixels, embeddings [B, k]."""
        _, height, width, K = ops.shape(heat)
        heat = ops.sigmoid(heat)
        around = ops.max_pool(heat, 3, 1, "same", data_format="channels_last")
        heat = ops.where(ops.equal(heat, around), heat, 0.0)
        heat = ops.reshape(heat, (-1, height * width * K))
        if heat.shape[1] is None:  # an image of an open size: there may be fewer cells than are picked
            heat = ops.pad(heat, [(0, 0), (0, count)])
        scores, index = ops.top_k(heat, count)
        cell, label = ops.minimum(index // K, height * width - 1), index % K
        offset = _picked(ops.reshape(offset, (-1, height * width, 2)), cell)
        place = ops.cast(ops.stack([cell // width, cell % width], axis=-1), "float32")
        tags = ops.take_along_axis(ops.reshape(embed, (-1, height * width)), cell, axis=1)
        return scores, label, (place + offset) * level_stride(self.levels[0]), tags


def _picked(values, index):
    """Rows of values [B, N, 2] at index [B, k] -> [B, k, 2]."""
    return ops.take_along_axis(values, ops.expand_dims(index, -1), axis=1)


DECODERS = {
    "anchor": Anchor,
    "wide": Wide,
    "region": Region,
    "dfl": Dfl,
    "grid": Grid,
    "ssd": Ssd,
    "corner": Corner,
}
