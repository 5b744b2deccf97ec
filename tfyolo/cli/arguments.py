"""Arguments, options and checks that several commands share."""

import contextlib
import glob
import json as jsons
import math
import os
import re
from pathlib import Path

import click

from tfyolo.messages import plain, printable

# What other programs call the arguments of commands here.
ELSEWHERE = {
    "model": ("config", "run"),
    "weights": ("model", "run"),
    "cfg": ("config",),
    "source": ("sources",),
    "data": ("path",),
}


class Range(click.FloatRange):
    """Which, unlike click's own, knows that no comparison holds for NaN."""

    def convert(self, value, param, context):
        number = super().convert(value, param, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, context)
        return number


class Whole(click.ParamType):
    """A whole number in one of the ranges of tfyolo.ranges, by its name there; they are imported when it matters."""

    name = "integer"

    def __init__(self, within):
        self.within = within

    def convert(self, value, param, context):
        from tfyolo.config import parts, ranges

        number = int(value) if re.fullmatch(r"[-+]?[0-9]{1,18}", str(value)) else value
        try:
            return parts.typed(number, getattr(ranges, self.within))
        except ValueError as error:
            self.fail(f"{error}.", param, context)


class _DataFormat(click.ParamType):
    """One of the formats of data that there are, for which their table is asked when it matters."""

    name = "format"

    def convert(self, value, param, context):
        if value not in self._formats():
            self.fail(f"{value!r} is not one of {', '.join(self._formats())}.", param, context)
        return value

    def get_metavar(self, param, ctx=None):
        return f"[{'|'.join(self._formats())}]"

    @staticmethod
    def _formats():
        from tfyolo.data.readers import FORMATS

        return tuple(FORMATS)


class Choices(click.ParamType):
    """A name in the table of exporters, or one of their "precisions" or kinds of "nms": asked when it matters."""

    name = "choice"

    def __init__(self, of):
        self.of = of

    def convert(self, value, param, context):
        if value not in self._names():
            self.fail(f"{value!r} is not one of {', '.join(map(repr, self._names()))}.", param, context)
        return value

    def get_metavar(self, param, ctx=None):
        return f"[{'|'.join(self._names())}]"

    def _names(self):
        from tfyolo.exports.targets import EXPORTERS, choices

        return list(EXPORTERS) if self.of == "exporters" else choices(self.of)


class _Device(click.ParamType):
    name = "device"

    def convert(self, value, param, context):
        from tfyolo.devices import DeviceError, parsed

        try:
            return value if isinstance(value, tuple) else parsed(value)
        except DeviceError as error:
            self.fail(str(error).removeprefix("device: "), param, context)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON on standard output, and nothing else."
)
device_option = click.option(
    "--device", type=_Device(), metavar="cpu|gpu|0,1", help="Where to compute.  [default: all GPUs, else the processor]"
)


def _remembered(context, parameter, value):
    """Keeps an option of how data is read for reading_options(), so that the commands need not hand it on one by one."""
    if value:
        context.meta.setdefault("tfyolo.reading", {})[parameter.name] = value


def reading_options():
    """The options of how data is read, beside --images and --data-format, that were given: as readers.DataSet takes them."""
    return click.get_current_context().meta.get("tfyolo.reading", {})


max_pixels_option = click.option(
    "--max-pixels",
    type=Whole("Pixels"),
    help="Of an image: more is an error.  [default: 200,000,000]",
    expose_value=False,
    callback=_remembered,
)


def data_options(command):
    """Where the images of a data set are, and what else there is to say of one that does not say it itself."""
    options = {"expose_value": False, "callback": _remembered}
    for option in (
        click.option("--images", help="Folder of the images, if the annotations do not lead there."),
        click.option(
            "--names", metavar="FILE", help="Names of the classes, one a line, for data without any.", **options
        ),
        click.option(
            "--outside", is_flag=True, help="Follow paths in the data that lead out of its folder.", **options
        ),
        max_pixels_option,
    ):
        command = option(command)
    return command


format_option = click.option("--data-format", type=_DataFormat(), help="Only if the data is not recognised.")


def tta_options(command):
    """What looks at a picture more than once."""
    command = click.option(
        "--scale",
        "scales",
        type=Range(0.1, 4),
        multiple=True,
        metavar="FACTOR",
        help="Look at the picture in so many times the size that the run was trained with; repeat for several.",
    )(command)
    return click.option("--flip", is_flag=True, help="Look at the mirrored picture, too.")(command)


def tta_of(flip, scales):
    return {"flip": flip, "scales": scales or (1.0,)}


def check_exists(path, expected):
    """Ends the command unless there is a file or a folder at a path, or something at a pattern like it."""
    from tfyolo.files import what_is

    if os.path.isfile(path) or os.path.isdir(path):
        return
    if (received := what_is(path)) != "no such file":
        raise click.ClickException(printable(f"{path}: expected {expected}, received {received}"))
    with contextlib.suppress(ValueError):  # a NUL
        if glob.glob(path, recursive=True):
            return
    context, (key, equals, value) = click.get_current_context(), path.partition("=")
    names = [name.lstrip("-") for each in context.command.params for name in each.opts]
    if expected.startswith("a run's folder") and (told := _config_without_weights(path)):
        raise click.ClickException(f"{path}: expected {expected}, received {told}")
    hint = f"; options have dashes: --{key} {value}" if equals and key in names else ""
    if equals and context.command.takes(key):
        hint = f"; arguments have no names: write {value}"
    raise click.ClickException(printable(f"{path}: expected {expected}, found none{hint}"))


def check_model(path, expected=None):
    """_there of a model, which is not another program's file, to be imported first."""
    from tfyolo import config as configs
    from tfyolo.predict.runtimes import titles

    if told := configs.foreign(path, expected or titles()):
        raise click.ClickException(told)
    check_exists(path, expected or titles())


def _config_without_weights(name):
    """What to do about a config's name where a model was expected; None if there is no config of that name."""
    from tfyolo import config as configs

    if name not in configs.packaged_names():
        return None
    run = os.path.join("runs", name)
    hint = f"did you mean {run}?" if os.path.isdir(run) else f"`tfyolo train {name} data=PATH` makes a run of it"
    return f"the name of a config, which has no weights; {hint}"


DATA = "a data set's folder or file"


def check_data_exists(data):
    """_there of a config's Data."""
    check_exists(data.path, DATA)
    if data.images:
        check_exists(data.images, "a folder of pictures")


def loaded_config(config, overrides=()):
    """The config of a name or file, or of a Path in a run's folder, under overrides, with parts that there are."""
    from tfyolo import config as configs
    from tfyolo.config import parts

    if isinstance(config, Path) and config.name == "config.yaml":
        check_run(config.parent, overrides)
    _in_order(os.fspath(config), overrides)
    loaded = configs.load(config, overrides)
    parts.check(loaded)
    return loaded


def _in_order(config, overrides):
    """Ends the command if CONFIG and KEY=VALUE stand in each other's place, or a setting is torn apart by spaces."""
    if any(word.startswith("=") or word.endswith("=") for word in overrides):
        given = " ".join(overrides)
        if (joined := re.sub(" ?= ?", "=", given)) != given:
            raise click.UsageError(f"settings have no spaces around the =; write {joined}")
    if "=" in config and not os.path.exists(config):
        words, command = [config, *overrides], click.get_current_context().command
        named = [word for word in words if "=" not in word or command.takes(word.partition("=")[0])]
        name = named[0].rpartition("=")[2] if named else "NAME"
        rest = " ".join(word for word in words if word not in named[:1])
        raise click.UsageError(
            f"{config}: expected CONFIG before the settings, a name of `tfyolo configs` or a YAML file; write {name} {rest}"
        )


def check_run(folder, overrides):
    """Ends the command if there is no run in a folder that stands where CONFIG should."""
    if os.path.exists(os.path.join(folder, "config.yaml")):
        return
    named = any(word.startswith("data") for word in overrides)
    raise click.UsageError(
        f"{folder}: expected a name of `tfyolo configs`, a YAML file or a run's folder, received a folder without a run "
        f"(config.yaml){'' if named else f'; data is named by data={folder}'}"
    )


def print_json(value):
    click.echo(jsons.dumps(plain(value), indent=2, allow_nan=False))


@contextlib.contextmanager
def split_hint():
    """Of the commands that take --split: an error about a split says so."""
    from tfyolo.data.sources.source import SplitError

    try:
        yield
    except SplitError as error:
        raise SplitError(f"{error}. Name one of them: --split ...") from None


def read_split(path, split, **options):
    from tfyolo.data import readers

    with split_hint():
        return readers.read(path, split, **options)


def no_export(path, hint):
    from tfyolo.predict.runtimes import runtime_of

    if runtime_of(path).exported:
        raise click.UsageError(f"{path} is an export; {hint}")
