"""Trains a Connect Four agent from scratch: `python experiments/connect_four/train.py --budget-minutes 20`.

The budget is that of the whole process, with compilation. Leaves the agent and the metrics of each epoch in `--out`.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import tz

STARTED = time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the agent learns; `study.py` says what the parts of it are worth."""

    num_blocks: int = 3
    num_channels: int = 32
    norm: str = "none"
    head_channels: int = 16
    num_simulations: int = 16
    fast_simulations: int | None = None
    batch_size: int = 128
    moves_per_epoch: int = 16
    train_batch_size: int = 512
    train_steps_per_epoch: int = 12
    capacity: int = 500
    window: float | None = 0.5
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    l2: float = 1e-4
    td_lambda: float = 0.8
    search_value_share: float = 0.0
    average_decay: float | None = None
    random_starts: int = 20
    cold_after: int | None = None
    mirror: bool = True
    anneal: bool = True


def make(recipe: Recipe) -> tuple[tz.Env, tz.TrainConfig]:
    """The game and the settings."""
    env = tz.from_pgx("connect_four")
    adam = optax.inject_hyperparams(optax.adamw)(recipe.learning_rate, weight_decay=recipe.weight_decay)
    cold = recipe.cold_after
    temperature = optax.piecewise_constant_schedule(1.0, {cold: 0.25}) if cold else 1.0
    options = {"max_nodes": 2 * recipe.num_simulations, "temperature": temperature}
    mcts = tz.gumbel_mcts(recipe.num_simulations, env.num_actions, **options)
    fast = recipe.fast_simulations
    config = tz.TrainConfig(
        mcts=mcts,
        fast_mcts=dataclasses.replace(mcts, num_simulations=fast, root=mcts.root.quiet()) if fast else None,
        optimizer=optax.named_chain(("clip", optax.clip_by_global_norm(1.0)), ("adam", adam)),
        replay=tz.EpisodeReplayBuffer(recipe.capacity, recipe.td_lambda, recipe.search_value_share),
        batch_size=recipe.batch_size,
        train_batch_size=recipe.train_batch_size,
        warmup_steps=3 * recipe.moves_per_epoch,
        collection_steps_per_epoch=recipe.moves_per_epoch,
        train_steps_per_epoch=recipe.train_steps_per_epoch,
        loss=functools.partial(tz.az_loss, l2_reg_lambda=recipe.l2),
        augment=tz.random_mirror if recipe.mirror else None,
        replay_window=None if recipe.window is None else lambda moves: max(100, int(recipe.window * moves)),
        average_decay=recipe.average_decay,
    )
    return tz.random_starts(env, recipe.random_starts) if recipe.random_starts else env, config


def start(recipe: Recipe, env: tz.Env, config: tz.TrainConfig, seed: int) -> tz.LoopState:
    """A new network and new games."""
    network_key, loop_key = jax.random.split(jax.random.key(seed))
    network, norm_state = eqx.nn.make_with_state(tz.AZResNet)(
        env.observation.shape,
        env.num_actions,
        recipe.num_blocks,
        recipe.num_channels,
        recipe.norm,
        num_policy_channels=recipe.head_channels,
        num_value_channels=recipe.head_channels,
        key=network_key,
    )
    return tz.init_loop(config, env, network, norm_state if recipe.norm == "batch" else None, key=loop_key)


def set_learning_rate(state: tz.LoopState, rate: float) -> tz.LoopState:
    where = lambda state: state.train.opt_state["adam"].hyperparams["learning_rate"]
    return eqx.tree_at(where, state, jax.device_put(jnp.float32(rate), where(state).sharding))


def train(
    recipe: Recipe, env: tz.Env, config: tz.TrainConfig, seed: int, seconds: float, sinks: Sequence[tz.Sink] = ()
) -> tz.LoopState:
    """Trains until the time is up, with a learning rate that falls to nothing by then, as half a cosine wave."""
    started, longest = time.perf_counter(), 0.0
    state = start(recipe, env, config, seed)
    while (spent := time.perf_counter() - started) + longest < seconds:
        share = 0.505 + 0.495 * math.cos(math.pi * spent / seconds) if recipe.anneal else 1.0
        state = set_learning_rate(state, share * recipe.learning_rate)
        state = tz.train_loop(config, env, state, num_epochs=1, sinks=sinks, progress=False)
        if int(state.epoch) > 1:  # the first is compiled
            longest = max(longest, time.perf_counter() - started - spent)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/connect_four"))
    args = parser.parse_args()
    use_all_cores()
    args.out.mkdir(parents=True, exist_ok=True)
    metrics = args.out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)  # of an earlier run of this script
    seconds = 60 * args.budget_minutes - (time.perf_counter() - STARTED) - 1  # for the imports and the last file
    card = {
        "script": "experiments/connect_four/train.py",
        "seed": args.seed,
        "recipe": dataclasses.asdict(Recipe()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"tz": version("tz"), "jax": jax.__version__, "python": platform.python_version()},
    }
    env, config = make(Recipe())
    state = train(Recipe(), env, config, args.seed, seconds, [tz.console_sink, tz.JsonLinesSink(metrics)])
    card |= {"epochs": int(state.epoch), "minutes": round((time.perf_counter() - STARTED) / 60, 1)}
    tz.save_agent(args.out / "agent.tz", env, state.train.playing, state.train.norm_state, card=card)
    print(f"{time.perf_counter() - STARTED:.0f} s in all; the agent is {args.out / 'agent.tz'}")


def use_all_cores() -> None:
    """On a CPU, a device for every two cores or fewer uses them better than one for all; nothing changes on a GPU."""
    jax.config.update("jax_num_cpu_devices", 2)


if __name__ == "__main__":
    main()
