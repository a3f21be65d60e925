"""The value that is recorded belongs to the policy that is recorded, and is close to that of a long search."""

import csv
import dataclasses
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz

NUM_POSITIONS, NUM_SIMULATIONS = 320, 16
FILE = pathlib.Path(__file__).parent / "data" / "connect_four_values.csv"
ENV = tz.from_pgx("connect_four")
SEARCHES = {
    "plain": tz.MCTS(NUM_SIMULATIONS, root=tz.PlainRoot()),
    "dirichlet": tz.MCTS(NUM_SIMULATIONS, root=tz.Dirichlet()),
    "forced": tz.MCTS(NUM_SIMULATIONS, root=tz.mcts.ForcedPlayouts()),
    "gumbel": tz.gumbel_mcts(NUM_SIMULATIONS, 7),
}


@eqx.filter_jit
def values(mcts, evaluator, positions):
    """Returns the value of each position by the search and by the evaluator."""

    def one(position, key):
        state = tz.search(mcts, ENV, evaluator, tz.init_search(mcts, *position), key=key)
        return tz.root_value(mcts, state), state.root.raw_value

    return jax.vmap(one)(positions, jax.random.split(jax.random.key(1), NUM_POSITIONS))


def write_positions():
    """Writes positions of self-play, one from each game and from all phases, with the values of 800 simulations."""
    evaluator, mcts = tz.load_agent("connect_four_small").evaluator, SEARCHES["gumbel"]

    @eqx.filter_jit
    def play(keys):
        def one(key):
            start = tz.init_collect(mcts, ENV, key=key)
            return tz.collect(mcts, ENV, evaluator, start, num_moves=28)[1]

        return jax.vmap(one)(keys)

    games = jax.device_get(play(jax.random.split(jax.random.key(8), NUM_POSITIONS)))
    lines = []
    for index, (actions, ends) in enumerate(zip(games.action, games.terminated, strict=True)):
        last = index % 28  # the position before this move, in a game that began after the end of the one before
        first = max(np.flatnonzero(ends[:last]), default=-1) + 1
        lines.append("".join(map(str, actions[first:last])))
    long = tz.MCTS(800, root=tz.PlainRoot(), persist_tree=False)
    truth, raw = jax.device_get(values(long, evaluator, positions_of(lines)))
    rows = [f"{moves},{x:.5f},{y:.5f}" for moves, x, y in zip(lines, truth, raw, strict=True)]
    FILE.write_text("\n".join(["moves,searched,network", *rows]) + "\n")


def positions_of(lines):
    """Returns the positions after moves, which are digits from 0."""
    moves = jnp.array([[int(move) for move in line.ljust(28, "x").replace("x", "9")] for line in lines])
    return jax.vmap(lambda moves: tz.play_moves(ENV, moves))(jnp.where(moves == 9, -1, moves))


@pytest.fixture(scope="module")
def solved_long():
    """Returns positions of self-play, the evaluator, and the values of 800 simulations from `write_positions`."""
    rows = list(csv.DictReader(FILE.read_text().splitlines()))
    column = lambda name: np.array([float(row[name]) for row in rows])
    return positions_of([row["moves"] for row in rows]), column("searched"), column("network")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_the_recorded_value_is_better_than_the_networks(name, solved_long):
    positions, truth, network = solved_long
    value, raw = values(SEARCHES[name], tz.load_agent("connect_four_small").evaluator, positions)
    message = (
        "the file is of another agent; make it anew: python -c 'import test_values; test_values.write_positions()'"
    )
    np.testing.assert_allclose(raw, network, atol=1e-3, err_msg=message)
    error, error_of_network = (np.sqrt(np.mean((x - truth) ** 2)) for x in (value, raw))
    assert error <= 0.8 * error_of_network
    assert abs(np.mean(value - truth)) <= 0.04


TABLES = draw_tables(3, end_rate=0.2)
TABULAR, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)


ROOTS = [tz.PlainRoot(), tz.Dirichlet(epsilon=0.8), tz.mcts.ForcedPlayouts(k=4.0), tz.Gumbel(3)]


@pytest.mark.parametrize("mcts", [tz.MCTS(12, root=root) for root in ROOTS])
def test_what_is_recorded_is_what_the_root_policy_reads(mcts):
    """Computed by hand from the arrays of the root: the policy, and the mean of the returns under the policy."""

    @eqx.filter_jit
    def run(mcts, key):
        state = tz.search(mcts, TABULAR, EVALUATOR, tz.init_search(mcts, *TABULAR.init(key)), key=key)
        return state.root, tz.action_weights(mcts, state), tz.root_value(mcts, state)

    for seed in range(8):
        root, policy, value = jax.device_get(run(mcts, jax.random.key(seed)))
        if isinstance(mcts.root, tz.Gumbel):
            q = mcts.root.completed_q.complete(root)
            np.testing.assert_allclose(value, policy @ np.asarray(q), atol=1e-6)
            assert (np.asarray(q)[root.visits > 0] == root.q[root.visits > 0]).all()
        else:
            counts = np.round(policy * root.visits.max() / policy.max())  # the most visited is never pruned
            if isinstance(mcts.root, tz.Dirichlet):
                prior = np.asarray(jax.nn.softmax(jnp.where(TABLES.legal[0], TABLES.logits[0], -jnp.inf)))
                counts = counts * np.minimum(prior / np.exp(root.logits).clip(1e-30), 1)
            expected = (root.raw_value + counts @ root.q) / (1 + counts.sum())
            np.testing.assert_allclose(value, expected, atol=1e-5)
            assert counts.sum() == 12 or not isinstance(mcts.root, tz.PlainRoot)


@pytest.mark.slow
def test_self_play_records_the_value_of_the_root_policy():
    """The first move of a game is searched with a known key, so its record can be computed again."""
    mcts = tz.gumbel_mcts(12, 3)

    @jax.jit
    def run(key):
        game = tz.init_collect(mcts, TABULAR, key=key)
        search_key = jax.random.split(jax.random.fold_in(game.key, 0), 3)[0]
        state = tz.search(mcts, TABULAR, EVALUATOR, game.search, key=search_key)
        record = tz.collect(mcts, TABULAR, EVALUATOR, game, num_moves=1)[1]
        return record.value[0], tz.root_value(mcts, state), state.root.value

    recorded, expected, mean = jax.vmap(run)(jax.random.split(jax.random.key(0), 16))
    np.testing.assert_array_equal(recorded, expected)
    assert (np.abs(recorded - mean) > 0.01).any(), "for a Gumbel root it is not the mean of all visits"


@pytest.mark.parametrize("max_actions", [None, 3])
@pytest.mark.parametrize("root", [tz.PlainRoot(), tz.Dirichlet(), tz.mcts.ForcedPlayouts(), tz.Gumbel()])
def test_before_any_simulation_the_prior_answers(root, max_actions):
    mcts = tz.MCTS(8, root=root, max_actions=max_actions)
    legal = np.asarray(TABLES.legal[0])
    key, start = jax.random.key(0), tz.init_search(mcts, *TABULAR.init(jax.random.key(0)))
    evaluated = tz.start_search(mcts, EVALUATOR, start, key=key)
    for state in (start, evaluated):
        weights = np.asarray(tz.action_weights(mcts, state))
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
        assert (weights[~legal] == 0).all()
        assert all(legal[tz.choose_action(mcts, state, key=jax.random.key(seed))] for seed in range(4))
    assert len(set(np.asarray(tz.action_weights(mcts, start))[legal].round(4))) == 1 or max_actions == 3
    if isinstance(root, tz.PlainRoot) and max_actions is None:
        np.testing.assert_allclose(weights, jax.nn.softmax(jnp.where(legal, TABLES.logits[0], -jnp.inf)), rtol=1e-5)
    assert tz.root_value(mcts, evaluated) == pytest.approx(float(TABLES.values[0]), abs=1e-6)


@pytest.mark.slow
def test_after_a_move_whose_subtree_is_unknown_the_prior_answers():
    mcts = tz.MCTS(8, root=tz.PlainRoot())
    for persist_tree in (True, False):
        settings = dataclasses.replace(mcts, persist_tree=persist_tree)
        state = tz.init_search(settings, *TABULAR.init(jax.random.key(0)))
        action = jnp.int32(np.flatnonzero(TABLES.legal[0])[-1])
        moved = tz.advance(settings, state, action, *TABULAR.step(jnp.int32(0), action))
        legal = np.asarray(moved.metadata.action_mask)
        np.testing.assert_allclose(tz.action_weights(settings, moved), legal / legal.sum(), rtol=1e-6)
        assert legal[tz.choose_action(settings, moved, key=jax.random.key(0))]
