"""What heads share: the layers behind their convolutions, the last convolution of a level, initial biases."""

import math

import keras
import numpy as np
from keras import initializers, layers, ops


class _Regrouped(layers.Layer):
    """The same numbers in the same order, as compute_output_shape says.

    Args:
        count: A, boxes of a cell.
    """

    quantization = "moves"

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        """As compute_output_shape."""
        return ops.reshape(x, self.compute_output_shape(ops.shape(x)))


class PerAnchor(_Regrouped):
    """[B, h, w, A * Z] -> [B, h, w, A, Z]: a cell's outputs, box by box."""

    def compute_output_shape(self, shape):
        """(B, h, w, A, Z) of (B, h, w, A * Z)."""
        return (*shape[:-1], self.count, shape[-1] // self.count)


class InRow(_Regrouped):
    """[B, h, w, A * Z] -> [B, h, w * A, Z]: a cell's outputs side by side, a box each.

    What is divided by parts before it gets a side for the boxes has 4 sides at most, as phones' GPUs need it.
    """

    def compute_output_shape(self, shape):
        """(B, h, w * A, Z) of (B, h, w, A * Z)."""
        width = None if shape[2] is None else shape[2] * self.count
        return (*shape[:2], width, shape[3] // self.count)


class OfRow(_Regrouped):
    """[B, h, w * A, Z] -> [B, h, w, A, Z]: the boxes of InRow, cell by cell."""

    def compute_output_shape(self, shape):
        """(B, h, w, A, Z) of (B, h, w * A, Z)."""
        width = None if shape[2] is None else shape[2] // self.count
        return (*shape[:2], width, self.count, shape[3])


class Implicit(layers.Layer):
    """Implicit knowledge: one learned number a channel, which does not depend on the image.

    Args:
        operation: "add": it is added; "multiply": it is a factor.

    Raises:
        ValueError: another operation.

    Source: Wang et al. 2021, "You Only Learn One Representation", arXiv:2105.04206.
    """

    fusion, quantization = "affine", "float"

    def __init__(self, operation, **kwargs):
        super().__init__(**kwargs)
        if operation not in ("add", "multiply"):
            raise ValueError(f"operation: expected add or multiply, received {operation!r}")
        self.operation = operation

    def build(self, shape):
        """Makes the numbers of inputs of a shape (..., C)."""
        mean = 0.0 if self.operation == "add" else 1.0
        self.knowledge = self.add_weight((shape[-1],), keras.initializers.RandomNormal(mean, 0.02), name="knowledge")

    def call(self, x):
        """[..., C] -> [..., C]."""
        knowledge = ops.cast(self.knowledge, x.dtype)
        return x + knowledge if self.operation == "add" else x * knowledge

    def affine(self):
        """(scale, shift), [C]: it computes x * scale + shift."""
        knowledge = ops.convert_to_numpy(self.knowledge)
        if self.operation == "add":
            return np.ones_like(knowledge), knowledge
        return knowledge, np.zeros_like(knowledge)

    def get_config(self):
        """The options, for Keras."""
        return super().get_config() | {"operation": self.operation}


def split_parts(x, parts):
    """[..., sum of Z] -> {part: [..., Z]}."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()
    return dict(zip(parts, ops.split(x, ends, axis=-1) if ends else [x], strict=True))


def declared(layer, *blocks):
    """A head's layer, which declares what its output channels are, in its attribute `output_channels`.

    Weights for other classes go by it (weights.transfer): which channels stand for which class.

    Args:
        layer: whose last axis the channels are, of each variable.
        blocks: one after the other, each (parts, count): the channels of these parts, the decoder's, part by part, and
            that `count` times.
    """
    layer.output_channels = tuple((tuple(parts), count) for parts, count in blocks)
    return layer


def outputs(x, parts, num_anchors, biases, name, implicit=False):
    """The last 1x1 convolution of a level: [B, h, w, C] -> {part: [B, h, w, A, Z]}.

    biases: {part: the initial bias}, else 0. implicit: implicit knowledge is added before and multiplied after.
    """
    total = sum(parts.values())
    bias = np.concatenate([np.full(size, biases.get(part, 0.0)) for part, size in parts.items()])
    if implicit:
        x = Implicit("add", name=f"{name}.implicit_add")(x)
    convolution = layers.Conv2D(
        num_anchors * total,
        1,
        data_format="channels_last",
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        bias_initializer=initializers.Constant(np.tile(bias, num_anchors)),
        name=f"{name}.out",
    )
    x = declared(convolution, (parts, num_anchors))(x)  # [B, h, w, A * Z]
    if implicit:
        x = declared(Implicit("multiply", name=f"{name}.implicit_multiply"), (parts, num_anchors))(x)
    if len(parts) == 1:
        return {part: PerAnchor(num_anchors, name=f"{name}.anchors")(x) for part in parts}  # [B, h, w, A, Z]
    x = InRow(num_anchors, name=f"{name}.row")(x)  # [B, h, w * A, Z]
    return {
        part: OfRow(num_anchors, name=f"{name}.{part}.anchors")(values)  # [B, h, w, A, Z]
        for part, values in split_parts(x, parts).items()
    }


def prior_biases(parts, prior):
    """The initial biases with which an untrained head predicts an object with this probability in every cell."""
    logit = math.log(prior / (1 - prior))
    return {"obj": logit} if "obj" in parts else {"cls": logit}
