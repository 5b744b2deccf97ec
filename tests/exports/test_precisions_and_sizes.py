"""Exports of other precisions, batches and sizes, with and without NMS."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import lively, small
from exporting import CLASSES, assert_same
from test_detect import picture

from tfyolo.exports import export as exports
from tfyolo.exports.targets import ExportError, Target
from tfyolo.model import build, resized
from tfyolo.predict import load as loading
from tfyolo.predict.detector import Detector
from tfyolo.tflite.interpreter import interpreter as started


@pytest.mark.parametrize("nms", ["none", "task"])
def test_other_targets_find_what_the_run_finds(nms, demo):
    path = demo.other(nms)
    for image in demo.images:
        assert_same(loading.load(path)(image), demo.detector(image), pixels=2e-3)
    interpreter = started(model_path=str(path), delegates=False)
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
def test_one_class_and_images_without_ground_truth(evaluable_data, tmp_path):
    """Where there is nothing to evaluate on, AP decides nothing."""
    model = build(small("demo"), ("a",))
    none = {
        "boxes": np.zeros((0, 4), "f4"),
        "labels": np.zeros(0, "i4"),
        "crowd": np.zeros(0, bool),
        "difficult": False,
    }
    records = tuple(record._replace(**none, areas=np.zeros(0)) for record in evaluable_data.records)
    empty = evaluable_data._replace(records=records, classes=("a",))
    forms = [Target("tflite"), Target("tflite", "int8"), Target("tflite", nms="task"), Target("tflite", nms="none")]
    made = exports.export(model, tmp_path, forms, calibration=evaluable_data, validation=empty)
    assert len(made) == 4 and not any("AP" in each.report for each in made.values())
    with pytest.raises(ExportError, match="expected images to find the ranges with"):
        exports.export(model, tmp_path / "none", forms[1:2], calibration=evaluable_data._replace(records=()))


def test_raw_candidates_leave_nms_to_whoever_reads_them(demo):
    path = demo.other("none")
    image = demo.images[0]
    strict = Detector.of(demo.model, iou=0.1)
    assert_same(loading.load(path, iou=0.1)(image), strict(image), pixels=2e-3)


@pytest.mark.parametrize("name", ["demo", pytest.param("yolov3-tiny", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_integers_alone(name, evaluable_data, tmp_path):
    model, form = lively(name, CLASSES), Target("tflite", "full-int8", "none")
    path = exports.export(model, tmp_path, [form], calibration=evaluable_data)[form.name].path
    interpreter = started(model_path=str(path), delegates=False)
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
    quantization = json.loads((tmp_path / "report.json").read_text())[form.name]["quantization"]
    assert quantization["boxes"] == {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}
    assert quantization["images"] == {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}
    assert (
        quantization["scores"]["zero_point"] == 0 and 0.4 / 255 < quantization["scores"]["scale"] < 1.1 / 255
    )  # the largest that was seen
    for detail in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert (quantization[detail["name"]]["scale"], quantization[detail["name"]]["zero_point"]) == detail[
            "quantization"
        ]
    size = model.config.model.input_size
    images = picture(*size)[None].astype("float32") / 255
    found, expected = (each.network(images) for each in (loading.load(path), Detector.of(model)))
    assert np.abs(np.asarray(found.scores) - np.asarray(expected.scores)).mean() < 0.05
    steps, wanted = (255 * np.asarray(boxes) / np.tile(size, 2) for boxes in (found.boxes, expected.boxes))
    inside = (wanted >= 0) & (wanted <= 255)  # beyond the image, integers end
    assert inside.sum() > 100 and np.median(np.abs(steps - wanted)[inside]) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch, size",
    [(2, (64, 96)), (3, None), (1, (96, 64))],
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


@pytest.mark.slow
def test_a_saved_model_for_images_of_any_size(demo, tmp_path):
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
    assert_same(loading.load(made)(demo.images[0]), demo.detector(demo.images[0]))
    with pytest.raises(ExportError, match="expected --to saved_model"):
        exports.export(demo.model, tmp_path / "none", [Target("tflite")], any_size=True)


@pytest.mark.slow
def test_a_saved_model_for_corners_in_images_of_any_size(tmp_path):
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
