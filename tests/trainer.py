"""A training process that tests kill: `python trainer.py folder num_epochs`. It prints each phase when it begins."""

import dataclasses
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import tz
import tz.runs.loop


def config() -> tz.TrainConfig:
    """Returns settings of tic-tac-toe in small shapes with every feature: noise, testers, batch norm, an average."""
    return tz.TrainConfig(
        mcts=tz.MCTS(3, 6, root=tz.Dirichlet()),
        optimizer=optax.adam(1e-2),
        replay=tz.EpisodeReplayBuffer(12),
        num_games=4,
        train_batch_size=8,
        warmup_moves=4,
        moves_per_epoch=4,
        train_steps_per_epoch=2,
        testers=(tz.TwoPlayerTester(num_games=4, opening_moves=1, max_moves=9),),
        augment=tz.random_dihedral,
        average_decay=0.9,
    )


def start(env: tz.Env, config: tz.TrainConfig, mesh: jax.sharding.Mesh) -> tz.learn.LoopState:
    network = tz.MLP(env.observation.shape, env.num_actions, width=8, key=jax.random.key(0))
    return tz.init_loop(config, env, network, key=jax.random.key(1), mesh=mesh)


class Sum(eqx.Module):
    """A tester that plays no matches, which take long to compile, but has a state, a key and the newest weights."""

    def init(self, evaluator, *, mesh):
        return jnp.float32(0)

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        state = state + evaluator.network.policy_linear.bias.sum() + jax.random.uniform(key)
        return state, {"sum": float(state)}


def announce() -> None:
    """Makes each phase and each save print a line when it begins."""

    def announced(name, function):
        def call(*args, **kwargs):
            print(name, flush=True)
            return function(*args, **kwargs)

        return call

    for phase in ("collect_phase", "train_phase", "test_phase"):
        setattr(tz.runs.loop, phase, announced(phase, getattr(tz.runs.loop, phase)))
    tz.Checkpoints.save = announced("save", tz.Checkpoints.save)


def train(folder: str, num_epochs: int) -> None:
    """Begins a run in a folder, or continues it."""
    env, mesh = tz.from_pgx("tic_tac_toe"), tz.data_mesh(jax.devices()[:1])
    settings = dataclasses.replace(config(), testers=(Sum(),))
    checkpoints = tz.Checkpoints(folder, every_epochs=1, keep=2, resume=True)
    state = checkpoints.restore(start(env, settings, mesh))
    sinks = [tz.JsonLinesSink(f"{folder}/metrics.jsonl", first_epoch=int(state.epoch))]
    left = num_epochs - int(state.epoch)
    tz.train_loop(settings, env, state, num_epochs=left, sinks=sinks, mesh=mesh, checkpoints=checkpoints)


if __name__ == "__main__":
    announce()
    train(sys.argv[1], int(sys.argv[2]))
