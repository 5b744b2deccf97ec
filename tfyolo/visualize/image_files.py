"""Images for files: as uint8 RGB, and written by their file's suffix."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tfyolo.errors import Error
from tfyolo.files import atomic_file

QUALITY = 95  # of JPEG and WebP, 0..100


class DrawingError(Error):
    """Something cannot be drawn or saved. The message says what was expected and what came."""


def rgb_uint8(image):
    """A copy of an image as [H, W, 3] uint8.

    Args:
        image: [H, W, 3], [H, W, 1] or [H, W], uint8 or floats in 0..1.

    Raises:
        DrawingError: it has another shape or type.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise DrawingError(f"expected an image [H, W, 3], [H, W, 1] or [H, W], received {list(image.shape)}")
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating):
            raise DrawingError(f"expected an image of uint8, or of floats in 0..1, received {image.dtype}")
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)))


def save(path, image):
    """Writes an image in the format of its file's suffix, complete or not at all; makes the folder.

    Args:
        path: of the file: .png, .jpg, or what else Pillow writes.
        image: as rgb_uint8 takes it.

    Raises:
        DrawingError: the suffix is not known.
    """
    path, encoded = Path(path), io.BytesIO()
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise DrawingError(
            f"{path}: expected a suffix that says how to write it, such as .png or .jpg, received {path.suffix!r}"
        )
    try:
        Image.fromarray(rgb_uint8(image)).save(encoded, kind, quality=QUALITY)
    except (OSError, ValueError) as error:  # of another kind of picture, or too large a one
        raise DrawingError(f"{path}: expected a kind of file for photographs, such as .png or .jpg: {error}") from error
    write_image(path, encoded.getvalue())


def write_image(path, contents):
    """Writes the bytes of an image file, complete or not at all; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as aside:
        aside.write_bytes(contents)
