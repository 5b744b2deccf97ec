"""Data sets as people have them: each kind of thing that was once taken for something else, and what is right."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from scenes import (
    CLASSES,
    CSV,
    MAKERS,
    SCENE,
    SIZES,
    coco_json,
    csv_rows,
    labelme_json,
    make_coco,
    make_coco_plain,
    make_coco_roboflow,
    make_csv,
    make_labelme,
    make_voc,
    make_voc_roboflow,
    make_yolo,
    make_yolo_flat,
    make_yolo_lists,
    make_yolo_obj_data,
    make_yolo_roboflow,
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
from tfyolo.data.check import check
from tfyolo.data.readers import FORMATS, DataSet, faults, read, read_configured, splits
from tfyolo.data.sources.place import Format
from tfyolo.data.sources.source import DataError, SplitError

CASES = SHARED / "cases"


def boxes_of(source):
    return {Path(record.path).stem: record.boxes.tolist() for record in source.records}


def scene(source):
    """Asserts that a Source is the scene of scenes.py, whatever its ids are."""
    assert source.classes == CLASSES
    for record in source.records:
        boxes, labels = zip(*SCENE[Path(record.path).stem], strict=True)
        np.testing.assert_allclose(record.boxes, boxes, atol=1e-4)
        assert record.labels.tolist() == list(labels)
    assert len(source.records) == len(SCENE)


# --- what a row means -------------------------------------------------------------------------------------------------


def key_points(stem, size, count):
    """Rows of the scene with key points inside each box, of `size` numbers."""
    for row in yolo_lines(stem):
        _, x, y, w, h = map(float, row.split())
        points = [(x - 0.4 * w, y - 0.4 * h), (x + 0.4 * w, y + 0.4 * h), (x, y)][:count]
        yield row + "".join(f" {px:.6f} {py:.6f}" + " 2" * (size - 2) for px, py in points)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_key_points_are_no_outline(size, announced, tmp_path):
    make_yolo_roboflow(tmp_path)
    for split in ("train", "valid"):
        for stem in SIZES:
            write_text(tmp_path / split / f"labels/{stem}.txt", *key_points(stem, size, 3))
    if announced:
        with (tmp_path / "data.yaml").open("a") as file:
            file.write(f"kpt_shape: [3, {size}]\n")
    source = read(tmp_path)
    scene(source)
    if announced:
        assert source.problems == ()
    else:
        only(source.problems, "images", "key points", severity="warning")


@pytest.mark.parametrize(
    ("row", "severity", "words"),
    [
        ("0 .5 .5 .2 .2 .5 .5", "error", "expected `class, box and 3 key points of 2 numbers`, received 7 numbers"),
        ("0 .5 .5 .2 .2", "warning", "a row of 5 numbers"),
    ],
)
def test_a_row_of_another_length_is_named_where_key_points_are_announced(row, severity, words, tmp_path):
    make_yolo_roboflow(tmp_path)
    write_text(tmp_path / "train/labels/one.txt", *key_points("one", 2, 3), row)
    write_text(tmp_path / "train/labels/two.txt", *key_points("two", 2, 3))
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [3, 2]\n")
    source = read(tmp_path)
    only(source.problems, "one.txt", words, severity=severity)
    assert len(source.records[0].boxes) == (2 if severity == "error" else 3)


def test_turned_boxes_and_outlines_stay_outlines(tmp_path):
    """Four corners of a small object: as long as a box with two key points, which would lie in it."""
    make_yolo_flat(tmp_path)
    for stem in SIZES:
        write_text(tmp_path / f"labels/{stem}.txt", "0 .45 .45 .55 .45 .55 .55 .45 .55", "1 .2 .2 .3 .2 .3 .3 .2 .3")
    source = read(tmp_path, "all")
    assert source.problems == ()
    np.testing.assert_allclose(source.records[0].boxes, [[18, 36, 22, 44], [8, 16, 12, 24]], atol=1e-4)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "difficult", "told"),
    [
        ("1", True, False), ("true", True, False), (" Yes ", True, False), ("True", True, False),
        ("0", False, False), ("", False, False), ("False", False, False), ("no", False, False),
        ("Unspecified", False, True), ("0.0", False, True), ("-1", False, True), ("difficult", False, True),
    ],
)  # fmt: skip
def test_only_a_plain_yes_is_difficult(text, difficult, told, tmp_path):
    make_voc(tmp_path)
    thing = voc_object("cat", 11, 21, 30, 40, f"<difficult>{text}</difficult>")
    for stem in SIZES:
        write_text(tmp_path / f"Annotations/{stem}.xml", voc_xml(stem, objects=thing * 2))
    source = read(tmp_path)
    assert [record.difficult.tolist() for record in source.records] == [[difficult] * 2] * 2
    if told:
        only(source.problems, "one.xml", "<difficult>", "4 times in all", severity="warning")
    else:
        assert source.problems == ()


@pytest.mark.parametrize(
    ("value", "crowd", "told"),
    [
        (1, True, False),
        ("1", True, False),
        (True, True, False),
        ("0", False, False),
        (None, False, False),
        (0.0, False, True),
        ("maybe", False, True),
    ],
)
def test_only_a_plain_yes_is_a_crowd(value, crowd, told, tmp_path):
    make_coco_plain(tmp_path)
    write_json(tmp_path / "train.json", coco_json(annotations=[shape(iscrowd=value)]))
    source = read(tmp_path)
    assert source.records[0].crowd.tolist() == [crowd]
    assert len(source.problems) == told


def test_numbers_that_are_written_as_text_are_numbers(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    for annotation in content["annotations"]:
        annotation["bbox"] = list(map(str, annotation["bbox"]))
    for image in content["images"]:
        image["height"], image["width"] = str(image["height"]), float(image["width"])
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    assert source.problems == ()
    scene(source)


@pytest.mark.parametrize("change", [str, float])
@pytest.mark.parametrize("where", ["images", "annotations"])
def test_ids_that_are_written_otherwise_are_the_same(where, change, tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    for entry in content[where]:
        for key in ("id", "image_id", "category_id"):
            if key in entry:
                entry[key] = change(entry[key])
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    assert source.problems == ()
    scene(source)


def test_ids_that_differ_are_shown_as_they_are_written(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    content["annotations"][0]["image_id"] = "7a"
    write_json(tmp_path / "train.json", content)
    only(read(tmp_path).problems, "train.json", "no image has its image_id '7a'")


def test_outlines_without_a_box_have_the_box_round_them(tmp_path):
    make_coco_plain(tmp_path)
    outlines = [[10, 12, 30, 12, 20, 40], [40, 5, 50, 5, 45, 9]]
    annotations = [shape(bbox=[], segmentation=outlines), shape(id=100, bbox=None, segmentation=[[1, "x"]])]
    annotations += [
        shape(id=101, bbox=[], segmentation={"counts": "x"}),
        shape(id=102, bbox=[1, 2, 3, 4], segmentation=outlines),
    ]
    write_json(tmp_path / "train.json", coco_json(annotations=annotations))
    source = read(tmp_path)
    np.testing.assert_array_equal(source.records[0].boxes, [[5, 10, 40, 50], [2, 1, 6, 4]])
    assert [problem.severity for problem in source.problems] == ["warning", "error", "error"]


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", ["nowhere", "in another split"])
def test_the_category_of_all_others_is_no_class_of_its_own(boxes, tmp_path):
    make_coco_roboflow(tmp_path)
    for split in ("train", "valid"):
        content = coco_json()
        content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
            {**category, "supercategory": "pets"} for category in content["categories"]
        ]
        if boxes == "in another split" and split == "valid":
            content["annotations"].append(shape(category_id=0))
        write_json(tmp_path / split / "_annotations.coco.json", content)
    source = read(tmp_path)
    if boxes == "nowhere":
        scene(source)
        assert source.category_ids == (3, 90)
        only(source.problems, "_annotations.coco.json", "'pets'", "no boxes", severity="warning")
    else:
        assert source.classes == ("pets", *CLASSES)


def test_a_class_of_its_own_supercategory_stays(tmp_path):
    """As COCO's person."""
    make_coco_plain(tmp_path)
    content = coco_json(
        categories=[{"id": n, "name": name, "supercategory": "cat"} for n, name in ((3, "cat"), (90, "dog"))]
    )
    content["annotations"] = content["annotations"][1:]
    write_json(tmp_path / "train.json", content)
    assert read(tmp_path).classes == CLASSES


def test_a_class_that_a_split_lacks_is_one_all_the_same(tmp_path):
    make_voc_roboflow(tmp_path)
    write_text(tmp_path / "train/one.xml", voc_xml("one", objects=voc_object("ant", 11, 21, 30, 60)))
    for split in ("train", "valid"):
        assert read(tmp_path, split).classes == ("ant", "cat", "dog")


NAMES = ["02146", "21008", "1.10", "yes", "no", "null", "~", "1e3", "2024-13-45", "0x1F", "!!int 3", "12:30:00", ".inf"]


@pytest.mark.parametrize("form", ["list", "lines", "numbered"])
def test_names_are_as_they_are_written(form, tmp_path):
    make_yolo_roboflow(tmp_path)
    expected = [name.removeprefix("!!int ") for name in NAMES]
    names = {
        "list": f"[{', '.join(NAMES)}]",
        "lines": "\n" + "\n".join(f"- {name}" for name in NAMES),
        "numbered": "\n" + "\n".join(f"  {number}: {name}" for number, name in enumerate(NAMES)),
    }[form]
    (tmp_path / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\nnames: {names}\n")
    source = read(tmp_path)
    assert source.classes == tuple(expected)
    assert source.problems == ()


@pytest.mark.parametrize("number", [1, 3])
def test_a_number_of_classes_that_is_not_that_of_the_names_is_told(number, tmp_path):
    make_yolo_roboflow(tmp_path)
    text = (tmp_path / "data.yaml").read_text().replace("nc: 2", f"nc: {number}")
    (tmp_path / "data.yaml").write_text(text)
    source = read(tmp_path)
    scene(source)
    only(source.problems, "data.yaml", "nc says", "2 have names", severity="warning")


@pytest.mark.parametrize("given", ["list", "file"])
@pytest.mark.parametrize("layout", ["yolo", "yolo darknet", "yolo lists alone"])
def test_names_for_data_without_any(layout, given, tmp_path):
    root = MAKERS[layout](tmp_path / "data")
    for file in (*root.rglob("classes.txt"), *root.rglob("*.labels"), *root.rglob("*.names")):
        file.unlink()
    write_text(tmp_path / "pets.txt", *CLASSES, "")
    names = CLASSES if given == "list" else tmp_path / "pets.txt"
    source = read(root, names=names)
    scene(source)
    assert source.problems == ()
    assert (
        read_configured(Data(path=str(root), names=names if given == "list" else str(names)), "train").classes
        == CLASSES
    )


def test_the_command_line_takes_what_data_does_not_say(tmp_path):
    from click.testing import CliRunner

    from tfyolo.cli.app import main

    root = make_yolo(tmp_path / "data")
    (root / "classes.txt").unlink()
    write_text(tmp_path / "names", *CLASSES)
    limit = ["--max-pixels", "3100"]  # one.jpg has 3,200
    result = CliRunner().invoke(main, ["check-data", str(root), "--names", str(tmp_path / "names"), *limit, "--json"])
    report = json.loads(result.stdout)
    assert report["classes"] == list(CLASSES)
    assert sum("40 x 80 pixels (H x W), expected at most 3,100" in p["message"] for p in report["problems"]) == 2
    result = CliRunner().invoke(main, ["make-tfrecords", str(root), str(tmp_path / "out"), *limit])
    assert result.exit_code == 0 and result.output.count("expected at most 3,100") == 2
    assert len(read(tmp_path / "out").records) == 1


def test_names_for_data_that_has_its_own(tmp_path):
    root = make_voc(tmp_path / "voc")
    assert read(root, names=CLASSES).classes == CLASSES
    with pytest.raises(DataError, match="names its classes itself: cat, dog"):
        read(root, names=("a", "b"))
    root = make_yolo(tmp_path / "yolo")
    (root / "classes.txt").unlink()
    told = {problem.message.partition(": ")[2] for problem in read(root, names=["a"]).problems}
    assert told == {"unknown class 1: the names are 0..0, numbers begin at 0; left out"}
    with pytest.raises(DataError, match="cannot be read"):
        read(root, names=tmp_path / "nowhere")


# --- what is nobody's data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MAKERS)
def test_hidden_files_are_nobodys_data_in_any_layout(layout, tmp_path):
    root = MAKERS[layout](tmp_path)
    split = splits(root)[0]
    clean = read(root, split)
    folders = [root, *(folder for folder in root.rglob("*") if folder.is_dir())]
    for folder in folders:
        first = next((file for file in sorted(folder.iterdir()) if file.is_file()), None)
        for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            (folder / hidden).mkdir()
            if first:
                shutil.copy(first, folder / hidden / first.name)
                shutil.copy(first, folder / hidden / f"{first.stem}-checkpoint{first.suffix}")
        for file in [file for file in folder.iterdir() if file.is_file()]:
            (folder / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
            (folder / name).write_bytes(b"\1\2\3")
    write_text(root / ".idea/misc.xml", '<project version="4"/>')
    write_json(root / ".vscode/settings.json", {"images": [], "annotations": [], "categories": []})
    again = read(root, split)
    assert (again.format, again.classes, again.problems) == (clean.format, clean.classes, clean.problems)
    assert [record.path for record in again.records] == [record.path for record in clean.records]
    assert splits(root) == splits(root)


def test_links_are_followed_and_loops_are_not(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "images/train/two.jpg").rename(tmp_path / "store/two.jpg")
    (tmp_path / "images/train/more").symlink_to("../../store")
    (tmp_path / "labels/train/more").mkdir()
    (tmp_path / "labels/train/two.txt").rename(tmp_path / "labels/train/more/two.txt")
    (tmp_path / "images/train/again").symlink_to("..")
    (tmp_path / "images/train/nowhere").symlink_to("nowhere")
    source = read(tmp_path)
    assert sorted(Path(record.path).name for record in source.records) == ["one.jpg", "two.jpg"]
    scene(source)
    only(source.problems, "again", "leads back", severity="warning")


def test_a_link_that_git_wrote_as_text_is_told(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "images/train/more").write_text("../../store")
    only(read(tmp_path).problems, "more", "written as text", severity="warning")


def test_images_of_one_stem_are_both_there(tmp_path):
    make_yolo_flat(tmp_path)
    write_image(tmp_path / "images/one.png", SIZES["one"], ".png")
    source = read(tmp_path, "all")
    assert [Path(record.path).name for record in source.records] == ["one.jpg", "one.png", "two.jpg"]
    assert [len(record.boxes) for record in source.records] == [2, 2, 1]
    assert len({record.image_id for record in source.records}) == 3
    only(source.problems, "one.png", "the same label file", severity="warning")


@pytest.mark.parametrize("named", ["one.png", "one.jpg", "other.jpg"])
def test_an_xml_of_two_images_is_the_ones_that_it_names(named, tmp_path):
    make_voc_roboflow(tmp_path)
    write_image(tmp_path / "train/one.png", SIZES["one"], ".png")
    write_text(tmp_path / "train/one.xml", voc_xml("one", filename=named))
    source = read(tmp_path)
    taken = "one.jpg" if named == "other.jpg" else named
    assert sorted(Path(record.path).name for record in source.records) == [taken, "two.jpg"]
    left_out = {"one.png": "one.jpg"}.get(taken, "one.png")
    assert any(left_out in problem.file or left_out in problem.message for problem in source.problems)


# --- in which convention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["coco", "voc", "labelme"])
def test_parts_of_the_image_are_no_pixels(layout, tmp_path):
    """Where pixels are expected, 0..1 would be boxes of nothing in the corner: an error, not a data set."""
    x1, y1, x2, y2 = 0.25, 0.125, 0.75, 0.5
    for stem in SIZES:
        write_image(tmp_path / f"{stem}.jpg", SIZES[stem])
        if layout == "voc":
            write_text(tmp_path / f"{stem}.xml", voc_xml(stem, objects=voc_object("cat", y1, x1, y2, x2)))
        if layout == "labelme":
            shapes = [{"label": "cat", "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}]
            write_json(tmp_path / f"{stem}.json", {"shapes": shapes})
    if layout == "coco":
        boxes = [{"id": n, "image_id": 7 + n, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]} for n in range(2)]
        write_json(tmp_path / "all.json", coco_json(annotations=boxes))
    with pytest.raises(DataError, match=r"in the first pixel, as all boxes of 2 images do: expected pixels"):
        read(tmp_path, "all")


@pytest.mark.parametrize("layout", ["coco", "yolo", "csv"])
def test_corners_in_place_of_sides_are_an_error(layout, tmp_path):
    """x1, y1, x2, y2 under the names of others: boxes that reach over the edge, which as corners none would."""
    rng = np.random.default_rng(0)
    near = rng.uniform(0.02, 0.6, [12, 2])
    corners = np.concatenate([near, near + rng.uniform(0.1, 0.35, [12, 2])], axis=1)
    sides = np.concatenate([near, corners[:, 2:] - near], axis=1)
    centred = np.concatenate([(near + corners[:, 2:]) / 2, sides[:, 2:]], axis=1)

    def write(folder, rows):
        write_image(folder / "one.jpg", SIZES["one"])
        pixels = (rows * np.tile(SIZES["one"][::-1], 2)).tolist()
        if layout == "yolo":
            write_text(folder / "one.txt", *(" ".join(["0", *map(str, row)]) for row in rows))
        elif layout == "csv":
            write_text(folder / "all.csv", "image_id,bbox,class", *(f'one,"{row}",cat' for row in pixels))
        else:
            boxes = [{"id": n, "image_id": 7, "category_id": 3, "bbox": row} for n, row in enumerate(pixels)]
            write_json(folder / "all.json", coco_json(images=[{"id": 7, "file_name": "one.jpg"}], annotations=boxes))
        return read(folder, "all")

    right = write(tmp_path / "right", centred if layout == "yolo" else sides)
    np.testing.assert_allclose(right.records[0].boxes, corners[:, [1, 0, 3, 2]] * np.tile(SIZES["one"], 2), rtol=1e-5)
    with pytest.raises(DataError, match=r"received what seems to be corners, x1, y1, x2, y2: \d+ of 12 boxes reach"):
        write(tmp_path / "wrong", corners)


# --- which format -----------------------------------------------------------------------------------------------------


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


# --- paths of elsewhere -----------------------------------------------------------------------------------------------

ELSEWHERE = [
    "/home/me/pets/{}",
    "C:\\Users\\me\\pets\\{}",
    "..\\pets\\{}",
    "file:///data/upload/1/{}",
    "/data/local-files/my%20pets/{}",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_names_of_another_machine_are_found_by_their_ends(path, tmp_path):
    def elsewhere(stem):
        return path.format(f"{stem}.jpg")

    for stem, size in SIZES.items():
        write_image(tmp_path / "coco/images" / f"{stem}.jpg", size)
        write_image(tmp_path / "csv/images" / f"{stem}.jpg", size)
    content = coco_json()
    for image, stem in zip(content["images"], SIZES, strict=True):
        image["file_name"] = elsewhere(stem)
    write_json(tmp_path / "coco/train.json", content)
    rows = [row.split(",", 1) for row in csv_rows()]
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    write_text(tmp_path / "csv/train.csv", header, *(f"{elsewhere(Path(name).stem)},{rest}" for name, rest in rows))
    make_yolo_lists(tmp_path / "yolo")
    write_text(tmp_path / "yolo/train.txt", *map(elsewhere, SIZES))
    for kind in ("coco", "csv", "yolo"):
        source = read(tmp_path / kind)
        scene(source)
        assert all("ends of their names" in problem.message for problem in source.problems)
        assert len(source.problems) == 1


def test_absolute_names_of_this_machine_are_no_others(tmp_path):
    make_yolo_lists(tmp_path / "yolo")
    write_text(tmp_path / "yolo/train.txt", *(f"{tmp_path}/yolo/obj/{stem}.jpg" for stem in SIZES))
    make_csv(tmp_path / "csv")
    write_text(tmp_path / "csv/train_labels.csv", ",".join(CSV), *csv_rows(prefix=f"{tmp_path}/csv/images/"))
    for kind in ("yolo", "csv"):
        source = read(tmp_path / kind)
        scene(source)
        assert source.problems == ()


def test_a_name_whose_folder_is_not_there_is_not_another_folders_image(tmp_path):
    """Where names fit as they are, cam2/one.jpg does not mean cam1/one.jpg."""
    for stem, size in SIZES.items():
        write_image(tmp_path / "images/cam1" / f"{stem}.jpg", size)
    content = coco_json()
    for image, name in zip(content["images"], ("cam1/one.jpg", "cam2/two.jpg"), strict=True):
        image["file_name"] = name
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    assert [Path(record.path).name for record in source.records] == ["one.jpg"]
    only(source.problems, "two.jpg", "image missing")


def test_the_image_of_another_split_is_none_of_this_one(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val2017/two.jpg").unlink()
    only(read(tmp_path, "val").problems, "two.jpg", "image missing")


def test_names_that_fit_two_images_are_told(tmp_path):
    make_coco_plain(tmp_path)
    for folder in ("a", "b"):
        write_image(tmp_path / "images" / folder / "two.jpg", SIZES["two"])
    (tmp_path / "images/two.jpg").unlink()
    only(read(tmp_path).problems, "two.jpg", "image missing", "may be")


@pytest.mark.parametrize(
    "absolute", ["/content/pets-1/{}/images", "/kaggle/working/{}/images", "D:\\pets\\{}\\images", "../pets/{}/images"]
)
def test_a_data_yaml_of_another_machine_means_the_folders_beside_it(absolute, tmp_path):
    make_yolo_roboflow(tmp_path)
    lines = [f"{key}: {absolute.format(split)}" for key, split in (("train", "train"), ("val", "valid"))]
    write_text(tmp_path / "data.yaml", *lines, "names: [cat, dog]")
    for split, folder in (("train", "train"), ("val", "valid")):
        for options in ({}, {"images": tmp_path}):
            source = read(tmp_path, split, **options)
            scene(source)
            assert all(Path(record.path).parts[-3] == folder for record in source.records)
    assert any("is not there" in problem.message and "taken" in problem.message for problem in read(tmp_path).problems)


def test_two_splits_are_never_the_same_images_by_the_ends_of_their_names(tmp_path):
    for stem, size in SIZES.items():
        write_image(tmp_path / "images" / f"{stem}.jpg", size)
        write_text(tmp_path / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(tmp_path / "data.yaml", "train: /x/train/images", "val: /x/valid/images", "names: [cat, dog]")
    assert len(read(tmp_path, "train").records) == 2
    with pytest.raises(DataError, match=r"val: '/x/valid/images' is not there; what fits it, .*images, is train's"):
        read(tmp_path, "val")
    make_yolo_roboflow(tmp_path / "other")
    with pytest.raises(DataError, match="is train's"):
        read(tmp_path / "other", "val", images=tmp_path / "other/train/images")


def test_the_folder_of_the_images_may_be_given(tmp_path):
    make_yolo_obj_data(tmp_path / "labels")
    (tmp_path / "labels/obj").rename(tmp_path / "obj")
    (tmp_path / "labels/texts").mkdir()
    for file in sorted((tmp_path / "obj").glob("*.txt")):
        file.rename(tmp_path / "labels/texts" / file.name)
    scene(read(tmp_path / "labels", images=tmp_path / "obj"))
    make_yolo_flat(tmp_path / "flat")
    (tmp_path / "flat/images").rename(tmp_path / "elsewhere")
    scene(read(tmp_path / "flat", "all", images=tmp_path / "elsewhere"))


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["gbk", "gb2312", "gb18030", "big5", "euc-kr", "shift_jis", "windows-1252", "utf-16", "utf-8-sig"]
)
def test_xml_in_the_encoding_that_it_says(encoding, tmp_path):
    make_voc(tmp_path)
    name = {"windows-1252": "Käfer", "euc-kr": "고양이", "shift_jis": "ネコ", "big5": "貓"}.get(encoding, "猫")
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    text = f'<?xml version="1.0" encoding="{declared}"?>' + voc_xml("one", objects=voc_object(name, 11, 21, 30, 60))
    (tmp_path / "Annotations/one.xml").write_bytes(text.encode(encoding))
    source = read(tmp_path)
    assert source.problems == ()
    assert name in source.classes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_texts_with_a_byte_order_mark(encoding, tmp_path):
    """As Windows writes them."""
    make_yolo_roboflow(tmp_path / "yolo")
    make_csv(tmp_path / "csv")
    files = [*tmp_path.rglob("*.txt"), *tmp_path.rglob("*.yaml"), *tmp_path.rglob("*.csv")]
    for file in files:
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encoding))
    for kind in ("yolo", "csv") if encoding == "utf-8-sig" else ("yolo",):
        scene(read(tmp_path / kind))


# --- images without labels, and what train is told --------------------------------------------------------------------


def doubtful(root, kind):
    """A folder of 6 images of which 4 end up without boxes."""
    for number in range(6):
        write_image(root / "images/train" / f"{number}.jpg", (40 + number, 50))
        name = f"frame_{number}" if kind == "labels of other names" and number > 1 else str(number)
        line = "Car 0.00 0 -1.58 587.01 173.33 614.12" if kind == "foreign rows" and number > 1 else "0 .5 .5 .2 .2"
        if kind != "no labels" or number < 2:
            write_text(root / "labels/train" / f"{name}.txt", line)
    write_text(root / "classes.txt", "cat")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no labels", "4 of 6 images have no label file"),
        ("labels of other names", "4 of 6 images have no label file"),
        ("foreign rows", "4 of 6 images have label files of which nothing could be read"),
    ],
)
def test_images_that_lose_their_labels_are_not_learned_as_background_unasked(kind, words, tmp_path):
    doubtful(tmp_path, kind)
    data = Data(path=str(tmp_path))
    with pytest.raises(DataError, match=rf"{words}.*data\.background=true"):
        read_configured(data, "train")
    assert len(read_configured(data.model_copy(update={"background": True}), "train").records) == 6
    assert len(read(tmp_path).records) == 6  # to look at them is no question


def test_images_with_an_empty_label_file_are_meant(tmp_path):
    doubtful(tmp_path, "no labels")
    for number in range(2, 6):
        (tmp_path / f"labels/train/{number}.txt").write_text("")
    assert len(read_configured(Data(path=str(tmp_path)), "train").records) == 6


def test_warnings_are_counted_and_the_first_are_shown(tmp_path):
    make_yolo(tmp_path)
    for number in range(7):
        write_image(tmp_path / "images/train" / f"{number}.jpg", (40, 50))
        write_text(tmp_path / f"labels/train/{number}.txt", "0 .95 .5 .2 .1", f"{number} .5 .5 0 .1")
    told = faults(read(tmp_path), "training")
    assert "7 faults in the data, left out of training" in told and "7 warnings about the data of training" in told
    assert told.count("\n  and 2 more; tfyolo check-data names them all") == 2
    assert len(told.splitlines()) == 14


def test_texts_that_are_no_labels_are_not_called_so(tmp_path):
    make_yolo(tmp_path)
    write_text(tmp_path / "labels/train/README.txt", "about")
    write_text(tmp_path / "labels/train/list.txt", "images/train/one.jpg")
    write_text(tmp_path / "labels/train/todo.txt", "check these")
    write_text(tmp_path / "labels/train/three.txt", "0 .5 .5 .1 .1")
    source = read(tmp_path)
    told = {Path(problem.file).name: problem for problem in source.problems}
    assert told["three.txt"].message.startswith("label without image")
    assert (told["todo.txt"].severity, len(told)) == ("warning", 2)


def test_labels_of_all_splits_in_one_folder(tmp_path):
    make_yolo(tmp_path)
    for split, stems in (("train", ("one",)), ("val", ("two",))):
        for stem in SIZES:
            text = tmp_path / f"labels/{split}/{stem}.txt"
            if stem in stems:
                text.rename(tmp_path / f"labels/{stem}.txt")
            else:
                text.unlink()
                (tmp_path / f"images/{split}/{stem}.jpg").unlink()
    sources = [read(tmp_path, split) for split in ("train", "val")]
    assert [len(record.boxes) for source in sources for record in source.records] == [2, 1]
    assert [source.problems for source in sources] == [(), ()]


def test_a_yaml_of_names_alone_names_the_classes_of_folders(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    write_text(tmp_path / "pets.yaml", "names:", "- cat", "- dog")
    for path in (tmp_path, tmp_path / "pets.yaml"):
        source = read(path)
        scene(source)
        assert source.problems == ()
    write_text(tmp_path / "pets.yaml", "epochs: 3")
    with pytest.raises(DataError, match="expected a YOLO data file with train, val and names"):
        read(tmp_path / "pets.yaml")


def test_two_ways_to_write_one_folder_are_the_same_images(tmp_path):
    make_yolo(tmp_path)
    write_text(tmp_path / "data.yaml", "train: images/train", "val: ./images/train/", "names: [cat, dog]")
    assert read(tmp_path, "val").same_as == "train"


# --- formats of their own ---------------------------------------------------------------------------------------------


def test_csv_rows_that_are_wrong(tmp_path):
    make_csv(tmp_path)
    bad = ["one.jpg,80,40,cat,a,1,2,3", "one.jpg,80,40,,1,1,2,3", ",80,40,cat,1,1,2,3", "gone.jpg,80,40,cat,1,1,20,30"]
    bad += ["one.jpg,80,40,cat,5,5,5,9", "one.jpg,80,40,cat,90,5,95,9", next(iter(csv_rows())), "one.jpg,80"]
    write_text(tmp_path / "train_labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax", *csv_rows(), *bad)
    source = read(tmp_path)
    scene(source)
    messages = "\n".join(f"{problem.severity} {problem.message}" for problem in source.problems)
    for words in (
        "line 5: expected four",
        "line 6: expected four",
        "line 7: expected the name",
        "line 9: the box",
        "no area",
    ):
        assert words in messages
    assert "outside its image" in messages and "warning line 11: the same box again" in messages
    assert any(
        Path(problem.file).name == "gone.jpg" and "image missing" in problem.message for problem in source.problems
    )


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_with_other_columns(delimiter, tmp_path):
    columns = ("class", "xmin", "filename", "ymin", "xmax", "ymax")
    rows = [row.replace(",", delimiter) for row in csv_rows(columns)]
    write_text(tmp_path / "train.csv", delimiter.join(("Label", "X1", "Image", "Y1", "X2", "Y2")), *rows)
    for stem, size in SIZES.items():
        write_image(tmp_path / f"{stem}.jpg", size)
    scene(read(tmp_path))


def make_table(root, head, row):
    """The scene as a table with such a row for each box; {bw} and {bh} are its sides, {cx} and {cy} its centre."""
    lines = [head] if head else []
    for stem, (height, width) in SIZES.items():
        write_image(root / "images" / f"{stem}.jpg", (height, width))
        for (y1, x1, y2, x2), label in SCENE[stem]:
            values = {
                "stem": stem,
                "name": CLASSES[label],
                "width": width,
                "height": height,
                "bw": x2 - x1,
                "bh": y2 - y1,
            }
            values |= {"y1": y1, "x1": x1, "y2": y2, "x2": x2, "cy": (y1 + y2) / 2, "cx": (x1 + x2) / 2, "label": label}
            values |= {"px1": x1 / width, "py1": y1 / height, "px2": x2 / width, "py2": y2 / height}
            lines.append(row.format(**values))
    write_text(root / "labels.csv", *lines)


TABLES = {
    "corner and sides": ("image_name,x,y,w,h,label", "{stem}.jpg,{x1},{y1},{bw},{bh},{name}"),
    "width is the box's": ("image,xmin,ymin,width,height,label", "{stem}.jpg,{x1},{y1},{bw},{bh},{name}"),
    "centre and sides": ("filename,x_center,y_center,width,height,class", "{stem}.jpg,{cx},{cy},{bw},{bh},{name}"),
    "a list in a cell": (
        "image_id,width,height,bbox,label",
        '{stem},{width},{height},"[{x1}, {y1}, {bw}, {bh}]",{name}',
    ),
    "from zero": ("Img-Path,X0,Y0,X1,Y1,Class Name", "{stem}.jpg,{x1},{y1},{x2},{y2},{name}"),
    "AutoML": ("", "UNASSIGNED,gs://pets/{stem}.jpg,{name},{px1},{py1},,,{px2},{py2},,"),
    "class before the box": ("", "{stem}.jpg,{name},{x1},{y1},{x2},{y2}"),
    "Roboflow without names": ("", "{stem}.jpg,{width},{height},{name},{x1},{y1},{x2},{y2}"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_say_in_many_ways_where_a_box_is(kind, tmp_path):
    make_table(tmp_path, *TABLES[kind])
    source = read(tmp_path, "all")
    scene(source)
    assert all(re.search("parts of the image|of other folders", problem.message) for problem in source.problems)


def test_width_and_height_of_the_boxes_are_not_the_images(tmp_path):
    row = "{stem}.jpg,{x1},{y1},{x2},{y2},{bw},{bh},{name}"
    make_table(tmp_path, "filename,xmin,ymin,xmax,ymax,width,height,class", row)
    source = read(tmp_path, "all")
    scene(source)
    only(source.problems, "labels.csv", "those of the boxes", severity="warning")


def test_a_table_without_classes_is_of_one_which_may_be_named(tmp_path):
    make_table(tmp_path, "image_id,bbox", '{stem},"[{x1}, {y1}, {bw}, {bh}]"')
    source = read(tmp_path, "all")
    assert source.classes == ("0",) and [len(record.boxes) for record in source.records] == [2, 1]
    only(source.problems, "labels.csv", "no column of classes", severity="warning")
    assert read(tmp_path, "all", names=["wheat"]).classes == ("wheat",)


def test_numbers_in_a_table_are_classes_in_their_order(tmp_path):
    make_table(tmp_path, "filename,class,xmin,ymin,xmax,ymax", "{stem}.jpg,{label},{x1},{y1},{x2},{y2}")
    with (tmp_path / "labels.csv").open("a") as file:
        file.writelines(f"one.jpg,{number},{number},1,30,30\n" for number in range(2, 12))
    assert read(tmp_path, "all").classes == tuple(map(str, range(12)))
    names = [f"kind {number}" for number in range(12)]
    named = read(tmp_path, "all", names=names)
    write_text(tmp_path / "classes.txt", *names)
    beside = read(tmp_path, "all")
    for source in (named, beside):
        assert source.classes == tuple(names)
        assert source.records[0].labels.tolist() == [0, 1, *range(2, 12)]


@pytest.mark.parametrize("words", [("train", "val"), ("TRAIN", "VALIDATION"), ("Training", "test")])
def test_rows_may_name_their_split(words, tmp_path):
    make_table(tmp_path, "filename,subset,class,xmin,ymin,xmax,ymax", "{stem}.jpg,{stem},{name},{x1},{y1},{x2},{y2}")
    table = tmp_path / "labels.csv"
    assert splits(tmp_path) == ("all",)  # a column of that name that means something else
    table.write_text(table.read_text().replace(",one,", f",{words[0]},").replace(",two,", f",{words[1]},"))
    assert set(splits(tmp_path)) == set(words)
    first, second = (read(tmp_path, word) for word in words)
    assert [*boxes_of(first)] == ["one"] and [*boxes_of(second)] == ["two"]
    assert first.classes == second.classes == CLASSES


def test_a_table_may_end_its_lines_with_cr_alone(tmp_path):
    make_csv(tmp_path)
    for file in tmp_path.glob("*.csv"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r"))
    scene(read(tmp_path))


def test_a_table_of_other_columns_is_named_with_those_that_are_read(tmp_path):
    write_image(tmp_path / "images" / "one.jpg", SIZES["one"])
    write_text(tmp_path / "train.csv", "image_id,age,sex", "one,80,f")
    with pytest.raises(
        DataError, match=r"train.csv is a table of something else: expected columns filename.*'image_id,age"
    ):
        read(tmp_path)


def test_lines_of_an_image_and_its_boxes(tmp_path):
    """Roboflow's export for YOLOv4, and the lists of ports of YOLOv3 to Keras."""
    for split in ("train", "valid"):
        lines = []
        for stem, size in SIZES.items():
            write_image(tmp_path / split / f"{stem} a.jpg", size)
            lines.append(f"{stem} a.jpg" + "".join(f" {x1},{y1},{x2},{y2},{k}" for (y1, x1, y2, x2), k in SCENE[stem]))
        write_image(tmp_path / split / "empty.jpg", (30, 30))
        write_text(tmp_path / split / "_annotations.txt", *lines, "empty.jpg")
        write_text(tmp_path / split / "_classes.txt", *CLASSES)
    assert splits(tmp_path) == ("train", "valid")
    source = read(tmp_path, "val")
    assert source.classes == CLASSES and source.problems == ()
    expected = [[list(box) for box, _ in SCENE[stem]] for stem in SIZES]
    assert [record.boxes.tolist() for record in source.records] == [*expected, []]
    assert [record.labels.tolist() for record in source.records[:2]] == [[k for _, k in SCENE[s]] for s in SIZES]


def test_several_tables_of_a_split_are_one(tmp_path):
    for stem, size in SIZES.items():
        write_image(tmp_path / f"{stem}.jpg", size)
        rows = [row for row in csv_rows() if row.startswith(stem)]
        write_text(tmp_path / f"part_{stem}.csv", ",".join(CSV), *rows)
    scene(read(tmp_path, "all"))


def test_retinanets_rows_without_objects(tmp_path):
    for stem in (*SIZES, "empty"):
        write_image(tmp_path / f"{stem}.jpg", SIZES.get(stem, (30, 30)))
    write_text(
        tmp_path / "train.csv", *csv_rows(("filename", "xmin", "ymin", "xmax", "ymax", "class")), "empty.jpg,,,,,"
    )
    source = read(tmp_path)
    assert [len(record.boxes) for record in source.records] == [2, 1, 0]
    assert source.problems == ()


def test_labelme_shapes(tmp_path):
    make_labelme(tmp_path)
    shapes = [
        {"label": "cat", "shape_type": "circle", "points": [[40, 20], [43, 24]]},
        {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]]},  # a polygon, as old files do not say
        {"label": "cat", "shape_type": "line", "points": [[1, 1], [2, 2]]},
        {"label": "cat", "shape_type": "point", "points": [[1, 1]]},
        {"label": "cat", "shape_type": "polygon", "points": [[1, 1], [2, 2]]},
        {"label": None, "shape_type": "rectangle", "points": [[1, 1], [2, 2]]},
        {"label": "cat", "shape_type": "rectangle", "points": [[1, "x"], [2, 2]]},
        "no shape",
    ]
    write_json(tmp_path / "train/one.json", labelme_json("one", shapes=shapes))
    source = read(tmp_path)
    np.testing.assert_allclose(source.records[0].boxes, [[15, 35, 25, 45], [1, 1, 9, 9]])
    assert [problem.severity for problem in source.problems].count("warning") == 2
    assert [problem.severity for problem in source.problems].count("error") == 4
    (tmp_path / "train/two.jpg").unlink()
    write_json(tmp_path / "train/two.json", labelme_json("two", imageData="iVBORw0KGgo="))
    assert any("only inside the JSON" in problem.message for problem in read(tmp_path).problems)


# --- the cases themselves ---------------------------------------------------------------------------------------------

# split: images, boxes; classes; words that some problem has.
EXPECTED = {
    "pose2": ({"train": (3, 3), "val": (3, 3)}, ("cat",), None),
    "voc-difficult": ({"all": (3, 3)}, ("cat",), "Unspecified"),
    "coco-iscrowd-str": ({"default": (2, 2)}, ("cat",), None),
    "coco-rf": ({"train": (4, 4), "valid": (4, 4), "test": (4, 4)}, ("cod", "eel"), "no class of its own"),
    "coco-mixids": ({"default": (2, 2)}, ("cat",), None),
    "coco-floatids": ({"default": (2, 1)}, ("cat",), None),
    "coco-abs": ({"result": (3, 3)}, ("cat",), "ends of their names"),
    "labelstudio-yolo": ({"all": (3, 3)}, ("cat", "dog"), None),
    "yolo-idea": ({"train": (7, 29), "val": (3, 6)}, ("air", "bird"), None),
    "yolo-colab": ({"train": (7, 29), "val": (3, 6)}, ("air", "bird"), "is not there"),
    "cvat-yolo": ({"train": (3, 3), "valid": (3, 3)}, ("cat", "dog"), None),
    "darknet-lists": ({"train": (7, 29), "valid": (3, 6)}, ("air", "bird"), None),
    "ipynb-split": ({"train": (3, 3), "val": (3, 3)}, ("cat",), None),
    "same-stem": ({"all": (3, 2)}, ("cat",), "the same label file"),
    "tf-roboflow": ({"train": (3, 3), "valid": (3, 3), "test": (3, 3)}, ("person", "bicycle"), None),
    "tf-mscoco": ({"train": (3, 3), "val": (3, 3)}, ("person", "bicycle"), None),
    "voc-gbk": ({"all": (2, 2)}, ("cat", "猫"), None),
    "voc-rf": ({"train": (6, 6), "valid": (4, 4), "test": (2, 2)}, ("ant", "bee", "cow"), None),
    "yaml-octal": ({"train": (2, 2), "val": (2, 2)}, ("02146", "21008", "1.10"), None),
    "yaml-nc": ({"train": (2, 2), "val": (2, 2)}, ("a", "b"), "nc says 3 classes, but 2"),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_the_cases(case):
    if not CASES.is_dir():
        pytest.skip(f"no {CASES}")
    expected, classes, words = EXPECTED[case]
    dataset = DataSet(CASES / case)
    assert set(dataset.splits) == set(expected)
    for split, counts in expected.items():
        source = dataset.read(split)
        assert source.classes == classes
        assert (len(source.records), sum(len(record.boxes) for record in source.records)) == counts
        assert not any(record.crowd.any() for record in source.records)
        errors = [problem for problem in source.problems if problem.severity == "error"]
        assert errors == []
    assert words is None or any(words in problem.message for problem in source.problems)


def test_the_case_of_a_link(shared):
    source = read(CASES / "symlink")
    if (CASES / "symlink/images/train/more").is_dir():
        assert len(source.records) == 4 and source.problems == ()
    else:  # as a checkout without links has it
        assert any("written as text" in problem.message for problem in source.problems)


def test_the_case_of_two_classes_of_eighty(shared):
    source = read(CASES / "subset-classes", "val2017", images=shared / "data/coco-tiny/val2017")
    assert (len(source.records), source.classes) == (80, ("person", "dog"))
