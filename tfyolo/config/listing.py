"""The list of the configs that come with tfyolo, for `tfyolo configs`."""

import re
from typing import Any

from tfyolo.config.read import load
from tfyolo.config.zoo import index, packaged, zoo


def zoo_rows() -> list[dict[str, Any]]:
    """The rows of index(), each with "input_size" [H, W]."""
    return [{**row, "input_size": list(load(zoo(row["name"])).model.input_size)} for row in index()]


def zoo_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: by family, the demo's last, and within a family by parameters."""
    lines = [f"{'name':<18}{'input':>11}{'parameters':>14}{'GFLOPs':>9}  published weights that fit, their licence"]
    for row in sorted(rows, key=_place):
        size, weights = " x ".join(map(str, row["input_size"])), row["weights"] or "none"
        lines.append(f"{row['name']:<18}{size:>11}{row['parameters']:>14,}{row['flops'] / 1e9:>9.1f}  {weights}")
    classes = rows[0]["classes"]
    lines.append(f"as detect and exports run them, with {classes} classes (yolov1: 20); they are in {packaged()}")
    return "\n".join(lines)


def _place(row):
    family = re.match(r"\D*\d*", row["name"])[0]  # "yolov7" of yolov7x and yolov7-w6
    return row["name"].startswith("demo"), family, row["parameters"]
