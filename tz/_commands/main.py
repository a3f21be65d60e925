"""Runs the commands of `python -m tz`, and lists them on a help page."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence

from tz._commands.looking import match, plot, show
from tz._commands.options import help_lines
from tz._commands.playing import gtp, play
from tz._commands.training import fork, resume, train


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of `python -m tz`: `run` is the function that gets the arguments after its name."""

    run: Callable[[Sequence[str]], None]
    about: str
    """One sentence that says what the command does."""


COMMANDS = {
    "train": Command(train, "Trains an agent by self-play and saves it in a folder."),
    "resume": Command(resume, "Continues a run that was stopped, or makes it longer."),
    "fork": Command(fork, "Starts a new run from the last state of another run, with other settings."),
    "show": Command(show, "Shows the progress of a run, or how an agent was trained and how strong it is."),
    "plot": Command(plot, "Plots the learning curves of one or several runs."),
    "match": Command(match, "Plays a match between two agents."),
    "play": Command(play, "Lets you play against an agent, in the browser or in the terminal."),
    "gtp": Command(gtp, "Runs an agent as a GTP engine, for programs such as Sabaki."),
}
_ABOUT = """\
tz trains agents for board games by self-play, as AlphaZero does.

  python -m tz train --env connect_four --minutes 20      trains an agent and saves it in runs/connect_four
  python -m tz show runs/connect_four                     shows the progress of the run
  python -m tz play runs/connect_four                     lets you play against the agent
  python -m tz match runs/connect_four/agent.tz random    plays a match against random moves
  python -m tz COMMAND --help                             explains a command and its options

Commands:
"""


def overview() -> str:
    """Returns the page that lists all commands."""
    return _ABOUT + help_lines({name: command.about for name, command in COMMANDS.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command. An error in its arguments or its files ends the process with a message of one line.

    **Arguments:** `arguments`, by default the arguments of the process.

    **Raises:** `SystemExit` after an error or Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise ValueError(unknown(name, rest))
        COMMANDS[name].run(rest)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("stopped.") from error
    except BrokenPipeError:  # as with `| head`; Python must not fail again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # after BrokenPipeError, which is one of its kinds
        raise SystemExit(f"error: {_system_text(name, error)}") from error


def _system_text(command: str, error: OSError) -> str:
    """Returns the message for an error of the system. Errors that tz raises itself have a message already."""
    if error.strerror is None:
        return str(error)
    place = "" if error.filename is None else f" at {error.filename}"
    return (
        f"{command}: found an error of the system{place} ({error.strerror}), expected files that can be read and "
        "written; check the path, its permissions and the free space."
    )


def unknown(name: str, rest: Sequence[str]) -> str:
    """Returns the message for a first word that is not a command. It translates the options of earlier versions."""
    if not name.startswith("-"):
        return f"tz: found the command {name!r}, expected one of {', '.join(COMMANDS)}; see python -m tz --help."
    words = [name, *rest]

    def taken(option: str) -> str | None:  # takes an option and its value out of the words, and returns the value
        if option not in words or words.index(option) + 1 >= len(words):
            return None
        at = words.index(option)
        value = words[at + 1]
        del words[at : at + 2]
        return value

    if "--resume" in words:
        words.remove("--resume")
        line = ["resume", taken("--out") or "FOLDER", *words]
    elif "--fork" in words:
        line = ["fork", taken("--fork") or "FOLDER", *words]
    else:
        line = ["train", *words]
    return f"tz: found options without a command, expected one; write: python -m tz {' '.join(line)}"
