"""The table of runtimes: each recognises a path and loads a Detector from it. Nothing here imports TensorFlow."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


def resolved(function: Callable | str) -> Callable:
    """A function of a table's entry, imported if it is given as "module:function"."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class Runtime(NamedTuple):
    """One kind of path that load() takes.

    Attributes:
        title: the kind in a sentence: "a .tflite file".
        recognises: Path -> bool, without reading more than names.
        load: (path, threads, options) -> Detector. A string "module:function" is imported when needed.
        exported: whether it is an export, which has no TTA and nothing to train or export again.
    """

    title: str
    recognises: Callable[[Path], bool]
    load: Callable | str
    exported: bool = True

    def detector(self, path, threads, options):
        """The Detector of a path that this runtime recognises.

        Args:
            path: a Path.
            threads: of the runtime, a count, where it has threads of its own.
            options: of the post-processing, and `flip` and `scales` of a run.
        """
        return resolved(self.load)(path, threads, options)


RUNTIMES: dict[str, Runtime] = {
    "saved_model": Runtime(
        title="a SavedModel's folder",
        recognises=lambda path: os.path.isdir(path) and os.path.exists(path / "saved_model.pb"),
        load="tfyolo.predict.saved_model:load_saved_model",
    ),
    "tflite": Runtime(
        title="a .tflite file",
        recognises=lambda path: path.suffix == ".tflite",
        load="tfyolo.predict.tflite:load_tflite",
    ),
    "onnx": Runtime(
        title="an .onnx file",
        recognises=lambda path: path.suffix == ".onnx",
        load="tfyolo.predict.onnx:load_onnx",
    ),
    "triton": Runtime(
        title="a Triton repository's folder",
        recognises=lambda path: os.path.isdir(path) and any(path.glob("*/config.pbtxt")),
        load="tfyolo.predict.onnx:load_triton",
    ),
    "run": Runtime(
        title="a run's folder or a .h5 file",
        recognises=lambda path: os.path.isdir(path) or path.suffix == ".h5",
        load="tfyolo.predict.run:load_run",
        exported=False,
    ),
}


def runtime_of(path: str | os.PathLike) -> Runtime:
    """The Runtime that recognises a path, exports first. If none does, that of runs: its errors say what is wrong."""
    exports_first = sorted(RUNTIMES.values(), key=lambda each: not each.exported)
    return next((each for each in exports_first if each.recognises(Path(path))), RUNTIMES["run"])


def titles(exported: bool | None = None) -> str:
    """What can be loaded, in words, runs first.

    Args:
        exported: True: only exports; False: only runs; None: both.
    """
    some = [each for each in RUNTIMES.values() if exported in (None, each.exported)]
    kinds = [kind for each in sorted(some, key=lambda each: each.exported) for kind in each.title.split(" or ")]
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last
