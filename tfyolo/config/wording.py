"""How places and values of a config are written in a message."""

import difflib
import json
import re

from tfyolo.messages import shortened


def spaced_hint(text):
    """A hint if a text is like batch:8, which YAML takes for one word; else ""."""
    found = re.match(r"[\s{[-]*([\w.-]+):([^\s:/\\,}\]]+)", text)
    return f"; YAML wants a space after the colon: {found[1]}: {found[2]}" if found else ""


def did_you_mean(name, known):
    """A hint at the one of the known names that a name may be a misspelling of; else ""."""
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=1)]
    return f"; did you mean {near[0]}?" if near else ""


def join_path(path, key):
    """The dotted path of a key below another."""
    return f"{path}.{key}" if path else str(key)


def nearest(places, path):
    """The place of the value at a dotted path, or of the nearest section above it; None without either."""
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path)


def place_line(place, path, message):
    """The line "place: path: message" of an error, without what is None or empty."""
    return ": ".join(filter(None, (place, cut(path), message)))


def cut(text, most=200):
    """A text that somebody has written, with the middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most - 60]}...{text[-57:]}"


def shown(value):
    """A value of a config for a message: on one line, and cut where it is long."""
    if isinstance(value, str):
        return shortened(value)
    text, pieces = "", json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
    while len(text) <= 60 and (piece := next(pieces, None)) is not None:  # all of it may not fit into memory
        text += piece
    return text if len(text) <= 60 else text[:57] + "..."
