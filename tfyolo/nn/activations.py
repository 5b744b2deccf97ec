"""Activation functions, and the table of those that a config can name."""

import keras
import tensorflow as tf
from keras import layers, ops

from tfyolo.graph.declarations import plain_silu


def mish_by_exp(x):
    """Computes Mish without a logarithm, for TFLite.

    There it is 2.5 times as fast as softplus and tanh, which XNNPACK does not take as a whole.

    Args:
        x: a tensor of any shape.

    Returns:
        x * tanh(softplus(x)), of the same shape.
    """
    e = ops.exp(ops.minimum(x, 20.0))  # from where on tanh(softplus(x)) is 1 to the last digit
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def mish(x):
    """Mish: x * tanh(softplus(x)).

    Written so, it is one oneDNN kernel on a CPU, in a quarter of mish_by_exp's time, as long as nothing else reads an
    intermediate tensor. So the gradient reads x alone. That takes less time than automatic differentiation and a third
    of its memory in float32.

    Args:
        x: a floating-point tensor of any shape.

    Returns:
        A tensor of x's shape and type.

    Source: Misra 2019, arXiv:1908.08681.
    """

    def gradient(upstream):
        y = tf.minimum(tf.cast(x, tf.float32), 20.0)  # bfloat16 would lose 3 %; beyond 20 the slope is 1
        e = tf.exp(y)
        n = e * (e + 2.0)
        d = n + 2.0
        # n / d and its derivative, 4 e (e + 1) / d^2, times x. The square of d would overflow.
        slope = (n + 4.0 * (n - e) * y / d) / d
        return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)

    return keras.activations.mish(x), gradient


@tf.custom_gradient
def _silu_bfloat16(x):
    y = tf.nn.silu(x)

    def gradient(upstream):
        # At 0 itself, where nothing can be divided, the slope is taken for 0.
        sigmoid = tf.math.divide_no_nan(y, x)
        return upstream * (sigmoid + y * (1 - sigmoid))

    return y, gradient


@tf.autograph.experimental.do_not_convert
def silu(x):
    """SiLU: x * sigmoid(x).

    In bfloat16, computing the sigmoid again for the gradient takes longer than all the rest. There the gradient divides
    the output by the input instead.

    Args:
        x: a floating-point tensor of any shape.

    Returns:
        A tensor of x's shape and type.

    Source: Ramachandran et al. 2017, arXiv:1710.05941.
    """
    return _silu_bfloat16(x) if x.dtype == tf.bfloat16 else tf.nn.silu(x)


def leaky(x):
    """Leaky ReLU with Darknet's slope, 0.1.

    Args:
        x: a tensor of any shape.

    Returns:
        x where it is positive, x / 10 elsewhere.
    """
    return ops.leaky_relu(x, negative_slope=0.1)


# What int8 makes of them: graph.declarations.
silu.quantization = "gated"
leaky.quantization, leaky.homogeneous = "computes", True
mish.quantization = mish_by_exp.quantization = "float"
silu.inference, mish.inference = plain_silu, keras.activations.mish

ACTIVATIONS = {
    "linear": None,
    "leaky": leaky,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "logistic": ops.sigmoid,
    "mish": mish,
    "silu": silu,
}


def activate(x, activation, *, name):
    """Applies an activation of the table.

    Args:
        x: a Keras tensor of any shape.
        activation: one of ACTIVATIONS; "linear" adds no layer.
        name: of the layer, without ".act".

    Returns:
        A Keras tensor of x's shape.

    Raises:
        ValueError: the table has no such activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, received {activation!r}")
    if ACTIVATIONS[activation] is None:
        return x
    return layers.Activation(ACTIVATIONS[activation], name=f"{name}.act")(x)
