"""Anchors by k-means: planted clusters come back, published anchors are beaten on the data at hand."""

import json

import numpy as np
import pytest
import yaml

from tfyolo.data import anchors as clustering
from tfyolo.data.sources.source import Record, Source

PLANTED = np.float32([[10, 14], [40, 20], [60, 120], [200, 180]])
# YOLOv3-tiny's (yolov3-tiny.cfg), as (h, w).
PUBLISHED = [(14, 10), (27, 23), (58, 37), (82, 81), (169, 135), (319, 344)]


def around(centres, count, spread, seed=0):
    noise = np.random.default_rng(seed).normal(0, spread, [len(centres), count, 2])
    return np.float32((np.float32(centres)[:, None] * np.exp(noise)).reshape(-1, 2))


@pytest.mark.parametrize("seed", range(3))
def test_planted_clusters_come_back(seed):
    found = clustering.kmeans(around(PLANTED, 200, 0.03), 4, seed)
    np.testing.assert_allclose(found, PLANTED, rtol=0.02)  # which are in order of their areas
    assert found.dtype == np.float32


def test_one_anchor_of_one_size():
    np.testing.assert_array_equal(clustering.kmeans([[3, 5]] * 7, 1), [[3, 5]])


def test_better_than_the_published_ones_and_than_fewer():
    sizes = np.float32(np.exp(np.random.default_rng(0).normal([3.5, 3.8], [0.8, 0.7], [3000, 2])))
    scores = [clustering.mean_iou(sizes, clustering.kmeans(sizes, k)) for k in (1, 3, 6, 9)]
    assert scores == sorted(scores)
    assert scores[2] > clustering.mean_iou(sizes, PUBLISHED) + 0.02


def test_same_seed_same_anchors():
    sizes = around(PLANTED, 300, 0.6)
    np.testing.assert_array_equal(clustering.kmeans(sizes, 5, 3), clustering.kmeans(sizes, 5, 3))


@pytest.mark.slow
def test_many_boxes_are_sampled():
    """COCO has 850,000: what is found in a sample of them fits all of them as well."""
    sizes = np.float32(np.exp(np.random.default_rng(0).normal(4, 0.8, [400_000, 2])))
    few = clustering.mean_iou(sizes, clustering.kmeans(sizes, 6))
    assert few > clustering.mean_iou(sizes, clustering.kmeans(sizes[: clustering.SAMPLE], 6, seed=1)) - 0.003


@pytest.mark.parametrize(
    ("sizes", "k", "message"),
    [
        (np.zeros([0, 2]), 3, "received 0 boxes for 3 anchors"),
        ([[2, 2]], 0, "received 1 boxes for 0 anchors"),
        ([[2, 2], [2, 2], [3, 3]], 3, "at least 3 different box sizes for 3 anchors, received 2"),
        ([[2, 2], [0, 2]], 1, "sizes above 0"),
        ([[2, 2], [np.nan, 2]], 1, "sizes above 0"),
    ],
)
def test_errors(sizes, k, message):
    with pytest.raises(clustering.AnchorError, match=message):
        clustering.kmeans(sizes, k)


def test_fitness_by_hand():
    # IoU by shape: 10x10 in 10x20 is 1/2, 20x20 beside 10x20 is 1/2, 5x5 in 10x10 is 1/4.
    fitness = clustering.fitness([[10, 10], [5, 5], [20, 20], [10, 20]], [(10, 10), (10, 20)])
    assert fitness.mean_iou == pytest.approx((1 + 0.25 + 0.5 + 1) / 4)
    assert fitness.below_half == pytest.approx(1 / 4)
    np.testing.assert_allclose(fitness.shares, [0.5, 0.5])
    with pytest.raises(clustering.AnchorError, match="received none"):
        clustering.fitness(np.zeros([0, 2]), PUBLISHED)


def test_dataset_sizes_are_letterboxed_and_without_crowds():
    boxes = np.float32([[0, 0, 50, 100], [10, 10, 20, 20], [0, 0, 100, 200]])
    crowd = np.array([False, False, True])
    record = Record(0, "a.jpg", boxes, np.zeros(3, np.int32), crowd, np.zeros(3, np.float32), (100, 200))
    empty = record._replace(boxes=boxes[:0], labels=record.labels[:0], crowd=crowd[:0], areas=record.areas[:0])
    source = Source((record, empty), ("a",), (0,), (), "", "", "")
    # 100 x 200 into 400 x 400: by 2, as the width allows; into 100 x 400: by 1, as the height does.
    np.testing.assert_allclose(clustering.dataset_sizes(source, (400, 400)), [[100, 200], [20, 20]])
    np.testing.assert_allclose(clustering.dataset_sizes(source, (100, 400)), [[50, 100], [10, 10]])
    assert clustering.dataset_sizes(source._replace(records=(empty,)), (64, 64)).shape == (0, 2)


def test_anchors_of_a_source_are_given_to_the_levels_by_size_and_read_back_as_yaml():
    """Boxes of three sizes, at half of the network's size; the smallest belongs to the finest level."""
    sides = np.float32([[5, 10], [20, 20], [60, 40]] * 4)
    boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
    none = np.zeros(len(boxes), bool)
    record = Record(1, "1.jpg", boxes, np.zeros(len(boxes), np.int32), none, sides.prod(1), (100, 100), None, none)
    source = Source((record,), ("a",), (0,), (), "made", "train", "coco")
    before = {"p5": [(50, 50)], "p4": [(10, 10), (30, 30)]}
    fit = clustering.fit_anchors(source, before, (200, 200))
    assert fit.anchors == {"p4": [[10.0, 20.0], [40.0, 40.0]], "p5": [[120.0, 80.0]]}
    assert fit.boxes == 12 and fit.mean_iou == pytest.approx(1) and 0 < fit.mean_iou_of_config < 1
    assert yaml.safe_load(str(fit)) == {"anchors": fit.anchors}
    assert json.loads(json.dumps(fit.to_json()))["input_size"] == [200, 200]
