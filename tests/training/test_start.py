"""A run that is initialised from weights for its very classes: they are its best until an epoch is better."""

from types import SimpleNamespace

import conftest
import numpy as np
import pytest

import tfyolo
from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.training import train as training

STAGE = "train.stages=[{epochs: 2, lr: 0.001, plain_epochs: 2}]"


@pytest.fixture
def evaluations(monkeypatch):
    """The APs that the next evaluations find, one after the other."""
    found = []

    def evaluate_share(*_):
        ap = found.pop(0)
        metrics = {"AP": ap, "AP50": ap, "AP75": ap}
        return SimpleNamespace(metrics=metrics, batch=4, score=float("nan"), unexpected=[]), 4

    monkeypatch.setattr(training, "evaluate_share", evaluate_share)
    return found


def trained(demo_records, folder, *overrides):
    tiny = [*conftest.TINY, STAGE, "train.evaluate_every=1", "train.draw_images=0"]
    config = configs.load(conftest.ROOT / "configs" / "demo.yaml", [f"data={demo_records[0]}", *tiny, *overrides])
    return tfyolo.train(config, folder, progress=False)


def weights(folder):
    return checkpoint.load(folder / "best.h5", checkpoint.FOR_USE)[1]


@pytest.mark.slow
def test_an_epoch_takes_their_place_only_if_it_is_better(demo_records, evaluations, tmp_path, capsys):
    evaluations[:] = [0.1, 0.2]
    first = trained(demo_records, tmp_path / "first")
    assert first.metrics["epoch"] == 2 and not evaluations  # nothing is evaluated before random weights are trained
    init = f"train.init={first.folder}"
    evaluations[:] = [0.2, 0.15, 0.1]
    worse = trained(demo_records, tmp_path / "worse", init)
    assert worse.metrics == {"epoch": 0, "AP": 0.2, "AP50": 0.2, "AP75": 0.2}
    kept, began = weights(worse.folder), weights(first.folder)
    for name, array in began.items():
        np.testing.assert_array_equal(kept[name], array)
    assert checkpoint.read_meta(worse.folder / "best.h5")["epoch"] == 0
    assert len((worse.folder / "history.csv").read_text().splitlines()) == 1 + 2
    evaluations[:] = [0.2, 0.3, 0.1]
    assert trained(demo_records, tmp_path / "better", init).metrics["epoch"] == 1
    evaluations[:] = [0.0, 0.0, 0.0]  # they detect nothing: nothing to keep
    assert trained(demo_records, tmp_path / "nothing", init).metrics["epoch"] == 1
