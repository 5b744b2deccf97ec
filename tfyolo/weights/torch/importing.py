"""PyTorch checkpoints of YOLOv7 to v9, YOLO11 and YOLOX become models of the zoo: all their tensors, or none.

load("model.pt") -> Imported(model, native, report)
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo.graph.nodes import nodes
from tfyolo.messages import counted, listed, printable, shortened
from tfyolo.model import Model, build
from tfyolo.nn.norm import BatchNorm
from tfyolo.weights.darknet.importing import COCO
from tfyolo.weights.runs import class_names, origin_of_file, write_run
from tfyolo.weights.torch import foreign, onnx
from tfyolo.weights.torch.layouts import licence_of, recognise, recognise_run
from tfyolo.weights.torch.unpickle import Record, TorchError, read, state_dict

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
MOST_SHOWN = 20  # tensors that do not fit, each in a line


class Imported(NamedTuple):
    """A network that was imported.

    Attributes:
        model: a tfyolo Model with the weights.
        native: the config's name.
        report: what was found and done, in lines.
        folded: whether the file has no batch norms, since they are fused into its convolutions: those of the model do
            nothing, and have no statistics that training could go on from.
        folder: of the run, where one was written.
    """

    model: Model
    native: str
    report: list[str]
    folded: bool = False
    folder: Path | None = None


def load(path, names=None):
    """Reads a checkpoint, or an ONNX file that a YOLOX was exported to.

    Args:
        path: of the file.
        names: a file of class names, one a line; None: the checkpoint's own, else COCO's if there are 80, else numbers.

    Returns:
        Imported.

    Raises:
        TorchError: it is not of a network of the zoo: in one line what it is, or of a network almost like one of them
            each tensor that is missing, left over or of another shape.
    """
    if os.fspath(path).lower().endswith(".onnx"):
        return _load_onnx(path, names)
    loaded = _read(path)
    try:
        arrays = _named(state_dict(loaded))
    except TorchError as error:
        raise TorchError(f"{path}: {error}") from None
    survey = foreign.survey(loaded)
    recognised = recognise(arrays)
    received = foreign.received(survey, arrays)
    if not received and not arrays:
        received = foreign.received_nothing(survey)
    if not received and not recognised:
        received = foreign.received_another(survey, arrays)
    if received:
        raise TorchError(f"{path}: expected {foreign.IMPORTED}, received {received}")
    layout, count = recognised
    model, note = _built(path, layout, _names_in(loaded), names, count)
    return _filled(path, model, layout, arrays, note, foreign.unusual(survey))


def _load_onnx(path, names):
    """load() of an ONNX file, which names few of its tensors: their order has to lead to the same network."""
    found = onnx.graph(path)
    recognised = recognise_run([convolution.kernel for convolution in found.convolutions])
    if recognised is None or found.operations & {"Relu", "LeakyRelu", "BatchNormalization"}:
        parts = (
            f"{counted(len(found.convolutions), 'convolution')}, {listed(sorted(map(printable, found.operations)), 8)}"
        )
        raise TorchError(
            f"{path}: expected an export of YOLOX, with its batch norms folded, received another network ({parts})"
        )
    layout, count = recognised
    model, note = _built(path, layout, None, names, count)
    order = _in_their_order(model.network, layout)
    if [sources for _, sources in order] != [convolution.sources for convolution in found.convolutions]:
        raise TorchError(
            f"{path}: expected {layout.native}, received one whose convolutions are connected in another way"
        )
    arrays = {}
    for (name, _), convolution in zip(order, found.convolutions, strict=True):
        arrays |= {name: convolution.kernel, name.removesuffix("weight") + "bias": convolution.bias}
    return _filled(path, model, layout, arrays, note, ())


def _in_their_order(network, layout):
    """A network's convolutions in the order in which theirs run: [(their name of the kernel, places that it reads)]."""
    order = nodes(network)[0]
    convolutions = [node.operation for node in order if isinstance(node.operation, _CONVOLUTIONS)]
    names = {layer: layout.theirs(f"{layer.name}/kernel") for layer in convolutions}
    place = {layer: i for i, layer in enumerate(sorted(convolutions, key=lambda layer: layout.turn(names[layer])))}
    sources, found = {}, {}
    for node in order:
        read = dict.fromkeys(index for x in node.input_tensors for index in sources[id(x)])
        read = tuple(sorted(read) if isinstance(node.operation, keras.layers.Add) else read)
        if node.operation in place:
            found[node.operation] = read
            read = (place[node.operation],)
        sources |= {id(x): read for x in node.output_tensors}
    return [(names[layer], found[layer]) for layer in place]


def _built(path, layout, found, names, count):
    """(Model of a layout, what is to be reported of its classes)."""
    try:
        config = configs.load(configs.zoo(layout.native), layout.overrides)
        classes, note = _classes(path, found, names, count)
        return build(config, classes), f"{count} classes{note}"
    except configs.ConfigError as error:
        raise TorchError(f"{path}: expected {layout.native}, its anchors or classes cannot be: {error}") from error


def _filled(path, model, layout, arrays, note, unusual):
    """The Imported of a Model and their arrays.

    note: what is to be reported of its classes. unusual: classes of layers that are in no network of the zoo.
    """
    weights, wrong = _translated(arrays, model, layout)
    if wrong:
        raise TorchError(f"{path}: expected {layout.native}{_misfits(wrong, unusual)}")
    checkpoint.assign(model.network, weights, source=f"{path}: its weights")
    model = model._replace(origin=origin_of_file(path, licence_of(layout.native)))
    folded = bool(_idle_norms(arrays, model, layout))
    notes = [layout.note, "it has no batch norms: they are folded into its convolutions" if folded else None]
    aside, used = len(_aside(arrays, layout)), f"all {len(arrays)} tensors used"
    if aside:
        used = f"{len(arrays) - aside} tensors used, {aside} left aside: an auxiliary branch, which only training reads"
    report = [f"{path}: {layout.native}, {note}, {used}"]
    report += [*(f"{path}: {note}" for note in notes if note), f"licence: {model.origin}"]
    return Imported(model, layout.native, report, folded)


def _read(path):
    """What unpickle.read gives; where it cannot read what a network holds, the error says what network it is."""
    try:
        return read(path)
    except TorchError as error:
        received = foreign.received(foreign.Survey(list(error.named), {}, {}, []), {})
        if not received:
            raise
        raise TorchError(f"{path}: expected {foreign.IMPORTED}, received {received}") from error


def _named(arrays):
    """Their tensors under the names of a Layout; a YOLOv9's are published with and without "model." before them."""
    arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    if "0.conv.weight" in arrays:
        return {f"model.{name}": array for name, array in arrays.items()}
    return arrays


def _aside(arrays, layout):
    """The names of their tensors that our network has no use for."""
    return {name for name in arrays if re.fullmatch(layout.aside, name)}


def _misfits(wrong, unusual):
    """What is wrong with the tensors of a network that is almost another: all, or how much if it is no slip."""
    if unusual or len(wrong) > MOST_SHOWN:
        why = (
            f", received one with other layers ({', '.join(unusual[:5])})"
            if unusual
            else ", received a network like it"
        )
        return f"{why}: {len(wrong)} of its tensors do not fit, the first: {wrong[0]}; import it as it was published"
    return ":\n  " + "\n  ".join(wrong)


def _translated(arrays, model, layout):
    """({our path: array}, [what is wrong]); every one of theirs used once."""
    left = {name for name in arrays if not name.endswith(".num_batches_tracked")}
    # The anchors have become the decoder's; the places of the bins are no weights.
    left -= {f"{layout.detection}.{name}" for name in ("anchors", "anchor_grid")}
    left -= _aside(arrays, layout)
    if model.decoder.is_distribution:
        places = [name for name in left if re.fullmatch(layout.places, name)]
        left -= {name for name in places if np.array_equal(arrays[name].ravel(), np.arange(model.decoder.bins))}
    depthwise = {layer.name for layer in model.network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)}
    idle, wrong = _idle_norms(arrays, model, layout), []
    weights = dict(idle)
    for variable, own in checkpoint.weights_of(model.network).items():
        if variable in idle:
            continue
        name = layout.theirs(variable)
        if variable.endswith("/beta") and variable.replace("/beta", "/gamma") in idle:
            name = _folded_bias(name)
        array = arrays.get(name)
        if array is None:
            wrong.append(f"{name} is missing")
            continue
        left.discard(name)
        array = array.astype("float32")
        if name.endswith(".implicit"):
            array = array.reshape(-1)  # [1, C, 1, 1]
        elif array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if variable.partition("/")[0] in depthwise else (2, 3, 1, 0))
        array = layout.adapted(variable, array)
        if array.shape != own.shape:
            wrong.append(f"{name}: expected {list(own.shape)} (height, width, in, out), received {list(array.shape)}")
            continue
        if not np.isfinite(array).all():
            wrong.append(f"{name} holds numbers that are not finite")
        weights[variable] = _yx_first(variable, array, model, layout)
    return weights, [*wrong, *(f"{printable(name)} is left over" for name in sorted(left))]


def _folded_bias(shift):
    """Their name of a convolution's bias, by that of the shift of a batch norm after it."""
    return shift.removesuffix(".bn.bias") + ".conv.bias"


def _idle_norms(arrays, model, layout):
    """{our path: array} of batch norms that are part of convolutions there; all but the shift changes nothing."""
    weights = {}
    for layer in model.network.layers:
        shift = layout.theirs(f"{layer.name}/beta") if isinstance(layer, BatchNorm) else ""
        if shift.endswith(".bn.bias") and shift not in arrays and _folded_bias(shift) in arrays:
            ones = np.ones(layer.gamma.shape, "float32")
            weights |= {f"{layer.name}/gamma": ones, f"{layer.name}/moving_mean": 0 * ones}
            weights[f"{layer.name}/moving_variance"] = np.float32(1.0 - layer.epsilon) * ones
    return weights


def _yx_first(variable, array, model, layout):
    """What is x before y there, in our order, along the last axis."""
    layer = variable.partition("/")[0]
    if re.search(layout.sides, variable):  # their order is left, top, right, bottom, or x, y, w, h
        return array.reshape(*array.shape[:-1], 4, -1)[..., [1, 0, 3, 2], :].reshape(array.shape)
    if layer.endswith((".obj.out", ".cls.out")):
        return array
    if layer.endswith((".out", ".implicit_multiply")):  # of each anchor x, y, w, h, ...
        order = np.arange(array.shape[-1]).reshape(model.decoder.num_anchors, -1)
        order[:, :4] = order[:, [1, 0, 3, 2]]
        return array[..., order.ravel()]
    return array


def _classes(path, found, names, count):
    """(the class names in label order, what is to be reported of them). found: those in the file, or None."""
    if names is not None:
        return class_names(names, count), ""
    if found is None:
        if count == len(COCO):
            return list(COCO), ", taken for COCO's (--names FILE has others)"
        return [str(i) for i in range(count)], " without names (--names FILE gives them)"
    if len(found) != count or len(set(found)) != count:
        raise TorchError(
            f"{path}: expected {count} different class names, received {len(found)}; --names FILE gives others"
        )
    return found, ""


def _names_in(loaded):
    """The class names that a checkpoint, or its model, carries, in label order; None if there are none."""
    holders = [loaded, *(loaded.get(key) for key in ("ema", "model") if isinstance(loaded, dict))]
    for holder in holders:
        holder = vars(holder) if isinstance(holder, Record) else holder
        names = holder.get("names") if isinstance(holder, dict) else None
        if isinstance(names, dict) and all(isinstance(label, int) for label in names):
            names = [names[label] for label in sorted(names)]
        if isinstance(names, list) and names:
            return [name if isinstance(name, str) else shortened(name) for name in names]
    return None


def import_run(
    path: str | os.PathLike, out: str | os.PathLike | None = None, names: str | os.PathLike | None = None
) -> Imported:
    """Writes the run of a checkpoint: best.h5, with which detect, evaluate, train and export work, and config.yaml.

    Args:
        path: of the checkpoint.
        out: the folder, new or empty; None: runs/CHECKPOINT, numbered if it is taken.
        names: as load() takes them.

    Returns:
        Imported.

    Raises:
        TorchError: from load().
        FolderError: something else lies in `out`.
    """
    with folders.new(out, Path(path).stem) as folder:
        imported = load(path, names)
        write_run(imported.model, folder)
        return imported._replace(folder=folder)
