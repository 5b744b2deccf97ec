"""Eight bits: a network that rounds as its int8 TFLite file will (Jacob et al. 2018, arXiv:1712.05877), to be converted or to learn so.

    ranges = observe(fused, pictures)       # what each map holds, in pictures
    quantized = quantize(fused, ranges)     # a Model that rounds between those bounds

The same network serves both ways to int8: its bounds come from calibration, or are learned with the weights when it is trained. Rounded
are the picture, the kernels and every map in between; what decodes, and the last convolutions with it, stay float, because one step in
256 between the smallest and the largest logit is many pixels.
"""

import collections
import os
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils

from tfyolo.fusion import copied, fuse, nodes
from tfyolo.layers import (
    ChannelGroup,
    CornerPool,
    FitChannels,
    PadLowest,
    PerAnchor,
    Resize,
    SpaceToDepth,
    Upsample,
    leaky,
    silu,
)


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


def _key(tensor):
    """A tensor's name, the same in every network of one structure."""
    layer, call, index = tensor._keras_history
    name = f"{layer.name}.call{call}" if call else layer.name  # of a layer that is called more than once
    return f"{name}:{index}" if index else name


def equalized(model, batches):
    """A Model that computes the same, with channels that use the 256 steps of their map alike (Nagel et al. 2019, arXiv:1906.04721,
    section 4.1: cross-layer equalization).

    Of two convolutions in a row, with nothing but a leaky or plain ReLU, pools and padding between, what the first multiplies a channel
    by the second divides it by. Before a depthwise convolution, whose kernels have steps for each channel anyway, all channels get one
    range; before another the ranges meet those of its kernels half way. model: fused. batches: as of observe.
    """
    model = fuse(model)  # weights of its own
    pairs = _in_a_row(model.network)
    if not pairs:
        return model
    probe = keras.Model(model.network.input, [first.output for first, _ in pairs])
    look = tf.function(lambda images: [tf.reduce_max(tf.abs(x), [0, 1, 2]) for x in keras.tree.flatten(probe(images))])
    largest = [
        np.max(values, axis=0) for values in zip(*([np.asarray(x) for x in look(b)] for b in batches), strict=True)
    ]
    for (first, second), reach in zip(pairs, largest, strict=True):
        reach = np.maximum(reach / max(reach.max(), 1e-9), 1e-3)
        kernel = np.asarray(second.kernel)
        if isinstance(second, layers.DepthwiseConv2D):
            factor = 1 / reach
        else:
            weight = np.abs(kernel).max(axis=(0, 1, 3))
            factor = np.sqrt(np.maximum(weight / max(weight.max(), 1e-9), 1e-3) / reach)
        before = factor[:, None] if isinstance(first, layers.DepthwiseConv2D) else factor
        first.kernel.assign(np.asarray(first.kernel) * before)
        if first.use_bias:
            first.bias.assign(np.asarray(first.bias) * factor)
        second.kernel.assign(kernel / factor[:, None])
    return model


def _in_a_row(network):
    """[(convolution, the one that reads nothing but what becomes of its output)]."""
    order, readers = nodes(network)
    calls = collections.Counter(node.operation for node in order)
    read_by = {id(x): node for node in order for x in node.input_tensors}
    pairs = []
    for node in order:
        first, x = node.operation, node.output_tensors[0]
        if type(first) not in CONVOLUTIONS or first.activation is not keras.activations.linear or calls[first] > 1:
            continue
        while readers[id(x)] == 1 and id(x) in read_by:  # read once and not given out
            second = read_by[id(x)].operation
            if type(second) in CONVOLUTIONS and getattr(second, "groups", 1) == 1 and calls[second] == 1:
                pairs.append((first, second))
            passes = type(second) in (layers.MaxPooling2D, layers.ZeroPadding2D)
            if not passes and not (type(second) is layers.Activation and second.activation in (leaky, *INSIDE[::2])):
                break
            x = read_by[id(x)].output_tensors[0]
    return pairs


CALIBRATED_BY = 128  # pictures, when a data set has more
SAMPLES = 4096  # values of a map that are kept of each batch
SHRUNK = np.linspace(1.0, 0.3, 36)  # of the whole range, tried as bounds


def observe(model, batches):
    """{name of a map: (low, high)}, the bounds with which 256 steps lose least of what the map holds, in pictures.

    model: fused, as given to quantize. batches: of pictures [B, H, W, 3] float32 0..1. Least is the sum of squared errors; a few values
    far out may be cut for it.
    """
    tensors = [x for node in nodes(model.network)[0] for x in node.output_tensors]
    probe = keras.Model(model.network.input, tensors)

    @tf.function
    def look(images, number):
        found = []
        for place, values in enumerate(keras.tree.flatten(probe(images, training=False))):
            flat = tf.reshape(values, [-1])
            # At other positions in each batch and each map.
            picked = tf.random.stateless_uniform([SAMPLES], tf.stack([place, number]), 0, tf.size(flat), tf.int32)
            found.append((tf.reduce_min(flat), tf.reduce_max(flat), tf.gather(flat, picked)))
        return found

    seen = [
        [[np.asarray(part) for part in found] for found in look(images, tf.constant(number))]
        for number, images in enumerate(batches)
    ]
    ranges = {}
    for x, looks in zip(tensors, zip(*seen, strict=True), strict=True):
        lows, highs, values = zip(*looks, strict=True)
        ranges[_key(x)] = _bounds(min(lows), max(highs), np.concatenate(values))
    return ranges


def _bounds(low, high, values):
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    best = low, high
    least = np.inf
    for factor in SHRUNK:
        a, b = low * factor, high * factor
        step = max(b - a, 1e-6) / 255
        error = np.mean((np.clip(np.round((values - a) / step), 0, 255) * step + a - values) ** 2)
        if error < least:
            best, least = (a, b), error
    return best


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


def quantized_by(model, pictures, *, per_channel=True):
    """(a Model that rounds as int8 does, the same without rounding) of one that was trained, with bounds that pictures find.

    pictures: gives batches, as of observe, each time that it is called: they are looked at twice, not held.
    """
    fused = equalized(fuse(model), pictures())
    return quantize(fused, observe(fused, pictures()), per_channel=per_channel), fused


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
            low, high = self.ranges.get(_key(out), (-1.0, 1.0))
            rounding = FakeQuantize(min(low, 0.0), max(high, 0.0), name=f"{_key(out).replace(':', '.')}.int8")
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


def damage(model, quantized, images):
    """[(map, dB)] of the maps that a rounding network rounds, the most damaged first: signal to noise, all that came before included.

    model: fused, that quantized was made of. images: [B, H, W, 3] float32 0..1.
    """
    tensors = {_key(x).replace(":", "."): x for node in nodes(model.network)[0] for x in node.output_tensors}
    rounded = {
        layer.name.removesuffix(".int8"): layer for layer in quantized.network.layers if type(layer) is FakeQuantize
    }
    names = [name for name in tensors if name in rounded]
    before = keras.Model(model.network.input, [tensors[name] for name in names])(images, training=False)
    after = keras.Model(quantized.network.input, [rounded[name].output for name in names])(images, training=False)
    found = []
    for name, clean, noisy in zip(names, before, after, strict=True):
        clean, noisy = np.asarray(clean, "float64"), np.asarray(noisy, "float64")
        ratio = np.mean(clean**2) / max(np.mean((clean - noisy) ** 2), 1e-20)
        found.append((name, round(10 * float(np.log10(max(ratio, 1e-20))), 2)))
    return sorted(found, key=lambda pair: pair[1])


def in_integers(content, batches, *, per_channel=True):
    """A TFLite file whose every tensor is an integer, of one whose last part is float.

    The range of each float tensor is what it holds in images. TFLite's own calibrator does not do: it notes an operation's inputs after
    the operation, when one that was computed in place holds the output, and gives a small number the steps of a large one.

    Args:
      content: bytes of a file of fake quantization, its input uint8.
      batches: of images [B, H, W, 3] float32 0..1.
      per_channel: whether kernels have a scale for each output.

    Returns:
      The bytes of the file; its inputs and outputs are uint8.
    """
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (graph,) = file.subgraphs
    computed = [
        operation for operation in graph.operators if not _dequantizes(file, operation)
    ]  # that has a scale already
    made = [int(index) for operation in computed for index in operation.outputs]
    floats = [index for index in made if graph.tensors[index].type == schema.TensorType.FLOAT32]
    ranges = _ranges(content, floats, batches)
    for index in floats:
        graph.tensors[index].quantization = steps = schema.QuantizationParametersT()
        steps.min, steps.max = ([float(bound)] for bound in ranges[index])
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(file))
    return mlir_quantize(content, not per_channel, input_data_type=tf.uint8, output_data_type=tf.uint8)


def _dequantizes(file, operation):
    return file.operatorCodes[operation.opcodeIndex].builtinCode == schema.BuiltinOperator.DEQUANTIZE


def _ranges(content, tensors, batches):
    """{tensor's number: (least, largest value)} of a TFLite file in images; 0 is always within."""
    operations = (
        tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )  # which would hide what is inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter's own end, announced at each start
        interpreter = tf.lite.Interpreter(
            model_content=content,
            num_threads=os.cpu_count(),
            experimental_op_resolver_type=operations,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    found = np.zeros((len(tensors), 2))
    for images in batches:
        numbers = np.round(255 * np.asarray(images)).astype("uint8")
        for i in range(0, len(numbers), taken["shape"][0]):
            at_once = np.resize(numbers[i : i + taken["shape"][0]], taken["shape"])
            interpreter.set_tensor(taken["index"], at_once)
            interpreter.invoke()
            values = [interpreter.get_tensor(index) for index in tensors]
            found[:, 0] = np.minimum(found[:, 0], [value.min() for value in values])
            found[:, 1] = np.maximum(found[:, 1], [value.max() for value in values])
    return dict(zip(tensors, found.tolist(), strict=True))
