"""What of a trained network fits another: part by part, and in the head class by class."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from tfyolo import checkpoint
from tfyolo.messages import counted, listed
from tfyolo.model import outline

MOST_NAMED = 8  # classes, or layers, in a line


class Transfer(NamedTuple):
    """What a Model is given.

    Attributes:
        arrays: {variable's path: array}, of the Model's shapes.
        report: lines, one for each part.
        complete: whether no part as a whole was re-initialised.
        ready: whether it detects all classes here as it did there.
    """

    arrays: dict
    report: list
    complete: bool
    ready: bool


def transferred(model, theirs, classes):
    """What a Model takes over from trained arrays: of each part (backbone, neck, head) all that fits, if the part fits.

    A part fits if it has the shapes that it would have with their classes. In the head, what the classes do not change
    is kept. Of the last layers (`output_channels`, heads.layers) the rows of classes that have the same name here,
    but for upper and lower case, are kept too, and those of the background.

    Args:
        model: the Model.
        theirs: {variable's path: array}.
        classes: their names in label order; None: they are of a backbone alone.

    Returns:
        A Transfer; its arrays are empty if nothing fits.
    """
    own, count = checkpoint.weights_of(model.network), len(model.classes)
    if classes is None or len(classes) == count:
        twin = model.network
    else:
        twin = outline(model, len(classes))
    expected = {variable.path: tuple(variable.shape) for variable in twin.variables if variable.path in own}
    arrays, report, complete = {}, [], True
    as_before = classes is None or tuple(classes) == model.classes
    counting = set() if as_before else _counting(model)
    for part, names in _by_part(own).items():
        if classes is None and part != "backbone":
            report.append(f"{part}: re-initialised, the file holds a backbone")
            complete = False
            continue
        misfits = [name for name in names if name not in theirs or theirs[name].shape != expected.get(name)]
        if misfits:
            found = theirs[misfits[0]].shape if misfits[0] in theirs else "nothing"
            report.append(
                f"{part}: re-initialised; {len(misfits)} of its {counted(len(names), 'array')} do not fit, the first "
                f"{misfits[0]}: {expected.get(misfits[0])} here, {found} there"
            )
            complete = False
            continue
        if as_before:
            kept, notes = {name: theirs[name] for name in names}, [f"{counted(len(names), 'array')} kept"]
        else:
            kept, notes = _of_part(model, own, theirs, names, classes, counting)
        arrays |= kept
        report.append(f"{part}: {'; '.join(notes)}")
    ready = complete and len(arrays) == len(own) and (as_before or len(shared_classes(model.classes, classes)) == count)
    return Transfer(arrays, report, complete, ready)


def _by_part(own):
    parts = {}
    for name in own:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return parts


def _of_part(model, own, theirs, names, classes, counting):
    """({path: array}, what is reported) of a part that fits, with other classes: what of it is kept."""
    layers = {layer.name: layer for layer in model.network.layers}
    same = shared_classes(model.classes, classes)
    kept, rows, anew = {}, [], []
    for name in names:
        layer = name.rpartition("/")[0]
        if own[name].shape[:-1] != theirs[name].shape[:-1] or (
            layer not in counting and own[name].shape != theirs[name].shape
        ):
            anew.append(layer)  # as wide as the classes are many
        elif layer not in counting:
            kept[name] = theirs[name]
        elif (blocks := getattr(layers[layer], "output_channels", None)) is None:
            anew.append(layer)
        else:
            index = paired_channels(blocks, model.decoder, len(model.classes), len(classes), same)
            kept[name] = np.array(own[name])
            kept[name][..., index >= 0] = theirs[name][..., index[index >= 0]]
            rows.append(layer)
    rows = [layer for layer in dict.fromkeys(rows) if layer not in anew]
    kept = {name: array for name, array in kept.items() if name.rpartition("/")[0] not in anew}
    whole = sum(name.rpartition("/")[0] not in rows for name in kept)
    notes = [f"{counted(whole, 'array')} kept"] if whole else []
    if anew:
        why = f"{len(classes)} classes there, {len(model.classes)} here"
        if len(classes) == len(model.classes):
            why = "the classes have other names"
        notes.append(f"{listed(dict.fromkeys(anew), MOST_NAMED)} re-initialised: {why}")
    if rows:
        notes.append(f"{listed(rows, MOST_NAMED)}: {_about_rows(model.classes, same)}")
    return kept, notes


def _counting(model):
    """The names of the layers whose output channels stand for classes.

    They declare it; where none does, as in a head from outside, they are those that another class would widen.
    """
    declared = {
        layer.name
        for layer in model.network.layers
        if any("cls" in parts for parts, _ in getattr(layer, "output_channels", ()))
    }
    if declared:
        return declared
    wider = {variable.path: variable.shape for variable in outline(model, len(model.classes) + 1).variables}
    return {
        variable.path.rpartition("/")[0]
        for variable in model.network.variables
        if wider.get(variable.path) != variable.shape
    }


def _about_rows(classes, same):
    """What is reported of the classes' rows. same: shared_classes' answer."""
    new = [name for i, name in enumerate(classes) if i not in same]
    if not same:
        return "the rows of all classes re-initialised, none there has the name of one here"
    known = listed([name for i, name in enumerate(classes) if i in same], MOST_NAMED)
    line = f"the {'row' if len(same) == 1 else 'rows'} of {known} kept, by name"
    return f"{line}; {listed(new, MOST_NAMED)} re-initialised" if new else line


def shared_classes(mine, theirs):
    """The classes that two sets have in common, by their names; where none is the same, but for upper and lower case.

    Args:
        mine: names, in label order.
        theirs: names, in label order.

    Returns:
        {label of mine: label of theirs}, each label once.
    """
    exact = {name: label for label, name in enumerate(theirs)}
    same = {label: exact[name] for label, name in enumerate(mine) if name in exact}
    folded, taken = {}, set(same.values())
    twice = Counter(name.casefold() for name in theirs)
    for label, name in enumerate(theirs):
        if label not in taken and twice[name.casefold()] == 1:
            folded[name.casefold()] = label
    for label, name in enumerate(mine):
        if label not in same and (found := folded.pop(name.casefold(), None)) is not None:
            same[label] = found
    return dict(sorted(same.items()))


def paired_channels(blocks, decoder, mine, theirs, same):
    """The channels of a last layer that mean the same with other classes.

    Args:
        blocks: the layer's `output_channels`.
        decoder: the Model's.
        mine: how many classes it has.
        theirs: how many the other has.
        same: {label of mine: label of theirs}.

    Returns:
        [C] int: for each of its channels the other's; -1 where there is none.
    """
    background = int(decoder.has_background)
    same = {i: i for i in range(background)} | {i + background: j + background for i, j in same.items()}
    own, other = decoder.parts(mine), decoder.parts(theirs)
    index, start = [], 0
    for parts, count in blocks:
        for _ in range(count):
            for part in parts:
                if part == "cls":
                    index += [start + same[i] if i in same else -1 for i in range(own[part])]
                else:
                    index += range(start, start + own[part])
                start += other[part]
    return np.array(index)
