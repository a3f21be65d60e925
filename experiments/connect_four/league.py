"""Rates agents in a league: `python experiments/connect_four/league.py random rollouts:100 runs/c4/agent.tz`.

A player is a file that `tz.save_agent` wrote, a name that `tz.load_agent` knows, `random`, or `rollouts:N`, a plain
search with N rollouts a move. All pairs play the same openings, each from both sides. The ratings are Elo with the
first player at 0. So with the same first player, the ratings of different leagues are on one scale.
"""

import argparse
import pathlib
import platform
import shlex
import sys

import jax

import tz


def player(name: str, num_simulations: int) -> tz.Player:
    kind, _, number = name.partition(":")
    if kind == "random":
        return tz.random_player()
    if kind == "rollouts":
        search = tz.MCTS(int(number), root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
        return tz.Player(search, tz.RolloutEvaluator(tz.from_pgx("connect_four"), max_moves=42))
    return tz.load_agent(name, mcts=tz.without_exploration(tz.gumbel_mcts(num_simulations, 7)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("players", nargs="+", help="files or names of agents, random, rollouts:N")
    parser.add_argument("--games", type=int, default=200, help="games of each pair")
    parser.add_argument("--simulations", type=int, default=32, help="for a move of an agent")
    parser.add_argument("--opening-moves", type=int, default=5, help="random moves at the start of a game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--out", type=pathlib.Path, help="write the table to this file")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    env, key = tz.from_pgx("connect_four"), jax.random.key(args.seed)
    players = [player(name, args.simulations) for name in args.players]
    options = {"num_games": args.games, "opening_moves": args.opening_moves, "max_moves": 42}
    league = tz.round_robin(env, players, key=key, mesh=tz.data_mesh(), **options)
    ratings = league.ratings()
    lines = [
        f"`python {shlex.join(sys.argv)}`, {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"JAX {jax.__version__}, Python {platform.python_version()}",
        "",
        f"| player | Elo (95 % interval) | {' | '.join(f'against {n + 1}' for n in range(len(players)))} |",
        "|---|---|" + "---:|" * len(players),
    ]
    scores = (league.wins + league.draws / 2) / args.games
    for i, name in enumerate(args.players):
        elo = f"{ratings.elo[i]:.0f} ({ratings.low[i]:.0f} to {ratings.high[i]:.0f})" if i else "0"
        cells = ["" if i == j else f"{x:.2f}" for j, x in enumerate(scores[i])]
        lines.append(f"| {i + 1}. {name} | {elo} | {' | '.join(cells)} |")
    print(*lines, sep="\n")
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
