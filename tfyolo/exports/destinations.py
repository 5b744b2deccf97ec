"""Destinations: where a file is to run, and which file runs there. Nothing here imports TensorFlow.

A user adds one with `DESTINATIONS["board"] = Destination(...)`; then `tfyolo export RUN --target board` knows it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tfyolo.exports.targets import ExportError, Target


class Destination(NamedTuple):
    """Where a file is to run.

    Attributes:
        purpose: what it is for, in a line.
        target: the file.
        reads: what reads the file there, and what is left to it.
        lint: the key of tflite.lint.LINTS whose operators it takes; None: all.
    """

    purpose: str
    target: Target
    reads: str
    lint: str | None = None


DESTINATIONS: dict[str, Destination] = {
    "cpu": Destination(
        "phones, boards and PCs, on the processor",
        Target("tflite"),
        "LiteRT, tf.lite; boxes after NMS",
    ),
    "android-gpu": Destination(
        "a phone's GPU",
        Target("tflite", "float16", "none"),
        "LiteRT's GPU delegate; NMS is the app's",
        "gpu",
    ),
    "mediapipe": Destination(
        "mediapipe's ObjectDetector, Android's task library",
        Target("tflite", "dynamic", "task"),
        "these libraries, by the metadata inside",
    ),
    "app": Destination(
        "apps round YOLO (Flutter, React Native, Kotlin)",
        Target("tflite", "float16", "app"),
        "their plug-ins: [1, 4 + K, N], metadata.json at the end; NMS is theirs",
    ),
    "app-e2e": Destination(
        "the same apps, NMS included",
        Target("tflite", "float16", "e2e"),
        "their plug-ins: [1, n, 6]",
    ),
    "frigate-coral": Destination(
        "Frigate on a Coral Edge TPU, `model_type: yolo-generic`",
        Target("tflite", "full-int8", "logits"),
        "Frigate's edgetpu detector, after edgetpu_compiler; decoding and NMS are Frigate's",
        "edgetpu",
    ),
    "frigate-cpu": Destination(
        "Frigate on the processor",
        Target("tflite", "int8", "task"),
        "Frigate's cpu detector; --size 320 320",
    ),
    "coral": Destination(
        "other programs on a Coral Edge TPU",
        Target("tflite", "full-int8", "heads"),
        "pycoral, libcoral, after edgetpu_compiler; decoding is yours",
        "edgetpu",
    ),
    "ethos-u": Destination(
        "microcontrollers with Arm's Ethos-U",
        Target("tflite", "full-int8", "heads"),
        "vela, then TFLite Micro; decoding is yours",
        "ethosu",
    ),
    "heads": Destination(
        "compilers that cut the heads off (Hailo, Rockchip, STM32, NXP)",
        Target("tflite", "float32", "heads"),
        "their compilers; decoding is yours",
    ),
    "browser": Destination(
        "a web page",
        Target("tflite", "float32", "none"),
        "LiteRT.js (examples/browser); NMS is the page's",
    ),
    "onnx": Destination(
        "ONNX Runtime",
        Target("onnx"),
        "onnxruntime; boxes after NMS; needs tfyolo[onnx]",
    ),
    "openvino": Destination(
        "OpenVINO, and Frigate's onnx and openvino detectors (`yolo-generic`)",
        Target("onnx", nms="app"),
        "OpenVINO, onnxruntime: [1, 4 + K, N] from NCHW images; NMS is theirs; needs tfyolo[onnx]",
    ),
    "triton": Destination(
        "NVIDIA Triton",
        Target("triton"),
        "the server: a model repository with config.pbtxt; boxes after NMS; needs tfyolo[onnx]",
    ),
    "tfserving": Destination(
        "TensorFlow Serving",
        Target("saved_model"),
        "the server: floats, uint8 images or JPEG bytes; boxes after NMS",
    ),
}


def targets_of(names: Sequence[str], precisions: Sequence[str] = ()) -> list[Target]:
    """The files for destinations.

    Args:
        names: of DESTINATIONS.
        precisions: in place of a destination's own, each.

    Returns:
        [Target], each once.

    Raises:
        ExportError: there is no such destination, or its format has no such precision.
    """
    found = {}
    for name in names:
        if name not in DESTINATIONS:
            raise ExportError(f"target: expected one of {', '.join(DESTINATIONS)}, received {name!r}")
        own = DESTINATIONS[name].target
        for precision in precisions or [own.precision]:
            if precision not in own.exporter.precisions:
                raise ExportError(
                    f"{name}: {own.exporter.title} has {', '.join(own.exporter.precisions)}; received {precision}"
                )
            found[own._replace(precision=precision)] = None
    return list(found)


def places_of(target: Target) -> list[str]:
    """Names of the destinations whose file, in some precision, a Target is."""
    return [name for name, each in DESTINATIONS.items() if each.target._replace(precision=target.precision) == target]


def lints_of(target: Target, path) -> dict[str, dict]:
    """What the destinations of a Target do not take of its file.

    Args:
        target: the Target.
        path: of the file.

    Returns:
        {destination: {"summary": a line, "findings": [a line each], "passed", "share_of_macs"}}, of those with a lint.
    """
    found = {}
    for name in places_of(target):
        if table := DESTINATIONS[name].lint:
            from tfyolo.tflite.lint import lines, lint, summary

            report = lint(path, table)
            found[name] = {
                "summary": summary(report),
                "findings": lines(report),
                "passed": report.passed,
                "share_of_macs": report.share_of_macs,
            }
    return found
