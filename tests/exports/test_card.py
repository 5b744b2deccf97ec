"""MODEL.md: its lines are run, as a newcomer would."""

import re

import numpy as np
import pytest
from conftest import lively, slow
from PIL import Image
from test_detect import picture

from tfyolo.exports import card
from tfyolo.exports import export as exports
from tfyolo.exports.targets import ExportError, Target
from tfyolo.predict import load as loading

KINDS = ("builtin", "task", "none", "app", "e2e", "heads")
CLASSES = ("a", "b", "c")


def sections(folder):
    return dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", (folder / card.CARD).read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("kinds", [("builtin", "none"), slow(KINDS)])
def test_it_names_every_file_with_its_tensors(kinds, tmp_path):
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path
    exports.export(lively("demo", CLASSES), folder, [Target("tflite", nms=nms) for nms in kinds])
    found = sections(folder)
    assert {*found} == {each.name for each in folder.glob("*.tflite")} and len(found) == len(kinds)
    assert "| in | `images` | [1, 64, 64, 3] | float32 |" in found["model.tflite"]
    assert "For: cpu." in found["model.tflite"] and "For: android-gpu, browser." in found["model-raw.tflite"]
    assert "a, b, c" in (folder / card.CARD).read_text().partition("##")[0]


@pytest.mark.parametrize("nms", KINDS[:-1])
def test_its_lines_find_what_the_file_finds(nms, demo, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    name = Target("tflite", nms=nms).file
    folder = (demo.paths["tflite"] if nms == "builtin" else demo.other(nms)).parent
    (code,) = re.findall(r"```python\n(.*?)```", sections(folder)[name], re.DOTALL)
    assert len(code.splitlines()) < 20
    image = picture(64, 64)
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code.replace("photo.jpg", "photo.png"), found)
    expected = loading.load(folder / name)(image, 0.0)
    assert len(expected.boxes) > 5
    for box, score, label in zip(expected.boxes[:5], expected.scores[:5], expected.labels[:5], strict=True):
        alike = np.abs(np.clip(found["boxes"], 0, 64) - box).max(axis=1) < 0.05
        same = alike & (np.abs(found["scores"] - score) < 1e-3) & (found["labels"] == label)
        # Of all candidates the lines take the best class of each alone.
        assert same.any() or (nms in ("none", "app") and found["scores"][alike].max() > score)


@pytest.mark.parametrize(
    "entry", [None, "x", [], {}, {"file": "x.tflite"}, {"target": ["gone", "float32", "none", None]}]
)
def test_entries_of_other_versions_are_passed_over(entry, demo):
    rest = {"inputs": {}, "outputs": {}, "file": "x", "bytes": 1, "ms": 1.0}
    entry = rest | entry if isinstance(entry, dict) and "target" in entry else entry
    assert "##" not in card.text(demo.model, {"x": entry})


def test_a_file_of_the_users_of_that_name_stays(demo, tmp_path):
    (tmp_path / card.CARD).write_text("mine")
    with pytest.raises(ExportError, match=r"MODEL\.md: there already"):
        exports.export(lively("demo", CLASSES), tmp_path, [Target("tflite")])
    assert (tmp_path / card.CARD).read_text() == "mine"
    assert card.is_one((demo.paths["tflite"].parent / card.CARD).read_bytes())
