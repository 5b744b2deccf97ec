"""What the layers of a network declare: how they are fused, and how int8 treats them.

A layer's class declares with attributes. Keras's own classes and functions cannot: they have a row in the tables here,
which users extend in place: `QUANTIZATION[TheirLayer] = "float"`.

    class Swap(keras.layers.Layer):
        quantization = "moves"

    class Scale(keras.layers.Layer):
        fusion, quantization = "affine", "float"

        def affine(self):
            return scale, shift  # [C] each: the layer computes x * scale + shift

quantization, of a layer:
    "moves"     only moves numbers: its output keeps the scale and zero point of what it reads. One input.
    "computes"  runs in int8; each output has a range of its own.
    "float"     runs in float32.
    "skipped"   is left out of the network: it returns what it reads.
    "kernel"    has a quantized kernel, else as "computes": Keras's convolutions and fully connected layers, which
                graph.quantization.KERNELS lists.
    "function"  layers.Activation: as its function declares.

quantization, of a function (`leaky.quantization = "computes"`):
    "computes", "float"  as for a layer.
    "clips"     is part of the convolution before it in TFLite, which never writes that convolution's own output.
    "sigmoid"   has TFLite's range of a sigmoid.
    "gated"     x * sigmoid(x): a sigmoid and a multiplication.

homogeneous, of a function: whether f(a * x) = a * f(x) for every a > 0.

inference, of a function: another that computes the same, which fuse() puts in the place of one with a gradient of its
own (tf.custom_gradient). TensorFlow registers such a gradient anew with each trace, and keeps with it the trace's graph
and all constants in it for as long as the process lives.

fusion, of a layer:
    "convolution"  a subclass of Keras's Conv2D or DepthwiseConv2D that computes as it does.
    "affine"       see above.
"""

import keras
from keras import layers, ops

# Operations have no public names as classes.
from keras.src.ops.core import StopGradient
from keras.src.ops.numpy import Add, Flip, Multiply, Split

LAYER_KINDS = ("moves", "computes", "float", "skipped", "kernel", "function")
FUNCTION_KINDS = ("computes", "float", "clips", "sigmoid", "gated")

# Of Keras's layers and operations, by exact class: a subclass may compute anything.
QUANTIZATION = {
    **dict.fromkeys((layers.Conv2D, layers.DepthwiseConv2D, layers.Dense), "kernel"),
    layers.Activation: "function",
    **dict.fromkeys((layers.MaxPooling2D, layers.AveragePooling2D, layers.ZeroPadding2D, Split), "moves"),
    **dict.fromkeys((layers.Reshape, layers.Flatten, layers.Dropout), "moves"),
    **dict.fromkeys((layers.Concatenate, layers.Add, layers.Multiply, layers.GlobalAveragePooling2D), "computes"),
    # What no network here has: in float32 until somebody measures it in int8.
    **dict.fromkeys((layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization), "float"),
    **dict.fromkeys((layers.Rescaling, layers.Normalization, layers.UpSampling2D, layers.Resizing), "float"),
    **dict.fromkeys((layers.Conv2DTranspose, layers.SeparableConv2D, layers.MultiHeadAttention), "float"),
    **dict.fromkeys((layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax), "float"),
    **dict.fromkeys((layers.Permute, layers.Cropping2D, layers.SpatialDropout2D, layers.Identity), "float"),
    **dict.fromkeys((layers.Subtract, layers.Average, layers.Maximum, layers.Minimum, layers.Dot), "float"),
    **dict.fromkeys((layers.GlobalMaxPooling2D, layers.GaussianNoise, layers.GaussianDropout, Flip), "float"),
    **dict.fromkeys((Add, Multiply), "float"),  # bare operations, of hard sigmoids in keras.applications
    # Before a head beside another, which inference does without: what is left may learn through it.
    StopGradient: "skipped",
}
FUNCTIONS = {
    **dict.fromkeys((keras.activations.relu, keras.activations.relu6, ops.relu, ops.relu6), "clips"),
    **dict.fromkeys((keras.activations.sigmoid, ops.sigmoid), "sigmoid"),
    **dict.fromkeys((keras.activations.silu, ops.silu), "gated"),
    **dict.fromkeys((keras.activations.linear, keras.activations.softmax, ops.softmax), "float"),
    **dict.fromkeys((keras.activations.tanh, keras.activations.mish, keras.activations.leaky_relu), "float"),
    **dict.fromkeys((keras.activations.gelu, keras.activations.elu, keras.activations.selu), "float"),
    **dict.fromkeys((keras.activations.hard_sigmoid, keras.activations.hard_silu), "float"),
    **dict.fromkeys((keras.activations.softplus, keras.activations.softsign, keras.activations.exponential), "float"),
}


def plain_silu(x):
    """SiLU, x * sigmoid(x), with the gradient that TensorFlow finds."""
    return x * ops.sigmoid(x)


plain_silu.quantization = "gated"
INFERENCE = dict.fromkeys((keras.activations.silu, ops.silu), plain_silu)  # tf.nn.silu has a gradient of its own
HOMOGENEOUS = (keras.activations.relu, ops.relu)


def declared(layer, attribute):
    """What a layer's class declares.

    Args:
        layer: keras.layers.Layer or keras.Operation.
        attribute: "quantization" or "fusion".

    Returns:
        The attribute's value. None if no class has it, or if a class derived from the one that has it has a `call` of
        its own: what holds for a layer need not hold for a user's subclass.
    """
    for cls in type(layer).__mro__:
        if attribute in vars(cls):
            return getattr(layer, attribute)
        if "call" in vars(cls):
            return None
    return None


def quantization_of(layer):
    """One of LAYER_KINDS, or whatever a layer's class declares in its place; None if it declares nothing."""
    return declared(layer, "quantization") or QUANTIZATION.get(type(layer))


def function_quantization(function):
    """One of FUNCTION_KINDS, or whatever an activation function declares in its place; None if it declares nothing."""
    return getattr(function, "quantization", None) or FUNCTIONS.get(function)


def inference_of(function):
    """The activation function that fuse() puts in the place of one; itself if it declares none."""
    return getattr(function, "inference", None) or INFERENCE.get(function, function)


def is_homogeneous(function):
    """Whether an activation function declares f(a * x) = a * f(x) for every a > 0."""
    return getattr(function, "homogeneous", False) or function in HOMOGENEOUS
