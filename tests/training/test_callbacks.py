"""What is called as a run is trained, and how metrics come from the device."""

import csv
import itertools
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

import tfyolo
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.training import metrics as metrics_module
from tfyolo.training import runs
from tfyolo.training import train as training
from tfyolo.training.callbacks import Callbacks
from tfyolo.training.metrics import EpochMetrics

# --- callbacks --------------------------------------------------------------------------------------------------------


class Recorder:
    """Remembers what it was called with, and what was there when; stops after an epoch, or fails in it."""

    def __init__(self, stop=None, fail=None):
        self.calls, self.stop, self.fail, self.kept = [], stop, fail, []

    def on_begin(self, folder, config):
        self.folder = folder
        self.calls.append(("begin", folder, config.name))

    def on_epoch_end(self, row):
        self.calls.append(("epoch", row))
        self.kept.append(checkpoint.read_meta(self.folder / "last.h5")["state"]["epoch"])
        if row["epoch"] == self.stop:
            raise tfyolo.StopTraining
        if row["epoch"] == self.fail:
            raise ZeroDivisionError("the callback's own")

    def on_end(self, run):
        self.calls.append(("end", run))


def history(folder):
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


@pytest.fixture
def config(demo_records):
    stage = "train.stages=[{epochs: 3, lr: 0.001, plain_epochs: 1}]"
    overrides = [f"data={demo_records[0]}", *conftest.TINY, stage, "train.evaluate_every=2", "train.draw_images=0"]
    return configs.load(ROOT / "configs" / "demo.yaml", overrides)


def same(row, written):
    """Whether a row is that of history.csv, but for six digits."""
    assert set(row) <= set(written) and all(written[name] == "" for name in set(written) - set(row))
    return all(float(written[name]) == pytest.approx(value, rel=1e-5, nan_ok=True) for name, value in row.items())


@pytest.mark.slow
def test_callbacks_see_the_rows_of_history_and_one_of_them_stops_the_run_cleanly(config, tmp_path):
    first, rows, last = Recorder(stop=2), [], Recorder()

    def spoil(row):  # a function sees a row of its own
        rows.append(dict(row))
        row.clear()

    run = tfyolo.train(config, tmp_path / "run", progress=False, callbacks=[first, spoil, last])
    assert [call[0] for call in first.calls] == ["begin", "epoch", "epoch", "end"]
    assert first.calls[0] == ("begin", tmp_path / "run", "demo") and first.calls[-1] == ("end", run)
    assert first.kept == [1, 2]  # the epoch can be read from last.h5
    assert last.calls == first.calls  # those after it see the last epoch, too
    written = history(run.folder)
    assert len(rows) == len(written) == 2 and all(map(same, rows, written))
    assert [row["epoch"] for row in rows] == [1, 2] and ["AP50" in row for row in rows] == [False, True]
    (events,) = (run.folder / "tensorboard").iterdir()  # the same rows, but for what counts
    scalars = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            scalars[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    expected = {(row["epoch"], name): v for row in rows for name, v in row.items() if isinstance(v, float)}
    assert scalars.keys() == expected.keys()
    np.testing.assert_allclose([scalars[key] for key in expected], list(expected.values()), rtol=1e-6)
    assert run.metrics["epoch"] == 2 and checkpoint.read_meta(run.folder / "best.h5")["epoch"] == 2

    resumed = Recorder(fail=3)
    with pytest.raises(ZeroDivisionError, match="the callback's own"):
        tfyolo.train(None, run.folder, resume=True, progress=False, callbacks=[resumed])
    assert [call[0] for call in resumed.calls] == ["begin", "epoch"] and len(history(run.folder)) == 3  # and is kept
    nothing = Recorder()
    tfyolo.train(None, run.folder, resume=True, progress=False, callbacks=[nothing])
    assert nothing.calls == []


@pytest.mark.slow
def test_a_run_that_is_stopped_before_its_first_evaluation_has_no_metrics(config, tmp_path):
    run = training.train(config, tmp_path / "run", progress=False, callbacks=[Recorder(stop=1)])
    assert run.metrics == {} and not (run.folder / "best.h5").exists()
    tfyolo.load_model(run.folder)


class Misspelled:
    def on_epoch_ends(self, row):
        pass


@pytest.mark.parametrize(
    "callbacks, words",
    [
        ([print, 3], r"callbacks\[1\]: expected a function .* on_begin, on_epoch_end, on_end, received 3"),
        ([Misspelled()], r"callbacks\[0\]: .* received a Misspelled with on_epoch_ends, never called here"),
        ([Recorder], r"received the class Recorder; write Recorder\(\)"),
        (print, r"callbacks: expected a list .* write callbacks=\[\.\.\.\]"),
    ],
)
def test_what_is_no_callback_is_an_error_before_anything_is_read(callbacks, words, tmp_path):
    with pytest.raises(runs.TrainingError, match=words):
        training.train("demo", tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_an_object_with_hooks_that_can_be_called_is_not_called_itself():
    class Both(Recorder):
        def __call__(self, row):
            raise AssertionError

        def on_epoch_end(self, row):
            raise tfyolo.StopTraining

    assert Callbacks([Both()]).epoch_end({"epoch": 1}) and not Callbacks([print]).epoch_end({})


# --- metrics ----------------------------------------------------------------------------------------------------------


STRATEGY = SimpleNamespace(experimental_local_results=lambda value: (value[:1], value[1:]))


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a test says so."""
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(metrics_module.time, "monotonic", lambda: now.value)
    return now


def taken(metrics, number, loss=0.1, seconds=0.0, clock=None):
    values = {"loss": tf.constant(loss), "box": tf.constant(2 * loss), "gradient_norm": tf.constant(3.0)}
    sample = SimpleNamespace(image_id=np.array([2 * number, 2 * number + 1]))
    metrics.take(lambda sample, size: values, number, sample, None, STRATEGY)
    if clock:
        clock.value += seconds


SOURCE = SimpleNamespace(records=[SimpleNamespace(path=f"{i}.jpg") for i in range(60)])


@pytest.mark.parametrize("seconds, expected", [(0.0, [1, 10, 10, 3]), (0.25, [1, 4, 4, 4, 4, 4, 3]), (3.0, [1] * 24)])
def test_metrics_are_fetched_every_ten_steps_or_every_second_by_one_copy(seconds, expected, clock, monkeypatch):
    copies, stack = [], tf.stack
    monkeypatch.setattr(metrics_module.tf, "stack", lambda values: copies.append(len(values)) or stack(values))
    metrics, fetched, losses = EpochMetrics(1, SOURCE), [], []
    for number in range(1, 25):
        losses.append(float(np.float32(0.1 * number)))
        taken(metrics, number, losses[-1], seconds, clock)
        if metrics.due:
            fetched.append(metrics.fetch())
    if more := metrics.fetch():
        fetched.append(more)
    assert fetched == expected and copies == [3 * count for count in expected] and metrics.fetch() == 0
    assert metrics.step == 24 and metrics.sums["loss"] == list(itertools.accumulate(losses))[-1]  # to the last bit


def test_a_stopped_epoch_goes_on_with_its_sums(clock):
    whole, part = EpochMetrics(1, SOURCE), EpochMetrics(1, SOURCE)
    for number in range(1, 8):
        taken(whole, number, 0.1 * number)
    whole.fetch()
    for number in range(1, 4):
        taken(part, number, 0.1 * number)
    part.fetch()
    clock.value += 5
    rest = EpochMetrics(1, SOURCE, part.running())
    assert (rest.first, rest.seconds) == (3, 5.0)
    for number in range(4, 8):
        taken(rest, number, 0.1 * number)
    rest.fetch()
    assert rest.sums == whole.sums and rest.step == 7


def test_a_nan_is_named_by_its_own_step_and_images_though_later_ones_are_done():
    metrics = EpochMetrics(4, SOURCE)
    for number in range(1, 8):
        taken(metrics, number, np.nan if number in (3, 5) else 0.1)
    with pytest.raises(runs.TrainingError) as error:
        metrics.fetch()
    assert "epoch 4, step 3: loss, box became nan" in str(error.value)
    assert str(error.value).endswith("The step's images: 6.jpg, 7.jpg") and metrics.step == 0


def test_a_signal_within_a_step_leaves_the_epoch_as_not_whole():
    metrics = EpochMetrics(1, SOURCE)

    def interrupted(sample, size):
        raise KeyboardInterrupt

    taken(metrics, 1)
    with pytest.raises(KeyboardInterrupt):
        metrics.take(interrupted, 2, None, None, STRATEGY)
    assert not metrics.whole
