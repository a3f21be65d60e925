"""What the kept subtree is worth: a search that keeps it against one that does not and has more simulations.

    python experiments/persistence.py --out experiments/results/persistence_cpu.md

Both players have the same evaluator, which knows nothing, at temperature 0 from openings of random plies, both sides of
each. Where the score is 0.5, the kept subtree is worth that many simulations. The time of a move counts everything: the
search, the choice and the advance.
"""

import argparse
import math
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from timing import heading

import tz


def seconds_a_move(mcts: tz.MCTS, env: tz.Env, num_games: int, num_steps: int = 20) -> float:
    """Of one game in a batch of self-play."""
    games = eqx.filter_jit(jax.vmap(lambda key: tz.init_collect(mcts, env, key=key)))(
        jax.random.split(jax.random.key(0), num_games)
    )
    play = eqx.filter_jit(
        jax.vmap(lambda game: tz.collect(mcts, env, tz.uniform_evaluator, game, num_steps=num_steps)[0])
    )
    jax.block_until_ready(play(games))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(play(games))
        times.append(time.perf_counter() - start)
    return sorted(times)[3] / num_steps / num_games


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="connect_four")
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 1.25, 1.5, 2.0])
    parser.add_argument("--num-games", type=int, default=800)
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    env = tz.from_pgx(arguments.game)
    lines = [
        "# What the kept subtree is worth",
        "",
        f"{heading('jax', 'pgx')} {arguments.game}, {arguments.simulations} simulations with a kept subtree, "
        f"constant evaluator, {arguments.num_games} games a row, openings of 4 random plies. The interval is 1.96 "
        "standard errors over games.",
        "",
        "| search | simulations without a kept subtree | score of the one that keeps it | time of a move, kept / not |",
        "|---|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    match = eqx.filter_jit(tz.play_match)
    for name, make in {"PUCT": tz.MCTS, "Gumbel": tz.gumbel_mcts}.items():
        keeps = make(arguments.simulations)
        kept_seconds = seconds_a_move(keeps, env, 64)
        for factor in arguments.factors:
            forgets = make(round(factor * arguments.simulations), persist_tree=False)
            players = [tz.Player(tz.without_exploration(m), tz.uniform_evaluator) for m in (keeps, forgets)]
            result = match(env, *players, num_games=arguments.num_games, max_steps=42, key=jax.random.key(1))
            points = jnp.where(result.returns > 0, 1.0, jnp.where(result.returns == 0, 0.5, 0.0))
            error = 1.96 * float(jnp.std(points)) / math.sqrt(arguments.num_games)
            ratio = kept_seconds / seconds_a_move(forgets, env, 64)
            lines.append(
                f"| {name} | {forgets.num_simulations} | {float(result.score):.3f} ± {error:.3f} | {ratio:.2f} |"
            )
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
