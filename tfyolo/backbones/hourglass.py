"""Stacked hourglasses (Newell et al. 2016, arXiv:1603.06937), as in CornerNet (Law and Deng 2018, arXiv:1808.01244)."""

import functools

from keras import layers

from tfyolo.config.ranges import Channels, ChannelsEach, Repeats, RepeatsEach
from tfyolo.nn.activations import activate
from tfyolo.nn.blocks import conv
from tfyolo.nn.resample import Upsample
from tfyolo.structures import Features

relu_conv = functools.partial(conv, activation="relu")
linear_conv = functools.partial(conv, activation="linear")


def residual(x, channels, stride=1, *, name):
    """Two 3x3 convolutions, added to the input; a 1x1 convolution stands in the skip where the shape changes.

    Args:
        x: [B, h, w, any].
        channels: of the output.
        stride: of the first convolution, 1 or 2.
        name: of the layers.

    Returns:
        [B, h / stride, w / stride, channels].

    Source: He et al. 2016, arXiv:1512.03385, figure 2.
    """
    y = relu_conv(x, channels, 3, stride, name=f"{name}.conv1")
    y = linear_conv(y, channels, 3, name=f"{name}.conv2")
    if stride != 1 or x.shape[-1] != channels:
        x = linear_conv(x, channels, 1, stride, name=f"{name}.skip")
    return activate(layers.Add(name=f"{name}.add")([x, y]), "relu", name=name)


def _residuals(x, channels, count, *, stride=1, last=None, name):
    """A row of residual blocks: the first may stride, the last may have other channels."""
    for i in range(1, count + 1):
        width = last if last and i == count else channels
        x = residual(x, width, stride if i == 1 else 1, name=f"{name}{i}")
    return x


def _hourglass(x, dims, modules, *, name):
    """Down and up again between residual blocks, beside a skip of full resolution: [B, h, w, dims[0]]."""
    (here, below, *_), (count, deeper, *_) = dims, modules
    skip = _residuals(x, here, count, name=f"{name}.skip")
    x = _residuals(x, below, count, stride=2, name=f"{name}.down")
    if len(dims) > 2:
        x = _hourglass(x, dims[1:], modules[1:], name=f"{name}.in")
    else:
        x = _residuals(x, below, deeper, name=f"{name}.in")
    x = _residuals(x, below, count, last=here, name=f"{name}.up")
    return layers.Add(name=f"{name}.add")([skip, Upsample(name=f"{name}.upsample")(x)])


def hourglass(
    images,
    *,
    stacks: Repeats = 1,
    dims: ChannelsEach = (64, 96, 128, 192),
    modules: RepeatsEach = (1, 1, 1, 2),
    stem: Channels = 32,
    name="backbone",
):
    """Hourglasses in a row, each an encoder and decoder with skips.

    Args:
        images: [B, H, W, 3] RGB, 0..1. H and W are multiples of 4 * 2^(len(dims) - 1).
        stacks: number of hourglasses.
        dims: channels of each grid, from p2 on; each grid is half the one before.
        modules: residual blocks on each path at each grid, as many numbers as dims.
        stem: channels of the first convolution, 7x7.
        name: of the layers.

    Returns:
        Features of {"p2": [B, H / 4, W / 4, dims[0]]}, those of the last stack. If there are more, aux are the Features
        of the stack before, whose aux are those of the one before that, and so on.

    Raises:
        ValueError: dims and modules differ in length or have fewer than two numbers, or the size is no such multiple.

    Source: Law and Deng 2018, arXiv:1808.01244, section 3.5.
    """
    if len(dims) < 2 or len(dims) != len(modules):
        raise ValueError(f"dims, modules: expected as many numbers, at least 2, received {dims} and {modules}")
    multiple = 2 ** (len(dims) + 1)
    if any(side is not None and side % multiple for side in images.shape[1:3]):
        raise ValueError(f"expected an input size of multiples of {multiple}, received {list(images.shape[1:3])}")
    channels = dims[0]
    x = relu_conv(images, stem, 7, 2, name=f"{name}.stem")
    x = residual(x, channels, 2, name=f"{name}.reduce")
    features = None
    for i in range(1, stacks + 1):
        prefix = f"{name}.stack{i}"
        y = _hourglass(x, dims, modules, name=prefix)
        y = relu_conv(y, channels, 3, name=f"{prefix}.out")
        features = Features({"p2": y}, features)
        if i < stacks:
            prefix = f"{name}.next{i}"
            x = linear_conv(x, channels, 1, name=f"{name}.skip{i}")
            y = linear_conv(y, channels, 1, name=f"{prefix}.stack")
            x = activate(layers.Add(name=f"{prefix}.sum")([x, y]), "relu", name=prefix)
            x = residual(x, channels, name=f"{prefix}.residual")
    return features


def hourglass104(images, *, name="backbone"):
    """CornerNet's Hourglass-104: two stacks that halve the grid five times, 104 layers deep.

    Args:
        images: [B, H, W, 3] RGB, 0..1. H and W are multiples of 128.
        name: of the layers.

    Returns:
        Features of {"p2": [B, H / 4, W / 4, 256]}, and as aux those of the first stack.

    Source: Law and Deng 2018, arXiv:1808.01244, section 3.5.
    """
    dims, modules = (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4)
    return hourglass(images, stacks=2, dims=dims, modules=modules, stem=128, name=name)
