"""Data sets from files: a folder is recognised for what it is, and everything wrong in it is named.

A fault in a whole file is a DataError. A fault in one image or box is a Problem, and the good rest is read: boxes
without area and lines that cannot be parsed are left out, boxes partly outside their image are clipped to it.

A split is found by its name, or by what its name says: "train" also finds train2017, "val" finds valid. Images are
not opened, except for the headers of those whose size is not written in the annotations.
"""

import contextlib
import functools
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tfyolo.config.ranges import MOST_CLASSES
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.sources.conventions import check_pixels
from tfyolo.data.sources.division import divide, read_division
from tfyolo.data.sources.formats import FORMATS
from tfyolo.data.sources.kept import Cache, Kept, is_possible
from tfyolo.data.sources.place import ORDER, Options, Place, meaning
from tfyolo.data.sources.recognition import below, candidates_of
from tfyolo.data.sources.seen import Seen, watched
from tfyolo.data.sources.source import DataError, Problem, Source, SplitError
from tfyolo.data.sources.text import read_lines
from tfyolo.files import absolute, address, is_folder, is_there, unreachable
from tfyolo.messages import counted, printable, shortened

# Problems of annotations whose image was not found.
_WITHOUT_IMAGE = re.compile("image missing|label without image")


class DataSet:
    """A data set that is recognised: its format, its splits, and each of them to be read.

    Of several formats that it may have, the one that accounts for most of the files comes first; one that cannot be
    read gives way to the next.

    Args:
        path: a folder, a file, or a glob of .tfrecord files.
        images: the folder of the images, if the annotations do not lead there.
        format: a key of FORMATS, if the data is not recognised.
        names: of the classes, by number, for data without any: a list, or a file with one a line.
        outside: whether paths in the data's files may lead out of its folder.
        max_pixels: of an image; a larger one is an error before it is decoded.
        cache: whether what is read is kept in the cache folder, and taken from there while the files stay as they are.

    Raises:
        DataError: nothing there is a data set.
    """

    def __init__(
        self, path, *, images=None, format=None, names=None, outside=False, max_pixels=MOST_PIXELS, cache=True
    ):
        if format is not None and format not in FORMATS:
            raise DataError(f"data.format: expected one of {', '.join(FORMATS)}, received {shortened(format)}")
        for key, given in (("data", path), ("data.images", images)):
            if given is not None and (wrong := unreachable(given)):
                raise DataError(f"{key}: {wrong}")
        with _there(images):
            missing = images is not None and not is_folder(images)
        if missing:
            raise DataError(f"data.images: expected a folder of images, received {images}, which is not there")
        images = images and (address(images) or os.fspath(images))
        options = Options(images, names_given(names), outside, max_pixels)
        with _there(path):
            self.path, self.place = os.fspath(path), Place(path, options)
            missing = not (self.place.file or self.place.is_folder or self.place.globbed)
            there = missing and is_there(path)
        if missing:
            if there:
                raise DataError(f"{path}: expected a data set, received what is neither a folder nor a regular file")
            raise DataError(f"{path}: no such file or folder; expected a data set ({', '.join(FORMATS)})")
        self._formats = (format,) if format else tuple(FORMATS)
        self._cache = self._seen = self._kept = None
        if cache and is_possible(self._formats):
            self._cache = Cache([absolute(path), self.path, self.place.globbed, options, self._formats])
            self._seen, self._kept = Seen(), self._cache.opened()
        if self._kept:
            self.place = Place(self._kept.path, options)
        self._candidates, self._refused, self._read_here = [], [], {}
        self._settled = self._kept is not None
        if not self._kept:
            self._recognise()

    def _recognise(self):
        if self._kept:
            self._seen.extend(self._kept.states)
        with _there(self.path), watched(self._seen):
            self.place = Place(self.path, self.place.options)
            candidates, errors = candidates_of(self.place, self._formats)
            if not candidates:
                self.place, candidates = below(self.place, self._formats, errors)
        self._refused = [(name, str(error)) for name, error in errors]
        known = [each for each in candidates if self._kept and each[0] == self._kept.format]
        self._candidates = known or candidates

    @property
    def format(self) -> str:
        """A key of FORMATS."""
        return self._candidates[0][0] if self._candidates else self._kept.format

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits; ("all",) where the data is not divided."""
        return tuple(self._candidates[0][1].splits) if self._candidates else self._kept.splits

    @property
    def why(self) -> str:
        """Which format it is and why, where there was a choice; else ""."""
        if self._kept:
            return self._kept.why
        (name, candidate), *others = self._candidates
        if not others and not self._refused:
            return ""
        against = [f"{other}: {each.why}" for other, each in others]
        against += [f"{other}: {' '.join(reason.split())}" for other, reason in self._refused]
        return f"read as {name}: {candidate.why}; not as {'; not as '.join(against)}"

    def read(self, split="train") -> Source:
        """Reads one split.

        Args:
            split: its name, or what its name means: "train" finds train2017, too.

        Raises:
            SplitError: there is no such split; none ever serves in place of another.
            DataError: it cannot be read, or has no images.
        """
        if self._kept:
            name = self._chosen(split)
            if name in self._kept.sources:
                _tell(self.path, self._cache.folder)
                return self._kept.sources[name]._replace(split=split)
            if not self._candidates:
                self._recognise()
        with _there(self.path), watched(self._seen):
            try:
                source = self._read(split)
            except SplitError:
                raise
            except DataError as error:
                if self._settled or not (source := self._read_otherwise(split, error)):
                    raise
        self._settled = True
        if self._cache:
            self._read_here[self._chosen(split)] = source
            sources = {**(self._kept.sources if self._kept else {}), **self._read_here}
            states = self._seen.states()
            self._cache.keep(Kept(self.format, self.splits, self.why, self.place.path, states, sources))
        return source

    def _read_otherwise(self, split, error):
        """The split as the first other format reads it that can, which is the format from then on; None if none can."""
        candidates, refused = self._candidates, self._refused
        for place in range(1, len(candidates)):
            (name, _), self._candidates = candidates[place - 1], candidates[place:]
            self._refused = [*self._refused, (name, str(error).partition("\n")[0])]
            try:
                return self._read(split)
            except DataError as other:
                error = other
        self._candidates, self._refused = candidates, refused
        return None

    def _read(self, split):
        (format, candidate), options, name = self._candidates[0], self.place.options, self._chosen(split)
        source = candidate.splits[name]()
        check_pixels(source.records)
        lines = [word for word in (candidate.note, self.why, *alike(source.classes)) if word]
        lines += [
            f"{counted(count, 'class')} are called {called!r}"
            for called, count in Counter(source.classes).items()
            if count > 1
        ]
        problems = [Problem(printable(self.path), printable(message), "warning") for message in lines]
        problems += [problem._replace(file=problem.file or printable(self.path)) for problem in source.problems]
        problems += [Problem(printable(file), message, "warning") for file, message in self.place.notes]
        if not source.records:
            first = "".join(f"\n  {problem.file}: {problem.message}" for problem in problems[:5])
            if strangers := self.place.unread_images():
                first += (
                    f"\nIt has {strangers}: expected images that TensorFlow and OpenCV read, such as JPEG and "
                    "PNG; convert them"
                )
            elif options.images is None and any(_WITHOUT_IMAGE.search(problem.message) for problem in problems):
                first += "\nIf the images lie elsewhere, say where: data.images=FOLDER"
            raise DataError(
                f"{self.path}: not one image in the split {name!r}, of {counted(len(problems), 'problem')} the "
                f"first:{first}"
            )
        if options.names:
            source = _named(source, options.names, self.path)
        called = os.path.basename(os.path.abspath(self.path))
        return source._replace(
            problems=tuple(problems), split=split, format=format, name=printable(called), max_pixels=options.max_pixels
        )

    def _chosen(self, split):
        """The name among those of the splits that is meant."""
        names = self.splits
        if split in names:
            return split
        meant = [name for name in names if meaning(name) == meaning(split)]
        if len(meant) != 1:
            wrong = (
                f"is ambiguous in this {self.format} data" if meant else f"does not exist in this {self.format} data"
            )
            raise SplitError(f"{self.path}: the split {split!r} {wrong}; its splits are {', '.join(names)}")
        return meant[0]


@contextlib.contextmanager
def _there(path):
    """What an address does not answer, in the `with`, is a DataError; of paths of this machine, OSErrors stay."""
    try:
        yield
    except OSError as error:
        if path is None or not address(path):
            raise
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror}") from error


def read(path: str | os.PathLike, split: str = "train", **options: Any) -> Source:
    """Reads one split of a data set.

    Args:
        path: a folder, a file, or a glob of .tfrecord files.
        split: its name, or what its name means.
        **options: of DataSet: images, format, names, outside, max_pixels, cache.

    Raises:
        SplitError: there is no such split.
        DataError: nothing there is a data set, or it cannot be read.
    """
    return DataSet(path, **options).read(split)


def splits(path, **options) -> tuple[str, ...]:
    """The names of the splits of a data set; ("all",) where it is not divided.

    Args:
        path: a folder, a file, or a glob of .tfrecord files.
        **options: of DataSet: images, format, names, outside, max_pixels, cache.

    Raises:
        DataError: nothing there is a data set.
    """
    return DataSet(path, **options).splits


@functools.cache  # once in a process
def _tell(path, folder):
    why = "no file has changed since it was read, its index is taken from"
    print(printable(f"{path}: {why} {folder}; data.cache=false or --no-cache reads it anew"), file=sys.stderr)


def names_given(names) -> tuple[str, ...] | None:
    """Names of classes as they are given.

    Args:
        names: a list, a file with one a line, or None.

    Raises:
        DataError: there are none, or too many.
    """
    if names is None:
        return None
    if isinstance(names, str | os.PathLike):
        names = read_lines(names)
    names = tuple(map(printable, names))
    if not 0 < len(names) <= MOST_CLASSES:
        raise DataError(f"data.names: expected 1 to {MOST_CLASSES:,} names of classes, received {len(names):,}")
    return names


def _named(source, names, path):
    """A Source of numbered classes with their names. Data that names its classes itself keeps to that."""
    if source.classes == names:
        return source
    if source.classes != tuple(map(str, source.category_ids)):
        raise DataError(
            f"{path}: this data names its classes itself: {', '.join(source.classes[:8])}; data.names is for data "
            "without names"
        )
    from_one = len(names) == max(source.category_ids) and min(source.category_ids) > 0  # as TFRecords count
    first = 1 if from_one else 0
    if not all(first <= number < len(names) + first for number in source.category_ids):
        raise DataError(
            f"{path}: data.names: expected {max(source.category_ids) + 1} names or more, received {len(names)}"
        )
    return source._replace(classes=tuple(names[number - first] for number in source.category_ids))


# --- as a config asks for it ------------------------------------------------------------------------------------------


def read_configured(data, use, place="data", run=None) -> Source:
    """Reads the split of a config's Data for one use; arguments and errors are those of read_all_configured."""
    return read_all_configured(data, (use,), place, run)[0]


def read_all_configured(data, uses, place="data", run=None) -> tuple[Source, ...]:
    """Reads the splits of a config's Data for several uses, none of them twice.

    Args:
        data: config.Data.
        uses: of "train", "val" and "test", or names of splits.
        place: where the Data stand in the config, for errors that name the key to set; None: nowhere.
        run: a run, or what lies in its folder: its own division of the data counts before one that lies elsewhere.

    Returns:
        A Source for each use.

    Raises:
        DataError: a split cannot be read, or most images to train on have no labels and data.background does not say
            that this is meant.
    """
    dataset = DataSet(
        data.path,
        images=data.images,
        format=data.format,
        names=data.names,
        outside=data.outside,
        max_pixels=data.max_pixels,
        cache=data.cache,
    )
    division, whole = _division(dataset, data, place, run)
    found = []
    for use in uses:
        name = getattr(data, use, use) if use in ("train", "val", "test") else use
        if division and use in division.parts:
            source = division.part(whole(), use, dataset.place.root)
        elif not isinstance(name, str):
            raise DataError(
                f"{data.division}: expected a part {use!r} of the data, received {', '.join(division.parts)}"
            )
        else:
            source = _read_named(dataset, name, data, use, place)
        if use == "train" and source.doubts and not data.background:
            raise DataError(
                f"{source.name} {source.split}: {source.doubts}. They would be trained on as images of background "
                f"alone; if that is meant: {place or 'data'}.background=true"
            )
        found.append(source)
    return tuple(found)


def _read_named(dataset, name, data, use, place):
    try:
        return dataset.read(name)
    except SplitError as error:
        if place is None:
            raise
        hint = f"Name one of them: {place}.{use}=..."
        if use == "train" and not ORDER.keys() & set(map(meaning, dataset.splits)):
            hint += f"; it is not divided: {place}.val=0.1 trains on nine tenths of it and evaluates on the rest"
        if use == "val":
            hint += (
                f"; {place}.val=0.1 holds back a tenth of the training images; {place}.val={data.train} evaluates "
                "on the very training images, if that is meant"
            )
        raise SplitError(f"{error}. {hint}") from None


def _division(dataset, data, place, run):
    """The Division that a config asks for or its run has written.

    Returns:
        (the Division, or None; a function that reads the Source that is divided, or None).
    """
    shares = {use: share for use in ("val", "test") if isinstance(share := getattr(data, use), float)}
    file = data.division
    if file is not None and run is not None:  # a run may have been moved
        own = (
            os.path.join(folder, os.path.basename(file)) for folder in (run, *Path(os.path.abspath(run)).parents[:3])
        )
        file = next(filter(os.path.isfile, own), file)
    if file is None and not shares:
        return None, None
    written = read_division(file) if file else None
    if written:
        base = written.of
    elif len(dataset.splits) == 1 and meaning(data.train) not in map(meaning, dataset.splits):
        (base,) = dataset.splits  # not divided, whatever its one split is called
    else:
        base = data.train
    whole = functools.cache(lambda: _read_named(dataset, base, data, "train", place))
    return written or divide(whole(), shares, data.seed, dataset.place.root), whole


def class_names(config, count=None) -> tuple[str, ...]:
    """The names of the classes of a config's model: the config's own, else its data's; numbers where there are none.

    Args:
        config: a Config.
        count: how many there are to be, named by numbers, whatever the config says; None: as many as it says, or COCO's
            80.
    """
    if not count and config.model.classes:
        return config.model.classes
    if not count and config.data:
        return read_configured(config.data, "train").classes
    return tuple(map(str, range(count or 80)))


# --- warnings ---------------------------------------------------------------------------------------------------------


def alike(classes):
    """A warning for each name that several classes have but for case, spaces, hyphens or underscores."""
    groups = {}
    for name in dict.fromkeys(classes):
        groups.setdefault(" ".join(re.split(r"[\s_-]+", name.casefold().strip())), []).append(name)
    for names in groups.values():
        if len(names) > 1:
            listed = " and ".join(map(repr, names))
            yield (
                f"the classes {listed} differ only in case, spaces or hyphens: one class, most likely, that is "
                f"trained as {len(names)}"
            )


def without_unions(sources):
    """{split: Source} without those that only join others, as VOC's trainval does."""
    kept = dict(sources)
    for joined in [name for name in sources if name.startswith("trainval")]:
        others = {key for name, source in kept.items() if name != joined for key in source.records.files()}
        if others.issuperset(kept[joined].records.files()):
            del kept[joined]
    return kept


def faults(source, purpose) -> str | None:
    """What is wrong with a Source, in the few lines that its user should see; None if nothing is.

    Args:
        source: a Source.
        purpose: what its images are left out of: "training".
    """
    lines = []
    for severity, phrase in (("error", "{} in the data, left out of {}"), ("warning", "{} about the data of {}")):
        problems = [problem for problem in source.problems if problem.severity == severity]
        if problems:
            noun = "fault" if severity == "error" else severity
            shown = "".join(f"\n  {problem.file}: {problem.message}" for problem in problems[:5])
            more = f"\n  and {len(problems) - 5} more; tfyolo check-data names them all" if len(problems) > 5 else ""
            lines.append(
                f"{source.name} {source.split}: {phrase.format(counted(len(problems), noun), purpose)}:{shown}{more}"
            )
    return "\n".join(lines) or None
