"""Exports: a SavedModel that serves images, TFLite files with NMS included. None is kept that was not run and compared.

export(model, "runs/x/export", [Target("tflite", "int8")], calibration=source, validation=source) -> {name: Exported}
"""

import contextlib
import functools
import json
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tfyolo import config as configs
from tfyolo.data import readers
from tfyolo.data.sources.source import Source
from tfyolo.exports.card import CARD
from tfyolo.exports.card import is_one as is_card
from tfyolo.exports.card import text as card_text
from tfyolo.exports.destinations import lints_of
from tfyolo.exports.gate import Gate
from tfyolo.exports.job import FLOAT_SHARES, Job
from tfyolo.exports.targets import (
    DEFAULT_TARGETS,
    LABELMAP,
    ExportError,
    RefusedError,
    Target,
    check_target,
    label_lines,
)
from tfyolo.files import (
    NotLocalError,
    address,
    atomic_replace,
    here,
    normal,
    parse_json,
    read_regular,
    scratch_folder,
    unreachable,
    write_text,
    written_to,
)
from tfyolo.model import Model, load_model, network_for, resized, weights_file
from tfyolo.origin import to_meta
from tfyolo.predict.runtimes import resolved


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: of the file or folder.
        report: {"bytes", "best_score_off", "scores_off", "boxes_off", "ms", "keras_ms", "origin": of the weights,
            {"weights", "licence", "source"} or None if they began at random}. With data also "AP", "keras_AP", "drop",
            "F1" and "keras_F1" at the confidence threshold 0.25, "score_shift" in the mean; of int8 "worst": [(feature
            map, SQNR in dB)] and "quantization": {integer input or output: {"dtype", "scale", "zero_point"}}; of
            calibration images that cannot be read "skipped": [why]; with a label map "labels": the file of class names;
            of "auto", where int8 alone was refused, "floats": [feature map] that stay float32, "ms_more": their cost;
            where it is meant for devices of few operators "lint", as destinations.lints_of gives it.
    """

    path: Path
    report: dict


def export(
    model: Model | str | os.PathLike,
    out: str | os.PathLike | None = None,
    targets: Sequence[Target | tuple] = DEFAULT_TARGETS,
    *,
    data: configs.Data | str | os.PathLike | None = None,
    size: tuple[int, int] | None = None,
    any_size: bool = False,
    batch: int = 1,
    per_channel: bool = True,
    calibration: Source | None = None,
    validation: Source | None = None,
    max_drop: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Exported]:
    """Writes a Model's exports into a folder, each only once it has been run and compared.

    Args:
        model: a Model, or the path of a run.
        out: the folder; None: `export` in the run's.
        targets: what to write, each a Target or what makes one: ("tflite", "int8").
        data: a data set whose `train` split calibrates int8 and on whose `val` split AP is compared; a configs.Data
            names other splits. None: for int8, that of the run.
        size: (H, W) in place of the config's.
        any_size: a SavedModel's serving_default takes images of every size that its largest stride divides, not of that
            one only.
        batch: images that a TFLite file takes at once.
        per_channel: int8 kernels have a scale for each output; False, one per tensor, is for old accelerators.
        calibration: a Source in place of data's; its images give int8 its ranges; a model of quantization-aware
            training (QAT) has them.
        validation: a Source in place of data's; a file is refused if its AP is lower than the model's by more than
            max_drop.
        max_drop: None: that of the file's precision.
        overwrite: replaces what an earlier export has left; otherwise that is an error, before anything is written.
            Whatever goes wrong, what was there stays.
        progress: shows a bar on standard error.

    Returns:
        {target's name: Exported}.

    Raises:
        ExportError: something cannot be written, or is not as good as it should be.
        CheckpointError, DataError: the run or the data cannot be read.
    """
    run = None if isinstance(model, Model) else model
    if out is not None and (wrong := unreachable(out)):
        raise NotLocalError(wrong)
    if run is not None:
        out = folder_for(run) if out is None else out
        run = here(run)
        model = load_model(run)
    if out is None:
        raise ExportError("expected a folder for the exports of a model in memory, received none")
    targets = [target if isinstance(target, Target) else Target(*target) for target in targets]
    with written_to(out, whole=True) as folder:
        _check_options(model, folder, targets, any_size, batch, per_channel, overwrite, normal(out))
        if size is not None:
            model = resized(model, size)
        # All else is checked: reading may take minutes.
        calibration, validation = _sources(model, targets, data, calibration, validation, run)
        for target in targets:
            _check_calibration(target, model, calibration)
        open_network = network_for(model, (None, None)) if any_size else None
        job = Job(model, batch, per_channel, calibration, open_network)
        gate = Gate(model, validation, max_drop, functools.partial(job.typical, validation))
        made = _write(folder, targets, job, gate, progress)
    return {name: each._replace(path=Path(out) / each.path.name) for name, each in made.items()}


def folder_for(run) -> str | Path:
    """Where the exports of a run lie that are given no folder: `export` in the run's, there if it is an address."""
    if not (found := address(run)):
        return weights_file(run).parent / "export"
    return posixpath.join(posixpath.dirname(found) if found.endswith(".h5") else found, "export")


def _check_options(model, out, targets, any_size, batch, per_channel, overwrite, shown):
    """Raises ExportError if what is asked for cannot be written, or is there already. shown: what `out` is called."""
    for target in targets:
        check_target(target, batch)
        if target.nms == "logits":
            _check_logits(target, model)
    if model.is_quantized and not per_channel:
        raise ExportError(
            "--per-tensor: the run was trained with a scale for each output; train it again with model.quantize=false"
        )
    taken = [target.file for target in targets if (out / target.file).exists()]
    labelmap = out / LABELMAP if any(target.has_labelmap for target in targets) else None
    if labelmap and labelmap.exists() and not _holds(labelmap, label_lines(model)):
        taken.append(LABELMAP)
    if (out / CARD).exists() and not is_card(read_regular(out / CARD)):
        taken.append(CARD)
    if taken and not overwrite:
        taken = [os.path.join(shown, name) for name in taken]
        raise ExportError(f"{', '.join(taken)}: there already; give another --out, or --overwrite to replace it")
    if any_size and not any(target.exporter.any_size for target in targets):
        raise ExportError("--any-size: only a SavedModel takes images of any size, expected --to saved_model")


def _check_logits(target, model):
    """Raises ExportError unless a Model's class logits and box distributions can be told apart by their shapes."""
    decoder, classes = model.decoder, len(model.classes)
    if not decoder.is_distribution or decoder.has_objectness:
        raise ExportError(
            f"{target.nms}: expected a model with box distributions and no objectness (YOLOv8, v9, 11, lite), received "
            f"{model.config.name}; --nms heads writes its raw feature maps"
        )
    if classes == 1 or classes == decoder.box_channels:
        raise ExportError(
            f"{target.nms}: what reads it tells classes and boxes apart by their number, so that 1 class and "
            f"{decoder.box_channels} cannot be; received {classes}. Add a class, which may have no boxes"
        )


def _write(out, targets, job, gate, progress):
    """Writes each target aside, has the gate check it, and gives it its name: {target's name: Exported}."""
    made = {}
    with contextlib.ExitStack() as stack:
        with _on_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(scratch_folder(out, "export"))
        for target in tqdm(targets, desc="export", unit="file", leave=False, disable=not progress or None):
            aside, path = scratch / target.file, out / target.file
            report = _passed(job, target, aside, gate, out) | {"origin": to_meta(job.model.origin)}
            if lints := lints_of(target, aside):
                report["lint"] = lints
            made[target.name] = Exported(path, report)
            with _on_disk(out):
                if target.has_labelmap:
                    write_text(out / LABELMAP, label_lines(job.model))
                atomic_replace(aside, path)
                report = {"file": target.file, "target": [*target], **made[target.name].report}
                report = _earlier(out) | {target.name: report}
                write_text(out / "report.json", json.dumps(report, indent=1))
                write_text(out / CARD, card_text(job.model, report))
    return made


def _passed(job, target, aside, gate, out):
    """Writes a target to a path aside until the gate passes it; the report.

    Of a mixed one, more and more feature maps stay in float32; it is refused once FLOAT_SHARES are tried.
    """
    first = None  # its report, of int8 throughout
    for place, share in enumerate(FLOAT_SHARES if target.limits.mixed else (0.0,)):
        if not job.leave_in_float(share) and place:
            break
        with _on_disk(out):
            notes = resolved(target.exporter.write)(job, target, aside)
        try:
            report, fault = gate.check(target, aside) | notes, None
        except RefusedError as error:
            report, fault = error.report, error
        first = first or report
        if fault is None:
            return report | ({"ms_more": report["ms"] - first["ms"]} if "floats" in report else {})
    raise fault


def _sources(model, targets, data, calibration, validation, run=None):
    """(calibration, validation) as export takes them, read where they are not given.

    run: where its division of the data may lie.
    """
    whole = any(target.limits.quantized for target in targets)
    if isinstance(data, str | os.PathLike):
        data = configs.Data(path=os.fspath(data))
    if data is None and whole and calibration is None:
        data = model.config.data
    if data is None:
        return calibration, validation
    given = {"train": calibration, "val": validation}
    missing = [use for use, source in given.items() if source is None and (use == "val" or whole)]
    given |= dict(zip(missing, readers.read_all_configured(data, missing, None, run), strict=True))
    return given["train"], given["val"]


@contextlib.contextmanager
def _on_disk(out):
    """What goes wrong with the disk is reported as such."""
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


def _check_calibration(target, model, calibration):
    """Raises ExportError if a Target needs images to find its ranges in, and the calibration's Source has none."""
    needed = target.limits.quantized and (target.limits.integer or not model.is_quantized)
    if needed and (calibration is None or not calibration.records):
        raise ExportError(
            f"{target.precision}: expected images to find the ranges with, received none; --data names a data set "
            "like the one it was "
            "trained on"
        )
