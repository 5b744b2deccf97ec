"""Batch-norm fusion: linear layers behind a convolution become part of its weights.

What is fused: layers that declare it (graph.declarations), and Keras's own in FUSIONS at the file's foot, which users
extend.
"""

import collections
import functools
from typing import TypeVar

import keras
import numpy as np
from keras import layers

from tfyolo.errors import Error
from tfyolo.graph.declarations import declared, inference_of
from tfyolo.graph.nodes import copied, input_like, nodes, take_weights, used

Model = TypeVar("Model")  # that of tfyolo.model, which imports this file


class FusionError(Error):
    """A layer declares a fusion that does not exist. The message names it."""


def fuse(model: Model, activations: dict | None = None) -> Model:
    """Makes a Model for inference, whose network computes the same with fewer layers.

    A convolution keeps its batch norm if several layers read its output, or if that is an output of the network. What
    only training reads is left out.

    Args:
        model: a tfyolo.model.Model. It stays as it is.
        activations: {function: another that computes the same}, which takes its place; else it is what the function
            declares for inference.

    Returns:
        A Model with weights of its own.

    Raises:
        FusionError: a layer declares a fusion that does not exist.
    """
    objective = model.objective and model.objective.without_aux()

    def replaced(function):
        return (activations or {}).get(function) or inference_of(function)

    return model._replace(network=_fused(used(model.network), replaced), objective=objective)


class _Convolution:
    """A convolution of the new network that layers after it may still become part of.

    layer: the old network's. x: the new network's tensor that it reads. kernel, bias: float64, in which fusion loses
    nothing; bias may be None.
    """

    def __init__(self, layer, x, kernel, bias):
        self.layer, self.x, self.kernel, self.bias = layer, x, kernel, bias

    def affine(self, scale, shift):
        """The convolution that outputs output * scale + shift: [channels] each."""
        # A depthwise kernel is [h, w, channels read, outputs of each]; others end in all outputs, grouped or not.
        depthwise = isinstance(self.layer, layers.DepthwiseConv2D)
        kernel = self.kernel * (scale.reshape(self.kernel.shape[2:]) if depthwise else scale)
        bias = shift if self.bias is None else self.bias * scale + shift
        return _Convolution(self.layer, self.x, kernel, bias)

    @functools.cached_property
    def output(self):
        """The new network's tensor. After the first use the weights are what they are."""
        depthwise = isinstance(self.layer, layers.DepthwiseConv2D)
        config = self.layer.get_config() | {"use_bias": self.bias is not None}
        config["depthwise_initializer" if depthwise else "kernel_initializer"] = "zeros"  # assigned below
        layer = _plain(self.layer).from_config(config)
        output = layer(self.x)
        layer.kernel.assign(self.kernel.astype("float32"))
        if self.bias is not None:
            layer.bias.assign(self.bias.astype("float32"))
        return output


class _Scaled:
    """A tensor of the new network, times `scale` plus `shift` ([C] each, float64), that layers after it may take in.

    layer: the old network's that computes it, and does so still if none takes it in.
    """

    def __init__(self, layer, x, scale, shift):
        self.layer, self.x, self.scale, self.shift = layer, x, scale, shift

    @functools.cached_property
    def output(self):
        """The new network's tensor."""
        layer = type(self.layer).from_config(self.layer.get_config())
        output = layer(self.x)
        take_weights(layer, self.layer)
        return output


def _plain(convolution):
    """The class of a convolution that has its weights for itself."""
    return layers.DepthwiseConv2D if isinstance(convolution, layers.DepthwiseConv2D) else layers.Conv2D


def _tensor(value):
    return value.output if isinstance(value, _Convolution | _Scaled) else value


def _float64(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _fused(network, activations):
    order, readers = nodes(network)
    calls = collections.Counter(node.operation for node in order)
    inputs = keras.tree.map_structure(input_like, network.input)
    pairs = zip(keras.tree.flatten(network.input), keras.tree.flatten(inputs), strict=True)
    values = {id(old): new for old, new in pairs}
    copies = {}
    for node in order:
        layer = node.operation
        if node.is_input:
            continue
        # Only what nobody else reads may change.
        sources = [values[id(x)] if readers[id(x)] == 1 else _tensor(values[id(x)]) for x in node.input_tensors]
        fusion = _fusion_of(layer)
        fused = fusion(layer, *sources) if fusion and calls[layer] == 1 else None
        if fused is not None:
            values[id(node.output_tensors[0])] = fused
            continue
        if layer not in copies:
            copies[layer] = copied(layer, activations)
        args, kwargs = node.arguments.fill_in({id(x): _tensor(values[id(x)]) for x in node.input_tensors})
        outputs = keras.tree.flatten(copies[layer](*args, **kwargs))
        values |= {id(old): new for old, new in zip(node.output_tensors, outputs, strict=True)}
    for layer, copy in copies.items():
        if isinstance(layer, layers.Layer):  # bare operations, such as a keras.ops.split, have no weights
            take_weights(copy, layer)
    outputs = keras.tree.map_structure(lambda x: _tensor(values[id(x)]), network.output)
    return keras.Model(inputs, outputs, name=network.name)


# --- what is fused ----------------------------------------------------------------------------------------------------

# Each: (layer of the old network, *what it reads) -> the _Convolution or _Scaled whose output is the layer's, or None
# where there is none. It reads tensors of the new network, or a _Convolution or _Scaled that nobody else reads.


def _convolution(layer, x):
    if layer.activation is not keras.activations.linear or layer.data_format != "channels_last":
        return None
    kernel, bias = _float64(layer.kernel), _float64(layer.bias) if layer.use_bias else None
    if isinstance(x, _Scaled) and isinstance(layer, layers.Conv2D) and layer.groups == 1 and not _reaches_out(layer):
        shifted = (x.shift[:, None] * kernel).sum(axis=(0, 1, 2))
        return _Convolution(layer, x.x, x.scale[:, None] * kernel, shifted + (0 if bias is None else bias))
    return _Convolution(layer, _tensor(x), kernel, bias)


def _reaches_out(layer):
    """Whether it reads zeros beside the feature map, which a shift of the feature map does not reach."""
    return layer.padding != "valid" and tuple(layer.kernel_size) != (1, 1)


def _affine(layer, x):
    """Fuses a layer that declares "affine"."""
    return _scaled(layer, x, *(np.asarray(part, "float64") for part in layer.affine()))


def _keras_batch_norm(layer, x):
    if layer.axis != -1:
        return None
    mean, variance = _float64(layer.moving_mean), _float64(layer.moving_variance)
    scale = (_float64(layer.gamma) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
    return _scaled(layer, x, scale, (_float64(layer.beta) if layer.center else 0.0) - mean * scale)


def _scaled(layer, x, scale, shift):
    return x.affine(scale, shift) if isinstance(x, _Convolution) else _Scaled(layer, _tensor(x), scale, shift)


def _add(layer, *sources):
    """Fuses the sum of convolutions of one tensor: their kernels add up. The tensor itself, scaled, counts as one."""
    convolutions = [source for source in sources if isinstance(source, _Convolution)]
    x = _tensor(convolutions[0].x) if convolutions else None
    if any(isinstance(source, keras.KerasTensor) or source.x is not x for source in sources):
        return None
    if any(type(one.layer) is not layers.Conv2D or one.layer.groups > 1 for one in convolutions):
        return None
    first = max(convolutions, key=lambda one: one.kernel.shape[0])
    size = first.kernel.shape[0]
    # The middles of the kernels must lie on each other: odd, with zeros all round, or so small that they need none.
    for one in convolutions:
        config, rows = one.layer, one.kernel.shape[:2]
        alike = config.strides == first.layer.strides == (1, 1) and config.dilation_rate == (1, 1)
        if not (alike and rows[0] == rows[1] and rows[0] % 2 and (rows[0] == 1 or config.padding == "same")):
            return None
    kernel, bias = np.zeros_like(first.kernel), np.zeros(first.kernel.shape[-1])
    for source in sources:
        if isinstance(source, _Scaled):
            if kernel.shape[2] != kernel.shape[3]:
                return None
            part, more = np.diag(source.scale)[None, None], source.shift
        else:
            part, more = source.kernel, 0 if source.bias is None else source.bias
        edge = (size - part.shape[0]) // 2
        kernel += np.pad(part, [(edge, edge), (edge, edge), (0, 0), (0, 0)])
        bias += more
    return _Convolution(first.layer, x, kernel, bias)


def _picked(layer, x):
    """Fuses a convolution and the pick of every n-th cell: it strides, a dilated kernel's holes filled with zeros."""
    if tuple(layer.pool_size) != (1, 1) or not isinstance(x, _Convolution) or x.layer.padding != "valid":
        return None
    rows, columns = x.kernel.shape[:2]
    config = x.layer.get_config()
    down, across = config["dilation_rate"]
    kernel = np.zeros((down * (rows - 1) + 1, across * (columns - 1) + 1, *x.kernel.shape[2:]))
    kernel[::down, ::across] = x.kernel
    strides = tuple(np.multiply(config["strides"], layer.strides).tolist())
    config |= {"kernel_size": kernel.shape[:2], "strides": strides, "dilation_rate": (1, 1)}
    return _Convolution(_plain(x.layer).from_config(config), x.x, kernel, x.bias)


# Of Keras's layers, by exact class: a subclass may compute anything.
FUSIONS = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.MaxPooling2D: _picked,
    layers.BatchNormalization: _keras_batch_norm,
    layers.Add: _add,
}
# What a layer's class declares as `fusion`.
DECLARED = {"convolution": _convolution, "affine": _affine}


def _fusion_of(layer):
    kind = declared(layer, "fusion")
    if kind is None:
        return FUSIONS.get(type(layer))
    if kind not in DECLARED:
        raise FusionError(
            f"{layer.name}: {type(layer).__qualname__}.fusion: expected one of {', '.join(DECLARED)}, received {kind!r}"
        )
    return DECLARED[kind]
