"""The backbones of YOLOv8 and YOLO11: stages of C2f or C3k2 blocks, spatial pyramid pooling, and in YOLO11 attention at the end."""

from tfyolo.layers import c2f_block, c2psa, c3k2_block, repeated, scaled, silu_conv, sppf
from tfyolo.ranges import Channels, Factor


def _stages(images, block, counts, channels, activation, name):
    """{"p2": ..., "p5": ...}: at each level a strided convolution and a block.

    counts: {level: (the convolution's channels, the block's, its repeats, its options)}.
    """
    x = silu_conv(images, channels(64), 3, 2, activation=activation, name=f"{name}.p1")
    features = {}
    for level, (down, count, repeats, options) in counts.items():
        x = silu_conv(x, channels(down), 3, 2, activation=activation, name=f"{name}.{level}.down")
        x = block(x, channels(count), repeats, activation=activation, name=f"{name}.{level}", **options)
        features[level] = x
    return features


def c2f(
    images,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    max_channels: Channels = 1024,
    activation: str = "silu",
    name="backbone",
):
    """YOLOv8's backbone (Jocher et al. 2023, as published with its models): p3 (256 channels), p4 (512), p5 (1024).

    depth: factor on the blocks' repeats. width: factor on the channels, which before it are at most max_channels.
    activation: one of layers.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
    """

    def channels(count):
        return scaled(min(count, max_channels), width)

    counts = [("p2", 128, 3), ("p3", 256, 6), ("p4", 512, 6), ("p5", 1024, 3)]
    counts = {level: (count, count, repeated(repeats, depth), {}) for level, count, repeats in counts}
    features = _stages(images, c2f_block, counts, channels, activation, name)
    x = sppf(features["p5"], features["p5"].shape[-1], activation=activation, name=f"{name}.sppf")
    return {"p3": features["p3"], "p4": features["p4"], "p5": x}


def c3k2(
    images,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    max_channels: Channels = 1024,
    deep: bool = False,
    activation: str = "silu",
    name="backbone",
):
    """YOLO11's backbone (Jocher and Qiu 2024, as published with its models): p3 (512 channels), p4 (512), p5 (1024).

    deep: the links of all blocks are c3k, as in m, l and x; else only those of p4 and p5. The other options are c2f's.
    """

    def channels(count):
        return scaled(min(count, max_channels), width)

    light, heavy = {"share": 0.25, "deep": deep}, {"deep": True}
    repeats = repeated(2, depth)
    counts = {
        "p2": (128, 256, repeats, light),
        "p3": (256, 512, repeats, light),
        "p4": (512, 512, repeats, heavy),
        "p5": (1024, 1024, repeats, heavy),
    }
    features = _stages(images, c3k2_block, counts, channels, activation, name)
    x = sppf(features["p5"], features["p5"].shape[-1], activation=activation, name=f"{name}.sppf")
    x = c2psa(x, repeats, activation=activation, name=f"{name}.attention")
    return {"p3": features["p3"], "p4": features["p4"], "p5": x}
