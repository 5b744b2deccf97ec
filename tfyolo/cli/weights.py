"""Commands about weights: weights, import, verify."""

import os
import sys

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import NamedIn, json_option, print_json, require_model, require_path
from tfyolo.devices import start as start_tensorflow


@main.command("weights")
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def weights_(name, as_json):
    """List the published weights that training can start from; or fetch those of NAME into the cache folder.

    \b
    tfyolo weights
    tfyolo weights yolox-s
    tfyolo train yolox-s data=my/pictures init=yolox-s                  (fetches them, too)

    The cache folder is $TFYOLO_CACHE, else ~/.cache/tfyolo. Nothing is fetched that was not asked for by its name.
    """
    from tfyolo.weights import fetch, listing, published

    if name is None:
        rows = listing.rows()
        if as_json:
            print_json({"cache": str(fetch.cache_folder()), "weights": rows})
        else:
            click.echo(listing.table(rows))
        return
    files = fetch.fetched(name, progress=not as_json)
    row = listing.row(name)
    if as_json:
        print_json({**row, "files": [str(file) for file in files]})
        return
    for file in files:
        click.echo(f"here: {file}")
    click.echo(f"licence: {published.origin_of(name)}")


@main.command("import")
@click.argument("network", metavar="NET.cfg|NET.pt|NET.onnx|NAME|RUN")
@click.argument("weights", required=False, metavar="[NET.weights]")
@click.option("--names", help="File of class names, one a line.  [default: COCO's for 80 classes, else numbers]")
@click.option(
    "--preprocess",
    type=NamedIn("preprocess"),
    help="How images are brought to its size.  [default: stretch; darknet_letterbox if the .cfg says letter_box=1]",
)
@click.option("--out", help="Folder for the run; new or empty.  [default: runs/NET, numbered if taken]")
@click.option("--write", metavar="OUT.weights", help="Write it back as Darknet's .weights, with its .cfg beside it.")
@click.option("--overwrite", is_flag=True, help="Let --write replace what is there.")
@json_option
def import_(network, weights, names, preprocess, out, write, overwrite, as_json):
    """Make a run of a Darknet network, a PyTorch checkpoint or an ONNX file of YOLOX: exactly, or not at all.

    NET.weights are those of NET.cfg. NAME is one of `tfyolo weights`, which is fetched. Or write a RUN back that came
    from Darknet.

    \b
    tfyolo import yolov4-tiny.cfg yolov4-tiny.weights --out runs/yolov4-tiny
    tfyolo import yolov8n.pt --out runs/yolov8n
    tfyolo import yolox_nano.onnx --out runs/yolox-nano
    tfyolo import yolox-s --out runs/yolox-s
    tfyolo import runs/fine-tuned --write fine-tuned.weights
    """
    from tfyolo import config as configs

    if weights is None and configs.is_published(network):
        if names or preprocess or write:
            raise click.UsageError(f"{network} is imported by itself: --names, --preprocess and --write are for files")
        _import_published(network, out, as_json)
        return
    checkpoint = network.endswith((".pt", ".pth", ".onnx"))
    if checkpoint and (weights or preprocess or write):
        raise click.UsageError(
            f"{network} is imported by itself: NET.weights, --preprocess and --write are for Darknet's networks"
        )
    if not (weights or checkpoint) and not (write and os.path.exists(network) and not network.endswith(".cfg")):
        raise click.UsageError(
            "name NET.cfg and NET.weights, or NET.pt or NET.onnx; or a RUN, and --write OUT.weights for the way back "
            "to Darknet"
        )
    require_path(network, "a .cfg file, a .pt file, an .onnx file or a run")
    if weights is not None:
        require_path(weights, "a .weights file")
    start_tensorflow()
    from tfyolo.weights.darknet import importing
    from tfyolo.weights.torch import importing as torch_importing

    made = {}
    if weights is not None or checkpoint:
        if checkpoint:
            imported = torch_importing.import_run(network, out, names)
        else:
            imported = importing.import_run(network, weights, out, names, preprocess)
        made = {"run": str(imported.folder), "native": imported.native, "report": imported.report}
        if not as_json:
            click.echo("\n".join(imported.report))
            click.echo(f"everything is in {imported.folder}")
        network = imported.folder
    if write:
        written = importing.write(write, network, overwrite)
        made["written"] = [str(path) for path in written]
        if not as_json:
            click.echo(f"written: {written[0]} and {written[1]}")
    if as_json:
        print_json(made)


def _import_published(name, out, as_json):
    """Fetches published weights before TensorFlow is started, and makes a run of them."""
    from tfyolo.weights import fetch

    fetch.fetched(name, progress=not as_json)
    start_tensorflow()
    from tfyolo.weights import named
    from tfyolo.weights.published import PUBLISHED

    folder, report = named.import_run(name, out, progress=not as_json)
    if as_json:
        print_json({"run": str(folder), "native": PUBLISHED[name].config, "report": report})
    else:
        click.echo("\n".join([*report, f"everything is in {folder}"]))


@main.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--against", nargs=2, metavar="NET.cfg NET.weights", help="What to compare with.  [default: RUN, written back]"
)
@click.option("--image", help="An image to compare on.  [default: noise]")
@click.option("--all", "every", is_flag=True, help="Show every layer, not only the heads and what is wrong.")
@json_option
def verify(run, against, image, every, as_json):
    """Compare an imported RUN with what it came from: counts, and every layer with OpenCV's.

    Exit code 1 if something differs.
    """
    require_model(run, "a file or a run's folder")
    for file in (*(against or ()), *([image] if image else [])):
        require_path(file, "a file")
    start_tensorflow()
    from tfyolo.data.decoding import read_image
    from tfyolo.weights.verify import verify as compare

    checks = compare(run, against or None, read_image(image) if image else None)
    wrong = [check for check in checks if check.passed is False]
    if as_json:
        print_json({"passed": not wrong, "checks": [check._asdict() for check in checks]})
    else:
        layers = [check for check in checks if check.name.startswith("layer")]
        for check in checks:
            if every or check not in layers or check in wrong:
                click.echo(str(check))
        if layers and not every:
            worst = max(layers, key=lambda check: check.worst)
            click.echo(
                f"{len(layers)} layers, {len([c for c in layers if c.passed])} of them equal; the worst: {worst}"
            )
    if wrong:
        sys.exit(1)
