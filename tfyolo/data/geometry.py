"""Geometry: one 3x3 matrix that takes (y, x, 1) of the file to the network's input, applied once, inverted for results.

prepare and what it calls are graph operations only: training, detection and exported models share them.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

GREY = 114 / 255  # what surrounds an image on its canvas
MIN_VISIBLE = 0.1  # of a box's area: below it, what is left inside the image says nothing about the object
MIN_SIDE = 2.0  # pixels


def matrix_of(yy, yx, y, xy, xx, x):
    """[[yy, yx, y], [xy, xx, x], [0, 0, 1]] as float32 [3, 3], of numbers or scalars."""
    return tf.reshape(tf.stack([tf.cast(v, tf.float32) for v in (yy, yx, y, xy, xx, x, 0, 0, 1)]), [3, 3])


def translation(y, x):
    """Moves by (y, x) pixels: [3, 3]."""
    return matrix_of(1, 0, y, 0, 1, x)


def scaling(factor):
    """Zooms by a factor; (0, 0) stays where it is: [3, 3]."""
    return matrix_of(factor, 0, 0, 0, factor, 0)


def about(center, matrix):
    """The same matrix with its origin moved to center (y, x): [3, 3]."""
    y, x = center
    return translation(y, x) @ matrix @ translation(-y, -x)


def rotation(degrees, center):
    """Turns round center (y, x); positive degrees are counter-clockwise as seen: [3, 3]."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    sin, cos = tf.sin(angle), tf.cos(angle)
    return about(center, matrix_of(cos, -sin, 0, sin, cos, 0))  # y points down, so what lies to the right goes up


def letterbox(size, target):
    """Takes an image to the middle of a canvas, as large as it fits with its aspect kept.

    Args:
        size: (H, W) of the image.
        target: (h, w) of the canvas.

    Returns:
        [3, 3] float32.
    """
    size, target = tf.cast(size, tf.float32), tf.cast(target, tf.float32)
    factor = tf.reduce_min(target / size)
    y, x = tf.unstack((target - size * factor) / 2)
    return translation(y, x) @ scaling(factor)


def stretch(size, target):
    """Takes an image to a canvas without keeping its aspect, as cv2.resize and OpenCV's blobFromImage do."""
    y, x = tf.unstack(tf.cast(target, tf.float32) / tf.cast(size, tf.float32))
    return matrix_of(y, 0, 0, 0, x, 0)


def letterbox_top_left(size, target):
    """YOLOX's: an image in the corner of the canvas, its sides an integer number of pixels, as large as it fits."""
    size = tf.cast(size, tf.int32)
    return stretch(size, tf.maximum(_largest_inside(size, tf.cast(target, tf.int32)), 1))


def _largest_inside(size, target):
    """The sides (h, w), rounded down, of an image of int32 `size` as large as it fits into `target`: [2] int32."""
    height, width = tf.unstack(size)
    wide = target[1] * height < target[0] * width  # the width is what limits it
    return tf.where(
        wide,
        tf.stack([height * target[1] // width, target[1]]),
        tf.stack([target[0], width * target[0] // height]),
    )


def darknet_stretch(size, target):
    """Darknet's resize_image: the centres of the corner pixels come to lie on each other, not the corners."""
    size, target = tf.cast(size, tf.float32), tf.cast(target, tf.float32)
    y, x = tf.unstack(tf.where(size > 1, tf.maximum(target - 1, 1) / tf.maximum(size - 1, 1), target))
    return translation(0.5, 0.5) @ matrix_of(y, 0, 0, 0, x, 0) @ translation(-0.5, -0.5)


def darknet_letterbox(size, target):
    """Darknet's letterbox_image: sides and margins of an integer number of pixels, within them darknet_stretch."""
    size, target = tf.cast(size, tf.int32), tf.cast(target, tf.int32)
    inner = _largest_inside(size, target)
    y, x = tf.unstack((target - inner) // 2)
    return translation(y, x) @ darknet_stretch(size, tf.maximum(inner, 1))


class Fit(NamedTuple):
    """One way to bring images to the network's size.

    Attributes:
        matrix: graph operations (size (H, W), target (h, w)) -> [3, 3], which takes (y, x, 1) of the image to the
            canvas.
        fill: the grey beside the image, 0..1.
        antialias: whether an image made much smaller is averaged, or only sampled.
        rim: pixels that it reaches beyond the centres of its outermost pixels.
        keeps_aspect: whether the matrix scales height and width alike, by the smaller of the two factors.
    """

    matrix: Callable
    fill: float = GREY
    antialias: bool = True
    rim: float = 0.5
    keeps_aspect: bool = False


# The values of model.preprocess. One of your own is one more entry, made from any file that is imported before the
# config is read.
FITS = {
    "letterbox": Fit(letterbox, keeps_aspect=True),
    "stretch": Fit(stretch, antialias=False),
    "darknet": Fit(darknet_stretch, 0.5, antialias=False, rim=0.0),
    "darknet_letterbox": Fit(darknet_letterbox, 0.5, antialias=False, rim=0.0, keeps_aspect=True),
    "letterbox_top_left": Fit(letterbox_top_left, antialias=False, keeps_aspect=True),
}


def transform_boxes(boxes, matrix):
    """The boxes round the moved boxes.

    Args:
        boxes: [M, 4] float32 (y1, x1, y2, x2).
        matrix: [3, 3], of (y, x, 1).

    Returns:
        [M, 4] float32.
    """
    corner1, corner2 = tf.split(tf.convert_to_tensor(boxes, tf.float32), 2, axis=-1)  # [M, 2]
    linear, shift = matrix[:2, :2], matrix[:2, 2]
    center = tf.matmul((corner1 + corner2) / 2, linear, transpose_b=True) + shift
    reach = tf.matmul((corner2 - corner1) / 2, tf.abs(linear), transpose_b=True)
    return tf.concat([center - reach, center + reach], axis=-1)


def clip_boxes(boxes, labels, crowd, size):
    """Cuts boxes to an image and drops those of which too little is left; of crowds, any part stays.

    Args:
        boxes: [M, 4] float32 (y1, x1, y2, x2) in pixels.
        labels: [M] int32.
        crowd: [M] bool.
        size: (H, W).

    Returns:
        The same three of the M' <= M boxes that are left.
    """
    limit = tf.cast(tf.concat([size, size], axis=0), tf.float32)
    clipped = tf.clip_by_value(boxes, 0.0, limit)
    before, after = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    visible = tf.reduce_prod(after, axis=1) >= MIN_VISIBLE * tf.reduce_prod(before, axis=1)
    keep = tf.reduce_all(after >= MIN_SIDE, axis=1) & (visible | crowd)
    return tf.boolean_mask(clipped, keep), tf.boolean_mask(labels, keep), tf.boolean_mask(crowd, keep)


def warp(image, matrix, size, *, fill=GREY, antialias=True, replicate=False, rim=0.5):
    """Moves an image by a matrix onto a canvas, with bilinear interpolation.

    Args:
        image: [H, W, 3] uint8, or float32 in 0..1.
        matrix: [3, 3], of (y, x, 1).
        size: (h, w) of the canvas.
        fill: its grey beside the image, 0..1.
        antialias: whether an image made much smaller is averaged, or only sampled.
        replicate: beyond the centres of its outermost pixels the image goes on as it ends, for `rim` pixels, instead of
            fading into the grey.
        rim: pixels.

    Returns:
        [h, w, 3] float32 in 0..1.
    """
    image = tf.convert_to_tensor(image)
    unit = 1 / 255 if image.dtype == tf.uint8 else 1.0
    image, matrix = _shrink(image, matrix) if antialias else (tf.cast(image, tf.float32), matrix)
    outside = (rim if replicate else 1.0) - 0.5  # it has faded at the middle of a next pixel
    reach = tf.cast(tf.concat([[0, 0], tf.shape(image)[:2]], axis=0), tf.float32)
    reach += outside * tf.constant([-1.0, -1.0, 1.0, 1.0])
    # Only the window of the canvas whose pixels have their middles there is computed.
    first, last = tf.split(transform_boxes(reach[None], matrix)[0], 2)
    first = tf.clip_by_value(tf.cast(tf.math.ceil(first - 0.501), tf.int32), 0, tf.subtract(size, 1))
    last = tf.clip_by_value(tf.cast(tf.floor(last - 0.499), tf.int32) + 1, first + 1, size)
    # The operation wants the way back, in (x, y), with pixel centres at integers.
    y, x = tf.unstack(tf.cast(first, tf.float32) + 0.5)
    back = translation(-0.5, -0.5) @ tf.linalg.inv(matrix) @ translation(y, x)
    back_xy = tf.gather(tf.gather(back, [1, 0], axis=0), [1, 0, 2], axis=1)
    window = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.concat([tf.reshape(back_xy, [1, 6]), tf.zeros([1, 2])], axis=1),
        output_shape=last - first,
        interpolation="BILINEAR",
        fill_mode="NEAREST" if replicate else "CONSTANT",
        fill_value=fill / unit,
    )[0]
    margins = tf.stack([first, size - last], axis=1)
    canvas = tf.pad(window * unit, tf.concat([margins, [[0, 0]]], axis=0), constant_values=fill)
    return tf.ensure_shape(canvas, [*size, 3])


LONGEST = 32_000  # pixels of a side that cv2.warpAffine can take


def paste(images, matrices, size, fit):
    """Moves images by their matrices onto one canvas, as warp does one.

    Where images overlap it is by the rims where each fades into the grey: what each adds to it adds up, without a seam.
    This is cv2's, to 1/32 of a pixel, in an eighth of warp's time; for training alone, since what is exported has no
    cv2.

    Args:
        images: n of [H, W, 3] uint8.
        matrices: [n, 3, 3], of (y, x, 1).
        size: (h, w) of the canvas.
        fit: a Fit, whose fill and antialias count.

    Returns:
        [h, w, 3] uint8.
    """
    grey = round(255 * fit.fill)

    def on_canvas(matrices, *images):
        canvas = np.full((*size, 3), grey, np.uint8)
        for matrix, image in zip(matrices.astype("float64"), images, strict=True):
            sides = np.array(image.shape[:2])
            shrunk = int(abs(np.linalg.det(matrix)) ** -0.5 + 1e-3) if fit.antialias else 1
            shrunk = max(shrunk, -(-max(sides) // LONGEST))
            if shrunk > 1:  # as in _shrink
                smaller = np.maximum(sides // shrunk, 1)
                image = cv2.resize(image, smaller[::-1].tolist(), interpolation=cv2.INTER_AREA)
                matrix, sides = matrix @ np.diag([*(sides / smaller), 1.0]), smaller
            # Only the window of the canvas that it reaches is computed.
            (top, left), (bottom, right) = (-0.5, -0.5), sides + 0.5
            corners = matrix[:2] @ [[top, top, bottom, bottom], [left, right, left, right], [1, 1, 1, 1]]
            first = np.clip(np.floor(corners.min(axis=1)), 0, size).astype(int)
            last = np.clip(np.ceil(corners.max(axis=1)), first, size).astype(int)
            if (last <= first).any():
                continue
            # cv2 counts (x, y), from the middles of the pixels.
            shift = np.array([[1, 0, -0.5 - first[0]], [0, 1, -0.5 - first[1]], [0, 0, 1]])
            matrix = shift @ matrix @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
            window = cv2.warpAffine(
                image,
                matrix[[1, 0]][:, [1, 0, 2]],
                (last - first)[::-1].tolist(),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=[grey] * 3,
            )
            part = canvas[first[0] : last[0], first[1] : last[1]]
            cv2.addWeighted(part, 1, window, 1, -grey, dst=part)
        return canvas

    canvas = tf.numpy_function(on_canvas, [tf.stack(matrices), *images], tf.uint8, stateful=False)
    return tf.ensure_shape(canvas, [*size, 3])


def _shrink(image, matrix):
    """Reduces an image that the matrix makes smaller than half by a whole factor -> float32 image, the matrix left.

    Bilinear interpolation reads 2 x 2 pixels and would skip the others. On photographs reduced 2.2 to 6.7 times it
    comes to 26 to 35 dB from cv2's INTER_AREA; with this to 33 to 94, for a third more time.
    """
    factor = tf.cast(tf.math.rsqrt(tf.abs(tf.linalg.det(matrix))) + 1e-3, tf.int32)
    size = tf.shape(image)[:2]
    smaller = tf.maximum(size // tf.maximum(factor, 1), 1)
    stretch = tf.linalg.diag(tf.concat([tf.cast(size, tf.float32) / tf.cast(smaller, tf.float32), [1.0]], axis=0))
    return tf.cond(
        factor > 1,
        lambda: (tf.raw_ops.ResizeArea(images=image[None], size=smaller)[0], matrix @ stretch),
        lambda: (tf.cast(image, tf.float32), matrix),
    )


def prepare(image, target, preprocess="letterbox"):
    """Brings an image to the network's size: the one way an image enters a network outside training.

    Args:
        image: [H, W, 3] uint8.
        target: (h, w).
        preprocess: how, a key of FITS.

    Returns:
        ([h, w, 3] float32 in 0..1, the transform [3, 3]), which takes (y, x, 1) in pixels of the image to pixels of the
        result; its inverse takes boxes back.
    """
    fit = FITS[preprocess]
    transform = fit.matrix(tf.shape(image)[:2], target)
    options = {"fill": fit.fill, "antialias": fit.antialias, "rim": fit.rim, "replicate": not fit.antialias}
    return warp(image, transform, target, **options), transform


@functools.lru_cache(maxsize=32)
def preparing(target, preprocess="letterbox"):
    """prepare() for one size, traced once: outside a graph a third of its time.

    Args:
        target: (h, w).
        preprocess: how, a key of FITS.

    Returns:
        A function [H, W, 3] uint8 -> what prepare returns.
    """
    signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
    return tf.function(lambda image: prepare(image, target, preprocess), signature, autograph=False)


def scale_of(stated, size):
    """The factors that take boxes of an image of the stated size to its true size.

    An image that only lies on its side, by its EXIF orientation, has boxes that are taken for those of the upright
    image.

    Args:
        stated: (H, W) that the annotations state.
        size: (H, W) of the image.

    Returns:
        [4] float32, of y1, x1, y2, x2.
    """
    turned = tuple(stated) == tuple(size)[::-1]
    return np.tile(np.ones(2) if turned else np.divide(size, stated), 2).astype(np.float32)


def restore(boxes, transform, size):
    """Takes boxes from pixels of the network's input to pixels of the file, cut to its edges.

    Args:
        boxes: [B, D, 4] float32 (y1, x1, y2, x2).
        transform: [B, 3, 3], as prepare gives it.
        size: [B, 2] (H, W) of the files' images.

    Returns:
        [B, D, 4] float32.
    """
    inverse = tf.linalg.inv(transform)
    # Letterboxing keeps a box a box: two corners will do.
    corners = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 2])  # [B, 2D, 2]
    corners = tf.einsum("bij,bnj->bni", inverse[:, :2, :2], corners) + inverse[:, None, :2, 2]
    limits = tf.cast(size, tf.float32)[:, None, :]
    return tf.reshape(tf.clip_by_value(corners, 0.0, limits), tf.shape(boxes))
