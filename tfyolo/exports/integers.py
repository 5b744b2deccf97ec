"""full-int8 TFLite files, whose ranges are found in the file itself."""

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from tfyolo.devices import cores
from tfyolo.exports.convert import quantize_integers
from tfyolo.tflite.interpreter import interpreter


def to_full_integer(content, batches, *, per_channel=True):
    """A TFLite file whose every tensor is an integer, of one whose last part is float.

    The range of each float tensor is what it holds in images. TFLite's own calibrator does not do: it notes an
    operation's inputs after the operation, when one that was computed in place holds the output, and gives a small
    number the scale of a large one.

    Args:
        content: bytes of a file of fake quantization, its input uint8.
        batches: of images [B, H, W, 3] float32 0..1.
        per_channel: whether kernels have a scale for each output.

    Returns:
        The bytes of the file; its inputs and outputs are uint8.
    """
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (graph,) = file.subgraphs
    # What is dequantized has a scale already.
    computed = [operation for operation in graph.operators if not _dequantizes(file, operation)]
    made = [int(index) for operation in computed for index in operation.outputs]
    floats = [index for index in made if graph.tensors[index].type == schema.TensorType.FLOAT32]
    ranges = _ranges(content, floats, batches)
    for index in floats:
        graph.tensors[index].quantization = parameters = schema.QuantizationParametersT()
        parameters.min, parameters.max = ([float(bound)] for bound in ranges[index])
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(file))
    return quantize_integers(content, per_channel=per_channel)


def with_prelu(content):
    """A full-int8 TFLite file in which PRELU, with one slope for all channels, takes the place of LEAKY_RELU.

    Its outputs are the same to within a step. Coral's Edge TPU takes no LEAKY_RELU, and stops at the first; vela makes
    one of it again.

    Args:
        content: the bytes of the file.

    Returns:
        The bytes of the other.
    """
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (graph,) = file.subgraphs
    leaky = schema.BuiltinOperator.LEAKY_RELU
    operations = [each for each in graph.operators if file.operatorCodes[each.opcodeIndex].builtinCode == leaky]
    if not operations:
        return content
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.PRELU
    code.version = 1
    file.operatorCodes.append(code)
    slopes = {}  # {(slope, channels): number of its tensor}
    for operation in operations:
        slope, channels = operation.builtinOptions.alpha, graph.tensors[operation.inputs[0]].shape[-1]
        if (slope, channels) not in slopes:
            slopes[slope, channels] = _constant(file, f"slope{len(slopes)}", [slope] * int(channels))
        operation.inputs = [operation.inputs[0], slopes[slope, channels]]
        operation.opcodeIndex = len(file.operatorCodes) - 1
        operation.builtinOptionsType, operation.builtinOptions = schema.BuiltinOptions.NONE, None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file))


def _constant(file, name, values):
    """Adds an int8 tensor [1, 1, N] of N values, and gives its number."""
    scale = max(map(abs, values)) / 127 or 1.0
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.round(np.divide(values, scale)).astype("int8").view("uint8")
    file.buffers.append(buffer)
    tensor.name, tensor.type, tensor.shape = name, schema.TensorType.INT8, [1, 1, len(values)]
    tensor.buffer, tensor.quantization = len(file.buffers) - 1, schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    (graph,) = file.subgraphs
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _dequantizes(file, operation):
    return file.operatorCodes[operation.opcodeIndex].builtinCode == schema.BuiltinOperator.DEQUANTIZE


def _ranges(content, tensors, batches):
    """{tensor's number: (min, max)} of a TFLite file in images; 0 is always within."""
    running = interpreter(
        model_content=content,
        num_threads=cores(),
        delegates=False,  # which would hide what is inside
        experimental_preserve_all_tensors=True,
    )
    (taken,) = running.get_input_details()
    found = np.zeros((len(tensors), 2))
    for images in batches:
        numbers = np.round(255 * np.asarray(images)).astype("uint8")
        for i in range(0, len(numbers), taken["shape"][0]):
            at_once = np.resize(numbers[i : i + taken["shape"][0]], taken["shape"])
            running.set_tensor(taken["index"], at_once)
            running.invoke()
            values = [running.get_tensor(index) for index in tensors]
            found[:, 0] = np.minimum(found[:, 0], [value.min() for value in values])
            found[:, 1] = np.maximum(found[:, 1], [value.max() for value in values])
    return dict(zip(tensors, found.tolist(), strict=True))
