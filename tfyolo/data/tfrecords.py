"""TFRecord shards, indexed so that an image is one seek and one read.

A shard is a row of tf.train.Examples with the keys of the TensorFlow Object Detection API: image/encoded,
image/source_id, image/object/bbox/{ymin,xmin,ymax,xmax} in 0..1, image/object/class/{label,text}, ... Labels are the
category ids of the source. <split>.json beside the shards holds the class of each id, also of those that no image has.
"""

import collections
import contextlib
import itertools
import mmap
import os
import re
import struct
from typing import NamedTuple

from tfyolo.data.sources.seen import is_file, looked_at
from tfyolo.errors import Error
from tfyolo.files import address, open_regular, parse_json, read_regular
from tfyolo.messages import counted
from tfyolo.remote import UnansweredError


class ShardError(Error):
    """A shard is damaged. `examples` are those that stand before the damage."""

    def __init__(self, message, examples=()):
        super().__init__(message)
        self.examples = list(examples)


class Example(NamedTuple):
    """What one record holds.

    Attributes:
        place: its number in the shard.
        size: (H, W) or None.
        boxes_unit: [M] of (y1, x1, y2, x2) in 0..1.
        labels: [M] category ids, or empty if there are only texts.
        texts: [M] or empty; crowd, areas and difficult likewise.
        span: (offset, length) of the image's bytes in the shard, or None.
        damaged: whether nothing of it could be read.
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


def index(shard) -> list[Example]:
    """All Examples of a shard, without their images: of those only the place is noted, their bytes are not read.

    Args:
        shard: its path.

    Raises:
        ShardError: the file ends early or is not TFRecord.
    """
    looked_at(shard)
    examples = []
    with open_regular(shard) as stream, _bytes_of(stream, shard) as data:
        length, at, is_window = stream.seek(0, os.SEEK_END), 0, isinstance(data, _Window)
        while at < length:
            try:
                (size,) = struct.unpack("<Q", data[at : at + 8])  # length, its checksum, the record, its checksum
                if not size or at + 16 + size > length:
                    raise ValueError
            except (ValueError, struct.error):
                what = "cut off or damaged" if examples else "damaged, or not a TFRecord file of tf.train.Examples"
                raise ShardError(f"{what} at byte {at}, after {counted(len(examples), 'record')}", examples) from None
            if is_window:
                data.cover(at, at + 16 + size)
            try:
                examples.append(_example(data, at + 12, at + 12 + size, len(examples)))
            except (ValueError, IndexError, KeyError, struct.error):
                examples.append(Example(len(examples), "", "", None, [], [], [], [], [], None, [], damaged=True))
            at += 16 + size
    return examples


def _bytes_of(stream, shard):
    """What gives the bytes of an open shard by their places, in a `with`: a memory map where there can be one."""
    if address(shard):
        return contextlib.nullcontext(_Window(stream))
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(stream.fileno()).st_size else stream


class _Window:
    """The bytes of a stream by their places. It reads ahead, images too: to ask a network again costs more."""

    def __init__(self, stream):
        self.stream, self.start, self.bytes = stream, 0, b""

    def cover(self, first, last):
        """Reads on, unless it has all from a place to another."""
        if first < self.start or last > self.start + len(self.bytes):
            self.stream.seek(first)
            self.start, self.bytes = first, self.stream.read(max(_AHEAD, last - first))

    def __getitem__(self, place):
        first, last = (place.start, place.stop) if isinstance(place, slice) else (place, place + 1)
        self.cover(first, last)
        found = self.bytes[first - self.start : last - self.start]
        return found if isinstance(place, slice) else found[0]


_AHEAD = 8 << 20  # bytes


def begins_well(shard) -> bool:
    """Whether a file begins as a shard does: with the length of a record that is in it."""
    looked_at(shard)
    with open_regular(shard) as stream:
        head = stream.read(13)
        room = stream.seek(0, os.SEEK_END) - 16
    return len(head) == 13 and 0 < struct.unpack_from("<Q", head)[0] <= room and head[12:] == b"\n"


MOST_DESCRIBED = 4 << 20  # bytes of a <split>.json or a label map


def read_classes(shards, maps=()):
    """The classes of shards: ({category id: name}, whether image ids are numbers); ({}, False) if nothing names them.

    Args:
        shards: of a split; its <split>.json beside them goes first.
        maps: files that may be label maps, .pbtxt.

    Raises:
        ShardError: a file is there and holds something else.
    """
    folder, name = os.path.split(shards[0])
    described = os.path.join(folder, f"{split_of(name)}.json")
    if is_file(described):
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
    """{id: name} of a label map of the TensorFlow Object Detection API; {} if the file is none.

    A display_name counts before a name.
    """
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
    looked_at(file)
    try:
        return read_regular(file, MOST_DESCRIBED)
    except UnansweredError:  # of no file, but of the network: reading ends
        raise
    except OSError as error:
        raise ShardError(f"{file}: cannot be read: {error.strerror}") from None


_SHARD = re.compile(r"(?P<split>.+?)(?:\.(?:tf_?records?|record))?(?:-\d{5}-of-\d{5})?(?:\.(?:tf_?records?|record))?")
_IS_SHARD = re.compile(r".+\.(?:tf_?records?|record)(?:-\d{5}-of-\d{5})?|.+-\d{5}-of-\d{5}")


def incomplete(shards) -> list[str]:
    """What is wrong with sets of shards, by names such as train-00000-of-00004.tfrecord.

    Args:
        shards: paths of the shards of a split.

    Returns:
        A text for each set of which shards are missing; one, if there are several sets of one name.
    """
    sets = {}
    for shard in map(os.path.basename, shards):
        if found := _NUMBERED.search(shard):
            sets.setdefault((shard[: found.start()], found["of"]), set()).add(int(found["number"]))
    found = [
        f"{int(of) - len(numbers)} of {counted(int(of), 'shard')} are missing; copy all, or give make-tfrecords again"
        for (_, of), numbers in sets.items()
        if len(numbers) < int(of)
    ]
    for name, count in collections.Counter(name for name, _ in sets).items():
        if count > 1:
            sizes = " and ".join(str(int(of)) for other, of in sets if other == name)
            found.append(f"sets of {sizes} shards called {name} lie side by side; remove all but one")
    return found


_NUMBERED = re.compile(r"-(?P<number>\d{5})-of-(?P<of>\d{5})")


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
    """The list of a Feature: (start, end) spans of a BytesList, the numbers of another.

    Raises ValueError if it is not of the kind.
    """
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
