"""How this package speaks: what it says itself, and how the libraries under it are kept from talking between its lines."""

import contextlib
import os
import re
import sys

# What acts on a terminal or hides what stands beside it: control characters, changes of direction, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text, keep=""):
    """Text of others for people to read: control characters stand as their codes, "\\x1b", but for those to `keep`."""
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), str(text)
    )


def shortened(value, most=60):
    """A value that a file holds, quoted, for a message: printable, on one line and at most `most` characters long."""
    if isinstance(value, list | tuple | dict):  # which may hold more of each other than fits into memory as text
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else text[: most - 3] + "..."


def counted(number, noun):
    """ "1 row", "2 rows", "1,024 classes"; noun: in the singular, one that takes -s, or -es after s, sh, ch, x."""
    plural = noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


@contextlib.contextmanager
def libraries_silent():
    """Holds back what C++ libraries write to standard error past every setting. What goes wrong still arrives as an exception."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def import_tensorflow(devices=False, threads=None):
    """Imports TensorFlow without the page of notices about the machine that it writes.

    devices: looks for them too, once for all. threads: how many it may use, which it can only be told before it has looked.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules:
        return
    with libraries_silent():
        import tensorflow

        if threads:
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        if devices:
            tensorflow.config.list_logical_devices()
