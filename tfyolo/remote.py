"""Files at addresses, scheme://..., through tf.io.gfile: gs://, its own ram://, and what plugins register.

tfyolo.files asks here for what is no path of this machine; so TensorFlow is imported only for that. What goes wrong is
an OSError, as of files here.
"""

import atexit
import contextlib
import errno
import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import io
import os
import posixpath
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tfyolo.libraries import has_tensorflow, import_tensorflow

_OWN = ("gs", "ram")  # what TensorFlow brings itself, beside this machine's files
_PLUGIN = "tensorflow_io"  # registers s3, hdfs, az, ... when it is imported
_AT_A_TIME = 32  # requests: they wait for a network, not for a processor


def is_known(scheme) -> bool:
    """Whether tf.io.gfile reads and writes a scheme.

    Args:
        scheme: such as "gs".
    """
    if not has_tensorflow():
        return False
    plugin = importlib.util.find_spec(_PLUGIN) is not None
    if "tensorflow" not in sys.modules and (scheme in _OWN or not plugin):
        return scheme in _OWN
    import_tensorflow()
    if scheme not in _schemes() and plugin:
        with contextlib.suppress(Exception):  # one that was built for another TensorFlow fails in its own ways
            importlib.import_module(_PLUGIN)
    return scheme in _schemes()


def _schemes():
    """The schemes that are registered, less those that mean files of this machine."""
    import tensorflow as tf

    return {scheme for scheme in tf.io.gfile.get_registered_schemes() if scheme not in ("", "file")}


@functools.cache
def _gfile():
    import_tensorflow()
    import tensorflow as tf

    return tf.io.gfile


class UnansweredError(OSError):
    """An address did not answer, or does not let us in: what is there is not known."""


@contextlib.contextmanager
def _as_os_errors(address):
    """Turns TensorFlow's errors in the `with` into an OSError that names the address, most into UnansweredError."""
    gfile = _gfile()
    import tensorflow as tf

    numbers = {
        tf.errors.NotFoundError: (errno.ENOENT, "no such file or folder"),
        tf.errors.PermissionDeniedError: (errno.EACCES, "permission denied"),
        tf.errors.UnauthenticatedError: (errno.EACCES, "not authenticated"),
    }
    try:
        yield gfile
    except tf.errors.OpError as error:
        number, words = numbers.get(type(error), (errno.EIO, type(error).__name__.removesuffix("Error")))
        said = " ".join((error.message or "").split())[:300]
        if number == errno.ENOENT:
            raise OSError(number, words, address) from error
        raise UnansweredError(number, f"{words}: {said}" if said else words, address) from error


# --- looking ----------------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """What is at an address.

    Attributes:
        is_folder: whether it is a folder.
        length: of a file, in bytes.
        changed: when it was changed last, in nanoseconds; 0: the file system does not say.
    """

    is_folder: bool
    length: int
    changed: int


def status(address) -> Status | None:
    """The Status of what is at an address; None: nothing is. Raises OSError if that cannot be known."""
    try:
        with _as_os_errors(address) as gfile:
            found = gfile.stat(address)
    except FileNotFoundError:
        return None
    return Status(found.is_directory, found.length, found.mtime_nsec)


def statuses(addresses) -> list[Status | None]:
    """The Status at each address, asked for at the same time. Raises OSError."""
    return _each(status, addresses)


def names_in(folder) -> tuple[list[str], list[str]]:
    """([names of folders], [names of files]) in a folder, both sorted. Raises OSError.

    Args:
        folder: its address.
    """
    with _as_os_errors(folder) as gfile:
        names = [name for name in gfile.listdir(folder) if name.rstrip("/")]
    folders = {name.rstrip("/") for name in names if name.endswith("/")}  # as object stores list them
    others = [name for name in names if not name.endswith("/")]
    if not folder.startswith("gs://"):
        found = _each(status, [posixpath.join(folder, name) for name in others])
        folders |= {name for name, each in zip(others, found, strict=True) if each and each.is_folder}
    return sorted(folders), sorted(set(others) - folders)


def matching(pattern) -> list[str]:
    """The addresses that a pattern fits, sorted. Raises OSError."""
    with _as_os_errors(pattern) as gfile:
        return sorted(gfile.glob(pattern))


def _each(function, items):
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return list(threads.map(function, items))


# --- reading ----------------------------------------------------------------------------------------------------------


class _Stream(io.RawIOBase):
    """A file at an address, to read bytes; TensorFlow itself reads ahead."""

    def __init__(self, address, length):
        super().__init__()
        self._address, self._length, self._at = address, length, 0
        self._file = _gfile().GFile(address, "rb")

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at

    def tell(self):
        return self._at

    def read(self, size=-1):
        left = max(0, self._length - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if not size:
            return b""
        with _as_os_errors(self._address):
            if self._file.tell() != self._at:
                self._file.seek(self._at)
            content = self._file.read(size)
        self._at += len(content)
        return content

    def close(self):
        if not self.closed:
            self._file.close()
        super().close()


def opened(address) -> io.RawIOBase:
    """A file at an address, opened to read bytes. Raises OSError; also for a folder."""
    found = status(address)
    if found is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), address)
    if found.is_folder:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), address)
    return _Stream(address, found.length)


def read_span(address, offset, length) -> bytes:
    """A span of a file at an address, without asking what the file is. Raises OSError."""
    with _as_os_errors(address) as gfile, gfile.GFile(address, "rb") as file:
        file.seek(offset)
        return file.read(length)


# --- copies on this machine -------------------------------------------------------------------------------------------

# What the model of a run is made of; the first of the weights that is there.
_WEIGHTS = ("best.h5", "last.h5")
_BESIDE = ("config.yaml", "division*.json")
_EXPORTS = {"saved_model.pb", "config.pbtxt"}  # in a SavedModel, and in the folders of a Triton repository


@functools.cache
def _copies():
    """(the folder of this process's copies, {address: {address of each of its files: the Status that was copied}})."""
    folder = tempfile.mkdtemp(prefix="tfyolo-fetched-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder), {}


def fetched(address) -> Path:
    """A copy of a file or a folder, here for as long as the process lives; made anew if a file has changed.

    Args:
        address: of the file or folder. Of a run what its model is made of is copied, of an export all.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    root, known = _copies()
    with _one_at_a_time:
        found = status(address)
        if found is None:
            raise OSError(errno.ENOENT, "no such file or folder", address)
        files = _files_of(address) if found.is_folder else {address: found}
        # A folder for each address: a file of a run and the run itself are two copies.
        above = root / hashlib.blake2b(address.encode(), digest_size=8).hexdigest()
        copy = above / posixpath.basename(address)
        if known.get(address) != files or not all(each.changed for each in files.values()):
            known.pop(address, None)
            shutil.rmtree(above, ignore_errors=True)
            for file in files:
                download(file, copy / posixpath.relpath(file, address) if found.is_folder else copy)
            known[address] = files
        return copy


_one_at_a_time = threading.Lock()


def _files_of(folder):
    """{address: Status} of the files of a model in a folder. Raises OSError if it holds none."""
    folders, names = names_in(folder)
    weights = next((name for name in _WEIGHTS if name in names), None)
    beside = [name for name in names for pattern in _BESIDE if fnmatch.fnmatchcase(name, pattern)]
    if weights or "config.yaml" in names:
        chosen = [posixpath.join(folder, name) for name in (weights, *beside) if name]
    elif any(_EXPORTS & {*each} for each in (names, *(names_in(posixpath.join(folder, one))[1] for one in folders))):
        chosen = list(_below(folder))
    else:  # such as a data set, of which nothing is to be copied
        raise OSError(errno.ENOENT, "a folder without a run or an export", folder)
    return {file: each for file, each in zip(chosen, statuses(chosen), strict=True) if each}


def _below(folder):
    """The addresses of all files in and below a folder."""
    folders, names = names_in(folder)
    yield from (posixpath.join(folder, name) for name in names)
    for name in folders:
        yield from _below(posixpath.join(folder, name))


def download(address, file):
    """Copies a file at an address to a Path, whose folder is made. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _as_os_errors(address) as gfile:
        gfile.copy(address, str(file), overwrite=True)


# --- writing ----------------------------------------------------------------------------------------------------------


def upload(file, address):
    """Copies a file of this machine to an address, where it is complete or absent, as files.atomic_file writes it.

    Args:
        file: its Path.
        address: of the copy, which replaces what is there. Its folder is there.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = posixpath.split(address)
    aside = posixpath.join(folder, f".{name}.tmp")
    with contextlib.suppress(FileNotFoundError), _as_os_errors(aside) as gfile:
        gfile.remove(aside)  # of a process that was killed; some file systems would write on at its end
    with _as_os_errors(address) as gfile:
        gfile.copy(str(file), aside, overwrite=True)
        gfile.rename(aside, address, overwrite=True)


class Mirror:
    """A folder that is written here and copied to an address.

    Args:
        address: of the folder.
        last: names of files that are copied after all others.

    Attributes:
        address: of the folder.
        folder: the Path that is written into, in the `with` of held().
    """

    def __init__(self, address, last=()):
        self.address, self.folder, self._last, self._copied, self._folders = address, None, last, {}, set()

    def names(self) -> list[str]:
        """The names of all files at the address, with slashes; what begins with a dot is none. Raises OSError."""
        try:
            found = [file[len(self.address) + 1 :] for file in _below(self.address)]
        except FileNotFoundError:
            return []
        return [name for name in found if _is_own(name)]

    @contextlib.contextmanager
    def held(self, names=()):
        """Yields the folder to write into; at the end what has changed is copied, and the folder is gone.

        Args:
            names: of the files at the address that are to lie in it from the beginning.

        Raises:
            OSError: the address cannot be read or written; what was written stays in the folder if that shows at the
                end only.
        """
        made = status(self.address) is None
        self._make("")
        self.folder = Path(tempfile.mkdtemp(prefix="tfyolo-mirror-"))
        try:
            for name in names:
                download(posixpath.join(self.address, name), self.folder / name)
            self._copied = dict(self._states())
            try:
                yield self.folder
            finally:
                self._copy_at_last(sys.exc_info()[1])
        finally:
            if self.folder:
                shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError), _as_os_errors(self.address) as gfile:
                if made and not any(names_in(self.address)):
                    gfile.rmtree(self.address)

    def _copy_at_last(self, ending):
        """Copies; what cannot be copied stays here, and the error says where, or that which ends the `with` does."""
        kept = self.folder
        try:
            self.copy()
        except BaseException as error:
            self.folder, where = None, f"what was written is in {kept}"
            if ending is not None:
                ending.add_note(f"{self.address}: {where}")
            elif isinstance(error, OSError):
                raise OSError(error.errno, f"{error.strerror}; {where}", self.address) from error
            else:
                error.add_note(f"{self.address}: {where}")
                raise

    def copy(self):
        """Copies what has changed since the last time to the address, each file complete or absent. Raises OSError."""
        for name, state in sorted(self._states(), key=lambda item: (item[0] in self._last, item[0])):
            if self._copied.get(name) != state:
                self._make(posixpath.dirname(name))
                upload(self.folder / name, posixpath.join(self.address, name))
                self._copied[name] = state

    def _states(self):
        """(name, state) of each file that is to be copied."""
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and _is_own(name):
                status = path.stat()
                yield name, (status.st_size, status.st_mtime_ns, status.st_ino)

    def _make(self, name):
        if name not in self._folders:
            folder = posixpath.join(self.address, name) if name else self.address
            with _as_os_errors(folder) as gfile:
                gfile.makedirs(folder)
            self._folders.add(name)


def _is_own(name):
    """Whether a file belongs to what is written: what begins with a dot is a lock, or not finished."""
    return not any(part.startswith(".") for part in name.split("/"))
