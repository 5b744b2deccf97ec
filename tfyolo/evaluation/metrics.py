"""COCO's metrics, the matching of detections to ground truth, and counts of right and wrong."""

import math
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

from tfyolo.structures import BACKGROUND, IGNORE

IOU = 0.5  # the overlap from which a box is right: in curves, confusion matrix and images; AP is a mean over ten
GRID = np.linspace(0, 1, 201)  # the scores at which F1 is computed


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


def match(gt_boxes, gt_labels, crowd, boxes, labels, scores, iou=IOU, *, difficult=False):
    """Matches the detections of an image to its ground truth, by COCO's rule.

    In the order of scores, a detection takes the object of its class that it overlaps most among those still free, if
    by `iou` at least. One that finds none may take a difficult object in the same way, or lie in a crowd of its class,
    by as much of its own area, and is ignored. A crowd takes any number of them; a difficult object one, as every
    object (Pascal VOC's own script forgives any number of detections of one).

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
    gt_index = np.full(len(boxes), BACKGROUND)
    if not len(boxes) or not len(gt_boxes):
        return gt_index
    crowd = np.asarray(crowd, bool)
    ignored = crowd | difficult
    overlap = mask.iou(boxes_to_xywh(boxes), boxes_to_xywh(gt_boxes), crowd.astype(np.uint8).tolist())  # [D, M]
    free = (overlap >= iou) & (np.asarray(labels)[:, None] == np.asarray(gt_labels))
    order = np.argsort(-np.asarray(scores), kind="stable")
    for d in order[free[order].any(axis=1)]:
        counted_first = free[d] & ~ignored
        choice = counted_first if counted_first.any() else free[d]
        if choice.any():
            taken = np.argmax(np.where(choice, overlap[d], 0))
            gt_index[d] = IGNORE if ignored[taken] else taken
            free[:, taken] &= crowd[taken]
    return gt_index


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


def coco_figures(records, found, num_classes):
    """COCO's metrics, over all and per class.

    Args:
        records: the Records, whose boxes are the ground truth.
        found: a Found for each of them.
        num_classes: K.

    Returns:
        (the twelve metrics by name, fractions in 0..1; (AP [K], AP50 [K]); precision [K, R] at IoU 0.5). They are nan
        where there is no ground truth.
    """
    images = [{"id": i} for i in range(len(records))]
    categories = [{"id": k} for k in range(num_classes)]
    rows = (
        (i, *row)
        for i, t in enumerate(records)
        # The evaluator ignores, one for one, objects of an area outside its ranges: -1 marks difficult objects.
        for areas in [np.where(t.difficult, -1, t.areas).tolist()]
        for row in zip(boxes_to_xywh(t.boxes).tolist(), t.labels.tolist(), areas, t.crowd.tolist(), strict=True)
    )
    annotations = [
        {"id": n, "image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, box, label, area, crowd) in enumerate(rows, 1)  # 0 means "no match" inside the evaluator
    ]
    rows = (
        (i, *row)
        for i, f in enumerate(found)
        for row in zip(boxes_to_xywh(f.boxes).tolist(), f.labels.tolist(), f.scores.tolist(), strict=True)
    )
    results = [
        {
            "id": n,
            "image_id": i,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for n, (i, box, label, score) in enumerate(rows, 1)
    ]
    coco = [COCO({"images": images, "categories": categories, "annotations": each}) for each in (annotations, results)]
    evaluator = COCOeval_faster(*coco, "bbox", print_function=lambda *_: None)
    evaluator.evaluate()
    evaluator.accumulate()
    # [T, R, K, A, M] and [T, K, A, M]: T IoUs, R recalls, A sizes (all, small, medium, large), M = 1, 10, 100 boxes
    precision, recall = (np.where(v > -1, v, np.nan) for v in map(evaluator.eval.get, ("precision", "recall")))
    ap = precision[..., -1]
    metrics = {
        "AP": _mean(ap[..., 0]),
        "AP50": _mean(ap[0, ..., 0]),
        "AP75": _mean(ap[5, ..., 0]),
        **{f"AP{size}": _mean(ap[..., area]) for area, size in enumerate("sml", 1)},
        **{f"AR{most}": _mean(recall[:, :, 0, m]) for m, most in enumerate((1, 10, 100))},
        **{f"AR{size}": _mean(recall[:, :, area, -1]) for area, size in enumerate("sml", 1)},
    }
    per_class = ap[..., 0].mean(axis=(0, 1)), ap[0, ..., 0].mean(axis=0)  # nan in all rows of a class or in none
    return metrics, per_class, ap[0, ..., 0].T


def confusion_counts(records, found, gt_index, score, num_classes):
    """The confusion matrix: matches within a class come first, the rest is matched across classes.

    Args:
        records: the Records, whose boxes are the ground truth.
        found: a Found for each of them.
        gt_index: what `match` returned for each of them.
        score: the confidence threshold.
        num_classes: K.

    Returns:
        [K+1, K+1] counts: rows true classes, columns predicted ones, background last.
    """
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    for record, one, index in zip(records, found, gt_index, strict=True):
        shown = one.scores >= score
        right = index[shown & (index >= 0)]
        np.add.at(confusion, (record.labels[right], record.labels[right]), 1)
        missed = np.setdiff1d(np.flatnonzero(~record.ignored), right)
        wrong = np.flatnonzero(shown & (index == BACKGROUND))
        one_class = np.zeros(len(record.labels), int), np.zeros(len(one.labels), int)
        mistaken = match(
            record.boxes[missed],
            one_class[0][missed],
            record.crowd[missed],
            one.boxes[wrong],
            one_class[1][wrong],
            one.scores[wrong],
        )
        rows = np.where(mistaken >= 0, np.append(record.labels[missed], num_classes)[mistaken], num_classes)
        np.add.at(confusion, (rows, one.labels[wrong]), 1)
        np.add.at(confusion, (np.delete(record.labels[missed], mistaken[mistaken >= 0]), num_classes), 1)
    return confusion


def boxes_to_xywh(boxes):
    """[N, 4] (y1, x1, y2, x2) -> [N, 4] (x1, y1, w, h) float64, as COCO's tools take them."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def share(part, whole):
    """Elementwise part / whole; nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
