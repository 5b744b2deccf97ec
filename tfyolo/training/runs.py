"""The folder of a run: reserved, resumed, cleaned, its history; and the signals that stop it."""

import contextlib
import csv
import fnmatch
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import NamedTuple

from tfyolo import config as configs
from tfyolo import folders
from tfyolo.errors import Error
from tfyolo.files import absolute, address, atomic_file, local, remove_left, temporary_names
from tfyolo.visualize import plots


class TrainingError(Error):
    """Training cannot start or go on. The message says why and what to do."""


class Stopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM.

    Attributes:
        folder: the run's, to go on from by resume; None: nothing is left of it, and the same call starts afresh.
        epochs: how many of them are finished.
        signal: signal.SIGINT or signal.SIGTERM.
    """

    def __init__(self, folder, epochs, number):
        super().__init__()
        self.folder, self.epochs, self.signal = folder, epochs, signal.Signals(number)


class Run(NamedTuple):
    """What training leaves.

    Attributes:
        folder: the run's; of one at an address a Path too, which tfyolo takes wherever it takes the address.
        metrics: of its best epoch: "AP", "AP50", ...
    """

    folder: Path
    metrics: dict


# An average precision is a mean over 101 points of recall, so that "all found" can end a hair below 1.
PERFECT = 0.999


class Signals:
    """Has Ctrl-C (SIGINT) and SIGTERM raise KeyboardInterrupt in its `with`, or wait in a `with finishing()`.

    A second Ctrl-C waits for nothing; SIGTERM may come several times, as schedulers send it.

    Args:
        together: whether several processes train, and stop where all have agreed to: then all but what is in a
            `with listening()` waits.

    Attributes:
        received: the number of the first that came; None: none. It stays if the exception is lost in a __del__.
        agreed: whether all processes have agreed to stop.
        forwarded: whether another process was told of what this one has received.
    """

    def __init__(self, together=False):
        self.together, self.agreed, self.forwarded = together, False, False
        self.received, self.waiting, self.before = None, together, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            # What is ignored stays so, and who has a handler for SIGTERM knows better.
            taken = callable(before[signal.SIGINT]), before[signal.SIGTERM] == signal.SIG_DFL
            self.before = {number: before[number] for number, ours in zip(before, taken, strict=True) if ours}
            for number in self.before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        first, self.received = self.received is None, self.received or number
        others = self.before[number]
        if callable(others) and others is not signal.default_int_handler:
            others(number, frame)
        if not self.waiting if first else number == signal.SIGINT:
            raise KeyboardInterrupt
        if first:  # past sys.stderr, which may be in the midst of a write
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping when the running step is done; Ctrl-C again stops at once\n")

    @contextlib.contextmanager
    def finishing(self):
        """Lets what is in the `with` come to its end; whether to go on then, check() decides."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = self.together

    @contextlib.contextmanager
    def listening(self):
        """Lets a signal raise, where one process works for all that train together."""
        self.waiting = False
        try:
            if self.received:
                raise KeyboardInterrupt
            yield
        finally:
            self.waiting = self.together

    @property
    def due(self):
        """Whether it is time to stop: a signal has come, and where several processes train all have agreed."""
        return self.agreed if self.together else self.received is not None

    def check(self):
        """Raises KeyboardInterrupt if it is time to stop."""
        if self.due:
            raise KeyboardInterrupt


def run_folder(config, out, resume, mirror=None):
    """Reserves the run's folder, so that no run is written over, nor by two processes at once.

    Args:
        config: the Config; None with a run to resume.
        out: the folder; None: runs/NAME, numbered if it is taken.
        resume: whether a run in it goes on.
        mirror: the Mirror of an `out` at an address, where no lock keeps a second process out.

    Returns:
        A context manager that gives the folder, a Path.

    Raises:
        TrainingError: there is neither a config nor a run.
        FolderError: something else lies there, or another process writes into it.
    """
    with _answering(mirror):
        names = mirror and mirror.names()
    there = "last.h5" in names if mirror else out is not None and (local(out) / "last.h5").exists()
    if resume and there:
        return (
            _at_address(mirror, [name for name in names if _matches(name, _WRITTEN)]) if mirror else folders.held(out)
        )
    if config is None:
        raise TrainingError(
            f"{out}: no run there to resume; expected a folder with last.h5, or the config with it, to begin one"
        )
    if out is not None and not resume and (there or (not mirror and folders.left_by_a_crash(out))):
        raise folders.Taken(
            f"{out}: expected a new or empty folder, it holds something already; go on with its run by --resume, or "
            "name another --out"
        )
    if mirror:
        # What has begun, and had kept nothing when it was killed, is written over.
        if not all(resume and _matches(name.partition("/")[0], _BEGUN) for name in names):
            raise folders.Taken(
                f"{out}: expected a new or empty folder, it holds something already; name another --out"
            )
        return _at_address(mirror)
    begun = (*_BEGUN, *map(temporary_names, _WRITTEN))
    return folders.new(out, config.name, begun=begun if resume else ())


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextlib.contextmanager
def _answering(mirror):
    """What an address does not answer in the `with` is a FolderError."""
    try:
        yield
    except OSError as error:
        if mirror is None or error.filename is None or address(error.filename) is None:
            raise
        raise folders.FolderError(f"{mirror.address}: cannot be read or written: {error.strerror}") from error


@contextlib.contextmanager
def _at_address(mirror, names=()):
    """The folder of a Mirror."""
    with _answering(mirror), mirror.held(names) as folder:
        yield folder


# What a run writes until something of it is kept, that is until last.h5 is there; and all files that it writes.
_BEGUN = (
    "config.yaml",
    "division*.json",
    "history.csv",
    "best.h5",
    "results.png",
    "train_batch*.png",
    "pictures",
    "tensorboard",
)
_WRITTEN = (*_BEGUN, "last.h5")
NEEDED_TO_RESUME = ("last.h5", "division*.json")


def remove_leftovers(folder):
    """Removes what is half written by processes that were killed."""
    remove_left(folder, _WRITTEN)
    for drawn in (folder / "pictures").glob("*/"):
        remove_left(drawn, ("*.jpg",))


def discard(folder):
    """Removes what a run has written that kept nothing yet."""
    for path in (path for name in _BEGUN for path in folder.glob(name)):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def differing(given, begun, place=""):
    """Compares two configs.

    Args:
        given: one, as JSON's types.
        begun: the other.
        place: the dotted key at which they stand.

    Returns:
        The dotted keys of what differs, sorted.
    """
    if isinstance(given, dict) and isinstance(begun, dict):
        pairs = [(f"{place}.{key}".lstrip("."), given.get(key), begun.get(key)) for key in given.keys() | begun.keys()]
    elif isinstance(given, list) and isinstance(begun, list) and len(given) == len(begun):
        pairs = [(f"{place}.{i}", *both) for i, both in enumerate(zip(given, begun, strict=True))]
    else:
        return [] if given == begun else [place]
    return sorted(key for key, *both in pairs for key in differing(*both, key))


def finished(config, state, overfit):
    """Whether nothing is left to do: all epochs are done, or all objects in the images to overfit are found.

    Args:
        config: the Config of the run.
        state: {"epoch", "best"} of last.h5.
        overfit: how many images are overfit; None: all are trained on.
    """
    if overfit:
        return state["best"] is not None and state["best"]["AP50"] >= PERFECT
    return state["epoch"] == sum(stage.epochs for stage in config.train.stages)


def found_from_anywhere(config):
    """Makes the paths in a Config absolute: what is saved with the run is read again from other folders."""

    def anywhere(data):
        if data is None:
            return None
        given = {name: getattr(data, name) for name in ("path", "images", "division", "names")}
        paths = {name: absolute(value) for name, value in given.items() if isinstance(value, str)}
        return data.model_copy(update=paths)

    stages = tuple(stage.model_copy(update={"data": anywhere(stage.data)}) for stage in config.train.stages)
    init = config.train.init
    if init and not configs.is_published(init):
        init = absolute(init)
    train = config.train.model_copy(update={"stages": stages, "init": init})
    return config.model_copy(update={"data": anywhere(config.data), "train": train})


class History:
    """A callback: history.csv, a row for each epoch.

    Args:
        path: the file.
        keep: how many epochs of what it holds are finished; a resumed run drops the rows of the others.
    """

    def __init__(self, path, keep):
        self.path, self.rows = path, []
        if keep and path.exists():
            self.rows = [row for row in plots.read_history(path) if int(row["epoch"]) <= keep]

    def on_epoch_end(self, row):
        """Writes the file again, with a further row; floats to six digits."""
        self.rows.append({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_file(self.path) as aside, aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
