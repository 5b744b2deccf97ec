"""One file for a model: arrays by name, and a JSON text with everything a later command would have to ask for.

An HDF5 file with groups of arrays (`weights`, and in a file to resume from also the optimizer's and the averages') and the attribute-like
dataset `meta`: {"config": ..., "classes": [...], ...}. Written with `atomic`, as everything that a command leaves: complete or absent.
"""

import contextlib
import ctypes
import fnmatch
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np

from tfyolo import config as configs
from tfyolo import hdf5
from tfyolo.messages import printable

# What a model is used with: the moving averages, which training judges, where the file has them.
FOR_USE = ("averages", "weights")
# What a run goes on from.
OF_A_RUN = ("weights", "averages", "optimizer", "random")


class CheckpointError(ValueError):
    """A file of weights cannot be read, or does not fit what it is loaded into."""


# --- complete or absent -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path):
    """Yields a Path beside `path` to write a file or a folder at, which takes the name of `path` when the block ends well.

    Whatever goes wrong, and whenever the power fails, `path` is what it was or what was written.

    Args:
      path: of the file or folder. Its parent is there. What is yielded has its suffix.

    Raises:
      OSError: it cannot be written, as on a full disk; of those that name no file, or only what is yielded, `path` is the file.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove(aside)  # of a process that was killed and had this number
    try:
        yield aside
        replace(aside, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(aside), os.fspath(path)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        _remove(aside)


def replace(aside, path):
    """Gives what was written at `aside` the name `path`, once all of it is on the disk; what had that name is gone.

    Of two folders the names are exchanged: there is no moment in which neither has the name. (Where system or file system knows no
    exchange, the moment between two renames.)

    Args:
      aside: a file, or a folder, on the file system of `path`.
      path: what it is to be called. A file replaces a file, a folder a folder.
    """
    aside, path = Path(aside), Path(path)
    for each in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        _flush(each)
    if not (aside.is_dir() and path.is_dir()):
        os.replace(aside, path)
    elif _exchanged(aside, path):
        shutil.rmtree(aside)
    else:
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        shutil.move(path, old)  # by copying, where a layered file system renames no folder of a lower layer
        try:
            os.replace(aside, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old)
    _flush(path.parent)


def _flush(path):
    """Waits until a file is on the disk, or the names in a folder, if the system opens folders."""
    if not path.is_dir():
        with path.open("rb+") as file:
            os.fsync(file)
        return
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _exchanged(first, second):
    """Whether the system has exchanged two names in one step: renameat2 with RENAME_EXCHANGE (2), renamex_np with RENAME_SWAP (2)."""
    paths = os.fsencode(first), os.fsencode(second)
    here = -100  # AT_FDCWD
    try:
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(here, paths[0], here, paths[1], 2) == 0
        return sys.platform == "darwin" and ctypes.CDLL(None).renamex_np(*paths, 2) == 0
    except AttributeError:  # a C library from before 2018
        return False


# The name that `atomic` writes a file at: its stem, the process, its suffix.
_ASIDE = re.compile(r"\.(.+)\.(\d{1,9})\.tmp(\.[^.]+)?", re.DOTALL)


def aside_of(name):
    """The pattern of the names that `atomic` writes files at which are to have a name, or names of a pattern."""
    return f".{Path(name).stem}.*.tmp{Path(name).suffix}"


def remove_left(folder, names):
    """Removes what processes that were killed have left of files that they were writing with `atomic`.

    Args:
      folder: that no other process writes into.
      names: patterns of the names that the files were to have; what is no such file stays, and what a living process writes.
    """
    for path in Path(folder).iterdir():
        aside = _ASIDE.fullmatch(path.name)
        own = aside and any(fnmatch.fnmatchcase(aside[1] + (aside[3] or ""), name) for name in names)
        if own and not _writes(int(aside[2])):
            _remove(path)


@contextlib.contextmanager
def scratch(folder, name):
    """Yields the Path of a new folder in another, for what is not finished yet; at the end it is gone.

    So are those of that name which processes of this machine have left that were killed.
    """
    prefix = f".{name}-{socket.gethostname()}-"
    for path in Path(folder).iterdir():
        process = path.name.removeprefix(prefix).partition("-")[0]
        left = path.name.startswith(prefix) and re.fullmatch(r"\d{1,9}", process) and int(process) != os.getpid()
        if left and not _writes(int(process)):
            shutil.rmtree(path, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _writes(process):
    """Whether a process may still be writing. This one is not: what it finds is of an earlier one that had its number."""
    if os.name != "posix":  # where there is no asking without harm
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return process != os.getpid()


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- files of weights -------------------------------------------------------------------------------------------------------------


def save(path, meta, **groups):
    """meta: what JSON can hold. groups: {name: {array's name: numpy array}}."""
    with atomic(path) as aside:
        hdf5.write(aside, {"meta": json.dumps(meta), **groups})


def write_text(path, text):
    """A text file in UTF-8, its line ends as they are."""
    with atomic(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def read_meta(path):
    """The JSON part alone."""
    return _read(path, ())[0]


def load(path, *groups):
    """(meta, {name: array} of each group asked for); of a group given as several names, the first that the file has."""
    return _read(path, groups)


def load_run(path):
    """(meta, {name: {array's name: array}} of OF_A_RUN) of a file to resume from: the arrays, and the "state" that goes with them."""
    meta, *groups = _read(path, OF_A_RUN)
    saved, state = dict(zip(OF_A_RUN, groups, strict=True)), meta.get("state")
    counts = [state.get(name) for name in ("stage", "epoch")] if isinstance(state, dict) else [None]
    best, running = (state.get(name) if isinstance(state, dict) else None for name in ("best", "running"))
    if (
        not all(isinstance(count, int) and count >= 0 for count in counts)
        or not isinstance(best, dict | None)
        or not {"AP", "AP50", "epoch"} <= (best or {"AP": 0, "AP50": 0, "epoch": 0}).keys()
        or not isinstance(running, dict | None)
        or not {"step", "sums", "lr", "seconds"} <= (running or dict.fromkeys(("step", "sums", "lr", "seconds"))).keys()
        or saved["weights"].keys() != saved["averages"].keys()
        or "iteration" not in saved["optimizer"]
    ):
        raise CheckpointError(
            f"{path}: expected the last.h5 of a run to go on from, received a file of weights without its state"
        )
    return meta, saved


def config_of(path, meta):
    """The Config in a file's meta, which has been read from a path. Raises CheckpointError."""
    with fits_this_version(path):
        return configs.from_json(meta["config"])


@contextlib.contextmanager
def fits_this_version(path):
    """What is wrong with the config in a file, in the `with`, is a CheckpointError that names the file."""
    try:
        yield
    except configs.ConfigError as error:
        first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(
            f"{path}: expected a config of this version of tfyolo in it, received another: {first}{more}"
        ) from error


def _read(path, groups):
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file of weights (.h5) that tfyolo has written, found none")
    try:
        with hdf5.opened(path) as file:
            meta = _description(file.text("meta"))
            names = [(group,) if isinstance(group, str) else group for group in groups]
            found = [file.arrays(next((name for name in among if name in file), among[-1])) for among in names]
    except hdf5.HDF5Error as error:
        raise CheckpointError(
            f"{path}: expected a file of weights that tfyolo has written, but it does not read as one ({error}). "
            "It may be truncated or of another program; take another copy, or last.h5 beside it."
        ) from error
    return meta, *found


def _description(text):
    """The value of a file's JSON text, of the form that save() has been given. Raises HDF5Error."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise hdf5.HDF5Error(f"its description is no JSON: {str(error)[:100]}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("config"), str):
        raise hdf5.HDF5Error("its description has no config")
    classes = meta.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise hdf5.HDF5Error("its description has no names of classes")
    return meta


def weights_of(network):
    """{"layer/variable": numpy array} of a Keras model."""
    return {variable.path: np.asarray(variable) for variable in network.variables if _is_weight(variable)}


def assign(network, weights, source="the weights"):
    """Puts arrays into a Keras model by name: all or nothing.

    Raises CheckpointError that lists what is missing, left over or of another shape.
    """
    assign_variables(
        {variable.path: variable for variable in network.variables if _is_weight(variable)}, weights, source
    )


def assign_variables(variables, arrays, source):
    """Puts arrays into Keras's variables {name: variable}. As of assign()."""
    faults = [f"missing: {name} {tuple(variables[name].shape)}" for name in variables if name not in arrays]
    faults += [f"left over: {printable(name)[:200]} {arrays[name].shape}" for name in arrays if name not in variables]
    faults += [
        f"shape: {name} is {arrays[name].shape}, the model wants {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    if faults:
        shown = "\n  ".join(faults[:10]) + (f"\n  and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise CheckpointError(f"{source} do not fit the model; nothing was loaded:\n  {shown}")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def random_states(network):
    """{name: numpy array} of the random states of a Keras model's dropout: no weights, but a resumed run needs them."""
    return {variable.path: np.asarray(variable) for variable in network.variables if not _is_weight(variable)}


def assign_random(network, states):
    for variable in network.variables:
        if not _is_weight(variable) and variable.path in states:
            variable.assign(states[variable.path])


def _is_weight(variable):
    return "seed_generator" not in variable.path
