"""Whether two Keras networks are the same, whatever their layers are called; and the order that Darknet would write them in."""

from keras import layers

from tfyolo.layers import BatchNorm

# What makes layers of one class different: all else follows from the shapes of what they read.
_DETAILS = (
    *("filters", "kernel_size", "strides", "padding", "groups", "dilation_rate", "use_bias"),  # convolutions
    *("activation", "epsilon", "pool_size", "target_shape", "count", "factor", "index", "before", "after"),
    *("units", "stride", "pad", "as_published", "per_channel", "normalization"),
)


def _source(tensor):
    """(layer, tensors that it read, which of its outputs this is)."""
    layer, node, index = tensor._keras_history
    return layer, layer._inbound_nodes[node].input_tensors, index


class _Keys(dict):
    """A number for each tensor: equal where everything that leads to the tensors is."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def of(self, output):
        waiting = [output]
        while waiting:  # not by recursion: networks are deeper than Python's stack likes
            tensor = waiting[-1]
            layer, inputs, index = _source(tensor)
            missing = [x for x in inputs if id(x) not in self]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            details = tuple(str(getattr(layer, name, None)) for name in _DETAILS)
            below = [self[id(x)] for x in inputs]
            if isinstance(layer, layers.Add | layers.Multiply):
                below.sort()
            signature = (type(layer).__name__, index, tuple(tensor.shape), details, *below)
            self[id(tensor)] = self.known.setdefault(signature, len(self.known))
        return self[id(output)]


def pair(left, right):
    """{name of a layer in left: its twin in right} of two Keras networks of one structure; None if they are not."""
    keys = _Keys()
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
        (layer, inputs, _), (twin, twins, _) = _source(a), _source(b)
        if names.setdefault(layer.name, twin.name) != twin.name:
            return None
        if isinstance(layer, layers.Add | layers.Multiply):
            inputs, twins = (sorted(each, key=keys.of) for each in (inputs, twins))
        waiting += zip(inputs, twins, strict=True)
    return names


def in_file_order(network):
    """[(convolution, its BatchNorm or None)] in the order in which Darknet's .cfg files have them.

    A .cfg has a layer after all that it reads; where branches are joined, the one joined last was written first, and of a sum the one
    that was there before.
    """
    found, seen = [], set()
    waiting = [(tensor, False) for tensor in reversed(list(_leaves(network.output).values()))]
    while waiting:
        tensor, ready = waiting.pop()
        layer, inputs, _ = _source(tensor)
        if ready:
            if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
                readers = [node.operation for node in layer.output._keras_history.operation._outbound_nodes]
                norm = next((reader for reader in readers if isinstance(reader, BatchNorm)), None)
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
