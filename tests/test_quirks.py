"""Data as other programs and people leave it: what each should be read as, and what is said of it."""

import re
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import write_json

from tfyolo.data import readers
from tfyolo.data.readers import DataSet
from tfyolo.data.sources.source import DataError

H, W = 48, 64
ROWS = ("0 .5 .5 .25 .25", "1 .4 .4 .2 .2")
BOTH = {"train": (2, 4), "val": (2, 4)}  # {split: images, boxes}
ONE = {"train": (2, 2)}
PETS = ("cat", "dog")

QUIRKS = {}


def quirk(splits, classes=PETS, words=None):
    """Registers a function of a folder that makes a data set in it. words: a pattern of a Problem; None: no error."""

    def add(make):
        QUIRKS[make.__name__.replace("_", " ")] = make, splits, classes, words
        return make

    return add


def image(path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, [H, W, 3], dtype=np.uint8)
    path.write_bytes(cv2.imencode(kind or path.suffix.lower(), pixels)[1].tobytes())


def encoded(path, *lines, end="\n", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


def yolo(
    root,
    images="images/{}",
    labels="labels/{}",
    *,
    rows=ROWS,
    splits=("train", "val"),
    names=PETS,
    suffixes=(".jpg", ".txt"),
):
    for split in splits:
        for number in range(2):
            image(root / images.format(split) / f"{split}{number}{suffixes[0]}")
            encoded(root / labels.format(split) / f"{split}{number}{suffixes[1]}", *rows)
    if names:
        encoded(root / "classes.txt", *names)


def described(root, *lines, **options):
    """A YOLO data set with a data.yaml of these lines."""
    yolo(root, names=None, **options)
    encoded(root / "data.yaml", *(lines or ("train: images/train", "val: images/val", "names: [cat, dog]")))


def thing(name, *corners, tag="bndbox"):
    inside = "".join(f"<{key}>{n}</{key}>" for key, n in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False))
    return f"<object><name>{name}</name><{tag}>{inside}</{tag}></object>"


def voc(root, *objects, size="", head="", encoding="utf-8"):
    for stem in "ab":
        image(root / f"JPEGImages/{stem}.jpg")
        text = f"{head}<annotation><filename>{stem}.jpg</filename>{size}{''.join(objects)}</annotation>"
        encoded(root / f"Annotations/{stem}.xml", text, encoding=encoding)


def coco(
    root, files, *, categories=("cat",), where="annotations/instances_train.json", boxes=None, ids=lambda number: number
):
    """files: names as they are written, with a box each unless `boxes` says otherwise."""
    images = [{"id": ids(number), "file_name": name} for number, name in enumerate(files, 1)]
    boxes = boxes or [
        {"image_id": ids(number), "category_id": 1, "bbox": [1, 1, 9, 9]} for number in range(1, len(files) + 1)
    ]
    write_json(
        root / where,
        {
            "images": images,
            "annotations": [{"id": number, **box} for number, box in enumerate(boxes)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(categories, 1)],
        },
    )


# --- texts ------------------------------------------------------------------------------------------------------------


@quirk(BOTH)
def ends_of_lines_and_byte_order_marks_of_all_kinds(root):
    yolo(root, names=("\ufeffcat\r", "dog\r"))
    for number, file in enumerate(sorted(root.glob("labels/*/*"))):
        encoded(file, "\ufeff" * (number % 2) + ROWS[0], ROWS[1], end=("\n", "\r\n", "\r")[number % 3])


@quirk(BOTH)
def texts_of_windows_in_utf16(root):
    described(root)
    for file in (*root.glob("labels/*/*"), root / "data.yaml"):
        encoded(file, *file.read_text().splitlines(), end="\r\n", encoding="utf-16")


@quirk(BOTH)
def numbers_with_tabs_and_points(root):
    yolo(root, rows=("0.0\t.5\t.5\t.2\t.2", "  1   .4 .4 .2 .2  "))


@quirk(BOTH, words="between commas")
def numbers_between_commas(root):
    yolo(root, rows=("0,.5,.5,.2,.2", "1, .4, .4, .2, .2"))


@quirk({"train": (2, 0), "val": (2, 0)}, words="expected `class cx cy w h`")
def decimal_commas(root):
    yolo(root, rows=("0 0,5 0,5 0,2 0,2",))


@quirk(BOTH, words="the last is taken for a confidence")
def predictions_with_a_confidence(root):
    yolo(root, rows=tuple(f"{row} 0.91" for row in ROWS))


@quirk({"train": (2, 2), "val": (2, 2)}, words="line 1: .*received 6 numbers")
def a_sixth_number_in_some_rows(root):
    yolo(root, rows=(f"{ROWS[0]} 0.91", ROWS[1]))


@quirk({"train": (2, 0), "val": (2, 0)}, words="expected parts of the image, 0..1, .* pixels")
def pixels_in_place_of_parts(root):
    yolo(root, rows=("0 32 24 10 10", "1 20 20 8 8"))


@quirk({"train": (2, 2), "val": (2, 2)}, words=r"unknown class 2: the names are 0\.\.1, numbers begin at 0")
def classes_counted_from_one(root):
    yolo(root, rows=("1 .5 .5 .2 .2", "2 .4 .4 .2 .2"))


@quirk({"train": (2, 2), "val": (2, 2)}, words="expected `class cx cy w h`, received 'class")
def a_first_row_of_names(root):
    yolo(root, rows=("class cx cy w h", ROWS[0]))


@quirk(BOTH)
def outlines_beside_boxes(root):
    yolo(root, rows=("0 .2 .2 .4 .2 .4 .4 .3 .5", ROWS[1]))


@quirk({"train": (2, 0), "val": (2, 0)})
def no_boxes_at_all(root):
    yolo(root, rows=())


@quirk({"train": (2, 2), "val": (2, 2)}, ("0",), "data.names=FILE gives them names")
def one_class_without_a_name(root):
    yolo(root, rows=ROWS[:1], names=None)


# --- what YAML and lists say ------------------------------------------------------------------------------------------


@quirk(BOTH, ("cat, big", "dog: small"))
def names_with_commas_and_colons(root):
    described(root, "train: images/train", "val: images/val", 'names: ["cat, big", "dog: small"]')


@quirk(BOTH, ("no", "1e3", "0x10", "2024-01-01", "1:30", "007", "~", "null"))
def names_that_yaml_takes_for_something_else(root):
    described(root, "train: images/train", "val: images/val", "names: [no, 1e3, 0x10, 2024-01-01, 1:30, 007, ~, null]")


@quirk(BOTH)
def names_in_a_file_that_the_yaml_names(root):
    described(root, "train: images/train", "val: images/val", "names: data/pets.names")
    encoded(root / "pets.names", *PETS)


@quirk(BOTH)
def paths_of_windows(root):
    described(root, "path: C:\\Users\\x\\pets", "train: images\\train", "val: images\\val", "names: [cat, dog]")


@pytest.mark.parametrize("path", ["C:\\Users\\x\\{}", "C:\\new\\train\\{}", "C:\\\\Users\\\\x\\\\{}"])
def test_paths_of_windows_in_double_quotes(path, tmp_path):
    """Where YAML takes their backslashes for escapes, of which some there are: a new line, a tab."""
    slash = "\\\\" if "\\\\" in path else "\\"
    lines = (f'{split}: "{path.format(f"images{slash}{split}")}"' for split in ("train", "val"))
    described(tmp_path, *lines, "names: [cat, dog]")
    assert counts(DataSet(tmp_path)) == BOTH


@quirk({"train": (4, 8), "val": (2, 4)})
def several_folders_of_a_split(root):
    described(
        root, "train: [images/a, images/b]", "val: images/val", "names: {0: cat, 1: dog}", splits=("a", "b", "val")
    )


@quirk(BOTH)
def cvats_lists_beside_a_data_yaml(root):
    described(root, "path: .", "train: train.txt", "val: val.txt", "names:", "  0: cat", "  1: dog")
    for split in ("train", "val"):
        encoded(root / f"{split}.txt", *(f"data/images/{split}/{split}{number}.jpg" for number in range(2)))


@quirk({"train": (2, 4), "valid": (2, 4)}, words="found by the ends of their names")
def darknets_lists_of_another_machine(root):
    there = "/content/darknet/data"
    yolo(root, "obj", "obj", splits=("train", "valid"), names=None)
    for split in ("train", "valid"):
        encoded(root / f"{split}.txt", *(f"{there}/obj/{split}{number}.jpg" for number in range(2)), end="\r\n")
    encoded(root / "obj.names", *PETS, "", end="\r\n")
    encoded(
        root / "obj.data",
        "classes=2",
        *(f"{key} = {there}/{key}.txt" for key in ("train", "valid")),
        f"names={there}/obj.names",
    )


# --- files and folders ------------------------------------------------------------------------------------------------


@quirk({"train": (9, 9), "val": (2, 4)})
def names_of_files_of_all_kinds(root):
    yolo(root, splits=("val",))
    for stem in ("-a", "#b", "[c]", "d'e\"f", "g,h", "i  j ", "k.l.m", "*n", "🐈%20"):
        image(root / f"images/train/{stem}.jpg")
        encoded(root / f"labels/train/{stem}.txt", ROWS[0])


@quirk({"train": (1, 2), "val": (1, 2)})
def accents_in_two_ways(root):
    for split in ("train", "val"):
        image(root / f"images/{split}" / unicodedata.normalize("NFD", f"é{split}.jpg"))
        encoded(root / f"labels/{split}" / unicodedata.normalize("NFC", f"é{split}.txt"), *ROWS)
    encoded(root / "classes.txt", *PETS)


@quirk(BOTH)
def suffixes_in_capitals(root):
    yolo(root, suffixes=(".JPG", ".TXT"))


@quirk({"Train": (2, 4), "Val": (2, 4)})
def folders_in_capitals(root):
    yolo(root, "Images/{}", "Labels/{}", splits=("Train", "Val"))


@quirk({"train": (4, 8), "val": (2, 4)})
def splits_in_parts(root):
    yolo(root, "images/train/{}", "labels/train/{}", splits=("one", "two"))
    yolo(root, splits=("val",))


@quirk(BOTH, words="the only one below")
def a_folder_within_a_folder_within_a_folder(root):
    yolo(root / "download" / "pets-v3")


@quirk({"train": (2, 4), "val": "not one image"})
def a_split_without_images(root):
    yolo(root, splits=("train",))
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir()


@quirk({"train": (2, 4), "val": (2, 4), "valid": (2, 4)})
def a_val_and_a_valid(root):
    yolo(root, splits=("train", "val", "valid"))


@quirk(BOTH, words="beside the file")
def ultralytics_path_to_the_folder_beside_the_file(root):
    yolo(root / "mine", names=None)
    encoded(root / "mine.yaml", "path: ../datasets/mine", "train: images/train", "val: images/val", "names: [cat, dog]")


@quirk(BOTH)
def what_systems_and_programs_leave_behind(root):
    yolo(root)
    for folder in [root, *(each for each in root.rglob("*") if each.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._x.jpg", "._x.txt"):
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
        image(folder / ".ipynb_checkpoints/train0-checkpoint.jpg")
        encoded(folder / ".ipynb_checkpoints/train0-checkpoint.txt", ROWS[0])
    for kind in ("images", "labels"):
        shutil.copytree(root / kind, root / "__MACOSX" / kind)
    for name in ("labels/train.cache", "README.roboflow.txt", "package.json", "notes.csv"):
        encoded(root / name, "[1, 2]")


@quirk(BOTH)
def images_that_are_links_to_a_store(root):
    yolo(root)
    store = root.parent / f"{root.name} store"
    store.mkdir()
    for file in root.glob("images/*/*"):
        shutil.move(file, store / file.name)
        file.symlink_to(store / file.name)


@quirk({"train": (8, 8), "val": (2, 4)})
def images_of_all_kinds(root):
    """Grey, of 16 bits, of four colours, with a palette, with alpha, of one bit, progressive, of TIFF."""
    yolo(root, splits=("val",))
    folder, rng = root / "images/train", np.random.default_rng(0)
    folder.mkdir()
    grey, colours = (rng.integers(0, 255, size, dtype=np.uint8) for size in ((H, W), (H, W, 3)))
    Image.fromarray(grey).save(folder / "grey.jpg")
    cv2.imwrite(str(folder / "deep.png"), grey.astype("uint16") * 257)
    cv2.imwrite(str(folder / "deep.tif"), grey.astype("uint16") * 257)
    (folder / "deep.tif").rename(folder / "tiff.tif")
    Image.fromarray(colours).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.dstack([colours, grey])).save(folder / "alpha.png")
    Image.fromarray(colours).convert("P").save(folder / "palette.png")
    Image.fromarray(grey > 99).save(folder / "bit.png")
    Image.fromarray(colours).save(folder / "progressive.jpg", progressive=True)
    for file in folder.iterdir():
        encoded(root / f"labels/train/{file.stem}.txt", ROWS[0])


@quirk({"train": (1, 2), "val": (2, 4)}, words="not an image")
def an_image_without_a_byte(root):
    yolo(root)
    (root / "images/train/train0.jpg").write_bytes(b"")


@quirk({"train": (1, 2), "val": (2, 4)}, words="not an image")
def a_page_that_a_server_sent_for_an_image(root):
    yolo(root)
    (root / "images/train/train0.jpg").write_text("<!DOCTYPE html><title>404</title>")


# --- VOC --------------------------------------------------------------------------------------------------------------


@quirk({"all": (2, 2)}, ("cat",))
def accents_in_two_ways_in_voc(root):
    voc(root, thing("cat", 2, 2, 9, 9))
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages" / unicodedata.normalize("NFD", "é.jpg"))
    (root / "Annotations/a.xml").rename(root / "Annotations" / unicodedata.normalize("NFC", "é.xml"))


@quirk({"all": (2, 4)}, ("cat",))
def corners_that_are_no_whole_numbers(root):
    voc(root, thing("cat", "2.0", "2.5", "20.25", "20.75"), thing(" cat ", 3, 3, 9, 9))


@quirk({"all": (2, 0)}, ("cat",), "has no area")
def corners_the_wrong_way_round(root):
    voc(root, thing("cat", 20, 20, 2, 2))


@quirk({"all": (2, 2)}, ("person",))
def parts_of_objects(root):
    part = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>8</xmax><ymax>8</ymax></bndbox></part>"
    voc(root, thing("person", 2, 2, 20, 20).replace("</object>", f"{part}</object>"))


@quirk({"all": (2, 2)}, ("cat",), r"object 2 \(cat\): expected <name> and <bndbox>")
def turned_boxes_of_another_kind(root):
    voc(root, thing("cat", 2, 2, 9, 9), thing("cat", tag="robndbox"))


@quirk({"all": (2, 2)}, ("cat",))
def a_size_of_zero(root):
    voc(root, thing("cat", 2, 2, 9, 9), size="<size><width>0</width><height>0</height></size>")


@quirk({"all": (2, 2)}, ("cat",))
def a_declared_type_of_document(root):
    voc(root, thing("cat", 2, 2, 9, 9), head="\ufeff<?xml version='1.0'?>\n<!DOCTYPE annotation>\n")


@quirk({"all": (2, 2)}, ("Äpfel",))
def a_declared_encoding(root):
    voc(root, thing("Äpfel", 2, 2, 9, 9), head="<?xml version='1.0' encoding='ISO-8859-1'?>", encoding="latin-1")


@quirk({"all": "expected UTF-8, or a first line that says otherwise"}, None)
def an_encoding_that_is_not_declared(root):
    voc(root, thing("狗", 2, 2, 9, 9), encoding="gbk")


# --- COCO -------------------------------------------------------------------------------------------------------------


@quirk({"train": (4, 4)}, ("cat",))
def names_as_the_web_writes_them(root):
    for name in ("my cat.jpg", "a%20b.jpg", "ü+1.jpg", "d.jpg"):
        image(root / "images" / name)
    coco(root, ["my%20cat.jpg", "a%20b.jpg", "%C3%BC+1.jpg", "https://host/bucket/images/d.jpg?token=a%2Fb"])


@quirk({"result": (2, 2)}, ("cat",))
def label_studios_paths(root):
    for stem in ("a1-one", "b2-two"):
        image(root / f"images/{stem}.jpg")
    coco(root, ["images\\a1-one.jpg", "../../label-studio/data/media/upload/1/b2-two.jpg"], where="result.json")


@quirk(ONE, ("cat",), "have other suffixes")
def images_that_were_converted(root):
    for stem in "ab":
        image(root / f"images/{stem}.png")
    coco(root, ["a.jpg", "b.jpg"])


@quirk({"train": (1, 1)}, ("cat",), "is not there")
def an_image_that_was_not_converted_is_not_another(root):
    for name in ("a.jpg", "b.png"):
        image(root / "images" / name)
    coco(root, ["a.jpg", "b.jpg"])


@quirk(ONE, ("cat",))
def several_folders_of_images(root):
    image(root / "images/one/a.jpg")
    image(root / "images/two/b.jpg")
    coco(root, ["a.jpg", "b.jpg"])


@quirk({"train": (1, 0)}, ("cat",), "no image has its image_id 139, there is '000139'")
def ids_with_zeros_before_them(root):
    image(root / "images/a.jpg")
    coco(
        root, ["a.jpg"], ids=lambda number: "000139", boxes=[{"image_id": 139, "category_id": 1, "bbox": [1, 1, 9, 9]}]
    )


@quirk({"train": (1, 3)}, ("cat",))
def words_for_crowds(root):
    image(root / "images/a.jpg")
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": word} for word in ("0", False, "false")]
    coco(root, ["a.jpg"], boxes=boxes)


@quirk({"train": (1, 1)}, ("cat",), "is not finite")
def a_box_that_is_no_number(root):
    image(root / "images/a.jpg")
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [corner, 1, 9, 9]} for corner in (float("nan"), 1)]
    coco(root, ["a.jpg"], boxes=boxes)


@quirk(ONE, ("cat",))
def json_with_a_byte_order_mark(root):
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
    coco(root, ["a.jpg", "b.jpg"])
    file = root / "annotations/instances_train.json"
    encoded(file, file.read_text(), encoding="utf-16")


# --- tables and labelme -----------------------------------------------------------------------------------------------


@quirk(ONE, ("cat, big", "dog"))
def commas_in_a_table(root):
    image(root / "a.jpg")
    image(root / "b, c.jpg")
    encoded(
        root / "train.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        'a.jpg,64,48,"cat, big",1,1,20,20',
        '"b, c.jpg",64,48,dog,1,1,20,20',
    )


@quirk(ONE, ("/m/01", "/m/02"), "parts of the image")
def open_images_table(root):
    for stem in "ab":
        image(root / f"train/{stem}.jpg")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded"
    encoded(root / "train.csv", head, "a,x,/m/01,1,0.25,0.5,0.5,1,0", "b,x,/m/02,1,0.25,0.5,0.5,1,1")


@quirk(ONE)
def a_table_of_corners_and_sides(root):
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
    head = "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height"
    encoded(root / "train.csv", head, "cat,16,24,16,24,a.jpg,64,48", "dog,16,24,16,24,b.jpg,64,48")


@quirk(ONE)
def a_table_with_semicolons(root):
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
    rows = (
        "\ufeffFilename;Width;Height;Class;Xmin;Ymin;Xmax;Ymax",
        "a.jpg;64;48;cat;1;2;20;10",
        "b.jpg;64;48;dog;3;4;20;10",
    )
    encoded(root / "train.csv", *rows, end="\r\n")


@quirk({"all": (2, 2)}, ("cat",))
def labelme_on_windows(root):
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
        shape = {"label": "cat", "points": [[20, 20], [1, 1]], "shape_type": "rectangle"}
        write_json(
            root / f"json/{stem}.json", {"shapes": [shape], "imagePath": f"..\\images\\{stem}.jpg", "imageData": None}
        )


def counts(dataset):
    """{split: (images, boxes), or the error}."""
    found = {}
    for split in dataset.splits:
        try:
            source = dataset.read(split)
        except DataError as error:
            found[split] = str(error)
        else:
            found[split] = len(source.records), sum(len(record.boxes) for record in source.records)
    return found


@pytest.mark.parametrize("name", QUIRKS)
def test_data_of_other_programs_is_read_or_reported(name, tmp_path):
    make, splits, classes, words = QUIRKS[name]
    root = tmp_path / "pets"
    root.mkdir()
    make(root)
    dataset = DataSet(root)
    found = counts(dataset)
    assert found.keys() == splits.keys()
    for split, expected in splits.items():
        assert expected in found[split] if isinstance(expected, str) else expected == found[split]
    sources = [dataset.read(split) for split, expected in splits.items() if not isinstance(expected, str)]
    assert {source.classes for source in sources} <= {classes}
    problems = [problem for source in sources for problem in source.problems]
    if words:
        assert any(re.search(words, problem.message) for problem in problems)
    else:
        assert [
            problem for problem in problems if problem.severity == "error" or "without XML" in problem.message
        ] == []
    for source in sources:
        for record in source.records:
            assert (record.boxes >= 0).all() and (record.boxes <= np.tile(record.size, 2)).all()


@pytest.mark.parametrize("make", [open_images_table, a_table_of_corners_and_sides], ids=lambda make: make.__name__)
def test_boxes_of_tables_that_are_written_otherwise(make, tmp_path):
    make(tmp_path)
    for record in readers.read(tmp_path).records:
        np.testing.assert_allclose(record.boxes, [[24, 16, 48, 32]])


def test_boxes_with_a_confidence_are_the_boxes_without(tmp_path):
    predictions_with_a_confidence(tmp_path / "with")
    yolo(tmp_path / "without")
    for one, other in zip(*(readers.read(tmp_path / name).records for name in ("with", "without")), strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
