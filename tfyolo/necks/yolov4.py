"""The necks of YOLOv4's line: path aggregation (PAN) that concatenates, and the top-down path of tiny-3l.

The coarse features are upsampled and joined to the finer ones, top down, as p5, p4p5, p3p4p5. Those are strided and
joined to the coarser ones again, bottom up, as n4 and n5. The head reads p3p4p5, n4 and n5 under the names p3, p4 and
p5 (Liu et al. 2018, arXiv:1803.01534, figure 1).
"""

from keras import layers

from tfyolo.config.ranges import Factor, Windows
from tfyolo.nn.blocks import conv, scaled, spp
from tfyolo.nn.resample import Upsample


def spp_pan(features, *, spp_pools: Windows = (5, 9, 13), name="neck"):
    """YOLOv4's neck: spatial pyramid pooling at the coarsest level, and PAN of five leaky convolutions.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        spp_pools: odd windows of the pooling, in cells.
        name: of the layers.

    Returns:
        {level: [B, h, w, C // 2]}, the finest first.

    Source: Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4.
    """
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: features[level].shape[-1] // 2 for level in levels}

    prefix = f"{name}.{coarsest}"
    x = _alternating(features[coarsest], channels[coarsest], 3, name=prefix)  # [B, h, w, C]
    x = spp(x, spp_pools, name=f"{prefix}.spp")  # [B, h, w, (1 + pools) * C]
    x = _alternating(x, channels[coarsest], 3, name=f"{prefix}.spp")  # [B, h, w, C]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], channels[level], activation="leaky", name=prefix)  # [B, 2h, 2w, 2C]
        x = top_down[level] = _alternating(x, channels[level], 5, name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = _merge_down(x, top_down[level], activation="leaky", name=prefix)  # [B, h / 2, w / 2, 2C]
        x = outputs[level] = _alternating(x, channels[level], 5, name=prefix)  # [B, h / 2, w / 2, C]
    return outputs


def csp_pan(features, *, spp_pools: Windows = (5, 9, 13), name="neck"):
    """YOLOv4-CSP's neck: `spp_pan` whose blocks are cross-stage partial, with mish.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        spp_pools: odd windows of the pooling, in cells.
        name: of the layers.

    Returns:
        {level: [B, h, w, C // 2]}, the finest first.

    Source: Wang et al. 2021, arXiv:2011.08036, section 4.1.
    """
    levels = sorted(features)  # the finest first
    finest, coarsest = levels[0], levels[-1]
    channels = {level: features[level].shape[-1] // 2 for level in levels}

    x = _csp_spp(features[coarsest], channels[coarsest], spp_pools, name=f"{name}.{coarsest}")  # [B, h, w, C]
    top_down = {coarsest: x}
    for level in reversed(levels[:-1]):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = _merge_up(x, features[level], channels[level], activation="mish", name=prefix)  # [B, 2h, 2w, 2C]
        x = top_down[level] = _csp_block(x, channels[level], name=prefix)  # [B, 2h, 2w, C]

    outputs = {finest: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = _merge_down(x, top_down[level], activation="mish", name=prefix)  # [B, h / 2, w / 2, 2C]
        x = outputs[level] = _csp_block(x, channels[level], name=prefix)  # [B, h / 2, w / 2, C]
    return outputs


def up_cat_tiny_3l(features, *, width: Factor = 1.0, name="neck"):
    """YOLOv4-tiny-3l's neck: a top-down path to p3, with a 3x3 convolution at each level.

    The path from p4 to p3 goes through p4's 3x3 convolution. So these convolutions stand here, and the head is
    `linear`.

    Args:
        features: {level: [B, h, w, C]} of the backbone: p5, and p4 and p3 where it has them.
        width: factor on the channels.
        name: of the layers.

    Returns:
        {"p5": [B, h, w, 512 * width], "p4": [B, 2h, 2w, 256 * width], "p3": [B, 4h, 4w, 128 * width]}.

    Raises:
        ValueError: the features lack p5, or have a level other than p3 to p5.

    Source: the .cfg file published with the model (Wang et al. 2021, arXiv:2011.08036, section 4.2).
    """
    if not {"p5"} <= features.keys() <= {"p3", "p4", "p5"}:
        raise ValueError(
            f"up_cat_tiny_3l: expected a backbone with levels p3 to p5, received {', '.join(sorted(features))}"
        )
    channels = {"p4": 256, "p3": 128}
    x = conv(features["p5"], scaled(256, width), 1, name=f"{name}.p5")  # [B, h, w, 256]
    outputs = {"p5": conv(x, scaled(512, width), 3, name=f"{name}.p5.expand")}  # [B, h, w, 512]
    for level in sorted(features, reverse=True)[1:]:  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = conv(x, scaled(channels[level] // 2, width), 1, name=f"{prefix}.lateral")
        x = Upsample(name=f"{prefix}.up")(x)  # [B, 2h, 2w, channels / 2]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, features[level]])  # [B, 2h, 2w, channels / 2 + C]
        x = outputs[level] = conv(x, scaled(channels[level], width), 3, name=f"{prefix}.expand")
    return outputs


def _merge_up(x, skip, channels, *, activation, name):
    """[B, h, w, any] upsampled and joined to [B, 2h, 2w, any], both by 1x1 convolutions: [B, 2h, 2w, 2 * channels]."""
    x = conv(x, channels, 1, activation=activation, name=f"{name}.up")
    x = Upsample(name=f"{name}.up")(x)  # [B, 2h, 2w, channels]
    lateral = conv(skip, channels, 1, activation=activation, name=f"{name}.lateral")
    return layers.Concatenate(name=f"{name}.merge")([lateral, x])


def _merge_down(x, skip, *, activation, name):
    """[B, 2h, 2w, any] strided beside the top-down path's [B, h, w, C]: [B, h, w, 2C]."""
    x = conv(x, skip.shape[-1], 3, 2, activation=activation, name=f"{name}.down")
    return layers.Concatenate(name=f"{name}.merge")([x, skip])


def _alternating(x, channels, count, *, name):
    """So many convolutions in a row: 1x1 to `channels` and 3x3 to twice as many in turn."""
    for i in range(1, count + 1):
        x = conv(x, channels, 1, name=f"{name}.conv{i}") if i % 2 else conv(x, 2 * channels, 3, name=f"{name}.conv{i}")
    return x


def _mish(x, channels, kernel, *, name):
    return conv(x, channels, kernel, activation="mish", name=name)


def _csp_spp(x, channels, pools, *, name):
    """Pooling (SPP) between convolutions; a 1x1 convolution of the input skips them and is joined at the end."""
    skip = _mish(x, channels, 1, name=f"{name}.skip")
    x = _mish(x, channels, 1, name=f"{name}.conv1")
    x = _mish(x, channels, 3, name=f"{name}.conv2")
    x = _mish(x, channels, 1, name=f"{name}.conv3")
    x = spp(x, pools, name=f"{name}.spp")  # [B, h, w, (1 + pools) * channels]
    x = _mish(x, channels, 1, name=f"{name}.spp.conv1")
    x = _mish(x, channels, 3, name=f"{name}.spp.conv2")
    x = layers.Concatenate(name=f"{name}.partial")([x, skip])  # [B, h, w, 2 * channels]
    return _mish(x, channels, 1, name=f"{name}.join")


def _csp_block(x, channels, *, name):
    """Four convolutions in a row; a 1x1 convolution of the input skips them and is joined at the end."""
    x = _mish(x, channels, 1, name=f"{name}.fuse")
    skip = _mish(x, channels, 1, name=f"{name}.skip")
    x = _mish(x, channels, 1, name=f"{name}.conv1")
    x = _mish(x, channels, 3, name=f"{name}.conv2")
    x = _mish(x, channels, 1, name=f"{name}.conv3")
    x = _mish(x, channels, 3, name=f"{name}.conv4")
    x = layers.Concatenate(name=f"{name}.partial")([x, skip])  # [B, h, w, 2 * channels]
    return _mish(x, channels, 1, name=f"{name}.join")
