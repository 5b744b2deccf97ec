"""The blocks and the backbone of YOLOX: CSPDarknet with a focus stem, and its variant of depthwise convolutions."""

from keras import layers

from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import repeated, scaled, silu_conv
from tfyolo.nn.pooling import max_pool


def dense_or_depthwise(x, channels, kernel=3, stride=1, *, depthwise=False, activation="silu", name):
    """A convolution; or a depthwise one and a 1x1, each with batch norm and activation.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        kernel: size of the kernel, in cells.
        stride: in cells.
        depthwise: whether it is a depthwise one and a 1x1.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h / stride, w / stride, channels].

    Source: Howard et al. 2017, arXiv:1704.04861, section 3.1.
    """
    if not depthwise:
        return silu_conv(x, channels, kernel, stride, activation=activation, name=name)
    read = x.shape[-1]
    x = silu_conv(x, read, kernel, stride, groups=read, activation=activation, name=f"{name}.depth")
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.point")


def c3_block(x, channels, repeats, *, shortcut=True, depthwise=False, activation="silu", name):
    """YOLOX's cross-stage partial block: half the channels go through bottlenecks, half skip them.

    Its own convolutions are three of 1x1. A bottleneck is a 1x1 and a 3x3 convolution, added to its input.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        repeats: bottlenecks.
        shortcut: False: their inputs are not added.
        depthwise: whether their 3x3 convolutions are depthwise.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: Wang et al. 2020, arXiv:1911.11929, figure 2; Ge et al. 2021, arXiv:2107.08430, section 2.
    """
    half = channels // 2
    options = {"activation": activation}
    skip = silu_conv(x, half, 1, **options, name=f"{name}.skip")
    x = silu_conv(x, half, 1, **options, name=f"{name}.split")
    for i in range(repeats):
        prefix = f"{name}.bottleneck{i + 1}"
        y = silu_conv(x, half, 1, **options, name=f"{prefix}.conv1")
        y = dense_or_depthwise(y, half, depthwise=depthwise, **options, name=f"{prefix}.conv2")
        x = layers.Add(name=f"{prefix}.add")([x, y]) if shortcut else y
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def spp_bottleneck(x, channels, sizes=(5, 9, 13), *, activation="silu", name):
    """Spatial pyramid pooling between two 1x1 convolutions, of which the first halves the channels.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        sizes: odd windows, in cells, in the order in which their maxima are joined.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: He et al. 2014, arXiv:1406.4729.
    """
    x = silu_conv(x, x.shape[-1] // 2, 1, activation=activation, name=f"{name}.split")
    pools = [max_pool(x, size, 1, name=f"{name}.pool{size}") for size in sizes]
    x = layers.Concatenate(name=f"{name}.concat")([x, *pools])
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def c3(
    images,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    depthwise: bool = False,
    activation: str = "silu",
    name="backbone",
):
    """YOLOX's backbone.

    Its stem is published as space to depth, the four pixels of each 2x2 side by side, and a 3x3 convolution ("focus").
    Here that is what it comes to: one 6x6 convolution that strides by two.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        depth: factor on the blocks' bottlenecks, which are 3, 9, 9, 3.
        width: factor on the channels.
        depthwise: whether the 3x3 convolutions after the stem are depthwise, as in nano.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 256], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Ge et al. 2021, arXiv:2107.08430, section 2; the code published with it.
    """
    options = {"depthwise": depthwise, "activation": activation}
    x = silu_conv(images, scaled(64, width), 6, 2, pad=2, activation=activation, name=f"{name}.stem")
    features, few = {}, repeated(3, depth)
    for level, count, repeats in (("p2", 128, few), ("p3", 256, 3 * few), ("p4", 512, 3 * few), ("p5", 1024, few)):
        prefix, channels, coarsest = f"{name}.{level}", scaled(count, width), level == "p5"
        x = dense_or_depthwise(x, channels, 3, 2, **options, name=f"{prefix}.down")
        if coarsest:
            x = spp_bottleneck(x, channels, activation=activation, name=f"{prefix}.spp")
        x = c3_block(x, channels, repeats, shortcut=not coarsest, **options, name=prefix)
        features[level] = x
    return {level: features[level] for level in ("p3", "p4", "p5")}
