"""How long to train, and at which size: from the speed of this machine, measured."""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo.model import build
from tfyolo.training.clock import FORWARD_PASSES, guessed_evaluation
from tfyolo.training.fitting import EVALUATIONS

PROBE = 320  # pixels
SIZES = (640, 512, 416, 320, 256, 192)
FEWEST_EPOCHS, MOST_EPOCHS = 10, 100
# Seconds for an export with its calibration and gate, and the sheet: at least so many, and so many times what it takes
# to build the network and time it, which is as slow as the machine is busy.
RESERVE, RESERVED_PROBES = 65.0, 12.0
UNTIL_FIRST_STEP = 30.0  # seconds


class Plan(NamedTuple):
    """What is trained.

    Attributes:
        size: of the input, in pixels.
        epochs: about how many fit; training finds out by itself.
        images: how many images an epoch has.
        reserve: seconds for what comes after training.
    """

    size: int
    epochs: int
    images: int
    reserve: float


def seconds_an_image(config, classes) -> float:
    """Estimates how long a training step takes, from the time of a forward pass.

    Args:
        config: the Config, at PROBE pixels.
        classes: their names.

    Returns:
        Seconds for each image of the step.
    """
    network = build(config, classes, precision=config.train.precision).network
    forward = tf.function(lambda images: network(images, training=False), autograph=False)
    images = np.random.default_rng(0).random((config.train.batch, PROBE, PROBE, 3), "float32")
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        [each.numpy() for each in tf.nest.flatten(forward(images))]
        seconds.append(time.monotonic() - began)
    return FORWARD_PASSES * min(seconds) / config.train.batch


def planned(each, probed, seconds, shares, start) -> Plan:
    """The Plan that fits into a time.

    Args:
        each: seconds of a training step for each of its images, at PROBE pixels.
        probed: seconds that it took to find that out.
        seconds: for training and everything after it.
        shares: Shares.
        start: the Start.

    Returns:
        Plan; of the fewest epochs where nothing fits.
    """
    images, evaluated = len(shares.train.records), len(shares.val.records)

    def fitting(size, images):
        scale = (size / PROBE) ** 2
        reserve = max(RESERVE, RESERVED_PROBES * probed) + guessed_evaluation(len(shares.aside.records), each * scale)
        left = seconds - reserve - UNTIL_FIRST_STEP - EVALUATIONS * guessed_evaluation(evaluated, each * scale)
        return Plan(size, max(0, int(left / (each * scale * images))), images, reserve)

    sizes = [size for size in SIZES if size <= start.largest] or [SIZES[-1]]
    plans = [fitting(size, images) for size in sizes]
    plan = next((one for one in plans if one.epochs >= start.enough), None)
    plan = plan or next((one for one in reversed(plans) if one.epochs >= FEWEST_EPOCHS), None)
    if plan is None:  # too many images for the time
        size = min(sizes, key=lambda side: abs(side - 256))
        once = fitting(size, 1).epochs
        fewer = max(shares.train.records and 16, min(images, once // FEWEST_EPOCHS))
        plan = fitting(size, fewer)
    return plan._replace(epochs=min(max(plan.epochs, 1), MOST_EPOCHS))
