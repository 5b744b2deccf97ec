"""Boxes in another convention than that of their format are an error, not boxes of something else."""

import numpy as np

from tfyolo.data.sources.source import DataError
from tfyolo.messages import counted

_FEWEST = 8  # boxes to decide by


class Corners:
    """Whether what is read as the place and size of boxes is rather their corners.

    It is where boxes then reach over their images, and as corners none would.

    Args:
        expected: what is read, for the message.
    """

    def __init__(self, expected):
        self._expected = expected
        self._boxes, self._over, self._fit = 0, 0, True

    def see(self, numbers, box, size):
        """Takes one box into account.

        Args:
            numbers: the four as they are written.
            box: (y1, x1, y2, x2) that they are read as.
            size: (H, W) of the image, in the units of both.
        """
        x1, y1, x2, y2 = numbers
        height, width = size
        self._boxes += 1
        edge = max(-box[0] / height, -box[1] / width, box[2] / height - 1, box[3] / width - 1)
        self._over += edge > 0.02
        self._fit = self._fit and 0 <= x1 < x2 <= 1.01 * width and 0 <= y1 < y2 <= 1.01 * height

    def check(self, file):
        """Raises DataError if they are corners.

        Args:
            file: that they stand in.
        """
        if self._fit and self._boxes >= _FEWEST and self._over >= self._boxes / 10:
            raise DataError(
                f"{file}: expected {self._expected}, received what seems to be corners, x1, y1, x2, y2: {self._over} "
                f"of {counted(self._boxes, 'box')} reach over the edge of their images as the first, none as the "
                "second; write them as the first"
            )


def check_pixels(records):
    """Raises DataError if all boxes lie in the first pixel of their images: parts, 0..1, in place of pixels.

    Args:
        records: Records.
    """
    filled = np.flatnonzero((records.counts > 0) & (records.sizes.min(axis=1) > 1))
    if not len(filled):
        return
    first = records[filled[0]]
    if (first.boxes <= 1).all() and (first.boxes % 1).any() and (records[filled].boxes <= 1).all():
        y1, x1, y2, x2 = first.boxes[0].tolist()
        raise DataError(
            f"{first.path}: the box y {y1:g}..{y2:g}, x {x1:g}..{x2:g} lies in the first pixel, as all boxes of "
            f"{counted(len(filled), 'image')} do: expected pixels, received parts of the image, 0..1? Multiply them by "
            "its sides"
        )
