"""Files of weights (.h5) that are damaged or made to do harm: each is read as it was written, or one clean error names
it.

The slow test at the end damages and makes them by chance and reads them in a process of its own, with a limit of memory
and of time; it prints how many of each kind it tried. TFYOLO_FUZZ_ROUNDS sets how often.
"""

import functools
import json
import os
import random
import re
import resource
import selectors
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import environment

from tfyolo import checkpoint

GROUPS = ("weights", "averages", "optimizer", "random")
META = {"config": "{}", "classes": ["a", "b"], "state": {"stage": 0, "epoch": 1, "best": None}, "overfit": None}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"backbone.{i}.conv/{name}": rng.normal(size=shape).astype("float32")
        for i in range(12)
        for name, shape in (("kernel", (3, 3, 4, 8)), ("bias", (8,)))
    }


def written(path):
    """A file as training leaves it, of arrays that belong to no network."""
    optimizer = {"iteration": np.int64(3), **{f"momentum_{i}": np.zeros(8, "float32") for i in range(5)}}
    groups = dict(zip(GROUPS, (arrays(), arrays(1), optimizer, {}), strict=True))
    checkpoint.save(path, META, **groups)
    return path


# --- damage -----------------------------------------------------------------------------------------------------------


def _truncate(rng, content):
    return content[: rng.randrange(len(content))]


def _flip_bits(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 50])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _flip_descriptions(rng, content):
    """Bytes of what HDF5 says of the arrays, not of their numbers, of which there are many more."""
    content, places = bytearray(content), _descriptions(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.choice(places)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
    return bytes(content)


@functools.cache
def _descriptions(content):
    """Where a file's bytes are of signatures, headers and names: within 200 of any of their marks."""
    places = set()
    for mark in (b"\x89HDF", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"\x01\x00\x06\x00", b"\x01\x00\x05\x00"):
        at = content.find(mark)
        while at >= 0:
            places |= set(range(at, min(at + 200, len(content))))
            at = content.find(mark, at + 1)
    return sorted(places)


def _zero(rng, content):
    at, length = rng.randrange(len(content)), rng.choice([1, 16, 512, 4096])
    length = min(length, len(content) - at)
    return content[:at] + bytes(length) + content[at + length :]


def _move(rng, content):
    """A part of the file over another, doubled, or taken out."""
    at, to, length = rng.randrange(len(content)), rng.randrange(len(content)), rng.choice([1, 8, 512, 4096])
    part = content[at : at + length]
    return rng.choice(
        [
            content[:to] + part + content[to + len(part) :],
            content[:to] + part + content[to:],
            content[:at] + content[at + length :],
        ]
    )


DAMAGES = [_truncate, _flip_bits, _flip_descriptions, _zero, _move]


# --- made files -------------------------------------------------------------------------------------------------------

TEXTS = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "text": '"config classes"',
    "deep": "[" * 100_000,
    "deep mapping": '{"a":' * 50_000,
    "digits": '{"config": ' + "9" * 5000 + "}",
    "no config": json.dumps({**META, "config": None}),
    "a config that is no text": json.dumps({**META, "config": {}}),
    "a config that is no JSON": json.dumps({**META, "config": "{"}),
    "a config that is a list": json.dumps({**META, "config": "[]"}),
    "a config that is text": json.dumps({**META, "config": '"demo"'}),
    "a config that is a number": json.dumps({**META, "config": "1"}),
    "a deep config": json.dumps({**META, "config": "[" * 100_000}),
    "another config": json.dumps({**META, "config": '{"name": "x", "model": {"input_size": 64}}'}),
    "no classes": json.dumps({"config": "{}"}),
    "classes that are a number": json.dumps({**META, "classes": 3}),
    "classes that are text": json.dumps({**META, "classes": "ab"}),
    "classes that are numbers": json.dumps({**META, "classes": [1, 2]}),
    "classes that are lists": json.dumps({**META, "classes": [["a"]]}),
    "no class": json.dumps({**META, "classes": []}),
    "no state": json.dumps({"config": "{}", "classes": ["a"]}),
    "a state that is a list": json.dumps({**META, "state": [1]}),
    "a state of texts": json.dumps({**META, "state": {"stage": "0", "epoch": "1"}}),
    "a best that is text": json.dumps({**META, "state": {"stage": 0, "epoch": 1, "best": "x"}}),
    "darknet that is text": json.dumps({**META, "darknet": "x"}),
}


def _meta(value, **options):
    def make(file, path):
        del file["meta"]
        file.create_dataset("meta", data=value, **options)

    return make


def _array(**options):
    """Another data set in the place of one."""

    def make(file, path):
        del file["weights/backbone.3.conv/kernel"]
        file.create_dataset("weights/backbone.3.conv/kernel", **options)

    return make


def _link(to, name="weights/backbone.3.conv/kernel"):
    def make(file, path):
        if name in file:
            del file[name]
        file[name] = to(file) if callable(to) else to

    return make


def _low_level(kind, space=None):
    """An array of a type that only HDF5 itself makes."""

    def make(file, path):
        del file["weights/backbone.3.conv/kernel"]
        where = space or h5py.h5s.create_simple((4,))
        h5py.h5d.create(file["weights/backbone.3.conv"].id, b"kernel", kind(), where)

    return make


def _deep(count, name):
    def make(file, path):
        group = file[name].id
        for _ in range(count):
            group = h5py.h5g.create(group, b"g")

    return make


def _many(file, path):
    for i in range(3000):
        file[f"weights/{i}"] = file["weights/backbone.3.conv/kernel"]


def _wide(file, path):
    for i in range(2000):
        h5py.h5g.create(file["weights"].id, b"%d" % i)


def _virtual(source):
    def make(file, path):
        layout = h5py.VirtualLayout((1000, 1000), "f4")
        layout[:] = h5py.VirtualSource(source or str(path), "weights/backbone.2.conv/bias", (1000, 1000))
        del file["weights/backbone.3.conv/kernel"]
        file.create_virtual_dataset("weights/backbone.3.conv/kernel", layout)

    return make


def _claims(file, path):
    """The text of the description says that it has 4 GB."""
    size, at = len(json.dumps(META).encode()), file["meta"].id.get_offset()
    file.close()
    content = bytearray(path.read_bytes())
    assert struct.unpack_from("<I", content, at) == (size,)
    struct.pack_into("<I", content, at, 0xFFFFFFF0)
    path.write_bytes(content)


def _keras(change):
    """A file as keras.applications publishes VGG-16, and what is wrong with it."""

    def make(file, path):
        for name in list(file):
            del file[name]
        file.attrs["layer_names"] = [b"block1_conv1", b"fc1", b"fc2"]
        for name, shape in (("block1_conv1", (3, 3, 3, 4)), ("fc1", (7 * 7 * 4, 8)), ("fc2", (8, 8))):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = np.zeros(shape, "f4"), np.zeros(shape[-1], "f4")
        change(file)

    return make


def _drop(*names):
    def change(file):
        for name in names:
            del file[name]

    return change


SPACE = 1 << 35  # 128 GiB of floats
MADE = {
    **{f"meta: {name}": _meta(text) for name, text in TEXTS.items()},
    "meta: bytes": _meta(np.bytes_(b"\xff\xfe{}")),
    "meta: fixed length": _meta(np.bytes_(json.dumps(META).encode())),
    "meta: an array of numbers": _meta(np.zeros((3, 3))),
    "meta: a number": _meta(7),
    "meta: an array of texts": _meta([json.dumps(META)] * 3),
    "meta: nothing": _meta(h5py.Empty("f4")),
    "meta: an empty text": _meta(h5py.Empty("S10")),
    "meta: opaque": _meta(np.void(b"{}")),
    "meta: a reference": _link(lambda file: file["weights"].ref, "meta"),
    "meta: a group": lambda file, path: (file.__delitem__("meta"), file.create_group("meta")),
    "meta: none": lambda file, path: file.__delitem__("meta"),
    "meta: claims 4 GB": _claims,
    "meta: soft link": _link(h5py.SoftLink("/weights"), "meta"),
    "meta: link to itself": _link(h5py.SoftLink("/meta"), "meta"),
    "meta: external link": _link(h5py.ExternalLink("/etc/passwd", "/meta"), "meta"),
    "array: 128 GiB": _array(shape=(SPACE,), dtype="f4"),
    "array: 128 GiB in chunks": _array(shape=(SPACE,), dtype="f4", chunks=(1 << 20,)),
    "array: compressed": _array(data=np.zeros(1 << 22, "f4"), compression="gzip"),
    "array: of the largest size": _array(shape=(1 << 62,), dtype="u1", chunks=(1 << 20,)),
    "array: without a number": _array(shape=(0, 1 << 62), dtype="u1", chunks=(1, 1 << 20), maxshape=(None, 1 << 62)),
    "array: of 32 axes": _array(shape=(1,) * 32, dtype="f4"),
    "array: of nothing": _array(data=h5py.Empty("f4")),
    "array: texts": _array(data=["a", "b"]),
    "array: bytes": _array(data=np.array([b"a", b"b"])),
    "array: records": _array(data=np.zeros(3, [("a", "f4"), ("b", "i4")])),
    "array: complex": _array(data=np.zeros(3, "c8")),
    "array: lists": _array(shape=(3,), dtype=h5py.vlen_dtype("f4")),
    "array: arrays": _array(shape=(3,), dtype=np.dtype(("f4", (4,)))),
    "array: opaque": _array(data=np.array([b"ab"], "V2")),
    "array: references": _array(shape=(3,), dtype=h5py.ref_dtype),
    "array: 2-byte floats": _array(data=np.zeros((3, 3, 4, 8), "f2")),
    "array: big-endian": _array(data=np.zeros((3, 3, 4, 8), ">f8")),
    "array: long floats": _array(data=np.zeros(3, np.longdouble)),
    "array: bits": _low_level(lambda: h5py.h5t.STD_B8LE.copy()),
    "array: times": _low_level(lambda: h5py.h5t.UNIX_D32LE.copy()),
    "array: a type of its own": lambda file, path: _link(np.dtype("f4"))(file, path),
    "array: never written": _array(shape=(100,), dtype="f4"),
    "array: in another file": _array(shape=(100,), dtype="u1", external=[("/etc/passwd", 0, 100)]),
    "array: in a device": _array(shape=(100,), dtype="u1", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]),
    "array: virtual": _virtual("/etc/passwd"),
    "array: virtual, of itself": _virtual(None),
    "array: another shape": _array(data=np.zeros(3, "f4")),
    "array: is a group": lambda file, path: (
        file.__delitem__("weights/backbone.3.conv/kernel"),
        file.create_group("weights/backbone.3.conv/kernel"),
    ),
    "group: is an array": lambda file, path: (file.__delitem__("weights"), file.__setitem__("weights", np.zeros(3))),
    "group: none": lambda file, path: (file.__delitem__("weights"), file.__delitem__("averages")),
    "group: one twice": lambda file, path: (
        file.__delitem__("averages"),
        file.__setitem__("averages", file["weights"]),
    ),
    "group: in itself": _link(lambda file: file["weights"], "weights/again"),
    "group: the file in it": _link(lambda file: file["/"], "weights/again"),
    "group: soft link": _link(h5py.SoftLink("/averages"), "weights"),
    "group: external link": _link(h5py.ExternalLink("/etc/passwd", "/"), "weights/there"),
    "group: external link to itself": lambda file, path: _link(
        h5py.ExternalLink(str(path), "/weights"), "weights/there"
    )(file, path),
    "group: soft loop": _link(h5py.SoftLink("/weights/again"), "weights/again"),
    "group: 1,500 deep": _deep(1500, "weights"),
    "group: 5,000 deep": _deep(5000, "averages"),
    "group: 2,000 wide": _wide,
    "group: one array 3,000 times": _many,
    "group: a name of 60,000 letters": _link(np.zeros(3, "f4"), f"weights/{'x' * 60_000}"),
    "group: a name that is no text": lambda file, path: h5py.h5g.create(file["weights"].id, b"\xff\xfe"),
    "group: a name that acts on terminals": _link(np.zeros(3, "f4"), "weights/\x1b[31mred"),
    "keras: as it is": _keras(lambda file: None),
    "keras: without its last": _keras(_drop("fc2")),
    "keras: without a bias": _keras(_drop("fc2/fc2_b_1:0")),
    "keras: other shapes": _keras(
        lambda file: (
            _drop("fc1")(file),
            file.__setitem__("fc1/a", np.zeros((3, 3))),
            file.__setitem__("fc1/b", np.zeros(3)),
        )
    ),
    "keras: other names": _keras(lambda file: file.__setitem__("block/x", np.zeros(3))),
    "keras: no layers": _keras(_drop("fc1", "fc2", "block1_conv1")),
    "keras: an attribute that is none": _keras(
        lambda file: (file.attrs.__delitem__("layer_names"), file.attrs.create("layer_names", h5py.Empty("f4")))
    ),
    "keras: a model that is an array": _keras(lambda file: file.__setitem__("model_weights", np.zeros(3))),
    "keras: a link": _keras(lambda file: file.__setitem__("fc1/there", h5py.ExternalLink("/etc/passwd", "/"))),
}
# No HDF5 at all.
OTHERS = {
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "html": b"<!DOCTYPE html>",
    "its signature": b"\x89HDF\r\n\x1a\n",
    "its signature and zeros": b"\x89HDF\r\n\x1a\n" + bytes(3000),
    "its signature and ones": b"\x89HDF\r\n\x1a\n" + b"\xff" * 3000,
    "checksum alone": b"tfyolo:1\0\0\0\0",
    "a zip": b"PK\x05\x06" + bytes(18),
}
# Whose weights are arrays of numbers in the file, beside a text that names a config and classes; and of these those to
# resume from.
RESUMED = {
    *("meta: a config that is no JSON", "meta: a config that is a list", "meta: a config that is text"),
    *("meta: a config that is a number", "meta: a deep config", "meta: another config", "meta: darknet that is text"),
    *("meta: fixed length", "array: 2-byte floats", "array: big-endian", "array: another shape", "group: one twice"),
    "group: 2,000 wide",
}
READ = RESUMED | {
    *("meta: no state", "meta: a state that is a list", "meta: a state of texts", "meta: a best that is text"),
    *(
        "array: is a group",
        "group: 5,000 deep",
        "group: a name of 60,000 letters",
        "group: a name that acts on terminals",
    ),
}


def made(name, path, content):
    """A file, of the content of a good one."""
    path.write_bytes(OTHERS.get(name, content))
    if name in MADE:
        file = h5py.File(path, "r+")
        MADE[name](file, path)
        file.close()
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return written(tmp_path_factory.mktemp("hostile") / "whole.h5").read_bytes()


@pytest.mark.parametrize("name", [*MADE, *OTHERS])
def test_nothing_but_arrays_in_the_file_is_read(name, content, tmp_path):
    path = made(name, tmp_path / "made.h5", content)
    for load, fine in ((lambda path: checkpoint.load(path, "weights"), READ), (checkpoint.load_run, RESUMED)):
        if name in fine:
            assert load(path)
            continue
        with pytest.raises(checkpoint.CheckpointError) as error:
            load(path)
        assert str(error.value).startswith(f"{path}: expected") and str(error.value).isprintable()


@pytest.mark.parametrize("given", ["a best.h5", "another program's", "damaged"])
def test_a_run_goes_on_from_what_it_left_alone(given, content, tmp_path):
    """And what is there is left as it is."""
    from tfyolo.training import train as training

    last = tmp_path / "last.h5"
    if given == "a best.h5":
        checkpoint.save(last, {"config": "{}", "classes": ["a"]}, weights=arrays())
    else:
        last.write_bytes(content[:-100] if given == "damaged" else b"PK")
    before = last.read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match=re.escape(f"{last}: expected")):
        training.train(None, tmp_path, resume=True)
    assert last.read_bytes() == before and os.listdir(tmp_path) == ["last.h5"]


@pytest.mark.parametrize("cut", range(1, 13))
@pytest.mark.parametrize("instead", ["nothing", "zeros"])
def test_a_checksum_that_is_damaged_itself_is_none_that_is_missing(cut, instead, content, tmp_path):
    """But for one that is gone as a whole: so ends a file that was changed with h5py, and one of earlier versions."""
    path = tmp_path / "last.h5"
    path.write_bytes(content[:-cut] + (bytes(cut) if instead == "zeros" else b""))
    if cut == 12 and instead == "nothing":
        assert checkpoint.load_run(path)
        return
    with pytest.raises(checkpoint.CheckpointError, match="it is damaged: its checksum is"):
        checkpoint.load_run(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_said_to_be(damage, content, tmp_path):
    """Every byte counts: of the arrays, too, of which HDF5 would give others without a word."""
    rng, path = random.Random(0), tmp_path / "damaged.h5"
    for _ in range(20):
        path.write_bytes(damaged := damage(rng, content))
        if damaged == content:
            continue
        with pytest.raises(checkpoint.CheckpointError, match=re.escape(str(path))):
            checkpoint.load_run(path)


# --- reading in a process of its own ----------------------------------------------------------------------------------


def read_everything(path):
    """All that is done with a file of weights before a network is built of it: [how each ended]."""
    from tfyolo.weights import initial

    ways = {
        "meta": checkpoint.read_meta,
        "use": lambda path: checkpoint.load(path, checkpoint.FOR_USE),
        "run": lambda path: getattr(checkpoint, "load_run", lambda path: checkpoint.load(path, *GROUPS))(path),
        "init": initial._of_keras,
    }
    if path.name.startswith("made"):
        ways["model"] = _model
    return {name: _ended(way, path) for name, way in ways.items()}


def _model(path):
    from tfyolo.model import load_model

    return load_model(path)


def _ended(way, path):
    from tfyolo.config import ConfigError

    try:
        result = way(path)
    except (checkpoint.CheckpointError, ConfigError) as error:
        clean = str(path) in str(error) and str(error).partition("do not fit the model")[0].isprintable()
        return "error" if clean else f"unclear: {str(error)[:500]!r}"
    except BaseException:
        return "traceback\n" + traceback.format_exc()
    if way is checkpoint.read_meta:
        return "read"
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        found = result[1].get("weights", result[1])
        for given in (arrays(), arrays(1)):
            if found.keys() == given.keys() and all(np.array_equal(found[name], given[name]) for name in given):
                return "read"
        return "another"
    return "read" if result is not None else "error"


def work():
    """Answers each line of standard input, a path, with one line: how reading it ended."""
    import tfyolo.model  # which takes seconds and address space

    assert tfyolo.model
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(read_everything(Path(json.loads(line)))), flush=True)


class Worker:
    """A process that reads files, begun anew where one hangs or dies."""

    def __init__(self):
        self.process = None

    def __call__(self, path, seconds=10):
        """How reading a file ended, in each way. seconds: of the processor's time; of the clock's ten times as many."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            assert self._line(600) == "ready\n"
        self.process.stdin.write(json.dumps(str(path)) + "\n")
        began, line = self._busy(), None
        for _ in range(10):
            line = self._line(seconds)
            if line is not None or self._busy() - began > seconds:
                break
        if not line:
            self.close()
            return {"all": "hang" if line is None else "crash"}
        return json.loads(line)

    def _line(self, seconds):
        """Its next line; "" if it died, None if it hangs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(seconds) else None

    def _busy(self):
        """Seconds of the processor's that it has used."""
        used = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.process:
            with self.process as process:  # which closes its pipes
                process.kill()
            self.process = None


ROUNDS = int(os.environ.get("TFYOLO_FUZZ_ROUNDS", 150))


@pytest.mark.slow
def test_damaged_and_made_files_are_read_or_named(content, tmp_path, capsys):
    """Of each kind: how many were tried, and how many ended well. What has a checksum is never read as anything else
    than was written.
    """
    bare = (
        content[: content.rfind(b"tfyolo:1")] if b"tfyolo:1" in content else content[:]
    )  # as earlier versions wrote them
    worker, counts, faults, began = Worker(), {}, [], time.monotonic()

    def tried(kind, path, may_differ=True):
        ended = worker(path)
        bad = {
            way: how
            for way, how in ended.items()
            if how not in (("error", "read", "another") if may_differ else ("error", "read"))
        }
        counts.setdefault(kind, []).append(not bad)
        faults.extend(f"{kind}: {path.name}: {way}: {how}" for way, how in bad.items())

    try:
        for given, name in ((content, "damaged"), (bare, "damaged, without a checksum")):
            for damage in DAMAGES:
                rng = random.Random(f"{name} {damage.__name__}")
                for i in range(ROUNDS):
                    path = tmp_path / f"{i}.h5"
                    path.write_bytes(damage(rng, given))
                    tried(f"{name}: {damage.__name__[1:]}", path, may_differ=given is bare)
                    path.unlink()
        for i, name in enumerate([*MADE, *OTHERS]):
            path = made(name, tmp_path / f"made {i}.h5", content)
            tried(f"made: {name.partition(':')[0] if name in MADE else 'no HDF5'}", path)
            path.unlink()
        for name, make in (
            ("fifo", os.mkfifo),
            ("folder", os.mkdir),
            ("device", lambda path: path.symlink_to("/dev/zero")),
        ):
            make(path := tmp_path / f"{name}.h5")
            tried("made: no file", path)
    finally:
        worker.close()
    with capsys.disabled():
        print(f"\n{'kind':<50}{'tried':>8}{'clean':>8}")
        for kind, clean in counts.items():
            print(f"{kind:<50}{len(clean):>8}{sum(clean):>8}")
        total = [each for clean in counts.values() for each in clean]
        print(f"{'all, in ' + str(round(time.monotonic() - began)) + ' s':<50}{len(total):>8}{sum(total):>8}")
    assert not faults, f"{len(faults)} of them:\n" + "\n".join(faults[:20])


if __name__ == "__main__":
    work()
