"""Evaluation: a detector run over a data set."""

import os
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfyolo.data import datasets, geometry, readers
from tfyolo.data.geometry import restore
from tfyolo.data.loading import answered
from tfyolo.data.sources.source import Source
from tfyolo.evaluation.files import write_report
from tfyolo.evaluation.matching import DetectionColumns, Found
from tfyolo.evaluation.report import EvaluationError, Report, evaluate_detections, shortened_names, title_of
from tfyolo.files import NotLocalError, unreachable, written_to
from tfyolo.messages import counted
from tfyolo.predict.detector import Detector
from tfyolo.predict.load import load


def evaluate(
    detector: Detector | str | os.PathLike,
    data: Source | str | os.PathLike | None = None,
    *,
    split: str | None = None,
    batch: int = 8,
    out: str | os.PathLike | None = None,
    progress: bool = True,
    pictures: int = 0,
) -> Report:
    """Evaluates a detector on a data set.

    Args:
        detector: a Detector, or the path of what tfyolo.load takes: a run, a SavedModel, a .tflite or .onnx file.
        data: a Source, or the path of a data set; None: what the detector was trained with. Classes that only the
            detector or only the data knows, by name, are left out.
        split: of the data set at a path; None: the one that the detector was evaluated on while it trained, else
            "val".
        batch: images at a time; where they do not fit into memory, half of them is tried, and so on.
        out: a folder for metrics.json, detections.json (COCO's results format, the file's own ids), pr_curve.png,
            f1_curve.png and confusion.png.
        progress: whether to show a progress bar on a terminal.
        pictures: how many images to draw there, those with most errors first.

    Returns:
        The Report.

    Raises:
        EvaluationError: detector and data have no class in common, no data are named, batch is not above 0, or not one
            image fits into memory.
        DataError: the data cannot be read.
        CheckpointError: the detector cannot be read.
    """
    return evaluated(detector, data, split=split, batch=batch, out=out, progress=progress, pictures=pictures).report


class Evaluated(NamedTuple):
    """An evaluation with what it stands on.

    Attributes:
        report: the Report.
        found: DetectionColumns, with None for an image that could not be read.
    """

    report: Report
    found: DetectionColumns


def evaluated(detector, data=None, *, split=None, batch=8, out=None, progress=True, pictures=0) -> Evaluated:
    """evaluate(), which takes the same, with the detections.

    Returns:
        Evaluated.
    """
    if batch < 1:
        raise EvaluationError(f"batch: expected an integer above 0, received {batch}")
    if out is not None and (wrong := unreachable(out)):
        raise NotLocalError(wrong)
    detector = load(detector) if isinstance(detector, str | os.PathLike) else detector
    source = data if isinstance(data, Source) else source_for(detector, data, split)
    source, label_of, left_out = _in_common(detector.classes, source)
    found, seconds, resized, batch = _detected(detector, source, label_of, batch, progress)
    report = evaluate_detections(source, found, seconds, resized)._replace(batch=batch, left_out=left_out)
    if out is not None:
        with written_to(out) as folder:
            write_report(folder, report, source, found, pictures)
    return Evaluated(report, found)


def evaluate_share(detector, source, batch, index, count, collect) -> tuple[Report | None, int]:
    """evaluate(), shared by several processes: each takes every count-th image, and the first of them puts together.

    Args:
        detector: a Detector, the same in all of them.
        source: a Source.
        batch: images at a time.
        index: which process this is.
        count: of processes.
        collect: (data, **message) -> [(message, data)] of all of them, in order, of the first; None of the others.

    Returns:
        (the Report, whose seconds are the first's own, or None of the others; how many images at a time have fitted).
    """
    source, label_of, left_out = _in_common(detector.classes, source)
    share = source._replace(records=source.records[index::count])
    found, seconds, resized, batch = _detected(detector, share, label_of, batch, False)
    resized = [index + i * count for i in resized]
    parts = collect(found.to_bytes(), resized=resized)
    if parts is None:
        return None, batch
    found = DetectionColumns.dealt([DetectionColumns.from_bytes(data) for _, data in parts])
    resized = [i for message, _ in parts for i in message["resized"]]
    return evaluate_detections(source, found, seconds, resized)._replace(batch=batch, left_out=left_out), batch


def _detected(detector, source, label_of, batch, progress):
    """What _find returns, {index of an image of another size than stated: its size}, and the batch that fits."""
    found, seconds, resized = DetectionColumns(), None, {}
    while source.records and seconds is None:
        try:
            found, seconds = _find(detector, source, label_of, batch, progress, resized)
        except tf.errors.ResourceExhaustedError as error:
            batch = _smaller(batch, detector, error)
    return found, seconds, resized, batch


def _smaller(batch, detector, error):
    """Half of a batch that does not fit into memory, with a message, since it takes longer.

    Raises:
        EvaluationError: the batch is one image.
    """
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

    Args:
        detector: a Detector.
        path: of a data set; None: what the detector was trained with.
        split: its name; None: the one that the detector was evaluated on while it trained, else "val".
        images: the folder of the images, if the annotations do not lead there.
        format: a key of readers.FORMATS.
        **reading: more options of readers.DataSet.

    Raises:
        EvaluationError: no path is given, and the detector has no config of data.
        DataError: the data cannot be read.
    """
    own = detector.config.data
    if path is None and own is None:
        raise EvaluationError(f"{detector.source} does not say what it was trained with; name the data (--data PATH)")
    if path is None:
        given = {"images": images or own.images, "format": format or own.format, **reading}
        return readers.read_configured(own.model_copy(update=given), split or "val", None, run=detector.source)
    named = own.val if own and isinstance(own.val, str) else "val"
    return readers.read(path, split or named, images=images, format=format, **reading)


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
    """The classes that a detector and a Source have in common.

    Returns:
        (the Source with those classes alone; [K] for each of the detector's classes its label there, or -1; what is
        left out, as a sentence).
    """
    theirs = source.classes
    classes = tuple(_SYNONYMS.get(name, name) if name not in theirs else name for name in classes)
    numbered = theirs == tuple(map(str, range(len(theirs))))  # a YOLO folder without a list of names
    if classes == theirs or (numbered and len(classes) == len(theirs)):
        return source, np.arange(len(theirs)), ""
    common = [name for name in theirs if name in classes]
    if not common:
        raise EvaluationError(
            f"{title_of(source)}: expected classes that the detector knows, {shortened_names(classes)}, received "
            f"{shortened_names(theirs)}"
        )
    label_of = np.array([common.index(name) if name in common else -1 for name in classes])
    only = [[name for name in ours if name not in common] for ours in (classes, theirs)]
    words = [
        f"only {who} {shortened_names(names)}"
        for who, names in zip(("the detector knows", "the data has"), only, strict=True)
        if names
    ]
    left_out = f"evaluated on {shortened_names(common)} by name, left out: {'; '.join(words)}" if words else ""
    return source.with_classes(common) if len(common) < len(theirs) else source, label_of, left_out


def _find(detector, source, label_of, batch, progress, resized):
    """Runs a detector over a Source.

    Args:
        detector: a Detector.
        source: a Source.
        label_of: [K] the Source's label of each of the detector's classes, or -1.
        batch: images at a time.
        progress: whether to show a progress bar on a terminal.
        resized: a dict that gets {index of a Record: (H, W)}, as eval_dataset fills it.

    Returns:
        (DetectionColumns, in pixels of the annotations; {"read", "network", "postprocess", "total"}: the seconds of an
        image).
    """
    found, skipped = DetectionColumns(), {}
    size = np.array(detector.input_size)
    options = {"batch": batch, "preprocess": detector.preprocess, "skipped": skipped}
    options["resized"] = resized
    dataset = iter(datasets.eval_dataset(source, size=detector.input_size, **options))
    laps = []
    with tqdm(
        total=len(source.records), desc="evaluate", unit="image", leave=False, disable=not progress or None
    ) as bar:
        while True:
            started = time.perf_counter()
            with answered():
                sample = next(dataset, None)
            if sample is None:
                break
            read = time.perf_counter()
            outputs = _done(detector.network(sample.image))
            network = time.perf_counter()
            detections = tf.nest.map_structure(np.asarray, detector.postprocess(outputs))
            postprocess = time.perf_counter()
            ids, transforms = np.asarray(sample.image_id), np.asarray(sample.transform)
            # The margins are alike on both sides, and what lies between them is the file's image.
            files = np.rint((size - 2 * transforms[:, :2, 2]) / transforms[:, [0, 1], [0, 1]])
            in_files = np.asarray(restore(detections.boxes, transforms, files))
            for b in np.flatnonzero(ids >= 0):  # in the order of the records
                if ids[b] in skipped:  # what could not be read came as a grey image
                    found.append(None)
                    continue
                kept = slice(detections.count[b])
                boxes = in_files[b, kept]
                inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # what lies wholly beside the image goes
                if ids[b] in resized:
                    boxes = boxes * geometry.scale_of(resized[ids[b]], source.records[ids[b]].size)
                labels = label_of[detections.labels[b, kept]]
                inside &= labels >= 0  # a class that the data does not know
                found.append(Found(boxes[inside], detections.scores[b, kept][inside], labels[inside]))
            images = int((ids >= 0).sum())
            laps.append((images, read - started, network - read, postprocess - network))
            bar.update(images)
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
