"""What files give out, beside candidates and detections: each is read back, and gives what the model gives."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively, mostly_slow
from exporting import assert_same
from test_detect import picture

from tfyolo.exports import export as exports
from tfyolo.exports.destinations import DESTINATIONS, targets_of
from tfyolo.exports.targets import ExportError, Target
from tfyolo.graph.ends import ends, tail
from tfyolo.graph.fusion import fuse
from tfyolo.predict import load as loading
from tfyolo.predict.detector import Detector
from tfyolo.structures import as_raw
from tfyolo.tflite.interpreter import interpreter

SMALL = ("demo", "demo-yolov7", "demo-m2det", "yolov8n", "yolox-nano", "lite0")
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model_of():
    made = {}

    def get(name):
        if name not in made:
            made[name] = lively(name, CLASSES)
        return made[name]

    return get


@pytest.mark.parametrize("name", mostly_slow(SMALL, ["demo", "demo-m2det"]))
def test_the_tail_makes_the_parts_of_the_ends(name, model_of):
    network = fuse(model_of(name)).network
    images = np.random.default_rng(0).random((2, *network.input_shape[1:])).astype("float32")
    found = keras.Model(network.input, ends(network))(images)
    assert all(len(value.shape) <= 4 for value in found.values())
    expected = as_raw(network(images)).parts
    for a, b in zip(tf.nest.flatten(tail(network)(list(found.values()))), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name, names", [("demo", ["p4", "p5"]), ("yolov8n", ["p3_box", "p3_cls", "p4_box"])])
def test_ends_are_named_by_level_and_part(name, names, model_of):
    assert list(ends(model_of(name).network))[: len(names)] == names


def _exported(model, folder, *targets, **options):
    made = exports.export(model, folder, targets, **options)
    return [each.path for each in made.values()]


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(each, marks=pytest.mark.slow) for each in SMALL[1:])])
@pytest.mark.parametrize("nms", ["app", "e2e", "heads"])
def test_a_file_finds_what_the_model_finds(name, nms, model_of, demo, tmp_path):
    model = demo.model if name == "demo" else model_of(name)
    path = demo.other(nms) if name == "demo" else _exported(model, tmp_path, Target("tflite", nms=nms))[0]
    image = picture(90, 120)
    assert_same(loading.load(path)(image, 0.05), Detector.of(model)(image, 0.05), pixels=2e-2)


def outputs_of(path, image):
    running = interpreter(model_path=str(path)).get_signature_runner()
    (taken,) = running.get_input_details().values()
    given = image[None] if taken["dtype"] == np.uint8 else image[None].astype("float32") / 255
    return running(images=given), running.get_output_details()


def test_an_apps_file_keeps_their_contract(demo):
    model = demo.model
    height, width = model.input_size
    paths = [demo.other(nms) for nms in ("app", "e2e")]
    image = picture(height, width)
    rows = outputs_of(paths[0], image)[0]["output0"]
    found = model.decoder(model.network(image[None].astype("float32") / 255))
    boxes, scores = np.asarray(found.boxes)[0], np.asarray(found.scores)[0]
    assert rows.shape == (1, 4 + len(CLASSES), len(boxes))
    np.testing.assert_allclose(rows[0, 0] * width, (boxes[:, 1] + boxes[:, 3]) / 2, atol=1e-2)
    np.testing.assert_allclose(rows[0, 3] * height, boxes[:, 2] - boxes[:, 0], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(rows[0, 4:].T, scores, atol=1e-5)
    last = outputs_of(paths[1], image)[0]["output0"][0]
    own = model.postprocess(found)
    count = int(own.count[0])
    assert count > 3 and last.shape[1] == 6
    scale = np.array([width, height, width, height])
    np.testing.assert_allclose(last[:count, :4] * scale, np.asarray(own.boxes)[0, :count][:, [1, 0, 3, 2]], atol=1e-2)
    np.testing.assert_array_equal(last[:count, 5], np.asarray(own.labels)[0, :count])
    for path, end_to_end in zip(paths, (False, True), strict=True):
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            assert archive.infolist()[-1].filename == "metadata.json"
            assert len(content) - archive.infolist()[-1].header_offset < 64 << 10
            facts = json.loads(archive.read("metadata.json"))
        assert facts["names"] == {"0": "a", "1": "b", "2": "größer"} and facts["imgsz"] == [height, width]
        assert facts["task"] == "detect" and facts["end2end"] is end_to_end and facts["stride"] == 32


def frigates(outputs, details, size):
    """Boxes (x1, y1, x2, y2) and scores [N, K], read from two integer tensors as Frigate's edgetpu detector does.

    It tells them apart by their last axis, and knows no names. The sides come left, top, right, bottom.
    """
    real = {}
    for name, value in outputs.items():
        scale, zero = details[name]["quantization"]
        real[value.shape[-1] == 64] = (value[0].astype("float32") - zero) * scale
    scores = 1 / (1 + np.exp(-real[False]))
    bins = np.exp(real[True].reshape(-1, 4, 16))
    distances = (bins / bins.sum(-1, keepdims=True)) @ np.arange(16)
    rows, at = [], 0
    for stride in (8, 16, 32):
        for y in range(size[0] // stride):
            for x in range(size[1] // stride):
                first, second = distances[at, :2], distances[at, 2:]
                corners = (x + 0.5 - first[0], y + 0.5 - first[1], x + 0.5 + second[0], y + 0.5 + second[1])
                rows.append([stride * each for each in corners])
                at += 1
    return np.array(rows), scores


@pytest.mark.slow
def test_frigates_own_decoding_reads_integer_logits(model_of, tmp_path, evaluable_data):
    model = model_of("yolov8n")
    (path,) = _exported(model, tmp_path, *targets_of(["frigate-coral"]), calibration=evaluable_data)
    image = picture(*model.input_size)
    outputs, details = outputs_of(path, image)
    assert [each.dtype for each in outputs.values()] == [np.uint8] * 2
    boxes, scores = frigates(outputs, details, model.input_size)
    found = model.decoder(model.network(image[None].astype("float32") / 255))
    expected = np.clip(np.asarray(found.scores)[0], *(1 / (1 + np.exp([4.0, -4.0]))))
    assert np.abs(scores - expected).mean() < 0.02
    best = expected.max(axis=1) > 0.3
    off = np.abs(boxes[:, [1, 0, 3, 2]] - np.asarray(found.boxes)[0])[best]
    assert best.any() and np.median(off) < 2
    mine = loading.load(path)
    theirs = mine.network(image[None].astype("float32") / 255)
    np.testing.assert_allclose(np.asarray(theirs.boxes)[0], boxes[:, [1, 0, 3, 2]], atol=1e-3)
    np.testing.assert_allclose(np.asarray(theirs.scores)[0], scores, atol=1e-5)
    assert (tmp_path / "labelmap.txt").read_text() == "a\nb\nc\n"


@pytest.mark.parametrize(
    "name, target, message",
    [
        ("demo", Target("tflite", "full-int8", "app"), "app has no integer version"),
        ("demo", Target("tflite", "float32", "logits"), "logits: expected --precision full-int8"),
        ("demo", Target("tflite", "full-int8", "logits"), "logits: expected a model with box distributions"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(name, target, message, model_of, tmp_path):
    with pytest.raises(ExportError, match=message):
        exports.export(model_of(name), tmp_path / "out", [target])
    assert not (tmp_path / "out").exists()


def test_destinations_are_files_that_can_be_written():
    for name, each in DESTINATIONS.items():
        assert each.target.precision in each.target.exporter.precisions, name
        assert each.target.nms in each.target.exporter.nms, name
    assert targets_of(["browser", "browser"]) == [Target("tflite", nms="none")]
    assert targets_of(["app"], ["float32", "int8"]) == [Target("tflite", each, "app") for each in ("float32", "int8")]
    with pytest.raises(ExportError, match=r"target: expected one of cpu, .*, received 'ios'"):
        targets_of(["ios"])
    with pytest.raises(ExportError, match="tfserving: a SavedModel has float32; received int8"):
        targets_of(["tfserving"], ["int8"])
