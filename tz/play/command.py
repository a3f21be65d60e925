"""The command `python -m tz play AGENT`, for a game against an agent in the browser or in the terminal."""

import argparse
from collections.abc import Sequence

import jax

from tz.games._named_games import named_game
from tz.play.analysis import with_simulations
from tz.play.game import Game
from tz.play.page import PageServer
from tz.play.session import Session
from tz.play.terminal import play_in_terminal
from tz.runs.agent_files import agent_env, load_agent


def run_play(arguments: Sequence[str]) -> None:
    """Serves the board until Ctrl-C, or plays in the terminal.

    **Arguments:** `arguments`, the words after `python -m tz play`.

    **Raises:** `ValueError` if there is no such agent, the port cannot be used, or a number is out of its range;
    `SystemExit` for unknown options.
    """
    parser = argparse.ArgumentParser(prog="python -m tz play", description="Play against an agent.")
    parser.add_argument(
        "agent", help="the file of an agent, the folder of a run, or the name of an agent that comes with tz"
    )
    parser.add_argument("--env", help="your own game, as package.module:make_env; not needed for the games of pgx")
    parser.add_argument("--terminal", action="store_true", help="play in text, without a browser")
    parser.add_argument("--port", type=int, default=0, help="the port of the page (default: any free one)")
    sides = ("first", "second", "both", "nobody")
    parser.add_argument("--person", choices=sides, default="first", help="the side that you play (default: first)")
    number = "simulations for each move of the agent; 0 for its policy alone (default: its own number)"
    parser.add_argument("--simulations", type=int, default=None, help=number)
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the first position and nature's outcomes (default: 0)"
    )
    options = parser.parse_args(list(arguments))
    env = agent_env(options.agent, env=named_game(options.env) if options.env else None)
    agent = with_simulations(load_agent(options.agent, env=env), options.simulations)
    if options.terminal:
        people = {"first": (0,), "second": (1,), "both": (0, 1), "nobody": ()}[options.person]
        players = [None if seat in people else agent for seat in range(env.num_players)]
        play_in_terminal(Game(env, players, key=jax.random.key(options.seed), analyst=agent))
        return

    def new_session(number: int) -> Session:
        return Session(env, agent, person=options.person, seed=options.seed + number)

    server = PageServer(new_session, title=env.name, port=options.port)
    print(f"{env.name}: open {server.url} in a browser on this machine; Ctrl-C stops it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.free()
