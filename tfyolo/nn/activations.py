"""Activation functions, and the table of those that a part can be given."""

import keras
import tensorflow as tf
from keras import layers, ops


def mish_by_exp(x):
    """mish without a logarithm, for TFLite: 2.5 times as fast there as softplus and tanh, which XNNPACK does not take as a whole."""
    e = ops.exp(ops.minimum(x, 20.0))  # from where on tanh(softplus(x)) is 1 to the last digit
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def mish(x):
    """x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).

    In these words it is one oneDNN kernel on a CPU, a quarter of mish_by_exp's time, as long as nothing else needs what lies between.
    So the gradient takes x alone: less time than automatic differentiation, and a third of the memory in float32.
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
    """x * sigmoid(x) (Ramachandran et al. 2017, arXiv:1710.05941).

    In bfloat16 the sigmoid that its gradient needs again takes longer than all the rest: there it is the output divided by the input.
    """
    return _silu_bfloat16(x) if x.dtype == tf.bfloat16 else tf.nn.silu(x)


def leaky(x):
    """Leaky ReLU with Darknet's slope, 0.1."""
    return ops.leaky_relu(x, negative_slope=0.1)


# What int8 makes of them: graph.declarations.
silu.quantization = "gated"
leaky.quantization, leaky.homogeneous = "computes", True
mish.quantization = mish_by_exp.quantization = "float"

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
    """One of ACTIVATIONS."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, received {activation!r}")
    if ACTIVATIONS[activation] is None:
        return x
    return layers.Activation(ACTIVATIONS[activation], name=f"{name}.act")(x)
