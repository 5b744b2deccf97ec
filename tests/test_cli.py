"""The command line as a user has it: what it prints, leaves and returns, and what it says when asked for the impossible."""

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
import keras
import numpy as np
import pytest
import yaml
from conftest import ROOT, process
from conftest import command as tfyolo
from test_detect import picture

import tfyolo as tfyolo_package
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.cli import app
from tfyolo.data import demo
from tfyolo.evaluation.report import EvaluationError
from tfyolo.exports import export as exports
from tfyolo.exports import targets
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


# --- the whole way ----------------------------------------------------------------------------------------------------------------


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


def test_exports_are_told_with_their_sizes(trained, exported):
    assert set(exported) == {"saved_model", "tflite"}
    path = exported["tflite"]["path"]
    assert path == str(trained[0] / "export" / "model.tflite") and os.path.getsize(path) == exported["tflite"]["bytes"]
    again = tfyolo("export", trained[0], "--to", "tflite")
    assert again.exit_code == 1 and f"{path}: there already" in again.stderr


def test_a_run_and_its_exports_are_evaluated_alike_without_being_told_the_data(trained, exported, tmp_path):
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
    pictures = data / "test"
    count = len(os.listdir(pictures))
    rows = []
    for name, model in {"run": trained[0], **{name: entry["path"] for name, entry in exported.items()}}.items():
        out = tmp_path / name
        result = tfyolo("detect", model, pictures, "--score", 0.001, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        rows.append(json.loads(result.stdout))
        assert rows[-1] == json.loads((out / "detections.json").read_text(encoding="utf-8"))
        assert sorted(os.listdir(out)) == sorted([*os.listdir(pictures), "detections.json"])
    assert len(rows[0]) == count and all(row["detections"] for row in rows[0])
    for row, *others in zip(*rows, strict=True):
        for other in others:
            assert (row["file"], row["height"], row["width"]) == (other["file"], other["height"], other["width"])
            assert other["best"] == pytest.approx(row["best"], abs=2e-4)
            assert len(other["detections"]) == pytest.approx(len(row["detections"]), abs=2)


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
    files = [tmp_path / name for name in ("a.jpg", "empty.jpg", "film.mp4", "ü ü.png", "sub/a.jpg")]
    (tmp_path / "sub").mkdir()
    files[0].write_text("no picture")
    files[1].touch()
    files[2].write_text("no film")
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


def test_detections_are_numbered_like_runs(trained, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victim = next((data / "test").iterdir())
    for options, folder in (([], "detections"), ([], "detections-2"), (["--overwrite"], "detections")):
        result = tfyolo("detect", trained[0], victim, *options)
        assert result.exit_code == 0 and f"1 row in {folder}/detections.json" in result.stdout
    assert sorted(os.listdir()) == ["detections", "detections-2"]


def test_a_film_is_detected(trained, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(4):
        writer.write(picture(48, 64, seed))
    writer.release()
    result = tfyolo("detect", trained[0], tmp_path / "film.avi", "--frames", 3, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert re.search(r"film\.avi: 3 frames, nothing above 0\.25; the highest score seen is 0\.\d+ ->", result.stdout)
    assert sorted(os.listdir(tmp_path / "out")) == ["detections.json", "film.mp4"]


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


# --- the same in Python ---------------------------------------------------------------------------------------------------------


def test_a_list_goes_through_exports_in_batches(trained, exported, data):
    pictures = sorted((data / "test").iterdir())[:3]
    for path in (trained[0], *(each["path"] for each in exported.values())):
        detector = tfyolo_package.load(path)
        for one, file in zip(detector(pictures, 0.01, batch=2), pictures, strict=True):
            alone = detector(file, 0.01)
            assert one.file == str(file) and one.names == alone.names
            np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-2)
            np.testing.assert_allclose(one.scores, alone.scores, atol=1e-4)


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


# --- standard output, signals -----------------------------------------------------------------------------------------------------


QUICK = [
    ["detect", "RUN", "victim.png", "--out", "out", "--json"],
    ["detect", "TFLITE", "victim.png", "film.mp4", "--out", "out2", "--json"],
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


@pytest.mark.parametrize("commands", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["quick", "thorough"])
def test_nothing_but_its_own_words_on_standard_error(commands, trained, exported, data, tmp_path):
    """Down to the bytes that C++ writes, where the user has set nothing; and JSON is all that stands on standard output."""
    shutil.copy(next((data / "val").iterdir()), tmp_path / "victim.png")
    (tmp_path / "film.mp4").write_text("no film")
    models = {"RUN": trained[0], "DATA": data, **{name.upper(): each["path"] for name, each in exported.items()}}
    commands = [[str(models.get(word, word)) for word in words] for words in commands]
    script = EACH.replace("contextlib.redirect_stderr(said), ", "").replace(
        "import contextlib", "import contextlib, os"
    )
    command = [sys.executable, "-c", script, json.dumps(commands)]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == "Error: film.mp4: expected a camera or a video that OpenCV can read, it does not open\n"
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


# --- data -----------------------------------------------------------------------------------------------------------------------


def test_check_data(data, tmp_path):
    report = tfyolo("check-data", data, "--config", DEMO, "--json")
    assert report.exit_code == 0 and json.loads(report.stdout)
    copy = shutil.copytree(data, tmp_path / "copy")
    victim = next((copy / "train").iterdir())
    victim.write_bytes(b"")
    report = tfyolo("check-data", copy, "--out", tmp_path / "out")
    assert report.exit_code == 1 and victim.name in report.stdout
    assert report.stdout.endswith(f"\ncheck.png and report.json are in {tmp_path / 'out'}\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.png", "report.json"}


def test_tfrecords_hold_every_split_and_are_not_written_over(data, records):
    folder, printed = records
    assert sorted(printed.splitlines()) == [
        f"{split}: {count} images in 2 shards in {folder}" for split, count in (("test", 4), ("train", 8), ("val", 4))
    ]
    assert len(list(folder.glob("*.tfrecord"))) == 6
    refused = tfyolo("make-tfrecords", data, folder, "--split", "val")
    assert refused.exit_code == 1 and "overwrite" in refused.stderr


def test_pictures_left_out_of_tfrecords_are_named(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    victim = next((copy / "val").iterdir())
    victim.write_bytes(b"")
    result = tfyolo("make-tfrecords", copy, tmp_path / "out", "--split", "val")
    assert "val: 3 images in 1 shard in" in result.stdout and f"left out: {victim}: " in result.stderr


def test_tfrecords_hold_a_picture_once_and_faults_are_told(tmp_path):
    """VOC's trainval joins train and val: it is written if it is asked for."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    for n in range(4):
        (tmp_path / "voc" / "JPEGImages" / f"{n}.jpg").write_bytes(
            cv2.imencode(".jpg", picture(40, 60, n))[1].tobytes()
        )
        corners = "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>".replace("20", "5" if n == 3 else "20")
        (tmp_path / "voc" / "Annotations" / f"{n}.xml").write_text(
            f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    for split, stems in {"train": "0\n1", "val": "2\n3", "trainval": "0\n1\n2\n3"}.items():
        (tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)
    result = tfyolo("make-tfrecords", tmp_path / "voc", tmp_path / "out")
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["train", "val"]
    assert "voc val: 1 fault in the data, left out of the records:" in result.stderr and "3.xml" in result.stderr
    asked = tfyolo("make-tfrecords", tmp_path / "voc", tmp_path / "out", "--split", "trainval")
    assert asked.stdout.startswith("trainval: 4 images")
    refused = tfyolo("make-tfrecords", tmp_path / "voc", tmp_path / "out", "--split", "nope")
    assert refused.exit_code == 1 and "Name one of them: --split" in refused.stderr and "data." not in refused.stderr


def test_anchors_are_printed_as_yaml_and_as_an_override(data):
    arguments = ("kmeans-anchors", data, "--config", DEMO, "--input-size", 64)
    text = tfyolo(*arguments).stdout
    found = json.loads(tfyolo(*arguments, "--json").stdout)
    assert found["input_size"] == [64, 64] and found["mean_iou"] > found["mean_iou_of_config"]
    assert yaml.safe_load(text) == {"anchors": found["anchors"]}
    (override,) = re.findall(r"on the command line: '(.*)'", text)
    decoder = configs.load(DEMO, [override]).model.decoder
    assert decoder.options["anchors"] == found["anchors"]
    uneven = tfyolo("kmeans-anchors", data, "--config", DEMO, "--input-size", 300)
    assert (
        uneven.exit_code == 2 and "expected multiples of 32" in uneven.stderr and "received [300, 300]" in uneven.stderr
    )
    none = tfyolo("kmeans-anchors", data, "--config", ROOT / "configs" / "yolov1.yaml")
    assert none.exit_code == 2 and "expected a decoder with anchors" in none.stderr


def test_demo_data(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(demo, "write", lambda folder, **options: asked.update(folder=folder, **options))
    result = tfyolo("demo-data", tmp_path / "new", "--seed", 3)
    assert result.exit_code == 0 and str(tmp_path / "new") in result.stdout
    assert asked == {"folder": str(tmp_path / "new"), "seed": 3}


def test_summary():
    config = ROOT / "configs" / "yolov3-tiny.yaml"
    described = json.loads(tfyolo("summary", config, "--classes", 80, "--json").stdout)
    figures = {"classes", "candidates", "parameters", "trainable", "flops"}
    assert set(described) == {"name", "input_size", "stages", *figures}
    assert described["parameters"] == 8_858_734 and described["classes"] == 80
    assert sum(row["parameters"] for row in described["stages"]) == 8_858_734
    assert sum(row["flops"] for row in described["stages"]) == described["flops"]
    assert f"8,858,734 parameters ({described['trainable']:,} trainable)" in tfyolo("summary", config).stdout


def test_scale_prints_a_config_that_is_one(tmp_path):
    result = tfyolo("scale", ROOT / "configs" / "yolov8n.yaml", "--width", 2, "--depth", 2)
    (tmp_path / "larger.yaml").write_text(result.stdout)
    larger = configs.load(tmp_path / "larger.yaml")
    assert larger.model.backbone.options == {"depth": 0.66, "width": 0.5} and larger.model.neck.options == {
        "depth": 0.66
    }
    assert "# before: 3,167,776 parameters (3,157,184 trainable), 8.74 GFLOPs with 80 classes" in result.stdout
    summary = tfyolo("summary", tmp_path / "larger.yaml").stdout.splitlines()[-1]
    assert result.stdout.splitlines()[1].split()[1] in summary


def test_summary_of_a_run(trained):
    of_run = json.loads(tfyolo("summary", trained[0], "--json").stdout)
    assert of_run["classes"] == len(demo.CLASSES) and of_run["input_size"] == [64, 64]
    assert of_run == json.loads(tfyolo("summary", trained[0] / "last.h5", "--json").stdout)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_summary_draws_and_goes_backward(kind, trained, tmp_path):
    drawing = tmp_path / f"walk.{kind}"
    result = tfyolo("summary", trained[0], "--backward", "--drawing", drawing)
    assert (
        result.exit_code == 0
        and f"drawn: {drawing}" in result.stdout
        and "loss of the first batch: box" in result.stdout
    )
    if kind == "svg":
        assert all(stage in drawing.read_text() for stage in ("backbone.p3", "neck.p4", "head.p5"))
    else:
        assert min(cv2.imread(str(drawing)).shape[:2]) > 300
    described = json.loads(tfyolo("summary", trained[0], "--backward", "--json").stdout)
    assert all((row["gradient_norm"] or 0) > 0 for row in described["stages"] if row["parameters"])


def test_summary_at_another_size(data):
    described = json.loads(tfyolo("summary", "configs/yolov8n.yaml", "--size", 320, "--json").stdout)
    assert described["input_size"] == [320, 320] and described["candidates"] == 2100
    assert "data: expected where the images" in tfyolo("summary", "configs/yolov8n.yaml", "--backward").stderr


def test_a_run_serves_as_a_config(trained, data):
    found = tfyolo("kmeans-anchors", data, "--config", trained[0], "--json")
    assert json.loads(found.stdout)["input_size"] == [64, 64]  # the run's, not the config's it began with
    assert "at 64 x 64" in tfyolo("check-data", data, "--config", trained[0]).stdout
    assert "is a folder: go on with its run by" in tfyolo("train", trained[0]).stderr


@pytest.mark.parametrize("command", ["evaluate", "detect", "export"])
def test_a_config_is_no_model(command, trained, data):
    pictures = [data / "test"] if command == "detect" else []
    result = tfyolo(command, DEMO, *pictures)
    assert result.exit_code == 1 and "this is a config; name the folder of the run" in result.stderr
    beside = tfyolo(command, trained[0] / "config.yaml", *pictures)
    assert beside.stderr.strip().endswith(f": {trained[0]}")


# --- configs by name ------------------------------------------------------------------------------------------------------------


def test_configs_are_listed_with_what_tells_them_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {row["name"]: row for row in json.loads(tfyolo("configs", "--json").stdout)}
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    # yolov8n: as published once batch norm is folded, less the 16 fixed places of the bins.
    assert rows["yolov8n"] == {
        "name": "yolov8n",
        "input_size": [640, 640],
        "classes": 80,
        "parameters": 3_151_904 - 16,
        "flops": 8_742_912_000,
        "weights": "Ultralytics': AGPL-3.0",
    }
    assert "public domain" in rows["yolov4-tiny"]["weights"] and "GPL-3.0" in rows["yolov7-w6"]["weights"]
    assert rows["cornernet-small"]["weights"] == ""
    lines = tfyolo("configs").stdout.splitlines()
    assert len(lines) == len(rows) + 2
    assert "yolov8n             640 x 640     3,151,888      8.7  Ultralytics': AGPL-3.0" in lines


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name != "demo" else name for name in configs.packaged_names()],
)
def test_the_listed_figures_are_those_of_the_networks(name):
    (row,) = (row for row in configs.index() if row["name"] == name)
    measured = runpy.run_path(str(ROOT / "tools" / "index_configs.py"))["measured"](name, row["classes"])
    assert measured == {key: row[key] for key in ("parameters", "flops")}
    keras.backend.clear_session()


@pytest.mark.slow
def test_an_installed_package_has_its_configs(tmp_path):
    """Built and installed as pip does it, from a copy of what git tracks, and used from another folder."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in filter(None, tracked.split("\0")):
        if (ROOT / file).exists() and not file.startswith("tests/"):
            (tmp_path / "clone" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / "clone" / file)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, tmp_path / "clone"], check=True, cwd=tmp_path)
    shutil.rmtree(tmp_path / "clone")
    (tmp_path / "mine.yaml").write_text("base: yolov8n.yaml\ntrain: {batch: 4}\n")
    code = (
        "import tfyolo; from tfyolo import config; print(tfyolo.__file__); print(config.packaged());"
        "print([tfyolo.load_config(name).train.batch for name in ('mine', 'yolov8n')], len(config.index()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        str(tmp_path / "site/tfyolo/__init__.py"),
        str(tmp_path / "site/tfyolo/configs"),
        f"[4, 16] {len(configs.packaged_names())}",
    ], done.stderr
    assert (tmp_path / "site" / "tfyolo" / "py.typed").exists()


# --- what cannot be -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["trian"], 2, "No such command 'trian'"),
        (["train"], 2, "Missing argument 'CONFIG'"),
        (["train", "no.yaml"], 2, "no.yaml: no such file, and no config of that name comes with tfyolo"),
        (["train", DEMO, "train.bach=3"], 2, "train.bach: unknown key; did you mean batch?"),
        (["train", DEMO, "train.batch"], 2, "expected KEY=VALUE"),
        (["train", DEMO, "--overfit", "0"], 2, "--overfit"),
        (["train", DEMO, "--resume", "--out", "nothing"], 2, "data: expected where the images and their labels are"),
        (["train", DEMO, "data=nowhere", "--resume", "--out", "new"], 1, "nowhere: expected a data set's folder"),
        (["train", "runs/nothing", "--resume"], 1, "runs/nothing/last.h5: expected the last.h5 of a run to resume"),
        (["train", ".", "--resume"], 1, "./last.h5: expected the last.h5 of a run to resume"),
        (["train", "."], 2, "received a folder without a run (config.yaml); data is named by data=."),
        (["train", DEMO, "data=nowhere"], 1, "nowhere"),
        (["train", DEMO, "data=.", "--out", "file"], 1, "file: expected a new or empty folder"),
        (["train", DEMO, "data=.", "--out", "file/run"], 1, "file/run: cannot be made"),
        (["evaluate", "nowhere"], 1, "nowhere: expected a run's folder, a .h5 file"),
        (["evaluate", "."], 1, "expected a run's folder with best.h5 or last.h5"),
        (["evaluate", "file"], 1, "file: expected a file of weights that tfyolo has written"),
        (["evaluate", "file", "--iou", "1.5"], 2, "--iou"),
        (["detect", "run.h5", "picture.jpg", "--score", "nan"], 2, "'nan' is not a number"),
        (["detect", "run.h5"], 2, "name images, videos, folders or globs, or a --camera"),
        (["detect", "file", "missing.jpg"], 1, "missing.jpg: expected an image"),
        (["detect", "file", "file", "--out", "file"], 1, "file"),
        (["detect", "no.tflite", "file"], 1, "no.tflite: expected a run's folder, a .h5 file, a SavedModel"),
        (["export", "nowhere"], 1, "nowhere: expected a run's folder or a .h5 file"),
        (["export", "nowhere", "--to", "onnx"], 2, "'onnx' is not one of"),
        (["check-data", "nowhere"], 1, "nowhere"),
        (["make-tfrecords", "nowhere", "out"], 1, "nowhere"),
        (["kmeans-anchors", "nowhere"], 2, "Missing option '--config'"),
        (["demo-data", "."], 1, "holds something else already"),
        (["export", "model.tflite"], 2, "model.tflite is an export; name the run"),
        (["detect", "file", "picture.jpg", "--out", ".", "--overwrite"], 2, "would replace the image itself"),
        (["summary", "model.tflite"], 2, "model.tflite is an export; summary takes a config, or the run"),
        (["summary", ".", "train.batch=3"], 2, "KEY=VALUE, --classes and --size are for configs"),
        (["summary", "no.h5"], 1, "no.h5: expected a run's folder or a .h5 file"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_the_impossible_is_told_in_a_line(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("some text")
    (tmp_path / "picture.jpg").write_text("some picture")
    result = tfyolo(*arguments)
    assert result.exit_code == code and result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file", "picture.jpg"}  # nothing is left behind


# Each with the message, told before TensorFlow is there.
TYPED = [
    (["trian"], "No such command 'trian'"),
    (["train", "yolov8"], "did you mean yolov8"),
    (["train", "yolov8n"], "data: expected where the images and their labels are (data=PATH), received none"),
    (["train", "yolov8n", "data=nowhere"], "nowhere: expected a data set's folder or file, found none"),
    (["train", "data=."], "data=.: expected CONFIG before the settings, a name of `tfyolo configs` or a YAML file"),
    (["train", "data=.", "yolov8n", "epochs=3"], "a YAML file; write yolov8n data=. epochs=3"),
    (["train", "yolov8n", "data", "=", ".", "epochs=3"], "no spaces around the =; write data=. epochs=3"),
    (["train", "yolov8n", "data=", "."], "no spaces around the =; write data=."),
    (
        ["train", "yolov8n", "."],
        "expected KEY=VALUE, such as train.batch=16 or train.clip=null; data is named by data=.",
    ),
    (["train", ".", "epochs=3"], "received a folder without a run (config.yaml); data is named by data=."),
    (["train", ".", "data=."], "a YAML file or a run's folder, received a folder without a run (config.yaml)\n"),
    (
        ["train", "yolov8n", "data=.", "epoch=3"],
        "epoch: unknown key; did you mean epochs? the keys here are name, data",
    ),
    (["train", "yolov8n", "data=.", "workers=3"], "augment, train, in short also epochs, lr, batch, imgsz, init"),
    (["train", "yolov8n", "data=.", "init=nowhere"], "nowhere: expected a run's folder or a file of weights"),
    (["train", "yolov8n", "train.bach=3"], "train.bach: unknown key; did you mean batch?"),
    (["train", "yolov8n", "data=.", "model.neck=pam"], "model.neck.name: expected one of identity, up_cat"),
    (["train", "yolov8n", "data=.", "model.neck=pam"], "received 'pam'; did you mean pan?"),
    (["train", "yolov8n", "data=.", "model.backbone.widht=1"], "c2f has no such option; its options: depth, width"),
    (
        ["train", "yolov8n", "data=.", "model.backbone.width=big"],
        "model.backbone.width: expected a number > 0 and <= 100, received 'big'",
    ),
    (["train", "yolov8n", "data=.", "model.decoder=anchor"], "anchor needs the option 'anchors', received none"),
    (["train", "yolov8n", "data=.", "optimizer=adamv"], "train.optimizer.name: expected one of sgd, adamw"),
    (["train", "yolov8n", "data=.", "optimizer=SGD"], "received 'SGD'; did you mean sgd?"),
    (["train", "yolov8n", "data=.", "train.optimizer={name: sgd, momentun: .9}"], "sgd has no such option"),
    (["train", "yolov8n", "data=.", "model.postprocess.iuo=1"], "; did you mean iou?"),
    (
        ["train", "yolov8n", "data=.", "device=tpu"],
        "Invalid value for '--device': expected cpu, gpu, or the numbers of GPUs",
    ),
    (["train", "yolov8n", "data=.", "--device", "0,0"], "expected cpu, gpu, or the numbers of GPUs"),
    (["train", "cornernet-hg104", "data=.", "epochs=3"], "2 stages; say of which, as train.stages.0.epochs=3"),
    (["train", "yolov8n", "--epochs", "3"], "--epochs: settings have no dashes; write epochs=..."),
    (["train", "yolov8n", "--data=."], "--data: settings have no dashes; write data=..."),
    (["train", "yolov8n", "--train.batch", "3"], "--train.batch: settings have no dashes; write train.batch=..."),
    (["train", "yolov8n", "--nonsense"], "--nonsense"),
    # as other programs have it
    (["train", "model=yolov8n", "data=.", "epochs=3"], "a YAML file; write yolov8n data=. epochs=3"),
    (["train", "data=.", "model=yolov8n.pt"], "a YAML file; write yolov8n.pt data=."),
    (["train", "--model", "yolov8n", "--data=."], "--model: arguments have no dashes; write `tfyolo train CONFIG ["),
    (["summary", "--cfg", "yolov8n"], "--cfg: arguments have no dashes; write `tfyolo summary CONFIG [KEY=VALUE]...`"),
    (["detect", "--weights", "a"], "write `tfyolo detect MODEL [IMAGE|VIDEO|FOLDER|GLOB]...`"),
    (["predict", ".", "--source", "a"], "--source: arguments have no dashes; write `tfyolo detect MODEL [IMAGE"),
    (["export", "--model", "a"], "--model: arguments have no dashes; write `tfyolo export RUN`"),
    (["check-data", "--data", "."], "--data: arguments have no dashes; write `tfyolo check-data PATH`"),
    (["predict", "model=a/b", "source=."], "found none; arguments have no names: write a/b"),
    (["predict", ".", "source=a/b"], "found none; arguments have no names: write a/b"),
    (["val", "nowhere", "data=a/b"], "data=a/b: options have dashes; write --data a/b"),
    (["val", "nowhere", "."], ".: one argument too many; data is named by --data ."),
    (["configs", "yolov8n"], "yolov8n: one argument too many\n"),
    (["detect", "theirs.pt"], "theirs.pt is MODEL; behind it name images, videos, folders or globs"),
    (["train", "yolov8n", "data=.", "out=runs/x"], "out=runs/x: an option, which has dashes; write --out runs/x"),
    (["train", "yolov8n", "data=.", "resume=true"], "an option, which has dashes; write --resume"),
    (
        ["train", "yolov8n.pt", "data=."],
        "PyTorch's weights; `tfyolo import yolov8n.pt` makes a run of them, which can be trained",
    ),
    (
        ["train", "data.weights", "data=."],
        "Darknet's weights; `tfyolo import NET.cfg data.weights` makes a run of them",
    ),
    (["train", "yolov8n.pt", "data=."], "yolov8n.pt: no such file; expected a config in YAML"),
    (["train", "theirs.cfg", "data=."], "Darknet's network; `tfyolo import theirs.cfg NET.weights` makes a run of it"),
    (
        ["train", "theirs.pt", "data=."],
        "theirs.pt: expected a config in YAML, received PyTorch's weights; `tfyolo import theirs.pt`",
    ),
    (
        ["train", "yolov8n", "data=.", "init=nowhere.pt"],
        "train.init: nowhere.pt: no such file; expected a run's folder or a file of weights",
    ),
    (
        ["train", "yolov8n", "data=.", "init=theirs.pt"],
        "PyTorch's weights; `tfyolo import theirs.pt` makes a run of them, from which",
    ),
    (
        ["train", "yolov8n", "data=.", "init=theirs.cfg"],
        "Darknet's network; `tfyolo import theirs.cfg NET.weights` makes a run of it",
    ),
    (["train", "yolov8n", "data=.", "init=nowhere.weights"], "nowhere.weights: no such file"),
    (
        ["train", "yolov8n", "data=.", "init=."],
        "expected a run's folder or a file of weights, received a folder without best.h5",
    ),
    (["train", "yolov8n", "data=.", "init=theirs.tflite"], "received an export; name the folder of the run"),
    (["train", "yolov8n", "data=.", "init=theirs.yaml"], "received a config; name the folder of the run"),
    (["train", "yolov8n", "data=.", "init=fifo"], "received a FIFO or a device"),
    *(
        (
            [command, name, *more],
            f"{name}: {missing}expected a run's folder, a .h5 file"
            if command in ("detect", "evaluate")
            else f"{name}: {missing}expected",
        )
        for command, *more in (("detect", "."), ("evaluate",), ("export",), ("benchmark",), ("verify",), ("summary",))
        for name, missing in (
            ("theirs.pt", ""),
            ("theirs.weights", ""),
            ("nowhere.pth", "no such file; "),
            ("theirs.onnx", ""),
        )
    ),
    (
        ["detect", "theirs.weights", "."],
        "received Darknet's weights; `tfyolo import NET.cfg theirs.weights` makes a run of them",
    ),
    (["evaluate", "nowhere"], "nowhere: expected a run's folder"),
    (["evaluate", "yolov8n"], "received the name of a config, which has no weights; `tfyolo train yolov8n data=PATH`"),
    (["detect", "yolov8n", "x.jpg"], "received the name of a config, which has no weights"),
    (["export", "yolov8n"], "received the name of a config, which has no weights"),
    (["val", ".", "--data", "nowhere"], "nowhere: expected a data set's folder or file"),
    (["predict", ".", "missing.jpg"], "missing.jpg: expected an image, a video, a folder or a glob"),
    (["detect", ".", "conf=0.5"], "conf=0.5: expected an image"),
    (["detect", ".", "conf=0.5"], "options have dashes: --conf 0.5"),
    (["detect", ".", ".", "--conf", "2"], "--conf"),
    (["export", "nowhere"], "nowhere: expected a run's folder"),
    (["export", ".", "--precision", "int3"], "'int3' is not one of"),
    (["export", ".", "--per-tensor"], "expected --precision int8 with it"),
    (["export", ".", "--data", "nowhere"], "nowhere: expected a data set's folder or file"),
    (["benchmark", "nowhere"], "nowhere: expected a run's folder"),
    (["benchmark", ".", "--peer", "x"], "expected NAME=COMMAND"),
    (["summary", "yolov8n", "model.head=decouple"], "did you mean decoupled?"),
    (["scale", "yolov8n", "model.head=decouple"], "did you mean decoupled?"),
    (["check-data", "nowhere"], "nowhere: expected a data set's folder or file"),
    (["make-tfrecords", "nowhere", "out"], "nowhere: expected a data set's folder or file"),
    (["kmeans-anchors", ".", "--config", "yolov1"], "expected a decoder with anchors"),
    (["import", "nowhere.pt"], "nowhere.pt: expected a .cfg file, a .pt file, an .onnx file or a run"),
    (["verify", "nowhere"], "nowhere: expected a file or a run's folder"),
    (["verify", ".", "--against", "nowhere.cfg", "nowhere.weights"], "nowhere.cfg: expected a file, found none"),
]
WELL = [["--help"], ["--version"], ["train", "--help"], ["configs"], ["configs", "--json"]]
# Every command line of a JSON list, in a process into which TensorFlow may come: [exit code, what it said, whether it came].
EACH = """
import contextlib, io, json, sys
from tfyolo.cli import main
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main(arguments, prog_name="tfyolo")
        except SystemExit as ended:
            print(json.dumps([ended.code, said.getvalue(), "tensorflow" in sys.modules]), file=sys.__stdout__)
"""


def test_what_is_typed_wrong_is_told_before_tensorflow_is_imported(tmp_path):
    given = json.dumps([*(arguments for arguments, _ in TYPED), *WELL])
    for name in ("pt", "weights", "onnx", "tflite"):
        (tmp_path / f"theirs.{name}").write_bytes(b"PK\3\4\xff")
    (tmp_path / "theirs.cfg").write_text("[net]\nbatch=1\n")
    (tmp_path / "theirs.yaml").write_text("model: {}\n")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    process = subprocess.run(
        [sys.executable, "-c", EACH, given], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(results) == len(TYPED) + len(WELL)
    for (arguments, message), (code, said, imported) in zip(TYPED, results, strict=False):
        assert code in (1, 2) and message in said and "Traceback" not in said and not imported, (arguments, said)
    assert all(code == 0 and not imported for code, _, imported in results[len(TYPED) :])
    assert sorted(tmp_path.iterdir()) == before


def test_data_of_other_classes_is_evaluated_on_those_that_both_know(trained, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"disc"', '"disk"'))
    result = tfyolo("evaluate", trained[0], "--data", copy)
    told = "left out: only the detector knows 1 (disc); only the data has 1 (disk)"
    assert result.exit_code == 0 and told in result.stdout + result.stderr, result.stdout + result.stderr


@pytest.mark.slow
def test_faults_in_the_data_leave_json_as_it_is(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    file = copy / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 999_999, "category_id": 77})
    file.write_text(json.dumps(content))
    next((copy / "train").iterdir()).write_bytes(b"")
    result = tfyolo("train", DEMO, f"data={copy}", *TINY, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"run", "epoch", "AP", "AP50", "AP75"}
    assert "1 fault in the data, left out of training" in result.stderr and "as unreadable: 1 picture" in result.stderr


# --- help -----------------------------------------------------------------------------------------------------------------------

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
            assert shown in usage and (parameter.nargs == -1 or re.search(rf"\b{shown}\b", said))


def test_commands_stand_in_the_order_of_use_and_no_line_is_cut():
    text = tfyolo("--help").stdout
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", text.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == COMMANDS and listed[:6] == [
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
    """Two folders may hold files of one name, an image may have the name of a film, or a name that looks numbered."""
    names = sources.drawing_paths(["a/x.jpg", "b/x.png", "x.mp4", "c/x.JPG", "x-2.jpg"], Path("out"))
    assert len(set(names)) == len(names) == 5
    assert {name.parent for name in names} == {Path("out")}
