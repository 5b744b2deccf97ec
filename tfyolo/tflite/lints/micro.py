"""A microcontroller, by TensorFlow Lite Micro with all its kernels.

Facts of tensorflow/tflite-micro: the list of python/tflite_micro/python_ops_resolver.cc, which registers every kernel
(its all_ops_resolver is gone since 2023), and BATCH_MATMUL, DYNAMIC_UPDATE_SLICE and EMBEDDING_LOOKUP, which came in
2024; as it stood in 2026-11. Its kernels compute float32, int8 and int16; uint8 only comes in and goes out; no kernel
of int8 is for inputs of float32, as files of dynamic range have them. Memory is planned beforehand, so that no shape
may be open. Whether a network fits the memory of a chip is another question.
"""

from tfyolo.tflite.lints.rules import Table, Taken, same, static_shapes

_TYPES = frozenset({"float32", "int8", "int16"})
_ANY = _TYPES | {"uint8", "int32", "int64", "bool"}


def _not_hybrid(operator):
    is_float = any(each.type == "float32" for each in operator.computed)
    kernels = [each.type for each in operator.inputs if each is not None and each.data is not None]
    return "a kernel of int8 for inputs of float32" if is_float and "int8" in kernels else None


TABLE = Table(
    title="a microcontroller, by TensorFlow Lite Micro",
    types=_TYPES,
    rules=(static_shapes, _not_hybrid),
    operators={
        **same(
            "ABS ADD ADD_N AVERAGE_POOL_2D BATCH_MATMUL CEIL CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DIV"
        ),
        **same("ELU EMBEDDING_LOOKUP EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED HARD_SWISH L2_NORMALIZATION"),
        **same("L2_POOL_2D LEAKY_RELU LOG LOGISTIC LOG_SOFTMAX MAX_POOL_2D MEAN MIRROR_PAD NEG PRELU REDUCE_MAX RELU"),
        **same("RELU6 RESIZE_BILINEAR ROUND RSQRT SIN SOFTMAX SPACE_TO_DEPTH SQRT SQUARE SQUARED_DIFFERENCE SUM SVDF"),
        **same("TANH TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM"),
        **same(
            "ARG_MAX ARG_MIN ASSIGN_VARIABLE BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE", Taken(types=_ANY)
        ),
        **same("CAST CONCATENATION DEQUANTIZE DYNAMIC_UPDATE_SLICE EQUAL EXPAND_DIMS FILL GATHER", Taken(types=_ANY)),
        **same(
            "GATHER_ND GREATER GREATER_EQUAL IF LESS LESS_EQUAL LOGICAL_AND LOGICAL_NOT LOGICAL_OR", Taken(types=_ANY)
        ),
        **same("MAXIMUM MINIMUM MUL NOT_EQUAL PACK PAD PADV2 QUANTIZE READ_VARIABLE RESHAPE", Taken(types=_ANY)),
        **same(
            "RESIZE_NEAREST_NEIGHBOR SELECT_V2 SHAPE SLICE SPACE_TO_BATCH_ND SPLIT SPLIT_V SQUEEZE", Taken(types=_ANY)
        ),
        **same("STRIDED_SLICE SUB TRANSPOSE UNPACK VAR_HANDLE WHILE ZEROS_LIKE", Taken(types=_ANY)),
        **same("TFLite_Detection_PostProcess ethos-u", Taken(types=_ANY)),
    },
)
