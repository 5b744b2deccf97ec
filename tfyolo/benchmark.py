"""How fast a run and its exports detect on this machine, and how well: all of them in turns, in one table.

    benchmark("runs/yolov8n", ["runs/yolov8n/export/model-int8.tflite"], threads=2) -> a report

Timed is the way of one image, ready for the network, to detections. "network" ends with decoded boxes and scores, as
OpenCV's does; "postprocess" is NMS; "total" is both. The competitors take turns, many times, so that other work of the
machine hits all of them; ratios are taken within a turn. OpenCV's network drops scores below 0.2 (or its .cfg's
thresh), ours gives NMS all candidates that the config's post-processing asks for: compare networks with networks first.
A peer is any command that prints a line when it is ready and, for every line it then reads, runs on an image and prints
{"network": seconds}.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo.data import decoding, geometry
from tfyolo.evaluation.run import evaluate
from tfyolo.exports import export as exports
from tfyolo.exports import targets, tflite
from tfyolo.exports.layouts import LAYOUTS
from tfyolo.graph.fusion import fuse
from tfyolo.model import load_model, weights_file
from tfyolo.peers import Peer
from tfyolo.predict.detector import Detector
from tfyolo.predict.load import load
from tfyolo.tflite.interpreter import interpreter
from tfyolo.visualize import plots

PARTS = ("network", "postprocess", "total")
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
    """An image as the network takes it.

    Args:
        model: the Model.
        path: of an image; None: noise, in which little is found.

    Returns:
        [H, W, 3] float32 0..1, at the network's size.
    """
    size = model.input_size
    if path is None:
        return np.random.default_rng(0).random((*size, 3), dtype="float32")
    return np.asarray(geometry.prepare(decoding.read_image(path), size, model.preprocess)[0])


def in_two(network, postprocess):
    """A measurement of two functions.

    Args:
        network: a function without arguments.
        postprocess: takes what `network` returns.

    Returns:
        A function that calls both and returns {part: seconds}.
    """

    def measure():
        start = time.perf_counter()
        found = network()
        middle = time.perf_counter()
        postprocess(found)
        end = time.perf_counter()
        return {"network": middle - start, "postprocess": end - middle, "total": end - start}

    return measure


def in_one(total, network=None):
    """A measurement of one function for all parts.

    Args:
        total: a function without arguments, from the image to detections.
        network: the same without post-processing, whose time is then the difference; None: only the total is known.

    Returns:
        A function that calls them and returns {part: seconds}.
    """

    def measure():
        start = time.perf_counter()
        total()
        taken = {"total": time.perf_counter() - start}
        if network:
            start = time.perf_counter()
            network()
            taken["network"] = time.perf_counter() - start
            taken["postprocess"] = taken["total"] - taken["network"]
        return taken

    return measure


# --- competitors ------------------------------------------------------------------------------------------------------


def keras_measure(model, image):
    """The measurement of a Model in Keras; image: [H, W, 3], of prepared_image."""
    detector, images = Detector.of(model, constant=True), tf.constant(image[None])
    return in_two(lambda: detector.network(images), lambda found: detector.postprocess(found).boxes.numpy())


def saved_model_measure(model, image, threads, scratch):
    """The measurement of a Model as a SavedModel, by its signature; threads are TensorFlow's own."""
    loaded, images = tf.saved_model.load(str(first_export("saved_model", model, scratch))), tf.constant(image[None])
    serve = loaded.signatures["serving_default"]
    return in_one(lambda _keep=loaded: serve(images=images)["boxes"].numpy())


def tflite_measure(model, image, threads, scratch):
    """The measurement of a Model as TFLite files, with NMS and without, as it is: not fused first."""
    scratch.mkdir(parents=True, exist_ok=True)
    path, bare = scratch / "model.tflite", scratch / "network.tflite"
    for file, nms in ((path, "builtin"), (bare, "none")):
        file.write_bytes(tflite.to_tflite(model, LAYOUTS[nms, False]))
    files = (str(file) for file in (path, bare))
    runners = [interpreter(model_path=file, num_threads=threads).get_signature_runner() for file in files]
    return in_one(*(lambda runner=runner: runner(images=image[None]) for runner in runners))


def fused_tflite_measure(model, image, threads, scratch):
    """The measurement of a Model as export writes it to TFLite."""
    return tflite_measure(tflite.for_tflite(model), image, threads, scratch)


def first_export(name, model, scratch):
    """The path of a Model's export, the first by default of an exporter. name: a key of EXPORTERS."""
    (made,) = exports.export(model, scratch, targets.asked_targets([name])[:1]).values()
    return made.path


def opencv_measure(run, model, image, threads, scratch):
    """The measurement of a run from Darknet in OpenCV, NMS by OpenCV too."""
    import cv2

    from tfyolo.weights.darknet import importing

    weights, cfg = importing.write(scratch / "net.weights", run)
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    outputs, classes = net.getUnconnectedOutLayersNames(), len(model.classes)
    blob = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    nms = model.postprocess
    threshold, iou, limit = nms.score, nms.iou, nms.candidates_limit

    def network():
        net.setInput(blob)
        return net.forward(outputs)

    def select(found):
        rows = np.concatenate([row.reshape(-1, 5 + classes) for row in found])
        boxes, labels = np.nonzero(rows[:, 5:] > threshold)
        xywh = rows[boxes, :4].astype("float64") * np.tile(image.shape[1::-1], 2)
        xywh[:, :2] -= xywh[:, 2:] / 2
        return cv2.dnn.NMSBoxesBatched(xywh, rows[boxes, 5 + labels], labels, threshold, iou, top_k=limit)

    return in_two(network, select)


def export_measure(path, image, threads):
    """The measurement of an export by its Detector: the file's network, and the post-processing that it leaves."""
    detector, images = load(path, threads=threads), image[None]
    return in_two(lambda: detector.network(images), lambda found: np.asarray(detector.postprocess(found).boxes))


# Exporters whose files are timed without what their Detector does around them.
MEASURES = {"saved_model": saved_model_measure, "tflite": fused_tflite_measure}


def exporter_measures(model, image, threads, scratch):
    """{name: measurement} of a Model in every format that EXPORTERS writes by default, users' own among them.

    Args:
        model: the Model.
        image: [H, W, 3], of prepared_image.
        threads: of each, a count.
        scratch: a folder for the files.
    """
    measures = {}
    for name, exporter in targets.EXPORTERS.items():
        if not exporter.defaults:
            continue
        if name in MEASURES:
            measures[name] = MEASURES[name](model, image, threads, scratch / name)
        else:
            measures[name] = export_measure(first_export(name, model, scratch / name), image, threads)
    return measures


def named(paths):
    """{name: Path} of exports: the files' names, or the whole paths where two files have one name."""
    paths = [Path(path) for path in dict.fromkeys(map(str, paths))]
    alike = len({path.name for path in paths}) < len(paths)
    return {str(path) if alike else path.name: path for path in paths}


def competitors(run, paths, image_path, threads, scratch, unfused=False):
    """What takes turns.

    Args:
        run: a run's folder or a .h5 file.
        paths: of exports; none: one of every exporter is made, which needs no data.
        image_path: of an image; None: noise.
        threads: of each, a count.
        scratch: a folder for files that are made.
        unfused: whether the network takes part before fusion, too.

    Returns:
        ({name: measurement}, the Model, [what is missing and why]).
    """
    import cv2

    model = load_model(run)
    image = prepared_image(model, image_path)
    found = {"keras": keras_measure(fuse(model), image)}
    if not paths:
        found |= exporter_measures(model, image, threads, scratch)
    for name, path in named(paths).items():
        found[name] = export_measure(path, image, threads)
    if unfused:
        found["keras, unfused"] = keras_measure(model, image)
        found["tflite, unfused"] = tflite_measure(model, image, threads, scratch / "unfused")
    notes = []
    if "darknet" not in checkpoint.read_meta(weights_file(run)):
        notes.append("opencv: left out, the run was not imported from Darknet")
    elif not hasattr(cv2.dnn, "readNetFromDarknet"):
        notes.append(f"opencv: left out, OpenCV {cv2.__version__} reads no Darknet networks")
    else:
        found["opencv"] = opencv_measure(run, model, image, threads, scratch)
    return found, model, notes


# --- measuring --------------------------------------------------------------------------------------------------------


def take_turns(found, seconds, rounds):
    """Measures competitors, each `seconds` long in all, spread over the rounds.

    Args:
        found: {competitor: measurement}.
        seconds: for each competitor.
        rounds: how often they take turns.

    Returns:
        {competitor: {part: [[seconds of each call] of each round]}}.
    """
    times = {name: {} for name in found}
    for measure in found.values():
        for _ in range(3):  # the first calls compile and allocate
            measure()
    for _ in range(rounds):
        for name, measure in found.items():
            measure()  # brings its weights back into the cache
            turn = []
            end = time.perf_counter() + seconds / rounds
            while not turn or time.perf_counter() < end:
                turn.append(measure())
            for part in turn[0]:
                times[name].setdefault(part, []).append([parts[part] for parts in turn])
    return times


def figures(times, baseline):
    """The figures of measured times.

    Args:
        times: of take_turns.
        baseline: the competitor that ratios are to.

    Returns:
        {competitor: {part: {"median_ms", "iqr_ms", "fastest_ms", "calls", "ratio", "ratio_iqr"} or None}}. fastest_ms
        is None for a postprocess, which may be a difference of two. ratio is to the baseline's same part, the median
        over the rounds; None where the baseline has none.
    """
    result = {}
    for name, parts in times.items():
        result[name] = dict.fromkeys(PARTS)
        for part, turns in parts.items():
            every = sorted(1e3 * call for turn in turns for call in turn)
            row = {
                "median_ms": statistics.median(every),
                "iqr_ms": spread(every),
                "fastest_ms": every[0] if part != "postprocess" else None,
            }
            row |= {"calls": len(every), "ratio": None, "ratio_iqr": None}
            others = times[baseline].get(part)
            if others:
                ratios = sorted(
                    statistics.median(turn) / statistics.median(other)
                    for turn, other in zip(turns, others, strict=True)
                )
                row |= {"ratio": statistics.median(ratios), "ratio_iqr": spread(ratios)}
            result[name][part] = row
    return result


def spread(values):
    """The interquartile range; 0 for one value."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


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
    """Times a run and its exports, and evaluates them.

    Args:
        run: a run's folder or a .h5 file.
        paths: of exports; none: one of every exporter is made, which needs no data.
        threads: of each competitor, a count.
        seconds: for each competitor.
        rounds: how often they take turns.
        image: the path of an image to run on; None: noise.
        unfused: whether the network takes part before fusion, too.
        peers: [(name, words of a command)] of other programs.
        baseline: the competitor that ratios are to; None: "opencv" if there is one, else "keras".
        validation: a Source that each file is evaluated on; None: no AP.

    Returns:
        The report, as JSON takes it: "competitors" holds the figures, "files" bytes, memory and AP.

    Raises:
        click.BadParameter: no competitor has the baseline's name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found, model, notes = competitors(run, paths, image, threads, Path(scratch), unfused)
        others = [Peer(*peer) for peer in peers]
        for peer in others:
            peer.line()  # it is ready
            found[peer.name] = peer.turn
        baseline = baseline or ("opencv" if "opencv" in found else "keras")
        if baseline not in found:
            raise click.BadParameter(
                f"expected one of {', '.join(found)}, received {baseline!r}", param_hint="--baseline"
            )
        try:
            rows = figures(take_turns(found, seconds, rounds), baseline)
        finally:
            for peer in others:
                peer.stop()
    files = {"keras": weights_file(run), **named(paths)}
    about = {name: {"bytes": targets.size_of(path), "peak_mb": peak_memory(path)} for name, path in files.items()}
    if validation is not None:
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
    plots.scatter(path, points, "milliseconds of one image", "AP")
