"""train.minutes: how many epochs fit into a budget, once a few steps have shown how fast this machine is."""

import sys

from tqdm import tqdm

from tfyolo import config as configs
from tfyolo.files import write_text
from tfyolo.messages import counted
from tfyolo.training.clock import Clock, duration
from tfyolo.training.stages import batches_of

MARGIN = 0.97  # of the time that is left is planned


def fitted(job, trainee, epochs_done):
    """Gives all stages as many epochs as fit into train.minutes, in their proportion; at least one each.

    The stage that runs goes on where it is: its batches come from the same stream, and its learning rate falls faster
    or slower from here on. What the run's folder holds then is a run of so many epochs.

    Args:
        job: the run's Job, in its first stage.
        trainee: that stage's Trainee.
        epochs_done: how many of its epochs are done.

    Returns:
        (Job, Trainee), of the new config.
    """
    before = job.config.train
    whole = Clock.of(job.config, job.sources, epochs_done, 0)
    height, width = trainee.size
    validated = len(job.sources[0][1].records)
    seconds = whole.pixels * job.clock.rate + whole.evaluations * job.clock.evaluation(validated, height * width)
    given = job.epochs
    factor = max(0.0, (60 * before.minutes - job.clock.used) * MARGIN / max(seconds, 1e-9))
    first, *others = before.stages
    stages = (
        with_epochs(first, epochs_done + int((first.epochs - epochs_done) * factor)),
        *(with_epochs(stage, max(1, int(stage.epochs * factor))) for stage in others),
    )
    train = before.model_copy(update={"stages": stages, "minutes": None})
    config = job.config.model_copy(update={"train": train})
    job = job._replace(config=config, model=job.model._replace(config=config))
    write_text(job.folder / "config.yaml", configs.to_yaml(config))
    job.clock.take_over(Clock.of(config, job.sources, epochs_done, 0))
    trainee.schedule.total.assign(stages[0].epochs * trainee.steps)
    batches, _ = batches_of(job, 0, trainee.size, trainee.unexpected, epochs_done)
    if job.progress:
        tqdm.write(
            f"minutes  {before.minutes:g}: {counted(job.epochs, 'epoch')} fit, in place of {given}; "
            f"{duration(job.clock.left)} left",
            file=sys.stdout,
        )
    return job, trainee._replace(batches=batches)


def with_epochs(stage, epochs):
    """A Stage with other epochs, and as large a part of them plain."""
    plain = round(stage.plain_epochs * epochs / stage.epochs)
    return stage.model_copy(update={"epochs": epochs, "plain_epochs": max(plain, min(1, stage.plain_epochs))})
