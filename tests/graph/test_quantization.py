"""Fake quantization: against NumPy, against the int8 file made of it, and what it must leave as it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CONFIGS, TINY, lively, load_config, of_all_scales, slow
from test_detect import picture

from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.config import ConfigError
from tfyolo.data import demo, readers, write_tfrecords
from tfyolo.exports import export as exports
from tfyolo.exports import tflite
from tfyolo.exports.job import Job
from tfyolo.exports.targets import ExportError, Target
from tfyolo.graph import calibration, declarations, quantization
from tfyolo.graph.calibration import observe
from tfyolo.graph.equalization import equalized, in_a_row
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import readers_of
from tfyolo.graph.quantization import FakeQuantize, quantize
from tfyolo.nn import activations
from tfyolo.predict import load as loading
from tfyolo.predict.detector import Detector
from tfyolo.tflite.interpreter import interpreter as started
from tfyolo.training import steps
from tfyolo.training import train as training

CLASSES = ("a", "b", "c")


def images_for(model, count=4):
    height, width = model.config.model.input_size
    return np.stack([picture(height, width, seed) for seed in range(count)]).astype("float32") / 255


def by_hand(x, low, high):
    """256 steps from low to high, moved so that 0 is one of them (Jacob et al. 2018, section 3)."""
    step = (high - low) / 255
    zero = np.round(-low / step)
    return (np.clip(np.round(x / step + zero), 0, 255) - zero) * step


@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.0, 6.0), (-0.3, 0.01), (-2.0, 0.0)])
def test_feature_maps_take_256_values_of_which_0_is_one(low, high):
    x = np.random.default_rng(0).normal(0, 2, 4000).astype("float32")
    layer = FakeQuantize(low, high)
    rounded = layer(x).numpy()
    np.testing.assert_allclose(rounded, by_hand(x.astype("float64"), low, high), atol=1.01 * (high - low) / 255 / 2)
    assert len(np.unique(rounded)) <= 256 and 0 in layer(np.zeros(1, "float32")).numpy()
    inside = rounded[(x > low) & (x < high)]
    assert np.abs(inside - x[(x > low) & (x < high)]).max() <= 1.01 * (high - low) / 255


@pytest.mark.parametrize("per_channel", [True, False])
def test_kernels_have_255_steps_of_each_output_or_of_all(per_channel):
    rng = np.random.default_rng(0)
    kernel = (rng.normal(0, 1, (3, 3, 4, 6)) * 10.0 ** np.arange(6)).astype("float32")
    rounded = quantization.fake_quantized_kernel(tf.constant(kernel), 3, per_channel).numpy()
    limit = np.abs(kernel).max(axis=(0, 1, 2)) if per_channel else np.abs(kernel).max()
    step = limit / 127
    np.testing.assert_allclose(rounded, np.round(kernel / step) * step, atol=1e-3 * np.max(step))
    depthwise = quantization.fake_quantized_kernel(tf.constant(kernel.transpose(0, 1, 3, 2)), 2, per_channel).numpy()
    np.testing.assert_allclose(depthwise.transpose(0, 1, 3, 2), rounded, rtol=1e-5)


def test_bounds_lose_least():
    """Of a few values far out, cutting them costs less than the coarser steps would; without, nothing is cut."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 20000)
    low, high = calibration.best_range(-100.0, 100.0, np.append(values, [100.0, -100.0]))
    assert low >= -100 and high <= 100
    step = 200 / 255
    whole = np.mean((np.round(values / step) * step - values) ** 2)
    cut = np.mean((by_hand(values, low, high) - values) ** 2)
    assert cut <= whole
    even = rng.uniform(-1, 1, 20000)
    assert calibration.best_range(-1.0, 1.0, even) == (-1.0, 1.0)
    # One end alone, where one value in a million lies far out.
    many = np.append(rng.uniform(-1, 1, 1_000_000), 5.0)
    low, high = calibration.best_range(-1.0, 5.0, many)
    assert -1 <= low < -0.9 and 0.9 < high < 2


def test_ranges_are_for_what_is_computed_behind():
    """A sigmoid hardly tells -60 from -10: a few such values must not widen the range of all others."""
    values = np.random.default_rng(0).normal(0, 1, 20000)
    values[:2000] = -60
    sigmoid = calibration.FLATTENING["sigmoid"]
    low, high = calibration.best_range(-60.0, values.max(), values, sigmoid)
    wide = calibration.best_range(-60.0, values.max(), values)
    assert wide[0] < -50 < -15 < low
    errors = [np.mean((sigmoid(by_hand(values, *ends)) - sigmoid(values)) ** 2) for ends in ((low, high), wide)]
    assert errors[0] < 0.1 * errors[1]


def test_a_leaky_relus_range_counts_what_is_below_zero_for_a_tenth():
    values = np.random.default_rng(0).normal(-6, 5, 20000)
    behind = calibration._numpy_of(activations.leaky)
    np.testing.assert_allclose(behind(values), activations.leaky(values), rtol=1e-6)

    def folded(x):  # f(a * x) = a * f(x), too
        return abs(x)

    folded.homogeneous = True
    np.testing.assert_allclose(calibration._numpy_of(folded)(values), abs(values), rtol=1e-6)
    ends, wide = (calibration.best_range(values.min(), values.max(), values, *how) for how in ((behind,), ()))
    errors = [np.mean((behind(by_hand(values, *each)) - behind(values)) ** 2) for each in (ends, wide)]
    assert ends[0] > wide[0] and errors[0] < 0.9 * errors[1]


def test_many_values_are_condensed_to_fewer_with_the_same_mean_and_the_same_ends():
    values = np.random.default_rng(0).normal(0, 1, 50000) ** 3
    few, weights = calibration._condensed(values)
    assert len(few) < 7000 and weights.sum() == len(values)
    np.testing.assert_allclose([weights @ few, weights @ few**2], [values.sum(), (values**2).sum()], rtol=1e-3)
    np.testing.assert_array_equal(few[:1000], np.sort(values)[:1000])
    np.testing.assert_array_equal(few[-1000:], np.sort(values)[-1000:])


def test_each_batch_is_looked_at_in_other_places(monkeypatch):
    """And in each map; yet the same batches give the same ranges."""
    images = keras.Input((64, 64, 3))
    network = keras.Model(images, {"box": {"p3": keras.layers.ReLU(name="act")(images)}})
    model = fuse(lively("demo"))._replace(network=network)
    values = []
    monkeypatch.setattr(
        calibration, "best_range", lambda low, high, sampled, behind: values.append(sampled) or (low, high)
    )
    batch = np.random.default_rng(0).random((4, 64, 64, 3)).astype("float32")
    for _ in range(2):
        observe(model, [batch, batch])
    first, second = np.split(values[0], 2)
    assert not np.array_equal(first, second) and not np.array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[:2], values[2:])


QUICK = ("demo", "yolov8n")


@pytest.mark.parametrize(
    "name", [name if name == "demo" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_a_network_that_rounds_has_a_gradient_for_every_weight_and_nearly_the_outputs(name):
    model = lively(name)
    fused = fuse(model)
    images = images_for(model)
    ranges = observe(fused, [images])
    quantized_model = quantize(fused, ranges)
    mine, theirs = (keras.tree.flatten(each.network(images, training=False)) for each in (fused, quantized_model))
    for a, b in zip(mine, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        # What is deep and has learned nothing makes much of small differences.
        assert np.abs(a - b).mean() < (0.25 if name in QUICK else 2.0) * (a.std() + 1e-3)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(mine, theirs, strict=True))
    sample = of_all_scales(model.config.model.input_size)._replace(image=tf.constant(images[:2]))
    with tf.GradientTape() as tape:
        loss = sum(steps.loss_terms(quantized_model, sample).values())
    variables = quantized_model.network.trainable_variables
    gradients = tape.gradient(loss, variables)
    assert all(g is not None and np.isfinite(g).all() for g in gradients)
    kernels = [(v, g) for v, g in zip(variables, gradients, strict=True) if "kernel" in v.path]
    assert np.mean([np.any(np.asarray(g)) for _, g in kernels]) > (0.9 if name in QUICK else 0.5)


@pytest.mark.parametrize(
    "name, least",
    [
        ("demo", 6),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("yolov8n", 0), ("yolov7-tiny", 5), ("demo-m2det", 2))
        ),
    ],
)
def test_equalizing_changes_nothing_but_the_ranges(name, least):
    model = fuse(lively(name))
    images = images_for(model)
    other = equalized(model, [images])
    pairs = [pair for pair in in_a_row(model.network) if not pair.gate]
    assert len(pairs) >= least
    for a, b in zip(*(keras.tree.flatten(m.network(images)) for m in (model, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())
    changed = [
        not np.allclose(a, b) for a, b in zip(model.network.get_weights(), other.network.get_weights(), strict=True)
    ]
    assert any(changed) == (len(pairs) > 0)


def test_equalized_channels_of_a_depthwise_convolution_have_one_range():
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name="first")(images)
    x = keras.layers.Activation(activations.leaky, name="act")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="second")(x)
    x = keras.layers.Conv2D(4, 1, name="out")(x)
    network = keras.Model(images, {"box": {"p3": x}})
    network.get_layer("first").kernel.assign(network.get_layer("first").kernel * 10.0 ** np.linspace(-1, 1, 8))
    model = fuse(lively("demo"))._replace(network=network)
    batch = np.random.default_rng(0).random((4, 16, 16, 3)).astype("float32")
    other = equalized(model, [batch]).network
    reach = np.abs(keras.Model(other.input, other.get_layer("first").output)(batch)).max(axis=(0, 1, 2))
    np.testing.assert_allclose(reach, reach.max(), rtol=1e-3)
    for a, b in zip(keras.tree.flatten(network(batch)), keras.tree.flatten(other(batch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def gated(spread, first="first"):
    """A Model of two convolutions with a SiLU between, whose channels reach from 1 to 10 ** spread."""
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name=first)(images)
    x = keras.layers.Activation(keras.activations.silu, name="act")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="second")(x)
    network = keras.Model(images, {"box": {"p3": keras.layers.Conv2D(4, 1, name="out")(x)}})
    kernel = network.get_layer(first).kernel
    kernel.assign(kernel * 10.0 ** np.linspace(0, spread, 8))
    return fuse(lively("demo"))._replace(network=network)


def test_channels_behind_a_gate_get_one_range_where_they_differ_much():
    batch = np.random.default_rng(0).random((4, 16, 16, 3)).astype("float32")
    model = gated(3)
    other = equalized(model, [batch]).network
    reach = np.abs(keras.Model(other.input, other.get_layer("first").output)(batch)).max(axis=(0, 1, 2))
    np.testing.assert_allclose(reach, reach.max(), rtol=1e-2)
    for a, b in zip(*(keras.tree.flatten(each(batch)) for each in (model.network, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())
    noise = [
        dict(calibration.sqnr(m, quantize(m, observe(m, [batch])), batch))["second"]
        for m in (equalized(model, [batch]), equalized(model, [batch], gates=False))
    ]
    assert noise[0] > noise[1] + 6  # dB: a bit more
    for same in (equalized(gated(0.5), [batch]), equalized(model, [batch], gates=False)):
        assert [type(layer) for layer in same.network.layers] == [type(layer) for layer in model.network.layers]


def means(network, images, names):
    probe = keras.Model(network.input, [network.get_layer(name).output for name in names])
    return [np.mean(x, axis=(0, 1, 2)) for x in keras.tree.flatten(probe(images, training=False))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "yolox-nano"])
def test_corrected_convolutions_of_the_backbone_have_the_means_of_the_float_ones(name):
    model = fuse(lively(name))
    images = images_for(model)
    quantized = quantize(model, observe(model, [images]))
    convolutions = [layer.name for layer in model.network.layers if type(layer) in quantization.KERNELS]
    own = [each for each in convolutions if each.startswith("backbone.")]
    before = {
        layer.name: keras.ops.convert_to_numpy(layer.bias)
        for layer in quantized.network.layers
        if layer.name in convolutions
    }
    off = [
        np.abs(a - b).max() for a, b in zip(*(means(m.network, images, own) for m in (model, quantized)), strict=True)
    ]
    calibration.correct_biases(quantized, model, tf.constant(images))
    for each, a, b, wrong in zip(own, *(means(m.network, images, own) for m in (model, quantized)), off, strict=True):
        assert np.abs(a - b).max() <= max(0.02 * wrong, 1e-5 * np.abs(a).max() + 1e-6), each
    for each in set(convolutions) - set(own):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(quantized.network.get_layer(each).bias), before[each])


@pytest.mark.parametrize("per_channel, gates", [(True, True), slow(False, True), slow(True, False)])
def test_calibration_scales_gates_and_corrects_the_backbone(per_channel, gates, monkeypatch):
    monkeypatch.setattr(calibration, "refit_ends", lambda *_: None)  # its network has no decoder
    batch = np.random.default_rng(0).random((4, 16, 16, 3)).astype("float32")
    model = gated(3, "backbone.first")
    found = calibration.calibrate(model, lambda: [batch], per_channel=per_channel, gates=gates)
    quantized, fused = found.quantized(), found.fused
    scaled = [layer.name for layer in quantized.network.layers if layer.name.endswith(".scale")]
    assert scaled == (["act.scale"] if per_channel and gates else [])  # a gate's scales need one of each channel
    (a,), (b,) = (means(m.network, batch, ["backbone.first"]) for m in (fused, quantized))
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


def test_a_range_is_searched_behind_the_sigmoid_that_alone_reads_it():
    images = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(1, 1, name="conv", kernel_initializer=keras.initializers.Constant(-60.0))(images)
    x = keras.layers.Activation("sigmoid", name="act")(x)
    model = fuse(lively("demo"))._replace(network=keras.Model(images, {"box": {"p3": x}}))
    batch = np.random.default_rng(0).uniform(0, 0.05, (4, 16, 16, 1)).astype("float32")
    batch[:, :2] = 1.0
    assert -20 < observe(model, [batch])["conv"][0] < -2


# --- what layers declare ----------------------------------------------------------------------------------------------


class Flipped(keras.layers.Layer):
    """A user's own layer, which declares nothing."""

    def call(self, x):
        return x[:, :, ::-1]


class Moving(Flipped):
    quantization = "moves"


class Computing(Flipped):
    quantization = "computes"


class Floating(Flipped):
    quantization = "float"


class Derived(Moving):
    """Computes something else: what holds for its base need not hold here."""

    def call(self, x):
        return 2.0 * x


def doubled(x):
    return 2.0 * x


def one_layer(layer):
    """A fused Model of a convolution, a layer, one that stays float, and two convolutions."""
    images = keras.Input((8, 8, 3))
    x = layer(keras.layers.Conv2D(4, 3, name="first")(images))
    x = keras.layers.Conv2D(4, 1, name="second")(Floating(name="float")(x))
    return models.Model(None, (), keras.Model(images, keras.layers.Conv2D(4, 1, name="last")(x)), None, None, None)


@pytest.mark.parametrize(
    "layer, message",
    [
        (
            Flipped(name="own"),
            r"own: expected a layer that declares .*Flipped, which does not; declare on the class quantiz",
        ),
        (
            Derived(name="own"),
            r"own: expected a layer that declares how int8 treats it, received \S*Derived, which does not",
        ),
        (
            lambda x: keras.ops.cumsum(x, 1),
            r"cumsum\S*: .*Cumsum, which does not; put it into a layer of your own and",
        ),
        (
            keras.layers.Activation(doubled, name="act"),
            r'act: .*received doubled, .*write doubled.quantization = "computes"',
        ),
        (
            keras.layers.Conv2D(4, 1, activation="relu", name="own"),
            "own: expected Conv2D without an activation, received one",
        ),
        (
            type("Odd", (Flipped,), {"quantization": "int4"})(name="own"),
            r"own: \S*Odd.quantization: expected one of moves, .*'int4'",
        ),
        (
            type("Odd", (Flipped,), {"quantization": "kernel"})(name="own"),
            r'own: \S*Odd.quantization: expected "kernel" for Keras\'s Conv2D, Dep',
        ),
    ],
)
def test_a_layer_that_declares_nothing_is_an_error_in_int8_that_names_it(layer, message):
    with pytest.raises(quantization.QuantizationError, match=f"^int8: {message}"):
        quantize(one_layer(layer))


@pytest.mark.parametrize("layer, follows", [(Moving, "first.int8"), (Computing, "own.int8"), (Floating, "float")])
def test_a_users_layer_is_quantized_as_it_declares(layer, follows):
    """What only moves numbers has the range of its input; what computes has its own; what is float has none."""
    model = one_layer(layer(name="own"))
    batch = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
    quantized = quantize(model, observe(model, [batch])).network
    assert [reader.name for reader in readers_of(quantized.get_layer("own").output)] == [follows]
    assert "float.int8" in [layer.name for layer in quantized.layers]  # a convolution reads it
    np.testing.assert_allclose(quantized(batch), model.network(batch), atol=0.1)


def test_users_can_extend_the_tables(monkeypatch):
    monkeypatch.setitem(declarations.QUANTIZATION, Flipped, "moves")
    monkeypatch.setitem(declarations.FUNCTIONS, doubled, "computes")
    assert any(type(layer) is Flipped for layer in quantize(one_layer(Flipped(name="own"))).network.layers)
    network = quantize(one_layer(keras.layers.Activation(doubled, name="act"))).network
    assert {"act", "act.int8"} <= {layer.name for layer in network.layers}


def test_every_layer_and_activation_of_the_package_declares():
    own, waiting = set(), [keras.layers.Layer]
    while waiting:
        waiting += (derived := waiting.pop().__subclasses__())
        own |= {each for each in derived if each.__module__.startswith("tfyolo.")}
    # Decoders stand behind the network; what quantizes is put in afterwards.
    own = {each for each in own if not each.__module__.startswith(("tfyolo.decoders", "tfyolo.graph"))}
    assert len(own) > 12
    assert not [each for each in own if getattr(each, "quantization", None) not in declarations.LAYER_KINDS]
    functions = [function for function in activations.ACTIVATIONS.values() if function]
    assert all(declarations.function_quantization(function) in declarations.FUNCTION_KINDS for function in functions)


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = demo.write(tmp_path_factory.mktemp("demo"), train=8, val=4, test=1, size=(64, 96), progress=False)
    return readers.read(folder, "train")


FILES = [("demo", False)]
FILES += [
    pytest.param(name, True, marks=pytest.mark.slow)
    for name in (
        "demo",
        "yolov8n",
        "yolov7-tiny",
        "yolo11n",
        "yolov9t",
        "yolov9c",
        "yolov4-tiny",
        "demo-yolov1",
        "demo-m2det",
        "lite0",
        "mobilenetv3",
    )
]


@pytest.mark.parametrize("name, per_channel", FILES)
def test_the_int8_file_computes_what_the_fake_quantized_network_does(name, per_channel, source, tmp_path):
    model = lively(name)
    writer = Job(model, 1, per_channel, source)
    tflite.write(writer, Target("tflite", "int8", "none"), tmp_path / "x.tflite")
    detector = loading.load(tmp_path / "x.tflite")
    quantized_model = Detector.of(writer.quantized())
    images = np.round(255 * images_for(model)) / np.float32(255)
    for image in images:
        mine, theirs = quantized_model.network(image[None]), detector.network(image[None])
        assert np.abs(mine.scores - theirs.scores).max() < 0.05  # some feature maps go to the other side of a half
        assert np.abs(mine.scores - theirs.scores).mean() < 0.005
    interpreter = started(model_path=str(tmp_path / "x.tflite"), delegates=False)
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    types = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    convolutions = [op for op in interpreter._get_ops_details() if "CONV_2D" in op["op_name"]]
    whole = [op for op in convolutions if types[op["outputs"][0]] == np.int8]
    outputs = len(keras.tree.flatten(model.network.output))
    assert len(convolutions) - len(whole) <= outputs < len(whole)  # the last of each level, and of each branch


@pytest.mark.slow
def test_calibrated_from_shards_a_file_is_byte_for_byte_that_from_files(source, tmp_path):
    write_tfrecords.write(source, tmp_path / "records", 2, progress=False)
    again = readers.read(tmp_path / "records", "train")
    model = lively("demo")
    for precision in ("int8", "full-int8"):
        form = Target("tflite", precision, "none")
        for name, data in (("files", source), ("shards", again)):
            tflite.write(Job(model, 1, True, data), form, tmp_path / name)
        assert (tmp_path / "files").read_bytes() == (tmp_path / "shards").read_bytes()


def test_without_pictures_there_are_no_bounds(tmp_path):
    with pytest.raises(ExportError, match=r"int8: expected images to find the ranges with, received none; --data"):
        exports.export(lively("demo"), tmp_path, [Target("tflite", "int8")])
    assert not list(tmp_path.iterdir())


# --- quantization-aware training --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_goes_on_from_a_run_and_its_file_takes_the_ranges_it_has_learned(tmp_path):
    data = demo.write(tmp_path / "data", train=8, val=4, test=1, size=(64, 96), progress=False)
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    config = load_config("demo", *TINY, stage, f"data={data}")
    first = training.train(config, tmp_path / "first", progress=False)
    with pytest.raises(ConfigError, match=r"model.quantize: expected train.init, a run whose trained weights"):
        training.train(load_config("demo", *TINY, stage, f"data={data}", "model.quantize=true"), tmp_path / "none")
    options = [
        "model.quantize=true",
        f"train.init={first.folder}",
        "train.stages=[{epochs: 2, lr: 0.001, plain_epochs: 2}]",
    ]
    config = load_config("demo", *TINY, f"data={data}", *options)
    with pytest.raises(ConfigError, match=r"expected float32 with model\.quantize"):
        training.train(
            load_config("demo", *TINY, f"data={data}", *options, "train.precision=bfloat16"), tmp_path / "no"
        )
    run = training.train(config, tmp_path / "tuned", progress=False)
    model = models.load_model(run.folder)
    found = calibration.calibrate(models.load_model(first.folder), lambda: [images_for(model)]).quantized()
    bounds = {v.path: float(v) for v in model.network.variables if v.path.endswith(("/low", "/high"))}
    assert bounds and bounds.keys() == {v.path for v in found.network.variables if v.path.endswith(("/low", "/high"))}
    assert model.config.model.quantize and set(loading.load(run.folder).classes) == set(model.classes)
    made = exports.export(
        model, tmp_path / "out", [Target("tflite", "int8"), Target("tflite")]
    )  # no calibration is needed
    assert made["tflite-int8"].path.exists()
    scales = [
        detail["quantization"][0]
        for detail in started(model_path=str(made["tflite-int8"].path), delegates=False).get_tensor_details()
        if detail["dtype"] == np.int8
    ]
    name = next(path for path in bounds if path.startswith("backbone") and path.endswith(".act.int8/high"))
    high, low = bounds[name], min(bounds[name.replace("/high", "/low")], 0.0)
    assert np.min(np.abs(np.array(scales) - (high - low) / 255)) < 1e-6 * max(high, 1)
    assert configs.load(run.folder / "config.yaml").model.quantize
