"""The three phases of an epoch, self-play, training and testing, spread over the devices of a mesh."""

import dataclasses
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from tz._arguments import shown
from tz._arrays import check_same_types
from tz._programs import Leaves
from tz.games.env import Env
from tz.learn.epochs import add, fast_moves, gradient_step, is_bad, num_simulations, play, self_play_settings, window_of
from tz.learn.losses import Metrics
from tz.learn.new_games import evaluator_of
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, mean_and_spread
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.trajectory import Trajectory
from tz.matches.testers import Tester
from tz.mcts.evaluators import NetworkEvaluator
from tz.mcts.settings import without_exploration
from tz.mcts.simulation import Evaluator
from tz.runs._new_games import without_open_moves


class NotFiniteError(FloatingPointError):
    """Raised if a number is not finite. `state` is the state in which it was found."""

    def __init__(self, message: str, state: LoopState):
        super().__init__(message)
        self.state = state


def collect_phase(
    config: TrainConfig, env: Env, state: LoopState, num_moves: int, mesh: Mesh
) -> tuple[LoopState, dict[str, int | float]]:
    """Plays `num_moves` moves in every game with the newest weights and adds them to the buffer."""
    started = time.perf_counter()
    # Games and buffer are donated to the two calls below. If the moves are bad, the buffer has not been touched yet.
    evaluator, is_fast = evaluator_of(config, env, state.train), fast_moves(config, state, num_moves)
    inputs = self_play_settings(config), env, evaluator, is_fast, num_moves, mesh
    games, (trajectory, counts, returns) = compiled_play(inputs, state.games)
    episodes, truncated, moves_of_episodes, num_bad = (int(count) for count in jax.device_get(_sums(counts)))
    if num_bad:
        state = dataclasses.replace(state, games=games, replay=without_open_moves(state.replay))
        raise NotFiniteError(_describe_bad(env, evaluator, trajectory, int(state.epoch)), state)
    replay = compiled_add((config.replay, config.mcts.discount, trajectory, mesh), state.replay)
    num_known = int(config.replay.num_known(replay))
    seconds = time.perf_counter() - started
    moves = config.num_games * num_moves
    metrics = {
        "moves": moves,
        "episodes": episodes,
        "truncated": truncated,
        "moves_per_second": moves / seconds,
        "simulations_per_second": config.num_games * int(num_simulations(config, is_fast, num_moves)) / seconds,
        "replay_known": num_known,
    }
    if episodes:
        ended = trajectory.terminated | trajectory.truncated
        mean, spread = (float(x) for x in jax.device_get(mean_and_spread(returns, ended)))
        length = moves_of_episodes / episodes
        metrics |= {"mean_length": length, "mean_return": mean, "return_spread": spread}
    return eqx.tree_at(lambda state: (state.games, state.replay), state, (games, replay)), metrics


def train_phase(config: TrainConfig, state: LoopState, mesh: Mesh) -> tuple[LoopState, dict[str, int | float]]:
    """Makes `train_steps_per_epoch` gradient steps, each on new samples; none until the first episode has ended."""
    history = []
    if int(config.replay.num_known(state.replay)) == 0:
        return state, {}
    window = window_of(config, int(state.games.step.max()))
    # Each step donates its arrays, and a step that fails loses them. So the steps work on a copy of the weights.
    inputs, train = step_arguments(config, state, window, mesh)
    train = jax.tree.map(lambda x: x.copy(), train)
    for _ in range(config.train_steps_per_epoch):
        train, metrics, is_finite = compiled_step(inputs, train)
        history.append((metrics, is_finite))  # stays on the device, so that the next step need not wait for it
    state = eqx.tree_at(lambda state: state.train, state, train.tree())
    rows, good = zip(*jax.device_get(history), strict=True)
    columns, good = {name: np.array([row[name] for row in rows]) for name in rows[0]}, np.array(good)
    if not good.all() and not config.skip_nonfinite:
        step = int(np.argmin(good))  # the first step that was not made; later ones met the same batch and state
        bad = next((name for name, values in columns.items() if not np.isfinite(values[step])), "a gradient")
        found = f"{bad} is {columns[bad][step]}" if bad in columns else f"{bad} is not finite"
        raise NotFiniteError(
            f"train_loop: found that {found} at gradient step {step} of epoch {int(state.epoch)}, expected finite "
            "numbers; lower the learning rate, or clip the gradients (optax.clip_by_global_norm).",
            state,
        )
    means = {name: float(values[good].mean()) for name, values in columns.items() if good.any()}
    counts = {"gradient_steps": len(history)}
    return state, counts | means | ({"skipped_steps": int((~good).sum())} if config.skip_nonfinite else {})


def warm_up_chunks(config: TrainConfig, state: LoopState) -> list[int]:
    """Returns the numbers of moves of the warm-up that are still to play, one for each call of `collect_phase`."""
    missing = range(int(state.games.step.max()), config.warmup_moves, config.moves_per_epoch)
    return [min(config.moves_per_epoch, config.warmup_moves - done) for done in missing]


def test_phase(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> tuple[LoopState, dict[str, int | float]]:
    """Runs every tester with the newest network, and with the search and the game of tests."""
    test_mcts = without_exploration(config.mcts) if config.test_mcts is None else config.test_mcts
    env = env if config.test_env is None else config.test_env
    evaluator = evaluator_of(config, env, state.train)
    keys = _tester_keys(state.key, state.epoch, len(config.testers))
    states, metrics = [], {}
    for tester, tester_state, key in zip(config.testers, state.testers, keys, strict=True):
        after, tested = tester.test(test_mcts, env, evaluator, tester_state, key=key, mesh=mesh)
        _check_tester_state(tester, tester_state, after)
        states.append(after)
        metrics |= tested
    return eqx.tree_at(lambda state: state.testers, state, tuple(states)), metrics


def _check_tester_state(tester: Tester, before: PyTree, after: PyTree) -> None:
    """Raises `ValueError` if a test changed its state in a way in which the state could not be saved and resumed."""
    where = f"a test of {type(tester).__name__}"
    check_same_types(where, before, after)
    old, new = (dict(jax.tree_util.tree_flatten_with_path(eqx.filter(x, _is_other))[0]) for x in (before, after))
    for path in {**old, **new}:
        found, expected = new.get(path), old.get(path)
        if not eqx.tree_equal(found, expected):
            raise ValueError(
                f"{where}: found {shown(found)} at {jax.tree_util.keystr(path) or 'its only place'} in its state, "
                f"expected {shown(expected)} as before, since only JAX arrays are saved; keep jnp.asarray of what "
                "changes, from `init` on."
            )


def _is_other(x: Any) -> bool:
    return isinstance(x, bool | int | float | complex | str | np.ndarray | np.generic)  # functions come from `init`


def check_types(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> None:
    """Raises `ValueError` if self-play, `add` or a gradient step changes the type of an array. Compiles nothing."""
    evaluator = evaluator_of(config, env, state.train)
    num_moves, window = config.moves_per_epoch, None if config.replay_window is None else jnp.int32(1)
    is_fast = None if config.fast_mcts is None else jnp.zeros(num_moves, bool)
    inputs = self_play_settings(config), env, evaluator, is_fast, num_moves, mesh
    trajectory = eqx.filter_eval_shape(compiled_play, inputs, state.games)[1][0]
    eqx.filter_eval_shape(compiled_add, (config.replay, config.mcts.discount, trajectory, mesh), state.replay)
    eqx.filter_eval_shape(compiled_step, *step_arguments(config, state, window, mesh))


# Each of these is compiled once, since everything that changes from epoch to epoch is an argument and not a constant.


@eqx.filter_jit(donate="all-except-first")
def compiled_play(inputs: tuple[dict[str, Any], Env, Evaluator, Array | None, int, Mesh], games: CollectState):
    """Plays some moves in all games, see `tz.learn.epochs.play`."""
    settings, env, evaluator, is_fast, num_moves, mesh = inputs
    return play(settings, env, evaluator, is_fast, games, num_moves=num_moves, mesh=mesh)


@jax.jit
def _sums(counts: tuple[Array, ...]) -> tuple[Array, ...]:
    """Adds up the counts of all devices."""
    return jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32), counts)


@eqx.filter_jit(donate="all-except-first")
def compiled_add(inputs: tuple[EpisodeReplayBuffer, Any, Trajectory, Mesh], replay: ReplayState) -> ReplayState:
    """Adds the moves of a trajectory to the rings, see `tz.learn.epochs.add`."""
    buffer, discount, trajectory, mesh = inputs
    return add(buffer, discount, trajectory, replay, mesh=mesh)


@eqx.filter_jit(donate="all-except-first")
def compiled_step(inputs: Leaves, train: Leaves) -> tuple[Leaves, Metrics, Bool[Array, ""]]:
    """Makes a gradient step, see `tz.learn.epochs.gradient_step`, with the result of `step_arguments`."""
    config, replay, key, window, mesh = inputs.tree()
    after, metrics, is_finite = gradient_step(config, replay, key, window, train.tree(), mesh=mesh)
    return Leaves(after), metrics, is_finite


def step_arguments(config: TrainConfig, state: LoopState, window: Array | None, mesh: Mesh) -> tuple[Leaves, Leaves]:
    """Returns the arguments of `compiled_step`. The second one is donated."""
    return Leaves((config, state.replay, state.key, window, mesh)), Leaves(state.train)


@functools.partial(jax.jit, static_argnums=2)
def _tester_keys(key: PRNGKeyArray, epoch: Array, number: int) -> list[PRNGKeyArray]:
    """Returns a key for each tester in this epoch."""
    key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
    return [jax.random.fold_in(key, index) for index in range(number)]


def _describe_bad(env: Env, evaluator: Evaluator, trajectory: Trajectory, epoch: int) -> str:
    """Says where self-play first met a NaN or a state without a legal action, and which output was not finite."""
    bad = is_bad(trajectory)  # [B, T]
    step, game = (int(i) for i in jnp.unravel_index(jnp.argmax(bad.T), bad.T.shape))  # transposed: the earliest move
    where = f"at self-play move {step} of epoch {epoch} (game {game})"
    if not bool(trajectory.action_mask[game, step].any()):
        return (
            f"{env.name}: found no legal action in a game that is not over, {where}, expected at least one; run "
            "tz.check_env on the game."
        )
    if not isinstance(evaluator, NetworkEvaluator):
        return (
            "train_loop: found numbers that are not finite in an output of the evaluator, at the root or below, "
            f"{where}, expected finite numbers; check the weights and the observations."
        )
    logits, value = evaluator.predict(jax.tree.map(lambda x: x[game, step], trajectory.observation))
    # Logits of illegal actions do not count, and -inf is allowed for actions that are never chosen.
    logits = jnp.where(trajectory.action_mask[game, step] & ~jnp.isneginf(logits), logits, 0)
    names = [name for name, x in {"logits": logits, "value": value}.items() if not bool(jnp.isfinite(x).all())]
    found = f"the network's {' and '.join(names)}" if names else "an output of the network below the root"
    return (
        f"train_loop: found numbers that are not finite in {found}, {where}, expected finite numbers; check the "
        "weights and the observations."
    )
