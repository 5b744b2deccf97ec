"""Data sets from files: a folder is recognised for what it is (LAYOUTS), and everything wrong in it is named.

A fault in a whole file is a DataError. A fault in one picture or box is a Problem, and the good rest is read: boxes
without area and lines that cannot be parsed are left out, boxes partly outside their picture are clipped to it.

A split is found by its name, or by what its name says: "train" also finds train2017, "val" finds valid. Pictures are
not opened, except for the headers of those whose size is not written in the annotations.
"""

import functools
import glob
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from tfyolo.data import records
from tfyolo.messages import counted

LAYOUTS = {
    "coco": "annotations/instances_<split>.json with <split>/ or images/; <split>/_annotations.coco.json; or one .json",
    "voc": "Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt; or <split>/*.xml beside their pictures",
    "yolo": "a data .yaml; images/<split>/ and labels/<split>/; <split>/images/ and <split>/labels/; or undivided",
    "tfrecord": "<split>-00000-of-00004.tfrecord; also files of the TensorFlow Object Detection API",
}
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
TOLERANCE = 1.0  # pixels a box may reach over the picture's edge before it is worth a word: 0-based VOC files, rounding


class DataError(ValueError):
    """A data set cannot be read. The message says what was looked for, what was found, and what to do."""


class SplitError(DataError):
    """A data set has no such split, or several that the name may mean. The message ends in the splits that it has."""


class Record(NamedTuple):
    """One picture and what is known about it.

    image_id: int | str, as in the annotations. path: the file that holds the picture.
    boxes: [M, 4] float32, pixels of the picture seen upright, clipped to it. labels: [M] int32.
    crowd: [M] bool, COCO's crowds: one box round many objects. difficult: [M] bool, VOC's difficult objects; False where none is. Neither
    is learned, nor are candidates inside told that they hold nothing; evaluation.match says how a detection of one is counted.
    areas: [M] float32 pixels, by which COCO's metrics sort small, medium and large: the file's `area`, else the box's.
    size: (H, W) as the annotations state it, else that of the file. span: (offset, length) of the picture inside
    `path`, or None if it is all of it.
    """

    image_id: Any
    path: str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    size: tuple[int, int]
    span: tuple[int, int] | None = None
    difficult: Any = False

    @property
    def ignored(self):
        """[M] bool: the boxes that are neither learned nor counted."""
        return self.crowd | self.difficult


class Problem(NamedTuple):
    """Something wrong in the data: in which file, what, and "error" (something was left out) or "warning"."""

    file: str
    message: str
    severity: str = "error"


class Source(NamedTuple):
    """One split of a data set.

    category_ids: the numbers that the files use, one per label. same_as: the split before it whose very pictures a YOLO
    data .yaml names for this one too, as coco128's does; else "".
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    name: str
    split: str
    format: str
    same_as: str = ""


def read(
    path: str | os.PathLike,
    split: str = "train",
    *,
    images: str | os.PathLike | None = None,
    format: str | None = None,
) -> Source:
    """One split of the data set at `path`, a folder, a file or a glob of .tfrecord files.

    images: the folder of the pictures, if the annotations do not lead there. format: a key of READERS, if it is not
    recognised. Raises DataError; SplitError without such a split: none ever serves in place of another.
    """
    format, found = _recognise(path, images, format)
    problems = []
    if split in found:
        name = split
    else:
        names = [name for name in found if _meaning(name) == _meaning(split)]
        if len(names) != 1:
            wrong = "is ambiguous in" if names else "does not exist in"
            raise SplitError(
                f"{path}: the split {split!r} {wrong} this {format} data; its splits are {', '.join(found)}"
            )
        (name,) = names
    source = found[name]()
    problems.extend(source.problems)
    for called, count in Counter(source.classes).items():
        if count > 1:
            problems.append(Problem(os.fspath(path), f"{count} classes are called {called!r}", "warning"))
    problems += [Problem(os.fspath(path), message, "warning") for message in alike(source.classes)]
    if not source.records:
        first = "".join(f"\n  {problem.file}: {problem.message}" for problem in problems[:5])
        raise DataError(
            f"{path}: not one picture in the split {name!r}, of {counted(len(problems), 'problem')} the first:{first}"
        )
    return source._replace(problems=tuple(problems), split=split, format=format, name=Path(path).resolve().name)


def read_configured(data, use, place="data") -> Source:
    """The split of a config's Data that is for one use, "train" or "val". place: where the Data stand in the config."""
    try:
        return read(data.path, getattr(data, use), images=data.images, format=data.format)
    except SplitError as error:
        hint = f"Name one of them: {place}.{use}=..."
        if use == "val":
            hint += f"; {place}.val={data.train} judges on the very pictures that are learned from, if that is meant"
        raise SplitError(f"{error}. {hint}") from None


def alike(classes):
    """What to say of classes whose names differ only in case, spaces, hyphens or underscores: a line for each such name."""
    groups = {}
    for name in dict.fromkeys(classes):
        groups.setdefault(" ".join(re.split(r"[\s_-]+", name.casefold().strip())), []).append(name)
    for names in groups.values():
        if len(names) > 1:
            listed = " and ".join(map(repr, names))
            yield f"the classes {listed} differ only in case, spaces or hyphens: one class, most likely, that is learned as {len(names)}"


def without_unions(sources):
    """{split: Source} without those that only join others, as VOC's trainval does."""
    kept = dict(sources)
    for joined in [name for name in sources if name.startswith("trainval")]:
        others = {(r.path, r.span) for name, source in kept.items() if name != joined for r in source.records}
        if all((record.path, record.span) in others for record in kept[joined].records):
            del kept[joined]
    return kept


def faults(source, purpose) -> str | None:
    """What was left out of a Source, in the few lines that its user should see; None if nothing was. purpose: "training"."""
    errors = [problem for problem in source.problems if problem.severity == "error"]
    if not errors:
        return None
    shown = "".join(f"\n  {problem.file}: {problem.message}" for problem in errors[:5])
    more = f"\n  and {len(errors) - 5} more; tfyolo check-data names them all" if len(errors) > 5 else ""
    said = f"{counted(len(errors), 'fault')} in the data, left out of {purpose}"
    return f"{source.name} {source.split}: {said}:{shown}{more}"


def splits(path, *, images=None, format=None) -> tuple[str, ...]:
    """The names of the splits at `path`; ("all",) where the data are not divided. Raises DataError like `read`."""
    return tuple(_recognise(path, images, format)[1])


def _recognise(path, images, format):
    """(format, {split: function without arguments that reads it})."""
    path = Path(path)
    if format is not None and format not in READERS:
        raise DataError(f"data.format: expected one of {', '.join(READERS)}, received {format!r}")
    if images is not None and not Path(images).is_dir():
        raise DataError(f"data.images: expected a folder of pictures, received {images}, which is not there")
    if not path.exists() and not glob.glob(os.fspath(path)):
        raise DataError(f"{path}: no such file or folder; expected a data set ({', '.join(READERS)})")
    formats = (format,) if format else tuple(READERS)
    for name in formats:
        if found := READERS[name](path, images and Path(images)):
            return name, dict(sorted(found.items(), key=lambda item: (_ORDER.get(_meaning(item[0]), 9), item[0])))
    below = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    inside = [child for child in below if any(READERS[name](child, None) for name in formats)]
    holds = sorted(child.name for child in path.iterdir())[:8] if path.is_dir() else []
    hint = f"; it holds {', '.join(holds) or 'nothing'}" if path.is_dir() else ""
    raise DataError(
        f"{path}: not recognised as {' or '.join(formats)}{f'; did you mean {inside[0]}?' if inside else hint}"
        + "\nLooked for:"
        + "".join(f"\n  {name:<8}  {layout}" for name, layout in LAYOUTS.items() if name in formats)
    )


_SPLITS = ("train", "val", "test", "trainval")
_ORDER = {split: place for place, split in enumerate(_SPLITS)}
_MEANINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def _meaning(name):
    """train of train2017, coco_train and instances_train2017; val of valid; else the name itself."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", name.lower())]
    words = [_MEANINGS.get(word, word) for word in words]
    return next((word for word in words if word in _SPLITS), name)


# --- what all formats share -------------------------------------------------------------------------------------------


class _Object(NamedTuple):
    """A box as it was written: (y1, x1, y2, x2) in pixels of the picture, not yet checked."""

    where: str  # "line 3"
    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    area: float | None = None
    difficult: bool = False


def _record(image_id, picture, size, objects, file, problems, span=None):
    """The Record of the objects that are sound; a Problem of `file` for each that is not."""
    height, width = size
    kept = []
    for thing in objects:
        y1, x1, y2, x2 = thing.box
        box = max(y1, 0.0), max(x1, 0.0), min(y2, float(height)), min(x2, float(width))
        wrong, severity = None, "error"
        if not all(map(math.isfinite, thing.box)):
            wrong = "is not finite; left out"
        elif y2 <= y1 or x2 <= x1:
            wrong = "has no area; left out"
        elif box[2] <= box[0] or box[3] <= box[1]:
            wrong = f"lies outside its picture of {height} x {width}; left out"
        elif max(box[0] - y1, box[1] - x1, y2 - box[2], x2 - box[3]) > TOLERANCE:
            wrong, severity = f"reaches over the edge of its picture of {height} x {width}; clipped", "warning"
        if wrong:
            shown = f"{thing.where}: the box y {y1:g}..{y2:g}, x {x1:g}..{x2:g}"
            problems.append(Problem(file, f"{shown} {wrong}", severity))
        if not wrong or severity == "warning":
            area = thing.area if thing.area is not None else (box[2] - box[0]) * (box[3] - box[1])
            kept.append((box, thing.label, thing.crowd, area, thing.difficult))
    boxes, labels, crowd, areas, difficult = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    return Record(
        image_id,
        os.fspath(picture),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int32),
        np.array(crowd, bool),
        np.array(areas, np.float32),
        (height, width),
        span,
        np.array(difficult, bool),
    )


def picture_size(file) -> tuple[int, int]:
    """(H, W) of a picture as seen upright, from its header alone; `file` is a path or a binary file. Raises OSError."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(0x0112, 1) >= 5 else (height, width)
    except Image.UnidentifiedImageError:
        raise OSError("not a picture, or one whose header is damaged") from None
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from None


def _size(stated, picture, problems):
    """The (H, W) stated if it makes sense, else that of the picture's header; None, and a Problem, without either."""
    if all(isinstance(side, int) and side > 0 for side in stated):
        return tuple(stated)
    try:
        return picture_size(picture)
    except OSError as error:
        problems.append(Problem(os.fspath(picture), f"cannot be read: {error}; left out"))
        return None


def _text(file):
    """A text file's content. Raises DataError."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file}: expected text in UTF-8") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{file}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    return text


def _pictures(folder):
    """{path without its suffix, relative to folder: picture} of all pictures in and below a folder."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in PICTURES:
                picture = Path(root, name)
                found.setdefault(picture.relative_to(folder).with_name(stem).as_posix(), picture)
    return found


def _each_once(names, file, problems):
    """The names without repetitions, each of which is a Problem."""
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            problems.append(Problem(file, f"{name} is listed {count} times; read once", "warning"))
    return list(counts)


# --- COCO JSON --------------------------------------------------------------------------------------------------------


def coco(images, annotations) -> Source:
    """COCO's JSON (Lin et al. 2014, arXiv:1405.0312): `images`, `annotations` and `categories`; boxes are x, y, w, h.

    images: folders to look for the pictures in; the first that has any of them is taken. annotations: the .json file.
    Labels follow the sorted category ids, which may have gaps.
    """
    annotations = os.fspath(annotations)
    try:
        content = json.loads(_text(annotations))
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(f"{annotations}: not valid JSON: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            f"{annotations}: expected lists `images`, `annotations` and `categories`, received {keys or 'none'}"
        )

    problems, entries, names = [], {}, {}
    for kind, needed, table in (("images", "file_name", entries), ("categories", "name", names)):
        for place, entry in enumerate(content[kind]):
            given = entry if isinstance(entry, dict) else {}
            if not isinstance(given.get("id"), int | str) or not isinstance(given.get(needed), str):
                problems.append(Problem(annotations, f"{kind}[{place}]: expected `id` and `{needed}`; left out"))
            elif entry["id"] in table:
                problems.append(Problem(annotations, f"{kind}[{place}]: the id {entry['id']} is used twice; left out"))
            else:
                table[entry["id"]] = entry
    if not names:
        raise DataError(f"{annotations}: `categories` is empty: it names no class")
    category_ids = sorted(names, key=lambda number: (isinstance(number, str), number))
    label_of = {category: label for label, category in enumerate(category_ids)}

    objects = {image_id: [] for image_id in entries}
    seen = set()
    for place, entry in enumerate(content["annotations"]):
        number = entry.get("id") if isinstance(entry, dict) else None
        where = f"annotation {number}" if number is not None else f"annotations[{place}]"
        wrong = None
        try:
            x, y, w, h = map(float, entry["bbox"])
            area = float(entry.get("area") or math.nan)
            image_id, category, crowd = entry["image_id"], entry["category_id"], bool(entry.get("iscrowd", 0))
            if image_id not in objects:
                wrong = f"no picture has its image_id {image_id}"
            elif category not in label_of:
                wrong = f"unknown class: no category has its category_id {category}"
            elif number is not None and number in seen:
                wrong = "its id is used twice"
        except (TypeError, ValueError, KeyError, AttributeError):
            wrong = "expected `image_id`, `category_id` and `bbox` [x, y, width, height]"
        if wrong:
            problems.append(Problem(annotations, f"{where}: {wrong}; left out"))
            continue
        seen.add(number)
        area = area if math.isfinite(area) else None
        objects[image_id].append(_Object(where, (y, x, y + h, x + w), label_of[category], crowd, area))

    def there(folder):
        return any(os.path.isfile(os.path.join(folder, entry["file_name"])) for entry in list(entries.values())[:100])

    folder = next(filter(there, images), None)
    if folder is None and entries:
        looked = ", ".join(map(os.fspath, images))
        example = next(iter(entries.values()))["file_name"]
        raise DataError(
            f"{annotations}: its pictures (such as {example}) are not in {looked}. Say where: data.images=FOLDER"
        )
    result = []
    for image_id, entry in entries.items():
        picture = os.path.join(folder, entry["file_name"])
        if not os.path.isfile(picture):
            problems.append(
                Problem(picture, f"picture missing; {annotations} has {counted(len(objects[image_id]), 'box')} for it")
            )
        elif size := _size((entry.get("height"), entry.get("width")), picture, problems):
            result.append(_record(image_id, picture, size, objects[image_id], annotations, problems))
    classes = tuple(names[category]["name"] for category in category_ids)
    return Source(tuple(result), classes, tuple(category_ids), tuple(problems), "", "", "coco")


_NOT_BOXES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")


def _find_coco(path, images):
    if path.is_file():
        files = {path.stem.removeprefix("instances_"): path} if path.suffix == ".json" else {}
        if path.name == "_annotations.coco.json":
            files = {path.parent.name: path}
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
    else:
        root = path
        files = {file.parent.name: file for file in sorted(path.glob("*/_annotations.coco.json"))}
        if (path / "_annotations.coco.json").is_file():
            files["all"] = path / "_annotations.coco.json"
        loose = sorted(path.glob("annotations/*.json")) or sorted(path.glob("*.json"))
        loose = [file for file in loose if not file.name.startswith((*_NOT_BOXES, "_"))]
        named = [file for file in loose if file.name.startswith("instances_")]
        files |= {file.stem.removeprefix("instances_"): file for file in named or loose if _looks_like_coco(file)}

    def folders(split, file):
        names = dict.fromkeys((split, _meaning(split)))
        if images:
            return [*(images / name for name in names), images]
        below = [place for name in names for place in (name, f"images/{name}", f"{name}/images")]
        return [*(root / place for place in (*below, "images", "")), file.parent]

    return {split: functools.partial(coco, folders(split, file), file) for split, file in files.items()}


def _looks_like_coco(file):
    """Whether a .json may be COCO's: by its first bytes, because files of other kinds lie in such folders too."""
    with open(file, "rb") as stream:
        head = stream.read(1 << 16)
    return head.startswith(b"version https://git-lfs") or any(
        key in head for key in (b'"images"', b'"annotations"', b'"categories"')
    )


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def voc(images, annotations, names=None, listed_in=None) -> Source:
    """Pascal VOC (Everingham et al. 2010): an XML a picture; corners from 1 and inclusive: x1 = xmin - 1, x2 = xmax.

    images: the folder of the pictures, found by the XML's stem whatever its <filename> says. annotations: the
    folder of the XML files. names: the stems that belong to the split, read from the file `listed_in`; None: all.
    Classes are the sorted names in all XML files of the folder, so that all splits agree. Equal corners are a stray
    click, without area.
    """
    problems, trees = [], {}
    for file in sorted(Path(annotations).glob("*.xml")):
        try:
            trees[file.stem] = ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, OSError, LookupError) as error:
            trees[file.stem] = error
    objects = [
        thing for tree in trees.values() if isinstance(tree, ElementTree.Element) for thing in tree.findall("object")
    ]
    classes = sorted({name for thing in objects if (name := _voc_class(thing))})
    if not classes:
        raise DataError(f"{annotations}: not one <object> with a <name> in {len(trees)} XML files")
    label_of = {name: label for label, name in enumerate(classes)}
    pictures = _pictures(images)
    if names is None:
        problems += [
            Problem(os.fspath(picture), "picture without XML; left out", "warning")
            for stem, picture in pictures.items()
            if stem not in trees
        ]
    result = []
    for stem in sorted(trees) if names is None else _each_once(names, os.fspath(listed_in), problems):
        file = os.fspath(Path(annotations, f"{stem}.xml"))
        tree = trees.get(stem)
        if tree is None:
            problems.append(Problem(os.fspath(listed_in), f"{stem} is listed but has no XML {file}; left out"))
            continue
        if isinstance(tree, Exception):
            problems.append(Problem(file, f"not valid XML: {tree}; left out"))
            continue
        picture = pictures.get(stem) or pictures.get(Path(tree.findtext("filename") or stem).stem)
        if picture is None:
            problems.append(Problem(file, "label without picture; left out"))
            continue
        stated = [_whole(tree.findtext(f"size/{side}")) for side in ("height", "width")]
        if not (size := _size(stated, picture, problems)):
            continue
        things = []
        for place, thing in enumerate(tree.findall("object"), start=1):
            name = _voc_class(thing)
            where = f"object {place} ({name})"
            try:
                y1, x1, y2, x2 = (float(thing.findtext(f"bndbox/{key}")) for key in ("ymin", "xmin", "ymax", "xmax"))
            except (TypeError, ValueError):
                name = None
            if not name:
                problems.append(Problem(file, f"{where}: expected <name> and <bndbox> with four numbers; left out"))
                continue
            # Inclusive corners would give equal ones a pixel; nobody means that.
            box = (y1 - (y1 < y2), x1 - (x1 < x2), y2, x2)
            difficult = (thing.findtext("difficult") or "0").strip() not in ("0", "")
            things.append(_Object(where, box, label_of[name], difficult=difficult))
        result.append(_record(stem, picture, size, things, file, problems))
    return Source(tuple(result), tuple(classes), tuple(range(len(classes))), tuple(problems), "", "", "voc")


def _voc_class(thing):
    return (thing.findtext("name") or "").strip()


def _whole(text):
    return int(text) if text and text.strip().isdecimal() else None


def _find_voc(path, images):
    if not path.is_dir():
        return {}
    for annotations in (path / "Annotations", path / "annotations", path):
        if next(annotations.glob("*.xml"), None):
            below = (path / "JPEGImages", path / "images", annotations)
            pictures = images or next((folder for folder in below if _pictures(folder)), path)
            lists = {}
            for file in sorted(path.glob("ImageSets/Main/*.txt")) or sorted(path.glob("ImageSets/*.txt")):
                rows = [line.split() for line in _text(file).splitlines() if line.strip()]
                if rows and all(len(row) == 1 for row in rows):  # <class>_<split>.txt has a second column
                    lists[file.stem] = (tuple(row[0] for row in rows), file)
            if not lists:
                return {"all": functools.partial(voc, pictures, annotations)}
            return {split: functools.partial(voc, pictures, annotations, *named) for split, named in lists.items()}
    parts = [child for child in sorted(path.iterdir()) if child.is_dir() and next(child.glob("*.xml"), None)]
    return {part.name: functools.partial(voc, images or part, part) for part in parts}


# --- YOLO text --------------------------------------------------------------------------------------------------------


def yolo(images, names=None, together=()) -> Source:
    """Darknet's text: beside each picture, or in labels/ beside images/, a .txt with lines `class cx cy w h` in 0..1.

    A line of a class and three or more points is an outline, taken for the box round it. A picture without a text
    file is one without objects. images: folders, or .txt files that list pictures. names: classes by number; None:
    the numbers seen, also in `together`, the folders of all splits.
    """
    problems, pictures, labels = [], [], set()
    for place in images:
        if place.is_dir():
            pictures += _pictures(place).values()
            folder = _labels_of(place)
            labels |= {file for file in folder.rglob("*.txt") if file.name not in _NOT_LABELS}
        else:
            listed = [line.strip() for line in _text(place).splitlines() if line.strip()]
            pictures += [
                Path(os.path.normpath(place.parent / name)) for name in _each_once(listed, str(place), problems)
            ]
    folders = {folder: _labels_of(folder) for folder in {picture.parent for picture in pictures}}
    texts = {picture: folders[picture.parent] / f"{picture.stem}.txt" for picture in pictures}
    without_picture = labels.difference(texts.values())
    problems += [Problem(str(file), "label without picture; left out") for file in sorted(without_picture)]

    rows_of = {picture: _yolo_rows(file, problems) for picture, file in texts.items()}
    if names is None:
        elsewhere = [_yolo_rows(file, []) for place in together for file in _labels_of(place).rglob("*.txt")]
        numbers = [row[1] for rows in [*rows_of.values(), *elsewhere] for row in rows]
        names = tuple(map(str, range(max(numbers, default=0) + 1)))
        message = "no data .yaml, classes.txt or .names says what the classes are called; their numbers are their names"
        problems.append(Problem(os.fspath(images[0]), message, "warning"))
    stems = {picture.stem for picture in texts}
    result = []
    for picture, rows in rows_of.items():
        file = os.fspath(texts[picture])
        if not picture.is_file():
            problems.append(Problem(os.fspath(picture), "picture missing; left out"))
            continue
        if not (size := _size((None, None), picture, problems)):
            continue
        height, width = size
        things = []
        for line, number, x1, y1, x2, y2 in rows:
            if number >= len(names):
                message = f"line {line}: unknown class {number}: the names are 0..{len(names) - 1}; left out"
                problems.append(Problem(file, message))
                continue
            things.append(_Object(f"line {line}", (y1 * height, x1 * width, y2 * height, x2 * width), number))
        image_id = picture.stem if len(stems) == len(texts) else os.fspath(picture)
        result.append(_record(image_id, picture, size, things, file, problems))
    return Source(tuple(result), tuple(names), tuple(range(len(names))), tuple(problems), "", "", "yolo")


_NOT_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt")  # they lie beside labels


def _labels_of(folder):
    """Where the text files of a folder's pictures are: under labels/ in place of the last images/; else beside them."""
    parts = folder.parts
    if "images" not in parts:
        return folder
    place = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:place], "labels", *parts[place + 1 :])
    return labels if labels.is_dir() else folder


def _yolo_rows(file, problems):
    """[(line, class, x1, y1, x2, y2)] of a text file, corners in 0..1; a Problem for each line that is no box."""
    rows, seen = [], set()
    try:
        text = _text(file)
    except DataError as error:
        missing = not file.exists()
        message = "no label file: a picture without objects" if missing else str(error).removeprefix(f"{file}: ")
        problems.append(Problem(os.fspath(file), message, "warning" if missing else "error"))
        return rows
    for line, content in enumerate(text.splitlines(), start=1):
        words = content.split()
        if not words:
            continue
        if tuple(words) in seen:
            problems.append(Problem(os.fspath(file), f"line {line}: the same box again; left out", "warning"))
            continue
        seen.add(tuple(words))
        try:
            number, (*values,) = float(words[0]), map(float, words[1:])
            outline = len(values) >= 6 and len(values) % 2 == 0
            if number < 0 or number != int(number) or not (len(values) == 4 or outline):
                raise ValueError
        except (ValueError, OverflowError):
            shown = content if len(content) <= 60 else content[:57] + "..."
            message = f"line {line}: expected `class cx cy w h`, received {shown!r}; left out"
            problems.append(Problem(os.fspath(file), message))
            continue
        if outline:
            corners = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        else:
            x, y, w, h = values
            corners = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        rows.append((line, int(number), *corners))
    return rows


def _find_yolo(path, images):
    if path.is_file():
        return _yolo_splits(path, images) if path.suffix in (".yaml", ".yml") else {}
    if not path.is_dir():
        return {}
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")], key=lambda file: (file.stem != "data", file.name))
    for file in files:
        if re.search(r"^(train|val|test)\s*:", _text(file), re.MULTILINE) and (found := _yolo_splits(file, images)):
            return found
    root = images or path / "images"
    if root.is_dir() and _labels_of(root) != root:
        parts = {child.name: child for child in sorted(root.iterdir()) if child.is_dir()} or {"all": root}
    else:
        parts = {
            child.parent.name: child
            for child in sorted(path.glob("*/images"))
            if _meaning(child.parent.name) in _SPLITS
        }
    if not parts and any(picture.with_suffix(".txt").is_file() for picture in _pictures(path).values()):
        parts = {"all": path}
    names = None
    for file in (path / "classes.txt", path / "labels" / "classes.txt", *sorted(path.glob("*.names"))):
        if names is None and file.is_file():
            names = [line.strip() for line in _text(file).splitlines() if line.strip()]
    return {split: functools.partial(yolo, [part], names, parts.values()) for split, part in parts.items()}


def _yolo_splits(file, images):
    try:
        content = yaml.safe_load(_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{file}: expected a YOLO data file with train, val and names, received {type(content).__name__}"
        )
    names = content.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(
                f"{file}: names: expected the numbers 0..{len(names) - 1}, received {sorted(names, key=str)}"
            )
        names = [names[number] for number in range(len(names))]
    if names is not None and (not isinstance(names, list) or not names):
        raise DataError(
            f"{file}: names: expected a list of class names or a mapping from their numbers, received {names!r}"
        )
    if names is None and isinstance(content.get("nc"), int):
        names = list(range(content["nc"]))
    root = file.parent / str(content.get("path") or ".")
    bases = [root, file.parent, Path(str(content.get("path") or "."))]

    def entries(split):
        return [str(entry) for entry in (content[split] if isinstance(content[split], list) else [content[split]])]

    def places(split):
        for entry in entries(split):
            # Data exported by Roboflow says ../train/images for what lies beside the file.
            tries = [base / part for part in (entry, entry.removeprefix("../")) for base in bases]
            found = next((place for place in tries if place.exists()), None)
            if found is None:
                looked = ", ".join(dict.fromkeys(map(os.path.normpath, tries)))
                raise DataError(f"{file}: {split}: {entry} is not there; looked for {looked}")
            yield Path(os.path.normpath(found))

    def reader(split):
        inside = images and (images / split if (images / split).is_dir() else images)
        before = there[: there.index(split)]
        same_as = next((other for other in before if entries(other) == entries(split) and not inside), "")
        source = yolo([inside] if inside else list(places(split)), names and tuple(map(str, names)))
        return source._replace(same_as=same_as)

    there = [
        split for split in ("train", "val", "test") if content.get(split) and isinstance(content[split], str | list)
    ]
    return {split: functools.partial(reader, split) for split in there}


# --- TFRecord ---------------------------------------------------------------------------------------------------------


def tfrecord(shards, together=()) -> Source:
    """Sharded tf.train.Examples, as tfyolo.data.records writes them, or the TensorFlow Object Detection API.

    shards: the files of the split. together: those of all splits, from which the classes come where no <split>.json or
    .pbtxt beside the shards names them. Pictures stay in the file: a Record's span says where.
    """
    problems = []
    known, integer_ids = records.read_classes(shards)
    examples = []
    for shard in dict.fromkeys([*shards, *(() if known else together)]):
        try:
            examples += [(shard, example) for example in records.index(shard)]
        except records.ShardError as error:
            examples += [(shard, example) for example in error.examples]
            problems.append(Problem(os.fspath(shard), str(error)))
    classes = dict(known)
    if not known:
        for _, example in examples:
            texts = example.texts or [str(number) for number in example.labels]
            classes |= zip(example.labels, texts, strict=False)
    category_ids = sorted(classes)
    label_of = {category: label for label, category in enumerate(category_ids)}

    own = set(shards)
    result, seen = [], set()
    for shard, example in examples:
        if shard not in own:
            continue
        where = f"record {example.place}"
        image_id = example.source_id or example.filename or f"{Path(shard).name}:{example.place}"
        if integer_ids and image_id.isdecimal():
            image_id = int(image_id)
        if image_id in seen:
            problems.append(Problem(os.fspath(shard), f"{where}: the id {image_id} is used twice", "warning"))
        seen.add(image_id)
        if not example.span:
            problems.append(Problem(os.fspath(shard), f"{where} ({image_id}): no image/encoded; left out"))
            continue
        size = example.size
        if not size:
            try:
                with open(shard, "rb") as stream:
                    stream.seek(example.span[0])
                    size = picture_size(io.BytesIO(stream.read(example.span[1])))
            except OSError as error:
                problems.append(Problem(os.fspath(shard), f"{where} ({image_id}): {error}; left out"))
                continue
        height, width = size
        things = []
        for place, (number, (y1, x1, y2, x2)) in enumerate(
            zip(example.labels, example.boxes_unit, strict=True), start=1
        ):
            if number not in label_of:
                problems.append(
                    Problem(os.fspath(shard), f"{where} ({image_id}): box {place}: unknown class {number}; left out")
                )
                continue
            box = (y1 * height, x1 * width, y2 * height, x2 * width)
            area = example.areas[place - 1] if example.areas else None
            crowd, difficult = (bool(flags and flags[place - 1]) for flags in (example.crowd, example.difficult))
            things.append(_Object(f"{where} ({image_id}): box {place}", box, label_of[number], crowd, area, difficult))
        result.append(_record(image_id, shard, size, things, os.fspath(shard), problems, example.span))
    names = tuple(classes[category] for category in category_ids)
    return Source(tuple(result), names, tuple(category_ids), tuple(problems), "", "", "tfrecord")


def _find_tfrecord(path, images):
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
    else:
        files = [Path(file) for file in glob.glob(os.fspath(path))]
    groups = {}
    for file in sorted(files):
        if split := records.split_of(file.name):
            groups.setdefault(split, []).append(file)
    together = [shard for shards in groups.values() for shard in shards]
    return {split: functools.partial(tfrecord, shards, together) for split, shards in groups.items()}


# A finder takes the path and the folder of pictures, or None, and gives {split: function that reads it}, empty if
# what is there is of another kind.
READERS: dict[str, Callable] = {"tfrecord": _find_tfrecord, "coco": _find_coco, "voc": _find_voc, "yolo": _find_yolo}
