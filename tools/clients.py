"""Which programs read a file here: each runs it on a photograph, and what it gives is compared.

    python tools/clients.py photo.jpg runs/yolov8n/export/model-raw.tflite runs/yolov8n/export/model.onnx

Needs no TensorFlow. A program that is not installed is left out; an environment with tfyolo[edge], mediapipe, openvino,
onnxruntime and ethos-u-vela has all. A TFLite file's outputs are compared with those of LiteRT's interpreter, an ONNX
file's with onnxruntime's: the largest difference, as a part of the output's largest value. Of mediapipe, whose boxes
are whole pixels, it is the part of its detections that tfyolo finds, too, with an IoU above .8; of vela, the part of
the multiply-accumulates that runs on the NPU.
"""

import csv
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

import tfyolo
from tfyolo.edge.decoder import overlap
from tfyolo.edge.images import prepared, read_image
from tfyolo.predict.exported import EXPORT_META, described_by
from tfyolo.tflite.interpreter import interpreter
from tfyolo.tflite.packed import files_behind


def as_taken(images, dtype):
    """Images of floats 0..1 as an input of a dtype takes them."""
    return np.round(255 * images).astype(dtype) if np.dtype(dtype).kind in "ui" else images.astype(dtype)


def by_interpreter(path, images):
    """{output: array} of a TFLite file."""
    runner = interpreter(model_path=str(path)).get_signature_runner()
    return runner(images=as_taken(images, runner.get_input_details()["images"]["dtype"]))


def by_compiled_model(path, images):
    """The same by LiteRT's CompiledModel, which phones and LiteRT.js use."""
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(str(path))
    (taken,) = model.get_input_tensor_details("serving_default").values()
    given = {each["name"]: each for each in model.get_output_tensor_details("serving_default").values()}
    names = model.get_signature_by_index(0)["outputs"]
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(np.ascontiguousarray(as_taken(images, taken["dtype"])))
    model.run_by_index(0, inputs, outputs)
    return {
        name: buffer.read(int(np.prod(given[name]["shape"])), np.dtype(given[name]["dtype"]).type).reshape(
            given[name]["shape"]
        )
        for name, buffer in zip(names, outputs, strict=True)
    }


def by_onnxruntime(path, images):
    """{output: array} of an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    nchw = session.get_inputs()[0].shape[1] == 3
    names = [each.name for each in session.get_outputs()]
    taken = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if nchw else images
    return dict(zip(names, session.run(names, {"images": taken}), strict=True))


def by_openvino(path, images):
    """{output: array} of a TFLite or an ONNX file."""
    import openvino

    # Where it can it computes in bfloat16, unless it is told otherwise.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = model.input(0)
    nchw = path.suffix == ".onnx" and taken.partial_shape[1].is_static and taken.partial_shape[1].get_length() == 3
    images = as_taken(images, taken.element_type.to_dtype())
    found = model({0: np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if nchw else images})
    return {name: found[output] for output in model.outputs for name in output.get_names()}


ROWS = ("boxes", "scores", "labels")  # of detections
SEEN = 0.05  # detections of lower scores are so many that rounding alone puts them into another order


def difference(found, expected):
    """The largest difference of two {output: array}, as a part of the output's largest value."""
    parts = []
    if {"boxes", "scores", "count"} <= expected.keys():
        seen = expected["scores"] >= SEEN
        found, expected = (
            {name: each[name][seen] for name in ROWS} | {"best": each["best"]} for each in (found, expected)
        )
    for name, value in expected.items():
        if value.dtype.kind != found[name].dtype.kind:
            raise ValueError(f"gives {found[name].dtype} where the file has {value.dtype}")
        largest = max(np.abs(value).max(initial=0), 1)
        parts.append(float(np.abs(found[name].astype("f8") - value.astype("f8")).max(initial=0) / largest))
    return max(parts)


def mediapipe_share(path, photo):
    """The part of mediapipe's detections that a Detector of the file finds, too, in an image of the network's size."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision
    from PIL import Image

    detector = tfyolo.load(path)
    ((image,), _) = prepared([read_image(photo)], detector.input_size, detector.preprocess)
    image = np.round(255 * image).astype("uint8")
    options = vision.ObjectDetectorOptions(BaseOptions(model_asset_path=str(path)), score_threshold=0.3)
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(image).save(f"{folder}/x.png")
        theirs = vision.ObjectDetector.create_from_options(options)
        found = theirs.detect(mediapipe.Image.create_from_file(f"{folder}/x.png"))
    expected = detector(image, 0.2)
    same = 0
    for each in found.detections:
        box, kind = each.bounding_box, each.categories[0]
        corners = np.array([box.origin_y, box.origin_x, box.origin_y + box.height, box.origin_x + box.width])
        alike = np.array(expected.names) == kind.category_name
        same += bool((overlap(np.clip(corners, 0, None), expected.boxes[alike]) > 0.8).any())
    return same / len(found.detections) if found.detections else float("nan")


def vela_share(path):
    """The part of a full-int8 file's multiply-accumulates that vela leaves to an Ethos-U55."""
    from tfyolo.tflite.graph import read

    with tempfile.TemporaryDirectory() as folder:
        command = ["vela", str(path), "--output-dir", folder, "--accelerator-config", "ethos-u55-256"]
        subprocess.run(command, capture_output=True, text=True, check=True)
        (summary,) = Path(folder).glob("*_summary_*.csv")
        with summary.open(newline="") as file:
            (row,) = csv.DictReader(file)
    return min(1.0, float(row["nn_macs"]) / sum(operator.macs for operator in read(path)))  # it counts a little more


def refusal(error):
    """Why a program does not take a file, in a few words: the operator that OpenVINO names, or how the error begins."""
    text = " ".join(str(error).split())
    operators = dict.fromkeys(
        "".join(each) for each in re.findall(r"No translator found for (?:TFL_)?(\w+)|ONNX node '<Node\((\w+)", text)
    )
    return f"refuses {', '.join(operators)}" if operators else text[:100] or type(error).__name__


def has(module):
    """Whether a module, or a command of that name, is installed."""
    return importlib.util.find_spec(module) is not None or shutil.which(module) is not None


def config_of(path):
    """The Config of an export, also of one whose decoding needs TensorFlow."""
    if path.suffix == ".onnx":
        return tfyolo.load(path).config
    files, _ = files_behind(path.read_bytes())
    return described_by(path, files[EXPORT_META])[0]


def clients_of(path, photo):
    """What each program makes of a file.

    Args:
        path: of a .tflite or an .onnx file.
        photo: the path of an image.

    Returns:
        {program and version: figure, or why it does not run}.
    """
    version = importlib.metadata.version
    config = config_of(path)
    images, _ = prepared([read_image(photo)], tuple(config.model.input_size), config.model.preprocess)
    found = {}

    def of(name, package, function, *arguments):
        try:
            found[f"{name} {version(package)}"] = function(*arguments)
        except Exception as error:  # of every program's own kinds
            found[f"{name} {version(package)}"] = refusal(error)

    if path.suffix == ".onnx":
        expected = by_onnxruntime(path, images)
        found[f"onnxruntime {version('onnxruntime')}"] = 0.0
    else:
        expected = by_interpreter(path, images)
        found[f"Interpreter {version('ai-edge-litert')}"] = 0.0
        of("CompiledModel", "ai-edge-litert", lambda: difference(by_compiled_model(path, images), expected))
        if {"location", "category"} <= expected.keys() and has("mediapipe"):
            of("mediapipe", "mediapipe", mediapipe_share, path, photo)
        if all(value.dtype.kind in "iu" for value in expected.values()) and has("vela"):
            of("vela", "ethos-u-vela", vela_share, path)
    if has("openvino"):
        of("OpenVINO", "openvino", lambda: difference(by_openvino(path, images), expected))
    return found


@click.command()
@click.argument("photo", type=click.Path(exists=True, dir_okay=False))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(photo, paths, as_json):
    """Run each of PATHS, .tflite and .onnx files, in every program here that reads it, on PHOTO."""
    found = {str(path): clients_of(path, photo) for path in paths}
    if as_json:
        click.echo(json.dumps(found))
        return
    for path, clients in found.items():
        click.echo(path)
        for name, figure in clients.items():
            click.echo(f"    {name:<28}{figure if isinstance(figure, str) else f'{figure:.2g}'}")


if __name__ == "__main__":
    sys.exit(main())
