"""The necks of YOLOv7: path aggregation (PAN) that concatenates, of ELAN blocks.

The coarse features are upsampled and joined to the finer ones, top down, as p5, p4p5, p3p4p5. Those are strided and
joined to the coarser ones again, bottom up, as n4 and n5. The head reads p3p4p5, n4 and n5 under the names p3, p4 and
p5; an auxiliary head reads the top-down path (Liu et al. 2018, arXiv:1803.01534, figure 1).
"""

from keras import layers

from tfyolo.backbones.yolov7 import e_elan, elan_block, pooled_down, sppcspc
from tfyolo.config.ranges import Channels, Factor, OpenProbability, Repeats
from tfyolo.nn.blocks import scaled, silu_conv
from tfyolo.nn.resample import Upsample
from tfyolo.structures import Features


def elan_pan(
    features,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    hidden: Channels = 128,
    full: bool = False,
    aux: bool = False,
    activation: str = "silu",
    epsilon: OpenProbability = 1e-3,
    name="neck",
):
    """The neck of YOLOv7 and YOLOv7-X: SPPCSPC at the coarsest level, and PAN of ELAN blocks.

    Args:
        features: {level: [B, h, w, any]} of the backbone, p3 to p5 as published.
        depth: factor on the four 3x3 convolutions of a block.
        width: factor on the channels, those of `hidden` excepted.
        hidden: channels of a block's 1x1 convolutions at the finest level; they double at each coarser one.
        full: True: the 3x3 convolutions have as many channels, and every second is joined, as in YOLOv7-X. False: they
            have half as many, and all are joined.
        aux: whether to return the top-down path as well, for an auxiliary head.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first; C is width times 128 at the finest level, 256, 512, ... at the next.
        With aux, Features of these, whose aux are the top-down path, the coarsest first.

    Source: Wang et al. 2022, arXiv:2207.02696; the block is figure 2c.
    """
    options = {"activation": activation, "epsilon": epsilon}
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: scaled(128 << i, width) for i, level in enumerate(levels)}
    chain = {"convs": round(4 * depth), "every": 2 if full else 1}
    blocks = {
        level: {"hidden": hidden << i, "inner": (hidden << i) // (1 if full else 2), **chain, **options}
        for i, level in enumerate(levels)
    }

    x = sppcspc(features[coarsest], channels[coarsest], **options, name=f"{name}.{coarsest}")  # [B, h, w, C]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], channels[level], **options, name=prefix)  # [B, 2h, 2w, 2C]
        x = top_down[level] = elan_block(x, channels[level], **blocks[level], name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = pooled_down(x, 2 * x.shape[-1], **options, name=f"{prefix}.down")  # [B, h / 2, w / 2, C]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, top_down[level]])  # [B, h / 2, w / 2, 2C]
        x = outputs[level] = elan_block(x, channels[level], **blocks[level], name=prefix)  # [B, h / 2, w / 2, C]
    return Features(outputs, Features(top_down)) if aux else outputs


def elan_pan_p6(
    features,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    hidden: Channels = 128,
    cardinality: Repeats = 1,
    pooled: bool = False,
    aux: bool = True,
    activation: str = "silu",
    name="neck",
):
    """The neck of YOLOv7-W6, E6, D6 and E6E: SPPCSPC at the coarsest level, and PAN of (extended) ELAN blocks.

    Args:
        features: {level: [B, h, w, any]} of the backbone, p3 to p6 as published.
        depth: factor on the four 3x3 convolutions of a block.
        width: factor on the channels, those of `hidden` excepted.
        hidden: channels of a block's 1x1 convolutions at the finest level; twice, three times, ... as many at the next.
            The 3x3 convolutions have half as many.
        cardinality: ELANs side by side in a block; 2 in E6E.
        pooled: whether a max pool stands beside the strided convolution, as in all but W6.
        aux: whether to return the top-down path as well, for an auxiliary head.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first; C is width times 128 at the finest level, 256, 384, 512, ... at the
        next. With aux, Features of these, whose aux are the top-down path, the coarsest first.

    Source: Wang et al. 2022, arXiv:2207.02696; the blocks are figures 2c and 2d.
    """
    options = {"activation": activation}
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: scaled(128 * i, width) for i, level in enumerate(levels, start=1)}
    chain = {"cardinality": cardinality, "convs": round(4 * depth), "every": 1}
    blocks = {
        level: {"hidden": hidden * i, "inner": hidden * i // 2, **chain, **options}
        for i, level in enumerate(levels, start=1)
    }

    x = sppcspc(features[coarsest], channels[coarsest], **options, name=f"{name}.{coarsest}")  # [B, h, w, C]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p5p6, then p4p5p6, then p3p4p5p6
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], channels[level], **options, name=prefix)  # [B, 2h, 2w, 2C]
        x = top_down[level] = e_elan(x, channels[level], **blocks[level], name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, n5, n6
        prefix = f"{name}.n{level[1:]}"
        if pooled:
            down = {"reduced": x.shape[-1], **options, "name": f"{prefix}.down"}
            x = pooled_down(x, channels[level], **down)  # [B, h / 2, w / 2, C]
        else:
            x = silu_conv(x, channels[level], 3, 2, **options, name=f"{prefix}.down")  # [B, h / 2, w / 2, C]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, top_down[level]])  # [B, h / 2, w / 2, 2C]
        x = outputs[level] = e_elan(x, channels[level], **blocks[level], name=prefix)  # [B, h / 2, w / 2, C]
    return Features(outputs, Features(top_down)) if aux else outputs


def elan_pan_tiny(
    features,
    *,
    width: Factor = 1.0,
    aux: bool = False,
    activation: str = "leaky",
    epsilon: OpenProbability = 1e-3,
    name="neck",
):
    """YOLOv7-tiny's neck: a light SPPCSPC at the coarsest level, and PAN of ELAN blocks with two 3x3 convolutions.

    Args:
        features: {level: [B, h, w, any]} of the backbone, p3 to p5 as published.
        width: factor on all channels.
        aux: whether to return the top-down path as well, for an auxiliary head.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first; C is width times 64 at the finest level, 128, 256, ... at the next.
        With aux, Features of these, whose aux are the top-down path, the coarsest first.

    Source: Wang et al. 2022, arXiv:2207.02696, and the configuration published with the model.
    """
    options = {"activation": activation, "epsilon": epsilon}
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: scaled(64 << i, width) for i, level in enumerate(levels)}
    blocks = {level: {"hidden": channels[level] // 2, "convs": 2, "every": 1, **options} for level in levels}

    prefix = f"{name}.{coarsest}"
    x = sppcspc(features[coarsest], channels[coarsest], light=True, **options, name=prefix)  # [B, h, w, C]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], channels[level], **options, name=prefix)  # [B, 2h, 2w, 2C]
        x = top_down[level] = elan_block(x, channels[level], **blocks[level], name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = silu_conv(x, channels[level], 3, 2, **options, name=f"{prefix}.down")  # [B, h / 2, w / 2, C]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, top_down[level]])  # [B, h / 2, w / 2, 2C]
        x = outputs[level] = elan_block(x, channels[level], **blocks[level], name=prefix)  # [B, h / 2, w / 2, C]
    return Features(outputs, Features(top_down)) if aux else outputs


def _merge_up(x, skip, channels, *, name, **options):
    """[B, h, w, any] upsampled and joined to [B, 2h, 2w, any], both by 1x1 convolutions: [B, 2h, 2w, 2 * channels]."""
    x = silu_conv(x, channels, 1, **options, name=f"{name}.up")
    x = Upsample(name=f"{name}.up")(x)  # [B, 2h, 2w, channels]
    lateral = silu_conv(skip, channels, 1, **options, name=f"{name}.lateral")
    return layers.Concatenate(name=f"{name}.merge")([lateral, x])
