"""The GPU of a phone, by the GPU delegate of TFLite and LiteRT: OpenCL, OpenGL and Metal read a graph in the same way.

Facts of google-ai-edge/LiteRT, tflite/delegates/gpu/common/model_builder.cc (the operators, the versions, the types,
rank 4 at most) and tflite/tools/versioning/gpu_compatibility.cc (what each of them asks), as they stood in 2026-11;
batches of one are what its documentation promises. By default it runs one part of the graph, the largest, and takes
int8 and uint8 tensors too, which it computes as floats. It takes a comparison only where a CAST or a SELECT reads it:
that is not looked at here. An app that brings an older delegate has an older table.
"""

from tfyolo.tflite.lints.rules import Table, Taken, constant, option_is, rank_at_most, same, static_shapes

_FLOATS = frozenset({"float32", "float16"})
_QUANTIZED = frozenset({"int8", "uint8"})
_TYPES = _FLOATS | _QUANTIZED


def _batch_of_one(operator):
    first = [each for each in operator.computed if each.rank == 4]
    return f"batch {first[0].shape[0]}" if first and first[0].shape[0] > 1 and operator.name in _OF_IMAGES else None


_OF_IMAGES = ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR",
              "RESIZE_BILINEAR", "TRANSPOSE_CONV")  # fmt: skip


def _one_computed(operator):
    return f"{len(operator.computed)} computed inputs, where it takes 1" if len(operator.computed) != 1 else None


def _one_or_two_computed(operator):
    return None if len(operator.computed) in (1, 2) and len(operator.inputs) == 2 else "constants alone"


def _broadcast(operator):
    """Two tensors of several sides have as many, or 3 beside [1, H, W, C], or [1, 1], or the batch and channels."""
    longer, shorter = sorted((each.shape for each in operator.inputs), key=len, reverse=True)
    if len(shorter) < 2 or len(longer) == len(shorter):
        return None
    fits = len(longer) == 4 and (
        (len(shorter) == 3 and longer[0] == 1)
        or (longer[0] == 1 and shorter == (1, 1))
        or (len(shorter) == 2 and shorter == (longer[0], longer[3]))
    )
    return None if fits else f"broadcasting {list(shorter)} to {list(longer)}"


def _rank_3_or_4(operator):
    rank = operator.inputs[0].rank
    return None if rank in (3, 4) else f"rank {rank}, where it takes 3 and 4"


def _forward(operator):
    strides = operator.inputs[3].numbers() if len(operator.inputs) > 3 else None
    return "strides that are negative or computed" if strides is None or min(strides, default=1) < 1 else None


def _paddings(operator):
    return None if operator.inputs[1].shape in ((3, 2), (4, 2)) else "paddings of other than 3 or 4 sides"


def _same_rank(operator):
    is_kept = operator.inputs[0].rank == operator.outputs[0].rank or not operator.options["keep_num_dims"]
    return None if is_kept else "keep_num_dims with other sides"


def _weights_of_two_sides(operator):
    weights = operator.inputs[1]
    return None if weights.data is None or weights.rank == 2 else "constant weights of more than 2 sides"


def _indices(operator):
    indices = operator.inputs[1]
    return None if (indices.type, indices.rank) == ("int32", 1) else "indices other than a list of int32"


def _not_int16(operator):
    return "int16" if operator.inputs[0].type == "int16" else None


def _beta(operator):
    return None if operator.options["beta"] == 1 else f"beta {operator.options['beta']}"


def _one_centre(operator):
    both = operator.options["align_corners"] and operator.options["half_pixel_centers"]
    return "align_corners with half_pixel_centers" if both else None


_BOOL = frozenset({"bool"})
_UNARY = "ABS COS ELU EXP FLOOR GELU LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH"
_BINARY = "DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB"
_COMPARISONS = "EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL"
_AXES = (_one_computed, constant(1))

TABLE = Table(
    title="a phone's GPU, by LiteRT's GPU delegate",
    types=_TYPES,
    rules=(rank_at_most(4), static_shapes, _batch_of_one),
    parts="largest",
    operators={
        **same(_UNARY, Taken(2, rules=(_one_computed,))),
        **same(_BINARY, Taken(2, rules=(_one_or_two_computed,))),
        **same(_COMPARISONS, Taken(2, _TYPES | _BOOL, (_one_or_two_computed,))),
        "LOGICAL_AND": Taken(2, _BOOL, (_one_or_two_computed,)),
        "ADD": Taken(2, rules=(_one_or_two_computed, _broadcast)),
        "ADD_N": Taken(2, rules=(_one_or_two_computed,)),
        "MUL": Taken(3, rules=(_one_or_two_computed, _broadcast)),
        "CONV_2D": Taken(6),
        "DEPTHWISE_CONV_2D": Taken(6),
        "TRANSPOSE_CONV": Taken(3),
        "FULLY_CONNECTED": Taken(9, rules=(option_is(0, "weights_format"), _same_rank)),
        "BATCH_MATMUL": Taken(rules=(_weights_of_two_sides,)),
        "AVERAGE_POOL_2D": Taken(2),
        "MAX_POOL_2D": Taken(2),
        "CONCATENATION": Taken(2),
        "DEQUANTIZE": Taken(3, rules=(_not_int16,)),
        "QUANTIZE": Taken(2),
        "HARD_SWISH": Taken(rules=(_one_computed,)),
        **same("RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 LEAKY_RELU", Taken(2)),
        "PRELU": Taken(1),
        "RESHAPE": Taken(1, rules=(_one_computed,)),
        "RESIZE_BILINEAR": Taken(3, rules=(_one_computed, _one_centre)),
        "RESIZE_NEAREST_NEIGHBOR": Taken(3, rules=(_one_computed,)),
        "SLICE": Taken(2, rules=(_rank_3_or_4, constant(1, 2))),
        "STRIDED_SLICE": Taken(
            4, rules=(_rank_3_or_4, _forward, option_is(0, "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"))
        ),
        "SOFTMAX": Taken(2, rules=(_beta,)),
        "SPLIT": Taken(rules=(constant(0),)),
        "SPLIT_V": Taken(rules=(constant(1, 2),)),
        **same("PAD PADV2", Taken(2, rules=(_one_computed, _paddings))),
        "MIRROR_PAD": Taken(2, rules=(_one_computed, _paddings, option_is(0, "mode"))),
        **same("MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD", Taken(rules=_AXES)),
        "SPACE_TO_DEPTH": Taken(2),
        "DEPTH_TO_SPACE": Taken(),
        "TILE": Taken(rules=(_one_computed,)),
        "TRANSPOSE": Taken(4, rules=(_one_computed,)),
        "CUMSUM": Taken(1, _FLOATS, (constant(1),)),
        "GATHER": Taken(1, _TYPES | {"int32"}, (_indices,)),
        "CAST": Taken(types=frozenset({"float32", "int32", "bool", "float16"})),
        "ONE_HOT": Taken(1, _TYPES | {"int32"}),
        **same("SELECT SELECT_V2", Taken(1, _TYPES | _BOOL)),
        **same("PACK UNPACK LSTM"),
        **same("Convolution2DTransposeBias MaxPoolingWithArgmax2D MaxUnpooling2D Resampler"),
    },
)
