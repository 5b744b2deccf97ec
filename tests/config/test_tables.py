"""What users add from outside the package: a data format, a schedule, a preprocess; wrong names are early errors."""

import importlib.util
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import TINY, command, load_config, succeed

import tfyolo
from tfyolo.config import Config, ConfigError, from_json, tables, to_json

FORMAT = '''"""Boxes as text: <split>.boxes beside the images, a line "image y1 x1 y2 x2 class" each, in pixels."""

import functools
import os

from tfyolo import DATA_FORMATS
from tfyolo.data.headers import image_size
from tfyolo.data.sources.place import Candidate, Format
from tfyolo.data.sources.source import Annotation, Findings, finish, record


def find(place):
    files = place.tree.files(place.root, ".boxes") if place.is_folder else []
    splits = {os.path.basename(file)[:-6]: functools.partial(read, file, files) for file in files}
    return Candidate(splits, 1.0, f"{len(files)} .boxes files") if splits else None


def rows(file):
    with open(file, encoding="utf-8") as lines:
        return [line.split() for line in lines if line.strip()]


def read(file, files):
    findings, boxes = Findings(), {}
    classes = sorted({row[5] for each in files for row in rows(each)})
    for number, (name, *box, called) in enumerate(rows(file), start=1):
        annotation = Annotation(f"line {number}", tuple(map(float, box)), classes.index(called))
        boxes.setdefault(name, []).append(annotation)
    records = []
    for name, annotations in boxes.items():
        path = os.path.join(os.path.dirname(file), name)
        records.append(record(name, path, image_size(path), annotations, file, findings))
    return finish(records, classes, range(len(classes)), findings, "boxes")


DATA_FORMATS["boxes"] = Format(find, "boxes     <split>.boxes beside the images")
'''


@pytest.fixture
def from_outside(tmp_path):
    """The module of a format, from a file that lies anywhere; the table is as before when the test is done."""
    path = tmp_path / "boxes_format.py"
    path.write_text(FORMAT)
    before = dict(tfyolo.DATA_FORMATS)
    spec = importlib.util.spec_from_file_location("boxes_format", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    tfyolo.DATA_FORMATS.clear()
    tfyolo.DATA_FORMATS.update(before)


@pytest.fixture(scope="module")
def boxes_data(demo_data, tmp_path_factory):
    """The demo data as <split>.boxes."""
    folder = tmp_path_factory.mktemp("boxes")
    for split in ("train", "val"):
        source = tfyolo.read_data(demo_data, split, format="coco")
        lines = []
        for i, record in enumerate(source.records):
            name = f"{split}{i}.png"
            cv2.imwrite(str(folder / name), cv2.imread(record.path))
            for box, label in zip(record.boxes.tolist(), record.labels, strict=True):
                lines.append(f"{name} {' '.join(map(repr, box))} {source.classes[label]}")
        (folder / f"{split}.boxes").write_text("\n".join(lines))
    return folder


def test_a_format_from_outside_takes_less_than_40_lines():
    assert len(FORMAT.splitlines()) < 40


def test_a_format_from_outside_is_read_checked_and_among_the_choices(from_outside, boxes_data, demo_data):
    read, same = tfyolo.read_data(boxes_data, "val"), tfyolo.read_data(demo_data, "val")
    assert read.format == "boxes" and set(read.classes) <= set(same.classes) and len(read.records) == len(same.records)
    for ours, theirs in zip(read.records, same.records, strict=True):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        assert [read.classes[i] for i in ours.labels] == [same.classes[i] for i in theirs.labels]
    report = json.loads(succeed("check-data", boxes_data, "--data-format", "boxes", "--json"))
    assert report["format"] == "boxes" and report["splits"]["val"]["pictures"] == len(same.records)
    for name in ("check-data", "evaluate", "export"):
        assert "|boxes]" in "".join(succeed(name, "--help").split())
    assert load_config("demo", "data={path: x, format: boxes}").data.format == "boxes"
    with pytest.raises(ConfigError, match=r"data\.format: expected one of tfrecord, .*, boxes, null, received 'bxes'"):
        load_config("demo", "data={path: x, format: bxes}")


@pytest.mark.slow
def test_a_format_from_outside_trains_and_evaluates(from_outside, boxes_data, tmp_path):
    stages = "train.stages=[{epochs: 1, lr: 0.001}]"
    data = f"data={{path: {boxes_data}, format: boxes}}"
    succeed("train", "demo", data, *TINY, stages, "--out", tmp_path / "run")
    report = json.loads(succeed("evaluate", tmp_path / "run", "--data", boxes_data, "--data-format", "boxes", "--json"))
    assert report["metrics"]["AP"] >= 0


# --- wrong names ------------------------------------------------------------------------------------------------------


KEYS = {"preprocess": "model.preprocess", "schedule": "train.stages.0.schedule", "data format": "data.format"}
WORDS = [kind for kind in tables.CHOICES if kind in KEYS]  # published weights are names that a path may have, too


@pytest.mark.parametrize("kind", WORDS)
def test_a_wrong_name_is_an_error_with_the_choices_before_tensorflow_is_imported(kind):
    code = (
        "import sys, tfyolo\n"
        f"try: tfyolo.load_config('demo', ['data=x', '{KEYS[kind]}=wrong'])\n"
        "except tfyolo.Error as error: print(error)\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{KEYS[kind]}: expected one of {', '.join(tables.names(kind))}" in ran.stdout
    assert "received 'wrong'" in ran.stdout


@pytest.mark.parametrize("kind", tables.CHOICES)
def test_names_are_read_from_the_source_as_they_are_imported(kind):
    module, table = tables.CHOICES[kind]
    imported = getattr(importlib.import_module(f"tfyolo.{module}"), table)
    assert list(tables.written(module, table)) == list(imported) and tables.imported(module, table) is imported


@pytest.mark.parametrize("kind", WORDS)
def test_one_of_ones_own_is_a_choice_and_saved_with_the_config(kind, monkeypatch):
    module, table = tables.CHOICES[kind]
    entries = getattr(importlib.import_module(f"tfyolo.{module}"), table)
    monkeypatch.setitem(entries, "mine", next(iter(entries.values())))
    config = load_config("demo", "data=x", f"{KEYS[kind]}=mine")
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("kind, needed", [("preprocess", True), ("schedule", False), ("data format", False)])
def test_what_is_saved_is_used_without_the_entries_that_only_training_needs(kind, needed, monkeypatch):
    module, table = tables.CHOICES[kind]
    entries = getattr(importlib.import_module(f"tfyolo.{module}"), table)
    with monkeypatch.context() as patch:
        patch.setitem(entries, "mine", next(iter(entries.values())))
        saved = to_json(load_config("demo", "data=x", f"{KEYS[kind]}=mine"))
    if needed:
        with pytest.raises(ConfigError, match=r"expected one of letterbox, .* received 'mine'"):
            from_json(saved)
    else:
        assert isinstance(from_json(saved), Config)


def test_a_schedule_of_ones_own_gives_the_learning_rate(monkeypatch):
    from tfyolo.config import Stage
    from tfyolo.training import optim

    monkeypatch.setitem(optim.SCHEDULES, "linear", lambda stage, step, warmup, total: 1 - step / total)
    schedule = optim.Schedule(Stage(epochs=4, lr=0.5, warmup=0.0, schedule="linear"), steps_per_epoch=5)
    np.testing.assert_allclose([schedule(step) for step in range(20)], 0.5 * (1 - np.arange(20) / 20), rtol=1e-6)
    monkeypatch.delitem(optim.SCHEDULES, "linear")
    with pytest.raises(ConfigError, match="expected one of constant, cosine, step, received 'linear'"):
        optim.Schedule(schedule.stage, steps_per_epoch=5)


def test_a_preprocess_of_ones_own_prepares_images(monkeypatch):
    from tfyolo.data import anchors, geometry

    def corner(size, target):
        return geometry.scaling(0.5)

    monkeypatch.setitem(geometry.FITS, "corner", geometry.Fit(corner, keeps_aspect=True))
    assert load_config("demo", "model.preprocess=corner").model.preprocess == "corner"
    prepared, transform = geometry.prepare(np.full([8, 8, 3], 255, np.uint8), (16, 16), "corner")
    np.testing.assert_allclose(prepared[:4, :4], 1, atol=1e-6)
    np.testing.assert_allclose(prepared[5:, 5:], geometry.GREY, atol=1e-6)
    np.testing.assert_allclose(transform, np.diag([0.5, 0.5, 1]))
    assert anchors.FITS is geometry.FITS


def test_the_command_line_names_the_choices_of_preprocess():
    assert "[letterbox|stretch|darknet|darknet_letterbox|letterbox_top_left]" in "".join(
        succeed("import", "--help").split()
    )
    refused = command("import", "x.cfg", "x.weights", "--preprocess", "letter")
    assert refused.exit_code == 2 and "'letter' is not one of letterbox, stretch" in refused.stderr
