"""What the decoders of grids of cells share."""

import keras
import numpy as np
from keras import ops

from tfyolo.structures import Candidates, Priors, as_raw, level_stride

SATURATED = 8.0  # what a sigmoid makes of more is within .0004 of 0 or 1


def namespace(grids):
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
    xp = namespace(grids)
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


def image_size(grids, level):
    """[2] float32 (H, W) of the image that grids {level: (h, w)} cover, from its finest level."""
    return namespace(grids).array([side * level_stride(level) for side in grids[level]], dtype="float32")


def around(yx, hw):
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
        [N] float32, or as the priors' strides are.
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

    has_boxes, has_objectness, has_background, is_distribution, has_largest = True, True, False, False, False
    box_channels = 4
    saturating = ()  # parts whose raw outputs beyond +-SATURATED decode like those

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
        parts = as_raw(raw).parts
        logits = {part: self._flatten(levels) for part, levels in parts.items()}
        grids = {level: ops.shape(parts["box"][level])[1:3] for level in self.levels}
        priors = self._priors(grids)
        # With a side for the batch, too: a phone's GPU broadcasts no [N, 2] to [B, N, 2].
        boxes = self._decode(*self._activate(logits["box"]), Priors(*(each[None] for each in priors)))
        scores = self._class_probability(logits["cls"])
        if self.has_objectness:
            scores = self._probability(logits["obj"]) * scores
        return Candidates(boxes, scores, logits, priors, image_size(grids, self.levels[0]))

    def _priors(self, grids):
        return make_priors(grids, self.anchors)

    def check(self, raw):
        """Raises ValueError unless the grids of Raw halve from level to level."""
        boxes = as_raw(raw).parts["box"]
        sides = {
            level: [side and side * level_stride(level) for side in boxes[level].shape[1:3]] for level in self.levels
        }
        if len({tuple(each) for each in sides.values()}) > 1:
            raise ValueError(f"expected grids that halve from level to level, received ones of images of {sides}")

    def count(self, raw):
        """How many candidates an image of a known size has."""
        boxes = as_raw(raw).parts["box"]
        return sum(int(np.prod(boxes[level].shape[1:3])) * self.num_anchors for level in self.levels)

    def activate(self, logits):
        """Raw box outputs [..., N, Z] -> codes [..., N, 4]."""
        return ops.concatenate(self._activate(logits), axis=-1)

    def decode(self, codes, priors):
        """Codes [..., N, 4] -> boxes [..., N, 4]."""
        return self._decode(*ops.split(codes, 2, axis=-1), priors)

    def objectness(self, raw):
        """How likely each cell holds an object: Raw -> {level: [B, h, w]}, 0..1."""
        logits = as_raw(raw).parts["obj" if self.has_objectness else "cls"]
        return {
            level: ops.max(self._probability(ops.cast(logits[level], "float32")), axis=(-2, -1))
            for level in self.levels
        }
