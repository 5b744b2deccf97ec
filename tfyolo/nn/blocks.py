"""Blocks that several families share. Each takes and returns Keras tensors [B, h, w, C]; `name` is a path joined by dots."""

import math

import keras
from keras import layers, ops

from tfyolo.graph.nodes import layer_behind
from tfyolo.nn.activations import activate
from tfyolo.nn.norm import BatchNorm, SharedBatchNorm
from tfyolo.nn.pooling import max_pool


class SharedConv2D(layers.Conv2D):
    """A convolution with the weights of another, its owner: what differs is what it reads, and at which dilation (TridentNet's branches,
    Li et al. 2019, arXiv:1901.01892, section 3.1).
    """

    fusion, quantization = "convolution", "float"  # fused, it is a Conv2D

    def __init__(self, owner, **kwargs):
        super().__init__(owner.filters, owner.kernel_size, groups=owner.groups, **kwargs)
        self._owner = lambda: owner  # as an attribute it would be a part of this layer to Keras

    def build(self, shape):
        owner = self._owner()
        self._kernel, self.bias = owner.kernel, owner.bias


class FitChannels(layers.Layer):
    """The first `count` channels of a map, and zeros for those that it lacks: what Darknet adds up of maps with unequal channels."""

    quantization = "moves"

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        missing = self.count - x.shape[-1]
        if missing <= 0:
            return x[..., : self.count]
        return ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, missing)])

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.count)


class ChannelGroup(layers.Layer):
    """One of several equal groups of a map's channels: Darknet's `[route] groups=2 group_id=1` is the second half."""

    quantization = "moves"

    def __init__(self, groups, index, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= index < groups:
            raise ValueError(f"index: expected a group in [0, {groups}), received {index}")
        self.groups, self.index = groups, index

    def call(self, x):
        self._size(x.shape)
        return ops.split(x, self.groups, axis=-1)[self.index]  # a slice's gradient is much slower

    def compute_output_shape(self, shape):
        return (*shape[:-1], self._size(shape))

    def _size(self, shape):
        if shape[-1] % self.groups:
            raise ValueError(f"groups: expected a divisor of {shape[-1]} channels, received {self.groups}")
        return shape[-1] // self.groups


def conv(
    x,
    filters,
    kernel=1,
    stride=1,
    *,
    norm=True,
    epsilon=1e-5,
    activation="leaky",
    groups=1,
    dilation=1,
    pad=None,
    initializer="he_normal",
    owner=None,
    name,
):
    """Convolution, batch norm (or a bias), activation.

    pad: pixels of padding on every side, before dilation; None: kernel // 2, as Darknet pads. "same" would shift a strided
    convolution by one pixel on even sizes. epsilon: of the batch norm. groups: of channels, each convolved by itself; as many as
    channels is depthwise. owner: the output of another convolution of this kind, whose weights this one has, too.
    """
    pad = kernel // 2 if pad is None else pad
    # Keras knows no strided dilation: every stride-th pixel is picked of what is convolved at every one. fuse() makes a stride of it.
    stride, picked = (1, stride) if dilation > 1 else (stride, 1)
    # On all sides alike, "same" pads only where nothing is strided and the kernel has a middle.
    same = stride == picked == 1 and kernel % 2 and pad == kernel // 2
    if pad and not same:
        x = layers.ZeroPadding2D(pad * dilation, data_format="channels_last", name=f"{name}.pad")(x)
    options = {
        "strides": stride,
        "padding": "same" if same else "valid",
        "dilation_rate": dilation,
        "data_format": "channels_last",
        "use_bias": not norm,
        "name": f"{name}.conv",
    }
    if owner is not None:
        x = SharedConv2D(layer_behind(owner, layers.Conv2D), **options)(x)
    elif groups > 1 and groups == filters == x.shape[-1]:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer=initializer, **options)(x)
    else:
        x = layers.Conv2D(filters, kernel, groups=groups, kernel_initializer=initializer, **options)(x)
    if picked > 1:
        x = layers.MaxPooling2D(1, picked, data_format="channels_last", name=f"{name}.pick")(x)
    if norm and owner is not None:
        x = SharedBatchNorm(layer_behind(owner, BatchNorm), name=f"{name}.norm")(x)
    elif norm:
        x = BatchNorm(epsilon=epsilon, name=f"{name}.norm")(x)
    return activate(x, activation, name=name)


def spp(x, sizes=(5, 9, 13), *, name):
    """Spatial pyramid pooling: the map beside its own maxima over growing windows (He et al. 2014, as in YOLOv3-SPP)."""
    pools = [max_pool(x, size, 1, name=f"{name}.pool{size}") for size in reversed(sizes)]
    return layers.Concatenate(name=f"{name}.concat")([*pools, x])


def silu_conv(x, filters, kernel=1, stride=1, *, groups=1, activation="silu", epsilon=1e-3, name):
    """The convolution of YOLOv7, YOLOv8 and their line.

    It begins with weights as small as PyTorch's do, 0.4 of he_normal's: what follows a batch norm's scale does not change, but a
    learning rate moves them as much more.
    """
    small = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    options = {"activation": activation, "epsilon": epsilon, "initializer": small, "groups": groups}
    return conv(x, filters, kernel, stride, **options, name=name)


def bottleneck(x, channels, *, squeeze=1.0, shortcut=True, activation="silu", name):
    """Two 3x3 convolutions, and, if it has as many channels as they give, the input added to what they make of it.

    squeeze: the channels between the two, as part of `channels`.
    """
    y = silu_conv(x, int(channels * squeeze), 3, activation=activation, name=f"{name}.conv1")
    y = silu_conv(y, channels, 3, activation=activation, name=f"{name}.conv2")
    return layers.Add(name=f"{name}.add")([x, y]) if shortcut and x.shape[-1] == channels else y


def sppf(x, channels, size=5, *, activation="silu", name):
    """Spatial pyramid pooling, fast: three poolings in a row see what spp's see with windows of 5, 9 and 13."""
    x = silu_conv(x, x.shape[-1] // 2, 1, activation=activation, name=f"{name}.split")
    chain = [x]
    for i in range(3):
        chain.append(max_pool(chain[-1], size, 1, name=f"{name}.pool{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def scaled(channels, width):
    """Channels times width, raised to a multiple of 8: sizes that convolution kernels like. width > 0."""
    return channels if width == 1 else 8 * math.ceil(round(channels * width, 6) / 8)


def repeated(count, depth):
    """Repeats of a block times depth, at least 1. depth > 0."""
    return max(round(count * depth), 1)


def repconv(x, channels, *, identity=True, activation="silu", epsilon=1e-3, name):
    """A re-parameterised 3x3 convolution (Ding et al. 2021, arXiv:2101.03697, section 3): it trains as a 3x3 beside a 1x1 and, with as
    many channels in as out, beside nothing but a batch norm; fuse() makes one convolution of them.

    identity: whether there is that third branch. Where the output is added to something, or joined with it, it had better not be
    (Wang et al. 2022, arXiv:2207.02696, section 4.1: RepConvN).
    """
    options = {"activation": "linear", "epsilon": epsilon}
    branches = [silu_conv(x, channels, kernel, **options, name=f"{name}.rep{kernel}") for kernel in (3, 1)]
    if identity and x.shape[-1] == channels:
        branches.append(BatchNorm(epsilon=epsilon, name=f"{name}.identity")(x))
    return activate(layers.Add(name=f"{name}.add")(branches), activation, name=name)
