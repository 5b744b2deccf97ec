"""Drawn images: boxes, ground truth, matches.

Images are [H, W, 3] uint8 RGB; grey ones ([H, W], [H, W, 1]) and floats in 0..1 are taken too. All functions return new
images.
"""

import colorsys
import os
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfyolo.structures import IGNORE
from tfyolo.visualize.image_files import rgb_uint8

FOUND, WRONG, MISSED, IGNORED = (32, 178, 90), (226, 48, 52), (255, 170, 20), (130, 140, 158)  # a match's colours
COVERED = 0.25  # of an image, by tags: after that, boxes have none, the least important first
LEGEND = {"found": FOUND, "wrong": WRONG, "missed": MISSED, "ignored": IGNORED}


# --- boxes on images --------------------------------------------------------------------------------------------------


def draw(image, boxes, labels, scores, classes):
    """Draws a box for every detection, with its class and score on a tag.

    Args:
        image: the image.
        boxes: [D, 4] (y1, x1, y2, x2) in pixels of the image.
        labels: [D], -1 for padding.
        scores: [D], 0..1; None for ground truth.
        classes: names in label order.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    labels = np.asarray(labels, int)
    order = range(len(labels)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    marks = [
        (boxes[i], color(labels[i]), _tag(labels[i], None if scores is None else scores[i], classes))
        for i in order
        if labels[i] >= 0
    ]
    return _draw(image, marks)


def draw_ground_truth(image, boxes, labels, ignored, classes):
    """Draws the ground truth, with the classes on tags; ignored boxes are grey, without a tag.

    Args:
        image: the image.
        boxes: [M, 4] (y1, x1, y2, x2) in pixels of the image.
        labels: [M].
        ignored: [M] bool.
        classes: names in label order.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    marks = [
        (box, IGNORED, None) if skip else (box, color(label), _tag(label, None, classes))
        for box, label, skip in zip(boxes, labels, ignored, strict=True)
    ]
    return _draw(image, sorted(marks, key=lambda mark: mark[1] == IGNORED))


def draw_matches(image, gt_boxes, gt_labels, ignored, boxes, labels, scores, classes, gt_index):
    """Draws detections against the ground truth: found, wrong, missed and ignored, in four colours with a legend.

    Args:
        image: the image.
        gt_boxes: [M, 4] (y1, x1, y2, x2) of the ground truth, in pixels of the image.
        gt_labels: [M].
        ignored: [M] bool, ground truth that counts neither way.
        boxes: [D, 4] of the detections; without rows of padding.
        labels: [D].
        scores: [D], 0..1.
        classes: names in label order.
        gt_index: [D], of evaluation.matching.match.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    gt_index = np.asarray(gt_index, int)
    missed = np.setdiff1d(np.flatnonzero(~np.asarray(ignored, bool)), gt_index)
    marks = [(gt_boxes[m], IGNORED, None) for m in np.flatnonzero(ignored)]
    marks += [(gt_boxes[m], MISSED, _tag(gt_labels[m], None, classes)) for m in missed]
    for d in np.argsort(-np.asarray(scores), kind="stable"):
        shade = FOUND if gt_index[d] >= 0 else IGNORED if gt_index[d] == IGNORE else WRONG
        marks.append((boxes[d], shade, _tag(labels[d], scores[d], classes)))
    # Errors come first, so that they lie on top.
    rank = [WRONG, MISSED, FOUND, IGNORED]
    return _draw(image, sorted(marks, key=lambda mark: rank.index(mark[1])), LEGEND)


def color(label):
    """(r, g, b) 0..255 of a class: always the same, far from those of the classes before it, legible on white."""
    # Steps of the golden ratio never come close to an earlier hue; every round is a little darker or paler.
    hue = (0.02 + label * 0.618034) % 1
    saturation, value = [(0.85, 0.95), (0.60, 1.0), (0.90, 0.72)][label // 12 % 3]
    rgb = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    return tuple(round(v) for v in (rgb * min(1, 150 / _luma(rgb))).tolist())


def _tag(label, score, classes):
    name = classes[label] if 0 <= label < len(classes) else f"class {label}"
    return name if score is None else f"{name} {score:.2f}"


def _draw(image, marks, legend=None):
    """marks: (box, colour, text or None), the most important first."""
    canvas = rgb_uint8(image)
    height, width = canvas.shape[:2]
    line = round(0.85 + (height + width) / 700)  # 1 on a thumbnail, 2 on 640 x 480, 6 on 2000 x 1500
    marks = [(corners, shade, text) for box, shade, text in marks if (corners := _corners(box, height, width))]
    for (y1, x1, y2, x2), shade, _ in reversed(marks):
        t = min(line, y2 - y1, x2 - x1)
        canvas[y1 : y1 + t, x1:x2] = canvas[y2 - t : y2, x1:x2] = shade
        canvas[y1:y2, x1 : x1 + t] = canvas[y1:y2, x2 - t : x2] = shade
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = font_of(int(np.clip((height + width) / 80, 9, 60)))
    taken = []
    if legend:
        _legend(pen, font, legend, height, width, taken)
    tags = []
    for corners, _, text in marks:
        covered = sum((y2 - y1) * (x2 - x1) for y1, x1, y2, x2 in taken)
        full = covered > COVERED * height * width
        tags.append(None if full else _place(font, text, corners, line, height, width, taken))
    for (_, shade, text), tag in reversed(list(zip(marks, tags, strict=True))):
        if tag:
            y1, x1, y2, x2 = tag
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=shade)
            pen.text((x1 + line, y1 + line // 2), text, font=font, fill=_ink(shade))
    return np.array(picture)


def _corners(box, height, width):
    """Pixel rows and columns that a box covers; None if it lies outside."""
    box = np.asarray(box, np.float64)
    if not np.isfinite(box).all() or box[2] < 0 or box[3] < 0 or box[0] > height or box[1] > width:
        return None
    y1, x1, y2, x2 = (int(v) for v in np.clip(np.round(box), 0, [height - 1, width - 1, height, width]))
    return y1, x1, max(y2, y1 + 1), max(x2, x1 + 1)


def _place(font, text, corners, line, height, width, taken):
    """Where a tag goes: above its box, or where it hides no other tag; None if there is no such place."""
    if not text:
        return None
    tag_height, tag_width = sum(font.getmetrics()) + line, round(font.getlength(text)) + 2 * line
    if tag_height > height or tag_width > width:
        return None
    y1, x1, y2, x2 = corners
    places = [(y, x) for x in (x1, x2 - tag_width) for y in (y1 - tag_height, y1, y2, y2 - tag_height)]
    places = [(min(max(y, 0), height - tag_height), min(max(x, 0), width - tag_width)) for y, x in places]

    def hides(place):
        y, x = place
        sides = ((min(y + tag_height, b) - max(y, t), min(x + tag_width, r) - max(x, left)) for t, left, b, r in taken)
        return sum(max(h, 0) * max(w, 0) for h, w in sides)

    y, x = min(places, key=hides)
    if hides((y, x)) > tag_height * tag_width / 3:
        return None
    taken.append((y, x, y + tag_height, x + tag_width))
    return taken[-1]


def _legend(pen, font, legend, height, width, taken):
    ascent, descent = font.getmetrics()
    side = ascent + descent
    tag_width = sum(round(font.getlength(name)) + 2 * side for name in legend)
    if tag_width > width or 4 * side > height:
        return
    y, x = height - side - side // 2, 0
    taken.append((y, x, height, tag_width))
    pen.rectangle((x, y, tag_width, height), fill=(255, 255, 255))
    for name, shade in legend.items():
        pen.rectangle((x + side // 2, y + side // 2, x + side, y + side), fill=shade)
        pen.text((x + side + side // 4, y + side // 4), name, font=font, fill=(30, 30, 30))
        x += round(font.getlength(name)) + 2 * side


def _ink(shade):
    """Black or white, whichever reads better on a colour."""
    return (0, 0, 0) if _luma(shade) > 130 else (255, 255, 255)


def _luma(rgb):
    return np.dot(rgb, (0.299, 0.587, 0.114))  # ITU-R BT.601


@lru_cache(maxsize=32)
def font_of(size):
    """A font for PIL, of letters so many pixels high."""
    try:
        import matplotlib
    except ImportError:  # on a device: Pillow's own knows fewer scripts
        return ImageFont.load_default(size)
    # OpenCV's fonts know ASCII only; this one comes with matplotlib and knows most scripts of Europe and more.
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
