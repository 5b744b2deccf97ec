"""The folders that commands write into: taken at once, held by one process until it ends, gone if nothing came of them.

Who writes into a folder holds a lock on a file in it. The system lets go of the lock however the process ends, so that
the file of a crash holds nobody up. Where there are no such locks (Windows, some network file systems) only what lies
in a folder keeps others out.
"""

import contextlib
import fnmatch
import itertools
import os
import shutil
import socket
import time
from pathlib import Path

from tfyolo.errors import Error
from tfyolo.files import local

try:
    import fcntl
except ImportError:
    fcntl = None

LOCK = ".lock"
UNKNOWN = "unknown"


class FolderError(Error):
    """A folder cannot be written into. The message says why and what to do."""


class Taken(FolderError):
    """Something lies in a folder that should be new or empty, or another process writes into it."""


@contextlib.contextmanager
def new(out, name, inside="runs", begun=()):
    """Makes a folder, with its parents, that is nobody else's in the `with`. What is empty at the end is removed again.

    Args:
        out: the folder; None: the first of INSIDE/NAME, INSIDE/NAME-2, ... that is free.
        name: of the folder, without `out`.
        inside: the folder that it is made in, without `out`.
        begun: patterns of names. Where a process has ended without letting go of `out`, such as by SIGKILL, and
            has left nothing but files and folders of such names, they are removed.

    Yields:
        Its Path.

    Raises:
        Taken: something lies in `out`, or another process holds it.
        FolderError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if out is not None:
            folder = stack.enter_context(_reserved(local(out), begun))
        else:
            for number in itertools.count(1):
                with contextlib.suppress(Taken):
                    path = Path(inside) / (name if number == 1 else f"{name}-{number}")
                    folder = stack.enter_context(_reserved(path, numbered=True))
                    break
        yield folder


@contextlib.contextmanager
def held(folder):
    """Holds a folder that is there in the `with`.

    Yields:
        Its Path.

    Raises:
        Taken: another process holds it.
    """
    folder = Path(folder)
    with _locked(folder) as locked:
        if not locked:
            raise Taken(f"{folder}: {_holder(folder)}; wait until that ends, or stop it")
        yield folder


def left_by_a_crash(folder):
    """Whether a process has held a folder and has ended without letting go of it, or still holds it."""
    return (Path(folder) / LOCK).exists()


@contextlib.contextmanager
def _reserved(folder, begun=(), *, numbered=False):
    left = begun if left_by_a_crash(folder) else ()
    if _filled(folder, left):
        what = ", of a process that was killed and of others" if left else ""
        raise Taken(f"{folder}: expected a new or empty folder, it holds something already{what}; name another --out")
    # A numbered folder may be there because another process that tried to take it was a moment faster, in vain.
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists() or (numbered and path == folder)]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        locked = _make_and_lock(folder, stack)
        if not locked:
            raise Taken(f"{folder}: {_holder(folder)}; name another --out")
        if locked is UNKNOWN and _filled(folder):
            raise Taken(
                f"{folder}: expected a new or empty folder, it holds what another process has begun, and its file "
                "system has no locks that would show whether that still runs; remove it, or name another --out"
            )
        for path in folder.iterdir() if left else ():
            if _matches(path.name, left):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if _filled(folder):
            raise Taken(f"{folder}: another process has just written into it; name another --out")
        yield folder


def _make_and_lock(folder, stack, attempts=10):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(_locked(folder))
    except OSError as error:
        if attempts and isinstance(error, FileNotFoundError):  # who had it before has just removed it
            return _make_and_lock(folder, stack, attempts - 1)
        raise FolderError(f"{folder}: cannot be made ({error.strerror}); name another --out") from error


def _remove_empty(paths):
    with contextlib.suppress(OSError):
        for path in paths:
            path.rmdir()


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _filled(folder, but=()):
    """Whether it holds more than a lock that a crash may have left, and what answers to the patterns of `but`."""
    try:
        return not all(name == LOCK or _matches(name, but) for name in os.listdir(folder))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return folder.exists()


@contextlib.contextmanager
def _locked(folder):
    """Yields whether this process, and no other, has the folder's lock in the `with`; UNKNOWN where there are none."""
    if fcntl is None:
        yield UNKNOWN
        return
    file, locked = folder / LOCK, True
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        except OSError:  # the file system knows no locks
            locked = UNKNOWN
        # Who held it may have removed it between the two lines above; then nobody else finds the locked file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                break
        os.close(descriptor)
    try:
        text = (
            f"process {os.getpid()} on {socket.gethostname()} writes into it since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())
        yield locked
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)
        os.close(descriptor)


def _holder(folder, patience=1.0):
    """Who holds a folder, as its lock says; whoever has just taken it is given `patience` seconds to say so."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if text := (folder / LOCK).read_text(encoding="utf-8"):
                return text
        time.sleep(0.01)
    return "another process writes into it"
