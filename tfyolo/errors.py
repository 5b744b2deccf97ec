"""The one base of what this package raises."""


class Error(ValueError):
    """Something that the user can mend. The message says what was expected, what came and what to do.

    Attributes:
        exit_code: of a command that it ends.
    """

    exit_code = 1
