"""The bytes of an image, looked at before they are decoded, and what cannot be decoded."""

import errno
import os

from tfyolo.data.headers import MOST_PIXELS, too_large
from tfyolo.errors import Error
from tfyolo.files import read_bytes
from tfyolo.messages import printable
from tfyolo.remote import UnansweredError

# How files of each kind end; of one that ends otherwise, a part is missing.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


class ImageError(Error):
    """An image cannot be read. The message names the file, what is wrong with it and what to do."""

    def __init__(self, message):
        super().__init__(printable(message))


class NotAnsweredError(Error):
    """An address does not answer, so that nobody knows what is wrong with an image there, if anything is."""


def checked_contents(source, most_pixels=MOST_PIXELS):
    """The bytes of an image.

    Args:
        source: a path, the bytes of a file, or (path, (offset, length)) for bytes that lie inside a file.
        most_pixels: an image of more is an error.

    Returns:
        (what to call it in a message, bytes).

    Raises:
        ImageError: they cannot be read, are none, or those of too large an image.
    """
    if isinstance(source, bytes):
        name, contents = f"an image of {len(source)} bytes", source
    else:
        path, span = source if isinstance(source, tuple) else (source, None)
        name = f"file {os.fspath(path)}" + (f", bytes {span[0]} to {sum(span)}" if span else "")
        contents = file_contents(path, span)
    if not contents:
        raise ImageError(f"{name}: empty. Copy it anew, or remove it and its annotations")
    if contents.startswith(b"version https://git-lfs"):
        raise ImageError(f"{name}: a pointer of Git LFS, not the image. Run `git lfs pull` to fetch it")
    if reason := too_large(contents, most_pixels):
        raise ImageError(f"{name}: {reason}; make it smaller, or allow more (max_pixels)")
    return name, contents


def file_contents(path, span):
    """The bytes of a file, or of a span (offset, length) inside it. Raises ImageError, NotAnsweredError."""
    try:
        return read_bytes(path, span)
    except OSError as error:
        if isinstance(error, UnansweredError):
            raise NotAnsweredError(f"{path}: cannot be read: {error.strerror}") from error
        what = {errno.ENOENT: "no such file", errno.EISDIR: "a folder, not an image"}.get(error.errno, error.strerror)
        raise ImageError(f"file {os.fspath(path)}: {what}. Check the path") from error


def damaged(name, contents, kind):
    """The ImageError of bytes that no decoder takes, of a kind in ENDS."""
    state = "damaged" if contents.rstrip(b"\0").endswith(ENDS[kind]) else "truncated"
    return ImageError(
        f"{name}: {state} {kind} of {len(contents)} bytes. Copy it anew, or remove it and its annotations"
    )


def unknown(name, contents):
    """The ImageError of bytes that are no image."""
    return ImageError(
        f"{name}: no image, or a damaged one. Expected JPEG, PNG, GIF, BMP, WebP or TIFF. Received: bytes that begin "
        f"{contents[:8]!r}"
    )
