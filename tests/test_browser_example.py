"""examples/browser/ in a real Chromium: its boxes are those that `tfyolo detect` finds in the same files."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading

import cv2
import numpy as np
import pytest
from conftest import ROOT, SHARED, lively
from test_detect import picture

from tfyolo.boxes import pairwise_iou
from tfyolo.exports.export import export
from tfyolo.exports.targets import Target
from tfyolo.predict.load import load

pytestmark = pytest.mark.slow
PACKAGES = ("@litertjs/core@2.5", "puppeteer-core@24")
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
CLASSES = ("a", "b", "größer")
# One network of each way to bring images to its size.
MODELS = {
    "letterbox": ("yolov8n", {}),
    "letterbox_top_left": ("yolox-nano", {}),
    "stretch": ("demo", {"model.preprocess": "stretch", "model.input_size": "[64,96]"}),
    "darknet": ("demo", {"model.preprocess": "darknet", "model.input_size": "[96,64]"}),
}
SCORE = 0.25


@pytest.fixture(scope="module")
def chromium():
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    return next(filter(None, found), None) or pytest.skip(
        f"needs a browser: one of {', '.join(BROWSERS)}, or $CHROMIUM"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of examples/ with what npm installs beside the page, and the driver with its own."""
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(ROOT / "tests" / "browser_driver" / "drive.mjs", folder)
    npm = shutil.which("npm") or pytest.skip("needs node and npm, which are not on this machine")
    for place, package in ((folder / "examples" / "browser", PACKAGES[0]), (folder, PACKAGES[1])):
        command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", place, package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"needs the network: npm cannot install {package}: {done.stderr[-300:]}")
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url(folder):
    handler = functools.partial(_Quiet, directory=folder / "examples")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/browser/"
        server.shutdown()


@pytest.fixture(scope="module")
def images(folder):
    """Files without loss, one of them made much smaller; of the real photographs, two."""
    made = {"small.png": picture(150, 220, seed=1), "large.png": picture(701, 503, seed=2)}
    for name, image in made.items():
        cv2.imwrite(str(folder / name), image[..., ::-1])
    photographs = [SHARED / "data" / "photos" / name for name in ("dog.jpg", "giraffe.jpg")]
    return [folder / name for name in made] + [path for path in photographs if path.exists()]


def driven(chromium, folder, url, model, images):
    """What the page finds in each image, and in what the camera shows: {"boxes", "scores", "labels", "names", "ms"}."""
    camera = folder / "camera.mjpeg"
    cv2.imwrite(str(folder / "camera.jpg"), picture(96, 128, seed=3))
    (folder / "camera.jpg").replace(camera)  # one image after the other is what MJPEG is
    command = ["node", folder / "drive.mjs", chromium, url, model, camera, *images]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("fit", MODELS)
def test_finds_what_detect_finds(fit, chromium, folder, url, images):
    name, extra = MODELS[fit]
    model = lively(name, CLASSES, **extra)
    assert model.preprocess == fit
    ((_, exported),) = export(model, folder / fit, [Target("tflite", nms="none")]).items()
    *found, camera = driven(chromium, folder, url, exported.path, images)
    detector = load(exported.path)
    for page, image in zip(found, images, strict=True):
        expected = detector(image, SCORE)
        assert len(expected.boxes) > 5
        assert page["names"] == [CLASSES[label] for label in page["labels"]]
        if image.suffix == ".png":  # the same pixels
            np.testing.assert_allclose(page["scores"], expected.scores, atol=1e-3)
            np.testing.assert_allclose(page["boxes"], expected.boxes, atol=0.1)
            np.testing.assert_array_equal(page["labels"], expected.labels)
        else:  # another decoder of JPEG
            assert_found(page, expected)
            assert_found(expected, page)
    assert len(camera["boxes"]) > 0


def assert_found(these, others):
    """Each of these detections, unless just above the threshold, has one like it among the others."""
    get = dict.get if isinstance(these, dict) else getattr
    other = dict.get if isinstance(others, dict) else getattr
    boxes, scores, labels = (np.array(get(these, name)) for name in ("boxes", "scores", "labels"))
    overlap = pairwise_iou(boxes.astype("float32"), np.array(other(others, "boxes"), "float32")).numpy()
    alike = overlap > 0.9
    alike &= np.abs(scores[:, None] - np.array(other(others, "scores"))) < 0.05
    alike &= labels[:, None] == np.array(other(others, "labels"))
    assert alike.any(axis=1)[scores > SCORE + 0.05].all()


def test_says_what_it_does_not_take(chromium, folder, url):
    model = lively("demo", CLASSES)
    ((_, exported),) = export(model, folder / "builtin", [Target("tflite")]).items()
    with pytest.raises(AssertionError, match="expected a file of --nms none, received builtin"):
        driven(chromium, folder, url, exported.path, [])


def test_is_one_page_and_one_script():
    files = [path for path in (ROOT / "examples" / "browser").iterdir() if path.suffix in (".html", ".js")]
    assert sorted(path.name for path in files) == ["index.html", "page.js"]
    assert sum(len(path.read_text().splitlines()) for path in files) < 300
