"""The plot of a data set: counts of its classes, sizes of its boxes and anchors, and some images with their boxes."""

import numpy as np

from tfyolo.data.contents import ImageError
from tfyolo.data.decoding import read_record
from tfyolo.data.geometry import scale_of


def summary_figure(report, sources, sizes):
    """Draws a CheckReport.

    Args:
        report: a CheckReport.
        sources: {split: Source} that it is about.
        sizes: [M, 2] (h, w) of all boxes, in pixels of the report's input size.

    Returns:
        A matplotlib Figure.
    """
    from matplotlib.figure import Figure  # most callers want no picture, and matplotlib takes a second to import

    from tfyolo.visualize import drawing, sheets

    figure = Figure(figsize=(16, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    bars, scatter = top.subplots(1, 2)
    counts = {name: [split.boxes[name] for split in report.splits.values()] for name in report.classes}
    shown = sorted(counts, key=lambda name: -sum(counts[name]))[:40]
    start = np.zeros(len(shown))
    for place, name in enumerate(report.splits):
        height = np.array([counts[label][place] for label in shown])
        bars.bar(range(len(shown)), height, bottom=start, label=name)
        start += height
    bars.set_xticks(range(len(shown)), shown, rotation=90 if len(shown) > 8 else 0)
    bars.set_title(
        f"{report.name}: boxes of each class" + (f", the first {len(shown)}" if len(shown) < len(counts) else "")
    )
    bars.margins(y=0.2)  # room for the legend
    bars.legend()

    some = sizes[np.random.default_rng(0).permutation(len(sizes))[:20_000]]
    scatter.scatter(some[:, 1], some[:, 0], s=4, alpha=0.3, linewidths=0)
    if report.anchors:
        heights, widths = zip(*report.anchors, strict=True)
        scatter.scatter(widths, heights, marker="+", s=120, color="crimson", label="anchors")
        scatter.legend()
    H, W = report.input_size
    scatter.set(title=f"boxes at {H} x {W}", xlabel="width, pixels", ylabel="height, pixels", xlim=(0, W), ylim=(0, H))

    source = max(sources.values(), key=lambda source: len(source.records))
    axes = bottom.subplots(2, 6).ravel()
    for axis in axes:
        axis.axis("off")
    chosen = np.random.default_rng(0).permutation(len(source.records))
    drawn = 0
    for index in chosen:
        if drawn == len(axes):
            break
        record = source.records[index]
        try:
            image = read_record(record, source.max_pixels)
        except ImageError:
            continue
        axis = axes[drawn]
        drawn += 1
        image, boxes = sheets.resized(image, record.boxes * scale_of(record.size, image.shape[:2]), side=360)
        axis.imshow(drawing.draw_ground_truth(image, boxes, record.labels, record.ignored, source.classes))
        axis.set_title(str(record.image_id), fontsize=7)
    return figure
