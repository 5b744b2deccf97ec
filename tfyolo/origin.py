"""What a model's weights come from, and under which licence they are: it stands in the run and in every export."""

from typing import Any, NamedTuple

UNRECORDED = "weights of an earlier version of tfyolo, which recorded no origin"

# What a licence means for whoever ships a model. Those that ask for no more than to be named are not here.
_MEANINGS = {
    "AGPL-3.0": (
        "who ships a product with this model, or offers it over a network, has to publish the product's source under "
        "AGPL-3.0 too, or buy an Enterprise licence from Ultralytics"
    ),
    "GPL-3.0": "who ships a product with this model has to publish the product's source under GPL-3.0 too",
    None: "who made them decides whether this model may be shipped",
}


class Origin(NamedTuple):
    """What a model's weights were before they were trained here.

    Attributes:
        weights: their published name, or that of their file.
        licence: "Apache-2.0"; None: not known.
        source: the URL that they come from; None: not known.
    """

    weights: str
    licence: str | None = None
    source: str | None = None

    def __str__(self):
        source = f" ({self.source})" if self.source else ""
        meaning = _MEANINGS.get(self.licence)
        return f"{self.weights}{source}, {self.terms}{f': {meaning}' if meaning else ''}"

    @property
    def terms(self) -> str:
        """The licence in words."""
        return self.licence or "licence not known"


def from_meta(value: Any) -> Origin | None:
    """The Origin that a file's metadata hold; None of weights that began at random. Raises ValueError if it is none."""
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("weights"), str)
        or not all(isinstance(value.get(name), str | None) for name in ("licence", "source"))
    ):
        raise ValueError("an origin has a name and perhaps a licence and a source, all text")
    return Origin(value["weights"], value.get("licence"), value.get("source"))


def to_meta(origin: Origin | None) -> dict[str, str | None] | None:
    """What from_meta reads, of types that JSON has."""
    return origin and origin._asdict()


def initialised_line(origin: Origin | None) -> str | None:
    """The line about the licence with which train and export end; None of weights that began at random."""
    return origin and f"initialised from {origin}"
