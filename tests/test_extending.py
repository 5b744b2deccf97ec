"""docs/extending.md: its code is run, and the parts that it adds are trained, evaluated, exported and measured."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, succeed
from test_tables import boxes_data  # noqa: F401  (a fixture)

import tfyolo
from tfyolo.training.optim import SCHEDULES

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLES = (
    *(tfyolo.BACKBONES, tfyolo.HEADS, tfyolo.OBJECTIVES, tfyolo.DATA_FORMATS, tfyolo.EXPORTERS, tfyolo.RUNTIMES),
    SCHEDULES,
)


@pytest.fixture(scope="module")
def extended(boxes_data, tmp_path_factory):  # noqa: F811
    """What the page's code, run from top to bottom, has named; the tables are as before when the tests are done."""
    before = [dict(table) for table in TABLES]
    names = {"data": boxes_data, "out": tmp_path_factory.mktemp("extended") / "run"}
    for block in BLOCKS:
        exec(block, names)
    yield names
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def test_every_addition_takes_less_than_40_lines():
    assert len(BLOCKS) == 8 and max(len(block.splitlines()) for block in BLOCKS) < 40


def test_what_is_added_is_trained_and_evaluated(extended):
    config = json.loads((tfyolo.load_model(extended["run"].folder).config).model_dump_json())
    parts = [config["model"][kind]["name"] for kind in ("backbone", "head", "objective")]
    assert parts == ["plain", "lean", "calm"] and config["train"]["stages"][0]["schedule"] == "linear"
    assert len(extended["config"].train.stages) == 1 and np.isfinite(extended["report"].metrics["AP"])
    rows = (extended["run"].folder / "history.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("epoch,")


@pytest.mark.slow
def test_what_is_added_is_exported_in_int8_and_measured(extended, boxes_data):  # noqa: F811
    run = extended["run"].folder
    options = ("--to", "tflite", "--precision", "int8", "--max-drop", "1", "--data", boxes_data, "--json")
    exported = json.loads(succeed("export", run, *options))
    path = exported["tflite-int8"]["path"]
    assert len(tfyolo.load(path).classes) == len(tfyolo.load(run).classes)
    measured = json.loads(succeed("benchmark", run, path, "--seconds", "0.2", "--json"))
    assert "model-int8.tflite" in json.dumps(measured)
