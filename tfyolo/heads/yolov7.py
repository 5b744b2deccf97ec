"""YOLOv7's head with implicit knowledge and an auxiliary head."""

import functools
import math

from tfyolo.config.ranges import Factor, OpenProbability, Positive
from tfyolo.heads.layers import outputs
from tfyolo.nn.blocks import repconv, silu_conv
from tfyolo.structures import Raw, level_stride, reads_aux


@reads_aux
def implicit(
    features,
    parts,
    num_anchors,
    *,
    rep: bool = False,
    knowledge: bool = True,
    objects: Positive = 8.0,
    aux_width: Factor = 2.0,
    activation: str = "silu",
    epsilon: OpenProbability = 1e-3,
    name="head",
):
    """YOLOv7's head: a 3x3 convolution to twice the channels, and a 1x1.

    features.aux, which a neck gives for an auxiliary head, are read by a head like it (section 4.2), without rep and
    knowledge; it gives Raw.aux.

    Args:
        features: Features.
        parts: {part: channels Z}, of the decoder.
        num_anchors: A, the boxes a cell proposes.
        rep: the 3x3 convolution is re-parameterised (section 4.1); fuse() makes one convolution of its branches.
        knowledge: implicit knowledge is added before the last convolution and multiplied after it (YOLOR,
            arXiv:2105.04206); fuse() makes it part of the convolution.
        objects: how many an untrained head predicts in an image of 640 x 640, so that the many empty cells do not
            dominate the first steps.
        aux_width: the auxiliary head's 3x3 convolutions have so many times the features' channels.
        activation: one of nn.activations.ACTIVATIONS.
        epsilon: of the batch norms; Darknet's is 1e-5.
        name: a prefix of the layers' names.

    Returns:
        Raw parts {part: {level: [B, h, w, A, Z]}}; with an auxiliary head Raw, whose aux are that one's.

    Source: Wang et al. 2022, arXiv:2207.02696.
    """
    options = {"activation": activation, "epsilon": epsilon}
    # Where an object is, an untrained head gives each class a score of about 0.6 / K.
    classes = math.log(0.6 / (parts["cls"] - 0.99))

    def head(features, first, width, knowledge, name):
        raw = {part: {} for part in parts}
        for level, x in features.items():
            x = first(x, int(width * x.shape[-1]), **options, name=f"{name}.{level}")
            biases = {"obj": math.log(objects / (640 / level_stride(level)) ** 2), "cls": classes}
            for part, values in outputs(x, parts, num_anchors, biases, f"{name}.{level}", knowledge).items():
                raw[part][level] = values
        return raw

    plain = functools.partial(silu_conv, kernel=3)
    aux = head(features.aux.levels, plain, aux_width, False, f"{name}.aux") if features.aux else None
    lead = head(features.levels, repconv if rep else plain, 2, knowledge, name)
    return Raw(lead, aux) if aux else lead
