"""Readers: a small scene in all formats, everything that can be wrong in each, and the real data beside the project."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED
from scenes import (
    CLASSES,
    MAKERS,
    SCENE,
    SIZES,
    coco_json,
    make_coco,
    make_coco_plain,
    make_voc,
    make_yolo,
    only,
    shape,
    voc_object,
    voc_xml,
    write_image,
    write_json,
    write_text,
    yolo_lines,
)

from tfyolo.config import Data
from tfyolo.data import readers
from tfyolo.data.headers import image_size
from tfyolo.data.readers import FORMATS, read, read_configured, splits
from tfyolo.data.sources.source import DataError, SplitError

SHARED_DATA = SHARED / "data"


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", MAKERS)
def test_all_formats_say_the_same(layout, split, tmp_path):
    split = "all" if layout == "yolo flat" else split
    source = read(MAKERS[layout](tmp_path), split)
    assert source.format == layout.split()[0]
    assert source.classes == CLASSES
    assert source.split == split
    assert source.problems == ()
    assert len(source.records) == 2
    for record in source.records:
        # A stem, or for COCO and what was made from it a number.
        stem = {"7": "one", "8": "two"}.get(str(record.image_id), record.image_id)
        boxes, labels = zip(*SCENE[stem], strict=True)
        np.testing.assert_allclose(record.boxes, boxes, atol=1e-4)
        assert record.labels.tolist() == list(labels)
        assert record.size == SIZES[stem]
        assert not record.crowd.any()
        np.testing.assert_allclose(record.areas, [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes], rtol=1e-5)
        assert (record.boxes.dtype, record.labels.dtype, record.areas.dtype) == (np.float32, np.int32, np.float32)


def test_tables_are_complete():
    assert {layout.split()[0] for layout in MAKERS} == FORMATS.keys()


def test_category_ids_are_the_files(tmp_path):
    assert read(make_coco(tmp_path)).category_ids == (3, 90)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("coco", ("train2017", "val2017")),
        ("voc", ("train", "val")),
        ("voc roboflow", ("train", "valid")),
        ("yolo flat", ("all",)),
    ],
)
def test_splits(layout, names, tmp_path):
    assert splits(MAKERS[layout](tmp_path)) == names


def test_a_file_alone_and_images_elsewhere(tmp_path):
    make_coco(tmp_path / "a")
    file = tmp_path / "b" / "labels.json"
    file.parent.mkdir()
    (tmp_path / "a/annotations/instances_val2017.json").rename(file)
    with pytest.raises(DataError, match=r"one\.jpg.*data\.images=FOLDER"):
        read(file, "labels")
    assert len(read(file, "labels", images=tmp_path / "a/val2017").records) == 2


# --- splits that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc", "tfrecord"])
def test_no_split_serves_in_place_of_one_that_is_missing(layout, tmp_path):
    root = MAKERS[layout](tmp_path)
    with pytest.raises(SplitError, match=r"'test' does not exist .* splits are train(2017)?, val(2017)?$"):
        read(root, "test")


def test_a_configured_split_that_is_missing_says_what_to_set(tmp_path):
    make_yolo(tmp_path)
    for kind in ("images", "labels"):
        shutil.rmtree(tmp_path / kind / "val")
    data = Data(path=str(tmp_path))
    assert len(read_configured(data, "train").records) == 2
    with pytest.raises(
        SplitError, match=r"'val' does not exist .*are train\. Name .*: data\.val=.*data\.val=train evaluates"
    ):
        read_configured(data, "val")
    with pytest.raises(SplitError, match=r"Name one of them: train\.stages\.1\.data\.train=\.\.\.$"):
        read_configured(Data(path=str(tmp_path), train="nope"), "train", "train.stages.1.data")


def test_a_yaml_that_names_the_same_images_twice_is_taken_at_its_word(tmp_path):
    """As coco128's: `train: images/train2017`, `val: images/train2017`."""
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: [images/train]\ntest: images/val\nnames: [cat, dog]")
    assert [read(tmp_path, split).same_as for split in ("train", "val", "test")] == ["", "train", ""]
    assert len(read(tmp_path, "val").records) == 2


def test_voc_without_splits_is_all(tmp_path):
    make_voc(tmp_path)
    for file in tmp_path.glob("ImageSets/Main/*.txt"):
        file.unlink()
    assert splits(tmp_path) == ("all",)
    assert len(read(tmp_path, "all").records) == 2
    with pytest.raises(SplitError, match=r"'train' does not exist.*splits are all"):
        read(tmp_path, "train")


def test_ambiguous_split(tmp_path):
    make_coco(tmp_path)
    write_json(tmp_path / "annotations/instances_train2014.json", coco_json())
    with pytest.raises(DataError, match=r"'train' is ambiguous.*train2014, train2017"):
        read(tmp_path)


# --- whole files that are wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[]", "expected lists `images`, `annotations` and `categories`, received list"),
        ("a.json", '{"images": [], "annotations": []}', "received images, annotations"),
        ("a.json", json.dumps(coco_json(categories=[])), "`categories` is empty"),
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
        ("a.yaml", "train: [", "not valid YAML"),
        ("a.yaml", "train: nowhere\nnames: [cat]", "train: nowhere is not there; looked for"),
        ("a.yaml", "train: .\nnames: {0: cat, x: dog}", "names: expected the numbers"),
        ("a.yaml", "train: .\nnames: {0: cat, 2: dog}", r"names: expected the numbers 0\.\.1"),
        ("a.txt", "", "not recognised as tfrecord or coco or voc or yolo or labelme or csv"),
        ("a.csv", "a,b", "expected columns filename, class, xmin"),
    ],
)
def test_whole_files_that_are_wrong(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        for split in splits(tmp_path / name):
            read(tmp_path / name, split)


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(DataError, match="not recognised") as error:
        read(tmp_path)
    assert [line.split()[0] for line in str(error.value).splitlines()[2:]] == [*FORMATS]


def test_not_recognised(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"not recognised as .*it holds nothing\nLooked for:\n  tfrecord  .*\n  coco  "):
        read(tmp_path)
    with pytest.raises(
        DataError, match=r"data\.format: expected one of tfrecord, coco, voc, yolo, .* received 'cocoo'"
    ):
        read(tmp_path, format="cocoo")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack it first"):
        read(tmp_path / "data.zip")
    with pytest.raises(DataError, match=r"data\.images: expected a folder"):
        read(tmp_path, images=tmp_path / "nothing")


@pytest.mark.parametrize(
    "classes, groups",
    [(("cat", "dog", "carts"), []), (("t-1", "t1"), []), (("Cat", "dog", "cat"), [["Cat", "cat"]]),
     (("traffic light", "Dog", "Traffic_Light", "DOG"), [["traffic light", "Traffic_Light"], ["Dog", "DOG"]])],
)  # fmt: skip
def test_classes_that_are_one_under_two_names(classes, groups):
    messages = list(readers.alike(classes))
    assert len(messages) == len(groups)
    for line, names in zip(messages, groups, strict=True):
        assert line.startswith(f"the classes {' and '.join(map(repr, names))} differ only in case")


def test_no_image_at_all(tmp_path):
    make_voc(tmp_path)
    for file in tmp_path.glob("JPEGImages/*"):
        file.unlink()
    with pytest.raises(DataError, match=r"not one image in the split 'train'.*\n.*one\.xml: label without image"):
        read(tmp_path)


# --- single things that are wrong: named, and the rest is read --------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words", "kept", "severity"),
    [
        ({"bbox": [10, 10, 0, 5]}, ["annotation 99", "no area"], None, "error"),
        ({"bbox": [10, 10, 5, -5]}, ["annotation 99", "no area"], None, "error"),
        ({"bbox": [10, 10, math.nan, 5]}, ["annotation 99", "not finite"], None, "error"),
        ({"bbox": [10, 10, math.inf, 5]}, ["annotation 99", "not finite"], None, "error"),
        ({"bbox": [90, 10, 5, 5]}, ["annotation 99", "outside its image of 40 x 80"], None, "error"),
        ({"bbox": [70, -5, 20, 10]}, ["annotation 99", "reaches over the edge"], (0, 70, 5, 80), "warning"),
        ({"bbox": [10, 10, 5]}, ["annotation 99", "expected"], None, "error"),
        ({"bbox": "10 10 5 5"}, ["annotation 99", "expected"], None, "error"),
        ({"image_id": [7]}, ["annotation 99", "expected"], None, "error"),
        ({"image_id": 12345}, ["annotation 99", "no image has its image_id 12345"], None, "error"),
        ({"category_id": 4}, ["annotation 99", "unknown class", "category_id 4"], None, "error"),
        ({"id": 0}, ["annotation 0", "used twice"], None, "error"),
    ],
)
def test_coco_boxes_that_are_wrong(change, words, kept, severity, tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    content["annotations"].append(shape(**change))
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    only(source.problems, "train.json", *words, severity=severity)
    boxes = [box for box, _ in SCENE["one"]] + ([kept] if kept else [])
    np.testing.assert_allclose(source.records[0].boxes, boxes)


def test_coco_crowd_area_and_rounding(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    content["annotations"] = [shape(iscrowd=1, area=12.5)]
    content["annotations"] += [
        shape(id=n, bbox=[-0.5, 0, 81, 40.4], area=area) for n, area in ((1, math.nan), (2, None))
    ]
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    assert source.problems == ()
    assert source.records[0].crowd.tolist() == [True, False, False]
    assert source.records[0].areas.tolist() == [12.5, 40 * 80, 40 * 80]
    np.testing.assert_array_equal(source.records[0].boxes[1], [0, 0, 40, 80])
    assert source.records[1].boxes.shape == (0, 4)


def test_coco_images_that_are_wrong(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    content["images"] += [
        {"id": 7, "file_name": "again.jpg", "height": 1, "width": 1},
        {"id": 20, "file_name": "gone.jpg", "height": 1, "width": 1},
        {"id": 21},
    ]
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    messages = [problem.message for problem in source.problems]
    assert any("images[2]: the id 7 is used twice" in m for m in messages)
    assert any("images[4]: expected `id` and `file_name`" in m for m in messages)
    assert [Path(p.file).name for p in source.problems if "image missing" in p.message] == ["gone.jpg"]
    assert len(messages) == 3
    assert len(source.records) == 2


def test_classes_of_one_name(tmp_path):
    make_coco_plain(tmp_path)
    write_json(tmp_path / "train.json", coco_json(categories=[{"id": 3, "name": "cat"}, {"id": 90, "name": "cat"}]))
    only(read(tmp_path).problems, tmp_path.name, "2 classes are called 'cat'", severity="warning")


def test_coco_without_sizes_reads_headers(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    for image in content["images"]:
        del image["height"]
    write_json(tmp_path / "train.json", content)
    assert [record.size for record in read(tmp_path).records] == list(SIZES.values())


def test_voc_difficult_is_no_crowd_and_classes_are_of_all_files(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/train.txt", "two")
    write_text(
        tmp_path / "Annotations/two.xml",
        voc_xml("two", objects=voc_object("dog", 1, 1, 9, 9, "<difficult>1</difficult>")),
    )
    source = read(tmp_path)
    assert source.classes == CLASSES  # cat is only in one.xml
    (record,) = source.records
    assert (record.difficult.tolist(), record.crowd.tolist(), record.ignored.tolist()) == ([True], [False], [True])
    np.testing.assert_array_equal(source.records[0].boxes, [[0, 0, 9, 9]])


@pytest.mark.parametrize("name", ["another.jpg", "one", "C:\\data\\one.png", "two.jpg"])
def test_voc_finds_images_whatever_the_filename_says(name, tmp_path):
    make_voc(tmp_path)
    (tmp_path / "JPEGImages/one.jpg").unlink()
    write_image(tmp_path / "JPEGImages/one.PNG", SIZES["one"], ".png")
    write_text(tmp_path / "Annotations/one.xml", voc_xml("one", filename=name))
    source = read(tmp_path)
    assert source.problems == ()
    assert Path(source.records[0].path).name == "one.PNG"


@pytest.mark.parametrize(
    ("xml", "words", "records"),
    [
        ("<annotation><object>", ["not valid XML"], 1),
        (voc_xml("one", objects=voc_object("cat", 9, 9, 9, 9)), ["object 1 (cat)", "no area"], 2),
        (voc_xml("one", objects=voc_object("cat", 1, 1, 9, "x")), ["object 1 (cat)", "four numbers"], 2),
        (voc_xml("one", objects=voc_object("", 1, 1, 9, 9)), ["object 1", "<name>"], 2),
        (voc_xml("one", objects="<object><name>cat</name></object>"), ["object 1 (cat)", "<bndbox>"], 2),
        (voc_xml("one", objects=voc_object("cat", 1, 1, "nan", 9)), ["object 1 (cat)", "not finite"], 2),
    ],
)
def test_voc_files_that_are_wrong(xml, words, records, tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "Annotations/one.xml", xml)
    source = read(tmp_path)
    only(source.problems, "one.xml", *words)
    assert len(source.records) == records


def test_voc_lists_that_are_wrong(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/train.txt", "one", "three", "one")
    (problems := list(read(tmp_path).problems)).sort(key=lambda problem: problem.severity)
    only(problems[:1], "train.txt", "three is listed but has no XML")
    only(problems[1:], "train.txt", "one is listed 2 times", severity="warning")


def test_voc_zero_size_reads_headers(tmp_path):
    make_voc(tmp_path)
    write_text(tmp_path / "Annotations/one.xml", voc_xml("one", size=(0, 0)))
    assert read(tmp_path).records[0].size == SIZES["one"]


@pytest.mark.parametrize(
    ("line", "words", "severity"),
    [
        ("0 0.5 0.5 0.1", ["line 3", "expected `class cx cy w h`"], "error"),
        ("0 0.5 0.5 0.1 0.1 0.9", ["line 3", "expected `class cx cy w h`"], "error"),
        ("cat 0.5 0.5 0.1 0.1", ["line 3", "'cat 0.5"], "error"),
        ("1.5 0.5 0.5 0.1 0.1", ["line 3", "expected"], "error"),
        ("-1 0.5 0.5 0.1 0.1", ["line 3", "expected"], "error"),
        ("2 0.5 0.5 0.1 0.1", ["line 3", "unknown class 2", "0..1"], "error"),
        ("0 0.5 0.5 0 0.1", ["line 3", "no area"], "error"),
        ("0 nan 0.5 0.1 0.1", ["line 3", "not finite"], "error"),
        ("0 1.5 0.5 0.1 0.1", ["line 3", "outside"], "error"),
        ("0 0.95 0.5 0.2 0.1", ["line 3", "reaches over the edge"], "warning"),
        (yolo_lines("one")[0], ["line 3", "the same box again"], "warning"),
    ],
)
def test_yolo_lines_that_are_wrong(line, words, severity, tmp_path):
    make_yolo(tmp_path)
    write_text(tmp_path / "labels/train/one.txt", *yolo_lines("one"), line)
    source = read(tmp_path)
    only(source.problems, "one.txt", *words, severity=severity)
    assert len(source.records) == 2
    assert len(source.records[0].boxes) == (3 if "edge" in words[1] else 2)


def test_yolo_outlines_and_empty_lines(tmp_path):
    make_yolo(tmp_path)
    write_text(tmp_path / "labels/train/one.txt", "", "1 0.25 0.5 0.5 0.25 0.75 1.0", "")
    source = read(tmp_path)
    assert source.problems == ()
    np.testing.assert_allclose(source.records[0].boxes, [[10, 20, 40, 60]])


def test_yolo_images_and_labels_that_miss_each_other(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels/train/one.txt").unlink()
    write_text(tmp_path / "labels/train/three.txt", "0 .5 .5 .1 .1")
    source = read(tmp_path)
    first, second = sorted(source.problems, key=lambda problem: problem.severity)
    only([first], "three.txt", "label without image")
    only([second], "one.txt", "no label file", severity="warning")
    assert [len(record.boxes) for record in source.records] == [0, 1]


def test_yolo_labels_beside_images_below_a_folder_called_images(tmp_path):
    root = tmp_path / "images" / "mine"
    for stem, size in SIZES.items():
        write_image(root / f"{stem}.jpg", size)
        write_text(root / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "classes.txt", *CLASSES)
    assert [len(record.boxes) for record in read(root, "all").records] == [2, 1]


def test_yolo_classes_without_names_are_the_numbers_of_all_splits(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    write_text(tmp_path / "labels/val/one.txt", "4 .5 .5 .1 .1")
    for split in ("train", "val"):
        source = read(tmp_path, split)
        assert source.classes == ("0", "1", "2", "3", "4")
        only(source.problems, split, "their numbers are their names", severity="warning")


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"version https://git-lfs.github.com/spec/v1\n", b"\xff\xd8\xff\xe0 cut"]
)
def test_yolo_images_without_a_header(content, tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "images/train/one.jpg").write_bytes(content)
    source = read(tmp_path)
    only(source.problems, "one.jpg", "cannot be read")
    assert len(source.records) == 1


# --- sizes from headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_image_size(suffix, tmp_path):
    write_image(tmp_path / f"a{suffix}", (33, 44), suffix)
    assert image_size(tmp_path / f"a{suffix}") == (33, 44)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_size_is_upright(orientation, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (44, 33)).save(tmp_path / "a.jpg", exif=exif)
    # Oracle: cv2 turns an image as its EXIF says.
    assert image_size(tmp_path / "a.jpg") == cv2.imread(str(tmp_path / "a.jpg")).shape[:2]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "images", "boxes", "crowds", "explained"),
    [
        # Of the 4,888 boxes of all splits two have no area, each a problem of its file.
        ("bccd", "train", 205, 2805, 0, {"BloodImage_00343.xml": 1}),
        ("bccd", "val", 87, 1138, 0, {"BloodImage_00338.xml": 1}),
        ("bccd", "test", 72, 945, 0, {}),
        ("coco-tiny", "train", 80, 705, 6, {}),
        ("coco-tiny", "val", 80, 815, 11, {}),
        ("coco128", "train", 128, 929, 0, {}),
    ],
)
def test_real_data(name, split, images, boxes, crowds, explained):
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"no {SHARED_DATA / name}")
    source = read(SHARED_DATA / name, split)
    left_out = Counter(Path(p.file).name for p in source.problems if "no area" in p.message)
    assert len(source.records) == images
    assert left_out == explained
    assert sum(len(record.boxes) for record in source.records) + left_out.total() == boxes
    assert sum(record.crowd.sum() for record in source.records) == crowds
    for record in source.records:
        H, W = record.size
        assert (record.boxes >= 0).all() and (record.boxes <= [H, W, H, W]).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()


def test_real_coco128_names_the_files_that_miss_each_other():
    if not (SHARED_DATA / "coco128").is_dir():
        pytest.skip(f"no {SHARED_DATA / 'coco128'}")
    problems = read(SHARED_DATA / "coco128").problems
    without_image = {Path(p.file).stem for p in problems if p.message.startswith("label without image")}
    without_label = {Path(p.file).stem for p in problems if p.message.startswith("no label file")}
    assert without_image == {"000000000656", "000000000659"}
    assert without_label == {"000000000250", "000000000508"}
    assert len(problems) == 5  # and that nothing there says the names of the classes
