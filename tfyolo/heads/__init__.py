"""Heads: Features -> Raw {part: {level: [B, h, w, A, Z]}}.

    def coupled(features, parts, num_anchors, *, name="head") -> Raw

features: Features. parts: {part: channels Z}, in order, and num_anchors: A, the boxes a cell proposes, are the
decoder's. name: a prefix of the layers' names. Docstrings name the options only.
"""

from tfyolo.heads.cornernet import corner
from tfyolo.heads.ssd import ssd
from tfyolo.heads.yolov1 import grid
from tfyolo.heads.yolov3 import coupled, linear
from tfyolo.heads.yolov7 import implicit
from tfyolo.heads.yolov8 import decoupled

HEADS = {
    "coupled": coupled,
    "implicit": implicit,
    "linear": linear,
    "decoupled": decoupled,
    "grid": grid,
    "ssd": ssd,
    "corner": corner,
}
