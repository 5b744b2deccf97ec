"""Files at addresses, scheme://..., through tf.io.gfile: gs://, its own ram://, and what plugins register.

tfyolo.files asks here for what is no path of this machine; so TensorFlow is imported only for that. What goes wrong is
an OSError, as of files here.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import os
import posixpath
import sys
from concurrent.futures import ThreadPoolExecutor
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


@contextlib.contextmanager
def _as_os_errors(address):
    """Turns TensorFlow's errors in the `with` into an OSError that names the address."""
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
        raise OSError(number, words if number == errno.ENOENT or not said else f"{words}: {said}", address) from error


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
