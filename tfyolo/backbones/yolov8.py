"""The blocks and backbones of YOLOv8 and YOLO11: C2f and C3k2, pooling, and in YOLO11 attention at the end."""

import functools

from keras import layers, ops

from tfyolo.config.ranges import Channels, Factor
from tfyolo.nn.blocks import bottleneck, repeated, scaled, silu_conv, sppf


def c2f_block(x, channels, repeats, *, share=0.5, block=bottleneck, activation="silu", name):
    """YOLOv8's block: a share of the channels goes through a chain of links, and every link is joined to the output.

    It shortens the cross-stage partial block (Wang et al. 2020, arXiv:1911.11929, figure 2), with the gradient paths of
    ELAN (Wang et al. 2022, arXiv:2211.04800).

    Args:
        x: [B, h, w, any].
        channels: of the output.
        repeats: links of the chain.
        share: of the channels, in each link.
        block: (x, channels, activation=, name=) -> [B, h, w, channels], a link.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: Jocher et al. 2023, the configuration published with the models.
    """
    hidden = int(channels * share)
    x = silu_conv(x, 2 * hidden, 1, activation=activation, name=f"{name}.split")
    # Not by slices, whose gradient costs as much again as the batch norms.
    chain = list(ops.split(x, 2, axis=-1))
    for i in range(repeats):
        chain.append(block(chain[-1], hidden, activation=activation, name=f"{name}.bottleneck{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def c3k(x, channels, *, activation="silu", name):
    """YOLO11's deeper link of a chain: half the channels go through two bottlenecks, half skip them.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: Jocher and Qiu 2024, the configuration published with the models.
    """
    skip = silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.skip")
    x = silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.split")
    for i in range(2):
        x = bottleneck(x, channels // 2, activation=activation, name=f"{name}.bottleneck{i + 1}")
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def c3k2_block(x, channels, repeats, *, share=0.5, deep=False, activation="silu", name):
    """YOLO11's block: c2f_block with other links.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        repeats: links of the chain.
        share: of the channels, in each link.
        deep: True: the links are c3k. False: bottlenecks that squeeze the channels by two.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: Jocher and Qiu 2024, the configuration published with the models.
    """
    block = c3k if deep else functools.partial(bottleneck, squeeze=0.5)
    return c2f_block(x, channels, repeats, share=share, block=block, activation=activation, name=name)


class SelfAttention(layers.Layer):
    """Multi-head self-attention over the cells of a feature map.

    It reads, head by head, query, key and value; keys have half the channels of values.

    Args:
        heads: number of heads; channels are a multiple of 4 * heads.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    quantization = "float"

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, x):
        """Attends from every cell to every other.

        Args:
            x: [B, h, w, heads * (2 * key + value)].

        Returns:
            (the attended values, the values themselves), both [B, h, w, heads * value].
        """
        _, height, width, channels = ops.shape(x)
        each = channels // self.heads
        key = each // 4
        x = ops.reshape(x, (-1, height * width, self.heads, each))
        x = ops.transpose(x, (0, 2, 1, 3))  # [B, heads, h * w, each]
        q, k, v = ops.split(x, [key, 2 * key], axis=-1)
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * key**-0.5, axis=-1)

        def as_map(values):
            return ops.reshape(ops.transpose(values, (0, 2, 1, 3)), (-1, height, width, channels // 2))

        return as_map(ops.matmul(weights, v)), as_map(v)

    def compute_output_shape(self, shape):
        """As call()."""
        return [(*shape[:-1], shape[-1] // 2)] * 2


def c2psa(x, repeats, *, activation="silu", name):
    """YOLO11's partial self-attention: half the channels go through attention blocks, half skip them.

    In a block, self-attention and two 1x1 convolutions are each added to their input; a depthwise 3x3 convolution of
    the values encodes position. A head has 64 channels, or as few more as divide them.

    Args:
        x: [B, h, w, C].
        repeats: attention blocks.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, C].

    Source: after Wang et al. 2024, "YOLOv10", arXiv:2405.14458, section 3.2.
    """
    channels = x.shape[-1] // 2
    heads = next(count for count in range(max(channels // 64, 1), 0, -1) if channels % (2 * count) == 0)
    x = silu_conv(x, 2 * channels, 1, activation=activation, name=f"{name}.split")
    skip, x = ops.split(x, 2, axis=-1)
    for i in range(repeats):
        prefix = f"{name}.block{i + 1}"
        y = silu_conv(x, 2 * channels, 1, activation="linear", name=f"{prefix}.qkv")
        attended, values = SelfAttention(heads, name=f"{prefix}.attention")(y)
        position = silu_conv(values, channels, 3, groups=channels, activation="linear", name=f"{prefix}.place")
        y = layers.Add(name=f"{prefix}.placed")([attended, position])
        y = silu_conv(y, channels, 1, activation="linear", name=f"{prefix}.project")
        x = layers.Add(name=f"{prefix}.attended")([x, y])
        y = silu_conv(x, 2 * channels, 1, activation=activation, name=f"{prefix}.widen")
        y = silu_conv(y, channels, 1, activation="linear", name=f"{prefix}.narrow")
        x = layers.Add(name=f"{prefix}.add")([x, y])
    x = layers.Concatenate(name=f"{name}.concat")([skip, x])
    return silu_conv(x, 2 * channels, 1, activation=activation, name=f"{name}.join")


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
    """YOLOv8's backbone.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        depth: factor on the blocks' repeats, which are 3, 6, 6, 3.
        width: factor on the channels.
        max_channels: upper limit on the channels, before width.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 256], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Jocher et al. 2023, the configuration published with the models.
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
    """YOLO11's backbone.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        depth: factor on the blocks' repeats, two each.
        width: factor on the channels.
        max_channels: upper limit on the channels, before width.
        deep: True: the links of all blocks are c3k, as in m, l and x. False: only those of p4 and p5.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 512], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Jocher and Qiu 2024, the configuration published with the models.
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
