"""Checkpoints of PyTorch: written here as torch.save writes them, with torch itself where it is installed, and what
they must not do.
"""

import collections
import contextlib
import io
import pickle
import pickletools
import struct
import sys
import time
import types
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import small

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.cli import app
from tfyolo.folders import FolderError
from tfyolo.predict.load import load as load_detector
from tfyolo.structures import Raw, as_raw
from tfyolo.training import train as training
from tfyolo.weights.initial import initialise
from tfyolo.weights.torch import foreign, layouts, unpickle
from tfyolo.weights.torch import importing as torch_importing

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


@pytest.fixture(scope="module", params=["yolov8n", "yolov7-tiny", pytest.param("yolo11n", marks=pytest.mark.slow)])
def native(request):
    return models.build(configs.load(configs.zoo(request.param), ["model.input_size=64"]), ("red", "green"))


STEM = {"yolov8n": 16, "yolo11n": 16, "yolov7-tiny": 32, "yolov7": 32, "yolov7-w6": 64, "yolov7-e6e": 80}
HEAD = {"yolov8n": 22, "yolo11n": 23, "yolov7-tiny": 77, "yolov7": 105, "yolov7-w6": 122, "yolov7-e6e": 265}


def layout_of(name):
    """As it is found for a file, of which it looks at a few tensors."""
    head = f"model.{HEAD[name]}"
    told = {"model.0.conv.weight": np.zeros((STEM[name], 3, 3, 3))}
    if name.startswith("yolov7"):
        levels = 4 if name in ("yolov7-w6", "yolov7-e6e") else 3
        told |= {f"{head}.m.0.bias": np.zeros(21), f"{head}.anchors": np.ones((levels, 3, 2))}
        told |= {f"{head}.ia.0.implicit": np.zeros((1, 8, 1, 1))}
    else:
        told[f"{head}.cv3.0.2.bias"] = np.zeros(2)
    layout, classes = layouts.recognise(told)
    assert (layout.native, classes) == (name, 2)
    return layout


def their_state(model, seed=0, half=False, without=(), own=False):
    """Random weights for a Model, as a checkpoint of theirs names and lays them: ({their name: array}, {our path:
    array}).

    without: parts of our names that it does not have. own: not random, but the Model's.
    """
    rng = np.random.default_rng(seed)
    theirs, ours, name = {}, {}, model.config.name
    layout = layout_of(name)
    for path, value in checkpoint.weights_of(model.network).items():
        if any(part in path for part in without):
            continue
        if not own:
            value = rng.uniform(0.2, 1, value.shape).astype("float16").astype("float32")
        ours[path] = value
        if ".box.out/" in path:  # top, left, bottom, right -> left, top, right, bottom
            blocks = np.split(value, 4, axis=-1)
            value = np.concatenate([blocks[1], blocks[0], blocks[3], blocks[2]], axis=-1)
        elif name.startswith("yolov7") and (".out/" in path or "implicit_multiply" in path):  # y, x, h, w -> x, y, w, h
            value = value.copy()
            for first in (0, 7, 14):
                value[..., [first, first + 1, first + 2, first + 3]] = value[
                    ..., [first + 1, first, first + 3, first + 2]
                ]
        if "implicit" in path:
            value = value.reshape(1, -1, 1, 1)
        if value.ndim == 4 and "implicit" not in path:
            depthwise = ".depth" in path or ".place." in path
            value = value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        theirs[layout.theirs(path)] = value.astype("float16") if half else value
    head = f"model.{HEAD[name]}"
    if name.startswith("yolov7"):
        theirs[f"{head}.anchors"] = ANCHORS_THERE[: len(model.decoder.levels)].astype("float16" if half else "float32")
        theirs[f"{head}.anchor_grid"] = np.zeros((len(model.decoder.levels), 1, 3, 1, 1, 2), "float32")
    else:
        theirs[f"{head}.dfl.conv.weight"] = np.arange(16, dtype="float32").reshape(1, 16, 1, 1)
    for each in [each for each in theirs if each.endswith("running_mean")]:
        theirs[each.replace("running_mean", "num_batches_tracked")] = np.array(7)
    return theirs, ours


# Widths and heights, in cells: of p3 (12, 16), (19, 36), (40, 28) pixels.
ANCHORS_THERE = np.array([[[1.5, 2], [2.375, 4.5], [5, 3.5]]] * 4)


@pytest.mark.parametrize(
    "form",
    [
        "model",
        "half",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("state dict", "training state", "averages")),
    ],
)
def test_every_tensor_arrives(form, native, fake_torch, tmp_path):
    theirs, ours = their_state(native, half=form == "half")
    state = tensors(theirs)
    value = {
        "state dict": lambda: collections.OrderedDict(state),
        "half": lambda: collections.OrderedDict(state),
        "model": lambda: as_module(state, ("red", "green")),
        "training state": lambda: {
            "epoch": 3,
            "model": as_module(state, ("red", "green")),
            "ema": None,
            "best": np.float64(0.5),
        },
        "averages": lambda: {"model": None, "ema": as_module(state, ("red", "green")), "updates": 10},
    }[form]()
    imported = torch_importing.load(saved(tmp_path / "x.pt", value, state.values()))
    assert imported.native == native.config.name
    assert imported.model.classes == (("0", "1") if form in ("state dict", "half") else ("red", "green"))
    for path, array in checkpoint.weights_of(imported.model.network).items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)


@pytest.mark.slow
def test_a_run_of_a_checkpoint_detects(native, fake_torch, tmp_path):
    theirs, _ = their_state(native)
    state = tensors(theirs)
    path = saved(tmp_path / "x.pt", as_module(state, ("red", "green")), state.values())
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    result = CliRunner().invoke(
        app.main, ["import", str(path), "--out", str(tmp_path / "run"), "--names", str(tmp_path / "names.txt")]
    )
    told = f"{native.config.name}, 2 classes, all {len(state)} tensors used"
    assert result.exit_code == 0 and told in result.output, result.output
    found = load_detector(tmp_path / "run")(np.zeros((32, 48, 3), np.uint8))
    assert len(found.boxes) == len(found.scores) and load_detector(tmp_path / "run").classes == ("one", "two")
    with pytest.raises(FolderError, match="new or empty folder"):
        torch_importing.import_run(path, tmp_path / "run")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("model.1.bn.weight"), "model.1.bn.weight is missing"),
        (lambda s: s.update({"model.30.weight": np.zeros(3, "f4")}), "model.30.weight is left over"),
        (
            lambda s: s.update({"model.1.bn.bias": np.zeros(3, "f4")}),
            r"model.1.bn.bias: expected \[\d+\].*received \[3\]",
        ),
        (lambda s: s["model.0.bn.weight"].fill(np.nan), "model.0.bn.weight holds numbers that are not finite"),
        (
            lambda s: s.update({"model.22.dfl.conv.weight": np.ones((1, 16, 1, 1), "f4")}),
            "model.22.dfl.conv.weight is left over",
        ),
        (
            lambda s: s.pop("model.0.conv.weight"),
            r"received \w+( of another layout| network) \(\d+ tensors, the first|model.0.conv.weight is missing",
        ),
        (lambda s: s.clear(), "received nothing; save the model, or its state_dict"),
    ],
)
def test_all_tensors_or_none(change, message, native, fake_torch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_importing, "build", lambda *_: native)  # which stays as it is
    theirs, _ = their_state(native)
    change(theirs)
    state = tensors(theirs)
    with pytest.raises(unpickle.TorchError, match=message) as error:
        torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    assert "x.pt" in str(error.value)


# --- what a file must not do ------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *args):
        self.how = (function, args)

    def __reduce__(self):
        return self.how


def by_hand(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


MARK = "/tmp/tfyolo-was-here"
PROGRAMS = {
    "posix.system": pickle.dumps(Calls(__import__("os").system, f"touch {MARK}"), 2),
    "builtins.eval": pickle.dumps({"model": Calls(eval, f"open({MARK!r}, 'w')")}, 4),
    "builtins.exec": pickle.dumps(collections.OrderedDict(a=Calls(exec, f"open({MARK!r}, 'w')")), 2),
    "subprocess.Popen": pickle.dumps(Calls(__import__("subprocess").Popen, ["touch", MARK]), 2),
    "builtins.getattr": by_hand(b"cbuiltins\ngetattr\n", b"cos\nsystem\n", b"X\x04\x00\x00\x00name", b"\x86R"),
    "os.system": by_hand(b"(", b"S'touch " + MARK.encode() + b"'\n", b"ios\nsystem\n"),  # INST
    "nt.system": by_hand(b"(cnt\nsystem\n", b"X\x01\x00\x00\x00x", b"o"),  # OBJ
    "builtins.__import__": by_hand(
        b"c__builtin__\n__import__\n".replace(b"__builtin__", b"builtins"), b"X\x02\x00\x00\x00os", b"\x85R"
    ),
    "torch.load": by_hand(b"ctorch\nload\n", b"X\x01\x00\x00\x00x", b"\x85R"),
    "torch.hub.load": by_hand(b"ctorch.hub\nload\n", b"X\x01\x00\x00\x00x", b"\x85R"),
    "functools.partial": by_hand(b"cfunctools\npartial\n", b"cos\nsystem\n", b"\x85R"),
}


def zipped(path, contents, **others):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", contents)
        for name, data in others.items():
            archive.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_that_a_file_names_is_called(name, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("os.system", lambda *args: ran.append(args))
    with pytest.raises(unpickle.TorchError, match="refused, an import runs nothing") as error:
        unpickle.read(zipped(tmp_path / "x.pt", PROGRAMS[name]))
    assert name.rpartition(".")[2] in str(error.value) and not ran
    import os

    assert not os.path.exists(MARK)


def test_objects_of_their_classes_are_records(tmp_path):
    """Made and given their state, as pickle does it, by no code of theirs."""
    value = by_hand(b"cos\nsystem\n", b")\x81", b"}X\x01\x00\x00\x00aK\x07s", b"b")
    record = unpickle.read(zipped(tmp_path / "x.pt", value))
    assert isinstance(record, unpickle.Record) and record.kind == "os.system" and record.a == 7


def test_state_goes_nowhere_but_into_records(tmp_path):
    """BUILD on a function or a container of ours would change it for everybody."""
    value = by_hand(b"ccollections\nOrderedDict\n", b"}X\x04\x00\x00\x00evilK\x07s", b"b")
    with contextlib.suppress(unpickle.TorchError):
        unpickle.read(zipped(tmp_path / "x.pt", value))
    assert not hasattr(collections.OrderedDict, "evil")


def test_a_tensor_is_no_larger_than_its_bytes(fake_torch, tmp_path):
    class Lying(_Tensor):
        shape = (1 << 30, 4)

        def __reduce__(self):
            rebuild, (storage, offset, _, _steps, *rest) = super().__reduce__()
            return rebuild, (storage, offset, self.shape, self.steps, *rest)

    array = np.zeros(4, "f4")
    for shape, steps in [((1 << 30, 4), (0, 1)), ((2, 4), (4, 1)), ((4,), (2,)), ((-1,), (1,)), ((1 << 62,), (1,))]:
        lie = Lying(array, "0")
        lie.shape, lie.steps = shape, steps
        with pytest.raises(unpickle.TorchError, match="a tensor of"):
            unpickle.read(saved(tmp_path / "x.pt", {"a": lie}, [lie]))


def test_one_storage_named_a_million_times_is_held_once(fake_torch, tmp_path):
    tensor = _Tensor(np.zeros(1 << 20, "f4"), "0")
    many = {str(i): _Tensor(tensor.array, "0") for i in range(5000)}  # 20 GB, if each were a copy
    loaded = unpickle.read(saved(tmp_path / "x.pt", many, [tensor]))
    assert len(loaded) == 5000 and all(np.shares_memory(array, loaded["0"]) for array in loaded.values())


def test_modules_that_hold_each_other_end(fake_torch, tmp_path):
    """In a ring, and as the two hands of each of sixty in a row, 2 ** 60 in all."""
    state = tensors({"weight": np.zeros(3, "f4")})
    ring, first = as_module(state, ("a",)), as_module(state, ("a",))
    ring._modules["again"] = ring
    last = first
    for _ in range(60):
        child = as_module(state, ("a",))
        last._modules.update(left=child, right=child)
        last = child
    for value in (ring, first, {"model": ring}):
        with pytest.raises(unpickle.TorchError, match=r"x\.pt: its modules hold each other without end"):
            torch_importing.load(saved(tmp_path / "x.pt", value, state.values()))
    loop = {}
    loop["model"] = loop
    with pytest.raises(unpickle.TorchError, match="received no network's weights, but model"):
        torch_importing.load(saved(tmp_path / "x.pt", loop))


def test_compressed_numbers_are_refused(fake_torch, tmp_path):
    """A bomb would be: PyTorch does not compress."""
    tensor = _Tensor(np.zeros(1 << 16, "f4"), "0")
    with pytest.raises(unpickle.TorchError, match="compressed"):
        unpickle.read(saved(tmp_path / "x.pt", {"a": tensor}, [tensor], compress=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer to the file"),
        (unpickle.OLD_START, "its pickle cannot be read"),
        (unpickle.OLD_START + b"K\x01." + pickle.dumps({"little_endian": True}), "expected version 1001"),
        (b"", "which is a zip"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, of Keras or of tfyolo"),
        (b"\x1c\0\0\0TFL3", "it is a TFLite file"),
        (b"\x08\x07\x12\x07pytorch\xff", "it is an ONNX file"),
        (b'\x09\0\0\0\0\0\0\0{"a": 1} \xff', "it is a safetensors file"),
        (pickle.dumps({"a": 1}), "it is a pickle, with no tensors of PyTorch's"),
        (b"\0" * 257 + b"ustar", "it is a tar archive"),
        (b"\x1f\x8b\x08", "it is a gzip archive: unpack it"),
        (b"PK\3\4" + bytes(100), "it is damaged or cut off"),
    ],
)
def test_other_files(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(unpickle.TorchError, match=message):
        unpickle.read(tmp_path / "x.pt")
    with pytest.raises(unpickle.TorchError, match="no such file"):
        unpickle.read(tmp_path / "y.pt")


def test_files_of_before_zips(fake_torch, tmp_path):
    """torch.save's format until PyTorch 1.5, of published ImageNet weights; storages come in any order, also shared."""
    rng = np.random.default_rng(0)
    state = tensors({"a.weight": rng.normal(size=(4, 3)).astype("f4"), "b": rng.normal(size=5).astype("f2")})
    state["steps"] = _Tensor(np.array(7), "2")
    assert saved_old(tmp_path / "x.pt", {}).read_bytes().startswith(unpickle.OLD_START)
    shared = {**state, "again": state["b"], "turned": _Tensor(state["a.weight"].array.T, "0")}
    for keys in (None, ["2", "0", "1"]):
        found = unpickle.read(saved_old(tmp_path / "x.pt", shared, state.values(), keys))
        assert found.keys() == shared.keys()
        for name, tensor in shared.items():
            np.testing.assert_array_equal(found[name], tensor.array)
            assert found[name].dtype == tensor.array.dtype
    whole = (tmp_path / "x.pt").read_bytes()
    for content, message in (
        (whole[:-1], "the file is cut off"),
        (whole[:-30], "the file is cut off"),
        (whole + b"x", "expected its end behind the last storage"),
        (
            saved_old(tmp_path / "x.pt", state, state.values(), ["2", "0"]).read_bytes(),
            "the numbers of each storage once",
        ),
        (
            saved_old(tmp_path / "x.pt", state, state.values(), [*"2010"]).read_bytes(),
            "the numbers of each storage once",
        ),
        (saved_old(tmp_path / "x.pt", {}, machine={"little_endian": False}).read_bytes(), "little-endian"),
    ):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(unpickle.TorchError, match=rf"x\.pt: .*{message}"):
            unpickle.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"archive/data.pkl": b"N.", "archive/code/__torch__.py": b"", "archive/constants.pkl": b"N."},
            "received a TorchScript program",
        ),
        ({"config.json": b"{}", "model.weights.h5": b""}, "this zip holds 'config.json', 'model.weights.h5'"),
        ({}, "this zip holds nothing"),
        ({"a/data.pkl": b"N.", "b/data.pkl": b"N."}, "which has one data.pkl"),
    ],
)
def test_other_archives(files, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(unpickle.TorchError, match=message):
        unpickle.read(tmp_path / "x.pt")


def test_damaged_numbers_are_said_to_be_damaged(fake_torch, tmp_path):
    """By the archive's own checksums."""
    tensor = _Tensor(np.arange(1000, dtype="f4"), "0")
    path = saved(tmp_path / "x.pt", {"a": tensor}, [tensor])
    content = bytearray(path.read_bytes())
    content[content.find(tensor.array.tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(unpickle.TorchError, match=r"damaged or cut off \(Bad CRC-32 for file 'archive/data/0'"):
        unpickle.read(path)


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_named(count, fake_torch, tmp_path):
    rng = np.random.default_rng(count)
    state = tensors({"a.weight": rng.normal(size=(4, 3)).astype("f4"), "b": rng.normal(size=5).astype("f2")})
    path = saved(tmp_path / "x.pt", {"model": as_module(state, ("red",)), "names": ["x"]}, state.values())
    whole = path.read_bytes()
    old = saved_old(tmp_path / "o.pt", {"model": as_module(state, ("red",))}, state.values()).read_bytes()
    with zipfile.ZipFile(path) as archive:
        program = archive.read("archive/data.pkl")
    opcodes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.code != "."]
    for _ in range(count):
        data = bytearray((program, program, whole, old)[rng.integers(4)])
        inside = len(data) == len(program)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            data[at : at + int(rng.integers(0, 3))] = (
                opcodes[rng.integers(len(opcodes))] if rng.random() < 0.5 else rng.bytes(1)
            )
        if inside:
            others = {f"data/{tensor.key}": tensor.array.tobytes() for tensor in state.values()}
            zipped(tmp_path / "m.pt", bytes(data), **others)
        else:
            (tmp_path / "m.pt").write_bytes(data)
        with pytest.raises(unpickle.TorchError, match=r"m\.pt"):  # of no network of the zoo, whatever it holds
            torch_importing.load(tmp_path / "m.pt")


def test_what_torch_itself_writes(native, tmp_path):
    pytorch = pytest.importorskip("torch", reason="needs torch, which is an extra: pip install 'tfyolo[torch]'")
    theirs, ours = their_state(native)
    for kind in (pytorch.float32, pytorch.float16, pytorch.bfloat16):
        state = {name: pytorch.tensor(array) for name, array in theirs.items()}
        state = {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}
        state["model.1.conv.weight"] = pytorch.nn.Parameter(state["model.1.conv.weight"])
        state["model.3.conv.weight"] = state["model.3.conv.weight"].to(memory_format=pytorch.channels_last)
        pytorch.save({"epoch": 1, "model": state}, tmp_path / "x.pt")
        imported = torch_importing.load(tmp_path / "x.pt")
        tolerance = 0 if kind != pytorch.bfloat16 else 1e-2
        for path, array in checkpoint.weights_of(imported.model.network).items():
            np.testing.assert_allclose(array, ours[path], rtol=tolerance, err_msg=path)


def test_fine_tuning_keeps_all_but_what_tells_classes(fake_torch, tmp_path):
    """Also of a branch that is as wide as the classes are many."""
    there = models.build(configs.load(configs.zoo("yolov8n"), ["model.input_size=64"]), [str(i) for i in range(80)])
    models.save_model(tmp_path / "there.h5", there)
    here = models.build(there.config, ("red", "green"))
    report, _ = initialise(here, tmp_path / "there.h5")
    anew = [f"head.p{level}.cls.{layer}" for level in (3, 4, 5) for layer in ("conv1.conv", "conv1.norm", "conv2.conv")]
    assert report[2].startswith("head: 36 arrays kept; ") and report[2].endswith("80 classes there, 2 here")
    assert all(layer in report[2] for layer in anew[:3])
    kept, given = checkpoint.weights_of(here.network), checkpoint.weights_of(there.network)
    assert all(np.array_equal(kept[name], given[name]) for name in kept if ".cls." not in name)
    others = models.build(there.config, [f"class {i}" for i in range(80)])
    assert (
        "head.p3.cls.out, head.p4.cls.out, head.p5.cls.out: the rows of all classes re-initialised"
        in (initialise(others, tmp_path / "there.h5")[0][2])
    )


NAMED = {
    # As the published checkpoints have them.
    "yolov8n": ["model.2.m.0.cv1.conv.weight", "model.22.cv3.2.2.bias", "model.9.cv2.bn.running_var",
    "model.22.cv2.0.1.bn.weight"],
    "yolo11n": ["model.6.m.0.cv3.conv.weight", "model.6.m.0.m.1.cv2.bn.bias", "model.10.m.0.attn.pe.conv.weight",
                "model.10.m.0.ffn.1.conv.weight", "model.23.cv3.1.0.0.conv.weight", "model.23.cv3.1.1.1.bn.weight"],
    "yolov7-tiny": ["model.7.conv.weight", "model.28.bn.running_mean", "model.30.conv.weight", "model.37.bn.bias",
                    "model.66.conv.weight", "model.76.conv.weight", "model.77.m.2.bias", "model.77.im.1.implicit"],
    "yolov7": ["model.2.conv.weight", "model.50.conv.weight", "model.51.cv7.conv.weight", "model.101.bn.weight",
               "model.102.rbr_dense.0.weight", "model.104.rbr_1x1.1.running_var", "model.105.ia.0.implicit"],
    "yolov7-e6e": ["model.1.conv.weight", "model.2.cv1.conv.weight", "model.110.conv.weight", "model.112.cv4.bn.bias",
                   "model.113.conv.weight", "model.115.conv.weight", "model.255.conv.weight", "model.264.conv.weight",
                   "model.265.m2.3.bias", "model.265.im.3.implicit"],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "yolov7-e6e" else name for name in NAMED]
)
def test_names_are_theirs(name):
    layout, network = layout_of(name), models.build(small(name), ("a",)).network
    names = [layout.theirs(path) for path in checkpoint.weights_of(network)]
    assert len(names) == len(set(names)) and set(NAMED[name]) <= set(names)


def test_an_imported_yolov7_is_used_without_what_trained_it(fake_torch, tmp_path):
    """Of the form that is published for use: implicit knowledge multiplied in. And its anchors are the file's, height
    first.
    """
    there = models.build(configs.load(configs.zoo("yolov7-tiny"), ["model.input_size=64"]), ("red", "green"))
    theirs, ours = their_state(there, without=("implicit",))
    state = tensors(theirs)
    imported = torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    weights = checkpoint.weights_of(imported.model.network)
    assert weights.keys() == ours.keys() and not any("implicit" in path for path in weights)
    anchors = imported.model.config.model.decoder.options["anchors"]
    assert anchors["p3"] == [[16, 12], [36, 19], [28, 40]] and anchors["p5"][0] == [64, 48]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, without, aux",
    [("yolov7", (), False), ("yolov7-e6e", (), True), ("yolov7-e6e", ("implicit", ".aux."), False)],
)
def test_a_large_yolov7_arrives(name, without, aux, fake_torch, tmp_path):
    there = models.build(configs.load(configs.zoo(name), ["model.input_size=64"]), ("red", "green"))
    theirs, ours = their_state(there, without=without)
    if not aux and name == "yolov7-e6e":  # the head comes four blocks earlier
        theirs = {each.replace("model.265.", "model.261."): array for each, array in theirs.items()}
    state = tensors(theirs)
    imported = torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    weights = checkpoint.weights_of(imported.model.network)
    assert imported.native == name and weights.keys() == ours.keys()
    for path, array in weights.items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)
    assert isinstance(imported.model.network.output, Raw) == aux


# The published descriptions of YOLOv7's networks: block after block, from where it reads and what it is; negative: so
# many back.
def elan_there(convs, joined):
    links = [(-1, "conv")] * (convs - 1)
    return [(-1, "conv"), (-2, "conv"), (-1, "conv"), *links, (joined, "concat"), (-1, "conv")]


def halved(*others):
    return [(-1, "pool"), (-1, "conv"), (-3, "conv"), (-1, "conv/2"), ((-1, -3, *others), "concat")]


def from_above(lateral):
    return [(-1, "conv"), (-1, "up"), (lateral, "conv"), ((-1, -2), "concat")]


TWO, FOUR, ALL = (
    elan_there(*each) for each in [(2, (-1, -2, -3, -4)), (4, (-1, -3, -5, -6)), (4, (-1, -2, -3, -4, -5, -6))]
)
POOLS = [(-1, "pool5"), (-2, "pool9"), (-3, "pool13"), ((-1, -2, -3, -4), "concat")]
DESCRIBED = {
    "yolov7-tiny": (
        [(-1, "conv/2"), (-1, "conv/2"), *TWO, *[(-1, "pool"), *TWO] * 3]
        + [(-1, "conv"), (-2, "conv"), *POOLS, (-1, "conv"), ((-1, -7), "concat"), (-1, "conv")]
        + [*from_above(21), *TWO, *from_above(14), *TWO]
        + [(-1, "conv/2"), ((-1, 47), "concat"), *TWO, (-1, "conv/2"), ((-1, 37), "concat"), *TWO]
        + [(57, "conv"), (65, "conv"), (73, "conv")]
    ),
    "yolov7": (
        [(-1, "conv"), (-1, "conv/2"), (-1, "conv"), (-1, "conv/2"), *FOUR, *[*halved(), *FOUR] * 3, (-1, "sppcspc")]
        + [*from_above(37), *ALL, *from_above(24), *ALL, *halved(63), *ALL, *halved(51), *ALL]
        + [(75, "rep"), (88, "rep"), (101, "rep")]
    ),
    "yolov7-w6": (
        [(-1, "reorg"), (-1, "conv"), *[(-1, "conv/2"), *FOUR] * 5, (-1, "sppcspc")]
        + [*from_above(37), *ALL, *from_above(28), *ALL, *from_above(19), *ALL]
        + [(-1, "conv/2"), ((-1, 71), "concat"), *ALL, (-1, "conv/2"), ((-1, 59), "concat"), *ALL]
        + [(-1, "conv/2"), ((-1, 47), "concat"), *ALL]
        + [(each, "conv") for each in (83, 93, 103, 113, 83, 71, 59, 47)]
    ),
}


def as_described(rows, weights, images, activation):
    """What the last blocks of a description give, [N, h, w, C] each, computed with their tensors under their names."""
    maps = []

    def conv(x, name, stride=1, norm="bn", own="conv.", act=activation):
        kernel = weights[f"{name}.{own}weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        x = tf.nn.conv2d(x, kernel, stride, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        mean, variance, scale, shift = (
            weights[f"{name}.{norm}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return act((x - mean) / np.sqrt(variance + 1e-3) * scale + shift)

    def pool(x, size):
        return tf.nn.max_pool2d(x, size, 1, "SAME")

    for number, (sources, kind) in enumerate(rows):
        name = f"model.{number}"
        read = [
            images if number == 0 else maps[each if each >= 0 else number + each] for each in np.atleast_1d(sources)
        ]
        x = read[0]
        if kind.startswith("conv"):
            x = conv(x, name, 2 if kind == "conv/2" else 1)
        elif kind == "concat":
            x = tf.concat(read, -1)
        elif kind == "pool":
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        elif kind.startswith("pool"):
            x = pool(x, int(kind[4:]))
        elif kind == "up":
            x = tf.repeat(tf.repeat(x, 2, 1), 2, 2)
        elif kind == "reorg":
            x = tf.concat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        elif kind == "sppcspc":
            inner = conv(conv(conv(x, f"{name}.cv1"), f"{name}.cv3"), f"{name}.cv4")
            inner = tf.concat([inner, *(pool(inner, size) for size in (5, 9, 13))], -1)
            inner = conv(conv(inner, f"{name}.cv5"), f"{name}.cv6")
            x = conv(tf.concat([inner, conv(x, f"{name}.cv2")], -1), f"{name}.cv7")
        elif kind == "rep":
            parts = [conv(x, f"{name}.{each}", 1, "1", "0.", tf.identity) for each in ("rbr_dense", "rbr_1x1")]
            x = activation(sum(parts))
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    "name", ["yolov7-tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("yolov7", "yolov7-w6"))]
)
def test_yolov7_is_wired_as_it_is_published(name):
    size = 128 if name == "yolov7-w6" else 64
    model = models.build(configs.load(configs.zoo(name), [f"model.input_size={size}"]), ("red", "green"))
    rng = np.random.default_rng(0)
    for variable in model.network.variables:  # such that all that is read is told by the outputs
        if "norm" in variable.path or "implicit" in variable.path:
            low = -0.5 if "beta" in variable.path or "mean" in variable.path else 0.5
            variable.assign(rng.uniform(low, low + 1, variable.shape))
        elif "kernel" in variable.path:
            variable.assign(rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape))
    theirs, _ = their_state(model, own=True)
    images = rng.random((1, size, size, 3), dtype="float32")
    activation = (lambda x: tf.nn.leaky_relu(x, 0.1)) if name == "yolov7-tiny" else tf.nn.silu
    rows = DESCRIBED[name]
    maps = as_described(rows, theirs, images, activation)
    raw, head = model.network(images, training=False), f"model.{len(rows)}"
    outputs = [(as_raw(raw).parts, "m", True)] + ([(raw.aux, "m2", False)] if isinstance(raw, Raw) else [])
    levels = sorted(model.decoder.levels)
    lasts = iter(maps[-len(outputs) * len(levels) :])
    for told, kind, implicit in outputs:
        for i, level in enumerate(levels):
            x = next(lasts) + (theirs[f"{head}.ia.{i}.implicit"].reshape(-1) if implicit else 0)
            y = x @ theirs[f"{head}.{kind}.{i}.weight"][:, :, 0, 0].T + theirs[f"{head}.{kind}.{i}.bias"]
            y = y * (theirs[f"{head}.im.{i}.implicit"].reshape(-1) if implicit else 1)
            y = np.asarray(y).reshape(*y.shape[:3], 3, 7)
            boxes = np.asarray(told["box"][level])[..., [1, 0, 3, 2]]
            ours = np.concatenate([boxes, told["obj"][level], told["cls"][level]], -1)
            assert np.std(y) > 1e-2
            np.testing.assert_allclose(ours, y, rtol=1e-3, atol=1e-3 * np.std(y))


# --- checkpoints of other networks ------------------------------------------------------------------------------------

OLD = {
    "model.0.conv.weight": (16, 3, 3, 3),
    "model.22.cv2.0.2.bias": (64,),
    "model.22.cv3.0.2.bias": (80,),
}  # as of yolov8n
NEW = {
    "model.0.conv.weight": (16, 3, 3, 3),
    "model.23.cv2.0.2.bias": (64,),
    "model.23.cv3.0.2.bias": (80,),
}  # as of yolo11n
ANCHORED = {"model.24.anchors": (3, 3, 2), "model.24.m.0.weight": (255, 128, 1, 1), "model.24.m.0.bias": (255,)}
SEGMENT = {**OLD, "model.22.cv4.0.2.bias": (32,), "model.22.proto.cv1.conv.weight": (64, 64, 3, 3)}
P2 = {"model.0.conv.weight": (16, 3, 3, 3), "model.28.cv3.0.2.bias": (80,)}
# What is told; the classes of the model and its layers, "u." for Ultralytics' package; tensors; the file that it says
# to be described in.
PICKLED = [
    ("YOLOv5 (C3, yolov5s.yaml)", "models.yolo.DetectionModel models.common.C3 models.yolo.Detect", ANCHORED,
    "yolov5s.yaml"),
    ("YOLOv5 (BottleneckCSP, Focus)", "models.yolo.Model models.common.Focus models.common.BottleneckCSP", ANCHORED,
    ""),
    ("YOLOv5 for segmentation (C3, Segment)", "models.yolo.Model models.common.C3 models.yolo.Segment", ANCHORED, ""),
    ("YOLOv5u (C3)", "u.tasks.DetectionModel u.modules.block.C3 u.modules.head.Detect", OLD, ""),
    ("YOLOv3 (Bottleneck); import it from Darknet's", "models.yolo.Model models.common.Bottleneck", ANCHORED, ""),
    ("YOLOv9 (DualDDetect, RepNCSPELAN4)", "models.yolo.Model models.common.RepNCSPELAN4 models.yolo.DualDDetect",
    OLD, ""),
    ("YOLOv9 (RepNCSPELAN4, SPPELAN, yolov9t.yaml)", "u.tasks.DetectionModel u.modules.block.SPPELAN "
                                                     "u.modules.block.RepNCSPELAN4",
     OLD, "yolov9t.yaml"),
    ("YOLOv10 (SCDown, v10Detect, yolov10n.yaml)", "u.tasks.DetectionModel u.modules.block.SCDown "
                                                   "u.modules.head.v10Detect",
     NEW, "yolov10n.yaml"),
    ("YOLO12 (A2C2f, AAttn)", "u.tasks.DetectionModel u.modules.block.A2C2f u.modules.block.AAttn", OLD, ""),
    ("YOLO26 (model.23.one2one_cv2.0.2.bias, yolo26n.yaml)", "u.tasks.DetectionModel u.modules.block.C3k2 "
                                                             "u.modules.head.Detect",
     {**NEW, "model.23.one2one_cv2.0.2.bias": (4,)}, "yolo26n.yaml"),
    ("YOLO26 for pose (Pose26, PoseModel)", "u.tasks.PoseModel u.modules.block.C3k2 u.modules.head.Pose26", NEW, ""),
    ("YOLOv8 for segmentation (Segment, SegmentationModel, yolov8m-seg.yaml); take the detector of that family, "
     "published as yolov8m.pt",
     "u.tasks.SegmentationModel u.modules.block.C2f u.modules.head.Segment", SEGMENT, "yolov8m-seg.yaml"),
    ("YOLO11 for pose (Pose, PoseModel, yolo11-pose.yaml); take the detector of that family, published as yolo11s.pt",
     "u.tasks.PoseModel u.modules.block.C3k2 u.modules.head.Pose", NEW, "yolo11-pose.yaml"),
    ("YOLO11 for oriented boxes (OBB, OBBModel)", "u.tasks.OBBModel u.modules.block.C3k2 u.modules.head.OBB", NEW, ""),
    ("YOLOv8 for classification (", "u.tasks.ClassificationModel u.modules.block.C2f u.modules.head.Classify", OLD, ""),
    ("YOLOv7 for pose (IKeypoint)", "models.yolo.Model models.common.SPPCSPC models.yolo.IKeypoint",
    {"model.8.m_kpt.0.weight": (8,)}, ""),
    ("YOLO-World (C2fAttn, WorldDetect, WorldModel)", "u.tasks.WorldModel u.modules.block.C2fAttn "
                                                      "u.modules.head.WorldDetect", OLD, ""),
    ("YOLOE for segmentation (", "u.tasks.YOLOESegModel u.modules.block.C3k2 u.modules.head.YOLOESegment", NEW, ""),
    ("RT-DETR (RTDETRDecoder, RTDETRDetectionModel)", "u.tasks.RTDETRDetectionModel u.modules.head.RTDETRDecoder",
    OLD, ""),
    ("YOLOv6 (Model, RepVGGBlock)", "yolov6.models.yolo.Model yolov6.layers.common.RepVGGBlock", OLD, ""),
    ("YOLO-NAS (YoloNAS_S)", "super_gradients.training.models.YoloNAS_S", OLD, ""),
    ("YOLOv8 of another layout (2 tensors, the first model.28.cv3.0.2.bias, model.0.conv.weight; layers CBAM; "
     "described "
     "in yolov8n-p2.yaml)",
     "u.tasks.DetectionModel u.modules.block.C2f u.modules.conv.CBAM", P2, "yolov8n-p2.yaml"),
]  # fmt: skip
# What is told of a state dict, by the names and shapes of its tensors.
STATES = {
    "YOLOv5 (model.24.m.0.weight)": ANCHORED,
    "YOLOv9 (model.4.cv2.0.cv1.conv.weight)": {
        **{**OLD, "model.4.cv2.0.cv1.conv.weight": (8,)},
        **{"model.22.cv4.0.2.bias": (64,), "model.22.cv5.0.2.bias": (80,)},
    },
    "YOLOv9 of another layout (2 tensors, the first model.0.conv.weight": {
        "0.conv.weight": (16, 3, 3, 3), "24.heads.0.class_conv.2.weight": (80, 80, 1, 1)
    },
    "YOLOv10 (model.23.one2one_cv2.0.2.bias)": {**NEW, "model.23.one2one_cv2.0.2.bias": (64,)},
    "YOLO26 (model.23.one2one_cv2.0.2.bias)": {**NEW, "model.23.one2one_cv2.0.2.bias": (4,)},
    "YOLO12 (model.6.m.0.0.attn.qkv.conv.weight)": {**OLD, "model.6.m.0.0.attn.qkv.conv.weight": (192, 64, 1, 1)},
    "YOLOv8 for segmentation (model.22.proto.cv1.conv.weight); take the detector": SEGMENT,
    "YOLO11 for pose (model.23.cv4.0.2.bias)": {**NEW, "model.23.cv4.0.2.bias": (51,)},
    "YOLO11 for oriented boxes (model.23.cv4.0.2.bias)": {**NEW, "model.23.cv4.0.2.bias": (1,)},
    "YOLOv8 for classification (model.9.linear.weight)": {"model.0.conv.weight": (16, 3, 3, 3),
    "model.9.linear.weight": (1000, 1280)},
    "RT-DETR (decoder.dec_score_head.0.weight)": {"backbone.conv1.conv1_1.conv.weight": (8,),
    "decoder.dec_score_head.0.weight": (80, 256)},
    "D-FINE or DEIM (": {"decoder.pre_bbox_head.layers.0.weight": (4, 4), "decoder.dec_score_head.0.bias": (80,)},
    "YOLOX of another layout (2 tensors": {"backbone.backbone.stem.conv.conv.weight": (16, 12, 3, 3),
                                         "head.cls_preds.0.weight": (80, 64, 1, 1)},
    "YOLOX with Darknet-53 (": {"backbone.backbone.stem.0.conv.weight": (32, 3, 3, 3),
                                "head.cls_preds.0.weight": (80, 64, 1, 1)},
    "YOLO-NAS (": {"heads.head1.cls_pred.weight": (80, 64, 1, 1)},
    "YOLOv6 (": {"detect.cls_preds.0.weight": (80, 64, 1, 1)},
    "PP-YOLOE (": {"head.pred_cls.0.weight": (80, 96, 3, 3)},
    "Faster or Mask R-CNN (": {"backbone.body.conv1.weight": (64, 3, 7, 7),
    "roi_heads.box_predictor.cls_score.weight": (91, 1024)},
    "SSD, RetinaNet or FCOS (": {"head.classification_head.cls_logits.weight": (819, 256, 3, 3)},
    "MMDetection's or MMYOLO's (": {"bbox_head.rtm_cls.0.weight": (80, 128, 1, 1)},
    "a network of Darknet's, such as YOLOv3 or YOLOv4, in PyTorch (": {"module_list.0.Conv2d.weight": (32, 3, 3, 3)},
    "a network for classification (fc.weight)": {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512)},
    "another network (1 tensor, the first encoder.weight); take a checkpoint of one of these": {"encoder.weight": (3,
    3)},
}  # fmt: skip


@pytest.fixture
def classes(fake_torch, monkeypatch):
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


def told_of(value, arrays, tmp_path):
    """The one line that says what a checkpoint is."""
    path = saved(tmp_path / "theirs.pt", value, arrays)
    with pytest.raises(unpickle.TorchError) as error:
        torch_importing.load(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: expected ") and len(line) < 450
    return line.removeprefix(f"{path}: expected ")


def zeros(shapes):
    return tensors({name: np.zeros(shape, "float16") for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "expected, names, shapes, described", PICKLED, ids=[each[0].partition(" (")[0] for each in PICKLED]
)
def test_a_model_of_another_network_is_named(expected, names, shapes, described, classes, tmp_path):
    """By the classes in its pickle; in the place of what it lacks of the network that its first tensors are like."""
    kinds = [
        classes(name.replace("u.", "ultralytics.nn.", 1)) if name[:2] == "u." else classes(name)
        for name in names.split()
    ]
    model = as_module(state := zeros(shapes), ("red", "green"))
    model.__class__ = kinds[0]
    model.criterion = [kind() for kind in kinds[1:]]  # anywhere
    if described:
        model.yaml = {"nc": 80, "yaml_file": f"/home/me/{described}", "scale": "s"}
    told = told_of({"epoch": -1, "model": model, "train_args": {"imgsz": 640}}, state.values(), tmp_path)
    assert told.startswith(f"{foreign.IMPORTED}, received {expected}")


@pytest.mark.parametrize("expected", STATES)
def test_a_state_dict_of_another_network_is_named(expected, fake_torch, tmp_path):
    state = zeros(STATES[expected])
    told = told_of(dict(state), state.values(), tmp_path)
    assert told.startswith(f"{foreign.IMPORTED}, received {expected}")


def test_a_task_is_told_though_nothing_else_tells_it(classes, tmp_path):
    model = as_module(state := zeros(OLD), ("red", "green"))
    model.task, model.layer = "obb", classes("ultralytics.nn.modules.block.C2f")()
    assert "received YOLOv8 for oriented boxes; take the detector" in told_of(
        {"model": model}, state.values(), tmp_path
    )


@pytest.mark.parametrize("wrap", ["ema", "net", "state_dict"])
def test_a_state_dict_is_named_wherever_it_lies(wrap, fake_torch, tmp_path):
    state = tensors({"heads.head1.cls_pred.weight": np.zeros((80, 64, 1, 1), "f4")})
    value = {"ema": {"ema": {"module": state}}, "net": {"net": state}, "state_dict": {"state_dict": state}}[wrap]
    assert "received YOLO-NAS (heads.head1.cls_pred.weight)" in told_of(value, state.values(), tmp_path)


@pytest.mark.parametrize(
    "value, expected",
    [
        (
            {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"lr": 0.1}]},
            "the state of an optimizer without a network; take the file",
        ),
        ({"epoch": 3, "optimizer": {"state": {}}, "model": None}, "the state of an optimizer without a network"),
        ({"epoch": 3, "loss": [0.1]}, "no network's weights, but epoch, loss; save the model, or its state_dict"),
        ([1, 2], "nothing; save the model, or its state_dict"),
    ],
)
def test_a_checkpoint_without_a_network_is_named(value, expected, fake_torch, tmp_path):
    assert f"received {expected}" in told_of(value, [], tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_named_too(classes, tmp_path):
    """Here by what its pickle names before it comes to a call, which is refused."""
    model = as_module({}, ("red",))
    model.__class__ = classes("ultralytics.nn.modules.head.v10Detect")
    assert "received YOLOv10 (v10Detect)" in told_of({"model": model, "z": Calls(eval, "1")}, [], tmp_path)


def test_a_changed_network_is_named_by_what_was_changed(classes, native, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_importing, "build", lambda *_: native)
    theirs, _ = their_state(native)
    del theirs["model.1.bn.weight"]
    model = as_module(state := tensors(theirs), ("red", "green"))
    model.attention = classes("ultralytics.nn.modules.conv.CBAM")()
    told = told_of({"model": model}, state.values(), tmp_path)
    first = "1 of its tensors do not fit, the first: model.1.bn.weight is missing; import it as it was published"
    assert told == f"{native.config.name}, received one with other layers (CBAM): {first}"
    pruned = {name: array[..., :1] if array.ndim == 4 else array for name, array in theirs.items()}
    told = told_of(dict(state := tensors(pruned)), state.values(), tmp_path)
    assert told.startswith(f"{native.config.name}, received a network like it: ") and "tensors do not fit, the" in told


def test_what_a_training_state_holds_besides_is_passed_over(classes, tmp_path):
    """Arrays of NumPy's, counters and mappings with classes of their own, as optimizers, schedulers and loggers leave
    them.
    """
    state = tensors({"conv.weight": np.arange(6, dtype="f4").reshape(2, 3), "bn.running_mean": np.ones(2, "f4")})
    bag = classes("theirs.Bag")()
    value = {
        "model": as_module(state, ("red", "green")),
        "best_fitness": np.array([0.5]),
        "scheduler": {"milestones": collections.Counter([3, 5]), "factors": collections.defaultdict(list)},
        "updates": {("a", 1): 2, frozenset([1]): bag, 3: {1, (2, 3)}},
    }
    loaded = unpickle.read(saved(tmp_path / "last.pt", value, state.values()))
    arrays = unpickle.state_dict(loaded)
    assert arrays.keys() == state.keys() and loaded["scheduler"]["milestones"] == {3: 1, 5: 1}
    assert all(np.array_equal(array, state[name].array) for name, array in arrays.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".cfg", ".onnx"])
@pytest.mark.parametrize("there", [True, False])
def test_what_has_to_be_imported_first_is_said_before_anything_is_done(suffix, there, tmp_path):
    path = tmp_path / f"their best{suffix}"
    if there:
        path.write_bytes(b"PK\3\4\xff")
    config = configs.load(configs.zoo("demo"), [f"train.init={path}", f"data={tmp_path / 'nowhere'}"])
    ways = (models.load_model, load_detector, lambda path: training.train(config, tmp_path / "run"), configs.load)
    for way in (*ways, lambda path: initialise(None, path)):
        with pytest.raises((checkpoint.CheckpointError, configs.ConfigError)) as error:
            way(path)
        told = f"{path}: {'' if there else 'no such file; '}expected "
        import_it = f"`tfyolo import '{path}'" if suffix != ".onnx" else "import the checkpoint it was made of"
        assert told in str(error.value) and import_it in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# --- files that would take for ever -----------------------------------------------------------------------------------


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _call(name, count=1):
    """Calls of something, each with what the memo has under 0."""
    module, _, name = name.rpartition(".")
    return (f"c{module}\n{name}\n".encode() + b"h\0\x85R") * count


KEEP = b"q\0"  # what stands on the stack, under 0 of the memo
IN_TUPLES = b"K\1" + b"q\1h\1\x86" * 60  # a tuple of the same tuple twice, sixty deep: 2 ** 60 numbers to look at
IN_LISTS = b"]" + b"q\1(h\1h\1l" * 60
LONG = 1 << 20
SHARED = {
    "a tuple as a key": b"}" + IN_TUPLES + b"Ns",
    "tuples as keys": b"}(" + IN_TUPLES + b"Nu",
    "a tuple as a key of a mapping made at once": b"(" + IN_TUPLES + b"Nd",
    "a tuple in a set": b"\x8f(" + IN_TUPLES + b"\x90",
    "a tuple in a frozen set": b"(" + IN_TUPLES + b"\x91",
    "a tuple in a set by call": b"](" + IN_TUPLES + b"e" + KEEP + _call("builtins.set"),
    "a tuple in a frozen set by call": b"](" + IN_TUPLES + b"e" + KEEP + _call("builtins.frozenset"),
    "a tuple as a key by call": b"](" + IN_TUPLES + b"N\x86e" + KEEP + _call("collections.OrderedDict"),
    "a tuple as a name": b"cx\ny\n)\x81}" + IN_TUPLES + b"Nsb",
    "a path": IN_LISTS + KEEP + _call("pathlib.PosixPath"),
    "a device": IN_LISTS + KEEP + _call("torch.device"),
    "a type": IN_LISTS + KEEP + _call("numpy.dtype"),
    "no storage": IN_LISTS + b"Q",
    "a storage's name": b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + IN_TUPLES + _text("cpu") + b"K\1tQ",
    "a shape": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0" + IN_TUPLES + b"K\1tR",
    "a text encoded": _text("x" * LONG) + KEEP + b"0(" + _call("_codecs.encode", 4000) + b"l",
    "a number of a million digits as a key": b"\x8b"
    + struct.pack("<I", LONG)
    + b"\1" * LONG
    + KEEP
    + b"0}("
    + b"h\0N" * 20_000
    + b"u",
    "a list copied": b"](" + b"N" * LONG + b"e" + KEEP + b"0(" + _call("torch.Size", 20_000) + b"l",
    "a mapping copied": b"}("
    + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(50_000))
    + b"u"
    + KEEP
    + b"0("
    + _call("collections.Counter", 20_000)
    + b"l",
    "a state copied": b"}("
    + b"".join(_text(str(i)) + b"N" for i in range(50_000))
    + b"u"
    + KEEP
    + b"0("
    + b"cx\ny\n)\x81h\0b" * 20_000
    + b"l",
    "a state of many parts copied": b"(" + b"N" * LONG + b"t" + KEEP + b"0(" + b"cx\ny\n)\x81h\0b" * 20_000 + b"l",
    "a tuple as a number's type": b"cx\ny\n)\x81}"
    + _text("kind")
    + IN_TUPLES
    + b"sb"
    + KEEP
    + b"cnumpy.core.multiarray\nscalar\nh\0N\x86R",
    "arguments copied": b"(" + b"N" * LONG + b"t" + KEEP + b"0(" + b"cx\ny\nh\0\x81" * 20_000 + b"l",
    "classes": b"(" + b"".join(b"cx\ny%d\n0" % i for i in range(20_000)) + b"l",
    "classes with long names": _text("x" * LONG)
    + KEEP
    + b"0("
    + b"".join(b"h\0" + _text(str(i)) + b"\x93" for i in range(4000))
    + b"l",
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_used_again_and_again_takes_no_longer_for_it(name, tmp_path, monkeypatch):
    """Nor room. Read or refused, each takes a second or two at most; the last step of every one took minutes, or
    gigabytes.
    """
    monkeypatch.setattr(unpickle, "MOST_COPIED", unpickle.MOST_COPIED // 8)
    began = time.process_time()
    with contextlib.suppress(unpickle.TorchError):
        unpickle.read(zipped(tmp_path / "x.pt", b"\x80\4" + SHARED[name] + b"."))
    with pytest.raises(unpickle.TorchError) as error:
        torch_importing.load(tmp_path / "x.pt")
    assert time.process_time() - began < 15 and len(str(error.value)) < 500 + len(str(tmp_path))


def test_keys_that_nobody_looks_for_are_kept_apart(tmp_path):
    """Texts and numbers are what they were; a mapping with tuples as keys has as many items as it had."""
    loaded = unpickle.read(
        zipped(tmp_path / "x.pt", pickle.dumps({"a": 1, 2: 3, None: 4, 2.5: 5, (1, 2): 6, (3,): 7}, 2))
    )
    assert (loaded["a"], loaded[2], loaded[None], loaded[2.5], len(loaded)) == (1, 3, 4, 5, 6)


def test_bytes_that_many_storages_share_are_read_once(tmp_path):
    """Each file of the archive lies in the one before it: a few kilobytes that say they are many."""
    count, tail = 200, bytes(1 << 20)
    program = (
        b"\x80\2]"
        + b"".join(
            b"ctorch._utils\n_rebuild_tensor_v2\n(("
            + _text("storage")
            + b"ctorch\nByteStorage\n"
            + _text(str(i))
            + _text("cpu")
            + b"J"
            + struct.pack("<i", size)
            + b"tQK\0K\1\x85K\1\x85\x89NtRa"
            for i, size in _nested_sizes(count, len(tail))
        )
        + b"."
    )
    content, entries = tail, []
    for i in reversed(range(count)):
        name = f"archive/data/{i}".encode()
        crc, size = zlib.crc32(content), len(content)
        header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, crc, size, size, len(name), 0) + name
        content = header + content
        entries.append((name, crc, size, len(content)))
    first = b"archive/data.pkl"
    crc, size = zlib.crc32(program), len(program)
    start = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, crc, size, size, len(first), 0) + first + program
    end = len(start) + len(content)
    entries = [(first, crc, size, end), *((name, crc, size, back) for name, crc, size, back in entries)]
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, crc, size, size, len(name), 0, 0, 0, 0, 0, end - back)
        + name
        for name, crc, size, back in entries
    )
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), end, 0)
    (tmp_path / "x.pt").write_bytes(start + content + directory + last)
    with pytest.raises(unpickle.TorchError, match=r"bytes of its own|Overlapped entries|which is a zip"):
        unpickle.read(tmp_path / "x.pt")


def _nested_sizes(count, last):
    """(number, bytes) of files of an archive that lie in each other, the innermost of so many bytes."""
    sizes, size = {}, last
    for i in reversed(range(count)):
        sizes[i] = size
        size += 30 + len(f"archive/data/{i}")
    return sorted(sizes.items())


@pytest.mark.parametrize("kind", ["children", "parameters", "names"])
def test_what_modules_share_is_counted(kind, fake_torch, tmp_path):
    """As often as it is met: ten thousand modules with the same ten thousand parts, and names that name each other."""
    state = tensors({"weight": np.zeros(3, "f4")})
    root = as_module(state, ("a",))
    layer = sys.modules["theirs_nn"].Layer
    shared = {str(i): state["weight"] for i in range(3000)}
    if kind == "names":
        nested = ["a"]
        for _ in range(60):
            nested = [nested, nested]
        root.names = {0: nested, 1: nested}
        with pytest.raises(unpickle.TorchError, match="received another network"):
            torch_importing.load(saved(tmp_path / "x.pt", root, state.values()))
        assert torch_importing._names_in(unpickle.read(tmp_path / "x.pt")) == ["a list of 2"] * 2
        return
    for i in range(3000):
        child = layer()
        child.__dict__.update(_parameters={}, _buffers={}, _modules={})
        child.__dict__["_parameters" if kind == "parameters" else "_modules"] = shared
        root._modules[str(i)] = child
        if kind == "children":
            shared[str(i)] = child
    with pytest.raises(unpickle.TorchError, match=r"x\.pt: its modules hold each other without end"):
        torch_importing.load(saved(tmp_path / "x.pt", root, state.values()))
