"""Darknet's text: an image's boxes in a .txt of its own, lines `class cx cy w h` in parts of the image, 0..1.

It comes with a data .yaml, with Darknet's .data file and lists of images, or as folders alone. A row of a class and
points is an outline, taken for the box round it; with key points, which a data .yaml announces by `kpt_shape`, the
first four numbers are the box. An image without a label file is one without objects.
"""

import functools
import itertools
import os
import re

from tfyolo.config.ranges import MOST_CLASSES
from tfyolo.data.sources.files import leads_outside, some, stem_of
from tfyolo.data.sources.index import IMAGES, name_parts
from tfyolo.data.sources.place import SPLITS, Candidate, Format, meaning, split_named
from tfyolo.data.sources.seen import is_file, is_folder
from tfyolo.data.sources.source import (
    DataError,
    Findings,
    whole,
)
from tfyolo.data.sources.text import MOST_YAML, head_text, read_lines, read_yaml
from tfyolo.data.sources.yolo_split import NAMES, Part, images_of, is_list, read, texts_of
from tfyolo.data.sources.yolo_text import IMAGE_FOLDERS, Pairs, read_rows
from tfyolo.files import normal, size_of
from tfyolo.messages import counted, shortened


def find(place):
    """The Candidate of YOLO's texts at a Place; None if there is none."""
    suffix = os.path.splitext(place.file or "")[1].lower()
    if place.file:
        by_suffix = {".yaml": _by_yaml, ".yml": _by_yaml, ".data": _by_data_file, ".txt": _by_list}
        return by_suffix[suffix](place, place.file) if suffix in by_suffix else None
    if not place.is_folder:
        return None
    broken = None
    files = sorted(place.tree.files(place.root, (".yaml", ".yml")), key=lambda file: (stem_of(file) != "data", file))
    for way, file in (
        *((_by_yaml, file) for file in files),
        *((_by_data_file, f) for f in place.tree.files(place.root, ".data")),
    ):
        try:
            if found := way(place, file):
                return found
        except DataError as error:
            if way is _by_data_file or re.search(r"^(names|nc)\s*:", head_text(file), re.MULTILINE):
                raise  # it is what it seems to be, and says what the classes are
            broken = broken or error
    found = _by_lists(place) or _by_folders(place)
    if broken and not found:
        raise broken
    return found._replace(note=f"{broken}; the folders are read without it") if broken else found


# --- where the images of each split lie -------------------------------------------------------------------------------


def _candidate(place, parts, names, why, *, note="", same_as=None, points=None, notes=()):
    """The Candidate of some splits.

    Args:
        place: the Place of the data.
        parts: {split: [Part]}.
        names: of the classes, by number, or None.
        why: what speaks for it, the beginning of a sentence.
        note: a warning about how it was recognised.
        same_as: {split: the one before it of the same images}.
        points: (key points a box, numbers a point), or None.
        notes: (file, message) of warnings.
    """
    images, labelled, rows, sound = 0, 0, 0, 0
    for part in itertools.chain.from_iterable(parts.values()):
        if part.error:
            continue
        pairs = Pairs(place)
        try:
            found = [pairs.of(image) for image in some(images_of(place, part, Findings(), few=200), 200)]
        except DataError:
            continue
        texts = [text for text in found if text]
        images, labelled = images + len(found), labelled + len(texts)
        for text in some(texts, 5):
            lines = read_rows(text, Findings())
            rows, sound = rows + 1, sound + (lines is not None and (bool(lines) or size_of(text) < 3))
    score = labelled / images * (sound / rows if rows else 0) if images else 0.0
    why += f": {labelled} of {counted(images, 'image')} sampled have a text, {sound} of {rows} texts read as boxes"
    options = {"together": tuple(parts.values()), "points": points, "notes": notes}
    splits = {
        split: functools.partial(read, place, members, names, same_as=(same_as or {}).get(split, ""), **options)
        for split, members in parts.items()
    }
    return Candidate(
        splits, score, why, note, images=lambda: sum(1 for _ in texts_of(place, itertools.chain(*parts.values())))
    )


def _by_folders(place, names=None):
    tree, root = place.tree, place.root
    own, parts = place.images or tree, {}
    likely = [folder for folder in tree.folders(root) if os.path.basename(folder).lower() in IMAGE_FOLDERS]
    images = place.images.root if place.images else next(iter(likely), None)
    labels = images and tree.spelled(os.path.join(os.path.dirname(images), "labels"))
    if images and (is_folder(labels) or _some_labels(place, own, images)):
        inside = {os.path.basename(folder): folder for folder in own.folders(images)}
        divided = {split: folder for split, folder in inside.items() if meaning(split) in SPLITS}
        if divided or (inside and not own.files(images, IMAGES) and all(len(own.index(f)) for f in inside.values())):
            parts = divided or inside
        else:
            parts = {"all": images}
    if not parts:
        for folder in tree.folders(root):
            if meaning(os.path.basename(folder)) in SPLITS and len(tree.index(folder)):
                below = [child for child in tree.folders(folder) if os.path.basename(child).lower() in IMAGE_FOLDERS]
                parts[os.path.basename(folder)] = below[0] if below else folder
        if not any(_some_labels(place, tree, folder) for folder in parts.values()):
            parts = {}
    if not parts:
        pairs = Pairs(place)
        near = [image for folder in (root, *tree.folders(root)) for image in tree.files(folder, IMAGES)]
        parts = {"all": root} if any(pairs.of(image) for image in some(near, 200)) else {}
    if not parts:
        return None
    pairs = Pairs(place)
    names = names or _names_beside(place, *map(pairs.folder, parts.values()))
    why = f"folders of images and texts ({', '.join(place.relative(folder) or '.' for folder in parts.values())})"
    return _candidate(place, {split: [Part(folder)] for split, folder in parts.items()}, names, why)


def _some_labels(place, tree, folder):
    pairs = Pairs(place)
    return any(pairs.of(image) for image in some(tree.index(folder).paths, 200))


def _by_list(place, file):
    if not is_list(file):
        return None
    return _candidate(place, {split_named(file): [Part(listed=file)]}, _names_beside(place), "a list of images")


def _by_lists(place):
    """train.txt, valid.txt, ... that list images."""
    files = [
        file for file in place.tree.files(place.root, ".txt") if meaning(stem_of(file)) in SPLITS and is_list(file)
    ]
    if not files:
        return None
    why = f"lists of images ({', '.join(map(os.path.basename, files))})"
    return _candidate(place, {stem_of(file): [Part(listed=file)] for file in files}, _names_beside(place), why)


def _by_data_file(place, file):
    """Darknet's obj.data: lines `key = value`."""
    try:
        rows = [line.partition("=") for line in read_lines(file, MOST_YAML) if not line.startswith("#")]
    except DataError:
        return None
    values = {key.strip(): value.strip() for key, equals, value in rows if equals}
    there = [split for split in ("train", "valid", "val", "test") if values.get(split)]
    if not there:
        return None
    parts = {split: [_resolve(place, file, split, values[split], [""])] for split in there}
    names = None
    if values.get("names"):
        found = _resolve(place, file, "names", values["names"], [""], kind="file")
        if found.error:
            raise found.error
        names = _names_in(found.listed)
    notes = _count_differs(file, "classes", whole(values.get("classes")), names)
    return _candidate(place, parts, names or _names_beside(place), os.path.basename(file), notes=notes)


def _by_yaml(place, file):
    if not place.file and not re.search(r"^(train|val|test|names)\s*:", head_text(file), re.MULTILINE):
        return None  # of something else
    content, lines = read_yaml(file)
    if not isinstance(content, dict):
        if place.file:
            raise DataError(f"{file}: expected a YOLO data file with train, val and names, received a {_kind(content)}")
        return None
    there = [split for split in ("train", "val", "test") if content.get(split)]
    if not place.file and not all(isinstance(content[split], str | list) for split in there):
        return None
    names = content.get("names")
    if (
        isinstance(names, str)
        and names
        and not (listed := _resolve(place, file, "names", names, [""], kind="file")).error
    ):
        names = list(read_lines(listed.listed, MOST_YAML))
    names = _yaml_names(f"{file}:{lines.get('names', 1)}", names)
    number = content.get("nc")
    if number is not None and (whole(number) is None or not 0 < whole(number) <= MOST_CLASSES):
        raise DataError(
            f"{file}:{lines['nc']}: nc: expected the number of classes, 1 to {MOST_CLASSES:,}, received "
            f"{shortened(number)}"
        )
    notes = _count_differs(file, "nc", whole(number), names)
    if names is None and number is not None and not place.options.names:
        names = tuple(map(str, range(whole(number))))
    if not there:
        if place.file and names is None:
            raise DataError(
                f"{file}: expected a YOLO data file with train, val and names, received {shortened(content)}"
            )
        return names and _by_folders(place, names)
    root = content.get("path") if isinstance(content.get("path"), str) else ""
    entries = {split: content[split] if isinstance(content[split], list) else [content[split]] for split in there}
    parts = {
        split: [_resolve(place, file, split, entry, [root, ""], notes=notes) for entry in entries[split]]
        for split in there
    }
    same_as = {}
    for split, other in itertools.combinations(there, 2):
        if entries[split] == entries[other] or (parts[split] == parts[other] and not parts[split][0].by_end):
            same_as.setdefault(other, split)
        elif parts[split] == parts[other]:  # what differs in their names is not there
            where = parts[split][0].folder or parts[split][0].listed
            message = (
                f"{file}: {other}: {shortened(entries[other][0])} is not there; what fits it, {where}, is {split}'s"
            )
            parts[other] = [Part(error=DataError(f"{message}. Say where the images are: images=FOLDER"))]
    errors = [part.error for members in parts.values() for part in members]
    if not place.file and all(errors) and (found := _by_folders(place, names)):
        return found._replace(note=f"{errors[0]}; the folders are read without it")
    points = _points(f"{file}:{lines.get('kpt_shape', 1)}", content.get("kpt_shape"))
    return _candidate(place, parts, names, os.path.basename(file), same_as=same_as, points=points, notes=notes)


def _kind(content):
    return {dict: "mapping", list: "list"}.get(type(content), "value of another kind")


def _yaml_names(file, names):
    """Classes in the order of their numbers, as they are written; None if the file names none."""
    if names is None or names == "":
        return None
    if isinstance(names, dict):
        numbers = {whole(key): name for key, name in names.items()}
        if set(numbers) != set(range(len(names))):
            shown = ", ".join(shortened(key)[1:-1] for key in list(names)[:8])
            raise DataError(f"{file}: names: expected the numbers 0..{len(names) - 1}, received {shown}")
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(
            f"{file}: names: expected a list of class names or a mapping from their numbers, received "
            f"{shortened(names)}"
        )
    return _few_enough(file, tuple(names))


def _few_enough(file, names):
    if len(names) > MOST_CLASSES:
        raise DataError(f"{file}: expected at most {counted(MOST_CLASSES, 'class')}, received {len(names):,}")
    return names


def _count_differs(file, key, number, names):
    """[(file, message)] of a number of classes that is not that of their names."""
    if number is None or names is None or number == len(names):
        return []
    return [(file, f"{key} says {counted(number, 'class')}, but {len(names)} have names; the names count")]


def _points(file, shape):
    """(key points a box, numbers a point) that kpt_shape says, or None."""
    if shape is None:
        return None
    numbers = tuple(map(whole, shape)) if isinstance(shape, list) else ()
    if len(numbers) != 2 or not numbers[0] or not 0 < numbers[0] <= 10_000 or numbers[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape: expected [key points, 2 or 3 numbers each], received {shortened(shape)}")
    return numbers


def _resolve(place, file, key, entry, roots, kind="", notes=None):
    """The Part that an entry of a data file means: here, or on the machine where the file was written.

    roots: what the file says that its paths are relative to; "" stands for its own folder. Tried first is what lies in
    the data's folder.
    """
    if not isinstance(entry, str):
        return Part(error=DataError(f"{file}: {key}: expected a path, received {shortened(entry)}"))
    written, here = entry.replace("\\", "/"), os.path.dirname(file) or "."
    bases = [os.path.join(here, root.replace("\\", "/")) for root in roots]
    tries = [normal(os.path.join(base, written)) for base in bases]
    if written.startswith("../"):  # Roboflow says ../train/images for what lies beside the file
        tries += [normal(os.path.join(base, written.removeprefix("../"))) for base in bases]

    def part(path):
        if is_folder(path) and kind != "file" and not place.images:
            return Part(folder=path)
        return Part(listed=path) if is_file(path) else None

    inside = [path for path in tries if not leads_outside(path, place.root)]
    for path in inside:
        if found := part(path):
            return found
    beyond = next((path for path in tries if path not in inside and part(path)), None)
    # A file that is named itself may lead to folders elsewhere; but not to files, of which errors show lines.
    if beyond and (place.options.outside or (place.file and part(beyond).folder)):
        return part(beyond)
    if beyond:
        message = (
            f"{file}: {key}: {beyond} lies outside of {place.root}, the data's folder; if that is meant: outside=true"
        )
        return Part(error=DataError(message))
    ends = name_parts(f"{roots[0]}/{written}".replace("\\", "/"))[-20:]
    for start in range(1, len(ends)):
        path = normal(os.path.join(here, *ends[start:]))
        if not leads_outside(path, place.root) and (found := part(path)):
            if notes is not None and ends[:start] != ["data"]:
                notes.append((file, f"{key}: {shortened(entry)} is not there; {path} is taken, beside the file"))
            return found._replace(by_end=True)
    if place.images and kind != "file":
        return _in_images(place, key, ends)
    looked = ", ".join(dict.fromkeys(tries))
    return Part(error=DataError(f"{file}: {key}: {shortened(entry)[1:-1]} is not there; looked for {looked}"))


def _in_images(place, key, ends):
    """The Part of an entry when the images' folder is given: the folder in it that the entry's end means."""
    ways = [ends[start:] for start in range(len(ends))] + [[key], [meaning(key)]]
    ways += [[way, "images"] for way in dict.fromkeys((key, meaning(key), "valid" if key == "val" else key))]
    for way in ways:
        path = os.path.join(place.images.root, *way)
        if is_folder(path):
            return Part(folder=path, by_end=True)
    # The folder itself: of one split. _by_yaml sees to it that no other takes it, too.
    return Part(folder=place.images.root, by_end=True)


def _names_beside(place, *more):
    """Classes by lists of names in the data's folder, in its parts or in `more` folders; None without one."""
    folders = [place.root, os.path.join(place.root, "labels"), *place.tree.folders(place.root), *more]
    if place.options.names is None:
        for folder in folders:
            files = [file for name in NAMES if place.tree.has(file := os.path.join(folder, name))]
            for file in (*files, *place.tree.files(folder, ".names")):
                if names := _names_in(file):
                    return names
    return None


def _names_in(file):
    return _few_enough(file, tuple(read_lines(file, MOST_YAML)))


FORMAT = Format(
    find,
    "yolo      a data .yaml; obj.data and lists of images; images/<split>/ and labels/<split>/; <split>/images/ "
    "and <split>/labels/; <split>/ with images and texts; or undivided",
)
