"""TFLite metadata: what Android's and mediapipe's libraries ask a file (tflite-support's metadata_schema.fbs, M001).

A table of that schema is written as a list of its fields, in the schema's order; None where one is left out.
"""

import json
from typing import NamedTuple

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

LABELS = "labels.txt"
APP = "metadata.json"  # what the apps round YOLO read, which look for it at the file's very end
_VALUE_LABELS = 3  # AssociatedFileType.TENSOR_VALUE_LABELS
_RGB, _BOUNDARIES, _RATIO, _PIXEL = 1, 1, 0, 1
_FEATURE, _IMAGE, _BOX = 1, 2, 3  # ContentProperties
_NORMALIZATION, _THRESHOLDING = 1, 3  # ProcessUnitOptions


class _Byte(NamedTuple):
    value: int


class _Float(NamedTuple):
    value: float


class Output(NamedTuple):
    """An output for the metadata. kind: "boxes" (in pixels), "boxes_unit" (0..1), "labels" or "numbers"."""

    name: str
    description: str
    kind: str


def _put(builder, value):
    """The offset of a string, a table (list of fields) or a vector (tuple, of one kind)."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, tuple):
        if isinstance(value[0], float):
            return builder.CreateNumpyVector(np.array(value, "<f4"))
        if isinstance(value[0], int):
            return builder.CreateNumpyVector(np.array(value, "<u4"))
        offsets = [_put(builder, each) for each in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    fields = [
        each if each is None or isinstance(each, _Byte | _Float) else _Offset(_put(builder, each)) for each in value
    ]
    builder.StartObject(len(fields))
    for slot, each in enumerate(fields):
        if isinstance(each, _Byte):
            builder.PrependByteSlot(slot, each.value, 0)
        elif isinstance(each, _Float):
            builder.PrependFloat32Slot(slot, each.value, 0.0)
        elif each is not None:
            builder.PrependUOffsetTRelativeSlot(slot, each.value, 0)
    return builder.EndObject()


class _Offset(NamedTuple):
    value: int


def describe(name, description, outputs, score, quantized, licence):
    """The bytes of a ModelMetadata.

    Args:
        name: of the model.
        description: of the model.
        outputs: [Output] in the order of the file.
        score: the confidence threshold of its detections, 0..1.
        quantized: whether images are uint8, not float.
        licence: of the weights, in words.
    """
    normalization = [_Byte(_NORMALIZATION), [(0.0,), (1.0 if quantized else 255.0,)]]
    image = [
        "image",
        "An image, red before green before blue" + ("" if quantized else ", 0..1"),
        None,
        [_Byte(_IMAGE), [_Byte(_RGB)]],
        (normalization,),
        [(255.0 if quantized else 1.0,), (0.0,)],
    ]
    tensors = []
    for output in outputs:
        labels = ([LABELS, "The classes, one a line", _Byte(_VALUE_LABELS)],) if output.kind == "labels" else None
        content = [_Byte(_FEATURE), []]
        if output.kind.startswith("boxes"):
            unit = _RATIO if output.kind == "boxes_unit" else _PIXEL
            order = (1, 0, 3, 2)  # where left, top, right and bottom stand
            content = [_Byte(_BOX), [order, _Byte(_BOUNDARIES), _Byte(unit)]]
        tensors.append([output.name, output.description, None, content, None, None, labels])
    thresholding = [_Byte(_THRESHOLDING), [_Float(score)]]
    group = ["detections", tuple(output.name for output in outputs)]
    subgraph = [name, None, (image,), tuple(tensors), None, None, (thresholding,), None, (group,)]
    model = [name, description, "1", (subgraph,), None, licence, None, "1.2.0"]
    builder = flatbuffers.Builder(1024)
    builder.Finish(_put(builder, model), file_identifier=b"M001")
    return bytes(builder.Output())


def attached(content, outputs, metadata):
    """A TFLite file's bytes, as programs find their way in it: by position, by name and by metadata.

    outputs: the names of the outputs of its only signature, in the order that the file is to have them in; the
    converter's own order and names are chance. Each input and output tensor is named as the signature names it.
    metadata: as describe gives it.
    """
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (signature,) = file.signatureDefs
    graph = file.subgraphs[signature.subgraphIndex]
    for each in [*signature.inputs, *signature.outputs]:
        graph.tensors[each.tensorIndex].name = each.name
    by_name = {each.name.decode(): each for each in signature.outputs}
    signature.outputs = [by_name[name] for name in outputs]
    graph.outputs = np.array([each.tensorIndex for each in signature.outputs], "int32")
    file.buffers.append(_buffer(metadata))
    file.metadata = [*(file.metadata or []), _entry(len(file.buffers) - 1)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file))


def app_text(model, *, end_to_end):
    """The text of APP: what a Model's file holds. end_to_end: whether NMS is included."""
    stride = max(2 ** int(level[1:]) for level in model.decoder.levels)
    names = {str(label): name for label, name in enumerate(model.classes)}
    facts = {"task": "detect", "names": names, "imgsz": [*model.input_size], "stride": stride}
    return json.dumps(facts | {"end2end": end_to_end})


def quantization(content):
    """{integer input or output: {"dtype", "scale", "zero_point"}} of a TFLite file: scale * (integer - zero_point)."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    tensors = [graph.Tensors(i) for i in (*graph.InputsAsNumpy(), *graph.OutputsAsNumpy())]
    found = {}
    for tensor in tensors:
        steps = tensor.Quantization()
        if steps and steps.ScaleLength():
            dtype = {schema.TensorType.INT8: "int8", schema.TensorType.UINT8: "uint8"}[tensor.Type()]
            found[tensor.Name().decode()] = {"dtype": dtype, "scale": steps.Scale(0), "zero_point": steps.ZeroPoint(0)}
    return found


_DTYPES = {getattr(schema.TensorType, name.upper()): name for name in ("float32", "uint8", "int8", "int32", "int64")}


def tensors(content, outputs):
    """The inputs and outputs of a TFLite file.

    Args:
        content: its bytes.
        outputs: [Output] in the order of the file.

    Returns:
        {"inputs", "outputs"}: {name: {"shape", "dtype"; of integers with a scale "scale", "zero_point"; "what"}}.
    """
    graph, integers = schema.Model.GetRootAs(content).Subgraphs(0), quantization(content)
    what = {each.name: each.description for each in outputs}
    found = {}
    for way, indices in (("inputs", graph.InputsAsNumpy()), ("outputs", graph.OutputsAsNumpy())):
        found[way] = {}
        for tensor in map(graph.Tensors, indices):
            name = tensor.Name().decode()
            facts = {"shape": tensor.ShapeAsNumpy().tolist(), "dtype": _DTYPES[tensor.Type()]}
            found[way][name] = facts | integers.get(name, {}) | ({"what": what[name]} if name in what else {})
    return found


def _buffer(data):
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, "u1")
    return buffer


def _entry(index):
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"TFLITE_METADATA", index
    return entry
