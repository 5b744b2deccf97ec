"""The one base of what this package raises, and errors that more than one room raises."""


class Error(ValueError):
    """Something that the user can mend. The message says what was expected, what came and what to do.

    Attributes:
        exit_code: of a command that it ends.
    """

    exit_code = 1


class CheckpointError(Error):
    """A file of weights or an export cannot be read, or does not fit what it is loaded into."""


class MissingError(Error, ImportError):
    """A package is not installed that what was asked for needs. The message says what to install."""
