"""`python -m tz play AGENT`: an agent in the browser, or in the terminal."""

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
    """Reads the options and serves the board until Ctrl-C, or plays in the terminal.

    **Raises:** `ValueError` for what is wrong with the agent, the port or the numbers; `SystemExit` for options that
    there are not.
    """
    parser = argparse.ArgumentParser(prog="python -m tz play", description="Play against an agent.")
    parser.add_argument("agent", help="a file, a run's folder, or the name of an agent that comes with tz")
    parser.add_argument("--env", help="the game, as package.module:make_env, where it is one of your own")
    parser.add_argument("--terminal", action="store_true", help="in text, in the place of a page in the browser")
    parser.add_argument("--port", type=int, default=0, help="of the page; any that is free by default")
    sides = ("first", "second", "both", "nobody")
    parser.add_argument("--person", choices=sides, default="first", help="the side that you play")
    parser.add_argument("--simulations", type=int, default=None, help="of the agent, by default its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first position and of chance")
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
    print(f"{env.name}: open {server.url} in a browser on this machine; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.free()
