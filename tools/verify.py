"""The same as `tfyolo verify`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]], prog_name="tfyolo")
