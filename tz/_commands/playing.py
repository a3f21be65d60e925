"""The commands that let an agent play against people and programs: `play` and `gtp`."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax

from tz._commands.options import Parser, help_lines, reader
from tz.games._named_games import named_game
from tz.games.env import Env
from tz.matches.players import Player
from tz.play.analysis import with_simulations
from tz.play.game import Game
from tz.play.gtp import GtpServer
from tz.play.page import PageServer
from tz.play.session import Session
from tz.play.terminal import play_in_terminal
from tz.runs.agent_files import agent_env, load_agent

_PLAY = """\
python -m tz play AGENT [options]

Lets you play against an agent: serves a page with the board on this machine until Ctrl-C, or plays in the terminal.
AGENT is a file, the folder of a run, or the name of an agent that comes with tz.

  python -m tz play connect_four
  python -m tz play runs/othello --terminal --simulations 50

"""
_GTP = """\
python -m tz gtp AGENT [options]

Serves an agent as a GTP engine (version 2) on standard input and output, until the command quit. AGENT is a file, the
folder of a run, or the name of an agent that comes with tz.

  python -m tz gtp go_9x9 --simulations 200

"""
_ENV = {"--env GAME": "Your own game, as package.module:make_env. The games of pgx do not need it."}
_SIDES = {"first": (0,), "second": (1,), "both": (0, 1), "nobody": ()}


def play(arguments: Sequence[str]) -> None:
    """Runs the command `play`, until Ctrl-C or the end of the game in the terminal.

    **Raises:** `ValueError` if there is no such agent, the port cannot be used, or an option is wrong.
    """
    parser = Parser("play")
    parser.add_argument("agent", nargs="?")
    parser.add_argument("--env")
    parser.add_argument("--terminal", action="store_true")
    parser.add_argument("--port", type=reader((int,)), default=0)
    parser.add_argument("--person", type=reader((Literal["first", "second", "both", "nobody"],)), default="first")
    parser.add_argument("--simulations", type=reader((int,)))
    parser.add_argument("--seed", type=reader((int,)), default=0)
    found = parser.read(arguments)
    if found["help"]:
        rows = {
            "--person SIDE": "The side that you play: first, second, both or nobody. [first]",
            "--simulations N": "The number of simulations of the agent for each move; 0 for its policy alone. [the "
            "agent's own number]",
            "--terminal": "Play in text, without a browser.",
            "--port N": "The port of the page. [any free one]",
            "--seed N": "The seed of the first position and of nature's outcomes, a number of 64 bits. [0]",
            **_ENV,
        }
        print(_PLAY + "Options:\n" + help_lines(rows))
        return
    env, loaded = _loaded("play", found)
    agent = with_simulations(loaded, found["simulations"])
    person, seed = found["person"], found["seed"]
    Session(env, agent, person=person, seed=seed).ask({"do": "view"})  # so that a fault of the game ends the command
    if found["terminal"]:
        players = [None if seat in _SIDES[person] else agent for seat in range(env.num_players)]
        play_in_terminal(Game(env, players, key=jax.random.key(seed), analyst=agent))
        return
    server = PageServer(
        lambda number: Session(env, agent, person=person, seed=seed + number), title=env.name, port=found["port"]
    )
    print(f"{env.name}: open {server.url} in a browser on this machine; Ctrl-C stops it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.free()


def gtp(arguments: Sequence[str]) -> None:
    """Runs the command `gtp` until `quit`. What is not an answer goes to standard error.

    **Raises:** `ValueError` if there is no such agent, GTP does not support its game, or an option is wrong.
    """
    parser = Parser("gtp")
    parser.add_argument("agent", nargs="?")
    parser.add_argument("--env")
    parser.add_argument("--simulations", type=reader((int,)), default=400)
    found = parser.read(arguments)
    if found["help"]:
        rows = {
            "--simulations N": "The number of simulations for each move; with a clock, the largest number. [400]",
            **_ENV,
        }
        print(_GTP + "Options:\n" + help_lines(rows))
        return
    out: Any = sys.stdout
    lines: Any = sys.stdin.buffer
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        env, agent = _loaded("gtp", found)
        GtpServer(env, agent, num_simulations=found["simulations"]).run(lines, out)


def _loaded(command: str, found: dict[str, Any]) -> tuple[Env, Player]:
    """Loads the game and the agent that the options name."""
    if found["agent"] is None:
        raise ValueError(
            f"{command}: found no agent, expected the file of one, the folder of a run, or the name of an agent that "
            f"comes with tz; write python -m tz {command} connect_four."
        )
    env = agent_env(found["agent"], env=named_game(found["env"]) if found["env"] else None)
    return env, load_agent(found["agent"], env=env)
