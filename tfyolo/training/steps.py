"""One training step: forward, loss, gradients of the global batch, update, EMA."""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfyolo.messages import counted, listed
from tfyolo.nn.norm import sum_over_replicas
from tfyolo.training.runs import TrainingError

# --- one step -----------------------------------------------------------------------------------------------------------------


def make_strategy():
    """MirroredStrategy over all GPUs, else over the logical CPUs, of which there is one unless somebody has made more."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    # CPU collectives cannot be set up twice in one process.
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=tf.distribute.ReductionToOneDevice())


def _loss_sums(model, sample):
    """(sums, counts) of the objective of a batch or a part of it, in training mode; losses.py says what they are."""
    raw = model.network(sample.image, training=True)
    sums, counts = model.objective.sums(raw, model.decoder(raw), sample)
    return sums, tf.nest.map_structure(tf.stop_gradient, counts)


def loss_terms(model, sample, weights=None, whole=lambda counts: counts):
    """The terms of the loss of a batch, in training mode: {name: scalar}, each times its weight, which is 1 where unnamed.

    whole: the counts of the sample -> those of the global batch that it is a part of.
    """
    sums, counts = _loss_sums(model, sample)
    terms = model.objective.normalised(sums, whole(counts))
    return {name: value * (weights or {}).get(name, 1.0) for name, value in terms.items()}


def make_step(
    model, optimizer, average, strategy, spec, *, sizes=(), accumulate=1, clip=None, weights=None, eager=False
):
    """step(sample of the global batch, size=None) -> {"loss", each term, "gradient_norm"}, all over the global batch.

    spec: element_spec of the (distributed) batches; the number of truths is open in it, so that one trace serves all. sizes: (H, W)
    that pictures may be brought to in a step; size: the one of this step, None: as they come.
    The batch goes through in `accumulate` parts, one after the other, whose gradients add up to those of the whole; only batch norm
    knows no more than its part. What the losses of all parts are divided by is counted first, which takes a further forward pass where
    it depends on the predictions. The norm is clipped after the replicas' gradients are summed, so that any number of replicas takes the
    same step. Raises TrainingError, when it is traced, if a trainable variable is connected to no term of the loss.
    """
    variables = model.network.trainable_variables
    replicas = strategy.num_replicas_in_sync

    def over_replicas(values):
        return tf.nest.map_structure(sum_over_replicas, values)

    def gradients(part, whole):
        with tf.GradientTape() as tape:
            terms = loss_terms(model, part, weights, whole)
            loss = tf.add_n(list(terms.values()))
        found = tape.gradient(loss, variables)
        _check_connected(found, variables)
        return found, {"loss": loss, **terms}

    def in_parts(sample):
        """The gradients and figures of all parts, added up: one part at a time, that is what saves memory."""
        counts = None
        # Nothing that the pass changes is kept, such as batch norm's statistics; dropout draws the same masks again afterwards.
        with keras.StatelessScope():
            for i in range(accumulate):
                _, more = _loss_sums(model, _part(sample, i, accumulate, after=counts))
                counts = more if counts is None else tf.nest.map_structure(tf.add, counts, more)
        counts, summed = over_replicas(counts), None
        for i in range(accumulate):
            part = _part(sample, i, accumulate, after=counts if summed is None else summed)
            more = gradients(part, lambda _: counts)
            summed = more if summed is None else tf.nest.map_structure(tf.add, summed, more)
        return summed

    def on_replica(sample, size):
        sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32))
        sample = resize_sample(sample, size) if size else sample
        summed, figures = over_replicas(in_parts(sample) if accumulate > 1 else gradients(sample, over_replicas))
        norm = tf.linalg.global_norm(summed)
        factor = tf.minimum(1.0, clip / (norm + 1e-6)) if clip else 1.0
        # Keras sums the replicas' gradients once more, hence the division.
        optimizer.apply([gradient * (factor / replicas) for gradient in summed], variables)
        return {**figures, "gradient_norm": norm}

    def step(sample, size=None):
        figures = strategy.run(on_replica, (sample, size))
        average.update(strategy)
        return {name: strategy.experimental_local_results(value)[0] for name, value in figures.items()}

    if eager:
        return step
    traced = {
        size: tf.function(functools.partial(step, size=size), input_signature=[spec], autograph=False)
        for size in sizes or [None]
    }
    return lambda sample, size=None: traced[size](sample)


def resize_sample(sample, size):
    factor = tf.constant(size, tf.float32) / tf.cast(sample.image.shape[1:3], tf.float32)
    image = tf.image.resize(sample.image, size)
    image.set_shape([None, *size, 3])
    return sample._replace(image=image, boxes=sample.boxes * tf.tile(factor, [2]))


def scales(size, spread, stride):
    """The sizes of multi-scale training: at most seven (H, W) from (1 - spread) to (1 + spread) times a size, multiples of a stride."""
    factors = np.linspace(1 - spread, 1 + spread, 7)
    return sorted({tuple(max(1, round(side * factor / stride)) * stride for side in size) for factor in factors})


def _part(sample, i, parts, after=None):
    """One of equal parts of a batch, which is there once the tensors of `after` are."""
    size = tf.shape(sample.image)[0] // parts
    with tf.control_dependencies(tf.nest.flatten(after) if after is not None else []):
        return tf.nest.map_structure(lambda x: x[i * size : (i + 1) * size], sample)


def _check_connected(gradients, variables):
    idle = [variable.path for variable, gradient in zip(variables, gradients, strict=True) if gradient is None]
    if idle:
        raise TrainingError(
            f"expected every trainable variable to change some term of the loss, {counted(len(idle), 'variable')} cannot: "
            f"{listed(idle, 8)}; connect what they belong to with an output that the objective "
            "reads, or freeze it: train.stages.0.freeze=[...]"
        )
