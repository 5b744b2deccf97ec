"""The TFLite converter's child process: its work, its errors, its end."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import environment

from tfyolo.exports import convert
from tfyolo.exports.saved_model import save_module
from tfyolo.exports.targets import ExportError
from tfyolo.tflite.interpreter import interpreter


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """A SavedModel's folder: it doubles images."""
    module, folder = tf.Module(), tmp_path_factory.mktemp("doubling")
    signature = [tf.TensorSpec([1, 4, 4, 3], tf.float32, "images")]
    module.serve = tf.function(lambda images: {"twice": 2 * images}, input_signature=signature)
    save_module(module, folder, {"serving_default": module.serve})
    return folder


def gone(pid, seconds=30):
    """Whether a process ends in time; one that is dead and not waited for counts as ended."""
    for _ in range(10 * seconds):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def number():
    """The child's, which is started if there is none."""
    return convert._living().pid


def test_the_child_writes_what_this_process_would(doubling):
    content = convert.convert_saved_model(doubling)
    assert content == convert._of_saved_model(str(doubling), optimized=False, float16=False, uint8_input=False)
    twice = interpreter(model_content=content).get_signature_runner()
    images = np.random.default_rng(0).random((1, 4, 4, 3), dtype="float32")
    np.testing.assert_array_equal(twice(images=images)["twice"], 2 * images)


@pytest.mark.slow
def test_one_child_does_all_and_is_replaced_before_it_grows(doubling, monkeypatch):
    convert.stop()
    monkeypatch.setattr(convert, "MOST_CALLS", 2)
    numbers = []
    for _ in range(3):
        numbers.append(number())
        convert.convert_saved_model(doubling)
    assert numbers[0] == numbers[1] != numbers[2] and gone(numbers[0])
    convert.stop()
    assert gone(numbers[2])


@pytest.mark.slow
def test_errors_of_the_converter_are_carried_over_and_the_next_call_works(doubling, tmp_path):
    convert.stop()  # one that other tests have used may be replaced in between
    with pytest.raises(ExportError, match=r"the TFLite converter: .*SavedModel file does not exist"):
        convert.convert_saved_model(tmp_path)
    before = number()
    module = tf.Module()
    signature = [tf.TensorSpec([1], tf.string, "contents")]
    module.serve = tf.function(lambda contents: {"image": tf.io.decode_jpeg(contents[0])}, input_signature=signature)
    save_module(module, tmp_path / "jpeg", {"serving_default": module.serve})
    with pytest.raises(ExportError, match=r"the TFLite converter: ConverterError: .*DecodeJpeg"):
        convert.convert_saved_model(tmp_path / "jpeg")
    with pytest.raises(OSError, match="No such file"):
        convert._called("integers", tmp_path / "nothing", per_channel=True)
    assert convert.convert_saved_model(doubling) and number() == before


@pytest.mark.slow
def test_a_child_that_has_ended_is_replaced_and_one_that_dies_at_work_is_an_error(doubling):
    convert.convert_saved_model(doubling)
    os.kill(number(), signal.SIGKILL)  # as an idle one that has ended; it may not be seen at once
    assert convert.convert_saved_model(doubling)
    convert.stop()
    convert.start()  # it imports TensorFlow now
    os.kill(number(), signal.SIGSTOP)
    killer = threading.Timer(1, os.kill, (number(), signal.SIGKILL))
    killer.start()
    with pytest.raises(ExportError, match=r"it ended with signal 9 \(SIGKILL\)"):
        convert.convert_saved_model(doubling)
    assert convert.convert_saved_model(doubling)


@pytest.mark.slow
def test_an_idle_child_ends(monkeypatch):
    convert.stop()
    monkeypatch.setattr(convert, "IDLE", 0.1)
    convert.start()
    assert gone(number(), 120)
    convert.stop()


# Prints its child's number, then does something.
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
from tfyolo.exports import convert
print(convert._living().pid, flush=True)
{then}
"""
CONVERT = "print(len(convert.convert_saved_model(sys.argv[1])))"


def parent(then, *arguments):
    """A parent by `python -c`, which has no file of its own, and its child's number."""
    command = [sys.executable, "-c", PARENT.format(then=then), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    return process, int(process.stdout.readline())


@pytest.mark.slow
def test_a_parent_without_a_file_converts_and_takes_its_child_along(doubling):
    process, child = parent(CONVERT, doubling)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and int(out) > 500, errors
    assert gone(child, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_parent_that_is_ended_at_work_leaves_no_child(number, doubling):
    process, child = parent(CONVERT, doubling)
    time.sleep(0.5)  # the child imports TensorFlow, the parent waits
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode and gone(child, 120)


@pytest.mark.slow
def test_memory_stays_flat_over_twenty_exports(tmp_path):
    """In a process of its own, that nothing else has grown; files mapped, which the system drops at will, left out."""
    code = (
        "import sys, gc\n"
        "from conftest import lively\n"
        "from tfyolo.exports import convert\n"
        "from tfyolo.exports.export import export\n"
        "from tfyolo.exports.targets import Target\n"
        "model = lively('demo')\n"
        "for _ in range(20):\n"
        "    export(model, sys.argv[1], [Target('tflite')], overwrite=True)\n"
        "    gc.collect()\n"
        "    print(convert._resident())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    sizes = list(map(int, done.stdout.split()))
    assert len(sizes) == 20, done.stderr
    # It goes up and down by 100 MB as TensorFlow takes and returns it: the highest count, of the first and the last.
    assert max(sizes[-6:]) - max(sizes[:6]) < 60e6, sizes
