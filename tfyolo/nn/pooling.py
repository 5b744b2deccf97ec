"""Max pooling with Darknet's padding, and corner pooling."""

import itertools

import tensorflow as tf
from keras import layers, ops


def running_maximum(x, axis, ahead):
    """The maximum of each cell and all cells ahead of it, or behind it, along an axis.

    It takes logarithmically many steps: each takes the maximum of a map and itself, moved by 1, 2, 4, ... cells. Among
    equal values, the farthest has the gradient.

    Args:
        x: [B, h, w, C].
        axis: 1 (down) or 2 (right).
        ahead: True: over the cells of higher index. False: of lower index.

    Returns:
        [B, h, w, C].
    """
    before = (slice(None),) * axis
    step, size = 1, x.shape[axis] or 4096  # of an open size: steps that reach over the end change nothing
    while step < size:
        head, tail = slice(None, -step), slice(step, None)
        if ahead:
            most = ops.maximum(x[(*before, tail)], x[(*before, head)])
            x = ops.concatenate([most, x[(*before, slice(-step, None))]], axis=axis)
        else:
            most = ops.maximum(x[(*before, head)], x[(*before, tail)])
            x = ops.concatenate([x[(*before, slice(None, step))], most], axis=axis)
        step *= 2
    return x


@tf.autograph.experimental.do_not_convert
def running_maximum_to_train(x, axis, ahead):
    """running_maximum with a gradient that goes from cell to cell.

    On a CPU it is twenty times as fast as back through the steps, which copy the map.

    Args:
        x: [B, h, w, C], of a fixed size along the axis.
        axis: 1 (down) or 2 (right).
        ahead: True: over the cells of higher index. False: of lower index.

    Returns:
        [B, h, w, C].
    """

    @tf.custom_gradient
    def maximum(x):
        y = running_maximum(x, axis, ahead)

        def gradient(upstream):
            cells, maxima, given = (tf.unstack(each, axis=axis) for each in (x, y, upstream))
            order = range(len(cells)) if ahead else range(len(cells) - 1, -1, -1)
            found, passed = [None] * len(cells), 0.0
            for here, beyond in itertools.pairwise(order):
                whole = given[here] + passed
                found[here] = tf.where(cells[here] > maxima[beyond], whole, 0.0)
                passed = whole - found[here]
            found[order[-1]] = given[order[-1]] + passed
            return tf.stack(found, axis=axis)

        return y, gradient

    return maximum(x)


class CornerPool(layers.Layer):
    """Corner pooling: the maximum of each cell and all that lie in one direction of it; the shape stays.

    Args:
        direction: "down" (top pooling: a top edge lies above its object), "right" (left pooling), "up" (bottom), "left"
            (right).
        kwargs: of Layer.

    Raises:
        ValueError: there is no such direction.

    Source: Law and Deng 2018, arXiv:1808.01244, equations 6 and 7.
    """

    quantization = "moves"

    DIRECTIONS = ("down", "right", "up", "left")

    def __init__(self, direction, **kwargs):
        super().__init__(**kwargs)
        if direction not in self.DIRECTIONS:
            raise ValueError(f"direction: expected one of {', '.join(self.DIRECTIONS)}, received {direction!r}")
        self.direction = direction

    def call(self, x, training=False):
        """[B, h, w, C] -> the same shape."""
        axis = 1 if self.direction in ("down", "up") else 2
        maximum = running_maximum_to_train if training else running_maximum
        return maximum(x, axis, ahead=self.direction in ("down", "right"))

    def compute_output_shape(self, shape):
        """As call()."""
        return shape


class PadLowest(layers.Layer):
    """Padding that is never a maximum.

    Args:
        before: rows above and columns on the left.
        after: rows below and columns on the right.
        kwargs: of Layer.
    """

    quantization = "moves"

    def __init__(self, before, after, **kwargs):
        super().__init__(**kwargs)
        self.before, self.after = before, after

    def call(self, x):
        """[B, h, w, C] -> [B, h + before + after, w + before + after, C]."""
        both = (self.before, self.after)
        return ops.pad(x, [(0, 0), both, both, (0, 0)], constant_values=-1e30)

    def compute_output_shape(self, shape):
        """As call(); a side may be open, None."""
        height, width = (side and side + self.before + self.after for side in shape[1:3])
        return (shape[0], height, width, shape[3])


def max_pool(x, size=2, stride=2, *, pad=None, name):
    """Max pooling with Darknet's padding: the smaller half stands before; at stride 1 the grid keeps its size.

    Args:
        x: [B, h, w, C].
        size: of the window, in cells.
        stride: in cells.
        pad: cells of padding in all, before and after; None: size - 1.
        name: of the layers.

    Returns:
        [B, (h + pad - size) // stride + 1, (w + pad - size) // stride + 1, C].
    """
    pad = size - 1 if pad is None else pad
    # The size of the images may be open. Its sides, and those of every grid halved later, are even then too.
    grids = [(side, (side + pad - size) // stride + 1) for side in (side or 64 for side in x.shape[1:3])]
    # "same" where it comes to the same: what it pads before, and what it leaves out at the end.
    alike = all(
        out == -(-side // stride) and max((out - 1) * stride + size - side, 0) // 2 == pad // 2 for side, out in grids
    )
    if pad and not alike and size % 2 and pad == size - 1:
        # Every cell's maximum, of which some are picked: without PADV2, which Coral's compiler refuses.
        x = layers.MaxPooling2D(size, 1, "same", data_format="channels_last", name=f"{name}.every")(x)
        return layers.MaxPooling2D(1, stride, "valid", data_format="channels_last", name=name)(x)
    if pad and not alike:
        x = PadLowest(pad // 2, pad - pad // 2, name=f"{name}.pad")(x)
    padding = "same" if alike else "valid"
    return layers.MaxPooling2D(size, stride, padding, data_format="channels_last", name=name)(x)
