"""What lies where a command expects a file, and what is asked of a model: FIFOs, devices, control characters, networks
of billions.
"""

import json
import os
import random
import resource
import signal
import types
import typing
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from conftest import command, lively, small

from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.checkpoint import CheckpointError
from tfyolo.config import ConfigError, parts
from tfyolo.files import open_regular, parse_json, read_regular, what_is
from tfyolo.predict import load as loading
from tfyolo.predict import media
from tfyolo.predict.detector import Detector
from tfyolo.predict.media import SourceError
from tfyolo.visualize import image_files, plots
from tfyolo.weights.runs import WeightsError, class_names

RED = "\x1b[31mred"


@pytest.fixture(autouse=True)
def in_time():
    """What waits for a FIFO fails."""

    def ring(number, frame):
        raise TimeoutError("longer than 60 seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fifo(tmp_path, monkeypatch):
    """A function that makes a FIFO of a name in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        os.mkfifo(tmp_path / name)
        return name

    return make


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "?.yaml"],
        ["train", "demo", "data=?"],
        ["train", "demo", "data=.", "data.images=?"],
        ["train", "demo", "data=.", "init=?.h5"],
        ["train", "demo", "data=.", "init=?.pt"],
        ["train", "run/?config.yaml", "--resume"],
        ["evaluate", "?.h5"],
        ["evaluate", "?.tflite"],
        ["detect", "?.h5", "."],
        ["detect", ".", "?.jpg"],
        ["detect", ".", "?.mp4"],
        ["export", "?.h5"],
        ["benchmark", "?.h5"],
        ["verify", "?.h5"],
        ["verify", ".", "--against", "?.cfg", "?.weights"],
        ["import", "?.cfg", "?.weights"],
        ["import", "?.pt"],
        ["summary", "?.yaml"],
        ["summary", "?.h5"],
        ["check-data", "?"],
        ["check-data", "?.json"],
        ["check-data", ".", "--config", "?.yaml"],
        ["make-tfrecords", "?", "out"],
        ["kmeans-anchors", "?", "--config", "demo"],
    ],
    ids=" ".join,
)
def test_no_command_waits_for_a_fifo(arguments, fifo):
    for name in {
        each.replace("?", "fifo").partition("=")[2] or each.replace("?", "fifo") for each in arguments if "?" in each
    }:
        fifo(name)
    result = command(*(each.replace("?", "fifo") for each in arguments))
    assert result.exit_code in (1, 2)
    told = (
        "a FIFO or a device",
        "no regular file",
        "not a regular file",
        "expected the last.h5",
        "neither a folder nor a regular file",
    )
    assert any(words in result.stderr for words in told), result.stderr


def test_files_are_regular_ones(fifo, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").write_text("abc")
    for name, words, what in (
        (fifo("fifo"), "not a regular file", "a FIFO or a device"),
        ("/dev/zero", "not a regular file", "a FIFO or a device"),
        ("loop", "symbolic links", "a link that leads nowhere, or in a circle"),
        ("gone", "No such file", "no such file"),
        (".", "s a directory|not a regular file", "a folder"),
        ("a\0b", "a name that no file can have", "no such file"),
        ("\ud800", "a name that no file can have", "no such file"),
    ):
        for read in (open_regular, read_regular):
            with pytest.raises(OSError, match=words) as caught:
                read(name)
            assert caught.value.strerror and caught.value.filename
        assert what_is(name) == what
    assert read_regular("text") == read_regular("text", 3) == b"abc"
    with pytest.raises(OSError, match="expected at most 2 bytes"):
        read_regular("text", 2)
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)


def test_names_of_classes_are_text_in_a_regular_file(fifo, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    (tmp_path / "names").write_text(f"cat\n{RED}\n")
    for name in (fifo("fifo"), "/dev/zero", "binary", "gone"):
        with pytest.raises(WeightsError, match=name):
            class_names(name, 2)
    assert class_names("names", 2) == ["cat", "\\x1b[31mred"]


@pytest.mark.parametrize(
    "content", [None, "", "a,b\n1,2\n", "epoch,loss\nx,1\n", "epoch,loss\n1,\x1b\n", "epoch\n" + "9" * 5000, "\0"]
)
def test_a_history_that_is_none(content, fifo, tmp_path):
    if content is None:
        fifo("history.csv")
    else:
        (tmp_path / "history.csv").write_text(content)
    with pytest.raises(image_files.DrawingError, match=r"history\.csv: "):
        plots.read_history(tmp_path / "history.csv")


def test_a_saved_model_with_a_fifo_in_it(fifo, tmp_path):
    for name in ("saved_model.pb", "assets.extra/tfyolo.json", "variables/variables.index"):
        fifo(f"exported/{name}")
    with pytest.raises(CheckpointError, match="no regular file in it"):
        loading.load(tmp_path / "exported")


def test_films_have_the_limit_of_pixels(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    media.check(str(tmp_path / "film.mp4"), 48 * 64)
    with pytest.raises(SourceError, match=r"expected frames of at most 3,071 pixels, received 48 x 64 \(H x W\)"):
        media.check(str(tmp_path / "film.mp4"), 48 * 64 - 1)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "classes", "words"),
    [
        (["model.backbone.width=50"], 3, "expected a network of at most 1,000,000,000 parameters, received 10"),
        (["model.backbone.max_channels=65536", "model.backbone.width=30"], 3, "parameters, received 3"),
        ([], 100_001, "model.classes: expected at most 100,000 classes, received 100,001"),
        (
            ["model.input_size=[6400, 6400]"],
            5000,
            "expected at most 1,073,741,824 scores of an image, received 840,000 candidates",
        ),
    ],
)
def test_networks_of_billions_are_told_before_they_have_their_memory(overrides, classes, words):
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages + (2 << 30), before[1]))
    config = configs.load("yolov8n", overrides)
    try:
        with pytest.raises(ConfigError, match=words):
            models.build(config, list(map(str, range(classes))))
        with keras.StatelessScope():  # at whose end Keras makes the variables that still wait
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_network_that_is_within_bounds_has_its_variables():
    model = models.build(small("yolov8n"), "ab")
    assert all(np.isfinite(np.asarray(variable)).all() for variable in model.network.variables)
    kernels = [np.asarray(variable) for variable in model.network.variables if variable.path.endswith("conv/kernel")]
    assert min(np.std(kernel) for kernel in kernels) > 0


def test_classes_of_a_model_are_shown_escaped():
    assert models.build(small("demo"), ["cat", RED]).classes == ("cat", "\\x1b[31mred")
    model = lively("demo")
    assert Detector.of(model._replace(classes=("a", "b", RED))).classes[2] == "\\x1b[31mred"


def test_names_of_files_are_shown_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.save_model("model.h5", lively("demo"))
    for name in (f"{RED}.jpg", os.fsdecode(b"\xff.jpg")):
        cv2.imwrite("plain.jpg", np.zeros((48, 64, 3), np.uint8))
        os.rename("plain.jpg", name)
    (tmp_path / f"{RED}2.jpg").write_text("no image")
    result = command("detect", "model.h5", ".", "--out", "found")
    assert result.exit_code == 1
    told = result.stdout + result.stderr
    assert "\x1b" not in told and "\\x1b[31mred.jpg" in told and "\\x1b[31mred2.jpg" in told
    (tmp_path / "found/detections.json").read_text().encode()
    assert "\x1b" not in command("detect", "model.h5", f"{RED}3.jpg").stderr


# --- by chance --------------------------------------------------------------------------------------------------------

EDGES = {int: (1, 2, 3, 5, 7, 8, 16, 33), float: (1e-6, 0.01, 0.1, 0.3, 0.5, 0.99, 1.0, 1.5, 3.0)}
FAR = {int: (64, 100, 999, 2000, 16_384, 65_536, 100_000, 1_000_000), float: (10.0, 100.0, 1e6, 1e30)}


def drawn(rng, annotation):
    """A value within an annotation's range, now and then at its far end."""
    bare = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
    origin, inside = typing.get_origin(bare), typing.get_args(bare)
    for _ in range(200):
        if bare is bool:
            value = rng.random() < 0.5
        elif bare in EDGES:
            value = rng.choice((FAR if rng.random() < 0.1 else EDGES)[bare])
        elif bare is str:
            value = rng.choice(
                ["p2", "p3", "p4", "p5", "p6", "relu", "mish", "linear", "giou", "squared", "bce", "lead", "x"]
            )
        elif origin is typing.Literal:
            value = rng.choice(inside)
        elif origin is list or inside[1:] == (Ellipsis,):
            value = [drawn(rng, inside[0]) for _ in range(rng.randrange(6))]
        elif origin is tuple:
            value = [drawn(rng, each) for each in inside]
        elif origin is dict:
            value = {drawn(rng, inside[0]): drawn(rng, inside[1]) for _ in range(rng.randrange(4))}
        elif origin in (typing.Union, types.UnionType):
            value = drawn(rng, rng.choice(inside))
        else:
            return None  # None itself
        try:
            parts.typed(value, annotation)
        except ValueError:
            continue
        return value
    raise AssertionError(f"nothing fits {annotation}")


@pytest.mark.slow
def test_options_within_their_ranges_build_a_network_or_are_told(tmp_path):
    """Whatever is asked of the parts of a config: no error but that of the config, and none that takes all memory."""
    ends = {"built": 0, "told": 0}
    names = (
        "yolov8n",
        "yolov3-tiny",
        "yolov7-tiny",
        "demo-m2det",
        "demo-cornernet",
        "demo-yolov1",
        "yolov4-tiny",
        "resnext-tiny",
    )
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages + (8 << 30), before[1]))
    try:
        for seed in range(int(os.environ.get("TFYOLO_FUZZ_ROUNDS", 80))):
            rng, overrides = random.Random(seed), []
            config = small(rng.choice(names))
            for _ in range(rng.randrange(1, 4)):
                kind = rng.choice(
                    [kind for kind in parts.TABLES if kind != "optimizer" and getattr(config.model, kind)]
                )
                builder = parts.builders(kind)[getattr(config.model, kind).name]
                known = {
                    name: each for name, each in parts.options_of(builder).items() if name not in ("sections", "depth")
                }
                if known:
                    option = rng.choice(sorted(known))
                    value = drawn(rng, known[option].annotation)
                    overrides.append(f"model.{kind}.{option}={json.dumps(value)}")
            overrides += rng.choice([[], [], [f"model.input_size={rng.choice([1, 31, 32, 96, 128, 512, 16_384])}"]])
            signal.alarm(60)
            try:
                (tmp_path / "x.yaml").write_text(configs.to_yaml(config))
                model = models.build(configs.load(tmp_path / "x.yaml", overrides), ("a", "b", "c"))
                assert np.isfinite(np.asarray(model.network.variables[0])).all()
                ends["built"] += 1
            except ConfigError:
                ends["told"] += 1
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {config.name} {overrides}") from error
            finally:
                signal.alarm(0)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    print(ends)
    assert ends["built"] > 10 and ends["told"] > 10
