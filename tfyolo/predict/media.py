"""Images wherever they come from: paths, bytes, arrays, PIL, folders, globs, videos, cameras."""

import collections
import contextlib
import glob
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from tfyolo.data.contents import ImageError
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.sources.files import Tree, visible
from tfyolo.data.sources.index import IMAGES
from tfyolo.devices import cores
from tfyolo.edge.images import pil_pixels
from tfyolo.errors import Error
from tfyolo.files import address, elsewhere, is_folder, is_there, matching, unreachable, what_is
from tfyolo.libraries import libraries_silent
from tfyolo.predict import imaging

# --- one image --------------------------------------------------------------------------------------------------------


def read_image_like(image, most_pixels=MOST_PIXELS):
    """Reads an ImageLike.

    Args:
        image: a path, the bytes of a file, a PIL image, or an array [H, W], [H, W, 3] or [H, W, 4] of uint8.
        most_pixels: the limit for a file's height times width.

    Returns:
        (image [H, W, 3] uint8 RGB, upright; its path or None).

    Raises:
        ImageError: it is no image, or a file of more pixels.
    """
    if isinstance(image, str | os.PathLike):
        return imaging.read_image(image, most_pixels), os.fspath(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return imaging.read_image(bytes(image), most_pixels), None
    if isinstance(image, Image.Image):
        return _of_pil(image), None
    if hasattr(image, "__array__"):
        return _of_array(np.asarray(image)), None
    raise ImageError(
        "expected an image: a path, the bytes of a file, a PIL image, or an array or tensor [H, W, 3] of uint8; "
        f"received {type(image).__name__}"
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
        raise ImageError(
            "expected an image [H, W, 3], [H, W] or [H, W, 4] of uint8 in RGB order, received "
            f"{image.dtype} {list(image.shape)}{hint}"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.shape[2] == 4 else image


def _of_pil(image):
    try:
        return pil_pixels(image)
    except OSError as error:
        raise ImageError(f"a PIL image that cannot be read in full: {error}") from error


def is_video(source) -> bool:
    """Whether a source is a camera's number, or a file that is named like a video."""
    return isinstance(source, int) or os.fspath(source).lower().endswith(VIDEOS)


def is_many(path):
    """Whether a path means more than one image: a folder, a video or a glob."""
    return is_folder(path) or is_video(path) or (glob.has_magic(path) and not is_there(path))


AHEAD = 2  # for each core: what is begun before its turn
MOST_AHEAD = 16  # in all: decoded images of many megapixels wait there


def ahead(function, items):
    """Calls a function of each item in threads, on all cores, some calls before their turn.

    Args:
        function: of an item. It releases Python's lock where it works long, as decoding and encoding do.
        items: iterable.

    Yields:
        (item, a function that returns what the call returned, or raises what it raised), in the items' order.
    """
    most, waiting = min(AHEAD * cores(), MOST_AHEAD), collections.deque()
    threads = ThreadPoolExecutor(min(cores(), MOST_AHEAD))
    try:
        for item in items:
            waiting.append((item, threads.submit(function, item)))
            if len(waiting) > most:
                item, future = waiting.popleft()
                yield item, future.result
        for item, future in waiting:
            yield item, future.result
    except BaseException:  # it is left before its end
        threads.shutdown(wait=True, cancel_futures=True)
        raise
    threads.shutdown(wait=True)  # not cancelled: the last results may not have been asked for yet


def each_file(files, skipped, most_pixels):
    """each_image() of files that are all known: images are read ahead.

    Args:
        files: paths of images and videos.
        skipped: as of each_image.
        most_pixels: as of each_image.

    Yields:
        As each_image.

    Raises:
        SourceError, ImageError: as of each_image.
    """
    for moves, some in itertools.groupby(files, is_video):
        if moves:  # opened while no thread works, or OpenCV's own words could not be held back
            for file in some:
                with _skipping(file, skipped):
                    yield from _frames_of(file, most_pixels)
            continue
        for file, result in ahead(lambda file: read_image_like(file, most_pixels), some):
            with _skipping(file, skipped):
                yield (*result(), None)


def each_image(sources, skipped, most_pixels):
    """Reads every image and frame of sources, each when its turn comes.

    Args:
        sources: as Detector.stream takes them.
        skipped: a list that gets (source, reason) of what cannot be read; None: that is an error.
        most_pixels: the limit for an image's height times width.

    Yields:
        (image [H, W, 3] uint8 RGB, its file or None, its frame or None).

    Raises:
        SourceError, ImageError: a source cannot be read, and `skipped` is None.
    """
    for source in sources:
        many = isinstance(source, str | os.PathLike) and is_many(os.fspath(source))
        if many:
            yield from each_file(find_images([source]), skipped, most_pixels)
            continue
        with _skipping(source, skipped):
            yield from _frames_of(source, most_pixels)


@contextlib.contextmanager
def _skipping(source, skipped):
    """Notes in `skipped`, if it is there, that a source cannot be read."""
    try:
        yield
    except (ImageError, SourceError) as error:
        if skipped is None:
            raise
        skipped.append((source, str(error)))


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


# --- many files -------------------------------------------------------------------------------------------------------

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class SourceError(Error):
    """A source of images cannot be found or opened."""


def find_images(sources):
    """The files that sources mean, in order.

    Args:
        sources: paths of files, folders (images and videos directly inside) and globs.

    Raises:
        SourceError: a source has no file.
    """
    files = []
    for source in map(str, sources):
        if wrong := unreachable(source):
            raise SourceError(wrong)
        source = address(source) or source
        if is_folder(source):
            found = Tree(source).files(source, IMAGES + VIDEOS)
        elif is_there(source):
            found = [source]
        else:
            given = source.split(os.sep)
            found = [
                path for path in matching(source) if all(visible(part) or part in given for part in path.split(os.sep))
            ]
        if not found:
            kind = "folder without images" if is_folder(source) else "name that no file has"
            raise SourceError(f"{source}: expected an image, a video, a folder or a glob, received a {kind}")
        files += found
    return files


def check(source, most_pixels=MOST_PIXELS):
    """Checks that a source can be read.

    Args:
        source: the path of an image or a video, or a camera's number.
        most_pixels: the limit for height times width.

    Raises:
        SourceError: the video or the camera does not open.
        ImageError: the image cannot be read.
    """
    if isinstance(source, int) or source.lower().endswith(VIDEOS):
        frames(source, most_pixels)
    else:
        imaging.read_image(source, most_pixels)


def frames(source, most_pixels=MOST_PIXELS):
    """The frames of a video or a camera.

    Args:
        source: a video's path, or a camera's number.
        most_pixels: the limit for a frame's height times width.

    Returns:
        (an iterator of frames [H, W, 3] uint8 RGB, frames per second: 25 if that is not known).

    Raises:
        SourceError: it does not open, or its frames have more pixels.
    """
    if not isinstance(source, int) and (wrong := elsewhere(source)):  # OpenCV opens files
        raise SourceError(wrong)
    if not isinstance(source, int) and not os.path.isfile(source):  # on other paths OpenCV may wait for ever
        raise SourceError(f"{source}: expected a camera or a video, received {what_is(source)}")
    cv2 = _opencv(source)
    with libraries_silent():  # the error below reports it once
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


def _opencv(source):
    try:
        import cv2
    except ImportError as error:
        what = f"camera {source}" if isinstance(source, int) else source
        raise SourceError(
            f"{what}: expected OpenCV, which reads cameras and videos; pip install opencv-python-headless ({error})"
        ) from error
    return cv2
