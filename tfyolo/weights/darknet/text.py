"""Darknet's .cfg files as text: sections, their options, and the lines that they stand in."""

import math
from pathlib import Path
from typing import NamedTuple

from tfyolo.files import what_is
from tfyolo.weights.runs import WeightsError


class DarknetError(WeightsError):
    """A .cfg or .weights file cannot be represented exactly. The message names the file, the section and the line."""


LARGEST_CFG = 1 << 22  # bytes; the longest published is a hundredth of it


class Written(NamedTuple):
    """A section as it is written: its kind, the line of its [kind], its options, and the lines of those."""

    kind: str
    line: int
    options: dict[str, str]
    lines: dict[str, int]


def read_text(path):
    """The text of a .cfg file. Raises DarknetError if it is none."""
    path = Path(path)
    if not path.is_file():
        raise DarknetError(f"{path}: expected a Darknet .cfg, found {what_is(path)}")
    if path.stat().st_size > LARGEST_CFG:
        raise DarknetError(f"{path}: expected a Darknet .cfg, which is text, received {path.stat().st_size:,} bytes")
    contents = path.read_bytes()
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DarknetError(f"{path}: expected a Darknet .cfg, which is text; is this the .weights file?")
    return text


def parse_text(text, path):
    """[Written] of a .cfg's text, [net] first. path: the file's name in errors. Raises DarknetError."""
    sections = []
    for line, written in enumerate(text.splitlines(), start=1):
        written = "".join(written.partition("#")[0].split())  # Darknet drops every blank, inside words too
        if not written or written.startswith(";"):
            continue
        if written.startswith("["):
            if not written.endswith("]"):
                raise DarknetError(f"{path}:{line}: expected [section], received {written!r}")
            sections.append(Written(written[1:-1].lower(), line, {}, {}))
            continue
        key, equals, value = written.partition("=")
        if not equals or not sections:
            expected = "key=value" if sections else "[net] before anything else"
            raise DarknetError(f"{path}:{line}: expected {expected}, received {written[:60]!r}")
        sections[-1].options[key] = value
        sections[-1].lines[key] = line
    if not sections or sections[0].kind not in ("net", "network"):
        received = f"[{sections[0].kind}]" if sections else "none"
        raise DarknetError(f"{path}: expected a Darknet .cfg, whose first section is [net], received {received}")
    return sections


def number_of(section, key, path, default=None, convert=int):
    """The number that an option of a Written section has, else the default (text or number). Raises DarknetError."""
    text = section.options.get(key, default)
    if text is None:
        raise DarknetError(f"{path}:{section.line}: [{section.kind}]: expected {key}=..., received none")
    try:
        value = convert(text)
        if not math.isfinite(value) or (convert is int and not 0 < value < 1 << 20):
            raise ValueError
        return value
    except (ValueError, OverflowError):
        what = "a whole number above 0" if convert is int else "a number"
        line = section.lines.get(key, section.line)
        raise DarknetError(f"{path}:{line}: [{section.kind}]: {key}: expected {what}, received {text[:40]!r}") from None


def numbers_of(section, key, path, convert):
    """[number] of an option that lists them. Raises DarknetError."""
    try:
        values = [convert(value) for value in section.options[key].split(",") if value]
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values
    except (ValueError, OverflowError):
        raise DarknetError(
            f"{path}:{section.lines[key]}: [{section.kind}]: {key}: expected numbers separated by commas, "
            f"received {section.options[key][:40]!r}"
        ) from None
