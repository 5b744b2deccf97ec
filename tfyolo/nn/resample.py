"""What changes the grid of a feature map: upsampling, space to depth."""

from keras import layers, ops


class Upsample(layers.Layer):
    """Nearest-neighbour enlargement. One RESIZE_NEAREST_NEIGHBOR in TFLite, where UpSampling2D becomes a reshape and a tile."""

    quantization = "moves"

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

    quantization = "moves"

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x):
        return ops.image.resize(x, self.size, interpolation="nearest", data_format="channels_last")

    def compute_output_shape(self, shape):
        return (shape[0], *self.size, shape[3])


class SpaceToDepth(layers.Layer):
    """[B, h, w, C] -> [B, h / 2, w / 2, 4 C]: four pixels side by side, columns before rows, as YOLOv7's P6 models begin."""

    quantization = "moves"

    def call(self, x):
        _, height, width, channels = self.compute_output_shape(ops.shape(x))
        channels //= 4
        x = ops.reshape(x, (-1, height, 2, width, 2, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, height, width, 4 * channels))

    def compute_output_shape(self, shape):
        return (shape[0], *(None if side is None else side // 2 for side in shape[1:3]), 4 * shape[3])
