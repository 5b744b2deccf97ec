"""Non-maximum suppression against the plain loop of the papers, in TensorFlow and in TFLite."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from conftest import mostly_slow, spanning

from tfyolo.boxes import diou, iou
from tfyolo.postprocess import Nms, Top
from tfyolo.structures import Candidates
from tfyolo.tflite.interpreter import interpreter as started


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


@pytest.mark.parametrize(
    "per_class, soft, limit", spanning([True, False], [(0.0, False), (0.5, False), (0.0, True)], [7, 300])
)
def test_equals_the_loop(per_class, soft, limit):
    sigma, linear = soft
    given = candidates(count=25)
    options = {"soft_sigma": sigma, "soft_linear": linear, "per_class": per_class}
    found = Nms(score=0.1, iou=0.4, limit=limit, **options)(given)
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
    found = Nms(score=0.05, iou=0.3, distance_power=power, per_class=per_class)(given)
    plain = Nms(score=0.05, iou=0.3, per_class=per_class)(given)
    for b in range(2):
        pair = given.boxes[b].numpy(), given.scores[b].numpy()
        expected = by_the_loop(*pair, 0.05, 0.3, 300, per_class=per_class, power=power)
        assert int(found.count[b]) == len(expected) > int(plain.count[b])
        np.testing.assert_allclose(found.scores[b, : len(expected)], [kept[0] for kept in expected], atol=1e-6)
        np.testing.assert_array_equal(found.labels[b, : len(expected)], [kept[2] for kept in expected])
    with pytest.raises(ValueError, match="soft_sigma, soft_linear and distance_power"):
        Nms(soft_sigma=0.5, distance_power=1.0)(given)


@pytest.mark.parametrize("options", [{}, {"soft_sigma": 0.5}, {"soft_linear": True}, {"distance_power": 1.0}])
def test_no_class_has_more_than_its_limit(options):
    """And of others there may be the more: what is dropped for it does not count in the limit of all."""
    given = candidates(count=40)
    given = given._replace(scores=given.scores * [1.0, 0.3, 0.3, 0.3])
    every = Nms(score=0.05, iou=0.5, **options)(given)
    found = Nms(score=0.05, iou=0.5, class_limit=2, limit=7, **options)(given)
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
    found = Nms(score=0.0, iou=1.0, limit=300, candidates_limit=50)(given)
    best = np.sort(given.scores.numpy().ravel())[::-1][:50]
    np.testing.assert_allclose(found.scores[0, : int(found.count[0])], best)


def test_one_image_equals_many():
    given = candidates(batch=3)
    many = Nms(score=0.05)(given)
    for b in range(3):
        one = Nms(score=0.05)(Candidates(given.boxes[b : b + 1], given.scores[b : b + 1], {}, None))
        for left, right in zip(many, one, strict=True):
            np.testing.assert_allclose(left[b], right[0])


def test_nothing_above_the_score_says_the_best():
    given = candidates()
    found = Nms(score=1.0)(given)
    assert not found.count.numpy().any()
    np.testing.assert_allclose(found.best, given.scores.numpy().max((1, 2)))


def test_one_box_without_bounds_leaves_the_others_as_they_are():
    given = candidates(count=30, classes=80, batch=1)
    alone = Nms(score=0.5, iou=0.4)(given)
    boxes = tf.concat([given.boxes, [[[-1e9, -1e9, 1e9, 1e9]]]], axis=1)
    more = given._replace(boxes=boxes, scores=tf.pad(given.scores, [[0, 0], [0, 1], [0, 0]]))
    found = Nms(score=0.5, iou=0.4)(more)
    np.testing.assert_array_equal(found.boxes, alone.boxes)
    np.testing.assert_array_equal(found.labels, alone.labels)


@pytest.mark.parametrize("limit", [5, 40, 300])
@pytest.mark.parametrize("batch", [1, 2])
def test_top_is_the_sorted_pairs(batch, limit):
    given = candidates(count=25, batch=batch)
    found = Top(score=0.2, limit=limit)(given)
    for b in range(batch):
        scores = given.scores[b].numpy()
        order = [i for i in np.argsort(-scores, axis=None) if scores.flat[i] > 0.2][:limit]
        n = len(order)
        assert found.count[b] == n and float(found.best[b]) == scores.max()
        np.testing.assert_array_equal(found.scores[b], [*scores.flat[order], *[0] * (limit - n)])
        np.testing.assert_array_equal(found.labels[b], [*(np.array(order) % 4), *[-1] * (limit - n)])
        np.testing.assert_array_equal(found.boxes[b, :n], given.boxes[b].numpy()[np.array(order) // 4])
        assert not found.boxes[b, n:].numpy().any()


# --- shapes and padding -----------------------------------------------------------------------------------------------

FORMS = {
    "hard": Nms(score=0.1, iou=0.4),
    "class limit": Nms(score=0.1, iou=0.4, class_limit=2, limit=20),
    "soft": Nms(score=0.1, soft_sigma=0.5),
    "linear": Nms(score=0.1, iou=0.4, soft_linear=True, class_limit=3),
    "distance": Nms(score=0.1, iou=0.3, distance_power=1.0),
    "all classes": Nms(score=0.1, iou=0.4, per_class=False, limit=5),
    "top": Top(score=0.1, limit=30),
}
COUNT, CLASSES = 25, 4


def traced(postprocess):
    """As an export traces it: one image, its candidates in number known."""
    shapes = [tf.TensorSpec([1, COUNT, 4], name="boxes"), tf.TensorSpec([1, COUNT, CLASSES], name="scores")]

    @tf.function(input_signature=shapes, autograph=False)
    def run(boxes, scores):
        return postprocess(Candidates(boxes, scores, None, None, np.array([100, 100], "float32")))._asdict()

    return run


@pytest.mark.parametrize("form", FORMS)
def test_no_shape_depends_on_the_image(form):
    """Not even inside: TFLite would compute its outputs' shapes, which CompiledModel and LiteRT.js do not bind."""
    graph = traced(FORMS[form]).get_concrete_function().graph
    open_shapes = [tensor.name for op in graph.get_operations() for tensor in op.outputs if None in tensor.shape]
    assert open_shapes == []


@pytest.fixture(scope="module")
def in_tflite(tmp_path_factory):
    """{form: (traced, the same in TFLite)}, converted once each."""

    @functools.cache
    def of(form):
        module, folder = tf.Module(), str(tmp_path_factory.mktemp("postprocess"))
        module.run = traced(FORMS[form])
        tf.saved_model.save(module, folder, {"serving_default": module.run})
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        return module.run, started(model_content=content).get_signature_runner()

    return of


@pytest.mark.parametrize("found", ["nothing", "one", "ties", "many"])
@pytest.mark.parametrize("form", mostly_slow(FORMS, ["hard", "class limit"]))
def test_tflite_gives_the_same_padding_included(form, found, in_tflite):
    """TFLite's NMS has outputs of fixed length, whose padding is the best box again."""
    given = candidates(count=COUNT, classes=CLASSES, batch=1)
    scores = given.scores.numpy()
    if found == "nothing":
        scores *= 0.0999
    elif found == "one":
        scores[0, 1:], scores[0, 0] = 0.0, [0.05, 0.9, 0.0, 0.1]  # 0.1 is not above 0.1
    elif found == "ties":
        if form == "soft":
            pytest.skip("TFLite takes equal scores in any order, and here they are what is computed with")
        scores = np.round(scores, 1)
    run, runner = in_tflite(form)
    mine = {name: value.numpy() for name, value in run(given.boxes, scores).items()}
    theirs = runner(boxes=given.boxes.numpy(), scores=scores)
    count = int(mine["count"][0])
    assert {"nothing": count == 0, "one": count == 1}.get(found, count > 3)
    for name, value in mine.items():
        np.testing.assert_allclose(theirs[name], value, atol=1e-6, err_msg=name)
        assert theirs[name].dtype == value.dtype
    for outputs in (mine, theirs):
        assert np.sum(outputs["scores"] > 0.1) == count == np.sum(outputs["labels"] >= 0)
        assert not outputs["scores"][0, count:].any() and not outputs["boxes"][0, count:].any()
        assert (outputs["labels"][0, count:] == -1).all()


def test_of_equal_scores_the_first_stands_first():
    boxes = (20 * np.arange(40)[:, None] + [0, 0, 10, 10]).astype("float32")  # none overlaps another
    scores = np.repeat([[0.5], [0.25]], 20, axis=0).astype("float32")
    for form in (Nms(limit=50), Nms(limit=50, class_limit=40), Nms(limit=50, distance_power=1.0), Top(limit=50)):
        found = form(Candidates(boxes[None], scores[None], None, None))
        np.testing.assert_array_equal(found.boxes[0, :40], boxes)


# --- classes apart ----------------------------------------------------------------------------------------------------


def class_by_class(boxes, scores, size, score, threshold):
    """({(row, class)} that stay, how near an overlap comes to the threshold): each class by itself, in float64.

    A box ends a side's length off the image.
    """
    height, width = size
    boxes = np.clip(boxes.astype("float64"), [-height, -width] * 2, [2 * height, 2 * width] * 2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept, closest = set(), 1.0
    for k in range(scores.shape[1]):
        mine = []
        for n in sorted(np.flatnonzero(scores[:, k] > score), key=lambda n: -scores[n, k]):
            low, high = np.maximum(boxes[n, :2], boxes[mine, :2]), np.minimum(boxes[n, 2:], boxes[mine, 2:])
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            overlaps = shared / (areas[n] + areas[mine] - shared)
            closest = min(closest, np.abs(overlaps - threshold).min(initial=1.0))
            if not (overlaps > threshold).any():
                mine.append(n)
        kept |= {(n, k) for n in mine}
    return kept, closest


@pytest.mark.parametrize("classes", [1, 80, 1203])
@pytest.mark.parametrize("sort", ["inside", "far outside", "one without bounds"])
def test_any_number_of_classes_is_kept_apart_to_the_pixel(classes, sort):
    """Small boxes, each with a partner that overlaps it by a little more or a little less than the threshold."""
    rng = np.random.default_rng(classes)
    size, count = (1280, 960), 400 if classes > 1 else 60
    corners = rng.uniform(0, 0.95, (count, 2)) * size
    sides = rng.uniform(8, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], -1)
    # Moved so that the overlap is 1/2 +- 0.02: along y by a third of the side or a little off it.
    shift = sides[:, :1] * (1 / 3 + rng.choice([-0.02, 0.02], (count, 1)))
    twins = boxes + np.concatenate([shift, 0 * shift] * 2, -1)
    if sort == "far outside":
        boxes[: count // 8, 2:] += rng.uniform(500, 50_000, (count // 8, 2))
        twins[: count // 8, 2:] = boxes[: count // 8, 2:] + sides[: count // 8]
        boxes[-(count // 8) :, :2] -= rng.uniform(500, 50_000, (count // 8, 2))
    boxes = np.concatenate([boxes, twins]).astype("float32")
    labels = np.tile(rng.integers(0, classes, count), 2)
    scores = np.zeros((2 * count, classes), "float32")
    scores[np.arange(2 * count), labels] = rng.uniform(0.1, 0.9, 2 * count)
    if sort == "one without bounds":
        boxes = np.concatenate([boxes, np.array([[-1e9, -1e9, 1e9, 1e9]], "float32")])
        scores = np.concatenate([scores, np.eye(1, classes, classes - 1, dtype="float32")])
    kept, closest = class_by_class(boxes, scores, size, 0.05, 0.5)
    assert closest > 2e-4 and count < len(kept) < 2 * count
    given = Candidates(boxes[None], scores[None], None, None, np.array(size, "float32"))
    found = Nms(score=0.05, iou=0.5, limit=2 * count + 1)(given)
    rows = {tuple(box): row for row, box in enumerate(boxes)}
    n = int(found.count[0])
    pairs = zip(found.boxes[0, :n].numpy(), found.labels[0, :n].numpy(), strict=True)
    assert {(rows[tuple(box)], label) for box, label in pairs} == kept
