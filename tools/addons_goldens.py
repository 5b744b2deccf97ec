"""Writes tests/goldens/addons.json: what tensorflow-addons 0.23.0 computes from a few inputs, as an oracle for tests.

It needs an environment of its own, because tensorflow-addons cannot be imported beside Keras 3:

    python3.11 -m venv /tmp/addons
    /tmp/addons/bin/pip install -r tools/addons_goldens_requirements.txt
    /tmp/addons/bin/python tools/addons_goldens.py
"""

import json
import os
import platform
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore", module="tensorflow_addons")  # its farewell

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_addons as tfa  # noqa: E402

tf.get_logger().setLevel("ERROR")
TARGET = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "addons.json"

# Pairs of [y_min, x_min, y_max, x_max] in pixels, which is GIoULoss's own order.
BOX_PAIRS = {
    "identical": ([10, 20, 50, 80], [10, 20, 50, 80]),
    "overlapping": ([10, 20, 50, 80], [30, 40, 90, 100]),
    "overlapping a little": ([0, 0, 10, 10], [9, 9, 30, 40]),
    "nested": ([0, 0, 100, 50], [40, 10, 60, 20]),
    "nested at a corner": ([0, 0, 100, 50], [0, 0, 10, 20]),
    "nested, same width": ([0, 0, 100, 50], [25, 0, 75, 50]),
    "crossing": ([40, 0, 60, 100], [0, 40, 100, 60]),
    "touching along y": ([0, 0, 10, 10], [10, 0, 20, 10]),
    "touching along x": ([0, 0, 10, 10], [0, 10, 10, 30]),
    "touching at a corner": ([0, 0, 10, 10], [10, 10, 20, 20]),
    "disjoint along y": ([0, 0, 10, 10], [50, 0, 60, 10]),
    "disjoint along x": ([0, 0, 10, 10], [0, 12, 10, 400]),
    "disjoint, far": ([0, 0, 2, 2], [606, 604, 608, 608]),
    "disjoint, over the edge": ([-20, -30, -10, -5], [5, 5, 20, 30]),
    "fractions": ([1.25, 2.5, 3.75, 8.125], [2.5, 2.25, 4.5, 6.75]),
    "no height": ([10, 10, 10, 30], [5, 5, 20, 40]),
    "no width": ([10, 10, 30, 10], [10, 10, 30, 20]),
    "a point inside": ([10, 10, 10, 10], [0, 0, 20, 20]),
    "a point outside": ([30, 30, 30, 30], [0, 0, 20, 20]),
    "one point twice": ([10, 10, 10, 10], [10, 10, 10, 10]),
}
FOCAL = [(0.25, 2.0), (0.5, 2.0), (0.75, 1.0), (0.25, 0.5), (0.25, 5.0)]  # alpha, gamma
DEGREES = [0, 10, 30, -45, 90, 180, -120]  # positive: counterclockwise as seen


def exact(array):
    """Lists of the shortest decimals that read back as the same float32."""
    array = np.asarray(array)
    return float(str(np.float32(array))) if array.ndim == 0 else [exact(part) for part in array]


def giou():
    """GIoU losses of BOX_PAIRS."""
    first, second = (np.array(boxes, np.float32) for boxes in zip(*BOX_PAIRS.values(), strict=True))
    loss = tfa.losses.GIoULoss(reduction=tf.keras.losses.Reduction.NONE)(first, second)
    return {"names": list(BOX_PAIRS), "first": exact(first), "second": exact(second), "loss": exact(loss)}


def focal():
    """Focal losses, elementwise, of logits and of probabilities."""
    targets, logits = np.meshgrid([0, 1, 0.3], np.linspace(-12, 12, 17), indexing="ij")
    targets, logits = (np.ravel(a)[:, None].astype(np.float32) for a in (targets, logits))  # one element a row: no sum
    # As given to the loss below: float32 is not fine enough to get the logits back beyond these.
    probabilities = tf.sigmoid(logits / 3).numpy()

    def losses(predictions, from_logits):
        return [
            tfa.losses.SigmoidFocalCrossEntropy(
                from_logits=from_logits, alpha=alpha, gamma=gamma, reduction=tf.keras.losses.Reduction.NONE
            )(targets, predictions)
            for alpha, gamma in FOCAL
        ]

    return {
        "alpha_gamma": FOCAL,
        "targets": exact(targets[:, 0]),
        "logits": exact(logits[:, 0]),
        "probabilities": exact(probabilities[:, 0]),
        "loss_of_logits": exact(losses(logits, True)),
        "loss_of_probabilities": exact(losses(probabilities, False)),
    }


def mish():
    """Mish at points from -20 to 20."""
    points = np.linspace(-20, 20, 81, dtype=np.float32)
    return {"points": exact(points), "mish": exact(tfa.activations.mish(points))}


def rotate():
    """A small image rotated by DEGREES, and how much of each pixel comes from inside it."""
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    unit = image.astype(np.float32) / 255

    def rotated(pixels, degrees):
        return tfa.image.rotate(pixels, np.deg2rad(degrees), interpolation="bilinear", fill_mode="constant")

    return {
        "degrees": DEGREES,
        "image": image.tolist(),
        "rotated": exact([rotated(unit, degrees) for degrees in DEGREES]),  # of image / 255
        # What a white image becomes: below 1 wherever something from outside has a share.
        "inside": exact([rotated(np.ones((9, 12, 1), np.float32), degrees)[..., 0] for degrees in DEGREES]),
    }


def main():
    """Writes the file."""
    packages = {"tensorflow": tf, "tensorflow-addons": tfa, "numpy": np}
    goldens = {
        "made_by": "tools/addons_goldens.py",
        "versions": {"python": platform.python_version()} | {name: p.__version__ for name, p in packages.items()},
        "giou": giou(),
        "focal": focal(),
        "mish": mish(),
        "rotate": rotate(),
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    aside = TARGET.with_suffix(".tmp")
    aside.write_text(json.dumps(goldens, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")
    os.replace(aside, TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
