"""Darknet's .cfg files: text -> Net. What cannot be represented is named, by section and line."""

import math
from typing import Any, NamedTuple

from tfyolo.darknet import sections as section_types
from tfyolo.structures import level_stride
from tfyolo.weights.darknet.options import OTHER_ENDS, PREDICTIONS, SYNONYMS, refuse, section_of
from tfyolo.weights.darknet.text import DarknetError, number_of, numbers_of, parse_text, read_text


class Head(NamedTuple):
    """A [yolo], [region] or [detection] section and the layer that it reads.

    Attributes:
        kind: "yolo", "region" or "detection".
        number: the section's, from 0.
        output: number of the section before it, whose layer has the head's weights.
        layer: that section.
        level: "p5".
        anchors: [(h, w)] in pixels.
        nms_kind: as written.
        numbers: {option: value} of HEAD_NUMBERS, as written or by default.
    """

    kind: str
    number: int
    output: int
    layer: Any
    level: str
    anchors: list
    nms_kind: str
    numbers: dict[str, float]


# The options of a head that a config has a place for, and Darknet's defaults.
HEAD_NUMBERS = {"scale_x_y": 1.0, "new_coords": 0.0, "ignore_thresh": 0.5, "iou_thresh": 1.0, "beta_nms": 0.6}


class Net(NamedTuple):
    """A parsed .cfg.

    Attributes:
        path: the file's name in errors.
        text: as written.
        size: (H, W) of the input, pixels.
        preprocess: the config's model.preprocess.
        sections: [section of darknet.sections].
        shapes: [(h, w, c)], each section's output.
        heads: [Head], in the order of the file.
        classes: their number.
        lines, kinds: of each section, as written.
        notes: lines for the user.
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
    """The Net of a .cfg file.

    Raises:
        DarknetError: something cannot be represented; the message names the section and the line.
    """
    return parse_cfg(read_text(path), str(path))


def parse_cfg(text, path="a .cfg"):
    """The Net of a .cfg's text; path: the file's name in errors. Raises DarknetError as read_cfg."""
    net, *raw = (section._replace(kind=SYNONYMS.get(section.kind, section.kind)) for section in parse_text(text, path))
    notes = []
    last = raw[-1] if raw else net
    if last.kind not in PREDICTIONS:
        what = f", {OTHER_ENDS[last.kind]}" if last.kind in OTHER_ENDS else ""
        raise DarknetError(
            f"{path}:{last.line}: expected the network of a detector, which ends in [yolo], [region] or [detection]; "
            "this one ends in "
            f"[{last.kind}]{what}"
        )
    refuse(net, path, notes)
    size = tuple(number_of(net, side, path) for side in ("height", "width"))
    lines, kinds = [section.line for section in raw], [section.kind for section in raw]
    sections = [section_of(section, path, notes) for section in raw]

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
            f"{path}:{lines[number]}: [{kinds[number]}]: no head reads its output: its weights have no place"
        )
    heads, classes = [], None
    for number, section in enumerate(raw):
        if section.kind not in PREDICTIONS:
            continue
        layer = layers[number - 1]
        head, its_classes = _head(section, number, layer, shapes[number - 1], size, path, notes)
        if head.level in [other.level for other in heads]:
            raise DarknetError(
                f"{path}:{section.line}: [{section.kind}]: a second head of stride {level_stride(head.level)}"
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
    """The number of the first section with weights that no output (a section's number) comes from; None without."""
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
    refuse(section, path, notes, known)
    classes = number_of(section, "classes", path, "1" if section.kind == "detection" else "20")
    if section.kind == "detection":
        grid = [number_of(section, "side", path, "7")] * 2
    else:
        grid = shape[:2]
    strides = {side / cells for side, cells in zip(size, grid, strict=True)}
    stride = strides.pop()
    if strides or stride not in [2**level for level in range(1, 10)]:
        raise DarknetError(
            f"{place}: expected a grid 2, 4, .. or 512 times smaller than the image, {size}, received {grid}"
        )
    if section.kind == "detection":
        count = number_of(section, "num", path, "1")
        anchors, wanted = [(0.0, 0.0)] * count, grid[0] * grid[1] * (classes + 5 * count)
        received = layer.output
    else:
        if "anchors" not in section.options:
            raise DarknetError(f"{place}: expected anchors=..., received none")
        values = numbers_of(section, "anchors", path, float)
        pairs = list(zip(values[1::2], values[::2], strict=False))
        if section.kind == "region":
            pairs = [(h * stride, w * stride) for h, w in pairs]
        mask = numbers_of(section, "mask", path, int) if "mask" in section.options else range(len(pairs))
        if not mask or any(not 0 <= index < len(pairs) for index in mask) or any(min(pair) <= 0 for pair in pairs):
            raise DarknetError(
                f"{place}: expected a mask of anchors 0 to {len(pairs) - 1}, all above 0, received {list(mask)}"
            )
        anchors = [pairs[index] for index in mask]
        wanted, received = len(anchors) * (5 + classes), layer.filters
    if wanted != received:
        raise DarknetError(
            f"{place}: {len(anchors)} boxes a cell and {classes} classes need {wanted} outputs of the layer before, "
            f"received {received}"
        )
    if (kind := section.options.get("nms_kind", "default")) not in ("greedynms", "diounms", "default"):
        notes.append(f"{place}: nms_kind={kind}: replaced by greedy NMS by IoU")
    defaults = HEAD_NUMBERS | ({} if section.kind == "yolo" else {"ignore_thresh": 0.6})
    numbers = {key: number_of(section, key, path, default, float) for key, default in defaults.items()}
    level = f"p{int(math.log2(stride))}"
    return Head(section.kind, number, number - 1, layer, level, anchors, kind, numbers), classes
