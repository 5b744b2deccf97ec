"""A Darknet network as a Config."""

import json
import math

from tfyolo import config as configs

NMS_IOU = 0.45  # Darknet's own, in its detector


def config_of(net, name):
    """The Config of a Net: its sections as the backbone, the training recipe of YOLOv3 (of YOLOv1 for [detection]).

    Args:
        net: weights.darknet.cfg.Net.
        name: the config's.
    """
    values = json.loads(
        configs.to_json(configs.load(configs.zoo("yolov1" if net.heads[0].kind == "detection" else "yolov3")))
    )
    sections = [_plain(section) for section in net.sections]
    values["name"] = name
    values["model"] |= {
        "backbone": {"name": "darknet_cfg", "sections": sections},
        "neck": {"name": "identity"},
        "head": {"name": "linear"},
        **readings(net),
    }
    head = net.heads[0]
    if head.kind == "detection":
        values["model"]["head"] = {"name": "grid", "units": None, "side": math.isqrt(head_cells(head, net.classes))}
    if head.kind == "region":
        values["model"]["objective"]["cls"] = "softmax"
    return configs.from_json(json.dumps(values))


def head_cells(head, classes):
    """The number of cells in the grid of a [detection] Head."""
    return head.layer.output // (classes + 5 * len(head.anchors))


def _plain(section):
    """A section as in a config: its type, and the values that differ from the defaults."""
    values = {name: getattr(section, name) for name in section.__dataclass_fields__}
    defaults = {name: field.default for name, field in section.__dataclass_fields__.items()}
    return {"type": section.type} | {name: value for name, value in values.items() if value != defaults[name]}


def readings(net):
    """{key: value} of the config's `model` that a .cfg decides even for a network of the zoo: all but its layers."""
    heads = {head.level: head for head in net.heads}
    head = net.heads[0]
    anchors = {level: [list(pair) for pair in heads[level].anchors] for level in sorted(heads)}
    scales = {level: heads[level].numbers["scale_x_y"] for level in sorted(heads)}
    if head.kind == "detection":
        decoder = {"name": "grid", "boxes_per_cell": len(head.anchors), "level": head.level}
    elif head.kind == "region":
        decoder = {"name": "region", "anchors": anchors}
    else:
        scale = scales if len(set(scales.values())) > 1 else next(iter(scales.values()))
        wide = head.numbers["new_coords"] == 1
        decoder = {"name": "wide" if wide else "anchor", "anchors": anchors}
        if scale != (2.0 if wide else 1.0):
            decoder["scale_yx"] = scale
    readings = {
        "input_size": list(net.size),
        "preprocess": net.preprocess,
        "classes": None,
        "decoder": decoder,
        "postprocess": {"name": "nms", "iou": NMS_IOU},
    }
    if head.nms_kind == "diounms":
        readings["postprocess"]["distance_power"] = head.numbers["beta_nms"]
    if head.kind != "detection":
        options = {"ignore": head.numbers["ignore_thresh"]}
        if head.numbers["iou_thresh"] < 1:
            options["match"] = head.numbers["iou_thresh"]
        readings["assigner"] = {"name": "best_anchor", **options}
    return readings
