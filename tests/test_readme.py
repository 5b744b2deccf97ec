"""The README's lines of Python and of the shell do what they say, and its figures are those of the models."""

import ast
import base64
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess

import click
import pytest
from conftest import ROOT

import tfyolo
from tfyolo import config as configs
from tfyolo.cli import app, arguments, train
from tfyolo.data import demo
from tfyolo.predict.detections import ImageDetections

README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = f"""
base: {ROOT}/configs/demo.yaml
model:
  input_size: 64
  backbone: {{width: 0.125}}
  neck: {{width: 0.125}}
  head: {{channels: {{p4: 32, p5: 32}}}}
train:
  batch: 4
  stages: [{{epochs: 1, lr: 0.001}}]
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_five_lines_train_and_detect(tmp_path, monkeypatch, capsys):
    block, *_ = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) == 5
    (tmp_path / "demo.yaml").write_text(TINY)  # a file of that name goes before tfyolo's own
    demo.write(tmp_path / "demo" / "data", train=8, val=4, test=2, progress=False)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["run"].folder.joinpath("best.h5").exists()
    found = names["found"]
    assert len(found.names) == len(found.scores) == len(found.boxes_xyxy) and 0 < found.best < 1
    assert str(found.boxes_xyxy) in capsys.readouterr().out


def test_lines_on_many_images_detect(demo_run, demo_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "yolov8n").symlink_to(demo_run[0])
    (tmp_path / "holiday").symlink_to(demo_data / "test")
    monkeypatch.setattr(ImageDetections, "to_pandas", lambda found: len(found))  # pandas need not be there
    block = blocks("python")[1]
    exec(block, {"tfyolo": tfyolo})
    assert sorted(path.name for path in (tmp_path / "found" / "holiday").iterdir()) == sorted(
        path.name for path in (demo_data / "test").iterdir()
    )


# --- the shell --------------------------------------------------------------------------------------------------------

# Other people's programs, and pip.
FOREIGN = ("mkdir ", "cp ", "tensorflow_model_server ", "echo ", "pip install ", "python -m pip install ")


def shell_lines():
    """Every command line: those of the blocks, and those that stand between backticks in a sentence."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    inline = [each for each in re.findall(r"`([^`]+)`", text) if re.match(r"(tfyolo|python|make|pip) ", each)]
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in (*lines, *inline) if line.strip()]


def parsed(group, words):
    """The context of the command that words are for, as click makes it before it runs one, or its error."""
    if not isinstance(group, click.Group):
        return group.make_context("tool", list(words))
    name, command, rest = group.resolve_command(group.make_context("tfyolo", list(words)), list(words))
    return command.make_context(name, rest)


def check_line(line):
    line = re.sub(r"^until (.*?); do .*; done$", r"\1", line)  # a loop around a command
    line = re.sub(r"^(\w+='[^']*'|srun) (?=tfyolo )", "", line)  # what sets its environment
    words = shlex.split(line, comments=True)
    if line.startswith(FOREIGN):
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:]), line
        return
    group = app.main
    if words[0] == "python":
        assert (ROOT / words[1]).is_file(), line
        tool = runpy.run_path(str(ROOT / words[1]))
        if tool["main"] is not app.main:
            group = tool["main"]
        else:  # a thin script for one command
            words.insert(2, (ROOT / words[1]).stem.replace("_", "-"))
        words = words[1:]
    assert words[0] == "tfyolo" or line.startswith("python")
    if len(words) < 3 and "`" + line + "`" in README:  # a sentence that names a command, without what it is given
        assert all(word in (*app.main.commands, *app.main.ALIASES) for word in words[1:]), line
        return
    given = parsed(group, words[1:]).params
    overrides = given.get("overrides", ())
    if group is app.main and overrides:
        overrides, _ = train._without_device(overrides, None)
    config = given.get("config") or "yolov8n"
    known = config in configs.packaged_names() or config.startswith("configs/")  # a run's is not known here
    arguments.read_config(ROOT / config if config.startswith("configs/") else config if known else "yolov8n", overrides)


@pytest.mark.parametrize("line", dict.fromkeys(shell_lines()))
def test_every_shell_line_is_one_that_can_be_typed(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "tfyolo export runs/x --formats tflite",
        "tfyolo trian yolov8n",
        "tfyolo train yolov8n train.bach=3",
        "tfyolo train yolov8n model.neck=pam",
        "tfyolo export runs/x --precision int3",
        "python tools/benchmark.py runs/x --second 1",
        "python tools/curves.py x=y --gaol 3",
    ],
)
def test_a_shell_line_that_cannot_be_typed_is_found(line):
    with pytest.raises((click.ClickException, configs.ConfigError)):
        check_line(line)


def test_a_photo_of_any_size_is_sent_to_the_server_that_is_started_first(tmp_path):
    """The block runs as it is, but for the root of its paths; an argument of a program is at most 128 KiB on Linux."""
    (block,) = (block for block in blocks("sh") if "tensorflow_model_server" in block)
    (tmp_path / "bin").mkdir()
    for program in ("tensorflow_model_server", "curl"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\necho $* > {program}.args; cat > {program}.in\n")
        (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "runs/yolov8n/export/saved_model").mkdir(parents=True)
    photo = bytes(range(256)) * 2000
    (tmp_path / "photo.jpg").write_bytes(photo)
    lines = block.replace("/models/yolo/1", f"{tmp_path}/models/yolo/1").replace("-p /models", f"-p {tmp_path}/models")
    path = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-ec", lines], cwd=tmp_path, env=path, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "yolo" / "1").is_dir()
    sent = json.loads((tmp_path / "curl.in").read_text())
    assert sent["signature_name"] == "bytes" and base64.b64decode(sent["inputs"]["contents"][0]["b64"]) == photo


def test_data_that_python_trains_on_is_drawn_before():
    before, block, _ = README.partition(blocks("python")[0])
    (data,) = re.findall(r"data=([^\"]+)", block)
    assert f"`tfyolo demo-data {data}`" in before.splitlines()[-3]


# --- names and figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("python"))
def test_python_names_what_there_is(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tfyolo":
            assert node.attr in tfyolo.__all__


@pytest.mark.parametrize("name", dict.fromkeys(re.findall(r"\btfyolo((?:\.\w+)+)[(\[`]", README)))
def test_names_in_sentences_are_there(name):
    thing, path = tfyolo, "tfyolo"
    for attribute in name.split(".")[1:]:
        path = f"{path}.{attribute}"
        if not hasattr(thing, attribute):
            importlib.import_module(path)
        thing = getattr(thing, attribute)


def test_short_names_are_in_the_readme():
    (table,) = re.findall(r"\| short \| stands for \|\n(.*?)\n\n", README, re.DOTALL)
    names = {
        name.partition("=")[0] for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    assert names == {name for name in configs.SHORT if "." not in name} | {"device"}


def model_rows():
    """(name, its row's cells) of every row of the table of models that is about one config."""
    (table,) = re.findall(r"\| config \| backbone, neck, head \|.*?\n\n", README, re.DOTALL)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:] if row]
    return [(cells[0].strip("`"), cells) for cells in rows if re.fullmatch(r"`[\w-]+`", cells[0])]


@pytest.mark.parametrize("name, cells", model_rows())
def test_the_models_figures_are_those_of_the_index(name, cells):
    """Those of the networks as detect and exports run them, against index.csv; the others are in test_published."""
    (row,) = (row for row in configs.index() if row["name"] == name)
    _, _, size, parameters, gflops = cells
    assert configs.load(name).model.input_size == (int(size), int(size))
    if fused := re.search(r"fused ([\d,]+)", parameters):
        assert int(fused[1].replace(",", "")) == row["parameters"]
    else:  # with what batch norm adds, which is folded
        assert row["parameters"] <= int(parameters.replace(",", "")) < 1.04 * row["parameters"]
    decimals = len(gflops.partition(".")[2])
    assert abs(row["flops"] / 1e9 - float(gflops)) <= 0.51 * 10**-decimals
