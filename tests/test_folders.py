"""Folders that are taken: by one process of several, also those that crash, and without a trace where nothing came of
it.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from tfyolo import folders
from tfyolo.folders import FolderError, Taken

# Takes a folder, says which, and holds it until it is told to go on.
TAKE = """
import sys
from tfyolo import folders
out, name, inside = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    with folders.new(out or None, name, inside) as folder:
        print(folder, flush=True)
        sys.stdin.readline()
except folders.FolderError as error:
    print("Error:", error, flush=True)
"""


@contextlib.contextmanager
def takers(count, out, name, inside):
    """As many processes, each about to take a folder at the next line that it is sent."""
    command = [sys.executable, "-c", TAKE, str(out or ""), name, str(inside)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(count)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        yield processes
        for process in processes:
            process.stdin.close()


def together(processes):
    """What each says once all have been sent on."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes]


def test_processes_that_start_together_take_folders_of_their_own(tmp_path):
    with takers(6, None, "demo", tmp_path / "runs") as processes:
        taken = together(processes)
        names = ["demo", *(f"demo-{n}" for n in range(2, 7))]
        assert sorted(taken) == [str(tmp_path / "runs" / name) for name in names]
    # Nothing came of them; the last to go may take the folder above along.
    assert not (tmp_path / "runs").exists() or not os.listdir(tmp_path / "runs")


def test_of_processes_that_name_one_folder_one_gets_it_and_the_others_say_who(tmp_path):
    with takers(4, tmp_path / "deep" / "run", "demo", "") as processes:
        said = together(processes)
        (winner,) = (process for process, word in zip(processes, said, strict=True) if "Error" not in word)
        refused = [word for word in said if "Error" in word]
        assert len(refused) == 3
        assert all(f"run: process {winner.pid} on {socket.gethostname()} writes into it since 20" in r for r in refused)
        with (
            pytest.raises(Taken, match=f"process {winner.pid} .*wait until that ends"),
            folders.held(tmp_path / "deep" / "run"),
        ):
            pass
        winner.send_signal(signal.SIGKILL)
        winner.wait()
        assert os.listdir(tmp_path / "deep" / "run") == [folders.LOCK]
        with folders.held(tmp_path / "deep" / "run") as folder:  # what a crash has left holds nobody up
            assert f"process {os.getpid()} on" in (folder / folders.LOCK).read_text()
        with folders.new(tmp_path / "deep" / "run", "demo"):
            pass
    assert os.listdir(tmp_path / "deep" / "run") == []


def test_what_is_written_stays_and_the_rest_goes(tmp_path):
    with folders.new(tmp_path / "a" / "b", "demo") as folder:
        (folder / "file").write_text("")
    assert os.listdir(folder) == ["file"]
    with pytest.raises(Taken, match="b: expected a new or empty folder, it holds something already"):
        folders.new(folder, "demo").__enter__()
    with pytest.raises(KeyboardInterrupt), folders.new(tmp_path / "c" / "d" / "e", "demo"):
        raise KeyboardInterrupt
    (tmp_path / "own").mkdir()
    with pytest.raises(ValueError), folders.new(tmp_path / "own", "demo"):
        raise ValueError
    assert sorted(os.listdir(tmp_path)) == ["a", "own"] and not os.listdir(tmp_path / "own")


def test_a_number_is_skipped_by_what_lies_there_or_is_held(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("")
    (tmp_path / "x-2").write_text("")
    with folders.new(None, "x", tmp_path) as third, folders.new(None, "x", tmp_path) as fourth:
        assert (third.name, fourth.name) == ("x-3", "x-4")
    with folders.new(None, "x", tmp_path) as third:
        assert third.name == "x-3"


@pytest.mark.parametrize("out", ["file", "file/run", None])
def test_a_folder_that_cannot_be_made_is_said_and_not_tried_for_ever(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="file"):
        folders.new(out and tmp_path / out, "demo", tmp_path / "file").__enter__()


@pytest.mark.parametrize("system", ["Windows", "NFS"])
def test_without_locks_what_lies_in_a_folder_keeps_others_out(tmp_path, monkeypatch, system):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if system == "Windows":
        monkeypatch.setattr(folders, "fcntl", None)
    else:
        monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    with folders.new(None, "x", tmp_path) as folder:
        (folder / "file").write_text("")
    with folders.held(folder), folders.new(None, "x", tmp_path) as second:
        assert second.name == "x-2"
    assert os.listdir(tmp_path) == ["x"]
