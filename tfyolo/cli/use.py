"""Commands that use a detector: evaluate, detect."""

import json as jsons
import os
import sys
from pathlib import Path

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    DATA,
    Range,
    Whole,
    data_options,
    device_option,
    format_option,
    json_option,
    max_pixels_option,
    print_json,
    reading_options,
    require_model,
    require_path,
    split_hint,
    tta_arguments,
    tta_options,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted, printable


@main.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", "path", help="Data to evaluate on.  [default: what it was trained with]")
@click.option("--split", help="The split of the data.  [default: the config's val]")
@data_options
@format_option
@click.option("--batch", type=Whole("Batch"), default=8, show_default=True, help="Images at a time.")
@click.option("--iou", type=Range(0, 1), help="IoU above which NMS drops a box.")
@tta_options
@click.option("--out", help="Folder for metrics.json, detections.json, curves and drawings.")
@click.option(
    "--draw-images", type=Whole("CountOrZero"), default=0, help="Images to draw into --out, right and wrong in colours."
)
@device_option
@json_option
def evaluate(model, path, split, images, data_format, batch, iou, flip, scales, out, draw_images, device, as_json):
    """Evaluate MODEL, a run, a SavedModel, a .tflite or an .onnx file, by the COCO metrics.

    \b
    tfyolo evaluate runs/yolov3-tiny --split test --out runs/yolov3-tiny/test
    """
    model = require_model(model)
    for given, expected in ((path, DATA), (images, "a folder of images")):
        if given:
            require_path(given, expected)
    start_tensorflow(device)
    from tfyolo.data import readers
    from tfyolo.evaluation import run as evaluation
    from tfyolo.predict import load as loading

    detector = loading.load(model, **_given(iou=iou), **tta_arguments(flip, scales))
    with split_hint():
        source = evaluation.source_for(detector, path, split, images=images, format=data_format, **reading_options())
    if left_out := readers.faults(source, "evaluation"):
        click.echo(left_out, err=True)
    report = evaluation.evaluate(detector, source, batch=batch, out=out, progress=not as_json, pictures=draw_images)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
        if out:
            click.echo(f"curves, figures and detections are in {out}")


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


@main.command()
@click.argument("model", metavar="MODEL")
@click.argument("sources", nargs=-1, metavar="[IMAGE|VIDEO|FOLDER|GLOB]...")
@click.option("--camera", type=Whole("CountOrZero"), metavar="N", help="Read camera N, until Ctrl-C or --frames.")
@click.option("--frames", type=Whole("Count"), help="The most frames of a video or camera.")
@click.option(
    "--score",
    "--conf",
    type=Range(0, 1),
    default=0.25,
    show_default=True,
    help="Confidence threshold.",
)
@click.option("--iou", type=Range(0, 1), help="IoU above which NMS drops a box.")
@click.option("--class-agnostic", is_flag=True, help="NMS over all classes together.")
@click.option(
    "--soft-nms", type=Range(0, min_open=True), metavar="SIGMA", help="Soft-NMS: lower scores, not drop boxes; 0.5."
)
@click.option("--classes", "chosen", multiple=True, metavar="NAME", help="Only objects of a class; repeat for several.")
@click.option("--save-txt", is_flag=True, help="YOLO label files, in OUT/labels: to correct and to train on.")
@click.option("--save-crops", is_flag=True, help="What lies in each box, in OUT/crops, a folder a class.")
@tta_options
@click.option("--out", help="Folder for the drawings and detections.json.  [default: detections, numbered if taken]")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out under the same names.")
@max_pixels_option
@device_option
@json_option
def detect(
    model,
    sources,
    camera,
    frames,
    score,
    iou,
    class_agnostic,
    soft_nms,
    chosen,
    save_txt,
    save_crops,
    flip,
    scales,
    out,
    overwrite,
    device,
    as_json,
):
    """Find objects by MODEL (a run, a SavedModel, a .tflite or an .onnx file), draw them, write them as JSON.

    \b
    tfyolo detect runs/yolov3-tiny photo.jpg holiday/ 'more/*.png' film.mp4
    """
    if not sources and camera is None:
        raise click.UsageError(
            f"{printable(model)} is MODEL; behind it name images, videos, folders or globs, or a --camera"
        )
    model = require_model(model)
    for source in sources:
        require_path(source, "an image, a video, a folder or a glob")
    start_tensorflow(device, optional=True)
    from tqdm import tqdm

    from tfyolo import folders
    from tfyolo.data.contents import ImageError
    from tfyolo.files import write_text
    from tfyolo.predict import load as loading
    from tfyolo.predict import media
    from tfyolo.predict import sources as detection

    files = media.find_images(sources) if sources else []
    if out is None:  # the name is held until the command ends
        free = folders.new(None, "detections", inside="")
        out = "detections" if overwrite else click.get_current_context().with_resource(free)
    drawn = detection.drawing_paths(files, Path(out))
    if themselves := {*map(os.path.realpath, files)} & {*map(os.path.realpath, drawn)}:
        raise click.UsageError(f"{min(themselves)}: the drawing would replace the image itself; name another --out")
    if save_txt and (taken := [file for file, path in zip(files, drawn, strict=True) if path.name == "classes.jpg"]):
        raise click.UsageError(
            f"{printable(taken[0])}: its labels would be in classes.txt, where the classes' names stand; rename it"
        )
    if camera is not None:
        files, drawn = [*files, camera], [*drawn, Path(out) / f"camera{camera}.mp4"]
    summary = Path(out) / "detections.json"
    saving = detection.Saving(
        chosen or None, Path(out) / "labels" if save_txt else None, Path(out) / "crops" if save_crops else None
    )
    taken = [str(path) for path in (*drawn, summary, *filter(None, saving[1:])) if path.exists()]
    if taken and not overwrite:
        most = {"most_pixels": reading_options()["max_pixels"]} if "max_pixels" in reading_options() else {}
        for file in files:  # other errors are reported at once
            try:
                media.check(file, **most)
            except (ImageError, media.SourceError) as error:
                click.echo(f"Error: {printable(error)}", err=True)
        raise click.UsageError(f"{printable(', '.join(taken[:3]))}: there already; name another --out, or --overwrite")
    options = _given(iou=iou, soft_sigma=soft_nms, per_class=False if class_agnostic else None)
    detector = loading.load(model, **tta_arguments(flip, scales), **options)
    detector.max_pixels = reading_options().get("max_pixels", detector.max_pixels)

    if unknown := [name for name in chosen if name not in detector.classes]:
        raise click.UsageError(
            f"--classes: expected names of {printable(', '.join(detector.classes[:80]))}, received "
            f"{printable(', '.join(unknown))}"
        )

    rows, faults, shown = [], 0, {"score": score, "limit": frames, "progress": not as_json, "saving": saving}
    for each in detection.detect_each(detector, files, drawn, **shown):
        if each.error:
            faults += 1
            tqdm.write(f"Error: {printable(each.error)}", file=sys.stderr)
            continue
        rows += each.rows
        if not as_json:
            tqdm.write(printable(f"{each.source}: {each.summary} -> {each.drawing}"))
    if rows:  # where nothing could be read, nothing is left
        write_text(summary, jsons.dumps(rows, indent=1))
        if save_txt:
            write_text(saving.labels / "classes.txt", "".join(f"{name}\n" for name in detector.classes))
    if as_json:
        print_json(rows)
    else:
        unread = f"{counted(faults, 'source')} could not be read" if faults else ""
        written = f"{counted(len(rows), 'row')} in {summary}" if rows else "nothing is written"
        if rows and (beside := [str(path) for path in (saving.labels, saving.crops) if path and path.exists()]):
            written += f", more in {' and '.join(beside)}"
        click.echo("; ".join(filter(None, (written, unread))))
    if faults:
        sys.exit(1)
