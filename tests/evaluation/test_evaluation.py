"""Evaluation against pycocotools, hand derivations, and detectors whose errors are planted."""

import contextlib
import io
import json
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tfyolo.data.sources.records import Records
from tfyolo.data.sources.source import Record, Source
from tfyolo.evaluation import matching
from tfyolo.evaluation.matching import DetectionColumns, Found, Objects, match
from tfyolo.evaluation.metrics import coco_figures, verdicts_of
from tfyolo.evaluation.report import EvaluationError, evaluate_detections
from tfyolo.evaluation.run import evaluate, evaluate_share
from tfyolo.structures import BACKGROUND, IGNORE, Detections

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def record(boxes=(), labels=(), crowd=None, *, image_id=0, path="", areas=None, size=(100, 100), difficult=False):
    boxes = np.reshape(np.asarray(boxes, "float32"), (-1, 4))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if areas is None else areas
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    labels, areas = np.asarray(labels, "int32"), np.asarray(areas, "float32")
    return Record(image_id, str(path), boxes, labels, crowd, areas, size, difficult=difficult)


def found(boxes=(), scores=(), labels=()):
    return Found(
        np.reshape(np.asarray(boxes, "float32"), (-1, 4)), np.asarray(scores, "float32"), np.asarray(labels, int)
    )


def source(records, classes=("cat", "dog", "emu"), category_ids=None):
    ids = tuple(range(len(classes))) if category_ids is None else category_ids
    return Source(tuple(records), tuple(classes), ids, (), "made", "test", "coco")


def square(y, x, side=10):
    return [y, x, y + side, x + side]


def test_the_title_says_whose_images_a_split_has():
    one = source([record(square(0, 0), [0])])
    assert evaluate_detections(one, [found()]).title == "made test"
    assert evaluate_detections(one._replace(same_as="train"), [found()]).title == "made test (the images of train)"


# --- match ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gt, crowd, boxes, scores, expected",
    [
        ([square(0, 0)], [False], [square(0, 0)], [0.9], [0]),
        # the second one on the same object is wrong, whatever its place in the list
        ([square(0, 0)], [False], [square(0, 1), square(0, 0)], [0.2, 0.9], [BACKGROUND, 0]),
        ([square(0, 0)], [False], [square(0, 1), square(0, 0)], [0.9, 0.2], [0, BACKGROUND]),
        # the better score takes the object it overlaps most, the other gets what is left
        ([square(0, 0), square(0, 3)], [False, False], [square(0, 1), square(0, 2)], [0.9, 0.8], [0, 1]),
        ([square(0, 0), square(0, 3)], [False, False], [square(0, 2), square(0, 2)], [0.9, 0.8], [1, 0]),
        # IoU just at 0.5 is enough: 10x10 against its half
        ([square(0, 0)], [False], [[0, 0, 10, 5]], [0.9], [0]),
        ([square(0, 0)], [False], [[0, 0, 10, 4.9]], [0.9], [BACKGROUND]),
        # a crowd takes any number, by their own area; an object goes before it
        ([square(0, 0, 50)], [True], [square(0, 0), square(20, 20), square(60, 0)], [3, 2, 1], [IGNORE, IGNORE, -1]),
        ([square(0, 0, 50), square(0, 0)], [True, False], [square(0, 0), square(0, 0)], [2, 1], [1, IGNORE]),
        ([square(0, 0, 50)], [True], [[0, 45, 10, 55], [0, 46, 10, 56]], [2, 1], [IGNORE, BACKGROUND]),
        ([], [], [square(0, 0)], [0.9], [BACKGROUND]),
        ([square(0, 0)], [False], [], [], []),
    ],
)
def test_match_by_hand(gt, crowd, boxes, scores, expected):
    assert expected == match(gt, [0] * len(gt), crowd, boxes, [0] * len(boxes), scores).tolist()


@pytest.mark.parametrize(
    "gt, crowd, boxes, expected",
    [
        # one for one: the second on the same difficult object is wrong, and so is what only lies inside it
        ([square(0, 0)], [False], [square(0, 0), square(0, 1)], [IGNORE, BACKGROUND]),
        ([square(0, 0, 50)], [False], [square(0, 0), square(20, 20)], [BACKGROUND, BACKGROUND]),
        # what counts goes before it, even where it is overlapped less
        ([square(0, 0), square(0, 3)], [False, False], [square(0, 0), square(0, 0)], [1, IGNORE]),
        # a crowd beside it takes what it does not
        ([square(0, 0), square(0, 0, 50)], [False, True], [square(0, 0), square(0, 0)], [IGNORE, IGNORE]),
    ],
)
def test_difficult_objects_by_hand(gt, crowd, boxes, expected):
    """The first is difficult."""
    zeros, scores = [0] * len(boxes), -np.arange(len(boxes))
    difficult = np.arange(len(gt)) == 0
    assert expected == match(gt, [0] * len(gt), crowd, boxes, zeros, scores, difficult=difficult).tolist()


def test_match_keeps_classes_apart():
    boxes = [square(0, 0), square(0, 0), square(0, 0)]
    assert match(boxes[:2], [1, 2], [False, True], boxes, [0, 1, 2], [3, 2, 1]).tolist() == [BACKGROUND, 0, IGNORE]


def test_a_least_score_only_cuts_the_tail_off():
    """So one match serves all points of a curve."""
    gt, everything = plausible(seed=3, images=20, classes=3)
    for annotated, one in zip(gt, everything, strict=True):
        whole = match(annotated.boxes, annotated.labels, annotated.crowd, one.boxes, one.labels, one.scores)
        kept = one.scores >= 0.5
        part = match(
            annotated.boxes, annotated.labels, annotated.crowd, one.boxes[kept], one.labels[kept], one.scores[kept]
        )
        np.testing.assert_array_equal(part, whole[kept])


# --- metrics ----------------------------------------------------------------------------------------------------------


def plausible(seed, images, classes, crowds=0.1, areas=True, difficult=0.0):
    """Objects of all sizes, some of them crowds or difficult, and their detections.

    They are found well, badly, twice, as another class, or not at all; some detections are of background.
    """
    rng = np.random.default_rng(seed)
    gt, results = [], []
    for i in range(images):
        count = rng.integers(0, 9)
        centers, sides = rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(2, 5.5, (count, 2)))
        boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1).astype("float32")
        labels = rng.integers(0, classes, count)
        share = rng.uniform(0.4, 1, count) if areas else 1  # a segment's area is less than its box's
        gt.append(record(boxes, labels, rng.random(count) < crowds, image_id=i, areas=share * sides.prod(axis=1)))
        if difficult:
            chosen = np.random.default_rng((seed, i)).random(count) < difficult
            gt[-1] = gt[-1]._replace(difficult=chosen & ~gt[-1].crowd)

        again = rng.integers(0, count, 2 * count) if count else np.zeros(0, int)
        moved = boxes[again] + rng.normal(0, 0.1, (len(again), 4)) * np.tile(sides[again], 2)
        invented = rng.uniform(0, 300, (rng.integers(0, 5), 2))
        moved = np.concatenate([moved, np.concatenate([invented, invented + rng.uniform(5, 100, 2)], axis=1)])
        moved = np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1)
        guesses = np.concatenate([labels[again], rng.integers(0, classes, len(invented))])
        guesses = np.where(rng.random(len(guesses)) < 0.9, guesses, rng.integers(0, classes, len(guesses)))
        # Few distinct scores: ties must go as they go in COCO's own code.
        results.append(found(moved, rng.integers(1, 40, len(guesses)) / 40, guesses))
    return gt, results


def figures(gt, results, classes):
    """The twelve numbers, AP and AP50 of each class, and the curves of precision."""
    results = DetectionColumns(results)
    objects = Objects.of(Records.of(gt), results.read)
    return coco_figures(objects, results, verdicts_of(objects, results, classes), classes)


def coco_says(gt, results, classes):
    """The same by pycocotools; written here from scratch, with other ids."""

    def xywh(box):
        y1, x1, y2, x2 = map(float, box)
        return [x1, y1, x2 - x1, y2 - y1]

    annotations = [
        {
            "image_id": 7 + 3 * i,
            "category_id": 5 + 2 * int(k),
            "bbox": xywh(b),
            "area": float(a),
            "iscrowd": int(c),
            "difficult": d,
        }
        for i, t in enumerate(gt)
        for b, k, a, c, d in zip(t.boxes, t.labels, t.areas, t.crowd, t.ignored & ~t.crowd, strict=True)
    ]
    detections = [
        {"image_id": 7 + 3 * i, "category_id": 5 + 2 * int(k), "bbox": xywh(b), "score": float(s)}
        for i, f in enumerate(results)
        for b, k, s in zip(f.boxes, f.labels, f.scores, strict=True)
    ]
    annotated = COCO()
    annotated.dataset = {
        "images": [{"id": 7 + 3 * i} for i in range(len(gt))],
        "categories": [{"id": 5 + 2 * k} for k in range(classes)],
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations, 1)],
    }

    class Evaluated(COCOeval):
        def _prepare(self):  # it clears the flag "ignore" of objects that are no crowds
            super()._prepare()
            for each in (each for some in self._gts.values() for each in some):
                each["ignore"] = each["ignore"] or each["difficult"]

    with contextlib.redirect_stdout(io.StringIO()):
        annotated.createIndex()
        evaluated = Evaluated(annotated, annotated.loadRes(detections), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    precision = np.where(evaluated.eval["precision"] > -1, evaluated.eval["precision"], np.nan)[..., 0, -1]  # [T, R, K]
    metrics = {name: np.nan if value == -1 else value for name, value in zip(TWELVE, evaluated.stats, strict=True)}
    return metrics, (precision.mean(axis=(0, 1)), precision[0].mean(axis=0)), precision[0].T


@pytest.mark.parametrize(
    "seed, images, classes, crowds, areas, difficult",
    [(0, 60, 12, 0.1, True, 0), (1, 60, 1, 0.3, True, 0), (2, 8, 40, 0, False, 0), (3, 1, 2, 0.5, True, 0),
     (4, 40, 3, 1, True, 0), (5, 60, 5, 0, True, 0.3), (6, 60, 2, 0.3, True, 0.5), (7, 20, 2, 0, False, 1)],
)  # fmt: skip
def test_metrics_equal_pycocotools(seed, images, classes, crowds, areas, difficult):
    gt, results = plausible(seed, images, classes, crowds, areas, difficult)
    ours = figures(gt, results, classes)
    assert tuple(ours[0]) == TWELVE
    np.testing.assert_equal(ours, coco_says(gt, results, classes))


@pytest.mark.parametrize("seed", range(3))
def test_many_classes_equal_pycocotools(seed):
    gt, results = plausible(seed, images=6, classes=1203, difficult=0.1)
    np.testing.assert_equal(figures(gt, results, 1203), coco_says(gt, results, 1203))


@pytest.mark.parametrize("pairs", [1, 300])
def test_ranges_of_images_change_nothing(pairs, monkeypatch):
    gt, results = plausible(0, images=30, classes=3, difficult=0.2)
    results[4] = results[9] = None
    whole = evaluate_detections(source(gt), results)
    monkeypatch.setattr(matching, "PAIRS", pairs)
    np.testing.assert_equal(evaluate_detections(source(gt), results), whole)


@pytest.mark.parametrize("seed", range(3))
def test_more_than_100_detections_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 80, (40, 2))], axis=1)
    many = np.repeat(boxes, 8, axis=0) + rng.normal(0, 3, (320, 4))
    gt, results = [record(boxes, [0] * 40)] * 2, [found(many, rng.integers(0, 90, 320) / 90, [0] * 320)] * 2
    np.testing.assert_equal(figures(gt, results, 1), coco_says(gt, results, 1))


@pytest.mark.parametrize("seed, difficult", [(0, 0), (1, 0), (2, 0.3), (3, 0.6)])
def test_ap50_follows_from_match(seed, difficult):
    """Two ways to one number: the evaluator's, and the area under the curve that our own verdicts give."""
    gt, results = plausible(seed, images=40, classes=4, difficult=difficult)
    report = evaluate_detections(source(gt, "abcd"), results)
    verdicts = np.concatenate(
        [
            match(t.boxes, t.labels, t.crowd, f.boxes, f.labels, f.scores, difficult=t.difficult)
            for t, f in zip(gt, results, strict=True)
        ]
    )
    scores, labels = (np.concatenate([getattr(f, name) for f in results]) for name in ("scores", "labels"))
    for k, row in enumerate(report.per_class):
        chosen = (labels == k) & (verdicts != IGNORE)
        right = verdicts[chosen][np.argsort(-scores[chosen], kind="stable")] >= 0
        recall = np.cumsum(right) / row["truths"]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        best = [max(precision[recall >= r], default=0) for r in np.linspace(0, 1, 101)]
        np.testing.assert_allclose(row["AP50"], np.mean(best), atol=1e-9)
        np.testing.assert_allclose(report.curves.precision[k], best, atol=1e-9)


# --- report -----------------------------------------------------------------------------------------------------------


def test_all_found_is_all_ones():
    gt, _ = plausible(0, images=20, classes=3, crowds=0)
    report = evaluate_detections(source(gt), [found(t.boxes, [0.8] * len(t.boxes), t.labels) for t in gt])
    assert report.metrics["AP"] == report.metrics["AP50"] == report.metrics["AR100"] == 1.0
    assert report.metrics["F1"] == report.metrics["precision"] == report.metrics["recall"] == 1.0
    assert 0.3 < report.score < 0.5  # the middle of the scores 0 .. 0.8, all equally good
    assert all(row["AP"] == row["precision"] == row["recall"] == 1.0 for row in report.per_class)
    count = report.counts["truths"]
    assert np.trace(report.confusion) == report.confusion.sum() == count == sum(len(t.boxes) for t in gt)


def test_half_missing():
    gt = [record([square(0, 0), square(50, 50)], [0, 0], image_id=i) for i in range(10)]
    report = evaluate_detections(source(gt, ["cat"]), [found([square(0, 0)], [0.5], [0])] * 10)
    # Of the 101 points of recall, those from 0 to 0.5 are reached, with precision 1.
    assert report.metrics["AP"] == report.metrics["AP50"] == pytest.approx(51 / 101)
    assert report.metrics["AR1"] == report.metrics["AR100"] == report.metrics["recall"] == 0.5
    assert report.metrics["precision"] == 1 and report.metrics["F1"] == pytest.approx(2 / 3)
    assert report.confusion.tolist() == [[10, 10], [0, 0]]


def test_the_best_score_leaves_the_inventions_out():
    gt = [record([square(0, 0)], [0])] * 3
    report = evaluate_detections(source(gt, ["cat"]), [found([square(0, 0), square(50, 50)], [0.9, 0.4], [0, 0])] * 3)
    assert 0.4 < report.score < 0.9
    assert report.metrics["F1"] == report.metrics["precision"] == 1 and report.confusion.tolist() == [[3, 0], [0, 0]]
    at = dict(zip(report.curves.scores.round(3), report.curves.f1[0], strict=True))
    assert at[0.3] == pytest.approx(2 / 3) and at[0.95] == 0  # 3 right, 3 wrong, none missed; nothing


def test_confusion_by_hand():
    gt = [
        record(
            [
                square(0, 0),
                square(20, 20),
                square(40, 40),
                square(60, 60),
                square(0, 50, 30),
                square(90, 0),
                square(90, 20),
            ],
            [0, 1, 2, 1, 0, 0, 1],
            crowd=[False] * 4 + [True, False, False],
            difficult=np.array([False] * 5 + [True, True]),
        )
    ]
    boxes = [
        square(0, 0),  # a cat, as it should be
        square(20, 20),  # a dog, taken for an emu
        square(40, 40),  # an emu, as it should be
        square(40, 41),  # the same once more, as a cat: nothing is left there
        square(80, 80),  # a dog where nothing is
        square(5, 55),  # a cat in a crowd of cats
        square(90, 0),  # a difficult cat; the difficult dog is not found
    ]
    report = evaluate_detections(source(gt), [found(boxes, [0.9] * 7, [0, 2, 2, 0, 1, 0, 0])])
    assert report.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]
    assert report.counts == {
        "images": 1,
        "truths": 4,
        "crowds": 1,
        "difficult": 2,
        "detections": 7,
        "skipped": [],
        "resized": [],
    }
    assert "count neither way, found or not: 1 crowd, 2 difficult objects" in str(report)
    rows = {row["name"]: row for row in report.per_class}
    assert rows["cat"]["precision"] == 0.5 and rows["cat"]["recall"] == 1  # the one in the crowd counts neither way
    assert rows["dog"]["precision"] == 0 and rows["dog"]["recall"] == 0
    assert rows["emu"]["precision"] == 0.5 and rows["emu"]["recall"] == 1


def test_what_cannot_be_said_is_null():
    one = found([square(0, 0), square(50, 50)], [0.9, 0.3], [0, 1])
    report = evaluate_detections(source([record([square(0, 0)], [0])]), [one])
    assert np.isnan(report.per_class[1]["AP"]) and np.isnan(report.metrics["APl"])
    assert np.isnan(report.curves.f1[1]).all() and np.isnan(report.curves.precision[1]).all()
    assert report.metrics["AP"] == pytest.approx(1)  # a class without ground truth has no say in the mean
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["per_class"][1] == {
        "name": "dog", "truths": 0, "AP": None, "AP50": None, "precision": None, "recall": None
    }  # fmt: skip
    assert plain["metrics"]["APl"] is None and plain["metrics"]["AP50"] == 1.0


@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]])
@pytest.mark.parametrize("gt", [True, False])
@pytest.mark.parametrize("detections", [True, False])
def test_without_ground_truth_or_detections(tmp_path, classes, gt, detections):
    records = [record([square(0, 0)], [0]) if gt else record()] * 2
    one = found([square(0, 0)], [0.9], [0]) if detections else found()
    report = evaluate_detections(source(records, classes), [one] * 2)
    expected = (1.0 if detections else 0.0) if gt else np.nan
    np.testing.assert_equal(report.metrics["AP"], expected)
    np.testing.assert_equal(report.metrics["recall"], expected)
    assert report.confusion.sum() == 2 * max(gt, detections)
    json.dumps(report.to_json(), allow_nan=False)
    assert "cat" in str(report)


def test_the_table_says_what_was_found():
    gt, results = plausible(0, images=20, classes=3)
    report = evaluate_detections(
        source(gt), results, {"read": 0.001, "network": 0.02, "postprocess": 0.003, "total": 0.024}
    )
    lines = str(report).splitlines()
    assert lines[0].startswith("made test: 20 images, ")
    assert f"{report.metrics['AP50']:.3f}" in next(line for line in lines if "AP50" in line)
    (row,) = (line for line in lines if line.split()[:1] == ["dog"])
    dog = report.per_class[1]
    keys = ("AP", "AP50", "precision", "recall")
    assert row.split() == ["dog", str(dog["truths"]), *(f"{dog[key]:.3f}" for key in keys)]
    assert "network 20.0" in str(report) and max(map(len, lines)) <= 120


# --- with a detector --------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("batch", [1, 2, 8])
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
        assert part_of(index, lambda data, **message: parts.append((message, data))) is None
    report = part_of(0, lambda data, **message: [(message, data), *parts])
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


@pytest.mark.parametrize("theirs", [("cat", "dog"), ("dog",), ("owl", "emu", "cat"), ("emu", "cat", "dog", "owl")])
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
