"""Arm's Ethos-U55 and U65, by their compiler: what vela does not take runs on the microcontroller beside them.

Facts of `vela --supported-ops-report` of ethos-u-vela 5.2.0 (Arm, 2026), its summary and constraints of "Ethos-U55 and
Ethos-U65 TFLite". A test compares this table with vela itself where that is installed. Not looked at: the sum of a
kernel's absolute weights (at most 8,323,072), which no kernel of ours comes near, and the gates of an LSTM. The U85
takes more.
"""

import itertools

from tfyolo.tflite.lints.rules import Table, Taken, constant, product, same, static_shapes

_SMALL = frozenset({"int8", "uint8", "int16"})
_WIDE = _SMALL | {"int32"}
_MOST = 1 << 16
_MOST_DEPTH = 127  # of an argmax
_MOST_AXIS = 4096  # of a mean, less one
_MOST_REDUCED = {"int8": 1 << 24, "uint8": 1 << 23, "int16": 1 << 16}
_MOST_INT64_BIAS = 1_099_511_627_775
_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_UNSCALED = ("ARG_MAX", "EXPAND_DIMS", "MIRROR_PAD", "PAD", "PADV2", "QUANTIZE", "TRANSPOSE")


def _quantized(operator):
    """Every tensor has a scale above 0, one alone but for kernels."""
    if operator.name in _UNSCALED:
        return None
    tensors = [*operator.computed, *operator.outputs]
    if operator.name in _KERNELS:
        tensors.append(operator.inputs[1])
    # The report asks it of int32, too; vela itself does not.
    if any(len(each.scales) == 0 and each.type != "int32" for each in tensors):
        return "a tensor without quantization"
    if any((each.scales <= 0).any() for each in tensors):
        return "a scale of 0"
    return "a scale for each channel" if operator.name not in _KERNELS and _per_channel(tensors) else None


def _per_channel(tensors):
    return any(len(each.scales) > 1 for each in tensors)


def _zero_points(operator):
    tensors = (*operator.computed, *operator.outputs)
    wrong = any(each.type == "int32" and each.zero_points.any() for each in tensors)
    return "int32 with a zero point" if wrong else None


def _kernel(operator):
    """A kernel of 8 bits, and a bias that is a constant of int32 or int64."""
    weights = operator.inputs[1]
    if weights.data is None and operator.name != "FULLY_CONNECTED":
        return "a kernel that is computed"
    if weights.type not in ("int8", "uint8"):
        return f"a kernel of {weights.type}"
    place = 3 if operator.name == "TRANSPOSE_CONV" else 2
    bias = operator.inputs[place] if place < len(operator.inputs) else None
    if bias is None:
        return None
    if bias.data is None or bias.type not in ("int32", "int64"):
        return "a bias that is no constant of int32 or int64"
    is_large = bias.type == "int64" and any(abs(each) >= _MOST_INT64_BIAS for each in bias.numbers())
    return "a bias beyond 40 bits" if is_large else None


def _stride(operator):
    """A long stride needs a kernel that is not dilated and an input that is not padded."""
    asked = operator.options
    is_plain = asked["padding"] == "VALID" and asked.get("dilation_h", 1) == asked.get("dilation_w", 1) == 1
    longest = max(asked["stride_h"], asked["stride_w"])
    return f"stride {longest} with padding or dilation" if longest > 3 and not is_plain else None


def _stride_to_3(operator):
    longest = max(operator.options["stride_h"], operator.options["stride_w"])
    return f"stride {longest}, where it takes up to 3" if longest > 3 else None


def _window(operator):
    height, width = operator.options["kernel_h"], operator.options["kernel_w"]
    if operator.name == "AVERAGE_POOL_2D" and operator.options["padding"] == "SAME":
        return f"a window of {height} x {width}, where it takes 8 x 8 with padding" if max(height, width) > 8 else None
    return f"a window of {height} x {width}" if height > 256 or height * width > _MOST else None


def _resized(operator):
    """It doubles, quadruples or octuples both sides, or repeats one value."""
    before, after = operator.inputs[0].shape, operator.outputs[0].shape
    if len(before) != 4 or before == after or before[1] == before[2] == 1:
        return None
    less = 1 if operator.options["align_corners"] else 0
    factors = [(to - less, by - less) for to, by in zip(after[1:3], before[1:3], strict=True)]
    by = [to / of if of and to % of == 0 else 0 for to, of in factors]
    if by[0] != by[1] and not any(side == 1 and to == 1 for side, to in zip(before[1:3], after[1:3], strict=True)):
        return f"sides that grow by {factors[0][0]}/{factors[0][1]} and {factors[1][0]}/{factors[1][1]}"
    allowed = (2,) if operator.options["half_pixel_centers"] and operator.name == "RESIZE_BILINEAR" else (2, 4, 8)
    factor = max(by)
    return (
        None if factor in allowed else f"{before[1]} to {after[1]}, where it takes {', '.join(map(str, allowed))} times"
    )


def _same_steps(operator):
    """Inputs have the output's scale and zero point."""
    output = operator.outputs[0]
    tensors = [each for each in operator.inputs if each is not None]
    is_same = all(
        each.scales.tolist() == output.scales.tolist() and each.zero_points.tolist() == output.zero_points.tolist()
        for each in tensors
    )
    return None if is_same else "scales of its inputs other than its output's"


def _same_shape(operator):
    return None if operator.inputs[0].shape == operator.outputs[0].shape else "shapes that differ"


def _mean(operator):
    data, axes = operator.inputs[0], operator.inputs[1].numbers()
    if axes is None:
        return "axes that are computed"
    sides = [data.shape[axis] for axis in axes]
    if data.rank == 4 and data.shape[0] != 1:
        return f"batch {data.shape[0]}"
    if max(sides, default=0) >= _MOST_AXIS or product(sides) > _MOST_REDUCED.get(data.type, 0):
        return f"along {' x '.join(map(str, sides))} values"
    along_channels = any(axis in (data.rank - 1, -1) for axis in axes)
    return "along channels" if along_channels and 1 not in data.shape[-3:] and data.rank > 2 else None


def _soft(operator):
    size = product(operator.inputs[0].shape[-3:-1])
    return f"of {size} places, where it takes fewer than {_MOST}" if size >= _MOST else None


def _last_axis(operator):
    data, axes = operator.inputs[0], operator.inputs[1].numbers()
    if axes is None or axes[0] not in (-1, data.rank - 1):
        return "along another axis than the channels"
    return f"of {data.shape[-1]} channels, where it takes up to {_MOST_DEPTH}" if data.shape[-1] > _MOST_DEPTH else None


def _forward(operator):
    strides = operator.inputs[3].numbers() if len(operator.inputs) > 3 else None
    return "strides that are negative" if strides is not None and min(strides, default=1) < 0 else None


def _multiplied(operator):
    if any(each.type != "int8" for each in operator.computed):
        return "other than int8"
    sides = (operator.inputs[0].shape[-1], operator.outputs[0].shape[-1])
    return f"{max(sides)} channels" if max(sides) > _MOST else None


def _dense(operator):
    return _multiplied(operator) if operator.inputs[1].data is None else None


def _transposed(operator):
    """All but two sides, whichever, make at most 65,536; of three sides that change places each does."""
    data, order = operator.inputs[0], operator.inputs[1].numbers()
    if order is None:
        return "an order that is computed"
    if data.type == "int32":
        is_taken = data.rank <= 4 and max(data.shape, default=1) <= _MOST
        return None if is_taken else "int32 of large sides"
    if data.rank > 8:
        return f"rank {data.rank}"
    if order == sorted(order) or (product(data.shape[:-3]) == 1 and max(data.shape[-3:], default=1) <= _MOST):
        return None
    rest = max((product(sides) for sides in itertools.combinations(data.shape, data.rank - 2)), default=1)
    return f"{list(data.shape)}, too large to transpose" if rest > _MOST else None


def _doubled(operator):
    """A transposed convolution's stride is 1 or 2, and its output as long as its padding says."""
    asked, (kernel, data) = operator.options, operator.inputs[1:3]
    strides = [asked["stride_h"], asked["stride_w"]]
    if strides not in ([1, 1], [2, 2]) and not (
        (strides == [1, 2] and data.shape[1] == kernel.shape[1] == 1)
        or (strides == [2, 1] and data.shape[2] == kernel.shape[2] == 1)
    ):
        return f"stride {strides[0]} x {strides[1]}"
    more = [0 if asked["padding"] == "SAME" else kernel.shape[i + 1] - strides[i] for i in (0, 1)]
    expected = [data.shape[i + 1] * strides[i] + more[i] for i in (0, 1)]
    return None if list(operator.outputs[0].shape[1:3]) == expected else "an output of other sides"


TABLE = Table(
    title="Arm's Ethos-U55 and U65, by vela",
    types=_SMALL,
    rules=(static_shapes, _quantized, _zero_points),
    operators={
        **same("ADD EXPAND_DIMS MUL NEG RESHAPE SQUEEZE SUB SUM", Taken(types=_WIDE)),
        **same("ABS CONCATENATION EXP HARD_SWISH LEAKY_RELU LOGISTIC PACK PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU"),
        **same("RELU6 RELU_0_TO_1 RELU_N1_TO_1 REVERSE_V2 SPLIT SPLIT_V SQUARED_DIFFERENCE TANH TILE UNPACK"),
        **same("PAD PADV2", Taken(rules=(constant(1),))),
        "MIRROR_PAD": Taken(types=_WIDE, rules=(constant(1),)),
        **same("CONV_2D", Taken(rules=(_kernel, _stride))),
        "DEPTHWISE_CONV_2D": Taken(rules=(_kernel, _stride_to_3)),
        "TRANSPOSE_CONV": Taken(rules=(_kernel, _doubled)),
        "FULLY_CONNECTED": Taken(types=_WIDE, rules=(_kernel, _dense)),
        "BATCH_MATMUL": Taken(types=_WIDE, rules=(_multiplied,)),
        **same("AVERAGE_POOL_2D MAX_POOL_2D", Taken(rules=(_window, _stride))),
        **same("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", Taken(rules=(_resized,))),
        **same("MAXIMUM MINIMUM", Taken(rules=(_same_steps,))),
        "MEAN": Taken(rules=(_mean,)),
        "SOFTMAX": Taken(rules=(_soft,)),
        "ARG_MAX": Taken(types=_WIDE | {"int64"}, rules=(_last_axis,)),
        "SLICE": Taken(rules=(constant(1, 2),)),
        "STRIDED_SLICE": Taken(rules=(constant(1, 2, 3), _forward)),
        "TRANSPOSE": Taken(types=_WIDE, rules=(_transposed,)),
        "ELU": Taken(types=frozenset({"int8"}), rules=(_same_shape,)),
        "GELU": Taken(types=frozenset({"int8", "uint8"}), rules=(_same_shape,)),
        "LOG": Taken(types=frozenset({"int8", "int16"}), rules=(_same_shape,)),
        "RSQRT": Taken(types=frozenset({"int8", "int16"})),
        "UNIDIRECTIONAL_SEQUENCE_LSTM": Taken(),
    },
)
