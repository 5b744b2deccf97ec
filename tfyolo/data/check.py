"""Checks a data set before anyone trains on it: every image is decoded, every fault named by its file."""

import json
import os
import textwrap
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from tfyolo.data import anchors as clustering
from tfyolo.data import readers
from tfyolo.data.check_images import check_images
from tfyolo.data.check_plot import summary_figure
from tfyolo.data.sources.place import meaning
from tfyolo.data.sources.source import DataError, Problem
from tfyolo.files import NotLocalError, atomic_file, unreachable, write_text, written_to
from tfyolo.messages import counted, listed

FEW = 20  # boxes of a class below which it can hardly be learned
SHOWN = 30  # problems of a kind in the text; the JSON has them all


class Split(NamedTuple):
    """What a split holds.

    Attributes:
        pictures: how many images; the name that report.json has.
        empty: images without boxes.
        crowds: boxes round many objects.
        boxes: {class: how many}, without crowds and difficult objects.
        difficult: boxes of difficult objects.
    """

    pictures: int
    empty: int
    crowds: int
    boxes: dict[str, int]
    difficult: int = 0


class CheckReport(NamedTuple):
    """What was found in a data set.

    Attributes:
        name: of the data set.
        format: a key of readers.FORMATS.
        classes: their names, in label order.
        splits: {name: Split}.
        input_size: (H, W) at which boxes are measured.
        sizes: percentiles of the boxes' (h, w) at that size: {percent: (h, w)}.
        anchors: (h, w) of those that the boxes were held against.
        fitness: how well they fit; None without anchors.
        problems: everything wrong.
    """

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
        """The problems for which something was left out, or would be learned wrongly."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The other problems."""
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
            ["images", *(split.pictures for split in splits)],
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
    """Reads all splits of a data set, and every image in full.

    Args:
        path: of the data set.
        input_size: (H, W) that boxes are measured at; None: 416 x 416.
        preprocess: how images are brought to it, a key of geometry.FITS.
        anchors: [(h, w)] in its pixels, to hold the boxes against.
        out: a folder for report.json and check.png, the summary as a plot.
        progress: shows a bar on standard error.
        **options: of readers.DataSet: images, format, names, outside, max_pixels, cache.

    Raises:
        DataError: nothing there is a data set, or no split of it can be read.
    """
    if out is not None and (wrong := unreachable(out)):
        raise NotLocalError(wrong)
    input_size = tuple(input_size or (416, 416))
    anchors = tuple(tuple(map(float, anchor)) for anchor in anchors or ())
    dataset = readers.DataSet(path, **options)
    sources, problems = _sources(dataset)
    checked = check_images(sources, progress)
    problems += [problem for found in checked.values() for each in found for problem in each.problems]
    problems += _twins(sources, checked)
    problems += _classes(sources)
    for name, source in sources.items():
        if source.records.ignored.all():
            message = f"the split {name} has no boxes: no model can be trained or evaluated on it"
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
        with written_to(out) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "report.json", json.dumps(report.to_json(), ensure_ascii=False, indent=1))
            with atomic_file(folder / "check.png") as aside:
                summary_figure(report, sources, sizes).savefig(aside, dpi=100)
    return report


def _sources(dataset):
    """({split: Source}, problems), without unions of splits and without repeated splits."""
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
                f"the split {name} has the very images of {source.same_as}: evaluation on it says nothing about other "
                "images"
            )
            problems.append(Problem(dataset.path, message, "warning"))
        if source.doubts:
            message = f"the split {name}: {source.doubts}; to learn from it all the same: data.background=true"
            problems.append(Problem(dataset.path, message, "warning"))
    if not any(meaning(name) == "val" for name in sources):
        message = (
            f"no split to validate on, it has {', '.join(sources)}; data.val=0.1 holds back a tenth of the training "
            "images"
        )
        problems.append(Problem(dataset.path, message, "warning"))
    sources = {name: source for name, source in readers.without_unions(sources).items() if not source.same_as}
    return sources, problems


def _twins(sources, checked):
    """Problems of images with the same content: an error across splits, where one would give the other away."""
    same = {}
    for name, source in sources.items():
        for record, each in zip(source.records, checked[name], strict=True):
            if each.digest:
                where = f"{record.path} ({record.image_id})" if record.span else record.path
                same.setdefault(each.digest, []).append((name, record.path, where))
    for twins in same.values():
        (split, file, _), *others = twins
        if others:
            across = len({name for name, _, _ in twins}) > 1
            others_named = ", ".join(f"{where} in {name}" for name, _, where in others)
            where = "different splits" if across else "one split"
            message = f"the same image in {where}: here in {split}, and {others_named}"
            yield Problem(file, message, "error" if across else "warning")


def _classes(sources):
    """Problems of classes: not the same in all splits, or hardly there in the first, which is train if there is one."""
    (name, first), *others = sources.items()
    for other, source in others:
        missing = [called for called in first.classes if called not in source.classes]
        if not set(source.classes) - set(first.classes):
            if missing:  # evaluated by name
                message = (
                    f"the split {other} knows no {listed(missing, 8)}, of the "
                    f"{counted(len(first.classes), 'class')} of {name}"
                )
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
    records = source.records
    counts = np.bincount(records.labels[~records.ignored], minlength=len(source.classes))
    by_name = Counter()
    for name, count in zip(source.classes, counts.tolist(), strict=True):
        by_name[name] += count
    return Split(
        pictures=len(records),
        empty=int((records.counts == 0).sum()),
        crowds=int(records.crowd.sum()),
        boxes={name: by_name[name] for name in classes},
        difficult=int(records.difficult.sum()),
    )
