"""What every format is read into: a Source of Records, and the Problems of what cannot be."""

import math
import os
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from tfyolo.data.headers import MOST_PIXELS, image_size
from tfyolo.data.sources.records import Record, Records
from tfyolo.data.sources.seen import looked_at
from tfyolo.errors import Error
from tfyolo.files import read_bytes
from tfyolo.messages import counted, printable
from tfyolo.remote import UnansweredError

TOLERANCE = 1.0  # pixels a box may reach over the image's edge before it is worth a word: 0-based VOC files, rounding
LONGEST_SIDE = 1_000_000  # pixels; what states more is not believed


class DataError(Error):
    """A data set cannot be read. The message says what was looked for, what was found, and what to do."""

    def __init__(self, message):
        super().__init__(printable(message, keep="\n"))


class SplitError(DataError):
    """A data set has no such split, or several that the name may mean. The message ends in the splits that it has."""


class Problem(NamedTuple):
    """Something wrong in the data: in which file, what, and "error" (something was left out) or "warning"."""

    file: str
    message: str
    severity: str = "error"


class _Source(NamedTuple):
    records: Records
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    name: str
    split: str
    format: str
    same_as: str = ""
    doubts: str = ""
    max_pixels: int = MOST_PIXELS
    division: Any = None


class Source(_Source):
    """One split of a data set.

    Attributes:
        records: Records, a Record for each image; any iterable of them is taken.
        classes: names, in label order.
        category_ids: the numbers that the files use, one per label; None where they have none.
        problems: what is wrong.
        name: of the data set.
        split: its own name.
        format: a key of readers.FORMATS.
        same_as: the split before it whose very images a YOLO data .yaml names for this one too, as coco128's does; else
            "".
        doubts: why images may be empty by mistake, so that training asks; else "".
        max_pixels: of an image; a larger one is an error before it is decoded.
        division: the Division that this is a part of, if the data does not divide itself.
    """

    __slots__ = ()

    def __new__(cls, records, *others, **named):
        """Takes the records into columns, wherever they come from."""
        return super().__new__(cls, Records.of(records), *others, **named)

    @classmethod
    def _make(cls, values):  # through which _replace goes
        return cls(*values)

    def with_classes(self, names: list[str]) -> "Source":
        """The same images with only the boxes of some classes.

        Args:
            names: of the classes; their places in it are the labels.
        """
        own = {name: label for label, name in enumerate(self.classes)}
        label_of = np.full(len(self.classes), -1, np.int32)
        for label, name in enumerate(names):
            if name in own:
                label_of[own[name]] = label
        ids = tuple(self.category_ids[own[name]] if name in own else None for name in names)
        records = self.records.with_labels(label_of[self.records.labels])
        return self._replace(records=records, classes=tuple(names), category_ids=ids)


class Findings:
    """The Problems of one reading, in the order in which they are found; and the images that end up without boxes."""

    def __init__(self):
        self.problems, self._tallies = [], {}
        self.unlabelled, self.emptied = [], []  # images without a label file; images all of whose boxes were left out

    def error(self, file, message):
        """Something that is left out."""
        self.problems.append(Problem(printable(os.fspath(file)), printable(message)))

    def warning(self, file, message):
        """Something that is read all the same."""
        self.problems.append(Problem(printable(os.fspath(file)), printable(message), "warning"))

    def tally(self, file, message):
        """A warning that is given once, where it is first found, however often it is."""
        if message in self._tallies:
            self._tallies[message][1] += 1
        else:
            self._tallies[message] = [len(self.problems), 1]
            self.warning(file, message)

    def finished(self):
        """All Problems, the tallied ones with their numbers."""
        for message, (place, count) in self._tallies.items():
            if count > 1:
                more = f"{printable(message)}; here first, {counted(count, 'time')} in all"
                self.problems[place] = self.problems[place]._replace(message=more)
        return tuple(self.problems)

    def doubts(self, total):
        """Why images without boxes may be a mistake; "" where they are few."""
        reasons = []
        for images, what in (
            (self.unlabelled, "have no label file"),
            (self.emptied, "have label files of which nothing could be read"),
        ):
            count = len(images)
            if count > total / 2 or (count >= 100 and count > total / 10):
                reasons.append(f"{count:,} of {counted(total, 'image')} {what} (the first: {images[0]})")
        return " and ".join(reasons)


class Annotation(NamedTuple):
    """A box as it is written: (y1, x1, y2, x2) in pixels of the image, not yet checked."""

    where: str  # "line 3"
    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    area: float | None = None
    difficult: bool = False


def image_bytes(record) -> bytes:
    """The bytes of a Record's image file. Raises OSError."""
    return read_bytes(record.path, record.span)


def record(image_id, image, size, annotations, file, findings, span=None):
    """The Record of the annotations that are sound; each that is not becomes a Problem.

    Args:
        image_id: as in the annotations; None: the stem of the file, or its path where another has the same stem.
        image: the file that holds it.
        size: (H, W) that the boxes count in.
        annotations: Annotations.
        file: that they stand in, for problems.
        findings: Findings, which get the problems.
        span: (offset, length) of the image inside its file; None if it is all of it.
    """
    height, width = size
    kept = []
    for annotation in annotations:
        box = y1, x1, y2, x2 = annotation.box
        wrong, left_out = None, True
        if not (0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width):  # as nearly all are
            box = max(y1, 0.0), max(x1, 0.0), min(y2, float(height)), min(x2, float(width))
            if not all(map(math.isfinite, annotation.box)):
                wrong = "is not finite; left out"
            elif y2 <= y1 or x2 <= x1:
                wrong = "has no area; left out"
            elif box[2] <= box[0] or box[3] <= box[1]:
                wrong = f"lies outside its image of {height} x {width}; left out"
            elif max(box[0] - y1, box[1] - x1, y2 - box[2], x2 - box[3]) > TOLERANCE:
                wrong, left_out = f"reaches over the edge of its image of {height} x {width}; clipped", False
        if wrong:
            report = findings.error if left_out else findings.warning
            report(file, f"{annotation.where}: the box y {y1:g}..{y2:g}, x {x1:g}..{x2:g} {wrong}")
        if not wrong or not left_out:
            own = (box[2] - box[0]) * (box[3] - box[1])
            stated = annotation.area is not None and 0 < annotation.area <= height * width
            kept.append(
                (box, annotation.label, annotation.crowd, annotation.area if stated else own, annotation.difficult)
            )
    if annotations and not kept:
        findings.emptied.append(os.fspath(image))
    boxes, labels, crowd, areas, difficult = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    return Record(
        image_id,
        os.fspath(image),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int32),
        np.array(crowd, bool),
        np.array(areas, np.float32),
        (height, width),
        span,
        np.array(difficult, bool),
    )


def upright_size(stated, image, findings):
    """The (H, W) stated if it makes sense, else that of the image's header; None, and a Problem, without either.

    Args:
        stated: (H, W) of whatever types the annotations hold.
        image: its file.
        findings: Findings, which get the problem.
    """
    sides = tuple(map(whole, stated))
    if all(side and 0 < side <= LONGEST_SIDE for side in sides):
        return sides
    looked_at(image)
    try:
        return image_size(image)
    except UnansweredError:  # of no file, but of the network: reading ends
        raise
    except OSError as error:
        findings.error(image, f"cannot be read: {error.strerror or error}; left out")
        return None


def whole(value):
    """An integer, written as a number or as text; None for all else. 3.0 and "3" are 3."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 40 else math.nan
        except ValueError:
            return None
    return int(value) if isinstance(value, int) or (math.isfinite(value) and value == int(value)) else None


def flag(value):
    """Whether a value of a file means yes: (its meaning, whether it is a plain yes or no).

    Only 1, true and yes mean yes. What is neither yes nor no, such as "Unspecified", counts as no.
    """
    if type(value) is int and 0 <= value <= 1:
        return bool(value), True
    text = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    plain = value is None or text in ("", "0", "1", "true", "false", "yes", "no")
    return text in ("1", "true", "yes"), plain


def each_once(names, file, findings):
    """The names without repetitions, each of which is a Problem."""
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            findings.warning(file, f"{name} is listed {count} times; read once")
    return list(counts)


def finish(records, classes, category_ids, findings, format) -> Source:
    """A Source without a name and a split.

    Args:
        records: Records, or an iterable of single ones, which a RecordsBuilder keeps smallest.
        classes: names, in label order; they are kept printable, so that they are wherever they are shown.
        category_ids: the files' numbers of the classes.
        findings: Findings of the reading.
        format: a key of readers.FORMATS.
    """
    for name in classes:
        if name != printable(name):
            findings.warning(
                "", f"the name of the class {name} has control characters; it stands for them as shown here"
            )
    records = Records.of(records)
    doubts = findings.doubts(len(records))
    names = tuple(map(printable, classes))
    return Source(records, names, tuple(category_ids), findings.finished(), "", "", format, doubts=doubts)
