"""Images: from the bytes of a file to [H, W, 3] uint8 RGB, upright.

decode_image and what it calls are graph operations only: training, detection and exported models share them.
"""

import functools
import os
import threading

import cv2
import numpy as np
import tensorflow as tf

from tfyolo.data.contents import ENDS, checked_contents, damaged, unknown
from tfyolo.data.headers import HEAD, MOST_PIXELS, kind_of, read_header, surely_fits

RATIOS = 1, 2, 4, 8  # at which libjpeg decodes


@functools.partial(tf.function, autograph=False)  # traced once for all data sets that decode
def decode_image(contents, most_pixels=None, ratio=None):
    """Decodes JPEG, PNG, GIF (its first frame), WebP or BMP in the graph, upright as its EXIF orientation says.

    Grey, palettes and CMYK become RGB, 16 bits become 8, alpha is dropped (the colours under it stay, as in cv2.imread
    and PIL's convert("RGB")).

    Args:
        contents: scalar string tensor, the bytes of a file.
        most_pixels: more are an error before a JPEG or PNG is decoded, and so is what is neither; None: no limit.
        ratio: scalar tensor, 1, 2, 4 or 8: a JPEG is decoded that much smaller, its sides rounded up; None: 1.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        tf.errors.InvalidArgumentError: it is something else, or truncated.
    """
    contents = tf.ensure_shape(contents, [])
    magic = tf.strings.substr(contents, 0, 2)
    if most_pixels is not None:
        with tf.control_dependencies(
            [tf.debugging.assert_less_equal(_pixels_of(contents, magic), tf.constant(most_pixels, tf.int64))]
        ):
            contents = tf.identity(contents)

    def jpeg():
        # INTEGER_ACCURATE: the same pixels as from cv2 and PIL, which other people's weights were trained on.
        options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        if ratio is None:
            return tf.io.decode_jpeg(contents, **options)
        branches = [functools.partial(tf.io.decode_jpeg, contents, ratio=each, **options) for each in RATIOS]
        return tf.switch_case(tf.searchsorted(RATIOS, ratio[None])[0], branches)

    def bmp():  # what decode_bmp gives for a palette is not colours but their numbers
        image = tf.io.decode_bmp(contents)
        numbers = tf.cast(image[..., 0], tf.int32)
        return tf.cond(tf.shape(image)[2] == 1, lambda: tf.gather(_palette(contents), numbers), lambda: image[..., :3])

    def other():
        return tf.io.decode_image(contents, channels=3, expand_animations=False)

    image = tf.cond(magic == b"\xff\xd8", jpeg, lambda: tf.cond(magic == b"BM", bmp, other))
    return tf.ensure_shape(_upright(image, _orientation(_exif(contents))), [None, None, 3])


def _pixels_of(contents, magic):
    """How many pixels a JPEG or PNG says that it has: scalar int64; more than there can be, if it is neither."""

    def sides_of_png():  # big-endian, at the head of its first chunk
        return tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 16, 8), tf.int32, little_endian=False), tf.int64)

    def sides_of_others():
        return tf.fill([2], tf.constant(1 << 31, tf.int64))

    sides = tf.cond(
        magic == b"\xff\xd8",
        lambda: tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64),
        lambda: tf.cond(tf.strings.substr(contents, 1, 3) == b"PNG", sides_of_png, sides_of_others),
    )
    return tf.reduce_prod(sides)


def _palette(contents):
    """The colours of a BMP: [P, 3] uint8 RGB. They stand between header and pixels as (blue, green, red, 0)."""
    pixels, header = tf.unstack(tf.io.decode_raw(tf.strings.substr(contents, 10, 8), tf.int32), 2)
    colours = tf.io.decode_raw(tf.strings.substr(contents, 14 + header, (pixels - 14 - header) // 4 * 4), tf.uint8)
    return tf.reshape(colours, [-1, 4])[:, 2::-1]


def _exif(contents):
    """The TIFF of a JPEG's segment "Exif", of a PNG's chunk "eXIf", of a WebP's chunk "EXIF"; "" without one."""
    head = tf.strings.substr(contents, 0, HEAD)

    def jpeg():
        length = tf.strings.length(head)
        padded = tf.strings.join([head, bytes(16)])  # so that reading past the end finds zeros

        def octets(at, count):
            return tf.strings.substr(padded, tf.minimum(at, length), count)

        def segment(at):  # FF and its kind, then its length
            return tf.unstack(_numbers(octets(at, 4), tf.uint16, False), 2)

        def is_exif(at):
            return (octets(at, 2) == b"\xff\xe1") & (octets(at + 4, 4) == b"Exif")

        def stands_before(at):  # application segments and comments can, the image itself cannot
            kind, _ = segment(at)
            return ((kind // 16 == 0xFFE) | (kind == 0xFFFE)) & ~is_exif(at)

        (at,) = tf.while_loop(stands_before, lambda at: (at + 2 + segment(at)[1],), (2,))
        return tf.where(is_exif(at), octets(at + 10, HEAD), "")

    def png():
        before = tf.strings.split(head, b"IDAT", maxsplit=1)[0]
        return tf.concat([tf.strings.split(before, b"eXIf", maxsplit=1), [""]], axis=0)[1]

    def webp():
        exif = tf.concat([[""], tf.strings.split(contents, b"EXIF")[1:]], axis=0)[-1]
        length = tf.strings.length(exif)
        prefixed = tf.strings.substr(exif, tf.minimum(4, length), 6) == b"Exif\0\0"
        return tf.strings.substr(exif, tf.minimum(tf.where(prefixed, 10, 4), length), length)  # after its own length

    def others():
        is_webp = tf.strings.substr(head, 8, 8) == b"WEBPVP8X"
        return tf.cond(tf.strings.substr(head, 0, 4) == b"\x89PNG", png, lambda: tf.cond(is_webp, webp, lambda: ""))

    return tf.cond(tf.strings.substr(head, 0, 2) == b"\xff\xd8", jpeg, others)


def _orientation(tiff):
    """The EXIF orientation, tag 0x0112 of the first directory of a TIFF: 1..8 if it makes sense, 1 without it."""
    length = tf.strings.length(tiff)

    def read():
        padded = tf.strings.join([tiff, bytes(16)])
        little = tf.strings.substr(padded, 0, 2) == b"II"
        directory = _numbers(tf.strings.substr(padded, 4, 4), tf.int32, little)[0]
        directory = tf.where((directory >= 0) & (directory + 2 <= length), directory, length)
        count = _numbers(tf.strings.substr(padded, directory, 2), tf.uint16, little)[0]
        size = 12 * tf.clip_by_value((length - directory - 2) // 12, 0, count)
        entries = tf.reshape(_numbers(tf.strings.substr(padded, directory + 2, size), tf.uint16, little), [-1, 6])
        tag, _, _, _, value, _ = tf.unstack(entries, axis=1)
        return tf.maximum(tf.reduce_max(tf.where(tag == 0x0112, value, 0)), 1)

    return tf.cond(length > 0, read, lambda: 1)


def _numbers(octets, dtype, little):
    """All numbers that stand in a string of bytes: int32."""
    either = [tf.io.decode_raw(octets, dtype, little_endian=order) for order in (False, True)]
    return tf.cast(tf.where(little, either[1], either[0]), tf.int32)


def _upright(image, orientation):
    """Undoes an EXIF orientation; what is none leaves the image as it is."""

    def one_of(*orientations):
        return tf.reduce_any(orientation == orientations)

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)


# Eager operations in several Python threads at once crash TensorFlow now and then; cv2 may work in all of them.
_one_at_a_time = threading.Lock()


def _after_fork():
    """The thread that held the lock is not there."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_image(source, most_pixels=MOST_PIXELS):
    """Reads an image: what decode_image reads, and through cv2 TIFF and what else cv2 knows.

    Args:
        source: a path, the bytes of a file, or (path, (offset, length)) for bytes that lie inside a file.
        most_pixels: an image of more is an error, and is not decoded.

    Returns:
        [H, W, 3] np.uint8 RGB, upright.

    Raises:
        ImageError: it cannot be read in full: a truncated image is an error, not half an image.
    """
    name, contents = checked_contents(source, most_pixels)
    fits = surely_fits(contents, most_pixels)
    # TensorFlow decodes these; cv2 would give half an image without a word.
    if (kind := kind_of(contents)) in ENDS:
        try:
            with _one_at_a_time, tf.device("CPU:0"):
                return decode_image(tf.constant(contents), None if fits else most_pixels).numpy()
        # UnicodeDecodeError: a message of libpng that holds bytes of the file.
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise damaged(name, contents, kind) from error
    webp = contents[8:12] == b"WEBP"  # which cv2 turns by a reading of its own
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if webp else 0)
    try:
        image = cv2.imdecode(np.frombuffer(contents, np.uint8), flags) if fits else None
    except cv2.error:
        image = None
    if image is None:
        raise unknown(name, contents)
    return _upright(tf.constant(image), tf.constant(read_header(contents).orientation)).numpy() if webp else image


def read_record(record, most_pixels=MOST_PIXELS):
    """Reads the image of a Record, a file of its own or inside a shard: [H, W, 3] np.uint8 RGB. Raises ImageError."""
    return read_image((record.path, record.span), most_pixels)
