"""The index of a data set in the cache folder: what was read of its files, for as long as they are what they were.

A folder a data set (its path and the options of reading), cache/data/DIGEST/: the columns of each split as .npy, which
are opened as memory maps, and index.json, which has the rest and the checksums of all. It is used only if every file
and folder that the reading looked at is as it was, and if the same code would read them. Whatever is wrong with it,
the files are read, and it is written anew.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfyolo.data.sources.files import listing
from tfyolo.data.sources.formats import FORMATS
from tfyolo.data.sources.records import Columns, Records
from tfyolo.data.sources.seen import States
from tfyolo.data.sources.source import Problem, Source
from tfyolo.files import atomic_file, cache_folder, parse_json, read_regular, remove_left

VERSION = 1  # of what lies in such a folder
FEWEST = 1_000  # images in all that was read of a data set; fewer are read as fast as they are found here
MOST = 32  # data sets that are kept; those written longest ago go


class Kept(NamedTuple):
    """What is known of a data set that was read before.

    Attributes:
        format: a key of FORMATS.
        splits: the names of all, also of those that were not read.
        why: as DataSet.why.
        path: of the data set: that which was named, or the only one below it.
        states: of what the reading has looked at.
        sources: {split: Source} of those that were read.
    """

    format: str
    splits: tuple[str, ...]
    why: str
    path: str
    states: States
    sources: dict[str, Source]


class Cache:
    """Where the index of one data set is kept.

    Args:
        described: what decides, beside the files, what is read of them; of types that JSON has.
    """

    def __init__(self, described: Any):
        key = json.dumps([VERSION, _code(), described], ensure_ascii=True)
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        self.folder = cache_folder() / "data" / name

    def opened(self) -> Kept | None:
        """What is kept; None if there is nothing, if anything has changed, or if it is damaged."""
        try:
            checksum, _, text = read_regular(self.folder / "index.json").partition(b"\n")
            if int(checksum, 16) != zlib.crc32(text):
                return None
            content = parse_json(text)
            states = States(content["digests"], *self._arrays(content["states"]))
            if not states.last(listing):
                return None
            sources = {split: self._source(**entry) for split, entry in content.pop("sources").items()}
            return Kept(content["format"], tuple(content["splits"]), content["why"], content["path"], states, sources)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _arrays(self, checksums):
        """The arrays of files, {name: checksum}; read through once, as a memory map alone notices no damage."""
        for name, checksum in checksums.items():
            if _checksum(self.folder / name) != checksum:
                raise ValueError
        return [np.asarray(np.load(self.folder / name, mmap_mode="r")) for name in checksums]

    def _source(self, columns, problems, **fields):
        lists = {name: tuple(fields.pop(name)) for name in ("classes", "category_ids")}
        records = Records(Columns(*self._arrays(columns)))
        return Source(records, problems=tuple(Problem(*problem) for problem in problems), **lists, **fields)

    def keep(self, kept: Kept):
        """Writes what was read, if it is worth it and nothing has changed meanwhile; if it cannot be written, not.

        Args:
            kept: what was read.
        """
        few = sum(len(source.records) for source in kept.sources.values()) < FEWEST
        above = self.folder.parent
        with contextlib.suppress(OSError):
            if few or not kept.states.are_old() or not kept.states.last(listing):
                return
            above.mkdir(parents=True, exist_ok=True)
            remove_left(above, ["*"])
            with atomic_file(self.folder) as aside:
                aside.mkdir()
                _write(aside, kept)
            for old in sorted(above.glob("[!.]*"), key=os.path.getmtime)[:-MOST]:
                shutil.rmtree(old, ignore_errors=True)


def is_possible(formats) -> bool:
    """Whether there is a cache folder, and some formats are this package's: what others look at is not known.

    Args:
        formats: keys of FORMATS.
    """
    try:
        cache_folder()
    except RuntimeError:
        return False
    return all((format.find.__module__ or "").startswith("tfyolo.") for format in map(FORMATS.get, formats))


def _write(folder, kept):
    def saved(prefix, arrays):
        """{name: checksum} of arrays that are written."""
        names = [f"{prefix}{number:02}.npy" for number in range(len(arrays))]
        for name, each in zip(names, arrays, strict=True):
            np.save(folder / name, each)
        return {name: _checksum(folder / name) for name in names}

    sources = {}
    for number, (split, source) in enumerate(kept.sources.items()):
        columns = saved(f"{number}-", source.records.columns())
        sources[split] = {**source._asdict(), "columns": columns}
        for name in ("records", "division"):
            del sources[split][name]
    digests, *arrays = kept.states
    content = {**kept._asdict(), "sources": sources, "digests": digests, "states": saved("states-", arrays)}
    text = json.dumps(content).encode()
    (folder / "index.json").write_bytes(b"%08x\n" % zlib.crc32(text) + text)


def _checksum(file):
    checksum = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


@functools.cache
def _code():
    """A digest of the code that reads data: another may read other things in the same files."""
    digest = hashlib.blake2b(digest_size=16)
    package = Path(__file__).parents[2]
    others = [package / "messages.py", package / "files.py", package / "config" / "ranges.py"]
    for file in [*sorted((package / "data").rglob("*.py")), *others]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
