"""The export target of docs/extending.md: export, gate, load, benchmark and the command line know it."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT, lively

import tfyolo
from tfyolo import cli, model
from tfyolo.benchmark.run import benchmark
from tfyolo.exports.targets import EXPORTERS, ExportError, Target
from tfyolo.predict.runtimes import RUNTIMES

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
(WRITTEN,) = re.findall(r"## An export target\n.*?```python\n(.*?)```", PAGE, re.DOTALL)


# --- what it gets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def npz(monkeypatch):
    """What the page's code has named; the tables are as before when the test is done."""
    for table in (EXPORTERS, RUNTIMES):
        monkeypatch.setitem(table, "npz", None)
    names = {}
    exec(WRITTEN, names)
    return names


@pytest.mark.slow
def test_an_export_target_from_outside(npz, tmp_path):
    own = lively("demo")
    run = tmp_path / "run.h5"
    model.save_model(run, own)
    made = tfyolo.export(run, tmp_path / "out", targets=[("npz",)])["npz"]
    assert made.path == tmp_path / "out" / "model.npz" and made.report["boxes_off"] < 0.1
    image = np.random.default_rng(0).integers(0, 256, (*own.config.model.input_size, 3), dtype="uint8")
    found, expected = (tfyolo.load(each)(image, 0.0) for each in (made.path, run))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    report = benchmark(run, [made.path], seconds=0.01, rounds=2, baseline="keras")
    assert report["competitors"]["model.npz"]["total"]["median_ms"] > 0
    with pytest.raises(tfyolo.Error, match="has no TTA"):
        tfyolo.load(made.path, flip=True)


def test_the_gate_refuses_what_it_writes_wrongly(npz, monkeypatch, tmp_path):
    def halved(job, target, path):
        changed = job.model.network.variables[0]
        kept = np.asarray(changed)
        changed.assign(0.5 * kept)
        npz["write_npz"](job, target, path)
        changed.assign(kept)
        return {}

    monkeypatch.setitem(EXPORTERS, "npz", EXPORTERS["npz"]._replace(write=halved))
    with pytest.raises(ExportError, match=r"npz: on images of noise .*The file was not kept"):
        tfyolo.export(lively("demo"), tmp_path, targets=[Target("npz")])
    assert not list(tmp_path.iterdir())


def test_the_command_line_knows_it(npz, tmp_path):
    shown = CliRunner().invoke(cli.main, ["export", "--help"]).output
    assert "npz" in shown
    (tmp_path / "x.npz").touch()
    result = CliRunner().invoke(cli.main, ["export", str(tmp_path / "x.npz")])
    assert result.exit_code and "is an export" in result.output
