"""load(): a Detector from whatever training, importing or exporting has left."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfyolo import checkpoint
from tfyolo.devices import check_process
from tfyolo.graph.fusion import fuse
from tfyolo.model import load_model
from tfyolo.predict.detector import Detector
from tfyolo.predict.runtimes import runtime_of
from tfyolo.predict.tta import scaled_model


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
            SavedModel's folder, a .tflite or an .onnx file.
        threads: of a TFLite or ONNX file; None: as many as there are cores. TensorFlow's own are set in
            tf.config.threading.
        flip: test-time augmentation (TTA) of a run: also on the flipped image.
        scales: TTA of a run: on the image at so many times the training size, each; sides are rounded to what the
            network takes.
        options: over the config's post-processing (`iou=`, `score=`, `soft_sigma=`, `per_class=`); an export has its
            own inside.

    Raises:
        CheckpointError: there is no model of tfyolo's at the path, or it is damaged.
        ForkError: TensorFlow cannot work in this process.
        ConfigError, ValueError: an option is unknown, or out of its range.
    """
    if not isinstance(path, str | os.PathLike):
        raise checkpoint.CheckpointError(f"expected the path of a run or an export, received {path!r}")
    check_process()
    path = Path(path)
    runtime = runtime_of(path)
    if not runtime.exported:
        options = {"flip": flip, "scales": scales, **options}
    elif flip or tuple(scales) != (1.0,):
        raise checkpoint.CheckpointError(f"{path}: an export has no TTA; to flip and to scale, name the run")
    return runtime.detector(path, threads or os.cpu_count(), options)


def load_run(path: Path, threads: int | None, options: dict[str, Any]) -> Detector:
    """A Detector of a run or a .h5 file, batch norms fused.

    Args:
        path: of the folder or file.
        threads: not used: TensorFlow's own are set in tf.config.threading.
        options: `flip` and `scales` of load(), and the post-processing's.

    Raises:
        CheckpointError: there is no model, it is damaged, or a scale is not above 0.
    """
    flip, scales = options.pop("flip", False), options.pop("scales", (1.0,))
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise checkpoint.CheckpointError(f"scales: expected numbers above 0, at least one, received {list(scales)}")
    model = load_model(path)
    first, *others = (fuse(scaled_model(model, scale)) for scale in scales)
    return Detector.of(first, source=path, flip=flip, others=others, constant=True, **options)
