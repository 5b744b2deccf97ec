"""Sensitivity: which feature maps the errors of an int8 network come from."""

import keras
import tensorflow as tf
from keras import layers

from tfyolo.graph.declarations import function_quantization
from tfyolo.graph.nodes import call_in_order, readers_of
from tfyolo.graph.quantization import QUANTIZER, FakeQuantize

PROJECTIONS = 2  # random ones of the outputs, for each batch
AT_ONCE = 4  # images
TYPICAL_SHIFT = 32.0  # pixels of a box that count as much as 1 of a score


def sensitivities(quantized, images):
    """Estimates how much of the outputs' error each quantized feature map causes.

    The outputs are the scores of all candidates and, weighted by them, their boxes. A map's noise n moves them by J n,
    in first order; v J n for a random v has the mean square |J n|^2, so that a few backward passes do for all maps.
    What a range clips in front of a sigmoid does not count: it is clipped where the sigmoid is flat (see
    graph.calibration.observe), and to first order a large noise there would seem to move much.

    Args:
        quantized: a Model of fake quantization.
        images: [B, H, W, 3], float32 in 0..1, some that are typical.

    Returns:
        [(name of a feature map, its share, 0..1)], the largest first.
    """
    errors = {}
    for start in range(0, len(images), AT_ONCE):
        for name, error in _errors(quantized, images[start : start + AT_ONCE], start).items():
            errors[name] = errors.get(name, 0.0) + error
    total = sum(errors.values()) or 1.0
    return sorted(((name, error / total) for name, error in errors.items()), key=lambda pair: -pair[1])


def _errors(quantized, images, seed):
    """{name of a feature map: the sum of squares of what its noise moves random projections by}."""
    noises, marks = {}, {}

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if type(layer) is not FakeQuantize or layer.name in marks:  # called again, it only moves numbers
            return outputs
        noise = outputs - args[0]
        if any(_is_sigmoid(reader) for reader in readers_of(layer.output)):
            low, high = layer.ends
            noise = tf.where((args[0] >= low) & (args[0] <= high), noise, 0.0)
        if layer.name.startswith("backbone."):
            noise -= tf.reduce_mean(noise, range(len(noise.shape) - 1), keepdims=True)
        noises[layer.name] = noise
        marks[layer.name] = mark = tf.zeros_like(outputs)
        tape.watch(mark)
        # Straight through, also where the range clips: what the noise does behind here counts.
        return args[0] + tf.stop_gradient(outputs - args[0]) + mark

    with tf.GradientTape(persistent=True) as tape:
        found = quantized.decoder(call_in_order(quantized.network, images, call))
        best = tf.stop_gradient(tf.reduce_max(found.scores, -1, keepdims=True))
        outputs = [found.scores, best * found.boxes / TYPICAL_SHIFT]
        projections = [
            sum(
                tf.reduce_sum(x * tf.random.stateless_normal(tf.shape(x), [seed + place, number]))
                for place, x in enumerate(outputs)
            )
            for number in range(PROJECTIONS)
        ]
    errors = {}
    for projection in projections:
        for name, gradient in tape.gradient(projection, marks).items():
            if gradient is not None:
                moved = tf.reduce_sum(keras.ops.reshape(gradient * noises[name], [len(images), -1]), 1)
                key = name.removesuffix(QUANTIZER)
                errors[key] = errors.get(key, 0.0) + float(tf.reduce_sum(moved**2))
    return errors


def _is_sigmoid(layer):
    return type(layer) is layers.Activation and function_quantization(layer.activation) == "sigmoid"
