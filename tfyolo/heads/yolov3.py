"""YOLOv3's head, and the last convolution of it alone."""

from tfyolo.config.ranges import Channels, Level, OpenProbability
from tfyolo.heads.layers import outputs, prior_biases
from tfyolo.nn.blocks import conv


def coupled(
    features,
    parts,
    num_anchors,
    *,
    channels: dict[Level, Channels] | None = None,
    activation: str = "leaky",
    prior: OpenProbability = 0.01,
    name="head",
):
    """YOLOv3's head: a 3x3 convolution, then a 1x1 to num_anchors * (y, x, h, w, objectness, K) channels.

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        channels: {level: channels of the 3x3 convolution}; else twice the feature's.
        activation: one of nn.activations.ACTIVATIONS, of that convolution.
        prior: the objectness, or the scores where there is none, of an untrained head, 0..1, so that the many empty
            cells do not dominate the first steps (Lin et al. 2017, arXiv:1708.02002, section 4.1).
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}.
    """
    raw, biases = {part: {} for part in parts}, prior_biases(parts, prior)
    for level, x in features.items():
        width = (channels or {}).get(level, 2 * x.shape[-1])
        x = conv(x, width, 3, activation=activation, name=f"{name}.{level}")
        for part, values in outputs(x, parts, num_anchors, biases, f"{name}.{level}").items():
            raw[part][level] = values
    return raw


def linear(features, parts, num_anchors, *, prior: OpenProbability = 0.01, name="head"):
    """The last 1x1 convolution alone: for necks that end in the head's other convolutions.

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        prior: that of coupled.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}.
    """
    raw, biases = {part: {} for part in parts}, prior_biases(parts, prior)
    for level, x in features.items():
        for part, values in outputs(x, parts, num_anchors, biases, f"{name}.{level}").items():
            raw[part][level] = values
    return raw
