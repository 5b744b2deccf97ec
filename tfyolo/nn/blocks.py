"""Blocks that several families share. Each maps Keras tensors [B, h, w, C] to one; `name` is a path joined by dots."""

import math

import keras
from keras import layers, ops

from tfyolo.graph.nodes import layer_behind
from tfyolo.nn.activations import activate
from tfyolo.nn.depthwise import DepthwiseConv2D
from tfyolo.nn.norm import BatchNorm, SharedBatchNorm
from tfyolo.nn.pooling import max_pool


class SharedConv2D(layers.Conv2D):
    """A convolution with the weights of another, its owner; its input and its dilation are its own.

    Args:
        owner: a built Conv2D.
        kwargs: of Conv2D.

    Source: the branches of TridentNet, Li et al. 2019, arXiv:1901.01892, section 3.1.
    """

    fusion, quantization = "convolution", "float"  # fused, it is a Conv2D

    def __init__(self, owner, **kwargs):
        super().__init__(owner.filters, owner.kernel_size, groups=owner.groups, **kwargs)
        self._owner = lambda: owner  # as an attribute it would be a part of this layer to Keras

    def build(self, shape):
        """Takes the owner's weights."""
        owner = self._owner()
        self._kernel, self.bias = owner.kernel, owner.bias


class FitChannels(layers.Layer):
    """The first channels of a feature map, padded with zeros if it has fewer.

    Darknet adds feature maps of unequal channels so.

    Args:
        count: channels of the output.
    """

    quantization = "moves"

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        """[B, h, w, any] -> [B, h, w, count]."""
        missing = self.count - x.shape[-1]
        if missing <= 0:
            return x[..., : self.count]
        return ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, missing)])

    def compute_output_shape(self, shape):
        """As call()."""
        return (*shape[:-1], self.count)


class ChannelGroup(layers.Layer):
    """One of several equal groups of channels: Darknet's `[route] groups=2 group_id=1` is the second half.

    Args:
        groups: number of groups, a divisor of C.
        index: of the group, 0..groups - 1.

    Raises:
        ValueError: there is no such group, or the channels are no multiple of groups.
    """

    quantization = "moves"

    def __init__(self, groups, index, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= index < groups:
            raise ValueError(f"index: expected a group in [0, {groups}), received {index}")
        self.groups, self.index = groups, index

    def call(self, x):
        """[B, h, w, C] -> [B, h, w, C / groups]."""
        self._size(x.shape)
        return ops.split(x, self.groups, axis=-1)[self.index]  # a slice's gradient is much slower

    def compute_output_shape(self, shape):
        """As call()."""
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

    Args:
        x: [B, h, w, any].
        filters: channels of the output.
        kernel: size of the kernel, in cells.
        stride: in cells.
        norm: True: batch norm. False: a bias.
        epsilon: of the batch norm.
        activation: one of nn.activations.ACTIVATIONS.
        groups: of channels, each convolved by itself; as many as channels make it depthwise.
        dilation: in cells.
        pad: cells of padding on every side, before dilation. None: kernel // 2, as Darknet pads. "same": inside the
            convolution, without an operation of its own, as TensorFlow's networks are trained; strided, on even sizes,
            it reads one cell further down and to the right.
        initializer: of the kernel, as Keras takes it.
        owner: the output of another such convolution, whose weights this one shares; None: its own.
        name: of the layers.

    Returns:
        [B, h / stride, w / stride, filters], with the default pad.
    """
    inside, pad = pad == "same", kernel // 2 if pad in (None, "same") else pad
    # Keras has no strided dilation: it convolves at every cell, and every stride-th is picked. fuse() restores it.
    stride, picked = (1, stride) if dilation > 1 else (stride, 1)
    # On all sides alike, "same" pads only where nothing is strided and the kernel has a middle.
    same = inside or (stride == picked == 1 and kernel % 2 and pad == kernel // 2)
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
        x = DepthwiseConv2D(kernel, depthwise_initializer=initializer, **options)(x)
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
    """Spatial pyramid pooling: a feature map joined to its maxima over windows, the largest first.

    Args:
        x: [B, h, w, C].
        sizes: odd windows, in cells.
        name: of the layers.

    Returns:
        [B, h, w, (len(sizes) + 1) * C].

    Source: He et al. 2014, arXiv:1406.4729, as in YOLOv3-SPP.
    """
    pools = [max_pool(x, size, 1, name=f"{name}.pool{size}") for size in reversed(sizes)]
    return layers.Concatenate(name=f"{name}.concat")([*pools, x])


def silu_conv(x, filters, kernel=1, stride=1, *, groups=1, pad=None, activation="silu", epsilon=1e-3, name):
    """The convolution of YOLOv7, YOLOv8 and their line.

    Its kernel is initialised as small as PyTorch's, 0.4 of he_normal's. The output of the batch norm does not depend on
    that, but a learning rate moves a smaller kernel further.

    Args:
        x: [B, h, w, any].
        filters: channels of the output.
        kernel: size of the kernel, in cells.
        stride: in cells.
        groups: of channels, each convolved by itself; as many as channels make it depthwise.
        pad: cells of padding on every side; None: kernel // 2.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norm.
        name: of the layers.

    Returns:
        [B, h / stride, w / stride, filters], with the default pad.
    """
    small = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    options = {"activation": activation, "epsilon": epsilon, "initializer": small, "groups": groups, "pad": pad}
    return conv(x, filters, kernel, stride, **options, name=name)


def bottleneck(x, channels, *, squeeze=1.0, shortcut=True, activation="silu", name):
    """Two 3x3 convolutions, added to the input if it has as many channels as the output.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        squeeze: channels between the two convolutions, as a share of `channels`.
        shortcut: False: the input is not added.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: He et al. 2016, arXiv:1512.03385, figure 2.
    """
    y = silu_conv(x, int(channels * squeeze), 3, activation=activation, name=f"{name}.conv1")
    y = silu_conv(y, channels, 3, activation=activation, name=f"{name}.conv2")
    return layers.Add(name=f"{name}.add")([x, y]) if shortcut and x.shape[-1] == channels else y


def sppf(x, channels, size=5, *, activation="silu", name):
    """Spatial pyramid pooling, fast: three poolings in a row have the windows 5, 9 and 13 of spp.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        size: odd window of each pooling, in cells.
        activation: one of nn.activations.ACTIVATIONS.
        name: of the layers.

    Returns:
        [B, h, w, channels].
    """
    x = silu_conv(x, x.shape[-1] // 2, 1, activation=activation, name=f"{name}.split")
    chain = [x]
    for i in range(3):
        chain.append(max_pool(chain[-1], size, 1, name=f"{name}.pool{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def scaled(channels, width):
    """Channels times width, raised to a multiple of 8: sizes that convolution kernels are fast at.

    Args:
        channels: before scaling.
        width: factor, above 0; 1 leaves the channels as they are.

    Returns:
        The number of channels.
    """
    return channels if width == 1 else 8 * math.ceil(round(channels * width, 6) / 8)


def repeated(count, depth):
    """Repeats of a block times depth.

    Args:
        count: before scaling.
        depth: factor, above 0.

    Returns:
        The number of repeats, at least 1.
    """
    return max(round(count * depth), 1)


def repconv(x, channels, *, identity=True, activation="silu", epsilon=1e-3, name):
    """A re-parameterised 3x3 convolution (RepConv).

    In training it is a 3x3 convolution beside a 1x1 and, with as many channels in as out, beside a batch norm alone;
    graph.fusion makes one convolution of them.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        identity: whether the batch norm alone is a branch. Where the output is added or joined to another, the paper
            leaves it out (RepConvN, Wang et al. 2022, arXiv:2207.02696, section 4.1).
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms.
        name: of the layers.

    Returns:
        [B, h, w, channels].

    Source: Ding et al. 2021, arXiv:2101.03697, section 3.
    """
    options = {"activation": "linear", "epsilon": epsilon}
    branches = [silu_conv(x, channels, kernel, **options, name=f"{name}.rep{kernel}") for kernel in (3, 1)]
    if identity and x.shape[-1] == channels:
        branches.append(BatchNorm(epsilon=epsilon, name=f"{name}.identity")(x))
    return activate(layers.Add(name=f"{name}.add")(branches), activation, name=name)
