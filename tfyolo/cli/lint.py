"""The command lint: what a device takes of a TFLite file."""

import os
import sys

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import Lints, json_option, print_json, require_path


@main.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--target",
    type=Lints("lints"),
    help="Class of devices, or where `tfyolo export --target` sends a file.  [default: each class, in a line]",
)
@json_option
def lint(file, target, as_json):
    """Say which operators of FILE, a TFLite file, a class of devices does not take, and why: offline, in a second.

    \b
    tfyolo lint runs/yolov8n/export/model-raw.tflite
    tfyolo lint runs/yolov8n/export/model-raw.tflite --target gpu

    With --target, exit code 0 says that all are taken, 1 that some are not.
    """
    require_path(file, "a TFLite file")
    if os.path.isdir(file):
        raise click.ClickException(f"{file}: expected a TFLite file, received a folder")
    from tfyolo.exports.destinations import DESTINATIONS
    from tfyolo.tflite.lint import LINTS, lines, summary
    from tfyolo.tflite.lint import lint as reported

    if target in DESTINATIONS:
        target = DESTINATIONS[target].lint
    reports = [reported(file, name) for name in ([target] if target else LINTS)]
    if as_json:
        found = {
            each.table: {**each._asdict(), "findings": [one._asdict() for one in each.findings]} for each in reports
        }
        print_json(found[target] if target else found)
    else:
        for report in reports:
            for line in lines(report) if target else ():
                click.echo(line)
            click.echo(summary(report))
    if target and not reports[0].passed:
        sys.exit(1)
