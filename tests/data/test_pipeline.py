"""Data sets against their promises: order, repetition, padding, broken files."""

import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow
from test_decoding import BIG, FILES, OTHER_FILES, PHOTO, RNG, by_cv2, encode

from tfyolo.config import Augment
from tfyolo.data import datasets, decoding, geometry, loading, readers, write_tfrecords
from tfyolo.data.geometry import FITS
from tfyolo.data.sources import source as source_module
from tfyolo.data.sources.source import DataError, Record, Source

PLAIN = Augment(flip=0, scale=0, translate=0, hue=0, saturation=0, value=0)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 255], [0, 255, 255], [255, 255, 0]], np.uint8)
SIZES = [(40, 60), (64, 64), (90, 30), (50, 100), (130, 200)]


def make_source(folder, sizes=SIZES, boxes_each=1):
    """An image of each size; image i has rectangles in COLOURS[i] and the label i."""
    records = []
    for i, (height, width) in enumerate(sizes):
        image = np.full((height, width, 3), 100, np.uint8)
        box = np.array([[height // 4, width // 4, height * 3 // 4, width * 3 // 4]], np.float32)
        boxes = box.repeat(boxes_each, axis=0)
        y1, x1, y2, x2 = box[0].astype(int)
        image[y1:y2, x1:x2] = COLOURS[i % 6]
        path = str(folder / f"{i}.png")
        cv2.imwrite(path, image[..., ::-1])
        labels, crowd = np.full(boxes_each, i % 6, np.int32), np.zeros(boxes_each, bool)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        records.append(Record(f"id{i}", path, boxes, labels, crowd, areas, (height, width)))
    return Source(tuple(records), tuple("abcdef"), tuple(range(6)), (), "made", "train", "coco")


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


def samples(dataset):
    """The batches as numpy, taken apart: a list of Samples of one image in 0..1, without padding."""
    result = []
    for batch in dataset:
        for row in zip(*(field.numpy() for field in batch), strict=True):
            sample = type(batch)(*row)
            sample = sample._replace(image=tf.image.convert_image_dtype(sample.image, tf.float32).numpy())
            real = sample.labels >= 0
            assert (sample.boxes[~real] == 0).all() and not sample.crowd[~real].any()
            result.append(
                sample._replace(boxes=sample.boxes[real], labels=sample.labels[real], crowd=sample.crowd[real])
            )
    return result


def train(source, augment=PLAIN, **options):
    options = {"size": (48, 64), "batch": 2, "seed": 3, "epochs": 2} | options
    return datasets.train_dataset(source, augment=augment, **options)


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in a._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


ALL = Augment(flip=0.5, flip_vertical=0.2, scale=0.3, rotate=10.0, shear=5.0, mosaic=0.5, mixup=0.5)


def test_streams_repeat_and_resume_bit_for_bit(source):
    options = {"epochs": 3, "plain_epochs": 1}
    dataset, steps = train(source, ALL, **options)
    whole = samples(dataset)
    assert steps == 3 and len(whole) == 3 * 3 * 2
    assert_same(whole, samples(dataset))
    assert_same(whole[8:], samples(train(source, ALL, start_epoch=1, start_step=1, **options)[0]))
    assert len({sample.image.tobytes() for sample in whole}) == len(whole)


@pytest.mark.slow
def test_streams_resume_at_the_beginning_of_an_epoch(source):
    whole, resumed = (samples(train(source, ALL, epochs=2, start_epoch=epoch)[0]) for epoch in (0, 1))
    assert_same(whole[6:], resumed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory", [0, 10_000, pytest.param(20_000, marks=pytest.mark.slow)]
)  # none fits, one or two do, all
def test_what_is_remembered_changes_nothing(source, memory, monkeypatch):
    whole = samples(train(source, ALL)[0])
    monkeypatch.setattr(datasets, "MEMORY", memory)
    assert_same(samples(train(source, ALL)[0]), whole)


def test_the_memory_forgets_what_was_not_asked_for():
    memory, images = loading.Memory(300), [np.full((5, 6, 3), i, np.uint8) for i in range(4)]
    notes = [np.array([i + 1, 50, 60], np.int32) for i in range(4)]
    for i in (0, 1, 2):
        memory.keep(i, images[i], notes[i])
    for found, kept in zip(memory.get(0), (images[0], notes[0]), strict=True):
        np.testing.assert_array_equal(found, kept)
    memory.keep(3, images[3], notes[3])
    assert [bool(memory.get(i)[0].size) for i in range(4)] == [True, False, True, True]
    assert memory.get(1)[1].tolist() == [1, 0, 0]
    memory.keep(4, np.zeros((50, 50, 3), np.uint8), notes[0])  # more than all
    assert memory.free == 300 and not any(memory.get(i)[0].size for i in range(5))


def test_another_seed_is_another_stream(source):
    moving = PLAIN.model_copy(update={"translate": 0.2})
    first, second = (samples(train(source, moving, seed=seed)[0]) for seed in (1, 2))
    assert not {sample.image.tobytes() for sample in first} & {sample.image.tobytes() for sample in second}


@pytest.mark.parametrize("batch", [slow(1), slow(2), slow(5), 7])
def test_every_image_is_in_every_epoch(source, batch):
    dataset, steps = train(source, batch=batch, epochs=4)
    assert steps == -(-5 // batch)
    order = np.array([sample.image_id for sample in samples(dataset)]).reshape(4, steps * batch)
    for epoch in order:
        counts = np.bincount(epoch, minlength=5)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert len({epoch.tobytes() for epoch in order}) > 1


ROUNDED = 0.04  # training images are placed to 1/32 of a pixel, between black and white that is 1/32


def test_without_augmentation_training_sees_what_evaluation_sees(source):
    learned = {int(sample.image_id): sample for sample in samples(train(source, epochs=1, batch=1)[0])}
    evaluated = samples(datasets.eval_dataset(source, size=(48, 64), batch=2))
    assert [int(sample.image_id) for sample in evaluated] == [0, 1, 2, 3, 4, -1]
    for sample in evaluated[:-1]:
        other = learned[int(sample.image_id)]
        for name in ("boxes", "labels", "crowd", "transform"):
            np.testing.assert_allclose(getattr(sample, name), getattr(other, name), atol=1e-4)
        np.testing.assert_allclose(sample.image, other.image, atol=ROUNDED)


def test_evaluation_leads_back_to_the_file(source):
    for i, sample in enumerate(samples(datasets.eval_dataset(source, size=(48, 64), batch=3))[:5]):
        record = source.records[i]
        image, transform = geometry.prepare(decoding.read_image(record.path), (48, 64))
        np.testing.assert_allclose(sample.image, image, atol=1e-6)
        np.testing.assert_array_equal(sample.transform, transform)
        back = geometry.transform_boxes(sample.boxes, np.linalg.inv(sample.transform))
        np.testing.assert_allclose(back, record.boxes, atol=1e-3)


def test_fillers_are_grey_and_empty(source):
    filler = samples(datasets.eval_dataset(source, size=(48, 64), batch=4))[-1]
    assert filler.image_id == -1 and len(filler.labels) == 0
    np.testing.assert_allclose(filler.image, 114 / 255, atol=1e-6)


def find(image, box, label):
    """The box round the connected patch of the label's colour at the middle of a box."""
    near = np.linalg.norm(image - COLOURS[label] / 255, axis=-1) < 0.43
    _, patches = cv2.connectedComponents(near.astype(np.uint8), connectivity=4)
    middle = patches[int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)]
    assert middle > 0, "another colour there"
    y, x = np.nonzero(patches == middle)
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])


def test_boxes_lie_where_the_rectangles_are(source):
    """Through the whole pipeline: flips, scale, shifts, mosaics; no turns, whose clipped hulls are larger."""
    moving = PLAIN.model_copy(update={"flip": 0.5, "flip_vertical": 0.5, "scale": 0.4, "translate": 0.2, "mosaic": 0.5})
    several = 0
    for sample in samples(train(source, moving, size=(128, 160), epochs=8)[0]):
        several += len(sample.labels) > 1
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            np.testing.assert_allclose(find(sample.image, box, label), box, atol=1.6)
    assert several > 10


@pytest.mark.slow
def test_mosaic_and_mixup_end_before_the_plain_epochs(source):
    for mixing in ({"mosaic": 1.0}, {"mixup": 1.0}):
        augment = PLAIN.model_copy(update=mixing)
        stream = samples(train(source, augment, epochs=3, plain_epochs=1, batch=5)[0])
        plain = {int(s.image_id): s for s in samples(datasets.eval_dataset(source, size=(48, 64), batch=1))}
        same = [np.abs(s.image - plain[int(s.image_id)].image).max() < ROUNDED for s in stream]
        assert sum(same[:10]) <= 4  # images that were mixed with themselves
        assert all(same[10:])
        assert all(len(s.labels) == 1 for s in stream[10:])
        assert sum(len(s.labels) > 1 for s in stream[:10]) >= 7


def test_boxes_are_padded_to_the_most_and_never_cut(tmp_path):
    source = make_source(tmp_path, [(40, 60)] * 2, boxes_each=300)
    few = source.records[1]._replace(boxes=source.records[1].boxes[:2], labels=np.array([4, 5], np.int32))
    few = few._replace(crowd=np.array([False, True]), areas=few.areas[:2], difficult=False)
    source = source._replace(records=(source.records[0], few))
    (batch,) = datasets.eval_dataset(source, size=(48, 64), batch=2)
    assert batch.image.shape == (2, 48, 64, 3) and batch.boxes.shape == (2, 300, 4)
    np.testing.assert_array_equal(batch.labels[1], [4, 5] + [-1] * 298)
    np.testing.assert_array_equal(batch.crowd[1], [False, True] + [False] * 298)
    learned = {int(s.image_id): s for s in samples(train(source, epochs=1)[0])}
    np.testing.assert_array_equal(learned[1].crowd, [False, True])
    np.testing.assert_array_equal(learned[1].labels, [4, 5])
    assert len(learned[0].labels) == 300


def test_difficult_objects_are_learned_no_more_than_crowds(tmp_path):
    source = make_source(tmp_path, [(40, 60)], boxes_each=3)
    record = source.records[0]._replace(crowd=np.array([True, False, False]), difficult=np.array([False, True, False]))
    source = source._replace(records=(record,))
    (sample,) = samples(datasets.eval_dataset(source, size=(48, 64), batch=1))
    assert sample.crowd.tolist() == [True, True, False]


@pytest.mark.parametrize("preprocess, learned", [("letterbox", True), slow("stretch", False)])
def test_images_of_another_size_than_annotated_have_their_boxes_scaled(preprocess, learned, tmp_path):
    """Files shrunk after the labelling, say; and a file that lies on its side, with boxes of the upright image."""
    source = make_source(tmp_path, [(80, 120), (40, 60), (36, 72)])
    first, second, third = source.records
    stated = first._replace(size=(40, 240), boxes=first.boxes * np.float32([0.5, 2] * 2))
    source = source._replace(records=(stated, second, third._replace(size=(72, 36))))
    resized = {}
    options = {"size": (96, 144), "batch": 1, "preprocess": preprocess, "resized": resized}
    dataset = train(source, **options)[0] if learned else datasets.eval_dataset(source, **options)
    for sample in samples(dataset):
        box = find(sample.image, sample.boxes[0], sample.labels[0])
        np.testing.assert_allclose(box, sample.boxes[0], atol=1.6)
    assert resized == {0: (80, 120), 2: (36, 72)}


@pytest.mark.parametrize("preprocess", ["letterbox", slow("stretch")])
def test_a_mosaics_tiles_are_brought_to_the_size_as_the_config_says(preprocess, tmp_path):
    """Boxes that are whole have the sides that they have in the image alone."""
    source = make_source(tmp_path, [(40, 120)])
    record = source.records[0]._replace(boxes=np.array([[15, 10, 25, 20]], np.float32))
    source, options = source._replace(records=(record,)), {"size": (96, 96), "preprocess": preprocess}
    (alone,) = geometry.transform_boxes(record.boxes, FITS[preprocess].matrix((40, 120), (96, 96))).numpy()
    mosaics = samples(train(source, PLAIN.model_copy(update={"mosaic": 1.0}), epochs=6, batch=1, **options)[0])
    sides = [box[2:] - box[:2] for sample in mosaics for box in sample.boxes if box.min() > 0 and box.max() < 96]
    assert sides
    np.testing.assert_allclose(sides, np.tile(alone[2:] - alone[:2], (len(sides), 1)), atol=1e-3)


def test_what_tensorflow_cannot_decode_is_decoded_by_all_threads(tmp_path, monkeypatch):
    source = make_source(tmp_path, [(40, 60)] * 12)
    for record in source.records:
        Path(record.path).write_bytes(encode(".tiff"))
    source = source._replace(records=tuple(record._replace(size=PHOTO.shape[:2]) for record in source.records))
    imdecode, inside, most = cv2.imdecode, [], []

    def slowly(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return imdecode(*arguments)

    monkeypatch.setattr(cv2, "imdecode", slowly)
    images = samples(datasets.eval_dataset(source, size=PHOTO.shape[:2], batch=4))
    assert max(most) > 1
    np.testing.assert_array_equal(images[-1].image, images[0].image)


def test_shapes_are_known_before_the_first_step(source):
    evaluation = datasets.eval_dataset(source, size=(48, 64), batch=2)
    for dataset, dtype in ((train(source)[0], tf.uint8), (evaluation, tf.float32)):
        spec = dataset.element_spec
        assert spec.image.shape == (2, 48, 64, 3) and spec.image.dtype == dtype
        assert spec.boxes.shape[0] == 2 and spec.boxes.shape[2] == 4 and spec.transform.shape == (2, 3, 3)
        assert (spec.labels.dtype, spec.crowd.dtype, spec.image_id.dtype) == (tf.int32, tf.bool, tf.int32)


def test_images_without_boxes(tmp_path):
    source = make_source(tmp_path, boxes_each=0)
    for dataset in (train(source)[0], datasets.eval_dataset(source, size=(48, 64), batch=2)):
        for batch in dataset:
            assert batch.boxes.shape == (2, 1, 4)
            np.testing.assert_array_equal(batch.labels, [[-1], [-1]])


def test_one_image_and_a_larger_batch(tmp_path):
    source = make_source(tmp_path, [(40, 60)])
    dataset, steps = train(source, Augment(), batch=4)
    assert steps == 1
    stream = samples(dataset)
    assert [int(s.image_id) for s in stream] == [0] * 8
    assert len({s.image.tobytes() for s in stream}) == 8  # the same image, but not the same changes


def test_odd_images_are_ordinary(tmp_path):
    source = make_source(tmp_path, [(1, 1), (3, 900), (900, 3), (700, 500)])
    for sample in samples(train(source, Augment(mosaic=0.5))[0]) + samples(
        datasets.eval_dataset(source, size=(48, 64), batch=2)
    ):
        assert np.isfinite(sample.image).all() and sample.image.min() > -1e-5 and sample.image.max() < 1 + 1e-5
        assert np.isfinite(sample.boxes).all()


def test_broken_images_are_grey_and_told(source, tmp_path):
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes(b"")
    for make in (
        lambda skipped: train(source, batch=1, epochs=2, skipped=skipped)[0],  # the second time from memory
        lambda skipped: datasets.eval_dataset(source, size=(48, 64), batch=1, skipped=skipped),
    ):
        skipped = {}
        for sample in samples(make(skipped)):
            assert (len(sample.labels) == 0) == (sample.image_id in (1, 2, 3))
            assert (np.ptp(sample.image) < 1e-6) == (sample.image_id in (1, 2, 3))
        assert set(skipped) == {1, 2, 3}
        for i, reason in {1: "truncated PNG", 2: "no such file", 3: "empty"}.items():
            assert source.records[i].path in skipped[i] and reason in skipped[i]


@pytest.mark.slow
def test_broken_images_in_mosaics_are_no_error(source, tmp_path):
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes(b"")
    assert len(samples(train(source, Augment(mosaic=1.0))[0])) == 12


def test_files_of_every_kind_in_a_data_set(tmp_path):
    records = []
    (tmp_path / "shard").write_bytes(b"".join(contents for contents, _ in FILES.values()))
    offset = 0
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, np.float32)
    for name, (contents, _) in FILES.items():
        records.append(Record(name, str(tmp_path / "shard"), *nothing, (22, 31), (offset, len(contents))))
        offset += len(contents)
    for name, (contents, _) in OTHER_FILES.items():
        (tmp_path / name).write_bytes(contents)
        records.append(Record(name, str(tmp_path / name), *nothing, (22, 31)))
    black = encode(".bmp", np.zeros((22, 31, 3), np.uint8))  # ends in zeros, which numpy's strings would lose
    (tmp_path / "black").write_bytes(black)
    records.append(Record("black", str(tmp_path / "black"), *nothing, (22, 31)))
    source = Source(tuple(records), ("a",), (0,), (), "made", "train", "coco")
    skipped = {}
    decoded = samples(datasets.eval_dataset(source, size=(22, 31), batch=1, skipped=skipped))
    assert not skipped
    for sample, (contents, oracle) in zip(
        decoded, [*FILES.values(), *OTHER_FILES.values(), (black, by_cv2)], strict=True
    ):
        np.testing.assert_allclose(sample.image, oracle(contents) / 255, atol=1e-5)


def test_no_images_at_all():
    empty = Source((), ("a",), (0,), (), "made", "val", "coco")
    for make in (lambda: train(empty), lambda: datasets.eval_dataset(empty, size=(48, 64), batch=2)):
        with pytest.raises(source_module.DataError, match=r"made: expected images in its split 'val', received none"):
            make()


def test_real_images(shared):
    for folder in ("bccd", "coco-tiny"):
        source = readers.read(shared / "data" / folder, "train")
        source = source._replace(records=source.records[:16])
        skipped = {}
        for sample in samples(datasets.eval_dataset(source, size=(160, 192), batch=8, skipped=skipped)):
            record = source.records[sample.image_id]
            image, _ = geometry.prepare(by_cv2(np.fromfile(record.path, np.uint8)), (160, 192))
            np.testing.assert_allclose(sample.image, image, atol=1e-6)
            back = geometry.transform_boxes(sample.boxes, np.linalg.inv(sample.transform))
            np.testing.assert_allclose(back, record.boxes, atol=1e-2)
        assert not skipped


# --- images to find quantization ranges in ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sorted_source(tmp_path_factory):
    """Forty images of two classes, all of one before all of the other, as many data sets come."""
    folder, made = tmp_path_factory.mktemp("sorted"), []
    for number in range(40):
        path = folder / f"{number:03d}.png"
        path.write_bytes(encode(".png", RNG.integers(0, 256, (20 + number % 3, 30, 3), np.uint8)))
        box = np.array([[1, 2, 11, 12]], "float32")
        truth = box, np.array([number // 20], "int32"), np.zeros(1, bool), np.array([100.0], "float32")
        made.append(Record(number, str(path), *truth, (20 + number % 3, 30)))
    return Source(tuple(made), ("a", "b"), (1, 2), (), "sorted", "train", "coco")


def prepared(chosen, **options):
    return list(datasets.prepared_batches(chosen, (32, 32), "letterbox", **options))


def test_a_sample_is_spread_over_the_data_and_hangs_on_nothing_but_it(sorted_source):
    every = sorted_source.records
    chosen = datasets.sampled(every, 12)
    numbers = [record.image_id for record in chosen]
    assert len(set(numbers)) == 12 and 3 <= sum(number < 20 for number in numbers) <= 9
    assert [record.image_id for record in datasets.sampled(every[::-1], 12)] == numbers
    assert datasets.sampled(every, 7) == chosen[:7] and datasets.sampled(every, 12, seed=1) != chosen
    assert sorted(record.image_id for record in datasets.sampled(every, 1000)) == list(range(40))


@pytest.mark.parametrize("shards", [1, 3])
def test_images_in_shards_are_those_in_files_in_the_same_order(shards, sorted_source, tmp_path):
    write_tfrecords.write(sorted_source, tmp_path / "records", shards, progress=False)
    again = readers.read(tmp_path / "records", "train")
    mine, theirs = (prepared(datasets.sampled(source.records, 10)) for source in (sorted_source, again))
    assert [len(batch) for batch in mine] == [4, 4, 2]
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_broken_image_among_them_is_left_out_and_told(sorted_source, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encode(".jpg", BIG)[:3000])
    chosen = [
        *sorted_source.records[:3],
        sorted_source.records[3]._replace(path=str(tmp_path / "cut.jpg")),
        *sorted_source.records[4:9],
    ]
    skipped = {}
    found = np.concatenate(prepared(chosen, skipped=skipped))
    np.testing.assert_array_equal(found, np.concatenate(prepared([*chosen[:3], *chosen[4:]])))
    assert list(skipped) == [3] and "cut.jpg: truncated JPEG" in skipped[3]
    with pytest.raises(
        DataError, match=r"expected at least half of 3 images to be readable, received 1; .*cut\.jpg: truncated JPEG"
    ):
        prepared([chosen[3], chosen[0], chosen[3]])


def test_an_image_of_more_pixels_than_the_data_may_have_is_left_out(sorted_source):
    skipped = {}
    found = prepared(sorted_source.records[:4], skipped=skipped, most_pixels=20 * 30 + 1)  # of 20, 21, 22 and 20 rows
    assert [len(batch) for batch in found] == [2] and list(skipped) == [1, 2]
    assert "21 x 30 pixels (H x W), expected at most 601" in skipped[1]


def as_jpegs(source):
    """The same images as JPEGs."""
    records = []
    for record in source.records:
        path = Path(record.path).with_suffix(".jpg")
        cv2.imwrite(str(path), cv2.imread(record.path), [cv2.IMWRITE_JPEG_QUALITY, 98])
        records.append(record._replace(path=str(path)))
    return source._replace(records=tuple(records))


@pytest.mark.parametrize(
    "size, augment, ratio",
    [
        slow((200, 300), PLAIN, 4),
        slow((200, 300), PLAIN.model_copy(update={"scale": 0.5}), 2),
        ((397, 597), PLAIN, 8),  # sides that 8 does not divide
        slow((95, 127), PLAIN, 1),
    ],
)
def test_large_jpegs_are_decoded_smaller_and_boxes_stay(size, augment, ratio, tmp_path, monkeypatch):
    """Also from memory, and of an image that is not as large as its annotations say."""
    source = as_jpegs(make_source(tmp_path, [size, size]))
    first, second = source.records
    stated = size[0] // 2, size[1] // 2
    half = second._replace(size=stated, boxes=second.boxes * np.float32(np.tile(np.divide(stated, size), 2)))
    source, sides = source._replace(records=(first, half)), set()
    keep = loading.Memory.keep
    monkeypatch.setattr(
        loading.Memory, "keep", lambda self, i, image, *rest: (sides.add(image.shape[:2]), keep(self, i, image, *rest))
    )
    resized = {}
    options = {"size": (48, 64), "batch": 1, "epochs": 3, "augment": augment, "resized": resized}
    dataset, _ = train(source, **options, reduce=True)
    made = samples(dataset)
    assert sides == {(-(-size[0] // ratio), -(-size[1] // ratio))}
    whole = samples(train(source, **options)[0])
    for sample, other in zip(made, whole, strict=True):
        np.testing.assert_allclose(sample.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(sample.transform, other.transform, atol=1e-4)
        np.testing.assert_allclose(find(sample.image, sample.boxes[0], sample.labels[0]), sample.boxes[0], atol=1.6)
        assert np.abs(sample.image - other.image).mean() < (0.02 if ratio > 1 else 1e-9)
    assert resized == {1: size}


@pytest.mark.slow
def test_only_what_is_averaged_is_decoded_smaller(tmp_path):
    source = as_jpegs(make_source(tmp_path, [(400, 600)]))
    for preprocess in ("letterbox", "darknet_letterbox"):
        options = {"size": (48, 64), "batch": 1, "epochs": 1, "preprocess": preprocess}
        small, whole = (samples(train(source, **options, reduce=reduce)[0]) for reduce in (True, False))
        assert (small[0].image == whole[0].image).all() == (preprocess != "letterbox")


def test_shards_in_order_are_a_permutation_of_windows(tmp_path, monkeypatch):
    """Every image once an epoch; images of a window lie side by side in shards."""
    monkeypatch.setattr(datasets, "WINDOW", 4)
    source = make_source(tmp_path, [(8, 8)] * 22)
    shards = [6, 3, 9, 4]
    spans = [(100 * i, 90) for count in shards for i in range(count)]
    shard = np.repeat(range(4), shards)
    columns = source.records.columns()._replace(spans=np.array(spans, np.int64))
    starts = type(source.records)(columns).shard_starts(4)
    assert starts.tolist() == [0, 6, 9, 18] and source.records.shard_starts(4).tolist() == [0, 4, 8, 12, 16, 20]
    index_of = tf.function(datasets._in_order(starts, 22, 5))
    orders = [
        [int(index_of(tf.constant(epoch, tf.int64), tf.constant(at, tf.int64))) for at in range(22)]
        for epoch in range(3)
    ]
    assert all(sorted(order) == list(range(22)) for order in orders) and orders[0] != orders[1] != orders[2]
    for order in orders:
        # Sorted within its windows, an epoch is one shard after the other, each from its first image to its last.
        sequence = [set(order[i : i + 4]) for i in range(0, 22, 4)]
        candidates = [
            [i for number in numbers for i in np.flatnonzero(shard == number)]
            for numbers in itertools.permutations(range(4))
        ]
        assert any([set(each[i : i + 4]) for i in range(0, 22, 4)] == sequence for each in candidates)


@pytest.mark.slow
def test_shards_in_order_resume_with_the_tail_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "WINDOW", 4)
    source = make_source(tmp_path, [(8, 8)] * 22)
    options = {"batch": 4, "epochs": 2, "in_order": True}
    whole = samples(train(source, **options)[0])
    assert_same(whole[28:], samples(train(source, **options, start_epoch=1, start_step=1)[0]))
