"""Is an imported network the network it was? Counts against the published, each layer against OpenCV's importer."""

import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo.darknet import sections as section_types
from tfyolo.model import load_model, postprocess, weights_file
from tfyolo.nn.norm import BatchNorm
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import importing, layout
from tfyolo.weights.darknet.as_config import NMS_IOU
from tfyolo.weights.darknet.cfg import read_cfg
from tfyolo.weights.darknet.text import DarknetError

# All floats of the published .weights files, with their 80 classes.
PUBLISHED = {
    "yolov3": 62_001_757,
    "yolov3-spp": 63_052_381,
    "yolov3-tiny": 8_858_734,
    "yolov4": 64_429_405,
    "yolov4-csp": 52_986_205,
    "yolov4-tiny": 6_062_814,
    "yolov4-tiny-3l": 6_334_045,
    "yolov7-tiny": 6_241_885,
    "yolov7": 36_974_557,
    "yolov7x": 71_409_685,
}
EPSILON = 1e-6  # of OpenCV's batch norm; Darknet's is 1e-5, which tells where a channel hardly varies
RELATIVE = 1e-3  # of a map's largest value
PIXELS, SCORE = 0.1, 1e-3  # of a box decoded
KEPT_PIXELS, KEPT_SCORE = 2.0, 0.01  # of a detection
LEAST, MOST = 0.01, 2000  # the least score of what NMS is compared on, and how many at most


class Check(NamedTuple):
    """One line of the table. worst: the largest difference seen, in `unit`. passed: None where it could not be made."""

    name: str
    worst: float | None
    limit: float | None
    unit: str
    passed: bool | None

    def __str__(self):
        state = {True: "ok", False: "WRONG", None: "not checked"}[self.passed]
        figures = "" if self.worst is None else f"{self.worst:>12.3g}  (at most {self.limit:g})"
        return f"{self.name:<44} {state:<12} {figures}  {self.unit}".rstrip()


def verify(
    run: str | os.PathLike,
    against: tuple[str | os.PathLike, str | os.PathLike] | None = None,
    image: np.ndarray | None = None,
) -> list[Check]:
    """[Check] of an imported run, or one trained from it.

    against: (.cfg, .weights) that the oracle reads; None: those that the run itself gives, written back. image: a
    image [H, W, 3] uint8 RGB; None: noise. Without an OpenCV that reads Darknet networks (4.x), only what needs none
    is checked.
    """
    meta = checkpoint.read_meta(weights_file(run))
    if "darknet" not in meta:
        raise DarknetError(f"{run}: expected a run that was imported from Darknet, or trained from one")
    model = load_model(run)
    with tempfile.TemporaryDirectory() as scratch:
        if against is None:
            against = importing.write(Path(scratch) / "net.weights", run)[::-1]
        net = read_cfg(against[0])
        slots = layout.layout(net)
        checks = _counts(model, net, slots, meta["darknet"])
        _, floats = darknet_files.open_weights(against[1])
        darknet_files.check_count(net, against[1], slots, len(floats))
        if tuple(model.input_size) != net.size or len(model.classes) != net.classes:
            raise DarknetError(
                f"{against[0]}: expected the run's {model.input_size} pixels and {len(model.classes)} classes, "
                "received "
                f"{net.size} and {net.classes}"
            )
        if not hasattr(cv2.dnn, "readNetFromDarknet"):
            reason = f"OpenCV {cv2.__version__} reads no Darknet networks; pip install 'opencv-python-headless<5'"
            return [*checks, Check("against OpenCV", None, None, reason, None)]
        if reason := _misread(net):
            return [*checks, Check("against OpenCV", None, None, reason, None)]
        try:
            oracle = _oracle(net, against[1], scratch)
            return checks + _compare(model, net, meta["darknet"]["layers"], oracle, _prepared(net.size, image))
        except cv2.error as error:
            reason = f"OpenCV does not read this network: {error.err}"
            return [*checks, Check("against OpenCV", None, None, reason, None)]


def _counts(model, net, slots, origin):
    parameters = model.network.count_params()
    floats = sum(array.count for _, arrays in slots for array in arrays)
    checks = [Check(f"parameters: {parameters:,} of the .cfg's {floats:,}", None, None, "", parameters == floats)]
    native = origin.get("native")
    if native in PUBLISHED:
        # A class more costs a filter for each box, in every head.
        per_class = sum(len(head.anchors) * (net.shapes[head.output][2] + 1) for head in net.heads)
        published = PUBLISHED[native] + (net.classes - 80) * per_class
        what = f"{native} published: {published:,} with {net.classes} classes"
        checks.append(Check(what, None, None, "", parameters == published))
    return checks


def _misread(net):
    """What OpenCV would read as something else, without a word; None if there is nothing."""
    for number, section in enumerate(net.sections):
        if not isinstance(section, section_types.Shortcut):
            continue
        sizes = {net.shapes[source][:2] for source in section.sources(number) if source >= 0}
        if section.weights_type != "none" or len(section.inputs) > 1 or len(sizes) > 1:
            return f"{net.place(number)}: OpenCV adds one map, of the same size, and knows no weights of maps"
    return None


def _oracle(net, weights, scratch):
    """OpenCV's network, set not to drop what scores little and not to merge layers."""
    lines = net.text.splitlines()
    for head in net.heads:
        _override(lines, net.lines[head.number], thresh="0.000001")
    unknown = [getattr(section, "dilation", 1) > 1 for section in net.sections]
    if any(unknown) or any(number != first for number, first in enumerate(section_types.owners(net.sections))):
        weights = _spelled_out(net, weights, lines, Path(scratch) / "oracle.weights")
    cfg = Path(scratch) / "oracle.cfg"
    cfg.write_text("\n".join(lines) + "\n")
    oracle = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    oracle.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    oracle.enableFusion(False)
    return oracle


def _override(lines, start, **options):
    """Gives a section other options, in the lines of a .cfg whose numbers stay; start: the section's line, from 1."""
    for at in range(start, len(lines)):
        if lines[at].strip().startswith("["):
            break
        if "".join(lines[at].split()).partition("=")[0] in options:
            lines[at] = ""
    lines[start - 1] = "\n".join([lines[start - 1], *(f"{key}={value}" for key, value in options.items())])


def _spelled_out(net, weights, lines, path):
    """Writes weights that OpenCV does not know of as what it knows, and returns the file's path.

    Shared weights come once for each section that has them, dilated kernels with zeros in their holes. lines: the
    .cfg's, changed accordingly.
    """
    header, floats = darknet_files.open_weights(weights)
    held, start = {}, 0  # {section: its arrays, as one; the kernel's shape}
    for number, arrays in layout.layout(net):
        end = start + sum(array.count for array in arrays)
        held[number] = np.asarray(floats[start:end]), arrays[-1].shape
        start = end
    with path.open("wb") as file:
        file.write(header.bytes)
        for (number, section), first in zip(enumerate(net.sections), section_types.owners(net.sections), strict=True):
            values, shape = held.get(first, (np.empty(0, "<f4"), ()))
            if getattr(section, "dilation", 1) > 1:
                size = section.dilation * (section.size - 1) + 1
                padding = section.padding * section.dilation
                _override(lines, net.lines[number], size=size, pad=0, padding=padding)
                vectors, kernel = np.split(values, [len(values) - math.prod(shape)])
                wide = np.zeros((*shape[:2], size, size), "<f4")
                wide[..., :: section.dilation, :: section.dilation] = kernel.reshape(shape)
                values = np.concatenate([vectors, wide.ravel()])
            file.write(values.tobytes())
    return path


def _prepared(size, image):
    if image is None:
        # Noise of all sizes: as in images.
        rng = np.random.default_rng(0)
        layers = [
            cv2.resize(rng.random((2**k, 2**k, 3)), size[::-1], interpolation=cv2.INTER_LINEAR) for k in (1, 3, 5, 8)
        ]
        return np.clip(sum(layers) / len(layers), 0, 1).astype("float32")
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype("float32") / 255


def _compare(model, net, layers, oracle, image):
    theirs = {}  # the last of OpenCV's layers that stem from each section
    predictions = []
    for name in oracle.getLayerNames():
        kind, _, number = name.rpartition("_")
        if kind in ("yolo", "detection"):
            predictions.append(name)
        elif number.isdigit() and kind not in ("permute", "slice", "identity"):
            # Activations count one further than what they belong to.
            theirs[int(number) - (kind in section_types.DARKNET_ACTIVATIONS)] = name
    ours = {number: _ours(model.network, layers, net, number) for number in theirs}
    ours = {number: layer for number, layer in ours.items() if layer is not None}
    numbers = sorted(ours)
    oracle.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
    finest_first = sorted(range(len(net.heads)), key=lambda i: net.heads[i].level)
    outputs = oracle.forward([theirs[number] for number in numbers] + [predictions[i] for i in finest_first])
    maps, rows = outputs[: len(numbers)], outputs[len(numbers) :]
    for layer in model.network.layers:
        if isinstance(layer, BatchNorm):
            layer.epsilon = EPSILON
    probe = keras.Model(model.network.inputs, [*(ours[number].output for number in numbers), model.network.output])
    *own, raw = probe({"images": image[None]}, training=False)

    checks, of_head = [], {head.output: head for head in net.heads}
    for number, mine, other in zip(numbers, own, maps, strict=True):
        mine = np.asarray(mine)
        if number in of_head:
            head = of_head[number]
            mine = mine[..., layout.yx_first(head, net.classes)]
            mine = 1 / (1 + np.exp(-mine)) if head.layer.activation == "logistic" else mine
            name = f"head {head.level}: {net.kinds[number]} {number}"
        else:
            name = f"layer {number}: {net.kinds[number]}"
        other = other.reshape(mine.shape[0], mine.shape[3], *mine.shape[1:3]).transpose(0, 2, 3, 1)
        worst = float(np.abs(mine - other).max() / max(np.abs(other).max(), 1e-9))
        checks.append(Check(name, worst, RELATIVE, "of the largest value", worst <= RELATIVE))

    # Boxes: OpenCV's rows are x, y, w, h as parts of the image, objectness, scores.
    candidates = model.decoder(raw)
    rows = np.concatenate([row.reshape(-1, 5 + net.classes) for row in rows])
    x, y, w, h = np.split(rows[:, :4] * np.tile(net.size[::-1], 2), 4, axis=1)
    boxes = np.concatenate([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=1)
    # What random weights propose may be many times larger than the image, and so is a float's last digit; or beyond
    # any measure.
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / max(net.size)
    usual = sides < 100
    own = np.asarray(candidates.boxes[0])
    worst = float((np.abs(boxes - own)[usual] / np.maximum(sides[usual, None], 1)).max(initial=0))
    checks.append(Check("boxes decoded", worst, PIXELS, "pixels", worst <= PIXELS))
    scores, own = rows[:, 5:], np.asarray(candidates.scores[0])
    if net.heads[0].kind == "region":  # where OpenCV puts an NMS of its own behind: what that dropped is 0
        scores = np.where(scores > 0, scores, own)
    worst = float(np.abs(scores - own).max())
    checks.append(Check("scores decoded", worst, SCORE, "", worst <= SCORE))
    return [*checks, _nms(model, candidates)]


def _ours(network, layers, net, number):
    """The layer that ends a section's part of our network, None if it has none of its own."""
    if isinstance(net.sections[number], section_types.Output):
        head = next(head for head in net.heads if head.output == number)
        names = [f"head.{head.level}.out"]
    else:
        prefix = f"backbone.{number}."
        names = [name for name in layers if name.startswith(prefix)] or [
            layer.name for layer in network.layers if layer.name.startswith(prefix)
        ]
    # Pairing walks from the outputs back, network.layers forth.
    own = {layers.get(name, name) for name in names}
    found = [layer for layer in network.layers if layer.name in own]
    return found[-1] if found else None


def _nms(model, candidates):
    """What our NMS leaves of our boxes, against what OpenCV's leaves of the same.

    Of the same, and in one order: a network of noise finds many boxes equally likely, and all that follows hangs on
    which comes first.
    """
    scores = candidates.scores[0].numpy()
    # The oracle's NMS takes the square of their number.
    order = np.argsort(-scores, axis=None, kind="stable")[:MOST]
    order = order[scores.flat[order] > LEAST]
    ranked = np.zeros_like(scores)
    ranked.flat[order] = np.linspace(1, 0.5, len(order))
    height, width = model.input_size
    # Noise also proposes boxes many times larger than the image.
    boxes = tf.clip_by_value(candidates.boxes, [-height, -width] * 2, [2.0 * height, 2.0 * width] * 2)
    options = {"score": LEAST, "limit": MOST, "candidates_limit": MOST, "distance_power": None}
    found = postprocess(model.config, **options)(candidates._replace(boxes=boxes, scores=ranked[None]))
    found = tf.nest.map_structure(lambda x: np.asarray(x)[0], found)
    mine = [(found.labels[i], found.scores[i], found.boxes[i]) for i in range(found.count)]
    rows, labels = np.unravel_index(order, scores.shape)
    boxes, ranked = boxes[0].numpy()[rows], ranked[rows, labels]
    xywh = np.concatenate([boxes[:, [1, 0]], boxes[:, [3, 2]] - boxes[:, [1, 0]]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), ranked.tolist(), labels.tolist(), LEAST, NMS_IOU)
    theirs = [(labels[i], ranked[i], boxes[i]) for i in np.ravel(kept).astype(int)]
    alone = _without_twin(mine, theirs) + _without_twin(theirs, mine)
    name = f"NMS: {len(mine)} kept, {len(theirs)} by OpenCV"
    # Two boxes that overlap by the threshold to the last digit may fall on either side of it.
    limit = math.ceil(0.01 * (len(mine) + len(theirs)))
    return Check(name, alone, limit, "without a twin", alone <= limit)


def _without_twin(some, others):
    def twins(a, b):
        return a[0] == b[0] and abs(a[1] - b[1]) <= KEPT_SCORE and np.abs(a[2] - b[2]).max() <= KEPT_PIXELS

    return sum(not any(twins(a, b) for b in others) for a in some)
