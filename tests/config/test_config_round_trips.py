"""Configs survive writing and reading: random ones, and those that come with tfyolo."""

import itertools
import json
import math
import random
import re

import pytest
from conftest import ROOT

from tfyolo.config import ConfigError, from_json, load, to_json, to_yaml

SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def random_config(seed):
    """A config with every kind of value, in every range; options are arbitrary YAML."""
    rng = random.Random(seed)

    def option(depth=0):
        kinds = [
            lambda: rng.choice(
                [True, False, None, "1e-3", "yes", "", " a: b", "#", "null", "ünï", "~", "2026-01-01", "-"]
            ),
            lambda: rng.randint(-(10**9), 10**9),
            lambda: rng.choice([1e-30, 1.0, 1e22, -0.0, 5e-324, rng.random(), rng.gauss(0, 1e6)]),
            lambda: [option(depth + 1) for _ in range(rng.randint(0, 3))],
            lambda: {f"key {i}": option(depth + 1) for i in range(rng.randint(0, 3))},
        ]
        return rng.choice(kinds[: 5 if depth < 3 else 3])()

    def part():
        return {"name": rng.choice(["a", "no", "1"])} | {f"option_{i}": option() for i in range(rng.randint(0, 3))}

    def stage():
        epochs = rng.randint(1, 300)
        return {
            "epochs": epochs,
            "lr": math.exp(rng.uniform(-20, 2)),
            "schedule": rng.choice(["constant", "cosine", "step"]),
            "steps": sorted(rng.random() for _ in range(rng.randint(0, 3))),
            "warmup": rng.uniform(0, epochs),
            "image_size": rng.choice([None, 320, [rng.randint(1, 9), rng.randint(1, 9)]]),
            "data": rng.choice([None, "a path", {"path": "no", "images": "1"}]),
            "freeze": rng.choice([[], ["backbone", "neck.p4"]]),
            "loss_weights": rng.choice([{}, {"box": 1, "on": 0.5}]),
        }

    batch = rng.randint(1, 64)
    kinds = ("backbone", "neck", "head", "decoder", "assigner", "objective", "postprocess")
    return {
        "name": rng.choice(["null", "x", "a b"]),
        "data": rng.choice([None, "pets", {"path": "~", "format": "voc"}]),
        "model": {"input_size": rng.choice([64, [32, 96]]), "classes": rng.choice([None, ["no", "5", "é"]])}
        | {kind: part() for kind in kinds},
        "augment": {key: rng.random() / 2 for key in rng.sample(["flip", "hue", "rotate", "mosaic"], 2)},
        "train": {
            "stages": [stage() for _ in range(rng.randint(1, 3))],
            "batch": batch,
            "accumulate": rng.choice([n for n in range(1, batch + 1) if batch % n == 0]),
            "clip": rng.choice([None, rng.random() + 1e-9]),
            "seed": rng.randrange(2**31),
            "eager": rng.random() < 0.5,
        },
    }


def assert_round_trip(config, path):
    path.write_text(to_yaml(config), encoding="utf-8")
    for again in (load(path), from_json(to_json(config))):
        assert again == config
        assert to_json(again) == to_json(config)  # an int stays one, which == does not see
    assert to_yaml(load(path)) == to_yaml(config)


@pytest.mark.parametrize("seed", range(40))
def test_random_configs_survive_writing_and_reading(tmp_path, seed):
    assert_round_trip(from_json(json.dumps(random_config(seed))), tmp_path / "config.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configs_survive_writing_and_reading(tmp_path, path):
    config = load(path)
    assert config.name == path.stem
    assert_round_trip(config, tmp_path / "config.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configs_say_whose_their_recipe_is_and_what_was_measured(path):
    """No AP stands there as if the recipe had reached it: it is the authors', or measured here."""
    lines = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))
    head = " ".join(line.removeprefix("#").strip() for line in lines)
    about, recipe, measured = re.fullmatch(r"(.+) Recipe: (.+) Measured here: (.+)", head).groups()
    reported = re.search(r"Its authors report on \S+(?: \d+)?, by their own recipe: ", about)
    assert reported or not re.search(r"\d m?AP", about)
    assert not re.search(r"\bAP(50)?\b", recipe) and measured.endswith(".")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "expected a config as JSON: "),
        ("{", "expected a config as JSON: "),
        (b"\xff", "expected a config as JSON: "),
        ('{"name": "x"}', "model: missing, expected a section with input_size, "),
        (
            '{"nam": "x"}',
            "name: missing, expected text without slashes and control characters, of at most 200 bytes\nmodel: missing",
        ),
        ("[1]", "expected a section with name, data, model, augment, train, received [1]"),
    ],
)
def test_json_that_is_no_config(text, expected):
    with pytest.raises(ConfigError) as caught:
        from_json(text)
    assert str(caught.value).startswith(expected)
