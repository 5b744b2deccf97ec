"""Exports give what the run gives, carry all they need, and appear whole or not at all."""

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import zipfile

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively, slow
from exporting import CLASSES, FORMATS, NAMED, TFLITE, Exported, assert_same, exported_to, row
from PIL import Image
from test_detect import jpeg, picture

from tfyolo import checkpoint
from tfyolo.data import readers
from tfyolo.data.sources.source import Record, Source
from tfyolo.evaluation.run import evaluate
from tfyolo.exports import convert, targets
from tfyolo.exports import export as exports
from tfyolo.exports.gate import Gate
from tfyolo.exports.targets import ExportError, Target
from tfyolo.model import describe, save_model
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict import load as loading
from tfyolo.predict import saved_model as saved_model_file
from tfyolo.predict.detector import Detector
from tfyolo.structures import Detections
from tfyolo.tflite.interpreter import interpreter as started


@pytest.fixture(scope="module")
def yolov1(tmp_path_factory):
    return Exported("demo-yolov1", tmp_path_factory.mktemp("yolov1"), **{"model.input_size": 192})


@pytest.fixture(scope="module", params=["demo", pytest.param("yolov1", marks=pytest.mark.slow)])
def exported(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("form", ["saved_model", "tflite"])
def test_an_export_finds_what_the_run_finds(exported, form):
    for image in exported.images:
        assert_same(exported.exports[form](image), exported.detector(image), pixels=2e-3)


def test_a_tflite_file_loads_without_a_word(demo, capfd):
    loading.load(demo.paths["tflite"])(demo.images[0])
    assert capfd.readouterr().err == ""


def unlike(found, expected, score=0.3):
    """The share of the detections expected, from a score on, that have no partner found: of its class, overlapping by
    0.8.
    """
    partners = found.labels == expected.labels[:, None]
    top = np.maximum(expected.boxes[:, None, :2], found.boxes[:, :2])
    bottom = np.minimum(expected.boxes[:, None, 2:], found.boxes[:, 2:])
    inter = np.prod(np.maximum(bottom - top, 0), -1)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (expected.boxes, found.boxes)]
    partners &= inter > 0.8 * (area[0][:, None] + area[1] - inter)
    clear = expected.scores >= score
    assert clear.sum() > 5
    return np.mean(~partners[clear].any(1))


@pytest.mark.parametrize("form, score, share", [("tflite-float16", 5e-3, 0.01), ("tflite-dynamic", 5e-2, 0.1)])
def test_coarser_weights_find_nearly_the_same(exported, form, score, share):
    for image in exported.images:
        expected, found = exported.detector(image), exported.exports[form](image, 0.2)
        assert found.best == pytest.approx(expected.best, abs=score)
        assert unlike(found, expected) <= share


@pytest.mark.parametrize("form, octets", [("tflite", 4), ("tflite-float16", 2), ("tflite-dynamic", 1)])
def test_a_tflite_file_holds_every_weight(exported, form, octets):
    kernels = sum(int(np.prod(v.shape)) for v in exported.model.network.variables if len(v.shape) > 1)
    assert 0 <= targets.size_of(exported.paths[form]) - octets * kernels < 100_000


@pytest.mark.parametrize("form", TFLITE)
def test_tflite_files_need_no_operations_but_the_builtin(exported, form):
    interpreter = started(model_path=str(exported.paths[form]), delegates=False)
    names = {operation["op_name"] for operation in interpreter._get_ops_details()}
    assert "CONV_2D" in names and "NON_MAX_SUPPRESSION_V5" in names
    assert not [name for name in names if name.startswith("Flex") or "CUSTOM" in name.upper() or name == "WHILE"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["yolov4-tiny", pytest.param("yolov4-csp", marks=pytest.mark.slow), "demo-m2det", "cornernet-small"]
)
def test_other_layers_and_decoders_are_builtin_operations_too(name, tmp_path):
    """Groups of channels; mish, and boxes without an exponential; linear soft-NMS; corner pooling and pairs."""
    model = lively(name, CLASSES)
    for layer in model.network.layers:
        if isinstance(layer, BatchNorm):
            layer.momentum = 0
    # With statistics of images, as a trained network has them: without, the many sums of YOLOv4-CSP grow to
    # thousands.
    pictures = np.stack([picture(*model.config.model.input_size, seed) for seed in range(16)])
    model.network(pictures / np.float32(255), training=True)
    save_model(tmp_path / "run.h5", model)
    path = exported_to(model, tmp_path, ["tflite"])["tflite"]
    names = {operation["op_name"] for operation in started(model_path=str(path), delegates=False)._get_ops_details()}
    assert not [name for name in names if name.startswith("Flex") or "CUSTOM" in name.upper()]
    image = pictures[0]
    found, expected = loading.load(path)(image), Detector.of(model)(image)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert unlike(found, expected) == 0  # two of nearly the same score may have changed places


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_knows_its_classes_size_and_config(exported, form):
    loaded = exported.exports[form]
    assert loaded.classes == CLASSES and loaded.input_size == exported.model.config.model.input_size
    assert loaded.config == exported.model.config
    assert loaded.source == str(exported.paths[form])


def test_metadata_and_labels_lie_in_the_files(exported):
    described = describe(exported.model)
    text = exported.paths["saved_model"] / "assets.extra" / "tfyolo.json"
    sums = {"sha256": saved_model_file.checksums(exported.paths["saved_model"])}
    assert json.loads(text.read_text(encoding="utf-8")) == described | sums
    for form in TFLITE:
        with zipfile.ZipFile(exported.paths[form]) as archive:
            export = {"nms": "builtin", "precision": NAMED[form].precision}
            model = exported.paths[form].read_bytes()[: archive.infolist()[0].header_offset]
            sums = {"sha256": hashlib.sha256(model).hexdigest()}
            assert json.loads(archive.read("tfyolo.json")) == described | {"export": export} | sums
            assert archive.read("labels.txt").decode().splitlines() == list(CLASSES)


def test_an_exports_post_processing_is_fixed(exported):
    for form in ("saved_model", "tflite"):
        with pytest.raises(checkpoint.CheckpointError, match="has its post-processing inside; iou can only be set on"):
            loading.load(exported.paths[form], iou=0.5)


# --- the SavedModel's signatures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signatures(exported):
    return lambda name, value: exported.loaded.signatures[name](tf.constant(value)), exported.loaded


def test_images_as_numbers(exported, signatures):
    call, _ = signatures
    for image in exported.images:
        found = call("uint8", np.stack([image, image[::-1]]))
        for b, one in enumerate((image, image[::-1])):
            expected = exported.detector(np.ascontiguousarray(one))
            assert_same(row(exported.detector, found, b, one), expected)
            assert float(found["best"][b]) == pytest.approx(expected.best, abs=1e-5)


def test_images_as_files_of_any_size_and_kind(exported, signatures):
    call, _ = signatures
    first, second, third = exported.images
    grey = io.BytesIO()
    Image.fromarray(third).convert("L").save(grey, "jpeg")
    png = cv2.imencode(".png", second)[1].tobytes()
    files = [jpeg(first), jpeg(first, 6), jpeg(second, 3), grey.getvalue(), png]
    found = call("bytes", files)
    for b, contents in enumerate(files):
        assert_same(row(exported.detector, found, b, None), exported.detector(contents))


def test_floats_at_the_networks_size(exported, signatures):
    call, loaded = signatures
    assert set(loaded.signatures) == {"serving_default", "uint8", "bytes"}
    size = exported.detector.input_size
    images = np.random.default_rng(0).random((3, *size, 3), dtype="float32")
    found = call("serving_default", images)
    expected = exported.detector.postprocess(exported.detector.network(images))
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)


def test_a_saved_models_outputs_are_named(signatures):
    _, loaded = signatures
    for name, signature in loaded.signatures.items():
        extra = {"valid"} if name == "bytes" else set()
        assert set(signature.structured_outputs) == {*Detections._fields, *extra}


# --- evaluated alike --------------------------------------------------------------------------------------------------


def test_an_export_is_evaluated_as_the_run_is(exported, tmp_path):
    """The ground truths are some of what the run finds, so that there is something to be right about."""
    records = []
    for i, image in enumerate(exported.images):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        found = exported.detector(image)
        boxes, labels = found.boxes[::4], found.labels[::4]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
        records.append(Record(i, str(path), boxes, labels, np.zeros(len(boxes), bool), areas, image.shape[:2], None))
    source = Source(tuple(records), CLASSES, (0, 1, 2), (), "own", "val", "coco")
    expected = evaluate(exported.detector, source, batch=2, progress=False).metrics
    assert 0.1 < expected["AP"] < 1
    for form in ("saved_model", "tflite"):
        metrics = evaluate(exported.exports[form], source, batch=2, progress=False).metrics
        assert metrics == pytest.approx(expected, abs=1e-3, nan_ok=True)


# --- files: whole or not at all ---------------------------------------------------------------------------------------


def test_what_is_refused_is_refused_before_data_are_read(demo, monkeypatch):
    monkeypatch.setattr(readers, "read_all_configured", lambda *_: pytest.fail("data were read"))
    folder = demo.paths["tflite"].parent
    for form, options, message in (
        (Target("tflite"), {}, "there already"),
        (Target("tflite", "full-int8"), {}, "expected --nms none"),
        (Target("tflite", "int8"), {"any_size": True, "overwrite": True}, "only a SavedModel"),
    ):
        with pytest.raises(ExportError, match=message):
            exports.export(demo.model, folder, [form], data="data", **options)


def test_an_earlier_export_is_only_replaced_when_asked(demo, tmp_path):
    path = exported_before(demo, Target("tflite"), tmp_path)
    folder, before = tmp_path, path.read_bytes()
    with pytest.raises(ExportError, match=r"model\.tflite: there already.*--overwrite"):
        exported_to(demo.model, folder, ["tflite"])
    assert path.read_bytes() == before
    victim = folder / "saved_model" / "assets.extra" / "old"
    victim.touch()
    exported_to(demo.model, folder, ["saved_model"], overwrite=True)
    assert not victim.exists()
    assert sorted(os.listdir(folder)) == sorted(
        ["MODEL.md", "report.json", *(path.name for path in demo.paths.values())]
    )


def test_formats_that_are_none_are_named(demo, tmp_path):
    with pytest.raises(ExportError, match=r"expected one of saved_model, tflite, onnx, triton, received 'tfjs'"):
        exports.export(demo.model, tmp_path / "new", [Target("tflite"), Target("tfjs")])
    assert not (tmp_path / "new").exists()


@contextlib.contextmanager
def no_file_above(octets):
    """Files cannot grow further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        convert.stop()  # which has the limit, too


def exported_before(demo, form, folder):
    """The path of a file that an earlier export has left in a folder, beside its report."""
    shutil.copytree(demo.folder / "export", folder, dirs_exist_ok=True)
    return folder / demo.paths[form.name].name


@pytest.mark.parametrize("form", [Target("saved_model"), slow(Target("tflite"))])
def test_without_space_what_was_there_stays(form, demo, tmp_path):
    path = exported_before(demo, form, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with no_file_above(50_000), pytest.raises(ExportError, match=r"File too large.*; free some space or give another"):
        exports.export(demo.model, tmp_path, [form], overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before and path.exists()


def test_folders_that_cannot_be_are_named(demo, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"Not a directory; .*give another --out"):
        exports.export(demo.model, tmp_path / "file" / "out", [Target("tflite")])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("form", [Target("saved_model"), slow(Target("tflite"))])
def test_interrupted_what_was_there_stays(form, demo, tmp_path, monkeypatch):
    path = exported_before(demo, form, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Gate, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        exports.export(demo.model, tmp_path, [form], overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before and path.exists()


# --- images that are none -------------------------------------------------------------------------------------------


def huge_png(side):
    """A PNG that says it is so large, and is a few bytes long."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side + 1) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_broken_image_is_flagged_and_the_others_are_answered(demo):
    call = demo.loaded.signatures["bytes"]
    first, second, _ = demo.images
    good = {0: jpeg(first), 4: cv2.imencode(".png", second)[1].tobytes()}
    files = [good[0], jpeg(second)[: len(jpeg(second)) // 2], huge_png(12000), b"", good[4], b"no picture at all"]
    found = call(tf.constant(files))
    assert found["valid"].numpy().tolist() == [True, False, False, False, True, False]
    for b in range(len(files)):
        if b in good:
            assert_same(row(demo.detector, found, b, None), demo.detector(good[b]))
        else:
            assert int(found["count"][b]) == 0 and not np.any(found["scores"][b]) and np.all(found["labels"][b] == -1)
    assert not call(tf.constant([b""]))["valid"].numpy().any()


@pytest.mark.slow
def test_memory_does_not_grow_with_broken_images(demo):
    call = tf.saved_model.load(str(demo.paths["saved_model"])).signatures["bytes"]
    first, second, _ = demo.images
    files = tf.constant([jpeg(first), jpeg(second)[:400], huge_png(12000), b""])

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(200):
        call(files)
    before = resident()
    for _ in range(1000):
        call(files)
    assert resident() - before < 50e6
