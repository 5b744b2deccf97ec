"""A TFLite file of tfyolo's as a Detector."""

import numpy as np

from tfyolo.errors import CheckpointError
from tfyolo.predict.detector import Detector
from tfyolo.predict.exported import EXPORT_META, OTHER_BYTES, check_no_options, described_by
from tfyolo.predict.forks import Renewed
from tfyolo.predict.layouts import layout_of, postprocess_of
from tfyolo.tflite import flatbuffer, packed
from tfyolo.tflite.interpreter import interpreter


def load_tflite(path, threads, options):
    """A Detector of a TFLite file.

    Args:
        path: of the file, a Path.
        threads: of its interpreter, a count.
        options: of the post-processing, for a file without NMS.

    Raises:
        CheckpointError: it is no TFLite file of tfyolo's, or is damaged.
        ConfigError: its config, or an option, is not as it should be.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a TFLite file, found none")
    content = path.read_bytes()
    try:
        files, size = packed.files_behind(content)
        text = files[EXPORT_META]
    except (packed.DamagedError, KeyError) as error:
        raise _no_tflite(path, error if isinstance(error, packed.DamagedError) else f"no {EXPORT_META}") from error
    config, classes, target, written = described_by(path, text)
    graph = memoryview(content)[:size]
    if written is not None and written != packed.checksum(graph):
        raise CheckpointError(f"{path}: {OTHER_BYTES}")
    try:
        flatbuffer.check(graph)  # exports of earlier versions have no checksum, and those of others may have any
    except flatbuffer.FlatbufferError as error:
        raise _no_tflite(path, error) from error
    del content, graph  # the interpreter maps the file
    layout = layout_of(target["nms"], target["precision"], config, classes)
    if layout and layout.has_nms:
        check_no_options(path, options)
    network = _Network(path, threads)
    outputs, taken = network.outputs, network.inputs.get("images")
    size = (*config.model.input_size, 3)
    if layout is None or set(outputs) != layout.outputs or taken is None or tuple(taken["shape"][1:]) != size:
        raise _no_tflite(path, f"its inputs and outputs are not those of an export of {EXPORT_META}'s model")

    def run(images):
        """What the layout makes of the outputs: as many images at once as the file takes, uint8 where it takes that."""
        images = np.asarray(images, "float32")
        if taken["dtype"] == np.uint8:
            images = np.round(255 * images).astype("uint8")
        at_once, found = taken["shape"][0], []
        for i in range(0, len(images), at_once):
            part = images[i : i + at_once]
            rest = at_once - len(part)
            each = network(np.concatenate([part, np.repeat(part[-1:], rest, 0)]) if rest else part)
            found.append({name: value[: len(part)] for name, value in each.items()})
        return layout.read(
            {name: _dequantized(np.concatenate([each[name] for each in found]), outputs[name]) for name in outputs}
        )

    return Detector(config, classes, run, postprocess_of(layout, config, options), path)


def _no_tflite(path, reason):
    return CheckpointError(
        f"{path}: expected a TFLite file that tfyolo has exported; this one is damaged or another program's ({reason})"
    )


class _Network(Renewed):
    """The network of a TFLite file: images as it takes them -> {output: array}.

    An interpreter writes every answer into the same memory, so one thread at a time runs it. A forked process makes an
    interpreter of its own: the threads of the other one exist in the parent alone.

    Args:
        path: of the file, a Path.
        threads: of the interpreter, a count.

    Attributes:
        inputs, outputs: {name: {"shape", "dtype", "quantization", ...}}.
    """

    def __init__(self, path, threads):
        self.path, self.threads, self.state = path, threads, _identity(path)
        super().__init__(self._started())
        self.inputs, self.outputs = self.handle.get_input_details(), self.handle.get_output_details()

    def _started(self):
        try:
            return interpreter(model_path=str(self.path), num_threads=self.threads).get_signature_runner()
        except (ValueError, RuntimeError, KeyError) as error:
            raise _no_tflite(self.path, _line(error)) from error

    def __call__(self, images):
        with self.lock:
            if self.handle is None:
                if _identity(self.path) != self.state:
                    raise CheckpointError(
                        f"{self.path}: was loaded in the process that this one was forked from, and replaced since; "
                        "load it anew"
                    )
                self.handle = self._started()
            try:
                return self.handle(images=images)
            except (ValueError, RuntimeError) as error:
                raise _no_tflite(self.path, _line(error)) from error


def _identity(path):
    """What distinguishes a file from another one that has taken its name; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _line(error):
    return " ".join(str(error).split())


def _dequantized(values, details):
    scale, zero = details["quantization"]
    return values if values.dtype.kind == "f" or not scale else (values.astype("float32") - zero) * np.float32(scale)
