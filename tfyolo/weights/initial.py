"""Weights to begin training with: those of a run or an import, or a Darknet backbone alone."""

from pathlib import Path

import numpy as np

from tfyolo import checkpoint, hdf5
from tfyolo import config as configs
from tfyolo.backbones.resnet import IMAGENET_MEAN
from tfyolo.graph.pairing import in_file_order
from tfyolo.messages import listed
from tfyolo.model import weights_file
from tfyolo.nn.norm import BatchNorm
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import layout
from tfyolo.weights.darknet.text import DarknetError


def initialise(model, path):
    """Puts what fits into a Model, part by part (backbone, neck, head), each wholly or not at all; (report, origin).

    path: a run's folder, a .h5 file, a backbone's of keras.applications (resnet50_..._notop.h5, vgg16_..._kernels.h5),
    or of Darknet (darknet53.conv.74). The convolutions whose channels count classes are kept only if the classes are
    the same. report: lines that say
    what was kept and what begins anew. origin: what the way back to Darknet needs, if the weights came from there; else
    {}. Raises CheckpointError or DarknetError if nothing fits.
    """
    left, published = 0, _of_keras(path)
    if published is not None:
        theirs, classes, origin = published, None, {}
    elif Path(path).is_dir() or Path(path).suffix == ".h5":
        file = weights_file(path)
        meta, theirs = checkpoint.load(file, checkpoint.FOR_USE)
        classes = tuple(meta["classes"])
        origin = {"darknet": meta["darknet"]} if "darknet" in meta else {}
    elif Path(path).suffix != ".weights" and (told := configs.foreign(path, "a run's folder or a file of weights")):
        raise checkpoint.CheckpointError(told)
    else:
        if "darknet" not in model.config.model.backbone.name:
            raise DarknetError(
                f"{path}: a file without its .cfg begins a backbone of Darknet's own, not "
                f"{model.config.model.backbone.name}; import "
                "the whole network with its .cfg (tfyolo import), and begin with that run"
            )
        theirs, left = _backbone(model.network, path)
        classes, origin = None, {}
    own = checkpoint.weights_of(model.network)
    if published is not None:
        _check_depth(path, own, theirs, model.config.model.backbone.name)
    report, kept = [], {}
    for part in dict.fromkeys(name.partition(".")[0] for name in own):
        other_number = len(classes or ()) != len(model.classes)
        counted = {name for name in own if name.startswith(f"{part}.") and _counts_classes(name, other_number)}
        mine = {name: own[name].shape for name in own if name.startswith(f"{part}.") and name not in counted}
        misfits = [name for name, shape in mine.items() if name not in theirs or theirs[name].shape != shape]
        if classes is None and part != "backbone":
            report.append(f"{part}: begins anew, the file is of a backbone")
            continue
        if misfits:
            found = theirs[misfits[0]].shape if misfits[0] in theirs else "nothing"
            report.append(
                f"{part}: begins anew; {len(misfits)} of its {len(mine)} arrays do not fit, the first {misfits[0]}: "
                f"{mine[misfits[0]]} "
                f"here, {found} there"
            )
            continue
        told = [f"{len(mine)} arrays kept"] if mine else []
        if classes == model.classes and all(
            name in theirs and theirs[name].shape == own[name].shape for name in counted
        ):
            mine |= {name: own[name].shape for name in counted}
            told = [f"{len(mine)} arrays kept"]
        elif counted:
            layers = {name.partition("/")[0] for name in counted}
            if other_number:  # a branch for classes is new as a whole
                layers = {name.partition(".cls.")[0] + ".cls" if ".cls." in name else name for name in layers}
            layers = sorted(layers)
            why = f"{len(classes)} classes there, {len(model.classes)} here"
            if len(classes) == len(model.classes):
                why = "the classes have other names"
            told.append(f"{', '.join(layers)} begin anew: {why}")
        kept |= {name: theirs[name] for name in mine}
        report.append(f"{part}: {'; '.join(told)}")
    if not kept:
        raise checkpoint.CheckpointError(
            f"{path}: expected weights for {model.config.name}, nothing fits: " + "; ".join(report)
        )
    checkpoint.assign(model.network, own | kept, source=str(path))
    if classes is None and left:
        report.append(f"{left:,} floats after the backbone were left aside: `tfyolo import` places them, by the .cfg")
    complete = not any(line.partition(": ")[2].startswith("begins anew") for line in report)
    return report, origin if complete else {}


def _of_keras(path):
    """{name of ours: array} of a file of weights as keras.applications publishes them; None if it is no such file."""
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
            return _vgg16({name: sorted(arrays, key=np.ndim, reverse=True) for name, arrays in layers.items()})
        except (KeyError, IndexError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{path}: expected the layers of VGG-16, received others ({error})"
            ) from error
    return {
        f"backbone.{name.partition('/')[0]}/{name.rpartition('/')[2].removesuffix(':0')}": values
        for name, values in published.items()
    }


def _vgg16(layers):
    """{name of ours: array} of VGG-16's layers, {name: [kernel, bias]}.

    Its fully connected layers become convolutions: of the first, 7x7, every third place, of either's units every fourth
    (Liu et al. 2016, arXiv:1512.02325, section 3). It was trained on blue, green, red in 0..255, less the mean; the
    first convolution takes all that in, which differs only where its window reaches over the picture's edge.
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


def _counts_classes(name, other_number):
    """Whether an array belongs to a head's last convolution of classes; or, of another number of them, to their branch.

    A decoupled head's last convolution of boxes counts none; its branch of classes may be as wide as they are many.
    """
    layer = name.partition("/")[0]
    told = layer.endswith(".out") and layer.split(".")[-2] not in ("box", "embed", "offset")
    return told or (other_number and ".cls." in layer)


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
