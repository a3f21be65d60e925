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

from tz.arena import Player, check_player
from tz.checkpoint import Checkpoints
from tz.compatibility import check_state
from tz.config import LoopState, TrainConfig
from tz.env import Env
from tz.evaluators import NetworkEvaluator
from tz.logging import Sink, bar, console_sink
from tz.mcts import without_exploration
from tz.memory import check_memory, plan_memory
from tz.phases import NotFiniteError, collect_phase, evaluator_of, start_games, test_phase, train_phase
from tz.sharding import check_mesh, data_mesh, place
from tz.train import init_train
from tz.trajectory import Sample


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

    **Raises:** `ValueError`, before anything is compiled, if game and network do not fit together, the tests, an
    opponent or the augmentation are of another game, the games cannot be split evenly over the devices, or it cannot
    all fit into memory.
    """
    mesh = data_mesh() if mesh is None else mesh
    check_mesh(mesh, batch_size=config.batch_size, train_batch_size=config.train_batch_size)
    _check_network(env, network, norm_state)
    if config.test_env is not None:
        _check_test_env(env, config.test_env)
    if config.augment is not None:
        _check_augment(env, config.augment)
    for player in jax.tree.leaves(config.testers, is_leaf=lambda x: isinstance(x, Player)):
        if isinstance(player, Player):  # an opponent, an anchor, a rung
            check_player(env, player)
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
    depend on the number of devices, except for how XLA rounds sums and products.

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
    mesh = data_mesh() if mesh is None else mesh
    check_mesh(mesh, batch_size=config.batch_size, train_batch_size=config.train_batch_size)
    check_state(config, env, state, mesh=mesh)
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


def _check_test_env(env: Env, test_env: Env) -> None:
    found, expected = ((game.num_actions, game.observation.shape) for game in (test_env, env))
    if found != expected:
        raise ValueError(
            f"TrainConfig: test_env is {test_env.name} of {found[0]} actions and observations {found[1]}, but "
            f"self-play is of {env.name}, which has {expected[0]} and {expected[1]}. Both must be the same game."
        )


def _check_augment(env: Env, augment: Callable[..., Sample]) -> None:
    def drawn(key):
        env_state, metadata = env.init(key)
        one = jnp.float32(1)
        sample = Sample(env.observe(env_state), metadata.action_mask, jnp.zeros(env.num_actions), one, one, one)
        return sample, augment(sample, key=key)

    try:
        before, after = jax.tree.map(jnp.shape, jax.eval_shape(drawn, jax.random.key(0)))
    except Exception as error:
        raise ValueError(f"TrainConfig: augment does not fit {env.name}: {error}") from error
    if before != after:
        raise ValueError(f"TrainConfig: augment makes a sample of shapes {after} from {before}, expected the same.")


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
