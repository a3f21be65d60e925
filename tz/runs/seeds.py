"""Trains several seeds in one program."""

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
from tz.runs.stopping import Newest, StopTraining, changed_by, check_calls, last_epoch, noted_signals
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
    """Trains several states side by side in one program, each as [`tz.train_loop`][] would train it alone.

    The states are independent. If only their seeds differ, they show how much of a result is chance.

    Several seeds on one device are mapped by `jax.vmap`. On a CPU, convolutions whose weights differ by seed are slow
    (see `experiments/results/epoch_cpu.md`), so make as many devices as there are seeds before JAX starts:
    `jax.config.update("jax_num_cpu_devices", 4)`. The speed on a GPU was not measured.

    If numbers of a seed are no longer finite, there is a warning, and its losses are NaN. The other seeds continue.

    **Arguments:**

    - `config`, `env`: the settings of the training and the game, the same for all seeds.
    - `states`: a state for each seed, each from [`tz.init_loop`][] with a different key, or from an earlier call. Their
        games and buffers are donated.
    - `num_epochs`: the number of epochs to add. With None, training ends only through `before_epoch` or a signal.
    - `sinks`: called for each seed after each epoch, with metrics that begin with `seed`, the index in `states`. A
        [`tz.JsonLinesSink`][] writes all seeds to one file, and [`tz.plot.plot_learning`][] draws their mean with an
        interval.
    - `progress`: as in [`tz.train_loop`][].
    - `mesh`: the devices, from [`tz.data_mesh`][], which share the seeds evenly. By default their number is the
        greatest common divisor of the numbers of seeds and of all devices.
    - `checkpoints`: none, or one for each seed, from which the seed can be resumed alone.
    - `before_epoch`: as in [`tz.train_loop`][], but it is called once for all seeds, with a state whose arrays have the
        seeds along a leading axis.

    **Returns:** the states after the last epoch, in the same order. [`tz.train_loop`][] can continue each of them.

    **Raises:** `ValueError` if a state does not fit the settings, if the states differ in more than the values of their
    arrays, or if they do not fit into memory; `SystemExit` after Ctrl-C or SIGTERM, with complete checkpoints, if there
    are any. Every exception during the training has the newest states in its attribute `states`.
    """
    mesh = mesh_of(states, mesh)
    one = data_mesh(list(mesh.local_devices)[:1])
    for state in states:
        check_state(config, env, state, mesh=one, where="train_seeds")
    if isinstance(checkpoints, Checkpoints):
        checkpoints = [checkpoints]
    checkpoints = list(checkpoints or ())
    sinks = check_calls("train_seeds", sinks, checkpoints)
    folders = {saved.folder.resolve() for saved in checkpoints}
    if checkpoints and not len(folders) == len(checkpoints) == len(states):
        raise ValueError(
            f"train_seeds: found {len(checkpoints)} checkpoints"
            + (f" in {len(folders)} folders" if len(folders) < len(checkpoints) else "")
            + f", expected none or one for each of {len(states)} seeds; pass a tz.Checkpoints with a folder of its own "
            "for each."
        )
    last = last_epoch("train_seeds", num_epochs, states[0])
    if num_epochs == 0:
        return list(states)
    for saved, state in zip(checkpoints, states, strict=False):
        saved.check_follows("train_seeds", state)
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
                is_test = bool(config.testers) and (int(newest.state.epoch[0]) + 1) % config.epochs_per_test == 0
                if is_test:
                    say("testing")
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
        error.add_note(
            "The attribute `states` of this exception has the newest state of each seed; tz.runs.train_seeds can "
            "continue from them."
        )
        raise


def _say_stopped(caught: str, states: Sequence[LoopState], checkpoints: Sequence[Checkpoints]) -> None:
    """Tells the user how to continue after a signal. With checkpoints, which are complete, ends the process."""
    done = f"{caught} after {int(states[0].epoch)} epochs"
    if not checkpoints:
        print(f"{done}: train_seeds returns the states. Call it with these states to continue.", file=sys.stderr)
        return
    raise SystemExit(
        f"{done}, which are saved. Continue each seed alone with tz.Checkpoints(..., resume=True), or on the command "
        f"line: python -m tz resume {checkpoints[0].folder}, and the same for the other folders."
    )


def _over_seeds(function: Callable[[Any, LoopState], tuple], shared: PyTree, states: LoopState, mesh: Mesh) -> tuple:
    """Calls `function(shared, state)` for each seed. A device with one seed runs the program without `vmap`."""
    arrays, static = eqx.partition(states, eqx.is_array)

    def local(shared, arrays):
        def one(arrays):
            after, metrics = function(shared, eqx.combine(arrays, static))
            return eqx.filter(after, eqx.is_array), metrics

        if arrays.epoch.shape[0] > 1:  # the seeds of this device
            return jax.vmap(one)(arrays)
        return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], arrays)))

    arrays, metrics = over_games(mesh, local, shared, arrays)
    return eqx.combine(arrays, static), metrics


@eqx.filter_jit(donate="all-except-first")
def compiled_self_play(inputs: tuple[TrainConfig, Env, LoopState, int, Mesh], games: tuple) -> tuple[tuple, dict]:
    """Plays some moves in the games of all seeds. Only games and buffers are donated, not the rest of the states."""
    config, env, others, num_moves, mesh = inputs

    def function(shared, state):
        config, env = shared
        return self_play_phase(config, env, state, num_moves=num_moves)

    states, metrics = _over_seeds(function, (config, env), _with_games(others, games), mesh)
    return (states.games, states.replay), metrics


@eqx.filter_jit
def compiled_gradients(config: TrainConfig, states: LoopState, mesh: Mesh) -> tuple[TrainState, dict]:
    """Makes the gradient steps of an epoch for all seeds."""
    states, metrics = _over_seeds(gradient_phase, config, states, mesh)
    return states.train, metrics


def _play(config: TrainConfig, env: Env, newest: Newest, num_moves: int, mesh: Mesh) -> dict[str, Array]:
    """Plays some moves in all games, keeps the state after them as the newest, and returns the metrics."""
    games = newest.state.games, newest.state.replay
    inputs = config, env, _with_games(newest.state, (None, None)), num_moves, mesh
    games, metrics = compiled_self_play(inputs, games)
    newest.keep(_with_games(newest.state, games))
    return metrics


def _with_games(state: LoopState, games: tuple) -> LoopState:
    """Replaces the games and the buffer of a state."""
    return eqx.tree_at(lambda state: (state.games, state.replay), state, games, is_leaf=lambda x: x is None)


def _warm_up(config: TrainConfig, env: Env, newest: Newest, mesh: Mesh) -> None:
    """Plays the moves that are still missing before the first epoch."""
    if int(newest.state.epoch[0]) == 0:
        for num_moves in warm_up_chunks(config, newest.state):
            played = jax.device_get(_play(config, env, newest, num_moves, mesh))
            for seed, num_bad in enumerate(played["bad_positions"]):
                _warn(seed, int(num_bad), 0, "the warm-up")


def _warn(seed: int, num_bad: int, num_skipped: int, where: str) -> None:
    """Warns if a seed has numbers that are not finite, or a game without a legal action."""
    if num_bad or num_skipped:
        warnings.warn(
            f"train_seeds: found {num_bad} positions without a legal action or a finite value, and {num_skipped} "
            f"gradient steps that are not finite, for seed {seed} in {where}, expected none; train this seed alone "
            "with tz.train_loop, which says where the fault begins. The other seeds continue.",
            stacklevel=4,
        )


def _epoch(
    config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Plays and trains for one epoch from the newest state, and returns the metrics of each seed."""
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
        if row["episodes"] == 0:  # means over no episodes are NaN or meaningless
            row = {name: x for name, x in row.items() if name not in ("mean_length", "mean_return", "return_spread")}
        num_skipped = more.pop("skipped_steps") if row["replay_known"] else 0
        _warn(seed, num_bad, 0 if config.skip_nonfinite else num_skipped, f"epoch {epoch}")
        if row["replay_known"]:  # otherwise there were no gradient steps
            row |= {"gradient_steps": config.train_steps_per_epoch, **more}
            row |= {"skipped_steps": num_skipped} if config.skip_nonfinite else {}
        rows.append({"epoch": epoch, **row})
    return rows


def _test(
    config: TrainConfig, env: Env, states: LoopState, testers: list[tuple[PyTree, ...]], rows: list[dict], mesh: Mesh
) -> bool:
    """Runs the testers for each seed, if this epoch has tests, and changes `testers` and `rows` in place."""
    if not config.testers or (int(states.epoch[0]) + 1) % config.epochs_per_test:
        return False
    without_games = _with_games(states, (None, None))
    for seed, mine in enumerate(testers):
        state, tested = test_phase(config, env, of_seed(without_games, seed, mine, mesh), mesh)
        testers[seed] = state.testers
        rows[seed] |= tested
    return True
