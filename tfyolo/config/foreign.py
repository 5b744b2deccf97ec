"""Files of other programs that are given where a model or a config is expected, by their names."""

import os
import shlex

from tfyolo.config import tables
from tfyolo.config.schema import Config
from tfyolo.config.wording import did_you_mean
from tfyolo.files import is_file, is_folder, is_there, what_is


def foreign(path, expected):
    """What is wrong with a path that by its name is another program's, where a model or a config was expected.

    Args:
        path: of a file, which may be missing.
        expected: what should have been there, for the message.

    Returns:
        "x.pt: expected ..., received PyTorch's weights; `tfyolo import x.pt` makes a run of them", or None.
    """
    path = os.fspath(path)
    there, named = "" if is_there(path) else "no such file; ", shlex.quote(path)
    received = {
        **dict.fromkeys((".pt", ".pth"), f"PyTorch's weights; `tfyolo import {named}` makes a run of them"),
        ".weights": f"Darknet's weights; `tfyolo import NET.cfg {named}` makes a run of them",
        ".cfg": f"Darknet's network; `tfyolo import {named} NET.weights` makes a run of it",
        ".onnx": "an export; name the run, or import the checkpoint it was made of",
        **dict.fromkeys(
            (".engine", ".torchscript"), "an export of another program; import the checkpoint it was made of"
        ),
    }
    what = None if is_there(path) and not is_file(path) else received.get(os.path.splitext(path)[1].lower())
    return what and f"{path}: {there}expected {expected}, received {what}"


def is_published(init: str) -> bool:
    """Whether train.init names published weights: one of `tfyolo weights`, where nothing on the disk has that name."""
    return init in tables.names("published weights") and not os.path.lexists(init)


def check_init(config: Config) -> None:
    """Checks that there are weights at train.init, before anything that takes time is done.

    Args:
        config: a Config.

    Raises:
        ConfigError: there are none, or they have to be imported first.
    """
    init, expected = config.train.init, "a run's folder or a file of weights, or a name of `tfyolo weights`"
    if init is None or is_published(init):
        return
    suffix = os.path.splitext(init)[1].lower()
    if (problem := foreign(init, expected)) and (suffix != ".weights" or not is_there(init)):
        raise config.error("train.init", f"{problem}, from which it can be initialised")
    if is_folder(init):
        if any(is_there(os.path.join(init, name)) for name in ("best.h5", "last.h5")):
            return
        received = "a folder without best.h5 and last.h5"
    elif not is_there(init):
        received = f"no such file{did_you_mean(os.path.basename(init), tables.names('published weights'))}"
    elif suffix in (".yaml", ".yml", ".tflite"):
        received = "a config" if suffix != ".tflite" else "an export"
        received += "; name the folder of the run"
    elif not is_file(init):
        received = what_is(init)
    else:
        return
    if init in tables.names("published weights"):
        received += "; the published weights of that name are taken where nothing here has it"
    raise config.error("train.init", f"{init}: expected {expected}, received {received}")
