"""Writes docs/destinations.md: what each destination's file keeps of a run's AP, and which programs read it here.

    python tools/target_table.py runs/yolov8n runs/nano --data my/images --photo photo.jpg --python clients/bin/python

Every file goes through the gate of `tfyolo export`, and then through tools/clients.py in an environment that has the
programs. About a minute and a half a file, where nothing else runs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow
from tfyolo.origin import initialised_line

TABLE = Path(__file__).parent.parent / "docs" / "destinations.md"
WRONG = 0.05  # a difference that is no rounding
MAX_DROP = 0.05  # of AP: what is refused otherwise is in the table, too, and marked
HEAD = f"""# Where files run

What the file of each destination (`tfyolo targets`) keeps of AP on the split `val`: the file's AP, in brackets what it
has more than the model, and, where the device has a lint, the share of the multiply-accumulates that it takes. The
files were written with `--max-drop {MAX_DROP}`; those marked * `tfyolo export` refuses without that option. The second
table says which programs have read the files here. The first one named is what the others are compared with: on one
photograph, the largest difference of their outputs over all networks, as a part of the output's largest value. Of
mediapipe it is the part of its detections that tfyolo finds, too, of vela that of the multiply-accumulates on the NPU.
WRONG: off by more than {WRONG} where the others agree; do not run these files there. `python tools/target_table.py`
writes this page.
"""
PROGRAMS = "| destination | programs |"
SHARES = ("mediapipe", "vela")  # programs whose figure is better the larger it is


def described(name, model, data):
    """A line on a model of the table."""
    config, (height, width) = model.config, model.input_size
    epochs = sum(stage.epochs for stage in config.train.stages)
    trained = f"{epochs} epochs on {Path(config.data.path).name}" if config.data else "not trained here"
    begun = initialised_line(model.origin) or ""
    network = f"`{config.name}` at {height} x {width} pixels, {trained}, evaluated on {Path(data).name}"
    return f"- {name}: {network}. {begun[:1].upper()}{begun[1:]}".strip()


def of_program(program, figures):
    """What became of a program's files, in a few words."""
    refused = list(dict.fromkeys(each for each in figures if isinstance(each, str)))
    found = [each for each in figures if not isinstance(each, str) and each == each]
    words = []
    if program.startswith(SHARES):
        words += [f"{min(found):.0%}" + (f" to {max(found):.0%}" if max(found) > min(found) else "")] if found else []
        if len(found) + sum(isinstance(each, str) for each in figures) < len(figures):
            words.append("finds nothing there with some")
    elif found and max(found) > WRONG:
        words.append(f"WRONG, by up to {max(found):.2g}")
    elif found:
        words.append(f"{max(found):.1g}" if max(found) else "the same")
    return f"{program}: {', '.join(words + refused)}"


def row_of(model, name, destination, folder, data, split, photo, python):
    """What becomes of a Model at a destination.

    Args:
        model: the Model.
        name: the destination's.
        destination: its entry of DESTINATIONS.
        folder: where to export to.
        data: a DataSet's path.
        split: of it, to evaluate on.
        photo: the path of an image, for the programs.
        python: an interpreter that has them.

    Returns:
        (cell of the table, {program: figure}).
    """
    from tfyolo.data import readers
    from tfyolo.exports.destinations import targets_of
    from tfyolo.exports.export import export
    from tfyolo.exports.targets import ExportError

    target = targets_of([name])
    options = {"validation": readers.read(data, split), "overwrite": True, "max_drop": MAX_DROP}
    if destination.target.precision in ("int8", "full-int8"):
        options["calibration"] = readers.read(data, "train")
    try:
        ((_, made),) = export(model, folder, target, **options).items()
    except (ExportError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(", received")[0]
        return f"no: {reason.partition(': ')[2] or reason}", {}
    report = made.report
    gained, most = round(report["AP"] - report["keras_AP"], 4), target[0].limits.max_drop
    refused = -gained > most or report["keras_F1"] - report["F1"] > 2 * most
    cell = f"{report['AP']:.4f} ({gained or 0.0:+.4f})" + ("*" if refused else "")
    if found := report.get("lint", {}).get(name):
        cell += f", {found['share_of_macs']:.1%}" + ("" if found["passed"] else " of MACs")
    path = next(made.path.glob("*/1/model.onnx"), made.path)  # of a Triton repository
    if path.is_dir():
        return cell, {}
    command = [python, Path(__file__).with_name("clients.py"), photo, path, "--json"]
    environment = os.environ | {"PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return cell, {"programs": done.stderr.strip().splitlines()[-1][:160]}
    return cell, next(iter(json.loads(done.stdout).values()))


def known(text, head):
    """The rows of a page, {destination: line} of both its tables; none, if the first has another head."""
    first, found, second = text.partition(PROGRAMS)
    if not found or head not in first.splitlines():
        return {}, {}
    return tuple(
        {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)` \|.*$", part, re.MULTILINE)}
        for part in (first, second)
    )


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--data", "datas", multiple=True, required=True, help="Data of the runs: one for all, or one for each.")
@click.option("--split", default="val", show_default=True)
@click.option("--photo", required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--python", default=sys.executable, help="An interpreter that has the programs.")
@click.option("--target", "names", multiple=True, help="Only these destinations.")
def main(runs, datas, split, photo, python, names):
    """Write docs/destinations.md of RUNS; rows of other destinations stay, if they are of the same runs."""
    start_tensorflow()
    from tfyolo.exports.destinations import DESTINATIONS
    from tfyolo.files import write_text
    from tfyolo.model import load_model

    datas = datas * len(runs) if len(datas) == 1 else datas
    models = {Path(run).name: (load_model(run), data) for run, data in zip(runs, datas, strict=True)}
    lines = [described(each, *pair) for each, pair in models.items()]
    head = f"| destination | {' | '.join(models)} |"
    kept, programs = known(TABLE.read_text(encoding="utf-8"), head) if TABLE.exists() else ({}, {})
    for name in names or DESTINATIONS:
        cells, read = [], {}
        for model, data in models.values():
            with tempfile.TemporaryDirectory() as folder:
                cell, found = row_of(model, name, DESTINATIONS[name], folder, data, split, photo, python)
            cells.append(cell)
            for program, figure in found.items():
                read.setdefault(program, []).append(figure)
        kept[name] = f"| `{name}` | {' | '.join(cells)} |"
        first, *others = read or ["none"]
        words = [first, *(of_program(program, read[program]) for program in others)]
        programs[name] = f"| `{name}` | {'; '.join(words)} |"
        click.echo(f"{kept[name]}\n{programs[name]}")
        tables = [
            [head, f"|---|{'---|' * len(models)}", *(kept[each] for each in DESTINATIONS if each in kept)],
            [PROGRAMS, "|---|---|", *(programs[each] for each in DESTINATIONS if each in programs)],
        ]
        write_text(TABLE, "\n".join([HEAD, *lines, "", *tables[0], "", *tables[1], ""]))


if __name__ == "__main__":
    main()
