"""The demo data: the same bytes for the same seed, boxes round what is drawn, complete or absent."""

import json
import runpy
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from tfyolo import devices
from tfyolo.data import demo
from tfyolo.data.readers import read, splits
from tfyolo.training import runs
from tfyolo.training import train as training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return demo.write(tmp_path_factory.mktemp("demo") / "data", train=80, val=12, test=8, seed=2, progress=False)


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_reads_as_coco_without_a_problem(folder):
    assert splits(folder) == ("train", "val", "test")
    for split, count in (("train", 80), ("val", 12), ("test", 8)):
        source = read(folder, split)
        assert (source.classes, source.problems, len(source.records)) == (demo.CLASSES, (), count)
        for record in source.records:
            assert cv2.imread(record.path).shape[:2] == record.size
            assert min(record.size) >= 176 and max(record.size) <= 320
            assert (record.areas <= np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1)).all()


def test_classes_are_balanced_and_the_ordinary_odd_ones_are_there(folder):
    source = read(folder)
    counts = np.bincount(np.concatenate([record.labels for record in source.records]))
    assert counts.min() > 0.9 * counts.max() and counts.sum() > 2.5 * len(source.records)
    assert any(len(record.boxes) == 0 for record in source.records)
    assert any(cv2.imread(record.path, cv2.IMREAD_UNCHANGED).ndim == 2 for record in source.records)
    assert len({record.size for record in source.records}) > 50


def test_figures_are_large_enough_to_learn(folder):
    sides = [max((b[2:] - b[:2]) / max(r.size)) for r in read(folder).records for b in r.boxes]
    assert np.mean(np.array(sides) > 0.08) > 0.95


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    counts = {"train": 5, "val": 2, "test": 0, "progress": False}
    one, two = (files(demo.write(tmp_path / name, **counts)) for name in ("one", "two"))
    other = files(demo.write(tmp_path / "other", **counts, seed=1))
    assert one == two
    assert one.keys() == other.keys()
    assert all(other[name] != content for name, content in one.items())


@pytest.fixture
def bare(monkeypatch):
    """Figures in white on black, without noise."""

    def paint(rng, canvas, alpha, grey):
        canvas[alpha >= 0.5] = 1

    monkeypatch.setattr(demo, "_background", lambda rng, H, W: np.zeros([H, W, 3]))
    monkeypatch.setattr(demo, "_clutter", lambda rng, canvas: None)
    monkeypatch.setattr(demo, "_lens", lambda rng, canvas: canvas)
    monkeypatch.setattr(demo, "_paint", paint)


@pytest.mark.parametrize("label", range(len(demo.CLASSES)))
def test_box_is_round_what_is_drawn(label, bare):
    for seed in range(10):
        image, figures = demo.draw(np.random.default_rng(seed), [label], (200, 300))
        ((found, box, area),) = figures
        drawn = image.reshape(*image.shape[:2], -1)[..., 0] == 255
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        assert found == label
        assert box == (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert area == drawn.sum()


def test_most_of_each_figure_is_seen(bare):
    disc = demo.CLASSES.index("disc")
    for seed in range(20):
        image, figures = demo.draw(np.random.default_rng(seed), [disc] * 6, (180, 220))
        assert len(figures) > 3
        assert sum(area for _, _, area in figures) == (image.reshape(*image.shape[:2], -1)[..., 0] == 255).sum()
        for _, (y1, x1, y2, x2), area in figures:  # a whole ellipse, turned or not, fills at most pi / 4 of its box
            assert area > 0.8 * demo.VISIBLE * np.pi / 4 * (y2 - y1) * (x2 - x1)


def test_leaves_alone_what_is_there(tmp_path):
    counts = {"train": 2, "val": 1, "test": 0, "progress": False}
    folder = tmp_path / "data"
    folder.mkdir()  # empty: as good as none
    demo.write(folder, **counts)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    demo.write(folder, **counts)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    with pytest.raises(demo.DemoError, match="holds something else"):
        demo.write(folder, **counts, seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(demo.DemoError, match="holds something else"):
        demo.write(tmp_path / "other", **counts)


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        demo.write(tmp_path / "data", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"train": 0, "val": 0, "test": 0}, {"train": -1}, {"size": (10, 20)}, {"size": (300, 200)}]
)
def test_errors(wrong, tmp_path):
    with pytest.raises(demo.DemoError, match="expected some images"):
        demo.write(tmp_path / "data", **wrong)


def test_annotations_are_plain_json(folder):
    content = json.loads(Path(folder, "annotations/instances_val.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(demo.CLASSES)
    assert {type(value) for box in content["annotations"] for value in box["bbox"]} == {int}


@pytest.mark.parametrize(
    "stop, code",
    [(runs.Stopped(None, 0, signal.SIGTERM), 143), (KeyboardInterrupt(), 130)],
    ids=["in training", "elsewhere"],
)
def test_a_demo_that_is_stopped_says_how_it_goes_on(stop, code, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise stop

    monkeypatch.setattr(sys, "argv", ["demo.py", str(tmp_path)])
    monkeypatch.setattr(devices, "start", lambda: None)
    monkeypatch.setattr(demo, "write", lambda folder: folder)
    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / "demo.py"), run_name="__main__")
    assert ended.value.code == code
    assert capsys.readouterr().err == "\nstopped; started again, the demo begins at the start\n"
