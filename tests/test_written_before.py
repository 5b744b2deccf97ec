"""A run and its exports that an earlier version wrote still load, and find what they found
(tests/written_before/README.md).
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import tfyolo

FOLDER = Path(__file__).parent / "written_before"
FILES = ("best.h5", "model.tflite", "saved_model")


def drawn():
    """A disc, a ring and a triangle on a gradient: [176, 320, 3] uint8, by integer arithmetic alone."""
    y, x = np.mgrid[:176, :320]
    image = np.stack([60 + y // 4, 80 + x // 8, 120 - y // 4], axis=-1)
    image[(y - 60) ** 2 + (x - 70) ** 2 < 40**2] = 220, 60, 50
    radius = (y - 90) ** 2 + (x - 180) ** 2
    image[(radius < 45**2) & (radius > 28**2)] = 240, 220, 60
    image[(y > 40) & (y < 140) & (2 * abs(x - 270) < y - 40)] = 60, 200, 90
    return image.astype("uint8")


def found(path):
    """[[class, score, y1, x1, y2, x2]] of what a file finds, the best first."""
    return [[d.name, d.score, *map(float, d.box)] for d in tfyolo.load(path)(drawn(), score=0.05)]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(FOLDER / "saved_model.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "saved_model"


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_before_loads_and_finds_what_it_found(name, unpacked):
    expected = json.loads((FOLDER / "found.json").read_text())[name]
    mine = found(unpacked if name == "saved_model" else FOLDER / name)
    assert len(expected) >= 3 and [each[0] for each in mine] == [each[0] for each in expected]
    np.testing.assert_allclose([each[1] for each in mine], [each[1] for each in expected], atol=1e-4)
    np.testing.assert_allclose([each[2:] for each in mine], [each[2:] for each in expected], atol=0.05)
