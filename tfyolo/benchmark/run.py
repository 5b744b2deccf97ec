"""How fast a run and its exports detect on this machine, and how well: all of them in turns, in one table.

    benchmark("runs/yolov8n", ["runs/yolov8n/export/model-int8.tflite"], threads=2) -> a report
    benchmark("model-int8.tflite") -> the same of files alone, on a device without TensorFlow

Timed is the way of one image, ready for the network, to detections. "network" ends with decoded boxes and scores, as
OpenCV's does; "postprocess" is NMS; "total" is both. The competitors take turns, many times, so that other work of the
machine hits all of them; ratios are taken within a turn. OpenCV's network drops scores below 0.2 (or its .cfg's
thresh), ours gives NMS all candidates that the config's post-processing asks for: compare networks with networks first.
A peer is any command that prints a line when it is ready and, for every line it then reads, runs on an image and prints
{"network": seconds}.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from tfyolo.benchmark.turns import export_measure, figures, take_turns
from tfyolo.exports import targets
from tfyolo.peers import Peer
from tfyolo.predict import imaging
from tfyolo.predict.load import load
from tfyolo.predict.runtimes import runtime_of

# On Linux ru_maxrss starts at the parent's; what the process itself needed stands in /proc alone.
_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
import tfyolo
detector = tfyolo.load(sys.argv[1])
image = np.zeros((*detector.input_size, 3), np.uint8)
for _ in range(3):
    detector(image)
status = Path("/proc/self/status")
if status.exists():
    print(next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10)))
"""


def prepared_image(model, path):
    """An image as a network takes it.

    Args:
        model: its Model or Detector.
        path: of an image; None: noise, in which little is found.

    Returns:
        [H, W, 3] float32 0..1, at the network's size.
    """
    size = model.input_size
    if path is None:
        return np.random.default_rng(0).random((*size, 3), dtype="float32")
    return np.asarray(imaging.prepared([imaging.read_image(path)], size, model.preprocess)[0][0])


def named(paths):
    """{name: Path} of exports: the files' names, or the whole paths where two files have one name."""
    paths = [Path(path) for path in dict.fromkeys(map(str, paths))]
    alike = len({path.name for path in paths}) < len(paths)
    return {str(path) if alike else path.name: path for path in paths}


def benchmark(
    run,
    paths=(),
    *,
    threads=2,
    seconds=5.0,
    rounds=10,
    image=None,
    unfused=False,
    peers=(),
    baseline=None,
    validation=None,
):
    """Times a run and its exports, or exports alone, in turns.

    Args:
        run: a run's folder or a .h5 file; or an export, then the network in Keras is left out.
        paths: of exports; none, of a run: one of every exporter is made, which needs no data.
        threads: of each, a count.
        seconds: for each.
        rounds: how often they take turns.
        image: path of an image to run on; None: noise.
        unfused: whether a run's network takes part before fusion, too.
        peers: (name, command) of other programs that take turns.
        baseline: the competitor that ratios are to; None: "opencv" if there is one, else "keras", else the first file.
        validation: a Source that each file is evaluated on; None: no AP.

    Returns:
        The report, as JSON takes it: "competitors" holds the figures, "files" bytes, memory and AP.

    Raises:
        click.BadParameter: no competitor has the baseline's name.
    """
    if alone := runtime_of(run).exported:
        paths = [run, *paths]
    with tempfile.TemporaryDirectory() as scratch:
        if alone:
            model, found, notes, files = load(run, threads=threads), {}, [], named(paths)
            prepared = prepared_image(model, image)
        else:
            from tfyolo.benchmark.competitors import competitors
            from tfyolo.model import load_model, weights_file

            model = load_model(run)
            prepared, files = prepared_image(model, image), {"keras": weights_file(run), **named(paths)}
            options = {"files": not paths, "unfused": unfused}
            found, notes = competitors(run, model, prepared, threads, Path(scratch), **options)
        found |= {name: export_measure(path, prepared, threads) for name, path in named(paths).items()}
        others = [Peer(*peer) for peer in peers]
        for peer in others:
            peer.line()  # it is ready
            found[peer.name] = peer.turn
        baseline = baseline or next(name for name in ("opencv", "keras", *found) if name in found)
        if baseline not in found:
            raise click.BadParameter(
                f"expected one of {', '.join(found)}, received {baseline!r}", param_hint="--baseline"
            )
        try:
            rows = figures(take_turns(found, seconds, rounds), baseline)
        finally:
            for peer in others:
                peer.stop()
    about = {name: {"bytes": targets.size_of(path), "peak_mb": peak_memory(path)} for name, path in files.items()}
    if validation is not None:
        from tfyolo.evaluation.run import evaluate

        for name, path in files.items():
            about[name]["AP"] = evaluate(load(path), validation, progress=False).metrics["AP"]
    return {
        "run": str(run),
        "input_size": list(model.input_size),
        "threads": threads,
        "rounds": rounds,
        "baseline": baseline,
        "load_average": os.getloadavg()[0],
        "notes": notes,
        "competitors": rows,
        "files": about,
    }


def peak_memory(path):
    """The peak MB of a process that loads a model and detects in three images; None if that fails."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True)
    return round(float(done.stdout), 1) if done.returncode == 0 else None


def table(report):
    """The report as text."""
    lines = [
        f"{report['run']} at {report['input_size']}, {report['threads']} threads, {report['rounds']} rounds; "
        f"load average {report['load_average']:.1f}",
        f"{'':<24}{'':<13}{'median ms':>10}{'spread':>9}{'fastest':>9}{'calls':>7}"
        f"{'x ' + report['baseline']:>20}{'spread':>9}",
    ]
    for name, parts in report["competitors"].items():
        for part, row in parts.items():
            if row is None:
                continue
            line = f"{name:<24}{part:<13}{row['median_ms']:>10.2f}{row['iqr_ms']:>9.2f}"
            line += f"{row['fastest_ms']:>9.2f}" if row["fastest_ms"] is not None else f"{'':>9}"
            line += f"{row['calls']:>7}"
            if row["ratio"] is not None:
                line += f"{row['ratio']:>20.2f}{row['ratio_iqr']:>9.2f}"
            lines.append(line)
    lines.append(f"{'':<24}{'images/s':>10}{'MB':>9}{'peak MB':>9}{'AP':>9}")
    for name, row in report["files"].items():
        speed = 1e3 / report["competitors"][name]["total"]["median_ms"]
        memory = f"{row['peak_mb']:>9.0f}" if row["peak_mb"] is not None else f"{'':>9}"
        line = f"{name:<24}{speed:>10.1f}{row['bytes'] / 1e6:>9.1f}{memory}"
        lines.append(line + (f"{row['AP']:>9.4f}" if "AP" in row else ""))
    return "\n".join([*lines, *report["notes"]])


def draw(report, path):
    """Draws AP over milliseconds of each file that was evaluated; `path` is the drawing's."""
    points = {
        name: (report["competitors"][name]["total"]["median_ms"], row["AP"])
        for name, row in report["files"].items()
        if "AP" in row
    }
    from tfyolo.visualize import plots

    plots.scatter(path, points, "milliseconds of one image", "AP")
