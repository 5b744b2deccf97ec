"""The same as `tfyolo check-data`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]], prog_name="tfyolo")
