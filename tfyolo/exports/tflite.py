"""TFLite files: their conversion and their metadata."""

import json
import tempfile

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfyolo.exports import convert
from tfyolo.exports.integers import to_full_integer, with_prelu
from tfyolo.exports.layouts import LAYOUTS
from tfyolo.exports.saved_model import save_module
from tfyolo.exports.targets import LABELMAP, UNDECODED, is_quantized, label_lines
from tfyolo.graph.fusion import fuse
from tfyolo.model import describe, without_quantization
from tfyolo.nn.activations import mish, mish_by_exp
from tfyolo.origin import initialised_line
from tfyolo.predict.exported import EXPORT_META
from tfyolo.tflite import metadata, packed


def write(job, target, path):
    """Writes a Job's TFLite file; gives what its report says beside what the gate finds."""
    content, outputs = _content(job, target)
    path.write_bytes(content)
    notes = metadata.tensors(content, outputs) | ({"labels": LABELMAP} if target.has_labelmap else {})
    if target.limits.quantized:
        notes["quantization"] = metadata.quantization(content)
        notes |= {"skipped": list(job.skipped.values())} if job.skipped else {}
        notes |= {"worst": job.worst} if job.worst else {}
        notes |= {"floats": list(job.floats)} if job.floats else {}
    return notes


def _content(job, target):
    model, layout = for_tflite(without_quantization(job.model)), LAYOUTS[target.nms, target.limits.integer]
    if target.limits.quantized:
        model = job.quantized()
    model = layout.prepare(model)
    content = to_tflite(model, layout, target.precision, job.batch)
    if target.limits.integer:
        content = to_full_integer(content, job.images(), per_channel=job.per_channel)
        if target.nms in UNDECODED:  # the kinds that compilers of accelerators read
            content = with_prelu(content)
    outputs, config = layout.outputs(model), model.config
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
    text = json.dumps(describe(job.model, export=export, sha256=packed.checksum(content)))
    files = {EXPORT_META: text, metadata.LABELS: label_lines(job.model)}
    if target.nms in ("app", "e2e"):
        files[metadata.APP] = metadata.app_text(model, end_to_end=target.nms == "e2e")  # last, where they look
    return packed.with_files(content, files), outputs


def for_tflite(model):
    """The Model with its batch norms fused, in operations for which TFLite has fast kernels."""
    return fuse(model, dict.fromkeys((mish, mish.inference), mish_by_exp))  # of a fused model, too


def to_tflite(model, layout, precision="float32", batch=1):
    """The bytes of a TFLite file of a Model as it is: for_tflite fuses it. layout: of LAYOUTS."""
    convert.start()
    height, width = model.input_size
    signature = tf.TensorSpec([batch, height, width, 3], tf.float32, "images")

    @tf.function(input_signature=[signature], autograph=False)
    def body(images):
        return layout.body(model, images)

    # Frozen before anything else is made of it: converted with its variables, a model can lose its weights without a
    # word.
    frozen = convert_variables_to_constants_v2(body.get_concrete_function())
    module = tf.Module()

    @tf.function(input_signature=[signature], autograph=False)
    def serve(images):
        return layout.end(model, *frozen(images))

    module.serve = serve
    with tempfile.TemporaryDirectory() as scratch:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        save_module(module, scratch, {"serving_default": serve}, options)
        return convert.convert_saved_model(
            scratch,
            optimized=precision != "float32",
            float16=precision == "float16",
            uint8_input=is_quantized(precision),
        )
