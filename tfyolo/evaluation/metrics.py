"""COCO's metrics, and counts of right and wrong, from the detections of many images in arrays."""

import math
from typing import NamedTuple

import numpy as np

from tfyolo.evaluation.matching import IOU, boxes_to_xywh, chunks, match, matched, places, verdicts
from tfyolo.structures import BACKGROUND

GRID = np.linspace(0, 1, 201)  # the scores at which F1 is computed
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large
MOST = 1, 10, 100  # detections of a class in an image
BLOCK = 1_000_000  # detections that are counted at a time


class Verdicts(NamedTuple):
    """How the detections of many images were matched; A are AREAS, whose bits are IOUS.

    Attributes:
        gt_index: [D] int32, of all sizes at IOU: a row of the Objects, BACKGROUND or IGNORE.
        rank: [D] uint8, the place among its class's in the image, by scores; 255 for the later ones.
        rows: [C], ascending: the detections that overlap an object of their class by IOU at least.
        right: [C, A] uint16, which of them match an object that counts.
        ignored: [C, A] uint16, which of them match one that does not.
    """

    gt_index: np.ndarray
    rank: np.ndarray
    rows: np.ndarray
    right: np.ndarray
    ignored: np.ndarray


_BITS = np.arange(len(IOUS), dtype=np.uint16)


def verdicts_of(objects, found, num_classes):
    """Matches the detections of many images, a range of images at a time.

    Args:
        objects: the Objects of the images.
        found: their DetectionColumns.
        num_classes: K.

    Returns:
        Verdicts.
    """
    boxes, scores, labels, starts = found.boxes, found.scores, found.labels, found.starts
    gt_index, rank = np.empty(len(scores), np.int32), np.empty(len(scores), np.uint8)
    ignored = _ignored(objects)
    rows, bits = [np.zeros(0, np.int64)], [np.zeros((2, 0, len(AREAS)), np.uint16)]
    for first, last in chunks(starts, objects.starts):
        d, g = (slice(each[first], each[last]) for each in (starts, objects.starts))
        of, gt_of = (_images(each, first, last) * num_classes for each in (starts, objects.starts))
        side = objects.boxes[g], gt_of + objects.labels[g], objects.crowd[g], ignored[g]
        match = matched(boxes[d], scores[d], of + labels[d], *side, IOUS)
        index = verdicts(match, objects.ignored[g])
        gt_index[d] = np.where(index >= 0, index + g.start, index)
        rank[d] = np.minimum(match.rank, 255)
        rows.append(match.rows + d.start)
        bits.append(_packed(match, ignored[g]))
    return Verdicts(gt_index, rank, np.concatenate(rows), *np.concatenate(bits, axis=1))


def _ignored(objects):
    """[M, A] bool: crowds, difficult objects and those of other areas."""
    areas = objects.areas[:, None].astype(np.float64)
    return objects.ignored[:, None] | (areas < AREAS[:, 0]) | (areas > AREAS[:, 1])


def _images(starts, first, last):
    """The image of each row of a range of images: [rows] int64."""
    return np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))


def _packed(match, ignored):
    """The bits of Verdicts.right and .ignored: Matched, [M, A] -> [2, C, A] uint16."""
    hit = match.taken >= 0
    c, a, t = np.nonzero(hit)
    passed = np.zeros_like(hit)
    passed[c, a, t] = ignored[match.taken[c, a, t], a]
    return np.stack([(each << _BITS).sum(axis=-1, dtype=np.uint16) for each in (hit & ~passed, passed)])


def score_shift(expected, found, score):
    """How much higher the scores of one detector are than those of another, on what both find.

    A detection with at least the confidence threshold is matched to the other's best free one of its class.

    Args:
        expected: a Found for each image, of the one.
        found: of the other; None in either for an image that could not be read.
        score: the confidence threshold, 0..1.

    Returns:
        The mean difference; nan if they have no detection in common.
    """
    differences = [np.zeros(0)]
    for one, other in zip(expected, found, strict=True):
        if one is None or other is None:
            continue
        clear = one.scores >= score
        boxes, labels, scores = one.boxes[clear], one.labels[clear], one.scores[clear]
        index = match(boxes, labels, np.zeros(len(boxes), bool), other.boxes, other.labels, other.scores)
        matched = index >= 0
        differences.append(other.scores[matched] - scores[index[matched]])
    differences = np.concatenate(differences)
    return float(differences.mean()) if len(differences) else math.nan


def coco_figures(objects, found, verdict, num_classes):
    """COCO's metrics, over all and per class.

    Args:
        objects: the Objects of the images.
        found: their DetectionColumns.
        verdict: the Verdicts of these.
        num_classes: K.

    Returns:
        (the twelve metrics by name, fractions in 0..1; (AP [K], AP50 [K]); precision [K, R] at IoU 0.5). They are nan
        where there is no ground truth.

    Source: pycocotools.cocoeval, accumulate and summarize.
    """
    precision = np.full((len(IOUS), len(RECALLS), num_classes, len(AREAS)), np.nan)
    recall = np.full((len(IOUS), num_classes, len(AREAS), len(MOST)), np.nan)
    scores, labels = found.scores, found.labels
    counted = ~_ignored(objects)
    rows_of, ends = _by_class(labels, num_classes)
    for k in range(num_classes):
        total = counted[objects.labels == k].sum(axis=0)  # [A]
        rows = rows_of[ends[k] : ends[k + 1]]
        rows = rows[verdict.rank[rows] < MOST[-1]]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        there = np.flatnonzero(total)
        precision[:, :, k, there], recall[:, k, there] = _class_figures(found, verdict, rows, total[there], there)
    metrics = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        **{f"AP{size}": _mean(precision[..., area]) for area, size in enumerate("sml", 1)},
        **{f"AR{most}": _mean(recall[:, :, 0, m]) for m, most in enumerate(MOST)},
        **{f"AR{size}": _mean(recall[:, :, area, -1]) for area, size in enumerate("sml", 1)},
    }
    # nan in all rows of a class or in none
    per_class = precision[..., 0].mean(axis=(0, 1)), precision[0, ..., 0].mean(axis=0)
    return metrics, per_class, precision[0, ..., 0].T


def _by_class(labels, num_classes):
    """([D] the rows of each class in turn, each class's in their order; [K + 1] where each class's begin).

    A block at a time, with places of four bytes: sorting all at once needs sixteen for each.
    """
    blocks = range(0, len(labels), BLOCK)
    counts = sum(
        (np.bincount(labels[b : b + BLOCK], minlength=num_classes) for b in blocks), np.zeros(num_classes, int)
    )
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows, following = np.empty(len(labels), np.int32), starts[:-1].copy()
    for b in blocks:
        order = np.argsort(labels[b : b + BLOCK], kind="stable")
        sorted_labels = labels[b + order]
        rows[following[sorted_labels] + places(sorted_labels)] = b + order
        following += np.bincount(sorted_labels, minlength=num_classes)
    return rows, starts


def _class_figures(found, verdict, rows, total, areas):
    """The curves of one class.

    Args:
        found: the DetectionColumns.
        verdict: their Verdicts.
        rows: [n], the class's detections in the order of scores.
        total: [a], how many objects of an area count.
        areas: [a], the places in AREAS.

    Returns:
        (precision [T, R, a], recall [T, a, len(MOST)]).
    """
    area = np.prod(boxes_to_xywh(found.boxes[rows])[:, 2:], axis=1)[:, None]
    inside = (area >= AREAS[areas, 0]) & (area <= AREAS[areas, 1])  # [n, a]
    at = np.searchsorted(verdict.rows, rows)
    overlaps = np.append(verdict.rows, -1)[at] == rows
    right, ignored = (
        (bits[at[overlaps]][:, areas, None] >> _BITS & 1).astype(bool) for bits in (verdict.right, verdict.ignored)
    )  # [c, a, T]
    recall = np.stack(
        [right[verdict.rank[rows[overlaps]] < most].sum(axis=0).T / total for most in MOST], axis=-1
    )  # [T, a, len(MOST)]
    # Wrong are those that match nothing, if their area is the right one. Most overlap nothing, at any IoU.
    wrong = np.cumsum(inside & ~overlaps[:, None], axis=0)[overlaps][..., None]
    wrong = wrong + np.cumsum(~right & ~ignored & inside[overlaps][..., None], axis=0)
    precision = np.empty((len(IOUS), len(RECALLS), len(areas)))
    for t, a in np.ndindex(len(IOUS), len(areas)):
        hits = np.flatnonzero(right[:, a, t])  # between two of them precision falls: its best are here
        rights = np.arange(1, len(hits) + 1, dtype=float)
        values = rights / (wrong[hits, a, t] + rights + np.spacing(1))
        values = np.append(np.maximum.accumulate(values[::-1])[::-1], 0.0)
        precision[t, :, a] = values[np.searchsorted(rights / total[a], RECALLS)]
    return precision, recall


def score_counts(found, gt_index, num_classes):
    """How many detections of each class are right and wrong at each score of GRID.

    Args:
        found: the DetectionColumns.
        gt_index: [D], of Verdicts.
        num_classes: K.

    Returns:
        (right [K, S], wrong [K, S]).
    """
    S, verdict = len(GRID) + 1, np.array([BACKGROUND, 0])[:, None]
    histograms = np.zeros((2, num_classes * S), int)  # wrong, right
    for start in range(0, len(gt_index), BLOCK):
        rows = slice(start, start + BLOCK)
        bins = found.labels[rows] * S + np.searchsorted(GRID, found.scores[rows], side="right")
        for histogram, chosen in zip(histograms, np.minimum(gt_index[rows], 0) == verdict, strict=True):
            histogram += np.bincount(bins[chosen], minlength=num_classes * S)
    wrong, right = np.cumsum(histograms.reshape(2, num_classes, S)[..., :0:-1], axis=-1)[..., ::-1]
    return right, wrong


def confusion_counts(objects, found, gt_index, score, num_classes):
    """The confusion matrix: matches within a class come first, the rest is matched across classes.

    Args:
        objects: the Objects of the images.
        found: their DetectionColumns.
        gt_index: [D], of Verdicts.
        score: the confidence threshold.
        num_classes: K.

    Returns:
        [K+1, K+1] counts: rows true classes, columns predicted ones, background last.
    """
    shown = found.scores >= score
    right = gt_index[shown & (gt_index >= 0)]
    missing = ~objects.ignored
    missing[right] = False
    wrong, missing = np.flatnonzero(shown & (gt_index == BACKGROUND)), np.flatnonzero(missing)
    starts, gt_starts = np.searchsorted(wrong, found.starts), np.searchsorted(missing, objects.starts)
    taken_for, left = np.full(len(wrong), num_classes), np.ones(len(missing), bool)
    for first, last in chunks(starts, gt_starts):
        d, g = slice(starts[first], starts[last]), slice(gt_starts[first], gt_starts[last])
        none = np.zeros(g.stop - g.start, bool)
        side = objects.boxes[missing[g]], _images(gt_starts, first, last), none, none[:, None]
        rows = wrong[d]
        match = matched(found.boxes[rows], found.scores[rows], _images(starts, first, last), *side, [IOU])
        index = verdicts(match, none)
        hit = np.flatnonzero(index >= 0)
        taken_for[hit + d.start] = objects.labels[missing[index[hit] + g.start]]
        left[index[hit] + g.start] = False
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    for rows, columns in (
        (objects.labels[right], objects.labels[right]),
        (taken_for, found.labels[wrong]),
        (objects.labels[missing[left]], num_classes),
    ):
        np.add.at(confusion, (rows, columns), 1)
    return confusion


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def share(part, whole):
    """Elementwise part / whole; nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
