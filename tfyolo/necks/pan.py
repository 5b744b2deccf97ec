"""Path aggregation (PAN, Liu et al. 2018, arXiv:1803.01534, figure 1), concatenating instead of adding: of YOLOv4, YOLOv7, YOLOv8, YOLO11.

The coarse features are enlarged and laid beside the finer ones, top down, as p5, p4, p3; those are reduced and laid beside the
coarser ones again, bottom up, as n4, n5. The head gets p3, n4 and n5 under the names of their levels.
"""

import functools

from keras import layers

from tfyolo.backbones.yolov7 import e_elan, elan_block, pooled_down, sppcspc
from tfyolo.backbones.yolov8 import c2f_block, c3k2_block
from tfyolo.config.ranges import Channels, Factor, OpenProbability, Repeats, Windows
from tfyolo.nn.blocks import bottleneck, conv, repeated, scaled, silu_conv, spp
from tfyolo.nn.resample import Upsample


def _path_aggregation(features, widths, pyramid, fuse, one, down, name, aux=False):
    """PAN with a 1x1 convolution before the features are enlarged, and one of each of the backbone's.

    widths: {level: channels}. pyramid, fuse: (x, channels, name) -> x of so many channels, at the coarsest level and wherever two
    features have met; one, down: the same, a 1x1 convolution and what halves the grid. aux: gives what there is half way down and up
    again as well, for an auxiliary head.
    """

    def join(*parts, name):
        return layers.Concatenate(name=f"{name}.merge")(list(parts))

    coarsest, *finer = sorted(features, reverse=True)
    aggregated = {coarsest: pyramid(features[coarsest], widths[coarsest], name=f"{name}.{coarsest}")}
    x = aggregated[coarsest]
    for level in finer:
        channels, prefix = widths[level], f"{name}.{level}"
        x = one(x, channels, name=f"{prefix}.up")
        x = Upsample(name=f"{prefix}.up")(x)
        lateral = one(features[level], channels, name=f"{prefix}.lateral")
        x = aggregated[level] = fuse(join(lateral, x, name=prefix), channels, name=prefix)

    outputs = {level: x}
    for level in sorted(aggregated)[1:]:
        channels, prefix = widths[level], f"{name}.n{level[1:]}"
        x = down(x, channels, name=f"{prefix}.down")
        x = outputs[level] = fuse(join(x, aggregated[level], name=prefix), channels, name=prefix)
    return outputs | {"aux": aggregated} if aux else outputs


def _darknet_aggregation(features, pyramid, fuse, activation, name):
    """Of half the backbone's channels."""
    widths = {level: x.shape[-1] // 2 for level, x in features.items()}
    one = functools.partial(conv, kernel=1, activation=activation)
    down = functools.partial(conv, kernel=3, stride=2, activation=activation)
    return _path_aggregation(features, widths, pyramid, fuse, one, down, name)


def spp_pan(features, *, spp_pools: Windows = (5, 9, 13), name="neck"):
    """YOLOv4's neck (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4): spatial pyramid pooling and PAN, leaky.

    spp_pools: window sizes of the pooling. Each level has half its backbone's channels.
    """

    def alternating(x, channels, count, name):
        for i in range(count):
            x = conv(x, channels * (1 + i % 2), 1 + 2 * (i % 2), name=f"{name}.conv{i + 1}")
        return x

    def pyramid(x, channels, name):
        x = alternating(x, channels, 3, name)
        x = spp(x, spp_pools, name=f"{name}.spp")
        return alternating(x, channels, 3, f"{name}.spp")

    def five(x, channels, name):
        return alternating(x, channels, 5, name)

    return _darknet_aggregation(features, pyramid, five, "leaky", name)


def csp_pan(features, *, spp_pools: Windows = (5, 9, 13), name="neck"):
    """YOLOv4-CSP's neck (Wang et al. 2021, arXiv:2011.08036, section 4.1): `spp_pan` with every block cross-stage partial, and mish.

    In each block a 1x1 convolution of its input skips the others and is joined to them at the end.
    """

    def mish(x, channels, kernel, name):
        return conv(x, channels, kernel, activation="mish", name=name)

    def partial(x, inner, channels, name):
        skip = mish(x, channels, 1, f"{name}.skip")
        x = layers.Concatenate(name=f"{name}.partial")([inner(x, channels, name), skip])
        return mish(x, channels, 1, f"{name}.join")

    def pooled(x, channels, name):
        for i, kernel in enumerate((1, 3, 1), start=1):
            x = mish(x, channels, kernel, f"{name}.conv{i}")
        x = spp(x, spp_pools, name=f"{name}.spp")
        for i, kernel in enumerate((1, 3), start=1):
            x = mish(x, channels, kernel, f"{name}.spp.conv{i}")
        return x

    def four(x, channels, name):
        for i, kernel in enumerate((1, 3, 1, 3), start=1):
            x = mish(x, channels, kernel, f"{name}.conv{i}")
        return x

    def pyramid(x, channels, name):
        return partial(x, pooled, channels, name)

    def fuse(x, channels, name):
        return partial(mish(x, channels, 1, f"{name}.fuse"), four, channels, name)

    return _darknet_aggregation(features, pyramid, fuse, "mish", name)


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
    """YOLOv7's neck (Wang et al. 2022, arXiv:2207.02696): pooling by SPPCSPC and PAN of ELAN blocks.

    p3 has 128 channels, p4 256, p5 512. depth, width: as of the backbone elan. hidden: the channels of a block's 1x1 convolutions
    at p3, of the next levels twice as many each. full: the 3x3 convolutions have as many, and every second is joined, as in the
    backbone and in YOLOv7-X; else half as many, and all are joined. aux: as of elan_pan_p6.
    activation, epsilon: as of the backbone elan.
    """
    options = {"activation": activation, "epsilon": epsilon}
    order = sorted(features)
    widths = {level: scaled(128 << i, width) for i, level in enumerate(order)}

    def fuse(x, channels, name):
        inner = hidden << list(widths.values()).index(channels)
        block = {"hidden": inner, "inner": inner // (1 if full else 2), "convs": round(4 * depth), "every": 1 + full}
        return elan_block(x, channels, **block, **options, name=name)

    pyramid, down = (functools.partial(part, **options) for part in (sppcspc, _doubling))
    one = functools.partial(silu_conv, kernel=1, **options)
    return _path_aggregation(features, widths, pyramid, fuse, one, down, name, aux)


def _doubling(x, channels, **options):
    return pooled_down(x, 2 * x.shape[-1], **options)


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
    """The neck of YOLOv7-W6, and of E6, D6 and E6E: as elan_pan. p3 has 128 channels, p4 256, p5 384, p6 512.

    hidden: the channels of a block's 1x1 convolutions at p3; further on so many more at each level. aux: gives the features that the
    auxiliary head reads, those before PAN turns upwards again. The other options are those of the backbone elan_p6.
    """
    options = {"activation": activation}
    order = sorted(features)
    widths = {level: scaled(128 * (i + 1), width) for i, level in enumerate(order)}

    def fuse(x, channels, name):
        inner = hidden * (1 + list(widths.values()).index(channels))
        block = {"hidden": inner, "inner": inner // 2, "convs": round(4 * depth), "every": 1}
        return e_elan(x, channels, cardinality=cardinality, **block, **options, name=name)

    def down(x, channels, name):
        if pooled:
            return pooled_down(x, channels, reduced=x.shape[-1], **options, name=name)
        return silu_conv(x, channels, 3, 2, **options, name=name)

    pyramid = functools.partial(sppcspc, **options)
    one = functools.partial(silu_conv, kernel=1, **options)
    return _path_aggregation(features, widths, pyramid, fuse, one, down, name, aux)


def elan_pan_tiny(
    features,
    *,
    width: Factor = 1.0,
    aux: bool = False,
    activation: str = "leaky",
    epsilon: OpenProbability = 1e-3,
    name="neck",
):
    """YOLOv7-tiny's neck: as elan_pan, of ELANs with two 3x3 convolutions. p3 has 64 channels, p4 128, p5 256.

    width: factor on all channels. aux: as of elan_pan_p6. activation, epsilon: as of the backbone elan.
    """
    options = {"activation": activation, "epsilon": epsilon}
    widths = {level: scaled(64 << i, width) for i, level in enumerate(sorted(features))}

    def fuse(x, channels, name):
        return elan_block(x, channels, hidden=channels // 2, convs=2, every=1, **options, name=name)

    pyramid = functools.partial(sppcspc, light=True, **options)
    one = functools.partial(silu_conv, kernel=1, **options)
    down = functools.partial(silu_conv, kernel=3, stride=2, **options)
    return _path_aggregation(features, widths, pyramid, fuse, one, down, name, aux)


def _plain_aggregation(features, fuse, activation, name):
    """PAN with nothing between the blocks and the features but enlarging and reducing. fuse: (x, level, name) -> x."""

    def join(parts, level, name):
        return fuse(layers.Concatenate(name=f"{name}.merge")(parts), level, name)

    levels = sorted(features)
    x = features[levels[-1]]
    aggregated = {levels[-1]: x}
    for level in reversed(levels[:-1]):
        x = Upsample(name=f"{name}.{level}.up")(x)
        x = aggregated[level] = join([x, features[level]], level, f"{name}.{level}")
    outputs = {levels[0]: x}
    for level in levels[1:]:
        prefix = f"{name}.n{level[1:]}"
        x = silu_conv(x, x.shape[-1], 3, 2, activation=activation, name=f"{prefix}.down")
        x = outputs[level] = join([x, aggregated[level]], level, prefix)
    return outputs


def pan(features, *, depth: Factor = 1.0, activation: str = "silu", name="neck"):
    """YOLOv8's neck: PAN of C2f blocks without shortcuts.

    depth: factor on the blocks' repeats. activation: one of nn.activations.ACTIVATIONS. Each level keeps its backbone's channels.
    """
    plain = functools.partial(bottleneck, shortcut=False)

    def fuse(x, level, name):
        channels, repeats = features[level].shape[-1], repeated(3, depth)
        return c2f_block(x, channels, repeats, block=plain, activation=activation, name=name)

    return _plain_aggregation(features, fuse, activation, name)


def c3k2_pan(features, *, depth: Factor = 1.0, deep: bool = False, activation: str = "silu", name="neck"):
    """YOLO11's neck: PAN of C3k2 blocks; p3 has half its backbone's channels.

    deep: the links of all blocks are c3k; else only those of the coarsest. The other options are pan's.
    """
    finest, coarsest = min(features), max(features)

    def fuse(x, level, name):
        channels = features[level].shape[-1] // (2 if level == finest else 1)
        options = {"deep": deep or level == coarsest, "activation": activation, "name": name}
        return c3k2_block(x, channels, repeated(2, depth), **options)

    return _plain_aggregation(features, fuse, activation, name)
