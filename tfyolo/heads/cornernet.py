"""CornerNet's head."""

import functools

from keras import layers

from tfyolo.config.ranges import Channels, OpenProbability
from tfyolo.heads.layers import outputs, prior_biases
from tfyolo.nn.activations import activate
from tfyolo.nn.blocks import conv
from tfyolo.nn.pooling import CornerPool
from tfyolo.structures import Raw, reads_aux

# The directions that each corner is pooled along: a top left one sees what lies below it and to its right.
CORNERS = {"top_left": ("down", "right"), "bottom_right": ("up", "left")}


@reads_aux
def corner(features, parts, num_anchors, *, channels: Channels = 128, prior: OpenProbability = 0.1, name="head"):
    """CornerNet's head: corner pooling, then branches for heatmaps, embeddings and offsets.

    A = 2 are the two corners, top left and bottom right. Each stack's features, nested as aux, have a head
    of their own.

    Args:
        features: Features.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the corners of a box, 2.
        channels: of the maps that are pooled.
        prior: the score of every cell of an untrained head, 0..1.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}; with an auxiliary head Raw, whose aux are that one's.

    Raises:
        ValueError: the decoder is not that of corners.

    Source: Law and Deng 2018, arXiv:1808.01244, figure 7.
    """
    if num_anchors != 2 or "embed" not in parts:
        raise ValueError("corner: expected the decoder of corners (model.decoder: corner)")
    raw = {part: {} for part in parts}
    biases = prior_biases(parts, prior)
    relu_conv = functools.partial(conv, activation="relu")
    for level, x in features.levels.items():
        both = {part: [] for part in parts}
        for which, directions in CORNERS.items():
            prefix = f"{name}.{level}.{which}"
            pooled = [
                CornerPool(direction, name=f"{prefix}.{direction}.pool")(
                    relu_conv(x, channels, 3, name=f"{prefix}.{direction}")
                )
                for direction in directions
            ]
            y = layers.Add(name=f"{prefix}.sum")(pooled)
            y = conv(y, x.shape[-1], 3, activation="linear", name=f"{prefix}.pooled")
            skip = conv(x, x.shape[-1], 1, activation="linear", name=f"{prefix}.skip")
            y = activate(layers.Add(name=f"{prefix}.add")([y, skip]), "relu", name=prefix)
            y = relu_conv(y, x.shape[-1], 3, name=f"{prefix}.join")
            for part, size in parts.items():
                branch = relu_conv(y, x.shape[-1], 3, norm=False, name=f"{prefix}.{part}")
                both[part].append(outputs(branch, {part: size}, 1, biases, f"{prefix}.{part}")[part])
        for part, corners in both.items():
            raw[part][level] = layers.Concatenate(axis=3, name=f"{name}.{level}.{part}")(corners)
    if features.aux is None:
        return raw
    options = {"channels": channels, "prior": prior, "name": f"{name}.aux"}
    return Raw(raw, corner(features.aux, parts, num_anchors, **options))
