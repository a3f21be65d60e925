"""Measures the strength of an Othello agent: `python experiments/othello.py --minutes 60 --out runs/othello`.

It trains with a recipe for the given time and keeps the agent at several moments. A fraction of its self-play begins in
positions of games that it lost, see `--starts`. Then each agent plays a plain Monte Carlo tree search of many rollouts,
both sides of random openings, and a table and a plot of the scores are written. With `--matches-only` it trains nothing
and takes the agents in `--out`. With `--against` they play a given agent instead of the rollouts.
"""

import argparse
import dataclasses
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

import tz

STARTED = time.perf_counter()
# The older results had `--optimizer adamw --learning-rate 0.003 --ownership 0`.
RECIPE = tz.runs.game_recipe("othello")
GAMES = {"num_games": 256, "max_moves": 128}
NUM_DRAWN = 2  # how often new starts are drawn for each point of the curve


def against_random(env: tz.Env, player: tz.Player, key: PRNGKeyArray) -> tuple[PyTree, tz.StepMetadata]:
    """Returns positions of games of the policy alone against random moves, where one side has few discs left."""
    policy = dataclasses.replace(player, mcts=tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0, persist_tree=False))
    match_key, key = jax.random.split(key)
    match = tz.play_match(env, policy, tz.random_player(), key=match_key, mesh=tz.data_mesh(), **GAMES)
    return tz.games.played_positions(env, match.opening, match.actions, num_positions=4096, key=key)


def from_lost_games(env: tz.Env, player: tz.Player, key: PRNGKeyArray) -> tuple[PyTree, tz.StepMetadata] | None:
    """Returns positions of the games that it loses to a search of few rollouts, or None if it loses none."""
    match_key, game_key, key = jax.random.split(key, 3)
    match = tz.play_match(env, player, rollouts(env, 32), key=match_key, mesh=tz.data_mesh(), **GAMES)
    lengths = jnp.sum(match.actions >= 0, axis=1)
    # `played_positions` favours long games, so games are drawn in inverse proportion to their length.
    weights = jnp.where((match.returns < 0) & (lengths > 0), 1 / jnp.maximum(lengths, 1), 0.0)
    print(f"{jnp.sum(match.returns < 0)} of 256 games lost to 32 rollouts", flush=True)
    if not jnp.any(weights > 0):
        return None
    games = jax.random.choice(game_key, 256, (256,), p=weights / jnp.sum(weights))
    openings, actions = jax.tree.map(lambda x: x[games], (match.opening, match.actions))
    return tz.games.played_positions(env, openings, actions, num_positions=4096, key=key)


STARTS = {"own": None, "random": against_random, "lost": from_lost_games}


def train(
    recipe: tz.Recipe, minutes: float, num_agents: int, seed: int, starts: str, share: float, out: pathlib.Path
) -> list[pathlib.Path]:
    """Trains agents and returns their files, from early to late. `minutes` is the time of the whole process."""
    config, env = recipe.build()
    state = recipe.start(config, env, seed=seed)
    seconds, paths = 60 * minutes - (time.perf_counter() - STARTED), []
    sinks, find_starts = [tz.console_sink, tz.JsonLinesSink(out / "metrics.jsonl")], STARTS[starts]
    search = dataclasses.replace(tz.without_exploration(config.mcts), persist_tree=False)
    for index in range(NUM_DRAWN * num_agents):
        begun, played, part = time.perf_counter(), env, np.array([index, index + 1]) / (NUM_DRAWN * num_agents)
        if find_starts is not None:
            player = tz.Player(search, tz.NetworkEvaluator(state.train.playing, env.observe))
            found = find_starts(config.test_env, player, jax.random.fold_in(jax.random.key(seed), index))
            played = env if found is None else tz.games.starts_from(env, found, share)
        part[0] += (time.perf_counter() - begun) / seconds
        state = tz.runs.train_for(recipe, config, played, state, seconds=seconds, part=tuple(part), sinks=sinks)
        if (index + 1) % NUM_DRAWN:
            continue
        paths.append(out / f"agent_{len(paths) + 1}.tz")
        card = {"recipe": dataclasses.asdict(recipe), "starts": starts, "share": share, "seed": seed}
        card |= {"minutes": part[1] * minutes, "epochs": int(state.epoch)}
        tz.save_agent(paths[-1], env, state.train.playing, card=card)
    return paths


def agent(path: pathlib.Path, num_simulations: int) -> tz.Player:
    """Returns the agent of a file with the search of its training, except for the number of simulations."""
    recipe = tz.Recipe(**tz.runs.agent_card(path)["recipe"] | {"num_simulations": num_simulations})
    search = dataclasses.replace(tz.without_exploration(recipe.build()[0].mcts), persist_tree=False, max_nodes=None)
    return tz.load_agent(path, mcts=search)


def rollouts(env: tz.Env, num_rollouts: int) -> tz.Player:
    """Returns a plain search with one rollout for each simulation."""
    search = tz.MCTS(num_rollouts, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
    return tz.Player(search, tz.RolloutEvaluator(env, max_moves=128))


def num_wiped_out(match: tz.matches.MatchResult) -> int:
    """Returns the number of lost games in which the agent had no disc left."""
    env = tz.from_pgx("othello")
    boards = [np.asarray(tz.replay_game(env, match, game)._x.board[-1]) for game in np.flatnonzero(match.returns < 0)]
    return sum(len(set(board[board != 0])) == 1 for board in boards)


def plot(minutes: list[float], scores: list[tuple[float, float, float]], rival: str, path: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    middle, low, high = zip(*scores, strict=True)
    below, above = ([abs(a - b) for a, b in zip(middle, end, strict=True)] for end in (low, high))
    axes.errorbar(minutes, middle, yerr=(below, above), fmt="o-", capsize=3)
    axes.axhline(0.8, color="gray", linestyle="--", linewidth=1)
    axes.set(xlabel="minutes of training", ylabel=f"score against {rival}", ylim=(0, 1.03), xlim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="the length of the training")
    parser.add_argument("--agents", type=int, default=6, help="the number of points of the curve")
    parser.add_argument("--simulations", type=int, default=200, help="for a move of the agent")
    parser.add_argument("--rollouts", type=int, default=1000, help="for a move of the rival")
    parser.add_argument("--games", type=int, default=100, help="games of a match")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match-seed", type=int, default=0, help="seed of the matches")
    parser.add_argument(
        "--random-starts", type=int, default=RECIPE.random_starts, help="at most so many random moves at the start"
    )
    parser.add_argument("--starts", choices=STARTS, default="lost", help="origin of other first positions")
    parser.add_argument("--share", type=float, default=0.25, help="the fraction of self-play that begins in --starts")
    parser.add_argument(
        "--q-scale", type=float, default=RECIPE.q_scale, help="see tz.Recipe; 0 for tz.mcts.CompletedQ()"
    )
    parser.add_argument(
        "--ownership", type=float, default=RECIPE.ownership, help="the weight of the final board as a target"
    )
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default=RECIPE.optimizer)
    parser.add_argument("--learning-rate", type=float, default=RECIPE.learning_rate, help="with AdamW, about 0.003")
    parser.add_argument("--devices", type=int, default=2, help="two use the cores of a CPU better than one")
    parser.add_argument("--matches-only", action="store_true", help="train nothing, and match the agents in --out")
    parser.add_argument(
        "--against", type=pathlib.Path, help="the file of an agent as the rival, with the same number of simulations"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/othello"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    tz.matches.check_split("--games", args.games, tz.data_mesh())  # now, not after the training
    if not 0 <= args.share <= 1:
        parser.error(f"found --share {args.share}, expected a number from 0 to 1.")
    env = tz.from_pgx("othello")
    rival, rival_name, stem = rollouts(env, args.rollouts), f"{args.rollouts} rollouts", "scores"
    if args.against is not None:
        rival, rival_name = agent(args.against, args.simulations), str(args.against)
        stem = f"scores_against_{args.against.parent.name}_{args.against.stem}"
    if args.matches_only:
        paths = sorted(args.out.glob("agent_*.tz"), key=lambda path: tz.runs.agent_card(path)["minutes"])
        if not paths:
            parser.error(f"--matches-only: found no agent_*.tz in {args.out}, expected at least one; train some first.")
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "metrics.jsonl").unlink(missing_ok=True)  # left by an earlier run of this script
        names = ("random_starts", "ownership", "optimizer", "learning_rate")
        changes = {name: getattr(args, name) for name in names} | {"q_scale": args.q_scale or None}
        recipe = dataclasses.replace(RECIPE, **changes)
        paths = train(recipe, args.minutes, args.agents, args.seed, args.starts, args.share, args.out)
    lines = [
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, "
        f"Python {platform.python_version()}; {args.simulations} simulations against {rival_name}, "
        f"{args.games} games",
        "",
        "| minutes | epochs | score | 95 % interval | lost | lost with no disc left |",
        "|---:|---:|---:|---|---:|---:|",
    ]
    minutes, scores = [], []
    for path in paths:
        card = tz.runs.agent_card(path)
        minutes.append(card["minutes"])
        players, key = (agent(path, args.simulations), rival), jax.random.key(args.match_seed)
        match = tz.play_match(env, *players, num_games=args.games, key=key, max_moves=128, mesh=tz.data_mesh())
        scores.append((float(match.score), *map(float, match.interval())))
        middle, low, high = scores[-1]
        cells = [f"{minutes[-1]:.1f}", card["epochs"], f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        lines.append(f"| {' | '.join(map(str, [*cells, match.losses, num_wiped_out(match)]))} |")
        print(lines[-1], flush=True)
    (args.out / f"{stem}.md").write_text("\n".join(lines) + "\n")
    plot(minutes, scores, rival_name, args.out / f"{stem}.png")


if __name__ == "__main__":
    main()
