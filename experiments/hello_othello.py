"""The main job: AlphaZero learns Othello by self-play, in minutes on a laptop.

Leaves under `--out` the trained agent, the metrics of each epoch, a learning curve and one game against the greedy
player: `python experiments/hello_othello.py --out runs/hello`.
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import tz
from tz.plot import plot_learning, save_game

SEARCH = tz.MCTS(num_simulations=32, max_nodes=64, root=tz.Dirichlet(alpha=0.5))


def greedy(state, metadata, key):
    """Prefers positions in which it has more discs: an evaluator is any function of a state."""
    discs = jnp.sum(state._x.board)  # +1 for each disc of the player to move, -1 for each of the opponent's
    return jnp.zeros(metadata.action_mask.shape), discs / 64


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/hello"), help="folder for the results")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse()
    started = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    env = tz.from_pgx("othello")
    network_key, loop_key, match_key = jax.random.split(jax.random.key(args.seed), 3)
    network = tz.AZResNet(env.observation.shape, env.num_actions, num_blocks=2, num_channels=32, key=network_key)
    config = tz.TrainConfig(
        mcts=SEARCH,
        optimizer=optax.adam(2e-3),
        replay=tz.EpisodeReplayBuffer(capacity=256),
        batch_size=64,
        train_batch_size=256,
        collection_steps_per_epoch=30,
        train_steps_per_epoch=30,
        warmup_steps=60,
        augment=tz.random_dihedral,
    )
    state = tz.init_loop(config, env, network, key=loop_key)

    metrics = args.out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # of an earlier run of this script
    state = tz.train_loop(config, env, state, num_epochs=args.epochs, sinks=[tz.console_sink, tz.JsonLinesSink(metrics)])
    tz.save_agent(args.out / "agent.eqx", state.train.network)
    print("trained", time.perf_counter() - started)


if __name__ == "__main__":
    main()
