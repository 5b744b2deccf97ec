"""What is said, in the right number; and what is not."""

import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from tfyolo import libraries
from tfyolo.libraries import libraries_silent
from tfyolo.messages import counted, listed, plain


@pytest.mark.parametrize(
    "number, noun, words",
    [(1, "row", "1 row"), (0, "row", "0 rows"), (2, "class", "2 classes"), (1, "class", "1 class"),
     (3, "box", "3 boxes"), (12345, "picture", "12,345 pictures"), (3, "epoch", "3 epochs"), (2, "batch", "2 batches"),
     (2, "branch", "2 branches"), (2, "category", "2 categories"), (2, "day", "2 days"), (2, "mesh", "2 meshes")],
)  # fmt: skip
def test_counted(number, noun, words):
    assert counted(number, noun) == words


def test_libraries_are_silent_and_errors_are_not(capfd):
    with pytest.raises(ValueError, match="wrong"), libraries_silent():
        os.write(2, b"noise")
        raise ValueError("wrong")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_what_other_threads_write_meanwhile_is_heard(capfd):
    """All threads share standard error: two that hold it back at once, and release it crosswise, leave it as it was."""
    entered, left, steps = threading.Semaphore(0), threading.Semaphore(0), [threading.Event() for _ in range(2)]

    def load(step):
        with libraries_silent():
            entered.release()
            step.wait(timeout=5)
        left.release()

    before = os.fstat(2)
    for step in steps:
        threading.Thread(target=load, args=[step]).start()
        entered.acquire(timeout=5)
    os.write(2, b"heard")
    for step in steps:
        step.set()
        left.acquire(timeout=5)
    os.write(2, b", still")
    assert capfd.readouterr().err == "heard, still" and os.path.samestat(os.fstat(2), before)


def test_a_process_that_is_forked_meanwhile_is_not_held_up_and_is_heard(capfd, monkeypatch):
    """By another thread: the one that holds standard error back is not there to let it go."""
    monkeypatch.setattr(libraries, "_others_may_write", lambda: False)
    status = []

    def fork():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process has threads
            child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            with libraries_silent():
                os.write(2, b"noise")
            os.write(2, b"heard")
            os._exit(0)
        status.append(os.waitpid(child, 0)[1])

    with libraries_silent():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        os.write(2, b"noise")
    assert status == [0] and capfd.readouterr().err == "heard"


def test_python_is_as_quiet_as_the_command_line_and_leaves_a_host_programs_log_level_as_it_is():
    """TensorFlow writes on standard error at its import, and reads its log level at that moment."""
    code = """
import sys, tfyolo
tfyolo.load
print("imported", file=sys.stderr, flush=True)
import tensorflow as tf
infinite = tf.data.Dataset.from_tensors(float("inf")).map(lambda x: tf.debugging.check_numerics(x, "the host's"))
list(infinite.ignore_errors(log_warning=True))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "") and ran.stderr.startswith("imported\n"), ran.stderr
    assert "the host's : Tensor had Inf" in ran.stderr


@pytest.mark.parametrize("given, used", [(None, "True"), pytest.param("0", "False", marks=pytest.mark.slow)])
def test_onednn_is_on_unless_the_user_says_otherwise(given, used):
    """On processors without AVX-512 TensorFlow leaves it off."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given}
    asks = "import tfyolo; tfyolo.load; from tensorflow.python.util._pywrap_util_port import IsMklEnabled as on\n"
    asks += "print(on())"
    ran = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == used


def test_a_list_is_cut_where_more_follows():
    assert listed("abc", 2) == "a, b, ..." and listed("abc", 3) == "a, b, c" and listed([], 3) == ""


def test_plain_values_are_json_without_nan():
    value = {"a": [np.nan, np.inf, 1.23456789], "b": np.array([1, 2]), "c": (np.float32(0.5), None, "x", True)}
    assert plain(value) == {"a": [None, None, 1.23456789], "b": [1, 2], "c": [0.5, None, "x", True]}
    assert plain(value, digits=2)["a"] == [None, None, 1.23]
