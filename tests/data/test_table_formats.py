"""Tables of boxes (CSV) and LabelMe: their columns, rows and shapes."""

import re
from pathlib import Path

import numpy as np
import pytest
from scenes import (
    CLASSES,
    CSV,
    SCENE,
    SIZES,
    boxes_of,
    csv_rows,
    labelme_json,
    make_csv,
    make_labelme,
    only,
    scene,
    write_image,
    write_json,
    write_text,
)

from tfyolo.data.readers import read, splits
from tfyolo.data.sources.source import DataError


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
