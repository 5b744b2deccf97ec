"""The same as `tfyolo export`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]], prog_name="tfyolo")
