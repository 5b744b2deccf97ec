"""The training loop's laws: replicas, accumulation, traces, resuming, EMA, schedules, and stopping with a reason."""

import csv
import functools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import conftest
import cv2
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import CONFIGS, ROOT, load_config, process, random_sample, small, strategy_of
from keras import layers

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.assigners import best_anchor, max_iou, ota, task_aligned
from tfyolo.cli import app, train
from tfyolo.config import ConfigError, Stage
from tfyolo.data import datasets, demo
from tfyolo.data.readers import read
from tfyolo.data.sources.source import SplitError
from tfyolo.decoders.anchors import Anchor, Wide
from tfyolo.decoders.cornernet import Corner
from tfyolo.decoders.ssd import Ssd
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.evaluation import run as evaluation
from tfyolo.graph.calibration import calibrated
from tfyolo.heads.layers import PerAnchor
from tfyolo.losses import OBJECTIVES
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict.detector import Detector
from tfyolo.structures import Raw, level_stride
from tfyolo.training import checks, job, log, memory, reading, runs
from tfyolo.training import stages as stages_module
from tfyolo.training import steps as steps_module
from tfyolo.training import train as training
from tfyolo.training.log import draw_detections
from tfyolo.training.optim import EMA, OPTIMIZERS, Schedule, build_for
from tfyolo.training.steps import _loss_sums, make_step, scales

NAMES = ("a", "b", "c")
SPEC_FREE = {"boxes", "labels", "crowd"}


SMOOTH = {"model.objective.box": "giou"}  # CIoU's gradient of a box that is one point is noise


def one_step(
    name,
    replicas=1,
    *,
    overrides=SMOOTH,
    accumulate=1,
    clip=None,
    steps=1,
    lr=1.0,
    frozen_norm=False,
    weights=None,
    rounds=False,
):
    """The change of every weight after steps of plain SGD on one global batch of 4."""
    config = small(name, **overrides)
    keras.utils.set_random_seed(0)
    strategy = strategy_of(replicas)
    sample = random_sample(config.model.input_size, batch=4, truths=6)
    dataset = tf.data.Dataset.from_tensors(sample).repeat(steps).unbatch().batch(4, drop_remainder=True)
    with strategy.scope():
        model = models.build(config, NAMES)
        if rounds:
            model, _ = calibrated(model, lambda: [sample.image.numpy()])
        if frozen_norm:
            for layer in model.network.layers:
                if isinstance(layer, BatchNorm):
                    layer.trainable = False
        optimizer = keras.optimizers.SGD(lr)
        optimizer.build(model.network.trainable_variables)
        ema = EMA(model.network, 0.0)
    batches = iter(strategy.experimental_distribute_dataset(dataset))
    step = make_step(
        model, optimizer, ema, strategy, batches.element_spec, accumulate=accumulate, clip=clip, weights=weights
    )
    before = checkpoint.weights_of(model.network)
    figures = [step(next(batches)) for _ in range(steps)]
    after = checkpoint.weights_of(model.network)
    return {name: after[name] - before[name] for name in before}, {k: float(v) for k, v in figures[-1].items()}, step


def assert_close(left, right, tolerance, least=0.0):
    scale = max(np.abs(value).max() for value in left.values())
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=max(tolerance * scale, least), err_msg=name)


def test_the_sizes_of_multi_scale_training():
    assert scales((320, 320), 0.5, 32)[0] == (160, 160) and scales((320, 320), 0.5, 32)[-1] == (
        480,
        480,
    )
    assert all(side % 64 == 0 for size in scales((448, 640), 0.3, 64) for side in size)
    assert scales((32, 32), 0.9, 32)[0] == (32, 32)


def test_a_step_at_another_size_is_the_step_of_images_of_that_size():
    size, other = (64, 64), (96, 128)
    sample = random_sample(size, batch=4)
    factor = np.array(other * 2) / np.array(size * 2)
    enlarged = sample._replace(
        image=tf.image.resize(sample.image, other), boxes=sample.boxes * factor.astype("float32")
    )
    changes = []
    for given, built_for, sizes in ((sample, (None, None), [size, other]), (enlarged, other, ())):
        keras.utils.set_random_seed(0)
        strategy = strategy_of(1)
        with strategy.scope():
            model = models.build(small("demo"), NAMES, input_size=built_for)
            optimizer = keras.optimizers.SGD(0.1)
            optimizer.build(model.network.trainable_variables)
            ema = EMA(model.network, 0.0)
        spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), given)
        step = make_step(model, optimizer, ema, strategy, spec, sizes=sizes)
        before = checkpoint.weights_of(model.network)
        step(given, other if sizes else None)
        after = checkpoint.weights_of(model.network)
        changes.append({name: after[name] - before[name] for name in before})
    assert_close(*changes, 1e-3)


@pytest.mark.slow  # quick ones of every objective: test_parts_and_replicas_take_the_step_of_the_whole
@pytest.mark.parametrize("name", ["demo", "yolov3", "yolov7-tiny", "yolov7-w6", "yolov8n"])
def test_two_replicas_take_the_step_of_one(name):
    """Also batch norm's statistics, the clipped norm and every figure."""
    one, figures, _ = one_step(name, 1, clip=0.5, lr=0.1)
    two, figures_of_two, _ = one_step(name, 2, clip=0.5, lr=0.1)
    assert figures_of_two == pytest.approx(figures, rel=1e-4)
    assert figures["gradient_norm"] > 0.5
    assert_close(one, two, 2e-5, least=1e-6)  # eight steps of float32 at 1, where scales and variances begin


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo-m2det", "cornernet-small", "cornernet-hg104"])
def test_two_replicas_take_the_step_of_one_where_parts_count_otherwise(name):
    """Hard negatives and corners: each picture's, divided by counts over all. Gradients are near each other alone: of demo-m2det's pools
    and batch norms over few cells, pictures that differ by 3e-7 already change the norm by 6e-3."""
    figures, figures_of_two = (one_step(name, n, overrides={}, lr=0.01)[1] for n in (1, 2))
    assert figures_of_two.pop("gradient_norm") == pytest.approx(figures.pop("gradient_norm"), rel=1e-2)
    assert figures_of_two == pytest.approx(figures, rel=1e-4)


@pytest.mark.slow
def test_two_replicas_take_the_step_of_one_in_quantization_aware_training():
    """The ranges are learned alike, too."""
    one, two = (one_step("demo", replicas, lr=0.1, rounds=True)[0] for replicas in (1, 2))
    assert any(name.endswith("/high") and np.any(change) for name, change in one.items())
    assert_close(one, two, 1e-5)


# Of each objective, and of those with an auxiliary head, too: decoder, assigner, options, and counts that depend on the predictions.
ANCHORS = {f"p{i}": [[3 << i, 2 << i], [1 << i, 2 << i]] for i in (3, 4, 5)}
KINDS = {
    "dense": (Anchor(anchors=ANCHORS), best_anchor, {}, False),
    "balanced": (Wide(anchors=ANCHORS), ota, {"box": "giou"}, True),
    "balanced with aux": (Wide(anchors=ANCHORS), ota, {"box": "giou", "aux": {"cells": 5, "topk": 20}}, True),
    "aligned": (Dfl(bins=4), task_aligned, {}, True),
    "aligned with aux": (Dfl(bins=4), functools.partial(task_aligned, topk=2), {"aux": {"topk": 5}}, True),
    "multibox": (Ssd(sizes=[0.1, 0.3, 0.6, 0.9], levels=("p3", "p4", "p5")), max_iou, {}, False),
    "corner": (Corner(), None, {}, False),
}

# With an auxiliary head there is all that there is without; both count what depends on the predictions.
LONG = ("balanced", "balanced with aux", "aligned")
EACH_KIND = [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in KINDS]


def lightest(kind, *, frozen_norm=True, dropout=0.0, unread=False):
    """A Model of one convolution and one batch norm a level, with a decoder and an objective of KINDS."""
    decoder, assigner, options, _ = KINDS[kind]
    objective = OBJECTIVES[kind.split()[0]](decoder, assigner, **options)
    parts = decoder.parts(len(NAMES))
    images = keras.Input((64, 96, 3), name="images")

    def head(name):
        raw = {part: {} for part in parts}
        for level in decoder.levels:
            channels = decoder.num_anchors * sum(parts.values())
            stride = level_stride(level)
            x = layers.Conv2D(8, stride, stride, kernel_initializer="he_normal", name=f"{name}.{level}.stem")(images)
            x = BatchNorm(trainable=not frozen_norm, name=f"{name}.{level}.norm")(x)
            x = layers.Dropout(dropout, name=f"{name}.{level}.dropout")(x) if dropout else x
            x = layers.Conv2D(channels, 1, name=f"{name}.{level}.out")(x)
            x = PerAnchor(decoder.num_anchors, name=f"{name}.{level}.per_anchor")(x)
            for part, values in zip(
                parts, keras.ops.split(x, np.cumsum(list(parts.values()))[:-1], axis=-1), strict=True
            ):
                raw[part][level] = values
        return raw

    raw = head("head")
    if "aux" in options:
        raw = Raw(raw, head("aux"))
    if unread:
        raw["unread"] = {}
        for level in decoder.levels:
            x = layers.Conv2D(1, level_stride(level), level_stride(level), name=f"unread.{level}")(images)
            raw["unread"][level] = PerAnchor(1)(x)
    return models.Model(None, NAMES, keras.Model(images, raw), decoder, objective, None)


def uneven(size=(64, 96), batch=4):
    """A batch whose images hold seven boxes, none, a crowd and one, and three."""
    sample = random_sample(size, batch=batch, truths=7, padding=0)
    kept = np.resize([7, 0, 2, 3], batch)[:, None] > np.arange(7)
    crowd = (np.arange(batch)[:, None] % 4 == 2) & (np.arange(7) == 0)
    return sample._replace(
        boxes=tf.where(kept[..., None], sample.boxes, 0.0), labels=tf.where(kept, sample.labels, -1), crowd=crowd
    )


def lightest_step(kind, sample, replicas=1, accumulate=1, eager=False, **options):
    """The change of every weight by a step of SGD, with its figures, and the model."""
    keras.utils.set_random_seed(0)
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = lightest(kind, **options)
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(model.network.trainable_variables)
        ema = EMA(model.network, 0.0)
    batches = iter(
        strategy.experimental_distribute_dataset(
            tf.data.Dataset.from_tensors(sample).unbatch().batch(len(sample.image))
        )
    )
    step = make_step(model, optimizer, ema, strategy, batches.element_spec, accumulate=accumulate, eager=eager)
    before = checkpoint.weights_of(model.network)
    figures = {name: float(value) for name, value in step(next(batches)).items()}
    after = checkpoint.weights_of(model.network)
    return {name: after[name] - before[name] for name in before}, figures, model


@pytest.mark.parametrize("kind", EACH_KIND)
def test_parts_and_replicas_take_the_step_of_the_whole(kind):
    """Of every objective, by SGD, whatever each part holds. Batch norm looks at a part at a time by its nature, so it stands still."""
    assert {kind.split()[0] for kind in KINDS} == set(OBJECTIVES)
    sample = uneven()
    _, counts = _loss_sums(lightest(kind), sample)
    assert min(np.min(count) for count in tf.nest.flatten(counts)) > 1  # else all would be divided by 1
    whole, figures, _ = lightest_step(kind, sample, eager=True)
    parts, figures_of_parts, _ = lightest_step(kind, sample, replicas=2, accumulate=2, eager=True)
    assert figures_of_parts == pytest.approx(figures, rel=1e-5)
    assert_close(whole, parts, 1e-5)


def test_each_gradient_is_summed_over_the_replicas_once(monkeypatch):
    """All of them by one reduction, with the metrics; before it another of the counts."""
    extended, reductions = tf.distribute.StrategyExtended, []
    for name in ("reduce_to", "batch_reduce_to"):
        real = getattr(extended, name)

        def counted(self, op, values, *rest, real=real, **options):
            reductions.append(values if isinstance(values, list) else [(values, None)])
            return real(self, op, values, *rest, **options)

        monkeypatch.setattr(extended, name, counted)
    _, metrics, model = lightest_step("dense", uneven(), replicas=2)
    variables = model.network.trainable_variables
    counts, values = reductions
    assert len(values) == len(variables) + len(metrics) - 1  # the norm is that of the sums
    shapes = sorted(str(tuple(strategy_of(2).experimental_local_results(value)[0].shape)) for value, _ in values)
    assert shapes == sorted([str(tuple(v.shape)) for v in variables] + ["()"] * (len(metrics) - 1))
    assert len(counts) < len(metrics) + 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_of_each_optimizer_are_the_same_on_two_replicas(name):
    """Weights, and what the optimizer keeps; with the norm clipped."""
    sample, results = uneven(), []
    for replicas in (1, 2):
        keras.utils.set_random_seed(0)
        strategy = strategy_of(replicas)
        with strategy.scope():
            model = lightest("dense")
            schedule = Schedule(Stage(epochs=1, lr=0.001, warmup=0.0), steps_per_epoch=3)
            optimizer = OPTIMIZERS[name](schedule, weight_decay=0.01)
            build_for(model.network, optimizer)
            ema = EMA(model.network, 0.5)
        dataset = tf.data.Dataset.from_tensors(sample).unbatch().batch(4).repeat(3)
        batches = iter(strategy.experimental_distribute_dataset(dataset))
        step = make_step(model, optimizer, ema, strategy, batches.element_spec, clip=1.0, eager=True)
        norms = [float(step(batch)["gradient_norm"]) for batch in batches]
        assert len(norms) == 3 and norms[0] > 1  # clipped
        results.append([checkpoint.weights_of(model.network), {v.name: np.asarray(v) for v in optimizer.variables}])
    for one, two in zip(*results, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_allclose(two[key], one[key], rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_a_batch_without_boxes_has_finite_terms_in_parts_too(kind):
    sample = uneven()
    sample = sample._replace(boxes=sample.boxes * 0, labels=sample.labels * 0 - 1, crowd=np.zeros_like(sample.crowd))
    changes, figures, _ = lightest_step(kind, sample, accumulate=2, eager=True)
    assert np.isfinite(list(figures.values())).all() and figures["loss"] > 0
    assert all(np.isfinite(change).all() for change in changes.values())


@pytest.mark.slow
def test_what_is_counted_first_leaves_no_trace():
    """Batch norm's statistics take in each part once, and dropout's masks are those that were counted with."""
    sample = uneven()
    changes, _, model = lightest_step("aligned", sample, accumulate=2, frozen_norm=False, dropout=0.5)
    keras.utils.set_random_seed(0)
    again = lightest("aligned", frozen_norm=False, dropout=0.5)
    before = checkpoint.weights_of(again.network)
    for half in (sample.image[:2], sample.image[2:]):
        again.network(half, training=True)
    after = checkpoint.weights_of(again.network)
    moved = [name for name in before if "moving" in name]
    assert moved
    for name in moved:
        np.testing.assert_allclose(changes[name], after[name] - before[name], rtol=1e-4, atol=1e-6)
    states, expected = (list(checkpoint.random_states(one.network).values()) for one in (model, again))
    assert len(expected) == 3  # one a level
    np.testing.assert_array_equal(states, expected)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_variable_that_no_term_of_the_loss_depends_on_is_named(accumulate):
    with pytest.raises(
        runs.TrainingError,
        match=r"6 variables cannot: unread\.p3/kernel, unread\.p3/bias, .*; connect .* or freeze",
    ):
        lightest_step("dense", uneven(), accumulate=accumulate, unread=True)


FAMILIES = ("demo", "yolov7-tiny", "demo-yolov7", "yolov8n", "yolov8n-e2e", "demo-m2det", "cornernet-small", "yolov1")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_accumulated_parts_of_each_family_take_the_step_of_the_whole(name):
    # Parts draw other dropout masks than the whole.
    options = {"overrides": {"model.head.dropout": 0.0} if name == "yolov1" else {}, "frozen_norm": True, "lr": 0.1}
    whole, figures, _ = one_step(name, **options)
    for replicas in (1, 2):
        parts, figures_of_parts, _ = one_step(name, replicas, accumulate=2 // replicas, **options)
        assert figures_of_parts == pytest.approx(figures, rel=1e-4)
        assert_close(whole, parts, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("frozen_norm", [True, False])
@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov8n"])
def test_twenty_accumulated_steps_are_those_of_the_whole_batch(name, frozen_norm, data):
    """Batches of 16 of the demo's images, whole and as 4 x 4, by SGD: they part as far as batch norm does, which sees 4 or 16.

    With frozen norms they do not, but for steps at which a candidate of many is as good as another and the last digit decides.
    """
    losses, moves = [], []
    for accumulate in (1, 4):
        keras.utils.set_random_seed(0)
        config = small(name)
        source = read(data, "train")
        dataset, _ = datasets.train_dataset(
            source, size=config.model.input_size, batch=16, augment=config.augment, seed=0, epochs=20
        )
        model = models.build(config, source.classes)
        if frozen_norm:
            for layer in model.network.layers:
                layer.trainable = not isinstance(layer, BatchNorm)
        optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
        optimizer.build(model.network.trainable_variables)
        strategy, ema = tf.distribute.get_strategy(), EMA(model.network, 0.0)
        step = make_step(model, optimizer, ema, strategy, dataset.element_spec, accumulate=accumulate)
        variables = model.network.trainable_variables
        before = [variable.numpy() for variable in variables]
        losses.append([float(step(sample)["loss"]) for sample in dataset.take(20)])
        moves.append(np.concatenate([np.ravel(v.numpy() - old) for v, old in zip(variables, before, strict=True)]))
    whole, parts = np.array(losses)
    apart, moved = np.linalg.norm(moves[1] - moves[0]), np.linalg.norm(moves[0])
    if frozen_norm:
        assert np.median(np.abs(parts / whole - 1)) < 1e-5
        np.testing.assert_allclose(parts, whole, rtol=0.02)
        assert apart < 0.02 * moved
    else:
        assert parts.mean() == pytest.approx(whole.mean(), rel=0.2)
        assert np.linalg.norm(moves[1]) == pytest.approx(moved, rel=0.5)


# What balanced and aligned have to be learned grows with what is learned, and their sums with it.
STEADY = [name for name in CONFIGS if load_config(name).model.objective.name not in ("balanced", "aligned")]
QUICK = ("demo-m2det",)


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in STEADY if name not in QUICK)]
)
def test_twenty_steps_on_one_batch_lower_its_loss(name):
    config = small(name)
    model = models.build(config, NAMES)
    optimizer = OPTIMIZERS["adamw"](1e-3)
    optimizer.build(model.network.trainable_variables)
    sample = random_sample(config.model.input_size)
    spec = tf.data.Dataset.from_tensors(sample).element_spec
    step = make_step(model, optimizer, EMA(model.network, 0.0), tf.distribute.get_strategy(), spec)
    losses = [float(step(sample)["loss"]) for _ in range(21)]
    assert losses[-1] < 0.8 * losses[0], losses


def test_clipping_shortens_the_step_to_the_norm():
    free, figures, _ = one_step("demo", lr=1.0)
    clipped, _, _ = one_step("demo", lr=1.0, clip=figures["gradient_norm"] / 4)
    moved = [name for name in free if "moving" not in name]
    for name in moved:
        np.testing.assert_allclose(clipped[name], free[name] / 4, rtol=1e-2, atol=1e-5)


def test_loss_weights_scale_their_terms():
    _, figures, _ = one_step("demo")
    _, weighted, _ = one_step("demo", weights={"box": 3.0, "cls": 0.0})
    expected = 3 * figures["box"] + figures["obj"]
    assert weighted["loss"] == pytest.approx(expected, rel=1e-5) and weighted["cls"] == 0


@pytest.mark.slow
def test_one_trace_serves_batches_with_any_number_of_objects(monkeypatch):
    config, traces = small("demo"), []
    terms = steps_module.loss_terms
    monkeypatch.setattr(steps_module, "loss_terms", lambda *args: traces.append(1) or terms(*args))
    strategy = strategy_of(1)
    samples = [random_sample(config.model.input_size, batch=4, truths=truths, padding=1) for truths in (2, 9, 5, 30)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(samples),
        output_signature=type(samples[0])(
            *(
                tf.TensorSpec([4, None, *x.shape[2:]] if name in SPEC_FREE else x.shape, x.dtype)
                for name, x in samples[0]._asdict().items()
            )
        ),
    )
    with strategy.scope():
        model = models.build(config, NAMES)
        optimizer = keras.optimizers.AdamW(1e-3)
        optimizer.build(model.network.trainable_variables)
        ema = EMA(model.network, 0.9)
    batches = iter(strategy.experimental_distribute_dataset(dataset))
    step = make_step(model, optimizer, ema, strategy, batches.element_spec)
    for batch in batches:
        step(batch)
    assert len(traces) == 1


def test_the_ema_holds_all_weights_batch_norm_too_and_follows_the_formula():
    network = models.build(small("demo"), NAMES).network
    ema = EMA(network, 0.9)
    expected = checkpoint.weights_of(network)
    assert any("moving_mean" in name for name in expected) and set(ema.arrays()) == set(expected)
    for n in (1, 2, 50):
        for weight in network.weights:
            weight.assign_add(keras.ops.ones_like(weight) * n)
        keep = min(0.9, (1 + n) / (10 + n))
        expected = {
            name: keep * value + (1 - keep) * checkpoint.weights_of(network)[name] for name, value in expected.items()
        }
        ema.steps.assign(n - 1)
        ema.update(tf.distribute.get_strategy())
    for name, value in ema.arrays().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    other = EMA(network, 0.9)  # a later stage's goes on where this one ended
    other.load(ema.arrays(), ema.steps.numpy())
    for each in (ema, other):
        each.update(tf.distribute.get_strategy())
    assert int(other.steps) == 51
    for name, value in ema.arrays().items():
        np.testing.assert_array_equal(value, other.arrays()[name])


def test_schedules_by_hand():
    cosine = Schedule(Stage(epochs=10, lr=0.1, warmup=2.0, final=0.1), steps_per_epoch=10)
    assert float(cosine(0)) == pytest.approx(0.1 / 20) and float(cosine(19)) == pytest.approx(0.1)
    middle = 0.1 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert float(cosine(60)) == pytest.approx(middle) and float(cosine(100)) == pytest.approx(0.01)
    steps = Schedule(
        Stage(epochs=10, lr=1.0, warmup=0.0, schedule="step", final=0.1, steps=(0.5, 0.8)), steps_per_epoch=1
    )
    assert [float(steps(i)) for i in (0, 4, 5, 7, 8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    constant = Schedule(Stage(epochs=3, lr=1.0, warmup=30.0, schedule="constant"), steps_per_epoch=5)
    assert float(constant(5)) == 1.0  # the warm-up takes a third of the stage at most


# --- whole runs, each in a process of its own, as a user has them ---------------------------------------------------------------

TINY = [*conftest.TINY, "train.evaluate_every=2", "train.ema=0.9"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    demo.write(folder, train=10, val=4, test=2)
    return folder


def tfyolo(*arguments):
    """The command in a process of its own, to its end; stdout has everything that it printed."""
    with process(*arguments, cwd=ROOT, stderr=subprocess.STDOUT) as command:
        printed, _ = command.communicate()
    return subprocess.CompletedProcess(arguments, command.returncode, printed)


def tfyolo_here(*arguments):
    """The command in this process, which starts faster."""
    return CliRunner().invoke(app.main, [str(argument) for argument in arguments], catch_exceptions=False)


def stages(*epochs):
    return f"train.stages=[{', '.join(f'{{epochs: {n}, lr: 0.002, warmup: 1, plain_epochs: 1}}' for n in epochs)}]"


def test_a_signal_raises_or_waits_and_is_not_lost(capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with runs.Signals() as signals:
            signals.check()
            with pytest.raises(KeyboardInterrupt):  # which something may swallow, such as a __del__
                os.kill(os.getpid(), number)
                time.sleep(1)
            with pytest.raises(KeyboardInterrupt):
                signals.check()
            assert signals.received == number
        assert not capfd.readouterr().err
        with runs.Signals() as signals:
            with signals.finishing():
                for _ in range(3 if number == signal.SIGTERM else 1):
                    os.kill(os.getpid(), number)
                    time.sleep(0.01)
                # A first step may take minutes: who waits for it is told so, once.
                told = "\nstopping when the running step is done; Ctrl-C again stops at once\n"
                assert capfd.readouterr() == ("", told)
                with pytest.raises(KeyboardInterrupt):  # Ctrl-C, once more
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)
            assert signals.received == number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- stopped and gone on with ---------------------------------------------------------------------------------------------------


GROUPS = ("weights", "averages", "optimizer", "random")


def assert_same_run(left, right):
    """Two runs' folders hold the same, to the last bit; only times differ."""
    metas, files = [], []
    for folder in (left, right):
        meta, *groups = checkpoint.load(folder / "last.h5", *GROUPS)
        metas.append({name: meta[name] for name in ("state", "overfit", "classes")})
        files.append({f"{group}/{name}": array for group, arrays in zip(GROUPS, groups, strict=True)
                      for name, array in arrays.items()})  # fmt: skip
        _, best = checkpoint.load(folder / "best.h5", "weights")
        files[-1] |= {f"best/{name}": array for name, array in best.items()}
    assert metas[0] == metas[1] and files[0].keys() == files[1].keys()
    for name, array in files[0].items():
        np.testing.assert_array_equal(array, files[1][name], err_msg=name)
    rows = [list(csv.DictReader((folder / "history.csv").read_text().splitlines())) for folder in (left, right)]
    for row in (*rows[0], *rows[1]):
        assert float(row.pop("seconds")) > 0 and float(row.pop("images_per_second")) > 0
    assert rows[0] == rows[1]


def signalled(monkeypatch, what, count, *numbers):
    """This process gets signals at the so-manieth call of a function of training's; "step": when so many steps are done."""
    calls = []

    def tell():
        calls.append(True)
        for number in numbers if len(calls) == count else ():
            os.kill(os.getpid(), number)

    def called(*args, **kwargs):
        tell()
        return real(*args, **kwargs)

    def made(*args, **kwargs):
        step = real(*args, **kwargs)
        return lambda *sample: (step(*sample), tell())[0]

    place, name = (stages_module, "make_step") if what == "step" else (training, what)
    real = getattr(place, name)
    monkeypatch.setattr(place, name, made if what == "step" else called)


def test_the_command_that_a_scheduler_repeats_ends_with_the_run_that_was_never_stopped(
    demo_run, demo_records, tmp_path, monkeypatch
):
    """Of one epoch of two steps; the process is told twice, as schedulers do, to end after the first."""
    whole, _ = demo_run
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    settings = [f"data={demo_records[0]}", *conftest.TINY, stage]
    again = ["train", ROOT / "configs" / "demo.yaml", *settings, "--out", tmp_path / "run", "--resume"]
    with monkeypatch.context() as patch:
        signalled(patch, "step", 1, signal.SIGTERM, signal.SIGTERM)
        stopped = tfyolo_here(*again)
    assert stopped.exit_code == train.RESUME == 75 and f"{tmp_path / 'run'} --resume` goes on" in stopped.stderr
    state = checkpoint.read_meta(tmp_path / "run" / "last.h5")["state"]
    assert (state["epoch"], state["running"]["step"]) == (0, 1) and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    models.load_model(tmp_path / "run")  # it can be used meanwhile
    again[again.index(stage)] = stage.replace("0.001", "0.002")
    resumed = tfyolo_here(*again)
    assert resumed.exit_code == 0 and "after epoch 0 of 1 and 1 step of the next" in resumed.stdout
    assert "other now, and not used: train.stages.0.lr\n" in resumed.stderr
    assert_same_run(whole, tmp_path / "run")
    finished = tfyolo_here(*again)
    assert finished.exit_code == 0 and "nothing is left to train" in finished.stderr


# Where a signal comes: (what is waited for, how often), which signal, and what is then kept: (epochs, steps of the next).
PLACES = {
    "first step": ("step", 1, signal.SIGTERM, (0, 1)),
    "last step of an epoch": ("step", 3, signal.SIGINT, (0, 3)),
    "second epoch": ("step", 5, signal.SIGTERM, (1, 2)),
    "second stage": ("step", 1 + 6, signal.SIGTERM, (2, 1)),
    "evaluation": ("evaluate", 1, signal.SIGTERM, (1, 3)),
    "pictures": ("draw_detections", 1, signal.SIGTERM, (1, 3)),
    "what is kept": ("_keep_epoch", 2, signal.SIGINT, (2, 0)),
    "the second Ctrl-C": ("step", 5, "twice", (1, 0)),
}
KINDS_STOPPED = {
    "plain": PLACES,
    "two replicas": ["second epoch", "evaluation"],
    "eager, in parts": ["second stage"],
    "all sizes": ["first step", "second epoch"],
}
SETTINGS = {
    "eager, in parts": ["train.eager=true", "train.optimizer={name: sgd, warmup_momentum: 0.5}", "train.accumulate=2"],
    "all sizes": ["train.ema=0"],
}


@pytest.fixture(scope="module")
def never_stopped(data, tmp_path_factory):
    """A kind of KINDS_STOPPED -> (its config, its run, which was never stopped)."""

    @functools.cache
    def trained(kind):
        plan = stages(2, 1).replace("plain", "multi_scale: 0.5, plain") if kind == "all sizes" else stages(2, 1)
        config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY, plan, *SETTINGS.get(kind, ())])
        return config, training.train(config, tmp_path_factory.mktemp("whole") / "run", progress=False)

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("kind, place", [(kind, place) for kind, places in KINDS_STOPPED.items() for place in places])
def test_wherever_it_is_stopped_it_goes_on_to_the_run_that_was_never_stopped(
    kind, place, never_stopped, tmp_path, monkeypatch
):
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2 if kind == "two replicas" else 1))
    config, whole = never_stopped(kind)
    what, count, number, kept = PLACES[place]
    out, numbers = tmp_path / "run", (signal.SIGINT,) * 2 if number == "twice" else (number,)
    with monkeypatch.context() as patch:
        signalled(patch, what, count, *numbers)
        with pytest.raises(runs.Stopped) as stop:
            training.train(config, out, resume=True, progress=False)
    assert (stop.value.folder, stop.value.epochs, stop.value.signal) == (out, kept[0], numbers[0])
    state = checkpoint.read_meta(out / "last.h5")["state"]
    assert (state["epoch"], state.get("running", {}).get("step", 0)) == kept
    assert training.train(config, out, resume=True, progress=False).metrics == whole.metrics
    assert_same_run(whole.folder, out)
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_loop_that_is_killed_at_any_moment_comes_to_the_run_that_was_never_stopped(seed, data, tmp_path):
    """By SIGTERM and SIGKILL in turns, from before TensorFlow's start to after the last epoch; seeded."""
    rng = np.random.default_rng(seed)
    arguments = ["train", "configs/demo.yaml", f"data={data}", *TINY, stages(2, 2)]
    whole = tfyolo(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout
    codes, begun = [], time.monotonic()
    alone = tfyolo(*arguments, "--out", tmp_path / "timed")
    assert alone.returncode == 0
    longest = time.monotonic() - begun
    while not codes or codes[-1] != 0:
        assert len(codes) < 40, codes
        command = process(*arguments, "--out", tmp_path / "run", "--resume", cwd=ROOT, stderr=subprocess.STDOUT)
        try:
            command.communicate(timeout=rng.uniform(0.1, 1.2) * longest)
        except subprocess.TimeoutExpired:
            command.send_signal((signal.SIGTERM, signal.SIGKILL)[len(codes) % 2])
            printed, _ = command.communicate(timeout=60)
            assert "Traceback" not in printed
        codes.append(command.returncode)
    assert set(codes) <= {0, train.RESUME, -signal.SIGTERM, -signal.SIGKILL}, codes
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))


def test_what_a_killed_run_has_begun_is_begun_anew_and_nothing_else(data, tmp_path, monkeypatch):
    """As kill -9 leaves it in the first epoch. Where somebody may want what lies there, it is not touched."""
    begun = ["config.yaml", "train_batch.png", ".config.99999.tmp.yaml", ".last.99999.tmp.h5", folders.LOCK]

    def leave(name, *more, but=()):
        (tmp_path / name / "tensorboard").mkdir(parents=True)
        for file in {*begun, *more} - set(but):
            (tmp_path / name / file).write_text("left")
        return tmp_path / name

    def reached(config, folder, *_):
        raise runs.TrainingError(f"begun with {sorted(os.listdir(folder))}")

    monkeypatch.setattr(training, "_train", reached)
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY])
    with pytest.raises(runs.TrainingError, match=rf"begun with \['{folders.LOCK}'\]"):
        training.train(config, leave("killed"), resume=True)
    assert not os.listdir(tmp_path / "killed")
    for name, more, but in (
        ("with notes", ["notes.txt"], []),
        ("an import", ["best.h5"], ["train_batch.png", *begun[2:]]),  # which holds no lock, and is whole
        ("somebody's config", [], [folders.LOCK]),
    ):
        folder = leave(name, *more, but=but)
        before = sorted(os.listdir(folder))
        with pytest.raises(folders.Taken, match="expected a new or empty folder, it holds something already"):
            training.train(config, folder, resume=True)
        assert sorted(os.listdir(folder)) == before
    with folders.held(leave("running")), pytest.raises(folders.Taken, match=f"process {os.getpid()} on "):
        training.train(config, tmp_path / "running", resume=True)
    with pytest.raises(folders.Taken, match="go on with its run by --resume"):
        training.train(config, leave("not asked"))
    with pytest.raises(runs.TrainingError, match=r"no run there to resume; expected .* or the config with it"):
        training.train(None, tmp_path / "nothing", resume=True)


def test_sigterm_is_the_handlers_that_somebody_has_set(data, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(training, "_train", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    try:
        training.train(configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}"]), tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [True]


@pytest.mark.slow
@pytest.mark.parametrize("epochs, kill_after", [((3,), 1), pytest.param((2, 3), 3, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_very_run_that_was_never_stopped(epochs, kill_after, data, tmp_path):
    """With kill -9; the second time in the second of two stages."""
    arguments = ["train", "configs/demo.yaml", f"data={data}", *TINY, stages(*epochs)]
    whole = tfyolo(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout
    killed = process(*arguments, "--out", tmp_path / "killed", cwd=ROOT)
    last = tmp_path / "killed" / "last.h5"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = checkpoint.read_meta(last)["state"]["epoch"] if last.exists() else 0
        if done >= kill_after or killed.poll() is not None:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    if len(epochs) == 1:  # as earlier versions wrote it, which did not know how many steps the EMA holds
        with h5py.File(last, "r+") as file:
            meta = json.loads(file["meta"][()])
            assert meta["state"].pop("averaged") > 0
            file["meta"][()] = json.dumps(meta)
    resumed = tfyolo("train", tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    again = tfyolo_here(*arguments, "--out", tmp_path / "whole")
    assert again.exit_code == 1 and "holds something already" in again.output


@pytest.mark.slow
def test_what_is_used_of_last_h5_is_what_training_evaluated(data, tmp_path):
    """The EMA; the weights beside it, another model, are there to go on from."""
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY, stages(1), "train.ema=0.99"])
    run = training.train(config, tmp_path / "run", progress=False)
    _, weights, averages = checkpoint.load(run.folder / "last.h5", "weights", "averages")
    assert any(not np.array_equal(weights[name], averages[name]) for name in weights)
    used = checkpoint.weights_of(models.load_model(run.folder / "last.h5").network)
    best = checkpoint.weights_of(models.load_model(run.folder / "best.h5").network)
    for name in averages:
        np.testing.assert_array_equal(used[name], averages[name])
        np.testing.assert_array_equal(used[name], best[name])  # of one epoch, so the best too


def test_a_loss_that_is_not_finite_stops_the_run_and_names_term_step_and_images(data, tmp_path):
    stage = "train.stages=[{epochs: 3, lr: 1e30, warmup: 0, schedule: constant}]"
    optimizer = "train.optimizer={name: sgd}"
    run = tfyolo(
        "train",
        "configs/demo.yaml",
        f"data={data}",
        *TINY,
        stage,
        optimizer,
        "train.clip=null",
        "--out",
        tmp_path / "run",
    )
    assert run.returncode == 1 and "Traceback" not in run.stdout
    message = run.stdout.split("Error:")[-1]
    assert not (tmp_path / "run").exists()  # of which not one epoch was finished
    assert "step" in message and "became" in message and "train" in message and ".jpg" in message


@pytest.mark.slow
def test_images_that_are_broken_or_of_another_size_are_named(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    victim, shrunk = sorted((copy / "train").glob("*.jpg"))[:2]
    victim.write_bytes(victim.read_bytes()[:200])
    cv2.imwrite(str(shrunk), np.zeros([20, 30, 3], np.uint8))
    judged = sorted((copy / "val").glob("*.jpg"))[0]
    judged.write_bytes(b"")
    result = tfyolo_here(
        "train", ROOT / "configs/demo.yaml", f"data={copy}", *TINY, stages(2), "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.stderr
    assert "left out, as unreadable: 1 image, 1 so far" in result.stderr and victim.name in result.stderr
    assert f"not the one annotated: 1 image, 1 so far:\n  {shrunk}: 20 x 30, annotated " in result.stderr
    assert result.stderr.count(f"evaluation: left out, as unreadable: 1 picture: {judged}") == 1


@pytest.mark.slow
def test_a_second_stage_goes_on_with_the_ema_of_the_first_whose_model_is_gone(data, tmp_path, monkeypatch):
    """Against the formula, from the weights of every step of both: (1 + n) / (10 + n) counts on. n is kept in last.h5."""
    seen, networks = [], []
    make, update, build = EMA.__init__, EMA.update, models.build

    def started(ema, network, decay):
        make(ema, network, decay)
        seen.append(checkpoint.weights_of(network))

    def updated(ema, strategy):
        update(ema, strategy)
        seen.append({weight.path: weight.numpy() for weight in ema.weights})

    def built(*args, **kwargs):
        if "precision" in kwargs:  # to train
            assert all(network() is None for network in networks)
        model = build(*args, **kwargs)
        if "precision" in kwargs:
            networks.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(EMA, "__init__", started)
    monkeypatch.setattr(EMA, "update", updated)
    monkeypatch.setattr(stages_module, "build", built)
    options = [f"data={data}", *TINY, stages(1, 1), "train.ema=0.998", "train.eager=true"]
    config = configs.load(ROOT / "configs" / "demo.yaml", options)
    run = training.train(config, tmp_path / "run", progress=False)
    steps = 3  # ten images by four
    assert len(networks) == 2 and len(seen) == 2 * (1 + steps)
    expected = seen[0]
    for n, weights in enumerate([*seen[1 : 1 + steps], *seen[2 + steps :]], start=1):
        keep = (1 + n) / (10 + n)
        expected = {name: keep * value + (1 - keep) * weights[name] for name, value in expected.items()}
    meta, averages = checkpoint.load(run.folder / "last.h5", "averages")
    assert meta["state"]["averaged"] == 2 * steps
    for name, value in expected.items():
        np.testing.assert_allclose(averages[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_no_stage_of_any_seed_has_the_data_of_another():
    config = load_config("demo")
    seeds = {
        reading.stage_seed(config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})}), stage)
        for seed in range(500)
        for stage in range(4)
    }
    assert len(seeds) == 2000 and set(range(500)) < seeds  # the first stage's is train.seed


@pytest.mark.parametrize("count, batch, replicas", [(4, 16, 8), (4, 16, 1), (3, 16, 2), (20, 16, 2), (5, 2, 4)])
def test_what_is_overfit_makes_batches_for_every_replica(count, batch, replicas):
    config = load_config("demo", f"train.batch={batch}", "data=" + str(ROOT))
    chosen = reading.overfit_config(config, count, replicas).train.batch
    assert chosen % replicas == 0 and chosen >= min(batch, count) and chosen < min(batch, count) + replicas


def test_an_epoch_of_what_is_overfit_has_at_least_25_steps_however_many_replicas(data):
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}"])
    for replicas in (1, 8):
        chosen = reading.overfit_config(config, 4, replicas)
        learned, judged = reading.read_stage(chosen, 0, 4)
        assert len(learned.records) == 25 * chosen.train.batch and len(judged.records) == 4


@pytest.mark.slow
def test_without_a_box_to_evaluate_on_the_last_epoch_is_the_best_and_the_reason_is_said_first(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    arguments = [f"data={copy}", *TINY, stages(2), "train.evaluate_every=1", "--out", tmp_path / "run", "--json"]
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", *arguments)
    assert "data: the split 'val' has no boxes: there will be no AP" in result.stderr
    assert json.loads(result.stdout, parse_constant=pytest.fail) == {
        "run": str(tmp_path / "run"), "epoch": 2, "AP": None, "AP50": None, "AP75": None
    }  # fmt: skip
    assert checkpoint.read_meta(tmp_path / "run" / "best.h5")["epoch"] == 2


@pytest.mark.parametrize(
    "metrics, best, better",
    [((0.2, 0.3), (0.1, 0.9), True), ((0.1, 0.9), (0.1, 0.8), True), ((0.1, 0.8), (0.1, 0.8), False),
     ((0.0, 0.0), (math.nan, math.nan), True), ((math.nan, math.nan), (0.0, 0.0), False),
     ((math.nan, math.nan), (math.nan, math.nan), True)],
)  # fmt: skip
def test_the_best_epoch_is_the_earliest_of_the_best_and_the_latest_of_those_without_ap(metrics, best, better):
    assert log.better(*({"AP": one[0], "AP50": one[1]} for one in (metrics, best))) == better


@pytest.mark.slow
def test_eager_takes_the_same_steps(data, tmp_path):
    for eager in ("true", "false"):
        run = tfyolo(
            "train",
            "configs/demo.yaml",
            f"data={data}",
            *TINY,
            stages(1),
            f"train.eager={eager}",
            "--out",
            tmp_path / eager,
        )
        assert run.returncode == 0, run.stdout
    _, eager = checkpoint.load(tmp_path / "true" / "last.h5", "weights")
    _, graph = checkpoint.load(tmp_path / "false" / "last.h5", "weights")
    for name in eager:
        np.testing.assert_allclose(eager[name], graph[name], rtol=1e-2, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_frozen_parts_stay_and_the_others_move(data, tmp_path, monkeypatch):
    """A whole run on two replicas."""
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2))
    batches, evaluate = [], evaluation.evaluate
    monkeypatch.setattr(
        training, "evaluate", lambda *a, batch, **b: batches.append(batch) or evaluate(*a, batch=batch, **b)
    )
    stage = "train.stages=[{epochs: 1, lr: 0.01, freeze: [backbone, neck.p5]}]"
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY, stage])
    run = training.train(config, tmp_path / "run", progress=False)
    _, after = checkpoint.load(run.folder / "last.h5", "weights")
    model = models.build(config, checkpoint.read_meta(run.folder / "last.h5")["classes"])
    fresh = {name: value for name, value in checkpoint.weights_of(model.network).items()}
    for name in fresh:
        frozen = name.startswith(("backbone.", "neck.p5."))
        if name.endswith(("moving_mean", "beta")):  # these start at 0 whatever the seed
            assert np.any(after[name]) != frozen, name
    assert batches == [2]  # as many at a time as a replica learns from
    height, width = cv2.imread(str(run.folder / "train_batch.png")).shape[:2]
    assert width > 4 * 320 > 4 * height - 100  # both replicas' two images beside each other


@pytest.mark.parametrize(
    "settings, replicas, expected",
    [(["train.batch=8"], 1, 8), (["train.batch=64"], 2, 16), (["train.batch=64", "train.accumulate=8"], 2, 4), (["train.batch=2"], 8, 1)],
)  # fmt: skip
def test_evaluation_takes_as_many_images_as_a_replica_learns_from_at_a_time(settings, replicas, expected):
    assert memory.evaluated_at_once(load_config("demo", *settings), replicas) == expected


@pytest.mark.parametrize(
    "batch, counts, unit, expected, words",
    [(8, [20], 1, 8, []), (16, [10], 1, 10, ["train.batch=16 is more than the 10 images to train on: a step takes 10 images"]),
     (16, [10], 4, 8, ["a step takes 8 images"]), (8, [3], 8, 8, ["a step of 8 images has but 3 to take, some of them more than once"]),
     (16, [3], 8, 8, ["a step takes 8 images", "has but 3 to take"]), (16, [100, 4], 2, 16, ["stage 2: a step of 16 images has but 4"])],
)  # fmt: skip
def test_no_step_takes_more_images_than_there_are_where_that_can_be(batch, counts, unit, expected, words):
    sources = [(SimpleNamespace(records=range(count)), None) for count in counts]
    config, notes = reading.with_images_for(load_config("demo", f"train.batch={batch}"), sources, unit)
    assert config.train.batch == expected and len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize(
    "replicas, said",
    [
        (1, "4 images of 64 x 64 at a time do not fit .* 1 image did.*accumulate=4 .*batch=1 "),
        pytest.param(2, "2 images .* 1 image did.*accumulate=2 .*batch=2 ", marks=pytest.mark.slow),
    ],
)
def test_out_of_memory_says_what_would_fit(replicas, said, data, tmp_path, monkeypatch):
    """A device has room for one image."""
    convert = tf.image.convert_image_dtype  # of a step's images, the first that is done with them

    def tight(images, dtype):
        if images.shape[0] > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return convert(images, dtype)

    monkeypatch.setattr(tf.image, "convert_image_dtype", tight)
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(replicas))
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY, stages(1)])
    with pytest.raises(runs.TrainingError, match=f"epoch 1, step 1: {said}"):
        training.train(config, tmp_path / "run", progress=False)
    assert not os.listdir(tmp_path)


def test_a_model_that_does_not_fit_is_no_traceback(data, tmp_path, monkeypatch):
    def large(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor of 9 GB\nHint: ...")

    monkeypatch.setattr(job, "build", large)
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "training keeps beside it (OOM when allocating tensor of 9 GB)" in result.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "whole, replicas, accumulate, fits, words",
    [(16, 1, 1, 4, "16 images .*train.accumulate=4 .*train.batch=4 "), (32, 2, 2, 2, "8 images .*train.accumulate=8 .*train.batch=8 "),
     (6, 1, 1, 1, "train.accumulate=6 .*train.batch=1 "), (12, 1, 1, 3, "3 images did.* train.accumulate=4 .*train.batch=3 ")],
)  # fmt: skip
def test_what_fits_is_said_as_settings(whole, replicas, accumulate, fits, words):
    config = load_config("demo", f"train.batch={whole}", f"train.accumulate={accumulate}")
    strategy = SimpleNamespace(num_replicas_in_sync=replicas)
    said = memory.too_many(config, strategy, (64, 96), fits)
    assert "of 64 x 96 at a time do not fit into a device's memory, nor does one" in memory.too_many(
        config, strategy, (64, 96), 0
    )
    assert re.search(words, said), said
    parts = int(re.search(r"train\.accumulate=(\d+)", said)[1])
    assert whole % (replicas * parts) == 0 and whole // replicas // parts <= fits  # a setting that is allowed, and fits


def test_validation_images_of_one_name_are_drawn_each(data, tmp_path):
    source = read(data, "val")
    records = tuple(r._replace(image_id=f"{n}/the.same.jpg") for n, r in enumerate(source.records[:3]))
    model = conftest.lively("demo", source.classes)
    options = {"count": 3, "batch": 2, "score": 0.5}
    board = tf.summary.create_noop_writer()
    draw_detections(model, Detector.of(model), source._replace(records=records), tmp_path, board, 1, **options)
    assert sorted(os.listdir(tmp_path)) == [f"{n:02d}_the.same.jpg" for n in (1, 2, 3)]


def second(option):
    return f"train.stages=[{{epochs: 1, lr: 0.1}}, {{epochs: 1, lr: 0.1, {option}}}]"


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.stages.0.freeze=[bakbone]", "train.stages.0.freeze.0: expected the name of a part"),
        ("train.stages.0.freeze=[backbone, neck, head]", "everything is frozen"),
        ("train.stages.0.loss_weights={boxes: 2}", "expected a term of the loss (box, obj, cls)"),
        ("train.optimizer=adam", "train.optimizer.name: expected one of sgd, adamw"),
        ("train.batch=3", "train.batch: expected a multiple of 2 replicas"),
        ("data=null", "data: expected where the images"),
        # Of a later stage: not when its turn comes.
        (second("image_size: 100"), "train.stages.1.image_size: expected multiples of 32"),
        (second("freeze: [backbone, bakbone]"), "train.stages.1.freeze.1: expected the name of a part"),
        (second("freeze: [backbone, neck, head]"), "everything is frozen"),
        (second("loss_weights: {boxes: 2}"), "expected a term of the loss (box, obj, cls)"),
    ],
)
def test_plans_that_cannot_be_are_errors_of_the_config(data, tmp_path, monkeypatch, override, message):
    monkeypatch.setattr(job, "make_strategy", lambda: strategy_of(2))
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={data}", *TINY, override])
    with pytest.raises(ConfigError) as error:
        training.train(config, tmp_path / "run", progress=False)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()  # before anything is trained


def test_images_of_another_size_than_connected_layers_take_are_an_error_of_the_stage():
    config = small("yolov1", **{"train.stages": "[{epochs: 1, lr: 0.1, image_size: 64}]"})
    with pytest.raises(ConfigError, match=r"train\.stages\.0\.image_size: expected \[128, 192\], the one size"):
        checks.check_stage(config, 0, models.build(config, NAMES))


def test_data_that_stages_share_are_read_once(data, tmp_path, monkeypatch):
    own = f"{{epochs: 1, lr: 0.1, data: {{path: {data}, train: val}}}}"
    config = configs.load(
        ROOT / "configs" / "demo.yaml",
        [f"data={data}", f"train.stages=[{{epochs: 1, lr: 0.1}}, {own}, {{epochs: 1, lr: 0.01}}]"],
    )
    read, seen = reading.read_stage, []
    monkeypatch.setattr(reading, "read_stage", lambda config, i, *rest: seen.append(i) or read(config, i, *rest))
    first, second, third = reading.read_stages(config, None, tmp_path)
    assert seen == [0, 1] and third is first
    assert (first[0].split, second[0].split) == ("train", "val")


def test_a_val_split_that_is_missing_is_no_reason_to_evaluate_on_the_training_data(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "annotations" / "instances_val.json").unlink()
    config = configs.load(ROOT / "configs" / "demo.yaml", [f"data={copy}", *TINY])
    with pytest.raises(SplitError, match=r"'val' does not exist .*: data\.val=.*data\.val=train evaluates on"):
        training.train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()  # a failed start leaves nothing
    knowing = configs.load(ROOT / "configs" / "demo.yaml", [f"data={copy}", "data.val=train", *TINY])
    learned, judged = reading.read_stage(knowing, 0, None)
    assert judged.split == "train" and len(judged.records) == len(learned.records)
    assert not list(reading.warnings_of(learned, judged))


def test_images_both_trained_and_evaluated_on_are_reported(data):
    learned, judged = read(data, "train"), read(data, "val")
    assert not list(reading.warnings_of(learned, judged))
    both = judged._replace(records=(*judged.records, *learned.records[:3]))
    (warning,) = reading.warnings_of(learned, both)
    assert "demo val: 3 of its 7 images are also trained on, as 'train'" in warning


def test_other_classes_in_val_are_reported_by_data_set_and_split(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    file = copy / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"disc"', '"disk"'))
    overrides = [f"data={copy}", *TINY]
    with pytest.raises(ConfigError) as error:
        training.train(configs.load(ROOT / "configs" / "demo.yaml", overrides), tmp_path / "run", progress=False)
    assert "train.stages" not in str(error.value)
    assert "data val too, which has disk, which data train has not and lacks disc" in str(error.value)
    own = f"train.stages=[{{epochs: 1, lr: 0.1}}, {{epochs: 1, lr: 0.1, data: {{path: {copy}, train: val}}}}]"
    with pytest.raises(
        ConfigError, match=r"train\.stages\.1\.data: expected the 5 classes of demo train in data val too"
    ):
        training.train(
            configs.load(ROOT / "configs" / "demo.yaml", [*overrides, f"data={data}", own]),
            tmp_path / "run",
            progress=False,
        )


def test_what_fails_before_its_first_step_leaves_nothing(data, tmp_path):
    overrides = [f"data={data}", *TINY, "train.stages=[{epochs: 1, lr: 0.1, freeze: [bakbone]}]"]
    with pytest.raises(ConfigError):
        training.train(
            configs.load(ROOT / "configs" / "demo.yaml", overrides), tmp_path / "new" / "run", progress=False
        )
    assert not os.listdir(tmp_path)


def test_ctrl_c_while_data_is_read_leaves_nothing(data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        assert os.listdir(tmp_path / "run") == [folders.LOCK]  # taken at once
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "read_stage", interrupted)
    result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", tmp_path / "run")
    assert result.exit_code == 130 and "nothing is left" in result.stderr
    assert not os.listdir(tmp_path)


def test_a_run_that_is_being_trained_is_not_gone_on_with_by_another(data, tmp_path, monkeypatch):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "last.h5").touch()
    monkeypatch.chdir(tmp_path)
    with folders.held("runs/demo"):
        result = tfyolo_here("train", "runs/demo", "--resume")
        assert result.exit_code == 1 and f"runs/demo: process {os.getpid()} on " in result.stderr
        result = tfyolo_here("train", ROOT / "configs" / "demo.yaml", f"data={data}", "--out", "runs/demo")
        assert result.exit_code == 1 and "go on with its run by --resume" in result.stderr
    assert os.listdir("runs/demo") == ["last.h5"]


@pytest.mark.slow
def test_two_trainings_that_start_together_are_two_runs(data, tmp_path):
    arguments = ["train", ROOT / "configs" / "demo.yaml", f"data={data}", *TINY, stages(1), "train.seed=1"]
    both = [process(*arguments, cwd=tmp_path, stderr=subprocess.STDOUT) for _ in range(2)]
    assert [(command.communicate(), command.returncode)[1] for command in both] == [0, 0]
    for name in ("demo", "demo-2"):
        assert len((tmp_path / "runs" / name / "history.csv").read_text().splitlines()) == 2


# Of each family the largest, as it is but for the pictures' size.
LARGEST = {
    "yolov1": 128,
    "yolov3-spp": 96,
    "yolov4": 96,
    "yolov7x": 96,
    "yolov7-d6": 128,
    "yolov7-e6e": 128,
    "yolov8x": 96,
    "yolo11x": 96,
    "m2det800-vgg": 160,
    "cornernet-hg104": 128,
}
ONE_STEP = """
import resource, sys
import conftest, tensorflow as tf
from tfyolo import config, model
from tfyolo.training import steps
from tfyolo.training.optim import EMA, OPTIMIZERS
loaded = config.load(config.zoo(sys.argv[1]), [f"model.input_size={sys.argv[2]}"])
strategy = tf.distribute.get_strategy()
built = model.build(loaded, ("a", "b", "c"))
optimizer = OPTIMIZERS["adamw"](1e-3)
optimizer.build(built.network.trainable_variables)
sample = conftest.of_all_scales(loaded.model.input_size, batch=2)
step = steps.make_step(built, optimizer, EMA(built.network, 0.0), strategy, tf.data.Dataset.from_tensors(sample).element_spec)
before = built.network.trainable_variables[0].numpy()
figures = {name: float(value) for name, value in step(sample).items()}
assert all(value == value for value in figures.values()) and (built.network.trainable_variables[0].numpy() != before).any(), figures
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_a_training_step_of_each_family_fits_into_24_gib(name):
    command = [sys.executable, "-c", ONE_STEP, name, str(LARGEST[name])]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 24 * 1024


@pytest.mark.slow
def test_overfit_reaches_a_perfect_score(data, tmp_path):
    run = tfyolo("train", "configs/demo.yaml", f"data={data}", "--overfit", "4", "--out", tmp_path / "run")
    assert run.returncode == 0, run.stdout
    assert float(list(csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines()))[-1]["AP50"]) > 0.999


# The paper's own squared errors: of an overlap, a box that once has shrunk to a point learns no more. Two of the truths overlap by .65.
DARKNET53 = ["model.objective.box=squared", "model.postprocess.iou=0.7", "model.input_size=256"]


@pytest.mark.slow
@pytest.mark.parametrize("name, options", [("yolov3", DARKNET53), ("m2det-small", []), ("cornernet-small", [])])
def test_eight_real_images_are_overfit(name, options, shared, tmp_path):
    """As far as AP50 .95: all of it is more than some decoders can say, such as that of corners in cells beside each other."""
    history, best = tmp_path / "run" / "history.csv", 0.0
    arguments = [f"data={shared / 'data' / 'coco-tiny'}", *options, "train.precision=bfloat16"]
    config = ROOT / "configs" / f"{name}.yaml"
    command = process("train", config, *arguments, "--overfit", "8", "--out", history.parent, stdout=subprocess.DEVNULL)
    while best <= 0.95 and command.poll() is None:
        time.sleep(5)
        if history.exists():
            best = max(float(row["AP50"]) for row in csv.DictReader(history.read_text().splitlines()))
    command.send_signal(signal.SIGINT)
    _, told = command.communicate()
    assert best > 0.95, told
