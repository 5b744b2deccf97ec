"""What an evaluation says of detections, against pycocotools and hand derivations."""

import contextlib
import io
import json

import numpy as np
import pytest
from conftest import slow
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tfyolo.data.sources.records import Records
from tfyolo.data.sources.source import Record, Source
from tfyolo.evaluation import matching
from tfyolo.evaluation.matching import DetectionColumns, Found, Objects, match
from tfyolo.evaluation.metrics import coco_figures, verdicts_of
from tfyolo.evaluation.report import evaluate_detections
from tfyolo.structures import BACKGROUND, IGNORE

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


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
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
