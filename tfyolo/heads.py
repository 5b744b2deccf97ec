"""Heads: Features -> Raw {part: {level: [B, h, w, A, Z]}}.

    def coupled(features, parts, num_anchors, *, name="head") -> Raw

features: Features. parts: {part: channels Z}, in order, and num_anchors: A, the boxes a cell proposes, are the
decoder's. name: a prefix of the layers' names. Docstrings name the options only.
"""

import functools
import math

import keras
import numpy as np
from keras import initializers, layers, ops

from tfyolo.config.ranges import BelowOne, Channels, Factor, Level, OpenProbability, Positive, Side
from tfyolo.nn.activations import activate
from tfyolo.nn.blocks import conv, repconv, silu_conv
from tfyolo.nn.pooling import CornerPool
from tfyolo.structures import level_stride, reads_aux


class PerAnchor(layers.Layer):
    """[B, h, w, count * Z] -> [B, h, w, count, Z]: a cell's outputs, box by box.

    Args:
        count: A.
    """

    quantization = "moves"

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        return ops.reshape(x, self.compute_output_shape(ops.shape(x)))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.count, shape[-1] // self.count)


class Implicit(layers.Layer):
    """Implicit knowledge: one learned number a channel, which does not depend on the image.

    Args:
        operation: "add": it is added; "multiply": it is a factor.

    Raises:
        ValueError: another operation.

    Source: Wang et al. 2021, "You Only Learn One Representation", arXiv:2105.04206.
    """

    fusion, quantization = "affine", "float"

    def __init__(self, operation, **kwargs):
        super().__init__(**kwargs)
        if operation not in ("add", "multiply"):
            raise ValueError(f"operation: expected add or multiply, received {operation!r}")
        self.operation = operation

    def build(self, shape):
        mean = 0.0 if self.operation == "add" else 1.0
        self.knowledge = self.add_weight((shape[-1],), keras.initializers.RandomNormal(mean, 0.02), name="knowledge")

    def call(self, x):
        knowledge = ops.cast(self.knowledge, x.dtype)
        return x + knowledge if self.operation == "add" else x * knowledge

    def affine(self):
        """(scale, shift), [C]: it computes x * scale + shift."""
        knowledge = ops.convert_to_numpy(self.knowledge)
        if self.operation == "add":
            return np.ones_like(knowledge), knowledge
        return knowledge, np.zeros_like(knowledge)

    def get_config(self):
        return super().get_config() | {"operation": self.operation}


def _split(x, parts):
    """[..., sum of Z] -> {part: [..., Z]}."""
    ends = np.cumsum(list(parts.values()))[:-1].tolist()
    return dict(zip(parts, ops.split(x, ends, axis=-1) if ends else [x], strict=True))


def _outputs(x, parts, num_anchors, biases, name, implicit=False):
    """The last 1x1 convolution of a level: [B, h, w, C] -> {part: [B, h, w, A, Z]}.

    biases: {part: the initial bias}, else 0. implicit: implicit knowledge is added before and multiplied after.
    """
    total = sum(parts.values())
    bias = np.concatenate([np.full(size, biases.get(part, 0.0)) for part, size in parts.items()])
    if implicit:
        x = Implicit("add", name=f"{name}.implicit_add")(x)
    x = layers.Conv2D(
        num_anchors * total,
        1,
        data_format="channels_last",
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        bias_initializer=initializers.Constant(np.tile(bias, num_anchors)),
        name=f"{name}.out",
    )(x)  # [B, h, w, A * Z]
    if implicit:
        x = Implicit("multiply", name=f"{name}.implicit_multiply")(x)
    x = PerAnchor(num_anchors, name=f"{name}.anchors")(x)  # [B, h, w, A, Z]
    return _split(x, parts)


def _prior_biases(parts, prior):
    """The initial biases with which an untrained head predicts an object with this probability in every cell."""
    logit = math.log(prior / (1 - prior))
    return {"obj": logit} if "obj" in parts else {"cls": logit}


def coupled(
    features,
    parts,
    num_anchors,
    *,
    channels: dict[Level, Channels] | None = None,
    activation: str = "leaky",
    prior: OpenProbability = 0.01,
    name="head",
):
    """YOLOv3's head: a 3x3 convolution, then a 1x1 to num_anchors * (y, x, h, w, objectness, K) channels.

    Args:
        channels: {level: channels of the 3x3 convolution}; else twice the feature's.
        activation: one of nn.activations.ACTIVATIONS, of that convolution.
        prior: the objectness, or the scores where there is none, of an untrained head, 0..1, so that the many empty
            cells do not dominate the first steps (Lin et al. 2017, arXiv:1708.02002, section 4.1).
    """
    raw, biases = {part: {} for part in parts}, _prior_biases(parts, prior)
    for level, x in features.items():
        width = (channels or {}).get(level, 2 * x.shape[-1])
        x = conv(x, width, 3, activation=activation, name=f"{name}.{level}")
        for part, values in _outputs(x, parts, num_anchors, biases, f"{name}.{level}").items():
            raw[part][level] = values
    return raw


@reads_aux
def implicit(
    features,
    parts,
    num_anchors,
    *,
    rep: bool = False,
    knowledge: bool = True,
    objects: Positive = 8.0,
    aux_width: Factor = 2.0,
    activation: str = "silu",
    epsilon: OpenProbability = 1e-3,
    name="head",
):
    """YOLOv7's head: a 3x3 convolution to twice the channels, and a 1x1.

    features.aux, which a neck gives for an auxiliary head, are read by a head like it (section 4.2), without rep and
    knowledge; it gives raw["aux"].

    Args:
        rep: the 3x3 convolution is re-parameterised (section 4.1); fuse() makes one convolution of its branches.
        knowledge: implicit knowledge is added before the last convolution and multiplied after it (YOLOR,
            arXiv:2105.04206); fuse() makes it part of the convolution.
        objects: how many an untrained head predicts in an image of 640 x 640, so that the many empty cells do not
            dominate the first steps.
        aux_width: the auxiliary head's 3x3 convolutions have so many times the features' channels.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.

    Source: Wang et al. 2022, arXiv:2207.02696.
    """
    options = {"activation": activation, "epsilon": epsilon}
    # Where an object is, an untrained head gives each class a score of about 0.6 / K.
    classes = math.log(0.6 / (parts["cls"] - 0.99))

    def head(features, first, width, knowledge, name):
        raw = {part: {} for part in parts}
        for level, x in features.items():
            x = first(x, int(width * x.shape[-1]), **options, name=f"{name}.{level}")
            biases = {"obj": math.log(objects / (640 / level_stride(level)) ** 2), "cls": classes}
            for part, values in _outputs(x, parts, num_anchors, biases, f"{name}.{level}", knowledge).items():
                raw[part][level] = values
        return raw

    plain = functools.partial(silu_conv, kernel=3)
    aux = {}
    if features.aux is not None:
        aux["aux"] = head(features.aux.levels, plain, aux_width, False, f"{name}.aux")
    return head(features.levels, repconv if rep else plain, 2, knowledge, name) | aux


def linear(features, parts, num_anchors, *, prior: OpenProbability = 0.01, name="head"):
    """The last 1x1 convolution alone: for necks that end in the head's other convolutions.

    Args:
        prior: that of coupled.
    """
    raw, biases = {part: {} for part in parts}, _prior_biases(parts, prior)
    for level, x in features.items():
        for part, values in _outputs(x, parts, num_anchors, biases, f"{name}.{level}").items():
            raw[part][level] = values
    return raw


def decoupled(
    features,
    parts,
    num_anchors,
    *,
    objects: Positive = 5.0,
    depthwise: bool = False,
    activation: str = "silu",
    dual: bool = False,
    name="head",
):
    """YOLOv8's head: boxes and classes have branches of their own, of two 3x3 convolutions and a 1x1 each.

    The objectness, if the decoder has it, comes from the boxes' branch, as in YOLOX (Ge et al. 2021, arXiv:2107.08430,
    figure 2). The widths of both branches follow from the finest feature's, C: max(16, C / 4, the boxes' channels) and
    max(C, min(K, 100)).

    Args:
        objects: how many an untrained head predicts in an image of 640 x 640, so that the many empty cells do not
            dominate the first steps.
        depthwise: the classes' 3x3 convolutions are a depthwise one and a 1x1 each, as in YOLO11.
        activation: one of nn.activations.ACTIVATIONS; relu or relu6 for accelerators without SiLU.
        dual: two heads, as in YOLOv10 (Wang et al. 2024, arXiv:2405.14458, section 3.1). The gradients of raw["aux"],
            with many candidates for each ground truth, train what lies before the head. The main head reads the same
            features through a stopped gradient, and can so learn to give each object once.
    """
    if dual:
        options = {"objects": objects, "depthwise": depthwise, "activation": activation}
        given = {level: ops.stop_gradient(x) for level, x in features.items()}
        raw = decoupled(given, parts, num_anchors, **options, name=name)
        return raw | {"aux": decoupled(features, parts, num_anchors, **options, name=f"{name}.aux")}
    finest = features[min(features)].shape[-1]
    located = {part: size for part, size in parts.items() if part != "cls"}
    widths = {
        "box": max(16, finest // 4, sum(located.values())),
        "cls": max(finest, min(parts["cls"], 100)),
    }
    raw = {part: {} for part in parts}
    for level, x in features.items():
        chance = objects / (640 / level_stride(level)) ** 2
        # A distribution needs no initial bias: its softmax would cancel it.
        biases = {"obj": math.log(chance)} if "obj" in parts else {"cls": math.log(chance / parts["cls"])}
        for branch, own in (("box", located), ("cls", {"cls": parts["cls"]})):
            prefix, y = f"{name}.{level}.{branch}", x
            for i in (1, 2):
                kernel = 3
                if depthwise and branch == "cls":
                    channels, kernel = y.shape[-1], 1
                    y = silu_conv(y, channels, 3, groups=channels, activation=activation, name=f"{prefix}.depth{i}")
                y = silu_conv(y, widths[branch], kernel, activation=activation, name=f"{prefix}.conv{i}")
            for part, values in _outputs(y, own, num_anchors, biases, prefix).items():
                raw[part][level] = values
    return raw


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
        units: of the hidden layer with its dropout; None: there is neither.
        dropout: the share of units dropped in training, 0..1.
        side: of the grid, in cells; None: the feature's.

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
    x = layers.Dense(
        sum(math.prod(shape) for shape in shapes.values()),
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        name=f"{name}.out",
    )(x)
    flat = _split(x, {part: math.prod(shape) for part, shape in shapes.items()})
    return {part: {level: layers.Reshape(shapes[part], name=f"{name}.{part}")(flat[part])} for part in parts}


def ssd(features, parts, num_anchors, *, name="head"):
    """SSD's head: a 3x3 convolution for boxes and one for classes, on each feature map.

    Source: Liu et al. 2016, arXiv:1512.02325, figure 2.
    """
    # It reads the channels of all levels of a pyramid: with Xavier's weights its first logits would be in the dozens.
    options = {"padding": "same", "data_format": "channels_last"}
    options["kernel_initializer"] = initializers.RandomNormal(stddev=0.01)
    raw = {part: {} for part in parts}
    for level, x in features.items():
        for part, size in parts.items():
            prefix = f"{name}.{level}.{part}"
            y = layers.Conv2D(num_anchors * size, 3, **options, name=f"{prefix}.out")(x)
            raw[part][level] = PerAnchor(num_anchors, name=f"{prefix}.anchors")(y)
    return raw


# The directions that each corner is pooled along: a top left one sees what lies below it and to its right.
CORNERS = {"top_left": ("down", "right"), "bottom_right": ("up", "left")}


@reads_aux
def corner(features, parts, num_anchors, *, channels: Channels = 128, prior: OpenProbability = 0.1, name="head"):
    """CornerNet's head: corner pooling, then branches for heatmaps, embeddings and offsets.

    A = 2 are the two corners, top left and bottom right. Each stack's features, nested as aux, have a head
    of their own.

    Args:
        channels: of the maps that are pooled.
        prior: the score of every cell of an untrained head, 0..1.

    Raises:
        ValueError: the decoder is not that of corners.

    Source: Law and Deng 2018, arXiv:1808.01244, figure 7.
    """
    if num_anchors != 2 or "embed" not in parts:
        raise ValueError("corner: expected the decoder of corners (model.decoder: corner)")
    raw = {part: {} for part in parts}
    biases = _prior_biases(parts, prior)
    relu_conv = functools.partial(conv, activation="relu")
    for level, x in features.levels.items():
        both = {part: [] for part in parts}
        for which, directions in CORNERS.items():
            prefix = f"{name}.{level}.{which}"
            pooled = [
                CornerPool(direction, name=f"{prefix}.{direction}.pool")(
                    relu_conv(x, channels, 3, name=f"{prefix}.{direction}")
                )
                for direction in directions
            ]
            y = layers.Add(name=f"{prefix}.sum")(pooled)
            y = conv(y, x.shape[-1], 3, activation="linear", name=f"{prefix}.pooled")
            skip = conv(x, x.shape[-1], 1, activation="linear", name=f"{prefix}.skip")
            y = activate(layers.Add(name=f"{prefix}.add")([y, skip]), "relu", name=prefix)
            y = relu_conv(y, x.shape[-1], 3, name=f"{prefix}.join")
            for part, size in parts.items():
                branch = relu_conv(y, x.shape[-1], 3, norm=False, name=f"{prefix}.{part}")
                both[part].append(_outputs(branch, {part: size}, 1, biases, f"{prefix}.{part}")[part])
        for part, corners in both.items():
            raw[part][level] = layers.Concatenate(axis=3, name=f"{name}.{level}.{part}")(corners)
    if features.aux is not None:
        options = {"channels": channels, "prior": prior, "name": f"{name}.aux"}
        raw["aux"] = corner(features.aux, parts, num_anchors, **options)
    return raw


HEADS = {
    "coupled": coupled,
    "implicit": implicit,
    "linear": linear,
    "decoupled": decoupled,
    "grid": grid,
    "ssd": ssd,
    "corner": corner,
}
