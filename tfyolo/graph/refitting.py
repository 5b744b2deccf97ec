"""The last convolutions of a quantized network, fitted anew to what they now read.

They compute in float, but the feature maps before them have errors that they were not trained for. Ridge regression on
images finds the kernels whose outputs come nearest to those of the network in float, and that stay near the old ones.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfyolo.graph.ends import ends
from tfyolo.graph.nodes import source, used

EMPTY_WEIGHT = 1e-3  # the weight of a cell in which nothing is seen, where one with an object of score 1 has 1
RIDGE = 0.1  # how much a kernel's change costs, as a part of what its inputs are worth in the mean


def refit_ends(quantized, fused, batches):
    """Fits the last convolutions of a quantized network: what they output is to be what the network in float outputs.

    A cell weighs as much as the best score that the network in float gives it. Where nothing is seen there is little to
    lose, and most cells are of that kind.

    Args:
        quantized: what graph.quantization.quantize made of the fused Model; kernels and biases are changed.
        fused: the fused Model.
        batches: iterable of images [B, H, W, 3], float32 in 0..1.
    """
    own, pairs = used(fused.network), _pairs(fused.network, quantized.network)
    if not pairs:
        return
    targets = keras.Model(own.input, {name: tensor for name, (tensor, _, _) in pairs.items()} | {"": own.output})
    reads = keras.Model(quantized.network.input, {name: read for name, (_, read, _) in pairs.items()})

    @tf.function(reduce_retracing=True)
    def seen(images):
        found = targets(images, training=False)
        raw = found.pop("")
        return found, reads(images, training=False), raw, fused.decoder(raw).scores

    sums = {name: _Sums(layer) for name, (_, _, layer) in pairs.items()}
    for images in batches:
        outputs, inputs, raw, scores = seen(tf.convert_to_tensor(images))
        weights = _cell_weights(raw, scores.numpy(), fused.decoder.levels)
        if weights is None:
            return
        for name, each in sums.items():
            each.add(inputs[name].numpy(), outputs[name].numpy(), weights[name.partition("_")[0]])
    for each in sums.values():
        each.solve()


def _pairs(fused, quantized):
    """{end: (what the fused network outputs there, what the quantized network's last layer reads, that layer)}."""
    mine, theirs, pairs = ends(fused), ends(quantized), {}
    for name, tensor in theirs.items():
        layer, inputs, _ = source(tensor)
        if type(layer) is layers.Conv2D and layer.kernel_size == (1, 1) and layer.use_bias and name in mine:
            pairs[name] = mine[name], inputs[0], layer
    return pairs


def _cell_weights(raw, scores, levels):
    """{level: [B, h, w]}: the best score of each cell; None of candidates that are not those of the cells."""
    parts = next(iter(raw.values()))
    shapes = [tuple(parts[level].shape[:4]) if level in parts else None for level in levels]
    if None in shapes or sum(int(np.prod(shape[1:])) for shape in shapes) != scores.shape[1]:
        return None
    best, found, start = scores.max(axis=-1), {}, 0
    for level, (batch, height, width, anchors) in zip(levels, shapes, strict=True):
        count = height * width * anchors
        cells = best[:, start : start + count].reshape(batch, height, width, anchors)
        found[level], start = EMPTY_WEIGHT + cells.max(axis=-1), start + count
    return found


class _Sums:
    """What a ridge regression of a 1 x 1 convolution needs of its inputs and outputs, batch by batch.

    Args:
        layer: the convolution, whose kernel and bias are where it starts from.
    """

    def __init__(self, layer):
        self.layer, self.groups = layer, layer.groups
        self.kernel, self.bias = (np.asarray(each, "float64") for each in layer.get_weights())
        self.moments = [0.0] * self.groups  # of each group: [C + 1, C + 1], the last row for the bias
        self.errors = [0.0] * self.groups  # [C + 1, outputs]

    def add(self, inputs, outputs, weights):
        """Takes in a batch: inputs [B, h, w, C], outputs [B, h, w, Z] that are to come of them, weights [B, h, w]."""
        weights = np.asarray(weights, "float64").reshape(-1, 1)
        reads = np.split(inputs.reshape(len(weights), -1).astype("float64"), self.groups, axis=1)
        wanted = np.split(outputs.reshape(len(weights), -1).astype("float64"), self.groups, axis=1)
        kernels, biases = np.split(self.kernel[0, 0], self.groups, axis=1), np.split(self.bias, self.groups)
        for group, (x, y) in enumerate(zip(reads, wanted, strict=True)):
            off = y - (x @ kernels[group] + biases[group])
            x = np.concatenate([x, np.ones_like(weights)], axis=1)
            self.moments[group] += (x * weights).T @ x
            self.errors[group] += (x * weights).T @ off

    def solve(self):
        """Gives the convolution its new kernel and bias."""
        kernels, biases = [], []
        for moments, errors in zip(self.moments, self.errors, strict=True):
            channels = len(moments) - 1
            cost = RIDGE * np.trace(moments[:-1, :-1]) / channels
            # Least squares: of channels that are 0 everywhere, the moments have no inverse.
            change, *_ = np.linalg.lstsq(moments + np.diag([cost] * channels + [0.0]), errors, rcond=None)
            kernels.append(change[:-1])
            biases.append(change[-1])
        kernel = self.kernel + np.concatenate(kernels, axis=1)
        self.layer.set_weights([kernel, self.bias + np.concatenate(biases)])
