"""What tables of devices are made of: a Table, how it takes an operator, and rules that several of them share.

A rule is called with an Operator and gives why it is not taken, in a few words, or None.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tfyolo.tflite.graph import Operator

Rule = Callable[[Operator], str | None]


class Taken(NamedTuple):
    """How a device takes an operator.

    Attributes:
        version: the newest of its kernel; None: any.
        types: of tensors that are computed, in place of the table's.
        rules: what else must hold.
    """

    version: int | None = None
    types: frozenset[str] | None = None
    rules: tuple[Rule, ...] = ()


class Table(NamedTuple):
    """What a class of devices takes.

    Attributes:
        title: the class, in a few words.
        operators: {name: Taken}, custom ones by their own names; None: all of TFLite's own.
        types: of tensors that are computed; constants are what an operator's rules let them be.
        rules: what must hold of every operator.
        parts: how many connected parts of a graph the device runs: "all", the "largest", or the "first" one, which ends
            where something depends on what is not taken.
    """

    title: str
    operators: Mapping[str, Taken] | None
    types: frozenset[str]
    rules: tuple[Rule, ...] = ()
    parts: str = "all"


def refused(table: Table, operator: Operator) -> str | None:
    """Why a table does not take an operator; None if it does."""
    if table.operators is None:
        taken = None if operator.is_custom else Taken()
    else:
        taken = table.operators.get(operator.name)
    if taken is None:
        return "a custom operator" if operator.is_custom else "not among its operators"
    reasons = []
    if taken.version is not None and operator.version > taken.version:
        reasons.append(f"version {operator.version}, where it takes up to {taken.version}")
    allowed = table.types if taken.types is None else taken.types
    wrong = sorted({each.type for each in (*operator.computed, *operator.outputs)} - allowed)
    if wrong:
        reasons.append(f"{' and '.join(wrong)}, where it takes {', '.join(sorted(allowed))}")
    else:  # rules ask for no more than one type
        reasons += [reason for rule in (*table.rules, *taken.rules) if (reason := _answer(rule, operator))]
    return "; ".join(dict.fromkeys(reasons)) or None


def _answer(rule, operator):
    try:
        return rule(operator)
    # Rules take inputs, sides and options as a converter writes them.
    except (IndexError, ValueError, TypeError, AttributeError, KeyError):
        return "inputs or sides that such an operator does not have"


def same(names: str, taken: Taken | None = None) -> dict[str, Taken]:
    """{name: taken} of names with spaces between them; without one, any version and type is."""
    return dict.fromkeys(names.split(), taken or Taken())


# --- rules ------------------------------------------------------------------------------------------------------------


def rank_at_most(most: int, constants: bool = True) -> Rule:
    """No tensor has more sides; constants: also none of those."""

    def rule(operator):
        tensors = [each for each in operator.inputs if each is not None] if constants else operator.computed
        ranks = [each.rank for each in (*tensors, *operator.outputs)]
        return f"rank {max(ranks)}, where it takes up to {most}" if max(ranks, default=0) > most else None

    return rule


def static_shapes(operator):
    """Every side is known beforehand."""
    open_ones = any(each.is_dynamic for each in (*operator.computed, *operator.outputs))
    return "a shape that is only known at run time" if open_ones else None


def no_activation(operator):
    """No activation is fused into it."""
    activation = operator.options["activation"]
    return f"a fused {activation}" if activation else None


def constant(*places: int) -> Rule:
    """Inputs at places, where they are given, are constants."""

    def rule(operator):
        given = [operator.inputs[i] for i in places if i < len(operator.inputs)]
        return "parameters that are computed" if any(each and each.data is None for each in given) else None

    return rule


def option_is(value, *options: str) -> Rule:
    """Options have a value."""

    def rule(operator):
        return next(
            (f"{name} {_plain(operator.options[name])}" for name in options if operator.options[name] != value), None
        )

    return rule


def _plain(value):
    return "is set" if value == 1 else value


def equal_options(first: str, second: str) -> Rule:
    """Two options have the same value."""

    def rule(operator):
        values = [operator.options[name] for name in (first, second)]
        return f"{first} {values[0]} and {second} {values[1]}" if values[0] != values[1] else None

    return rule


def not_along_batch(place: int, data: int = 0) -> Rule:
    """Axes, a constant input at a place, leave out the first of the input at `data`."""

    def rule(operator):
        axes = operator.inputs[place].numbers() if place < len(operator.inputs) else None
        if axes is None:
            return "axes that are computed"
        return "along the batch" if any(axis in (0, -operator.inputs[data].rank) for axis in axes) else None

    return rule


def product(sides) -> int:
    """Of sides of a shape."""
    return math.prod(sides)
