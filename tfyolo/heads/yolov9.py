"""YOLOv9's head, whose branch for boxes is grouped by side."""

import math

from keras import initializers, layers

from tfyolo.config.ranges import Positive
from tfyolo.heads.layers import PerAnchor, outputs
from tfyolo.nn.blocks import silu_conv
from tfyolo.structures import Raw, level_stride, reads_aux

SIDES = 4


@reads_aux
def grouped(features, parts, num_anchors, *, objects: Positive = 5.0, activation: str = "silu", name="head"):
    """YOLOv9's head: branches for boxes and classes, of two 3x3 convolutions and a 1x1 each.

    The last two convolutions of the boxes' branch have a group for each side of a box. The widths of both branches
    follow from the finest feature's, C: max(C / 4, the boxes' channels), raised to a multiple of 4, and
    max(C, min(2K, 128)). features.aux, which a neck gives for an auxiliary head, are read by another such head; it
    gives Raw.aux.

    Args:
        features: Features.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes: 1.
        objects: how many an untrained head predicts in an image of 640 x 640, so that the many empty cells do not
            dominate the first steps.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}; with an auxiliary head Raw, whose aux are that one's.

    Raises:
        ValueError: the decoder has anchors, or other parts than box and cls.

    Source: the configurations published with YOLOv9 (Wang et al. 2024, arXiv:2402.13616).
    """
    if num_anchors != 1 or set(parts) != {"box", "cls"} or parts["box"] % SIDES:
        raise ValueError("grouped: expected a decoder of sides without anchors and objectness (model.decoder: dfl)")
    options = {"objects": objects, "activation": activation}
    lead = _levels(features.levels, parts, **options, name=name)
    if features.aux is None:
        return lead
    return Raw(lead, _levels(features.aux.levels, parts, **options, name=f"{name}.aux"))


def _levels(features, parts, *, objects, activation, name):
    """Raw parts of one head. features: {level: [B, h, w, C]}."""
    finest = features[min(features)].shape[-1]
    width = SIDES * math.ceil(max(finest // 4, parts["box"]) / SIDES)
    classes = max(finest, min(2 * parts["cls"], 128))
    raw = {"box": {}, "cls": {}}
    for level, x in features.items():
        prefix = f"{name}.{level}.box"
        y = silu_conv(x, width, 3, activation=activation, name=f"{prefix}.conv1")  # [B, h, w, width]
        y = silu_conv(y, width, 3, groups=SIDES, activation=activation, name=f"{prefix}.conv2")
        raw["box"][level] = _sides(y, parts["box"], name=prefix)  # [B, h, w, 1, Z]

        prefix = f"{name}.{level}.cls"
        y = silu_conv(x, classes, 3, activation=activation, name=f"{prefix}.conv1")  # [B, h, w, classes]
        y = silu_conv(y, classes, 3, activation=activation, name=f"{prefix}.conv2")
        chance = objects / (640 / level_stride(level)) ** 2
        bias = {"cls": math.log(chance / parts["cls"])}
        raw["cls"] |= {level: outputs(y, {"cls": parts["cls"]}, 1, bias, prefix)["cls"]}  # [B, h, w, 1, K]
    return raw


def _sides(x, channels, *, name):
    """[B, h, w, any] -> [B, h, w, 1, channels]: a fourth of x for each side of the box."""
    # A distribution needs no initial bias: its softmax would cancel it.
    x = layers.Conv2D(
        channels,
        1,
        groups=SIDES,
        data_format="channels_last",
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        name=f"{name}.out",
    )(x)
    return PerAnchor(1, name=f"{name}.anchors")(x)
