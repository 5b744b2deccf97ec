"""Cross-layer equalization: the same network, whose feature maps use 256 values better (Nagel et al. 2019)."""

import collections
import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfyolo.graph.declarations import function_quantization, is_homogeneous
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import nodes, rebuilt

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
PASS_SCALES = (layers.MaxPooling2D, layers.ZeroPadding2D)  # of each channel by itself, as homogeneous activations do
# Where a quarter of a feature map's channels use less than this part of its range, 256 values are too few for them.
LEAST_USED = 1 / 32


class Row(NamedTuple):
    """Convolutions in a row.

    Attributes:
        first: the layer whose output nothing but the next ones read.
        next: the convolutions that read it: one, or several side by side.
        gate: the one gated activation between them; None: all between keeps scales.
    """

    first: layers.Layer
    next: tuple[layers.Layer, ...]
    gate: layers.Activation | None


def equalized(model, batches, *, gates=True):
    """Equalizes a Model across layers: it computes the same, and all channels of a feature map use 256 values alike.

    Of convolutions in a row, with nothing but homogeneous activations, pools and padding between, the first multiplies
    a channel and the next, or all those that read it, divide it. Before depthwise convolutions, whose kernels are
    quantized per channel anyway, all channels get one range. Before others, their ranges meet those of the kernels half
    way.

    A gated activation, x * sigmoid(x), is not homogeneous. Where channels differ much, its gate gets a scale of its own
    for each channel, x * sigmoid(scale * x): a depthwise 1x1 convolution more. The first layer of YOLOX-nano, whose
    channels reach from 0.4 to 160, is such a case.

    Args:
        model: a fused Model.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.
        gates: False: the network keeps its layers, and only rows without a gate are equalized.

    Returns:
        A Model with weights of its own.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1. The scale of the sigmoids is tfyolo's own.
    """
    model = fuse(model)  # weights of its own
    rows = [row for row in in_a_row(model.network) if gates or not row.gate]
    if not rows:
        return model
    factors = {}
    for row, reach in zip(rows, _reach([row.first.output for row in rows], model.network, batches), strict=True):
        reach = np.maximum(reach / max(reach.max(), 1e-9), 1e-3)
        if not row.gate or np.quantile(reach, 0.25) < LEAST_USED:
            factors[row] = _factor(row.next, reach)
    network = _with_scaled_gates(model.network, {row.gate: 1 / factors[row] for row in factors if row.gate})
    for row, factor in factors.items():
        first = network.get_layer(row.first.name)
        first.kernel.assign(np.asarray(first.kernel) * _by_channel(first, factor))
        if first.use_bias:
            first.bias.assign(np.asarray(first.bias) * factor)
        for reader in (network.get_layer(layer.name) for layer in row.next):
            reader.kernel.assign(np.asarray(reader.kernel) / factor[:, None])
    return model._replace(network=network)


def _reach(tensors, network, batches):
    """[[C]]: the largest magnitude in each channel of some feature maps."""
    probe = keras.Model(network.input, tensors)
    magnitudes = tf.function(
        lambda images: [tf.reduce_max(tf.abs(x), [0, 1, 2]) for x in keras.tree.flatten(probe(images))]
    )
    found = ([np.asarray(x) for x in magnitudes(batch)] for batch in batches)
    return [np.max(values, axis=0) for values in zip(*found, strict=True)]


def _factor(readers, reach):
    """[C]: what each channel that convolutions read is multiplied by. reach: [C], above 0, at most 1."""
    if all(isinstance(reader, layers.DepthwiseConv2D) for reader in readers):
        return 1 / reach
    weights = [np.abs(np.asarray(reader.kernel)).max(axis=(0, 1, 3)) for reader in readers if _mixes(reader)]
    weight = np.max([each / max(each.max(), 1e-9) for each in weights], axis=0)
    return np.sqrt(np.maximum(weight, 1e-3) / reach)


def _mixes(convolution):
    """Whether it mixes channels, so that those it reads share a range of its kernel's."""
    return not isinstance(convolution, layers.DepthwiseConv2D)


def _by_channel(convolution, values):
    """[C] as it multiplies the kernel of the convolution that outputs these channels."""
    return values[:, None] if isinstance(convolution, layers.DepthwiseConv2D) else values


def _with_scaled_gates(network, scales):
    """The network whose gated activations x * sigmoid(x) are x * sigmoid(scale * x). scales: {activation: [C]}."""
    if not scales:
        return network

    def scaled_gate(layer, x):
        scale = layers.DepthwiseConv2D(1, use_bias=False, data_format="channels_last", name=f"{layer.name}.scale")
        gate = layers.Activation("sigmoid", name=f"{layer.name}.sigmoid")(scale(x))
        scale.kernel.assign(scales[layer].reshape(scale.kernel.shape))
        return layers.Multiply(name=layer.name)([x, gate])

    return rebuilt(network, {layer: functools.partial(scaled_gate, layer) for layer in scales})


def in_a_row(network):
    """Finds convolutions in a row: others alone read the first's output, and what lies between keeps scales.

    One gated activation may lie between too.

    Args:
        network: keras.Model.

    Returns:
        [Row]
    """
    order, readers = nodes(network)
    calls = collections.Counter(node.operation for node in order)
    read_by = collections.defaultdict(list)
    for node in order:
        for x in node.input_tensors:
            read_by[id(x)].append(node)

    def divides(layer):
        return type(layer) in CONVOLUTIONS and getattr(layer, "groups", 1) == 1 and calls[layer] == 1

    rows = []
    for node in order:
        first, x, gate = node.operation, node.output_tensors[0], None
        if type(first) not in CONVOLUTIONS or first.activation is not keras.activations.linear or calls[first] > 1:
            continue
        while len(read_by[id(x)]) == readers[id(x)]:  # it is no output of the network
            behind = [node.operation for node in read_by[id(x)]]
            if all(map(divides, behind)):
                rows.append(Row(first, tuple(behind), gate))
                break
            if len(behind) > 1:
                break
            (layer,) = behind
            if gate is None and _is_gate(layer) and calls[layer] == 1:
                gate = layer
            elif type(layer) not in PASS_SCALES and not (
                type(layer) is layers.Activation and is_homogeneous(layer.activation)
            ):
                break
            (x,) = read_by[id(x)][0].output_tensors
    return rows


def _is_gate(layer):
    return type(layer) is layers.Activation and function_quantization(layer.activation) == "gated"
