"""What training prints at its start, for data and machines made for it; and its estimate of how long the rest takes."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_config, small

from tfyolo import model as models
from tfyolo.data.sources.source import Record, Source
from tfyolo.graph.summary import summarize
from tfyolo.training import briefing
from tfyolo.training import clock as clocks
from tfyolo.training.briefing import bfloat16_notice, gpu_notice
from tfyolo.training.clock import Clock, duration


def source(split, images, boxes, ignored=0, classes=("cat", "dog", "emu")):
    """Images with so many boxes each, cats before dogs; of the first some are difficult; one more image has none."""
    labels = np.arange(boxes, dtype=np.int32) % 2
    difficult = np.arange(boxes) < ignored
    empty = np.zeros([0, 4], np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, np.float32), (40, 60)
    some = np.zeros([boxes, 4], np.float32), labels, np.zeros(boxes, bool), np.zeros(boxes, np.float32), (40, 60)
    records = [Record(i, f"{i}.jpg", *some, difficult=difficult if i == 0 else False) for i in range(images)]
    return Source((*records, Record(-1, "no.jpg", *empty)), classes, (0, 1, 2), (), "zoo", split, "coco")


@pytest.fixture(scope="module")
def built():
    return models.build(small("demo"), ("cat", "dog", "emu"))


def briefed(config, built, sources, **state):
    text = briefing.briefing(config, built, sources, "runs/zoo", {"epoch": 0, "step": 0, "best": None} | state)
    rows, name = {}, None
    for line in text.splitlines():
        name = line[:9].strip() or name
        rows.setdefault(name, []).append(line[9:])
    return text, rows


def test_a_new_run_says_what_is_trained_on_what_and_where_to(built, monkeypatch):
    monkeypatch.setattr(briefing, "gpu_notice", lambda: None)
    config = load_config("demo", "train.batch=4", "train.evaluate_every=5")
    text, rows = briefed(config, built, [(source("train", 9, 4, ignored=3), source("val", 3, 2))])
    assert len(text.splitlines()) <= 12 and max(map(len, text.splitlines())) <= 120
    summary = summarize(built)
    figures = f"{summary['parameters']:,} parameters, {summary['flops'] / 1e9:.4g} GFLOPs at 64 x 64"
    assert rows["model"] == [f"demo, 3 classes: {figures}"]
    assert rows["train"] == ["zoo train: 10 images, 36 boxes (3 of them crowds or difficult, 1 image without any)"]
    assert rows["val"] == ["zoo val: 4 images, 6 boxes (1 image without any)"]
    assert rows["classes"] == ["dog 17, cat 16; 1 class without a box"]
    assert rows["device"] == [f"CPU, {len(os.sched_getaffinity(0))} cores, with oneDNN; float32"]
    assert rows["plan"] == ["34 epochs, 4 images a step, adamw, EMA 0.998; evaluated every 5 epochs",
                            "34 epochs of 3 steps at 192 x 192, lr 0.004, cosine"]  # fmt: skip
    assert rows["folder"] == ["runs/zoo"] and "resumes" not in rows


def test_what_is_overfit_is_counted_once(built):
    few = source("train", 7, 4)
    learned = few._replace(records=few.records * 25)
    _, rows = briefed(load_config("demo", "train.batch=8"), built, [(learned, few)])
    assert rows["train"] == ["zoo train: 8 images, 28 boxes, each 25 times an epoch (1 image without any)"]
    assert rows["val"] == ["zoo train: 8 images, 28 boxes (1 image without any)"]
    assert rows["classes"] == ["cat 14, dog 14; 1 class without a box"]
    assert rows["plan"][1].startswith("34 epochs of 25 steps")


@pytest.mark.parametrize("every, line_end", [(1, ""), (2, "; evaluated every 2 epochs"), (3, "; evaluated at the end")])
def test_when_a_short_run_is_evaluated_is_printed(every, line_end):
    config = load_config("demo", "epochs=3", f"train.evaluate_every={every}")
    (_, line), *_ = briefing._plan(config, [(source("train", 7, 4), source("val", 3, 2))])
    assert line == "3 epochs, 8 images a step, adamw, EMA 0.998" + line_end


def test_stages_and_where_a_run_goes_on_are_said(built, monkeypatch):
    monkeypatch.setattr(briefing, "gpu_notice", lambda: "buy one")
    stages = "[{epochs: 3, lr: 0.1, freeze: [backbone]}, {epochs: 1, lr: 0.01, image_size: [64, 96]}]"
    config = load_config("demo", f"train.stages={stages}", "train.accumulate=2", "train.ema=0", "train.init=runs/old")
    pairs = [(source("train", 9, 4), source("val", 3, 2)), (source("extra", 19, 4), source("val", 3, 2))]
    _, rows = briefed(config, built, pairs)
    assert rows["model"][1] == "initialised from runs/old" and rows["device"][1] == "buy one"
    assert len(rows["train"]) == 2 and len(rows["val"]) == 1
    assert rows["plan"] == [
        "4 epochs, 8 images a step, each in 2 parts, adamw; evaluated at the end of each stage",
        "stage 1: 3 epochs of 2 steps at 192 x 192, lr 0.1, cosine, frozen: backbone",
        "stage 2: 1 epoch of 3 steps at 64 x 96, lr 0.01, cosine",
    ]
    _, rows = briefed(config, built, pairs, epoch=3, best={"epoch": 2, "AP": 0.25})
    assert rows["resumes"] == ["after epoch 3 of 4; best so far: epoch 2, AP 0.250"] and len(rows["model"]) == 1
    _, rows = briefed(config, built, pairs, step=1)
    assert rows["resumes"] == ["after epoch 0 of 4 and 1 step of the next"] and len(rows["model"]) == 1


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without GPUs, whose root is tmp_path; commands lie in its bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def nvidia_smi(machine, script):
    (machine / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (machine / "bin" / "nvidia-smi").chmod(0o755)


def test_no_gpu_is_nothing_to_speak_of(machine):
    assert gpu_notice(machine) is None
    nvidia_smi(machine, "echo NVIDIA-SMI has failed; exit 9")  # as where the driver lies, but no card
    assert gpu_notice(machine) is None


@pytest.mark.parametrize(
    "card, words",
    [("NVIDIA H100 80GB HBM3, 9.0", ["machine's NVIDIA H100 80GB HBM3: pip install 'tensorflow[and-cuda]'"]),
     ("NVIDIA GeForce RTX 5090, 12.0", ["RTX 5090: ", "up to compute capability 9.0, expected a newer one for 12.0"])],
)  # fmt: skip
def test_a_gpu_that_tensorflow_does_not_see_is_said(card, words, machine, monkeypatch):
    nvidia_smi(machine, f"echo '{card}'")
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"cuda_compute_capabilities": ["sm_80", "compute_90"]})
    assert all(word in gpu_notice(machine) for word in words)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hidden on purpose
    assert gpu_notice(machine) is None


@pytest.mark.parametrize(
    "file, content, name",
    [("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t Tesla T4\nIRQ: 1\n", "Tesla T4"),
     ("dev/nvidia0", "", "NVIDIA GPU")],
)  # fmt: skip
def test_a_gpu_without_its_command_is_found_by_the_drivers_files(file, content, name, machine):
    (machine / file).parent.mkdir(parents=True)
    (machine / file).write_text(content)
    assert f"TensorFlow does not see this machine's {name}: pip install" in gpu_notice(machine)


def play_gpus(monkeypatch, visible, capability):
    """A machine of two GPUs that TensorFlow knows, of which a run uses those that are visible."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU", "a GPU"])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: visible)
    monkeypatch.setattr(briefing, "_details", lambda gpu: {"device_name": "A", "compute_capability": capability})


@pytest.mark.parametrize("visible, named", [(["a GPU"], "A"), ([], "CPU, ")])
def test_a_run_names_the_devices_that_it_uses(visible, named, machine, monkeypatch):
    """With --device 0 and --device cpu: no line about unused devices, and bfloat16 is the processor's."""
    play_gpus(monkeypatch, visible, (12, 0) if not visible else (8, 9))
    assert briefing._devices().startswith(named) and gpu_notice(machine) is None
    (machine / "proc").mkdir()
    (machine / "proc/cpuinfo").write_text("flags : avx2\n")
    assert bool(bfloat16_notice("bfloat16", machine)) == (not visible)


@pytest.mark.parametrize("capability, words", [((8, 9), None), ((12, 0), "this one has 12.0")])
def test_a_gpu_newer_than_tensorflows_kernels_is_said(capability, words, machine, monkeypatch):
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"cuda_compute_capabilities": ["sm_80", "compute_90"]})
    play_gpus(monkeypatch, ["a GPU", "a GPU"], capability)
    assert words in gpu_notice(machine) if words else gpu_notice(machine) is None
    assert briefing._devices() == "2 x A"


@pytest.mark.parametrize(
    "flags, precision, warned",
    [("flags : sse avx2 fma", "bfloat16", True), ("flags : avx2 avx512f avx512_bf16", "bfloat16", False),
     ("flags : avx2 amx_bf16", "bfloat16", False), ("Features : asimd bf16", "bfloat16", False),
     ("Features : asimd", "bfloat16", True), ("flags : avx2", "float32", False)],
)  # fmt: skip
def test_bfloat16_that_is_emulated_is_warned_of(flags, precision, warned, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{flags} cx16\n")
    notice = bfloat16_notice(precision, tmp_path)
    assert ("emulated" in notice and "train.precision=float32" in notice) if warned else notice is None


def test_where_the_processor_does_not_say_what_it_has_nothing_is_guessed(tmp_path):
    assert bfloat16_notice("bfloat16", tmp_path) is None


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_clock_by_hand(monkeypatch):
    """Two stages, of 4 and 2 steps at 100 and 400 pixels.

    100 pixels take a second, the first step of a stage 10 more, an evaluation 7.
    """
    now = SimpleNamespace(monotonic=lambda: now.time, time=0.0)
    monkeypatch.setattr(clocks, "time", now)
    clock = Clock([(4, 100), (2, 400)], evaluations=2)

    def step(seconds, pixels):
        now.time += seconds
        clock.step(pixels)
        return clock.left

    clock.new_step()
    clock.go_on()
    assert step(11, 100) == 11 * (3 + 8)  # nothing better is known
    assert step(1, 100) == 2 + 8
    now.time += 7
    clock.evaluated(7)
    assert clock.left == 2 + 8 + 7
    clock.go_on()
    assert (step(1, 100), step(1, 100)) == (1 + 8 + 7, 8 + 7)
    clock.new_step()
    clock.go_on()
    assert (step(14, 400), step(4, 400)) == (4 + 7, 7)
    clock.evaluated(7)
    assert clock.left == 0


@pytest.mark.parametrize(
    "seconds, words",
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3500, "58 min"), (3580, "1 h 00 min"), (11100, "3 h 05 min"),
     (86400 * 2 + 3600 * 4.4, "2 d 04 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_step_of_a_size_that_is_new_waits_for_its_tracing_and_is_left_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])
    clock = Clock([(6, 1)], evaluations=0)
    clock.new_step()
    for size, seconds in (((64, 64), 30.0), ((64, 64), 1.0), ((96, 96), 40.0), ((64, 64), 1.0), ((96, 96), 1.0)):
        clock.takes(size)
        now[0] += seconds
        clock.step(1)
    assert clock.rate == 1.0 and clock.left == 1.0
