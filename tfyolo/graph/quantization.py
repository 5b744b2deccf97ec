"""Fake quantization: a network that computes as its int8 TFLite file will (Jacob et al. 2018, arXiv:1712.05877).

    ranges = observe(fused, batches)        # graph.calibration: the range of each feature map, measured on images
    quantized = quantize(fused, ranges)     # a Model that quantizes to those ranges

The same network serves both ways to int8: its ranges come from calibration, or are learned with the weights in
quantization-aware training (QAT). Quantized are the images, the kernels and all feature maps between. The last
convolutions and what decodes them stay float32: a 256th of the span from the smallest logit to the largest is many
pixels. A layer declares how it is quantized (graph.declarations).
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tfyolo.errors import Error
from tfyolo.graph.declarations import FUNCTION_KINDS, LAYER_KINDS, function_quantization, quantization_of
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import copied, input_like, map_name, nodes, take_weights


class QuantizationError(Error):
    """A network has layers that do not declare how int8 treats them. The message names them, and what to declare."""


class FakeQuantize(layers.Layer):
    """Quantizes to the nearest of 256 values of a range, of which 0 is one: in a TFLite file, an int8 feature map.

    The ends of the range are learned: values inside pass their gradient on, values outside give it to the nearer end.

    Args:
        low: lower end of the range to start from.
        high: upper end of the range to start from.
        fixed: True: the range is given and not learned.
        kwargs: of Layer.
    """

    def __init__(self, low=-1.0, high=1.0, fixed=False, **kwargs):
        super().__init__(**kwargs)
        self.range, self.fixed = (float(low), float(high)), fixed

    def build(self, shape):
        """Adds the two weights, if the range is learned."""
        if not self.fixed:
            self.low, self.high = (
                self.add_weight((), keras.initializers.Constant(end), name=name, autocast=False)
                for name, end in zip(("low", "high"), self.range, strict=True)
            )

    @property
    def ends(self):
        """(low, high) of the range, with 0 between: numbers if it is fixed, else tensors."""
        if self.fixed:
            return self.range
        low = tf.minimum(self.low, 0.0)
        return low, tf.maximum(tf.maximum(self.high, 0.0), low + 1e-6)

    def call(self, x):
        """Any shape -> the same, quantized."""
        if self.fixed:
            return tf.quantization.fake_quant_with_min_max_args(x, *self.ends)
        return tf.quantization.fake_quant_with_min_max_vars(x, *self.ends)

    def compute_output_shape(self, shape):
        """The same."""
        return shape

    def get_config(self):
        """Keras's, and the arguments of the layer."""
        return super().get_config() | {"low": self.range[0], "high": self.range[1], "fixed": self.fixed}


def fake_quantized_kernel(kernel, axis, per_channel):
    """Fake-quantizes a kernel to 255 values symmetric about 0, up to its largest magnitude.

    Args:
        kernel: tensor.
        axis: of its output channels.
        per_channel: True: one scale for each channel along the axis. False: one for the whole kernel (per-tensor).

    Returns:
        Tensor of the kernel's shape.
    """
    if not per_channel:
        limit = tf.maximum(tf.reduce_max(tf.abs(kernel)), 1e-8)
        return tf.quantization.fake_quant_with_min_max_vars(kernel, -limit, limit, narrow_range=True)
    order = [i for i in range(len(kernel.shape)) if i != axis] + [axis]
    turned = tf.transpose(kernel, order)
    limit = tf.maximum(tf.reduce_max(tf.abs(turned), axis=range(len(order) - 1)), 1e-8)
    turned = tf.quantization.fake_quant_with_min_max_vars_per_channel(turned, -limit, limit, narrow_range=True)
    return tf.transpose(turned, np.argsort(order))


class _Quantized:
    """What the layers below add to Keras's: quantized kernels."""

    def __init__(self, *args, per_channel=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.per_channel = per_channel

    def get_config(self):
        return super().get_config() | {"per_channel": self.per_channel}

    def _biased(self, x):
        return ops.add(x, self.bias) if self.use_bias else x


class QuantizedConv2D(_Quantized, layers.Conv2D):
    """Keras's Conv2D with a fake-quantized kernel and without an activation."""

    def call(self, x):
        """[B, h, w, C] -> [B, h / stride, w / stride, filters]."""
        return self._biased(
            self.convolution_op(x, fake_quantized_kernel(ops.convert_to_tensor(self.kernel), 3, self.per_channel))
        )


class QuantizedDepthwiseConv2D(_Quantized, layers.DepthwiseConv2D):
    """Keras's DepthwiseConv2D with a fake-quantized kernel and without an activation."""

    def call(self, x):
        """[B, h, w, C] -> [B, h / stride, w / stride, C * depth_multiplier]."""
        kernel = fake_quantized_kernel(ops.convert_to_tensor(self.kernel), 2, self.per_channel)
        options = {"strides": self.strides, "padding": self.padding, "dilation_rate": self.dilation_rate}
        return self._biased(ops.depthwise_conv(x, kernel, data_format=self.data_format, **options))


class QuantizedDense(_Quantized, layers.Dense):
    """Keras's Dense with a fake-quantized kernel, per-tensor as in TFLite, and without an activation."""

    def call(self, x):
        """[B, any] -> [B, units]."""
        return self._biased(ops.matmul(x, fake_quantized_kernel(ops.convert_to_tensor(self.kernel), 1, False)))


KERNELS = {
    layers.Conv2D: QuantizedConv2D,
    layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
    layers.Dense: QuantizedDense,
}
SIGMOID = (0.0, 255 / 256)  # the range that TFLite gives a sigmoid
QUANTIZER = ".int8"  # ends the name of a FakeQuantize, before which stands that of its feature map


def quantize(model, ranges=None, *, per_channel=True, floats=()):
    """Makes a Model whose network is fake-quantized.

    Args:
        model: a fused Model: what fusion leaves is what is quantized.
        ranges: {name of a feature map: (low, high)}, from graph.calibration.observe(); None: they are loaded later.
        per_channel: True: kernels have one scale for each output channel. False: one scale each (per-tensor), for
            accelerators that take no other.
        floats: names of feature maps that stay float32, as graph.sensitivity gives them, none of them tied(). What
            reads or makes one computes in float32, too.

    Returns:
        A Model with the given one's weights.

    Raises:
        QuantizationError: a layer does not declare how it is quantized.
    """
    _check_declarations(model.network)
    return model._replace(network=_Quantizer(model.network, ranges, per_channel, floats).network)


def tied(network):
    """Names of the feature maps that cannot stay float32 alone, since TFLite ties their scale to others'.

    They are what layers that only move numbers, and concatenations, read and give; and what one of those is made of
    that has several readers: quantized anew for each, it gets other scales than the pool that it goes through, which
    XNNPACK refuses.

    Args:
        network: keras.Model, fused.

    Returns:
        {name}
    """
    order, readers = nodes(network)
    order = [node for node in order if not node.is_input]
    found, named = set(), {}

    def take(tensors):
        for x in tensors:
            found.add(id(x))
            named[id(x)] = map_name(x).replace(":", ".")

    for node in order:
        if quantization_of(node.operation) == "moves" or type(node.operation) is layers.Concatenate:
            take((*node.input_tensors, *node.output_tensors))
    for node in order:
        if any(id(x) in found and readers[id(x)] > 1 for x in node.output_tensors):
            take(node.input_tensors)
    return set(named.values())


def quantization_aware(model):
    """Makes the Model that quantization-aware training trains; its weights and ranges are loaded later."""
    return quantize(fuse(model))


def _check_declarations(network):
    faults = {}
    for node in nodes(network)[0]:
        layer = node.operation
        if not node.is_input and (fault := _fault(layer)):
            faults.setdefault(type(layer), f"{layer.name}: {fault}")
    if faults:
        raise QuantizationError("int8: " + "\n  ".join(faults.values()))


def _fault(layer):
    """What is wrong with a layer's declaration; None if nothing is."""
    cls, kind = type(layer), quantization_of(layer)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if kind is None:
        to_do = "declare" if isinstance(layer, layers.Layer) else "put it into a layer of your own and declare"
        return (
            f"expected a layer that declares how int8 treats it, received {name}, which does not; {to_do} on the class "
            'quantization = "moves" (it only moves numbers: its output has the scale and zero point of its input), '
            '"computes" (it runs in int8, its output has a range of its own) or "float" (it stays float32); for a '
            "class that is not yours, set "
            f"tfyolo.graph.declarations.QUANTIZATION[{cls.__qualname__}]"
        )
    if kind not in LAYER_KINDS:
        return f"{name}.quantization: expected one of {', '.join(LAYER_KINDS)}, received {kind!r}"
    if kind == "kernel":
        if cls not in KERNELS:
            return f'{name}.quantization: expected "kernel" for Keras\'s {_listed(KERNELS)} alone; declare "float"'
        if layer.activation is not keras.activations.linear:
            return (
                f"expected {cls.__qualname__} without an activation, received one with; put keras.layers.Activation "
                "behind it"
            )
    if kind == "function":
        return _function_fault(layer.activation)
    return None


def _function_fault(function):
    kind, name = function_quantization(function), getattr(function, "__name__", repr(function))
    if kind is None:
        return (
            f"expected an activation that declares how int8 treats it, received {name}, which does not; write "
            f'{name}.quantization = "computes" (it runs in int8, its output has a range of its own) or "float" (it '
            "stays float32) where it is defined"
        )
    if kind not in FUNCTION_KINDS:
        return f"{name}.quantization: expected one of {', '.join(FUNCTION_KINDS)}, received {kind!r}"
    return None


def _listed(classes):
    return ", ".join(cls.__name__ for cls in classes)


def _float_ends(network):
    """The ids of the tensors that stay float: what the last kernels output, and what only moves it to the outputs."""
    order, _ = nodes(network)
    ends = {id(x) for x in keras.tree.flatten(network.output)}
    for node in reversed(order):
        moves = quantization_of(node.operation) == "moves"
        if moves and all(id(x) in ends for x in node.output_tensors):
            ends |= {id(x) for x in node.input_tensors}
    return ends


def _unchanged(x):
    return x


class _Quantizer:
    """Builds the quantized network, call by call, each after those that it reads."""

    def __init__(self, network, ranges, per_channel, floats):
        self.ranges, self.per_channel, self.floats, self.inputs = ranges or {}, per_channel, frozenset(floats), {}
        self.order, _ = nodes(network)
        self.ends = _float_ends(network)
        self.twins = {}  # {layer: the new network's}
        self.values = {}  # {id of the old network's tensor: (the new one's, its FakeQuantize or None)}
        for node in self.order:
            self._add(node)
        inputs = keras.tree.map_structure(lambda x: self.inputs[id(x)], network.input)
        outputs = keras.tree.map_structure(lambda x: self.values[id(x)][0], network.output)
        self.network = keras.Model(inputs, outputs, name=network.name)

    def _add(self, node):
        layer, out = node.operation, node.output_tensors[0]
        kind = None if node.is_input else quantization_of(layer)
        if node.is_input:
            self.inputs[id(out)] = input_like(out)
            self._quantize(out, self.inputs[id(out)], self._quantizer(layer.name, 0.0, 1.0, fixed=True))
        elif kind == "skipped":
            self.values[id(out)] = self.values[id(node.input_tensors[0])]
        elif id(out) in self.ends or kind == "float":
            self._as_it_is(node)
        elif kind == "kernel":
            self._kernel(node, layer, out)
        elif kind == "moves":
            self._move(node, layer)
        elif kind == "computes":
            self._compute(node)
        else:
            self._activation(node, layer, out)

    def _quantize(self, out, value, quantizer=None):
        """Notes the new network's twin of a tensor, quantized; quantizer: None: to the range that was observed."""
        if quantizer is None:
            low, high = self.ranges.get(map_name(out), (-1.0, 1.0))
            quantizer = self._quantizer(map_name(out).replace(":", "."), min(low, 0.0), max(high, 0.0))
        self.values[id(out)] = quantizer(value), quantizer

    def _quantizer(self, name, low, high, fixed=False):
        """What quantizes the feature map of a name."""
        return _unchanged if name in self.floats else FakeQuantize(low, high, fixed, name=name + QUANTIZER)

    def _int8(self, x):
        """The new network's twin of a tensor that is read, quantized if it is not yet."""
        if self.values[id(x)][1] is None:
            self._quantize(x, self.values[id(x)][0])
        return self.values[id(x)][0]

    def _call(self, layer, args, kwargs, make=copied):
        """[output] of a layer's twin, which is made at its first call."""
        known = layer in self.twins
        if not known:
            self.twins[layer] = make(layer)
        outputs = keras.tree.flatten(self.twins[layer](*args, **kwargs))
        if not known and isinstance(layer, layers.Layer):  # bare operations have no weights
            take_weights(self.twins[layer], layer)
        return outputs

    def _with_quantized_kernel(self, layer):
        return KERNELS[type(layer)].from_config(layer.get_config() | {"per_channel": self.per_channel})

    def _kernel(self, node, layer, out):
        (value,) = self._call(layer, [self._int8(node.input_tensors[0])], {}, self._with_quantized_kernel)
        if self._is_clipped(out):
            self.values[id(out)] = value, None
        else:
            self._quantize(out, value)

    def _is_clipped(self, x):
        """Whether its one reader is an activation that TFLite makes part of the convolution."""
        found = [node.operation for node in self.order if any(x is other for other in node.input_tensors)]
        return (
            len(found) == 1
            and quantization_of(found[0]) == "function"
            and function_quantization(found[0].activation) == "clips"
        )

    def _move(self, node, layer):
        (source,) = node.input_tensors
        args, kwargs = node.arguments.fill_in({id(source): self._int8(source)})
        quantizer = self.values[id(source)][1]
        outputs = self._call(layer, args, kwargs)
        for old, new in zip(node.output_tensors, outputs, strict=True):
            self._quantize(old, new, quantizer)

    def _compute(self, node):
        args, kwargs = node.arguments.fill_in({id(x): self._int8(x) for x in node.input_tensors})
        outputs = self._call(node.operation, args, kwargs)
        for old, new in zip(node.output_tensors, outputs, strict=True):
            self._quantize(old, new)

    def _activation(self, node, layer, out):
        (source,) = node.input_tensors
        kind = function_quantization(layer.activation)
        if kind == "clips":
            self._quantize(out, copied(layer)(self.values[id(source)][0]))
        elif kind == "computes":
            self._quantize(out, copied(layer)(self._int8(source)))
        elif kind == "sigmoid":
            quantizer = self._quantizer(layer.name, *SIGMOID, fixed=True)
            self._quantize(out, copied(layer)(self._int8(source)), quantizer)
        elif kind == "gated":
            value = self._int8(source)
            gate = layers.Activation("sigmoid", name=f"{layer.name}.sigmoid")(value)
            gate = self._quantizer(f"{layer.name}.sigmoid", *SIGMOID, fixed=True)(gate)
            self._quantize(out, layers.Multiply(name=layer.name)([value, gate]))
        else:
            self._as_it_is(node)

    def _as_it_is(self, node):
        args, kwargs = node.arguments.fill_in({id(x): self.values[id(x)][0] for x in node.input_tensors})
        outputs = self._call(node.operation, args, kwargs)
        self.values |= {id(old): (new, None) for old, new in zip(node.output_tensors, outputs, strict=True)}
