"""The metrics of an epoch's steps: left on the device, fetched several steps at a time, summed here."""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfyolo.training.runs import TrainingError

# A fetch waits until the device has caught up, and leaves it idle until the next step arrives: ten steps make that
# little. One second keeps the progress bar alive, and a signal from waiting for more steps than the running one.
FETCH_STEPS, FETCH_SECONDS = 10, 1.0


class _Step(NamedTuple):
    number: int  # counts from 1 in its epoch
    values: dict  # {name: scalar tensor}
    image_ids: tuple  # of each replica, [B / replicas]


class Agreement:
    """What each worker says with a step, so that all conclude the same of the sums: when to fetch, and when to stop.

    Args:
        signals: the worker's Signals.
        replicas: how many devices all workers train on.

    Attributes:
        said: {"signals", "seconds"}, what make_step() takes.
    """

    def __init__(self, signals, replicas):
        self.signals, self.replicas = signals, replicas
        self.said = {name: tf.Variable(0.0, trainable=False) for name in ("signals", "seconds")}

    def say(self, seconds):
        """Before a step.

        Args:
            seconds: a step's here; 0: not known yet.
        """
        self.said["signals"].assign(self.signals.received is not None)
        self.said["seconds"].assign(seconds)

    def take(self, values):
        """Takes what was said out of a step's sums. Returns the mean seconds of a step, 0 if none are known."""
        if values.pop("signals"):
            self.signals.agreed = True
        return values.pop("seconds") / self.replicas


class EpochMetrics:
    """How far an epoch is: the steps done, the sums of their metrics, the seconds spent.

    Args:
        epoch: its number, from 1.
        source: the Source whose records the image ids of a sample count.
        running: what a stopped run has kept of the epoch: {"step", "sums", "lr", "seconds"}; None: it begins.
        agreement: the Agreement with other workers; None: there are none.

    Attributes:
        first: how many steps were done before.
        lr: the learning rate of the epoch's last step; None before that.
        whole: whether weights, optimizer and EMA have all taken in the same steps; False while a step runs.
    """

    def __init__(self, epoch, source, running=None, agreement=None):
        running = running or {"step": 0, "sums": {}, "lr": None, "seconds": 0.0}
        self.epoch, self.source = epoch, source
        self.first, self.lr, self.whole = running["step"], running["lr"], True
        self._fetched = self.first, running["sums"]  # one attribute: a signal finds both or neither changed
        self._on_device = []
        self._fetched_at = time.monotonic()
        self._began = self._fetched_at - running["seconds"]
        self._interval, self._seconds, self.agreement = 1, 0.0, agreement

    @property
    def step(self):
        """How many steps are in `sums`."""
        return self._fetched[0]

    @property
    def sums(self):
        """{name: sum over these steps}, Python floats added in the order of the steps."""
        return self._fetched[1]

    @property
    def seconds(self):
        """How many seconds the epoch has taken so far, those before a stop included."""
        return time.monotonic() - self._began

    def take(self, step, number, sample, size, strategy):
        """Takes one step, whose metrics stay on the device.

        Args:
            step: what make_step() returns.
            number: the step's, from 1 in this epoch.
            sample: the distributed batch.
            size: (H, W) to which the step brings the images; None: they stay as they are.
            strategy: the tf.distribute strategy.
        """
        self.whole = False
        if self.agreement:
            self.agreement.say(self._seconds)
        values = step(sample, size)
        # The ids alone are kept to name a step's images by: the images themselves are large.
        self._on_device.append(_Step(number, values, strategy.experimental_local_results(sample.image_id)))
        self.whole = True

    @property
    def due(self):
        """Whether it is time to fetch: for several workers at the same step."""
        waited = 0 if self.agreement else time.monotonic() - self._fetched_at
        return len(self._on_device) >= self._interval or waited >= FETCH_SECONDS

    def fetch(self):
        """Adds to the sums what lies on the device, which takes one copy.

        Returns:
            How many steps these were.

        Raises:
            TrainingError: a value is not finite; it names the first step that has one, and the step's images.
        """
        before, sums = self._fetched
        steps = [step for step in self._on_device if step.number > before]
        if not steps:
            return 0
        names = list(steps[0].values)
        table = tf.stack([step.values[name] for step in steps for name in names]).numpy().reshape(len(steps), -1)
        for step, row in zip(steps, table.tolist(), strict=True):
            values = dict(zip(names, row, strict=True))
            agreed = self.agreement.take(values) if self.agreement else None
            self._check_finite(values, step)
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        self._fetched = steps[-1].number, sums
        self._on_device.clear()
        # The device is idle now, so that this is what a step takes, and not what it takes to ask for one.
        now = time.monotonic()
        self._seconds = max((now - self._fetched_at) / len(steps), 1e-6)
        seconds = self._seconds if agreed is None else agreed or FETCH_SECONDS
        self._interval = min(FETCH_STEPS, max(1, int(FETCH_SECONDS / seconds)))
        self._fetched_at = now
        return len(steps)

    def running(self):
        """What a stopped run keeps of the epoch: {"step", "sums", "lr", "seconds"} of the steps that are fetched."""
        return {"step": self.step, "sums": self.sums, "lr": self.lr, "seconds": self.seconds}

    def _check_finite(self, values, step):
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if not bad:
            return
        ids = np.concatenate([np.ravel(part) for part in step.image_ids])
        files = ", ".join(self.source.records[record].path for record in ids[:16])
        raise TrainingError(
            f"epoch {self.epoch}, step {step.number}: {', '.join(bad)} became {values[bad[0]]}; nothing of this epoch "
            "is kept, last.h5 holds the one before. A lower learning rate (train.stages.*.lr) or a longer warmup is "
            f"the usual cure. The step's images: {files}"
        )
