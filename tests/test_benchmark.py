"""The benchmark measures what it says, and says what it left out."""

import importlib
import json
import subprocess
import sys

import click
import numpy as np
import pytest
from conftest import ROOT, lively

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.benchmark import run as bench
from tfyolo.benchmark import turns
from tfyolo.benchmark.competitors import competitors
from tfyolo.data import demo
from tfyolo.exports import export as exports
from tfyolo.exports import targets
from tfyolo.peers import Peer
from tfyolo.predict.detector import Detector
from tfyolo.predict.runtimes import RUNTIMES, Runtime
from tfyolo.weights.darknet import cfg, importing, layout
from tfyolo.weights.darknet import files as darknet_files


def loaded(name):
    """A script of tools/ as a module."""
    sys.path.insert(0, str(ROOT / "tools"))  # as when it is run
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[0]


CFG = """
[net]
height=64
width=96
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=16
size=3
stride=4
pad=1
activation=leaky
[convolutional]
filters=16
size=1
activation=linear
[yolo]
mask=0,1
anchors=8,9,20,16
classes=3
num=2
"""


def benchmark(*arguments):
    """In a process of its own: TensorFlow's threads can only be set once."""
    command = [sys.executable, ROOT / "tools" / "benchmark.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def imported(tmp_path):
    (tmp_path / "net.cfg").write_text(CFG)
    slots = layout.layout(cfg.read_cfg(tmp_path / "net.cfg"))
    count = sum(array.count for _, arrays in slots for array in arrays)
    values = np.random.default_rng(0).uniform(0.01, 0.2, count).astype("<f4")
    (tmp_path / "net.weights").write_bytes(darknet_files.Header(0, 2, 5, 0).bytes + values.tobytes())
    importing.import_run(tmp_path / "net.cfg", tmp_path / "net.weights", tmp_path / "run")
    assert "darknet" in checkpoint.read_meta(tmp_path / "run" / "best.h5")
    return tmp_path / "run"


@pytest.mark.slow
def test_all_competitors_are_measured(imported):
    done = benchmark(imported, "--seconds", 0.1, "--rounds", 2, "--threads", 1, "--baseline", "tflite", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["threads"], report["rounds"], report["baseline"]) == (1, 2, "tflite")
    rows = report["competitors"]
    expected = {"keras", "saved_model", "tflite"}
    if any("reads no Darknet networks" in note for note in report["notes"]):
        assert set(rows) == expected
    else:
        assert set(rows) == expected | {"opencv"} and report["notes"] == []
    for name, parts in rows.items():
        assert parts.keys() == {"network", "postprocess", "total"}
        total, network, postprocess = (parts[part] for part in ("total", "network", "postprocess"))
        assert 0 < total["fastest_ms"] <= total["median_ms"] and total["iqr_ms"] >= 0 and total["calls"] >= 2
        assert total["ratio"] == 1 if name == "tflite" else total["ratio"] > 0
        if name == "saved_model":
            assert network is None and postprocess is None
            continue
        assert network["fastest_ms"] > 0 and network["calls"] == total["calls"]
        if name != "tflite":  # whose post-processing is the difference of two calls
            assert network["median_ms"] < total["median_ms"] and 0 < postprocess["median_ms"] < total["median_ms"]


@pytest.mark.slow
def test_what_is_no_darknet_network_has_no_oracle(tmp_path):
    models.save_model(tmp_path / "run.h5", lively("demo"))
    done = benchmark(tmp_path / "run.h5", "--baseline", "opencv")
    assert done.returncode == 2 and "expected one of keras, saved_model, tflite, received 'opencv'" in done.stderr
    done = benchmark(tmp_path / "none.h5")
    assert done.returncode == 1 and "none.h5" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_exports_are_measured_and_evaluated_beside_the_run(tmp_path):
    data = demo.write(tmp_path / "data", train=4, val=2, test=1, size=(64, 96), progress=False)
    model = lively("demo", demo.CLASSES)
    models.save_model(tmp_path / "run.h5", model)
    asked = [targets.Target("tflite"), targets.Target("tflite", nms="none")]
    paths = [each.path for each in exports.export(model, tmp_path / "out", asked).values()]
    options = ["--seconds", 0.1, "--rounds", 2, "--data", data, "--plot", tmp_path / "speed.png", "--json"]
    done = benchmark(tmp_path / "run.h5", *paths, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["competitors"]) == {"keras", "model.tflite", "model-raw.tflite"} == set(report["files"])
    for name, row in report["files"].items():
        assert row["bytes"] > 1000 and row["peak_mb"] > 50, name
        assert row["AP"] == pytest.approx(report["files"]["keras"]["AP"], abs=1e-3)
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_an_exporter_from_outside_is_made_and_measured(tmp_path, monkeypatch):
    """The formats are those of the tables: an entry that is taken out is not made, one that is put in is."""
    model = lively("demo")
    models.save_model(tmp_path / "run.h5", model)

    def write(job, target, path):
        models.save_model(path, job.model)
        return {}

    def load(path, threads, options):
        return Detector.of(models.load_model(path), source=path, **options)

    for name in list(targets.EXPORTERS):
        monkeypatch.delitem(targets.EXPORTERS, name)
    exporter = targets.Exporter(title="a copy", write=write, stem="model", suffix=".copy", runtime="copy")
    monkeypatch.setitem(targets.EXPORTERS, "copy", exporter)
    monkeypatch.setitem(RUNTIMES, "copy", Runtime("a .copy file", lambda path: path.suffix == ".copy", load))
    image = bench.prepared_image(model, None)
    measures, _ = competitors(tmp_path / "run.h5", model, image, 1, tmp_path / "scratch")
    assert list(measures) == ["keras", "copy"] and (tmp_path / "scratch" / "copy" / "model.copy").exists()
    measured = measures["copy"]()
    assert measured.keys() == {"network", "postprocess", "total"} and measured["total"] > 0


def test_exports_of_one_name_have_names_of_their_own():
    assert set(bench.named(["a/model.tflite", "b/x.tflite", "b/x.tflite"])) == {"model.tflite", "x.tflite"}
    assert set(bench.named(["a/model.tflite", "b/model.tflite"])) == {"a/model.tflite", "b/model.tflite"}


def test_ratios_are_taken_within_a_turn():
    """In the second of three turns the machine was ten times slower, for both."""
    base, other = [[0.1, 0.1], [1.0], [0.1, 0.1, 0.3]], [[0.2], [2.0, 2.0], [0.3]]
    rows = turns.figures({"keras": {"total": base}, "tflite": {"total": other, "network": other}}, "keras")
    assert rows["keras"]["total"]["ratio"] == 1 and rows["keras"]["total"]["ratio_iqr"] == 0
    assert rows["keras"]["network"] is None
    total = rows["tflite"]["total"]
    assert total["ratio"] == pytest.approx(2) and total["ratio_iqr"] == pytest.approx(0.5)
    assert total["median_ms"] == pytest.approx(1150) and total["calls"] == 4
    assert total["fastest_ms"] == pytest.approx(200)
    assert rows["tflite"]["network"]["ratio"] is None


PEER = """
import json, sys
print("ready", flush=True)
for _ in sys.stdin:
    print(json.dumps({"seconds": 100.0, "peak_mb": 7}), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "loop", "loader"])
def test_training_takes_turns_with_a_peer(what, tmp_path):
    demo.write(tmp_path / "data", train=8, val=4, test=2, progress=False)
    (tmp_path / "peer.py").write_text(PEER)
    command = [sys.executable, ROOT / "tools" / "benchmark_training.py", ROOT / "configs" / "demo.yaml", "--what", what]
    command += ["--size", "64", "--batch", "2", "--rounds", "2", "--precision", "float32", "--json"]
    command += ["--data", tmp_path / "data", "--peer", f"asleep={sys.executable} {tmp_path / 'peer.py'}"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    ours, peer = report["competitors"]["tfyolo float32"], report["competitors"]["asleep"]
    assert peer["images_per_second"] == 2 / 100 and peer["peak_mb"] == 7 and ours["ratio"] == 1
    assert peer["ratio"] == pytest.approx(peer["images_per_second"] / ours["images_per_second"], rel=0.5)
    assert ours["images_per_second"] > 0.1 and ours["peak_mb"] > 100


def test_a_peer_that_ends_is_an_error():
    gone = Peer("gone", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(click.ClickException, match="gone: it ended with exit code 3"):
        gone.line()
    gone.stop()
