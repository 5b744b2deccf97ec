"""Whole runs: stages, data, memory, and every stop with a reason."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import conftest
import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY_RUN, load_config, process, small, stages, strategy_of, tfyolo, tfyolo_here

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.config import ConfigError
from tfyolo.data.readers import read
from tfyolo.data.sources.source import SplitError
from tfyolo.evaluation import run as evaluation
from tfyolo.predict.detector import Detector
from tfyolo.training import checks, job, log, memory, reading, runs
from tfyolo.training import stages as stages_module
from tfyolo.training import train as training
from tfyolo.training.log import draw_detections
from tfyolo.training.optim import EMA

NAMES = ("a", "b", "c")


@pytest.mark.slow
def test_what_is_used_of_last_h5_is_what_training_evaluated(data, tmp_path):
    """The EMA; the weights beside it, another model, are there to go on from."""
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN, stages(1), "train.ema=0.99"])
    run = training.train(config, tmp_path / "run", progress=False)
    _, weights, averages = checkpoint.load(run.folder / "last.h5", "weights", "averages")
    assert any(not np.array_equal(weights[name], averages[name]) for name in weights)
    used = checkpoint.weights_of(models.load_model(run.folder / "last.h5").network)
    best = checkpoint.weights_of(models.load_model(run.folder / "best.h5").network)
    for name in averages:
        np.testing.assert_array_equal(used[name], averages[name])
        np.testing.assert_array_equal(used[name], best[name])  # of one epoch, so the best too


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_names_term_step_and_images(data, tmp_path):
    stage = "train.stages=[{epochs: 3, lr: 1e30, warmup: 0, schedule: constant}]"
    optimizer = "train.optimizer={name: sgd}"
    run = tfyolo(
        "train",
        "configs/demo.yaml",
        f"data={data}",
        *TINY_RUN,
        stage,
        optimizer,
        "train.clip=null",
        "--out",
        tmp_path / "run",
    )
    assert run.returncode == 1 and "Traceback" not in run.stdout
    message = run.stdout.split("Error:")[-1]
    assert not (tmp_path / "run").exists()  # of which not one epoch was finished
    assert "step" in message and "became" in message and "train" in message and ".jpg" in message


@pytest.mark.slow
def test_images_that_are_broken_or_of_another_size_are_named(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    victim, shrunk = sorted((copy / "train").glob("*.jpg"))[:2]
    victim.write_bytes(victim.read_bytes()[:200])
    cv2.imwrite(str(shrunk), np.zeros([20, 30, 3], np.uint8))
    evaluated = sorted((copy / "val").glob("*.jpg"))[0]
    evaluated.write_bytes(b"")
    result = tfyolo_here(
        "train", ROOT / "configs/demo.yaml", f"data={copy}", *TINY_RUN, stages(2), "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.stderr
    assert "left out, as unreadable: 1 image, 1 so far" in result.stderr and victim.name in result.stderr
    assert f"not the one annotated: 1 image, 1 so far:\n  {shrunk}: 20 x 30, annotated " in result.stderr
    assert result.stderr.count(f"evaluation: left out, as unreadable: 1 image: {evaluated}") == 1


@pytest.mark.slow
def test_a_second_stage_goes_on_with_the_ema_of_the_first_whose_model_is_gone(data, tmp_path, monkeypatch):
    """Against the formula, from the weights after every step of both: n of (1 + n) / (10 + n) goes on, by last.h5."""
    seen, networks = [], []
    make, update, build = EMA.__init__, EMA.update, models.build

    def started(ema, network, decay):
        make(ema, network, decay)
        seen.append(checkpoint.weights_of(network))

    def updated(ema, strategy):
        update(ema, strategy)
        seen.append({weight.path: weight.numpy() for weight in ema.weights})

    def built(*args, **kwargs):
        if "precision" in kwargs:  # to train
            assert all(network() is None for network in networks)
        model = build(*args, **kwargs)
        if "precision" in kwargs:
            networks.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(EMA, "__init__", started)
    monkeypatch.setattr(EMA, "update", updated)
    monkeypatch.setattr(stages_module, "build", built)
    options = [f"data={data}", *TINY_RUN, stages(1, 1), "train.ema=0.998", "train.eager=true"]
    config = configs.load(ROOT / "configs" / "demo.yaml", options)
    run = training.train(config, tmp_path / "run", progress=False)
    steps = 3  # ten images by four
    assert len(networks) == 2 and len(seen) == 2 * (1 + steps)
    expected = seen[0]
    for n, weights in enumerate([*seen[1 : 1 + steps], *seen[2 + steps :]], start=1):
        keep = (1 + n) / (10 + n)
        expected = {name: keep * value + (1 - keep) * weights[name] for name, value in expected.items()}
    meta, averages = checkpoint.load(run.folder / "last.h5", "averages")
    assert meta["state"]["averaged"] == 2 * steps
    for name, value in expected.items():
        np.testing.assert_allclose(averages[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_no_stage_of_any_seed_has_the_data_of_another():
    config = load_config("demo")
    seeds = {
        reading.stage_seed(config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})}), stage)
        for seed in range(500)
        for stage in range(4)
    }
    assert len(seeds) == 2000 and set(range(500)) < seeds  # the first stage's is train.seed


@pytest.mark.parametrize("count, batch, replicas", [(4, 16, 8), (4, 16, 1), (3, 16, 2), (20, 16, 2), (5, 2, 4)])
def test_what_is_overfit_makes_batches_for_every_replica(count, batch, replicas):
    config = load_config("demo", f"train.batch={batch}", "data=" + str(ROOT))
    chosen = reading.overfit_config(config, count, replicas).train.batch
    assert chosen % replicas == 0 and chosen >= min(batch, count) and chosen < min(batch, count) + replicas


def test_an_epoch_of_what_is_overfit_has_at_least_25_steps_however_many_replicas(data):
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}"])
    for replicas in (1, 8):
        chosen = reading.overfit_config(config, 4, replicas)
        trained, evaluated = reading.read_stage(chosen, 0, 4)
        assert len(trained.records) == 25 * chosen.train.batch and len(evaluated.records) == 4


@pytest.mark.slow
def test_without_a_box_to_evaluate_on_the_last_epoch_is_the_best_and_the_reason_is_said_first(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    arguments = [f"data={copy}", *TINY_RUN, stages(2), "train.evaluate_every=1", "--out", tmp_path / "run", "--json"]
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", *arguments)
    assert "data: the split 'val' has no boxes: there will be no AP" in result.stderr
    assert json.loads(result.stdout, parse_constant=pytest.fail) == {
        "run": str(tmp_path / "run"), "epoch": 2, "AP": None, "AP50": None, "AP75": None
    }  # fmt: skip
    assert checkpoint.read_meta(tmp_path / "run" / "best.h5")["epoch"] == 2


@pytest.mark.parametrize(
    "metrics, best, better",
    [((0.2, 0.3), (0.1, 0.9), True), ((0.1, 0.9), (0.1, 0.8), True), ((0.1, 0.8), (0.1, 0.8), False),
     ((0.0, 0.0), (math.nan, math.nan), True), ((math.nan, math.nan), (0.0, 0.0), False),
     ((math.nan, math.nan), (math.nan, math.nan), True)],
)  # fmt: skip
def test_the_best_epoch_is_the_earliest_of_the_best_and_the_latest_of_those_without_ap(metrics, best, better):
    assert log.better(*({"AP": one[0], "AP50": one[1]} for one in (metrics, best))) == better


@pytest.mark.slow
def test_eager_takes_the_same_steps(data, tmp_path):
    for eager in ("true", "false"):
        run = tfyolo(
            "train",
            "configs/demo.yaml",
            f"data={data}",
            *TINY_RUN,
            stages(1),
            f"train.eager={eager}",
            "--out",
            tmp_path / eager,
        )
        assert run.returncode == 0, run.stdout
    _, eager = checkpoint.load(tmp_path / "true" / "last.h5", "weights")
    _, graph = checkpoint.load(tmp_path / "false" / "last.h5", "weights")
    for name in eager:
        np.testing.assert_allclose(eager[name], graph[name], rtol=1e-2, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_frozen_parts_stay_and_the_others_move(data, tmp_path, monkeypatch):
    """A whole run on two replicas."""
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2))
    batches, evaluate = [], evaluation.evaluate
    monkeypatch.setattr(
        training, "evaluate", lambda *a, batch, **b: batches.append(batch) or evaluate(*a, batch=batch, **b)
    )
    stage = "train.stages=[{epochs: 1, lr: 0.01, freeze: [backbone, neck.p5]}]"
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN, stage])
    run = training.train(config, tmp_path / "run", progress=False)
    _, after = checkpoint.load(run.folder / "last.h5", "weights")
    model = models.build(config, checkpoint.read_meta(run.folder / "last.h5")["classes"])
    fresh = {name: value for name, value in checkpoint.weights_of(model.network).items()}
    for name in fresh:
        frozen = name.startswith(("backbone.", "neck.p5."))
        if name.endswith(("moving_mean", "beta")):  # these start at 0 whatever the seed
            assert np.any(after[name]) != frozen, name
    assert batches == [2]  # as many at a time as a replica learns from
    height, width = cv2.imread(str(run.folder / "train_batch.png")).shape[:2]
    assert width > 4 * 320 > 4 * height - 100  # both replicas' two images beside each other


@pytest.mark.parametrize(
    "settings, replicas, expected",
    [(["train.batch=8"], 1, 8), (["train.batch=64"], 2, 16), (["train.batch=64", "train.accumulate=8"], 2, 4),
     (["train.batch=2"], 8, 1)],
)  # fmt: skip
def test_evaluation_takes_as_many_images_as_a_replica_learns_from_at_a_time(settings, replicas, expected):
    assert memory.evaluated_at_once(load_config("demo", *settings), replicas) == expected


@pytest.mark.parametrize(
    "batch, counts, unit, expected, words",
    [(8, [20], 1, 8, []),
     (16, [10], 1, 10, ["train.batch=16 is more than the 10 images to train on: a step takes 10 images"]),
     (16, [10], 4, 8, ["a step takes 8 images"]),
     (8, [3], 8, 8, ["a step of 8 images has but 3 to take, some of them more than once"]),
     (16, [3], 8, 8, ["a step takes 8 images", "has but 3 to take"]),
     (16, [100, 4], 2, 16, ["stage 2: a step of 16 images has but 4"])],
)  # fmt: skip
def test_no_step_takes_more_images_than_there_are_where_that_can_be(batch, counts, unit, expected, words):
    sources = [(SimpleNamespace(records=range(count)), None) for count in counts]
    config, notes = reading.with_images_for(load_config("demo", f"train.batch={batch}"), sources, unit)
    assert config.train.batch == expected and len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "replicas, message",
    [
        (1, "4 images of 64 x 64 at a time do not fit .* 1 image did.*accumulate=4 .*batch=1 "),
        (2, "2 images .* 1 image did.*accumulate=2 .*batch=2 "),
    ],
)
def test_out_of_memory_reports_what_would_fit(replicas, message, data, tmp_path, monkeypatch):
    """A device has room for one image."""
    convert = tf.image.convert_image_dtype  # of a step's images, the first that is done with them

    def tight(images, dtype):
        if images.shape[0] > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return convert(images, dtype)

    monkeypatch.setattr(tf.image, "convert_image_dtype", tight)
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(replicas))
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN, stages(1)])
    with pytest.raises(runs.TrainingError, match=f"epoch 1, step 1: {message}"):
        training.train(config, tmp_path / "run", progress=False)
    assert not os.listdir(tmp_path)


def test_a_model_that_does_not_fit_is_no_traceback(data, tmp_path, monkeypatch):
    def large(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor of 9 GB\nHint: ...")

    monkeypatch.setattr(job, "build", large)
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "training keeps beside it (OOM when allocating tensor of 9 GB)" in result.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "whole, replicas, accumulate, fits, words",
    [(16, 1, 1, 4, "16 images .*train.accumulate=4 .*train.batch=4 "),
     (32, 2, 2, 2, "8 images .*train.accumulate=8 .*train.batch=8 "),
     (6, 1, 1, 1, "train.accumulate=6 .*train.batch=1 "),
     (12, 1, 1, 3, "3 images did.* train.accumulate=4 .*train.batch=3 ")],
)  # fmt: skip
def test_what_fits_is_reported_as_settings(whole, replicas, accumulate, fits, words):
    config = load_config("demo", f"train.batch={whole}", f"train.accumulate={accumulate}")
    strategy = SimpleNamespace(num_replicas_in_sync=replicas)
    message = memory.too_many(config, strategy, (64, 96), fits)
    assert "of 64 x 96 at a time do not fit into a device's memory, nor does one" in memory.too_many(
        config, strategy, (64, 96), 0
    )
    assert re.search(words, message), message
    parts = int(re.search(r"train\.accumulate=(\d+)", message)[1])
    assert whole % (replicas * parts) == 0 and whole // replicas // parts <= fits  # a setting that is allowed, and fits


def test_validation_images_of_one_name_are_drawn_each(data, tmp_path):
    source = read(data, "val")
    records = tuple(r._replace(image_id=f"{n}/the.same.jpg") for n, r in enumerate(source.records[:3]))
    model = conftest.lively("demo", source.classes)
    options = {"count": 3, "batch": 2, "score": 0.5}
    board = tf.summary.create_noop_writer()
    draw_detections(model, Detector.of(model), source._replace(records=records), tmp_path, board, 1, **options)
    assert sorted(os.listdir(tmp_path)) == [f"{n:02d}_the.same.jpg" for n in (1, 2, 3)]


def second(option):
    return f"train.stages=[{{epochs: 1, lr: 0.1}}, {{epochs: 1, lr: 0.1, {option}}}]"


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.stages.0.freeze=[bakbone]", "train.stages.0.freeze.0: expected the name of a part"),
        ("train.stages.0.freeze=[backbone, neck, head]", "everything is frozen"),
        ("train.stages.0.loss_weights={boxes: 2}", "expected a term of the loss (box, obj, cls)"),
        ("train.optimizer=adam", "train.optimizer.name: expected one of sgd, adamw"),
        ("train.batch=3", "train.batch: expected a multiple of 2 replicas"),
        ("data=null", "data: expected where the images"),
        # Of a later stage: not when its turn comes.
        (second("image_size: 100"), "train.stages.1.image_size: expected multiples of 32"),
        (second("freeze: [backbone, bakbone]"), "train.stages.1.freeze.1: expected the name of a part"),
        (second("freeze: [backbone, neck, head]"), "everything is frozen"),
        (second("loss_weights: {boxes: 2}"), "expected a term of the loss (box, obj, cls)"),
    ],
)
def test_plans_that_cannot_be_are_errors_of_the_config(data, tmp_path, monkeypatch, override, message):
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2))
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN, override])
    with pytest.raises(ConfigError) as error:
        training.train(config, tmp_path / "run", progress=False)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()  # before anything is trained


def test_images_of_another_size_than_connected_layers_take_are_an_error_of_the_stage():
    config = small("yolov1", **{"train.stages": "[{epochs: 1, lr: 0.1, image_size: 64}]"})
    with pytest.raises(ConfigError, match=r"train\.stages\.0\.image_size: expected \[128, 192\], the one size"):
        checks.check_stage(config, 0, models.build(config, NAMES))


def test_data_that_stages_share_are_read_once(data, tmp_path, monkeypatch):
    own = f"{{epochs: 1, lr: 0.1, data: {{path: {data}, train: val}}}}"
    config = configs.load(
        ROOT / "configs" / "demo.yaml",
        [f"data={data}", f"train.stages=[{{epochs: 1, lr: 0.1}}, {own}, {{epochs: 1, lr: 0.01}}]"],
    )
    read, seen = reading.read_stage, []
    monkeypatch.setattr(reading, "read_stage", lambda config, i, *rest: seen.append(i) or read(config, i, *rest))
    first, second, third = reading.read_stages(config, None, tmp_path)
    assert seen == [0, 1] and third is first
    assert (first[0].split, second[0].split) == ("train", "val")


def test_a_val_split_that_is_missing_is_no_reason_to_evaluate_on_the_training_data(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "annotations" / "instances_val.json").unlink()
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={copy}", *TINY_RUN])
    with pytest.raises(SplitError, match=r"'val' does not exist .*: data\.val=.*data\.val=train evaluates on"):
        training.train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()  # a failed start leaves nothing
    knowing = configs.load(ROOT / "configs" / "demo.yaml", [f"data={copy}", "data.val=train", *TINY_RUN])
    trained, evaluated = reading.read_stage(knowing, 0, None)
    assert evaluated.split == "train" and len(evaluated.records) == len(trained.records)
    assert not list(reading.warnings_of(trained, evaluated))


def test_images_both_trained_and_evaluated_on_are_reported(data):
    trained, evaluated = read(data, "train"), read(data, "val")
    assert not list(reading.warnings_of(trained, evaluated))
    both = evaluated._replace(records=(*evaluated.records, *trained.records[:3]))
    (warning,) = reading.warnings_of(trained, both)
    assert "demo val: 3 of its 7 images are also trained on, as 'train'" in warning


def test_other_classes_in_val_are_reported_by_data_set_and_split(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"disc"', '"disk"'))
    overrides = [f"data={copy}", *TINY_RUN]
    with pytest.raises(ConfigError) as error:
        training.train(configs.load(ROOT / "configs" / "demo.yaml", overrides), tmp_path / "run", progress=False)
    assert "train.stages" not in str(error.value)
    assert "data val too, which has disk, which data train has not and lacks disc" in str(error.value)
    own = f"train.stages=[{{epochs: 1, lr: 0.1}}, {{epochs: 1, lr: 0.1, data: {{path: {copy}, train: val}}}}]"
    with pytest.raises(
        ConfigError, match=r"train\.stages\.1\.data: expected the 5 classes of demo train in data val too"
    ):
        training.train(
            configs.load(ROOT / "configs" / "demo.yaml", [*overrides, f"data={data}", own]),
            tmp_path / "run",
            progress=False,
        )


def test_what_fails_before_its_first_step_leaves_nothing(data, tmp_path):
    overrides = [f"data={data}", *TINY_RUN, "train.stages=[{epochs: 1, lr: 0.1, freeze: [bakbone]}]"]
    with pytest.raises(ConfigError):
        training.train(
            configs.load(ROOT / "configs" / "demo.yaml", overrides), tmp_path / "new" / "run", progress=False
        )
    assert not os.listdir(tmp_path)


def test_ctrl_c_while_data_is_read_leaves_nothing(data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        assert os.listdir(tmp_path / "run") == [folders.LOCK]  # taken at once
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "read_stage", interrupted)
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", tmp_path / "run")
    assert result.exit_code == 130 and "nothing is left" in result.stderr
    assert not os.listdir(tmp_path)


def test_a_run_that_is_being_trained_is_not_gone_on_with_by_another(data, tmp_path, monkeypatch):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "last.h5").touch()
    monkeypatch.chdir(tmp_path)
    with folders.held("runs/demo"):
        result = tfyolo_here("train", "runs/demo", "--resume")
        assert result.exit_code == 1 and f"runs/demo: process {os.getpid()} on " in result.stderr
        result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", "runs/demo")
        assert result.exit_code == 1 and "go on with its run by --resume" in result.stderr
    assert os.listdir("runs/demo") == ["last.h5"]


@pytest.mark.slow
def test_two_trainings_that_start_together_are_two_runs(data, tmp_path):
    arguments = ["train", ROOT / "configs" / "demo.yaml", f"data={data}", *TINY_RUN, stages(1), "train.seed=1"]
    both = [process(*arguments, cwd=tmp_path, stderr=subprocess.STDOUT) for _ in range(2)]
    assert [(command.communicate(), command.returncode)[1] for command in both] == [0, 0]
    for name in ("demo", "demo-2"):
        assert len((tmp_path / "runs" / name / "history.csv").read_text().splitlines()) == 2


# Of each family the largest, as it is but for the images' size.
LARGEST = {
    "yolov1": 128,
    "yolov3-spp": 96,
    "yolov4": 96,
    "yolov7x": 96,
    "yolov7-d6": 128,
    "yolov7-e6e": 128,
    "yolov8x": 96,
    "yolo11x": 96,
    "m2det800-vgg": 160,
    "cornernet-hg104": 128,
}
ONE_STEP = """
import resource, sys
import conftest, tensorflow as tf
from tfyolo import config, model
from tfyolo.training import steps
from tfyolo.training.optim import EMA, OPTIMIZERS
loaded = config.load(config.zoo(sys.argv[1]), [f"model.input_size={sys.argv[2]}"])
strategy = tf.distribute.get_strategy()
built = model.build(loaded, ("a", "b", "c"))
optimizer = OPTIMIZERS["adamw"](1e-3)
optimizer.build(built.network.trainable_variables)
sample = conftest.of_all_scales(loaded.model.input_size, batch=2)
spec = tf.data.Dataset.from_tensors(sample).element_spec
step = steps.make_step(built, optimizer, EMA(built.network, 0.0), strategy, spec)
before = built.network.trainable_variables[0].numpy()
figures = {name: float(value) for name, value in step(sample).items()}
assert all(value == value for value in figures.values()), figures
assert (built.network.trainable_variables[0].numpy() != before).any(), figures
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_a_training_step_of_each_family_fits_into_24_gib(name):
    command = [sys.executable, "-c", ONE_STEP, name, str(LARGEST[name])]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 24 * 1024


@pytest.mark.slow
def test_overfit_reaches_a_perfect_score(data, tmp_path):
    run = tfyolo("train", "configs/demo.yaml", f"data={data}", "--overfit", "4", "--out", tmp_path / "run")
    assert run.returncode == 0, run.stdout
    assert float(list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))[-1]["AP50"]) > 0.999


# The paper's own squared errors: a box that has shrunk to a point has no gradient of an overlap. Two boxes overlap by
# .65.
DARKNET53 = ["model.objective.box=squared", "model.postprocess.iou=0.7", "model.input_size=256"]


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [("yolov3", DARKNET53), ("m2det-small", []), ("cornernet-small", [])])
def test_eight_real_images_are_overfit(name, options, shared, tmp_path):
    """To AP50 .95: some decoders cannot tell all objects apart, such as that of corners in cells beside each other."""
    history, best = tmp_path / "run" / "history.csv", 0.0
    arguments = [f"data={shared / 'data' / 'coco-tiny'}", *options, "train.precision=bfloat16"]
    config = ROOT / "configs" / f"{name}.yaml"
    command = process("train", config, *arguments, "--overfit", "8", "--out", history.parent, stdout=subprocess.DEVNULL)
    while best <= 0.95 and command.poll() is None:
        time.sleep(5)
        if history.exists():
            best = max(float(row["AP50"]) for row in csv.DictReader(history.read_text().splitlines()))
    command.send_signal(signal.SIGINT)
    _, printed = command.communicate()
    assert best > 0.95, printed
