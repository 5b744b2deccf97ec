"""The laws of a training step: replicas, accumulation, traces, clipping, EMA, schedules."""

import functools
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGS, load_config, mostly_slow, random_sample, slow, small, strategy_of
from keras import layers

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.assigners import best_anchor, max_iou, ota, simota, task_aligned
from tfyolo.config import Stage
from tfyolo.data import datasets
from tfyolo.data.readers import read
from tfyolo.decoders.anchors import Anchor, Wide
from tfyolo.decoders.cornernet import Corner
from tfyolo.decoders.ssd import Ssd
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.decoders.yolox import Point
from tfyolo.graph.calibration import calibrate
from tfyolo.heads.layers import PerAnchor
from tfyolo.losses import OBJECTIVES
from tfyolo.nn.norm import BatchNorm
from tfyolo.structures import Raw, level_stride
from tfyolo.training import runs
from tfyolo.training import steps as steps_module
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
    quantize=False,
):
    """The change of every weight after steps of plain SGD on one global batch of 4."""
    config = small(name, **overrides)
    keras.utils.set_random_seed(0)
    strategy = strategy_of(replicas)
    sample = random_sample(config.model.input_size, batch=4, ground_truths=6)
    dataset = tf.data.Dataset.from_tensors(sample).repeat(steps).unbatch().batch(4, drop_remainder=True)
    with strategy.scope():
        model = models.build(config, NAMES)
        if quantize:
            model = calibrate(model, lambda: [sample.image.numpy()]).quantized()
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


@pytest.mark.slow
def test_a_step_at_another_size_is_the_step_of_images_of_that_size():
    size, other = (64, 64), (96, 128)
    sample = random_sample(size, batch=4)
    factor = np.array(other * 2) / np.array(size * 2)
    resized = sample._replace(image=tf.image.resize(sample.image, other), boxes=sample.boxes * factor.astype("float32"))
    changes = []
    for given, built_for, sizes in ((sample, (None, None), [size, other]), (resized, other, ())):
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
    """Hard negatives and corners: each image's, divided by counts over all.

    Gradients are near each other alone: with demo-m2det's pools and batch norms over few cells, images that differ by
    3e-7 already change the norm by 6e-3.
    """
    figures, figures_of_two = (one_step(name, n, overrides={}, lr=0.01)[1] for n in (1, 2))
    assert figures_of_two.pop("gradient_norm") == pytest.approx(figures.pop("gradient_norm"), rel=1e-2)
    assert figures_of_two == pytest.approx(figures, rel=1e-4)


@pytest.mark.slow
def test_two_replicas_take_the_step_of_one_in_quantization_aware_training():
    """The ranges are learned alike, too."""
    one, two = (one_step("demo", replicas, lr=0.1, quantize=True)[0] for replicas in (1, 2))
    assert any(name.endswith("/high") and np.any(change) for name, change in one.items())
    assert_close(one, two, 1e-5)


# Of each objective, and of those with an auxiliary head, too: decoder, assigner, options, and counts that depend on the
# predictions.
ANCHORS = {f"p{i}": [[3 << i, 2 << i], [1 << i, 2 << i]] for i in (3, 4, 5)}
KINDS = {
    "dense": (Anchor(anchors=ANCHORS), best_anchor, {}, False),
    "balanced": (Wide(anchors=ANCHORS), ota, {"box": "giou"}, True),
    "balanced with aux": (Wide(anchors=ANCHORS), ota, {"box": "giou", "aux": {"cells": 5, "topk": 20}}, True),
    "aligned": (Dfl(bins=4), task_aligned, {}, True),
    "aligned with aux": (Dfl(bins=4), functools.partial(task_aligned, topk=2), {"aux": {"topk": 5}}, True),
    "multibox": (Ssd(sizes=[0.1, 0.3, 0.6, 0.9], levels=("p3", "p4", "p5")), max_iou, {}, False),
    "iou_aware": (Point(), simota, {}, True),
    "corner": (Corner(), None, {}, False),
}

# With an auxiliary head there is all that there is without; both count what depends on the predictions.
EACH_KIND = mostly_slow(KINDS, ["aligned with aux"])


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
    sample = random_sample(size, batch=batch, ground_truths=7, padding=0)
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
    """Of every objective, by SGD, whatever each part holds. Batch norm sees a part at a time, so it is frozen."""
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


def test_an_optimizer_that_sums_where_nobody_can_tell_takes_no_two_replicas():
    """With another version of Keras: an error at once, at every call; one replica has nothing to sum."""
    model, bare = SimpleNamespace(network=SimpleNamespace(trainable_variables=[])), type("Bare", (), {})()
    for _ in range(2):
        with pytest.raises(runs.TrainingError, match=r"Bare: expected an optimizer of Keras 3 .* train on one device"):
            make_step(model, bare, None, strategy_of(2), None)
    make_step(model, bare, None, strategy_of(1), None, eager=True)


@pytest.mark.parametrize(
    "name", [each if each == "sgd" else pytest.param(each, marks=pytest.mark.slow) for each in OPTIMIZERS]
)
@pytest.mark.slow
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


@pytest.mark.parametrize("accumulate", [1, slow(2)])
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
    """Batches of 16 of the demo's images, whole and as 4 x 4, by SGD.

    They differ as far as batch norm does, which sees 4 or 16.

    With frozen norms they do not, but for steps at which two candidates are equal and the last digit decides.
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


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.slow
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


@pytest.mark.slow
def test_clipping_shortens_the_step_to_the_norm():
    free, figures, _ = one_step("demo", lr=1.0)
    clipped, _, _ = one_step("demo", lr=1.0, clip=figures["gradient_norm"] / 4)
    moved = [name for name in free if "moving" not in name]
    for name in moved:
        np.testing.assert_allclose(clipped[name], free[name] / 4, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
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
    samples = [
        random_sample(config.model.input_size, batch=4, ground_truths=count, padding=1) for count in (2, 9, 5, 30)
    ]
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
        keep, now = min(0.9, (1 + n) / (10 + n)), checkpoint.weights_of(network)
        expected = {name: keep * value + (1 - keep) * now[name] for name, value in expected.items()}
        ema.steps.assign(n - 1)
        ema.update(tf.distribute.get_strategy())
    for name, value in ema.arrays().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    other = EMA(network, 0.9)  # a later stage's goes on where this one ended
    other.load(ema.arrays(), ema.steps.numpy())
    for each in (ema, other):
        each.update(tf.distribute.get_strategy())
    assert int(other.steps) == 51
    others = other.arrays()
    for name, value in ema.arrays().items():
        np.testing.assert_array_equal(value, others[name])


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
