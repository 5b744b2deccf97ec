"""A data set's text files, read within bounds."""

import codecs
import json
import re

import yaml

from tfyolo.data.sources.seen import looked_at
from tfyolo.data.sources.source import DataError
from tfyolo.files import open_regular, parse_json, read_regular
from tfyolo.messages import shortened
from tfyolo.remote import UnansweredError

MOST_TEXT = 64 << 20  # bytes of a label file or list
MOST_YAML = 4 << 20  # bytes
_DEEPEST_YAML = 20  # levels


def read_bytes(file, most=None) -> bytes:
    """All of a regular file. Raises DataError; also if it is longer than `most` bytes."""
    looked_at(file)
    try:
        content = read_regular(file, most)
    except UnansweredError:  # of no file, but of the network: reading ends
        raise
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{file}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    return content


def read_text(file, most=MOST_TEXT) -> str:
    """A text file in UTF-8, or in what its byte order mark says. Raises DataError."""
    content = read_bytes(file, most)
    try:
        return content.decode(_by_mark(content) or "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{file}: expected text in UTF-8; if it is in another encoding: iconv -f ENCODING -t UTF-8"
        ) from None


def _by_mark(content):
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
    marks[codecs.BOM_UTF16_BE] = "utf-16"
    return next((encoding for mark, encoding in marks.items() if content.startswith(mark)), None)


def read_lines(file, most=MOST_TEXT) -> list[str]:
    """The lines of a text file that are not empty, without the spaces round them. Raises DataError."""
    return [line.strip() for line in read_text(file, most).splitlines() if line.strip()]


def read_json(file, of_each=None):
    """What a JSON file holds; of_each: as parse_json takes it. Raises DataError."""
    content = read_bytes(file)
    try:
        # As json.loads does, which would keep the bytes beside the text.
        content = content.decode(json.detect_encoding(content), "surrogatepass")
        return parse_json(content, of_each)
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None


# In double quotes, where YAML takes a backslash for the beginning of an escape: written by hand, as nobody who knows
# that would.
_WINDOWS_PATH = re.compile(r'"[A-Za-z]:\\(?!\\)[^"\n]*"')


def read_yaml(file):
    """Reads a data .yaml: (content, {key: line}).

    The content is mappings, lists and text, each scalar as it is written: 02146, 1.10 and no are names of classes.

    Raises:
        DataError: it cannot be read, or is nested deeply, as no data file is.
    """
    text = _WINDOWS_PATH.sub(lambda found: found[0].replace("\\", "\\\\"), read_text(file, MOST_YAML))
    anchors, stack, keys, lines = {}, [[]], [None], {}  # of each mapping on the stack the key whose value comes next

    def put(value, line):
        if isinstance(stack[-1], list):
            stack[-1].append(value)
        elif keys[-1] is None:
            keys[-1] = value if isinstance(value, str) else shortened(value)
            if len(stack) == 2:
                lines[keys[-1]] = line
        else:
            stack[-1][keys[-1]], keys[-1] = value, None

    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.ScalarEvent):
                is_key = isinstance(stack[-1], dict) and keys[-1] is None
                nothing = event.implicit[0] and event.value in ("", "~", "null") and len(stack) == 2 and not is_key
                value = None if nothing else event.value
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise DataError(f"{file}:{line}: not valid YAML: *{event.anchor} names nothing")
                value = anchors[event.anchor]
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                if len(stack) > _DEEPEST_YAML:
                    raise DataError(f"{file}:{line}: nested too deeply for a data file")
                value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                stack.pop(), keys.pop()
                continue
            else:
                continue
            put(value, line)
            if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent):
                anchors[event.anchor] = value
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(value)
                keys.append(None)
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    return (stack[0][0] if stack[0] else None), lines


def starts(file, count=1 << 16) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    looked_at(file)
    try:
        with open_regular(file) as stream:
            return stream.read(count)
    except (OSError, ValueError):
        return b""


def head_text(file) -> str:
    """The text that a file begins with, in UTF-8 or in what its byte order mark says; what is none stands as U+FFFD."""
    content = starts(file)
    return content.decode(_by_mark(content) or "utf-8-sig", "replace").replace("\0", "")
