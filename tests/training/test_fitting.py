"""train.minutes: as many epochs as fit."""

import csv

import conftest
import numpy as np
import pytest

import tfyolo
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.config import ConfigError
from tfyolo.training.clock import Clock
from tfyolo.training.fitting import MARGIN, every, with_epochs

FEW_STEPS = (*conftest.TINY, "train.evaluate_every=2", "train.draw_images=0")


def config_of(demo_records, *overrides):
    return configs.load(conftest.ROOT / "configs" / "demo.yaml", [f"data={demo_records[0]}", *FEW_STEPS, *overrides])


def stages(epochs, plain):
    return f"train.stages=[{{epochs: {epochs}, lr: 0.001, warmup: 1, plain_epochs: {plain}}}]"


@pytest.fixture
def machine(monkeypatch):
    """A machine on which an epoch of training takes 60 seconds, whatever it has of images, and evaluation none."""
    clock = {"used": 60.0}
    monkeypatch.setattr(Clock, "used", property(lambda self: clock["used"]))
    monkeypatch.setattr(Clock, "evaluation", lambda self, images, training: 0.0)

    def of(config, sources, epochs_done, steps_done):
        steps = -(-len(sources[0][0].records) // config.train.batch)
        height, width = config.model.input_size
        left = sum(stage.epochs for stage in config.train.stages) - epochs_done
        made = Clock([(left * steps, height * width)], 0)
        rate = 60.0 / (steps * height * width)
        made.step = lambda pixels: setattr(made, "timed", 1.0) or setattr(made, "rate", rate)
        return made

    monkeypatch.setattr(Clock, "of", of)
    return clock


@pytest.mark.slow
def test_a_run_within_a_budget_is_bit_for_bit_the_run_of_so_many_epochs(demo_records, machine, tmp_path, capsys):
    budget = 1 + 3.01 / MARGIN  # the first epoch is done by then
    run = tfyolo.train(config_of(demo_records, stages(12, 6), f"train.minutes={budget}"), tmp_path / "fitted")
    assert "4 of 12 epochs fit" in capsys.readouterr().out
    # Four of its six evaluations stay: one an epoch.
    same = config_of(demo_records, stages(4, 2), "train.evaluate_every=1")
    same = tfyolo.train(same, tmp_path / "given", progress=False)
    saved = [checkpoint.load_run(each.folder / "last.h5")[1] for each in (run, same)]
    for name in ("weights", "averages", "optimizer"):
        for key, value in saved[0][name].items():
            np.testing.assert_array_equal(value, saved[1][name][key], err_msg=key)
    kept = configs.load(run.folder / "config.yaml").train
    assert kept.minutes is None and (kept.stages[0].epochs, kept.stages[0].plain_epochs) == (4, 2)
    rows = [list(csv.DictReader((each.folder / "history.csv").read_text().splitlines())) for each in (run, same)]
    assert [row["AP50"] for row in rows[0]] == [row["AP50"] for row in rows[1]] and len(rows[0]) == 4
    assert run.metrics == same.metrics


@pytest.mark.slow
@pytest.mark.parametrize("minutes, epochs", [(0.5, 1), (1.0, 1), (30, 3)])
def test_there_is_one_epoch_at_least_and_as_many_as_given_at_most(demo_records, machine, minutes, epochs, tmp_path):
    class Stop:
        def on_epoch_end(self, row):
            raise tfyolo.StopTraining

    config = config_of(demo_records, stages(3, 1), f"train.minutes={minutes}")
    run = tfyolo.train(config, tmp_path / "run", progress=False, callbacks=[Stop()])
    stage = configs.load(run.folder / "config.yaml").train.stages[0]
    assert stage.epochs == epochs and stage.plain_epochs == max(1, round(epochs / 3))


@pytest.mark.slow
def test_all_stages_share_a_budget(demo_records, machine, tmp_path):
    both = "train.stages=[{epochs: 8, lr: 0.001, plain_epochs: 0}, {epochs: 4, lr: 0.0001, plain_epochs: 4}]"
    budget = 1 + 5.6 / MARGIN  # half of the eleven that are left
    run = tfyolo.train(config_of(demo_records, both, f"train.minutes={budget}"), tmp_path / "run", progress=False)
    kept = configs.load(run.folder / "config.yaml").train.stages
    assert [(stage.epochs, stage.plain_epochs) for stage in kept] == [(4, 0), (2, 2)]
    assert len((run.folder / "history.csv").read_text().splitlines()) == 1 + 6


@pytest.mark.slow
def test_a_stopped_run_goes_on_within_the_plan_that_it_had_made(demo_records, machine, tmp_path):
    class Stop:
        def on_epoch_end(self, row):
            raise tfyolo.StopTraining

    # Three epochs of warm-up are more than a third of what fits: it gets shorter with the plan.
    plan = "train.stages=[{epochs: 12, lr: 0.001, warmup: 3, plain_epochs: 6}]"
    optimizer = "train.optimizer={name: sgd, warmup_momentum: 0.5, warmup_bias_lr: 0.01}"
    config = config_of(demo_records, plan, optimizer, f"train.minutes={1 + 2.01 / MARGIN}")
    whole = tfyolo.train(config, tmp_path / "whole", progress=False)
    tfyolo.train(config, tmp_path / "run", progress=False, callbacks=[Stop()])
    machine["used"] = 1e6  # it does not matter any more
    run = tfyolo.train(config, tmp_path / "run", resume=True, progress=False)
    assert len((run.folder / "history.csv").read_text().splitlines()) == 1 + 3
    first, second = (checkpoint.load_run(each.folder / "last.h5")[1]["weights"] for each in (whole, run))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_a_budget_is_a_positive_number(demo_records, value):
    with pytest.raises(ConfigError, match=r"train\.minutes: expected a number > 0"):
        config_of(demo_records, f"train.minutes={value}")


def test_some_plain_epochs_stay():
    stage = configs.Stage(epochs=30, lr=0.1, plain_epochs=3)
    assert [with_epochs(stage, epochs).plain_epochs for epochs in (1, 5, 30, 60)] == [1, 1, 3, 6]


def test_a_guessed_evaluation_is_of_single_images():
    """A batch of 8 in a second, 80 images: each takes a quarter of 1/8 s and .03 s, and 2 s come first."""
    clock = Clock([(100, 64 * 64)], 4)
    for _ in range(3):
        clock.step(64 * 64)
    clock.rate = 1 / (64 * 64)
    assert clock.evaluation(80, clock.rate * 64 * 64 / 8) == pytest.approx(2 + 80 * (0.03 + 1 / 32))
    clock.evaluated(50.0)  # it has traced
    assert clock.evaluation(80, 0.125) == pytest.approx(2 + 80 * (0.03 + 1 / 32))
    clock.evaluated(5.0)
    assert clock.evaluation(80, 0.125) == 5.0


@pytest.mark.parametrize(
    "given, evaluate_every, fit, expected",
    [(100, 25, 10, 2), (100, 25, 3, 1), (100, 5, 10, 2), (100, 5, 40, 5), (100, 100, 10, 10)],
)
def test_a_run_that_is_cut_short_is_evaluated_still(given, evaluate_every, fit, expected):
    stages = [configs.Stage(epochs=fit, lr=0.1)]
    train = configs.Train(stages=(configs.Stage(epochs=given, lr=0.1),), evaluate_every=evaluate_every)
    assert every(train, stages) == expected
