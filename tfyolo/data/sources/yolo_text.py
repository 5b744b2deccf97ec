"""The label files of YOLO's data: which one is an image's, and what its rows mean."""

import functools
import os

from tfyolo.data.sources.files import leads_outside, stem_of
from tfyolo.data.sources.index import IMAGES
from tfyolo.data.sources.source import DataError
from tfyolo.data.sources.text import read_text
from tfyolo.files import normal
from tfyolo.messages import shortened

IMAGE_FOLDERS = ("images", "imgs", "img", "image", "jpegimages")


class Pairs:
    """Finds the text of an image: under labels/ in place of images/, beside it, or in another folder of labels."""

    def __init__(self, place):
        self.place, self.folders, self._listed, self._texts = place, {}, {}, None

    def of(self, image, listed=None):
        """The label file of an image, or None.

        Args:
            image: its path.
            listed: what a list calls it: its text may be there, and the image elsewhere.
        """
        folder, name = os.path.split(image)
        texts = self._names(self.folder(folder))
        if text := texts.get(stem_of(name)):
            return os.path.join(self.folder(folder), text)
        if listed or self.place.images:
            if self._texts is None:
                self._texts = self.place.tree.index(suffixes=(".txt",))
            hit = self._texts.find(f"{os.path.splitext(listed or self._relative(image))[0]}.txt")
            return hit.path if hit and not hit.others else None
        return None

    def folder(self, images):
        """Where the texts of a folder's images are: of the likely folders the first that has most of them."""
        if images not in self.folders:
            stems = {stem_of(file) for file in self._tree(images).files(images, IMAGES)}
            likely = [*map(self.place.tree.spelled, self._likely(images))]
            counts = [len(stems & self._names(folder).keys()) for folder in likely]
            self.folders[images] = likely[counts.index(max(counts))]
        return self.folders[images]

    def _likely(self, images):
        parts = images.split(os.sep)
        likely = []
        for at in reversed(range(len(parts))):
            if parts[at].lower() in IMAGE_FOLDERS:
                likely.append(os.sep.join((*parts[:at], "labels", *parts[at + 1 :])))
                break
        below = self._relative(images).split("/")
        below = below[1:] if below[0].lower() in IMAGE_FOLDERS else below
        root = self.place.root
        labels = [normal(os.path.join(root, "labels", *below)), os.path.join(root, "labels")]
        if self.place.images:
            labels += [normal(os.path.join(root, *below)), root]
        return [
            *likely,
            images,
            os.path.join(images, "labels"),
            os.path.join(os.path.dirname(images), "labels"),
            *labels,
        ]

    def _relative(self, path):
        tree = self._tree(path)
        relative = os.path.relpath(path, tree.root).replace(os.sep, "/")
        return "" if relative == "." else relative

    def _tree(self, path):
        given = self.place.images
        return given if given and not leads_outside(path, given.root) else self.place.tree

    def _names(self, folder):
        """{stem: name} of a folder's texts."""
        if folder not in self._listed:
            names = self.place.tree.list(folder)[1]
            self._listed[folder] = {stem_of(name): name for name in names if name.lower().endswith(".txt")}
        return self._listed[folder]


def read_rows(file, findings):
    """[(line, class, [numbers])] of a text file, None if it cannot be read; a Problem for each line that is none."""
    rows, seen = [], set()
    try:
        text = read_text(file)
    except DataError as error:
        findings.error(file, str(error).removeprefix(f"{file}: "))
        return None
    for line, content in enumerate(text.splitlines(), start=1):
        words = content.split()
        if not words:
            continue
        if "," in content and not any(len(piece.split()) != 1 for piece in content.split(",")):
            words = [piece.strip() for piece in content.split(",")]
            findings.tally(file, "a row's numbers stand between commas, expected spaces; read all the same")
        key = tuple(words)
        if key in seen:
            findings.warning(file, f"line {line}: the same box again; left out")
            continue
        seen.add(key)
        try:
            number, (*values,) = float(words[0]), map(float, words[1:])
            if number < 0 or number != int(number) or len(values) < 4:
                raise ValueError
        except (ValueError, OverflowError):
            findings.error(file, f"line {line}: expected `class cx cy w h`, received {shortened(content)}; left out")
            continue
        rows.append((line, int(number), values))
    return rows


def row_format(rows_of, points):
    """What the numbers of a split's rows mean.

    The length of a row alone does not say it: an outline of five points is as long as a box with three key points of
    two numbers.

    Args:
        rows_of: the rows of each label file, as read_rows returns them.
        points: (key points a box, numbers a point) that the data .yaml announces, or None.

    Returns:
        (a function from a row's numbers to x1, y1, x2, y2 in 0..1, or to None; the row that is expected; a note or
        None).
    """
    lengths = {len(values) for rows in rows_of for *_, values in rows} - {4}
    if points:
        expected = 4 + points[0] * points[1]
        return (
            functools.partial(_xyxy_of_box, {expected, 4}),
            f"class, box and {points[0]} key points of {points[1]} numbers",
            None,
        )
    if len(lengths) == 1:
        (length,) = lengths
        rows = [values for each in rows_of for *_, values in each if len(values) == length]
        alone = all(len(values) == length for each in rows_of for *_, values in each)
        for size in (3, 2):
            if alone and length > 4 and (length - 4) % size == 0 and _are_points(rows, size):
                note = (
                    f"rows of {length + 1} numbers are taken for class, box and {(length - 4) // size} key "
                    "points, as they fit it"
                )
                return functools.partial(_xyxy_of_box, {length, 4}), "class, box and key points", note
    if rows_of and all(len(values) == 5 and 0 <= values[4] <= 1 for rows in rows_of for *_, values in rows):
        note = (
            "all rows are of 6 numbers, of which the last is taken for a confidence, as predictions have it, and "
            "left out"
        )
        return lambda values: _xyxy_of_box({5}, values), "class cx cy w h confidence", note
    return _xyxy_of_row, "class cx cy w h", None


def _are_points(rows, size):
    """Whether all rows are boxes with key points: by flags of 0, 1 or 2, or by points that fill their boxes."""
    spreads = []
    for values in rows:
        (cx, cy, w, h), rest = values[:4], values[4:]
        points = list(zip(rest[::size], rest[1::size], strict=True))
        if size == 3:
            if not all(flag in (0, 1, 2) for flag in rest[2::3]) or not any(rest[2::3]):
                return False
            continue
        points = [point for point in points if point != (0, 0)]
        inside = all(abs(x - cx) <= 0.52 * w and abs(y - cy) <= 0.52 * h for x, y in points)
        if not (points and inside and max(cx + w / 2, cy + h / 2) <= 1.01 and min(cx - w / 2, cy - h / 2) >= -0.01):
            return False
        xs, ys = zip(*points, strict=True)
        spreads.append(min((max(xs) - min(xs)) / w, (max(ys) - min(ys)) / h))
    return size == 3 or (len(rows) >= 3 and sum(spreads) / len(rows) > 0.4)


def _xyxy_of_box(lengths, values):
    """x1, y1, x2, y2 of a row that begins with a box; None if it has another length."""
    if len(values) not in lengths:
        return None
    x, y, w, h = values[:4]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _xyxy_of_row(values):
    """x1, y1, x2, y2 of a box, or round an outline of three points or more; None if the row is neither."""
    if len(values) == 4:
        return _xyxy_of_box({4}, values)
    if len(values) < 6 or len(values) % 2:
        return None
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
