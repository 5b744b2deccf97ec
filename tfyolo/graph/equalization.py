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


class Pair(NamedTuple):
    """Two convolutions in a row.

    Attributes:
        first: the layer whose output nothing but the second reads.
        second: the next convolution.
        gate: the one gated activation between them; None: all between keeps scales.
    """

    first: layers.Layer
    second: layers.Layer
    gate: layers.Activation | None


def equalized(model, batches, *, gates=True):
    """Equalizes a Model across layers: it computes the same, and all channels of a feature map use 256 values alike.

    Of two convolutions in a row, with nothing but homogeneous activations, pools and padding between, the first
    multiplies a channel and the second divides it. Before a depthwise convolution, whose kernels are quantized per
    channel anyway, all channels get one range. Before others, their ranges meet those of the kernels half way.

    A gated activation, x * sigmoid(x), is not homogeneous. Where channels differ much, its gate gets a scale of its own
    for each channel, x * sigmoid(scale * x): a depthwise 1x1 convolution more. The first layer of YOLOX-nano, whose
    channels reach from 0.4 to 160, is such a case.

    Args:
        model: a fused Model.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.
        gates: False: the network keeps its layers, and only pairs without a gate are equalized.

    Returns:
        A Model with weights of its own.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1. The scale of the sigmoids is tfyolo's own.
    """
    model = fuse(model)  # weights of its own
    pairs = [pair for pair in in_a_row(model.network) if gates or not pair.gate]
    if not pairs:
        return model
    factors = {}
    for pair, reach in zip(pairs, _reach([pair.first.output for pair in pairs], model.network, batches), strict=True):
        reach = np.maximum(reach / max(reach.max(), 1e-9), 1e-3)
        if not pair.gate or np.quantile(reach, 0.25) < LEAST_USED:
            factors[pair] = _factor(pair.second, reach)
    network = _with_scaled_gates(model.network, {pair.gate: 1 / factors[pair] for pair in factors if pair.gate})
    for pair, factor in factors.items():
        first, second = (network.get_layer(layer.name) for layer in (pair.first, pair.second))
        first.kernel.assign(np.asarray(first.kernel) * _by_channel(first, factor))
        if first.use_bias:
            first.bias.assign(np.asarray(first.bias) * factor)
        second.kernel.assign(np.asarray(second.kernel) / factor[:, None])
    return model._replace(network=network)


def _reach(tensors, network, batches):
    """[[C]]: the largest magnitude in each channel of some feature maps."""
    probe = keras.Model(network.input, tensors)
    magnitudes = tf.function(
        lambda images: [tf.reduce_max(tf.abs(x), [0, 1, 2]) for x in keras.tree.flatten(probe(images))]
    )
    found = ([np.asarray(x) for x in magnitudes(batch)] for batch in batches)
    return [np.max(values, axis=0) for values in zip(*found, strict=True)]


def _factor(second, reach):
    """[C]: what each channel that a convolution reads is multiplied by. reach: [C], above 0, at most 1."""
    if isinstance(second, layers.DepthwiseConv2D):
        return 1 / reach
    weight = np.abs(np.asarray(second.kernel)).max(axis=(0, 1, 3))
    return np.sqrt(np.maximum(weight / max(weight.max(), 1e-9), 1e-3) / reach)


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
    """Finds the convolutions in a row: the second alone reads the first's output, and what lies between keeps scales.

    One gated activation may lie between too.

    Args:
        network: keras.Model.

    Returns:
        [Pair]
    """
    order, readers = nodes(network)
    calls = collections.Counter(node.operation for node in order)
    read_by = {id(x): node for node in order for x in node.input_tensors}
    pairs = []
    for node in order:
        first, x, gate = node.operation, node.output_tensors[0], None
        if type(first) not in CONVOLUTIONS or first.activation is not keras.activations.linear or calls[first] > 1:
            continue
        while readers[id(x)] == 1 and id(x) in read_by:  # one reader, and no output of the network
            second = read_by[id(x)].operation
            if type(second) in CONVOLUTIONS and getattr(second, "groups", 1) == 1 and calls[second] == 1:
                pairs.append(Pair(first, second, gate))
            if gate is None and _is_gate(second) and calls[second] == 1:
                gate = second
            elif type(second) not in PASS_SCALES and not (
                type(second) is layers.Activation and is_homogeneous(second.activation)
            ):
                break
            x = read_by[id(x)].output_tensors[0]
    return pairs


def _is_gate(layer):
    return type(layer) is layers.Activation and function_quantization(layer.activation) == "gated"
