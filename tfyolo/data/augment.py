"""Random changes to training images, each a pure function of a seed.

Geometry is 3x3 matrices on columns (y, x, 1), in pixels; pixel (0, 0) covers [0, 1) x [0, 1). They are multiplied first
and applied once, by geometry.paste. Colour is one 3x3 matrix too, on (r, g, b), for recolour. A seed is two integers,
as in tf.random.split.
"""

import math

import cv2
import tensorflow as tf

from tfyolo.data.geometry import about, letterbox, matrix_of, rotation, scaling, translation

# --- geometry: (seed, size, amount) -> [3, 3] -------------------------------------------------------------------------


def _uniform(seed, amount, shape=()):
    return tf.random.stateless_uniform(shape, seed, -amount, amount)


def _middle(size):
    return tf.unstack(tf.cast(size, tf.float32) / 2, 2)


def flip(seed, size, probability):
    """Left-right, for an image of `size` (H, W), with a probability: [3, 3] of (y, x, 1)."""
    sign = tf.where(tf.random.stateless_uniform([], seed) < probability, -1.0, 1.0)
    return about(_middle(size), matrix_of(1, 0, 0, 0, sign, 0))


def flip_vertical(seed, size, probability):
    """Upside down, for an image of `size` (H, W), with a probability: [3, 3] of (y, x, 1)."""
    sign = tf.where(tf.random.stateless_uniform([], seed) < probability, -1.0, 1.0)
    return about(_middle(size), matrix_of(sign, 0, 0, 0, 1, 0))


def scale(seed, size, amount):
    """Zooms about the middle of `size` (H, W) by a factor of 1-amount .. 1+amount: [3, 3]."""
    return about(_middle(size), scaling(1 + _uniform(seed, amount)))


def translate(seed, size, amount):
    """Shifts by up to `amount` of the size (H, W), either way: [3, 3]."""
    y, x = tf.unstack(_uniform(seed, amount, [2]) * tf.cast(size, tf.float32))
    return translation(y, x)


def rotate(seed, size, degrees):
    """Turns about the middle of `size` (H, W) by up to `degrees`, either way: [3, 3]."""
    return rotation(_uniform(seed, degrees), _middle(size))


def shear(seed, size, degrees):
    """Slants about the middle of `size` (H, W) along both axes by up to `degrees`, either way: [3, 3]."""
    y, x = tf.unstack(tf.tan(_uniform(seed, degrees * math.pi / 180, [2])))
    return about(_middle(size), matrix_of(1, y, 0, x, 1, 0))


def affine(seed, size, augment):
    """Scale, shear, rotate and translate on a canvas of `size` (H, W), by a config.Augment: [3, 3]."""
    seeds = tf.unstack(tf.random.split(seed, 4))
    matrix = scale(seeds[0], size, augment.scale)
    matrix = shear(seeds[1], size, augment.shear) @ matrix
    matrix = rotate(seeds[2], size, augment.rotate) @ matrix
    return translate(seeds[3], size, augment.translate) @ matrix


def flips(seed, size, augment):
    """Both flips of an image of `size` (H, W), as one matrix [3, 3]; augment: config.Augment."""
    seeds = tf.unstack(tf.random.split(seed, 2))
    return flip(seeds[0], size, augment.flip) @ flip_vertical(seeds[1], size, augment.flip_vertical)


def mosaic(seed, sizes, target, fit=letterbox):
    """Four images round one point in the middle half of a canvas (Bochkovskiy et al. 2020, arXiv:2004.10934).

    They have a corner at that point and the size and shape that they have when brought to the canvas alone, so objects
    are as in plain training, and the canvas cuts what is too much.

    Args:
        seed: [2] int64.
        sizes: four (H, W).
        target: (h, w) of the canvas.
        fit: (size, target) -> [3, 3], the matrix of a geometry.Fit.

    Returns:
        Four matrices [3, 3] of (y, x, 1).
    """
    point = tf.random.stateless_uniform([2], seed, 0.25, 0.75) * tf.cast(target, tf.float32)
    matrices = []
    ends_at_point = ((1, 1), (1, 0), (0, 1), (0, 0))  # along (y, x); the others begin there
    for size, ends in zip(sizes, ends_at_point, strict=True):
        fitted = fit(size, target)
        corner = tf.cast(size, tf.float32) * tf.constant(ends, tf.float32)
        y, x = tf.unstack(point - tf.linalg.matvec(fitted[:2, :2], corner) - fitted[:2, 2])
        matrices.append(translation(y, x) @ fitted)
    return matrices


# --- colour: (seed, amounts) -> [3, 3] --------------------------------------------------------------------------------

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def colour(seed, *, hue, saturation, value):
    """Hue, saturation and value changed at random, as a matrix on (r, g, b).

    All three are linear: a turn about the grey axis (a third of the circle takes red to green), a stretch away from
    grey, a factor. So they are one matrix, in a fifth of the time that the way to HSV and back takes.

    Args:
        seed: [2] int64.
        hue: the largest turn, as part of the colour circle.
        saturation: the largest change of a gain of 1.
        value: the same.

    Returns:
        [3, 3].
    """
    hue, saturation, value = tf.unstack(_uniform(seed, 1.0, [3]) * [hue, saturation, value])
    angle = hue * (2 * math.pi)
    grey = tf.fill([3, 3], 1 / 3)
    cross = tf.constant([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) * grey  # Rodrigues' formula
    luma = tf.tile([_LUMA], [3, 1])
    stretch = luma + (1 + saturation) * (tf.eye(3) - luma)
    return (1 + value) * (stretch @ turn)


# --- mixes: several Samples -> Sample; image_id and transform are the first one's -------------------------------------


def mixup(seed, first, second):
    """One Sample laid over another, each with its boxes (Zhang et al. 2018, arXiv:1710.09412).

    The share of the first is drawn from Beta(8, 8), mostly near one half, so that the objects of both can be seen.

    Args:
        seed: [2] int64.
        first: a Sample of one image.
        second: another of the same size.
    """
    one, other = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=8.0))
    share = one / (one + other)
    boxes, labels, crowd = (
        tf.concat([getattr(sample, field) for sample in (first, second)], axis=0)
        for field in ("boxes", "labels", "crowd")
    )
    image = share * tf.cast(first.image, tf.float32) + (1 - share) * tf.cast(second.image, tf.float32)
    return first._replace(image=tf.cast(tf.round(image), tf.uint8), boxes=boxes, labels=labels, crowd=crowd)


def recolour(image, matrix):
    """Takes every (r, g, b) through a matrix: [h, w, 3] uint8, [3, 3] -> [h, w, 3] uint8, cut to 0..255."""
    changed = tf.numpy_function(cv2.transform, [image, matrix], tf.uint8, stateful=False)
    return tf.ensure_shape(changed, image.shape)
