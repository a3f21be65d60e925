"""Measures the worth of the kept subtree, against searches without it that have more simulations.

    python experiments/persistence.py --out experiments/results/persistence_cpu.md

Both players evaluate by one rollout, at temperature 0, and play both sides of openings of random moves. Where the
score is 0.5, the kept subtree is worth the additional simulations. The time of a move includes the search, the choice
of the move and the advance of the tree. The size of the kept subtree is measured in self-play, where it is the subtree
of one move. In a match each player has its own tree, and keeps the subtree of two moves.
"""

import argparse
import functools
import itertools
import math
import statistics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from timing import compare, heading

import tz


def play(mcts: tz.MCTS, env: tz.Env, evaluator: tz.RolloutEvaluator, keys):
    """Makes ten moves of self-play; returns the visits with which the next search begins, and all steps."""
    games = jax.vmap(lambda key: tz.init_collect(mcts, env, key=key))(keys)
    games, steps = jax.vmap(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=10))(games)
    return jnp.sum(games.search.tree.visits[:, 0], axis=-1), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="connect_four")
    parser.add_argument("--simulations", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 1.25, 1.5])
    parser.add_argument("--num-games", type=int, default=800)
    parser.add_argument("--max-moves", type=int, default=42, help="moves after which a game is cut off")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    env = tz.from_pgx(arguments.game)
    lines = [
        "# What the kept subtree is worth",
        "",
        f"{heading('jax', 'pgx')} {arguments.game}, one rollout an evaluation, {arguments.num_games} games a row, "
        "openings of 4 random moves. The interval is 1.96 standard errors over games. Kept: the visits with which a "
        "search of self-play begins, as a fraction of its simulations.",
        "",
        "| search | simulations with a kept subtree | without | score of the one that keeps it "
        "| time of a move, with / without | kept |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    match = eqx.filter_jit(
        functools.partial(tz.play_match, num_games=arguments.num_games, max_moves=arguments.max_moves)
    )
    evaluator, keys = tz.RolloutEvaluator(env, max_moves=arguments.max_moves), jax.random.split(jax.random.key(0), 64)
    searches = {"PUCT": tz.MCTS, "Gumbel": tz.gumbel_mcts}
    for num_simulations, (name, make) in itertools.product(arguments.simulations, searches.items()):
        keeps = make(num_simulations)
        forget = [make(round(factor * num_simulations), persist_tree=False) for factor in arguments.factors]
        functions = [functools.partial(play, mcts, env, evaluator) for mcts in (keeps, *forget)]
        times, _, _ = compare(functions, [(keys,)] * len(functions), 3.0 * len(functions))
        kept = float(jnp.mean(jax.jit(functions[0])(keys)[0])) / num_simulations
        for forgets, record in zip(forget, times[1:], strict=True):
            players = [tz.Player(tz.without_exploration(mcts), evaluator) for mcts in (keeps, forgets)]
            result = match(env, *players, key=jax.random.key(1))
            points = jnp.where(result.returns > 0, 1.0, jnp.where(result.returns == 0, 0.5, 0.0))
            error = 1.96 * float(jnp.std(points)) / math.sqrt(arguments.num_games)
            ratio = statistics.median(times[0]) / statistics.median(record)
            lines.append(
                f"| {name} | {num_simulations} | {forgets.num_simulations} "
                f"| {float(result.score):.3f} ± {error:.3f} | {ratio:.2f} | {kept:.0%} |"
            )
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
