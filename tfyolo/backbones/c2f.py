"""The backbone of YOLOv8: stages of C2f blocks, spatial pyramid pooling at the end."""

from tfyolo.layers import c2f as block
from tfyolo.layers import repeated, scaled, silu_conv, sppf


def c2f(
    images,
    *,
    depth: float = 1.0,
    width: float = 1.0,
    max_channels: int = 1024,
    activation: str = "silu",
    name="backbone",
):
    """YOLOv8's backbone (Jocher et al. 2023, as published with its models): p3 (256 channels), p4 (512), p5 (1024).

    depth: factor on the blocks' repeats. width: factor on the channels, which before it are at most max_channels.
    activation: one of layers.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
    """

    def channels(count):
        return scaled(min(count, max_channels), width)

    features = {}
    x = silu_conv(images, channels(64), 3, 2, activation=activation, name=f"{name}.p1")
    for level, (count, repeats) in enumerate([(128, 3), (256, 6), (512, 6), (1024, 3)], start=2):
        x = silu_conv(x, channels(count), 3, 2, activation=activation, name=f"{name}.p{level}.down")
        x = block(x, channels(count), repeated(repeats, depth), activation=activation, name=f"{name}.p{level}")
        features[f"p{level}"] = x
    features["p5"] = sppf(x, x.shape[-1], activation=activation, name=f"{name}.sppf")
    return {level: features[level] for level in ("p3", "p4", "p5")}
