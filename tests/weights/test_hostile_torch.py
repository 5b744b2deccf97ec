"""Checkpoints of PyTorch that are hostile or damaged: nothing is called, nothing takes for ever."""

import collections
import contextlib
import pickle
import pickletools
import struct
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from torch_files import (
    Calls,
    _Tensor,
    as_module,
    saved,
    saved_old,
    tensors,
    zipped,
)

from tfyolo.weights.torch import importing as torch_importing
from tfyolo.weights.torch import unpickle


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
