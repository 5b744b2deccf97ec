"""The residual networks of keras.applications."""

from typing import Literal

import keras
from keras import layers

from tfyolo.nn.norm import BatchNorm

RESNETS = {50: keras.applications.ResNet50, 101: keras.applications.ResNet101, 152: keras.applications.ResNet152}
# Of the images that the ImageNet weights were trained with: red, green, blue, 0..255.
IMAGENET_MEAN = (123.68, 116.779, 103.939)


def resnet(images, *, layers_count: Literal[50, 101, 152] = 50, name="backbone"):
    """The residual networks of keras.applications.

    Their ImageNet weights, the file whose name ends in `_notop.h5`, are given as train.init. Batch norms are this
    package's, over the whole global batch, with Keras's epsilon.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        layers_count: 50, 101 or 152.
        name: of the layers.

    Returns:
        {"p3": [B, H / 8, W / 8, 512], "p4": [B, H / 16, W / 16, 1024], "p5": [B, H / 32, W / 32, 2048]}.

    Source: He et al. 2016, arXiv:1512.03385, table 1.
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
