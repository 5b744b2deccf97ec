"""The same as `tfyolo detect`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["detect", *sys.argv[1:]], prog_name="tfyolo")
