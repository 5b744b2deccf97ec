"""Layers that several parts share. Every function takes and gives Keras tensors [B, h, w, C]; `name` is a path joined by dots."""

import functools
import itertools
import math

import keras
import tensorflow as tf
from keras import layers, ops


def _merged_sum(x):
    def reduce(strategy, x):
        return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, [(x, x)])[0]

    # Both ways through stop_gradient: custom_gradient looks for variables behind its outputs, and would walk back through
    # the graphs of all replicas at every layer. all_reduce does, which takes minutes to trace for a deep network.
    return tf.stop_gradient(tf.distribute.get_replica_context().merge_call(reduce, args=(tf.stop_gradient(x),)))


@tf.custom_gradient
def sum_over_replicas(x):
    """The sum of a tensor over all replicas of a tf.distribute strategy, in replica context; its gradient is the same sum."""
    return _merged_sum(x), _merged_sum


def mish_by_exp(x):
    """mish without a logarithm, for TFLite: 2.5 times as fast there as softplus and tanh, which XNNPACK does not take as a whole."""
    e = ops.exp(ops.minimum(x, 20.0))  # from where on tanh(softplus(x)) is 1 to the last digit
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def mish(x):
    """x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681).

    In these words it is one oneDNN kernel on a CPU, a quarter of mish_by_exp's time, as long as nothing else needs what lies between.
    So the gradient takes x alone: less time than automatic differentiation, and a third of the memory in float32.
    """

    def gradient(upstream):
        y = tf.minimum(tf.cast(x, tf.float32), 20.0)  # bfloat16 would lose 3 %; beyond 20 the slope is 1
        e = tf.exp(y)
        n = e * (e + 2.0)
        d = n + 2.0
        # n / d and its derivative, 4 e (e + 1) / d^2, times x. The square of d would overflow.
        slope = (n + 4.0 * (n - e) * y / d) / d
        return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)

    return keras.activations.mish(x), gradient


@tf.custom_gradient
def _silu_bfloat16(x):
    y = tf.nn.silu(x)

    def gradient(upstream):
        # At 0 itself, where nothing can be divided, the slope is taken for 0.
        sigmoid = tf.math.divide_no_nan(y, x)
        return upstream * (sigmoid + y * (1 - sigmoid))

    return y, gradient


@tf.autograph.experimental.do_not_convert
def silu(x):
    """x * sigmoid(x) (Ramachandran et al. 2017, arXiv:1710.05941).

    In bfloat16 the sigmoid that its gradient needs again takes longer than all the rest: there it is the output divided by the input.
    """
    return _silu_bfloat16(x) if x.dtype == tf.bfloat16 else tf.nn.silu(x)


def leaky(x):
    """Leaky ReLU with Darknet's slope, 0.1."""
    return ops.leaky_relu(x, negative_slope=0.1)


ACTIVATIONS = {
    "linear": None,
    "leaky": leaky,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "logistic": ops.sigmoid,
    "mish": mish,
    "silu": silu,
}


class BatchNorm(layers.Layer):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over the whole global batch, with Darknet's epsilon.

    Why not Keras's: on one replica of TensorFlow this trains through the fused kernel; on several it exchanges
    sums without walking the whole graph at each layer while it is traced, as Keras's does. Frozen (trainable=False), it uses the
    moving statistics. Momentum is below Darknet's .99 because a run over a few hundred pictures has too few steps for that.
    """

    def __init__(self, momentum=0.97, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, shape):
        def statistic(name, initializer, **kwargs):
            return self.add_weight((shape[-1],), initializer, dtype="float32", autocast=False, name=name, **kwargs)

        self.gamma = statistic("gamma", "ones")
        self.beta = statistic("beta", "zeros")
        self.moving_mean = statistic("moving_mean", "zeros", trainable=False, aggregation="mean")
        self.moving_variance = statistic("moving_variance", "ones", trainable=False, aggregation="mean")

    def call(self, x, training=False):
        if not (training and self.trainable):
            return self._normalise(x, self.moving_mean, self.moving_variance)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas == 1:
            outputs, mean, variance = self._fused(x)
        else:
            mean, variance = self._moments(x, replicas)
            outputs = self._normalise(x, mean, variance)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs

    def _normalise(self, x, mean, variance):
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(ops.cast(x, "float32") * scale + (self.beta - mean * scale), x.dtype)

    def _fused(self, x):
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel gives the unbiased variance; Darknet, and several replicas here, keep the biased one.
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
        return outputs, mean, variance * (count - 1) / count

    @staticmethod
    def _moments(x, replicas):
        x = ops.cast(x, "float32")
        axes = (0, 1, 2)
        # Strategies give every replica the same share.
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32) * replicas
        mean = sum_over_replicas(tf.reduce_sum(x, axes)) / count
        # Deviations from the mean of all: the difference of two large sums would lose what two replicas and one must agree in.
        return mean, sum_over_replicas(tf.reduce_sum(tf.square(x - mean), axes)) / count


def layer_behind(tensor, kind):
    """The layer of a kind (a class) that a tensor comes from, straight back; None if there is none."""
    while True:
        layer, node, _ = tensor._keras_history
        if isinstance(layer, kind):
            return layer
        sources = layer._inbound_nodes[node].input_tensors
        if len(sources) != 1:
            return None
        (tensor,) = sources


class SharedConv2D(layers.Conv2D):
    """A convolution with the weights of another, its owner: what differs is what it reads, and at which dilation (TridentNet's branches,
    Li et al. 2019, arXiv:1901.01892, section 3.1).
    """

    def __init__(self, owner, **kwargs):
        super().__init__(owner.filters, owner.kernel_size, groups=owner.groups, **kwargs)
        self._owner = lambda: owner  # as an attribute it would be a part of this layer to Keras

    def build(self, shape):
        owner = self._owner()
        self._kernel, self.bias = owner._kernel, owner.bias


class SharedBatchNorm(BatchNorm):
    """The batch norm of another convolution's output with the weights of the first one's, moving statistics included."""

    def __init__(self, owner, **kwargs):
        super().__init__(owner.momentum, owner.epsilon, **kwargs)
        self._owner = lambda: owner

    def build(self, shape):
        owner = self._owner()
        self.gamma, self.beta = owner.gamma, owner.beta
        self.moving_mean, self.moving_variance = owner.moving_mean, owner.moving_variance


class FitChannels(layers.Layer):
    """The first `count` channels of a map, and zeros for those that it lacks: what Darknet adds up of maps with unequal channels."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        missing = self.count - x.shape[-1]
        if missing <= 0:
            return x[..., : self.count]
        return ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, missing)])

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.count)


class Upsample(layers.Layer):
    """Nearest-neighbour enlargement. One RESIZE_NEAREST_NEIGHBOR in TFLite, where UpSampling2D becomes a reshape and a tile."""

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        size = self.compute_output_shape(x.shape)[1:3]
        if None in size:
            return ops.repeat(ops.repeat(x, self.factor, axis=1), self.factor, axis=2)
        return ops.image.resize(x, size, interpolation="nearest", data_format="channels_last")

    def compute_output_shape(self, shape):
        return (shape[0], *(None if side is None else self.factor * side for side in shape[1:3]), shape[3])


class Resize(layers.Layer):
    """Nearest-neighbour enlargement to a grid (h, w) that need not be a multiple."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x):
        return ops.image.resize(x, self.size, interpolation="nearest", data_format="channels_last")

    def compute_output_shape(self, shape):
        return (shape[0], *self.size, shape[3])


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


class PerAnchor(layers.Layer):
    """[B, h, w, count * Z] -> [B, h, w, count, Z]: what a cell says, box by box."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x):
        return ops.reshape(x, self.compute_output_shape(ops.shape(x)))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.count, shape[-1] // self.count)


class ChannelGroup(layers.Layer):
    """One of several equal groups of a map's channels: Darknet's `[route] groups=2 group_id=1` is the second half."""

    def __init__(self, groups, index, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= index < groups:
            raise ValueError(f"index: expected a group in [0, {groups}), received {index}")
        self.groups, self.index = groups, index

    def call(self, x):
        self._size(x.shape)
        return ops.split(x, self.groups, axis=-1)[self.index]  # a slice's gradient is much slower

    def compute_output_shape(self, shape):
        return (*shape[:-1], self._size(shape))

    def _size(self, shape):
        if shape[-1] % self.groups:
            raise ValueError(f"groups: expected a divisor of {shape[-1]} channels, received {self.groups}")
        return shape[-1] // self.groups


def conv(
    x,
    filters,
    kernel=1,
    stride=1,
    *,
    norm=True,
    epsilon=1e-5,
    activation="leaky",
    groups=1,
    dilation=1,
    pad=None,
    initializer="he_normal",
    owner=None,
    name,
):
    """Convolution, batch norm (or a bias), activation.

    pad: pixels of padding on every side, before dilation; None: kernel // 2, as Darknet pads. "same" would shift a strided
    convolution by one pixel on even sizes. epsilon: of the batch norm. groups: of channels, each convolved by itself; as many as
    channels is depthwise. owner: the output of another convolution of this kind, whose weights this one has, too.
    """
    pad = kernel // 2 if pad is None else pad
    # Keras knows no strided dilation: every stride-th pixel is picked of what is convolved at every one. fuse() makes a stride of it.
    stride, picked = (1, stride) if dilation > 1 else (stride, 1)
    # On all sides alike, "same" pads only where nothing is strided and the kernel has a middle.
    same = stride == picked == 1 and kernel % 2 and pad == kernel // 2
    if pad and not same:
        x = layers.ZeroPadding2D(pad * dilation, data_format="channels_last", name=f"{name}.pad")(x)
    options = {
        "strides": stride,
        "padding": "same" if same else "valid",
        "dilation_rate": dilation,
        "data_format": "channels_last",
        "use_bias": not norm,
        "name": f"{name}.conv",
    }
    if owner is not None:
        x = SharedConv2D(layer_behind(owner, layers.Conv2D), **options)(x)
    elif groups > 1 and groups == filters == x.shape[-1]:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer=initializer, **options)(x)
    else:
        x = layers.Conv2D(filters, kernel, groups=groups, kernel_initializer=initializer, **options)(x)
    if picked > 1:
        x = layers.MaxPooling2D(1, picked, data_format="channels_last", name=f"{name}.pick")(x)
    if norm and owner is not None:
        x = SharedBatchNorm(layer_behind(owner, BatchNorm), name=f"{name}.norm")(x)
    elif norm:
        x = BatchNorm(epsilon=epsilon, name=f"{name}.norm")(x)
    return activate(x, activation, name=name)


def activate(x, activation, *, name):
    """One of ACTIVATIONS."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, received {activation!r}")
    if ACTIVATIONS[activation] is None:
        return x
    return layers.Activation(ACTIVATIONS[activation], name=f"{name}.act")(x)


class PadLowest(layers.Layer):
    """Padding that never is a maximum: before and after, in rows and columns alike."""

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


def spp(x, sizes=(5, 9, 13), *, name):
    """Spatial pyramid pooling: the map beside its own maxima over growing windows (He et al. 2014, as in YOLOv3-SPP)."""
    pools = [max_pool(x, size, 1, name=f"{name}.pool{size}") for size in reversed(sizes)]
    return layers.Concatenate(name=f"{name}.concat")([*pools, x])


def silu_conv(x, filters, kernel=1, stride=1, *, groups=1, activation="silu", epsilon=1e-3, name):
    """The convolution of YOLOv7, YOLOv8 and their line.

    It begins with weights as small as PyTorch's do, 0.4 of he_normal's: what follows a batch norm's scale does not change, but a
    learning rate moves them as much more.
    """
    small = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    options = {"activation": activation, "epsilon": epsilon, "initializer": small, "groups": groups}
    return conv(x, filters, kernel, stride, **options, name=name)


def bottleneck(x, channels, *, squeeze=1.0, shortcut=True, activation="silu", name):
    """Two 3x3 convolutions, and, if it has as many channels as they give, the input added to what they make of it.

    squeeze: the channels between the two, as part of `channels`.
    """
    y = silu_conv(x, int(channels * squeeze), 3, activation=activation, name=f"{name}.conv1")
    y = silu_conv(y, channels, 3, activation=activation, name=f"{name}.conv2")
    return layers.Add(name=f"{name}.add")([x, y]) if shortcut and x.shape[-1] == channels else y


def c2f_block(x, channels, repeats, *, share=0.5, block=bottleneck, activation="silu", name):
    """YOLOv8's block: a part of the channels goes through a chain of blocks, of which every link is joined to the output.

    The faster heir of the cross-stage partial block with two convolutions (Wang et al. 2020, arXiv:1911.11929, figure 2), with the
    shortest and longest gradient paths of ELAN (Wang et al. 2022, arXiv:2211.04800). share: of the channels, in each link. block:
    (x, channels, activation=, name=) -> x, a link.
    """
    hidden = int(channels * share)
    x = silu_conv(x, 2 * hidden, 1, activation=activation, name=f"{name}.split")
    # Not by slices, whose gradient costs as much again as the batch norms.
    chain = list(ops.split(x, 2, axis=-1))
    for i in range(repeats):
        chain.append(block(chain[-1], hidden, activation=activation, name=f"{name}.bottleneck{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def c3k(x, channels, *, activation="silu", name):
    """YOLO11's deeper link of a chain: half the channels go through two bottlenecks, half skip them."""
    skip = silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.skip")
    x = silu_conv(x, channels // 2, 1, activation=activation, name=f"{name}.split")
    for i in range(2):
        x = bottleneck(x, channels // 2, activation=activation, name=f"{name}.bottleneck{i + 1}")
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def c3k2_block(x, channels, repeats, *, share=0.5, deep=False, activation="silu", name):
    """YOLO11's block: c2f_block, whose links are c3k (deep) or bottlenecks that squeeze the channels by two."""
    block = c3k if deep else functools.partial(bottleneck, squeeze=0.5)
    return c2f_block(x, channels, repeats, share=share, block=block, activation=activation, name=name)


class SelfAttention(layers.Layer):
    """Every cell looks at every cell (Vaswani et al. 2017, arXiv:1706.03762, section 3.2), in several heads.

    Reads [B, h, w, heads * (2 * key + value)], head by head its query, key and value; keys are half as wide as values. Gives what the
    cells see, and the values themselves: both [B, h, w, heads * value].
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, x):
        _, height, width, channels = ops.shape(x)
        each = channels // self.heads
        key = each // 4
        x = ops.reshape(x, (-1, height * width, self.heads, each))
        x = ops.transpose(x, (0, 2, 1, 3))  # [B, heads, h * w, each]
        q, k, v = ops.split(x, [key, 2 * key], axis=-1)
        seen = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * key**-0.5, axis=-1)

        def as_map(values):
            return ops.reshape(ops.transpose(values, (0, 2, 1, 3)), (-1, height, width, channels // 2))

        return as_map(ops.matmul(seen, v)), as_map(v)

    def compute_output_shape(self, shape):
        return [(*shape[:-1], shape[-1] // 2)] * 2


def c2psa(x, repeats, *, activation="silu", name):
    """YOLO11's attention block: half the channels go through self-attention and two 1x1 convolutions, each added to its input.

    (After Wang et al. 2024, "YOLOv10", arXiv:2405.14458, section 3.2: partial self-attention.) Where a cell stands is told by a
    depthwise 3x3 convolution of the values. A head has 64 channels, or as few more as divide them.
    """
    channels = x.shape[-1] // 2
    heads = next(count for count in range(max(channels // 64, 1), 0, -1) if channels % (2 * count) == 0)
    x = silu_conv(x, 2 * channels, 1, activation=activation, name=f"{name}.split")
    skip, x = ops.split(x, 2, axis=-1)
    for i in range(repeats):
        prefix = f"{name}.block{i + 1}"
        y = silu_conv(x, 2 * channels, 1, activation="linear", name=f"{prefix}.qkv")
        seen, values = SelfAttention(heads, name=f"{prefix}.attention")(y)
        place = silu_conv(values, channels, 3, groups=channels, activation="linear", name=f"{prefix}.place")
        y = layers.Add(name=f"{prefix}.placed")([seen, place])
        y = silu_conv(y, channels, 1, activation="linear", name=f"{prefix}.project")
        x = layers.Add(name=f"{prefix}.attended")([x, y])
        y = silu_conv(x, 2 * channels, 1, activation=activation, name=f"{prefix}.widen")
        y = silu_conv(y, channels, 1, activation="linear", name=f"{prefix}.narrow")
        x = layers.Add(name=f"{prefix}.add")([x, y])
    x = layers.Concatenate(name=f"{name}.concat")([skip, x])
    return silu_conv(x, 2 * channels, 1, activation=activation, name=f"{name}.join")


def sppf(x, channels, size=5, *, activation="silu", name):
    """Spatial pyramid pooling, fast: three poolings in a row see what spp's see with windows of 5, 9 and 13."""
    x = silu_conv(x, x.shape[-1] // 2, 1, activation=activation, name=f"{name}.split")
    chain = [x]
    for i in range(3):
        chain.append(max_pool(chain[-1], size, 1, name=f"{name}.pool{i + 1}"))
    x = layers.Concatenate(name=f"{name}.concat")(chain)
    return silu_conv(x, channels, 1, activation=activation, name=f"{name}.join")


def scaled(channels, width):
    """Channels times width, raised to a multiple of 8: sizes that convolution kernels like. width > 0."""
    return channels if width == 1 else 8 * math.ceil(round(channels * width, 6) / 8)


def repeated(count, depth):
    """Repeats of a block times depth, at least 1. depth > 0."""
    return max(round(count * depth), 1)


def elan_block(x, channels, *, hidden, inner=None, convs=4, every=2, name, **options):
    """YOLOv7's block, an efficient layer aggregation network (Wang et al. 2022, arXiv:2211.04800; arXiv:2207.02696, figure 2c).

    Two 1x1 convolutions to `hidden` channels; behind one of them a chain of 3x3 convolutions of `inner` channels (None: as many). Both,
    and every so-many-th link of the chain counted from its end, are joined by a 1x1 convolution. options: of silu_conv.
    """
    joined = [silu_conv(x, hidden, 1, **options, name=f"{name}.{branch}") for branch in ("skip", "split")]
    y = joined[-1]
    for i in range(1, convs + 1):
        y = silu_conv(y, inner or hidden, 3, **options, name=f"{name}.conv{i}")
        if (convs - i) % every == 0:
            joined.append(y)
    x = layers.Concatenate(name=f"{name}.concat")(joined[::-1])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def e_elan(x, channels, *, cardinality=2, name, **options):
    """YOLOv7's extended ELAN (arXiv:2207.02696, section 3.1, figure 2d): expand, shuffle and merge cardinality.

    Grouped convolutions whose groups are shuffled, joined and added up are so many ELANs side by side whose outputs are added.
    """
    if cardinality == 1:
        return elan_block(x, channels, name=name, **options)
    groups = [elan_block(x, channels, name=f"{name}.group{i + 1}", **options) for i in range(cardinality)]
    return layers.Add(name=f"{name}.add")(groups)


class SpaceToDepth(layers.Layer):
    """[B, h, w, C] -> [B, h / 2, w / 2, 4 C]: four pixels side by side, columns before rows, as YOLOv7's P6 models begin."""

    def call(self, x):
        _, height, width, channels = self.compute_output_shape(ops.shape(x))
        channels //= 4
        x = ops.reshape(x, (-1, height, 2, width, 2, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, height, width, 4 * channels))

    def compute_output_shape(self, shape):
        return (shape[0], *(None if side is None else side // 2 for side in shape[1:3]), 4 * shape[3])


def pooled_down(x, channels, *, reduced=None, name, **options):
    """YOLOv7's way to half the grid: a strided convolution beside a max pool, half the channels from each.

    reduced: the channels before the strided convolution; None: half, too. options: of silu_conv.
    """
    pooled = max_pool(x, name=f"{name}.pool")
    pooled = silu_conv(pooled, channels // 2, 1, **options, name=f"{name}.pooled")
    y = silu_conv(x, reduced or channels // 2, 1, **options, name=f"{name}.reduce")
    y = silu_conv(y, channels // 2, 3, 2, **options, name=f"{name}.strided")
    return layers.Concatenate(name=f"{name}.concat")([y, pooled])


def sppcspc(x, channels, *, sizes=(5, 9, 13), light=False, name, **options):
    """YOLOv7's spatial pyramid pooling, cross-stage partial: one half is pooled, the other skips it.

    light: without the 3x3 convolutions and the 1x1 beside them, as in YOLOv7-tiny, which joins the largest window first.
    options: of silu_conv.
    """

    def convs(x, kernels, name):
        for i, kernel in enumerate(kernels, start=1):
            x = silu_conv(x, channels, kernel, **options, name=f"{name}{i}")
        return x

    skip = convs(x, [1], f"{name}.skip")
    x = convs(x, [1] if light else [1, 3, 1], f"{name}.before")
    pooled = [x, *(max_pool(x, size, 1, name=f"{name}.pool{size}") for size in sizes)]
    x = layers.Concatenate(name=f"{name}.pools")(pooled[::-1] if light else pooled)
    x = convs(x, [1], f"{name}.pooled") if light else convs(x, [1, 3], f"{name}.after")
    x = layers.Concatenate(name=f"{name}.concat")([x, skip])
    return silu_conv(x, channels, 1, **options, name=f"{name}.join")


def repconv(x, channels, *, identity=True, activation="silu", epsilon=1e-3, name):
    """A re-parameterised 3x3 convolution (Ding et al. 2021, arXiv:2101.03697, section 3): it trains as a 3x3 beside a 1x1 and, with as
    many channels in as out, beside nothing but a batch norm; fuse() makes one convolution of them.

    identity: whether there is that third branch. Where the output is added to something, or joined with it, it had better not be
    (Wang et al. 2022, arXiv:2207.02696, section 4.1: RepConvN).
    """
    options = {"activation": "linear", "epsilon": epsilon}
    branches = [silu_conv(x, channels, kernel, **options, name=f"{name}.rep{kernel}") for kernel in (3, 1)]
    if identity and x.shape[-1] == channels:
        branches.append(BatchNorm(epsilon=epsilon, name=f"{name}.identity")(x))
    return activate(layers.Add(name=f"{name}.add")(branches), activation, name=name)


class Implicit(layers.Layer):
    """Implicit knowledge (Wang et al. 2021, "You Only Learn One Representation", arXiv:2105.04206): one number a channel, learned,
    that does not depend on the picture. It is added ("add") or multiplied with ("multiply").
    """

    def __init__(self, operation, **kwargs):
        super().__init__(**kwargs)
        if operation not in ("add", "multiply"):
            raise ValueError(f"operation: expected add or multiply, received {operation!r}")
        self.operation = operation

    def build(self, shape):
        mean = 0.0 if self.operation == "add" else 1.0
        self.knowledge = self.add_weight((shape[-1],), keras.initializers.RandomNormal(mean, 0.02), name="knowledge")

    def call(self, x):
        knowledge = ops.cast(self.knowledge, x.dtype)
        return x + knowledge if self.operation == "add" else x * knowledge

    def get_config(self):
        return super().get_config() | {"operation": self.operation}
