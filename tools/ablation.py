"""Trains every variant of a config under several seeds, evaluates each on a held-out split, and prints the table.

python tools/ablation.py configs/ablations/yolov7.yaml

The file names a config and, for each variant, its overrides. A run that is done is not repeated, one that was stopped
is resumed: the command may be stopped and given again.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tfyolo.files import write_text


class Plan(BaseModel):
    """The variants of a config.

    Attributes:
        config: its path, from the file's folder.
        variants: {name: overrides}; a YAML alias may put a list of overrides into the list.
    """

    model_config = ConfigDict(extra="forbid")
    config: str
    variants: dict[str, list[str | list[str]]]

    def overrides(self, name):
        """The overrides of a variant, KEY=VALUE each."""
        return [text for item in self.variants[name] for text in ([item] if isinstance(item, str) else item)]


class Row(NamedTuple):
    """A variant, with a figure on the held-out split for each of its seeds."""

    name: str
    parameters: int
    gflops: float
    AP: list[float]
    AP50: list[float]


def read_plan(path):
    """The Plan of a YAML file; click.UsageError if it is none."""
    try:
        return Plan(**yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise click.UsageError(f"{path}: expected `config` and `variants`, {{name: [overrides]}}; {error}") from None


def table(rows):
    """Rows as Markdown: mean, standard deviation over seeds, difference to the first row with its standard error."""
    lines = ["| variant | parameters | GFLOPs | AP | AP50 | AP less the first's |", "|---|---|---|---|---|---|"]
    for row in rows:
        figures = " | ".join(_spread(values) for values in (row.AP, row.AP50))
        lines.append(
            f"| {row.name} | {row.parameters:,} | {row.gflops:.2f} | {figures} | {_difference(row, rows[0])} |"
        )
    return "\n".join(lines)


def _spread(values):
    return f"{statistics.mean(values):.3f}" + (f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _difference(row, first):
    pairs = [a - b for a, b in zip(row.AP, first.AP, strict=False)]  # of one seed each
    if row is first or not pairs:
        return ""
    error = f" +- {statistics.stdev(pairs) / len(pairs) ** 0.5:.3f}" if len(pairs) > 1 else ""
    return f"{statistics.mean(pairs):+.3f}{error}"


def _tfyolo(*arguments):
    """Standard output of a tfyolo command in a process of its own; its standard error is seen."""
    done = subprocess.run([sys.executable, "-m", "tfyolo", *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("plan", type=click.Path(exists=True, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--only", multiple=True, metavar="VARIANT", help="This one; may be given again.")
@click.option("--data", type=click.Path(exists=True), help="A data set [default: the demo data, drawn into OUT].")
@click.option("--split", default="test", show_default=True, help="Of the data, to evaluate on.")
@click.option("--out", default="runs/ablation", show_default=True, help="Folder of the runs.")
def main(plan, overrides, seeds, only, data, split, out):
    """Train every variant of PLAN under several seeds and print a table. Overrides go over the variants'."""
    path, plan, out = Path(plan), read_plan(plan), Path(out)
    if unknown := set(only) - plan.variants.keys():
        raise click.UsageError(f"--only {unknown.pop()}: expected one of {'; '.join(plan.variants)}")
    names = [name for name in plan.variants if not only or name in only]
    if data is None:
        data = out / "data"
        _tfyolo("demo-data", data)
    figures = {name: {"AP": [], "AP50": []} for name in names}
    for seed in range(seeds):  # all variants of one seed first: a table is there early
        for name in names:
            given = [f"data={data}", f"train.seed={seed}", *plan.overrides(name), *overrides]
            metrics = _run(path.parent / plan.config, given, out / f"{_folder(name)}-{seed}", data, split)
            for key, values in figures[name].items():
                values.append(metrics[key])
    rows = []
    for name in names:
        given = [f"data={data}", *plan.overrides(name), *overrides]
        counted = json.loads(_tfyolo("summary", path.parent / plan.config, *given, "--json"))
        rows.append(Row(name, counted["parameters"], counted["flops"] / 1e9, **figures[name]))
    click.echo(table(rows))


def _folder(name):
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def _run(config, overrides, folder, data, split):
    """The figures of one run on a split; trains and evaluates it first if need be."""
    result = folder / f"{split}.json"
    if not result.exists():
        _tfyolo("train", config, *overrides, "--out", folder, "--resume")
        text = _tfyolo("evaluate", folder, "--data", data, "--split", split, "--json")
        write_text(result, text)
    return json.loads(result.read_text())["metrics"]


if __name__ == "__main__":
    main()
