"""The main job: AlphaZero learns Othello by self-play, in minutes on a laptop.

Leaves under `--out` the trained agent, the metrics of each epoch, a learning curve and one game against the greedy
player: `python experiments/hello_othello.py --out runs/hello`.
"""

import argparse
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import optax

import tz
from tz.plot import plot_learning, save_game


def greedy_player(env: tz.Env) -> tz.Player:
    """Takes the move that leaves it with the most discs: an evaluator is any function of a position."""

    def count_discs(state, metadata, key):
        after = jax.vmap(lambda action: env.step(state, action)[0])(jnp.arange(env.num_actions))
        lead = -jnp.sum(after._x.board, axis=-1)  # +1 for each disc of the next player to move, who is the opponent
        return 10.0 * lead, jnp.float32(0)

    one_look = tz.MCTS(num_simulations=1, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
    return tz.Player(one_look, count_discs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/hello"), help="folder for the results")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args, started = parse(), time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {platform.python_version()}", flush=True)

    env = tz.from_pgx("othello")
    network_key, loop_key, match_key = jax.random.split(jax.random.key(args.seed), 3)
    network = tz.AZResNet(env.observation.shape, env.num_actions, num_blocks=2, num_channels=32, key=network_key)
    testers = (
        tz.OpponentTester(tz.random_player(), "random", num_games=32),
        tz.OpponentTester(greedy_player(env), "greedy", num_games=32),
    )
    config = tz.TrainConfig(
        mcts=tz.MCTS(num_simulations=24, max_nodes=48, root=tz.Dirichlet(alpha=0.5)),
        test_mcts=tz.MCTS(num_simulations=24, max_nodes=48, root=tz.PlainRoot(), temperature=0.0),
        optimizer=optax.adam(2e-3),
        replay=tz.EpisodeReplayBuffer(capacity=300),
        num_games=64,
        train_batch_size=256,
        warmup_moves=60,
        moves_per_epoch=20,
        train_steps_per_epoch=50,
        augment=tz.random_dihedral,
        testers=testers,
        epochs_per_test=4,
    )
    state = tz.init_loop(config, env, network, key=loop_key)

    metrics = args.out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # of an earlier run of this script
    state = tz.train_loop(
        config, env, state, num_epochs=args.epochs, sinks=[tz.console_sink, tz.JsonLinesSink(metrics)]
    )
    tz.save_agent(args.out / "agent.tz", env, state.train.network)
    plot_learning(metrics).savefig(args.out / "learning.png", dpi=150)

    evaluator = tz.NetworkEvaluator(state.train.network, env.observe)
    for tester in testers:
        matches = [tester.match(config.test_mcts, env, evaluator, key=key) for key in jax.random.split(match_key, 3)]
        match = jax.tree.map(lambda *parts: jnp.concatenate(parts), *matches)
        low, high = match.interval()
        counts = f"{match.wins} wins, {match.draws} draws, {match.losses} losses"
        print(f"against {tester.name}: {counts}, score {match.score:.3f} ({low:.3f} to {high:.3f})", flush=True)
    save_game(tz.replay_game(env, match, 0), args.out / "game.svg")  # in game 0 the agent moves first
    print(f"{time.perf_counter() - started:.0f} s in all; the results are in {args.out}")


if __name__ == "__main__":
    main()
