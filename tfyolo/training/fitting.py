"""train.minutes: how many epochs fit into a budget, once the first has shown how fast this machine is."""

import sys

from tqdm import tqdm

from tfyolo import config as configs
from tfyolo.files import write_text
from tfyolo.messages import counted
from tfyolo.training.clock import Clock
from tfyolo.training.stages import batches_of

MARGIN = 0.97  # of the time that is left is planned
EVALUATIONS = 4  # of a run that is cut short, if it had so many


def fitted(job, trainee, stage_index, epochs_done):
    """Leaves the stages as many of their epochs as fit into train.minutes, in proportion; at least one each.

    The stage that runs goes on where it is: its batches come from the same stream, and its learning rate falls faster
    from here on. What the run's folder holds then is a run of so many epochs, with up to four evaluations at least.

    Args:
        job: the run's Job.
        trainee: the Trainee of the stage that runs.
        stage_index: which it is.
        epochs_done: how many of its epochs are done.

    Returns:
        Job, Trainee: those of the new config.
    """
    before, given = job.config.train, job.epochs
    factor = job.team.by_chief(_factor, job, trainee, stage_index, epochs_done)
    stages = list(before.stages)
    for i, stage in enumerate(stages[stage_index:], stage_index):
        least = epochs_done if i == stage_index else 1
        stages[i] = with_epochs(stage, max(least, int(stage.epochs * factor + 1e-6)))
    train = before.model_copy(
        update={"stages": tuple(stages), "minutes": None, "evaluate_every": every(before, stages)}
    )
    config = job.config.model_copy(update={"train": train})
    job = job._replace(config=config, model=job.model._replace(config=config))
    write_text(job.folder / "config.yaml", configs.to_yaml(config))
    job.clock.take_over(Clock.of(config, job.sources, job.epochs_before(stage_index) + epochs_done, 0))
    trainee.schedule.fit(stages[stage_index].epochs)
    batches, _ = batches_of(job, stage_index, trainee.size, trainee.unexpected, epochs_done)
    if job.progress:
        tqdm.write(
            f"minutes  {before.minutes:g}: {job.epochs} of {counted(given, 'epoch')} fit",
            file=sys.stdout,
        )
    return job, trainee._replace(batches=batches)


def _factor(job, trainee, stage_index, epochs_done):
    """The part of the epochs from this stage on that fits, at most 1."""
    train, (height, width) = job.config.train, trainee.size
    step = job.clock.rate * height * width
    evaluation = job.clock.evaluation(len(job.sources[stage_index][1].records), step / train.batch)
    whole = Clock.of(job.config, job.sources, job.epochs_before(stage_index), 0)
    seconds = whole.pixels * job.clock.rate + whole.evaluations * evaluation
    left = max(0.0, 60 * train.minutes - job.clock.used) * MARGIN
    return min(1.0, (left + epochs_done * trainee.steps * step) / seconds)


def every(train, stages):
    """The epochs from one evaluation to the next: fewer where so few epochs fit that the best could not be chosen."""
    given = sum(stage.epochs for stage in train.stages)
    fitting = sum(stage.epochs for stage in stages)
    count = min(EVALUATIONS, -(-given // train.evaluate_every))
    return min(train.evaluate_every, max(1, fitting // count))


def with_epochs(stage, epochs):
    """A Stage with other epochs, and as large a part of them plain."""
    plain = round(stage.plain_epochs * epochs / stage.epochs)
    return stage.model_copy(update={"epochs": epochs, "plain_epochs": max(plain, min(1, stage.plain_epochs))})
