"""The command line: `tfyolo COMMAND`.

app holds what all commands share, each other file a group of them: parsing alone.
"""

from tfyolo.cli import data, export, lint, models, quick, train, use, weights  # noqa: F401  (which register their commands)
from tfyolo.cli.app import main

__all__ = ["main"]
