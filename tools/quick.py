"""The same as `tfyolo quick`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["quick", *sys.argv[1:]], prog_name="tfyolo")
