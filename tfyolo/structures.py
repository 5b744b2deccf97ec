"""What travels between the parts of a detector, on one page.

Letters: B images, H W input size, h w grid, A anchors a cell, K classes, N candidates of all levels, M padded ground
truths, D detections.

y before x, everywhere inside the package: sizes (H, W), points (y, x), anchors (h, w), boxes (y1, x1, y2, x2). A name
without a suffix, `boxes`, is float32 (y1, x1, y2, x2) in pixels of the image beside it; pixel (0, 0) covers [0, 1) x
[0, 1), so a box that covers a whole image is (0, 0, H, W). Labels are 0..K-1, -1 is padding.

    levels    {"p3": [B, H/8, W/8, C], ...}: level pL is 2^L times smaller than the image
    parts     {part: {level: [B, h, w, A, Z]}}, what a head predicts: parts["cls"]["p3"]
"""

from typing import Any, NamedTuple

Array = Any  # a numpy array, a tensor or a Keras tensor: the shape is said beside it


def level_stride(level):
    """The stride of a level, in pixels.

    Args:
        level: its name: "p3".

    Returns:
        2 ** 3 = 8 for "p3".
    """
    return 2 ** int(level[1:])


class Features(NamedTuple):
    """What a backbone or neck gives; where there is no auxiliary head, the levels alone may stand for it.

    Attributes:
        levels: {level: [B, h, w, C]}, for the neck or the head.
        aux: Features for an auxiliary head, which only training reads; None: there is none.
    """

    levels: dict[str, Array]
    aux: "Features | None" = None


def as_features(given):
    """Features of what a builder returned: Features, or the levels alone."""
    return given if isinstance(given, Features) else Features(given)


class Raw(NamedTuple):
    """What a head with an auxiliary one predicts; where there is none, the parts alone stand for it.

    Attributes:
        parts: {part: {level: [B, h, w, A, Z]}}.
        aux: the Raw of the auxiliary head, which only training reads; None: there is none.
    """

    parts: dict[str, dict[str, Array]]
    aux: "Raw | dict | None" = None


def as_raw(given):
    """Raw of what a network or head returned: Raw, or the parts alone."""
    return given if isinstance(given, Raw) else Raw(given)


def reads_aux(builder):
    """Decorates a neck or head that is called with Features; one without the mark is called with the levels alone."""
    builder.reads_aux = True
    return builder


def can_read_aux(builder):
    """Whether a neck or head is decorated with reads_aux."""
    return getattr(builder, "reads_aux", False)


class Sample(NamedTuple):
    """One image ready for the network, or a batch of them with B in front of every shape.

    Attributes:
        image: [H, W, 3] RGB: float32 in 0..1; or, as it comes to training, uint8 in 0..255, which
            tf.image.convert_image_dtype converts.
        boxes: [M, 4] float32, pixels of `image`; rows of padding are 0.
        labels: [M] int32, 0..K-1, -1 for padding.
        crowd: [M] bool, regions that are neither learned nor counted as background.
        image_id: [] int32, the record's index in its Source; -1 for an image that only fills a batch.
        transform: [3, 3] float32, maps (y, x, 1) in pixels of the file, seen upright, to pixels of `image`.
    """

    image: Array
    boxes: Array
    labels: Array
    crowd: Array
    image_id: Array
    transform: Array


class Priors(NamedTuple):
    """Where the candidates stand, in pixels of the network's input.

    They are whole grids, one a stride, row by row: assigners find the cells near a box by arithmetic.

    Attributes:
        centers: [N, 2] (y, x), the cells' centres.
        strides: [N], pixels a cell.
        anchors: [N, 2] (h, w), 0 where a decoder has none.
    """

    centers: Array
    strides: Array
    anchors: Array


class Candidates(NamedTuple):
    """Everything a network proposes for a batch, decoded once.

    Attributes:
        boxes: [B, N, 4] float32, differentiable.
        scores: [B, N, K] float32 in 0..1.
        logits: {part: [B, N, Z]}, the raw outputs in the same order.
        priors: Priors.
        size: [2] float32 (H, W) of the image whose pixels the boxes are in; None: not known.
    """

    boxes: Array
    scores: Array
    logits: dict[str, Array]
    priors: Priors
    size: Array = None


BACKGROUND = -1
IGNORE = -2


class Assignment(NamedTuple):
    """Which ground truth each candidate is matched to.

    Attributes:
        gt_index: [B, N] int32; a value in [0, M) is a row of the sample's boxes, BACKGROUND (-1) no object, IGNORE (-2)
            left out of the objectness term.
        quality: [B, N] float32 in 0..1, the objectness that a matched candidate should have; 0 elsewhere.
    """

    gt_index: Array
    quality: Array


class Detections(NamedTuple):
    """What post-processing leaves, best first, padded to D rows.

    Attributes:
        boxes: [B, D, 4] float32, pixels of the network's input; 0 for padding.
        scores: [B, D] float32 in 0..1; 0 for padding.
        labels: [B, D] int32, -1 for padding.
        count: [B] int32, the detections, which are the first rows.
        best: [B] float32, the highest score of any candidate, kept or not.
    """

    boxes: Array
    scores: Array
    labels: Array
    count: Array
    best: Array
