"""Records in columns against the list of the very Records: whatever is done with the one is done with the other."""

import pickle

import numpy as np
import pytest

from tfyolo.data.sources.records import Record, Records, RecordsBuilder
from tfyolo.data.sources.source import Source, finish

ODD_NAMES = ["a.jpg", "dir/ä b.png", "/root/no suffix", "x\udcff.jpg", "dir/sub/a.jpg", "dir/c.tar.gz"]


@pytest.fixture(scope="module")
def listed():
    """Records of every kind: none to four boxes, ids and paths of all sorts, in shards and in files."""
    rng, made = np.random.default_rng(0), []
    for number in range(24):
        count = number % 5
        corners = np.sort(rng.uniform(0, 50, [count, 2, 2]), axis=1)
        made.append(
            Record(
                [number, f"id {number}", -(10**20)][number % 3],
                ODD_NAMES[number % 6],
                np.float32(corners.reshape(-1, 4)),
                np.int32(rng.integers(0, 3, count)),
                rng.random(count) < 0.5,
                np.float32(rng.uniform(1, 100, count)),
                (50 + number, 60),
                (number, 7) if number % 4 == 0 else None,
                rng.random(count) < 0.5,
            )
        )
    return made


def same(record, other):
    for one, two in zip(record, other, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two, strict=True)
        else:
            assert one == two and type(one) is type(two)


def all_same(records, others):
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        same(record, other)


MASK = np.random.default_rng(1).random(24) < 0.4
SELECTIONS = {
    "all": slice(None),
    "slice": slice(3, 17, 2),
    "backwards": slice(None, None, -1),
    "list": [5, 2, 2, -1],
    "none": [],
    "places": np.array([0, 23, 7]),
    "mask": MASK,
}


def selected(items, chosen):
    if isinstance(chosen, slice):
        return items[chosen]
    return [items[i] for i in (np.flatnonzero(chosen) if chosen is MASK else chosen)]


@pytest.mark.parametrize("chosen", SELECTIONS.values(), ids=SELECTIONS)
def test_a_selection_is_that_of_the_list(listed, chosen):
    records, expected = Records.of(listed)[chosen], selected(listed, chosen)
    all_same(records, expected)
    all_same(records[::-1][:3], expected[::-1][:3])
    all_same(records * 2, expected * 2)
    all_same(Records(records.columns()), expected)
    all_same(pickle.loads(pickle.dumps(records)), expected)
    assert list(records.files()) == [(record.path, record.span) for record in expected]
    assert list(records.ids()) == [record.image_id for record in expected]
    assert records.sizes.tolist() == [list(record.size) for record in expected]
    assert records.counts.tolist() == [len(record.boxes) for record in expected]
    assert records.image_of.tolist() == [i for i, record in enumerate(expected) for _ in record.boxes]
    for name in ("boxes", "labels", "crowd", "difficult", "areas", "ignored"):
        parts = [np.zeros([0, 4], np.float32)[:, 0] if name != "boxes" else np.zeros([0, 4], np.float32)]
        parts += [getattr(record, name) for record in expected]
        np.testing.assert_array_equal(getattr(records, name), np.concatenate(parts))


def test_single_records_as_of_a_sequence(listed):
    records = Records.of(iter(listed))
    same(records[-1], listed[-1])
    same(records[np.int32(4)], listed[4])
    with pytest.raises(IndexError):
        records[24]
    assert Records.of(records) is records and records == records[:] and records != records[1:] and records != listed
    with pytest.raises(ValueError, match="read-only"):
        records[4].boxes[0] = 0
    with pytest.raises(ValueError, match=r"a\.jpg: expected labels, crowd and areas of 4 boxes, received 4, 0 and 4"):
        Records.of([listed[4]._replace(path="a.jpg", crowd=np.zeros(0, bool))])


def test_repetitions_are_counted_once(listed):
    records = Records.of(listed)
    all_same(records[[4, 1, 4, 9, 1]].once(), [listed[i] for i in (4, 1, 9)])
    assert records.once() is records and (records[:5] * 3).once() == records[:5]


def test_other_labels_leave_boxes_out(listed):
    records = Records.of(listed)[::2]
    found = records.with_labels(np.int32([7, -1, 0])[records.labels])

    def relabelled(record):
        kept = record.labels != 1
        columns = {name: getattr(record, name)[kept] for name in ("boxes", "crowd", "areas", "difficult")}
        return record._replace(labels=np.int32([7, -1, 0])[record.labels][kept], **columns)

    all_same(found, [relabelled(record) for record in listed[::2]])


def test_a_source_takes_any_records_and_keeps_them_in_columns(listed):
    source = Source(tuple(listed), ("a", "b", "c"), (0, 1, 2), (), "made", "train", "coco")
    for each in (
        source,
        source._replace(name="other"),
        source._replace(records=listed),
        pickle.loads(pickle.dumps(source)),
    ):
        assert isinstance(each.records, Records)
        all_same(each.records, listed)
    assert source._replace(name="other").records is source.records
    few = source.with_classes(["c", "new"])
    assert few.classes == ("c", "new") and few.category_ids == (2, None)
    assert len(few.records) == 24 and few.records.labels.tolist() == [0] * int((source.records.labels == 2).sum())


def test_images_without_an_id_are_called_by_their_stems(listed):
    names = ["dir/one.jpg", "dir/two.png", "other/two.jpg", "given.jpg"]
    records = RecordsBuilder()
    for name in names:
        records.append(listed[0]._replace(path=name, image_id=7 if name == "given.jpg" else None))

    class Nothing:
        finished, doubts = tuple, staticmethod(lambda total: "")

    assert [*finish(records, (), (), Nothing, "voc").records.ids()] == ["one", "dir/two.png", "other/two.jpg", 7]
