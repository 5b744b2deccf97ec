"""`python -m tfyolo.cli`."""

from tfyolo.cli import main

main(prog_name="tfyolo")
