"""A backbone from the sections of a Darknet .cfg."""

from tfyolo.darknet.sections import HEADS, AnySection, Output, owners, trace


def darknet_cfg(images, *, sections: list[AnySection], name="backbone"):
    """The network of a Darknet .cfg up to its heads.

    Args:
        images: [B, H, W, 3] RGB, 0..1.
        sections: of the .cfg, in its order (darknet.sections).
        name: of the layers.

    Returns:
        {level: [B, h, w, C]}: the input of the last convolution of each level.

    Raises:
        ValueError: the sections do not fit each other or the size of the images.
    """
    trace(sections, images.shape[1:3])
    tensors, features = [], {}
    for (number, section), first in zip(enumerate(sections), owners(sections), strict=True):
        inputs = [tensors[source] if source >= 0 else images for source in section.sources(number)]
        if isinstance(section, HEADS):
            if isinstance(section, Output):
                features[section.level] = inputs[0]
            tensors.append(inputs[0])
            continue
        shared = {} if first == number else {"owner": tensors[first]}
        tensors.append(section.build(inputs, f"{name}.{number}", **shared))
    return dict(sorted(features.items()))
