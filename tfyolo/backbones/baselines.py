"""Baselines of ELAN: the blocks that it descends from or is compared with in its papers.

All have YOLOv7-tiny's frame: four stages with max pools between, p3 (128 channels), p4 (256), p5 (512). They differ in
the block alone, whose 3x3 convolutions have `hidden` channels at p2 and twice as many at each further level. With their
defaults, each takes the FLOPs of elan_tiny within 3 %. The activation follows a convolution and its batch norm, as
everywhere in this package.

Source: Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696, figure 2.
"""

import functools

from keras import layers

from tfyolo.backbones.yolov7 import pooled_stages
from tfyolo.config.ranges import Channels, Factor, Repeats
from tfyolo.nn.activations import activate
from tfyolo.nn.blocks import silu_conv


def _one_shot(x, channels, hidden, convs, activation, name):
    """A chain of 3x3 convolutions; all links and the input are joined once, at the end, by a 1x1 convolution."""
    chain = [x]
    for i in range(convs):
        chain.append(silu_conv(chain[-1], hidden, 3, activation=activation, name=f"{name}.conv{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def vovnet(
    images,
    *,
    width: Factor = 1.0,
    hidden: Channels = 22,
    convs: Repeats = 4,
    activation: str = "leaky",
    name="backbone",
):
    """VoVNet's one-shot aggregation (OSA) in YOLOv7-tiny's frame.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels, those of `hidden` excepted.
        hidden: channels of the 3x3 convolutions at p2; they double at each further level.
        convs: 3x3 convolutions of a block.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Source: Lee et al. 2019, arXiv:1904.09730, figure 1b.
    """
    block = functools.partial(_one_shot, convs=convs, activation=activation)
    return pooled_stages(images, block, width=width, hidden=hidden, activation=activation, name=name)


def csp_vovnet(
    images,
    *,
    width: Factor = 1.0,
    hidden: Channels = 22,
    convs: Repeats = 4,
    activation: str = "leaky",
    name="backbone",
):
    """Cross-stage partial VoVNet in YOLOv7-tiny's frame.

    Half the channels skip the one-shot aggregation and are joined to its output.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels, those of `hidden` excepted.
        hidden: channels of the 3x3 convolutions at p2; they double at each further level.
        convs: 3x3 convolutions of a block.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Source: Wang et al. 2020, arXiv:1911.11929, figure 3b; arXiv:2207.02696, figure 2b.
    """

    def block(x, channels, hidden, name):
        skip, x = (
            silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.{to}") for to in ("skip", "split")
        )
        x = _one_shot(x, channels // 2, hidden, convs, activation, f"{name}.osa")
        x = layers.Concatenate(name=f"{name}.partial")([x, skip])
        return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")

    return pooled_stages(images, block, width=width, hidden=hidden, activation=activation, name=name)


def densenet(
    images,
    *,
    width: Factor = 1.0,
    hidden: Channels = 10,
    convs: Repeats = 4,
    activation: str = "leaky",
    name="backbone",
):
    """DenseNet's dense block (DenseNet-BC) in YOLOv7-tiny's frame.

    Each 3x3 convolution reads the input and all outputs before it, by way of a 1x1 convolution to four times its
    channels. A 1x1 convolution follows the last.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels, those of `hidden` excepted.
        hidden: the growth rate at p2; it doubles at each further level.
        convs: 3x3 convolutions of a block.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Source: Huang et al. 2017, arXiv:1608.06993, section 3.
    """

    def block(x, channels, hidden, name):
        for i in range(convs):
            y = silu_conv(x, 4 * hidden, 1, activation=activation, name=f"{name}.conv{i + 1}.squeeze")
            y = silu_conv(y, hidden, 3, activation=activation, name=f"{name}.conv{i + 1}")
            x = layers.Concatenate(name=f"{name}.concat{i + 1}")([x, y])
        return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")

    return pooled_stages(images, block, width=width, hidden=hidden, activation=activation, name=name)


def resnext(
    images,
    *,
    width: Factor = 1.0,
    hidden: Channels = 96,
    groups: Channels = 32,
    convs: Repeats = 2,
    activation: str = "leaky",
    name="backbone",
):
    """ResNeXt's grouped convolutions in YOLOv7-tiny's frame: 1x1, 3x3 in groups, 1x1, added to the input.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels, those of `hidden` excepted.
        hidden: channels of the 3x3 convolutions at p2; they double at each further level.
        groups: of the 3x3 convolutions' channels, the cardinality.
        convs: such bottlenecks in a block.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Source: Xie et al. 2017, arXiv:1611.05431, figure 3c.
    """

    def block(x, channels, hidden, name):
        for i in range(convs):
            prefix = f"{name}.bottleneck{i + 1}"
            y = silu_conv(x, hidden, 1, activation=activation, name=f"{prefix}.squeeze")
            y = silu_conv(y, hidden, 3, groups=groups, activation=activation, name=f"{prefix}.grouped")
            y = silu_conv(y, channels, 1, activation="linear", name=f"{prefix}.widen")
            if x.shape[-1] != channels:
                x = silu_conv(x, channels, 1, activation="linear", name=f"{prefix}.skip")
            x = activate(layers.Add(name=f"{prefix}.add")([x, y]), activation, name=prefix)
        return x

    return pooled_stages(images, block, width=width, hidden=hidden, activation=activation, name=name)
