"""The neck of YOLOX: path aggregation (PAN) that concatenates.

The coarse features go through a 1x1 convolution, are upsampled and joined to the finer ones, top down, as p5, p4p5,
p3p4p5. Those are strided and joined to what that 1x1 convolution gave, bottom up, as n4 and n5. The head reads p3p4p5,
n4 and n5 under the names p3, p4 and p5 (Liu et al. 2018, arXiv:1803.01534, figure 1).
"""

import itertools

from keras import layers

from tfyolo.backbones.yolox import c3_block, dense_or_depthwise
from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import repeated, silu_conv
from tfyolo.nn.resample import Upsample


def c3_pan(features, *, depth: Factor = 1.0, depthwise: bool = False, activation: str = "silu", name="neck"):
    """YOLOX's neck: PAN of cross-stage partial blocks without shortcuts.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        depth: factor on the three bottlenecks of a block.
        depthwise: whether the 3x3 convolutions are depthwise, as in nano.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}, the finest first.

    Source: Ge et al. 2021, arXiv:2107.08430, section 2; the code published with it.
    """
    levels = sorted(features)  # the finest first
    channels = {level: features[level].shape[-1] for level in levels}
    options = {"depthwise": depthwise, "activation": activation}
    block = {"repeats": repeated(3, depth), "shortcut": False, **options}

    x, laterals = features[levels[-1]], {}
    for coarse, level in itertools.pairwise(reversed(levels)):  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = silu_conv(x, channels[level], 1, activation=activation, name=f"{prefix}.up")  # [B, h, w, C]
        laterals[coarse] = x
        x = Upsample(name=f"{prefix}.up")(x)  # [B, 2h, 2w, C]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, features[level]])  # [B, 2h, 2w, 2C]
        x = c3_block(x, channels[level], **block, name=prefix)  # [B, 2h, 2w, C]

    outputs = {levels[0]: x}
    for level in levels[1:]:  # n4, then n5
        prefix = f"{name}.n{level[1:]}"
        x = dense_or_depthwise(x, x.shape[-1], 3, 2, **options, name=f"{prefix}.down")
        x = layers.Concatenate(name=f"{prefix}.merge")([x, laterals[level]])  # [B, h / 2, w / 2, C]
        x = outputs[level] = c3_block(x, channels[level], **block, name=prefix)  # [B, h / 2, w / 2, C]
    return outputs
