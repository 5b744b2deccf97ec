"""Depthwise convolution whose gradients are fast on a CPU in bfloat16."""

import itertools

import keras
import tensorflow as tf
from keras import layers

BLOCK = 3  # cells: the size of kernels for whose gradient there is a fast kernel


class DepthwiseConv2D(layers.DepthwiseConv2D):
    """Keras's DepthwiseConv2D, [B, h, w, C] -> [B, H, W, C], with other kernels for its gradients.

    In bfloat16 on a CPU two gradients are 10 to 40 times slower than in float32, which makes half of a training step:
    that of the input where the convolution strides, and that of a kernel larger than 3 x 3. The first is computed in
    float32 here, the second in blocks of 3 x 3 (tools/benchmark_depthwise.py).
    """

    fusion, quantization = "convolution", "float"  # fused, it is Keras's

    def call(self, inputs):
        """[B, h, w, C] -> [B, H, W, C]; H is h / stride rounded up with "same" padding."""
        # What the networks here have. For the rest, and on a GPU, Keras's own does.
        simple = (
            not self.use_bias
            and self.activation is keras.activations.linear
            and self.data_format == "channels_last"
            and self.dilation_rate == (1, 1)
            and len({*self.strides}) == len({*self.kernel_size}) == 1
            and None not in inputs.shape[1:3]
        )
        if inputs.dtype != tf.bfloat16 or not simple or tf.config.get_visible_devices("GPU"):
            return super().call(inputs)
        return depthwise_conv(inputs, tf.convert_to_tensor(self.kernel), self.strides[0], self.padding.upper())


def depthwise_conv(x, kernel, stride, padding):
    """Depthwise convolution with the gradients above.

    Args:
        x: [B, h, w, C].
        kernel: [k, k, C, 1].
        stride: in cells.
        padding: "SAME" or "VALID".

    Returns:
        [B, H, W, C]; H is h / stride rounded up with "SAME", (h - k + 1) / stride rounded up with "VALID".
    """
    options = {"strides": [1, stride, stride, 1], "padding": padding}

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradients(upstream):
            dtype = tf.float32 if stride > 1 else x.dtype
            of_input = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=tf.cast(kernel, dtype), out_backprop=tf.cast(upstream, dtype), **options
            )
            return tf.cast(of_input, x.dtype), _kernel_gradient(x, kernel, upstream, stride, padding)

        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=kernel, **options), gradients

    return convolve(x, kernel)


def _kernel_gradient(x, kernel, upstream, stride, padding):
    """The gradient of the kernel, [k, k, C, 1]: put together of those of blocks of it."""
    size = kernel.shape[0]
    if padding == "SAME":
        x = tf.pad(x, [(0, 0), *(_padding(side, size, stride) for side in x.shape[1:3]), (0, 0)])
    block = min(size, BLOCK)
    height, width = ((out - 1) * stride + block for out in upstream.shape[1:3])  # of x, that a block reads

    def found(top, left):
        return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x[:, top : top + height, left : left + width],
            filter_sizes=[block, block, *kernel.shape[2:]],
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding="VALID",
        )

    # The last block may begin inside the one before: the rows and columns that both have are taken from that one.
    starts = [min(start, size - block) for start in range(0, size, block)]
    known = [0, *(before + block - start for before, start in itertools.pairwise(starts))]
    across = [
        tf.concat([found(top, left)[:, skip:] for left, skip in zip(starts, known, strict=True)], 1) for top in starts
    ]
    return tf.concat([rows[skip:] for rows, skip in zip(across, known, strict=True)], 0)


def _padding(side, size, stride):
    """(before, after): the cells that "SAME" pads a side with."""
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2
