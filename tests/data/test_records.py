"""TFRecord: what is written is what is read, byte for byte; files of other writers; damaged files."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow

from tfyolo.data import check_images, tfrecords, unfinished, write_tfrecords
from tfyolo.data.readers import read, splits
from tfyolo.data.sources.source import Record, Source, image_bytes
from tfyolo.remote import UnansweredError

SIZES = [(40, 80), (60, 50), (33, 47), (20, 20), (90, 30)]


@pytest.fixture
def source(tmp_path):
    """Five images, JPEG and PNG, with 0..4 boxes; the third of three classes is seen nowhere."""
    rng = np.random.default_rng(0)
    made = []
    for number, size in enumerate(SIZES):
        path = tmp_path / "pictures" / f"{number}{'.png' if number % 2 else '.jpg'}"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, [*size, 3], dtype=np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
        corners = np.sort(rng.uniform(0, 1, [number, 2, 2]), axis=1) * size  # [M, 2 corners, 2]
        made.append(
            Record(
                100 + number,
                str(path),
                np.float32(corners.reshape(-1, 4)),
                np.int32(rng.integers(0, 2, number)),
                rng.random(number) < 0.5,
                np.float32(rng.uniform(1, 100, number)),
                size,
                difficult=rng.random(number) < 0.5,
            )
        )
    return Source(tuple(made), ("cat", "dög", "eel"), (3, 7, 90), (), "some", "train", "coco")


@pytest.mark.parametrize("shards", [None, 1, 2, 5])
def test_round_trip(source, shards, tmp_path):
    written = write_tfrecords.write(source, tmp_path / "out", shards, progress=False)
    assert len(written.files) == (shards or 1)
    assert (written.records, written.skipped) == (5, ())
    again = read(tmp_path / "out")
    assert (again.format, again.problems) == ("tfrecord", ())
    assert (again.classes, again.category_ids) == (source.classes, source.category_ids)
    by_id = {record.image_id: record for record in again.records}
    assert by_id.keys() == {record.image_id for record in source.records}
    for record in source.records:
        other = by_id[record.image_id]
        np.testing.assert_allclose(other.boxes, record.boxes, atol=1e-4)
        np.testing.assert_allclose(other.areas, record.areas)
        np.testing.assert_array_equal(other.labels, record.labels)
        np.testing.assert_array_equal(other.crowd, record.crowd)
        np.testing.assert_array_equal(other.difficult, np.zeros_like(record.crowd) | record.difficult)
        assert other.size == record.size
        assert image_bytes(other) == Path(record.path).read_bytes()


def test_shards_of_shards(source, tmp_path):
    write_tfrecords.write(source, tmp_path / "out", 2, progress=False)
    write_tfrecords.write(read(tmp_path / "out"), tmp_path / "again", 3, progress=False)
    one, two = (sorted(read(tmp_path / name).records, key=lambda r: r.image_id) for name in ("out", "again"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)
        assert image_bytes(a) == image_bytes(b)


def test_the_index_agrees_with_tensorflows_own_reader(source, tmp_path):
    (file,) = write_tfrecords.write(source, tmp_path, progress=False).files
    parsed = [tf.train.Example.FromString(raw.numpy()).features.feature for raw in tf.data.TFRecordDataset(file)]
    with open(file, "rb") as stream:
        content = stream.read()
    for example, feature in zip(tfrecords.index(file), parsed, strict=True):
        assert feature["image/object/bbox/ymax"].float_list.value == [box[2] for box in example.boxes_unit]
        assert feature["image/object/class/label"].int64_list.value == example.labels
        assert feature["image/object/class/text"].bytes_list.value == [text.encode() for text in example.texts]
        start, length = example.span
        assert feature["image/encoded"].bytes_list.value[0] == content[start : start + length]


@pytest.mark.parametrize("check", [False, True])
def test_broken_images_are_left_out_and_named(check, source, tmp_path):
    cut, damaged, gone = (record.path for record in source.records[:3])
    Path(cut).write_bytes(Path(cut).read_bytes()[:500])
    Path(gone).unlink()
    content = bytearray(Path(damaged).read_bytes())
    content[len(content) // 2] ^= 0xFF  # of a PNG; its header and its end are as they should be
    Path(damaged).write_bytes(content)
    written = write_tfrecords.write(source, tmp_path / "out", 2, check=check, progress=False)
    found = {cut, gone, *([damaged] if check else [])}
    assert {file for file, _ in written.skipped} == found and written.records == 5 - len(found)
    assert len(read(tmp_path / "out").records) == 5 - len(found)


@pytest.mark.parametrize("check", [False, True])
def test_a_network_that_does_not_answer_leaves_no_image_out(check, source, tmp_path, monkeypatch):
    read_bytes = check_images.image_bytes

    def unanswered(record):
        if record.image_id == source.records[2].image_id:
            raise UnansweredError(5, "Unavailable", record.path)
        return read_bytes(record)

    with monkeypatch.context() as patch:
        patch.setattr(check_images if check else write_tfrecords, "image_bytes", unanswered)
        with pytest.raises(UnansweredError):
            write_tfrecords.write(source, tmp_path / "out", 2, check=check, progress=False)
    assert write_tfrecords.write(source, tmp_path / "out", 2, check=check, progress=False).skipped == ()


@pytest.mark.parametrize("behind", [b"", bytes(9), b"more"])
def test_what_stands_behind_an_images_end_does_no_harm(behind, source, tmp_path):
    with open(source.records[0].path, "ab") as file:
        file.write(behind)
    assert write_tfrecords.write(source, tmp_path / "out", 1, progress=False).records == 5


def test_shards_are_not_overwritten_unasked(source, tmp_path):
    write_tfrecords.write(source, tmp_path, 2, progress=False)
    with pytest.raises(write_tfrecords.WriteError, match="has 2 shards of train already"):
        write_tfrecords.write(source, tmp_path, 3, progress=False)
    write_tfrecords.write(source._replace(split="val"), tmp_path, 1, progress=False)
    write_tfrecords.write(source, tmp_path, 3, overwrite=True, progress=False)
    assert splits(tmp_path) == ("train", "val")
    assert len(list(tmp_path.glob("train-*.tfrecord"))) == 3
    assert [len(read(tmp_path, split).records) for split in ("train", "val")] == [5, 5]


@pytest.mark.parametrize("done", [slow(0), slow(1), 2, slow(3)])
def test_every_image_is_there_whenever_replacing_shards_is_interrupted(source, done, tmp_path, monkeypatch):
    """After `done` of the new files have their names: what was there goes only when all of them are in place."""
    write_tfrecords.write(source, tmp_path, 2, progress=False)
    rename, count = unfinished.atomic_replace, iter(range(4))

    def interrupted(aside, path):
        if next(count) == done:
            raise KeyboardInterrupt
        rename(aside, path)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "atomic_replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_tfrecords.write(source, tmp_path, 3, overwrite=True, check=True, progress=False)
    assert {record.image_id for record in read(tmp_path).records} == {record.image_id for record in source.records}
    write_tfrecords.write(source, tmp_path, 3, overwrite=True, check=True, progress=False)
    assert len(list(tmp_path.glob("train-*.tfrecord"))) == 3 and len(read(tmp_path).records) == 5


@pytest.mark.parametrize("shards", [0, 6])
def test_as_many_shards_as_there_may_be(source, shards, tmp_path):
    with pytest.raises(write_tfrecords.WriteError, match=rf"expected 1\.\.5, .* received {shards}"):
        write_tfrecords.write(source, tmp_path / "out", shards, progress=False)


def test_nothing_is_left_of_a_write_that_fails(source, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write_tfrecords, "_encode", fail)
    with pytest.raises(KeyboardInterrupt):
        write_tfrecords.write(source, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("check", [False, True])
def test_what_was_interrupted_goes_on_behind_its_last_whole_shard(check, source, tmp_path, monkeypatch, capsys):
    """In the end the files are those of a call that was not interrupted; other records, or shards, begin anew."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    source = source._replace(records=[source.records[0]._replace(path=str(bad), span=None), *source.records[1:]])
    whole = write_tfrecords.write(source, tmp_path / "whole", 3, check=check, progress=False)
    encode, left = write_tfrecords._encode, 3  # shards of two images, one of them bad, two and one

    def interrupted(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(write_tfrecords, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tfrecords.write(source, tmp_path / "out", 3, check=check, progress=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".train.unfinished"]
    changed = tmp_path / "changed"
    shutil.copytree(tmp_path / "out", changed)
    left = 1
    resumed = write_tfrecords.write(source, tmp_path / "out", 3, check=check)
    assert "train: goes on; 2 of 3 shards are written" in capsys.readouterr().err
    assert resumed.records == whole.records == 4 and resumed.skipped == whole.skipped
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "out")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    left = 5
    os.utime(bad)  # an image is another one since
    write_tfrecords.write(source, changed, 3, check=check)
    assert "goes on" not in capsys.readouterr().err


def test_what_is_written_whole_stays_when_the_same_call_goes_on(source, tmp_path, monkeypatch):
    """A call writes one split after another: where the second was interrupted, the first is done."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    source = source._replace(records=[source.records[0]._replace(path=str(bad), span=None), *source.records[1:]])
    first = write_tfrecords.write(source, tmp_path / "out", 2, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert write_tfrecords.write(source, tmp_path / "out", 2, progress=False) == first and len(first.skipped) == 1
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    other = tmp_path / "out" / "train-00000-of-00005.tfrecord"  # of a set that was being replaced
    other.write_bytes(Path(first.files[0]).read_bytes())
    with pytest.raises(write_tfrecords.WriteError, match="--overwrite"):
        write_tfrecords.write(source, tmp_path / "out", 2, progress=False)
    other.unlink()
    described = tmp_path / "out" / ".train.written"
    text = described.read_text()
    for wrong in ("", "[" * 100_000, text.replace('"skipped": [', '"skipped": [1, ')):
        described.write_text(wrong)
        with pytest.raises(write_tfrecords.WriteError, match="--overwrite"):
            write_tfrecords.write(source, tmp_path / "out", 2, progress=False)
    described.write_text(text)
    (tmp_path / "out" / "train.json").rename(tmp_path / "train.json")
    with pytest.raises(write_tfrecords.WriteError, match="--overwrite"):
        write_tfrecords.write(source, tmp_path / "out", 2, progress=False)
    (tmp_path / "train.json").rename(tmp_path / "out" / "train.json")
    os.truncate(first.files[0], 100)
    with pytest.raises(write_tfrecords.WriteError, match="--overwrite"):
        write_tfrecords.write(source, tmp_path / "out", 2, progress=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_annotations_called_as_its_own_file_stay(overwrite, source, tmp_path):
    mine = tmp_path / "train.json"
    mine.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(write_tfrecords.WriteError, match=r"train\.json is no file"):
        write_tfrecords.write(source, tmp_path, 2, overwrite=overwrite, progress=False)
    assert "annotations" in mine.read_text()


def test_what_is_damaged_of_an_interrupted_call_is_written_anew(source, tmp_path, monkeypatch):
    whole = write_tfrecords.write(source, tmp_path / "out", 3, progress=False)
    rename = unfinished.atomic_replace

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "atomic_replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tfrecords.write(source, tmp_path / "again", 3, progress=False)
    monkeypatch.setattr(unfinished, "atomic_replace", rename)
    aside = tmp_path / "again" / ".train.unfinished"
    names = [Path(file).name for file in whole.files]
    (aside / f"{names[0]}.json").write_text("")
    os.truncate(aside / names[1], 4)
    write_tfrecords.write(source, tmp_path / "again", 3, progress=False)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("done", range(4))
def test_it_goes_on_where_it_was_interrupted_while_shards_got_their_names(done, source, tmp_path, monkeypatch):
    rename, count = unfinished.atomic_replace, iter(range(4))

    def interrupted(aside, path):
        if next(count) == done:
            raise KeyboardInterrupt
        rename(aside, path)

    whole = write_tfrecords.write(source, tmp_path / "whole", 3, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "atomic_replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_tfrecords.write(source, tmp_path / "out", 3, progress=False)
    monkeypatch.setattr(write_tfrecords, "_encode", None)  # nothing is left to encode
    assert write_tfrecords.write(source, tmp_path / "out", 3, progress=False).records == whole.records
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "out")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_set_of_shards_that_is_not_whole_is_told(source, tmp_path):
    for file in write_tfrecords.write(source, tmp_path, 3, progress=False).files[1:]:
        Path(file).unlink()
    assert any("2 of 3 shards are missing" in str(problem) for problem in read(tmp_path).problems)


def test_two_sets_side_by_side_are_told(source, tmp_path):
    for count in (2, 3):
        write_tfrecords.write(source, tmp_path / str(count), count, progress=False)
    for file in (tmp_path / "3").glob("*.tfrecord"):
        shutil.copy(file, tmp_path / "2")
    found = [str(problem) for problem in read(tmp_path / "2").problems]
    assert any("sets of 2 and 3 shards called train lie side by side" in each for each in found)


def foreign(**features):
    def feature(values):
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        make = {"bytes_list": tf.train.BytesList, "float_list": tf.train.FloatList, "int64_list": tf.train.Int64List}[
            kind
        ]
        return tf.train.Feature(**{kind: make(value=values)})

    named = {f"image/{key.replace('__', '/')}": feature(values) for key, values in features.items() if values}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_foreign(file, *examples):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            writer.write(example)


def bbox(y1, x1, y2, x2):
    return {
        "object__bbox__ymin": [y1],
        "object__bbox__xmin": [x1],
        "object__bbox__ymax": [y2],
        "object__bbox__xmax": [x2],
    }


PNG = cv2.imencode(".png", np.zeros([50, 100, 3], np.uint8))[1].tobytes()


def test_other_writers_files(tmp_path):
    """As of the TensorFlow Object Detection API: no size, classes by text or by a label map, difficult objects."""
    one = foreign(
        encoded=[PNG],
        filename=[b"a.png"],
        **bbox(0.5, 0.25, 1.0, 0.75),
        object__class__label=[5],
        object__class__text=[b"dog"],
    )
    two = foreign(
        encoded=[PNG], filename=[b"b.png"], **bbox(0.0, 0.0, 0.5, 0.5), object__class__label=[2], object__difficult=[1]
    )
    write_foreign(tmp_path / "coco_train.record-00000-of-00002", one)
    write_foreign(tmp_path / "coco_train.record-00001-of-00002", two)
    write_foreign(tmp_path / "coco_val.record", foreign(encoded=[PNG], filename=[b"c.png"]))
    assert splits(tmp_path) == ("coco_train", "coco_val")
    source = read(tmp_path)
    assert (source.classes, source.category_ids, source.problems) == (("2", "dog"), (2, 5), ())
    np.testing.assert_allclose(source.records[0].boxes, [[25, 25, 50, 75]])
    assert [record.labels.tolist() for record in source.records] == [[1], [0]]
    assert [record.difficult.tolist() for record in source.records] == [[False], [True]]
    assert not any(record.crowd.any() for record in source.records)
    assert [record.image_id for record in source.records] == ["a.png", "b.png"]
    assert source.records[0].size == (50, 100)

    val = read(tmp_path, "val")
    assert val.classes == source.classes  # though val has no box
    assert val.records[0].boxes.shape == (0, 4)

    (tmp_path / "labels.pbtxt").write_text(
        "item { id: 2 name: 'cat' }\nitem {\n  id: 5\n  name: 'dog'\n}\nitem { id: 9 name: 'eel' }"
    )
    assert read(tmp_path).classes == ("cat", "dog", "eel")
    assert len(read(tmp_path / "coco_train.record-00001-of-00002", "coco_train").records) == 1
    assert len(read(str(tmp_path / "coco_*.record-0000?-of-00002"), "train").records) == 2


def test_things_that_are_wrong_are_named(tmp_path):
    good = foreign(encoded=[PNG], source_id=[b"1"], **bbox(0.5, 0.25, 1.0, 0.75), object__class__label=[1])
    examples = [
        good,
        foreign(encoded=[PNG], source_id=[b"2"], **bbox(0.5, 0.5, 0.5, 0.75), object__class__label=[1]),
        foreign(encoded=[PNG], source_id=[b"3"], **bbox(0.5, 0.5, 0.6, 0.75), object__class__label=[8]),
        foreign(source_id=[b"4"]),
        foreign(encoded=[b"no image"], source_id=[b"5"]),
        good,
    ]
    write_foreign(tmp_path / "train.tfrecord", *examples)
    (tmp_path / "train.json").write_text(json.dumps({"categories": [{"id": 1, "name": "cat"}], "integer_ids": True}))
    source = read(tmp_path)
    assert [record.image_id for record in source.records] == [1, 2, 3, 1]
    assert [len(record.boxes) for record in source.records] == [1, 0, 0, 1]
    messages = [problem.message for problem in source.problems]
    for message, words in zip(
        messages,
        [
            "record 1 (2): box 1: .* no area",
            "unknown class 8",
            "no image/encoded",
            "not an image",
            "the id 1 is used twice",
        ],
        strict=True,
    ):
        assert all(word in message for word in words.split(".*"))


@pytest.mark.parametrize("cut", [1, 5, 40, 400])
def test_truncated_shards_are_read_to_where_they_end(source, cut, tmp_path):
    (file,) = write_tfrecords.write(source, tmp_path / "out", progress=False).files
    Path(file).write_bytes(Path(file).read_bytes()[:-cut])
    again = read(tmp_path / "out")
    assert len(again.records) == 4
    (problem,) = again.problems
    assert problem.file == file
    assert "cut off or damaged at byte" in problem.message and "after 4 records" in problem.message


@pytest.mark.parametrize("content", [b"\0" * 100, b"nothing of the kind" * 10])
def test_files_that_only_look_like_shards(content, tmp_path):
    (tmp_path / "train.tfrecord").write_bytes(content)
    with pytest.raises(tfrecords.ShardError, match="not a TFRecord file"):
        tfrecords.index(tmp_path / "train.tfrecord")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00004.tfrecord", "train"),
        ("coco_train.record-00000-of-00100", "coco_train"),
        ("val.record", "val"),
        ("test.tfrecords", "test"),
        ("a-b-00001-of-00002.tfrecord", "a-b"),
        ("train.json", None),
        ("notes.txt", None),
        ("tfrecord", None),
    ],
)
def test_split_of(name, split):
    assert tfrecords.split_of(name) == split
