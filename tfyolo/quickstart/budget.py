"""Minutes: how many there are, and what each was used for."""

import contextlib
import time


class Budget:
    """A stretch of time, and the phases of work in it.

    Args:
        minutes: the length.
        used: seconds of it that were used before, such as for the start of the process.
    """

    def __init__(self, minutes, used=0.0):
        self.seconds = 60.0 * minutes
        self.phases: dict[str, float] = {"start": used} if used else {}
        self._began = time.monotonic() - used

    @property
    def used(self):
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def left(self):
        """Seconds; negative once it is overdrawn."""
        return self.seconds - self.used

    @contextlib.contextmanager
    def phase(self, name):
        """Notes how long what is done in the `with` takes, under a name."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began
