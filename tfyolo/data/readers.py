"""The reading of data sets by the names that the rest of the package knows; what they are lies in tfyolo.data.sources."""

from tfyolo.data.headers import image_size as picture_size
from tfyolo.data.sources import (
    FORMATS,
    TOLERANCE,
    DataError,
    DataSet,
    Division,
    Problem,
    Record,
    Source,
    SplitError,
    faults,
    meaning,
    read,
    read_all_configured,
    read_configured,
    splits,
    without_unions,
)

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "DataError",
    "DataSet",
    "Division",
    "Problem",
    "Record",
    "Source",
    "SplitError",
    "faults",
    "meaning",
    "picture_size",
    "read",
    "read_all_configured",
    "read_configured",
    "splits",
    "without_unions",
]
