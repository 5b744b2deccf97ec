"""Exports: a SavedModel that serves images, and TFLite files with NMS included. None is kept that was not run and compared.

export(model, "runs/x/export", [Form("tflite", "int8")], calibration=source, judged=source) -> {name: Exported}"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tfyolo import config as configs
from tfyolo.data import datasets, readers
from tfyolo.data.sources.source import Source
from tfyolo.exports.gate import Gate
from tfyolo.exports.integers import in_integers
from tfyolo.exports.saved_model import write_saved_model
from tfyolo.exports.targets import FORMS, LABELMAP, PRECISIONS, SUPPRESSIONS, TARGETS, ExportError, Form, label_lines
from tfyolo.exports.tflite import ENDS, OUTPUTS, bounded_model, for_tflite, to_tflite
from tfyolo.files import atomic_replace, parse_json, read_regular, scratch_folder, write_text
from tfyolo.graph.calibration import CALIBRATION_IMAGES, calibrated, sqnr
from tfyolo.model import Model, describe, load_model, multiple, network_for, resized, weights_file, without_quantization
from tfyolo.predict.exported import EXPORT_META
from tfyolo.tflite import metadata


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
    calibration: Source | None = None,
    judged: Source | None = None,
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
    if model.config.model.quantize and not per_channel:
        raise ExportError(
            "--per-tensor: the run was trained with steps of each output; train it again without rounding"
        )
    out = Path(out)
    taken = [str(out / form.file) for form in forms if (out / form.file).exists()]
    labelmap = out / LABELMAP if any(form.nms == "task" for form in forms) else None
    if labelmap and labelmap.exists() and not _holds(labelmap, label_lines(model)):
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
    gate = Gate(model, judged, max_drop, writer.typical)
    made = {}
    with contextlib.ExitStack() as stack:
        with _on_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(scratch_folder(out, "export"))
        for form in tqdm(forms, desc="export", unit="file", leave=False, disable=not progress or None):
            aside, path = scratch / form.file, out / form.file
            with _on_disk(out):
                notes = writer.write(form, aside)
            made[form.name] = Exported(path, gate.judge(form, aside) | notes)
            with _on_disk(out):
                if form.nms == "task":
                    write_text(labelmap, label_lines(model))
                atomic_replace(aside, path)
                report = {form.name: {"file": form.file, **made[form.name].report}}
                write_text(out / "report.json", json.dumps(_earlier(out) | report, indent=1))
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
    needed = "int8" in form.precision and (form.precision == "full-int8" or not model.config.model.quantize)
    if needed and (calibration is None or not calibration.records):
        raise ExportError(
            f"{form.precision}: expected pictures to find the bounds with, received none; --data names a data set like the one it was "
            "trained on"
        )


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
            write_saved_model(
                without_quantization(given), path, None if self.open_network is None else multiple(self.model)
            )
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
        model = for_tflite(without_quantization(self.model))
        integers = form.precision == "full-int8"
        if "int8" in form.precision:
            model = bounded_model(self._rounding()) if integers else self._rounding()
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
            model.postprocess.score,
            "int8" in form.precision,
        )
        content = metadata.attached(content, [each.name for each in outputs], described)
        export = {"nms": form.nms, "precision": form.precision}
        text = json.dumps(describe(self.model, export=export, sha256=metadata.checksum(content)))
        return metadata.with_files(content, {EXPORT_META: text, metadata.LABELS: label_lines(model)})

    def _rounding(self):
        """The Model that rounds as int8 does: with the bounds it has learned, or with those that pictures find."""
        if self.rounded is None and self.model.config.model.quantize:
            self.rounded = self.model
        elif self.rounded is None:
            self.rounded, fused = calibrated(for_tflite(self.model), self._pictures, per_channel=self.per_channel)
            self.worst = sqnr(fused, self.rounded, next(iter(self._pictures())))[:5]
        return self.rounded

    def _pictures(self):
        """Batches of the calibration's images, as the network reads them."""
        config, source = self.model.config.model, self.calibration
        records = datasets.sampled(source.records, CALIBRATION_IMAGES)
        options = {"skipped": self.skipped, "most_pixels": source.max_pixels}
        return datasets.prepared_batches(records, config.input_size, config.preprocess, **options)

    def typical(self):
        return next(iter(self._pictures())) if self.calibration and self.calibration.records else None
