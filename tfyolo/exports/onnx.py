"""ONNX files: their outputs, their conversion, what they carry about themselves."""

import contextlib
import functools
import json
import logging
import os

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfyolo.exports.layouts import LAYOUTS
from tfyolo.exports.targets import ExportError
from tfyolo.graph.fusion import fuse
from tfyolo.libraries import libraries_silent
from tfyolo.model import describe, without_quantization
from tfyolo.predict.onnx import OUTPUTS, checksum, with_description
from tfyolo.structures import Candidates

# What ONNX Runtime 1.12, TensorRT 8.6, OpenVINO 2022.3 and all that came later read; nothing here needs a newer one.
OPSET = 17
BATCH = "batch"  # the name of an open number of images


def write(job, target, path):
    """Writes a Job's ONNX file; there are no notes for its report."""
    path.write_bytes(to_bytes(job.model, target, to_onnx(job.model, target, job.batch)))
    return {}


def to_bytes(model, target, proto):
    """The bytes of an ONNX file, with what describes it.

    Args:
        model: the Model.
        target: the Target.
        proto: the onnx.ModelProto of to_onnx.

    Returns:
        Bytes; metadata_props has EXPORT_META, and "names", "stride", "task" and "imgsz", which programs for YOLO files
        read.
    """
    content = proto.SerializeToString()
    export = {"nms": target.nms, "precision": target.precision, "layout": target.input_layout}
    text = json.dumps(describe(model, export=export, sha256=checksum(content)))
    return with_description(content, text.encode())


def to_onnx(model, target, batch):
    """Converts a Model as a Target wants it.

    Args:
        model: the Model; fake quantization is left out.
        target: the Target.
        batch: images that the file takes at once; None: any number.

    Returns:
        An onnx.ModelProto: input "images" [B, H, W, 3] or [B, 3, H, W] float32 0..1, outputs of predict.onnx.OUTPUTS.

    Raises:
        ExportError: the post-processing has no operation in ONNX, or the converter's does not hold.
    """
    if target.nms == "builtin" and getattr(model.postprocess, "soft_sigma", 0):
        raise ExportError(
            f"{target.name}: ONNX has no NMS in which boxes lose score (model.postprocess.soft_sigma), expected --nms "
            "none or app, after which tfyolo or the app suppresses"
        )
    model = fuse(without_quantization(model))
    proto = _converted(*_serve(model, target, batch), target.name)
    _tidy(proto, OUTPUTS[target.nms], batch)
    if target.precision == "float16":
        _halve(proto.graph)
    height, width = model.input_size
    metadata = {
        "names": str(dict(enumerate(model.classes))),
        "stride": str(model.decoder.multiple),
        "task": "detect",
        "imgsz": str([height, width]),
    }
    from onnx import checker, helper

    helper.set_model_props(proto, metadata)
    proto.producer_name, proto.doc_string = "tfyolo", model.config.name
    try:
        checker.check_model(proto, full_check=True)
    except (checker.ValidationError, ValueError, RuntimeError) as error:  # as shape inference raises, too
        raise ExportError(
            f"{target.name}: it is no valid ONNX file ({error}). The file was not kept. Please report it."
        ) from error
    return proto


# --- the function that is converted -----------------------------------------------------------------------------------


def _with_nms(model, boxes, scores):
    """Detections; of a known number of images NMS is unrolled, of an open one it is a loop."""
    if boxes.shape[0] is not None:
        return LAYOUTS["builtin", False].end(model, boxes, scores)
    size = np.array(model.input_size, "float32")
    return model.postprocess(Candidates(boxes, scores, None, None, size))._asdict()


def _app(model, boxes, scores):
    """One output [B, 4 + K, N]: middle x, middle y, width and height in pixels, then the scores of the classes."""
    top, left, bottom, right = tf.split(boxes, 4, axis=-1)
    sides = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return {"output0": tf.transpose(tf.concat([*sides, scores], -1), [0, 2, 1])}


_STAGES = {"builtin": _with_nms, "none": LAYOUTS["none", False].end, "app": _app}


def _serve(model, target, batch):
    """(tf.function images -> {output: tensor}, its signature): a Model with constants for weights."""
    height, width = model.input_size
    nchw = target.input_layout == "nchw"
    inside = tf.TensorSpec([batch, height, width, 3], tf.float32, "images")
    outside = tf.TensorSpec([batch, 3, height, width], tf.float32, "images") if nchw else inside

    @tf.function(input_signature=[inside], autograph=False)
    def candidates(images):
        found = model.decoder(model.network(images, training=False))
        return found.boxes, found.scores

    with _groups_without_xla(model.network):
        frozen = convert_variables_to_constants_v2(candidates.get_concrete_function())

    @tf.function(input_signature=[outside], autograph=False)
    def serve(images):
        boxes, scores = frozen(tf.transpose(images, [0, 2, 3, 1]) if nchw else images)
        return _STAGES[target.nms](model, boxes, scores)

    return serve, outside


@contextlib.contextmanager
def _groups_without_xla(network):
    """While it lasts, convolutions in groups are one operation.

    Keras has XLA compile them, in a function that nothing inlines and tf2onnx does not know (Keras 3.15,
    backend/tensorflow/nn.py).
    """
    grouped = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1]
    for layer in grouped:
        layer.convolution_op = functools.partial(
            tf.nn.conv2d,
            strides=layer.strides,
            padding=layer.padding.upper(),
            dilations=layer.dilation_rate,
        )
    try:
        yield
    finally:
        for layer in grouped:
            del layer.convolution_op


# --- conversion -------------------------------------------------------------------------------------------------------


def _converted(function, signature, name):
    """The onnx.ModelProto of a tf.function.

    By tf2onnx: Keras's own export (Model.export, format "onnx") calls it too, but only with a Keras model and names of
    its own for outputs. tf2onnx draws the transpositions between TensorFlow's order of axes and ONNX's together, so
    that one is left at the input and one at each level.
    """
    with libraries_silent(), _environment_kept():
        import tf2onnx.convert

        logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # what it makes is run and compared anyway
        try:
            proto, _ = tf2onnx.convert.from_function(function, [signature], opset=OPSET)
        except Exception as error:  # of many kinds: it has none of its own
            line = " ".join(str(error).split())[:300]
            raise ExportError(f"{name}: tf2onnx cannot convert it ({line}). Please report it.") from error
    return proto


@contextlib.contextmanager
def _environment_kept():
    """tf2onnx, when imported, sets the log level that processes started later inherit: it stays what it was."""
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    try:
        yield
    finally:
        os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
        if level is not None:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = level


def _tidy(proto, names, batch):
    """Puts outputs into their order, names an open batch, and writes nearest upsampling as all programs read it."""
    from onnx import numpy_helper

    graph = proto.graph
    outputs = {output.name: output for output in graph.output}
    ordered = [outputs[name] for name in names]
    graph.ClearField("output")
    graph.output.extend(ordered)
    if batch is None:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    used = {node.domain for node in graph.node} | {""}
    kept = [each for each in proto.opset_import if each.domain in used]
    proto.ClearField("opset_import")
    proto.opset_import.extend(kept)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        mode = attributes.get("coordinate_transformation_mode")
        if node.op_type == "Resize" and mode.s == b"tf_half_pixel_for_nn":
            # It is deprecated. For whole scales floor(i / scale) is the same, and what most programs read; for others
            # (i + 1/2) / scale - 1/2, rounded up at a half, is.
            whole = len(node.input) == 3 and not np.any(scales.get(node.input[2], np.ones(1) / 2) % 1)
            mode.s = b"asymmetric" if whole else b"half_pixel"
            attributes["nearest_mode"].s = b"floor" if whole else b"round_prefer_ceil"


def _halve(graph):
    """Stores the kernels of a graph in float16: they are cast when the file is loaded, computed is float32.

    The grid and the anchors of decoders stay: a half has 11 bits, and images have more pixels.
    """
    from onnx import TensorProto, helper, numpy_helper

    kernels = {node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in kernels or tensor.data_type != TensorProto.FLOAT:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        largest = np.finfo("float16").max
        halved = np.clip(values, -largest, largest).astype("float16")
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}:half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}:cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
