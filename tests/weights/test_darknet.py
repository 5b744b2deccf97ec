"""The Darknet importer: against OpenCV's own reader of the same files, against NumPy where OpenCV has none."""

import re

import conftest
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mostly_slow, random_sample, slow
from darknet_cfgs import (
    BY_HAND,
    EVERY,
    LIGHT,
    LIKE_PUBLISHED,
    ORACLE,
    PUBLISHED,
    SMALL,
    STEM,
    conv,
    net,
    out,
    tfyolo,
    written,
    yolo,
)

from tfyolo.darknet import layers
from tfyolo.darknet import sections as section_types
from tfyolo.exports import tflite
from tfyolo.exports.layouts import LAYOUTS
from tfyolo.graph import calibration
from tfyolo.graph.summary import summarize
from tfyolo.tflite.interpreter import interpreter as started
from tfyolo.training.steps import loss_terms
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import importing, layout
from tfyolo.weights.darknet.cfg import DarknetError, parse_cfg, read_cfg
from tfyolo.weights.verify import verify

# --- exact in ---------------------------------------------------------------------------------------------------------


# Of each kind of layer one or two; the other networks have variations of them.
FEW = ("dilated and shared", "attention", "unequal", "routes", "two levels", "region")
FEW_BY_HAND = ("weighted by channel", "local", "grid")


@ORACLE
@pytest.mark.parametrize(
    "name, size",
    [
        pytest.param(name, size, marks=[pytest.mark.slow] * (name not in FEW or size == (64, 64)))
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
@pytest.mark.parametrize("name", ["weighted by map", slow("several added"), slow("larger added")])
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
    summary = summarize(model)
    assert summary["parameters"] == len(floats) == sum(stage["parameters"] for stage in summary["stages"])
    first, second = (model.network.get_layer(f"backbone.{number}.conv") for number in (2, 5))
    assert first.kernel is second.kernel and len(model.network.variables) == len(
        {id(v) for v in model.network.variables}
    )


def test_a_long_chain_of_shared_weights_is_followed():
    understood = parse_cfg(net() + STEM + conv(16) + 3000 * conv(16, share_index=-1) + out() + yolo())
    assert len(layout.layout(understood)) == 5


@pytest.mark.slow
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


@ORACLE
@pytest.mark.parametrize("name", mostly_slow(PUBLISHED, LIGHT[:1]))
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


@pytest.mark.parametrize("name", mostly_slow(EVERY, FEW + FEW_BY_HAND))
def test_the_way_back_is_byte_for_byte(name, tmp_path):
    for header in ((0, 2, 5, 1 << 40), (0, 1, 0, 7))[: 1 if name in LIKE_PUBLISHED else 2]:
        cfg, weights = written(tmp_path, net() + EVERY[name], f"v{header[1]}", header=header)
        importing.import_run(cfg, weights, tmp_path / f"run{header[1]}")
        back, back_cfg = importing.write(tmp_path / f"back{header[1]}.weights", tmp_path / f"run{header[1]}")
        assert back.read_bytes() == weights.read_bytes() and back_cfg.read_text() == cfg.read_text()


@pytest.mark.parametrize("name", mostly_slow(EVERY, FEW + FEW_BY_HAND))
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


@pytest.mark.parametrize("name", mostly_slow(("unequal", "dilated and shared", *LIKE_PUBLISHED, *BY_HAND), ["unequal"]))
@pytest.mark.slow
def test_tflite_files_have_plain_operations(name, tmp_path):
    """No more than four dimensions, no PADV2, whose other values int8 would need a scale for; and in int8 all of it is
    integers.
    """
    cfg, weights = written(tmp_path, net() + EVERY[name])
    model = importing.load(cfg, weights).model
    fused = tflite.for_tflite(model)
    images = tf.round(255 * random_sample((64, 64), batch=4).image) / 255
    rounded = calibration.calibrate(fused, lambda: [images]).quantized()
    for source, like, precision, dtype, slack in (
        (fused, model, "float32", np.float32, 1e-4),
        (rounded, rounded, "int8", np.int8, 0.01),  # the decoder's steps, and some that round to the other side
    ):
        content = tflite.to_tflite(source, LAYOUTS["none", False], precision)
        interpreter = started(model_content=content, delegates=False)
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
