"""The Darknet importer: against OpenCV's own reader of the same files, against NumPy where OpenCV has none, and what
it refuses.
"""

import math
import re

import conftest
import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import random_sample

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.cli import app
from tfyolo.darknet import layers
from tfyolo.darknet import sections as section_types
from tfyolo.data import decoding, readers
from tfyolo.evaluation import metrics
from tfyolo.evaluation import run as evaluation
from tfyolo.evaluation.report import evaluate_detections
from tfyolo.exports import tflite
from tfyolo.graph import calibration, pairing
from tfyolo.graph.summary import summarize
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict import load as loading
from tfyolo.training.steps import loss_terms
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import importing, layout
from tfyolo.weights.darknet.cfg import DarknetError, parse_cfg, read_cfg
from tfyolo.weights.initial import initialise
from tfyolo.weights.verify import verify

ORACLE = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="needs OpenCV 4, which reads Darknet networks"
)


def section(kind, **options):
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def conv(filters, size=3, stride=1, activation="leaky", batch_normalize=1, **more):
    norm = {"batch_normalize": 1} if batch_normalize else {}
    return section(
        "convolutional", **norm, filters=filters, size=size, stride=stride, pad=1, activation=activation, **more
    )


def out(boxes=2, classes=3, activation="linear"):
    return conv(boxes * (5 + classes), 1, activation=activation, batch_normalize=0)


def yolo(mask="0,1", classes=3, **more):
    anchors = "8,9, 20,16, 30,44, 60,31"
    return section("yolo", mask=mask, anchors=anchors, classes=classes, num=4, **more)


def net(height=64, width=64, **more):
    return section("net", batch=1, subdivisions=1, width=width, height=height, channels=3, **more)


def shortcut(source, activation="leaky", **more):
    return section("shortcut", **{"from": source}, activation=activation, **more)


def route(*layers):
    return section("route", layers=",".join(map(str, layers)))


STEM = conv(8, stride=2) + conv(16, stride=2) + conv(16, stride=2)


def cross_stage_partial(width, narrow, blocks):
    """CSPResNeXt's stage: grouped bottlenecks whose first sum has fewer channels on its other side (narrow < width)."""
    bottleneck = conv(width, 1) + conv(width, groups=4) + conv(width, 1, activation="linear") + shortcut(-4)
    return (
        conv(width, 1) + route(-2) + conv(narrow, 1) + blocks * bottleneck + conv(width, 1) + route(-1, -4 - 4 * blocks)
        + conv(2 * width, 1)
    )  # fmt: skip


def inverted(inside, outside, size=3, stride=1, residual=False):
    """EfficientNet's block."""
    padding = {"batch_normalize": 1, "stride": stride, "pad": 1}
    return (
        conv(inside, 1, activation="swish")
        + section("convolutional", filters=inside, size=size, groups=inside, activation="swish", **padding)
        + section("avgpool") + conv(4, 1, activation="swish", batch_normalize=0)
        + conv(inside, 1, activation="logistic", batch_normalize=0) + section("scale_channels", **{"from": -4})
        + conv(outside, 1, activation="linear")
        + (section("dropout", probability=".0") + shortcut(-9, "linear") if residual else "")
    )  # fmt: skip


def branch(dilation, first=None):
    """TridentNet's: a bottleneck and one that strides, at a dilation; first: the number of the section whose weights
    it has, and so on.
    """

    def shared(number):
        return {} if first is None else {"share_index": first + number}

    return (
        conv(8, 1, **shared(0)) + conv(8, dilation=dilation, **shared(1))
        + conv(16, 1, activation="linear", **shared(2))
        + shortcut(-4) + conv(12, 1, **shared(4)) + conv(12, stride=2, dilation=dilation, **shared(5))
        + conv(24, 1, activation="linear", **shared(6)) + shortcut(-2)
    )  # fmt: skip


# As published ones are made, in small: all have sums of maps with unequal channels.
LIKE_PUBLISHED = {
    "csresnext50-panet-spp": conv(16, 7, 2) + section("maxpool", size=2, stride=2) + cross_stage_partial(16, 8, 2)
    + conv(32, groups=8, stride=2) + cross_stage_partial(32, 24, 1) + out() + yolo(),
    "yolov3-tiny-prn": STEM + conv(24) + section("maxpool", size=2, stride=2) + conv(32)
    + section("maxpool", size=2, stride=1)
    + conv(32) + shortcut(-3) + conv(16, 1) + conv(16) + shortcut(-2) + out() + yolo("2,3") + route(-4) + conv(12, 1)
    + section("upsample", stride=2) + shortcut(3) + conv(12) + shortcut(-3) + shortcut(3) + out() + yolo("0,1"),
    "enet-coco": conv(8, stride=2, activation="swish") + inverted(12, 8, stride=2) + inverted(16, 10, stride=2)
    + inverted(16, 10, 5, residual=True) + inverted(20, 12, stride=2) + conv(16, 1) + conv(16) + shortcut(-2) + out()
    + yolo("2,3") + route(-4) + conv(12, 1) + section("upsample", stride=2) + shortcut(16) + conv(12) + shortcut(-3)
    + shortcut(14) + out() + yolo("0,1"),
    "resnet152_trident": conv(8, 7, 2) + section("maxpool", size=2, stride=2) + conv(8, 1) + conv(8)
    + conv(16, 1, activation="linear") + shortcut(-4) + conv(12, 1) + conv(12, stride=2)
    + conv(16, 1, activation="linear")
    + shortcut(-2) + branch(3) + conv(24, 1) + out() + yolo() + route(9) + branch(2, 10) + conv(16, 1)
    + section("upsample", stride=2) + route(-1, 9) + conv(16, 1) + out() + yolo() + route(9) + branch(1, 22)
    + conv(16, 1)
    + section("upsample", stride=4) + route(-1, 5) + conv(16, 1) + out() + yolo(),
}  # fmt: skip

# Small networks that between them have every section and option; those that OpenCV reads are held against it.
SMALL = {
    "plain": STEM + out() + yolo(),
    "activations": "".join(conv(8, activation=name) for name in ("relu", "logistic", "mish", "swish", "linear"))
    + STEM + out() + yolo(),
    "depthwise": STEM + conv(16, groups=16) + conv(16, 5, groups=16) + conv(24, 1, activation="linear") + out()
    + yolo(),
    "grouped": STEM + conv(24, groups=4) + out() + yolo(),
    "unpadded": STEM + section("convolutional", filters=8, size=3, stride=1, padding=1, activation="leaky") + out()
    + yolo(),
    "shortcut": STEM + conv(16) + conv(16) + section("shortcut", **{"from": -3}, activation="leaky") + out() + yolo(),
    "routes": STEM + section("route", layers=-1, groups=2, group_id=1) + conv(8) + section("route", layers="-1, -3")
    + section("route", layers="0") + section("maxpool", size=4, stride=4) + section("route", layers="-1,-3") + out()
    + yolo(),
    "pools": conv(8) + section("maxpool", size=2, stride=2) + section("maxpool", size=3, stride=2) + conv(16, stride=2)
    + section("maxpool", size=2, stride=1) + section("maxpool", size=5, stride=1) + section("route", layers=-2)
    + section("maxpool", size=9, stride=1) + section("route", layers="-1,-3,-4") + out() + yolo(),
    "two levels": STEM + conv(24, stride=2) + out() + yolo("2,3", scale_x_y=1.05) + section("route", layers=-3)
    + conv(8, 1)
    + section("upsample", stride=2) + section("route", layers="-1, 2") + conv(16) + out() + yolo("0,1", scale_x_y=1.2),
    "new coordinates": STEM + out(activation="logistic") + yolo(new_coords=1, scale_x_y=2.0),
    "region": STEM + conv(16, stride=2) + section("route", layers=-2) + conv(8, 1) + section("reorg", stride=2)
    + section("route", layers="-1,-4") + out() + section("region", anchors="1,1.5, 2.5,2", classes=3, coords=4,
    num=2, softmax=1),
    "squeeze": STEM + section("avgpool") + conv(4, 1, batch_normalize=0, activation="relu")
    + conv(16, 1, activation="logistic",
    batch_normalize=0) + section("scale_channels", **{"from": -4}, activation="linear") + out() + yolo(),
    "unequal": STEM + conv(24) + shortcut(-2) + conv(8) + shortcut(-2, "linear") + out() + yolo(),
    "dilated and shared": conv(8, stride=2) + conv(16, 3, 2, dilation=2) + conv(16, 5, dilation=3)
    + conv(16, groups=16, dilation=2)
    + conv(16, 5, 2, share_index=2) + conv(16, 5, activation="swish", share_index=-1)
    + conv(8, 1, batch_normalize=0, activation="logistic") + conv(16, 1) + conv(8, 1, batch_normalize=0, share_index=-2)
    + out() + yolo(),
    **LIKE_PUBLISHED,
    "attention": STEM + conv(16, activation="logistic") + section("sam", **{"from": -2})
    + section("dropout", probability=".2")
    + out() + yolo(),
}  # fmt: skip
BY_HAND = {
    "relu6": STEM + conv(16, activation="relu6") + out() + yolo(),
    "weighted, more channels added": STEM + conv(24) + conv(8) + shortcut("-2,-3", weights_type="per_channel",
    weights_normalization="softmax") + out() + yolo(),
    "weighted, lesser channels added": STEM + conv(24) + shortcut(-2, weights_type="per_channel",
    weights_normalization="relu") + out() + yolo(),
    "several added": STEM + conv(12) + conv(16) + shortcut("-2,-3", "linear") + out() + yolo(),
    "weighted by map": STEM + conv(16) + conv(16) + section("shortcut", **{"from": "-2,-3"}, weights_type="per_feature",
    weights_normalization="softmax") + out() + yolo(),
    "weighted by channel": STEM + conv(16) + conv(16)
    + section("shortcut", **{"from": "-2,-3"}, weights_type="per_channel",
    weights_normalization="relu") + out() + yolo(),
    "larger added": STEM + conv(24) + shortcut(-3) + out() + yolo(),
    "reorg3d": STEM + section("reorg3d", stride=2) + out() + yolo(),
    "means": STEM + section("local_avgpool", size=2, stride=2, padding=0) + conv(8, cbn=1, batch_normalize=0) + out()
    + yolo(),
    "means at edges": STEM + section("local_avgpool", size=4, stride=2) + section("local_avgpool", size=3, stride=1)
    + out() + yolo(),
    "adjusted": section("crop", crop_height=64, crop_width=64) + STEM + out() + yolo(),
    "local": STEM + section("local", filters=5, size=3, stride=1, pad=1, activation="leaky") + out() + yolo(),
    "grid": STEM + section("dropout", probability=".5")
    + section("connected", output=40, activation="leaky", batch_normalize=1)
    + section("connected", output=8 * 8 * (3 + 5 * 2), activation="linear")
    + section("detection", classes=3, coords=4, side=8, num=2, softmax=0, sqrt=1),
    "grid of a map": STEM + section("connected", output=8 * 8 * (3 + 5 * 2), activation="linear")
    + section("detection", classes=3, coords=4, side=8, num=2, softmax=0, sqrt=1),
}  # fmt: skip
EVERY = {**SMALL, **BY_HAND}


def random_weights(path, understood, seed=0, header=(0, 2, 5, 32013312)):
    """A .weights file with sane random values: no map grows, none dies."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(darknet_files.Header(*header).bytes)
        for _, arrays in layout.layout(understood):
            for array in arrays:
                name = array.variable.rpartition("/")[2]
                low, high = {"moving_variance": (0.5, 1.5), "gamma": (0.3, 0.7), "weights": (0.2, 1)}.get(
                    name, (-0.2, 0.2)
                )
                values = rng.uniform(low, high, array.shape)
                if name == "kernel":
                    gain = 0.5 if ".out/" in array.variable else 1.4
                    values = rng.normal(0, gain / math.sqrt(math.prod(array.shape[1:])), array.shape)
                file.write(values.astype("<f4").tobytes())
    return path


def written(tmp_path, text, name="small", **options):
    cfg = tmp_path / f"{name}.cfg"
    cfg.write_text(text)
    return cfg, random_weights(tmp_path / f"{name}.weights", read_cfg(cfg), **options)


def tfyolo(*arguments):
    result = CliRunner().invoke(app.main, [str(argument) for argument in arguments], prog_name="tfyolo")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


# --- exact in ---------------------------------------------------------------------------------------------------------


def but_some_slow(names, slow):
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@ORACLE
@pytest.mark.parametrize(
    "name, size",
    [
        pytest.param(name, size, marks=[pytest.mark.slow] * ((size == (64, 64)) != (name in LIKE_PUBLISHED)))
        for size in ((64, 64), (96, 160))
        for name in SMALL
    ],
)
def test_every_layer_equals_opencv(name, size, tmp_path):
    cfg, weights = written(tmp_path, net(*size) + SMALL[name])
    importing.import_run(cfg, weights, tmp_path / "run")
    checks = verify(tmp_path / "run", (cfg, weights))
    assert [str(check) for check in checks if not check.passed] == []
    names = [check.name.partition(":")[0] for check in checks]
    assert len([name for name in names if name.startswith("layer")]) >= 3
    assert {"boxes decoded", "scores decoded"} <= set(names) and names[-1] == "NMS"


@ORACLE
@pytest.mark.parametrize("name", ["weighted by map", "several added", "larger added"])
def test_what_opencv_would_misread_is_not_held_against_it(name, tmp_path):
    cfg, weights = written(tmp_path, net() + BY_HAND[name])
    importing.import_run(cfg, weights, tmp_path / "run")
    counted, last = verify(tmp_path / "run", (cfg, weights))
    assert (
        counted.passed
        and last.passed is None
        and re.search(r"small\.cfg:\d+ \[shortcut\]: OpenCV adds one map", last.unit)
    )


def test_shared_weights_are_held_once(tmp_path):
    cfg, weights = written(tmp_path, net() + SMALL["dilated and shared"])
    model = importing.load(cfg, weights).model
    _, floats = darknet_files.open_weights(weights)
    told = summarize(model)
    assert told["parameters"] == len(floats) == sum(stage["parameters"] for stage in told["stages"])
    first, second = (model.network.get_layer(f"backbone.{number}.conv") for number in (2, 5))
    assert first.kernel is second.kernel and len(model.network.variables) == len(
        {id(v) for v in model.network.variables}
    )


def test_a_long_chain_of_shared_weights_is_followed():
    understood = parse_cfg(net() + STEM + conv(16) + 3000 * conv(16, share_index=-1) + out() + yolo())
    assert len(layout.layout(understood)) == 5


@ORACLE
def test_a_wrong_weight_is_found(tmp_path):
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    importing.import_run(cfg, weights, tmp_path / "run")
    _, other = written(tmp_path, net() + SMALL["two levels"], "other", seed=1)
    contents = bytearray(weights.read_bytes())
    contents[2000:2004] = np.float32(9).tobytes()
    other.write_bytes(contents)
    checks = verify(tmp_path / "run", (cfg, other))
    assert tfyolo("verify", tmp_path / "run").exit_code == 0  # against itself, written back
    wrong = [check.name for check in checks if check.passed is False]
    assert wrong and wrong[0].startswith("layer") and any(name.startswith("head p3") for name in wrong)
    result = tfyolo("verify", tmp_path / "run", "--against", cfg, other)
    assert result.exit_code == 1 and "WRONG" in result.stdout


PUBLISHED = {
    "yolov2-tiny": None, "yolov3-tiny": "yolov3-tiny", "yolov4-tiny": "yolov4-tiny", "yolov4-tiny-3l": "yolov4-tiny-3l",
    "yolov7-tiny": "yolov7-tiny", "yolov2": None, "yolov3": "yolov3", "yolov3-spp": "yolov3-spp", "yolov4": "yolov4",
    "yolov4-csp": "yolov4-csp", "yolov7": "yolov7", "yolov7x": "yolov7x",
}  # fmt: skip
LIGHT = ("yolov3-tiny", "yolov4-tiny")


@ORACLE
@pytest.mark.parametrize(
    "name", [name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
@pytest.mark.parametrize("size", [None, pytest.param((320, 256), marks=pytest.mark.slow)])
def test_published_networks_equal_opencv_and_come_back(name, size, shared, tmp_path):
    text = (shared / "darknet-cfg" / f"{name}.cfg").read_text()
    for key, side in zip(("height", "width"), size or (), strict=False):
        text = "\n".join(
            f"{key}={side}" if line.replace(" ", "").startswith(f"{key}=") else line for line in text.splitlines()
        )
    cfg, weights = written(tmp_path, text)
    imported = importing.import_run(cfg, weights, tmp_path / "run")
    assert imported.native == PUBLISHED[name]
    assert [str(check) for check in verify(tmp_path / "run", (cfg, weights)) if not check.passed] == []
    back, _ = importing.write(tmp_path / "back.weights", tmp_path / "run")
    assert back.read_bytes() == weights.read_bytes()


# Whatever else lies beside the project: classifiers and other things are refused, detectors come in and go back.
OTHERS = sorted({path.stem for path in (conftest.SHARED / "darknet-cfg").glob("*.cfg")} - set(PUBLISHED))
LARGEST = 100_000_000  # floats; YOLOv1 has 271 million, and three copies of them are in memory


@pytest.mark.slow
@ORACLE
@pytest.mark.parametrize("name", OTHERS)
def test_other_published_networks_equal_opencv_and_come_back(name, shared, tmp_path):
    path = shared / "darknet-cfg" / f"{name}.cfg"
    try:
        understood = read_cfg(path)
    except DarknetError as error:
        assert f"{name}.cfg:" in str(error)
        return
    text = path.read_text()
    if not any(
        isinstance(each, section_types.Connected | section_types.Local | section_types.Crop)
        for each in understood.sections
    ):
        for key, side in (("height", 384), ("width", 256)):  # of what trains on a thousand pixels, too
            text = re.sub(rf"(?m)^{key}\s*=.*$", f"{key}={side}", text)
    if sum(array.count for _, arrays in layout.layout(understood) for array in arrays) > LARGEST:
        pytest.skip("needs more memory than tests may have")
    cfg, weights = written(tmp_path, text, name)
    importing.import_run(cfg, weights, tmp_path / "run")
    assert [str(check) for check in verify(tmp_path / "run", (cfg, weights)) if check.passed is False] == []
    back, _ = importing.write(tmp_path / "back.weights", tmp_path / "run")
    assert back.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("name", EVERY)
def test_the_way_back_is_byte_for_byte(name, tmp_path):
    for header in ((0, 2, 5, 1 << 40), (0, 1, 0, 7))[: 1 if name in LIKE_PUBLISHED else 2]:
        cfg, weights = written(tmp_path, net() + EVERY[name], f"v{header[1]}", header=header)
        importing.import_run(cfg, weights, tmp_path / f"run{header[1]}")
        back, back_cfg = importing.write(tmp_path / f"back{header[1]}.weights", tmp_path / f"run{header[1]}")
        assert back.read_bytes() == weights.read_bytes() and back_cfg.read_text() == cfg.read_text()


@pytest.mark.parametrize("name", but_some_slow(EVERY, LIKE_PUBLISHED))
def test_every_network_learns(name, tmp_path):
    cfg, weights = written(tmp_path, net() + EVERY[name])
    model = importing.load(cfg, weights).model
    with tf.GradientTape() as tape:
        loss = tf.add_n(list(loss_terms(model, random_sample((64, 64), batch=3, ground_truths=8)).values()))
    gradients = tape.gradient(loss, model.network.trainable_variables)
    still = [
        variable.path
        for variable, gradient in zip(model.network.trainable_variables, gradients, strict=True)
        if gradient is None or not np.isfinite(gradient).all() or not np.any(gradient)
    ]
    assert not still


@pytest.mark.parametrize(
    "name", but_some_slow(("unequal", "dilated and shared", *LIKE_PUBLISHED, *BY_HAND), set(EVERY) - {"unequal"})
)
def test_tflite_files_have_plain_operations(name, tmp_path):
    """No more than four dimensions, no PADV2, whose other values int8 would need a scale for; and in int8 all of it is
    integers.
    """
    cfg, weights = written(tmp_path, net() + EVERY[name])
    model = importing.load(cfg, weights).model
    fused = tflite.for_tflite(model)
    images = tf.round(255 * random_sample((64, 64), batch=4).image) / 255
    rounded, _ = calibration.calibrated(fused, lambda: [images])
    for source, like, precision, dtype, slack in (
        (fused, model, "float32", np.float32, 1e-4),
        (rounded, rounded, "int8", np.int8, 0.01),  # the decoder's steps, and some that round to the other side
    ):
        content = tflite.to_tflite(source, tflite.OUTPUT_STAGES["none", False], precision)
        plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = tf.lite.Interpreter(model_content=content, experimental_op_resolver_type=plain)
        tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
        operations = interpreter._get_ops_details()
        names = {operation["op_name"] for operation in operations}
        assert not [name for name in names if name.startswith("Flex") or "CUSTOM" in name or name == "PADV2"]
        moved = [
            o for o in operations if o["op_name"] in ("PAD", "SLICE", "STRIDED_SLICE", "ADD", "CONV_2D", "MAX_POOL_2D")
        ]
        inside = [tensors[i] for o in moved for i in o["outputs"] if "backbone." in tensors[i]["name"]]
        assert inside and all(len(tensor["shape"]) <= 4 for tensor in inside)
        if name in SMALL or name == "several added":  # weights of maps are float
            assert {tensor["dtype"] for tensor in inside} == {dtype}
        interpreter.allocate_tensors()
        (taken,) = interpreter.get_input_details()
        given = images[:1] if dtype is np.float32 else tf.cast(tf.round(255 * images[:1]), tf.uint8)
        interpreter.set_tensor(taken["index"], given)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]
        (scores,) = [each for each in outputs if each.shape[-1] == 3]
        expected = like.decoder(like.network(images[:1])).scores
        np.testing.assert_allclose(scores, expected, atol=slack)


# --- by hand, where OpenCV has no such layer --------------------------------------------------------------------------


def test_reorg_is_darknets_loop():
    """Darknet's forward pass reads its input as if it were its output: index by index, as in its loop over the
    output's shape.
    """
    height, width, channels, stride = 6, 4, 8, 2
    x = np.random.default_rng(0).random((channels, height, width)).astype("float32")
    memory, expected = x.ravel(), np.empty(x.size, "float32")
    few = channels // stride**2
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                here = i + width * (j + height * k)
                column, row = i * stride + k // few % stride, j * stride + k // few // stride
                expected[here] = memory[column + width * stride * (row + height * stride * (k % few))]
    expected = expected.reshape(channels * stride**2, height // stride, width // stride).transpose(1, 2, 0)
    np.testing.assert_array_equal(layers.Passthrough(stride)(x.transpose(1, 2, 0)[None])[0], expected)


def test_reorg3d_is_space_to_depth():
    x = np.random.default_rng(0).random((2, 6, 4, 3)).astype("float32")
    np.testing.assert_array_equal(layers.Passthrough3d(2)(x), tf.nn.space_to_depth(x, 2))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_weighted_shortcuts(per_channel, normalization):
    rng = np.random.default_rng(0)
    maps, layer = [rng.normal(size=(2, 3, 3, 4)) for _ in range(3)], layers.WeightedSum(per_channel, normalization)
    layer.build([x.shape for x in maps])
    weights = rng.normal(size=layer.weights_of_maps.shape)
    layer.weights_of_maps.assign(weights)
    if normalization == "relu":
        weights = np.where(weights > 1e-3, weights, 1e-3)
        weights = weights / (weights.sum(0) + 1e-4)
    elif normalization == "softmax":
        weights = np.exp(weights - weights.max(0))
        weights = weights / (weights.sum(0) + 1e-4)
    expected = sum(x * w for x, w in zip(maps, weights, strict=True))
    np.testing.assert_allclose(layer([tf.constant(x, tf.float32) for x in maps]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 0), (4, 4, 3), (3, 2, 2), (3, 1, 2), (2, 1, 1)])
def test_local_means_are_darknets_loop(size, stride, padding):
    x = np.random.default_rng(0).random((1, 8, 12, 2)).astype("float32")
    section = section_types.LocalAvgpool(size=size, stride=stride, padding=padding)
    images = keras.Input(x.shape[1:])
    y = keras.Model(images, section.build([images], "pool"))(x)
    assert tuple(y.shape[1:]) == section.shape([x.shape[1:]])
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            top, left = row * stride - padding // 2, column * stride - padding // 2
            window = x[0, max(top, 0) : top + size, max(left, 0) : left + size]
            np.testing.assert_allclose(y[0, row, column], window.mean((0, 1)), rtol=1e-5)


def test_a_crop_takes_images_to_both_sides_of_0():
    images = keras.Input((4, 6, 3))
    x = np.random.default_rng(0).random((1, 4, 6, 3)).astype("float32")
    for noadjust, expected in ((False, 2 * x - 1), (True, x)):
        section = section_types.Crop(crop_height=4, crop_width=6, noadjust=noadjust)
        np.testing.assert_allclose(keras.Model(images, section.build([images], "crop"))(x), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [(6, 4), (4, 6), (5, 3, 7)])
@pytest.mark.parametrize("weights", ["none", "per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_unequal_maps_are_added_as_in_darknets_loop(channels, weights, normalization):
    """Darknet's shortcut_multilayer_cpu: over the flat output, adding where the other map has that index too."""
    rng, height, width = np.random.default_rng(0), 3, 5
    maps = [rng.normal(size=(count, height, width)).astype("float32") for count in channels]  # as Darknet lays them out
    section = section_types.Shortcut(
        inputs=tuple(range(1, len(maps))), weights_type=weights, weights_normalization=normalization
    )
    inputs = [keras.Input((height, width, count)) for count in channels]
    network = keras.Model(inputs, section.build(inputs, "sum"))
    assert section.shape([x.shape[1:] for x in inputs]) == (height, width, channels[0])
    each = 0 if weights == "none" else rng.normal(size=network.weights[0].shape).astype("float32")
    if weights != "none":
        network.weights[0].assign(each)
    expected = np.empty(maps[0].size)
    for i in range(expected.size):
        mine = np.ones(len(maps))
        if weights != "none":
            mine = each[:, i // (height * width) if weights == "per_channel" else 0].astype("float64")
            if normalization == "relu":
                mine = np.where(mine > 1e-3, mine, 1e-3)
                mine = mine / (mine.sum() + 1e-4)
            elif normalization == "softmax":
                mine = np.exp(mine - mine.max())
                mine = mine / (mine.sum() + 1e-4)
        expected[i] = sum(weight * x.ravel()[i] for weight, x in zip(mine, maps, strict=True) if i < x.size)
    found = network([x.transpose(1, 2, 0)[None] for x in maps])[0]
    np.testing.assert_allclose(np.transpose(found, (2, 0, 1)).ravel(), expected, rtol=1e-4, atol=1e-5)


def test_of_a_larger_map_every_so_many_th_pixel_is_added():
    """Darknet's shortcut_cpu of 2018: out[i, j] += added[i * stride, j * stride], over the lesser count of channels."""
    rng = np.random.default_rng(0)
    for channels in (3, 5, 7):
        first, added = rng.random((1, 4, 6, 5), dtype="float32"), rng.random((1, 12, 18, channels), dtype="float32")
        section = section_types.Shortcut(inputs=(0,))
        inputs = [keras.Input(x.shape[1:]) for x in (first, added)]
        expected = first.copy()
        expected[..., :channels] += added[:, ::3, ::3, :5]
        assert section.shape([x.shape[1:] for x in (first, added)]) == (4, 6, 5)
        np.testing.assert_allclose(
            keras.Model(inputs, section.build(inputs, "sum"))([first, added]), expected, rtol=1e-6
        )
    for shapes, options in (
        (((4, 6, 5), (12, 12, 5)), {}),
        (((4, 6, 5), (2, 3, 5)), {}),
        (((7, 7, 5), (13, 13, 5)), {}),
        (((4, 6, 5), (8, 12, 5)), {"weights_type": "per_channel"}),
        (((4, 6, 5), (8, 12, 5), (4, 6, 5)), {}),
    ):
        with pytest.raises(ValueError, match="expected maps of one size"):
            section_types.Shortcut(inputs=(0,) * (len(shapes) - 1), **options).shape(shapes)


def floats_of(weights, understood):
    """{section: its arrays as they stand in the file}."""
    _, floats = darknet_files.open_weights(weights)
    found, start = {}, 0
    for number, arrays in layout.layout(understood):
        found[number] = []
        for array in arrays:
            found[number].append(np.asarray(floats[start : start + array.count]))
            start += array.count
    return found


def test_locally_connected_is_darknets_loop(tmp_path):
    cfg, weights = written(tmp_path, net() + BY_HAND["local"])
    model = importing.load(cfg, weights).model
    layer = model.network.get_layer("backbone.3.local")
    probe = keras.Model(model.network.input, [layer.input, layer.output])
    x, y = (np.asarray(value)[0] for value in probe(random_sample((64, 64)).image))
    bias, kernel = floats_of(weights, read_cfg(cfg))[3]
    padded = np.pad(x.transpose(2, 0, 1), ((0, 0), (1, 1), (1, 1)))
    bias, kernel = bias.reshape(5, 64), kernel.reshape(64, 5, -1)  # one kernel a place, places row by row
    for place in range(64):
        row, column = divmod(place, 8)
        window = padded[:, row : row + 3, column : column + 3].ravel()
        np.testing.assert_allclose(y[row, column], kernel[place] @ window + bias[:, place], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["grid", "grid of a map"])
def test_yolov1_is_its_paper(name, tmp_path):
    """The fully connected layers on the map laid out channel first; classes, confidences, then boxes x, y, sqrt w,
    sqrt h.
    """
    cfg, weights = written(tmp_path, net() + BY_HAND[name])
    model = importing.load(cfg, weights).model
    images = random_sample((64, 64), batch=1).image
    feature = keras.Model(model.network.input, model.network.get_layer("backbone.2.act").output)(images)
    x = np.asarray(feature)[0].transpose(2, 0, 1).ravel().astype("float64")
    floats = floats_of(weights, read_cfg(cfg))
    if name == "grid":
        beta, kernel, gamma, mean, variance = floats[4]
        x = (kernel.reshape(40, -1) @ x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = np.where(x > 0, x, 0.1 * x)
    bias, kernel = floats[max(floats)]
    flat = kernel.reshape(len(bias), -1) @ x + bias
    classes, confidences, boxes = np.split(flat, [64 * 3, 64 * 5])
    scores = classes.reshape(64, 1, 3).clip(0, 1) * confidences.reshape(64, 2, 1).clip(0, 1)
    column, row = np.tile(np.arange(8), 8)[:, None], np.repeat(np.arange(8), 8)[:, None]
    x, y, w, h = np.moveaxis(boxes.reshape(64, 2, 4), -1, 0)
    x, y, w, h = (x + column) * 8, (y + row) * 8, w**2 * 64, h**2 * 64
    expected = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1).reshape(-1, 4)
    candidates = model.decoder(model.network(images))
    np.testing.assert_allclose(candidates.scores[0], scores.reshape(-1, 3), atol=1e-5)
    np.testing.assert_allclose(candidates.boxes[0], expected, rtol=1e-4, atol=1e-3)


# --- a published network on real images -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastest(tmp_path_factory):
    """(run of the published network, its files)"""
    folder = conftest.SHARED / "weights"
    if not folder.is_dir():
        pytest.skip("needs the published weights in ../shared, which is not beside this clone")
    files = [folder / f"yolo-fastest-1.1-xl.{kind}" for kind in ("cfg", "weights")]
    run = tmp_path_factory.mktemp("fastest") / "run"
    importing.import_run(*files, run)
    return run, files


def opencv_detector(files, score):
    """Pictures as prepared for the network -> [(label, score, box)] in its pixels, by OpenCV alone."""
    cfg = files[0].read_text().replace("[yolo]", "[yolo]\nthresh=0.0001")
    network = cv2.dnn.readNetFromDarknet(*(np.frombuffer(x, np.uint8) for x in (cfg.encode(), files[1].read_bytes())))

    def detect_in(image):
        height, width = image.shape[:2]
        network.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        rows = np.concatenate(network.forward(network.getUnconnectedOutLayersNames()))
        which, labels = np.nonzero(rows[:, 5:] > score)
        scores = rows[which, 5 + labels]
        x, y, w, h = (rows[which, :4] * [width, height, width, height]).T
        xywh = np.stack([x - w / 2, y - h / 2, w, h], 1)
        kept = np.ravel(cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), labels.tolist(), score, 0.45)).astype(
            int
        )
        boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
        return labels[kept], scores[kept], boxes[kept]

    return detect_in


@ORACLE
def test_the_dog_the_bicycle_and_the_car(fastest, shared):
    run, files = fastest
    found = loading.load(run)(shared / "data" / "photos" / "dog.jpg", 0.8)
    assert sorted(found.names) == ["bicycle", "car", "dog"]
    image = cv2.resize(decoding.read_image(shared / "data" / "photos" / "dog.jpg"), (320, 320))
    labels, scores, boxes = opencv_detector(files, 0.8)(image.astype("float32") / 255)
    boxes = boxes * np.tile(found.image.shape[:2], 2) / 320
    assert sorted(labels) == sorted(found.labels)
    for label, score, box in zip(labels, scores, boxes, strict=True):
        (mine,) = np.flatnonzero(found.labels == label)
        assert np.abs(found.boxes[mine] - box).max() < 3 and abs(found.scores[mine] - score) < 0.01


@pytest.mark.slow
@ORACLE
def test_its_average_precision_is_opencvs(fastest, shared):
    """On the same images, brought to its size in the same way, at the same thresholds."""
    run, files = fastest
    source = readers.read(shared / "data" / "coco-tiny", "val")
    detector = loading.load(run, score=0.005)
    report = evaluation.evaluate(detector, source, progress=False)
    oracle, found, lonely, compared = opencv_detector(files, 0.005), [], 0, 0
    for record in source.records:
        image = decoding.read_image(record.path)
        labels, scores, boxes = oracle(cv2.resize(image.astype("float32") / 255, (320, 320)))
        limits = np.tile(image.shape[:2], 2)
        boxes = (boxes * limits / 320).clip(0, limits).astype("float32")
        found.append(metrics.Found(boxes, scores.astype("float32"), labels))
        own = detector(image, 0.05)
        for label, score, box in zip(own.labels, own.scores, own.boxes, strict=True):
            near = (labels == label) & (np.abs(scores - score) < 0.01) & (np.abs(boxes - box).max(-1, initial=0) < 2)
            lonely, compared = lonely + (not near.any()), compared + 1
    theirs = evaluate_detections(source, found)
    assert report.metrics["AP50"] == pytest.approx(theirs.metrics["AP50"], abs=0.005) and theirs.metrics["AP50"] > 0.35
    assert compared > 300 and lonely == 0, (lonely, compared)


# --- what it is used for ----------------------------------------------------------------------------------------------


def test_an_import_is_a_run(tmp_path):
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    (tmp_path / "names").write_text("ape\nbee\ncow\n")
    result = tfyolo("import", cfg, weights, "--names", tmp_path / "names", "--out", tmp_path / "run")
    assert result.exit_code == 0 and "floats used, each once" in result.stdout, result.stderr
    detector = loading.load(tmp_path / "run")
    assert detector.classes == ("ape", "bee", "cow") and detector.config.model.preprocess == "stretch"
    assert detector.config.model.decoder.options["scale_yx"] == {"p3": 1.2, "p4": 1.05}
    assert detector(np.full((50, 70, 3), 128, np.uint8), 0.0).best > 0
    again = tfyolo("import", cfg, weights, "--out", tmp_path / "run")
    assert again.exit_code == 1 and "holds something already" in again.stderr
    assert configs.load(tmp_path / "run" / "config.yaml") == detector.config


@pytest.mark.slow
def test_an_import_is_trained_on_with_other_classes_and_written_back(tmp_path):
    from tfyolo.data import demo

    data = demo.write(tmp_path / "demo", train=4, val=2, test=1, size=(64, 96), progress=False)
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    importing.import_run(cfg, weights, tmp_path / "run")
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    options = [stage, "train.batch=2", "model.input_size=96", "model.decoder.anchors.p3=[[7, 8], [15, 17.5]]"]
    result = tfyolo("train", tmp_path / "run", f"data={data}", *options, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.stderr
    assert "head.p3.out, head.p4.out: the rows of all classes re-initialised, none there has" in result.stderr
    back, back_cfg = importing.write(tmp_path / "tuned.weights", tmp_path / "tuned")
    understood = read_cfg(back_cfg)
    classes = len(checkpoint.read_meta(tmp_path / "tuned" / "best.h5")["classes"])
    assert understood.size == (96, 96) and understood.classes == classes
    assert {head.level: head.anchors for head in understood.heads}["p3"] == [(7.0, 8.0), (15.0, 17.5)]
    again = importing.load(back_cfg, back).model
    images = random_sample((96, 96)).image
    expected = models.load_model(tmp_path / "tuned").network(images)
    for a, b in zip(tf.nest.flatten(again.network(images)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        n if n in LIGHT else pytest.param(n, marks=pytest.mark.slow)
        for n, native in PUBLISHED.items()
        if native and "v7" not in n
    ],
)
def test_native_backbones_stand_in_the_order_of_the_file(name, shared):
    """That a backbone's file without a .cfg relies on: the order found by walking the native network, against the
    published .cfg.
    """
    understood = read_cfg(shared / "darknet-cfg" / f"{name}.cfg")
    model, native, renamed, _ = importing.build_model(understood, importing.COCO, name)
    assert native == name
    ours = [
        layer.name for layer, _ in pairing.in_file_order(model.network, BatchNorm) if layer.name.startswith("backbone.")
    ]
    file = [renamed.get(f"backbone.{number}.conv") for number, _ in layout.layout(understood)]
    assert ours == [layer for layer in file if layer and layer.startswith("backbone.")]


def test_a_backbones_file_begins_a_network(tmp_path):
    """As darknet53.conv.74 is used: the first layers of the file, here of a small YOLOv3, and some of the next
    part's.
    """
    model = models.build(conftest.small("yolov3"), ("a", "b", "c"))
    values, floats = {}, []
    rng = np.random.default_rng(0)
    for convolution, norm in pairing.in_file_order(model.network, BatchNorm):
        if convolution.name.startswith("backbone."):
            filters, kernel = convolution.kernel.shape[-1], convolution.kernel.shape
            file = rng.normal(size=(filters, kernel[2], kernel[0], kernel[1])).astype("float32")
            vectors = rng.random((4, filters)).astype("float32")
            floats += [*vectors.ravel(), *file.ravel()]
            values[f"{convolution.name}/kernel"] = file.transpose(2, 3, 1, 0)
            names = ("beta", "gamma", "moving_mean", "moving_variance")
            values |= {f"{norm.name}/{name}": vector for name, vector in zip(names, vectors, strict=True)}
    path = tmp_path / "darknet53.conv.74"
    header = darknet_files.Header(0, 2, 0, 1).bytes
    path.write_bytes(header + np.array(floats + [1.0, 2.0], "<f4").tobytes())
    before = checkpoint.weights_of(model.network)
    report, _ = initialise(model, path)
    assert "neck: re-initialised, the file holds a backbone" in report and "2 floats after the backbone" in report[-2]
    assert report[-1].startswith("licence: darknet53.conv.74, licence not known")
    for name, value in checkpoint.weights_of(model.network).items():
        np.testing.assert_array_equal(value, values.get(name, before[name]), err_msg=name)
    path.write_bytes(header + np.array(floats[:-1], "<f4").tobytes())
    with pytest.raises(DarknetError, match="expected the backbone of yolov3, the file ends after"):
        initialise(model, path)
    with pytest.raises(DarknetError, match=r"not elan_tiny; import the whole network with its \.cfg"):
        initialise(models.build(conftest.small("yolov7-tiny"), ("a",)), path)
    path.write_bytes(header + np.roll(np.array(floats, "<f4"), 40).tobytes())
    with pytest.raises(DarknetError, match="is it another network's"):
        initialise(model, path)


def test_parts_are_kept_wholly_or_not_at_all(tmp_path):
    source = models.build(conftest.small("demo"), ("a", "b", "c"))
    models.save_model(tmp_path / "m.h5", source)
    same = models.build(conftest.small("demo"), ("a", "b", "c"))
    report, _ = initialise(same, tmp_path / "m.h5")
    assert all(line.endswith("arrays kept") for line in report)
    for a, b in zip(same.network.get_weights(), source.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = checkpoint.weights_of(source.network)
    raw = {name: value + 1 for name, value in weights.items()}
    checkpoint.save(tmp_path / "last.h5", models.describe(source), weights=raw, averages=weights)
    initialise(same, tmp_path / "last.h5")  # the averages, as wherever a model is used
    for name, value in checkpoint.weights_of(same.network).items():
        np.testing.assert_array_equal(value, weights[name])
    renamed = models.build(conftest.small("demo"), ("x", "y", "z"))
    report, _ = initialise(renamed, tmp_path / "m.h5")
    assert "head.p4.out, head.p5.out: the rows of all classes re-initialised, none there" in report[-1]
    other = models.build(conftest.small("demo", **{"model.neck.width": 0.25}), ("a", "b", "c"))
    before = checkpoint.weights_of(other.network)
    report, _ = initialise(other, tmp_path / "m.h5")
    assert report[0].startswith("backbone: ") and report[0].endswith("kept")
    assert report[1].startswith("neck: re-initialised") and report[2].startswith("head: re-initialised")
    after = checkpoint.weights_of(other.network)
    for name in before:
        expected = checkpoint.weights_of(source.network)[name] if name.startswith("backbone.") else before[name]
        np.testing.assert_array_equal(after[name], expected)
    with pytest.raises(checkpoint.CheckpointError, match="nothing fits"):
        initialise(models.build(conftest.small("yolov1"), ("a",)), tmp_path / "m.h5")


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "whose first section is"),
        ("filters=3", r"1: expected \[net\] before anything else"),
        ("[net\nwidth=3", r"1: expected \[section\]"),
        (net() + "[convolutional]\nfilters", "8: expected key=value, received 'filters'"),
        (net() + STEM, "ends in .convolutional."),
        (
            net() + STEM + out() + section("Gaussian_yolo"),
            r":34: expected .* ends in \[gaussian_yolo\], whose boxes have variances",
        ),
        (net() + STEM + section("softmax"), r":28: .* ends in \[softmax\], as classifiers do"),
        (net() + section("lstm") + STEM + out() + yolo(), r":7: \[lstm\] cannot be represented"),
        (net() + conv(8, activation="elu") + STEM + out() + yolo(), r":13: \[convolutional\]: activation: .*'elu'"),
        (net() + conv("many") + STEM + out() + yolo(), r":9: \[convolutional\]: filters: .*'many'"),
        (net() + conv(0) + STEM + out() + yolo(), "filters: input should be greater than 0"),
        (net() + conv(8, xnor=1) + STEM + out() + yolo(), r":14: \[convolutional\]: xnor=1 cannot be represented"),
        (net() + conv(8, groups=3) + STEM + out() + yolo(), "do not divide into 3 groups"),
        (
            net() + STEM + section("route", layers="-9") + out() + yolo(),
            r"\[route\]: expected the number of an earlier",
        ),
        (net() + STEM + section("route", layers="0,2") + out() + yolo(), "maps of one size"),
        (
            net(72, 64) + STEM + conv(8, stride=2) + shortcut(-2) + out() + yolo(),
            r":35: \[shortcut\]: expected maps of one size",
        ),
        (net() + STEM + section("shortcut") + out() + yolo(), "expected from=..., received none"),
        (
            net() + STEM + conv(16) + shortcut(-2, alpha=0.5) + out() + yolo(),
            r":38: \[shortcut\]: alpha=0.5 cannot be represented",
        ),
        (
            net() + STEM + conv(16, share_index=3) + out() + yolo(),
            r"\[convolutional\]: share_index: .*earlier .*received 3",
        ),
        (net() + STEM + route(0) + conv(16, share_index=3) + out() + yolo(), r"earlier \[convolutional\], received 3"),
        (net() + STEM + conv(16, 1, share_index=2) + out() + yolo(), r"received \(16, 16, 1, 1\) and 1"),
        (
            net() + STEM + conv(16, batch_normalize=0, share_index=2) + out() + yolo(),
            "and batch_normalize=1, received .* and 0",
        ),
        (net() + STEM + 2 * conv(16, groups=16) + conv(16, groups=16, share_index=-1) + out() + yolo(), "depthwise"),
        (
            net()
            + STEM
            + conv(16, 1, batch_normalize=0, activation="linear")
            + conv(16, 1, batch_normalize=0, activation="linear", share_index=3)
            + yolo(),
            r"before \[yolo\] expected a \[convolutional\] without share_index",
        ),
        (net() + STEM + conv(16) + route(-2) + out() + yolo(), r":28: \[convolutional\]: no head reads its output"),
        (
            net() + section("crop", crop_height=32, crop_width=64) + STEM + out() + yolo(),
            r"crop\]: expected the whole map",
        ),
        (net() + STEM + out(classes=4) + yolo(), "need 16 outputs of the layer before, received 18"),
        (net() + STEM + out() + yolo(mask="0,7"), "a mask of anchors 0 to 3"),
        (net() + STEM + out() + yolo(classes="x"), r"classes: expected a whole number"),
        (
            net() + STEM + out(activation="leaky") + yolo(),
            r"before \[yolo\] expected a \[convolutional\] with activation=linear",
        ),
        (net() + STEM + out() + yolo(new_coords=1), "with activation=logistic"),
        (net() + STEM + conv(16) + yolo(), "batch_normalize=0"),
        (net() + STEM + out() + yolo() + conv(8) + out() + yolo(), "reads section 4, which is a head"),
        (net() + STEM + out() + yolo() + section("route", layers=-3) + out() + yolo(), "a second head of stride 8"),
        (net(70, 64) + STEM + out() + yolo(), "expected a grid 2, 4, .. or 512 times smaller"),
        (net().replace("channels=3", "channels=1") + STEM + out() + yolo(), "channels=1 cannot be represented"),
        (net().replace("width", "wide") + STEM + out() + yolo(), "expected width=..."),
        (net() + STEM + section("maxpool", size=900, stride=1, padding=0) + out() + yolo(), "does not fit into"),
    ],
    ids=lambda value: "" if "\n" in value else value[:40],
)
def test_what_a_cfg_cannot_say(text, message, tmp_path):
    (tmp_path / "bad.cfg").write_text(text)
    with pytest.raises(DarknetError, match=message) as error:
        read_cfg(tmp_path / "bad.cfg")
    assert "bad.cfg" in str(error.value)


def test_unknown_options_are_told_and_left_aside(tmp_path):
    (tmp_path / "odd.cfg").write_text(net() + STEM + conv(16, colour="red") + out() + yolo(nms_kind="cornersnms"))
    notes = read_cfg(tmp_path / "odd.cfg").notes
    assert "colour is not known" in notes[0] and "nms_kind=cornersnms: replaced by greedy NMS" in notes[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:-4], "1 are missing: it ends in .*convolutional., after"),
        (lambda data: data[: len(data) // 2 // 4 * 4], "are missing: it ends in"),
        (lambda data: data[:-3], "whole floats of 4 bytes"),
        (lambda data: data + bytes(8), "2 are left over after the last layer"),
        (lambda data: b"", "received 0 bytes"),
        (lambda data: data[:12], "received 12 bytes"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        (lambda data: b"<!DOCTYPE html><html><body>Not Found</body></html>", "received text that begins b'<!DOCTYPE"),
        (lambda data: data.decode("utf-8", "replace").encode(), "saved as text"),
        (lambda data: data.replace(b"\n", b"\r\n"), "line ends were rewritten"),
        (lambda data: data[:400] + np.float32(np.nan).tobytes() + data[404:], "not finite"),
        (lambda data: np.int32([1 << 20, 3, 0]).tobytes() + data[12:], "begins with its version"),
    ],
)
def test_what_a_file_of_weights_cannot_be(change, message, tmp_path):
    text = net() + conv(64) + conv(64) + conv(64) + STEM + out() + yolo()
    cfg, weights = written(tmp_path, text)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(DarknetError, match=message) as error:
        importing.import_run(cfg, weights, tmp_path / "run")
    assert str(weights) in str(error.value) and not (tmp_path / "run").exists()


def test_a_cfg_that_lies_allocates_nothing(tmp_path):
    cfg, weights = written(tmp_path, net() + STEM + out() + yolo())
    cfg.write_text(net() + conv(1 << 19, 99) + conv(1 << 19, 99) + STEM + out() + yolo())
    with pytest.raises(DarknetError, match="are missing: it ends in"):
        importing.load(cfg, weights)


def _mutated(rng, data, text):
    """Some bytes of a file changed, dropped, doubled or cut off; of a .cfg, also whole lines and numbers."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(6 if text else 4)
        if kind == 0 and at < len(data):
            data[at] = rng.integers(256)
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        elif kind == 3 and rng.random() < 0.3:
            del data[at:]
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            line = int(rng.integers(len(lines)))
            lines[line] = lines[int(rng.integers(len(lines)))]
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            line = int(rng.integers(len(lines)))
            number = rng.choice([b"0", b"-1", b"1e9", b"99999999999", b"2", b"7", b"nan", b"", b"3,4"])
            lines[line] = lines[line].partition(b"=")[0] + b"=" + number
            data = bytearray(b"\n".join(lines))
    return bytes(data)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_imported_or_named(count, tmp_path):
    """An import or a clear error each time, and the way back is exact whenever it came in."""
    rng = np.random.default_rng(count)
    originals = []
    for name in ("two levels", "routes", "depthwise", "region", "dilated and shared", "unequal"):
        cfg, weights = written(tmp_path, net() + EVERY[name], name.replace(" ", "-"))
        originals.append((cfg.read_bytes(), weights.read_bytes()))
    came_in = 0
    for _ in range(count):
        cfg, weights = originals[rng.integers(len(originals))]
        if rng.random() < 0.7:
            cfg = _mutated(rng, cfg, text=True)
        else:
            weights = _mutated(rng, weights, text=False)
        (tmp_path / "m.cfg").write_bytes(cfg)
        (tmp_path / "m.weights").write_bytes(weights)
        try:
            imported = importing.load(tmp_path / "m.cfg", tmp_path / "m.weights")
        except (DarknetError, configs.ConfigError) as error:
            assert "m.cfg" in str(error) or "m.weights" in str(error), error
            continue
        came_in += 1
        models.save_model(tmp_path / "m.h5", imported.model, darknet=imported.origin)
        back, _ = importing.write(tmp_path / "out.weights", tmp_path / "m.h5", overwrite=True)
        assert back.read_bytes() == weights
        keras.backend.clear_session()
    assert came_in > count // 20
