"""Tables of boxes as text: which column is what, and each row as {what: text} with the corners x1, y1, x2, y2.

A first row names the columns, in any order. A box is its corners; one corner, or the centre, and the sides; or four
numbers in one cell `bbox`, [x, y, width, height] as COCO writes them. Without such a row the columns are those of one
of the orders in _ORDERS. A text of lines `path x1,y1,x2,y2,class x1,y1,x2,y2,class ...` is a table, too.
"""

import csv
import io
import re
from typing import NamedTuple

from tfyolo.data.sources.index import IMAGES
from tfyolo.data.sources.source import DataError
from tfyolo.data.sources.text import head_text, read_text

EXPECTED = "columns filename, class, xmin, ymin, xmax, ymax, or rows path,x1,y1,x2,y2,class"
MOST_CSV = 1 << 30  # bytes
# What columns are called, in small letters and without what stands between them: Image_Path is imagepath. A column is
# one thing only, the first that it may be.
_COLUMNS = {
    "image": (
        *("filename", "image", "imagepath", "path", "file", "filepath", "img", "imgpath", "imagename", "imgname"),
        *("imagefile", "imageid", "imgid"),
    ),
    "class": (
        *("class", "label", "classname", "category", "categoryname", "name", "labelname", "species"),
        *("classid", "labelid", "categoryid"),
    ),
    "x1": ("xmin", "x0", "x1", "left", "bboxx", "bboxxmin", "bboxx1", "x"),
    "y1": ("ymin", "y0", "y1", "top", "bboxy", "bboxymin", "bboxy1", "y"),
    "x2": ("xmax", "x2", "right", "bboxxmax", "bboxx2", "x1"),
    "y2": ("ymax", "y2", "bottom", "bboxymax", "bboxy2", "y1"),
    "cx": ("xcenter", "xcentre", "centerx", "centrex", "cx", "xc", "bboxxcenter", "bboxcenterx"),
    "cy": ("ycenter", "ycentre", "centery", "centrey", "cy", "yc", "bboxycenter", "bboxcentery"),
    "w": ("bboxwidth", "bboxw", "boxwidth", "w"),
    "h": ("bboxheight", "bboxh", "boxheight", "h"),
    "width": ("imagewidth", "imgwidth", "width"),
    "height": ("imageheight", "imgheight", "height"),
    "bbox": ("bbox",),
    "split": ("split", "subset", "set", "partition", "usage"),
}
# What the columns are where nothing names them: keras-retinanet's rows, the same with the class before the box,
# Roboflow's without their first row, Google AutoML's (its other cells are the corners x2, y1 and x1, y2).
_ORDERS = (
    ("image", "x1", "y1", "x2", "y2", "class"),
    ("image", "class", "x1", "y1", "x2", "y2"),
    ("image", "width", "height", "class", "x1", "y1", "x2", "y2"),
    ("split", "image", "class", "x1", "y1", None, None, "x2", "y2", None, None),
)
_NUMBERS = {"x1", "y1", "x2", "y2", "width", "height"}
_AXES = (("x1", "cx", "w", "x2"), ("y1", "cy", "h", "y2"))
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{3}},\d+")


class Table(NamedTuple):
    """A file of boxes, or the rows of it that name a split.

    Attributes:
        file: its path.
        delimiter: between cells; "" for lines `path x1,y1,x2,y2,class ...`.
        columns: {what: its place in a row}.
        first: the line that the rows begin at, from 0.
        split: what the rows of it say in the column of splits; None: all rows.
    """

    file: str
    delimiter: str
    columns: dict[str, int]
    first: int
    split: str | None = None

    @property
    def has_sides(self):
        """Whether boxes are written as a corner and sides."""
        return "cx" not in self.columns and bool({"w", "bbox"} & self.columns.keys())


def read_table(file) -> Table | None:
    """The Table of a file; None if it is none of boxes."""
    head = head_text(file).splitlines()
    if not head:
        return None
    if file.lower().endswith(".txt"):
        lines = [_path_and_boxes(line) for line in head[:20] if line.strip()]
        fits = all(path.lower().endswith(IMAGES) for path, _ in lines) and any(boxes for _, boxes in lines)
        return Table(file, "", {what: place for place, what in enumerate(_ORDERS[0])}, 0) if fits else None
    delimiter = max(",;\t", key=head[0].count)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(head[:20], delimiter=delimiter) if row]
    except csv.Error:
        return None
    if not rows:
        return None
    columns = _named(rows[0])
    if columns:
        return Table(file, delimiter, columns, 1)
    for order in _ORDERS:
        if _in_order(rows, order):
            return Table(file, delimiter, {what: place for place, what in enumerate(order) if what}, 0)
    return None


def _named(names):
    """{what: its place} of columns with such names; None if they do not say where an image and its box are."""
    plain = [re.sub(r"[\W_]+", "", name.lower()) for name in names]
    columns = {}
    for what, words in _COLUMNS.items():
        places = [plain.index(word) for word in words if word in plain]
        place = next((place for place in places if place not in columns.values()), None)
        if place is not None:
            columns[what] = place
    for (near, centre, side, far), length in zip(_AXES, ("width", "height"), strict=True):
        corner = near in columns or centre in columns
        if corner and far not in columns and side not in columns and length in plain:  # of the box, then
            columns[side] = plain.index(length)
            if columns.get(length) == columns[side]:
                del columns[length]
    boxed = "bbox" in columns or all(
        (near in columns and (far in columns or side in columns)) or (centre in columns and side in columns)
        for near, centre, side, far in _AXES
    )
    return columns if boxed and "image" in columns else None


def _in_order(rows, order):
    """Whether rows without names are of an order. Those of a path alone are images without objects."""
    place = order.index("image")
    full = 0
    for row in rows:
        if len(row) != len(order) or not row[place].lower().endswith(IMAGES):
            return False
        cells = dict(zip(order, row, strict=True))
        if any(cell for what, cell in cells.items() if what not in ("image", "split", None)):
            full += 1
            if not all(is_number(cells[what]) for what in _NUMBERS & cells.keys()):
                return False
    return full > 0


def is_number(text) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def rows_of(table, most=None):
    """(file, line, {what: text}) of each box, or image without one, of a Table.

    All boxes of a table without a column of classes are of class 0.

    Args:
        table: the Table.
        most: only from about so many lines, which the first bytes of the file hold.

    Raises:
        DataError: it cannot be read.
    """
    text = read_text(table.file, MOST_CSV) if most is None else head_text(table.file)
    lines = io.StringIO(text.replace("\0", ""), newline=None)  # also those that end in CR alone
    for line, cells in _cells(table, lines):
        if table.split is None or cells["split"] == table.split:
            yield table.file, line, cells
        if most is not None and line >= most:
            return


def _cells(table, lines):
    """(line, {what: text}) of each row."""
    if not table.delimiter:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                path, boxes = _path_and_boxes(line)
                for box in boxes or [",,,,"]:
                    yield number, dict(zip(_ORDERS[0], (path, *box.split(",")), strict=True))
        return
    reader = csv.reader(lines, delimiter=table.delimiter)
    try:
        for row in reader:
            if reader.line_num <= table.first or not any(cell.strip() for cell in row):
                continue
            cells = {what: row[place].strip() if place < len(row) else "" for what, place in table.columns.items()}
            cells = _with_corners(cells)
            if "class" not in cells:
                cells["class"] = "0" if any(cells[key] for key in ("x1", "y1", "x2", "y2")) else ""
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{table.file}: not a CSV file: {error}") from None


def _path_and_boxes(line):
    """(path, boxes as text) of a line of Roboflow's _annotations.txt for YOLOv4, and of ports of YOLOv3 to Keras."""
    words, count = line.split(), 0
    while count < len(words) - 1 and _BOX.fullmatch(words[-1 - count]):
        count += 1
    return (line.strip().rsplit(maxsplit=count)[0] if count else line.strip()), words[len(words) - count :]


def _with_corners(cells):
    """A row's cells with x1, y1, x2, y2; where these are written otherwise and cannot be made, what is written."""
    if "bbox" in cells and not {"x1", "x2", "cx"} & cells.keys():
        numbers = re.findall(_NUMBER, cells["bbox"])
        numbers = numbers if len(numbers) == 4 else [cells["bbox"] if numbers else ""] * 4
        cells |= dict(zip(("x1", "y1", "w", "h"), numbers, strict=True))
    for near, centre, side, far in _AXES:
        if far in cells:
            continue
        start = cells.get(near, cells.get(centre, ""))
        numbers = [float(text) for text in (start, cells[side]) if is_number(text)]
        if len(numbers) < 2:
            cells[near] = cells[far] = start or cells[side]
            continue
        from_, length = numbers
        from_ -= 0 if near in cells else length / 2
        cells |= {near: str(from_), far: str(from_ + length)}
    return cells
