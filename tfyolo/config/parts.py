"""The names of all parts and the options that each takes, checked before TensorFlow is imported, which takes seconds.

Where a part's table is imported, it is what counts, with the parts that users have added to it. Where it is not, nobody
can have added to it, and the names and signatures are read from the source of this package.
"""

import ast
import builtins
import inspect
import json
import typing
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from tfyolo.config import ranges, tables
from tfyolo.config.explain import described
from tfyolo.config.wording import did_you_mean, shown

# Each kind's table: the module below tfyolo, and its name there.
TABLES = {
    "backbone": ("backbones", "BACKBONES"),
    "neck": ("necks", "NECKS"),
    "head": ("heads", "HEADS"),
    "decoder": ("decoders", "DECODERS"),
    "assigner": ("assigners", "ASSIGNERS"),
    "objective": ("losses", "OBJECTIVES"),
    "postprocess": ("postprocess", "POSTPROCESS"),
    "optimizer": ("training.optim", "OPTIMIZERS"),
}


def check(config):
    """Checks the names and options of all parts of a Config, optimizer included, without importing TensorFlow.

    Args:
        config: a Config.

    Raises:
        ConfigError: a part is not in its table, has no such option, or one of another type or out of its range.
    """
    for kind in TABLES:
        section = "train" if kind == "optimizer" else "model"
        part = getattr(getattr(config, section), kind)
        if part is not None:
            path, known = f"{section}.{kind}", builders(kind)
            check_name(config, path, part, known)
            check_options(config, path, part, options_of(known[part.name]))


def check_name(config, path, part, known):
    """Raises ConfigError unless a part, which stands at a dotted path of the config, has one of the known names."""
    if part.name not in known:
        hint = did_you_mean(part.name, known)
        raise config.error(f"{path}.name", f"expected one of {', '.join(known)}, received {part.name!r}{hint}")


def check_options(config, path, part, known):
    """The options of a part with the types and in the ranges that its builder's signature asks for.

    Args:
        config: the Config, for errors.
        path: where the part stands in it.
        part: a config.Part.
        known: {option: inspect.Parameter}, from options_of.

    Raises:
        ConfigError: an option is unknown, missing, of another type or out of its range.
    """
    options = {}
    for name, value in part.options.items():
        if name not in known:
            choices = ", ".join(known) or "none"
            hint = did_you_mean(name, known)
            raise config.error(f"{path}.{name}", f"{part.name} has no such option; its options: {choices}{hint}")
        options[name] = _typed(config, f"{path}.{name}", value, known[name].annotation)
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise config.error(path, f"{part.name} needs the option {name!r}, received none")
    return options


def options_of(builder):
    """{option: inspect.Parameter} of one of builders(): its keyword-only arguments, `name` excepted."""
    signature = _signature(*builder) if isinstance(builder, _Written) else inspect.signature(builder)
    parameters = signature.parameters.items()
    return {name: each for name, each in parameters if each.kind is each.KEYWORD_ONLY and name != "name"}


def builders(kind):
    """{name: function, class, or where it is written} of all parts of a kind, a key of TABLES."""
    module, table = TABLES[kind]
    imported = tables.imported(module, table)
    return _written(module, table) if imported is None else imported


def typed(value, annotation):
    """A value in the type that the annotation of an option asks for: lists become tuples, while "16" is no number.

    Args:
        value: as YAML or JSON holds it.
        annotation: of a keyword argument; inspect.Parameter.empty accepts anything.

    Raises:
        ValueError: it is of another type, or out of range: "expected a number from 0 to 1, received -1".
    """
    if annotation is inspect.Parameter.empty:
        return value
    adapter = TypeAdapter(annotation)
    try:
        return adapter.validate_json(json.dumps(value, default=_of_numpy), strict=True)  # in JSON a list may be a tuple
    except ValidationError:
        schema = adapter.json_schema()
        expected = annotation if "$defs" in schema else described(schema)  # types of a part's own have no words
        raise ValueError(f"expected {expected}, received {shown(value)}") from None


def _of_numpy(value):
    return value.item() if hasattr(value, "item") else str(value)


def _typed(config, path, value, annotation):
    try:
        return typed(value, annotation)
    except ValueError as error:
        raise config.error(path, str(error)) from None


# --- from the source --------------------------------------------------------------------------------------------------

_NAMES = {**vars(builtins), **vars(typing), **vars(ranges)}  # in which annotations are evaluated


class _Written(NamedTuple):
    """A function or class by its name in a module of this package, which may have imported it from another one."""

    module: str
    name: str


def _written(module, table):
    """{name: _Written} of the table {"name": builder} at a module's foot."""
    return {name: _Written(module, builder.id) for name, builder in tables.written(module, table).items()}


def _signature(module, name):
    """The inspect.Signature of a module's function or class: keyword-only arguments with literal defaults."""
    for node in tables.tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tfyolo."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _signature(node.module.removeprefix("tfyolo."), alias.name)
        elif isinstance(node, ast.FunctionDef) and node.name == name:
            return _of_arguments(node.args)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    return _of_arguments(each.args)
            return _signature(module, node.bases[0].id)  # that of the class it is derived from
    raise LookupError(f"tfyolo.{module} has no function or class {name}")


def _of_arguments(arguments):
    empty = inspect.Parameter.empty
    return inspect.Signature(
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=empty if default is None else _literal(default),
            annotation=_evaluated(argument.annotation),
        )
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    )


def _literal(default):
    try:
        return ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)


def _evaluated(annotation):
    try:
        return inspect.Parameter.empty if annotation is None else eval(ast.unparse(annotation), _NAMES)
    except NameError:  # a type of its own module: it is checked once that is imported
        return inspect.Parameter.empty
