"""Layers that only Darknet's networks have."""

import numpy as np
from keras import initializers, layers, ops


class LocallyConnected(layers.Layer):
    """A convolution with another kernel at every place.

    Its kernel is [h, w, size * size * C, filters], its bias [h, w, filters].

    Args:
        filters: channels of the output.
        size: of the window, in cells.
        stride: in cells.
        pad: cells of zeros on each side.
    """

    quantization = "float"
    undecayed = ("bias",)  # training.optim.undecayed

    def __init__(self, filters, size, stride, pad, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.pad = filters, size, stride, pad

    def build(self, shape):
        """Makes kernel and bias for inputs of a shape (B, H, W, C)."""
        _, height, width, _ = self.compute_output_shape(shape)
        inputs = self.size * self.size * shape[-1]
        normal = initializers.RandomNormal(stddev=(2 / inputs) ** 0.5)  # he_normal of each place by itself
        self.kernel = self.add_weight((height, width, inputs, self.filters), normal, name="kernel")
        self.bias = self.add_weight((height, width, self.filters), "zeros", name="bias")

    def call(self, x):
        """[B, H, W, C] -> [B, h, w, filters]."""
        x = ops.pad(x, [(0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)])
        patches = ops.image.extract_patches(x, self.size, self.stride, padding="valid", data_format="channels_last")
        return ops.einsum("bhwp,hwpf->bhwf", patches, ops.cast(self.kernel, x.dtype)) + ops.cast(self.bias, x.dtype)

    def compute_output_shape(self, shape):
        """(B, h, w, filters) of (B, H, W, C)."""
        sides = [windows(side, self.size, self.stride, self.pad) for side in shape[1:3]]
        return (shape[0], *sides, self.filters)


class MeanInside(layers.Layer):
    """The mean of what a window covers of the feature map.

    Args:
        size: of the window, in cells.
        stride: in cells.
        padding: cells that windows reach beyond the map, both sides together; the smaller half before.
    """

    quantization = "float"

    def __init__(self, size, stride, padding, **kwargs):
        super().__init__(**kwargs)
        self.size, self.stride, self.padding = size, stride, padding

    def call(self, x):
        """[B, H, W, C] -> [B, h, w, C]."""
        both = (self.padding // 2, self.padding - self.padding // 2)
        edges = [(0, 0), both, both, (0, 0)]
        inside = np.pad(np.ones((1, *x.shape[1:3], 1), "float32"), edges)
        x, inside = (
            ops.average_pool(each, self.size, self.stride, "valid", "channels_last")
            for each in (ops.pad(x, edges), inside)
        )
        return x / ops.cast(inside, x.dtype)

    def compute_output_shape(self, shape):
        """(B, h, w, C) of (B, H, W, C)."""
        return (shape[0], *((side + self.padding - self.size) // self.stride + 1 for side in shape[1:3]), shape[3])


class WeightedSum(layers.Layer):
    """The sum of feature maps of one shape, each times a learned weight: weights [maps, 1 or C].

    Args:
        per_channel: whether each channel has a weight of its own.
        normalization: "none"; or the weights of the maps are brought to a sum of 1 by "relu" or "softmax".

    Source: Tan et al. 2020, arXiv:1911.09070, section 3.3.
    """

    quantization = "float"
    undecayed = ("weights_of_maps",)  # training.optim.undecayed; a map that counts as it is has 1

    def __init__(self, per_channel, normalization, **kwargs):
        super().__init__(**kwargs)
        self.per_channel, self.normalization = per_channel, normalization

    def build(self, shapes):
        """Makes the weights for maps of such shapes."""
        shape = (len(shapes), shapes[0][-1] if self.per_channel else 1)
        self.weights_of_maps = self.add_weight(shape, "ones", name="weights")

    def call(self, maps):
        """[[B, h, w, C], ...] -> [B, h, w, C]."""
        weights = self.weights_of_maps
        if self.normalization == "relu":
            weights = ops.maximum(weights, 1e-3)
            weights = weights / (ops.sum(weights, axis=0) + 1e-4)
        elif self.normalization == "softmax":
            weights = ops.exp(weights - ops.max(weights, axis=0))
            weights = weights / (ops.sum(weights, axis=0) + 1e-4)
        return sum(x * ops.cast(w, x.dtype) for x, w in zip(maps, ops.unstack(weights), strict=True))


class Passthrough3d(layers.Layer):
    """[reorg3d]: blocks of stride x stride cells become channels, by row in the block, column in the block, channel.

    Args:
        stride: sides of a block, in cells.
    """

    quantization = "float"

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, x):
        """[B, h, w, C] -> [B, h / stride, w / stride, stride^2 * C]."""
        s, (height, width, channels) = self.stride, x.shape[1:]
        x = ops.reshape(x, (-1, height // s, s, width // s, s, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height // s, width // s, s * s * channels))

    def compute_output_shape(self, shape):
        """(B, h / stride, w / stride, stride^2 * C) of (B, h, w, C)."""
        s = self.stride
        return (shape[0], shape[1] // s, shape[2] // s, shape[3] * s * s)


class Passthrough(Passthrough3d):
    """The same in the order of Darknet's [reorg], which shuffles cells: it takes the output's shape for the input's.

    Published weights were trained with it.

    Source: Redmon and Farhadi 2017, arXiv:1612.08242, section 2 (passthrough), and the code published with it.
    """

    def call(self, x):
        """[B, h, w, C] -> [B, h / stride, w / stride, stride^2 * C]."""
        s, (height, width, channels) = self.stride, x.shape[1:]
        x = ops.transpose(x, (0, 3, 1, 2))  # Darknet's memory: channel, row, column
        x = ops.reshape(x, (-1, channels // (s * s), height, s, width, s))
        x = ops.transpose(x, (0, 3, 5, 1, 2, 4))
        x = ops.reshape(x, (-1, s * s * channels, height // s, width // s))
        return ops.transpose(x, (0, 2, 3, 1))


def windows(side, size, stride, pad):
    """How many windows of a convolution fit along a side; ValueError if not one does."""
    count = (side + 2 * pad - size) // stride + 1
    if count < 1:
        raise ValueError(f"a window of {size} pixels does not fit into {side} with {pad} of padding on each end")
    return count
