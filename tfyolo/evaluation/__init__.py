"""How good a detector is: run, metrics, report, files."""
