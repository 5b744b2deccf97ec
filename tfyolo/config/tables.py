"""The names in the package's tables, known before TensorFlow is imported, which takes seconds.

Where a table's module is imported, the table itself counts, with the entries that users have added. Where it is not,
nobody can have added one, and the names are read from the source of this package.
"""

import ast
import functools
import sys
from pathlib import Path

# Tables whose entries a config names by a plain word: the module below tfyolo, and the table's name there.
CHOICES = {
    "preprocess": ("data.geometry", "FITS"),
    "schedule": ("training.optim", "SCHEDULES"),
    "data format": ("data.sources.formats", "FORMATS"),
    "published weights": ("weights.published", "PUBLISHED"),
}


def names(kind: str) -> list[str]:
    """The names that a kind of entry, a key of CHOICES, may have."""
    module, table = CHOICES[kind]
    loaded = imported(module, table)
    return list(written(module, table) if loaded is None else loaded)


def imported(module: str, table: str):
    """The table of a module below tfyolo, or None as long as that is not imported."""
    return getattr(sys.modules.get(f"tfyolo.{module}"), table, None)


@functools.cache
def written(module: str, table: str) -> dict[str, ast.expr]:
    """{name: the expression behind it} of a table as its module's source writes it: `TABLE = {"name": ...}`."""
    (entries,) = (
        node.value
        for node in tree_of(module).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == table
    )
    return {key.value: value for key, value in zip(entries.keys, entries.values, strict=True)}


@functools.cache
def tree_of(module: str) -> ast.Module:
    """The parsed source of a module below tfyolo."""
    path = Path(__file__).parents[1].joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
