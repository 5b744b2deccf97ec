"""The models of keras.applications as backbones, with the batch norms and activations of this package."""

import inspect
import math
import re
import sys
import warnings
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tfyolo.backbones.imagenet import Centred
from tfyolo.graph.nodes import copied, nodes, readers_of, source
from tfyolo.nn.norm import BatchNorm

# Of ImageNet's pixels, red, green, blue, 0..1; what Keras's EfficientNet takes from its file of weights.
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
STRIDES = {"p3": 8, "p4": 16, "p5": 32}
SIDE = 256  # pixels of the model whose layers are read; a multiple of all strides


class Entry(NamedTuple):
    """How a model normalises its input: matrix @ (pixel - colour), of (red, green, blue) in 0..1.

    Attributes:
        colour: [3], what becomes 0.
        matrix: [3, 3].
        layers: names of the layers that do it, as far as layers do.
        tensor: what they output, which the network itself reads.
    """

    colour: np.ndarray
    matrix: np.ndarray
    layers: tuple[str, ...]
    tensor: keras.KerasTensor


def application(model, arguments=None, weights=None):
    """A model of keras.applications without its classifier, for images of 256 x 256.

    Args:
        model: its name there, such as "MobileNetV3Large".
        arguments: of its builder, such as {"alpha": 0.75}.
        weights: None, "imagenet" (Keras fetches them into its cache), or a path.

    Returns:
        keras.Model.

    Raises:
        ValueError: there is no such model or argument.
    """
    choices = [name for name in dir(keras.applications) if name[0].isupper()]
    if model not in choices:
        raise ValueError(f"model: expected one of {', '.join(choices)}, received {model!r}")
    builder, given = getattr(keras.applications, model), {"include_top": False, "input_shape": (SIDE, SIDE, 3)}
    known = inspect.signature(builder).parameters.keys() - given.keys() - {"weights", "name", "input_tensor"}
    if wrong := sorted((arguments or {}).keys() - known):
        raise ValueError(f"arguments: expected some of {', '.join(sorted(known))}, received {', '.join(wrong)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that published weights were trained on other sizes
        return builder(**given, weights=weights, **(arguments or {}))


def entry(model, published):
    """The Entry of a model of keras.applications, from its preprocess_input and its first layers.

    Args:
        model: its name there.
        published: what application() made of it.
    """
    preprocess = sys.modules[getattr(keras.applications, model).__module__].preprocess_input
    pixels = np.concatenate([np.zeros((1, 3)), np.eye(3)]).reshape(4, 1, 1, 3)
    found = np.array(preprocess((255 * pixels).astype("float64"), data_format="channels_last")).reshape(4, 3)
    shift, matrix, x, names = found[0], (found[1:] - found[0]).T, published.input, []
    while len(readers := readers_of(x)) == 1 and isinstance(readers[0], layers.Rescaling | layers.Normalization):
        (layer,) = readers
        if isinstance(layer, layers.Rescaling):
            scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
        else:
            known = layer.input_mean is not None
            mean = np.ravel(layer.input_mean) if known else MEAN
            scale = 1 / (np.sqrt(np.ravel(layer.input_variance)) if known else DEVIATION)
            offset = -mean * scale
        shift, matrix = shift * scale + offset, matrix * np.broadcast_to(scale, 3)[:, None]
        x = layer.output
        names.append(layer.name)
    return Entry(np.linalg.solve(matrix, -shift), matrix, tuple(names), x)


def layer_names(published):
    """Names the layers of a model by their level, the same in every process, whatever was built before.

    Args:
        published: what application() made of it.

    Returns:
        {name of a layer: "p3.its name", or where Keras named it, "p3.conv2d4"}.
    """
    count, names, level = {}, {}, 0
    for layer in published.layers:
        shape = layer.output.shape
        if len(shape) == 4 and shape[1] >= SIDE // max(STRIDES.values()):  # squeezed maps are of the level before
            level = round(math.log2(SIDE / shape[1]))
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
        own = layer.name
        if re.fullmatch(rf"{kind}(_\d+)?", own):
            count[kind] = count.get(kind, 0) + 1
            own = f"{kind}{count[kind]}"
        names[layer.name] = f"p{level}.{own}"
    return names


def _feature_maps(model, published, start):
    """{level: tensor}: the last map at each stride that all that follows is computed from.

    Where it is a mere 1x1 expansion, the first layers of the next block, it is what that reads.
    """
    order, _ = nodes(published)
    place = {id(x): i for i, node in enumerate(order) for x in node.output_tensors}
    last_read = {}
    for i, node in enumerate(order):
        last_read |= {id(x): i for x in node.input_tensors}
    found, reach = {}, 0  # reach: the last place at which something before this one is read
    for i, node in enumerate(order):
        (x,) = node.output_tensors
        stride = SIDE / x.shape[1] if len(x.shape) == 4 else 0
        if reach <= i and i >= place[id(start)] and x.shape[1:3] == (SIDE // (stride or 1),) * 2:
            found[stride] = x
        reach = max(reach, last_read.get(id(x), len(order)))
    missing = [stride for stride in STRIDES.values() if stride not in found]
    if missing:
        raise ValueError(
            "model: expected one that has, at each of the strides 8, 16 and 32, a feature map that all later layers "
            f"depend on, received {model} without one at {missing[0]}"
        )
    return {level: _before_expansion(found[stride]) for level, stride in STRIDES.items()}


def _before_expansion(x):
    given = x
    while True:
        layer, sources, _ = source(x)
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == layer.strides == (1, 1) and layer.groups == 1:
            return sources[0] if sources[0].shape[-1] < x.shape[-1] else given
        if not isinstance(layer, layers.BatchNormalization | layers.Activation | layers.ReLU):
            return given
        (x,) = sources


# Layers that compute as one of another class, which int8 knows.
_CLIPS = {None: ops.relu, 6.0: ops.relu6}


def _twin(layer, name):
    """[layers] of ours that compute, one behind the other, what a layer of a model does."""
    if not isinstance(layer, layers.Layer):
        return [copied(layer)]
    if isinstance(layer, layers.BatchNormalization):
        return [BatchNorm(epsilon=layer.epsilon, name=name)]
    if isinstance(layer, layers.Activation):
        return [layers.Activation(layer.activation, name=name)]
    if (
        isinstance(layer, layers.ReLU)
        and layer.max_value in _CLIPS
        and not layer.negative_slope
        and not layer.threshold
    ):
        return [layers.Activation(_CLIPS[layer.max_value], name=name)]
    config = layer.get_config() | {"name": name}
    config.pop("dtype", None)  # of the policy that the network is built under
    activation = getattr(layer, "activation", None) if isinstance(layer, layers.Conv2D) else None
    if activation in (None, keras.activations.linear):
        return [type(layer).from_config(config)]
    plain = type(layer).from_config(config | {"activation": None})
    return [plain, layers.Activation(activation, name=f"{name}.act")]


def applications(
    images,
    *,
    model: str,
    arguments: dict[str, bool | int | float | str] | None = None,
    weights: str | None = None,
    name="backbone",
):
    """A model of keras.applications, up to its classifier.

    A level's feature map is the last one at its stride that all that follows is computed from, before a mere 1x1
    expansion. The input is normalised as the model expects it: by a colour that is subtracted, and by factors that
    become part of the first convolution with the weights. Batch norms are this package's, over the whole global batch.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        model: its name in keras.applications, such as MobileNetV3Large.
        arguments: of its builder, such as {alpha: 0.75} or {minimalistic: true}.
        weights: "imagenet", which Keras fetches into its cache, or the path of such a file without the classifier
            (notop): training starts from them, unless train.init names others. None: from scratch.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, C3], "p4": [B, H / 16, W / 16, C4], "p5": [B, H / 32, W / 32, C5]}, the model's own
        channels.

    Raises:
        ValueError: there is no such model or argument, or it has no such maps.
    """
    published = application(model, arguments)
    for layer in published.layers:
        if any(re.fullmatch(r"variable(_\d+)?", variable.name) for variable in layer.weights):
            raise ValueError(
                "model: expected one whose variables have names, by which a run's weights are found again, received "
                f"{model}, whose {layer.name} has some without"
            )
    start, names = entry(model, published), layer_names(published)
    taps = _feature_maps(model, published, start.tensor)
    order, _ = nodes(keras.Model(published.input, list(taps.values())))
    values, twins = {id(start.tensor): Centred(start.colour, name=f"{name}.centred")(images)}, {}
    for node in order:
        layer = node.operation
        if node.is_input or layer.name in start.layers:
            continue
        if layer not in twins:
            twins[layer] = _twin(layer, f"{name}.{names.get(layer.name, layer.name)}")
        args, kwargs = node.arguments.fill_in({id(x): values[id(x)] for x in node.input_tensors})
        first, *others = twins[layer]
        same = type(first) is type(layer)
        x = first(*args, **(kwargs if same else {}))  # Keras's batch norm is called with more
        for other in others:
            x = other(x)
        values[id(node.output_tensors[0])] = x
    return {level: values[id(x)] for level, x in taps.items()}
