"""What the figures of an evaluation cost, by the number of images: seconds and memory, for invented detections.

    python tools/benchmark_evaluation.py
    python tools/benchmark_evaluation.py --images 80000 --detections 300 --classes 80

Each number of images has a process of its own. An image has seven objects on average; a fifth of its detections are of
them, the others of nothing. "held" is the memory of the process before the evaluation, detections included.
"""

import resource
import subprocess
import sys
import time

import click
import numpy as np

from tfyolo.cli.app import Command

SIZE, OBJECTS = 640, 7  # pixels of an image's side; objects in it, on average


def boxes_of(rng, count):
    """[count, 4] float32 of all sizes, and their sides [count, 2]."""
    centers, sides = rng.uniform(0, SIZE, (count, 2)), np.exp(rng.uniform(2, 5.5, (count, 2)))
    return np.concatenate([centers - sides / 2, centers + sides / 2], axis=1).astype(np.float32), sides


def invented(images, detections, classes):
    """Ground truth and detections: (a Source, DetectionColumns)."""
    from tfyolo.data.sources.source import Record, Source
    from tfyolo.evaluation.matching import DetectionColumns, Found

    rng, records, found = np.random.default_rng(0), [], DetectionColumns()
    for i in range(images):
        gt_boxes, sides = boxes_of(rng, rng.poisson(OBJECTS))
        gt_labels = rng.integers(0, classes, len(sides)).astype(np.int32)
        crowd, difficult = rng.random((2, len(sides))) < 0.01
        areas = sides.prod(axis=1).astype(np.float32)
        records.append(Record(i, "", gt_boxes, gt_labels, crowd, areas, (SIZE, SIZE), difficult=difficult))
        boxes, _ = boxes_of(rng, detections)
        labels = rng.choice(rng.integers(0, classes, 12), detections)  # an image has few classes
        of = rng.integers(0, max(len(sides), 1), detections // 5 if len(sides) else 0)
        boxes[: len(of)] = gt_boxes[of] + rng.normal(0, 0.1, (len(of), 4)) * np.tile(sides[of], 2)
        labels[: len(of)] = gt_labels[of]
        boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
        found.append(Found(boxes, rng.beta(0.5, 4, detections), labels))
    names = tuple(map(str, range(classes)))
    return Source(tuple(records), names, None, (), "invented", "val", "coco"), found


def peak():
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command(cls=Command)
@click.option("--images", multiple=True, type=click.IntRange(min=1), default=(1000, 5000), show_default=True)
@click.option("--detections", default=300, show_default=True, help="Of an image.")
@click.option("--classes", default=80, show_default=True)
@click.option("--here", is_flag=True, hidden=True)
def main(images, detections, classes, here):
    """Time the figures of an evaluation of invented detections, and measure its memory."""
    if not here:
        print("images | seconds | held MB | peak MB")
    for count in images:
        if not here:
            options = ["--images", count, "--detections", detections, "--classes", classes]
            subprocess.run([sys.executable, __file__, *map(str, options), "--here"], check=True)
            continue
        from tfyolo.evaluation.report import evaluate_detections

        source, found = invented(count, detections, classes)
        held, began = peak(), time.perf_counter()
        evaluate_detections(source, found)
        print(f"{count:,} | {time.perf_counter() - began:.1f} | {held:.0f} | {peak():.0f}", flush=True)


if __name__ == "__main__":
    main()
