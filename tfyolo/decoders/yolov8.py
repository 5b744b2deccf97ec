"""YOLOv8's boxes, from distributions of distances."""

import numpy as np
from keras import ops

from tfyolo.config.ranges import Bins, Levels
from tfyolo.decoders.decoder import Decoder


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

    has_objectness, is_distribution, saturating = False, True, ("cls",)

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
        cell = priors.strides[..., None]
        return ops.concatenate([priors.centers - first * cell, priors.centers + second * cell], axis=-1)

    def encode(self, boxes, priors):
        """Boxes [..., N, 4] -> codes [..., N, 4], the inverse of decode."""
        before, after = ops.split(boxes, 2, axis=-1)
        return ops.concatenate([priors.centers - before, after - priors.centers], axis=-1) / priors.strides[..., None]
