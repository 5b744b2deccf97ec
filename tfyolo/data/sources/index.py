"""Files found by what annotations call them, here or on the machine where they were written."""

import os
import re
import unicodedata
import urllib.parse
from typing import NamedTuple

from tfyolo.files import absolute
from tfyolo.messages import shortened

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


class Index:
    """Files by name, found by what annotations call them: here, or on the machine where they were written.

    So nothing that annotations say can lead to a file that is not among these.
    """

    def __init__(self, root, paths):
        self.root, self.paths = root, paths
        self._absolute = os.path.join(absolute(root), "").replace(os.sep, "/")
        start = len(os.path.join(root, "")) if root else 0
        self._relative = {composed(path[start:].replace(os.sep, "/")): path for path in paths}
        self._by_name = self._by_stem = None

    def __len__(self):
        return len(self.paths)

    def relative(self, name):
        """The file at a path relative to the root; None without it."""
        return self._relative.get(composed(name))

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
    for part in composed(name).replace("\\", "/").split("/"):
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


def composed(name):
    """A name with its accents composed, since systems write them in two ways."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
