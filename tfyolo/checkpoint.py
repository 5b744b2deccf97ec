"""One file for a model: arrays by name, and a JSON text with everything a later command would have to ask for.

An HDF5 file with groups of arrays (`weights`, and in a file to resume from also the optimizer's and the averages') and the attribute-like
dataset `meta`: {"config": ..., "classes": [...], ...}. Written aside, then renamed: complete or absent.
"""

import json
import os
from pathlib import Path

import h5py
import numpy as np

# What a model is used with: the moving averages, which training judges, where the file has them.
FOR_USE = ("averages", "weights")


class CheckpointError(ValueError):
    """A file of weights cannot be read, or does not fit what it is loaded into."""


def save(path, meta, **groups):
    """meta: what JSON can hold. groups: {name: {array's name: numpy array}}."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(aside, "w") as file:
            file["meta"] = json.dumps(meta)
            for group, arrays in groups.items():
                file.create_group(group)
                for name, array in arrays.items():
                    file[f"{group}/{name}"] = array
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path, text):
    """Written aside, then renamed, like everything that a run leaves."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8", newline="")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_meta(path):
    """The JSON part alone."""
    return _read(path, ())[0]


def load(path, *groups):
    """(meta, {name: array} of each group asked for); of a group given as several names, the first that the file has."""
    return _read(path, groups)


def _read(path, groups):
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file of weights (.h5) that tfyolo has written, found none")
    try:
        with h5py.File(path, "r") as file:
            meta = json.loads(file["meta"][()])
            if not {"config", "classes"} <= set(meta):
                raise ValueError("its description names no config and classes")
            names = [(group,) if isinstance(group, str) else group for group in groups]
            found = [_arrays(file[next((name for name in among if name in file), among[-1])]) for among in names]
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a file of weights that tfyolo has written, but it does not read as one ({error}). "
            "It may be truncated or of another program; take another copy, or last.h5 beside it."
        ) from error
    return meta, *found


def _arrays(group):
    arrays = {}
    group.visititems(lambda name, item: arrays.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


def weights_of(network):
    """{"layer/variable": numpy array} of a Keras model."""
    return {variable.path: np.asarray(variable) for variable in network.variables if _is_weight(variable)}


def assign(network, weights, source="the weights"):
    """Puts arrays into a Keras model by name: all or nothing.

    Raises CheckpointError that lists what is missing, left over or of another shape.
    """
    variables = {variable.path: variable for variable in network.variables if _is_weight(variable)}
    faults = [f"missing: {name} {tuple(variables[name].shape)}" for name in variables if name not in weights]
    faults += [f"left over: {name} {weights[name].shape}" for name in weights if name not in variables]
    faults += [
        f"shape: {name} is {weights[name].shape}, the model wants {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in weights and weights[name].shape != tuple(variable.shape)
    ]
    if faults:
        shown = "\n  ".join(faults[:10]) + (f"\n  and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise CheckpointError(f"{source} do not fit the model; nothing was loaded:\n  {shown}")
    for name, variable in variables.items():
        variable.assign(weights[name])


def random_states(network):
    """{name: numpy array} of the random states of a Keras model's dropout: no weights, but a resumed run needs them."""
    return {variable.path: np.asarray(variable) for variable in network.variables if not _is_weight(variable)}


def assign_random(network, states):
    for variable in network.variables:
        if not _is_weight(variable) and variable.path in states:
            variable.assign(states[variable.path])


def _is_weight(variable):
    return "seed_generator" not in variable.path
