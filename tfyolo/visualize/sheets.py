"""Heat maps over images, and many images on one sheet; images are as in visualize.drawing."""

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from tfyolo.visualize.drawing import font_of
from tfyolo.visualize.image_files import DrawingError, rgb_uint8

# --- sizes ------------------------------------------------------------------------------------------------------------


def enlarged(image, *boxes, side=480):
    """Enlarges a small image with its boxes; one whose longer side is long enough stays.

    Tags have letters of a size that can be read: on 96 x 96 pixels they would cover everything.

    Args:
        image: the image.
        boxes: arrays [., 4] in pixels of the image.
        side: of the longer side, in pixels.

    Returns:
        (image, *boxes).
    """
    canvas = rgb_uint8(image)
    return (canvas, *boxes) if max(canvas.shape) >= side else resized(canvas, *boxes, side=side)


def resized(image, *boxes, side):
    """Resizes an image with its boxes.

    Args:
        image: the image.
        boxes: arrays [., 4] in pixels of the image.
        side: of the longer side then, in pixels.

    Returns:
        (image, *boxes).
    """
    canvas = rgb_uint8(image)
    height, width = canvas.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    factors = np.array([size[1] / height, size[0] / width] * 2)
    canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
    return canvas, *(np.asarray(each, np.float64).reshape(-1, 4) * factors for each in boxes)


# --- maps and sheets --------------------------------------------------------------------------------------------------


def heatmap(image, values):
    """Lays a map over its image.

    Args:
        image: the image.
        values: [h, w] in 0..1, such as objectness.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    canvas = rgb_uint8(image)
    height, width = canvas.shape[:2]
    values = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1)
    values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    colors = matplotlib.colormaps["inferno"](values)[..., :3] * 255
    grey = canvas.mean(axis=-1, keepdims=True)
    weight = 0.35 + 0.5 * values[..., None]
    return np.round(grey * (1 - weight) + colors * weight).astype(np.uint8)


def titled(image, title):
    """The image under a title: [H + h, W, 3] uint8 RGB. A title that is too long is cut."""
    canvas = rgb_uint8(image)
    height, width = canvas.shape[:2]
    font = font_of(int(np.clip((height + width) / 60, 10, 60)))
    margin = font.size // 3
    strip = Image.new("RGB", (width, sum(font.getmetrics()) + margin), (255, 255, 255))
    ImageDraw.Draw(strip).text((margin, margin // 2), title, font=font, fill=(30, 30, 30))
    return np.concatenate([np.array(strip), canvas])


def grid(images, columns, *, padding=4):
    """The images as one sheet, row by row on white; smaller ones are centred in their cells.

    Args:
        images: a list of images.
        columns: images in a row.
        padding: pixels between them.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        DrawingError: there are no images or no columns.
    """
    images = [rgb_uint8(image) for image in images]
    if not images or columns < 1:
        raise DrawingError(
            f"expected images for at least one column, received {len(images)} images for {columns} columns"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    sheet = np.full((rows * (height + padding) + padding, columns * (width + padding) + padding, 3), 255, np.uint8)
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        y = padding + i // columns * (height + padding) + (height - h) // 2
        x = padding + i % columns * (width + padding) + (width - w) // 2
        sheet[y : y + h, x : x + w] = image
    return sheet


def gallery(images, columns, width, *, padding=4):
    """The images as one sheet, each row scaled to fill the width.

    Args:
        images: a list of images.
        columns: images in a row.
        width: of the sheet, in pixels.
        padding: pixels between the images.

    Returns:
        [H, width, 3] uint8 RGB.

    Raises:
        DrawingError: there are no images.
    """
    images = [rgb_uint8(image) for image in images]
    lines = [images[i : i + columns] for i in range(0, len(images), columns)]
    if not lines:
        raise DrawingError(f"expected images for a gallery, received none for {columns} columns")
    sheet = [np.full((padding, width, 3), 255, np.uint8)]
    for line in lines:
        room = width - padding * (len(line) + 1)
        shapes = np.array([image.shape[1] / image.shape[0] for image in line])
        edges = np.round(np.concatenate([[0], np.cumsum(shapes)]) * room / shapes.sum()).astype(int)
        height = max(1, round(room / shapes.sum()))
        row = np.full((height + padding, width, 3), 255, np.uint8)
        for n, image in enumerate(line):
            x = padding * (n + 1) + edges[n]
            size = max(1, edges[n + 1] - edges[n]), height
            shrinks = size[0] < image.shape[1]
            row[:height, x : x + size[0]] = cv2.resize(
                image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        sheet.append(row)
    return np.concatenate(sheet)
