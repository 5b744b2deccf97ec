"""What torch.save writes, read without PyTorch and without running what it says.

    read("model.pt") -> plain dicts, lists, numbers and arrays       any checkpoint that torch.save wrote

A checkpoint is a zip with a pickle (until PyTorch 1.5 a row of pickles with the tensors' bytes behind them), and a
pickle is a program: it may name any callable to be called. Here it can build containers, numbers and tensors; objects
of any class become records of what they held; and a call of anything else is refused by name.

What it builds, it may use as often as it likes, by a number of two bytes. So no step may take longer, or keep more,
than what it takes from the pickle once: what copies something is counted (_Reader.spend), nothing is compared or hashed
but texts and numbers, and nothing of the file's is shown but by messages.shortened.
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

from tfyolo.files import what_is
from tfyolo.messages import printable, shortened
from tfyolo.weights.runs import WeightsError


class TorchError(WeightsError):
    """A file is no checkpoint that can be imported. The message says why.

    Attributes:
        named: the classes that its pickle had named until then.
    """

    named = ()


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
OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of files until PyTorch 1.5: a pickle of one number
LARGEST_PICKLE = 1 << 23  # bytes; those of whole models are a few hundred thousand
MOST_COPIED = 1 << 21  # items, of all that a pickle hands on again; a whole model hands on some 100,000
MOST_MODULES, LONGEST_NAME = 20_000, 500  # the largest networks have a few thousand, with names of some fifty letters
MOST_CLASSES, MOST_AXES = 5000, 64


class Record:
    """An object of a class that is not imported: what it held, by name. Its class has `kind`, "module.Class"."""

    kind = ""

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({name: value for name, value in part.items() if isinstance(name, str)})


class _Uncalled(type):
    """The class of the stand-ins for what a pickle names: they may be made (as objects are), and not be called."""

    def __call__(cls, *args, **kwargs):
        raise TorchError(f"it would call {printable(cls.kind)[:80]}: refused, an import runs nothing that a file names")


def _stand_in(kind):
    return _Uncalled("Record", (Record,), {"kind": kind, "__new__": lambda cls, *args: object.__new__(cls)})


class _Storage(NamedTuple):
    type: str
    key: str
    count: int


class _Reader(pickle._Unpickler):
    """pickle's reader in Python: that in C allocates what a damaged file says, 64 GiB for one number of its memo."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages, self.stand_ins, self.spent = storages, {}, 0

    def spend(self, *used):
        """Counts the items of what is about to be copied. Raises TorchError if they are too many."""
        self.spent += sum(len(each) for each in used if isinstance(each, _SIZED))
        if self.spent > MOST_COPIED:
            raise TorchError("it takes the same things again and again")

    def find_class(self, module, name):
        kind = f"{module[:LONGEST_NAME]}.{name[:LONGEST_NAME]}"
        if kind in _CALLED:
            return _CALLED[kind]
        if kind.startswith("torch._utils._rebuild_tensor"):
            return self.tensor
        if kind not in self.stand_ins:
            if len(self.stand_ins) >= MOST_CLASSES:
                raise TorchError(f"it names more than {MOST_CLASSES:,} classes")
            self.stand_ins[kind] = _stand_in(kind)
        return self.stand_ins[kind]

    # What calls, as _CALLED permits, or makes an object.

    def load_reduce(self):
        arguments = self.stack.pop()
        self.spend(arguments, *arguments)
        self.stack[-1] = self.stack[-1](*arguments)

    def load_newobj(self):
        if not isinstance(self.stack[-2], _Uncalled):
            raise TorchError(f"it would make a {shortened(self.stack[-2])}: refused")
        self.spend(self.stack[-1])
        super().load_newobj()

    def load_newobj_ex(self):
        self.stack.pop()  # arguments by name, of which no object takes any
        self.load_newobj()

    def _instantiate(self, klass, args):
        self.spend(args, *args)
        super()._instantiate(klass, args)

    def load_build(self):
        state = self.stack.pop()
        target = self.stack[-1]
        self.spend(state, *(state if isinstance(state, tuple) else ()))
        if isinstance(target, Record):
            Record.__setstate__(target, state)  # whatever it holds under that name
        elif not isinstance(target, _Dtype | collections.OrderedDict):  # which nobody asks for more than it is
            raise TorchError(f"it would change a {type(target).__name__}: refused")

    # What puts things into containers. An object may be of a class that is one.

    def load_dict(self):
        items = self.pop_mark()
        self.append(_mapping(items[::2], items[1::2]))

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key], [value])

    def load_setitems(self):
        items = self.pop_mark()
        self._put(items[::2], items[1::2])

    def _put(self, keys, values):
        target, items = self.stack[-1], _mapping(keys, values)
        if isinstance(target, Record):
            Record.__setstate__(target, items)
        elif isinstance(target, dict):
            target.update(items)
        else:
            raise TorchError(f"it would set items of a {type(target).__name__}: refused")

    def load_append(self):
        value = self.stack.pop()
        self._extend([value], list.extend)

    def load_appends(self):
        items = self.pop_mark()
        self._extend(items, list.extend)

    def load_additems(self):
        items = self.pop_mark()
        self._extend(map(_hashable, items), set.update)

    def _extend(self, items, method):
        target = self.stack[-1]
        if isinstance(target, method.__objclass__):
            method(target, items)
        elif not isinstance(target, Record):
            raise TorchError(f"it would add to a {type(target).__name__}: refused")

    def load_frozenset(self):
        items = self.pop_mark()
        self.append(frozenset(map(_hashable, items)))

    dispatch = pickle._Unpickler.dispatch | {
        getattr(pickle, name)[0]: function
        for name, function in (
            *(("REDUCE", load_reduce), ("NEWOBJ", load_newobj), ("NEWOBJ_EX", load_newobj_ex), ("BUILD", load_build)),
            *(("DICT", load_dict), ("SETITEM", load_setitem), ("SETITEMS", load_setitems), ("APPEND", load_append)),
            *(("APPENDS", load_appends), ("ADDITEMS", load_additems), ("FROZENSET", load_frozenset)),
        )
    }
    del dispatch[pickle.BYTEARRAY8[0]]  # it, too, fills as many bytes as the file says; PyTorch does not write it

    def persistent_load(self, pid):
        if (
            isinstance(pid, tuple) and len(pid) == 6 and pid[5] is None
        ):  # files until PyTorch 1.5; not None: of a still older one
            pid = pid[:5]
        if not isinstance(pid, tuple) or len(pid) != 5 or not isinstance(pid[1], _Uncalled):
            raise TorchError(f"expected a storage, received {shortened(pid)}")
        tag, kind, key, _, count = pid
        name = kind.kind.rpartition(".")[2]
        if tag != "storage" or name not in STORAGES or not isinstance(count, int) or not isinstance(key, str | int):
            raise TorchError(f"expected a storage of numbers, received {shortened(pid)}")
        return _Storage(name, str(key), count)

    def tensor(self, storage, offset, size, stride, *_):
        """The array of a tensor: a view of its storage, however often it is asked for, and no larger."""
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= MOST_AXES:
            raise TorchError("a tensor of a shape that cannot be")
        values, dims = self.storages(storage), [*size, *stride, offset]
        if not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in dims):
            raise TorchError(f"a tensor of {_listed(size)} and steps {_listed(stride)}, which cannot be")
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (end >= len(values) or math.prod(size) > len(values)):
            raise TorchError(f"a tensor of {_listed(size)} in a storage of {len(values)} numbers")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


_SIZED = str | bytes | list | tuple | dict | set | frozenset


def _listed(numbers):
    return f"[{', '.join(map(shortened, numbers[:8]))}]"


def _hashable(value):
    """What may be a key, or an item of a set: a text or a number; for all else, which nobody looks for, a stand-in.

    A tuple of tuples has as many parts as there are ways through it, and each is looked at to hash it.
    """
    if isinstance(value, str | bytes | float | None) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
        return value
    return object()


def _mapping(keys, values):
    return dict(zip(map(_hashable, keys), values, strict=True))


def _ordered(pairs=()):
    """collections.OrderedDict, of nothing or of pairs."""
    if isinstance(pairs, dict):
        return collections.OrderedDict(pairs)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise TorchError("expected an ordered mapping of pairs")
    return collections.OrderedDict((_hashable(key), value) for key, value in pairs)


def _counter(counts=None):
    return dict(counts) if isinstance(counts, dict) else {}


def _path(*parts):
    return "/".join(part for part in parts if isinstance(part, str))


def _encoded(text, *_):
    return text.encode("latin1", "replace") if isinstance(text, str) else b""


def _set(of, items):
    return of(map(_hashable, items)) if isinstance(items, list | tuple | set | frozenset) else of()


def _scalar(dtype, data):
    """numpy.float64(...) and its like, as training loops leave them beside the weights."""
    kind = dtype.kind if isinstance(dtype, _Dtype) else ""
    form = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}.get(kind)
    data = data if isinstance(data, bytes) else b""
    return struct.unpack(form, data)[0] if form and len(data) == struct.calcsize(form) else None


class _Dtype:
    def __init__(self, kind="", *_):
        self.kind = kind.lstrip("<=|") if isinstance(kind, str) else ""


# What a pickle may call, by name, and what is called for it: nothing of theirs. Arguments have been counted, and are of
# any type.
_CALLED = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,  # of a scheduler's milestones
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": lambda sides=(): tuple(sides) if isinstance(sides, list | tuple) else (),
    "torch.device": lambda *args: _path(*args[:1]),
    **{f"{module}.set": lambda items=(): _set(set, items) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": lambda items=(): _set(frozenset, items) for module in ("builtins", "__builtin__")},
    **{f"{module}.slice": lambda *_: None for module in ("builtins", "__builtin__")},
    "_codecs.encode": _encoded,
    **{f"pathlib.{name}": _path for name in ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath")},
    **{f"pathlib._local.{name}": _path for name in ("PosixPath", "WindowsPath")},
    **{f"numpy{core}.multiarray.scalar": _scalar for core in (".core", "._core")},
    # An array of NumPy's, such as the best fitness in a training state of YOLOv7: its numbers are no weights.
    **{f"numpy{core}.multiarray._reconstruct": lambda *_: Record() for core in (".core", "._core")},
    "numpy.dtype": _Dtype,
}


def read(path):
    """What torch.save wrote: dicts, lists, numbers, arrays; objects of other classes as Record. Raises TorchError.

    Nothing that the file names is imported or called, and no array is larger than its bytes in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise TorchError(f"{path}: expected a PyTorch checkpoint, found {what_is(path)}")
    try:
        with path.open("rb") as file:
            if file.read(len(OLD_START)) == OLD_START:
                return _read_old(file, path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path.stat().st_size)
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            start = file.read(512)
        received = (
            f"it is damaged or cut off ({printable(error)[:100]})" if start[:2] == b"PK" else _of_another_kind(start)
        )
        raise TorchError(f"{path}: expected a PyTorch checkpoint, which is a zip; {received}") from None
    except TorchError as error:
        error.args = (f"{path}: {error}",)
        raise
    except (RecursionError, MemoryError, OverflowError) as error:
        raise TorchError(f"{path}: its pickle cannot be read: {type(error).__name__}") from None
    except Exception as error:  # a pickle is a program, and a damaged one may do anything wrong
        raise TorchError(f"{path}: its pickle cannot be read: {printable(error)[:200]}") from None


def _of_another_kind(start):
    """What a file is that begins so, and is no zip."""
    kinds = {
        "an HDF5 file, of Keras or of tfyolo": start.startswith(b"\x89HDF"),
        "a TFLite file": start[4:8] == b"TFL3",
        "an ONNX file": start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start),
        "a safetensors file": start[8:10] == b'{"',
        "a pickle, with no tensors of PyTorch's": start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5",
        "a tar archive, of a PyTorch older than 1.0 or of other files": start[257:262] == b"ustar",
        "a gzip archive: unpack it": start.startswith(b"\x1f\x8b"),
        "text: a pointer to the file, not the file?": bool(start.strip()) and start.isascii(),
    }
    kind = next((kind for kind, found in kinds.items() if found), None)
    return f"it is {kind}" if kind else "it is cut off or of another kind"


def _read(archive, size):
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(pickles) != 1:
        shown = ", ".join(shortened(name) for name in list(entries)[:3]) or "nothing"
        raise TorchError(f"expected a PyTorch checkpoint, which has one data.pkl; this zip holds {shown}")
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in entries):
        raise TorchError(
            "expected a PyTorch checkpoint, received a TorchScript program; take the checkpoint that it was exported "
            "from"
        )
    order = entries.get(f"{folder}byteorder")
    if order and order.file_size < 16 and archive.read(order).strip() != b"little":
        raise TorchError("expected little-endian numbers, received big-endian ones")

    left = size

    def content(name, size=None):
        nonlocal left
        info = entries.get(name)
        if info is None:
            raise TorchError(f"{name} is missing: the file is cut off or was changed")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
            raise TorchError(f"{name}: expected it as it is, as PyTorch stores it; it is compressed")
        if size is not None and info.file_size != size:
            raise TorchError(f"{name}: expected {size:,} bytes, received {info.file_size:,}")
        if size is None and info.file_size > LARGEST_PICKLE:
            raise TorchError(f"{name}: expected at most {LARGEST_PICKLE:,} bytes, received {info.file_size:,}")
        left -= info.file_size
        if left < 0:
            raise TorchError(f"{name}: expected bytes of its own, they are also another's")
        return archive.read(info)

    kept = {}

    def storage(described):
        if described.key not in kept:
            form = np.dtype(STORAGES[described.type])
            values = np.frombuffer(content(f"{folder}data/{described.key}", described.count * form.itemsize), form)
            kept[described.key] = _widened(values, described)
        return kept[described.key]

    return _loaded(_Reader(io.BytesIO(content(pickles[0])), storage))


def _loaded(reader):
    try:
        return reader.load()
    except TorchError as error:
        error.named = tuple(reader.stand_ins)
        raise


def _widened(values, described):
    """A storage's numbers as floats that NumPy has."""
    return (values.astype("<u4") << 16).view("<f4") if described.type == "BFloat16Storage" else values


def _read_old(file, size):
    """What torch.save wrote until PyTorch 1.5.

    Pickles of a number, of a version, of the machine, of what was saved and of the storages' keys; then for each key
    how many numbers it has, and the numbers.

    Args:
        file: open behind the first pickle.
        size: bytes of the file.
    """
    left, kept = size, {}

    def storage(described):
        """Zeros, until all pickles are read: the numbers stand behind them."""
        nonlocal left
        form = np.dtype(STORAGES[described.type])
        if described.key not in kept:
            left -= described.count * form.itemsize
            if described.count < 0 or left < 0:
                raise TorchError(f"a storage of {described.count:,} numbers: the file is cut off or was changed")
            kept[described.key] = described, _widened(np.zeros(described.count, form), described)
        return kept[described.key][1]

    start = file.tell()
    pickles = io.BytesIO(file.read(LARGEST_PICKLE))
    version, machine = (_Reader(pickles, storage).load() for _ in range(2))
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise TorchError("expected version 1001 of its format and little-endian numbers, received others")
    saved = _loaded(_Reader(pickles, storage))
    keys = _Reader(pickles, storage).load()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(kept):
        raise TorchError("expected the numbers of each storage once behind its pickles, received others")
    file.seek(start + pickles.tell())
    for described, values in (kept[str(key)] for key in keys):
        form = np.dtype(STORAGES[described.type])
        content = file.read(8 + described.count * form.itemsize)
        if (
            len(content) != 8 + described.count * form.itemsize
            or struct.unpack("<q", content[:8])[0] != described.count
        ):
            raise TorchError(
                f"storage {shortened(described.key)}: expected {described.count:,} numbers, the file is cut off"
            )
        values[...] = _widened(np.frombuffer(content, form, offset=8), described)
    if file.read(1):
        raise TorchError("expected its end behind the last storage, received more")
    return saved


def state_dict(loaded):
    """Finds the weights in a checkpoint.

    Args:
        loaded: what read() gave: a whole model, its state_dict, or a training state with either under "ema" or "model".

    Returns:
        {name: array}; {} if it holds none.

    Raises:
        TorchError: its modules hold each other without end.
    """
    if isinstance(loaded, dict):
        arrays = _named(loaded, np.ndarray)
        holders = [loaded.get(key) for key in ("ema", "model", "state_dict", "model_state_dict")]
        if arrays or not any(isinstance(holder, dict | Record) for holder in holders):
            return dict(arrays)
        loaded = next(holder for holder in holders if isinstance(holder, dict | Record))
        if isinstance(loaded, dict):
            return dict(_named(loaded, np.ndarray))
    return dict(_tensors(loaded)) if isinstance(loaded, Record) else {}


def _tensors(module):
    """(dotted name, array) of all that a torch.nn.Module holds, as a Record."""
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        parameters, buffers, children = (
            held if isinstance(held := vars(module).get(group), dict) else {}
            for group in ("_parameters", "_buffers", "_modules")
        )
        visited += 1 + len(parameters) + len(buffers) + len(children)
        # A convolution and its norm have five arrays.
        if visited > 5 * MOST_MODULES or len(prefix) > LONGEST_NAME:
            raise TorchError("its modules hold each other without end")
        for name, value in (*_named(parameters, np.ndarray), *_named(buffers, np.ndarray)):
            yield f"{prefix}{name}", value
        waiting += [(f"{prefix}{name}.", child) for name, child in _named(children, Record)]


def _named(held, kind):
    """[(name, value)] of what is of a type in a mapping, under a name."""
    return [
        (name, value)
        for name, value in held.items()
        if isinstance(value, kind) and isinstance(name, str) and len(name) <= LONGEST_NAME
    ]
