"""The command line as a user has it: what it prints, leaves and returns; the same in Python; its help."""

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import click.testing
import conftest
import cv2
import numpy as np
import pytest
from conftest import ROOT, process
from conftest import command as tfyolo
from test_cli_errors import EACH
from test_detect import picture

import tfyolo as tfyolo_package
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.cli import app
from tfyolo.data.readers import DataSet
from tfyolo.evaluation.report import EvaluationError
from tfyolo.exports import export as exports
from tfyolo.exports import targets
from tfyolo.model import load_model
from tfyolo.predict import sources

DEMO = str(ROOT / "configs" / "demo.yaml")
TINY = [*conftest.TINY, "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"]


@pytest.fixture(scope="module")
def data(demo_data):
    return demo_data


@pytest.fixture(scope="module")
def records(demo_records):
    return demo_records


@pytest.fixture(scope="module")
def trained(demo_run):
    return demo_run


@pytest.fixture(scope="module")
def exported(demo_exports):
    return demo_exports


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_training_leaves_a_run(trained):
    folder, printed = trained
    assert re.search(rf"^best: epoch 1, AP .*, AP50 .*; everything is in {re.escape(str(folder))}$", printed, re.M)
    left = {path.name for path in folder.iterdir()} - {"export"}  # of other tests
    files = "best.h5 last.h5 config.yaml history.csv tensorboard pictures results.png train_batch.png"
    assert left == set(files.split())
    assert printed.startswith("model    demo, 5 classes: ") and f"\nfolder   {folder}\nepoch   1/1" in printed
    meta = checkpoint.read_meta(folder / "best.h5")
    assert configs.load(folder / "config.yaml") == configs.from_json(meta["config"])


def test_a_run_that_is_finished_has_nothing_left_to_train(trained):
    before = (trained[0] / "last.h5").read_bytes()
    result = tfyolo("train", trained[0], "--resume")
    assert result.exit_code == 0 and "its training is done (1 epoch), nothing is left to train" in result.stderr
    assert result.stdout.startswith("best: epoch 1, ") and (trained[0] / "last.h5").read_bytes() == before


def test_exports_are_reported_with_their_sizes(trained, exported):
    assert set(exported) == {"saved_model", "tflite"}
    path = exported["tflite"]["path"]
    assert path == str(trained[0] / "export" / "model.tflite") and os.path.getsize(path) == exported["tflite"]["bytes"]
    again = tfyolo("export", trained[0], "--to", "tflite")
    assert again.exit_code == 1 and f"{path}: there already" in again.stderr


@pytest.mark.slow
def test_a_run_and_its_exports_are_evaluated_alike_without_naming_the_data(trained, exported, tmp_path):
    metrics = []
    for model in (trained[0], exported["saved_model"]["path"], exported["tflite"]["path"]):
        result = tfyolo("evaluate", model, "--split", "test", "--out", tmp_path / "out", "--draw-images", 1, "--json")
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["counts"]["images"] == 4 and report["counts"]["detections"] > 0
        assert report["metrics"] == json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
        metrics.append({name: value for name, value in report["metrics"].items() if value is not None})
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3) and metrics[2] == pytest.approx(metrics[0], abs=1e-3)
    shown = tfyolo("evaluate", trained[0], "--data", trained[0].parent)
    assert shown.exit_code == 1 and str(trained[0].parent) in shown.stderr


def test_a_run_and_its_exports_detect_alike(trained, exported, data, tmp_path):
    images = data / "test"
    count = len(os.listdir(images))
    rows = []
    for name, model in {"run": trained[0], **{name: entry["path"] for name, entry in exported.items()}}.items():
        out = tmp_path / name
        result = tfyolo("detect", model, images, "--score", 0.001, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        rows.append(json.loads(result.stdout))
        assert rows[-1] == json.loads((out / "detections.json").read_text(encoding="utf-8"))
        assert sorted(os.listdir(out)) == sorted([*os.listdir(images), "detections.json"])
    assert len(rows[0]) == count and all(row["detections"] for row in rows[0])
    for row, *others in zip(*rows, strict=True):
        for other in others:
            assert (row["file"], row["height"], row["width"]) == (other["file"], other["height"], other["width"])
            assert other["best"] == pytest.approx(row["best"], abs=2e-4)
            assert len(other["detections"]) == pytest.approx(len(row["detections"]), abs=2)


def test_what_is_detected_becomes_labels_that_training_reads_and_crops(trained, data, tmp_path):
    """The label files, beside the images, are a YOLO data set of what was found."""
    shutil.copytree(data / "test", tmp_path / "set" / "images")
    out, wanted = tmp_path / "out", load_model(trained[0]).classes[:2]
    options = ["--score", 0.001, "--save-txt", "--save-crops", "--out", out, "--json"]
    for name in wanted:
        options += ["--classes", name]
    result = tfyolo("detect", trained[0], tmp_path / "set" / "images", *options)
    assert result.exit_code == 0, result.stderr
    rows = {row["file"]: row["detections"] for row in json.loads(result.stdout)}
    assert {each["class"] for found in rows.values() for each in found} == set(wanted)
    crops = list((out / "crops").rglob("*.jpg"))
    assert len(crops) == sum(map(len, rows.values())) and {crop.parent.name for crop in crops} == set(wanted)

    shutil.move(out / "labels", tmp_path / "set" / "labels")
    shutil.move(tmp_path / "set" / "labels" / "classes.txt", tmp_path / "set" / "classes.txt")
    source = DataSet(tmp_path / "set").read("all")
    assert source.classes == load_model(trained[0]).classes and len(source.records) == len(rows)
    for record in source.records:
        # What has no area, or is there twice, is left out as of every data set.
        expected = np.reshape([each["box_xyxy"] for each in rows[record.path]], (-1, 1, 4))
        off = np.abs(expected - record.boxes[None, :, [1, 0, 3, 2]]).max(axis=2)
        assert (off.min(axis=0, initial=np.inf) < 0.02).all() and len(record.boxes) > 0.9 * len(expected)
    refused = tfyolo(
        "detect", trained[0], tmp_path / "set" / "images", "--classes", "unicorn", "--out", tmp_path / "no"
    )
    assert refused.exit_code == 2 and "unicorn" in refused.stderr and wanted[0] in refused.stderr
    image = tmp_path / "classes.jpg"
    shutil.copy(next((tmp_path / "set" / "images").iterdir()), image)
    refused = tfyolo("detect", trained[0], image, "--save-txt", "--out", tmp_path / "no")
    assert refused.exit_code == 2 and "labels would be in classes.txt" in refused.stderr
    few = tfyolo("detect", trained[0], image, "--classes", wanted[0], "--score", 0.99, "--out", tmp_path / "few")
    assert f"no {wanted[0]} above 0.99" in few.stdout and "highest" not in few.stdout  # it may be another class's


def test_detect_says_what_it_did_not_find(trained, data, tmp_path):
    victim = next((data / "test").iterdir())
    result = tfyolo("detect", trained[0], victim, "--score", 0.99, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert re.search(
        rf"{re.escape(str(victim))}: nothing above 0.99; the highest score seen is 0\.0\d+ ->", result.stdout
    )
    again = tfyolo("detect", trained[0], victim, "--out", tmp_path / "out")
    assert again.exit_code == 2 and "there already" in again.stderr and "--overwrite" in again.stderr
    assert tfyolo("detect", trained[0], victim, "--out", tmp_path / "out", "--overwrite").exit_code == 0


def test_what_cannot_be_read_does_not_stop_the_others(trained, tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "empty.jpg", "video.mp4", "ü ü.png", "sub/a.jpg")]
    (tmp_path / "sub").mkdir()
    files[0].write_text("no image")
    files[1].touch()
    files[2].write_text("no video")
    for path in files[3:]:
        path.write_bytes(cv2.imencode(path.suffix, picture(40, 60))[1].tobytes())
    result = tfyolo("detect", trained[0], *files, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert [row["file"] for row in json.loads(result.stdout)] == [str(path) for path in files[3:]]
    for path in files[:3]:
        assert re.search(rf"^Error: .*{re.escape(str(path))}: ", result.stderr, re.MULTILINE)
    assert sorted(os.listdir(tmp_path / "out")) == ["a-2.jpg", "detections.json", "ü ü.jpg"]


def test_what_cannot_be_opened_leaves_nothing_and_is_named_first(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("some text")
    for source in (["--camera", 77], ["notes.txt"]):
        result = tfyolo("detect", trained[0], *source)
        assert result.exit_code == 1 and "Error: " in result.stderr and "nothing is written" in result.stdout
        assert os.listdir() == ["notes.txt"]
    Path("out").mkdir()
    Path("out/notes.jpg").touch()
    result = tfyolo("detect", trained[0], "notes.txt", "--out", "out")
    assert result.exit_code == 2 and "there already" in result.stderr
    assert "Error: file notes.txt: no image" in result.stderr


@pytest.mark.slow
def test_detections_are_numbered_like_runs(trained, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victim = next((data / "test").iterdir())
    for options, folder in (([], "detections"), ([], "detections-2"), (["--overwrite"], "detections")):
        result = tfyolo("detect", trained[0], victim, *options)
        assert result.exit_code == 0 and f"1 row in {folder}/detections.json" in result.stdout
    assert sorted(os.listdir()) == ["detections", "detections-2"]


def test_a_video_is_detected(trained, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(4):
        writer.write(picture(48, 64, seed))
    writer.release()
    result = tfyolo("detect", trained[0], tmp_path / "video.avi", "--frames", 3, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert re.search(r"video\.avi: 3 frames, nothing above 0\.25; the highest score seen is 0\.\d+ ->", result.stdout)
    assert sorted(os.listdir(tmp_path / "out")) == ["detections.json", "video.mp4"]


@pytest.mark.slow
def test_options_of_post_processing_are_for_runs(trained, exported, data, tmp_path):
    few = tfyolo("detect", trained[0], data / "test", "--score", 0, "--iou", 0.05, "--class-agnostic", "--json",
                 "--out", tmp_path / "few")  # fmt: skip
    many = tfyolo("detect", trained[0], data / "test", "--score", 0, "--iou", 0.9, "--json", "--out", tmp_path / "many")
    count = [sum(len(row["detections"]) for row in json.loads(result.stdout)) for result in (few, many)]
    assert 0 < count[0] < count[1] / 2
    path = exported["tflite"]["path"]
    refused = tfyolo("detect", path, data / "test", "--iou", 0.5, "--out", tmp_path / "refused")
    assert refused.exit_code == 1 and "iou can only be set on a run" in refused.stderr
    assert not (tmp_path / "refused").exists()


# --- the same in Python -----------------------------------------------------------------------------------------------


def test_a_list_goes_through_exports_in_batches(trained, exported, data):
    images = sorted((data / "test").iterdir())[:3]
    for path in (trained[0], *(each["path"] for each in exported.values())):
        detector = tfyolo_package.load(path)
        for one, file in zip(detector(images, 0.01, batch=2), images, strict=True):
            alone = detector(file, 0.01)
            assert one.file == str(file) and one.names == alone.names
            np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-2)
            np.testing.assert_allclose(one.scores, alone.scores, atol=1e-4)


@pytest.mark.slow
def test_evaluate_takes_paths(trained, data):
    source = tfyolo_package.read_data(data, "test")
    expected = tfyolo_package.evaluate(tfyolo_package.load(trained[0]), source, progress=False)
    report = tfyolo_package.evaluate(str(trained[0]), data, split="test", progress=False)
    assert report.metrics == pytest.approx(expected.metrics, nan_ok=True) and report.title == expected.title
    own = tfyolo_package.evaluate(trained[0], progress=False)  # what it was trained with: the records, their val
    assert own.title == "records val" and own.counts["images"] == 4
    imported = SimpleNamespace(config=configs.load("demo"), source="imported")
    with pytest.raises(EvaluationError, match="imported does not say what it was trained with; name the data"):
        tfyolo_package.evaluate(imported)


@pytest.mark.slow
def test_export_takes_a_path(trained, tmp_path):
    for file in ("best.h5", "config.yaml"):
        shutil.copy(trained[0] / file, tmp_path / file)
    made = tfyolo_package.export(str(tmp_path), targets=[("tflite", "float32")])
    assert made["tflite"].path == tmp_path / "export" / "model.tflite" and made["tflite"].path.exists()
    with pytest.raises(targets.ExportError, match="expected a folder for the exports of a model in memory"):
        tfyolo_package.export(tfyolo_package.load_model(tmp_path))


def test_exports_find_their_data(trained, data, records):
    """A path stands for its train and val splits; int8 without one takes the run's own; float needs none."""
    model = SimpleNamespace(config=configs.load(trained[0] / "config.yaml"))
    floats, whole = targets.DEFAULT_TARGETS, [targets.Target("tflite", "int8")]
    for forms, given, expected in (
        (floats, None, (None, None)),
        (floats, data, (None, ("demo", "val"))),
        (whole, data, (("demo", "train"), ("demo", "val"))),
        (whole, None, (("records", "train"), ("records", "val"))),
        (whole, configs.Data(path=str(data), train="val", val="test"), (("demo", "val"), ("demo", "test"))),
    ):
        sources = exports._sources(model, forms, given, None, None)
        assert tuple(each and (each.name, each.split) for each in sources) == expected


# --- standard output, signals -----------------------------------------------------------------------------------------


QUICK = [
    ["detect", "RUN", "victim.png", "--out", "out", "--json"],
    ["detect", "TFLITE", "victim.png", "video.mp4", "--out", "out2", "--json"],
    ["evaluate", "SAVED_MODEL", "--split", "val", "--json"],
]
THOROUGH = [
    *QUICK,
    ["evaluate", "RUN", "--split", "val", "--json"],
    [
        "export",
        "RUN",
        "--to",
        "saved_model",
        "--precision",
        "full-int8",
        "--max-drop",
        "1",
        "--out",
        "export",
        "--json",
    ],
    [
        "export",
        "RUN",
        "--precision",
        "int8",
        "--precision",
        "dynamic",
        "--data",
        "DATA",
        "--max-drop",
        "1",
        "--out",
        "export",
        "--json",
    ],
    ["benchmark", "RUN", "TFLITE", "--seconds", "0.1", "--rounds", "2", "--json"],
    ["summary", "RUN", "--backward", "--json"],
]


@pytest.mark.slow
@pytest.mark.parametrize("commands", [QUICK, THOROUGH], ids=["quick", "thorough"])
def test_nothing_but_its_own_words_on_standard_error(commands, trained, exported, data, tmp_path):
    """Down to the bytes that C++ writes, where the user has set nothing; standard output is JSON alone."""
    shutil.copy(next((data / "val").iterdir()), tmp_path / "victim.png")
    (tmp_path / "video.mp4").write_text("no video")
    models = {"RUN": trained[0], "DATA": data, **{name.upper(): each["path"] for name, each in exported.items()}}
    commands = [[str(models.get(word, word)) for word in words] for words in commands]
    script = EACH.replace("contextlib.redirect_stderr(said), ", "").replace(
        "import contextlib", "import contextlib, os"
    )
    command = [sys.executable, "-c", script, json.dumps(commands)]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == "Error: video.mp4: expected a camera or a video that OpenCV can read, it does not open\n"
    assert [code for code, _, _ in results] == [0, 1, *[0] * (len(commands) - 2)]
    printed = [json.loads(said) for _, said, _ in results]
    assert printed[0][0]["file"] == printed[1][0]["file"] == "victim.png"


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_to_a_whole_process_ends_it_with_what_to_go_on_with(number, code, data, tmp_path):
    """Without --out: the folder is one that training has named itself."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "taken").touch()
    stage = "train.stages=[{epochs: 2000, lr: 0.001, plain_epochs: 1}]"
    command = process("train", DEMO, f"data={json.dumps(str(data))}", *TINY, stage, cwd=tmp_path)
    last, deadline = tmp_path / "runs" / "demo-2" / "last.h5", time.monotonic() + 120
    while not last.exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(number)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == code and "Traceback" not in stderr
    assert f"`tfyolo train {last.parent.relative_to(tmp_path)} --resume` goes on" in stderr
    assert checkpoint.read_meta(last)["state"]["epoch"] >= 1


# --- help -------------------------------------------------------------------------------------------------------------

COMMANDS = sorted(app.main.commands)
TOOLS = [
    "benchmark",
    "check-data",
    "detect",
    "evaluate",
    "export",
    "kmeans-anchors",
    "make-tfrecords",
    "summary",
    "train",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_argument_and_option(name):
    text = tfyolo(name, "--help").stdout
    command = app.main.commands[name]
    assert text.startswith(f"Usage: tfyolo {name}") and command.help.split("\n")[0][:60] in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in text and parameter.help
        else:
            usage, said = text.split("\n\n", 1)
            shown = parameter.metavar or parameter.name.upper()
            assert shown in usage and (parameter.nargs == -1 or re.search(rf"\b{shown.strip('[]')}\b", said))


def test_commands_stand_in_the_order_of_use_and_no_line_is_cut():
    text = tfyolo("--help").stdout
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", text.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == COMMANDS and listed[:7] == [
        "quick",
        "configs",
        "check-data",
        "train",
        "evaluate",
        "detect",
        "export",
    ]
    for name in ["", *COMMANDS]:
        assert "..." not in re.sub(
            r"(\]|\[KEY=VALUE\])\.\.\.|\[ARGS\]\.\.\.", "", tfyolo(*name.split(), "--help").stdout
        )


def test_a_shell_completes_after_a_command_that_is_none(monkeypatch):
    words = {"COMP_WORDS": "tfyolo nope x", "COMP_CWORD": "2", "_TFYOLO_COMPLETE": "bash_complete"}
    result = click.testing.CliRunner().invoke(app.main, prog_name="tfyolo", env=words)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("alias, name", [("val", "evaluate"), ("predict", "detect")])
def test_other_names_of_commands(alias, name):
    assert tfyolo(alias, "--help").stdout == tfyolo(name, "--help").stdout
    assert alias in tfyolo("--help").stdout and alias not in COMMANDS


def test_help_says_what_short_names_stand_for():
    text = tfyolo("train", "--help").stdout
    for short, key in configs.SHORT.items():
        if "." not in short:
            assert re.search(rf"^  {short} +{re.escape(key.replace('*', '0'))}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", TOOLS)
def test_each_tool_is_its_command(name, monkeypatch, capsys):
    """The tool is run as a script, with its own arguments."""
    file = ROOT / "tools" / f"{name.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    monkeypatch.setattr(click.formatting, "FORCED_WIDTH", 80)  # as CliRunner has it
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == tfyolo(name, "--help").stdout


def test_the_version_is_the_packages():
    assert importlib.metadata.version("tfyolo") == tfyolo_package.__version__
    assert tfyolo("--version").stdout == f"tfyolo, version {tfyolo_package.__version__}\n"


def test_no_drawing_takes_the_name_of_another():
    """Two folders may hold files of one name, an image may have the name of a video, or a name that looks numbered."""
    names = sources.drawing_paths(["a/x.jpg", "b/x.png", "x.mp4", "c/x.JPG", "x-2.jpg"], Path("out"))
    assert len(set(names)) == len(names) == 5
    assert {name.parent for name in names} == {Path("out")}
