"""A config read from YAML, with one `base:` and dotted overrides, and written again.

    base: yolov3.yaml                   # beside this file, else tfyolo's own; its values hold where this file has none
    data: ../bccd                       # short for {path: ../bccd}; paths count from the current directory
    model:
      neck: {name: up_cat, spp_pools: [5, 9, 13]}  # a part; `neck: up_cat` is short for {name: up_cat}
    train:
      stages:
        - {epochs: 100, lr: 1e-3}

Sections are merged key by key, all else is replaced: lists, and each option of a part, also where it is a mapping. A
part of another name, and a `data` that is a bare path, drop what the base says about them. `name` is never inherited:
it is the file's stem unless the file gives one. Scalars are those of YAML 1.2's core schema: 1e-3 is a number, only
true and false are booleans. A name without a folder, yolov8n or yolov8n.yaml, is that of a file here, else that of a
config that comes with tfyolo. What no config needs is an error at once: files above 1 MB, more than 20 levels, 20 bases
on each other or 100,000 values, numbers of more than 18 digits.

What a config may hold, config.schema says; the options of its parts are checked in config.parts. A ConfigError names
the place in the file, the value, and what would be right.
"""

import contextlib
import difflib
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml

from tfyolo.config.explain import SCHEMA, child_schema, elsewhere, resolve_schema, validate
from tfyolo.config.foreign import foreign
from tfyolo.config.renamed import rename_keys, renamed_notice
from tfyolo.config.schema import SHORT, Config, ConfigError
from tfyolo.config.wording import cut, join_path, place_line, shown, spaced_hint
from tfyolo.config.zoo import packaged, packaged_names
from tfyolo.files import address, here, parse_json, read_regular, what_is

# ----------------------------------------------------------------------------------------------------------- in and out


def load(path: str | os.PathLike, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Reads a config: a YAML file, over its `base:`, under overrides.

    Args:
        path: a YAML file, or the name of a config that comes with tfyolo: "yolov8n". A file of that name wins.
        overrides: "train.batch=16", "train.stages.0.epochs=3", or one of the short names of SHORT: "batch=16". The
            right side is YAML; later ones win. Relative paths in `data` count from the current directory.

    Raises:
        ConfigError: with one line for each thing that is wrong.
    """
    problems = {}
    file = _find(os.fspath(here(path) if address(path) else path))
    root = _read(file, problems)
    for override in overrides:
        try:
            root = _override(root, override, problems)
            _rename(root)
        except ConfigError as error:
            problems[override] = str(error)
    root.value.setdefault("name", _Node(Path(file).stem, root.place))
    places = {}
    return validate(_plain(root, places), places, problems)


def from_json(text: str | bytes) -> Config:
    """The config that `to_json` wrote."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"expected a config as JSON: {error}") from None
    return validate(with_new_names(values), {}, {}, saved=True)


def with_new_names(values):
    """The values of a config that was saved, read as JSON, under the names that the keys have today."""
    if isinstance(values, dict):
        for _ in rename_keys(values):
            pass
    return values


def to_json(config: Config) -> str:
    """Every value of a config, defaults included, for machines: it travels inside checkpoints and exports."""
    return config.model_dump_json()


def to_yaml(config: Config) -> str:
    """Every value of a config, defaults included, for people: `load` reads it back."""
    style = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True, "width": 120}
    return yaml.dump(json.loads(to_json(config)), Dumper=_Dumper, **style)


# ----------------------------------------------------------------------------------------------- YAML, with places kept


class _Node(NamedTuple):
    value: Any  # {key: _Node}, [_Node] or a scalar
    place: str  # 'configs/x.yaml:12' or 'override "train.batch=16"'


def _finite(text):
    if math.isinf(float(text)):
        raise ValueError
    return float(text)


def _whole(text):
    """A number that 64 bits hold; longer ones are nobody's, and Python would work on them for long."""
    if len(text) > 18:
        raise ValueError
    return int(text)


def _text(text):
    text.encode()  # ValueError for half a surrogate pair, which no file can hold
    return text


_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema less .inf and .nan. PyYAML is of 1.1, where 1e-3 is text, `no` a boolean and 1:30 ninety.
_SCALARS = {
    _TAG + "null": (r"~|null|Null|NULL|", lambda text: None),
    _TAG + "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    _TAG + "int": (r"[-+]?[0-9]+", _whole),
    _TAG + "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _finite),
    _TAG + "str": (None, _text),
}
_EXPECTED = {
    _TAG + "int": "a whole number of at most 18 digits",
    _TAG + "str": "text in Unicode",
    _TAG + "float": "a finite number",
}
MOST_YAML = 1 << 20  # bytes of a config
MOST_VALUES = 100_000  # in a config, those that an alias stands for counted wherever it stands
DEEPEST = 20  # levels in each other
MOST_BASES = 20  # files, each the base of the one before


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}
    depth = 0

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"nested in more than {DEEPEST} levels", self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would take for something else."""


for _tag, (_pattern, _) in _SCALARS.items():
    if _pattern:
        _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)
        _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)


def _compose(text, source, line_of, problems, path=""):
    """YAML text as a tree of _Node. Its values stand at the dotted `path`; `line_of(mark)` gives their place."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = ", ".join(filter(None, (getattr(error, name, None) for name in ("context", "problem", "reason"))))
        lines = text.splitlines()[max(0, mark.line - 1) : mark.line + 1] if mark else []
        hint = next(filter(None, map(spaced_hint, lines)), "")
        raise ConfigError(f"{line_of(mark) if mark else source}: not valid YAML: {reason}{hint}") from None
    return node and _tree(node, line_of, problems, path, (), iter(range(MOST_VALUES)))


def _tree(node, line_of, problems, path, above, left):
    """A _Node of a yaml.Node, and of all in it.

    Args:
        node: a yaml.Node.
        line_of: gives the place of a mark.
        problems: {dotted path: line of the error}, which gets what is wrong.
        path: the dotted path of the node.
        above: the nodes that it is inside of.
        left: an iterator with an item for each value that there may still be.
    """
    place = line_of(node.start_mark)
    if next(left, None) is None:
        raise ConfigError(
            f"{place}: expected a config of at most {MOST_VALUES:,} values, received more; an alias (*) repeats "
            "too much"
        )

    def problem(key, place, message):
        problems.setdefault(key, place_line(place, key, message))

    if any(node is other for other in above):
        problem(path, place, "an alias (*) stands inside what it names")
        return _Node(None, place)
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        try:
            return _Node(_SCALARS[node.tag][1](node.value), place)
        except ValueError:
            problem(path, place, f"expected {_EXPECTED[node.tag]}, received {shown(node.value)}")
    elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        above = (*above, node)
        return _Node(
            [_tree(n, line_of, problems, join_path(path, i), above, left) for i, n in enumerate(node.value)], place
        )
    elif isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        entries = {}
        for key_node, child in node.value:
            key, key_place = key_node.value, line_of(key_node.start_mark)
            if (
                key_node.tag == _TAG + "str"
                and key_node.style is None
                and child.value == ""
                and (hint := spaced_hint(key))
            ):
                problem(join_path(path, key), key_place, hint.removeprefix("; "))
                key, _, value = key.partition(":")  # what else is wrong is reported, too
                with contextlib.suppress(yaml.YAMLError):
                    child = yaml.compose(value, Loader=_Loader) or child
            if key_node.tag != _TAG + "str" or key != key.encode("utf-8", "ignore").decode():
                called = (key or "none") if isinstance(key, str) else "a list or a section"
                problem(join_path(path, called), key_place, f"expected text as a key, received {called}")
            elif key in entries:
                problem(join_path(path, key), key_place, f"given twice, first at {entries[key].place}")
            else:
                # A section is found by its key, not by the line its first value is on.
                inside = _tree(child, line_of, problems, join_path(path, key), (*above, node), left)
                entries[key] = inside._replace(place=key_place)
        return _Node(entries, place)
    else:
        problem(path, place, f"expected plain YAML, received the tag {node.tag.replace(_TAG, '!!')}")
    return _Node(None, place)


def _find(name, folder="", reader=None):
    """The file that a config's name means: the one there, with or without .yaml, else tfyolo's own.

    Args:
        name: as it is written.
        folder: that it counts from.
        reader: the file whose `base:` it is, which does not mean itself as long as there is another.
    """
    here = os.path.normpath(os.path.join(folder, name))
    endings = [""] if name.endswith((".yaml", ".yml")) else ["", ".yaml"]
    places = [here, *([str(packaged() / name)] if os.path.basename(name) == name else [])]
    files = [place + ending for place in places for ending in endings if os.path.isfile(place + ending)]
    others = [file for file in files if not (reader and os.path.samefile(file, reader))]
    if others or files:
        return (others or files)[0]
    if (received := what_is(here)) != "no such file":
        raise ConfigError(f"{cut(here)}: expected a config in YAML, received {received}")
    if problem := foreign(here, "a config in YAML"):
        raise ConfigError(f"{problem}, which can be trained further")
    stem = Path(name).stem.lower()
    beside = []
    with contextlib.suppress(OSError, ValueError):
        around = [each.name for each in Path(here).parent.glob("*.yaml")]
        beside = difflib.get_close_matches(os.path.basename(here)[:255], around, n=1)
    own = [stem] if stem in packaged_names() else difflib.get_close_matches(stem, packaged_names(), n=3)
    near = str(Path(here).with_name(beside[0])) if beside else f"{' or '.join(own)}, of tfyolo's own" if own else None
    hint = f"; did you mean {near}?" if near else ""
    tried = "and no config of that name comes with tfyolo (`tfyolo configs` lists them)" if len(places) > 1 else ""
    raise ConfigError(f"{cut(here)}: no such file, {tried or 'expected a config in YAML'}{hint}")


def _read(file, problems, above=()):
    """A file's tree, merged over that of its base."""
    other = foreign(file, "a config in YAML")
    try:
        text = read_regular(file, MOST_YAML).decode("utf-8-sig")
    except UnicodeDecodeError:
        received = (
            "the weights of a run; name its folder" if file.endswith(".h5") else "a file that is not text in UTF-8"
        )
        raise ConfigError(other or f"{file}: expected a config in YAML, received {received}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        root = _compose(text, file, lambda mark: f"{file}:{mark.line + 1}", problems)
    except ConfigError:
        if other:
            raise ConfigError(other) from None
        raise
    if other and not (root and isinstance(root.value, dict)):
        raise ConfigError(other)
    if root is None or not isinstance(root.value, dict):
        received = "an empty file" if root is None or root.value is None else shown(_plain(root))
        raise ConfigError(f"{root.place if root else file}: expected a mapping (key: value), received {received}")
    _rename(root, problems, notice=not _is_of_run(file))
    if "base" not in root.value:
        return root
    base = root.value.pop("base")
    if "base" in problems:  # which is not read at all
        raise ConfigError(problems["base"])
    if not isinstance(base.value, str) or not base.value:
        raise ConfigError(place_line(base.place, "base", f"expected a file's name, received {shown(_plain(base))}"))
    above = (*above, file)
    if len(above) > MOST_BASES:
        raise ConfigError(
            place_line(base.place, "base", f"expected at most {MOST_BASES} files, each the base of the one before it")
        )
    try:
        base_file = _find(base.value, os.path.dirname(file), file)
    except ConfigError as error:
        raise ConfigError(place_line(base.place, "base", str(error))) from None
    if any(os.path.samefile(base_file, other) for other in above):
        raise ConfigError(place_line(base.place, "base", f"goes round in a circle: {' -> '.join((*above, base_file))}"))
    under = _read(base_file, problems, above)
    under.value.pop("name", None)
    return _merge(under, root, SCHEMA)


def _is_of_run(file):
    """Whether a config is the one that training has written beside the weights of a run."""
    return os.path.basename(file) == "config.yaml" and any(
        os.path.exists(os.path.join(os.path.dirname(file), name)) for name in ("best.h5", "last.h5")
    )


def _rename(root, problems=None, *, notice=True):
    """Moves what stands at the old names of keys to the new ones.

    problems: gets the keys that are there under both names; None, for an override, which replaces what was there.
    notice: whether standard error says so.
    """
    moved = rename_keys(root.value, lambda node: node.value, lambda entries, node: _Node(entries, node.place))
    for old, new, node, twice in moved:
        if twice and problems is not None:
            problems[old] = place_line(node.place, old, f"is now called {new}, which is given, too; remove {old}")
        elif notice:
            print(f"{node.place}: {renamed_notice(old, new)}", file=sys.stderr)


def _merge(under, over, schema):
    """`over` laid on `under`: sections key by key; all else, so also each option of a part, replaces what was there."""
    schema = resolve_schema(schema)
    short = schema.get("short")  # the key that a bare string stands for, in a part or a data set
    if isinstance(over.value, str) and short == "name":
        over = _Node({short: over}, over.place)
    if isinstance(under.value, str) and short:
        under = _Node({short: under}, under.place)
    if not (schema and isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    old, new = under.value.get("name"), over.value.get("name")
    if short == "name" and new and not (old and old.value == new.value):
        return over
    merged = dict(under.value)
    for key, node in over.value.items():
        merged[key] = _merge(merged[key], node, child_schema(schema, key)) if key in merged else node
    return _Node(merged, over.place)


def _override(root, text, problems):
    key, equals, right = text.partition("=")
    place = f'override "{cut(text)}"'
    keys = key.strip().split(".")
    if not (equals and right.strip() and all(keys)):
        hint = (
            f"; data is named by data={cut(text)}" if not equals and len(text) < 4096 and os.path.exists(text) else ""
        )
        raise ConfigError(f"{place}: expected KEY=VALUE, such as train.batch=16 or train.clip=null{hint}")
    if len(keys) > DEEPEST:
        raise ConfigError(f"{place}: expected a key of at most {DEEPEST} parts, received {len(keys):,}")
    if len(keys) == 1 and (hint := _short(*keys)):
        raise ConfigError(f"{place}: {cut(key)}: unknown key; {hint}")
    keys = SHORT.get(".".join(keys), ".".join(keys)).split(".")
    if "*" in keys:
        stages = _entry(_entry(root, "train"), "stages")
        count = len(stages.value) if stages and isinstance(stages.value, list) else 1
        if count != 1:
            each = f"train.stages.0.{keys[-1]}={right.strip()}"
            raise ConfigError(f"{place}: the plan of this config has {count} stages; say of which, as {each}")
        keys = [key if key != "*" else "0" for key in keys]
    node = _compose(right, place, lambda mark: place, problems, ".".join(keys))
    if node is None:
        raise ConfigError(f"{place}: expected a value after =, received only a comment; put quotes around it")
    return _put(root, keys, node, SCHEMA, "")


def _short(key):
    """What a key of one word may mean, if the config has no such key anywhere; else None."""
    keys, short = list(Config.model_fields), [name for name in SHORT if "." not in name]
    if key in (*keys, *short) or elsewhere(key):
        return None
    near = difflib.get_close_matches(key.lower(), [*keys, *short], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}the keys here are {', '.join(keys)}, in short also {', '.join(short)}"


def _entry(node, key):
    return node.value.get(key) if node and isinstance(node.value, dict) else None


def _put(node, keys, new, schema, path):
    """`node`, None where there was nothing, with `new` merged in at `keys`."""
    if not keys:
        return _merge(node, new, schema) if node else new
    key, *rest = keys
    child = child_schema(resolve_schema(schema), key)
    if node and isinstance(node.value, list):
        count = len(node.value)
        if not key.isdecimal():
            raise ConfigError(place_line(new.place, path, f"a list of {count}, expected an index: {path}.0.{key}"))
        if len(key) > 9 or int(key) >= count:
            raise ConfigError(
                place_line(new.place, path, f"a list of {count}, counted from 0; received the index {cut(key)}")
            )
        items = list(node.value)
        items[int(key)] = _put(items[int(key)], rest, new, child, join_path(path, key))
        return _Node(items, node.place)
    inside = node.value if node and isinstance(node.value, dict) else {}
    entry = _Node(
        {key: _put(inside.get(key), rest, new, child, join_path(path, key))}, node.place if inside else new.place
    )
    if node and schema:
        return _merge(node, entry, schema)
    return _Node({**inside, **entry.value}, entry.place)


def _plain(node, places=None, path=""):
    """The values of a tree; where they stand goes into `places` {dotted path: place}."""
    if places is not None:
        places[path] = node.place
    if isinstance(node.value, dict):
        return {key: _plain(child, places, join_path(path, key)) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child, places, join_path(path, i)) for i, child in enumerate(node.value)]
    return node.value
