"""Arguments, options and checks that several commands share."""

import contextlib
import glob
import json as jsons
import math
import os
import re
from pathlib import Path

import click
from click.core import ParameterSource

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
    """A number of a range. NaN is an error; for click alone it lies in every range."""

    def convert(self, value, param, context):
        """The number of a word."""
        number = super().convert(value, param, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, context)
        return number


class Whole(click.ParamType):
    """An integer in a range of tfyolo.config.ranges.

    Args:
        within: the range's name there; it is imported when a number is converted.
    """

    name = "integer"

    def __init__(self, within):
        self.within = within

    def convert(self, value, param, context):
        """The number of a word."""
        from tfyolo.config import parts, ranges

        number = int(value) if re.fullmatch(r"[-+]?[0-9]{1,18}", str(value)) else value
        try:
            return parts.typed(number, getattr(ranges, self.within))
        except ValueError as error:
            self.fail(f"{error}.", param, context)


class _Named(click.ParamType):
    """A name in a table that users may extend: the table is asked when a name is converted."""

    def __init__(self, table):
        self.table = table

    def convert(self, value, param, context):
        if value not in self.names():
            self.fail(f"{value!r} is not one of {', '.join(self.names())}.", param, context)
        return value

    def get_metavar(self, param, ctx=None):
        return f"[{'|'.join(self.names())}]"

    def names(self):
        raise NotImplementedError


class NamedIn(_Named):
    """The name of an entry of config.tables.CHOICES[table]."""

    name = "name"

    def names(self):
        """The names that the table holds now."""
        from tfyolo.config import tables

        return tables.names(self.table)


class Choices(_Named):
    """A name in the table of "exporters" or "destinations", or of the exporters' "precisions", "nms" or "layouts"."""

    name = "choice"

    def names(self):
        """The names that the table holds now."""
        from tfyolo.exports.destinations import DESTINATIONS
        from tfyolo.exports.targets import EXPORTERS, choices

        tables = {"exporters": EXPORTERS, "destinations": DESTINATIONS}
        return list(tables[self.table]) if self.table in tables else choices(self.table)


class Lints(_Named):
    """A name in tflite.lint's table of devices."""

    name = "name"

    def names(self):
        """The names that the table holds now."""
        from tfyolo.exports.destinations import DESTINATIONS
        from tfyolo.tflite.lint import LINTS

        return [*LINTS, *(name for name, each in DESTINATIONS.items() if each.lint and name not in LINTS)]


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


def _remember(context, parameter, value):
    """Keeps an option of how data is read for reading_options(), so that no command has to pass it on."""
    if context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
        context.meta.setdefault("tfyolo.reading", {})[parameter.name] = value


def reading_options():
    """The options given for how data is read, less --images and --data-format, as readers.DataSet's keywords."""
    return click.get_current_context().meta.get("tfyolo.reading", {})


class _MaxPixels(click.Option):
    """An option whose default stands in tfyolo.config.ranges, imported only when its help is shown."""

    def get_help_record(self, context):
        from tfyolo.config.ranges import MOST_PIXELS

        names, text = super().get_help_record(context)
        return names, f"{text}  [default: {MOST_PIXELS:,}]"


max_pixels_option = click.option(
    "--max-pixels",
    cls=_MaxPixels,
    type=Whole("Pixels"),
    help="Of an image: more is an error.",
    expose_value=False,
    callback=_remember,
)


def data_options(command):
    """The options for what a data set does not say itself: where its images are, what its classes are called."""
    options = {"expose_value": False, "callback": _remember}
    for option in (
        click.option("--images", help="Folder of the images, if the annotations do not lead there."),
        click.option(
            "--names", metavar="FILE", help="Names of the classes, one a line, for data without any.", **options
        ),
        click.option(
            "--outside", is_flag=True, help="Follow paths in the data that lead out of its folder.", **options
        ),
        max_pixels_option,
        click.option(
            "--cache/--no-cache",
            default=True,
            help="Take what was read before from the cache folder, while no file has changed.  [default: --cache]",
            **options,
        ),
    ):
        command = option(command)
    return command


format_option = click.option("--data-format", type=NamedIn("data format"), help="Only if the data is not recognised.")


def tta_options(command):
    """The options of test-time augmentation."""
    command = click.option(
        "--scale",
        "scales",
        type=Range(0.1, 4),
        multiple=True,
        metavar="FACTOR",
        help="Run on the image at so many times the size that the run was trained with, too (TTA); repeat for several.",
    )(command)
    return click.option("--flip", is_flag=True, help="Run on the flipped image, too (TTA).")(command)


def tta_arguments(flip, scales):
    """The keyword arguments of load() for the options of tta_options."""
    return {"flip": flip, "scales": scales or (1.0,)}


def require_path(path, expected):
    """Ends the command unless there is a file or a folder at a path, or something that matches it as a pattern.

    Args:
        path: as it was typed.
        expected: what should be there, for the message.
    """
    from tfyolo.files import address, unreachable, what_is

    if wrong := unreachable(path):
        raise click.UsageError(printable(wrong))
    if address(path):  # what is there shows when TensorFlow has started
        return
    if os.path.isfile(path) or os.path.isdir(path):
        return
    if (received := what_is(path)) != "no such file":
        raise click.ClickException(printable(f"{path}: expected {expected}, received {received}"))
    with contextlib.suppress(ValueError):  # a NUL
        if glob.glob(path, recursive=True):
            return
    context, (key, equals, value) = click.get_current_context(), path.partition("=")
    names = [name.lstrip("-") for each in context.command.params for name in each.opts]
    if expected.startswith("a run's folder") and (problem := _config_without_weights(path)):
        raise click.ClickException(f"{path}: expected {expected}, received {problem}")
    hint = f"; options have dashes: --{key} {value}" if equals and key in names else ""
    if equals and context.command.takes(key):
        hint = f"; arguments have no names: write {value}"
    raise click.ClickException(printable(f"{path}: expected {expected}, found none{hint}"))


def require_model(path, expected=None):
    """Ends the command unless there is a model of tfyolo's at a path. Returns the path, or a copy's if at an address.

    Args:
        path: as it was typed.
        expected: what should be there, for the message; None: whatever can be loaded.
    """
    from tfyolo import config as configs
    from tfyolo.predict.runtimes import runtime_of, titles

    path = here(path)
    own = expected is None and runtime_of(path).exported  # ours, or the runtime's error says what it is
    if not own and (problem := configs.foreign(path, expected or titles())):
        raise click.ClickException(problem)
    require_path(path, expected or titles())
    return path


def here(path):
    """The path of a model; of a copy on this machine, if it is an address."""
    from tfyolo import files

    if not files.address(path):
        return path
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as devices.start, which comes later
    return str(files.here(path))


def _config_without_weights(name):
    """What to do about a config's name where a model was expected; None if there is no config of that name."""
    from tfyolo import config as configs

    if name not in configs.packaged_names():
        return None
    run = os.path.join("runs", name)
    hint = f"did you mean {run}?" if os.path.isdir(run) else f"`tfyolo train {name} data=PATH` makes a run of it"
    return f"the name of a config, which has no weights; {hint}"


DATA = "a data set's folder or file"


def require_data(data):
    """Ends the command unless a config's Data are there."""
    require_path(data.path, DATA)
    if data.images:
        require_path(data.images, "a folder of images")


def read_config(config, overrides=()):
    """Reads a config, and checks the names and options of its parts.

    Args:
        config: a name, a file, or the Path of config.yaml in a run's folder.
        overrides: KEY=VALUE.

    Returns:
        The Config.
    """
    from tfyolo import config as configs
    from tfyolo.config import parts

    if isinstance(config, Path) and config.name == "config.yaml":
        require_run(config.parent, overrides)
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
            f"{config}: expected CONFIG before the settings, a name of `tfyolo configs` or a YAML file; write "
            f"{name} {rest}"
        )


def require_run(folder, overrides):
    """Ends the command if a folder given as CONFIG holds no run."""
    if os.path.exists(os.path.join(folder, "config.yaml")):
        return
    named = any(word.startswith("data") for word in overrides)
    raise click.UsageError(
        f"{folder}: expected a name of `tfyolo configs`, a YAML file or a run's folder, received a folder without "
        f"a run (config.yaml){'' if named else f'; data is named by data={folder}'}"
    )


def print_json(value):
    """Prints JSON on standard output; what is not finite is null."""
    click.echo(jsons.dumps(plain(value), indent=2, allow_nan=False))


@contextlib.contextmanager
def split_hint():
    """For commands that take --split: an error about a split names the option."""
    from tfyolo.data.sources.source import SplitError

    try:
        yield
    except SplitError as error:
        raise SplitError(f"{error}. Name one of them: --split ...") from None


def refuse_export(path, hint):
    """Ends the command if a path is an export."""
    from tfyolo.predict.runtimes import runtime_of

    if runtime_of(path).exported:
        raise click.UsageError(f"{path} is an export; {hint}")
