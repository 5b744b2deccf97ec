"""Losses against numpy, Keras and the papers' sums; and the laws that a training loop leans on."""

import copy
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGS, mostly_slow, random_sample, small

from tfyolo import model as models
from tfyolo.assigners import best_anchor, responsible_cell
from tfyolo.boxes import area, iou
from tfyolo.decoders.anchors import Anchor, Region, Wide
from tfyolo.losses.darknet import Dense
from tfyolo.losses.elementwise import (
    TERMS,
    bce,
    bce_of_class,
    bce_of_others,
    focal,
    softmax_cross_entropy,
    softmax_cross_entropy_of_class,
)
from tfyolo.losses.objective import at_positives, targets_of
from tfyolo.structures import BACKGROUND, IGNORE, Assignment

NAMES = ("a", "b", "c")
LOGITS = np.linspace(-30, 30, 41).astype("float32")


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_bce_equals_the_definition(target):
    p = 1 / (1 + np.exp(-LOGITS.astype("float64")))
    expected = -(target * np.log(p) + (1 - target) * np.log1p(-p + 1e-300))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(bce(np.float32(target), LOGITS)[finite], expected[finite], rtol=1e-3, atol=1e-6)


def values_and_gradients(function, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = function(logits)
    return values, tape.gradient(values, logits)


@pytest.mark.parametrize("on, off", [(1.0, 0.0), (0.7, 0.0), (0.95, 0.05)])
def test_terms_of_one_class_are_those_of_targets_over_all(on, off):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(-4, 6, (5, 40)).astype("float32"), rng.integers(0, 40, 5).astype("int32")
    own = np.eye(40, dtype="float32")[labels]
    targets = own * on + (1 - own) * off
    for ours, whole in (
        (functools.partial(bce_of_class, labels, on=on, off=off), lambda z: tf.reduce_sum(bce(targets, z), -1)),
        (
            functools.partial(bce_of_others, labels, off=off),
            lambda z: tf.reduce_sum((1 - own) * bce(targets, z), -1),
        ),
        (functools.partial(softmax_cross_entropy_of_class, labels), functools.partial(softmax_cross_entropy, own)),
    ):
        for one, other in zip(values_and_gradients(ours, logits), values_and_gradients(whole, logits), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(
        bce_of_others(labels * 0 - 1, logits), np.sum(bce(np.zeros_like(logits), logits), -1), rtol=1e-5
    )


@pytest.mark.parametrize("share", [0, 0.3])
def test_terms_at_positives_are_those_of_all_where_they_count(share):
    rng = np.random.default_rng(0)
    positive, labels = rng.random((2, 50)) < share, rng.integers(0, 4, (2, 50)).astype("int32")
    logits = rng.normal(0, 3, (2, 50, 4)).astype("float32")
    found, gradient = values_and_gradients(lambda z: at_positives(positive, bce_of_class, labels, z), logits)
    expected, whole = values_and_gradients(
        lambda z: tf.where(positive, tf.reduce_sum(bce(tf.one_hot(labels, 4), z), -1), 0.0), logits
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0, 0.2, 1])
def test_what_lies_in_a_crowd_is_seen_in_the_table_of_all_pairs(share):
    _, sample, _, candidates = forward("yolov3")
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (2, 30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (2, 30, 2))], axis=-1).astype("float32")
    crowd = rng.random((2, 30)) < share
    sample = sample._replace(boxes=tf.constant(boxes), labels=tf.zeros((2, 30), tf.int32), crowd=tf.constant(crowd))
    corners = rng.uniform(0, 90, (*candidates.boxes.shape[:2], 2))
    found = np.concatenate([corners, corners + rng.uniform(1, 60, corners.shape)], axis=-1).astype("float32")
    candidates = candidates._replace(boxes=tf.constant(found))
    nobody = Assignment(tf.fill(found.shape[:2], BACKGROUND), tf.zeros(found.shape[:2]))
    index = targets_of(lambda *_: nobody, candidates, sample).index
    least, most = (np.maximum, np.minimum)
    sides = most(found[:, :, None, 2:], boxes[:, None, :, 2:]) - least(found[:, :, None, :2], boxes[:, None, :, :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1) * crowd[:, None]
    expected = np.any(shared > 0.5 * area(found)[..., None], axis=-1)
    np.testing.assert_array_equal(index, np.where(expected, IGNORE, BACKGROUND))
    assert share in (0, 1) or expected.any()


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 1.5)])
def test_focal_equals_keras(alpha, gamma):
    logits = np.linspace(-8, 8, 33).astype("float32")[:, None]
    for target in (0.0, 1.0):
        targets = np.full_like(logits, target)
        expected = keras.losses.binary_focal_crossentropy(
            targets, logits, apply_class_balancing=True, alpha=alpha, gamma=gamma, from_logits=True
        )
        np.testing.assert_allclose(focal(targets, logits, alpha, gamma)[:, 0], expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_terms_have_finite_gradients_everywhere(name):
    logits = tf.constant([-1e4, -50.0, 0.0, 50.0, 1e4])
    for target in (0.0, 1.0):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = TERMS[name](tf.fill([5], target), logits)
        assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, logits)).all()


@functools.cache
def forward(name, crowd=False):
    model = models.build(small(name), NAMES)
    sample = random_sample(model.config.model.input_size, ground_truths=7, crowd=crowd)
    raw = model.network(sample.image)
    return model, sample, raw, model.decoder(raw)


def test_yolov3_sums_by_hand():
    model, sample, raw, candidates = forward("yolov3")
    assigner = functools.partial(best_anchor, ignore=0.5)
    objective = Dense(
        model.decoder, assigner, box="iou", box_gain=2.0, noobj_gain=0.25, cls_gain=3.0, label_smoothing=0.1
    )
    terms = objective(raw, candidates, sample)
    index = assigner(candidates, sample.boxes, sample.labels).gt_index.numpy()
    height, width = model.config.model.input_size
    box = obj = cls = 0.0
    for b in range(2):
        for n, m in enumerate(index[b]):
            logit = candidates.logits["obj"][b, n]
            if m == BACKGROUND:
                obj += 0.25 * float(bce(0.0, logit)[0])
            if m < 0:
                continue
            truth = sample.boxes[b, m]
            obj += float(bce(1.0, logit)[0])
            box += (2 - float(area(truth)) / (height * width)) * (1 - float(iou(candidates.boxes[b, n], truth)))
            smooth = np.full(3, 0.05, "float32")
            smooth[sample.labels[b, m]] = 0.95
            cls += float(np.sum(bce(smooth, candidates.logits["cls"][b, n])))
    expected = {"box": 2.0 * box / 2, "obj": obj / 2, "cls": 3.0 * cls / 2}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


def ciou_by_hand(a, b):
    """Equations 10 to 12 of arXiv:1911.08287, of two boxes in float64."""
    (ay1, ax1, ay2, ax2), (by1, bx1, by2, bx2) = a, b
    shared = max(0, min(ay2, by2) - max(ay1, by1)) * max(0, min(ax2, bx2) - max(ax1, bx1))
    overlap = shared / ((ay2 - ay1) * (ax2 - ax1) + (by2 - by1) * (bx2 - bx1) - shared)
    distance = (ay1 + ay2 - by1 - by2) ** 2 / 4 + (ax1 + ax2 - bx1 - bx2) ** 2 / 4
    diagonal = (max(ay2, by2) - min(ay1, by1)) ** 2 + (max(ax2, bx2) - min(ax1, bx1)) ** 2
    v = 4 / np.pi**2 * (np.arctan((bx2 - bx1) / (by2 - by1)) - np.arctan((ax2 - ax1) / (ay2 - ay1))) ** 2
    return overlap - distance / diagonal - v / (1 - overlap + v) * v


@pytest.mark.parametrize("cls", ["bce", "softmax"])
@pytest.mark.parametrize("kind", [Anchor, Wide, Region])
def test_gains_by_level_and_a_softmax_sum_by_hand(kind, cls):
    """YOLOv4-CSP's objectness counts 4, 1 and 0.4 at p3, p4, p5; YOLOv2's classes are one out of K."""
    gains = {"p3": 4.0, "p4": 1.0, "p5": 0.4}
    decoder = kind(anchors={"p3": [[12, 9]], "p4": [[24, 32]], "p5": [[60, 50]]})
    sample, rng = random_sample((64, 96), ground_truths=7), np.random.default_rng(0)
    raw = {
        part: {f"p{i}": rng.normal(size=(2, 64 >> i, 96 >> i, 1, z)).astype("float32") for i in (3, 4, 5)}
        for part, z in decoder.parts(3).items()
    }
    candidates = decoder(raw)
    assigner = functools.partial(best_anchor, ignore=0.3, match=0.2)
    terms = Dense(decoder, assigner, cls=cls, obj_gain=gains, noobj_gain=0.5, small_boxes=False, label_smoothing=0.1)(
        raw, candidates, sample
    )

    index = assigner(candidates, sample.boxes, sample.labels).gt_index.numpy()
    logits = {part: np.asarray(values, "float64") for part, values in candidates.logits.items()}
    boxes, truths = np.asarray(candidates.boxes, "float64"), np.asarray(sample.boxes, "float64")
    gain = np.repeat([4.0, 1.0, 0.4], [8 * 12, 4 * 6, 2 * 3])
    box = obj = classes = 0.0
    for b, n in np.ndindex(*index.shape):
        m, logit = index[b, n], logits["obj"][b, n, 0]
        if m == BACKGROUND:
            obj += gain[n] * 0.5 * np.log1p(np.exp(logit))
        if m < 0:
            continue
        obj += gain[n] * np.log1p(np.exp(-logit))
        box += 1 - ciou_by_hand(boxes[b, n], truths[b, m])
        one_hot = np.eye(3)[sample.labels[b, m]]
        t = logits["cls"][b, n]
        if cls == "softmax":
            classes -= np.sum((0.9 * one_hot + 0.1 / 3) * (t - np.log(np.exp(t).sum())))
        else:
            target = 0.9 * one_hot + 0.05
            classes += np.sum(target * np.log1p(np.exp(-t)) + (1 - target) * np.log1p(np.exp(t)))
    assert {gain[n] for b, n in np.argwhere(index >= 0)} == {4.0, 1.0, 0.4} and (index == BACKGROUND).sum() > 50
    expected = {"box": box / 2, "obj": obj / 2, "cls": classes / 2}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_softmax_cross_entropy_equals_keras_and_does_not_overflow():
    logits = np.random.default_rng(0).normal(0, 4, (5, 6, 7)).astype("float32")
    targets = np.eye(7, dtype="float32")[np.arange(30).reshape(5, 6) % 7]
    expected = keras.losses.categorical_crossentropy(targets, logits, from_logits=True)
    np.testing.assert_allclose(softmax_cross_entropy(targets, logits), expected, rtol=1e-4, atol=1e-5)
    huge = tf.constant([[1e4, -1e4, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(huge)
        value = softmax_cross_entropy(tf.constant([[0.0, 1.0, 0.0]]), huge)
    assert float(value[0]) == pytest.approx(2e4) and np.isfinite(tape.gradient(value, huge)).all()


def test_yolov1_sums_by_hand():
    """Equation 3 of arXiv:1506.02640."""
    model, sample, raw, candidates = forward("yolov1")
    terms = model.objective(raw, candidates, sample)
    assignment = responsible_cell(candidates, sample.boxes, sample.labels)
    index = assignment.gt_index.numpy()
    height, width = model.config.model.input_size
    box = obj = cls = 0.0
    for b in range(2):
        for n, m in enumerate(index[b]):
            confidence = float(candidates.logits["obj"][b, n, 0])
            if m < 0:
                obj += 0.5 * confidence**2
                continue
            y1, x1, y2, x2 = sample.boxes[b, m].numpy()
            center_y, center_x = candidates.priors.centers[n]
            ty, tx, root_h, root_w = candidates.logits["box"][b, n].numpy()
            box += ((y1 + y2) / 2 / 64 - (center_y / 64 - 0.5) - ty) ** 2 + (
                (x1 + x2) / 2 / 64 - (center_x / 64 - 0.5) - tx
            ) ** 2
            box += (np.sqrt((y2 - y1) / height) - root_h) ** 2 + (np.sqrt((x2 - x1) / width) - root_w) ** 2
            obj += (float(iou(candidates.boxes[b, n], sample.boxes[b, m])) - confidence) ** 2
            cls += float(np.sum((np.eye(3)[sample.labels[b, m]] - candidates.logits["cls"][b, n].numpy()) ** 2))
    expected = {"box": 5.0 * box / 2, "obj": obj / 2, "cls": cls / 2}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


# The other objectives have loops of their own.
FEW = mostly_slow(CONFIGS, ["demo", "yolov1", "yolov8n", "demo-m2det"])


@pytest.mark.parametrize("name", FEW)
def test_padding_and_the_order_of_ground_truths_change_nothing(name):
    model, sample, raw, candidates = forward(name)
    once = model.objective(raw, candidates, sample)
    order = [3, 1, 0, 4, 2]
    cells = np.asarray(sample.boxes[:, :5, :2] + sample.boxes[:, :5, 2:]) // 128  # one ground truth a cell of any level
    moved = sample._replace(
        **{key: tf.gather(getattr(sample, key), order, axis=1) for key in ("boxes", "labels", "crowd")}
    )
    again = model.objective(raw, candidates, moved)
    unique = all(len(np.unique(image, axis=0)) == 5 for image in cells)
    for term in once:
        if unique or name not in ("yolov1", "demo-yolov1"):
            assert float(once[term]) == pytest.approx(float(again[term]), rel=1e-5)
        assert float(once[term]) >= 0


@pytest.mark.parametrize("name", FEW)
def test_an_image_without_boxes_only_learns_background(name):
    model, sample, raw, candidates = forward(name)
    empty = sample._replace(boxes=sample.boxes * 0, labels=sample.labels * 0 - 1)
    terms = model.objective(raw, candidates, empty)
    tells = next(term for term in ("obj", "heat", "cls") if term in terms)
    for term, value in terms.items():
        assert (float(value) > 0) == term.endswith(tells)
    if model.objective.assigner is not None:
        none = {part: getattr(sample, part)[:, :0] for part in ("boxes", "labels", "crowd")}
        again = model.objective(raw, candidates, sample._replace(**none))
        for term, value in again.items():
            assert float(value) == pytest.approx(float(terms[term]), rel=1e-6)


@pytest.mark.parametrize("name", FEW)
def test_a_perfect_prediction_has_no_box_term_and_the_gradient_leads_there(name):
    model, sample, raw, candidates = forward(name)
    if model.objective.assigner is None:
        pytest.skip("it has no box term: tests/test_cornernet.py")
    index = model.objective.assigner(candidates, sample.boxes, sample.labels).gt_index
    truths = tf.gather(sample.boxes, tf.maximum(index, 0), batch_dims=1)
    codes = model.decoder.encode(truths, candidates.priors)
    perfect = tf.where((index >= 0)[..., None], truths, candidates.boxes)

    class Activated:  # the codes of the ground truths in place of the activated logits
        activate = staticmethod(lambda _: codes)
        encode = model.decoder.encode
        distributions = model.decoder.distributions if model.decoder.is_distribution else None
        levels = model.decoder.levels

    objective = copy.copy(model.objective)
    objective.decoder, objective.aux_assigner = Activated, None
    objective.assigner = lambda *_: model_assignment
    model_assignment = type("A", (), {"gt_index": index, "quality": tf.cast(index >= 0, tf.float32)})
    terms = objective(raw, candidates._replace(boxes=perfect), sample)
    assert float(terms["box"]) == pytest.approx(0, abs=1e-4)


def test_crowds_are_neither_learned_nor_background():
    model, sample, _, _ = forward("yolov3", crowd=True)
    # Normalised by the batch: an untrained network's moving statistics give boxes without any area, which lie in
    # nothing.
    raw = model.network(sample.image, training=True)
    candidates = model.decoder(raw)
    whole = tf.concat([tf.constant([[[-1e7, -1e7, 1e7, 1e7]]] * 2), sample.boxes[:, 1:]], axis=1)
    terms = model.objective(raw, candidates, sample._replace(boxes=whole))
    labels = tf.where(sample.crowd, -1, sample.labels)
    positive = model.objective.assigner(candidates, whole, labels).gt_index.numpy() >= 0
    logits = candidates.logits["obj"][..., 0].numpy()[positive]
    assert float(terms["obj"]) == pytest.approx(float(np.sum(bce(1.0, logits))) / 2, rel=1e-4)


ONE_OF_EACH = ("demo", "yolov7-tiny", "yolov8n", "demo-m2det", "cornernet-small")  # objective


@pytest.mark.parametrize(
    "name",
    [*ONE_OF_EACH, *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name not in ONE_OF_EACH)],
)
def test_one_backward_pass_of_the_sum_equals_the_sum_of_the_gradients_of_each_term(name):
    """With respect to all that the network gives: how it got there is no matter of the objective's."""
    model, sample, raw, _ = forward(name)
    outputs = tf.nest.flatten(raw)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        terms = model.objective(raw, model.decoder(raw), sample)
        total = sum(terms.values())
    zero = tf.UnconnectedGradients.ZERO
    together = tape.gradient(total, outputs, unconnected_gradients=zero)
    each = [tape.gradient(term, outputs, unconnected_gradients=zero) for term in terms.values()]
    for whole, *parts in zip(together, *each, strict=True):
        np.testing.assert_allclose(whole, sum(parts), atol=1e-4 * (float(tf.reduce_max(tf.abs(whole))) + 1e-6))


@pytest.mark.parametrize(
    "name",
    [*ONE_OF_EACH, *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name not in ONE_OF_EACH)],
)
def test_sums_and_counts_of_parts_add_up_to_those_of_the_whole_batch(name):
    """Of two that hold an image each, one with and one without boxes: the contract at the head of losses.py."""
    model, sample, raw, _ = forward(name)
    sample = sample._replace(labels=tf.concat([sample.labels[:1], sample.labels[1:] * 0 - 1], axis=0))

    def part(b):
        own, given = (tf.nest.map_structure(lambda x: x[b : b + 1], values) for values in (raw, sample))
        return model.objective.sums(own, model.decoder(own), given)

    whole, parts = model.objective.sums(raw, model.decoder(raw), sample), [part(b) for b in (0, 1)]
    added = tf.nest.map_structure(lambda a, b: a + b, *parts)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), added, whole)
    counts = whole[1]
    terms = [model.objective.normalised(sums, counts) for sums, _ in parts]
    for term, value in model.objective(raw, model.decoder(raw), sample).items():
        assert float(terms[0][term] + terms[1][term]) == pytest.approx(float(value), rel=1e-5, abs=1e-7), term
    assert tuple(terms[0]) == model.objective.terms
    twice = model.objective.normalised(tf.nest.map_structure(lambda x: 2 * x, whole[0]), counts)
    for term, value in model.objective.normalised(whole[0], counts).items():
        assert float(twice[term]) == pytest.approx(2 * float(value), rel=1e-6), term
