"""The same as `tfyolo summary`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["summary", *sys.argv[1:]], prog_name="tfyolo")
