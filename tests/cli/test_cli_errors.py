"""The command line asked for what cannot be: one line that says what would be right, before TensorFlow is imported."""

import json
import os
import shutil
import subprocess
import sys

import conftest
import pytest
from conftest import ROOT
from conftest import command as tfyolo

DEMO = str(ROOT / "configs" / "demo.yaml")
TINY = [*conftest.TINY, "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"]


@pytest.fixture(scope="module")
def data(demo_data):
    return demo_data


@pytest.fixture(scope="module")
def trained(demo_run):
    return demo_run


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
        (["detect", "run.h5", "image.jpg", "--score", "nan"], 2, "'nan' is not a number"),
        (["detect", "run.h5"], 2, "name images, videos, folders or globs, or a --camera"),
        (["detect", "file", "missing.jpg"], 1, "missing.jpg: expected an image"),
        (["detect", "file", "file", "--out", "file"], 1, "file"),
        (["detect", "no.tflite", "file"], 1, "no.tflite: expected a run's folder, a .h5 file, a SavedModel"),
        (["export", "nowhere"], 1, "nowhere: expected a run's folder or a .h5 file"),
        (["export", "nowhere", "--to", "tfjs"], 2, "'tfjs' is not one of"),
        (["check-data", "nowhere"], 1, "nowhere"),
        (["make-tfrecords", "nowhere", "out"], 1, "nowhere"),
        (["kmeans-anchors", "nowhere"], 2, "Missing option '--config'"),
        (["demo-data", "."], 1, "holds something else already"),
        (["export", "model.tflite"], 2, "model.tflite is an export; name the run"),
        (["detect", "file", "image.jpg", "--out", ".", "--overwrite"], 2, "would replace the image itself"),
        (["summary", "model.tflite"], 2, "model.tflite is an export; summary takes a config, or the run"),
        (["summary", ".", "train.batch=3"], 2, "KEY=VALUE, --classes and --size are for configs"),
        (["summary", "no.h5"], 1, "no.h5: expected a run's folder or a .h5 file"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_the_impossible_is_an_error_of_one_line(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("some text")
    (tmp_path / "image.jpg").write_text("some image")
    result = tfyolo(*arguments)
    assert result.exit_code == code and result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file", "image.jpg"}  # nothing is left behind


# Each with its message, which comes before TensorFlow is imported.
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
    (["train", "yolov8n", "data=.", "thickness=3"], "augment, train, in short also epochs, lr, batch, imgsz, init"),
    (["train", "yolov8n", "data=.", "workers=3"], "workers: unknown key; did you mean train.workers?"),
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
        "or a file of weights, or a name of `tfyolo weights`, received a folder without best.h5",
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
        )
    ),
    (
        ["detect", "theirs.weights", "."],
        "received Darknet's weights; `tfyolo import NET.cfg theirs.weights` makes a run of them",
    ),
    (["export", "theirs.onnx"], "theirs.onnx is an export; name the run"),
    (["detect", "nowhere.onnx", "."], "nowhere.onnx: expected a run's folder, a .h5 file"),
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
# Runs every command line of a JSON list and prints [exit code, output, whether TensorFlow was imported] for each.
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


def test_what_is_typed_wrong_is_an_error_before_tensorflow_is_imported(tmp_path):
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
    notice = "left out: only the detector knows 1 (disc); only the data has 1 (disk)"
    assert result.exit_code == 0 and notice in result.stdout + result.stderr, result.stdout + result.stderr


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
    assert set(json.loads(result.stdout)) == {"run", "epoch", "AP", "AP50", "AP75", "origin"}
    assert "1 fault in the data, left out of training" in result.stderr and "as unreadable: 1 image" in result.stderr
