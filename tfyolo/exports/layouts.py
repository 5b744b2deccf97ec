"""Layouts: what a TFLite file gives out, and what it computes behind the network for that.

predict.layouts reads each of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfyolo.decoders.decoder import SATURATED
from tfyolo.graph.ends import ends
from tfyolo.graph.nodes import used
from tfyolo.model import with_largest_box
from tfyolo.predict.heads import SIDES
from tfyolo.structures import Candidates
from tfyolo.tflite import metadata


class Layout(NamedTuple):
    """One way to write a network's results.

    Attributes:
        body: (Model, images) -> tensors; frozen before anything else is made of them.
        end: (Model, those tensors) -> {output: tensor}.
        outputs: (Model) -> [metadata.Output], in the file's order.
        prepare: (Model) -> the Model that is written, before quantization is finished.
    """

    body: Callable[..., Any]
    end: Callable[..., dict]
    outputs: Callable[..., list]
    prepare: Callable[..., Any] = lambda model: model


def with_bounded_boxes(model):
    """The Model whose boxes have sides of at most two images: the fewer pixels 256 steps are over, the finer they are.

    A box so long whose middle lies in the image reaches over both borders, where it is cut anyway.
    """
    return with_largest_box(model, 2.0 * max(model.input_size))


# --- of candidates ----------------------------------------------------------------------------------------------------


def _decoded(model, images):
    found = model.decoder(model.network(images, training=False))
    return found.boxes, found.scores


def _candidates(model, boxes, scores):
    return Candidates(boxes, scores, None, None, np.array(model.input_size, "float32"))


def _with_nms(model, boxes, scores):
    """Detections; NMS image by image, unrolled, so that TFLite needs no loop."""
    each = [model.postprocess(_candidates(model, boxes[i : i + 1], scores[i : i + 1])) for i in range(boxes.shape[0])]
    return {name: tf.concat([getattr(one, name) for one in each], 0) for name in each[0]._fields}


def _raw(model, boxes, scores):
    """All candidates: boxes [B, N, 4] in pixels, scores [B, N, K]."""
    return {"boxes": boxes, "scores": scores}


def _raw_normalized(model, boxes, scores):
    """All candidates, boxes in 0..1, clipped to the image.

    Cut by a fake quantization each before and after the division: what adds up to a corner takes over the first one's
    range, and so has all of its 256 steps inside the image.
    """
    size = model.input_size
    boxes = tf.quantization.fake_quant_with_min_max_args(boxes, 0.0, float(max(size)))
    boxes_unit = boxes / np.array([*size] * 2, "float32")
    return {"boxes": tf.quantization.fake_quant_with_min_max_args(boxes_unit, 0.0, 1.0), "scores": scores}


def _task_outputs(model, boxes, scores):
    """What TFLite_Detection_PostProcess gives, which the task libraries read: boxes in 0..1, and numbers as floats.

    That operation itself leaves behind its `count` whatever its memory held, and is no builtin one.
    """
    found = model.postprocess(_candidates(model, boxes, scores))
    location = found.boxes / np.array([*model.input_size] * 2, "float32")
    values = location, tf.cast(found.labels, tf.float32), found.scores, tf.cast(found.count, tf.float32)
    return dict(zip(_TASK, values, strict=True))


def _app(model, boxes, scores):
    """[B, 4 + K, N]: centre x, centre y, width and height in 0..1, and the scores of all classes."""
    boxes_unit = boxes / np.array([*model.input_size] * 2, "float32")
    (y1, x1, y2, x2) = tf.split(boxes_unit, 4, axis=-1)
    rows = tf.concat([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, scores], axis=-1)
    return {"output0": tf.transpose(rows, [0, 2, 1])}


def _end_to_end(model, boxes, scores):
    """[B, n, 6]: left, top, right and bottom in 0..1, score, class; rows of 0 behind the last detection."""
    found = _with_nms(model, boxes, scores)
    y1, x1, y2, x2 = tf.split(found["boxes"] / np.array([*model.input_size] * 2, "float32"), 4, axis=-1)
    labels = tf.maximum(tf.cast(found["labels"], tf.float32), 0.0)
    return {"output0": tf.concat([x1, y1, x2, y2, found["scores"][..., None], labels[..., None]], axis=-1)}


# --- of what is not decoded -------------------------------------------------------------------------------------------

CLAMP = 4.0  # of class logits: in 256 steps over more, the scores that count would have few


def _ends(model, images):
    """What the last convolutions output, one tensor for each level and part."""
    network = used(model.network)
    found = keras.Model(network.input, ends(network))(images, training=False)
    return tuple(found.values())


def _as_ends(model, *tensors):
    return dict(zip(ends(model.network), tensors, strict=True))


def _as_integer_ends(model, *tensors):
    """The same, each within what decoding can tell apart: of 256 steps over all that one may be, few would be there."""
    bounded = {}
    for name, tensor in _as_ends(model, *tensors).items():
        parts = name.split("_")[1:] or model.decoder.parts(len(model.classes))
        if set(parts) <= set(model.decoder.saturating):
            tensor = tf.quantization.fake_quant_with_min_max_args(tensor, -SATURATED, SATURATED)
        bounded[name] = tensor
    return bounded


def _logits(model, images):
    """Class logits [B, N, K] and box distributions [B, N, 4 * bins] in the order of predict.heads.SIDES.

    N goes over all cells, finest level first.
    """
    found = model.decoder(model.network(images, training=False)).logits
    sides = tf.split(found["box"], 4, axis=-1)
    return found["cls"], tf.concat([sides[place] for place in SIDES], axis=-1)


def _clamped(model, classes, boxes):
    """No coordinate is in int8. A fake quantization clamps the classes: their range is that of the output."""
    return {
        "class_logits": tf.quantization.fake_quant_with_min_max_args(classes, -CLAMP, CLAMP),
        "box_logits": boxes,
    }


_TASK = {
    "location": ("Top, left, bottom and right of each detection, 0..1", "boxes_unit"),
    "category": ("Numbers of the classes", "labels"),
    "score": ("0..1", "numbers"),
    "number of detections": ("How many were found", "numbers"),
}
_FOUND = {
    "boxes": ("Top, left, bottom and right of each detection", "boxes"),
    "scores": ("0..1", "numbers"),
    "labels": ("Numbers of the classes", "labels"),
    "count": ("How many were found; what follows is padding", "numbers"),
    "best": ("The highest score of all candidates", "numbers"),
}
_RAW = {
    "boxes": ("Top, left, bottom and right of each candidate", "boxes"),
    "scores": ("0..1 of each class, in the order of labels.txt", "labels"),
}
_APP = {"output0": ("Centre x, centre y, width, height in 0..1 and all scores of each candidate", "labels")}
_END_TO_END = {"output0": ("Left, top, right, bottom in 0..1, score and class of each detection", "labels")}
_LOGITS = {
    "class_logits": (f"Of each cell, clamped to {-CLAMP:g}..{CLAMP:g}: a score is their sigmoid", "labels"),
    "box_logits": ("Distributions of the distances to left, top, right and bottom, of each cell", "numbers"),
}


def _fixed(outputs):
    return lambda model: [metadata.Output(name, *what) for name, what in outputs.items()]


def _of_ends(model):
    return [metadata.Output(name, "What the last convolution outputs", "numbers") for name in ends(model.network)]


# {(nms, integer): Layout}, by exports.targets.Target.
LAYOUTS = {
    ("builtin", False): Layout(_decoded, _with_nms, _fixed(_FOUND)),
    ("task", False): Layout(_decoded, _task_outputs, _fixed(_TASK)),
    ("none", False): Layout(_decoded, _raw, _fixed(_RAW)),
    ("none", True): Layout(
        _decoded,
        _raw_normalized,
        _fixed(_RAW | {"boxes": (_RAW["boxes"][0], "boxes_unit")}),
        with_bounded_boxes,
    ),
    ("app", False): Layout(_decoded, _app, _fixed(_APP)),
    ("e2e", False): Layout(_decoded, _end_to_end, _fixed(_END_TO_END)),
    ("heads", False): Layout(_ends, _as_ends, _of_ends),
    ("heads", True): Layout(_ends, _as_integer_ends, _of_ends),
    ("logits", True): Layout(_logits, _clamped, _fixed(_LOGITS)),
}
