"""A model repository of NVIDIA Triton Inference Server: NAME/config.pbtxt, NAME/labels.txt and NAME/1/model.onnx."""

import json
import re

from tfyolo.exports.onnx import to_bytes, to_onnx
from tfyolo.exports.targets import label_lines
from tfyolo.tflite.metadata import LABELS

MOST_BATCH = 8  # images that the server joins, unless --batch says more
# What Triton calls the types of ONNX's tensors (onnx.TensorProto.DataType).
_TYPES = {1: "TYPE_FP32", 6: "TYPE_INT32", 7: "TYPE_INT64", 10: "TYPE_FP16"}
# The output whose numbers stand for classes, by nms of the Target.
_LABELLED = {"builtin": "labels", "none": "scores", "app": "output0"}


def write(job, target, path):
    """Writes a Job's model repository into a folder; what its report says is the model's name in the server."""
    proto = to_onnx(job.model, target, None)
    name = model_name(job.model)
    folder = path / name
    (folder / "1").mkdir(parents=True)
    most = job.batch if job.batch > 1 else MOST_BATCH
    config = config_text(name, proto.graph, most, _LABELLED[target.nms], target.input_layout)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (folder / LABELS).write_text(label_lines(job.model), encoding="utf-8")
    (folder / "1" / "model.onnx").write_bytes(to_bytes(job.model, target, proto))
    return {"model": name}


def model_name(model):
    """What a Model is called in a server: its config's name, other characters than letters, digits, - and _ as _."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", model.config.name) or "model"


def config_text(name, graph, batch, labelled, layout):
    """The text of config.pbtxt, a ModelConfig of Triton's.

    Args:
        name: of the model, which is that of its folder.
        graph: onnx.GraphProto, whose inputs and outputs have an open number of images.
        batch: the most images that the server joins into one call.
        labelled: the output that the names of classes belong to.
        layout: of the input, "nhwc" or "nchw".

    Source: github.com/triton-inference-server/server, docs/user_guide/model_configuration.md.
    """
    inputs = [_tensor(each, f"  format: FORMAT_{layout.upper()}\n") for each in graph.input]
    outputs = [
        _tensor(each, f"  label_filename: {json.dumps(LABELS)}\n" if each.name == labelled else "")
        for each in graph.output
    ]
    return (
        f"name: {json.dumps(name)}\n"
        'backend: "onnxruntime"\n'
        f"max_batch_size: {batch}\n"
        f"input [\n{_listed(inputs)}]\n"
        f"output [\n{_listed(outputs)}]\n"
        "# Requests that wait are computed together; with max_queue_delay_microseconds it would wait for more.\n"
        "dynamic_batching { }\n"
    )


def _tensor(value, more):
    """A ModelInput or ModelOutput of an onnx.ValueInfoProto, without the batch's side."""
    kind = value.type.tensor_type
    dims = [side.dim_value for side in kind.shape.dim[1:]]
    # No tensor may be without sides: of one number for each image, the server takes away the 1 that it is said to have.
    reshape = "" if dims else "  reshape { shape: [ ] }\n"
    return (
        f"  name: {json.dumps(value.name)}\n"
        f"  data_type: {_TYPES[kind.elem_type]}\n"
        f"{more}"
        f"  dims: [ {', '.join(map(str, dims or [1]))} ]\n"
        f"{reshape}"
    )


def _listed(tensors):
    blocks = ["".join(f"  {line}\n" for line in each.splitlines()) for each in tensors]
    return ",\n".join(f"  {{\n{block}  }}" for block in blocks) + "\n"
