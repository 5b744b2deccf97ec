"""Data sets as people have them: each kind of thing that was once taken for something else, and what is right."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from scenes import (
    CLASSES,
    MAKERS,
    SIZES,
    coco_json,
    make_coco_plain,
    make_coco_roboflow,
    make_csv,
    make_voc,
    make_voc_roboflow,
    make_yolo,
    make_yolo_flat,
    make_yolo_roboflow,
    only,
    scene,
    shape,
    voc_object,
    voc_xml,
    write_image,
    write_json,
    write_text,
    yolo_lines,
)

from tfyolo.config import Data
from tfyolo.data.readers import DataSet, faults, read, read_configured
from tfyolo.data.sources.source import DataError

CASES = SHARED / "cases"


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
