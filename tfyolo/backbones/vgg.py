"""VGG-16 with reduced fully connected layers, the backbone of SSD and M2Det; and the residual networks of keras.applications."""

from typing import Literal

import keras
from keras import layers

from tfyolo.layers import BatchNorm, conv, max_pool, scaled
from tfyolo.ranges import Factor


def vgg16(images, *, norm: bool = False, width: Factor = 1.0, name="backbone"):
    """VGG-16 (Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, D): p3 (512 channels), p4 (1024).

    Its fully connected layers are two convolutions of 1024 channels, the first 3x3 with a dilation of 6, and the pooling before them
    leaves the grid as it is (Liu et al. 2016, "SSD", arXiv:1512.02325, section 3.1). Its ImageNet weights, the file of keras.applications
    with the fully connected layers, are given as train.init. norm: batch norm behind each convolution, with which it trains from
    nothing; the published one has none. width: factor on the channels.
    """

    def block(x, stage, channels, count):
        for i in range(1, count + 1):
            options = {"norm": norm, "activation": "relu", "name": f"{name}.{stage}.conv{i}"}
            x = conv(x, scaled(channels, width), 3, **options)
        return x

    x, stages = images, [("p0", 64, 2), ("p1", 128, 2), ("p2", 256, 3), ("p3", 512, 3), ("p4", 512, 3)]
    features = {}
    for stage, channels, count in stages:
        if stage != "p0":
            x = max_pool(x, pad=0, name=f"{name}.{stage}.pool")
        x = features[stage] = block(x, stage, channels, count)
    x = max_pool(x, 3, 1, name=f"{name}.p4.pool5")
    for i, (kernel, dilation) in enumerate([(3, 6), (1, 1)], start=6):
        options = {"norm": norm, "activation": "relu", "dilation": dilation, "name": f"{name}.p4.conv{i}"}
        x = conv(x, scaled(1024, width), kernel, **options)
    return {"p3": features["p3"], "p4": x}


RESNETS = {50: keras.applications.ResNet50, 101: keras.applications.ResNet101, 152: keras.applications.ResNet152}
# Of the pictures that its ImageNet weights were trained with: red, green, blue, in 0..255.
IMAGENET_MEAN = (123.68, 116.779, 103.939)


def resnet(images, *, layers_count: Literal[50, 101, 152] = 50, name="backbone"):
    """The residual networks of keras.applications (He et al. 2016, arXiv:1512.03385, table 1): p3 (512), p4 (1024), p5 (2048 channels).

    layers_count: 50, 101 or 152. Its ImageNet weights, the file whose name ends in `_notop.h5`, are given as train.init. Batch norms
    are ours, over the whole global batch, with its epsilon.
    """
    published = RESNETS[layers_count](include_top=False, weights=None, input_shape=(None, None, 3))

    def twin(layer):
        config = layer.get_config() | {"name": f"{name}.{layer.name}"}
        if isinstance(layer, layers.BatchNormalization):
            return BatchNorm(epsilon=layer.epsilon, name=config["name"])
        if isinstance(layer, layers.Activation):
            return layers.Activation(layer.activation, name=config["name"])
        config.pop("dtype", None)  # of the policy that the network is built under
        return type(layer).from_config(config)

    # Its weights read blue, green, red in 0..255, less the mean.
    x = layers.Rescaling(255.0, [-mean for mean in IMAGENET_MEAN], name=f"{name}.rescaled")(images)
    x = keras.ops.flip(x, axis=-1)
    # Without what Keras's batch norm is called with besides.
    options = {"clone_function": twin, "call_function": lambda layer, *args, **_: layer(*args)}
    network = keras.models.clone_model(published, input_tensors=x, **options)
    ends = {layer.name.partition("_")[0]: layer.name for layer in published.layers if layer.name.endswith("_out")}
    return {f"p{stage}": network.get_layer(f"{name}.{ends[f'conv{stage}']}").output for stage in (3, 4, 5)}
