"""The index in the cache folder: what it gives is what reading gives, and it is not used if anything has changed."""

import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import scenes
from click.testing import CliRunner
from scenes import SIZES, coco_json, only, write_image, write_json, write_text
from test_columns import all_same

from tfyolo import config
from tfyolo.cli import main
from tfyolo.data import anchors as clustering
from tfyolo.data import readers
from tfyolo.data.readers import DataSet, read
from tfyolo.data.sources import files, kept, seen, text
from tfyolo.data.sources.formats import FORMATS
from tfyolo.data.sources.records import Columns, Records
from tfyolo.data.sources.source import DataError

MAKE = [
    *(scenes.make_coco, scenes.make_coco_roboflow, scenes.make_voc, scenes.make_voc_below, scenes.make_yolo),
    *(scenes.make_yolo_lists, scenes.make_yolo_of_cvat, scenes.make_tfrecord, scenes.make_csv, scenes.make_labelme),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, into which few images go too, and files that are not too young."""
    monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "FEWEST", 1)
    monkeypatch.setattr(seen, "_STEP", -1e9)
    readers._tell.cache_clear()
    return tmp_path / "cache" / "data"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def same(source, other):
    all_same(source.records, other.records)
    assert source._replace(records=())[1:] == other._replace(records=())[1:]


def is_kept(path, **options):
    """Whether the split `train` is taken from the cache; and it is, in any case, what reading would give."""
    readers._tell.cache_clear()
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_tell", lambda *words: told.append(words))
        try:
            found = read(path, **options)
        except DataError as error:
            with pytest.raises(DataError) as fresh:
                read(path, cache=False, **options)
            assert str(fresh.value) == str(error)
        else:
            same(found, read(path, cache=False, **options))
    return bool(told)


@pytest.mark.parametrize("make", MAKE, ids=lambda make: make.__name__)
def test_what_was_read_comes_again_and_no_file_is_opened(make, root, monkeypatch, capsys):
    root = make(root)
    first = read(root)
    assert capsys.readouterr().err == ""
    opened, splits = [], DataSet(root).splits
    monkeypatch.setattr(text, "read_regular", lambda *args: opened.append(args))
    dataset = DataSet(root)
    second, third = dataset.read("train"), DataSet(root).read("train")
    assert not opened and (dataset.format, dataset.splits) == (first.format, splits)
    same(first, second)
    same(first, third)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{root}: no file has changed" in said and "data.cache=false" in said


def test_problems_and_the_choice_of_the_format_come_again(root):
    scenes.make_voc(root)
    write_text(root / "notes.csv", "filename,class,xmin,ymin,xmax,ymax", "one.jpg,cat,1,1,9,9")
    (root / "JPEGImages" / "three.jpg").write_bytes((root / "JPEGImages" / "one.jpg").read_bytes())
    (root / "Annotations" / "two.xml").write_text("<annotation>")
    before = DataSet(root)
    first = before.read("train")
    assert first.problems and before.why
    after = DataSet(root)
    same(first, after.read("train"))
    assert (after.why, after.format, after.place.root) == (before.why, before.format, before.place.root)


def edited(file, old, new):
    """Another content of the same length and the same time."""
    status = file.stat()
    content = file.read_bytes()
    assert old in content and len(old) == len(new)
    file.write_bytes(content.replace(old, new))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_image(file):
    size = cv2.imread(str(file)).shape[:2]
    write_image(file, (size[0] + 1, size[1]))


IMAGES = "images/train"
CHANGES = {
    "a label of the same size and time": lambda root: edited(root / "labels/train/two.txt", b"1 ", b"0 "),
    "a label file that is longer": lambda root: write_text(root / "labels/train/two.txt", "0 .5 .5 .1 .1"),
    "a label file that is gone": lambda root: (root / "labels/train/two.txt").unlink(),
    "an image that is gone": lambda root: (root / IMAGES / "two.jpg").unlink(),
    "an image of another size": lambda root: other_image(root / IMAGES / "two.jpg"),
    "one more image": lambda root: write_image(root / IMAGES / "three.jpg", (30, 30)),
    "another name": lambda root: (root / IMAGES / "two.jpg").rename(root / IMAGES / "2.jpg"),
    "one more folder": lambda root: write_image(root / IMAGES / "more" / "three.jpg", (30, 30)),
    "another class": lambda root: edited(root / "classes.txt", b"cat", b"cow"),
    "another format beside it": lambda root: scenes.make_coco(root),
    "a folder in place of a file": lambda root: [
        (root / "labels/train/two.txt").unlink(),
        (root / "labels/train/two.txt").mkdir(),
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_the_files_are_read(change, root):
    scenes.make_yolo(root)
    assert not is_kept(root) and is_kept(root)
    change(root)
    assert not is_kept(root)
    assert is_kept(root)


def test_images_of_coco_that_come_and_go(root):
    scenes.make_coco(root)
    read(root)
    image = next(root.rglob("two.jpg"))
    image.rename(root / "aside")
    assert not is_kept(root) and is_kept(root)
    (root / "aside").rename(image)
    assert not is_kept(root) and is_kept(root)
    edited(next(root.rglob("instances_train2017.json")), b"dog", b"god")
    assert not is_kept(root)


def test_other_options_and_other_code_read_the_files(root, tmp_path, monkeypatch):
    scenes.make_yolo(root)
    read(root)
    for options in ({"max_pixels": 10_000}, {"outside": True}, {"format": "yolo"}, {"images": root / "images"}):
        assert not is_kept(root, **options) and is_kept(root, **options)
    monkeypatch.chdir(tmp_path)
    assert not is_kept(root.name)  # its paths are others
    assert is_kept(root)
    monkeypatch.setattr(kept, "_code", lambda: "another version")
    assert not is_kept(root)


def test_names_of_classes_count_as_they_are(root, tmp_path):
    scenes.make_yolo(root)
    (root / "classes.txt").unlink()
    names = tmp_path / "names.txt"
    for classes in (("a", "b"), ("a", "c")):
        write_text(names, *classes)
        assert not is_kept(root, names=names) and is_kept(root, names=names)


DAMAGE = {
    "a byte": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
    "an end": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "gone": lambda file: file.unlink(),
    "nothing": lambda file: file.write_bytes(b""),
    "a folder": lambda file: [file.unlink(), file.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_silently_made_good(damage, root, cache, capsys):
    scenes.make_voc(root)
    assert not is_kept(root)
    for name in ("index.json", "states-05.npy", "0-00.npy", "0-09.npy"):
        damage(next(cache.iterdir()) / name)
        assert not is_kept(root), name
        assert is_kept(root), name
    assert capsys.readouterr().err == ""
    assert len([*cache.iterdir()]) == 1


def test_a_cache_that_cannot_be_written_is_none(root, cache, tmp_path, monkeypatch):
    scenes.make_coco(root)
    cache.parent.write_text("a file")
    assert not is_kept(root) and not is_kept(root)
    monkeypatch.delenv("TFYOLO_CACHE")
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    assert not is_kept(root) and not is_kept(root)


def test_splits_are_kept_beside_each_other(root):
    scenes.make_yolo(root)
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "val", root / kind / "test")
    for split in ("train", "val"):
        assert not is_kept(root, split=split)
    assert is_kept(root, split="train") and is_kept(root, split="val")
    assert not is_kept(root, split="test")
    edited(root / "labels/train/two.txt", b"1 ", b"0 ")  # which only the first reading has looked at
    assert not is_kept(root, split="train")
    with pytest.raises(DataError, match="the split 'more' does not exist in this yolo data; its splits are train, val"):
        read(root, "more")


def test_a_format_that_gave_way_once_does_not_come_back(root):
    scenes.make_voc_roboflow(root)
    write_json(root / "annotations" / "instances_train.json", coco_json(categories=[]))
    write_json(root / "annotations" / "instances_valid.json", coco_json())
    dataset = DataSet(root)
    assert dataset.format == "coco" and dataset.read("train").format == dataset.format == "voc"
    assert read(root, "val", cache=False).format == "coco"  # where nothing was read before
    assert DataSet(root).read("val").format == DataSet(root).read("val").format == "voc"


def test_the_config_turns_it_off(root, cache):
    scenes.make_coco(root)
    data = config.Data(path=str(root), cache=False)
    readers.read_configured(data, "train")
    assert not cache.exists()
    readers.read_configured(config.Data(path=str(root)), "train")
    assert cache.exists() and is_kept(root)
    with pytest.raises(ValueError, match="cache"):
        config.Data(path=str(root), cache="no")


def test_commands_turn_it_off(root, cache, monkeypatch):
    scenes.make_coco(root)
    monkeypatch.setattr(clustering, "fit_anchors", lambda *_, **__: SimpleNamespace(to_json=dict))
    told = []
    for option in ("--no-cache", "--cache", "--cache", "--no-cache"):
        readers._tell.cache_clear()
        result = CliRunner().invoke(main, ["kmeans-anchors", str(root), "--config", "demo", option, "--json"])
        told.append("data.cache=false or --no-cache reads it anew" in result.stderr)
    assert told == [False, False, True, False]


def test_few_images_young_files_and_formats_of_others_are_not_kept(root, cache, monkeypatch):
    scenes.make_coco(root)
    monkeypatch.setattr(kept, "FEWEST", len(SIZES) + 1)
    read(root)
    monkeypatch.setattr(kept, "FEWEST", 1)
    monkeypatch.setattr(seen, "_STEP", 60)
    read(root)
    monkeypatch.setattr(seen, "_STEP", -1e9)
    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "mine", FORMATS["coco"]._replace(find=lambda place: None))
        read(root)
    assert not cache.exists()
    read(root)
    assert cache.exists()


def test_what_changes_while_it_is_read_is_not_kept(root, cache, monkeypatch):
    scenes.make_yolo(root)
    real = files.Tree.list

    def late(tree, folder):
        found = real(tree, folder)
        if os.path.basename(folder) == "labels" and not (root / IMAGES / "late.jpg").exists():
            write_image(root / IMAGES / "late.jpg", (20, 20))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files.Tree, "list", late)
        read(root)
    assert is_kept(root) or not cache.exists()


def test_only_the_last_data_sets_are_kept(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2)
    for number in range(4):
        scenes.make_coco(tmp_path / f"{number}")
        read(tmp_path / f"{number}")
        time = 1_000_000 + number
        for folder in cache.iterdir():
            if folder.stat().st_mtime > 2_000_000:
                os.utime(folder, (time, time))
    assert len([*cache.iterdir()]) == 2
    assert [is_kept(tmp_path / f"{number}") for number in (3, 2)] == [True, True]
    assert not is_kept(tmp_path / "0")


def test_what_is_kept_takes_no_more_memory_than_promised(root, monkeypatch):
    """300 bytes an image and 60 a box over the memory maps, which tracemalloc does not count."""
    count = 4_000
    names = [f"{number:012}.jpg" for number in range(count)]
    images = [{"id": n, "file_name": name, "height": 99, "width": 99} for n, name in enumerate(names)]
    numbers = [(n, k) for n in range(count) for k in range(3)]
    boxes = [{"id": 3 * n + k, "image_id": n, "category_id": 3, "bbox": [k, 1, 9, 9]} for n, k in numbers]
    (root / "train").mkdir(parents=True)
    for name in names:
        (root / "train" / name).touch()
    write_json(root / "annotations/instances_train.json", coco_json(images=images, annotations=boxes))
    first = read(root)
    tracemalloc.start()
    second = read(root)
    np.bincount(second.records.labels[~second.records.ignored])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * count + 60 * len(boxes)
    assert isinstance(second.records.boxes.base, np.memmap) and len(second.records) == count
    np.testing.assert_array_equal(first.records.boxes, second.records.boxes)
    assert isinstance(Records(Columns(*second.records.columns()))[7].path, str)


def test_a_folder_that_cannot_be_listed_is_told_again(root, monkeypatch):
    scenes.make_coco(root)
    real = os.scandir

    def refused(path="."):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    (root / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", refused)
    first = read(root)
    only(first.problems, "closed", "cannot be listed: Permission denied", severity="warning")
    assert is_kept(root)
    monkeypatch.setattr(os, "scandir", real)
    assert not is_kept(root)
