"""What of a trained network fits one for other classes, and what is known of where it comes from."""

import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY, lively, load_config, small

from tfyolo import checkpoint, origin
from tfyolo import model as models
from tfyolo.heads import HEADS
from tfyolo.origin import Origin
from tfyolo.structures import as_raw
from tfyolo.tflite import metadata, packed
from tfyolo.weights.initial import initialise
from tfyolo.weights.torch import layouts
from tfyolo.weights.transfer import paired_channels, shared_classes, transferred

THERE = ("bird", "Car", "person", "dog", "cat")
HERE = ("person", "boat", "car")
KEPT = {0: 2, 2: 1}  # classes here: there
# (config, head) of each head; those that come cheap on the small network of the demo are quick.
OF_EACH_HEAD = [
    ("demo", "coupled"),
    ("demo", "implicit"),
    ("demo-yolov1", "grid"),
    *(
        pytest.param(name, head, marks=pytest.mark.slow)
        for name, head in (
            ("demo", "linear"),
            ("demo", "decoupled"),
            ("yolox-nano", "decoupled_stem"),
            ("yolov8n", "decoupled"),
            ("yolov8n-e2e", "decoupled"),
            ("yolov7-w6", "implicit"),
            ("yolov9t", "grouped"),
            ("demo-m2det", "ssd"),
            ("cornernet-small", "corner"),
            ("cornernet-hg104", "corner"),
        )
    ),
]


def raw_parts(raw):
    """The parts of a network's output and of all auxiliary heads, one after the other."""
    raw = as_raw(raw)
    return [raw.parts, *(raw_parts(raw.aux) if raw.aux is not None else [])]


@pytest.mark.parametrize("name, head", OF_EACH_HEAD)
@pytest.mark.parametrize("here", [HERE, pytest.param(("person", "a", "b", "car", "c"), marks=pytest.mark.slow)])
def test_classes_of_one_name_give_what_they_gave(name, head, here, tmp_path):
    """Everything but the other classes comes out as it did, of each head; those are as they were made."""
    options = {} if small(name).model.head.name == head else {"model.head": head}
    there = lively(name, THERE, **options)
    models.save_model(tmp_path / "there.h5", there)
    model = models.build(there.config, here)
    before = checkpoint.weights_of(model.network)
    report, _, _ = initialise(model, tmp_path / "there.h5")
    images = np.random.default_rng(0).random((1, *model.config.model.input_size, 3), "float32")
    background = int(model.decoder.has_background)
    same = {here.index("person"): 2, here.index("car"): 1}
    kept = {i: i for i in range(background)} | {i + background: j + background for i, j in same.items()}
    for mine, theirs in zip(raw_parts(model.network(images)), raw_parts(there.network(images)), strict=True):
        for part, levels in mine.items():
            for level, values in levels.items():
                expected = theirs[part][level]
                if part == "cls":
                    values = tf.gather(values, list(kept), axis=-1)
                    expected = tf.gather(expected, list(kept.values()), axis=-1)
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4, err_msg=f"{part} {level}")
    (told,) = [line for line in report if line.startswith("head: ")]
    assert "the rows of person, car kept, by name" in told and told.endswith("re-initialised")
    after, counting = checkpoint.weights_of(model.network), 0
    for layer in model.network.layers:
        blocks = getattr(layer, "output_channels", ())
        if any("cls" in parts for parts, _ in blocks):
            new = paired_channels(blocks, model.decoder, len(here), len(THERE), same) < 0
            counting += new.sum()
            for variable in layer.variables:
                old = before[variable.path]
                np.testing.assert_array_equal(after[variable.path][..., new], old[..., new], err_msg=variable.path)
    assert counting


def test_each_head_is_tried():
    assert {getattr(entry, "values", entry)[1] for entry in OF_EACH_HEAD} == HEADS.keys()


@pytest.mark.slow
def test_a_branch_as_wide_as_the_classes_are_many_is_re_initialised(tmp_path):
    """YOLOv8's, by the number of classes: what else is in its head is kept."""
    there = models.build(small("yolov8n"), [f"class {i}" for i in range(40)])
    models.save_model(tmp_path / "there.h5", there)
    here = models.build(small("yolov8n"), ("class 3", "x"))
    report, _, _ = initialise(here, tmp_path / "there.h5")
    assert "head.p3.cls.conv1.conv" in report[2] and "re-initialised: 40 classes there, 2 here" in report[2]
    assert "kept, by name" not in report[2]
    kept, given = checkpoint.weights_of(here.network), checkpoint.weights_of(there.network)
    same = {name for name in kept if kept[name].shape == given[name].shape and ".cls." not in name}
    assert len(same) > 100 and all(np.array_equal(kept[name], given[name]) for name in same)


def test_a_head_that_declares_nothing_keeps_no_classes(tmp_path, monkeypatch):
    """As one from outside: which of its channels stand for classes shows by what another class would widen."""
    there = models.build(small("demo"), ("a", "b"))
    models.save_model(tmp_path / "there.h5", there)
    here = models.build(small("demo"), ("b", "a"))
    for layer in here.network.layers:
        if hasattr(layer, "output_channels"):
            del layer.output_channels
    before = checkpoint.weights_of(here.network)
    report, _, _ = initialise(here, tmp_path / "there.h5")
    assert report[2].endswith("head.p4.out, head.p5.out re-initialised: the classes have other names")
    for name, value in checkpoint.weights_of(here.network).items():
        expected = before[name] if ".out/" in name else checkpoint.weights_of(there.network)[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize(
    "mine, theirs, expected",
    [
        (("a", "b"), ("a", "b"), {0: 0, 1: 1}),
        (("b", "a"), ("a", "b"), {0: 1, 1: 0}),
        (("Straße", "x"), ("STRASSE",), {0: 0}),
        (("person", "Person"), ("Person",), {1: 0}),  # the same name goes before
        (("person",), ("Person", "PERSON"), {}),  # which of them?
        (("Person", "PERSON"), ("person",), {0: 0}),
        (("a",), ("b",), {}),
    ],
)
def test_classes_are_the_same_by_name(mine, theirs, expected):
    assert shared_classes(mine, theirs) == expected


def test_channels_are_paired_by_what_they_mean():
    """Worked out by hand: two anchors of (box 4, objectness, classes), of 3 classes there and 2 here."""
    decoder = models.build(
        small("demo", **{"model.decoder.anchors": "{p4: [[1, 1], [2, 2]], p5: [[3, 3], [4, 4]]}"}), ("a",)
    ).decoder
    index = paired_channels(((("box", "obj", "cls"), 2),), decoder, 2, 3, {0: 2})
    assert index.tolist() == [0, 1, 2, 3, 4, 7, -1, 8, 9, 10, 11, 12, 15, -1]
    index = paired_channels(((("cls",), 2), (("obj",), 1)), decoder, 2, 3, {1: 0})
    assert index.tolist() == [-1, 0, -1, 3, 6]


# --- where weights come from ------------------------------------------------------------------------------------------

YOLOX = Origin("yolox-s", "Apache-2.0", "https://example.org/yolox_s.pth")
ULTRALYTICS = Origin("best.pt", "AGPL-3.0")


def test_a_runs_origin_is_that_of_what_it_began_with(tmp_path):
    scratch = models.build(small("demo"), ("a", "b"))
    there = scratch._replace(origin=YOLOX)
    models.save_model(tmp_path / "m.h5", there)
    assert models.load_model(tmp_path / "m.h5").origin == YOLOX
    report, meta, _ = initialise(there._replace(classes=("a", "c")), tmp_path / "m.h5")
    assert meta == {"origin": {"weights": "yolox-s", "licence": "Apache-2.0", "source": YOLOX.source}}
    assert report[-1] == f"licence: yolox-s ({YOLOX.source}), Apache-2.0"
    # As training writes its files: a run from a run inherits it.
    models.save_model(tmp_path / "run.h5", scratch, epoch=1, **meta)
    assert checkpoint.origin_of(checkpoint.read_meta(tmp_path / "run.h5")) == YOLOX
    models.save_model(tmp_path / "scratch.h5", scratch)
    assert checkpoint.origin_of(checkpoint.read_meta(tmp_path / "scratch.h5")) is None
    assert initialise(there, tmp_path / "scratch.h5")[1] == {"origin": None}


def test_files_of_versions_that_recorded_none():
    config = {"config": '{"train": {"init": null}}', "classes": ["a"]}
    assert checkpoint.origin_of(config | {"epoch": 3}) is None  # trained from nothing
    assert checkpoint.origin_of(config) == Origin(origin.UNRECORDED)  # an import
    assert checkpoint.origin_of(config | {"config": '{"train": {"init": "x.h5"}}', "epoch": 3}).licence is None


@pytest.mark.parametrize("value", ["yolox-s", 3, [], {}, {"weights": 1}, {"weights": "x", "licence": 3}])
def test_what_is_no_origin_is_an_error(value, tmp_path):
    model = models.build(small("demo"), ("a",))
    checkpoint.save(tmp_path / "m.h5", models.describe(model, origin=value), weights={})
    with pytest.raises(checkpoint.CheckpointError, match="its description is wrong: an origin has a name"):
        checkpoint.read_meta(tmp_path / "m.h5")


def test_what_a_licence_means_is_said_in_one_sentence():
    assert origin.initialised_line(None) is None
    assert origin.initialised_line(YOLOX) == f"initialised from yolox-s ({YOLOX.source}), Apache-2.0"
    line = origin.initialised_line(ULTRALYTICS)
    assert (
        line.startswith("initialised from best.pt, AGPL-3.0: who ships a product with this model") and ". " not in line
    )
    assert "licence not known: " in str(Origin("x.weights"))


def test_every_layout_of_pytorch_has_a_licence():
    assert layouts.licence_of("yolov8n") == layouts.licence_of("yolo11x") == "AGPL-3.0"
    natives = ["yolov8s", "yolo11n", *layouts._YOLOV7]
    assert all(layouts.licence_of(native) for native in natives) and layouts.licence_of("demo") is None


def test_a_tflite_files_metadata_have_the_licence():
    described = metadata.describe("x", "y", [metadata.Output("boxes", "", "boxes")], 0.1, False, str(ULTRALYTICS))
    assert b"best.pt, AGPL-3.0: who ships" in described


@pytest.mark.slow
def test_the_licence_travels_from_the_first_weights_to_the_last_line(tmp_path):
    from conftest import TINY, succeed

    from tfyolo.data import demo

    data = demo.write(tmp_path / "demo", train=4, val=2, test=1, size=(64, 96), progress=False)
    config = load_config("demo", *TINY)
    classes = ("blob", "star")
    models.save_model(tmp_path / "agpl.h5", models.build(config, classes)._replace(origin=ULTRALYTICS))
    stage = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    last = tmp_path / "agpl.h5"
    for name in ("one", "two"):
        printed = succeed("train", "demo", f"data={data}", *TINY, stage, f"init={last}", "--out", tmp_path / name)
        assert printed.splitlines()[-1] == origin.initialised_line(ULTRALYTICS)
        last = tmp_path / name
        for file in ("best.h5", "last.h5"):
            assert checkpoint.read_meta(last / file)["origin"] == ULTRALYTICS._asdict()
    printed = succeed("export", last)
    assert printed.splitlines()[-1] == origin.initialised_line(ULTRALYTICS)
    report = json.loads((last / "export" / "report.json").read_text())
    assert len(report) == 4 and all(each["origin"] == ULTRALYTICS._asdict() for each in report.values())
    extra = json.loads((last / "export" / "saved_model" / "assets.extra" / "tfyolo.json").read_text())
    assert extra["origin"] == ULTRALYTICS._asdict()
    for file in (last / "export").glob("*.tflite"):
        content = file.read_bytes()
        files, _ = packed.files_behind(content)
        assert json.loads(files["tfyolo.json"])["origin"] == ULTRALYTICS._asdict()
        assert b"initialised from best.pt, AGPL-3.0" in content


def test_weights_are_ready_if_all_classes_are_known_to_them():
    model = models.build(load_config("demo", *TINY), ("a", "b", "c"))
    theirs = checkpoint.weights_of(model.network)
    for classes, ready in (
        (("a", "b", "c"), True),
        (("c", "A", "b"), True),
        (("a", "b", "d"), False),
        (None, False),
    ):
        assert transferred(model, theirs, classes).ready == ready, classes
    wide = models.build(load_config("demo", *TINY), ("x", "c", "b", "a"))
    assert transferred(model, checkpoint.weights_of(wide.network), wide.classes).ready
    assert not transferred(wide, theirs, model.classes).ready
