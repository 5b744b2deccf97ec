"""What a reading has looked at, and how it was: as long as all of that is the same, so is what was read.

Whoever opens a file of the data, asks whether it is there or lists a folder says so here, before it does: `looked_at`,
`is_file`, `is_folder`, `looked_into`. It is written down inside `watched(seen)` alone.
"""

import contextlib
import contextvars
import hashlib
import os
import stat
import time
from array import array
from typing import NamedTuple

import numpy as np

from tfyolo import files, remote
from tfyolo.data.sources.records import Paths, paths_at

_seen = contextvars.ContextVar("seen", default=None)
_CHUNK = 1 << 13  # files whose states are compared at a time
_NOTHING, _NO_FILE = (-1, 0, 0), (-2, 0, 0)
# A file that was written in the last nanoseconds may be written again without getting another time: file systems count
# time in steps of up to 2 s. The clock of a server may be ahead.
_STEP, _AHEAD = 2, 60  # s


class Seen:
    """The files that a reading has looked at with their states, and the folders with what was in them."""

    def __init__(self):
        self._paths, self._states, self._folders = Paths(), array("q"), {}

    def add(self, file):
        """Notes a file, and how it is now."""
        self._paths.append(os.fspath(file))
        self._states.extend(_state(file))

    def add_folder(self, folder, content):
        """Notes a folder and what files.listing says of it."""
        self._folders[folder] = _digest(content)

    def extend(self, states: "States"):
        """Notes what was noted before, as it was then."""
        self._folders |= states.digests
        for path in paths_at(states[1:6], 0, len(states.states)):
            self._paths.append(path)
        self._states.extend(states.states.ravel().tolist())

    def states(self) -> "States":
        """What was noted, as it can be kept."""
        states = np.array(self._states, np.int64).reshape(-1, 3)
        return States(self._folders, *map(np.copy, self._paths.arrays()), states)


class States(NamedTuple):
    """Files and folders with their states.

    Attributes:
        digests: {folder: of what was in it}.
        folders: [bytes] uint8, of the files, as in records.Columns; the next four, too.
        folders_ends: [F + 1] int64.
        folder: [N] int32.
        names: [bytes] uint8.
        names_ends: [N + 1] int64.
        states: [N, 3] int64, bytes, and nanoseconds of the last change of the content and of the file's entry.
    """

    digests: dict[str, str]
    folders: np.ndarray
    folders_ends: np.ndarray
    folder: np.ndarray
    names: np.ndarray
    names_ends: np.ndarray
    states: np.ndarray

    def last(self, listing) -> bool:
        """Whether everything is as it was.

        Args:
            listing: files.listing.
        """
        if any(_digest(listing(folder)) != digest for folder, digest in self.digests.items()):
            return False
        for start in range(0, len(self.states), _CHUNK):
            before = self.states[start : start + _CHUNK]
            now = states(paths_at(self[1:6], start, start + len(before)))
            if not np.array_equal(before, now):
                return False
        return True

    def are_old(self) -> bool:
        """Whether no file was changed so lately that another change might leave its times as they are."""
        ago = time.time() - self.states[:, 1:] / 1e9
        untold = (self.states[:, 0] >= 0) & (self.states[:, 1] == 0)  # a file system that does not say when
        return not (((ago < _STEP) & (ago > -_AHEAD)).any() or untold.any())


@contextlib.contextmanager
def watched(seen: Seen | None):
    """Notes what is looked at in the `with`.

    Args:
        seen: where; None: nowhere.
    """
    token = _seen.set(seen)
    try:
        yield
    finally:
        _seen.reset(token)


def looked_at(file):
    """Notes a file that is going to be read.

    Args:
        file: its path.
    """
    if seen := _seen.get():
        seen.add(file)


def looked_into(folder, content):
    """Notes a folder.

    Args:
        folder: its path.
        content: what files.listing says of it.
    """
    if seen := _seen.get():
        seen.add_folder(folder, content)


def is_file(path) -> bool:
    """files.is_file, noted."""
    looked_at(path)
    return files.is_file(path)


def is_folder(path) -> bool:
    """files.is_folder, noted."""
    looked_at(path)
    return files.is_folder(path)


def states(paths):
    """The states of files, three numbers each: their lengths and times of last change.

    Args:
        paths: those at addresses are asked for together.

    Returns:
        [(length, time, time)], negative where there is no file.
    """
    addresses = {path: found for path in paths if (found := files.address(path))}
    there = dict(zip(addresses, remote.statuses(addresses.values()), strict=True)) if addresses else {}
    return [_state_there(there[path]) if path in there else _state_here(path) for path in paths]


def _state_there(status):
    if status is None:
        return _NOTHING
    return _NO_FILE if status.is_folder else (status.length, status.changed, status.changed)


def _state(file):
    return _state_there(remote.status(found)) if (found := files.address(file)) else _state_here(file)


def _state_here(file):
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return _NOTHING
    if not stat.S_ISREG(status.st_mode):
        return _NO_FILE
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(content):
    folders, files, error = content
    text = "\0".join([*folders, "/", *files, "/", error])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
