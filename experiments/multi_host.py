"""Trains one agent on several processes, each of which has its own devices and plays a part of the games.

On a SLURM cluster, start one process for each node or GPU; JAX finds the other processes by itself:

    srun python experiments/multi_host.py

Elsewhere, run the same command on each machine, with the number of the process and the address of the first machine:

    python experiments/multi_host.py --coordinator 10.0.0.1:9876 --num-processes 2 --process-id 0

To try it on one machine without a GPU, add `--cpu-devices 4` and start both processes there. If a process dies, the
same command with `--resume` continues from the last checkpoint, also with another number of processes. All processes
must see the same folder `--out`.
"""

import argparse
import math
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax

import tz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinator", help="the address and port of process 0; not needed on SLURM")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--cpu-devices", type=int, help="the number of CPU devices of each process")
    parser.add_argument("--game", default="tic_tac_toe")
    parser.add_argument("--games", type=int, default=64, help="games in all, a multiple of the number of devices")
    parser.add_argument("--simulations", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--patience", type=int, default=30, help="seconds to wait for a process that is silent")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--out", type=Path, default=Path("runs/multi_host"))
    arguments = parser.parse_args()

    if arguments.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    if arguments.num_processes != 1:  # one process needs no others
        # When a process has been silent for that long, the others end instead of waiting for it.
        place = arguments.coordinator, arguments.num_processes, arguments.process_id
        jax.distributed.initialize(*place, heartbeat_timeout_seconds=arguments.patience)

    env = tz.from_pgx(arguments.game)
    network = tz.AZResNet(
        env.observation.shape, env.num_actions, num_blocks=1, num_channels=8, norm="none", key=jax.random.key(0)
    )
    config = tz.TrainConfig(
        mcts=tz.MCTS(num_simulations=arguments.simulations),
        optimizer=optax.adam(3e-3),
        replay=tz.EpisodeReplayBuffer(capacity=100),
        num_games=arguments.games,
        train_batch_size=4 * arguments.games,
        moves_per_epoch=10,
        train_steps_per_epoch=10,
        testers=(tz.OpponentTester(tz.random_player(), "random", num_games=arguments.games),),
    )
    state = tz.init_loop(config, env, network, key=jax.random.key(1))
    checkpoints = tz.Checkpoints(arguments.out, every_epochs=1, resume=arguments.resume)
    state = checkpoints.restore(state)
    sinks = [tz.console_sink]
    if jax.process_index() == 0:
        sinks.append(tz.JsonLinesSink(arguments.out / "metrics.jsonl", first_epoch=int(state.epoch)))
    left = arguments.epochs - int(state.epoch)
    state = tz.train_loop(config, env, state, num_epochs=left, sinks=sinks, checkpoints=checkpoints)
    if jax.process_index() == 0:
        tz.save_agent(arguments.out / "agent.tz", env, state.train.network)
        weights = jax.device_get(jax.tree.leaves(eqx.filter(state.train.network, eqx.is_array)))
        norm = math.sqrt(sum(float(np.sum(np.square(x))) for x in weights))
        print(f"{jax.device_count()} devices of {jax.process_count()} processes; norm of the weights {norm:.5f}")


if __name__ == "__main__":
    main()
