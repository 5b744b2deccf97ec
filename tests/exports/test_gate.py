"""The gate: no file is put in place that contradicts itself or loses AP."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from test_detect import jpeg

from tfyolo import structures
from tfyolo.exports import export as exports
from tfyolo.exports import gate as gates
from tfyolo.exports import layouts, targets, tflite
from tfyolo.exports.gate import Gate, _malformed
from tfyolo.exports.targets import ExportError, RefusedError, Target
from tfyolo.predict import load as loading


@pytest.mark.slow
def test_a_file_whose_count_is_its_limit_is_refused(demo, tmp_path, monkeypatch):
    def ends(model, boxes, scores):
        found = layouts._with_nms(model, boxes, scores)
        return found | {"count": tf.fill([1], found["scores"].shape[1])}

    builtin = layouts.LAYOUTS["builtin", False]
    monkeypatch.setitem(layouts.LAYOUTS, ("builtin", False), builtin._replace(end=ends))
    with pytest.raises(
        ExportError, match=r"tflite: its count is 300, where \d+ of its scores are above 0\.001\. The file was not"
    ):
        exports.export(demo.model, tmp_path, [Target("tflite")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, row, value, fault",
    [
        ("count", ..., 5, "its count is 5, where 2 of its scores"),
        ("scores", 2, 0.9, "its count is 2, where 3 of its scores"),
        ("scores", 3, 0.05, "behind its 2 detections stand others"),
        ("boxes", 4, 1.0, "behind its 2 detections stand others"),
        ("labels", 2, 0, "behind its 2 detections stand others"),
        ("labels", 1, 3, "not of labels below 3"),
        ("labels", 0, -1, "not of labels below 3"),
        ("scores", 0, 0.5, "not best first"),
        ("boxes", 1, np.nan, "not finite"),
        ("scores", 4, np.nan, "behind its 2 detections stand others"),
    ],
)
def test_detections_that_contradict_themselves_are_refused(name, row, value, fault):
    boxes, scores, labels = np.zeros((5, 4), "f4"), np.array([0.8, 0.7, 0, 0, 0], "f4"), np.array([2, 0, -1, -1, -1])
    boxes[:2] = [1, 2, 3, 4]
    found = structures.Detections(boxes, scores, labels, np.array(2), np.float32(0.8))
    assert _malformed(found, 3, 0.1) is None
    getattr(found, name)[row] = value
    assert fault in _malformed(found, 3, 0.1)


def test_a_file_that_finds_something_else_is_refused_and_the_old_one_stays(demo, tmp_path, monkeypatch):
    (tmp_path / "model.tflite").write_text("old")
    whole = tflite.for_tflite

    def damaged(model):
        model = whole(model)
        for variable in model.network.variables:
            if ".out/bias" in variable.path:
                variable.assign(variable + 1.0)
        return model

    monkeypatch.setattr(tflite, "for_tflite", damaged)
    with pytest.raises(
        ExportError, match=r"tflite: on images of noise its best score is off by .*The file was not kept"
    ):
        exports.export(demo.model, tmp_path, [Target("tflite")], overwrite=True)
    assert os.listdir(tmp_path) == ["model.tflite"] and (tmp_path / "model.tflite").read_text() == "old"


@pytest.mark.parametrize(
    "precision, more, fits", [("int8", 0.4, False), ("int8", -0.4, True), ("float32", -0.4, False)]
)
def test_in_a_black_image_an_int8_file_may_see_less_than_the_model_but_not_more(demo, precision, more, fits):
    gate = Gate(demo.model, None, None, lambda: gate.noise[:1])
    own = gate.detectors[False]

    def postprocess(outputs):
        found = own.postprocess(outputs)
        return found._replace(best=found.best + (0.0 if np.any(last) else more))

    last = []

    def network(images):
        last[:] = [float(np.max(images))]
        return own.network(images)

    theirs = SimpleNamespace(network=network, postprocess=postprocess)
    target = Target("tflite", precision)
    off = gate._compared(target, own, theirs, gate.noise[-2:])
    if fits:
        assert off["best_score_off"] == 0
        gate._check_distances(target, off, "noise")
    else:
        with pytest.raises(ExportError, match=r"its best score is off by 0\.4"):
            gate._check_distances(target, off, "noise")


def test_a_file_that_loses_more_ap_than_allowed_is_refused(demo, evaluable_data, tmp_path):
    coarse = Target("tflite", "dynamic")
    with pytest.raises(
        ExportError, match=r"tflite-dynamic: its AP is 0\.\d+, .* below the model's 0\.\d+; at most 1e-06 may be lost"
    ):
        exports.export(demo.model, tmp_path, [coarse], validation=evaluable_data, max_drop=1e-6)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_mixed_file_leaves_more_in_float_until_the_gate_passes_it(demo, evaluable_data, tmp_path, monkeypatch):
    tried, check = [], Gate.check

    def third_time(gate, target, path):
        report = check(gate, target, path)
        tried.append(report)
        if len(tried) < 3:
            raise RefusedError("no", report | {"ms": 1.0})
        return report | {"ms": 3.0}

    monkeypatch.setattr(Gate, "check", third_time)
    target = Target("tflite", "auto")
    report = exports.export(demo.model, tmp_path, [target], calibration=evaluable_data)["tflite-auto"].report
    assert len(tried) == 3 and len(report["floats"]) > 1 and report["ms_more"] == 2.0
    found = loading.load(tmp_path / "model-auto.tflite")
    assert found(demo.images[0], score=0.0).best == pytest.approx(demo.detector(demo.images[0]).best, abs=0.1)
    monkeypatch.setattr(Gate, "check", lambda *_: (_ for _ in ()).throw(RefusedError("too bad", {"ms": 1.0})))
    with pytest.raises(RefusedError, match="too bad"):
        exports.export(demo.model, tmp_path, [target], calibration=evaluable_data, overwrite=True)


@pytest.mark.parametrize(
    "figures, message",
    [
        (
            {"F1": 0.47},
            r"its F1 at confidence threshold 0\.25 is 0\.4700, 0\.0300 below .*at most 0\.02",
        ),
        (
            {"score_shift": -0.4},
            r"what it finds with the model are 0\.400 lower in the mean; at most 0\.05",
        ),
        ({"score_shift": 0.06}, r"are 0\.060 higher in the mean"),
        ({"AP": 0.48}, r"its AP is 0\.4800, 0\.0200 below"),
        ({}, None),
    ],
)
def test_what_users_see_of_a_file_is_that_of_the_model(figures, message, demo):
    """AP knows only the order of scores: those of a file may fall from .85 to .45 without a change of it."""
    gate = Gate(demo.model, None, None, None)
    report = {"AP": 0.5, "keras_AP": 0.5, "F1": 0.5, "keras_F1": 0.5, "score_shift": 0.0} | figures
    if message is None:
        gate._check_figures(Target("tflite", "int8"), report)
        return
    with pytest.raises(RefusedError, match=message):
        gate._check_figures(Target("tflite", "int8"), report)


@pytest.mark.parametrize("quantize, models", [(False, 1), (True, 2)])
def test_a_model_is_evaluated_once_for_all_targets(quantize, models, demo, evaluable_data, monkeypatch):
    """In float and in int8 it is the same one, unless it was trained with rounding."""
    configured = demo.model.config.model.model_copy(update={"quantize": quantize})
    model = demo.model._replace(config=demo.model.config.model_copy(update={"model": configured}))
    seen = []
    monkeypatch.setattr(gates, "load", lambda path: loading.load(demo.paths["tflite"]))
    monkeypatch.setattr(gates, "without_quantization", lambda model: demo.model if quantize else model)
    evaluation = SimpleNamespace(report=SimpleNamespace(metrics={"AP": 0.5}, f1_at=lambda score: 0.5), found=[])
    monkeypatch.setattr(gates, "evaluated", lambda of, *_, **__: seen.append(of) or evaluation)
    gate = Gate(model, evaluable_data, None, lambda: None)
    for precision in ("float32", "int8", "int8"):
        assert gate.check(Target("tflite", precision), demo.paths["tflite"])["drop"] == 0
    assert len(seen) == 3 + models and len(set(seen)) == 3 + models  # each file's once, too


@pytest.mark.slow
def test_the_report_has_what_int8_costs_and_what_could_not_be_read(demo, evaluable_data, tmp_path):
    int8 = Target("tflite", "int8")
    (tmp_path / "cut.jpg").write_bytes(jpeg(demo.images[0])[:400])
    one_broken = evaluable_data._replace(
        records=(
            *evaluable_data.records,
            evaluable_data.records[0]._replace(image_id=9, path=str(tmp_path / "cut.jpg")),
        )
    )
    made = exports.export(
        demo.model, tmp_path, [int8], calibration=one_broken, validation=evaluable_data, max_drop=1.0
    )["tflite-int8"]
    report = json.loads((tmp_path / "report.json").read_text())["tflite-int8"]
    assert report["AP"] == made.report["AP"] and report["drop"] == pytest.approx(report["keras_AP"] - report["AP"])
    assert report["bytes"] == made.path.stat().st_size and len(report["worst"]) == 5 and report["ms"] > 0
    assert len(report["skipped"]) == 1 and "cut.jpg: truncated JPEG" in report["skipped"][0]
    assert report["quantization"] == {"images": {"dtype": "uint8", "scale": pytest.approx(1 / 255), "zero_point": 0}}
    floats = targets.size_of(demo.paths["tflite"])
    assert report["bytes"] < 0.5 * floats  # small as it is, most of it are not weights


@pytest.mark.parametrize(
    "form, options, message",
    [
        (Target("saved_model", "int8"), {}, "a SavedModel has float32 and NMS builtin; received int8"),
        (Target("tflite", "float32", "task"), {"batch": 2}, "takes one image at a time, expected --batch 1"),
        (Target("tflite", "full-int8"), {}, "expected --nms none"),
        (Target("tflite"), {"batch": 0}, "batch: expected a whole number above 0, received 0"),
        (Target("tflite", "int4"), {}, r"expected one of float32, .* received 'int4'"),
    ],
)
def test_targets_that_cannot_be_are_named_before_anything_is_written(form, options, message, demo, tmp_path):
    with pytest.raises(ExportError, match=message):
        exports.export(demo.model, tmp_path / "new", [Target("tflite"), form], **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision, with_data", [("dynamic", True), ("dynamic", False), ("float32", True)])
def test_what_depends_on_the_images_is_compared_on_images_of_the_data(
    precision, with_data, demo, evaluable_data, tmp_path, monkeypatch
):
    """On noise, which no network is trained for, a file may differ that is right on photographs."""
    seen, compared = [], Gate._compared

    def noted(self, target, own, detector, images):
        seen.append(images is self.noise)
        return compared(self, target, own, detector, images)

    monkeypatch.setattr(Gate, "_compared", noted)
    target = Target("tflite", precision)
    exports.export(demo.model, tmp_path, [target], validation=evaluable_data if with_data else None, max_drop=1.0)
    assert seen == [not with_data or precision == "float32"]
