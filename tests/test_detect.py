"""The Detector against letterboxing and decoding by hand; what is found as pictures, JSON and film; sources found or named."""

import io
import json

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively
from PIL import Image, ImageOps

from tfyolo import detect, exports
from tfyolo import model as models
from tfyolo.checkpoint import CheckpointError
from tfyolo.config import ConfigError
from tfyolo.data import augment, pipeline
from tfyolo.detect import Detector, ImageDetections, SourceError

SIDE = 64  # of the network's input
ORANGE = [255, 128, 0]


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
    """Boxes in pixels of the picture, scores and labels, for a picture whose longer side is 64 or a multiple."""
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


def test_boxes_lie_in_the_picture_and_have_an_area(detector):
    for size in [(13, 200), (200, 13), (1, 1), (37, 41)]:
        boxes = detector(picture(*size), 0).boxes
        assert (boxes >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def assert_same(left, right):
    np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-3)
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-5)
    np.testing.assert_array_equal(left.labels, right.labels)
    assert len(left.boxes) > 5


def test_a_path_bytes_and_an_array_are_the_same_picture(detector, tmp_path):
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
    assert_same(detector(grey), detector(np.stack([grey] * 3, -1)))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_lie_in_the_upright_picture(detector, orientation):
    contents = jpeg(picture(48, 80), orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    found = detector(contents)
    assert_same(found, detector(upright))
    assert found.image.shape == upright.shape


@pytest.mark.parametrize(
    "image, received",
    [
        (np.zeros([8, 8, 3], "float32"), r"float32 \[8, 8, 3\]"),
        (np.zeros([8, 8, 4], "uint8"), r"uint8 \[8, 8, 4\]"),
        (np.zeros([1, 8, 8, 3], "uint8"), r"uint8 \[1, 8, 8, 3\]"),
        (np.zeros([0, 8, 3], "uint8"), r"uint8 \[0, 8, 3\]"),
    ],
)
def test_arrays_that_are_no_pictures_are_told(detector, image, received):
    with pytest.raises(pipeline.ImageError, match=f"expected a picture .* uint8 .* received {received}"):
        detector(image)


@pytest.mark.parametrize("size", [(64, 64), (50, 333), (333, 50), (7, 5)])
def test_restore_is_the_way_back_from_letterboxing(size):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (1, 20, 2, 2)), axis=2) * size
    boxes = corners.reshape(1, 20, 4).astype("float32")
    matrix = np.asarray(augment.letterbox(size, (96, 160)))[None]
    there = pipeline.transform_boxes(boxes[0], matrix[0])[None]
    np.testing.assert_allclose(detect.restore(there, matrix, [size]), boxes, rtol=1e-4, atol=1e-3)
    everything = detect.restore(tf.constant([[[-1e3, -1e3, 1e3, 1e3]]]), matrix, [size])
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


def test_what_is_found_as_names_json_and_a_picture():
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


# --- sources ------------------------------------------------------------------------------------------------------------------


def test_sources_are_files_folders_and_globs(tmp_path):
    names = ("b.PNG", "a.jpg", "film.mp4", "notes.txt", "[1].jpg", "deep/c.jpg")
    (tmp_path / "deep").mkdir()
    for name in names:
        (tmp_path / name).touch()

    def found(*sources):
        return [
            str(file).removeprefix(f"{tmp_path}/") for file in detect.find_pictures(tmp_path / name for name in sources)
        ]

    assert found("") == ["[1].jpg", "a.jpg", "b.PNG", "film.mp4"]
    assert found("notes.txt", "a.jpg") == ["notes.txt", "a.jpg"]  # who names a file means it
    assert found("*.jpg") == ["[1].jpg", "a.jpg"]
    assert found("**/*.jpg") == ["[1].jpg", "a.jpg", "deep/c.jpg"]
    assert found("[1].jpg") == ["[1].jpg"]  # a file first, only then a pattern


def test_sources_that_mean_nothing_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.jpg: .* no file answers to"):
        detect.find_pictures([tmp_path / "nowhere.jpg"])
    with pytest.raises(SourceError, match="folder without pictures"):
        detect.find_pictures([tmp_path])
    with pytest.raises(SourceError, match=r"none\.h5"):
        detect.find_pictures([tmp_path / "*none.h5"])


# --- films --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 48))
    for seed in range(5):
        writer.write(picture(48, 80, seed)[..., ::-1])
    writer.release()
    return path


def frames_of(path):
    return list(detect.frames(str(path))[0])


def test_a_film_is_its_frames(detector, film, tmp_path):
    rows = detect.detect_video(detector, str(film), tmp_path / "out.mp4", score=0.3, progress=False)
    frames = frames_of(film)
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(frames[2], picture(48, 80, 2), atol=40)  # RGB, in order
    for row, frame in zip(rows, frames, strict=True):
        assert row == {**detector(frame, 0.3).to_json(), "file": str(film), "frame": row["frame"]}
    drawn = frames_of(tmp_path / "out.mp4")
    assert len(drawn) == 5
    for frame, expected in zip(drawn, frames, strict=True):
        error = np.abs(frame.astype(int) - detector(expected, 0.3).draw()).mean()
        assert error < np.abs(frame.astype(int) - expected).mean()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_first_frames_of_a_film(detector, film, tmp_path):
    assert len(detect.detect_video(detector, str(film), tmp_path / "out.mp4", limit=2, progress=False)) == 2
    assert len(frames_of(tmp_path / "out.mp4")) == 2


def test_ctrl_c_keeps_what_was_read(detector, film, tmp_path):
    seen = []

    def stopped(picture, score):
        seen.append(picture)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return detector(picture, score)

    rows = detect.detect_video(stopped, str(film), tmp_path / "out.mp4", progress=False)
    assert len(rows) == len(frames_of(tmp_path / "out.mp4")) == 3


def test_films_that_are_none_are_named(detector, tmp_path):
    (tmp_path / "no.mp4").write_text("no film")
    for name in ("no.mp4", "missing.mp4"):
        with pytest.raises(SourceError, match=rf"{name}: expected a camera or a video"):
            detect.detect_video(detector, str(tmp_path / name), tmp_path / "out.mp4", progress=False)
    assert not (tmp_path / "out.mp4").exists()


# --- more than one look -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", pytest.param("cornernet-small", marks=pytest.mark.slow)])
def test_what_several_looks_propose_goes_into_one_suppression(name, tmp_path):
    """By hand: each look by itself, its boxes moved back, all candidates beside each other."""
    model = lively(name)
    models.save_model(tmp_path / "run.h5", model)
    height, width = model.config.model.input_size
    detector = detect.load(tmp_path / "run.h5", flip=True, scales=(1.0, 2.0))
    assert detector.input_size == (2 * height, 2 * width)
    images = np.random.default_rng(0).random((1, 2 * height, 2 * width, 3)).astype("float32")
    found = detector.network(images)
    boxes, scores = [], []
    for factor, view in ((2, tf.image.resize(images, (height, width), antialias=True).numpy()), (1, images)):
        each = models.resized(model, view.shape[1:3])
        for flipped in (False, True):
            seen = each.decoder(each.network(view[:, :, ::-1] if flipped else view))
            moved = factor * seen.boxes.numpy()
            boxes.append(
                np.stack([moved[..., 0], 2 * width - moved[..., 3], moved[..., 2], 2 * width - moved[..., 1]], -1)
                if flipped
                else moved
            )
            scores.append(seen.scores)
    order = [np.lexsort(np.asarray(x)[0].sum(-1, keepdims=True).T) for x in (found.scores, np.concatenate(scores, 1))]
    np.testing.assert_allclose(
        np.asarray(found.scores)[0][order[0]], np.concatenate(scores, 1)[0][order[1]], rtol=1e-3, atol=1e-5
    )
    if name == "demo":  # corners' pairs of equal scores change places
        np.testing.assert_allclose(found.boxes, np.concatenate(boxes, 1), rtol=1e-3, atol=2e-2)
    assert len(detector(picture(height, width)).boxes) > 0


def test_looks_that_cannot_be_are_told(tmp_path):
    for name, options, message in (
        ("demo", {"scales": (1.0, 0.0)}, r"scales: expected numbers above 0, at least one, received \[1.0, 0.0\]"),
        ("demo", {"scales": (float("nan"),)}, r"scales: expected numbers above 0, at least one, received \[nan\]"),
        ("demo", {"scales": ()}, "scales: expected numbers above 0, at least one"),
        ("demo-yolov1", {"scales": (2.0,)}, "the one size that its fully or locally connected layers take"),
        ("yolov8n-e2e", {"flip": True}, r"model\.postprocess: expected one that suppresses, for more than one look"),
    ):
        models.save_model(tmp_path / f"{name}.h5", lively(name))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            detect.load(tmp_path / f"{name}.h5", **options)


def test_an_export_looks_once(tmp_path):
    path = exports.export(lively("demo"), tmp_path, [exports.Form("tflite")])["tflite"].path
    with pytest.raises(CheckpointError, match="an export looks once; to flip and to scale, name the run"):
        detect.load(path, flip=True)
