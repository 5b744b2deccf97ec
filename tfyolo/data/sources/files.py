"""The files of a data set, listed once and without what is nobody's data.

They are read as text with bounds, and found by what annotations call them.
"""

import codecs
import os
import re
import unicodedata
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import yaml

from tfyolo.data.sources.source import DataError
from tfyolo.files import open_regular, parse_json, read_regular
from tfyolo.messages import counted, shortened

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
MOST_TEXT = 64 << 20  # bytes of a label file or list
MOST_YAML = 4 << 20  # bytes
MOST_ENTRIES = 20_000_000  # files and folders in and below one; links can make more of a few
_DEEPEST = 40  # folders in each other
_DEEPEST_YAML = 20  # levels
# What systems leave behind in folders; names that begin with a dot are hidden anyway.
_NOT_DATA = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
_NOT_DATA |= {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def stem_of(path) -> str:
    """The name of a file without its suffix and its folders; composed, since systems write accents in two ways."""
    return _key(os.path.splitext(os.path.basename(path))[0])


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
            folders, files = [], []
            try:
                with os.scandir(folder or ".") as entries:
                    for entry in entries:
                        if kind := visible(entry.name) and _kind(entry):
                            (folders if kind == "folder" else files).append(entry.name)
            except (NotADirectoryError, FileNotFoundError, ValueError):
                pass
            except OSError as error:
                self.notes.append((folder, f"cannot be listed: {error.strerror}"))
            self._entries += len(folders) + len(files)
            if self._entries > MOST_ENTRIES:
                raise DataError(
                    f"{self.root}: expected at most {counted(MOST_ENTRIES, 'file')} below it, there are more"
                )
            for name in files:
                if "." not in name and (target := text_link(os.path.join(folder, name))):
                    message = f"a symbolic link that was written as text, to {target}; make it a link or a folder"
                    self.notes.append((os.path.join(folder, name), message))
            self._listed[folder] = sorted(folders), sorted(files)
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
        return [os.path.join(folder, name) for name in self.list(folder)[1] if name.lower().endswith(suffixes)]

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
                status = os.stat(here or ".")
            except (OSError, ValueError):
                continue
            identity = status.st_dev, status.st_ino
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


def _identities_above(folder):
    """(device, number) of each folder that one lies in."""
    found = []
    for above in Path(os.path.abspath(folder)).parents:
        try:
            status = os.stat(above)
        except OSError:
            continue
        found.append((status.st_dev, status.st_ino))
    return tuple(found)


def _kind(entry):
    """ "folder", "file", or None for a FIFO, a device, a link that leads nowhere."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # links in a circle
        return None


class Index:
    """Files by name, found by what annotations call them: here, or on the machine where they were written.

    So nothing that annotations say can lead to a file that is not among these.
    """

    def __init__(self, root, paths):
        self.root, self.paths = root, paths
        self._absolute = os.path.join(os.path.abspath(root), "").replace(os.sep, "/")
        start = len(os.path.join(root, "")) if root else 0
        self._relative = {_key(path[start:].replace(os.sep, "/")): path for path in paths}
        self._by_name = self._by_stem = None

    def __len__(self):
        return len(self.paths)

    def relative(self, name):
        """The file at a path relative to the root; None without it."""
        return self._relative.get(_key(name))

    def find(self, name, accepts=lambda path: True, any_suffix=False):
        """The Hit of the file that a name means, or None.

        A name may have the slashes of Windows, a drive, a host, or folders of another machine before it: the file that
        most of its end fits is meant. A name without a suffix fits a file of its stem.

        Args:
            name: as annotations have it.
            accepts: whether a path may be meant at all.
            any_suffix: whether the file may have another suffix.
        """
        local = re.sub(r"^\w+://[^/]*|(?<=\w)\?[^/]*$", "", name) if "://" in name else name
        for written in dict.fromkeys((name, urllib.parse.unquote(name), local, urllib.parse.unquote(local))):
            parts = name_parts(written.removeprefix(self._absolute))
            if not parts:
                continue
            if (path := self.relative("/".join(parts))) and accepts(path):
                return Hit(path, 0)
            if self._by_name is None:
                self._by_name, self._by_stem = {}, {}
                for key in self._relative:
                    last = key.rpartition("/")[2]
                    self._by_name.setdefault(last.casefold(), []).append(key)
                    self._by_stem.setdefault(os.path.splitext(last)[0].casefold(), []).append(key)
            last = parts[-1].casefold()
            stem = os.path.splitext(last)[0] if any_suffix else last
            found = (
                self._by_name.get(last) or ((any_suffix or not last.endswith(IMAGES)) and self._by_stem.get(stem)) or ()
            )
            found = [key for key in found if accepts(self._relative[key])]
            exact = [key for key in found if key.rpartition("/")[2] == parts[-1]]
            fits = {}
            for key in exact or found:
                fits.setdefault(_common_end(key.split("/")[:-1], parts[:-1]), []).append(key)
            if fits:
                best, dropped = fits[max(fits)], len(parts) - 1 - max(fits)
                return Hit(self._relative[best[0]], dropped, tuple(self._relative[key] for key in best[1:]))
        return None


class Hit(NamedTuple):
    """The file that a name means.

    Attributes:
        path: of the file.
        dropped: how many of the name's first folders are not its own.
        others: files that the name fits as well.
    """

    path: str
    dropped: int
    others: tuple[str, ...] = ()


class Located(NamedTuple):
    """Where the files are that annotations name.

    Attributes:
        files: {name: path}.
        missing: {name: why it is not there}.
        dropped: the folders before names of which only the ends fit.
        any_suffix: whether the files have other suffixes than the names.
    """

    files: dict[str, str]
    missing: dict[str, str]
    dropped: frozenset[str]
    any_suffix: bool = False

    @property
    def word(self):
        """What to say of files that are found by parts of their names; None if they are found by their whole names."""
        if not (self.dropped or self.any_suffix):
            return None
        name, file = next(iter(self.files.items()))
        if self.any_suffix:
            return f"its images have other suffixes; found without them, such as {shortened(name)}: {file}"
        return f"its images are of other folders; found by the ends of their names, such as {shortened(name)}: {file}"


def locate(names, indices, accepts=lambda path: True) -> Located:
    """Looks for each name in one Index after the other.

    Where some are found by their whole names, one whose folders are not there is missing, unless it leads away from
    here; else the names are of another place, and their ends count. Where none is found, the images may have been
    converted since, and have other suffixes.

    Args:
        names: as annotations have them.
        indices: functions that give an Index each.
        accepts: whether a path may be meant at all.

    Returns:
        Located.
    """
    located = _locate(names, indices, accepts, any_suffix=False)
    if not located.files and any(why == "is not there" for why in located.missing.values()):
        located = _locate(names, indices, accepts, any_suffix=True)
    return located


# A name of which the folders cannot be those of the data: with a host, a drive, the system's root or ".." before it.
_LEADS_AWAY = re.compile(r"\w+:|[/\\]|\.\.[/\\]")


def _locate(names, indices, accepts, any_suffix):
    hits = {}
    for name in dict.fromkeys(names):
        best = None
        for index in indices:
            hit = index().find(name, accepts, any_suffix)
            if hit and (best is None or hit.dropped < best.dropped):
                best = hit
            if best and not best.dropped:
                break
        hits[name] = best
    foreign = not any(hit and not hit.dropped for hit in hits.values())
    files, missing, dropped = {}, {}, set()
    for name, hit in hits.items():
        if hit is None or (hit.dropped and not foreign and not _LEADS_AWAY.match(name)):
            missing[name] = "is not there"
        elif hit.others:
            missing[name] = f"may be {' or '.join((hit.path, *hit.others[:2]))}"
        else:
            files[name] = hit.path
            if hit.dropped:
                dropped.add("/".join(name_parts(name)[: hit.dropped]))
    return Located(files, missing, frozenset(dropped), any_suffix and bool(files))


def name_parts(name):
    """The folders and the file of a path of any system, without drive, "." and ".."."""
    parts = []
    for part in _key(name).replace("\\", "/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", ".") and not part.endswith(":"):
            parts.append(part)
    return parts


def _common_end(one, other):
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count


def _key(name):
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def leads_outside(path, root) -> bool:
    """Whether a path, as it is written, leads out of a folder. What a link in the folder leads to is inside."""
    path, root = (os.path.abspath(place) for place in (path, root))
    return path != root and not path.startswith(os.path.join(root, ""))


def read_bytes(file, most=None) -> bytes:
    """All of a regular file. Raises DataError; also if it is longer than `most` bytes."""
    try:
        content = read_regular(file, most)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{file}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    return content


def read_text(file, most=MOST_TEXT) -> str:
    """A text file in UTF-8, or in what its byte order mark says. Raises DataError."""
    content = read_bytes(file, most)
    try:
        return content.decode(_by_mark(content) or "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{file}: expected text in UTF-8; if it is in another encoding: iconv -f ENCODING -t UTF-8"
        ) from None


def _by_mark(content):
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
    marks[codecs.BOM_UTF16_BE] = "utf-16"
    return next((encoding for mark, encoding in marks.items() if content.startswith(mark)), None)


def read_lines(file, most=MOST_TEXT) -> list[str]:
    """The lines of a text file that are not empty, without the spaces round them. Raises DataError."""
    return [line.strip() for line in read_text(file, most).splitlines() if line.strip()]


def read_json(file):
    """What a JSON file holds. Raises DataError."""
    content = read_bytes(file)
    try:
        return parse_json(content)
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None


# In double quotes, where YAML takes a backslash for the beginning of an escape: written by hand, as nobody who knows
# that would.
_WINDOWS_PATH = re.compile(r'"[A-Za-z]:\\(?!\\)[^"\n]*"')


def read_yaml(file):
    """Reads a data .yaml: (content, {key: line}).

    The content is mappings, lists and text, each scalar as it is written: 02146, 1.10 and no are names of classes.

    Raises:
        DataError: it cannot be read, or is nested deeply, as no data file is.
    """
    text = _WINDOWS_PATH.sub(lambda found: found[0].replace("\\", "\\\\"), read_text(file, MOST_YAML))
    anchors, stack, keys, lines = {}, [[]], [None], {}  # of each mapping on the stack the key whose value comes next

    def put(value, line):
        if isinstance(stack[-1], list):
            stack[-1].append(value)
        elif keys[-1] is None:
            keys[-1] = value if isinstance(value, str) else shortened(value)
            if len(stack) == 2:
                lines[keys[-1]] = line
        else:
            stack[-1][keys[-1]], keys[-1] = value, None

    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.ScalarEvent):
                is_key = isinstance(stack[-1], dict) and keys[-1] is None
                nothing = event.implicit[0] and event.value in ("", "~", "null") and len(stack) == 2 and not is_key
                value = None if nothing else event.value
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise DataError(f"{file}:{line}: not valid YAML: *{event.anchor} names nothing")
                value = anchors[event.anchor]
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                if len(stack) > _DEEPEST_YAML:
                    raise DataError(f"{file}:{line}: nested too deeply for a data file")
                value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                stack.pop(), keys.pop()
                continue
            else:
                continue
            put(value, line)
            if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent):
                anchors[event.anchor] = value
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(value)
                keys.append(None)
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    return (stack[0][0] if stack[0] else None), lines


def starts(file, count=1 << 16) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with open_regular(file) as stream:
            return stream.read(count)
    except (OSError, ValueError):
        return b""


def head_text(file) -> str:
    """The text that a file begins with, in UTF-8 or in what its byte order mark says; what is none stands as U+FFFD."""
    content = starts(file)
    return content.decode(_by_mark(content) or "utf-8-sig", "replace").replace("\0", "")


def some(items, count=20):
    """At most so many of a list's items, evenly spread over it."""
    return items[:: -(-len(items) // count) or 1] if items else []


def text_link(file) -> str | None:
    """Where a symbolic link leads that was written as a text file, as git does on Windows; None if the file is none."""
    if os.path.splitext(file)[1] or not os.path.isfile(file) or os.path.getsize(file) > 1000:
        return None
    target = starts(file, 1000).decode("utf-8", "replace").strip()
    inside = os.path.join(os.path.dirname(file), target)
    return shortened(target) if target and "\n" not in target and "\0" not in target and os.path.isdir(inside) else None
