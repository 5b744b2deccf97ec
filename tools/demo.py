"""`make demo`: the whole way on data that tfyolo draws itself, and a summary of every figure.

It trains, evaluates, exports and detects.

python tools/demo.py [FOLDER] [KEY=VALUE]...    default: demo
"""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

from tfyolo import devices

GOAL = 0.85  # AP50 on the held-out split


class Steps:
    """The steps of the demo, each announced and timed.

    Attributes:
        seconds: {step: seconds that it took}.
    """

    def __init__(self):
        self.seconds = {}

    def __call__(self, name, work):
        """Calls `work`, and returns its result."""
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - began, 1)
        return result


def main(folder="demo", *overrides):
    """Runs the demo; returns 0 if AP50 reaches GOAL, else 1."""
    devices.start()  # before the modules that import TensorFlow
    from tfyolo import config
    from tfyolo import model as models
    from tfyolo.data import demo, readers
    from tfyolo.evaluation.run import evaluate
    from tfyolo.exports import export as exports
    from tfyolo.exports import targets
    from tfyolo.files import write_text
    from tfyolo.predict import load as loading
    from tfyolo.training.train import train

    folder, step = Path(folder), Steps()
    data = step("draw the data set", lambda: demo.write(folder / "data"))
    for name in ("run", "detections"):  # of an earlier demo
        shutil.rmtree(folder / name, ignore_errors=True)
    settings = config.load(Path(__file__).parents[1] / "configs" / "demo.yaml", [f"data={data}", *overrides])
    run = step("train", lambda: train(settings, folder / "run"))

    held_out = readers.read(data, "test")
    report = step(
        "evaluate on the held-out split",
        lambda: evaluate(loading.load(run.folder), held_out, out=folder / "run" / "test", pictures=8),
    )
    print(report)
    asked = [*targets.DEFAULT_TARGETS, targets.Target("tflite", "int8")]
    options = {"calibration": readers.read(data, "train"), "progress": True}
    made = step(
        "export", lambda: exports.export(models.load_model(run.folder), run.folder / "export", asked, **options)
    )
    paths = {name: each.path for name, each in made.items()}

    def evaluate_exports():
        return {name: evaluate(loading.load(path), held_out).metrics for name, path in paths.items()}

    metrics = {"keras": report.metrics, **step("evaluate the exports", evaluate_exports)}
    step("detect with the TFLite file", lambda: draw_detections(folder, paths["tflite"], held_out))
    figures = {
        name: {
            "AP": round(m["AP"], 4),
            "AP50": round(m["AP50"], 4),
            "bytes": targets.size_of(paths.get(name, run.folder / "best.h5")),
        }
        for name, m in metrics.items()
    }
    total = round(sum(step.seconds.values()), 1)
    summary = {"split": "test", "models": figures, "seconds": step.seconds, "total_seconds": total}
    write_text(folder / "summary.json", json.dumps(summary, indent=2))
    print_summary(folder, summary)
    reached = report.metrics["AP50"] >= GOAL
    print(f"AP50 {report.metrics['AP50']:.3f} on the held-out split, goal {GOAL}: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


def draw_detections(folder, path, source):
    """Detects in eight images with several objects, and draws each, and all on one sheet.

    Args:
        folder: of the drawings.
        path: of the model.
        source: the images, a Source.
    """
    from tfyolo.predict import load as loading
    from tfyolo.visualize import drawing, image_files, sheets

    def drawn_large(found):
        """The drawing of a small image, enlarged so that tags fit."""
        image, boxes = sheets.enlarged(found.image, found.boxes, side=400)
        return drawing.draw(image, boxes, found.labels, found.scores, found.classes)

    detector = loading.load(path)
    several = [record for record in source.records if len(record.boxes) > 2][:8]
    found = [detector(record.path, score=0.5) for record in several]
    for each in found:
        image_files.save(folder / "detections" / Path(each.file).name, each.draw())
    sheet = sheets.gallery([drawn_large(each) for each in found], columns=4, width=1280)
    image_files.save(folder / "detections.png", sheet)


def print_summary(folder, summary):
    """Prints the figures of summary.json, and what the folder holds."""
    print(f"\n{'model':<16}{'AP':>8}{'AP50':>8}{'MB':>8}")
    for name, row in summary["models"].items():
        print(f"{name:<16}{row['AP']:>8.3f}{row['AP50']:>8.3f}{row['bytes'] / 1e6:>8.1f}")
    seconds = ", ".join(f"{name} {s:.0f}" for name, s in summary["seconds"].items())
    print(f"\n{summary['total_seconds']:.0f} s of work: {seconds}")
    print(f"""
Everything lies in {folder.resolve()}:
  detections.png, detections/   what the TFLite file detects in images that it was not trained on
  summary.json                  these figures
  run/                          the trained model and its log; run/results.png losses and AP over the epochs
  run/test/                     curves and errors on the held-out split
  run/export/                   the SavedModel and the TFLite files
  data/                         the data set, COCO JSON""")


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt as stop:  # that of training has a signal, which may be SIGTERM
        print("\nstopped; started again, the demo begins at the start", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
