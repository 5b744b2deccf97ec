"""ONNX files give what the model gives: in onnxruntime, in OpenVINO, and by a Triton repository's description."""

import ast
import functools
import json
import sys

import numpy as np
import pytest
from conftest import EACH_CONFIG, lively, succeed
from exporting import CLASSES, assert_same
from test_detect import picture
from test_export_processes import in_a_fork

from tfyolo import checkpoint
from tfyolo.exports import export as exports
from tfyolo.exports import onnx as onnx_file
from tfyolo.exports.targets import ExportError, Target, asked_targets
from tfyolo.predict import load as loading
from tfyolo.predict import onnx as runtime
from tfyolo.protobuf import ProtobufError, field, fields

onnx = pytest.importorskip("onnx", reason="needs onnx, of pip install 'tfyolo[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of pip install 'tfyolo[onnx]'")
pytest.importorskip("tf2onnx", reason="needs tf2onnx, of pip install 'tfyolo[onnx]'")


def ran(proto, images):
    """{output: array} of a ModelProto in onnxruntime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def seen(model, batch=2, layout="nhwc"):
    """Images of noise as a Model takes them, and as a file of a layout does."""
    images = np.random.default_rng(1).random((batch, *model.input_size, 3), dtype="float32")
    return images, np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if layout == "nchw" else images


def close(found, expected):
    """Boxes within a hundredth of a pixel or, of random weights, which make them as long as a hundred images, 1e-4."""
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=1e-4)


def met(found, expected):
    """The share of rows [N, Z] that have a row like them among others."""
    apart = np.abs(found[:, None] - expected).max(-1) - 1e-3 * np.abs(expected).max(-1)
    return np.mean(apart.min(axis=1) < 1e-2)


@functools.cache
def small(name):
    return lively(name, CLASSES)


# --- the outputs ------------------------------------------------------------------------------------------------------

NAMES = [getattr(each, "values", (each,))[0] for each in EACH_CONFIG]


@pytest.mark.parametrize(
    "name", ["demo", *(pytest.param(each, marks=pytest.mark.slow) for each in NAMES if each != "demo")]
)
def test_candidates_are_the_models_in_every_family(name):
    """Two images, which are not square, in the other order of axes."""
    model, target = small(name), Target("onnx", nms="none", layout="nchw")
    images, given = seen(model, layout="nchw")
    proto = onnx_file.to_onnx(model, target, 2)
    assert {node.domain for node in proto.graph.node} == {""}
    found, expected = ran(proto, given), model.decoder(model.network(images))
    assert list(found) == ["boxes", "scores"]
    if "cornernet" in name:  # of corners with one score it is chance which comes first, or is left out
        rows = [np.concatenate(list(map(np.asarray, each)), -1) for each in (found.values(), expected[:2])]
        assert all(min(met(*pair), met(*pair[::-1])) > 0.98 for pair in zip(*rows, strict=True))
        return
    # Some sums of random weights grow to thousands, so that float32 shows in the fourth digit.
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-3)
    assert np.median(np.abs(found["scores"] - expected.scores)) < 1e-5
    np.testing.assert_allclose(found["boxes"], expected.boxes, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, *(pytest.param(each, marks=pytest.mark.slow) for each in (2, None))])
@pytest.mark.parametrize(
    "name, options",
    [
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("demo", {}), ("yolov8n-e2e", {}), ("demo", {"soft_linear": True}))
        ),
    ],
)
def test_detections_are_the_models(name, options, batch):
    """With one class; unrolled, and as a loop over any number of images."""
    model = lively(name, ("one",), **{f"model.postprocess.{key}": value for key, value in options.items()})
    proto = onnx_file.to_onnx(model, Target("onnx"), batch)
    images, _ = seen(model, batch or 3)
    candidates = model.decoder(model.network(images))
    found, expected = ran(proto, images), model.postprocess(candidates)
    assert tuple(found) == runtime.OUTPUTS["builtin"]
    assert found["count"].tolist() == expected.count.numpy().tolist() and found["count"].min() > 5
    np.testing.assert_allclose(found["scores"], expected.scores, atol=2e-5)
    np.testing.assert_allclose(found["best"], expected.best, atol=2e-5)
    # Of equal scores it is chance which comes first, and which is the last that there is room for.
    boxes = np.asarray(candidates.boxes)
    for b, count in enumerate(found["count"]):
        apart = np.abs(found["boxes"][b, :count, None] - boxes[b]).max(-1) - 1e-4 * np.abs(boxes[b]).max(-1)
        assert (apart.min(axis=1) < 1e-2).all() and (
            found["labels"][b] == np.where(np.arange(300) < count, 0, -1)
        ).all()
    shapes = [
        [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim] for each in proto.graph.output
    ]
    assert all(shape[0] == (batch or "batch") for shape in shapes)


@pytest.mark.slow
def test_one_tensor_for_apps():
    """[B, 4 + K, N]: middle x, middle y, width, height in pixels of the input, then the scores; input NCHW."""
    model, target = small("demo"), Target("onnx", nms="app")
    images, given = seen(model, layout="nchw")
    proto = onnx_file.to_onnx(model, target, 2)
    found, expected = ran(proto, given), model.decoder(model.network(images))
    assert list(found) == ["output0"] and target.input_layout == "nchw"
    top, left, bottom, right = np.moveaxis(np.asarray(expected.boxes), -1, 0)
    sides = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    close(found["output0"][:, :4], np.stack(sides, 1))
    np.testing.assert_allclose(found["output0"][:, 4:], np.moveaxis(expected.scores, -1, 1), atol=2e-5)


@pytest.mark.slow
def test_float16_is_half_the_size_and_finds_nearly_the_same():
    model = small("demo")
    whole, half = (onnx_file.to_onnx(model, Target("onnx", each, "none"), 1) for each in ("float32", "float16"))
    kernels = sum(int(np.prod(v.shape)) for v in model.network.variables if len(v.shape) > 1)
    assert len(whole.SerializeToString()) - len(half.SerializeToString()) == pytest.approx(2 * kernels, rel=0.05)
    images, _ = seen(model, 1)
    found, expected = ran(half, images), ran(whole, images)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=5e-3)
    assert np.abs(found["scores"] - expected["scores"]).max() > 0
    assert np.median(np.abs(found["boxes"] - expected["boxes"])) < 0.2


@pytest.mark.parametrize("batch", [2, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("nms", ["none", "builtin"])
def test_openvino_reads_it_and_gives_the_same(nms, batch, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    model = small("demo")
    proto = onnx_file.to_onnx(model, Target("onnx", nms=nms), batch)
    (tmp_path / "x.onnx").write_bytes(onnx_file.to_bytes(model, Target("onnx", nms=nms), proto))
    # Where it can it computes in bfloat16, unless it is told otherwise.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "x.onnx", "CPU", options)
    images, _ = seen(model)
    found, expected = compiled({"images": images}), ran(proto, images)
    for name, value in expected.items():
        close(found[name], value)


def test_soft_nms_has_no_operation():
    model = lively("demo", CLASSES, **{"model.postprocess.soft_sigma": 0.5})
    with pytest.raises(ExportError, match=r"onnx: ONNX has no NMS in which boxes lose score .*expected --nms none"):
        onnx_file.to_onnx(model, Target("onnx"), 1)


# --- through the gate, and back ---------------------------------------------------------------------------------------

FORMS = [
    Target("onnx"),
    Target("onnx", nms="app"),
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (Target("onnx", "float16"), Target("triton", nms="none"), Target("onnx", nms="none", layout="nchw"))
    ),
]


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """Target -> exports.Exported of the demo network, each once."""
    folder = tmp_path_factory.mktemp("onnx")
    return functools.cache(lambda form: exports.export(demo.model, folder, [form])[form.name])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_a_file_passes_the_gate_and_finds_what_the_run_finds(form, made, demo, capfd):
    path, report = made(form)
    assert report["boxes_off"] < (1e-2 if form.precision == "float32" else 1) and report["ms"] > 0
    loaded = loading.load(path, threads=1)
    assert (loaded.classes, loaded.config) == (CLASSES, demo.model.config)
    pixels = 1e-2
    if form.precision == "float32":
        for image, found in zip(demo.images, loaded(demo.images), strict=True):  # three at once
            assert_same(found, demo.detector(image), pixels)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_what_an_onnx_file_says_of_itself(made, demo):
    path, _ = made(Target("onnx", nms="app"))
    proto = onnx.load(path)
    found = {each.key: each.value for each in proto.metadata_props}
    described = json.loads(found.pop("tfyolo.json"))
    assert described["classes"] == list(CLASSES)
    assert described["export"] == {"nms": "app", "precision": "float32", "layout": "nchw"}
    height, width = demo.model.input_size
    assert ast.literal_eval(found.pop("names")) == dict(enumerate(CLASSES))
    assert found == {"stride": "32", "task": "detect", "imgsz": f"[{height}, {width}]"}
    assert [each.domain for each in proto.opset_import] == [""] and proto.producer_name == "tfyolo"


@pytest.mark.slow
def test_files_without_nms_take_options_and_others_do_not(made):
    assert loading.load(made(Target("onnx", nms="app")).path, limit=7)(picture(64, 64)).boxes.shape[0] <= 7
    with pytest.raises(checkpoint.CheckpointError, match="has its post-processing inside; iou can only be set on"):
        loading.load(made(Target("onnx")).path, iou=0.5)


def test_a_forked_process_has_a_session_of_its_own(made, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(made(Target("onnx")).path.read_bytes())
    network, images = loading.load(path, threads=2).network, np.zeros((3, 64, 64, 3), "float32")
    expected = network(images)

    def work():
        return all(np.array_equal(*pair) for pair in zip(network(images), expected, strict=True))

    assert in_a_fork(work) is True
    path.write_bytes(path.read_bytes()[:-1])
    assert "replaced since; load it anew" in in_a_fork(work)


@pytest.mark.slow
def test_the_command_line_takes_onnx_files(demo_run, demo_data, tmp_path):
    run, _ = demo_run
    made = json.loads(succeed("export", run, "--to", "onnx", "--nms", "none", "--out", tmp_path, "--json"))
    path = made["onnx-raw"]["path"]
    assert path == str(tmp_path / "model-raw.onnx")
    images = demo_data / "images" / "val"
    images = images if images.is_dir() else demo_data
    assert "detections" in succeed("detect", path, next(images.rglob("*.jpg")), "--out", tmp_path / "found", "--json")
    own, found = (json.loads(succeed("evaluate", each, "--data", demo_data, "--json")) for each in (run, path))
    assert found["metrics"] == pytest.approx(own["metrics"], abs=1e-3, nan_ok=True)
    measured = json.loads(succeed("benchmark", run, path, "--seconds", "0.1", "--rounds", "2", "--json"))
    assert measured["competitors"]["model-raw.onnx"]["total"]["median_ms"] > 0


# --- errors -----------------------------------------------------------------------------------------------------------


def foreign():
    """An ONNX file of another program."""
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=1, shape=[1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
    return onnx.helper.make_model(graph).SerializeToString()


def rewritten(content):
    proto = onnx.load_from_string(content)
    proto.doc_string = "changed"
    return proto.SerializeToString()


def flipped(content, at):
    data = bytearray(content)
    data[at] ^= 4
    return bytes(data)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda content: foreign(),
            "expected an ONNX file that tfyolo has exported; this one is damaged or another program's (it holds no tf",
        ),
        (lambda content: b"", "it holds no tfyolo.json"),
        (lambda content: b"no ONNX at all", "it does not read as one"),
        (lambda content: content[: len(content) // 2], "it does not read as one"),
        (lambda content: flipped(content, len(content) // 2), "its bytes are not those that were exported"),
        (lambda content: rewritten(content), "its bytes are not those that were exported"),
        (lambda content: content + field(14, field(1, b"tfyolo.json") + field(2, b"{}")), "is not as tfyolo wrote it"),
    ],
)
def test_damaged_and_foreign_files_are_one_error(change, message, made, tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(change(made(Target("onnx")).path.read_bytes()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("onnxruntime has seen it"))
    with pytest.raises(checkpoint.CheckpointError, match=r"^\S+x\.onnx: ") as error:
        loading.load(tmp_path / "x.onnx")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_graph_that_is_none_is_one_error(made, tmp_path):
    """Whoever writes a checksum too."""
    content = made(Target("onnx")).path.read_bytes()
    proto = onnx.load_from_string(content)
    described = {each.key: each.value for each in proto.metadata_props}["tfyolo.json"]
    for graph, reason in ((foreign(), "its inputs and outputs are not those"), (b"", "expected an ONNX file")):
        text = json.dumps(json.loads(described) | {"sha256": runtime.checksum(graph)})
        (tmp_path / "x.onnx").write_bytes(runtime.with_description(graph, text.encode()))
        with pytest.raises(checkpoint.CheckpointError, match=reason):
            loading.load(tmp_path / "x.onnx")


def test_what_is_missing_is_named(made, demo, tmp_path, monkeypatch):
    with pytest.raises(checkpoint.CheckpointError, match=r"no\.onnx: no such file; expected an ONNX file"):
        loading.load(tmp_path / "no.onnx")
    path = made(Target("onnx")).path
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(checkpoint.CheckpointError, match=r"expected onnxruntime.* pip install 'tfyolo\[onnx\]'"):
        loading.load(path)
    for form in ("onnx", "triton"):
        with pytest.raises(ExportError, match=r"found no onnxruntime; pip install 'tfyolo\[onnx\]'"):
            exports.export(demo.model, tmp_path, [Target(form)])


@pytest.mark.parametrize(
    "form, message",
    [
        (Target("onnx", "int8"), "an ONNX file has float32, float16 and NMS builtin, none, app"),
        (Target("onnx", nms="task"), "received float32 and task"),
        (Target("onnx", nms="app", layout="nhwc"), "has the layout nchw of its input, received nhwc"),
        (Target("tflite", layout="nchw"), "has the layout nhwc of its input, received nchw"),
        (Target("onnx", layout="chwn"), "expected one of nhwc, nchw, received 'chwn'"),
    ],
)
def test_forms_that_are_none_are_named(form, message, demo, tmp_path):
    with pytest.raises(ExportError, match=message):
        exports.export(demo.model, tmp_path, [form])


def test_it_is_written_only_when_it_is_named():
    assert not {"onnx", "triton"} & {each.target for each in asked_targets()}
    assert asked_targets(["onnx"]) == [Target("onnx")]
    assert asked_targets(["triton"], [], "none", True, "nchw") == [Target("triton", nms="none", layout="nchw")]
    assert {each.target for each in asked_targets([], ["float16"], narrowed=True)} == {"tflite"}
    assert Target("onnx", nms="app", layout="nchw").file == "model-app.onnx"


# --- messages of protocol buffers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, size", [(1, 0), (14, 1), (15, 127), (16, 128), (3000, 70000)])
def test_a_field_is_read_as_it_was_written(number, size):
    value = np.random.default_rng(size).bytes(size)
    written = field(number, value)
    assert [(key, bytes(each)) for key, each in fields(memoryview(written))] == [(number, value)]
    for end in range(1, min(len(written), 9)):
        with pytest.raises(ProtobufError):
            list(fields(memoryview(written[:-end])))
