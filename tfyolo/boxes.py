"""Boxes: conversions between formats, and the family of overlaps. All in keras.ops, all differentiable.

Converters are named a_to_b and return new tensors. Formats, always over the last axis:
    boxes        y1, x1, y2, x2 in pixels          boxes_yxhw  centre y, centre x, height, width in pixels
    boxes_unit   y1, x1, y2, x2 in 0..1            boxes_xyxy  x1, y1, x2, y2: other tools
    boxes_xywh   x1, y1, w, h: COCO's JSON
    boxes_unit_cxcywh  centre x, centre y, w, h in 0..1: YOLO's text files
"""

import math

from keras import ops

EPSILON = 1e-7


def boxes_to_yxhw(boxes):
    """Boxes [..., 4] (y1, x1, y2, x2) -> [..., 4] (centre y, centre x, height, width)."""
    y1, x1, y2, x2 = ops.unstack(boxes, 4, axis=-1)
    return ops.stack([(y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1], axis=-1)


def yxhw_to_boxes(boxes_yxhw):
    """Boxes [..., 4] (centre y, centre x, height, width) -> [..., 4] (y1, x1, y2, x2)."""
    y, x, h, w = ops.unstack(boxes_yxhw, 4, axis=-1)
    return ops.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=-1)


def area(boxes):
    """The area of boxes [..., 4] -> [...]; 0 for an inverted or empty box."""
    y1, x1, y2, x2 = ops.unstack(boxes, 4, axis=-1)
    return ops.maximum(y2 - y1, 0.0) * ops.maximum(x2 - x1, 0.0)


def intersection(a, b):
    """The area that two boxes share.

    Args:
        a: [..., 4].
        b: [..., 4], which broadcasts against a.

    Returns:
        [...], in squared units of the boxes.
    """
    ay1, ax1, ay2, ax2 = ops.unstack(a, 4, axis=-1)
    by1, bx1, by2, bx2 = ops.unstack(b, 4, axis=-1)
    height = ops.maximum(ops.minimum(ay2, by2) - ops.maximum(ay1, by1), 0.0)
    width = ops.maximum(ops.minimum(ax2, bx2) - ops.maximum(ax1, bx1), 0.0)
    return height * width


def iou(a, b):
    """Intersection over union.

    Args:
        a: [..., 4].
        b: [..., 4], which broadcasts against a.

    Returns:
        [...] in 0..1; 0 where both are empty.
    """
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / ops.maximum(union, EPSILON)


def pairwise_iou(a, b):
    """The IoU of every box of one set with every box of another.

    Args:
        a: [..., N, 4].
        b: [..., M, 4].

    Returns:
        [..., N, M] in 0..1.
    """
    return iou(ops.expand_dims(a, -2), ops.expand_dims(b, -3))


def shape_iou(a_hw, b_hw):
    """The IoU of shapes alone, as if boxes shared one centre.

    Args:
        a_hw: [..., N, 2] (h, w).
        b_hw: [..., M, 2] (h, w).

    Returns:
        [..., N, M] in 0..1, of every shape of a with every shape of b.
    """
    a_hw, b_hw = ops.expand_dims(a_hw, -2), ops.expand_dims(b_hw, -3)
    shared = ops.prod(ops.minimum(a_hw, b_hw), axis=-1)
    return shared / ops.maximum(ops.prod(a_hw, axis=-1) + ops.prod(b_hw, axis=-1) - shared, EPSILON)


def _hull(a, b):
    """Height and width of the smallest box round both."""
    ay1, ax1, ay2, ax2 = ops.unstack(a, 4, axis=-1)
    by1, bx1, by2, bx2 = ops.unstack(b, 4, axis=-1)
    return ops.maximum(ay2, by2) - ops.minimum(ay1, by1), ops.maximum(ax2, bx2) - ops.minimum(ax1, bx1)


def giou(a, b):
    """Generalised IoU: IoU - (hull - union) / hull.

    Args:
        a: [..., 4].
        b: [..., 4], which broadcasts against a.

    Returns:
        [...] in -1..1.

    Source: Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    height, width = _hull(a, b)
    hull = height * width
    return shared / ops.maximum(union, EPSILON) - (hull - union) / ops.maximum(hull, EPSILON)


def diou(a, b):
    """Distance IoU: IoU - (distance of the centres / diagonal of the hull)^2.

    Args:
        a: [..., 4].
        b: [..., 4], which broadcasts against a.

    Returns:
        [...] in -1..1.

    Source: Zheng et al. 2020, arXiv:1911.08287, eq. 7.
    """
    height, width = _hull(a, b)
    ay, ax, _, _ = ops.unstack(boxes_to_yxhw(a), 4, axis=-1)
    by, bx, _, _ = ops.unstack(boxes_to_yxhw(b), 4, axis=-1)
    distance = ops.square(ay - by) + ops.square(ax - bx)
    return iou(a, b) - distance / ops.maximum(ops.square(height) + ops.square(width), EPSILON)


def ciou(a, b):
    """Complete IoU: DIoU - alpha v, where v measures the difference of the aspect ratios.

    alpha is a weight, not a quantity to be learned: no gradient flows through it.

    Args:
        a: [..., 4].
        b: [..., 4], which broadcasts against a.

    Returns:
        [...], at most 1.

    Source: Zheng et al. 2020, arXiv:1911.08287, eq. 10-12.
    """
    _, _, ah, aw = ops.unstack(boxes_to_yxhw(a), 4, axis=-1)
    _, _, bh, bw = ops.unstack(boxes_to_yxhw(b), 4, axis=-1)
    # arctan2 and not arctan of a quotient: a box without height has an angle, and a gradient, all the same.
    difference = ops.arctan2(bw, ops.maximum(bh, EPSILON)) - ops.arctan2(aw, ops.maximum(ah, EPSILON))
    v = ops.square(difference) * (4 / math.pi**2)
    alpha = ops.stop_gradient(v / ops.maximum(1 - iou(a, b) + v, EPSILON))
    return diou(a, b) - alpha * v


OVERLAPS = {"iou": iou, "giou": giou, "diou": diou, "ciou": ciou}
