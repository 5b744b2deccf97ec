"""The same as `tfyolo benchmark`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]], prog_name="tfyolo")
