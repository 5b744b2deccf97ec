"""labelme's JSON, one an image: shapes of points in pixels.

A rectangle is a box; polygons and circles are taken for the box round them.
"""

import functools
import math

from tfyolo.data.sources.files import some
from tfyolo.data.sources.place import Candidate, Companions, Format
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.source import Annotation, DataError, Findings, finish, record, upright_size
from tfyolo.data.sources.text import read_json, starts
from tfyolo.messages import counted, shortened

_SHAPES = ("rectangle", "polygon", "circle", "rotation")


def find(place):
    """The Candidate of labelme's JSON at a Place; None if there is none."""
    if place.file or place.globbed:
        return None
    files = [file for folder in place.tree.walk() for file in place.tree.files(folder, ".json")]
    sample = some(files)
    likely = [file for file in sample if b'"shapes"' in starts(file) or b'"imagePath"' in starts(file)]
    if len(likely) <= len(sample) / 2:
        return None
    parsed = functools.cache(_parse)  # a JSON serves all splits: each needs the classes of all
    by_split = {}
    for file in files:
        by_split.setdefault(place.split_of(file) or "all", []).append(file)
    images = Companions(place)
    sound = [(file, content) for file in likely if isinstance(content := parsed(file), dict)]
    score = sum(images.of(file, _image_name(content))[0] is not None for file, content in sound) / len(sample)
    splits = {split: functools.partial(read, images, files, members, parsed) for split, members in by_split.items()}
    why = f"{counted(len(files), 'JSON file')}, {len(likely)} of {len(sample)} with shapes"
    return Candidate(splits, score, why, images=lambda: len(files))


def _parse(file):
    """What a JSON holds, without the image that it may hold; or, not raised, the error of one that cannot be read."""
    try:
        content = read_json(file)
    except DataError as error:
        return error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return DataError(f"{file}: expected labelme's `shapes`, received {shortened(content)}")
    embedded = isinstance(content.pop("imageData", None), str)
    return {**content, "embedded": embedded}


def _image_name(content):
    return content["imagePath"] if isinstance(content.get("imagePath"), str) else ""


def read(images, files, members, parsed):
    """The Source of some JSON files. Classes are the sorted labels in all of them, so that all splits agree."""
    findings = Findings()
    contents = {file: content for file in files if isinstance(content := parsed(file), dict)}
    labels = {_label(shape) for content in contents.values() for shape in content["shapes"]} - {None}
    if not labels:
        raise DataError(f"{images.place.path}: not one shape with a label in {counted(len(files), 'JSON file')}")
    classes = sorted(labels)
    label_of = {name: label for label, name in enumerate(classes)}
    records = RecordsBuilder()
    for file in members:
        content = parsed(file)
        if isinstance(content, DataError):
            findings.error(file, f"{str(content).removeprefix(f'{file}: ')}; left out")
            continue
        image, word = images.of(file, _image_name(content))
        if image is None:
            where = ": it is only inside the JSON, as imageData; write it to a file" if content["embedded"] else ""
            findings.error(file, f"label without image{where}; left out")
            continue
        if word:
            findings.warning(file, word)
        if not (size := upright_size((content.get("imageHeight"), content.get("imageWidth")), image, findings)):
            continue
        annotations = []
        for place, shape in enumerate(content["shapes"]):
            where = f"shapes[{place}]"
            kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else None
            if kind is not None and kind not in _SHAPES:
                findings.tally(file, f"a shape is {shortened(kind)}, which has no box; left out")
                continue
            box = _box(shape, kind)
            if box is None or _label(shape) is None:
                findings.error(file, f"{where}: expected `label` and `points` [[x, y], ...]; left out")
                continue
            annotations.append(Annotation(f"{where} ({shortened(_label(shape))[1:-1]})", box, label_of[_label(shape)]))
        records.append(record(None, image, size, annotations, file, findings))
    return finish(records, classes, range(len(classes)), findings, "labelme")


def _label(shape):
    label = shape.get("label") if isinstance(shape, dict) else None
    return label if isinstance(label, str) and label else None


def _box(shape, kind):
    """(y1, x1, y2, x2) round a shape's points; None if they are none."""
    try:
        points_xy = [(float(x), float(y)) for x, y in shape["points"]]
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    if len(points_xy) < (2 if kind in ("rectangle", "circle") else 3):
        return None
    xs, ys = zip(*points_xy, strict=True)
    if kind == "circle":  # its centre, and a point on it
        radius = math.dist(*points_xy[:2])
        return ys[0] - radius, xs[0] - radius, ys[0] + radius, xs[0] + radius
    return min(ys), min(xs), max(ys), max(xs)


FORMAT = Format(find, "labelme   a .json of labelme's beside each image, in one folder or in <split>/")
