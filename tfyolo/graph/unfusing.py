"""Batch norms for networks whose weights are published with them fused, which compute the same and can be trained.

    arrays = unfused(model, published)      # an importer's: the weights of a Model, from those of its fused twin
    arrays = with_norms(network, arrays)    # training's: those of a network that has none, for one that has
    renormalised(network, batches)          # training's: the norms get statistics of images

What an importer writes is an ordinary run. Its norms are without statistics, and a step of training, which normalises
by those of the batch, would make another network of it: so they get some first.
"""

import keras
import numpy as np
import tensorflow as tf

from tfyolo.graph.declarations import declared
from tfyolo.graph.fusion import fuse
from tfyolo.graph.nodes import nodes, readers_of, used

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
# Of the numbers of a kernel, relative to the largest: float32 has some seven digits.
TOLERANCE = 1e-5


def unfused(model, published):
    """The weights with which a Model computes what its fused twin does with published ones.

    A norm behind a convolution gets the published bias as its shift, scales by 1 and has no statistics. Of branches
    that fusion adds up, the one with the largest kernel gets all; the norms of the others scale by 0.

    Args:
        model: a Model with batch norms, its weights initialised.
        published: {"layer/variable": array} of fuse(model).network.

    Returns:
        {"layer/variable": array} of model.network.

    Raises:
        ValueError: published has not the arrays of that network, or what was fused cannot be told from them.
    """
    twin = fuse(model).network
    shapes = {variable.path: tuple(variable.shape) for variable in twin.variables}
    names = sorted(shapes.keys() | published.keys())
    if wrong := [name for name in names if shapes.get(name) != getattr(published.get(name), "shape", None)]:
        raise ValueError(f"expected the arrays of {twin.name}, fused; {len(wrong)} are others, the first {wrong[0]}")
    arrays = {variable.path: np.asarray(variable).copy() for variable in model.network.variables}
    arrays |= {name: array for name, array in published.items() if name in arrays}
    for norm, source in _norms(used(model.network)):
        if norm.gamma.path in published:
            continue
        bias = published.get(f"{source.name}/bias")
        if isinstance(source, CONVOLUTIONS):
            arrays |= _plain_norm(norm, bias is not None, 0.0 if bias is None else bias)
        else:
            adds = any(isinstance(reader, keras.layers.Add) for reader in readers_of(norm.output))
            arrays |= _plain_norm(norm, not adds, 0.0)
    _check(model, arrays, published)
    return arrays


def with_norms(network, arrays):
    """The weights of a network without batch norms, or some of them, as those of one that has norms.

    Args:
        network: keras.Model with norms, whose convolutions in front of them have no bias.
        arrays: {"layer/variable": array} of the other network, whose layers have the same names.

    Returns:
        {"layer/variable": array}: where a convolution has a bias and no norm, the norm gets it as its shift, as unfused
        does it; `arrays` itself where there is nothing to do.
    """
    found = arrays
    for norm, source in _norms(network):
        bias = arrays.get(f"{source.name}/bias")
        if (
            isinstance(source, CONVOLUTIONS)
            and not source.use_bias
            and bias is not None
            and norm.gamma.path not in arrays
        ):
            found = {name: array for name, array in found.items() if name != f"{source.name}/bias"}
            found |= _plain_norm(norm, True, bias) if bias.shape == norm.gamma.shape else {}
    return found


def _plain_norm(norm, scale, shift):
    """{variable: array} of a batch norm without statistics that scales by 1 or (False) by 0, and shifts."""
    values = {"gamma": scale, "beta": shift, "moving_mean": 0.0, "moving_variance": 1.0 - norm.epsilon}
    shape = norm.gamma.shape
    return {
        getattr(norm, name).path: np.broadcast_to(np.asarray(value, "float32"), shape) for name, value in values.items()
    }


def _check(model, arrays, published):
    """Raises ValueError unless the Model, with these weights, fuses to the published ones. Its own stay as they are."""
    own = {variable.path: np.asarray(variable).copy() for variable in model.network.variables}
    try:
        _assign(model.network, arrays)
        for variable in fuse(model).network.variables:
            wanted = published[variable.path]
            if not np.allclose(variable, wanted, rtol=0, atol=TOLERANCE * max(np.abs(wanted).max(initial=0), 1e-9)):
                raise ValueError(
                    f"{variable.path}: expected convolutions with batch norms behind them alone, received other layers "
                    "that fuse; leave them out of the config, as model.head.knowledge=false does"
                )
    finally:
        _assign(model.network, own)


def _assign(network, arrays):
    for variable in network.variables:
        variable.assign(arrays[variable.path])


def _norms(network):
    """[(batch norm, the layer whose output it reads)] of a network; of those that share their weights, the first."""
    order, _ = nodes(network)
    made = {id(x): node.operation for node in order for x in node.output_tensors}
    norms = {}
    for node in order:
        layer = node.operation
        if hasattr(layer, "moving_variance") and declared(layer, "fusion") == "affine":
            norms.setdefault(id(layer.moving_variance), (layer, made[id(node.input_tensors[0])]))
    return list(norms.values())


def without_statistics(network):
    """[batch norm] of a network that have no statistics.

    The mean of each channel is 0, and its variance 1, or 1 less the epsilon.
    """
    found = []
    for norm, _ in _norms(network):
        mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
        if not mean.any() and any((variance == np.float32(one)).all() for one in (1.0, 1.0 - norm.epsilon)):
            found.append(norm)
    return found


def renormalised(network, batches, names=None):
    """Gives batch norms without statistics those of images; what the network computes in inference stays the same.

    Args:
        network: keras.Model, images [B, H, W, 3] -> Raw; its norms are changed.
        batches: function that returns an iterable of images, float32 in 0..1; called if there is such a norm.
        names: of the norms that may be changed; None: all.

    Returns:
        How many norms got statistics.
    """
    norms = [norm for norm in without_statistics(network) if names is None or norm.name in names]
    if not norms:
        return 0
    probe = keras.Model(network.input, [norm.input for norm in norms])

    @tf.function
    def moments(images):
        maps = keras.tree.flatten(probe(images, training=False))
        return [(tf.size(x) // x.shape[-1], *tf.nn.moments(tf.cast(x, tf.float32), (0, 1, 2))) for x in maps]

    seen = [[[np.asarray(part, "float64") for part in found] for found in moments(images)] for images in batches()]
    for norm, found in zip(norms, zip(*seen, strict=True), strict=True):
        counts, means, variances = (np.stack(parts) for parts in zip(*found, strict=True))
        mean = np.average(means, axis=0, weights=counts)
        variance = np.average(variances + (means - mean) ** 2, axis=0, weights=counts)
        scale, shift = norm.affine()
        norm.gamma.assign(scale * np.sqrt(variance + norm.epsilon))
        norm.beta.assign(shift + scale * mean)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return len(norms)
