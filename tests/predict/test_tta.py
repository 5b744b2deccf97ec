"""Test-time augmentation: candidates of flips and scales go through one NMS; where there is none, an error."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import lively
from test_detect import picture

from tfyolo import model as models
from tfyolo.checkpoint import CheckpointError
from tfyolo.config import ConfigError
from tfyolo.exports import export as exports
from tfyolo.exports import targets
from tfyolo.postprocess import Top
from tfyolo.predict import load as loading
from tfyolo.predict.detector import Detector


@pytest.mark.parametrize("name", ["demo", pytest.param("cornernet-small", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_candidates_of_all_flips_and_scales_go_through_one_nms(name, tmp_path):
    """By hand: each flip and scale by itself, its boxes moved back, all candidates beside each other."""
    model = lively(name)
    models.save_model(tmp_path / "run.h5", model)
    height, width = model.config.model.input_size
    detector = loading.load(tmp_path / "run.h5", flip=True, scales=(1.0, 2.0))
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


@pytest.mark.slow
def test_impossible_tta_is_an_error(tmp_path):
    for name, options, message in (
        ("demo", {"scales": (1.0, 0.0)}, r"scales: expected numbers above 0, at least one, received \[1.0, 0.0\]"),
        ("demo", {"scales": (float("nan"),)}, r"scales: expected numbers above 0, at least one, received \[nan\]"),
        ("demo", {"scales": ()}, "scales: expected numbers above 0, at least one"),
        ("demo-yolov1", {"scales": (2.0,)}, "the one size that its fully or locally connected layers take"),
        ("yolov8n-e2e", {"flip": True}, r"model\.postprocess: expected one with NMS for test-time augmentation"),
    ):
        models.save_model(tmp_path / f"{name}.h5", lively(name))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            loading.load(tmp_path / f"{name}.h5", **options)


def test_a_flip_needs_a_post_processing_with_nms():
    """Whatever the name is that it has in the config."""
    model = lively("demo")
    with pytest.raises(ConfigError, match=r"model\.postprocess: expected one with NMS"):
        Detector.of(model._replace(postprocess=Top()), flip=True)
    Detector.of(model, flip=True)


@pytest.mark.slow
def test_an_export_has_no_tta(tmp_path):
    path = exports.export(lively("demo"), tmp_path, [targets.Target("tflite")])["tflite"].path
    with pytest.raises(CheckpointError, match="an export has no TTA; to flip and to scale, name the run"):
        loading.load(path, flip=True)


@pytest.mark.parametrize(
    "path, message",
    [
        ("yolov8n.pt", "PyTorch's weights; `tfyolo import .*yolov8n.pt` makes a run of them"),
        ("yolov4.weights", "Darknet's weights; `tfyolo import NET.cfg .*yolov4.weights` makes a run of them"),
        ("nowhere", "expected a file of weights"),
        (None, "expected the path of a run or an export, received None"),
    ],
)
def test_what_is_no_model_is_an_error(path, message, tmp_path):
    if path and "." in path:
        (tmp_path / path).write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=message):
        loading.load(path and tmp_path / path)
