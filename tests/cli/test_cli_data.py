"""Commands about data and networks: check-data, make-tfrecords, kmeans-anchors, demo-data, summary, scale, configs."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import conftest
import cv2
import keras
import pytest
import yaml
from conftest import ROOT
from conftest import command as tfyolo
from test_detect import picture

from tfyolo import config as configs
from tfyolo.data import demo

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


def test_images_left_out_of_tfrecords_are_named(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    victim = next((copy / "val").iterdir())
    victim.write_bytes(b"")
    result = tfyolo("make-tfrecords", copy, tmp_path / "out", "--split", "val")
    assert "val: 3 images in 1 shard in" in result.stdout and f"left out: {victim}: " in result.stderr


def test_tfrecords_hold_an_image_once_and_faults_are_reported(tmp_path):
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svg", "png"])
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
    images = [data / "test"] if command == "detect" else []
    result = tfyolo(command, DEMO, *images)
    assert result.exit_code == 1 and "this is a config; name the folder of the run" in result.stderr
    beside = tfyolo(command, trained[0] / "config.yaml", *images)
    assert beside.stderr.strip().endswith(f": {trained[0]}")


# --- configs by name --------------------------------------------------------------------------------------------------


def test_configs_are_listed_with_their_differences(tmp_path, monkeypatch):
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
