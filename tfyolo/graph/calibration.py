"""Calibration: a trained network for int8, its quantization ranges measured on images.

calibration = calibrate(model, images)
quantized = calibration.quantized()

It equalizes the channels (graph.equalization), measures the range of each feature map (Jacob et al. 2018,
arXiv:1712.05877), takes the mean error away (Nagel et al. 2019, arXiv:1906.04721) and fits the last convolutions to
what they then read (graph.refitting).
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfyolo.graph.declarations import function_quantization, is_homogeneous
from tfyolo.graph.equalization import equalized
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import call_in_order, map_name, nodes
from tfyolo.graph.quantization import KERNELS, QUANTIZER, FakeQuantize, quantize
from tfyolo.graph.refitting import refit_ends

CALIBRATION_IMAGES = 128  # when a data set has more
SAMPLES = 16384  # values of a feature map that are kept of each batch
SHRUNK = np.linspace(1.0, 0.02, 50)  # parts of an end of the whole range that are tried
EXTREMES = 1024  # values at either end that a range is searched with one by one
GROUPS = 4096  # into which those between are put


def observe(model, batches):
    """Measures the range of every feature map in which 256 values lose least.

    The loss is the sum of squared errors; a few outliers may be clipped for it. Of a feature map that only a
    sigmoid, a gated or a homogeneous activation reads, the errors behind that count: a sigmoid hardly tells one number
    far below 0 from another, and a leaky ReLU leaves a tenth of such an error.

    Args:
        model: a fused Model, as quantize() takes it.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.

    Returns:
        {name of a feature map: (low, high)}
    """
    order, readers = nodes(model.network)
    tensors = [x for node in order for x in node.output_tensors]
    probe = keras.Model(model.network.input, tensors)

    @tf.function(reduce_retracing=True)
    def sampled(images, seed):
        maps = [tf.reshape(x, [-1]) for x in keras.tree.flatten(probe(images, training=False))]
        # At other positions in each batch and each feature map.
        places = tf.random.stateless_uniform([len(maps), SAMPLES], seed)
        sizes = tf.cast([tf.size(x) for x in maps], tf.float32)[:, None]
        places = tf.unstack(tf.cast(places * sizes, tf.int32))
        picked = [tf.gather(x, tf.minimum(place, tf.size(x) - 1)) for x, place in zip(maps, places, strict=True)]
        return tf.stack(list(map(tf.reduce_min, maps))), tf.stack(list(map(tf.reduce_max, maps))), tf.stack(picked)

    seen = [
        [part.numpy() for part in sampled(tf.convert_to_tensor(images), tf.constant([0, number]))]
        for number, images in enumerate(batches)
    ]
    lows, highs, values = (np.stack(each, 1) for each in zip(*seen, strict=True))  # [maps, batches], [.., SAMPLES]
    only_reader = {id(x): node.operation for node in order for x in node.input_tensors if readers[id(x)] == 1}
    ranges = {}
    for x, low, high, sample in zip(tensors, lows, highs, values, strict=True):
        reader = only_reader.get(id(x))
        behind = _numpy_of(reader.activation) if type(reader) is layers.Activation else _identity
        ranges[map_name(x)] = best_range(low.min(), high.max(), sample.reshape(-1), behind)
    return ranges


def _numpy_of(activation):
    """An activation function on NumPy's arrays, as far as it is known: elsewhere x itself."""
    if is_homogeneous(activation):
        at_one, at_minus_one = (float(activation(tf.constant(x))) for x in (1.0, -1.0))
        return lambda x: np.where(x > 0, at_one * x, -at_minus_one * x)
    return FLATTENING.get(function_quantization(activation), _identity)


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


# Functions that map a wide range to a narrow one, by what they declare for int8.
FLATTENING = {"sigmoid": _sigmoid, "gated": lambda x: x * _sigmoid(x)}


def _identity(x):
    return x


def best_range(low, high, values, behind=_identity):
    """Finds the range that quantizes values with the least squared error; each end is shrunk by each of SHRUNK.

    Args:
        low: the least value that was seen.
        high: the largest.
        values: [N], a sample of all.
        behind: the function behind which the errors count, elementwise.

    Returns:
        (low, high), with 0 between.
    """
    values, weights = _condensed(values)
    clean = behind(values)

    def error(ends):
        a, b = ends
        scale = max(b - a, 1e-6) / 255
        return weights @ (behind(np.clip(np.round((values - a) / scale), 0, 255) * scale + a) - clean) ** 2

    low, high = min(float(low), 0.0), max(float(high), 0.0)
    best = low, high
    for _ in range(2):  # the best of one end depends on the other
        best = min([(best[0], high * part) for part in SHRUNK], key=error)
        best = min([(low * part, best[1]) for part in SHRUNK], key=error)
    return best


def _condensed(values):
    """Many values by fewer: (values, weights). The rare ones at the ends, which decide on a range, stay as they are."""
    values = np.sort(values).astype("float64")
    if len(values) <= 2 * EXTREMES + GROUPS:
        return values, np.ones(len(values))
    starts = np.linspace(EXTREMES, len(values) - EXTREMES, GROUPS, endpoint=False).astype(int)
    starts = np.concatenate([np.arange(EXTREMES), starts, np.arange(len(values) - EXTREMES, len(values))])
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts) / counts, counts.astype("float64")


def correct_biases(quantized, fused, images):
    """Takes the mean error out of the backbone's convolutions: it shifts the biases by what their outputs are off.

    Quantization moves the mean of a channel, and the layers behind add such shifts up. The backbone's maps describe all
    places alike; those of neck and head say where objects are, which are rare, so that a mean over places says nothing
    of them: there the correction does harm (AP of the released YOLOX-nano on 80 images of COCO: .310 in float32; in
    int8 .313 with the backbone corrected, .256 with all).

    Args:
        quantized: what quantize() made of the fused Model; its biases are changed.
        fused: the fused Model.
        images: [B, H, W, 3], float32 in 0..1.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2, the empirical way.
    """
    if fused.config.model.backbone.name == "darknet_cfg":  # which holds neck and head, too
        return
    means = {}

    def mean(x):
        return tf.reduce_mean(x, range(len(x.shape) - 1))

    def measure(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if type(layer) in KERNELS and layer.use_bias and layer.name.startswith("backbone."):
            means.setdefault(layer.name, mean(outputs))
        return outputs

    def correct(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if layer.name in means:  # of the convolutions before it, the errors are gone
            shift = means.pop(layer.name) - mean(outputs)
            layer.bias.assign_add(shift)
            outputs += shift
        return outputs

    call_in_order(fused.network, images, measure)
    call_in_order(quantized.network, images, correct)


CORRECTION_IMAGES = 16  # all of them go through at once


class Calibration(NamedTuple):
    """What was measured of a trained Model on images.

    Attributes:
        fused: the Model that is quantized, fused and equalized.
        ranges: {name of a feature map: (low, high)}
        images: [B, H, W, 3], a few of them.
        batches: function that returns an iterable of them all.
        per_channel: as for quantize().
    """

    fused: Any
    ranges: dict
    images: tf.Tensor
    batches: Any
    per_channel: bool

    def quantized(self, floats=()):
        """The fake-quantized Model. floats: names of feature maps that stay float32."""
        found = quantize(self.fused, self.ranges, per_channel=self.per_channel, floats=floats)
        correct_biases(found, self.fused, self.images)
        refit_ends(found, self.fused, self.batches())
        return found


def calibrate(model, images, *, per_channel=True, gates=True):
    """Measures on images what quantization needs to know of a trained Model.

    Args:
        model: a Model, fused or not.
        images: function that returns an iterable of batches [B, H, W, 3], float32 in 0..1. It is called anew for
            each pass, so that no images are kept.
        per_channel: as for quantize().
        gates: as for equalized(); QAT needs False, whose network is built anew from the config alone.

    Returns:
        Calibration.

    Raises:
        QuantizationError: a layer does not declare how it is quantized.
    """
    fused = equalized(fuse(model), images(), gates=gates and per_channel)  # a gate's scales need one of each channel
    return Calibration(fused, observe(fused, images()), _first(images(), CORRECTION_IMAGES), images, per_channel)


def _first(batches, count):
    """The first so many images of batches [B, H, W, 3]; all, if there are fewer."""
    found = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= count:
            break
    return tf.concat(found, 0)[:count]


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
        layer.name.removesuffix(QUANTIZER): layer for layer in quantized.network.layers if type(layer) is FakeQuantize
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
