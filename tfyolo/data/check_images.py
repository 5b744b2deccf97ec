"""Every image of a data set read in full: what is wrong with it, and the digest by which copies of it are found."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo.data.contents import ImageError
from tfyolo.data.decoding import decode_image, read_image
from tfyolo.data.geometry import scale_of
from tfyolo.data.headers import kind_of, surely_fits
from tfyolo.data.sources.source import TOLERANCE, Problem, image_bytes
from tfyolo.messages import printable
from tfyolo.remote import UnansweredError

_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "WebP": {".webp"},
    "TIFF": {".tif", ".tiff"},
}


class ImageCheck(NamedTuple):
    """What reading one image has shown.

    Attributes:
        digest: SHA-256 of its bytes; None if it cannot be read.
        problems: what is wrong with it.
    """

    digest: bytes | None
    problems: tuple[Problem, ...]


def check_images(sources, progress=True):
    """Reads every image.

    Args:
        sources: {split: Source}.
        progress: shows a bar on standard error.

    Returns:
        {split: [ImageCheck of each of its Records]}.
    """
    checked = {name: [] for name in sources}
    total = sum(len(source.records) for source in sources.values())
    with tqdm(total=total, desc="checking", unit="images", disable=not progress or None) as bar:
        for name, source in sources.items():
            for record, found in zip(source.records, _decode(source.records, source.max_pixels), strict=True):
                checked[name].append(_check(record, *found))
                bar.update()
    return checked


def _decode(records, most_pixels):
    """For each Record in turn (the first bytes of its image, their digest, (H, W), what is wrong or "").

    A graph on all cores: TensorFlow's eager operations, called from several Python threads, have crashed (2.21).

    Raises:
        UnansweredError: an address did not answer, which says nothing of the image.
    """
    unanswered = []

    def fetch(index):
        try:
            encoded = image_bytes(records[index])
        except OSError:
            encoded = b""
        shown = encoded if surely_fits(encoded, most_pixels) else b""
        return shown, encoded[:8], hashlib.sha256(encoded).digest()

    def rescue(index):
        """What only read_image knows, or what is wrong."""
        try:
            return np.int32(read_image(image_bytes(records[index]), most_pixels).shape[:2]), b""
        except ImageError as error:
            reason = str(error).partition(": ")[2]  # less the name: the problem has the file's
            return np.zeros(2, np.int32), reason.encode()
        except OSError as error:
            unanswered.extend([error] if isinstance(error, UnansweredError) else [])
            return np.zeros(2, np.int32), f"cannot be read: {error.strerror}".encode()

    def decode(index):
        encoded, head, digest = tf.numpy_function(fetch, [index], [tf.string] * 3)
        encoded.set_shape([])
        size = tf.data.Dataset.from_tensors(encoded).map(lambda encoded: tf.shape(decode_image(encoded))[:2])
        size = size.ignore_errors().concatenate(tf.data.Dataset.from_tensors([0, 0])).take(1).get_single_element()
        size, fault = tf.cond(
            size[0] > 0, lambda: [size, ""], lambda: tf.numpy_function(rescue, [index], [tf.int32, tf.string])
        )
        return head, digest, size, fault

    found = tf.data.Dataset.range(len(records)).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for *read, size, fault in found.as_numpy_iterator():
        if unanswered:
            raise unanswered[0]
        yield *read, tuple(size.tolist()), fault.decode()


def _check(record, head, digest, size, fault):
    where = f"{record.image_id}: " if record.span else ""
    problems = []

    def problem(message, severity="error"):
        problems.append(Problem(printable(record.path), printable(where + message), severity))

    suffix, kind = Path(record.path).suffix.lower(), kind_of(head)
    if not record.span and suffix not in _SUFFIXES.get(kind, {suffix}):
        problem(f"is a {kind} but its name ends in {suffix or 'nothing'}", "warning")
    if fault:
        problem(fault)
        return ImageCheck(None, tuple(problems))
    if size != record.size:
        consequence = "its boxes are scaled to it"
        boxes = record.boxes * scale_of(record.size, size)
        if size == record.size[::-1]:
            consequence = "it is stored turned, by its EXIF orientation"
        outside = len(boxes) and (boxes[:, 2:].max(axis=0) > np.array(size) + TOLERANCE).any()
        problem(
            f"is {size[0]} x {size[1]} (H x W), the annotations say {record.size[0]} x {record.size[1]}: {consequence}"
            + ("; some boxes lie outside" if outside else ""),
            "error" if outside else "warning",
        )
    return ImageCheck(digest, tuple(problems))
