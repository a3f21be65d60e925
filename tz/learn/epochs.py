"""An epoch (self-play, replay and gradient steps) as a pure function, which can be compiled, sharded and mapped."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from tz._arguments import shown
from tz._arrays import check_same_types
from tz.games.env import Env
from tz.learn.losses import Metrics
from tz.learn.new_games import evaluator_of
from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, collect, mean_and_spread, returns_so_far
from tz.learn.settings import LoopState, TrainConfig, num_parts
from tz.learn.training import TrainState, train_step
from tz.learn.trajectory import Sample, Trajectory
from tz.mcts.simulation import Evaluator
from tz.sharding import DATA, over_games


def epoch(
    config: TrainConfig, env: Env, state: LoopState, *, mesh: Mesh | None = None
) -> tuple[LoopState, dict[str, Array]]:
    """Runs one epoch of [`tz.train_loop`][] as a pure function: self-play, then gradient steps.

    It calls [`tz.learn.self_play_phase`][] and [`tz.learn.gradient_phase`][]. It has no side effects and never reads a
    number on the host. So it can be compiled with `eqx.filter_jit`, and mapped over states with `eqx.filter_vmap` to
    train many seeds. To map it over a hyper-parameter, build the settings inside the mapped function:
    `lambda rate, state: tz.learn.epoch(settings_of(rate), env, state)`. It includes neither the warm-up
    (`config.warmup_moves`) nor the testers.

    On a CPU, XLA runs the gradients of ordinary convolutions slowly inside a loop, and here the gradient steps are a
    loop. With a network of `eqx.nn.Conv2d`, an epoch takes 1.9 times as long as in `train_loop`, which calls one
    compiled step at a time. With [`tz.AZResNet`][] it takes no longer. See `experiments/results/epoch_cpu.md`.

    **Arguments:**

    - `config`: the settings of training.
    - `env`: the game.
    - `state`: from [`tz.learn.init_epoch`][], [`tz.init_loop`][] or an earlier epoch.
    - `mesh`: the devices that the games are split over, such as [`tz.data_mesh`][]; None, the default, for one device.
        A call with a mesh must be compiled.

    **Returns:** the next state, and the metrics of both phases.
    """
    state, played = self_play_phase(config, env, state, num_moves=config.moves_per_epoch, mesh=mesh)
    state, learned = gradient_phase(config, state, mesh=mesh)
    return eqx.tree_at(lambda state: state.epoch, state, state.epoch + 1), played | learned


def self_play_phase(
    config: TrainConfig, env: Env, state: LoopState, *, num_moves: int, mesh: Mesh | None = None
) -> tuple[LoopState, dict[str, Array]]:
    """Plays `num_moves` moves in every game with the newest weights and adds them to the buffer.

    **Arguments:** `num_moves`, the moves of each game; the others as in [`tz.learn.epoch`][].

    **Returns:** the next state, and metrics over all games:

    - `episodes`: the number of episodes that ended.
    - `truncated`: how many of them were truncated.
    - `mean_length`: their mean length in moves, 0 if none ended.
    - `mean_return` and `return_spread`: the mean and the standard deviation of their returns for player 0, NaN if none
        ended.
    - `replay_known`: the number of positions that can be sampled.
    - `simulations`: the number of simulations that the searches ran.
    - `bad_positions`: the number of positions without a legal action or a finite value. If it is not 0, the next state
        must not be trusted.
    """
    evaluator, is_fast = evaluator_of(config, env, state.train), fast_moves(config, state, num_moves)
    inputs = self_play_settings(config), env, evaluator, is_fast, state.games
    games, (trajectory, counts, returns) = play(*inputs, num_moves=num_moves, mesh=mesh)
    replay = add(config.replay, config.mcts.discount, trajectory, state.replay, mesh=mesh)
    episodes, truncated, moves_of_episodes, num_bad = jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32), counts)
    mean, spread = mean_and_spread(returns, trajectory.terminated | trajectory.truncated)
    metrics = {
        "episodes": episodes,
        "truncated": truncated,
        "mean_length": moves_of_episodes.astype(jnp.float32) / jnp.maximum(episodes, 1).astype(jnp.float32),
        "mean_return": mean,
        "return_spread": spread,
        "replay_known": config.replay.num_known(replay),
        "simulations": config.num_games * num_simulations(config, is_fast, num_moves),
        "bad_positions": num_bad,
    }
    return eqx.tree_at(lambda state: (state.games, state.replay), state, (games, replay)), metrics


def gradient_phase(
    config: TrainConfig, state: LoopState, *, mesh: Mesh | None = None
) -> tuple[LoopState, dict[str, Array]]:
    """Makes `config.train_steps_per_epoch` gradient steps, each on fresh samples.

    A step whose loss or result is not finite is skipped: it leaves the weights as they were. Unless
    `config.skip_nonfinite` is True, the later steps then draw the same batch again and are skipped too. If no position
    can be sampled yet, all steps are skipped.

    **Arguments:** as in [`tz.learn.epoch`][].

    **Returns:** the next state, and metrics: the means of the metrics of [`tz.train_step`][] over the steps that were
    not skipped, NaN if all were; and `skipped_steps`, the number of skipped steps.
    """
    window, steps = window_of(config, jnp.max(state.games.step)), config.train_steps_per_epoch
    arrays, static = eqx.partition(state.train, eqx.is_array)

    def step(arrays, _):
        train = eqx.combine(arrays, static)
        train, metrics, is_finite = gradient_step(config, state.replay, state.key, window, train, mesh=mesh)
        return eqx.filter(train, eqx.is_array), (metrics, is_finite)

    def learn(arrays):
        arrays, (metrics, is_finite) = lax.scan(step, arrays, length=steps)
        num_made = jnp.sum(is_finite, dtype=jnp.int32)

        def mean(x):
            total = jnp.sum(jnp.where(is_finite, x, 0))
            return jnp.where(num_made > 0, total / jnp.maximum(num_made, 1).astype(x.dtype), jnp.nan)

        return arrays, jax.tree.map(mean, metrics), steps - num_made

    def wait(arrays):  # the other branch of the cond, which must return the same shapes
        metrics = jax.eval_shape(learn, arrays)[1]
        return arrays, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics), jnp.int32(steps)

    arrays, metrics, num_skipped = lax.cond(config.replay.num_known(state.replay) > 0, learn, wait, arrays)
    state = eqx.tree_at(lambda state: state.train, state, eqx.combine(arrays, static))
    return state, metrics | {"skipped_steps": num_skipped}


# The parts of the two phases, which the training loop compiles one by one.


def self_play_settings(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings that self-play depends on, so that changing any other does not compile it again."""
    names = "mcts", "max_episode_moves", "fast_mcts", "record", "record_end"
    return {name: getattr(config, name) for name in names}


def fast_moves(config: TrainConfig, state: LoopState, num_moves: int) -> Bool[Array, " T"] | None:
    """Draws the moves that use the fast search. They are the same in all games, so that `lax.cond` stays a branch."""
    if config.fast_mcts is None:
        return None
    # The key has four streams: 0 gradient steps, 1 testers, 2 fast moves, 3 games that replace lost ones.
    key = jax.random.fold_in(jax.random.fold_in(state.key, 2), state.games.step.max())
    return jax.random.bernoulli(key, jnp.float32(config.fast_fraction), (num_moves,))


def num_simulations(config: TrainConfig, is_fast: Bool[Array, " T"] | None, num_moves: int) -> Int[Array, ""]:
    """Returns the number of simulations that one game runs for its next moves."""
    if config.fast_mcts is None or is_fast is None:
        return jnp.int32(num_moves * config.mcts.num_simulations)
    num_fast = jnp.sum(is_fast, dtype=jnp.int32)
    return num_fast * config.fast_mcts.num_simulations + (num_moves - num_fast) * config.mcts.num_simulations


def play(
    settings: dict[str, Any],
    env: Env,
    evaluator: Evaluator,
    is_fast: Bool[Array, " T"] | None,
    games: CollectState,
    *,
    num_moves: int,
    mesh: Mesh | None = None,
) -> tuple[CollectState, tuple[Trajectory, tuple[Array, ...], Array]]:
    """Plays `num_moves` moves in every game.

    **Returns:** the games after the moves, and a tuple of three: the moves; four counts for each device (episodes that
    ended, truncated episodes, moves of the episodes that ended, bad positions); and the returns so far, `[B, T]`.
    """

    def local(shared, games):
        settings, env, evaluator, is_fast = shared
        options = dict(settings) | {"is_fast": is_fast, "num_moves": num_moves}
        mcts = options.pop("mcts")
        after, trajectory = jax.vmap(lambda game: collect(mcts, env, evaluator, game, **options))(games)
        ended = trajectory.terminated | trajectory.truncated  # [B, T]
        # The moves of all episodes that were played here, minus those of the episode in progress.
        moves_of_episodes = games.episode_moves + num_moves - after.episode_moves
        counts = ended, trajectory.truncated, moves_of_episodes, is_bad(trajectory)
        check_same_types("a move of self-play", games, after)
        returns = jax.vmap(returns_so_far)(games, trajectory)
        return after, (trajectory, jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.int32)[None], counts), returns)

    return over_games(mesh, local, (settings, env, evaluator, is_fast), games)


def is_bad(trajectory: Trajectory) -> Bool[Array, "B T"]:
    """Finds the positions from which nothing can be learned: no action is legal, or the value is not finite."""
    return ~jnp.isfinite(trajectory.value) | ~jnp.any(trajectory.action_mask, axis=-1)


def add(
    buffer: EpisodeReplayBuffer, discount: Any, trajectory: Trajectory, replay: ReplayState, *, mesh: Mesh | None = None
) -> ReplayState:
    """Adds the moves of all games to their rings."""

    def local(shared, games):
        buffer, discount = shared
        return jax.vmap(lambda ring, steps: buffer.add(ring, steps, discount=discount))(*games)

    after = over_games(mesh, local, (buffer, discount), (replay, trajectory))
    check_same_types("replay.add", replay, after)
    return after


def window_of(config: TrainConfig, num_moves: int | Int[Array, ""]) -> Int[Array, ""] | None:
    """Returns how many of the newest positions of each game an epoch samples from, or None for all.

    **Arguments:** `num_moves`, the number of moves made in each game so far.

    **Raises:** `ValueError` if the number of moves is traced and `config.replay_window` cannot take an array, or if
    the function does not return a number of positions.
    """
    if config.replay_window is None:
        return None
    try:
        rows = config.replay_window(num_moves)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "epoch: found a replay_window that cannot be traced, expected a function that takes an array as well as an "
            "int; write jnp.maximum instead of max, and leave out int(...)."
        ) from error
    is_traced = isinstance(rows, jax.Array) and rows.ndim == 0
    is_number = isinstance(rows, int | float | np.integer | np.floating) and abs(float(rows)) < 2**31
    if not is_traced and not is_number:
        raise ValueError(
            f"epoch: found a replay_window that returned {shown(rows)}, expected the number of newest positions of "
            "each game to sample from, of 32 bits; return it, or leave replay_window None for all positions."
        )
    return jnp.maximum(jnp.asarray(rows).astype(jnp.int32), 1)


def gradient_step(
    config: TrainConfig,
    replay: ReplayState,
    key: PRNGKeyArray,
    window: Int[Array, ""] | None,
    train: TrainState,
    *,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics, Bool[Array, ""]]:
    """Makes one gradient step on fresh samples, and keeps the old state if the result is not finite.

    **Returns:** the next state, the metrics, and whether the step was kept.
    """
    step_key = jax.random.fold_in(jax.random.fold_in(key, 0), train.step)
    parts = num_parts(config, 1 if mesh is None else mesh.shape[DATA])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(parts))
    batch = draw(config, replay, keys, window, mesh=mesh)
    options: dict[str, Any] = {"dtype": config.train_dtype}
    options |= {} if config.average_decay is None else {"average_decay": config.average_decay}
    network_key = jax.random.fold_in(step_key, parts)  # the smaller numbers are the keys of the parts
    after, metrics = train_step(config.optimizer, config.loss, train, batch, key=network_key, **options)
    check_same_types("a gradient step", train, after)
    is_finite = _is_finite(train, after, metrics)
    after = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old) if eqx.is_array(new) else new, after, train)
    # The step number decides the batch. Without `skip_nonfinite`, it does not advance after a bad step, so that the
    # state reproduces the failure.
    if config.skip_nonfinite:
        after = eqx.tree_at(lambda train: train.step, after, train.step + 1)
    result = after, metrics, is_finite
    if mesh is None or mesh.size == 1:
        return result
    # Every device keeps the whole weights.
    return eqx.filter_shard(result, NamedSharding(mesh, PartitionSpec()))


def _is_finite(before: TrainState, after: TrainState, metrics: Metrics) -> Bool[Array, ""]:
    """Checks that the loss is finite, and that no number of the state has stopped being finite.

    An optimiser may hold an infinity from the start, such as the best loss so far.
    """
    olds, news = (jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (before, after))
    good = [jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) for old, new in zip(olds, news, strict=True)]
    return jnp.stack([*good, jnp.isfinite(metrics["loss"])]).all()


def draw(
    config: TrainConfig,
    replay: ReplayState,
    keys: Shaped[PRNGKeyArray, " S"],
    window: Int[Array, ""] | None = None,
    *,
    mesh: Mesh | None = None,
) -> Sample:
    """Draws and augments one batch. Each device draws from its own parts of the buffer, with one key for each part."""
    per_part = config.train_batch_size // len(keys)

    def local(shared, games):
        (config, window), (replay, keys) = shared, games
        sample_keys, augment_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        batch = config.replay.sample_parts(replay, per_part * len(keys), keys=sample_keys, window=window)
        if config.augment is None:
            return batch
        keys = jax.vmap(lambda key: jax.random.split(key, per_part))(augment_keys)
        keys = keys.reshape(-1, *keys.shape[2:])  # old-style keys have one more axis
        return jax.vmap(lambda sample, key: config.augment(sample, key=key))(batch, keys)

    return over_games(mesh, local, (config, window), (replay, keys))
