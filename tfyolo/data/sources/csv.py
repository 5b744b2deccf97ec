"""Boxes in a table: a row a box, as csv_table reads it, corners x1, y1, x2, y2 in pixels of the image.

A row of a path alone is an image without objects. Rows may name their split.
"""

import csv
import functools
import operator
import os

from tfyolo.data.sources.conventions import Corners
from tfyolo.data.sources.csv_table import EXPECTED, read_table, rows_of
from tfyolo.data.sources.files import some, stem_of
from tfyolo.data.sources.index import locate
from tfyolo.data.sources.place import SPLITS, Candidate, Format, may_be_of, meaning, split_named
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.source import Annotation, DataError, Findings, finish, record, upright_size, whole
from tfyolo.data.sources.text import head_text, read_lines
from tfyolo.messages import counted, shortened


def find(place):
    """The Candidate of tables at a Place; None if there is none."""
    if place.globbed or (place.file and not place.file.lower().endswith((".csv", ".txt"))):
        return None
    tables = {}
    for split, files in _files(place).items():
        for table in filter(None, map(read_table, files)):
            for own, part in _divided(table) if split == "all" else [(split, table)]:
                tables.setdefault(own, []).append(part)
    if not tables:
        if place.file and place.file.lower().endswith(".csv"):
            raise DataError(f"{place.file}: expected {EXPECTED}; received {shortened(head_text(place.file))}")
        return None
    found = total = 0
    for split, members in tables.items():
        names = some([row["image"] for table in members for _, _, row in rows_of(table, most=2000)])
        found, total = found + len(_located(place, split, names).files), total + len(set(names))
    parsed = functools.cache(lambda split: [row for table in tables[split] for row in rows_of(table)])
    splits = {split: functools.partial(read, place, split, tables, parsed) for split in tables}
    count = sum(map(len, tables.values()))
    why = f"{counted(count, 'CSV file')} of boxes; {found} of {counted(total, 'image')} looked for are there"

    def images():
        return len({row["image"] for split in tables for *_, row in parsed(split)})

    return Candidate(splits, found / total if total else 0.0, why, images=images)


def _files(place):
    """{split: CSV files}."""
    if place.file:
        return {split_named(place.file): [place.file]}
    tree, files = place.tree, {}
    for folder in (place.root, *tree.folders(place.root)):
        name = os.path.basename(folder)
        named = name if folder != place.root and meaning(name) in SPLITS else None
        if folder == place.root or named or name.lower() in ("annotations", "data", "labels"):
            for file in tree.files(folder, (".csv", ".txt")):
                if file.lower().endswith(".csv") or _may_be_lines(file):
                    files.setdefault(named or split_named(file), []).append(file)
    return files


def _may_be_lines(file):
    """Whether a text is called as lists of boxes are; to look into every image's label file would take long."""
    return stem_of(file).lower() in ("_annotations", "annotations") or meaning(stem_of(file)) in SPLITS


def _divided(table):
    """[(split, Table)] of one whose rows name their splits; ("all", the Table) of another."""
    names = {row["split"] for *_, row in rows_of(table)} if "split" in table.columns else ()
    if names and all(meaning(name) in SPLITS for name in names):
        return [(name, table._replace(split=name)) for name in sorted(names)]
    return [("all", table)]


def _located(place, split, names):
    trees = [tree for tree in (place.images, place.tree) if tree]
    return locate(
        names,
        [functools.partial(tree.index, tree.root) for tree in trees],
        lambda path: may_be_of(split, place.split_of(path)),
    )


def read(place, split, tables, parsed):
    """The Source of the tables of a split. Classes are those of all tables, so that splits agree."""
    findings, where = Findings(), tables[split][0].file
    names = {row["class"] for other in tables for *_, row in parsed(other) if row["class"]}
    if not names:
        raise DataError(f"{where}: not one row with a class")
    label_of, classes, numbers = _classes(place, tables, names)
    if not any("class" in table.columns for other in tables for table in tables[other]):
        findings.warning(where, "no column of classes: all boxes are of one, 0. data.names=FILE gives it a name")
    boxes_of, sizes, seen = {}, {}, set()
    for file, line, row in parsed(split):
        image = row["image"]
        if not image:
            findings.error(file, f"line {line}: expected the name of an image, received none; left out")
            continue
        boxes = boxes_of.setdefault(image, [])
        sizes.setdefault(image, (row.get("height"), row.get("width")))
        corners = [row[key] for key in ("y1", "x1", "y2", "x2")]
        if not any((*corners, row["class"])):
            continue
        if (key := (image, *corners, row["class"])) in seen:
            findings.warning(file, f"line {line}: the same box again; left out")
            continue
        seen.add(key)
        try:
            box = tuple(map(float, corners))
            if not row["class"]:
                raise ValueError
        except ValueError:
            message = (
                f"line {line}: expected four corners and a class, received {shortened(','.join(corners))}; left out"
            )
            findings.error(file, message)
            continue
        boxes.append(Annotation(f"line {line}", box, label_of[row["class"]]))
    in_parts = _in_parts(row for other in tables for *_, row in parsed(other))
    if in_parts:
        findings.warning(where, "all corners lie in 0..1, as parts of the image; taken for them")
    if _of_boxes(row for other in tables for *_, row in parsed(other)):
        message = "its width and height are those of the boxes; the images' own are read from their files"
        findings.warning(where, message)
        sizes = dict.fromkeys(sizes, (None, None))
    located = _located(place, split, boxes_of)
    if boxes_of and not located.files:
        first = shortened(next(iter(boxes_of)))[1:-1]
        raise DataError(f"{where}: its images (such as {first}) are not there. Say where: data.images=FOLDER")
    if located.word:
        findings.warning(where, located.word)
    records, corners = RecordsBuilder(), Corners("corner and sides")
    for name, boxes in boxes_of.items():
        if (image := located.files.get(name)) is None:
            message = f"image missing: it {located.missing[name]}; {where} has {counted(len(boxes), 'box')} for it"
            findings.error(os.path.join(place.root, name), message)
        elif size := upright_size(sizes[name], image, findings):
            if in_parts:
                scale = (*size, *size)
                boxes = [box._replace(box=tuple(map(operator.mul, box.box, scale))) for box in boxes]
            for y1, x1, y2, x2 in (each.box for each in boxes):
                corners.see((x1, y1, x2 - x1, y2 - y1), (y1, x1, y2, x2), size)
            records.append(record(None, image, size, boxes, where, findings))
    if all(table.has_sides for table in tables[split]):
        corners.check(where)
    return finish(records, classes, numbers, findings, "csv")


def _in_parts(rows):
    """Whether the corners of all boxes are parts of their images, 0..1, as Open Images writes them."""
    fractions = False
    for row in rows:
        try:
            corners = [float(row[key]) for key in ("y1", "x1", "y2", "x2")]
        except ValueError:
            continue
        if not all(0 <= corner <= 1 for corner in corners):
            return False
        fractions |= any(corner % 1 for corner in corners)
    return fractions


def _of_boxes(rows):
    """Whether the columns width and height are those of the boxes, not of their images.

    They are if all boxes are as large as they say, and do not all lie in the corner.
    """
    inside = False
    for row in rows:
        try:
            y1, x1, y2, x2, height, width = (float(row[key]) for key in ("y1", "x1", "y2", "x2", "height", "width"))
        except (KeyError, ValueError):
            continue
        if max(abs(y2 - y1 - height), abs(x2 - x1 - width)) > 1:
            return False
        inside |= y1 + x1 > 2
    return inside


def _classes(place, tables, words):
    """({class in the rows: label}, names, numbers that the files use) of the classes in all rows.

    In the order of a list, if there is one with all of them: keras-retinanet's `class,number`, or, where the rows have
    numbers, one of names. Else numbers in their order, and names sorted.
    """
    files = [table.file for split in tables for table in tables[split]]
    folders = list(dict.fromkeys([place.root, *map(os.path.dirname, files)]))
    for file in (file for folder in folders for file in place.tree.files(folder, ".csv")):
        if label_of := _listed_labels(file, words):
            return label_of, sorted(label_of, key=label_of.get), range(len(label_of))
    numbers = {word: whole(word) for word in words}
    if None in numbers.values() or min(numbers.values()) < 0 or len(set(numbers.values())) < len(numbers):
        names = sorted(words)
        return {name: label for label, name in enumerate(names)}, names, range(len(names))
    for file in (os.path.join(folder, name) for folder in folders for name in ("_classes.txt", "classes.txt")):
        names = read_lines(file) if place.tree.has(file) else ()
        if max(numbers.values()) < len(names):
            return numbers, names, range(len(names))
    names = sorted(words, key=numbers.get)
    return {name: label for label, name in enumerate(names)}, names, [numbers[name] for name in names]


def _listed_labels(file, words):
    """{class: label} of keras-retinanet's list `class,number`, if a CSV file is one and has all of some classes."""
    try:
        rows = [row for row in csv.reader(head_text(file).splitlines()) if row]
    except csv.Error:
        return None
    numbers = {row[0].strip(): whole(row[1]) for row in rows if len(row) == 2}
    return numbers if words <= set(numbers) and set(numbers.values()) == set(range(len(rows))) else None


FORMAT = Format(
    find,
    "csv       <split>.csv or <split>/_annotations.csv with columns filename,class,xmin,ymin,xmax,ymax; or rows "
    "path,x1,y1,x2,y2,class; or <split>/_annotations.txt with lines `path x1,y1,x2,y2,class ...`",
)
