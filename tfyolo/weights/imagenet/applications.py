"""The ImageNet weights of keras.applications, which Keras fetches into its cache."""

import os
import re
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfyolo.backbones.applications import application, entry, layer_names
from tfyolo.graph.nodes import readers_of
from tfyolo.origin import Origin
from tfyolo.weights.runs import WeightsError

# By the beginnings of the models' names; of the weights, which are not all of Keras's own training.
LICENCES = {
    **dict.fromkeys(("MobileNet", "EfficientNet", "Inception", "NASNet"), "Apache-2.0"),
    **dict.fromkeys(("ResNet", "Xception"), "MIT"),
    "DenseNet": "BSD-3-Clause",
    "VGG": "CC BY 4.0",
}


def find(options):
    """The file of weights that the option `weights` names; Keras fetches "imagenet" if it is not in its cache.

    Args:
        options: of the backbone.

    Returns:
        pathlib.Path: the option's own file, or Keras's cache.

    Raises:
        ValueError: there is none, with which file to put where.
    """
    model, weights = options["model"], options["weights"]
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise ValueError(
                f"expected imagenet or the path of a file of {model}, received {weights}, where no file is"
            )
        return Path(weights)
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models")
    try:
        application(model, options.get("arguments"), weights)
    except ValueError:
        raise
    except Exception as error:  # get_file raises no narrower one
        address = re.search(r"https?://\S+\.h5", str(error))
        if address is None:
            raise
        raise ValueError(
            f"expected the ImageNet weights of {model} in Keras's cache, or a network to fetch them from, received "
            f"neither; put {address[0]} at {cache / address[0].rpartition('/')[2]}, or train from scratch: "
            "model.backbone.weights=null"
        ) from error
    return cache


def origin(options):
    """The Origin of the weights of a model of keras.applications; options: of the backbone."""
    model = options["model"]
    licence = next((licence for start, licence in LICENCES.items() if model.startswith(start)), None)
    return Origin(f"{model} (ImageNet)", licence, "https://keras.io/api/applications")


def read(path, options):
    """The backbone's weights of a model of keras.applications.

    Args:
        path: of the file, from find.
        options: of the backbone.

    Returns:
        ({"backbone.layer/variable": array} of all layers but the classifier's, one line about them).

    Raises:
        WeightsError: the file is another model's.
    """
    model, weights = options["model"], options["weights"]
    try:
        published = application(model, options.get("arguments"), "imagenet" if weights == "imagenet" else str(path))
    except (ValueError, OSError, KeyError) as error:
        first = str(error).partition("\n")[0][:200]
        raise WeightsError(
            f"{path}: expected weights of {model} without its classifier, received others: {first}"
        ) from None
    start, names = entry(model, published), layer_names(published)
    arrays, firsts = {}, {layer.name for layer in _first_convolutions(start.tensor)}
    for layer in published.layers:
        if layer.name in start.layers:
            continue
        ours = f"backbone.{names[layer.name]}"
        if isinstance(layer, layers.BatchNormalization):
            variables = {name: getattr(layer, name) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
            plain = {"gamma": np.ones, "beta": np.zeros}
            arrays |= {
                f"{ours}/{name}": plain[name](layer.moving_mean.shape, "float32")
                if value is None
                else np.asarray(value)
                for name, value in variables.items()
            }
            continue
        for variable in layer.weights:
            array = np.asarray(variable)
            if layer.name in firsts and array.ndim == 4:
                array = np.einsum("hwjo,ji->hwio", array, start.matrix).astype("float32")
            arrays[f"{ours}/{variable.path.removeprefix(f'{layer.name}/')}"] = array
    kind = "ImageNet weights" if weights == "imagenet" else "weights"
    return arrays, f"{kind} of {model}, of keras.applications, without the classifier"


def _first_convolutions(tensor):
    """[layer] that convolves the normalised images: their reader, behind padding; or one that holds such a layer."""
    found = []
    for layer in readers_of(tensor):
        if isinstance(layer, layers.ZeroPadding2D):
            found += _first_convolutions(layer.output)
        elif isinstance(layer, layers.Conv2D | keras.Sequential):
            found.append(layer)
        else:
            raise WeightsError(
                f"{layer.name}: expected a convolution of the normalised images, received {type(layer).__name__}"
            )
    return found
