"""The training loop: every epoch collects by self-play, trains on samples, and tests; each a function to call alone."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from tz.checkpoint import Checkpoints
from tz.checks import check_start
from tz.compatibility import check_state
from tz.config import LoopState, TrainConfig
from tz.env import Env
from tz.given import check_one_key
from tz.logging import Sink, bar, console_sink
from tz.mcts import without_exploration
from tz.memory import check_memory, plan_memory
from tz.phases import NotFiniteError, collect_phase, evaluator_of, start_games, test_phase, train_phase
from tz.sharding import check_mesh, place, usable_mesh
from tz.train import init_train


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
    check_mesh(mesh, batch_size=config.batch_size, train_batch_size=config.train_batch_size)
    check_one_key("init_loop", key)
    config, env = place((config, env), mesh, split=False)
    check_start(config, env, network, norm_state)
    check_memory(plan_memory(config, env, network, norm_state, mesh=mesh), mesh)
    network, norm_state = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, (network, norm_state))
    games_key, key = jax.random.split(key)
    game_keys = jax.vmap(jax.random.fold_in, (None, 0))(games_key, jnp.arange(config.batch_size))
    games, replay = start_games(config, env, mesh, place(game_keys, mesh, split=True))
    train = init_train(config.optimizer, network, norm_state, average=config.average_decay is not None)
    train, epoch, key = place((train, jnp.int32(0), key), mesh, split=False)
    testers = tuple(tester.init(evaluator_of(config, env, train), mesh=mesh) for tester in config.testers)
    return LoopState(train, games, replay, testers, epoch, key)


def train_loop(
    config: TrainConfig,
    env: Env,
    state: LoopState,
    *,
    num_epochs: int | None,
    sinks: Sequence[Sink] = (console_sink,),
    progress: bool = True,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    before_epoch: Callable[[LoopState], LoopState | None] | None = None,
) -> LoopState:
    """Trains for `num_epochs` more epochs: in each, collects, trains and tests, always with the newest weights.

    Games, buffer and matches are split evenly over the devices of the mesh, weights are the same on all. Games do not
    depend on the number of devices, but for how a network's sums are rounded.

    **Arguments:**

    - `state`: from [`tz.init_loop`][], an earlier call, or `checkpoints.restore`; training goes on where it stopped, on
        any number of devices. Its arrays are donated: use the state that is returned from then on.
    - `num_epochs`: None for no end but that of `before_epoch`.
    - `sinks`: called with the metrics of each epoch, by the first process only.
    - `progress`: whether a terminal or a notebook shows bars.
    - `mesh`: from [`tz.data_mesh`][], by default of all devices.
    - `checkpoints`: where to save the state. With them, Ctrl-C and SIGTERM let the epoch finish, save its state and end
        the process, with a message that says how to go on; another Ctrl-C interrupts at once.
    - `before_epoch`: `state -> state` to change something in the state before each epoch, or `None` to stop.

    **Returns:** the state after the last epoch.

    **Raises:** `FloatingPointError` as soon as the network's outputs or the loss are not finite, saying where, with the
    state saved if there are checkpoints; `ValueError` if the games cannot be split evenly over the devices, or no
    tester has the metric that `checkpoints` are to compare; `OSError` if a checkpoint cannot be written.
    """
    mesh = usable_mesh(mesh)
    check_mesh(mesh, batch_size=config.batch_size, train_batch_size=config.train_batch_size)
    check_state(config, env, state, mesh=mesh)
    config, env = place((config, env), mesh, split=False)
    state = on_mesh(state, mesh)
    is_first, last = jax.process_index() == 0, None if num_epochs is None else int(state.epoch) + num_epochs
    shown = progress and is_first
    with _noted_signals(checkpoints is not None) as noted, bar(num_epochs, "epoch", shown) as epochs:
        if int(state.epoch) == 0 and config.warmup_steps > 0:
            epochs.set_description("warm-up")
            with _set_aside(checkpoints):
                state = _warm_up(config, env, state, mesh)
            epochs.set_description("")
        while last is None or int(state.epoch) < last:
            if before_epoch is not None:
                changed = before_epoch(state)
                if changed is None:
                    break
                state = changed
            with _set_aside(checkpoints):
                state, metrics = _epoch(config, env, state, mesh, shown)
            for sink in sinks if is_first else ():
                sink(metrics)
            epochs.update()
            if checkpoints is not None:
                checkpoints.after_epoch(state, metrics, tested=int(state.epoch) % config.epochs_per_test == 0)
                if caught := _agreed(noted):
                    checkpoints.finish(state)
                    raise SystemExit(
                        f"{caught} after {int(state.epoch)} epochs, all of which are saved in {checkpoints.folder}. "
                        "Go on with tz.Checkpoints(..., resume=True), on the command line with --resume."
                    )
    if checkpoints is not None:
        checkpoints.finish(state)
    return state


@contextmanager
def _set_aside(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Saves the state in which something came up that is not finite, and says where."""
    try:
        yield
    except NotFiniteError as error:
        if checkpoints is not None:
            error.add_note(f"The state is saved in {checkpoints.save_aside(error.state)}, to look at.")
        raise


def _warm_up(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> LoopState:
    for done in range(0, config.warmup_steps, config.collection_steps_per_epoch):  # in chunks compiled anyway
        num_steps = min(config.collection_steps_per_epoch, config.warmup_steps - done)
        state, _ = collect_phase(config, env, state, num_steps, mesh)
    return state


def _epoch(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh, shown: bool) -> tuple[LoopState, dict]:
    started, epoch = time.perf_counter(), int(state.epoch)
    tests = (epoch + 1) % config.epochs_per_test == 0 and len(config.testers) > 0
    with bar(2 + tests, "phase", shown, leave=False) as phases:
        phases.set_description("self-play")
        state, metrics = collect_phase(config, env, state, config.collection_steps_per_epoch, mesh)
        phases.update()
        phases.set_description("training")
        state, learned = train_phase(config, state, mesh)
        metrics |= learned
        phases.update()
        if tests:
            phases.set_description("testing")
            test_mcts = without_exploration(config.mcts) if config.test_mcts is None else config.test_mcts
            test_env = env if config.test_env is None else config.test_env
            state, tested = test_phase(config, test_env, test_mcts, state, mesh)
            metrics |= tested
    state = eqx.tree_at(lambda state: state.epoch, state, state.epoch + 1)
    return state, {"epoch": epoch, **metrics, "seconds": time.perf_counter() - started}


@contextmanager
def _noted_signals(wanted: bool) -> Iterator[list[str]]:
    """The names of the signals to stop that came in; a second Ctrl-C is an ordinary one again."""
    noted: list[str] = []

    def note(number, frame):
        noted.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"{noted[-1]}: stops after this epoch and saves; Ctrl-C stops at once.", file=sys.stderr)

    if not wanted or threading.current_thread() is not threading.main_thread():  # others cannot handle signals
        yield noted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreed(noted: list[str]) -> str:
    """The signal that came in, in whichever process; empty for none."""
    if jax.process_count() > 1:
        anywhere = np.asarray(multihost_utils.process_allgather(np.bool_(len(noted) > 0)))
        return (noted or ["Stopped by another process"])[0] if anywhere.any() else ""
    return noted[0] if noted else ""


def on_mesh(state: LoopState, mesh: Mesh) -> LoopState:
    """The state with games and buffer split over the mesh and the rest whole on each device; it may come from another.

    **Raises:** `ValueError` if the games cannot be split evenly.
    """
    check_mesh(mesh, batch_size=state.games.step.shape[0])
    games, replay = place((state.games, state.replay), mesh, split=True)
    train, testers, epoch, key = place((state.train, state.testers, state.epoch, state.key), mesh, split=False)
    return LoopState(train, games, replay, testers, epoch, key)
