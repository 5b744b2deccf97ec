"""YOLOX: against published outputs, names and loops in float64 NumPy; its recipe, its letterbox, its checkpoints."""

import functools
import importlib.util
import math

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED, load_config, random_sample, small, spanning
from torch_files import saved, tensors

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.assigners import simota
from tfyolo.boxes import iou
from tfyolo.data import geometry
from tfyolo.data.decoding import read_image
from tfyolo.decoders import DECODERS
from tfyolo.losses import OBJECTIVES
from tfyolo.predict.detector import Detector
from tfyolo.training.checks import loss_weights
from tfyolo.training.optim import Schedule
from tfyolo.weights.torch import importing, layouts, onnx, unpickle

SIZE, K = (64, 96), 3
GRIDS = {"p3": (8, 12, 8), "p4": (4, 6, 16), "p5": (2, 3, 32)}


def random_raw(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    return {
        part: {level: rng.normal(mean, 1, (batch, h, w, 1, z)).astype("float32") for level, (h, w, _) in GRIDS.items()}
        for part, z, mean in (("box", 4, 0.5), ("obj", 1, 0.0), ("cls", K, -0.5))
    }


# --- by hand ----------------------------------------------------------------------------------------------------------


def cells():
    """[(y and x of the cell's corner, its stride, where it stands in Raw)]"""
    return [
        (row * stride, column * stride, stride, (level, row, column))
        for level, (h, w, stride) in GRIDS.items()
        for row in range(h)
        for column in range(w)
    ]


def sigmoid(t):
    return 1 / (1 + math.exp(-float(t)))


def decode_by_hand(raw, b):
    boxes, scores = [], []
    for y, x, stride, (level, row, column) in cells():
        ty, tx, th, tw = map(float, raw["box"][level][b, row, column, 0])
        y, x, h, w = y + ty * stride, x + tx * stride, math.exp(th) * stride, math.exp(tw) * stride
        boxes.append((y - h / 2, x - w / 2, y + h / 2, x + w / 2))
        objectness = sigmoid(raw["obj"][level][b, row, column, 0, 0])
        scores.append([objectness * sigmoid(t) for t in raw["cls"][level][b, row, column, 0]])
    return boxes, scores


def iou_by_hand(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def assign_by_hand(boxes, scores, ground_truths, labels, topk=10, radius=2.5, outside=1e5):
    """The ground truth of each candidate, or -1."""
    claims = {}
    for m, label in enumerate(labels):
        if label < 0:
            continue
        y1, x1, y2, x2 = ground_truths[m]
        cost, overlap = {}, {}
        for n, (y, x, stride, _) in enumerate(cells()):
            y, x = y + stride / 2, x + stride / 2
            inside = y1 < y < y2 and x1 < x < x2
            central = max(abs(y - (y1 + y2) / 2), abs(x - (x1 + x2) / 2)) < radius * stride
            if not (inside or central):
                continue
            overlap[n] = iou_by_hand(boxes[n], ground_truths[m])
            roots = [math.sqrt(score) for score in scores[n]]
            entropy = -sum(math.log(p if k == label else 1 - p) for k, p in enumerate(roots))
            cost[n] = entropy - 3 * math.log(overlap[n] + 1e-8) + (0 if inside and central else outside)
        k = max(1, int(sum(sorted(overlap.values(), reverse=True)[:topk])))
        for n in sorted(cost, key=cost.get)[:k]:
            claims.setdefault(n, {})[m] = cost[n]
    return [min(claims[n], key=claims[n].get) if n in claims else -1 for n in range(len(boxes))]


def bce_by_hand(target, t):
    return math.log1p(math.exp(float(t))) - target * float(t)


def terms_by_hand(raw, sample):
    sums, positives = dict.fromkeys(("box", "obj", "cls", "l1"), 0.0), 0
    for b in range(len(sample.labels)):
        ground_truths, crowd = np.asarray(sample.boxes[b], "float64"), np.asarray(sample.crowd[b])
        labels = [-1 if crowd[m] else int(label) for m, label in enumerate(sample.labels[b])]
        boxes, scores = decode_by_hand(raw, b)
        owner = assign_by_hand(boxes, scores, ground_truths, labels)
        for n, (y, x, stride, (level, row, column)) in enumerate(cells()):
            m, (y1, x1, y2, x2) = owner[n], boxes[n]
            if m < 0:
                shared = [
                    max(0, min(y2, c[2]) - max(y1, c[0])) * max(0, min(x2, c[3]) - max(x1, c[1]))
                    for c in ground_truths[crowd]
                ]
                if any(value > 0.5 * (y2 - y1) * (x2 - x1) for value in shared):
                    continue
            sums["obj"] += bce_by_hand(float(m >= 0), raw["obj"][level][b, row, column, 0, 0])
            if m < 0:
                continue
            positives += 1
            overlap = iou_by_hand(boxes[n], ground_truths[m])
            sums["box"] += 5 * (1 - overlap**2)
            for k, t in enumerate(raw["cls"][level][b, row, column, 0]):
                sums["cls"] += bce_by_hand(overlap if k == labels[m] else 0.0, t)
            y1, x1, y2, x2 = ground_truths[m]
            given = raw["box"][level][b, row, column, 0]
            codes = [((y1 + y2) / 2 - y) / stride, ((x1 + x2) / 2 - x) / stride]
            codes += [math.log((y2 - y1) / stride), math.log((x2 - x1) / stride)]
            sums["l1"] += sum(abs(code - float(t)) for code, t in zip(codes, given, strict=True))
    return {name: value / max(positives, 1) for name, value in sums.items()}


def scene(kind):
    sample = random_sample(SIZE, ground_truths=7, classes=K, seed=3)
    boxes, labels, crowd = (np.array(value) for value in (sample.boxes, sample.labels, sample.crowd))
    if kind == "an empty image":
        boxes[1], labels[1] = 0, -1
    elif kind == "no ground truth":
        boxes[:], labels[:] = 0, -1
    elif kind == "two ground truths claim the same":
        boxes[:, 1] = boxes[:, 0] + 1.5
        labels[:, 1] = (labels[:, 0] + 1) % K
    elif kind == "smaller than a cell":  # the first holds the centre of a cell at p3, the second that of none
        boxes[:, :3] = [11, 11, 13.5, 14], [13, 13, 17, 15], [25, 20, 64, 96]
        labels[:, 3:] = -1
    elif kind == "larger than the image":
        boxes[:, 0] = [-100, -150, 300, 400]
    elif kind == "a crowd":
        boxes[:, 0], crowd[:, 0] = [0, 0, 60, 70], True
    return sample._replace(boxes=tf.constant(boxes), labels=tf.constant(labels), crowd=tf.constant(crowd))


SCENES = ["padding", "an empty image", "no ground truth", "two ground truths claim the same", "smaller than a cell"]
SCENES += ["larger than the image", "a crowd"]


def test_decode_equals_the_formula():
    raw, decoder = random_raw(), DECODERS["point"]()
    candidates = decoder(raw)
    for b in range(2):
        boxes, scores = decode_by_hand(raw, b)
        np.testing.assert_allclose(candidates.boxes[b], boxes, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(candidates.scores[b], scores, rtol=1e-5)
    codes = decoder.encode(candidates.boxes, candidates.priors)
    np.testing.assert_allclose(codes, candidates.logits["box"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, options", spanning([*SCENES], [(10, 1e5), (3, 1e5), (10, 4.0)]))
def test_simota_equals_the_loop(kind, options):
    topk, outside = options
    raw, sample = random_raw(), scene(kind)
    assignment = simota(DECODERS["point"]()(raw), sample.boxes, sample.labels, topk=topk, outside_cost=outside)
    for b in range(2):
        boxes, scores = decode_by_hand(raw, b)
        ground_truths = np.asarray(sample.boxes[b], "float64")
        owner = assign_by_hand(boxes, scores, ground_truths, np.asarray(sample.labels[b]), topk, outside=outside)
        np.testing.assert_array_equal(assignment.gt_index[b], owner)
        quality = [iou_by_hand(boxes[n], ground_truths[m]) if m >= 0 else 0 for n, m in enumerate(owner)]
        np.testing.assert_allclose(assignment.quality[b], quality, rtol=1e-4, atol=1e-6)
        assert kind in ("no ground truth", "an empty image") or len({m for m in owner if m >= 0}) >= 3


@pytest.mark.parametrize("kind", SCENES)
def test_the_loss_equals_the_sums(kind):
    raw, sample, decoder = random_raw(1), scene(kind), DECODERS["point"]()
    objective = OBJECTIVES["iou_aware"](decoder, simota)
    terms = objective(raw, decoder(raw), sample)
    expected = terms_by_hand(raw, sample)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert tuple(terms) == objective.terms


def test_parts_add_up_to_the_batch():
    raw, sample, decoder = random_raw(2), scene("a crowd"), DECODERS["point"]()
    objective = OBJECTIVES["iou_aware"](decoder, functools.partial(simota, topk=5))
    both = objective(raw, decoder(raw), sample)
    _, counts = objective.sums(raw, decoder(raw), sample)
    added = dict.fromkeys(both, 0.0)
    for b in range(2):
        part, given = tf.nest.map_structure(lambda x, b=b: x[b : b + 1], (raw, sample))
        sums, own = objective.sums(part, decoder(part), given)
        assert 0 < own["positives"] < counts["positives"]
        for name, value in objective.normalised(sums, counts).items():
            added[name] += value
    for name in both:
        np.testing.assert_allclose(added[name], both[name], rtol=1e-5)


# --- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, mixup", [("nano", 0), ("tiny", 0), ("s", 1), ("x", 1)])
def test_the_last_epochs_have_l1_and_neither_mosaic_nor_mixup(size, mixup):
    config = load_config(f"yolox-{size}")
    objective = OBJECTIVES["iou_aware"](DECODERS["point"](), simota)
    first, last = config.train.stages
    assert (first.epochs, last.epochs, first.plain_epochs, last.plain_epochs) == (285, 15, 0, 15)
    weights = [loss_weights(config, i, objective).get("l1", 1.0) for i in (0, 1)]
    assert weights == [0, 1] and config.augment.mixup == mixup and config.train.ema == 0.9998
    plan = [Schedule(stage, steps_per_epoch=10) for stage in (first, last)]
    warm = [float(plan[0](step)) for step in range(50)]
    np.testing.assert_allclose(warm, [0.0025 * ((step + 1) / 50) ** 2 for step in range(50)], rtol=1e-5)
    # The cosine ends at 5 %, where the last epochs stay.
    np.testing.assert_allclose([plan[0](2850), plan[1](0), plan[1](149)], 0.05 * 0.0025, rtol=1e-3)


def test_an_untrained_head_predicts_one_object_in_ten_thousand():
    model = models.build(small("yolox-nano"), ("a", "b"))
    scores = model.decoder(model.network(random_sample(model.config.model.input_size).image)).scores
    np.testing.assert_allclose(scores, 1e-4, rtol=0.5)


# --- images in the corner ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 50), (300, 250), (64, 500), (427, 640), (64, 96), (1, 700)])
def test_a_letterbox_at_the_top_left_is_cv2s_resize_on_grey(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    prepared, transform = geometry.prepare(image, (64, 96), "letterbox_top_left")
    ratio = min(64 / size[0], 96 / size[1])
    height, width = (max(int(side * ratio + 1e-6), 1) for side in size)
    expected = np.full((64, 96, 3), 114 / 255)
    expected[:height, :width] = cv2.resize(image.astype("float32") / 255, (width, height))
    np.testing.assert_allclose(prepared, expected, atol=2e-3)
    boxes = np.array([[[0, 0, height, width], [0, 0, height / 2, width / 4]]], "float32")
    restored = geometry.restore(boxes, transform[None], np.array([size]))[0]
    np.testing.assert_allclose(restored, [[0, 0, *size], [0, 0, size[0] / 2, size[1] / 4]], rtol=1e-5)


# --- published outputs, names and checkpoints
# ---------------------------------------------------------------------------


def golden(shared, name):
    """(their weights {name: array}, what their network gives for images [2, H, W, 3] RGB in 0..1, those images)"""
    spec = importlib.util.spec_from_file_location("golden_weights", shared / "goldens" / "weights.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    images = made.images(160, 128).transpose(0, 2, 3, 1)[..., ::-1]  # theirs read blue, green, red in 0..255
    lines = [line.split() for line in (shared / "weights" / "layouts" / f"yolox-{name}.txt").read_text().splitlines()]
    state = {key: made.tensor(key, tuple(map(int, shape.split("x")))) for key, shape in lines}
    return state, np.load(shared / "goldens" / f"yolox-{name}.npz"), images


@pytest.mark.parametrize("name", ["nano", pytest.param("s", marks=pytest.mark.slow)])
def test_a_checkpoint_gives_what_their_network_gives(name, shared, fake_torch, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", functools.partial(models.build, input_size=(160, 128)))
    theirs, expected, images = golden(shared, name)
    theirs |= {f"{n[:-12]}num_batches_tracked": np.array(7) for n in theirs if n.endswith("running_mean")}
    state = tensors(theirs)
    imported = importing.load(saved(tmp_path / "yolox.pth", {"start_epoch": 300, "model": state}, state.values()))
    assert imported.native == f"yolox-{name}" and not imported.folded
    assert (len(imported.model.classes), imported.model.classes[16]) == (80, "dog")
    assert f"all {len(theirs)} tensors used" in imported.report[0]
    raw = imported.model.network(images, training=False)
    for level in ("p3", "p4", "p5"):
        ours = [np.asarray(raw[part][level])[..., 0, :] for part in ("box", "obj", "cls")]
        ours[0] = ours[0][..., [1, 0, 3, 2]]
        published = expected[level].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(np.concatenate(ours, -1), published, rtol=0, atol=1e-4 * np.abs(published).max())
    candidates, published = imported.model.decoder(raw), expected["decoded"]
    x, y, w, h = np.split(published[..., :4], 4, axis=-1)
    corners = np.concatenate([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    np.testing.assert_allclose(candidates.boxes, corners, rtol=0, atol=0.01)
    np.testing.assert_allclose(candidates.scores, published[..., 4:5] * published[..., 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["nano", pytest.param("s", marks=pytest.mark.slow)])
def test_names_are_theirs(name, shared):
    lines = [line.split() for line in (shared / "weights" / "layouts" / f"yolox-{name}.txt").read_text().splitlines()]
    network = models.build(load_config(f"yolox-{name}", "model.input_size=64"), [str(i) for i in range(80)]).network
    layout = layouts.YoloxLayout(f"yolox-{name}")
    names = [layout.theirs(variable) for variable in checkpoint.weights_of(network)]
    assert sorted(names) == sorted(name for name, _ in lines)


def test_the_stem_is_space_to_depth_and_a_convolution():
    rng = np.random.default_rng(0)
    bgr, kernel = rng.random((2, 12, 16, 3)).astype("float32"), rng.normal(size=(3, 3, 12, 5)).astype("float32")
    pixels = [bgr[:, 0::2, 0::2], bgr[:, 1::2, 0::2], bgr[:, 0::2, 1::2], bgr[:, 1::2, 1::2]]
    expected = tf.nn.conv2d(255 * np.concatenate(pixels, -1), kernel, 1, "SAME")
    one = layouts.YoloxLayout("yolox-s").adapted("backbone.stem.conv/kernel", kernel)
    ours = tf.nn.conv2d(bgr[..., ::-1], one, 2, [[0, 0], [2, 2], [2, 2], [0, 0]])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-2)


# --- one network for what follows: nano of two classes
# ------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano():
    return models.build(load_config("yolox-nano", "model.input_size=64"), ("red", "green"))


def their_state(model, seed=0):
    """Random weights under their names, in their layout: the way back of what an import does."""
    rng, layout, theirs = np.random.default_rng(seed), layouts.YoloxLayout("yolox-nano"), {}
    for path, value in checkpoint.weights_of(model.network).items():
        shape = (3, 3, 12, value.shape[-1]) if path == "backbone.stem.conv/kernel" else value.shape
        value = rng.uniform(0.5, 1.5, shape).astype("float32")
        if value.ndim == 4:
            fan_in = np.prod(shape[:2]) * (1 if ".depth." in path else shape[2])
            value = rng.normal(0, fan_in**-0.5, shape).astype("float32")
            value = value.transpose((2, 3, 0, 1) if ".depth." in path else (3, 2, 0, 1))
        theirs[layout.theirs(path)] = value
    return theirs


def test_folded_checkpoints_compute_the_same(nano, fake_torch, tmp_path, monkeypatch):
    """Without batch norms, each part of its convolution: as deploy forms are published."""
    monkeypatch.setattr(importing, "build", lambda *_: nano)
    whole, folded = their_state(nano), {}
    image = np.random.default_rng(1).random((1, 64, 64, 3), dtype="float32")
    for name, value in whole.items():
        prefix = name.removesuffix(".conv.weight")
        if f"{prefix}.bn.weight" not in whole:
            if ".bn." not in name:
                folded[name] = value
            continue
        gamma, beta, mean, variance = (
            whole[f"{prefix}.bn.{each}"] for each in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + 1e-3)
        folded[f"{prefix}.conv.weight"] = whole[f"{prefix}.conv.weight"] * scale[:, None, None, None]
        folded[f"{prefix}.conv.bias"] = beta - mean * scale
    outputs = []
    for given in (whole, folded):
        state = tensors(given)
        imported = importing.load(saved(tmp_path / "x.pth", {"model": state}, state.values()))
        assert imported.folded == (given is folded)
        assert any("no batch norms" in line for line in imported.report) == imported.folded
        outputs.append(nano.network(image, training=False)["cls"]["p4"].numpy())
    assert np.std(outputs[0]) > 0
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-3, atol=1e-3 * np.abs(outputs[0]).max())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("head.stems.0.bn.weight"), "head.stems.0.bn.weight is missing"),
        (lambda s: s.update({"head.extra.weight": np.zeros(3, "f4")}), "head.extra.weight is left over"),
        (
            lambda s: s.update({"head.dfl.conv.weight": np.zeros((1, 16, 1, 1), "f4")}),
            "head.dfl.conv.weight is left over",
        ),
        (
            lambda s: s.update({"backbone.backbone.stem.conv.conv.weight": np.zeros((16, 3, 3, 3), "f4")}),
            r"stem.conv.conv.weight: expected \[6, 6, 3, 16\].*received \[3, 3, 3, 16\]",
        ),
        (
            lambda s: s["head.reg_preds.1.bias"].fill(np.nan),
            "head.reg_preds.1.bias holds numbers that are not finite",
        ),
        (lambda s: s.pop("head.cls_preds.0.bias"), r"received YOLOX of another layout \(\d+ tensors"),
        (
            lambda s: s.update({"backbone.backbone.stem.conv.conv.weight": np.zeros((17, 12, 3, 3), "f4")}),
            "received YOLOX of another layout",
        ),
        (
            lambda s: s.update({"backbone.backbone.stem.0.conv.weight": np.zeros((32, 3, 3, 3), "f4")}),
            "received YOLOX with Darknet-53",
        ),
    ],
)
def test_all_tensors_or_none(change, message, nano, fake_torch, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", lambda *_: nano)
    theirs = their_state(nano)
    change(theirs)
    state = tensors(theirs)
    with pytest.raises(unpickle.TorchError, match=message) as error:
        importing.load(saved(tmp_path / "x.pth", {"model": state}, state.values()))
    assert "x.pth" in str(error.value)


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_states_are_read_or_named(count, nano, fake_torch, tmp_path, monkeypatch):
    """Tensors renamed, of other shapes and types, taken out, or no numbers: all arrive, or one error says why not."""
    monkeypatch.setattr(importing, "build", lambda *_: nano)
    rng, whole = np.random.default_rng(count), their_state(nano)
    names, before = list(whole), checkpoint.weights_of(nano.network)
    for _ in range(count):
        theirs = dict(whole)
        for _ in range(rng.integers(1, 4)):
            name = names[rng.integers(len(names))]
            value = theirs.pop(name, whole[name])
            kind = rng.integers(6)
            if kind == 0:
                theirs[names[rng.integers(len(names))]] = value
            elif kind == 1:
                theirs[name] = value.reshape(rng.permutation([1, *value.shape]))
            elif kind == 2:
                theirs[name] = np.full_like(value, rng.choice([np.nan, np.inf]))
            elif kind == 3:
                theirs[name] = np.zeros(rng.integers(0, 4, rng.integers(0, 6)), rng.choice(["f4", "f2", "i8"]))
            elif kind == 4:
                theirs[name.replace(".bn.", ".conv.")] = value
        if theirs.keys() == whole.keys() and all(theirs[n] is whole[n] for n in names):
            continue
        state = tensors(theirs)
        with pytest.raises(unpickle.TorchError, match=r"x\.pth: expected"):
            importing.load(saved(tmp_path / "x.pth", {"model": state}, state.values()))
    for path, value in checkpoint.weights_of(nano.network).items():
        np.testing.assert_array_equal(value, before[path])  # nothing was loaded in part


# --- ONNX files
# ---------------------------------------------------------------------------------------------------------


def varint(number):
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*content, number])


def field(number, value):
    """A field of a protocol buffer: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(kind, inputs, output):
    return field(1, b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind))


def tensor(name, array, kind=1):
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))


def onnx_file(model, change=lambda sources: sources):
    """An ONNX file of a YOLOX nano: its convolutions and what joins them, as protocol buffers."""
    layout, rng, content = layouts.YoloxLayout("yolox-nano"), np.random.default_rng(0), b""
    variables = {layout.theirs(path): value for path, value in checkpoint.weights_of(model.network).items()}
    order = importing._in_their_order(model.network, layout)
    for i, (name, sources) in enumerate(change(order)):
        *kernel, read, made = variables[name].shape
        shape = (read, 1, *kernel) if ".dconv." in name else (made, read, *kernel)
        shape = (made, 12, 3, 3) if i == 0 else shape
        fan_in = int(np.prod(shape[1:]))
        content += tensor(f"w{i}", rng.normal(0, fan_in**-0.5, shape).astype("float32"))
        content += tensor(f"b{i}", rng.normal(size=shape[0]).astype("float32"))
        content += node("Concat", [f"y{source}" for source in sources] or ["images"], f"x{i}")
        content += node("Conv", [f"x{i}", f"w{i}", f"b{i}"], f"c{i}") + node("Sigmoid", [f"c{i}"], f"y{i}")
    return field(1, 8) + field(2, "pytorch") + field(7, content)


def test_an_onnx_file_is_imported_by_the_order_of_its_convolutions(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", lambda *_: nano)
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx_file(nano))
    imported = importing.load(path)
    assert imported.folded and imported.native == "yolox-nano" and "2 classes" in imported.report[0]
    given = onnx.graph(path).convolutions
    weights = checkpoint.weights_of(nano.network)
    np.testing.assert_array_equal(
        weights["backbone.p2.down.depth.conv/kernel"][..., 0], given[1].kernel[:, 0].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(weights["head.p5.obj.out/bias"], given[-1].bias)
    np.testing.assert_array_equal(weights["head.p5.box.out/bias"], given[-2].bias[[1, 0, 3, 2]])
    np.testing.assert_array_equal(weights["head.p5.cls.out/bias"], given[-7].bias)


def swapped(order):
    """The branches of the first block read each other's input further on."""
    return [(name, tuple({3: 4, 4: 3}.get(source, source) for source in sources)) for name, sources in order]


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda model: onnx_file(model, swapped), "received one whose convolutions are connected in another way"),
        (lambda model: onnx_file(model, lambda order: order[:60]), "connected in another way"),
        (
            lambda model: onnx_file(model, lambda order: order[:5]),
            r"received another network \(5 convolutions, Concat, Conv, Sigmoid",
        ),
        (lambda model: onnx_file(model)[:-5], r"does not read as one \(it ends within a field\)"),
        (
            lambda model: field(7, node("Conv", ["x", "w"], "y")),
            r"has no weights, or no bias; export it in evaluation mode",
        ),
        (lambda model: field(7, tensor("w", np.zeros(4, "f4"))[:-1] + field(1, 9)), "does not read as one"),
        (
            lambda model: field(7, field(5, field(1, 1 << 62) + field(2, 1) + field(9, b"1234"))),
            "not those of its shape",
        ),
        (lambda model: field(7, field(5, field(2, 1) + field(8, "w") + field(14, 1))), "w lies in another file"),
        (lambda model: b"", "it has no nodes"),
        (lambda model: b"\x0b", "a field of type 3"),
        (lambda model: b"\xff" * 40, "within a number"),
    ],
)
def test_other_onnx_files(content, message, nano, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", lambda *_: nano)
    (tmp_path / "x.onnx").write_bytes(content(nano))
    with pytest.raises(unpickle.TorchError, match=message) as error:
        importing.load(tmp_path / "x.onnx")
    assert "x.onnx" in str(error.value)


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_onnx_files_are_read_or_named(count, nano, tmp_path):
    """As far as to the Graph, of whose arrays all that a checkpoint's must pass is asked later."""
    whole, rng = onnx_file(nano), np.random.default_rng(count)
    described = [at for at in range(len(whole)) if whole[at : at + 2] in (b"\x12\x01", b"\x0a\x02")][:2000] or [0]
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.choice(described)) + int(rng.integers(-8, 8))
            data[max(at, 0) : max(at, 0) + int(rng.integers(0, 4))] = rng.bytes(int(rng.integers(0, 4)))
        data = data[: rng.integers(len(data))] if rng.random() < 0.2 else data
        (tmp_path / "m.onnx").write_bytes(data)
        try:
            found = onnx.graph(tmp_path / "m.onnx")
        except unpickle.TorchError as error:
            assert "m.onnx" in str(error)
        else:
            assert all(
                each.kernel.ndim == 4 and max(each.sources, default=-1) < i for i, each in enumerate(found.convolutions)
            )


@pytest.fixture(scope="module")
def published():
    if not (SHARED / "weights" / "yolox_nano.onnx").exists():
        pytest.skip("needs yolox_nano.onnx in ../shared, which is not beside this clone")
    return importing.load(SHARED / "weights" / "yolox_nano.onnx")


@pytest.mark.slow
def test_the_published_network_sees_what_is_on_a_photograph(published, shared):
    """A dog, a bicycle and a pickup that it takes for a car, where they are."""
    assert "all 226 tensors used" in published.report[0] and published.folded
    found = Detector.of(published.model)(str(shared / "data" / "photos" / "dog.jpg"))
    seen = {
        found.classes[label]: box
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
        if score > 0.5
    }
    expected = {"dog": [224, 131, 538, 312], "bicycle": [130, 124, 420, 568], "car": [75, 467, 172, 692]}
    assert seen.keys() == expected.keys()
    for name, box in expected.items():
        assert iou(np.float32(seen[name]), np.float32(box)) > 0.8, name


@pytest.mark.slow
def test_the_published_network_is_onnxruntimes(published, shared):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which reads the same file by itself")
    session = onnxruntime.InferenceSession(shared / "weights" / "yolox_nano.onnx")
    corners = [(x * s, y * s, s) for s in (8, 16, 32) for y in range(416 // s) for x in range(416 // s)]
    x0, y0, stride = np.array(corners, "float64").T
    model = published.model
    for path in [*(shared / "data" / "photos").glob("*.jpg"), *sorted((shared / "data" / "bccd").rglob("*.jpg"))[:3]]:
        image, _ = geometry.prepare(read_image(path.read_bytes()), (416, 416), "letterbox_top_left")
        bgr = 255 * image.numpy()[..., ::-1].transpose(2, 0, 1)
        x, y, w, h, objectness, *classes = session.run(None, {"images": bgr[None].astype("float32")})[0][0].T
        x, y, w, h = x * stride + x0, y * stride + y0, np.exp(w) * stride, np.exp(h) * stride
        candidates = model.decoder(model.network(image[None], training=False))
        expected = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
        np.testing.assert_allclose(candidates.boxes[0], expected, rtol=0, atol=0.05)
        np.testing.assert_allclose(candidates.scores[0], (objectness * np.array(classes)).T, rtol=0, atol=1e-4)
