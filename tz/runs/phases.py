"""The three phases of an epoch: self-play, training, testing; each spread over the devices of a mesh."""

import dataclasses
import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from tz._arrays import named_arrays
from tz.games.env import Env
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, collect
from tz.learn.training import Metrics, TrainState, train_step
from tz.learn.trajectory import Sample, Trajectory
from tz.mcts.evaluators import NetworkEvaluator
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator
from tz.runs._new_games import evaluator_of, without_open_moves
from tz.runs.settings import LoopState, TrainConfig, num_parts
from tz.sharding import DATA, over_games


class NotFiniteError(FloatingPointError):
    """A number that is not finite, and the state in which it came up."""

    def __init__(self, message: str, state: LoopState):
        super().__init__(message)
        self.state = state


def collect_phase(
    config: TrainConfig, env: Env, state: LoopState, num_moves: int, mesh: Mesh
) -> tuple[LoopState, dict[str, int | float]]:
    """Plays `num_moves` moves in every game with the newest weights and adds them to the buffer."""
    started = time.perf_counter()
    evaluator = evaluator_of(config, env, state.train)
    is_fast = None
    if config.fast_mcts is not None:  # drawn for all games alike, so that it is a branch and not a choice of results
        key = jax.random.fold_in(jax.random.fold_in(state.key, 2), int(state.games.step.max()))
        is_fast = jax.random.bernoulli(key, config.fast_fraction, (num_moves,))
    games, (trajectory, counts) = collect_games((config, env, evaluator, is_fast, num_moves, mesh), state.games)
    episodes, truncated, moves_of_episodes, num_bad = (int(count) for count in jax.device_get(_sums(counts)))
    if num_bad:
        state = dataclasses.replace(state, games=games, replay=without_open_moves(state.replay))
        raise NotFiniteError(_describe_bad(env, evaluator, trajectory, int(state.epoch)), state)
    replay = add_games((config, trajectory, mesh), state.replay)
    num_known = int(config.replay.num_known(replay))
    seconds = time.perf_counter() - started
    moves = config.num_games * num_moves
    metrics = {
        "episodes": episodes,
        "truncated": truncated,
        "mean_length": moves_of_episodes / max(episodes, 1),
        "moves_per_second": moves / seconds,
        "simulations_per_second": config.num_games * _num_simulations(config, is_fast, num_moves) / seconds,
        "replay_known": num_known,
    }
    return eqx.tree_at(lambda state: (state.games, state.replay), state, (games, replay)), metrics


def _num_simulations(config: TrainConfig, is_fast: Array | None, num_moves: int) -> int:
    """Of all the moves that one game makes."""
    if config.fast_mcts is None or is_fast is None:
        return num_moves * config.mcts.num_simulations
    num_fast = int(jnp.sum(is_fast))
    return num_fast * config.fast_mcts.num_simulations + (num_moves - num_fast) * config.mcts.num_simulations


def train_phase(config: TrainConfig, state: LoopState, mesh: Mesh) -> tuple[LoopState, dict[str, int | float]]:
    """Makes `train_steps_per_epoch` gradient steps on fresh samples; none as long as no episode has ended."""
    history = []
    if int(config.replay.num_known(state.replay)) == 0:
        return state, {}
    window = None
    if config.replay_window is not None:
        moves = config.warmup_moves + (int(state.epoch) + 1) * config.moves_per_epoch
        window = jnp.int32(max(1, config.replay_window(moves)))
    # The steps take arrays of their own: one that fails would take the weights with it.
    train = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state.train)
    for _ in range(config.train_steps_per_epoch):
        train, metrics, is_finite = gradient_step((config, state.replay, state.key, window, mesh), train)
        history.append((metrics, is_finite))
    state = eqx.tree_at(lambda state: state.train, state, train)
    rows, good = zip(*jax.device_get(history), strict=True)
    columns, good = {name: np.array([row[name] for row in rows]) for name in rows[0]}, np.array(good)
    if not good.all() and not config.skip_nonfinite:
        step = int(np.argmin(good))
        bad = next((name for name, values in columns.items() if not np.isfinite(values[step])), "a gradient")
        found = f"{bad} is {columns[bad][step]}" if bad in columns else f"{bad} is not finite"
        raise NotFiniteError(
            f"{found} at gradient step {step} of epoch {int(state.epoch)}. Lower the learning rate or clip the "
            "gradients (optax.clip_by_global_norm).",
            state,
        )
    means = {name: float(values[good].mean()) for name, values in columns.items() if good.any()}
    return state, means | ({"skipped_steps": int((~good).sum())} if config.skip_nonfinite else {})


def test_phase(
    config: TrainConfig, env: Env, test_mcts: MCTS, state: LoopState, mesh: Mesh
) -> tuple[LoopState, dict[str, int | float]]:
    """Lets every tester play the newest network."""
    evaluator = evaluator_of(config, env, state.train)
    keys = _tester_keys(state.key, state.epoch, len(config.testers))
    states, metrics = [], {}
    for tester, tester_state, key in zip(config.testers, state.testers, keys, strict=True):
        tester_state, tested = tester.test(test_mcts, env, evaluator, tester_state, key=key, mesh=mesh)
        states.append(tester_state)
        metrics |= tested
    return eqx.tree_at(lambda state: state.testers, state, tuple(states)), metrics


# Compiled once: everything that changes from epoch to epoch is an argument, never a constant.


def check_types(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> None:
    """Raises `ValueError` if moves, `add` or a gradient step change the type of what they work on. Compiles nothing."""
    evaluator = evaluator_of(config, env, state.train)
    num_moves, window = config.moves_per_epoch, None if config.replay_window is None else jnp.int32(1)
    is_fast = None if config.fast_mcts is None else jnp.zeros(num_moves, bool)
    inputs = config, env, evaluator, is_fast, num_moves, mesh
    trajectory = eqx.filter_eval_shape(collect_games, inputs, state.games)[1][0]
    eqx.filter_eval_shape(add_games, (config, trajectory, mesh), state.replay)
    eqx.filter_eval_shape(gradient_step, (config, state.replay, state.key, window, mesh), state.train)


def _check_same_types(what: str, before: PyTree, after: PyTree) -> None:
    """Raises `ValueError` if an array has another shape or dtype than before, or comes or goes; all known as traced."""
    old, new = ({name: _type(x) for name, x in named_arrays(tree)} for tree in (before, after))
    for name in old | new:
        found, expected = new.get(name, "nothing"), old.get(name, "nothing")
        if found != expected:
            raise ValueError(
                f"{what}: found {found} at {name}, expected {expected} as before; "
                "give every array a dtype where it is made, such as jnp.zeros(3, jnp.float32), and let what is changed "
                "keep its own (`x.astype(old.dtype)`)."
            )


def _type(x: Array) -> str:
    weak = " of a weak type, as Python's numbers have" if jax.typeof(x).weak_type else ""
    return f"{x.dtype}{list(x.shape)}{weak}"


@eqx.filter_jit(donate="all-except-first")
def collect_games(
    inputs: tuple[TrainConfig, Env, Evaluator, Array | None, int, Mesh], games: CollectState
) -> tuple[CollectState, tuple[Trajectory, tuple[Array, ...]]]:
    """The games after `num_moves` moves; the moves; and, a device, the numbers of episodes, of truncated ones, of moves
    in them, and of positions without a legal action or a finite value."""
    config, env, evaluator, is_fast, num_moves, mesh = inputs

    def play(shared, games):
        config, env, evaluator, is_fast = shared
        options = {"num_moves": num_moves, "max_episode_moves": config.max_episode_moves}
        options |= {"fast_mcts": config.fast_mcts, "is_fast": is_fast}
        options |= {"record": config.record, "record_end": config.record_end}
        after, trajectory = jax.vmap(lambda game: collect(config.mcts, env, evaluator, game, **options))(games)
        ended = trajectory.terminated | trajectory.truncated  # [B, T]
        moves_of_episodes = games.episode_moves + num_moves - after.episode_moves
        counts = ended, trajectory.truncated, moves_of_episodes, _is_bad(trajectory)
        _check_same_types("a move of self-play", games, after)
        return after, (trajectory, jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32)[None], counts))

    return over_games(mesh, play, (config, env, evaluator, is_fast), games)


@jax.jit
def _sums(counts: tuple[Array, ...]) -> tuple[Array, ...]:
    return jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32), counts)


@eqx.filter_jit(donate="all-except-first")
def add_games(inputs: tuple[TrainConfig, Trajectory, Mesh], replay: ReplayState) -> ReplayState:
    """The rings with the moves of a trajectory added."""
    config, trajectory, mesh = inputs

    def add(config, games):
        return jax.vmap(lambda ring, steps: config.replay.add(ring, steps, discount=config.mcts.discount))(*games)

    after = over_games(mesh, add, config, (replay, trajectory))
    _check_same_types("replay.add", replay, after)
    return after


@eqx.filter_jit(donate="all-except-first")
def gradient_step(
    inputs: tuple[TrainConfig, ReplayState, PRNGKeyArray, Array | None, Mesh], train: TrainState
) -> tuple[TrainState, Metrics, Bool[Array, ""]]:
    """The state after a step, its metrics, and whether it was made: not if something in them is not finite."""
    config, replay, key, window, mesh = inputs
    step_key = jax.random.fold_in(jax.random.fold_in(key, 0), train.step)
    parts = num_parts(config, mesh.shape[DATA])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(parts))
    batch = draw(config, replay, keys, mesh, window)
    options = {} if config.average_decay is None else {"average_decay": config.average_decay}
    network_key = jax.random.fold_in(step_key, parts)  # the others are those of the parts
    after, metrics = train_step(config.optimizer, config.loss, train, batch, key=network_key, **options)
    _check_same_types("a gradient step", train, after)
    is_finite = _is_finite(train, after, metrics)
    after = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old) if eqx.is_array(new) else new, after, train)
    if config.skip_nonfinite:  # else the same batch comes again, and the state stays what it was before it
        after = eqx.tree_at(lambda train: train.step, after, train.step + 1)
    result = after, metrics, is_finite
    return result if mesh.size == 1 else eqx.filter_shard(result, NamedSharding(mesh, PartitionSpec()))


def _is_finite(before: TrainState, after: TrainState, metrics: Metrics) -> Bool[Array, ""]:
    """Whether the metrics are finite, and all numbers of the state that were so before the step.

    The state of an optimiser may hold infinity from its beginning, such as the best loss so far.
    """
    olds, news = (jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (before, after))
    good = [jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) for old, new in zip(olds, news, strict=True)]
    return jnp.stack(good + [jnp.isfinite(x) for x in metrics.values()]).all()


def draw(config: TrainConfig, replay: ReplayState, keys: Array, mesh: Mesh, window: Array | None = None) -> Sample:
    """A batch to train on: each device draws from the parts of the buffer that it keeps; `keys`, one a part."""
    per_part = config.train_batch_size // len(keys)

    def local(shared, games):
        (config, window), (replay, keys) = shared, games
        sample_keys, augment_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        batch = config.replay.sample_parts(replay, per_part * len(keys), keys=sample_keys, window=window)
        if config.augment is None:
            return batch
        keys = jax.vmap(lambda key: jax.random.split(key, per_part))(augment_keys)
        keys = keys.reshape(-1, *keys.shape[2:])  # an old-style key has an axis of its own
        return jax.vmap(lambda sample, key: config.augment(sample, key=key))(batch, keys)

    return over_games(mesh, local, (config, window), (replay, keys))


@functools.partial(jax.jit, static_argnums=2)
def _tester_keys(key: PRNGKeyArray, epoch: Array, number: int) -> list[PRNGKeyArray]:
    key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
    return [jax.random.fold_in(key, index) for index in range(number)]


def _is_bad(trajectory: Trajectory) -> Bool[Array, "B T"]:
    """Positions from which nothing can be learned: no action is legal, or the search met a NaN."""
    return ~jnp.isfinite(trajectory.value) | ~jnp.any(trajectory.action_mask, axis=-1)


def _describe_bad(env: Env, evaluator: Evaluator, trajectory: Trajectory, epoch: int) -> str:
    """Where a search of this collection first met a NaN, and which output it was."""
    bad = _is_bad(trajectory)  # [B, T]
    step, game = (int(i) for i in jnp.unravel_index(jnp.argmax(bad.T), bad.T.shape))
    where = f"at self-play step {step} of epoch {epoch} (game {game})"
    if not bool(trajectory.action_mask[game, step].any()):
        return f"{env.name}: no action is legal in a live state {where}. Run tz.check_env on it."
    if not isinstance(evaluator, NetworkEvaluator):
        return f"Not finite: an output of the evaluator, at the root or below, {where}."
    logits, value = evaluator.predict(jax.tree.map(lambda x: x[game, step], trajectory.observation))
    logits = jnp.where(trajectory.action_mask[game, step] & ~jnp.isneginf(logits), logits, 0)  # -inf: never chosen
    names = [name for name, x in {"logits": logits, "value": value}.items() if not bool(jnp.isfinite(x).all())]
    found = f"the network's {' and '.join(names)}" if names else "an output of the network below the root"
    return f"Not finite: {found}, {where}."
