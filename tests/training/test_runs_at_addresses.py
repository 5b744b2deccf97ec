"""Runs at addresses: at ram://, TensorFlow's own file system in memory, what is written, gone on from and used."""

import json
import signal
import uuid
from pathlib import Path

import conftest
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, tfyolo_here
from scenes import at_address
from test_resume import assert_same_run, signalled

import tfyolo
from tfyolo import checkpoint, folders
from tfyolo.cli import train as command
from tfyolo.errors import CheckpointError
from tfyolo.exports.targets import ExportError
from tfyolo.files import NotLocalError, address, here, written_to
from tfyolo.remote import Mirror, fetched
from tfyolo.training import runs


@pytest.fixture
def place():
    """An address where nothing is."""
    found = f"ram://{uuid.uuid4().hex}"
    yield found
    if tf.io.gfile.isdir(found):
        tf.io.gfile.rmtree(found)


def content(place):
    """{name: bytes} of the files at an address."""
    found = {}
    for folder, _, names in tf.io.gfile.walk(place):
        for name in names:
            file = f"{folder.rstrip('/')}/{name}"
            found[file.removeprefix(f"{place}/")] = tf.io.gfile.GFile(file, "rb").read()
    return found


# --- folders that are copied there ------------------------------------------------------------------------------------


def test_files_are_copied_whole_when_they_have_changed_the_last_one_last(place, monkeypatch):
    renamed = []
    rename = tf.io.gfile.rename
    monkeypatch.setattr(tf.io.gfile, "rename", lambda *names, **more: (renamed.append(names), rename(*names, **more)))
    mirror = Mirror(place, last=("last.h5",))
    with mirror.held() as folder:
        for name in ("a.txt", "last.h5", "z/b.txt", ".lock"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        mirror.copy()
        assert content(place) == {name: name.encode() for name in ("a.txt", "last.h5", "z/b.txt")}
        (folder / "a.txt").write_text("other")
        tf.io.gfile.copy(str(folder / "a.txt"), f"{place}/.a.txt.tmp")  # as a process that was killed leaves it
        mirror.copy()
    assert [to.removeprefix(f"{place}/") for _, to in renamed] == ["a.txt", "z/b.txt", "last.h5", "a.txt"]
    assert not folder.exists() and content(place)["a.txt"] == b"other"
    with mirror.held(["a.txt"]) as folder:
        assert [file.name for file in folder.iterdir()] == ["a.txt"]
    assert len(renamed) == 4  # nothing had changed


@pytest.mark.parametrize("ending", [KeyboardInterrupt, None])
def test_an_interrupt_while_the_last_is_copied_keeps_what_was_written(ending, place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfyolo.remote.upload", interrupted)
    with pytest.raises(KeyboardInterrupt) as error, Mirror(place).held() as folder:
        (folder / "a.txt").write_text("a")
        if ending:
            raise ending
    assert (folder / "a.txt").read_text() == "a" and str(folder) in error.value.__notes__[0]


def test_only_models_are_fetched_and_each_has_a_copy_of_its_own(place, monkeypatch):
    for name in (
        "run/best.h5",
        "run/last.h5",
        "run/config.yaml",
        "run/pictures/a.jpg",
        "data/a.jpg",
        "data/labels/a.txt",
    ):
        tf.io.gfile.makedirs(f"{place}/{name}".rpartition("/")[0])
        tf.io.gfile.GFile(f"{place}/{name}", "w").write(name)
    with pytest.raises(CheckpointError, match=r"data: cannot be fetched: a folder without a run or an export"):
        here(f"{place}/data")
    file, run = fetched(f"{place}/run/last.h5"), fetched(f"{place}/run")
    assert sorted(path.name for path in run.iterdir()) == ["best.h5", "config.yaml"]
    assert file.read_text() == "run/last.h5" and fetched(f"{place}/run/last.h5").exists()


def test_of_nothing_nothing_is_left(place):
    with Mirror(place).held():
        pass
    assert not tf.io.gfile.exists(place)


def test_what_cannot_be_copied_is_kept_here(place, monkeypatch):
    def fail(*args, **more):
        raise tf.errors.UnavailableError(None, None, "no network")

    said = "Unavailable: no network; what was written is in"
    with pytest.raises(OSError, match=said) as caught, written_to(place) as folder:
        (folder / "a.txt").write_text("a")
        monkeypatch.setattr(tf.io.gfile, "copy", fail)
    assert caught.value.filename == place and (folder / "a.txt").read_text() == "a"


def test_a_folder_here_is_written_in_its_place(tmp_path):
    with written_to(tmp_path / "x") as folder:
        assert folder == tmp_path / "x"
    with pytest.raises(NotLocalError, match="mount-s3"), written_to("s3://x"):
        pass


def test_a_run_is_written_over_no_other(place, monkeypatch):
    config = tfyolo.load_config("demo", ["data=x"])

    def reserved(resume, config=config):
        return runs.run_folder(config, place, resume, Mirror(place))

    with pytest.raises(runs.TrainingError, match="no run there to resume"):
        reserved(True, None)
    with reserved(False) as folder:
        (folder / "history.csv").write_text("epoch")
    with pytest.raises(folders.Taken, match="it holds something already; name another"):
        reserved(False)
    with reserved(True) as folder:  # killed before it had kept anything: it begins anew
        assert not list(folder.iterdir())
        for name in ("last.h5", "history.csv"):
            (folder / name).write_text("1")
    with pytest.raises(folders.Taken, match="go on with its run by --resume"):
        reserved(False)
    tf.io.gfile.copy(f"{place}/last.h5", f"{place}/notes.txt")
    with reserved(True, None) as folder:
        assert {file.name for file in folder.iterdir()} == {"last.h5", "history.csv"}
    tf.io.gfile.remove(f"{place}/last.h5")
    with pytest.raises(folders.Taken, match="name another"):
        reserved(True)

    def listdir(path):
        raise tf.errors.PermissionDeniedError(None, None, "no token")

    monkeypatch.setattr(tf.io.gfile, "listdir", listdir)
    with pytest.raises(folders.FolderError, match=f"{place}: cannot be read or written: permission denied: no token"):
        reserved(True)


def test_of_a_run_its_model_is_fetched_of_an_export_all(tmp_path):
    for name in (
        "run/best.h5",
        "run/last.h5",
        "run/config.yaml",
        "run/tensorboard/x",
        "saved/saved_model.pb",
        "saved/v/b",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    with at_address(tmp_path) as place:
        for name, files in {"run": {"best.h5", "config.yaml"}, "saved": {"saved_model.pb", "v/b"}}.items():
            copy = fetched(f"{place}/{name}")
            assert {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()} == files
        assert fetched(f"{place}/saved/saved_model.pb").read_text() == "saved/saved_model.pb"
        tf.io.gfile.copy(str(tmp_path / "saved" / "v" / "b"), f"{place}/new")
        tf.io.gfile.rename(f"{place}/new", f"{place}/saved/saved_model.pb", overwrite=True)
        assert here(f"{place}/saved/saved_model.pb").read_text() == "saved/v/b"
        with pytest.raises(CheckpointError, match=f"{place}/none: cannot be fetched: no such file"):
            here(f"{place}/none")
    assert here(tmp_path) == tmp_path


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_at_an_address_is_the_run_that_was_written_here(demo_run, demo_records, place, tmp_path, monkeypatch):
    """Data and run in memory; it is stopped after one of two steps, as if its machine was lost, and goes on."""
    whole, _ = demo_run
    with at_address(demo_records[0]) as data:
        settings = [f"data={data}", *conftest.TINY, "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"]
        again = ["train", ROOT / "configs" / "demo.yaml", *settings, "--out", f"{place}/run", "--resume"]
        with monkeypatch.context() as patch:
            signalled(patch, "step", 1, signal.SIGTERM)
            stopped = tfyolo_here(*again)
        assert stopped.exit_code == command.RESUME and f"{place}/run --resume` goes on" in stopped.stderr
        assert "last.h5" in content(f"{place}/run") and "tfyolo-mirror" not in stopped.stdout + stopped.stderr
        resumed = tfyolo_here(*again)
        assert resumed.exit_code == 0 and "after epoch 0 of 1 and 1 step of the next" in resumed.stdout
        assert f"everything is in {place}/run" in resumed.stdout
        finished = tfyolo_here("train", f"{place}/run", "--resume")
        assert finished.exit_code == 0 and "nothing is left to train" in finished.stderr
        assert tfyolo_here(*again[:-1]).exit_code == 1  # without --resume
        written = content(f"{place}/run")
        assert {file.relative_to(whole).as_posix() for file in whole.rglob("*.*") if "events" not in file.name} == {
            name for name in written if "events" not in name
        }
        for name, text in written.items():
            (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "run" / name).write_bytes(text)
        assert_same_run(whole, tmp_path / "run")
        saved = json.loads(checkpoint.read_meta(tmp_path / "run" / "last.h5")["config"])
        assert saved["data"]["path"] == data and not list(Path().glob("ram:"))

        begun = tfyolo_here("train", f"{place}/run", *settings[1:], f"data={data}", "--out", tmp_path / "tuned")
        assert begun.exit_code == 0, begun.output
        init = tfyolo.load_config("demo", [*settings, f"init={place}/run/best.h5"])
        tfyolo.train(init, tmp_path / "init", progress=False)
        for name in ("tuned", "init"):
            meta = checkpoint.read_meta(tmp_path / name / "last.h5")
            assert json.loads(meta["config"])["train"]["init"].startswith(f"{place}/run")


@pytest.mark.slow
def test_a_model_at_an_address_is_used_as_one_here(demo_run, demo_records, place, tmp_path):
    run, records = demo_run[0], demo_records[0]
    with at_address(run) as there, at_address(records) as data:
        reports = [tfyolo.evaluate(*each, progress=False) for each in ((run, records), (there, data))]
        assert reports[0].metrics == reports[1].metrics
        out = f"{place}/evaluation"
        assert tfyolo_here("evaluate", there, "--data", data, "--out", out).exit_code == 0
        assert {"metrics.json", "detections.json"} <= content(out).keys()

        made = tfyolo.export(there, targets=[("tflite", "float32")])
        ((_, exported),) = made.items()
        assert address(exported.path).startswith(f"{there}/export/")
        assert {"report.json", exported.path.name} <= content(f"{there}/export").keys()
        with pytest.raises(ExportError, match=f"{there}/export/.*: there already"):
            tfyolo.export(there, targets=[("tflite", "float32")])
        tfyolo.export(there, f"{there}/export", [("saved_model", "float32")], overwrite=True)
        assert exported.path.name in content(f"{there}/export")

        image = np.zeros([64, 64, 3], np.uint8)
        found = [tfyolo.load(path)(image, score=0.0) for path in (run, there, exported.path, f"{there}/best.h5")]
        for each in found[1:]:
            np.testing.assert_allclose(each.boxes[:5], found[0].boxes[:5], atol=1e-2)
        assert tfyolo.load(f"{there}/export/saved_model")(image, score=0.0).boxes.shape == found[0].boxes.shape
        with tf.io.gfile.GFile(f"{place}/image.png", "wb") as file:
            file.write(tf.io.encode_png(image).numpy())
        result = tfyolo_here("detect", exported.path, f"{place}/image.png", "--out", tmp_path / "found")
        assert result.exit_code == 0 and (tmp_path / "found" / "image.jpg").exists(), result.output


@pytest.mark.slow
def test_an_address_that_does_not_answer_for_a_while_ends_no_training(demo_records, place, monkeypatch, capsys):
    settings = [f"data={demo_records[0]}", *conftest.TINY, "train.stages=[{epochs: 2, lr: 0.001, plain_epochs: 1}]"]
    copy, failed = tf.io.gfile.copy, []

    def fail_once(*names, **more):
        if not failed:
            failed.append(names)
            raise tf.errors.UnavailableError(None, None, "no network")
        return copy(*names, **more)

    monkeypatch.setattr(tf.io.gfile, "copy", fail_once)
    run = tfyolo.train(tfyolo.load_config("demo", settings), place, progress=False)
    assert f"{place}: not written, and tried again when the run is kept next: Unavailable" in capsys.readouterr().err
    assert checkpoint.read_meta(here(run.folder / "last.h5"))["state"]["epoch"] == 2
