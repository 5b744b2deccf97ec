"""Checkpoints as torch.save writes them, made without torch."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from tfyolo.weights.torch import importing as torch_importing
from tfyolo.weights.torch import unpickle

SETTERS = {np.dtype("f4"): "FloatStorage", np.dtype("f2"): "HalfStorage", np.dtype("i8"): "LongStorage"}


class _Module:
    """A torch.nn.Module as pickle sees it."""


@pytest.fixture
def fake_torch(monkeypatch):
    fake_modules(monkeypatch)


def fake_modules(monkeypatch):
    """Modules with the names that a checkpoint mentions, for pickle to find while it writes; nothing of them is
    called.
    """

    def module(name, **contents):
        made = types.ModuleType(name)
        for key, value in contents.items():
            value.__module__, value.__qualname__ = name, key
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)

    module("torch", **{name: type(name, (), {}) for name in unpickle.STORAGES})
    module("torch._utils", _rebuild_tensor_v2=types.FunctionType((lambda: None).__code__, {}, "_rebuild_tensor_v2"))
    module("theirs_nn", Model=type("Model", (_Module,), {}), Layer=type("Layer", (_Module,), {}))


class _Tensor:
    def __init__(self, array, key):
        self.array, self.key = array, key

    def __reduce__(self):
        array = self.array
        steps = tuple(step // array.itemsize for step in array.strides)
        storage = _Storage(self)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (storage, 0, array.shape, steps, False, collections.OrderedDict())


class _Storage:
    def __init__(self, tensor):
        self.tensor = tensor


def saved(path, value, arrays=(), folder="archive", compress=zipfile.ZIP_STORED):
    """What torch.save makes of containers, fake modules and _Tensors."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, _Storage):
                array = thing.tensor.array
                kind = getattr(sys.modules["torch"], SETTERS[array.dtype])
                return ("storage", kind, thing.tensor.key, "cpu", array.size)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr(f"{folder}/data.pkl", file.getvalue())
        archive.writestr(f"{folder}/byteorder", "little")
        for tensor in arrays:
            archive.writestr(f"{folder}/data/{tensor.key}", np.ascontiguousarray(tensor.array).tobytes())
    return path


def saved_old(path, value, arrays=(), keys=None, machine=None):
    """What torch.save made of the same until PyTorch 1.5; keys: in their numbers' order, None: that of `arrays`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, _Storage):
                array = thing.tensor.array
                kind = getattr(sys.modules["torch"], SETTERS[array.dtype])
                return ("storage", kind, thing.tensor.key, "cpu", array.size, None)

    by_key = {tensor.key: np.ascontiguousarray(tensor.array) for tensor in arrays}
    keys = list(by_key) if keys is None else keys
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, machine or {"little_endian": True}, value, keys):
            Pickler(file, protocol=2).dump(part)
        for key in keys:
            file.write(struct.pack("<q", by_key[key].size) + by_key[key].tobytes())
    return path


def tensors(arrays):
    return {name: _Tensor(np.ascontiguousarray(array), str(i)) for i, (name, array) in enumerate(arrays.items())}


def as_module(state, names):
    """A state dict as a tree of modules: their own classes, of which the reader knows nothing."""
    nn = sys.modules["theirs_nn"]

    def blank(kind):
        module = kind()
        module.__dict__.update(training=False, _parameters={}, _buffers={}, _modules=collections.OrderedDict())
        return module

    root = blank(nn.Model)
    root.names = dict(enumerate(names))
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            module = module._modules.setdefault(part, blank(nn.Layer))
        group = "_buffers" if last.startswith(("running", "num_batches")) else "_parameters"
        getattr(module, group)[last] = tensor
    return root


# --- what a file must not do ------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *args):
        self.how = (function, args)

    def __reduce__(self):
        return self.how


def zipped(path, contents, **others):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", contents)
        for name, data in others.items():
            archive.writestr(f"archive/{name}", data)
    return path


@pytest.fixture(name="classes")
def named_classes(fake_torch, monkeypatch):
    """A function: a class of a name, "module.Class", as pickle finds it while it writes."""

    def named(kind):
        module, _, name = kind.rpartition(".")
        parts = module.split(".")
        for i in range(len(parts)):
            parent = ".".join(parts[: i + 1])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        made = type(name, (_Module,), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], name, made, raising=False)
        return made

    return named


def reported(value, arrays, tmp_path):
    """The one line that says what a checkpoint is."""
    path = saved(tmp_path / "theirs.pt", value, arrays)
    with pytest.raises(unpickle.TorchError) as error:
        torch_importing.load(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: expected ") and len(line) < 450
    return line.removeprefix(f"{path}: expected ")
