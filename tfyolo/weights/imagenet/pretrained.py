"""Which backbones have published weights, and what finds and reads them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tfyolo.origin import Origin
from tfyolo.weights.imagenet import applications, efficientnet_lite


class Pretrained(NamedTuple):
    """Where the published weights of a backbone come from, and how they are read.

    Attributes:
        find: (options) -> pathlib.Path of their file, which may be fetched for it. options: the backbone's, as in the
            config. Raises ValueError, whose message says what to put where.
        origin: (options) -> their Origin.
        read: (path, options) -> ({"backbone.layer/variable": array} of the whole backbone, one line that says what they
            are, under which licence, and what of the file is left aside). Raises tfyolo.Error.
    """

    find: Callable[[dict], Path]
    origin: Callable[[dict], Origin]
    read: Callable[[Path, dict], tuple[dict, str]]


# {name of a backbone with an option `weights`: its Pretrained}. Users may add to it.
PRETRAINED = {
    f"efficientnet_lite{variant}": Pretrained(
        functools.partial(efficientnet_lite.find, variant=variant),
        functools.partial(efficientnet_lite.origin, variant=variant),
        functools.partial(efficientnet_lite.read, variant=variant),
    )
    for variant in (0, 1, 2)
} | {"applications": Pretrained(applications.find, applications.origin, applications.read)}
