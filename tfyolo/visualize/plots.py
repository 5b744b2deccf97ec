"""Plots: precision, recall and F1, confusion, training curves, the drawing of a network."""

import csv
import io
import itertools
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfyolo.files import read_regular
from tfyolo.visualize.drawing import color
from tfyolo.visualize.image_files import DrawingError, write_image

MOST, WORST = 25, 20  # classes that a confusion matrix can show at most; of more, those with most errors

FEW = 12  # as many classes get a colour and a line in the legend; more are drawn thin and grey


def pr_curves(curves, classes, path):
    """Plots precision against recall at IoU 0.5: a line a class, and their mean.

    Args:
        curves: evaluation.report.Curves.
        classes: names in label order.
        path: of the plot.
    """
    figure, axes = _axes("Precision and recall at IoU 0.5", "recall", "precision")
    known = curves.precision[~np.isnan(curves.precision).any(axis=1)]
    mean = known.mean(axis=0) if len(known) else np.full(len(curves.recall), np.nan)
    _class_lines(axes, curves.recall, curves.precision, classes, lambda row: f"AP50 {row.mean():.3f}", ("mean", mean))
    _write_figure(figure, path)


def f1_curves(curves, classes, path):
    """Plots F1 at IoU 0.5 against the confidence threshold: a line a class, and all pooled.

    Args:
        curves: evaluation.report.Curves.
        classes: names in label order.
        path: of the plot.
    """
    figure, axes = _axes("F1 at IoU 0.5", "confidence threshold", "F1")

    def best(row):
        places = np.flatnonzero(row == row.max())  # a plateau, as a rule: its middle, as in evaluation.report
        return f"{row.max():.3f} at {curves.scores[places[len(places) // 2]]:.3f}"

    _class_lines(axes, curves.scores, curves.f1, classes, best, ("all", curves.f1_all))
    _write_figure(figure, path)


def _axes(title, xlabel, ylabel):
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), title=title)
    _style(axes, xlabel, ylabel)
    return figure, axes


def _class_lines(axes, x, rows, classes, figure_of, whole):
    """A line for each class that has ground truth, and one for all.

    Args:
        axes: to plot into.
        x: [X].
        rows: [K, X]; NaN for a class without ground truth.
        classes: names in label order.
        figure_of: a row -> text for the legend.
        whole: (name, [X]) of all classes.
    """
    known = [(color(k), name, row) for k, (name, row) in enumerate(zip(classes, rows, strict=True)) if row[0] == row[0]]
    few = len(known) <= FEW
    for n, (shade, name, row) in enumerate(known):
        style = {"color": np.divide(shade, 255), "linewidth": 1.5} if few else {"color": "0.82", "linewidth": 0.7}
        label = f"{name}  {figure_of(row)}" if few else f"{len(known)} classes" if n == 0 else None
        axes.plot(x, row, **style, label=label)
    if len(known) != 1:
        name, row = whole
        axes.plot(
            x, row, color="black", linewidth=2.5, label=f"{name}  {figure_of(row)}" if known else "no ground truth"
        )
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def confusion_matrix(matrix, score, classes, path):
    """Plots ground truth (rows) against predictions (columns).

    Cells are coloured by the share of a class's objects, those of the last row by the share of its predictions. Classes
    that do not occur are left out; of more than MOST, the WORST with most errors are shown.

    Args:
        matrix: [K+1, K+1] counts, as evaluation.report.Report has it; the last is background.
        score: the confidence threshold, 0..1.
        classes: names in label order.
        path: of the plot.
    """
    matrix = np.asarray(matrix)
    objects, predictions = matrix.sum(axis=1), matrix.sum(axis=0)
    share = matrix / np.maximum(objects, 1)[:, None]
    share[-1] = matrix[-1] / np.maximum(predictions, 1)
    K = len(classes)
    there = np.flatnonzero((objects + predictions)[:K])
    note = "" if len(there) == K else f"{len(there)} of {K} classes occur"
    if len(there) > MOST:
        errors = (objects + predictions - 2 * np.diagonal(matrix))[there]
        there = np.sort(there[np.argsort(-errors, kind="stable")[:WORST]])
        note = f"the {WORST} with most errors of {K} classes"
    shown = np.append(there if len(there) else np.arange(min(K, MOST)), K)
    matrix, share, names = matrix[np.ix_(shown, shown)], share[np.ix_(shown, shown)], [classes[k] for k in shown[:-1]]

    side = float(np.clip(2 + 0.45 * len(shown), 4, 14))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the row's objects; last row: of the column's predictions", fontsize=8)
    axes.set_xticks(range(len(shown)), [*names, "missed"], rotation=0 if len(names) <= 3 else 90, fontsize=9)
    axes.set_yticks(range(len(shown)), [*names, "background"], fontsize=9)
    for i, j in np.argwhere(matrix):
        ink = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, matrix[i, j], ha="center", va="center", color=ink, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(
        f"Confusion at IoU 0.5, confidence threshold {score:.3f}" + (f"\n{note}" if note else ""), fontsize=11
    )
    _write_figure(figure, path)


def scatter(path, points, x, y):
    """Plots named points.

    Args:
        path: of the plot.
        points: {name: (x, y)}; points may coincide.
        x: what the x axis shows.
        y: what the y axis shows.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    _style(axes, x, y)
    for k, (name, point) in enumerate(points.items()):
        label = f"{name}  {point[0]:.3g}, {point[1]:.3f}"
        axes.plot(*point, "o", color=np.divide(color(k), 255), label=label)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlim(0, 1.1 * max(point[0] for point in points.values()))
    _write_figure(figure, path)


MOST_HISTORY = 1 << 28  # bytes


def read_history(path):
    """The rows of a run's history.csv, one an epoch.

    Args:
        path: of the file.

    Returns:
        [{column: text}]; "epoch" is an integer, every other value a number or empty.

    Raises:
        DrawingError: the file is something else, or damaged.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path, MOST_HISTORY).decode("utf-8-sig"), newline="")))
        for row in rows:
            int(row["epoch"]), [float(value) for value in row.values() if value]
    except OSError as error:
        raise DrawingError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = None
    if not rows:
        received = "a damaged file, or another" if rows is None else "0 rows"
        raise DrawingError(f"{path}: expected a run's history.csv with a row an epoch, received {received}")
    return rows


def training_curves(history, path):
    """Plots loss terms, learning rate and AP over the epochs.

    Args:
        history: the history.csv of a run.
        path: of the plot.

    Raises:
        DrawingError: the history cannot be read.
    """
    rows = read_history(history)

    def column(name):
        """Epochs and values where there is one."""
        known = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        return np.array(known).reshape(-1, 2).T

    terms = [name for name in rows[0] if name.startswith("loss")]
    panels = {"loss": terms, "AP": ["AP50", "AP", "AP75"], "learning rate": ["lr"]}
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 3, sharex=True), panels.items(), strict=True):
        _style(axes, "epoch", "")
        axes.set_title(title)
        for k, name in enumerate(names):
            x, y = column(name)
            style = {"color": "black", "linewidth": 2.2} if name == "loss" else {"color": np.divide(color(k), 255)}
            marker = "o" if len(x) < 40 else None
            axes.plot(x, y, **style, marker=marker, markersize=3, label=name.removeprefix("loss_"))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=9)
        for before, after in itertools.pairwise(rows):
            if before["stage"] != after["stage"]:
                axes.axvline(float(after["epoch"]) - 0.5, color="0.6", linewidth=1, linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1 if title == "AP" else None)
    _write_figure(figure, path)


PART_COLOURS = {"backbone": "#d7e3f4", "neck": "#dcefdc", "head": "#fbe3cf"}


def stages(summary, path):
    """Draws a detector as boxes (its stages) and arrows (what each reads).

    From left to right stand the backbone, the neck with a column for each time it changes direction, and the head;
    finer levels stand higher.

    Args:
        summary: of graph.summary.summarize.
        path: of the drawing.
    """
    rows = {row["stage"]: row for row in summary["stages"]}
    columns, column, previous, direction = {}, 0, None, 0
    for name, row in rows.items():
        part, stride = name.partition(".")[0], row["stride"] or 1e9
        if previous and part != previous[0]:
            column, direction = column + 1, 0
        elif part == "neck" and stride != previous[1]:
            turn = 1 if stride > previous[1] else -1
            column, direction = column + (direction not in (0, turn)), turn
        columns[name], previous = column, (part, stride)
    # A level is as high as its fullest column; stages of one column and level stand in the order they are read.
    levels = sorted({row["stride"] or 1e9 for row in rows.values()})
    groups = {}
    for name, row in rows.items():
        groups.setdefault((levels.index(row["stride"] or 1e9), columns[name]), []).append(name)
    heights = [max(len(names) for (level, _), names in groups.items() if level == i) for i in range(len(levels))]
    tops = [sum(heights[:i]) + 0.35 * i for i in range(len(levels))]
    places = {"images": (0.0, -1.0)}
    for (level, column), names in groups.items():
        # Upwards where the neck goes from coarse to fine.
        upwards = rows[names[0]]["inputs"] and any(
            (rows[source]["stride"] or 1e9) > levels[level] for source in rows[names[0]]["inputs"] if source in rows
        )
        for k, name in enumerate(reversed(names) if upwards else names):
            places[name] = (float(column), tops[level] + k)
    bottom = tops[-1] + heights[-1]
    figure = Figure(figsize=(3.1 * (column + 1) + 0.8, 0.62 * (bottom + 2)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, column + 0.5), ylim=(bottom + 0.2, -1.8))
    axes.axis("off")
    axes.set_title(
        f"{summary['name']}: {summary['parameters']:,} parameters, {summary['flops'] / 1e9:.2f} GFLOPs at "
        f"{summary['input_size'][0]} x {summary['input_size'][1]}; {summary['candidates']:,} candidates",
        fontsize=11,
    )
    boxes = {}
    for name, (x, y) in places.items():
        row = rows.get(name, {"output": [*summary["input_size"], 3]})
        lines = [" x ".join(map(str, row["output"]))]
        if row.get("parameters"):
            lines.append(f"{row['parameters']:,}")
        if row.get("gradient_norm") is not None:
            lines.append(f"gradient {row['gradient_norm']:.2g}")
        colour = PART_COLOURS.get(name.partition(".")[0], "white")
        style = {"boxstyle": "round,pad=0.3", "facecolor": colour, "edgecolor": "0.55", "linewidth": 0.8}
        text = f"{name}\n{'   '.join(lines)}"
        boxes[name] = axes.text(x, y, text, ha="center", va="center", fontsize=7.5, linespacing=1.4, bbox=style)
    for name, row in rows.items():
        for source in row["inputs"]:
            (x0, y0), (x1, y1) = places[source], places[name]
            between = any(x == x0 == x1 and min(y0, y1) < y < max(y0, y1) for x, y in places.values())
            style = {"arrowstyle": "-|>", "color": "0.45", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
            style |= {"patchA": boxes[source].get_bbox_patch(), "patchB": boxes[name].get_bbox_patch()}
            style["connectionstyle"] = f"arc3,rad={0.35 if between else 0}"
            axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=style)
    _write_figure(figure, path)


def _style(axes, xlabel, ylabel):
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _write_figure(figure, path):
    buffer, kind = io.BytesIO(), Path(path).suffix[1:].lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise DrawingError(
            f"{path}: expected a suffix that says how to write it, such as .png or .svg, received {kind!r}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class named in a script that the font lacks
        figure.savefig(buffer, format=kind, dpi=110, bbox_inches="tight")
    write_image(path, buffer.getvalue())
