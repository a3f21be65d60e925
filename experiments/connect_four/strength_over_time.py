"""Plots strength against minutes of training: `python experiments/connect_four/strength_over_time.py --epochs 160`.

Each line is the recipe with one setting changed: simulations a move, games at a time, or reused trees. Agents are saved
after an eighth, a quarter, a half and all of a training, and play the last agent of the whole recipe with the first
seed. The learning rate is constant, so that each moment of a training compares with the same moment of another.

The load of a machine changes, so lengths are epochs: `--epochs` of the whole recipe, and as many of a line as take
equally long, by the ratios that `study.py` measures in turns. The axis of minutes is the time of these epochs at the
speed that the recipe had in this run. Agents and matches that are already in `--out` are not made again.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import study

import tz

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from timing import heading

LINES = (
    "nothing",
    "8 simulations",
    "32 simulations",
    "64 simulations",
    "32 games at a time",
    "512 games at a time",
    "no reused trees",
)
MOMENTS = (0.125, 0.25, 0.5, 1.0)
SIMULATIONS = 32


def trained(name: str, num_epochs: int, seed: int, out: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of the agents of a training, one for each moment."""
    paths = [out / f"{study.slug(name)}-{seed}-{index}.tz" for index in range(len(MOMENTS))]
    if all(path.exists() for path in paths):
        if tz.runs.agent_card(paths[-1])["epochs"] != num_epochs:
            raise SystemExit(f"{paths[-1]} was trained for another length; choose another --out.")
        return paths
    variant = study.prepared(name)
    recipe = dataclasses.replace(variant.recipe, anneal=0.0)
    state, before = variant.idea.start(recipe, variant.env, seed=seed), 0.0
    for moment, path in zip(MOMENTS, paths, strict=True):
        options = {"num_epochs": num_epochs, "part": (before, moment), "sinks": [], "progress": False}
        state, before = tz.runs.train_for(recipe, variant.stages[0], variant.env, state, **options), moment
        card = {"epochs": int(state.epoch), "line": name}
        tz.save_agent(path, variant.env, state.train.playing, state.train.playing_norm_state, card=card)
    return paths


def score(path: pathlib.Path, rival: pathlib.Path, num_games: int) -> float:
    """Returns the score of an agent against the rival."""
    record = path.with_suffix(f".{num_games}.json")
    if not record.exists():
        env, mcts = tz.from_pgx("connect_four"), tz.without_exploration(tz.gumbel_mcts(SIMULATIONS, 7))
        players = [tz.load_agent(source, mcts=mcts) for source in (path, rival)]
        options = {"num_games": num_games, "opening_moves": 5, "max_moves": 42, "key": jax.random.key(0)}
        match = tz.play_match(env, *players, **options)
        record.write_text(json.dumps(float(match.score)))
    return json.loads(record.read_text())


def seconds_of_an_epoch(num_epochs: int = 6) -> float:
    """Returns the time of an epoch of the whole recipe, the median of some."""
    variant, seconds = study.prepared("nothing"), []
    state = variant.compiled()
    for _ in range(num_epochs):
        begun = time.perf_counter()
        options = {"num_epochs": 1, "sinks": [], "progress": False}
        state = tz.train_loop(variant.stages[0], variant.env, state, **options)
        jax.block_until_ready(state.train.network)
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def plot(curves: dict[str, np.ndarray], minutes: np.ndarray, path: pathlib.Path) -> None:
    """Draws a line for each setting: the mean of the seeds, with a band from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, scores in curves.items():
        label = "the whole recipe" if name == "nothing" else name
        (line,) = axes.plot(minutes, scores.mean(0), "o-", label=label, linewidth=2.5 if name == "nothing" else 1.2)
        axes.fill_between(minutes, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(minutes, [f"{x:.1f}" for x in minutes])
    axes.set(
        xlabel="minutes of training",
        ylabel=f"score against the whole recipe\nat its end, {SIMULATIONS} simulations each",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=160, help="the length of the training of the whole recipe")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each line")
    parser.add_argument("--games", type=int, default=400, help="games of a match")
    parser.add_argument("--only", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/strength_over_time"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seconds_file = args.out / "seconds.json"
    if not seconds_file.exists():
        seconds_file.write_text(json.dumps(seconds_of_an_epoch()))
    minutes = np.array(MOMENTS) * args.epochs * json.loads(seconds_file.read_text()) / 60
    lines = [
        f"{heading('tz', 'jax')} `python {shlex.join(sys.argv)}`",
        "",
        f"| changed | epochs | {' | '.join(f'{x:.1f} minutes' for x in minutes)} |",
        "|---|---:|" + "---|" * len(minutes),
    ]
    print(*lines, sep="\n", flush=True)
    curves, rival = {}, trained("nothing", args.epochs, 0, args.out)[-1]
    for name in args.only:
        cost = 1.0 if name == "nothing" else study.relative_cost(name, args.out)
        num_epochs = round(args.epochs / cost)
        paths = [trained(name, num_epochs, seed, args.out) for seed in range(args.seeds)]
        jax.clear_caches()
        curves[name] = np.array([[score(path, rival, args.games) for path in one] for one in paths])
        cells = [", ".join(f"{x:.2f}" for x in column) for column in curves[name].T]
        lines.append(f"| {name} | {num_epochs} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        plot(curves, minutes, args.out / "strength_over_time.png")
    (args.out / "strength_over_time.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
