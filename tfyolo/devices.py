"""TensorFlow's start in a process that is this package's alone, and the devices that it then uses.

They are chosen before it looks at them, so before the first tensor.
"""

import os
import sys

from tfyolo.errors import Error
from tfyolo.libraries import has_tensorflow, import_tensorflow, libraries_silent


class DeviceError(Error):
    """A device that is asked for is not there, or was asked for too late."""


class ForkError(Error):
    """A process cannot work with TensorFlow: it was forked when TensorFlow had begun to work.

    The message says what to do.
    """


# The process in which TensorFlow had begun to work when this one, or one that it comes from, was forked.
_forked_from = None


def _after_fork():
    global _forked_from
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if _forked_from is None and getattr(context, "_initialized", False):
        _forked_from = os.getppid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_process():
    """Raises ForkError where TensorFlow would wait for ever: a fork leaves its threads behind."""
    if _forked_from is not None:
        raise ForkError(
            f"expected a process with a TensorFlow of its own, this one ({os.getpid()}) was forked from process "
            f"{_forked_from}, which had begun to work with it, and it would wait here for ever. Start processes by "
            "multiprocessing.get_context('spawn') and load the model in each, or fork before the first model is loaded"
        )


def start(device=None, threads=None, *, optional=False, first=None):
    """Imports TensorFlow, quietly, and lets it look for its devices, once for all.

    TensorFlow reads its log level at the import: a TF_CPP_MIN_LOG_LEVEL that is set stays.

    Args:
        device: what parsed() returns; None: all GPUs, else the processor.
        threads: how many TensorFlow may use; None: as many as there are cores.
        optional: whether what follows can do without TensorFlow, on the processor.
        first: called before TensorFlow looks at its devices, if it is to be before anything else.

    Raises:
        DeviceError: the device is not there.
        ModuleNotFoundError: TensorFlow is not installed.
    """
    if optional and device in (None, "cpu") and not has_tensorflow():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    new = "tensorflow" not in sys.modules
    import_tensorflow()
    import absl.logging
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    absl.logging.set_verbosity(absl.logging.ERROR)
    with libraries_silent():
        if threads and new:  # later it does not listen
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        if device:
            choose(device)
    if first:
        first()
    with libraries_silent():
        tf.config.list_logical_devices()


def parsed(text):
    """Reads the name of a device.

    Args:
        text: "cpu", "gpu" (all of them) or numbers of GPUs, "0,1".

    Returns:
        "cpu", "gpu" or a tuple of int.

    Raises:
        DeviceError: it is anything else.
    """
    word = text.strip().lower()
    if word in ("cpu", "gpu"):
        return word
    numbers = [number.strip() for number in word.split(",")]
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise DeviceError(f"device: expected cpu, gpu, or the numbers of GPUs, such as 0 or 0,1, received {text!r}")
    return tuple(map(int, numbers))


def choose(device):
    """Lets TensorFlow see one kind of devices, or some, and no others.

    Args:
        device: what parsed() returns.

    Raises:
        DeviceError: they are not there, or TensorFlow has begun to use its devices.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if device != "cpu" and not gpus:
        raise DeviceError(f"device: expected cpu, received {_shown(device)}: TensorFlow sees no GPU on this machine")
    if not isinstance(device, str) and max(device) >= len(gpus):
        raise DeviceError(
            f"device: expected numbers from 0 to {len(gpus) - 1}, of the GPUs that TensorFlow sees, "
            f"received {_shown(device)}"
        )
    chosen = {"cpu": [], "gpu": gpus}.get(device) if isinstance(device, str) else [gpus[number] for number in device]
    if tf.config.get_visible_devices("GPU") == chosen:
        return
    try:
        tf.config.set_visible_devices(chosen, "GPU")
    except RuntimeError as error:
        raise DeviceError(
            f"device: {_shown(device)} was asked for when TensorFlow had begun to use its devices; ask before the "
            "first tensor"
        ) from error


def _shown(device):
    return device if isinstance(device, str) else ",".join(map(str, device))
