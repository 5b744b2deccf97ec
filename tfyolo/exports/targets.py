"""What can be exported: target, precision, NMS."""

from pathlib import Path
from typing import NamedTuple

from tfyolo.errors import Error

TARGETS = ("saved_model", "tflite")
PRECISIONS = ("float32", "float16", "dynamic", "int8", "full-int8")
SUPPRESSIONS = ("builtin", "task", "none")
LABELMAP = "labelmap.txt"  # the classes, one a line, beside files for the task libraries


class ExportError(Error):
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


def label_lines(model):
    """The names of a Model's classes, one a line, in label order."""
    return "".join(f"{label}\n" for label in model.classes)


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )
