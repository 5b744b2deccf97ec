"""The demo data set, drawn and seeded: five kinds of figures to be found among clutter, as COCO JSON.

Figures vary in size, turn, colour and filling, hide each other in part and leave the image in part; backgrounds are
noise, gradients, stripes and checks; lines, specks, scraps and scrawls distract; some images are grey, some hold no
figure.
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tfyolo.errors import Error
from tfyolo.files import atomic_file, local

CLASSES = ("cross", "disc", "ring", "star", "triangle")
VERSION = 1  # of what is drawn: the same version, numbers and seed give the same bytes
VISIBLE = 0.75  # the part of a figure that is never hidden by others or by the image's edge
FINE = 4  # subpixels a side


class DemoError(Error):
    """The demo data set cannot be written. The message says why and what to do."""


def write(folder, *, train=400, val=100, test=100, size=(176, 320), seed=0, progress=True) -> Path:
    """Draws the data set as annotations/instances_<split>.json and <split>/*.jpg.

    Args:
        folder: where to; left alone if it holds the same already. It appears only when it is complete.
        train: how many images the split has.
        val: the same.
        test: the same.
        size: the least and the largest side of an image, in pixels.
        seed: of all chance.
        progress: shows a bar on standard error.

    Returns:
        The folder.

    Raises:
        DemoError: the folder holds something else, or there would be no images.
    """
    folder = local(folder)
    counts = {split: count for split, count in (("train", train), ("val", val), ("test", test)) if count}
    description = json.dumps({"version": VERSION, "pictures": counts, "size": size, "seed": seed})
    if not counts or min(counts.values()) < 0 or not 64 <= size[0] <= size[1]:
        raise DemoError(f"expected some images, of sides from 64 pixels; received {counts or 'none'}, sides {size}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        marker = folder / "demo.json"
        if marker.is_file() and marker.read_text() == description:
            return folder
        raise DemoError(f"{folder} holds something else already; expected a new folder, or one of the same demo data")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder) as drawn:
        (drawn / "annotations").mkdir(parents=True)
        total = sum(counts.values())
        with tqdm(total=total, desc="drawing the demo data", unit="images", disable=not progress or None) as bar:
            for split, count in counts.items():
                _write_split(drawn, split, count, size, [seed, *split.encode()], bar)
        (drawn / "demo.json").write_text(description)
    return folder


def _write_split(folder, split, count, size, seed, bar):
    rng = np.random.default_rng(seed)
    numbers = rng.choice(np.arange(7), count, p=[0.04, 0.14, 0.22, 0.24, 0.18, 0.12, 0.06])
    deck = rng.permutation(np.arange(numbers.sum()) % len(CLASSES))  # as many of each
    images, annotations = [], []
    (folder / split).mkdir()
    for index, labels in enumerate(np.split(deck, np.cumsum(numbers)[:-1])):
        image, figures = draw(np.random.default_rng([*seed, index]), labels, size)
        name = f"{index:05d}.jpg"
        quality = int(rng.integers(70, 96))
        _, encoded = cv2.imencode(".jpg", image[..., ::-1] if image.ndim == 3 else image, [1, quality])
        (folder / split / name).write_bytes(encoded.tobytes())
        images.append({"id": index + 1, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for label, (y1, x1, y2, x2), area in figures:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": 0,
                }
            )
        bar.update()
    content = {
        "info": {"description": "tfyolo's demo data: drawn figures", "version": str(VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


# --- one image --------------------------------------------------------------------------------------------------------


def draw(rng, labels, size):
    """Draws an image with a figure of each label.

    A figure that finds no place where it, and those before it, stay visible, is left out.

    Args:
        rng: numpy.random.Generator.
        labels: of the figures.
        size: the least and the largest side, in pixels.

    Returns:
        ([H, W, 3] uint8 RGB or [H, W] grey, [(label, (y1, x1, y2, x2), area)] in pixels).
    """
    H, W = rng.integers(size[0], size[1] + 1, 2)
    canvas = _bytes(_background(rng, H, W))
    _clutter(rng, canvas)
    canvas = np.float32(canvas) / 255
    grey = rng.random() < 0.08
    if grey:
        canvas = canvas.mean(axis=2, keepdims=True).repeat(3, axis=2)
    owner = np.full([H, W], -1)
    figures = []
    for label in labels:
        for _ in range(12):
            alpha, top, left, whole = _figure(rng, label, H, W)
            solid = alpha >= 0.5
            y, x = slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1])
            hidden = np.bincount(owner[y, x][solid] + 1, minlength=len(figures) + 1)[1:]
            left_over = [figure["seen"] - lost for figure, lost in zip(figures, hidden, strict=True)]
            if solid.sum() < VISIBLE * whole or any(
                seen < VISIBLE * figure["whole"] for seen, figure in zip(left_over, figures, strict=True)
            ):
                continue
            for figure, seen in zip(figures, left_over, strict=True):
                figure["seen"] = seen
            owner[y, x][solid] = len(figures)
            _paint(rng, canvas[y, x], alpha, grey)
            rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
            box = top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1
            figures.append({"label": int(label), "box": tuple(map(int, box)), "whole": whole, "seen": int(solid.sum())})
            break
    image = _bytes(_lens(rng, canvas))
    return image[..., 0] if grey else image, [
        (figure["label"], figure["box"], int(figure["seen"])) for figure in figures
    ]


def _lens(rng, canvas):
    """Blur and noise."""
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.0))
    return canvas + rng.normal(0, rng.uniform(0, 0.03), canvas.shape)


def _bytes(image):
    return np.uint8(np.clip(image, 0, 1) * 255 + 0.5)


def _colour(rng, saturation=(0.25, 1.0), value=(0.15, 1.0)):
    hsv = np.float32([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def _ramp(rng, H, W):
    """[H, W, 1] from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    along = math.sin(angle) * np.arange(H)[:, None] / H + math.cos(angle) * np.arange(W)[None] / W
    return np.float32((along - along.min()) / max(np.ptp(along), 1e-6))[..., None]


def _stripes(rng, H, W, period):
    """[H, W, 1] of 0 and 1, soft at the borders."""
    angle = rng.uniform(0, math.pi)
    along = math.sin(angle) * np.arange(H)[:, None] + math.cos(angle) * np.arange(W)[None]
    wave = np.sin(2 * math.pi * along / period + rng.uniform(0, 6))
    return np.float32(np.clip(0.5 + 2 * wave, 0, 1))[..., None]


def _noise(rng, H, W):
    """[H, W, 3] of smooth noise at several scales, in about -1..1."""
    noise = np.zeros([H, W, 3], np.float32)
    for cells in (3, 8, 24, 64):
        coarse = rng.normal(0, 0.5, [cells, cells, 1 if rng.random() < 0.5 else 3]).astype(np.float32)
        fine = cv2.resize(coarse, (int(W), int(H)), interpolation=cv2.INTER_CUBIC).reshape(H, W, -1)
        noise += rng.uniform(0.1, 1.0) * fine
    return noise


def _background(rng, H, W):
    one, two = (_colour(rng, (0.0, 0.6), (0.15, 0.95)) for _ in range(2))
    kind = rng.integers(4)
    if kind == 0:
        mix = np.full([H, W, 1], rng.random(), np.float32)
    elif kind == 1:
        mix = _ramp(rng, H, W)
    elif kind == 2:
        mix = _stripes(rng, H, W, rng.uniform(8, 60)) * rng.uniform(0.3, 1.0)
    else:
        period = rng.uniform(16, 60)
        mix = abs(_stripes(rng, H, W, period) - _stripes(rng, H, W, period)) * rng.uniform(0.3, 1.0)
    return one * (1 - mix) + two * mix + rng.uniform(0.02, 0.12) * _noise(rng, H, W)


def _clutter(rng, canvas):
    """Draws, in place, things that are no figures: lines, specks, thin scraps, scrawls."""
    H, W = canvas.shape[:2]
    side = min(H, W)
    for _ in range(rng.integers(0, 6)):
        colour = tuple(map(int, 255 * _colour(rng, (0.0, 1.0))))
        y, x = int(rng.integers(H)), int(rng.integers(W))
        kind = rng.integers(4)
        if kind == 0:
            end = int(rng.integers(W)), int(rng.integers(H))
            cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind == 1:
            for _ in range(rng.integers(3, 20)):
                at = np.clip(np.array([x, y]) + rng.normal(0, side / 10, 2), 0, [W - 1, H - 1])
                cv2.circle(canvas, tuple(map(int, at)), 1, colour, -1, cv2.LINE_AA)
        elif kind == 2:
            angles = np.cumsum(rng.uniform(0.2, 1.2, 7))
            reach = rng.uniform(0.1, 1.0, 7) * side * rng.uniform(0.05, 0.12)
            points = np.stack([x + 2.5 * reach * np.cos(angles), y + 0.4 * reach * np.sin(angles)], axis=1)
            cv2.fillPoly(canvas, [np.int32(points)], colour, cv2.LINE_AA)
        else:
            strokes = np.array([x, y]) + rng.uniform(-0.08, 0.08, [rng.integers(3, 6), 2]) * side
            cv2.polylines(canvas, [np.int32(strokes)], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


# --- one figure -------------------------------------------------------------------------------------------------------


def _spokes(*reach):
    """Corners at equal angles, at each distance in turn, on the unit circle: [n, 2]."""
    angles = np.arange(len(reach)) * 2 * math.pi / len(reach)
    return np.array(reach)[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def _cross(arm):
    """Corners of a plus sign whose arms are 2 and 2 * arm long and wide: [12, 2]."""
    corner = np.array([[arm, 1.0], [arm, arm], [1.0, arm]])
    return np.concatenate([corner, corner[::-1] * [1, -1], -corner, -corner[::-1] * [1, -1]])


_OUTLINES = {
    "cross": [_cross(0.36)],
    "disc": [_spokes(*[0.95] * 60)],
    "ring": [_spokes(*[1.0] * 60), _spokes(*[0.55] * 60)],  # the second is cut out
    "star": [_spokes(*[1.15, 0.48] * 5)],
    "triangle": [_spokes(1.1, 1.1, 1.1)],
}


def _figure(rng, label, H, W):
    """(alpha, its top and left in an image of H x W, pixels of the whole figure); alpha ends at the image's edge."""
    radius = math.sqrt(H * W) * math.exp(rng.uniform(math.log(0.085), math.log(0.25)))
    turn, stretch = rng.uniform(0, 2 * math.pi), math.exp(rng.uniform(-0.12, 0.12))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = radius * np.diag([stretch, 1 / stretch]) @ rotation.T
    half = math.ceil(1.4 * radius)
    mask = np.zeros([2 * half * FINE, 2 * half * FINE], np.float32)
    outlines = [(points @ matrix + half) * FINE for points in _OUTLINES[CLASSES[label]]]
    cv2.fillPoly(mask, [np.int32(outline[:, ::-1].round()) for outline in outlines], 1.0)
    alpha = cv2.resize(mask, (2 * half, 2 * half), interpolation=cv2.INTER_AREA)
    top = int(rng.uniform(-0.5 * radius, H + 0.5 * radius)) - half
    left = int(rng.uniform(-0.5 * radius, W + 0.5 * radius)) - half
    inside = alpha[max(-top, 0) : H - top, max(-left, 0) : W - left]
    return inside, max(top, 0), max(left, 0), int((alpha >= 0.5).sum())


def _paint(rng, canvas, alpha, grey):
    """Fills the figure, in place, with a colour that stands out from what is under it."""
    H, W = alpha.shape
    under = (canvas * alpha[..., None]).sum(axis=(0, 1)) / alpha.sum()
    candidates = np.stack([_colour(rng) for _ in range(8)])
    if grey:
        candidates = candidates.mean(axis=1, keepdims=True).repeat(3, axis=1)
    far = np.linalg.norm(candidates - under, axis=1)
    colour = candidates[np.argmax(far > 0.6)] if (far > 0.6).any() else candidates[far.argmax()]
    other = np.clip(colour + rng.uniform(-0.25, 0.25, 1 if grey else 3), 0, 1)
    kind = rng.integers(4)
    if kind == 0:
        fill = np.broadcast_to(colour, [H, W, 3])
    elif kind == 1:
        mix = _ramp(rng, H, W)
        fill = colour * (1 - mix) + other * mix
    elif kind == 2:
        mix = _stripes(rng, H, W, rng.uniform(6, 16))
        fill = colour * (1 - mix) + other * mix
    else:
        fill = colour + 0.12 * _noise(rng, H, W)
    if rng.random() < 0.4:
        rim = alpha - cv2.erode(alpha, np.ones([3, 3]), borderType=cv2.BORDER_REPLICATE)
        fill = fill * (1 - rim[..., None]) + rng.integers(2) * rim[..., None]
    canvas += alpha[..., None] * rng.uniform(0.85, 1.0) * (np.float32(fill) - canvas)
