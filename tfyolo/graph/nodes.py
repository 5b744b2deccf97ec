"""A Keras network as a graph of calls: in order, copied, cut down to what inference reads."""

import keras
from keras import layers


def used(network):
    """A network, with its weights, without what only training reads: raw["aux"]."""
    raw = network.output
    if not isinstance(raw, dict) or "aux" not in raw:
        return network
    return keras.Model(network.input, {part: raw[part] for part in raw if part != "aux"}, name=network.name)


def nodes(network):
    """The calls that lead to a network's outputs, each after those that it reads; and how often each tensor is read, by id."""
    outputs = keras.tree.flatten(network.output)
    readers = {id(x): 1 for x in outputs}  # given out is read too
    found = {}  # in order
    waiting = [(_node(x), False) for x in outputs]
    while waiting:  # not by recursion: networks are deeper than Python's stack likes
        node, ready = waiting.pop()
        if node in found:
            continue
        if ready:
            found[node] = None
            for x in node.input_tensors:
                readers[id(x)] = readers.get(id(x), 0) + 1
            continue
        waiting.append((node, True))
        waiting += [(_node(x), False) for x in reversed(node.input_tensors)]
    return list(found), readers


def _node(tensor):
    layer, index, _ = tensor._keras_history
    return layer._inbound_nodes[index]


def input_like(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name)


def copied(layer, activations=None):
    """A layer like it, without its weights; or an operation. activations: as of fuse."""
    if isinstance(layer, layers.Activation):
        # Its function may be a lambda, which does not come back from a config.
        function = (activations or {}).get(layer.activation, layer.activation)
        return layers.Activation(function, name=layer.name, dtype=layer.dtype_policy)
    return type(layer).from_config(layer.get_config())


def map_name(tensor):
    """A tensor's name, the same in every network of one structure."""
    layer, call, index = tensor._keras_history
    name = f"{layer.name}.call{call}" if call else layer.name  # of a layer that is called more than once
    return f"{name}:{index}" if index else name
