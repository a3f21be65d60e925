"""Forks: allowed changes are made, others raise an error, and everything else is kept."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trainer

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]

MESH = tz.data_mesh(jax.devices()[:1])
ENV = tz.from_pgx("tic_tac_toe")
CONFIG = dataclasses.replace(trainer.config(), optimizer=optax.inject_hyperparams(optax.adam)(1e-2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and its state after four epochs."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints, state = tz.Checkpoints(folder, every_epochs=2), trainer.start(ENV, CONFIG, MESH)
    state = tz.train_loop(CONFIG, ENV, state, num_epochs=4, sinks=[], mesh=MESH, checkpoints=checkpoints)
    return folder, state


def forked(folder, epoch=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return config, tz.fork(folder, config, ENV, trainer.start(ENV, config, MESH), epoch=epoch, mesh=MESH)


def assert_same(one, other):
    one, other = (jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other))
    for a, b in zip(one, other, strict=True):
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(*((jax.random.key_data(x) if is_key else x) for x in (a, b)))


def trains(config, state):
    rows = []
    tz.train_loop(config, ENV, state, num_epochs=1, sinks=[rows.append], mesh=MESH)
    return np.isfinite(rows[0]["loss"]) and rows[0]["epoch"] == 4


def test_with_the_same_settings_everything_is_kept_and_the_folder_is_only_read(run):
    folder, state = run
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    config, fork = forked(folder)
    assert_same(fork, state)
    assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before
    assert trains(config, fork)
    assert int(forked(folder, epoch=2)[1].epoch) == 2


def test_another_learning_rate_is_taken_and_the_moments_are_kept(run):
    folder, state = run
    _, fork = forked(folder, optimizer=optax.inject_hyperparams(optax.adam)(3e-4))
    assert jnp.isclose(fork.train.opt_state.hyperparams["learning_rate"], 3e-4)
    assert_same(fork.train.opt_state.inner_state, state.train.opt_state.inner_state)


def test_with_other_simulations_games_go_on_with_new_trees(run):
    folder, state = run
    config, fork = forked(folder, mcts=tz.MCTS(5, 12, root=tz.Dirichlet()))
    at_root = lambda games: jax.tree.map(lambda x: x[:, 0], games.search.tree.state)
    assert_same(at_root(fork.games), at_root(state.games))
    assert_same(
        (fork.games.episode_moves, fork.games.step, fork.games.key, fork.games.search.metadata),
        (state.games.episode_moves, state.games.step, state.games.key, state.games.search.metadata),
    )
    assert (fork.games.search.tree.visits[:, 0] == 0).all() and fork.games.search.tree.visits.shape[1] == 12
    assert_same((fork.train, fork.replay), (state.train, state.replay))
    assert trains(config, fork)


@pytest.mark.parametrize("capacity", [5, 30])
def test_of_another_buffer_the_newest_rows_are_kept(run, capacity):
    folder, state = run
    config, fork = forked(folder, replay=tz.EpisodeReplayBuffer(capacity))
    for game in range(4):
        old, new = (jax.tree.map(lambda x, game=game: np.asarray(x[game]), s.replay) for s in (state, fork))
        kept = min(capacity, int(old.size))
        assert new.size == kept and new.num_known == max(0, old.num_known - (old.size - kept))
        slots = [(ring.position - 1 - np.arange(kept)) % len(ring.policy) for ring in (old, new)]
        for name in ("observation", "action_mask", "policy", "value", "policy_weight"):
            rows = [
                jax.tree.map(lambda x, at=at: x[at], getattr(r, name)) for r, at in zip((old, new), slots, strict=True)
            ]
            assert_same(jax.tree.map(jnp.asarray, rows[0]), jax.tree.map(jnp.asarray, rows[1]))
    assert trains(config, fork)


def test_other_testers_begin_with_the_network_that_was_saved(run):
    folder, state = run
    testers = (tz.TwoPlayerTester(num_games=4, max_moves=9), tz.OpponentTester(tz.random_player(), "random"))
    config, fork = forked(folder, testers=(testers[0], tz.matches.LadderTester((tz.random_player(),), 4, max_moves=9)))
    assert_same(fork.testers[0].network, state.train.average)
    assert trains(config, fork)
    kept = forked(folder, testers=testers)[1]  # other games do not change the state of a tester
    assert_same(kept.testers[0], state.testers[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_games": 8}, r"\.games\.search\.tree\.state\.current_player has int32\[4\], expected int32\[8\]"),
        ({"optimizer": optax.sgd(0.1)}, r"\.train\.opt_state\S* has \w+\[.*\], expected nothing"),
        ({"average_decay": None}, r"\.train\.average\S* has float32\[8, 18\], expected nothing"),
    ],
)
def test_what_may_not_change_is_shown(run, changes, message):
    with pytest.raises(ValueError, match=message):
        forked(run[0], **changes)


def test_another_network_or_game_is_refused(run):
    network = tz.MLP(ENV.observation.shape, ENV.num_actions, width=16, key=jax.random.key(0))
    state = tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    with pytest.raises(ValueError, match=r"weight has float32\[8, 18\], expected float32\[16, 18\]"):
        tz.fork(run[0], CONFIG, ENV, state, mesh=MESH)
    game = tz.from_pgx("connect_four")
    config = dataclasses.replace(CONFIG, augment=tz.random_mirror, testers=())
    with pytest.raises(ValueError, match="with other arrays than these settings need"):
        tz.fork(run[0], config, game, trainer.start(game, config, MESH), mesh=MESH)


def test_a_folder_without_a_run_is_named(run, tmp_path):
    with pytest.raises(ValueError, match="fork: found no run in"):
        forked(tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint of epoch 7 in .*, expected one of .*\[2, 4\]"):
        forked(run[0], epoch=7)


def test_another_seed_changes_the_keys_alone(run):
    folder, state = run
    one, other = (
        tz.fork(folder, CONFIG, ENV, trainer.start(ENV, CONFIG, MESH), seed=seed, mesh=MESH) for seed in (-1, 2**40)
    )
    keys = lambda state: (state.key, state.games.key)
    assert_same(eqx.tree_at(keys, one, keys(state)), state)
    for a, b, c in zip(*map(keys, (state, one, other)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        numbers = [jax.random.key_data(x).reshape(-1, 2) for x in (a, b, c)]
        assert len({tuple(row.tolist()) for rows in numbers for row in rows}) == 3 * len(numbers[0])
    assert trains(CONFIG, one)
