"""Exports that are damaged or of another program end in one error, before TensorFlow sees them."""

import ast
import collections
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from exporting import assert_same

from tfyolo import checkpoint
from tfyolo.predict import load as loading
from tfyolo.predict import tflite as tflite_runtime
from tfyolo.predict.exported import EXPORT_META
from tfyolo.tflite import packed


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_damaged_and_foreign_files_are_named(demo, tmp_path, keep):
    contents = demo.paths["tflite"].read_bytes()
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(contents[: int(keep if keep >= 1 else keep * len(contents))])
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged\.tflite: expected a TFLite file"):
        loading.load(damaged)
    with zipfile.ZipFile(damaged, "w") as archive, zipfile.ZipFile(demo.paths["tflite"]) as whole:
        meta = json.loads(whole.read("tfyolo.json"))
        archive.writestr("tfyolo.json", json.dumps({name: meta[name] for name in meta if name != "sha256"}))
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged\.tflite: expected a TFLite file"):
        loading.load(damaged)


def test_damaged_and_foreign_saved_models_are_named(demo, tmp_path):
    broken = shutil.copytree(demo.paths["saved_model"], tmp_path / "broken")
    (broken / "saved_model.pb").write_bytes(b"\xff" * 100)
    described = broken / "assets.extra" / "tfyolo.json"
    meta = json.loads(described.read_text())
    described.write_text(
        json.dumps({name: meta[name] for name in ("config", "classes")})
    )  # as earlier versions wrote it
    with pytest.raises(checkpoint.CheckpointError, match=r"broken: expected a SavedModel.*does not load"):
        loading.load(broken)
    (broken / "assets.extra" / "tfyolo.json").write_text("{}")
    with pytest.raises(checkpoint.CheckpointError, match=r"broken: its tfyolo\.json is not as tfyolo wrote it"):
        loading.load(broken)
    shutil.rmtree(broken / "assets.extra")
    with pytest.raises(checkpoint.CheckpointError, match=r"broken: expected a SavedModel that tfyolo has exported"):
        loading.load(broken)


def flipped(data, rng, first, last, count):
    data = bytearray(data)
    for at in rng.integers(first, last, count):
        data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def block(data, rng, new, first, last):
    """A block between two places, of 8 bytes to 16 KB, and another in its place."""
    count = int(2 ** rng.uniform(3, 14))
    at = int(rng.integers(first, max(last - count, first + 1)))
    return data[:at] + new(rng, count, data) + data[at + count :]


# (bytes, where the files behind the model begin, rng) -> other bytes. Before those files lie the tables, before them
# the weights.
DAMAGES = {
    "truncated": lambda data, end, rng: data[: rng.integers(len(data))],
    "a bit": lambda data, end, rng: flipped(data, rng, 0, len(data), 1),
    "head": lambda data, end, rng: flipped(data, rng, 0, 2000, 8),
    "tables": lambda data, end, rng: flipped(data, rng, end - 60000, end, 8),
    "description": lambda data, end, rng: flipped(data, rng, end, len(data), 2),
    "zeros": lambda data, end, rng: block(data, rng, lambda rng, count, data: bytes(count), 0, len(data)),
    "noise": lambda data, end, rng: block(data, rng, lambda rng, count, data: rng.bytes(count), 0, len(data)),
    "noise in tables": lambda data, end, rng: block(data, rng, lambda rng, count, data: rng.bytes(count), end - 60000,
    end),
    "twice": lambda data, end, rng: block(data, rng, lambda rng, count, data: data[:count], 0, len(data)),
    "missing": lambda data, end, rng: block(data, rng, lambda rng, count, data: b"", 0, len(data)),
    "missing in tables": lambda data, end, rng: block(data, rng, lambda rng, count, data: b"", end - 60000, end),
}  # fmt: skip


def damaged(data, kind, seed):
    """What a kind of damage makes of a TFLite file's bytes: others, whatever the seed."""
    rng = np.random.default_rng([list(DAMAGES).index(kind), seed])
    _, end = packed.files_behind(data)
    while (other := DAMAGES[kind](data, end, rng)) == data:
        pass
    return other


def without_checksum(data):
    """As earlier versions have written it."""
    files, end = packed.files_behind(data)
    meta = json.loads(files[EXPORT_META])
    assert meta.pop("sha256") == hashlib.sha256(data[:end]).hexdigest()
    return packed.with_files(data[:end], {**files, EXPORT_META: json.dumps(meta)})


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_one_error_before_the_interpreter_sees_it(kind, demo, tmp_path, monkeypatch):
    def seen(*_, **__):
        raise AssertionError("the interpreter has seen it")

    monkeypatch.setattr(tflite_runtime, "interpreter", seen)
    data = demo.paths["tflite"].read_bytes()
    for seed in range(3):
        (tmp_path / "x.tflite").write_bytes(damaged(data, kind, seed))
        with pytest.raises(checkpoint.CheckpointError, match=r"^\S+x\.tflite: .*damaged.*$"):
            loading.load(tmp_path / "x.tflite")


def test_files_of_earlier_versions_have_no_checksum_and_load(demo, tmp_path):
    (tmp_path / "x.tflite").write_bytes(without_checksum(demo.paths["tflite"].read_bytes()))
    assert_same(loading.load(tmp_path / "x.tflite")(demo.images[0]), demo.exports["tflite"](demo.images[0]))
    folder = shutil.copytree(demo.paths["saved_model"], tmp_path / "x")
    file = folder / "assets.extra" / "tfyolo.json"
    meta = json.loads(file.read_text())
    assert set(meta.pop("sha256")) > {"saved_model.pb", "variables/variables.index"}
    file.write_text(json.dumps(meta))
    assert_same(loading.load(folder)(demo.images[0]), demo.exports["saved_model"](demo.images[0]))


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"]
)
def test_a_damaged_saved_model_is_an_error_before_tensorflow_sees_it(name, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "load", None)
    folder = shutil.copytree(demo.paths["saved_model"], tmp_path / "x")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(flipped(data, np.random.default_rng(0), 0, len(data), 1))
    with pytest.raises(checkpoint.CheckpointError, match="x: its bytes are not those that were exported: damaged"):
        loading.load(folder)


FUZZ = """
import os, pickle, signal, sys
import numpy as np
import tfyolo
from tfyolo.checkpoint import CheckpointError
import tfyolo.detect
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def outcome(file):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(30)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            found = tfyolo.load(file)(image, 0.01)
            outcome = ("loads", found.scores.tolist())
        except CheckpointError as error:
            outcome = ("refused", str(error))
        except BaseException as error:
            outcome = ("traceback", repr(error))
        os.write(write, pickle.dumps(outcome))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        outcome = pipe.read()
    status = os.waitpid(child, 0)[1]
    return pickle.loads(outcome) if outcome else ("hang" if os.WTERMSIG(status) == signal.SIGALRM else "killed", status)


for line in sys.stdin:
    print(repr(outcome(line[:-1])), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("checksum", [True, False], ids=["with checksum", "without"])
def test_two_hundred_and_twenty_damages_of_each_kind_are_errors_or_harmless(checksum, demo, tmp_path):
    """Each in a process of its own. Without a checksum a damaged weight is no error that could be seen; that nothing
    breaks is.
    """
    data = demo.paths["tflite"].read_bytes()
    data = data if checksum else without_checksum(data)
    counts, file = {}, tmp_path / "x.tflite"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", FUZZ], **pipes) as process:

        def outcome(content):
            file.write_bytes(content)
            process.stdin.write(f"{file}\n")
            process.stdin.flush()
            return ast.literal_eval(process.stdout.readline())

        whole = outcome(data)
        assert whole[0] == "loads" and len(whole[1]) > 5
        for kind in DAMAGES:
            for seed in range(20):
                what, _ = outcome(damaged(data, kind, seed))
                counts.setdefault(kind, collections.Counter())[what] += 1
        process.stdin.close()
    print("\n".join(f"{kind:<20}{dict(count)}" for kind, count in counts.items()))
    total = sum(counts.values(), collections.Counter())
    assert total.keys() <= ({"refused"} if checksum else {"refused", "loads"}) and total.total() == 220, counts
    assert total["refused"] >= 120
