"""YOLOv8's decoupled head, and YOLOv10's pair of them."""

import math

from keras import ops

from tfyolo.config.ranges import Positive
from tfyolo.heads.layers import outputs
from tfyolo.nn.blocks import silu_conv
from tfyolo.structures import Raw, level_stride


def decoupled(
    features,
    parts,
    num_anchors,
    *,
    objects: Positive = 5.0,
    depthwise: bool = False,
    activation: str = "silu",
    dual: bool = False,
    name="head",
):
    """YOLOv8's head: boxes and classes have branches of their own, of two 3x3 convolutions and a 1x1 each.

    The objectness, if the decoder has it, comes from the boxes' branch, as in YOLOX (Ge et al. 2021, arXiv:2107.08430,
    figure 2). The widths of both branches follow from the finest feature's, C: max(16, C / 4, the boxes' channels) and
    max(C, min(K, 100)).

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        objects: how many an untrained head predicts in an image of 640 x 640, so that the many empty cells do not
            dominate the first steps.
        depthwise: the classes' 3x3 convolutions are a depthwise one and a 1x1 each, as in YOLO11.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        dual: two heads, as in YOLOv10 (Wang et al. 2024, arXiv:2405.14458, section 3.1). The gradients of Raw.aux,
            with many candidates for each ground truth, train what lies before the head. The main head reads the same
            features through a stopped gradient, and can so learn to give each object once.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}; with an auxiliary head Raw, whose aux are that one's.
    """
    if dual:
        options = {"objects": objects, "depthwise": depthwise, "activation": activation}
        given = {level: ops.stop_gradient(x) for level, x in features.items()}
        raw = decoupled(given, parts, num_anchors, **options, name=name)
        return Raw(raw, decoupled(features, parts, num_anchors, **options, name=f"{name}.aux"))
    finest = features[min(features)].shape[-1]
    located = {part: size for part, size in parts.items() if part != "cls"}
    widths = {
        "box": max(16, finest // 4, sum(located.values())),
        "cls": max(finest, min(parts["cls"], 100)),
    }
    raw = {part: {} for part in parts}
    for level, x in features.items():
        chance = objects / (640 / level_stride(level)) ** 2
        # A distribution needs no initial bias: its softmax would cancel it.
        biases = {"obj": math.log(chance)} if "obj" in parts else {"cls": math.log(chance / parts["cls"])}
        for branch, own in (("box", located), ("cls", {"cls": parts["cls"]})):
            prefix, y = f"{name}.{level}.{branch}", x
            for i in (1, 2):
                kernel = 3
                if depthwise and branch == "cls":
                    channels, kernel = y.shape[-1], 1
                    y = silu_conv(y, channels, 3, groups=channels, activation=activation, name=f"{prefix}.depth{i}")
                y = silu_conv(y, widths[branch], kernel, activation=activation, name=f"{prefix}.conv{i}")
            for part, values in outputs(y, own, num_anchors, biases, prefix).items():
                raw[part][level] = values
    return raw
