"""Calibration: the quantization ranges of a trained network, measured on images (Jacob et al. 2018, arXiv:1712.05877).

ranges = observe(fused, batches)        # the range of each feature map
quantized = quantize(fused, ranges)     # graph.quantization
"""

import collections

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfyolo.graph.declarations import is_homogeneous
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import map_name, nodes
from tfyolo.graph.quantization import FakeQuantize, quantize

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
PASS_SCALES = (layers.MaxPooling2D, layers.ZeroPadding2D)  # of each channel by itself, as homogeneous activations do


def equalized(model, batches):
    """Equalizes a Model across layers: it computes the same, and all channels of a feature map use 256 values alike.

    Of two convolutions in a row, with nothing but homogeneous activations, pools and padding between, the first
    multiplies a channel and the second divides it. Before a depthwise convolution, whose kernels are quantized per
    channel anyway, all channels get one range. Before others, their ranges meet those of the kernels half way.

    Args:
        model: a fused Model.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.

    Returns:
        A Model with weights of its own.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.
    """
    model = fuse(model)  # weights of its own
    pairs = in_a_row(model.network)
    if not pairs:
        return model
    probe = keras.Model(model.network.input, [first.output for first, _ in pairs])
    magnitudes = tf.function(
        lambda images: [tf.reduce_max(tf.abs(x), [0, 1, 2]) for x in keras.tree.flatten(probe(images))]
    )
    largest = [
        np.max(values, axis=0)
        for values in zip(*([np.asarray(x) for x in magnitudes(batch)] for batch in batches), strict=True)
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


def in_a_row(network):
    """Finds the convolutions in a row: the second alone reads the first's output, and what lies between keeps scales.

    Args:
        network: keras.Model.

    Returns:
        [(convolution, the next one)]
    """
    order, readers = nodes(network)
    calls = collections.Counter(node.operation for node in order)
    read_by = {id(x): node for node in order for x in node.input_tensors}
    pairs = []
    for node in order:
        first, x = node.operation, node.output_tensors[0]
        if type(first) not in CONVOLUTIONS or first.activation is not keras.activations.linear or calls[first] > 1:
            continue
        while readers[id(x)] == 1 and id(x) in read_by:  # one reader, and no output of the network
            second = read_by[id(x)].operation
            if type(second) in CONVOLUTIONS and getattr(second, "groups", 1) == 1 and calls[second] == 1:
                pairs.append((first, second))
            if type(second) not in PASS_SCALES and not (
                type(second) is layers.Activation and is_homogeneous(second.activation)
            ):
                break
            x = read_by[id(x)].output_tensors[0]
    return pairs


CALIBRATION_IMAGES = 128  # when a data set has more
SAMPLES = 4096  # values of a feature map that are kept of each batch
SHRUNK = np.linspace(1.0, 0.3, 36)  # fractions of the whole range that are tried


def observe(model, batches):
    """Measures the range of every feature map in which 256 values lose least.

    The loss is the sum of squared errors; a few outliers may be clipped for it.

    Args:
        model: a fused Model, as quantize() takes it.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.

    Returns:
        {name of a feature map: (low, high)}
    """
    tensors = [x for node in nodes(model.network)[0] for x in node.output_tensors]
    probe = keras.Model(model.network.input, tensors)

    @tf.function
    def sampled(images, number):
        found = []
        for place, values in enumerate(keras.tree.flatten(probe(images, training=False))):
            flat = tf.reshape(values, [-1])
            # At other positions in each batch and each feature map.
            picked = tf.random.stateless_uniform([SAMPLES], tf.stack([place, number]), 0, tf.size(flat), tf.int32)
            found.append((tf.reduce_min(flat), tf.reduce_max(flat), tf.gather(flat, picked)))
        return found

    seen = [
        [[np.asarray(part) for part in found] for found in sampled(images, tf.constant(number))]
        for number, images in enumerate(batches)
    ]
    ranges = {}
    for x, found in zip(tensors, zip(*seen, strict=True), strict=True):
        lows, highs, values = zip(*found, strict=True)
        ranges[map_name(x)] = best_range(min(lows), max(highs), np.concatenate(values))
    return ranges


def best_range(low, high, values):
    """Finds the range that quantizes values with the least squared error, among low..high shrunk by each of SHRUNK.

    Args:
        low: the least value that was seen.
        high: the largest.
        values: [N], a sample of all.

    Returns:
        (low, high), with 0 between.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    best = low, high
    least = np.inf
    for factor in SHRUNK:
        a, b = low * factor, high * factor
        scale = max(b - a, 1e-6) / 255
        error = np.mean((np.clip(np.round((values - a) / scale), 0, 255) * scale + a - values) ** 2)
        if error < least:
            best, least = (a, b), error
    return best


def calibrated(model, images, *, per_channel=True):
    """Quantizes a trained Model, with ranges measured on images.

    Args:
        model: a Model, fused or not.
        images: function that returns an iterable of batches [B, H, W, 3], float32 in 0..1. It is called twice, so that
            no images are kept.
        per_channel: as for quantize().

    Returns:
        (the fake-quantized Model, the fused Model that it was made of)

    Raises:
        QuantizationError: a layer does not declare how it is quantized.
    """
    fused = equalized(fuse(model), images())
    return quantize(fused, observe(fused, images()), per_channel=per_channel), fused


def sqnr(model, quantized, images):
    """Measures the signal-to-quantization-noise ratio (SQNR) of every quantized feature map.

    Its noise includes what comes from the feature maps before it.

    Args:
        model: the fused Model that `quantized` was made of.
        quantized: what quantize() made of it.
        images: [B, H, W, 3], float32 in 0..1.

    Returns:
        [(name of a feature map, SQNR in dB)], the lowest first.
    """
    tensors = {map_name(x).replace(":", "."): x for node in nodes(model.network)[0] for x in node.output_tensors}
    quantizers = {
        layer.name.removesuffix(".int8"): layer for layer in quantized.network.layers if type(layer) is FakeQuantize
    }
    names = [name for name in tensors if name in quantizers]
    before = keras.Model(model.network.input, [tensors[name] for name in names])(images, training=False)
    after = keras.Model(quantized.network.input, [quantizers[name].output for name in names])(images, training=False)
    found = []
    for name, clean, noisy in zip(names, before, after, strict=True):
        clean, noisy = np.asarray(clean, "float64"), np.asarray(noisy, "float64")
        ratio = np.mean(clean**2) / max(np.mean((clean - noisy) ** 2), 1e-20)
        found.append((name, round(10 * float(np.log10(max(ratio, 1e-20))), 2)))
    return sorted(found, key=lambda pair: pair[1])
