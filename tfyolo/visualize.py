"""Pictures: boxes drawn on images, maps laid over them, and the figures of training and evaluation.

Images are [H, W, 3] uint8 RGB; grey ones ([H, W], [H, W, 1]) and floats in 0..1 are taken too. All return new images.
"""

import csv
import io
import itertools
import os
import warnings
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from tfyolo import checkpoint
from tfyolo.files import read_regular
from tfyolo.structures import IGNORE

FOUND, WRONG, MISSED, IGNORED = (32, 178, 90), (226, 48, 52), (255, 170, 20), (130, 140, 158)  # a match's colours
COVERED = 0.25  # of a picture, by tags: after that, boxes have none, the least important first
LEGEND = {"found": FOUND, "wrong": WRONG, "missed": MISSED, "ignored": IGNORED}


class PictureError(ValueError):
    """Something cannot be drawn or saved. The message says what was expected and what came."""


# ------------------------------------------------------------------------------------------------------ boxes on images


def draw(image, boxes, labels, scores, classes):
    """The image with a box, and its class and score on a tag, for every detection: [H, W, 3] uint8.

    boxes: [D, 4] in pixels of the image. labels: [D], -1 for padding. scores: [D], None for truths. classes: names.
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
    """The image with its labelled boxes [M, 4] and their classes; those that are `ignored`, [M] bool, in grey, without a tag."""
    marks = [
        (box, IGNORED, None) if skip else (box, color(label), _tag(label, None, classes))
        for box, label, skip in zip(boxes, labels, ignored, strict=True)
    ]
    return _draw(image, sorted(marks, key=lambda mark: mark[1] == IGNORED))


def draw_matches(image, truth_boxes, truth_labels, ignored, boxes, labels, scores, classes, gt_index):
    """The image with what was found, is wrong, was missed and does not count, in four colours with a legend.

    truth_boxes [M, 4], truth_labels [M], ignored [M] bool: those that count neither way; boxes [D, 4], labels [D], scores [D];
    gt_index [D] is what evaluation.match says of them. No rows of padding.
    """
    gt_index = np.asarray(gt_index, int)
    missed = np.setdiff1d(np.flatnonzero(~np.asarray(ignored, bool)), gt_index)
    marks = [(truth_boxes[m], IGNORED, None) for m in np.flatnonzero(ignored)]
    marks += [(truth_boxes[m], MISSED, _tag(truth_labels[m], None, classes)) for m in missed]
    for d in np.argsort(-np.asarray(scores), kind="stable"):
        shade = FOUND if gt_index[d] >= 0 else IGNORED if gt_index[d] == IGNORE else WRONG
        marks.append((boxes[d], shade, _tag(labels[d], scores[d], classes)))
    # Errors are what one looks for: they stand first, so on top.
    rank = [WRONG, MISSED, FOUND, IGNORED]
    return _draw(image, sorted(marks, key=lambda mark: rank.index(mark[1])), LEGEND)


def enlarged(image, *boxes, side=480):
    """(image, *boxes), a small image with its boxes [., 4] made so large that its longer side has `side` pixels.

    Tags have letters of a size that can be read: on 96 x 96 pixels they would cover all there is to see.
    """
    canvas = _canvas(image)
    return (canvas, *boxes) if max(canvas.shape) >= side else resized(canvas, *boxes, side=side)


def resized(image, *boxes, side):
    """(image, *boxes), an image with its boxes [., 4] whose longer side then has `side` pixels."""
    canvas = _canvas(image)
    height, width = canvas.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    factors = np.array([size[1] / height, size[0] / width] * 2)
    canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
    return canvas, *(np.asarray(each, np.float64).reshape(-1, 4) * factors for each in boxes)


def color(label):
    """(r, g, b) 0..255 of a class: always the same, far from those of the classes before it, legible on white."""
    # Steps of the golden ratio never come close to an earlier hue; every round is a little darker or paler.
    hue = (0.02 + label * 0.618034) % 1
    saturation, value = [(0.85, 0.95), (0.60, 1.0), (0.90, 0.72)][label // 12 % 3]
    rgb = 255 * hsv_to_rgb((hue, saturation, value))
    return tuple(round(v) for v in (rgb * min(1, 150 / _luma(rgb))).tolist())


def _tag(label, score, classes):
    name = classes[label] if 0 <= label < len(classes) else f"class {label}"
    return name if score is None else f"{name} {score:.2f}"


def _draw(image, marks, legend=None):
    """marks: (box, colour, text or None), the most important first."""
    canvas = _canvas(image)
    height, width = canvas.shape[:2]
    line = round(0.85 + (height + width) / 700)  # 1 on a thumbnail, 2 on 640 x 480, 6 on 2000 x 1500
    marks = [(corners, shade, text) for box, shade, text in marks if (corners := _corners(box, height, width))]
    for (y1, x1, y2, x2), shade, _ in reversed(marks):
        t = min(line, y2 - y1, x2 - x1)
        canvas[y1 : y1 + t, x1:x2] = canvas[y2 - t : y2, x1:x2] = shade
        canvas[y1:y2, x1 : x1 + t] = canvas[y1:y2, x2 - t : x2] = shade
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(int(np.clip((height + width) / 80, 9, 60)))
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
def _font(size):
    # OpenCV's fonts know ASCII only; this one comes with matplotlib and knows most scripts of Europe and more.
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _canvas(image):
    """A copy as [H, W, 3] uint8."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise PictureError(f"expected an image [H, W, 3], [H, W, 1] or [H, W], received {list(image.shape)}")
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating):
            raise PictureError(f"expected an image of uint8, or of floats in 0..1, received {image.dtype}")
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)))


# ------------------------------------------------------------------------------------------------------ maps and sheets


def heatmap(image, values):
    """A map [h, w] in 0..1, such as objectness, laid over the image that it was made of: [H, W, 3] uint8."""
    canvas = _canvas(image)
    height, width = canvas.shape[:2]
    values = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1)
    values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    colors = matplotlib.colormaps["inferno"](values)[..., :3] * 255
    grey = canvas.mean(axis=-1, keepdims=True)
    weight = 0.35 + 0.5 * values[..., None]
    return np.round(grey * (1 - weight) + colors * weight).astype(np.uint8)


def titled(image, title):
    """The image under a line that says what it is: [H + h, W, 3] uint8. A title that is too long is cut."""
    canvas = _canvas(image)
    height, width = canvas.shape[:2]
    font = _font(int(np.clip((height + width) / 60, 10, 60)))
    margin = font.size // 3
    strip = Image.new("RGB", (width, sum(font.getmetrics()) + margin), (255, 255, 255))
    ImageDraw.Draw(strip).text((margin, margin // 2), title, font=font, fill=(30, 30, 30))
    return np.concatenate([np.array(strip), canvas])


def grid(images, columns, *, padding=4):
    """The images as one sheet, row by row on white; smaller ones stand amid their places: [H, W, 3] uint8."""
    images = [_canvas(image) for image in images]
    if not images or columns < 1:
        raise PictureError(
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
    """The images as one sheet, so many in a row, each row scaled to fill the width: [H, width, 3] uint8."""
    images = [_canvas(image) for image in images]
    lines = [images[i : i + columns] for i in range(0, len(images), columns)]
    if not lines:
        raise PictureError(f"expected images for a gallery, received none for {columns} columns")
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


def save(path, image):
    """Writes an image as its file's suffix says (.png, .jpg, ...): complete or not at all; the folder is made."""
    path = Path(path)
    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(_canvas(image), cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise PictureError(
            f"{path}: expected a suffix that says how to write it, such as .png or .jpg, received {path.suffix!r}"
        )
    _write(path, encoded.tobytes())


def _write(path, contents):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.atomic(path) as aside:
        aside.write_bytes(contents)


# -------------------------------------------------------------------------------------------------------------- figures

FEW = 12  # as many classes get a colour and a line in the legend; more are drawn thin and grey


def pr_curves(curves, classes, path):
    """Precision against recall at IoU 0.5, a line a class and their mean. curves: evaluation.Curves."""
    figure, axes = _axes("Precision and recall at IoU 0.5", "recall", "precision")
    known = curves.precision[~np.isnan(curves.precision).any(axis=1)]
    mean = known.mean(axis=0) if len(known) else np.full(len(curves.recall), np.nan)
    _class_lines(axes, curves.recall, curves.precision, classes, lambda row: f"AP50 {row.mean():.3f}", ("mean", mean))
    _write_figure(figure, path)


def f1_curves(curves, classes, path):
    """F1 at IoU 0.5 against the least score that counts, a line a class and all pooled. curves: evaluation.Curves."""
    figure, axes = _axes("F1 and score at IoU 0.5", "least score that counts", "F1")

    def best(row):
        places = np.flatnonzero(row == row.max())  # a plateau, as a rule: its middle, as in evaluation.Report
        return f"{row.max():.3f} at {curves.scores[places[len(places) // 2]]:.3f}"

    _class_lines(axes, curves.scores, curves.f1, classes, best, ("all", curves.f1_all))
    _write_figure(figure, path)


def _axes(title, xlabel, ylabel):
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), title=title)
    _style(axes, xlabel, ylabel)
    return figure, axes


def _class_lines(axes, x, rows, classes, told, whole):
    """A line for each class that has truths, with what is told of it; `whole` (name, row) is that of all classes."""
    known = [(color(k), name, row) for k, (name, row) in enumerate(zip(classes, rows, strict=True)) if row[0] == row[0]]
    few = len(known) <= FEW
    for n, (shade, name, row) in enumerate(known):
        look = {"color": np.divide(shade, 255), "linewidth": 1.5} if few else {"color": "0.82", "linewidth": 0.7}
        axes.plot(x, row, **look, label=f"{name}  {told(row)}" if few else f"{len(known)} classes" if n == 0 else None)
    if len(known) != 1:
        name, row = whole
        axes.plot(x, row, color="black", linewidth=2.5, label=f"{name}  {told(row)}" if known else "no truths")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


MOST, WORST = 25, 20  # classes that a confusion matrix can show at most; of more, those with most errors


def confusion_matrix(matrix, score, classes, path):
    """Ground truth (rows) against predictions (columns): [K+1, K+1] at a confidence threshold, as in evaluation.Report.

    Coloured by the share of a class's objects; in the last row, by the share of its predictions. Classes that do not occur are left out; of
    more than MOST, the WORST with most errors are shown.
    """
    matrix = np.asarray(matrix)
    objects, predictions = matrix.sum(axis=1), matrix.sum(axis=0)
    share = matrix / np.maximum(objects, 1)[:, None]
    share[-1] = matrix[-1] / np.maximum(predictions, 1)
    K = len(classes)
    there = np.flatnonzero((objects + predictions)[:K])
    told = "" if len(there) == K else f"{len(there)} of {K} classes occur"
    if len(there) > MOST:
        errors = (objects + predictions - 2 * np.diagonal(matrix))[there]
        there = np.sort(there[np.argsort(-errors, kind="stable")[:WORST]])
        told = f"the {WORST} with most errors of {K} classes"
    shown = np.append(there if len(there) else np.arange(min(K, MOST)), K)
    matrix, share, names = matrix[np.ix_(shown, shown)], share[np.ix_(shown, shown)], [classes[k] for k in shown[:-1]]

    side = float(np.clip(2 + 0.45 * len(shown), 4, 14))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the row's objects; last row: of the column's predictions", fontsize=8)
    axes.set_xticks(range(len(shown)), [*names, "missed"], rotation=0 if len(names) <= 3 else 90, fontsize=9)
    axes.set_yticks(range(len(shown)), [*names, "background"], fontsize=9)
    for i, j in np.argwhere(matrix):
        ink = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, matrix[i, j], ha="center", va="center", color=ink, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(
        f"Confusion at IoU 0.5, confidence threshold {score:.3f}" + (f"\n{told}" if told else ""), fontsize=11
    )
    _write_figure(figure, path)


def scatter(path, points, x, y):
    """Named points {name: (x, y)} and what the axes are."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    _style(axes, x, y)
    for k, (name, point) in enumerate(points.items()):
        axes.plot(*point, "o", color=np.divide(color(k), 255))
        axes.annotate(name, point, xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.set_xlim(0, 1.3 * max(point[0] for point in points.values()))
    _write_figure(figure, path)


MOST_HISTORY = 1 << 28  # bytes


def read_history(path):
    """The rows of a run's history.csv: [{column: text}], of each an epoch, and of all else numbers where there are any.

    Raises:
        PictureError: the file is something else, or damaged.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path, MOST_HISTORY).decode("utf-8-sig"), newline="")))
        for row in rows:
            int(row["epoch"]), [float(value) for value in row.values() if value]
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = None
    if not rows:
        received = "a damaged file, or another" if rows is None else "0 rows"
        raise PictureError(f"{path}: expected a run's history.csv with a row an epoch, received {received}")
    return rows


def training_curves(history, path):
    """Loss terms, learning rate and AP over the epochs. history: the history.csv of a run."""
    rows = read_history(history)

    def column(name):
        """Epochs and values where there is one."""
        known = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        return np.array(known).reshape(-1, 2).T

    terms = [name for name in rows[0] if name.startswith("loss")]
    panels = {"loss": terms, "AP": ["AP50", "AP", "AP75"], "learning rate": ["lr"]}
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 3, sharex=True), panels.items(), strict=True):
        _style(axes, "epoch", "")
        axes.set_title(title)
        for k, name in enumerate(names):
            x, y = column(name)
            look = {"color": "black", "linewidth": 2.2} if name == "loss" else {"color": np.divide(color(k), 255)}
            marker = "o" if len(x) < 40 else None
            axes.plot(x, y, **look, marker=marker, markersize=3, label=name.removeprefix("loss_"))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=9)
        for before, after in itertools.pairwise(rows):
            if before["stage"] != after["stage"]:
                axes.axvline(float(after["epoch"]) - 0.5, color="0.6", linewidth=1, linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1 if title == "AP" else None)
    _write_figure(figure, path)


PART_COLOURS = {"backbone": "#d7e3f4", "neck": "#dcefdc", "head": "#fbe3cf"}


def stages(walk, path):
    """A detector as boxes (its stages) and arrows (what each reads). walk: of tfyolo.walk.

    From left to right the backbone, the neck, a column for each time it turns round, and the head; finer levels stand higher.
    """
    rows = {row["stage"]: row for row in walk["stages"]}
    columns, column, previous, direction = {}, 0, None, 0
    for name, row in rows.items():
        part, stride = name.partition(".")[0], row["stride"] or 1e9
        if previous and part != previous[0]:
            column, direction = column + 1, 0
        elif part == "neck" and stride != previous[1]:
            turn = 1 if stride > previous[1] else -1
            column, direction = column + (direction not in (0, turn)), turn
        columns[name], previous = column, (part, stride)
    # A level is as high as its fullest column; what stands in one column at one level stands in the order it is read.
    levels = sorted({row["stride"] or 1e9 for row in rows.values()})
    groups = {}
    for name, row in rows.items():
        groups.setdefault((levels.index(row["stride"] or 1e9), columns[name]), []).append(name)
    heights = [max(len(names) for (level, _), names in groups.items() if level == i) for i in range(len(levels))]
    tops = [sum(heights[:i]) + 0.35 * i for i in range(len(levels))]
    places = {"images": (0.0, -1.0)}
    for (level, column), names in groups.items():
        # Upwards where the neck goes from coarse to fine.
        upwards = rows[names[0]]["inputs"] and any(
            (rows[source]["stride"] or 1e9) > levels[level] for source in rows[names[0]]["inputs"] if source in rows
        )
        for k, name in enumerate(reversed(names) if upwards else names):
            places[name] = (float(column), tops[level] + k)
    bottom = tops[-1] + heights[-1]
    figure = Figure(figsize=(3.1 * (column + 1) + 0.8, 0.62 * (bottom + 2)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, column + 0.5), ylim=(bottom + 0.2, -1.8))
    axes.axis("off")
    axes.set_title(
        f"{walk['name']}: {walk['parameters']:,} parameters, {walk['flops'] / 1e9:.2f} GFLOPs at "
        f"{walk['input_size'][0]} x {walk['input_size'][1]}; {walk['candidates']:,} candidates",
        fontsize=11,
    )
    boxes = {}
    for name, (x, y) in places.items():
        row = rows.get(name, {"output": [*walk["input_size"], 3]})
        told = [" x ".join(map(str, row["output"]))]
        if row.get("parameters"):
            told.append(f"{row['parameters']:,}")
        if row.get("gradient_norm") is not None:
            told.append(f"gradient {row['gradient_norm']:.2g}")
        colour = PART_COLOURS.get(name.partition(".")[0], "white")
        look = {"boxstyle": "round,pad=0.3", "facecolor": colour, "edgecolor": "0.55", "linewidth": 0.8}
        text = f"{name}\n{'   '.join(told)}"
        boxes[name] = axes.text(x, y, text, ha="center", va="center", fontsize=7.5, linespacing=1.4, bbox=look)
    for name, row in rows.items():
        for source in row["inputs"]:
            (x0, y0), (x1, y1) = places[source], places[name]
            between = any(x == x0 == x1 and min(y0, y1) < y < max(y0, y1) for x, y in places.values())
            look = {"arrowstyle": "-|>", "color": "0.45", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
            look |= {"patchA": boxes[source].get_bbox_patch(), "patchB": boxes[name].get_bbox_patch()}
            look["connectionstyle"] = f"arc3,rad={0.35 if between else 0}"
            axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=look)
    _write_figure(figure, path)


def _style(axes, xlabel, ylabel):
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _write_figure(figure, path):
    buffer, kind = io.BytesIO(), Path(path).suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise PictureError(
            f"{path}: expected a suffix that says how to write it, such as .png or .svg, received {kind!r}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class named in a script that the font lacks
        figure.savefig(buffer, format=kind, dpi=110, bbox_inches="tight")
    _write(path, buffer.getvalue())
