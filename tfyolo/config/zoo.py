"""The configs that come with tfyolo: where they are, and their index."""

import csv
from pathlib import Path
from typing import Any


def packaged() -> Path:
    """The folder of the configs that come with tfyolo: tfyolo/configs of an installed package, configs/ of a clone."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else installed.parents[1] / "configs"


def packaged_names() -> list[str]:
    """The names of the configs that come with tfyolo, sorted."""
    return sorted(path.stem for path in packaged().glob("*.yaml"))


def index() -> list[dict[str, Any]]:
    """The rows of configs/index.csv, which tools/index_configs.py writes: one for each config that comes with tfyolo.

    Returns:
        [{"name", "classes", "parameters", "flops", "weights"}]. parameters and flops are of the network as detect and
        exports run it, batch norms fused, for so many classes. weights: whose published weights fit, and their licence;
        "" for none.
    """
    with (packaged() / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: int(value) if value.isdecimal() else value for key, value in row.items()} for row in rows]


def zoo(name: str) -> Path:
    """The file of a config that comes with tfyolo."""
    return packaged() / f"{name}.yaml"
