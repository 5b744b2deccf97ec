"""Files: opened only if they are regular and of a bounded size; written whole or not at all.

What is written gets a temporary name beside its own, is flushed to the disk, and is renamed: a file is complete or
absent.
"""

import contextlib
import ctypes
import errno
import fnmatch
import glob
import json
import os
import posixpath
import re
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path

from tfyolo import remote
from tfyolo.errors import CheckpointError, Error

# --- here or elsewhere ------------------------------------------------------------------------------------------------

# Of two letters and more, since C:/ is a drive; pathlib leaves one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_WAYS = {
    "gs": "mount the bucket (gcsfuse BUCKET FOLDER)",
    "s3": "mount the bucket (mount-s3 BUCKET FOLDER, s3fs BUCKET FOLDER, or rclone mount)",
    "http": "download it",
    "https": "download it",
    "file": "name it without file://",
}


class NotLocalError(Error):
    """A path is an address elsewhere. The message says how to come by what is there."""

    exit_code = 2


def address(path) -> str | None:
    """The address elsewhere that a path is, such as gs://bucket/folder; None for a path of this machine.

    Args:
        path: as it was given; after pathlib it has one slash where two were.
    """
    path = os.fspath(path)
    if ":/" not in path or not (found := _ADDRESS.match(path)):
        return None
    return f"{found[1].lower()}://{posixpath.normpath(path[found.end() - 1 :]).lstrip('/')}"


def elsewhere(path) -> str | None:
    """Why a path is none of this machine's: the scheme before it, such as gs:// or s3://; None if it may be one.

    Args:
        path: as it was given.
    """
    return address(path) and _refused(path, "a file or folder of this machine")


def unreachable(path) -> str | None:
    """Why nothing can be read or written at a path: an address whose scheme tf.io.gfile does not know; else None.

    Args:
        path: as it was given.
    """
    if not (found := address(path)) or remote.is_known(found.partition(":")[0]):
        return None
    return _refused(path, "a path of this machine, or an address that TensorFlow knows, such as gs://")


def _refused(path, expected):
    way = _WAYS.get(address(path).partition(":")[0], "mount it (rclone mount)")
    copied = "" if way.startswith(("download", "name")) else " or copy it here"
    return f"expected {expected}, received the address {path}: {way}{copied}, and name that path"


def local(path) -> Path:
    """The Path of a file or folder of this machine, where Path alone would make gs:// a folder called `gs:`.

    Args:
        path: as it was given.

    Raises:
        NotLocalError: it is an address.
    """
    if wrong := elsewhere(path):
        raise NotLocalError(wrong)
    return Path(path)


def normal(path) -> str:
    """os.path.normpath, which leaves addresses what they are, and makes none of a path of this machine."""
    if found := address(path):
        return found
    path = os.path.normpath(path)
    return os.path.join(os.curdir, path) if address(path) else path


def absolute(path) -> str:
    """os.path.abspath, which leaves addresses what they are."""
    return address(path) or os.path.abspath(path)


def is_file(path) -> bool:
    """os.path.isfile, also of addresses, where it raises OSError if that cannot be known."""
    if found := address(path):
        return (status := remote.status(found)) is not None and not status.is_folder
    return os.path.isfile(path)


def is_folder(path) -> bool:
    """os.path.isdir, also of addresses, where it raises OSError if that cannot be known."""
    if found := address(path):
        return (status := remote.status(found)) is not None and status.is_folder
    return os.path.isdir(path)


def is_there(path) -> bool:
    """os.path.exists, also of addresses, where it raises OSError if that cannot be known."""
    return remote.status(found) is not None if (found := address(path)) else os.path.exists(path)


def size_of(path) -> int:
    """os.path.getsize, also of addresses. Raises OSError."""
    if not (found := address(path)):
        return os.path.getsize(path)
    if (status := remote.status(found)) is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), found)
    return status.length


def matching(pattern) -> list[str]:
    """The paths that a pattern fits, sorted, as glob.glob finds them; also of addresses. Raises OSError."""
    return remote.matching(found) if (found := address(pattern)) else sorted(glob.glob(pattern, recursive=True))


def here(path) -> Path:
    """The Path of a model or weights: their own; of what is at an address, that of the copy that remote.fetched makes.

    Args:
        path: of a file, a run's folder or an export, as it was given.

    Raises:
        NotLocalError: it is an address that tf.io.gfile does not know.
        CheckpointError: nothing is at the address, or it cannot be read.
    """
    if wrong := unreachable(path):
        raise NotLocalError(wrong)
    try:
        return remote.fetched(found) if (found := address(path)) else Path(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be fetched: {error.strerror}") from error


@contextlib.contextmanager
def written_to(folder, *, whole=False):
    """Yields the Path to write a folder at: its own, or that of one here which is copied to an address at the end.

    Args:
        folder: as it was given.
        whole: whether what lies at an address is to be there from the beginning, as it is in a folder of this machine.

    Raises:
        NotLocalError: it is an address that tf.io.gfile does not know.
        OSError: the address cannot be read or written.
    """
    if wrong := unreachable(folder):
        raise NotLocalError(wrong)
    if found := address(folder):
        mirror = remote.Mirror(found)
        with mirror.held(mirror.names() if whole else ()) as copy:
            yield copy
    else:
        yield Path(folder)


# --- complete or absent -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path):
    """Yields a Path to write a file or a folder at, which takes the name of `path` when the block ends well.

    Whatever goes wrong, and whenever the power fails, `path` is what it was or what was written.

    Args:
        path: of the file or folder. Its parent is there. What is yielded is beside it and has its suffix.

    Raises:
        OSError: it cannot be written, as on a full disk; of those that name no file, or only what is yielded, `path` is
            the file.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _remove(aside)  # of a process that was killed and had this number
    try:
        yield aside
        atomic_replace(aside, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(aside), os.fspath(path)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        _remove(aside)


def atomic_replace(aside, path):
    """Gives what was written at `aside` the name `path`, once all of it is on the disk; what had that name is gone.

    Of two folders the names are exchanged: there is no moment in which neither has the name. (Where system or file
    system knows no exchange, the moment between two renames.)

    Args:
        aside: a file, or a folder, on the file system of `path`.
        path: what it is to be called. A file replaces a file, a folder a folder; either replaces a link, and what that
            led to stays.
    """
    aside, path = Path(aside), Path(path)
    for each in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        _flush(each)
    if not aside.is_dir() or not os.path.lexists(path):
        os.replace(aside, path)
    elif not (path.is_dir() or path.is_symlink()):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
    elif _exchanged(aside, path):
        _remove(aside)
    else:
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        shutil.move(path, old)  # by copying, where a layered file system renames no folder of a lower layer
        try:
            os.replace(aside, path)
        except OSError:
            os.replace(old, path)
            raise
        _remove(old)
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
    """Whether the system has exchanged two names in one step: renameat2 (RENAME_EXCHANGE), renamex_np (RENAME_SWAP)."""
    paths = os.fsencode(first), os.fsencode(second)
    here = -100  # AT_FDCWD
    try:
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(here, paths[0], here, paths[1], 2) == 0
        return sys.platform == "darwin" and ctypes.CDLL(None).renamex_np(*paths, 2) == 0
    except AttributeError:  # a C library from before 2018
        return False


# The name that `atomic_file` writes a file at: its stem, the process, its suffix.
_ASIDE = re.compile(r"\.(.+)\.(\d{1,9})\.tmp(\.[^.]+)?", re.DOTALL)


def temporary_names(name):
    """The pattern of the names that `atomic_file` writes files at which are to have a name, or names of a pattern."""
    return f".{Path(name).stem}.*.tmp{Path(name).suffix}"


def remove_left(folder, names):
    """Removes what processes that were killed have left of files that they were writing with `atomic_file`.

    Args:
        folder: that no other process writes into.
        names: patterns of the names that the files were to have; what is no such file stays, and what a living process
            writes.
    """
    for path in Path(folder).iterdir():
        aside = _ASIDE.fullmatch(path.name)
        own = aside and any(fnmatch.fnmatchcase(aside[1] + (aside[3] or ""), name) for name in names)
        if own and not _writes(int(aside[2])):
            _remove(path)


@contextlib.contextmanager
def scratch_folder(folder, name):
    """Yields the Path of a new folder in another, for what is not finished yet; at the end it is gone.

    So are those of that name which killed processes of this machine have left.

    Args:
        folder: where it is made.
        name: part of its name.
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
    """Whether a process may still be writing; not this one: what it finds is of an earlier one with its number."""
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
    """Removes a file, a folder or a link; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path, text):
    """A text file in UTF-8, its line ends as they are."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def open_regular(path):
    """A file opened to read bytes.

    Args:
        path: of the file; an address, too.

    Raises:
        OSError: with strerror and filename; also for what is no regular file, such as a FIFO or a device, where reading
            might never end, and for a name that no file can have.
    """
    if found := address(path):
        return remote.opened(found)
    try:
        stream = open(path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    except ValueError:  # a NUL, or half a surrogate pair
        raise OSError(errno.EINVAL, "a name that no file can have", os.fspath(path)) from None
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return stream


def read_regular(path, most=None) -> bytes:
    """All of a regular file.

    Args:
        path: of the file.
        most: bytes that it may have; None: any number.

    Raises:
        OSError: the same as from open_regular; also for a longer file, of which no more than that is read.
    """
    with open_regular(path) as stream:
        content = stream.read() if most is None else stream.read(most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes, it has more", os.fspath(path))
    return content


def parse_json(content, of_each=None):
    """What a JSON text holds.

    Args:
        content: str or bytes.
        of_each: a function that gets each dict when it is parsed, inner ones first, and gives what stands for it.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(content, object_hook=of_each)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def cache_folder() -> Path:
    """Where fetched weights and what was read of data lie: $TFYOLO_CACHE, else ~/.cache/tfyolo.

    Raises:
        RuntimeError: nothing says where the user's files are.
        NotLocalError: TFYOLO_CACHE is an address.
    """
    return local(os.environ.get("TFYOLO_CACHE") or Path("~", ".cache", "tfyolo")).expanduser()


def what_is(path) -> str:
    """What stands at a path that is no regular file, in words: "a folder", "a FIFO or a device", "no such file"."""
    if address(path):
        return "a folder" if is_folder(path) else "no such file"
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return "a link that leads nowhere, or in a circle" if os.path.islink(path) else "no such file"
    return "a folder" if stat.S_ISDIR(mode) else "a FIFO or a device"


def read_bytes(path, span=None) -> bytes:
    """The bytes of a file, or of a span (offset, length) inside it. Raises OSError, also if it is not regular."""
    if span and (found := address(path)):
        return remote.read_span(found, *span)
    with open_regular(path) as stream:
        if span is None:
            return stream.read()
        stream.seek(span[0])
        return stream.read(span[1])
