"""The sheet of quick: what was done with each minute, how good it is, and what to do next."""

import numpy as np

from tfyolo.predict.detections import ImageDetections
from tfyolo.quickstart.starts import NOTHING_HERE
from tfyolo.visualize import drawing, image_files, sheets


def draw_detections(detector, source, path, most=8):
    """Draws what a detector finds in images of a Source, those with several objects first, into one picture.

    Args:
        detector: a Detector.
        source: a Source.
        path: of the picture.
        most: images.
    """
    several = source.records[np.argsort(-np.minimum(source.records.counts, 4), kind="stable")[:most]]
    found = [detector(record.path, score=0.4) for record in several if record.span is None]
    if found:
        image_files.save(path, sheets.gallery([_large(each) for each in found], columns=4, width=1280))


def _large(found: ImageDetections):
    """What is found in a small image, in one that is large enough for its tags."""
    image, boxes = sheets.enlarged(found.image, found.boxes, side=400)
    return drawing.draw(image, boxes, found.labels, found.scores, found.classes)


def _ap(report, name):
    """An AP of a gate's report, which has none where the images that it looked at have no boxes."""
    return f"{report[name]:.3f}" if name in report else "none: no boxes"


def written_sheet(result, budget, start, plan, epochs, each, shares, faults, target, advice):
    """The sheet as Markdown."""
    rows = [(name, f"{seconds:.0f} s") for name, seconds in result.seconds.items()]
    lines = [
        f"# {result.folder.name}: {start.config} on {shares.train.name}",
        "",
        f"AP {result.metrics['AP']:.3f}, AP50 {result.metrics['AP50']:.3f} on {len(shares.aside.records)} images "
        f"that nothing was learned from ({shares.aside.split!r}).",
        "",
    ]
    lines += [f"{advice[0].upper()}{advice[1:]}.", ""] if advice else []
    if result.model:
        lines += [f"The file for {target}: `{result.model}`", ""]
    lines += [f"Not exported: {fault}" for fault in faults]
    lines += [
        "| file | AP | AP of the model | MB | ms |",
        "|---|---|---|---|---|",
        *(
            f"| {each.path.name} | {_ap(each.report, 'AP')} | {_ap(each.report, 'keras_AP')} "
            f"| {each.report['bytes'] / 1e6:.1f} | {each.report['ms']:.0f} |"
            for each in result.exports.values()
        ),
        "",
        "(AP of the files: on some of the images held back from training.)",
        "",
        "## What was done",
        "",
        f"- Started from {start.weights or f'random weights; {NOTHING_HERE}'}.",
        f"- {plan.size} x {plan.size} pixels, since this machine trains on about {1 / each:.0f} images a second "
        f"at 320 pixels; {epochs}.",
        *(f"- {note[0].upper()}{note[1:]}." for note in shares.notes),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in rows),
        f"| all, of {budget.seconds / 60:g} minutes | {budget.used:.0f} s |",
        "",
    ]
    if budget.left < 0:
        after = sum(result.seconds.get(name, 0.0) for name in ("evaluate", "export", "draw"))
        before = sum(result.seconds.values()) - after
        lines += [
            f"It took longer than it was given: {before:.0f} s to the end of training, for which "
            f"{budget.seconds - plan.reserve:.0f} s were planned, {after:.0f} s for evaluation and export, for which "
            f"{plan.reserve:.0f} s were.",
            "",
        ]
    lines += ["![detections](detections.png)", ""]
    return "\n".join(lines)
