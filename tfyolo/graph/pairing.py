"""Whether two Keras networks have one structure, whatever their layers are called; and the order of Darknet's files."""

import numpy as np
from keras import layers

from tfyolo.graph.nodes import readers_of, source

# What makes layers of one class different: all else follows from the shapes of what they read.
_DETAILS = (
    *("filters", "kernel_size", "strides", "padding", "groups", "dilation_rate", "use_bias"),  # convolutions
    *("activation", "epsilon", "pool_size", "target_shape", "count", "factor", "index", "before", "after"),
    *("units", "stride", "pad", "per_channel", "normalization"),
)


def _joined(tensor):
    """As source(); but a layer that joins feature maps reads what those joined that were joined before."""
    layer, inputs, index = source(tensor)
    if isinstance(layer, layers.Concatenate):
        flat = []
        for x in inputs:
            inner, parts, _ = _joined(x)
            flat += parts if isinstance(inner, layers.Concatenate) else [x]
        inputs = flat
    return layer, inputs, index


def _in_any_order(layer):
    """Whether a layer could join in another order, if the weights of its readers were reordered too."""
    return isinstance(layer, layers.Concatenate) and all(
        type(reader) is layers.Conv2D and reader.groups == 1 for reader in readers_of(layer.output)
    )


class _Keys(dict):
    """A number for each tensor: equal where everything that leads to the tensors is."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def of(self, output):
        waiting = [output]
        while waiting:  # not by recursion: networks are deeper than Python's stack likes
            tensor = waiting[-1]
            layer, inputs, index = _joined(tensor)
            missing = [x for x in inputs if id(x) not in self]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            details = tuple(str(getattr(layer, name, None)) for name in _DETAILS)
            below = [self[id(x)] for x in inputs]
            if isinstance(layer, layers.Add | layers.Multiply) or _in_any_order(layer):
                below.sort()
            signature = (type(layer).__name__, index, tuple(tensor.shape), details, *below)
            self[id(tensor)] = self.known.setdefault(signature, len(self.known))
        return self[id(output)]


def pair(left, right):
    """Pairs the layers of two Keras networks that correspond.

    Args:
        left: keras.Model.
        right: keras.Model.

    Returns:
        (names, orders), or None if the networks differ in structure. names: {name of a layer in left: its twin's in
        right}, without layers that join feature maps in another order than their twin. orders: {name of a convolution
        in left: [[first, last + 1], ..]}: the channels of its input in the order in which its twin reads them, where
        that is another.
    """
    keys, orders = _Keys(), {}

    def rank(tensor):
        # Two convolutions of one feature map differ, but for their weights, in who reads them.
        return keys.of(tensor), len(readers_of(tensor))

    left, right = _leaves(left.output), _leaves(right.output)
    if left.keys() != right.keys():
        return None
    names, waiting = {}, [(left[path], right[path]) for path in left]
    done = set()
    while waiting:
        a, b = waiting.pop()
        if keys.of(a) != keys.of(b):
            return None
        if (id(a), id(b)) in done:
            continue
        done.add((id(a), id(b)))
        (layer, inputs, _), (twin, twins, _) = _joined(a), _joined(b)
        if names.setdefault(layer.name, twin.name) != twin.name:
            return None
        joined, wanted = ([rank(x) for x in each] for each in (inputs, twins))
        if isinstance(layer, layers.Concatenate) and joined != wanted:
            if sorted(joined) != sorted(wanted):
                return None
            ends = np.cumsum([x.shape[-1] for x in inputs]).tolist()
            blocks = [[ends[i] - inputs[i].shape[-1], ends[i]] for i in map(joined.index, wanted)]
            orders |= {reader.name: blocks for reader in readers_of(layer.output)}
            del names[layer.name]
        if isinstance(layer, layers.Add | layers.Multiply | layers.Concatenate):
            inputs, twins = (sorted(each, key=rank) for each in (inputs, twins))
        waiting += zip(inputs, twins, strict=True)
    return names, orders


def in_file_order(network, norms):
    """Lists the convolutions of a network in the order in which Darknet's .cfg files have them.

    In a .cfg a layer stands after all that it reads. Where branches are joined, the one joined last stands first; of a
    sum, the one that was there before.

    Args:
        network: keras.Model.
        norms: class of its batch norms.

    Returns:
        [(convolution, its batch norm or None)]
    """
    found, seen = [], set()
    waiting = [(tensor, False) for tensor in reversed(list(_leaves(network.output).values()))]
    while waiting:
        tensor, ready = waiting.pop()
        layer, inputs, _ = _joined(tensor)
        if ready:
            if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
                norm = next((reader for reader in readers_of(layer.output) if isinstance(reader, norms)), None)
                found.append((layer, norm))
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        waiting.append((tensor, True))
        first_to_last = list(reversed(inputs)) if isinstance(layer, layers.Concatenate) else inputs
        waiting += [(x, False) for x in reversed(first_to_last)]
    return found


def _leaves(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: leaf for name, value in tree.items() for key, leaf in _leaves(value, (*path, name)).items()}
