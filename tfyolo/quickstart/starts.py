"""What a training may start from: the permissive weights that are on this machine, the best first."""

from typing import NamedTuple

from tfyolo.weights.fetch import is_here
from tfyolo.weights.published import PUBLISHED, origin_of


class Start(NamedTuple):
    """A config, and the weights that it starts from.

    Attributes:
        config: its name.
        overrides: of the config, among them the weights.
        weights: what they are and their licence, in words; "" for none.
        largest: the largest side of an input that it is made for, in pixels.
    """

    config: str
    overrides: tuple[str, ...]
    weights: str
    largest: int


# Small networks for phones, the best after a short training first (README, quick).
PREFERRED = {
    "efficientnet-lite0": Start("lite0", (), "", 416),
    "yolox-nano": Start("yolox-nano", ("train.init=yolox-nano",), "", 416),
}
FROM_SCRATCH = Start("yolov8n", (), "", 640)


def best_start() -> Start:
    """The Start of PREFERRED that comes first of those whose weights are here; without any, FROM_SCRATCH."""
    for name, start in PREFERRED.items():
        if name in PUBLISHED and is_here(name):
            return start._replace(weights=str(origin_of(name)))
    return FROM_SCRATCH
