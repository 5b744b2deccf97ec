"""One file for a model: arrays by name, and a JSON text with everything that a later command would have to ask for.

An HDF5 file with groups of arrays (`weights`, and in a file to resume from also the optimizer's and the EMA's) and the
attribute-like dataset `meta`: {"config": ..., "classes": [...], ...}.
"""

import contextlib
import json
from pathlib import Path

import numpy as np

from tfyolo import config as configs
from tfyolo import hdf5
from tfyolo import origin as origins
from tfyolo.errors import CheckpointError
from tfyolo.files import atomic_file, parse_json
from tfyolo.messages import printable

# What a model is used with: the EMA, which training evaluates, where the file has it.
FOR_USE = ("averages", "weights")
# What a run goes on from.
OF_A_RUN = ("weights", "averages", "optimizer", "random")


# --- files of weights -------------------------------------------------------------------------------------------------


def save(path, meta, **groups):
    """meta: what JSON can hold. groups: {name: {array's name: numpy array}}."""
    with atomic_file(path) as aside:
        hdf5.write(aside, {"meta": json.dumps(meta), **groups})


def read_meta(path):
    """The JSON part alone."""
    return _read(path, ())[0]


def load(path, *groups):
    """(meta, {name: array} of each group asked for); of a group given as several names, the first that the file has."""
    return _read(path, groups)


def load_run(path):
    """What a file to resume from holds.

    Args:
        path: of the file.

    Returns:
        (meta, {name: {array's name: array}}): the meta with the "state" that goes with the arrays; the groups OF_A_RUN.

    Raises:
        CheckpointError: it is no such file, or parts of it are missing.
    """
    meta, *groups = _read(path, OF_A_RUN)
    saved, state = dict(zip(OF_A_RUN, groups, strict=True)), meta.get("state")
    counts = [state.get(name) for name in ("stage", "epoch")] if isinstance(state, dict) else [None]
    best, running = (state.get(name) if isinstance(state, dict) else None for name in ("best", "running"))
    if (
        not all(isinstance(count, int) and count >= 0 for count in counts)
        or not isinstance(best, dict | None)
        or not {"AP", "AP50", "epoch"} <= (best or {"AP": 0, "AP50": 0, "epoch": 0}).keys()
        or not isinstance(running, dict | None)
        or not {"step", "sums", "lr", "seconds"} <= (running or dict.fromkeys(("step", "sums", "lr", "seconds"))).keys()
        or saved["weights"].keys() != saved["averages"].keys()
        or "iteration" not in saved["optimizer"]
    ):
        raise CheckpointError(
            f"{path}: expected the last.h5 of a run to go on from, received a file of weights without its state"
        )
    return meta, saved


def config_of(path, meta):
    """The Config in a file's meta, which has been read from a path. Raises CheckpointError."""
    with fits_this_version(path):
        return configs.from_json(meta["config"])


def origin_of(meta):
    """The Origin of the weights beside a meta; None if they began at random.

    A file of a version that recorded none is known to have begun so if it was trained without train.init.
    """
    if "origin" in meta:
        return origins.from_meta(meta["origin"])
    if "epoch" in meta or "state" in meta:
        try:
            if parse_json(meta["config"])["train"]["init"] is None:
                return None
        except (ValueError, KeyError, TypeError):
            pass
    return origins.Origin(origins.UNRECORDED)


@contextlib.contextmanager
def fits_this_version(path):
    """What is wrong with the config in a file, in the `with`, is a CheckpointError that names the file."""
    try:
        yield
    except configs.ConfigError as error:
        first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(
            f"{path}: expected a config of this version of tfyolo in it, received another: {first}{more}"
        ) from error


def _read(path, groups):
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file of weights (.h5) that tfyolo has written, found none")
    try:
        with hdf5.opened(path) as file:
            meta = _description(file.text("meta"))
            names = [(group,) if isinstance(group, str) else group for group in groups]
            found = [file.arrays(next((name for name in among if name in file), among[-1])) for among in names]
    except hdf5.HDF5Error as error:
        raise CheckpointError(
            f"{path}: expected a file of weights that tfyolo has written, but it does not read as one ({error}). "
            "It may be truncated or of another program; take another copy, or last.h5 beside it."
        ) from error
    return meta, *found


def _description(text):
    """The value of a file's JSON text, of the form that save() has been given. Raises HDF5Error."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise hdf5.HDF5Error(f"its description is no JSON: {str(error)[:100]}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("config"), str):
        raise hdf5.HDF5Error("its description has no config")
    classes = meta.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise hdf5.HDF5Error("its description has no names of classes")
    try:
        origins.from_meta(meta.get("origin"))
    except ValueError as error:
        raise hdf5.HDF5Error(f"its description is wrong: {error}") from None
    return meta


def weights_of(network):
    """{"layer/variable": numpy array} of a Keras model."""
    return {variable.path: np.asarray(variable) for variable in network.variables if _is_weight(variable)}


def assign(network, weights, source="the weights"):
    """Puts arrays into a Keras model by name: all or nothing.

    Raises CheckpointError that lists what is missing, left over or of another shape.
    """
    assign_variables(
        {variable.path: variable for variable in network.variables if _is_weight(variable)}, weights, source
    )


def assign_variables(variables, arrays, source):
    """Puts arrays into Keras's variables {name: variable}: all or nothing. Raises CheckpointError, as assign does."""
    faults = [f"missing: {name} {tuple(variables[name].shape)}" for name in variables if name not in arrays]
    faults += [f"left over: {printable(name)[:200]} {arrays[name].shape}" for name in arrays if name not in variables]
    faults += [
        f"shape: {name} is {arrays[name].shape}, the model wants {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    if faults:
        shown = "\n  ".join(faults[:10]) + (f"\n  and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise CheckpointError(f"{source} do not fit the model; nothing was loaded:\n  {shown}")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def random_states(network):
    """{name: numpy array} of the random states of a Keras model's dropout: no weights, but a resumed run needs them."""
    return {variable.path: np.asarray(variable) for variable in network.variables if not _is_weight(variable)}


def assign_random(network, states):
    """Puts the random states of random_states() into a Keras model's dropout; what it has none of stays."""
    for variable in network.variables:
        if not _is_weight(variable) and variable.path in states:
            variable.assign(states[variable.path])


def _is_weight(variable):
    return "seed_generator" not in variable.path
