"""Darknet's text: an image's boxes in a .txt of its own, lines `class cx cy w h` in parts of the image, 0..1.

It comes with a data .yaml, with Darknet's .data file and lists of images, or as folders alone. A row of a class and
points is an outline, taken for the box round it; with key points, which a data .yaml announces by `kpt_shape`, the
first four numbers are the box. An image without a label file is one without objects.
"""

import functools
import itertools
import os
import re
from typing import NamedTuple

from tfyolo.config.ranges import MOST_CLASSES
from tfyolo.data.sources.conventions import Corners
from tfyolo.data.sources.files import (
    IMAGES,
    MOST_YAML,
    Tree,
    head_text,
    leads_outside,
    locate,
    name_parts,
    read_lines,
    read_yaml,
    some,
    stem_of,
)
from tfyolo.data.sources.place import SPLITS, Candidate, Format, meaning, split_named
from tfyolo.data.sources.source import (
    Annotation,
    DataError,
    Findings,
    each_once,
    finish,
    record,
    upright_size,
    whole,
    with_ids,
)
from tfyolo.data.sources.yolo_text import IMAGE_FOLDERS, Pairs, form_of, read_rows
from tfyolo.messages import counted, shortened

UNNAMED = 10_000  # classes that data may have without saying what they are called: more is a stray number
FARTHEST = 5  # images' sides from the corner: numbers beyond are no parts of the image
_NAMES = ("classes.txt", "_darknet.labels", "obj.names", "labels.txt")


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


class _Part(NamedTuple):
    """Images of one split: a folder, or a file that lists them; or the error that says why they are not there.

    by_end: whether only the end of its name led to it.
    """

    folder: str | None = None
    listed: str | None = None
    error: DataError | None = None
    by_end: bool = False


def _candidate(place, parts, names, why, *, note="", same_as=None, points=None, notes=()):
    """The Candidate of some splits.

    Args:
        parts: {split: [_Part]}.
        names: of the classes, by number, or None.
        same_as: {split: the one before it of the same images}.
    """
    images, labelled, rows, sound = 0, 0, 0, 0
    for part in itertools.chain.from_iterable(parts.values()):
        if part.error:
            continue
        pairs = Pairs(place)
        try:
            found = [pairs.of(image) for image in some(_images(place, part, Findings(), few=200), 200)]
        except DataError:
            continue
        texts = [text for text in found if text]
        images, labelled = images + len(found), labelled + len(texts)
        for text in some(texts, 5):
            lines = read_rows(text, Findings())
            rows, sound = rows + 1, sound + (lines is not None and (bool(lines) or os.path.getsize(text) < 3))
    score = labelled / images * (sound / rows if rows else 0) if images else 0.0
    why += f": {labelled} of {counted(images, 'image')} looked at have a text, {sound} of {rows} texts read as boxes"
    options = {"together": tuple(parts.values()), "points": points, "notes": notes}
    splits = {
        split: functools.partial(read, place, members, names, same_as=(same_as or {}).get(split, ""), **options)
        for split, members in parts.items()
    }
    return Candidate(
        splits, score, why, note, images=lambda: sum(1 for _ in _texts_of(place, itertools.chain(*parts.values())))
    )


def _by_folders(place, names=None):
    tree, root = place.tree, place.root
    own, parts = place.images or tree, {}
    likely = [folder for folder in tree.folders(root) if os.path.basename(folder).lower() in IMAGE_FOLDERS]
    images = place.images.root if place.images else next(iter(likely), None)
    labels = images and tree.spelled(os.path.join(os.path.dirname(images), "labels"))
    if images and (os.path.isdir(labels) or _some_labels(place, own, images)):
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
    return _candidate(place, {split: [_Part(folder)] for split, folder in parts.items()}, names, why)


def _some_labels(place, tree, folder):
    pairs = Pairs(place)
    return any(pairs.of(image) for image in some(tree.index(folder).paths, 200))


def _by_list(place, file):
    if not _is_list(file):
        return None
    return _candidate(place, {split_named(file): [_Part(listed=file)]}, _names_beside(place), "a list of images")


def _by_lists(place):
    """train.txt, valid.txt, ... that list images."""
    files = [
        file for file in place.tree.files(place.root, ".txt") if meaning(stem_of(file)) in SPLITS and _is_list(file)
    ]
    if not files:
        return None
    why = f"lists of images ({', '.join(map(os.path.basename, files))})"
    return _candidate(place, {stem_of(file): [_Part(listed=file)] for file in files}, _names_beside(place), why)


def _is_list(file):
    try:
        lines = read_lines(file)
    except DataError:
        return False
    return bool(lines) and all(line.lower().endswith(IMAGES) for line in some(lines))


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
            parts[other] = [_Part(error=DataError(f"{message}. Say where the images are: images=FOLDER"))]
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
    """The _Part that an entry of a data file means: here, or on the machine where the file was written.

    roots: what the file says that its paths are relative to; "" stands for its own folder. Tried first is what lies in
    the data's folder.
    """
    if not isinstance(entry, str):
        return _Part(error=DataError(f"{file}: {key}: expected a path, received {shortened(entry)}"))
    written, here = entry.replace("\\", "/"), os.path.dirname(file) or "."
    bases = [os.path.join(here, root.replace("\\", "/")) for root in roots]
    tries = [os.path.normpath(os.path.join(base, written)) for base in bases]
    if written.startswith("../"):  # Roboflow says ../train/images for what lies beside the file
        tries += [os.path.normpath(os.path.join(base, written.removeprefix("../"))) for base in bases]

    def part(path):
        if os.path.isdir(path) and kind != "file" and not place.images:
            return _Part(folder=path)
        return _Part(listed=path) if os.path.isfile(path) else None

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
        return _Part(error=DataError(message))
    ends = name_parts(f"{roots[0]}/{written}".replace("\\", "/"))[-20:]
    for start in range(1, len(ends)):
        path = os.path.normpath(os.path.join(here, *ends[start:]))
        if not leads_outside(path, place.root) and (found := part(path)):
            if notes is not None and ends[:start] != ["data"]:
                notes.append((file, f"{key}: {shortened(entry)} is not there; {path} is taken, beside the file"))
            return found._replace(by_end=True)
    if place.images and kind != "file":
        return _in_images(place, key, ends)
    looked = ", ".join(dict.fromkeys(tries))
    return _Part(error=DataError(f"{file}: {key}: {shortened(entry)[1:-1]} is not there; looked for {looked}"))


def _in_images(place, key, ends):
    """The _Part of an entry when the images' folder is given: the folder in it that the entry's end means."""
    ways = [ends[start:] for start in range(len(ends))] + [[key], [meaning(key)]]
    ways += [[way, "images"] for way in dict.fromkeys((key, meaning(key), "valid" if key == "val" else key))]
    for way in ways:
        path = os.path.join(place.images.root, *way)
        if os.path.isdir(path):
            return _Part(folder=path, by_end=True)
    # The folder itself: of one split. _by_yaml sees to it that no other takes it, too.
    return _Part(folder=place.images.root, by_end=True)


def _names_beside(place, *more):
    """Classes by lists of names in the data's folder, in its parts or in `more` folders; None without one."""
    folders = [place.root, os.path.join(place.root, "labels"), *place.tree.folders(place.root), *more]
    if place.options.names is None:
        for folder in folders:
            files = [file for name in _NAMES if place.tree.has(file := os.path.join(folder, name))]
            for file in (*files, *place.tree.files(folder, ".names")):
                if names := _names_in(file):
                    return names
    return None


def _names_in(file):
    return _few_enough(file, tuple(read_lines(file, MOST_YAML)))


# --- reading ----------------------------------------------------------------------------------------------------------


def _images(place, part, findings, names_of=None, few=None):
    """The images of a part.

    Args:
        names_of: a dict that gets {image: what a list calls it}.
        few: only about so many of a list.
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
        path = os.path.normpath(os.path.join(here, name.replace("\\", "/")))
        if (
            place.options.outside
            and leads_outside(path, place.root)
            and name.lower().endswith(IMAGES)
            and os.path.isfile(path)
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
    """The Source of some _Parts.

    Args:
        place: the Place of the data.
        parts: the _Parts of the split.
        names: of the classes, by number; None: the numbers that occur, also in `together`.
        together: the parts of all splits.
        points: of each box, or None.
        same_as: the split before it of the same images; else "".
        notes: (file, message) of warnings.
    """
    findings = Findings()
    for file, message in dict.fromkeys(notes):
        findings.warning(file, message)
    names = names or place.options.names
    pairs, names_of, images = Pairs(place), {}, []
    for part in parts:
        images += _images(place, part, findings, names_of)
    texts = {image: pairs.of(image, names_of.get(image)) for image in dict.fromkeys(images)}
    others = [part for each in together for part in each if part not in parts]
    _orphans(place, parts, others, pairs, texts, findings)

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
    box_of, expected, note = form_of([rows for rows in rows_of.values() if rows], points)
    if note:
        findings.warning(parts[0].folder or parts[0].listed, note)

    if names is None:
        for image, rows in rows_of.items():
            place.numbers[texts[image]] = {number for _, number, _ in rows or () if number < UNNAMED}
        numbers = set().union(*(place.numbers[texts[image]] for image in rows_of))
        numbers = numbers.union(*(_numbers_of(place, text) for text in _texts_of(place, others)))
        names = tuple(map(str, range(max(numbers, default=0) + 1)))
        few = f", of which {len(numbers)} occur" if len(names) > 2 * len(numbers) + 2 else ""
        message = f"nothing says what the classes are called; their numbers are their names: 0 to {len(names) - 1}{few}"
        findings.warning(parts[0].folder or parts[0].listed, f"{message}. data.names=FILE gives them names")
        unnamed = True
    else:
        unnamed = False
    records, corners = [], Corners("`class cx cy w h`")
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
            if (box := box_of(values)) is None:
                findings.error(
                    file, f"line {line}: expected `{expected}`, received {counted(len(values) + 1, 'number')}; left out"
                )
                continue
            if points and len(values) == 4:
                findings.tally(file, f"a row of 5 numbers, expected {expected}; taken for a box without key points")
            x1, y1, x2, y2 = box
            if max(map(abs, box)) > FARTHEST:
                shown = f"y {y1:g}..{y2:g}, x {x1:g}..{x2:g}"
                findings.error(
                    file, f"line {line}: expected parts of the image, 0..1, received {shown}: pixels? Left out"
                )
                continue
            if len(values) == 4:
                corners.see(values, (y1, x1, y2, x2), (1, 1))
            annotations.append(Annotation(f"line {line}", (y1 * height, x1 * width, y2 * height, x2 * width), number))
        records.append(record(None, image, size, annotations, file or image, findings))
        if file and not len(records[-1].boxes) and not annotations and os.path.getsize(file) > 2:
            findings.emptied.append(image)
    corners.check(parts[0].folder or parts[0].listed)
    source = finish(with_ids(records), names, range(len(names)), findings, "yolo")
    return source._replace(same_as=same_as)


def _texts_of(place, parts):
    """The label files of the images of some parts."""
    pairs = Pairs(place)
    for part in parts:
        try:
            yield from filter(None, map(pairs.of, _images(place, part, Findings())))
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
            known = text in used or name in _NAMES or name.startswith(("readme", "license", "notes"))
            if not known and meaning(stem_of(text)) not in SPLITS:
                unused.append(text)
    elsewhere = set(_texts_of(place, others)) if unused else ()
    for text in unused:
        if text not in elsewhere and not _is_list(text):
            if os.path.getsize(text) < 3 or read_rows(text, Findings()):
                findings.error(text, "label without image; left out")
            else:
                findings.warning(text, "neither the label file of an image nor a list of images; left out")


FORMAT = Format(
    find,
    "yolo      a data .yaml; obj.data and lists of images; images/<split>/ and labels/<split>/; <split>/images/ "
    "and <split>/labels/; <split>/ with images and texts; or undivided",
)
