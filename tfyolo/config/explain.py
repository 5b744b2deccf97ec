"""Errors of a config in the words of its own schema, and the check that raises them."""

import difflib
import functools
import itertools
import operator

from pydantic import ValidationError

from tfyolo.config.schema import SHORT, Config, ConfigError
from tfyolo.config.wording import join_path, nearest, place_line, shown, spaced_hint

MOST_LINES = 20  # lines of an error


SCHEMA = Config.model_json_schema()
_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def resolve_schema(schema):
    """A JSON schema without its reference, and without the null it may also be."""
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            schema = choice
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def child_schema(schema, key):
    """The schema of an entry; {} if there is none."""
    child = schema.get("properties", {}).get(key) or schema.get("items") or schema.get("additionalProperties")
    return child if isinstance(child, dict) else {}


def described(schema):
    """What a JSON schema of pydantic's accepts, in words."""
    if "anyOf" in schema:
        return " or ".join(map(described, schema["anyOf"]))
    schema = resolve_schema(schema)
    if "expected" in schema:
        return schema["expected"]
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema["type"]
    if kind == "null":
        return kind
    if "prefixItems" in schema:
        return f"[{', '.join(map(described, schema['prefixItems']))}]"
    if kind == "array":
        least = schema.get("minItems", 0)
        some = f" with at least {'one entry' if least == 1 else f'{least} entries'}" if least else ""
        some += f" and at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"a list{some}, each {described(schema['items'])}"
    if kind == "object":
        keys = schema.get("properties")
        return "a section with " + (", ".join(keys) if keys else f"each value {described(child_schema(schema, None))}")
    noun = {"string": "text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}[kind]
    limits = {limit: schema[limit] for limit in _SIGNS if limit in schema}
    limits = {limit: int(n) if n == int(n) else n for limit, n in limits.items()}  # 0, not 0.0
    if limits.keys() == {"minimum", "maximum"}:
        return f"{noun} from {limits['minimum']} to {limits['maximum']}"
    return " ".join([noun, " and ".join(f"{_SIGNS[limit]} {n}" for limit, n in limits.items())]).strip()


def _schema_at(loc):
    """(schema, loc) of a value, or of the nearest thing above it that is described as a whole, like a size."""
    schema = SCHEMA
    for depth, key in enumerate(loc):
        child = child_schema(resolve_schema(schema), key)
        if not child:
            return schema, loc[:depth]
        schema = child
    return schema, loc


def _explain(error, values):
    """(dotted path, what is wrong there) of one of pydantic's errors, in the words of the schema."""
    schema, loc = _schema_at(error["loc"])
    path = ".".join(map(str, loc))
    if error["type"] == "extra_forbidden":
        key, keys = str(error["loc"][-1]), list(resolve_schema(schema)["properties"])
        near = elsewhere(key) or difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return join_path(path, key), f"unknown key; {hint}the keys here are {', '.join(keys)}"
    if error["type"] == "missing" and loc == error["loc"]:
        return path, f"missing, expected {described(schema)}"
    try:
        value, default = functools.reduce(operator.getitem, loc, values), ""
    except KeyError:
        value, default = error["input"], " (the default)"
    except TypeError:  # it is written in short, as in `neck: pan`
        value, default = error["input"], ""
    if error["type"] == "value_error":  # a validator of the schema, which words it itself
        return path, f"{error['ctx']['error']}{default}"
    expected = described(schema)
    hint = "; quotes make it text" if expected.startswith("text") and isinstance(value, (int, float)) else ""
    if isinstance(value, str) and expected.startswith(("a section", "a list")):
        hint = spaced_hint(value)
    return path, f"expected {expected}, received {shown(value)}{default}{hint}"


def elsewhere(key):
    """The keys of other sections that a key out of its place may mean, the shortest first."""
    if key in SHORT:
        return [SHORT[key].replace("*", "0")]
    found, sections = [], [((), SCHEMA)]
    for path, schema in sections:
        for name, child in schema.get("properties", {}).items():
            child = resolve_schema(child)
            if name == key and path:
                found.append(".".join((*path, name)))
            if child.get("type") == "array":
                sections.append(((*path, name, "0"), resolve_schema(child.get("items", {}))))
            else:
                sections.append(((*path, name), child))
    return sorted(found, key=lambda path: path.count("."))


def validate(values, places, problems, *, saved=False):
    """The Config of plain values.

    Args:
        values: as YAML or JSON holds them.
        places: {dotted path: where the value was written}.
        problems: {dotted path: line of the error} of those already found.
        saved: whether they are of a run or an export, which may name entries of tables that only training needs.

    Raises:
        ConfigError: with a line for each thing that is wrong.
    """
    try:
        config = Config.model_validate(values, context={"saved": saved})
    except ValidationError as errors:
        errors = errors.errors(include_url=False)
        within = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
        # pydantic calls a list too short once an entry is wrong
        for error in itertools.islice((each for each in errors if each["loc"] not in within), MOST_LINES + 1):
            path, message = _explain(error, values)
            problems.setdefault(path, place_line(nearest(places, path), path, message))
    if problems:
        lines = list(problems.values())
        more = ["and more"] if len(lines) > MOST_LINES else []
        raise ConfigError("\n".join([*lines[:MOST_LINES], *more]))
    config._places = places
    return config
