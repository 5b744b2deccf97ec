"""The command line: `tfyolo COMMAND`, each the same as `python tools/COMMAND.py`.

What was typed is checked first, then TensorFlow is imported, which takes seconds: start_tensorflow() stands between the two in
each command.

Exit codes: 0 done; 1 it could not be done, or a check failed; 2 wrong arguments or a wrong config; 75 training was stopped by SIGTERM, to
be resumed; 130 stopped by Ctrl-C.
"""

import contextlib
import glob
import json as jsons
import math
import os
import re
import shlex
import signal
import sys
import threading
from pathlib import Path

import click

from tfyolo import __version__
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted, printable


class Command(click.Command):
    """A command whose errors, as far as they are the user's to mend, are one message and an exit code."""

    def parse_args(self, context, args):
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-")
            if any(parameter.name == "overrides" for parameter in self.params) and _is_setting(name):
                raise click.UsageError(
                    f"{error.option_name}: settings have no dashes; write {name}=...", context
                ) from None
            raise

    def get_short_help_str(self, limit=None):
        return super().get_short_help_str(sys.maxsize)  # lines are wrapped, not cut

    def invoke(self, context):
        try:
            return super().invoke(context)
        except ValueError as error:
            if not type(error).__module__.startswith("tfyolo"):
                raise
            told = printable(error, keep="\n")
            click.echo(f"Error: {told}", err=True)
            sys.exit(2 if type(error).__name__ == "ConfigError" else 1)
        except OSError as error:
            if error.filename is None:
                raise
            click.echo(f"Error: {printable(error.filename)}: {error.strerror}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            sys.exit(130)


def _is_setting(name):
    """Whether something like a dotted key of the config, or a short name, was written with dashes."""
    from tfyolo import config as configs

    return name in configs.SHORT or name.partition(".")[0] in configs.Config.model_fields


class _Group(click.Group):
    command_class = Command
    # In the order in which they are used.
    ORDER = (
        *("configs", "check-data", "train", "evaluate", "detect", "export", "benchmark"),
        *("summary", "scale", "kmeans-anchors", "make-tfrecords", "import", "verify", "demo-data"),
    )
    ALIASES = {"val": "evaluate", "predict": "detect"}  # noqa: RUF012

    def get_command(self, context, name):
        return super().get_command(context, self.ALIASES.get(name, name))

    def resolve_command(self, context, args):
        _, command, rest = super().resolve_command(context, args)
        return command and command.name, command, rest  # not by its alias; None where a shell completes an unknown one

    def list_commands(self, context):
        return sorted(self.commands, key=self.ORDER.index)


class _Range(click.FloatRange):
    """Which, unlike click's own, knows that no comparison holds for NaN."""

    def convert(self, value, param, context):
        number = super().convert(value, param, context)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, context)
        return number


class _Whole(click.ParamType):
    """A whole number in one of the ranges of tfyolo.ranges, by its name there; they are imported when it matters."""

    name = "integer"

    def __init__(self, within):
        self.within = within

    def convert(self, value, param, context):
        from tfyolo import parts, ranges

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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main():
    """One-stage object detectors on TensorFlow: train, evaluate, export and run them.

    `tfyolo COMMAND --help` says more of each; evaluate is also called val, detect also predict.
    """


class _Device(click.ParamType):
    name = "device"

    def convert(self, value, param, context):
        from tfyolo.devices import DeviceError, parsed

        try:
            return value if isinstance(value, tuple) else parsed(value)
        except DeviceError as error:
            self.fail(str(error).removeprefix("device: "), param, context)


_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as JSON on standard output, and nothing else."
)
_device = click.option(
    "--device", type=_Device(), metavar="cpu|gpu|0,1", help="Where to compute.  [default: all GPUs, else the processor]"
)


def _remembered(context, parameter, value):
    """Keeps an option of how data is read for _reading(), so that the commands need not hand it on one by one."""
    if value:
        context.meta.setdefault("tfyolo.reading", {})[parameter.name] = value


def _reading():
    """The options of how data is read, beside --images and --data-format, that were given: as readers.DataSet takes them."""
    return click.get_current_context().meta.get("tfyolo.reading", {})


_max_pixels = click.option(
    "--max-pixels",
    type=_Whole("Pixels"),
    help="Of an image: more is an error.  [default: 200,000,000]",
    expose_value=False,
    callback=_remembered,
)


def _images(command):
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
        _max_pixels,
    ):
        command = option(command)
    return command


_format = click.option("--data-format", type=_DataFormat(), help="Only if the data is not recognised.")


def _views(command):
    """What looks at a picture more than once."""
    command = click.option(
        "--scale",
        "scales",
        type=_Range(0.1, 4),
        multiple=True,
        metavar="FACTOR",
        help="Look at the picture in so many times the size that the run was trained with; repeat for several.",
    )(command)
    return click.option("--flip", is_flag=True, help="Look at the mirrored picture, too.")(command)


def _looks(flip, scales):
    return {"flip": flip, "scales": scales or (1.0,)}


def _there(path, expected):
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
    raise click.ClickException(printable(f"{path}: expected {expected}, found none{hint}"))


def _model_there(path, expected=None):
    """_there of a model, which is not another program's file, to be imported first."""
    from tfyolo import config as configs

    if told := configs.foreign(path, expected or _MODEL):
        raise click.ClickException(told)
    _there(path, expected or _MODEL)


def _config_without_weights(name):
    """What to do about a config's name where a model was expected; None if there is no config of that name."""
    from tfyolo import config as configs

    if name not in configs.packaged_names():
        return None
    run = os.path.join("runs", name)
    hint = f"did you mean {run}?" if os.path.isdir(run) else f"`tfyolo train {name} data=PATH` makes a run of it"
    return f"the name of a config, which has no weights; {hint}"


_MODEL = "a run's folder, a .h5 file, a SavedModel's folder or a .tflite file"
_DATA = "a data set's folder or file"


def _data_there(data):
    """_there of a config's Data."""
    _there(data.path, _DATA)
    if data.images:
        _there(data.images, "a folder of pictures")


def _loaded(config, overrides=()):
    """The config of a name or file, or of a Path in a run's folder, under overrides, with parts that there are."""
    from tfyolo import config as configs
    from tfyolo import parts

    if isinstance(config, Path) and config.name == "config.yaml":
        _no_run(config.parent, overrides)
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
        name = next((word for word in overrides if "=" not in word), "NAME")
        rest = " ".join([config, *(word for word in overrides if word != name)])
        raise click.UsageError(
            f"{config}: expected CONFIG before the settings, a name of `tfyolo configs` or a YAML file; write {name} {rest}"
        )


def _no_run(folder, overrides):
    """Ends the command if there is no run in a folder that stands where CONFIG should."""
    if os.path.exists(os.path.join(folder, "config.yaml")):
        return
    named = any(word.startswith("data") for word in overrides)
    raise click.UsageError(
        f"{folder}: expected a name of `tfyolo configs`, a YAML file or a run's folder, received a folder without a run "
        f"(config.yaml){'' if named else f'; data is named by data={folder}'}"
    )


def _print_json(value):
    click.echo(jsons.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value):
    """The value with null for what is not finite, a figure that cannot be said: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- configs ------------------------------------------------------------------------------------------------------------------


@main.command("configs")
@_json
def configs_(as_json):
    """List the configs that come with tfyolo: names to train.

    \b
    tfyolo configs
    tfyolo train yolov8n data=my/pictures

    A file of such a name in the current folder goes before. `base: yolov8n` in a YAML file of your own begins with one.
    """
    from tfyolo import config as configs

    rows = [
        {**row, "input_size": list(configs.load(configs.zoo(row["name"])).model.input_size)} for row in configs.index()
    ]
    if as_json:
        _print_json(rows)
        return
    click.echo(f"{'name':<18}{'input':>11}{'parameters':>14}{'GFLOPs':>9}  published weights that fit, their licence")
    # By family, the demo's last, and by size: re takes "yolov7" of yolov7x and yolov7-w6.
    for row in sorted(
        rows, key=lambda row: (row["name"].startswith("demo"), re.match(r"\D*\d*", row["name"])[0], row["parameters"])
    ):
        size = " x ".join(map(str, row["input_size"]))
        line = (
            f"{row['name']:<18}{size:>11}{row['parameters']:>14,}{row['flops'] / 1e9:>9.1f}  {row['weights'] or 'none'}"
        )
        click.echo(line)
    click.echo(
        f"as detect and exports run them, with {rows[0]['classes']} classes (yolov1: 20); they lie in {configs.packaged()}"
    )


# --- train --------------------------------------------------------------------------------------------------------------------


class _Train(Command):
    """Its help ends with the short names of settings."""

    def format_epilog(self, context, formatter):
        from tfyolo.config import SHORT

        with formatter.section("Short names of settings, and what they stand for"):
            rows = [(name, key.replace("*", "0")) for name, key in SHORT.items() if "." not in name]
            formatter.write_dl([*rows, ("device", "--device")])


@main.command(cls=_Train)
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", help="Folder for the run; new or empty.  [default: runs/NAME, numbered if taken]")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in CONFIG or --out where it stopped; begin it if there is none."
)
@click.option(
    "--overfit", type=_Whole("Count"), metavar="N", help="Learn N pictures by heart; exit code 1 if it cannot."
)
@_device
@_json
def train(config, overrides, out, resume, overfit, device, as_json):
    """Train a detector. CONFIG is a name of `tfyolo configs` or a YAML file; or the folder of a run, to begin with its weights (with
    --resume: to go on with it).

    \b
    tfyolo train yolov3-tiny data=my/pictures epochs=50 batch=8 imgsz=320
    tfyolo train runs/yolov3-tiny --resume
    tfyolo train runs/imported data=my/pictures                  (fine-tunes a run, or an import)
    tfyolo train yolov3-tiny data=my/pictures --overfit 8
    tfyolo train yolov3-tiny data=my/pictures --out runs/a --resume      (begins, or goes on: to be repeated as it is)

    Ctrl-C and SIGTERM end it when the running step is done, with everything to go on from; the exit code is then 130 or 75. A second
    Ctrl-C ends it at once.
    """
    from tfyolo import config as configs

    overrides, device = _without_device(overrides, device)
    is_run = _is_run(config)
    if is_run and overrides and (not resume or _another(out, config)):
        loaded = _loaded(Path(config) / "config.yaml", [f"train.init={jsons.dumps(config)}", *overrides])
    elif is_run:
        if not resume or overrides or out:
            _no_run(config, overrides)
            raise click.UsageError(
                f"{config} is a folder: go on with its run by `tfyolo train {config} --resume`, alone, or begin a new one with its "
                f"weights by `tfyolo train {config} data=PATH`"
            )
        out = config
        loaded = None
    elif resume and not os.path.exists(config) and os.path.basename(config) != config:
        out, loaded = config, None
    else:
        loaded = _loaded(config, overrides)
        if resume:
            out = out or str(Path("runs") / loaded.name)
    if loaded is None:
        _there(os.path.join(out, "last.h5"), "the last.h5 of a run to resume (to begin one, name a config and --out)")
    elif not (resume and os.path.exists(os.path.join(out, "last.h5"))):
        for i in range(len(loaded.train.stages)):
            _data_there(loaded.stage_data(i)[0])
        configs.check_init(loaded)
    with _leaving_at_sigterm():
        start_tensorflow(device)
        from tfyolo import training

    try:
        run = training.train(loaded, out, resume=resume, overfit=overfit, progress=not as_json)
    except training.Stopped as stop:
        hint = "nothing was learned yet, nothing is left"
        if stop.folder:
            hint = f"`tfyolo train {shlex.quote(str(stop.folder))} --resume` goes on"
        click.echo(f"\nstopped; {hint}", err=True)
        sys.exit(130 if stop.signal == signal.SIGINT else RESUME)
    if as_json:
        _print_json({"run": str(run.folder), **(run.metrics or {})})
    else:
        best = run.metrics
        scores = "the last one, for want of an AP"
        if not math.isnan(best["AP"]):
            scores = f"AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}"
        click.echo(f"best: epoch {best['epoch']}, {scores}; everything lies in {run.folder}")


# EX_TEMPFAIL of sysexits.h: it failed for the time being, and the same again will go on.
RESUME = 75


@contextlib.contextmanager
def _leaving_at_sigterm():
    """While TensorFlow starts, before training itself listens: SIGTERM ends the process with RESUME, since nothing is begun yet."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # somebody else listens
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(RESUME))  # an exception might be lost in an import
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _another(folder, than):
    return folder is not None and os.path.realpath(folder) != os.path.realpath(than)


def _is_run(path):
    """Whether a CONFIG is the folder of a run: any folder, but one without a run that has the name of one of tfyolo's configs."""
    from tfyolo import config as configs

    return os.path.isdir(path) and (os.path.exists(Path(path) / "config.yaml") or path not in configs.packaged_names())


def _without_device(overrides, device):
    """(overrides, device) where device=... stood among the overrides. Options that stand there without dashes are an error."""
    options = [option for parameter in train.params for option in parameter.opts if isinstance(parameter, click.Option)]
    kept = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "device":
            asked = next(parameter for parameter in train.params if parameter.name == "device")
            device = asked.type.convert(value, asked, click.get_current_context())
        elif f"--{key}" in options:
            flag = any(parameter.is_flag for parameter in train.params if f"--{key}" in parameter.opts)
            raise click.UsageError(
                f"{override}: an option, which has dashes; write --{key}{'' if flag else f' {value}'}"
            )
        else:
            kept.append(override)
    return kept, device


# --- import -------------------------------------------------------------------------------------------------------------------


@main.command("import")
@click.argument("network", metavar="NET.cfg|NET.pt|RUN")
@click.argument("weights", required=False, metavar="[NET.weights]")
@click.option("--names", help="File of class names, one a line.  [default: COCO's for 80 classes, else numbers]")
@click.option(
    "--preprocess",
    type=click.Choice(["letterbox", "stretch", "darknet", "darknet_letterbox"]),
    help="How pictures are brought to its size.  [default: stretch; darknet_letterbox if the .cfg says letter_box=1]",
)
@click.option("--out", help="Folder for the run; new or empty.  [default: runs/NET, numbered if taken]")
@click.option("--write", metavar="OUT.weights", help="Write it back as Darknet's .weights, with its .cfg beside it.")
@click.option("--overwrite", is_flag=True, help="Let --write replace what is there.")
@_json
def import_(network, weights, names, preprocess, out, write, overwrite, as_json):
    """Make a run of a Darknet network or a PyTorch checkpoint: exactly, or not at all. Or write a RUN back that came from Darknet.

    \b
    tfyolo import yolov4-tiny.cfg yolov4-tiny.weights --out runs/yolov4-tiny
    tfyolo import yolov8n.pt --out runs/yolov8n
    tfyolo import runs/fine-tuned --write fine-tuned.weights
    """
    checkpoint = network.endswith((".pt", ".pth"))
    if checkpoint and (weights or preprocess or write):
        raise click.UsageError(
            f"{network} is imported by itself: NET.weights, --preprocess and --write are for Darknet's networks"
        )
    if not (weights or checkpoint) and not (write and os.path.exists(network) and not network.endswith(".cfg")):
        raise click.UsageError(
            "name NET.cfg and NET.weights, or NET.pt; or a RUN, and --write OUT.weights for the way back to Darknet"
        )
    _there(network, "a .cfg file, a .pt file or a run")
    if weights is not None:
        _there(weights, "a .weights file")
    start_tensorflow()
    from tfyolo.weights import darknet, torch

    told = {}
    if weights is not None or checkpoint:
        if checkpoint:
            imported = torch.import_run(network, out, names)
        else:
            imported = darknet.import_run(network, weights, out, names, preprocess)
        told = {"run": str(imported.folder), "native": imported.native, "report": imported.report}
        if not as_json:
            click.echo("\n".join(imported.report))
            click.echo(f"everything lies in {imported.folder}")
        network = imported.folder
    if write:
        written = darknet.write(write, network, overwrite)
        told["written"] = [str(path) for path in written]
        if not as_json:
            click.echo(f"written: {written[0]} and {written[1]}")
    if as_json:
        _print_json(told)


@main.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--against", nargs=2, metavar="NET.cfg NET.weights", help="What to compare with.  [default: RUN, written back]"
)
@click.option("--image", help="A picture to compare on.  [default: noise]")
@click.option("--all", "every", is_flag=True, help="Show every layer, not only the heads and what is wrong.")
@_json
def verify(run, against, image, every, as_json):
    """Compare an imported RUN with what it came from: counts, and every layer with OpenCV's. Exit code 1 if something differs."""
    _model_there(run, "a file or a run's folder")
    for file in (*(against or ()), *([image] if image else [])):
        _there(file, "a file")
    start_tensorflow()
    from tfyolo.data.pipeline import read_image
    from tfyolo.weights.verify import verify as compare

    checks = compare(run, against or None, read_image(image) if image else None)
    wrong = [check for check in checks if check.passed is False]
    if as_json:
        _print_json({"passed": not wrong, "checks": [check._asdict() for check in checks]})
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


# --- evaluate -----------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", "path", help="Data to be judged on.  [default: what it was trained with]")
@click.option("--split", help="The split of the data.  [default: the config's val]")
@_images
@_format
@click.option("--batch", type=_Whole("Batch"), default=8, show_default=True, help="Pictures at a time.")
@click.option("--iou", type=_Range(0, 1), help="Overlap above which non-maximum suppression drops a box.")
@_views
@click.option("--out", help="Folder for metrics.json, detections.json, curves and pictures.")
@click.option(
    "--pictures", type=_Whole("CountOrZero"), default=0, help="Pictures to draw into --out, right and wrong in colours."
)
@_device
@_json
def evaluate(model, path, split, images, data_format, batch, iou, flip, scales, out, pictures, device, as_json):
    """Evaluate MODEL, a run, a SavedModel or a .tflite file, by the COCO metrics.

    \b
    tfyolo evaluate runs/yolov3-tiny --split test --out runs/yolov3-tiny/test
    """
    _model_there(model)
    for given, expected in ((path, _DATA), (images, "a folder of pictures")):
        if given:
            _there(given, expected)
    start_tensorflow(device)
    from tfyolo import detect as detection
    from tfyolo import evaluation
    from tfyolo.data import readers

    detector = detection.load(model, **_given(iou=iou), **_looks(flip, scales))
    with _split_hint():
        source = evaluation.source_for(detector, path, split, images=images, format=data_format, **_reading())
    if left_out := readers.faults(source, "evaluation"):
        click.echo(left_out, err=True)
    report = evaluation.evaluate(detector, source, batch=batch, out=out, progress=not as_json, pictures=pictures)
    if as_json:
        _print_json(report.to_json())
    else:
        click.echo(str(report))
        if out:
            click.echo(f"curves, figures and detections lie in {out}")


@contextlib.contextmanager
def _split_hint():
    """Of the commands that take --split: an error about a split says so."""
    from tfyolo.data import readers

    try:
        yield
    except readers.SplitError as error:
        raise readers.SplitError(f"{error}. Name one of them: --split ...") from None


def _read_split(path, split, **options):
    from tfyolo.data import readers

    with _split_hint():
        return readers.read(path, split, **options)


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


# --- detect -------------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", metavar="MODEL")
@click.argument("sources", nargs=-1, metavar="[PICTURE|VIDEO|FOLDER|GLOB]...")
@click.option(
    "--camera", type=_Whole("CountOrZero"), metavar="N", help="Look through camera N, until Ctrl-C or --frames."
)
@click.option("--frames", type=_Whole("Count"), help="The most frames of a video or camera.")
@click.option(
    "--score",
    "--conf",
    type=_Range(0, 1),
    default=0.25,
    show_default=True,
    help="The least score that a detection needs.",
)
@click.option("--iou", type=_Range(0, 1), help="Overlap above which a box is dropped for a better one.")
@click.option("--class-agnostic", is_flag=True, help="Let a box be dropped for a better one of another class.")
@click.option("--soft-nms", type=_Range(0, min_open=True), metavar="SIGMA", help="Lower scores, not drop boxes; 0.5.")
@_views
@click.option(
    "--out", help="Folder for the drawn pictures and detections.json.  [default: detections, numbered if taken]"
)
@click.option("--overwrite", is_flag=True, help="Replace what lies in --out under the same names.")
@_max_pixels
@_device
@_json
def detect(
    model, sources, camera, frames, score, iou, class_agnostic, soft_nms, flip, scales, out, overwrite, device, as_json
):
    """Find objects by MODEL (a run, a SavedModel or a .tflite file), draw them, write them as JSON.

    \b
    tfyolo detect runs/yolov3-tiny photo.jpg holiday/ 'more/*.png' film.mp4
    """
    if not sources and camera is None:
        raise click.UsageError("name pictures, videos, folders or globs, or a --camera")
    _model_there(model)
    for source in sources:
        _there(source, "a picture, a video, a folder or a glob")
    start_tensorflow(device)
    from tqdm import tqdm

    from tfyolo import detect as detection
    from tfyolo import folders, visualize
    from tfyolo.checkpoint import write_text
    from tfyolo.data.pipeline import ImageError

    files = detection.find_pictures(sources) if sources else []
    if out is None:  # held until the command ends
        free = folders.new(None, "detections", inside="")
        out = "detections" if overwrite else click.get_current_context().with_resource(free)
    drawn = _names_for_drawings(files, Path(out))
    if themselves := {*map(os.path.realpath, files)} & {*map(os.path.realpath, drawn)}:
        raise click.UsageError(f"{min(themselves)}: the drawing would replace the picture itself; name another --out")
    if camera is not None:
        files, drawn = [*files, camera], [*drawn, Path(out) / f"camera{camera}.mp4"]
    summary = Path(out) / "detections.json"
    taken = [str(path) for path in (*drawn, summary) if path.exists()]
    if taken and not overwrite:
        most = {"most_pixels": _reading()["max_pixels"]} if "max_pixels" in _reading() else {}
        for file in files:  # what else there is to mend is said at once
            try:
                detection.check(file, **most)
            except (ImageError, detection.SourceError) as error:
                click.echo(f"Error: {printable(error)}", err=True)
        raise click.UsageError(f"{printable(', '.join(taken[:3]))}: there already; name another --out, or --overwrite")
    options = _given(iou=iou, soft_sigma=soft_nms, per_class=False if class_agnostic else None)
    detector = detection.load(model, **_looks(flip, scales), **options)
    detector.max_pixels = _reading().get("max_pixels", detector.max_pixels)

    rows, faults = [], 0
    # Videos have a bar of their own.
    for file, target in zip(tqdm(files, unit="file", disable=as_json or len(files) < 2 or None), drawn, strict=True):
        try:
            if isinstance(file, int) or file.lower().endswith(detection.VIDEOS):
                new = detection.detect_video(detector, file, target, score=score, limit=frames, progress=not as_json)
                told = (
                    f"{counted(len(new), 'frame')}, {counted(sum(len(row['detections']) for row in new), 'detection')}"
                )
                if not any(row["detections"] for row in new):
                    told = f"{counted(len(new), 'frame')}, {_nothing(score, max(row['best'] for row in new))}"
            else:
                found = detector(file, score)
                visualize.save(target, found.draw())
                new, told = [found.to_json()], _told(found, score)
        except (ImageError, detection.SourceError) as error:
            faults += 1
            tqdm.write(f"Error: {printable(error)}", file=sys.stderr)
            continue
        rows += new
        if not as_json:
            tqdm.write(printable(f"{file}: {told} -> {target}"))
    if rows:  # where nothing could be read, nothing is left
        write_text(summary, jsons.dumps(rows, indent=1))
    if as_json:
        _print_json(rows)
    else:
        unread = f"{counted(faults, 'source')} could not be read" if faults else ""
        written = f"{counted(len(rows), 'row')} in {summary}" if rows else "nothing is written"
        click.echo("; ".join(filter(None, (written, unread))))
    if faults:
        sys.exit(1)


def _names_for_drawings(files, out):
    """A name in `out` for each file's drawing: its own, numbered where it is taken by another's."""
    from tfyolo.detect import VIDEOS

    names = {}  # in order
    for file in map(Path, files):
        suffix = ".mp4" if str(file).lower().endswith(VIDEOS) else ".jpg"
        name, number = file.stem + suffix, 2
        while name in names:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        names[name] = None
    return [out / name for name in names]


def _nothing(score, best):
    return f"nothing above {score}; the highest score seen is {best:.3g}"


def _told(found, score):
    if not len(found.boxes):
        return _nothing(score, found.best)
    return ", ".join(f"{count} {name}" for name, count in found.counts.items())


# --- export -------------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--to", "--format", "targets", multiple=True, type=click.Choice(["saved_model", "tflite"]), help="[default: both]"
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["float32", "float16", "dynamic", "int8", "full-int8"]),
    help="Of a TFLite file; repeat for several.  [default: the three that need no data]",
)
@click.option(
    "--nms",
    type=click.Choice(["builtin", "task", "none"]),
    default="builtin",
    show_default=True,
    help="Suppression in a TFLite file: its own, as mediapipe and Android's task library want it, or left out.",
)
@click.option("--size", type=_Whole("Side"), nargs=2, metavar="H W", help="Of the pictures.  [default: the run's]")
@click.option("--any-size", is_flag=True, help="A SavedModel's floats: pictures of every size that its strides allow.")
@click.option("--batch", type=_Whole("Batch"), default=1, show_default=True, help="Pictures a TFLite file takes.")
@click.option("--per-tensor", is_flag=True, help="One scale for all of a kernel, for old int8 accelerators.")
@click.option(
    "--data",
    "path",
    help="Its `train` split calibrates int8, its `val` judges every file.  [default for int8: the run's own]",
)
@_images
@_format
@click.option("--max-drop", type=click.FloatRange(0, 1), help="Of AP.  [default: .002; of dynamic and int8 .01]")
@click.option("--out", help="Folder for the exports.  [default: RUN/export]")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export has left there.")
@_device
@_json
def export(
    run,
    targets,
    precisions,
    nms,
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
    """Write RUN's model as a SavedModel (float images, uint8 images, JPEG bytes) and as TFLite files, post-processing inside.

    \b
    tfyolo export runs/yolov8n
    tfyolo export runs/yolov8n --precision int8 --data my/pictures
    tfyolo export runs/yolov8n --precision int8 --nms task

    Every file is run and compared with the model before it takes its place; with data, its AP, too.
    """

    _no_export(run, "name the run that it was made from")
    _model_there(run, "a run's folder or a .h5 file")
    whole = any("int8" in precision for precision in precisions)
    if per_tensor and not whole:
        raise click.UsageError("--per-tensor is for int8, expected --precision int8 with it")
    if max_drop is not None and not (path or whole):
        raise click.UsageError("--max-drop is judged on data, expected --data with it")
    data = None
    if path:
        from tfyolo.config import Data

        data = Data(path=path, images=images, format=data_format, **_reading())
        _data_there(data)
    start_tensorflow(device)
    from tfyolo import exports

    asked = precisions or nms != "builtin" or size or batch != 1
    if not asked and not targets:
        forms = exports.FORMS
    else:
        forms = [exports.Form("saved_model")] if "saved_model" in targets else []
        kinds = precisions or (["float32"] if asked else [form.precision for form in exports.FORMS[1:]])
        if "tflite" in targets or not targets:
            # In whole numbers there is no suppression: what is there by default is left out.
            forms += [
                exports.Form("tflite", kind, "none" if (kind, nms) == ("full-int8", "builtin") else nms)
                for kind in kinds
            ]

    made = exports.export(
        run,
        out,
        forms,
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
        _print_json({name: {"path": str(each.path), **each.report} for name, each in made.items()})
        return
    for name, each in made.items():
        report = each.report
        line = f"{name:<20}{report['bytes'] / 1e6:8.1f} MB{report['ms']:8.1f} ms (the model: {report['keras_ms']:.1f})"
        if "AP" in report:
            line += f"  AP {report['AP']:.4f} (the model: {report['keras_AP']:.4f})"
        click.echo(f"{line}  {each.path}")
        if "worst" in report:
            told = ", ".join(f"{layer} {ratio:.0f} dB" for layer, ratio in report["worst"])
            click.echo(f"{'':<20}rounding costs most in {told}")
        for message in report.get("skipped", []):
            click.echo(f"{'':<20}left out of calibration: {message}")


@main.command()
@click.argument("run", metavar="RUN")
@click.argument("paths", nargs=-1, metavar="[EXPORT]...")
@click.option("--threads", type=_Whole("Count"), default=2, show_default=True, help="For each of the competitors.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="For each.")
@click.option(
    "--rounds", type=click.IntRange(2, 1_000_000), default=10, show_default=True, help="How often they take turns."
)
@click.option("--image", type=click.Path(exists=True, dir_okay=False), help="A picture to look at.  [default: noise]")
@click.option("--unfused", is_flag=True, help="The network as it trained, too: batch norms and branches not folded.")
@click.option("--data", "path", help="Data that each is judged by, on --split.")
@click.option("--split", default="val", show_default=True, help="Of the data.")
@click.option("--peer", "peers", multiple=True, metavar="NAME=COMMAND", help="Another to take turns with.")
@click.option("--baseline", help="The competitor that the others' ratios are to.  [default: opencv, else keras]")
@click.option("--picture", metavar="FILE", help="With --data: AP over milliseconds, drawn there.")
@_device
@_json
def benchmark(
    run, paths, threads, seconds, rounds, image, unfused, path, split, peers, baseline, picture, device, as_json
):
    """Time RUN's model and its EXPORTs on one picture, in turns: as Keras, SavedModel, TFLite and, if it was imported from Darknet, in
    OpenCV.

    \b
    tfyolo benchmark runs/yolov8n runs/yolov8n/export/*.tflite --data my/pictures
    """
    from tfyolo.peers import Peer

    if picture and not path:
        raise click.UsageError("--picture shows AP, expected --data with it")
    _model_there(run, "a run's folder or a .h5 file")
    for each in paths:
        _there(each, "a SavedModel's folder or a .tflite file")
    given = [Peer.parsed(peer) for peer in peers]
    if path:
        _there(path, _DATA)
    start_tensorflow(device, threads)
    from tfyolo import benchmark as benchmarks

    judged = _read_split(path, split) if path else None
    options = {"threads": threads, "seconds": seconds, "rounds": rounds, "image": image, "unfused": unfused}
    told = benchmarks.benchmark(run, paths, **options, peers=given, baseline=baseline, judged=judged)
    if picture:
        benchmarks.draw(told, picture)
    if as_json:
        _print_json(told)
    else:
        click.echo(benchmarks.table(told))


def _no_export(path, hint):
    if path.endswith(".tflite") or os.path.exists(os.path.join(path, "saved_model.pb")):
        raise click.UsageError(f"{path} is an export; {hint}")


# --- data ---------------------------------------------------------------------------------------------------------------------


@main.command("check-data")
@click.argument("path")
@_images
@_format
@click.option("--config", help="Hold the boxes against the anchors and input size of this config or run.")
@click.option("--out", help="Folder for a summary picture and report.json.")
@_json
def check_data(path, images, data_format, config, out, as_json):
    """Look through all of the data set at PATH: counts, sizes, and everything wrong, by file. Exit code 1 if something is."""
    _there(path, _DATA)
    options = _boxes_of(config) if config else {}
    start_tensorflow()
    from tfyolo.data import check

    options |= {"images": images, "format": data_format, **_reading()}
    report = check.check(path, out=out, progress=not as_json, **options)
    if as_json:
        _print_json(report.to_json())
    else:
        click.echo(str(report))
    if report.errors:
        sys.exit(1)


def _config_of(path):
    """The Config of a name, a YAML file, or the folder of a run."""
    beside_weights = Path(path) / "config.yaml"
    return _loaded(beside_weights if beside_weights.is_file() else path)


def _boxes_of(config):
    """What a config says of boxes' sizes: (h, w) of all its anchors, or None, its input size, how pictures are brought to it."""
    loaded = _config_of(config)
    anchors = loaded.model.decoder.options.get("anchors", {})
    sizes = [tuple(anchor) for level in sorted(anchors) for anchor in anchors[level]] or None
    return {"anchors": sizes, "input_size": loaded.model.input_size, "preprocess": loaded.model.preprocess}


@main.command("make-tfrecords")
@click.argument("path")
@click.argument("out")
@_images
@_format
@click.option(
    "--split", "chosen", multiple=True, help="Repeat for several.  [default: all, but those that only join others]"
)
@click.option("--shards", type=_Whole("Count"), help="Files a split.  [default: by size, about 200 MB each]")
@click.option("--overwrite", is_flag=True, help="Replace shards that lie in OUT already.")
def make_tfrecords(path, out, images, data_format, chosen, shards, overwrite):
    """Write the data set at PATH as sharded TFRecords into OUT, pictures as the bytes they are."""
    _there(path, _DATA)
    start_tensorflow()
    from tfyolo.data import readers, records

    with _split_hint():
        dataset = readers.DataSet(path, images=images, format=data_format, **_reading())
        sources = {name: dataset.read(name) for name in chosen or dataset.splits}
    for split, source in sources.items() if chosen else readers.without_unions(sources).items():
        if left_out := readers.faults(source, "the records"):
            click.echo(left_out, err=True)
        written = records.write(source, out, shards=shards, overwrite=overwrite)
        pictures, files = counted(written.records, "picture"), counted(len(written.files), "shard")
        click.echo(f"{split}: {pictures} in {files} in {out}")
        for file, reason in written.skipped:
            click.echo(f"left out: {file}: {reason}", err=True)


@main.command("kmeans-anchors")
@click.argument("path")
@_images
@_format
@click.option("--split", default="train", show_default=True, help="The split whose boxes count.")
@click.option("--config", required=True, help="Config or run whose levels, anchors a level and input size count.")
@click.option("--input-size", type=_Whole("Side"), help="Side of a square input in place of the config's.")
@click.option(
    "--seed", type=_Whole("Seed"), default=0, show_default=True, help="Of the first guess, which clustering improves."
)
@_json
def kmeans_anchors(path, images, data_format, split, config, input_size, seed, as_json):
    """Find the anchors that fit the boxes of the data set at PATH best, as YAML for model.decoder.

    \b
    tfyolo kmeans-anchors my/pictures --config yolov3-tiny --input-size 320
    """
    loaded = _config_of(config)
    own = loaded.model.decoder.options.get("anchors")
    if not own:
        raise loaded.error("model.decoder.anchors", "expected a decoder with anchors, this one has none")
    _there(path, _DATA)
    start_tensorflow()
    from tfyolo.data import anchors as clustering
    from tfyolo.model import check_size
    from tfyolo.structures import level_stride

    size = (input_size, input_size) if input_size else loaded.model.input_size
    check_size(loaded, size, max(map(level_stride, own)))
    source = _read_split(path, split, images=images, format=data_format, **_reading())
    sizes = clustering.dataset_sizes(source, size, loaded.model.preprocess)
    count = sum(len(level) for level in own.values())
    found = clustering.kmeans(sizes, count, seed=seed)
    levels, start = {}, 0
    for level in sorted(own):  # the smallest to the finest
        levels[level] = [[round(float(h), 1), round(float(w), 1)] for h, w in found[start : start + len(own[level])]]
        start += len(own[level])
    before = [anchor for level in sorted(own) for anchor in own[level]]
    fit = {
        "mean_iou": float(clustering.mean_iou(sizes, found)),
        "mean_iou_of_config": float(clustering.mean_iou(sizes, before)),
    }
    if as_json:
        _print_json({"input_size": list(size), "boxes": len(sizes), "anchors": levels, **fit})
        return
    click.echo(
        f"# {counted(len(sizes), 'box')} of {source.name} {source.split} at {size[0]} x {size[1]}: mean best overlap",
        nl=False,
    )
    click.echo(f" {fit['mean_iou']:.3f}, with the config's anchors {fit['mean_iou_of_config']:.3f}")
    click.echo("anchors:  # (h, w)")
    for level, values in levels.items():
        click.echo(f"  {level}: {values}")
    click.echo(f"# on the command line: 'model.decoder.anchors={jsons.dumps(levels)}'")


@main.command("demo-data")
@click.argument("folder")
@click.option(
    "--seed", type=_Whole("Seed"), default=0, show_default=True, help="Another seed is another data set of the kind."
)
def demo_data(folder, seed):
    """Draw the demo data set, shapes to be found, into FOLDER as COCO JSON."""
    from tfyolo.data import demo

    demo.write(folder, seed=seed)
    click.echo(f"the demo data set lies in {folder}")


# --- summary ------------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--classes", type=_Whole("Classes"), metavar="K", help="How many.  [default: the config's, its data's, or 80]"
)
@click.option("--size", type=_Whole("Side"), metavar="PIXELS", help="Of the square input.  [default: the config's]")
@click.option(
    "--backward", is_flag=True, help="Take the data's first batch through it, and give each stage's gradient norm."
)
@click.option("--drawing", metavar="FILE", help="Draw it too: boxes for stages, arrows for tensors (.png, .svg, .pdf).")
@_json
def summary(config, overrides, classes, size, backward, drawing, as_json):
    """Walk through CONFIG's (or a run's) detector: shapes, parameters and FLOPs, stage by stage.

    \b
    tfyolo summary yolov8n --size 640 --drawing yolov8n.svg
    tfyolo summary yolov8n data=my/pictures --backward
    """
    _no_export(config, "summary takes a config, or the run that the export was made from")
    of_run = os.path.isdir(config) or config.endswith(".h5")
    if of_run and (overrides or classes or size):
        raise click.UsageError(
            f"{config} is a model that is trained: it stays as it is; KEY=VALUE, --classes and --size are for configs"
        )
    if of_run:
        _there(config, "a run's folder or a .h5 file")
    else:
        loaded = _loaded(config, [*overrides, *([f"model.input_size={size}"] if size else [])])
        if loaded.data:
            _data_there(loaded.data)
    start_tensorflow()
    from tfyolo import model as models
    from tfyolo.walk import walk

    model = models.load_model(config) if of_run else models.build(loaded, _class_names(loaded, classes))
    described = walk(model)
    if backward:
        from tfyolo.training import first_batch_norms

        loss, norms = first_batch_norms(model)
        described["loss"] = loss
        for row in described["stages"]:
            row["gradient_norm"] = norms.get(row["stage"])
    if drawing:
        from tfyolo import visualize

        visualize.stages(described, drawing)
    if as_json:
        _print_json(described)
        return
    last = f"{'gradient':>12}" if backward else ""
    click.echo(f"{'stage':<24}{'output':<20}{'stride':>7}{'parameters':>14}{'MFLOPs':>12}{last}   reads")
    for row in described["stages"]:
        shape, stride = " x ".join(map(str, row["output"])), f"{row['stride']:g}" if row["stride"] else ""
        line = f"{row['stage']:<24}{shape:<20}{stride:>7}{row['parameters']:>14,}{row['flops'] / 1e6:>12,.1f}"
        if backward:
            line += f"{row['gradient_norm']:>12.3g}" if row["gradient_norm"] is not None else f"{'':>12}"
        click.echo(f"{line}   {', '.join(row['inputs'])}")
    height, width = described["input_size"]
    told = [
        f"{described['candidates']:,} candidates, each 4 box values and {counted(described['classes'], 'class score')}"
    ]
    if backward:
        told.append("loss of the first batch: " + ", ".join(f"{name} {value:.4g}" for name, value in loss.items()))
    if drawing:
        told.append(f"drawn: {drawing}")
    click.echo("\n".join(told))
    click.echo(
        f"{described['name']} at {height} x {width}, {counted(described['classes'], 'class')}: {described['parameters']:,} parameters "
        f"({described['trainable']:,} trainable), {described['flops'] / 1e9:.2f} GFLOPs (2 x multiply-adds)"
    )


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--depth",
    type=_Range(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="Times as many layers in a block.",
)
@click.option(
    "--width", type=_Range(0, 100, min_open=True), default=1.0, show_default=True, help="Times as many channels."
)
@click.option("--classes", type=_Whole("Classes"), metavar="K", help="How many.  [default: as of summary]")
def scale(config, overrides, depth, width, classes):
    """Print CONFIG made deeper and wider, by the options of its parts, with its parameters and FLOPs.

    \b
    tfyolo scale yolov7 --depth 1.5 --width 1.25 > mine.yaml
    """
    loaded = _loaded(config, overrides)
    start_tensorflow()
    from tfyolo import config as configs
    from tfyolo import model as models
    from tfyolo.walk import walk

    scaled = configs.load(config, [*overrides, *models.scaling(loaded, depth, width)])
    for about in (loaded, scaled):
        described = walk(models.build(about, _class_names(about, classes)))
        click.echo(
            f"# {'before: ' if about is loaded else ''}{described['parameters']:,} parameters ({described['trainable']:,} trainable), "
            f"{described['flops'] / 1e9:.2f} GFLOPs with {counted(described['classes'], 'class')}"
        )
    click.echo(configs.to_yaml(scaled), nl=False)


def _class_names(config, count):
    from tfyolo.data import readers

    if count:
        return [str(i) for i in range(count)]
    if config.model.classes:
        return config.model.classes
    if config.data:
        return readers.read_configured(config.data, "train").classes
    return [str(i) for i in range(80)]


if __name__ == "__main__":
    main()
