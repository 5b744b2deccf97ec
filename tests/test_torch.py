"""Checkpoints of PyTorch: written here as torch.save writes them, with torch itself where it is installed, and what they must not do."""

import collections
import contextlib
import io
import pickle
import pickletools
import sys
import types
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import small

from tfyolo import checkpoint, cli
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.detect import load as load_detector
from tfyolo.weights import torch, unpickle
from tfyolo.weights.initial import initialise
from tfyolo.weights.runs import WeightsError

SETTERS = {np.dtype("f4"): "FloatStorage", np.dtype("f2"): "HalfStorage", np.dtype("i8"): "LongStorage"}


class _Module:
    """A torch.nn.Module as pickle sees it."""


@pytest.fixture
def fake_torch(monkeypatch):
    """Modules with the names that a checkpoint mentions, for pickle to find while it writes; nothing of them is called."""

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


@pytest.fixture(scope="module", params=["yolov8n", "yolo11n"])
def native(request):
    return models.build(configs.load(configs.zoo(request.param), ["model.input_size=64"]), ("red", "green"))


HEAD = {"yolov8": 22, "yolo11": 23}


def their_state(model, seed=0, half=False):
    """Random weights for a Model, as a checkpoint of theirs names and lays them: ({their name: array}, {our path: array})."""
    rng = np.random.default_rng(seed)
    theirs, ours, family = {}, {}, model.config.name[:-1]
    for path, own in checkpoint.weights_of(model.network).items():
        value = rng.uniform(0.2, 1, own.shape).astype("float16").astype("float32")
        ours[path] = value
        if ".box.out/" in path:  # top, left, bottom, right -> left, top, right, bottom
            blocks = np.split(value, 4, axis=-1)
            value = np.concatenate([blocks[1], blocks[0], blocks[3], blocks[2]], axis=-1)
        if value.ndim == 4:
            depthwise = ".depth" in path or ".place." in path
            value = value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        theirs[torch._theirs(path, family)] = value.astype("float16") if half else value
    theirs[f"model.{HEAD[family]}.dfl.conv.weight"] = np.arange(16, dtype="float32").reshape(1, 16, 1, 1)
    for name in [name for name in theirs if name.endswith("running_mean")]:
        theirs[name.replace("running_mean", "num_batches_tracked")] = np.array(7)
    return theirs, ours


@pytest.mark.parametrize("form", ["state dict", "model", "training state", "averages", "half"])
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
    imported = torch.load(saved(tmp_path / "x.pt", value, state.values()))
    assert imported.native == native.config.name
    assert imported.model.classes == (("0", "1") if form in ("state dict", "half") else ("red", "green"))
    for path, array in checkpoint.weights_of(imported.model.network).items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)


def test_a_run_of_a_checkpoint_detects(native, fake_torch, tmp_path):
    theirs, _ = their_state(native)
    state = tensors(theirs)
    path = saved(tmp_path / "x.pt", as_module(state, ("red", "green")), state.values())
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    result = CliRunner().invoke(
        cli.main, ["import", str(path), "--out", str(tmp_path / "run"), "--names", str(tmp_path / "names.txt")]
    )
    told = f"{native.config.name}, 2 classes, all {len(state)} tensors used"
    assert result.exit_code == 0 and told in result.output, result.output
    found = load_detector(tmp_path / "run")(np.zeros((32, 48, 3), np.uint8))
    assert len(found.boxes) == len(found.scores) and load_detector(tmp_path / "run").classes == ("one", "two")
    with pytest.raises(WeightsError, match="new or empty folder"):
        torch.import_run(path, tmp_path / "run")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("model.9.cv2.bn.bias"), "model.9.cv2.bn.bias is missing"),
        (lambda s: s.update({"model.30.weight": np.zeros(3, "f4")}), "model.30.weight is left over"),
        (
            lambda s: s.update({"model.1.bn.bias": np.zeros(3, "f4")}),
            r"model.1.bn.bias: expected \[32\].*received \[3\]",
        ),
        (lambda s: s["model.9.cv1.bn.weight"].fill(np.nan), "model.9.cv1.bn.weight holds numbers that are not finite"),
        (lambda s: next(s[n] for n in s if ".dfl." in n).fill(1), r"model.2\d.dfl.conv.weight is left over"),
        (lambda s: s.pop("model.0.conv.weight"), "expected YOLOv8 or YOLO11"),
        (lambda s: s.clear(), "it holds none"),
    ],
)
def test_all_tensors_or_none(change, message, native, fake_torch, tmp_path):
    theirs, _ = their_state(native)
    change(theirs)
    state = tensors(theirs)
    with pytest.raises(unpickle.TorchError, match=message) as error:
        torch.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    assert "x.pt" in str(error.value)


# --- what a file must not do ----------------------------------------------------------------------------------------------------


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
            torch.load(saved(tmp_path / "x.pt", value, state.values()))
    loop = {}
    loop["model"] = loop
    with pytest.raises(unpickle.TorchError, match="it holds none"):
        torch.load(saved(tmp_path / "x.pt", loop))


def test_compressed_numbers_are_refused(fake_torch, tmp_path):
    """A bomb would be: PyTorch does not compress."""
    tensor = _Tensor(np.zeros(1 << 16, "f4"), "0")
    with pytest.raises(unpickle.TorchError, match="compressed"):
        unpickle.read(saved(tmp_path / "x.pt", {"a": tensor}, [tensor], compress=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer to the file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "older than PyTorch 1.6"),
        (b"", "which is a zip"),
    ],
)
def test_other_files(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(unpickle.TorchError, match=message):
        unpickle.read(tmp_path / "x.pt")
    with pytest.raises(unpickle.TorchError, match="no such file"):
        unpickle.read(tmp_path / "y.pt")


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_named(count, fake_torch, tmp_path):
    rng = np.random.default_rng(count)
    state = tensors({"a.weight": rng.normal(size=(4, 3)).astype("f4"), "b": rng.normal(size=5).astype("f2")})
    path = saved(tmp_path / "x.pt", {"model": as_module(state, ("red",)), "names": ["x"]}, state.values())
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        program = archive.read("archive/data.pkl")
    opcodes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.code != "."]
    for _ in range(count):
        data = bytearray(program if rng.random() < 0.7 else whole)
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
            torch.load(tmp_path / "m.pt")


def test_what_torch_itself_writes(native, tmp_path):
    pytorch = pytest.importorskip("torch", reason="needs torch, which is an extra: pip install 'tfyolo[torch]'")
    theirs, ours = their_state(native)
    for kind in (pytorch.float32, pytorch.float16, pytorch.bfloat16):
        state = {name: pytorch.tensor(array) for name, array in theirs.items()}
        state = {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}
        state["model.1.conv.weight"] = pytorch.nn.Parameter(state["model.1.conv.weight"])
        state["model.3.conv.weight"] = state["model.3.conv.weight"].to(memory_format=pytorch.channels_last)
        pytorch.save({"epoch": 1, "model": state}, tmp_path / "x.pt")
        imported = torch.load(tmp_path / "x.pt")
        tolerance = 0 if kind != pytorch.bfloat16 else 1e-2
        for path, array in checkpoint.weights_of(imported.model.network).items():
            np.testing.assert_allclose(array, ours[path], rtol=tolerance, err_msg=path)


def test_fine_tuning_keeps_all_but_what_tells_classes(fake_torch, tmp_path):
    """Also of a branch that is as wide as the classes are many."""
    there = models.build(configs.load(configs.zoo("yolov8n"), ["model.input_size=64"]), [str(i) for i in range(80)])
    models.save_model(tmp_path / "there.h5", there)
    here = models.build(there.config, ("red", "green"))
    report, _ = initialise(here, tmp_path / "there.h5")
    assert (
        report[2] == "head: 36 arrays kept; head.p3.cls, head.p4.cls, head.p5.cls begin anew: 80 classes there, 2 here"
    )
    kept, given = checkpoint.weights_of(here.network), checkpoint.weights_of(there.network)
    assert all(np.array_equal(kept[name], given[name]) for name in kept if ".cls." not in name)
    others = models.build(there.config, [f"class {i}" for i in range(80)])
    assert (
        "head.p3.cls.out, head.p4.cls.out, head.p5.cls.out begin anew: the classes have other names"
        in (initialise(others, tmp_path / "there.h5")[0][2])
    )


NAMED = {
    # As the published checkpoints have them.
    "yolov8n": ["model.2.m.0.cv1.conv.weight", "model.22.cv3.2.2.bias", "model.9.cv2.bn.running_var", "model.22.cv2.0.1.bn.weight"],
    "yolo11n": ["model.6.m.0.cv3.conv.weight", "model.6.m.0.m.1.cv2.bn.bias", "model.10.m.0.attn.pe.conv.weight",
                "model.10.m.0.ffn.1.conv.weight", "model.23.cv3.1.0.0.conv.weight", "model.23.cv3.1.1.1.bn.weight"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_names_are_theirs(name):
    network = models.build(small(name), ("a",)).network
    names = [torch._theirs(path, name[:-1]) for path in checkpoint.weights_of(network)]
    assert len(names) == len(set(names)) and set(NAMED[name]) <= set(names)
