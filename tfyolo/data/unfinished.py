"""Shards that are being written: what of them is whole, so that an interrupted call can go on."""

import contextlib
import hashlib
import json
import shutil

import numpy as np

from tfyolo import folders
from tfyolo.data.tfrecords import split_of
from tfyolo.files import atomic_replace, parse_json, write_text


def plan_of(source, options, states) -> str:
    """What tells one call from others: a digest.

    Args:
        source: the Source that is written.
        options: a list of what JSON can hold.
        states: of the files of its images, as sources.seen.states gives them: one may have been replaced since.
    """
    options = [*options, source.max_pixels, source.classes, source.category_ids]
    digest = hashlib.blake2b(json.dumps(options).encode())
    for column in source.records.columns():
        digest.update(np.ascontiguousarray(column))
    digest.update(np.int64(states))
    return digest.hexdigest()


def is_description(file, old) -> bool:
    """Whether <split>.json was written beside shards, and is no other file of that name, such as COCO's annotations.

    Args:
        file: its Path.
        old: the shards of its split that lie beside it.
    """
    return file.is_file() and bool(old or "categories" in _object(file)) and "annotations" not in _object(file)


class Unfinished:
    """The shards of a split, from the first image to their names.

    They are written in a folder aside, .<split>.unfinished, a note beside each that is whole. .<split>.written, which
    comes last, says what a call has written.

    Args:
        folder: the Path of the folder that the shards are for.
        split: of the Source.
        names: of the shards.
        plan: as plan_of gives it.

    Attributes:
        old: [Path] of the shards of that split that lay in the folder before.
    """

    def __init__(self, folder, split, names, plan):
        self.folder, self.names, self.plan = folder, names, plan
        self.aside, self._done = folder / f".{split}.unfinished", f".{split}.written"
        self.old = sorted(file for file in folder.iterdir() if split_of(file.name) == split)

    @property
    def goes_on(self) -> bool:
        """Whether a call of the same plan was interrupted here."""
        return _text(self.aside / "plan") == self.plan

    def written_before(self):
        """What a call of the same plan has left out, [(path, reason)]; None unless just its shards are there, whole."""
        done = _object(self.folder / self._done)
        skipped = _pairs(done.get("skipped"))
        if done.get("plan") != self.plan or skipped is None or [file.name for file in self.old] != self.names:
            return None
        if [file.stat().st_size for file in self.old] != done.get("bytes"):
            return None
        if self.goes_on:  # one that was killed at its very end
            shutil.rmtree(self.aside, ignore_errors=True)
        return skipped

    @contextlib.contextmanager
    def held(self):
        """Holds the folder aside in the `with`, and yields its Path.

        What a call of another plan has left in it is removed. Where the `with` is left by an error, the folder stays if
        it has a whole shard; else it is removed.

        Raises:
            Taken: another process holds it.
        """
        self.aside.mkdir(exist_ok=True)
        with folders.held(self.aside):
            if not self.goes_on:
                for path in self.aside.glob("*.tfrecord*"):
                    path.unlink()
                write_text(self.aside / "plan", self.plan)
            kept = False
            try:
                yield self.aside
            except BaseException:
                kept = any(self.aside.glob("*.tfrecord.json"))
                raise
            finally:
                if not kept:
                    shutil.rmtree(self.aside)

    def note(self, name, skipped):
        """Notes that a shard is whole, and the images that it leaves out, [(path, reason)]."""
        noted = {"bytes": (self.aside / name).stat().st_size, "skipped": skipped}
        write_text(self.aside / f"{name}.json", json.dumps(noted))

    def left_out(self, name):
        """What was noted of a shard, [(path, reason)]; None if it is not whole. It may have its name already."""
        noted = _object(self.aside / f"{name}.json")
        sizes = [(at / name).stat().st_size for at in (self.aside, self.folder) if (at / name).is_file()]
        return _pairs(noted.get("skipped")) if sizes and sizes[0] == noted.get("bytes") else None

    def publish(self, *others):
        """Gives all shards their names, and other files of the folder aside; then removes the old ones.

        Whatever goes wrong before leaves every image in one shard or the other.

        Returns:
            The images that the shards leave out, [(path, reason)].
        """
        skipped = [each for name in self.names for each in self.left_out(name)]
        sizes = [_object(self.aside / f"{name}.json")["bytes"] for name in self.names]
        for name in [*self.names, *others]:
            if (self.aside / name).exists():  # else an interrupted call has given it its name
                atomic_replace(self.aside / name, self.folder / name)
        for file in self.old:
            if file.name not in self.names:
                file.unlink()
        done = {"plan": self.plan, "bytes": sizes, "skipped": skipped}
        write_text(self.folder / self._done, json.dumps(done))
        return skipped


def _text(file):
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _object(file):
    """What a JSON file holds, if that is an object; else, or without the file, {}."""
    try:
        found = parse_json(_text(file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pairs(value):
    """[(text, text)] of a list of such lists; None of anything else."""
    if not isinstance(value, list):
        return None
    whole = all(isinstance(each, list) and [type(part) for part in each] == [str, str] for each in value)
    return [tuple(each) for each in value] if whole else None
