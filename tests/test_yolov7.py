"""YOLOv7's chain, from logits to loss, against loops in float64 NumPy that use no line of the package."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import random_sample, slow, spanning

from tfyolo.assigners import anchor_ratio, ota
from tfyolo.decoders.anchors import Wide
from tfyolo.losses.yolov7 import Balanced
from tfyolo.structures import Raw

SIZE, K = (96, 128), 3
GRIDS = {"p3": (12, 16, 8), "p4": (6, 8, 16), "p5": (3, 4, 32)}
ANCHORS = {
    "p3": [(16, 12), (36, 19), (9, 30)],
    "p4": [(40, 30), (20, 60), (70, 45)],
    "p5": [(90, 60), (60, 110), (90, 90)],
}
BALANCE = {"p3": 4.0, "p4": 1.0, "p5": 0.4}


def decoder():
    return Wide(anchors=ANCHORS)


def random_raw(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    return {
        part: {level: rng.normal(0, 1, (batch, h, w, 3, z)).astype("float32") for level, (h, w, _) in GRIDS.items()}
        for part, z in (("box", 4), ("obj", 1), ("cls", K))
    }


# --- by hand ----------------------------------------------------------------------------------------------------------


def sigmoid(t):
    return 1 / (1 + math.exp(-float(t)))


def decode_by_hand(raw, b):
    """Rows: (level, row, column, anchor's h and w, box, objectness, classes)."""
    rows = []
    for level, (h, w, stride) in GRIDS.items():
        for row in range(h):
            for column in range(w):
                for a, (ah, aw) in enumerate(ANCHORS[level]):
                    y, x, th, tw = (sigmoid(t) for t in raw["box"][level][b, row, column, a])
                    cy, cx = (row + 2 * y - 0.5) * stride, (column + 2 * x - 0.5) * stride
                    bh, bw = (2 * th) ** 2 * ah, (2 * tw) ** 2 * aw
                    box = (cy - bh / 2, cx - bw / 2, cy + bh / 2, cx + bw / 2)
                    obj = float(raw["obj"][level][b, row, column, a, 0])
                    cls = [float(t) for t in raw["cls"][level][b, row, column, a]]
                    rows.append((level, row, column, (ah, aw), box, obj, cls))
    return rows


def iou_by_hand(a, b):
    h, w = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(h, 0) * max(w, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def ciou_by_hand(a, b):
    overlap = iou_by_hand(a, b)
    distance = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    angle = math.atan((b[3] - b[1]) / (b[2] - b[0])) - math.atan((a[3] - a[1]) / (a[2] - a[0]))
    v = 4 / math.pi**2 * angle**2
    return overlap - distance / diagonal - v * v / (1 - overlap + v)


def is_eligible(level, row, column, anchor, gt, cells, ratio=4.0):
    stride = GRIDS[level][2]
    cy, cx = (gt[0] + gt[2]) / 2 / stride, (gt[1] + gt[3]) / 2 / stride
    sides = [(gt[2] - gt[0]) / anchor[0], (gt[3] - gt[1]) / anchor[1]]
    if max(max(s, 1 / s) for s in sides) >= ratio:
        return False
    own = (math.floor(cy), math.floor(cx))
    wanted = {own}
    if cells == 5:
        wanted |= {(own[0] - 1, own[1]), (own[0] + 1, own[1]), (own[0], own[1] - 1), (own[0], own[1] + 1)}
    else:
        fy, fx = cy - own[0], cx - own[1]
        if fy != 0.5:
            wanted.add((own[0] + (1 if fy > 0.5 else -1), own[1]))
        if fx != 0.5:
            wanted.add((own[0], own[1] + (1 if fx > 0.5 else -1)))
    return (row, column) in wanted


def assign_by_hand(rows, gt_boxes, labels, cells, topk):
    claims = {}  # candidate -> [(cost, ground truth)]
    for m, (gt, label) in enumerate(zip(gt_boxes, labels, strict=True)):
        if label < 0:
            continue
        offers = []
        for n, (level, row, column, anchor, box, obj, cls) in enumerate(rows):
            if not is_eligible(level, row, column, anchor, gt, cells):
                continue
            overlap, cost = iou_by_hand(box, gt), 0.0
            for k in range(K):
                p = math.sqrt(sigmoid(obj) * sigmoid(cls[k]))
                cost -= math.log(p if k == label else 1 - p)
            offers.append((cost - 3 * math.log(overlap + 1e-8), overlap, n))
        k = max(1, int(sum(sorted((overlap for _, overlap, _ in offers), reverse=True)[:topk])))
        for cost, _, n in sorted(offers)[:k]:
            claims.setdefault(n, []).append((cost, m))
    owner = np.full(len(rows), -1)
    for n, offers in claims.items():
        owner[n] = min(offers)[1]
    return owner


def terms_by_hand(raw, sample, assign, guide=None, bound=0.0):
    """guide: by whose predictions boxes are assigned, if others'. bound: the objectness lost a cell off the centre."""
    sums = {(name, level): 0.0 for name in ("box", "obj", "cls") for level in GRIDS}
    answers, everything = dict.fromkeys(GRIDS, 0), dict.fromkeys(GRIDS, 0)
    batch = len(sample.labels)
    for b in range(batch):
        rows = decode_by_hand(raw, b)
        gt_boxes, labels = np.asarray(sample.boxes[b], "float64"), np.asarray(sample.labels[b])
        guides = decode_by_hand(guide or raw, b)
        for m, row in zip(assign(guides, gt_boxes, labels), rows, strict=True):
            level, i, j, _, box, obj, cls = row
            target = 0.0
            if m >= 0:
                answers[level] += 1
                overlap = ciou_by_hand(box, gt_boxes[m])
                stride, gt = GRIDS[level][2], gt_boxes[m]
                away = math.hypot(*((gt[k] + gt[k + 2]) / 2 / stride - at - 0.5 for k, at in enumerate((i, j))))
                target = max(min(overlap, 1 - bound * away), 0.0)
                sums["box", level] += 1 - overlap
                sums["cls", level] += (
                    sum(math.log1p(math.exp(-t if k == labels[m] else t)) for k, t in enumerate(cls)) / K
                )
            everything[level] += 1
            sums["obj", level] += target * math.log1p(math.exp(-obj)) + (1 - target) * math.log1p(math.exp(obj))
    means = {name: sum(sums[name, level] / max(answers[level], 1) for level in GRIDS) for name in ("box", "cls")}
    objectness = sum(BALANCE[level] * sums["obj", level] / everything[level] for level in GRIDS)
    return {
        "box": batch * 0.05 * means["box"],
        "obj": batch * 0.7 * SIZE[0] * SIZE[1] / 640**2 * objectness,
        "cls": batch * 0.3 * K / 80 * means["cls"],
    }


# --- against it -------------------------------------------------------------------------------------------------------


def scene(kind):
    sample = random_sample(SIZE, batch=2, ground_truths=6)
    boxes, labels = sample.boxes.numpy(), sample.labels.numpy()
    if kind == "an empty image":
        labels[1] = -1
    elif kind == "no ground truth":
        labels[:] = -1
    elif kind == "two ground truths claim the same":
        boxes[:, 1], labels[:, 1] = boxes[:, 0] + 1.5, (labels[:, 0] + 1) % K
    elif kind == "on the borders of cells":
        boxes[:, :3] = [22, 26, 42, 54], [38, 20, 58, 44], [48, 64, 80, 96]
        labels[:, 3:] = -1
    elif kind == "on the image's border":
        boxes[:, :4] = [0, 0, 8, 7], [88, 118, 96, 128], [-15, 40, 17, 64], [80, 100, 110, 140]
        labels[:, 4:] = -1
    boxes[labels < 0] = 0
    return sample._replace(boxes=tf.constant(boxes), labels=tf.constant(labels), crowd=tf.zeros_like(sample.crowd))


SCENES = ["padding", "an empty image", "no ground truth", "two ground truths claim the same", "on the borders of cells"]
SCENES += ["on the image's border"]


@pytest.mark.parametrize("kind, counts", spanning([*SCENES], [(3, 10), (5, 20), (3, 1)]))
def test_ota_equals_the_loop(kind, counts):
    cells, topk = counts
    raw, sample = random_raw(), scene(kind)
    assignment = ota(decoder()(raw), sample.boxes, sample.labels, cells=cells, topk=topk)
    for b in range(2):
        rows, gt_boxes = decode_by_hand(raw, b), np.asarray(sample.boxes[b], "float64")
        owner = assign_by_hand(rows, gt_boxes, np.asarray(sample.labels[b]), cells, topk)
        np.testing.assert_array_equal(assignment.gt_index[b], owner)
        expected = [max(ciou_by_hand(rows[n][4], gt_boxes[m]), 0.0) if m >= 0 else 0.0 for n, m in enumerate(owner)]
        np.testing.assert_allclose(assignment.quality[b], expected, atol=1e-5)
    assert kind in ("an empty image", "no ground truth") or (owner >= 0).sum() >= 3


@pytest.mark.parametrize("cells", [3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SCENES)
def test_anchor_ratio_is_all_that_is_eligible(kind, cells):
    raw, sample = random_raw(), scene(kind)
    found = anchor_ratio(decoder()(raw), sample.boxes, sample.labels, cells=cells).gt_index.numpy()
    boxes, real = np.asarray(sample.boxes, "float64"), np.asarray(sample.labels) >= 0
    for b in range(2):
        for n, (level, row, column, anchor, *_) in enumerate(decode_by_hand(raw, b)):
            able = [m for m in np.flatnonzero(real[b]) if is_eligible(level, row, column, anchor, boxes[b, m], cells)]
            assert found[b, n] in (able or [-1])


@pytest.mark.parametrize("kind", SCENES)
def test_the_loss_equals_the_sums(kind):
    raw, sample, boxes = random_raw(1), scene(kind), decoder()
    objective = Balanced(boxes, functools.partial(ota, cells=3, topk=10), balance=BALANCE)
    terms = objective(raw, boxes(raw), sample)
    expected = terms_by_hand(raw, sample, functools.partial(assign_by_hand, cells=3, topk=10))
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("guide, bound", [slow("lead", 0.0), ("lead", 0.9), ("own", 0.0)])
def test_the_auxiliary_head_learns_more_candidates_by_the_leads_predictions_or_its_own(guide, bound):
    raw, other, sample, boxes = random_raw(3), random_raw(4), scene("padding"), decoder()
    objective = Balanced(boxes, ota, balance=BALANCE, aux={"cells": 5, "topk": 20}, guide=guide, aux_bound=bound)
    terms = objective(Raw(raw, other), boxes(raw), sample)
    expected = terms_by_hand(raw, sample, functools.partial(assign_by_hand, cells=3, topk=10))
    coarse = functools.partial(assign_by_hand, cells=5, topk=20)
    aux = terms_by_hand(other, sample, coarse, guide=raw if guide == "lead" else None, bound=bound)
    unbounded = terms_by_hand(other, sample, coarse, guide=raw if guide == "lead" else None)
    assert (aux["obj"] != pytest.approx(unbounded["obj"], rel=3e-4)) == (bound > 0)
    expected |= {f"aux_{name}": 0.25 * value for name, value in aux.items()}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=3e-5, abs=1e-6)
    assert tuple(terms) == objective.terms


@pytest.mark.parametrize("kind", ["padding", slow("an empty image")])
def test_parts_add_up_to_the_batch_with_the_auxiliary_head_too(kind):
    """Each normalised by the positives of both, level by level, and the batch's images."""
    raw, other, sample, boxes = random_raw(2), random_raw(4), scene(kind), decoder()
    objective = Balanced(boxes, ota, balance=BALANCE, aux={"cells": 5, "topk": 20})
    both = objective(Raw(raw, other), boxes(raw), sample)
    _, counts = objective.sums(Raw(raw, other), boxes(raw), sample)
    assert counts["images"] == 2 and sum(counts["positives"]) < sum(counts["aux"]["positives"])
    added = dict.fromkeys(both, 0.0)
    for b in range(2):
        part, given = tf.nest.map_structure(lambda x, b=b: x[b : b + 1], (Raw(raw, other), sample))
        sums, _ = objective.sums(part, boxes(part), given)
        for name, value in objective.normalised(sums, counts).items():
            added[name] += value
    for name in both:
        np.testing.assert_allclose(added[name], both[name], rtol=1e-5)
