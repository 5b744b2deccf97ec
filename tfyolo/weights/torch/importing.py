"""PyTorch checkpoints of YOLOv7, YOLOv8, YOLOv9 and YOLO11 become models of the zoo: all their tensors, or none.

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
from tfyolo.messages import printable, shortened
from tfyolo.model import Model, build
from tfyolo.weights.runs import class_names, write_run
from tfyolo.weights.torch import foreign
from tfyolo.weights.torch.layouts import recognise
from tfyolo.weights.torch.unpickle import Record, TorchError, read, state_dict

MOST_SHOWN = 20  # tensors that do not fit, each in a line


class Imported(NamedTuple):
    """model: a tfyolo Model with the weights. native: the config's name. report: what was found and done, in lines.

    folder: of the run, where one was written.
    """

    model: Model
    native: str
    report: list[str]
    folder: Path | None = None


def load(path, names=None):
    """The Model of a checkpoint. names: a file of class names, one a line; None: the checkpoint's own, else numbers.

    Raises TorchError if it is not of a network of the zoo: in one line what it is, or of a network almost like one of
    them each tensor that is missing, left over or of another shape.
    """
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
    try:
        config = configs.load(configs.zoo(layout.native), layout.overrides)
        model = build(config, _classes(path, loaded, names, count))
    except configs.ConfigError as error:
        raise TorchError(f"{path}: expected {layout.native}, its anchors or classes cannot be: {error}") from error
    weights, wrong = _translated(arrays, model, layout)
    if wrong:
        raise TorchError(f"{path}: expected {layout.native}{_misfits(wrong, foreign.unusual(survey))}")
    checkpoint.assign(model.network, weights, source=f"{path}: its weights")
    aside, used = len(_aside(arrays, layout)), f"all {len(arrays)} tensors used"
    if aside:
        used = f"{len(arrays) - aside} tensors used, {aside} left aside: an auxiliary branch, which only training reads"
    report = [f"{path}: {layout.native}, {count} classes, {used}"]
    return Imported(model, layout.native, report)


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
    places = [name for name in left if re.fullmatch(layout.places, name)]
    left -= {name for name in places if np.array_equal(arrays[name].ravel(), np.arange(model.decoder.bins))}
    depthwise = {layer.name for layer in model.network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)}
    weights, wrong = {}, []
    for variable, own in checkpoint.weights_of(model.network).items():
        name = layout.theirs(variable)
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
        if array.shape != own.shape:
            wrong.append(f"{name}: expected {list(own.shape)} (height, width, in, out), received {list(array.shape)}")
            continue
        if not np.isfinite(array).all():
            wrong.append(f"{name} holds numbers that are not finite")
        weights[variable] = _yx_first(variable, array, model, layout)
    return weights, [*wrong, *(f"{printable(name)} is left over" for name in sorted(left))]


def _yx_first(variable, array, model, layout):
    """What is x before y there, in our order, along the last axis."""
    layer = variable.partition("/")[0]
    if re.search(layout.sides, variable):  # left, top, right, bottom -> top, left, bottom, right
        return array.reshape(*array.shape[:-1], 4, -1)[..., [1, 0, 3, 2], :].reshape(array.shape)
    if layer.endswith((".out", ".implicit_multiply")) and ".cls." not in layer:  # of each anchor x, y, w, h, ...
        order = np.arange(array.shape[-1]).reshape(model.decoder.num_anchors, -1)
        order[:, :4] = order[:, [1, 0, 3, 2]]
        return array[..., order.ravel()]
    return array


def _classes(path, loaded, names, count):
    if names is not None:
        return class_names(names, count)
    found = _names_in(loaded)
    if found is None:
        return [str(i) for i in range(count)]
    if len(found) != count or len(set(found)) != count:
        raise TorchError(
            f"{path}: expected {count} different class names, received {len(found)}; --names FILE gives others"
        )
    return found


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
