"""Losses: elementwise functions, and the objectives that sum them up, term by term.

    sums(raw, candidates, sample) -> (sums, counts)      what is summed over the images given, and what divides the sums
    normalised(sums, counts) -> {name: weighted scalar}  the terms: each a sum over a count, times its gain
    terms                                                their names
    reads_aux                                            whether it has terms of Raw.aux; None: if there is one
    without_aux()                                        the same objective without them

A training step receives the global batch in pieces: one on each replica, and of each of these train.accumulate parts.
It adds up the counts of all pieces first, then normalises the sums of each by the counts of all; so the terms of the
pieces, and their gradients, add up to those of the whole batch. An objective keeps three laws, which
tests/losses/test_losses.py checks:
- sums and counts are dictionaries, nested if need be, of tensors that are sums over images: those of two pieces add up
  to those of both.
- normalised is linear in the sums; a count of 0 (no image with a box) divides nothing.
- No gradient flows through counts.
objective(raw, candidates, sample) is both at once, for images that are the whole batch.
"""

from tfyolo.losses.cornernet import Corner
from tfyolo.losses.darknet import Dense
from tfyolo.losses.ssd import MultiBox
from tfyolo.losses.yolov7 import Balanced
from tfyolo.losses.yolov8 import Aligned
from tfyolo.losses.yolox import IouAware

OBJECTIVES = {
    "dense": Dense,
    "balanced": Balanced,
    "aligned": Aligned,
    "iou_aware": IouAware,
    "multibox": MultiBox,
    "corner": Corner,
}
