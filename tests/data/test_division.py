"""Data that divides itself: the shares, the classes in them, duplicates, the seed, and the file that a run keeps."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY, load_config
from scenes import CLASSES, make_voc, make_yolo, write_image, write_text

from tfyolo.config import Data
from tfyolo.data.check import check
from tfyolo.data.readers import read, read_all_configured, read_configured
from tfyolo.data.sources.source import DataError, SplitError
from tfyolo.training import reading
from tfyolo.training import train as training


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """60 images: three in four have a cat, every sixth a dog, three have the rare eel; six are copies of others."""
    root = tmp_path_factory.mktemp("flat")
    for number in range(60):
        source = number if number < 54 else number - 54
        write_image(root / f"images/{number:02d}.jpg", (20 + source, 30))
        rows = ["0 .5 .5 .2 .2"] * (source % 4 > 0) + ["1 .3 .3 .2 .2"] * (source % 6 == 0)
        rows += ["2 .7 .7 .2 .2"] * (source in (10, 20, 30))
        write_text(root / f"labels/{number:02d}.txt", *rows)
    write_text(root / "classes.txt", "cat", "dog", "eel")
    return root


def keys(source):
    return {record.image_id for record in source.records}


def counts(source):
    return np.bincount(np.concatenate([record.labels for record in source.records]), minlength=3)


def read_parts(root, *uses, **data):
    return read_all_configured(Data(path=str(root), **data), uses)


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_are_shares_that_do_not_overlap(flat, seed):
    train, val, test = read_parts(flat, "train", "val", "test", val=0.2, test=0.2, seed=seed)
    assert keys(train) | keys(val) | keys(test) == keys(read(flat, "all"))
    assert len(train.records) + len(val.records) + len(test.records) == 60
    assert abs(len(val.records) - 12) <= 2 and abs(len(test.records) - 12) <= 2
    # Each class has its share as far as whole images, and copies of them, go.
    total = counts(read(flat, "all"))
    for part, share in ((train, 0.6), (val, 0.2), (test, 0.2)):
        assert (np.abs(counts(part) - share * total) <= (2, 2, 1)).all()
    assert (train.split, val.split, test.split) == ("train", "val", "test")


def test_copies_of_an_image_stay_together(flat):
    for seed in range(5):
        parts = read_parts(flat, "train", "val", val=0.3, seed=seed)
        for part in parts:
            for copy in range(54, 60):
                assert (f"{copy:02d}" in keys(part)) == (f"{copy - 54:02d}" in keys(part))


def test_the_seed_decides(flat):
    first, again, other = (keys(read_parts(flat, "val", val=0.2, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again != other


def test_what_is_read_alone_is_what_is_read_together(flat):
    together = read_parts(flat, "train", "val", val=0.25)
    for use, source in zip(("train", "val"), together, strict=True):
        assert keys(read_configured(Data(path=str(flat), val=0.25), use)) == keys(source)


def test_a_split_that_is_there_is_divided_where_val_is_not(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "ImageSets/Main/val.txt").unlink()
    train, val = read_parts(tmp_path, "train", "val", val=0.5)
    assert len(train.records) == len(val.records) == 1
    assert val.classes == CLASSES
    write_text(tmp_path / "ImageSets/Main/test.txt", "one")
    (test,) = read_parts(tmp_path, "test", val=0.5)
    assert keys(test) == {"one"}


@pytest.mark.parametrize("shares", [{"val": 0.5, "test": 0.5}, {"val": 0.6, "test": 0.6}])
def test_shares_that_leave_nothing_to_learn_from(flat, shares):
    with pytest.raises(DataError, match="leave something to train on"):
        read_parts(flat, "train", **shares)


def test_too_few_images_to_divide(tmp_path):
    make_yolo(tmp_path)
    for kind in ("images", "labels"):
        shutil.rmtree(tmp_path / kind / "val")
        for file in (tmp_path / kind / "train").glob("two.*"):
            file.unlink()
    with pytest.raises(DataError, match=r"an image for each part, received val 0\.1 of 1 image"):
        read_parts(tmp_path, "train", val=0.1)


def test_what_a_run_has_written_counts(flat, tmp_path):
    """Wherever run and data lie then, and whatever the data has got since."""
    root = tmp_path / "data"
    shutil.copytree(flat, root)
    data = Data(path=str(root), val=0.2)
    (val,) = read_all_configured(data, ("val",))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/division.json").write_text(val.division.to_json())
    written = data.model_copy(update={"division": str(tmp_path / "run/division.json"), "seed": 7})
    assert keys(read_configured(written, "val")) == keys(val)

    for number in (90, 91):
        write_image(root / f"images/{number}.jpg", (90, number))
        write_text(root / f"labels/{number}.txt", "0 .5 .5 .2 .2")
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    (tmp_path / "run").rename(tmp_path / "renamed")
    written = written.model_copy(update={"path": str(moved)})
    with pytest.raises(DataError, match=r"division\.json: cannot be read"):
        read_configured(written, "val")
    again = read_configured(written, "val", run=tmp_path / "renamed")
    assert keys(again) == keys(val)
    assert any("2 images came after the data was divided" in problem.message for problem in again.problems)
    (moved / "images" / f"{sorted(keys(val))[0]}.jpg").unlink()
    again = read_configured(written, "val", run=tmp_path / "renamed/best.h5")
    assert any("1 image of the part val" in problem.message for problem in again.problems)
    with pytest.raises(DataError, match="expected a part 'test'"):
        read_configured(written.model_copy(update={"test": 0.1}), "test", run=tmp_path / "renamed")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"of": "all", "seed": 0, "parts": []}', '{"of": 1, "seed": 0, "parts": {"val": [1]}}']
)
def test_a_division_that_is_none(content, flat, tmp_path):
    (tmp_path / "division.json").write_text(content)
    with pytest.raises(DataError, match="division"):
        read_configured(Data(path=str(flat), val=0.2, division=str(tmp_path / "division.json")), "val")


def test_data_without_a_split_to_validate_on_says_so(flat, tmp_path):
    with pytest.raises(SplitError, match=r"data\.val=0\.1 holds back a tenth"):
        read_configured(Data(path=str(flat), train="all"), "val")
    with pytest.raises(SplitError, match=r"it is not divided: data\.val=0\.1 trains on nine tenths"):
        read_configured(Data(path=str(flat)), "train")
    make_yolo(tmp_path)
    for kind in ("images", "labels"):
        shutil.rmtree(tmp_path / kind / "val")
    report = check(tmp_path, progress=False)
    assert any(
        "no split to validate on" in problem.message and "data.val=0.1" in problem.message
        for problem in report.warnings
    )


def test_a_division_is_json_that_others_can_read(flat):
    (val,) = read_parts(flat, "val", val=0.2)
    written = json.loads(val.division.to_json())
    assert (written["of"], written["seed"]) == ("all", 0)
    assert sorted(written["parts"]["val"]) == sorted(f"images/{key}.jpg" for key in keys(val))


# --- in a run ---------------------------------------------------------------------------------------------------------


def configured(root, *more):
    data = json.dumps({"path": str(root), "val": 0.2, "seed": 3})
    return load_config("demo", *TINY, f"data={data}", "train.draw_images=0", *more)


def test_a_run_keeps_what_it_holds_back(flat, tmp_path):
    config = configured(flat, "train.stages.0.epochs=1")
    sources = [reading.read_stage(config, 0, None)]
    config, divisions = reading.with_divisions(config, sources, tmp_path)
    ((file, division),) = divisions.items()
    assert (file, config.data.division) == (tmp_path / "division.json", str(tmp_path / "division.json"))
    assert {*division.parts["val"]} == {f"images/{record.image_id}.jpg" for record in sources[0][1].records}


@pytest.mark.slow
def test_a_run_that_is_moved_is_resumed_and_evaluated_on_what_it_held_back(flat, tmp_path):
    from click.testing import CliRunner

    from tfyolo.cli.app import main

    root = tmp_path / "data"
    shutil.copytree(flat, root)
    config = configured(root, "train.stages.0={epochs: 2, lr: 0.001}", "train.evaluate_every=1")
    held = keys(read_configured(config.data, "val"))
    run = training.train(config, tmp_path / "run", progress=False)
    assert (run.folder / "division.json").is_file()
    moved = run.folder.rename(tmp_path / "moved")
    write_image(root / "images/99.jpg", (99, 99))
    write_text(root / "labels/99.txt", "0 .5 .5 .2 .2")
    result = CliRunner().invoke(main, ["evaluate", str(moved), "--json", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["images"] == len(held)
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert {row["image_id"] for row in found} <= held
    training.train(None, moved, resume=True, progress=False)  # done, and says so


def test_a_split_that_knows_fewer_classes_is_evaluated_by_name(tmp_path):
    """And one that knows others is an error, as is one to learn from."""
    from scenes import coco_json, make_coco_plain, write_json

    make_coco_plain(tmp_path)
    content = coco_json(categories=[{"id": 1, "name": "dog"}])
    content["annotations"] = [{**content["annotations"][1], "category_id": 1}]
    write_json(tmp_path / "val.json", content)
    config = load_config("demo", *TINY, f"data={tmp_path}")
    learned, evaluated = reading.read_stage(config, 0, None)
    assert evaluated.classes == learned.classes == CLASSES
    assert [record.labels.tolist() for record in evaluated.records] == [[1], []]
    report = check(tmp_path, progress=False)
    assert any("the split val knows no cat" in problem.message for problem in report.warnings)
    assert not any("different classes" in problem.message for problem in report.problems)
    content["categories"][0]["name"] = "fox"
    write_json(tmp_path / "val.json", content)
    learned, evaluated = reading.read_stage(config, 0, None)
    assert evaluated.classes == ("fox",)  # which training refuses


def test_what_is_wrong_with_the_data_reaches_training(tmp_path):
    make_yolo(tmp_path)
    write_text(tmp_path / "labels/train/one.txt", "0 .95 .5 .2 .1", "7 .5 .5 .1 .1")
    shown = "\n".join(reading.warnings_of(read(tmp_path, "train"), read(tmp_path, "val")))
    assert "1 fault in the data, left out of training:\n" in shown and "unknown class 7" in shown
    assert "1 warning about the data of training:\n" in shown and "reaches over the edge" in shown
