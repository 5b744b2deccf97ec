"""Which format a data set is of, where several may be meant."""

import json
import os
import shutil

import pytest
from scenes import (
    MAKERS,
    SIZES,
    coco_json,
    make_voc,
    make_yolo,
    make_yolo_roboflow,
    only,
    scene,
    write_image,
    write_json,
    write_text,
)

from tfyolo.data.check import check
from tfyolo.data.readers import FORMATS, DataSet, faults, read
from tfyolo.data.sources.place import Format
from tfyolo.data.sources.source import DataError, SplitError

STRAY = {
    "notes of Label Studio": ("notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}'),
    "a project of an IDE": ("pom.xml", "<project><modelVersion>4.0.0</modelVersion></project>"),
    "CVAT's own XML": ("annotations.xml", "<annotations><version>1.1</version></annotations>"),
    "a damaged XML": ("export.xml", "<annotation"),
    "services": ("docker-compose.yaml", "services:\n  train: {image: x}\n"),
    "hyperparameters": ("config.yaml", "train: {lr: 1}\nval: {every: 2}\n"),
    "damaged YAML": ("run.yaml", "train: ["),
    "results": ("results.csv", "epoch,loss\n1,2\n"),
    "predictions": ("predictions.json", '[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 1, 1], "score": 1}]'),
    "captions": ("captions.json", '{"images": [], "annotations": [{"caption": "a cat"}]}'),
    "COCO's images of elsewhere": ("result.json", json.dumps(coco_json(images=[{"id": 7, "file_name": "gone.jpg"}]))),
    "text": ("requirements.txt", "numpy\ntorch\n"),
    "package": ("package.json", '{"name": "labels", "images": "none"}'),
}


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize(
    "layout", ["yolo roboflow", "yolo flat", "voc", "coco", "coco plain", "csv", "labelme", "tfrecord"]
)
def test_a_stray_file_does_not_make_it_another_format(layout, stray, tmp_path):
    root = MAKERS[layout](tmp_path)
    split = "all" if layout == "yolo flat" else "train"
    name, content = STRAY[stray]
    (root / name).write_text(content)
    source = read(root, split)
    assert source.format == layout.split()[0]
    assert len(source.records) == 2 and [problem for problem in source.problems if problem.severity == "error"] == []


def test_the_format_that_reads_is_preferred_and_told(tmp_path):
    """COCO's JSON beside a set in YOLO's text: its images are not there, so it gives way; that is a word, not
    silence.
    """
    make_yolo(tmp_path)
    write_json(tmp_path / "result.json", coco_json(images=[{"id": 7, "file_name": "gone.jpg"}]))
    source = read(tmp_path)
    assert source.format == "yolo"
    only(source.problems, tmp_path.name, "read as yolo", "not as coco", severity="warning")
    assert "read as yolo" in faults(source, "training")


@pytest.mark.parametrize("stray", ["voc", "coco", "csv", "labelme"])
def test_annotations_of_one_image_do_not_make_it_another_format(stray, tmp_path):
    """What an annotation tool has left of one image, in a set of many in YOLO's text: most of the images are not in
    it.
    """
    for number in range(5):
        write_image(tmp_path / f"{number}.jpg", (64, 64))
        write_text(tmp_path / f"{number}.txt", "0 0.5 0.5 0.2 0.2")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    left = {
        "voc": ("1.xml", f"<annotation><filename>1.jpg</filename><object><name>cat</name>{box}</object></annotation>"),
        "coco": ("one.json", json.dumps(coco_json(images=[{"id": 7, "file_name": "1.jpg"}]))),
        "csv": ("one.csv", "filename,class,xmin,ymin,xmax,ymax\n1.jpg,cat,1,1,9,9"),
        "labelme": ("1.json", json.dumps({"shapes": [{"label": "cat", "points": [[1, 1], [9, 9], [1, 9]]}]})),
    }
    write_text(tmp_path / left[stray][0], left[stray][1])
    source = read(tmp_path, "all")
    assert source.format == "yolo" and len(source.records) == 5
    assert any(f"not as {stray}" in problem.message for problem in source.problems)


def test_what_begins_well_but_cannot_be_read_gives_way(tmp_path):
    make_voc(tmp_path)
    shutil.rmtree(tmp_path / "ImageSets")
    images = [{"id": 1, "file_name": f"JPEGImages/{stem}.jpg"} for stem in SIZES]
    write_json(tmp_path / "all.json", coco_json(categories=[], images=images))
    dataset = DataSet(tmp_path)
    assert dataset.format == "coco"  # by its marks
    source = dataset.read("all")
    assert (source.format, dataset.format) == ("voc", "voc")
    scene(source)
    assert "`categories` is empty" in dataset.why
    with pytest.raises(SplitError):
        dataset.read("train")
    report = check(tmp_path, progress=False)
    assert (report.format, [*report.splits]) == ("voc", ["all"])


def test_a_split_that_cannot_be_read_does_not_make_it_another_format(tmp_path):
    make_yolo_roboflow(tmp_path)
    write_text(tmp_path / "data.yaml", "train: ../train/images", "val: ../nowhere", "names: [cat, dog]")
    write_json(tmp_path / "result.json", coco_json(images=[{"id": 7, "file_name": "gone.jpg"}]))
    dataset = DataSet(tmp_path)
    with pytest.raises(DataError, match=r"val: \.\./nowhere is not there"):
        dataset.read("val")
    assert dataset.format == "yolo" and len(dataset.read("train").records) == 2


def test_a_format_from_outside_is_one_more_entry(tmp_path, monkeypatch):
    mine = FORMATS["yolo"].find

    def find(place):
        return mine(place) if place.file is None and place.tree.has(os.path.join(place.root, "mine")) else None

    monkeypatch.setitem(FORMATS, "mine", Format(find, "mine      a folder with a file called mine"))
    make_yolo(tmp_path)
    assert read(tmp_path).format == "yolo"
    (tmp_path / "mine").write_text("")
    assert read(tmp_path, format="mine").format == "mine"


def test_the_only_data_set_below_is_taken_and_told(tmp_path):
    make_yolo(tmp_path / "archive" / "pets")
    (tmp_path / "archive" / "docs").mkdir()
    source = read(tmp_path)
    scene(source)
    only(source.problems, tmp_path.name, "pets, the only one below", severity="warning")
    make_yolo(tmp_path / "archive" / "more")
    with pytest.raises(DataError, match=r"did you mean .*more or .*pets\?"):
        read(tmp_path)


def test_years_of_voc_are_a_data_set_each(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make_voc(tmp_path / year)
    with pytest.raises(DataError, match=r"did you mean .*VOC2007 or .*VOC2012\?"):
        read(tmp_path)
