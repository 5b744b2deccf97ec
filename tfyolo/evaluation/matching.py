"""The detections and the ground truth of many images in arrays, and COCO's rule of matching the ones to the others."""

import io
import itertools
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfyolo.structures import BACKGROUND, IGNORE

IOU = 0.5  # the overlap from which a box is right: in curves, confusion matrix and images; AP is a mean over ten
PAIRS = 500_000  # of a detection and an object that are compared at a time, where one image has no more


class Found(NamedTuple):
    """The detections of one image, without padding.

    Attributes:
        boxes: [D, 4] (y1, x1, y2, x2) in pixels of the file.
        scores: [D], 0..1.
        labels: [D], those of the data set.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class DetectionColumns(Sequence):
    """The detections of many images, in arrays that grow: 24 bytes each, not counting Python's objects.

    As a sequence it holds a Found for each image, or None for one that could not be read.

    Args:
        found: the first of them.
    """

    def __init__(self, found=()):
        self._boxes, self._scores, self._labels = bytearray(), bytearray(), bytearray()
        self._starts, self._unread = array("q", [0]), set()
        for one in found:
            self.append(one)

    def append(self, one):
        """Adds the next image: its Found, or None."""
        if one is None:
            self._unread.add(len(self))
            one = Found(np.zeros((0, 4)), (), ())
        self._boxes += np.ascontiguousarray(one.boxes, np.float32).data.cast("B") if len(one.boxes) else b""
        self._scores += np.asarray(one.scores, np.float32).tobytes()
        self._labels += np.asarray(one.labels, np.int32).tobytes()
        self._starts.append(self._starts[-1] + len(one.scores))

    @property
    def boxes(self):
        """[D, 4] float32, of all images in turn."""
        return np.frombuffer(self._boxes, np.float32).reshape(-1, 4)

    @property
    def scores(self):
        """[D] float32."""
        return np.frombuffer(self._scores, np.float32)

    @property
    def labels(self):
        """[D] int32."""
        return np.frombuffer(self._labels, np.int32)

    @property
    def starts(self):
        """[I + 1] int64: image i has the detections from starts[i] to starts[i + 1]."""
        return np.array(self._starts)

    @property
    def read(self):
        """[I] bool, whether an image could be read."""
        return np.array([i not in self._unread for i in range(len(self))], bool)

    def to_bytes(self) -> bytes:
        """All of it, for another process."""
        file = io.BytesIO()
        unread = np.array(sorted(self._unread), np.int64)
        np.savez(file, boxes=self.boxes, scores=self.scores, labels=self.labels, starts=self.starts, unread=unread)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data) -> "DetectionColumns":
        """What to_bytes gave."""
        new = cls()
        with np.load(io.BytesIO(data)) as file:
            new._boxes, new._scores, new._labels = (
                bytearray(file[name].tobytes()) for name in ("boxes", "scores", "labels")
            )
            new._starts, new._unread = array("q", file["starts"].tobytes()), set(file["unread"].tolist())
        return new

    @classmethod
    def dealt(cls, parts) -> "DetectionColumns":
        """Puts together what was dealt out like cards: image i is image i // n of part i % n.

        Args:
            parts: n DetectionColumns.
        """
        return cls(parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts))))

    def __len__(self):
        return len(self._starts) - 1

    def __getitem__(self, i):
        i = range(len(self))[i]
        rows = slice(*self._starts[i : i + 2])
        return None if i in self._unread else Found(self.boxes[rows], self.scores[rows], self.labels[rows])


class Objects(NamedTuple):
    """The ground truth of many images, in arrays.

    Attributes:
        boxes: [M, 4] float32 (y1, x1, y2, x2), of all images in turn.
        labels: [M] int32.
        areas: [M] float32.
        crowd: [M] bool.
        difficult: [M] bool, Pascal VOC's objects that count neither way.
        starts: [I + 1] int64: image i has the objects from starts[i] to starts[i + 1].
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, records, read):
        """The Objects of Records; none of those that could not be read ([I] bool)."""
        own = records[np.flatnonzero(read)]
        starts = np.concatenate([[0], np.cumsum(np.where(read, records.counts, 0))])
        return cls(own.boxes, own.labels, own.areas, own.crowd, own.difficult, starts)

    @property
    def ignored(self):
        """[M] bool: what counts neither way."""
        return self.crowd | self.difficult


class Matched(NamedTuple):
    """What `matched` returns.

    Attributes:
        rank: [D] int64, a detection's place in its group, by scores.
        rows: [C] int64, ascending: the detections that overlap an object of their group enough for the least IoU.
        taken: [C, A, T] int32: the object that each of them takes, or BACKGROUND.
    """

    rank: np.ndarray
    rows: np.ndarray
    taken: np.ndarray


def matched(boxes, scores, groups, gt_boxes, gt_groups, crowd, ignored, ious):
    """Matches detections to objects of their group, in A ways to ignore objects and at T IoUs at once.

    A group is a class in an image. In the order of scores, a detection takes the object that it overlaps most among
    those still free, if by the IoU at least; of two that it overlaps alike, the later one. One that finds none may take
    an ignored object in the same way. A crowd takes any number of them, and counts by the overlap's share of the
    detection's own area.

    Args:
        boxes: [D, 4] (y1, x1, y2, x2).
        scores: [D].
        groups: [D] int64.
        gt_boxes: [M, 4].
        gt_groups: [M] int64.
        crowd: [M] bool.
        ignored: [M, A] bool.
        ious: [T], above 0.

    Returns:
        Matched.

    Source: pycocotools.cocoeval, evaluateImg.
    """
    order = np.lexsort((-scores, groups))
    in_order, rank = groups[order], np.empty(len(order), np.int64)
    rank[order] = places(in_order)
    # Every pair of a detection and an object of its group, in the order of detections
    gt_order = np.argsort(gt_groups, kind="stable")
    first, last = (np.searchsorted(gt_groups[gt_order], in_order, side) for side in ("left", "right"))
    d = np.repeat(np.arange(len(order)), last - first)
    g = gt_order[np.arange(len(d)) - np.repeat(np.cumsum(last - first) - last, last - first)]
    overlap = _overlap(boxes[order[d]], gt_boxes[g], crowd[g])
    near = overlap >= min(ious)
    d, g, overlap = d[near], g[near], overlap[near]
    # In round r, the r-th of each group that overlaps anything takes its object: those of one round are independent.
    candidates, c = np.unique(d, return_inverse=True)
    rounds = places(in_order[candidates])
    sort = np.lexsort((overlap, c, rounds[c]))
    c, g, overlap = c[sort], g[sort], overlap[sort]
    ends = np.searchsorted(rounds[c], np.arange(rounds.max(initial=-1) + 2))
    free = np.ones((*ignored.shape, len(ious)), bool)
    taken = np.full((len(candidates), *free.shape[1:]), BACKGROUND, np.int32)
    worth = 1 + np.arange(len(c), dtype=np.int32)  # grows with the overlap among the pairs of a detection
    for start, end in itertools.pairwise(ends):
        own, objects = c[start:end], g[start:end]
        value = worth[start:end, None] + np.where(ignored[objects], 0, len(c)).astype(np.int32)  # what counts is first
        may = (overlap[start:end, None, None] >= ious) & free[objects]
        firsts = np.flatnonzero(np.diff(own, prepend=-1))
        best = np.maximum.reduceat(np.where(may, value[..., None], 0), firsts)  # [c, A, T]
        hits = np.nonzero(best)
        chosen = g[(best[hits] - 1) % len(c)]
        taken[own[firsts][hits[0]], hits[1], hits[2]] = chosen
        free[chosen, hits[1], hits[2]] = crowd[chosen]
    rows = order[candidates]
    sort = np.argsort(rows)
    return Matched(rank, rows[sort], taken[sort])


def places(groups):
    """Each one's place among its equals: [N] int, sorted -> [N]."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _overlap(boxes, gt_boxes, crowd):
    """The IoU of pairs, in a crowd the share of the detection's area: [P, 4], [P, 4], [P] -> [P].

    Of x, y, width and height, as COCO's tools compute it: the last digit decides at an overlap of just 0.5.
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = boxes_to_xywh(boxes).T, boxes_to_xywh(gt_boxes).T
    width = np.maximum(np.minimum(ax + aw, bx + bw) - np.maximum(ax, bx), 0)
    height = np.maximum(np.minimum(ay + ah, by + bh) - np.maximum(ay, by), 0)
    shared = width * height
    union = np.where(crowd, aw * ah, aw * ah + bw * bh - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def match(gt_boxes, gt_labels, crowd, boxes, labels, scores, iou=IOU, *, difficult=False):
    """Matches the detections of an image to its ground truth, by COCO's rule: `matched`.

    An object is matched by one detection of its class. A difficult one is matched as the others are, after them, and
    ignored (Pascal VOC's own script forgives any number of detections of one).

    Args:
        gt_boxes: [M, 4] (y1, x1, y2, x2), ground truth without padding.
        gt_labels: [M].
        crowd: [M] bool.
        boxes: [D, 4] (y1, x1, y2, x2), detections without padding.
        labels: [D].
        scores: [D].
        iou: the least overlap, 0..1.
        difficult: [M] bool, Pascal VOC's objects that count neither way.

    Returns:
        [D] in [0, M); BACKGROUND for a false positive, IGNORE for what counts neither way.
    """
    crowd = np.asarray(crowd, bool)
    ignored = crowd | difficult
    found = np.reshape(boxes, (-1, 4)), np.asarray(scores), np.asarray(labels, np.int64)
    gt = np.reshape(gt_boxes, (-1, 4)), np.asarray(gt_labels, np.int64)
    return verdicts(matched(*found, *gt, crowd, ignored[:, None], [iou]), ignored)


def verdicts(match, ignored):
    """What detections of Matched take, the first way and at the first IoU: a row of the objects, BACKGROUND or IGNORE.

    Args:
        match: Matched.
        ignored: [M] bool, the objects that count neither way.

    Returns:
        [D] int64.
    """
    index, taken = np.full(len(match.rank), BACKGROUND), match.taken[:, 0, 0]
    index[match.rows] = np.where((taken >= 0) & np.append(ignored, False)[taken], IGNORE, taken)
    return index


def chunks(starts, gt_starts):
    """Ranges of images, whose detections and objects make at most PAIRS pairs together, or one image each.

    Args:
        starts: [I + 1], of their detections.
        gt_starts: [I + 1], of their objects.

    Yields:
        (first, last + 1).
    """
    cost = np.cumsum((np.diff(starts) + 1) * (np.diff(gt_starts) + 1))
    first = 0
    while first < len(cost):
        before = cost[first - 1] if first else 0
        last = max(int(np.searchsorted(cost, before + PAIRS, "right")), first + 1)
        yield first, last
        first = last


def boxes_to_xywh(boxes):
    """[N, 4] (y1, x1, y2, x2) -> [N, 4] (x1, y1, w, h) float64, as COCO's tools take them."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)
