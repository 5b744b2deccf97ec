"""PyTorch checkpoints of YOLOv8 and YOLO11 become models of the zoo: all their tensors, or none.

load("model.pt") -> Imported(model, native, report)
"""

import re
from typing import NamedTuple

import keras
import numpy as np

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.model import Model, build
from tfyolo.weights.runs import check_folder, class_names, write_run
from tfyolo.weights.unpickle import Record, TorchError, read, state_dict

# Their number of each of our blocks, in order; what has none of ours (enlarging, joining) has a number too.
_BACKBONE = ["p1", "p2.down", "p2", "p3.down", "p3", "p4.down", "p4", "p5.down", "p5", "sppf"]
_NECK = [
    None,
    None,
    "neck.p4",
    None,
    None,
    "neck.p3",
    "neck.n4.down",
    None,
    "neck.n4",
    "neck.n5.down",
    None,
    "neck.n5",
    "head",
]
BLOCKS = {
    "yolov8": [*(f"backbone.{name}" for name in _BACKBONE), *_NECK],
    "yolo11": [*(f"backbone.{name}" for name in [*_BACKBONE, "attention"]), *_NECK],
}
# (family, channels of the first convolution, whether a block of the backbone has a second link) -> the size.
SIZES = {
    **{
        ("yolov8", *told): size
        for told, size in {(16, 0): "n", (32, 0): "s", (48, 1): "m", (64, 1): "l", (80, 1): "x"}.items()
    },
    **{
        ("yolo11", *told): size
        for told, size in {(16, 0): "n", (32, 0): "s", (64, 0): "m", (64, 1): "l", (96, 1): "x"}.items()
    },
}
# Our names of what is inside a block -> theirs, one after the other.
INSIDE = (
    (r"\.p(\d)\.box\.conv(\d)", lambda m: f".cv2.{int(m[1]) - 3}.{int(m[2]) - 1}"),
    (r"\.p(\d)\.cls\.depth(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}.0"),
    (r"\.p(\d)\.cls\.conv(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}"),
    (r"\.p(\d)\.(box|cls)\.out/", lambda m: f".{'cv2' if m[2] == 'box' else 'cv3'}.{int(m[1]) - 3}.2/"),
    (r"\.(bottleneck|block)(\d+)", lambda m: f".m.{int(m[2]) - 1}"),
    (r"(\.m\.\d+)\.split\b", r"\1.cv1"),
    (r"(\.m\.\d+)\.skip\b", r"\1.cv2"),
    (r"(\.m\.\d+)\.join\b", r"\1.cv3"),
    (r"\.split\b", ".cv1"),
    (r"\.join\b", ".cv2"),
    (r"\.conv(\d)", r".cv\1"),
    (r"\.qkv\b", ".attn.qkv"),
    (r"\.place\b", ".attn.pe"),
    (r"\.project\b", ".attn.proj"),
    (r"\.widen\b", ".ffn.0"),
    (r"\.narrow\b", ".ffn.1"),
    (r"\.norm/gamma$", ".bn.weight"),
    (r"\.norm/beta$", ".bn.bias"),
    (r"\.norm/moving_mean$", ".bn.running_mean"),
    (r"\.norm/moving_variance$", ".bn.running_var"),
    (r"/kernel$", ".weight"),
    (r"/bias$", ".bias"),
)


class Imported(NamedTuple):
    """model: a tfyolo Model with the weights. native: the config's name. report: what was found and done, in lines."""

    model: Model
    native: str
    report: list[str]


def load(path, names=None):
    """The Model of a checkpoint. names: a file of class names, one a line; None: the checkpoint's own, else numbers.

    Raises TorchError if it is not of a network of the zoo, naming every tensor that is missing, left over or of another shape.
    """
    loaded = read(path)
    try:
        arrays = {name.removeprefix("module."): array for name, array in state_dict(loaded).items()}
    except TorchError as error:
        raise TorchError(f"{path}: {error}") from None
    if not arrays:
        raise TorchError(f"{path}: expected the weights of a network, it holds none")
    native, count = _recognised(path, arrays)
    model = build(configs.load(configs.zoo(native)), _classes(path, loaded, names, count))
    checkpoint.assign(model.network, _translated(path, arrays, model), source=f"{path}: its weights")
    report = [f"{path}: {native}, {count} classes, all {len(arrays)} tensors used"]
    return Imported(model, native, report)


def _recognised(path, arrays):
    """(the config's name, the number of classes)."""
    stem = arrays.get("model.0.conv.weight")
    for family, blocks in BLOCKS.items():
        last = arrays.get(f"model.{blocks.index('head')}.cv3.0.2.bias")
        if stem is not None and stem.ndim == 4 and last is not None and last.ndim == 1:
            deep = any(name.startswith("model.2.m.1.") for name in arrays)
            if size := SIZES.get((family, len(stem), int(deep))):
                return f"{family}{size}", len(last)
    raise TorchError(
        f"{path}: expected YOLOv8 or YOLO11, n, s, m, l or x, for detection; its {len(arrays)} tensors begin with "
        f"{', '.join(list(arrays)[:3])}"
    )


def _theirs(variable, family):
    """The name that a variable of ours has in their checkpoints."""
    layer, _, rest = variable.partition("/")
    blocks = {name: number for number, name in enumerate(BLOCKS[family]) if name}
    block = next(name for name in sorted(blocks, key=len, reverse=True) if f"{layer}.".startswith(f"{name}."))
    inside = f"{layer.removeprefix(block)}/{rest}"
    if family == "yolo11":  # whose classes' convolutions come in pairs
        inside = re.sub(r"^\.p(\d)\.cls\.conv(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}.1", inside)
    for pattern, theirs in INSIDE:
        inside = re.sub(pattern, theirs, inside)
    return f"model.{blocks[block]}{inside}".replace("/", ".")


def _translated(path, arrays, model):
    """{our path: array}; every one of theirs used once."""
    family = model.config.name[:-1]
    left = {name for name in arrays if not name.endswith(".num_batches_tracked")}
    bins, places = model.decoder.bins, f"model.{BLOCKS[family].index('head')}.dfl.conv.weight"
    if places in left and np.array_equal(arrays[places].ravel(), np.arange(bins)):
        left.remove(places)  # of the bins, which are no weights
    depthwise = {layer.name for layer in model.network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)}
    weights, wrong = {}, []
    for variable, own in checkpoint.weights_of(model.network).items():
        name = _theirs(variable, family)
        array = arrays.get(name)
        if array is None:
            wrong.append(f"{name} is missing")
            continue
        left.discard(name)
        array = array.astype("float32")
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if variable.partition("/")[0] in depthwise else (2, 3, 1, 0))
        if array.shape != own.shape:
            wrong.append(f"{name}: expected {list(own.shape)} (height, width, in, out), received {list(array.shape)}")
            continue
        if not np.isfinite(array).all():
            wrong.append(f"{name} holds numbers that are not finite")
        if ".box.out/" in variable:  # left, top, right, bottom -> top, left, bottom, right
            array = array.reshape(*array.shape[:-1], 4, bins)[..., [1, 0, 3, 2], :].reshape(array.shape)
        weights[variable] = array
    wrong += [f"{name} is left over" for name in sorted(left)]
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise TorchError(f"{path}: expected {model.config.name}:\n  " + "\n  ".join(wrong[:20]) + more)
    return weights


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
            return [str(name) for name in names]
    return None


def import_run(path, out, names=None):
    """Writes the run folder of a checkpoint: best.h5, with which detect, evaluate, train and export work, and config.yaml."""
    out = check_folder(out)
    imported = load(path, names)
    write_run(imported.model, out)
    return imported
