"""PyTorch checkpoints of YOLOv8 and YOLO11, read without PyTorch and without running what they say.

    read("model.pt") -> plain dicts, lists, numbers and arrays       any checkpoint that torch.save wrote since PyTorch 1.6
    load("model.pt") -> Imported(model, report)                      one of a network of the zoo

A checkpoint is a zip with a pickle, which is a program: it may name any callable to be called. Here it can build containers, numbers
and tensors; objects of any class become records of what they held; and a call of anything else is refused by name.
"""

import collections
import io
import math
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.model import Model, build
from tfyolo.weights.runs import WeightsError, check_folder, class_names, write_run


class TorchError(WeightsError):
    """A file is no checkpoint that can be imported. The message says why."""


# --- the file -------------------------------------------------------------------------------------------------------------------

# Little-endian items in the file -> NumPy's type; bfloat16 is widened by hand.
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}
LARGEST_PICKLE = 1 << 26  # bytes; those of whole models are a few hundred thousand


class Record:
    """An object of a class that is not imported: what it held, by name. kind: "module.Class"."""

    kind = ""

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(name): value for name, value in part.items()})


class _Uncalled(type):
    """The class of the stand-ins for what a pickle names: they may be made (as objects are), and not be called."""

    def __call__(cls, *args, **kwargs):
        raise TorchError(f"it would call {cls.kind}: refused, an import runs nothing that a file names")


def _stand_in(kind):
    return _Uncalled("Record", (Record,), {"kind": kind, "__new__": lambda cls, *args: object.__new__(cls)})


class _Storage(NamedTuple):
    type: str
    key: str
    count: int


class _Reader(pickle._Unpickler):
    """pickle's own reader, the one in Python: that in C allocates what a damaged file says, 64 GiB for one number of its memo."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages, self.stand_ins = storages, {}

    def find_class(self, module, name):
        kind = f"{module}.{name}"
        if kind in _CALLED:
            return _CALLED[kind]
        if kind.startswith("torch._utils._rebuild_tensor"):
            return self.tensor
        return self.stand_ins.setdefault(kind, _stand_in(kind))

    def load_build(self):
        if not isinstance(self.stack[-2], Record | _Dtype | collections.OrderedDict):
            raise TorchError(f"it would change a {type(self.stack[-2]).__name__}: refused")
        super().load_build()

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: load_build}
    del dispatch[pickle.BYTEARRAY8[0]]  # it, too, fills as many bytes as it is told; PyTorch does not write it

    def persistent_load(self, pid):
        try:
            tag, kind, key, _, count = pid
            name = kind.kind.rpartition(".")[2]
        except (TypeError, ValueError, AttributeError):
            raise TorchError(f"expected a storage, received {pid!r:.80}") from None
        if tag != "storage" or name not in STORAGES or not isinstance(count, int):
            raise TorchError(f"expected a storage of numbers, received {pid!r:.80}")
        return _Storage(name, str(key), count)

    def tensor(self, storage, offset, size, stride, *_):
        """The array of a tensor: its own copy, at most as large as its storage."""
        values, dims = self.storages(storage), [*size, *stride, offset]
        if len(size) != len(stride) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in dims):
            raise TorchError(f"a tensor of {size!r:.60} and steps {stride!r:.60}, which cannot be")
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (end >= len(values) or math.prod(size) > len(values)):
            raise TorchError(f"a tensor of {list(size)} in a storage of {len(values)} numbers")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps).copy()


def _scalar(dtype, data):
    """numpy.float64(...) and its like, as training loops leave them beside the weights."""
    kind = getattr(dtype, "kind", "")
    form = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}.get(kind)
    data = data if isinstance(data, bytes) else b""
    return struct.unpack(form, data)[0] if form and len(data) == struct.calcsize(form) else None


class _Dtype:
    def __init__(self, kind="", *_):
        self.kind = str(kind).lstrip("<=|")

    def __setstate__(self, state):
        pass


# What a pickle may call, by name, and what is called for it: nothing of theirs.
_CALLED = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": tuple,
    "torch.device": lambda *args: str(args[0]) if args else "",
    "builtins.set": lambda values=(): set(values),
    "__builtin__.set": lambda values=(): set(values),
    "builtins.frozenset": lambda values=(): frozenset(values),
    "builtins.slice": slice,
    "_codecs.encode": lambda text, *_: str(text).encode("latin1", "replace"),
    **{f"pathlib.{name}": lambda *parts: "/".join(map(str, parts)) for name in ("PosixPath", "WindowsPath", "Path")},
    **{f"pathlib._local.{name}": lambda *parts: "/".join(map(str, parts)) for name in ("PosixPath", "WindowsPath")},
    **{f"numpy{core}.multiarray.scalar": _scalar for core in (".core", "._core")},
    "numpy.dtype": _Dtype,
}


def read(path):
    """What torch.save wrote: dicts, lists, numbers, arrays; objects of other classes as Record. Raises TorchError.

    Nothing that the file names is imported or called, and no array is larger than its bytes in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise TorchError(
            f"{path}: expected a PyTorch checkpoint, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            start = file.read(64)
        hint = "it is cut off, of another kind, or older than PyTorch 1.6 (torch.save it again)"
        if start.strip() and start.isascii():
            hint = "it is text: a pointer to the file, not the file?"
        raise TorchError(f"{path}: expected a PyTorch checkpoint, which is a zip; {hint}") from None
    except TorchError as error:
        raise TorchError(f"{path}: {error}") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise TorchError(f"{path}: its pickle cannot be read: {type(error).__name__}") from None
    except Exception as error:  # a pickle is a program, and a damaged one may do anything wrong
        raise TorchError(f"{path}: its pickle cannot be read: {error}") from None


def _read(archive):
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(pickles) != 1:
        raise TorchError("expected a PyTorch checkpoint, this zip has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order and order.file_size < 16 and archive.read(order).strip() != b"little":
        raise TorchError("expected little-endian numbers, received big-endian ones")

    def content(name, size=None):
        info = entries.get(name)
        if info is None:
            raise TorchError(f"{name} is missing: the file is cut off or was changed")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
            raise TorchError(f"{name}: expected it as it is, as PyTorch stores it; it is compressed")
        if size is not None and info.file_size != size:
            raise TorchError(f"{name}: expected {size:,} bytes, received {info.file_size:,}")
        if size is None and info.file_size > LARGEST_PICKLE:
            raise TorchError(f"{name}: expected at most {LARGEST_PICKLE:,} bytes, received {info.file_size:,}")
        return archive.read(info)

    kept = {}

    def storage(described):
        if described.key not in kept:
            form = np.dtype(STORAGES[described.type])
            values = np.frombuffer(content(f"{folder}data/{described.key}", described.count * form.itemsize), form)
            if described.type == "BFloat16Storage":
                values = (values.astype("<u4") << 16).view("<f4")
            kept[described.key] = values
        return kept[described.key]

    return _Reader(io.BytesIO(content(pickles[0])), storage).load()


def state_dict(loaded):
    """{name: array} of a checkpoint that holds a whole model, or its state_dict, or a training state with either under "ema" or "model"."""
    if isinstance(loaded, dict):
        arrays = {name: value for name, value in loaded.items() if isinstance(value, np.ndarray)}
        if arrays:
            return arrays
        for key in ("ema", "model", "state_dict", "model_state_dict"):
            if loaded.get(key) is not None and (found := state_dict(loaded[key])):
                return found
    if isinstance(loaded, Record):
        return dict(_tensors(loaded, "", ()))
    return {}


def _tensors(module, prefix, above):
    if any(module is other for other in above):
        raise TorchError("a module holds itself")
    for group in ("_parameters", "_buffers"):
        for name, value in (getattr(module, group, None) or {}).items():
            if isinstance(value, np.ndarray):
                yield f"{prefix}{name}", value
    for name, child in (getattr(module, "_modules", None) or {}).items():
        if isinstance(child, Record):
            yield from _tensors(child, f"{prefix}{name}.", (*above, module))


# --- the networks ---------------------------------------------------------------------------------------------------------------

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
    arrays = {name.removeprefix("module."): array for name, array in state_dict(loaded).items()}
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
    """The class names that a checkpoint's model carries, in label order; None if there are none."""
    holder = loaded if isinstance(loaded, dict) else vars(loaded) if isinstance(loaded, Record) else {}
    names = holder.get("names")
    if isinstance(names, dict) and all(isinstance(label, int) for label in names):
        names = [names[label] for label in sorted(names)]
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    found = (_names_in(holder[key]) for key in ("ema", "model") if holder.get(key) is not None)
    return next((names for names in found if names), None)


def import_run(path, out, names=None):
    """Writes the run folder of a checkpoint: best.h5, with which detect, evaluate, train and export work, and config.yaml."""
    out = check_folder(out)
    imported = load(path, names)
    write_run(imported.model, out)
    return imported
