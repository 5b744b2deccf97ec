"""Configs: defaults, bases, overrides, errors with their place, names."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from tfyolo import config as configs
from tfyolo.config import Config, ConfigError, from_json, load, to_json, to_yaml

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))

BASE = """\
name: base
data: {path: pets, format: coco}
model:
  input_size: 416
  backbone: darknet53
  neck: {name: up_cat, spp: true}
  head: coupled
  decoder:
    name: anchor
    anchors:
      p4: [[10, 14], [23, 27]]
      p5: [[81, 82]]
  assigner: {name: best_anchor, ignore: 0.7}
  objective: {name: dense, box: iou}
train:
  batch: 8
  stages:
    - epochs: 10
      lr: 1e-3
    - {epochs: 5, lr: 1e-4, freeze: [backbone]}
"""

SHARE = "the name of a split, or a share above 0 and below 1 of the training images to hold back"
SIZE = "a whole number from 1 to 16384, or two of them: [height, width]"
NOT_OURS = "and no config of that name comes with tfyolo (`tfyolo configs` lists them)"
PART = "a name, or a section with `name` and options"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files into the current directory, which is empty; base.yaml is there already."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    write("base.yaml", BASE)
    return write


def message(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    text = str(caught.value)
    assert not re.search(r"pydantic|Input should|Field required|Value error|type=", text), "pydantic speaks to the user"
    return text


def test_shorthands_and_defaults(write):
    config = load("base.yaml")
    assert config.name == "base"
    assert config.model.input_size == (416, 416)
    assert config.model.backbone.name == "darknet53" and config.model.backbone.options == {}
    assert config.model.neck.name == "up_cat" and config.model.neck.options == {"spp": True}
    assert config.model.decoder.options == {"anchors": {"p4": [[10, 14], [23, 27]], "p5": [[81, 82]]}}
    assert [stage.lr for stage in config.train.stages] == [0.001, 0.0001]
    assert config.model.postprocess.name == "nms" and config.train.clip == 10.0


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1", 1),
        (".5", 0.5),
        ("-2.", -2.0),
        ("1E+2", 100.0),
        ("007", 7),
        ("0x10", "0x10"),
        ("1_0", "1_0"),
    ]
    + [("yes", "yes"), ("off", "off"), ("True", True), ("false", False), ("1:30", "1:30"), ("2026-01-01", "2026-01-01")]
    + [("~", None), ("null", None), ("nan", "nan"), (".inf", ".inf"), ("'1'", "1"), ("!!str 1", "1"), ("<<", "<<")],
)
def test_scalars_are_those_of_yaml_1_2_and_survive_writing(write, text, value):
    config = load("base.yaml", [f"model.neck.option={text}"])
    read = config.model.neck.options["option"]
    assert read == value and type(read) is type(value)
    again = load(write("again.yaml", to_yaml(config))).model.neck.options["option"]
    assert again == value and type(again) is type(value)
    # Other people's YAML 1.1 reads the file the same way.
    assert yaml.safe_load(to_yaml(config))["model"]["neck"]["option"] == value


# --- base -------------------------------------------------------------------------------------------------------------


def test_base_is_merged_key_by_key(write):
    write("child.yaml", "base: base.yaml\nmodel: {neck: {spp: false}, objective: {box: giou}}\ntrain: {clip: null}\n")
    config = load("child.yaml")
    assert config.name == "child", "the name of a base is its own"
    assert config.model.neck.options == {"spp": False}
    assert config.model.objective.name == "dense" and config.model.objective.options == {"box": "giou"}
    assert config.train.clip is None and config.train.batch == 8


def test_bases_chain_and_count_from_their_own_file(write):
    write("sub/middle.yaml", "base: ../base.yaml\ntrain: {batch: 4}\nmodel: {head: decoupled}\n")
    write("top.yaml", "base: sub/middle.yaml\nname: mine\ntrain: {batch: 2}\n")
    config = load("top.yaml")
    assert (config.name, config.train.batch, config.model.head.name) == ("mine", 2, "decoupled")
    assert load("sub/middle.yaml").train.batch == 4


@pytest.mark.parametrize("neck", ["pan", "{name: pan}"])
def test_another_name_drops_the_options_of_the_base(write, neck):
    config = load(write("child.yaml", f"base: base.yaml\nmodel: {{neck: {neck}}}\n"))
    assert config.model.neck.name == "pan" and config.model.neck.options == {}


@pytest.mark.parametrize("neck", ["up_cat", "{name: up_cat}"])
def test_the_same_name_keeps_the_options_of_the_base(write, neck):
    config = load(write("child.yaml", f"base: base.yaml\nmodel: {{neck: {neck}}}\n"))
    assert config.model.neck.options == {"spp": True}


def test_options_go_to_a_part_that_the_base_names_in_short(write):
    config = load(write("child.yaml", "base: base.yaml\nmodel: {backbone: {width: 0.5}}\n"))
    assert config.model.backbone.name == "darknet53" and config.model.backbone.options == {"width": 0.5}


def test_options_are_replaced_whole_and_lists_too(write):
    write(
        "child.yaml",
        "base: base.yaml\nmodel: {decoder: {anchors: {p4: [[1, 2]]}}}\ntrain: {stages: [{epochs: 9, lr: 1}]}",
    )
    config = load("child.yaml")
    assert config.model.decoder.options == {"anchors": {"p4": [[1, 2]]}}
    assert [stage.epochs for stage in config.train.stages] == [9]


def test_sections_within_sections_are_merged(write):
    write("child.yaml", "base: base.yaml\ntrain: {optimizer: {name: sgd, momentum: 0.9}, ema: 0.5}\n")
    config = load(write("grandchild.yaml", "base: child.yaml\ntrain: {optimizer: {nesterov: true}}\n"))
    assert config.train.optimizer.options == {"momentum": 0.9, "nesterov": True} and config.train.ema == 0.5


def test_an_option_may_be_named_like_a_part(write):
    write("child.yaml", "base: base.yaml\nmodel: {neck: {head: {name: a, x: 1}, data: {x: 1}}}\n")
    config = load("child.yaml", ["model.neck.head.name=b", "model.neck.data=text"])
    assert config.model.neck.options == {"spp": True, "head": {"name": "b", "x": 1}, "data": "text"}


@pytest.mark.parametrize(
    "data, expected",
    [("other", ("other", None)), ("{path: other}", ("other", "coco")), ("{format: voc}", ("pets", "voc"))],
)
def test_a_bare_path_replaces_the_data_and_a_section_is_merged(write, data, expected):
    config = load(write("child.yaml", f"base: base.yaml\ndata: {data}\n"))
    assert (config.data.path, config.data.format) == expected
    assert load("base.yaml", [f"data={data}"]) == config.model_copy(update={"name": "base"})


def test_null_takes_the_data_of_the_base_away(write):
    assert load(write("child.yaml", "base: base.yaml\ndata: null\n")).data is None


@pytest.mark.parametrize(
    "first, expected",
    [
        ("base: a.yaml\n", "a.yaml:1: base: goes round in a circle: a.yaml -> a.yaml"),
        ("name: a\nbase: b.yaml\n", "b.yaml:2: base: goes round in a circle: a.yaml -> b.yaml -> a.yaml"),
        (
            "base: bose.yaml\n",
            f"a.yaml:1: base: bose.yaml: no such file, {NOT_OURS}; did you mean base.yaml?",
        ),
        ("base: sub\n", "a.yaml:1: base: sub: expected a config in YAML, received a folder"),
        ("base: 3\n", "a.yaml:1: base: expected a file's name, received 3"),
        ("base: [base.yaml]\n", 'a.yaml:1: base: expected a file\'s name, received ["base.yaml"]'),
        ("base: c.yaml\n", "c.yaml:1: expected a mapping (key: value), received 5"),
    ],
)
def test_bad_bases(write, first, expected):
    write("b.yaml", "# two\nbase: a.yaml\n")
    write("c.yaml", "5\n")
    write("sub/x.yaml", BASE)
    write("a.yaml", first)
    assert message("a.yaml") == expected


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, read, expected",
    [
        ("train.batch=16", lambda c: c.train.batch, 16),
        ("train.clip=null", lambda c: c.train.clip, None),
        ("train.eager=true", lambda c: c.train.eager, True),
        ("train.stages.0.lr=5e-4", lambda c: c.train.stages[0].lr, 5e-4),
        ("train.stages.1.data=pets2", lambda c: c.train.stages[1].data.path, "pets2"),
        (
            "train.stages.1={epochs: 7}",
            lambda c: (c.train.stages[1].epochs, c.train.stages[1].freeze),
            (7, ("backbone",)),
        ),
        ("train.stages=[{epochs: 7, lr: 1}]", lambda c: [s.epochs for s in c.train.stages], [7]),
        ("data=../x", lambda c: (c.data.path, c.data.format), ("../x", None)),
        ("data.path=../x", lambda c: (c.data.path, c.data.format), ("../x", "coco")),
        ("model.neck=pan", lambda c: (c.model.neck.name, c.model.neck.options), ("pan", {})),
        ("model.neck.name=pan", lambda c: (c.model.neck.name, c.model.neck.options), ("pan", {})),
        ("model.neck.name=up_cat", lambda c: c.model.neck.options, {"spp": True}),
        ("model.neck.wide=2", lambda c: c.model.neck.options, {"spp": True, "wide": 2}),
        (
            "model.backbone.width=.5",
            lambda c: (c.model.backbone.name, c.model.backbone.options),
            ("darknet53", {"width": 0.5}),
        ),
        ("model.decoder.anchors.p4.1=[5, 6]", lambda c: c.model.decoder.options["anchors"]["p4"], [[10, 14], [5, 6]]),
        ("model.decoder.anchors.p4.1.0=5", lambda c: c.model.decoder.options["anchors"]["p4"], [[10, 14], [5, 27]]),
        ("model.decoder.anchors={p5: []}", lambda c: c.model.decoder.options, {"anchors": {"p5": []}}),
        ("model.decoder.anchors.p5=[]", lambda c: list(c.model.decoder.options["anchors"].values())[1], []),
        ("model.classes=[no, 'on']", lambda c: c.model.classes, ("no", "on")),
        ("model.input_size=[320, 416]", lambda c: c.model.input_size, (320, 416)),
        ("augment.flip=0", lambda c: (c.augment.flip, c.augment.scale), (0.0, 0.5)),
        ("train.optimizer={name: sgd, momentum: 0.9}", lambda c: c.train.optimizer.options, {"momentum": 0.9}),
        ("name=mine", lambda c: c.name, "mine"),
    ],
)
def test_overrides(write, override, read, expected):
    assert read(load("base.yaml", [override])) == expected


def test_options_alone_are_those_of_a_default_part(write):
    config = load("base.yaml", ["model.postprocess.iou=0.7", "train.optimizer={weight_decay: 0.1}"])
    assert config.model.postprocess.name == "nms" and config.model.postprocess.options == {"iou": 0.7}
    assert config.train.optimizer.name == "adamw"


def test_the_last_override_wins_and_earlier_ones_stay(write):
    config = load("base.yaml", ["model.neck=pan", "model.neck.depth=3", "train.batch=2", "train.batch=4"])
    assert (config.model.neck.name, config.model.neck.options, config.train.batch) == ("pan", {"depth": 3}, 4)
    # The value of an inherited list is changed in a copy of it, not lost.
    config = load("base.yaml", ["train.stages.0.epochs=20", "train.stages.1.epochs=30"])
    assert [(s.epochs, s.lr) for s in config.train.stages] == [(20, 1e-3), (30, 1e-4)]


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.batch", "expected KEY=VALUE, such as train.batch=16 or train.clip=null"),
        ("train.batch=", "expected KEY=VALUE, such as train.batch=16 or train.clip=null"),
        ("=3", "expected KEY=VALUE, such as train.batch=16 or train.clip=null"),
        ("train..batch=3", "expected KEY=VALUE, such as train.batch=16 or train.clip=null"),
        ("data=# 3", "expected a value after =, received only a comment; put quotes around it"),
        ("data=[a", "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("train.batch=x", "train.batch: expected a whole number from 1 to 65536, received 'x'"),
        ("train.batch.x=3", 'train.batch: expected a whole number from 1 to 65536, received {"x": 3}'),
        ("train.accumulate=3", "train.accumulate: expected a divisor of train.batch (8), received 3"),
        ("train.stages.epochs=3", "train.stages: a list of 2, expected an index: train.stages.0.epochs"),
        ("train.stages.2.epochs=3", "train.stages: a list of 2, counted from 0; received the index 2"),
        ("data={path: a, path: b}", 'data.path: given twice, first at override "data={path: a, path: b}"'),
        (
            "model.nek.name=pan",
            "model.nek: unknown key; did you mean neck? the keys here are input_size, preprocess, classes, backbone, "
            "neck, head, decoder, assigner, objective, postprocess, quantize",
        ),
        (
            "base=x.yaml",
            "base: unknown key; the keys here are name, data, model, augment, train, in short also epochs, lr, batch, "
            "imgsz, init, optimizer, precision, seed",
        ),
    ],
)
def test_bad_overrides(write, override, expected):
    assert message("base.yaml", override) == f'override "{override}": ' + expected


def test_all_bad_overrides_are_reported_at_once(write):
    lines = message("base.yaml", "train.stages.lr=1", "train", "train.seed=-1").splitlines()
    assert [line.split('"')[1] for line in lines] == ["train.stages.lr=1", "train", "train.seed=-1"]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("batch: 8", "batch: abc", "16: train.batch: expected a whole number from 1 to 65536, received 'abc'"),
        ("batch: 8", "batch: '16'", "16: train.batch: expected a whole number from 1 to 65536, received '16'"),
        ("batch: 8", "batch: true", "16: train.batch: expected a whole number from 1 to 65536, received true"),
        ("batch: 8", "batch: 8.0", "16: train.batch: expected a whole number from 1 to 65536, received 8.0"),
        ("batch: 8", "batch: 0", "16: train.batch: expected a whole number from 1 to 65536, received 0"),
        ("batch: 8", "batch:", "16: train.batch: expected a whole number from 1 to 65536, received null"),
        ("batch: 8", "batch: {a: 1}", '16: train.batch: expected a whole number from 1 to 65536, received {"a": 1}'),
        ("batch: 8", "ema: 1", "16: train.ema: expected a number >= 0 and < 1, received 1"),
        ("batch: 8", "ema: false", "16: train.ema: expected a number >= 0 and < 1, received false"),
        ("batch: 8", "ema: .nan", "16: train.ema: expected a number >= 0 and < 1, received '.nan'"),
        ("batch: 8", "clip: 1e999", "16: train.clip: expected a finite number, received '1e999'"),
        ("batch: 8", "clip: -1", "16: train.clip: expected a number > 0 or null, received -1"),
        ("batch: 8", "eager: yes", "16: train.eager: expected true or false, received 'yes'"),
        ("batch: 8", "eager: 1", "16: train.eager: expected true or false, received 1"),
        ("batch: 8", "precision: fp16", "16: train.precision: expected one of float32, bfloat16, received 'fp16'"),
        ("batch: 8", "seed: 3000000000",
         "16: train.seed: expected a whole number >= 0 and < 2147483648, received 3000000000"),
        ("batch: 8", "bacth: 8",
         "16: train.bacth: unknown key; did you mean batch? the keys here are stages, minutes, save_minutes, batch, "
         "accumulate, optimizer, backbone_rate, clip, ema, precision, init, seed, evaluate_every, evaluate_batch, "
         "workers, draw_images, eager"),
        ("batch: 8", "accumulate: 3", "16: train.accumulate: expected a divisor of train.batch (16), received 3"),
        ("batch: 8", "optimizer: 1", f"16: train.optimizer: expected {PART}, received 1"),
        ("batch: 8", "batch: 8\n  batch: 9", "17: train.batch: given twice, first at x.yaml:16"),
        ("batch: 8", "? [1]\n  : 3",
         "16: train.a list or a section: expected text as a key, received a list or a section"),
        ("batch: 8", "1: 3", "16: train.1: expected text as a key, received 1"),
        ("batch: 8", "batch: !!set {8}", "16: train.batch: expected plain YAML, received the tag !!set"),
        ("spp: true", "spp: &b [*b]", "6: model.neck.spp.0: an alias (*) stands inside what it names"),
        ("input_size: 416", "input_size: [416, 0]", f"4: model.input_size: expected {SIZE}, received [416, 0]"),
        ("input_size: 416", "input_size: [416]", f"4: model.input_size: expected {SIZE}, received [416]"),
        ("input_size: 416", "input_size: -32", f"4: model.input_size: expected {SIZE}, received -32"),
        ("  input_size: 416\n", "", f"3: model.input_size: missing, expected {SIZE}"),
        ("  head: coupled\n", "", f"3: model.head: missing, expected {PART}"),
        ("input_size: 416", "input_size: 416\n  classes: [cat, dog, cat]",
         "5: model.classes: expected every class once, received more than once: cat"),
        ("input_size: 416", "input_size: 416\n  classes:\n    - cat\n    - 5",
         "7: model.classes.1: expected text, received 5; quotes make it text"),
        ("input_size: 416", "input_size: 416\n  classes: []",
         "5: model.classes: expected a list with at least one entry and at most 100,000, each text or null, "
         "received []"),
        ("lr: 1e-3", "lr: 0", "19: train.stages.0.lr: expected a number > 0, received 0"),
        ("lr: 1e-3", "plain_epochs: 5", "18: train.stages.0.lr: missing, expected a number > 0"),
        ("lr: 1e-3", "lr: 1\n      loss_weights:\n        box: -1",
         "21: train.stages.0.loss_weights.box: expected a number >= 0, received -1"),
        ("lr: 1e-3", "lr: 1\n      steps: 0.5",
         "20: train.stages.0.steps: expected a list, each a number from 0 to 1, received 0.5"),
        ("lr: 1e-3", "lr: 1\n      data: {format: coco}", "20: train.stages.0.data.path: missing, expected text"),
        ("format: coco", "format: 5",
         "2: data.format: expected one of tfrecord, coco, voc, yolo, labelme, csv, null, received 5"),
        ("format: coco", "val: 1.5", f"2: data.val: expected {SHARE}, received 1.5"),
        ("format: coco", "test: 0.0", f"2: data.test: expected {SHARE}, received 0.0"),
        ("format: coco", "names: []",
         "2: data.names: expected a file of class names, one a line, or a list of them, received []"),
        ("path: pets", "path: ''", "2: data.path: expected text, received ''"),
        ("name: base", "name: a/b",
         "1: name: expected text without slashes and control characters, of at most 200 bytes, received 'a/b'"),
    ],
)  # fmt: skip
def test_errors_name_the_line_the_path_the_value_and_what_is_right(write, old, new, expected):
    assert old in BASE
    assert message(write("x.yaml", BASE.replace(old, new, 1))) == f"x.yaml:{expected}"


def test_all_errors_of_a_file_come_at_once(write):
    text = (
        BASE.replace("batch: 8", "batch: abc\n  seed: 1\n  seed: 2").replace("416", "0").replace("lr: 1e-4", "lr: -1")
    )
    assert [line.split(": ")[:2] for line in message(write("x.yaml", text)).splitlines()] == [
        ["x.yaml:18", "train.seed"],
        ["x.yaml:4", "model.input_size"],
        ["x.yaml:22", "train.stages.1.lr"],
        ["x.yaml:16", "train.batch"],
    ]


def test_an_inherited_value_is_found_in_the_base(write):
    write("base.yaml", BASE.replace("batch: 8", "batch: none"))
    write("child.yaml", "base: base.yaml\ntrain:\n  sed: 1\n")
    assert [line.partition(";")[0] for line in message("child.yaml").splitlines()] == [
        "base.yaml:16: train.batch: expected a whole number from 1 to 65536, received 'none'",
        "child.yaml:3: train.sed: unknown key",
    ]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "x.yaml: expected a mapping (key: value), received an empty file"),
        (b"# only this\n", "x.yaml: expected a mapping (key: value), received an empty file"),
        (b"\n- 1\n", "x.yaml:2: expected a mapping (key: value), received [1]"),
        (b"train: {batch: 1\n", "x.yaml:2: not valid YAML: while parsing a flow mapping"),
        (b"train:\n\tbatch: 1\n", "x.yaml:2: not valid YAML: while scanning for the next token, found character '\\t'"),
        (b"a: 1\n---\na: 2\n", "x.yaml:2: not valid YAML: expected a single document"),
        (b"a: \x01\n", "x.yaml: not valid YAML: special characters are not allowed"),
        (b"\xff\xd8\xff\xe0", "x.yaml: expected a config in YAML, received a file that is not text in UTF-8"),
    ],
)
def test_files_that_are_no_config(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(content)
    assert message("x.yaml").startswith(expected)


def test_a_file_that_is_not_there(write):
    assert message("bose.yaml") == f"bose.yaml: no such file, {NOT_OURS}; did you mean base.yaml?"
    assert message(Path("nowhere") / "x.yaml") == "nowhere/x.yaml: no such file, expected a config in YAML"
    assert message(".") == ".: expected a config in YAML, received a folder"


def test_later_checks_find_the_place(write):
    config = load(write("child.yaml", "base: base.yaml\nmodel:\n  neck: {wide: 3}\n"), ["train.stages.1.lr=1"])
    assert str(config.error("model.decoder.anchors.p5.0", "expected x")) == (
        "base.yaml:12: model.decoder.anchors.p5.0: expected x"
    )
    assert config.place("model.neck.wide") == "child.yaml:3"
    assert config.place("model.neck.spp") == "base.yaml:6"
    assert config.place("model.postprocess.iou") == "child.yaml:2", "a default stands where its section does"
    assert config.place("augment.flip") == "child.yaml:1"
    assert config.place("train.stages.1.lr") == 'override "train.stages.1.lr=1"'
    without = from_json(to_json(config))
    assert without == config and without.place("model.neck") is None
    assert str(without.error("model.neck.wide", "expected x")) == "model.neck.wide: expected x"


def test_a_config_does_not_change(write):
    config = load("base.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.train.batch = 3
    assert config != load("base.yaml", ["train.batch=3"])
    assert isinstance(config, Config)


# --- names, short names, habits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n.yaml"])
def test_tfyolos_own_configs_are_found_by_name_from_any_folder(write, name):
    config = load(name)
    assert config.name == "yolov8n" and config == load(configs.zoo("yolov8n"))
    child = load(write("sub/mine.yaml", f"base: {name}\ntrain: {{batch: 4}}\n"))
    assert (child.name, child.train.batch, child.model) == ("mine", 4, config.model)


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n.yaml", Path("yolov8n")])
def test_a_file_of_that_name_goes_before(write, name):
    write("yolov8n.yaml", BASE)
    write("sub/child.yaml", f"base: {name}\n")
    assert load(name).train.batch == 8 and load(name).name == "base"
    assert load("sub/child.yaml").train.batch == 16, "a base is looked for beside its file, not in the current folder"
    assert load(write("child.yaml", f"base: {name}\n")).train.batch == 8
    Path("yolov8s").mkdir()  # a folder, such as a run's, is no config
    assert load("yolov8s").name == "yolov8s"


def test_a_file_of_ones_own_may_be_called_like_the_one_it_is_based_on(write):
    config = load(write("yolov8n.yaml", "base: yolov8n.yaml\ntrain: {batch: 4}\n"))
    assert config.train.batch == 4 and config.model == load(configs.zoo("yolov8n")).model


@pytest.mark.parametrize(
    "name, expected",
    [
        ("yolov8m2", "did you mean yolov8m"),
        ("YOLOv8n", "did you mean yolov8n, of tfyolo's own?"),
        ("yolov5", "`tfyolo configs` lists them"),
        ("configs/yolov8n.yaml", "no such file, expected a config in YAML; did you mean yolov8n, of tfyolo's own?"),
        ("bese.yaml", "did you mean base.yaml?"),
        ("yolov8n.pt", "expected a config in YAML, received PyTorch's weights; `tfyolo import yolov8n.pt` makes a run"),
    ],
)
def test_a_name_that_is_none_says_what_may_be_meant(write, name, expected):
    assert expected in message(name)
    assert f"x.yaml:1: base: {name}: " in message(write("x.yaml", f"base: {name}\n"))


@pytest.mark.parametrize("short", configs.SHORT)
def test_short_names_set_the_keys_that_they_stand_for(write, short):
    value = {"lr": "0.5", "optimizer": "sgd", "precision": "bfloat16", "init": "x.h5", "imgsz": "64"}.get(
        short.split(".")[-1], "2"
    )
    write("one.yaml", "base: base.yaml\ntrain: {stages: [{epochs: 1, lr: 1, warmup: 7}]}\n")
    key = configs.SHORT[short].replace("*", "0")
    config = load("one.yaml", [f"{short}={value}"])
    assert config == load("one.yaml", [f"{key}={value}"]) != load("one.yaml")
    assert config.place(key) == f'override "{short}={value}"' and config.train.stages[0].warmup == 7


@pytest.mark.parametrize("short", ["epochs", "lr", "train.epochs"])
def test_of_a_plan_with_stages_the_stage_is_named(write, short):
    leaf = short.split(".")[-1]
    assert message("base.yaml", f"{short}=3") == (
        f'override "{short}=3": the plan of this config has 2 stages; say of which, as train.stages.0.{leaf}=3'
    )
    plan = "train.stages=[{epochs: 1, lr: 1}]"
    assert getattr(load("base.yaml", [plan, f"{short}=3"]).train.stages[0], leaf) == 3


@pytest.mark.parametrize(
    "override, expected",
    [
        ("epochs=x", "train.stages.0.epochs: expected a whole number from 1 to 1000000, received 'x'"),
        ("mosaic=1", "mosaic: unknown key; did you mean augment.mosaic?"),
        ("input_size=64", "input_size: unknown key; did you mean model.input_size?"),
        ("train.flip=1", "train.flip: unknown key; did you mean augment.flip?"),
        ("train.imgsz=64", "train.imgsz: unknown key; did you mean model.input_size?"),
    ],
)
def test_the_place_of_a_misplaced_key_is_named(write, override, expected):
    plan = "train.stages=[{epochs: 1, lr: 1}]"
    assert message("base.yaml", plan, override).startswith(f'override "{override}": {expected}')


def test_short_names_are_for_overrides_and_a_file_says_where(write):
    error = message(write("x.yaml", "base: base.yaml\nepochs: 3\n"))
    assert error.startswith("x.yaml:2: epochs: unknown key; did you mean train.stages.0.epochs?")


SPACE = "YAML wants a space after the colon"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train: {stages: [{epochs:1, lr: 1}]}", f"x.yaml:2: train.stages.0.epochs:1: {SPACE}: epochs: 1"),
        ("train: {batch:8}", f"x.yaml:2: train.batch:8: {SPACE}: batch: 8"),
        ("train:\n  batch:8", f"received 'batch:8'; {SPACE}: batch: 8"),
        ("train:\n  batch:8\n  seed:1", f"received 'batch:8 seed:1'; {SPACE}: batch: 8"),
        (
            "train:\n  batch:8\n  seed: 1",
            f"x.yaml:4: not valid YAML: mapping values are not allowed here; {SPACE}: batch: 8",
        ),
    ],
)
def test_yaml_wants_a_space_after_the_colon(write, text, expected):
    assert expected in message(write("x.yaml", f"base: base.yaml\n{text}\n"))


def test_what_has_a_colon_by_right_is_no_fault(write):
    config = load("base.yaml", ["data=C:/pets", "model.neck.url=http://x", "model.neck.times=[1:30, {a: 1:30}]"])
    assert config.data.path == "C:/pets"
    assert config.model.neck.options == {"spp": True, "url": "http://x", "times": ["1:30", {"a": "1:30"}]}
