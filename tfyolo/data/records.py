"""TFRecord shards: written with the pictures' own bytes, and indexed so that a picture is one seek and one read.

A shard is a row of tf.train.Examples with the keys of the TensorFlow Object Detection API: image/encoded,
image/source_id, image/object/bbox/{ymin,xmin,ymax,xmax} in 0..1, image/object/class/{label,text}, ... Labels are the
category ids of the source. <split>.json beside the shards holds the class of each id, also of those that no picture
has.
"""

import itertools
import json
import mmap
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tfyolo import checkpoint
from tfyolo.files import open_regular, parse_json, read_regular
from tfyolo.messages import counted

SHARD_BYTES = 200_000_000


class ShardError(ValueError):
    """A shard is damaged. `examples` are those that stand before the damage."""

    def __init__(self, message, examples=()):
        super().__init__(message)
        self.examples = list(examples)


class WriteError(ValueError):
    """Shards cannot be written. The message says why and what to do."""


class Example(NamedTuple):
    """What one record says.

    place: its number in the shard. size: (H, W) or None. boxes_unit: [M] of (y1, x1, y2, x2) in 0..1. labels: [M]
    category ids, or empty if there are only texts. texts, crowd, areas, difficult: [M] or empty. span: (offset, length) of
    the picture's bytes in the shard, or None. damaged: whether nothing of it could be read.
    """

    place: int
    source_id: str
    filename: str
    size: tuple[int, int] | None
    boxes_unit: list[tuple[float, float, float, float]]
    labels: list[int]
    texts: list[str]
    crowd: list[bool]
    areas: list[float]
    span: tuple[int, int] | None
    difficult: list[bool]
    damaged: bool = False


# --- reading ----------------------------------------------------------------------------------------------------------


def index(shard) -> list[Example]:
    """All Examples of a shard, without their pictures: of those only the place is noted, their bytes are not read.

    Raises ShardError where the file ends early or is not TFRecord.
    """
    examples = []
    with open_regular(shard) as stream:
        length = os.fstat(stream.fileno()).st_size
        if not length:
            return []
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 0
            while at < length:
                try:
                    (size,) = struct.unpack_from("<Q", data, at)  # length, its checksum, the record, its checksum
                    if not size or at + 16 + size > length:
                        raise ValueError
                except (ValueError, struct.error):
                    what = "cut off or damaged" if examples else "damaged, or not a TFRecord file of tf.train.Examples"
                    raise ShardError(
                        f"{what} at byte {at}, after {counted(len(examples), 'record')}", examples
                    ) from None
                try:
                    examples.append(_example(data, at + 12, at + 12 + size, len(examples)))
                except (ValueError, IndexError, KeyError, struct.error):
                    examples.append(Example(len(examples), "", "", None, [], [], [], [], [], None, [], damaged=True))
                at += 16 + size
    return examples


def begins_well(shard) -> bool:
    """Whether a file begins as a shard does: with the length of a record that is in it."""
    with open_regular(shard) as stream:
        head = stream.read(13)
        room = os.fstat(stream.fileno()).st_size - 16
    return len(head) == 13 and 0 < struct.unpack_from("<Q", head)[0] <= room and head[12:] == b"\n"


MOST_DESCRIBED = 4 << 20  # bytes of a <split>.json or a label map


def read_classes(shards, maps=()):
    """({category id: name}, whether image ids are numbers) of the <split>.json beside the shards, else of a label map; ({}, False) without.

    maps: files that may be label maps, .pbtxt. Raises ShardError if a file is there and says something else.
    """
    described = Path(shards[0]).with_name(f"{split_of(Path(shards[0]).name)}.json")
    if described.is_file():
        return _described(described)
    for file in maps:
        if classes := _label_map(file):
            return classes, False
    return {}, False


def _described(file):
    try:
        content = parse_json(_bounded(file))
        classes = {entry["id"]: entry["name"] for entry in content["categories"]}
        integer_ids = content["integer_ids"]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{file}: expected what tfyolo writes beside its shards ({type(error).__name__}); write them anew"
        ) from None
    if not (classes and all(type(number) is int and isinstance(name, str) for number, name in classes.items())):
        raise ShardError(
            f"{file}: expected `categories` with a number as `id` and a `name` each; write the shards anew"
        )
    return classes, integer_ids is True


def _label_map(file):
    """{id: name} of a label map of the TensorFlow Object Detection API; {} if the file is none. A display_name counts before a name."""
    text, classes, item = _bounded(file).decode("utf-8", "replace"), {}, None
    # One token after the other: braces, keys, and values with or without quotes.
    tokens = re.findall(r"""[{}]|\w+(?=\s*[:{])|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|-?\d+""", text)
    for token, following in itertools.pairwise([*tokens, ""]):
        if token == "item" and following == "{":
            item = {}
        elif token == "}" and item is not None:
            name = item.get("display_name") or item.get("name")
            if name and item.get("id", "").lstrip("-").isdecimal() and len(item["id"]) < 19:
                classes[int(item["id"])] = name
            item = None
        elif item is not None and token in ("id", "name", "display_name"):
            item.setdefault(token, following[1:-1] if following[:1] in "\"'" else following)
    return classes


def _bounded(file):
    try:
        return read_regular(file, MOST_DESCRIBED)
    except OSError as error:
        raise ShardError(f"{file}: cannot be read: {error.strerror}") from None


_SHARD = re.compile(r"(?P<split>.+?)(?:\.(?:tf_?records?|record))?(?:-\d{5}-of-\d{5})?(?:\.(?:tf_?records?|record))?")
_IS_SHARD = re.compile(r".+\.(?:tf_?records?|record)(?:-\d{5}-of-\d{5})?|.+-\d{5}-of-\d{5}")


def split_of(name):
    """The split in a shard's file name, such as train-00000-of-00004.tfrecord; None if it is no shard's name."""
    return _SHARD.fullmatch(name)["split"] if _IS_SHARD.fullmatch(name) else None


def _example(data, start, end, place):
    features = {}
    for number, message in _fields(data, start, end):  # Example.features
        if number == 1:
            for _, pair in _fields(data, *message):  # Features.feature, a map: entries of key and value
                entry = dict(_fields(data, *pair))
                features[data[slice(*entry[1])].decode()] = entry.get(2)

    def values(key, kind):
        return _values(data, *features[key], kind) if features.get(key) else []

    def texts(key):
        return [data[first:last].decode("utf-8", "replace") for first, last in values(key, BYTES)]

    def flags(key):
        return [bool(value) for value in values(key, INTEGERS)]

    sides = [(values(f"image/{side}", INTEGERS) or [0])[0] for side in ("height", "width")]
    corners = (values(f"image/object/bbox/{key}", FLOATS) for key in ("ymin", "xmin", "ymax", "xmax"))
    boxes = list(zip(*corners, strict=True))
    labels, classes = values("image/object/class/label", INTEGERS), texts("image/object/class/text")
    crowd, difficult = flags("image/object/is_crowd"), flags("image/object/difficult")
    areas = values("image/object/area", FLOATS)
    if len(labels or classes) != len(boxes) or not {len(crowd), len(difficult), len(areas)} <= {0, len(boxes)}:
        raise ValueError
    return Example(
        place,
        next(iter(texts("image/source_id")), ""),
        next(iter(texts("image/filename")), ""),
        (sides[0], sides[1]) if min(sides) > 0 else None,
        boxes,
        labels,
        classes,
        crowd,
        areas,
        next(((first, last - first) for first, last in values("image/encoded", BYTES)), None),
        difficult,
    )


BYTES, FLOATS, INTEGERS = 1, 2, 3  # the lists that a Feature may hold, by their numbers


def _values(data, start, end, wanted):
    """The list of a Feature: (start, end) spans of a BytesList, the numbers of another. Raises ValueError if it is not of the kind."""
    result = []
    for kind, values in _fields(data, start, end):
        if kind != wanted:
            raise ValueError
        for _, (first, last) in _fields(data, *values):
            if kind == BYTES:
                result.append((first, last))
            elif kind == FLOATS:
                result += struct.unpack(f"<{(last - first) // 4}f", data[first:last])
            else:
                while first < last:
                    value, first = _varint(data, first)
                    result.append(value - (1 << 64) if value >> 63 else value)
    return result


def _fields(data, start, end):
    """(number, (start, end) of the content) of each field of a protocol buffer's message, by its wire format."""
    while start < end:
        key, start = _varint(data, start)
        wire = key & 7
        if wire == 2:
            size, start = _varint(data, start)
            after = start + size
        elif wire == 0:
            _, after = _varint(data, start)
        elif wire in (1, 5):
            after = start + (8 if wire == 1 else 4)
        else:
            raise ValueError
        if after > end:
            raise ValueError
        yield key >> 3, (start, after)
        start = after


def _varint(data, at):
    value = 0
    for shift in range(0, 70, 7):  # of 64 bits
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError


# --- writing ----------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """files: the shards. records: how many pictures they hold. skipped: (file, reason) of those that cannot be read."""

    files: tuple[str, ...]
    records: int
    skipped: tuple[tuple[str, str], ...]


def write(source, folder, shards=None, *, overwrite=False, progress=True) -> Written:
    """A Source as <split>-00000-of-00004.tfrecord, ... and <split>.json in `folder`, with the bytes of its pictures.

    shards: how many; None: of about 200 MB. Each picture is decoded once, to leave out the broken ones. The shards
    get their names only when all are complete. Raises WriteError if the folder has shards of this split, unless
    `overwrite`.
    """
    import tensorflow as tf  # which readers do without

    from tfyolo.data.pipeline import ImageError, read_image  # which imports readers, and they this file's index

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = [file for file in folder.iterdir() if split_of(file.name) == source.split]
    if old and not overwrite:
        raise WriteError(
            f"{folder} has {counted(len(old), 'shard')} of {source.split} already; expected another folder, or overwrite"
        )
    if shards is None:
        shards = -(-sum(_length(record) for record in source.records) // SHARD_BYTES) or 1
    if not 0 < shards <= len(source.records):
        raise WriteError(f"shards: expected 1..{len(source.records)}, the number of pictures, received {shards}")

    skipped = []
    bar = tqdm(total=len(source.records), desc=f"writing {source.split}", unit="pictures", disable=not progress or None)
    with checkpoint.scratch(folder, "writing") as aside, bar:
        names = [f"{source.split}-{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
        for shard, name in enumerate(names):
            with tf.io.TFRecordWriter(os.path.join(aside, name)) as writer:
                for record in source.records[shard::shards]:
                    bar.update()
                    try:
                        encoded = contents(record)
                        read_image(encoded, source.max_pixels)
                        writer.write(_encode(record, encoded, source).SerializeToString())
                    except (OSError, ImageError) as error:
                        skipped.append((record.path, str(error)))
        ids = _numbers_of(source)
        described = {
            "categories": [{"id": number, "name": name} for number, name in zip(ids, source.classes, strict=True)],
            "integer_ids": all(isinstance(record.image_id, int) for record in source.records),
        }
        Path(aside, f"{source.split}.json").write_text(
            json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8"
        )
        for file in old:
            file.unlink()
        for name in [*names, f"{source.split}.json"]:
            checkpoint.replace(os.path.join(aside, name), folder / name)
    return Written(tuple(str(folder / name) for name in names), len(source.records) - len(skipped), tuple(skipped))


def contents(record) -> bytes:
    """The bytes of a Record's picture. Raises OSError."""
    return read_bytes(record.path, record.span)


def read_bytes(path, span=None) -> bytes:
    """The bytes of a file, or of a span (offset, length) inside it. Raises OSError, also for what is no regular file."""
    with open_regular(path) as stream:
        if span is None:
            return stream.read()
        stream.seek(span[0])
        return stream.read(span[1])


def _numbers_of(source):
    """The numbers of the classes: the files' own, unless they are none."""
    whole = all(isinstance(number, int) and abs(number) < 1 << 63 for number in source.category_ids)
    return source.category_ids if whole else tuple(range(1, len(source.classes) + 1))


def _length(record):
    try:
        return record.span[1] if record.span else os.path.getsize(record.path)
    except OSError:
        return 0


def _encode(record, encoded, source):
    import tensorflow as tf

    # The stated size, even if it is wrong, is what the boxes count in; reading multiplies by it again.
    height, width = record.size
    y1, x1, y2, x2 = np.float64(record.boxes).T
    octets = {
        "image/encoded": [encoded],
        "image/format": [_FORMATS.get(encoded[:2], b"")],
        "image/filename": [os.path.basename(record.path).encode()],
        "image/source_id": [str(record.image_id).encode()],
        "image/object/class/text": [source.classes[label].encode() for label in record.labels],
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
        "image/object/class/label": [_numbers_of(source)[label] for label in record.labels],
        "image/object/is_crowd": record.crowd.astype(int),
        "image/object/difficult": (record.difficult & np.ones_like(record.crowd)).astype(int),
    }
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for key, value in octets.items()}
    feature |= {key: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for key, value in floats.items()}
    feature |= {key: tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for key, value in integers.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature))


_FORMATS = {b"\xff\xd8": b"jpeg", b"\x89P": b"png"}
