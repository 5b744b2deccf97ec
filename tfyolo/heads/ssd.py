"""SSD's head, which M2Det has too."""

from keras import initializers, layers

from tfyolo.heads.layers import PerAnchor, declared


def ssd(features, parts, num_anchors, *, name="head"):
    """SSD's head: a 3x3 convolution for boxes and one for classes, on each feature map.

    Args:
        features: {level: [B, h, w, C]}.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}.

    Source: Liu et al. 2016, arXiv:1512.02325, figure 2.
    """
    # It reads the channels of all levels of a pyramid: with Xavier's weights its first logits would be in the dozens.
    options = {"padding": "same", "data_format": "channels_last"}
    options["kernel_initializer"] = initializers.RandomNormal(stddev=0.01)
    raw = {part: {} for part in parts}
    for level, x in features.items():
        for part, size in parts.items():
            prefix = f"{name}.{level}.{part}"
            convolution = layers.Conv2D(num_anchors * size, 3, **options, name=f"{prefix}.out")
            y = declared(convolution, ([part], num_anchors))(x)
            raw[part][level] = PerAnchor(num_anchors, name=f"{prefix}.anchors")(y)
    return raw
