"""What the interpreter would follow blindly is checked: a small file made by hand, and one thing wrong with it at a
time.
"""

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from tfyolo.tflite import flatbuffer
from tfyolo.tflite.flatbuffer import FlatbufferError
from tfyolo.tflite.interpreter import interpreter as started


def tensor(name, shape, buffer=0, dtype=schema.TensorType.FLOAT32):
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.type = name, np.array(shape, "int32"), buffer, dtype
    return made


def operator(inputs, outputs, opcode, kind, options):
    made = schema.OperatorT()
    made.inputs, made.outputs, made.opcodeIndex = np.array(inputs, "int32"), np.array(outputs, "int32"), opcode
    made.builtinOptionsType, made.builtinOptions = kind, options
    return made


def code(number):
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = number
    made.version = 1
    return made


def entry(kind, name, index):
    made = kind()
    made.name = name
    if kind is schema.TensorMapT:
        made.tensorIndex = index
    else:
        made.buffer = index
    return made


def model():
    """y = reshape(x + c), with a quantized constant that nobody reads."""
    made = schema.ModelT()
    made.version, made.description = 3, "by hand"
    made.operatorCodes = [code(schema.BuiltinOperator.ADD), code(schema.BuiltinOperator.RESHAPE)]
    made.buffers = [schema.BufferT(), schema.BufferT(), schema.BufferT(), schema.BufferT()]
    made.buffers[1].data = np.arange(6, dtype="float32").view("uint8")
    made.buffers[2].data = np.arange(6, dtype="uint8")
    made.buffers[3].data = np.frombuffer(b"1.0", "uint8")
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [
        tensor("x", [1, 2, 3]), tensor("c", [2, 3], 1), tensor("sum", [1, 2, 3]), tensor("y", [6]),
        tensor("q", [2, 3], 2, schema.TensorType.INT8),
    ]  # fmt: skip
    steps = graph.tensors[4].quantization = schema.QuantizationParametersT()
    steps.scale, steps.zeroPoint = np.ones(3, "float32"), np.zeros(3, "int64")
    steps.quantizedDimension = 1
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = np.array([6], "int32")
    graph.operators = [
        operator([0, 1], [2], 0, schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
        operator([2], [3], 1, schema.BuiltinOptions.ReshapeOptions, reshape),
    ]
    graph.inputs, graph.outputs = np.array([0], "int32"), np.array([3], "int32")
    made.subgraphs = [graph]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [entry(schema.TensorMapT, "images", 0)]
    signature.outputs = [entry(schema.TensorMapT, "found", 3)]
    made.signatureDefs = [signature]
    made.metadata = [entry(schema.MetadataT, "min_runtime_version", 3)]
    return made


def packed(made):
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))


def test_what_runs_passes():
    content = packed(model())
    flatbuffer.check(content)
    flatbuffer.check(memoryview(content))
    runner = started(model_content=content).get_signature_runner()
    np.testing.assert_array_equal(runner(images=np.ones([1, 2, 3], "float32"))["found"], np.arange(1, 7))


def assign(*path):
    """Sets what a path of attributes and places leads to, from the only graph on."""
    *way, name, value = path

    def change(made):
        for step in way:
            made = made[step] if isinstance(step, int) else getattr(made, step)
        if isinstance(name, int):
            made[name] = value
        else:
            setattr(made, name, value)

    return change


GRAPH = ("subgraphs", 0)
TENSORS, OPERATORS = (*GRAPH, "tensors"), (*GRAPH, "operators")
FAULTS = {
    "a buffer of a tensor": (assign(*TENSORS, 1, "buffer", 4), "a buffer of number 4, where 4 are there"),
    "a buffer of metadata": (assign("metadata", 0, "buffer", 99), "a buffer of number 99"),
    "an operator's code": (assign(*OPERATORS, 0, "opcodeIndex", 2), "an operator's code of number 2"),
    "an input": (assign(*OPERATORS, 0, "inputs", 1, 77), "tensor 77 is read before it is there"),
    "a negative input": (assign(*OPERATORS, 0, "inputs", 1, -2), "tensor -2 is read before it is there"),
    "an input too early": (assign(*OPERATORS, 0, "inputs", 1, 3), "tensor 3 is read before it is there"),
    "an output": (assign(*OPERATORS, 0, "outputs", 0, 5), "a tensor of number 5, where 5 are there"),
    "a constant written": (assign(*OPERATORS, 0, "outputs", 0, 1), "tensor 1 is a constant, and written"),
    "the graph's input": (assign(*GRAPH, "inputs", 0, 5), "a tensor of number 5"),
    "the graph's output": (assign(*GRAPH, "outputs", 0, -1), "a tensor of number -1"),
    "an output never made": (assign(*OPERATORS, 1, "outputs", 0, 2), "tensor 3 is given out and never there"),
    "a signature's graph": (assign("signatureDefs", 0, "subgraphIndex", 1), "a graph of number 1, where 1 are there"),
    "a signature's tensor": (assign("signatureDefs", 0, "outputs", 0, "tensorIndex", 5), "a tensor of number 5"),
    "a constant's shape": (assign(*TENSORS, 1, "shape", 0, 3), "a constant of 24 bytes, where its shape [3, 3] takes "
                                                               "36"),
    "a constant's type": (assign(*TENSORS, 1, "type", schema.TensorType.INT64), "24 bytes, where its shape [2, 3] "
                                                                                "takes 48"),
    "a side below 0": (assign(*TENSORS, 2, "shape", 0, -1), "a tensor of shape [-1, 2, 3]"),
    "a tensor of many bytes": (assign(*TENSORS, 2, "shape", 0, 1 << 30), "a tensor of shape [1073741824, 2, 3]"),
    "a type that is none": (assign(*TENSORS, 2, "type", 99), "a tensor of type 99"),
    "a tensor of strings": (assign(*TENSORS, 2, "type", schema.TensorType.STRING), "a tensor of type 5"),
    "scales of another side": (assign(*TENSORS, 4, "quantization", "quantizedDimension", 0), "3 scales of a tensor of "
                                                                                             "shape"),
    "a side that is not there": (assign(*TENSORS, 4, "quantization", "quantizedDimension", 2), "3 scales of a tensor "
                                                                                               "of shape"),
    "zero points": (assign(*TENSORS, 4, "quantization", "zeroPoint", np.zeros(2, "int64")), "3 scales with 2 zero "
                                                                                            "points"),
    "sparsity": (assign(*TENSORS, 1, "sparsity", schema.SparsityParametersT()), "that none of this package's files "
                                                                                "has"),
    "data elsewhere": (assign("buffers", 1, "offset", 8), "that none of this package's files has"),
    "options that lead on": (
        assign(*OPERATORS, 0, "builtinOptionsType", schema.BuiltinOptions.BucketizeOptions), "options of type"),
}  # fmt: skip


def test_numbers_of_options_are_the_schemas():
    options = schema.BuiltinOptions
    assert (options.ReshapeOptions, options.SqueezeOptions) == flatbuffer._OF_VECTOR
    assert (options.ConcatEmbeddingsOptions, options.BucketizeOptions) == flatbuffer._OF_SEVERAL


@pytest.mark.parametrize("fault", FAULTS)
def test_one_thing_wrong_is_said(fault):
    change, message = FAULTS[fault]
    made = model()
    change(made)
    with pytest.raises(FlatbufferError) as error:
        flatbuffer.check(packed(made))
    assert message in str(error.value)


def test_whatever_the_bytes_are_it_is_that_error_or_none():
    content = packed(model())
    for size in range(len(content)):
        with pytest.raises(FlatbufferError):
            flatbuffer.check(content[:size])
    rng, refused = np.random.default_rng(0), 0
    for _ in range(600):
        data = np.frombuffer(content, "u1").copy()
        places = rng.integers(len(data), size=rng.integers(1, 4))
        data[places] = rng.choice([0, 1, 127, 128, 255], len(places))
        try:
            flatbuffer.check(data.tobytes())
        except FlatbufferError:
            refused += 1
    assert refused > 200


def test_tables_that_lead_to_each_other_a_million_times_are_refused_at_once():
    """Every graph of a hostile file is one and the same, at an offset of its own: what is read grows with the bytes
    alone.
    """
    made = model()
    made.subgraphs[0].tensors *= 300
    made.subgraphs *= 3
    content = bytearray(packed(made))
    reader = flatbuffer._Reader(bytes(content))
    slots = reader._slots(reader._number("u4", 0))
    vector = slots[2] + reader._number("u4", slots[2])
    content[vector : vector + 4] = (len(content) // 5).to_bytes(4, "little")
    with pytest.raises(FlatbufferError):
        flatbuffer.check(bytes(content))
