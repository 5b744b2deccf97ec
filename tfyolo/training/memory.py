"""How many images fit into a device's memory: in an evaluation by a rule, in a training step by trying."""

import tensorflow as tf

from tfyolo.messages import counted
from tfyolo.training.steps import loss_terms, resize_sample


def evaluated_at_once(config, replicas):
    """How many images an evaluation takes at a time: as many as a replica trains on at a time.

    Without gradients these take less memory, unless there are very many.

    Args:
        config: the Config of the run.
        replicas: how many devices train.

    Returns:
        The number of images, 1 to 16.
    """
    return max(1, min(16, config.train.batch // replicas // config.train.accumulate))


def what_fits(model, strategy, sample, size, accumulate):
    """Tries out how many images' gradients a device has memory for.

    Args:
        model: the Model that is trained.
        strategy: its tf.distribute strategy.
        sample: a distributed batch that was too large.
        size: (H, W) to which its images are brought; None: they stay as they are.
        accumulate: the number of parts in which that batch was taken.

    Returns:
        Half of the images that were too many, or half of that, and so on; 0 where not even one fits.
    """
    variables = model.network.trainable_variables
    images = strategy.experimental_local_results(sample.image)[0].shape[0] // accumulate

    def on_replica(sample):
        sample = tf.nest.map_structure(lambda x: x[:images], sample)
        sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32))
        with tf.GradientTape() as tape:
            loss = tf.add_n(list(loss_terms(model, resize_sample(sample, size) if size else sample).values()))
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.linalg.global_norm(gradients)

    while images > 1:
        images //= 2
        try:
            tf.function(lambda: strategy.run(on_replica, (sample,)), autograph=False)()
            return images
        except tf.errors.ResourceExhaustedError:
            continue
    return 0


def too_large(error):
    """Writes the message about a model that does not fit into memory, whatever the batch.

    Args:
        error: the tf.errors.ResourceExhaustedError.

    Returns:
        The message.
    """
    reason = str(error.message).partition("\n")[0]
    return (
        "a device's memory does not suffice for the model and what training keeps beside it "
        f"({reason}); expected a smaller model or model.input_size, or nothing else on the device"
    )


def too_many(config, strategy, size, fits):
    """Writes the message about a training step that does not fit into memory.

    Args:
        config: the Config of the run.
        strategy: its tf.distribute strategy.
        size: (H, W) of the images, in pixels.
        fits: how many of them fit, from what_fits(); None: several workers did not try.

    Returns:
        The message, with settings that fit.
    """
    replicas, accumulate = strategy.num_replicas_in_sync, config.train.accumulate
    whole = config.train.batch // replicas
    images = counted(whole // accumulate, "image")
    fault = f"{images} of {size[0]} x {size[1]} at a time do not fit into a device's memory"
    if fits is None:
        return f"{fault}; expected more workers, a larger train.accumulate or a smaller train.batch"
    if not fits:
        return (
            f"{fault}, nor does one; expected a smaller model.input_size or model, train.precision=bfloat16, "
            "or a larger device"
        )
    parts = next(parts for parts in range(-(-whole // fits), whole + 1) if whole % parts == 0)
    return (
        f"{fault}. {counted(fits, 'image')} did, as tried just now: train.accumulate={parts} computes the same step in "
        f"{parts} parts, train.batch={fits * replicas * accumulate} takes smaller ones"
    )
