"""What is said, in the right number; and what is not."""

import os
import subprocess
import sys

import pytest

from tfyolo.messages import counted, libraries_silent


@pytest.mark.parametrize(
    "number, noun, words",
    [(1, "row", "1 row"), (0, "row", "0 rows"), (2, "class", "2 classes"), (1, "class", "1 class"),
     (3, "box", "3 boxes"), (12345, "picture", "12,345 pictures")],
)  # fmt: skip
def test_counted(number, noun, words):
    assert counted(number, noun) == words


def test_libraries_are_silent_and_errors_are_not(capfd):
    with pytest.raises(ValueError, match="wrong"), libraries_silent():
        os.write(2, b"noise")
        raise ValueError("wrong")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_python_is_as_quiet_as_the_command_line():
    """TensorFlow greets on standard error as soon as it is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ran = subprocess.run(
        [sys.executable, "-c", "import tfyolo; tfyolo.load"], env=environment, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
