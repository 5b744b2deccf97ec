"""Runs that are stopped, by signals or killed, go on to the run that was never stopped."""

import csv
import functools
import gc
import json
import os
import signal
import subprocess
import time

import conftest
import h5py
import numpy as np
import pytest
from conftest import ROOT, TINY_RUN, process, stages, strategy_of, tfyolo, tfyolo_here

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.cli import train
from tfyolo.training import job, runs
from tfyolo.training import stages as stages_module
from tfyolo.training import train as training


@pytest.fixture
def usual_signals():
    """What a terminal gives a process; one in the background of a script ignores SIGINT."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_raises_or_waits_and_is_not_lost(usual_signals, capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    gc.collect()  # a __del__ would swallow what a signal raises in it
    for number in (signal.SIGINT, signal.SIGTERM):
        with runs.Signals() as signals:
            signals.check()
            with pytest.raises(KeyboardInterrupt):  # which something may swallow, such as a __del__
                os.kill(os.getpid(), number)
                time.sleep(1)
            with pytest.raises(KeyboardInterrupt):
                signals.check()
            assert signals.received == number
        assert not capfd.readouterr().err
        with runs.Signals() as signals:
            with signals.finishing():
                for _ in range(3 if number == signal.SIGTERM else 1):
                    os.kill(os.getpid(), number)
                    time.sleep(0.01)
                # A first step may take minutes: a line says so, once.
                line = "\nstopping when the running step is done; Ctrl-C again stops at once\n"
                assert capfd.readouterr() == ("", line)
                with pytest.raises(KeyboardInterrupt):  # Ctrl-C, once more
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)
            assert signals.received == number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- stopped and resumed ----------------------------------------------------------------------------------------------


GROUPS = ("weights", "averages", "optimizer", "random")


def assert_same_run(left, right):
    """Two runs' folders hold the same, to the last bit; only times differ."""
    metas, files = [], []
    for folder in (left, right):
        meta, *groups = checkpoint.load(folder / "last.h5", *GROUPS)
        metas.append({name: meta[name] for name in ("state", "overfit", "classes")})
        files.append({f"{group}/{name}": array for group, arrays in zip(GROUPS, groups, strict=True)
                      for name, array in arrays.items()})  # fmt: skip
        _, best = checkpoint.load(folder / "best.h5", "weights")
        files[-1] |= {f"best/{name}": array for name, array in best.items()}
    assert metas[0] == metas[1] and files[0].keys() == files[1].keys()
    for name, array in files[0].items():
        np.testing.assert_array_equal(array, files[1][name], err_msg=name)
    rows = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (left, right)]
    for row in (*rows[0], *rows[1]):
        assert float(row.pop("seconds")) > 0 and float(row.pop("images_per_second")) > 0
    assert rows[0] == rows[1]


def signalled(monkeypatch, what, count, *numbers):
    """This process gets signals at the n-th call of one of training's functions; "step": when n steps are done."""
    calls = []

    def count_call():
        calls.append(True)
        for number in numbers if len(calls) == count else ():
            os.kill(os.getpid(), number)

    def called(*args, **kwargs):
        count_call()
        return real(*args, **kwargs)

    def made(*args, **kwargs):
        step = real(*args, **kwargs)
        return lambda *sample: (step(*sample), count_call())[0]

    place, name = (stages_module, "make_step") if what == "step" else (training, what)
    real = getattr(place, name)
    monkeypatch.setattr(place, name, made if what == "step" else called)


@pytest.mark.slow
def test_the_command_that_a_scheduler_repeats_ends_with_the_run_that_was_never_stopped(
    demo_run, demo_records, tmp_path, monkeypatch
):
    """Of one epoch of two steps; the process gets two signals, as schedulers send them, to end after the first."""
    whole, _ = demo_run
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    settings = [f"data={demo_records[0]}", *conftest.TINY, stage]
    again = ["train", ROOT / "configs" / "demo.yaml", *settings, "--out", tmp_path / "run", "--resume"]
    with monkeypatch.context() as patch:
        signalled(patch, "step", 1, signal.SIGTERM, signal.SIGTERM)
        stopped = tfyolo_here(*again)
    assert stopped.exit_code == train.RESUME == 75 and f"{tmp_path / 'run'} --resume` goes on" in stopped.stderr
    state = checkpoint.read_meta(tmp_path / "run" / "last.h5")["state"]
    assert (state["epoch"], state["running"]["step"]) == (0, 1) and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    models.load_model(tmp_path / "run")  # it can be used meanwhile
    again[again.index(stage)] = stage.replace("0.001", "0.002")
    resumed = tfyolo_here(*again)
    assert resumed.exit_code == 0 and "after epoch 0 of 1 and 1 step of the next" in resumed.stdout
    assert "other now, and not used: train.stages.0.lr\n" in resumed.stderr
    assert_same_run(whole, tmp_path / "run")
    finished = tfyolo_here(*again)
    assert finished.exit_code == 0 and "nothing is left to train" in finished.stderr


@pytest.mark.slow
def test_a_run_that_saves_within_its_epochs_loses_no_more_than_the_steps_since(
    demo_run, demo_records, tmp_path, monkeypatch
):
    """It crashes in the second of two steps, as a power cut would have it: no handler runs."""
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    settings = [f"data={demo_records[0]}", *conftest.TINY, stage, "train.save_minutes=0.000001"]
    config, steps = configs.load(ROOT / "configs" / "demo.yaml", settings), []

    def made(*args, **kwargs):
        step = real(*args, **kwargs)

        def crashing(*sample):
            steps.append(1)
            assert len(steps) < 2, "a power cut"
            return step(*sample)

        return crashing

    real = stages_module.make_step
    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "make_step", made)
        with pytest.raises(AssertionError, match="a power cut"):
            training.train(config, tmp_path / "run", progress=False)
    state = checkpoint.read_meta(tmp_path / "run" / "last.h5")["state"]
    assert (state["epoch"], state["running"]["step"]) == (0, 1)
    training.train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(demo_run[0], tmp_path / "run")  # which saved at the end of its epoch alone


# Where a signal comes: (what is waited for, how often), which signal, and what is then kept: (epochs, steps of the
# next).
PLACES = {
    "first step": ("step", 1, signal.SIGTERM, (0, 1)),
    "last step of an epoch": ("step", 3, signal.SIGINT, (0, 3)),
    "second epoch": ("step", 5, signal.SIGTERM, (1, 2)),
    "second stage": ("step", 1 + 6, signal.SIGTERM, (2, 1)),
    "evaluation": ("evaluate", 1, signal.SIGTERM, (1, 3)),
    "pictures": ("draw_detections", 1, signal.SIGTERM, (1, 3)),
    "what is kept": ("_keep_epoch", 2, signal.SIGINT, (2, 0)),
    "the second Ctrl-C": ("step", 5, "twice", (1, 0)),
}
KINDS_STOPPED = {
    "plain": PLACES,
    "two replicas": ["second epoch", "evaluation"],
    "eager, in parts": ["second stage"],
    "all sizes": ["first step", "second epoch"],
}
SETTINGS = {
    "eager, in parts": ["train.eager=true", "train.optimizer={name: sgd, warmup_momentum: 0.5}", "train.accumulate=2"],
    "all sizes": ["train.ema=0"],
}


@pytest.fixture(scope="module")
def never_stopped(data, tmp_path_factory):
    """A kind of KINDS_STOPPED -> (its config, its run, which was never stopped)."""

    @functools.cache
    def trained(kind):
        plan = stages(2, 1).replace("plain", "multi_scale: 0.5, plain") if kind == "all sizes" else stages(2, 1)
        config = configs.load(
            ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN, plan, *SETTINGS.get(kind, ())]
        )
        return config, training.train(config, tmp_path_factory.mktemp("whole") / "run", progress=False)

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("kind, place", [(kind, place) for kind, places in KINDS_STOPPED.items() for place in places])
def test_wherever_it_is_stopped_it_goes_on_to_the_run_that_was_never_stopped(
    kind, place, never_stopped, tmp_path, monkeypatch
):
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2 if kind == "two replicas" else 1))
    config, whole = never_stopped(kind)
    what, count, number, kept = PLACES[place]
    out, numbers = tmp_path / "run", (signal.SIGINT,) * 2 if number == "twice" else (number,)
    with monkeypatch.context() as patch:
        signalled(patch, what, count, *numbers)
        with pytest.raises(runs.Stopped) as stop:
            training.train(config, out, resume=True, progress=False)
    assert (stop.value.folder, stop.value.epochs, stop.value.signal) == (out, kept[0], numbers[0])
    state = checkpoint.read_meta(out / "last.h5")["state"]
    assert (state["epoch"], state.get("running", {}).get("step", 0)) == kept
    assert training.train(config, out, resume=True, progress=False).metrics == whole.metrics
    assert_same_run(whole.folder, out)
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_loop_that_is_killed_at_any_moment_comes_to_the_run_that_was_never_stopped(seed, data, tmp_path):
    """By SIGTERM and SIGKILL in turns, from before TensorFlow's start to after the last epoch; seeded."""
    rng = np.random.default_rng(seed)
    arguments = ["train", "configs/demo.yaml", f"data={data}", *TINY_RUN, stages(2, 2)]
    whole = tfyolo(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout
    codes, begun = [], time.monotonic()
    alone = tfyolo(*arguments, "--out", tmp_path / "timed")
    assert alone.returncode == 0
    longest = time.monotonic() - begun
    while not codes or codes[-1] != 0:
        assert len(codes) < 40, codes
        command = process(*arguments, "--out", tmp_path / "run", "--resume", cwd=ROOT, stderr=subprocess.STDOUT)
        try:
            command.communicate(timeout=rng.uniform(0.1, 1.2) * longest)
        except subprocess.TimeoutExpired:
            command.send_signal((signal.SIGTERM, signal.SIGKILL)[len(codes) % 2])
            printed, _ = command.communicate(timeout=60)
            assert "Traceback" not in printed
        codes.append(command.returncode)
    assert set(codes) <= {0, train.RESUME, -signal.SIGTERM, -signal.SIGKILL}, codes
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))


def test_what_a_killed_run_has_begun_is_begun_anew_and_nothing_else(data, tmp_path, monkeypatch):
    """As kill -9 leaves it in the first epoch. Where somebody may want what lies there, it is not touched."""
    begun = ["config.yaml", "train_batch.png", ".config.99999.tmp.yaml", ".last.99999.tmp.h5", folders.LOCK]

    def leave(name, *more, but=()):
        (tmp_path / name / "tensorboard").mkdir(parents=True)
        for file in {*begun, *more} - set(but):
            (tmp_path / name / file).write_text("left")
        return tmp_path / name

    def reached(config, folder, *_):
        raise runs.TrainingError(f"begun with {sorted(os.listdir(folder))}")

    monkeypatch.setattr(training, "_train", reached)
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY_RUN])
    with pytest.raises(runs.TrainingError, match=rf"begun with \['{folders.LOCK}'\]"):
        training.train(config, leave("killed"), resume=True)
    assert not os.listdir(tmp_path / "killed")
    for name, more, but in (
        ("with notes", ["notes.txt"], []),
        ("an import", ["best.h5"], ["train_batch.png", *begun[2:]]),  # which holds no lock, and is whole
        ("somebody's config", [], [folders.LOCK]),
    ):
        folder = leave(name, *more, but=but)
        before = sorted(os.listdir(folder))
        with pytest.raises(folders.Taken, match="expected a new or empty folder, it holds something already"):
            training.train(config, folder, resume=True)
        assert sorted(os.listdir(folder)) == before
    with folders.held(leave("running")), pytest.raises(folders.Taken, match=f"process {os.getpid()} on "):
        training.train(config, tmp_path / "running", resume=True)
    with pytest.raises(folders.Taken, match="go on with its run by --resume"):
        training.train(config, leave("not asked"))
    with pytest.raises(runs.TrainingError, match=r"no run there to resume; expected .* or the config with it"):
        training.train(None, tmp_path / "nothing", resume=True)


def test_sigterm_is_the_handlers_that_somebody_has_set(data, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(training, "_train", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    try:
        training.train(configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}"]), tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [True]


@pytest.mark.slow
@pytest.mark.parametrize("epochs, kill_after", [((3,), 1), pytest.param((2, 3), 3, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_very_run_that_was_never_stopped(epochs, kill_after, data, tmp_path):
    """With kill -9; the second time in the second of two stages."""
    arguments = ["train", "configs/demo.yaml", f"data={data}", *TINY_RUN, stages(*epochs)]
    whole = tfyolo(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout
    killed = process(*arguments, "--out", tmp_path / "killed", cwd=ROOT)
    last = tmp_path / "killed" / "last.h5"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = checkpoint.read_meta(last)["state"]["epoch"] if last.exists() else 0
        if done >= kill_after or killed.poll() is not None:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    if len(epochs) == 1:  # as earlier versions wrote it, which did not know how many steps the EMA holds
        with h5py.File(last, "r+") as file:
            meta = json.loads(file["meta"][()])
            assert meta["state"].pop("averaged") > 0
            file["meta"][()] = json.dumps(meta)
    resumed = tfyolo("train", tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    again = tfyolo_here(*arguments, "--out", tmp_path / "whole")
    assert again.exit_code == 1 and "holds something already" in again.output
