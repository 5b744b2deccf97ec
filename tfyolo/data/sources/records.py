"""Records in columns: a million images are a dozen arrays, and a Record is made when one is asked for.

What goes through all images (counts of classes, sizes of boxes, divisions) works on the arrays themselves: `labels` has
those of all boxes, `counts` how many of them each image has.
"""

import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Record(NamedTuple):
    """One image and what is known about it.

    Difficult objects and crowds are not learned, nor are candidates inside them background; evaluation.matching says
    how a detection of one is counted.

    Attributes:
        image_id: int or str, as in the annotations.
        path: the file that holds the image.
        boxes: [M, 4] float32 (y1, x1, y2, x2), pixels of the image seen upright, clipped to it.
        labels: [M] int32.
        crowd: [M] bool, COCO's crowds: one box round many objects.
        areas: [M] float32 pixels, by which COCO's metrics sort small, medium and large: the file's `area`, else the
            box's.
        size: (H, W) as the annotations state it, else that of the file.
        span: (offset, length) of the image inside `path`; None if it is all of it.
        difficult: [M] bool, VOC's difficult objects; False where none is.
    """

    image_id: Any
    path: str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    size: tuple[int, int]
    span: tuple[int, int] | None = None
    difficult: Any = False

    @property
    def ignored(self):
        """[M] bool: the boxes that are neither learned nor counted."""
        return self.crowd | self.difficult


class Columns(NamedTuple):
    """The arrays of N images and their T boxes. `x_ends` [N + 1] says where in `x` each image's part begins and ends.

    Attributes:
        folders: [bytes] uint8, the folders of the paths, each once.
        folders_ends: [F + 1] int64.
        folder: [N] int32, of each path.
        names: [bytes] uint8, the files' names.
        names_ends: [N + 1] int64.
        ids: [bytes] uint8, the image ids in JSON.
        ids_ends: [N + 1] int64.
        spans: [N, 2] int64; -1 where the image is all of its file; [0, 2] if all are.
        sizes: [N, 2] int32 (H, W).
        boxes: [T, 4] float32.
        boxes_ends: [N + 1] int64.
        labels: [T] int32.
        crowd: [T] bool.
        difficult: [T] bool.
        areas: [T] float32.
    """

    folders: np.ndarray
    folders_ends: np.ndarray
    folder: np.ndarray
    names: np.ndarray
    names_ends: np.ndarray
    ids: np.ndarray
    ids_ends: np.ndarray
    spans: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    boxes_ends: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray


class Records(Sequence):
    """A sequence of Records, kept as Columns.

    A slice, a list of places and a boolean mask select Records; `records * 3` has each of them three times. A selection
    shares the Columns.

    Args:
        columns: Columns.
        places: [N] of the images in the columns, in order; None: all of them.
    """

    def __init__(self, columns: Columns, places: np.ndarray | None = None):
        self._columns, self._places = columns, places

    @classmethod
    def of(cls, items) -> "Records":
        """Any Records, in columns.

        Args:
            items: Records, a RecordsBuilder that has them, or an iterable of single ones.
        """
        if isinstance(items, cls):
            return items
        return (items if isinstance(items, RecordsBuilder) else RecordsBuilder(items)).records()

    def __len__(self) -> int:
        return len(self._columns.folder) if self._places is None else len(self._places)

    def __getitem__(self, chosen):
        if isinstance(chosen, slice | list | np.ndarray):
            return Records(self._columns, self.places[chosen])
        place = range(len(self))[chosen]  # IndexError past the end, as of every sequence
        return self._record(place if self._places is None else self._places[place])

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, range(len(self)) if self._places is None else self._places)

    def __mul__(self, times: int) -> "Records":
        return Records(self._columns, np.tile(self.places, times))

    def __eq__(self, other) -> bool:
        """Whether both are the same images of the same reading, in the same order."""
        if not isinstance(other, Records):
            return NotImplemented
        return self._columns is other._columns and np.array_equal(self.places, other.places)

    __hash__ = None

    def __repr__(self):
        return f"Records({len(self)})"

    def _record(self, place):
        c = self._columns
        start, end = c.boxes_ends[place : place + 2].tolist()
        return Record(
            json.loads(_text(c.ids, c.ids_ends, place)),
            self._path(place),
            c.boxes[start:end],
            c.labels[start:end],
            c.crowd[start:end],
            c.areas[start:end],
            tuple(c.sizes[place].tolist()),
            self._span(place),
            c.difficult[start:end],
        )

    def _path(self, place):
        c = self._columns
        return _text(c.folders, c.folders_ends, c.folder[place]) + _text(c.names, c.names_ends, place)

    def _span(self, place):
        spans = self._columns.spans
        return tuple(spans[place].tolist()) if len(spans) and spans[place, 1] >= 0 else None

    # --- of single images, without their Records ----------------------------------------------------------------------

    @property
    def places(self) -> np.ndarray:
        """[N] of the images in the columns; equal ones are the same image."""
        return np.arange(len(self)) if self._places is None else self._places

    def files(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """(path, span) of each image."""
        return ((self._path(place), self._span(place)) for place in self.places.tolist())

    def ids(self) -> Iterator[int | str]:
        """The image ids."""
        c = self._columns
        return (json.loads(_text(c.ids, c.ids_ends, place)) for place in self.places.tolist())

    @property
    def sizes(self) -> np.ndarray:
        """[N, 2] int32 (H, W)."""
        return self._columns.sizes if self._places is None else self._columns.sizes[self._places]

    @property
    def counts(self) -> np.ndarray:
        """[N] int64, the boxes of each image."""
        counts = np.diff(self._columns.boxes_ends)
        return counts if self._places is None else counts[self._places]

    def shard_starts(self, run: int) -> np.ndarray:
        """[S] int64: where the shards begin. Without shards, or within one that is read backwards, every `run` images.

        Args:
            run: images.
        """
        spans = self._columns.spans
        if not len(spans):
            return np.arange(0, len(self), run)
        offsets = spans[self.places, 0]
        return np.concatenate([[0], np.flatnonzero(offsets[1:] <= offsets[:-1]) + 1])

    # --- of all boxes, image by image ---------------------------------------------------------------------------------

    def _of_boxes(self, column):
        return column if self._places is None else column[_rows(self._columns.boxes_ends, self._places)]

    @property
    def boxes(self) -> np.ndarray:
        """[T, 4] float32 (y1, x1, y2, x2)."""
        return self._of_boxes(self._columns.boxes)

    @property
    def labels(self) -> np.ndarray:
        """[T] int32."""
        return self._of_boxes(self._columns.labels)

    @property
    def crowd(self) -> np.ndarray:
        """[T] bool."""
        return self._of_boxes(self._columns.crowd)

    @property
    def difficult(self) -> np.ndarray:
        """[T] bool."""
        return self._of_boxes(self._columns.difficult)

    @property
    def areas(self) -> np.ndarray:
        """[T] float32."""
        return self._of_boxes(self._columns.areas)

    @property
    def ignored(self) -> np.ndarray:
        """[T] bool: the boxes that are neither learned nor counted."""
        return self.crowd | self.difficult

    @property
    def image_of(self) -> np.ndarray:
        """[T] int64: the image of each box, by its place in this sequence."""
        return np.repeat(np.arange(len(self)), self.counts)

    # --- as a whole ---------------------------------------------------------------------------------------------------

    def once(self) -> "Records":
        """These without the repetitions of an image, such as those of what is overfit."""
        if self._places is None:
            return self
        return self[np.sort(np.unique(self._places, return_index=True)[1])]

    def with_labels(self, labels: np.ndarray) -> "Records":
        """The same images with other labels.

        Args:
            labels: [T] int32; a box of label -1 is left out.
        """
        kept = labels >= 0
        counts = np.bincount(self.image_of[kept], minlength=len(self))
        columns = self.columns()
        of_boxes = {name: getattr(columns, name)[kept] for name in ("boxes", "crowd", "difficult", "areas")}
        return Records(columns._replace(boxes_ends=_ends(counts), labels=labels[kept], **of_boxes))

    def columns(self) -> Columns:
        """The Columns of these images alone, in their order."""
        c, places = self._columns, self._places
        if places is None:
            return c
        return c._replace(
            folder=c.folder[places],
            names=c.names[_rows(c.names_ends, places)],
            names_ends=_ends(np.diff(c.names_ends)[places]),
            ids=c.ids[_rows(c.ids_ends, places)],
            ids_ends=_ends(np.diff(c.ids_ends)[places]),
            spans=c.spans[places] if len(c.spans) else c.spans,
            sizes=self.sizes,
            boxes=self.boxes,
            boxes_ends=_ends(self.counts),
            labels=self.labels,
            crowd=self.crowd,
            difficult=self.difficult,
            areas=self.areas,
        )


class RecordsBuilder:
    """Takes Records one by one and keeps their columns.

    Args:
        items: an iterable of Records to begin with.
    """

    def __init__(self, items=()):
        self._paths, self._ids = Paths(), Strings()
        self._spans, self._sizes, self._spanned = array("q"), array("i"), False
        self._ends, self._boxes, self._labels, self._areas = array("q", [0]), array("f"), array("i"), array("f")
        self._crowd, self._difficult = bytearray(), bytearray()
        for item in items:
            self.append(item)

    def append(self, record: Record):
        """Adds a Record. Those without an id (None) are called by the stems of their files in the end.

        Raises:
            ValueError: it has not a label, a flag and an area for each box.
        """
        count = len(record.boxes)
        if not count == len(record.labels) == len(record.crowd) == len(record.areas):
            raise ValueError(
                f"{record.path}: expected labels, crowd and areas of {count} boxes, received {len(record.labels)}, "
                f"{len(record.crowd)} and {len(record.areas)}"
            )
        self._paths.append(os.fspath(record.path))
        self._ids.append("" if record.image_id is None else json.dumps(record.image_id))
        self._spans.extend(record.span or (-1, -1))
        self._spanned |= record.span is not None
        self._sizes.extend(record.size)
        self._ends.append(self._ends[-1] + count)
        if count:
            self._boxes.frombytes(np.asarray(record.boxes, np.float32).tobytes())
            self._labels.frombytes(np.asarray(record.labels, np.int32).tobytes())
            self._areas.frombytes(np.asarray(record.areas, np.float32).tobytes())
            self._crowd += np.asarray(record.crowd, bool).tobytes()
            self._difficult += np.broadcast_to(np.asarray(record.difficult, bool), count).tobytes()

    def records(self) -> Records:
        """The Records that were added."""
        if not all(self._ids.lengths()):
            self._ids = self._by_stems()
        columns = Columns(
            *self._paths.arrays(),
            *self._ids.arrays(),
            np.frombuffer(self._spans if self._spanned else b"", np.int64).reshape(-1, 2),
            np.frombuffer(self._sizes, np.int32).reshape(-1, 2),
            np.frombuffer(self._boxes, np.float32).reshape(-1, 4),
            np.frombuffer(self._ends, np.int64),
            np.frombuffer(self._labels, np.int32),
            np.frombuffer(self._crowd, bool),
            np.frombuffer(self._difficult, bool),
            np.frombuffer(self._areas, np.float32),
        )
        for column in columns:
            column.flags.writeable = False  # as those of a memory map are
        return Records(columns)

    def _by_stems(self):
        """The ids, those that are missing by the stems of their files, or the whole path where a stem occurs twice."""
        counts, ids = Counter(os.path.splitext(name)[0] for name in self._paths.names), Strings()
        for given, path in zip(self._ids, self._paths, strict=True):
            stem = os.path.splitext(os.path.basename(path))[0]
            ids.append(given or json.dumps(stem if counts[stem] == 1 else path))
        return ids


class Paths:
    """Paths, appended one by one, whose folders are kept once.

    Attributes:
        names: Strings, of the files.
    """

    def __init__(self):
        self._folders, self._folder, self.names = {}, array("i"), Strings()

    def append(self, path: str):
        """Adds a path."""
        folder, slash, name = path.rpartition(os.sep)
        self._folder.append(self._folders.setdefault(folder + slash, len(self._folders)))
        self.names.append(name)

    def __iter__(self):
        folders = list(self._folders)
        return (folders[folder] + name for folder, name in zip(self._folder, self.names, strict=True))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """(folders, folders_ends, folder, names, names_ends), as in Columns."""
        folders = Strings()
        for folder in self._folders:
            folders.append(folder)
        return *folders.arrays(), np.frombuffer(self._folder, np.int32), *self.names.arrays()


class Strings:
    """Texts, appended one by one, as one run of bytes and where each ends."""

    def __init__(self):
        self._bytes, self._ends = bytearray(), array("q", [0])

    def append(self, text: str):
        """Adds a text."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __iter__(self):
        return (
            self._bytes[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(self._ends)
        )

    def lengths(self):
        """How many bytes each has."""
        return (end - start for start, end in itertools.pairwise(self._ends))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """([bytes] uint8, [N + 1] int64)."""
        return np.frombuffer(self._bytes, np.uint8), np.frombuffer(self._ends, np.int64)


def paths_at(arrays, start, end) -> list[str]:
    """Some paths, much faster than one by one.

    Args:
        arrays: (folders, folders_ends, folder, names, names_ends), as in Columns.
        start: the first.
        end: after the last.
    """
    folders, folders_ends, folder, names, names_ends = arrays
    folder, first = folder[start:end], names_ends[start]
    above = {place: _text(folders, folders_ends, place) for place in np.unique(folder).tolist()}
    run, ends = names[first : names_ends[end]].tobytes(), (names_ends[start : end + 1] - first).tolist()
    return [
        above[place] + run[begins:stops].decode("utf-8", "surrogatepass")
        for place, (begins, stops) in zip(folder.tolist(), itertools.pairwise(ends), strict=True)
    ]


def _text(strings, ends, place):
    start, end = ends[place : place + 2].tolist()
    return strings[start:end].tobytes().decode("utf-8", "surrogatepass")


def _ends(counts):
    """[N + 1] int64: where parts of such lengths begin and end."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _rows(ends, places):
    """The rows of some parts, one part after the other."""
    starts, counts = ends[places], np.diff(ends)[places]
    return np.repeat(starts - _ends(counts)[:-1], counts) + np.arange(counts.sum())
