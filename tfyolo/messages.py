"""How this package speaks: what it says itself, and how the libraries under it are kept from talking between its lines."""

import contextlib
import os
import re
import sys
import threading

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
    """ "1 row", "3 epochs", "2 categories", "1,024 classes"; noun: in the singular, a regular one."""
    return f"{number:,} {noun if number == 1 else _plural(noun)}"


def _plural(noun):
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    # After a vowel that is short by nature, ch sounds as k: epochs, techs; but batches, branches, brooches.
    hissing = re.search("(s|x|z|sh|ch)$", noun) and not re.search("(^|[^aeiou])(o|e)ch$", noun)
    return noun + ("es" if hissing else "s")


_one_at_a_time = threading.RLock()
_held_back = None  # (thread that does, a duplicate of standard error) while it is held back


@contextlib.contextmanager
def libraries_silent():
    """Holds back what C++ libraries write to standard error past every setting. What goes wrong still arrives as an exception.

    Standard error is the whole process's: where other threads of a program that uses this package may be writing to it, it stays open.
    """
    if _others_may_write():
        yield
        return
    global _held_back
    with _one_at_a_time:
        sys.stderr.flush()
        stderr, outer = os.dup(2), _held_back
        _held_back = outer or (threading.get_ident(), stderr)
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            _held_back = outer


def _after_fork():
    """A process that another thread has forked meanwhile lacks the thread that would let go: it opens standard error itself."""
    global _one_at_a_time, _held_back
    if _held_back is None or _held_back[0] != threading.get_ident():
        if _held_back is not None:
            os.dup2(_held_back[1], 2)
        _one_at_a_time, _held_back = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _others_may_write():
    """Whether Python runs threads beside this one that somebody has started: not TensorFlow's own, and not that of tqdm."""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return any(type(thread).__name__ not in ("TMonitor", "_DummyThread") for thread in others)


def import_tensorflow():
    """Imports TensorFlow without the page of notices about the machine that it writes.

    Its log level stays the host program's; devices.start sets it where the process is this package's alone. Who has set
    TF_CPP_MIN_LOG_LEVEL to 0 or 1 hears everything.
    """
    if "tensorflow" in sys.modules:
        return
    # On processors without AVX-512 TensorFlow leaves it off, and a training step takes 1.3 to 3 times as long. It asks but once.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    asked = os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1")
    with contextlib.nullcontext() if asked else libraries_silent():
        import tensorflow  # noqa: F401
