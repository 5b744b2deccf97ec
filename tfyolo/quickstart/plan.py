"""How long to train, and at which size: from the speed of this machine, measured."""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo.model import build
from tfyolo.training.clock import guessed_evaluation

PROBE = 320  # pixels
SIZES = (640, 512, 416, 320, 256, 192)
FEWEST_EPOCHS, MOST_EPOCHS = 10, 100
EVALUATIONS = 4  # while it trains
RESERVE = 60.0  # seconds for the evaluation's graph, an export with its calibration and gate, and the sheet
START = 30.0  # seconds until the first step is done
STEP = 4.0  # forward passes that a training step is worth, with the loader beside it


class Speed(NamedTuple):
    """How fast this machine is at PROBE pixels.

    Attributes:
        train: seconds an image of a training step, about: what a forward pass takes, times STEP. It chooses the size;
            how many epochs fit, training finds out by itself.
    """

    train: float


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


def measured(config, classes) -> Speed:
    """Times the network of a config in a forward pass.

    Args:
        config: the Config, at PROBE pixels.
        classes: their names.

    Returns:
        Speed.
    """
    network = build(config, classes, precision=config.train.precision).network
    forward = tf.function(lambda images: network(images, training=False), autograph=False)
    images = np.random.default_rng(0).random((config.train.batch, PROBE, PROBE, 3), "float32")
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        [each.numpy() for each in tf.nest.flatten(forward(images))]
        seconds.append(time.monotonic() - began)
    return Speed(STEP * min(seconds) / config.train.batch)


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
        reserve = RESERVE + guessed_evaluation(len(shares.aside.records), speed.train * scale)
        left = seconds - reserve - START - EVALUATIONS * guessed_evaluation(evaluated, speed.train * scale)
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
