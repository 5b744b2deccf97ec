"""Decoding against cv2 and PIL; data sets against their promises: order, repetition, padding, broken files."""

import io
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfyolo.config import Augment
from tfyolo.data import datasets, decoding, geometry, loading, readers, write_tfrecords
from tfyolo.data.geometry import FITS
from tfyolo.data.sources import source as source_module
from tfyolo.data.sources.source import DataError, Record, Source

RNG = np.random.default_rng(0)
PHOTO = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (31, 22))  # smooth, odd and not square
NOISE = RNG.integers(0, 256, (22, 31), np.uint8)
PLAIN = Augment(flip=0, scale=0, translate=0, hue=0, saturation=0, value=0)

decode_in_graph = tf.function(decoding.decode_image, input_signature=[tf.TensorSpec([], tf.string)])


def encode(extension, image=PHOTO, *options):
    return cv2.imencode(extension, image[..., ::-1] if image.ndim == 3 else image, options)[1].tobytes()


def pil_encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_cv2(contents):
    return cv2.imdecode(np.frombuffer(contents, np.uint8), cv2.IMREAD_COLOR_RGB)


def by_pil(contents):
    return np.array(Image.open(io.BytesIO(contents)).convert("RGB"))


# --- decoding ---------------------------------------------------------------------------------------------------------

RGB = Image.fromarray(PHOTO)
RGBA = RGB.copy()
RGBA.putalpha(Image.fromarray(NOISE))

FILES = {
    "jpeg": (encode(".jpg"), by_cv2),
    "jpeg, progressive": (encode(".jpg", PHOTO, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), by_cv2),
    "jpeg, grey": (pil_encode(RGB.convert("L"), "jpeg"), by_cv2),
    "jpeg, CMYK": (pil_encode(RGB.convert("CMYK"), "jpeg"), by_pil),
    "png": (encode(".png"), by_cv2),
    "png, grey": (encode(".png", NOISE), by_cv2),
    "png, grey and alpha": (pil_encode(RGBA.convert("LA"), "png"), by_cv2),
    "png, alpha": (pil_encode(RGBA, "png"), by_cv2),
    "png, palette": (pil_encode(RGB.convert("P"), "png"), by_cv2),
    "png, palette and transparency": (pil_encode(RGB.convert("P"), "png", transparency=3), by_pil),
    "png, one bit": (pil_encode(RGB.convert("1"), "png"), by_cv2),
    "png, 16 bits": (encode(".png", NOISE.astype(np.uint16).repeat(3).reshape(22, 31, 3) * 251), by_cv2),
    "png, 16 bits grey": (encode(".png", NOISE.astype(np.uint16) * 251), by_cv2),
    "gif": (pil_encode(RGB, "gif"), by_pil),
    "gif, two frames": (pil_encode(RGB, "gif", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]), by_pil),
    "bmp": (encode(".bmp"), by_cv2),
    "bmp, grey": (encode(".bmp", NOISE), by_cv2),
    "bmp, palette": (pil_encode(RGB.convert("P"), "bmp"), by_cv2),
    "bmp, alpha": (pil_encode(RGBA, "bmp"), by_cv2),
    "webp": (pil_encode(RGB, "webp", lossless=True), by_cv2),
}
OTHER_FILES = {
    "tiff": (pil_encode(RGB, "tiff"), by_pil),
    "tiff, LZW": (pil_encode(RGB, "tiff", compression="tiff_lzw"), by_pil),
    "bmp, one bit": (pil_encode(RGB.convert("1"), "bmp"), by_pil),
}


@pytest.mark.parametrize("name", FILES)
def test_decode_image(name):
    contents, oracle = FILES[name]
    image = decode_in_graph(contents)
    assert image.dtype == tf.uint8
    np.testing.assert_array_equal(image, oracle(contents))
    np.testing.assert_array_equal(decoding.decode_image(tf.constant(contents)), image)


@pytest.mark.parametrize("name", [*FILES, *OTHER_FILES])
def test_read_image_from_bytes_file_and_span(name, tmp_path):
    contents, oracle = (FILES | OTHER_FILES)[name]
    (tmp_path / "file").write_bytes(contents)
    (tmp_path / "shard").write_bytes(b"before" + contents + b"after")
    for source in (
        contents,
        tmp_path / "file",
        str(tmp_path / "file"),
        (tmp_path / "file", None),
        (tmp_path / "shard", (6, len(contents))),
    ):
        image = decoding.read_image(source)
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, oracle(contents))


def test_adobe_cmyk_looks_like_its_rgb():
    contents = pil_encode(RGB.convert("CMYK"), "jpeg", quality=100, subsampling=0)
    assert b"Adobe" in contents
    assert np.abs(decoding.read_image(contents).astype(int) - PHOTO).mean() < 4


# --- orientation ------------------------------------------------------------------------------------------------------


def exif(orientation, order="<", *, thumbnail=None):
    """An APP1 segment; the picture's own directory comes with another tag, the thumbnail's is the second."""

    def directory(entries, following):
        body = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
        return struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", following)

    entries = [(0x0103, 6)] + ([(0x0112, orientation)] if orientation else [])
    second = 8 + 2 + 12 * len(entries) + 4
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    tiff += directory(entries, second if thumbnail else 0)
    if thumbnail:
        tiff += directory([(0x0112, thumbnail)], 0)
    return b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff


JPEG = encode(".jpg", PHOTO, cv2.IMWRITE_JPEG_QUALITY, 95)
APP0_END = 4 + int.from_bytes(JPEG[4:6], "big")
XMP = b"\xff\xe1" + struct.pack(">H", 31) + b"http://ns.adobe.com/xap/1.0/\0"
COMMENT = b"\xff\xfe" + struct.pack(">H", 8) + b"Exif\0\0"  # says Exif, and is none


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, order):
    for at in (2, APP0_END):
        contents = JPEG[:at] + exif(orientation, order) + JPEG[at:]
        upright = by_cv2(contents)
        assert (upright.shape != PHOTO.shape) == (orientation >= 5)  # the oracle turns it
        np.testing.assert_array_equal(decode_in_graph(contents), upright)
    np.testing.assert_array_equal(decoding.read_image(contents), upright)


@pytest.mark.parametrize(
    "segments",
    {
        "none": b"",
        "of a thumbnail": exif(None, thumbnail=6),
        "0": exif(0),
        "9": exif(9),
        "65535": exif(65535),
        "no TIFF": b"\xff\xe1\0\x08Exif\0\0",
        "cut short": exif(6)[:30],
        "directory far away": exif(6).replace(struct.pack("<I", 8), struct.pack("<I", 1 << 30)),
        "directory before the start": exif(6).replace(struct.pack("<I", 8), struct.pack("<i", -1000)),
    }.items(),
    ids=lambda item: item[0],
)
def test_no_orientation(segments):
    contents = JPEG[:2] + segments[1] + JPEG[2:]
    try:
        expected = tf.io.decode_jpeg(contents, dct_method="INTEGER_ACCURATE")
    except tf.errors.InvalidArgumentError:
        pytest.skip("no JPEG any more")
    np.testing.assert_array_equal(decode_in_graph(contents), expected)


def test_orientation_after_other_segments():
    contents = JPEG[:APP0_END] + XMP + COMMENT + exif(6) + JPEG[APP0_END:]
    np.testing.assert_array_equal(decode_in_graph(contents), by_cv2(contents))
    assert decode_in_graph(contents).shape == (31, 22, 3)


def test_random_damage_to_exif_is_no_error():
    segment, rng = bytearray(exif(6)), np.random.default_rng(1)
    for _ in range(300):
        damaged = segment.copy()
        for at in rng.integers(10, len(segment), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        assert sorted(decode_in_graph(JPEG[:2] + bytes(damaged) + JPEG[2:]).shape) == [3, 22, 31]


# --- unreadable files -------------------------------------------------------------------------------------------------

BIG = RNG.integers(0, 256, (60, 80, 3), np.uint8)
BROKEN = {
    "truncated JPEG": encode(".jpg", BIG)[:3000],
    "damaged JPEG": JPEG[:200] + bytes(len(JPEG) - 200 - 2) + b"\xff\xd9",
    "truncated PNG": encode(".png", BIG)[:7000],
    "truncated GIF": pil_encode(Image.fromarray(BIG), "gif")[:2000],
    "no image, or a damaged one": encode(".bmp", BIG)[:7000],
    "empty": b"",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "Expected JPEG, PNG, GIF, BMP, WebP or TIFF": b"<html>Not found</html>",
    "Received: bytes that begin b'RIFF": pil_encode(Image.fromarray(BIG), "webp")[:900],
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_files_are_named(message, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(BROKEN[message])
    with pytest.raises(decoding.ImageError) as error:
        decoding.read_image(path)
    assert str(path) in str(error.value) and message in str(error.value)
    with pytest.raises(decoding.ImageError, match=f"{len(BROKEN[message])} bytes"):
        decoding.read_image(BROKEN[message])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_in_graph(BROKEN[message])


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(decoding.ImageError, match=r"nowhere\.jpg: no such file"):
        decoding.read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(decoding.ImageError, match="a folder, not an image"):
        decoding.read_image(tmp_path)


# --- into a network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (64, 96), (97, 31)])
def test_prepare_and_back(size):
    image = np.full((*size, 3), 200, np.uint8)
    prepared, transform = geometry.prepare(image, (64, 96))
    assert prepared.shape == (64, 96, 3) and prepared.dtype == tf.float32
    assert float(tf.reduce_min(prepared)) >= 114 / 255 - 1e-5 and float(tf.reduce_max(prepared)) <= 200 / 255 + 1e-5
    whole = np.array([[0, 0, *size]], np.float32)
    inside = geometry.transform_boxes(whole, transform)
    height, width = (inside[0, 2:] - inside[0, :2]).numpy()
    assert np.isclose(height, 64, rtol=1e-4) or np.isclose(width, 96, rtol=1e-4)
    np.testing.assert_allclose(height / width, size[0] / size[1], rtol=1e-4)
    np.testing.assert_allclose(inside[0, :2] + inside[0, 2:], [64, 96], rtol=1e-4)
    back = geometry.transform_boxes(inside, tf.linalg.inv(transform))
    np.testing.assert_allclose(back, whole, rtol=1e-3, atol=1e-3)
    # The middle of it is the picture's colour, and what lies a pixel outside is grey.
    if min(size) > 10:
        y1, x1, y2, x2 = np.round(inside[0].numpy()).astype(int)
        np.testing.assert_allclose(prepared[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2], 200 / 255, atol=1e-4)
        np.testing.assert_allclose(prepared[: max(y1 - 2, 0), : max(x1 - 2, 0)], 114 / 255, atol=1e-4)


def darknet_resize(image, height, width):
    """Darknet's resize_image, in float64: the middles of the corners on each other, two linear interpolations."""

    def along(x, size):
        at = np.arange(size) * ((len(x) - 1) / (size - 1))
        low = np.minimum(at.astype(int), len(x) - 2)
        part = (at - low).reshape(-1, *[1] * (x.ndim - 1))
        return x[low] * (1 - part) + x[low + 1] * part

    return along(along(image, height).swapaxes(0, 1), width).swapaxes(0, 1)


@pytest.mark.parametrize("size", [(37, 53), (120, 300), (301, 90), (64, 96)])
def test_darknets_ways_to_fit_a_picture(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    prepared, transform = geometry.prepare(image, (64, 96), "darknet")
    np.testing.assert_allclose(prepared, darknet_resize(image / 255, 64, 96), atol=2e-3)
    corners = geometry.transform_boxes(np.array([[0.5, 0.5, size[0] - 0.5, size[1] - 0.5]], "float32"), transform)
    np.testing.assert_allclose(corners, [[0.5, 0.5, 63.5, 95.5]], atol=1e-3)

    boxed, transform = geometry.prepare(image, (64, 96), "darknet_letterbox")
    height, width = (64, size[1] * 64 // size[0]) if 96 * size[0] >= 64 * size[1] else (size[0] * 96 // size[1], 96)
    expected = np.full((64, 96, 3), 0.5)
    top, left = (64 - height) // 2, (96 - width) // 2
    expected[top : top + height, left : left + width] = darknet_resize(image / 255, height, width)
    np.testing.assert_allclose(boxed, expected, atol=2e-3)
    centers = geometry.transform_boxes(np.array([[0.5, 0.5, size[0] - 0.5, size[1] - 0.5]], "float32"), transform)
    np.testing.assert_allclose(centers, [[top + 0.5, left + 0.5, top + height - 0.5, left + width - 0.5]], atol=1e-3)


@pytest.mark.parametrize("size", [(40, 50), (300, 250), (64, 500)])
def test_stretching_is_cv2s_resize(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    prepared, transform = geometry.prepare(image, (64, 96), "stretch")
    expected = cv2.resize(image.astype("float32") / 255, (96, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(prepared, expected, atol=2e-3)
    np.testing.assert_allclose(transform, np.diag([64 / size[0], 96 / size[1], 1]), rtol=1e-6)


def test_a_saved_model_takes_files(tmp_path):
    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def read(self, contents):
            return geometry.prepare(decoding.decode_image(contents), (48, 64))

    tf.saved_model.save(Reader(), tmp_path / "reader")
    read = tf.saved_model.load(tmp_path / "reader").read
    for contents in (JPEG[:2] + exif(6) + JPEG[2:], *(contents for contents, _ in FILES.values())):
        image, transform = geometry.prepare(decoding.read_image(contents), (48, 64))
        np.testing.assert_allclose(read(contents)[0], image, atol=1e-5)
        np.testing.assert_allclose(read(contents)[1], transform)


# --- data sets --------------------------------------------------------------------------------------------------------

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 255], [0, 255, 255], [255, 255, 0]], np.uint8)
SIZES = [(40, 60), (64, 64), (90, 30), (50, 100), (130, 200)]


def make_source(folder, sizes=SIZES, boxes_each=1):
    """A picture of each size; picture i has rectangles in COLOURS[i] and the label i."""
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
    """The batches as numpy, taken apart: a list of Samples of one picture in 0..1, without padding."""
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
    assert_same(whole[6:], samples(train(source, ALL, start_epoch=1, **options)[0]))
    assert_same(whole[8:], samples(train(source, ALL, start_epoch=1, start_step=1, **options)[0]))
    assert len({sample.image.tobytes() for sample in whole}) == len(whole)


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
    for i in (0, 1, 2):
        memory.keep(i, images[i])
    np.testing.assert_array_equal(memory.get(0), images[0])
    memory.keep(3, images[3])
    assert [bool(memory.get(i).size) for i in range(4)] == [True, False, True, True]
    memory.keep(4, np.zeros((50, 50, 3), np.uint8))  # more than all
    assert memory.free == 300 and not any(memory.get(i).size for i in range(5))


def test_another_seed_is_another_stream(source):
    first, second = (samples(train(source, Augment(), seed=seed)[0]) for seed in (1, 2))
    assert not {sample.image.tobytes() for sample in first} & {sample.image.tobytes() for sample in second}


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_every_picture_is_in_every_epoch(source, batch):
    dataset, steps = train(source, batch=batch, epochs=4)
    assert steps == -(-5 // batch)
    order = np.array([sample.image_id for sample in samples(dataset)]).reshape(4, steps * batch)
    for epoch in order:
        counts = np.bincount(epoch, minlength=5)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert len({epoch.tobytes() for epoch in order}) > 1


ROUNDED = 0.04  # training pictures are placed to 1/32 of a pixel, between black and white that is 1/32


def test_without_augmentation_training_sees_what_evaluation_sees(source):
    learned = {int(sample.image_id): sample for sample in samples(train(source, epochs=1, batch=1)[0])}
    judged = samples(datasets.eval_dataset(source, size=(48, 64), batch=2))
    assert [int(sample.image_id) for sample in judged] == [0, 1, 2, 3, 4, -1]
    for sample in judged[:-1]:
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


def test_mosaic_and_mixup_end_before_the_plain_epochs(source):
    for mixing in ({"mosaic": 1.0}, {"mixup": 1.0}):
        augment = PLAIN.model_copy(update=mixing)
        stream = samples(train(source, augment, epochs=3, plain_epochs=1, batch=5)[0])
        plain = {int(s.image_id): s for s in samples(datasets.eval_dataset(source, size=(48, 64), batch=1))}
        same = [np.abs(s.image - plain[int(s.image_id)].image).max() < ROUNDED for s in stream]
        assert sum(same[:10]) <= 4  # pictures that were mixed with themselves
        assert all(same[10:])
        assert all(len(s.labels) == 1 for s in stream[10:])
        assert sum(len(s.labels) > 1 for s in stream[:10]) >= 7


def test_boxes_are_padded_to_the_most_and_never_cut(tmp_path):
    source = make_source(tmp_path, [(40, 60)] * 2, boxes_each=300)
    few = source.records[1]._replace(boxes=source.records[1].boxes[:2], labels=np.array([4, 5], np.int32))
    few = few._replace(crowd=np.array([False, True]), areas=few.areas[:2])
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


@pytest.mark.parametrize("preprocess, learned", [("letterbox", True), ("stretch", False)])
def test_pictures_of_another_size_than_annotated_have_their_boxes_scaled(preprocess, learned, tmp_path):
    """Their files shrunk after the labelling, say; and a file that only lies on its side, in which boxes are as it is seen upright."""
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


@pytest.mark.parametrize("preprocess", ["letterbox", "stretch"])
def test_a_mosaics_tiles_are_brought_to_the_size_as_the_config_says(preprocess, tmp_path):
    """Boxes that are whole have the sides that they have in the picture alone."""
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


def test_pictures_without_boxes(tmp_path):
    source = make_source(tmp_path, boxes_each=0)
    for dataset in (train(source)[0], datasets.eval_dataset(source, size=(48, 64), batch=2)):
        for batch in dataset:
            assert batch.boxes.shape == (2, 1, 4)
            np.testing.assert_array_equal(batch.labels, [[-1], [-1]])


def test_one_picture_and_a_larger_batch(tmp_path):
    source = make_source(tmp_path, [(40, 60)])
    dataset, steps = train(source, Augment(), batch=4)
    assert steps == 1
    stream = samples(dataset)
    assert [int(s.image_id) for s in stream] == [0] * 8
    assert len({s.image.tobytes() for s in stream}) == 8  # the same picture, but not the same changes


def test_odd_pictures_are_ordinary(tmp_path):
    source = make_source(tmp_path, [(1, 1), (3, 900), (900, 3), (700, 500)])
    for sample in samples(train(source, Augment(mosaic=0.5))[0]) + samples(
        datasets.eval_dataset(source, size=(48, 64), batch=2)
    ):
        assert np.isfinite(sample.image).all() and sample.image.min() > -1e-5 and sample.image.max() < 1 + 1e-5
        assert np.isfinite(sample.boxes).all()


def test_broken_pictures_are_grey_and_told(source, tmp_path):
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


def test_no_pictures_at_all():
    empty = Source((), ("a",), (0,), (), "made", "val", "coco")
    for make in (lambda: train(empty), lambda: datasets.eval_dataset(empty, size=(48, 64), batch=2)):
        with pytest.raises(source_module.DataError, match=r"made: expected images in its split 'val', received none"):
            make()


def test_real_pictures(shared):
    for folder in ("bccd", "coco-tiny"):
        source = readers.read(shared / "data" / folder, "train")
        source = source._replace(records=source.records[:24])
        skipped = {}
        for sample in samples(datasets.eval_dataset(source, size=(160, 192), batch=8, skipped=skipped)):
            record = source.records[sample.image_id]
            image, _ = geometry.prepare(by_cv2(np.fromfile(record.path, np.uint8)), (160, 192))
            np.testing.assert_allclose(sample.image, image, atol=1e-6)
            back = geometry.transform_boxes(sample.boxes, np.linalg.inv(sample.transform))
            np.testing.assert_allclose(back, record.boxes, atol=1e-2)
        assert not skipped


# --- images to find quantization ranges in --------------------------------------------------------------------------------------


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
