"""The same as `tfyolo evaluate`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]], prog_name="tfyolo")
