"""Which operators of a finished TFLite file a class of devices does not take: offline, without TensorFlow.

report = lint("model.tflite", "gpu")

A user adds a table with `LINTS["mine"] = Table(...)`, of lints.rules.
"""

import os
from typing import NamedTuple

from tfyolo.errors import Error
from tfyolo.messages import counted, printable
from tfyolo.tflite.graph import read
from tfyolo.tflite.lints import coreml, cpu, edgetpu, ethosu, gpu, micro
from tfyolo.tflite.lints.rules import Table, refused

LINTS: dict[str, Table] = {
    "cpu": cpu.TABLE,
    "gpu": gpu.TABLE,
    "edgetpu": edgetpu.TABLE,
    "ethosu": ethosu.TABLE,
    "micro": micro.TABLE,
    "coreml": coreml.TABLE,
}
_MOST_LAYER = 48  # characters of a layer's name in a line


class LintError(Error):
    """A lint cannot be made. The message says why and what to do."""


class Finding(NamedTuple):
    """An operator that a table does not take.

    Attributes:
        operator: "CONV_2D", or a custom one's own name.
        version: of its kernel.
        layer: the name of its first output.
        type: of that output: "float32".
        rank: of that output.
        reason: why it is not taken.
        place: its number in the file.
        macs: multiply-accumulates that stay on the processor because of it: its own and, where the device runs one part
            alone, those of what depends on it.
    """

    operator: str
    version: int
    layer: str
    type: str
    rank: int
    reason: str
    place: int
    macs: int


class Report(NamedTuple):
    """What a table says of a file.

    Attributes:
        table: its key in LINTS, or the title of one that was given.
        findings: what is not taken, worst first.
        operators: how many the file has.
        on_device: how many run on the device.
        share_of_operators: 0..1.
        share_of_macs: 0..1, of multiply-accumulates; 1 for a file without any.
    """

    table: str
    findings: tuple[Finding, ...]
    operators: int
    on_device: int
    share_of_operators: float
    share_of_macs: float

    @property
    def passed(self) -> bool:
        """Whether every operator is taken."""
        return not self.findings


def lint(file: str | os.PathLike | bytes, table: str | Table) -> Report:
    """What a class of devices takes of a TFLite file.

    Args:
        file: its path, or its bytes.
        table: a key of LINTS, or a Table.

    Returns:
        A Report.

    Raises:
        LintError: there is no such table.
        GraphError: the file is no TFLite file.
        OSError: it cannot be read.
    """
    if not isinstance(table, Table) and table not in LINTS:
        raise LintError(f"target: expected one of {', '.join(LINTS)}, received {table!r}")
    rules = table if isinstance(table, Table) else LINTS[table]
    operators = read(file)
    reasons = [refused(rules, each) for each in operators]
    on_device = _on_device(operators, reasons, rules.parts)
    findings = _findings(operators, reasons, rules.parts)
    macs = [each.macs for each in operators]
    held = [macs[place] for place in on_device]
    return Report(
        rules.title if isinstance(table, Table) else table,
        tuple(sorted(findings, key=lambda each: (-each.macs, each.place))),
        len(operators),
        len(on_device),
        len(on_device) / len(operators) if operators else 1.0,
        sum(held) / sum(macs) if sum(macs) else 1.0,
    )


def _findings(operators, reasons, parts):
    for place, reason in enumerate(reasons):
        if reason:
            each = operators[place]
            left = _after(operators, place) if parts == "first" else [place]
            output = each.outputs[0] if each.outputs else None
            yield Finding(
                each.name,
                each.version,
                each.layer,
                output.type if output else "",
                output.rank if output else 0,
                reason,
                place,
                sum(operators[i].macs for i in left),
            )


def _after(operators, place):
    """Places of an operator and of all that depend on it."""
    made, found = set(operators[place].writes), [place]
    for i in range(place + 1, len(operators)):
        if made.intersection(operators[i].reads):
            made.update(operators[i].writes)
            found.append(i)
    return found


def _on_device(operators, reasons, parts):
    """Places of the operators that run on the device, in order."""
    if parts == "all":
        return [place for place, reason in enumerate(reasons) if not reason]
    found = [part for part in _parts(operators, [reason is None for reason in reasons]) if reasons[part[0]] is None]
    if not found:
        return []
    return max(found, key=len) if parts == "largest" else found[0]


def _parts(operators, taken):
    """Places of the operators in parts that can run in one go, each all taken or all not.

    Each part has all that is of its kind and depends on nothing but the parts before it, as TFLite's own partition of a
    graph for its delegates.
    """
    left, missing = list(range(len(operators))), {number for each in operators for number in each.writes}
    parts = []
    while left:
        part, kind = [], None
        # Operators stand in the order in which they run, so that one pass finds all.
        for place in left:
            ready = not missing.intersection(operators[place].reads)
            kind = taken[place] if kind is None and ready else kind
            if ready and taken[place] == kind:
                part.append(place)
                missing.difference_update(operators[place].writes)
        if not part:  # a circle, which no converter writes
            break
        left = [place for place in left if place not in set(part)]
        parts.append(part)
    return parts


# --- for people -------------------------------------------------------------------------------------------------------


def summary(report: Report) -> str:
    """A Report in one line."""
    passed = "all taken" if report.passed else f"{counted(len(report.findings), 'operator')} not taken"
    return (
        f"{report.table}: {passed}; {report.on_device} of {counted(report.operators, 'operator')} and "
        f"{percent(report.share_of_macs)} of the MACs run on the device"
    )


def lines(report: Report) -> list[str]:
    """Its findings, one line for those that differ in nothing but the layer."""
    alike = {}
    for each in report.findings:
        alike.setdefault((each.operator, each.version, each.type, each.rank, each.reason), []).append(each)
    return [_line(found) for found in alike.values()]


def _line(found):
    first = found[0]
    layer = first.layer.split(";")[0]  # the converter joins the names of what it merged
    layer = layer if len(layer) <= _MOST_LAYER else f"...{layer[3 - _MOST_LAYER :]}"
    more = f" and {counted(len(found) - 1, 'more layer')}" if len(found) > 1 else ""
    named = f"{first.operator} v{first.version} {first.type} rank {first.rank}"
    return printable(f"{named:<44} {layer}{more}: {first.reason}")


def percent(share):
    """A share of 0..1 in words, never rounded to all or to nothing."""
    text = f"{100 * share:.1f}"
    return f"{'> 99.9' if text == '100.0' and share < 1 else '< 0.1' if text == '0.0' and share > 0 else text} %"
