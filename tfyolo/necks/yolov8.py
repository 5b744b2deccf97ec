"""The necks of YOLOv8 and YOLO11: path aggregation (PAN) that concatenates, without 1x1 convolutions.

The coarse features are upsampled and joined to the finer ones, top down, as p5, p4p5, p3p4p5. Those are strided and
joined to the coarser ones again, bottom up, as n4 and n5. The head reads p3p4p5, n4 and n5 under the names p3, p4 and
p5 (Liu et al. 2018, arXiv:1803.01534, figure 1).
"""

import functools

from keras import layers

from tfyolo.backbones.yolov8 import c2f_block, c3k2_block
from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import bottleneck, repeated, silu_conv
from tfyolo.nn.resample import Upsample


def pan(features, *, depth: Factor = 1.0, activation: str = "silu", name="neck"):
    """YOLOv8's neck: PAN of C2f blocks without shortcuts.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        depth: factor on the three repeats of a block.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first.

    Source: Jocher et al. 2023, the configuration published with the models.
    """
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: features[level].shape[-1] for level in levels}
    repeats, plain = repeated(3, depth), functools.partial(bottleneck, shortcut=False)
    block = {"repeats": repeats, "block": plain, "activation": activation}

    x = features[coarsest]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], name=prefix)  # [B, 2h, 2w, C of both]
        x = top_down[level] = c2f_block(x, channels[level], **block, name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = _merge_down(x, top_down[level], activation, name=prefix)  # [B, h / 2, w / 2, C of both]
        x = outputs[level] = c2f_block(x, channels[level], **block, name=prefix)  # [B, h / 2, w / 2, C]
    return outputs


def c3k2_pan(features, *, depth: Factor = 1.0, deep: bool = False, activation: str = "silu", name="neck"):
    """YOLO11's neck: PAN of C3k2 blocks.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        depth: factor on the two repeats of a block.
        deep: True: the links of all blocks are c3k, as in m, l and x. False: only those of the coarsest.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first, which has C // 2.

    Source: Jocher and Qiu 2024, the configuration published with the models.
    """
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: features[level].shape[-1] // (2 if level == finest else 1) for level in levels}
    block = {"repeats": repeated(2, depth), "activation": activation}

    x = features[coarsest]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], name=prefix)  # [B, 2h, 2w, C of both]
        x = top_down[level] = c3k2_block(x, channels[level], deep=deep, **block, name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix, links = f"{name}.n{level[1:]}", deep or level == coarsest
        x = _merge_down(x, top_down[level], activation, name=prefix)  # [B, h / 2, w / 2, C of both]
        x = outputs[level] = c3k2_block(x, channels[level], deep=links, **block, name=prefix)  # [B, h / 2, w / 2, C]
    return outputs


def _merge_up(x, skip, *, name):
    """[B, h, w, C] upsampled beside the backbone's [B, 2h, 2w, D]: [B, 2h, 2w, C + D]."""
    x = Upsample(name=f"{name}.up")(x)
    return layers.Concatenate(name=f"{name}.merge")([x, skip])


def _merge_down(x, skip, activation, *, name):
    """[B, 2h, 2w, C] strided beside the top-down path's [B, h, w, D]: [B, h, w, C + D]."""
    x = silu_conv(x, x.shape[-1], 3, 2, activation=activation, name=f"{name}.down")
    return layers.Concatenate(name=f"{name}.merge")([x, skip])
