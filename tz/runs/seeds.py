"""Training several seeds in one program."""

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from tz.games.env import Env
from tz.learn.epochs import gradient_phase, self_play_phase
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import TrainState
from tz.runs._new_games import revive
from tz.runs._stacked_states import check_seeds_memory, mesh_of, of_seed, stacked
from tz.runs._state_checks import check_state
from tz.runs.checkpoints import Checkpoints
from tz.runs.phases import test_phase, warm_up_chunks
from tz.runs.sinks import Sink, bar, call_sinks, told
from tz.runs.stopping import Newest, StopTraining, changed_by, last_epoch, noted_signals
from tz.sharding import data_mesh, over_games


def train_seeds(
    config: TrainConfig,
    env: Env,
    states: Sequence[LoopState],
    *,
    num_epochs: int | None,
    sinks: Sequence[Sink] = (),
    progress: bool | Callable[[str], None] = True,
    mesh: Mesh | None = None,
    checkpoints: Sequence[Checkpoints] = (),
    before_epoch: Callable[[LoopState], LoopState] | None = None,
) -> list[LoopState]:
    """Trains several states side by side in one program, each as [`tz.train_loop`][] would alone.

    The states are independent: only their seeds differ, and so they show how much of a result is chance. A device maps
    its seeds by `jax.vmap`. On a CPU, convolutions whose weights differ by seed are slow (see
    `experiments/results/epoch_cpu.md`), so make as many devices as there are seeds before JAX starts:
    `jax.config.update("jax_num_cpu_devices", 4)`. Speed on a GPU was not measured.

    If numbers of a seed are no longer finite, there is a warning, and its losses are NaN. The others go on.

    **Arguments:**

    - `states`: one a seed, each from [`tz.init_loop`][] with another key, or from an earlier call. Their games and
        buffers are donated.
    - `num_epochs`: how many more; None for no end but that of `before_epoch`.
    - `sinks`: called for each seed after each epoch, with metrics that begin with `seed`, the place in `states`. A file
        of a [`tz.JsonLinesSink`][] has all seeds, and [`tz.plot.plot_learning`][] draws their mean and interval.
    - `mesh`: from [`tz.data_mesh`][]: its devices share the seeds evenly. By default as many of all devices as divide
        the number of seeds.
    - `progress`: as in [`tz.train_loop`][].
    - `checkpoints`: none, or one a seed, from which a seed can be resumed alone.
    - `before_epoch`: as in [`tz.train_loop`][], but it is called once for all seeds, with a state whose arrays have
        them along a leading axis.

    **Returns:** the states after the last epoch, in the same order; each can be trained further by
    [`tz.train_loop`][]. An exception that leaves the function has them as `states`.

    **Raises:** `ValueError` if a state does not belong to the settings, the states do not belong together, or they do
    not fit into memory; `SystemExit` after Ctrl-C or SIGTERM with checkpoints, which are complete then.
    """
    mesh = mesh_of(states, mesh)
    one = data_mesh(list(mesh.local_devices)[:1])
    for state in states:
        check_state(config, env, state, mesh=one, where="train_seeds")
    if checkpoints and len(checkpoints) != len(states):
        raise ValueError(
            f"train_seeds: found {len(checkpoints)} checkpoints, expected none or one for each of {len(states)} seeds."
        )
    last = last_epoch("train_seeds", num_epochs, states[0])
    if num_epochs == 0:
        return list(states)
    check_seeds_memory(config, env, states, mesh)
    testers = [state.testers for state in states]
    newest = Newest(stacked(states, mesh))

    def alone(seed: int) -> LoopState:
        return revive(config, env, of_seed(newest.state, seed, testers[seed], one), one)[0]

    try:
        with (
            noted_signals(newest, saves=bool(checkpoints)) as noted,
            bar(num_epochs, "epoch", progress is True) as epochs,
        ):
            say = told(progress)
            say("warm-up")
            _warm_up(config, env, newest, mesh)
            while not noted and (last is None or int(newest.state.epoch[0]) < last):
                try:
                    newest.keep(newest.state if before_epoch is None else changed_by(before_epoch, newest.state))
                except StopTraining:
                    break
                started = time.perf_counter()
                rows = _epoch(config, env, newest, mesh, say)
                say("testing" if (int(newest.state.epoch[0]) + 1) % config.epochs_per_test == 0 else "training")
                is_tested = _test(config, env, newest.state, testers, rows, one)
                newest.keep(eqx.tree_at(lambda state: state.epoch, newest.state, newest.state.epoch + 1))
                seconds = time.perf_counter() - started
                try:
                    for seed, kept in enumerate(checkpoints):
                        row = {**rows[seed], "seconds": seconds}
                        kept.after_epoch(lambda seed=seed: alone(seed), row, tested=is_tested)
                finally:
                    for seed, row in enumerate(rows):
                        call_sinks(sinks, {"seed": seed, **row, "seconds": seconds})
                epochs.update()
        states = [alone(seed) for seed in range(len(testers))]
        for kept, state in zip(checkpoints, states, strict=False):
            kept.finish(state)
        if noted:
            _say_stopped(noted[0], states, checkpoints)
        return states
    except BaseException as error:
        error.states = [alone(seed) for seed in range(len(testers))]  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("This exception has the newest state of each seed as `states`; tz.runs.train_seeds can go on.")
        raise


def _say_stopped(caught: str, states: Sequence[LoopState], checkpoints: Sequence[Checkpoints]) -> None:
    """Says what to do after a signal; with checkpoints, which are complete then, ends the process."""
    done = f"{caught} after {int(states[0].epoch)} epochs"
    if not checkpoints:
        print(f"{done}, whose states train_seeds returns. Call it with these states to go on.", file=sys.stderr)
        return
    raise SystemExit(
        f"{done}, all of which are saved. Go on with each seed alone, by tz.Checkpoints(..., resume=True), on the "
        f"command line: python -m tz resume {checkpoints[0].folder}, and so on."
    )


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
    """Makes the moves before the first epoch that are still missing."""
    if int(newest.state.epoch[0]) == 0:
        for num_moves in warm_up_chunks(config, newest.state):
            played = jax.device_get(_play(config, env, newest, num_moves, mesh))
            for seed, num_bad in enumerate(played["bad_positions"]):
                _warn(seed, int(num_bad), 0, "the warm-up")


def _warn(seed: int, num_bad: int, num_skipped: int, where: str) -> None:
    """Warns of a seed whose numbers are not finite, or whose game has no legal action."""
    if num_bad or num_skipped:
        warnings.warn(
            f"train_seeds: seed {seed} has {num_bad} positions without a legal action or a finite value, and "
            f"{num_skipped} gradient steps that are not finite, in {where}. The other seeds go on; train this one "
            "alone with tz.train_loop, which says where it begins.",
            stacklevel=4,
        )


def _epoch(
    config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Goes one epoch on from the newest state, and returns the metrics of each seed."""
    started, epoch = time.perf_counter(), int(newest.state.epoch[0])
    say("self-play")
    played = jax.device_get(_play(config, env, newest, config.moves_per_epoch, mesh))
    say("training")
    seconds, moves = time.perf_counter() - started, config.num_games * config.moves_per_epoch
    train, learned = compiled_gradients(config, newest.state, mesh)
    newest.keep(eqx.tree_at(lambda state: state.train, newest.state, train))
    learned, rows = jax.device_get(learned), []
    for seed in range(len(newest.state.epoch)):
        row, more = ({name: x[seed].item() for name, x in metrics.items()} for metrics in (played, learned))
        num_bad, num_simulations = row.pop("bad_positions"), row.pop("simulations")
        row |= {
            "moves": moves,
            "moves_per_second": moves / seconds,
            "simulations_per_second": num_simulations / seconds,
        }
        if row["episodes"] == 0:
            row = {name: x for name, x in row.items() if name not in ("mean_length", "mean_return", "return_spread")}
        num_skipped = more.pop("skipped_steps") if row["replay_known"] else 0
        _warn(seed, num_bad, 0 if config.skip_nonfinite else num_skipped, f"epoch {epoch}")
        if row["replay_known"]:  # else nothing was learned
            row |= {"gradient_steps": config.train_steps_per_epoch, **more}
            row |= {"skipped_steps": num_skipped} if config.skip_nonfinite else {}
        rows.append({"epoch": epoch, **row})
    return rows


def _test(
    config: TrainConfig, env: Env, states: LoopState, testers: list[tuple[PyTree, ...]], rows: list[dict], mesh: Mesh
) -> bool:
    """Lets the testers play the network of each seed; their states and the rows are changed."""
    if not config.testers or (int(states.epoch[0]) + 1) % config.epochs_per_test:
        return False
    without_games = _with_games(states, (None, None))
    for seed, mine in enumerate(testers):
        state, tested = test_phase(config, env, of_seed(without_games, seed, mine, mesh), mesh)
        testers[seed] = state.testers
        rows[seed] |= tested
    return True
