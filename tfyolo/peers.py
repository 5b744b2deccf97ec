"""Other people's programs, measured in turns with ours: commands that print a line when ready, and answer every line with JSON."""

import json
import shlex
import subprocess

import click


class Peer:
    """A competitor in a process of its own, that works only when it is asked."""

    def __init__(self, name, command):
        self.name, self.answers = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def parsed(text):
        """NAME=COMMAND -> (name, list of the command's words)."""
        name, equals, command = text.partition("=")
        if not (name and equals and command):
            raise click.BadParameter(f"expected NAME=COMMAND, received {text!r}", param_hint="--peer")
        return name, shlex.split(command)

    def line(self):
        """Its next line; ClickException if it has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(
                f"{self.name}: it ended with exit code {self.process.wait()}; its message stands above"
            )
        return line

    def turn(self):
        """Lets it work once: the answer, which is kept too."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.line()))
        return self.answers[-1]

    def stop(self):
        self.process.kill()
        self.process.communicate()
