"""Plots a figure of several runs over their epochs, or over minutes of training."""

import csv
from pathlib import Path

import click
import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, metavar="NAME=RUN...")
@click.option("--figure", default="AP50", show_default=True, help="A column of history.csv.")
@click.option("--over", type=click.Choice(["epochs", "minutes"]), default="epochs", show_default=True)
@click.option("--goal", type=float, help="Draws a line there.")
@click.option("--title", default="", help="Above the plot.")
@click.option("--out", default="curves.svg", show_default=True)
def main(runs, figure, over, goal, title, out):
    """Plot a figure of RUNs over training, each under its NAME.

    python tools/curves.py 'from scratch=runs/a' 'fine-tuned=runs/b' --goal 0.82
    """
    fig, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        name, equals, folder = run.rpartition("=")
        history = Path(folder) / "history.csv"
        if not history.exists():
            raise click.UsageError(f"{folder}: expected a run's folder with history.csv, as NAME=RUN")
        points, minutes = [], 0.0
        for row in csv.DictReader(history.read_text().splitlines()):
            minutes += float(row["seconds"]) / 60
            if row.get(figure):
                points.append((int(row["epoch"]) if over == "epochs" else minutes, float(row[figure])))
        if not points:
            raise click.UsageError(f"{history}: expected values of {figure}, found none")
        axes.plot(*zip(*points, strict=True), marker=".", label=name if equals else Path(folder).name)
    if goal is not None:
        axes.axhline(goal, color="grey", linestyle=":")
    axes.set(xlabel=over, ylabel=figure, title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    fig.savefig(out, metadata={"Date": None})
    click.echo(out)


if __name__ == "__main__":
    main()
