"""Data sets at addresses: what is read at ram://, TensorFlow's own file system in memory, is what is read here."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import mostly_slow
from scenes import MAKERS, at_address, make_coco, make_yolo, write_text

from tfyolo import remote
from tfyolo.config import Augment
from tfyolo.data import write_tfrecords
from tfyolo.data.contents import ImageError
from tfyolo.data.datasets import train_dataset
from tfyolo.data.decoding import read_record
from tfyolo.data.loading import answered
from tfyolo.data.readers import DataSet, read, splits
from tfyolo.data.sources.source import DataError
from tfyolo.files import address, is_file, is_folder, matching, read_regular, size_of
from tfyolo.predict.media import find_images


def assert_same(there, here, place, root):
    """Whether two Sources are of the same data, the first at an address, the second in a folder."""
    for name in ("classes", "category_ids", "split", "format", "same_as", "max_pixels"):
        assert getattr(there, name) == getattr(here, name)
    for one, other in zip(there.records.columns()[2:], here.records.columns()[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path for path, _ in there.records.files()] == [
        path.replace(str(root), place) for path, _ in here.records.files()
    ]
    shown = [(problem.file, problem.message) for problem in there.problems]
    assert shown == [tuple(text.replace(str(root), place) for text in problem[:2]) for problem in here.problems]


SOME = ("coco", "voc", "yolo", "tfrecord", "csv", "labelme", "yolo lists", "yolo obj.data", "coco several folders")


@pytest.mark.parametrize("layout", mostly_slow(MAKERS, SOME))
def test_each_layout_is_read_as_it_is_here(layout, tmp_path):
    root = MAKERS[layout](tmp_path)
    with at_address(tmp_path) as place:
        there = str(root).replace(str(tmp_path), place)
        assert splits(there) == splits(root)
        for split in splits(root):
            one, other = read(there, split), read(root, split)
            assert_same(one, other, place, tmp_path)
            for a, b in zip(one.records, other.records, strict=True):
                np.testing.assert_array_equal(read_record(a), read_record(b))


def test_what_is_damaged_is_named_by_its_address(tmp_path):
    make_coco(tmp_path)
    with (tmp_path / "train2017" / "one.jpg").open("rb+") as file:
        file.truncate(500)
    os.remove(tmp_path / "train2017" / "two.jpg")
    with at_address(tmp_path) as place:
        source = read(place, "train")
        assert_same(source, read(tmp_path, "train"), place, tmp_path)
        assert source.problems[0].file == f"{place}/train2017/two.jpg"
        with pytest.raises(ImageError, match=f"file {place}/train2017/one.jpg: truncated JPEG"):
            read_record(source.records[0])
    shutil.rmtree(tmp_path / "train2017")
    with at_address(tmp_path) as place, pytest.raises(DataError, match=r"its images .* are not in ram://"):
        read(place, "train")


def test_damaged_shards(tmp_path):
    root = MAKERS["tfrecord"](tmp_path)
    shard = min(root.glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-200])
    with at_address(root) as place:
        assert_same(read(place, "train"), read(root, "train"), place, root)


def test_a_glob_of_shards(tmp_path):
    root = MAKERS["tfrecord"](tmp_path)
    with at_address(root) as place:
        assert_same(read(f"{place}/train-*.tfrecord"), read(f"{root}/train-*.tfrecord"), place, root)


def test_images_at_another_address(tmp_path):
    make_coco(tmp_path / "a")
    shutil.move(tmp_path / "a" / "train2017", tmp_path / "b")
    with at_address(tmp_path) as place:
        assert_same(
            read(f"{place}/a", images=f"{place}/b"), read(tmp_path / "a", images=tmp_path / "b"), place, tmp_path
        )
        with pytest.raises(DataError, match=f"expected a folder of images, received {place}/c"):
            read(f"{place}/a", images=f"{place}/c")


def test_names_that_annotations_have_as_addresses(tmp_path):
    """As Vertex AI writes them: exact, where the data lies at the very address."""
    make_yolo(tmp_path)
    with at_address(tmp_path) as place:
        write_text(tmp_path / "all.csv", f"{place}/images/train/one.jpg,1,2,10,20,cat")
        tf.io.gfile.makedirs(f"{place}/t")
        tf.io.gfile.copy(str(tmp_path / "all.csv"), f"{place}/all.csv")
        source = read(f"{place}/all.csv", "all")
        assert source.records[0].path == f"{place}/images/train/one.jpg"
        assert not any("found by the ends" in problem.message for problem in source.problems)


def test_nothing_there():
    with pytest.raises(DataError, match="ram://nothing/here: no such file or folder; expected a data set"):
        DataSet("ram://nothing/here")


def test_a_file_system_that_does_not_answer(monkeypatch):
    def stat(path):
        raise tf.errors.PermissionDeniedError(None, None, "no token")

    monkeypatch.setattr(tf.io.gfile, "stat", stat)
    with pytest.raises(DataError, match="ram://x/y: cannot be read: permission denied: no token"):
        DataSet("ram://x/y")


@pytest.mark.parametrize("ending", [".jpg", ".txt"])
def test_what_does_not_answer_while_data_is_read_leaves_no_image_out(ending, tmp_path, monkeypatch):
    """One header, or one label file, that the network failed to bring once: the data is read in whole, or not."""
    with at_address(make_yolo(tmp_path / "data")) as place:
        whole, asked, opened = DataSet(place).read("train"), [], remote.opened

        def once(path):
            if path.endswith(ending) and not asked:
                asked.append(path)
                with remote._as_os_errors(path):
                    raise tf.errors.UnavailableError(None, None, "no route")
            return opened(path)

        monkeypatch.setattr(remote, "opened", once)
        with pytest.raises(DataError, match="cannot be read: Unavailable: no route"):
            DataSet(place).read("train")
        assert len(asked) == 1 and DataSet(place).read("train").problems == whole.problems


def test_data_here_leads_to_no_address(tmp_path, monkeypatch):
    """A name that os.path.normpath would make an address of, in the current folder."""
    make_yolo(tmp_path / "data")
    with at_address(tmp_path / "data") as place:
        write_text(tmp_path / "data.yaml", f"path: {place}", "train: images/train", "names: [cat, dog]")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="is not there"):
            read("data.yaml", "train")


def test_listings_as_object_stores_give_them(tmp_path, monkeypatch):
    """Folders with a slash at their ends, and a marker without a name."""
    make_coco(tmp_path)
    listdir = tf.io.gfile.listdir

    def listed(path):
        names = listdir(path)
        return ["", *(f"{name}/" if tf.io.gfile.isdir(f"{path}/{name}") else name for name in names)]

    with at_address(tmp_path) as place:
        monkeypatch.setattr(tf.io.gfile, "listdir", listed)
        assert_same(read(place, "train"), read(tmp_path, "train"), place, tmp_path)


def test_the_index_is_kept_while_nothing_has_changed(tmp_path, monkeypatch):
    """ram:// does not say when a file was changed, as gs:// does."""
    make_coco(tmp_path)
    stat, times = tf.io.gfile.stat, {}

    class Told:
        def __init__(self, path):
            found = stat(path)
            self.length, self.is_directory, self.mtime_nsec = found.length, found.is_directory, times.get(path, 10**18)

    monkeypatch.setattr("tfyolo.data.sources.kept.FEWEST", 1)
    with at_address(tmp_path) as place:
        first = DataSet(place)
        first.read("train")
        assert DataSet(place)._kept is None  # times are not known
        monkeypatch.setattr(tf.io.gfile, "stat", Told)
        before = DataSet(place).read("train")
        kept = DataSet(place)
        assert kept._kept is not None
        assert_same(kept.read("train"), before, place, place)
        times[f"{place}/annotations/instances_train2017.json"] = 10**18 + 1
        assert DataSet(place)._kept is None


@pytest.mark.slow
def test_training_gets_the_same_batches(tmp_path):
    root = MAKERS["tfrecord"](tmp_path)
    options = {"size": (64, 64), "batch": 2, "augment": Augment(), "seed": 3, "epochs": 3}
    with at_address(root) as place:
        batches = [list(train_dataset(read(where, "train"), **options)[0].take(3)) for where in (place, root)]
        for one, other in zip(*batches, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_an_address_that_does_not_answer_is_no_damaged_image(tmp_path, monkeypatch):
    """Which would be left out: what is trained would not be what the data says."""
    make_coco(tmp_path)

    def stat(path):
        raise tf.errors.UnavailableError(None, None, "no network")

    with at_address(tmp_path) as place:
        options = {"size": (64, 64), "batch": 2, "augment": Augment(), "seed": 3, "epochs": 3}
        batches = iter(train_dataset(read(place, "train"), **options)[0])
        with monkeypatch.context() as patch:
            patch.setattr(tf.io.gfile, "stat", stat)
            with pytest.raises(DataError, match=rf"{place}/.*: cannot be read: Unavailable: no network"), answered():
                for _ in range(5):
                    next(batches)


def test_shards_are_written_of_data_at_an_address(tmp_path):
    make_coco(tmp_path / "data")
    with at_address(tmp_path / "data") as place:
        written = [
            write_tfrecords.write(read(where, "train"), tmp_path / name, progress=False).files
            for where, name in ((place, "a"), (tmp_path / "data", "b"))
        ]
        for one, other in zip(*written, strict=True):
            assert read_regular(one) == read_regular(other)


def test_images_to_detect_in(tmp_path):
    make_yolo(tmp_path)
    with at_address(tmp_path) as place:
        folder = f"{place}/images/train"
        assert find_images([folder]) == find_images([f"{folder}/*.jpg"]) == [f"{folder}/one.jpg", f"{folder}/two.jpg"]


def test_the_seam(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(bytes(range(256)) * 10_000)
    with at_address(tmp_path) as place:
        file = f"{place}/a/x.bin"
        assert is_file(file) and not is_folder(file) and is_folder(f"{place}/a") and not is_file(f"{place}/b")
        assert size_of(file) == 2_560_000 and matching(f"{place}/a/*") == [file]
        assert read_regular(file) == (tmp_path / "a" / "x.bin").read_bytes()
        with remote.opened(file) as stream, (tmp_path / "a" / "x.bin").open("rb") as same:
            for offset, whence, count in ((0, 0, 10), (-5, 2, 9), (700_000, 0, 3), (-20, 1, 30), (1, 0, -1), (0, 2, 1)):
                assert stream.seek(offset, whence) == same.seek(offset, whence)
                assert stream.read(count) == same.read(count) and stream.tell() == same.tell()
        with pytest.raises(OSError, match="more") as caught:
            read_regular(file, 100)
        assert caught.value.filename == file
        for missing, error in ((f"{place}/none", FileNotFoundError), (f"{place}/a", IsADirectoryError)):
            with pytest.raises(error):
                read_regular(missing)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("gs://b/x/../y//z/", "gs://b/y/z"), ("GS:/b", "gs://b"), ("s3://b", "s3://b"), ("gs:", None), ("x/gs://b", None)],
)
def test_addresses_have_one_form(given, expected):
    assert address(given) == expected
