"""TFLite files: their outputs, their conversion, their metadata."""

import json
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfyolo.exports.integers import to_full_integer
from tfyolo.exports.saved_model import save_module
from tfyolo.exports.targets import LABELMAP, PRECISIONS, label_lines
from tfyolo.graph.fusion import fuse
from tfyolo.libraries import libraries_silent
from tfyolo.model import describe, with_largest_box, without_quantization
from tfyolo.nn.activations import mish, mish_by_exp
from tfyolo.origin import initialised_line
from tfyolo.predict.exported import EXPORT_META
from tfyolo.structures import Candidates
from tfyolo.tflite import metadata


def with_bounded_boxes(model):
    """The Model whose boxes have sides of at most two images: the fewer pixels 256 steps are over, the finer they are.

    A box so long whose middle lies in the image reaches over both borders, where it is cut anyway.
    """
    return with_largest_box(model, 2.0 * max(model.input_size))


def _candidates(model, boxes, scores):
    return Candidates(boxes, scores, None, None, np.array(model.input_size, "float32"))


def _with_nms(model, boxes, scores):
    """Detections; NMS image by image, unrolled, so that TFLite needs no loop."""
    each = [model.postprocess(_candidates(model, boxes[i : i + 1], scores[i : i + 1])) for i in range(boxes.shape[0])]
    return {name: tf.concat([getattr(one, name) for one in each], 0) for name in each[0]._fields}


def _raw(model, boxes, scores):
    """All candidates: boxes [B, N, 4] in pixels, scores [B, N, K]."""
    return {"boxes": boxes, "scores": scores}


def _raw_normalized(model, boxes, scores):
    """All candidates, boxes in 0..1, clipped to the image.

    Cut by a fake quantization each before and after the division: what adds up to a corner takes over the first one's
    range, and so has all of its 256 steps inside the image.
    """
    size = model.input_size
    boxes = tf.quantization.fake_quant_with_min_max_args(boxes, 0.0, float(max(size)))
    boxes_unit = boxes / np.array([*size] * 2, "float32")
    return {"boxes": tf.quantization.fake_quant_with_min_max_args(boxes_unit, 0.0, 1.0), "scores": scores}


def _task_outputs(model, boxes, scores):
    """What TFLite_Detection_PostProcess gives, which the task libraries read: boxes in 0..1, and numbers as floats.

    That operation itself leaves behind its `count` whatever its memory held, and is no builtin one.
    """
    found = model.postprocess(_candidates(model, boxes, scores))
    location = found.boxes / np.array([*model.input_size] * 2, "float32")
    values = location, tf.cast(found.labels, tf.float32), found.scores, tf.cast(found.count, tf.float32)
    return dict(zip(OUTPUTS["task"], values, strict=True))


# What follows the candidates: {(nms, integer): (Model, boxes [B, N, 4], scores [B, N, K]) -> {output: tensor}}.
OUTPUT_STAGES = {
    ("builtin", False): _with_nms,
    ("none", False): _raw,
    ("none", True): _raw_normalized,
    ("task", False): _task_outputs,
}
_FOUND = {
    "boxes": ("Top, left, bottom and right of each detection", "boxes"),
    "scores": ("0..1", "numbers"),
    "labels": ("Numbers of the classes", "labels"),
    "count": ("How many were found; what follows is padding", "numbers"),
    "best": ("The highest score of all candidates", "numbers"),
}
# The outputs of a TFLite file, in their order: {nms: {name: (description, kind)}}. That of "task" is the one that its
# libraries know.
OUTPUTS = {
    "builtin": _FOUND,
    "none": {
        "boxes": ("Top, left, bottom and right of each candidate", "boxes"),
        "scores": ("0..1 of each class, in the order of labels.txt", "labels"),
    },
    "task": {
        "location": ("Top, left, bottom and right of each detection, 0..1", "boxes_unit"),
        "category": ("Numbers of the classes", "labels"),
        "score": ("0..1", "numbers"),
        "number of detections": ("How many were found", "numbers"),
    },
}


def write(job, target, path):
    """Writes a Job's TFLite file; gives what its report says beside what the gate finds."""
    content = _content(job, target)
    path.write_bytes(content)
    notes = {"labels": LABELMAP} if target.nms == "task" else {}
    if target.limits.quantized:
        notes["quantization"] = metadata.quantization(content)
        notes |= {"skipped": list(job.skipped.values())} if job.skipped else {}
        notes |= {"worst": job.worst} if job.worst else {}
        notes |= {"floats": list(job.floats)} if job.floats else {}
    return notes


def _content(job, target):
    model = for_tflite(without_quantization(job.model))
    if target.limits.quantized:
        model = with_bounded_boxes(job.quantized()) if target.limits.integer else job.quantized()
    content = to_tflite(model, OUTPUT_STAGES[target.nms, target.limits.integer], target.precision, job.batch)
    if target.limits.integer:
        content = to_full_integer(content, job.images(), per_channel=job.per_channel)
    outputs = [metadata.Output(name, *what) for name, what in OUTPUTS[target.nms].items()]
    if target.limits.integer:
        outputs = [each._replace(kind="boxes_unit") if each.name == "boxes" else each for each in outputs]
    config = model.config
    described = metadata.describe(
        config.name,
        f"{config.name}, trained with tfyolo on {config.data.path if config.data else 'images unknown'}; "
        f"{len(model.classes)} classes, images brought to {list(model.input_size)} by {model.preprocess}",
        outputs,
        model.postprocess.score,
        target.limits.quantized,
        initialised_line(model.origin) or "The weights' own: they were initialised at random",
    )
    content = metadata.attached(content, [each.name for each in outputs], described)
    export = {"nms": target.nms, "precision": target.precision}
    text = json.dumps(describe(job.model, export=export, sha256=metadata.checksum(content)))
    return metadata.with_files(content, {EXPORT_META: text, metadata.LABELS: label_lines(job.model)})


def for_tflite(model):
    """The Model with its batch norms fused, in operations for which TFLite has fast kernels."""
    return fuse(model, {mish: mish_by_exp})


def to_tflite(model, end, precision="float32", batch=1):
    """The bytes of a TFLite file of a Model as it is: for_tflite fuses it. end: of OUTPUT_STAGES."""
    height, width = model.input_size
    signature = tf.TensorSpec([batch, height, width, 3], tf.float32, "images")

    @tf.function(input_signature=[signature], autograph=False)
    def candidates(images):
        found = model.decoder(model.network(images, training=False))
        return found.boxes, found.scores

    # Frozen before anything else is made of it: converted with its variables, a model can lose its weights without a
    # word.
    frozen = convert_variables_to_constants_v2(candidates.get_concrete_function())
    module = tf.Module()

    @tf.function(input_signature=[signature], autograph=False)
    def serve(images):
        return end(model, *frozen(images))

    module.serve = serve
    with tempfile.TemporaryDirectory() as scratch:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        save_module(module, scratch, {"serving_default": serve}, options)
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if PRECISIONS[precision].quantized:
            converter.inference_input_type = tf.uint8
        with libraries_silent():  # the converter's notes on what it quantises
            return converter.convert()
