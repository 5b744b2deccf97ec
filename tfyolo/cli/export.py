"""Commands that make and compare files: export, benchmark."""

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    DATA,
    Choices,
    Whole,
    data_options,
    device_option,
    format_option,
    here,
    json_option,
    print_json,
    reading_options,
    refuse_export,
    require_data,
    require_model,
    require_path,
    split_hint,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.files import normal
from tfyolo.messages import counted
from tfyolo.origin import from_meta, initialised_line


@main.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--target",
    "destinations",
    multiple=True,
    type=Choices("destinations"),
    metavar="NAME",
    help="Where it is to run: a name of `tfyolo targets`; repeat for several.",
)
@click.option(
    "--to", "--format", "targets", multiple=True, type=Choices("exporters"), help="[default: saved_model, tflite]"
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=Choices("precisions"),
    help="Of a TFLite or ONNX file; repeat for several.  [default: the three that need no data]",
)
@click.option(
    "--nms",
    type=Choices("nms"),
    default="builtin",
    show_default=True,
    help=(
        "What a file gives out: after NMS of its own (builtin, e2e) or as mediapipe wants it (task); before it, "
        "decoded (none, app) or not (heads, logits)."
    ),
)
@click.option("--layout", type=Choices("layouts"), help="Order of an ONNX file's input.  [default: nhwc; of app nchw]")
@click.option("--size", type=Whole("Side"), nargs=2, metavar="H W", help="Of the images.  [default: the run's]")
@click.option("--any-size", is_flag=True, help="A SavedModel's floats: images of every size that its strides allow.")
@click.option("--batch", type=Whole("Batch"), default=1, show_default=True, help="Images a TFLite or ONNX file takes.")
@click.option(
    "--per-tensor",
    is_flag=True,
    help="Per-tensor quantization of kernels, for old int8 accelerators.  [default: per-channel]",
)
@click.option(
    "--data",
    "path",
    help="Its `train` split calibrates int8, its `val` evaluates every file.  [default for int8: the run's own]",
)
@data_options
@format_option
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    help="Of AP; twice as much of F1.  [default: .002; of dynamic and int8 .01]",
)
@click.option("--out", help="Folder for the exports.  [default: RUN/export]")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export has left there.")
@device_option
@json_option
def export(
    run,
    destinations,
    targets,
    precisions,
    nms,
    layout,
    size,
    any_size,
    batch,
    per_tensor,
    path,
    images,
    data_format,
    max_drop,
    out,
    overwrite,
    device,
    as_json,
):
    """Write RUN's model as a SavedModel (float images, uint8 images, JPEG bytes) and as TFLite files, NMS included.

    \b
    tfyolo export runs/yolov8n
    tfyolo export runs/yolov8n --precision int8 --data my/images
    tfyolo export runs/yolov8n --precision int8 --nms task
    tfyolo export runs/yolov8n --target android-gpu --target browser

    Every file is run and compared with the model before it takes its place; with data, its AP, too.
    """
    copy = here(run)
    refuse_export(copy, "name the run that it was made from")
    require_model(copy, "a run's folder or a .h5 file")
    from tfyolo.exports.destinations import targets_of
    from tfyolo.exports.targets import is_quantized

    if destinations and (targets or nms != "builtin"):
        raise click.UsageError("--target says what the file is; expected it without --to and --nms")
    asked = targets_of(destinations, precisions)
    int8 = any(map(is_quantized, [*precisions, *(target.precision for target in asked)]))
    if per_tensor and not int8:
        raise click.UsageError("--per-tensor is for int8, expected --precision int8 with it")
    if max_drop is not None and not (path or int8):
        raise click.UsageError("--max-drop needs data, expected --data with it")
    data = None
    if path:
        from tfyolo.config import Data

        data = Data(path=path, images=images, format=data_format, **reading_options())
        require_data(data)
    start_tensorflow(device)
    from tfyolo.exports import export as exports
    from tfyolo.exports.targets import asked_targets

    asked = asked or asked_targets(
        targets, precisions, nms, precisions or nms != "builtin" or size or batch != 1, layout
    )
    made = exports.export(
        run,
        out,
        asked,
        data=data,
        size=size or None,
        any_size=any_size,
        batch=batch,
        per_channel=not per_tensor,
        max_drop=max_drop,
        overwrite=overwrite,
        progress=not as_json,
    )
    if as_json:
        print_json({name: {"path": str(each.path), **each.report} for name, each in made.items()})
        return
    for name, each in made.items():
        report = each.report
        line = f"{name:<20}{report['bytes'] / 1e6:8.1f} MB{report['ms']:8.1f} ms (the model: {report['keras_ms']:.1f})"
        if "AP" in report:
            line += (
                f"  AP {report['AP']:.4f} (the model: {report['keras_AP']:.4f}), scores {report['score_shift']:+.3f}"
            )
        click.echo(f"{line}  {normal(each.path)}")
        if "worst" in report:
            layers = ", ".join(f"{layer} {ratio:.0f} dB" for layer, ratio in report["worst"])
            click.echo(f"{'':<20}SQNR is lowest in {layers}")
        if "floats" in report:
            click.echo(
                f"{'':<20}{counted(len(report['floats']), 'feature map')} in float32, {report['ms_more']:+.1f} ms: "
                f"{', '.join(report['floats'])}"
            )
        for place, found in report.get("lint", {}).items():
            if destinations and place not in destinations:  # another one's that takes the same file
                continue
            for line in [f"{place}: {found['summary']}", *found["findings"]]:
                click.echo(f"{'':<20}{line}")
        for message in report.get("skipped", []):
            click.echo(f"{'':<20}left out of calibration: {message}")
    if line := initialised_line(from_meta(report["origin"])):
        click.echo(line)


@main.command()
@json_option
def targets(as_json):
    """List where files can run: the names for `tfyolo export RUN --target NAME`."""
    from tfyolo.exports.destinations import DESTINATIONS

    if as_json:
        print_json({name: each._asdict() | {"target": each.target._asdict()} for name, each in DESTINATIONS.items()})
        return
    for name, each in DESTINATIONS.items():
        click.echo(f"{name:<15}{each.purpose}")
        click.echo(f"{'':<15}{each.target.file}: {each.reads}")


@main.command()
@click.argument("run", metavar="RUN")
@click.argument("paths", nargs=-1, metavar="[EXPORT]...")
@click.option("--threads", type=Whole("Count"), default=2, show_default=True, help="For each of the competitors.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="For each.")
@click.option(
    "--rounds", type=click.IntRange(2, 1_000_000), default=10, show_default=True, help="How often they take turns."
)
@click.option("--image", type=click.Path(exists=True, dir_okay=False), help="An image to run on.  [default: noise]")
@click.option("--unfused", is_flag=True, help="The network as it trained, too: batch norms and branches not fused.")
@click.option("--data", "path", help="Data to evaluate each on, its --split.")
@click.option("--split", default="val", show_default=True, help="Of the data.")
@click.option("--peer", "peers", multiple=True, metavar="NAME=COMMAND", help="Another to take turns with.")
@click.option("--baseline", help="The competitor that the others' ratios are to.  [default: opencv, else keras]")
@click.option("--plot", metavar="FILE", help="With --data: AP over milliseconds, drawn there.")
@device_option
@json_option
def benchmark(
    run, paths, threads, seconds, rounds, image, unfused, path, split, peers, baseline, plot, device, as_json
):
    """Time RUN's model and its EXPORTs on one image, in turns.

    They run as Keras, SavedModel, TFLite and, if RUN was imported from Darknet, in OpenCV. In RUN's place an export may
    stand: then exports alone take turns, on a device without TensorFlow, too.

    \b
    tfyolo benchmark runs/yolov8n runs/yolov8n/export/*.tflite --data my/images
    """
    from tfyolo.peers import Peer
    from tfyolo.predict.runtimes import runtime_of, titles

    if plot and not path:
        raise click.UsageError("--plot shows AP, expected --data with it")
    run, paths = require_model(run), tuple(map(here, paths))
    for each in paths:
        require_path(each, titles(exported=True))
    if unfused and runtime_of(run).exported:
        raise click.UsageError(f"--unfused times a run's network before fusion; {run} is an export")
    given = [Peer.parsed(peer) for peer in peers]
    if path:
        require_path(path, DATA)
    start_tensorflow(device, threads, optional=path is None)
    from tfyolo.benchmark import run as benchmarks
    from tfyolo.data import readers

    with split_hint():
        validation = readers.read(path, split) if path else None
    options = {"threads": threads, "seconds": seconds, "rounds": rounds, "image": image, "unfused": unfused}
    figures = benchmarks.benchmark(run, paths, **options, peers=given, baseline=baseline, validation=validation)
    if plot:
        benchmarks.draw(figures, plot)
    if as_json:
        print_json(figures)
    else:
        click.echo(benchmarks.table(figures))
