"""One split of YOLO's texts: its images, their label files, and the boxes in these."""

import functools
import os
from typing import NamedTuple

from tfyolo.data.sources.conventions import Corners
from tfyolo.data.sources.files import Tree, leads_outside, some, stem_of
from tfyolo.data.sources.index import IMAGES, locate
from tfyolo.data.sources.place import SPLITS, meaning
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.seen import is_file
from tfyolo.data.sources.source import (
    Annotation,
    DataError,
    Findings,
    each_once,
    finish,
    record,
    upright_size,
)
from tfyolo.data.sources.text import read_lines
from tfyolo.data.sources.yolo_text import Pairs, read_rows, row_format
from tfyolo.files import normal, size_of
from tfyolo.messages import counted, shortened

UNNAMED = 10_000  # classes that data may have without saying what they are called: more is a stray number
FARTHEST = 5  # images' sides from the corner: numbers beyond are no parts of the image
NAMES = ("classes.txt", "_darknet.labels", "obj.names", "labels.txt")


class Part(NamedTuple):
    """Images of one split: a folder, or a file that lists them; or the error that says why they are not there.

    Attributes:
        folder: of the images.
        listed: a file that lists them.
        error: why they are not there.
        by_end: whether only the end of its name led to it.
    """

    folder: str | None = None
    listed: str | None = None
    error: DataError | None = None
    by_end: bool = False


def is_list(file):
    """Whether a text file lists images."""
    try:
        lines = read_lines(file)
    except DataError:
        return False
    return bool(lines) and all(line.lower().endswith(IMAGES) for line in some(lines))


def images_of(place, part, findings, names_of=None, few=None):
    """The images of a part.

    Args:
        place: the Place of the data.
        part: a Part.
        findings: Findings that get what is wrong.
        names_of: a dict that gets {image: what a list calls it}.
        few: only about so many of a list; None: all.

    Returns:
        Their paths.

    Raises:
        DataError: they are not there, or their list cannot be read.
    """
    if part.error:
        raise part.error
    if part.folder:
        tree = next(
            (t for t in (place.images, place.tree) if t and not leads_outside(part.folder, t.root)), None
        ) or Tree(part.folder)
        return tree.index(part.folder).paths
    listed = each_once(read_lines(part.listed), part.listed, findings)
    listed = some(listed, few) if few else listed
    here = os.path.dirname(part.listed)
    outside, inside = {}, []
    for name in listed:
        path = normal(os.path.join(here, name.replace("\\", "/")))
        if (
            place.options.outside
            and leads_outside(path, place.root)
            and name.lower().endswith(IMAGES)
            and is_file(path)
        ):
            outside[name] = path
        else:
            inside.append(name)
    trees = [tree for tree in (place.images, place.tree) if tree]
    located = locate(inside, [functools.partial(tree.index, tree.root) for tree in trees])
    files = located.files | outside
    strangers = 0
    for name in listed:
        if name in files:
            if names_of is not None:
                names_of[files[name]] = name
            continue
        if not name.lower().endswith(IMAGES):
            strangers += 1
            if strangers == 1:
                message = (
                    f"expected a list of images, received lines that name none, such as {shortened(name)}; left out"
                )
                findings.error(part.listed, message)
            continue
        findings.error(os.path.join(here, name), f"image missing: it {located.missing[name]}; listed in {part.listed}")
    if located.word and located.dropped != {"data"}:  # which CVAT puts before all
        findings.warning(part.listed, located.word)
    return [files[name] for name in listed if name in files]


def read(place, parts, names, *, together=(), points=None, same_as="", notes=()):
    """The Source of some Parts.

    Args:
        place: the Place of the data.
        parts: the Parts of the split.
        names: of the classes, by number; None: the numbers that occur, also in `together`.
        together: the parts of all splits.
        points: of each box, or None.
        same_as: the split before it of the same images; else "".
        notes: (file, message) of warnings.

    Raises:
        DataError: the images of a part are not there, or the boxes are in another convention.
    """
    findings = Findings()
    for file, message in dict.fromkeys(notes):
        findings.warning(file, message)
    names = names or place.options.names
    pairs, names_of, images = Pairs(place), {}, []
    for part in parts:
        images += images_of(place, part, findings, names_of)
    texts = {image: pairs.of(image, names_of.get(image)) for image in dict.fromkeys(images)}
    others = [part for each in together for part in each if part not in parts]
    _orphans(place, parts, others, pairs, texts, findings)

    rows_of = _labels_of(texts, pairs, findings)
    xyxy_of, expected, note = row_format([rows for rows in rows_of.values() if rows], points)
    if note:
        findings.warning(parts[0].folder or parts[0].listed, note)

    if unnamed := names is None:
        names, message = _numbered(place, texts, rows_of, others)
        findings.warning(parts[0].folder or parts[0].listed, message)
    records, corners = RecordsBuilder(), Corners("`class cx cy w h`")
    for image, rows in rows_of.items():
        if not (size := upright_size((None, None), image, findings)):
            continue
        height, width = size
        file, annotations = texts[image], []
        for line, number, values in rows or ():
            if number >= len(names):
                limit = (
                    f"data without names has at most {counted(UNNAMED, 'class')}"
                    if unnamed
                    else f"the names are 0..{len(names) - 1}{', numbers begin at 0' if number == len(names) else ''}"
                )
                findings.error(file, f"line {line}: unknown class {shortened(number)}: {limit}; left out")
                continue
            if (box_xyxy := xyxy_of(values)) is None:
                findings.error(
                    file, f"line {line}: expected `{expected}`, received {counted(len(values) + 1, 'number')}; left out"
                )
                continue
            if points and len(values) == 4:
                findings.tally(file, f"a row of 5 numbers, expected {expected}; taken for a box without key points")
            x1, y1, x2, y2 = box_xyxy
            if max(map(abs, box_xyxy)) > FARTHEST:
                shown = f"y {y1:g}..{y2:g}, x {x1:g}..{x2:g}"
                findings.error(
                    file, f"line {line}: expected parts of the image, 0..1, received {shown}: pixels? Left out"
                )
                continue
            if len(values) == 4:
                corners.see(values, (y1, x1, y2, x2), (1, 1))
            annotations.append(Annotation(f"line {line}", (y1 * height, x1 * width, y2 * height, x2 * width), number))
        records.append(record(None, image, size, annotations, file or image, findings))
        if file and not annotations and size_of(file) > 2:
            findings.emptied.append(image)
    corners.check(parts[0].folder or parts[0].listed)
    source = finish(records, names, range(len(names)), findings, "yolo")
    return source._replace(same_as=same_as)


def _labels_of(texts, pairs, findings):
    """{image: the rows of its label file}, of {image: its label file or None}."""
    rows_of, shared = {}, {}
    for image, text in texts.items():
        if text is None:
            likely = os.path.join(pairs.folder(os.path.dirname(image)), f"{stem_of(image)}.txt")
            findings.warning(likely, "no label file: an image without objects")
            findings.unlabelled.append(image)
            rows_of[image] = []
            continue
        if text in shared:
            findings.warning(image, f"has the same label file as {shared[text]}: {text}; it counts for both")
        shared.setdefault(text, image)
        rows_of[image] = read_rows(text, findings)
    return rows_of


def _numbered(place, texts, rows_of, others):
    """(names of classes that are their numbers, of all splits; a message that says so)."""
    for image, rows in rows_of.items():
        place.numbers[texts[image]] = {number for _, number, _ in rows or () if number < UNNAMED}
    numbers = set().union(*(place.numbers[texts[image]] for image in rows_of))
    numbers = numbers.union(*(_numbers_of(place, text) for text in texts_of(place, others)))
    names = tuple(map(str, range(max(numbers, default=0) + 1)))
    few = f", of which {len(numbers)} occur" if len(names) > 2 * len(numbers) + 2 else ""
    message = f"nothing says what the classes are called; their numbers are their names: 0 to {len(names) - 1}{few}"
    return names, f"{message}. data.names=FILE gives them names"


def texts_of(place, parts):
    """The label files of the images of some parts."""
    pairs = Pairs(place)
    for part in parts:
        try:
            yield from filter(None, map(pairs.of, images_of(place, part, Findings())))
        except DataError:
            continue


def _numbers_of(place, text):
    """The classes in a label file, which is read once for all splits that ask for them."""
    if text not in place.numbers:
        rows = read_rows(text, Findings()) or ()
        place.numbers[text] = {number for _, number, _ in rows if number < UNNAMED}
    return place.numbers[text]


def _orphans(place, parts, others, pairs, texts, findings):
    """A Problem for each label file in the folders of the labels that no image has, of these parts or of others."""
    used = {text for text in texts.values() if text}
    folders, unused = {}, []
    for part in parts:
        if part.folder and not place.images:
            folders |= dict.fromkeys(place.tree.walk(pairs.folder(part.folder)))
    folders |= {pairs.folder(os.path.dirname(image)): None for image in texts if not any(part.listed for part in parts)}
    for folder in sorted(folders):
        for text in place.tree.files(folder, ".txt"):
            name = os.path.basename(text).lower()
            known = text in used or name in NAMES or name.startswith(("readme", "license", "notes"))
            if not known and meaning(stem_of(text)) not in SPLITS:
                unused.append(text)
    elsewhere = set(texts_of(place, others)) if unused else ()
    for text in unused:
        if text not in elsewhere and not is_list(text):
            if size_of(text) < 3 or read_rows(text, Findings()):
                findings.error(text, "label without image; left out")
            else:
                findings.warning(text, "neither the label file of an image nor a list of images; left out")
