"""The report of an evaluation: figures, per class and over all."""

import math
from typing import NamedTuple

import numpy as np

from tfyolo.errors import Error
from tfyolo.evaluation.matching import DetectionColumns, Objects
from tfyolo.evaluation.metrics import GRID, coco_figures, confusion_counts, score_counts, share, verdicts_of
from tfyolo.messages import counted, listed, plain


class EvaluationError(Error):
    """A detector and a data set do not go together. The message says what was expected and what came."""


# What may be wrong with images, as eval_dataset and train_dataset note it, and what is done about it.
UNEXPECTED = {
    "skipped": "left out, as unreadable",
    "resized": "boxes scaled, as the file's size is not the one annotated",
}
_UNCOUNTED = {"crowds": "crowd", "difficult": "difficult object"}


class Curves(NamedTuple):
    """What the figures are drawn from; nan in the row of a class without ground truth.

    Attributes:
        recall: [R].
        precision: [K, R] at IoU 0.5, the best at that recall or a higher one: its mean is the class's AP50.
        scores: [S], confidence thresholds.
        f1: [K, S], of the boxes with at least that score.
        f1_all: [S], all classes pooled.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    f1: np.ndarray
    f1_all: np.ndarray


class Report(NamedTuple):
    """How good a detector is. print() shows it as a table. A figure without ground truth or detections is nan.

    Attributes:
        title: the data set and its split.
        metrics: COCO's twelve, AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl; and F1, precision,
            recall at `score`.
        per_class: {"name", "truths", "AP", "AP50", "precision", "recall"} in label order, the last two at `score`.
        score: the confidence threshold where F1, all classes pooled, is best.
        confusion: [K+1, K+1] at `score`, rows the true classes, columns the predicted ones; the last row counts boxes
            on background, the last column missed objects.
        curves: Curves.
        seconds: an image's {"read", "network", "postprocess", "total"}; "read" is the time spent waiting for it.
        counts: {"images", "truths", "crowds", "difficult", "detections", "skipped", "resized"}. "skipped" are the
            files that could not be read; "resized" those whose boxes were scaled, since their size is not the one
            annotated.
        batch: how many images fitted into memory at a time.
        left_out: the classes that only the detector or only the data knows, and that count nowhere.
    """

    title: str
    metrics: dict
    per_class: list
    score: float
    confusion: np.ndarray
    curves: Curves
    seconds: dict
    counts: dict
    batch: int | None = None
    left_out: str = ""

    @property
    def unexpected(self) -> list[str]:
        """A line for the images that could not be read, and one for those of another size than annotated."""
        files = {note: self.counts[kind] for kind, note in UNEXPECTED.items() if self.counts[kind]}
        return [f"{note}: {counted(len(some), 'image')}: {listed(some, 5)}" for note, some in files.items()]

    def f1_at(self, score: float) -> float:
        """F1, all classes pooled, at a confidence threshold of 0..1."""
        return float(np.interp(score, self.curves.scores, self.curves.f1_all))

    def to_json(self) -> dict:
        """All of it as plain lists, dicts and numbers; nan becomes null."""
        return plain({**self._asdict(), "curves": self.curves._asdict()}, digits=6)

    def __str__(self):
        counts, shown = self.counts, {name: _figure(value) for name, value in self.metrics.items()}
        nouns = {"images": "image", "truths": "object", "detections": "detection"}
        numbers = ", ".join(counted(counts[name], noun) for name, noun in nouns.items())
        width = max(len(name) for name in ("class", *(row["name"] for row in self.per_class)))
        rows = [
            f"  {row['name']:<{width}} {row['truths']:>7,} {_figure(row['AP']):>7} {_figure(row['AP50']):>7} "
            f"{_figure(row['precision']):>10} {_figure(row['recall']):>7}"
            for row in self.per_class
        ]
        times = ", ".join(f"{name} {1000 * self.seconds[name]:.1f}" for name in ("read", "network", "postprocess"))
        uncounted = [counted(counts[name], noun) for name, noun in _UNCOUNTED.items() if counts[name]]
        lines = [
            f"{self.title}: {numbers}",
            *([f"  {self.left_out}"] if self.left_out else []),
            *([f"  that count neither way, found or not: {', '.join(uncounted)}"] if uncounted else []),
            "",
            f"  AP     {shown['AP']:<5}  average precision, mean over IoU 0.50 to 0.95: COCO's main figure",
            f"  AP50   {shown['AP50']:<5}  where an overlap (IoU) of 0.50 makes a box right",
            f"  AP75   {shown['AP75']:<5}  where it takes 0.75",
            f"  AP of small, medium, large objects (up to 32x32, to 96x96, above): "
            f"{shown['APs']}, {shown['APm']}, {shown['APl']}",
            f"  recall of 1, 10, 100 boxes an image, mean over IoU: {shown['AR1']}, {shown['AR10']}, {shown['AR100']}",
            "",
            f"  F1     {shown['F1']:<5}  at its best, at confidence threshold {self.score:.3f}: "
            f"precision {shown['precision']}, recall {shown['recall']}",
            "",
            f"  {'class':<{width}} objects      AP    AP50  precision  recall",
            *rows,
            "",
            f"  ms an image: {times}, together {1000 * self.seconds['total']:.1f}",
            *(f"  {line}" for line in self.unexpected),
        ]
        return "\n".join(lines)


def evaluate_detections(source, found, seconds=None, resized=()):
    """Evaluates detections that were made before.

    Args:
        source: the Source.
        found: their DetectionColumns, or a Found for each of its records, None for an image that could not be read.
        seconds: of an image: {"read", "network", "postprocess", "total"}; None: not measured.
        resized: the places of those records whose boxes were scaled to the size of the file.

    Returns:
        The Report.
    """
    found = found if isinstance(found, DetectionColumns) else DetectionColumns(found)
    classes, read = source.classes, found.read
    skipped = [_called(source.records[i]) for i in np.flatnonzero(~read)]
    if not read.any():
        raise EvaluationError(
            f"{title_of(source)}: expected images to evaluate on, received {len(skipped) or 'none'}"
            + (f" that cannot be read, the first: {skipped[0]}" if skipped else "")
        )
    objects = Objects.of(source.records, read)
    verdict = verdicts_of(objects, found, len(classes))
    metrics, per_class, precision = coco_figures(objects, found, verdict, len(classes))

    # F1 at every score: how many are right (tp), wrong (fp) and there (total), class by class
    tp, fp = score_counts(found, verdict.gt_index, len(classes))  # [K, S]
    total = np.bincount(objects.labels[~objects.ignored], minlength=len(classes))[:, None]  # [K, 1]
    f1 = np.where(total > 0, share(2 * tp, tp + fp + total), np.nan)
    f1_all = share(2 * tp.sum(0), (tp + fp + total).sum(0))
    best = np.flatnonzero(f1_all == f1_all.max())
    at = best[len(best) // 2] if len(best) else 0  # often the best is a plateau: its middle is the safest place
    score = float(GRID[at])

    tp, fp = tp[:, at], fp[:, at]
    metrics |= {
        "F1": float(f1_all[at]),
        "precision": float(share(tp.sum(), (tp + fp).sum())),
        "recall": float(share(tp.sum(), total.sum())),
    }
    rows = zip(classes, total[:, 0], *per_class, share(tp, tp + fp), share(tp, total[:, 0]), strict=True)
    names = ("name", "truths", "AP", "AP50", "precision", "recall")
    return Report(
        title=title_of(source),
        metrics=metrics,
        per_class=[dict(zip(names, (row[0], int(row[1]), *map(float, row[2:])), strict=True)) for row in rows],
        score=score,
        confusion=confusion_counts(objects, found, verdict.gt_index, score, len(classes)),
        curves=Curves(np.linspace(0, 1, precision.shape[1]), precision, GRID, f1, f1_all),
        seconds=seconds or dict.fromkeys(("read", "network", "postprocess", "total"), math.nan),
        counts={
            "images": int(read.sum()),
            "truths": int(total.sum()),
            "crowds": int(objects.crowd.sum()),
            "difficult": int(objects.difficult.sum()),
            "detections": len(found.scores),
            "skipped": skipped,
            "resized": list(dict.fromkeys(_called(source.records[i]) for i in sorted(resized))),
        },
    )


def _called(record):
    """What the image of a Record is called: its file, and in a shard its id, too."""
    return record.path if record.span is None else f"{record.path}, image {record.image_id}"


def title_of(source):
    """What a Source is called: its name, its split, and the split whose images it shares."""
    same = f" (the images of {source.same_as})" if source.same_as else ""
    return f"{source.name} {source.split}{same}".strip()


def shortened_names(names):
    """The number of some names and the first twelve of them."""
    return f"{len(names)} ({listed(names, 12)})"


def _figure(value):
    return "-" if math.isnan(value) else f"{value:.3f}"
