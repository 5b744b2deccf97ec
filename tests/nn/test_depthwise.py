"""Depthwise convolutions in bfloat16: their own gradients against those of TensorFlow in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfyolo.nn.depthwise import DepthwiseConv2D


def gradients(layer, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
    return y, *tape.gradient(loss, [x, layer.kernel.value])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(12, 12), (13, 9)])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 3), (4, 2), (8, 2)])
def test_gradients_are_those_of_float32(kernel, stride, size, padding):
    rng = np.random.default_rng(0)
    # Numbers that bfloat16 holds: what is left of a difference comes from the sums.
    x, weights = rng.integers(-4, 5, (2, *size, 6)), rng.integers(-4, 5, (kernel, kernel, 6, 1))
    options = {"strides": stride, "padding": padding, "use_bias": False}
    found = []
    for layer in (
        DepthwiseConv2D(kernel, dtype="mixed_bfloat16", **options),
        keras.layers.DepthwiseConv2D(kernel, **options),
    ):
        inputs = tf.cast(x, layer.compute_dtype)
        layer.build(inputs.shape)
        layer.kernel.assign(weights)
        shape = layer.compute_output_shape(inputs.shape)
        upstream = np.random.default_rng(1).integers(-4, 5, shape).astype("float32")
        found.append(gradients(layer, inputs, upstream))
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(tf.cast(mine, tf.float32), theirs, atol=0.01 * np.abs(theirs).max())


def test_its_own_gradients_are_used():
    """The kernel's in 2 x 2 blocks, the input's in float32: no fallback to the slow ones by accident."""

    def found(dtype):
        layer = DepthwiseConv2D(5, strides=2, use_bias=False, dtype=dtype)
        layer.build((2, 16, 16, 3))
        step = tf.function(lambda x: gradients(layer, x, 1.0))
        operations = step.get_concrete_function(tf.zeros((2, 16, 16, 3), layer.compute_dtype)).graph.get_operations()
        of_input, of_kernel = (
            [op.get_attr("T").name for op in operations if op.type == f"DepthwiseConv2dNativeBackprop{name}"]
            for name in ("Input", "Filter")
        )
        return of_input, len(of_kernel)

    assert found("float32") == (["float32"], 1) and found("mixed_bfloat16") == (["float32"], 4)
