"""Exports that take turns."""

import numpy as np

from tfyolo.benchmark.turns import in_two
from tfyolo.predict.load import load


def export_measure(path, image, threads):
    """The measurement of an export by its Detector: the file's network, and the post-processing that it leaves."""
    detector, images = load(path, threads=threads), image[None]
    return in_two(lambda: detector.network(images), lambda found: np.asarray(detector.postprocess(found).boxes))
