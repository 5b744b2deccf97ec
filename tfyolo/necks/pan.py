"""Path aggregation (PAN, Liu et al. 2018, arXiv:1803.01534, figure 1), concatenating instead of adding: of YOLOv4, YOLOv8, YOLO11.

The coarse features are enlarged and laid beside the finer ones, top down, as p5, p4, p3; those are reduced and laid beside the
coarser ones again, bottom up, as n4, n5. The head gets p3, n4 and n5 under the names of their levels.
"""

import functools

from keras import layers

from tfyolo.layers import Upsample, bottleneck, c2f, c3k2, conv, repeated, silu_conv, spp


def _path_aggregation(features, pyramid, fuse, activation, name):
    """pyramid, fuse: (x, channels, name) -> x of so many channels, at the coarsest level and wherever two features have met."""

    def join(*parts, name):
        return layers.Concatenate(name=f"{name}.merge")(list(parts))

    coarsest, *finer = sorted(features, reverse=True)
    widths = {level: x.shape[-1] // 2 for level, x in features.items()}
    aggregated = {coarsest: pyramid(features[coarsest], widths[coarsest], f"{name}.{coarsest}")}
    x = aggregated[coarsest]
    for level in finer:
        channels, prefix = widths[level], f"{name}.{level}"
        x = conv(x, channels, 1, activation=activation, name=f"{prefix}.up")
        x = Upsample(name=f"{prefix}.up")(x)
        lateral = conv(features[level], channels, 1, activation=activation, name=f"{prefix}.lateral")
        x = aggregated[level] = fuse(join(lateral, x, name=prefix), channels, prefix)

    outputs = {level: x}
    for level in sorted(aggregated)[1:]:
        channels, prefix = widths[level], f"{name}.n{level[1:]}"
        x = conv(x, channels, 3, 2, activation=activation, name=f"{prefix}.down")
        x = outputs[level] = fuse(join(x, aggregated[level], name=prefix), channels, prefix)
    return outputs


def spp_pan(features, *, spp_pools: tuple[int, ...] = (5, 9, 13), name="neck"):
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

    return _path_aggregation(features, pyramid, five, "leaky", name)


def csp_pan(features, *, spp_pools: tuple[int, ...] = (5, 9, 13), name="neck"):
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

    return _path_aggregation(features, pyramid, fuse, "mish", name)


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


def pan(features, *, depth: float = 1.0, activation: str = "silu", name="neck"):
    """YOLOv8's neck: PAN of C2f blocks without shortcuts.

    depth: factor on the blocks' repeats. activation: one of layers.ACTIVATIONS. Each level keeps its backbone's channels.
    """
    plain = functools.partial(bottleneck, shortcut=False)

    def fuse(x, level, name):
        channels, repeats = features[level].shape[-1], repeated(3, depth)
        return c2f(x, channels, repeats, block=plain, activation=activation, name=name)

    return _plain_aggregation(features, fuse, activation, name)


def c3k2_pan(features, *, depth: float = 1.0, deep: bool = False, activation: str = "silu", name="neck"):
    """YOLO11's neck: PAN of C3k2 blocks; p3 has half its backbone's channels.

    deep: the links of all blocks are c3k; else only those of the coarsest. The other options are pan's.
    """
    finest, coarsest = min(features), max(features)

    def fuse(x, level, name):
        channels = features[level].shape[-1] // (2 if level == finest else 1)
        options = {"deep": deep or level == coarsest, "activation": activation, "name": name}
        return c3k2(x, channels, repeated(2, depth), **options)

    return _plain_aggregation(features, fuse, activation, name)
