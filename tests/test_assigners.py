"""Assigners against the papers' algorithms written as plain loops."""

import numpy as np
import pytest
from conftest import random_sample, small

from tfyolo import model as models
from tfyolo.assigners import best_anchor, responsible_cell
from tfyolo.boxes import iou
from tfyolo.structures import BACKGROUND, IGNORE


def candidates_of(name, sample):
    model = models.build(small(name), ("a", "b", "c"))
    sample = sample or random_sample(model.config.model.input_size, ground_truths=8)
    return model.decoder(model.network(sample.image)), sample


def shape_overlap(a, b):
    shared = min(a[0], b[0]) * min(a[1], b[1])
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)


@pytest.mark.parametrize("match, crowded", [(1.0, True), (0.3, False), pytest.param(0.3, True, marks=pytest.mark.slow)])
def test_best_anchor_equals_the_loop(match, crowded):
    """crowded: all boxes have one middle, so that they want the same anchors."""
    sample = random_sample(small("yolov3").model.input_size, ground_truths=8)
    if crowded:
        half = (sample.boxes[..., 2:] - sample.boxes[..., :2]) / 2
        sample = sample._replace(boxes=np.concatenate([20.0 - half, 20.0 + half], -1))
    candidates, sample = candidates_of("yolov3", sample)
    found = best_anchor(candidates, sample.boxes, sample.labels, ignore=0.5, match=match).gt_index.numpy()
    centers, strides, anchors = candidates.priors
    for b in range(2):
        fits = {}  # of each ground truth with the anchors of its cells
        for m in np.flatnonzero(sample.labels[b] >= 0):
            y1, x1, y2, x2 = np.asarray(sample.boxes[b, m])
            center, size = np.array([(y1 + y2) / 2, (x1 + x2) / 2]), (y2 - y1, x2 - x1)
            cells = [
                n
                for n in range(len(centers))
                if (np.floor(center / strides[n]) == np.floor(centers[n] / strides[n])).all()
            ]
            fits[m] = {n: shape_overlap(anchors[n], size) for n in cells}
        owner = {}
        for _ in range(3):
            asked = {}
            for m in set(fits) - set(owner.values()):
                free = {n: fit for n, fit in fits[m].items() if n not in owner}
                if free:
                    best = max(free, key=free.get)
                    asked.setdefault(best, []).append(m)
            owner |= {n: max(askers, key=lambda m: fits[m][n]) for n, askers in asked.items()}
        assert len(set(owner.values())) >= 5
        others = {}
        for m, of_anchor in fits.items():
            for n, fit in of_anchor.items():
                if n not in owner and fit > max(match, fits[others[n]][n] if n in others else 0):
                    others[n] = m
        owner |= others
        overlaps = np.asarray(iou(candidates.boxes[b][:, None], sample.boxes[b][None]))[:, sample.labels[b] >= 0].max(
            -1
        )
        expected = np.where(overlaps > 0.5, IGNORE, BACKGROUND)
        for n, m in owner.items():
            expected[n] = m
        np.testing.assert_array_equal(found[b], expected)
        assert (expected >= 0).sum() >= 5


def test_responsible_cell_equals_the_loop():
    candidates, sample = candidates_of("yolov1", None)
    assignment = responsible_cell(candidates, sample.boxes, sample.labels)
    centers, strides, _ = candidates.priors
    for b in range(2):
        expected, quality = np.full(len(centers), BACKGROUND), np.zeros(len(centers))
        for m in reversed(np.flatnonzero(sample.labels[b] >= 0)):  # the first ground truth of a cell has the last word
            gt = np.asarray(sample.boxes[b, m])
            center = (gt[:2] + gt[2:]) / 2
            cell = [n for n in range(len(centers)) if (np.abs(center - centers[n]) <= strides[n] / 2).all()]
            boxes = candidates.boxes.numpy()[b, cell]
            overlaps = np.asarray(iou(boxes, gt[None]))
            best = np.argmax(overlaps) if overlaps.max() > 0 else np.argmin(((boxes - gt) ** 2).sum(-1))
            expected[cell], quality[cell] = BACKGROUND, 0
            expected[cell[best]], quality[cell[best]] = m, overlaps[best]
        np.testing.assert_array_equal(assignment.gt_index[b], expected)
        np.testing.assert_allclose(assignment.quality[b], quality, atol=1e-6)


@pytest.mark.parametrize("name, assigner", [("yolov3", best_anchor), ("yolov1", responsible_cell)])
def test_no_truths_is_all_background_and_padding_changes_nothing(name, assigner):
    candidates, sample = candidates_of(name, None)
    empty = assigner(candidates, sample.boxes * 0, sample.labels * 0 - 1)
    assert (empty.gt_index.numpy() == BACKGROUND).all() and not empty.quality.numpy().any()
    full = assigner(candidates, sample.boxes, sample.labels)
    cut = assigner(candidates, sample.boxes[:, :-2], sample.labels[:, :-2])
    np.testing.assert_array_equal(full.gt_index, cut.gt_index)
