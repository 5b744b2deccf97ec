"""A SavedModel of tfyolo's as a Detector."""

import hashlib
from pathlib import Path

import absl.logging
import tensorflow as tf

from tfyolo.errors import CheckpointError
from tfyolo.files import read_regular
from tfyolo.predict.detector import Detector
from tfyolo.predict.exported import EXPORT_META, OTHER_BYTES, check_no_options, described_by
from tfyolo.structures import Detections


def checksums(folder):
    """{file: SHA-256 in hexadecimal} of all files that a SavedModel is loaded from; names count from its folder."""
    files = [Path(folder) / "saved_model.pb", *sorted((Path(folder) / "variables").glob("*"))]
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def load_saved_model(path, threads, options):
    """A Detector of a SavedModel's folder.

    Args:
        path: the folder, a Path.
        threads: not used: TensorFlow's own are set in tf.config.threading.
        options: of the post-processing; there may be none.

    Raises:
        CheckpointError: it is no SavedModel of tfyolo's, is damaged, or options are given.
        ConfigError: its config is not as tfyolo wrote it.
    """
    described = path / "assets.extra" / EXPORT_META
    if any(not file.is_file() for file in path.rglob("*") if not file.is_dir()):
        raise CheckpointError(
            f"{path}: expected a SavedModel's folder, received one with what is no regular file in it"
        )
    if not described.exists():
        raise CheckpointError(f"{path}: expected a SavedModel that tfyolo has exported, but {described} is missing")
    check_no_options(path, options)
    config, classes, _, written = described_by(path, read_regular(described))
    if written is not None and written != checksums(path):
        raise CheckpointError(f"{path}: {OTHER_BYTES}")
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # it would warn that the model cannot be trained
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # of a dozen kinds, none of them TensorFlow's own
        raise CheckpointError(
            f"{path}: expected a SavedModel that tfyolo has exported, but it does not load; export it again"
        ) from error
    finally:
        absl.logging.set_verbosity(verbosity)
    signature = loaded.signatures["serving_default"]

    def network(images, _keep=loaded):
        found = signature(images=tf.convert_to_tensor(images))
        return Detections(**{name: found[name] for name in Detections._fields})

    return Detector(config, classes, network, lambda detections: detections, path)
