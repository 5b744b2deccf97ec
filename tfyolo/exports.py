"""Exports: a SavedModel that serves pictures, and TFLite files with everything inside, in builtin operations only."""

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from tfyolo.data import pipeline
from tfyolo.detect import EXPORT_META, restore
from tfyolo.fusion import fuse
from tfyolo.layers import mish, mish_by_exp
from tfyolo.model import describe

FORMATS = ("saved_model", "tflite", "tflite-float16", "tflite-dynamic")


class ExportError(ValueError):
    """An export cannot be written. The message says why and what to do."""


def export(model, out, formats=FORMATS, *, overwrite=False, progress=False):
    """Writes a Model's exports, its batch norms folded, into a folder and returns {format: path}.

    formats: of "saved_model", "tflite" (float32), "tflite-float16" (half the size) and "tflite-dynamic" (weights in int8, a quarter).
    overwrite: replaces what an earlier export has left; otherwise that is an ExportError, before anything is written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"format: expected one of {', '.join(FORMATS)}, received {name!r}")
    out = Path(out)
    paths = {
        name: out / ("saved_model" if name == "saved_model" else f"{name.replace('tflite', 'model', 1)}.tflite")
        for name in formats
    }
    taken = [str(path) for path in paths.values() if path.exists()]
    if taken and not overwrite:
        raise ExportError(f"{', '.join(taken)}: there already; give another --out, or --overwrite to replace it")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as scratch:
        scratch = Path(scratch)
        for name, path in tqdm(paths.items(), desc="export", unit="file", leave=False, disable=not progress or None):
            aside = scratch / path.name
            if name == "saved_model":
                _write_saved_model(model, aside)
            else:
                _write_tflite(model, aside, name, scratch / "frozen")
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(aside, path)
    return paths


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )


def _detect(model, images):
    """images [B, H, W, 3] float32 0..1 at the network's size -> Detections, boxes in its pixels."""
    return model.postprocess(model.decoder(model.network(images, training=False)))


def _save(model, path, signatures):
    # Only the variables are handed over: with the Keras model beside them, each would be written twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.network.variables]
    tf.saved_model.save(module, str(path), signatures=signatures)


def _signatures(model):
    """The whole way from a picture to boxes, three times."""
    height, width = model.config.model.input_size
    prepared = (
        tf.TensorSpec([height, width, 3], tf.float32),
        tf.TensorSpec([3, 3], tf.float32),
        tf.TensorSpec([2], tf.int32),
    )

    def detect_pictures(pictures, prepare):
        images, transforms, sizes = tf.map_fn(prepare, pictures, fn_output_signature=prepared)
        found = _detect(model, images)
        return found._replace(boxes=restore(found.boxes, transforms, sizes))._asdict()

    def prepare(picture):
        image, transform = pipeline.prepare(picture, (height, width), model.config.model.preprocess)
        return image, transform, tf.shape(picture)[:2]

    @tf.function(input_signature=[tf.TensorSpec([None, height, width, 3], tf.float32, "images")])
    def serving_default(images):
        return _detect(model, images)._asdict()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def uint8(images):
        return detect_pictures(images, prepare)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "contents")])
    def jpeg(contents):
        return detect_pictures(contents, lambda content: prepare(pipeline.decode_image(content)))

    return {"serving_default": serving_default, "uint8": uint8, "jpeg": jpeg}


def _write_saved_model(model, path):
    model = fuse(model)
    _save(model, path, _signatures(model))
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / EXPORT_META).write_text(json.dumps(describe(model)), encoding="utf-8")


def for_tflite(model):
    """The Model with its batch norms folded, in the words that TFLite's kernels are fast at."""
    return fuse(model, {mish: mish_by_exp})


def to_tflite(model, function, scratch, name="tflite"):
    """The bytes of a TFLite file, for one picture, of a Model as it is: for_tflite fuses it.

    function: (Model, images [1, H, W, 3] float32 0..1) -> {name: tensor}. scratch: a folder for what forms of one function can share.
    name: of FORMATS.
    """
    height, width = model.config.model.input_size

    # One picture, so that the post-processing needs no loop.
    @tf.function(input_signature=[tf.TensorSpec([1, height, width, 3], tf.float32, "images")])
    def one(images):
        return function(model, images)

    if not scratch.exists():
        # By way of a SavedModel: converted straight from Keras, a model can lose its weights without a word.
        _save(model, scratch, {"serving_default": one})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if name != "tflite":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "tflite-float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _write_tflite(model, path, name, scratch):
    content = to_tflite(for_tflite(model), lambda model, images: _detect(model, images)._asdict(), scratch, name)
    path.write_bytes(content)
    # A TFLite file may carry a zip at its end: the format's own way of packing files along.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(EXPORT_META, json.dumps(describe(model)))
        archive.writestr("labels.txt", "".join(f"{label}\n" for label in model.classes))
