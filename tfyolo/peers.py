"""Other people's programs, measured in turns with ours.

A peer is a command that prints a line when it is ready and answers every line it reads with a line of JSON.
"""

import json
import shlex
import subprocess

import click


class Peer:
    """A competitor in a process of its own, which works only when it is asked.

    Args:
        name: its name in the report.
        command: the words of its command.

    Attributes:
        answers: what it has answered so far, read from JSON.
    """

    def __init__(self, name, command):
        self.name, self.answers = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def parsed(text):
        """(name, words of the command) of NAME=COMMAND.

        Raises:
            click.BadParameter: the text has another form.
        """
        name, equals, command = text.partition("=")
        if not (name and equals and command):
            raise click.BadParameter(f"expected NAME=COMMAND, received {text!r}", param_hint="--peer")
        return name, shlex.split(command)

    def line(self):
        """Its next line.

        Raises:
            click.ClickException: it has ended.
        """
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException(
                f"{self.name}: it ended with exit code {self.process.wait()}; its message stands above"
            )
        return line

    def turn(self):
        """Lets it work once, and returns the answer, which is kept too."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.line()))
        return self.answers[-1]

    def stop(self):
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
