"""Darknet networks, in and out: a .cfg becomes a config, its .weights the weights, float by float, and back.

    load("yolov3.cfg", "yolov3.weights") -> Imported(model, origin, ...)
    write("out.weights", "runs/x")                  the way back

A .weights file is a header and then bare floats, layer after layer in the order of the .cfg. Nothing in it says which
layer a float belongs to: if the two do not fit to the last byte, nothing is imported.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo.darknet import sections as section_types
from tfyolo.files import atomic_file, write_text
from tfyolo.graph.pairing import pair
from tfyolo.model import Model, build, weights_file
from tfyolo.structures import level_stride
from tfyolo.weights.darknet.as_config import config_of, head_cells, readings
from tfyolo.weights.darknet.cfg import parse_cfg, read_cfg
from tfyolo.weights.darknet.files import Header, check_count, open_weights, read_arrays
from tfyolo.weights.darknet.layout import layout
from tfyolo.weights.darknet.text import DarknetError, parse_text
from tfyolo.weights.runs import class_names, origin_of_file, write_run

# --- import -----------------------------------------------------------------------------------------------------------

# YOLOv7 as Darknet has it: fused, with its own batch norm.
_FUSED = ("head.rep=false", "head.knowledge=false", *(f"{part}.epsilon=1e-5" for part in ("backbone", "neck", "head")))
# The published architectures that have builders of their own, by their number of convolutions: the first sign. Then the
# graphs decide.
NATIVE = {
    13: ("yolov3-tiny", ()),
    75: ("yolov3", ()),
    76: ("yolov3-spp", ()),
    21: ("yolov4-tiny", ()),
    24: ("yolov4-tiny-3l", ()),
    110: ("yolov4", ()),
    115: ("yolov4-csp", ()),
    58: ("yolov7-tiny", _FUSED),
    92: ("yolov7", _FUSED),
    108: ("yolov7x", _FUSED),
}

# The 80 classes of COCO, in the order of its annotations and of every Darknet network trained on them.
# fmt: off
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on


class Imported(NamedTuple):
    """A network that was imported.

    Attributes:
        model: a tfyolo Model with the weights.
        origin: what the way back needs, as JSON.
        native: the config's name; None: a network of the .cfg's sections.
        report: what was found and done, in lines.
        folder: of the run, where one was written.
    """

    model: Model
    origin: dict
    native: str | None
    report: list[str]
    folder: Path | None = None


def load(cfg, weights, names=None, preprocess=None):
    """Reads a Darknet network.

    Args:
        cfg: path of the .cfg.
        weights: path of the .weights file.
        names: a file of class names, one a line; None: COCO's if there are 80, else numbers.
        preprocess: how images are brought to its size, as in a config; None: stretched, as OpenCV and most users of
            such files do it, or with letter_box=1 in the .cfg as Darknet does it then.

    Returns:
        Imported.

    Raises:
        DarknetError: something in the .cfg cannot be represented, or the weights do not fit it to the last float.
    """
    net = read_cfg(cfg)
    net = net._replace(preprocess=preprocess or net.preprocess)
    slots = layout(net)
    header, floats = open_weights(weights)
    check_count(net, weights, slots, len(floats))  # before anything is allocated that a .cfg may lie about
    classes, found = _classes(net, names)
    arrays = read_arrays(net, weights, slots, floats)
    model, native, renamed, orders = build_model(net, classes, Path(cfg).stem)
    arrays = {_renamed(name, renamed): _reordered(name, array, orders) for name, array in arrays.items()}
    checkpoint.assign(model.network, arrays, source=f"{weights}: its weights")
    model = model._replace(origin=origin_of_file(weights))
    origin = {"cfg": net.text, "header": list(header), "native": native, "layers": renamed, "orders": orders}
    convolutions = sum(isinstance(section, section_types.Convolutional) for section in net.sections) + len(net.heads)
    report = [
        *net.notes,
        f"{net.path}: {'the native ' + native if native else 'a network of its own'}, {convolutions} convolutions, "
        f"{net.size[0]} x {net.size[1]} pixels, {found}",
        f"{weights}: all {len(floats):,} floats used, each once",
        f"licence: {model.origin}",
    ]
    return Imported(model, origin, native, report)


def _classes(net, names):
    if names is not None:
        return class_names(names, net.classes), f"{net.classes} classes"
    if net.classes == len(COCO):
        return list(COCO), "80 classes, taken for COCO's (--names FILE has others)"
    return [str(i) for i in range(net.classes)], f"{net.classes} classes without names (--names FILE gives them)"


def build_model(net, classes, name):
    """Builds the Model of a Net: the native one where its graph is the same.

    Args:
        net: weights.darknet.cfg.Net.
        classes: names in label order.
        name: of the config.

    Returns:
        (Model, name of the native config or None, {layer: its name there}, {layer: the order of its inputs there}).
    """
    config = config_of(net, name)
    model = build(config, classes)
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in model.network.layers)
    native, overrides = NATIVE.get(convolutions, (None, ()))
    if native is None:
        return model, None, {}, {}
    zoo = configs.load(configs.zoo(native), [f"model.{text}" for text in overrides])
    values = json.loads(configs.to_json(zoo))
    values["name"] = name
    found = readings(net)
    if overrides:  # YOLOv7 is trained by an assigner of its own, which a .cfg cannot name
        found.pop("assigner", None)
    values["model"] |= found
    try:
        twin = build(configs.from_json(json.dumps(values)), classes)
    except configs.ConfigError:  # other levels
        return model, None, {}, {}
    paired = pair(model.network, twin.network)
    if paired is None:
        return model, None, {}, {}
    return twin, native, *paired


def _renamed(variable, renamed):
    layer, _, name = variable.rpartition("/")
    return f"{renamed.get(layer, layer)}/{name}"


def _reordered(variable, array, orders, back=False):
    """A kernel whose inputs come in another order in the native model. orders: as pair gives them."""
    layer, _, name = variable.rpartition("/")
    if name != "kernel" or layer not in orders:
        return array
    order = np.concatenate([np.arange(*block) for block in orders[layer]])
    return array[:, :, np.argsort(order) if back else order]


def import_run(
    cfg: str | os.PathLike,
    weights: str | os.PathLike,
    out: str | os.PathLike | None = None,
    names: str | os.PathLike | None = None,
    preprocess: str | None = None,
) -> Imported:
    """Writes the run of a Darknet network: config.yaml, and best.h5, which detect, evaluate, train and export take.

    Args:
        cfg: path of the .cfg.
        weights: path of the .weights file.
        out: the folder, new or empty; None: runs/CFG, numbered if it is taken.
        names: as load() takes them.
        preprocess: as load() takes it.

    Returns:
        Imported.

    Raises:
        DarknetError: from load().
        FolderError: something else lies in `out`.
    """
    with folders.new(out, Path(cfg).stem) as folder:
        imported = load(cfg, weights, names, preprocess)
        write_run(imported.model, folder, darknet=imported.origin)
        return imported._replace(folder=folder)


# --- the way back -----------------------------------------------------------------------------------------------------


def write(path, run, overwrite=False):
    """Writes a run that was imported, or trained from an import, as a .weights file with its .cfg beside it.

    What was not trained comes out byte for byte as it came in.

    Args:
        path: of the .weights file.
        run: the run's folder or .h5 file.
        overwrite: replaces files that are there.

    Returns:
        The paths of both files.

    Raises:
        DarknetError: the run does not come from Darknet, or a file is there already.
    """
    path = Path(path)
    cfg = path.with_suffix(".cfg")
    taken = [str(file) for file in (path, cfg) if file.exists()]
    if taken and not overwrite:
        raise DarknetError(f"{', '.join(taken)}: there already; name another file, or --overwrite")
    file = weights_file(run)
    meta, weights = checkpoint.load(file, checkpoint.FOR_USE)
    origin = meta.get("darknet")
    if not isinstance(origin, dict) or not {"cfg", "header", "layers"} <= origin.keys():
        raise DarknetError(
            f"{run}: expected a run that was imported from Darknet, or trained from one; its .cfg is not known"
        )
    text = _adapted(origin["cfg"], checkpoint.config_of(file, meta), len(meta["classes"]))
    net = parse_cfg(text, str(cfg))
    slots = layout(net)
    arrays = [array for _, arrays in slots for array in arrays]
    header = Header(*origin["header"])
    with atomic_file(path) as aside, aside.open("wb") as out:
        out.write(header.bytes)
        for array in arrays:
            values = weights.pop(_renamed(array.variable, origin["layers"]))
            values = _reordered(array.variable, values, origin.get("orders", {}), back=True)
            out.write(np.ascontiguousarray(array.theirs(values), "<f4").tobytes())
        if weights:
            raise DarknetError(f"{run}: {len(weights)} arrays have no place in {cfg}: {', '.join(list(weights)[:3])}")
    write_text(cfg, text)
    return path, cfg


def _adapted(text, config, classes):
    """The .cfg's text for what training has changed: input size, classes, anchors. The same text if that is nothing."""
    net = parse_cfg(text)
    lines = text.splitlines(keepends=True)
    raw = parse_text(text, "")

    def put(section, key, value):
        line = section.lines[key] - 1
        written = lines[line]
        end = written[len(written.rstrip("\r\n")) :]
        lines[line] = f"{key}={value}{end}"

    if tuple(config.model.input_size) != net.size:
        for key, side in zip(("height", "width"), config.model.input_size, strict=True):
            put(raw[0], key, side)
    for head in net.heads:
        section, layer = raw[1 + head.number], raw[1 + head.output]
        if classes != net.classes:
            key, old = ("output", head.layer.output) if head.kind == "detection" else ("filters", head.layer.filters)
            boxes = old // (5 + net.classes) if head.kind != "detection" else head_cells(head, net.classes)
            put(layer, key, old + boxes * (classes - net.classes))
            if "classes" in section.lines:
                put(section, "classes", classes)
        anchors = config.model.decoder.options.get("anchors", {}).get(head.level)
        if anchors and [tuple(map(float, pair)) for pair in anchors] != [
            tuple(map(float, pair)) for pair in head.anchors
        ]:
            stride = level_stride(head.level) if head.kind == "region" else 1
            mask = (
                [int(i) for i in section.options["mask"].split(",")]
                if "mask" in section.options
                else range(len(anchors))
            )
            values = section.options["anchors"].split(",")
            for index, (height, width) in zip(mask, anchors, strict=True):
                values[2 * index : 2 * index + 2] = [f"{width / stride:g}", f"{height / stride:g}"]
            put(section, "anchors", ", ".join(values))
    return "".join(lines)
