"""A saved model, ready for use: pictures in, boxes in the picture's own pixels out; and the commands' work over many files."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.data import pipeline
from tfyolo.model import load_model, postprocess
from tfyolo.structures import Detections


class Detector:
    """Pictures in, boxes out; from a run, a SavedModel or a TFLite file alike.

    classes: names in label order. input_size: (H, W) of the network's input. config: the one it was trained with.
    network: images [B, H, W, 3] float32 0..1 -> whatever postprocess wants. postprocess: that -> Detections in pixels of the
    network's input. In an export the two are one, and postprocess does nothing.
    """

    def __init__(self, config, classes, network, postprocess, source):
        self.config, self.classes = config, tuple(classes)
        self.input_size = tuple(config.model.input_size)
        self.network, self.postprocess = network, postprocess
        self.source = str(source)

    @classmethod
    def of(cls, model, source="a model in memory", **options):
        """A detector of a Model: its network as it is at each call. options go over the config's post-processing."""
        candidates = tf.function(lambda images: model.decoder(model.network(images, training=False)))
        select = tf.function(postprocess(model.config, **options))
        return cls(model.config, model.classes, candidates, select, source)

    def detect(self, images):
        """images [B, H, W, 3] float32 0..1 at input_size -> Detections of numpy arrays."""
        return Detections(*(np.asarray(value) for value in self.postprocess(self.network(images))))


def load(path, **options):
    """A Detector from what training, importing or exporting has left.

    path: a run's folder (its best.h5, else last.h5), a .h5 file, a SavedModel's folder or a .tflite file.
    options: over the config's post-processing (`iou=`, `score=`, `soft_sigma=`, `per_class=`); an export has its own inside.
    """
    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").exists():
        return _load_saved_model(path, options)
    if path.suffix == ".tflite":
        return _load_tflite(path, options)
    return Detector.of(load_model(path), source=path, **options)


# The name under which describe() lies inside an export: in a SavedModel's assets.extra, and in the zip at a TFLite file's end.
EXPORT_META = "tfyolo.json"


def _exported(path, text, options):
    if options:
        raise ValueError(f"{path}: an export has its post-processing inside; {', '.join(options)} can only be set on a run")
    meta = json.loads(text)
    return configs.from_json(meta["config"]), meta["classes"]


def _load_saved_model(path, options):
    described = path / "assets.extra" / EXPORT_META
    if not described.exists():
        raise checkpoint.CheckpointError(f"{path}: expected a SavedModel that tfyolo has exported, but {described} is missing")
    config, classes = _exported(path, described.read_text(encoding="utf-8"), options)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def network(images, _keep=loaded):
        found = signature(images=tf.convert_to_tensor(images))
        return Detections(**{name: found[name] for name in Detections._fields})

    return Detector(config, classes, network, lambda detections: detections, path)


def _load_tflite(path, options):
    if not path.is_file():
        raise checkpoint.CheckpointError(f"{path}: expected a TFLite file, found none")
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(EXPORT_META).decode()
    except (zipfile.BadZipFile, KeyError):
        raise checkpoint.CheckpointError(f"{path}: expected a TFLite file that tfyolo has exported; it carries no config") from None
    config, classes = _exported(path, text, options)
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner()

    def network(images):
        each = [runner(images=np.asarray(image, "float32")[None]) for image in images]
        return Detections(*(np.concatenate([found[name] for found in each]) for name in Detections._fields))

    return Detector(config, classes, network, lambda detections: detections, path)


