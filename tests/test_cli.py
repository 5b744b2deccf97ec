"""The command line as a user has it: what it prints, leaves and returns, and what it says when asked for the impossible."""

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import click
import conftest
import cv2
import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT, process
from test_detect import picture

from tfyolo import checkpoint, cli
from tfyolo import config as configs
from tfyolo.data import demo

DEMO = str(ROOT / "configs" / "demo.yaml")
TINY = [*conftest.TINY, "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"]


def tfyolo(*arguments):
    """The command in this process. A traceback fails the test."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="tfyolo")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("with space, größer") / "demo"
    return demo.write(folder, train=8, val=4, test=4, size=(64, 96), progress=False)


@pytest.fixture(scope="module")
def records(data, tmp_path_factory):
    """(folder of TFRecords, what writing them printed)"""
    folder = tmp_path_factory.mktemp("records")
    result = tfyolo("make-tfrecords", data, folder, "--shards", 2)
    assert result.exit_code == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """(folder of a run, what training printed)"""
    folder = tmp_path_factory.mktemp("run") / "mein Lauf"
    result = tfyolo("train", DEMO, f"data={records[0]}", *TINY, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def exported(trained):
    result = tfyolo("export", trained[0], "--to", "saved_model", "--to", "tflite", "--precision", "float32", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# --- the whole way ----------------------------------------------------------------------------------------------------------------


def test_training_leaves_a_run(trained):
    folder, printed = trained
    assert re.search(rf"^best: epoch 1, AP .*, AP50 .*; everything lies in {re.escape(str(folder))}$", printed, re.M)
    left = {path.name for path in folder.iterdir()}
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
        result = tfyolo("evaluate", model, "--split", "test", "--out", tmp_path / "out", "--pictures", 1, "--json")
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
    assert "Error: file notes.txt: no picture" in result.stderr


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


# --- standard output, signals -----------------------------------------------------------------------------------------------------


def test_json_is_all_that_stands_on_standard_output(trained, data, tmp_path):
    victim = next((data / "val").iterdir())
    command = process("detect", trained[0], victim, "--out", tmp_path / "out", "--json")
    stdout, stderr = command.communicate(timeout=120)
    assert command.returncode == 0, stderr
    assert json.loads(stdout)[0]["file"] == str(victim)
    assert stderr == ""  # no page of notices about the machine either


def test_ctrl_c_says_how_to_go_on_and_that_works(data, tmp_path):
    """Without --out: the folder is one that training has named itself."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "taken").touch()
    stage = "train.stages=[{epochs: 2000, lr: 0.001, plain_epochs: 1}]"
    command = process("train", DEMO, f"data={json.dumps(str(data))}", *TINY, stage, cwd=tmp_path)
    last, deadline = tmp_path / "runs" / "demo-2" / "last.h5", time.monotonic() + 120
    while not last.exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 130 and "Traceback" not in stderr
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
    assert (tmp_path / "out" / "report.json").exists()


def test_tfrecords_hold_every_split_and_are_not_written_over(data, records):
    folder, printed = records
    assert sorted(printed.splitlines()) == [
        f"{split}: {count} pictures in 2 shards in {folder}" for split, count in (("test", 4), ("train", 8), ("val", 4))
    ]
    assert len(list(folder.glob("*.tfrecord"))) == 6
    refused = tfyolo("make-tfrecords", data, folder, "--split", "val")
    assert refused.exit_code == 1 and "overwrite" in refused.stderr


def test_pictures_left_out_of_tfrecords_are_named(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    victim = next((copy / "val").iterdir())
    victim.write_bytes(b"")
    result = tfyolo("make-tfrecords", copy, tmp_path / "out", "--split", "val")
    assert "val: 3 pictures in 1 shard in" in result.stdout and f"left out: {victim}: " in result.stderr


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
            f"<a><object><name>cat</name><bndbox>{corners}</bndbox></object></a>"
        )
    for split, stems in {"train": "0\n1", "val": "2\n3", "trainval": "0\n1\n2\n3"}.items():
        (tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)
    result = tfyolo("make-tfrecords", tmp_path / "voc", tmp_path / "out")
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["train", "val"]
    assert "voc val: 1 fault in the data, left out of the records:" in result.stderr and "3.xml" in result.stderr
    asked = tfyolo("make-tfrecords", tmp_path / "voc", tmp_path / "out", "--split", "trainval")
    assert asked.stdout.startswith("trainval: 4 pictures")
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
    assert "data: expected where the pictures" in tfyolo("summary", "configs/yolov8n.yaml", "--backward").stderr


def test_a_run_serves_as_a_config(trained, data):
    found = tfyolo("kmeans-anchors", data, "--config", trained[0], "--json")
    assert json.loads(found.stdout)["input_size"] == [64, 64]  # the run's, not the config's it began with
    assert "at 64 x 64" in tfyolo("check-data", data, "--config", trained[0]).stdout


@pytest.mark.parametrize("command", ["evaluate", "detect", "export"])
def test_a_config_is_no_model(command, trained, data):
    pictures = [data / "test"] if command == "detect" else []
    result = tfyolo(command, DEMO, *pictures)
    assert result.exit_code == 1 and "this is a config; name the folder of the run" in result.stderr
    beside = tfyolo(command, trained[0] / "config.yaml", *pictures)
    assert beside.stderr.strip().endswith(f": {trained[0]}")


# --- what cannot be -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["trian"], 2, "No such command 'trian'"),
        (["train"], 2, "Missing argument 'CONFIG'"),
        (["train", "no.yaml"], 2, "no.yaml: no such file"),
        (["train", DEMO, "train.bach=3"], 2, "train.bach: unknown key; did you mean batch?"),
        (["train", DEMO, "train.batch"], 2, "expected KEY=VALUE"),
        (["train", DEMO, "--overfit", "0"], 2, "--overfit"),
        (["train", DEMO, "--resume", "--out", "nothing"], 1, "nothing: no run there to resume"),
        (["train", "runs/nothing", "--resume"], 1, "runs/nothing: no run there to resume"),
        (["train", ".", "--resume"], 1, ".: no run there to resume"),
        (["train", "."], 2, "is a folder: go on with its run by"),
        (["train", DEMO, "data=nowhere"], 1, "nowhere"),
        (["train", DEMO, "data=nowhere", "--out", "file"], 1, "file: expected a new or empty folder"),
        (["train", DEMO, "data=nowhere", "--out", "file/run"], 1, "file/run: cannot be made"),
        (["evaluate", "nowhere"], 1, "nowhere: expected a file of weights"),
        (["evaluate", "."], 1, "expected a run's folder with best.h5 or last.h5"),
        (["evaluate", "file"], 1, "file: expected a file of weights that tfyolo has written"),
        (["evaluate", "file", "--iou", "1.5"], 2, "--iou"),
        (["detect", "run.h5", "picture.jpg", "--score", "nan"], 2, "'nan' is not a number"),
        (["detect", "run.h5"], 2, "name pictures, videos, folders or globs, or a --camera"),
        (["detect", "run.h5", "missing.jpg"], 1, "missing.jpg: expected a picture"),
        (["detect", "run.h5", "file", "--out", "file"], 1, "file"),
        (["detect", "no.tflite", "file"], 1, "no.tflite: expected a TFLite file, found none"),
        (["export", "nowhere"], 1, "nowhere: expected a file of weights"),
        (["export", "nowhere", "--to", "onnx"], 2, "'onnx' is not one of"),
        (["check-data", "nowhere"], 1, "nowhere"),
        (["make-tfrecords", "nowhere", "out"], 1, "nowhere"),
        (["kmeans-anchors", "nowhere"], 2, "Missing option '--config'"),
        (["demo-data", "."], 1, "holds something else already"),
        (["export", "model.tflite"], 2, "model.tflite is an export; name the run"),
        (["detect", "run.h5", "picture.jpg", "--out", ".", "--overwrite"], 2, "would replace the picture itself"),
        (["summary", "model.tflite"], 2, "model.tflite is an export; summary takes a config, or the run"),
        (["summary", ".", "train.batch=3"], 2, "KEY=VALUE, --classes and --size are for configs"),
        (["summary", "no.h5"], 1, "no.h5: expected a file of weights"),
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


def test_data_of_other_classes_is_no_data_to_be_judged_on(trained, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"disc"', '"disk"'))
    result = tfyolo("evaluate", trained[0], "--data", copy)
    assert result.exit_code == 1 and "disc" in result.stderr and "disk" in result.stderr


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

COMMANDS = sorted(cli.main.commands)
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
    command = cli.main.commands[name]
    assert text.startswith(f"Usage: tfyolo {name}") and command.help.split("\n")[0][:60] in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in text and parameter.help
        else:
            usage, said = text.split("\n\n", 1)
            shown = parameter.metavar or parameter.name.upper()
            assert shown in usage and (parameter.nargs == -1 or re.search(rf"\b{shown}\b", said))


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
    assert importlib.metadata.version("tfyolo") in tfyolo("--version").stdout


def test_no_drawing_takes_the_name_of_another():
    """Two folders may hold files of one name, a picture may have the name of a film, or a name that looks numbered."""
    names = cli._names_for_drawings(["a/x.jpg", "b/x.png", "x.mp4", "c/x.JPG", "x-2.jpg"], Path("out"))
    assert len(set(names)) == len(names) == 5
    assert {name.parent for name in names} == {Path("out")}
