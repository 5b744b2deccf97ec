"""`make demo`: the whole way on data that tfyolo draws itself: train, evaluate, export, detect; and a summary of every figure.

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


def main(folder="demo", *overrides):
    devices.start()  # before what imports TensorFlow in turn
    from tfyolo import config
    from tfyolo import model as models
    from tfyolo.data import demo, readers
    from tfyolo.evaluation.run import evaluate
    from tfyolo.exports import export as exports
    from tfyolo.exports import targets
    from tfyolo.files import write_text
    from tfyolo.predict import load as loading
    from tfyolo.training.train import train
    from tfyolo.visualize import drawing, image_files

    folder, seconds = Path(folder), {}

    def timed(name, work):
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        result = work()
        seconds[name] = round(time.monotonic() - began, 1)
        return result

    data = timed("draw the data set", lambda: demo.write(folder / "data"))
    for name in ("run", "detections"):  # what an earlier demo has left
        shutil.rmtree(folder / name, ignore_errors=True)
    settings = config.load(Path(__file__).parents[1] / "configs" / "demo.yaml", [f"data={data}", *overrides])
    run = timed("train", lambda: train(settings, folder / "run"))

    held_out = readers.read(data, "test")
    report = timed(
        "evaluate on the held-out split",
        lambda: evaluate(loading.load(run.folder), held_out, out=folder / "run" / "test", pictures=8),
    )
    print(report)
    forms = [*targets.DEFAULT_TARGETS, targets.Target("tflite", "int8")]
    options = {"calibration": readers.read(data, "train"), "progress": True}
    made = timed(
        "export", lambda: exports.export(models.load_model(run.folder), run.folder / "export", forms, **options)
    )
    paths = {name: each.path for name, each in made.items()}

    def judge_exports():
        return {name: evaluate(loading.load(path), held_out).metrics for name, path in paths.items()}

    metrics = {"keras": report.metrics, **timed("evaluate the exports", judge_exports)}

    def drawn_large(found):
        """What is found in a small picture, in one that is large enough for its tags."""
        image, boxes = drawing.enlarged(found.image, found.boxes, side=400)
        return drawing.draw(image, boxes, found.labels, found.scores, found.classes)

    def draw():
        detector = loading.load(paths["tflite"])
        several = [record for record in held_out.records if len(record.boxes) > 2][:8]
        found = [detector(record.path, score=0.5) for record in several]
        for each in found:
            image_files.save(folder / "detections" / Path(each.file).name, each.draw())
        sheet = drawing.gallery([drawn_large(each) for each in found], columns=4, width=1280)
        image_files.save(folder / "detections.png", sheet)

    timed("detect with the TFLite file", draw)
    figures = {
        name: {
            "AP": round(m["AP"], 4),
            "AP50": round(m["AP50"], 4),
            "bytes": targets.size_of(paths.get(name, run.folder / "best.h5")),
        }
        for name, m in metrics.items()
    }
    summary = {"split": "test", "models": figures, "seconds": seconds, "total_seconds": round(sum(seconds.values()), 1)}
    write_text(folder / "summary.json", json.dumps(summary, indent=2))

    print(f"\n{'model':<16}{'AP':>8}{'AP50':>8}{'MB':>8}")
    for name, row in figures.items():
        print(f"{name:<16}{row['AP']:>8.3f}{row['AP50']:>8.3f}{row['bytes'] / 1e6:>8.1f}")
    print(f"\n{summary['total_seconds']:.0f} s of work: {', '.join(f'{name} {s:.0f}' for name, s in seconds.items())}")
    print(f"""
Everything lies in {folder.resolve()}:
  detections.png, detections/   what the TFLite file sees in pictures that it has never seen
  summary.json                  these figures
  run/                          the trained model and its log; run/results.png losses and AP over the epochs
  run/test/                     curves and errors on the held-out split
  run/export/                   the SavedModel and the TFLite files
  data/                         the data set, COCO JSON""")
    reached = report.metrics["AP50"] >= GOAL
    print(f"AP50 {report.metrics['AP50']:.3f} on the held-out split, goal {GOAL}: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt as stop:  # training's knows of SIGTERM, too
        print("\nstopped; the demo begins anew when it is started again", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
