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
    """Serves an agent over GTP on standard input and output until `quit`. All other output goes to standard error.

    **Arguments:** `arguments`, the words after `python -m tz gtp`.

    **Raises:** `ValueError` if there is no such agent, or if GTP does not support its game; `SystemExit` for unknown
    options.
    """
    parser = argparse.ArgumentParser(prog="python -m tz gtp", description="Serve an agent as a GTP engine (version 2).")
    parser.add_argument(
        "agent", help="the file of an agent, the folder of a run, or the name of an agent that comes with tz"
    )
    parser.add_argument("--env", help="your own game, as package.module:make_env; not needed for the games of pgx")
    parser.add_argument(
        "--simulations", type=int, default=400, help="simulations for each move; with a clock, the largest number"
    )
    options = parser.parse_args(arguments)
    out: Any = sys.stdout
    lines: Any = sys.stdin.buffer
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        env = agent_env(options.agent, env=named_game(options.env) if options.env else None)
        server = GtpServer(env, load_agent(options.agent, env=env), num_simulations=options.simulations)
        server.run(lines, out)
