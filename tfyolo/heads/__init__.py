"""Heads: Features -> Raw {part: {level: [B, h, w, A, Z]}}.

    def coupled(features, parts, num_anchors, *, name="head") -> Raw

parts: {part: channels Z}, in order, and num_anchors: A, the boxes a cell proposes, are the decoder's. A head is called
with the levels {level: [B, h, w, C]} alone; with Features if it is marked by structures.reads_aux.

A new head is a function in a file of its family and a line in the dict below.
"""

from tfyolo.heads.cornernet import corner
from tfyolo.heads.ssd import ssd
from tfyolo.heads.yolov1 import grid
from tfyolo.heads.yolov3 import coupled, linear
from tfyolo.heads.yolov7 import implicit
from tfyolo.heads.yolov8 import decoupled
from tfyolo.heads.yolov9 import grouped
from tfyolo.heads.yolox import decoupled_stem

HEADS = {
    "coupled": coupled,
    "implicit": implicit,
    "linear": linear,
    "decoupled": decoupled,
    "decoupled_stem": decoupled_stem,
    "grouped": grouped,
    "grid": grid,
    "ssd": ssd,
    "corner": corner,
}
