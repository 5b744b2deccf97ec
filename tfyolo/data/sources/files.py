"""The files of a data set, listed once and without what is nobody's data."""

import contextlib
import os
from pathlib import Path

from tfyolo import remote
from tfyolo.data.sources.index import IMAGES, Index, composed
from tfyolo.data.sources.seen import looked_at, looked_into
from tfyolo.data.sources.source import DataError
from tfyolo.data.sources.text import starts
from tfyolo.files import address
from tfyolo.messages import counted, shortened
from tfyolo.remote import UnansweredError

MOST_ENTRIES = 20_000_000  # files and folders in and below one; links can make more of a few
_DEEPEST = 40  # folders in each other
# What systems leave behind in folders; names that begin with a dot are hidden anyway.
_NOT_DATA = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
_NOT_DATA |= {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def stem_of(path) -> str:
    """The name of a file without its suffix and its folders; composed, since systems write accents in two ways."""
    return composed(os.path.splitext(os.path.basename(path))[0])


def visible(name) -> bool:
    """Whether a file or folder of this name may be data: not .ipynb_checkpoints, .idea, @eaDir, ._x, Thumbs.db."""
    return not name.startswith(".") and name.lower() not in _NOT_DATA


class Tree:
    """A folder and what lies below it, each folder listed once, when it is first asked for.

    Only what is visible, and of files only regular ones, is there. Links are followed, but not to a folder that they
    lie in.

    Attributes:
        notes: [(file, message)] of what could not be listed.
    """

    def __init__(self, root):
        self.root, self.notes = os.fspath(root), []
        self._listed, self._indices, self._entries = {}, {}, 0

    def list(self, folder):
        """([names of folders], [names of files]) in a folder, both sorted; empty where there is none."""
        if folder not in self._listed:
            folders, files, error = listing(folder)
            looked_into(folder, (folders, files, error))
            if error:
                self.notes.append((folder, f"cannot be listed: {error}"))
            self._entries += len(folders) + len(files)
            if self._entries > MOST_ENTRIES:
                raise DataError(
                    f"{self.root}: expected at most {counted(MOST_ENTRIES, 'file')} below it, there are more"
                )
            for name in files:
                if "." not in name and (target := text_link(os.path.join(folder, name))):
                    message = f"a symbolic link that was written as text, to {target}; make it a link or a folder"
                    self.notes.append((os.path.join(folder, name), message))
            self._listed[folder] = folders, files
        return self._listed[folder]

    def folders(self, folder):
        """The paths of the folders in a folder."""
        return [os.path.join(folder, name) for name in self.list(folder)[0]]

    def spelled(self, folder):
        """A folder as its name is written, whatever case its path is given in; else the path itself."""
        if leads_outside(folder, self.root):
            return folder
        here = self.root
        for part in os.path.relpath(folder, self.root or ".").split(os.sep):
            names = self.list(here)[0]
            fits = [name for name in names if name.lower() == part.lower()]
            if part != "." and not fits:
                return folder
            here = here if part == "." else os.path.join(here, part if part in names else fits[0])
        return here

    def files(self, folder, suffixes=""):
        """The paths of a folder's files whose names end so, in any case."""
        prefix = os.path.join(folder, "")
        return [prefix + name for name in self.list(folder)[1] if name.lower().endswith(suffixes)]

    def has(self, path):
        """Whether a path is a visible file of its folder."""
        folder, name = os.path.split(path)
        return name in self.list(folder)[1]

    def walk(self, folder=None, deepest=_DEEPEST):
        """Each folder in and below one, itself first, and not those that a link leads back to."""
        folder = self.root if folder is None else folder
        pending = [(folder, _identities_above(folder))]
        while pending:
            here, above = pending.pop()
            try:
                identity = _identity(here)
            except (OSError, ValueError):
                continue
            if identity in above:
                self.notes.append((here, "a link that leads back to a folder that it lies in; not followed"))
                continue
            yield here
            below = self.folders(here)
            if here.count(os.sep) - folder.count(os.sep) < deepest:
                pending += [(child, (*above, identity)) for child in reversed(below)]

    def index(self, folder=None, suffixes=IMAGES):
        """The Index of all files with such suffixes in and below a folder."""
        folder = self.root if folder is None else folder
        if (folder, suffixes) not in self._indices:
            paths = [path for here in self.walk(folder) for path in self.files(here, suffixes)]
            self._indices[folder, suffixes] = Index(folder, paths)
        return self._indices[folder, suffixes]


def _identity(folder):
    """What tells a folder from all others, whatever leads to it: (device, number); at an address nothing else does."""
    if found := address(folder):
        return found
    status = os.stat(folder or ".")
    return status.st_dev, status.st_ino


def _identities_above(folder):
    """The identity of each folder that one lies in."""
    if address(folder):
        return ()
    found = []
    for above in Path(os.path.abspath(folder)).parents:
        with contextlib.suppress(OSError):
            found.append(_identity(above))
    return tuple(found)


def listing(folder) -> tuple[list[str], list[str], str]:
    """([names of folders], [names of files], why it cannot be listed or "") of a folder, both sorted.

    Args:
        folder: its path; "" for the current one. One that is not there is empty.
    """
    folders, files = [], []
    try:
        if found := address(folder):
            return *([name for name in names if visible(name)] for names in remote.names_in(found)), ""
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if kind := visible(entry.name) and _kind(entry):
                    (folders if kind == "folder" else files).append(entry.name)
    except (NotADirectoryError, FileNotFoundError, ValueError):
        pass
    except UnansweredError:  # of no file, but of the network: reading ends
        raise
    except OSError as error:
        return [], [], error.strerror
    return sorted(folders), sorted(files), ""


def _kind(entry):
    """Returns "folder", "file", or None for a FIFO, a device, a link that leads nowhere."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # links in a circle
        return None


def leads_outside(path, root) -> bool:
    """Whether a path, as it is written, leads out of a folder. What a link in the folder leads to is inside."""
    path, root = (os.path.abspath(place) for place in (path, root))
    return path != root and not path.startswith(os.path.join(root, ""))


def some(items, count=20):
    """At most so many of a list's items, evenly spread over it."""
    return items[:: -(-len(items) // count) or 1] if items else []


def text_link(file) -> str | None:
    """Where a symbolic link leads that was written as a text file, as git does on Windows; None if the file is none."""
    if address(file):
        return None
    looked_at(file)
    if os.path.splitext(file)[1] or not os.path.isfile(file) or os.path.getsize(file) > 1000:
        return None
    target = starts(file, 1000).decode("utf-8", "replace").strip()
    inside = os.path.join(os.path.dirname(file), target)
    return shortened(target) if target and "\n" not in target and "\0" not in target and os.path.isdir(inside) else None
