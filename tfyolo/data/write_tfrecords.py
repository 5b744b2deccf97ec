"""A Source written as TFRecord shards, with the bytes of its images as they are."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tfyolo import folders
from tfyolo.data.contents import ENDS, ImageError, checked_contents
from tfyolo.data.headers import kind_of, surely_fits
from tfyolo.data.sources.seen import states
from tfyolo.data.sources.source import image_bytes
from tfyolo.data.tfrecords import split_of
from tfyolo.errors import Error
from tfyolo.files import atomic_replace, local, parse_json, size_of, write_text
from tfyolo.messages import counted

SHARD_BYTES = 200_000_000
AHEAD = 64  # images that are read before they are written


class WriteError(Error):
    """Shards cannot be written. The message says why and what to do."""


class Written(NamedTuple):
    """What was written.

    Attributes:
        files: the shards.
        records: how many images they hold.
        skipped: (file, reason) of each image that cannot be read.
    """

    files: tuple[str, ...]
    records: int
    skipped: tuple[tuple[str, str], ...]


def write(source, folder, shards=None, *, overwrite=False, check=False, progress=True) -> Written:
    """Writes a Source as <split>-00000-of-00004.tfrecord, ..., and <split>.json.

    Images that cannot be read are left out. The shards get their names only when all are complete; those of an earlier
    time are removed only then. Where it was interrupted before, the same call goes on behind the last shard that was
    whole; what it has written whole stays as it is.

    Args:
        source: a Source.
        folder: where to; made if it is not there.
        shards: how many; None: of about 200 MB each.
        overwrite: replaces the shards of this split that lie there.
        check: decodes every image, on all cores; else those alone whose header or end is not as it should be.
        progress: shows a bar on standard error.

    Raises:
        WriteError: the folder has shards of this split, or there cannot be so many.
        Taken: another process writes this split there.
    """
    import tensorflow as tf  # which readers do without

    folder = local(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if shards is None:
        shards = -(-sum(_length(path, span) for path, span in source.records.files()) // SHARD_BYTES) or 1
    check_shards(source, shards)
    names = [f"{source.split}-{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
    ids, skipped, plan = _numbers_of(source), [], _plan(source, shards, check)
    aside = folder / f".{source.split}.unfinished"
    old = [file for file in folder.iterdir() if split_of(file.name) == source.split]
    beside = folder / f"{source.split}.json"
    if beside.exists() and not _is_own(beside, old):
        raise WriteError(f"{beside} is no file of make-tfrecords; expected another folder")
    if old and not overwrite:
        if written := _written_before(folder, source, names, plan, old):
            if _text(aside / "plan") == plan:  # a call that was killed at its very end
                shutil.rmtree(aside, ignore_errors=True)
            return written
        if _text(aside / "plan") != plan:  # else it was interrupted while the shards got their names
            raise WriteError(
                f"{folder} has {counted(len(old), 'shard')} of {source.split} already; expected another folder, or "
                "--overwrite"
            )
    with _unfinished(aside, plan):
        parts = {name: source.records[shard::shards] for shard, name in enumerate(names)}
        left = [name for name in names if _left_out(aside, folder, name) is None]
        if progress and len(left) < len(names):
            done = f"{len(names) - len(left)} of {counted(len(names), 'shard')}"
            print(f"{source.split}: goes on; {done} are written", file=sys.stderr, flush=True)
        broken = {}
        if check and left:
            places = np.concatenate([np.arange(len(source.records))[names.index(name) :: shards] for name in left])
            broken = _broken(source._replace(records=source.records[np.sort(places)]), progress)
        bar = tqdm(
            total=sum(len(parts[name]) for name in left),
            desc=f"writing {source.split}",
            unit="images",
            disable=not progress or None,
        )
        with ThreadPoolExecutor() as threads, bar:
            for name in left:
                faults = []
                with tf.io.TFRecordWriter(os.path.join(aside, name)) as writer:
                    for record, encoded, fault in _read_ahead(parts[name], source.max_pixels, broken, threads):
                        bar.update()
                        if fault:
                            faults.append((record.path, fault))
                        else:
                            writer.write(_encode(record, encoded, source.classes, ids).SerializeToString())
                noted = {"bytes": (aside / name).stat().st_size, "skipped": faults}
                write_text(aside / f"{name}.json", json.dumps(noted))  # now the shard is whole
        for name in names:
            skipped += _left_out(aside, folder, name)
        described = {
            "categories": [{"id": number, "name": name} for number, name in zip(ids, source.classes, strict=True)],
            "integer_ids": all(isinstance(image_id, int) for image_id in source.records.ids()),
            "plan": plan,
            "bytes": [_object(aside / f"{name}.json")["bytes"] for name in names],
            "skipped": skipped,
        }
        Path(aside, f"{source.split}.json").write_text(
            json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8"
        )
        for name in filter(os.listdir(aside).__contains__, [*names, f"{source.split}.json"]):  # others have theirs
            atomic_replace(os.path.join(aside, name), folder / name)
        for file in old:  # only now: whatever goes wrong before leaves every image in one shard or the other
            if file.name not in names:
                file.unlink()
    return Written(tuple(str(folder / name) for name in names), len(source.records) - len(skipped), tuple(skipped))


def check_shards(source, shards):
    """Raises WriteError if there cannot be so many shards of a Source. shards: None: as many as its size asks for."""
    if shards is not None and not 0 < shards <= len(source.records):
        raise WriteError(
            f"shards: expected 1..{len(source.records)}, the number of images of {source.split}, received {shards}"
        )


def _plan(source, shards, check):
    """What tells one call from others: a digest of the records, of the states of their files, and of the options."""
    plan = [shards, check, source.max_pixels, source.classes, source.category_ids]
    digest = hashlib.blake2b(json.dumps(plan).encode())
    for column in source.records.columns():
        digest.update(np.ascontiguousarray(column))
    paths = list(dict.fromkeys(path for path, _ in source.records.files()))
    digest.update(np.int64(states(paths)))  # an image may have been replaced since
    return digest.hexdigest()


def _is_own(beside, old):
    """Whether the file of a split's classes was written here, and is no other file of that name, such as COCO's."""
    return beside.is_file() and (old or "categories" in _object(beside)) and "annotations" not in _object(beside)


def _text(file):
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _object(file):
    """What a JSON file holds, if that is an object; else, or without the file, {}."""
    try:
        found = parse_json(_text(file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _skipped(noted):
    """[(path, reason)] of a note on shards; None if it does not hold such."""
    pairs = noted.get("skipped")
    if not isinstance(pairs, list) or not all(isinstance(each, list) and len(each) == 2 for each in pairs):
        return None
    return (
        [(path, reason) for path, reason in pairs] if all(isinstance(x, str) for each in pairs for x in each) else None
    )


def _left_out(aside, folder, name):
    """[(path, reason)] of the images that a shard leaves out; None if the shard is not whole."""
    noted = _object(aside / f"{name}.json")
    sizes = [(at / name).stat().st_size for at in (aside, folder) if (at / name).is_file()]
    return _skipped(noted) if sizes and sizes[0] == noted.get("bytes") else None


def _written_before(folder, source, names, plan, old):
    """What an earlier call has Written by the same plan; None if none has, or not just that is there."""
    described = _object(folder / f"{source.split}.json")
    skipped = _skipped(described)
    if described.get("plan") != plan or skipped is None or {file.name for file in old} != {*names}:
        return None
    if [file.stat().st_size for file in sorted(old)] != described.get("bytes"):
        return None
    files = tuple(str(folder / name) for name in names)
    return Written(files, len(source.records) - len(skipped), tuple(skipped))


@contextlib.contextmanager
def _unfinished(aside, plan):
    """Holds a folder for what is not complete yet, in the `with`.

    It has what an earlier call of the same plan has written: the shards that have a .json beside them are whole. Where
    the `with` is left by an error, it stays, if it has one.
    """
    aside.mkdir(exist_ok=True)
    with folders.held(aside):
        if _text(aside / "plan") != plan:
            for path in aside.glob("*.tfrecord*"):
                path.unlink()
            write_text(aside / "plan", plan)
        kept = False
        try:
            yield
        except BaseException:
            kept = any(aside.glob("*.tfrecord.json"))
            raise
        finally:
            if not kept:
                shutil.rmtree(aside)


def _broken(source, progress):
    """{(path, span): what is wrong} of images that cannot be decoded."""
    from tfyolo.data.check_images import check_images

    (checks,) = check_images({source.split: source}, progress).values()
    return {
        (record.path, record.span): "; ".join(problem.message for problem in each.problems)
        for record, each in zip(source.records, checks, strict=True)
        if each.digest is None
    }


def _read_ahead(records, most_pixels, broken, threads):
    """(record, the bytes of its image, what is wrong with it or "") for each, in order; files are read by threads."""

    def read(record):
        if fault := broken.get((record.path, record.span)):
            return record, b"", fault
        try:
            encoded = image_bytes(record)
            _check(encoded, most_pixels)
        except (OSError, ImageError) as error:
            return record, b"", str(error)
        return record, encoded, ""

    for start in range(0, len(records), AHEAD):
        yield from threads.map(read, records[start : start + AHEAD])


def _check(encoded, most_pixels):
    """Raises ImageError unless an image is one by its header and its end; where these leave doubt, it is decoded."""
    _, contents = checked_contents(encoded, most_pixels)
    end = ENDS.get(kind_of(contents))
    if end is None or not contents.rstrip(b"\0").endswith(end) or not surely_fits(contents, most_pixels):
        from tfyolo.data.decoding import read_image  # which imports TensorFlow

        read_image(contents, most_pixels)


def _numbers_of(source):
    """The numbers of the classes: the files' own, unless they are none."""
    whole = all(isinstance(number, int) and abs(number) < 1 << 63 for number in source.category_ids)
    return source.category_ids if whole else tuple(range(1, len(source.classes) + 1))


def _length(path, span):
    try:
        return span[1] if span else size_of(path)
    except OSError:
        return 0


def _encode(record, encoded, classes, ids):
    import tensorflow as tf

    # The stated size, even if it is wrong, is what the boxes count in; reading multiplies by it again.
    height, width = record.size
    y1, x1, y2, x2 = np.float64(record.boxes).T
    octets = {
        "image/encoded": [encoded],
        "image/format": [_FORMATS.get(encoded[:2], b"")],
        "image/filename": [os.path.basename(record.path).encode()],
        "image/source_id": [str(record.image_id).encode()],
        "image/object/class/text": [classes[label].encode() for label in record.labels],
    }
    floats = {
        "image/object/bbox/ymin": y1 / height,
        "image/object/bbox/xmin": x1 / width,
        "image/object/bbox/ymax": y2 / height,
        "image/object/bbox/xmax": x2 / width,
        "image/object/area": record.areas,
    }
    integers = {
        "image/height": [height],
        "image/width": [width],
        "image/object/class/label": [ids[label] for label in record.labels],
        "image/object/is_crowd": record.crowd.astype(int),
        "image/object/difficult": (record.difficult & np.ones_like(record.crowd)).astype(int),
    }
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for key, value in octets.items()}
    feature |= {key: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for key, value in floats.items()}
    feature |= {key: tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for key, value in integers.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature))


_FORMATS = {b"\xff\xd8": b"jpeg", b"\x89P": b"png"}
