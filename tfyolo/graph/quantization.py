"""Eight bits: a network that rounds as its int8 TFLite file will (Jacob et al. 2018, arXiv:1712.05877), to be converted or to learn so.

    ranges = observe(fused, pictures)       # what each map holds, in pictures
    quantized = quantize(fused, ranges)     # a Model that rounds between those bounds

The same network serves both ways to int8: its bounds come from calibration, or are learned with the weights when it is trained. Rounded
are the picture, the kernels and every map in between; what decodes, and the last convolutions with it, stay float, because one step in
256 between the smallest and the largest logit is many pixels.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import copied, map_name, nodes
from tfyolo.heads import PerAnchor
from tfyolo.nn.activations import leaky, silu
from tfyolo.nn.blocks import ChannelGroup, FitChannels
from tfyolo.nn.pooling import CornerPool, PadLowest
from tfyolo.nn.resample import Resize, SpaceToDepth, Upsample


class FakeQuantize(layers.Layer):
    """Rounds to the nearest of 256 values between two bounds, of which 0 is one: in a TFLite file, an int8 map.

    low, high: to begin with; they are weights, and learned: what lies between passes its gradient, what lies beyond gives it to the
    bound. fixed: they are no weights.
    """

    def __init__(self, low=-1.0, high=1.0, fixed=False, **kwargs):
        super().__init__(**kwargs)
        self.bounds, self.fixed = (float(low), float(high)), fixed

    def build(self, shape):
        if not self.fixed:
            self.low, self.high = (
                self.add_weight((), keras.initializers.Constant(bound), name=name, autocast=False)
                for name, bound in zip(("low", "high"), self.bounds, strict=True)
            )

    def call(self, x):
        if self.fixed:
            return tf.quantization.fake_quant_with_min_max_args(x, *self.bounds)
        low, high = tf.minimum(self.low, 0.0), tf.maximum(self.high, 0.0)
        return tf.quantization.fake_quant_with_min_max_vars(x, low, tf.maximum(high, low + 1e-6))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return super().get_config() | {"low": self.bounds[0], "high": self.bounds[1], "fixed": self.fixed}


def _rounded(kernel, axis, per_channel):
    """A kernel in 255 steps on both sides of 0, as far as its largest value: of each channel (along axis), or of all."""
    if not per_channel:
        limit = tf.maximum(tf.reduce_max(tf.abs(kernel)), 1e-8)
        return tf.quantization.fake_quant_with_min_max_vars(kernel, -limit, limit, narrow_range=True)
    order = [i for i in range(len(kernel.shape)) if i != axis] + [axis]
    turned = tf.transpose(kernel, order)
    limit = tf.maximum(tf.reduce_max(tf.abs(turned), axis=range(len(order) - 1)), 1e-8)
    turned = tf.quantization.fake_quant_with_min_max_vars_per_channel(turned, -limit, limit, narrow_range=True)
    return tf.transpose(turned, np.argsort(order))


class _Quantized:
    """What the layers below add to Keras's: rounded kernels. per_channel: each output has bounds of its own."""

    def __init__(self, *args, per_channel=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.per_channel = per_channel

    def get_config(self):
        return super().get_config() | {"per_channel": self.per_channel}

    def _biased(self, x):
        return ops.add(x, self.bias) if self.use_bias else x


class QuantizedConv2D(_Quantized, layers.Conv2D):
    def call(self, x):
        return self._biased(self.convolution_op(x, _rounded(ops.convert_to_tensor(self.kernel), 3, self.per_channel)))


class QuantizedDepthwiseConv2D(_Quantized, layers.DepthwiseConv2D):
    def call(self, x):
        kernel = _rounded(ops.convert_to_tensor(self.kernel), 2, self.per_channel)
        options = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        return self._biased(ops.depthwise_conv(x, kernel, data_format=self.data_format, **options))


class QuantizedDense(_Quantized, layers.Dense):
    def call(self, x):
        return self._biased(ops.matmul(x, _rounded(ops.convert_to_tensor(self.kernel), 1, False)))


WITH_KERNELS = {
    layers.Conv2D: QuantizedConv2D,
    layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
    layers.Dense: QuantizedDense,
}
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
# What only moves numbers about gives them in the steps that it reads them in.
MOVES = (
    *(layers.MaxPooling2D, layers.AveragePooling2D, layers.ZeroPadding2D),
    *(layers.Reshape, layers.Flatten, layers.Dropout),
    *(Upsample, Resize, CornerPool, SpaceToDepth, PerAnchor, ChannelGroup, FitChannels, PadLowest),
)
# What computes in int8 and gives steps of its own.
COMPUTES = (layers.Concatenate, layers.Add, layers.Multiply, layers.GlobalAveragePooling2D)
# Those of TFLite that follow a convolution at no cost: the convolution's own output is never written.
INSIDE = (keras.activations.relu, keras.activations.relu6, ops.relu, ops.relu6)
SIGMOIDS = (keras.activations.sigmoid, ops.sigmoid)
SIGMOID = (0.0, 255 / 256)  # the bounds that TFLite gives a sigmoid


def quantize(model, ranges=None, *, per_channel=True):
    """A Model whose network rounds as int8 does; its weights are the given one's.

    model: fused; what folding leaves is what is rounded. ranges: as observe gives them; None: bounds to be loaded. per_channel: kernels
    have steps for each output; False is for accelerators that know only one for all.
    """
    return model._replace(network=_Quantizer(model.network, ranges, per_channel).network)


def _moves(layer):
    return type(layer) in MOVES or type(layer).__name__ == "Split"  # keras.ops.split, whose class has no public name


def _float_ends(network):
    """The ids of the maps that stay float: what the last kernels give, and what is only moved about on the way from there out."""
    order, _ = nodes(network)
    ends = {id(x) for x in keras.tree.flatten(network.output)}
    for node in reversed(order):
        if _moves(node.operation) and all(id(x) in ends for x in node.output_tensors):
            ends |= {id(x) for x in node.input_tensors}
    return ends


def rounding(model):
    """The Model that training with rounding makes of one, its weights and bounds still to be loaded."""
    return quantize(fuse(model))


class _Quantizer:
    """The walk through a network, each call after those that it reads."""

    def __init__(self, network, ranges, per_channel):
        self.ranges, self.per_channel, self.inputs = ranges or {}, per_channel, {}
        self.order, _ = nodes(network)
        self.ends = _float_ends(network)
        self.twins = {}  # {layer with a kernel: the one that rounds}
        self.values = {}  # of the old network's tensors, by id: (the new one's, the FakeQuantize that gives it or None)
        for node in self.order:
            self._add(node)
        inputs = keras.tree.map_structure(lambda x: self.inputs[id(x)], network.input)
        outputs = keras.tree.map_structure(lambda x: self.values[id(x)][0], network.output)
        self.network = keras.Model(inputs, outputs, name=network.name)

    def _add(self, node):
        layer, out = node.operation, node.output_tensors[0]
        kernel = type(layer) in WITH_KERNELS and layer.activation is keras.activations.linear
        if node.is_input:
            self.inputs[id(out)] = keras.Input(batch_shape=out.shape, dtype=out.dtype, name=layer.name)
            self._round(out, self.inputs[id(out)], FakeQuantize(0.0, 1.0, fixed=True, name=f"{layer.name}.int8"))
        elif type(layer).__name__ == "StopGradient":
            # Before a head beside another, which is gone: now it is all there is to learn from.
            self.values[id(out)] = self.values[id(node.input_tensors[0])]
        elif id(out) in self.ends:
            self._as_it_is(node)
        elif kernel:
            self._kernel(node, layer, out)
        elif _moves(layer):
            self._move(node, layer)
        elif type(layer) in COMPUTES:
            sources = [self._int8(x) for x in node.input_tensors]
            self._round(out, copied(layer)(sources if len(sources) > 1 else sources[0]))
        elif type(layer) is layers.Activation:
            self._activation(node, layer, out)
        else:
            self._as_it_is(node)

    def _round(self, out, value, rounding=None):
        """Notes the new network's twin of a map, rounded; rounding: None: as it was observed."""
        if rounding is None:
            low, high = self.ranges.get(map_name(out), (-1.0, 1.0))
            rounding = FakeQuantize(min(low, 0.0), max(high, 0.0), name=f"{map_name(out).replace(':', '.')}.int8")
        self.values[id(out)] = rounding(value), rounding

    def _int8(self, x):
        """The new network's twin of a map that is read, rounded if it is not yet."""
        if self.values[id(x)][1] is None:
            self._round(x, self.values[id(x)][0])
        return self.values[id(x)][0]

    def _kernel(self, node, layer, out):
        known = layer in self.twins
        if not known:
            config = layer.get_config() | {"per_channel": self.per_channel}
            self.twins[layer] = WITH_KERNELS[type(layer)].from_config(config)
        value = self.twins[layer](self._int8(node.input_tensors[0]))
        if not known:
            _assign(self.twins[layer], layer)
        if self._taken_in(out):
            self.values[id(out)] = value, None
        else:
            self._round(out, value)

    def _taken_in(self, x):
        """Whether the one who reads it is an activation that the convolution computes itself."""
        found = [node.operation for node in self.order if any(x is other for other in node.input_tensors)]
        return len(found) == 1 and type(found[0]) is layers.Activation and found[0].activation in INSIDE

    def _move(self, node, layer):
        (source,) = node.input_tensors
        args, kwargs = node.arguments.fill_in({id(source): self._int8(source)})
        rounding = self.values[id(source)][1]
        for old, new in zip(node.output_tensors, keras.tree.flatten(copied(layer)(*args, **kwargs)), strict=True):
            self._round(old, new, rounding)

    def _activation(self, node, layer, out):
        (source,) = node.input_tensors
        if layer.activation in INSIDE:
            self._round(out, copied(layer)(self.values[id(source)][0]))
        elif layer.activation is leaky:
            self._round(out, copied(layer)(self._int8(source)))
        elif layer.activation in SIGMOIDS:
            rounding = FakeQuantize(*SIGMOID, fixed=True, name=f"{layer.name}.int8")
            self._round(out, copied(layer)(self._int8(source)), rounding)
        elif layer.activation in (silu, keras.activations.silu):
            value = self._int8(source)
            gate = layers.Activation("sigmoid", name=f"{layer.name}.sigmoid")(value)
            gate = FakeQuantize(*SIGMOID, fixed=True, name=f"{layer.name}.sigmoid.int8")(gate)
            self._round(out, layers.Multiply(name=layer.name)([value, gate]))
        else:
            self._as_it_is(node)

    def _as_it_is(self, node):
        layer = node.operation
        args, kwargs = node.arguments.fill_in({id(x): self.values[id(x)][0] for x in node.input_tensors})
        twin = copied(layer)
        outputs = keras.tree.flatten(twin(*args, **kwargs))
        if isinstance(layer, layers.Layer):
            _assign(twin, layer)
        self.values |= {id(old): (new, None) for old, new in zip(node.output_tensors, outputs, strict=True)}


def _assign(twin, layer):
    for mine, theirs in zip(twin.variables, layer.variables, strict=True):
        mine.assign(theirs)
