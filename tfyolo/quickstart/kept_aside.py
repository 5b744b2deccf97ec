"""What of a data set is trained on, evaluated on while it trains, and kept aside for the end."""

from typing import NamedTuple

import numpy as np

from tfyolo.data.readers import DataSet
from tfyolo.data.sources.division import Division, divide, keys_of
from tfyolo.data.sources.place import meaning
from tfyolo.data.sources.source import DataError, Source
from tfyolo.messages import counted

VALIDATION = 150  # images that are evaluated while it trains, at most: each costs time that training could have
ASIDE = 500  # images that the final figure comes from, at most


class Shares(NamedTuple):
    """The parts of a data set.

    Attributes:
        train: the Source to train on.
        val: the Source that decides which epoch is kept.
        aside: the Source that the final figures come from: of no image in it was anything learned.
        split: the name of the data's split that is trained on.
        val_split: that of the split that val is; "val" for a part of the division.
        division: the Division of that split.
        notes: lines on how it was done.
    """

    train: Source
    val: Source
    aside: Source
    split: str
    val_split: str
    division: Division
    notes: tuple[str, ...]


def shares_of(path, seed=0, **options) -> Shares:
    """Finds or makes the parts of a data set.

    The final figures come from its test split; without one from its validation split; where it is not divided, from 15
    % of its images. The epoch that is kept is chosen by images that are held back from those to train on.

    Args:
        path: of the data set.
        seed: of all chance.
        options: of readers.DataSet.

    Returns:
        Shares.

    Raises:
        DataError: the data cannot be read, or has too few images.
    """
    dataset = DataSet(path, **options)
    root, splits = dataset.place.root, {}
    for name in dataset.splits:
        splits.setdefault(meaning(name), name)
    split = splits.get("train") or (dataset.splits[0] if len(dataset.splits) == 1 else None)
    if split is None:
        raise DataError(f"{path}: expected a split to train on, received the splits {', '.join(dataset.splits)}")
    whole = dataset.read(split)
    if whole.doubts:
        raise DataError(f"{whole.name} {whole.split}: {whole.doubts}")
    test, val = (_labelled(dataset, splits.get(name), whole.classes) for name in ("test", "val"))
    aside = test or val
    images, shares = len(whole.records), {}
    own = test and val and len(val.records) <= VALIDATION  # no image of it is then lost to training
    if not own:
        shares["val"] = min(0.15, VALIDATION / images)
    if aside is None:
        shares["test"] = min(0.15, ASIDE / images)
    division = divide(whole, shares, seed, root) if shares else Division(split, seed, {"train": _keys(whole, root)})
    parts = {name: division.part(whole, name, root) for name in division.parts}
    val, held = (val, val.split) if own else (parts["val"], split)
    notes = [f"{counted(len(val.records), 'image')} of {held!r} decide which epoch is kept"]
    if aside is None:
        aside = parts["test"]
        notes.append(f"{counted(len(aside.records), 'image')} of {split!r} are kept aside for the final figures")
    else:
        every = len(aside.records)
        aside = _some(aside, ASIDE, seed)
        chosen = (
            f"{len(aside.records)} of its {every:,} images" if len(aside.records) < every else counted(every, "image")
        )
        notes.append(f"the final figures come from the split {aside.split!r}, {chosen}")
    return Shares(parts["train"], val, aside, split, val.split if own else "val", division, tuple(notes))


def fewer(shares, count, root, seed=0) -> Shares:
    """The Shares with at most so many images to train on.

    Args:
        shares: Shares.
        count: the most images.
        root: the folder of the data.
        seed: of the choice.
    """
    if len(shares.train.records) <= count:
        return shares
    train = _some(shares.train, count, seed)
    kept = set(keys_of(train.records, root))
    parts = dict(shares.division.parts)
    parts["left out"] = tuple(key for key in parts["train"] if key not in kept)
    parts["train"] = tuple(key for key in parts["train"] if key in kept)
    every = len(shares.train.records)
    note = f"{count:,} of {every:,} images are trained on: more cannot be seen often enough in the time"
    return shares._replace(train=train, division=shares.division._replace(parts=parts), notes=(*shares.notes, note))


def _labelled(dataset, name, classes):
    """The Source of a split; None if there is none, or nothing can be measured on it: no boxes, or other classes."""
    if name is None:
        return None
    try:
        source = dataset.read(name)
    except DataError:
        return None
    if not len(source.records.boxes) or not set(source.classes) <= set(classes):
        return None
    return source if source.classes == classes else source.with_classes(classes)


def _keys(source, root):
    return tuple(keys_of(source.records, root))


def _some(source, count, seed):
    if len(source.records) <= count:
        return source
    chosen = np.sort(np.random.default_rng(seed).choice(len(source.records), count, replace=False))
    return source._replace(records=source.records[chosen])
