"""Configs and overrides that are damaged or harmful: one clean error that names the place, at once, in little memory.

The slow test at the end damages configs and overrides at random, in a process with a limit of memory and of time.
"""

import inspect
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
import typing
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_damaged_data import Worker, _type

from tfyolo import config as configs
from tfyolo.config import ConfigError, from_json, load, parts, to_json
from tfyolo.config.explain import SCHEMA, resolve_schema

HUGE = {"400 digits": "9" * 400, "5,000 digits": "9" * 5000}


@pytest.fixture(autouse=True)
def in_time():
    """What waits for a FIFO, or works for long, fails."""

    def ring(number, frame):
        raise TimeoutError("longer than 20 seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a config over `demo`, in the current folder, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="x.yaml", base="base: demo\n"):
        Path(name).write_text(base + text, encoding="utf-8")
        return name

    return write


def refused(path, *overrides):
    """The message of the ConfigError."""
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parts.check(load(path, overrides))
    assert time.process_time() - began < 5
    assert len(str(caught.value)) < 20_000
    return str(caught.value)


# --- structure --------------------------------------------------------------------------------------------------------

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ALIASES, r"x\.yaml:\d+: expected a config of at most 100,000 values, received more"),
        ("a: &a {b: &b [*a, *b, *a], c: *b}", "an alias .* stands inside what it names"),
        (f"a: &a {'x' * 100_000}\nmodel: {{input_size: [{', '.join(['*a'] * 3000)}]}}", r"received \[.x{20,}\.\.\."),
        ("x: " + "[" * 100_000 + "]" * 100_000, r"x\.yaml:2: not valid YAML: nested in more than 20 levels"),
        ("x: " + "{a: " * 3000 + "}" * 3000, r"x\.yaml:2: not valid YAML: nested in more than 20 levels"),
        ("x:\n" + "".join(" " * i + "-\n" for i in range(1, 1000)), r"x\.yaml:\d+: not valid YAML: nested"),
        ("x: " + "y" * (2 << 20), r"cannot be read: expected at most 1,048,576 bytes"),
        ("---\n" * 10_000, "expected a single document"),
        ("model:\n  head: {a:>0, b:!x, c:&x}", "YAML wants a space after the colon: a: >0"),
        ("x: {" + ", ".join(f"k{i}: 1" for i in range(300)) + "}", "unknown key"),
        ("\n".join(f"k{i}: 1" for i in range(300)), "k0: unknown key(.|\n)*\nand more$"),
        (
            f"train: {{stages: [{', '.join(['{epochs: 1, lr: 1}'] * 101)}]}}",
            "with at least one entry and at most 100",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_that_is_made_to_do_harm(text, words, written):
    assert re.search(words, refused(written(text)))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.neck.width=" + "[" * 3000, "nested in more than 20 levels"),
        ("model.neck." + ".".join("a" * 3000) + "=1", "expected a key of at most 20 parts, received 3,002"),
        ("model.neck.width=&a [*a]", "stands inside what it names"),
        ("model.classes=[&a [a, a], *a, *a]", "model.classes.0: expected text"),
        ("train.seed=" + "x" * 100_000, "train.seed: expected"),
        ("x" * 100_000 + "=1", "unknown key"),
    ],
    ids=lambda value: value[:20],
)
def test_overrides_that_are_made_to_do_harm(override, words, written):
    message = refused(written(""), override)
    assert words in message and len(message) < 2000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000, "[" * 300 + "]" * 300])
def test_json_without_end(text):
    """As it may lie in a checkpoint or an export."""
    with pytest.raises(ConfigError) as caught:
        from_json(text)
    assert len(str(caught.value)) < 1000


# --- numbers, dates, tags ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", HUGE)
@pytest.mark.parametrize(
    "key",
    [
        "train.batch",
        "train.clip",
        "train.seed",
        "train.stages.0.epochs",
        "train.stages.0.lr",
        "train.stages.0.loss_weights.box",
        "model.input_size",
        "model.input_size.0",
        "model.backbone.width",
        "model.postprocess.limit",
        "model.decoder.anchors.p4.0.0",
        "data.seed",
        "name",
    ],
)
def test_numbers_of_many_digits_are_named_with_their_place(key, digits, written):
    message = refused(written(""), f"{key}={HUGE[digits]}")
    assert key.removesuffix(".0") in message and "9...9" in message.replace("99", "9") and len(message) < 700


@pytest.mark.parametrize("number", [*HUGE.values(), f"1e{'9' * 400}", f"-{'9' * 5000}.5", f".{'9' * 5000}e400"])
def test_numbers_of_many_digits_in_a_file_are_named_with_their_line(number, written):
    message = refused(written(f"train:\n  clip: {number}\n"))
    assert message.startswith("x.yaml:3: train.clip: expected a") and len(message) < 300


def test_an_index_of_many_digits(written):
    for digits in HUGE.values():
        assert "a list of 1, counted from 0; received the index 99" in refused(
            written(""), f"train.stages.{digits}.lr=1"
        )


@pytest.mark.parametrize(
    "value",
    [
        "2024-02-31",
        "2024-02-31T25:61:61Z",
        "!!timestamp 2024-02-31",
        "!!timestamp x",
        "!!int x",
        "!!int 0x1f",
        "!!float x",
        "!!binary '*'",
        "!!set {a}",
        "!!omap [a]",
        "!!python/object/apply:os.system [exit]",
        "!!python/name:os.system",
        "!other x",
        "!<tag:x> y",
        "!!map x",
        "!!seq x",
        ".inf",
        ".nan",
        "1e999",
        "*nothing",
        '"\\ud800"',
        '"\\0"',
    ],
)
def test_dates_and_tags_that_are_none(value, written):
    for key, section in (("train.seed", "train: {seed: "), ("train.clip", "train: {clip: ")):
        assert "override" in refused(written(""), f"{key}={value}")
        assert refused(written(f"{section}{value}}}\n")).startswith("x.yaml:2: ")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_long_chain_of_bases(written):
    for number in range(3000):
        written("", f"c{number}.yaml", f"base: c{number + 1}.yaml\n")
    written("", "c3000.yaml")
    assert refused("c0.yaml") == "c20.yaml:1: base: expected at most 20 files, each the base of the one before it"
    load("c2985.yaml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loop.yaml", "received a link that leads nowhere, or in a circle"),
        ("nowhere.yaml", "received a link that leads nowhere, or in a circle"),
        ("fifo.yaml", "received a FIFO or a device"),
        ("/dev/zero", "received a FIFO or a device"),
        ("folder.yaml", "received a folder"),
        ('"a\\0b.yaml"', "a\\x00b.yaml: no such file"),
        ('"a\\0/b.yaml"', "a\\x00/b.yaml: no such file"),
        ("a" * 5000, "no such file"),
        ("a/" * 5000 + "x", "no such file"),
        ("../" * 2000 + "x", "no such file"),
        ('"\\ud800"', "base: expected text in Unicode"),
        ('"\\e[31m"', "\\x1b[31m: no such file"),
        ("9" * 5000, "base: expected a whole number of at most 18 digits"),
        ("[x]", "base: expected a file's name"),
        ("&a [*a]", "base"),
    ],
    ids=lambda value: value[:20],
)
def test_bases_that_are_none(name, words, written):
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("nowhere.yaml").symlink_to("gone.yaml")
    os.mkfifo("fifo.yaml")
    Path("folder.yaml").mkdir()
    message = refused(written("", base=f"base: {name}\n"))
    assert message.startswith("x.yaml:1: base") and words in message and len(message) < 1000
    if not name.startswith(('"', "[", "&", "9")):
        assert words in refused(name)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [".", "..", "a/b", "a\\b", "", "a\nb", "\x1b[31mred", "\u202ecod", "x" * 201, "é" * 101]
)
def test_names_that_no_folder_should_have(name, written):
    assert "name: expected text without slashes" in refused(written(""), f"name={json.dumps(name)}")


def test_control_characters_are_shown_escaped(written):
    red = "\x1b[31mred\nError: x"
    shown = json.dumps(red)
    for override in (f"model.neck={shown}", f"train.{red}=1", f"model.neck.{red}=1", f"model.preprocess={shown}", red):
        message = refused(written(""), "data=x", override)
        assert "\x1b" not in message and "\\x1b[31mred" in message
    assert load(written(""), [f"model.classes=[{shown}]"]).model.classes == ("\\x1b[31mred\\nError: x",)


# --- ranges -----------------------------------------------------------------------------------------------------------

OPTIONS = [
    pytest.param(kind, name, option, id=f"{kind} {name} {option}")
    for kind in parts.TABLES
    for name, builder in parts.builders(kind).items()
    for option, parameter in parts.options_of(builder).items()
    if parameter.annotation not in (inspect.Parameter.empty, str, bool)
]


def numbers_in(annotation):
    """How a number stands in values of an annotation: functions number -> value; and the type of the number."""
    bare, origin = annotation, typing.get_origin(annotation)
    while origin is typing.Annotated:
        bare = typing.get_args(bare)[0]
        origin = typing.get_origin(bare)
    inside = typing.get_args(bare)
    if bare in (int, float):
        yield (lambda number: number), bare
    elif origin is list or (origin is tuple and inside[1:] == (Ellipsis,)):
        yield from ((lambda number, put=put: [put(number)] * 3, kind) for put, kind in numbers_in(inside[0]))
    elif origin is tuple:
        yield from ((lambda number, put=put: [put(number)] * len(inside), kind) for put, kind in numbers_in(inside[0]))
    elif origin is dict:
        yield from ((lambda number, put=put: {"p3": put(number)}, kind) for put, kind in numbers_in(inside[1]))
    elif origin is not typing.Literal and inside:  # a union
        for each in inside:
            yield from numbers_in(each)


@pytest.mark.parametrize("kind, name, option", OPTIONS)
def test_every_number_among_the_options_of_parts_has_a_range(kind, name, option):
    """Said in the signature, where nothing is negative and no count without an end."""
    parameter = parts.options_of(parts.builders(kind)[name])[option]
    if (kind, option) in (("objective", "aux"), ("backbone", "arguments")):  # of others, who check them as their own
        return
    for put, number in numbers_in(parameter.annotation):
        for wrong in (-1, -0.5, "x", True, float("nan"), *((10**9, 10**400) if number is int else (10**400,))):
            if number is float and wrong == 10**400:
                continue  # YAML has no such number, JSON's is infinite
            with pytest.raises(ValueError, match=r"^expected .*, received ") as caught:
                parts.typed(put(wrong), parameter.annotation)
            assert "Annotated" not in str(caught.value) and "typing" not in str(caught.value)


def test_every_number_in_the_schema_has_a_range():
    def walk(schema, path):
        kind = schema.get("type")
        if kind in ("integer", "number") and "expected" not in schema:
            assert {"minimum", "exclusiveMinimum"} & set(schema), path
            assert kind == "number" or {"maximum", "exclusiveMaximum"} & set(schema), path
        for key, value in schema.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    walk(each, f"{path}.{key}")

    walk(SCHEMA, "")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.postprocess.iou=-1", "model.postprocess.iou: expected a number from 0 to 1, received -1"),
        ("model.postprocess.score=1.5", "model.postprocess.score: expected a number from 0 to 1, received 1.5"),
        ("model.postprocess.limit=0", "model.postprocess.limit: expected a whole number from 1 to 100000, received 0"),
        ("model.postprocess.distance_power=0", "model.postprocess.distance_power: expected a number > 0 or null"),
        ("model.decoder.anchors.p4=[[0, 3]]", "model.decoder.anchors: expected levels, p1 to p9, and of each a list"),
        ("model.decoder.scale_yx=-1", "scale_yx: expected a number > 0 or a section with each value a number > 0"),
        ("model.assigner.ignore=7", "model.assigner.ignore: expected a number from 0 to 1, received 7"),
        ("model.objective.box_gain=-1", "model.objective.box_gain: expected a number >= 0, received -1"),
        ("model.objective.label_smoothing=1", "expected a number >= 0 and < 1, received 1"),
        ("model.backbone.width=1000", "model.backbone.width: expected a number > 0 and <= 100, received 1000"),
        ("model.head.channels={p4: -3}", "channels: expected a section with each value a whole number from 1 to 65536"),
        ("model.head.channels={x: 3}", "model.head.channels: expected a section"),
        (
            "model.decoder={name: dfl, bins: 1}",
            "model.decoder.bins: expected a whole number from 2 to 1024, received 1",
        ),
        (
            "model.decoder={name: dfl, levels: [x]}",
            "expected a list with at least one entry and at most 9, each a level",
        ),
        ("model.backbone={name: resnet, layers_count: 34}", "expected one of 50, 101, 152, received 34"),
        ("model.assigner={name: ota, cells: 4}", "model.assigner.cells: expected one of 3, 5, received 4"),
        ("train.optimizer={name: sgd, momentum: 1}", "train.optimizer.momentum: expected a number >= 0 and < 1"),
        ("augment.scale=1", "augment.scale: expected a number >= 0 and < 1, received 1"),
        ("augment.rotate=-1", "augment.rotate: expected a number from 0 to 180, received -1"),
        ("model.input_size=1000000000", "model.input_size: expected a whole number from 1 to 16384"),
        ("train.batch=1000000000", "train.batch: expected a whole number from 1 to 65536"),
        ("train.stages.0.epochs=1000000000000", "expected a whole number from 1 to 1000000"),
    ],
)
def test_options_out_of_their_ranges_are_reported_with_them(override, words, written):
    assert words in refused(written(""), override)


def test_the_shipped_configs_are_within_the_ranges():
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        parts.check(load(path))


# --- by chance --------------------------------------------------------------------------------------------------------

_VALUES = [
    *HUGE.values(), "-1", "0", "1e999", ".nan", "null", "true", "x", "''", "[]", "{}", "[[]]", "{a: 1}", "2024-02-31",
    "*a", "&a [*a]", "!!binary x", "!!int x", "!!set {a}", "!x y", '"\\ud800"', '"\\0"', '"\\e[31m"',
    "../../etc/passwd", "/dev/zero", "1000000000", "0x10", "1_0", "٣", "1:30", "[" * 3000, "{a: " * 50, "- x", "|", "'",
    "x" * 5000, "[" + "1, " * 5000 + "]", "{name: nms, iou: -1}",
    "999999999999999999", "1e308", "-1e-308", "1e-400", "0.5", "16", "yolov8n", "\u202ex",
]  # fmt: skip
_PIECES = [bytes([octet]) for octet in b":-[]{}#&*!|>'\"%@`,? \t\n0.\\\x00\xff\xc3"] + [
    b"",
    b"[" * 5000,
    b"9" * 5000,
    b"NaN",
    b"1e999",
    b"\\ud800",
]


def _pieced(rng, content):
    """Some places of a text by other bytes."""
    content = bytearray(content)
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(content) + 1)
        content[at : at + rng.choice([0, 1, 1, 30])] = rng.choice(_PIECES)
    return bytes(content)


def _keys():
    def walk(schema, path):
        schema = resolve_schema(schema)
        yield path
        for key, child in schema.get("properties", {}).items():
            yield from walk(child, [*path, key])
        if "items" in schema:
            yield from walk(schema["items"], [*path, "0"])

    found = [".".join(path) for path in walk(SCHEMA, []) if path]
    options = [
        f"{'train' if kind == 'optimizer' else 'model'}.{kind}.{option}"
        for kind in parts.TABLES
        for builder in parts.builders(kind).values()
        for option in parts.options_of(builder)
    ]
    return [
        *found,
        *configs.SHORT,
        *options,
        "base",
        "model.decoder.anchors.p4.0.0",
        "train.stages.7.lr",
        "x",
        "",
        "a.b.c",
    ]


def _overridden(rng, folder):
    """(a config, overrides by chance)."""
    names = rng.choice([["demo"], configs.packaged_names()])
    return rng.choice(names), [f"{rng.choice(_keys())}={rng.choice(_VALUES)}" for _ in range(rng.randrange(1, 4))]


def _valued(rng, folder):
    """A whole config with some of its values by others."""
    tree = json.loads(to_json(load(rng.choice(["demo", "yolov8n", "yolov7-w6", "cornernet-hg104", "m2det320-vgg"]))))
    text = yaml.safe_dump(tree, default_flow_style=rng.choice([True, False, None]))
    lines = text.split("\n")
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(": ")
        lines[at] = f"{key}{colon}{rng.choice(_VALUES)}" if colon else lines[at] + rng.choice(_VALUES)
    (folder / "x.yaml").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "x.yaml"), []


def _damaged(rng, folder):
    """A shipped config's bytes, damaged."""
    content = _pieced(rng, configs.zoo(rng.choice(configs.packaged_names())).read_bytes())
    if rng.random() < 0.1:
        encoding = rng.choice(["utf-16", "utf-32", "cp037", "utf-8-sig"])
        content = content.decode("utf-8", "replace").encode(encoding, "replace")
    (folder / "x.yaml").write_bytes(content)
    return str(folder / "x.yaml"), []


def _based(rng, folder):
    """Configs on each other, in circles too, with links, FIFOs and other names."""
    names = [f"c{number}.yaml" for number in range(rng.randrange(1, 30))]
    odd = ["demo", "yolov8n.yaml", "x.yaml", '"a\\0"', "/dev/zero", "..", "", "&a [*a]", "9" * 400, '"\\e"', "a" * 300]
    for number, name in enumerate(names):
        base = rng.choice([*odd, *names]) if rng.random() < 0.3 else (names + ["demo"])[number + 1]
        (folder / name).write_text(f"base: {base}\ntrain: {{seed: {rng.choice(_VALUES[:8])}}}\n")
    if rng.random() < 0.3:
        file = folder / rng.choice(names)
        file.unlink()
        rng.choice([os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name), lambda path: None])(file)
    return str(folder / "c0.yaml"), []


def _aliased(rng, folder):
    """Aliases, of which some are bombs and some stand in themselves."""
    lines = []
    for number in range(rng.randrange(1, 12)):
        known = [f"*a{other}" for other in range(number + rng.randrange(2))] or ["x"]
        inside = ", ".join(
            rng.choice([rng.choice(known), rng.choice(_VALUES[2:14])]) for _ in range(rng.randrange(1, 30))
        )
        lines.append(f"a{number}: &a{number} [{inside}]")
    place = rng.choice(
        ["model: {classes: *a0}", "train: {stages: *a0}", "model: {decoder: {anchors: *a0}}", "data: *a0", "<<: *a0"]
    )
    (folder / "x.yaml").write_text("base: demo\n" + "\n".join([*lines, place]), encoding="utf-8")
    return str(folder / "x.yaml"), []


def _as_json(rng, folder):
    """The JSON of a checkpoint, damaged."""
    (folder / "x.json").write_bytes(rng.choice([_pieced, _type])(rng, to_json(load("demo")).encode()))
    return str(folder / "x.json"), []


WAYS = {way.__name__[1:]: way for way in (_overridden, _valued, _damaged, _based, _aliased, _as_json)}
ROUNDS = int(os.environ.get("TFYOLO_FUZZ_ROUNDS", 120))


def read_config(path, overrides):
    """All that is done with a config before TensorFlow is imported. Says how it ended."""
    try:
        config = from_json(Path(path).read_bytes()) if path.endswith(".json") else load(path, overrides)
        parts.check(config)
        assert from_json(to_json(config)) == config
        configs.to_yaml(config).encode()
    except ConfigError as error:
        assert (0 < len(str(error)) < 50_000 and str(error).isprintable()) or "\n" in str(error)
        return "error"
    return "read"


def work():
    """Answers each line of standard input with one line: how reading ended."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    for line in sys.stdin:
        try:
            print(json.dumps(read_config(*json.loads(line))), flush=True)
        except BaseException:
            print(json.dumps("traceback\n" + traceback.format_exc()), flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_damaged_is_a_clean_error(way, tmp_path):
    worker, ends, wrong = Worker(__file__), {}, []
    signal.alarm(0)
    try:
        for seed in range(ROUNDS):
            folder = tmp_path / str(seed)
            folder.mkdir()
            path, overrides = WAYS[way](random.Random(f"{way} {seed}"), folder)
            ended = worker((path, overrides))
            kind = ended.partition("\n")[0]
            ends[kind] = ends.get(kind, 0) + 1
            if kind in ("traceback", "hang", "crash"):
                wrong.append(f"seed {seed}: {overrides or path}: {ended}")
    finally:
        worker.close()
    print(f"{way}: {ends}")
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    work()
