"""The backbones of YOLOv4: Darknets of cross-stage partial blocks (Wang et al. 2020, arXiv:1911.11929, figure 2)."""

from typing import Literal

from keras import layers

from tfyolo.backbones.darknet import residual
from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import ChannelGroup, conv, scaled
from tfyolo.nn.pooling import max_pool


def csp_darknet53(images, *, width: Factor = 1.0, first_stage: Literal["csp", "residual"] = "csp", name="backbone"):
    """CSP-Darknet-53 with mish.

    Two 1x1 convolutions of half its channels split each stage: one goes through the residuals, the other skips them.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        first_stage: "csp", as in YOLOv4, where this stage alone has both halves as wide as the whole. Or "residual",
            Darknet-53's, as in YOLOv4-CSP: with a single residual, CSP costs more than it saves.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 256], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.4; Wang et al. 2021, arXiv:2011.08036, section 4.1.
    """

    def mish(x, channels, kernel, stride=1, *, name):
        return conv(x, channels, kernel, stride, activation="mish", name=name)

    def partial(x, branch, squeezed, repeats, name):
        channels = x.shape[-1]
        skip = mish(x, branch, 1, name=f"{name}.skip")
        x = mish(x, branch, 1, name=f"{name}.split")
        for i in range(repeats):
            x = residual(x, squeezed, activation="mish", name=f"{name}.residual{i + 1}")
        x = mish(x, branch, 1, name=f"{name}.transition")
        x = layers.Concatenate(name=f"{name}.concat")([x, skip])
        return mish(x, channels, 1, name=f"{name}.join")

    features = {}
    x = mish(images, scaled(32, width), 3, name=f"{name}.stem")
    for level, (channels, repeats) in enumerate([(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)], start=1):
        channels = scaled(channels, width)
        x = mish(x, channels, 3, 2, name=f"{name}.p{level}.down")
        if level > 1:
            x = partial(x, channels // 2, channels // 2, repeats, f"{name}.p{level}")
        elif first_stage == "csp":
            x = partial(x, channels, channels // 2, repeats, f"{name}.p{level}")
        else:
            x = residual(x, channels // 2, activation="mish", name=f"{name}.p{level}.residual1")
        features[f"p{level}"] = x
    return {level: features[level] for level in ("p3", "p4", "p5")}


def csp_darknet_tiny(images, *, width: Factor = 1.0, finest: Literal["p3", "p4"] = "p4", name="backbone"):
    """YOLOv4-tiny's backbone.

    A stage splits without a convolution: the second half of its channels goes on, all of them skip to its end. The neck
    reads the last 1x1 convolution of a stage, before the skip is joined to it.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        finest: the finest level to return.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width; without p3 if finest is "p4".

    Source: Wang et al. 2021, arXiv:2011.08036, section 4.2.
    """

    def partial(x, channels, name):
        half = channels // 2
        whole = conv(x, channels, 3, name=f"{name}.whole")
        x = ChannelGroup(2, 1, name=f"{name}.half")(whole)
        first = conv(x, half, 3, name=f"{name}.conv1")
        second = conv(first, half, 3, name=f"{name}.conv2")
        x = layers.Concatenate(name=f"{name}.concat")([second, first])
        x = conv(x, channels, 1, name=f"{name}.transition")
        return x, layers.Concatenate(name=f"{name}.join")([whole, x])

    features = {}
    x = conv(images, scaled(32, width), 3, 2, name=f"{name}.p1")
    x = conv(x, scaled(64, width), 3, 2, name=f"{name}.p2.down")
    for level, channels in (("p2", 64), ("p3", 128), ("p4", 256)):
        features[level], x = partial(x, scaled(channels, width), f"{name}.{level}")
        x = max_pool(x, name=f"{name}.{level}.pool")
    features["p5"] = conv(x, scaled(512, width), 3, name=f"{name}.p5")
    return {level: features[level] for level in ("p3", "p4", "p5") if level >= finest}
