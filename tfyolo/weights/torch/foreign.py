"""What a checkpoint of PyTorch says that it is, where it is none that can be imported.

A pickled model names the classes of its layers, its task and the file that describes it; a state dict has the names and
shapes of its tensors. Both tell networks apart that a few tensors in the right places do not.
"""

import re
from pathlib import PureWindowsPath
from typing import NamedTuple

import numpy as np

from tfyolo.messages import counted, printable
from tfyolo.weights.torch.unpickle import LONGEST_NAME, Record

IMPORTED = "a detector of YOLOv7, YOLOv8, YOLOv9 (the MIT-licensed edition), YOLO11 or YOLOX"
_OTHERS = "take a checkpoint of one of these, or train one of `tfyolo configs`"
_DARKNET = "import it from Darknet's own files, `tfyolo import NET.cfg NET.weights`"
_MOST_LOOKED_AT = 200_000  # objects; a checkpoint with two models and an optimizer has some 30,000


class _Sign(NamedTuple):
    """What only one kind of network has.

    Attributes:
        what: the kind.
        classes: a pattern among "module.Class"; "" for none.
        tensors: a pattern among "name 64x3x3x3"; "" for none.
        to_do: what the user can do.
    """

    what: str
    classes: str
    tensors: str
    to_do: str = _OTHERS


# The first that fits is it.
_FAMILIES = (
    _Sign("YOLO26", r"\.(Segment|Pose|OBB|Proto|YOLOESegment)26$", r"\.one2one_cv2\.0\.2\.bias 4$"),
    _Sign("YOLOv10", r"\.(v10Detect|SCDown|C2fCIB)$", r"\.one2one_cv[23]\.0\."),
    _Sign("YOLOv13", r"\.(HyperACE|DSC3k2|FullPAD_Tunnel)$", ""),
    _Sign("YOLO12", r"\.(A2C2f|AAttn|ABlock)$", r"^(model\.)?\d+\.m\.\d+\.\d+\.attn\."),
    _Sign("YOLOE", r"\.(YOLOE\w*|LRPCHead)$", r"\.(reprta|savpe|lrpc)\."),
    _Sign("YOLO-World", r"\.(World(Detect|Model)|C2fAttn|ImagePoolingAttn)$", r"\.cv4\.0\.logit_scale "),
    _Sign(
        "YOLOv9",
        r"^(?!yolo\.).*\.(RepNCSPELAN4?|ELAN1|SPPELAN|CBLinear|CBFuse|(Dual|Triple)?DDetect|(Dual|Triple)Detect)$",
        r"\.cv2\.0\.cv1\.conv\.weight ",
        "take one of the MIT-licensed edition, whose weights are others, or train one of `tfyolo configs`",
    ),
    _Sign("D-FINE or DEIM", "", r"(^|\.)decoder\.pre_bbox_head\."),
    _Sign("RT-DETR", r"\.RTDETR\w*$", r"(^|\.)(dec|enc)_score_head\."),
    _Sign("YOLO-NAS", r"^super_gradients\.", r"^heads\.head\d\.(cls|reg|pose)_pred\."),
    _Sign(
        "YOLOX with Darknet-53",
        "",
        r"^backbone\.backbone\.stem\.0\.conv\.weight |^backbone\.backbone\.stem\.1\.0\.conv\.weight ",
    ),
    _Sign("YOLOv6", r"^yolov6\.", r"^detect\.cls_preds\.\d\."),
    _Sign("PP-YOLOE", "", r"^head\.pred_cls\.\d\."),
    _Sign("NanoDet or PicoDet", r"^nanodet\.", r"(^|\.)gfl_cls\.\d\."),
    _Sign("MMDetection's or MMYOLO's", r"^mm(det|yolo|engine|cv)\.", r"^(bbox_head|roi_head)\."),
    _Sign("Faster or Mask R-CNN", r"\.(Faster|Mask)RCNN$", r"^(roi_heads|rpn\.head)\."),
    _Sign(
        "SSD, RetinaNet or FCOS",
        r"\.(SSD|RetinaNet|FCOS)$",
        r"^head\.(classification|regression)_head\.|^vgg\.0\.weight ",
    ),
    _Sign("DETR or another of its line", r"\.\w*DETR$", r"(^|\.)transformer\.(en|de)coder\.layers\.0\."),
    _Sign("EfficientDet", r"\.EfficientDet\w*$", r"^bifpn\.0\.|^backbone_net\.model\.|^class_net\."),
    _Sign("M2Det", r"\.M2Det$", r"^unet1\."),
    _Sign(
        "a network of Darknet's, such as YOLOv3 or YOLOv4, in PyTorch",
        r"\.Darknet$",
        r"^(module_list\.0\.(Conv2d|conv_?0)|models\.0\.conv1|down1\.conv1\.conv\.0)\.weight ",
        _DARKNET,
    ),
    _Sign("YOLOv5u", r"^ultralytics\..*\.C3$", r"^model\.24\.cv3\.0\.2\.bias "),
    _Sign("YOLOv5", r"^models\.common\.(C3\w*|BottleneckCSP|Focus)$", r"^model\.(24|33)\.m\.0\.weight "),
    _Sign("YOLOv3", r"^models\.common\.Bottleneck$", r"^model\.(20|28)\.m\.0\.weight ", _DARKNET),
)
_TASKS = (
    _Sign(
        "segmentation",
        r"\.(\w*Segment(ationModel|26)?|YOLOESegModel|Proto(26)?|MaskRCNN)$",
        r"\.proto\.|\.mask_(predictor|head)\.",
    ),
    _Sign("pose", r"\.(Pose(Model|26)?|IKeypoint)$", r"\.(m_kpt|cv4_kpts|pose_pred)\.|\.cv4\.0\.2\.bias (?!1$)"),
    _Sign("oriented boxes", r"\.OBB(Model|26)?$", r"\.cv4\.0\.2\.bias 1$"),
    _Sign(
        "classification",
        r"\.(Classify|ClassificationModel)$",
        r"^(model\.\d+\.linear|fc|classifier(\.\d+)?|head(\.fc)?)\.weight \d+x\d+$",
    ),
)
_TASK_WORDS = {"segment": "segmentation", "pose": "pose", "obb": "oriented boxes", "classify": "classification"}
# Which families a detector of can be imported, by what only they have; for other tasks there are networks of them that
# cannot.
_OURS = (
    _Sign("YOLO11", r"\.(C3k2|C2PSA)$", r"^model\.(23\.(proto|cv[234])|10\.linear)\."),
    _Sign("YOLOv8", r"\.C2f$", r"^model\.(22\.(proto|cv[234])|9\.linear)\."),
    # The MIT-licensed edition.
    _Sign(
        "YOLOv9", r"^yolo\.model\.", r"(^|\.)\d+\.heads\.\d\.(class|anchor)_conv\.|(^|\.)\d+\.conv2\.0\.bottleneck\."
    ),
    _Sign("YOLOv7", r"^models\.common\.(SPPCSPC|MP|ReOrg|RepConv|Implicit[AM])$", ""),
    _Sign("YOLOX", r"^yolox\.", r"^backbone\.backbone\.stem\.conv\.conv\.weight |^head\.cls_preds\.\d\."),
)
# The classes that these are made of, less PyTorch's own.
_KNOWN = {
    *("DetectionModel", "Model", "Conv", "Concat", "Detect", "Bottleneck", "DFL", "SPPF", "DWConv"),
    *("C2f", "C3k2", "C3k", "C2PSA", "PSABlock", "Attention"),
    *(
        "SPPCSPC",
        "MP",
        "SP",
        "ReOrg",
        "DownC",
        "RepConv",
        "Shortcut",
        "IDetect",
        "IAuxDetect",
        "ImplicitA",
        "ImplicitM",
    ),
}


class Survey(NamedTuple):
    """What was found in a loaded checkpoint, wherever it lies.

    Attributes:
        classes: "module.Class" of all objects.
        said: its task, yaml_file and scale.
        tensors: {name: array}, the mapping with the most arrays.
        keys: of the outermost mapping.
    """

    classes: list[str]
    said: dict[str, str]
    tensors: dict[str, np.ndarray]
    keys: list[str]


def survey(loaded):
    """The Survey of what unpickle.read gave."""
    classes, said, tensors, waiting, seen = {}, {}, {}, [loaded], set()
    while waiting and len(seen) < _MOST_LOOKED_AT:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Record):
            classes[type(item).kind] = None
            item = vars(item)
        if isinstance(item, dict):
            arrays = {
                name: value for name, value in item.items() if isinstance(value, np.ndarray) and isinstance(name, str)
            }
            tensors = max(tensors, arrays, key=len)
            for key in ("task", "yaml_file", "scale"):
                if isinstance(item.get(key), str):
                    said.setdefault(key, PureWindowsPath(item[key][:LONGEST_NAME]).name)  # of a path of either kind
            item = list(item.values())
        if isinstance(item, list | tuple):
            waiting += [each for each in item[:_MOST_LOOKED_AT] if isinstance(each, Record | dict | list | tuple)]
        if len(waiting) > 10 * _MOST_LOOKED_AT:
            break
    keys = [key for key in loaded if isinstance(key, str)] if isinstance(loaded, dict) else []
    return Survey([kind for kind in classes if kind], said, tensors, keys)


def received(found, arrays):
    """What a checkpoint is, and what to do, behind "expected ..., received" in an error; None: it may be one of ours.

    Args:
        found: its Survey.
        arrays: {name: array} of its network; {} if it has none that could be imported.
    """
    arrays = arrays or found.tensors
    lines = [f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items() if len(name) < LONGEST_NAME]
    if any(".cv5.0.2.bias " in line for line in lines):  # a second detector for training, not another task's branch
        lines = [line for line in lines if ".cv4." not in line]
    family, seen = _first(_FAMILIES, found.classes, lines)
    task, seen_of_task = _first(_TASKS, found.classes, lines)
    task = task.what if task else _TASK_WORDS.get(found.said.get("task"))
    if not (family or task):
        return None
    ours = family is None and _first(_OURS, found.classes, lines)[0]
    name = family.what if family else ours.what if ours else _family_of(found.said.get("yaml_file")) or "a network"
    evidence = [*dict.fromkeys([*seen, *seen_of_task])][:3]
    if "yaml_file" in found.said:
        evidence.append(found.said["yaml_file"])
    shown = f" ({printable(', '.join(evidence))[:120]})" if evidence else ""
    to_do = family.to_do if family else _OTHERS
    if ours and ours.what not in ("YOLOv7", "YOLOv9", "YOLOX"):
        to_do = f"take the detector of that family, published as {ours.what.lower()}{_size(found.said)}.pt"
    return f"{name}{f' for {task}' if task else ''}{shown}; {to_do}"


def received_nothing(found):
    """The same of a checkpoint in which no network was found."""
    if {"param_groups", "state"} <= set(found.keys) or any("optim" in key for key in found.keys):
        return "the state of an optimizer without a network; take the file that was saved with the model"
    if found.keys:
        keys = printable(", ".join(found.keys[:5]))[:120]
        return f"no network's weights, but {keys}; save the model, or its state_dict, and import that"
    return "nothing; save the model, or its state_dict, and import that"


def received_another(found, arrays):
    """The same of a network that fits none of those that are imported, and is none that is known."""
    ours = _first(_OURS, found.classes, [f"{name} " for name in arrays if len(name) < LONGEST_NAME])[0]
    parts = [f"{counted(len(arrays), 'tensor')}, the first {printable(', '.join(list(arrays)[:3]))[:150]}"]
    if classes := unusual(found):
        parts.append(f"layers {', '.join(classes[:5])}")
    if "yaml_file" in found.said:
        parts.append(f"described in {printable(found.said['yaml_file'])[:60]}")
    ours, _ = _first(_OURS, found.classes, [f"{name} " for name in arrays if len(name) < LONGEST_NAME])
    name = _family_of(found.said.get("yaml_file")) or (ours and ours.what)
    return f"{f'{name} of another layout' if name else 'another network'} ({'; '.join(parts)}); {_OTHERS}"


def unusual(found):
    """The classes of a checkpoint's layers that are in none of the networks that are imported, sorted."""
    names = {kind.rpartition(".")[2] for kind in found.classes if not kind.startswith(("torch.", "numpy."))}
    layers = {kind.rpartition(".")[2] for kind in found.classes if ".nn." in kind or kind.startswith("models.")}
    return sorted(printable(name)[:40] for name in (names & layers) - _KNOWN)


def _first(signs, classes, lines):
    """(The first sign that a class shows, else the first that a tensor does; [what shows it]); (None, []) without."""
    for sign in signs:
        seen = {kind.rpartition(".")[2] for kind in classes if sign.classes and re.search(sign.classes, kind)}
        if seen:
            return sign, sorted(seen)
    for sign in signs:
        seen = next((line for line in lines if sign.tensors and re.search(sign.tensors, line)), None)
        if seen:
            return sign, [seen.partition(" ")[0]]
    return None, []


def _family_of(yaml_file):
    """The family, "YOLOv8" of "yolov8n-p2.yaml"; None if that says none."""
    found = re.match(r"yolo(v?)(\d+)", yaml_file.lower()) if yaml_file else None
    return f"YOLO{found[1]}{found[2]}" if found else None


def _size(said):
    """The size, "n" of "yolov8n-seg.yaml", or its scale; "n" if neither says one."""
    found = re.match(r"yolov?\d+([nsmlx])\b", said.get("yaml_file", ""))
    return found[1] if found else said["scale"] if re.fullmatch("[nsmlx]", said.get("scale", "")) else "n"
