"""A run as a Detector."""

from pathlib import Path
from typing import Any

from tfyolo.errors import CheckpointError
from tfyolo.graph.fusion import fuse
from tfyolo.model import load_model
from tfyolo.predict.detector import Detector
from tfyolo.predict.tta import scaled_model


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
        raise CheckpointError(f"scales: expected numbers above 0, at least one, received {list(scales)}")
    model = load_model(path)
    first, *others = (fuse(scaled_model(model, scale)) for scale in scales)
    return Detector.of(first, source=path, flip=flip, others=others, constant=True, **options)
