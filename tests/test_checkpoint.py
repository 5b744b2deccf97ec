"""What is written is complete or absent: files and folders, whatever goes wrong, whenever the power fails."""

import ast
import errno
import fnmatch
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

import tfyolo
from tfyolo import checkpoint
from tfyolo import files as files_module
from tfyolo.files import atomic_file, remove_left, scratch_folder, temporary_names

PACKAGE = Path(tfyolo.__file__).parent
ROOT = PACKAGE.parent


def write(path, content, kind):
    """A file, or a folder of files, of one content."""
    with atomic_file(path) as aside:
        if kind == "folder":
            (aside / "variables").mkdir(parents=True)
            (aside / "variables" / "data").write_text(content)
            (aside / "graph.pb").write_text(content)
        else:
            aside.write_text(content)


def read(path):
    return {
        file.read_text() for file in ([path] if path.is_file() else [path / "graph.pb", path / "variables" / "data"])
    }


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_is_new_or_replaces_the_old(kind, tmp_path):
    path = tmp_path / "x.json"
    for content in ("old", "new"):
        write(path, content, kind)
        assert read(path) == {content} and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("led_to", ["file", "folder", "nothing"])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("exchange", [True, False])
def test_a_link_is_replaced_and_what_it_led_to_stays(kind, led_to, exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files_module, "_exchanged", lambda *_: False)
    (tmp_path / "other").mkdir()
    if led_to != "nothing":
        write(tmp_path / "other" / "kept", "kept", led_to)
    path = tmp_path / "x.json"
    path.symlink_to(tmp_path / "other" / "kept", target_is_directory=led_to == "folder")
    write(path, "new", kind)
    assert read(path) == {"new"} and not path.is_symlink() and sorted(os.listdir(tmp_path)) == ["other", "x.json"]
    assert led_to == "nothing" or read(tmp_path / "other" / "kept") == {"kept"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_goes_wrong_leaves_the_old_and_nothing_else(kind, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write(path, "old", kind)
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as aside:
        aside.mkdir() if kind == "folder" else aside.write_text("half")
        raise KeyboardInterrupt
    assert read(path) == {"old"} and os.listdir(tmp_path) == ["x.json"]

    def fails(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output error"):
            write(path, "new", kind)
    assert read(path) == {"old"} and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_of_it_is_on_the_disk_before_it_has_its_name(kind, tmp_path, monkeypatch):
    path = tmp_path / "x"
    write(path, "old", kind)
    done = []
    fsync, rename = os.fsync, os.replace
    exchanged = files_module._exchanged

    def flushes(file):
        done.append(Path(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")))
        fsync(file)

    monkeypatch.setattr(os, "fsync", flushes)
    monkeypatch.setattr(os, "replace", lambda *names: done.append("named") or rename(*names))
    monkeypatch.setattr(files_module, "_exchanged", lambda *names: done.append("named") or exchanged(*names))
    write(path, "new", kind)
    named = done.index("named")
    files = {"graph.pb", "data"} if kind == "folder" else {f".x.{os.getpid()}.tmp"}
    assert files <= {each.name for each in done[:named]}
    assert done[-1] == tmp_path  # and the name itself


def test_a_folder_is_replaced_without_a_moment_in_which_none_is_there(tmp_path):
    path = tmp_path / "saved_model"
    write(path, "first", "folder")
    if not files_module._exchanged(path, path):
        pytest.skip("this system or file system exchanges no names")
    missing, over = [], threading.Event()

    def look():
        while not over.is_set():
            try:
                os.stat(path / "graph.pb")
            except FileNotFoundError:
                missing.append(True)

    watcher = threading.Thread(target=look)
    watcher.start()
    for i in range(30):
        write(path, str(i), "folder")
    over.set()
    watcher.join()
    assert not missing and read(path) == {"29"}


def test_without_an_exchange_it_is_replaced_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "_exchanged", lambda *names: False)
    path = tmp_path / "saved_model"
    for content in ("old", "new"):
        write(path, content, "folder")
        assert read(path) == {content} and os.listdir(tmp_path) == ["saved_model"]

    def fails(first, second, rename=os.replace):
        if second == path and first.name.endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(first, second)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        write(path, "newest", "folder")
    assert read(path) == {"new"} and os.listdir(tmp_path) == ["saved_model"]


def test_a_checkpoint_is_what_was_given(tmp_path):
    arrays = {"layer/kernel": np.arange(6.0).reshape(2, 3), "bias": np.float32(2)}
    checkpoint.save(tmp_path / "x.h5", {"config": "{}", "classes": ["ä"]}, weights=arrays)
    meta, weights = checkpoint.load(tmp_path / "x.h5", "weights")
    assert meta == {"config": "{}", "classes": ["ä"]} and weights.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights[name], array)


FULL = """
import resource, sys
import numpy as np
from tfyolo import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # a write beyond is an error, as on a full disk
weights = {str(i): np.zeros((100, 100), "f4") for i in range(20)}
try:
    checkpoint.save(sys.argv[1], {"config": "{}", "classes": ["b"]}, weights=weights)
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize(
    "size", [1000, 90_000, 811_000, "one byte less"]
)  # in the description, in an array, at the end, in the checksum
def test_a_full_disk_is_an_error_with_the_files_name(size, tmp_path):
    """In a process of its own, which HDF5 ends without a word when it closes a file that it could not write."""
    path = tmp_path / "best.h5"
    if size == "one byte less":
        checkpoint.save(
            path, {"config": "{}", "classes": ["b"]}, weights={str(i): np.zeros((100, 100), "f4") for i in range(20)}
        )
        size = path.stat().st_size - 1
    checkpoint.save(path, {"config": "{}", "classes": ["a"]}, weights={"x": np.arange(3)})
    done = subprocess.run([sys.executable, "-c", FULL, path, str(size)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{errno.EFBIG} {path}\n", "")
    assert checkpoint.load(path, "weights")[0]["classes"] == ["a"] and os.listdir(tmp_path) == ["best.h5"]


@pytest.mark.parametrize("fails", ["write", "fsync", "open"])
def test_an_error_names_the_file_that_was_to_be_written(fails, tmp_path, monkeypatch):
    """Whatever it was called until then."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if fails == "fsync" else None
    path = tmp_path / ("nowhere" if fails == "open" else "") / "notes.txt"
    with pytest.raises(OSError) as error, atomic_file(path) as aside:
        aside.write_text("new")
        if fails == "write":
            full()
    assert error.value.filename == str(path) and os.listdir(tmp_path) == []
    assert error.value.errno == (errno.ENOENT if fails == "open" else errno.ENOSPC)


def test_a_checkpoint_that_was_changed_with_h5py_is_read(tmp_path):
    """Which takes its checksum away. So is one of earlier versions, which had none."""
    checkpoint.save(tmp_path / "x.h5", {"config": "{}", "classes": ["a"]}, weights={"x": np.arange(3)})
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["weights/x"][1] = 7
    assert checkpoint.load(tmp_path / "x.h5", "weights")[1]["x"].tolist() == [0, 7, 2]


def test_nothing_else_gives_files_their_names():
    """os.replace, os.rename, Path.rename: whoever writes aside and renames, does it here, where it is flushed first."""
    found = []
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")):
        # remote.py names no files of this machine; addons_goldens.py runs where tfyolo does not.
        if path.name in ("files.py", "remote.py", "addons_goldens.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (node.attr == "rename" or ast.unparse(node) == "os.replace"):
                found.append(f"{path}:{node.lineno}")
    assert not found


def test_only_its_own_and_only_what_the_dead_have_left_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    gone = [f".last.{dead.pid}.tmp.h5", f".division-1.{dead.pid}.tmp.json", f".last.{os.getpid()}.tmp.h5"]
    stays = [
        "last.h5", f".last.{os.getppid()}.tmp.h5", f".network.{dead.pid}.tmp.svg", f".last.{dead.pid}.tmp.csv",
        ".last.tmp.h5",
        ".last.x.tmp.h5", f"last.{dead.pid}.tmp.h5", f".last.{dead.pid}.h5", ".last.99999999999999999999.tmp.h5",
    ]  # fmt: skip
    for name in (*gone, *stays):
        (tmp_path / name).touch()
    names = ("last.h5", "division*.json", "pictures")
    for name in gone:
        assert any(fnmatch.fnmatchcase(name, temporary_names(each)) for each in names)
    remove_left(tmp_path, names)
    assert sorted(os.listdir(tmp_path)) == sorted(stays)
    with atomic_file(tmp_path / "last.h5") as aside:
        assert fnmatch.fnmatchcase(aside.name, temporary_names("last.h5"))
        aside.touch()


def test_a_scratch_folder_is_gone_at_the_end_and_takes_those_of_the_killed_along(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = socket.gethostname()
    gone = f".export-{here}-{dead.pid}-abc"
    stays = [f".export-{here}-{os.getpid()}-abc", f".export-{here}-{os.getppid()}-abc", f".export-other-{dead.pid}-abc",
             f".writing-{here}-{dead.pid}-abc", ".export-abc"]  # fmt: skip
    for name in (gone, *stays):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path, "export") as folder:
        (folder / "file").touch()
        assert sorted(os.listdir(tmp_path)) == sorted([*stays, folder.name])
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == sorted(stays)


def test_one_file_alone_opens_hdf5():
    """Where nothing is followed out of a file, and nothing may be larger than it."""
    found = [path.name for path in PACKAGE.rglob("*.py") if "import h5py" in path.read_text(encoding="utf-8")]
    assert found == ["hdf5.py"]
