"""The command train."""

import contextlib
import json as jsons
import math
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

import click

from tfyolo.cli.app import Command, main
from tfyolo.cli.arguments import (
    Whole,
    device_option,
    here,
    json_option,
    print_json,
    read_config,
    require_data,
    require_path,
    require_run,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.files import absolute, address, is_folder, is_there, normal
from tfyolo.origin import initialised_line, to_meta


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
@click.option("--overfit", type=Whole("Count"), metavar="N", help="Overfit N images; exit code 1 if it cannot.")
@device_option
@json_option
def train(config, overrides, out, resume, overfit, device, as_json):
    """Train a detector.

    CONFIG is a name of `tfyolo configs` or a YAML file; or the folder of a run, whose weights it is initialised from
    (with --resume: to go on with it).

    \b
    tfyolo train yolov3-tiny data=my/images epochs=50 batch=8 imgsz=320
    tfyolo train runs/yolov3-tiny --resume
    tfyolo train runs/imported data=my/images                  (fine-tunes a run, or an import)
    tfyolo train yolov3-tiny data=my/images --overfit 8
    tfyolo train yolov3-tiny data=my/images --out runs/a --resume        (begins, or goes on: repeat it as it is)

    Ctrl-C and SIGTERM end it when the running step is done, with everything to go on from; the exit code is then 130
    or 75. A second Ctrl-C ends it at once.

    Started on several machines that TF_CONFIG names, or by srun, it is one training; 138 says that a worker was lost.
    """
    from tfyolo import config as configs
    from tfyolo.training import channel, cluster

    overrides, device = _without_device(overrides, device)
    if address(config) or address(out or ""):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as devices.start, which comes later
    is_run = _is_run(config)
    if is_run and overrides and (not resume or _another(out, config)):
        loaded = read_config(Path(here(config)) / "config.yaml", [f"train.init={jsons.dumps(config)}", *overrides])
    elif is_run:
        if not resume or overrides or out:
            require_run(here(config), overrides)
            raise click.UsageError(
                f"{config} is a folder: go on with its run by `tfyolo train {config} --resume`, alone, or begin a "
                f"new one with its weights by `tfyolo train {config} data=PATH`"
            )
        out = config
        loaded = None
    elif resume and not is_there(config) and os.path.basename(config) != config:
        out, loaded = config, None
    else:
        loaded = read_config(config, overrides)
        if resume:
            out = out or str(Path("runs") / loaded.name)
    last = out and os.path.join(out, "last.h5")
    if loaded is None:
        require_path(last, "the last.h5 of a run to resume (to begin one, name a config and --out)")
    elif not (resume and is_there(last)):
        for i in range(len(loaded.train.stages)):
            require_data(loaded.stage_data(i)[0])
        configs.check_init(loaded)
    cluster.found()  # what is wrong with it shows at once
    with _leaving_at_sigterm():
        start_tensorflow(device, first=cluster.join)
        from tfyolo import checkpoint
        from tfyolo import model as models
        from tfyolo.training import runs
        from tfyolo.training import train as training

    try:
        run = training.train(loaded, out, resume=resume, overfit=overfit, progress=not as_json)
    except (channel.LostError, channel.OtherError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.stdout.flush()
        os._exit(error.exit_code)  # at its own end TensorFlow would wait for who is gone
    except runs.Stopped as stop:
        if not cluster.join().chief:
            sys.exit(130 if stop.signal == signal.SIGINT else RESUME)
        hint = "nothing was learned yet, nothing is left"
        if stop.folder:
            hint = f"`tfyolo train {shlex.quote(normal(stop.folder))} --resume` goes on"
        click.echo(f"\nstopped; {hint}", err=True)
        sys.exit(130 if stop.signal == signal.SIGINT else RESUME)
    if not cluster.join().chief:
        return
    origin = checkpoint.origin_of(checkpoint.read_meta(models.weights_file(run.folder)))
    if as_json:
        print_json({"run": normal(run.folder), **(run.metrics or {}), "origin": to_meta(origin)})
    else:
        best = run.metrics
        scores = "the last one, for want of an AP"
        if not math.isnan(best["AP"]):
            scores = f"AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}"
        name = f"epoch {best['epoch']}" if best["epoch"] else "the initial weights, no epoch was better"
        click.echo(f"best: {name}, {scores}; everything is in {normal(run.folder)}")
        if origin:
            click.echo(initialised_line(origin))


# EX_TEMPFAIL of sysexits.h: it failed for the time being, and the same again will go on.
RESUME = 75


@contextlib.contextmanager
def _leaving_at_sigterm():
    """Ends the process with RESUME at SIGTERM while TensorFlow starts: training does not listen yet."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # a program that runs this command listens
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(RESUME))  # an exception might be lost in an import
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _another(folder, than):
    return folder is not None and (
        absolute(folder) != absolute(than) and os.path.realpath(folder) != os.path.realpath(than)
    )


def _is_run(path):
    """Whether a CONFIG is the folder of a run: any folder, except one without a run that is named like a config."""
    from tfyolo import config as configs

    return is_folder(path) and (is_there(Path(path) / "config.yaml") or path not in configs.packaged_names())


def _without_device(overrides, device):
    """(overrides, device), with device=... taken out of the overrides; other options among them are an error."""
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
