"""Measures how much variance a match saves by the same dice in both games of an opening.

    python experiments/equal_dice.py --out experiments/results/equal_dice.md

The game is backgammon, with players that only count pips. A match of tz plays each opening twice, with the sides
swapped and the same dice. This script plays such a match, and then the same openings once more with other dice. So each
game can also be paired with a game of the same opening that has the sides swapped and other dice. If the results of a
pair have the correlation `r`, the variance of their mean is `1 + r` times the variance for independent games.

The matches begin in the usual first position, or in one where both sides have passed each other and only race home.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dice_agents import by_pips
from timing import heading

import tz

KINDS = {"won or lost": np.sign, "points": np.asarray}


def pips(num_simulations: int) -> tz.Player:
    return tz.Player(tz.MCTS(num_simulations, root=tz.PlainRoot(), temperature=0.0), by_pips)


def races(env: tz.Env, num: int, key: jax.Array) -> Any:
    """Returns openings in which both sides have the same way home, each after a random roll."""
    board = np.zeros(28, np.int32)
    board[[12, 14, 16, 18, 20, 22]] = 2, 2, 3, 3, 3, 2
    board[:24] -= board[23::-1]

    def opening(key):
        init_key, roll_key = jax.random.split(key)
        state = env.init(init_key)[0].replace(_board=jnp.asarray(board))
        return env.outcome(state, jax.random.randint(roll_key, (), 0, env.num_outcomes), roll_key)

    return jax.jit(jax.vmap(opening))(jax.random.split(key, num))


def correlation(pairs: np.ndarray) -> tuple[float, float, float]:
    """Returns the correlation of the two columns, and its 95 % interval by Fisher's transform."""
    found = float(np.corrcoef(pairs.T)[0, 1])
    margin = statistics.NormalDist().inv_cdf(0.975) / (len(pairs) - 3) ** 0.5
    low, high = np.tanh(np.arctanh(found) + np.array([-margin, margin]))
    return found, float(low), float(high)


def rows(name: str, env: tz.Env, players: tuple[tz.Player, tz.Player], openings: Any, max_moves: int) -> list[str]:
    """Plays the openings with two series of dice; returns a row of the table for each kind of result."""
    num_games = 2 * len(openings[1].terminated)
    matches = [
        tz.play_match(
            env, *players, num_games=num_games, openings=openings, max_moves=max_moves, key=jax.random.key(seed)
        )
        for seed in (1, 2)
    ]
    returns = np.stack([np.asarray(match.returns).reshape(-1, 2) for match in matches])  # [dice, opening, side]
    is_over = np.stack([np.asarray(match.finished).reshape(-1, 2) for match in matches]).all((0, 2))
    lines = []
    for kind, result in KINDS.items():
        one, two = result(returns[:, is_over])
        equal = np.concatenate([one, two])
        others = np.concatenate([np.stack([one[:, 0], two[:, 1]], 1), np.stack([two[:, 0], one[:, 1]], 1)])
        cells = [
            f"{r:+.2f} ({low:+.2f} to {high:+.2f}) | {1 + r:.2f}" for r, low, high in map(correlation, (equal, others))
        ]
        lines.append(f"| {name} | {kind} | {equal.size} | {equal.mean():+.2f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num-openings", type=int, default=96, help="openings of whole games; races have four times as many"
    )
    parser.add_argument("--num-simulations", type=int, default=4)
    parser.add_argument("--max-moves", type=int, default=800, help="openings with longer games are left out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    env, player, num = tz.from_pgx("backgammon"), pips(args.num_simulations), args.num_openings
    starts = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(3), num))
    race = races(env, 4 * num, jax.random.key(4))
    lines = [
        "# What equal dice save in a match",
        "",
        f"{heading('tz', 'jax', 'pgx')} `python experiments/equal_dice.py`. Backgammon; `pips` is a search of "
        f"{args.num_simulations} simulations that counts nothing but pips. The correlation between the two games of an "
        "opening (95 %), and the variance of their mean relative to independent games.",
        "",
        "| match | result | games | mean | correlation, equal dice | variance | correlation, other dice | variance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += rows("race, pips and pips", env, (player, player), race, args.max_moves)
    lines += rows("race, pips and random", env, (player, tz.random_player()), race, args.max_moves)
    lines += rows("whole games, pips and pips", env, (player, player), starts, args.max_moves)
    lines += rows("whole games, pips and random", env, (player, tz.random_player()), starts, args.max_moves)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
