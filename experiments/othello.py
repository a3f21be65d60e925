"""How strong does an Othello agent become on a laptop? `python experiments/othello.py --minutes 60 --out runs/othello`.

Trains with a recipe for the time given and keeps the agent at several moments. Then lets each play a plain Monte Carlo
tree search of many rollouts, both sides of random openings, and writes a table and a plot of the scores. With
`--matches-only` it trains nothing, but takes the agents that `--out` has.
"""

import argparse
import dataclasses
import pathlib
import platform
import time

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

import tz
from tz.league import check_split

STARTED = time.perf_counter()
RECIPE = tz.Recipe("othello", symmetry="dihedral", random_starts=10)


def against_random(env: tz.Env, network: eqx.Module, key: PRNGKeyArray) -> tuple[PyTree, tz.StepMetadata]:
    """Positions of games against random moves, by the network's policy alone: where one side has few discs left.

    Self-play forgets that a player can be wiped out; whether this helps is in `results/othello_cpu.md`.
    """
    policy = tz.MCTS(1, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
    player = tz.Player(policy, tz.NetworkEvaluator(network, env.observe))
    match_key, key = jax.random.split(key)
    match = tz.match_on_mesh(env, player, tz.random_player(), num_games=256, key=match_key, max_steps=128)
    return tz.played_positions(env, match.opening, match.actions, num_positions=4096, key=key)


def train(
    recipe: tz.Recipe, minutes: float, num_agents: int, seed: int, other_starts: bool, out: pathlib.Path
) -> list[pathlib.Path]:
    """The files of the agents, from early to late; the time is that of the whole process."""
    env, config = recipe.build()
    state = recipe.start(env, config, seed=seed)
    seconds, paths = 60 * minutes - (time.perf_counter() - STARTED), []
    sinks = [tz.console_sink, tz.JsonLinesSink(out / "metrics.jsonl")]
    for index in range(num_agents):
        played = env
        if other_starts:
            key = jax.random.fold_in(jax.random.key(seed), index)
            played = tz.starts_from(env, against_random(config.test_env, state.train.playing, key))
        part = index / num_agents, (index + 1) / num_agents
        state = tz.train_for(recipe, played, config, state, seconds=seconds, part=part, sinks=sinks)
        paths.append(out / f"agent_{index + 1}.tz")
        card = {
            "recipe": dataclasses.asdict(recipe),
            "other_starts": other_starts,
            "seed": seed,
            "minutes": part[1] * minutes,
        }
        tz.save_agent(paths[-1], env, state.train.playing, card=card | {"epochs": int(state.epoch)})
    return paths


def play(path: pathlib.Path, num_simulations: int, num_rollouts: int, num_games: int) -> tz.MatchResult:
    """The agent against the rollouts."""
    env = tz.from_pgx("othello")
    agent = tz.load_agent(path, mcts=tz.without_exploration(tz.gumbel_mcts(num_simulations, persist_tree=False)))
    rollouts = tz.MCTS(num_rollouts, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
    rival = tz.Player(rollouts, tz.RolloutEvaluator(env, max_steps=128))
    return tz.match_on_mesh(env, agent, rival, num_games=num_games, key=jax.random.key(0), max_steps=128)


def num_wiped_out(match: tz.MatchResult) -> int:
    """In how many of the games that it lost the agent had no disc left."""
    env = tz.from_pgx("othello")
    boards = [np.asarray(tz.replay_game(env, match, game)._x.board[-1]) for game in np.flatnonzero(match.returns < 0)]
    return sum(len(set(board[board != 0])) == 1 for board in boards)


def plot(minutes: list[float], scores: list[tuple[float, float, float]], num_rollouts: int, path: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    middle, low, high = zip(*scores, strict=True)
    below, above = ([abs(a - b) for a, b in zip(middle, end, strict=True)] for end in (low, high))
    axes.errorbar(minutes, middle, yerr=(below, above), fmt="o-", capsize=3)
    axes.axhline(0.8, color="gray", linestyle="--", linewidth=1)
    axes.set(xlabel="minutes of training", ylabel=f"score against {num_rollouts} rollouts", ylim=(0, 1), xlim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--agents", type=int, default=6, help="how many points the curve has")
    parser.add_argument("--simulations", type=int, default=200, help="of the agent, a move")
    parser.add_argument("--rollouts", type=int, default=1000, help="of its rival, a move")
    parser.add_argument("--games", type=int, default=100, help="a match")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random-starts", type=int, default=RECIPE.random_starts, help="most random moves of a start")
    parser.add_argument("--other-starts", action="store_true", help="half of them in games against random moves")
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--matches-only", action="store_true", help="of the agents that --out has")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/othello"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    check_split(args.games, tz.data_mesh(), "--games")  # now, not after the training
    if args.matches_only:
        paths = sorted(args.out.glob("agent_*.tz"), key=lambda path: tz.agent_card(path)["minutes"])
        if not paths:
            parser.error(f"--matches-only: {args.out} has no agent_*.tz; train some first.")
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "metrics.jsonl").unlink(missing_ok=True)  # of an earlier run of this script
        recipe = dataclasses.replace(RECIPE, random_starts=args.random_starts)
        paths = train(recipe, args.minutes, args.agents, args.seed, args.other_starts, args.out)
    lines = [
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, "
        f"Python {platform.python_version()}; {args.simulations} simulations against {args.rollouts} rollouts, "
        f"{args.games} games",
        "",
        "| minutes | epochs | score | 95 % interval | lost | of these with no disc left |",
        "|---:|---:|---:|---|---:|---:|",
    ]
    minutes, scores = [], []
    for path in paths:
        card = tz.agent_card(path)
        minutes.append(card["minutes"])
        match = play(path, args.simulations, args.rollouts, args.games)
        scores.append((float(match.score), *map(float, match.interval())))
        middle, low, high = scores[-1]
        cells = [f"{minutes[-1]:.1f}", card["epochs"], f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        lines.append(f"| {' | '.join(map(str, [*cells, match.losses, num_wiped_out(match)]))} |")
        print(lines[-1], flush=True)
    (args.out / "scores.md").write_text("\n".join(lines) + "\n")
    plot(minutes, scores, args.rollouts, args.out / "scores.png")


if __name__ == "__main__":
    main()
