"""Coral's Edge TPU, by its compiler (edgetpu_compiler 16, runtime 14, the last ones).

Facts of coral.ai/docs/edgetpu/models-intro, "Supported operations" (its list of 2021, as the page stood in 2026-11, and
the copy of it that Axis keeps for ARTPEC-7), and of the compiler's logs in google-coral/edgetpu's issues 187, 206 and
420: it refuses version 3 of the resizes, which a half-pixel centre or aligned corners make of them.

It runs one part of the graph: whatever depends on an operator that it does not take stays on the CPU too. It may leave
out more: a reshape or a resize of large tensors, and whole graphs of large feature maps; no table tells.
"""

from tfyolo.tflite.lints.rules import (
    Table,
    Taken,
    equal_options,
    no_activation,
    not_along_batch,
    option_is,
    same,
    static_shapes,
)

_MOST_SOFTMAX = 16_000  # values


def _three_sides(operator):
    """Only the last three sides of a tensor may be longer than 1."""
    tensors = (*operator.computed, *operator.outputs)
    wide = next((each.shape for each in tensors if any(side > 1 for side in each.shape[:-3])), None)
    return f"{list(wide)}, where only the last 3 sides may be longer than 1" if wide else None


def _zeros(operator):
    """A constant that is joined is a padding of zeros to one other tensor."""
    constants = [each for each in operator.inputs if each.data is not None]
    if not constants or (len(operator.inputs) == 2 and not any(each.data.any() for each in constants)):
        return None
    return "a constant among what is joined"


def _flat_output(operator):
    sides = operator.outputs[0].shape
    return None if all(side == 1 for side in sides[:-1]) else f"an output of {list(sides)}, where it takes one row"


def _fours(operator):
    """A reduction along the channels has a multiple of 4 of them."""
    data, axes = operator.inputs[0], operator.inputs[1].numbers() or []
    along = any(axis in (data.rank - 1, -1) for axis in axes)
    return f"along {data.shape[-1]} channels, where it takes multiples of 4" if along and data.shape[-1] % 4 else None


def _one_row(operator):
    sides = operator.inputs[0].shape
    if any(side > 1 for side in sides[:-1]):
        return f"of {list(sides)}, where it takes one row"
    return f"of {sides[-1]} values, where it takes up to {_MOST_SOFTMAX}" if sides[-1] > _MOST_SOFTMAX else None


def _by_ones(operator):
    strides = operator.inputs[3].numbers() if len(operator.inputs) > 3 else None
    return None if strides is not None and all(each == 1 for each in strides) else "strides other than 1"


def _batch_unpadded(operator):
    paddings = operator.inputs[1].numbers()
    if paddings is None:
        return "paddings that are computed"
    return "along the batch" if any(paddings[:2]) else None


def _alpha_per_channel(operator):
    return "an alpha of several sides" if any(side > 1 for side in operator.inputs[1].shape[:-1]) else None


_RESIZED = Taken(2, rules=(option_is(0, "align_corners"), option_is(0, "half_pixel_centers")))
_DILATED = Taken(rules=(equal_options("dilation_w", "dilation_h"),))
_REDUCED = Taken(rules=(not_along_batch(1),))

TABLE = Table(
    title="Coral's Edge TPU",
    types=frozenset({"int8", "uint8"}),
    rules=(static_shapes, _three_sides),
    parts="first",
    operators={
        **same(
            "ADD EXPAND_DIMS L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM MUL QUANTIZE RELU RELU6 RELU_N1_TO_1 RESHAPE"
        ),
        **same("RSQRT SLICE SPACE_TO_DEPTH SQUARED_DIFFERENCE SQUEEZE SUB TANH TRANSPOSE TRANSPOSE_CONV"),
        **same("AVERAGE_POOL_2D MAX_POOL_2D", Taken(rules=(no_activation,))),
        "CONCATENATION": Taken(rules=(no_activation, _zeros)),
        **same("CONV_2D DEPTHWISE_CONV_2D", _DILATED),
        "FULLY_CONNECTED": Taken(rules=(option_is(0, "weights_format"), _flat_output)),
        "MEAN": Taken(rules=(not_along_batch(1), _fours)),
        **same("REDUCE_MAX REDUCE_MIN SUM", _REDUCED),
        "PACK": Taken(rules=(lambda each: "along the batch" if each.options["axis"] == 0 else None,)),
        "PAD": Taken(rules=(_batch_unpadded,)),
        "PRELU": Taken(rules=(_alpha_per_channel,)),
        **same("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _RESIZED),
        "SOFTMAX": Taken(rules=(_one_row,)),
        "SPLIT": Taken(rules=(not_along_batch(0, data=1),)),
        "STRIDED_SLICE": Taken(rules=(_by_ones, option_is(0, "ellipsis_mask", "new_axis_mask"))),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": Taken(),
    },
)
