"""YOLOv9's blocks and backbones: generalised ELAN (GELAN), whose links may be blocks of any kind.

The numbers are those of the models that are published under the MIT licence. Of the paper's GELAN-S, M, C and E these
are t, s, m and c.

Source of all: Wang et al. 2024, arXiv:2402.13616, section 4.2 and figure 4c.
"""

from keras import layers, ops

from tfyolo.config.ranges import Channels, ChannelsEach, Factor, Repeats
from tfyolo.nn.blocks import repconv, scaled, silu_conv
from tfyolo.nn.pooling import max_pool

LEVELS = ("p2", "p3", "p4", "p5")


def split_elan(x, channels, *, activation="silu", name):
    """YOLOv9's ELAN: a 1x1 convolution, of which two 3x3 convolutions follow one half; all four parts are joined.

    Args:
        x: [B, h, w, any].
        channels: of the output, and of what is split in halves.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    options = {"activation": activation}
    x = silu_conv(x, channels, 1, **options, name=f"{name}.split")
    skip, half = ops.split(x, 2, axis=-1)  # [B, h, w, channels / 2] each
    first = silu_conv(half, channels // 2, 3, **options, name=f"{name}.conv1")
    second = silu_conv(first, channels // 2, 3, **options, name=f"{name}.conv2")
    x = layers.Concatenate(name=f"{name}.concat")([skip, half, first, second])  # [B, h, w, 2 * channels]
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def rep_csp(x, channels, repeats, *, activation="silu", name):
    """A cross-stage partial block of re-parameterised bottlenecks (RepNCSP): half the channels skip them.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        repeats: bottlenecks: a RepConv and a 3x3 convolution, added to what they read.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    options, half = {"activation": activation}, channels // 2
    skip = silu_conv(x, half, 1, **options, name=f"{name}.skip")
    x = silu_conv(x, half, 1, **options, name=f"{name}.split")
    for i in range(1, repeats + 1):
        prefix = f"{name}.bottleneck{i}"
        y = repconv(x, half, identity=False, **options, name=prefix)
        y = silu_conv(y, half, 3, **options, name=f"{prefix}.conv")
        x = layers.Add(name=f"{prefix}.shortcut")([x, y])
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def rep_csp_elan(x, channels, *, hidden=None, repeats=1, activation="silu", name):
    """YOLOv9's block (RepNCSPELAN): split_elan with a rep_csp before each 3x3 convolution.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        hidden: of what is split in halves; None: channels.
        repeats: bottlenecks of each rep_csp.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    options, hidden = {"activation": activation}, hidden or channels
    x = silu_conv(x, hidden, 1, **options, name=f"{name}.split")
    chain = list(ops.split(x, 2, axis=-1))  # [B, h, w, hidden / 2] each
    for i in (1, 2):
        link = rep_csp(chain[-1], hidden // 2, repeats, **options, name=f"{name}.link{i}.csp")
        chain.append(silu_conv(link, hidden // 2, 3, **options, name=f"{name}.link{i}.conv"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)  # [B, h, w, 2 * hidden]
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def aconv(x, channels, *, activation="silu", name):
    """YOLOv9's light downsampling (AConv): an average pool over 2x2 cells, then a strided 3x3 convolution.

    Args:
        x: [B, 2h, 2w, any].
        channels: of the output.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    x = _average(x, name=name)  # [B, 2h - 1, 2w - 1, any]
    return silu_conv(x, channels, 3, 2, activation=activation, name=f"{name}.conv")


def adown(x, *, activation="silu", name):
    """YOLOv9's downsampling (ADown): after an average pool one half is convolved with strides, the other max-pooled.

    Args:
        x: [B, 2h, 2w, C].
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, C].
    """
    options, half = {"activation": activation}, x.shape[-1] // 2
    x = _average(x, name=name)  # [B, 2h - 1, 2w - 1, C]
    strided, pooled = ops.split(x, 2, axis=-1)
    strided = silu_conv(strided, half, 3, 2, **options, name=f"{name}.strided")  # [B, h, w, C / 2]
    pooled = max_pool(pooled, 3, 2, name=f"{name}.pool")  # [B, h, w, C / 2]
    pooled = silu_conv(pooled, half, 1, **options, name=f"{name}.pooled")
    return layers.Concatenate(name=f"{name}.concat")([strided, pooled])


def _average(x, *, name):
    """The means of 2x2 cells, at every cell that has a right and a lower neighbour."""
    return layers.AveragePooling2D(2, 1, "valid", data_format="channels_last", name=f"{name}.average")(x)


def sppelan(x, channels, *, activation="silu", name):
    """YOLOv9's spatial pyramid pooling (SPPELAN): three 5x5 poolings in a row, as nn.blocks.sppf has.

    Args:
        x: [B, h, w, any].
        channels: of the output; half as many are pooled.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    chain = [silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.before")]
    for i in (1, 2, 3):
        chain.append(max_pool(chain[-1], 5, 1, name=f"{name}.pool{i}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)  # [B, h, w, 2 * channels]
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.after")


def gelan(
    images,
    *,
    stem: Channels = 32,
    channels: ChannelsEach = (64, 128, 192, 256),
    width: Factor = 1.0,
    repeats: Repeats = 3,
    light: bool = True,
    activation: str = "silu",
    name="backbone",
):
    """The backbone of YOLOv9-T, S and M, with AConv between the levels. The numbers are those of S.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        stem: channels at stride 2; twice as many come into p2.
        channels: of p2 to p5.
        width: factor on all channels.
        repeats: bottlenecks of each rep_csp.
        light: p2's block is a split_elan, as in T and S, instead of a rep_csp_elan.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 192], "p5": [B, H / 32, W / 32, 256]}, channels times
        width.

    Raises:
        ValueError: channels are not four numbers.

    Source: the configurations published with the models.
    """
    options = {"activation": activation}
    p2, p3, p4, p5 = _four(channels, width)
    x = silu_conv(images, scaled(stem, width), 3, 2, **options, name=f"{name}.p1")  # [B, H / 2, W / 2, stem]
    x = silu_conv(x, scaled(2 * stem, width), 3, 2, **options, name=f"{name}.p2.down")  # [B, H / 4, W / 4, 2 * stem]
    if light:
        x = split_elan(x, p2, **options, name=f"{name}.p2")  # [B, H / 4, W / 4, p2]
    else:
        x = rep_csp_elan(x, p2, repeats=repeats, **options, name=f"{name}.p2")
    features = {}
    for level, count in (("p3", p3), ("p4", p4), ("p5", p5)):
        x = aconv(x, count, **options, name=f"{name}.{level}.down")
        x = features[level] = rep_csp_elan(x, count, repeats=repeats, **options, name=f"{name}.{level}")
    return features


def gelan_c(
    images,
    *,
    stem: Channels = 64,
    channels: ChannelsEach = (256, 512, 512, 512),
    width: Factor = 1.0,
    repeats: Repeats = 1,
    activation: str = "silu",
    name="backbone",
):
    """YOLOv9-C's backbone, with ADown between the levels.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        stem: channels at stride 2; twice as many come into p2.
        channels: of p2 to p5.
        width: factor on all channels.
        repeats: bottlenecks of each rep_csp.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 512], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Raises:
        ValueError: channels are not four numbers.

    Source: the configuration published with the model.
    """
    options = {"activation": activation}
    x = silu_conv(images, scaled(stem, width), 3, 2, **options, name=f"{name}.p1")  # [B, H / 2, W / 2, stem]
    x = silu_conv(x, scaled(2 * stem, width), 3, 2, **options, name=f"{name}.p2.down")  # [B, H / 4, W / 4, 2 * stem]
    features = {}
    for level, count in zip(LEVELS, _four(channels, width), strict=True):
        if level != "p2":
            x = adown(x, **options, name=f"{name}.{level}.down")
        block = {"hidden": x.shape[-1], "repeats": repeats}
        x = features[level] = rep_csp_elan(x, count, **block, **options, name=f"{name}.{level}")
    return {level: features[level] for level in LEVELS[1:]}


def _four(channels, width):
    """The channels of p2 to p5, scaled; ValueError if there are more or fewer."""
    if len(channels) != len(LEVELS):
        raise ValueError(f"channels: expected four numbers, of p2 to p5, received {len(channels)}")
    return [scaled(count, width) for count in channels]
