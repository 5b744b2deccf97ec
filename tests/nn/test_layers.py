"""Layers against Keras's, and against Darknet's padding written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfyolo.nn.activations import mish, mish_by_exp
from tfyolo.nn.blocks import ChannelGroup, conv, spp
from tfyolo.nn.norm import BatchNorm
from tfyolo.nn.pooling import max_pool
from tfyolo.nn.resample import SpaceToDepth, Upsample


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 3, shape).astype("float32")


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_equals_keras(training):
    ours, theirs = BatchNorm(), keras.layers.BatchNormalization(momentum=0.97, epsilon=1e-5)
    x, weight = tf.constant(noise(4, 6, 5, 8)), noise(4, 6, 5, 8, seed=1)
    ours.build(x.shape), theirs.build(x.shape)
    for layer in (ours, theirs):
        for i, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance")):
            getattr(layer, name).assign(np.abs(noise(8, seed=2 + i)))
    results = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * weight)
        results.append(
            (
                y,
                *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]),
                layer.moving_mean,
                layer.moving_variance,
            )
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def test_a_frozen_batch_norm_stands_still():
    layer = BatchNorm(trainable=False)
    x = noise(2, 3, 3, 4)
    np.testing.assert_allclose(layer(x, training=True), layer(x, training=False))
    assert not layer.trainable_variables and not np.any(layer.moving_mean)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("size", [(3, 5), (40, 41), (76, 13)])
def test_upsample_repeats_pixels(factor, size):
    x, upsample = noise(2, *size, 4), tf.function(Upsample(factor))
    np.testing.assert_array_equal(upsample(x), x.repeat(factor, 1).repeat(factor, 2))
    (resize,) = (
        each
        for each in upsample.get_concrete_function(x).graph.get_operations()
        if each.type == "ResizeNearestNeighbor"
    )
    assert not resize.get_attr("half_pixel_centers")  # which Coral's compiler refuses


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_channel_groups_divide_the_channels_in_order(groups):
    x = noise(2, 3, 5, 6)
    parts = [ChannelGroup(groups, index)(x) for index in range(groups)]
    for part, expected in zip(parts, np.split(x, groups, axis=-1), strict=True):
        np.testing.assert_array_equal(part, expected)
    symbolic = ChannelGroup(groups, 0)(keras.Input((3, 5, 6)))
    assert symbolic.shape == (None, 3, 5, 6 // groups)


def test_channel_groups_that_are_none_are_named():
    with pytest.raises(ValueError, match=r"index: expected a group in \[0, 2\), received 2"):
        ChannelGroup(2, 2)
    with pytest.raises(ValueError, match="groups: expected a divisor of 6 channels, received 4"):
        ChannelGroup(4, 0)(keras.Input((3, 5, 6)))


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9)])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (7, 2), (3, 1), (1, 1)])
def test_convolutions_pad_as_darknet(size, kernel, stride):
    """kernel // 2 zeros on every side, then a plain sliding window."""
    images = keras.Input((*size, 2))
    model = keras.Model(images, conv(images, 3, kernel, stride, norm=False, activation="linear", name="c"))
    weights = model.layers[-1].kernel.numpy()
    x = noise(1, *size, 2)
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((side + 2 * pad - kernel) // stride + 1 for side in size)
    expected = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            window = padded[0, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[i, j] = np.tensordot(window, weights, 3)
    np.testing.assert_allclose(model(x)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("groups, dilation, filters", [(1, 2, 4), (2, 1, 6), (4, 1, 4), (4, 3, 4)])
def test_grouped_and_dilated_convolutions(groups, dilation, filters):
    """The filters of a group see its channels alone, with dilation - 1 pixels between those they read."""
    images = keras.Input((7, 9, 4))
    options = {"groups": groups, "dilation": dilation, "norm": False, "activation": "linear", "name": "c"}
    model = keras.Model(images, conv(images, filters, 3, **options))
    weights = model.layers[-1].kernel.numpy()
    if groups == filters:  # a depthwise kernel is [k, k, C, 1]
        weights = weights.transpose(0, 1, 3, 2)
    x = noise(1, 7, 9, 4)
    padded = np.pad(x[0], ((dilation, dilation), (dilation, dilation), (0, 0)))
    expected = np.zeros((7, 9, filters))
    for f in range(filters):
        group = f // (filters // groups)
        channels = slice(group * (4 // groups), (group + 1) * (4 // groups))
        for i in range(7):
            for j in range(9):
                window = padded[i : i + 2 * dilation + 1 : dilation, j : j + 2 * dilation + 1 : dilation, channels]
                expected[i, j, f] = (window * weights[..., f]).sum()
    np.testing.assert_allclose(model(x)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size, stride", [(2, 2), (2, 1), (5, 1), (13, 1), (3, 2), (4, 4), (1, 2)])
def test_pooling_pads_as_darknet(size, stride):
    x = noise(1, 8, 8, 2)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    padded = np.pad(x[0], ((before, after), (before, after), (0, 0)), constant_values=-np.inf)
    places = range(0, 8, stride)
    expected = [[padded[i : i + size, j : j + size].max((0, 1)) for j in places] for i in places]
    np.testing.assert_array_equal(max_pool(x, size, stride, name="p")[0], np.array(expected, "float32"))


def test_a_strided_pool_of_an_odd_window_needs_no_padding_of_its_own():
    """Padding with the lowest number is PADV2 in TFLite, which Coral's compiler refuses."""
    images = keras.Input((8, 10, 3))
    network = keras.Model(images, max_pool(images, 3, 2, name="p"))
    assert {type(layer) for layer in network.layers[1:]} == {keras.layers.MaxPooling2D}
    assert network.output.shape == (None, 4, 5, 3)


def test_spp_is_the_three_pools_and_the_map_largest_window_first():
    x = noise(1, 16, 16, 2)
    expected = np.concatenate([max_pool(x, size, 1, name="p") for size in (13, 9, 5)] + [x], -1)
    np.testing.assert_array_equal(spp(x, name="s"), expected)


def mish_oracle(x):
    """mish and its derivative, in float64."""
    e = np.exp(np.asarray(x, "float64"))
    tanh = e * (e + 2) / (e * (e + 2) + 2)
    return x * tanh, tanh + x * 4 * e * (e + 1) / (e * (e + 2) + 2) ** 2


@pytest.mark.parametrize(
    "function, atol",
    [(mish, 1e-35), (mish_by_exp, 1e-35), (tf.function(mish), 2e-6), (tf.function(mish_by_exp), 1e-35)],
)
def test_mish_in_both_forms(function, atol):
    """oneDNN's kernel, which stands in for mish in a graph, is exact to 1e-6 and not to a part of the value."""
    x = np.append(np.linspace(-100, 100, 20001), [-1e10, 1e10]).astype("float32")
    expected = np.where(x > 100, x, mish_oracle(np.minimum(x, 100))[0])
    np.testing.assert_allclose(function(tf.constant(x)), expected, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-6), ("bfloat16", 2**-7)])
@pytest.mark.parametrize("function", [mish, tf.function(mish)])
def test_mishs_own_gradient(function, dtype, atol):
    x = tf.cast(np.linspace(-100, 100, 20001), dtype)
    upstream = tf.cast(np.random.default_rng(0).uniform(-1, 1, 20001), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    gradient = tape.gradient(y, x, upstream)
    assert y.dtype == gradient.dtype == x.dtype
    value, slope = mish_oracle(tf.cast(x, "float64"))
    np.testing.assert_allclose(tf.cast(y, "float64"), value, rtol=1e-6 if dtype == "float32" else 0.04, atol=1e-5)
    np.testing.assert_allclose(tf.cast(gradient, "float64"), slope * tf.cast(upstream, "float64"), rtol=0, atol=atol)
    with tf.GradientTape() as tape:
        far = tf.constant([-1e30, -1e10, 1e10, 1e30])
        tape.watch(far)
        y = function(far)
    np.testing.assert_array_equal(tape.gradient(y, far), [0, 0, 1, 1])


@pytest.mark.parametrize("size", [(4, 6), (None, None)])
def test_space_to_depth_by_hand(size):
    images = np.arange(2 * 4 * 6 * 3, dtype="float32").reshape(2, 4, 6, 3)
    inputs = keras.Input((*size, 3))
    found = keras.Model(inputs, SpaceToDepth()(inputs))(images)
    corners = [images[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    np.testing.assert_array_equal(found, np.concatenate(corners, axis=-1))
