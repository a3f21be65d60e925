"""The training loop: each epoch plays games and trains the network on samples of them; some epochs test it, too."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree
from tqdm import tqdm

from tz._arguments import check_one_key
from tz.games.env import Env
from tz.learn.new_games import evaluator_of
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import init_train
from tz.runs._new_games import new_games, revive
from tz.runs._start_checks import check_start
from tz.runs._state_checks import check_state
from tz.runs.checkpoints import Checkpoints
from tz.runs.memory_plan import check_memory, plan_memory
from tz.runs.phases import (
    NotFiniteError,
    check_types,
    collect_phase,
    test_phase,
    train_phase,
    warm_up_chunks,
)
from tz.runs.sinks import Sink, bar, call_sinks, console_sink, told
from tz.runs.stopping import (
    Newest,
    StopTraining,
    agreed,
    changed_by,
    check_calls,
    keeping_state,
    last_epoch,
    noted_signals,
)
from tz.sharding import check_mesh, place, usable_mesh


def init_loop(
    config: TrainConfig,
    env: Env,
    network: PyTree,
    norm_state: eqx.nn.State | None = None,
    *,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
) -> LoopState:
    """Returns the state before the first epoch: new games, an empty buffer, and the given network.

    It first checks the settings, and plays a few random games to see whether the game keeps the rules of [`tz.Env`][];
    [`tz.check_env`][] plays more of them. There is a warning if a value in (-1, 1) cannot reach the results of these
    games, or if the results depend on a random key in the state.

    **Arguments:**

    - `config`: the settings of the training.
    - `env`: the game.
    - `network`: any module `obs -> (logits, value)`, as in [`tz.init_train`][]. If it is in inference mode throughout,
        as that of a loaded agent, it is put into training mode, see `equinox.nn.inference_mode`.
    - `norm_state`: the state of a stateful network, as in [`tz.init_train`][].
    - `key`: the key of the games and of all randomness in the training.
    - `mesh`: the devices, as in [`tz.train_loop`][].

    **Returns:** the state for [`tz.train_loop`][], with its games and buffer split over the mesh.

    **Raises:** `ValueError`, before the training is compiled, if the game breaks a rule; if the network, a test, an
    opponent or the augmentation does not fit the game; if the games cannot be split evenly over the devices; or if the
    run does not fit into memory.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, num_games=config.num_games, train_batch_size=config.train_batch_size)
    check_one_key("init_loop", key)
    if all(flag for flag in jax.tree.leaves(network) if isinstance(flag, bool)):  # as in a loaded agent
        network = eqx.nn.inference_mode(network, value=False)
    config, env, network, norm_state = place((config, env, network, norm_state), mesh, split=False)
    check_start(config, env, network, norm_state)
    check_memory(plan_memory(config, env, network, norm_state, mesh=mesh), mesh)
    games_key, key = jax.random.split(key)
    train = init_train(config.optimizer, network, norm_state, average=config.average_decay is not None)
    train, epoch, key = place((train, jnp.int32(0), key), mesh, split=False)
    games, replay = new_games(config, env, train, mesh, games_key)
    testers = tuple(tester.init(evaluator_of(config, env, train), mesh=mesh) for tester in config.testers)
    # Optimisers and testers may keep arrays that they were given. The state needs its own, since it may be donated.
    train, testers = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, (train, testers))
    state = LoopState(train, games, replay, testers, epoch, key)
    check_types(config, env, state, mesh)
    return state


def train_loop(
    config: TrainConfig,
    env: Env,
    state: LoopState,
    *,
    num_epochs: int | None,
    sinks: Sequence[Sink] = (console_sink,),
    progress: bool | Callable[[str], None] = True,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    before_epoch: Callable[[LoopState], LoopState] | None = None,
) -> LoopState:
    """Trains for `num_epochs` more epochs. Each plays games with the newest weights and makes gradient steps.

    The testers run in every `epochs_per_test`-th epoch.

    Games, buffer and matches are split evenly over the devices of the mesh. Weights are the same on all devices. One,
    two, four or eight devices train alike but for the rounding of sums and products in XLA; with other numbers, the
    samples of a batch may differ as well.

    Ctrl-C lets the epoch finish, and the loop returns the state. With `checkpoints`, Ctrl-C and SIGTERM let the epoch
    finish, save the state, and end the process with a message that says how to continue. A second Ctrl-C interrupts at
    once. Every exception that leaves the loop, including `KeyboardInterrupt`, has the newest state in its attribute
    `state`, and training can continue from it.

    **Arguments:**

    - `config`: the settings of the training. They may differ from the settings of an earlier call if the arrays of the
        state stay the same, as with another learning rate or loss.
    - `env`: the game.
    - `state`: from [`tz.init_loop`][], an earlier call, or `checkpoints.restore`. Training continues where it stopped,
        on any number of devices. Games and buffer are donated, so use only the returned state afterwards.
    - `num_epochs`: the number of epochs to add. With None, training ends only through `before_epoch` or a signal. With
        0, the state is returned unchanged.
    - `sinks`: functions that are called with the metrics of each epoch, after its checkpoint, in the first process
        only. If a sink raises an exception, there is a warning and training continues.
    - `progress`: True to show progress bars in a terminal or a notebook, False for none, or a function that is called
        with the name of each phase as it begins, such as `"self-play"`.
    - `mesh`: the devices, from [`tz.data_mesh`][]; by default all of them.
    - `checkpoints`: where to save the state; None to save nothing.
    - `before_epoch`: a function `state -> state` that is called before each epoch. It may change the state, and it may
        raise [`tz.runs.StopTraining`][] to end the training.

    **Returns:** the state after the last epoch.

    **Raises:** `FloatingPointError` as soon as an output of the network or the loss is not finite; the message says
    where, and with checkpoints the state is saved. `ValueError` if the state does not fit the settings, the games
    cannot be split evenly over the devices, `before_epoch` returns no state, or no tester has the metric that
    `checkpoints` compare. `OSError` if a checkpoint cannot be written. `SystemExit` after a signal, with checkpoints.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, num_games=config.num_games, train_batch_size=config.train_batch_size)
    check_state(config, env, state, mesh=mesh)
    sinks = check_calls("train_loop", sinks, [] if checkpoints is None else [checkpoints])
    last = last_epoch("train_loop", num_epochs, state)
    if num_epochs == 0:
        return state
    if checkpoints is not None:
        checkpoints.check_follows("train_loop", state)
    config, env = place((config, env), mesh, split=False)
    newest, shown = Newest(on_mesh(state, mesh)), progress is True and jax.process_index() == 0
    say = told(progress)
    with (
        keeping_state(newest, lambda state: revive(config, env, state, mesh)),
        _set_aside(checkpoints),
        noted_signals(newest, saves=checkpoints is not None) as noted,
        bar(num_epochs, "epoch", shown) as epochs,
    ):
        _warm_up(config, env, newest, mesh, epochs, say)
        while last is None or int(newest.state.epoch) < last:
            try:
                newest.keep(newest.state if before_epoch is None else changed_by(before_epoch, newest.state))
            except StopTraining:
                break
            metrics = _epoch(config, env, newest, mesh, shown, say)
            try:  # the sinks get the metrics even if the checkpoint fails
                if checkpoints is not None:
                    is_tested = int(newest.state.epoch) % config.epochs_per_test == 0
                    checkpoints.after_epoch(lambda: newest.state, metrics, tested=is_tested)
            finally:
                call_sinks(sinks, metrics)
            epochs.update()
            if caught := agreed(noted):
                _say_stopped(caught, newest.state, checkpoints)
                break
        if checkpoints is not None:
            checkpoints.finish(newest.state)
        return newest.state


def _say_stopped(caught: str, state: LoopState, checkpoints: Checkpoints | None) -> None:
    """Tells the user how to continue after a signal. With checkpoints, saves the state and ends the process."""
    done = f"{caught} after {int(state.epoch)} epochs"
    if checkpoints is None:
        print(f"{done}: train_loop returns the state. Call it with this state to continue.", file=sys.stderr)
        return
    checkpoints.finish(state)
    raise SystemExit(
        f"{done}, which are saved in {checkpoints.folder}. Continue with tz.Checkpoints(..., resume=True), or on the "
        f"command line: python -m tz resume {checkpoints.folder}"
    )


@contextmanager
def _set_aside(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Saves the state in which a number was not finite, and adds the folder to the exception."""
    try:
        yield
    except NotFiniteError as error:
        if checkpoints is not None:
            error.add_note(f"The state is saved in {checkpoints.save_aside(error.state)} for inspection.")
        raise


def _warm_up(
    config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, epochs: tqdm, say: Callable[[str], None]
) -> None:
    """Plays the moves that are still missing before the first epoch."""
    if config.warmup_moves == 0 or int(newest.state.epoch) > 0:
        return
    epochs.set_description("warm-up")
    say("warm-up")
    for num_moves in warm_up_chunks(config, newest.state):
        _advance(newest, collect_phase, config, env, newest.state, num_moves, mesh)
    epochs.set_description("")


def _epoch(config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, shown: bool, say: Callable[[str], None]) -> dict:
    """Runs one epoch from the newest state, and returns its metrics."""
    started, epoch = time.perf_counter(), int(newest.state.epoch)
    tests = (epoch + 1) % config.epochs_per_test == 0 and len(config.testers) > 0
    with bar(2 + tests, "phase", shown, leave=False) as phases:

        def begin(phase: str) -> None:
            phases.set_description(phase)
            say(phase)

        begin("self-play")
        num_moves = config.moves_per_epoch
        metrics = _advance(newest, collect_phase, config, env, newest.state, num_moves, mesh)
        phases.update()
        begin("training")
        metrics |= _advance(newest, train_phase, config, newest.state, mesh)
        phases.update()
        if tests:
            begin("testing")
            metrics |= _advance(newest, test_phase, config, env, newest.state, mesh)
    newest.keep(dataclasses.replace(newest.state, epoch=newest.state.epoch + 1))
    return {"epoch": epoch, **metrics, "seconds": time.perf_counter() - started}


def _advance(newest: Newest, phase: Callable[..., tuple[LoopState, dict]], *inputs: Any) -> dict:
    """Runs a phase, keeps the state after it as the newest, and returns the metrics of the phase."""
    try:
        state, metrics = phase(*inputs)
    except NotFiniteError as error:
        newest.keep(error.state)
        raise
    newest.keep(state)
    return metrics


def on_mesh(state: LoopState, mesh: Mesh) -> LoopState:
    """Moves a state, which may be on another mesh, to this one.

    Games and buffer are split over the devices; everything else is copied to each device.

    **Raises:** `ValueError` if the games cannot be split evenly.
    """
    check_mesh(mesh, num_games=state.games.step.shape[0])
    games, replay = place((state.games, state.replay), mesh, split=True)
    train, testers, epoch, key = place((state.train, state.testers, state.epoch, state.key), mesh, split=False)
    return LoopState(train, games, replay, testers, epoch, key)
