"""Compares the norms of `tz.AZResNet`: Connect Four agents are trained for the same number of epochs, then matched.

    python experiments/normalisation.py --epochs 20 --seeds 2 --out experiments/results/normalisation_cpu.md

The cost of an epoch has a column of its own; it is the time of the fastest epoch, since the machine may be shared. For
each pair of norms, the agents of every pair of seeds play each other.
"""

import argparse
import itertools
import math
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
from timing import heading

import tz

ENV = tz.from_pgx("connect_four")
CONFIG = tz.TrainConfig(
    mcts=tz.MCTS(num_simulations=24, max_nodes=48, root=tz.Dirichlet(alpha=1.0)),
    optimizer=optax.adam(2e-3),
    replay=tz.EpisodeReplayBuffer(capacity=300),
    num_games=64,
    train_batch_size=256,
    moves_per_epoch=20,
    train_steps_per_epoch=20,
    warmup_moves=40,
    augment=tz.random_mirror,
)
MATCH = tz.MCTS(num_simulations=32, root=tz.PlainRoot(), temperature=0.0)


def train(norm: str, seed: int, num_epochs: int) -> tuple[tz.learn.LoopState, list[dict]]:
    shape, keys = ENV.observation.shape, jax.random.split(jax.random.key(seed))
    network, norm_state = eqx.nn.make_with_state(tz.AZResNet)(shape, ENV.num_actions, norm=norm, key=keys[0])
    state = tz.init_loop(CONFIG, ENV, network, norm_state if norm == "batch" else None, key=keys[1])
    rows = []
    return tz.train_loop(CONFIG, ENV, state, num_epochs=num_epochs, sinks=[rows.append], progress=False), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norms", nargs="+", default=["none", "layer", "batch"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--games", type=int, default=50, help="games of each pair of agents")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    lines = [
        "# Normalisation of AZResNet",
        "",
        f"{heading('jax', 'equinox', 'pgx')} Connect Four, 2 blocks of 32 channels, {arguments.epochs} epochs an "
        f"agent, {arguments.seeds} seeds a norm; then {arguments.games} games a pair of agents at "
        "32 simulations, openings of 4 random moves, both sides. The interval is 1.96 standard errors over games and "
        "leaves out the differences between agents of the same norm.",
        "",
        "| norm | seed | seconds of the fastest epoch | policy loss | value loss |",
        "|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    agents = {}
    for seed, norm in itertools.product(range(arguments.seeds), arguments.norms):
        state, rows = train(norm, seed, arguments.epochs)
        agents[norm, seed] = tz.NetworkEvaluator(state.train.network, ENV.observe, state.train.norm_state)
        last = {name: np.mean([row[name] for row in rows[-5:]]) for name in ("policy_loss", "value_loss")}
        seconds = min(row["seconds"] for row in rows)
        cells = [norm, seed, f"{seconds:.2f}", f"{last['policy_loss']:.3f}", f"{last['value_loss']:.3f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    lines += ["", "| pair | score of the first | games |", "|---|---:|---:|"]
    match = eqx.filter_jit(tz.play_match)
    for first, second in itertools.combinations(arguments.norms, 2):
        results = []
        for seeds in itertools.product(range(arguments.seeds), repeat=2):
            players = (tz.Player(MATCH, agents[norm, seed]) for norm, seed in zip((first, second), seeds, strict=True))
            key = jax.random.key(arguments.seeds * seeds[0] + seeds[1])
            results.append(match(ENV, *players, num_games=arguments.games, max_moves=42, key=key).returns)
        scores = (np.concatenate(results) + 1) / 2
        error = 1.96 * scores.std() / math.sqrt(scores.size)
        lines.append(f"| {first} against {second} | {scores.mean():.3f} ± {error:.3f} | {scores.size} |")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
