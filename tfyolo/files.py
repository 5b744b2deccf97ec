"""Files as all commands open them: only regular ones, and up to so many bytes; and JSON as it is read from anywhere."""

import errno
import json
import os
import stat


def open_regular(path):
    """A file opened to read bytes.

    Args:
        path: of the file.

    Raises:
        OSError: with strerror and filename; also for what is no regular file, such as a FIFO or a device, where reading might never end,
            and for a name that no file can have.
    """
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
        OSError: as of open_regular; also for a longer file, of which no more than that is read.
    """
    with open_regular(path) as stream:
        content = stream.read() if most is None else stream.read(most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes, it has more", os.fspath(path))
    return content


def parse_json(content):
    """What a JSON text, str or bytes, holds. Raises ValueError, in words, also if it is nested too deeply to be parsed."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def what_is(path) -> str:
    """What stands at a path that is no regular file, in words: "a folder", "a FIFO or a device", "no such file"."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return "a link that leads nowhere, or in a circle" if os.path.islink(path) else "no such file"
    return "a folder" if stat.S_ISDIR(mode) else "a FIFO or a device"
