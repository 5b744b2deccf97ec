"""CornerNet's parts against loops in NumPy: pooling, radius, heat, losses, pairing; targets decode to their boxes."""

import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_config, slow, small
from test_m2det import SCENES, overlap, scene

from tfyolo import model as models
from tfyolo.config import ConfigError
from tfyolo.decoders.cornernet import Corner
from tfyolo.losses.cornernet import Corner as Objective
from tfyolo.losses.cornernet import corner_radius, corner_targets
from tfyolo.nn.pooling import CornerPool
from tfyolo.structures import Raw, Sample
from tfyolo.weights.initial import initialise

K = 3
# Where a cell takes its maximum from: (axis of [h, w], from the end).
TOWARDS = {"down": (0, True), "right": (1, True), "up": (0, False), "left": (1, False)}


def farthest_maximum(values, direction):
    """Of each cell [h, w] the place (i, j) of the largest of what lies in its direction; of equals the farthest."""
    axis, onward = TOWARDS[direction]
    places = np.zeros((*values.shape, 2), int)
    for i, j in np.ndindex(values.shape):
        here = (i, j)[axis]
        line = values[:, j] if axis == 0 else values[i]
        reach = range(len(line) - 1, here - 1, -1) if onward else range(here + 1)
        best = max(reach, key=lambda k: line[k])  # the first of equals
        places[i, j] = (best, j) if axis == 0 else (i, best)
    return places


@pytest.mark.parametrize(
    "direction, size, ties, training",
    [
        pytest.param(
            direction, size, ties, training, marks=[pytest.mark.slow] * (size != (7, 13) and (ties or training))
        )
        for direction in TOWARDS
        for size in ((7, 13), (1, 5), (16, 1))
        for ties in (False, True)
        for training in (False, True)
    ],
)
def test_corner_pooling_and_its_gradient_are_a_cumulative_maximums(direction, size, ties, training):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3))
    x = (np.round(x) if ties else x).astype("float32")
    weights = rng.normal(size=x.shape).astype("float32")
    expected, gradient = np.zeros_like(x), np.zeros_like(x)
    for b, c in np.ndindex(2, 3):
        places = farthest_maximum(x[b, ..., c], direction)
        for i, j in np.ndindex(size):
            at = (b, *places[i, j], c)
            expected[b, i, j, c] = x[at]
            gradient[at] += weights[b, i, j, c]
    axis, onward = TOWARDS[direction]
    order = (slice(None),) * (axis + 1) + (slice(None, None, -1 if onward else 1),)
    np.testing.assert_array_equal(np.maximum.accumulate(x[order], axis=axis + 1)[order], expected)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        found = CornerPool(direction)(variable, training=training)
        total = tf.reduce_sum(found * weights)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(tape.gradient(total, variable), gradient, atol=1e-5)
    open_size = tf.function(CornerPool(direction), input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_array_equal(open_size(x), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [0.3, 0.7])
def test_within_the_radius_boxes_still_overlap(seed, least):
    """By bisection: both corners go the same way, both inward, both outward."""
    h, w = np.random.default_rng(seed).uniform(1, 60, 2)
    moved = {
        "same": lambda r: np.array([r, r, h + r, w + r]),
        "inward": lambda r: np.array([r, r, h - r, w - r]),
        "outward": lambda r: np.array([-r, -r, h + r, w + r]),
    }
    found = []
    for how, box in moved.items():
        low, high = 0.0, min(h, w) / (2 if how == "inward" else 1) if how != "outward" else 10 * (h + w)
        for _ in range(80):
            middle = (low + high) / 2
            good = overlap(np.array([0, 0, h, w]), box(middle)) >= least
            low, high = (middle, high) if good else (low, middle)
        found.append(low)
    radius = corner_radius(np.array([[3, 4, 3 + h, 4 + w]], "float32"), least)
    assert float(radius[0]) == pytest.approx(min(found), rel=1e-3)


def sample_of(boxes, side=64, *, crowd=(), seed=0, rows=None):
    """A batch of two: the boxes, and nothing."""
    rng = np.random.default_rng(seed)
    rows = rows or len(boxes) + 2
    padded, labels = np.zeros((2, rows, 4), "float32"), np.full((2, rows), -1, "int32")
    padded[0, : len(boxes)], labels[0, : len(boxes)] = boxes, rng.integers(0, K, len(boxes))
    crowds = np.zeros((2, rows), bool)
    crowds[0, list(crowd)] = True
    image = np.zeros((2, side, side, 3), "float32")
    return Sample(*map(tf.constant, (image, padded, labels, crowds)), None, None)


def heat_by_hand(sample, grid, stride, least=0.3):
    heat = np.zeros((2, *grid, 2, K))
    for b in range(2):
        for box, label, crowd in zip(
            sample.boxes[b].numpy(), sample.labels[b].numpy(), sample.crowd[b].numpy(), strict=True
        ):
            if label < 0 or crowd:
                continue
            box = box / stride
            radius = int(max(float(corner_radius(box[None], least)[0]), 0))
            sigma = (2 * radius + 1) / 6
            for corner in (0, 1):
                y, x = np.clip(np.floor(box[2 * corner : 2 * corner + 2]), 0, np.array(grid) - 1).astype(int)
                for i in range(max(y - radius, 0), min(y + radius + 1, grid[0])):
                    for j in range(max(x - radius, 0), min(x + radius + 1, grid[1])):
                        value = np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * sigma**2))
                        heat[b, i, j, corner, label] = max(heat[b, i, j, corner, label], value)
    return heat


@pytest.mark.parametrize("kind", SCENES)
def test_heat_equals_the_loops(kind):
    boxes = scene(kind, np.random.default_rng(1)) / 5
    sample = sample_of(boxes, crowd=[0] if kind == "many" else [])
    targets = corner_targets(sample, (16, 16), K, 4)
    np.testing.assert_allclose(targets.heat, heat_by_hand(sample, (16, 16), 4), atol=1e-5)
    counted = np.ones((2, 16, 16, K), bool)
    if kind == "many":
        y1, x1, y2, x2 = boxes[0] / 4
        for i, j in np.ndindex(16, 16):
            counted[0, i, j, sample.labels[0, 0]] = not (y1 < i + 0.5 < y2 and x1 < j + 0.5 < x2)
    np.testing.assert_array_equal(targets.counted, counted)


def maps(rng, grid=(16, 16), spread=1.0):
    decoder = Corner()
    return decoder, {
        part: {"p2": (spread * rng.normal(size=(2, *grid, 2, z))).astype("float32")}
        for part, z in decoder.parts(K).items()
    }


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("crowd", [[], [0]])
def test_the_loss_equals_the_loops(kind, crowd):
    rng = np.random.default_rng(4)
    boxes = scene(kind, rng) / 5
    crowd = crowd[: len(boxes)]
    sample = sample_of(boxes, crowd=crowd)
    (decoder, raw), (_, first) = maps(rng), maps(rng)
    targets = corner_targets(sample, (16, 16), K, 4)
    objective = Objective(decoder, None)
    both = [by_hand(each, sample, targets) for each in (raw, first)]
    alone = objective(raw, None, sample)
    stacked = objective(Raw(raw, first), None, sample)
    for name, gain in {"heat": 1.0, "pull": 0.1, "push": 0.1, "offset": 1.0}.items():
        assert float(alone[name]) == pytest.approx(gain * both[0][name], rel=1e-4, abs=1e-7), name
        mean = (both[0][name] + both[1][name]) / 2
        assert float(stacked[name]) == pytest.approx(gain * mean, rel=1e-4, abs=1e-7), name


def by_hand(raw, sample, targets):
    heat, counted = np.asarray(targets.heat, "float64"), np.asarray(targets.counted)
    p = np.clip(1 / (1 + np.exp(-raw["cls"]["p2"].astype("float64"))), 1e-4, 1 - 1e-4)
    terms = {"heat": 0.0, "pull": 0.0, "push": 0.0, "offset": 0.0}
    for corner in (0, 1):
        total, found = 0.0, 0
        for b, i, j, k in np.ndindex(2, 16, 16, K):
            t, q = heat[b, i, j, corner, k], p[b, i, j, corner, k]
            if t == 1:
                total, found = total - (1 - q) ** 2 * np.log(q), found + 1
            elif counted[b, i, j, k]:
                total -= (1 - t) ** 4 * q**2 * np.log(1 - q)
        terms["heat"] += total / max(found, 1)
    boxes = sample.boxes.numpy() / 4
    objects = (sample.labels.numpy() >= 0) & ~sample.crowd.numpy()
    for b in range(2):
        means = []
        for m in np.flatnonzero(objects[b]):
            tags = []
            for corner in (0, 1):
                point = boxes[b, m, 2 * corner : 2 * corner + 2].astype("float64")
                y, x = np.clip(np.floor(point), 0, 15).astype(int)
                tags.append(float(raw["embed"]["p2"][b, y, x, corner, 0]))
                error = np.abs(point - (y, x) - raw["offset"]["p2"][b, y, x, corner])
                terms["offset"] += np.where(error < 1, error**2 / 2, error - 0.5).sum()
            mean = sum(tags) / 2
            means.append(mean)
            terms["pull"] += sum((tag - mean) ** 2 for tag in tags) / objects[b].sum() / 2  # of two images
        for i, one in enumerate(means):
            for j, other in enumerate(means):
                if i != j:
                    terms["push"] += max(0, 1 - abs(one - other)) / (len(means) * (len(means) - 1)) / 2
    terms["offset"] /= max(objects.sum(), 1)
    return terms


def paired_by_hand(raw, b, apart=0.5, corners=100):
    """[(score, box, label)], the best first."""
    found = []
    for corner in (0, 1):
        heat = 1 / (1 + np.exp(-raw["cls"]["p2"][b, ..., corner, :].astype("float64")))
        peaks = []
        for i, j, k in np.ndindex(heat.shape):
            around = heat[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, k]
            if heat[i, j, k] >= around.max():
                point = (np.array([i, j]) + raw["offset"]["p2"][b, i, j, corner]) * 4
                peaks.append((heat[i, j, k], k, point, raw["embed"]["p2"][b, i, j, corner, 0]))
        found.append(sorted(peaks, key=lambda peak: -peak[0])[:corners])
    pairs = []
    for score, label, (y1, x1), tag in found[0]:
        for twin_score, twin_label, (y2, x2), twin in found[1]:
            if label == twin_label and y2 > y1 and x2 > x1 and abs(tag - twin) < apart:
                pairs.append(((score + twin_score) / 2, np.array([y1, x1, y2, x2]), label))
    return sorted(pairs, key=lambda pair: -pair[0])


@pytest.mark.parametrize("grid", [(16, 16), (9, 24)])
def test_pairs_equal_the_loops(grid):
    decoder, raw = maps(np.random.default_rng(7), grid)
    candidates = decoder(raw)
    assert decoder.count(raw) == candidates.boxes.shape[1] == 1000 and candidates.scores.shape == (2, 1000, K)
    for b in range(2):
        expected = paired_by_hand(raw, b)
        kept = min(len(expected), 1000)
        assert kept > 50
        scores = np.asarray(candidates.scores[b])
        np.testing.assert_allclose(scores.max(1)[:kept], [pair[0] for pair in expected[:kept]], rtol=1e-5)
        assert not scores[kept:].any()
        for n in range(0, kept, 7):
            near = [pair for pair in expected if abs(pair[0] - scores[n].max()) < 1e-6]
            assert any(
                np.allclose(pair[1], candidates.boxes[b, n], atol=1e-3) and pair[2] == scores[n].argmax()
                for pair in near
            )


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("seed", range(5))
def test_targets_of_known_boxes_decode_to_them(kind, seed):
    """All corners of a class in cells of their own, and each object with an embedding of its own."""
    rng = np.random.default_rng(seed)
    boxes = scene(kind, rng) * 0.8  # of 256 pixels
    sample = sample_of(boxes, 256, seed=seed)
    targets = corner_targets(sample, (64, 64), K, 4)
    labels = sample.labels.numpy()[0, : len(boxes)]
    cells = targets.cells.numpy()[0, : len(boxes)]
    heat = np.clip(np.asarray(targets.heat, "float64"), 1e-3, 1 - 1e-3)
    raw = {
        "cls": np.log(heat / (1 - heat)),
        "embed": np.full((2, 64, 64, 2, 1), 1e3),
        "offset": np.zeros((2, 64, 64, 2, 2)),
    }
    alone = np.ones(len(boxes), bool)
    for m in range(len(boxes)):
        for corner in (0, 1):
            twins = [n for n in range(len(boxes)) if n != m and cells[n, corner] == cells[m, corner]]
            alone[m] &= not twins  # a cell has one embedding and one offset
            i, j = divmod(int(cells[m, corner]), 64)
            raw["embed"][0, i, j, corner] = 10.0 * m
            raw["offset"][0, i, j, corner] = targets.offsets[0, m, corner]
    found = Corner()({part: {"p2": values.astype("float32")} for part, values in raw.items()})
    scores = np.asarray(found.scores)
    assert not (scores[1] > 0.9).any()
    kept = scores[0].max(-1) > 0.9
    assert alone.sum() >= min(len(boxes), 1) and kept.sum() >= alone.sum()
    for m in np.flatnonzero(alone):
        of_class = found.boxes.numpy()[0][kept & (scores[0].argmax(-1) == labels[m])]
        assert np.abs(of_class - boxes[m]).max(-1).min() < 1e-2


def test_stacks_lie_one_within_the_other_and_only_the_last_is_used():
    from tfyolo.graph.fusion import fuse

    backbone = "{name: hourglass, stacks: 3, dims: [8, 16], modules: [1, 1], stem: 8}"
    model = models.build(
        load_config("cornernet-small", f"model.backbone={backbone}", "model.input_size=64"), ("a", "b")
    )
    raw = model.network.output
    assert set(raw.aux.parts) == {"cls", "embed", "offset"} == set(raw.aux.aux)
    assert raw.parts["cls"]["p2"].shape[1:] == (16, 16, 2, 2) and raw.aux.aux["cls"]["p2"].shape[1:] == (16, 16, 2, 2)
    used = fuse(model)
    assert set(used.network.output) == {"cls", "embed", "offset"}
    assert not any(".aux." in layer.name for layer in used.network.layers)


def test_parts_that_do_not_fit_are_errors():
    small_parts = ["model.backbone={dims: [16, 24, 32, 48], stem: 8}", "model.head.channels=8", "model.input_size=64"]
    for override, message in (
        ("model.assigner=best_anchor", r"expected no assigner \(model.assigner: null\)"),
        ("model.input_size=[208, 192]", "expected an input size of multiples of 32"),
        ("model.backbone={name: hourglass, dims: [8], modules: [1]}", "dims, modules: expected as many numbers"),
        ("model.backbone.stacks=0", r"model\.backbone\.stacks: expected a whole number from 1 to 100, received 0"),
        ("model.decoder={name: dfl, levels: [p2]}", r"model\.head: corner: expected the decoder of corners"),
        ("model.objective=aligned", "aligned: expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.build(load_config("cornernet-small", *small_parts, override), ("a", "b"))
    narrow = ["model.backbone={stacks: 2, dims: [8, 16], modules: [1, 1], stem: 8}", "model.input_size=64"]
    for neck in ("mlfpn", "pan"):
        with pytest.raises(
            ConfigError, match=r"model\.backbone: it gives features of earlier stacks.* expected stacks: 1"
        ):
            models.build(load_config("cornernet-small", *narrow, f"model.neck={neck}"), ("a", "b"))
    with pytest.raises(ConfigError, match="corner: expected the decoder of corners"):
        models.build(small("yolov8n", **{"model.objective": "corner", "model.assigner": "null"}), ("a", "b"))


@pytest.mark.parametrize("classes", [("a", "b", "c"), slow(("a", "d"))])
def test_other_classes_begin_with_the_embeddings_and_offsets_that_were_learned(classes, tmp_path):
    there = models.build(small("cornernet-small"), ("a", "b"))
    models.save_model(tmp_path / "run.h5", there)
    here = models.build(small("cornernet-small"), classes)
    report, _, _ = initialise(here, tmp_path / "run.h5")
    assert "head.p2.top_left.cls.out" in report[-1] and re.search(": the rows? of a(, b)? kept, by name", report[-1])
    assert "embed" not in report[-1] and "offset" not in report[-1]
    for part in ("embed", "offset"):
        pair = (each.network.get_layer(f"head.p2.top_left.{part}.out").get_weights() for each in (here, there))
        for mine, theirs in zip(*pair, strict=True):
            np.testing.assert_array_equal(mine, theirs)
