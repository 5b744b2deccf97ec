"""The same as `tfyolo train`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]], prog_name="tfyolo")
