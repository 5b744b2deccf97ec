"""The necks of YOLOv9: SPPELAN at the coarsest level, and path aggregation (PAN) that concatenates.

The coarse features are upsampled and joined to the finer ones, top down, as p5, p4p5, p3p4p5. Those are strided and
joined to the coarser ones again, bottom up, as n4 and n5. The head reads p3p4p5, n4 and n5 under the names p3, p4 and
p5 (Liu et al. 2018, arXiv:1803.01534, figure 1).
"""

from keras import layers

from tfyolo.backbones.yolov9 import aconv, adown, rep_csp_elan, sppelan
from tfyolo.config.ranges import Repeats
from tfyolo.nn.blocks import scaled
from tfyolo.nn.resample import Upsample
from tfyolo.structures import Features


def gelan_pan(features, *, repeats: Repeats = 3, aux: bool = True, activation: str = "silu", name="neck"):
    """The neck of YOLOv9-T, S and M, with AConv between the levels.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        repeats: bottlenecks of each rep_csp.
        aux: whether to return features for an auxiliary head as well: a second top-down path from the backbone's, a
            reversible branch of which inference knows nothing (section 4.1).
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first. With aux, Features of these, whose aux have the same shapes.

    Source: Wang et al. 2024, arXiv:2402.13616, figure 3d, and the configurations published with the models.
    """
    levels = sorted(features)  # the finest first
    channels = {level: features[level].shape[-1] for level in levels}
    block = {"repeats": repeats, "activation": activation}

    top_down = _top_down(features, channels, **block, name=name)
    x = top_down[levels[0]]
    outputs = {levels[0]: x}
    for level in levels[1:]:  # n4, then n5
        prefix, C = f"{name}.n{level[1:]}", channels[level]
        x = aconv(x, scaled(C, 0.5), activation=activation, name=f"{prefix}.down")  # [B, h / 2, w / 2, C / 2]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, top_down[level]])  # [B, h / 2, w / 2, 1.5 C]
        x = outputs[level] = rep_csp_elan(x, C, **block, name=prefix)  # [B, h / 2, w / 2, C]
    if not aux:
        return outputs
    branch = _top_down(features, channels, **block, name=f"{name}.aux")
    return Features(outputs, Features({level: branch[level] for level in levels}))


def gelan_c_pan(features, *, repeats: Repeats = 1, activation: str = "silu", name="neck"):
    """YOLOv9-C's neck, with ADown between the levels.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        repeats: bottlenecks of each rep_csp.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first, which has C / 2.

    Source: the configuration published with YOLOv9-C (Wang et al. 2024, arXiv:2402.13616).
    """
    levels = sorted(features)  # the finest first
    channels = {level: features[level].shape[-1] for level in levels}
    channels[levels[0]] = scaled(channels[levels[0]], 0.5)
    block = {"repeats": repeats, "activation": activation}

    top_down = _top_down(features, channels, **block, name=name)
    x = top_down[levels[0]]
    outputs = {levels[0]: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = adown(x, activation=activation, name=f"{prefix}.down")  # [B, h / 2, w / 2, C of the finer]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, top_down[level]])  # [B, h / 2, w / 2, C of both]
        x = outputs[level] = rep_csp_elan(x, channels[level], **block, name=prefix)  # [B, h / 2, w / 2, C]
    return outputs


def _top_down(features, channels, *, name, **block):
    """{level: [B, h, w, channels[level]]}, the coarsest first: p5, p4p5, p3p4p5."""
    *finer, coarsest = sorted(features)
    x = sppelan(features[coarsest], channels[coarsest], activation=block["activation"], name=f"{name}.{coarsest}")
    found = {coarsest: x}
    for level in reversed(finer):
        prefix = f"{name}.{level}"
        x = Upsample(name=f"{prefix}.up")(x)  # [B, 2h, 2w, C of the coarser]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, features[level]])  # [B, 2h, 2w, C of both]
        x = found[level] = rep_csp_elan(x, channels[level], **block, name=prefix)  # [B, 2h, 2w, C]
    return found
