"""Weights to begin training with: those of a run or an import, published ones, or a backbone alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfyolo import checkpoint, hdf5
from tfyolo import config as configs
from tfyolo.backbones.resnet import IMAGENET_MEAN
from tfyolo.files import address, here
from tfyolo.graph.pairing import in_file_order
from tfyolo.graph.unfusing import renormalised, with_norms
from tfyolo.messages import listed, printable
from tfyolo.model import weights_file
from tfyolo.nn.norm import BatchNorm
from tfyolo.origin import Origin, to_meta
from tfyolo.weights import named
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import layout
from tfyolo.weights.darknet.text import DarknetError
from tfyolo.weights.fetch import fetched
from tfyolo.weights.imagenet import PRETRAINED
from tfyolo.weights.published import is_backbone, origin_of
from tfyolo.weights.runs import origin_of_file
from tfyolo.weights.transfer import transferred


class _Given(NamedTuple):
    """Weights to begin with.

    Attributes:
        arrays: {variable's path: array}.
        classes: names in label order; None: they are of a backbone.
        origin: their Origin; None: they began at random.
        darknet: what the way back to Darknet needs; None without.
        left: how many floats of the file were left aside.
    """

    arrays: dict
    classes: tuple | None
    origin: Origin | None
    darknet: dict | None = None
    left: int = 0


def initialise(model, path, images=None):
    """Puts what fits into a Model, part by part (backbone, neck, head), as transfer.transferred does.

    Args:
        model: the Model.
        path: a run's folder, a .h5 file, a backbone's of keras.applications (resnet50_..._notop.h5,
            vgg16_..._kernels.h5), or of Darknet (darknet53.conv.74); or a name of published weights.
        images: () -> batches of training images [B, H, W, 3] in 0..1, from which batch norms get statistics that were
            published fused; None: they stay without.

    Returns:
        (report, meta, ready). report: lines that say what was kept and what was re-initialised. meta: for the files of
        the run: "origin", and "darknet", which the way back needs, if all parts came from there. ready: whether the
        Model detects all its classes now, as it did there.

    Raises:
        CheckpointError, DarknetError, TorchError, FetchError: it cannot be read, or nothing fits.
    """
    given = _given(model, here(path) if address(path) else path)
    normed = with_norms(model.network, given.arrays)
    if normed is not given.arrays:  # Darknet's .cfg knows nothing of the norms
        given = given._replace(arrays=normed, darknet=None)
    transfer = transferred(model, given.arrays, given.classes)
    if not transfer.arrays:
        raise checkpoint.CheckpointError(
            f"{path}: expected weights for {model.config.name}, nothing fits: " + "; ".join(transfer.report)
        )
    checkpoint.assign(model.network, checkpoint.weights_of(model.network) | transfer.arrays, source=str(path))
    report = list(transfer.report)
    kept_layers = {name.partition("/")[0] for name in transfer.arrays}
    if images is not None and (count := renormalised(model.network, images, kept_layers)):
        report.append(
            f"batch norms: {count} came fused with their convolutions; they have statistics of training images now, "
            "and the network computes the same"
        )
    if given.left:
        report.append(
            f"{given.left:,} floats after the backbone were left aside: `tfyolo import` places them, by the .cfg"
        )
    if given.origin:
        report.append(f"licence: {given.origin}")
    meta = {"origin": to_meta(given.origin)}
    darknet = {"darknet": given.darknet} if given.darknet and transfer.complete else {}
    return report, meta | darknet, transfer.ready


def _given(model, path):
    """The _Given at a path, or of a name."""
    if configs.is_published(str(path)) and is_backbone(str(path)):
        return _darknet_backbone(model, fetched(str(path))[0])._replace(origin=origin_of(str(path)))
    if configs.is_published(str(path)):
        found, meta, _ = named.load(str(path))
        return _Given(checkpoint.weights_of(found.network), found.classes, found.origin, meta.get("darknet"))
    published = _of_keras(path)
    if published is not None:
        arrays, origin = published
        _check_depth(path, checkpoint.weights_of(model.network), arrays, model.config.model.backbone.name)
        return _Given(arrays, None, origin)
    if Path(path).is_dir() or Path(path).suffix == ".h5":
        meta, arrays = checkpoint.load(weights_file(path), checkpoint.FOR_USE)
        return _Given(arrays, tuple(meta["classes"]), checkpoint.origin_of(meta), meta.get("darknet"))
    if Path(path).suffix != ".weights" and (fault := configs.foreign(path, "a run's folder or a file of weights")):
        raise checkpoint.CheckpointError(fault)
    return _darknet_backbone(model, path)


def _darknet_backbone(model, path):
    if "darknet" not in model.config.model.backbone.name:
        raise DarknetError(
            f"{path}: a file without its .cfg begins a backbone of Darknet's own, not "
            f"{model.config.model.backbone.name}; import "
            "the whole network with its .cfg (tfyolo import), and begin with that run"
        )
    arrays, left = _backbone(model.network, path)
    return _Given(arrays, None, origin_of_file(path), left=left)


def normalising(config):
    """The Config to train a Darknet network of whose convolutions none has a batch norm: behind each there is one.

    Args:
        config: a Config that training begins with.

    Returns:
        A Config: the given one, unless its backbone is such a network and train.init names its weights.
    """
    part = config.model.backbone
    sections = part.options.get("sections") if part.name == "darknet_cfg" else None
    convolutions = [each for each in sections or () if each.get("type") == "convolutional"]
    if not config.train.init or not convolutions or any(each.get("batch_normalize") for each in convolutions):
        return config
    sections = [each | {"batch_normalize": True} if each in convolutions else each for each in sections]
    backbone = part.model_copy(update={"sections": sections})
    return config.model_copy(update={"model": config.model.model_copy(update={"backbone": backbone})})


def find_pretrained(config):
    """The file of published weights that a backbone's option `weights` names; it may be fetched now.

    Args:
        config: a Config that training begins with.

    Returns:
        pathlib.Path; None where nothing is named, or train.init names weights for the whole network.

    Raises:
        ConfigError: it is not here, with what to put where.
    """
    part = config.model.backbone
    if config.train.init or part.name not in PRETRAINED or part.options.get("weights") is None:
        return None
    try:
        return PRETRAINED[part.name].find(part.options)
    except ValueError as error:
        raise config.error("model.backbone.weights", str(error)) from error


def initialise_backbone(model):
    """Puts published weights into a Model's backbone, if its option `weights` names some.

    Args:
        model: a Model.

    Returns:
        (report, meta), as initialise gives them; ([], {}) where nothing is named.

    Raises:
        ConfigError: from find_pretrained.
        CheckpointError, TorchError: they are another backbone's, or damaged.
    """
    path, part = find_pretrained(model.config), model.config.model.backbone
    if path is None:
        return [], {}
    arrays, line = PRETRAINED[part.name].read(path, part.options)
    own = checkpoint.weights_of(model.network)
    backbone = {name for name in own if name.startswith("backbone.")}
    if missing := sorted(backbone - arrays.keys()):
        raise checkpoint.CheckpointError(f"{path}: expected weights of {part.name}, missing: {listed(missing, 4)}")
    # What a model has behind the last feature map belongs to its classifier.
    checkpoint.assign(model.network, own | {name: arrays[name] for name in backbone}, source=str(path))
    origin = PRETRAINED[part.name].origin(part.options)
    return [line, f"licence: {origin}"], {"origin": to_meta(origin)}


def _of_keras(path):
    """({name of ours: array}, Origin) of a file of weights as keras.applications publishes them; None if it is none."""
    if Path(path).suffix != ".h5" or not Path(path).is_file():
        return None
    try:
        with hdf5.opened(path) as file:
            group = "model_weights" if "model_weights" in file else ""
            if not file.has_attribute("layer_names", group):
                return None
            published = file.arrays(group)  # "layer/...layer/kernel:0"
    except hdf5.HDF5Error as error:
        raise checkpoint.CheckpointError(
            f"{path}: expected a file of weights, but it does not read as one ({error})"
        ) from error
    layers = {}
    for name, array in published.items():
        layers.setdefault(name.partition("/")[0], []).append(array)
    if "block1_conv1" in layers:
        if "fc1" not in layers:
            raise checkpoint.CheckpointError(
                f"{path}: expected VGG-16 with its fully connected layers, of which the last two convolutions are "
                "made; this is the "
                "file without (notop), take vgg16_weights_tf_dim_ordering_tf_kernels.h5"
            )
        try:
            arrays = _vgg16({name: sorted(arrays, key=np.ndim, reverse=True) for name, arrays in layers.items()})
            return arrays, Origin(printable(Path(path).name), "CC BY 4.0")
        except (KeyError, IndexError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{path}: expected the layers of VGG-16, received others ({error})"
            ) from error
    arrays = {
        f"backbone.{name.partition('/')[0]}/{name.rpartition('/')[2].removesuffix(':0')}": values
        for name, values in published.items()
    }
    return arrays, Origin(printable(Path(path).name), "MIT" if "conv2_block1_1_conv" in layers else None)


def _vgg16(layers):
    """{name of ours: array} of VGG-16's layers, {name: [kernel, bias]}.

    Its fully connected layers become convolutions: of the first, 7x7, every third place, of either's units every fourth
    (Liu et al. 2016, arXiv:1512.02325, section 3). It was trained on blue, green, red in 0..255, less the mean; the
    first convolution takes all that in, which differs only where its window reaches over the edge of the image.
    """
    convolutions = {}
    for name, arrays in layers.items():
        if name.startswith("block"):
            block, convolution = name.removeprefix("block").split("_")
            convolutions[f"p{int(block) - 1}.{convolution}"] = arrays
    kernel, bias = convolutions["p0.conv1"]
    kernel = kernel[:, :, ::-1]
    convolutions["p0.conv1"] = 255 * kernel, bias - np.tensordot(kernel.sum(axis=(0, 1)), IMAGENET_MEAN, axes=(0, 0))
    (first, first_bias), (second, second_bias) = layers["fc1"], layers["fc2"]
    first = first.reshape(7, 7, -1, first.shape[-1])
    convolutions["p4.conv6"] = first[::3, ::3, :, ::4], first_bias[::4]
    convolutions["p4.conv7"] = second[None, None, ::4, ::4], second_bias[::4]
    return {
        f"backbone.{name}.conv/{variable}": np.asarray(values, "float32")
        for name, arrays in convolutions.items()
        for variable, values in zip(("kernel", "bias"), arrays, strict=True)
    }


def _check_depth(path, own, published, backbone):
    """Raises CheckpointError if the file has more layers in a stage than the network: all fits, and is not it."""

    def layers_and_stages(arrays):
        layers = {name.partition("/")[0] for name in arrays if name.startswith("backbone.")}
        return layers, {layer: layer.split(".")[1].partition("_")[0] for layer in layers}

    (mine, my_stages), (theirs, their_stages) = layers_and_stages(own), layers_and_stages(published)
    more = sorted(layer for layer in theirs - mine if their_stages[layer] in my_stages.values())
    if more and mine & theirs:
        raise checkpoint.CheckpointError(
            f"{path}: expected the weights of {backbone} as the config has it, received those of a deeper network, "
            "with "
            f"{listed(more, 3)}"
        )


def _backbone(network, path):
    """({Keras path: array} of a backbone from a file without a .cfg, the number of floats left over)."""
    _, floats = darknet_files.open_weights(path)
    arrays, start = {}, 0
    for convolution, norm in in_file_order(network, BatchNorm):
        if not convolution.name.startswith("backbone."):
            continue
        filters = convolution.kernel.shape[-1]
        channels, kernel = convolution.kernel.shape[2], convolution.kernel.shape[0]
        for array in layout.convolution(convolution.name, norm and norm.name, filters, channels, kernel):
            if start + array.count > len(floats):
                raise DarknetError(
                    f"{path}: expected the backbone of {network.name}, the file ends after {len(floats):,} floats, in "
                    f"{array.variable}"
                )
            values = np.asarray(floats[start : start + array.count]).reshape(array.shape)
            start += array.count
            # No .cfg says that this file is of this backbone; a variance that is none says that it is not.
            if not np.isfinite(values).all() or (array.variable.endswith("variance") and values.min() < 0):
                raise DarknetError(
                    f"{path}: expected the backbone of {network.name}, but {array.variable} would not be one: is it "
                    "another network's?"
                )
            arrays[array.variable] = array.ours(values)
    if not arrays:
        raise DarknetError(f"{path}: {network.name} has no backbone of convolutions that a Darknet file could fill")
    return arrays, len(floats) - start
