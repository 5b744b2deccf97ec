"""Headers of image files: header, graph and read_image give one answer; and what is not decoded."""

import io
import os
import struct

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_config, slow, spanning
from PIL import Image, ImageOps

from tfyolo.config import Augment
from tfyolo.data import datasets, decoding, headers, readers
from tfyolo.data.check import check
from tfyolo.data.contents import ImageError

KINDS = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "TIFF": "TIFF"}
# Unlike in every corner, so that no two orientations look the same.
PIXELS = np.zeros((48, 64, 3), np.uint8)
PIXELS[:16, :24], PIXELS[30:, 40:], PIXELS[:10, 50:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)

decode_in_graph = tf.function(decoding.decode_image, input_signature=[tf.TensorSpec([], tf.string)])


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def orientation_in_graph(contents):
    return decoding._orientation(decoding._exif(contents))


def encoded(kind, orientation=None, mode="RGB", **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        exif[0x010F] = "a maker of cameras"
        options["exif"] = exif
    file = io.BytesIO()
    options |= {"lossless": True} if kind == "WebP" and "lossless" not in options else {}
    Image.fromarray(PIXELS).convert(mode).save(file, KINDS.get(kind, kind), **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation, kind", spanning([None, *range(1, 9)], [*KINDS]))
def test_header_graph_and_read_image_turn_it_alike(kind, orientation, tmp_path):
    contents = encoded(kind, orientation)
    (tmp_path / "image").write_bytes(contents)
    with Image.open(io.BytesIO(contents)) as image:  # the oracle
        upright = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    for file in (contents, tmp_path / "image", io.BytesIO(contents)):
        header = headers.read_header(file)
        assert (header.kind, header.size) == (kind, upright.shape[:2])
    decoded = [decoding.read_image(contents)] + ([decode_in_graph(contents).numpy()] if kind != "TIFF" else [])
    for image in decoded:
        assert image.shape == upright.shape
        assert np.abs(image.astype(int) - upright).mean() < 6  # JPEG's own loss


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "L"}),
        ("JPEG", {"mode": "CMYK"}),
        ("PNG", {"mode": "P"}),
        ("PNG", {"mode": "1"}),
        ("GIF", {"mode": "P"}),
        ("BMP", {}),
        ("BMP", {"mode": "P"}),
        ("WebP", {"lossless": False}),
        ("WebP", {"lossless": True}),
        ("WebP", {"mode": "RGBA"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"mode": "L", "big_tiff": True}),
    ],
)
def test_sizes_of_all_kinds(kind, options):
    contents = encoded(kind, **options)
    expected = "other" if "big_tiff" in options else kind
    assert headers.read_header(contents) == headers.Header(expected, (48, 64), 1)
    assert decoding.read_image(contents).shape == (48, 64, 3)


def test_a_bmp_whose_rows_run_down():
    contents = bytearray(encoded("BMP"))
    contents[22:26] = struct.pack("<i", -48)
    assert headers.image_size(bytes(contents)) == (48, 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_damage_is_read_alike(kind):
    """Damaged EXIF: header and graph give the same orientation; a header damaged elsewhere is an OSError."""
    rng, compared = np.random.default_rng(0), 0
    contents = bytearray(encoded(kind, 6))
    at = max(contents.find(mark) for mark in (b"Exif", b"eXIf", b"EXIF"))
    for _ in range(250):
        damaged = contents.copy()
        for place in rng.integers(max(12, at - 20), min(len(contents), at + 60), rng.integers(0, 4)):
            damaged[place] = rng.choice([0, 1, 255, rng.integers(256)])
        if rng.random() < 0.2:
            damaged = damaged[: rng.integers(at, len(damaged))]
        try:
            header = headers.read_header(bytes(damaged))
        except OSError:
            continue
        turned = int(orientation_in_graph(bytes(damaged)))
        assert header.orientation == (turned if turned <= 8 else 1)
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("kind", [*KINDS, "GIF", "BMP"])
def test_headers_cut_anywhere_are_errors_or_right(kind):
    contents = encoded(kind)
    for length in range(0, min(len(contents), 400)):
        try:
            assert headers.image_size(contents[:length]) == (48, 64)
        except OSError as error:
            assert str(error)


@pytest.mark.parametrize(
    "contents", [b"\xff\xd8" + bytes(100_000), b"\xff\xd8" + b"\xff\xe0\0\2" * 30_000, b"\xff\xd8" + b"\xff" * 100_000]
)
def test_a_jpeg_without_end_is_an_error_at_once(contents):
    with pytest.raises(OSError, match="damaged"):
        headers.read_header(contents)


# --- what is not decoded ----------------------------------------------------------------------------------------------


def bomb(side=40_000):
    """A PNG of some hundred bytes that claims 1,600 million pixels."""
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_an_image_of_too_many_pixels_is_an_error_before_it_is_decoded(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"40,000 x 40,000 pixels .* at most 200,000,000"):
        decoding.read_image(bomb())
    contents = encoded("JPEG")
    monkeypatch.setattr(decoding, "decode_image", None)  # which is not called
    with pytest.raises(ImageError, match=r"48 x 64 pixels .* at most 3,000 .*max_pixels"):
        decoding.read_image(contents, 3000)


def evasive(kind):
    """An image of 48 x 64 with a header that is not read here, and that decoders read all the same."""
    if kind == "JPEG":
        return b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000 + encoded("JPEG")[2:]
    import cv2

    pixels = np.random.default_rng(0).random([48, 64, 3], "float32")
    return cv2.imencode(".hdr", pixels)[1].tobytes()


@pytest.mark.parametrize("kind", ["JPEG", slow("HDR")])
def test_a_header_that_is_not_read_does_not_lead_past_the_limit(kind, tmp_path):
    contents = evasive(kind)
    with pytest.raises(OSError, match=r"damaged|not an image"):
        headers.read_header(contents)
    with pytest.raises(ImageError):
        decoding.read_image(contents, 48 * 64 - 1)
    (tmp_path / "image.png").write_bytes(encoded("PNG"))
    (tmp_path / "image.txt").write_text("0 .5 .5 .2 .2")
    source = readers.read(tmp_path, "all", names=["a"], max_pixels=48 * 64 - 1)
    (tmp_path / "image.png").write_bytes(contents)
    skipped = {}
    next(iter(datasets.eval_dataset(source, size=(32, 32), batch=1, skipped=skipped)))
    assert list(skipped) == [0]


@pytest.fixture
def with_a_bomb(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, contents in (("good.png", encoded("PNG")), ("bomb.png", bomb())):
        (tmp_path / "images" / name).write_bytes(contents)
        (tmp_path / "labels" / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2")
    return tmp_path


@pytest.mark.slow
def test_training_leaves_out_what_is_too_large(with_a_bomb):
    source, skipped = readers.read(with_a_bomb, "all", names=["a"]), {}
    still = Augment(flip=0, scale=0, translate=0, hue=0, saturation=0, value=0)
    options = {"size": (32, 32), "batch": 2, "augment": still, "seed": 0, "epochs": 1}
    dataset, _ = datasets.train_dataset(source, **options, skipped=skipped)
    next(iter(dataset))
    assert list(skipped) == [0]


def test_evaluation_and_check_data_leave_out_what_is_too_large(with_a_bomb):
    tmp_path = with_a_bomb
    source, skipped = readers.read(tmp_path, "all", names=["a"], max_pixels=48 * 64 - 1), {}
    next(iter(datasets.eval_dataset(source, size=(32, 32), batch=2, skipped=skipped)))
    assert "40,000 x 40,000 pixels" in skipped[0] and "48 x 64 pixels (H x W), expected at most 3,071" in skipped[1]
    report = check(tmp_path, names=["a"], progress=False)
    assert [problem.file for problem in report.errors] == [str(tmp_path / "images/bomb.png")]
    assert "40,000 x 40,000 pixels" in report.errors[0].message


def test_detection_has_the_same_limit(tmp_path):
    from tfyolo.predict.detector import Detector

    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "image.png").write_bytes(encoded("PNG"))
    detector = Detector(load_config("demo"), ("a",), lambda images: images, None, "made")
    with pytest.raises(ImageError, match="40,000 x 40,000 pixels"):
        detector(tmp_path / "bomb.png")
    detector.max_pixels = 1000
    for image in (tmp_path / "image.png", encoded("PNG"), [encoded("PNG")]):
        with pytest.raises(ImageError, match=r"48 x 64 pixels .* at most 1,000"):
            detector(image)
    skipped = []
    assert list(detector.stream(tmp_path, skipped=skipped)) == []
    assert [file for file, _ in skipped] == [str(tmp_path / "bomb.png"), str(tmp_path / "image.png")]


def test_hidden_files_are_not_detected_in(tmp_path):
    from tfyolo.predict.media import find_images

    for name in (
        "a.jpg",
        "b.jfif",
        "._a.jpg",
        ".ipynb_checkpoints/a.jpg",
        "@eaDir/a.jpg",
        "__MACOSX/._a.jpg",
        "c/d.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "e.jpg")
    assert find_images([tmp_path]) == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jfif")]
    assert find_images([tmp_path / "*/*.*"]) == [str(tmp_path / "c/d.png")]
    assert find_images([tmp_path / "@eaDir/*.jpg"]) == [str(tmp_path / "@eaDir/a.jpg")]


def test_fifos_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    for path in (tmp_path / "fifo.jpg", "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            headers.read_header(path)
        with pytest.raises(ImageError, match="not a regular file"):
            decoding.read_image(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "GIF", "BMP"])
def test_damaged_images_are_errors_or_images(kind):
    """A header that can be read says the size of what is decoded, whatever the damage."""
    rng, ends = np.random.default_rng(0), {"image": 0, "error": 0}
    contents = bytearray(encoded(kind, 6 if kind in KINDS else None))
    for _ in range(200):
        damaged = contents.copy()
        for place in rng.integers(2, len(contents), rng.integers(1, 8)):
            damaged[place] = rng.integers(256)
        damaged = bytes(damaged[: rng.integers(2, len(damaged))] if rng.random() < 0.3 else damaged)
        try:
            image = decoding.read_image(damaged, 1 << 22)
        except ImageError:
            ends["error"] += 1
            continue
        ends["image"] += 1
        assert image.dtype == np.uint8 and image.ndim == 3
        assert headers.image_size(damaged) == image.shape[:2]
    print(kind, ends)
