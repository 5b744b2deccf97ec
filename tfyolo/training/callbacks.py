"""Callbacks: what others do at the beginning of a run, after each of its epochs, and at its end."""

from tfyolo.training.runs import TrainingError

HOOKS = ("on_begin", "on_epoch_end", "on_end")


class StopTraining(Exception):
    """Raised by a callback's on_epoch_end: training ends with this epoch, which is kept, and returns its Run."""


class Callbacks:
    """Several callbacks, called one after the other.

    Args:
        callbacks: each an object with any of HOOKS, or a function, which is then its own on_epoch_end.

    Raises:
        TrainingError: one is neither, or has a method on_... that is never called.
    """

    def __init__(self, callbacks=()):
        try:
            self.callbacks = tuple(callbacks)
        except TypeError:
            raise TrainingError(
                f"callbacks: expected a list of functions or objects, received {callbacks!r}; write callbacks=[...]"
            ) from None
        for i, callback in enumerate(self.callbacks):
            _check(callback, f"callbacks[{i}]")

    def begin(self, folder, config):
        """Calls on_begin of all.

        Args:
            folder: the run's, a Path.
            config: the Config as it is trained.
        """
        for callback in self.callbacks:
            if hook := getattr(callback, "on_begin", None):
                hook(folder, config)

    def epoch_end(self, row):
        """Calls on_epoch_end of all.

        Args:
            row: the epoch's row of history.csv, of which each gets a copy.

        Returns:
            Whether one of them raised StopTraining.
        """
        stop = False
        for callback in self.callbacks:
            hook = getattr(callback, "on_epoch_end", None if _hooks(callback) else callback)
            try:
                if hook:
                    hook(dict(row))
            except StopTraining:
                stop = True  # the others see this epoch, too
        return stop

    def end(self, run):
        """Calls on_end of all."""
        for callback in self.callbacks:
            if hook := getattr(callback, "on_end", None):
                hook(run)


def _hooks(callback):
    """The names of what a callback would be called by."""
    return [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name, None))]


def _check(callback, place):
    expected = f"expected a function of an epoch's row, or an object with any of {', '.join(HOOKS)}"
    if isinstance(callback, type):
        raise TrainingError(f"{place}: {expected}, received the class {callback.__name__}; write {callback.__name__}()")
    hooks = _hooks(callback)
    if not hooks and not callable(callback):
        raise TrainingError(f"{place}: {expected}, received {callback!r}")
    if unknown := [name for name in hooks if name not in HOOKS]:
        raise TrainingError(
            f"{place}: {expected}, received a {type(callback).__name__} with {', '.join(unknown[:4])}, never called "
            "here; rename it or leave it out"
        )
