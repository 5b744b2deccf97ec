"""How long to train, and at which size: from the speed of this machine, measured."""

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tfyolo import config as configs
from tfyolo.training.callbacks import Callbacks
from tfyolo.training.job import Progress, prepared
from tfyolo.training.runs import Signals
from tfyolo.training.stages import build_stage

PROBE = 320  # pixels
SIZES = (640, 512, 416, 320, 256, 192)
FEWEST_EPOCHS, MOST_EPOCHS = 10, 100
EVALUATIONS = 4  # while it trains
EVALUATION = 0.03  # seconds an image, of what an evaluation does beside the network
RESERVE = 60.0  # seconds for the evaluation's graph, an export with its calibration and gate, and the sheet
MARGIN = 0.93  # of the time for training that is planned: later epochs may be slower than the steps that were timed


class Speed(NamedTuple):
    """How fast this machine is at PROBE pixels.

    Attributes:
        train: seconds an image, of a training step with all that belongs to it.
        start: seconds until the first step of a training is done.
    """

    train: float
    start: float


class Plan(NamedTuple):
    """What is trained.

    Attributes:
        size: of the input, in pixels.
        epochs: how many.
        images: how many images an epoch has.
        reserve: seconds for what comes after training.
    """

    size: int
    epochs: int
    images: int
    reserve: float


def measured(config) -> Speed:
    """Times a few steps of a config, with everything that a training does beside.

    Args:
        config: the Config, at PROBE pixels.

    Returns:
        Speed.
    """
    began = time.monotonic()
    config = config.model_copy(update={"train": config.train.model_copy(update={"init": None})})
    with tempfile.TemporaryDirectory() as folder:
        job = prepared(config, Path(folder), None, configs.to_json(config), Progress(), Callbacks(), Signals(), False)
        trainee = build_stage(job, Progress(), 0)
        float(trainee.step(next(trainee.batches))["loss"])  # traced; waits until it is done
        start = time.monotonic() - began
        steps, began = 0, time.monotonic()
        while steps < 3 or (steps < 10 and time.monotonic() - began < 3):
            float(trainee.step(next(trainee.batches))["loss"])
            steps += 1
        train = (time.monotonic() - began) / steps / job.config.train.batch
        return Speed(train, start)


def planned(speed, seconds, shares, start) -> Plan:
    """The Plan that fits into a time.

    Args:
        speed: Speed.
        seconds: for training and everything after it.
        shares: Shares.
        start: the Start.

    Returns:
        Plan; of the fewest epochs where nothing fits.
    """
    images, evaluated = len(shares.train.records), len(shares.val.records)

    def fitting(size, images):
        scale = (size / PROBE) ** 2
        each = EVALUATION + speed.train * scale / 3  # a forward pass, of the three that a step is worth
        reserve = RESERVE + each * len(shares.aside.records)
        left = (seconds - reserve - speed.start) * MARGIN - EVALUATIONS * (2 + each * evaluated)
        return Plan(size, max(0, int(left / (speed.train * scale * images))), images, reserve)

    sizes = [size for size in SIZES if size <= start.largest] or [SIZES[-1]]
    plans = [fitting(size, images) for size in sizes]
    plan = next((each for each in plans if each.epochs >= start.enough), None)
    plan = plan or next((each for each in reversed(plans) if each.epochs >= FEWEST_EPOCHS), None)
    if plan is None:  # too many images for the time
        size = min(sizes, key=lambda side: abs(side - 256))
        once = fitting(size, 1).epochs
        fewer = max(shares.train.records and 16, min(images, once // FEWEST_EPOCHS))
        plan = fitting(size, fewer)
    return plan._replace(epochs=min(max(plan.epochs, 1), MOST_EPOCHS))
