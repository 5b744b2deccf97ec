"""The command line: `tfyolo COMMAND`, each the same as `python tools/COMMAND.py`.

What was typed is checked first, then TensorFlow is imported, which takes seconds: start_tensorflow() stands between the
two in each command.

Exit codes: 0 done; 1 it could not be done, or a check failed; 2 wrong arguments or a wrong config; 75 training was
stopped by SIGTERM, to be resumed; 130 stopped by Ctrl-C; 138 one of several workers was lost, to be resumed.
"""

import os
import sys

import click

from tfyolo import __version__
from tfyolo.cli.arguments import ELSEWHERE
from tfyolo.errors import Error
from tfyolo.files import elsewhere, unreachable
from tfyolo.messages import printable

# Options of commands that have a new name. The old one works for one version, with a notice.
RENAMED_OPTIONS = {
    "--pictures": "--draw-images",  # evaluate
    "--picture": "--plot",  # benchmark
}

# What may be an address, such as gs://..., of each command.
_DATA = {"path", "images", "names"}
TAKE_ADDRESSES = {
    "quick": {"data", "init"},
    "check-data": {*_DATA, "out"},
    "train": {"config", "out"},
    "evaluate": {*_DATA, "model", "out"},
    "detect": {"model", "sources"},
    "export": {*_DATA, "run", "out"},
    "benchmark": {"run", "paths", "path"},
    "kmeans-anchors": _DATA,
    "make-tfrecords": _DATA,
}


class Command(click.Command):
    """A command that turns errors the user can mend into one message and an exit code."""

    allow_extra_args = True  # for a better message than click's

    def parse_args(self, context, args):
        """Parses arguments; its errors say how to write what was probably meant."""
        try:
            super().parse_args(context, self._with_new_names(args))
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-")
            if self.takes(name):
                usage = " ".join(self.collect_usage_pieces(context)[1:])  # less [OPTIONS]
                hint = f"arguments have no dashes; write `{context.command_path} {usage}`"
            elif any(parameter.name == "overrides" for parameter in self.params) and _is_setting(name):
                hint = f"settings have no dashes; write {name}=..."
            else:
                raise
            raise click.UsageError(f"{error.option_name}: {hint}", context) from None
        if context.args and not context.resilient_parsing:
            raise click.UsageError(self._one_too_many(context.args[0]), context)
        for parameter in self.params:
            value = context.params.get(parameter.name)
            for word in value if isinstance(value, tuple) else (value,):
                may_be = parameter.name in TAKE_ADDRESSES.get(self.name, ())
                if isinstance(word, str) and (wrong := (unreachable if may_be else elsewhere)(word)):
                    raise click.UsageError(printable(f"{parameter.opts[0]}: {wrong}"), context)
        return context.args

    def _with_new_names(self, args):
        """The arguments with the new names of options, with a notice for each old one."""
        options = {option for each in self.params for option in each.opts}
        renamed = []
        for place, word in enumerate(args):
            old, equals, value = word.partition("=")
            new = RENAMED_OPTIONS.get(old)
            if new in options and old not in options and "--" not in args[:place]:
                from tfyolo.config import renamed_notice

                click.echo(renamed_notice(old, new), err=True)
                word = f"{new}{equals}{value}"
            renamed.append(word)
        return renamed

    def takes(self, name):
        """Whether the command has an argument of a name, its own or another program's for it."""
        arguments = [each.name for each in self.params if isinstance(each, click.Argument)]
        return any(each in arguments for each in (name, *ELSEWHERE.get(name, ())))

    def _one_too_many(self, word):
        key, equals, value = word.partition("=")
        options = [option for each in self.params if isinstance(each, click.Option) for option in each.opts]
        hint = "one argument too many"
        if equals and f"--{key}" in options:
            hint = f"options have dashes; write --{key} {value}"
        elif "--data" in options and os.path.exists(word):
            hint += f"; data is named by --data {word}"
        return printable(f"{word}: {hint}")

    def get_short_help_str(self, limit=None):
        """The first sentence of the help, in full."""
        return super().get_short_help_str(sys.maxsize)  # lines are wrapped, not cut

    def invoke(self, context):
        """Runs the command, and ends the process with an exit code where it fails."""
        from tfyolo.libraries import missing_explained

        try:
            with missing_explained(context.command_path):
                return super().invoke(context)
        except Error as error:
            click.echo(f"Error: {printable(error, keep=chr(10))}", err=True)
            sys.exit(error.exit_code)
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
        *("quick", "configs", "check-data", "train", "evaluate", "detect", "export", "targets", "lint", "benchmark"),
        *("summary", "scale", "kmeans-anchors", "make-tfrecords", "weights", "import", "verify", "demo-data"),
    )
    ALIASES = {"val": "evaluate", "predict": "detect"}  # noqa: RUF012

    def get_command(self, context, name):
        return super().get_command(context, self.ALIASES.get(name, name))

    def resolve_command(self, context, args):
        _, command, rest = super().resolve_command(context, args)
        return command and command.name, command, rest  # not by its alias; None where a shell completes an unknown one

    def list_commands(self, context):
        return sorted(self.commands, key=self.ORDER.index)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main():
    """One-stage object detectors on TensorFlow: train, evaluate, export and run them.

    `tfyolo COMMAND --help` says more of each; evaluate is also called val, detect also predict.
    """
