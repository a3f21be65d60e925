"""The commands of `python -m tz`, and the page that lists them."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence

from tz._commands.looking import match, plot, show
from tz._commands.options import help_lines
from tz._commands.training import fork, resume, train
from tz.play.command import run_play
from tz.play.gtp_command import serve_gtp


@dataclasses.dataclass(frozen=True)
class Command:
    """A word after `python -m tz`, and the function that gets the arguments after it."""

    run: Callable[[Sequence[str]], None]
    about: str
    """One sentence that says what the command does."""


COMMANDS = {
    "train": Command(train, "Trains an agent by self-play and leaves it in a folder."),
    "resume": Command(resume, "Goes on with a run that was stopped, or for longer."),
    "fork": Command(fork, "Begins another run from where one stands, with other settings."),
    "show": Command(show, "Shows how far a run is, or the card of an agent: how it was trained and how strong it is."),
    "plot": Command(plot, "Draws what one or several runs learned."),
    "match": Command(match, "Lets two agents play a match."),
    "play": Command(run_play, "Lets you play against an agent, on a page in the browser or in the terminal."),
    "gtp": Command(serve_gtp, "Makes an agent an engine that speaks GTP, for boards such as Sabaki."),
}
_ABOUT = """\
tz trains agents for board games by self-play, as AlphaZero did.

  python -m tz train --env connect_four --minutes 20      trains an agent and leaves it in runs/connect_four
  python -m tz show runs/connect_four                     says how far it is
  python -m tz play runs/connect_four                     lets you play against it
  python -m tz match runs/connect_four/agent.tz random    lets it play against random moves
  python -m tz COMMAND --help                             says more of a command

Commands:
"""


def overview() -> str:
    """Return the page that lists all commands."""
    return _ABOUT + help_lines({name: command.about for name, command in COMMANDS.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; what is wrong with its arguments is said in one line."""
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
    except BrokenPipeError:  # such as of `| head`; what Python would still print at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def unknown(name: str, rest: Sequence[str]) -> str:
    """Return the message for a first word that is no command. It knows the options of earlier versions."""
    if not name.startswith("-"):
        return f"found the command {name!r}, expected one of {', '.join(COMMANDS)}. See python -m tz --help."
    words = [name, *rest]

    def taken(option: str) -> str | None:
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
    return f"found options without a command; write: python -m tz {' '.join(line)}"
