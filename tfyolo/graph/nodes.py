"""A Keras network as a graph of calls: in order, copied, cut down to what inference reads.

Keras's private attributes of tensors, calls and networks are read in this folder alone (tests/test_imports.py).
"""

import contextlib

import keras
from keras import layers
from keras.src.backend.common import global_state

from tfyolo.structures import Raw


def used(network):
    """Takes away what only training reads, Raw.aux.

    Args:
        network: keras.Model, images [B, H, W, 3] -> Raw.

    Returns:
        keras.Model with the same weights, images -> parts; the given one if it has nothing of the kind.
    """
    if not isinstance(network.output, Raw):
        return network
    return keras.Model(network.input, network.output.parts, name=network.name)


def nodes(network):
    """The calls that lead to a network's outputs.

    Args:
        network: keras.Model.

    Returns:
        ([node], {id of a tensor: count}): the calls, each after those that it reads; and how often each tensor is read,
        where being an output counts as once.
    """
    outputs = keras.tree.flatten(network.output)
    readers = {id(x): 1 for x in outputs}
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


def source(tensor):
    """What a tensor comes from.

    Args:
        tensor: a KerasTensor.

    Returns:
        (layer, [tensors that this call of it reads], which of its outputs the tensor is)
    """
    return tensor._keras_history.operation, _node(tensor).input_tensors, tensor._keras_history.tensor_index


def readers_of(tensor):
    """[layer] of those that read what a tensor's layer outputs, in the order in which they were called."""
    return [node.operation for node in tensor._keras_history.operation._outbound_nodes]


def layer_behind(tensor, kind):
    """Finds the nearest layer of a class that a tensor comes from, straight back.

    Args:
        tensor: a KerasTensor.
        kind: a class or a tuple of classes.

    Returns:
        The layer; None where branches join before one is found.
    """
    while True:
        layer, sources, _ = source(tensor)
        if isinstance(layer, kind):
            return layer
        if len(sources) != 1:
            return None
        (tensor,) = sources


def all_layers(network):
    """[layer] of a network, those inside of other layers and the network itself included."""
    return network._flatten_layers()


def input_like(tensor):
    """A keras.Input of a tensor's shape, dtype and name."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=source(tensor)[0].name)


def copied(layer, activations=None):
    """Makes a layer, or a bare operation, with the same config and without weights.

    Args:
        layer: keras.layers.Layer or keras.Operation.
        activations: (function) -> another that computes the same, which a layers.Activation gets in its place.

    Returns:
        The layer or operation, not yet called.
    """
    if isinstance(layer, layers.Activation):
        # Its function may be a lambda, which does not come back from a config.
        function = activations(layer.activation) if activations else layer.activation
        return layers.Activation(function, name=layer.name, dtype=layer.dtype_policy)
    return type(layer).from_config(layer.get_config())


def take_weights(copy, layer):
    """Gives the variables of a layer's copy the layer's values.

    Args:
        copy: what copied() made, built.
        layer: the keras.layers.Layer.
    """
    for mine, theirs in zip(copy.variables, layer.variables, strict=True):
        mine.assign(theirs)


def call_in_order(network, inputs, call):
    """Computes a network call by call; a feature map is kept until its last reader has it.

    Args:
        network: keras.Model of one input.
        inputs: what stands for it: a tensor, or a KerasTensor to build another network.
        call: function (layer, *args, **kwargs) -> the layer's outputs; what it returns, later layers read.

    Returns:
        The network's outputs.
    """
    order, readers = nodes(network)
    values = {}
    for node in order:
        if node.is_input:
            outputs = [inputs]
        else:
            args, kwargs = node.arguments.fill_in({id(x): values[id(x)] for x in node.input_tensors})
            outputs = keras.tree.flatten(call(node.operation, *args, **kwargs))
        values |= {id(x): value for x, value in zip(node.output_tensors, outputs, strict=True)}
        for x in node.input_tensors:
            readers[id(x)] -= 1
            if not readers[id(x)]:
                del values[id(x)]
    return keras.tree.map_structure(lambda x: values[id(x)], network.output)


def rebuilt(network, instead):
    """Builds a network anew, with some of its layers replaced.

    Args:
        network: keras.Model of a fused Model, of one input; no layer has its weights from another.
        instead: {layer: function of what the layer reads, one tensor, that gives what stands in its output's place}.

    Returns:
        keras.Model with weights of its own.
    """
    copies = {}

    def call(layer, *args, **kwargs):
        if layer in instead:
            return instead[layer](*args, **kwargs)
        known = layer in copies
        if not known:
            copies[layer] = copied(layer)
        outputs = copies[layer](*args, **kwargs)
        if not known and isinstance(layer, layers.Layer):  # bare operations have no weights
            take_weights(copies[layer], layer)
        return outputs

    inputs = input_like(network.input)
    return keras.Model(inputs, call_in_order(network, inputs, call), name=network.name)


def map_name(tensor):
    """A feature map's name, equal in all networks of one structure: its layer's, and where needed call and output."""
    layer, call, index = tensor._keras_history
    name = f"{layer.name}.call{call}" if call else layer.name  # of a layer that is called more than once
    return f"{name}:{index}" if index else name


@contextlib.contextmanager
def unallocated_variables():
    """In its `with`, layers are built whose variables never get memory and values: for their names and shapes."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras would initialise them at the end of the next scope.
        global_state.set_global_attribute("uninitialized_variables", [])


@contextlib.contextmanager
def deferred_variables():
    """Defers the variables of layers built in its `with`: they get memory and values as it ends, none if it raises."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    except BaseException:
        # Keras would initialise the variables of the network that failed at the end of the next scope.
        global_state.set_global_attribute("uninitialized_variables", [])
        raise
    with keras.StatelessScope():  # initialises what waits, as it ends
        pass
