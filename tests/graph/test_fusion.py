"""Folded networks compute what they were made from, with fewer weights, and leave it alone."""

import gc
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGS, lively, mostly_slow, small
from keras import layers

from tfyolo import model as models
from tfyolo.exports import export as exports
from tfyolo.exports import targets
from tfyolo.graph.fusion import FUSIONS, FusionError, fuse
from tfyolo.graph.nodes import used
from tfyolo.heads.layers import Implicit
from tfyolo.nn.activations import ACTIVATIONS
from tfyolo.nn.blocks import conv, repconv
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict import load as loading
from tfyolo.predict.detector import Detector
from tfyolo.structures import Raw
from tfyolo.weights.darknet import as_config, cfg

# Convolutions of all kinds.
DARKNET = """
[net]
height=64
width=96
channels=3
""" + "".join(
    f"[{kind}]\n" + "".join(f"{option}\n" for option in options.split())
    for kind, options in [
        ("convolutional", "batch_normalize=1 filters=8 size=3 stride=2 pad=1 activation=leaky"),
        ("convolutional", "batch_normalize=1 filters=8 size=3 stride=2 pad=1 groups=8 activation=leaky"),
        ("convolutional", "batch_normalize=1 filters=16 size=1 activation=linear"),
        ("convolutional", "batch_normalize=1 filters=16 size=5 stride=1 pad=1 groups=16 activation=swish"),
        ("convolutional", "batch_normalize=1 filters=24 size=3 stride=1 pad=1 groups=4 activation=mish"),
        ("convolutional", "batch_normalize=1 filters=24 size=3 stride=2 pad=1 dilation=1 activation=relu6"),
        ("convolutional", "batch_normalize=1 filters=24 size=3 stride=1 pad=1 dilation=2 activation=logistic"),
        ("shortcut", "from=-2 activation=linear"),
        ("convolutional", "filters=16 size=1 activation=linear"),
        ("yolo", "mask=0,1 anchors=8,9,20,16 classes=3 num=2"),
    ]
)


def randomise(network, seed=0):
    """Statistics and scales of batch norms as a trained network may have them, and biases."""
    rng = np.random.default_rng(seed)
    ranges = {
        "gamma": (-1.5, 1.5),
        "beta": (-1, 1),
        "moving_mean": (-1, 1),
        "moving_variance": (0.2, 3),
        "bias": (-1, 1),
        "knowledge": (-1, 1),
    }
    for variable in network.variables:
        name = variable.path.rpartition("/")[2]
        if name in ranges:
            variable.assign(rng.uniform(*ranges[name], variable.shape))


def norms(network):
    return [layer for layer in network.layers if isinstance(layer, BatchNorm)]


def outputs(network, seed=1):
    images = np.random.default_rng(seed).random((2, *network.input_shape[1:]), dtype="float32")
    return {path: np.asarray(x) for path, x in keras.tree.flatten_with_path(network(images, training=False))}


def assert_folded(model):
    """All norms are gone from fuse(model), which computes what model did, and still does. Returns it."""
    network = used(model.network)
    before = {variable.path: variable.numpy() for variable in network.variables}
    expected = outputs(network)
    folded = fuse(model)
    aside = {"network": None, "objective": None}  # an objective with auxiliary terms loses them
    assert folded._replace(**aside) == model._replace(**aside)
    assert folded.objective is model.objective or isinstance(model.network.output, Raw)
    found = outputs(folded.network)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert np.abs(value).max() > 1e-3
        np.testing.assert_allclose(found[path], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=str(path))
    left = {norm.name for norm in norms(folded.network)}
    assert left <= {"neck.norm"}  # M2Det's follows no convolution, and two read it
    if not any(isinstance(layer, Implicit) for layer in network.layers):  # their counts are published
        channels = sum(norm.gamma.shape[0] for norm in norms(network) if norm.name not in left)
        # The 1x1 branch of a RepConv goes into the 3x3, and with it one of their two biases.
        branches = [layer.kernel.shape for layer in network.layers if layer.name.endswith(".rep1.conv")]
        merged = sum(math.prod(shape) + shape[-1] for shape in branches)
        assert folded.network.count_params() == network.count_params() - 3 * channels - merged

    # Neither has anything of the other
    for variable in folded.network.variables:
        variable.assign(tf.zeros_like(variable))
    for variable in network.variables:
        np.testing.assert_array_equal(variable, before[variable.path], err_msg=variable.path)
    for path, value in outputs(network).items():
        np.testing.assert_array_equal(value, expected[path])
    assert all(layer.output is not None for layer in network.layers)  # refused by a layer that was called once more
    return folded


@pytest.mark.parametrize("name", mostly_slow(CONFIGS, ["demo", "yolov1", "yolov7-tiny"]))
def test_every_network_of_the_zoo(name):
    model = models.build(small(name), ["a", "b", "c"])
    randomise(model.network)
    folded = assert_folded(model)
    network = used(model.network)
    gone = (BatchNorm, Implicit)
    names = {layer.name for layer in network.layers if not isinstance(layer, gone) or layer.name == "neck.norm"}
    for branch in [name for name in names if name.endswith(".rep1.conv")]:  # a RepConv becomes its 3x3 convolution
        names -= {branch, f"{branch.removesuffix('.rep1.conv')}.add"}
    assert {layer.name for layer in folded.network.layers} == names
    assert norms(model.network) or name == "yolov1"  # which has none, as published


def test_an_imported_network_with_depthwise_grouped_and_dilated_convolutions():
    net = cfg.parse_cfg(DARKNET)
    model = models.build(as_config.config_of(net, "small"), ["a", "b", "c"])
    assert sum(isinstance(layer, layers.DepthwiseConv2D) for layer in model.network.layers) == 2
    randomise(model.network)
    assert_folded(model)


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("channels", [6, 8])
def test_a_repconv_becomes_one_convolution(channels, identity):
    images = keras.Input((9, 7, 6), name="images")
    network = keras.Model(images, repconv(images, channels, identity=identity, name="rep"))
    assert len(norms(network)) == 2 + (identity and channels == 6)
    randomise(network)
    folded = fuse(models.Model(None, (), network, None, None, None)).network
    assert folded.count_params() == 9 * 6 * channels + channels and len(folded.layers) == 3
    for path, value in outputs(network).items():
        np.testing.assert_allclose(outputs(folded)[path], value, atol=1e-4)


def test_knowledge_becomes_part_of_the_convolution_between():
    images = keras.Input((5, 7, 6), name="images")
    x = Implicit("add", name="a")(images)
    x = layers.Conv2D(4, 1, name="out")(x)
    network = keras.Model(images, Implicit("multiply", name="m")(x))
    randomise(network)
    folded = fuse(models.Model(None, (), network, None, None, None)).network
    assert [layer.name for layer in folded.layers] == ["images", "out"]
    for path, value in outputs(network).items():
        np.testing.assert_allclose(outputs(folded)[path], value, atol=1e-4)


@pytest.mark.parametrize("other", ["stride", "another input", "a plain tensor", "groups", "read twice"])
def test_a_sum_of_what_is_no_one_convolution_stays(other):
    images = keras.Input((8, 8, 4), name="images")
    first = layers.Conv2D(4, 3, padding="same", name="first")(images)
    second = {
        "stride": lambda: layers.Conv2D(4, 2, padding="same", name="second")(images),
        "another input": lambda: layers.Conv2D(4, 1, name="second")(keras.ops.relu(images)),
        "a plain tensor": lambda: images,
        "groups": lambda: layers.Conv2D(4, 1, groups=2, name="second")(images),
        "read twice": lambda: layers.Conv2D(4, 1, name="second")(images),
    }[other]()
    total = layers.Add(name="sum")([first, second])
    network = keras.Model(images, {"sum": total, "other": second} if other == "read twice" else {"sum": total})
    randomise(network)
    folded = fuse(models.Model(None, (), network, None, None, None)).network
    assert "sum" in [layer.name for layer in folded.layers]
    for path, value in outputs(network).items():
        np.testing.assert_allclose(outputs(folded)[path], value, atol=1e-4)


def test_activations_that_others_stand_in_for():
    images = keras.Input((8, 8, 4), name="images")
    x = conv(conv(images, 4, 3, activation="mish", name="first"), 4, 3, activation="leaky", name="second")
    model = models.Model(None, (), keras.Model(images, x), None, None, None)
    fused = fuse(model, {ACTIVATIONS["mish"]: keras.ops.relu}).network
    assert fused.get_layer("first.act").activation is keras.ops.relu
    assert fused.get_layer("second.act").activation is ACTIVATIONS["leaky"]
    assert model.network.get_layer("first.act").activation is ACTIVATIONS["mish"]


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_depthwise_convolutions_with_several_outputs_a_channel(multiplier):
    images = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, use_bias=False, name="c")(images)
    network = keras.Model(images, BatchNorm(name="n")(x))
    randomise(network)
    assert_folded(models.Model(None, (), network, None, None, None))


class _Doubling(layers.Conv2D):
    def call(self, x):
        return 2 * super().call(x)


def test_what_cannot_be_folded_stays():
    """Because others read the convolution too, it is an output, it is used twice, it is none, or of another kind."""

    def norm(x, name):
        return BatchNorm(name=f"norm.{name}")(x)

    images = keras.Input((8, 8, 4), name="images")
    read_twice = layers.Conv2D(4, 3, padding="same", name="read_twice")(images)
    given_out = layers.Conv2D(4, 3, padding="same", name="given_out")(images)
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    active = layers.Conv2D(4, 3, padding="same", activation="relu", name="active")(images)
    doubling = _Doubling(4, 3, padding="same", name="doubling")(images)
    folded = conv(images, 4, 3, name="folded")
    both = [norm(shared(images), "shared.first"), norm(shared(norm(images, "none")), "shared.second")]
    kept = [
        norm(read_twice, "read_twice"),
        norm(given_out, "given_out"),
        norm(active, "active"),
        norm(doubling, "doubling"),
    ]
    total = layers.Add(name="sum")([*kept, *both, read_twice, folded])
    network = keras.Model(images, {"sum": total, "other": given_out})
    randomise(network)
    expected = outputs(network)
    fused = fuse(models.Model(None, (), network, None, None, None)).network
    for path, value in outputs(fused).items():
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-4 * np.abs(value).max())
    assert {layer.name for layer in norms(network)} - {layer.name for layer in norms(fused)} == {"folded.norm"}
    assert fused.get_layer("shared").count_params() == shared.count_params()


class Scale(layers.Layer):
    """A user's linear layer; it declares nothing."""

    def build(self, shape):
        self.factor = self.add_weight((shape[-1],), "ones", name="gamma")

    def call(self, x):
        return x * self.factor


class Affine(Scale):
    fusion = "affine"

    def affine(self):
        factor = self.factor.numpy()
        return factor, np.zeros_like(factor)


class Derived(Affine):
    def call(self, x):
        return keras.ops.tanh(super().call(x))


def fused_scale(layer, x):
    factor = layer.factor.numpy().astype("float64")
    return x.affine(factor, np.zeros_like(factor)) if hasattr(x, "affine") else None


@pytest.mark.parametrize("scale, fuses", [(Scale, False), (Affine, True), (Derived, False), ("in the table", True)])
def test_a_users_layer_is_fused_as_it_declares(scale, fuses, monkeypatch):
    """A declaration, or a row in FUSIONS, is all that it needs, wherever it stands among the others."""
    if scale == "in the table":
        monkeypatch.setitem(FUSIONS, Scale, fused_scale)
        scale = Scale
    images = keras.Input((8, 8, 4), name="images")
    x = layers.Conv2D(6, 3, name="c")(images)
    for i in range(2):
        x = BatchNorm(name=f"n{i}")(scale(name=f"s{i}")(x))
    network = keras.Model(images, x)
    randomise(network)
    fused = fuse(models.Model(None, (), network, None, None, None)).network
    assert ([layer.name for layer in fused.layers] == ["images", "c"]) == fuses
    np.testing.assert_allclose(*(next(iter(outputs(each).values())) for each in (network, fused)), rtol=1e-4, atol=1e-4)


def test_a_fusion_that_does_not_exist_is_an_error():
    odd = type("Odd", (Scale,), {"fusion": "quadratic"})
    images = keras.Input((8, 8, 4))
    network = keras.Model(images, odd(name="own")(images))
    with pytest.raises(
        FusionError, match=r"own: Odd.fusion: expected one of convolution, affine, received 'quadratic'"
    ):
        fuse(models.Model(None, (), network, None, None, None))


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_keras_batch_norms_are_fused_too(options):
    images = keras.Input((8, 8, 4), name="images")
    x = layers.Conv2D(6, 3, name="c")(images)
    network = keras.Model(images, layers.BatchNormalization(name="n", **options)(x))
    randomise(network)
    fused = fuse(models.Model(None, (), network, None, None, None)).network
    assert [layer.name for layer in fused.layers] == ["images", "c"]
    np.testing.assert_allclose(*(next(iter(outputs(each).values())) for each in (network, fused)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_is_folded_when_it_is_loaded_and_exported_but_not_in_its_file(tmp_path):
    model = lively("demo")
    randomise(model.network)
    models.save_model(tmp_path / "run.h5", model)
    detector = loading.load(tmp_path / "run.h5")
    images = tf.zeros((1, *detector.input_size, 3))
    traced = detector.network.get_concrete_function(images)
    graph = traced.graph.as_graph_def()
    kinds = {
        node.op
        for body in (graph, *(each for each in graph.library.function))
        for node in getattr(body, "node", ()) or body.node_def
    }
    assert "Conv2D" in kinds and not [kind for kind in kinds if "BatchNorm" in kind] and not traced.variables
    expected = Detector.of(model).network(images)
    np.testing.assert_allclose(detector.network(images).scores, expected.scores, atol=1e-5)
    paths = {
        "saved_model": exports.export(model, tmp_path / "export", [targets.Target("saved_model")])["saved_model"].path
    }
    saved = tf.train.list_variables(str(paths["saved_model"] / "variables" / "variables"))
    count = sum(int(np.prod(shape)) for name, shape in saved if name.startswith("weights/"))
    assert count == fuse(model).network.count_params() < model.network.count_params()
    assert norms(models.load_model(tmp_path / "run.h5").network)


OWN = {name: function for name, function in ACTIVATIONS.items() if function}


@pytest.mark.parametrize("name", [*OWN, "Keras's silu"])
def test_a_fused_networks_traces_end_with_what_they_were_for(name):
    """A gradient of a function's own keeps the graph of each trace, and all weights that are constants in it."""
    x = keras.Input((4, 4, 3))
    network = keras.Model(x, layers.Activation(OWN.get(name, keras.activations.silu))(layers.Conv2D(2, 1)(x)))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")

    def graph_of_a_trace():
        fused = fuse(models.Model(None, (), network, None, None, None)).network
        traced = tf.function(lambda images: fused(images, training=False))
        np.testing.assert_allclose(traced(images), network(images), rtol=1e-5, atol=1e-6)
        return weakref.ref(traced.get_concrete_function(tf.TensorSpec(images.shape)).graph)

    graph = graph_of_a_trace()
    gc.collect()
    assert graph() is None
