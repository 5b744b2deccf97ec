"""The necks of YOLOv3 and YOLOv4-tiny: coarse features are enlarged and laid beside the finer ones, top down."""

from keras import layers

from tfyolo.config.ranges import Factor, Windows
from tfyolo.nn.blocks import conv, scaled, spp
from tfyolo.nn.resample import Upsample


def up_cat(features, *, spp_pools: Windows = (), name="neck"):
    """YOLOv3's neck (Redmon and Farhadi 2018, arXiv:1804.02767, section 2.3).

    Each level goes through five convolutions that halve its backbone channels; what comes out of the five goes to the head and,
    reduced and enlarged by two, to the next finer level. spp_pools: window sizes of a spatial pyramid pooling inside the
    coarsest block, (5, 9, 13) in YOLOv3-SPP, after which the block has one more convolution.
    """

    def five(x, channels, name, pools=()):
        for i in range(3):
            x = conv(x, channels * (1 + i % 2), 1 + 2 * (i % 2), name=f"{name}.conv{i + 1}")
        if pools:
            x = spp(x, pools, name=f"{name}.spp")
            x = conv(x, channels, 1, name=f"{name}.spp")
        x = conv(x, channels * 2, 3, name=f"{name}.conv4")
        return conv(x, channels, 1, name=f"{name}.conv5")

    outputs = {}
    coarser = None
    for level in sorted(features, reverse=True):
        x = features[level]
        channels = x.shape[-1] // 2
        if coarser is not None:
            lateral = conv(coarser, channels, 1, name=f"{name}.{level}.lateral")
            lateral = Upsample(name=f"{name}.{level}.up")(lateral)
            x = layers.Concatenate(name=f"{name}.{level}.merge")([lateral, x])
        coarser = outputs[level] = five(x, channels, f"{name}.{level}", pools=() if outputs else spp_pools)
    return outputs


def up_cat_tiny(features, *, width: Factor = 1.0, name="neck"):
    """The neck of YOLOv3-tiny and YOLOv4-tiny: one convolution at p5; half of that, enlarged, beside the backbone's p4."""
    p5 = conv(features["p5"], scaled(256, width), 1, name=f"{name}.p5")
    lateral = conv(p5, scaled(128, width), 1, name=f"{name}.p4.lateral")
    lateral = Upsample(name=f"{name}.p4.up")(lateral)
    p4p5 = layers.Concatenate(name=f"{name}.p4.merge")([lateral, features["p4"]])
    return {"p4": p4p5, "p5": p5}


def up_cat_tiny_3l(features, *, width: Factor = 1.0, name="neck"):
    """YOLOv4-tiny-3l's neck: as up_cat_tiny, one level further.

    What goes on from p4 to p3 has been through p4's 3x3 convolution. So those stand here, and the head is `linear`.
    """
    widths = {"p5": 512, "p4": 256, "p3": 128}
    x = conv(features["p5"], scaled(256, width), 1, name=f"{name}.p5")
    outputs = {"p5": conv(x, scaled(widths["p5"], width), 3, name=f"{name}.p5.expand")}
    for level in sorted(features, reverse=True)[1:]:
        lateral = conv(x, scaled(widths[level] // 2, width), 1, name=f"{name}.{level}.lateral")
        lateral = Upsample(name=f"{name}.{level}.up")(lateral)
        x = layers.Concatenate(name=f"{name}.{level}.merge")([lateral, features[level]])
        x = outputs[level] = conv(x, scaled(widths[level], width), 3, name=f"{name}.{level}.expand")
    return outputs
