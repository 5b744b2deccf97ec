"""Evaluation of a detector on images: what it finds is in the files' pixels, what cannot be read is named."""

import json
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow
from test_evaluation import record, source, square

from tfyolo.evaluation.matching import Found
from tfyolo.evaluation.report import EvaluationError, evaluate_detections
from tfyolo.evaluation.run import evaluate, evaluate_share
from tfyolo.structures import Detections

SIZES = [(40, 60), (64, 32), (50, 50), (30, 90), (128, 96)]


class Planted:
    """A detector that finds the objects, where a letterboxed image shows them, in the order of the records."""

    input_size = (64, 96)
    preprocess = "letterbox"

    def __init__(self, records, classes=("cat", "dog", "emu"), keep=lambda number: True, delay=()):
        self.records, self.classes, self.keep, self.delay = list(records), classes, keep, list(delay)

    def network(self, images):
        assert images.shape[1:] == (*self.input_size, 3)
        time.sleep(self.delay.pop(0) if self.delay else 0)
        return images

    def postprocess(self, images):
        B, D = len(images), 6
        boxes, scores = np.full((B, D, 4), 7, "float32"), np.full((B, D), 0.99, "float32")  # rows of padding lie
        labels, count = np.zeros((B, D), "int32"), np.zeros(B, "int32")
        for b in range(B):
            if not self.records:
                count[b] = 3  # on an image that only fills the batch
                continue
            annotated = self.records.pop(0)
            kept = [i for i in range(len(annotated.boxes)) if self.keep(i)]
            factor = min(64 / annotated.size[0], 96 / annotated.size[1])
            margin = [(64 - factor * annotated.size[0]) / 2, (96 - factor * annotated.size[1]) / 2] * 2
            count[b] = len(kept)
            boxes[b, : len(kept)] = annotated.boxes[kept] * factor + margin
            labels[b, : len(kept)] = annotated.labels[kept]
            scores[b, : len(kept)] = np.linspace(0.9, 0.8, len(kept))
        return Detections(boxes, scores, labels, count, scores.max(axis=1))


@pytest.fixture
def records(tmp_path):
    """Images of many shapes on disk, each with three objects."""
    rng = np.random.default_rng(0)
    made = []
    for i, (height, width) in enumerate(SIZES):
        path = tmp_path / f"image{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), "uint8"))
        boxes = [[0, 0, height, width], square(3, 4, 12), square(15, 18, 9)]
        made.append(record(boxes, [0, 1, 2], image_id=f"id {i}", path=path, size=(height, width)))
    return made


@pytest.mark.parametrize("batch", [slow(1), 2, slow(8)])
def test_a_detector_without_fault(records, tmp_path, batch, capfd):
    report = evaluate(Planted(records), source(records), batch=batch, progress=False)
    assert report.metrics["AP"] == 1.0 and report.counts["images"] == 5 and report.counts["detections"] == 15
    assert capfd.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"image{i}.png" for i in range(5)]


def test_a_detector_that_misses_one_of_three(records):
    report = evaluate(Planted(records, keep=lambda i: i != 1), source(records), progress=False)
    assert [row["recall"] for row in report.per_class] == [1, 0, 1]
    assert report.metrics["AR100"] == pytest.approx(2 / 3) and report.metrics["AP"] == pytest.approx(2 / 3)


def test_what_is_written(records, tmp_path):
    out = tmp_path / "deep" / "out"
    data = source(records, category_ids=(3, 17, 90))
    report = evaluate(Planted(records, keep=lambda i: i != 1), data, out=out, pictures=2, batch=2, progress=False)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "confusion.png", "detections.json", "f1_curve.png", "metrics.json",
        "pictures/01_id 0.jpg", "pictures/02_id 1.jpg", "pr_curve.png",
    ]  # fmt: skip
    assert json.loads((out / "metrics.json").read_text()) == report.to_json()
    assert cv2.imread(str(out / "pictures" / "01_id 0.jpg")).shape == (320, 480, 3)  # of 64 x 96: enlarged

    rows = json.loads((out / "detections.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [
        (f"id {i}", k) for i in range(5) for k in (3, 90)
    ]
    for row in rows:
        height, width = SIZES[int(row["image_id"][3:])]
        expected = [0, 0, width, height] if row["category_id"] == 3 else [18, 15, 9, 9]  # COCO's x, y, w, h
        np.testing.assert_allclose(row["bbox"], expected, atol=2e-3)


def test_boxes_are_cut_to_the_image(records):
    """A letterboxed image has margins, in which a network may see things."""

    class Wide(Planted):
        def postprocess(self, images):
            found = super().postprocess(images)
            found.boxes[:, 0] = [-20, -20, 200, 200]
            found.boxes[:, 1] = [-20, -20, -3, 200]  # wholly beside it
            return found

    report = evaluate(Wide(records), source(records), progress=False)
    assert report.per_class[0]["AP"] == 1.0 and report.counts["detections"] == 10


def test_no_images_at_a_time_are_an_error(records):
    with pytest.raises(EvaluationError, match="batch: expected an integer above 0, received 0"):
        evaluate(Planted(records), source(records), batch=0, progress=False)


def test_unreadable_images_are_left_out_and_named(records, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    broken = [*records[:2], records[2]._replace(path=str(bad)), *records[3:]]
    report = evaluate(Planted(broken), source(broken), batch=2, progress=False)
    assert report.metrics["AP"] == 1.0 and report.counts["images"] == 4 and report.counts["skipped"] == [str(bad)]
    assert "bad.png" in str(report)
    with pytest.raises(EvaluationError, match=r"expected images.*1 that cannot be read.*bad\.png"):
        evaluate(Planted(broken[2:3]), source(broken[2:3]), progress=False)


def test_what_the_data_may_have_of_pixels_holds_for_what_is_drawn(records, tmp_path, monkeypatch):
    """With data.max_pixels above the default, an image that was evaluated is drawn, too."""
    monkeypatch.setattr("tfyolo.data.decoding.read_record.__defaults__", (20,))
    evaluate(Planted(records), source(records), out=tmp_path, pictures=2, progress=False)
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_boxes_of_images_of_another_size_than_annotated_are_scaled(records, tmp_path):
    """What is found is in pixels of the annotations, also in detections.json, as COCO's tools compare them."""
    height, width = records[1].size
    stated = records[1]._replace(size=(3 * height, 2 * width), boxes=records[1].boxes * np.float32([3, 2, 3, 2]))
    data = source([records[0], stated, *records[2:]])
    report = evaluate(Planted(records), data, batch=2, out=tmp_path / "out", pictures=5, progress=False)
    assert report.metrics["AP"] == 1.0 and report.counts["resized"] == [stated.path]
    assert f"not the one annotated: 1 image: {stated.path}" in str(report)
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert max(row["bbox"][3] for row in rows if row["image_id"] == "id 1") == pytest.approx(3 * height)
    drawn = (tmp_path / "out" / "pictures").glob("*id 1.jpg")
    assert [cv2.imread(str(file)).shape[:2] for file in drawn] == [(480, 240)]  # the file's, enlarged


class Tight(Planted):
    """On a device that has room for so many images at a time."""

    def __init__(self, records, room):
        super().__init__(records)
        self.room = room

    def network(self, images):
        if len(images) > self.room:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return super().network(images)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_and_that_is_said(records, capfd):
    report = evaluate(Tight(records, 2), source(records), batch=5, progress=False)
    assert (report.metrics["AP"], report.batch, report.counts["images"]) == (1.0, 2, 5)
    message = "evaluation: 5 images of 64 x 96 at a time do not fit into memory, goes on with 2\n"
    assert capfd.readouterr().err == message
    with pytest.raises(EvaluationError, match="one image of 64 x 96 does not fit into memory"):
        evaluate(Tight(records, 0), source(records), batch=1, progress=False)


@pytest.mark.parametrize("count", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_several_processes_find_what_one_finds(count, records, tmp_path):
    """With an image that cannot be read, one of another size than stated, and more processes than images."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG no image")
    records[1] = records[1]._replace(path=str(bad))
    given = source([*records[:2], records[2]._replace(size=tuple(2 * side for side in records[2].size)), *records[3:]])

    def planted(index=0, count=1):
        return Planted(list(given.records)[index::count], keep=lambda i: i != 1)

    def part_of(index, collect):
        return evaluate_share(planted(index, count), given, 1, index, count, collect)

    parts = []
    for index in range(1, count):
        assert part_of(index, lambda data, **message: parts.append((message, data))) == (None, 1)
    report, _ = part_of(0, lambda data, **message: [(message, data), *parts])
    whole = evaluate(planted(), given, batch=1, progress=False)
    assert report.metrics == whole.metrics and report.counts == whole.counts and report.unexpected == whole.unexpected
    assert report.counts["skipped"] == [str(bad)] and report.counts["resized"]


def test_images_of_shards_are_named_one_by_one(records):
    shard = [each._replace(path="train.tfrecord", span=(100 * i, 50)) for i, each in enumerate(records)]
    found = [None, *(Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in records[1:])]
    report = evaluate_detections(source(shard), found, resized=range(1, len(records)))
    names = [f"train.tfrecord, image {record.image_id}" for record in records]
    assert report.counts["skipped"] == names[:1] and report.counts["resized"] == names[1:]


def test_no_images():
    with pytest.raises(EvaluationError, match="made test: expected images"):
        evaluate(Planted([]), source([]), progress=False)


def test_the_first_batch_is_not_timed(records):
    report = evaluate(Planted(records, delay=[1.5, 0.02, 0.02]), source(records), batch=2, progress=False)
    assert 0.04 / 3 <= report.seconds["network"] < 0.25  # three images in the two batches that count
    parts = [report.seconds[name] for name in ("read", "network", "postprocess")]
    assert report.seconds["total"] == pytest.approx(sum(parts)) and min(parts) >= 0


def test_classes_in_another_order_are_mapped(records):
    shuffled = [each._replace(labels=2 - each.labels) for each in records]  # the detector's labels for the same things
    report = evaluate(Planted(shuffled, ("emu", "dog", "cat")), source(records), progress=False)
    assert report.metrics["AP"] == 1.0


def test_numbered_classes_go_by_their_count(records):
    report = evaluate(Planted(records), source(records, "012"), progress=False)
    assert report.metrics["AP"] == 1.0 and report.per_class[2]["name"] == "2"


@pytest.mark.parametrize("theirs", [("owl", "fox"), ("0", "1")])
def test_other_classes_are_an_error_that_shows_both(records, theirs):
    with pytest.raises(EvaluationError, match=r"3 \(cat, dog, emu\).*" + str(len(theirs)) + ".*" + theirs[-1]):
        evaluate(Planted(records), source(records, theirs), progress=False)


@pytest.mark.parametrize(
    "theirs", [slow(("cat", "dog")), slow(("dog",)), ("owl", "emu", "cat"), slow(("emu", "cat", "dog", "owl"))]
)
def test_what_both_know_is_evaluated_by_name_and_the_rest_is_named(records, tmp_path, theirs):
    """All is found, each at its place; classes that only the detector or only the data knows count nowhere."""
    ours = ("cat", "dog", "emu")
    labelled = []
    for each in records:
        known = [name in theirs for name in ours]
        labels = [theirs.index(name) for name in ours if name in theirs]
        boxes, crowd = [*each.boxes[known].tolist()], [False] * len(labels)
        if "owl" in theirs:  # which the detector cannot find
            boxes, labels, crowd = [*boxes, square(20, 20, 5)], [*labels, theirs.index("owl")], [*crowd, False]
        labelled.append(record(boxes, labels, crowd, image_id=each.image_id, path=each.path, size=each.size))
    data = source(labelled, theirs, category_ids=tuple(range(100, 100 + len(theirs))))
    report = evaluate(Planted(records), data, out=tmp_path / "out", progress=False)
    common = [name for name in theirs if name in ours]
    assert report.metrics["AP"] == 1.0 and report.metrics["precision"] == 1.0
    assert [row["name"] for row in report.per_class] == common
    assert report.counts["truths"] == report.counts["detections"] == len(common) * len(records)
    assert f"evaluated on {len(common)} ({', '.join(common)}) by name" in report.left_out
    for name in {*ours, *theirs} - {*common}:
        assert name in report.left_out.partition("left out")[2]
    assert report.left_out in str(report) and report.to_json()["left_out"] == report.left_out
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    assert {row["category_id"] for row in rows} == {100 + theirs.index(name) for name in common}
