"""The reading of data sets by the names that the rest of the package knows; what they are lies in tfyolo.data.sources."""

from tfyolo.data.sources import (
    FORMATS,
    DataSet,
    alike,
    faults,
    read,
    read_all_configured,
    read_configured,
    splits,
    without_unions,
)
from tfyolo.data.sources.division import Division
from tfyolo.data.sources.place import Format, meaning
from tfyolo.data.sources.source import TOLERANCE, DataError, Problem, Record, Source, SplitError

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "DataError",
    "DataSet",
    "Division",
    "Format",
    "Problem",
    "Record",
    "Source",
    "SplitError",
    "alike",
    "faults",
    "meaning",
    "read",
    "read_all_configured",
    "read_configured",
    "splits",
    "without_unions",
]
