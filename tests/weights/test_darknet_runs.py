"""What an imported Darknet network is used for: detecting, evaluating, training on, writing back."""

import conftest
import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import random_sample
from darknet_cfgs import LIGHT, ORACLE, PUBLISHED, SMALL, net, tfyolo, written

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.data import decoding, readers
from tfyolo.evaluation import run as evaluation
from tfyolo.evaluation.matching import Found
from tfyolo.evaluation.report import evaluate_detections
from tfyolo.graph import pairing
from tfyolo.nn.norm import BatchNorm
from tfyolo.predict import load as loading
from tfyolo.weights.darknet import files as darknet_files
from tfyolo.weights.darknet import importing, layout
from tfyolo.weights.darknet.cfg import DarknetError, read_cfg
from tfyolo.weights.initial import initialise

# --- a published network on real images -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastest(tmp_path_factory):
    """(run of the published network, its files)"""
    folder = conftest.SHARED / "weights"
    if not folder.is_dir():
        pytest.skip("needs the published weights in ../shared, which is not beside this clone")
    files = [folder / f"yolo-fastest-1.1-xl.{kind}" for kind in ("cfg", "weights")]
    run = tmp_path_factory.mktemp("fastest") / "run"
    importing.import_run(*files, run)
    return run, files


def opencv_detector(files, score):
    """Images as prepared for the network -> [(label, score, box)] in its pixels, by OpenCV alone."""
    cfg = files[0].read_text().replace("[yolo]", "[yolo]\nthresh=0.0001")
    network = cv2.dnn.readNetFromDarknet(*(np.frombuffer(x, np.uint8) for x in (cfg.encode(), files[1].read_bytes())))

    def detect_in(image):
        height, width = image.shape[:2]
        network.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        rows = np.concatenate(network.forward(network.getUnconnectedOutLayersNames()))
        which, labels = np.nonzero(rows[:, 5:] > score)
        scores = rows[which, 5 + labels]
        x, y, w, h = (rows[which, :4] * [width, height, width, height]).T
        xywh = np.stack([x - w / 2, y - h / 2, w, h], 1)
        kept = np.ravel(cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), labels.tolist(), score, 0.45)).astype(
            int
        )
        boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
        return labels[kept], scores[kept], boxes[kept]

    return detect_in


@ORACLE
def test_the_dog_the_bicycle_and_the_car(fastest, shared):
    run, files = fastest
    found = loading.load(run)(shared / "data" / "photos" / "dog.jpg", 0.8)
    assert sorted(found.names) == ["bicycle", "car", "dog"]
    image = cv2.resize(decoding.read_image(shared / "data" / "photos" / "dog.jpg"), (320, 320))
    labels, scores, boxes = opencv_detector(files, 0.8)(image.astype("float32") / 255)
    boxes = boxes * np.tile(found.image.shape[:2], 2) / 320
    assert sorted(labels) == sorted(found.labels)
    for label, score, box in zip(labels, scores, boxes, strict=True):
        (mine,) = np.flatnonzero(found.labels == label)
        assert np.abs(found.boxes[mine] - box).max() < 3 and abs(found.scores[mine] - score) < 0.01


@pytest.mark.slow
@ORACLE
def test_its_average_precision_is_opencvs(fastest, shared):
    """On the same images, brought to its size in the same way, at the same thresholds."""
    run, files = fastest
    source = readers.read(shared / "data" / "coco-tiny", "val")
    detector = loading.load(run, score=0.005)
    report = evaluation.evaluate(detector, source, progress=False)
    oracle, found, lonely, compared = opencv_detector(files, 0.005), [], 0, 0
    for record in source.records:
        image = decoding.read_image(record.path)
        labels, scores, boxes = oracle(cv2.resize(image.astype("float32") / 255, (320, 320)))
        limits = np.tile(image.shape[:2], 2)
        boxes = (boxes * limits / 320).clip(0, limits).astype("float32")
        found.append(Found(boxes, scores.astype("float32"), labels))
        own = detector(image, 0.05)
        for label, score, box in zip(own.labels, own.scores, own.boxes, strict=True):
            near = (labels == label) & (np.abs(scores - score) < 0.01) & (np.abs(boxes - box).max(-1, initial=0) < 2)
            lonely, compared = lonely + (not near.any()), compared + 1
    theirs = evaluate_detections(source, found)
    assert report.metrics["AP50"] == pytest.approx(theirs.metrics["AP50"], abs=0.005) and theirs.metrics["AP50"] > 0.35
    assert compared > 300 and lonely == 0, (lonely, compared)


# --- what it is used for ----------------------------------------------------------------------------------------------


def test_an_import_is_a_run(tmp_path):
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    (tmp_path / "names").write_text("ape\nbee\ncow\n")
    result = tfyolo("import", cfg, weights, "--names", tmp_path / "names", "--out", tmp_path / "run")
    assert result.exit_code == 0 and "floats used, each once" in result.stdout, result.stderr
    detector = loading.load(tmp_path / "run")
    assert detector.classes == ("ape", "bee", "cow") and detector.config.model.preprocess == "stretch"
    assert detector.config.model.decoder.options["scale_yx"] == {"p3": 1.2, "p4": 1.05}
    assert detector(np.full((50, 70, 3), 128, np.uint8), 0.0).best > 0
    again = tfyolo("import", cfg, weights, "--out", tmp_path / "run")
    assert again.exit_code == 1 and "holds something already" in again.stderr
    assert configs.load(tmp_path / "run" / "config.yaml") == detector.config


@pytest.mark.slow
def test_an_import_is_trained_on_with_other_classes_and_written_back(tmp_path):
    from tfyolo.data import demo

    data = demo.write(tmp_path / "demo", train=4, val=2, test=1, size=(64, 96), progress=False)
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    importing.import_run(cfg, weights, tmp_path / "run")
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    options = [stage, "train.batch=2", "model.input_size=96", "model.decoder.anchors.p3=[[7, 8], [15, 17.5]]"]
    result = tfyolo("train", tmp_path / "run", f"data={data}", *options, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.stderr
    assert "head.p3.out, head.p4.out: the rows of all classes re-initialised, none there has" in result.stderr
    back, back_cfg = importing.write(tmp_path / "tuned.weights", tmp_path / "tuned")
    understood = read_cfg(back_cfg)
    classes = len(checkpoint.read_meta(tmp_path / "tuned" / "best.h5")["classes"])
    assert understood.size == (96, 96) and understood.classes == classes
    assert {head.level: head.anchors for head in understood.heads}["p3"] == [(7.0, 8.0), (15.0, 17.5)]
    again = importing.load(back_cfg, back).model
    images = random_sample((96, 96)).image
    expected = models.load_model(tmp_path / "tuned").network(images)
    for a, b in zip(tf.nest.flatten(again.network(images)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        n if n in LIGHT else pytest.param(n, marks=pytest.mark.slow)
        for n, native in PUBLISHED.items()
        if native and "v7" not in n
    ],
)
def test_native_backbones_stand_in_the_order_of_the_file(name, shared):
    """That a backbone's file without a .cfg relies on: the order found by walking the native network, against the
    published .cfg.
    """
    understood = read_cfg(shared / "darknet-cfg" / f"{name}.cfg")
    model, native, renamed, _ = importing.build_model(understood, importing.COCO, name)
    assert native == name
    ours = [
        layer.name for layer, _ in pairing.in_file_order(model.network, BatchNorm) if layer.name.startswith("backbone.")
    ]
    file = [renamed.get(f"backbone.{number}.conv") for number, _ in layout.layout(understood)]
    assert ours == [layer for layer in file if layer and layer.startswith("backbone.")]


def test_a_backbones_file_initialises_a_network(tmp_path):
    """As darknet53.conv.74 is used: the first layers of the file, here of a small YOLOv3, and some of the next
    part's.
    """
    model = models.build(conftest.small("yolov3"), ("a", "b", "c"))
    values, floats = {}, []
    rng = np.random.default_rng(0)
    for convolution, norm in pairing.in_file_order(model.network, BatchNorm):
        if convolution.name.startswith("backbone."):
            filters, kernel = convolution.kernel.shape[-1], convolution.kernel.shape
            file = rng.normal(size=(filters, kernel[2], kernel[0], kernel[1])).astype("float32")
            vectors = rng.random((4, filters)).astype("float32")
            floats += [*vectors.ravel(), *file.ravel()]
            values[f"{convolution.name}/kernel"] = file.transpose(2, 3, 1, 0)
            names = ("beta", "gamma", "moving_mean", "moving_variance")
            values |= {f"{norm.name}/{name}": vector for name, vector in zip(names, vectors, strict=True)}
    path = tmp_path / "darknet53.conv.74"
    header = darknet_files.Header(0, 2, 0, 1).bytes
    path.write_bytes(header + np.array(floats + [1.0, 2.0], "<f4").tobytes())
    before = checkpoint.weights_of(model.network)
    report, _, _ = initialise(model, path)
    assert "neck: re-initialised, the file holds a backbone" in report and "2 floats after the backbone" in report[-2]
    assert report[-1].startswith("licence: darknet53.conv.74, licence not known")
    for name, value in checkpoint.weights_of(model.network).items():
        np.testing.assert_array_equal(value, values.get(name, before[name]), err_msg=name)
    path.write_bytes(header + np.array(floats[:-1], "<f4").tobytes())
    with pytest.raises(DarknetError, match="expected the backbone of yolov3, the file ends after"):
        initialise(model, path)
    with pytest.raises(DarknetError, match=r"not elan_tiny; import the whole network with its \.cfg"):
        initialise(models.build(conftest.small("yolov7-tiny"), ("a",)), path)
    path.write_bytes(header + np.roll(np.array(floats, "<f4"), 40).tobytes())
    with pytest.raises(DarknetError, match="is it another network's"):
        initialise(model, path)


def test_parts_are_kept_wholly_or_not_at_all(tmp_path):
    source = models.build(conftest.small("demo"), ("a", "b", "c"))
    models.save_model(tmp_path / "m.h5", source)
    same = models.build(conftest.small("demo"), ("a", "b", "c"))
    report, _, _ = initialise(same, tmp_path / "m.h5")
    assert all(line.endswith("arrays kept") for line in report)
    for a, b in zip(same.network.get_weights(), source.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = checkpoint.weights_of(source.network)
    raw = {name: value + 1 for name, value in weights.items()}
    checkpoint.save(tmp_path / "last.h5", models.describe(source), weights=raw, averages=weights)
    initialise(same, tmp_path / "last.h5")  # the averages, as wherever a model is used
    for name, value in checkpoint.weights_of(same.network).items():
        np.testing.assert_array_equal(value, weights[name])
    renamed = models.build(conftest.small("demo"), ("x", "y", "z"))
    report, _, _ = initialise(renamed, tmp_path / "m.h5")
    assert "head.p4.out, head.p5.out: the rows of all classes re-initialised, none there" in report[-1]
    other = models.build(conftest.small("demo", **{"model.neck.width": 0.25}), ("a", "b", "c"))
    before = checkpoint.weights_of(other.network)
    report, _, _ = initialise(other, tmp_path / "m.h5")
    assert report[0].startswith("backbone: ") and report[0].endswith("kept")
    assert report[1].startswith("neck: re-initialised") and report[2].startswith("head: re-initialised")
    after = checkpoint.weights_of(other.network)
    for name in before:
        expected = checkpoint.weights_of(source.network)[name] if name.startswith("backbone.") else before[name]
        np.testing.assert_array_equal(after[name], expected)
    with pytest.raises(checkpoint.CheckpointError, match="nothing fits"):
        initialise(models.build(conftest.small("yolov1"), ("a",)), tmp_path / "m.h5")
