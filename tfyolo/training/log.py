"""What a run writes as it goes: lines, TensorBoard scalars, drawn batches and validation images."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfyolo.data import datasets
from tfyolo.evaluation.metrics import match
from tfyolo.training.briefing import duration
from tfyolo.visualize import drawing, image_files


def better(metrics, best):
    """Whether an epoch is better than the best before it: by AP, or AP50 where that is all there is to tell the two apart.

    Where neither can be said, for want of boxes to judge by, the later one is.
    """
    new, old = ([-1.0 if np.isnan(one[name]) else one[name] for name in ("AP", "AP50")] for one in (metrics, best))
    return new > old or (np.isnan(metrics["AP"]) and np.isnan(best["AP"]))


def log_scalars(board, row):
    with board.as_default():
        for name, value in row.items():
            if isinstance(value, float):
                tf.summary.scalar(name, value, step=row["epoch"])
    board.flush()


def epoch_line(row, epochs, improved, left):
    terms = "  ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in row.items() if name.startswith("loss"))
    line = f"epoch {row['epoch']:>3}/{epochs}  {terms}  lr {row['lr']:.2g}  {row['images_per_second']:.1f} images/s"
    if "AP" in row:
        scores = f"AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}{'  best so far' if improved else ''}"
        line += f"  |  {'no AP: no boxes to judge by' if np.isnan(row['AP']) else scores}"
    return line + (f"  |  {duration(left)} left" if row["epoch"] < epochs else "")


def draw_batch(sample, strategy, classes, path, most=16):
    """Draws what is learned from: the first images of a batch, augmented, with their boxes and classes."""
    parts = (np.concatenate(strategy.experimental_local_results(value)) for value in sample[:4])
    images, boxes, labels, crowd = (value[:most] for value in parts)
    sheets = []
    for b, image in enumerate(images):
        real = labels[b] >= 0
        image, there = drawing.resized(image, boxes[b][real], side=320)
        sheets.append(drawing.draw_ground_truth(image, there, labels[b][real], crowd[b][real], classes))
    image_files.save(path, drawing.grid(sheets, columns=4))


def draw_pictures(model, detector, source, folder, board, epoch, *, count, batch, score):
    """Draws the first pictures of a Source as the network sees them: right, wrong and missed boxes beside each level's objectness.

    count: how many. batch: images at a time. score: the confidence threshold.
    """
    if not count:
        return
    first, skipped = source._replace(records=source.records[:count]), {}
    options = {"batch": min(batch, len(first.records)), "preprocess": detector.config.model.preprocess}
    sheets = []
    for sample in datasets.eval_dataset(first, size=detector.input_size, skipped=skipped, **options):
        raw = model.network(sample.image, training=False)
        maps = model.decoder.objectness(raw)
        found = tf.nest.map_structure(np.asarray, detector.postprocess(model.decoder(raw)))
        for b, number in enumerate(sample.image_id.numpy()):
            if number < 0 or number in skipped:
                continue
            record = first.records[number]
            image = np.round(255 * sample.image[b].numpy()).astype(np.uint8)
            truths = sample.boxes[b].numpy()[: len(record.boxes)]
            kept = (np.arange(len(found.scores[b])) < found.count[b]) & (found.scores[b] >= score)
            boxes, *told = (getattr(found, name)[b][kept] for name in ("boxes", "labels", "scores"))
            gt_index = match(truths, record.labels, record.crowd, boxes, *told, difficult=record.difficult)
            image, truths, boxes = drawing.enlarged(image, truths, boxes)
            drawn = drawing.draw_matches(
                image, truths, record.labels, record.ignored, boxes, *told, model.classes, gt_index
            )
            heat = {f"objectness, {name}": drawing.heatmap(image, levels[b].numpy()) for name, levels in maps.items()}
            name = Path(str(record.image_id)).stem
            panels = {f"{name}, confidence from {score:.2f}": drawn, **heat}
            sheet = drawing.grid([drawing.titled(panel, title) for title, panel in panels.items()], len(panels))
            image_files.save(folder / f"{number + 1:02d}_{name}.jpg", sheet)
            sheets.append(sheet)
    if sheets:
        with board.as_default():
            tf.summary.image("validation", drawing.grid(sheets, columns=1)[None], step=epoch)
