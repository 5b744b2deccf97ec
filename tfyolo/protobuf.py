"""Messages of protocol buffers, read and written without a schema: an ONNX file is one.

A message is a row of fields, each a number, a type and a value. Every length is checked against what is there before it
is used.
"""


class ProtobufError(ValueError):
    """The bytes are no message of protocol buffers."""


def varint(data, at):
    """Reads an unsigned number of variable length.

    Args:
        data: bytes.
        at: where it begins.

    Returns:
        (the number, where it ends).

    Raises:
        ProtobufError: it does not end.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ProtobufError("it ends, or goes on, within a number")


def fields(data):
    """Reads the fields of a message, one after the other.

    Args:
        data: a memoryview of its bytes.

    Yields:
        (number, value): the value is a number, or a memoryview of bytes.

    Raises:
        ProtobufError: it is none.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            if kind == 2:
                size, at = varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ProtobufError(f"it has a field of type {kind}")
            if size > len(data) - at:
                raise ProtobufError("it ends within a field")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def field(number, value):
    """The bytes of a field that holds bytes.

    Args:
        number: of the field.
        value: bytes.
    """
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value):
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])
