"""Times a run's int8 TFLite file beside ONNX Runtime's own int8, and both in float32, in turns.

    python tools/benchmark_int8.py runs/yolov8n --data my/images --threads 2

Both are calibrated on the same images: TFLite's by `tfyolo export`, ONNX Runtime's by its static quantization (QDQ,
int8 activations and kernels, a scale for each channel of a kernel) of the file that `tfyolo export --to onnx` writes.
All files end with decoded candidates, without NMS; compare the rows "network".
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from tfyolo.cli.app import Command
from tfyolo.devices import start as start_tensorflow

IMAGES = 64  # to calibrate on


def quantized(path, batches, out):
    """Writes an ONNX file in int8.

    Args:
        path: of the float32 file.
        batches: iterable of images [1, H, W, 3] float32 0..1.
        out: the file to write.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self):
            images = next(self.batches, None)
            return None if images is None else {"images": images}

    ready = out.with_suffix(".ready.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def answer(path, threads):
    """Runs an ONNX file on noise whenever a line comes, as a peer of `tfyolo benchmark`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [side if isinstance(side, int) else 1 for side in session.get_inputs()[0].shape]
    images = np.random.default_rng(0).random(shape, dtype="float32")
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        session.run(None, {"images": images})
        print(json.dumps({"network": time.perf_counter() - began}), flush=True)


@click.command(cls=Command)
@click.argument("run", type=click.Path(exists=True))
@click.option("--data", help="Data to calibrate on, its split `train`.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--seconds", type=float, default=10.0, show_default=True, help="For each.")
@click.option("--rounds", type=int, default=10, show_default=True)
@click.option("--answer", "peer", is_flag=True, hidden=True)
def main(run, data, threads, seconds, rounds, peer):
    """Time RUN's files in TFLite and ONNX Runtime."""
    if peer:
        answer(run, threads)
        return
    if not data:
        raise click.UsageError("--data: expected data to calibrate on, received none")
    start_tensorflow(threads=threads)
    from tfyolo.benchmark import run as benchmarks
    from tfyolo.data import datasets, readers
    from tfyolo.exports.export import export
    from tfyolo.exports.targets import Target
    from tfyolo.model import load_model

    model, source = load_model(run), readers.read(data, "train")
    source = source._replace(records=source.records[:IMAGES])
    forms = [Target("tflite", "float32", "none"), Target("tflite", "int8", "none"), Target("onnx", "float32", "none")]
    with tempfile.TemporaryDirectory() as folder:
        made = export(model, folder, forms, calibration=source, max_drop=1.0)
        paths = [each.path for each in made.values()]
        samples = datasets.eval_dataset(source, size=model.input_size, batch=1, preprocess=model.preprocess)
        int8 = Path(folder) / "ort-int8.onnx"
        quantized(paths[-1], (np.asarray(sample.image) for sample in samples), int8)
        command = [sys.executable, __file__, str(int8), "--threads", str(threads), "--answer"]
        options = {"threads": threads, "seconds": seconds, "rounds": rounds, "peers": [("ort-int8", command)]}
        report = benchmarks.benchmark(run, paths, **options)
    click.echo(benchmarks.table(report))
    rows = report["competitors"]
    median = {name: parts["network"]["median_ms"] for name, parts in rows.items() if parts["network"]}
    tflite, tflite_int8, onnx = (path.name for path in paths)
    click.echo(f"int8: TFLite / ONNX Runtime = {median[tflite_int8] / median['ort-int8']:.2f}")
    click.echo(f"float32: TFLite / ONNX Runtime = {median[tflite] / median[onnx]:.2f}")


if __name__ == "__main__":
    main()
