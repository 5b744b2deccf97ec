"""M2Det's neck, the multi-level feature pyramid network (Zhao et al. 2019, arXiv:1811.04533, figure 2)."""

import functools

from keras import layers

from tfyolo.config.ranges import Channels, Repeats
from tfyolo.nn.blocks import conv
from tfyolo.nn.norm import BatchNorm
from tfyolo.nn.resample import Resize, Upsample

relu_conv = functools.partial(conv, activation="relu")


def ffm_v1(shallow, deep, planes=256, *, name):
    """Feature fusion module 1: the base feature, of two levels.

    Args:
        shallow: [B, 2h, 2w, any], the finest level of the backbone.
        deep: [B, h, w, any], the next.
        planes: channels that the shallow level gives; the deep one gives twice as many.
        name: of the layers.

    Returns:
        [B, 2h, 2w, 3 * planes].

    Source: arXiv:1811.04533, figure 4a.
    """
    shallow = relu_conv(shallow, planes, 3, name=f"{name}.shallow")
    deep = relu_conv(deep, 2 * planes, 1, name=f"{name}.deep")
    deep = Upsample(name=f"{name}.up")(deep)
    return layers.Concatenate(name=f"{name}.merge")([shallow, deep])


def ffm_v2(base, finest, *, name):
    """Feature fusion module 2: the reduced base feature joined to the finest map of the U-shape before.

    Args:
        base: [B, h, w, C], the reduced base feature.
        finest: [B, h, w, D].
        name: of the layers.

    Returns:
        [B, h, w, C + D].

    Source: arXiv:1811.04533, figure 4b.
    """
    return layers.Concatenate(name=f"{name}.merge")([base, finest])


def tum(x, planes=256, scales=6, *, valid=True, name):
    """Thinned U-shape module: down by strided convolutions, up by upsampling and addition.

    Args:
        x: [B, h, w, any].
        planes: channels of every map.
        scales: number of maps, at least 2.
        valid: True: the last step down is a 3x3 convolution without padding if both sides have at least 3 cells, as
            published (4 -> 2, 3 -> 1). False: it has a stride of 2, as the others.
        name: of the layers.

    Returns:
        `scales` maps, the finest first: [B, h, w, planes], [B, h / 2, w / 2, planes], ...

    Source: arXiv:1811.04533, figure 4c.
    """
    down = [x]
    for i in range(1, scales):
        last = valid and i == scales - 1 and min(down[-1].shape[1:3]) >= 3
        options = {"stride": 1 if last else 2, "pad": 0 if last else 1, "name": f"{name}.down{i}"}
        down.append(relu_conv(down[-1], planes, 3, **options))
    up = [relu_conv(down[-1], planes, 1, name=f"{name}.top")]
    for i in range(scales - 2, -1, -1):
        lateral = relu_conv(down[i], planes, 3, name=f"{name}.lateral{i}")
        upsampled = Resize(lateral.shape[1:3], name=f"{name}.up{i}")(up[-1])
        up.append(layers.Add(name=f"{name}.add{i}")([upsampled, lateral]))
    smooth = [up[0]] + [relu_conv(x, planes, 1, name=f"{name}.smooth{scales - 1 - i}") for i, x in enumerate(up[1:], 1)]
    return smooth[::-1]


class ScaleAttention:
    """Channel attention by squeeze and excitation, the second stage of SFAM; each call shares the weights.

    Args:
        channels: of the maps.
        reduction: factor by which the squeezed channels are fewer.
        name: of the layers.

    Source: Hu et al. 2018, arXiv:1709.01507.
    """

    def __init__(self, channels, reduction=16, *, name):
        options = {"kernel_size": 1, "data_format": "channels_last"}
        self.squeeze = layers.Conv2D(channels // reduction, **options, name=f"{name}.squeeze")
        self.excite = layers.Conv2D(channels, **options, name=f"{name}.excite")

    def __call__(self, x, name):
        """[B, h, w, channels] -> the same shape, each channel times its weight in 0..1."""
        y = layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=f"{name}.mean")(x)
        y = layers.Activation("relu", name=f"{name}.relu")(self.squeeze(y))
        y = layers.Activation("sigmoid", name=f"{name}.gate")(self.excite(y))
        return layers.Multiply(name=f"{name}.attended")([x, y])


def sfam(pyramids, reduction=16, *, shared=True, name):
    """Scale-wise feature aggregation module: the maps of one scale are joined, their channels weighted.

    Args:
        pyramids: for each level of the pyramid its maps [B, h, w, C], one a scale.
        reduction: of ScaleAttention.
        shared: True: one attention for all scales. The text reads so, and so does the published count (133,159,604
            parameters of VGG-16, 8 levels, 6 scales). False: one for each.
        name: of the layers.

    Returns:
        A map [B, h, w, levels * C] for each scale.

    Source: arXiv:1811.04533, figure 3.
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
    """M2Det's neck: a pyramid of several levels of U-shapes over the two finest features.

    The paper leaves two things open. Here all U-shapes read one reduced base feature, and the finest map ends in a
    batch norm: these readings give the published count of parameters.

    Args:
        features: {level: [B, h, w, any]} of the backbone, at least two levels, each of a fixed size; the two finest are
            read.
        tums: levels of the pyramid: U-shapes in a row. Each reads the base feature, reduced to planes // 2 channels,
            and the finest map of the one before.
        scales: number of maps, at least 2.
        planes: channels of a U-shape's maps.
        reduction: factor by which the attention's squeezed channels are fewer; at most tums * planes.
        valid: True: the last step down is a 3x3 convolution without padding, as published. False: every grid is half
            the one before, as other heads expect.
        shared_attention: True: one attention for all scales. False: one for each.
        name: of the layers.

    Returns:
        {level: [B, h, w, tums * planes]}, `scales` levels, from the finest of the backbone on.

    Raises:
        ValueError: the features have fewer than two levels or an open size, or the numbers do not
            fit.

    Source: arXiv:1811.04533, section 3.1.
    """
    if len(features) < 2:
        raise ValueError(f"mlfpn: expected two levels of a backbone, received {', '.join(sorted(features))}")
    if min(tums, scales - 1, planes // 2) < 1 or tums * planes < reduction:
        raise ValueError(
            "mlfpn: expected tums of at least 1, scales of at least 2, and reduction no larger than tums * planes, "
            f"received tums {tums}, scales {scales}, planes {planes}, reduction {reduction}"
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
