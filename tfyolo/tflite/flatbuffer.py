"""Whether the bytes of a TFLite file are one: what the interpreter follows without looking is looked at before it does.

The layout is that of FlatBuffers (https://flatbuffers.dev/internals), what stands in it that of TFLite's schema.fbs.
"""

import math

import numpy as np

from tfyolo.errors import Error
from tfyolo.tflite.operators import TYPES


class FlatbufferError(Error):
    """Bytes are no TFLite file that can be run. The message says where."""


# What a table holds at its slots: {table: {field: (slot, kind)}}. A kind is a number's type, "string", a table's name,
# or a list of one of them, for a vector. None: nothing may be there, since this package's files have none. What is not
# named is a number that leads nowhere.
_TABLES = {
    "Model": {
        "operator_codes": (1, ["OperatorCode"]),
        "subgraphs": (2, ["SubGraph"]),
        "description": (3, "string"),
        "buffers": (4, ["Buffer"]),
        "metadata_buffer": (5, ["i4"]),
        "metadata": (6, ["Metadata"]),
        "signatures": (7, ["Signature"]),
        "external_buffer_groups": (8, None),
        "external_buffers": (9, None),
    },
    "OperatorCode": {"custom_code": (1, "string")},
    "SubGraph": {
        "tensors": (0, ["Tensor"]),
        "inputs": (1, ["i4"]),
        "outputs": (2, ["i4"]),
        "operators": (3, ["Operator"]),
        "name": (4, "string"),
    },
    "Tensor": {
        "shape": (0, ["i4"]),
        "type": (1, "i1"),
        "buffer": (2, "u4"),
        "name": (3, "string"),
        "quantization": (4, "Quantization"),
        "is_variable": (5, "u1"),
        "sparsity": (6, None),
        "shape_signature": (7, ["i4"]),
        "variant_tensors": (9, None),
        "external_buffer": (10, None),
    },
    "Quantization": {
        "min": (0, ["f4"]),
        "max": (1, ["f4"]),
        "scale": (2, ["f4"]),
        "zero_point": (3, ["i8"]),
        "details": (5, None),
        "dimension": (6, "i4"),
    },
    "Operator": {
        "opcode": (0, "u4"),
        "inputs": (1, ["i4"]),
        "outputs": (2, ["i4"]),
        "options_type": (3, "u1"),
        "custom_options": (5, ["u1"]),
        "mutating_variable_inputs": (7, ["u1"]),
        "intermediates": (8, ["i4"]),
        "large_custom_options": (9, None),
        "options_2": (12, None),
    },
    "Buffer": {"data": (0, ["u1"]), "offset": (1, None), "size": (2, None)},
    "Metadata": {"name": (0, "string"), "buffer": (1, "u4")},
    "Signature": {
        "inputs": (0, ["TensorMap"]),
        "outputs": (1, ["TensorMap"]),
        "key": (2, "string"),
        "subgraph": (4, "u4"),
    },
    "TensorMap": {"name": (0, "string"), "tensor": (1, "u4")},
    # Of an operator's options these lead on, all others are numbers.
    "Options": {},
    "OptionsOfVector": {"vector": (0, ["i4"])},
}
_OPTIONS_SLOT = 4  # of an operator
# Numbers of BuiltinOptions, which a test compares with TensorFlow's reading of the schema: those of Reshape and
# Squeeze, whose first field is a vector, and those of ConcatEmbeddings and Bucketize, which have several.
_OF_VECTOR = (17, 30)
_OF_SEVERAL = (3, 115)
# Bytes of an element of a tensor; strings and handles, which the package's files do not have, are missing.
_BYTES = {
    TYPES.index(name): size
    for size, names in {
        1: ("bool", "int8", "uint8"),
        2: ("float16", "bfloat16", "int16", "uint16"),
        4: ("float32", "int32", "uint32"),
        8: ("float64", "int64", "uint64"),
    }.items()
    for name in names
}
_LARGEST = 1 << 31  # bytes of a tensor that the interpreter is let allocate


def check(content):
    """Raises FlatbufferError unless all that the interpreter would follow lies inside the bytes and fits together.

    Every table, vector and string; numbers of tensors, buffers, operators and graphs; constants against their shapes;
    and that what an operator reads was made before. Whether an operator's options make sense is the interpreter's to
    say.

    Args:
        content: the bytes, or a view of them, without what is appended to them.
    """
    if bytes(content[4:8]) != b"TFL3":
        raise FlatbufferError("it does not begin as a TFLite file does")
    model = _Reader(content).root()
    buffers = model["buffers"]
    for entry in model["metadata"]:
        _check_index(entry["buffer"], buffers, "a buffer")
    for number in model["metadata_buffer"]:
        _check_index(number, buffers, "a buffer")
    for graph in model["subgraphs"]:
        _check_graph(graph, buffers, model["operator_codes"])
    for signature in model["signatures"]:
        _check_index(signature["subgraph"], model["subgraphs"], "a graph")
        graph = model["subgraphs"][signature["subgraph"]]
        for each in (*signature["inputs"], *signature["outputs"]):
            _check_index(each["tensor"], graph["tensors"], "a tensor")


def _check_graph(graph, buffers, codes):
    tensors = graph["tensors"]
    known = {number for number, tensor in enumerate(tensors) if _check_tensor(tensor, buffers)}
    constants = frozenset(known)
    for number in (*graph["inputs"], *graph["outputs"]):
        _check_index(number, tensors, "a tensor")
    known.update(graph["inputs"].tolist())
    for operator in graph["operators"]:
        _check_index(operator["opcode"], codes, "an operator's code")
        for number in operator["inputs"].tolist():
            if number != -1 and number not in known:  # -1: an optional one that is left out
                raise FlatbufferError(f"tensor {number} is read before it is there")
        for number in (*operator["outputs"].tolist(), *operator["intermediates"].tolist()):
            _check_index(number, tensors, "a tensor")
            if number in constants:
                raise FlatbufferError(f"tensor {number} is a constant, and written")
        known.update(operator["outputs"].tolist())
    if missing := set(graph["outputs"].tolist()) - known:
        raise FlatbufferError(f"tensor {min(missing)} is given out and never there")


def _check_tensor(tensor, buffers):
    """Whether it is there from the beginning: a constant or a variable."""
    _check_index(tensor["buffer"], buffers, "a buffer")
    if tensor["type"] not in _BYTES:
        raise FlatbufferError(f"a tensor of type {tensor['type']}, which none of this package's has")
    shape = tensor["shape"].tolist()
    size = math.prod(shape) * _BYTES[tensor["type"]]
    if min(shape, default=1) < 0 or size > _LARGEST:
        raise FlatbufferError(f"a tensor of shape {shape}")
    held = len(buffers[tensor["buffer"]]["data"])
    if held and held != size:
        raise FlatbufferError(f"a constant of {held} bytes, where its shape {shape} takes {size}")
    steps = tensor["quantization"]
    if steps:
        scales, zeros = len(steps["scale"]), len(steps["zero_point"])
        per_channel = scales > 1
        if zeros not in (0, scales) and scales:
            raise FlatbufferError(f"{scales} scales with {zeros} zero points")
        if per_channel and not (0 <= steps["dimension"] < len(shape) and shape[steps["dimension"]] == scales):
            raise FlatbufferError(f"{scales} scales of a tensor of shape {shape}")
    return bool(held or tensor["is_variable"])


def _check_index(number, among, what):
    if not 0 <= number < len(among):
        raise FlatbufferError(f"{what} of number {number}, where {len(among)} are there")


class _Reader:
    """Reads tables into {field: value}: a number, the bytes of a string, an array, a table, a list of tables.

    What is left out is 0 or empty.
    """

    def __init__(self, content):
        self.content, self.read = content, {}
        self.left = len(content) // 4  # offsets that there can be: of hostile ones several tables share their bytes

    def root(self):
        return self._table(self._number("u4", 0), "Model")

    def _array(self, dtype, at, count):
        """The numbers at a place: every look into the bytes is one of these."""
        if at < 0 or at + count * np.dtype(dtype).itemsize > len(self.content):
            raise FlatbufferError(f"{count} numbers at byte {at}, where the file has {len(self.content)}")
        return np.frombuffer(self.content, f"<{dtype}", count, at)

    def _number(self, dtype, at):
        return self._array(dtype, at, 1)[0].item()

    def _table(self, at, name):
        if (at, name) not in self.read:
            slots = self._slots(at)
            table = {field: self._field(slots.get(slot), kind) for field, (slot, kind) in _TABLES[name].items()}
            if name == "Operator":
                self._check_options(slots.get(_OPTIONS_SLOT), table["options_type"])
            self.read[at, name] = table
        return self.read[at, name]

    def _slots(self, at):
        """{slot: where its value stands} of a table."""
        vtable = at - self._number("i4", at)
        length, size = self._array("u2", vtable, 2).tolist()
        self._array("u1", at, size)
        if length < 4 or length % 2:
            raise FlatbufferError(f"a list of slots of {length} bytes at byte {vtable}")
        offsets = self._array("u2", vtable + 4, length // 2 - 2).tolist()
        if offsets and max(offsets) >= max(size, 1):
            raise FlatbufferError(f"a slot beyond the {size} bytes of the table at byte {at}")
        return {slot: at + offset for slot, offset in enumerate(offsets) if offset}

    def _field(self, at, kind):
        if kind is None:
            if at is not None:
                raise FlatbufferError(f"a field at byte {at} that none of this package's files has")
            return None
        if isinstance(kind, list):
            return self._vector(at, *kind)
        if kind == "string":
            return bytes(self._vector(at, "u1"))
        if kind in _TABLES:
            return None if at is None else self._table(at + self._number("u4", at), kind)
        return 0 if at is None else self._number(kind, at)

    def _vector(self, at, kind):
        if at is None:
            return [] if kind in _TABLES else np.empty(0, kind)
        at += self._number("u4", at)
        count = self._number("u4", at)
        if kind not in _TABLES:
            return self._array(kind, at + 4, count)
        self.left -= count
        if self.left < 0:
            raise FlatbufferError("more tables than it has bytes for")
        offsets = self._array("u4", at + 4, count).tolist()
        return [self._table(at + 4 + 4 * i + offset, kind) for i, offset in enumerate(offsets)]

    def _check_options(self, at, kind):
        if kind in _OF_SEVERAL:
            raise FlatbufferError(f"options of type {kind}, which none of this package's operators has")
        if at is not None:
            self._field(at, "OptionsOfVector" if kind in _OF_VECTOR else "Options")
