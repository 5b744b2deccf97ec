"""What a runtime holds of another library, in a process that is forked: that library's threads exist in the parent."""

import ctypes
import os
import threading
import weakref


class Renewed:
    """A runtime's handle, which a forked process drops; the next call makes another.

    Attributes:
        handle: the library's object; None in a forked process until it is made anew.
        lock: held while it is made.
    """

    def __init__(self, handle):
        self.handle, self.lock = handle, threading.Lock()
        _ALL.add(self)

    def renew(self):
        """Drops the handle."""
        # It is never freed, not at the process's end either: that would wait for threads of the parent.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.handle))
        self.lock, self.handle = threading.Lock(), None


_ALL = weakref.WeakSet()


def _after_fork():
    for each in _ALL:
        each.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
