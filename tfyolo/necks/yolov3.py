"""The necks of YOLOv3 and the tiny models: one top-down path, on which features are upsampled and joined."""

from keras import layers

from tfyolo.config.ranges import Factor, Windows
from tfyolo.nn.blocks import conv, scaled, spp
from tfyolo.nn.resample import Upsample


def up_cat(features, *, spp_pools: Windows = (), name="neck"):
    """YOLOv3's neck: five convolutions at each level, top down.

    Args:
        features: {level: [B, h, w, C]} of the backbone; C is the level's own.
        spp_pools: odd windows, in cells, of a spatial pyramid pooling in the coarsest block, (5, 9, 13) in YOLOv3-SPP.
            The block has one more convolution then.
        name: of the layers.

    Returns:
        {level: [B, h, w, C // 2]}, the coarsest first: p5, p4p5 as p4, p3p4p5 as p3.

    Source: Redmon and Farhadi 2018, arXiv:1804.02767, section 2.3.
    """
    coarsest, *finer = sorted(features, reverse=True)
    channels = {level: x.shape[-1] // 2 for level, x in features.items()}
    x = _five(features[coarsest], channels[coarsest], spp_pools, name=f"{name}.{coarsest}")  # [B, h, w, C / 2]
    outputs = {coarsest: x}
    for level in finer:  # p4p5, then p3p4p5
        prefix = f"{name}.{level}"
        x = conv(x, channels[level], 1, name=f"{prefix}.lateral")
        x = Upsample(name=f"{prefix}.up")(x)  # [B, 2h, 2w, C / 2]
        x = layers.Concatenate(name=f"{prefix}.merge")([x, features[level]])  # [B, 2h, 2w, 3C / 2]
        x = outputs[level] = _five(x, channels[level], name=prefix)  # [B, 2h, 2w, C / 2]
    return outputs


def _five(x, channels, spp_pools=(), *, name):
    """Five convolutions, in turn 1x1 to `channels` and 3x3 to twice as many."""
    x = conv(x, channels, 1, name=f"{name}.conv1")
    x = conv(x, channels * 2, 3, name=f"{name}.conv2")
    x = conv(x, channels, 1, name=f"{name}.conv3")
    if spp_pools:
        x = spp(x, spp_pools, name=f"{name}.spp")  # [B, h, w, (1 + pools) * channels]
        x = conv(x, channels, 1, name=f"{name}.spp")
    x = conv(x, channels * 2, 3, name=f"{name}.conv4")
    return conv(x, channels, 1, name=f"{name}.conv5")


def up_cat_tiny(features, *, width: Factor = 1.0, name="neck"):
    """The neck of YOLOv3-tiny and YOLOv4-tiny: one convolution at p5, upsampled and joined to the backbone's p4.

    Args:
        features: {"p4": [B, 2h, 2w, C], "p5": [B, h, w, any]} of the backbone.
        width: factor on the channels.
        name: of the layers.

    Returns:
        {"p4": [B, 2h, 2w, 128 * width + C], "p5": [B, h, w, 256 * width]}.

    Raises:
        ValueError: the features lack p4 or p5.

    Source: the .cfg files published with the models (Redmon and Farhadi 2018; Wang et al. 2021, arXiv:2011.08036,
    section 4.2).
    """
    if not {"p4", "p5"} <= features.keys():
        raise ValueError(
            f"up_cat_tiny: expected a backbone with levels p4 and p5, received {', '.join(sorted(features))}"
        )
    p5 = conv(features["p5"], scaled(256, width), 1, name=f"{name}.p5")
    p5_up = conv(p5, scaled(128, width), 1, name=f"{name}.p4.lateral")
    p5_up = Upsample(name=f"{name}.p4.up")(p5_up)  # [B, 2h, 2w, 128]
    p4p5 = layers.Concatenate(name=f"{name}.p4.merge")([p5_up, features["p4"]])  # [B, 2h, 2w, 128 + C]
    return {"p4": p4p5, "p5": p5}
