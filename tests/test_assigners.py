"""Assigners against the papers' algorithms written as plain loops."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_config, random_sample, small

from tfyolo import assigners
from tfyolo import model as models
from tfyolo.assigners import ASSIGNERS, best_anchor, responsible_cell
from tfyolo.boxes import iou, pairwise_iou, yxhw_to_boxes
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


# --- many ground truths -----------------------------------------------------------------------------------------------

# A config whose decoder makes candidates for an assigner
CONFIG_OF = {
    "best_anchor": "yolov3",
    "responsible_cell": "yolov1",
    "task_aligned": "yolov8n",
    "ota": "yolov7",
    "simota": "yolox-s",
    "anchor_ratio": "yolov7",
    "max_iou": "m2det512-vgg",
}


def random_candidates(name, size=(128, 192), classes=3, batch=2):
    """Candidates of an assigner's config from random outputs: no network is built."""
    config, rng = load_config(CONFIG_OF[name]), np.random.default_rng(0)
    decoder = models.decoder_of(config)
    raw = {
        part: {
            level: tf.constant(
                rng.normal(-1, 1, (batch, *(-(-side // 2 ** int(level[1:])) for side in size), decoder.num_anchors, z)),
                tf.float32,
            )
            for level in decoder.levels
        }
        for part, z in decoder.parts(classes).items()
    }
    return decoder(raw)


@pytest.mark.parametrize("name", ASSIGNERS)
def test_one_trace_serves_any_number_of_ground_truths_and_none(name):
    candidates, traces = random_candidates(name), []

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.int32)],
    )
    def assigned(boxes, labels):
        traces.append(1)
        return ASSIGNERS[name](candidates, boxes, labels)

    sample = random_sample((128, 192), ground_truths=40, padding=3)
    empty = assigned(sample.boxes[:, :0], sample.labels[:, :0])
    assert empty.gt_index.dtype == tf.int32 and (empty.gt_index.numpy() == BACKGROUND).all()
    assert not empty.quality.numpy().any()
    for count in (1, 40):
        boxes, labels = sample.boxes[:, :count], sample.labels[:, :count]
        traced, eager = assigned(boxes, labels), ASSIGNERS[name](candidates, boxes, labels)
        np.testing.assert_array_equal(traced.gt_index, eager.gt_index)
        np.testing.assert_allclose(traced.quality, eager.quality, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1 and (eager.gt_index.numpy() > 0).any()


@pytest.mark.parametrize("at_once", [1, 10_000])
@pytest.mark.parametrize("name", ["best_anchor", "max_iou"])
def test_parts_of_the_ground_truths_change_nothing(name, at_once, monkeypatch):
    candidates, sample = random_candidates(name), random_sample((128, 192), ground_truths=23, padding=3)
    whole = ASSIGNERS[name](candidates, sample.boxes, sample.labels)
    monkeypatch.setattr(assigners, "AT_ONCE", at_once)
    for one, other in zip(ASSIGNERS[name](candidates, sample.boxes, sample.labels), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_max_iou_is_the_row_of_the_whole_table():
    """Many ground truths, some alike, that want one prior: the table of all pairs, which the assigner never makes."""
    candidates, sample = random_candidates("max_iou"), random_sample((128, 192), ground_truths=60, padding=5)
    boxes = tf.concat([sample.boxes[:, :30]] * 2, axis=1)  # each stands there twice
    found = ASSIGNERS["max_iou"](candidates, boxes, sample.labels, match=0.4, ignore=0.3).gt_index.numpy()
    stand = yxhw_to_boxes(np.concatenate([candidates.priors.centers, candidates.priors.anchors], axis=-1))
    for b in range(2):
        table = np.where(sample.labels[b] >= 0, pairwise_iou(stand, boxes[b]), 0)  # [N, M]
        forced = {}
        for _ in range(3):
            free = np.where(np.isin(np.arange(len(table)), list(forced)), 0, 1)
            asked = {m: (table[:, m] * free).argmax() for m in range(60) if m not in forced.values()}
            asked = {m: n for m, n in asked.items() if table[n, m] * free[n] > 0}
            for n in set(asked.values()):
                forced[n] = max((m for m in asked if asked[m] == n), key=lambda m: table[n, m])
        expected = np.where(table.max(1) > 0.4, table.argmax(1), np.where(table.max(1) > 0.3, IGNORE, BACKGROUND))
        expected[list(forced)] = list(forced.values())
        np.testing.assert_array_equal(found[b], expected)
        assert len(forced) > 30


def test_candidates_that_are_no_grid_are_refused():
    candidates, sample = random_candidates("task_aligned"), random_sample((128, 192))
    centers = candidates.priors.centers.copy()
    centers[5] += 1
    candidates = candidates._replace(priors=candidates.priors._replace(centers=centers))
    with pytest.raises(ValueError, match="expected priors that are whole grids"):
        ASSIGNERS["task_aligned"](candidates, sample.boxes, sample.labels)
