"""A TFLite file's operators and tensors, read from its flatbuffer alone: without TensorFlow, from any converter.

What must be safe to run is looked at by tflite.flatbuffer; this only reads, and of damaged bytes gives an error.
"""

import math
import os
import struct
from typing import NamedTuple

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from tfyolo.errors import Error
from tfyolo.files import read_bytes
from tfyolo.tflite.operators import ACTIVATIONS, NAMES, OPTIONS, PADDINGS, TYPES

_FLAGS = {
    "i1": number_types.Int8Flags,
    "u1": number_types.Uint8Flags,
    "i4": number_types.Int32Flags,
    "u4": number_types.Uint32Flags,
    "f4": number_types.Float32Flags,
}
_OPTIONS_SLOT = 4  # of an operator


class GraphError(Error):
    """Bytes are no TFLite file. The message says why."""


class Tensor(NamedTuple):
    """A tensor.

    Attributes:
        name: of the layer that it comes from.
        type: "float32", "int8", ...
        shape: its sides; 1 where is_dynamic leaves one open.
        is_dynamic: whether a side is only known at run time.
        data: the bytes of a constant; None where it is computed.
        scales: of its quantization, one or one a channel; empty for none.
        zero_points: the same.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    is_dynamic: bool = False
    data: np.ndarray | None = None
    scales: np.ndarray = np.empty(0, "f4")
    zero_points: np.ndarray = np.empty(0, "i8")

    @property
    def rank(self):
        """The number of its sides."""
        return len(self.shape)

    def numbers(self):
        """The values of a constant of whole numbers, as a list; None of any other tensor."""
        if self.data is None or self.type not in ("int32", "int64"):
            return None
        return self.data[: len(self.data) // 4 * 4].view("<i4" if self.type == "int32" else "<i8").tolist()


class Operator(NamedTuple):
    """An operator.

    Attributes:
        name: "CONV_2D"; of a custom one its own.
        version: the lowest version of its kernel that runs it.
        is_custom: whether it is none of TFLite's own.
        inputs: Tensors; None for an optional one that is left out.
        outputs: Tensors.
        options: {option: value} of those that operators.OPTIONS lists.
        reads, writes: numbers of the inputs and outputs, one numbering for all graphs of the file.
    """

    name: str
    version: int
    is_custom: bool
    inputs: tuple
    outputs: tuple
    options: dict
    reads: tuple = ()
    writes: tuple = ()

    @property
    def layer(self):
        """The name of its first output, which is that of the layer it comes from."""
        return self.outputs[0].name if self.outputs else ""

    @property
    def computed(self):
        """Its inputs that are no constants."""
        return [each for each in self.inputs if each is not None and each.data is None]

    @property
    def macs(self):
        """Multiplications with an addition each, of convolutions and products of matrices; of others none."""
        try:
            return _MACS[self.name](self) if self.name in _MACS else 0
        except (IndexError, AttributeError):  # it lacks an input, or its inputs sides
            return 0


def _size(tensor):
    return math.prod(tensor.shape)


# An output's value takes a kernel's values: of conv (O, H, W, I), of depthwise (1, H, W, O).
_MACS = {
    "CONV_2D": lambda each: _size(each.outputs[0]) * math.prod(each.inputs[1].shape[1:]),
    "DEPTHWISE_CONV_2D": lambda each: _size(each.outputs[0]) * math.prod(each.inputs[1].shape[1:3]),
    "FULLY_CONNECTED": lambda each: _size(each.outputs[0]) * each.inputs[1].shape[-1],
    "BATCH_MATMUL": lambda each: _size(each.outputs[0]) * each.inputs[0].shape[-1],
    "TRANSPOSE_CONV": lambda each: _size(each.inputs[2]) * math.prod(each.inputs[1].shape[:3]),
}


def read(file):
    """The Operators of a TFLite file, of all its graphs, in the order in which they run.

    Args:
        file: its path, or its bytes.

    Raises:
        GraphError: it is none.
        OSError: it cannot be read.
    """
    path = None if isinstance(file, bytes | bytearray | memoryview) else os.fspath(file)
    content = read_bytes(path) if path else bytes(file)
    try:
        if content[4:8] != b"TFL3":
            raise ValueError("it does not begin as one does")
        return _operators(content)
    # What flatbuffers, struct and NumPy say of numbers that lead out of the bytes.
    except (ValueError, IndexError, TypeError, struct.error, OverflowError) as error:
        raise GraphError(f"{path or 'bytes'}: expected a TFLite file, received something else ({error})") from error


def _operators(content):
    model = _Node(Table(content, int.from_bytes(content[:4], "little")))
    codes = [_code(each) for each in model.nodes(1)]
    buffers = model.nodes(4)
    found, before = [], 0
    for graph in model.nodes(2):
        tensors = [_tensor(each, buffers) for each in graph.nodes(0)]
        operators = graph.nodes(3)
        made = {number for each in operators for number in each.numbers(2, "i4").tolist()}
        made.update(graph.numbers(1, "i4").tolist())
        # What nobody computes is a constant, even one of no bytes, such as the shape of a scalar.
        tensors = [
            each if number in made or each.data is not None else each._replace(data=np.empty(0, "u1"))
            for number, each in enumerate(tensors)
        ]
        found += [_operator(each, codes, tensors, before) for each in operators]
        before += len(tensors)
    return found


def _code(node):
    # Numbers above 127 do not fit into the old field, which then holds 127.
    number = max(node.number(0, "i1"), node.number(3, "i4"))
    name = NAMES[number] if 0 <= number < len(NAMES) else f"operator {number}"
    is_custom = name == "CUSTOM"
    return node.text(1) if is_custom else name, node.number(2, "i4", 1), is_custom


def _tensor(node, buffers):
    shape, signature = (node.numbers(slot, "i4").tolist() for slot in (0, 7))
    number = node.number(1, "i1")
    steps = node.node(4)
    buffer = buffers[node.number(2, "u4")]
    held = buffer.numbers(0, "u1")
    is_constant = len(held) or buffer.number(2, "u4")  # a file above 2 GB has its constants behind the flatbuffer
    return Tensor(
        node.text(3),
        TYPES[number] if 0 <= number < len(TYPES) else f"type {number}",
        tuple(shape),
        -1 in signature or -1 in shape,
        held if is_constant else None,
        *((steps.numbers(2, "f4"), steps.numbers(3, "i8")) if steps else ()),
    )


def _operator(node, codes, tensors, before):
    name, version, is_custom = codes[node.number(0, "u4")]
    reads, writes = (node.numbers(slot, "i4").tolist() for slot in (1, 2))
    options = node.node(_OPTIONS_SLOT)
    values = {
        option: options.number(*where) if options else where[2] for option, where in OPTIONS.get(name, {}).items()
    }
    for option, names in (("activation", ACTIVATIONS), ("padding", PADDINGS)):
        if option in values:
            values[option] = names[values[option]]
    return Operator(
        name,
        version,
        is_custom,
        tuple(None if number < 0 else tensors[number] for number in reads),
        tuple(tensors[number] for number in writes),
        values,
        tuple(before + number for number in reads if number >= 0),
        tuple(before + number for number in writes),
    )


class _Node:
    """A table of the flatbuffer, whose fields are asked by their slots."""

    def __init__(self, table):
        self.table = table

    def _offset(self, slot):
        return self.table.Offset(4 + 2 * slot)

    def number(self, slot, kind, default=0):
        offset = self._offset(slot)
        return self.table.Get(_FLAGS[kind], self.table.Pos + offset) if offset else default

    def text(self, slot):
        offset = self._offset(slot)
        return self.table.String(self.table.Pos + offset).decode("utf-8", "replace") if offset else ""

    def node(self, slot):
        offset = self._offset(slot)
        return _Node(Table(self.table.Bytes, self.table.Indirect(self.table.Pos + offset))) if offset else None

    def numbers(self, slot, kind):
        offset = self._offset(slot)
        if not offset:
            return np.empty(0, kind)
        return np.frombuffer(self.table.Bytes, f"<{kind}", self.table.VectorLen(offset), self.table.Vector(offset))

    def nodes(self, slot):
        offset = self._offset(slot)
        if not offset:
            return []
        start, count = self.table.Vector(offset), self.table.VectorLen(offset)
        if count > len(self.table.Bytes) // 4:
            raise ValueError(f"{count} tables in {len(self.table.Bytes)} bytes")
        return [_Node(Table(self.table.Bytes, self.table.Indirect(start + 4 * i))) for i in range(count)]
