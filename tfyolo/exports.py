"""Exports: a SavedModel that serves pictures, and TFLite files with everything inside. None is kept that was not run and compared.

export(model, "runs/x/export", [Form("tflite", "int8")], calibration=source, judged=source) -> {name: Exported}
"""

import contextlib
import errno
import inspect
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tqdm import tqdm

from tfyolo import checkpoint, metadata
from tfyolo import config as configs
from tfyolo.data import pipeline, readers
from tfyolo.decoders import DECODERS
from tfyolo.detect import EXPORT_META, Detector, checksums, load, restore
from tfyolo.evaluation import evaluate
from tfyolo.files import parse_json, read_regular
from tfyolo.fusion import fuse
from tfyolo.layers import mish, mish_by_exp
from tfyolo.messages import libraries_silent
from tfyolo.model import Model, build, describe, load_model, multiple, network_for, resized, resolve, weights_file
from tfyolo.quantization import CALIBRATED_BY, damage, in_integers, quantized_by
from tfyolo.structures import Candidates, Detections

TARGETS = ("saved_model", "tflite")
PRECISIONS = ("float32", "float16", "dynamic", "int8", "full-int8")
SUPPRESSIONS = ("builtin", "task", "none")
# How far a file's best score, and its boxes (in pixels per 100 of the picture's side), may lie from the model's on pictures of noise.
NUMERIC = {
    "float32": (1e-3, 0.1),
    "float16": (2e-2, 2.0),
    "dynamic": (0.1, 5.0),
    "int8": (0.25, 10.0),
    "full-int8": (0.3, 15.0),
}
MAX_DROP = {"float32": 0.002, "float16": 0.002, "dynamic": 0.01, "int8": 0.01, "full-int8": 0.05}  # of AP
LABELMAP = "labelmap.txt"  # the classes, one a line, beside files for the task libraries
MOST_PIXELS = 1 << 25  # of a picture that the SavedModel decodes: 100 MB


class ExportError(ValueError):
    """An export cannot be written, or is not as good as it should be. The message says why and what to do."""


class Form(NamedTuple):
    """What is written. to: of TARGETS. precision: of PRECISIONS; a SavedModel has float32. nms: of SUPPRESSIONS: "builtin" operations,
    the "task" libraries' own operation for it, or "none": decoded boxes and scores of all candidates.
    """

    to: str
    precision: str = "float32"
    nms: str = "builtin"

    @property
    def name(self):
        parts = [self.to, *([self.precision] if self.precision != "float32" else [])]
        parts += [{"task": "task", "none": "raw"}[self.nms]] if self.nms != "builtin" else []
        return "-".join(parts)

    @property
    def file(self):
        return self.name if self.to == "saved_model" else f"{self.name.replace('tflite', 'model', 1)}.tflite"


FORMS = (Form("saved_model"), Form("tflite"), Form("tflite", "float16"), Form("tflite", "dynamic"))


class Exported(NamedTuple):
    """A file that was written. report: {"bytes", "best_score_off", "scores_off", "boxes_off", "ms", "keras_ms"}, with data also {"AP",
    "keras_AP", "drop"}, of int8 "worst": [(map, signal to noise in dB)] and "quantization": {input or output in whole numbers: {"dtype",
    "scale", "zero_point"}}, of calibration images that cannot be read "skipped": [why], of "task" "labels": the file of class names.
    """

    path: Path
    report: dict


# --- the whole --------------------------------------------------------------------------------------------------------------------


def export(
    model: Model | str | os.PathLike,
    out: str | os.PathLike | None = None,
    forms: Sequence[Form | tuple] = FORMS,
    *,
    data: configs.Data | str | os.PathLike | None = None,
    size: tuple[int, int] | None = None,
    any_size: bool = False,
    batch: int = 1,
    per_channel: bool = True,
    calibration: readers.Source | None = None,
    judged: readers.Source | None = None,
    max_drop: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Exported]:
    """Writes a Model's exports into a folder, each only once it has been run and compared.

    Args:
        model: a Model, or the path of a run.
        out: the folder; None: `export` in the run's.
        forms: what to write, each a Form or what makes one: ("tflite", "int8").
        data: a data set whose `train` split calibrates int8 and on whose `val` split AP is compared; a configs.Data names other splits.
            None: for int8, that of the run.
        size: (H, W) in place of the config's.
        any_size: a SavedModel's serving_default takes pictures of every size that its largest stride divides, not of that one only.
        batch: pictures that a TFLite file takes at once.
        per_channel: int8 kernels have steps for each output; False is for accelerators that know only one for all.
        calibration: a Source in place of data's; its pictures find the bounds of int8, which a model that was trained with rounding has.
        judged: a Source in place of data's; a file is refused if its AP is lower than the model's by more than max_drop.
        max_drop: None: that of the file's precision in MAX_DROP.
        overwrite: replaces what an earlier export has left; otherwise that is an error, before anything is written. Whatever goes wrong,
            what was there stays.

    Returns:
        {form's name: Exported}.

    Raises:
        ExportError: something cannot be written, or is not as good as it should be.
        CheckpointError, DataError: the run or the data cannot be read.
    """
    run = None if isinstance(model, Model) else model
    if run is not None:
        out = weights_file(run).parent / "export" if out is None else out
        model = load_model(run)
    if out is None:
        raise ExportError("expected a folder for the exports of a model in memory, received none")
    forms = [form if isinstance(form, Form) else Form(*form) for form in forms]
    for form in forms:
        _check(form, batch)
    if model.config.train.quantize and not per_channel:
        raise ExportError(
            "--per-tensor: the run was trained with steps of each output; train it again without rounding"
        )
    out = Path(out)
    taken = [str(out / form.file) for form in forms if (out / form.file).exists()]
    labelmap = out / LABELMAP if any(form.nms == "task" for form in forms) else None
    if labelmap and labelmap.exists() and not _holds(labelmap, _label_lines(model)):
        taken.append(str(labelmap))
    if taken and not overwrite:
        raise ExportError(f"{', '.join(taken)}: there already; give another --out, or --overwrite to replace it")
    if any_size and not any(form.to == "saved_model" for form in forms):
        raise ExportError("--any-size: only a SavedModel takes pictures of any size, expected --to saved_model")
    if size is not None:
        model = resized(model, size)
    # All else is checked: reading may take minutes.
    calibration, judged = _sources(model, forms, data, calibration, judged, run)
    for form in forms:
        _check_calibration(form, model, calibration)
    open_network = network_for(model, (None, None)) if any_size else None
    writer = _Writer(model, batch, per_channel, calibration, open_network)
    gate = _Gate(model, judged, max_drop, writer.typical)
    made = {}
    with contextlib.ExitStack() as stack:
        with _on_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(checkpoint.scratch(out, "export"))
        for form in tqdm(forms, desc="export", unit="file", leave=False, disable=not progress or None):
            aside, path = scratch / form.file, out / form.file
            with _on_disk(out):
                notes = writer.write(form, aside)
            made[form.name] = Exported(path, gate.judge(form, aside) | notes)
            with _on_disk(out):
                if form.nms == "task":
                    checkpoint.write_text(labelmap, _label_lines(model))
                checkpoint.replace(aside, path)
                report = {form.name: {"file": form.file, **made[form.name].report}}
                checkpoint.write_text(out / "report.json", json.dumps(_earlier(out) | report, indent=1))
    return made


def _sources(model, forms, data, calibration, judged, run=None):
    """(calibration, judged) as export takes them, read where they are not given. run: where its division of the data may lie."""
    whole = any("int8" in form.precision for form in forms)
    if isinstance(data, str | os.PathLike):
        data = configs.Data(path=os.fspath(data))
    if data is None and whole and calibration is None:
        data = model.config.data
    if data is None:
        return calibration, judged
    given = {"train": calibration, "val": judged}
    missing = [use for use, source in given.items() if source is None and (use == "val" or whole)]
    given |= dict(zip(missing, readers.read_all_configured(data, missing, None, run), strict=True))
    return given["train"], given["val"]


@contextlib.contextmanager
def _on_disk(out):
    """What goes wrong with the disk is told as such."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"{out}: {error.strerror or error}; free some space or give another --out") from error


def _holds(file, text):
    try:
        return read_regular(file) == text.encode()
    except OSError:
        return False


def _earlier(out):
    try:
        report = parse_json(read_regular(out / "report.json"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _label_lines(model):
    """The names of a Model's classes, one a line, in label order."""
    return "".join(f"{label}\n" for label in model.classes)


def _check(form, batch):
    """Raises ExportError if there is no such Form, or none for so many images at once."""
    for value, choices in zip(form, (TARGETS, PRECISIONS, SUPPRESSIONS), strict=True):
        if value not in choices:
            raise ExportError(f"expected one of {', '.join(choices)}, received {value!r}")
    if form.to == "saved_model" and form[1:] != ("float32", "builtin"):
        raise ExportError(
            f"{form.name}: a SavedModel has float32 and its own suppression; these options are for tflite"
        )
    if batch < 1:
        raise ExportError(f"batch: expected a whole number above 0, received {batch}")
    if form.nms == "task" and batch != 1:
        raise ExportError("task: its operation takes one picture at a time, expected --batch 1")
    if form.precision == "full-int8" and form.nms != "none":
        raise ExportError("full-int8: suppression has no form in whole numbers, expected --nms none")


def _check_calibration(form, model, calibration):
    """Raises ExportError if a Form needs images to find its ranges in, and the calibration's Source has none."""
    needed = "int8" in form.precision and (form.precision == "full-int8" or not model.config.train.quantize)
    if needed and (calibration is None or not calibration.records):
        raise ExportError(
            f"{form.precision}: expected pictures to find the bounds with, received none; --data names a data set like the one it was "
            "trained on"
        )


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )


# --- the gate ---------------------------------------------------------------------------------------------------------------------


class _Gate:
    """Runs what was written, beside the Model.

    typical: gives a batch of images that int8's ranges were found in, if they were: it is not made for others.
    """

    def __init__(self, model, judged, max_drop, typical):
        self.typical = typical
        self.model, self.judged, self.max_drop = model, judged, max_drop
        # What was trained with rounding is exported without it where the file does not round.
        plain, rounding = _plain(model), Detector.of(fuse(model))
        self.detectors = {True: rounding, False: rounding if plain is model else Detector.of(fuse(plain))}
        self.references = {}  # {Detector: its AP}
        height, width = model.config.model.input_size
        # Noise of all sizes: what a picture is to a network. Rounded, because some files read whole numbers.
        rng = np.random.default_rng(0)
        layers = [tf.image.resize(rng.random((3, 2**k, 2**k, 3)), (height, width)).numpy() for k in (1, 3, 5, 8)]
        self.noise = _with_black(np.mean(layers, axis=0))

    def judge(self, form, path):
        """The report; ExportError if the file is not what it should be."""
        rounds = "int8" in form.precision
        own, detector = self.detectors[rounds], load(path)
        typical = self.typical() if rounds else None
        images, what = (self.noise, "noise") if typical is None else (_with_black(typical[:3]), "the calibration")
        report = {"bytes": size_of(path), **self._compared(form, own, detector, images, what)}
        report |= {"ms": _milliseconds(detector, self.noise), "keras_ms": _milliseconds(own, self.noise)}
        if self.judged is not None and own not in self.references:
            self.references[own] = evaluate(own, self.judged, progress=False).metrics["AP"]
        if not np.isnan(self.references.get(own, np.nan)):  # as it is where there is no truth to judge by
            reference, ap = self.references[own], evaluate(detector, self.judged, progress=False).metrics["AP"]
            drop, most = reference - ap, self.max_drop if self.max_drop is not None else MAX_DROP[form.precision]
            report |= {"AP": ap, "keras_AP": reference, "drop": drop}
            if not drop <= most:
                raise ExportError(
                    f"{form.name}: its AP is {ap:.4f}, {drop:.4f} below the model's {reference:.4f}; at most {most:g} may be lost "
                    f"(--max-drop). The file was not kept. {_advice(form)}"
                )
        return report

    def _compared(self, form, own, detector, images, what):
        """How far every output of the file lies from the model's, at most; ExportError if that is too far."""
        score, pixels = NUMERIC[form.precision]
        size = self.model.config.model.input_size
        pixels *= max(size) / 100
        every = []
        for image in images:
            outputs = [each.network(image[None]) for each in (own, detector)]
            if form.precision == "full-int8":  # which knows no box beyond the image
                outputs[0] = outputs[0]._replace(
                    boxes=tf.clip_by_value(outputs[0].boxes, 0.0, np.array([*size] * 2, "f4"))
                )
            found = [
                tf.nest.map_structure(lambda x: np.asarray(x)[0], each.postprocess(output))
                for each, output in zip((own, detector), outputs, strict=True)
            ]
            if fault := _malformed(found[1], len(self.model.classes), _least_score(self.model)):
                raise ExportError(f"{form.name}: {fault}. The file was not kept. Please report it.")
            pairs = [found, [_as_detections(each) for each in outputs]] if form.nms == "none" else [found]
            for mine, theirs in pairs:
                if mine.boxes.shape != theirs.boxes.shape:
                    shapes = f"boxes {list(theirs.boxes.shape)} where the model has {list(mine.boxes.shape)}"
                    raise ExportError(f"{form.name}: it gives {shapes}. The file was not kept. Please report it.")
                off = [abs(mine.best - theirs.best), 0.0, 0.0]
                if image.any():  # in the black image cells are alike, and of boxes of one score it is chance which stay
                    off[1] = np.abs(mine.scores - theirs.scores).mean()
                    off[2] = max(_apart(mine, theirs, score), _apart(theirs, mine, score))
                every.append(off)
        names = ("best_score_off", "scores_off", "boxes_off")
        off = dict(zip(names, map(float, np.max(every, axis=0)), strict=True))  # NaN, if one is
        if not (off["best_score_off"] <= score and off["scores_off"] <= score and off["boxes_off"] <= pixels):
            raise ExportError(
                f"{form.name}: on pictures of {what} its best score is off by {off['best_score_off']:.3g}, its scores by "
                f"{off['scores_off']:.3g} (at most {score:g}), its boxes by {off['boxes_off']:.3g} pixels (at most {pixels:.3g}). "
                f"The file was not kept. {_advice(form)}"
            )
        return off


def _with_black(images):
    """[n, H, W, 3] float32, rounded, because some files read integers; the last one is black, to see what follows few detections."""
    images = np.concatenate([images, np.zeros_like(images[:1])])
    return (np.round(255 * np.clip(images, 0, 1)) / 255).astype("float32")


def _least_score(model):
    """What the scores of a Model's detections are above."""
    option = inspect.signature(model.postprocess).parameters.get("score")
    return float(option.default) if option else 0.0


def _malformed(found, classes, least):
    """What is wrong with Detections of one image that contradict themselves; None if nothing is."""
    above = int(np.sum(found.scores > least))
    if int(found.count) != above:
        return f"its count is {int(found.count)}, where {above} of its scores are above {least:g}"
    if found.boxes[above:].any() or found.scores[above:].any() or (found.labels[above:] != -1).any():
        return f"behind its {above} detections stand others, where boxes and scores are to be 0 and labels -1"
    labels = found.labels[:above]
    if (
        not np.isfinite(found.boxes).all()
        or np.any(np.diff(found.scores) > 0)
        or np.any((labels < 0) | (labels >= classes))
    ):
        return f"its detections are not finite, not best first or not of labels below {classes}"
    return None


def _as_detections(candidates):
    """Candidates, best first, each as of its best class; [N] of the first image."""
    boxes, scores = (np.asarray(x)[0] for x in (candidates.boxes, candidates.scores))
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    return Detections(boxes[order], best[order], scores.argmax(axis=1)[order], len(order), best.max(initial=0.0))


def _advice(form):
    if "int8" not in form.precision:
        return "Please report it."
    return "More, or more typical, pictures for --data may help; training with rounding does: tfyolo train RUN train.quantize=true"


def _apart(mine, theirs, margin, least=0.3):
    """Pixels between the clear detections of one and the nearest of the other's of their class, the median."""
    clear = np.flatnonzero(mine.scores >= least + margin)
    found = []
    for i in clear[:50]:
        same = theirs.labels == mine.labels[i]
        gaps = np.abs(theirs.boxes[same] - mine.boxes[i]).max(axis=1)
        found.append(gaps.min() if len(gaps) else max(mine.boxes[i].max(), 1.0))
    return float(np.median(found)) if found else 0.0


def _milliseconds(detector, images, calls=12):
    """The median of one picture, from pixels to detections."""
    taken = []
    for i in range(calls + 2):
        start = time.perf_counter()
        found = detector.postprocess(detector.network(images[i % len(images)][None]))
        np.asarray(found.boxes)
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken[2:]), 3)


# --- writing ----------------------------------------------------------------------------------------------------------------------


class _Writer:
    """Makes the files of one Model. open_network: its network for pictures of any size. skipped: {place: why} of calibration images."""

    def __init__(self, model, batch, per_channel, calibration, open_network=None):
        self.model, self.batch, self.per_channel, self.calibration = model, batch, per_channel, calibration
        self.open_network = open_network
        self.rounded, self.worst, self.skipped = None, None, {}

    def write(self, form, path):
        """Writes the file, and gives what its report says beside what the gate finds."""
        if form.to == "saved_model":
            given = self.model if self.open_network is None else self.model._replace(network=self.open_network)
            _write_saved_model(_plain(given), path, None if self.open_network is None else multiple(self.model))
            return {}
        content = self._tflite(form)
        path.write_bytes(content)
        notes = {"labels": LABELMAP} if form.nms == "task" else {}
        if "int8" in form.precision:
            notes["quantization"] = metadata.quantization(content)
            notes |= {"skipped": list(self.skipped.values())} if self.skipped else {}
            notes |= {"worst": self.worst} if self.worst else {}
        return notes

    def _tflite(self, form):
        model = for_tflite(_plain(self.model))
        integers = form.precision == "full-int8"
        if "int8" in form.precision:
            model = _bounded(self._rounding()) if integers else self._rounding()
        content = to_tflite(model, ENDS[form.nms, integers], form.precision, self.batch)
        if integers:
            content = in_integers(content, self._pictures(), per_channel=self.per_channel)
        outputs = [metadata.Output(name, *what) for name, what in OUTPUTS[form.nms].items()]
        if integers:
            outputs = [each._replace(kind="boxes_unit") if each.name == "boxes" else each for each in outputs]
        config = model.config
        described = metadata.describe(
            config.name,
            f"{config.name}, trained with tfyolo on {config.data.path if config.data else 'pictures unknown'}; {len(model.classes)} "
            f"classes, pictures brought to {list(config.model.input_size)} by {config.model.preprocess}",
            outputs,
            _least_score(model),
            "int8" in form.precision,
        )
        content = metadata.attached(content, [each.name for each in outputs], described)
        export = {"nms": form.nms, "precision": form.precision}
        text = json.dumps(describe(self.model, export=export, sha256=metadata.checksum(content)))
        return metadata.with_files(content, {EXPORT_META: text, metadata.LABELS: _label_lines(model)})

    def _rounding(self):
        """The Model that rounds as int8 does: with the bounds it has learned, or with those that pictures find."""
        if self.rounded is None and self.model.config.train.quantize:
            self.rounded = self.model
        elif self.rounded is None:
            self.rounded, fused = quantized_by(for_tflite(self.model), self._pictures, per_channel=self.per_channel)
            self.worst = damage(fused, self.rounded, next(iter(self._pictures())))[:5]
        return self.rounded

    def _pictures(self):
        """Batches of the calibration's images, as the network reads them."""
        config, source = self.model.config.model, self.calibration
        records = pipeline.sampled(source.records, CALIBRATED_BY)
        options = {"skipped": self.skipped, "most_pixels": source.max_pixels}
        return pipeline.prepared_batches(records, config.input_size, config.preprocess, **options)

    def typical(self):
        return next(iter(self._pictures())) if self.calibration and self.calibration.records else None


def _plain(model):
    """The Model without the rounding that it may have been trained with."""
    if not model.config.train.quantize:
        return model
    size = model.network.input_shape[1:3]
    other = fuse(build(model.config, model.classes, input_size=size))
    weights = checkpoint.weights_of(model.network)
    checkpoint.assign(other.network, {name: weights[name] for name in checkpoint.weights_of(other.network)})
    return other


def _bounded(model):
    """The Model whose boxes have sides of at most two images: the fewer pixels 256 steps are over, the finer they are.

    A box so long whose middle lies in the image reaches over both borders, where it is cut anyway.
    """
    part = model.config.model.decoder
    builder, options = resolve(model.config, "model.decoder", part, DECODERS)
    if "largest" not in inspect.signature(builder).parameters:
        return model
    return model._replace(decoder=builder(**options | {"largest": 2.0 * max(model.config.model.input_size)}))


def _candidates(model, boxes, scores):
    return Candidates(boxes, scores, None, None, np.array(model.config.model.input_size, "float32"))


def _ends_builtin(model, boxes, scores):
    """Picture by picture, written out: TFLite needs no loop."""
    each = [model.postprocess(_candidates(model, boxes[i : i + 1], scores[i : i + 1])) for i in range(boxes.shape[0])]
    return {name: tf.concat([getattr(one, name) for one in each], 0) for name in each[0]._fields}


def _ends_none(model, boxes, scores):
    return {"boxes": boxes, "scores": scores}


def _ends_normalised(model, boxes, scores):
    """Boxes as parts of the image, cut at its borders.

    Cut by a fake quantization each before and after the division: what adds up to a corner takes over the first one's range, and so has
    all of its 256 steps inside the image.
    """
    size = model.config.model.input_size
    boxes = tf.quantization.fake_quant_with_min_max_args(boxes, 0.0, float(max(size)))
    boxes_unit = boxes / np.array([*size] * 2, "float32")
    return {"boxes": tf.quantization.fake_quant_with_min_max_args(boxes_unit, 0.0, 1.0), "scores": scores}


def _ends_task(model, boxes, scores):
    """What TFLite_Detection_PostProcess gives, which the task libraries read: boxes in 0..1, and numbers as floats.

    That operation itself leaves behind its `count` whatever its memory held, and is no builtin one.
    """
    found = model.postprocess(_candidates(model, boxes, scores))
    location = found.boxes / np.array([*model.config.model.input_size] * 2, "float32")
    values = location, tf.cast(found.labels, tf.float32), found.scores, tf.cast(found.count, tf.float32)
    return dict(zip(OUTPUTS["task"], values, strict=True))


# How a file ends: {(nms, in whole numbers): (Model, boxes [B, N, 4], scores [B, N, K]) -> {output: tensor}}.
ENDS = {
    ("builtin", False): _ends_builtin,
    ("none", False): _ends_none,
    ("none", True): _ends_normalised,
    ("task", False): _ends_task,
}
_FOUND = {
    "boxes": ("Top, left, bottom and right of each detection", "boxes"),
    "scores": ("0..1", "numbers"),
    "labels": ("Numbers of the classes", "labels"),
    "count": ("How many were found; what follows is padding", "numbers"),
    "best": ("The highest score of all candidates", "numbers"),
}
# The outputs of a TFLite file, in their order: {nms: {name: (description, kind)}}. That of "task" is the one that its libraries know.
OUTPUTS = {
    "builtin": _FOUND,
    "none": {
        "boxes": ("Top, left, bottom and right of each candidate", "boxes"),
        "scores": ("0..1 of each class, in the order of labels.txt", "labels"),
    },
    "task": {
        "location": ("Top, left, bottom and right of each detection, 0..1", "boxes_unit"),
        "category": ("Numbers of the classes", "labels"),
        "score": ("0..1", "numbers"),
        "number of detections": ("How many were found", "numbers"),
    },
}


def for_tflite(model):
    """The Model with its batch norms folded, in the words that TFLite's kernels are fast at."""
    return fuse(model, {mish: mish_by_exp})


def to_tflite(model, end, precision="float32", batch=1):
    """The bytes of a TFLite file of a Model as it is: for_tflite fuses it. end: of ENDS. Of full-int8 the decoder is float still."""
    height, width = model.config.model.input_size
    signature = tf.TensorSpec([batch, height, width, 3], tf.float32, "images")

    @tf.function(input_signature=[signature], autograph=False)
    def candidates(images):
        found = model.decoder(model.network(images, training=False))
        return found.boxes, found.scores

    # Frozen before anything else is made of it: converted with its variables, a model can lose its weights without a word.
    frozen = convert_variables_to_constants_v2(candidates.get_concrete_function())
    module = tf.Module()

    @tf.function(input_signature=[signature], autograph=False)
    def serve(images):
        return end(model, *frozen(images))

    module.serve = serve
    with tempfile.TemporaryDirectory() as scratch:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        _save(module, scratch, {"serving_default": serve}, options)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if "int8" in precision:
            converter.inference_input_type = tf.uint8
        with libraries_silent():  # the converter's notes on what it quantises
            return converter.convert()


# --- the SavedModel ---------------------------------------------------------------------------------------------------------------


def _save(module, path, signatures, options=None):
    try:
        tf.saved_model.save(module, str(path), signatures=signatures, options=options)
    except tf.errors.OpError as error:  # the disk's reason stands at its end
        reason = error.message.rpartition("; ")[2].removesuffix(" [Op:SaveV2]")
        raise OSError(errno.EIO, f"{reason}, writing in {Path(path).parent}") from error


def _write_saved_model(model, path, any_size):
    model = fuse(model)
    # Only the variables are handed over: with the Keras model beside them, each would be written twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.network.variables]
    _save(module, path, _signatures(model, any_size))
    extra = path / "assets.extra"
    extra.mkdir()
    text = json.dumps(describe(model, sha256=checksums(path)))
    (extra / EXPORT_META).write_text(text, encoding="utf-8")
    (extra / metadata.LABELS).write_text(_label_lines(model), encoding="utf-8")


def _signatures(model, any_size):
    """The whole way from a picture to boxes, three times.

    any_size: None, or what the sides of pictures must be multiples of, of which the first takes every size.
    """
    height, width = model.config.model.input_size
    prepared = (
        tf.TensorSpec([height, width, 3], tf.float32),
        tf.TensorSpec([3, 3], tf.float32),
        tf.TensorSpec([2], tf.int32),
        tf.TensorSpec([], tf.bool),
    )

    def detect(images):
        return model.postprocess(model.decoder(model.network(images, training=False)))

    def detect_pictures(pictures, prepare):
        images, transforms, sizes, valid = tf.map_fn(prepare, pictures, fn_output_signature=prepared)
        found = detect(images)
        found = found._replace(boxes=restore(found.boxes, transforms, sizes))._asdict()
        return found, valid

    def prepare(picture):
        image, transform = pipeline.prepare(picture, (height, width), model.config.model.preprocess)
        return image, transform, tf.shape(picture)[:2]

    def prepare_contents(contents):
        # A data set of one, whose error is nothing but its end: what follows then is an empty picture.
        nothing = (tf.zeros([height, width, 3]), tf.eye(3), tf.zeros([2], tf.int32), False)
        one = tf.data.Dataset.from_tensors(contents)
        one = one.map(lambda contents: (*prepare(pipeline.decode_image(contents, MOST_PIXELS)), True)).ignore_errors()
        return one.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1).get_single_element()

    sides = (None, None) if any_size else (height, width)

    @tf.function(input_signature=[tf.TensorSpec([None, *sides, 3], tf.float32, "images")])
    def serving_default(images):
        if any_size:
            received = tf.shape(images)[1:3]
            fits = tf.reduce_all(received % any_size == 0)
            expected = f"images: expected a height and a width that are multiples of {any_size}, received"
            with tf.control_dependencies([tf.debugging.Assert(fits, [expected, received])]):
                images = tf.identity(images)
        return detect(images)._asdict()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def uint8(images):
        return detect_pictures(images, lambda picture: (*prepare(picture), True))[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "contents")])
    def files(contents):
        found, valid = detect_pictures(contents, prepare_contents)
        empty = {"scores": 0.0, "boxes": 0.0, "labels": -1, "count": 0, "best": 0.0}
        for name, value in empty.items():
            mask = tf.reshape(valid, [-1] + [1] * (len(found[name].shape) - 1))
            found[name] = tf.where(mask, found[name], tf.cast(value, found[name].dtype))
        return found | {"valid": valid}

    return {"serving_default": serving_default, "uint8": uint8, "bytes": files}
