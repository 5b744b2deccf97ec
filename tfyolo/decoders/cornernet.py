"""CornerNet's boxes, pairs of corners."""

import keras
from keras import ops

from tfyolo.config.ranges import Corners, Count, Level, Positive
from tfyolo.decoders.decoder import image_size
from tfyolo.structures import Candidates, as_raw, level_stride


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

    has_boxes, has_objectness, has_background, is_distribution, has_largest = False, False, False, False, False
    saturating = ()

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
        return min(self.pairs, self._corners(as_raw(raw).parts["cls"][self.levels[0]].shape) ** 2)

    def _corners(self, shape):
        """How many peaks are picked of maps of a shape [B, h, w, 2, K]."""
        known = None not in (shape[1], shape[2])
        return min(self.corners, shape[1] * shape[2] * shape[4]) if known else self.corners

    def objectness(self, raw):
        """The highest heat of any class: Raw -> {corner: [B, h, w]}, 0..1."""
        heat = ops.max(ops.sigmoid(ops.cast(as_raw(raw).parts["cls"][self.levels[0]], "float32")), axis=-1)
        return {"top left": heat[..., 0], "bottom right": heat[..., 1]}

    def call(self, raw):
        """Raw -> Candidates without priors and logits, float32."""
        (level,), parts = self.levels, as_raw(raw).parts
        heat, embed, offset = (ops.cast(parts[part][level], "float32") for part in ("cls", "embed", "offset"))
        size = image_size({level: ops.shape(heat)[1:3]}, level)
        K, count = heat.shape[-1], self._corners(heat.shape)
        found = [self._peaks(heat[..., i, :], embed[..., i, :], offset[..., i, :], count) for i in (0, 1)]
        scores, labels, points, tags = zip(*found, strict=True)  # [B, k], [B, k], [B, k, 2], [B, k]

        def paired(values):
            """[B, k] of either corner -> [B, k, 1] and [B, 1, k]."""
            return ops.expand_dims(values[0], 2), ops.expand_dims(values[1], 1)

        first, second = paired(scores)
        (label, other), (tag, twin) = paired(labels), paired(tags)
        (y1, x1), (y2, x2) = (ops.unstack(yx, 2, axis=-1) for yx in paired(points))
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
