"""A Triton model repository: its config.pbtxt, read as the server reads it, says what the model takes and gives."""

import functools

import numpy as np
import pytest
from exporting import CLASSES
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tfyolo import checkpoint
from tfyolo.exports import export as exports
from tfyolo.exports import triton
from tfyolo.exports.targets import Target
from tfyolo.predict import load as loading

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of pip install 'tfyolo[onnx]'")
pytest.importorskip("tf2onnx", reason="needs tf2onnx, of pip install 'tfyolo[onnx]'")

# What its server reads, in part: names and kinds of model_config.proto.
TYPES = [
    "TYPE_INVALID",
    "TYPE_BOOL",
    *(f"TYPE_UINT{n}" for n in (8, 16, 32, 64)),
    *(f"TYPE_INT{n}" for n in (8, 16, 32, 64)),
]
TYPES += ["TYPE_FP16", "TYPE_FP32"]
NUMPY = {"TYPE_FP32": "tensor(float)", "TYPE_INT32": "tensor(int32)"}
MESSAGES = {
    "Shape": {"shape": "int64*"},
    "Input": {"name": "string", "data_type": "Type", "format": "Format", "dims": "int64*", "reshape": "Shape"},
    "Output": {"name": "string", "data_type": "Type", "dims": "int64*", "reshape": "Shape", "label_filename": "string"},
    "Batching": {"preferred_batch_size": "int32*", "max_queue_delay_microseconds": "uint64"},
    "Config": {
        **{"name": "string", "backend": "string", "max_batch_size": "int32"},
        **{"input": "Input*", "output": "Output*", "dynamic_batching": "Batching"},
    },
}
ENUMS = {"Type": TYPES, "Format": ["FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"]}


@functools.cache
def config_message():
    """The class of a message that has the fields of Triton's ModelConfig which are used."""
    file = descriptor_pb2.FileDescriptorProto(name="triton_in_part.proto", package="triton_in_part", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, kinds in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(kinds.items(), start=1):
            row = message.field.add(name=key, number=number, label=3 if kind.endswith("*") else 1)
            kind = kind.removesuffix("*")
            if kind in MESSAGES or kind in ENUMS:
                row.type, row.type_name = (11 if kind in MESSAGES else 14), f".triton_in_part.{kind}"
            else:
                row.type = getattr(row, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton_in_part.Config"))


@pytest.mark.parametrize("form", [Target("triton", nms="none"), pytest.param(Target("triton"), marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_triton_repository_says_what_its_model_takes_and_gives(form, demo, tmp_path):
    path, report = exports.export(demo.model, tmp_path, [form])[form.name]
    (folder,) = path.iterdir()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), config_message()())
    assert folder.name == config.name == report["model"] and config.backend == "onnxruntime"
    assert config.max_batch_size == triton.MOST_BATCH and config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    kinds = descriptor_kinds(config)
    for rows, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [row.name for row in rows] == [each.name for each in real]
        for row, each in zip(rows, real, strict=True):
            inside = list(row.reshape.shape) if row.HasField("reshape") else list(row.dims)
            assert NUMPY[kinds[row.data_type]] == each.type and ["batch", *inside] == each.shape
            assert np.prod(row.dims) == np.prod(inside)
    assert ENUMS["Format"][config.input[0].format] == "FORMAT_NHWC"
    labelled = {row.name: row.label_filename for row in config.output if row.label_filename}
    assert labelled == {"labels" if form.nms == "builtin" else "scores": "labels.txt"}
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    newer = folder / "10"
    newer.mkdir()
    (newer / "model.onnx").write_bytes((folder / "1" / "model.onnx").read_bytes())
    assert loading.load(path).source == str(newer / "model.onnx")
    (path / "other").mkdir()
    (path / "other" / "config.pbtxt").touch()
    with pytest.raises(checkpoint.CheckpointError, match=r"expected a repository of one model, received .*other"):
        loading.load(path)


def descriptor_kinds(config):
    """{number: name} of the kinds of tensors."""
    return {
        value.number: value.name for value in config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values
    }


def test_a_models_name_in_a_server_is_a_folders(demo):
    config = demo.model.config.model_copy(update={"name": "größer/v8 n.2"})
    assert triton.model_name(demo.model._replace(config=config)) == "gr__er_v8_n_2"
