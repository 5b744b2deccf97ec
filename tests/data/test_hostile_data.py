"""Data files that are made to do harm: an error or a Problem that names the file, at once and in little memory."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from scenes import (
    MAKERS,
    SIZES,
    coco_json,
    labelme_json,
    make_coco_plain,
    make_csv,
    make_labelme,
    make_voc,
    make_yolo,
    make_yolo_flat,
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

from tfyolo.data import readers
from tfyolo.data.readers import read
from tfyolo.data.sources.source import DataError
from tfyolo.messages import printable

HUGE = {"400 digits": "9" * 400, "5,000 digits": "9" * 5000}


@pytest.fixture(autouse=True)
def in_little_memory():
    """6 GB more than was in use, some for TensorFlow's threads: too much is a MemoryError, not a dead machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (6 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_stray_class_number_is_no_class(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    write_text(
        tmp_path / "labels/train/one.txt", *yolo_lines("one"), "999999999 .5 .5 .2 .2", f"{'9' * 300} .5 .5 .2 .2"
    )
    source = read(tmp_path)
    assert source.classes == ("0", "1")
    errors = [problem for problem in source.problems if problem.severity == "error"]
    assert [Path(problem.file).name for problem in errors] == ["one.txt"] * 2
    assert "line 3: unknown class 999999999: data without names has at most 10,000 classes" in errors[0].message
    assert len(errors[1].message) < 200


def test_many_more_classes_than_occur_are_told(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    write_text(tmp_path / "labels/train/one.txt", *yolo_lines("one"), "9000 .5 .5 .2 .2")
    only(read(tmp_path).problems, "train", "0 to 9000, of which 3 occur", severity="warning")


@pytest.mark.parametrize("number", ["1000000000", "0", "-1", "x", "[1]", *HUGE.values()])
def test_a_number_of_classes_is_bounded_and_named_with_its_line(number, tmp_path):
    make_yolo_roboflow(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\n\nnc: {number}\n")
    for path in (tmp_path / "data.yaml", tmp_path):
        with pytest.raises(
            DataError, match=r"data\.yaml:4: nc: expected the number of classes, 1 to 100,000, received"
        ) as error:
            read(path, format="yolo")
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("digits", HUGE)
def test_huge_numbers_are_named_and_the_rest_is_read(digits, tmp_path):
    number = HUGE[digits]
    make_yolo_flat(tmp_path / "yolo")
    write_text(tmp_path / "yolo/labels/one.txt", *yolo_lines("one"), f"{number} .5 .5 .2 .2", f"0 {number} .5 .2 .2")
    make_voc(tmp_path / "voc")
    xml = voc_xml(
        "one", objects=voc_object("cat", 11, 21, 30, 60) + voc_object("cat", 11, 21, number, 60), size=(number, number)
    )
    write_text(tmp_path / "voc/Annotations/one.xml", xml)
    make_csv(tmp_path / "csv")
    write_text(
        tmp_path / "csv/train_labels.csv",
        "filename,class,xmin,ymin,xmax,ymax",
        f"one.jpg,cat,1,1,9,{number}",
        "two.jpg,cat,1,1,9,9",
    )
    make_labelme(tmp_path / "labelme")
    content = json.dumps(labelme_json("one", imageHeight=10)).replace('"imageHeight": 10', f'"imageHeight": {number}')
    (tmp_path / "labelme/train/one.json").write_text(content)
    make_coco_plain(tmp_path / "coco")
    content = json.dumps(coco_json(annotations=[shape(), shape(id=100, bbox=[1, 1, 77, 1])])).replace("77", number)
    (tmp_path / "coco/train.json").write_text(content)
    for kind in ("yolo", "voc", "csv", "labelme", "coco"):
        if (kind, digits) == ("coco", "5,000 digits"):
            with pytest.raises(DataError, match="not valid JSON: Exceeds the limit"):
                read(tmp_path / kind)
            continue
        source = read(tmp_path / kind, "all" if kind == "yolo" else "train")
        assert source.problems if kind != "labelme" or digits == "5,000 digits" else len(source.records) == 2
        for problem in source.problems:
            assert len(problem.message) < 400
        for record in source.records:
            assert record.size == SIZES[Path(record.path).stem]


def test_stated_sizes_beyond_belief_are_not_believed(tmp_path):
    make_coco_plain(tmp_path)
    content = coco_json()
    for image in content["images"]:
        image["height"] = image["width"] = 10**9
    write_json(tmp_path / "train.json", content)
    assert [record.size for record in read(tmp_path).records] == list(SIZES.values())


def test_areas_beyond_belief_are_the_boxes(tmp_path):
    make_coco_plain(tmp_path)
    areas = [1e300, -5, "x", 10**200]
    annotations = [shape(id=number, area=area) for number, area in enumerate(areas) if area != "x"]
    write_json(tmp_path / "train.json", coco_json(annotations=annotations))
    assert read(tmp_path).records[0].areas.tolist() == [100] * 3


# --- structure --------------------------------------------------------------------------------------------------------


def test_json_without_end(tmp_path):
    deep = '{"images": [], "annotations": [], "categories": ' + "[" * 200_000
    for name in ("a.json", "folder/annotations/instances_train.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(deep)
    for path in (tmp_path / "a.json", tmp_path / "folder"):
        with pytest.raises(DataError, match=r"nested too deeply|not valid JSON"):
            read(path, "a" if path.suffix else "train")
    make_labelme(tmp_path / "labelme")
    (tmp_path / "labelme/train/one.json").write_text('{"shapes": ' + "[" * 200_000)
    (problem,) = read(tmp_path / "labelme").problems
    assert "nested too deeply" in problem.message


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB + "train: *a11\nnames: [cat]", "train: expected a path, received a list of 10"),
        (BOMB + "train: train/images\nnames: *a11", "names: expected a list of class names"),
        (BOMB + "train: train/images\nnames: {0: *a11}", "names: expected a list of class names"),
        (BOMB + "train: train/images\nnames: [cat]\nnc: *a11", "nc: expected the number of classes"),
        (BOMB + "train: train/images\nnames: [cat]\nkpt_shape: *a11", "kpt_shape: expected"),
        ("train: &t [*t]\nnames: [cat]", "names nothing|expected a path"),
        ("train: " + "[" * 5000 + "\nnames: [cat]", "nested too deeply|not valid YAML"),
        ("train: " + "{a: " * 5000 + "\nnames: [cat]", "nested too deeply|not valid YAML"),
        ("train: x\nnames: [cat]\n" + "- " * 5000, "nested too deeply|not valid YAML"),
        ("train: *nothing\nnames: [cat]", "names nothing|not valid YAML"),
        ("train: 2024-02-31\nnames: [cat]", "2024-02-31 is not there"),
        ("train: !!python/object/apply:os.system [x]\nnames: [cat]", "is not there"),
        ("train: !!binary x\nnames: [cat]", "is not there"),
        ("? [a, b]\n: c\ntrain: nowhere\nnames: [cat]", "nowhere is not there"),
        ("train: nowhere\nnames: [cat]\nx: " + "y" * (5 << 20), "expected at most"),
        ("train: a\0b\nnames: [cat]", "not valid YAML|is not there"),
        ("train: " + "a/" * 3000 + "\nnames: [cat]", "is not there"),
        ("train: x\nnames: " + str(["c"] * 100_001), "expected at most 100,000 classes"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_that_is_made_to_do_harm(text, words, tmp_path):
    make_yolo_roboflow(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(DataError, match=words) as error:
        read(tmp_path / "data.yaml")
    assert len(str(error.value)) < 20_000 and time.process_time() - began < 5


LAUGHS = "<!DOCTYPE a [" + "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10 if n else "ha"}">' for n in range(12))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('<?xml version="1.0" encoding="utf-32"?><annotation/>', "not valid XML|expected"),
        ('<?xml version="1.0" encoding="utf-7"?><annotation/>', "expected an encoding of text"),
        ('<?xml version="1.0" encoding="idna"?><annotation/>', "expected an encoding of text"),
        ('<?xml version="1.0" encoding="punycode"?>' + "<annotation>" + "x" * 200_000, "expected an encoding of text"),
        ('<?xml version="1.0" encoding="rot13"?><annotation/>', "not valid XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not valid XML"),
        ('<?xml version="1.0" encoding="zlib_codec"?><annotation/>', "not valid XML"),
        (LAUGHS + "]><annotation><filename>&b11;</filename></annotation>", "entities"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
            "entities",
        ),
        ("<annotation>" + "<a>" * 300_000, "not valid XML"),
        ("<annotation><object>" + "<part>" * 50_000 + "</part>" * 50_000 + "</object></annotation>", "expected <name>"),
        ("<annotation>" + " " * (17 << 20), "expected at most"),
        ("", "not valid XML"),
        ("\0\0\0", "not valid XML"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_xml_that_is_made_to_do_harm(content, words, tmp_path):
    make_voc(tmp_path)
    (tmp_path / "Annotations/one.xml").write_text(content)
    began = time.process_time()
    (problem,) = read(tmp_path).problems
    assert Path(problem.file).name == "one.xml"
    assert any(word in problem.message for word in words.split("|"))
    assert time.process_time() - began < 5 and "root:" not in problem.message


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-le", "utf-16-be"])
def test_xml_in_rare_encodings_of_text(encoding, tmp_path):
    make_voc(tmp_path)
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + voc_xml("one")
    (tmp_path / "Annotations/one.xml").write_bytes(text.encode(encoding))
    source = read(tmp_path)
    assert source.problems == () or "not valid XML" in source.problems[0].message


def test_a_label_map_without_end(tmp_path):
    root = MAKERS["tfrecord roboflow"](tmp_path)
    (root / "train/Pets_label_map.pbtxt").write_text("item {" * 500_000)
    began = time.process_time()
    read(root)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"categories": 3}', '{"categories": [{"id": "x", "name": 3}], "integer_ids": 1}', "[" * 100_000],
)
def test_a_description_of_shards_that_is_none(content, tmp_path):
    root = MAKERS["tfrecord"](tmp_path)
    (root / "train.json").write_text(content)
    with pytest.raises(DataError, match=r"write them anew|write the shards anew"):
        read(root)


# --- files ------------------------------------------------------------------------------------------------------------


def test_fifos_are_nobodys_data(tmp_path):
    """Where reading would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        read(tmp_path / "fifo")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        read("/dev/zero")
    root = make_yolo_obj_data(tmp_path / "data")
    for name in ("obj/one.txt", "obj/three.jpg", "more.yaml", "more.csv", "more.json", "more.xml", "more.tfrecord"):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)
    write_text(root / "train.txt", "obj/one.jpg", "obj/two.jpg", "obj/three.jpg")
    source = read(root)
    assert [len(record.boxes) for record in source.records] == [0, 1]
    for name in ("obj.names", "train.txt"):
        (root / name).unlink()
        os.mkfifo(root / name)
        with pytest.raises(DataError, match=r"is not there|cannot be read"):
            read(root)
    with pytest.raises(DataError, match="not a regular file"):
        read(make_yolo(tmp_path / "more"), names=tmp_path / "fifo")


def secret(tmp_path):
    (tmp_path / "secret").write_text("root:x:0:0:the password\n")
    write_image(tmp_path / "private.jpg", (30, 30))
    return tmp_path / "data"


OUT = [
    "../private.jpg",
    "../../../../../../../../../etc/passwd",
    "{}/private.jpg",
    "images/../../private.jpg",
    "..\\private.jpg",
]


@pytest.mark.parametrize("path", OUT)
def test_paths_in_annotations_stay_inside(path, tmp_path):
    root, path = secret(tmp_path), path.format(tmp_path)
    make_coco_plain(root / "coco")
    content = coco_json()
    content["images"].append({"id": 99, "file_name": path})
    write_json(root / "coco/train.json", content)
    make_voc(root / "voc")
    write_text(root / "voc/Annotations/three.xml", voc_xml("one", filename=path))
    write_text(root / "voc/ImageSets/Main/train.txt", *SIZES, "three", path)
    make_csv(root / "csv")
    write_text(
        root / "csv/train_labels.csv",
        "filename,class,xmin,ymin,xmax,ymax",
        f"{path},cat,1,1,9,9",
        "one.jpg,cat,1,1,9,9",
    )
    make_labelme(root / "labelme")
    write_json(root / "labelme/train/three.json", labelme_json("one") | {"imagePath": path})
    make_yolo_obj_data(root / "yolo")
    write_text(root / "yolo/train.txt", "obj/one.jpg", "obj/two.jpg", path)
    for kind in ("coco", "voc", "csv", "labelme", "yolo"):
        source = read(root / kind)
        assert source.problems
        for record in source.records:
            assert Path(record.path).resolve().is_relative_to(root.resolve())
        assert not any("password" in problem.message or "root:" in problem.message for problem in source.problems)


@pytest.mark.parametrize(
    "entry", ["../secret", "{}/secret", "../../../../../../../../etc/passwd", "/etc/passwd", "..\\secret"]
)
def test_lists_and_names_stay_inside(entry, tmp_path):
    root, entry = secret(tmp_path), entry.format(tmp_path)
    make_yolo_obj_data(root / "darknet")
    write_text(root / "darknet/obj.data", f"train = {entry}", "valid = valid.txt", "names = obj.names")
    make_yolo_roboflow(root / "yaml")
    write_text(root / "yaml/data.yaml", f"train: {entry}", "val: ../valid/images", "names: [cat, dog]")
    for path in (root / "darknet", root / "darknet/obj.data", root / "yaml", root / "yaml/data.yaml"):
        with pytest.raises(DataError, match=r"lies outside of|is not there") as error:
            read(path)
        assert "password" not in str(error.value) and "root:" not in str(error.value)
    write_text(root / "darknet/obj.data", "train = train.txt", f"names = {entry}")
    with pytest.raises(DataError, match=r"lies outside of|is not there"):
        read(root / "darknet")


def test_paths_may_lead_outside_if_that_is_said(tmp_path):
    """And to the folders that a data file means which is named itself."""
    make_yolo_roboflow(tmp_path / "pets")
    root = tmp_path / "config"
    root.mkdir()
    lines = (f"path: {tmp_path}/pets", "train: train/images", "val: valid/images", "names: [cat, dog]")
    write_text(root / "data.yaml", *lines)
    with pytest.raises(DataError, match=r"lies outside of .*config, the data's folder; if that is meant: outside=true"):
        read(root)
    for source in (read(root, outside=True), read(root / "data.yaml")):
        assert source.problems == () and len(source.records) == 2
    write_text(root / "data.yaml", "train: train.txt", "names: [cat, dog]")
    write_text(root / "train.txt", *(f"{tmp_path}/pets/train/images/{stem}.jpg" for stem in SIZES))
    with pytest.raises(DataError, match=r"not one image.*\n.*image missing"):
        read(root / "data.yaml")
    assert [len(record.boxes) for record in read(root / "data.yaml", outside=True).records] == [2, 1]


# --- names ------------------------------------------------------------------------------------------------------------

ESCAPE = "\x1b[31mcat\x1b[0m\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ESCAPE, "\\x1b[31mcat\\x1b[0m\\x07"),
        ("a\nError: b", "a\\nError: b"),
        ("\u202ecod", "\\u202ecod"),
        ("\udcff", "\\udcff"),
        ("猫 é\u3000\u200d", "猫 é\u3000\u200d"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(text, keep="\n").encode()


def test_control_characters_are_shown_escaped(tmp_path):
    make_coco_plain(tmp_path / "coco")
    content = coco_json(categories=[{"id": 3, "name": ESCAPE}, {"id": 90, "name": "dog\nError: no"}])
    content["images"].append({"id": 50, "file_name": ESCAPE})
    content["annotations"].append(shape(image_id=ESCAPE))
    write_json(tmp_path / "coco/train.json", content)
    source = read(tmp_path / "coco")
    assert source.classes == ("\\x1b[31mcat\\x1b[0m\\x07", "dog\\nError: no")
    shown = "\n".join(f"{problem.file} {problem.message}" for problem in source.problems) + readers.faults(
        source, "training"
    )
    assert "\x1b" not in shown and "\\x1b" in shown
    make_yolo(tmp_path / f"yolo{ESCAPE}")
    (tmp_path / f"yolo{ESCAPE}" / "labels/train" / f"{ESCAPE}.txt").write_text("0 .5 .5 .1 .1")
    source = read(tmp_path / f"yolo{ESCAPE}")
    assert "\x1b" not in "".join(f"{problem.file}{problem.message}" for problem in source.problems) + source.name
    with pytest.raises(DataError) as error:
        read(tmp_path / f"yolo{ESCAPE}", "test")
    assert "\x1b" not in str(error.value)


def test_names_that_are_no_text(tmp_path):
    """Bytes that are not UTF-8 in the name of a file: it is read, and can be told of."""
    make_yolo(tmp_path)
    folder = os.fsencode(tmp_path / "images/train")
    os.rename(os.path.join(folder, b"one.jpg"), os.path.join(folder, b"\xff.jpg"))
    source = read(tmp_path)
    assert len(source.records) == 2
    assert json.dumps([problem._asdict() for problem in source.problems], ensure_ascii=False).encode()
