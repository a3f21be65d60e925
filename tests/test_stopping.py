"""However a loop is stopped, it leaves a usable state, and nothing from the caller is donated."""

import dataclasses
import functools
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tz
from tz.runs import loop, phases

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])
ENV = tz.from_pgx("tic_tac_toe")


class Calling(eqx.Module):
    """A tester that calls a function of the test in the middle of an epoch."""

    calls: list = eqx.field(static=True)

    def init(self, evaluator, *, mesh):
        return jnp.int32(0)

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        for call in self.calls:
            call()
        return state + 1, {"given": float(state)}


TESTS: list = []
CONFIG = tz.TrainConfig(
    mcts=tz.MCTS(3, 6, root=tz.Dirichlet()),
    optimizer=optax.adam(1e-2),
    replay=tz.EpisodeReplayBuffer(40),
    num_games=4,
    train_batch_size=8,
    warmup_moves=8,
    moves_per_epoch=4,
    train_steps_per_epoch=2,
    testers=(Calling(TESTS),),
)
train_loop = functools.partial(tz.train_loop, CONFIG, ENV, sinks=[], progress=False, mesh=MESH)


@pytest.fixture(autouse=True)
def nothing_is_called():
    yield
    TESTS.clear()


@pytest.fixture(scope="module")
def network():
    return tz.MLP(ENV.observation.shape, ENV.num_actions, width=8, key=jax.random.key(0))


@pytest.fixture(scope="module")
def after_one_epoch(network):
    return train_loop(tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH), num_epochs=1)


@pytest.fixture
def start(after_one_epoch):
    """Returns the state after one epoch, in arrays that may be donated."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, after_one_epoch)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def dead(tree) -> list:
    return [x for x in jax.tree.leaves(tree) if eqx.is_array(x) and x.is_deleted()]


def arrays(tree) -> list:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return [np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in leaves]


def assert_sound(state, epochs):
    """Asserts that no array is deleted, that games and rings belong together, and that training continues."""
    assert not dead(state) and int(state.epoch) == epochs
    ring = state.replay
    assert (ring.size < 40).all(), "else the next line says nothing"
    np.testing.assert_array_equal(ring.size - ring.num_known, state.games.episode_moves)
    assert int(train_loop(state, num_epochs=1).epoch) == epochs + 1


def assert_kept(error, epochs, later=None):
    note = " ".join(error.__notes__)
    assert f"after {epochs} epoch" in note and "`state`" in note, note
    assert_sound(*((error.state, epochs) if later is None else (later, int(later.epoch))))


def test_ctrl_c_without_checkpoints_returns_the_state_after_the_epoch(start, capsys):
    sinks = [lambda metrics: interrupt() if metrics["epoch"] == 2 else None]
    before = signal.getsignal(signal.SIGINT)
    state = train_loop(start, num_epochs=9, sinks=sinks)
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().err
    assert "SIGINT: stops after this epoch and returns the state; another Ctrl-C stops at once." in said
    assert "SIGINT after 3 epochs" in said
    assert_sound(state, 3)


def twice():
    interrupt()
    interrupt()


def after_a_call(monkeypatch, name):
    """Two interrupts come after a call that donates arrays, and before its results are stored."""
    function = getattr(phases, name)

    def call(*args):
        results = function(*args)
        twice()
        return results

    monkeypatch.setattr(phases, name, call)


@pytest.mark.parametrize("place", ["compiled_play", "compiled_add", "compiled_step", "sink", "test", "before_epoch"])
def test_a_second_ctrl_c_stops_at_once_with_a_living_state(place, start, monkeypatch):
    options = {}
    if place.startswith(("compiled_play", "compiled_add", "compiled_step")):
        after_a_call(monkeypatch, place)
    elif place == "sink":
        options["sinks"] = [lambda metrics: twice()]
    elif place == "test":
        TESTS.append(twice)
    else:
        options["before_epoch"] = lambda state: [state, twice()][0]
    moves, steps = start.games.step + 4, start.train.step
    with pytest.raises(KeyboardInterrupt) as error:
        train_loop(start, num_epochs=3, **options)
    monkeypatch.undo()
    TESTS.clear()
    state = error.value.state
    if place != "before_epoch":
        np.testing.assert_array_equal(state.games.step, moves)
    assert state.train.step == steps + (2 if place in ("sink", "test") else 0)
    assert_kept(error.value, 2 if place == "sink" else 1)


def refusing_loss(network, output, sample):
    loss = output[1] ** 2
    return eqx.error_if(loss, loss >= 0, "a loss that raises"), {}


def refusing_env(action):
    def step(state, chosen):
        return ENV.step(state, eqx.error_if(chosen, chosen == action, "a move that raises"))

    return tz.Env(ENV.init, step, ENV.observe, name=ENV.name)


def test_games_that_a_failing_call_took_are_begun_anew_and_their_open_moves_left_out(start):
    """Later moves are added after the moves of finished games, and do not change their targets."""
    known, weights = np.array(start.replay.num_known), arrays(start.train)
    assert known.all() and (start.replay.size > known).any()
    with pytest.raises(Exception, match="a move that raises") as error:
        tz.train_loop(CONFIG, refusing_env(4), start, num_epochs=1, sinks=[], progress=False, mesh=MESH)
    state = error.value.state
    assert any("started anew" in note for note in error.value.__notes__)
    np.testing.assert_array_equal(state.replay.num_known, known)
    np.testing.assert_array_equal(state.replay.size, known)
    assert (state.games.episode_moves == 0).all()
    jax.tree.map(np.testing.assert_array_equal, arrays(state.train), weights)
    values = np.array(state.replay.value.offset)
    state = train_loop(state, num_epochs=3)
    ring = state.replay
    assert (ring.num_known > known).all()
    for game, end in enumerate(known):
        np.testing.assert_array_equal(ring.value.offset[game, :end], values[game, :end])
        assert not ring.observation[game, end].any(), "a new game begins with an empty board"
        assert set(np.array(ring.value.offset[game, end : ring.num_known[game]])) <= {-1.0, 0.0, 1.0}
    assert_kept(error.value, 1, state)


def test_a_gradient_step_that_raises_leaves_the_weights(start):
    weights = arrays(start.train)
    config = dataclasses.replace(CONFIG, loss=refusing_loss)
    with pytest.raises(Exception, match="a loss that raises") as error:
        tz.train_loop(config, ENV, start, num_epochs=1, sinks=[], progress=False, mesh=MESH)
    jax.tree.map(np.testing.assert_array_equal, arrays(error.value.state.train), weights)
    assert_kept(error.value, 1)


def test_a_buffer_that_a_failing_call_took_is_begun_anew(start, monkeypatch):
    add = phases.compiled_add

    def failing(inputs, replay):
        add(inputs, replay)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(phases, "compiled_add", failing)
    with pytest.raises(RuntimeError, match="out of memory") as error:
        train_loop(start, num_epochs=1)
    monkeypatch.undo()
    assert error.value.state.replay.size.sum() == 0
    assert any("buffer" in note and "started anew" in note for note in error.value.__notes__)
    assert_kept(error.value, 1)


def raising(*args):
    raise ZeroDivisionError("of the user's")


@pytest.mark.parametrize("place", ["test", "before_epoch", "on_save", "best"])
def test_every_exception_carries_a_living_state(place, start, tmp_path):
    options, expected, epochs = {}, ZeroDivisionError, 2
    if place == "test":
        TESTS.append(raising)
        epochs = 1
    elif place == "before_epoch":
        options["before_epoch"], epochs = raising, 1
    elif place == "on_save":
        options["checkpoints"] = tz.Checkpoints(tmp_path, every_epochs=1, on_save=raising)
    else:
        options["checkpoints"], expected = tz.Checkpoints(tmp_path, best="elo"), ValueError
    rows = []
    with pytest.raises(expected) as error:
        train_loop(start, num_epochs=2, sinks=[rows.append], **options)
    TESTS.clear()
    assert len(rows) == epochs - 1, "the metrics of an epoch that is over reach the sinks"
    assert_kept(error.value, epochs)


def test_a_number_that_is_not_finite_leaves_games_and_buffer_that_belong_together(start):
    network = eqx.tree_at(lambda n: n.value_linear.weight, start.train.network, replace_fn=lambda w: w * jnp.nan)
    whole = start.train.network
    state = eqx.tree_at(lambda s: s.train.network, start, network)
    with pytest.raises(phases.NotFiniteError) as error:
        train_loop(state, num_epochs=1)
    ring = error.value.state.replay
    np.testing.assert_array_equal(ring.size, ring.num_known)
    healthy = eqx.tree_at(lambda s: s.train.network, error.value.state, whole)
    assert not dead(healthy) and int(train_loop(healthy, num_epochs=1).epoch) == 2


def test_a_sink_that_raises_costs_a_warning_and_the_checkpoint_is_written_before(start, tmp_path):
    order, rows = [], []
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=1, on_save=lambda state: order.append("checkpoint"))

    def failing(metrics):
        order.append("sink")
        raise OSError("no space")

    with pytest.warns(UserWarning, match=r"failing.*epoch [12].*no space") as caught:
        state = train_loop(start, num_epochs=2, sinks=[failing, rows.append], checkpoints=checkpoints)
    assert len(caught) == 2 and [row["epoch"] for row in rows] == [1, 2] and int(state.epoch) == 3
    assert order == ["checkpoint", "sink", "checkpoint", "sink"]


@pytest.mark.parametrize("returned", [None, 3, True])
def test_a_before_epoch_that_returns_no_state_is_refused(returned, start):
    with pytest.raises(
        ValueError, match=rf"before_epoch.*found {returned}.*expected.*LoopState.*StopTraining"
    ) as error:
        train_loop(start, num_epochs=2, before_epoch=lambda state: returned)
    assert_kept(error.value, 1)


def test_a_before_epoch_that_raises_stop_training_ends_the_loop_and_saves(start, tmp_path):
    def until_three(state):
        if int(state.epoch) == 3:
            raise tz.runs.StopTraining
        return state

    checkpoints = tz.Checkpoints(tmp_path, every_epochs=None)
    state = train_loop(start, num_epochs=None, before_epoch=until_three, checkpoints=checkpoints)
    assert checkpoints.epochs == [3]
    assert_sound(state, 3)


def test_no_epochs_do_nothing(network, monkeypatch, tmp_path):
    state = tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    with monkeypatch.context() as patch:
        for name in ("compiled_play", "compiled_step"):
            patch.setattr(phases, name, raising)
        checkpoints = tz.Checkpoints(tmp_path)
        assert train_loop(state, num_epochs=0, checkpoints=checkpoints) is state and checkpoints.epochs == []
    with pytest.raises(ValueError, match="found num_epochs=-1, expected 0 or more"):
        train_loop(state, num_epochs=-1)


def test_a_loop_that_is_called_again_makes_only_the_moves_of_the_warm_up_that_are_missing(network, monkeypatch):
    def stop(state):
        raise tz.runs.StopTraining

    collect, chunks = loop.collect_phase, []

    def once(*args):
        chunks.append(args[3])
        if len(chunks) == 2:
            raise ZeroDivisionError
        return collect(*args)

    monkeypatch.setattr(loop, "collect_phase", once)
    state = tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    with pytest.raises(ZeroDivisionError) as error:
        train_loop(state, num_epochs=1)
    state = error.value.state
    assert (state.games.step == 4).all()
    for _ in range(2):
        state = train_loop(state, num_epochs=1, before_epoch=stop)
        assert (state.games.step == 8).all() and state.epoch == 0
    assert chunks == [4, 4, 4]


class Stateful(eqx.Module):
    """The smallest stateful network."""

    inner: tz.MLP
    index: eqx.nn.StateIndex

    def __init__(self, *, key):
        self.inner = tz.MLP(ENV.observation.shape, ENV.num_actions, width=8, key=key)
        self.index = eqx.nn.StateIndex(jnp.zeros(3))

    def __call__(self, observation, state):
        return self.inner(observation), state


class Remembering(eqx.Module):
    """A tester that keeps its inputs in its state."""

    weights: jax.Array

    def init(self, evaluator, *, mesh):
        return self.weights, evaluator

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        return (state[0], evaluator), {}


def test_nothing_that_the_caller_gave_is_used_up(tmp_path):
    """This also holds if optimisers and testers keep their inputs in their states, and a template is donated."""
    rate = jnp.float32(1e-2)
    model, norm_state = eqx.nn.make_with_state(Stateful)(key=jax.random.key(0))

    def remember(parameters):
        return parameters, rate

    def update(gradients, state, parameters=None):
        return jax.tree.map(lambda x: -state[1] * x, gradients), state

    starts = jax.vmap(ENV.init)(jax.random.split(jax.random.key(3), 4))
    env = tz.games.starts_from(ENV, starts)
    config = dataclasses.replace(
        CONFIG,
        optimizer=optax.GradientTransformation(remember, update),
        testers=(Remembering(jnp.ones(3)),),
        average_decay=0.9,
        test_env=ENV,
        warmup_moves=0,
    )
    key, checkpoints = jax.random.key(1), tz.Checkpoints(tmp_path)
    given = (config, env, model, norm_state, key, rate, starts)
    begin = functools.partial(tz.init_loop, config, env, model, norm_state, key=key)
    tz.train_loop(config, env, begin(mesh=MESH), num_epochs=3, sinks=[], mesh=MESH, checkpoints=checkpoints)
    assert not dead(given)
    checkpoints = tz.Checkpoints(tmp_path, resume=True)
    for mesh in MESH, tz.data_mesh(jax.devices()[:2]):  # of two devices, one has the caller's own buffers
        state = checkpoints.restore(begin(mesh=mesh))
        assert not dead(given) and not dead(state)
    state = tz.fork(tmp_path, config, env, begin(mesh=MESH), mesh=MESH)
    assert not dead(given) and not dead(state)
