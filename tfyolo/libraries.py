"""The libraries under this package: how they are kept from writing between its lines, and what is said without them."""

import contextlib
import importlib.util
import os
import sys
import threading

from tfyolo.errors import MissingError

# Packages that not every install has: those of the extra `train`.
_OF_TRAINING = ("tensorflow", "absl", "keras", "cv2", "matplotlib", "h5py", "tensorboard")

_one_at_a_time = threading.RLock()
_held_back = None  # (thread that does, a duplicate of standard error) while it is held back


@contextlib.contextmanager
def libraries_silent():
    """Holds back what C++ libraries write to standard error past every setting. Errors still arrive as exceptions.

    Standard error is the whole process's: where other threads of a program that uses this package may be writing to it,
    it stays open.
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
    """A process forked meanwhile by another thread lacks the thread that lets go: it opens standard error itself."""
    global _one_at_a_time, _held_back
    if _held_back is None or _held_back[0] != threading.get_ident():
        if _held_back is not None:
            os.dup2(_held_back[1], 2)
        _one_at_a_time, _held_back = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _others_may_write():
    """Whether Python runs threads beside this one that somebody has started: not TensorFlow's own, nor tqdm's."""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return any(type(thread).__name__ not in ("TMonitor", "_DummyThread") for thread in others)


def import_tensorflow():
    """Imports TensorFlow without the page of notices about the machine that it writes.

    Its log level stays the host program's; devices.start sets it where the process is this package's alone. Who has set
    TF_CPP_MIN_LOG_LEVEL to 0 or 1 hears everything.
    """
    if "tensorflow" in sys.modules:
        return
    # On processors without AVX-512 TensorFlow leaves it off, and a step takes 1.3 to 3 times as long. It asks but once.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    asked = os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1")
    with contextlib.nullcontext() if asked else libraries_silent():
        import tensorflow  # noqa: F401


def has_tensorflow():
    """Whether TensorFlow is installed; it is not on a device that only detects (`pip install 'tfyolo[edge]'`)."""
    return importlib.util.find_spec("tensorflow") is not None


@contextlib.contextmanager
def missing_explained(what):
    """Says what to install where a package of the extra `train` is missing, in place of Python's own words.

    Args:
        what: was asked for: "tfyolo train".

    Raises:
        MissingError: such a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_TRAINING:
            raise
        raise MissingError(
            f"{what}: expected the package {package}, which is not installed; pip install 'tfyolo[train]' brings all "
            "that training, evaluation and exports need. Without it, `tfyolo detect`, `tfyolo benchmark` and "
            "tfyolo.load take .tflite files, all but those of `--nms heads`"
        ) from error
