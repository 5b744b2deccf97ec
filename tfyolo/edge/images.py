"""Images on a device: decoded by Pillow, brought to the network's size by numpy, as data.geometry does it."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from tfyolo.data.contents import ENDS, ImageError, checked_contents, damaged, unknown
from tfyolo.data.headers import MOST_PIXELS, kind_of, surely_fits
from tfyolo.edge.decoder import placement

# {key of data.geometry.FITS: (the grey beside an image, 0..1; whether one made much smaller is averaged; the pixels
# that it reaches beyond the centres of its outermost ones)}. A test compares them with the table.
FITS = {
    "letterbox": (114 / 255, True, 0.5),
    "stretch": (114 / 255, False, 0.5),
    "darknet": (0.5, False, 0.0),
    "darknet_letterbox": (0.5, False, 0.0),
    "letterbox_top_left": (114 / 255, False, 0.5),
}
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # of Pillow's: those that TensorFlow and cv2 read


# --- decoding ---------------------------------------------------------------------------------------------------------


def read_image(source, most_pixels=MOST_PIXELS):
    """Reads an image: data.decoding.read_image by Pillow.

    Args:
        source: a path or the bytes of a file.
        most_pixels: an image of more is an error, and is not decoded.

    Returns:
        [H, W, 3] np.uint8 RGB, upright.

    Raises:
        ImageError: it cannot be read in full.
    """
    name, contents = checked_contents(source, most_pixels)
    if not surely_fits(contents, most_pixels):
        raise unknown(name, contents)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that it does not understand
            with Image.open(io.BytesIO(contents), formats=_FORMATS) as image:
                return pil_pixels(image)
    except ImageError:
        raise unknown(name, contents) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: more pixels than Pillow opens; make it smaller, or in Python raise PIL.Image.MAX_IMAGE_PIXELS "
            f"({error})"
        ) from error
    except Exception as error:  # of a dozen kinds: each of Pillow's formats has its own
        kind = kind_of(contents)
        raise (damaged(name, contents, kind) if kind in ENDS else unknown(name, contents)) from error


def pil_pixels(image):
    """The pixels of a PIL image as read_image gives those of a file: upright, alpha dropped, 16 bits' upper eight.

    Args:
        image: a PIL image of any mode but I and F, whose value for white is not known.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        ImageError: its mode is I or F.
        OSError: it cannot be read in full.
    """
    if image.mode in ("I", "F"):
        raise ImageError(f"expected a PIL image of a mode such as RGB or L, received {image.mode}; convert it")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


# --- to the network's size and back -----------------------------------------------------------------------------------


def prepared(images, size, preprocess):
    """Brings images to the network's size, as data.geometry.prepare does each.

    Args:
        images: a list of [H, W, 3] uint8.
        size: (h, w) of the network's input.
        preprocess: how, a key of FITS.

    Returns:
        ([B, h, w, 3] float32 in 0..1, transforms [B, 3, 3], of (y, x, 1)).

    Raises:
        ImageError: there is no such way here.
    """
    if preprocess not in FITS:
        raise ImageError(f"expected a network whose images are brought to size by {', '.join(FITS)}: {preprocess!r}")
    pairs = [_placed(image, size, preprocess) for image in images]
    return tuple(np.stack(each) for each in zip(*pairs, strict=True))


def _placed(image, size, preprocess):
    fill, antialias, rim = FITS[preprocess]
    scale_y, scale_x, top, left = placement(image.shape[:2], size, preprocess)
    transform = np.array([[scale_y, 0, top], [0, scale_x, left], [0, 0, 1]], "float32")
    if antialias and (factor := int((scale_y * scale_x) ** -0.5 + 1e-3)) > 1:
        (height, width), smaller = image.shape[:2], [max(side // factor, 1) for side in image.shape[:2]]
        image = _averaged(_averaged(image, smaller[0], 0), smaller[1], 1)
        scale_y, scale_x = scale_y * height / smaller[0], scale_x * width / smaller[1]
    canvas = np.full((*size, 3), fill, "float32")
    window, rows, columns = image, None, None
    for axis, (scale, shift) in enumerate(((scale_y, top), (scale_x, left))):
        first, last, at = _positions(image.shape[axis], size[axis], scale, shift, 0.5 if antialias else rim - 0.5)
        window = _interpolated(window, at, axis, 255 * fill if antialias else None)
        rows, columns = (slice(first, last), None) if axis == 0 else (rows, slice(first, last))
    canvas[rows, columns] = window * np.float32(1 / 255)
    return canvas, transform


def _averaged(image, count, axis):
    """An image with `count` pixels along an axis, each the mean of what it covers: float32."""
    length = image.shape[axis]
    edges = np.arange(count + 1) * (length / count)
    total, shape = 0, np.where(np.arange(3) == axis, -1, 1)
    for step in range(-(-length // count) + 1):  # so many pixels one can cover, wholly or in part
        cell = np.floor(edges[:-1]).astype(int) + step
        covered = np.maximum(np.minimum(cell + 1, edges[1:]) - np.maximum(cell, edges[:-1]), 0)
        share = (covered * (count / length)).astype("float32").reshape(shape)
        total += np.take(image, np.minimum(cell, length - 1), axis) * share
    return total


def _positions(length, size, scale, shift, outside):
    """Which pixels of a canvas of `size` an image of `length` reaches, and where in it their centres lie.

    Args:
        length: pixels of the image along one axis.
        size: of the canvas.
        scale: pixels of the canvas that one of the image covers.
        shift: where on the canvas the image begins, in pixels.
        outside: pixels that it reaches beyond its edge.

    Returns:
        (first, last + 1, [n] positions, 0 at the centre of the image's first pixel).
    """
    low, high = -outside * scale + shift, (length + outside) * scale + shift
    first = int(np.clip(np.ceil(low - 0.501), 0, size - 1))
    last = int(np.clip(np.floor(high - 0.499) + 1, first + 1, size))
    return first, last, (np.arange(first, last) + 0.5 - shift) / scale - 0.5


def _interpolated(image, at, axis, fill):
    """An image between its pixels along an axis: float32. fill: what lies beside it; None: it goes on as it ends."""
    length = image.shape[axis]
    low = np.floor(at).astype(int)
    share = (at - low).astype("float32").reshape(np.where(np.arange(3) == axis, -1, 1))

    def pixels(index):
        found = np.take(image, np.clip(index, 0, length - 1), axis).astype("float32")
        if fill is not None:
            beside = ((index < 0) | (index >= length)).reshape(share.shape)
            found = np.where(beside, np.float32(fill), found)
        return found

    return pixels(low) * (1 - share) + pixels(low + 1) * share


def restored(boxes, transforms, sizes):
    """Takes boxes from pixels of the network's input to pixels of the images, cut to their edges.

    Args:
        boxes: [B, D, 4] float32 (y1, x1, y2, x2).
        transforms: [B, 3, 3], as prepared gives them.
        sizes: [B, 2] (H, W) of the images.

    Returns:
        [B, D, 4] float32.
    """
    shift, scale = np.tile(transforms[:, :2, 2], 2)[:, None], np.tile(transforms[:, [0, 1], [0, 1]], 2)[:, None]
    return np.clip((boxes - shift) / scale, 0, np.tile(np.asarray(sizes, "float32"), 2)[:, None])
