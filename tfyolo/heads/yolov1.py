"""YOLOv1's fully connected head."""

import math

from keras import initializers, layers

from tfyolo.config.ranges import BelowOne, Channels, Side
from tfyolo.heads.layers import declared, split_parts


def grid(
    features,
    parts,
    num_anchors,
    *,
    units: Channels | None = 4096,
    dropout: BelowOne = 0.5,
    side: Side | None = None,
    name="head",
):
    """YOLOv1's fully connected head.

    Classes are predicted once a cell: raw["cls"] has A = 1. The order of the outputs is Darknet's: classes of all
    cells, then objectness, then boxes.

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        units: of the hidden layer with its dropout; None: there is neither.
        dropout: the share of units dropped in training, 0..1.
        side: of the grid, in cells; None: the feature's.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}.

    Raises:
        ValueError: the input size is open.

    Source: Redmon et al. 2016, arXiv:1506.02640, section 2.1.
    """
    ((level, x),) = features.items()
    if None in x.shape[1:]:
        raise ValueError(
            "expected one input size, since this head is fully connected, received any, as for multi_scale and "
            "--any-size"
        )
    height, width = (side, side) if side else x.shape[1:3]
    x = layers.Flatten(data_format="channels_last", name=f"{name}.flatten")(x)
    if units:
        x = layers.Dense(units, name=f"{name}.hidden")(x)
        x = layers.LeakyReLU(negative_slope=0.1, name=f"{name}.act")(x)
        x = layers.Dropout(dropout, name=f"{name}.dropout")(x)
    shapes = {part: (height, width, 1 if part == "cls" else num_anchors, parts[part]) for part in ("cls", "obj", "box")}
    last = layers.Dense(
        sum(math.prod(shape) for shape in shapes.values()),
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        name=f"{name}.out",
    )
    x = declared(last, *(([part], math.prod(shape[:-1])) for part, shape in shapes.items()))(x)
    flat = split_parts(x, {part: math.prod(shape) for part, shape in shapes.items()})
    return {part: {level: layers.Reshape(shapes[part], name=f"{name}.{part}")(flat[part])} for part in parts}
