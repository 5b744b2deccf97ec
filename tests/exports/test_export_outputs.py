"""All outputs of a TFLite file, by position, in every program that runs such files."""

import functools
import re

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively
from exporting import CLASSES
from test_detect import picture

from tfyolo.data.sources.source import Record, Source
from tfyolo.exports import targets, tflite
from tfyolo.exports.job import Job
from tfyolo.exports.layouts import LAYOUTS
from tfyolo.exports.targets import Target
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict.detector import Detector
from tfyolo.predict.runtimes import resolved
from tfyolo.tflite.interpreter import interpreter as started


def by_interpreter(interpreter, images):
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    interpreter.set_tensor(taken["index"], as_taken(images, taken["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(given["index"]) for given in interpreter.get_output_details()]


def as_taken(images, dtype):
    return images if dtype == np.uint8 else images.astype("float32") / 255


def by_tf_lite(path, images):
    if not hasattr(tf.lite, "Interpreter"):
        pytest.skip("this TensorFlow has none any more")
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


def output_names(nms):
    return [each.name for each in LAYOUTS[nms, False].outputs(None)]


def as_detections(form, outputs, size):
    """Any form's outputs, as those of "builtin" without `best`."""
    named = dict(zip(output_names(form.nms), outputs, strict=True))
    if form.nms == "task":
        boxes, labels = named["location"] * np.tile(size, 2), named["category"].astype("int32")
        return {
            "boxes": boxes,
            "scores": named["score"],
            "labels": labels,
            "count": named["number of detections"].astype("int32"),
        }
    return named


QUICK_FORMS = [Target("tflite")]
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


@pytest.mark.slow
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
        found = dict(zip(output_names("none"), runtime(model.path(form), image[None]), strict=True))
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
    interpreter = started(model_path=str(path), delegates=False)
    details = interpreter.get_output_details()
    assert [each["name"] for each in details] == promised
    assert all((each["shape_signature"] > 0).all() for each in details)
    # By position and by name it is the same.
    image = demo.images[0]
    images = cv2.resize(image, demo.detector.input_size[::-1])[None]
    by_name = started(model_path=str(path)).get_signature_runner()(images=as_taken(images, np.float32))
    for value, key in zip(by_interpreter(started(model_path=str(path)), images), promised, strict=True):
        np.testing.assert_array_equal(value, by_name[key])
