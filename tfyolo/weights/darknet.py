"""Darknet networks, in and out: a .cfg becomes a config, its .weights the weights, float by float, and back.

    load("yolov3.cfg", "yolov3.weights") -> Imported(model, origin, ...)
    write("out.weights", "runs/x")                  the way back

A .weights file is a header and then bare floats, layer after layer in the order of the .cfg. Nothing in it says which layer a float
belongs to: if the two do not fit to the last byte, nothing is imported.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfyolo import checkpoint, folders
from tfyolo import config as configs
from tfyolo.backbones import sections as parts
from tfyolo.model import Model, build, weights_file
from tfyolo.weights.cfg import DarknetError, config_of, head_cells, parse_cfg, parse_text, read_cfg, readings
from tfyolo.weights.graph import pair
from tfyolo.weights.runs import class_names, write_run

# --- the floats -----------------------------------------------------------------------------------------------------------------


class _Array(NamedTuple):
    """One array of the file. variable: the Keras path. shape: in the file. ours: that -> the variable's value; theirs: back."""

    variable: str
    shape: tuple[int, ...]
    ours: Any = staticmethod(lambda x: x)
    theirs: Any = staticmethod(lambda x: x)

    @property
    def count(self):
        return math.prod(self.shape)


def _transposed(*axes):
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return (lambda x: x.transpose(axes)), (lambda x: x.transpose(back))


def convolution(layer, norm, filters, channels, kernel, depthwise=False, outputs=None):
    """The arrays of a convolution. outputs: the order in which the file's filters become ours, an order that is its own inverse."""

    def swap(x):
        return x if outputs is None else x[outputs]

    vectors = (
        [f"{norm}/{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")]
        if norm
        else [f"{layer}/bias"]
    )
    to_ours, to_theirs = _transposed(2, 3, 0, 1) if depthwise else _transposed(2, 3, 1, 0)
    return [
        *(_Array(name, (filters,), swap, swap) for name in vectors),
        _Array(
            f"{layer}/kernel",
            (filters, channels, kernel, kernel),
            lambda x: to_ours(swap(x)),
            lambda x: swap(to_theirs(x)),
        ),
    ]


def _fully_connected(layer, shape, outputs, norm=None, order=None):
    """Bias, weights (out, in), then the statistics. shape: (h, w, c) of the map it reads, which Darknet lays out channel first."""
    height, width, channels = shape
    dense = layer.endswith(".out")

    def swap(x):
        return x if order is None else x[order]

    def ours(x):
        x = swap(x).reshape(outputs, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, outputs)
        return x if dense else x[None, None]

    def theirs(x):
        x = x.reshape(height, width, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
        return swap(x)

    bias = f"{norm}/beta" if norm else f"{layer}/bias"
    statistics = [f"{norm}/{name}" for name in ("gamma", "moving_mean", "moving_variance")] if norm else []
    return [
        _Array(bias, (outputs,), swap, swap),
        _Array(f"{layer}/kernel", (outputs, math.prod(shape)), ours, theirs),
        *(_Array(name, (outputs,)) for name in statistics),
    ]


def _locally_connected(layer, section, shape, out):
    height, width, filters = out
    size, channels = section.size, shape[2]

    def ours(x):
        return x.transpose(0, 1, 4, 5, 3, 2).reshape(height, width, size * size * channels, filters)

    def theirs(x):
        return x.reshape(height, width, size, size, channels, filters).transpose(0, 1, 5, 4, 2, 3)

    return [
        _Array(f"{layer}/bias", (filters, height, width), *_transposed(1, 2, 0)),
        _Array(f"{layer}/kernel", (height, width, filters, channels, size, size), ours, theirs),
    ]


def yx_first(head, classes):
    """The order that brings a head's outputs from Darknet's x, y, w, h to y, x, h, w; its own inverse."""
    if head.kind == "detection":
        cells = head_cells(head, classes)
        order = np.arange(head.layer.output)
        boxes = order[cells * (classes + len(head.anchors)) :].reshape(-1, 4)
        boxes[:] = boxes[:, [1, 0, 3, 2]]
        return order
    order = np.arange(len(head.anchors) * (5 + classes)).reshape(len(head.anchors), -1)
    order[:, :4] = order[:, [1, 0, 3, 2]]
    return order.ravel()


def layout(net):
    """[(section's number, [its arrays])] of a Net's .weights file, in the order of the file. Layers are named as there."""
    heads = {head.output: head for head in net.heads}
    slots = []
    for (number, section), first in zip(enumerate(net.sections), parts.owners(net.sections), strict=True):
        if first != number:
            continue
        name = f"backbone.{number}"
        sources = [net.shapes[source] if source >= 0 else (*net.size, 3) for source in section.sources(number)]
        if isinstance(section, parts.Convolutional):
            channels = sources[0][2] // section.groups
            depthwise = section.is_depthwise(sources[0][2])
            norm = f"{name}.norm" if section.batch_normalize else None
            arrays = convolution(f"{name}.conv", norm, section.filters, channels, section.size, depthwise)
        elif isinstance(section, parts.Connected):
            norm = f"{name}.norm" if section.batch_normalize else None
            arrays = _fully_connected(f"{name}.conv", sources[0], section.output, norm)
        elif isinstance(section, parts.Local):
            arrays = _locally_connected(f"{name}.local", section, sources[0], net.shapes[number])
        elif isinstance(section, parts.Shortcut) and section.weights_type != "none":
            channels = net.shapes[number][2] if section.weights_type == "per_channel" else 1
            arrays = [_Array(f"{name}.sum/weights", (len(sources), channels))]
        elif isinstance(section, parts.Output):
            head = heads[number]
            order = yx_first(head, net.classes)
            if head.kind == "detection":
                arrays = _fully_connected("head.out", sources[0], head.layer.output, order=order)
            else:
                arrays = convolution(
                    f"head.{head.level}.out", None, head.layer.filters, sources[0][2], 1, outputs=order
                )
        else:
            continue
        slots.append((number, arrays))
    return slots


# --- the .weights file ----------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What a .weights file begins with. seen: pictures that it was trained on; 8 bytes since version 0.2, 4 before."""

    major: int
    minor: int
    revision: int
    seen: int

    @property
    def bytes(self):
        version = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return version + np.array(self.seen, "<u8" if self.wide else "<u4").tobytes()

    @property
    def wide(self):
        return self.major * 10 + self.minor >= 2


def open_weights(path):
    """(Header, the floats, not yet read)."""
    path = Path(path)
    if not path.is_file():
        raise DarknetError(
            f"{path}: expected a Darknet .weights file, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise DarknetError(f"{path}: a pointer of Git LFS, not the weights. Run `git lfs pull` to fetch them")
    if len(head) < 20:
        raise DarknetError(
            f"{path}: expected a Darknet .weights file, received {size} bytes: truncated, or a download that failed"
        )
    if head.lstrip().startswith((b"<", b"{", b"[net")) or (head.isascii() and b"\0" not in head):
        raise DarknetError(f"{path}: expected a Darknet .weights file, received text that begins {head[:24]!r}")
    major, minor, revision = np.frombuffer(head[:12], "<i4").tolist()
    if not (0 <= major < 100 and 0 <= minor < 100):
        hint = " (weights of networks turned on their side, by an old Darknet)" if major > 1000 or minor > 1000 else ""
        raise DarknetError(
            f"{path}: expected a Darknet .weights file, which begins with its version (0.1, 0.2, ..), received {major}.{minor}{hint}"
        )
    wide = major * 10 + minor >= 2
    seen = int(np.frombuffer(head[12 : 20 if wide else 16], "<u8" if wide else "<u4")[0])
    header = Header(major, minor, revision, seen)
    start = len(header.bytes)
    if (size - start) % 4:
        raise DarknetError(
            f"{path}: expected whole floats of 4 bytes after a header of {start}, received {size - start:,} bytes{_mangled(path)}"
        )
    return header, np.memmap(path, "<f4", "r", offset=start) if size > start else np.empty(0, "<f4")


def _mangled(path):
    """What happened to a file that some program took for text, in words; nothing if that is not it."""
    with open(path, "rb") as file:
        sample = file.read(1 << 20)
    lines = sample.count(b"\n")
    if sample.count(b"\xef\xbf\xbd") > len(sample) // 5000 + 3:
        return ": it was saved as text, and every byte that is no UTF-8 is lost; fetch it again, as a binary file"
    if lines > 20 and lines == sample.count(b"\r\n"):
        return ": its line ends were rewritten, as for text; fetch it again, as a binary file"
    return ": truncated, or not a .weights file"


def check_count(net, path, slots, received):
    expected = sum(array.count for _, arrays in slots for array in arrays)
    if received == expected:
        return
    message = f"{path}: {net.path} needs {expected:,} floats, the file has {received:,}; nothing was imported. "
    if received > expected:
        raise DarknetError(
            f"{message}{received - expected:,} are left over after the last layer, {net.place(slots[-1][0])}: this is another "
            f"network's .cfg{_mangled(path)}"
        )
    left = received
    for number, arrays in slots:
        count = sum(array.count for array in arrays)
        if left < count:
            raise DarknetError(
                f"{message}{expected - received:,} are missing: it ends in {net.place(number)}, after {left:,} of that layer's "
                f"{count:,}: truncated, or of another .cfg{_mangled(path)}"
            )
        left -= count


def _read(net, path, slots, floats):
    """{Keras path: array} of all that a file holds."""
    weights, start = {}, 0
    for number, arrays in slots:
        for array in arrays:
            values = np.asarray(floats[start : start + array.count]).reshape(array.shape)
            start += array.count
            if not np.isfinite(values).all():
                raise DarknetError(
                    f"{path}: {net.place(number)}: {array.variable.rpartition('/')[2]} holds numbers that are not finite: the file is "
                    f"damaged{_mangled(path)}"
                )
            weights[array.variable] = np.ascontiguousarray(array.ours(values))
    return weights


# --- import ---------------------------------------------------------------------------------------------------------------------

# YOLOv7 as Darknet has it: fused, with its own batch norm.
_FUSED = ("head.rep=false", "head.knowledge=false", *(f"{part}.epsilon=1e-5" for part in ("backbone", "neck", "head")))
# The published architectures that have builders of their own, by their number of convolutions: the first sign. Then the graphs decide.
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
    """model: a tfyolo Model with the weights. origin: what the way back needs, as JSON. native: the config's name, or None.

    report: what was found and done, in lines. folder: of the run, where one was written.
    """

    model: Model
    origin: dict
    native: str | None
    report: list[str]
    folder: Path | None = None


def load(cfg, weights, names=None, preprocess=None):
    """The Model of a Darknet network. names: a file of class names, one a line; None: COCO's if there are 80, else numbers.

    preprocess: how pictures are brought to its size, as in a config; None: stretched, as OpenCV and most users of such files do it, or
    with letter_box=1 in the .cfg as Darknet does it then.

    Raises DarknetError if anything in the .cfg cannot be represented, or the .weights file does not fit it to the last float.
    """
    net = read_cfg(cfg)
    net = net._replace(preprocess=preprocess or net.preprocess)
    slots = layout(net)
    header, floats = open_weights(weights)
    check_count(net, weights, slots, len(floats))  # before anything is allocated that a .cfg may lie about
    classes, told = _classes(net, names)
    arrays = _read(net, weights, slots, floats)
    model, native, renamed, orders = build_model(net, classes, Path(cfg).stem)
    arrays = {_renamed(name, renamed): _reordered(name, array, orders) for name, array in arrays.items()}
    checkpoint.assign(model.network, arrays, source=f"{weights}: its weights")
    origin = {"cfg": net.text, "header": list(header), "native": native, "layers": renamed, "orders": orders}
    convolutions = sum(isinstance(section, parts.Convolutional) for section in net.sections) + len(net.heads)
    report = [
        *net.notes,
        f"{net.path}: {'the native ' + native if native else 'a network of its own'}, {convolutions} convolutions, "
        f"{net.size[0]} x {net.size[1]} pixels, {told}",
        f"{weights}: all {len(floats):,} floats used, each once",
    ]
    return Imported(model, origin, native, report)


def _classes(net, names):
    if names is not None:
        return class_names(names, net.classes), f"{net.classes} classes"
    if net.classes == len(COCO):
        return list(COCO), "80 classes, taken for COCO's (--names FILE has others)"
    return [str(i) for i in range(net.classes)], f"{net.classes} classes without names (--names FILE gives them)"


def build_model(net, classes, name):
    """(Model, name of the native config or None, {layer: its name in the native model}, orders of convolutions' inputs there)."""
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
    """Writes the run folder of a Darknet network: best.h5, with which detect, evaluate, train and export work, and config.yaml.

    out: the folder, new or empty; None: runs/CFG, numbered if it is taken.
    """
    with folders.new(out, Path(cfg).stem) as folder:
        imported = load(cfg, weights, names, preprocess)
        write_run(imported.model, folder, darknet=imported.origin)
        return imported._replace(folder=folder)


# --- the way back ---------------------------------------------------------------------------------------------------------------


def write(path, run, overwrite=False):
    """Writes a run that was imported, or trained from an import, as `path` and, beside it, its .cfg; returns both paths.

    What was not trained comes out byte for byte as it came in.
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
    with checkpoint.atomic(path) as aside, aside.open("wb") as out:
        out.write(header.bytes)
        for array in arrays:
            values = weights.pop(_renamed(array.variable, origin["layers"]))
            values = _reordered(array.variable, values, origin.get("orders", {}), back=True)
            out.write(np.ascontiguousarray(array.theirs(values), "<f4").tobytes())
        if weights:
            raise DarknetError(f"{run}: {len(weights)} arrays have no place in {cfg}: {', '.join(list(weights)[:3])}")
    checkpoint.write_text(cfg, text)
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
            stride = 2 ** int(head.level[1:]) if head.kind == "region" else 1
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
