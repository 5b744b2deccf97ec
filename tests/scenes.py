"""A small scene, written as a data set of every format that the readers read."""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path

import cv2
import numpy as np

from tfyolo.data import write_tfrecords
from tfyolo.data.readers import read

# Two images a split, H x W = 40 x 80 and 60 x 50, in every format; boxes are y1 x1 y2 x2, labels those of CLASSES.
CLASSES = ("cat", "dog")
SIZES = {"one": (40, 80), "two": (60, 50)}
SCENE = {"one": [((10, 20, 30, 60), 0), ((0, 0, 20, 40), 1)], "two": [((15, 5, 45, 30), 1)]}


def boxes_of(source):
    return {Path(record.path).stem: record.boxes.tolist() for record in source.records}


def scene(source):
    """Asserts that a Source is the scene above, whatever its ids are."""
    assert source.classes == CLASSES
    for record in source.records:
        boxes, labels = zip(*SCENE[Path(record.path).stem], strict=True)
        np.testing.assert_allclose(record.boxes, boxes, atol=1e-4)
        assert record.labels.tolist() == list(labels)
    assert len(source.records) == len(SCENE)


def write_image(path, size, suffix_of_content=".jpg"):
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
            write_image(root / split / f"{stem}.jpg", size)
    return root


def make_coco_roboflow(root):
    for split in ("train", "valid"):
        write_json(root / split / "_annotations.coco.json", coco_json())
        for stem, size in SIZES.items():
            write_image(root / split / f"{stem}.jpg", size)
    return root


def make_coco_plain(root):
    for split in ("train", "val"):
        write_json(root / f"{split}.json", coco_json())
    for stem, size in SIZES.items():
        write_image(root / "images" / f"{stem}.jpg", size)
    return root


def make_voc(root):
    for stem, size in SIZES.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg", size)
        write_text(root / f"Annotations/{stem}.xml", voc_xml(stem))
    write_text(root / "ImageSets/Main/train.txt", *SIZES)
    write_text(root / "ImageSets/Main/val.txt", *SIZES)
    write_text(root / "ImageSets/Main/cat_train.txt", "one  1", "two -1")
    return root


def make_voc_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            write_image(root / split / f"{stem}.jpg", size)
            write_text(root / split / f"{stem}.xml", voc_xml(stem))
    return root


def make_yolo(root):
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            write_image(root / "images" / split / f"{stem}.jpg", size)
            write_text(root / "labels" / split / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "classes.txt", *CLASSES)
    return root


def make_yolo_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            write_image(root / split / "images" / f"{stem}.jpg", size)
            write_text(root / split / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "data.yaml", "train: ../train/images", "val: ../valid/images", "nc: 2", "names: ['cat', 'dog']")
    return root


def make_yolo_flat(root):
    for stem, size in SIZES.items():
        write_image(root / "images" / f"{stem}.jpg", size)
        write_text(root / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(root / "labels/classes.txt", *CLASSES)
    return root


def make_yolo_lists(root):
    for stem, size in SIZES.items():
        write_image(root / "obj" / f"{stem}.jpg", size)
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
        write_image(root / folder / f"{stem}.jpg", SIZES[stem])
    return root


def make_coco_of_cvat(root):
    for split in ("train", "val"):
        write_json(root / f"annotations/instances_{split}.json", coco_json())
        for stem, size in SIZES.items():
            write_image(root / "images" / split / f"{stem}.jpg", size)
    return root


def make_voc_annots(root):
    """annots/ beside images/, each with a folder a split."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            write_image(root / "images" / split / f"{stem}.jpg", size)
            write_text(root / "annots" / split / f"{stem}.xml", voc_xml(stem))
    return root


def make_voc_below(root):
    """A whole VOC folder a split."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            write_image(root / split / "JPEGImages" / f"{stem}.jpg", size)
            write_text(root / split / "Annotations" / f"{stem}.xml", voc_xml(stem))
    return root


def make_voc_of_cvat(root):
    """Names in the lists that have folders, which Annotations and JPEGImages have, too."""
    for stem, size in SIZES.items():
        write_image(root / "JPEGImages" / "night" / f"{stem}.jpg", size)
        write_text(root / f"Annotations/night/{stem}.xml", voc_xml(stem))
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions", "cat:128,0,0::", "dog:0,128,0::")
    for split in ("train", "val"):
        write_text(root / f"ImageSets/Main/{split}.txt", *(f"night/{stem}" for stem in SIZES))
    return root


def make_yolo_darknet(root):
    """Images and texts in one folder a split, as Roboflow writes it for Darknet."""
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            write_image(root / split / f"{stem}.jpg", size)
            write_text(root / split / f"{stem}.txt", *yolo_lines(stem))
        write_text(root / split / "_darknet.labels", *CLASSES)
    write_text(root / "README.roboflow.txt", "exported by")
    return root


def make_yolo_obj_data(root):
    """As Darknet wants it, with paths from Darknet's own folder."""
    for stem, size in SIZES.items():
        write_image(root / "obj" / f"{stem}.jpg", size)
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
            write_image(root / f"obj_{split}_data" / f"{stem}.jpg", size)
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
        write_image(root / "pets" / f"{stem}.jpg", size)
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
        write_image(root / "images" / f"{stem}.jpg", size)
    return root


def make_csv_roboflow(root):
    for split in ("train", "valid"):
        for stem, size in SIZES.items():
            write_image(root / split / f"{stem}.jpg", size)
        write_text(root / split / "_annotations.csv", ",".join(CSV), *csv_rows())
    return root


def make_csv_retinanet(root):
    """Without a row of names, with a list of classes."""
    columns = ("filename", "xmin", "ymin", "xmax", "ymax", "class")
    for split in ("train", "val"):
        write_text(root / f"{split}.csv", *csv_rows(columns, "pets/"))
    write_text(root / "classes.csv", "cat,0", "dog,1")
    for stem, size in SIZES.items():
        write_image(root / "pets" / f"{stem}.jpg", size)
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
            write_image(root / split / f"{stem}.jpg", size)
            write_json(root / split / f"{stem}.json", labelme_json(stem))
    return root


def make_labelme_apart(root):
    """JSON in a folder of its own, which names the images as Windows does."""
    for split in ("train", "val"):
        for stem, size in SIZES.items():
            write_image(root / "images" / split / f"{stem}.jpg", size)
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


@contextlib.contextmanager
def at_address(folder):
    """Yields the address of a copy of a folder, in ram://, TensorFlow's file system in memory."""
    import tensorflow as tf

    place = f"ram://{uuid.uuid4().hex}"
    for here, _, names in os.walk(folder):
        there = str(Path(place[6:]) / os.path.relpath(here, folder))
        tf.io.gfile.makedirs(f"ram://{there}")
        for name in names:
            with tf.io.gfile.GFile(f"ram://{there}/{name}", "wb") as file:
                file.write(Path(here, name).read_bytes())
    try:
        yield place
    finally:
        tf.io.gfile.rmtree(place)


def only(problems, file, *words, severity="error"):
    """Asserts that there is one problem, of this file, that says these words."""
    (problem,) = problems
    assert Path(problem.file).name == file
    assert problem.severity == severity
    for word in words:
        assert word in problem.message


def shape(**change):
    """An annotation of COCO's beside those of the scene, in image `one` (40 x 80)."""
    return {"id": 99, "image_id": 7, "category_id": 3, "bbox": [10, 10, 10, 10]} | change
