"""What torch.save writes, read without PyTorch and without running what it says.

    read("model.pt") -> plain dicts, lists, numbers and arrays       any checkpoint that torch.save wrote since PyTorch 1.6

A checkpoint is a zip with a pickle, which is a program: it may name any callable to be called. Here it can build containers, numbers
and tensors; objects of any class become records of what they held; and a call of anything else is refused by name.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfyolo.weights.runs import WeightsError


class TorchError(WeightsError):
    """A file is no checkpoint that can be imported. The message says why."""


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
MOST_MODULES, LONGEST_NAME = 20_000, 500  # the largest networks have a few thousand, with names of some fifty letters


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
        """The array of a tensor: a view of its storage, however often it is asked for, and no larger."""
        values, dims = self.storages(storage), [*size, *stride, offset]
        if len(size) != len(stride) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in dims):
            raise TorchError(f"a tensor of {size!r:.60} and steps {stride!r:.60}, which cannot be")
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (end >= len(values) or math.prod(size) > len(values)):
            raise TorchError(f"a tensor of {list(size)} in a storage of {len(values)} numbers")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


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
    """{name: array} of a checkpoint that holds a whole model, or its state_dict, or a training state with either under "ema" or "model".

    {} if it holds none. Raises TorchError if its modules hold each other without end.
    """
    if isinstance(loaded, dict):
        arrays = {str(name): value for name, value in loaded.items() if isinstance(value, np.ndarray)}
        holders = [loaded.get(key) for key in ("ema", "model", "state_dict", "model_state_dict")]
        if arrays or not any(isinstance(holder, dict | Record) for holder in holders):
            return arrays
        loaded = next(holder for holder in holders if isinstance(holder, dict | Record))
        if isinstance(loaded, dict):
            return {str(name): value for name, value in loaded.items() if isinstance(value, np.ndarray)}
    return dict(_tensors(loaded)) if isinstance(loaded, Record) else {}


def _tensors(module):
    """(dotted name, array) of all that a torch.nn.Module holds, as a Record."""
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        visited += 1
        if visited > MOST_MODULES or len(prefix) > LONGEST_NAME:
            raise TorchError("its modules hold each other without end")
        for name, value in [*_items(module, "_parameters"), *_items(module, "_buffers")]:
            if isinstance(value, np.ndarray):
                yield f"{prefix}{name}", value
        children = _items(module, "_modules")
        waiting += [(f"{prefix}{name}.", child) for name, child in children if isinstance(child, Record)]


def _items(module, group):
    held = vars(module).get(group)
    return list(held.items()) if isinstance(held, dict) else []
