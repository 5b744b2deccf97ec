"""What a run learns from and is evaluated on: the Sources of its stages, and what is wrong with them."""

import os

import numpy as np

from tfyolo import config as configs
from tfyolo.data import readers
from tfyolo.evaluation.report import UNEXPECTED
from tfyolo.messages import counted
from tfyolo.training.runs import TrainingError


def overfit_config(config, count, replicas):
    """The config for learning a few pictures by heart: as they are, at a steady rate, judged every 25 steps.

    With fewer pictures than replicas a batch holds them more than once: every replica has one.
    """
    batch = replicas * -(-min(config.train.batch, count) // replicas)
    lr = config.train.stages[0].lr
    stage = configs.Stage(epochs=40, lr=lr, schedule="cosine", warmup=1.0, plain_epochs=0)
    still = {name: 0.0 for name in configs.Augment.model_fields}
    train = {"stages": (stage,), "batch": batch, "accumulate": 1, "ema": 0.0, "evaluate_every": 1}
    return config.model_copy(
        update={"augment": configs.Augment(**still), "train": config.train.model_copy(update=train)}
    )


def stage_seed(config, stage_index):
    """The seed of a stage's data: train.seed itself, then mixed with the stage, lest stage 1 be stage 0 of the next seed."""
    if stage_index == 0:
        return config.train.seed
    mixed = np.random.SeedSequence((config.train.seed, stage_index)).generate_state(1)[0]
    return int(mixed) >> 1  # as train.seed: index_shuffle takes 31 bits


def with_divisions(config, sources, folder):
    """(the config whose data name the run's own file of what is held back, {that file: the Division to be written there})."""
    divisions = {}

    def divided(data, source, name):
        if data is None or source.division is None:
            return data
        divisions[folder / name] = source.division
        return data.model_copy(update={"division": os.path.abspath(folder / name)})

    stages = list(config.train.stages)
    for i, (learned, _) in enumerate(sources):
        if stages[i].data:
            stages[i] = stages[i].model_copy(update={"data": divided(stages[i].data, learned, f"division-{i}.json")})
        else:
            config = config.model_copy(update={"data": divided(config.data, learned, "division.json")})
    train = config.train.model_copy(update={"stages": tuple(stages)})
    return config.model_copy(update={"train": train}), divisions


def other_classes(source, first):
    """What is wrong with the classes of a Source that are not those of the first."""
    ours, theirs = (f"{one.name} {one.split}" for one in (first, source))
    new, missing = (
        [name for name in a.classes if name not in b.classes] for a, b in ((source, first), (first, source))
    )
    faults = [f"has {', '.join(new[:8])}, which {ours} has not"] if new else []
    faults += [f"lacks {', '.join(missing[:8])}"] if missing else []
    told = " and ".join(faults) or f"has them in another order: {', '.join(source.classes[:8])}"
    return f"expected the {counted(len(first.classes), 'class')} of {ours} in {theirs} too, which {told}"


def read_stages(config, overfit, run):
    """[(Source to learn from, Source to evaluate on)] of all stages; data that several stages share are read once."""
    read = {}  # {place of the data in the config: the two}
    places = [config.stage_data(i)[1] for i in range(len(config.train.stages))]
    for i, place in enumerate(places):
        if place not in read:
            read[place] = read_stage(config, i, overfit, run)
    return [read[place] for place in places]


def read_stage(config, stage_index, overfit, run=None):
    """(Source to learn from, Source to be judged on) of a stage. run: the folder of the run, where its division of the data may lie."""
    data, place = config.stage_data(stage_index)
    learned, *judged = readers.read_all_configured(data, ("train",) if overfit else ("train", "val"), place, run)
    if not overfit:
        if not any(len(record.boxes) for record in learned.records):
            raise TrainingError(f"{data.path}: expected boxes to learn from, the split {data.train!r} has none")
        (judged,) = judged
        if judged.classes != learned.classes and set(judged.classes) <= set(learned.classes):
            judged = judged.with_classes(learned.classes)  # the labels are those that are learned
        return learned, judged
    some = tuple(record for record in learned.records if len(record.boxes))[:overfit]
    if len(some) < overfit:
        raise TrainingError(
            f"{data.path}: expected {counted(overfit, 'picture')} with boxes to learn by heart, it has {len(some)}"
        )
    repeats = 25 * -(-config.train.batch // overfit)  # at least 25 steps an epoch
    return learned._replace(records=some * repeats), learned._replace(records=some, problems=())


def warnings_of(learned, judged):
    """What to know of the data before hours are spent on them."""
    yield from filter(None, (readers.faults(learned, "training"), readers.faults(judged, "evaluation")))
    seen = {(record.path, record.span) for record in learned.records}
    if learned.split != judged.split and (same := sum((record.path, record.span) in seen for record in judged.records)):
        yield (
            f"{judged.name} {judged.split}: {same} of its {counted(len(judged.records), 'picture')} are also learned from, as "
            f"{learned.split!r}: the AP will tell how well they are remembered"
        )
    if all(record.ignored.all() for record in judged.records):
        yield (
            f"{judged.name}: the split {judged.split!r} has no boxes: there will be no AP, and the last epoch counts as the best. "
            "Name a split with boxes: data.val=..."
        )


def unexpected_lines(kind, found, told, source):
    """What was found wrong with pictures since the last time. kind: of UNEXPECTED. found: {record's place: message or (H, W)}."""
    new = list(found.items())[told:]

    def line(index, value):
        record = source.records[index]
        if kind == "resized":
            turned = ", seen upright: boxes left as they are" if value == record.size[::-1] else ""
            value = f"{value[0]} x {value[1]}, annotated {record.size[0]} x {record.size[1]} (H x W){turned}"
        return f"  {record.path}: {value}"

    shown = "\n".join(line(*each) for each in new[:5])
    return f"{UNEXPECTED[kind]}: {counted(len(new), 'picture')}, {len(found)} so far:\n{shown}" + (
        f"\n  and {len(new) - 5} more; tfyolo check-data names them all" if len(new) > 5 else ""
    )


def with_images_for(config, sources, unit):
    """(the config with no more images a step than there are to learn from, [what to say of that]).

    unit: what a batch is a multiple of. Where there are fewer than that, or in another stage, a step takes some of them more than once.
    """
    counts = [len(learned.records) for learned, _ in sources]
    asked, notes = config.train.batch, []
    batch = min(asked, max(unit, max(counts) // unit * unit))
    if batch < asked:
        notes.append(
            f"train.batch={asked} is more than the {counted(max(counts), 'image')} to learn from: a step takes {counted(batch, 'image')}"
        )
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch": batch})})
    for number, count in enumerate(counts, 1):
        if count < batch:
            where = f"stage {number}: " if len(counts) > 1 else ""
            notes.append(
                f"{where}a step of {counted(batch, 'image')} has but {count} to take, some of them more than once, augmented anew"
            )
    return config, notes
