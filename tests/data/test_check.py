"""check-data: faults planted one at a time are found, named by file, and weighed; a clean data set has none."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED, slow
from PIL import Image

from tfyolo.data import check as checking
from tfyolo.data import demo, write_tfrecords
from tfyolo.data.check import check
from tfyolo.data.readers import read
from tfyolo.data.sources.source import DataError

SHARED_DATA = SHARED / "data"


def noise(path, seed, size=(40, 60), content=".jpg"):
    pixels = np.random.default_rng(seed).integers(0, 255, [*size, 3], dtype=np.uint8)
    path.write_bytes(cv2.imencode(content, pixels)[1].tobytes())


def annotate(root, split, change=None):
    """Annotations of 4 images of 40 x 60, each with 10 boxes of each of two classes; `change` may spoil them."""
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in range(4)]
    annotations = [
        {"id": n, "image_id": n % 4, "category_id": 1 + n // 4 % 2, "bbox": [n % 30, n % 20, 10 + n % 7, 12]}
        for n in range(80)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    if change:
        change(content)
    (root / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture
def clean(tmp_path):
    root = tmp_path / "data"
    for place, split in enumerate(("train", "val")):
        (root / split).mkdir(parents=True)
        annotate(root, split)
        for number in range(4):
            noise(root / split / f"{number}.jpg", 10 * place + number)
    return root


def only(problems, file, *words):
    """Asserts that there is one problem, of this file, that says these words."""
    (problem,) = problems
    assert problem.file.endswith(file)
    for word in words:
        assert word in problem.message


def test_nothing_is_wrong_with_what_is_right(clean):
    report = check(clean, progress=False)
    assert report.problems == ()
    assert report.splits["train"] == checking.Split(pictures=4, empty=0, crowds=0, boxes={"cat": 40, "dog": 40})
    assert (report.name, report.format, report.classes) == ("data", "coco", ("cat", "dog"))
    assert "no errors" in str(report) and "no warnings" in str(report)


def test_the_demo_data_is_right(tmp_path):
    demo.write(tmp_path / "demo", train=10, val=4, test=0, progress=False)
    report = check(tmp_path / "demo", progress=False)
    assert report.errors == ()
    assert all("fewer than" in problem.message for problem in report.warnings)


# --- images -----------------------------------------------------------------------------------------------------------


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lfs(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def turned(file):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.copy().save(file, exif=exif)


def sideways(file):
    noise(file, 99, (60, 40))


@pytest.mark.parametrize(
    ("spoil", "severity", "words"),
    [
        (cut, "error", ["truncated JPEG"]),
        slow(lfs, "error", ["Git LFS", "git lfs pull"]),
        slow(lambda file: file.write_bytes(b""), "error", ["empty"]),
        slow(lambda file: file.write_bytes(b"nothing"), "error", ["no image"]),
        (lambda file: file.unlink(), "error", ["image missing"]),
        (lambda file: noise(file, 99, content=".png"), "warning", ["is a PNG but its name ends in .jpg"]),
        slow(lambda file: noise(file, 99, (50, 70)), "warning", ["is 50 x 70", "the annotations say 40 x 60"]),
        (lambda file: noise(file, 99, (20, 30)), "warning", ["is 20 x 30", "its boxes are scaled to it"]),
        (sideways, "error", ["is 60 x 40", "turned", "some boxes lie outside"]),
        slow(lambda file: noise(file, 99, content=".tiff"), "warning", ["is a TIFF but its name ends in .jpg"]),
        slow(lambda file: noise(file, 99, content=".webp"), "warning", ["is a WebP but its name ends in .jpg"]),
        (turned, "warning", ["is 60 x 40", "stored turned, by its EXIF orientation"]),
    ],
)
def test_images_that_are_wrong(spoil, severity, words, clean):
    if box := {turned: [1, 1, 9, 9], sideways: [48, 1, 9, 9]}.get(spoil):
        annotate(clean, "train", lambda content: [a.update(bbox=box) for a in content["annotations"]])
    spoil(clean / "train/2.jpg")
    report = check(clean, progress=False)
    only(report.errors if severity == "error" else report.warnings, "train/2.jpg", *words)
    assert len(report.problems) == 1
    assert report.splits["val"].pictures == 4


def test_the_same_image_twice(clean):
    (clean / "val/0.jpg").write_bytes((clean / "train/3.jpg").read_bytes())
    (clean / "train/1.jpg").write_bytes((clean / "train/2.jpg").read_bytes())
    report = check(clean, progress=False)
    only(report.errors, "train/3.jpg", "different splits", "val/0.jpg in val")
    only(report.warnings, "train/1.jpg", "one split", "train/2.jpg in train")


def test_images_inside_shards(clean, tmp_path):
    write_tfrecords.write(read(clean), tmp_path / "shards", 2, progress=False)
    only(check(tmp_path / "shards", progress=False).problems, "shards", "no split to validate on", "data.val=0.1")
    record = read(tmp_path / "shards").records[1]
    offset, length = record.span
    with open(record.path, "r+b") as stream:
        stream.seek(offset + length // 2)
        stream.write(bytes(length - length // 2))
    report = check(tmp_path / "shards", progress=False)
    only(report.errors, Path(record.path).name, f"{record.image_id}: ", "truncated JPEG")


# --- annotations ------------------------------------------------------------------------------------------------------


def rename(content):
    content["categories"][1]["name"] = "wolf"


def shout(content):
    content["categories"][1]["name"] = "CAT"


def thin_out(content):
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1 or a["id"] < 20]


@pytest.mark.parametrize(
    ("change", "severity", "file", "words"),
    [
        (lambda c: c["annotations"][5].update(bbox=[1, 1, 0, 5]), "error", "train.json", ["annotation 5", "no area"]),
        slow(
            lambda c: c["annotations"][5].update(bbox=[99, 1, 5, 5]), "error", "train.json", ["annotation 5", "outside"]
        ),
        slow(
            lambda c: c["annotations"][5].update(category_id=7),
            "error",
            "train.json",
            ["annotation 5", "unknown class"],
        ),
        slow(lambda c: c["annotations"][5].update(image_id=7), "error", "train.json", ["annotation 5", "no image"]),
        (rename, "error", "data", ["different classes", "cat, wolf", "cat, dog"]),
        (thin_out, "warning", "data", ["1 of 2 classes have fewer than 20 boxes in train: dog (8)"]),
    ],
)
def test_annotations_that_are_wrong(change, severity, file, words, clean):
    annotate(clean, "train", change)
    report = check(clean, progress=False)
    only(report.errors if severity == "error" else report.warnings, file, *words)
    assert len(report.problems) == 1


def test_classes_that_differ_in_case_are_one_warning(clean):
    for split in ("train", "val"):
        annotate(clean, split, shout)
    report = check(clean, progress=False)
    only(report.problems, "data", "the classes 'cat' and 'CAT' differ only in case")
    assert report.errors == ()


def test_a_split_that_cannot_be_read_is_an_error_of_the_others(clean):
    (clean / "val.json").write_text('{"images": [], "annotations"')
    report = check(clean, progress=False)
    only(report.errors, "data", "split val", "not valid JSON")
    assert report.splits.keys() == {"train"}
    (clean / "train.json").write_text('{"images": [], "annotations"')
    with pytest.raises(DataError, match="not valid JSON"):
        check(clean, progress=False)


def test_a_split_without_boxes_is_no_split_to_evaluate_on(clean):
    annotate(clean, "val", lambda content: content.update(annotations=[]))
    only(check(clean, progress=False).warnings, "data", "the split val has no boxes")


def test_a_split_that_is_another_by_the_datas_own_word_is_one_warning(tmp_path):
    """Not an error of every image."""
    for folder in ("images", "labels"):
        (tmp_path / folder / "train").mkdir(parents=True)
    for number in range(3):
        noise(tmp_path / "images" / "train" / f"{number}.jpg", number)
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat]")
    report = check(tmp_path, progress=False)
    assert report.errors == () and report.splits.keys() == {"train"}
    only([p for p in report.warnings if "fewer" not in p.message], tmp_path.name, "val has the very images of train")


# --- the report -------------------------------------------------------------------------------------------------------


def test_sizes_and_anchors(clean):
    def same(content):
        for n, annotation in enumerate(content["annotations"]):
            annotation["bbox"] = [0, 0, 20, 10] if n % 4 else [0, 0, 10, 40]

    for split in ("train", "val"):
        annotate(clean, split, same)
    # 40 x 60 into 120 x 120: twice as large; three of four boxes are (20, 40), the fourth (80, 20).
    report = check(clean, input_size=(120, 120), anchors=[(20, 40), (8, 8)], progress=False)
    assert report.sizes[50] == (20, 40)
    assert report.fitness.mean_iou == pytest.approx((3 + 400 / (800 + 1600 - 400)) / 4)
    assert report.fitness.below_half == pytest.approx(1 / 4)
    np.testing.assert_allclose(report.fitness.shares, [1, 0])
    only(report.warnings, "data", "25% of the boxes", "tfyolo kmeans-anchors")
    assert "boxes (h x w) at 120 x 120" in str(report)
    assert "20 x 40 100%, 8 x 8 0%" in str(report)


def test_text_and_json_and_image(clean, tmp_path):
    cut(clean / "train/2.jpg")
    report = check(clean, anchors=[(30, 30)], out=tmp_path / "out", progress=False)
    text = str(report)
    assert "\n1 error\n" in text and "\n1 warning\n" in text
    assert "train/2.jpg: " in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["images"] == ["4", "4", "8"]
    assert rows["cat"] == ["40", "40", "80"]
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert written["errors"] == 1
    assert written["splits"]["train"]["boxes"] == {"cat": 40, "dog": 40}
    assert cv2.imread(str(tmp_path / "out/check.png")).shape == (900, 1600, 3)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["check.png", "report.json"]


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("bccd", {"BloodImage_00338.xml", "BloodImage_00343.xml"}),
        slow("coco-tiny", set()),
        ("coco128", {"000000000656.txt", "000000000659.txt"}),
    ],
)
def test_real_data(name, errors):
    if not (SHARED_DATA / name).is_dir():
        pytest.skip(f"no {SHARED_DATA / name}")
    report = check(SHARED_DATA / name, progress=False)
    assert {Path(problem.file).name for problem in report.errors} == errors
    assert "trainval" not in report.splits  # it joins train and val
