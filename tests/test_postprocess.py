"""Non-maximum suppression against the plain loop of the papers."""

import numpy as np
import pytest
import tensorflow as tf

from tfyolo.boxes import diou, iou
from tfyolo.postprocess import nms, top
from tfyolo.structures import Candidates


def candidates(count=60, classes=4, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    centers, sides = rng.uniform(20, 80, (batch, count, 2)), rng.uniform(10, 40, (batch, count, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")
    scores = rng.uniform(0, 1, (batch, count, classes)).astype("float32") ** 3
    return Candidates(tf.constant(boxes), tf.constant(scores), {}, None)


def by_the_loop(boxes, scores, score, threshold, limit, sigma=0.0, per_class=True, power=None, linear=False):
    """Greedy NMS, or Gaussian or linear soft-NMS (Bodla et al. 2017, figure 2), over all (box, class) pairs."""
    overlaps, less_distance = (np.asarray(measure(boxes[:, None], boxes)) for measure in (iou, diou))
    pairs = [[float(scores[n, k]), n, k] for n in range(len(boxes)) for k in range(scores.shape[1])]
    kept = []
    while pairs and len(kept) < limit:
        best = max(pairs)
        pairs.remove(best)
        if best[0] <= score:
            break
        kept.append(best)
        rest = []
        for pair in pairs:
            at = best[1], pair[1]
            overlap = float(overlaps[at]) if best[2] == pair[2] or not per_class else 0.0
            if power is not None and overlap:
                overlap -= max(float(overlaps[at] - less_distance[at]), 0.0) ** power
            if sigma:
                pair[0] *= np.exp(-(overlap**2) / sigma)
                rest.append(pair)
            elif linear:
                pair[0] *= 1 - overlap if overlap > threshold else 1
                rest.append(pair)
            elif overlap <= threshold:
                rest.append(pair)
        pairs = rest
    return kept


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("sigma, linear", [(0.0, False), (0.5, False), (0.0, True)])
@pytest.mark.parametrize("limit", [300, 7])
def test_equals_the_loop(per_class, sigma, linear, limit):
    given = candidates(count=25)
    options = {"soft_sigma": sigma, "soft_linear": linear, "per_class": per_class}
    found = nms(given, score=0.1, iou=0.4, limit=limit, **options)
    for b in range(2):
        boxes, scores = given.boxes[b].numpy(), given.scores[b].numpy()
        expected = by_the_loop(boxes, scores, 0.1, 0.4, limit, sigma, per_class, linear=linear)
        count = int(found.count[b])
        assert count == len(expected)
        np.testing.assert_allclose(found.scores[b, :count], [pair[0] for pair in expected], atol=1e-5)
        np.testing.assert_array_equal(found.labels[b, :count], [pair[2] for pair in expected])
        np.testing.assert_allclose(found.boxes[b, :count], given.boxes[b].numpy()[[pair[1] for pair in expected]])
        assert not found.scores[b, count:].numpy().any() and (found.labels[b, count:].numpy() == -1).all()


@pytest.mark.parametrize(
    "power, per_class",
    [(1.0, True), (0.6, False), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1.0, False), (0.6, True)))],
)
def test_distance_counts(per_class, power):
    given = candidates(count=40)
    found = nms(given, score=0.05, iou=0.3, distance_power=power, per_class=per_class)
    plain = nms(given, score=0.05, iou=0.3, per_class=per_class)
    for b in range(2):
        pair = given.boxes[b].numpy(), given.scores[b].numpy()
        expected = by_the_loop(*pair, 0.05, 0.3, 300, per_class=per_class, power=power)
        assert int(found.count[b]) == len(expected) > int(plain.count[b])
        np.testing.assert_allclose(found.scores[b, : len(expected)], [kept[0] for kept in expected], atol=1e-6)
        np.testing.assert_array_equal(found.labels[b, : len(expected)], [kept[2] for kept in expected])
    with pytest.raises(ValueError, match="soft_sigma, soft_linear and distance_power"):
        nms(given, soft_sigma=0.5, distance_power=1.0)


@pytest.mark.parametrize("options", [{}, {"soft_sigma": 0.5}, {"soft_linear": True}, {"distance_power": 1.0}])
def test_no_class_has_more_than_its_limit(options):
    """And of others there may be the more: what is dropped for it does not count in the limit of all."""
    given = candidates(count=40)
    given = given._replace(scores=given.scores * [1.0, 0.3, 0.3, 0.3])
    every = nms(given, score=0.05, iou=0.5, **options)
    found = nms(given, score=0.05, iou=0.5, class_limit=2, limit=7, **options)
    for b in range(2):
        labels, kept = every.labels[b].numpy(), []
        for d in range(int(every.count[b])):
            if sum(labels[other] == labels[d] for other in kept) < 2 and len(kept) < 7:
                kept.append(d)
        assert kept[-1] > 7
        assert int(found.count[b]) == len(kept) < int(every.count[b])
        for name in ("boxes", "scores", "labels"):
            values = getattr(found, name)[b]
            np.testing.assert_array_equal(values[: len(kept)], getattr(every, name)[b].numpy()[kept])


def test_the_best_pairs_enter_and_no_others():
    """candidates_limit pairs, exactly the best: the two small top-k equal one large."""
    given = candidates(count=200, classes=5, batch=1)
    found = nms(given, score=0.0, iou=1.0, limit=300, candidates_limit=50)
    best = np.sort(given.scores.numpy().ravel())[::-1][:50]
    np.testing.assert_allclose(found.scores[0, : int(found.count[0])], best)


def test_one_image_equals_many():
    given = candidates(batch=3)
    many = nms(given, score=0.05)
    for b in range(3):
        one = nms(Candidates(given.boxes[b : b + 1], given.scores[b : b + 1], {}, None), score=0.05)
        for left, right in zip(many, one, strict=True):
            np.testing.assert_allclose(left[b], right[0])


def test_nothing_above_the_score_says_the_best():
    given = candidates()
    found = nms(given, score=1.0)
    assert not found.count.numpy().any()
    np.testing.assert_allclose(found.best, given.scores.numpy().max((1, 2)))


def test_one_box_without_bounds_leaves_the_others_as_they_are():
    given = candidates(count=30, classes=80, batch=1)
    alone = nms(given, score=0.5, iou=0.4)
    boxes = tf.concat([given.boxes, [[[-1e9, -1e9, 1e9, 1e9]]]], axis=1)
    found = nms(given._replace(boxes=boxes, scores=tf.pad(given.scores, [[0, 0], [0, 1], [0, 0]])), score=0.5, iou=0.4)
    np.testing.assert_array_equal(found.boxes, alone.boxes)
    np.testing.assert_array_equal(found.labels, alone.labels)


@pytest.mark.parametrize("limit", [5, 40, 300])
@pytest.mark.parametrize("batch", [1, 2])
def test_top_is_the_sorted_pairs(batch, limit):
    given = candidates(count=25, batch=batch)
    found = top(given, score=0.2, limit=limit)
    for b in range(batch):
        scores = given.scores[b].numpy()
        order = [i for i in np.argsort(-scores, axis=None) if scores.flat[i] > 0.2][:limit]
        n = len(order)
        assert found.count[b] == n and float(found.best[b]) == scores.max()
        np.testing.assert_array_equal(found.scores[b], [*scores.flat[order], *[0] * (limit - n)])
        np.testing.assert_array_equal(found.labels[b], [*(np.array(order) % 4), *[-1] * (limit - n)])
        np.testing.assert_array_equal(found.boxes[b, :n], given.boxes[b].numpy()[np.array(order) // 4])
        assert not found.boxes[b, n:].numpy().any()
