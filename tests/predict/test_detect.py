"""The Detector against letterboxing and decoding by hand; results as drawings, JSON and video; sources."""

import dataclasses
import io
import json
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively
from PIL import Image, ImageOps, ImageShow

from tfyolo.data import geometry
from tfyolo.data.contents import ImageError
from tfyolo.predict import imaging, media, video
from tfyolo.predict.detections import ImageDetections
from tfyolo.predict.detector import Detector
from tfyolo.predict.media import SourceError
from tfyolo.predict.sources import Saving
from tfyolo.visualize import image_files

SIDE = 64  # of the network's input


@pytest.fixture(scope="module")
def model():
    return lively("demo")


@pytest.fixture(scope="module")
def detector(model):
    return Detector.of(model)


def picture(height, width, seed=0):
    """Smooth noise, which survives JPEG."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255)


def jpeg(image, orientation=None):
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(image).save(file, "jpeg", exif=exif, quality=95)
    return file.getvalue()


def by_hand(model, image, score=0.25):
    """Boxes in pixels of the image, scores and labels, for an image whose longer side is 64 or a multiple."""
    factor = max(image.shape[:2]) // SIDE
    height, width = image.shape[0] // factor, image.shape[1] // factor
    small = image.reshape(height, factor, width, factor, 3).mean((1, 3)) / 255
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas = np.full((1, SIDE, SIDE, 3), 114 / 255)
    canvas[0, top : top + height, left : left + width] = small
    raw = model.network(canvas.astype("float32"), training=False)
    found = tf.nest.map_structure(np.asarray, model.postprocess(model.decoder(raw)))
    boxes = (found.boxes[0] - [top, left, top, left]) * factor
    boxes = np.clip(boxes, 0, [*image.shape[:2], *image.shape[:2]])
    kept = (found.scores[0] >= score) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[kept], found.scores[0][kept], found.labels[0][kept]


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (64, 20), (128, 64), (96, 192)])
def test_boxes_are_what_letterboxing_by_hand_gives(model, detector, size):
    image = picture(*size)
    boxes, scores, labels = by_hand(model, image)
    found = detector(image)
    assert len(boxes) > 5 and found.image is image and found.file is None
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.best == pytest.approx(scores.max(), abs=1e-5)


def test_boxes_lie_in_the_image_and_have_an_area(detector):
    for size in [(13, 200), (200, 13), (1, 1), (37, 41)]:
        boxes = detector(picture(*size), 0).boxes
        assert (boxes >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def assert_same(left, right):
    np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-3)
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-5)
    np.testing.assert_array_equal(left.labels, right.labels)
    assert len(left.boxes) > 5


def test_a_path_bytes_and_an_array_are_the_same_image(detector, tmp_path):
    image = picture(48, 80)
    contents = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    file = tmp_path / "ein Bild, größer.png"
    file.write_bytes(contents)
    expected = detector(image)
    for source in (contents, file, str(file)):
        found = detector(source)
        assert_same(found, expected)
        np.testing.assert_array_equal(found.image, image)
        assert found.file == (None if source is contents else str(file))


def test_grey_is_the_colour_of_three_equal_channels(detector):
    grey = picture(48, 80)[..., 0]
    for image in (grey, grey[..., None]):
        assert_same(detector(image), detector(np.stack([grey] * 3, -1)))


# Each makes the same image of an array.
MADE = {
    "bytearray": lambda image: bytearray(cv2.imencode(".png", image[..., ::-1])[1].tobytes()),
    "memoryview": lambda image: memoryview(cv2.imencode(".png", image[..., ::-1])[1].tobytes()),
    "pil": Image.fromarray,
    "alpha": lambda image: np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]),
    "pil with alpha": lambda image: Image.fromarray(np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])),
    "tensor": tf.constant,
    "read backwards": lambda image: image[:, ::-1].copy()[:, ::-1],
}


@pytest.mark.parametrize("kind", MADE)
def test_all_that_is_an_image_is_the_same_image(detector, kind):
    image = picture(48, 80)
    found = detector(MADE[kind](image))
    np.testing.assert_array_equal(found.image, image)
    assert_same(found, detector(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pil_image_of_any_mode_is_the_image_of_its_file(detector, mode):
    """Where a file can hold the mode; the others are PIL's own colours."""
    image = Image.fromarray(picture(48, 80))
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype("uint16") * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    found, file = detector(image), io.BytesIO()
    assert image.mode == mode
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image.save(file, "png")
        np.testing.assert_array_equal(found.image, detector(file.getvalue()).image)
    else:
        np.testing.assert_array_equal(found.image, image.convert("RGB"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_lie_in_the_upright_image(detector, orientation):
    contents = jpeg(picture(48, 80), orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    for found in (detector(contents), detector(Image.open(io.BytesIO(contents)))):
        assert_same(found, detector(upright))
        assert found.image.shape == upright.shape


@pytest.mark.parametrize(
    "image, received",
    [
        (np.zeros([8, 8, 3], "float32"), r"float32 \[8, 8, 3\]; of values from 0 to 1, \(255 \* image\)"),
        (tf.zeros([8, 8, 3]), r"float32 \[8, 8, 3\]"),
        (np.zeros([8, 8, 3], bool), r"bool \[8, 8, 3\]"),
        (np.zeros([8, 8, 2], "uint8"), r"uint8 \[8, 8, 2\]"),
        (np.zeros([3, 8, 9], "uint8"), r"uint8 \[3, 8, 9\]; put the channels last"),
        (np.zeros([1, 1, 8, 8, 3], "uint8"), r"uint8 \[1, 1, 8, 8, 3\]"),
        (np.zeros([0, 8, 3], "uint8"), r"uint8 \[0, 8, 3\]"),
        (np.zeros([8], "uint8"), r"uint8 \[8\]"),
        (None, "NoneType"),
        (0.5, "float"),
        (3, "int"),
        ({"image": 1}, "dict"),
        (Image.new("F", (8, 8)), "F; convert it"),
        ([None], "NoneType"),
        ([[np.zeros([8, 8, 3], "uint8")]], "list"),
    ],
)
def test_what_is_no_image_is_an_error(detector, image, received):
    with pytest.raises(ImageError, match=f"expected an? (image|PIL image).*received {received}"):
        detector(image)


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan"), None, "0.5"])
def test_scores_lie_between_0_and_1(detector, model, score):
    for call in (detector, detector.stream):
        with pytest.raises(ValueError, match="score: expected a number from 0 to 1, received"):
            call(picture(8, 8), score)
    for option in ("score", "iou"):
        with pytest.raises(ValueError, match=f"{option}: expected a number from 0 to 1, received"):
            Detector.of(model, **{option: score})


@pytest.mark.parametrize("batch", [0, -1, None, 2.0])
def test_no_images_at_a_time_are_an_error_and_no_empty_result(detector, batch):
    for call in (detector, detector.stream):
        with pytest.raises(ValueError, match="batch: expected a whole number above 0, received"):
            call([picture(8, 8)], batch=batch)


# --- many images ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return [picture(*size, seed) for seed, size in enumerate([(64, 64), (40, 90), (90, 40), (13, 17), (200, 64)])]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_list_is_each_of_its_images(detector, images, batch):
    given = [images[0], Image.fromarray(images[1]), tf.constant(images[2]), *images[3:]]
    together = detector(given, 0.1, batch=batch)
    assert isinstance(together, list) and len(together) == 5
    for one, image in zip(together, images, strict=True):
        assert_same(one, detector(image, 0.1))
        np.testing.assert_array_equal(one.image, image)


def test_batches_of_all_sizes_share_a_trace(model, images):
    detector = Detector.of(model)
    for count in (1, 2, 3, 4, 5):
        detector(images[:count])
    for traced in (detector.network, detector.postprocess):
        assert traced.experimental_get_tracing_count() == 2  # of the first size, and of any


def test_a_batch_is_a_list_and_an_empty_list_is_one(detector, images):
    batch = np.stack([images[0], picture(64, 64, 9)])
    for found, image in zip(detector(batch), batch, strict=True):
        assert_same(found, detector(image))
    assert [*map(len, detector(tf.constant(batch)))] == [*map(len, detector(batch))]
    assert detector([]) == []


@pytest.fixture
def folder(tmp_path, images, video_file):
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_folder_is_gone_through_as_it_is_asked_for(detector, images, folder, monkeypatch):
    monkeypatch.setattr(media, "AHEAD", 0)
    read, reader = [], imaging.read_image
    monkeypatch.setattr(imaging, "read_image", lambda path, *most: read.append(path) or reader(path, *most))
    found = detector.stream(folder, batch=2)
    assert read == []
    first = next(found)
    assert read == [f"{folder}/0.png", f"{folder}/1.png"] == [first.file, next(found).file]
    rest = list(found)
    assert [each.file for each in rest] == [*(f"{folder}/{n}.png" for n in (2, 3, 4)), *[f"{folder}/video.avi"] * 5]
    assert [each.frame for each in rest] == [None, None, None, 0, 1, 2, 3, 4]
    assert_same(rest[2], detector(images[4]))
    frames = frames_of(folder / "video.avi")
    assert_same(rest[5], detector(frames[2]))
    # A call with a source of several images is a stream.
    for source in (folder, f"{folder}/*", f"{folder}/video.avi"):
        assert [each.file for each in detector(source)] == [each.file for each in detector.stream(source)]


@pytest.mark.parametrize("ahead", [0, 1, 9])
def test_what_is_done_ahead_comes_in_order_and_stops_where_it_is_left(ahead, monkeypatch):
    monkeypatch.setattr(media, "AHEAD", ahead)
    monkeypatch.setattr(media, "cores", lambda: 3)
    begun = []

    def slow(number):
        begun.append(number)
        time.sleep(0.02 * (number % 3 == 0))
        if number == 5:
            raise ImageError("five")
        return -number

    results = media.ahead(slow, range(40))
    for number in range(8):
        item, result = next(results)
        assert item == number
        if number == 5:
            with pytest.raises(ImageError, match="five"):
                result()
        else:
            assert result() == -number
    results.close()
    assert len(begun) <= 8 + 3 * ahead + 1
    every = list(media.ahead(slow, range(6, 40)))  # whose results are asked for once all are there
    assert [(item, result()) for item, result in every] == [(number, -number) for number in range(6, 40)]


def test_a_stream_is_made_of_anything(detector, images, folder):
    sources = (source for source in (images[0], f"{folder}/1.png", folder / "video.avi", Image.fromarray(images[2])))
    found = list(detector.stream(sources))
    assert [each.frame for each in found] == [None, None, 0, 1, 2, 3, 4, None]
    assert_same(found[-1], detector(images[2]))
    for one in (images[0], f"{folder}/0.png", (folder / "0.png").read_bytes(), Image.fromarray(images[0])):
        (only,) = detector.stream(one)
        assert_same(only, detector(images[0]))


def test_what_cannot_be_read_ends_a_stream_or_is_noted(detector, folder):
    (folder / "1.png").write_bytes(b"no image")
    (folder / "video.avi").write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"1\.png"):
        list(detector.stream(folder, batch=1))
    skipped = []
    found = list(detector.stream(folder, skipped=skipped))
    assert [each.file for each in found] == [f"{folder}/{n}.png" for n in (0, 2, 3, 4)]
    assert [file for file, _ in skipped] == [f"{folder}/1.png", f"{folder}/video.avi"]
    assert "no image" in skipped[0][1] and "it does not open" in skipped[1][1]
    with pytest.raises(SourceError, match="a name that no file has"):
        detector.stream(folder / "*.tif")
    with pytest.raises(SourceError, match="folder without images"):
        (folder / "empty").mkdir()
        detector(folder / "empty")


def test_a_camera_is_a_number(detector, images, monkeypatch):
    monkeypatch.setattr(media, "frames", lambda source, most_pixels: (iter(images[:source]), 25.0))
    assert [(each.file, each.frame) for each in detector.stream(3)] == [(None, 0), (None, 1), (None, 2)]


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (50, 333), (333, 50), (7, 5)])
def test_restore_is_the_way_back_from_letterboxing(size):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (1, 20, 2, 2)), axis=2) * size
    boxes = corners.reshape(1, 20, 4).astype("float32")
    matrix = np.asarray(geometry.letterbox(size, (96, 160)))[None]
    there = geometry.transform_boxes(boxes[0], matrix[0])[None]
    np.testing.assert_allclose(geometry.restore(there, matrix, [size]), boxes, rtol=1e-4, atol=1e-3)
    everything = geometry.restore(tf.constant([[[-1e3, -1e3, 1e3, 1e3]]]), matrix, [size])
    np.testing.assert_array_equal(everything, [[[0, 0, *size]]])


def test_the_score_decides_what_is_found(detector):
    everything, image = detector(picture(64, 64), 0), picture(64, 64)
    middle = float(np.median(everything.scores))
    found = detector(image, middle)
    assert 0 < len(found.scores) < len(everything.scores) and found.scores.min() >= middle
    np.testing.assert_array_equal(found.scores, everything.scores[everything.scores >= middle])
    nothing = detector(image, 1.0)
    assert not len(nothing.boxes) and nothing.best == everything.best > 0.5
    assert nothing.to_json()["detections"] == [] and nothing.to_json()["best"] == round(nothing.best, 4)
    np.testing.assert_array_equal(nothing.draw(), image)


def test_options_go_over_the_configs_post_processing(model):
    image = picture(64, 64)
    assert len(Detector.of(model, limit=3)(image, 0).boxes) == 3
    assert len(Detector.of(model, iou=0.1)(image, 0).boxes) < len(Detector.of(model, iou=0.9)(image, 0).boxes)


def test_what_is_found_as_names_json_and_an_image():
    image = np.zeros([60, 90, 3], np.uint8)
    boxes = np.array([[10, 20, 40, 80], [5.126, 6, 7, 8]], "float32")
    found = ImageDetections(boxes, np.float32([0.9, 0.25]), np.int32([1, 0]), ("cat", "dog"), 0.90004, image, "a/b.jpg")
    assert found.names == ["dog", "cat"]
    assert found.boxes_xyxy[0].tolist() == [20, 10, 80, 40]
    assert json.loads(json.dumps(found.to_json())) == {
        "file": "a/b.jpg",
        "height": 60,
        "width": 90,
        "best": 0.9,
        "detections": [
            {"class": "dog", "label": 1, "score": 0.9, "box_xyxy": [20, 10, 80, 40]},
            {"class": "cat", "label": 0, "score": 0.25, "box_xyxy": [6, 5.13, 8, 7]},
        ],
    }
    drawn = found[:1].draw()
    assert drawn.shape == image.shape and not image.any()
    edges = {"top": drawn[8:13, 70], "left": drawn[30, 18:23], "bottom": drawn[37:43, 50], "right": drawn[30, 77:83]}
    assert all(edge.any() for edge in edges.values()) and not drawn[30, 40:60].any() and not drawn[45:].any()


@pytest.fixture
def found():
    boxes = np.array([[10, 20, 40, 80], [5.5, 6, 7, 8], [0, 0, 9, 9]], "float32")
    scores, labels = np.float32([0.9, 0.5, 0.25]), np.int32([1, 0, 1])
    return ImageDetections(boxes, scores, labels, ("cat", "dog"), 0.95, np.zeros([60, 90, 3], np.uint8), "a/b.jpg")


def test_results_are_a_row_of_objects(found):
    assert len(found) == 3 and bool(found) and not found[:0]
    assert [*found] == [found[0], found[1], found[2]] and found[-1].score == 0.25
    assert found[0] == ("dog", 1, pytest.approx(0.9), (10.0, 20.0, 40.0, 80.0))
    assert found[1].name == "cat" and found[1].label == 0 and found[1].box == (5.5, 6.0, 7.0, 8.0)
    assert all(type(value) is float for value in (*found[1].box, found[1].score)) and type(found[1].label) is int
    for some in (found[found.labels == 1], found[[0, 2]], found[::2]):
        assert some.names == ["dog", "dog"] and some.scores.tolist() == found.scores[[0, 2]].tolist()
        assert some.file == "a/b.jpg" and some.best == 0.95
    with pytest.raises(IndexError):
        found[3]


def test_results_and_detectors_say_what_they_are_in_a_line(found, detector):
    assert repr(found) == "<ImageDetections a/b.jpg, 60 x 90: 2 dog, 1 cat; best score 0.95>"
    frame = dataclasses.replace(found[:0], file="video.mp4", frame=7)
    assert repr(frame) == "<ImageDetections video.mp4 frame 7, 60 x 90: nothing; best score 0.95>"
    assert repr(detector) == "<Detector demo of a model in memory: 3 classes, 64 x 64>"


def test_results_are_saved_as_the_suffix_says(found, tmp_path):
    assert found.save(tmp_path / "new" / "x.png") == tmp_path / "new" / "x.png"
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "x.png"), found.draw())
    found.save(str(tmp_path / "other" / "x.json"))
    assert json.loads((tmp_path / "other" / "x.json").read_text()) == found.to_json()
    with pytest.raises(image_files.DrawingError, match=r"expected a suffix .* received '\.xyz'"):
        found.save(tmp_path / "x.xyz")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["x.json", "x.png"]


def test_results_are_shown_where_that_can_be(found, monkeypatch):
    shown = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title=None: shown.append((image, title)) or True)
    found.show()
    ((image, title),) = shown
    np.testing.assert_array_equal(image, found.draw())
    assert title == "a/b.jpg"
    monkeypatch.setattr(ImageShow, "show", lambda image, title=None: False)
    with pytest.raises(SourceError, match=r"found none on this machine; use save\(path\)"):
        found.show()


def test_results_go_into_other_libraries(found, monkeypatch):
    """Which are played here: what they are given is what counts."""
    played = SimpleNamespace(Detections=lambda xyxy, **more: {"xyxy": xyxy, **more}, DataFrame=dict)
    for name in ("supervision", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
        with pytest.raises(ImportError, match=f"needs {name}: pip install {name} "):
            getattr(found, f"to_{name}")()
        monkeypatch.setitem(sys.modules, name, played)
    made = found.to_supervision()
    np.testing.assert_array_equal(made["xyxy"], found.boxes_xyxy)
    np.testing.assert_array_equal(made["confidence"], found.scores)
    assert made["class_id"].tolist() == [1, 0, 1] and made["data"]["class_name"].tolist() == ["dog", "cat", "dog"]
    table = found.to_pandas()
    assert list(table) == ["name", "label", "score", "y1", "x1", "y2", "x2"]
    assert table["name"] == ["dog", "cat", "dog"] and table["x2"].tolist() == [80, 8, 9]
    assert [*map(len, found[:0].to_pandas().values())] == [0] * 7


# --- sources ----------------------------------------------------------------------------------------------------------


def test_sources_are_files_folders_and_globs(tmp_path):
    names = ("b.PNG", "a.jpg", "video.mp4", "notes.txt", "[1].jpg", "deep/c.jpg")
    (tmp_path / "deep").mkdir()
    for name in names:
        (tmp_path / name).touch()

    def found(*sources):
        return [
            str(file).removeprefix(f"{tmp_path}/") for file in media.find_images(tmp_path / name for name in sources)
        ]

    assert found("") == ["[1].jpg", "a.jpg", "b.PNG", "video.mp4"]
    assert found("notes.txt", "a.jpg") == ["notes.txt", "a.jpg"]  # who names a file means it
    assert found("*.jpg") == ["[1].jpg", "a.jpg"]
    assert found("**/*.jpg") == ["[1].jpg", "a.jpg", "deep/c.jpg"]
    assert found("[1].jpg") == ["[1].jpg"]  # a file first, only then a pattern


def test_sources_that_mean_nothing_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.jpg: .* no file has"):
        media.find_images([tmp_path / "nowhere.jpg"])
    with pytest.raises(SourceError, match="folder without images"):
        media.find_images([tmp_path])
    with pytest.raises(SourceError, match=r"none\.h5"):
        media.find_images([tmp_path / "*none.h5"])


# --- videos -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def video_file(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 48))
    for seed in range(5):
        writer.write(picture(48, 80, seed)[..., ::-1])
    writer.release()
    return path


def frames_of(path):
    return list(media.frames(str(path))[0])


def test_a_video_is_its_frames(detector, video_file, tmp_path):
    rows = video.detect_video(detector, str(video_file), tmp_path / "out.mp4", score=0.3, progress=False)
    frames = frames_of(video_file)
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(frames[2], picture(48, 80, 2), atol=40)  # RGB, in order
    for row, frame in zip(rows, frames, strict=True):
        assert row == {**detector(frame, 0.3).to_json(), "file": str(video_file), "frame": row["frame"]}
    drawn = frames_of(tmp_path / "out.mp4")
    assert len(drawn) == 5
    for frame, expected in zip(drawn, frames, strict=True):
        error = np.abs(frame.astype(int) - detector(expected, 0.3).draw()).mean()
        assert error < np.abs(frame.astype(int) - expected).mean()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_first_frames_of_a_video(detector, video_file, tmp_path):
    assert len(video.detect_video(detector, str(video_file), tmp_path / "out.mp4", limit=2, progress=False)) == 2
    assert len(frames_of(tmp_path / "out.mp4")) == 2


def test_ctrl_c_keeps_what_was_read(detector, video_file, tmp_path):
    seen = []

    def stopped(image, score):
        seen.append(image)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return detector(image, score)

    stopped.max_pixels = detector.max_pixels
    rows = video.detect_video(stopped, str(video_file), tmp_path / "out.mp4", progress=False)
    assert len(rows) == len(frames_of(tmp_path / "out.mp4")) == 3


def test_a_fault_amid_a_video_leaves_no_half_of_it(detector, video_file, tmp_path):
    (tmp_path / "out.mp4").write_text("old")
    seen = []

    def faulty(image, score):
        seen.append(image)
        if len(seen) == 3:
            raise MemoryError
        return detector(image, score)

    faulty.max_pixels = detector.max_pixels
    with pytest.raises(MemoryError):
        video.detect_video(faulty, str(video_file), tmp_path / "out.mp4", progress=False)
    assert (tmp_path / "out.mp4").read_text() == "old" and not list(tmp_path.glob(".*"))


def test_videos_that_are_none_are_named(detector, tmp_path):
    (tmp_path / "no.mp4").write_text("no video")
    for name in ("no.mp4", "missing.mp4"):
        with pytest.raises(SourceError, match=rf"{name}: expected a camera or a video"):
            video.detect_video(detector, str(tmp_path / name), tmp_path / "out.mp4", progress=False)
    assert not (tmp_path / "out.mp4").exists()


class Stub:
    """Finds nothing, anywhere."""

    max_pixels = 1

    def __call__(self, image, score):
        return SimpleNamespace(to_json=dict, draw=lambda: image)


def test_a_video_that_opencv_cannot_write_is_an_error(tmp_path, monkeypatch):
    black = np.zeros((32, 32, 3), np.uint8)
    monkeypatch.setattr(video, "frames", lambda *_: ((black for _ in range(2)), 25.0))
    with pytest.raises(SourceError, match=r"video\.xyz: expected a video's name .*received the suffix '\.xyz'"):
        video.detect_video(Stub(), "in.mp4", tmp_path / "video.xyz", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["..", ".", "", "../../x", "/etc/x", "n" * 400])
def test_crops_lie_in_the_folder_for_them_whatever_a_class_is_called(name, tmp_path):
    boxes = np.array([[1, 1, 9, 9]], np.float32)
    found = ImageDetections(boxes, np.ones(1, np.float32), np.zeros(1, np.int32), (name,), 1.0, picture(20, 20), None)
    Saving(crops=tmp_path / "out" / "crops").saved(found, tmp_path / "out" / "photo.jpg")
    (crop,) = (file for file in tmp_path.rglob("*") if file.is_file())
    assert crop.parent.parent == tmp_path / "out" / "crops"
