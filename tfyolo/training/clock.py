"""How long the rest of a training run takes."""

import time

import numpy as np

FORWARD_PASSES = 4.0  # that a training step is worth, with the loader beside it


class Clock:
    """Estimates how long the rest of a run takes from what its steps and evaluations have taken so far.

    Args:
        steps: [(how many, pixels of an image)] of the stages that are left.
        evaluations: how many are left.
    """

    def __init__(self, steps, evaluations):
        self.pixels = sum(count * size for count, size in steps)
        self.evaluations = evaluations
        self.rate = 0.0  # seconds a step, for each pixel of an image
        self.timed = self.seconds = 0.0
        self.evaluating = []
        self.traced, self.sizes, self.before = False, set(), time.monotonic()
        self.began = self.before

    @classmethod
    def of(cls, config, sources, epochs_done, steps_done):
        """Makes the Clock of a run that may have gone some way.

        Args:
            config: the Config of the run.
            sources: for each stage a pair of Sources, to train on and to evaluate on.
            epochs_done: how many of all stages' epochs are finished.
            steps_done: how many steps of the next epoch are done.
        """
        steps, evaluations = [], 0
        for stage, (source, _) in zip(config.train.stages, sources, strict=True):
            left = range(min(epochs_done, stage.epochs), stage.epochs)
            epochs_done -= stage.epochs - len(left)
            height, width = stage.image_size or config.model.input_size
            count = len(left) * -(-len(source.records) // config.train.batch)
            steps.append((count - min(steps_done, count), height * width))
            steps_done -= min(steps_done, count)
            evaluations += sum((e + 1) % config.train.evaluate_every == 0 or e + 1 == stage.epochs for e in left)
        return cls(steps, evaluations)

    @property
    def used(self):
        """The seconds since the run began, or went on."""
        return time.monotonic() - self.began

    def take_over(self, other):
        """Goes on with what another Clock has left to do."""
        self.pixels, self.evaluations = other.pixels, other.evaluations

    def new_step(self):
        """Notes that another step follows, which is traced for each size of images when that first comes."""
        self.sizes = set()
        self.traced = False

    def takes(self, size):
        """Notes that a step of a size is next. Its first run waits for the tracing, and says little of the next."""
        if size not in self.sizes:
            self.sizes.add(size)
            self.traced = False

    def go_on(self):
        """Leaves out the time since the last step, in which no step ran."""
        self.before = time.monotonic()

    def step(self, pixels):
        """Takes in finished steps.

        Args:
            pixels: of an image, times the steps.
        """
        now = time.monotonic()
        if self.traced:
            self.timed, self.seconds = self.timed + pixels, self.seconds + now - self.before
            self.rate = self.seconds / self.timed
        self.rate = self.rate or (now - self.before) / pixels
        self.traced, self.before, self.pixels = True, now, self.pixels - pixels

    def evaluated(self, seconds):
        """Takes in an evaluation that took so many seconds."""
        self.evaluating.append(seconds)
        self.evaluations -= 1

    def evaluation(self, images, training):
        """The seconds of an evaluation, the mean so far without the first, which traces; before, a guess.

        Args:
            images: how many.
            training: seconds that a training step takes for one of them.
        """
        return np.mean(self.evaluating[1:]) if self.evaluating[1:] else guessed_evaluation(images, training)

    @property
    def left(self):
        """The seconds that are left; too many as long as the only steps known are those that waited for tracing."""
        each = np.mean(self.evaluating[1:] or self.evaluating or 0.0)  # the first traces
        return self.pixels * self.rate + self.evaluations * each


def guessed_evaluation(images, training):
    """How long an evaluation may take.

    Args:
        images: how many.
        training: seconds that a training step takes for one of them.

    Returns:
        Seconds.
    """
    return 2.0 + images * (0.03 + training / FORWARD_PASSES)


def duration(seconds):
    """Formats seconds for people: "40 s", "12 min", "3 h 05 min", "2 d 04 h"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24:02d} h"
