"""What devices take of the files that are exported here, and what once stood in their way."""

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from conftest import ROOT
from test_benchmark import loaded

from tfyolo import model as models
from tfyolo.exports import tflite
from tfyolo.exports.integers import with_prelu
from tfyolo.graph.fusion import fuse
from tfyolo.heads.layers import outputs
from tfyolo.nn.activations import mish, mish_by_exp
from tfyolo.tflite import graph
from tfyolo.tflite.interpreter import interpreter
from tfyolo.tflite.lint import lint

ZOO = loaded("lint_zoo")
PAGE = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")


def test_a_head_with_anchors_has_no_tensor_of_five_sides_before_its_parts(seeded):
    parts, features = {"box": 4, "obj": 1, "cls": 3}, keras.Input((3, 5, 8))
    found = outputs(features, parts, 2, {}, "head")
    network = keras.Model(features, found)
    assert {part: values.shape for part, values in found.items()} == {
        part: (None, 3, 5, 2, size) for part, size in parts.items()
    }
    inside = [tensor for each in network.operations for tensor in keras.tree.flatten(each.output)]
    wide = {id(tensor) for tensor in inside if len(tensor.shape) > 4}
    assert wide == {id(tensor) for tensor in found.values()}
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    plain = np.asarray(network.get_layer("head.out")(x)).reshape(2, 3, 5, 2, 8)
    for part, values in zip(parts, np.split(plain, [4, 5], axis=-1), strict=True):
        np.testing.assert_array_equal(network(x)[part], values)


def test_a_phones_gpu_takes_the_whole_of_a_raw_file(demo):
    report = lint(demo.other("none"), "gpu")
    assert report.passed and report.share_of_operators == 1, report.findings
    with_nms = lint(demo.paths["tflite"], "gpu")
    assert "NON_MAX_SUPPRESSION_V5" in {each.operator for each in with_nms.findings}
    assert with_nms.share_of_macs == 1  # it comes after all convolutions


def test_an_accelerators_file_has_prelu_for_leaky_relu(monkeypatch):
    """The Edge TPU stops at the first LEAKY_RELU; what both compute is the same but for a step of rounding."""
    before = []
    monkeypatch.setattr(tflite, "with_prelu", lambda content: before.append(content) or with_prelu(content))
    (content,) = ZOO.files("demo", 96, [("full-int8", "heads")]).values()
    assert lint(*before, "edgetpu").share_of_macs < 0.1
    report = lint(content, "edgetpu")
    assert report.passed and report.share_of_macs == 1, report.findings
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), "uint8")
    leaky, prelu = (interpreter(model_content=each).get_signature_runner()(images=image) for each in (*before, content))
    for name, values in leaky.items():
        assert values.std() > 20 and np.abs(values.astype(int) - prelu[name]).max() <= 1


def test_a_fused_model_has_tflites_mish_too(seeded):
    x = keras.Input((4, 4, 3))
    model = models.Model(None, (), keras.Model(x, keras.layers.Activation(mish)(x)), None, None, None)
    for each in (model, fuse(model)):
        assert tflite.for_tflite(each).network.layers[-1].activation is mish_by_exp


def test_what_is_read_of_a_file_is_what_the_interpreter_runs(demo):
    operators = graph.read(demo.other("none"))
    convolutions = [each for each in operators if each.macs]
    height, width = demo.detector.input_size
    first = convolutions[0]
    assert first.macs == height * width * 9 * 3 * first.outputs[0].shape[3] and first.options["padding"] == "SAME"


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO.FAMILIES)
def test_the_page_has_what_the_zoo_gives(name):
    assert ZOO.row(name, ZOO.FAMILIES[name]) in PAGE.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("vela"), reason="needs vela: pip install ethos-u-vela")
@pytest.mark.parametrize("name", ["demo", "yolox-nano", "yolo11n"])
def test_vela_leaves_to_the_cpu_what_the_table_does(name, tmp_path):
    kinds = ("int8", "none"), ("full-int8", "none"), ("full-int8", "heads")
    for kind, content in ZOO.files(name, ZOO.FAMILIES[name], kinds).items():
        path = tmp_path / f"{'-'.join(kind)}.tflite"
        path.write_bytes(content)
        command = ["vela", path, "--output-dir", tmp_path, "--show-cpu-operations"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        left = re.findall(r"^\s*CPU: \S+ = (.*) \(outputs", done.stdout + done.stderr, re.MULTILINE)
        assert sorted(each.layer for each in lint(content, "ethosu").findings) == sorted(left)
