"""VGG-16 with reduced fully connected layers, the backbone of SSD and M2Det."""

from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import conv, scaled
from tfyolo.nn.pooling import max_pool


def vgg16(images, *, norm: bool = False, width: Factor = 1.0, name="backbone"):
    """VGG-16 (configuration D) with its fully connected layers reduced to convolutions.

    They are two convolutions of 1024 channels, the first 3x3 with a dilation of 6; the pooling before them keeps the
    grid. The ImageNet weights, the file of keras.applications with the fully connected layers, are given as train.init.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        norm: True: batch norm after each convolution, for training from scratch. False: none, as published.
        width: factor on the channels.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 512], "p4": [B, H / 16, W / 16, 1024]}, channels times width.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1; Liu et al. 2016, "SSD", arXiv:1512.02325, section
    3.1.
    """

    def block(x, stage, channels, count):
        for i in range(1, count + 1):
            options = {"norm": norm, "activation": "relu", "name": f"{name}.{stage}.conv{i}"}
            x = conv(x, scaled(channels, width), 3, **options)
        return x

    x, stages = images, [("p0", 64, 2), ("p1", 128, 2), ("p2", 256, 3), ("p3", 512, 3), ("p4", 512, 3)]
    features = {}
    for stage, channels, count in stages:
        if stage != "p0":
            x = max_pool(x, pad=0, name=f"{name}.{stage}.pool")
        x = features[stage] = block(x, stage, channels, count)
    x = max_pool(x, 3, 1, name=f"{name}.p4.pool5")
    for i, (kernel, dilation) in enumerate([(3, 6), (1, 1)], start=6):
        options = {"norm": norm, "activation": "relu", "dilation": dilation, "name": f"{name}.p4.conv{i}"}
        x = conv(x, scaled(1024, width), kernel, **options)
    return {"p3": features["p3"], "p4": x}
