"""Exports give what the run gives, carry all they need, and appear whole or not at all."""

import ast
import collections
import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively, small
from PIL import Image
from test_detect import jpeg, picture

from tfyolo import checkpoint, structures
from tfyolo.data import readers
from tfyolo.data.sources.source import Record, Source
from tfyolo.evaluation.run import evaluate
from tfyolo.exports import export as exports
from tfyolo.exports import gate as gates
from tfyolo.exports import targets, tflite
from tfyolo.exports.gate import Gate, _malformed
from tfyolo.exports.job import Job
from tfyolo.exports.targets import DEFAULT_TARGETS, ExportError, Target
from tfyolo.model import build, describe, resized, save_model
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict import load as loading
from tfyolo.predict import saved_model as saved_model_file
from tfyolo.predict import tflite as tflite_file
from tfyolo.predict.detections import ImageDetections
from tfyolo.predict.detector import Detector
from tfyolo.predict.exported import EXPORT_META
from tfyolo.predict.runtimes import resolved
from tfyolo.tflite import metadata

CLASSES = ("a", "b", "größer")
FORMATS = [form.name for form in DEFAULT_TARGETS]
TFLITE = FORMATS[1:]
NAMED = {form.name: form for form in DEFAULT_TARGETS}


def exported_to(model, folder, names=FORMATS, **options):
    """{form's name: path}."""
    made = exports.export(model, folder, [NAMED[name] for name in names], **options)
    return {name: each.path for name, each in made.items()}


class Exported:
    def __init__(self, name, folder, **extra):
        self.model = lively(name, CLASSES, **extra)
        self.run = folder / "run.h5"
        save_model(self.run, self.model)
        self.paths = exported_to(self.model, folder / "export")
        self.folder = folder
        self.detector = Detector.of(self.model)  # not folded, unlike what is loaded and exported
        self.exports = {form: loading.load(path) for form, path in self.paths.items()}

    @functools.cache  # noqa: B019, of a module's fixture
    def other(self, nms):
        """The path of a TFLite file that ends otherwise."""
        form = Target("tflite", nms=nms)
        return exports.export(self.model, self.folder / nms, [form])[form.name].path

    @property
    def pictures(self):
        height, width = self.detector.input_size
        return [picture(height // 2, width), picture(height, width // 3, seed=1), picture(200, 200, seed=2)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return Exported("demo", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def yolov1(tmp_path_factory):
    return Exported("demo-yolov1", tmp_path_factory.mktemp("yolov1"), **{"model.input_size": 192})


@pytest.fixture(scope="module", params=["demo", pytest.param("yolov1", marks=pytest.mark.slow)])
def exported(request):
    return request.getfixturevalue(request.param)


def assert_same(found, expected, pixels=1e-2):
    assert len(expected.boxes) > 5
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=pixels)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("form", ["saved_model", "tflite"])
def test_an_export_finds_what_the_run_finds(exported, form):
    for image in exported.pictures:
        assert_same(exported.exports[form](image), exported.detector(image), pixels=2e-3)


def test_a_tflite_file_loads_without_a_word(demo, capfd):
    loading.load(demo.paths["tflite"])(demo.pictures[0])
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
    for image in exported.pictures:
        expected, found = exported.detector(image), exported.exports[form](image, 0.2)
        assert found.best == pytest.approx(expected.best, abs=score)
        assert unlike(found, expected) <= share


@pytest.mark.parametrize("form, octets", [("tflite", 4), ("tflite-float16", 2), ("tflite-dynamic", 1)])
def test_a_tflite_file_holds_every_weight(exported, form, octets):
    kernels = sum(int(np.prod(v.shape)) for v in exported.model.network.variables if len(v.shape) > 1)
    assert 0 <= targets.size_of(exported.paths[form]) - octets * kernels < 100_000


@pytest.mark.parametrize("form", TFLITE)
def test_tflite_files_need_no_operations_but_the_builtin(exported, form):
    interpreter = tf.lite.Interpreter(str(exported.paths[form]))
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
    # With statistics of pictures, as a trained network has them: without, the many sums of YOLOv4-CSP grow to
    # thousands.
    pictures = np.stack([picture(*model.config.model.input_size, seed) for seed in range(16)])
    model.network(pictures / np.float32(255), training=True)
    save_model(tmp_path / "run.h5", model)
    path = exported_to(model, tmp_path, ["tflite"])["tflite"]
    names = {operation["op_name"] for operation in tf.lite.Interpreter(str(path))._get_ops_details()}
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
            told = {"nms": "builtin", "precision": NAMED[form].precision}
            model = exported.paths[form].read_bytes()[: archive.infolist()[0].header_offset]
            sums = {"sha256": hashlib.sha256(model).hexdigest()}
            assert json.loads(archive.read("tfyolo.json")) == described | {"export": told} | sums
            assert archive.read("labels.txt").decode().splitlines() == list(CLASSES)


def test_an_exports_post_processing_is_fixed(exported):
    for form in ("saved_model", "tflite"):
        with pytest.raises(checkpoint.CheckpointError, match="has its post-processing inside; iou can only be set on"):
            loading.load(exported.paths[form], iou=0.5)


# --- all outputs, by position, in every program that runs TFLite files ------------------------------------------------


def by_interpreter(interpreter, images):
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    interpreter.set_tensor(taken["index"], as_taken(images, taken["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(given["index"]) for given in interpreter.get_output_details()]


def as_taken(images, dtype):
    return images if dtype == np.uint8 else images.astype("float32") / 255


def by_tf_lite(path, images):
    return by_interpreter(tf.lite.Interpreter(str(path)), images)


def by_litert(path, images):
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    return by_interpreter(litert.Interpreter(str(path)), images)


def by_compiled_model(path, images):
    """What LiteRT.js does in a browser: the outputs are bound before anything is computed."""
    litert = pytest.importorskip("ai_edge_litert.compiled_model", reason="needs ai-edge-litert")
    model = litert.CompiledModel.from_file(str(path))
    taken, given = (
        list(get("serving_default").values())
        for get in (model.get_input_tensor_details, model.get_output_tensor_details)
    )
    names = model.get_signature_by_index(0)["outputs"]
    given = [next(each for each in given if each["name"] == name) for name in names]
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(np.ascontiguousarray(as_taken(images, np.dtype(taken[0]["dtype"]))))
    model.run_by_index(0, inputs, outputs)
    return [
        buffer.read(int(np.prod(each["shape"])), np.dtype(each["dtype"]).type).reshape(each["shape"])
        for buffer, each in zip(outputs, given, strict=True)
    ]


RUNTIMES = (by_tf_lite, by_litert, by_compiled_model)
LEAST = 0.3  # score


class Telling:
    """A small Model that finds nothing in a black image, one object in another and many in a third; its exports, once
    each.
    """

    def __init__(self, name, folder):
        extra = {"model.decoder": "{name: corner, apart: 100}"} if name == "cornernet-small" else {}
        self.model, self.folder = lively(name, CLASSES, **{"model.postprocess.score": LEAST, **extra}), folder
        height, width = self.model.config.model.input_size
        squares = np.random.default_rng(0).integers(0, 2, (8, height // 8, width // 8, 3))
        full = np.kron(255 * squares, np.ones((1, 8, 8, 1))).astype("uint8")
        black = np.zeros_like(full[0])
        # With statistics of images, as a trained network has them, it answers to what it sees.
        for layer in self.model.network.layers:
            if isinstance(layer, BatchNorm):
                layer.momentum = 0
        seen = np.stack([full[0], black, *(picture(height, width, seed) for seed in range(6))])
        self.model.network(seen.astype("float32") / 255, training=True)
        self.detector = Detector.of(self.model)
        for _ in range(60):
            self._less_sure(0.25)
            if not self.counts(black[None]).any():
                break
        self._less_sure(0.25)
        faded = (
            np.round(full * np.linspace(0, 1, 25)[:, None, None, None, None]).reshape(-1, *black.shape).astype("uint8")
        )
        counts = self.counts(faded)
        ones = np.flatnonzero(counts == 1)
        self.images = {"black": black, "one": faded[ones[len(ones) // 2]], "many": faded[counts.argmax()]}
        assert counts.max() > 4

    def _less_sure(self, by):
        for variable in self.model.network.variables:
            values = np.asarray(variable).copy()
            if variable.path.endswith(".cls.out/bias"):
                variable.assign(values - by)
            elif re.fullmatch(r"head\.p\d\.out/bias", variable.path):  # of all parts together, objectness is the fifth
                values.reshape(self.model.decoder.num_anchors, -1)[:, 4] -= by
                variable.assign(values)

    def counts(self, images):
        return self.detector.postprocess(self.detector.network(images.astype("float32") / 255)).count.numpy()

    @functools.cache  # noqa: B019, of a module's fixture
    def path(self, form):
        path = self.folder / form.file
        source = Source(self._records(), CLASSES, (0, 1, 2), (), "own", "train", "coco")
        resolved(form.exporter.write)(Job(self.model, 1, True, source), form, path)
        return path

    def _records(self):
        for name, image in self.images.items():
            cv2.imwrite(str(self.folder / f"{name}.png"), image[..., ::-1])
        none = np.zeros((0, 4), "f4"), np.zeros(0, "i4"), np.zeros(0, bool), np.zeros(0)
        return tuple(Record(n, str(self.folder / f"{n}.png"), *none, (1, 1)) for n in self.images)

    def expected(self, form, image):
        """{output: array} of an image [H, W, 3] uint8: the SavedModel's; of a float16 file those of weights that
        float16 holds.
        """
        images = image[None].astype("float32") / 255
        if form.precision == "float16":
            found = self.halved.postprocess(self.halved.decoder(self.halved.network(images)))._asdict()
        else:
            found = self.serve(images=images)
        return {key: value.numpy() for key, value in found.items()}

    @functools.cached_property
    def halved(self):
        """The Model as it is converted, its weights rounded to float16: TFLite stores them so and computes in
        float32.
        """
        halved = tflite.for_tflite(self.model)
        for variable in halved.network.variables:
            variable.assign(np.asarray(variable).astype("float16"))
        return halved

    @functools.cached_property
    def serve(self):
        self.loaded = tf.saved_model.load(str(self.path(Target("saved_model"))))
        return self.loaded.signatures["serving_default"]


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    return functools.cache(lambda name: Telling(name, tmp_path_factory.mktemp(name)))


def as_detections(form, outputs, size):
    """Any form's outputs, as those of "builtin" without `best`."""
    named = dict(zip(tflite.OUTPUTS[form.nms], outputs, strict=True))
    if form.nms == "task":
        boxes, labels = named["location"] * np.tile(size, 2), named["category"].astype("int32")
        return {
            "boxes": boxes,
            "scores": named["score"],
            "labels": labels,
            "count": named["number of detections"].astype("int32"),
        }
    return named


QUICK_FORMS = [Target("tflite"), Target("tflite", "int8"), Target("tflite", nms="task")]
ALL_FORMS = [
    Target("tflite", precision, nms) for nms in ("builtin", "task") for precision in list(targets.PRECISIONS)[:-1]
]
EVERY = [
    ("demo", form)
    if form in QUICK_FORMS
    else pytest.param("demo", form, marks=pytest.mark.slow, id=f"demo-{form.name}")
    for form in ALL_FORMS
]
EVERY += [
    pytest.param(name, form, marks=pytest.mark.slow, id=f"{name}-{form.name}")
    for name in ("yolov8n", "yolov8n-e2e", "cornernet-small")
    for form in ALL_FORMS
]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name, form", EVERY)
def test_every_output_is_the_saved_models_padding_included(name, form, runtime, telling):
    model = telling(name)
    size = model.model.config.model.input_size
    weights_alone = form.precision in ("float32", "float16")  # what is computed is float32 in both
    score_off, pixels = (1e-4, 0.05) if weights_alone else (0.25, 20.0)
    for kind, image in model.images.items():
        expected = model.expected(form, image)
        found = as_detections(form, runtime(model.path(form), image[None]), size)
        count = int(found["count"][0])
        # What is there follows from the scores, and what is behind it is nothing.
        assert count == np.sum(found["scores"] > LEAST) == np.sum(found["labels"] >= 0)
        assert not found["scores"][0, count:].any() and not found["boxes"][0, count:].any()
        assert (found["labels"][0, count:] == -1).all()
        for key, value in found.items():
            assert value.shape == expected[key].shape, key
        if "best" in found:
            assert abs(found["best"][0] - expected["best"][0]) <= score_off
        if weights_alone:
            wanted = int(expected["count"][0])
            assert count == wanted == {"black": 0, "one": 1}.get(kind, wanted)
            np.testing.assert_allclose(found["scores"], expected["scores"], atol=score_off)
            # Those of nearly one score may change places. Of random weights a box may be a hundred images long.
            mine, theirs = (x["boxes"][0, :count] for x in (found, expected))
            sides = np.abs(theirs[:, 2:] - theirs[:, :2]).max(axis=1)
            same = found["labels"][0, :count, None] == expected["labels"][0, :count]
            # A float16 file's decoder knows the logarithm of an anchor to a thousandth.
            share = 1e-3 if form.precision == "float16" else 1e-4
            near = np.abs(mine[:, None] - theirs).max(axis=2) <= pixels + share * sides
            assert (same & near).any(axis=1).all()
        elif kind == "black":
            assert count == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "name, precision",
    [
        ("demo", "float32"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("demo", "full-int8"), ("yolov8n", "float32"))),
    ],
)
def test_candidates_are_the_models(name, precision, runtime, telling):
    model, form = telling(name), Target("tflite", precision, "none")
    height, width = model.model.config.model.input_size
    for image in model.images.values():
        found = dict(zip(tflite.OUTPUTS["none"], runtime(model.path(form), image[None]), strict=True))
        fused = tflite.for_tflite(model.model)  # fusion has tests of its own
        expected = fused.decoder(fused.network(image[None].astype("float32") / 255))
        boxes, scores = np.asarray(expected.boxes), np.asarray(expected.scores)
        assert found["boxes"].shape == boxes.shape and found["scores"].shape == scores.shape
        if precision == "float32":
            np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
            np.testing.assert_allclose(found["boxes"], boxes, atol=1e-2)
        else:
            assert found["boxes"].dtype == found["scores"].dtype == np.uint8
            unit = np.clip(boxes / np.array([height, width] * 2), 0, 1)
            assert np.median(np.abs(found["boxes"] / 255.0 - unit)) < 0.03
            assert np.abs(found["scores"] / 256.0 - scores).mean() < 0.05


@pytest.mark.parametrize(
    "nms, form", [("builtin", "tflite"), ("builtin", "tflite-float16"), ("none", None), ("task", None)]
)
def test_outputs_stand_in_the_order_that_is_promised(nms, form, demo):
    """For whoever reads by position: the C API, Flutter, OpenVINO, converters to ONNX."""
    from tensorflow.lite.tools import flatbuffer_utils

    promised = {
        "builtin": ["boxes", "scores", "labels", "count", "best"],
        "none": ["boxes", "scores"],
        "task": ["location", "category", "score", "number of detections"],
    }[nms]
    path = demo.paths[form] if form else demo.other(nms)
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(path.read_bytes()))
    (graph,), (signature,) = file.subgraphs, file.signatureDefs
    assert [graph.tensors[index].name.decode() for index in graph.outputs] == promised
    assert [graph.tensors[index].name.decode() for index in graph.inputs] == ["images"]
    assert [(each.name.decode(), each.tensorIndex) for each in signature.outputs] == list(
        zip(promised, graph.outputs, strict=True)
    )
    assert len({tensor.name for tensor in graph.tensors}) == len(graph.tensors)
    interpreter = tf.lite.Interpreter(str(path))
    details = interpreter.get_output_details()
    assert [each["name"] for each in details] == promised
    assert all((each["shape_signature"] > 0).all() for each in details)
    # By position and by name it is the same.
    image = demo.pictures[0]
    images = cv2.resize(image, demo.detector.input_size[::-1])[None]
    by_name = tf.lite.Interpreter(str(path)).get_signature_runner()(images=as_taken(images, np.float32))
    for value, key in zip(by_tf_lite(path, images), promised, strict=True):
        np.testing.assert_array_equal(value, by_name[key])


def test_a_saved_models_outputs_are_named(signatures):
    _, loaded = signatures
    for name, signature in loaded.signatures.items():
        extra = {"valid"} if name == "bytes" else set()
        assert set(signature.structured_outputs) == {*tflite.OUTPUTS["builtin"], *extra}


# --- the SavedModel's signatures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported.paths["saved_model"]))
    return lambda name, value: loaded.signatures[name](tf.constant(value)), loaded


def row(detector, found, b, image, score=0.25):
    kept = found["scores"][b] >= score
    boxes, scores, labels = (found[name][b][kept].numpy() for name in ("boxes", "scores", "labels"))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return ImageDetections(
        boxes[inside], scores[inside], labels[inside], detector.classes, float(found["best"][b]), image, None
    )


def test_pictures_as_numbers(exported, signatures):
    call, _ = signatures
    for image in exported.pictures:
        found = call("uint8", np.stack([image, image[::-1]]))
        for b, one in enumerate((image, image[::-1])):
            expected = exported.detector(np.ascontiguousarray(one))
            assert_same(row(exported.detector, found, b, one), expected)
            assert float(found["best"][b]) == pytest.approx(expected.best, abs=1e-5)


def test_pictures_as_files_of_any_size_and_kind(exported, signatures):
    call, _ = signatures
    first, second, third = exported.pictures
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


# --- judged alike -----------------------------------------------------------------------------------------------------


def test_an_export_is_judged_as_the_run_is(exported, tmp_path):
    """The truths are some of what the run finds, so that there is something to be right about."""
    records = []
    for i, image in enumerate(exported.pictures):
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


def test_an_earlier_export_is_only_replaced_when_asked(demo):
    folder, before = demo.paths["tflite"].parent, demo.paths["tflite"].read_bytes()
    with pytest.raises(ExportError, match=r"model\.tflite: there already.*--overwrite"):
        exported_to(demo.model, folder, ["tflite"])
    assert demo.paths["tflite"].read_bytes() == before
    victim = folder / "saved_model" / "assets.extra" / "old"
    victim.touch()
    exported_to(demo.model, folder, ["saved_model"], overwrite=True)
    assert not victim.exists()
    assert sorted(os.listdir(folder)) == sorted(["report.json", *(path.name for path in demo.paths.values())])


def test_formats_that_are_none_are_named(demo, tmp_path):
    with pytest.raises(ExportError, match=r"expected one of saved_model, tflite, received 'onnx'"):
        exports.export(demo.model, tmp_path / "new", [Target("tflite"), Target("onnx")])
    assert not (tmp_path / "new").exists()


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


# --- damage -----------------------------------------------------------------------------------------------------------


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
    _, end = metadata.files_behind(data)
    while (other := DAMAGES[kind](data, end, rng)) == data:
        pass
    return other


def without_checksum(data):
    """As earlier versions have written it."""
    files, end = metadata.files_behind(data)
    meta = json.loads(files[EXPORT_META])
    assert meta.pop("sha256") == hashlib.sha256(data[:end]).hexdigest()
    return metadata.with_files(data[:end], {**files, EXPORT_META: json.dumps(meta)})


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_one_error_before_the_interpreter_sees_it(kind, demo, tmp_path, monkeypatch):
    def seen(*_, **__):
        raise AssertionError("the interpreter has seen it")

    monkeypatch.setattr(tf.lite, "Interpreter", seen)
    data = demo.paths["tflite"].read_bytes()
    for seed in range(3):
        (tmp_path / "x.tflite").write_bytes(damaged(data, kind, seed))
        with pytest.raises(checkpoint.CheckpointError, match=r"^\S+x\.tflite: .*damaged.*$"):
            loading.load(tmp_path / "x.tflite")


def test_files_of_earlier_versions_have_no_checksum_and_load(demo, tmp_path):
    (tmp_path / "x.tflite").write_bytes(without_checksum(demo.paths["tflite"].read_bytes()))
    assert_same(loading.load(tmp_path / "x.tflite")(demo.pictures[0]), demo.exports["tflite"](demo.pictures[0]))
    folder = shutil.copytree(demo.paths["saved_model"], tmp_path / "x")
    file = folder / "assets.extra" / "tfyolo.json"
    meta = json.loads(file.read_text())
    assert set(meta.pop("sha256")) > {"saved_model.pb", "variables/variables.index"}
    file.write_text(json.dumps(meta))
    assert_same(loading.load(folder)(demo.pictures[0]), demo.exports["saved_model"](demo.pictures[0]))


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
            told = ("loads", found.scores.tolist())
        except CheckpointError as error:
            told = ("refused", str(error))
        except BaseException as error:
            told = ("traceback", repr(error))
        os.write(write, pickle.dumps(told))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    return pickle.loads(told) if told else ("hang" if os.WTERMSIG(status) == signal.SIGALRM else "killed", status)


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


# --- threads and forks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tflite", "saved_model", "run"])
def test_threads_that_share_a_detector_find_what_each_would_alone(form, demo):
    detector = demo.detector if form == "run" else demo.exports[form]
    pictures = [picture(64, 64, seed=seed) for seed in range(8)]
    alone, found = [detector(each) for each in pictures], [[] for _ in pictures]

    def work(number):
        for _ in range(12):
            found[number].append(detector(pictures[number]))

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, several in zip(alone, found, strict=True):
        assert len(several) == 12
        for each in several:
            assert_same(each, expected)


def in_a_fork(work):
    """What `work` returns or raises in a forked process, within 20 seconds."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12: this process has threads, which is the point
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            told = work()
        except BaseException as error:
            told = repr(error)
        os.write(write, pickle.dumps(told))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it waits for ever, or died"
    return pickle.loads(told)


@pytest.mark.parametrize("form", ["tflite", "saved_model", "run"])
def test_a_forked_process_says_that_it_cannot_detect(form, demo):
    """TensorFlow's threads are not there, for which it would wait for ever."""
    detector = demo.detector if form == "run" else demo.exports[form]
    path = demo.run if form == "run" else demo.paths[form]
    detector(demo.pictures[0])
    for work in (lambda: detector(demo.pictures[0]), lambda: loading.load(path), lambda: lively("demo")):
        told = in_a_fork(work)
        assert told.startswith("ForkError") and f"forked from process {os.getpid()}" in told and "spawn" in told


def test_a_forked_process_has_an_interpreter_of_its_own(demo, tmp_path):
    """Also where another thread was in it at that moment; and the one that it had is left alone, whose threads are not
    there.
    """
    images = np.random.default_rng(0).random((3, 64, 64, 3), dtype="float32")
    path = tmp_path / "x.tflite"
    shutil.copy(demo.paths["tflite"], path)
    network = loading.load(path, threads=2).network
    expected = network(images)
    (interpreter,) = (each for each in tflite_file._NETWORKS if each.path == path)

    def work():
        found = network(images)
        return all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))

    with interpreter.lock:
        assert in_a_fork(work) is True
    shutil.copy(demo.paths["tflite-dynamic"], path)
    assert "replaced since; load it anew" in in_a_fork(work)


FORKED = """
import multiprocessing, os, sys
import numpy as np
import tfyolo
detector = tfyolo.load(sys.argv[1])
image = np.zeros((64, 64, 3), np.uint8)
detector(image)


def work(_):
    return len(detector(image))


child = os.fork()
if not child:
    try:
        work(None)
    except ValueError:
        sys.exit(7)  # by Python's own way out, which takes everything down
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(4))
except ValueError as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tflite", "saved_model", "run"])
def test_forked_processes_come_to_their_end(form, demo):
    path = demo.run if form == "run" else demo.paths[form]
    done = subprocess.run([sys.executable, "-c", FORKED, path], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["7", "ForkError"], done.stderr


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_file_whose_count_is_its_limit_is_refused(demo, tmp_path, monkeypatch):
    def ends(model, boxes, scores):
        found = tflite._with_nms(model, boxes, scores)
        return found | {"count": tf.fill([1], found["scores"].shape[1])}

    monkeypatch.setitem(tflite.OUTPUT_STAGES, ("builtin", False), ends)
    with pytest.raises(
        ExportError, match=r"tflite: its count is 300, where \d+ of its scores are above 0\.001\. The file was not"
    ):
        exports.export(demo.model, tmp_path, [Target("tflite")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, row, value, fault",
    [
        ("count", ..., 5, "its count is 5, where 2 of its scores"),
        ("scores", 2, 0.9, "its count is 2, where 3 of its scores"),
        ("scores", 3, 0.05, "behind its 2 detections stand others"),
        ("boxes", 4, 1.0, "behind its 2 detections stand others"),
        ("labels", 2, 0, "behind its 2 detections stand others"),
        ("labels", 1, 3, "not of labels below 3"),
        ("labels", 0, -1, "not of labels below 3"),
        ("scores", 0, 0.5, "not best first"),
        ("boxes", 1, np.nan, "not finite"),
        ("scores", 4, np.nan, "behind its 2 detections stand others"),
    ],
)
def test_detections_that_contradict_themselves_are_told(name, row, value, fault):
    boxes, scores, labels = np.zeros((5, 4), "f4"), np.array([0.8, 0.7, 0, 0, 0], "f4"), np.array([2, 0, -1, -1, -1])
    boxes[:2] = [1, 2, 3, 4]
    found = structures.Detections(boxes, scores, labels, np.array(2), np.float32(0.8))
    assert _malformed(found, 3, 0.1) is None
    getattr(found, name)[row] = value
    assert fault in _malformed(found, 3, 0.1)


@pytest.fixture(scope="module")
def judged(demo, tmp_path_factory):
    """Pictures whose truths are what the run finds."""
    folder, records = tmp_path_factory.mktemp("judged"), []
    for i, image in enumerate(demo.pictures):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        found = demo.detector(image)
        boxes, labels = found.boxes[::4], found.labels[::4]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
        crowd = np.zeros(len(boxes), bool)
        records.append(Record(i, str(path), boxes, labels, crowd, areas, image.shape[:2], None))
    return Source(tuple(records), CLASSES, (0, 1, 2), (), "own", "val", "coco")


def test_a_file_that_finds_something_else_is_refused_and_the_old_one_stays(demo, tmp_path, monkeypatch):
    (tmp_path / "model.tflite").write_text("old")
    whole = tflite.for_tflite

    def damaged(model):
        model = whole(model)
        for variable in model.network.variables:
            if ".out/bias" in variable.path:
                variable.assign(variable + 1.0)
        return model

    monkeypatch.setattr(tflite, "for_tflite", damaged)
    with pytest.raises(
        ExportError, match=r"tflite: on images of noise its best score is off by .*The file was not kept"
    ):
        exports.export(demo.model, tmp_path, [Target("tflite")], overwrite=True)
    assert os.listdir(tmp_path) == ["model.tflite"] and (tmp_path / "model.tflite").read_text() == "old"


def test_a_file_that_loses_more_ap_than_allowed_is_refused(demo, judged, tmp_path):
    coarse = Target("tflite", "dynamic")
    with pytest.raises(
        ExportError, match=r"tflite-dynamic: its AP is 0\.\d+, .* below the model's 0\.\d+; at most 1e-06 may be lost"
    ):
        exports.export(demo.model, tmp_path, [coarse], validation=judged, max_drop=1e-6)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("quantize, models", [(False, 1), (True, 2)])
def test_a_model_is_evaluated_once_for_all_forms(quantize, models, demo, judged, monkeypatch):
    """In float and in int8 it is the same one, unless it was trained with rounding."""
    configured = demo.model.config.model.model_copy(update={"quantize": quantize})
    model = demo.model._replace(config=demo.model.config.model_copy(update={"model": configured}))
    seen = []
    monkeypatch.setattr(gates, "load", lambda path: loading.load(demo.paths["tflite"]))
    monkeypatch.setattr(gates, "without_quantization", lambda model: demo.model if quantize else model)
    monkeypatch.setattr(gates, "evaluate", lambda of, *_, **__: seen.append(of) or SimpleNamespace(metrics={"AP": 0.5}))
    gate = Gate(model, judged, None, lambda: None)
    for precision in ("float32", "int8", "int8"):
        assert gate.check(Target("tflite", precision), demo.paths["tflite"])["drop"] == 0
    assert len(seen) == 3 + models and len(set(seen)) == 3 + models  # each file's once, too


@pytest.mark.slow
def test_the_report_has_what_int8_costs_and_what_could_not_be_read(demo, judged, tmp_path):
    int8 = Target("tflite", "int8")
    (tmp_path / "cut.jpg").write_bytes(jpeg(demo.pictures[0])[:400])
    one_broken = judged._replace(
        records=(*judged.records, judged.records[0]._replace(image_id=9, path=str(tmp_path / "cut.jpg")))
    )
    made = exports.export(demo.model, tmp_path, [int8], calibration=one_broken, validation=judged, max_drop=1.0)[
        "tflite-int8"
    ]
    report = json.loads((tmp_path / "report.json").read_text())["tflite-int8"]
    assert report["AP"] == made.report["AP"] and report["drop"] == pytest.approx(report["keras_AP"] - report["AP"])
    assert report["bytes"] == made.path.stat().st_size and len(report["worst"]) == 5 and report["ms"] > 0
    assert len(report["skipped"]) == 1 and "cut.jpg: truncated JPEG" in report["skipped"][0]
    assert report["quantization"] == {"images": {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}}
    floats = targets.size_of(demo.paths["tflite"])
    assert report["bytes"] < 0.5 * floats  # small as it is, most of it are not weights


@pytest.mark.parametrize(
    "form, options, message",
    [
        (Target("saved_model", "int8"), {}, "a SavedModel has float32 and NMS builtin; received int8"),
        (Target("tflite", "float32", "task"), {"batch": 2}, "takes one image at a time, expected --batch 1"),
        (Target("tflite", "full-int8"), {}, "expected --nms none"),
        (Target("tflite"), {"batch": 0}, "batch: expected a whole number above 0, received 0"),
        (Target("tflite", "int4"), {}, r"expected one of float32, .* received 'int4'"),
    ],
)
def test_forms_that_cannot_be_are_told_before_anything_is_written(form, options, message, demo, tmp_path):
    with pytest.raises(ExportError, match=message):
        exports.export(demo.model, tmp_path / "new", [Target("tflite"), form], **options)
    assert not (tmp_path / "new").exists()


# --- other forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nms", ["none", "task"])
def test_other_forms_find_what_the_run_finds(nms, demo):
    path = demo.other(nms)
    for image in demo.pictures:
        assert_same(loading.load(path)(image), demo.detector(image), pixels=2e-3)
    interpreter = tf.lite.Interpreter(str(path))
    names = [operation["op_name"] for operation in interpreter._get_ops_details()]
    assert ("NON_MAX_SUPPRESSION_V5" in names) == (nms == "task")
    assert not [name for name in names if name.startswith("Flex") or name.startswith("TFLite_")]  # builtin ones alone


def test_class_names_lie_beside_a_file_for_the_task_libraries(demo, tmp_path):
    folder = demo.other("task").parent
    assert (folder / "labelmap.txt").read_text(encoding="utf-8") == "".join(f"{name}\n" for name in CLASSES)
    assert json.loads((folder / "report.json").read_text())["tflite-task"]["labels"] == "labelmap.txt"
    assert not (demo.other("none").parent / "labelmap.txt").exists()
    (tmp_path / "labelmap.txt").write_text("mine\n")
    with pytest.raises(ExportError, match=r"labelmap\.txt: there already.*--overwrite"):
        exports.export(demo.model, tmp_path, [Target("tflite", nms="task")])
    assert os.listdir(tmp_path) == ["labelmap.txt"] and (tmp_path / "labelmap.txt").read_text() == "mine\n"


@pytest.mark.slow
def test_one_class_and_pictures_without_a_truth(judged, tmp_path):
    """Where there is nothing to judge by, AP decides nothing."""
    model = build(small("demo"), ("a",))
    none = {"boxes": np.zeros((0, 4), "f4"), "labels": np.zeros(0, "i4"), "crowd": np.zeros(0, bool)}
    records = tuple(record._replace(**none, areas=np.zeros(0)) for record in judged.records)
    empty = judged._replace(records=records, classes=("a",))
    forms = [Target("tflite"), Target("tflite", "int8"), Target("tflite", nms="task"), Target("tflite", nms="none")]
    made = exports.export(model, tmp_path, forms, calibration=judged, validation=empty)
    assert len(made) == 4 and not any("AP" in each.report for each in made.values())
    with pytest.raises(ExportError, match="expected images to find the ranges with"):
        exports.export(model, tmp_path / "none", forms[1:2], calibration=judged._replace(records=()))


def test_raw_candidates_leave_suppression_to_whoever_reads_them(demo):
    path = demo.other("none")
    image = demo.pictures[0]
    strict = Detector.of(demo.model, iou=0.1)
    assert_same(loading.load(path, iou=0.1)(image), strict(image), pixels=2e-3)


@pytest.mark.parametrize("name", ["demo", pytest.param("yolov3-tiny", marks=pytest.mark.slow)])
def test_whole_numbers_alone(name, judged, tmp_path):
    model, form = lively(name, CLASSES), Target("tflite", "full-int8", "none")
    path = exports.export(model, tmp_path, [form], calibration=judged)[form.name].path
    interpreter = tf.lite.Interpreter(str(path))
    assert {detail["dtype"] for detail in interpreter.get_output_details()} == {np.uint8}
    types = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert types <= {np.int8, np.uint8, np.int32} and np.int8 in types
    # Of a convolution the bias has the steps of what it is added to, and what lies within a half of 0 those of a half.
    details = {
        detail["index"]: detail["quantization_parameters"]["scales"] for detail in interpreter.get_tensor_details()
    }
    for operation in interpreter._get_ops_details():
        if operation["op_name"] == "CONV_2D":
            x, kernel, bias = (details[index] for index in operation["inputs"])
            np.testing.assert_allclose(bias, x * kernel, rtol=1e-4)
    halves = next(op for op in interpreter._get_ops_details() if op["op_name"] == "SUB")
    assert details[halves["outputs"][0]] < 1.1 / 255
    told = json.loads((tmp_path / "report.json").read_text())[form.name]["quantization"]
    assert told["boxes"] == {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}
    assert told["images"] == {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}
    assert (
        told["scores"]["zero_point"] == 0 and 0.4 / 255 < told["scores"]["scale"] < 1.1 / 255
    )  # the largest that was seen
    for detail in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert (told[detail["name"]]["scale"], told[detail["name"]]["zero_point"]) == detail["quantization"]
    size = model.config.model.input_size
    images = picture(*size)[None].astype("float32") / 255
    found, expected = (each.network(images) for each in (loading.load(path), Detector.of(model)))
    assert np.abs(np.asarray(found.scores) - np.asarray(expected.scores)).mean() < 0.05
    steps, wanted = (255 * np.asarray(boxes) / np.tile(size, 2) for boxes in (found.boxes, expected.boxes))
    inside = (wanted >= 0) & (wanted <= 255)  # beyond the picture, whole numbers end
    assert inside.sum() > 100 and np.median(np.abs(steps - wanted)[inside]) < 2


@pytest.mark.parametrize(
    "batch, size",
    [(2, (64, 96)), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((3, None), (1, (96, 64))))],
)
def test_other_batches_and_sizes(batch, size, demo, tmp_path):
    path = exports.export(demo.model, tmp_path, [Target("tflite")], batch=batch, size=size)["tflite"].path
    loaded = loading.load(path)
    model = resized(demo.model, size) if size else demo.model
    expected = Detector.of(model)
    assert loaded.input_size == (size or demo.detector.input_size)
    images = np.stack([picture(*loaded.input_size, seed) for seed in range(4)]).astype("float32") / 255
    found, wanted = loaded.network(images), expected.postprocess(expected.network(images))
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    np.testing.assert_array_equal(found.count, wanted.count)
    np.testing.assert_array_equal(np.asarray(found.labels) < 0, np.asarray(wanted.labels) < 0)
    # Further down so many have the same score to the last digit that they change places.
    np.testing.assert_allclose(found.boxes[:, :10], wanted.boxes[:, :10], atol=2e-3)


def test_a_saved_model_for_pictures_of_any_size(demo, tmp_path):
    made = exports.export(demo.model, tmp_path, [Target("saved_model")], any_size=True)["saved_model"].path
    serve = tf.saved_model.load(str(made)).signatures["serving_default"]
    for size in ((64, 128), (160, 96), (32, 32)):
        images = np.stack([picture(*size, seed) for seed in range(2)]).astype("float32") / 255
        expected = Detector.of(resized(demo.model, size))
        wanted, found = expected.postprocess(expected.network(images)), serve(images=images)
        for name in ("boxes", "scores"):
            np.testing.assert_allclose(found[name][:, :10], getattr(wanted, name)[:, :10], atol=2e-3, err_msg=name)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"multiples of 32, received.*\n?.*40"):
        serve(images=np.zeros((1, 64, 40, 3), "float32"))
    assert_same(loading.load(made)(demo.pictures[0]), demo.detector(demo.pictures[0]))
    with pytest.raises(ExportError, match="expected --to saved_model"):
        exports.export(demo.model, tmp_path / "none", [Target("tflite")], any_size=True)


@pytest.mark.slow
def test_a_saved_model_for_corners_in_pictures_of_any_size(tmp_path):
    """Down to maps with fewer places than corners are picked."""
    backbone = "{name: hourglass, dims: [16, 24], modules: [1, 1], stem: 8}"
    options = {"model.backbone": backbone, "model.decoder": "{name: corner, apart: 100}"}
    model = lively("cornernet-small", ("a",), **options)
    made = exports.export(model, tmp_path, [Target("saved_model")], any_size=True)["saved_model"].path
    serve = tf.saved_model.load(str(made)).signatures["serving_default"]
    for size in ((64, 96), (32, 32)):
        images = np.stack([picture(*size, seed) for seed in range(3)]).astype("float32") / 255
        expected = Detector.of(resized(model, size))
        wanted, found = expected.postprocess(expected.network(images)), serve(images=images)
        assert wanted.count.numpy().any()
        np.testing.assert_allclose(found["scores"], wanted.scores, atol=1e-4)


@contextlib.contextmanager
def no_file_above(octets):
    """Files cannot grow further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def exported_before(demo, form, folder):
    """The path of a file that an earlier export has left in a folder, beside its report."""
    shutil.copytree(demo.folder / "export", folder, dirs_exist_ok=True)
    return folder / demo.paths[form.name].name


@pytest.mark.parametrize("form", [Target("saved_model"), Target("tflite")])
def test_without_space_what_was_there_stays(form, demo, tmp_path):
    path = exported_before(demo, form, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with no_file_above(50_000), pytest.raises(ExportError, match=r"File too large.*; free some space or give another"):
        exports.export(demo.model, tmp_path, [form], overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before and path.exists()


def test_folders_that_cannot_be_are_told(demo, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"Not a directory; .*give another --out"):
        exports.export(demo.model, tmp_path / "file" / "out", [Target("tflite")])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("form", [Target("saved_model"), Target("tflite")])
def test_interrupted_what_was_there_stays(form, demo, tmp_path, monkeypatch):
    path = exported_before(demo, form, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Gate, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        exports.export(demo.model, tmp_path, [form], overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before and path.exists()


def test_metadata_is_what_the_libraries_read(demo):
    """By the positions of metadata_schema.fbs, read with flatbuffers alone."""
    import flatbuffers
    from tensorflow.lite.tools import flatbuffer_utils

    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(demo.other("task").read_bytes()))
    (entry,) = [each for each in file.metadata if each.name == b"TFLITE_METADATA"]
    data = bytes(file.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"

    def table(position):
        return flatbuffers.Table(data, position)

    def field(of, slot):
        return of.Offset(4 + 2 * slot)

    def child(of, slot):
        return table(of.Indirect(of.Pos + field(of, slot)))

    def children(of, slot):
        start, count = of.Vector(field(of, slot)), of.VectorLen(field(of, slot))
        return [table(of.Indirect(start + 4 * i)) for i in range(count)]

    def text(of, slot):
        return of.String(of.Pos + field(of, slot)).decode()

    root = table(flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    (subgraph,) = children(root, 3)
    (image,) = children(subgraph, 2)
    outputs = children(subgraph, 3)
    assert [text(output, 0) for output in outputs] == ["location", "category", "score", "number of detections"]
    (normalization,) = children(image, 4)
    options = child(normalization, 1)
    scale = np.frombuffer(data, "<f4", 1, options.Vector(field(options, 1)))[0]
    assert scale == 255 and text(root, 0) == "demo"
    category = outputs[[text(output, 0) for output in outputs].index("category")]
    (labels,) = children(category, 6)
    assert text(labels, 0) == "labels.txt"


# --- pictures that are none -------------------------------------------------------------------------------------------


def huge_png(side):
    """A PNG that says it is so large, and is a few bytes long."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side + 1) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_broken_picture_is_flagged_and_the_others_are_answered(demo):
    call = tf.saved_model.load(str(demo.paths["saved_model"])).signatures["bytes"]
    first, second, _ = demo.pictures
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
def test_memory_does_not_grow_with_broken_pictures(demo):
    call = tf.saved_model.load(str(demo.paths["saved_model"])).signatures["bytes"]
    first, second, _ = demo.pictures
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


# --- other people's programs ------------------------------------------------------------------------------------------

MEDIAPIPE = """
import json, sys
import mediapipe
from mediapipe.tasks.python import BaseOptions, vision
options = vision.ObjectDetectorOptions(BaseOptions(model_asset_path=sys.argv[1]), score_threshold=0.25, max_results=300)
detector = vision.ObjectDetector.create_from_options(options)
found = detector.detect(mediapipe.Image.create_from_file(sys.argv[2])).detections
rows = [(f.categories[0].category_name, f.categories[0].score, f.bounding_box) for f in found]
print(json.dumps([(name, score, box.origin_y, box.origin_x, box.height, box.width) for name, score, box in rows]))
"""


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_mediapipe_finds_the_same(precision, demo, judged, tmp_path):
    """In a picture of the network's size, which both take as it is; mediapipe's boxes are whole pixels."""
    if importlib.util.find_spec("mediapipe") is None:
        pytest.skip("needs mediapipe, which is an extra: pip install 'tfyolo[mediapipe]'")
    form = Target("tflite", precision, "task")
    path = exports.export(demo.model, tmp_path, [form], calibration=judged, max_drop=1.0)[form.name].path
    image = picture(*demo.detector.input_size)
    cv2.imwrite(str(tmp_path / "x.png"), image[..., ::-1])
    command = [sys.executable, "-c", MEDIAPIPE, str(path), str(tmp_path / "x.png")]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0])
    expected = loading.load(path)(image)
    assert len(rows) > 10  # of boxes as crowded as these it leaves out more
    for name, score, y, x, height, width in rows:
        if min(y, x) <= 0 or y + height >= image.shape[0] or x + width >= image.shape[1]:
            continue  # cut at the picture's border, each in its way
        box = np.array([y, x, y + height, x + width])
        same = (np.array(expected.names) == name) & (np.abs(expected.scores - score) < 0.02)
        assert np.abs(expected.boxes[same] - box).max(axis=1).min(initial=99) <= 2


def test_requests_of_tensorflow_serving_are_answered_by_the_signatures(demo):
    """The very messages that a client sends, put into the signature as the server does."""
    predict = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="needs tensorflow-serving-api")
    request = predict.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "yolo", "bytes"
    contents = [jpeg(demo.pictures[0]), jpeg(demo.pictures[1])]
    request.inputs["contents"].CopyFrom(tf.make_tensor_proto(contents))
    request = predict.PredictRequest.FromString(request.SerializeToString())
    signature = tf.saved_model.load(str(demo.paths["saved_model"])).signatures[request.model_spec.signature_name]
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    assert inputs.keys() == signature.structured_input_signature[1].keys()
    found, response = signature(**inputs), predict.PredictResponse()
    for name, value in found.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    told = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    for b, content in enumerate(contents):
        mine = {name: tf.constant(value) for name, value in told.items()}
        assert_same(row(demo.detector, mine, b, None), demo.detector(content))
