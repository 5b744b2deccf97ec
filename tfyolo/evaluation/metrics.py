"""COCO's metrics, the matching of detections to ground truth, and counts of right and wrong."""

import math
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

from tfyolo.structures import BACKGROUND, IGNORE

IOU = 0.5  # the overlap from which a box is right: in curves, confusion matrix and images; AP is a mean over ten
GRID = np.linspace(0, 1, 201)  # the scores at which F1 is looked at


class Found(NamedTuple):
    """What is found in one image: boxes [D, 4] in pixels of the file, scores [D], labels [D] of the data set."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def match(truth_boxes, truth_labels, crowd, boxes, labels, scores, iou=IOU, *, difficult=False):
    """Matches the detections of an image to its ground truth, by COCO's rule.

    In the order of scores, a detection takes the object of its class that it overlaps most among those still free, if
    by `iou` at least. One that finds none may take a difficult object in the same way, or lie in a crowd of its class,
    by as much of its own area, and is ignored. A crowd takes any number of them; a difficult object one, as every
    object (Pascal VOC's own script forgives any number of detections of one).

    Args:
        truth_boxes, truth_labels, crowd: ground truth without padding: [M, 4] (y1, x1, y2, x2), [M], [M] bool.
        boxes, labels, scores: detections without padding: [D, 4] (y1, x1, y2, x2), [D], [D].
        iou: the least overlap, 0..1.
        difficult: [M] bool, Pascal VOC's objects that count neither way.

    Returns:
        [D] in [0, M); BACKGROUND for a false positive, IGNORE for what counts neither way.
    """
    gt_index = np.full(len(boxes), BACKGROUND)
    if not len(boxes) or not len(truth_boxes):
        return gt_index
    crowd = np.asarray(crowd, bool)
    ignored = crowd | difficult
    overlap = mask.iou(xywh(boxes), xywh(truth_boxes), crowd.astype(np.uint8).tolist())  # [D, M]
    free = (overlap >= iou) & (np.asarray(labels)[:, None] == np.asarray(truth_labels))
    order = np.argsort(-np.asarray(scores), kind="stable")
    for d in order[free[order].any(axis=1)]:
        counted_first = free[d] & ~ignored
        choice = counted_first if counted_first.any() else free[d]
        if choice.any():
            taken = np.argmax(np.where(choice, overlap[d], 0))
            gt_index[d] = IGNORE if ignored[taken] else taken
            free[:, taken] &= crowd[taken]
    return gt_index


def coco_metrics(truths, found, num_classes):
    """COCO's twelve metrics by name, as Report has them; nan where there are no ground truths.

    Args:
        truths: Records.
        found: a Found for each of them.
        num_classes: K.

    Returns:
        {name: value}, fractions in 0..1.
    """
    return coco_figures(truths, found, num_classes)[0]


def coco_figures(truths, found, num_classes):
    """(the twelve metrics, (AP [K], AP50 [K]), precision [K, R] at IoU 0.5)."""
    images = [{"id": i} for i in range(len(truths))]
    categories = [{"id": k} for k in range(num_classes)]
    rows = (
        (i, *row)
        for i, t in enumerate(truths)
        # The evaluator ignores, one for one, what has an area beyond all that it reports by: so it is told of difficult objects.
        for areas in [np.where(t.difficult, -1, t.areas).tolist()]
        for row in zip(xywh(t.boxes).tolist(), t.labels.tolist(), areas, t.crowd.tolist(), strict=True)
    )
    annotations = [
        {"id": n, "image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (i, box, label, area, crowd) in enumerate(rows, 1)  # 0 means "no match" inside the evaluator
    ]
    rows = (
        (i, *row)
        for i, f in enumerate(found)
        for row in zip(xywh(f.boxes).tolist(), f.labels.tolist(), f.scores.tolist(), strict=True)
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


def confusion_counts(truths, found, gt_index, score, num_classes):
    """[K+1, K+1]; what matches within a class is settled first, what is left is matched across classes."""
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    for truth, one, index in zip(truths, found, gt_index, strict=True):
        shown = one.scores >= score
        right = index[shown & (index >= 0)]
        np.add.at(confusion, (truth.labels[right], truth.labels[right]), 1)
        missed = np.setdiff1d(np.flatnonzero(~truth.ignored), right)
        wrong = np.flatnonzero(shown & (index == BACKGROUND))
        one_class = np.zeros(len(truth.labels), int), np.zeros(len(one.labels), int)
        mistaken = match(
            truth.boxes[missed],
            one_class[0][missed],
            truth.crowd[missed],
            one.boxes[wrong],
            one_class[1][wrong],
            one.scores[wrong],
        )
        rows = np.where(mistaken >= 0, np.append(truth.labels[missed], num_classes)[mistaken], num_classes)
        np.add.at(confusion, (rows, one.labels[wrong]), 1)
        np.add.at(confusion, (np.delete(truth.labels[missed], mistaken[mistaken >= 0]), num_classes), 1)
    return confusion


def xywh(boxes):
    """[N, 4] -> [N, 4] float64 x1, y1, w, h, as COCO's tools want them."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def share(part, whole):
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
