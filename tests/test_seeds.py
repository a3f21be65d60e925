"""Several seeds trained side by side: each gives the result that it has alone, and no state is lost."""

import dataclasses
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_epoch import MESH, assert_same, settings

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


class Sum(eqx.Module):
    """A tester that plays nothing, but has a state, a key and the newest weights."""

    def init(self, evaluator, *, mesh):
        return jnp.float32(0)

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        state = state + evaluator.network.layers.layers[1].bias.sum() + jax.random.uniform(key)
        return state, {"sum": float(state)}


@pytest.fixture(scope="module")
def tested():
    return dataclasses.replace(settings(), testers=(Sum(),), epochs_per_test=2)


class Random(eqx.Module):
    """A network with leaves that are no arrays, and with dropout."""

    layers: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, *, key, activation=jax.nn.relu):
        self.layers = eqx.nn.MLP(18, 10, 8, 1, activation, key=key)
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, observation, *, key):
        outputs = self.layers(self.dropout(observation.astype(jnp.float32).ravel(), key=key))
        return outputs[:9], jnp.tanh(outputs[9])


def new_state(tested, env, seed, **options):
    network_key, key = jax.random.split(jax.random.key(seed))
    return tz.init_loop(tested, env, Random(key=network_key, **options), key=key, mesh=MESH)


def own(states):
    """Copies a state, since training donates its games."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, states)


@pytest.fixture(scope="module")
def two_states(tested, env):
    """Returns the initial states of two seeds."""
    return [new_state(tested, env, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def one_by_one(tested, env, two_states):
    """Returns the state of each seed after two epochs of the loop, and its metrics."""
    states, rows = [], ([], [])
    for state, sink in zip(two_states, rows, strict=True):
        options = {"num_epochs": 2, "sinks": [sink.append], "progress": False, "mesh": MESH}
        states.append(tz.train_loop(tested, env, own(state), **options))
    return states, rows


@pytest.mark.parametrize("num_devices", [1, 2])
def test_seeds_side_by_side_are_those_of_the_loop_one_by_one(tested, env, two_states, one_by_one, num_devices):
    rows, mesh = [], tz.data_mesh(jax.devices()[:num_devices])
    options = {"sinks": [rows.append], "progress": False, "mesh": mesh}
    given = own(two_states)
    states = tz.runs.train_seeds(tested, env, given, num_epochs=1, **options)
    with pytest.raises(ValueError, match="train_seeds: found a state whose arrays were donated to an earlier call"):
        tz.runs.train_seeds(tested, env, given, num_epochs=1, **options)
    with pytest.raises(ValueError, match="train_loop: found a state whose arrays were donated to an earlier call"):
        tz.train_loop(tested, env, given[0], num_epochs=1, mesh=MESH)
    states = tz.runs.train_seeds(tested, env, states, num_epochs=1, **options)
    assert [(row["seed"], row["epoch"]) for row in rows] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for seed, (expected, expected_rows) in enumerate(zip(*one_by_one, strict=True)):
        assert_same(states[seed], expected, rtol=1e-4, atol=1e-5)
        for row, expected_row in zip(rows[seed::2], expected_rows, strict=True):
            assert set(row) == set(expected_row) | {"seed"}
            names = set(expected_row) - {"seconds", "moves_per_second", "simulations_per_second"}
            np.testing.assert_allclose(
                *([float(x[name]) for name in sorted(names)] for x in (row, expected_row)), rtol=1e-4, atol=1e-5
            )


def test_a_seed_that_is_not_finite_leaves_the_others_alone(tested, env, two_states, one_by_one):
    broken = eqx.tree_at(lambda state: state.train.network.layers.layers[1].bias, two_states[1], jnp.full(10, jnp.nan))
    rows, mesh = [], tz.data_mesh(jax.devices()[:2])
    options = {"num_epochs": 2, "sinks": [rows.append], "progress": False, "mesh": mesh}
    with pytest.warns(
        UserWarning, match="without a legal action or a finite value, .* for seed 1 in .*The other seeds"
    ):
        states = tz.runs.train_seeds(tested, env, own([two_states[0], broken]), **options)
    assert_same(states[0], one_by_one[0][0], rtol=1e-4, atol=1e-5)
    assert np.isnan(rows[3]["loss"]) and np.isfinite(rows[2]["loss"])


def test_an_exception_has_the_states_of_all_seeds(tested, env, two_states, one_by_one):
    def stop(state):
        if int(state.epoch[0]) == 2:
            raise KeyError("mine")
        return state

    options = {"progress": False, "mesh": tz.data_mesh(jax.devices()[:2])}
    with pytest.raises(KeyError, match="mine") as error:
        tz.runs.train_seeds(tested, env, own(two_states), num_epochs=None, before_epoch=stop, **options)
    for state, expected in zip(error.value.states, one_by_one[0], strict=True):
        assert_same(state, expected, rtol=1e-4, atol=1e-5)


def test_checkpoints_of_seeds_are_resumed_alone(tested, env, two_states, one_by_one, tmp_path):
    checkpoints = [tz.Checkpoints(tmp_path / f"seed_{seed}", every_epochs=1) for seed in range(2)]
    options = {"progress": False, "mesh": tz.data_mesh(jax.devices()[:2]), "checkpoints": checkpoints}
    tz.runs.train_seeds(tested, env, own(two_states), num_epochs=1, **options)
    resumed = tz.Checkpoints(tmp_path / "seed_1", every_epochs=1, resume=True)
    state = resumed.restore(own(two_states[1]))
    assert int(state.epoch) == 1
    state = tz.train_loop(tested, env, state, num_epochs=1, sinks=[], progress=False, mesh=MESH)
    assert_same(state, one_by_one[0][1], rtol=1e-4, atol=1e-5)


def test_states_that_do_not_belong_together_are_named(tested, env, two_states, tmp_path):
    later = dataclasses.replace(two_states[1], epoch=jnp.int32(3))
    with pytest.raises(ValueError, match=r"different arrays or epochs \(epochs \[0, 3\]\)"):
        tz.runs.train_seeds(tested, env, [two_states[0], later], num_epochs=1)
    with pytest.raises(ValueError, match="found 1 checkpoints, expected none or one for each of 2 seeds"):
        tz.runs.train_seeds(tested, env, two_states, num_epochs=1, checkpoints=[tz.Checkpoints(tmp_path)])
    with pytest.raises(ValueError, match="found states with the same key"):
        tz.runs.train_seeds(tested, env, [two_states[0], two_states[0]], num_epochs=1)
    others = [two_states[0], new_state(tested, env, 1, activation=jax.nn.gelu)]
    with pytest.raises(ValueError, match="expected states that differ only in the values of their arrays"):
        tz.runs.train_seeds(tested, env, others, num_epochs=1)
    with pytest.raises(ValueError, match="train_seeds: found num_epochs=-1"):
        tz.runs.train_seeds(tested, env, two_states, num_epochs=-1)
    assert tz.runs.train_seeds(tested, env, two_states, num_epochs=0) == two_states
    with pytest.raises(ValueError, match="train_seeds: found a state that was made with other settings.*num_games"):
        tz.runs.train_seeds(dataclasses.replace(tested, num_games=8), env, two_states, num_epochs=1)
    with pytest.raises(ValueError, match="found seeds=2, which cannot be split evenly over 4 devices"):
        tz.runs.train_seeds(tested, env, two_states, num_epochs=1, mesh=tz.data_mesh(jax.devices()[:4]))


def test_a_before_epoch_that_returns_nothing_loses_nothing(tested, env, two_states):
    options = {"progress": False, "mesh": tz.data_mesh(jax.devices()[:2])}
    with pytest.raises(ValueError, match="before_epoch: found None, expected the LoopState") as error:
        tz.runs.train_seeds(tested, env, own(two_states), num_epochs=1, before_epoch=lambda state: None, **options)
    assert [int(state.games.step.max()) for state in error.value.states] == [8, 8], "after the warm-up"


def test_gradient_steps_that_are_left_out_are_told(tested, env):
    """The learning rate of one step is NaN, so that step and all later ones are left out."""
    rates = lambda step: jnp.where(step == 1, jnp.nan, 1e-2)
    config = dataclasses.replace(tested, optimizer=optax.sgd(rates), testers=())
    states, rows = [new_state(config, env, seed) for seed in range(2)], []
    mesh = tz.data_mesh(jax.devices()[:2])
    with pytest.warns(
        UserWarning, match="found 0 positions .* and 2 gradient steps that are not finite, for seed . in epoch 0"
    ):
        states = tz.runs.train_seeds(config, env, states, num_epochs=1, sinks=[rows.append], progress=False, mesh=mesh)
    assert [int(state.train.step) for state in states] == [1, 1] and np.isfinite(rows[0]["loss"])


def test_a_signal_ends_the_training_with_all_seeds_saved(tested, env, two_states, tmp_path):
    def stop(row):
        if row["seed"] == 0:
            signal.raise_signal(signal.SIGTERM)

    checkpoints = [tz.Checkpoints(tmp_path / str(seed), every_epochs=None) for seed in range(2)]
    options = {"progress": False, "mesh": tz.data_mesh(jax.devices()[:2]), "checkpoints": checkpoints}
    with pytest.raises(SystemExit, match="SIGTERM after 1 epochs, which are saved"):
        tz.runs.train_seeds(tested, env, own(two_states), num_epochs=9, sinks=[stop], **options)
    assert [kept.epochs for kept in checkpoints] == [[1], [1]]
