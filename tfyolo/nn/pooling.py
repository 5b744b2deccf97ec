"""Max pooling with Darknet's padding, and corner pooling."""

import itertools

import tensorflow as tf
from keras import layers, ops


def running_maximum(x, axis, ahead):
    """Of each cell the maximum over itself and all cells ahead of it, or behind it, along an axis.

    In logarithmically many steps: of each the maximum of a map and itself, moved by 1, 2, 4 ... cells. Of equals, the farthest has the
    gradient.
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
    """The same; its gradient goes from cell to cell, twenty times as fast on a CPU as back through the steps, which copy the map."""

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
    """Corner pooling (Law and Deng 2018, arXiv:1808.01244, eq. 6 and 7): each cell's maximum over all that lies in one direction of it.

    direction: "down" (top pooling: a top edge looks for what lies below it), "right" (left pooling), "up" (bottom), "left" (right).
    """

    quantization = "moves"

    DIRECTIONS = ("down", "right", "up", "left")

    def __init__(self, direction, **kwargs):
        super().__init__(**kwargs)
        if direction not in self.DIRECTIONS:
            raise ValueError(f"direction: expected one of {', '.join(self.DIRECTIONS)}, received {direction!r}")
        self.direction = direction

    def call(self, x, training=False):
        axis = 1 if self.direction in ("down", "up") else 2
        maximum = running_maximum_to_train if training else running_maximum
        return maximum(x, axis, ahead=self.direction in ("down", "right"))

    def compute_output_shape(self, shape):
        return shape


class PadLowest(layers.Layer):
    """Padding that never is a maximum: before and after, in rows and columns alike."""

    quantization = "moves"

    def __init__(self, before, after, **kwargs):
        super().__init__(**kwargs)
        self.before, self.after = before, after

    def call(self, x):
        both = (self.before, self.after)
        return ops.pad(x, [(0, 0), both, both, (0, 0)], constant_values=-1e30)

    def compute_output_shape(self, shape):
        more = self.before + self.after
        return (shape[0], shape[1] + more, shape[2] + more, shape[3])


def max_pool(x, size=2, stride=2, *, pad=None, name):
    """Max pooling with Darknet's padding: size - 1 pixels in all, the smaller half before; at stride 1 the grid keeps its size.

    pad: that number of pixels, if it is another.
    """
    pad = size - 1 if pad is None else pad
    # A picture's size may be open; its sides, and those of all that is halved later on, are even then too.
    grids = [(side, (side + pad - size) // stride + 1) for side in (side or 64 for side in x.shape[1:3])]
    # "same" where it comes to the same: what it pads before, and what it leaves out at the end.
    alike = all(
        out == -(-side // stride) and max((out - 1) * stride + size - side, 0) // 2 == pad // 2 for side, out in grids
    )
    if pad and not alike:
        x = PadLowest(pad // 2, pad - pad // 2, name=f"{name}.pad")(x)
    padding = "same" if alike else "valid"
    return layers.MaxPooling2D(size, stride, padding, data_format="channels_last", name=name)(x)
