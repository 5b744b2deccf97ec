"""YOLOv7's blocks and backbones: ELAN (Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696)."""

from keras import layers

from tfyolo.config.ranges import Channels, Factor, OpenProbability, Repeats
from tfyolo.nn.blocks import scaled, silu_conv
from tfyolo.nn.pooling import max_pool
from tfyolo.nn.resample import SpaceToDepth


def elan_block(x, channels, *, hidden, inner=None, convs=4, every=2, name, **options):
    """YOLOv7's block, an efficient layer aggregation network (ELAN).

    Two 1x1 convolutions read the input; a chain of 3x3 convolutions follows one of them. Both, and links of the chain,
    are joined by a 1x1 convolution.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        hidden: channels of the two 1x1 convolutions.
        inner: channels of the 3x3 convolutions; None: hidden.
        convs: number of 3x3 convolutions.
        every: every so-many-th link is joined, counted from the end of the chain; 1 joins all.
        name: of the layers.
        options: activation and epsilon of silu_conv.

    Returns:
        [B, h, w, channels].

    Source: Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696, figure 2c.
    """
    joined = [silu_conv(x, hidden, 1, **options, name=f"{name}.{branch}") for branch in ("skip", "split")]
    y = joined[-1]
    for i in range(1, convs + 1):
        y = silu_conv(y, inner or hidden, 3, **options, name=f"{name}.conv{i}")
        if (convs - i) % every == 0:
            joined.append(y)
    x = layers.Concatenate(name=f"{name}.concat")(joined[::-1])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def e_elan(x, channels, *, cardinality=2, name, **options):
    """YOLOv7's extended ELAN (E-ELAN): expand, shuffle and merge cardinality.

    The paper's grouped convolutions, whose groups are shuffled, joined and added, equal ELANs side by side whose
    outputs are added.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        cardinality: ELANs side by side; 1 is elan_block.
        name: of the layers.
        options: the other arguments of elan_block.

    Returns:
        [B, h, w, channels].

    Source: Wang et al. 2022, arXiv:2207.02696, section 3.1, figure 2d.
    """
    if cardinality == 1:
        return elan_block(x, channels, name=name, **options)
    groups = [elan_block(x, channels, name=f"{name}.group{i + 1}", **options) for i in range(cardinality)]
    return layers.Add(name=f"{name}.add")(groups)


def pooled_down(x, channels, *, reduced=None, name, **options):
    """YOLOv7's downsampling: a strided 3x3 convolution beside a max pool, half the channels from each.

    Args:
        x: [B, 2h, 2w, any].
        channels: of the output.
        reduced: channels of the 1x1 convolution before the strided one; None: channels // 2.
        name: of the layers.
        options: activation and epsilon of silu_conv.

    Returns:
        [B, h, w, channels].

    Source: the configurations published with YOLOv7 (Wang et al. 2022, arXiv:2207.02696).
    """
    pooled = max_pool(x, name=f"{name}.pool")
    pooled = silu_conv(pooled, channels // 2, 1, **options, name=f"{name}.pooled")
    y = silu_conv(x, reduced or channels // 2, 1, **options, name=f"{name}.reduce")
    y = silu_conv(y, channels // 2, 3, 2, **options, name=f"{name}.strided")
    return layers.Concatenate(name=f"{name}.concat")([y, pooled])


def sppcspc(x, channels, *, sizes=(5, 9, 13), light=False, name, **options):
    """YOLOv7's spatial pyramid pooling, cross-stage partial (SPPCSPC): one half is pooled, the other skips it.

    Args:
        x: [B, h, w, any].
        channels: of the output and of every convolution.
        sizes: odd windows of the pooling, in cells.
        light: True: without the 3x3 convolutions and the 1x1 beside them, as in YOLOv7-tiny, which joins the largest
            window first.
        name: of the layers.
        options: activation and epsilon of silu_conv.

    Returns:
        [B, h, w, channels].

    Source: the configurations published with YOLOv7 (Wang et al. 2022, arXiv:2207.02696).
    """

    def convs(x, kernels, name):
        for i, kernel in enumerate(kernels, start=1):
            x = silu_conv(x, channels, kernel, **options, name=f"{name}{i}")
        return x

    skip = convs(x, [1], f"{name}.skip")
    x = convs(x, [1] if light else [1, 3, 1], f"{name}.before")
    pooled = [x, *(max_pool(x, size, 1, name=f"{name}.pool{size}") for size in sizes)]
    x = layers.Concatenate(name=f"{name}.pools")(pooled[::-1] if light else pooled)
    x = convs(x, [1], f"{name}.pooled") if light else convs(x, [1, 3], f"{name}.after")
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def elan(
    images,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    hidden: Channels = 64,
    activation: str = "silu",
    epsilon: OpenProbability = 1e-3,
    name="backbone",
):
    """The backbone of YOLOv7 and YOLOv7-X.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        depth: factor on the four 3x3 convolutions of a block. Models that concatenate are scaled so: what a block joins
            is wider then, and the channels between the blocks follow by width. YOLOv7-X has 1.5 with a width of 1.25.
        width: factor on the channels between the blocks.
        hidden: channels of the 3x3 convolutions at p2; twice as many at p3, four times at p4 and p5.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 512], "p4": [B, H / 16, W / 16, 1024], "p5": [B, H / 32, W / 32, 1024]}, channels times
        width.

    Source: Wang et al. 2022, arXiv:2207.02696, section 3.2 and figure 2c.
    """
    options = {"activation": activation, "epsilon": epsilon}

    def channels(count):
        return scaled(count, width)

    x = silu_conv(images, channels(32), 3, **options, name=f"{name}.stem1")
    x = silu_conv(x, channels(64), 3, 2, **options, name=f"{name}.stem2")
    x = silu_conv(x, channels(64), 3, **options, name=f"{name}.stem3")
    x = silu_conv(x, channels(128), 3, 2, **options, name=f"{name}.p2.down")
    features = {}
    for level, factor, count in (("p2", 1, 256), ("p3", 2, 512), ("p4", 4, 1024), ("p5", 4, 1024)):
        if level != "p2":
            x = pooled_down(x, x.shape[-1], **options, name=f"{name}.{level}.down")
        block = {"hidden": factor * hidden, "convs": round(4 * depth)}
        x = elan_block(x, channels(count), **block, **options, name=f"{name}.{level}")
        features[level] = x
    return {level: features[level] for level in ("p3", "p4", "p5")}


def elan_tiny(
    images,
    *,
    width: Factor = 1.0,
    hidden: Channels = 32,
    activation: str = "leaky",
    epsilon: OpenProbability = 1e-3,
    name="backbone",
):
    """YOLOv7-tiny's backbone: ELANs of two 3x3 convolutions, all joined, with max pools between.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        width: factor on all channels.
        hidden: channels of the 3x3 convolutions at p2, before width; they double at each further level.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.

    Source: the configuration published with YOLOv7-tiny (Wang et al. 2022, arXiv:2207.02696).
    """
    options = {"activation": activation, "epsilon": epsilon}

    def block(x, channels, hidden, name):
        return elan_block(x, channels, hidden=scaled(hidden, width), convs=2, every=1, **options, name=name)

    return pooled_stages(images, block, width=width, hidden=hidden, **options, name=name)


def pooled_stages(images, block, *, width, hidden, name, **options):
    """YOLOv7-tiny's frame, in which blocks are compared: a block at each of p2 to p5, with max pools between.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        block: (x, channels, hidden, name=) -> [B, h, w, channels]; hidden is the level's.
        width: factor on the channels, those of `hidden` excepted.
        hidden: at p2; it doubles at each further level.
        name: of the layers.
        options: activation and epsilon of silu_conv.

    Returns:
        {"p3": [B, H / 8, W / 8, 128], "p4": [B, H / 16, W / 16, 256], "p5": [B, H / 32, W / 32, 512]}, channels times
        width.
    """
    x = silu_conv(images, scaled(32, width), 3, 2, **options, name=f"{name}.stem")
    x = silu_conv(x, scaled(64, width), 3, 2, **options, name=f"{name}.p2.down")
    features = {}
    for i, level in enumerate(("p2", "p3", "p4", "p5")):
        if level != "p2":
            x = max_pool(x, name=f"{name}.{level}.down")
        x = features[level] = block(x, scaled(64 << i, width), hidden << i, name=f"{name}.{level}")
    return {level: features[level] for level in ("p3", "p4", "p5")}


def elan_p6(
    images,
    *,
    depth: Factor = 1.0,
    width: Factor = 1.0,
    hidden: Channels = 64,
    cardinality: Repeats = 1,
    pooled: bool = False,
    activation: str = "silu",
    name="backbone",
):
    """The backbone of YOLOv7-W6, E6, D6 and E6E.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        depth: factor on the four 3x3 convolutions of a block; 1.5 in E6 and E6E, 2 in D6.
        width: factor on the channels between the blocks; 1.25 in E6 and E6E, 1.5 in D6.
        hidden: channels of the 3x3 convolutions at p2; 2, 4, 6 and 8 times as many at p3 to p6.
        cardinality: ELANs side by side in a block; 2 in E6E.
        pooled: whether a max pool stands beside the strided convolution, as in all but W6.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 256], "p4": [B, H / 16, W / 16, 512], "p5": [B, H / 32, W / 32, 768], "p6": [B, H / 64,
        W / 64, 1024]}, channels times width.

    Source: Wang et al. 2022, arXiv:2207.02696, figures 2c and 2d, and the configurations published with the models.
    """
    options = {"activation": activation}
    x = SpaceToDepth(name=f"{name}.stem.depth")(images)
    x = silu_conv(x, scaled(64, width), 3, **options, name=f"{name}.stem")
    features = {}
    for level, factor, count in (("p2", 1, 128), ("p3", 2, 256), ("p4", 4, 512), ("p5", 6, 768), ("p6", 8, 1024)):
        channels, prefix = scaled(count, width), f"{name}.{level}"
        if pooled:
            x = pooled_down(x, channels, reduced=x.shape[-1], **options, name=f"{prefix}.down")
        else:
            x = silu_conv(x, channels, 3, 2, **options, name=f"{prefix}.down")
        block = {"cardinality": cardinality, "hidden": factor * hidden, "convs": round(4 * depth)}
        x = features[level] = e_elan(x, channels, **block, **options, name=prefix)
    return {level: features[level] for level in ("p3", "p4", "p5", "p6")}
