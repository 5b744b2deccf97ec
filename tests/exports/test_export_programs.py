"""Exports in other people's programs: the task libraries, MediaPipe, TensorFlow Serving."""

import importlib.util
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from exporting import assert_same, row
from test_detect import jpeg, picture

from tfyolo.exports import export as exports
from tfyolo.exports.targets import Target
from tfyolo.predict import load as loading


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
def test_mediapipe_finds_the_same(precision, demo, evaluable_data, tmp_path):
    """In an image of the network's size, which both take as it is; mediapipe's boxes are whole pixels."""
    if importlib.util.find_spec("mediapipe") is None:
        pytest.skip("needs mediapipe, which is an extra: pip install 'tfyolo[mediapipe]'")
    form = Target("tflite", precision, "task")
    path = exports.export(demo.model, tmp_path, [form], calibration=evaluable_data, max_drop=1.0)[form.name].path
    image = picture(*demo.detector.input_size)
    cv2.imwrite(str(tmp_path / "x.png"), image[..., ::-1])
    command = [sys.executable, "-c", MEDIAPIPE, str(path), str(tmp_path / "x.png")]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0])
    expected = loading.load(path)(image)
    assert len(rows) > 10  # of boxes as crowded as these it leaves out more
    for name, score, y, x, height, width in rows:
        if min(y, x) <= 0 or y + height >= image.shape[0] or x + width >= image.shape[1]:
            continue  # cut at the image's border, each in its way
        box = np.array([y, x, y + height, x + width])
        same = (np.array(expected.names) == name) & (np.abs(expected.scores - score) < 0.02)
        assert np.abs(expected.boxes[same] - box).max(axis=1).min(initial=99) <= 2


def test_requests_of_tensorflow_serving_are_answered_by_the_signatures(demo):
    """The very messages that a client sends, put into the signature as the server does."""
    predict = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="needs tensorflow-serving-api")
    request = predict.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "yolo", "bytes"
    contents = [jpeg(demo.images[0]), jpeg(demo.images[1])]
    request.inputs["contents"].CopyFrom(tf.make_tensor_proto(contents))
    request = predict.PredictRequest.FromString(request.SerializeToString())
    signature = demo.loaded.signatures[request.model_spec.signature_name]
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    assert inputs.keys() == signature.structured_input_signature[1].keys()
    found, response = signature(**inputs), predict.PredictResponse()
    for name, value in found.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    answer = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    for b, content in enumerate(contents):
        mine = {name: tf.constant(value) for name, value in answer.items()}
        assert_same(row(demo.detector, mine, b, None), demo.detector(content))
