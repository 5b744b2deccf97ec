"""tfyolo quick: what it keeps aside, how it plans, and the whole way."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import tfyolo
from tfyolo.cli import main
from tfyolo.data.readers import DataSet, read_all_configured
from tfyolo.data.sources.division import keys_of
from tfyolo.quickstart import plan as plans
from tfyolo.quickstart import sheet
from tfyolo.quickstart.budget import Budget
from tfyolo.quickstart.kept_aside import fewer, shares_of
from tfyolo.quickstart.quick import QuickError, quick
from tfyolo.training.clock import guessed_evaluation


def flat(folder, count=20, classes=2, boxes=1, split=""):
    """A YOLO data set, not divided: black images with boxes."""
    import cv2

    rng = np.random.default_rng(0)
    images, labels = folder / "images" / split, folder / "labels" / split
    for each in (images, labels):
        each.mkdir(parents=True)
    for i in range(count):
        image = np.full((48, 64, 3), i, np.uint8)
        cv2.imwrite(str(images / f"{split}{i}.png"), image)
        rows = [f"{rng.integers(classes)} .5 .5 .25 .25" for _ in range(boxes)]
        (labels / f"{split}{i}.txt").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
    return folder


def paths(source):
    return {record.path for record in source.records}


def test_a_flat_folder_is_divided_into_three_that_share_nothing(tmp_path):
    shares = shares_of(flat(tmp_path))
    parts = [paths(each) for each in (shares.train, shares.val, shares.aside)]
    assert [len(part) for part in parts] == [14, 3, 3] and len(set.union(*parts)) == 20


def test_a_test_split_is_kept_aside_and_a_small_validation_split_decides(tmp_path):
    for split, count in (("train", 10), ("val", 4), ("test", 5)):
        flat(tmp_path, count, split=split)
    shares = shares_of(tmp_path)
    assert [len(each.records) for each in (shares.train, shares.val, shares.aside)] == [10, 4, 5]
    assert shares.val_split == "val" and shares.aside.split == "test"


def test_without_a_test_split_the_validation_split_is_kept_aside(tmp_path):
    for split, count in (("train", 20), ("val", 4)):
        flat(tmp_path, count, split=split)
    shares = shares_of(tmp_path)
    assert shares.aside.split == "val" and len(shares.aside.records) == 4
    assert not paths(shares.val) & paths(shares.train) and len(shares.train.records) + len(shares.val.records) == 20


def test_a_test_split_without_boxes_measures_nothing_and_is_not_taken(tmp_path):
    for split, boxes in (("train", 1), ("test", 0)):
        flat(tmp_path, 20, boxes=boxes, split=split)
    shares = shares_of(tmp_path)
    assert shares.aside.split == "test" and paths(shares.aside) < paths(DataSet(tmp_path).read("train"))


def test_training_reads_the_parts_from_the_division_fewer_images_included(tmp_path):
    root = flat(tmp_path / "data")
    shares = fewer(shares_of(root), 5, root)
    assert len(shares.train.records) == 5
    file = tmp_path / "division.json"
    file.write_text(shares.division.to_json())
    data = tfyolo.load_config("demo", [f"data.path={root}", f"data.train={shares.split}", f"data.division={file}"]).data
    train, val = read_all_configured(data, ("train", "val"))
    keys = [keys_of(each.records, root) for each in (train, shares.train)]
    assert keys[0] == keys[1] and paths(val) == paths(shares.val)
    assert not [problem for problem in train.problems if "after the data was divided" in problem.message]


def shares_like(train, val=100, aside=100):
    def source(count):
        return SimpleNamespace(records=range(count))

    return SimpleNamespace(train=source(train), val=source(val), aside=source(aside))


START = SimpleNamespace(largest=640, enough=25)
EACH = 0.04  # seconds


@pytest.mark.parametrize("minutes", [5, 10, 60, 600])
@pytest.mark.parametrize("images", [3, 200, 5000, 1_000_000])
def test_a_plan_fits_into_its_time(minutes, images):
    plan = plans.planned(EACH, 5.0, 60 * minutes, shares_like(images), START)
    scale = (plan.size / plans.PROBE) ** 2
    training = plans.UNTIL_FIRST_STEP + plan.epochs * plan.images * EACH * scale
    training += plans.EVALUATIONS * guessed_evaluation(100, EACH * scale)
    assert training + plan.reserve <= 60 * minutes
    assert plan.images <= images and plan.epochs >= (plans.FEWEST_EPOCHS if plan.images > 16 else 1)


def test_more_time_is_put_into_the_size_first():
    sizes = [plans.planned(EACH, 5.0, 60 * minutes, shares_like(200), START).size for minutes in (4, 8, 20, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == 640


def test_a_budget_counts_what_was_used_before():
    budget = Budget(1, used=10.0)
    with budget.phase("rest"):
        pass
    assert 49 < budget.left <= 50 and budget.phases["start"] == 10.0 and budget.phases["rest"] >= 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"minutes": 0.5}, "minutes: expected at least 2"),
        ({"minutes": float("inf")}, "and a number"),
        ({"target": "ios"}, "target: expected one of"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options, message, tmp_path):
    with pytest.raises(QuickError, match=message):
        quick(tmp_path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    result = CliRunner().invoke(main, ["demo-data", "--out", str(tmp_path / "data"), "--images", "60"])
    data = tmp_path / "data" if not result.exit_code else flat(tmp_path / "data", 60)
    result = CliRunner().invoke(
        main, ["quick", f"data={data}", "--minutes", "3", "--out", str(tmp_path / "out"), "--json"]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["model"].endswith("model-auto-task.tflite") and 0 <= figures["AP"] <= 1
    assert sum(figures["seconds"].values()) < 360
    sheet = (tmp_path / "out" / "quick.md").read_text()
    assert f"AP {figures['AP']:.3f}" in sheet and (tmp_path / "out" / "detections.png").exists()


def test_the_sheet_of_a_file_that_was_looked_at_without_boxes():
    assert [sheet._ap({"AP": 0.5}, name) for name in ("AP", "keras_AP")] == ["0.500", "none: no boxes"]
