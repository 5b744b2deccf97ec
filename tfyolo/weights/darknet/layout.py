"""Where each weight of a Darknet network lies in its .weights file."""

import math
from typing import Any, NamedTuple

import numpy as np

from tfyolo.darknet import sections as section_types
from tfyolo.weights.darknet.as_config import head_cells


class _Array(NamedTuple):
    """One array of the file.

    Attributes:
        variable: the Keras path.
        shape: in the file.
        ours: the file's array -> the variable's value.
        theirs: the way back.
    """

    variable: str
    shape: tuple[int, ...]
    ours: Any = staticmethod(lambda x: x)
    theirs: Any = staticmethod(lambda x: x)

    @property
    def count(self):
        return math.prod(self.shape)


def _transposed(*axes):
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return (lambda x: x.transpose(axes)), (lambda x: x.transpose(back))


def convolution(layer, norm, filters, channels, kernel, depthwise=False, outputs=None):
    """The arrays of a convolution.

    Args:
        layer: our name.
        norm: our name of its batch norm; None without.
        filters: channels of the output.
        channels: those that each filter reads.
        kernel: its size, in cells.
        depthwise: whether each filter reads one channel.
        outputs: the order in which the file's filters become ours, its own inverse; None: the same.
    """

    def swap(x):
        return x if outputs is None else x[outputs]

    vectors = (
        [f"{norm}/{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")]
        if norm
        else [f"{layer}/bias"]
    )
    to_ours, to_theirs = _transposed(2, 3, 0, 1) if depthwise else _transposed(2, 3, 1, 0)
    return [
        *(_Array(name, (filters,), swap, swap) for name in vectors),
        _Array(
            f"{layer}/kernel",
            (filters, channels, kernel, kernel),
            lambda x: to_ours(swap(x)),
            lambda x: swap(to_theirs(x)),
        ),
    ]


def _fully_connected(layer, shape, outputs, norm=None, order=None):
    """Bias, weights (out, in), then the statistics.

    shape: (h, w, c) of the feature map it reads, which Darknet lays out channel first.
    """
    height, width, channels = shape
    dense = layer.endswith(".out")

    def swap(x):
        return x if order is None else x[order]

    def ours(x):
        x = swap(x).reshape(outputs, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, outputs)
        return x if dense else x[None, None]

    def theirs(x):
        x = x.reshape(height, width, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
        return swap(x)

    bias = f"{norm}/beta" if norm else f"{layer}/bias"
    statistics = [f"{norm}/{name}" for name in ("gamma", "moving_mean", "moving_variance")] if norm else []
    return [
        _Array(bias, (outputs,), swap, swap),
        _Array(f"{layer}/kernel", (outputs, math.prod(shape)), ours, theirs),
        *(_Array(name, (outputs,)) for name in statistics),
    ]


def _locally_connected(layer, section, shape, out):
    height, width, filters = out
    size, channels = section.size, shape[2]

    def ours(x):
        return x.transpose(0, 1, 4, 5, 3, 2).reshape(height, width, size * size * channels, filters)

    def theirs(x):
        return x.reshape(height, width, size, size, channels, filters).transpose(0, 1, 5, 4, 2, 3)

    return [
        _Array(f"{layer}/bias", (filters, height, width), *_transposed(1, 2, 0)),
        _Array(f"{layer}/kernel", (height, width, filters, channels, size, size), ours, theirs),
    ]


def yx_first(head, classes):
    """The order that brings a head's outputs from Darknet's x, y, w, h to y, x, h, w; its own inverse."""
    if head.kind == "detection":
        cells = head_cells(head, classes)
        order = np.arange(head.layer.output)
        boxes = order[cells * (classes + len(head.anchors)) :].reshape(-1, 4)
        boxes[:] = boxes[:, [1, 0, 3, 2]]
        return order
    order = np.arange(len(head.anchors) * (5 + classes)).reshape(len(head.anchors), -1)
    order[:, :4] = order[:, [1, 0, 3, 2]]
    return order.ravel()


def layout(net):
    """[(section's number, [its arrays])] of a Net's .weights file, in its order. Layers have the model's names."""
    heads = {head.output: head for head in net.heads}
    slots = []
    for (number, section), first in zip(enumerate(net.sections), section_types.owners(net.sections), strict=True):
        if first != number:
            continue
        name = f"backbone.{number}"
        sources = [net.shapes[source] if source >= 0 else (*net.size, 3) for source in section.sources(number)]
        if isinstance(section, section_types.Convolutional):
            channels = sources[0][2] // section.groups
            depthwise = section.is_depthwise(sources[0][2])
            norm = f"{name}.norm" if section.batch_normalize else None
            arrays = convolution(f"{name}.conv", norm, section.filters, channels, section.size, depthwise)
        elif isinstance(section, section_types.Connected):
            norm = f"{name}.norm" if section.batch_normalize else None
            arrays = _fully_connected(f"{name}.conv", sources[0], section.output, norm)
        elif isinstance(section, section_types.Local):
            arrays = _locally_connected(f"{name}.local", section, sources[0], net.shapes[number])
        elif isinstance(section, section_types.Shortcut) and section.weights_type != "none":
            channels = net.shapes[number][2] if section.weights_type == "per_channel" else 1
            arrays = [_Array(f"{name}.sum/weights", (len(sources), channels))]
        elif isinstance(section, section_types.Output):
            head = heads[number]
            order = yx_first(head, net.classes)
            if head.kind == "detection":
                arrays = _fully_connected("head.out", sources[0], head.layer.output, order=order)
            else:
                arrays = convolution(
                    f"head.{head.level}.out", None, head.layer.filters, sources[0][2], 1, outputs=order
                )
        else:
            continue
        slots.append((number, arrays))
    return slots
