"""What a run writes as it goes: lines, TensorBoard scalars, drawn batches and validation images."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfyolo.data import datasets
from tfyolo.evaluation.matching import match
from tfyolo.training.clock import duration
from tfyolo.visualize import drawing, image_files, sheets


def better(metrics, best):
    """Whether an epoch is better than the best before it: by AP, and by AP50 where AP is equal.

    Without boxes to evaluate on both are NaN; then the later epoch is the better one.

    Args:
        metrics: {"AP", "AP50"} of the epoch.
        best: {"AP", "AP50"} of the best epoch before it.
    """
    new, old = ([-1.0 if np.isnan(one[name]) else one[name] for name in ("AP", "AP50")] for one in (metrics, best))
    return new > old or (np.isnan(metrics["AP"]) and np.isnan(best["AP"]))


class TensorBoard:
    """A callback: the scalars of each epoch for TensorBoard.

    Args:
        folder: where its event files are written.

    Attributes:
        writer: a tf.summary writer, for more than scalars.
    """

    def __init__(self, folder):
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, row):
        """Writes the floats of an epoch's row."""
        with self.writer.as_default():
            for name, value in row.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value, step=row["epoch"])
        self.writer.flush()

    def on_end(self, run):
        """Closes the file."""
        self.writer.close()


def epoch_line(row, epochs, improved, left):
    """Formats the line that is printed after an epoch.

    Args:
        row: its row of history.csv.
        epochs: how many the run has.
        improved: whether it is the best so far.
        left: seconds that the rest takes.

    Returns:
        The line.
    """
    terms = "  ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in row.items() if name.startswith("loss"))
    line = f"epoch {row['epoch']:>3}/{epochs}  {terms}  lr {row['lr']:.2g}  {row['images_per_second']:.1f} images/s"
    if "AP" in row:
        scores = f"AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}{'  best so far' if improved else ''}"
        line += f"  |  {'no AP: no boxes to evaluate on' if np.isnan(row['AP']) else scores}"
    return line + (f"  |  {duration(left)} left" if row["epoch"] < epochs else "")


def draw_batch(sample, strategy, classes, path, most=16):
    """Draws the first images of a batch as the network gets them, augmented, with their boxes and classes.

    Args:
        sample: a distributed Sample.
        strategy: its tf.distribute strategy.
        classes: their names.
        path: the file.
        most: how many images are drawn at most.
    """
    parts = (np.concatenate(strategy.experimental_local_results(value)) for value in sample[:4])
    images, boxes, labels, crowd = (value[:most] for value in parts)
    shown = []
    for b, image in enumerate(images):
        real = labels[b] >= 0
        image, there = sheets.resized(image, boxes[b][real], side=320)
        shown.append(drawing.draw_ground_truth(image, there, labels[b][real], crowd[b][real], classes))
    image_files.save(path, sheets.grid(shown, columns=4))


def draw_detections(model, detector, source, folder, writer, epoch, *, count, batch, score):
    """Draws the first images of a Source as the network sees them: right, wrong and missed boxes, and objectness maps.

    Args:
        model: the Model.
        detector: its Detector.
        source: the Source.
        folder: where a file for each image is written.
        writer: a tf.summary writer, which gets them all in one image.
        epoch: the step that it is written under.
        count: how many images.
        batch: images at a time.
        score: the confidence threshold.
    """
    if not count:
        return
    first, skipped = source._replace(records=source.records[:count]), {}
    options = {"batch": min(batch, len(first.records)), "preprocess": detector.preprocess}
    shown = []
    for sample in datasets.eval_dataset(first, size=detector.input_size, skipped=skipped, **options):
        raw = model.network(sample.image, training=False)
        maps = model.decoder.objectness(raw)
        found = tf.nest.map_structure(np.asarray, detector.postprocess(model.decoder(raw)))
        for b, number in enumerate(sample.image_id.numpy()):
            if number < 0 or number in skipped:
                continue
            record = first.records[number]
            image = np.round(255 * sample.image[b].numpy()).astype(np.uint8)
            ground_truth = sample.boxes[b].numpy()[: len(record.boxes)]
            kept = (np.arange(len(found.scores[b])) < found.count[b]) & (found.scores[b] >= score)
            boxes, *rest = (getattr(found, name)[b][kept] for name in ("boxes", "labels", "scores"))
            gt_index = match(ground_truth, record.labels, record.crowd, boxes, *rest, difficult=record.difficult)
            image, ground_truth, boxes = sheets.enlarged(image, ground_truth, boxes)
            drawn = drawing.draw_matches(
                image, ground_truth, record.labels, record.ignored, boxes, *rest, model.classes, gt_index
            )
            heat = {f"objectness, {name}": sheets.heatmap(image, levels[b].numpy()) for name, levels in maps.items()}
            name = Path(str(record.image_id)).stem
            panels = {f"{name}, confidence from {score:.2f}": drawn, **heat}
            sheet = sheets.grid([sheets.titled(panel, title) for title, panel in panels.items()], len(panels))
            image_files.save(folder / f"{number + 1:02d}_{name}.jpg", sheet)
            shown.append(sheet)
    if shown:
        with writer.as_default():
            tf.summary.image("validation", sheets.grid(shown, columns=1)[None], step=epoch)
