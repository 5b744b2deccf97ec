"""The quantization ranges of a trained network, found in images (Jacob et al. 2018, arXiv:1712.05877).

ranges = observe(fused, images)         # what each feature map holds
quantized = quantize(fused, ranges)     # tfyolo.graph.quantization"""

import collections

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import map_name, nodes
from tfyolo.graph.quantization import CONVOLUTIONS, INSIDE, FakeQuantize, quantize
from tfyolo.nn.activations import leaky


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
        ranges[map_name(x)] = _bounds(min(lows), max(highs), np.concatenate(values))
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


def quantized_by(model, pictures, *, per_channel=True):
    """(a Model that rounds as int8 does, the same without rounding) of one that was trained, with bounds that pictures find.

    pictures: gives batches, as of observe, each time that it is called: they are looked at twice, not held.
    """
    fused = equalized(fuse(model), pictures())
    return quantize(fused, observe(fused, pictures()), per_channel=per_channel), fused


def damage(model, quantized, images):
    """[(map, dB)] of the maps that a rounding network rounds, the most damaged first: signal to noise, all that came before included.

    model: fused, that quantized was made of. images: [B, H, W, 3] float32 0..1.
    """
    tensors = {map_name(x).replace(":", "."): x for node in nodes(model.network)[0] for x in node.output_tensors}
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
