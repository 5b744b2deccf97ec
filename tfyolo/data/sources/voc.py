"""Pascal VOC (Everingham et al. 2010): an XML an image; corners from 1 and inclusive: x1 = xmin - 1, x2 = xmax."""

import codecs
import functools
import os
import re
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

from tfyolo.data.sources.files import some, stem_of
from tfyolo.data.sources.index import IMAGES, name_parts
from tfyolo.data.sources.place import Candidate, Companions, Format
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.source import (
    Annotation,
    DataError,
    Findings,
    each_once,
    finish,
    flag,
    record,
    upright_size,
)
from tfyolo.data.sources.text import read_bytes, read_lines, starts
from tfyolo.messages import counted, shortened

MOST_XML = 16 << 20  # bytes of one image's XML


class _Xml(NamedTuple):
    """What one XML says, as text. objects: [(name, difficult, (ymin, xmin, ymax, xmax))]."""

    filename: str
    size: tuple[str | None, str | None]  # height, width
    objects: list


def find(place):
    """The Candidate of Pascal VOC's XML at a Place; None if there is none."""
    if place.file or place.globbed or len(_folders_of_lists(place)) > 1:  # of years: each is a data set of its own
        return None
    parsed = functools.cache(_parse)  # an XML serves all splits: each needs the classes of all
    files = [file for folder in place.tree.walk() for file in place.tree.files(folder, ".xml")]
    sample = [parsed(file) for file in some(files)]
    sound = [xml for xml in sample if isinstance(xml, _Xml)]
    if not sound and not (sample and all(isinstance(error, DataError) and error.broken for error in sample)):
        return None  # XML of another kind, if any
    by_split = {}
    for file in files:
        by_split.setdefault(place.split_of(file), []).append(file)
    lists = _lists(place)
    images = Companions(place)
    placed = [
        images.of(file, xml.filename) for file, xml in zip(some(files), sample, strict=True) if isinstance(xml, _Xml)
    ]
    score = sum(image is not None for image, _ in placed) / len(sample)
    why = (
        f"{counted(len(files), 'XML file')}, of which {sum(image is not None for image, _ in placed)} of "
        f"{len(sample)} have images"
    )

    def reader(members, listed=None):
        return functools.partial(_read, files, members, listed, parsed, images)

    note = ""
    if lists:
        stems = {}
        for file in files:
            stems.setdefault(stem_of(file), []).append(file)
        splits = {name: reader(stems, listed) for name, listed in lists.items()}
    elif set(by_split) == {None}:
        parts = {}
        for file in files:
            parts.setdefault(place.relative(file).split("/")[0], []).append(file)
        # Folders with images of their own, one beside the other, are splits whatever their names are.
        own = len(parts) > 1 and all(place.tree.files(os.path.join(place.root, part), IMAGES) for part in parts)
        splits = {part: reader(members) for part, members in parts.items()} if own else {"all": reader(files)}
    else:
        outside = by_split.pop(None, [])
        splits = {split: reader(members) for split, members in by_split.items()}
        if strangers := [file for file in outside if isinstance(parsed(file), _Xml)]:
            note = f"{counted(len(strangers), 'XML file')} in no split's folder, such as {strangers[0]}; left out"
    return Candidate(splits, score, why, note, images=lambda: len(files))


def _folders_of_lists(place):
    return [folder for folder in place.tree.walk(deepest=2) if os.path.basename(folder) == "ImageSets"]


def _lists(place):
    """{split: (its names, the file that lists them)} of ImageSets/Main, or of ImageSets."""
    lists = {}
    for folder in _folders_of_lists(place):
        files = place.tree.files(os.path.join(folder, "Main"), ".txt") or place.tree.files(folder, ".txt")
        for file in files:
            rows = [line.split() for line in read_lines(file)]
            if rows and all(len(row) == 1 for row in rows):  # <class>_<split>.txt has a second column
                lists[stem_of(file)] = [row[0] for row in rows], file
    return lists


def _read(files, members, listed, parsed, images):
    findings = Findings()
    names = {name for file in files if isinstance(xml := parsed(file), _Xml) for name, *_ in xml.objects if name}
    if not names:
        first = next((f"; {error}" for error in map(parsed, files) if isinstance(error, DataError)), "")
        raise DataError(
            f"{images.place.path}: not one <object> with a <name> in {counted(len(files), 'XML file')}{first}"
        )
    classes = sorted(names)
    label_of = {name: label for label, name in enumerate(classes)}
    if listed:
        members = _listed(*listed, members, findings)
    records, used = RecordsBuilder(), {}
    for file in members:
        xml = parsed(file)
        if isinstance(xml, DataError):
            findings.error(file, f"{xml}; left out")
            continue
        image, word = images.of(file, xml.filename)
        if image is None:
            findings.error(file, "label without image; left out")
            continue
        if word:
            findings.warning(file, word)
        used[image] = file
        if not (size := upright_size(xml.size, image, findings)):
            continue
        annotations = []
        for place, (name, difficult, corners) in enumerate(xml.objects, start=1):
            where = f"object {place} ({shortened(name)[1:-1]})"
            try:
                y1, x1, y2, x2 = map(float, corners)
            except (TypeError, ValueError):
                name = None
            if not name:
                findings.error(file, f"{where}: expected <name> and <bndbox> with four numbers; left out")
                continue
            # Inclusive corners would give equal ones a pixel; nobody means that.
            box = (y1 - (y1 < y2), x1 - (x1 < x2), y2, x2)
            is_difficult, plain = flag(difficult)
            if not plain:
                findings.tally(file, f"<difficult> is {shortened(difficult)}, neither 0 nor 1; counted as 0")
            annotations.append(Annotation(where, box, label_of[name], difficult=is_difficult))
        records.append(record(None, image, size, annotations, file, findings))
    if not listed:
        _without_xml(files, members, used, images, findings)
    return finish(records, classes, range(len(classes)), findings, "voc")


def _without_xml(files, members, used, images, findings):
    """A Problem for each image of the split that no XML is of."""
    stems = {stem_of(file) for file in files}
    twins = {os.path.splitext(image)[0]: image for image in used}
    splits = {images.place.split_of(file) for file in members}
    for image in images.index.paths:
        stem, _ = os.path.splitext(image)
        if images.place.split_of(image) in splits or splits == {None}:
            if stem_of(image) not in stems:
                findings.warning(image, "image without XML; left out")
            elif image not in used and stem in twins:
                findings.warning(image, f"the XML of its name is {twins[stem]}'s; left out")


def _listed(names, listed_in, stems, findings):
    """The XML files of the names that a list holds."""
    for name in each_once(names, listed_in, findings):
        parts = name_parts(name)
        stem = os.path.splitext(parts[-1])[0] if parts and parts[-1].lower().endswith(IMAGES) else (parts or [""])[-1]
        found = stems.get(stem, ())
        if len(found) > 1:
            tail = "/".join([*parts[:-1], stem])
            found = [file for file in found if os.path.splitext(file)[0].replace(os.sep, "/").endswith(tail)] or found
        if found:
            yield found[0]
        else:
            findings.error(listed_in, f"{shortened(name)[1:-1]} is listed but has no XML; left out")


class _Broken(DataError):
    """An XML that cannot be parsed. broken: it may have been VOC's."""

    def __init__(self, message, broken=True):
        super().__init__(message)
        self.broken = broken


def _parse(file):
    """The _Xml of a file; or, not raised, the error that says why it has none."""
    try:
        root = _root(read_bytes(file, MOST_XML))
    except DataError as error:
        return _Broken(str(error).removeprefix(f"{file}: "))
    except UnicodeDecodeError as error:
        return _Broken(f"not valid XML: it is not in the encoding that it declares, {error.encoding}")
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        return _Broken(f"not valid XML: {error}{_undeclared(file)}")
    if root.tag != "annotation":
        return _Broken(f"expected VOC's <annotation>, received <{shortened(root.tag)[1:-1]}>", broken=False)
    objects = [
        (
            (element.findtext("name") or "").strip(),
            element.findtext("difficult"),
            tuple(element.findtext(f"bndbox/{key}") for key in ("ymin", "xmin", "ymax", "xmax")),
        )
        for element in root.findall("object")
    ]
    size = root.findtext("size/height"), root.findtext("size/width")
    return _Xml(root.findtext("filename") or root.findtext("path") or "", size, objects)


def _undeclared(file):
    """What to say of an XML that is text in an encoding which it does not declare; else ""."""
    head = starts(file)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        if b"\0" not in head:
            return "; expected UTF-8, or a first line that says otherwise, such as <?xml version='1.0' encoding='gbk'?>"
    return ""


# Python's codecs that are no encodings of text files, or that take ages over long ones.
_NO_ENCODINGS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined", "mbcs", "oem"}


def _root(content):
    """The root element of an XML in any encoding; expat itself reads but a few of them."""
    head = content[:200]
    declared = re.search(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""", head.lstrip(codecs.BOM_UTF8))
    if b"<!ENTITY" in content:
        raise ValueError("it defines entities, which annotations have no use for")
    encoding = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    if encoding in _NO_ENCODINGS:
        raise ValueError(f"expected an encoding of text, received {encoding}")
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif encoding in ("utf-8", "utf-16", "ascii", "iso8859-1") or content[:2] in (
        codecs.BOM_UTF16_LE,
        codecs.BOM_UTF16_BE,
    ):
        return ElementTree.fromstring(content)
    return ElementTree.fromstring(re.sub(r"^\ufeff?\s*<\?xml[^>]*\?>", "", content.decode(encoding)))


FORMAT = Format(
    find,
    "voc       Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt; <split>/*.xml beside their images; "
    "annots/ beside images/",
)
