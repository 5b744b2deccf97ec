"""One training step: forward, loss, gradients of the global batch, update, EMA."""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfyolo.graph.optimizers import take_summed_gradients
from tfyolo.messages import counted, listed
from tfyolo.nn.norm import merged_sums
from tfyolo.training.runs import TrainingError


def make_strategy():
    """A MirroredStrategy over all GPUs, else over the logical CPUs: one, unless somebody has made more."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    cpus = [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    # CPU collectives cannot be set up twice in one process.
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=tf.distribute.ReductionToOneDevice())


def _loss_sums(model, sample):
    """(sums, counts) of the objective over a batch or a part of it, in training mode, as tfyolo.losses defines them."""
    raw = model.network(sample.image, training=True)
    sums, counts = model.objective.sums(raw, model.decoder(raw), sample)
    return sums, tf.nest.map_structure(tf.stop_gradient, counts)


def loss_terms(model, sample, weights=None, whole=lambda counts: counts):
    """The terms of the loss of a batch, in training mode.

    Args:
        model: the Model.
        sample: a Sample, images [B, H, W, 3], float32 in 0..1; the whole batch or a part of it.
        weights: {term: factor}; 1 where unnamed.
        whole: the counts of the sample -> those of the global batch that it is a part of.

    Returns:
        {term: scalar}, weighted.
    """
    sums, counts = _loss_sums(model, sample)
    terms = model.objective.normalised(sums, whole(counts))
    return {name: value * (weights or {}).get(name, 1.0) for name, value in terms.items()}


def make_step(
    model, optimizer, ema, strategy, spec, *, sizes=(), accumulate=1, clip=None, weights=None, said=None, eager=False
):
    """Makes step(sample, size=None) -> {"loss", each term, "gradient_norm"}: scalar tensors, over the global batch.

    The batch goes through in `accumulate` parts, one after the other. Their gradients add up to those of the whole;
    only batch norm sees no more than its part. The losses of all parts are divided by counts over the whole, which come
    first: a further forward pass where they depend on the predictions. Gradients and metrics are summed over the
    replicas once, together; then the norm is clipped, so that any number of replicas takes the same step.

    Args:
        model: the Model, built in the strategy's scope.
        optimizer: a Keras optimizer, built for the network's trainable variables in that scope.
        ema: the EMA of the network's weights.
        strategy: a tf.distribute strategy.
        spec: element_spec of the distributed batches; the number of objects is open in it: one trace serves all.
        sizes: (H, W) to which images may be brought in a step; () for none. `size` of a step: one of them, or None.
        accumulate: the number of equal parts of a replica's batch.
        clip: the largest norm of the gradients; None: any.
        weights: {term of the loss: factor}; 1 where unnamed.
        said: {name: tf.Variable}, scalars of each worker whose sums over the replicas come with the metrics.
        eager: whether the step runs op by op, for a debugger.

    Raises:
        TrainingError: when it is traced, if a trainable variable is connected to no term of the loss; at once, if this
            Keras cannot be kept from summing the gradients again.
    """
    variables = model.network.trainable_variables
    if not take_summed_gradients(optimizer) and strategy.num_replicas_in_sync > 1:
        raise TrainingError(
            f"{type(optimizer).__name__}: expected an optimizer of Keras 3 on TensorFlow that leaves the sum over "
            f"replicas to others, received one of Keras {keras.__version__} that cannot; train on one device: "
            "--device 0"
        )

    def gradients(part, whole):
        with tf.GradientTape() as tape:
            terms = loss_terms(model, part, weights, whole)
            loss = tf.add_n(list(terms.values()))
        found = tape.gradient(loss, variables)
        _check_connected(found, variables)
        return found, {"loss": loss, **terms}

    def in_parts(sample):
        """The gradients and metrics of all parts, added up: one part at a time, that is what saves memory."""
        counts = None
        # Nothing that the pass changes is kept, such as batch norm's statistics; dropout draws the same masks again.
        with keras.StatelessScope():
            for i in range(accumulate):
                _, more = _loss_sums(model, _part(sample, i, accumulate, after=counts))
                counts = more if counts is None else tf.nest.map_structure(tf.add, counts, more)
        counts, summed = merged_sums(counts), None
        for i in range(accumulate):
            part = _part(sample, i, accumulate, after=counts if summed is None else summed)
            more = gradients(part, lambda _: counts)
            summed = more if summed is None else tf.nest.map_structure(tf.add, summed, more)
        return summed

    def on_replica(sample, size):
        sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32))
        sample = resize_sample(sample, size) if size else sample
        found, metrics = in_parts(sample) if accumulate > 1 else gradients(sample, merged_sums)
        metrics |= {name: value.read_value() for name, value in (said or {}).items()}
        summed, metrics = merged_sums((found, metrics))
        norm = tf.linalg.global_norm(summed)
        if clip:
            factor = tf.minimum(1.0, clip / (norm + 1e-6))
            summed = [gradient * factor for gradient in summed]
        optimizer.apply(summed, variables)
        return {**metrics, "gradient_norm": norm}

    def step(sample, size=None):
        metrics = strategy.run(on_replica, (sample, size))
        ema.update(strategy)
        return {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    if eager:
        return step
    traced = {
        size: tf.function(functools.partial(step, size=size), input_signature=[spec], autograph=False)
        for size in sizes or [None]
    }
    return lambda sample, size=None: traced[size](sample)


def resize_sample(sample, size):
    """Resizes a batch in the graph, bilinearly, without keeping the aspect ratio.

    Args:
        sample: a Sample, images [B, h, w, 3].
        size: (H, W) in pixels.

    Returns:
        The Sample with images [B, H, W, 3] and its boxes scaled with them.
    """
    factor = tf.constant(size, tf.float32) / tf.cast(sample.image.shape[1:3], tf.float32)
    image = tf.image.resize(sample.image, size)
    image.set_shape([None, *size, 3])
    return sample._replace(image=image, boxes=sample.boxes * tf.tile(factor, [2]))


def scales(size, spread, stride):
    """The sizes of multi-scale training.

    Args:
        size: (H, W) in pixels.
        spread: they range from (1 - spread) to (1 + spread) times the size.
        stride: of which each side is a multiple.

    Returns:
        At most seven (H, W), ascending.
    """
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
            "expected every trainable variable to change some term of the loss, "
            f"{counted(len(idle), 'variable')} cannot: {listed(idle, 8)}; "
            "connect what they belong to with an output that the objective reads, or freeze it: "
            "train.stages.0.freeze=[...]"
        )
