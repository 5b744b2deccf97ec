"""Looks through a data set before anyone trains on it: every picture is decoded, every fault named by its file."""

import hashlib
import itertools
import json
import os
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo.data import anchors as clustering
from tfyolo.data import readers, write_tfrecords
from tfyolo.data.decoding import ImageError, decode_image, read_image, read_record
from tfyolo.data.geometry import scale_of
from tfyolo.data.headers import kind_of, surely_fits
from tfyolo.data.sources.place import meaning
from tfyolo.data.sources.source import TOLERANCE, DataError, Problem
from tfyolo.files import atomic_file, write_text
from tfyolo.messages import counted, listed, printable

FEW = 20  # boxes of a class below which it can hardly be learned
SHOWN = 30  # problems of a kind in the text; the JSON has them all
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "WebP": {".webp"},
    "TIFF": {".tif", ".tiff"},
}


class Split(NamedTuple):
    """What a split holds. boxes: {class: how many}, without crowds and difficult objects."""

    pictures: int
    empty: int  # pictures without boxes
    crowds: int
    boxes: dict[str, int]
    difficult: int = 0


class CheckReport(NamedTuple):
    """What was found. sizes: percentiles of the boxes' (h, w) once brought to `input_size`, {percent: (h, w)}."""

    name: str
    format: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    input_size: tuple[int, int]
    sizes: dict[int, tuple[float, float]]
    anchors: tuple[tuple[float, float], ...]
    fitness: clustering.Fitness | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that json.dumps takes."""
        fitness = self.fitness and self.fitness._replace(shares=self.fitness.shares.tolist())._asdict()
        return {
            **self._asdict(),
            "splits": {name: split._asdict() for name, split in self.splits.items()},
            "fitness": fitness,
            "problems": [problem._asdict() for problem in self.problems],
            "errors": len(self.errors),
            "warnings": len(self.warnings),
        }

    def __str__(self):
        splits, (H, W) = self.splits.values(), self.input_size
        totals = ["all"] if len(splits) > 1 else []
        head = ["", *self.splits, *totals]
        rows = [
            ["pictures", *(split.pictures for split in splits)],
            ["  without boxes", *(split.empty for split in splits)],
            ["boxes", *(sum(split.boxes.values()) for split in splits)],
            *([f"  {name}", *(split.boxes[name] for split in splits)] for name in self.classes),
            ["crowds", *(split.crowds for split in splits)],
            *(
                [["difficult", *(split.difficult for split in splits)]]
                if any(split.difficult for split in splits)
                else []
            ),
        ]
        rows = [head, *([*row, *(sum(row[1:]) for _ in totals)] for row in rows)]
        width = max(len(str(row[0])) for row in rows)
        lines = [f"{self.name}: {self.format}, {counted(len(self.classes), 'class')}", ""]
        lines += [
            str(row[0]).ljust(width)
            + "".join(f"{cell:>{max(len(name), 7) + 2}}" for cell, name in zip(row[1:], head[1:], strict=True))
            for row in rows
        ]
        if self.sizes:
            shown = ", ".join(f"{percent}% {h:.0f} x {w:.0f}" for percent, (h, w) in self.sizes.items())
            lines += ["", f"boxes (h x w) at {H} x {W}: {shown}"]
        if self.fitness:
            shares = ", ".join(
                f"{h:g} x {w:g} {share:.0%}" for (h, w), share in zip(self.anchors, self.fitness.shares, strict=True)
            )
            mean_iou, below_half, _ = self.fitness
            lines.append(f"anchors: mean best IoU {mean_iou:.3f}, below 0.5 for {below_half:.1%} of the boxes")
            lines += textwrap.wrap(f"best for: {shares}", 116, initial_indent="  ", subsequent_indent="  ")
        for kind, problems in (("error", self.errors), ("warning", self.warnings)):
            lines += ["", counted(len(problems), kind) if problems else f"no {kind}s"]
            lines += [f"  {problem.file}: {problem.message}" for problem in problems[:SHOWN]]
            if len(problems) > SHOWN:
                lines.append(f"  and {len(problems) - SHOWN} more, all of them in the JSON")
        return "\n".join(lines)


def check(
    path,
    *,
    input_size=None,
    preprocess="letterbox",
    anchors=None,
    out=None,
    progress=True,
    **options,
) -> CheckReport:
    """Reads all splits of the data set at `path`, and every picture in full. options: as of readers.DataSet.

    input_size: (H, W) that boxes are measured at, 416 x 416 if None. anchors: [(h, w)] in its pixels, to hold the boxes
    against. out: a folder for report.json and check.png, the summary as a picture. Raises DataError as `read` does.
    """
    input_size = tuple(input_size or (416, 416))
    anchors = tuple(tuple(map(float, anchor)) for anchor in anchors or ())
    dataset = readers.DataSet(path, **options)
    sources, problems = _sources(dataset)
    looks = _look_at_all(sources, progress)
    problems += [problem for found in looks.values() for look in found for problem in look.problems]
    problems += _twins(sources, looks)
    problems += _classes(sources)
    for name, source in sources.items():
        if all(record.ignored.all() for record in source.records):
            message = f"the split {name} has no boxes: nothing can be learned from it, and nothing judged by it"
            problems.append(Problem(os.fspath(path), message, "warning"))

    first = next(iter(sources.values()))
    sizes = np.concatenate([clustering.dataset_sizes(source, input_size, preprocess) for source in sources.values()])
    fitness = clustering.fitness(sizes, anchors) if anchors and len(sizes) else None
    if fitness and fitness.below_half > 0.1:
        message = (
            f"{fitness.below_half:.0%} of the boxes overlap no anchor by half; find better ones: tfyolo kmeans-anchors"
        )
        problems.append(Problem(os.fspath(path), message, "warning"))
    percent = (1, 25, 50, 75, 99)
    report = CheckReport(
        first.name,
        first.format,
        first.classes,
        {name: _split(source, first.classes) for name, source in sources.items()},
        input_size,
        dict(zip(percent, map(tuple, np.percentile(sizes, percent, axis=0).tolist()), strict=True))
        if len(sizes)
        else {},
        anchors,
        fitness,
        tuple(dict.fromkeys(problems)),
    )
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(report.to_json(), ensure_ascii=False, indent=1))
        with atomic_file(folder / "check.png") as aside:
            _summary(report, sources, sizes).savefig(aside, dpi=100)
    return report


def _sources(dataset):
    """({split: Source}, problems), without splits that say nothing new: unions, and those that are another by the data's own word."""
    format, sources, problems, failed = None, {}, [], None
    while format != dataset.format:  # which may give way to another while it is read
        format, sources, problems = dataset.format, {}, []
        for name in dataset.splits:
            try:
                sources[name] = dataset.read(name)
            except DataError as error:
                failed = failed or error
                problems.append(Problem(dataset.path, f"split {name}: {error}"))
            else:
                problems += sources[name].problems
            if format != dataset.format:
                break
    if not sources:
        raise failed
    for name, source in sources.items():
        if source.same_as:
            message = (
                f"the split {name} has the very pictures of {source.same_as}: it cannot tell how good a detector is"
            )
            problems.append(Problem(dataset.path, message, "warning"))
        if source.doubts:
            message = f"the split {name}: {source.doubts}; to learn from it all the same: data.background=true"
            problems.append(Problem(dataset.path, message, "warning"))
    if not any(meaning(name) == "val" for name in sources):
        message = f"no split to validate on, it has {', '.join(sources)}; data.val=0.1 holds back a tenth of what is learned from"
        problems.append(Problem(dataset.path, message, "warning"))
    sources = {name: source for name, source in readers.without_unions(sources).items() if not source.same_as}
    return sources, problems


class _Look(NamedTuple):
    digest: bytes | None
    problems: tuple[Problem, ...]


def _look_at_all(sources, progress):
    """{split: [_Look at each of its records]}."""
    pictures = [record for source in sources.values() for record in source.records]
    most_pixels = next(iter(sources.values())).max_pixels
    decoded = tqdm(
        _decode(pictures, most_pixels),
        total=len(pictures),
        desc="checking",
        unit="pictures",
        disable=not progress or None,
    )
    looks = (_look(record, *found) for record, found in zip(pictures, decoded, strict=True))
    return {name: list(itertools.islice(looks, len(source.records))) for name, source in sources.items()}


def _decode(pictures, most_pixels):
    """For each Record in turn: the first bytes of its picture, their digest, its (H, W), and what is wrong if it cannot be read, or "".

    A graph on all cores: TensorFlow's eager operations, called from several Python threads, have crashed (2.21).
    """

    def fetch(index):
        try:
            encoded = write_tfrecords.contents(pictures[index])
        except OSError:
            encoded = b""
        shown = encoded if surely_fits(encoded, most_pixels) else b""
        return shown, encoded[:8], hashlib.sha256(encoded).digest()

    def rescue(index):
        """What only read_image knows, or what is wrong."""
        try:
            return np.int32(read_image(write_tfrecords.contents(pictures[index]), most_pixels).shape[:2]), b""
        except ImageError as error:
            return np.zeros(2, np.int32), str(error).partition(": ")[
                2
            ].encode()  # it speaks of bytes, the problem names the file
        except OSError as error:
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

    found = tf.data.Dataset.range(len(pictures)).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return ((*told, tuple(size.tolist()), fault.decode()) for *told, size, fault in found.as_numpy_iterator())


def _look(record, head, digest, size, fault):
    where = f"{record.image_id}: " if record.span else ""
    problems = []

    def problem(message, severity="error"):
        problems.append(Problem(printable(record.path), printable(where + message), severity))

    suffix, kind = Path(record.path).suffix.lower(), kind_of(head)
    if not record.span and suffix not in _SUFFIXES.get(kind, {suffix}):
        problem(f"is a {kind} but its name ends in {suffix or 'nothing'}", "warning")
    if fault:
        problem(fault)
        return _Look(None, tuple(problems))
    if size != record.size:
        told = "its boxes are scaled to it"
        boxes = record.boxes * scale_of(record.size, size)
        if size == record.size[::-1]:
            told = "it is stored turned, by its EXIF orientation"
        outside = len(boxes) and (boxes[:, 2:].max(axis=0) > np.array(size) + TOLERANCE).any()
        problem(
            f"is {size[0]} x {size[1]} (H x W), the annotations say {record.size[0]} x {record.size[1]}: {told}"
            + ("; some boxes lie outside" if outside else ""),
            "error" if outside else "warning",
        )
    return _Look(digest, tuple(problems))


def _twins(sources, looks):
    """Problems of pictures with the same content: an error across splits, where one would tell the other."""
    same = {}
    for name, source in sources.items():
        for record, look in zip(source.records, looks[name], strict=True):
            if look.digest:
                where = f"{record.path} ({record.image_id})" if record.span else record.path
                same.setdefault(look.digest, []).append((name, record.path, where))
    for twins in same.values():
        (split, file, _), *others = twins
        if others:
            across = len({name for name, _, _ in twins}) > 1
            others_named = ", ".join(f"{where} in {name}" for name, _, where in others)
            message = f"the same picture in {'different splits' if across else 'one split'}: here in {split}, and {others_named}"
            yield Problem(file, message, "error" if across else "warning")


def _classes(sources):
    """Problems of classes: not the same in all splits, or hardly there in the first, which is train if there is one."""
    (name, first), *others = sources.items()
    for other, source in others:
        missing = [called for called in first.classes if called not in source.classes]
        if not set(source.classes) - set(first.classes):
            if missing:  # evaluated by name
                message = f"the split {other} knows no {listed(missing, 8)}, of the {counted(len(first.classes), 'class')} of {name}"
                yield Problem(source.name, message, "warning")
        else:
            theirs, ours = ", ".join(source.classes), ", ".join(first.classes)
            message = f"the splits have different classes: {other} has {theirs}; {name} has {ours}"
            yield Problem(source.name, message, "error")
    few = {label: count for label, count in _split(first, first.classes).boxes.items() if count < FEW}
    if few:
        fewest = listed([f"{label} ({few[label]})" for label in sorted(few, key=few.get)], 10)
        message = f"{len(few)} of {len(first.classes)} classes have fewer than {FEW} boxes in {name}: {fewest}"
        yield Problem(first.name, message, "warning")


def _split(source, classes):
    counts = np.zeros(len(source.classes), int)
    for record in source.records:
        np.add.at(counts, record.labels[~record.ignored], 1)
    by_name = Counter()
    for name, count in zip(source.classes, counts.tolist(), strict=True):
        by_name[name] += count
    return Split(
        pictures=len(source.records),
        empty=sum(not len(record.boxes) for record in source.records),
        crowds=int(sum(record.crowd.sum() for record in source.records)),
        boxes={name: by_name[name] for name in classes},
        difficult=int(sum(np.sum(record.difficult) for record in source.records)),
    )


# --- the summary as a picture -----------------------------------------------------------------------------------------


def _summary(report, sources, sizes):
    """A matplotlib Figure: counts of the classes, sizes of boxes and anchors, some pictures with their boxes."""
    from matplotlib.figure import Figure  # most callers want no picture, and matplotlib takes a second to import

    from tfyolo.visualize import drawing

    figure = Figure(figsize=(16, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    bars, scatter = top.subplots(1, 2)
    counts = {name: [split.boxes[name] for split in report.splits.values()] for name in report.classes}
    shown = sorted(counts, key=lambda name: -sum(counts[name]))[:40]
    start = np.zeros(len(shown))
    for place, name in enumerate(report.splits):
        height = np.array([counts[label][place] for label in shown])
        bars.bar(range(len(shown)), height, bottom=start, label=name)
        start += height
    bars.set_xticks(range(len(shown)), shown, rotation=90 if len(shown) > 8 else 0)
    bars.set_title(
        f"{report.name}: boxes of each class" + (f", the first {len(shown)}" if len(shown) < len(counts) else "")
    )
    bars.margins(y=0.2)  # room for the legend
    bars.legend()

    some = sizes[np.random.default_rng(0).permutation(len(sizes))[:20_000]]
    scatter.scatter(some[:, 1], some[:, 0], s=4, alpha=0.3, linewidths=0)
    if report.anchors:
        heights, widths = zip(*report.anchors, strict=True)
        scatter.scatter(widths, heights, marker="+", s=120, color="crimson", label="anchors")
        scatter.legend()
    H, W = report.input_size
    scatter.set(title=f"boxes at {H} x {W}", xlabel="width, pixels", ylabel="height, pixels", xlim=(0, W), ylim=(0, H))

    source = max(sources.values(), key=lambda source: len(source.records))
    axes = bottom.subplots(2, 6).ravel()
    for axis in axes:
        axis.axis("off")
    chosen = np.random.default_rng(0).permutation(len(source.records))
    drawn = 0
    for index in chosen:
        if drawn == len(axes):
            break
        record = source.records[index]
        try:
            image = read_record(record, source.max_pixels)
        except ImageError:
            continue
        axis = axes[drawn]
        drawn += 1
        image, boxes = drawing.resized(image, record.boxes * scale_of(record.size, image.shape[:2]), side=360)
        axis.imshow(drawing.draw_ground_truth(image, boxes, record.labels, record.ignored, source.classes))
        axis.set_title(str(record.image_id), fontsize=7)
    return figure
