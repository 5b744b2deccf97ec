"""YOLOv8's chain, from logits to loss, against loops in float64 NumPy that use no line of the package."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import random_sample, spanning

from tfyolo.assigners import task_aligned
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.losses.elementwise import distribution_focal
from tfyolo.losses.yolov8 import Aligned
from tfyolo.structures import Raw

SIZE, K, BINS = (64, 96), 3, 16
GRIDS = {"p3": (8, 12, 8), "p4": (4, 6, 16), "p5": (2, 3, 32)}


def random_raw(seed=0, spread=1.5, batch=2):
    rng = np.random.default_rng(seed)
    return {
        part: {
            level: rng.normal(0, spread, (batch, h, w, 1, z)).astype("float32") for level, (h, w, _) in GRIDS.items()
        }
        for part, z in (("box", 4 * BINS), ("cls", K))
    }


# --- by hand ----------------------------------------------------------------------------------------------------------


def cells():
    return [
        ((row + 0.5) * stride, (column + 0.5) * stride, stride, (level, row, column))
        for level, (h, w, stride) in GRIDS.items()
        for row in range(h)
        for column in range(w)
    ]


def distances_by_hand(logits):
    """64 numbers -> the four means."""
    means = []
    for side in range(4):
        e = [math.exp(float(logits[side * BINS + k])) for k in range(BINS)]
        means.append(sum(k * value for k, value in enumerate(e)) / sum(e))
    return means


def decode_by_hand(raw, b):
    boxes, scores = [], []
    for y, x, stride, (level, row, column) in cells():
        top, left, bottom, right = distances_by_hand(raw["box"][level][b, row, column, 0])
        boxes.append((y - top * stride, x - left * stride, y + bottom * stride, x + right * stride))
        scores.append([1 / (1 + math.exp(-float(t))) for t in raw["cls"][level][b, row, column, 0]])
    return boxes, scores


def ciou_by_hand(a, b):
    (ay1, ax1, ay2, ax2), (by1, bx1, by2, bx2) = map(lambda box: map(float, box), (a, b))
    shared = max(0, min(ay2, by2) - max(ay1, by1)) * max(0, min(ax2, bx2) - max(ax1, bx1))
    union = (ay2 - ay1) * (ax2 - ax1) + (by2 - by1) * (bx2 - bx1) - shared
    overlap = shared / max(union, 1e-7)
    distance = (ay1 + ay2 - by1 - by2) ** 2 / 4 + (ax1 + ax2 - bx1 - bx2) ** 2 / 4
    diagonal = (max(ay2, by2) - min(ay1, by1)) ** 2 + (max(ax2, bx2) - min(ax1, bx1)) ** 2
    angle = math.atan2(bx2 - bx1, by2 - by1) - math.atan2(ax2 - ax1, ay2 - ay1)
    v = 4 / math.pi**2 * angle**2
    return overlap - distance / diagonal - v * v / (1 - overlap + v)


def assign_by_hand(boxes, scores, gt_boxes, labels, topk, alpha=0.5, beta=6.0):
    """(ground truth of each candidate or -1, quality of each)."""
    overlap, alignment = {}, {}
    for m, label in enumerate(labels):
        if label < 0:
            continue
        y1, x1, y2, x2 = gt_boxes[m]
        for n, (y, x, _, _) in enumerate(cells()):
            if y1 < y < y2 and x1 < x < x2:
                overlap[m, n] = max(ciou_by_hand(boxes[n], gt_boxes[m]), 0.0)
                alignment[m, n] = scores[n][label] ** alpha * overlap[m, n] ** beta
    claims = {}
    for m in range(len(labels)):
        of_truth = [n for other, n in overlap if other == m and np.float32(alignment[m, n]) > 0]
        of_truth.sort(key=lambda n: -alignment[m, n])
        for n in of_truth[:topk]:
            claims.setdefault(n, []).append(m)
    owner = {}
    for n, claimants in claims.items():
        if len(claimants) > 1:
            claimants = [max((m for m, other in overlap if other == n), key=lambda m: overlap[m, n])]
        owner[n] = claimants[0]
    quality = [0.0] * len(boxes)
    for n, m in owner.items():
        own = [other for other in owner if owner[other] == m]
        best_alignment, best_overlap = max(alignment[m, o] for o in own), max(overlap[m, o] for o in own)
        quality[n] = alignment[m, n] * best_overlap / (best_alignment + 1e-9)
    return [owner.get(n, -1) for n in range(len(boxes))], quality


def dfl_by_hand(distance, logits):
    target = min(max(distance, 0.0), BINS - 1 - 0.01)
    left = int(target)
    log_sum = math.log(sum(math.exp(float(t)) for t in logits))
    return (left + 1 - target) * (log_sum - float(logits[left])) + (target - left) * (log_sum - float(logits[left + 1]))


def terms_by_hand(raw, sample, topk):
    box = cls = dfl = whole = 0.0
    for b in range(len(sample.labels)):
        gt_boxes = np.asarray(sample.boxes[b], "float64")
        crowd = np.asarray(sample.crowd[b])
        labels = [-1 if crowd[m] else int(label) for m, label in enumerate(sample.labels[b])]
        boxes, scores = decode_by_hand(raw, b)
        owner, quality = assign_by_hand(boxes, scores, gt_boxes, labels, topk)
        whole += sum(quality)
        for n, (y, x, stride, (level, row, column)) in enumerate(cells()):
            m = owner[n]
            if m < 0:
                y1, x1, y2, x2 = boxes[n]
                shared = [
                    max(0, min(y2, c[2]) - max(y1, c[0])) * max(0, min(x2, c[3]) - max(x1, c[1]))
                    for c in gt_boxes[crowd]
                ]
                if any(value > 0.5 * (y2 - y1) * (x2 - x1) for value in shared):
                    continue
            for k, t in enumerate(raw["cls"][level][b, row, column, 0]):
                target = quality[n] if m >= 0 and k == labels[m] else 0.0
                cls += math.log1p(math.exp(float(t))) - target * float(t)
            if m >= 0:
                y1, x1, y2, x2 = gt_boxes[m]
                box += quality[n] * (1 - ciou_by_hand(boxes[n], gt_boxes[m]))
                logits = raw["box"][level][b, row, column, 0].reshape(4, BINS)
                sides = [(y - y1) / stride, (x - x1) / stride, (y2 - y) / stride, (x2 - x) / stride]
                dfl += quality[n] * sum(map(dfl_by_hand, sides, logits)) / 4
    whole = max(whole, 1.0)
    return {"box": 7.5 * box / whole, "cls": 0.5 * cls / whole, "dfl": 1.5 * dfl / whole}


# --- scenes -----------------------------------------------------------------------------------------------------------


def scene(kind):
    sample = random_sample(SIZE, ground_truths=7, classes=K, seed=3)
    boxes, labels, crowd = (np.array(value) for value in (sample.boxes, sample.labels, sample.crowd))
    if kind == "an empty image":
        boxes[1], labels[1] = 0, -1
    elif kind == "no ground truth":
        boxes[:], labels[:] = 0, -1
    elif kind == "two ground truths claim the same":
        boxes[:, 1] = boxes[:, 0] + 1.5
        labels[:, 1] = (labels[:, 0] + 1) % K
    elif kind == "smaller than a cell":
        # The first holds the centre of a cell at p3, the second that of none.
        boxes[:, :3] = [11, 11, 13.5, 14], [13, 13, 17, 15], [25, 20, 64, 96]
        labels[:, 3:] = -1
    elif kind == "larger than 15 cells":
        boxes[:, 0] = [-100, -150, 300, 400]
    elif kind == "a crowd":
        boxes[:, 0], crowd[:, 0] = [0, 0, 60, 70], True
    return sample._replace(boxes=tf.constant(boxes), labels=tf.constant(labels), crowd=tf.constant(crowd))


SCENES = ["padding", "an empty image", "no ground truth", "two ground truths claim the same", "smaller than a cell"]
SCENES += ["larger than 15 cells", "a crowd"]


def test_decode_equals_the_formula():
    raw = random_raw()
    candidates = Dfl()(raw)
    for b in range(2):
        boxes, scores = decode_by_hand(raw, b)
        np.testing.assert_allclose(candidates.boxes[b], boxes, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(candidates.scores[b], scores, rtol=1e-5)


def test_the_codes_of_a_distribution_of_one_are_its_place():
    raw = {part: {level: np.zeros_like(x) for level, x in levels.items()} for part, levels in random_raw().items()}
    for x in raw["box"].values():
        x.reshape(-1, 4, BINS)[:, range(4), [1, 2, 3, 4]] = 100
    for (y, x, stride, _), box in zip(cells(), Dfl()(raw).boxes[0].numpy(), strict=True):
        np.testing.assert_allclose(box, [y - stride, x - 2 * stride, y + 3 * stride, x + 4 * stride])


@pytest.mark.parametrize("target", [0.0, 3.25, 7.0, 14.5, 15.0, 40.0])
def test_distribution_focal_equals_the_definition(target):
    logits = np.random.default_rng(0).normal(0, 2, BINS).astype("float32")
    expected = dfl_by_hand(target, logits)
    assert float(distribution_focal(np.float32(target), tf.constant(logits))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind, topk", spanning([*SCENES], [1, 10, 13]))
def test_task_aligned_equals_the_loop(kind, topk):
    raw, sample = random_raw(), scene(kind)
    assignment = task_aligned(Dfl()(raw), sample.boxes, sample.labels, topk=topk)
    for b in range(2):
        boxes, scores = decode_by_hand(raw, b)
        gt_boxes = np.asarray(sample.boxes[b], "float64")
        owner, quality = assign_by_hand(boxes, scores, gt_boxes, np.asarray(sample.labels[b]), topk)
        found = assignment.gt_index[b].numpy()
        np.testing.assert_array_equal(found, owner)
        np.testing.assert_allclose(assignment.quality[b], quality, rtol=1e-3, atol=1e-7)
        assert kind in ("no ground truth", "an empty image") or (found >= 0).sum() >= min(topk, 3)
    if kind == "smaller than a cell":
        assert {cells()[n][:2] for n in np.flatnonzero(found == 0)} <= {(12.0, 12.0)} and 1 not in found


@pytest.mark.parametrize("kind", SCENES)
def test_the_loss_equals_the_sums(kind):
    raw, sample, decoder = random_raw(1), scene(kind), Dfl()
    objective = Aligned(decoder, functools.partial(task_aligned, topk=5))
    terms = objective(raw, decoder(raw), sample)
    expected = terms_by_hand(raw, sample, topk=5)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert tuple(terms) == objective.terms


def test_parts_add_up_to_the_batch():
    """Each is normalised by the sum of the whole batch's qualities."""
    raw, sample, decoder = random_raw(2), scene("a crowd"), Dfl()
    objective = Aligned(decoder, task_aligned)
    both = objective(raw, decoder(raw), sample)
    _, counts = objective.sums(raw, decoder(raw), sample)
    added = dict.fromkeys(both, 0.0)
    for b in range(2):
        part, given = tf.nest.map_structure(lambda x, b=b: x[b : b + 1], (raw, sample))
        sums, own = objective.sums(part, decoder(part), given)
        assert 0 < own["quality"] < counts["quality"]
        for name, value in objective.normalised(sums, counts).items():
            added[name] += value
    for name in both:
        np.testing.assert_allclose(added[name], both[name], rtol=1e-5)


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_the_auxiliary_head_answers_with_its_own_number_of_candidates(gain):
    raw, sample, decoder = random_raw(3), scene("padding"), Dfl()
    objective = Aligned(decoder, functools.partial(task_aligned, topk=1), aux={"topk": 5}, aux_gain=gain)
    other = random_raw(4)
    terms = objective(Raw(raw, other), decoder(raw), sample)
    expected = terms_by_hand(raw, sample, topk=1)
    expected |= {f"aux_{name}": gain * value for name, value in terms_by_hand(other, sample, topk=5).items()}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert tuple(terms) == objective.terms
