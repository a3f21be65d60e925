"""Training several seeds in one program."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from tz._arguments import check_instance
from tz._arrays import named_arrays
from tz.games.env import Env
from tz.learn.epochs import gradient_phase, self_play_phase
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import TrainState
from tz.mcts.settings import without_exploration
from tz.runs._new_games import revive
from tz.runs._state_checks import check_state
from tz.runs.checkpoints import Checkpoints
from tz.runs.phases import test_phase
from tz.runs.sinks import Sink, bar, call_sinks
from tz.runs.stopping import Newest, StopTraining, noted_signals
from tz.sharding import check_mesh, data_mesh, over_games, place, usable_mesh


def train_seeds(
    config: TrainConfig,
    env: Env,
    states: Sequence[LoopState],
    *,
    num_epochs: int | None,
    sinks: Sequence[Sink] = (),
    progress: bool = True,
    mesh: Mesh | None = None,
    checkpoints: Sequence[Checkpoints] = (),
    before_epoch: Callable[[LoopState], LoopState] | None = None,
) -> list[LoopState]:
    """Trains several states side by side in one program, each as [`tz.train_loop`][] would alone.

    The states are independent: only their seeds differ, and so they show how much of a result is chance. A device maps
    its seeds by `jax.vmap`. On a GPU that is nearly as fast as one seed, as long as one leaves the card idle. On a CPU
    convolutions with weights of their own are slow (see `experiments/results/epoch_cpu.md`), so make as many devices
    as there are seeds before JAX starts: `jax.config.update("jax_num_cpu_devices", 4)`.

    A seed whose numbers are no longer finite costs a warning and has NaN in its metrics. The others go on.

    **Arguments:**

    - `states`: one a seed, each from [`tz.init_loop`][] with another key, or from an earlier call; they stay usable.
    - `num_epochs`: how many more; None for no end but that of `before_epoch`.
    - `sinks`: called for each seed after each epoch, with metrics that begin with `seed`, the place in `states`. A file
        of a [`tz.JsonLinesSink`][] has all seeds, and [`tz.plot.plot_learning`][] draws their mean and interval.
    - `mesh`: from [`tz.data_mesh`][]: its devices share the seeds evenly. By default as many of all devices as divide
        the number of seeds.
    - `checkpoints`: none, or one a seed, from which a seed can be resumed alone.
    - `before_epoch`: as in [`tz.train_loop`][], but it is called once for all seeds, with a state whose arrays have
        them along a leading axis.

    **Returns:** the states after the last epoch, in the same order; each can be trained further by
    [`tz.train_loop`][]. An exception that leaves the function has them as `states`.

    **Raises:** `ValueError` if a state does not belong to the settings, or the states do not belong together.
    """
    mesh = _mesh_of(states, mesh)
    one = data_mesh(list(mesh.local_devices)[:1])
    for state in states:
        check_state(config, env, state, mesh=one)
    if checkpoints and len(checkpoints) != len(states):
        raise ValueError(
            f"train_seeds: found {len(checkpoints)} checkpoints, expected none or one for each of {len(states)} seeds."
        )
    testers = [state.testers for state in states]
    newest = Newest(_stacked(states, mesh))
    last = None if num_epochs is None else int(states[0].epoch) + num_epochs

    def alone() -> list[LoopState]:
        return [_revived(config, env, state, one) for state in _unstacked(newest.state, testers, one)]

    try:
        with noted_signals(newest, saves=bool(checkpoints)) as noted, bar(num_epochs, "epoch", progress) as epochs:
            _warm_up(config, env, newest, mesh)
            while not noted and (last is None or int(newest.state.epoch[0]) < last):
                try:
                    newest.keep(newest.state if before_epoch is None else before_epoch(newest.state))
                except StopTraining:
                    break
                rows = _epoch(config, env, newest, mesh)
                is_tested = _test(config, env, newest.state, testers, rows, one)
                newest.keep(eqx.tree_at(lambda state: state.epoch, newest.state, newest.state.epoch + 1))
                for kept, state, row in zip(checkpoints, alone() if checkpoints else (), rows, strict=False):
                    kept.after_epoch(state, row, tested=is_tested)
                for seed, row in enumerate(rows):
                    call_sinks(sinks, {"seed": seed, **row})
                epochs.update()
        states = alone()
        for kept, state in zip(checkpoints, states, strict=False):
            kept.finish(state)
        return states
    except BaseException as error:
        error.states = alone()  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("This exception has the newest state of each seed as `states`; tz.runs.train_seeds can go on.")
        raise


def _mesh_of(states: Sequence[LoopState], mesh: Mesh | None) -> Mesh:
    if not isinstance(states, list | tuple) or not states:
        raise ValueError(
            f"train_seeds: found states={type(states).__name__}, expected a list of at least one LoopState; write "
            "[tz.init_loop(config, env, network(seed), key=jax.random.key(seed)) for seed in range(4)]."
        )
    for state in states:
        check_instance("train_seeds", "states", state, (LoopState,))
    kinds = [(jax.tree.structure(eqx.filter(state, eqx.is_array)), _shapes(state)) for state in states]
    epochs = [int(state.epoch) for state in states]
    if any(kind != kinds[0] for kind in kinds) or len(set(epochs)) > 1:
        raise ValueError(
            f"train_seeds: found states of different arrays or epochs (epochs {epochs}), expected states that differ "
            "in their numbers alone; make all with the same settings and the same kind of network."
        )
    if mesh is None:
        return data_mesh(jax.devices()[: math.gcd(len(states), jax.device_count())])
    mesh = usable_mesh(mesh)
    check_mesh(mesh, seeds=len(states))
    return mesh


def _shapes(state: LoopState) -> list[Any]:
    return [(name, x.shape, x.dtype) for name, x in named_arrays(dataclasses.replace(state, testers=()))]


def _stacked(states: Sequence[LoopState], mesh: Mesh) -> LoopState:
    """The states as one, without their testers, with the seeds along a leading axis that is split over the mesh."""
    device = mesh.local_devices[0]
    states = [jax.device_put(dataclasses.replace(state, testers=()), device) for state in states]
    arrays = jax.tree.map(lambda *x: jnp.stack(x), *(eqx.filter(state, eqx.is_array) for state in states))
    return eqx.combine(place(arrays, mesh, split=True), eqx.filter(states[0], eqx.is_array, inverse=True))


def _unstacked(stacked: LoopState, testers: Sequence[tuple[PyTree, ...]], mesh: Mesh) -> list[LoopState]:
    """The states of the seeds, on one device. What a call has taken stays as it is."""
    device = mesh.local_devices[0]

    def row(x: Any, seed: int) -> Any:
        return jax.device_put(x[seed], device) if eqx.is_array(x) and not x.is_deleted() else x

    return [
        eqx.tree_at(lambda state: state.testers, jax.tree.map(lambda x, seed=seed: row(x, seed), stacked), mine)
        for seed, mine in enumerate(testers)
    ]


def _revived(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> LoopState:
    return revive(config, env, state, mesh)[0]


def _over_seeds(function: Callable[[Any, LoopState], tuple], shared: PyTree, states: LoopState, mesh: Mesh) -> tuple:
    """`function(shared, state)` for each seed. A device with one seed runs the very program of that seed alone."""
    arrays, static = eqx.partition(states, eqx.is_array)

    def local(shared, arrays):
        def one(arrays):
            after, metrics = function(shared, eqx.combine(arrays, static))
            return eqx.filter(after, eqx.is_array), metrics

        if arrays.epoch.shape[0] > 1:
            return jax.vmap(one)(arrays)
        return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], arrays)))

    arrays, metrics = over_games(mesh, local, shared, arrays)
    return eqx.combine(arrays, static), metrics


@eqx.filter_jit(donate="all-except-first")
def compiled_self_play(inputs: tuple[TrainConfig, Env, LoopState, int, Mesh], games: tuple) -> tuple[tuple, dict]:
    """The games and buffers of all seeds after some moves. The rest of the states is not given up."""
    config, env, others, num_moves, mesh = inputs

    def function(shared, state):
        config, env = shared
        return self_play_phase(config, env, state, num_moves=num_moves)

    states, metrics = _over_seeds(function, (config, env), _with_games(others, games), mesh)
    return (states.games, states.replay), metrics


@eqx.filter_jit
def compiled_gradients(config: TrainConfig, states: LoopState, mesh: Mesh) -> tuple[TrainState, dict]:
    """What all seeds have learned after the gradient steps of an epoch."""
    states, metrics = _over_seeds(gradient_phase, config, states, mesh)
    return states.train, metrics


def _play(config: TrainConfig, env: Env, newest: Newest, num_moves: int, mesh: Mesh) -> dict[str, Array]:
    games = newest.state.games, newest.state.replay
    inputs = config, env, _with_games(newest.state, (None, None)), num_moves, mesh
    games, metrics = compiled_self_play(inputs, games)
    newest.keep(_with_games(newest.state, games))
    return metrics


def _with_games(state: LoopState, games: tuple) -> LoopState:
    """The state with other games and another buffer."""
    return eqx.tree_at(lambda state: (state.games, state.replay), state, games, is_leaf=lambda x: x is None)


def _warm_up(config: TrainConfig, env: Env, newest: Newest, mesh: Mesh) -> None:
    """Makes the moves before the first epoch that are still missing, in the chunks of [`tz.train_loop`][]."""
    if int(newest.state.epoch[0]) == 0:
        for done in range(int(newest.state.games.step.max()), config.warmup_moves, config.moves_per_epoch):
            _play(config, env, newest, min(config.moves_per_epoch, config.warmup_moves - done), mesh)


def _epoch(config: TrainConfig, env: Env, newest: Newest, mesh: Mesh) -> list[dict[str, Any]]:
    """Goes one epoch on from the newest state, and returns the metrics of each seed."""
    started, epoch = time.perf_counter(), int(newest.state.epoch[0])
    played = jax.device_get(_play(config, env, newest, config.moves_per_epoch, mesh))
    moves_per_second = config.num_games * config.moves_per_epoch / (time.perf_counter() - started)
    train, learned = compiled_gradients(config, newest.state, mesh)
    newest.keep(eqx.tree_at(lambda state: state.train, newest.state, train))
    metrics, rows = played | jax.device_get(learned), []
    seconds = time.perf_counter() - started
    for seed in range(len(newest.state.epoch)):
        row = {name: x[seed].item() for name, x in metrics.items()}
        row["moves_per_second"] = moves_per_second
        if row["episodes"] == 0:
            row = {name: x for name, x in row.items() if name not in ("mean_return", "return_spread")}
        if (bad := row.pop("bad_positions")) or (row["replay_known"] and math.isnan(row["loss"])):
            warnings.warn(
                f"train_seeds: seed {seed} has {bad} positions without a legal action or a finite value, and "
                f"{row['skipped_steps']} gradient steps that are not finite, in epoch {epoch}. The other seeds go on; "
                "train this one alone with tz.train_loop, which says where it begins.",
                stacklevel=3,
            )
        skipped = row.pop("skipped_steps")
        if config.skip_nonfinite:
            row["skipped_steps"] = skipped
        rows.append({"epoch": epoch, **row, "seconds": seconds})
    return rows


def _test(
    config: TrainConfig, env: Env, states: LoopState, testers: list[tuple[PyTree, ...]], rows: list[dict], mesh: Mesh
) -> bool:
    """Lets the testers play the network of each seed; their states and the rows are changed."""
    if not config.testers or (int(states.epoch[0]) + 1) % config.epochs_per_test:
        return False
    test_mcts = without_exploration(config.mcts) if config.test_mcts is None else config.test_mcts
    test_env = env if config.test_env is None else config.test_env
    for seed, state in enumerate(_unstacked(_with_games(states, (None, None)), testers, mesh)):
        state, tested = test_phase(config, test_env, test_mcts, state, mesh)
        testers[seed] = state.testers
        rows[seed] |= tested
    return True
