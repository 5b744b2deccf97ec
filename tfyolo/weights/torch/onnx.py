"""ONNX files that PyTorch exported, read without ONNX's own packages: their convolutions, as they ran.

    graph("yolox_nano.onnx") -> Graph

A file is a message of protocol buffers. What is read of it are the nodes and the arrays of floats; the rest is passed
over.
"""

import math
from typing import NamedTuple

import numpy as np

from tfyolo.files import read_regular
from tfyolo.messages import counted, printable
from tfyolo.protobuf import fields, varint
from tfyolo.weights.torch.unpickle import TorchError

LARGEST = 2 << 30  # bytes: what a message of protocol buffers may have
MOST_NODES, MOST_CONVOLUTIONS = 100_000, 5000
FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType
# The numbers of the fields that are read (onnx.proto).
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _OUTPUT, _OP_TYPE = 1, 2, 4
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _LOCATION = 1, 2, 4, 8, 9, 14


class Convolution(NamedTuple):
    """One convolution of a Graph.

    Attributes:
        kernel: [out, in / groups, h, w] float32.
        bias: [out] float32.
        sources: (index, ..) of the convolutions that its input comes from, in the order in which they are joined; ()
            for the image's.
    """

    kernel: np.ndarray
    bias: np.ndarray
    sources: tuple[int, ...]


class Graph(NamedTuple):
    """A network as a file has it.

    Attributes:
        convolutions: [Convolution], each after those that it reads.
        operations: the kinds of all nodes.
    """

    convolutions: list[Convolution]
    operations: set[str]


def graph(path):
    """Reads the Graph of a file.

    Raises:
        TorchError: it is no ONNX file whose convolutions have their weights, and a bias, inside.
    """
    try:
        content = memoryview(read_regular(path, LARGEST))
    except OSError as error:
        raise TorchError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        (message,) = [value for number, value in fields(content) if number == _GRAPH] or [b""]
        nodes, arrays = [], {}
        for number, value in fields(_bytes(message)):
            if number == _NODE:
                nodes.append(_node(value))
            elif number == _INITIALIZER:
                name, array = _array(value)
                arrays[name] = array
            if len(nodes) > MOST_NODES:
                raise TorchError(f"it has more than {MOST_NODES:,} nodes")
        if not nodes:
            raise TorchError("it has no nodes")
        return Graph(_convolutions(nodes, arrays), {node.kind for node in nodes})
    except (TorchError, ValueError) as error:
        raise TorchError(f"{path}: expected an ONNX file of a network, it does not read as one ({error})") from None


# --- its messages -----------------------------------------------------------------------------------------------------


def _bytes(value):
    if isinstance(value, int):
        raise TorchError("it has a number in the place of a message")
    return value


def _text(value):
    return bytes(_bytes(value)[:500]).decode("utf-8", "replace")


class _Node(NamedTuple):
    kind: str
    inputs: list[str]
    outputs: list[str]


def _node(message):
    kind, inputs, outputs = "", [], []
    for number, value in fields(_bytes(message)):
        if number == _INPUT:
            inputs.append(_text(value))
        elif number == _OUTPUT:
            outputs.append(_text(value))
        elif number == _OP_TYPE:
            kind = _text(value)
    return _Node(kind, inputs, outputs)


def _array(message):
    """(name, array) of a TensorProto; None for an array that holds no floats."""
    name, kind, shape, packed, raw, outside = "", 0, [], [], None, False
    for number, value in fields(_bytes(message)):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE:
            kind = value
        elif number == _FLOAT_DATA:
            packed.append(_bytes(value))
        elif number == _NAME:
            name = _text(value)
        elif number == _RAW_DATA:
            raw = _bytes(value)
        elif number == _LOCATION:
            outside = value == 1
    if kind not in FLOATS:
        return name, None
    if outside:
        raise TorchError(f"{printable(name)} lies in another file; export it into one")
    form = FLOATS[kind] if raw is not None else "<f4"
    content = raw if raw is not None else b"".join(packed)
    if len(shape) > 8 or math.prod(shape) * np.dtype(form).itemsize != len(content):
        raise TorchError(f"{printable(name)}: {len(content):,} bytes are not those of its shape")
    return name, np.frombuffer(content, form).astype("float32").reshape(shape)


def _varints(data):
    at, values = 0, []
    while at < len(data) and len(values) < 10:
        value, at = varint(data, at)
        values.append(value)
    return values


# --- the network ------------------------------------------------------------------------------------------------------


def _convolutions(nodes, arrays):
    found, sources = [], {}  # of each tensor that a node gives: the convolutions that it comes from
    for node in nodes:
        read = dict.fromkeys(index for name in node.inputs for index in sources.get(name, ()))
        read = tuple(sorted(read) if node.kind == "Add" else read)
        if node.kind == "Conv":
            if len(found) == MOST_CONVOLUTIONS:
                raise TorchError(f"it has more than {counted(MOST_CONVOLUTIONS, 'convolution')}")
            kernel, bias = (arrays.get(name) for name in (*node.inputs[1:3], None, None)[:2])
            if kernel is None or bias is None or kernel.ndim != 4 or bias.shape != kernel.shape[:1]:
                what = printable(", ".join(node.inputs))[:100]
                raise TorchError(
                    f"convolution {len(found)} ({what}) has no weights, or no bias; export it in evaluation mode"
                )
            found.append(Convolution(kernel, bias, read))
            read = (len(found) - 1,)
        sources |= dict.fromkeys(node.outputs, read)
    return found
