"""The command `python -m tz gtp AGENT`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from tz.games._named_games import named_game
from tz.play.gtp import GtpServer
from tz.runs.agent_files import agent_env, load_agent


def serve_gtp(arguments: Sequence[str]) -> None:
    """Speaks GTP on standard input and output until `quit`; whatever else is printed goes to standard error.

    **Raises:** `ValueError` if there is no such agent, or its game cannot be played so; `SystemExit` for options that
    there are not.
    """
    parser = argparse.ArgumentParser(prog="python -m tz gtp", description="An agent that speaks GTP, version 2.")
    parser.add_argument("agent", help="a file, a run's folder, or the name of an agent that comes with tz")
    parser.add_argument("--env", help="the game, as package.module:make_env, where it is one of your own")
    parser.add_argument("--simulations", type=int, default=400, help="of a move; with a clock, at most so many")
    options = parser.parse_args(arguments)
    out: Any = sys.stdout
    lines: Any = sys.stdin.buffer
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        env = agent_env(options.agent, env=named_game(options.env) if options.env else None)
        server = GtpServer(env, load_agent(options.agent, env=env), num_simulations=options.simulations)
        server.run(lines, out)
