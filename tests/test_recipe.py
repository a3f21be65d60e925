"""Recipes: the settings that they make, errors, and training for a time."""

import dataclasses
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from pgx._src.games.go import GameState, _count_scores

import tz
from tz._promotion import standard_promotion
from tz.learn.epochs import gradient_step
from tz.runs._optimizers import learning_rate_of, recipe_optimizer
from tz.runs._ownership import with_territory
from tz.runs.timed import annealed

pytestmark = [pytest.mark.once, pytest.mark.slow]

TINY = tz.Recipe(
    "tic_tac_toe",
    symmetry="dihedral",
    num_blocks=1,
    num_channels=4,
    head_channels=2,
    num_simulations=4,
    num_games=8,
    moves_per_epoch=8,
    train_batch_size=16,
    train_steps_per_epoch=2,
    capacity=64,
    random_starts=3,
)


def test_muon_makes_orthogonal_updates_of_matrices_and_leaves_the_rest_to_adamw():
    """The convolution [3, 3, 2, 4] is a matrix of 18 inputs and 4 outputs, the layer [6, 5] one of 5 and 6."""
    optimizer = recipe_optimizer("muon", 0.5, 0.0)
    keys = jax.random.split(jax.random.key(0), 3)
    gradients = {
        "conv": jax.random.normal(keys[0], (3, 3, 2, 4)),
        "linear": jax.random.normal(keys[1], (6, 5)),
        "bias": jax.random.normal(keys[2], (7,)),
    }
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    with standard_promotion():
        updates, _ = optimizer.update(gradients, optimizer.init(zeros), zeros)
    for matrix in (updates["conv"].reshape(18, 4), updates["linear"].T):
        sizes = np.linalg.svd(matrix, compute_uv=False) / (0.5 * 0.2 * np.sqrt(max(matrix.shape)))
        assert sizes.max() < 1.3 and sizes.min() > 0.6, "five steps of Newton's iteration are only near 1"
    turned = np.sum(np.asarray(updates["conv"] * gradients["conv"]))
    assert turned < 0, "downhill"
    adamw = optax.nadamw(0.5, weight_decay=0.0)
    with standard_promotion():
        alone, _ = adamw.update(gradients["bias"], adamw.init(zeros["bias"]), zeros["bias"])
    np.testing.assert_allclose(updates["bias"], alone, rtol=1e-4)


def tiny_start(env, config, mesh):
    network = tz.MLP(env.observation.shape, env.num_actions, width=4, key=jax.random.key(0))
    return tz.init_loop(config, env, network, key=jax.random.key(1), mesh=mesh)


def test_training_for_a_time_makes_epochs_and_lets_the_learning_rate_fall_in_its_last_part(monkeypatch):
    """On a clock where an epoch takes 4 seconds, and the first one, with compilation, 24."""
    now, seen, rates, mesh = [1000.0], [], [], tz.data_mesh(jax.devices()[:1])
    monkeypatch.setattr("tz.runs.timed.time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def sink(metrics):
        now[0] += 4 if seen else 24
        seen.append(metrics["epoch"])

    recipe = dataclasses.replace(TINY, anneal=0.5)
    config, env = recipe.build()
    state, options = tiny_start(env, config, mesh), {"seconds": 100.0, "sinks": [sink], "mesh": mesh}
    with pytest.raises(ValueError, match="found seconds=100.0 and num_epochs=4"):
        tz.runs.train_for(recipe, config, env, state, num_epochs=4, **options)
    for part in ((0.0, 0.5), (0.5, 1.0)):
        state = tz.runs.train_for(recipe, config, env, state, part=part, **options)
        rates.append(float(learning_rate_of(state)))
    assert seen == list(range(7 + 12)), "begun at 0, 24, 28, ... 44 and at 50, 54, ... 94: another would end too late"
    assert rates == pytest.approx([recipe.learning_rate, recipe.learning_rate * annealed(0.5, 0.94)])


@pytest.mark.parametrize(
    ("anneal", "factors"),
    [(0.0, [1, 1, 1, 1, 1]), (0.5, [1, 1, 1, 0.505, 0.01]), (1.0, [1, 0.855018, 0.505, 0.154982, 0.01])],
)
def test_the_learning_rate_falls_as_half_a_cosine_wave(anneal, factors):
    found = [annealed(anneal, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(found, factors, rtol=1e-5)


@pytest.fixture
def compiled():
    """Collects the names of the functions that are compiled from now on, also after the test: JAX 0.7 cannot end it."""
    names = []

    def note(event, seconds, **about):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    return names


def test_each_phase_is_compiled_once_also_where_the_learning_rate_is_set(compiled):
    config, env = TINY.build()
    mesh, seen = tz.data_mesh(jax.devices()[:2]), []
    state = tz.train_loop(config, env, tiny_start(env, config, mesh), num_epochs=2, sinks=[], mesh=mesh)
    phases = {"jit(compiled_play)", "jit(compiled_add)", "jit(compiled_step)"}
    assert all(compiled.count(phase) == 1 for phase in phases)
    compiled.clear()
    for part, epoch in (((0.0, 0.5), 3), ((0.5, 1.0), 6)):
        state = tz.runs.train_for(TINY, config, env, state, num_epochs=6, part=part, sinks=[seen.append], mesh=mesh)
        assert int(state.epoch) == epoch and len(seen) == epoch - 2
    assert not phases & set(compiled)


@pytest.mark.parametrize(
    "change",
    [
        {
            "search": "puct",
            "cold_after": 3,
            "fast_simulations": 2,
            "norm": "batch",
            "average_decay": 0.9,
            "window": None,
        },
        {
            "symmetry": "none",
            "random_starts": 0,
            "td_lambda": 1.0,
            "search_value_fraction": 0.5,
            "weight_decay": 0.1,
            "q_scale": 0.5,
            "fast_simulations": 2,
        },
        {"ownership": 0.25, "train_dtype": "bfloat16"},
        {"optimizer": "muon", "average_decay": 0.9},
    ],
)
def test_every_setting_builds_a_loop(change):
    recipe = dataclasses.replace(TINY, **change)
    config, env = recipe.build()
    state = recipe.start(config, env, seed=0)
    assert config.mcts.num_simulations == 4 and int(state.epoch) == 0
    assert (state.train.network.planes_conv is not None) == ("ownership" in change)
    step = eqx.filter_make_jaxpr(gradient_step)(config, state.replay, state.key, None, state.train)[0]
    assert ("bf16[" in str(step)) == ("train_dtype" in change)
    _, begun = jax.vmap(config.test_env.init)(jax.random.split(jax.random.key(0), 16))
    assert begun.action_mask.all(), "tests begin at the beginning"


@pytest.mark.parametrize("stones", [0.05, 0.3, 0.6, 0.9])
def test_territory_of_go_agrees_with_the_score_of_pgx(stones):
    keys = jax.random.split(jax.random.key(0), 64)
    chances = jnp.array([stones / 2, 1 - stones, stones / 2])
    boards = jax.vmap(lambda key: jax.random.choice(key, 3, (9, 9, 1), p=chances).astype(jnp.int8) - 1)(keys)
    held = jax.vmap(with_territory)(boards)
    scores = jax.vmap(lambda board: _count_scores(GameState(board=board.ravel().astype(jnp.int32)), 9))(boards)
    both = jnp.any(boards == 1, axis=(1, 2, 3)) & jnp.any(boards == -1, axis=(1, 2, 3))
    for player, column in ((1, 0), (-1, 1)):
        np.testing.assert_array_equal(jnp.sum(held == player, axis=(1, 2, 3))[both], scores[both, column])
    assert both.sum() > 30 and jnp.sum(held != boards) > 20


@pytest.mark.parametrize("name", ["connect_four", "go_9x9", "othello", "tic_tac_toe"])
def test_the_pieces_on_the_final_board_are_those_of_the_player(name):
    """Whoever is to move, a piece of player p counts for p, at its place; a symmetry turns it with the observation."""
    config = tz.Recipe(name, ownership=0.5).build()[0]
    env = tz.from_pgx(name)
    state, metadata = env.init(jax.random.key(3))
    for _ in range(3):
        mover, before = int(metadata.cur_player_id), config.record_end(state, metadata)
        state, metadata = env.step(state, jnp.argmax(metadata.action_mask))
        held, observed = config.record_end(state, metadata), env.observe(state).astype(jnp.int8)
        to_move = 1 if metadata.cur_player_id == 0 else -1
        if name == "go_9x9":  # this board is too empty for the other rule of Go, which has a test of its own
            held = jnp.where(observed[..., :1] | observed[..., 1:2], held, 0)
        np.testing.assert_array_equal(held[..., 0], to_move * (observed[..., 0] - observed[..., 1]))
        assert int(metadata.cur_player_id) != mover
        assert (int(held.sum()) - int(before.sum())) * (1 if mover == 0 else -1) >= 1
    end = tz.learn.EpisodeEnd(jnp.int32(1), jnp.float32(0), jnp.bool_(False), metadata.cur_player_id, held)
    policy, zero = jnp.ones(env.num_actions) / env.num_actions, jnp.float32(0)
    sample = tz.Sample(env.observe(state), metadata.action_mask, policy, zero, zero, zero, None, end)
    turned = jax.vmap(lambda key: config.augment(sample, key=key))(jax.random.split(jax.random.key(0), 16))
    pieces = turned.observation.astype(jnp.int8)
    np.testing.assert_array_equal(turned.end.final[..., 0], to_move * (pieces[..., 0] - pieces[..., 1]))
    assert len(np.unique(np.asarray(turned.end.final), axis=0)) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symmetry": "turn"}, "turn"),  # here by the hook of conftest.py, elsewhere by the recipe itself
        ({"search": "alpha-beta"}, "alpha-beta"),
        ({"cold_after": 4}, 'found cold_after=4 with search="gumbel", whose moves have no temperature'),
        ({"env": "tictactoe"}, "found 'tictactoe', expected .*; write 'tic_tac_toe', or choose"),
        ({"td_lambda": 2.0}, "found td_lambda=2.0, expected a number from 0 to 1"),
        ({"anneal": 1.5}, "found anneal=1.5, expected a number from 0"),
        ({"num_simulations": 0}, "found num_simulations=0, expected at least 1"),
        ({"fast_simulations": 0}, "found fast_simulations=0, expected at least 1"),
        ({"search": "puct", "q_scale": 0.5}, 'found q_scale=0.5 with search="puct"'),
        ({"q_scale": 0.0}, "found q_scale=0.0, expected more than 0"),
        ({"train_dtype": "float16"}, "float16"),
        ({"optimizer": "sgd"}, "sgd"),
        ({"ownership": -1.0}, "found ownership=-1.0, expected 0 or more"),
        ({"ownership": 0.25, "network": "mlp"}, 'found ownership=0.25 with network="mlp".* set ownership to 0'),
        (
            {"ownership": 0.25, "env": "hex"},
            "found ownership=0.25 for hex, expected it for one of connect_four, go_19x",
        ),
    ],
)
def test_a_recipe_without_sense_is_refused(change, message):
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=message):
        dataclasses.replace(TINY, **change).build()
