"""Layers that several parts share. Every function takes and gives Keras tensors [B, h, w, C]; `name` is a path joined by dots."""

import keras
from keras import layers, ops

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _ON_TENSORFLOW:
    import tensorflow as tf

ACTIVATIONS = {
    "linear": None,
    "leaky": lambda x: ops.leaky_relu(x, negative_slope=0.1),  # Darknet's slope
    "relu": ops.relu,
    "mish": ops.mish if hasattr(ops, "mish") else keras.activations.mish,
    "silu": ops.silu,
}


class BatchNorm(layers.BatchNormalization):
    """Batch normalisation over all replicas' pictures, with Darknet's epsilon.

    On one replica of TensorFlow it trains through the fused kernel, which Keras 3 does not use: the same numbers, faster.
    Momentum is below Darknet's .99 because a run over a few hundred pictures has too few steps for statistics that slow.
    """

    def __init__(self, momentum=0.97, epsilon=1e-5, **kwargs):
        kwargs.setdefault("synchronized", _ON_TENSORFLOW)
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        if training and self.trainable and _ON_TENSORFLOW and tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return self._fused(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _fused(self, inputs):
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.cast(self.gamma, tf.float32),
            tf.cast(self.beta, tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel gives the unbiased variance; synchronised training, like Darknet, keeps the biased one.
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (count - 1) / count
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


class Upsample(layers.Layer):
    """Nearest-neighbour enlargement by 2. One RESIZE_NEAREST_NEIGHBOR in TFLite, where UpSampling2D becomes a reshape and a tile."""

    def call(self, x):
        height, width = x.shape[1:3]
        return ops.image.resize(x, (2 * height, 2 * width), interpolation="nearest", data_format="channels_last")

    def compute_output_shape(self, shape):
        return (shape[0], 2 * shape[1], 2 * shape[2], shape[3])


def conv(x, filters, kernel=1, stride=1, *, norm=True, activation="leaky", name):
    """Convolution, batch norm (or a bias), activation; kernel // 2 pixels of padding on every side, as Darknet pads.

    "same" would shift a strided convolution by one pixel on even sizes.
    """
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, data_format="channels_last", name=f"{name}.pad")(x)
        padding = "valid"
    else:
        padding = "same"
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding,
        data_format="channels_last",
        use_bias=not norm,
        kernel_initializer="he_normal",
        name=f"{name}.conv",
    )(x)
    if norm:
        x = BatchNorm(name=f"{name}.norm")(x)
    if ACTIVATIONS[activation] is not None:
        x = layers.Activation(ACTIVATIONS[activation], name=f"{name}.act")(x)
    return x


def max_pool(x, size=2, stride=2, *, name):
    """Max pooling with Darknet's padding: at stride 1 the grid keeps its size."""
    return layers.MaxPooling2D(size, stride, "same", data_format="channels_last", name=name)(x)


def spp(x, sizes=(5, 9, 13), *, name):
    """Spatial pyramid pooling: the map beside its own maxima over growing windows (He et al. 2014, as in YOLOv3-SPP)."""
    pools = [max_pool(x, size, 1, name=f"{name}.pool{size}") for size in reversed(sizes)]
    return layers.Concatenate(name=f"{name}.concat")([*pools, x])


def scaled(channels, width):
    """Channels times width, rounded to a multiple of 8, at least 8: sizes that convolution kernels like."""
    return channels if width == 1 else max(8, 8 * round(channels * width / 8))
