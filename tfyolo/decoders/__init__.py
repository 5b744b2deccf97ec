"""Decoders: Raw -> Candidates. Keras layers without weights; the losses and the post-processing read them.

    levels                          the feature levels it reads, finest first
    num_anchors                     boxes, or corners, that a cell proposes
    multiple                        what the sides of an image must be multiples of
    has_boxes                       whether it reads parts["box"], and has codes, priors and logits
    has_objectness                  whether it reads parts["obj"], which the class scores are multiplied by
    has_background                  whether parts["cls"] holds 1 + K classes, the background first
    is_distribution                 whether parts["box"] holds logits of distributions: distributions(logits)
    has_largest                     whether `largest`, the longest side of a box in pixels, is one of its options
    saturating                      parts whose raw outputs beyond +-decoder.SATURATED decode like those
    parts(num_classes)              {part: channels}, what the head must give
    check(raw)                      ValueError if the grids are not those that it reads
    count(raw)                      candidates of an image
    call(raw) -> Candidates         everything decoded, in float32
    activate(logits) -> codes       raw box outputs [..., N, 4] -> codes, the space that squared errors are taken in
    decode(codes, priors) -> boxes  [..., N, 4] -> [..., N, 4]
    encode(boxes, priors) -> codes  the inverse of decode
    objectness(raw) -> {level: [B, h, w]}  how likely each cell holds an object, 0..1, for plots

What an objective may ask is one of the attributes above; it never infers them from the parts.

Codes are computed in two halves: a tensor that joins them has one scale in an int8 file, and a sigmoid would share that
of a logarithm. A subclass of Decoder implements both, in halves of the last axis:
    _activate(logits) -> (first, second)      _decode(first, second, priors) -> boxes

Candidates stand in the order level (finest first), row, column, anchor.
"""

from tfyolo.decoders.anchors import Anchor, Region, Wide
from tfyolo.decoders.cornernet import Corner
from tfyolo.decoders.ssd import Ssd
from tfyolo.decoders.yolov1 import Grid
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.decoders.yolox import Point

DECODERS = {
    "anchor": Anchor,
    "wide": Wide,
    "region": Region,
    "dfl": Dfl,
    "point": Point,
    "grid": Grid,
    "ssd": Ssd,
    "corner": Corner,
}
