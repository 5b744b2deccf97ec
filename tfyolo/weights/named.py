"""Published weights by name: fetched, and imported as their kind of file is."""

from pathlib import Path

from tfyolo import folders
from tfyolo.model import Model
from tfyolo.weights.darknet.importing import load as load_darknet
from tfyolo.weights.fetch import fetched
from tfyolo.weights.published import is_backbone, origin_of
from tfyolo.weights.runs import WeightsError, write_run
from tfyolo.weights.torch.importing import load as load_torch


def load(name: str, progress: bool = True) -> tuple[Model, dict, list[str]]:
    """The Model of published weights.

    Args:
        name: of PUBLISHED, of a whole network.
        progress: of fetch.fetched.

    Returns:
        (Model, what else its run's files hold, lines about what was found and done).

    Raises:
        FetchError, WeightsError, DarknetError, TorchError: they cannot be fetched or imported.
    """
    files = fetched(name, progress)
    if is_backbone(name):
        raise WeightsError(
            f"{name}: expected weights of a whole network, these are a backbone's; train with init={name}"
        )
    imported = load_darknet(*files) if files[0].suffix == ".cfg" else load_torch(*files)
    meta = {"darknet": imported.origin} if files[0].suffix == ".cfg" else {}
    return imported.model._replace(origin=origin_of(name)), meta, imported.report


def import_run(name: str, out=None, progress: bool = True) -> tuple[Path, list[str]]:
    """Writes the run folder of published weights.

    Args:
        name: of PUBLISHED.
        out: the folder, new or empty; None: runs/NAME, numbered if it is taken.
        progress: of fetch.fetched.

    Returns:
        (the folder, lines about what was found and done).
    """
    with folders.new(out, name) as folder:
        model, meta, report = load(name, progress)
        write_run(model, folder, **meta)
        return folder, report
