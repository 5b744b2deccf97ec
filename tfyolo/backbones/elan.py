"""YOLOv7's backbones: stages of ELAN blocks (Wang et al. 2022, arXiv:2207.02696)."""

from tfyolo.layers import SpaceToDepth, e_elan, elan_block, max_pool, pooled_down, scaled, silu_conv
from tfyolo.ranges import Channels, Factor, OpenProbability, Repeats


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
    activation: one of layers.ACTIVATIONS. epsilon: of the batch norms; Darknet's is 1e-5.
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
    pooled: the grid is halved by a max pool beside the strided convolution, as in all but W6. activation: one of layers.ACTIVATIONS.
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
