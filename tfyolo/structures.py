"""What travels between the parts of a detector, on one page.

Letters: B images, H W input size, h w grid, A anchors a cell, K classes, N candidates of all levels, M padded ground truths,
D detections.

y before x, everywhere inside the package: sizes (H, W), points (y, x), anchors (h, w), boxes (y1, x1, y2, x2). A name without
a suffix, `boxes`, is float32 (y1, x1, y2, x2) in pixels of the image beside it; pixel (0, 0) covers [0, 1) x [0, 1), so a box
that covers a whole image is (0, 0, H, W). Labels are 0..K-1, -1 is padding.

    Features  {"p3": [B, H/8, W/8, C], ...}: level pL is 2^L times smaller than the image; features["aux"]
              are others, for an auxiliary head
    Raw       {part: {level: [B, h, w, A, Z]}}, for example raw["cls"]["p3"]; raw["aux"] is another Raw, that only training reads
"""

from typing import Any, NamedTuple

Array = Any  # a numpy array, a tensor or a Keras tensor: the shape is said beside it


def level_stride(level):
    """Pixels a cell at a level: "p3" -> 8."""
    return 2 ** int(level[1:])


class Sample(NamedTuple):
    """One picture ready for the network, or a batch of them with B in front of every shape.

    image: [H, W, 3] RGB: float32 in 0..1; or, as it comes to training, uint8 in 0..255 (tf.image.convert_image_dtype makes it the other).
    boxes: [M, 4] float32, pixels of `image`; rows of padding are 0.
    labels: [M] int32, 0..K-1, -1 for padding.
    crowd: [M] bool, regions that are neither learned nor counted as background.
    image_id: [] int32, the record's place in its Source; -1 for a picture that only fills a batch.
    transform: [3, 3] float32, takes (y, x, 1) in pixels of the file, as seen upright, to pixels of `image`.
    """

    image: Array
    boxes: Array
    labels: Array
    crowd: Array
    image_id: Array
    transform: Array


class Priors(NamedTuple):
    """Where the candidates stand, in pixels of the network's input.

    centers: [N, 2] (y, x) of the cells' centres. strides: [N] pixels a cell. anchors: [N, 2] (h, w), 0 where a decoder has none.
    """

    centers: Array
    strides: Array
    anchors: Array


class Candidates(NamedTuple):
    """Everything a network proposes for a batch, decoded once.

    boxes: [B, N, 4] float32, differentiable. scores: [B, N, K] float32 in 0..1.
    logits: {part: [B, N, Z]}, the raw outputs in the same order. priors: Priors.
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
    """Which truth each candidate answers for.

    gt_index: [B, N] int32; a value in [0, M) is a row of the sample's boxes, -1 background, -2 ignored by the objectness term.
    quality: [B, N] float32 in 0..1, the objectness a matched candidate should have; 0 elsewhere.
    """

    gt_index: Array
    quality: Array


class Detections(NamedTuple):
    """What is left after post-processing, best first, padded to D rows.

    boxes: [B, D, 4] float32, pixels of the network's input. scores: [B, D] float32. labels: [B, D] int32, -1 for padding.
    count: [B] int32, the rows that hold something. best: [B] float32, the highest score of any candidate, kept or not.
    """

    boxes: Array
    scores: Array
    labels: Array
    count: Array
    best: Array
