"""Images and boxes of Records, read and decoded inside a tf.data graph."""

import collections
import contextlib
import os
import re
import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo.config.ranges import MOST_PIXELS
from tfyolo.data.contents import ImageError, NotAnsweredError, file_contents
from tfyolo.data.decoding import RATIOS, decode_image, read_record
from tfyolo.data.geometry import GREY, scale_of
from tfyolo.data.headers import image_size, kind_of, surely_fits
from tfyolo.data.sources.source import DataError
from tfyolo.files import open_regular

AHEAD = 16 << 20  # bytes of a shard that a disk fetches at once
PARTS = 64  # of shards, remembered as fetched

INDEX = tf.TensorSpec([], tf.int32)


def traced(*signature):
    """Decorates a graph function: traced once, however often it is called, and without autograph."""
    return tf.function(input_signature=signature, autograph=False)


class Memory:
    """Decoded images, those lately asked for.

    Args:
        limit: how many bytes they may have in all.
    """

    def __init__(self, limit):
        self.free, self.images, self.lock = limit, collections.OrderedDict(), threading.Lock()

    def get(self, index):
        """What is kept of an index: (image [H, W, 3], [0, 0, 3] if there is none; what keep() got with it)."""
        with self.lock:
            if index in self.images:
                self.images.move_to_end(index)
            return self.images.get(index, (_NOTHING, AS_IT_IS))

    def keep(self, index, image, smaller):
        """Keeps a copy of an image; the ones longest not asked for go.

        Args:
            index: of its Record.
            image: [H, W, 3] uint8.
            smaller: [3] int32: how many times smaller it was decoded; (H, W) of the file's image where that is above 1.
        """
        with self.lock:
            if index not in self.images:
                self.images[index] = image.copy(), smaller.copy()
                self.free -= image.nbytes
            while self.free < 0:
                self.free += self.images.popitem(last=False)[1][0].nbytes


_NOTHING = np.zeros([0, 0, 3], np.uint8)
AS_IT_IS = np.array([1, 0, 0], np.int32)  # of an image that was not decoded smaller


def _fetch_about(record, fetched):
    """Has the system read the part of a shard that an image begins in, unless it is one of the last that it did."""
    part = record.path, record.span[0] // AHEAD
    if part in fetched or not hasattr(os, "posix_fadvise"):
        return
    fetched[part] = None
    if len(fetched) > PARTS:
        fetched.popitem(last=False)
    with contextlib.suppress(OSError), open_regular(record.path) as shard:
        os.posix_fadvise(shard.fileno(), part[1] * AHEAD, AHEAD, os.POSIX_FADV_WILLNEED)


class Loaded(NamedTuple):
    """An image and what it shows.

    Attributes:
        image: [H, W, 3] uint8.
        boxes: [M, 4] float32 (y1, x1, y2, x2) in its pixels.
        labels: [M] int32.
        crowd: [M] bool.
        size: [2] float32 (H, W), not rounded up as those of an image that was decoded smaller.
        ratio: scalar float32: how many times smaller than its file it is.
    """

    image: tf.Tensor
    boxes: tf.Tensor
    labels: tf.Tensor
    crowd: tf.Tensor
    size: tf.Tensor
    ratio: tf.Tensor


def _decoded(contents, ratio):
    """The image of a file's bytes in a graph, `ratio` times smaller; [0, 0, 3] if it cannot be decoded.

    Graphs have no `try`, but a data set of one element has ignore_errors. Decoding in the graph keeps Python's one lock
    out of the way of the other threads: four times as fast on two cores as in a numpy_function.
    """
    tried = tf.data.Dataset.from_tensors(contents).map(lambda each: decode_image(each, ratio=ratio)).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(_NOTHING)).take(1).get_single_element()


@contextlib.contextmanager
def answered():
    """Asks a data set with a loader in it for a batch, in the `with`.

    Raises:
        DataError: an address did not answer, which in a graph is one of TensorFlow's errors.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(rf"{NotAnsweredError.__name__}: (.*)", error.message)
        if not found:
            raise
        raise DataError(found[1]) from error


def loader(records, skipped, resized, memory=0, most_pixels=MOST_PIXELS, needed=None, ahead=False):
    """A graph function that reads one Record.

    Args:
        records: Records, by index. Past the last one the image is grey and has no boxes.
        skipped: a dict that gets {index: what is wrong} of each image that cannot be read; it is grey, without boxes.
        resized: a dict that gets {index: (H, W)} of each image of another size than its annotations say; its boxes are
            scaled to it.
        memory: bytes of decoded images to keep, so as not to decode them again.
        most_pixels: an image of more counts as one that cannot be read.
        needed: (H, W): larger JPEGs are decoded 2, 4 or 8 times smaller, as long as they reach one of the two sides
            still. None: all as they are.
        ahead: whether a disk is to fetch what lies about an image in its shard, too, since that comes soon.

    Returns:
        int32 index -> Loaded.
    """
    grey = np.full([1, 1, 3], round(GREY * 255), np.uint8)
    nothing = np.zeros([0, 4], np.float32), np.zeros([0], np.int32), np.zeros([0], bool), np.ones([2], np.int32)
    fetched = collections.OrderedDict()  # the last parts of shards that a disk was to fetch
    recent = Memory(memory)

    def fetch(index):
        """The image if it is remembered, else its file."""
        if index >= len(records):
            return _NOTHING, b"", *nothing, AS_IT_IS
        record = records[index]
        (image, smaller), contents = recent.get(int(index)), b""
        if not image.size:
            if ahead and record.span:
                _fetch_about(record, fetched)
            with contextlib.suppress(ImageError):
                contents = file_contents(record.path, record.span)
                contents = contents if surely_fits(contents, most_pixels) else b""
            if needed and kind_of(contents) == "JPEG":
                size = image_size(contents)
                ratio = max(each for each in RATIOS if each == 1 or max(np.divide(size, needed)) >= each)
                if ratio > 1:
                    smaller = np.array([ratio, *size], np.int32)
        return image, contents, record.boxes, record.labels, record.ignored, np.array(record.size, np.int32), smaller

    def rescue(index, *annotated):
        if index < len(records):
            try:
                record = records[index]
                return read_record(record, most_pixels), *annotated
            except ImageError as error:
                skipped[int(index)] = str(error)
        return grey, *nothing

    def keep(index, image, smaller):
        if int(index) not in skipped:  # what is grey has no boxes, the record has
            recent.keep(int(index), image, smaller)

    def scaled(index, boxes, stated, size):
        resized[int(index)] = tuple(size.tolist())
        return boxes * scale_of(stated, size)

    types = [tf.float32, tf.int32, tf.bool, tf.int32]

    @traced(INDEX)
    def load(index):
        remembered, contents, *annotated, smaller = tf.numpy_function(
            fetch, [index], [tf.uint8, tf.string, *types, tf.int32]
        )

        def decode():
            image = _decoded(contents, smaller[0] if needed else None)
            return tf.cond(
                tf.size(image) > 0,
                lambda: [image, *annotated, smaller],
                lambda: [*tf.numpy_function(rescue, [index, *annotated], [tf.uint8, *types]), tf.constant(AS_IT_IS)],
            )

        def decode_and_keep():
            image, *annotated = decode()
            kept = [tf.numpy_function(keep, [index, image, annotated[-1]], [])] if memory else []
            with tf.control_dependencies(kept):
                return [tf.identity(image), *annotated]

        image, boxes, labels, crowd, stated, smaller = tf.cond(
            tf.size(remembered) > 0, lambda: [remembered, *annotated, smaller], decode_and_keep
        )
        size = tf.where(smaller[0] > 1, smaller[1:], tf.shape(image)[:2])
        boxes = tf.cond(
            tf.reduce_all(stated == size),
            lambda: boxes,
            lambda: tf.numpy_function(scaled, [index, boxes, stated, size], tf.float32),
        )
        ratio = tf.cast(smaller[0], tf.float32)
        shapes = [None, None, 3], [None, 4], [None], [None], [2], []
        loaded = image, boxes / ratio, labels, crowd, tf.cast(size, tf.float32) / ratio, ratio
        return Loaded(*map(tf.ensure_shape, loaded, shapes))

    return load
