"""From a raw tfyolo file's outputs to boxes, with numpy alone. Copy this file into your program (Apache-2.0).

    boxes, scores, labels = from_candidates(boxes, scores, input_size, image_size)         # a file of --nms none
    boxes, scores, labels = from_heads(class_logits, box_logits, input_size, image_size)   # a file of integer heads

Boxes are (top, left, bottom, right); sizes are (height, width). What both entries return is sorted, best first: boxes
[n, 4] in pixels of the photograph, scores [n], labels [n], which are line numbers of labels.txt.
"""

import numpy as np

STRIDES = (8, 16, 32)  # pixels of the input that a cell of each level covers


def from_candidates(boxes, scores, input_size, image_size, fit="letterbox", **options):
    """The detections of one image, from a file without NMS.

    Args:
        boxes: [N, 4], in pixels of the network's input. Those of a full-int8 file are 0..1: dequantize them, then
            multiply them by (height, width, height, width) of the input.
        scores: [N, K] in 0..1, a row of K classes for each box.
        input_size: of the network's input.
        image_size: of the photograph, as it is seen: turned upright by its EXIF orientation.
        fit: how it was brought to the input's size, see placement.
        options: of nms: score, iou, limit, candidates_limit.
    """
    boxes, scores, labels = nms(np.asarray(boxes, "float32"), np.asarray(scores, "float32"), input_size, **options)
    # Back to the photograph, and cut to its edges. What lay wholly in the margins has no extent then.
    scale_y, scale_x, y, x = placement(image_size, input_size, fit)
    boxes = (boxes - [y, x, y, x]) / [scale_y, scale_x, scale_y, scale_x]
    boxes = np.clip(boxes, 0, [*image_size, *image_size])
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[inside], scores[inside], labels[inside]


def from_heads(class_logits, box_logits, input_size, image_size, fit="letterbox", **options):
    """The detections of one image, from the heads' own outputs: YOLOv8's kind, without objectness.

    Args:
        class_logits: [N, K]. The N cells are those of stride 8, row by row, then those of 16 and of 32.
        box_logits: [N, 4 * bins], mostly [N, 64]: of the distances from a cell's middle to the left, top, right and
            bottom side of its box; bin i is a distance of i cells.
        input_size: see from_candidates.
        image_size: see there, too.
        fit: see placement.
        options: of nms.
    """
    boxes, scores = decoded(class_logits, box_logits, input_size)
    return from_candidates(boxes, scores, input_size, image_size, fit, **options)


def decoded(class_logits, box_logits, input_size):
    """Boxes [N, 4] in pixels of the network's input and scores [N, K]; the arguments are those of from_heads."""
    class_logits, box_logits = np.asarray(class_logits, "float64"), np.asarray(box_logits, "float64")
    middles, cells = [], []
    for stride in STRIDES:
        height, width = input_size[0] // stride, input_size[1] // stride
        y, x = np.divmod(np.arange(height * width), width)
        middles.append((np.stack([y, x], axis=1) + 0.5) * stride)
        cells.append(np.full((height * width, 1), stride))
    middles, cells = np.concatenate(middles), np.concatenate(cells)  # [N, 2] (y, x); [N, 1]
    if len(middles) != len(class_logits):
        raise ValueError(f"expected {len(middles)} rows for an input of {input_size}, received {len(class_logits)}")
    # A distance is the mean of its bins under their softmax.
    logits = box_logits.reshape(len(middles), 4, box_logits.shape[-1] // 4)
    share = np.exp(logits - logits.max(axis=2, keepdims=True))
    left, top, right, bottom = (share @ np.arange(logits.shape[2]) / share.sum(axis=2)).T
    before, after = np.stack([top, left], axis=1), np.stack([bottom, right], axis=1)
    boxes = np.concatenate([middles - before * cells, middles + after * cells], axis=1)
    return boxes, 1 / (1 + np.exp(-class_logits))


def dequantized(values, scale, zero_point):
    """The numbers that the integers of an int8 or uint8 output stand for; the file says scale and zero point."""
    return (np.asarray(values, "float32") - zero_point) * np.float32(scale)


def nms(boxes, scores, input_size, score=0.25, iou=0.6, limit=300, candidates_limit=2000):
    """Greedy NMS of each class by itself; a box may be detected as several classes.

    Args:
        boxes: [N, 4].
        scores: [N, K].
        input_size: of the network's input.
        score: the confidence threshold: detections score above it.
        iou: a box that overlaps a better one of its class by more than this is removed.
        limit: the most detections.
        candidates_limit: how many (box, class) pairs, those that score highest, enter.
    """
    rows, labels = np.nonzero(scores > score)
    # Best first. Of equal scores, first comes the box whose best class scores higher, then the one that stands first.
    best = scores.max(axis=1, initial=0)[rows]
    order = np.lexsort([labels, rows, -best, -scores[rows, labels]])[:candidates_limit]
    rows, labels = rows[order], labels[order]
    # An overlap counts up to one side's length beyond the image: nobody sees more of a box.
    sides = np.array([*input_size, *input_size], "float64")
    seen = np.clip(boxes[rows].astype("float64"), -sides, 2 * sides)
    kept, rest = [], np.arange(len(rows))
    while len(rest) and len(kept) < limit:
        first, rest = rest[0], rest[1:]
        kept.append(first)
        rest = rest[(labels[rest] != labels[first]) | (overlap(seen[first], seen[rest]) <= iou)]
    rows, labels = rows[kept], labels[kept]
    return boxes[rows], scores[rows, labels], labels


def overlap(box, others):
    """The IoU of a box [4] with others [n, 4]: [n]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


def placement(image_size, input_size, fit):
    """Where a photograph lies on the network's input: pixel (y, x) comes to (y * scale_y + top, x * scale_x + left).

    Args:
        image_size: (height, width).
        input_size: (height, width).
        fit: model.preprocess of the config in tfyolo.json. "letterbox" keeps the aspect, in the middle of grey;
            "letterbox_top_left" keeps it in the corner; "stretch" does not keep it; "darknet" and "darknet_letterbox",
            of imported Darknet networks, bring the middles of the corner pixels onto each other.

    Returns:
        (scale_y, scale_x, top, left).
    """
    (height, width), (h, w) = image_size, input_size
    factor = min(h / height, w / width)
    if fit == "letterbox":
        return factor, factor, (h - height * factor) / 2, (w - width * factor) / 2
    inner_h, inner_w = h, w
    if fit in ("letterbox_top_left", "darknet_letterbox"):  # sides of a whole number of pixels
        wide = w * height < h * width
        inner_h, inner_w = (height * w // width, w) if wide else (h, width * h // height)
    if fit in ("stretch", "letterbox_top_left"):
        return max(inner_h, 1) / height, max(inner_w, 1) / width, 0, 0
    if fit not in ("darknet", "darknet_letterbox"):
        raise ValueError(f"fit: expected letterbox, letterbox_top_left, stretch, darknet or darknet_letterbox: {fit!r}")
    margins = (h - inner_h) // 2, (w - inner_w) // 2
    scales = [max(n - 1, 1) / (m - 1) if m > 1 else max(n, 1) for n, m in ((inner_h, height), (inner_w, width))]
    return *scales, *(margin + 0.5 - 0.5 * scale for margin, scale in zip(margins, scales, strict=True))
