"""The Darknets: the backbones of YOLOv1 and YOLOv3."""

from keras import layers

from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import conv, scaled
from tfyolo.nn.pooling import max_pool


def residual(x, squeezed, *, activation="leaky", name):
    """Darknet-53's residual block: a 1x1 and a 3x3 convolution, added to the input.

    Args:
        x: [B, h, w, C].
        squeezed: channels of the 1x1 convolution.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, C].

    Source: Redmon and Farhadi 2018, arXiv:1804.02767, table 1.
    """
    y = conv(x, squeezed, 1, activation=activation, name=f"{name}.reduce")
    y = conv(y, x.shape[-1], 3, activation=activation, name=f"{name}.expand")
    return layers.Add(name=f"{name}.add")([x, y])


def darknet53(images, *, width: Factor = 1.0, name="backbone"):
    """Darknet-53 without its classifier.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 256], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Redmon and Farhadi 2018, arXiv:1804.02767, table 1.
    """
    features = {}
    x = conv(images, scaled(32, width), 3, name=f"{name}.stem")
    for level, (channels, repeats) in enumerate([(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)], start=1):
        channels = scaled(channels, width)
        x = conv(x, channels, 3, 2, name=f"{name}.p{level}.down")
        for i in range(repeats):
            x = residual(x, channels // 2, name=f"{name}.p{level}.residual{i + 1}")
        features[f"p{level}"] = x
    return {level: features[level] for level in ("p3", "p4", "p5")}


def darknet_tiny(images, *, width: Factor = 1.0, name="backbone"):
    """YOLOv3-tiny's backbone: seven convolutions, max pools between.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        name: of the layers.

    Returns:
        {"p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 1024]}, channels times width.

    Source: the .cfg file published with YOLOv3 (Redmon and Farhadi 2018).
    """
    x = images
    features = {}
    for level, channels in enumerate([16, 32, 64, 128, 256, 512]):
        x = conv(x, scaled(channels, width), 3, name=f"{name}.p{level}")
        features[f"p{level}"] = x
        # The last pooling keeps the grid: stride 1.
        x = max_pool(x, 2, 2 if level < 5 else 1, name=f"{name}.p{level}.pool")
    x = conv(x, scaled(1024, width), 3, name=f"{name}.p5.expand")
    return {"p4": features["p4"], "p5": x}


def darknet_v1(images, *, width: Factor = 1.0, norm: bool = False, name="backbone"):
    """YOLOv1's backbone: 24 convolutions.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        norm: True: batch norm in place of the convolutions' biases, for training from scratch. False: none, as in the
            paper.
        name: of the layers.

    Returns:
        {"p6": [B, H / 64, W / 64, 1024]}, channels times width.

    Source: Redmon et al. 2016, arXiv:1506.02640, figure 3.
    """

    def block(x, widths_and_kernels, name):
        for i, (channels, kernel) in enumerate(widths_and_kernels, start=1):
            x = conv(x, scaled(channels, width), kernel, norm=norm, name=f"{name}.conv{i}")
        return x

    x = conv(images, scaled(64, width), 7, 2, norm=norm, name=f"{name}.p1")
    x = max_pool(x, name=f"{name}.p1.pool")
    x = block(x, [(192, 3)], f"{name}.p2")
    x = max_pool(x, name=f"{name}.p2.pool")
    x = block(x, [(128, 1), (256, 3), (256, 1), (512, 3)], f"{name}.p3")
    x = max_pool(x, name=f"{name}.p3.pool")
    x = block(x, [(256, 1), (512, 3)] * 4 + [(512, 1), (1024, 3)], f"{name}.p4")
    x = max_pool(x, name=f"{name}.p4.pool")
    x = block(x, [(512, 1), (1024, 3)] * 2 + [(1024, 3)], f"{name}.p5")
    x = conv(x, scaled(1024, width), 3, 2, norm=norm, name=f"{name}.p6.down")
    x = block(x, [(1024, 3)] * 2, f"{name}.p6")
    return {"p6": x}
