"""A small model with all its exports, and what tests of exports compare."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from conftest import lively, missing
from test_detect import picture

from tfyolo.data.sources.source import Record, Source
from tfyolo.exports import export as exports
from tfyolo.exports.targets import DEFAULT_TARGETS, Target
from tfyolo.model import save_model
from tfyolo.predict import load as loading
from tfyolo.predict.detections import ImageDetections
from tfyolo.predict.detector import Detector

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
        self.folder, self.run = folder, folder / "run.h5"
        with missing(self.run) as first:
            if first:
                save_model(self.run, self.model)
        self.paths = self._once("export", lambda out: exported_to(self.model, out))
        self.detector = Detector.of(self.model)  # not fused, unlike what is loaded and exported
        self.exports = {form: loading.load(path) for form, path in self.paths.items()}

    def _once(self, name, export):
        """{form's name: path} of what a worker has exported into the folder of that name."""
        listed = self.folder / f"{name}.json"
        with missing(listed) as first:
            if first:
                made = export(self.folder / name)
                listed.write_text(json.dumps({form: str(path) for form, path in made.items()}))
        return {form: Path(path) for form, path in json.loads(listed.read_text()).items()}

    @functools.cache  # noqa: B019, of a session's fixture
    def other(self, nms):
        """The path of a TFLite file that ends otherwise."""
        form = Target("tflite", nms=nms)

        def export(out):
            return {name: each.path for name, each in exports.export(self.model, out, [form]).items()}

        return self._once(nms, export)[form.name]

    @functools.cached_property
    def loaded(self):
        """The SavedModel, as TensorFlow alone loads it."""
        return tf.saved_model.load(str(self.paths["saved_model"]))

    @property
    def images(self):
        height, width = self.detector.input_size
        return [picture(height // 2, width), picture(height, width // 3, seed=1), picture(200, 200, seed=2)]


def assert_same(found, expected, pixels=1e-2):
    assert len(expected.boxes) > 5
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=pixels)
    np.testing.assert_array_equal(found.labels, expected.labels)


def row(detector, found, b, image, score=0.25):
    kept = found["scores"][b] >= score
    boxes, scores, labels = (found[name][b][kept].numpy() for name in ("boxes", "scores", "labels"))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return ImageDetections(
        boxes[inside], scores[inside], labels[inside], detector.classes, float(found["best"][b]), image, None
    )


def evaluable(exported, folder):
    """A Source of the images in a folder, whose ground truths are every fourth box that the run finds."""
    records = []
    for i, image in enumerate(exported.images):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        found = exported.detector(image)
        boxes, labels = found.boxes[::4], found.labels[::4]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
        crowd = np.zeros(len(boxes), bool)
        records.append(Record(i, str(path), boxes, labels, crowd, areas, image.shape[:2], None))
    return Source(tuple(records), CLASSES, (0, 1, 2), (), "own", "val", "coco")
