"""Where a data set may lie, and what a format finds there."""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.sources.files import Tree, leads_outside, stem_of
from tfyolo.data.sources.index import name_parts
from tfyolo.data.sources.source import Source
from tfyolo.files import address, is_file, is_folder, is_there, matching, normal
from tfyolo.messages import counted


class Options(NamedTuple):
    """How a data set is to be read.

    Attributes:
        images: the folder of the images, if the annotations do not lead there.
        names: of the classes, by number, for data that has none.
        outside: whether paths in the data's files may lead out of its folder.
        max_pixels: of an image; a larger one is an error before it is decoded.
    """

    images: str | None = None
    names: tuple[str, ...] | None = None
    outside: bool = False
    max_pixels: int = MOST_PIXELS


_UNREAD = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".svg", ".psd", ".pdf", ".npy")


class Place:
    """A path that should hold a data set: a folder, a file, or a glob of files.

    All formats read the same listing of it.

    Attributes:
        path: as it was given.
        options: Options.
        file: the path if it is a file, else None.
        is_folder: whether the path is a folder.
        globbed: the files that the path, a pattern, stands for.
        root: the folder that nothing in the data leads out of.
        tree: what lies there.
        images: what lies in the folder of images that the options name, or None.
        numbers: {label file: the classes in it}, of those that were read, where nothing says what the classes are
            called.
    """

    def __init__(self, path, options):
        self.path, self.options = address(path) or os.fspath(path), options
        self.file = self.path if is_file(self.path) else None
        self.is_folder = is_folder(self.path)
        there = self.file or self.is_folder or is_there(self.path)
        self.globbed = () if there else tuple(filter(is_file, matching(self.path)))
        self.root = normal(self.path if self.is_folder else os.path.dirname(self.path))
        self.tree = Tree(self.root)
        self.images = Tree(options.images) if options.images else None
        self._splits, self.numbers = {}, {}

    def relative(self, path):
        """A path below the root as it is seen from there, with slashes; "" for the root itself."""
        relative = os.path.relpath(path, self.root).replace(os.sep, "/")
        return "" if relative == "." else relative

    def split_of(self, path):
        """What the folders of a file below the root say about its split: the name of one of them; None if nothing."""
        folder = os.path.dirname(path)
        if folder not in self._splits:
            self._splits[folder] = split_among(self.relative(folder).split("/"))
        return self._splits[folder]

    def may_be_read(self, path):
        """Whether the data's files may lead to a path."""
        return (
            self.options.outside
            or not leads_outside(path, self.root)
            or (self.images is not None and not leads_outside(path, self.images.root))
        )

    def unread_images(self):
        """What lies here that is an image of a kind that is not read, counted: "3 .heic files"; "" if there is none."""
        tree = self.images or self.tree
        files = [file for folder in tree.walk() for file in tree.files(folder, _UNREAD)]
        counts = Counter(os.path.splitext(file)[1].lower() for file in files)
        return ", ".join(counted(count, f"{suffix} file") for suffix, count in counts.items())

    @property
    def notes(self):
        """[(file, message)] of what there is to say about the listing itself."""
        return list(dict.fromkeys(note for tree in (self.tree, self.images) if tree for note in tree.notes))


class Candidate(NamedTuple):
    """A data set as one format sees it.

    Attributes:
        splits: {name: function without arguments that reads it}.
        score: how much of it the format accounts for, by a sample, in 0..1.
        why: the marks that speak for it.
        note: a warning of every split; "" for none.
        images: a function that counts the images with annotations, asked where formats compete; None: not known.
    """

    splits: dict[str, Callable[[], Source]]
    score: float
    why: str
    note: str = ""
    images: Callable[[], int] | None = None


class Format(NamedTuple):
    """One format of data sets.

    Attributes:
        find: Place -> Candidate, or None if nothing there is of the format; raises DataError if what is there is
            broken.
        describe: the layouts that it finds, in a line or two that begin with its name.
        write: a function (Source, folder, **options) that writes it, or None.
    """

    find: Callable[[Place], Candidate | None]
    describe: str
    write: Callable | None = None


SPLITS = ("train", "val", "test", "trainval")
ORDER = {split: place for place, split in enumerate(SPLITS)}
_MEANINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


@functools.lru_cache(maxsize=4096)
def meaning(name):
    """What the name of a split means: train of train2017 and coco_train, val of valid; else the name itself."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", name.lower())]
    words = [_MEANINGS.get(word, word) for word in words]
    return next((word for word in words if word in SPLITS), name)


def split_named(file):
    """The split that a file is named for: its name without suffix, "all" if that means none."""
    return stem_of(file) if meaning(stem_of(file)) in SPLITS else "all"


def split_among(parts):
    """The folder among those of a path that is named for a split; None without one."""
    return next((part for part in parts if meaning(part) in SPLITS), None)


def may_be_of(split, other) -> bool:
    """Whether a file in a folder that is named for a split `other`, or for none, may be of `split`."""
    own = meaning(split)
    return not other or own not in ("train", "val", "test") or meaning(other) == own


# Folders that only say what kind of file lies in them.
_KINDS = {
    "annotations",
    "annotation",
    "annots",
    "labels",
    "xml",
    "xmls",
    "json",
    "jpegimages",
    "images",
    "image",
    "imgs",
    "img",
}


class Companions:
    """Finds the image of an annotation file that is one image's: by its stem, in the folder that goes with its own."""

    def __init__(self, place):
        self.place = place
        self.index = place.images.index() if place.images else place.tree.index()
        self.stems = {}
        for image in self.index.paths:
            self.stems.setdefault(stem_of(image), []).append(image)

    def of(self, file, name):
        """The image of an annotation file: (its path or None, a warning or None).

        Args:
            file: the annotation file.
            name: what it calls its image, for files whose stems do not say.
        """
        named = name_parts(name)
        images = self.stems.get(stem_of(file)) or (named and self.stems.get(stem_of(named[-1]))) or ()
        images = self._nearest(images, file)
        if len(images) > 1 and named:
            images = [image for image in images if os.path.basename(image) == named[-1]] or images
        if len(images) == 1:
            return images[0], None
        return (
            (images[0], f"its image may be {' or '.join(images[:3])}; the first is taken") if images else (None, None)
        )

    def _nearest(self, images, file):
        """Those that lie in the split of a file, and of them those whose folders are most like its own."""
        own = self._split(file)
        images = [image for image in images if not own or self._split(image) in (own, None)]
        if len(images) < 2:
            return images
        likeness = {image: _alike(self._plain(image), self._plain(file)) for image in images}
        return [image for image in images if likeness[image] == max(likeness.values())]

    def _split(self, path):
        named = self.place.split_of(path)
        return named and meaning(named)

    def _plain(self, path):
        return [part for part in self.place.relative(os.path.dirname(path)).split("/") if part.lower() not in _KINDS]


def _alike(one, other):
    common = sum(a == b for a, b in zip(reversed(one), reversed(other), strict=False))
    return common - 0.01 * abs(len(one) - len(other))
