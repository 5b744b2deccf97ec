"""M2Det's parts against loops in NumPy: priors, codes, the assignment, hard negatives, the pyramid's shapes."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import load_config, random_sample, slow, small
from keras.src.legacy.saving import legacy_h5_format

from tfyolo import model as models
from tfyolo.assigners import max_iou
from tfyolo.backbones.resnet import IMAGENET_MEAN
from tfyolo.checkpoint import CheckpointError
from tfyolo.config import ConfigError
from tfyolo.decoders.ssd import Ssd
from tfyolo.losses.ssd import MultiBox
from tfyolo.nn.resample import Resize
from tfyolo.training.steps import loss_terms
from tfyolo.weights.initial import initialise

SIZES = [0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
GRIDS = [40, 20, 10, 5, 3, 1]


def ssd(**options):
    return Ssd(sizes=SIZES, **options)


def raw_of(grids, classes=3, seed=0, batch=1):
    rng = np.random.default_rng(seed)
    decoder = ssd()
    return decoder, {
        part: {f"p{3 + i}": rng.normal(size=(batch, g, g, 6, z)).astype("float32") for i, g in enumerate(grids)}
        for part, z in decoder.parts(classes).items()
    }


def by_hand(side=320):
    """[(y, x, h, w)] of all priors, in pixels, after SSD's PriorBox."""
    found = []
    for k, grid in enumerate(GRIDS):
        for i in range(grid):
            for j in range(grid):
                small_, large = SIZES[k], SIZES[k + 1]
                shapes = [(small_, small_), (np.sqrt(small_ * large),) * 2]
                for ratio in (2, 3):
                    shapes.append((small_ / ratio**0.5, small_ * ratio**0.5))
                    shapes.append((small_ * ratio**0.5, small_ / ratio**0.5))
                for h, w in shapes:
                    found.append(((i + 0.5) / grid, (j + 0.5) / grid, min(h, 1), min(w, 1)))
    return np.array(found) * side


def test_priors_are_ssds():
    decoder, raw = raw_of(GRIDS)
    priors = decoder(raw).priors
    np.testing.assert_allclose(np.concatenate([priors.centers, priors.anchors], 1), by_hand(), rtol=1e-5)


def test_boxes_and_scores_equal_the_formulas():
    decoder, raw = raw_of(GRIDS)
    found, priors = decoder(raw), by_hand()
    n = 1600 * 6 + (20 * 3 + 4) * 6 + 5  # p4, row 3, column 4, the last shape
    t, (y, x, h, w) = raw["box"]["p4"][0, 3, 4, 5], priors[n]
    y, x, h, w = y + 0.1 * t[0] * h, x + 0.1 * t[1] * w, h * np.exp(0.2 * t[2]), w * np.exp(0.2 * t[3])
    np.testing.assert_allclose(found.boxes[0, n], [y - h / 2, x - w / 2, y + h / 2, x + w / 2], rtol=1e-4, atol=1e-3)
    e = np.exp(raw["cls"]["p4"][0, 3, 4, 5])
    np.testing.assert_allclose(found.scores[0, n], (e / e.sum())[1:], rtol=1e-5)
    heat = decoder.objectness(raw)["p4"]
    e = np.exp(raw["cls"]["p4"])
    np.testing.assert_allclose(heat, (1 - e[..., 0] / e.sum(-1)).max(-1), rtol=1e-4)


def test_boxes_of_open_size_are_those_of_the_size():
    decoder, raw = raw_of([10, 5, 3, 2, 1, 1], seed=4)
    expected = decoder(raw)
    spec = tf.nest.map_structure(lambda x: tf.TensorSpec([None, None, None, *x.shape[3:]]), raw)
    found = tf.function(lambda raw: decoder(raw)[:2], input_signature=[spec], autograph=False)(raw)
    np.testing.assert_allclose(found[0], expected.boxes, rtol=1e-5)
    np.testing.assert_allclose(found[1], expected.scores, rtol=1e-5)


def scene(kind, rng, side=320):
    count = {"empty": 0, "one": 1, "many": 12, "touching": 9, "border": 4}[kind]
    if kind == "touching":
        y, x = np.divmod(np.arange(9), 3)
        return np.stack([y, x, y + 1, x + 1], -1).astype("float32") * 60 + 40
    if kind == "border":
        return np.array([[0, 0, 30, 40], [280, 0, 320, 50], [0, 250, 60, 320], [0, 0, 320, 320]], "float32")
    centers, sides = rng.uniform(20, side - 20, (count, 2)), rng.uniform(8, side * 0.6, (count, 2))
    return np.clip(np.concatenate([centers - sides / 2, centers + sides / 2], -1), 0, side).astype("float32")


def overlap(a, b):
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


SCENES = ["empty", "one", "many", "touching", "border"]


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("seed", [0, 1])
def test_targets_of_known_boxes_decode_to_them(kind, seed):
    boxes = scene(kind, np.random.default_rng(seed))
    decoder, raw = raw_of(GRIDS)
    priors = decoder(raw).priors
    if len(boxes):
        for box in boxes:
            box = np.broadcast_to(box, (1, len(priors.centers), 4))
            np.testing.assert_allclose(decoder.decode(decoder.encode(box, priors), priors), box, rtol=1e-3, atol=2e-2)


def assigned_by_hand(priors, boxes, match=0.5):
    """The rest by overlap; each ground truth its best prior, of two that want one the better, and the other its
    best of what is left then.
    """
    stand = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    table = np.array([[overlap(p, b) for b in boxes] for p in stand]).reshape(len(stand), len(boxes))
    index = np.full(len(stand), -1)
    for n, row in enumerate(table):
        if len(row) and row.max() > match:
            index[n] = row.argmax()
    left, taken = list(range(len(boxes))), []
    while left:
        asked = {}
        for m in left:
            n = max((n for n in range(len(stand)) if n not in taken), key=lambda n: table[n, m])
            asked.setdefault(n, []).append(m)
        for n, askers in asked.items():
            index[n] = max(askers, key=lambda m: table[n, m])
            left.remove(index[n])
            taken.append(n)
    return index, table


@pytest.mark.parametrize("kind", SCENES)
def test_who_answers_equals_the_loops(kind):
    grids = [10, 5, 3, 2, 1, 1]
    decoder, raw = raw_of(grids)
    boxes = scene(kind, np.random.default_rng(3), side=80) / (4 if kind != "many" else 1)
    candidates = decoder(raw)
    padded = np.zeros((1, len(boxes) + 2, 4), "float32")
    padded[0, : len(boxes)] = boxes
    labels = np.where(np.arange(len(boxes) + 2) < len(boxes), 1, -1).astype("int32")[None]
    found = max_iou(candidates, padded, labels)
    priors = np.concatenate([candidates.priors.centers, candidates.priors.anchors], 1)
    expected, table = assigned_by_hand(priors.astype("float64"), boxes)
    index = np.asarray(found.gt_index)[0]
    different = np.flatnonzero(index != expected)
    # Of equal overlaps, any.
    for n in different:
        rows = [m for m in (index[n], expected[n]) if m >= 0]
        if len(rows) == 2:
            assert table[n, rows[0]] == pytest.approx(table[n, rows[1]], abs=1e-5)
        else:  # priors may be alike as well
            assert table[n, rows[0]] == pytest.approx(table[:, rows[0]].max(), abs=1e-5)
    assert set(range(len(boxes))) <= set(index)
    np.testing.assert_array_equal(found.quality[0], index >= 0)


@pytest.mark.parametrize("kind", SCENES)
def test_the_loss_equals_the_loops(kind):
    grids = [10, 5, 3, 2, 1, 1]
    decoder, raw = raw_of(grids, batch=2, seed=5)
    candidates = decoder(raw)
    sample = random_sample((80, 80), ground_truths=4, padding=1, seed=2, crowd=True)
    if kind == "empty":
        sample = sample._replace(labels=tf.fill([2, 4], -1), crowd=tf.zeros([2, 4], bool))
    objective = MultiBox(decoder, max_iou, negatives=3.0)
    terms = objective(raw, candidates, sample)
    index = np.asarray(max_iou(candidates, sample.boxes, tf.where(sample.crowd, -1, sample.labels)).gt_index)
    candidates, sample = tf.nest.map_structure(np.asarray, (candidates, sample))
    box_sum = cls_sum = positives = 0.0
    for b in range(2):
        logits = np.asarray(candidates.logits["cls"][b], "float64")
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        negatives = []
        for n, m in enumerate(index[b]):
            predicted = np.asarray(candidates.boxes[b, n], "float64")
            if m >= 0:
                positives += 1
                p = np.asarray(candidates.priors.centers[n]), np.asarray(candidates.priors.anchors[n])
                y1, x1, y2, x2 = np.asarray(sample.boxes[b, m], "float64")
                code = [
                    ((y1 + y2) / 2 - p[0][0]) / p[1][0] / 0.1,
                    ((x1 + x2) / 2 - p[0][1]) / p[1][1] / 0.1,
                    np.log((y2 - y1) / p[1][0]) / 0.2,
                    np.log((x2 - x1) / p[1][1]) / 0.2,
                ]
                error = np.abs(code - np.asarray(candidates.logits["box"][b, n], "float64"))
                box_sum += np.where(error < 1, error**2 / 2, error - 0.5).sum()
                cls_sum -= logp[n, 1 + int(sample.labels[b, m])]
                continue
            crowds = sample.boxes[b][sample.crowd[b]]
            area = np.prod(predicted[2:] - predicted[:2])
            shared = [
                np.prod(np.maximum(np.minimum(c[2:], predicted[2:]) - np.maximum(c[:2], predicted[:2]), 0))
                for c in crowds
            ]
            if not any(s > area / 2 for s in shared):
                negatives.append(-logp[n, 0])
        most = int(3 * max((index[b] >= 0).sum(), 1))
        cls_sum += sum(sorted(negatives, reverse=True)[:most])
    whole = max(positives, 1)
    assert float(terms["box"]) == pytest.approx(box_sum / whole, rel=1e-4)
    assert float(terms["cls"]) == pytest.approx(cls_sum / whole, rel=1e-4)


def test_the_pyramid_has_the_published_grids():
    for name, grids in (("m2det320-vgg", GRIDS), ("m2det512-vgg", [64, 32, 16, 8, 4, 2])):
        model = models.build(load_config(name, "model.backbone.width=0.125", "model.neck={tums: 1, planes: 16}"), "ab")
        raw = model.network.output
        assert [raw["cls"][f"p{3 + i}"].shape[1] for i in range(6)] == grids
        assert raw["cls"]["p3"].shape[3:] == (6, 3) and raw["box"]["p3"].shape[3:] == (6, 4)


def test_attention_may_be_one_for_all_scales_or_one_for_each():
    """Squeezed 128 -> 8 and back, with biases."""
    counts = []
    for shared in ("true", "false"):
        neck = f"model.neck={{tums: 2, planes: 64, shared_attention: {shared}}}"
        counts.append(
            models.build(load_config("m2det320-vgg", "model.backbone.width=0.125", neck), "ab").network.count_params()
        )
    assert counts[1] - counts[0] == 5 * (128 * 8 + 8 + 8 * 128 + 128)


@pytest.mark.parametrize(
    "backbone, head, decoder, assigner, objective",
    [
        ("{name: c2f, depth: 0.33, width: 0.125}", "decoupled", "dfl", "task_aligned", "aligned"),
        slow(
            "{name: darknet53, width: 0.125}",
            "coupled",
            "{name: anchor, anchors: {p3: [[9, 9]], p4: [[20, 20]], p5: [[40, 40]]}}",
            "best_anchor",
            "dense",
        ),
    ],
)
def test_the_pyramid_goes_with_other_parts(backbone, head, decoder, assigner, objective):
    parts = {"backbone": backbone, "head": head, "decoder": decoder, "assigner": assigner, "objective": objective}
    parts["neck"] = "{name: mlfpn, tums: 2, scales: 3, planes: 16, reduction: 4, valid: false}"
    overrides = [f"model.{kind}={part}" for kind, part in parts.items()]
    model = models.build(load_config("yolov8n", "model.input_size=[96,64]", *overrides), ("a", "b", "c"))
    assert np.isfinite(float(sum(loss_terms(model, random_sample((96, 64))).values())))
    with pytest.raises(ConfigError, match=r"model\.decoder: expected grids that halve from level to level"):
        models.build(load_config("yolov8n", "model.input_size=[96,64]", *overrides, "model.neck.valid=true"), "abc")


def test_parts_that_do_not_fit_are_errors():
    narrow = ["model.backbone.width=0.125", "model.neck={tums: 1, planes: 16}"]
    for override, message in (
        ("model.objective=aligned", "aligned: expected a decoder without a class for the background"),
        ("model.assigner=null", r"multibox: expected an assigner \(model.assigner\), received none"),
        (
            "model.decoder={name: ssd, sizes: [0.1, 0.2]}",
            "sizes: expected 7, one of each level and one more, received 2",
        ),
        ("model.input_size=[328, 320]", "expected multiples of 16"),
        ("model.neck.tums=0", r"model\.neck\.tums: expected a whole number from 1 to 100, received 0"),
        ("model.neck.planes=8", "reduction no larger than"),
        (
            f"model.decoder={{name: ssd, sizes: {[0.0, *SIZES[1:]]}}}",
            r"model\.decoder\.sizes: expected a list with at least 2 entries and at most 10, each a number > 0",
        ),
        ("model.backbone=hourglass", r"model\.neck: mlfpn: expected two levels of a backbone, received p2"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.build(load_config("m2det320-vgg", *narrow, override), "ab")
    with pytest.raises(ConfigError, match="multibox: expected a decoder with a class for the background"):
        models.build(small("yolov8n", **{"model.objective": "multibox"}), "ab")


@pytest.mark.parametrize("before, after", [(3, 5), (1, 3), (2, 4), (5, 7)])
def test_nearest_is_nearest(before, after):
    x = np.arange(before * before, dtype="float32").reshape(1, before, before, 1)
    nearest = [min(int((i + 0.5) * before / after), before - 1) for i in range(after)]
    np.testing.assert_array_equal(Resize((after, after))(x)[0, ..., 0], x[0, nearest][:, nearest, 0])


@pytest.mark.slow
def test_a_residual_network_equals_kerass_and_is_initialised_from_its_file(tmp_path):
    published = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3))
    rng = np.random.default_rng(0)
    for variable in published.variables:
        if "moving_variance" in variable.path:
            variable.assign(rng.uniform(0.5, 2, variable.shape))
    with h5py.File(tmp_path / "resnet50_notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, published)
    overrides = [
        "model.backbone={name: resnet}",
        "model.neck={name: mlfpn, tums: 1, planes: 16}",
        "model.input_size=128",
    ]
    model = models.build(load_config("m2det320-vgg", *overrides), ("a", "b"))
    report, origin, _ = initialise(model, tmp_path / "resnet50_notop.h5")
    assert report[0].startswith("backbone: ") and "arrays kept" in report[0] and origin["origin"]["licence"] == "MIT"
    image = rng.random((1, 128, 128, 3)).astype("float32")
    bgr = 255 * image[..., ::-1] - np.array(IMAGENET_MEAN[::-1], "float32")
    ends = [published.get_layer(name).output for name in ("conv3_block4_out", "conv4_block6_out")]
    expected = keras.Model(published.input, ends)(bgr)
    ours = [model.network.get_layer(f"backbone.{name}").output for name in ("conv3_block4_out", "conv4_block6_out")]
    for mine, theirs in zip(keras.Model(model.network.input, ours)(image), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3 * float(np.abs(theirs).max()))


def test_vgg16_is_initialised_from_kerass_file(tmp_path):
    """An eighth as wide: away from the image's edges it equals Keras's layers."""
    rng = np.random.default_rng(0)
    blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
    published = keras.Sequential([keras.Input((32, 32, 3))])
    for block, (channels, count) in enumerate(blocks, 1):
        for i in range(1, count + 1):
            options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
            published.add(keras.layers.Conv2D(channels // 8, 3, **options, name=f"block{block}_conv{i}"))
        published.add(keras.layers.MaxPooling2D(name=f"block{block}_pool"))
    arrays = {layer.name: layer.get_weights() for layer in published.layers if layer.name.startswith("block")}
    arrays = {name: values for name, values in arrays.items() if values}
    for name, fan_in in (("fc1", 7 * 7 * 64), ("fc2", 512)):
        arrays[name] = [rng.normal(size=(fan_in, 512)).astype("float32"), rng.normal(size=512).astype("float32")]

    def write(path, names):
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [name.encode() for name in names]
            for name in names:
                group = file.create_group(name)
                names = [f"{name}_W_1:0", f"{name}_b_1:0"]  # as the published file names them
                group.attrs["weight_names"] = [each.encode() for each in names]
                for each, values in zip(names, arrays[name], strict=True):
                    group[each] = values

    write(tmp_path / "vgg16.h5", list(arrays))
    arrays["block3_conv4"] = arrays["block3_conv3"]
    write(tmp_path / "vgg19.h5", list(arrays))
    del arrays["block3_conv4"]
    write(tmp_path / "vgg16_notop.h5", [name for name in arrays if name.startswith("block")])
    narrow = ["model.backbone.width=0.125", "model.neck={tums: 1, planes: 16}", "model.input_size=160"]
    model = models.build(load_config("m2det320-vgg", *narrow), ("a", "b"))
    with pytest.raises(CheckpointError, match="expected VGG-16 with its fully connected layers"):
        initialise(model, tmp_path / "vgg16_notop.h5")
    with pytest.raises(CheckpointError, match=r"those of a deeper network, with backbone\.p2\.conv4\.conv"):
        initialise(model, tmp_path / "vgg19.h5")
    report, origin, _ = initialise(model, tmp_path / "vgg16.h5")
    assert report[0] == "backbone: 30 arrays kept" and origin["origin"]["licence"] == "CC BY 4.0"

    image = rng.random((1, 160, 160, 3)).astype("float32")
    y = 255 * image[..., ::-1] - np.array(IMAGENET_MEAN[::-1], "float32")
    for name in ("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1", "block2_conv2"):
        y = published.get_layer(name)(y)
    ours = keras.Model(model.network.input, model.network.get_layer("backbone.p1.conv2.act").output)(image)
    inside = np.s_[:, 6:-6, 6:-6]
    np.testing.assert_allclose(ours[inside], y[inside], rtol=1e-3, atol=1e-3 * float(np.abs(y).max()))
    for block, (_, count) in enumerate(blocks[1:], 2):
        for i in range(1, count + 1):
            kept = model.network.get_layer(f"backbone.p{block - 1}.conv{i}.conv").get_weights()
            for mine, theirs in zip(kept, arrays[f"block{block}_conv{i}"], strict=True):
                np.testing.assert_array_equal(mine, theirs)
    sixth, seventh = (model.network.get_layer(f"backbone.p4.conv{i}.conv").get_weights() for i in (6, 7))
    table = arrays["fc1"][0].reshape(7, 7, 64, 512)
    for i, j, unit in np.ndindex(3, 3, 128):
        np.testing.assert_array_equal(sixth[0][i, j, :, unit], table[3 * i, 3 * j, :, 4 * unit])
        assert sixth[1][unit] == arrays["fc1"][1][4 * unit]
    np.testing.assert_array_equal(seventh[0][0, 0], arrays["fc2"][0][::4, ::4])
    np.testing.assert_array_equal(seventh[1], arrays["fc2"][1][::4])
