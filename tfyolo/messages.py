"""How this package writes text: what is printable, short enough, and counted."""

import math
import re

# What acts on a terminal or hides what stands beside it: control characters, changes of direction, halves of surrogate
# pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text, keep=""):
    r"""Text of others for people to read: control characters stand as their codes, "\x1b", but for those to `keep`."""
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), str(text)
    )


def shortened(value, most=60):
    """A value that a file holds, quoted, for a message: printable, on one line and at most `most` characters long."""
    if isinstance(value, list | tuple | dict):  # which may hold more of each other than fits into memory as text
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else text[: most - 3] + "..."


def counted(number, noun):
    """A number and what it counts: "1 row", "3 epochs", "2 categories", "1,024 classes"; noun: a regular singular."""
    return f"{number:,} {noun if number == 1 else _plural(noun)}"


def _plural(noun):
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    # After a vowel that is short by nature, ch sounds as k: epochs, techs; but batches, branches, brooches.
    hissing = re.search("(s|x|z|sh|ch)$", noun) and not re.search("(^|[^aeiou])(o|e)ch$", noun)
    return noun + ("es" if hissing else "s")


def listed(names, most):
    """The first names of a list, "a, b, c, ..." where more than `most` follow."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def plain(value, digits=None):
    """A value as JSON takes it: lists and dicts of plain numbers, null for NaN and infinity.

    Args:
        value: a dict, list, tuple, NumPy array or number, nested.
        digits: after the point, to which floats are rounded; None: all.
    """
    if isinstance(value, dict):
        return {key: plain(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else value if digits is None else round(value, digits)
    return value
