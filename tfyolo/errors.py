"""The one base of what this package raises, and errors that more than one room raises."""

import re


class Error(ValueError):
    """Something that the user can mend. The message says what was expected, what came and what to do.

    Attributes:
        exit_code: of a command that it ends.
    """

    exit_code = 1


class CheckpointError(Error):
    """A file of weights or an export cannot be read, or does not fit what it is loaded into."""


class WorkerError(Error):
    """A process that makes batches has ended. The message says why and what to do."""

    @classmethod
    def within(cls, error) -> "WorkerError | None":
        """The WorkerError that TensorFlow has made an error of its own of; None if it is none."""
        found = re.search(r"\bWorkerError: (.+)", str(error))
        return found and cls(found[1])


class MissingError(Error, ImportError):
    """A package is not installed that what was asked for needs. The message says what to install."""
