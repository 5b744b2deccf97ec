"""Detection without TensorFlow equals detection with it."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import lively, slow, spanning
from exporting import CLASSES
from PIL import Image
from test_decoding import FILES, OTHER_FILES, pil_encode
from test_detect import picture

from tfyolo import config as configs
from tfyolo.data import decoding, geometry
from tfyolo.data.contents import ImageError
from tfyolo.edge import candidates as edge
from tfyolo.edge import images
from tfyolo.exports import export as exports
from tfyolo.exports.targets import Target
from tfyolo.model import postprocess
from tfyolo.predict import heads
from tfyolo.predict import load as loading
from tfyolo.structures import Candidates

RNG = np.random.default_rng(0)

# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, *OTHER_FILES])
def test_the_same_pixels_are_read(name):
    contents, _ = (FILES | OTHER_FILES)[name]
    np.testing.assert_array_equal(images.read_image(contents), decoding.read_image(contents))


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0, 0.02, 0.6])
def test_half_an_image_is_an_error(name, share):
    contents, _ = FILES[name]
    with pytest.raises(ImageError, match=r"empty|truncated|damaged"):
        images.read_image(contents[: int(share * len(contents))])


def test_an_image_of_a_kind_that_training_does_not_read_is_none():
    for mode, kind in (("F", "tiff"), ("RGB", "ico")):
        with pytest.raises(ImageError, match="no image, or a damaged one"):
            images.read_image(pil_encode(Image.new(mode, (32, 32)), kind))


def test_more_pixels_than_pillow_opens_are_no_damage(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"more pixels than Pillow opens.*MAX_IMAGE_PIXELS"):
        images.read_image(FILES["png"][0])


def test_the_ways_to_fit_an_image_are_those_of_training():
    own = {name: (fit.fill, fit.antialias, fit.rim) for name, fit in geometry.FITS.items()}
    assert own == images.FITS


@pytest.mark.parametrize(
    "size, preprocess",
    spanning(
        [(61, 80), (300, 120), (5, 700), (700, 5), (1, 1), (97, 97), (480, 640), (1201, 903)],
        [*images.FITS],
    ),
)
def test_an_image_comes_to_the_network_as_in_training(preprocess, size):
    noise = RNG.integers(0, 256, (*size, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5) if min(size) > 4 else noise
    target = (96, 128)
    expected, transform = geometry.prepare(image, target, preprocess)
    (found,), (matrix,) = images.prepared([image], target, preprocess)
    np.testing.assert_allclose(matrix, transform, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(found - expected).mean() < 2e-5
    boxes = RNG.uniform(-20, 140, (1, 50, 4)).astype("float32")
    back = images.restored(boxes, matrix[None], [size])
    np.testing.assert_allclose(back, geometry.restore(boxes, transform[None], [size]), atol=1e-3, rtol=1e-4)


# --- candidates -------------------------------------------------------------------------------------------------------


def candidates(classes=3, count=400, size=(96.0, 128.0)):
    corner = RNG.uniform(0, 90, (2, count, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(1, 60, (2, count, 2))], axis=-1).astype("float32")
    return Candidates(boxes, RNG.beta(0.3, 1.5, (2, count, classes)).astype("float32"), {}, None, np.float32(size))


@pytest.mark.parametrize("overrides", [[], ["model.postprocess=top"]], ids=["nms", "top"])
@pytest.mark.parametrize("options", [{}, {"score": 0.2}, {"limit": 7}, {"score": 0.9999}], ids=str)
def test_the_same_candidates_are_kept(overrides, options):
    config = configs.load("demo", overrides)
    given = candidates()
    found, expected = (each(config, **options)(given) for each in (edge.postprocess, postprocess))
    for name in expected._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name)


def test_options_that_it_does_not_have_are_refused():
    config = configs.load("demo")
    with pytest.raises(configs.ConfigError, match=r"soft_sigma.*expected 0\.0.*no TensorFlow.*received 0\.5"):
        edge.postprocess(config, soft_sigma=0.5)
    with pytest.raises(configs.ConfigError, match="nonsense"):
        edge.postprocess(config, nonsense=1)


def test_integer_heads_are_decoded_alike():
    config = configs.load("yolov8n", ["model.input_size=[96, 128]"])
    count = sum((96 // stride) * (128 // stride) for stride in (8, 16, 32))
    logits = {"class_logits": RNG.normal(size=(2, count, 3)), "box_logits": RNG.normal(size=(2, count, 64))}
    logits = {name: value.astype("float32") for name, value in logits.items()}
    found, expected = edge.logits_read(config)(logits), heads.logits_read(config)(logits)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


# --- a process without TensorFlow -------------------------------------------------------------------------------------

# Runs a command where what the extra `train` brings is not installed.
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(["tensorflow", "absl", "keras", "cv2", "matplotlib", "h5py", "tensorboard"])
sys.argv[0] = "tfyolo"
"""
COMMAND = WITHOUT + "from tfyolo.cli import main; main()"


def without_tensorflow(*arguments, code=COMMAND):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    for name, size in (("wide", (90, 240)), ("tall", (321, 130))):
        cv2.imwrite(str(folder / f"{name}.png"), picture(*size))
    return folder


def exported(model, folder, nms, precision="float32", **options):
    target = Target("tflite", nms=nms, precision=precision)
    return exports.export(model, folder, [target], **options)[target.name].path


@pytest.mark.parametrize("nms", ["builtin", "none", slow("app"), slow("task"), slow("e2e")])
def test_a_file_finds_the_same(nms, files, demo, tmp_path):
    path = demo.other(nms) if nms != "builtin" else demo.paths["tflite"]
    done = without_tensorflow("detect", path, files, "--score", 0.05, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    detector = loading.load(path)
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == sorted(str(file) for file in files.glob("*.png"))
    for row in rows:
        expected = detector(row["file"], 0.05).to_json()
        assert len(expected["detections"]) > 5
        assert [each["label"] for each in row["detections"]] == [each["label"] for each in expected["detections"]]
        for found, other in zip(row["detections"], expected["detections"], strict=True):
            np.testing.assert_allclose(found["box_xyxy"], other["box_xyxy"], atol=0.05)
            assert found["score"] == pytest.approx(other["score"], abs=2e-3)
    drawn = cv2.imread(str(tmp_path / "out" / "wide.jpg"))
    assert drawn.shape == (90, 240, 3) and np.abs(drawn.astype(int) - picture(90, 240)[..., ::-1]).max() > 100


@pytest.mark.slow
def test_files_alone_are_timed(files, tmp_path):
    path = exported(lively("demo", CLASSES), tmp_path, "none")
    options = ["--seconds", 0.1, "--rounds", 2, "--threads", 1, "--image", files / "wide.png", "--json"]
    done = without_tensorflow("benchmark", path, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["competitors"].values()
    assert 0 < row["network"]["median_ms"] < row["total"]["median_ms"] and row["total"]["ratio"] == 1
    assert report["files"]["model-raw.tflite"]["peak_mb"] > 20


def test_python_has_it_too(files, demo):
    code = WITHOUT + (
        "import tfyolo, numpy\n"
        "from PIL import Image\n"
        "detector = tfyolo.load(sys.argv[1])\n"
        "pixels = numpy.asarray(Image.open(sys.argv[2]))\n"
        "every = [detector(each, 0.05) for each in (sys.argv[2], pixels, Image.open(sys.argv[2]))]\n"
        "assert len({found.boxes.tobytes() for found in every}) == 1, every\n"
        "assert len(every[0]) == len(next(iter(detector.stream([pixels], 0.05)))) > 5\n"
        "assert every[0].draw().shape == pixels.shape\n"
    )
    done = without_tensorflow(demo.paths["tflite"], files / "wide.png", code=code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "demo", "data=DATA"],
        *(
            slow(each)  # seconds each
            for each in (
                ["detect", "HEADS", "IMAGE"],
                ["evaluate", "FILE", "--data", "DATA"],
                ["export", "RUN"],
                ["detect", "RUN", "IMAGE"],
                ["detect", "SAVED_MODEL", "IMAGE"],
                ["detect", "FILE", "IMAGE", "--device", "gpu"],
                ["check-data", "DATA"],
            )
        ),
    ],
    ids=" ".join,
)
def test_what_needs_tensorflow_says_what_to_install(arguments, files, demo, tmp_path):
    places = {"RUN": demo.run, "IMAGE": files / "wide.png", "DATA": files}
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"")
    places["SAVED_MODEL"] = tmp_path / "saved_model"
    places["FILE"] = demo.paths["tflite"]
    if "HEADS" in arguments:
        places["HEADS"] = demo.other("heads")
    done = without_tensorflow(*(places.get(word, word.replace("DATA", str(files))) for word in arguments))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "pip install 'tfyolo[train]'" in done.stderr and not done.stdout


def test_a_python_name_that_needs_tensorflow_says_what_to_install():
    done = without_tensorflow(code=WITHOUT + "import tfyolo\ntfyolo.train")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("tfyolo.errors.MissingError: tfyolo.train:")


def test_a_video_asks_for_opencv(demo, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    done = without_tensorflow("detect", demo.paths["tflite"], tmp_path / "film.mp4", "--out", tmp_path / "out")
    assert done.returncode == 1 and "pip install opencv-python-headless" in done.stderr


@pytest.mark.slow
def test_the_extra_brings_no_tensorflow(files, tmp_path):
    path = exported(lively("yolov8n", CLASSES), tmp_path, "builtin")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{files.cwd()}[edge]"], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "ai-edge-litert" in listed and not {"tensorflow", "keras", "opencv"} & {*listed.lower().split()}
    command = [python, "-m", "tfyolo", "detect", path, files / "wide.png", "--out", tmp_path / "out", "--json"]
    done = subprocess.run([*command, "--score", "0.05"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["detections"]) == len(loading.load(path)(str(files / "wide.png"), 0.05)) > 5
