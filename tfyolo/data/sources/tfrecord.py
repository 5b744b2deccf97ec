"""Sharded tf.train.Examples, as tfyolo, the TensorFlow Object Detection API or Roboflow write them.

Images stay in the file: a Record's span says where. Classes come from a <split>.json or a label map .pbtxt beside the
shards, else from what occurs in the shards of all splits.
"""

import functools
import os

from tfyolo.data import tfrecords, write_tfrecords
from tfyolo.data.headers import image_size
from tfyolo.data.sources.place import SPLITS, Candidate, Format, meaning
from tfyolo.data.sources.records import RecordsBuilder
from tfyolo.data.sources.source import LONGEST_SIDE, Annotation, DataError, Findings, finish, record
from tfyolo.files import read_bytes
from tfyolo.messages import counted, shortened
from tfyolo.remote import UnansweredError


def find(place):
    """The Candidate of TFRecord shards at a Place; None if there is none."""
    groups = {}
    for split, file in _shards(place):
        groups.setdefault(split, []).append(file)
    if not groups:
        return None
    together = [shard for shards in groups.values() for shard in shards]
    indexed = functools.cache(_index)
    splits = {split: functools.partial(read, place, shards, together, indexed) for split, shards in groups.items()}
    sound = sum(tfrecords.begins_well(shards[0]) for shards in groups.values())
    return Candidate(
        splits,
        sound / len(groups),
        f"{counted(len(together), 'shard')}; {sound} of {len(groups)} first ones begin well",
    )


def _shards(place):
    """(split, file) of each shard."""
    for file in place.globbed or ([place.file] if place.file else place.tree.files(place.root)):
        if split := tfrecords.split_of(os.path.basename(file)):
            yield split, file
    if place.is_folder:
        for folder in place.tree.folders(place.root):
            split = os.path.basename(folder)
            for file in place.tree.files(folder) if meaning(split) in SPLITS else ():
                name = os.path.basename(file)
                if ("record" in name or "-of-" in name) and tfrecords.split_of(name):
                    yield split, file


def _index(shard):
    """(the Examples of a shard, why there are no more or None)."""
    try:
        return tfrecords.index(shard), None
    except tfrecords.ShardError as error:
        return error.examples, str(error)
    except UnansweredError:  # of no file, but of the network: reading ends
        raise
    except OSError as error:
        return [], f"cannot be read: {error.strerror}"


def read(place, shards, together, indexed):
    """The Source of the shards of a split. together: those of all splits."""
    findings, folder = Findings(), os.path.dirname(shards[0])
    maps = [file for where in (folder, os.path.dirname(folder)) for file in place.tree.files(where, ".pbtxt")]
    try:
        known, integer_ids = tfrecords.read_classes(shards, maps)
    except tfrecords.ShardError as error:
        raise DataError(str(error)) from None
    classes = dict(known)
    if not known:
        for shard in dict.fromkeys([*shards, *together]):
            for example in indexed(shard)[0]:
                texts = example.texts or [str(number) for number in example.labels]
                classes |= zip(example.labels or texts, texts, strict=False)
    number_of = {name: number for number, name in known.items()}
    category_ids = sorted(classes, key=lambda number: (isinstance(number, str), number))
    label_of = {category: label for label, category in enumerate(category_ids)}

    # Only where nothing says what the classes are does a shard serve all splits; else one is held at a time.
    records, seen, index = RecordsBuilder(), set(), _index if known else indexed
    for missing in tfrecords.incomplete(shards):
        findings.error(shards[0], missing)
    for shard in shards:
        examples, damage = index(shard)
        if damage:
            findings.error(shard, damage)
        for example in examples:
            image_id = example.source_id or example.filename or f"{os.path.basename(shard)}:{example.place}"
            if integer_ids and image_id.isdecimal() and len(image_id) < 19:
                image_id = int(image_id)
            shown = shortened(str(image_id))[1:-1]
            where = f"record {example.place} ({shown})"
            if example.damaged:
                findings.error(shard, f"record {example.place}: damaged, or no tf.train.Example of boxes; left out")
                continue
            if image_id in seen:
                findings.warning(shard, f"record {example.place}: the id {shown} is used twice")
            seen.add(image_id)
            if not example.span:
                findings.error(shard, f"{where}: no image/encoded; left out")
                continue
            size = example.size
            if not size or max(size) > LONGEST_SIDE:
                try:
                    size = image_size(read_bytes(shard, example.span))
                except UnansweredError:  # of no file, but of the network: reading ends
                    raise
                except OSError as error:
                    findings.error(shard, f"{where}: {error.strerror or error}; left out")
                    continue
            height, width = size
            annotations = []
            numbers = example.labels or [number_of.get(text, text) for text in example.texts]
            for place, (number, (y1, x1, y2, x2)) in enumerate(zip(numbers, example.boxes_unit, strict=True), start=1):
                if number not in label_of:
                    findings.error(shard, f"{where}: box {place}: unknown class {shortened(number)}; left out")
                    continue
                box = (y1 * height, x1 * width, y2 * height, x2 * width)
                area = example.areas[place - 1] if example.areas else None
                crowd, difficult = (bool(flags and flags[place - 1]) for flags in (example.crowd, example.difficult))
                annotations.append(Annotation(f"{where}: box {place}", box, label_of[number], crowd, area, difficult))
            records.append(record(image_id, shard, size, annotations, shard, findings, example.span))
    return finish(records, [classes[category] for category in category_ids], category_ids, findings, "tfrecord")


FORMAT = Format(
    find,
    "tfrecord  <split>-00000-of-00004.tfrecord; <split>/*.tfrecord; also files of the TensorFlow Object Detection API",
    write_tfrecords.write,
)
