"""COCO's JSON (Lin et al. 2014, arXiv:1405.0312): `images`, `annotations` and `categories`; boxes are x, y, w, h.

Labels follow the sorted category ids, which may have gaps.
"""

import functools
import math
import os
import re

from tfyolo.data.sources.conventions import Corners
from tfyolo.data.sources.files import Tree, some, stem_of, text_link
from tfyolo.data.sources.index import locate, name_parts
from tfyolo.data.sources.place import SPLITS, Candidate, Format, may_be_of, meaning, split_among
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.seen import is_folder
from tfyolo.data.sources.source import (
    Annotation,
    DataError,
    Findings,
    finish,
    flag,
    record,
    upright_size,
    whole,
)
from tfyolo.data.sources.text import read_bytes, read_json, starts
from tfyolo.files import normal, open_regular, parse_json, size_of
from tfyolo.messages import counted, shortened

_LISTS = ("images", "annotations", "categories")
_NOT_BOXES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
SMALL = 1 << 20  # bytes of a JSON that is parsed to see what it is; of a larger one the ends are looked at


def find(place):
    """The Candidate of COCO's JSON at a Place; None if there is none."""
    if place.globbed or (place.file and not place.file.lower().endswith(".json")):
        return None
    files = _files(place)
    images_of = {file: _look(file) for file in files.values()}
    files = {split: file for split, file in files.items() if images_of[file] is not None or place.file}
    if not files:
        return None
    together = tuple(files.values())
    found = total = 0
    for split, file in files.items():
        names = images_of[file] or []
        located, _ = _located(place, split, file, names)
        found, total = found + len(located.files), total + len(set(names))
    why = (
        f"{counted(len(files), 'JSON file')} of COCO's kind; {found} of {counted(total, 'image')} looked for are there"
    )
    splits = {split: functools.partial(read, place, split, file, together) for split, file in files.items()}

    def images():
        return sum(read_bytes(file).count(b'"file_name"') for file in together)

    return Candidate(splits, found / total if total else 0.0, why, images=images)


def _files(place):
    """{split: the JSON file of its annotations}."""

    def split_of(file):
        return stem_of(file).removeprefix("instances_").removeprefix("person_keypoints_")

    if place.file:
        own = os.path.basename(place.file) == "_annotations.coco.json"
        return {
            os.path.basename(os.path.dirname(os.path.abspath(place.file))) if own else split_of(place.file): place.file
        }
    tree, root = place.tree, place.root
    files = {}
    for folder in (root, *tree.folders(root)):
        if tree.has(os.path.join(folder, "_annotations.coco.json")):
            name = "all" if folder == root else os.path.basename(folder)
            files[name] = os.path.join(folder, "_annotations.coco.json")
    if files:
        return files
    loose = tree.files(os.path.join(root, "annotations"), ".json") or tree.files(root, ".json")
    loose = [file for file in loose if not os.path.basename(file).startswith("_")]
    boxes = [file for file in loose if not os.path.basename(file).startswith(_NOT_BOXES)]
    named = [file for file in boxes if os.path.basename(file).startswith("instances_")]
    if chosen := named or boxes or [file for file in loose if "person_keypoints_" in file]:
        return {split_of(file): file for file in chosen}
    parts = {
        folder: tree.files(folder, ".json")
        for folder in tree.folders(root)
        if meaning(os.path.basename(folder)) in SPLITS
    }
    return {os.path.basename(folder): each[0] for folder, each in parts.items() if len(each) == 1}


def _look(file):
    """Some of the images' names in a JSON that may be COCO's; None if it is of another kind."""
    if size_of(file) <= SMALL:
        try:
            content = parse_json(read_bytes(file))
        except DataError:
            return []  # of Git LFS: to be named
        except ValueError:
            return [] if b'"images"' in starts(file) and b'"annotations"' in starts(file) else None
        if not isinstance(content, dict) or not isinstance(content.get("images"), list) or "annotations" not in content:
            return None
        names = [entry.get("file_name") for entry in some(content["images"]) if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]
    head = starts(file)
    if not re.match(rb"\s*\{", head.removeprefix(b"\xef\xbb\xbf")):
        return None
    with open_regular(file) as stream:
        stream.seek(-len(head), os.SEEK_END)
        ends = head + stream.read()
    if sum(f'"{key}"'.encode() in ends for key in _LISTS) < 2:
        return None
    names = re.findall(rb'"file_name"\s*:\s*"([\x20-\x7e]{1,300}?)"', ends)
    return [name.decode().replace("\\\\", "\\").replace("\\/", "/") for name in some(names)]


def _located(place, split, file, names):
    """(Located images of some names, the folders where they were looked for, the likeliest first).

    They lie in the first of the likely folders that has any of them, or anywhere in the data; but one in the folder of
    another split is none of this one's.
    """
    ways = dict.fromkeys((split, meaning(split)))
    if place.images:
        tree = place.images
        folders = [*(os.path.join(tree.root, way) for way in ways), tree.root]
    else:
        tree, above = place.tree, os.path.dirname(file)
        root = os.path.dirname(above) if place.file and os.path.basename(above) == "annotations" else place.root
        if root != place.root:
            tree = Tree(root)
        below = [where for way in ways for where in (way, os.path.join("images", way), os.path.join(way, "images"))]
        folders = [*(os.path.join(root, where) for where in (*below, "images")), root, above]
    folders = list(dict.fromkeys(map(normal, folders)))
    sample = some(names, 100)
    likely = filter(is_folder, folders)
    first = [folder for folder in likely if any(tree.index(folder).relative("/".join(name_parts(n))) for n in sample)][
        :1
    ]

    @functools.cache
    def is_fit(folder):
        return may_be_of(split, split_among(os.path.relpath(folder or ".", tree.root or ".").split(os.sep)))

    def accepts(path):
        return is_fit(os.path.dirname(path))

    folders = list(dict.fromkeys((*first, *folders)))
    return locate(names, [functools.partial(tree.index, folder) for folder in (*first, tree.root)], accepts), folders


def read(place, split, file, together):
    """The Source of one JSON file.

    Args:
        place: the Place of the data.
        split: its name.
        file: the JSON.
        together: the JSON of all splits: a category without boxes here may be a class there.
    """
    findings = Findings()
    content = _content(file)
    entries = _entries(content, "images", "file_name", file, findings)
    categories = _entries(content, "categories", "name", file, findings)
    if not categories:
        raise DataError(f"{file}: `categories` is empty: it names no class")
    if (dead := _supercategory(categories, content["annotations"])) is not None:
        others = [other for other in together if other != file]
        if not any(
            dead in {_identity(a.get("category_id")) for a in _dicts(_content(o)["annotations"])} for o in others
        ):
            name = categories.pop(dead)["name"]
            findings.warning(
                file,
                f"the category {shortened(name)} is what the others are kinds of and has no boxes; no class of its own",
            )
    category_ids = sorted(categories, key=lambda number: (isinstance(number, str), number))
    label_of = {category: label for label, category in enumerate(category_ids)}
    boxes_of = _boxes(content["annotations"], entries, label_of, file, findings)

    names = [entry["file_name"] for entry in entries.values()]
    located, looked = _located(place, split, file, names)
    if names and not located.files:
        linked = next(
            (f" ({folder}: a link as text, to {target})" for folder in looked if (target := text_link(folder))), ""
        )
        raise DataError(
            f"{file}: its images (such as {shortened(names[0])[1:-1]}) are not in {', '.join(looked)}{linked}. "
            "Say where: data.images=FOLDER"
        )
    if located.word:
        findings.warning(file, located.word)
    records, corners = RecordsBuilder(), Corners("`bbox` [x, y, width, height]")
    for image_id, entry in entries.items():
        name, boxes = entry["file_name"], boxes_of.pop(image_id)
        if (image := located.files.get(name)) is None:
            count = counted(len(boxes), "box")
            findings.error(
                os.path.join(looked[0], name), f"image missing: it {located.missing[name]}; {file} has {count} for it"
            )
        elif size := upright_size((entry.get("height"), entry.get("width")), image, findings):
            for y1, x1, y2, x2 in (each.box for each in boxes):
                corners.see((x1, y1, x2 - x1, y2 - y1), (y1, x1, y2, x2), size)
            records.append(record(entry["id"], image, size, boxes, file, findings))
    corners.check(file)
    classes = [categories[category]["name"] for category in category_ids]
    return finish(records, classes, [categories[category]["id"] for category in category_ids], findings, "coco")


def _lean(entry):
    """An entry without what is not read of it, which is most of it, as soon as it is parsed."""
    if "image_id" in entry:
        unread = ("segmentation", "keypoints") if entry.get("bbox") else ()
    else:
        unread = ("coco_url", "flickr_url", "date_captured") if "file_name" in entry else ()
    for key in unread:
        entry.pop(key, None)
    return entry


def _content(file):
    content = read_json(file, _lean)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        keys = (
            ", ".join(shortened(key)[1:-1] for key in content) if isinstance(content, dict) else type(content).__name__
        )
        raise DataError(
            f"{file}: expected lists `images`, `annotations` and `categories`, received {keys[:200] or 'none'}"
        )
    return content


def _dicts(entries):
    return [entry for entry in entries if isinstance(entry, dict)]


def _identity(value):
    """An id as it is compared: 1, 1.0 and "1" are the same; None if it is no id."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        number = whole(value)
        return number if number is not None and str(number) == value else value
    return whole(value)


def _entries(content, kind, needed, file, findings):
    """{id: entry} of a list's entries that have what they need."""
    table = {}
    for place, entry in enumerate(content.pop(kind)):
        given = entry if isinstance(entry, dict) else {}
        identity = _identity(given.get("id"))
        if identity is None or not isinstance(given.get(needed), str):
            findings.error(file, f"{kind}[{place}]: expected `id` and `{needed}`; left out")
        elif identity in table:
            findings.error(file, f"{kind}[{place}]: the id {shortened(given['id'])} is used twice; left out")
        else:
            table[identity] = {**given, "id": identity if not isinstance(given["id"], str) else given["id"]}
    return table


def _supercategory(categories, annotations):
    """The id of the category without boxes that all others are kinds of, as Roboflow writes it; None without one."""
    for identity, entry in categories.items():
        others = [other for key, other in categories.items() if key != identity]
        if others and all(other.get("supercategory") == entry["name"] for other in others):
            used = any(_identity(each.get("category_id")) == identity for each in _dicts(annotations))
            return None if used or entry.get("supercategory") == entry["name"] else identity
    return None


def _box_xywh(entry, file, findings):
    """x, y, w, h of an annotation: its box, or the one round its outlines. Raises ValueError, KeyError."""
    box, outlines = entry.get("bbox"), entry.get("segmentation")
    if not box and isinstance(outlines, list) and outlines and all(isinstance(outline, list) for outline in outlines):
        xs, ys = ([float(value) for outline in outlines for value in outline[start::2]] for start in (0, 1))
        findings.tally(file, "an annotation has no `bbox`; the box round its `segmentation` is taken")
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    x, y, w, h = map(float, box if isinstance(box, list) else ())
    return x, y, w, h


def _boxes(annotations, entries, label_of, file, findings):
    """{image id: [Annotation]}."""
    boxes, seen = {image_id: [] for image_id in entries}, set()
    for place, entry in enumerate(annotations):
        annotations[place] = None  # which may be millions, and are not asked for again
        number = entry.get("id") if isinstance(entry, dict) else None
        where = f"annotation {shortened(number)}" if isinstance(number, int | float | str) else f"annotations[{place}]"
        wrong = None
        try:
            x, y, w, h = _box_xywh(entry, file, findings)
            area = float(entry.get("area") or math.nan)
            image_id, category = _identity(entry["image_id"]), _identity(entry["category_id"])
            if image_id is None or category is None:
                raise ValueError
            if image_id not in boxes:
                wrong = f"no image has its image_id {shortened(entry['image_id'])}{_near(image_id, boxes)}"
            elif category not in label_of:
                category = shortened(entry["category_id"]) + _near(category, label_of)
                wrong = f"unknown class: no category has its category_id {category}"
            elif number is not None and number in seen:
                wrong = "its id is used twice"
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            wrong = "expected `image_id`, `category_id` and `bbox` [x, y, width, height]"
        if wrong:
            findings.error(file, f"{where}: {wrong}; left out")
            continue
        seen.add(number)
        crowd, plain = flag(entry.get("iscrowd"))
        if not plain:
            findings.tally(file, f"`iscrowd` is {shortened(entry['iscrowd'])}, neither 0 nor 1; counted as 0")
        area = area if math.isfinite(area) else None
        boxes[image_id].append(Annotation(where, (y, x, y + h, x + w), label_of[category], crowd, area))
    return boxes


def _near(identity, known):
    """What to say of an id that is there with other zeros or spaces before it; else ""."""
    plain = str(identity).strip().lstrip("0")
    near = next((other for other in known if str(other).strip().lstrip("0") == plain), None) if plain else None
    return "" if near is None else f", there is {shortened(near)}"


FORMAT = Format(
    find,
    "coco      annotations/instances_<split>.json with <split>/ or images/; <split>/_annotations.coco.json; or "
    "one .json",
)
