"""A Source written as TFRecord shards, with the bytes of its images as they are."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tfyolo.data.contents import ENDS, ImageError, checked_contents
from tfyolo.data.headers import kind_of, surely_fits
from tfyolo.data.sources.seen import states
from tfyolo.data.sources.source import image_bytes
from tfyolo.data.unfinished import Unfinished, is_description, plan_of
from tfyolo.errors import Error
from tfyolo.files import local
from tfyolo.messages import counted
from tfyolo.remote import UnansweredError

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
    time are removed only then. The same call once more goes on behind the last shard that was whole; where all are, it
    changes nothing.

    Args:
        source: a Source.
        folder: where to; made if it is not there.
        shards: how many; None: of about 200 MB each.
        overwrite: replaces the shards of this split that lie there.
        check: decodes every image, on all cores; else those alone whose header or end is not as it should be.
        progress: shows a bar on standard error.

    Raises:
        WriteError: the folder has shards of this split, or a <split>.json that is another file; or there cannot be so
            many.
        Taken: another process writes this split there.
    """
    import tensorflow as tf  # which readers do without

    folder = local(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = _sizes(source)
    if shards is None:
        shards = -(-sum(sizes.lengths) // SHARD_BYTES) or 1
    check_shards(source, shards)

    names = [f"{source.split}-{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
    made = Unfinished(folder, source.split, names, plan_of(source, [shards, check], sizes.states))
    described = folder / f"{source.split}.json"
    if described.exists() and not is_description(described, made.old):
        raise WriteError(f"{described} is no file of make-tfrecords; expected another folder")
    if made.old and not overwrite:
        if described.exists() and (skipped := made.written_before()) is not None:
            return _written(source, folder, names, skipped)
        if not made.goes_on:
            raise WriteError(
                f"{folder} has {counted(len(made.old), 'shard')} of {source.split} already; expected another folder, "
                "or overwrite (--overwrite)"
            )
    ids = _numbers_of(source)
    with made.held() as aside:
        parts = {name: source.records[shard::shards] for shard, name in enumerate(names)}
        left = [name for name in names if made.left_out(name) is None]
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
                            writer.write(
                                _encode(record, encoded, source.classes, ids).SerializeToString(deterministic=True)
                            )
                made.note(name, faults)
        content = {
            "categories": [{"id": number, "name": name} for number, name in zip(ids, source.classes, strict=True)],
            "integer_ids": all(isinstance(image_id, int) for image_id in source.records.ids()),
        }
        (aside / described.name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        skipped = made.publish(described.name)
    return _written(source, folder, names, skipped)


def _written(source, folder, names, skipped):
    return Written(tuple(str(folder / name) for name in names), len(source.records) - len(skipped), tuple(skipped))


class _Sizes(NamedTuple):
    """Of the images of a Source: lengths: bytes of each; states: of their files, as seen.states gives them."""

    lengths: list
    states: list


def _sizes(source):
    files = list(source.records.files())
    paths = list(dict.fromkeys(path for path, _ in files))
    found = dict(zip(paths, states(paths), strict=True))
    return _Sizes([span[1] if span else max(0, found[path][0]) for path, span in files], list(found.values()))


def check_shards(source, shards):
    """Raises WriteError if there cannot be so many shards of a Source. shards: None: as many as its size asks for."""
    if shards is not None and not 0 < shards <= len(source.records):
        raise WriteError(
            f"shards: expected 1..{len(source.records)}, the number of images of {source.split}, received {shards}"
        )


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
        except UnansweredError:  # of no image, but of the network
            raise
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
