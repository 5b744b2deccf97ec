"""Evaluation: how good a detector is on a data set, by COCO's measures, in figures and in pictures."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask
from tqdm import tqdm

from tfyolo import checkpoint, visualize
from tfyolo.data import pipeline, readers
from tfyolo.detect import Detector, load, restore
from tfyolo.messages import counted, printable
from tfyolo.structures import BACKGROUND, IGNORE

IOU = 0.5  # the overlap from which a box is right: in curves, confusion matrix and pictures; AP is a mean over ten
GRID = np.linspace(0, 1, 201)  # the scores at which F1 is looked at


class EvaluationError(ValueError):
    """A detector and a data set do not go together. The message says what was expected and what came."""


# What may be wrong with images, as eval_dataset and train_dataset note it, and what is done about it.
UNEXPECTED = {
    "skipped": "left out, as unreadable",
    "resized": "boxes scaled, as the file's size is not the one annotated",
}
_UNCOUNTED = {"crowds": "crowd", "difficult": "difficult object"}


class Found(NamedTuple):
    """What is found in one picture: boxes [D, 4] in pixels of the file, scores [D], labels [D] of the data set."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Curves(NamedTuple):
    """What the figures are drawn from; nan in the row of a class without truths.

    recall: [R]. precision: [K, R] at IoU 0.5, the best at that recall or a higher one: its mean is the class's AP50.
    scores: [S]. f1: [K, S], of the boxes with at least that score. f1_all: [S], all classes pooled.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    f1: np.ndarray
    f1_all: np.ndarray


class Report(NamedTuple):
    """How good a detector is. print() shows it as a table; what cannot be said (no truths, no detections) is nan.

    metrics: COCO's twelve, AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl; and F1, precision, recall
    at `score`. per_class: {"name", "truths", "AP", "AP50", "precision", "recall"} in label order, the last two at
    `score`. score: the least score that counts where F1, all classes pooled, is best. confusion: [K+1, K+1] at `score`,
    rows the truths, columns what was found; the last row counts boxes where nothing is, the last column missed truths.
    seconds: an image's {"read", "network", "postprocess", "total"}; read is what was left to wait for.
    counts: {"images", "truths", "crowds", "difficult", "detections", "skipped", "resized"}, the last two the files that could not be read,
    and those of another size than their annotations say, whose boxes were scaled. batch: how many images fitted into memory at a time.
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
        """A line for the images that could not be read, and one for those of another size than annotated, if there are such."""
        files = {note: self.counts[kind] for kind, note in UNEXPECTED.items() if self.counts[kind]}
        return [f"{note}: {counted(len(some), 'picture')}: {_first(some, 5)}" for note, some in files.items()]

    def to_json(self) -> dict:
        """All of it as plain lists, dicts and numbers; nan becomes null."""
        return _plain({**self._asdict(), "curves": self.curves._asdict()})

    def __str__(self):
        counts, shown = self.counts, {name: _figure(value) for name, value in self.metrics.items()}
        numbers = ", ".join(counted(counts[f"{name}s"], name) for name in ("image", "truth", "detection"))
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
            f"  F1     {shown['F1']:<5}  at its best, when boxes with a score from {self.score:.3f} on count: "
            f"precision {shown['precision']}, recall {shown['recall']}",
            "",
            f"  {'class':<{width}}  truths      AP    AP50  precision  recall",
            *rows,
            "",
            f"  ms an image: {times}, together {1000 * self.seconds['total']:.1f}",
            *(f"  {line}" for line in self.unexpected),
        ]
        return "\n".join(lines)


def evaluate(
    detector: Detector | str | os.PathLike,
    data: readers.Source | str | os.PathLike | None = None,
    *,
    split: str | None = None,
    batch: int = 8,
    out: str | os.PathLike | None = None,
    progress: bool = True,
    pictures: int = 0,
) -> Report:
    """Report of a detector on a data set.

    Args:
        detector: a Detector, or the path of what tfyolo.load takes: a run, a SavedModel, a .tflite file.
        data: a Source, or the path of a data set; None: what the detector was trained with. Classes that only the detector or only the
            data knows, by name, are left out.
        split: of the data set at a path; None: the one that the detector was evaluated on while it trained, else "val".
        batch: images at a time; where they do not fit into memory, half of them is tried, and so on.
        out: a folder for metrics.json, detections.json (COCO's results format, the file's own ids), pr_curve.png, f1_curve.png and
            confusion.png.
        pictures: how many to draw there, those with most errors first.

    Raises:
        EvaluationError: detector and data have no class in common, no data are named, batch is not above 0, or not one image fits
            into memory.
        DataError, CheckpointError: the data or the detector cannot be read.
    """
    if batch < 1:
        raise EvaluationError(f"batch: expected a whole number above 0, received {batch}")
    detector = load(detector) if isinstance(detector, str | os.PathLike) else detector
    source = data if isinstance(data, readers.Source) else source_for(detector, data, split)
    source, label_of, left_out = _in_common(detector.classes, source)
    found, seconds, resized = [], None, {}
    while source.records and seconds is None:
        try:
            found, seconds = _find(detector, source, label_of, batch, progress, resized)
        except tf.errors.ResourceExhaustedError as error:
            batch = _smaller(batch, detector, error)
    report = judge(source, found, seconds, resized)._replace(batch=batch, left_out=left_out)
    if out is not None:
        _write(Path(out), report, source, found, pictures)
    return report


def _smaller(batch, detector, error):
    """Half of a batch that does not fit into memory; said, since it takes longer. Raises EvaluationError for one image."""
    size = " x ".join(map(str, detector.input_size))
    if batch == 1:
        raise EvaluationError(
            f"one image of {size} does not fit into memory, expected a smaller model.input_size or another device"
        ) from error
    tqdm.write(
        f"evaluation: {counted(batch, 'image')} of {size} at a time do not fit into memory, goes on with {batch // 2}",
        file=sys.stderr,
    )
    return batch // 2


def source_for(detector, path=None, split=None, *, images=None, format=None, **reading):
    """The Source that a detector is evaluated on: a split of the data set at a path, or of what it was trained with.

    split: None is the one that it was evaluated on while it trained, else "val". images, format, reading: as of readers.DataSet.
    """
    own = detector.config.data
    if path is None and own is None:
        raise EvaluationError(f"{detector.source} does not say what it was trained with; name the data (--data PATH)")
    if path is None:
        given = {"images": images or own.images, "format": format or own.format, **reading}
        return readers.read_configured(own.model_copy(update=given), split or "val", None, run=detector.source)
    named = own.val if own and isinstance(own.val, str) else "val"
    return readers.read(path, split or named, images=images, format=format, **reading)


def judge(source, found, seconds=None, resized=()):
    """Report of what was found: a Found for each of the source's records, None for a picture that could not be read.

    resized: the places of those records whose boxes were scaled to the size of the file.
    """
    skipped = [record.path for record, one in zip(source.records, found, strict=True) if one is None]
    truths = [record for record, one in zip(source.records, found, strict=True) if one is not None]
    found = [one for one in found if one is not None]
    if not found:
        raise EvaluationError(
            f"{_title(source)}: expected pictures to evaluate on, received {len(skipped) or 'none'}"
            + (f" that cannot be read, the first: {skipped[0]}" if skipped else "")
        )
    classes = source.classes
    metrics, per_class, precision = _coco(truths, found, len(classes))
    gt_index = [
        match(t.boxes, t.labels, t.crowd, f.boxes, f.labels, f.scores, difficult=t.difficult)
        for t, f in zip(truths, found, strict=True)
    ]

    # F1 at every score: how many are right (tp), wrong (fp) and there (total), class by class
    index, scores, labels = (
        np.concatenate(parts) for parts in (gt_index, [f.scores for f in found], [f.labels for f in found])
    )
    tp, fp = (
        np.stack([(scores[chosen & (labels == k)] >= GRID[:, None]).sum(axis=1) for k in range(len(classes))])  # [K, S]
        for chosen in (index >= 0, index == BACKGROUND)
    )
    labels_there = np.concatenate([t.labels[~t.ignored] for t in truths])
    total = np.bincount(labels_there, minlength=len(classes))[:, None]  # [K, 1]
    f1 = np.where(total > 0, _share(2 * tp, tp + fp + total), np.nan)
    f1_all = _share(2 * tp.sum(0), (tp + fp + total).sum(0))
    best = np.flatnonzero(f1_all == f1_all.max())
    at = best[len(best) // 2] if len(best) else 0  # often the best is a plateau: its middle is the safest place
    score = float(GRID[at])

    tp, fp = tp[:, at], fp[:, at]
    metrics |= {
        "F1": float(f1_all[at]),
        "precision": float(_share(tp.sum(), (tp + fp).sum())),
        "recall": float(_share(tp.sum(), total.sum())),
    }
    rows = zip(classes, total[:, 0], *per_class, _share(tp, tp + fp), _share(tp, total[:, 0]), strict=True)
    names = ("name", "truths", "AP", "AP50", "precision", "recall")
    return Report(
        title=_title(source),
        metrics=metrics,
        per_class=[dict(zip(names, (row[0], int(row[1]), *map(float, row[2:])), strict=True)) for row in rows],
        score=score,
        confusion=_confusion(truths, found, gt_index, score, len(classes)),
        curves=Curves(np.linspace(0, 1, precision.shape[1]), precision, GRID, f1, f1_all),
        seconds=seconds or dict.fromkeys(("read", "network", "postprocess", "total"), math.nan),
        counts={
            "images": len(truths),
            "truths": int(total.sum()),
            "crowds": int(sum(t.crowd.sum() for t in truths)),
            "difficult": int(sum(np.sum(t.difficult) for t in truths)),
            "detections": len(scores),
            "skipped": skipped,
            "resized": list(dict.fromkeys(source.records[i].path for i in sorted(resized))),
        },
    )


# ----------------------------------------------------------------------------------------------- from pictures to boxes


# What Pascal VOC, and Darknet's list of COCO's classes after it, call some of COCO's.
_SYNONYMS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


def _in_common(classes, source):
    """(the Source with the classes that the detector knows too, [K] the label there of each of the detector's or -1, what is left out)."""
    theirs = source.classes
    classes = tuple(_SYNONYMS.get(name, name) if name not in theirs else name for name in classes)
    numbered = theirs == tuple(map(str, range(len(theirs))))  # a YOLO folder without a list of names
    if classes == theirs or (numbered and len(classes) == len(theirs)):
        return source, np.arange(len(theirs)), ""
    common = [name for name in theirs if name in classes]
    if not common:
        raise EvaluationError(
            f"{_title(source)}: expected classes that the detector knows, {_shortened(classes)}, received {_shortened(theirs)}"
        )
    label_of = np.array([common.index(name) if name in common else -1 for name in classes])
    only = [[name for name in ours if name not in common] for ours in (classes, theirs)]
    told = [
        f"only {who} {_shortened(names)}"
        for who, names in zip(("the detector knows", "the data has"), only, strict=True)
        if names
    ]
    left_out = f"evaluated on {_shortened(common)} by name, left out: {'; '.join(told)}" if told else ""
    return source.with_classes(common) if len(common) < len(theirs) else source, label_of, left_out


def _title(source):
    same = f" (the pictures of {source.same_as})" if source.same_as else ""
    return f"{source.name} {source.split}{same}".strip()


def _shortened(names):
    return f"{len(names)} ({_first(names, 12)})"


def _first(names, count):
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _find(detector, source, label_of, batch, progress, resized):
    """A Found, in pixels of the annotations, or None, for each record; and the seconds that an image took. resized: as in eval_dataset."""
    found, skipped = [None] * len(source.records), {}
    size = np.array(detector.input_size)
    options = {"batch": batch, "preprocess": detector.config.model.preprocess, "skipped": skipped}
    options["resized"] = resized
    dataset = iter(pipeline.eval_dataset(source, size=detector.input_size, **options))
    laps = []
    with tqdm(
        total=len(source.records), desc="evaluate", unit="image", leave=False, disable=not progress or None
    ) as bar:
        while True:
            started = time.perf_counter()
            sample = next(dataset, None)
            if sample is None:
                break
            read = time.perf_counter()
            outputs = _done(detector.network(sample.image))
            network = time.perf_counter()
            detections = tf.nest.map_structure(np.asarray, detector.postprocess(outputs))
            postprocess = time.perf_counter()
            ids, transforms = np.asarray(sample.image_id), np.asarray(sample.transform)
            # The margins are alike on both sides, and what lies between them is the file's picture.
            files = np.rint((size - 2 * transforms[:, :2, 2]) / transforms[:, [0, 1], [0, 1]])
            in_files = np.asarray(restore(detections.boxes, transforms, files))
            for b in np.flatnonzero(ids >= 0):
                kept = slice(detections.count[b])
                boxes = in_files[b, kept]
                inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # what lies wholly beside the picture goes
                if ids[b] in resized:
                    boxes = boxes * pipeline.scale_of(resized[ids[b]], source.records[ids[b]].size)
                labels = label_of[detections.labels[b, kept]]
                inside &= labels >= 0  # a class that the data does not know
                found[ids[b]] = Found(boxes[inside], detections.scores[b, kept][inside], labels[inside])
            images = int((ids >= 0).sum())
            laps.append((images, read - started, network - read, postprocess - network))
            bar.update(images)
    for i in skipped:  # what could not be read came as a grey picture
        found[i] = None
    images, *spent = np.sum(laps[1:] or laps, axis=0)  # the first batch also pays for tracing
    names = ("read", "network", "postprocess")
    seconds = {name: float(value / images) for name, value in zip(names, spent, strict=True)}
    return found, {**seconds, "total": sum(seconds.values())}


def _done(outputs):
    """The outputs, computed: a device works through its queue in order, so one number of each that arrives will do."""
    for value in tf.nest.flatten(outputs):
        if isinstance(value, tf.Tensor):
            tf.reshape(value, [-1])[:1].numpy()
    return outputs


# ------------------------------------------------------------------------------------------------ from boxes to figures


def match(truth_boxes, truth_labels, crowd, boxes, labels, scores, iou=IOU, *, difficult=False):
    """[D] the truth each detection of a picture finds, BACKGROUND if it is wrong, IGNORE if it counts neither way.

    truth_boxes [M, 4], truth_labels [M], crowd [M] bool; boxes [D, 4], labels [D], scores [D]; no rows of padding. difficult: [M] bool.
    COCO's rule: in the order of scores, a detection takes the truth of its class that it overlaps most among those
    still free, if by `iou` at least. One that finds none may take a difficult object in the same way, or lie in a crowd of its class, by as
    much of its own area, and is ignored. A crowd takes any number of them; a difficult object one, as every object (Pascal VOC's own script
    forgives any number of detections of one).
    """
    gt_index = np.full(len(boxes), BACKGROUND)
    if not len(boxes) or not len(truth_boxes):
        return gt_index
    crowd = np.asarray(crowd, bool)
    ignored = crowd | difficult
    overlap = mask.iou(_xywh(boxes), _xywh(truth_boxes), crowd.astype(np.uint8).tolist())  # [D, M]
    free = (overlap >= iou) & (np.asarray(labels)[:, None] == np.asarray(truth_labels))
    order = np.argsort(-np.asarray(scores), kind="stable")
    for d in order[free[order].any(axis=1)]:
        counted_first = free[d] & ~ignored
        choice = counted_first if counted_first.any() else free[d]
        if choice.any():
            taken = np.argmax(np.where(choice, overlap[d], 0))
            gt_index[d] = IGNORE if ignored[taken] else taken
            free[:, taken] &= crowd[taken]
    return gt_index


def coco_metrics(truths, found, num_classes):
    """COCO's twelve metrics by name, as Report has them; nan where there are no truths.

    truths: Records. found: a Found for each of them. num_classes: K.
    """
    return _coco(truths, found, num_classes)[0]


def _coco(truths, found, num_classes):
    """(the twelve metrics, (AP [K], AP50 [K]), precision [K, R] at IoU 0.5)."""
    images = [{"id": i} for i in range(len(truths))]
    categories = [{"id": k} for k in range(num_classes)]
    rows = (
        (i, *row)
        for i, t in enumerate(truths)
        # The evaluator ignores, one for one, what has an area beyond all that it reports by: so it is told of difficult objects.
        for areas in [np.where(t.difficult, -1, t.areas).tolist()]
        for row in zip(_xywh(t.boxes).tolist(), t.labels.tolist(), areas, t.crowd.tolist(), strict=True)
    )
    annotations = [
        {"id": n, "image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, box, label, area, crowd) in enumerate(rows, 1)  # 0 means "no match" inside the evaluator
    ]
    rows = (
        (i, *row)
        for i, f in enumerate(found)
        for row in zip(_xywh(f.boxes).tolist(), f.labels.tolist(), f.scores.tolist(), strict=True)
    )
    results = [
        {
            "id": n,
            "image_id": i,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for n, (i, box, label, score) in enumerate(rows, 1)
    ]
    coco = [COCO({"images": images, "categories": categories, "annotations": each}) for each in (annotations, results)]
    evaluator = COCOeval_faster(*coco, "bbox", print_function=lambda *_: None)
    evaluator.evaluate()
    evaluator.accumulate()
    # [T, R, K, A, M] and [T, K, A, M]: T IoUs, R recalls, A sizes (all, small, medium, large), M = 1, 10, 100 boxes
    precision, recall = (np.where(v > -1, v, np.nan) for v in map(evaluator.eval.get, ("precision", "recall")))
    ap = precision[..., -1]
    metrics = {
        "AP": _mean(ap[..., 0]),
        "AP50": _mean(ap[0, ..., 0]),
        "AP75": _mean(ap[5, ..., 0]),
        **{f"AP{size}": _mean(ap[..., area]) for area, size in enumerate("sml", 1)},
        **{f"AR{most}": _mean(recall[:, :, 0, m]) for m, most in enumerate((1, 10, 100))},
        **{f"AR{size}": _mean(recall[:, :, area, -1]) for area, size in enumerate("sml", 1)},
    }
    per_class = ap[..., 0].mean(axis=(0, 1)), ap[0, ..., 0].mean(axis=0)  # nan in all rows of a class or in none
    return metrics, per_class, ap[0, ..., 0].T


def _confusion(truths, found, gt_index, score, num_classes):
    """[K+1, K+1]; what matches within a class is settled first, what is left is matched across classes."""
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    for truth, one, index in zip(truths, found, gt_index, strict=True):
        shown = one.scores >= score
        right = index[shown & (index >= 0)]
        np.add.at(confusion, (truth.labels[right], truth.labels[right]), 1)
        missed = np.setdiff1d(np.flatnonzero(~truth.ignored), right)
        wrong = np.flatnonzero(shown & (index == BACKGROUND))
        one_class = np.zeros(len(truth.labels), int), np.zeros(len(one.labels), int)
        mistaken = match(
            truth.boxes[missed],
            one_class[0][missed],
            truth.crowd[missed],
            one.boxes[wrong],
            one_class[1][wrong],
            one.scores[wrong],
        )
        rows = np.where(mistaken >= 0, np.append(truth.labels[missed], num_classes)[mistaken], num_classes)
        np.add.at(confusion, (rows, one.labels[wrong]), 1)
        np.add.at(confusion, (np.delete(truth.labels[missed], mistaken[mistaken >= 0]), num_classes), 1)
    return confusion


def _xywh(boxes):
    """[N, 4] -> [N, 4] float64 x1, y1, w, h, as COCO's tools want them."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _share(part, whole):
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


# ------------------------------------------------------------------------------------------------ from figures to files


def _write(out, report, source, found, pictures):
    out.mkdir(parents=True, exist_ok=True)
    results = [
        {
            "image_id": record.image_id,
            "category_id": source.category_ids[label],
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 6),
        }
        for record, one in zip(source.records, found, strict=True)
        if one is not None
        for box, label, score in zip(_xywh(one.boxes).tolist(), one.labels.tolist(), one.scores.tolist(), strict=True)
    ]
    _write_json(out / "detections.json", results)
    _write_json(out / "metrics.json", report.to_json())
    visualize.pr_curves(report.curves, source.classes, out / "pr_curve.png")
    visualize.f1_curves(report.curves, source.classes, out / "f1_curve.png")
    visualize.confusion_matrix(report.confusion, report.score, source.classes, out / "confusion.png")

    shown = [one and Found(*(value[one.scores >= report.score] for value in one)) for one in found]
    judged = []
    for number, (record, one) in enumerate(zip(source.records, shown, strict=True)):
        if one is not None:
            truths = record.boxes, record.labels, record.crowd
            index = match(*truths, one.boxes, one.labels, one.scores, difficult=record.difficult)
            errors = (index == BACKGROUND).sum() + (~record.ignored).sum() - (index >= 0).sum()
            judged.append((-errors, number, index))
    for place, (_, number, index) in enumerate(sorted(judged, key=lambda row: row[:2])[:pictures], 1):
        record, one = source.records[number], shown[number]
        image = pipeline.read_record(record, source.max_pixels)
        scale = pipeline.scale_of(record.size, image.shape[:2])
        image, truths, boxes = visualize.enlarged(image, record.boxes * scale, one.boxes * scale)
        image = visualize.draw_matches(
            image, truths, record.labels, record.ignored, boxes, one.labels, one.scores, source.classes, index
        )
        visualize.save(out / "pictures" / f"{place:02d}_{printable(Path(str(record.image_id)).stem)[:100]}.jpg", image)


def _write_json(path, value):
    checkpoint.write_text(path, json.dumps(value, ensure_ascii=False))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return (
            [_plain(item) for item in np.asarray(value).tolist()]
            if isinstance(value, np.ndarray)
            else list(map(_plain, value))
        )
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def _figure(value):
    return "-" if math.isnan(value) else f"{value:.3f}"
