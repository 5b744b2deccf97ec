"""What a training may start from: the permissive weights that are on this machine, the best first."""

from typing import NamedTuple


class Start(NamedTuple):
    """A config, and the weights that it starts from.

    Attributes:
        config: its name.
        overrides: of the config, among them the weights.
        weights: what they are, in words; "" for none.
        licence: of the weights; "" for none.
        largest: the largest side of an input that it is made for, in pixels.
    """

    config: str
    overrides: tuple[str, ...]
    weights: str
    licence: str
    largest: int


FROM_SCRATCH = Start("yolov8n", (), "", "", 640)


def best_start() -> Start:
    """The Start of the most accurate small detector after a short training whose weights are here."""
    return FROM_SCRATCH
