"""What can be exported: the table of exporters, and one target of it. Nothing here imports TensorFlow.

A user adds an export target with `EXPORTERS["npz"] = Exporter(...)`, and what reads its files with
predict.runtimes.RUNTIMES.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tfyolo.errors import Error
from tfyolo.predict.runtimes import RUNTIMES

LABELMAP = "labelmap.txt"  # the classes, one a line, beside files for the task libraries


class ExportError(Error):
    """An export cannot be written, or is not as good as it should be. The message says why and what to do."""


class RefusedError(ExportError):
    """An export was written and run, and is not as good as it should be.

    Attributes:
        report: what is known of it, as of one that is.
    """

    def __init__(self, message, report):
        super().__init__(message)
        self.report = report


class Precision(NamedTuple):
    """What the gate allows a precision, and what it needs.

    Attributes:
        score_off: the most that scores may lie from the model's, 0..1.
        boxes_off: the most that boxes may lie from the model's, in pixels per 100 of the image's longer side.
        max_drop: the most AP that may be lost, 0..1; twice as much of F1 at the confidence threshold.
        max_shift: the most that the scores of what both find may be higher or lower, in the mean, 0..1.
        quantized: int8, whose ranges come from calibration images or from quantization-aware training.
        integer: no float tensor is left; boxes are 0..1 and NMS cannot be included.
        depends_on_images: it rounds, so that errors depend on what is seen: the gate compares on images of the data,
            where it has them.
        mixed: where int8 would be refused, the feature maps that cost most stay float32.
    """

    score_off: float
    boxes_off: float
    max_drop: float
    max_shift: float = 0.05
    quantized: bool = False
    integer: bool = False
    depends_on_images: bool = False
    mixed: bool = False


PRECISIONS = {
    "float32": Precision(1e-3, 0.1, 0.002, 0.001),
    # On a black image, where float16 counts most, YOLOX-nano's best score is off by .031; its AP is the same.
    "float16": Precision(5e-2, 2.0, 0.002, 0.01, depends_on_images=True),
    "dynamic": Precision(0.1, 5.0, 0.01, depends_on_images=True),
    "int8": Precision(0.25, 10.0, 0.01, quantized=True, depends_on_images=True),
    "auto": Precision(0.25, 10.0, 0.01, quantized=True, depends_on_images=True, mixed=True),
    "full-int8": Precision(0.3, 15.0, 0.05, quantized=True, integer=True, depends_on_images=True),
}


WITH_NMS = ("builtin", "task", "e2e")  # kinds of outputs
UNDECODED = ("heads", "logits")


class Exporter(NamedTuple):
    """One export format.

    Attributes:
        title: the format in a sentence: "a SavedModel".
        write: (Job, Target, Path) -> notes for the report; writes the file or folder. A string "module:function" is
            imported when needed.
        stem, suffix: of the file's name; no suffix for a folder.
        runtime: the key of predict.runtimes.RUNTIMES whose entry loads it.
        precisions: {name: Precision} that it can have, the default ones first.
        nms: kinds of outputs that it can have: of Target.nms.
        defaults: names of the precisions that are written if none is asked for; they need no data. Without any, it is
            only written when it is named.
        any_size: whether it can take images of any size.
        layouts: orders of the input's axes, as Target's, the default one first.
        needs: modules that it imports beyond what tfyolo is installed with.
        requirement: what pip installs to have them.
    """

    title: str
    write: Callable | str
    stem: str
    suffix: str
    runtime: str
    precisions: Mapping[str, Precision] = MappingProxyType({"float32": PRECISIONS["float32"]})
    nms: tuple[str, ...] = ("builtin",)
    defaults: tuple[str, ...] = ("float32",)
    any_size: bool = False
    layouts: tuple[str, ...] = ("nhwc",)
    needs: tuple[str, ...] = ()
    requirement: str = ""


_ONNX = {
    "precisions": {name: PRECISIONS[name] for name in ("float32", "float16")},
    "nms": ("builtin", "none", "app"),
    "defaults": (),
    "layouts": ("nhwc", "nchw"),
    "needs": ("tf2onnx", "onnx", "onnxruntime"),
    "requirement": "tfyolo[onnx]",
}
EXPORTERS: dict[str, Exporter] = {
    "saved_model": Exporter(
        title="a SavedModel",
        write="tfyolo.exports.saved_model:write",
        stem="saved_model",
        suffix="",
        runtime="saved_model",
        any_size=True,
    ),
    "tflite": Exporter(
        title="a TFLite file",
        write="tfyolo.exports.tflite:write",
        stem="model",
        suffix=".tflite",
        runtime="tflite",
        precisions=PRECISIONS,
        nms=("builtin", "task", "none", "app", "e2e", "heads", "logits"),
        defaults=("float32", "float16", "dynamic"),
    ),
    "onnx": Exporter("an ONNX file", "tfyolo.exports.onnx:write", "model", ".onnx", "onnx", **_ONNX),
    "triton": Exporter(
        "a model repository of Triton's", "tfyolo.exports.triton:write", "triton", "", "triton", **_ONNX
    ),
}


class Target(NamedTuple):
    """One file to export.

    Attributes:
        target: a key of EXPORTERS.
        precision: one of that exporter's precisions.
        nms: what it gives out. With NMS: by "builtin" operations, the "task" libraries' own outputs, or "e2e", one
            tensor of detections. Without: "none", decoded boxes and scores of all candidates; "app", both in one tensor
            [B, 4 + K, N]; "heads", what the last convolutions output; "logits", class logits and box distributions.
        layout: of the input, "nhwc" or "nchw"; None: what who reads such a file expects.
    """

    target: str
    precision: str = "float32"
    nms: str = "builtin"
    layout: str | None = None

    @property
    def exporter(self) -> Exporter:
        """Its entry in EXPORTERS."""
        return EXPORTERS[self.target]

    @property
    def limits(self) -> Precision:
        """What its precision allows and needs."""
        limits = self.exporter.precisions[self.precision]
        if limits.integer and self.nms in UNDECODED:  # no coordinate is in int8
            return limits._replace(max_drop=PRECISIONS["int8"].max_drop)
        return limits

    @property
    def input_layout(self) -> str:
        """The order of the input's axes, "nhwc" or "nchw"."""
        own = "nchw" if self.nms == "app" and "nchw" in self.exporter.layouts else self.exporter.layouts[0]
        return self.layout or own

    @property
    def name(self) -> str:
        """What reports call it: "tflite-int8-task"."""
        return self.target + self._ending

    @property
    def file(self) -> str:
        """The name of its file or folder: "model-int8-task.tflite"."""
        return f"{self.exporter.stem}{self._ending}{self.exporter.suffix}"

    @property
    def has_labelmap(self) -> bool:
        """Whether LABELMAP lies beside it, for clients that read the classes there."""
        return self.nms in ("task", "logits")

    @property
    def _ending(self):
        parts = [self.precision] if self.precision != "float32" else []
        parts += [{"none": "raw"}.get(self.nms, self.nms)] if self.nms != "builtin" else []
        parts += [self.layout] if self.layout and self.layout != self._replace(layout=None).input_layout else []
        return "".join(f"-{part}" for part in parts)


DEFAULT_TARGETS = tuple(Target(name, each) for name, exporter in EXPORTERS.items() for each in exporter.defaults)


def is_quantized(precision: str) -> bool:
    """Whether a precision of some exporter is quantized, and so needs data."""
    return any(precision in each.precisions and each.precisions[precision].quantized for each in EXPORTERS.values())


def choices(attribute: str) -> list[str]:
    """All "precisions", "nms" or "layouts" of all exporters, each once, in the order of the table."""
    return list(dict.fromkeys(each for exporter in EXPORTERS.values() for each in getattr(exporter, attribute)))


def asked_targets(names=(), precisions=(), nms="builtin", narrowed=False, layout=None) -> list[Target]:
    """The Targets of a command.

    Args:
        names: of EXPORTERS; none: all with defaults, or, of a narrowed command, those of them that have a choice of
            precisions.
        precisions: of each that has a choice; none: its defaults, or float32 if narrowed.
        nms: of each that has a choice; a precision that cannot include NMS leaves out the builtin one.
        narrowed: whether options were given that only exporters with a choice of precisions take.
        layout: of each that has a choice of precisions; None: its own.
    """
    found = []
    for name, exporter in EXPORTERS.items():
        chooses = len(exporter.precisions) > 1
        if name not in names and (names or (narrowed and not chooses) or not exporter.defaults):
            continue
        if not chooses:
            found.append(Target(name, *exporter.precisions))
            continue
        for precision in precisions or (("float32",) if narrowed or not exporter.defaults else exporter.defaults):
            limits = exporter.precisions.get(precision)
            left_out = limits is not None and limits.integer and nms == "builtin"
            found.append(Target(name, precision, "none" if left_out else nms, layout))
    return found


def check_target(target: Target, batch: int = 1) -> None:
    """Raises ExportError if no exporter writes a target, or not for so many images at once."""
    known = (list(EXPORTERS), choices("precisions"), choices("nms"), [None, *choices("layouts")])
    for value, names in zip(target, known, strict=True):
        if value not in names:
            raise ExportError(f"expected one of {', '.join(filter(None, names))}, received {value!r}")
    exporter = target.exporter
    if target.precision not in exporter.precisions or target.nms not in exporter.nms:
        raise ExportError(
            f"{target.name}: {exporter.title} has {', '.join(exporter.precisions)} and NMS {', '.join(exporter.nms)}; "
            f"received {target.precision} and {target.nms}"
        )
    layouts = (target._replace(layout=None).input_layout,) if target.nms == "app" else exporter.layouts
    if target.input_layout not in layouts:
        raise ExportError(
            f"{target.name}: {exporter.title} with NMS {target.nms} has the layout {' or '.join(layouts)} of its "
            f"input, received {target.layout}"
        )
    if missing := [name for name in exporter.needs if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"{target.name}: expected {', '.join(exporter.needs)} to make and to check it, found no "
            f"{', '.join(missing)}; pip install '{exporter.requirement}'"
        )
    if exporter.runtime not in RUNTIMES:
        raise ExportError(
            f"{target.name}: expected a runtime that loads it, one of {', '.join(RUNTIMES)}, received "
            f"{exporter.runtime!r}"
        )
    if batch < 1:
        raise ExportError(f"batch: expected a whole number above 0, received {batch}")
    if target.nms == "task" and batch != 1:
        raise ExportError("task: its operation takes one image at a time, expected --batch 1")
    if target.limits.integer and target.nms not in ("none", *UNDECODED):
        raise ExportError(
            f"{target.precision}: {target.nms} has no integer version, expected --nms none, heads or logits"
        )
    if target.nms == "logits" and not target.limits.integer:
        raise ExportError(f"logits: expected --precision full-int8, received {target.precision}")


def label_lines(model) -> str:
    """The names of a Model's classes, one a line, in label order."""
    return "".join(f"{label}\n" for label in model.classes)


def size_of(path) -> int:
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
