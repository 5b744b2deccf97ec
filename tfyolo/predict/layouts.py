"""Layouts: how what a TFLite file gives out is read, by the kinds that exports.layouts writes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfyolo.edge import candidates as edge
from tfyolo.libraries import has_tensorflow
from tfyolo.predict.runtimes import resolved
from tfyolo.structures import Candidates, Detections


class Layout(NamedTuple):
    """How the outputs of one kind are read.

    Attributes:
        outputs: {name} of the outputs.
        read: {name: array} -> Candidates, or Detections where NMS is included.
        has_nms: whether it is.
    """

    outputs: set[str]
    read: Callable
    has_nms: bool


def layout_of(kind, precision, config, classes):
    """The Layout of a file; None if no file has that kind.

    Args:
        kind: the `nms` of its exports.targets.Target.
        precision: that of its Target.
        config: the Config of its model.
        classes: names in label order.
    """
    make = _LAYOUTS.get(kind)
    return make(config, classes, precision) if make else None


def _sides(config):
    """[4] float32 (H, W, H, W), which turns boxes of 0..1 into pixels."""
    return np.array([*config.model.input_size] * 2, "float32")


def _builtin(config, classes, precision):
    return Layout({*Detections._fields}, lambda found: Detections(**found), True)


def _candidates(boxes, scores, sides):
    return Candidates(boxes, scores, None, None, sides[:2])


def _none(config, classes, precision):
    sides = _sides(config)
    unit = sides if precision == "full-int8" else 1.0  # whose boxes are 0..1
    return Layout({"boxes", "scores"}, lambda found: _candidates(found["boxes"] * unit, found["scores"], sides), False)


def _task(config, classes, precision):
    sides = _sides(config)

    def read(found):
        count = found["number of detections"].astype("int32")
        padding = np.arange(found["score"].shape[1]) >= count[:, None]  # its values may be anything
        boxes = np.where(padding[..., None], 0, found["location"]) * sides
        scores, labels = np.where(padding, 0, found["score"]), np.where(padding, -1, found["category"]).astype("int32")
        return Detections(boxes, scores, labels, count, scores.max(axis=1, initial=0))

    return Layout({"location", "category", "score", "number of detections"}, read, True)


def app_read(config, unit):
    """Reads the one tensor of the YOLO apps, [B, 4 + K, N]: a function {output: array} -> Candidates.

    Args:
        config: the Config.
        unit: what its boxes count in, in pixels: 1 in ONNX files, [4] (H, W, H, W) in TFLite files.
    """

    def read(found):
        rows = found["output0"].transpose(0, 2, 1)
        yx, hw = rows[..., 1::-1], rows[..., 3:1:-1]
        boxes = np.concatenate([yx - hw / 2, yx + hw / 2], axis=-1) * unit
        return _candidates(boxes.astype("float32"), rows[..., 4:], _sides(config))

    return read


def _app(config, classes, precision):
    return Layout({"output0"}, app_read(config, _sides(config)), False)


def _end_to_end(config, classes, precision):
    sides = _sides(config)

    def read(found):
        rows = found["output0"]
        boxes, scores = rows[..., [1, 0, 3, 2]] * sides, rows[..., 4]
        count = (scores > 0).sum(axis=1).astype("int32")
        labels = np.where(scores > 0, rows[..., 5], -1).astype("int32")
        return Detections(boxes.astype("float32"), scores, labels, count, scores.max(axis=1, initial=0))

    return Layout({"output0"}, read, True)


def _logits(config, classes, precision):
    read = resolved("tfyolo.predict.heads:logits_read") if has_tensorflow() else edge.logits_read
    return Layout({"class_logits", "box_logits"}, read(config), False)


def _heads(config, classes, precision):
    names, read = resolved("tfyolo.predict.heads:heads_read")(config, len(classes))
    return Layout({*names}, read, False)


_LAYOUTS = {
    "builtin": _builtin,
    "none": _none,
    "task": _task,
    "app": _app,
    "e2e": _end_to_end,
    "heads": _heads,
    "logits": _logits,
}


def postprocess_of(layout, config, options):
    """What follows read() in a Detector. options: of the post-processing, for a Layout without NMS."""
    if layout.has_nms:
        return lambda detections: detections
    return (resolved("tfyolo.model:postprocess") if has_tensorflow() else edge.postprocess)(config, **options)
