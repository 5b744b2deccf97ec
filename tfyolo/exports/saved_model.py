"""The SavedModel: its signatures, from prepared images, from uint8 images and from the bytes of files."""

import contextlib
import errno
import functools
import json
from pathlib import Path

import tensorflow as tf

from tfyolo.data import decoding, geometry
from tfyolo.data.geometry import restore
from tfyolo.exports.serving import write_serving
from tfyolo.exports.targets import label_lines
from tfyolo.graph.fusion import fuse
from tfyolo.model import describe, multiple, without_quantization
from tfyolo.predict.exported import EXPORT_META
from tfyolo.predict.saved_model import checksums
from tfyolo.tflite import metadata

MOST_PIXELS = 1 << 25  # of an image that the SavedModel decodes: 100 MB


def save_module(module, path, signatures, options=None):
    """Writes a tf.Module as a SavedModel; what goes wrong with the disk is an OSError.

    Args:
        module: tf.Module.
        path: of the folder.
        signatures: {name: tf.function}.
        options: tf.saved_model.SaveOptions.
    """
    with _disk_errors(path):
        tf.saved_model.save(module, str(path), signatures=signatures, options=options)


@contextlib.contextmanager
def _disk_errors(path):
    """What TensorFlow finds wrong with the disk is an OSError."""
    try:
        yield
    except tf.errors.OpError as error:  # the disk's reason stands at its end
        reason = error.message.rpartition("; ")[2].removesuffix(" [Op:SaveV2]")
        raise OSError(errno.EIO, f"{reason}, writing in {Path(path).parent}") from error


def write(job, target, path):
    """Writes a Job's SavedModel into a folder; of images of any size where the Job has a network for them."""
    open_network = job.open_network
    model = job.model if open_network is None else job.model._replace(network=open_network)
    write_saved_model(without_quantization(model), path, None if open_network is None else multiple(job.model))
    return {}


def write_saved_model(model, path, any_size):
    """Writes a Model as a SavedModel, with what TensorFlow Serving reads; its description and labels in assets.extra.

    Args:
        model: a Model without fake quantization.
        path: of the folder.
        any_size: what the sides of images must be multiples of, in pixels; None: they have the model's size.
    """
    model = fuse(model)
    # Only the variables are handed over: with the Keras model beside them, each would be written twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.network.variables]
    save_module(module, path, _signatures(model, any_size))
    extra = path / "assets.extra"
    extra.mkdir()
    text = json.dumps(describe(model, sha256=checksums(path)))
    (extra / EXPORT_META).write_text(text, encoding="utf-8")
    (extra / metadata.LABELS).write_text(label_lines(model), encoding="utf-8")
    with _disk_errors(path):
        write_serving(path, model)


def _signatures(model, any_size):
    """The signatures, from prepared images, uint8 images and the bytes of files to boxes.

    any_size: None, or what the sides of images must be multiples of: serving_default then takes every such size.
    """
    height, width = model.input_size
    prepared = (
        tf.TensorSpec([height, width, 3], tf.float32),
        tf.TensorSpec([3, 3], tf.float32),
        tf.TensorSpec([2], tf.int32),
        tf.TensorSpec([], tf.bool),
    )

    # One function that all signatures call: the file holds the network once, and loads in .6 of the time.
    @functools.partial(tf.function, autograph=False)
    def detect(images):
        return model.postprocess(model.decoder(model.network(images, training=False)))

    def detect_originals(originals, prepare):
        images, transforms, sizes, valid = tf.map_fn(prepare, originals, fn_output_signature=prepared)
        found = detect(images)
        found = found._replace(boxes=restore(found.boxes, transforms, sizes))._asdict()
        return found, valid

    def prepare(original):
        image, transform = geometry.prepare(original, (height, width), model.preprocess)
        return image, transform, tf.shape(original)[:2]

    # tf.data would rewrite the graph of each image's data set at each call, and start a thread to tune it.
    as_it_is = tf.data.Options()
    as_it_is.experimental_optimization.apply_default_optimizations = False
    as_it_is.autotune.enabled = False

    def prepare_contents(contents):
        # A data set of one: an error ends it, and an empty image follows.
        nothing = (tf.zeros([height, width, 3]), tf.eye(3), tf.zeros([2], tf.int32), False)
        one = tf.data.Dataset.from_tensors(contents)
        one = one.map(lambda contents: (*prepare(decoding.decode_image(contents, MOST_PIXELS)), True)).ignore_errors()
        one = one.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1)
        return one.with_options(as_it_is).get_single_element()

    sides = (None, None) if any_size else (height, width)

    @tf.function(input_signature=[tf.TensorSpec([None, *sides, 3], tf.float32, "images")])
    def serving_default(images):
        if any_size:
            received = tf.shape(images)[1:3]
            fits = tf.reduce_all(received % any_size == 0)
            expected = f"images: expected a height and a width that are multiples of {any_size}, received"
            with tf.control_dependencies([tf.debugging.Assert(fits, [expected, received])]):
                images = tf.identity(images)
        return detect(images)._asdict()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def uint8(images):
        return detect_originals(images, lambda original: (*prepare(original), True))[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "contents")])
    def files(contents):
        found, valid = detect_originals(contents, prepare_contents)
        empty = {"scores": 0.0, "boxes": 0.0, "labels": -1, "count": 0, "best": 0.0}
        for name, value in empty.items():
            mask = tf.reshape(valid, [-1] + [1] * (len(found[name].shape) - 1))
            found[name] = tf.where(mask, found[name], tf.cast(value, found[name].dtype))
        return found | {"valid": valid}

    return {"serving_default": serving_default, "uint8": uint8, "bytes": files}
