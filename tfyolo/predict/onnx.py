"""An ONNX file of tfyolo's as a Detector, run by onnxruntime. The package onnx is not needed."""

import hashlib

import numpy as np

from tfyolo.errors import CheckpointError
from tfyolo.files import read_regular
from tfyolo.libraries import libraries_silent
from tfyolo.predict.detector import Detector
from tfyolo.predict.exported import EXPORT_META, OTHER_BYTES, check_no_options, described_by
from tfyolo.predict.forks import Renewed
from tfyolo.predict.layouts import app_read, layout_of, postprocess_of
from tfyolo.protobuf import ProtobufError, field, fields

# The outputs of an ONNX file in their order, by nms of exports.Target.
OUTPUTS = {
    "builtin": ("boxes", "scores", "labels", "count", "best"),
    "none": ("boxes", "scores"),
    "app": ("output0",),
}
# The numbers of fields (onnx.proto): metadata_props of a ModelProto, key and value of each.
_METADATA, _KEY, _VALUE = 14, 1, 2
_EXPECTED = "an ONNX file that tfyolo has exported"


def with_description(content, text):
    """An ONNX file with its EXPORT_META at the end.

    Messages of protocol buffers are joined by writing one after the other.

    Args:
        content: bytes of the file.
        text: bytes of EXPORT_META.

    Returns:
        Bytes of the file; other programs find the text among its metadata.
    """
    return content + field(_METADATA, field(_KEY, EXPORT_META.encode()) + field(_VALUE, text))


def checksum(content):
    """SHA-256, in hexadecimal digits, of the bytes of an ONNX file, its EXPORT_META left out."""
    return hashlib.sha256(content).hexdigest()


def load_onnx(path, threads, options):
    """A Detector of an ONNX file.

    Args:
        path: of the file, a Path.
        threads: of onnxruntime, a count.
        options: of the post-processing, for a file without NMS.

    Raises:
        CheckpointError: it is no ONNX file of tfyolo's, it is damaged, or onnxruntime is missing.
        ConfigError: its config, or an option, is not as it should be.
    """
    content = _read(path)
    text, graph = _parted(path, content)
    config, classes, target, written = described_by(path, text)
    if written != checksum(graph):
        raise CheckpointError(f"{path}: {OTHER_BYTES}")
    if target["nms"] == "builtin":
        check_no_options(path, options)
    network = _Network(path, content, threads)
    height, width = config.model.input_size
    nchw = target.get("layout") == "nchw"
    if (
        tuple(network.outputs) != OUTPUTS.get(target["nms"])
        or list(network.inputs) != ["images"]
        or network.inputs["images"][1:] != ([3, height, width] if nchw else [height, width, 3])
    ):
        raise _no_onnx(path, f"its inputs and outputs are not those of {EXPORT_META}'s model")
    at_once = network.inputs["images"][0]

    def run(images):
        """{output: [B, ...]}: as many images at once as the file takes."""
        images = np.asarray(images, "float32")
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if nchw else images
        count = at_once if isinstance(at_once, int) else max(len(images), 1)
        found = []
        for i in range(0, len(images), count):
            part = images[i : i + count]
            rest = count - len(part)
            each = network(np.concatenate([part, np.repeat(part[-1:], rest, 0)]) if rest else part)
            found.append([value[: len(part)] for value in each])
        return dict(zip(network.outputs, map(np.concatenate, zip(*found, strict=True)), strict=True))

    return Detector(config, classes, *_reading(target, run, config, classes, options), path)


def load_triton(path, threads, options):
    """A Detector of the ONNX file in a model repository of Triton's.

    Args:
        path: of the repository's folder, a Path: it holds one model, of which the latest version is loaded.
        threads: of onnxruntime, a count.
        options: of the post-processing, for a file without NMS.

    Raises:
        CheckpointError: there is not one model, or from load_onnx.
        ConfigError: from load_onnx.
    """
    models = [config.parent for config in path.glob("*/config.pbtxt")]
    if len(models) != 1:
        names = ", ".join(sorted(model.name for model in models))
        raise CheckpointError(
            f"{path}: expected a repository of one model, received {names}; name one's file, MODEL/1/model.onnx"
        )
    versions = [file for file in models[0].glob("*/model.onnx") if file.parent.name.isdecimal()]
    newest = max(versions, key=lambda file: int(file.parent.name), default=models[0] / "1" / "model.onnx")
    return load_onnx(newest, threads, options)


def _read(path):
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; expected {_EXPECTED}; of another program's, import the checkpoint it was made of"
        ) from None
    except OSError as error:
        raise _no_onnx(path, error.strerror) from error


def _no_onnx(path, reason):
    return CheckpointError(
        f"{path}: expected {_EXPECTED}; this one is damaged or another program's ({reason}). Export it again, or "
        "import the checkpoint it was made of"
    )


def _parted(path, content):
    """(EXPORT_META, the bytes before it) of an ONNX file."""
    text = None
    try:
        for number, value in fields(memoryview(content)):
            if number == _METADATA and not isinstance(value, int):
                pair = dict(fields(value))
                if bytes(pair.get(_KEY, b"")) == EXPORT_META.encode():
                    text = bytes(pair.get(_VALUE, b""))
    except (ProtobufError, TypeError) as error:
        raise _no_onnx(path, f"it does not read as one ({error})") from error
    if text is None:
        raise _no_onnx(path, f"it holds no {EXPORT_META}")
    end = with_description(b"", text)
    graph = content[: -len(end)]
    if not content.endswith(end):  # another program has written it anew
        raise CheckpointError(f"{path}: {OTHER_BYTES}")
    return text, graph


# --- onnxruntime ------------------------------------------------------------------------------------------------------


class _Network(Renewed):
    """The network of an ONNX file: images as it takes them -> [array of each output].

    Any number of threads may call it. A forked process starts a session of its own: the threads of the other one exist
    in the parent alone.

    Args:
        path: of the file, a Path.
        content: its bytes.
        threads: of the session, a count.

    Attributes:
        inputs: {name: shape}; a side that is open is no int.
        outputs: names, in their order.
    """

    def __init__(self, path, content, threads):
        self.path, self.threads, self.sum = path, threads, checksum(content)
        super().__init__(self._started(content))
        self.inputs = {each.name: list(each.shape) for each in self.handle.get_inputs()}
        self.outputs = [each.name for each in self.handle.get_outputs()]

    def _started(self, content):
        try:
            with libraries_silent():  # what it says of the devices that it looks for
                import onnxruntime
        except ImportError as error:
            raise CheckpointError(
                f"{self.path}: expected onnxruntime, which runs ONNX files, found none ({error}); pip install "
                "'tfyolo[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3  # errors
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a dozen kinds, without a class in common
            raise _no_onnx(self.path, _line(error)) from error

    def __call__(self, images):
        with self.lock:
            if self.handle is None:
                content = _read(self.path)
                if checksum(content) != self.sum:
                    raise CheckpointError(
                        f"{self.path}: was loaded in the process that this one was forked from, and replaced since; "
                        "load it anew"
                    )
                self.handle = self._started(content)
        try:
            return self.handle.run(self.outputs, {"images": images})
        except Exception as error:  # as above
            raise _no_onnx(self.path, _line(error)) from error


def _line(error):
    return " ".join(str(error).split())[:300]


# --- what it gives ----------------------------------------------------------------------------------------------------


def _reading(target, run, config, classes, options):
    """(network, postprocess) of a Detector, by the outputs of an ONNX file.

    Args:
        target: {"nms", "precision"} of its exports.Target.
        run: images -> {output: array}.
        config: the Config.
        classes: names in label order.
        options: of the post-processing.
    """
    layout = layout_of(target["nms"], target["precision"], config, classes)
    if target["nms"] == "app":
        layout = layout._replace(read=app_read(config, 1.0))
    return lambda images: layout.read(run(images)), postprocess_of(layout, config, options)
