"""The pictures of the README: `python experiments/pictures.py --out experiments/results`.

A search tree of tic-tac-toe, and a game of the Connect Four agent that comes with tz against a search with random games
to the end. The learning curve is `hello_othello.py`'s.
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp

import tz
from tz.plot import action_names, plot_tree, render_game


def draw_tree(path: pathlib.Path) -> None:
    """O is to move and must stop the top row; the search knows nothing but the rules."""
    env, mcts = tz.from_pgx("tic_tac_toe"), tz.MCTS(num_simulations=80, root=tz.PlainRoot())
    start = tz.init_search(mcts, *tz.play_moves(env, jnp.array([0, 4, 1])))
    searched = eqx.filter_jit(tz.search)(mcts, env, tz.uniform_evaluator, start, key=jax.random.key(0))
    cells = action_names(3, 3, others=())
    plot_tree(searched, draw=env.draw, labels=cells, max_depth=3, max_leaves=9).savefig(path, dpi=110)


def draw_game(path: pathlib.Path) -> None:
    env, mcts = tz.from_pgx("connect_four"), tz.without_exploration(tz.MCTS(64, persist_tree=False))
    agent = tz.Player(mcts, tz.load_agent("connect_four_small").evaluator)
    rival = tz.Player(tz.without_exploration(tz.MCTS(256, persist_tree=False)), tz.RolloutEvaluator(env))
    match = tz.play_match(env, agent, rival, num_games=2, key=jax.random.key(0), opening_moves=2, max_moves=42)
    players = {"the agent's estimate": agent, "the rival's": rival}
    values = {
        name: tz.matches.replay_values(env, match, 1, who, key=jax.random.key(1)) for name, who in players.items()
    }
    animation = render_game(tz.replay_game(env, match, 1), draw=env.draw, values=values)
    animation.save(path, writer="pillow", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experiments/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draw_tree(args.out / "tree.png")
    draw_game(args.out / "game.gif")


if __name__ == "__main__":
    main()
