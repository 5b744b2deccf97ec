"""Darknet's .cfg files: text -> Net, what it means -> Config. What cannot be represented is named, by section and line."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from tfyolo import config as configs
from tfyolo.darknet import sections as section_types
from tfyolo.weights.runs import WeightsError


class DarknetError(WeightsError):
    """A .cfg or .weights file cannot be represented exactly. The message names the file, the section and the line."""


# --- the .cfg, as text ----------------------------------------------------------------------------------------------------------

LARGEST_CFG = 1 << 22  # bytes; the longest published is a hundredth of it


class _Raw(NamedTuple):
    """A section as it is written: its kind, the line it begins in, its options and the lines they stand in."""

    kind: str
    line: int
    options: dict[str, str]
    lines: dict[str, int]


def _read_text(path):
    path = Path(path)
    if not path.is_file():
        raise DarknetError(f"{path}: expected a Darknet .cfg, found {'a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size > LARGEST_CFG:
        raise DarknetError(f"{path}: expected a Darknet .cfg, which is text, received {path.stat().st_size:,} bytes")
    contents = path.read_bytes()
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DarknetError(f"{path}: expected a Darknet .cfg, which is text; is this the .weights file?")
    return text


def parse_text(text, path):
    sections = []
    for line, written in enumerate(text.splitlines(), start=1):
        written = "".join(written.partition("#")[0].split())  # Darknet drops every blank, inside words too
        if not written or written.startswith(";"):
            continue
        if written.startswith("["):
            if not written.endswith("]"):
                raise DarknetError(f"{path}:{line}: expected [section], received {written!r}")
            sections.append(_Raw(written[1:-1].lower(), line, {}, {}))
            continue
        key, equals, value = written.partition("=")
        if not equals or not sections:
            expected = "key=value" if sections else "[net] before anything else"
            raise DarknetError(f"{path}:{line}: expected {expected}, received {written[:60]!r}")
        sections[-1].options[key] = value
        sections[-1].lines[key] = line
    if not sections or sections[0].kind not in ("net", "network"):
        received = f"[{sections[0].kind}]" if sections else "none"
        raise DarknetError(f"{path}: expected a Darknet .cfg, whose first section is [net], received {received}")
    return sections


# --- what it means --------------------------------------------------------------------------------------------------------------

PREDICTIONS = ("yolo", "region", "detection")
# What else published networks end in.
_OTHER_ENDS = {
    "softmax": "as classifiers do",
    "cost": "as classifiers do",
    "avgpool": "as classifiers do",
    "contrastive": "which compares objects to track them",
    "gaussian_yolo": "whose boxes have variances",
}

# What a section may say beside what its class in backbones.sections knows. A value: the only one that can be represented.
_ONLY = {
    "net": {"channels": "3"},
    "convolutional": dict.fromkeys(
        ("binary", "xnor", "bin_output", "flipped", "antialiasing", "deform", "rotate", "sway", "stretch")
        + ("stretch_sway", "assisted_excitation", "dontload", "dontloadscales", "coordconv", "only_align"),
        "0",
    ),
    "connected": dict.fromkeys(("flipped", "dontload", "dontloadscales"), "0"),
    "maxpool": {"maxpool_depth": "0", "antialiasing": "0", "out_channels": "1"},
    "upsample": {"scale": "1"},
    "reorg": {"reverse": "0", "flatten": "0", "extra": "0"},
    "reorg3d": {"reverse": "0", "flatten": "0", "extra": "0"},
    "shortcut": {"alpha": "1", "beta": "1"},
    "scale_channels": {"scale_wh": "0"},
    "yolo": {"embedding_layer": "-1"},
    "region": {"coords": "4", "softmax": "1", "background": "0"},
    "detection": {"coords": "4", "softmax": "0", "sqrt": "1"},
}
# What only concerns how Darknet trains, or draws.
_TRAINING = {
    "convolutional": {"grad_centr", "dontsave", "keep_delta_gpu", "dot", "angle", "reverse", "stream", "wait_stream"},
    "route": {"stream", "wait_stream"},
    "crop": {"flip", "angle", "saturation", "exposure", "shift"},
    "dropout": {"dropblock", "dropblock_size_abs", "dropblock_size_rel", "dropblock_size"},
    "yolo": {"num", "jitter", "random", "resize", "max", "max_delta", "objectness_smooth", "counters_per_class", "show_details"}
    | {"uc_normalizer", "beta1", "delta_normalizer"}
    | {"label_smooth_eps", "truth_thresh", "iou_thresh_kind", "focal_loss", "thresh", "scale", "total", "nms_threshold"},
    "region": {"num", "bias_match", "jitter", "rescore", "object_scale", "noobject_scale", "class_scale", "coord_scale"}
    | {"mask_scale", "absolute", "thresh", "random", "log", "max", "focal_loss", "classfix", "nms_threshold"},
    "detection": {"rescore", "jitter", "object_scale", "noobject_scale", "class_scale", "coord_scale", "forced", "random"}
    | {"max", "reorg"},
}  # fmt: skip
# The same of sections of any kind.
_TRAINING_ANY = {"onlyforward", "dont_update", "burnin_update", "stopbackward", "train_only_bn"}
_TRAINING_ANY |= {"learning_rate", "clip"}
_SECTIONS = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
}
_CLASSES = {
    "crop": section_types.Crop,
    "convolutional": section_types.Convolutional,
    "connected": section_types.Connected,
    "local": section_types.Local,
    "maxpool": section_types.Maxpool,
    "avgpool": section_types.Avgpool,
    "local_avgpool": section_types.LocalAvgpool,
    "upsample": section_types.Enlarge,
    "reorg": section_types.Reorg,
    "reorg3d": section_types.Reorg,
    "dropout": section_types.Dropout,
    "route": section_types.Route,
    "shortcut": section_types.Shortcut,
    "scale_channels": section_types.ScaleChannels,
    "sam": section_types.Sam,
}


class Head(NamedTuple):
    """A [yolo], [region] or [detection] section and the layer that it reads.

    number: of the section, and output: of the layer with the head's weights, from 0. layer: that layer's section. level: "p5".
    anchors: [(h, w)] in pixels. nms_kind: as written. numbers: what the options of HEAD_NUMBERS say, or stand for unsaid.
    """

    kind: str
    number: int
    output: int
    layer: Any
    level: str
    anchors: list
    nms_kind: str
    numbers: dict[str, float]


# The options of a head that a config has a place for, and what Darknet takes where they are not given.
HEAD_NUMBERS = {"scale_x_y": 1.0, "new_coords": 0.0, "ignore_thresh": 0.5, "iou_thresh": 1.0, "beta_nms": 0.6}


class Net(NamedTuple):
    """A .cfg, understood.

    size: (H, W). preprocess: of the config. sections: of backbones.sections. shapes: (h, w, c) of each. heads: in the order of the
    file. classes: how many. notes: what the user should know.
    """

    path: str
    text: str
    size: tuple[int, int]
    preprocess: str
    sections: list
    shapes: list
    heads: list[Head]
    classes: int
    lines: list[int]
    kinds: list[str]
    notes: list[str]

    def place(self, number):
        """Where a section stands: "yolov3.cfg:25 [convolutional]"."""
        return f"{self.path}:{self.lines[number]} [{self.kinds[number]}]"


def read_cfg(path):
    """The Net of a .cfg file. Raises DarknetError for what it cannot represent, by section and line."""
    return parse_cfg(_read_text(path), str(path))


def parse_cfg(text, path="a .cfg"):
    """The Net of a .cfg's text; path: what errors call it."""
    net, *raw = (section._replace(kind=_SECTIONS.get(section.kind, section.kind)) for section in parse_text(text, path))
    notes = []
    last = raw[-1] if raw else net
    if last.kind not in PREDICTIONS:
        what = f", {_OTHER_ENDS[last.kind]}" if last.kind in _OTHER_ENDS else ""
        raise DarknetError(
            f"{path}:{last.line}: expected the network of a detector, which ends in [yolo], [region] or [detection]; this one ends in "
            f"[{last.kind}]{what}"
        )
    _refuse(net, path, notes)
    size = tuple(_number(net, side, path) for side in ("height", "width"))
    lines, kinds = [section.line for section in raw], [section.kind for section in raw]
    sections = [_section(section, path, notes) for section in raw]

    # Heads: the layer before each prediction is not the backbone's
    layers = {}
    for number, section in enumerate(raw):
        if section.kind in PREDICTIONS:
            layer = sections[number - 1] if number else None
            _check_output(section, layer, path, raw[number - 1].line if number else section.line)
            layers[number - 1] = layer
            sections[number - 1] = section_types.Output(level="p0")
    try:
        shapes = section_types.trace(sections, size)
    except section_types.SectionError as error:
        raise DarknetError(f"{path}:{lines[error.number]}: [{kinds[error.number]}]: {error.message}") from None
    if (number := _unread(sections, layers)) is not None:
        raise DarknetError(
            f"{path}:{lines[number]}: [{kinds[number]}]: no head reads what it gives: its weights have no place"
        )
    heads, classes = [], None
    for number, section in enumerate(raw):
        if section.kind not in PREDICTIONS:
            continue
        layer = layers[number - 1]
        head, its_classes = _head(section, number, layer, shapes[number - 1], size, path, notes)
        if head.level in [other.level for other in heads]:
            raise DarknetError(
                f"{path}:{section.line}: [{section.kind}]: a second head of stride {2 ** int(head.level[1:])}"
            )
        if classes not in (None, its_classes) or (heads and head.kind != heads[0].kind):
            raise DarknetError(
                f"{path}:{section.line}: [{section.kind}]: expected the kind and the classes of the head before "
                f"([{heads[0].kind}], {classes}), received {its_classes} classes"
            )
        classes = its_classes
        heads.append(head)
        sections[number - 1] = section_types.Output(level=head.level)
    if len({len(head.anchors) for head in heads}) > 1:
        raise DarknetError(f"{path}: expected the same number of anchors (mask) in every [yolo] section")
    preprocess = "darknet_letterbox" if net.options.get("letter_box", "0") not in ("0", "") else "stretch"
    return Net(path, text, size, preprocess, sections, shapes, heads, classes, lines, kinds, notes)


def _unread(sections, outputs):
    """The number of the first section with weights that none of the outputs (numbers of sections) comes from; None if there is none."""
    read, waiting = set(), list(outputs)
    while waiting:
        number = waiting.pop()
        if number not in read and number >= 0:
            read.add(number)
            waiting += sections[number].sources(number)
    owners = section_types.owners(sections)
    held = {owners[number] for number in read}
    weighty = (section_types.Convolutional, section_types.Connected, section_types.Local)
    for number, section in enumerate(sections):
        holds = isinstance(section, weighty) or getattr(section, "weights_type", "none") != "none"
        if holds and owners[number] not in held:
            return number
    return None


def _number(section, key, path, default=None, convert=int):
    text = section.options.get(key, default)
    if text is None:
        raise DarknetError(f"{path}:{section.line}: [{section.kind}]: expected {key}=..., received none")
    try:
        value = convert(text)
        if not math.isfinite(value) or (convert is int and not 0 < value < 1 << 20):
            raise ValueError
        return value
    except (ValueError, OverflowError):
        what = "a whole number above 0" if convert is int else "a number"
        line = section.lines.get(key, section.line)
        raise DarknetError(f"{path}:{line}: [{section.kind}]: {key}: expected {what}, received {text[:40]!r}") from None


def _numbers(section, key, path, convert):
    try:
        values = [convert(value) for value in section.options[key].split(",") if value]
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values
    except (ValueError, OverflowError):
        raise DarknetError(
            f"{path}:{section.lines[key]}: [{section.kind}]: {key}: expected numbers separated by commas, "
            f"received {section.options[key][:40]!r}"
        ) from None


def _refuse(section, path, notes, known=()):
    """Raises DarknetError for what cannot be represented, and notes options that nobody knows."""
    only = _ONLY.get(section.kind, {})
    for key, value in section.options.items():
        if key in only and value != only[key]:
            raise DarknetError(
                f"{path}:{section.lines[key]}: [{section.kind}]: {key}={value} cannot be represented, only {key}={only[key]}"
            )
        if section.kind in ("net", "network") or key in only or key in known or key in _TRAINING_ANY:
            continue
        if key in _TRAINING.get(section.kind, ()):
            continue
        notes.append(f"{path}:{section.lines[key]}: [{section.kind}]: {key} is not known and was left aside")


def _section(raw, path, notes):
    """The section of backbones.sections for a section as written."""
    if raw.kind in PREDICTIONS:
        return section_types.Prediction()
    if raw.kind not in _CLASSES:
        choices = ", ".join([*_CLASSES, *PREDICTIONS])
        raise DarknetError(f"{path}:{raw.line}: [{raw.kind}] cannot be represented; sections that can: {choices}")
    cls, options, given = _CLASSES[raw.kind], dict(raw.options), raw.options
    for key in ("stride_x", "stride_y"):
        if key in options and options.pop(key) != given.get("stride", "1"):
            raise DarknetError(
                f"{path}:{raw.lines[key]}: [{raw.kind}]: {key}={given[key]} cannot be represented, only that of both sides"
            )
    # From what Darknet writes to what the class calls it
    if raw.kind == "convolutional":
        padded = options.pop("pad", "0") not in ("0", "")
        size = _number(raw, "size", path, "1")
        if padded:
            options["padding"] = str(size // 2)
        if size == 1:
            options["dilation"] = "1"  # whatever is written
        if options.pop("cbn", "0") not in ("0", ""):  # statistics of several batches, in training
            options["batch_normalize"] = "1"
    elif raw.kind in ("maxpool", "local_avgpool"):
        stride = _number(raw, "stride", path, "1")
        options.setdefault("size", str(stride))
        options.setdefault("padding", str(_number(raw, "size", path, str(stride)) - 1))
    elif raw.kind in ("route", "shortcut", "scale_channels", "sam"):
        key = "layers" if raw.kind == "route" else "from"
        if key not in options:
            raise DarknetError(f"{path}:{raw.line}: [{raw.kind}]: expected {key}=..., received none")
        del options[key]
        options["inputs"] = _numbers(raw, key, path, int)
    elif raw.kind == "reorg3d":
        options["type"] = "reorg3d"
    if raw.kind == "shortcut":  # two names for one thing
        synonyms = {"per_layer": "per_feature", "avg_relu": "relu"}
        options = {
            key: synonyms.get(value, value) if isinstance(value, str) else value for key, value in options.items()
        }
    known = {name: value for name, value in options.items() if name in cls.__dataclass_fields__}
    _refuse(raw, path, notes, known={*known, "pad", "from", "layers", "stride_x", "stride_y", "cbn"})
    try:
        return cls(**known)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        line = raw.lines.get(key, raw.line)
        raise DarknetError(
            f"{path}:{line}: [{raw.kind}]: {key}: {first['msg'][0].lower()}{first['msg'][1:]}, received {given.get(key)!r}"
        ) from None


def _check_output(section, layer, path, line):
    """The layer before a prediction has to be what our heads are: bare, 1x1."""
    place = f"{path}:{line}"
    if section.kind == "detection":
        if not isinstance(layer, section_types.Connected) or layer.batch_normalize or layer.activation != "linear":
            raise DarknetError(
                f"{place}: before [detection] expected [connected] with activation=linear, without batch norm"
            )
        return
    activation = "logistic" if section.options.get("new_coords", "0") == "1" else "linear"
    bare = {"size": 1, "stride": 1, "groups": 1, "padding": 0, "batch_normalize": False, "activation": activation}
    wrong = [name for name, value in bare.items() if getattr(layer, name, None) != value]
    if not wrong and layer.share_index is not None:
        raise DarknetError(f"{place}: before [{section.kind}] expected a [convolutional] without share_index")
    if wrong:
        wanted = ", ".join(f"{name}={int(bare[name]) if name != 'activation' else bare[name]}" for name in wrong)
        raise DarknetError(f"{place}: before [{section.kind}] expected a [convolutional] with {wanted}")


def _head(section, number, layer, shape, size, path, notes):
    """(Head, its number of classes)."""
    place = f"{path}:{section.line}: [{section.kind}]"
    known = {"mask", "anchors", "classes", "iou_loss", "side", "num", "nms_kind", *HEAD_NUMBERS}
    known |= {"iou_normalizer", "cls_normalizer", "obj_normalizer"}
    for key in ("map", "tree"):
        if key in section.options:
            raise DarknetError(
                f"{path}:{section.lines[key]}: [{section.kind}]: {key} (a tree of classes) cannot be represented"
            )
    _refuse(section, path, notes, known)
    classes = _number(section, "classes", path, "1" if section.kind == "detection" else "20")
    if section.kind == "detection":
        grid = [_number(section, "side", path, "7")] * 2
    else:
        grid = shape[:2]
    strides = {side / cells for side, cells in zip(size, grid, strict=True)}
    stride = strides.pop()
    if strides or stride not in [2**level for level in range(1, 10)]:
        raise DarknetError(
            f"{place}: expected a grid 2, 4, .. or 512 times smaller than the picture, {size}, received {grid}"
        )
    if section.kind == "detection":
        count = _number(section, "num", path, "1")
        anchors, wanted = [(0.0, 0.0)] * count, grid[0] * grid[1] * (classes + 5 * count)
        received = layer.output
    else:
        if "anchors" not in section.options:
            raise DarknetError(f"{place}: expected anchors=..., received none")
        values = _numbers(section, "anchors", path, float)
        pairs = list(zip(values[1::2], values[::2], strict=False))
        if section.kind == "region":
            pairs = [(h * stride, w * stride) for h, w in pairs]
        mask = _numbers(section, "mask", path, int) if "mask" in section.options else range(len(pairs))
        if not mask or any(not 0 <= index < len(pairs) for index in mask) or any(min(pair) <= 0 for pair in pairs):
            raise DarknetError(
                f"{place}: expected a mask of anchors 0 to {len(pairs) - 1}, all above 0, received {list(mask)}"
            )
        anchors = [pairs[index] for index in mask]
        wanted, received = len(anchors) * (5 + classes), layer.filters
    if wanted != received:
        raise DarknetError(
            f"{place}: {len(anchors)} boxes a cell and {classes} classes need {wanted} outputs of the layer before, received {received}"
        )
    if (kind := section.options.get("nms_kind", "default")) not in ("greedynms", "diounms", "default"):
        notes.append(f"{place}: nms_kind={kind}: greedy suppression by IoU stands in for it")
    defaults = HEAD_NUMBERS | ({} if section.kind == "yolo" else {"ignore_thresh": 0.6})
    numbers = {key: _number(section, key, path, default, float) for key, default in defaults.items()}
    level = f"p{int(math.log2(stride))}"
    return Head(section.kind, number, number - 1, layer, level, anchors, kind, numbers), classes


# --- as a config ----------------------------------------------------------------------------------------------------------------

NMS_IOU = 0.45  # Darknet's own, in its detector


def config_of(net, name):
    """The Config of a Net: its sections for a backbone, with the training recipe of YOLOv3 (or of YOLOv1, for [detection])."""
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
    """How many cells the grid of a [detection] has."""
    return head.layer.output // (classes + 5 * len(head.anchors))


def _plain(section):
    """A section as a config says it: its type, and what differs from the defaults."""
    values = {name: getattr(section, name) for name in section.__dataclass_fields__}
    defaults = {name: field.default for name, field in section.__dataclass_fields__.items()}
    return {"type": section.type} | {name: value for name, value in values.items() if value != defaults[name]}


def readings(net):
    """What of the config's model the .cfg decides for a native network too: everything but its layers."""
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
