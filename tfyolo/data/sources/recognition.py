"""Which formats the files at a place have, best first."""

import itertools

from tfyolo.data.sources.csv_table import EXPECTED
from tfyolo.data.sources.files import some
from tfyolo.data.sources.formats import FORMATS
from tfyolo.data.sources.place import ORDER, Place, meaning
from tfyolo.data.sources.source import DataError
from tfyolo.data.sources.text import head_text, starts
from tfyolo.messages import shortened


def candidates_of(place, formats):
    """([(format, Candidate)], best first; [(format, the error for which it is none)])."""
    found, errors = [], []
    for name in formats:
        try:
            candidate = FORMATS[name].find(place)
        except DataError as error:
            errors.append((name, error))
            continue
        if candidate:
            splits = dict(sorted(candidate.splits.items(), key=lambda item: (ORDER.get(meaning(item[0]), 9), item[0])))
            found.append((name, candidate._replace(splits=splits)))
    return _by_score(found) if len(found) > 1 else found, errors


def _by_score(candidates):
    """The candidates, best first.

    One with annotations of a tenth of the images that another has annotations of counts a tenth.
    """
    counts = [_images_of(candidate) for _, candidate in candidates]
    most = max((count for count in counts if count), default=1)
    scores = [
        candidate.score * (1 if count is None else count / most)
        for (_, candidate), count in zip(candidates, counts, strict=True)
    ]
    return [candidates[place] for place in sorted(range(len(candidates)), key=lambda place: -scores[place])]


def _images_of(candidate):
    try:
        return candidate.images() if candidate.images else None
    except DataError:  # reported where it is read
        return None


def below(place, formats, errors):
    """The (Place, candidates) of the only data set in the folders of a folder that is none itself. Raises DataError."""
    if errors:
        raise errors[0][1]
    inside, level = [], [place.root] if place.is_folder else []
    for _ in range(3):
        level = [child for folder in level for child in place.tree.folders(folder)][:100]
        for folder in level if not inside else ():
            inner = Place(folder, place.options)
            if found := candidates_of(inner, formats)[0]:
                inside.append((inner, found))
    if len(inside) == 1:
        below, found = inside[0]
        note = f"the data set is {below.path}, the only one below"
        return below, [(name, each._replace(note="; ".join(filter(None, (note, each.note))))) for name, each in found]
    if inside:
        hint = f"; did you mean {' or '.join(below.path for below, _ in inside[:8])}?"
    elif place.is_folder:
        hint = f"; it holds {', '.join(sorted(itertools.chain(*place.tree.list(place.root)))[:8]) or 'nothing'}"
    else:
        packed = (place.file or "").lower().endswith((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))
        hint = "; it is an archive: unpack it first" if packed else ""
    hint = _of_others(place) or hint
    looked = "".join(f"\n  {FORMATS[name].describe}" for name in formats)
    raise DataError(f"{place.path}: not recognised as {' or '.join(formats)}{hint}\nLooked for:{looked}")


# What annotations of formats that are not read have in them, by suffix.
_OTHERS = (
    (".xml", b"<annotations", "CVAT's XML for images"),
    (".json", b'"shape_attributes"', "VGG Image Annotator's JSON"),
    (".json", b'"coordinates"', "CreateML's JSON"),
    (".json", b'"classTitle"', "Supervisely's JSON"),
    (".csv", b"region_shape_attributes", "VGG Image Annotator's CSV"),
)


def _of_others(place):
    """What to say of annotations in a format that is not read; "" if there are none."""
    folders = (place.root, *place.tree.folders(place.root)) if place.is_folder else ()
    for suffix, mark, called in _OTHERS:
        files = place.tree.files(place.root, suffix) if folders else [place.file] if place.file else []
        for file in (*files, *(file for folder in folders[1:] for file in some(place.tree.files(folder, suffix), 3))):
            if file.lower().endswith(suffix) and mark in starts(file):
                return f"; {file} is {called}: export the data as COCO, VOC or YOLO"
    for file in (file for folder in folders for file in some(place.tree.files(folder, ".csv"), 1)):
        head = shortened(head_text(file).partition("\n")[0])
        return f"; {file} is a table of something else: expected {EXPECTED}, received {head}"
    return ""
