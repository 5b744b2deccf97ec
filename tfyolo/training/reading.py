"""What a run is trained and evaluated on: the Sources of its stages, and what is wrong with them."""

import os
from collections import Counter

import numpy as np

from tfyolo import config as configs
from tfyolo.data import readers
from tfyolo.evaluation.report import UNEXPECTED
from tfyolo.files import absolute
from tfyolo.messages import counted
from tfyolo.training.runs import TrainingError


def overfit_config(config, count, replicas):
    """Makes the Config to overfit a few images: without augmentation, evaluated every 25 steps.

    Args:
        config: the Config of the run.
        count: how many images. With fewer than replicas a batch holds them more than once: every replica has one.
        replicas: how many devices train.

    Returns:
        The Config.
    """
    batch = replicas * -(-min(config.train.batch, count) // replicas)
    lr = config.train.stages[0].lr
    stage = configs.Stage(epochs=40, lr=lr, schedule="cosine", warmup=1.0, plain_epochs=0)
    still = {name: 0.0 for name in configs.Augment.model_fields}
    train = {"stages": (stage,), "batch": batch, "accumulate": 1, "ema": 0.0, "evaluate_every": 1, "minutes": None}
    return config.model_copy(
        update={"augment": configs.Augment(**still), "train": config.train.model_copy(update=train)}
    )


def stage_seed(config, stage_index):
    """The seed of a stage's data, another for each stage.

    Args:
        config: the Config of the run.
        stage_index: of the stage, from 0.

    Returns:
        train.seed for the first stage. For later ones it is mixed with the stage's number, so that stage 1 is not
        stage 0 of the next seed.
    """
    if stage_index == 0:
        return config.train.seed
    mixed = np.random.SeedSequence((config.train.seed, stage_index)).generate_state(1)[0]
    return int(mixed) >> 1  # as train.seed: index_shuffle takes 31 bits


def with_divisions(config, sources, folder, place=None):
    """Names the run's own file where data are divided into train and val here.

    Args:
        config: the Config of the run.
        sources: for each stage a pair of Sources, to train on and to evaluate on.
        folder: the run's, a Path.
        place: where the run lies, if that is elsewhere.

    Returns:
        The Config whose data names these files, and {file: its Division, to write}.
    """
    divisions = {}

    def divided(data, source, name):
        if data is None or source.division is None:
            return data
        divisions[folder / name] = source.division
        return data.model_copy(update={"division": absolute(os.path.join(place or folder, name))})

    stages = list(config.train.stages)
    for i, (trained, _) in enumerate(sources):
        if stages[i].data:
            stages[i] = stages[i].model_copy(update={"data": divided(stages[i].data, trained, f"division-{i}.json")})
        else:
            config = config.model_copy(update={"data": divided(config.data, trained, "division.json")})
    train = config.train.model_copy(update={"stages": tuple(stages)})
    return config.model_copy(update={"train": train}), divisions


def other_classes(source, first):
    """Writes the message about a Source whose classes are not those of another.

    Args:
        source: the Source.
        first: the Source whose classes are expected.

    Returns:
        The message.
    """
    ours, theirs = (f"{one.name} {one.split}" for one in (first, source))
    new, missing = (
        [name for name in a.classes if name not in b.classes] for a, b in ((source, first), (first, source))
    )
    faults = [f"has {', '.join(new[:8])}, which {ours} has not"] if new else []
    faults += [f"lacks {', '.join(missing[:8])}"] if missing else []
    fault = " and ".join(faults) or f"has them in another order: {', '.join(source.classes[:8])}"
    return f"expected the {counted(len(first.classes), 'class')} of {ours} in {theirs} too, which {fault}"


def read_stages(config, overfit, run):
    """Reads the data of all stages; what several stages share is read once.

    Args:
        config: the Config of the run.
        overfit: how many images to overfit; None: all are trained on.
        run: the run's folder, where its division of the data may lie.

    Returns:
        [(Source to train on, Source to evaluate on)], one pair a stage.
    """
    read = {}  # {place of the data in the config: the two}
    places = [config.stage_data(i)[1] for i in range(len(config.train.stages))]
    for i, place in enumerate(places):
        if place not in read:
            read[place] = read_stage(config, i, overfit, run)
    return [read[place] for place in places]


def read_stage(config, stage_index, overfit, run=None):
    """Reads the data of a stage.

    Args:
        config: the Config of the run.
        stage_index: of the stage, from 0.
        overfit: how many images to overfit; None: all are trained on.
        run: the run's folder, where its division of the data may lie; None: there is no run.

    Returns:
        (Source to train on, Source to evaluate on)

    Raises:
        DataError: the data cannot be read.
        TrainingError: it has no boxes, or fewer images with boxes than are to be overfit.
    """
    data, place = config.stage_data(stage_index)
    trained, *validated = readers.read_all_configured(data, ("train",) if overfit else ("train", "val"), place, run)
    if not overfit:
        if not len(trained.records.boxes):
            raise TrainingError(f"{data.path}: expected boxes to train on, the split {data.train!r} has none")
        (validated,) = validated
        if validated.classes != trained.classes and set(validated.classes) <= set(trained.classes):
            validated = validated.with_classes(trained.classes)  # labels count those of the training data
        return trained, validated
    some = trained.records[np.flatnonzero(trained.records.counts)[:overfit]]
    if len(some) < overfit:
        raise TrainingError(
            f"{data.path}: expected {counted(overfit, 'image')} with boxes to overfit, it has {len(some)}"
        )
    repeats = 25 * -(-config.train.batch // overfit)  # at least 25 steps an epoch
    return trained._replace(records=some * repeats), trained._replace(records=some, problems=())


def warnings_of(trained, validated):
    """Warns of faults in the data before hours are spent on it.

    Args:
        trained: the Source to train on.
        validated: the Source to evaluate on.

    Yields:
        Lines.
    """
    yield from filter(None, (readers.faults(trained, "training"), readers.faults(validated, "evaluation")))
    if trained.split != validated.split and (same := _shared(trained.records, validated.records)):
        yield (
            f"{validated.name} {validated.split}: {same} of its {counted(len(validated.records), 'image')} are also "
            f"trained on, as {trained.split!r}: the AP will show how well they are remembered"
        )
    if validated.records.ignored.all():
        yield (
            f"{validated.name}: the split {validated.split!r} has no boxes: there will be no AP, and the last epoch "
            "counts as the best. Name a split with boxes: data.val=..."
        )


def _shared(many, few):
    """How many of some Records are among others, of which there may be so many that no set should hold them."""
    counts = Counter(few.files())
    return sum(counts.pop(key, 0) for key in many.files())


def unexpected_lines(kind, found, reported, source):
    """Writes the lines about images that are not as expected, those found since the last time.

    Args:
        kind: a key of UNEXPECTED.
        found: {place of a record in the Source: message, or (H, W)}, in the order in which they were found.
        reported: how many of them were printed before.
        source: the Source.

    Returns:
        The lines, as one string.
    """
    new = list(found.items())[reported:]

    def line(index, value):
        record = source.records[index]
        if kind == "resized":
            turned = ", seen upright: boxes left as they are" if value == record.size[::-1] else ""
            value = f"{value[0]} x {value[1]}, annotated {record.size[0]} x {record.size[1]} (H x W){turned}"
        return f"  {record.path}: {value}"

    shown = "\n".join(line(*each) for each in new[:5])
    return f"{UNEXPECTED[kind]}: {counted(len(new), 'image')}, {len(found)} so far:\n{shown}" + (
        f"\n  and {len(new) - 5} more; tfyolo check-data names them all" if len(new) > 5 else ""
    )


def with_images_for(config, sources, unit):
    """Limits the batch to the images that there are to train on.

    Args:
        config: the Config of the run.
        sources: for each stage a pair of Sources, to train on and to evaluate on.
        unit: what a batch is a multiple of. Where there are fewer images than that, or in another stage, a step takes
            some of them more than once.

    Returns:
        The Config, and [lines about what has changed].
    """
    counts = [len(trained.records) for trained, _ in sources]
    asked, notes = config.train.batch, []
    batch = min(asked, max(unit, max(counts) // unit * unit))
    if batch < asked:
        notes.append(
            f"train.batch={asked} is more than the {counted(max(counts), 'image')} to train on: a step takes "
            f"{counted(batch, 'image')}"
        )
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch": batch})})
    for number, count in enumerate(counts, 1):
        if count < batch:
            where = f"stage {number}: " if len(counts) > 1 else ""
            notes.append(
                f"{where}a step of {counted(batch, 'image')} has but {count} to take, some of them more than "
                "once, augmented differently"
            )
    return config, notes
