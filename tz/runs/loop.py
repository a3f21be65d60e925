"""The training loop: every epoch collects by self-play, trains on samples, and tests; each a function to call alone."""

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
from tz.runs.stopping import Newest, StopTraining, agreed, changed_by, keeping_state, last_epoch, noted_signals
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
    """The state before the first epoch: new games, an empty buffer, the network as it comes.

    **Arguments:** `network`, any module `obs -> (logits, value)`; `norm_state`, for the stateful form, both as
    [`tz.init_train`][] takes them; `mesh`, as [`tz.train_loop`][] takes it.

    A few random games show whether the game keeps the rules of [`tz.Env`][]; [`tz.check_env`][] looks at more of them.
    It warns when a value in (-1, 1) cannot reach their results, or when they depend on a random key in the state.

    **Raises:** `ValueError`, before anything of the training is compiled, if the game breaks a rule, game and network
    do not fit together, the tests, an opponent or the augmentation are of another game, the games cannot be split
    evenly over the devices, or it cannot all fit into memory.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, num_games=config.num_games, train_batch_size=config.train_batch_size)
    check_one_key("init_loop", key)
    config, env, network, norm_state = place((config, env, network, norm_state), mesh, split=False)
    check_start(config, env, network, norm_state)
    check_memory(plan_memory(config, env, network, norm_state, mesh=mesh), mesh)
    games_key, key = jax.random.split(key)
    train = init_train(config.optimizer, network, norm_state, average=config.average_decay is not None)
    train, epoch, key = place((train, jnp.int32(0), key), mesh, split=False)
    games, replay = new_games(config, env, train, mesh, games_key)
    testers = tuple(tester.init(evaluator_of(config, env, train), mesh=mesh) for tester in config.testers)
    # Optimisers and testers may keep what they were given; the state has arrays of its own, which it may give up.
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
    """Trains for `num_epochs` more epochs: in each, collects, trains and tests, always with the newest weights.

    Games, buffer and matches are split evenly over the devices of the mesh, weights are the same on all. Games do not
    depend on the number of devices, except for how XLA rounds sums and products.

    Ctrl-C lets the epoch finish. Then the loop returns the state; with `checkpoints`, it saves the state and ends the
    process (as SIGTERM does), with a message that says how to go on. Another Ctrl-C interrupts at once. Every exception
    that leaves the loop, `KeyboardInterrupt` included, has the newest state as `state`, and training can go on from it.

    **Arguments:**

    - `state`: from [`tz.init_loop`][], an earlier call, or `checkpoints.restore`; training goes on where it stopped, on
        any number of devices. Its games and buffer are donated: use the state that is returned from then on.
    - `num_epochs`: None for no end but that of `before_epoch`; for 0 the state is returned as it is.
    - `sinks`: called with the metrics of each epoch, by the first process only, after its checkpoint. A sink that
        raises an exception costs a warning, and training goes on.
    - `progress`: whether a terminal or a notebook shows bars; or a function that is told what begins, such as
        `"self-play"`.
    - `mesh`: from [`tz.data_mesh`][], by default of all devices.
    - `checkpoints`: where to save the state.
    - `before_epoch`: `state -> state`, called before each epoch, to change something in the state; it raises
        [`tz.runs.StopTraining`][] to end the training.

    **Returns:** the state after the last epoch.

    **Raises:** `FloatingPointError` as soon as the network's outputs or the loss are not finite, saying where, with the
    state saved if there are checkpoints; `ValueError` if the games cannot be split evenly over the devices,
    `before_epoch` returns no state, or no tester has the metric that `checkpoints` are to compare; `OSError` if a
    checkpoint cannot be written.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, num_games=config.num_games, train_batch_size=config.train_batch_size)
    check_state(config, env, state, mesh=mesh)
    last = last_epoch("train_loop", num_epochs, state)
    if num_epochs == 0:
        return state
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
            try:
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
    """Says what to do after a signal; with checkpoints, which are complete then, ends the process."""
    done = f"{caught} after {int(state.epoch)} epochs"
    if checkpoints is None:
        print(f"{done}, whose state train_loop returns. Call it with this state to go on.", file=sys.stderr)
        return
    checkpoints.finish(state)
    raise SystemExit(
        f"{done}, all of which are saved in {checkpoints.folder}. "
        f"Go on with tz.Checkpoints(..., resume=True), on the command line: python -m tz resume {checkpoints.folder}"
    )


@contextmanager
def _set_aside(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Saves the state in which something came up that is not finite, and says where."""
    try:
        yield
    except NotFiniteError as error:
        if checkpoints is not None:
            error.add_note(f"The state is saved in {checkpoints.save_aside(error.state)}, to look at.")
        raise


def _warm_up(
    config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, epochs: tqdm, say: Callable[[str], None]
) -> None:
    """Makes the moves before the first epoch that are still missing."""
    if config.warmup_moves == 0 or int(newest.state.epoch) > 0:
        return
    epochs.set_description("warm-up")
    say("warm-up")
    for num_moves in warm_up_chunks(config, newest.state):
        _advance(newest, collect_phase, config, env, newest.state, num_moves, mesh)
    epochs.set_description("")


def _epoch(config: TrainConfig, env: Env, newest: Newest, mesh: Mesh, shown: bool, say: Callable[[str], None]) -> dict:
    """Goes one epoch on from the newest state, and returns the metrics."""
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
    """Makes the state after a phase the newest one, and returns the metrics of the phase."""
    try:
        state, metrics = phase(*inputs)
    except NotFiniteError as error:
        newest.keep(error.state)
        raise
    newest.keep(state)
    return metrics


def on_mesh(state: LoopState, mesh: Mesh) -> LoopState:
    """The state with games and buffer split over the mesh and the rest whole on each device; it may come from another.

    **Raises:** `ValueError` if the games cannot be split evenly.
    """
    check_mesh(mesh, num_games=state.games.step.shape[0])
    games, replay = place((state.games, state.replay), mesh, split=True)
    train, testers, epoch, key = place((state.train, state.testers, state.epoch, state.key), mesh, split=False)
    return LoopState(train, games, replay, testers, epoch, key)
