"""Measures how much faster and weaker a search is that evaluates several leaves together.

    python experiments/leaf_batching.py --out experiments/results/leaf_batching_cpu.md

The speed is measured in one game with a network. The strength is measured in matches against the same search with one
leaf a step, once with the same number of simulations and once with the number that takes the same time. In the matches
the evaluator is constant, so all strength comes from the search; the temperature is 0, and each opening of random moves
is played from both sides.
"""

import argparse
import functools
import math
import statistics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from timing import compare, heading

import tz


def rates(env: tz.Env, network: str, num_simulations: int, leaves: list[int], seconds: float) -> list[float]:
    """Returns the simulations a second of a search of one position, for each number of leaves a step."""
    blocks, channels = map(int, network.split("x"))
    model = tz.AZResNet(env.observation.shape, env.num_actions, blocks, channels, "layer", key=jax.random.key(0))
    evaluator = tz.NetworkEvaluator(model, env.observe)

    def one(mcts, position, key):
        return tz.search(mcts, env, evaluator, tz.init_search(mcts, *position), key=key).root.visits

    searches = [tz.MCTS(num_simulations, root=tz.PlainRoot(), num_leaves=number) for number in leaves]
    position = tz.random_opening(env, 6, key=jax.random.key(1))
    functions = [functools.partial(one, mcts) for mcts in searches]
    times, _, _ = compare(functions, [(position, jax.random.key(2))] * len(functions), seconds)
    return [num_simulations / statistics.median(record) for record in times]


def score(env: tz.Env, players: list[tz.MCTS], num_games: int, max_moves: int) -> str:
    """Returns the score of the first player, with 1.96 standard errors over games."""
    match = eqx.filter_jit(functools.partial(tz.play_match, num_games=num_games, max_moves=max_moves))
    result = match(env, *(tz.Player(mcts, tz.uniform_evaluator) for mcts in players), key=jax.random.key(3))
    points = jnp.where(result.returns > 0, 1.0, jnp.where(result.returns == 0, 0.5, 0.0))
    return f"{float(points.mean()):.3f} ± {1.96 * float(jnp.std(points)) / math.sqrt(num_games):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="connect_four")
    parser.add_argument("--simulations", type=int, default=128)
    parser.add_argument("--leaves", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--networks", nargs="+", default=["4x32", "6x128"], help="networks, as blocks x channels")
    parser.add_argument("--num-games", type=int, default=800)
    parser.add_argument("--max-moves", type=int, default=42, help="moves after which a game of a match is cut off")
    parser.add_argument("--seconds", type=float, default=40.0, help="time for the speed of each network")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    env = tz.from_pgx(arguments.game)
    columns = [f"simulations/s, {network}" for network in arguments.networks]
    lines = [
        "# Leaves evaluated together",
        "",
        f"{heading('jax', 'pgx', 'equinox')} {arguments.game}, {arguments.simulations} simulations. Speed: one game; "
        "networks: blocks x channels, layer norm, float32. Score against one leaf a step: "
        f"{arguments.num_games} games, constant evaluator; 'equal time' has as many simulations as the "
        f"{arguments.networks[-1]} network makes in the time of one leaf a step. The interval is 1.96 standard errors "
        "over games.",
        "",
        f"| leaves a step | {' | '.join(columns)} | score, equal simulations | score, equal time (simulations) |",
        f"|---:|{'---:|' * (len(columns) + 2)}",
    ]
    print("\n".join(lines), flush=True)
    speeds = [
        rates(env, network, arguments.simulations, arguments.leaves, arguments.seconds)
        for network in arguments.networks
    ]
    alone = tz.MCTS(arguments.simulations, root=tz.PlainRoot(), temperature=0.0)
    for index, number in enumerate(arguments.leaves):
        in_time = round(arguments.simulations * speeds[-1][index] / speeds[-1][0] / number) * number
        scores = []
        for simulations in (arguments.simulations, in_time):
            together = tz.MCTS(simulations, root=tz.PlainRoot(), temperature=0.0, num_leaves=number)
            scores.append(score(env, [together, alone], arguments.num_games, arguments.max_moves))
        cells = [f"{speed[index]:,.0f}" for speed in speeds]
        lines.append(f"| {number} | {' | '.join(cells)} | {scores[0]} | {scores[1]} ({in_time}) |")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
