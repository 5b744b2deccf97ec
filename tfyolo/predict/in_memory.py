"""What a Detector of a Model in memory runs."""

import functools

import tensorflow as tf

from tfyolo.model import postprocess
from tfyolo.predict.tta import tta_candidates, with_constants


def functions_of(models, *, flip=False, constant=False, **options):
    """The Config of Models of one network, and what their Detector runs.

    Args:
        models: for several input sizes; more than one is test-time augmentation (TTA).
        flip: TTA: run on the flipped image, too.
        constant: turn the weights into constants of the graph.
        options: over the config's post-processing.

    Returns:
        (config of the largest input size, images -> Candidates, Candidates -> Detections).

    Raises:
        ConfigError: an option is unknown or out of its range, or TTA meets a post-processing without NMS.
        ValueError: an option has a wrong value.
    """
    first = models[0]
    if (flip or len(models) > 1) and not first.postprocess.suppresses:
        raise first.config.error(
            "model.postprocess",
            "expected one with NMS for test-time augmentation; top would repeat an object for each flip and scale",
        )
    largest = max(models, key=lambda each: each.input_size)
    # Batches of a few sizes are traced once for all sizes.
    traced = functools.partial(tf.function, autograph=False, reduce_retracing=True)
    candidates = traced(functools.partial(tta_candidates, models, flip))
    if constant:
        candidates = with_constants(candidates, largest.input_size)
    return largest.config, candidates, traced(postprocess(first.config, **options))
