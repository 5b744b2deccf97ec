"""The list of published weights, for `tfyolo weights`."""

from typing import Any

from tfyolo.files import cache_folder
from tfyolo.weights.fetch import is_here
from tfyolo.weights.published import PUBLISHED


def rows() -> list[dict[str, Any]]:
    """A row for each entry of PUBLISHED, in its order."""
    return [row(name) for name in PUBLISHED]


def row(name: str) -> dict[str, Any]:
    """What is known of published weights.

    Args:
        name: of PUBLISHED.

    Returns:
        {"name", "config", "licence", "metric", "value": as published, or None; "input_size": that they are of, "bytes",
        "checksum": of the weights, None where not published; "source", "here": whether they are on this machine}.
    """
    published = PUBLISHED[name]
    metric, value = published.figure or (None, None)
    return {
        "name": name,
        "config": published.config,
        "licence": published.licence,
        "metric": metric,
        "value": value,
        "input_size": published.input_size,
        "bytes": published.size,
        "checksum": published.weights and published.weights.checksum,
        "source": published.source,
        "here": is_here(name),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'name':<19}{'config':<13}{'licence':<15}{'published':<26}{'MB':>7}  {'here':<5} from"]
    for each in rows:
        figure = f"{each['metric']} {each['value']:.3f} at {each['input_size']}" if each["metric"] else "-"
        size = f"{each['bytes'] / 1e6:.1f}" if each["bytes"] else "?"
        lines.append(
            f"{each['name']:<19}{each['config']:<13}{each['licence']:<15}{figure:<26}{size:>7}  "
            f"{'yes' if each['here'] else 'no':<5} {each['source']}"
        )
    lines.append(
        f"`train CONFIG init=NAME` starts from them, `tfyolo weights NAME` fetches them into {cache_folder()}; of a "
        "backbone alone (efficientnet-lite, darknet53) the rest begins at random"
    )
    return "\n".join(lines)
