"""The lint reads what TensorFlow's own schema wrote, and its tables say what their sources say."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, tfyolo_here
from tensorflow.lite.python import schema_py_generated as schema
from test_flatbuffer import code, model, operator, packed, tensor

from tfyolo.tflite import graph, operators
from tfyolo.tflite.graph import GraphError, Operator, Tensor
from tfyolo.tflite.lint import LINTS, LintError, lines, lint, summary
from tfyolo.tflite.lints.rules import Table, Taken, refused, same


def enumeration(kind):
    return {number: name for name, number in vars(kind).items() if not name.startswith("_")}


def test_names_are_those_of_the_schema():
    names, types = enumeration(schema.BuiltinOperator), enumeration(schema.TensorType)
    assert tuple(names[number] for number in range(len(names))) == operators.NAMES
    assert tuple(types[number].lower() for number in range(len(types))) == operators.TYPES[: len(types)]
    paddings, activations = enumeration(schema.Padding), enumeration(schema.ActivationFunctionType)
    assert tuple(paddings[number] for number in range(len(paddings))) == operators.PADDINGS
    assert [name or "NONE" for name in operators.ACTIVATIONS] == [activations[i] for i in range(len(activations))]


# How the schema calls an operator's options, where the name is not the operator's own in capitals.
KINDS = {
    "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D",
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), "Reducer"),
}  # fmt: skip
FIELDS = {
    "kernel_w": "filterWidth", "kernel_h": "filterHeight", "activation": "fusedActivationFunction",
    "dilation_w": "dilationWFactor", "dilation_h": "dilationHFactor",
}  # fmt: skip


def camel(words):
    first, *rest = words.split("_")
    return first + "".join(word.title() for word in rest)


def one_operator(name, options=None):
    """The bytes of a file of an operator on x [1, 2, 3] and c [2, 3], with options {field of the schema: value}."""
    made = model()
    made.operatorCodes = [code(getattr(schema.BuiltinOperator, name))]
    kind = KINDS.get(name, name.title().replace("_", ""))
    held = getattr(schema, f"{kind}OptionsT")()
    for field, value in (options or {}).items():
        assert hasattr(held, field)
        setattr(held, field, value)
    made.subgraphs[0].operators = [operator([0, 1], [2], 0, getattr(schema.BuiltinOptions, f"{kind}Options"), held)]
    return packed(made)


@pytest.mark.parametrize("name", operators.OPTIONS)
def test_options_are_where_the_schema_has_them(name):
    """Each is set to a number of its own, by TensorFlow."""
    asked = operators.OPTIONS[name]
    flags = [option for option in asked if asked[option][1] == "u1"]
    for flag in flags or [None]:
        values = {option: number + 2 for number, option in enumerate(asked) if option not in flags}
        values |= {option: 1 for option in ("padding", "activation", "mode", "weights_format") if option in asked}
        values |= {option: int(option == flag) for option in flags}
        written = {FIELDS.get(option, camel(option)): value for option, value in values.items()}
        (found,) = graph.read(one_operator(name, written))
        expected = values | ({"padding": "VALID"} if "padding" in values else {})
        assert found.options == expected | ({"activation": "RELU"} if "activation" in values else {})
    (found,) = graph.read(one_operator(name))
    assert all(value in (0, 1, None, "SAME") for value in found.options.values())  # their defaults


def test_a_file_is_read_as_it_was_written():
    made = model()
    made.operatorCodes[1].version = 7
    made.subgraphs[0].tensors[2].shapeSignature = np.array([-1, 2, 3], "int32")
    made.operatorCodes.append(code(schema.BuiltinOperator.CUSTOM))
    made.operatorCodes[2].customCode = "Mine"
    made.subgraphs[0].operators.append(operator([3, -1], [3], 2, schema.BuiltinOptions.NONE, None))
    add, reshape, mine = graph.read(packed(made))
    assert (add.name, add.version, add.layer, add.is_custom) == ("ADD", 1, "sum", False)
    assert [each.name for each in add.inputs] == ["x", "c"] and [each.name for each in add.computed] == ["x"]
    assert (add.outputs[0].shape, add.outputs[0].is_dynamic, add.outputs[0].type) == ((1, 2, 3), True, "float32")
    assert add.inputs[1].data.view("float32").tolist() == list(range(6))
    assert (reshape.version, reshape.reads, reshape.writes) == (7, (2,), (3,))
    assert (mine.name, mine.is_custom, mine.inputs[1]) == ("Mine", True, None)


def test_whatever_the_bytes_are_it_is_that_error_or_a_report():
    content = packed(model())
    for size in range(0, len(content), 7):
        with pytest.raises(GraphError, match="expected a TFLite file"):
            graph.read(content[:size])
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = np.frombuffer(content, "u1").copy()
        data[rng.integers(len(data), size=3)] = rng.choice([0, 1, 127, 128, 255], 3)
        for table in LINTS:
            try:
                lint(data.tobytes(), table)
            except GraphError:
                break


# --- tables -----------------------------------------------------------------------------------------------------------

SIDES = (1, 8, 8, 4)
STEPS = {"scales": np.ones(1, "f4"), "zero_points": np.zeros(1, "i8")}


def of(name, *inputs, outputs=None, version=1, **options):
    """An Operator on int8 or the tensors given; options over the defaults of the schema."""
    inputs = inputs or (Tensor("x", "int8", SIDES, **STEPS),)
    outputs = outputs or (inputs[0]._replace(name="y", data=None),)
    asked = {option: where[2] for option, where in operators.OPTIONS.get(name, {}).items()}
    asked |= {"activation": None} if "activation" in asked else {}
    asked |= {"padding": "SAME"} if "padding" in asked else {}
    return Operator(name, version, name not in operators.NAMES, inputs, outputs, asked | options)


def numbers(*values):
    return Tensor("axes", "int32", (len(values),), data=np.array(values, "<i4").view("u1"))


def shaped(*sides, kind="int8"):
    return Tensor("x", kind, sides, **({} if kind.startswith("float") else STEPS))


FLOAT, INT8 = shaped(*SIDES, kind="float32"), shaped(*SIDES)
KERNEL = Tensor("k", "int8", (4, 3, 3, 4), data=np.ones(144, "u1"), **STEPS)
BIAS = Tensor("b", "int32", (4,), data=np.zeros(16, "u1"))
DOUBLED = (shaped(1, 16, 16, 4),)
CASES = [
    ("gpu", of("CONV_2D", FLOAT, KERNEL, BIAS, version=6), None),
    ("gpu", of("CONV_2D", FLOAT, KERNEL, BIAS, version=7), "version 7, where it takes up to 6"),
    ("gpu", of("CONV_2D", shaped(2, 8, 8, 4), KERNEL, BIAS), "batch 2"),
    ("gpu", of("RESHAPE", FLOAT, outputs=(shaped(1, 8, 8, 2, 2),)), "rank 5, where it takes up to 4"),
    ("gpu", of("NON_MAX_SUPPRESSION_V5", FLOAT), "not among its operators"),
    ("gpu", of("TOPK_V2", FLOAT), "not among its operators"),
    ("gpu", of("EXP", shaped(1, 8, kind="int64")), "int64, where it takes float16, float32, int8, uint8"),
    ("gpu", of("EXP", FLOAT._replace(is_dynamic=True)), "a shape that is only known at run time"),
    ("gpu", of("ADD", shaped(1, 9, 2), shaped(9, 2)), "broadcasting [9, 2] to [1, 9, 2]"),
    ("gpu", of("ADD", shaped(1, 9, 2), shaped(1, 9, 2)), None),
    ("gpu", of("MUL", shaped(1, 9, 2), shaped(2)), None),
    ("gpu", of("ADD", INT8, shaped(8, 8, 4)), None),
    ("gpu", of("SOFTMAX", FLOAT, beta=2.0), "beta 2.0"),
    ("gpu", of("GATHER", FLOAT, numbers(1, 2)), None),
    ("gpu", of("TFLite_Detection_PostProcess", FLOAT), "a custom operator"),
    ("gpu", of("STRIDED_SLICE", FLOAT, numbers(0), numbers(1), numbers(-1)), "strides that are negative or computed"),
    ("edgetpu", of("CONV_2D", INT8, KERNEL, BIAS), None),
    ("edgetpu", of("CONV_2D", INT8, KERNEL, BIAS, dilation_w=2), "dilation_w 2 and dilation_h 1"),
    ("edgetpu", of("CONV_2D", FLOAT, KERNEL, BIAS), "float32, where it takes int8, uint8"),
    ("edgetpu", of("RESIZE_NEAREST_NEIGHBOR", INT8, version=2, outputs=DOUBLED), None),
    ("edgetpu", of("RESIZE_NEAREST_NEIGHBOR", INT8, version=3, half_pixel_centers=1),
     "version 3, where it takes up to 2; half_pixel_centers is set"),
    ("edgetpu", of("EXP", INT8), "not among its operators"),
    ("edgetpu", of("PADV2", INT8), "not among its operators"),
    ("edgetpu", of("LEAKY_RELU", INT8), "not among its operators"),
    ("edgetpu", of("MAX_POOL_2D", INT8, activation="RELU"), "a fused RELU"),
    ("edgetpu", of("SOFTMAX", shaped(1, 9, 4, 16)), "of [1, 9, 4, 16], where it takes one row"),
    ("edgetpu", of("SOFTMAX", shaped(1, 16)), None),
    ("edgetpu", of("LOGISTIC", shaped(2, 3, 3, 3)), "[2, 3, 3, 3], where only the last 3 sides may be longer than 1"),
    ("edgetpu", of("MEAN", INT8, numbers(1, 2)), None),
    ("edgetpu", of("MEAN", INT8, numbers(0)), "along the batch"),
    ("edgetpu", of("MEAN", shaped(1, 8, 8, 6), numbers(3)), "along 6 channels, where it takes multiples of 4"),
    ("edgetpu", of("STRIDED_SLICE", INT8, numbers(0), numbers(1), numbers(2)), "strides other than 1"),
    ("ethosu", of("CONV_2D", INT8, KERNEL, BIAS, stride_w=4, stride_h=4), "stride 4 with padding or dilation"),
    ("ethosu", of("CONV_2D", INT8, KERNEL, BIAS, stride_w=4, stride_h=4, padding="VALID"), None),
    ("ethosu", of("DEPTHWISE_CONV_2D", INT8, KERNEL, BIAS, stride_w=4), "stride 4, where it takes up to 3"),
    ("ethosu", of("CONV_2D", INT8, KERNEL._replace(data=None), BIAS), "a kernel that is computed"),
    ("ethosu", of("LOGISTIC", Tensor("x", "int8", SIDES)), "a tensor without quantization"),
    ("ethosu", of("LOGISTIC", FLOAT), "float32, where it takes int16, int8, uint8"),
    ("ethosu", of("ADD", shaped(1, 4, kind="int32")), None),
    ("ethosu", of("RESIZE_NEAREST_NEIGHBOR", INT8, outputs=DOUBLED, half_pixel_centers=1), None),
    ("ethosu", of("RESIZE_BILINEAR", INT8, outputs=(shaped(1, 32, 32, 4),), half_pixel_centers=1),
     "8 to 32, where it takes 2 times"),
    ("ethosu", of("RESIZE_NEAREST_NEIGHBOR", INT8, outputs=(shaped(1, 24, 24, 4),)),
     "8 to 24, where it takes 2, 4, 8 times"),
    ("ethosu", of("AVERAGE_POOL_2D", INT8, kernel_w=9, kernel_h=9),
     "a window of 9 x 9, where it takes 8 x 8 with padding"),
    ("ethosu", of("MAXIMUM", INT8, INT8._replace(scales=np.full(1, 2, "f4"))),
     "scales of its inputs other than its output's"),
    ("ethosu", of("TOPK_V2", INT8), "not among its operators"),
    ("micro", of("LOGISTIC", shaped(1, 4, kind="uint8")), "uint8, where it takes float32, int16, int8"),
    ("micro", of("CONV_2D", FLOAT, KERNEL), "a kernel of int8 for inputs of float32"),
    ("micro", of("QUANTIZE", shaped(1, 4, kind="uint8")), None),
    ("micro", of("NON_MAX_SUPPRESSION_V5", FLOAT), "not among its operators"),
    ("coreml", of("RESHAPE", shaped(1, 2, 2, 2, 2, 2, kind="float32")), "rank 6, where it takes up to 5"),
    ("coreml", of("Mine", FLOAT), "a custom operator"),
    ("cpu", of("FlexTopKV2", FLOAT), "a custom operator"),
    ("cpu", of("TFLite_Detection_PostProcess", FLOAT), None),
]  # fmt: skip


@pytest.mark.parametrize(
    "table, each, reason", CASES, ids=[f"{table}-{each.name}-{i}" for i, (table, each, _) in enumerate(CASES)]
)
def test_a_table_says_what_its_source_says(table, each, reason):
    assert refused(LINTS[table], each) == reason


@pytest.mark.parametrize("name", LINTS)
def test_a_table_names_operators_and_its_source(name):
    table, page = LINTS[name], sys.modules[f"tfyolo.tflite.lints.{name}"].__doc__
    assert table.types <= set(operators.TYPES) and table.parts in ("all", "largest", "first")
    known = {each for each in table.operators or () if each.isupper() or "_" in each} - {"TFLite_Detection_PostProcess"}
    assert known <= set(operators.NAMES)
    assert "Facts of " in page and re.search(r"20\d\d", page)


# --- reports ----------------------------------------------------------------------------------------------------------


def chain(*names):
    """The bytes of a file in which each operator reads what the one before wrote, [1, 2, 2, 3]."""
    made = model()
    made.operatorCodes = [code(getattr(schema.BuiltinOperator, name)) for name in names]
    made.buffers[1].data = np.zeros(9, "float32").view("uint8")
    graph_ = made.subgraphs[0]
    graph_.tensors = [tensor("kernel", [3, 1, 1, 3], 1)] + [
        tensor(f"t{i}", [1, 2, 2, 3]) for i in range(len(names) + 1)
    ]
    graph_.operators = [
        operator([i + 1, *([0] if name == "CONV_2D" else [])], [i + 2], i, schema.BuiltinOptions.NONE, None)
        for i, name in enumerate(names)
    ]
    graph_.inputs, graph_.outputs = np.array([1], "int32"), np.array([len(names) + 1], "int32")
    return packed(made)


CHAIN = ("CONV_2D", "LOGISTIC", "EXP", "CONV_2D", "CONV_2D", "CONV_2D", "FILL", "CONV_2D")
MACS = 4 * 3 * 3  # of one convolution


@pytest.mark.parametrize(
    "parts, expected, worst",
    [("all", [0, 1, 3, 4, 5, 7], [0, 0]), ("largest", [3, 4, 5], [0, 0]), ("first", [0, 1], [4 * MACS, MACS])],
)
def test_the_share_is_that_of_the_parts_that_a_device_runs(parts, expected, worst):
    table = Table("mine", same("CONV_2D LOGISTIC"), frozenset({"float32"}), parts=parts)
    report = lint(chain(*CHAIN), table)
    assert [(each.operator, each.layer, each.macs) for each in report.findings] == [
        ("EXP", "t3", worst[0]), ("FILL", "t7", worst[1])
    ]  # fmt: skip
    convolutions = sum(CHAIN[i] == "CONV_2D" for i in expected)
    assert (report.operators, report.on_device, report.share_of_operators) == (8, len(expected), len(expected) / 8)
    assert report.share_of_macs == pytest.approx(convolutions / 5) and not report.passed


def test_findings_are_worst_first_and_alike_ones_share_a_line():
    report = lint(
        chain("LOGISTIC", "CONV_2D", "EXP", "LOGISTIC"), Table("mine", {"EXP": Taken()}, frozenset({"float32"}))
    )
    assert [each.operator for each in report.findings] == ["CONV_2D", "LOGISTIC", "LOGISTIC"]
    first, second = lines(report)
    assert re.fullmatch(r"CONV_2D v1 float32 rank 4 +t2: not among its operators", first)
    assert re.fullmatch(r"LOGISTIC v1 float32 rank 4 +t1 and 1 more layer: not among its operators", second)
    assert summary(report) == "mine: 3 operators not taken; 1 of 4 operators and 0.0 % of the MACs run on the device"


def test_a_user_adds_a_table(monkeypatch):
    monkeypatch.setitem(LINTS, "mine", Table("mine", None, frozenset({"float32"})))
    assert lint(chain(*CHAIN), "mine").passed
    with pytest.raises(LintError, match=r"expected one of cpu, gpu, .*, mine, received 'yours'"):
        lint(chain(*CHAIN), "yours")


def test_the_command(tmp_path):
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(*CHAIN))
    found = tfyolo_here("lint", path, "--target", "edgetpu")
    assert found.exit_code == 1 and "EXP v1 float32 rank 4" in found.stdout and "edgetpu: 8 operators" in found.stdout
    assert tfyolo_here("lint", path, "--target", "cpu").exit_code == 0
    every = tfyolo_here("lint", path)
    assert every.exit_code == 0 and [line.partition(":")[0] for line in every.stdout.splitlines()] == list(LINTS)
    report = json.loads(tfyolo_here("lint", path, "--target", "gpu", "--json").stdout)
    assert report["findings"][0]["operator"] == "FILL" and report["share_of_macs"] == pytest.approx(0.8)
    assert set(json.loads(tfyolo_here("lint", path, "--json").stdout)) == set(LINTS)


WITHOUT_TENSORFLOW = """
import sys
sys.modules |= {"tensorflow": None, "keras": None}
from tfyolo.cli import main
main(["lint", sys.argv[1], "--target", "cpu"])
"""


def test_it_needs_no_tensorflow(tmp_path):
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(*CHAIN))
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, str(path)], check=True)
    assert time.monotonic() - began < 10  # a second, where nothing else runs


def test_the_table_of_the_page_is_one(monkeypatch):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"## A class of devices to lint for\n.*?```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setitem(LINTS, "my-npu", None)
    exec(written, {})
    window = {"kernel_h": 3, "kernel_w": 2, "activation": "RELU"}
    assert refused(LINTS["my-npu"], of("MAX_POOL_2D", INT8, **window)) == "a fused RELU; a window of 3 x 2"
    assert refused(LINTS["my-npu"], of("CONV_2D", INT8, KERNEL, BIAS, version=3)) is None
