"""YOLOv7's blocks and backbones: ELAN (Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696)."""

from keras import layers

from tfyolo.config.ranges import Channels, Factor, OpenProbability, Repeats
from tfyolo.nn.blocks import scaled, silu_conv
from tfyolo.nn.pooling import max_pool
from tfyolo.nn.resample import SpaceToDepth


def elan_block(x, channels, *, hidden, inner=None, convs=4, every=2, name, **options):
    """YOLOv7's block, an efficient layer aggregation network (Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696, figure 2c).

    Two 1x1 convolutions to `hidden` channels; behind one of them a chain of 3x3 convolutions of `inner` channels (None: as many). Both,
    and every so-many-th link of the chain counted from its end, are joined by a 1x1 convolution. options: of silu_conv.
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
    """YOLOv7's extended ELAN (arXiv:2207.02696, section 3.1, figure 2d): expand, shuffle and merge cardinality.

    Grouped convolutions whose groups are shuffled, joined and added up are so many ELANs side by side whose outputs are added.
    """
    if cardinality == 1:
        return elan_block(x, channels, name=name, **options)
    groups = [elan_block(x, channels, name=f"{name}.group{i + 1}", **options) for i in range(cardinality)]
    return layers.Add(name=f"{name}.add")(groups)


def pooled_down(x, channels, *, reduced=None, name, **options):
    """YOLOv7's way to half the grid: a strided convolution beside a max pool, half the channels from each.

    reduced: the channels before the strided convolution; None: half, too. options: of silu_conv.
    """
    pooled = max_pool(x, name=f"{name}.pool")
    pooled = silu_conv(pooled, channels // 2, 1, **options, name=f"{name}.pooled")
    y = silu_conv(x, reduced or channels // 2, 1, **options, name=f"{name}.reduce")
    y = silu_conv(y, channels // 2, 3, 2, **options, name=f"{name}.strided")
    return layers.Concatenate(name=f"{name}.concat")([y, pooled])


def sppcspc(x, channels, *, sizes=(5, 9, 13), light=False, name, **options):
    """YOLOv7's spatial pyramid pooling, cross-stage partial: one half is pooled, the other skips it.

    light: without the 3x3 convolutions and the 1x1 beside them, as in YOLOv7-tiny, which joins the largest window first.
    options: of silu_conv.
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
    """The backbone of YOLOv7 and YOLOv7-X: p3 (512 channels), p4 (1024), p5 (1024).

    depth, width: compound scaling for models that concatenate (section 3.2): depth is a factor on a block's 3x3 convolutions, four;
    what they join is so much wider then, and what lies between the blocks follows by width. 1.5 goes with 1.25: X. hidden: the channels
    of the 3x3 convolutions at p2; further on two and four times as many.
    activation: one of nn.activations.ACTIVATIONS. epsilon: of the batch norms; Darknet's is 1e-5.
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
    """The backbone of YOLOv7-tiny: ELANs of two 3x3 convolutions, all joined; max pools between. p3 (128), p4 (256), p5 (512).

    width: factor on all channels. hidden: those of the 3x3 convolutions at p2, before that; further on twice as many at each level.
    activation, epsilon: as of elan.
    """
    options = {"activation": activation, "epsilon": epsilon}

    def block(x, channels, hidden, name):
        return elan_block(x, channels, hidden=scaled(hidden, width), convs=2, every=1, **options, name=name)

    return pooled_stages(images, block, width=width, hidden=hidden, **options, name=name)


def pooled_stages(images, block, *, width, hidden, name, **options):
    """A block at each of p2 (64 channels) to p5 (512), with max pools between: YOLOv7-tiny's frame, for blocks that are to be compared.

    block: (x, channels, hidden, name=) -> x of so many channels; hidden is the level's. options: of silu_conv.
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
    """The backbone of YOLOv7-W6, and of E6, D6 and E6E: p3 (256 channels), p4 (512), p5 (768), p6 (1024).

    depth, width, hidden: as of elan; 1.5 goes with 1.25 (E6), 2 with 1.5 (D6). cardinality: ELANs side by side (E6E: 2).
    pooled: the grid is halved by a max pool beside the strided convolution, as in all but W6. activation: of nn.activations.
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
