"""The command quick."""

import time

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import DATA, device_option, json_option, print_json, require_path
from tfyolo.devices import start as start_tensorflow
from tfyolo.quickstart.targets import SHORTEST, TARGETS


@main.command()
@click.argument("data", metavar="FOLDER")
@click.option(
    "--minutes",
    type=click.FloatRange(min=SHORTEST),
    default=10.0,
    show_default=True,
    help="The budget, for everything.",
)
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default=next(iter(TARGETS)),
    show_default=True,
    help="What the files are for.",
)
@click.option(
    "--init", metavar="RUN|NAME", help="Weights to start from.  [default: the best of `tfyolo weights` that are here]"
)
@click.option("--out", help="Folder, new or empty.  [default: runs/quick, numbered if taken]")
@device_option
@json_option
def quick(data, minutes, target, init, out, device, as_json):
    """Make a detector of a FOLDER of labelled images, and files for a phone, within a budget of minutes.

    \b
    tfyolo quick data=my/pictures
    tfyolo quick data=my/pictures --minutes 5 --target android-cpu

    It keeps images aside, times this machine, chooses what fits, trains from the best permissive weights that are here,
    evaluates on what was kept aside, exports, and writes quick.md on all of it.
    """
    began = time.monotonic()
    data = data.removeprefix("data=")
    require_path(data, DATA)
    start_tensorflow(device)
    from tfyolo.quickstart.quick import quick as run_quick

    made = run_quick(
        data, out, minutes=minutes, target=target, init=init, progress=not as_json, used=time.monotonic() - began
    )
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "model": made.model and str(made.model),
                **made.metrics,
                "seconds": made.seconds,
                "in_time": made.in_time,
            }
        )
    if not made.model:
        raise SystemExit(1)
