"""Does an Othello agent learn faster if it also predicts who holds each point in the end?

`python experiments/ownership.py --minutes 6 --seeds 3 --out runs/ownership` trains agents with and without this target,
each for the same time without compilation. Then agents of the same seed play each other. `--only` trains agents of one
kind and plays nothing, so that two kinds can be trained side by side, one on each core. Agents that are already in the
folder are not trained again.
"""

import argparse
import dataclasses
import pathlib
import platform
import sys

import equinox as eqx
import jax

import tz

RECIPE = tz.Recipe("othello", symmetry="dihedral", random_starts=10, q_scale=0.5)
KINDS = {"policy and value": 0.0, "ownership, weight 0.25": 0.25, "ownership, weight 1": 1.0}


def file_of(out: pathlib.Path, kind: str, seed: int) -> pathlib.Path:
    return out / f"{kind.replace(',', '').replace(' ', '-')}-{seed}.tz"


def train(kind: str, seeds: range, minutes: float, out: pathlib.Path) -> None:
    """Trains the agents of a kind that are missing in the folder, and writes them there."""
    missing = [seed for seed in seeds if not file_of(out, kind, seed).exists()]
    if not missing:
        return
    recipe = dataclasses.replace(RECIPE, ownership=KINDS[kind])
    config, env = recipe.build()
    tz.train_loop(config, env, recipe.start(config, env, seed=0), num_epochs=1, sinks=[], progress=False)  # compiles
    for seed in missing:
        rows, state = [], recipe.start(config, env, seed=seed)
        options = {"seconds": 60 * minutes, "sinks": [rows.append], "progress": False}
        state = tz.runs.train_for(recipe, config, env, state, **options)
        last = {name: x for name, x in rows[-1].items() if name.endswith("loss")}
        print(f"{kind}, seed {seed}: {int(state.epoch)} epochs, {last}", flush=True)
        tz.save_agent(file_of(out, kind, seed), env, state.train.playing, card={"epochs": int(state.epoch)})


def match(kind: str, rival: str, seed: int, num_games: int, num_simulations: int, out: pathlib.Path) -> str:
    """Returns the score of one kind against another, with its interval."""
    env = tz.from_pgx("othello")
    mcts = tz.without_exploration(tz.gumbel_mcts(num_simulations, 16))
    players = [tz.load_agent(file_of(out, name, seed), mcts=mcts) for name in (kind, rival)]
    options = {"num_games": num_games, "opening_moves": 6, "max_moves": 128, "mesh": tz.data_mesh()}
    result = eqx.filter_jit(tz.play_match)(env, *players, key=jax.random.key(seed), **options)
    low, high = result.interval()
    return f"{float(result.score):.2f} ({float(low):.2f} to {float(high):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=6, help="the length of the training of each agent")
    parser.add_argument("--seeds", type=int, default=3, help="the number of agents of each kind")
    parser.add_argument("--games", type=int, default=300, help="games of a match")
    parser.add_argument("--simulations", type=int, default=32, help="for a move of both players")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS)[:2])
    parser.add_argument("--only", choices=list(KINDS), help="train agents of this kind, and play nothing")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/ownership"))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = range(args.seeds)
    for kind in [args.only] if args.only else args.kinds:
        train(kind, seeds, args.minutes, args.out)
    if args.only:
        return
    rival, *others = args.kinds
    lines = [
        f"`python experiments/ownership.py {' '.join(sys.argv[1:])}`, {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, Python {platform.python_version()}",
        "",
        f"| agent | epochs | score against the agent with {rival} alone, one column a seed (95 % interval) |"
        + " |" * (args.seeds - 1),
        "|---|---:|" + "---|" * args.seeds,
    ]
    epochs = {
        kind: ", ".join(str(tz.runs.agent_card(file_of(args.out, kind, seed))["epochs"]) for seed in seeds)
        for kind in args.kinds
    }
    lines.append(f"| {rival} | {epochs[rival]} |" + " |" * args.seeds)
    for kind in others:
        cells = [match(kind, rival, seed, args.games, args.simulations, args.out) for seed in seeds]
        lines.append(f"| {kind} | {epochs[kind]} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    (args.out / "ownership.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
