"""The same as `tfyolo kmeans-anchors`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["kmeans-anchors", *sys.argv[1:]], prog_name="tfyolo")
