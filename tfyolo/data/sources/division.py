"""A data set without a split to validate or to test on is divided on request, by a seed.

It is divided once, and from then on by what is written.
"""

import functools
import hashlib
import json
import os
from typing import NamedTuple

import numpy as np

from tfyolo.data.sources.source import DataError, Problem, Source, image_bytes
from tfyolo.data.sources.text import read_json
from tfyolo.files import size_of
from tfyolo.messages import counted, shortened
from tfyolo.remote import UnansweredError


class Division(NamedTuple):
    """Which images of one split of the data belong to which part.

    Attributes:
        of: the split that is divided.
        seed: of the chance that divided it.
        parts: {"train", "val", perhaps "test": keys of the images}; a key is an image's path relative to the data, and
            its place in a TFRecord.
    """

    of: str
    seed: int
    parts: dict[str, tuple[str, ...]]

    def part(self, source, name, root) -> Source:
        """A part of the split that is divided, as a Source."""
        chosen = set(self.parts[name])
        keys = keys_of(source.records, root)
        kept = source.records[np.array([key in chosen for key in keys], bool)]
        known = {key for keys in self.parts.values() for key in keys}
        problems = source.problems
        strangers = [key for key in keys if key not in known]
        gone = len(chosen) - len(kept)
        notes = [
            (
                strangers,
                f"{counted(len(strangers), 'image')} came after the data was divided, in no part of it; left out",
            )
        ]
        notes += [(gone, f"{counted(gone, 'image')} of the part {name} that the division names are not there any more")]
        problems += tuple(Problem(source.name, message, "warning") for wrong, message in notes if wrong)
        if not kept:
            raise DataError(f"{root}: not one image of the part {name!r} into which the data was divided is there")
        return source._replace(records=kept, split=name, problems=problems, division=self)

    def to_json(self) -> str:
        """What read_division reads."""
        return json.dumps(self._asdict(), indent=1)


def read_division(file) -> Division:
    """The Division that was written to a file. Raises DataError."""
    content = read_json(file)
    try:
        parts = {name: tuple(keys) for name, keys in content["parts"].items()}
        division = Division(content["of"], content["seed"], parts)
        sound = isinstance(division.of, str) and all(isinstance(key, str) for keys in parts.values() for key in keys)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{file}: expected a division of data as training writes it, received {shortened(content)}")
    return division


def keys_of(records, root) -> list[str]:
    """What a Division calls images, wherever the data lies.

    Args:
        records: Records.
        root: the folder of the data.
    """
    relative = functools.cache(lambda folder: os.path.relpath(folder or ".", root))
    keys = []
    for path, span in records.files():
        folder, name = os.path.split(path)
        key = os.path.normpath(os.path.join(relative(folder), name)).replace(os.sep, "/")
        keys.append(key if span is None else f"{key}@{span[0]}")
    return keys


def divide(source, shares, seed, root) -> Division:
    """Divides a Source by chance.

    Images of the same bytes stay together. Each class has its share in each part as far as that is possible (iterative
    stratification, Sechidis et al. 2011): the rarest class first, its images go one by one to the part that lacks it
    most. Near duplicates, such as neighbours of one video, are not looked for.

    Args:
        source: a Source.
        shares: {"val": 0.1, "test": 0.1}, of its images; "train" gets the rest.
        seed: of all chance.
        root: the folder of the data.

    Raises:
        DataError: there are too few images.
    """
    groups = _groups(source)
    parts = {"train": 1 - sum(shares.values()), **shares}
    if parts["train"] <= 0 or len(groups) < len(parts):
        received = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise DataError(
            f"{source.name} {source.split}: expected shares that leave something to train on and an image for each "
            f"part, received {received} of {counted(len(groups), 'image')}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    # What each group has: a column a class, of boxes that count; and the number of its images last.
    has = np.zeros((len(groups), len(source.classes) + 1), np.int32)
    group_of = np.zeros(len(source.records), np.int64)
    for number, group in enumerate(groups):
        group_of[group] = number
        has[number, -1] = len(group)
    learned = ~source.records.ignored
    np.add.at(has, (group_of[source.records.image_of[learned]], source.records.labels[learned]), 1)
    names, weights = list(parts), np.array(list(parts.values()))
    wanted = weights[:, None] * has.sum(axis=0)  # [parts, classes + 1], what each part still lacks
    chosen = np.full(len(groups), -1)
    totals = has[:, :-1].sum(axis=0)
    for label in [*(k for k in np.argsort(totals, kind="stable") if totals[k]), len(source.classes)]:
        for number in order[has[order, label] > 0]:
            if chosen[number] < 0:
                lacks = wanted[:, label]
                best = np.flatnonzero(lacks == lacks.max())
                if len(best) > 1:
                    best = best[wanted[best, -1] == wanted[best, -1].max()]
                part = best[rng.integers(len(best))]
                chosen[number] = part
                wanted[part] -= has[number]
    _fill(chosen, has[:, -1], len(names))
    every, keys = keys_of(source.records, root), {name: [] for name in names}
    for number, group in enumerate(groups):
        keys[names[chosen[number]]] += [every[index] for index in group]
    return Division(source.split, seed, {name: tuple(sorted(members)) for name, members in keys.items()})


def _fill(chosen, sizes, parts):
    """Gives each part that has nothing the smallest group of the largest part."""
    for part in range(parts):
        if not (chosen == part).any():
            most = np.bincount(chosen, minlength=parts).argmax()
            members = np.flatnonzero(chosen == most)
            chosen[members[np.argmin(sizes[members])]] = part


def _groups(source):
    """[[indices of records]] of the same bytes. Only files of the same length are read."""
    lengths = {}
    for index, (path, span) in enumerate(source.records.files()):
        try:
            length = span[1] if span else size_of(path)
        except UnansweredError:  # of no file, but of the network: reading ends
            raise
        except OSError:
            length = -1 - index
        lengths.setdefault(length, []).append(index)
    groups = []
    for members in lengths.values():
        if len(members) == 1:
            groups.append(members)
            continue
        same = {}
        for index in members:
            try:
                digest = hashlib.sha256(image_bytes(source.records[index])).digest()
            except UnansweredError:
                raise
            except OSError:
                digest = index
            same.setdefault(digest, []).append(index)
        groups += same.values()
    return sorted(groups)
