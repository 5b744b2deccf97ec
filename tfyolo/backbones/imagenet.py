"""The input of backbones that were trained on ImageNet."""

import numpy as np
from keras import layers, ops


class Centred(layers.Layer):
    """Images less a constant colour: [B, H, W, 3] -> the same shape.

    The convolutions of a pretrained network pad with zeros, which meant that colour to it. Where a shift of the input
    became part of a bias, they would pad with black.

    Args:
        colour: (red, green, blue), 0..1.
    """

    fusion, quantization = "affine", "computes"

    def __init__(self, colour, **kwargs):
        super().__init__(**kwargs)
        self.colour = tuple(map(float, colour))

    def call(self, x):
        """[B, H, W, 3] -> the same less the colour."""
        return x - ops.convert_to_tensor(np.array(self.colour, "float32"), dtype=x.dtype)

    def affine(self):
        """(scale, shift), [3] each: it computes x * scale + shift."""
        return np.ones(3), -np.array(self.colour)

    def compute_output_shape(self, shape):
        """That of the input."""
        return shape

    def get_config(self):
        """The arguments."""
        return super().get_config() | {"colour": self.colour}
