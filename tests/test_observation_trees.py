"""Observations of several parts: from the check of a game to self-play, training and a checkpoint."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env

import tz
from tz._arrays import data_of

pytestmark = pytest.mark.slow

TABLES = draw_tables(3, alternate=True)
MESH = tz.data_mesh(jax.devices()[:1])


def observe(row):
    return {"row": jax.nn.one_hot(row, 48), "board": (jnp.int32(row) % jnp.arange(1, 5, dtype=jnp.int32), row > 20)}


ENV = dataclasses.replace(tabular_env(TABLES), observe=observe)


class Parts(eqx.Module):
    """A network that uses all parts, and returns more than two outputs."""

    rows: eqx.nn.Linear
    board: eqx.nn.Linear

    def __call__(self, observation):
        board, late = observation["board"]
        x = self.rows(observation["row"]) + self.board(board.astype(jnp.float32)) + late.astype(jnp.float32)
        return {"logits": x[:4], "value": jnp.tanh(x[4]), "late": x[5]}


def loss(network, output, sample):
    late = sample.observation["board"][1].astype(jnp.float32)
    main, parts = tz.az_loss(network, output, sample, l2_reg_lambda=0.0)
    return main + (output["late"] - late) ** 2, parts | {"late_loss": (output["late"] - late) ** 2}


CONFIG = tz.TrainConfig(
    mcts=tz.MCTS(2),
    optimizer=optax.adam(3e-2),
    replay=tz.EpisodeReplayBuffer(16),
    num_games=4,
    train_batch_size=16,
    moves_per_epoch=10,
    train_steps_per_epoch=8,
    loss=loss,
)


@pytest.fixture(scope="module")
def start():
    keys = jax.random.split(jax.random.key(0))
    network = Parts(eqx.nn.Linear(48, 6, key=keys[0]), eqx.nn.Linear(4, 6, key=keys[1]))
    state = tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    return lambda: jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state)


def train(state, num_epochs, **options):
    options = {"sinks": (), "progress": False, "mesh": MESH} | options
    return tz.train_loop(CONFIG, ENV, state, num_epochs=num_epochs, **options)


def test_the_check_of_a_game_takes_them():
    tz.check_env(ENV, num_games=4, max_moves=60)
    assert ENV.observation["board"][0].shape == (4,) and ENV.observation["row"].dtype == jnp.float32


def test_they_are_learned_from_and_resumed_bit_for_bit(start, tmp_path):
    rows = []
    straight = train(start(), 3, sinks=[rows.append])
    assert rows[-1]["late_loss"] < 0.5 * rows[0]["late_loss"]
    train(start(), 1, checkpoints=tz.Checkpoints(tmp_path))
    checkpoints = tz.Checkpoints(tmp_path, resume=True)
    resumed = train(checkpoints.restore(start()), 2, checkpoints=checkpoints)
    for a, b in zip(*(jax.tree.leaves(eqx.filter(state, eqx.is_array)) for state in (straight, resumed)), strict=True):
        np.testing.assert_array_equal(data_of(a), data_of(b))
    batch = CONFIG.replay.sample(straight.replay, 64, key=jax.random.key(0))
    row = jnp.argmax(batch.observation["row"], axis=1)
    np.testing.assert_array_equal(batch.observation["board"][1], row > 20)
    np.testing.assert_array_equal(batch.action_mask, TABLES.legal[row])


def test_what_asks_for_one_array_says_so(start):
    network = tz.MLP((48,), 4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="network: found an observation that is a dict, expected one array of shape"):
        tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    config = dataclasses.replace(CONFIG, augment=tz.random_mirror)
    with pytest.raises(ValueError, match="an observation that is a dict, expected one array; write a function"):
        tz.init_loop(config, ENV, start().train.network, key=jax.random.key(1), mesh=MESH)


def test_a_tree_that_changes_is_named():
    env = dataclasses.replace(ENV, observe=lambda row: (observe(row), jnp.zeros(3)))
    ring = CONFIG.replay.init(moves_of(ENV))
    with pytest.raises(ValueError, match=r"add: found trajectory.observation with rows of .*, expected .*\['row'\]"):
        jax.eval_shape(lambda moves: CONFIG.replay.add(ring, moves, discount=1.0), moves_of(env))


def moves_of(env):
    game = tz.init_collect(CONFIG.mcts, env, key=jax.random.key(0))
    return jax.eval_shape(lambda: tz.collect(CONFIG.mcts, env, tz.uniform_evaluator, game, num_moves=2)[1])
