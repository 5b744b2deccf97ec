"""The same as `tfyolo import`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["import", *sys.argv[1:]], prog_name="tfyolo")
