"""M2Det's neck, the multi-level feature pyramid network (Zhao et al. 2019, arXiv:1811.04533): FFM, TUM and SFAM, figure 2."""

import functools

from keras import layers

from tfyolo.config.ranges import Channels, Repeats
from tfyolo.nn.blocks import conv
from tfyolo.nn.norm import BatchNorm
from tfyolo.nn.resample import Resize, Upsample

relu_conv = functools.partial(conv, activation="relu")


def ffm_v1(shallow, deep, planes=256, *, name):
    """Feature fusion module 1 (figure 4a): the base feature, [B, h, w, 3 * planes], of a grid and of one half as fine."""
    shallow = relu_conv(shallow, planes, 3, name=f"{name}.shallow")
    deep = relu_conv(deep, 2 * planes, 1, name=f"{name}.deep")
    deep = Upsample(name=f"{name}.up")(deep)
    return layers.Concatenate(name=f"{name}.merge")([shallow, deep])


def ffm_v2(base, finest, *, name):
    """Feature fusion module 2 (figure 4b): the reduced base feature beside the finest map of the U-shape before."""
    return layers.Concatenate(name=f"{name}.merge")([base, finest])


def tum(x, planes=256, scales=6, *, valid=True, name):
    """Thinned U-shape module (figure 4c): [its maps], the finest first, of `planes` channels; down by strides, up by additions.

    valid: the last way down is a 3x3 convolution without padding, as published (4 -> 2, 3 -> 1), not one with a stride of two, if the grid
    has three cells.
    """
    down = [x]
    for i in range(1, scales):
        last = valid and i == scales - 1 and min(down[-1].shape[1:3]) >= 3
        options = {"stride": 1 if last else 2, "pad": 0 if last else 1, "name": f"{name}.down{i}"}
        down.append(relu_conv(down[-1], planes, 3, **options))
    up = [relu_conv(down[-1], planes, 1, name=f"{name}.top")]
    for i in range(scales - 2, -1, -1):
        lateral = relu_conv(down[i], planes, 3, name=f"{name}.lateral{i}")
        enlarged = Resize(lateral.shape[1:3], name=f"{name}.up{i}")(up[-1])
        up.append(layers.Add(name=f"{name}.add{i}")([enlarged, lateral]))
    smooth = [up[0]] + [relu_conv(x, planes, 1, name=f"{name}.smooth{scales - 1 - i}") for i, x in enumerate(up[1:], 1)]
    return smooth[::-1]


class ScaleAttention:
    """The second stage of SFAM: squeeze and excitation (Hu et al. 2018, arXiv:1709.01507), one for all the maps that it is called with."""

    def __init__(self, channels, reduction=16, *, name):
        options = {"kernel_size": 1, "data_format": "channels_last"}
        self.squeeze = layers.Conv2D(channels // reduction, **options, name=f"{name}.squeeze")
        self.excite = layers.Conv2D(channels, **options, name=f"{name}.excite")

    def __call__(self, x, name):
        y = layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=f"{name}.mean")(x)
        y = layers.Activation("relu", name=f"{name}.relu")(self.squeeze(y))
        y = layers.Activation("sigmoid", name=f"{name}.gate")(self.excite(y))
        return layers.Multiply(name=f"{name}.attended")([x, y])


def sfam(pyramids, reduction=16, *, shared=True, name):
    """Scale-wise feature aggregation module (figure 3): [[a map of each scale] of each level] -> [a map of each scale].

    Maps of one scale are joined, and their channels weighed by attention. shared: by one layer for all scales, which is how the text
    reads and the published count (133,159,604 of VGG-16, 8 levels, 6 scales); else by one of each.
    """
    joined = [
        layers.Concatenate(name=f"{name}.scale{i}.join")(list(maps))
        for i, maps in enumerate(zip(*pyramids, strict=True))
    ]
    channels = joined[0].shape[-1]
    one = ScaleAttention(channels, reduction, name=name) if shared else None
    return [
        (one or ScaleAttention(channels, reduction, name=f"{name}.scale{i}"))(x, f"{name}.scale{i}")
        for i, x in enumerate(joined)
    ]


def mlfpn(
    features,
    *,
    tums: Repeats = 8,
    scales: Repeats = 6,
    planes: Channels = 256,
    reduction: Channels = 16,
    valid: bool = True,
    shared_attention: bool = True,
    name="neck",
):
    """M2Det's neck (section 3.1): of the two finest levels, `scales` maps from p3 on (or whichever is finest), tums * planes channels each.

    tums: levels of the pyramid, each a U-shape that reads the base feature, reduced to planes / 2 channels, and the finest map of the
    one before. The reduced base feature is one for all, and the finest map ends in a batch norm: of the readings of the paper the one
    that gives the published count. valid: as of tum; false, each grid is half the one before, as other heads expect. reduction,
    shared_attention: of SFAM's attention.
    """
    if "aux" in features or len(features) < 2:
        raise ValueError(f"mlfpn: expected two levels of a backbone, received {', '.join(sorted(features))}")
    if min(tums, scales - 1, planes // 2) < 1 or tums * planes < reduction:
        raise ValueError(
            f"mlfpn: expected tums of at least 1, scales of at least 2, and reduction no larger than tums * planes, received "
            f"tums {tums}, scales {scales}, planes {planes}, reduction {reduction}"
        )
    finest, second = sorted(features)[:2]
    if None in features[finest].shape[1:3]:
        raise ValueError("mlfpn: expected one input size, received any, as for multi_scale and --any-size")
    base = ffm_v1(features[finest], features[second], planes, name=f"{name}.ffm1")
    reduced = relu_conv(base, planes // 2, 1, name=f"{name}.reduce")
    pyramids, x = [], reduced
    for i in range(1, tums + 1):
        if pyramids:
            x = ffm_v2(reduced, pyramids[-1][0], name=f"{name}.ffm2_{i}")
        pyramids.append(tum(x, planes, scales, valid=valid, name=f"{name}.tum{i}"))
    maps = sfam(pyramids, reduction, shared=shared_attention, name=f"{name}.sfam")
    maps[0] = BatchNorm(name=f"{name}.norm")(maps[0])
    return {f"p{int(finest[1:]) + i}": x for i, x in enumerate(maps)}
