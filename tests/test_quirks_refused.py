"""Data that cannot be read: other formats, results in place of annotations, broken files. Each error names it."""

import pytest
from scenes import write_json
from test_quirks import ROWS, described, encoded, image

from tfyolo.data import readers
from tfyolo.data.readers import DataSet
from tfyolo.data.sources.source import DataError

REFUSED = {}


def refused(words):
    """Registers a function of a folder that makes unreadable data in it. words: a pattern of the error."""

    def add(make):
        REFUSED[make.__name__.replace("_", " ")] = make, words
        return make

    return add


@refused("3 .heic files: expected images that TensorFlow and OpenCV read")
def photographs_of_a_telephone(root):
    for number in range(3):
        encoded(root / f"labels/{number}.txt", ROWS[0])
        encoded(root / f"images/{number}.heic", "ftypheic")


@refused("not valid YAML")
def tabs_in_yaml(root):
    described(root, "train: images/train", "val: images/val", "names:", "\t- cat", "\t- dog")


@refused("not recognised as")
def results_in_place_of_annotations(root):
    image(root / "images/a.jpg")
    write_json(root / "results.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.9}])


@refused("not recognised as")
def images_alone(root):
    image(root / "train/a.jpg")


@refused(r"annotations\.xml is CVAT's XML for images: export the data as COCO, VOC or YOLO")
def cvats_own_format(root):
    image(root / "images/a.jpg")
    encoded(
        root / "annotations.xml",
        '<?xml version="1.0"?><annotations><version>1.1</version><image id="0"/></annotations>',
    )


@refused(r"_annotations\.createml\.json is CreateML's JSON")
def createml(root):
    image(root / "train/a.jpg")
    box = {"label": "cat", "coordinates": {"x": 10, "y": 10, "width": 9, "height": 9}}
    write_json(root / "train/_annotations.createml.json", [{"image": "a.jpg", "annotations": [box]}])


@refused(r"via\.csv is VGG Image Annotator's CSV")
def vgg_image_annotators_table(root):
    image(root / "images/a.jpg")
    encoded(root / "via.csv", "filename,file_size,region_shape_attributes", 'a.jpg,1,"{""name"":""rect""}"')


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_an_error(name, tmp_path):
    make, words = REFUSED[name]
    make(tmp_path)
    with pytest.raises(DataError, match=words):
        readers.read(tmp_path, DataSet(tmp_path).splits[0])
