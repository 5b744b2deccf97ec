"""Test-time augmentation, and the network as one function from images to candidates."""

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfyolo.model import multiple, resized
from tfyolo.structures import Candidates


def scaled_model(model, scale):
    """A Model at `scale` times its input size, sides rounded to multiples that its network takes."""
    if scale == 1:
        return model
    step = multiple(model)
    return resized(model, tuple(max(1, round(scale * side / step)) * step for side in model.input_size))


def tta_candidates(models, flip, images):
    """The Candidates of test-time augmentation, all in one.

    Args:
        models: Models of one network for several input sizes.
        flip: whether the horizontally flipped images are run, too.
        images: [B, H, W, 3] float32 0..1, of the largest size.

    Returns:
        Candidates [B, N of all, ...] in pixels of the images.
    """
    size, found = images.shape[1:3], []
    for model in models:
        own = model.input_size
        view = images if own == size else tf.image.resize(images, own, antialias=True)
        factor = np.array([*size] * 2, "float32") / np.array([*own] * 2, "float32")
        seen = model.decoder(model.network(view, training=False))
        found.append(seen._replace(boxes=seen.boxes * factor) if own != size else seen)
        if flip:
            seen = model.decoder(model.network(view[:, :, ::-1], training=False))
            y1, x1, y2, x2 = tf.unstack(seen.boxes * factor, axis=-1)
            found.append(seen._replace(boxes=tf.stack([y1, size[1] - x2, y2, size[1] - x1], axis=-1)))
    if len(found) == 1:
        return found[0]
    boxes, scores = (tf.concat([getattr(seen, name) for seen in found], axis=1) for name in ("boxes", "scores"))
    return Candidates(boxes, scores, {}, None, np.array(size, "float32"))


def with_constants(candidates, size):
    """A tf.function with its weights as constants.

    oneDNN converts a variable to its own layout at each call, a constant once.

    Args:
        candidates: tf.function, images [B, H, W, 3] float32 -> Candidates.
        size: (H, W) of the images, in pixels.

    Returns:
        A tf.function with the same argument and result.
    """
    signature = [tf.TensorSpec([None, *size, 3], tf.float32, "images")]
    boxes_and_scores = tf.function(lambda images: candidates(images)[:2], input_signature=signature, autograph=False)
    frozen = convert_variables_to_constants_v2(boxes_and_scores.get_concrete_function())

    @tf.function(input_signature=signature, autograph=False)
    def run(images):
        return Candidates(*frozen(images), {}, None, np.array(size, "float32"))

    return run
