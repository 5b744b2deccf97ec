"""Writes docs/targets.md: what classes of devices take of each family of configs, and why not all where they do not.

    python tools/lint_zoo.py
    python tools/lint_zoo.py yolov8n demo

Networks of random weights are exported small, and linted: decoded candidates in float32 for a phone's GPU, the last
convolutions' outputs in full-int8 for accelerators. Rows of configs that are not named stay as they are. It takes a
minute or two a config.
"""

import re
import tempfile
from pathlib import Path

import click

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow

TABLE = Path(__file__).parent.parent / "docs" / "targets.md"
# One of each family, and the side of its images, in pixels; None: the config's own.
FAMILIES = {
    "demo": 96,
    "yolov3-tiny": 96,
    "yolov4-tiny": 96,
    "yolov7-tiny": 96,
    "yolov8n": 96,
    "yolov9t": 96,
    "yolo11n": 96,
    "yolox-nano": 96,
    "lite0": None,
    "mobilenetv3": None,
    "demo-yolov1": None,
    "demo-m2det": None,
    "demo-cornernet": None,
}
COLUMNS = {
    "gpu": ("float32", "none"),
    "edgetpu": ("full-int8", "heads"),
    "ethosu": ("full-int8", "heads"),
    "micro": ("full-int8", "heads"),
}
KINDS = tuple(dict.fromkeys(COLUMNS.values()))
INTRODUCTION = """# What devices take

Which classes of devices take all operators of a config's files: `tfyolo lint` of a file without NMS (`--target
android-gpu`, in float32) and of one of the last convolutions' outputs (`--target coral`, `--target ethos-u`), of
networks with random weights, for images of 96 pixels where the config leaves the choice. Larger members of a family
have the same operators. Where a device does not take all, the share of the multiply-accumulates that it runs stands
before the operators in its way; `tfyolo lint` gives the layers and the reasons. `python tools/lint_zoo.py` writes this
table.

"""


def files(name, size, kinds=KINDS):
    """{(precision, nms): the bytes of a TFLite file} of a config's network, with random weights."""
    import keras
    import numpy as np

    from tfyolo import config as configs
    from tfyolo.exports.job import Job
    from tfyolo.exports.targets import Target
    from tfyolo.exports.tflite import write
    from tfyolo.model import build

    class Noise(Job):
        """A Job whose images are noise: ranges matter to no lint."""

        def images(self):
            """One batch of one image."""
            height, width = self.model.input_size
            return [np.random.default_rng(0).random((1, height, width, 3), "float32")]

    keras.utils.set_random_seed(0)
    model = build(configs.load(configs.zoo(name), [f"model.input_size={size}"] if size else []), ["a", "b", "c"])
    job, found = Noise(model, 1, True, None), {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            write(job, Target("tflite", *kind), path)
            found[kind] = path.read_bytes()
    keras.backend.clear_session()
    return found


def cell(content, target):
    """What a table says of a file, in a cell: "all", or the operators in its way and the share of MACs that runs."""
    from tfyolo.tflite.lint import lint, percent

    report = lint(content, target)
    if report.passed:
        return "all"
    names = dict.fromkeys(each.operator for each in report.findings)
    return f"{percent(report.share_of_macs)}: {', '.join(names)}"


def row(name, size):
    """A config's line of the table."""
    found = files(name, size)
    cells = [cell(found[kind], target) for target, kind in COLUMNS.items()]
    return "| " + " | ".join([name, *cells]) + " |"


def written(rows, text):
    """The page with the rows {config: line} in the place of those that it had."""
    known = dict(re.findall(r"^\| (\S+) (\|.*)$", text, re.MULTILINE))
    lines = {name: rows.get(name, f"| {name} {known[name]}" if name in known else None) for name in FAMILIES}
    heads = ["config", *(f"`{target}`, {precision}" for target, (precision, _) in COLUMNS.items())]
    table = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *filter(None, lines.values())]
    return INTRODUCTION + "\n".join(table) + "\n"


@click.command(cls=Command)
@click.argument("names", nargs=-1, type=click.Choice(list(FAMILIES)), metavar="[CONFIG]...")
def main(names):
    """Write what classes of devices take of each family of configs, or of those named, to docs/targets.md."""
    start_tensorflow(None)
    for name in names or FAMILIES:
        rows = {name: row(name, FAMILIES[name])}
        print(rows[name], flush=True)
        TABLE.write_text(written(rows, TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
