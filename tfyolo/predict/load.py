"""load(): a Detector from whatever training, importing or exporting has left."""

import os
from collections.abc import Sequence
from typing import Any

from tfyolo.devices import check_process, cores
from tfyolo.errors import CheckpointError
from tfyolo.files import here
from tfyolo.libraries import missing_explained
from tfyolo.predict.detector import Detector
from tfyolo.predict.runtimes import runtime_of


def load(
    path: str | os.PathLike,
    *,
    threads: int | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    **options: Any,
) -> Detector:
    """A Detector from what training, importing or exporting has left.

    Args:
        path: a run's folder (its best.h5, else last.h5), a .h5 file, or what another entry of RUNTIMES recognises: a
            SavedModel's folder, a .tflite or an .onnx file. Or the address of one (gs://bucket/run), which is fetched.
        threads: of a TFLite or ONNX file; None: as many as there are cores. TensorFlow's own are set in
            tf.config.threading.
        flip: test-time augmentation (TTA) of a run: also on the flipped image.
        scales: TTA of a run: on the image at so many times the training size, each; sides are rounded to what the
            network takes.
        options: over the config's post-processing (`iou=`, `score=`, `soft_sigma=`, `per_class=`); an export has its
            own inside.

    Raises:
        CheckpointError: there is no model of tfyolo's at the path, or it is damaged.
        MissingError: what runs it is not installed.
        ForkError: TensorFlow cannot work in this process.
        ConfigError, ValueError: an option is unknown, or out of its range.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"expected the path of a run or an export, received {path!r}")
    check_process()
    path = here(path)
    runtime = runtime_of(path)
    if not runtime.exported:
        options = {"flip": flip, "scales": scales, **options}
    elif flip or tuple(scales) != (1.0,):
        raise CheckpointError(f"{path}: an export has no TTA; to flip and to scale, name the run")
    with missing_explained(f"{path}: {runtime.title}"):
        return runtime.detector(path, threads or cores(), options)
