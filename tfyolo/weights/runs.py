"""What importers share: a run's folder made of a network that was trained elsewhere."""

from pathlib import Path

from tfyolo import config as configs
from tfyolo.errors import Error
from tfyolo.files import read_regular, write_text
from tfyolo.messages import printable
from tfyolo.model import save_model
from tfyolo.origin import Origin
from tfyolo.weights.fetch import recognised
from tfyolo.weights.published import origin_of

MOST_NAMES = 4 << 20  # bytes


class WeightsError(Error):
    """Weights from elsewhere cannot be imported. The message says why."""


def write_run(model, out, **meta):
    """Writes a Model as a run: best.h5, with which detect, evaluate, train and export work, and config.yaml."""
    save_model(out / "best.h5", model, **meta)
    write_text(out / "config.yaml", configs.to_yaml(model.config))


def origin_of_file(path, licence=None):
    """The Origin of a file of weights: that of the published weights which it holds, else its name.

    Args:
        path: of the file.
        licence: that of weights of its kind; None: they may be anybody's.
    """
    name = recognised(path)
    return Origin(printable(Path(path).name), licence) if name is None else origin_of(name)


def class_names(file, count):
    """The names in a file, one a line. Raises WeightsError unless there are `count` different ones."""
    try:
        lines = read_regular(file, MOST_NAMES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WeightsError(f"{file}: expected names of classes, one a line, as text in UTF-8") from None
    names = [printable(line.strip()) for line in lines if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise WeightsError(
            f"{file}: expected {count} different names, one a line, for the network's classes, received {len(names)}, "
            f"{len(set(names))} of them different"
        )
    return names
