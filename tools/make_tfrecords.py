"""The same as `tfyolo make-tfrecords`."""

import sys

from tfyolo.cli import main

if __name__ == "__main__":
    main(["make-tfrecords", *sys.argv[1:]], prog_name="tfyolo")
