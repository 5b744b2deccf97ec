"""TensorFlow's TFLite converter in a process of its own.

The converter keeps memory of every call until its process ends. Here a child process does the calls, one after the
other, and is replaced before it has grown: who exports all day stays as small as after the first export. It is a
program (`python -m tfyolo.exports.convert`), neither forked, which TensorFlow does not bear, nor spawned by
multiprocessing, which would import the user's own script once more.

Its arguments are MOST_CALLS and IDLE. It reads requests from standard input, a line of JSON each,
{"work": a key of WORK, "source": path, "target": path, ...}, and answers each with a line of JSON.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tfyolo.exports.targets import ExportError

MOST_CALLS = 20  # of one child
MOST_GROWN = 500_000_000  # bytes; a call leaves some eight times its file's size behind
IDLE = 120  # seconds after which it ends by itself


# --- the parent -------------------------------------------------------------------------------------------------------


def convert_saved_model(folder, *, optimized=False, float16=False, uint8_input=False) -> bytes:
    """The TFLite file of a SavedModel's only signature, in builtin operations alone.

    Args:
        folder: of the SavedModel.
        optimized: weights become smaller: int8 where there are ranges (fake quantization), else of dynamic range.
        float16: they become float16 instead.
        uint8_input: the input is uint8.

    Raises:
        ExportError: the converter does not take it, or its process has died.
        OSError: the disk is full.
    """
    return _called("saved_model", folder, optimized=optimized, float16=float16, uint8_input=uint8_input)


def quantize_integers(content, *, per_channel=True) -> bytes:
    """A TFLite file in integers, inputs and outputs uint8, of one whose float tensors carry their ranges.

    Args:
        content: its bytes.
        per_channel: kernels have a scale for each output.

    Raises:
        ExportError, OSError: as convert_saved_model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "float.tflite"
        source.write_bytes(content)
        return _called("integers", source, per_channel=per_channel)


def start():
    """Starts the child, if none is there, so that it imports TensorFlow while the caller has other things to do."""
    with _one_at_a_time:
        _living()


def stop():
    """Ends the child, if one is there."""
    global _child
    with _one_at_a_time:
        if _child is not None:
            _child.kill()
        _child = None


class _Child:
    """A process that converts."""

    def __init__(self):
        self.used = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (what C++ writes, for the message if it dies)
        # Its modules are found where this process finds them; -P: and not in the folder that it happens to stand in.
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        # The processor's alone: on a GPU it would claim the memory that this process holds.
        environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable or "python", "-P", "-m", "tfyolo.exports.convert", str(MOST_CALLS), str(IDLE)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen(command, env=environment, **pipes)
        except OSError as error:
            raise ExportError(
                f"expected Python at {command[0]} to start for the TFLite converter, received: {error.strerror}"
            ) from error

    @property
    def pid(self):
        """Its number."""
        return self._process.pid

    def is_alive(self):
        return self._process.poll() is None

    def answer(self, request):
        """What it answers; None if it has ended."""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            return None
        self.used = True
        return json.loads(line) if line.endswith(b"\n") else None

    def last_words(self):
        """How it ended."""
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-1000:]
        code = self._process.wait()
        by = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return f"{by}: {words}" if words else by

    def kill(self):
        self._process.kill()
        self._process.wait()
        self.let_go()

    def forget(self):
        """Leaves it to the process that this one was forked from."""
        self._process.returncode = 0  # otherwise Python would wait for what is no child of this process
        self.let_go()

    def let_go(self):
        """Closes this process's ends; a child that is idle reads that, and ends."""
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()


_one_at_a_time = threading.RLock()
_child = None


def _living():
    """The child, a new one if there is none."""
    global _child
    if _child is not None and not _child.is_alive():
        _child.kill()
        _child = None
    if _child is None:
        _child = _Child()
    return _child


def _called(work, source, **options):
    """The bytes that a piece of WORK makes of a file or folder."""
    global _child
    with _one_at_a_time, tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "made"
        request = {"work": work, "source": str(source), "target": str(target), **options}
        answer = None
        try:
            # One that has worked before may have ended just now, being idle.
            while answer is None:
                child = _living()
                old = child.used
                answer = child.answer(request)
                if answer is None and not old:
                    raise ExportError(
                        f"expected the TFLite converter's process to answer, it ended with {child.last_words()}. Is "
                        "there memory enough? Then please report it."
                    )
        except BaseException:  # also Ctrl-C, in the midst of its work
            stop()
            raise
        if answer["last"]:
            stop()
        if "errno" in answer:
            raise OSError(answer["errno"], answer["message"])
        if "message" in answer:
            raise ExportError(f"the TFLite converter: {answer['message']}")
        return target.read_bytes()


def _after_fork():
    """The child is the other process's; with this one's ends of its pipes open, it would not see that one end."""
    global _child, _one_at_a_time
    if _child is not None:
        _child.forget()
    _child, _one_at_a_time = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(stop)


# --- the child --------------------------------------------------------------------------------------------------------


def _of_saved_model(source, *, optimized, float16, uint8_input):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(source)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if optimized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    if uint8_input:
        converter.inference_input_type = tf.uint8
    return converter.convert()


def _of_integers(source, *, per_channel):
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    content = Path(source).read_bytes()
    return mlir_quantize(content, not per_channel, input_data_type=tf.uint8, output_data_type=tf.uint8)


# What the child does: {name: (source, **options) -> bytes}.
WORK = {"saved_model": _of_saved_model, "integers": _of_integers}


def _answer(work, source, target, **options):
    """Does a request; the answer."""
    try:
        Path(target).write_bytes(WORK[work](source, **options))
    except Exception as error:  # the converter's are of many kinds
        if getattr(error, "errno", None):  # the disk's
            return {"errno": error.errno, "message": error.strerror}
        return {"message": f"{type(error).__name__}: {error}"[:4000]}
    return {}


def _resident():
    """Bytes that this process alone holds in memory, without files mapped; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _end():
    os._exit(0)  # TensorFlow's own way out takes a while, and nothing is left to be done


def main(most_calls, idle):
    """Answers requests until standard input ends, so many are done, or none comes for so many seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from tfyolo.libraries import import_tensorflow

    import_tensorflow()
    before = _resident()
    for count in range(1, most_calls + 1):
        timer = threading.Timer(idle, _end)
        timer.daemon = True
        timer.start()
        line = sys.stdin.readline()
        timer.cancel()
        if not line:
            break
        answer = _answer(**json.loads(line))
        last = count == most_calls or _resident() - before > MOST_GROWN
        print(json.dumps(answer | {"last": last}), file=answers, flush=True)
    _end()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
