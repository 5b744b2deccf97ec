"""From files to batches of Samples: decode, one 3x3 matrix, one warp, colour, pad, batch.

decode_image, prepare and what they call are graph operations only: training, detection and exported models share them.
"""

import collections
import contextlib
import errno
import functools
import hashlib
import os
import threading

import cv2
import numpy as np
import tensorflow as tf

from tfyolo.data import augment as aug
from tfyolo.data import records as shards
from tfyolo.data.augment import FITS, GREY, transform_boxes
from tfyolo.data.headers import HEAD, MOST_PIXELS, kind_of, read_header, surely_fits, too_large
from tfyolo.data.readers import DataError
from tfyolo.messages import counted, printable
from tfyolo.structures import Sample


class ImageError(ValueError):
    """A picture cannot be read. The message names the file, what is wrong with it and what to do."""

    def __init__(self, message):
        super().__init__(printable(message))


# --- decoding ---------------------------------------------------------------------------------------------------------


@functools.partial(tf.function, autograph=False)  # traced once for all data sets that decode
def decode_image(contents, most_pixels=None):
    """JPEG, PNG, GIF (its first frame), WebP or BMP bytes -> [H, W, 3] uint8 RGB, upright as its EXIF orientation says.

    contents: scalar string tensor. most_pixels: more are an error before a JPEG or PNG is decoded, and so is what is neither.
    Grey, palettes and CMYK become RGB, 16 bits become 8, alpha is dropped (the colours
    under it stay, as in cv2.imread and PIL's convert("RGB")). tf.errors.InvalidArgumentError for anything else and for
    truncated files.
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
        return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")

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
    """The TIFF of a JPEG's APP1 "Exif" segment, of a PNG's chunk "eXIf" before its image, of a WebP's chunk "EXIF"; "" without one.

    headers.py reads the same, in Python.
    """
    head = tf.strings.substr(contents, 0, HEAD)

    def jpeg():
        length = tf.strings.length(head)
        padded = tf.strings.join([head, bytes(16)])  # so that a look past the end finds zeros

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
    """Undoes an EXIF orientation; what is none leaves the picture as it is."""

    def one_of(*orientations):
        return tf.reduce_any(orientation == orientations)

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)


# How files of each kind end. TensorFlow decodes these; cv2 would give half a picture without a word.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
# Eager operations in several Python threads at once crash TensorFlow now and then; cv2 may work in all of them.
_one_at_a_time = threading.Lock()


def _after_fork():
    """The thread that held the lock is not there."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_image(source, most_pixels=MOST_PIXELS):
    """Reads a picture: [H, W, 3] np.uint8 RGB, upright.

    It reads what decode_image reads, and through cv2 TIFF and what else cv2 knows.
    source: a path, the bytes of a file, or (path, (offset, length)) for bytes that lie inside a file. ImageError if it
    cannot be read in full: a truncated picture is an error, not half a picture. So is one of more than most_pixels, which is not decoded.
    """
    if isinstance(source, bytes):
        name, contents = f"a picture of {len(source)} bytes", source
    else:
        path, span = source if isinstance(source, tuple) else (source, None)
        name = f"file {os.fspath(path)}" + (f", bytes {span[0]} to {sum(span)}" if span else "")
        contents = _contents(path, span)
    if not contents:
        raise ImageError(f"{name}: empty. Copy it anew, or remove it and its annotations")
    if contents.startswith(b"version https://git-lfs"):
        raise ImageError(f"{name}: a pointer of Git LFS, not the picture. Run `git lfs pull` to fetch it")
    if reason := too_large(contents, most_pixels):
        raise ImageError(f"{name}: {reason}; make it smaller, or allow more (max_pixels)")
    fits = surely_fits(contents, most_pixels)
    if (kind := kind_of(contents)) in _ENDS:
        try:
            with _one_at_a_time, tf.device("CPU:0"):
                return decode_image(tf.constant(contents), None if fits else most_pixels).numpy()
        except tf.errors.OpError as error:
            state = "damaged" if contents.rstrip(b"\0").endswith(_ENDS[kind]) else "truncated"
            remedy = "Copy it anew, or remove it and its annotations"
            raise ImageError(f"{name}: {state} {kind} of {len(contents)} bytes. {remedy}") from error
    webp = contents[8:12] == b"WEBP"  # which cv2 turns by a reading of its own
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if webp else 0)
    try:
        image = cv2.imdecode(np.frombuffer(contents, np.uint8), flags) if fits else None
    except cv2.error:
        image = None
    if image is None:
        known = "Expected JPEG, PNG, GIF, BMP, WebP or TIFF"
        raise ImageError(f"{name}: no picture, or a damaged one. {known}. Received: bytes that begin {contents[:8]!r}")
    return _upright(tf.constant(image), tf.constant(read_header(contents).orientation)).numpy() if webp else image


def read_record(record, most_pixels=MOST_PIXELS):
    """The picture of a Record, in a file of its own or inside a shard: as read_image."""
    return read_image((record.path, record.span), most_pixels)


def _contents(path, span):
    try:
        return shards.read_bytes(path, span)
    except OSError as error:
        what = {errno.ENOENT: "no such file", errno.EISDIR: "a folder, not a picture"}.get(error.errno, error.strerror)
        raise ImageError(f"file {os.fspath(path)}: {what}. Check the path") from error


# --- geometry ---------------------------------------------------------------------------------------------------------


def warp(image, matrix, size, *, fill=GREY, antialias=True, replicate=False, rim=0.5):
    """Moves a picture by a matrix on (y, x, 1), bilinearly, onto a canvas of `size` (h, w) that is grey elsewhere.

    Beyond the middles of its outermost pixels the picture fades into the grey; or, if replicate, goes on as it ends, for
    `rim` pixels.

    [H, W, 3] uint8, or float32 in 0..1 -> [h, w, 3] float32 in 0..1.
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
    # The operation wants the way back, in (x, y), with pixel centres at whole numbers.
    y, x = tf.unstack(tf.cast(first, tf.float32) + 0.5)
    back = aug.translation(-0.5, -0.5) @ tf.linalg.inv(matrix) @ aug.translation(y, x)
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
    """Moves pictures by their matrices onto one canvas, as warp does one: [H, W, 3] uint8 each, [n, 3, 3] -> [h, w, 3] uint8.

    Where they overlap it is by the rims where each fades into the grey: what each adds to it adds up, without a seam. By cv2, to
    1/32 of a pixel, in an eighth of warp's time; for training alone, since what is exported has no cv2.
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


def recolour(image, matrix):
    """Takes every (r, g, b) through a matrix: [h, w, 3] uint8, [3, 3] -> [h, w, 3] uint8, cut to 0..255."""
    changed = tf.numpy_function(cv2.transform, [image, matrix], tf.uint8, stateful=False)
    return tf.ensure_shape(changed, image.shape)


def _shrink(image, matrix):
    """Reduces a picture that the matrix makes smaller than half by a whole factor -> float32 picture, the matrix left.

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
    """Brings a picture to `target` (h, w): [H, W, 3] uint8 -> ([h, w, 3] float32 in 0..1, transform [3, 3]).

    The one way a picture enters a network outside training. The transform takes (y, x, 1) in pixels of the picture to
    pixels of the result; its inverse takes boxes back. preprocess: a name of augment.FITS.
    """
    fit = FITS[preprocess]
    transform = fit.matrix(tf.shape(image)[:2], target)
    options = {"fill": fit.fill, "antialias": fit.antialias, "rim": fit.rim, "replicate": not fit.antialias}
    return warp(image, transform, target, **options), transform


def prepared_batches(records, size, preprocess, batch=4, skipped=None, most_pixels=MOST_PIXELS):
    """Batches [B, h, w, 3] float32 0..1 of Records' images, as `prepare` brings them to a network's size (h, w).

    Args:
      records: in the order of the batches.
      size: (h, w).
      preprocess: a name of augment.FITS.
      batch: B; the last one may be smaller.
      skipped: a dict that gets {place in records: message} of each image that cannot be read and is left out.
      most_pixels: an image of more counts as one that cannot be read.

    Raises:
      DataError: if less than half of the images can be read; after the last batch.
    """
    skipped = {} if skipped is None else skipped
    images = []
    for place, record in enumerate(records):
        try:
            images.append(prepare(read_record(record, most_pixels), size, preprocess)[0])
        except ImageError as error:
            skipped[place] = str(error)
        if len(images) == batch:
            yield np.stack(images)
            images = []
    if images:
        yield np.stack(images)
    if len(skipped) > len(records) / 2:
        raise DataError(
            f"expected at least half of {counted(len(records), 'image')} to be readable, received {len(records) - len(skipped)}; "
            f"{next(iter(skipped.values()))}"
        )


def sampled(records, count, seed=0):
    """`count` Records, or all if there are not so many, in an order that depends on their ids and the seed alone.

    So it is a random sample of data sorted by class or by scene, and the same one of the same data in files and in TFRecord shards.
    """

    def number(record):
        return hashlib.blake2b(f"{seed} {record.image_id}".encode(), digest_size=8).digest()

    return sorted(records, key=number)[:count]


# --- data sets --------------------------------------------------------------------------------------------------------


_INDEX, _NUMBER, _SEED = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int64), tf.TensorSpec([2], tf.int64)


def _graph(*signature):
    """Traced once, however often a mosaic of a mixture calls it, and as it stands: there is no Python to convert."""
    return tf.function(input_signature=signature, autograph=False)


class _Memory:
    """Decoded pictures, those lately asked for, up to so many bytes."""

    def __init__(self, limit):
        self.free, self.images, self.lock = limit, collections.OrderedDict(), threading.Lock()

    def get(self, index):
        with self.lock:
            if index in self.images:
                self.images.move_to_end(index)
            return self.images.get(index, _NOTHING)

    def keep(self, index, image):
        with self.lock:
            if index not in self.images:
                self.images[index] = image.copy()
                self.free -= image.nbytes
            while self.free < 0:
                self.free += self.images.popitem(last=False)[1].nbytes


_NOTHING = np.zeros([0, 0, 3], np.uint8)


def _loader(records, skipped, resized, memory=0, most_pixels=MOST_PIXELS):
    """A graph function: index -> (image [H, W, 3] uint8, boxes, labels, crowd). Past the last record: grey, no boxes.

    So is a picture that cannot be read; `skipped`[index] then says what is wrong with it. One that has another size than its annotations
    say has its boxes scaled to it, and `resized`[index] then says that size. memory: bytes of decoded pictures that it keeps, so as not to
    decode them again. most_pixels: a picture of more counts as one that cannot be read.
    """
    grey = np.full([1, 1, 3], round(GREY * 255), np.uint8)
    nothing = np.zeros([0, 4], np.float32), np.zeros([0], np.int32), np.zeros([0], bool), np.ones([2], np.int32)
    recent = _Memory(memory)

    def fetch(index):
        """The picture if it is remembered, else its file."""
        if index >= len(records):
            return _NOTHING, b"", *nothing
        record = records[index]
        image, contents = recent.get(int(index)), b""
        if not image.size:
            with contextlib.suppress(ImageError):
                contents = _contents(record.path, record.span)
                contents = contents if surely_fits(contents, most_pixels) else b""
        return image, contents, record.boxes, record.labels, record.ignored, np.array(record.size, np.int32)

    def rescue(index, *truth):
        if index < len(records):
            try:
                record = records[index]
                return read_record(record, most_pixels), *truth
            except ImageError as error:
                skipped[int(index)] = str(error)
        return grey, *nothing

    def keep(index, image):
        if int(index) not in skipped:  # what is grey has no boxes, the record has
            recent.keep(index, image)

    def scaled(index, boxes, stated, size):
        resized[int(index)] = tuple(size.tolist())
        return boxes * scale_of(stated, size)

    types = [tf.float32, tf.int32, tf.bool, tf.int32]

    @_graph(_INDEX)
    def load(index):
        remembered, contents, *truth = tf.numpy_function(fetch, [index], [tf.uint8, tf.string, *types])

        def decode():
            # Graphs have no `try`, but a data set of one element has ignore_errors. Decoding in the graph keeps Python's
            # one lock out of the way of the other threads: four times as fast on two cores as in the numpy_function.
            tried = tf.data.Dataset.from_tensors(contents).map(decode_image).ignore_errors()
            nothing_read = tf.data.Dataset.from_tensors(_NOTHING)
            image = tried.concatenate(nothing_read).take(1).get_single_element()
            return tf.cond(
                tf.size(image) > 0,
                lambda: [image, *truth],
                lambda: tf.numpy_function(rescue, [index, *truth], [tf.uint8, *types]),
            )

        def decode_and_keep():
            image, *truth = decode()
            with tf.control_dependencies([tf.numpy_function(keep, [index, image], [])] if memory else []):
                return [tf.identity(image), *truth]

        image, boxes, labels, crowd, stated = tf.cond(
            tf.size(remembered) > 0, lambda: [remembered, *truth], decode_and_keep
        )
        size = tf.shape(image)[:2]
        boxes = tf.cond(
            tf.reduce_all(stated == size),
            lambda: boxes,
            lambda: tf.numpy_function(scaled, [index, boxes, stated, size], tf.float32),
        )
        shapes = [None, None, 3], [None, 4], [None], [None]
        return tuple(map(tf.ensure_shape, (image, boxes, labels, crowd), shapes))

    return load


def scale_of(stated, size):
    """[4] float32: boxes in a picture of the `stated` size (H, W) times this are boxes in one of `size`.

    A picture that only lies on its side, by its EXIF orientation, has boxes that are taken for what is seen upright.
    """
    turned = tuple(stated) == tuple(size)[::-1]
    return np.tile(np.ones(2) if turned else np.divide(size, stated), 2).astype(np.float32)


def _batched(samples, size, batch, black):
    """Pads boxes to the most that a picture of the batch has, and to one: none is cut, no step sees an empty tensor."""

    def at_least_one(sample):
        missing = [[0, tf.cast(tf.shape(sample.labels)[0] == 0, tf.int32)]]
        return sample._replace(
            boxes=tf.pad(sample.boxes, [*missing, [0, 0]]),
            labels=tf.pad(sample.labels, missing, constant_values=-1),
            crowd=tf.pad(sample.crowd, missing),
        )

    shapes = Sample([*size, 3], [None, 4], [None], [None], [], [3, 3])
    padding = Sample(black, 0.0, -1, False, -1, 0.0)
    samples = samples.map(at_least_one).padded_batch(batch, shapes, padding, drop_remainder=True)
    return samples.prefetch(tf.data.AUTOTUNE)


# What a picture is mixed with is among those last drawn, which need not be decoded again if they fit into the memory.
RECENT = 128
MEMORY = 256 << 20  # bytes


def train_dataset(
    source,
    *,
    size,
    batch,
    augment,
    seed,
    epochs,
    plain_epochs=0,
    start_epoch=0,
    start_step=0,
    preprocess="letterbox",
    skipped=None,
    resized=None,
):
    """Batches of augmented Samples, of uint8 pictures, for epochs start_epoch .. epochs-1, and the steps an epoch has.

    size: (H, W). augment: config.Augment; mosaic and mixup stop plain_epochs before the end. All chance comes from
    (seed, epoch, place in the epoch): a stream that starts at epoch k, or at a step of it, is, bit for bit, the tail of the one that
    starts at 0. An epoch has ceil(pictures / batch) steps and shows every picture at least once. Boxes [B, M, 4] have M >= 1.
    image_id and transform are those of the picture drawn, the first of a mosaic or mixture. skipped: a dict that gets
    {index of a record: message} for each picture that cannot be read; it comes grey and without boxes. resized: a dict that gets
    {index of a record: (H, W)} for each picture of another size than its annotations say; its boxes are scaled to it. DataError
    without pictures.
    """
    resized = {} if resized is None else resized
    load = _loader(_records(source), {} if skipped is None else skipped, resized, MEMORY, source.max_pixels)
    pictures = len(source.records)
    steps = -(-pictures // batch)
    draws = steps * batch
    size, fit = tuple(size), FITS[preprocess]

    def place(indices, loaded, matrices):
        """The pictures on one canvas, with the truths that are left of them; the index and matrix are the first's."""
        image = paste([image for image, *_ in loaded], matrices, size, fit)
        truths = [
            aug.clip_boxes(transform_boxes(boxes, matrix), labels, crowd, size)
            for (_, boxes, labels, crowd), matrix in zip(loaded, matrices, strict=True)
        ]
        return Sample(image, *(tf.concat(part, axis=0) for part in zip(*truths, strict=True)), indices[0], matrices[0])

    def mixing(epoch):
        return epoch < epochs - plain_epochs

    def shuffled(epoch, position):
        """The index of the picture at a position of an epoch."""
        seeds = tf.stack([seed, epoch])
        return tf.cast(tf.random.experimental.index_shuffle(position % pictures, seeds, pictures - 1), tf.int32)

    def before(position, seed, count):
        """Positions of pictures that were drawn a little earlier; an epoch begins with its end."""
        return tf.unstack(position - tf.random.stateless_uniform([count], seed, 1, RECENT + 1, tf.int64))

    def plain(epoch, position, seed):
        seeds = tf.unstack(tf.random.split(seed, 2))
        index = shuffled(epoch, position)
        loaded = load(index)
        original = tf.shape(loaded[0])[:2]
        matrix = fit.matrix(original, size) @ aug.flips(seeds[0], original, augment)
        return place([index], [loaded], [aug.affine(seeds[1], size, augment) @ matrix])

    def mosaic(epoch, position, seed):
        seeds = tf.unstack(tf.random.split(seed, 7))
        indices = [shuffled(epoch, at) for at in (position, *before(position, seeds[0], 3))]
        loaded = [load(i) for i in indices]
        sizes = [tf.shape(image)[:2] for image, *_ in loaded]
        affine = aug.affine(seeds[1], size, augment)
        matrices = [
            affine @ matrix @ aug.flips(flip_seed, original, augment)
            for matrix, flip_seed, original in zip(
                aug.mosaic(seeds[2], sizes, size, fit.matrix), seeds[3:], sizes, strict=True
            )
        ]
        return place(indices, loaded, matrices)

    @_graph(_NUMBER, _NUMBER, _SEED)
    def one(epoch, position, seed):
        if not augment.mosaic:
            return plain(epoch, position, seed)
        drawn, seed = tf.unstack(tf.random.split(seed, 2))
        use = mixing(epoch) & (tf.random.stateless_uniform([], drawn) < augment.mosaic)
        return tf.cond(use, lambda: mosaic(epoch, position, seed), lambda: plain(epoch, position, seed))

    @_graph(_NUMBER)
    def draw(number):
        epoch, position = number // draws, number % draws
        key = tf.random.fold_in(tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch), position)
        seeds = tf.unstack(tf.random.split(key, 6))

        def mixture():
            (partner,) = before(position, seeds[2], 1)
            return aug.mixup(seeds[3], sample, one(epoch, partner, seeds[4]))

        sample = one(epoch, position, seeds[0])
        if augment.mixup:
            use = mixing(epoch) & (tf.random.stateless_uniform([], seeds[1]) < augment.mixup)
            sample = tf.cond(use, mixture, lambda: sample)
        gains = {"hue": augment.hue, "saturation": augment.saturation, "value": augment.value}
        return sample._replace(image=recolour(sample.image, aug.colour(seeds[5], **gains)))

    numbers = tf.data.Dataset.range(start_epoch * draws + start_step * batch, epochs * draws)
    samples = numbers.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _batched(samples, size, batch, np.uint8(0)), steps


def eval_dataset(source, *, size, batch, preprocess="letterbox", skipped=None, resized=None):
    """Batches of Samples in the order of the records, prepared and not augmented.

    The last batch is filled up with grey pictures, whose image_id is -1. skipped, resized and errors: as in train_dataset.
    """
    resized = {} if resized is None else resized
    load = _loader(_records(source), {} if skipped is None else skipped, resized, most_pixels=source.max_pixels)
    pictures = len(source.records)
    size = tuple(size)

    @_graph(_NUMBER)
    def sample(number):
        index = tf.cast(number, tf.int32)
        image, boxes, labels, crowd = load(index)
        image, transform = prepare(image, size, preprocess)
        index = tf.where(index < pictures, index, -1)
        return Sample(image, transform_boxes(boxes, transform), labels, crowd, index, transform)

    numbers = tf.data.Dataset.range(-(-pictures // batch) * batch)
    return _batched(numbers.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True), size, batch, 0.0)


def _records(source):
    if not source.records:
        raise DataError(f"{source.name}: expected pictures in its split {source.split!r}. Received: none")
    return source.records
