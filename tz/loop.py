"""The training loop: every epoch collects by self-play, trains on samples, and tests; each a function to call alone."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree
from tqdm import tqdm

from tz.env import Env
from tz.evaluators import NetworkEvaluator
from tz.logging import Sink, console_sink
from tz.mcts import MCTS, without_exploration
from tz.replay import EpisodeReplayBuffer, ReplayState, Sample, Trajectory
from tz.selfplay import CollectState, collect, init_collect
from tz.train import Loss, Metrics, TrainState, az_loss, init_train, train_step


class TrainConfig(eqx.Module):
    """The settings of [`tz.train_loop`][].

    **Fields:**

    - `mcts`: the search of self-play.
    - `optimizer`: any optax optimiser.
    - `replay`: the buffer; its `capacity` is positions a game, `batch_size * capacity` in all.
    - `batch_size`: games played at once.
    - `train_batch_size`: samples a gradient step.
    - `collection_steps_per_epoch`, `train_steps_per_epoch`: moves a game and gradient steps an epoch.
    - `warmup_steps`: moves a game before the first epoch, to fill the buffer.
    - `max_episode_steps`: a longer episode is truncated and its value bootstrapped; None lets every game end.
    - `loss`: of one sample, such as [`tz.az_loss`][].
    - `augment`: `(sample, *, key) -> sample`, applied as samples are drawn, or None.
    - `testers`: such as [`tz.TwoPlayerTester`][]; `epochs_per_test`: how often they play.
    - `test_mcts`: the agent's search in tests; by default `mcts` without noise and at temperature 0.
    - `search_dtype`: what the network is cast to for self-play and tests, such as `jnp.bfloat16`; None leaves it.

    **Raises:** `ValueError` if a number is out of its range or two do not fit together.
    """

    mcts: MCTS
    optimizer: optax.GradientTransformation
    replay: EpisodeReplayBuffer
    batch_size: int = eqx.field(static=True)
    train_batch_size: int = eqx.field(static=True)
    collection_steps_per_epoch: int = eqx.field(static=True)
    train_steps_per_epoch: int = eqx.field(static=True)
    warmup_steps: int = eqx.field(static=True, default=0)
    max_episode_steps: int | None = eqx.field(static=True, default=None)
    loss: Loss = az_loss
    augment: Callable[..., Sample] | None = None
    testers: Sequence[Any] = ()
    epochs_per_test: int = eqx.field(static=True, default=1)
    test_mcts: MCTS | None = None
    search_dtype: Any = eqx.field(static=True, default=None)

    def __check_init__(self):
        per_epoch = ("collection_steps_per_epoch", "train_steps_per_epoch", "epochs_per_test")
        for name in ("batch_size", "train_batch_size", *per_epoch):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: {name} must be at least 1, found {getattr(self, name)}.")
        if self.warmup_steps < 0:
            raise ValueError(f"TrainConfig: warmup_steps must be 0 or more, found {self.warmup_steps}.")
        longest = max(self.collection_steps_per_epoch, self.max_episode_steps or 0)
        if self.replay.capacity < longest:
            raise ValueError(
                f"TrainConfig: replay.capacity={self.replay.capacity} is less than an episode or a collection needs "
                f"({longest} moves a game, the larger of collection_steps_per_epoch and max_episode_steps). Positions "
                "would be overwritten before their outcome is known; raise the capacity."
            )
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"TrainConfig: max_episode_steps must be at least 1, found {self.max_episode_steps}.")


class LoopState(eqx.Module):
    """Everything that training carries from epoch to epoch.

    **Fields:** `train`; `games`, in progress, `[B, ...]`; `replay`, `[B, capacity, ...]`; `testers`, the state of each;
    `epoch`, the number of epochs done; `key`.
    """

    train: TrainState
    games: CollectState
    replay: ReplayState
    testers: tuple[PyTree, ...]
    epoch: Int[Array, ""]
    key: PRNGKeyArray


def init_loop(
    config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None = None, *, key: PRNGKeyArray
) -> LoopState:
    """The state before the first epoch: new games, an empty buffer, the network as it comes.

    **Arguments:** `network`, any module `obs -> (logits, value)`; `norm_state`, for the stateful form, both as
    [`tz.init_train`][] takes them.

    **Raises:** `ValueError`, before anything is compiled, if game and network do not fit together.
    """
    _check_network(env, network, norm_state)
    network, norm_state = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, (network, norm_state))
    train = init_train(config.optimizer, network, norm_state)
    games_key, key = jax.random.split(key)
    game_keys = jax.vmap(jax.random.fold_in, (None, 0))(games_key, jnp.arange(config.batch_size))
    games = _start_games(config, env, game_keys)
    example = eqx.filter_eval_shape(_collect, (config, env, _evaluator(config, env, train), 1), games)[1][0]
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), example)
    replay = jax.tree.map(lambda x: jnp.zeros((config.batch_size, *x.shape), x.dtype), config.replay.init(example))
    testers = tuple(tester.init(_evaluator(config, env, train)) for tester in config.testers)
    return LoopState(train, games, replay, testers, jnp.int32(0), key)


def train_loop(
    config: TrainConfig,
    env: Env,
    state: LoopState,
    *,
    num_epochs: int,
    sinks: Sequence[Sink] = (console_sink,),
    progress: bool = True,
) -> LoopState:
    """Trains for `num_epochs` more epochs: in each, collects, trains and tests, always with the newest weights.

    **Arguments:** `state`, from [`tz.init_loop`][] or an earlier call, which goes on where that one stopped. Its arrays
    are donated: use the state that is returned from then on. `sinks`, called with the metrics of each epoch;
    `progress`, whether a terminal shows a bar.

    **Returns:** the state after the last epoch.

    **Raises:** `FloatingPointError` as soon as the network's outputs or the loss are not finite, saying where.
    """
    test_mcts = without_exploration(config.mcts) if config.test_mcts is None else config.test_mcts
    with tqdm(total=num_epochs, unit="epoch", disable=None if progress else True) as bar:
        if int(state.epoch) == 0 and config.warmup_steps > 0:
            bar.set_description("warm-up")
            for done in range(0, config.warmup_steps, config.collection_steps_per_epoch):  # in chunks compiled anyway
                num_steps = min(config.collection_steps_per_epoch, config.warmup_steps - done)
                state, _ = collect_phase(config, env, state, num_steps)
        for _ in range(num_epochs):
            started = time.perf_counter()
            bar.set_description("self-play")
            state, metrics = collect_phase(config, env, state, config.collection_steps_per_epoch)
            bar.set_description("training")
            state, learned = train_phase(config, state)
            metrics |= learned
            epoch = int(state.epoch)
            if (epoch + 1) % config.epochs_per_test == 0:
                bar.set_description("testing")
                state, tested = test_phase(config, env, test_mcts, state)
                metrics |= tested
            state = eqx.tree_at(lambda state: state.epoch, state, state.epoch + 1)
            metrics = {"epoch": epoch, **metrics, "seconds": time.perf_counter() - started}
            for sink in sinks:
                sink(metrics)
            bar.update()
    return state


def collect_phase(config: TrainConfig, env: Env, state: LoopState, num_steps: int) -> tuple[LoopState, dict]:
    """Plays `num_steps` moves in every game with the newest weights and adds them to the buffer."""
    started = time.perf_counter()
    evaluator = _evaluator(config, env, state.train)
    games, (trajectory, metrics) = _collect((config, env, evaluator, num_steps), state.games)
    _check_finite(env, evaluator, trajectory, int(state.epoch))
    replay = _add((config, trajectory), state.replay)
    metrics = {name: float(value) for name, value in metrics.items()}
    seconds = time.perf_counter() - started
    moves = config.batch_size * num_steps
    metrics |= {
        "moves_per_second": moves / seconds,
        "simulations_per_second": moves * config.mcts.num_simulations / seconds,
        "replay_known": float(config.replay.num_known(replay)),
    }
    state = LoopState(state.train, games, replay, state.testers, state.epoch, state.key)
    return state, metrics


def train_phase(config: TrainConfig, state: LoopState) -> tuple[LoopState, dict]:
    """Makes `train_steps_per_epoch` gradient steps on fresh samples; none as long as no episode has ended."""
    train, history = state.train, []
    if int(config.replay.num_known(state.replay)) == 0:
        return state, {}
    for _ in range(config.train_steps_per_epoch):
        train, metrics = _learn((config, state.replay, state.key), train)
        history.append(metrics)
    columns = {name: np.array([metrics[name] for metrics in jax.device_get(history)]) for name in history[0]}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            step = int(np.argmin(np.isfinite(values)))
            raise FloatingPointError(
                f"{name} is {values[step]} at gradient step {step} of epoch {int(state.epoch)}. Lower the learning "
                "rate or clip the gradients (optax.clip_by_global_norm)."
            )
    means = {name: float(values.mean()) for name, values in columns.items()}
    return LoopState(train, state.games, state.replay, state.testers, state.epoch, state.key), means


def test_phase(config: TrainConfig, env: Env, test_mcts: MCTS, state: LoopState) -> tuple[LoopState, dict]:
    """Lets every tester play the newest network."""
    evaluator = _evaluator(config, env, state.train)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.epoch)
    states, metrics = [], {}
    for index, (tester, tester_state) in enumerate(zip(config.testers, state.testers, strict=True)):
        tester_key = jax.random.fold_in(key, index)
        tester_state, tested = tester.test(env, test_mcts, evaluator, tester_state, key=tester_key)
        states.append(tester_state)
        metrics |= tested
    return LoopState(state.train, state.games, state.replay, tuple(states), state.epoch, state.key), metrics


# Compiled once: everything that changes from epoch to epoch is an argument, never a constant.


@eqx.filter_jit
def _start_games(config: TrainConfig, env: Env, keys: Array) -> CollectState:
    return jax.vmap(lambda key: init_collect(config.mcts, env, key=key))(keys)


@eqx.filter_jit(donate="all-except-first")
def _collect(
    inputs: tuple[TrainConfig, Env, NetworkEvaluator, int], games: CollectState
) -> tuple[CollectState, tuple[Trajectory, dict[str, Array]]]:
    config, env, evaluator, num_steps = inputs
    options = {"num_steps": num_steps, "max_episode_steps": config.max_episode_steps}
    after, trajectory = jax.vmap(lambda game: collect(config.mcts, env, evaluator, game, **options))(games)
    ended = trajectory.terminated | trajectory.truncated  # [B, T]
    episodes = jnp.sum(ended)
    steps = games.episode_steps + num_steps - after.episode_steps  # moves of finished episodes
    metrics = {
        "episodes": episodes,
        "truncated": jnp.sum(trajectory.truncated),
        "mean_length": jnp.sum(steps) / jnp.maximum(episodes, 1),
    }
    return after, (trajectory, metrics)


@eqx.filter_jit(donate="all-except-first")
def _add(inputs: tuple[TrainConfig, Trajectory], replay: ReplayState) -> ReplayState:
    config, trajectory = inputs
    return jax.vmap(lambda ring, steps: config.replay.add(ring, steps, discount=config.mcts.discount))(
        replay, trajectory
    )


@eqx.filter_jit(donate="all-except-first")
def _learn(inputs: tuple[TrainConfig, ReplayState, PRNGKeyArray], train: TrainState) -> tuple[TrainState, Metrics]:
    config, replay, key = inputs
    sample_key, augment_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), train.step))
    batch = config.replay.sample(replay, config.train_batch_size, key=sample_key)
    augment = config.augment
    if augment is not None:
        keys = jax.random.split(augment_key, config.train_batch_size)
        batch = jax.vmap(lambda sample, key: augment(sample, key=key))(batch, keys)
    return train_step(config.optimizer, config.loss, train, batch)


def _evaluator(config: TrainConfig, env: Env, train: TrainState) -> NetworkEvaluator:
    return NetworkEvaluator(train.network, env.observe, train.norm_state, dtype=config.search_dtype)


def _check_network(env: Env, network: PyTree, norm_state: eqx.nn.State | None) -> None:
    """Raises `ValueError` where the network does not fit the game, found by one evaluation of a first position."""

    @eqx.filter_jit
    def first(network, norm_state):
        key = jax.random.key(0)
        env_state, metadata = env.init(key)
        return metadata.action_mask, NetworkEvaluator(network, env.observe, norm_state)(env_state, metadata, key)

    mask, (logits, value) = eqx.filter_eval_shape(first, network, norm_state)
    if logits.shape != mask.shape or value.shape != ():
        raise ValueError(
            f"The network returns logits of shape {logits.shape} and a value of shape {value.shape}, but {env.name} "
            f"needs logits of shape {mask.shape} (one an action) and a value of shape ()."
        )
    mask, outputs = first(network, norm_state)
    if not bool(mask.any()):
        raise ValueError(f"{env.name}: no action is legal in the initial state. Run tz.check_env on this game.")
    for name, output in zip(("logits", "value"), outputs, strict=True):
        if not bool(jnp.isfinite(output).all()):
            raise ValueError(f"The network's {name} are not finite on an initial position of {env.name}: {output}.")


def _check_finite(env: Env, evaluator: NetworkEvaluator, trajectory: Trajectory, epoch: int) -> None:
    """Raises `FloatingPointError` if a search of this collection met a NaN, naming the step and the output."""
    bad = np.argwhere(~np.isfinite(np.asarray(trajectory.value)).T)
    if bad.size == 0:
        return
    step, game = (int(i) for i in bad[0])
    where = f"at self-play step {step} of epoch {epoch} (game {game})"
    if not bool(trajectory.action_mask[game, step].any()):
        raise FloatingPointError(f"{env.name}: no action is legal in a live state {where}. Run tz.check_env on it.")
    logits, value = evaluator.predict(trajectory.observation[game, step])
    names = [name for name, x in {"logits": logits, "value": value}.items() if not bool(jnp.isfinite(x).all())]
    found = f"the network's {' and '.join(names)}" if names else "an output of the network below the root"
    raise FloatingPointError(f"Not finite: {found}, {where}.")
