"""Layers that change the grid of a feature map: upsampling and space to depth."""

import tensorflow as tf
from keras import layers, ops


class Upsample(layers.Layer):
    """Nearest-neighbour upsampling.

    It is one RESIZE_NEAREST_NEIGHBOR in TFLite, where UpSampling2D becomes a reshape and a tile.

    Args:
        factor: an integer, from 2 up.
        kwargs: of Layer.
    """

    quantization = "moves"

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        """[B, h, w, C] -> [B, factor * h, factor * w, C]."""
        size = self.compute_output_shape(x.shape)[1:3]
        if None in size:
            return ops.repeat(ops.repeat(x, self.factor, axis=1), self.factor, axis=2)
        # A pixel's corner and its middle come from the same cell, as the factor is whole; without half-pixel centres
        # Coral's compiler takes it, too.
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size, align_corners=False, half_pixel_centers=False)

    def compute_output_shape(self, shape):
        """As call()."""
        return (shape[0], *(None if side is None else self.factor * side for side in shape[1:3]), shape[3])


class Resize(layers.Layer):
    """Nearest-neighbour upsampling to a grid that need not be a multiple.

    Args:
        size: (h, w) of the output, in cells.
        kwargs: of Layer.
    """

    quantization = "moves"

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x):
        """[B, any, any, C] -> [B, h, w, C]."""
        return ops.image.resize(x, self.size, interpolation="nearest", data_format="channels_last")

    def compute_output_shape(self, shape):
        """As call()."""
        return (shape[0], *self.size, shape[3])


class SpaceToDepth(layers.Layer):
    """Joins the channels of four pixels side by side, columns before rows.

    Source: the first layer of YOLOv7's P6 models.
    """

    quantization = "moves"

    def call(self, x):
        """[B, h, w, C] -> [B, h / 2, w / 2, 4 * C]."""
        _, height, width, channels = self.compute_output_shape(ops.shape(x))
        channels //= 4
        x = ops.reshape(x, (-1, height, 2, width, 2, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, height, width, 4 * channels))

    def compute_output_shape(self, shape):
        """As call()."""
        return (shape[0], *(None if side is None else side // 2 for side in shape[1:3]), 4 * shape[3])
