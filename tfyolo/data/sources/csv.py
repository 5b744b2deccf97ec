"""Boxes in a table: a row a box, corners x1, y1, x2, y2 in pixels of the image.

The columns are named in the first row, in any order: filename, class, xmin, ymin, xmax, ymax, or bbox_x, bbox_y,
bbox_width, bbox_height, and perhaps width and height; or they are keras-retinanet's, path, x1, y1, x2, y2, class,
without a first row of names. A row of a path alone is an image without objects.
"""

import csv
import functools
import io
import operator
import os

from tfyolo.data.sources.files import IMAGES, head_text, locate, read_text, some, stem_of
from tfyolo.data.sources.place import SPLITS, Candidate, Format, meaning
from tfyolo.data.sources.source import Annotation, DataError, Findings, finish, record, upright_size, whole, with_ids
from tfyolo.messages import counted, shortened

MOST_CSV = 1 << 30  # bytes
_COLUMNS = {
    "image": (
        "filename",
        "file_name",
        "image",
        "image_path",
        "path",
        "file",
        "img",
        "image_name",
        "image_id",
        "imageid",
    ),
    "class": ("class", "label", "class_name", "category", "name", "classname", "label_name", "labelname"),
    "x1": ("xmin", "x1", "x_min", "left", "bbox_x"),
    "y1": ("ymin", "y1", "y_min", "top", "bbox_y"),
    "x2": ("xmax", "x2", "x_max", "right"),
    "y2": ("ymax", "y2", "y_max", "bottom"),
    "w": ("bbox_width",),
    "h": ("bbox_height",),
    "height": ("height", "image_height", "img_height"),
    "width": ("width", "image_width", "img_width"),
}
_RETINANET = ("image", "x1", "y1", "x2", "y2", "class")


def find(place):
    """The Candidate of tables at a Place; None if there is none."""
    if place.globbed or (place.file and not place.file.lower().endswith(".csv")):
        return None
    tables = {
        split: found for split, files in _files(place).items() if (found := list(filter(None, map(_look, files))))
    }
    if not tables:
        if place.file:
            received = shortened(head_text(place.file))
            expected = "columns filename, class, xmin, ymin, xmax, ymax, or rows path,x1,y1,x2,y2,class"
            raise DataError(f"{place.file}: expected {expected}; received {received}")
        return None
    found = total = 0
    for split, members in tables.items():
        names = some([row["image"] for table in members for _, _, row in _rows(table, most=2000)])
        found, total = found + len(_located(place, split, names).files), total + len(set(names))
    parsed = functools.cache(lambda split: [row for table in tables[split] for row in _rows(table)])
    splits = {split: functools.partial(read, place, split, tables, parsed) for split in tables}
    count = sum(map(len, tables.values()))
    why = f"{counted(count, 'CSV file')} of boxes; {found} of {counted(total, 'image')} looked for are there"

    def images():
        return len({row["image"] for split in tables for *_, row in parsed(split)})

    return Candidate(splits, found / total if total else 0.0, why, images=images)


class _Table:
    """A CSV file of boxes. columns: {what: its place in a row}. first: the line that the rows begin at."""

    def __init__(self, file, delimiter, columns, first):
        self.file, self.delimiter, self.columns, self.first = file, delimiter, columns, first


def _files(place):
    """{split: CSV files}."""
    if place.file:
        return {_split_of(place.file): [place.file]}
    tree, files = place.tree, {}
    for folder in (place.root, *tree.folders(place.root)):
        name = os.path.basename(folder)
        named = name if folder != place.root and meaning(name) in SPLITS else None
        if folder == place.root or named or name.lower() in ("annotations", "data", "labels"):
            for file in tree.files(folder, ".csv"):
                files.setdefault(named or _split_of(file), []).append(file)
    return files


def _split_of(file):
    return stem_of(file) if meaning(stem_of(file)) in SPLITS else "all"


def _look(file):
    """The _Table of a file; None if it is none of boxes."""
    head = head_text(file).splitlines()
    if not head:
        return None
    delimiter = max(",;\t", key=head[0].count)
    try:
        rows = [row for row in csv.reader(head[:20], delimiter=delimiter) if row]
    except csv.Error:
        return None
    if not rows:
        return None
    names = [cell.strip().lower() for cell in rows[0]]
    columns = {
        what: next((names.index(word) for word in words if word in names), None) for what, words in _COLUMNS.items()
    }
    sides = {"x2": "w", "y2": "h"}  # which stand for the far corner
    if all(columns[what] is not None or columns.get(sides.get(what)) is not None for what in _RETINANET):
        return _Table(file, delimiter, {what: place for what, place in columns.items() if place is not None}, 1)
    plain = [row for row in rows if any(cell.strip() for cell in row[1:])] or rows
    fits = all(
        len(row) == 6 and row[0].strip().lower().endswith(IMAGES) and all(map(_is_number, row[1:5])) for row in plain
    )
    if fits and any(cell.strip() for cell in plain[0][1:]):
        return _Table(file, delimiter, {what: place for place, what in enumerate(_RETINANET)}, 0)
    return None


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(table, most=None):
    """(file, line, {what: text}) of each row."""
    try:
        text = read_text(table.file, MOST_CSV) if most is None else head_text(table.file)
        reader = csv.reader(io.StringIO(text.replace("\0", "")), delimiter=table.delimiter)
        for row in reader:
            if reader.line_num <= table.first or not any(cell.strip() for cell in row):
                continue
            cells = {what: row[place].strip() if place < len(row) else "" for what, place in table.columns.items()}
            for near, side, far in (("x1", "w", "x2"), ("y1", "h", "y2")):
                if far not in cells:
                    ends = cells[near], cells[side]
                    cells[far] = str(sum(map(float, ends))) if all(map(_is_number, ends)) else cells[side]
            yield table.file, reader.line_num, cells
            if most is not None and reader.line_num >= most:
                return
    except csv.Error as error:
        raise DataError(f"{table.file}: not a CSV file: {error}") from None


def _located(place, split, names):
    trees = [tree for tree in (place.images, place.tree) if tree]
    own = meaning(split) if meaning(split) in ("train", "val", "test") else None

    def accepts(path):
        other = place.split_of(path)
        return not (own and other) or meaning(other) == own

    return locate(names, [functools.partial(tree.index, tree.root) for tree in trees], accepts)


def read(place, split, tables, parsed):
    """The Source of the tables of a split.

    Classes are the sorted names in all tables, so that splits agree; or in the order of a list.
    """
    findings, where = Findings(), tables[split][0].file
    names = {row["class"] for other in tables for *_, row in parsed(other) if row["class"]}
    classes = _ordered(place, names)
    if not classes:
        raise DataError(f"{where}: not one row with a class")
    label_of = {name: label for label, name in enumerate(classes)}
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
    located = _located(place, split, boxes_of)
    if boxes_of and not located.files:
        first = shortened(next(iter(boxes_of)))[1:-1]
        raise DataError(f"{where}: its images (such as {first}) are not there. Say where: data.images=FOLDER")
    if located.word:
        findings.warning(where, located.word)
    records = []
    for name, boxes in boxes_of.items():
        if (image := located.files.get(name)) is None:
            message = f"image missing: it {located.missing[name]}; {where} has {counted(len(boxes), 'box')} for it"
            findings.error(os.path.join(place.root, name), message)
        elif size := upright_size(sizes[name], image, findings):
            if in_parts:
                scale = (*size, *size)
                boxes = [box._replace(box=tuple(map(operator.mul, box.box, scale))) for box in boxes]
            records.append(record(None, image, size, boxes, where, findings))
    return finish(with_ids(records), classes, range(len(classes)), findings, "csv")


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


def _ordered(place, names):
    """The classes in the order of keras-retinanet's list `class,number`, if there is one with all of them; else sorted."""
    folder = os.path.dirname(place.file) if place.file else place.root
    for file in place.tree.files(folder, ".csv"):
        try:
            rows = [row for row in csv.reader(head_text(file).splitlines()) if row]
        except csv.Error:
            continue
        numbers = {row[0].strip(): whole(row[1]) for row in rows if len(row) == 2}
        if names <= set(numbers) and set(numbers.values()) == set(range(len(rows))):
            return sorted(numbers, key=numbers.get)
    return sorted(names)


FORMAT = Format(
    find,
    "csv       <split>.csv or <split>/_annotations.csv with columns filename,class,xmin,ymin,xmax,ymax; or rows "
    "path,x1,y1,x2,y2,class",
)
