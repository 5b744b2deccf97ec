"""Decoding of files that end in a network's heads."""

import numpy as np
import tensorflow as tf

from tfyolo.graph.ends import ends, tail
from tfyolo.model import decoder_of, outline_of
from tfyolo.structures import level_stride

# Where in our (top, left, bottom, right) the left, top, right and bottom stand that others expect, and the other way
# round.
SIDES = (1, 0, 3, 2)


def heads_read(config, num_classes):
    """What decodes the last convolutions of a network.

    Args:
        config: its Config.
        num_classes: K.

    Returns:
        (names of the outputs, {output: array} -> Candidates).
    """
    outline, decoder = outline_of(config, num_classes), decoder_of(config)
    names, behind = list(ends(outline)), tail(outline)

    def read(found):
        return decoder(behind([tf.constant(found[name]) for name in names]))

    return names, read


def logits_read(config):
    """What decodes integer heads.

    Args:
        config: the Config of the network.

    Returns:
        {output: array} -> Candidates.
    """
    decoder = decoder_of(config)
    grids = [[side // level_stride(level) for side in config.model.input_size] for level in decoder.levels]

    def levels(flat):
        parts = np.split(flat, np.cumsum([h * w for h, w in grids])[:-1], axis=1)
        return {
            level: tf.reshape(part, (len(flat), h, w, 1, flat.shape[-1]))
            for level, part, (h, w) in zip(decoder.levels, parts, grids, strict=True)
        }

    def read(found):
        box = np.split(found["box_logits"], 4, axis=-1)
        box = np.concatenate([box[place] for place in SIDES], axis=-1)
        return decoder({"box": levels(box), "cls": levels(found["class_logits"])})

    return read
