"""Decoding against cv2 and PIL, broken files, and how images are fitted to a network's size."""

import io
import struct

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import spanning
from PIL import Image

from tfyolo.data import decoding, geometry
from tfyolo.data.contents import ImageError

RNG = np.random.default_rng(0)
PHOTO = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (31, 22))  # smooth, odd and not square
NOISE = RNG.integers(0, 256, (22, 31), np.uint8)

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
    """An APP1 segment; the image's own directory comes with another tag, the thumbnail's is the second."""

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


@pytest.mark.parametrize("orientation, order", spanning(range(1, 9), "<>"))
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
    path = tmp_path / "image.jpg"
    path.write_bytes(BROKEN[message])
    with pytest.raises(ImageError) as error:
        decoding.read_image(path)
    assert str(path) in str(error.value) and message in str(error.value)
    with pytest.raises(ImageError, match=f"{len(BROKEN[message])} bytes"):
        decoding.read_image(BROKEN[message])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_in_graph(BROKEN[message])


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg: no such file"):
        decoding.read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="a folder, not an image"):
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
    # The middle of it is the image's colour, and what lies a pixel outside is grey.
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
def test_darknets_ways_to_fit_a_image(size):
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
