"""Readers: a small scene in all formats, everything that can be wrong in each, and the real data beside the project."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from tfyolo.config import Data
from tfyolo.data import readers, write_tfrecords
from tfyolo.data.headers import image_size
from tfyolo.data.readers import FORMATS, read, read_configured, splits
from tfyolo.data.sources.source import DataError, SplitError

SHARED = Path(__file__).parents[2] / "shared" / "data"

# Two pictures a split, H x W = 40 x 80 and 60 x 50, in every format; boxes are y1 x1 y2 x2, labels those of CLASSES.
CLASSES = ("cat", "dog")
SIZES = {"one": (40, 80), "two": (60, 50)}
SCENE = {"one": [((10, 20, 30, 60), 0), ((0, 0, 20, 40), 1)], "two": [((15, 5, 45, 30), 1)]}


def picture(path, size, suffix_of_content=".jpg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(size)).integers(0, 255, [*size, 3], dtype=np.uint8)
    path.write_bytes(cv2.imencode(suffix_of_content, pixels)[1].tobytes())


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def coco_json(**more):
    images = [
        {"id": 7 + n, "file_name": f"{s}.jpg", "height": SIZES[s][0], "width": SIZES[s][1]} for n, s in enumerate(SIZES)
    ]
    annotations = []
    for number, stem in enumerate(SCENE):
        for (y1, x1, y2, x2), label in SCENE[stem]:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": 7 + number,
                    "category_id": (3, 90)[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    # The order of categories is not that of their ids, and the ids have a gap.
    categories = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories} | more


def voc_xml(stem, filename=None, objects=None, size=None):
    H, W = size or SIZES[stem]
    things = objects
    if things is None:
        scene = [(CLASSES[label], box) for box, label in SCENE[stem]]
        things = "".join(voc_object(name, y1 + 1, x1 + 1, y2, x2) for name, (y1, x1, y2, x2) in scene)
    return (
        f"<annotation><filename>{filename or stem + '.jpg'}</filename>"
        f"<size><width>{W}</width><height>{H}</height></size>"
        f"{things}</annotation>"
    )


def voc_object(name, ymin, xmin, ymax, xmax, extra=""):
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def yolo_lines(stem):
    H, W = SIZES[stem]
    return [
        f"{label} {(x1 + x2) / 2 / W:.9f} {(y1 + y2) / 2 / H:.9f} {(x2 - x1) / W:.9f} {(y2 - y1) / H:.9f}"
        for (y1, x1, y2, x2), label in SCENE[stem]
    ]


def make_coco(root):
    for split in ("train2017", "val2017"):
        write_json(root / f"annotations/instances_{split}.json", coco_json())
        write_json(root / f"annotations/captions_{split}.json", {"images": [], "annotations": []})
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
    return root


def make_coco_roboflow(root):
    for split in ("train", "valid"):
        write_json(root / split / "_annotations.coco.json", coco_json())
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
    return root


def make_coco_plain(root):
    for split in ("train", "val"):
        write_json(root / f"{split}.json", coco_json())
    for stem, size in SIZES.items():
        picture(root / "images" / f"{stem}.jpg", size)
    return root


def make_voc(root):
    for stem, size in SIZES.items():
        picture(root / "JPEGImages" / f"{stem}.jpg", size)
        write_text(root / f"Annotations/{stem}.xml", voc_xml(stem))
    write_text(root / "ImageSets/Main/train.txt", *SIZES)
    write_text(root / "ImageSets/Main/val.txt", *SIZES)
    write_text(root / "ImageSets/Main/cat_train.txt", "one  1", "two -1")
    return root


def make_voc_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
            write_text(root / split / f"{stem}.xml", voc_xml(stem))
    return root


def make_yolo(root):
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            picture(root / "images" / split / f"{stem}.jpg", size)
            write_text(root / "labels" / split / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "classes.txt", *CLASSES)
    return root


def make_yolo_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            picture(root / split / "images" / f"{stem}.jpg", size)
            write_text(root / split / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "data.yaml", "train: ../train/images", "val: ../valid/images", "nc: 2", "names: ['cat', 'dog']")
    return root


def make_yolo_flat(root):
    for stem, size in SIZES.items():
        picture(root / "images" / f"{stem}.jpg", size)
        write_text(root / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "labels/classes.txt", *CLASSES)
    return root


def make_yolo_lists(root):
    for stem, size in SIZES.items():
        picture(root / "obj" / f"{stem}.jpg", size)
        write_text(root / "obj" / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "train.txt", *(f"obj/{stem}.jpg" for stem in SIZES))
    write_text(root / "data.yaml", "train: train.txt", "val: [train.txt]", "names: {0: cat, 1: dog}")
    return root


def make_tfrecord(root):
    source = read(make_coco(root / "coco"))
    for split in ("train", "val"):
        write_tfrecords.write(source._replace(split=split), root / "records", shards=2, progress=False)
    return root / "records"


def make_tfrecord_roboflow(root):
    """A folder a split, whose files are called after the data; classes in a label map."""
    made = make_tfrecord(root / "made")
    for split, folder in (("train", root / "train"), ("val", root / "valid")):
        folder.mkdir()
        shards = sorted(made.glob(f"{split}-*.tfrecord"))
        (folder / "Pets.tfrecord").write_bytes(b"".join(shard.read_bytes() for shard in shards))
        items = ((3, "cat", "cat"), (90, "/m/0bt9lr", "dog"))
        lines = (f'item {{\n  name: "{n}",\n  id: {i}\n  display_name: "{d}"\n}}' for i, n, d in items)
        write_text(folder / "Pets_label_map.pbtxt", *lines)
    shutil.rmtree(root / "made")
    return root


def make_coco_of_several_folders(root):
    """Images in two folders of names that say nothing."""
    for split in ("train", "val"):
        write_json(root / f"annotations/instances_{split}.json", coco_json())
    for folder, stem in (("batch1", "one"), ("batch2", "two")):
        picture(root / folder / f"{stem}.jpg", SIZES[stem])
    return root


def make_coco_of_cvat(root):
    for split in ("train", "val"):
        write_json(root / f"annotations/instances_{split}.json", coco_json())
        for stem, size in SIZES.items():
            picture(root / "images" / split / f"{stem}.jpg", size)
    return root


def make_voc_annots(root):
    """annots/ beside images/, each with a folder a split."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            picture(root / "images" / split / f"{stem}.jpg", size)
            write_text(root / "annots" / split / f"{stem}.xml", voc_xml(stem))
    return root


def make_voc_below(root):
    """A whole VOC folder a split."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            picture(root / split / "JPEGImages" / f"{stem}.jpg", size)
            write_text(root / split / "Annotations" / f"{stem}.xml", voc_xml(stem))
    return root


def make_voc_of_cvat(root):
    """Names in the lists that have folders, which Annotations and JPEGImages have, too."""
    for stem, size in SIZES.items():
        picture(root / "JPEGImages" / "night" / f"{stem}.jpg", size)
        write_text(root / f"Annotations/night/{stem}.xml", voc_xml(stem))
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions", "cat:128,0,0::", "dog:0,128,0::")
    for split in ("train", "val"):
        write_text(root / f"ImageSets/Main/{split}.txt", *(f"night/{stem}" for stem in SIZES))
    return root


def make_yolo_darknet(root):
    """Images and texts in one folder a split, as Roboflow writes it for Darknet."""
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
            write_text(root / split / f"{stem}.txt", *yolo_lines(stem))
        write_text(root / split / "_darknet.labels", *CLASSES)
    write_text(root / "README.roboflow.txt", "exported by")
    return root


def make_yolo_obj_data(root):
    """As Darknet wants it, with paths from Darknet's own folder."""
    for stem, size in SIZES.items():
        picture(root / "obj" / f"{stem}.jpg", size)
        write_text(root / "obj" / f"{stem}.txt", *yolo_lines(stem))
    for split in ("train", "valid"):
        write_text(root / f"{split}.txt", *(f"data/obj/{stem}.jpg" for stem in SIZES))
    write_text(root / "obj.names", *CLASSES)
    write_text(
        root / "obj.data", "classes= 2", "train  = data/train.txt", "valid=data/valid.txt", "names =data/obj.names"
    )
    return root


def make_yolo_of_cvat(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            picture(root / f"obj_{split}_data" / f"{stem}.jpg", size)
            write_text(root / f"obj_{split}_data" / f"{stem}.txt", *yolo_lines(stem))
        write_text(root / f"{split}.txt", *(f"data/obj_{split}_data/{stem}.jpg" for stem in SIZES))
    write_text(root / "obj.names", *CLASSES)
    lines = (
        "classes = 2",
        "train = data/train.txt",
        "valid = data/valid.txt",
        "names = data/obj.names",
        "backup = backup/",
    )
    write_text(root / "obj.data", *lines)
    return root


def make_yolo_lists_alone(root):
    for stem, size in SIZES.items():
        picture(root / "pets" / f"{stem}.jpg", size)
        write_text(root / "pets" / f"{stem}.txt", *yolo_lines(stem))
    for split in ("train", "val"):
        write_text(root / f"{split}.txt", *(f"pets/{stem}.jpg" for stem in SIZES))
    write_text(root / "pets.names", *CLASSES)
    return root


CSV = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def csv_rows(columns=CSV, prefix=""):
    for stem in SIZES:
        for (y1, x1, y2, x2), label in SCENE[stem]:
            values = {"filename": f"{prefix}{stem}.jpg", "width": SIZES[stem][1], "height": SIZES[stem][0]}
            values |= {"class": CLASSES[label], "xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2}
            yield ",".join(str(values[column]) for column in columns)


def make_csv(root):
    for split in ("train", "val"):
        write_text(root / f"{split}_labels.csv", ",".join(CSV), *csv_rows())
    for stem, size in SIZES.items():
        picture(root / "images" / f"{stem}.jpg", size)
    return root


def make_csv_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
        write_text(root / split / "_annotations.csv", ",".join(CSV), *csv_rows())
    return root


def make_csv_retinanet(root):
    """Without a row of names, with a list of classes."""
    columns = ("filename", "xmin", "ymin", "xmax", "ymax", "class")
    for split in ("train", "val"):
        write_text(root / f"{split}.csv", *csv_rows(columns, "pets/"))
    write_text(root / "classes.csv", "cat,0", "dog,1")
    for stem, size in SIZES.items():
        picture(root / "pets" / f"{stem}.jpg", size)
    return root


def labelme_json(stem, prefix="", **more):
    shapes = []
    for number, ((y1, x1, y2, x2), label) in enumerate(SCENE[stem]):
        points = [[x2, y1], [x1, y2]]  # a rectangle's corners come in any order
        if number:
            points = [[x1, y1], [(x1 + x2) / 2, y2], [x2, (y1 + y2) / 2]]
        kind = "polygon" if number else "rectangle"
        shapes.append({"label": CLASSES[label], "points": points, "shape_type": kind, "flags": {}, "group_id": None})
    height, width = SIZES[stem]
    content = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": f"{prefix}{stem}.jpg", "imageData": None}
    return content | {"imageHeight": height, "imageWidth": width} | more


def make_labelme(root):
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            picture(root / split / f"{stem}.jpg", size)
            write_json(root / split / f"{stem}.json", labelme_json(stem))
    return root


def make_labelme_apart(root):
    """JSON in a folder of its own, which names the images as Windows does."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            picture(root / "images" / split / f"{stem}.jpg", size)
            write_json(root / "json" / split / f"{stem}.json", labelme_json(stem, f"..\\..\\images\\{split}\\"))
    return root


MAKERS = {
    "coco": make_coco,
    "coco roboflow": make_coco_roboflow,
    "coco plain": make_coco_plain,
    "voc": make_voc,
    "voc roboflow": make_voc_roboflow,
    "yolo": make_yolo,
    "yolo roboflow": make_yolo_roboflow,
    "yolo flat": make_yolo_flat,
    "yolo lists": make_yolo_lists,
    "tfrecord": make_tfrecord,
    "tfrecord roboflow": make_tfrecord_roboflow,
    "coco several folders": make_coco_of_several_folders,
    "coco cvat": make_coco_of_cvat,
    "voc annots": make_voc_annots,
    "voc below": make_voc_below,
    "voc cvat": make_voc_of_cvat,
    "yolo darknet": make_yolo_darknet,
    "yolo obj.data": make_yolo_obj_data,
    "yolo cvat": make_yolo_of_cvat,
    "yolo lists alone": make_yolo_lists_alone,
    "csv": make_csv,
    "csv roboflow": make_csv_roboflow,
    "csv retinanet": make_csv_retinanet,
    "labelme": make_labelme,
    "labelme apart": make_labelme_apart,
}


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


def test_a_yaml_that_names_the_same_pictures_twice_is_taken_at_its_word(tmp_path):
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
    said = list(readers.alike(classes))
    assert len(said) == len(groups)
    for line, names in zip(said, groups, strict=True):
        assert line.startswith(f"the classes {' and '.join(map(repr, names))} differ only in case")


def test_no_picture_at_all(tmp_path):
    make_voc(tmp_path)
    for file in tmp_path.glob("JPEGImages/*"):
        file.unlink()
    with pytest.raises(DataError, match=r"not one image in the split 'train'.*\n.*one\.xml: label without image"):
        read(tmp_path)


# --- single things that are wrong: named, and the rest is read --------------------------------------------------------


def only(problems, file, *words, severity="error"):
    """Asserts that there is one problem, of this file, that says these words."""
    (problem,) = problems
    assert Path(problem.file).name == file
    assert problem.severity == severity
    for word in words:
        assert word in problem.message


def shape(**change):
    """An annotation of COCO's beside those of the scene, in picture `one` (40 x 80)."""
    return {"id": 99, "image_id": 7, "category_id": 3, "bbox": [10, 10, 10, 10]} | change


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


def test_coco_pictures_that_are_wrong(tmp_path):
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
def test_voc_finds_pictures_whatever_the_filename_says(name, tmp_path):
    make_voc(tmp_path)
    (tmp_path / "JPEGImages/one.jpg").unlink()
    picture(tmp_path / "JPEGImages/one.PNG", SIZES["one"], ".png")
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


def test_yolo_pictures_and_labels_that_miss_each_other(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels/train/one.txt").unlink()
    write_text(tmp_path / "labels/train/three.txt", "0 .5 .5 .1 .1")
    source = read(tmp_path)
    first, second = sorted(source.problems, key=lambda problem: problem.severity)
    only([first], "three.txt", "label without image")
    only([second], "one.txt", "no label file", severity="warning")
    assert [len(record.boxes) for record in source.records] == [0, 1]


def test_yolo_labels_beside_pictures_below_a_folder_called_images(tmp_path):
    root = tmp_path / "images" / "mine"
    for stem, size in SIZES.items():
        picture(root / f"{stem}.jpg", size)
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
def test_yolo_pictures_without_a_header(content, tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "images/train/one.jpg").write_bytes(content)
    source = read(tmp_path)
    only(source.problems, "one.jpg", "cannot be read")
    assert len(source.records) == 1


# --- sizes from headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_picture_size(suffix, tmp_path):
    picture(tmp_path / f"a{suffix}", (33, 44), suffix)
    assert image_size(tmp_path / f"a{suffix}") == (33, 44)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_size_is_upright(orientation, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (44, 33)).save(tmp_path / "a.jpg", exif=exif)
    # Oracle: cv2 turns a picture as its EXIF says.
    assert image_size(tmp_path / "a.jpg") == cv2.imread(str(tmp_path / "a.jpg")).shape[:2]


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "pictures", "boxes", "crowds", "explained"),
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
def test_real_data(name, split, pictures, boxes, crowds, explained):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name}")
    source = read(SHARED / name, split)
    left_out = Counter(Path(p.file).name for p in source.problems if "no area" in p.message)
    assert len(source.records) == pictures
    assert left_out == explained
    assert sum(len(record.boxes) for record in source.records) + left_out.total() == boxes
    assert sum(record.crowd.sum() for record in source.records) == crowds
    for record in source.records:
        H, W = record.size
        assert (record.boxes >= 0).all() and (record.boxes <= [H, W, H, W]).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()


def test_real_coco128_names_the_files_that_miss_each_other():
    if not (SHARED / "coco128").is_dir():
        pytest.skip(f"no {SHARED / 'coco128'}")
    problems = read(SHARED / "coco128").problems
    without_picture = {Path(p.file).stem for p in problems if p.message.startswith("label without image")}
    without_label = {Path(p.file).stem for p in problems if p.message.startswith("no label file")}
    assert without_picture == {"000000000656", "000000000659"}
    assert without_label == {"000000000250", "000000000508"}
    assert len(problems) == 5  # and that nothing there says the names of the classes
