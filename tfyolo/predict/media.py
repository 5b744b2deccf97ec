"""Images wherever they come from: paths, bytes, arrays, PIL, folders, globs, videos, cameras."""

import glob
import os

import cv2
import numpy as np
from PIL import Image, ImageOps

from tfyolo.data import decoding
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.sources.files import Tree, visible
from tfyolo.data.sources.index import IMAGES
from tfyolo.errors import Error
from tfyolo.files import what_is
from tfyolo.libraries import libraries_silent

# --- what is an image ----------------------------------------------------------------------------------------------------------


def read_image_like(image, most_pixels=MOST_PIXELS):
    """Reads an ImageLike.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array [H, W], [H, W, 3] or [H, W, 4] of uint8.
        most_pixels: of a file.

    Returns:
        (image [H, W, 3] uint8 RGB, upright; its path or None).

    Raises:
        ImageError: it is no image, or a file of more pixels.
    """
    if isinstance(image, str | os.PathLike):
        return decoding.read_image(image, most_pixels), os.fspath(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return decoding.read_image(bytes(image), most_pixels), None
    if isinstance(image, Image.Image):
        return _of_pil(image), None
    if hasattr(image, "__array__"):
        return _of_array(np.asarray(image)), None
    raise decoding.ImageError(
        "expected a picture: a path, the bytes of a file, a PIL image, or an array or tensor [H, W, 3] of uint8; received "
        f"{type(image).__name__}"
    )


def _of_array(image):
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or 0 in image.shape
        or image.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        first = image.ndim == 3 and image.shape[0] in (1, 3)
        hint = "; put the channels last" if first and image.shape[2] not in (1, 3, 4) else ""
        if image.dtype.kind == "f":
            hint += "; of values from 0 to 1, (255 * image).round().astype('uint8') makes one"
        raise decoding.ImageError(
            f"expected a picture [H, W, 3], [H, W] or [H, W, 4] of uint8 in RGB order, received {image.dtype} {list(image.shape)}{hint}"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.shape[2] == 4 else image


def _of_pil(image):
    """The same pixels as read_image gives of its file: upright, alpha dropped, of 16 bits the upper eight."""
    if image.mode in ("I", "F"):  # what is white in them is not said
        raise decoding.ImageError(f"expected a PIL image of a mode such as RGB or L, received {image.mode}; convert it")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return _of_array((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))
    except OSError as error:
        raise decoding.ImageError(f"a PIL image that cannot be read in full: {error}") from error


def is_many(path):
    """Whether a path means more than an image."""
    return os.path.isdir(path) or path.lower().endswith(VIDEOS) or (glob.has_magic(path) and not os.path.exists(path))


def each_image(sources, skipped, most_pixels):
    """Yields (image, file, frame) of every image and frame of sources, with the arguments of Detector.stream."""
    for source in sources:
        many = isinstance(source, str | os.PathLike) and is_many(os.fspath(source))
        for each in find_images([source]) if many else [source]:
            try:
                yield from _frames_of(each, most_pixels)
            except (decoding.ImageError, SourceError) as error:
                if skipped is None:
                    raise
                skipped.append((each, str(error)))


def _frames_of(source, most_pixels):
    is_path = isinstance(source, str | os.PathLike)
    if isinstance(source, int) or (is_path and os.fspath(source).lower().endswith(VIDEOS)):
        file, number = os.fspath(source) if is_path else None, -1
        for number, image in enumerate(frames(file if is_path else source, most_pixels)[0]):
            yield image, file, number
        if number < 0:
            raise SourceError(f"{source}: expected a video, not one frame could be read")
    else:
        yield (*read_image_like(source, most_pixels), None)


# --- many files -----------------------------------------------------------------------------------------------------------------

PICTURES = IMAGES
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class SourceError(Error):
    """What is to be looked at cannot be found or opened."""


def find_images(sources):
    """The files that sources mean, in order: files, folders (images and videos directly inside), globs.

    Raises SourceError for a source that means nothing.
    """
    files = []
    for source in map(str, sources):
        if os.path.isdir(source):
            found = Tree(source).files(source, PICTURES + VIDEOS)
        elif os.path.exists(source):
            found = [source]
        else:
            given = source.split(os.sep)
            found = [
                path
                for path in sorted(glob.glob(source, recursive=True))
                if all(visible(part) or part in given for part in path.split(os.sep))
            ]
        if not found:
            kind = "folder without pictures" if os.path.isdir(source) else "name that no file answers to"
            raise SourceError(f"{source}: expected a picture, a video, a folder or a glob, received a {kind}")
        files += found
    return files


def check(source, most_pixels=MOST_PIXELS):
    """Raises SourceError or ImageError if a file is no image and no video, or a camera (its number) does not open."""
    if isinstance(source, int) or source.lower().endswith(VIDEOS):
        frames(source, most_pixels)
    else:
        decoding.read_image(source, most_pixels)


def frames(source, most_pixels=MOST_PIXELS):
    """The frames of a video file (its path) or a camera (its number): [H, W, 3] uint8 RGB; and how many a second.

    Raises SourceError if it does not open, or if its frames have more than most_pixels.
    """
    if not isinstance(source, int) and not os.path.isfile(source):  # where OpenCV may wait for ever
        raise SourceError(f"{source}: expected a camera or a video, received {what_is(source)}")
    with libraries_silent():  # what is wrong is said below, once
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        what = f"camera {source}" if isinstance(source, int) else source
        raise SourceError(f"{what}: expected a camera or a video that OpenCV can read, it does not open")

    height, width = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    if height * width > most_pixels:
        capture.release()
        raise SourceError(
            f"{source}: expected frames of at most {most_pixels:,} pixels, received {height:,} x {width:,} (H x W)"
        )

    def each():
        try:
            while (frame := capture.read())[0]:
                yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    return each(), capture.get(cv2.CAP_PROP_FPS) or 25.0
