"""What a training may start from: the permissive weights that are on this machine, the best first."""

from pathlib import Path
from typing import NamedTuple

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo.model import weights_file
from tfyolo.training.briefing import bfloat16_notice
from tfyolo.weights.fetch import is_here
from tfyolo.weights.published import PUBLISHED, is_backbone, origin_of


class Start(NamedTuple):
    """A config, and the weights that it starts from.

    Attributes:
        config: its name, or the path of a file.
        overrides: of the config, among them the weights.
        largest: the largest side of an input that it is made for, in pixels.
        enough: epochs after which a larger input is worth more than further ones.
        lr: the learning rate.
        weights: what they are and their licence, in words; "" for none.
    """

    config: str
    overrides: tuple[str, ...]
    largest: int
    enough: int
    lr: float = 0.0015
    weights: str = ""


# Of a whole network that is trained already. YOLOX-nano on BCCD, 17 epochs at 256 pixels in batches of 8, test AP: .591
# with .0015, .607 with .003.
TUNING = 0.003
# Small networks for phones. The first is better after minutes on a processor, where it takes three times as many steps.
PREFERRED = {
    "yolox-nano": Start("yolox-nano", ("train.init=yolox-nano",), 416, 12, TUNING),
    "efficientnet-lite0": Start("lite0", (), 416, 12),
}
FROM_SCRATCH = Start("yolov8n", (), 640, 30)
NOTHING_HERE = "none are here to start from; `tfyolo weights yolox-nano` fetches some, which quick itself never does"


def best_start() -> Start:
    """The Start of PREFERRED that comes first of those whose weights are here; without any, FROM_SCRATCH."""
    for name, start in PREFERRED.items():
        if name in PUBLISHED and is_here(name):
            return _in_fast_precision(start)._replace(weights=str(origin_of(name)))
    return _in_fast_precision(FROM_SCRATCH)


def start_from(init) -> Start:
    """The Start of weights that the user names.

    Args:
        init: a run's folder, a .h5 file, or a name of `tfyolo weights` that stands for a whole network.

    Raises:
        ConfigError, CheckpointError: there are none, or they are a backbone's.
    """
    if configs.is_published(init):
        if is_backbone(init):
            raise configs.ConfigError(
                f"{init}: expected weights of a whole network, these are a backbone's; `tfyolo train` starts from them"
            )
        published = PUBLISHED[init]
        start = Start(published.config, (f"train.init={init}",), published.input_size, 12, TUNING, str(origin_of(init)))
        return _in_fast_precision(start)
    if message := configs.foreign(init, "a run's folder or a .h5 file"):
        raise checkpoint.CheckpointError(message)
    file = weights_file(init)
    meta = checkpoint.read_meta(file)
    config = checkpoint.config_of(file, meta)
    known = Path(file).parent / "config.yaml"
    if not known.is_file():
        raise checkpoint.CheckpointError(f"{init}: expected a run's folder, which has config.yaml beside {file.name}")
    origin = checkpoint.origin_of(meta)
    weights = f"{init} ({origin})" if origin else str(init)
    overrides = (f'train.init="{init}"', "model.classes=null")
    return _in_fast_precision(Start(str(known), overrides, max(config.model.input_size), 12, TUNING, weights))


def _in_fast_precision(start):
    """The Start in bfloat16, on a processor that has it."""
    if bfloat16_notice("bfloat16"):
        return start
    return start._replace(overrides=(*start.overrides, "train.precision=bfloat16"))
