"""YOLOX's decoupled head."""

import math

from tfyolo.backbones.yolox import dense_or_depthwise
from tfyolo.config.ranges import Factor, OpenProbability
from tfyolo.heads.layers import outputs
from tfyolo.nn.blocks import scaled, silu_conv


def decoupled_stem(
    features,
    parts,
    num_anchors,
    *,
    width: Factor = 1.0,
    depthwise: bool = False,
    activation: str = "silu",
    prior: OpenProbability = 0.01,
    name="head",
):
    """YOLOX's head: at each level a 1x1 convolution to the same channels, then two branches of two 3x3 convolutions.

    One branch gives the classes, the other boxes and objectness, each by a 1x1 convolution of its own.

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        width: factor on the channels of the branches, which are 256.
        depthwise: whether the 3x3 convolutions are depthwise, as in nano.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        prior: the objectness and the scores of an untrained head, 0..1, so that the many empty cells do not dominate
            the first steps (Lin et al. 2017, arXiv:1708.02002, section 4.1).
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}.

    Source: Ge et al. 2021, arXiv:2107.08430, figure 2.
    """
    biases = dict.fromkeys(("obj", "cls"), math.log(prior / (1 - prior)))
    branches = {"cls": ["cls"], "box": [part for part in parts if part != "cls"]}
    channels, options = scaled(256, width), {"depthwise": depthwise, "activation": activation}
    raw = {part: {} for part in parts}
    for level, x in features.items():
        x = silu_conv(x, channels, 1, activation=activation, name=f"{name}.{level}.stem")
        for branch, own in branches.items():
            y = x
            for i in (1, 2):
                y = dense_or_depthwise(y, channels, **options, name=f"{name}.{level}.{branch}.conv{i}")
            for part in own:
                found = outputs(y, {part: parts[part]}, num_anchors, biases, f"{name}.{level}.{part}")
                raw[part][level] = found[part]
    return raw
