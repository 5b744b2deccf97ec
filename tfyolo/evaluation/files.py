"""The files of an evaluation: metrics, detections in COCO's results format, curves, drawn images."""

import json
from pathlib import Path

from tfyolo.data import decoding, geometry
from tfyolo.evaluation.matching import Found, boxes_to_xywh, match
from tfyolo.files import write_text
from tfyolo.messages import printable
from tfyolo.structures import BACKGROUND
from tfyolo.visualize import drawing, image_files, plots, sheets


def write_report(out, report, source, found, pictures):
    """Writes the files of an evaluation.

    Args:
        out: the folder, made if it is not there.
        report: a Report.
        source: the Source that it is of.
        found: a Found for each of its records, None for an image that could not be read.
        pictures: how many images to draw, those with most errors first.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "detections.json", _coco_results(source, found))
    _write_json(out / "metrics.json", report.to_json())
    plots.pr_curves(report.curves, source.classes, out / "pr_curve.png")
    plots.f1_curves(report.curves, source.classes, out / "f1_curve.png")
    plots.confusion_matrix(report.confusion, report.score, source.classes, out / "confusion.png")
    _draw_worst(out / "pictures", report.score, source, found, pictures)


def _coco_results(source, found):
    """The detections in COCO's results format, with the ids of the source's files."""
    return [
        {
            "image_id": record.image_id,
            "category_id": source.category_ids[label],
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 6),
        }
        for record, one in zip(source.records, found, strict=True)
        if one is not None
        for box, label, score in zip(
            boxes_to_xywh(one.boxes).tolist(), one.labels.tolist(), one.scores.tolist(), strict=True
        )
    ]


def _draw_worst(out, score, source, found, count):
    """Draws the images with most errors at a confidence threshold, worst first."""
    shown = [one and Found(*(value[one.scores >= score] for value in one)) for one in found]
    ranked = []
    for number, (record, one) in enumerate(zip(source.records, shown, strict=True)):
        if one is not None:
            gt = record.boxes, record.labels, record.crowd
            index = match(*gt, one.boxes, one.labels, one.scores, difficult=record.difficult)
            errors = (index == BACKGROUND).sum() + (~record.ignored).sum() - (index >= 0).sum()
            ranked.append((-errors, number, index))
    for place, (_, number, index) in enumerate(sorted(ranked, key=lambda row: row[:2])[:count], 1):
        record, one = source.records[number], shown[number]
        image = decoding.read_record(record, source.max_pixels)
        scale = geometry.scale_of(record.size, image.shape[:2])
        image, gt_boxes, boxes = sheets.enlarged(image, record.boxes * scale, one.boxes * scale)
        image = drawing.draw_matches(
            image, gt_boxes, record.labels, record.ignored, boxes, one.labels, one.scores, source.classes, index
        )
        image_files.save(out / f"{place:02d}_{printable(Path(str(record.image_id)).stem)[:100]}.jpg", image)


def _write_json(path, value):
    write_text(path, json.dumps(value, ensure_ascii=False))
