"""The ends of a network: what its last convolutions output, before anything only moves numbers about."""

import keras

from tfyolo.graph.declarations import quantization_of
from tfyolo.graph.nodes import source, used


def ends(network):
    """Finds the tensors from which a network's outputs are made by moving numbers alone.

    Args:
        network: keras.Model, images -> Raw; auxiliary outputs do not count.

    Returns:
        {name: KerasTensor}, finest level first: "p3_box", or "p3" where one convolution predicts all parts of a level.
    """
    parts = used(network).output
    found = {}  # {id of an end: (tensor, [(level, part)])}
    for part, levels in parts.items():
        for level, tensor in levels.items():
            end = _end(tensor)
            found.setdefault(id(end), (end, []))[1].append((level, part))
    named = {}
    for tensor, places in found.values():
        levels = sorted({level for level, _ in places}, key=lambda level: int(level[1:]))
        every = {(level, part) for part in parts for level in levels}
        which = [] if set(places) == every else sorted({part for _, part in places}, key=list(parts).index)
        named["_".join([*levels, *which])] = tensor
    return dict(sorted(named.items(), key=lambda item: int(item[0].split("_")[0][1:])))


def _end(tensor):
    while True:
        layer, inputs, _ = source(tensor)
        if quantization_of(layer) != "moves":
            return tensor
        (tensor,) = inputs


def tail(network):
    """Makes the network behind the ends.

    Args:
        network: keras.Model, images -> Raw.

    Returns:
        keras.Model without weights, [tensor of each end, in their order] -> parts.
    """
    return keras.Model(list(ends(network).values()), used(network).output)
