"""`python -m tfyolo`."""

from tfyolo.cli import main

main(prog_name="tfyolo")
