"""Random changes to training pictures, each a pure function of a seed.

Geometry is 3x3 matrices on columns (y, x, 1), in pixels; pixel (0, 0) covers [0, 1) x [0, 1). They are multiplied first
and applied once, by pipeline.paste. Colour is one 3x3 matrix too, on (r, g, b), for pipeline.recolour. A seed is two
integers, as in tf.random.split.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

GREY = 114 / 255  # what surrounds a picture on its canvas
MIN_VISIBLE = 0.1  # of a box's area: below it, what is left inside the picture says nothing about the object
MIN_SIDE = 2.0  # pixels


def _matrix(yy, yx, y, xy, xx, x):
    return tf.reshape(tf.stack([tf.cast(v, tf.float32) for v in (yy, yx, y, xy, xx, x, 0, 0, 1)]), [3, 3])


def translation(y, x):
    """Moves by (y, x) pixels."""
    return _matrix(1, 0, y, 0, 1, x)


def scaling(factor):
    """Zooms by a factor, (0, 0) stays where it is."""
    return _matrix(factor, 0, 0, 0, factor, 0)


def about(center, matrix):
    """The same matrix with its origin moved to center (y, x)."""
    y, x = center
    return translation(y, x) @ matrix @ translation(-y, -x)


def rotation(degrees, center):
    """Turns round center (y, x); positive is counter-clockwise as seen."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    sin, cos = tf.sin(angle), tf.cos(angle)
    return about(center, _matrix(cos, -sin, 0, sin, cos, 0))  # y points down, so what lies to the right goes up


def letterbox(size, target):
    """Takes a picture of `size` (H, W) to the middle of `target` (H, W), as large as it fits with its aspect kept."""
    size, target = tf.cast(size, tf.float32), tf.cast(target, tf.float32)
    factor = tf.reduce_min(target / size)
    y, x = tf.unstack((target - size * factor) / 2)
    return translation(y, x) @ scaling(factor)


def stretch(size, target):
    """Takes a picture of `size` (H, W) to `target` (H, W), its aspect given up: cv2.resize, and OpenCV's blobFromImage."""
    y, x = tf.unstack(tf.cast(target, tf.float32) / tf.cast(size, tf.float32))
    return _matrix(y, 0, 0, 0, x, 0)


def darknet_stretch(size, target):
    """Darknet's resize_image: the middles of the corner pixels come to lie on each other, not the corners."""
    size, target = tf.cast(size, tf.float32), tf.cast(target, tf.float32)
    y, x = tf.unstack(tf.where(size > 1, (target - 1) / tf.maximum(size - 1, 1), target))
    return translation(0.5, 0.5) @ _matrix(y, 0, 0, 0, x, 0) @ translation(-0.5, -0.5)


def darknet_letterbox(size, target):
    """Darknet's letterbox_image: sides and margins in whole pixels, within them resized as darknet_stretch does."""
    size, target = tf.cast(size, tf.int32), tf.cast(target, tf.int32)
    height, width = tf.unstack(size)
    wide = target[1] * height < target[0] * width  # the width is what limits it
    inner = tf.where(
        wide,
        tf.stack([height * target[1] // width, target[1]]),
        tf.stack([target[0], width * target[0] // height]),
    )
    y, x = tf.unstack((target - inner) // 2)
    return translation(y, x) @ darknet_stretch(size, tf.maximum(inner, 1))


class Fit(NamedTuple):
    """How pictures are brought to the network's size.

    matrix: (size, target) -> [3, 3]. fill: the grey beside the picture, 0..1. antialias: whether a picture made much
    smaller is averaged, or only sampled. rim: pixels that it reaches beyond the middles of its outermost pixels.
    """

    matrix: Callable
    fill: float
    antialias: bool
    rim: float


FITS = {
    "letterbox": Fit(letterbox, GREY, antialias=True, rim=0.5),
    "stretch": Fit(stretch, GREY, antialias=False, rim=0.5),
    "darknet": Fit(darknet_stretch, 0.5, antialias=False, rim=0.0),
    "darknet_letterbox": Fit(darknet_letterbox, 0.5, antialias=False, rim=0.0),
}


def transform_boxes(boxes, matrix):
    """The hulls of the moved boxes: [M, 4], [3, 3] -> [M, 4]."""
    corner1, corner2 = tf.split(tf.convert_to_tensor(boxes, tf.float32), 2, axis=-1)  # [M, 2]
    linear, shift = matrix[:2, :2], matrix[:2, 2]
    center = tf.matmul((corner1 + corner2) / 2, linear, transpose_b=True) + shift
    reach = tf.matmul((corner2 - corner1) / 2, tf.abs(linear), transpose_b=True)
    return tf.concat([center - reach, center + reach], axis=-1)


def clip_boxes(boxes, labels, crowd, size):
    """Cuts boxes to a picture of `size` (H, W) and drops those with too little left; of crowds, any part stays."""
    limit = tf.cast(tf.concat([size, size], axis=0), tf.float32)
    clipped = tf.clip_by_value(boxes, 0.0, limit)
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    visible = tf.reduce_prod(after, axis=1) >= MIN_VISIBLE * tf.reduce_prod(before, axis=1)
    keep = tf.reduce_all(after >= MIN_SIDE, axis=1) & (visible | crowd)
    return tf.boolean_mask(clipped, keep), tf.boolean_mask(labels, keep), tf.boolean_mask(crowd, keep)


# --- geometry: (seed, size, amount) -> [3, 3] -------------------------------------------------------------------------


def _uniform(seed, amount, shape=()):
    return tf.random.stateless_uniform(shape, seed, -amount, amount)


def _middle(size):
    return tf.unstack(tf.cast(size, tf.float32) / 2, 2)


def flip(seed, size, probability):
    """Left-right, for a picture of `size`."""
    sign = tf.where(tf.random.stateless_uniform([], seed) < probability, -1.0, 1.0)
    return about(_middle(size), _matrix(1, 0, 0, 0, sign, 0))


def flip_vertical(seed, size, probability):
    """Upside down, for a picture of `size`."""
    sign = tf.where(tf.random.stateless_uniform([], seed) < probability, -1.0, 1.0)
    return about(_middle(size), _matrix(sign, 0, 0, 0, 1, 0))


def scale(seed, size, amount):
    """Zooms about the middle by a factor of 1-amount .. 1+amount."""
    return about(_middle(size), scaling(1 + _uniform(seed, amount)))


def translate(seed, size, amount):
    """Shifts by up to `amount` of the size, either way."""
    y, x = tf.unstack(_uniform(seed, amount, [2]) * tf.cast(size, tf.float32))
    return translation(y, x)


def rotate(seed, size, degrees):
    """Turns about the middle by up to `degrees`, either way."""
    return rotation(_uniform(seed, degrees), _middle(size))


def shear(seed, size, degrees):
    """Slants about the middle along both axes by up to `degrees`, either way."""
    y, x = tf.unstack(tf.tan(_uniform(seed, degrees * math.pi / 180, [2])))
    return about(_middle(size), _matrix(1, y, 0, x, 1, 0))


def affine(seed, size, augment):
    """Scale, shear, rotate and translate on a canvas of `size`, as one matrix."""
    seeds = tf.unstack(tf.random.split(seed, 4))
    matrix = scale(seeds[0], size, augment.scale)
    matrix = shear(seeds[1], size, augment.shear) @ matrix
    matrix = rotate(seeds[2], size, augment.rotate) @ matrix
    return translate(seeds[3], size, augment.translate) @ matrix


def flips(seed, size, augment):
    """Both flips of a picture of `size`, as one matrix."""
    seeds = tf.unstack(tf.random.split(seed, 2))
    return flip(seeds[0], size, augment.flip) @ flip_vertical(seeds[1], size, augment.flip_vertical)


def mosaic(seed, sizes, target, fit=letterbox):
    """Four pictures of `sizes` (H, W) round one point in the middle half of `target`: a matrix for each.

    fit: as Fit.matrix. They have a corner at that point and the size and shape that they have when brought to `target` alone, so objects
    are as in plain training, and the canvas cuts what is too much (Bochkovskiy et al. 2020, arXiv:2004.10934).
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
    """Hue, saturation and value changed at random: a matrix on (r, g, b).

    hue: the largest turn, as part of the colour circle. saturation, value: the largest change of a gain of 1. All three
    are linear: a turn about the grey axis (a third of the circle takes red to green), a stretch away from grey, a
    factor. So they are one matrix, in a fifth of the time that the way to HSV and back takes.
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
    """One Sample laid over another (Zhang et al. 2018, arXiv:1710.09412), each with its boxes.

    The share of the first is from Beta(8, 8), mostly near one half, so that the objects of both can be seen.
    """
    one, other = tf.unstack(tf.random.stateless_gamma([2], seed, alpha=8.0))
    share = one / (one + other)
    boxes, labels, crowd = (
        tf.concat([getattr(sample, field) for sample in (first, second)], axis=0)
        for field in ("boxes", "labels", "crowd")
    )
    image = share * tf.cast(first.image, tf.float32) + (1 - share) * tf.cast(second.image, tf.float32)
    return first._replace(image=tf.cast(tf.round(image), tf.uint8), boxes=boxes, labels=labels, crowd=crowd)
