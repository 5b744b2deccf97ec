"""Detectors of exports in threads and forked processes."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from conftest import lively, slow
from exporting import assert_same
from test_detect import picture

from tfyolo.predict import forks
from tfyolo.predict import load as loading


@pytest.mark.parametrize("form", ["tflite", slow("saved_model"), "run"])
def test_threads_that_share_a_detector_find_what_each_would_alone(form, demo):
    detector = demo.detector if form == "run" else demo.exports[form]
    pictures = [picture(64, 64, seed=seed) for seed in range(8)]
    alone, found = [detector(each) for each in pictures], [[] for _ in pictures]

    def work(number):
        for _ in range(12):
            found[number].append(detector(pictures[number]))

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, several in zip(alone, found, strict=True):
        assert len(several) == 12
        for each in several:
            assert_same(each, expected)


def in_a_fork(work):
    """What `work` returns or raises in a forked process, within 20 seconds."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12: this process has threads, which is the point
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            outcome = work()
        except BaseException as error:
            outcome = repr(error)
        os.write(write, pickle.dumps(outcome))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        outcome = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it waits for ever, or died"
    return pickle.loads(outcome)


@pytest.mark.parametrize("form", ["tflite", "saved_model", "run"])
def test_a_forked_process_says_that_it_cannot_detect(form, demo):
    """TensorFlow's threads are not there, for which it would wait for ever."""
    detector = demo.detector if form == "run" else demo.exports[form]
    path = demo.run if form == "run" else demo.paths[form]
    detector(demo.images[0])
    for work in (lambda: detector(demo.images[0]), lambda: loading.load(path), lambda: lively("demo")):
        outcome = in_a_fork(work)
        assert (
            outcome.startswith("ForkError") and f"forked from process {os.getpid()}" in outcome and "spawn" in outcome
        )


def test_a_forked_process_has_an_interpreter_of_its_own(demo, tmp_path):
    """Also where another thread was in it at that moment; and the one that it had is left alone, whose threads are not
    there.
    """
    images = np.random.default_rng(0).random((3, 64, 64, 3), dtype="float32")
    path = tmp_path / "x.tflite"
    shutil.copy(demo.paths["tflite"], path)
    network = loading.load(path, threads=2).network
    expected = network(images)
    (interpreter,) = (each for each in forks._ALL if getattr(each, "path", None) == path)

    def work():
        found = network(images)
        return all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))

    with interpreter.lock:
        assert in_a_fork(work) is True
    shutil.copy(demo.paths["tflite-dynamic"], path)
    assert "replaced since; load it anew" in in_a_fork(work)


FORKED = """
import multiprocessing, os, sys
import numpy as np
import tfyolo
detector = tfyolo.load(sys.argv[1])
image = np.zeros((64, 64, 3), np.uint8)
detector(image)


def work(_):
    return len(detector(image))


child = os.fork()
if not child:
    try:
        work(None)
    except ValueError:
        sys.exit(7)  # by Python's own way out, which takes everything down
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(4))
except ValueError as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tflite", "saved_model", "run"])
def test_forked_processes_come_to_their_end(form, demo):
    path = demo.run if form == "run" else demo.paths[form]
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["7", "ForkError"], done.stderr
