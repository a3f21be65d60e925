"""Proofs in the tree against the exact results of tic-tac-toe."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tic_tac_toe import after, is_mistake, minimax, padded, reachable

import tz

pytestmark = pytest.mark.slow

ENV = tz.from_pgx("tic_tac_toe")
BOARDS = [board for board, moves in reachable().items() if 2 <= len(moves) <= 5][::40]
MOVES = padded([reachable()[board] for board in BOARDS])


def boastful_evaluator(env_state, metadata, key):
    """Rates every position as won or lost, at random."""
    return jnp.zeros(metadata.action_mask.shape), jnp.sign(jax.random.normal(key))


SEARCHES = {
    "puct": tz.MCTS(300, root=tz.PlainRoot(), temperature=0.0, solve=True),
    "leaves": tz.MCTS(300, root=tz.Dirichlet(), temperature=0.0, num_leaves=4, solve=True),
    "gumbel": tz.gumbel_mcts(300, 9, solve=True),
    "max": tz.MCTS(300, backup=tz.mcts.MaxBackup(), selector=tz.mcts.MuZeroPUCT(), temperature=1.0, solve=True),
}


@eqx.filter_jit
def searched(mcts, evaluator, moves):
    def one(moves, key):
        state = tz.init_search(mcts, *tz.play_moves(ENV, moves))
        state = tz.search(mcts, ENV, evaluator, state, key=key)
        return state, tz.choose_action(mcts, state, key=key)

    return jax.vmap(one)(moves, jax.random.split(jax.random.key(0), len(moves)))


@pytest.mark.parametrize("name", SEARCHES)
def test_proofs_are_true_and_decide_the_move(name):
    states, actions = jax.device_get(searched(SEARCHES[name], boastful_evaluator, jnp.asarray(MOVES)))
    tree, num_proofs = states.tree, 0
    for game, board in enumerate(BOARDS):
        boards = [board]
        for node in range(int(tree.size[game])):
            if node:
                boards.append(after(boards[tree.parent[game, node]], int(tree.action[game, node])))
            for action in np.flatnonzero((tree.visits[game, node] > 0) & (np.abs(tree.q[game, node]) >= 1)):
                assert tree.q[game, node, action] == minimax(boards[node])[1][action]
                num_proofs += 1
        won, lost = (tree.q[game, 0] * (tree.visits[game, 0] > 0) == sign for sign in (1, -1))
        legal = states.metadata.action_mask[game]
        good = won if won.any() else legal & ~lost
        assert good[actions[game]] or not good.any()
    assert num_proofs > 10 * len(MOVES)


def test_with_few_simulations_proofs_save_from_mistakes():
    def num_mistakes(solve):
        mcts = tz.MCTS(100, root=tz.PlainRoot(), temperature=0.0, solve=solve)
        _, actions = searched(mcts, boastful_evaluator, jnp.asarray(MOVES))
        return sum(map(is_mistake, BOARDS, actions))

    assert num_mistakes(True) < num_mistakes(False)


def test_far_from_any_result_nothing_changes():
    """A tree of 20 nodes from the empty board contains no end of a game."""
    solving = dataclasses.replace(SEARCHES["puct"], num_simulations=20, max_nodes=21)
    start = -jnp.ones((1, 9), jnp.int32)
    with_it, _ = searched(solving, tz.uniform_evaluator, start)
    without, _ = searched(dataclasses.replace(solving, solve=False), tz.uniform_evaluator, start)
    assert eqx.tree_equal(with_it.tree, without.tree)


def test_a_proof_survives_and_no_mean_becomes_one():
    mcts = SEARCHES["puct"]
    states, _ = searched(mcts, tz.uniform_evaluator, jnp.asarray([[0, 3, 1, 4, -1, -1, -1, -1, -1]]))
    root = jax.tree.map(lambda x: x[0], states).root
    assert root.q[2] == 1 and int(np.sum(np.asarray(root.q) >= 1)) == 1, "one move wins, the others do not"


@pytest.mark.parametrize(("settings", "message"), [({"max_actions": 4}, "all actions"), ({"discount": 0.9}, "0.9")])
def test_what_solve_cannot_go_with_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tz.MCTS(8, solve=True, **settings)


ROOTS = {
    "plain": tz.MCTS(64, root=tz.PlainRoot(), solve=True),
    "dirichlet": tz.MCTS(64, root=tz.Dirichlet(epsilon=0.5), solve=True),
    "forced": tz.MCTS(64, root=tz.mcts.ForcedPlayouts(k=8.0, noise=tz.Dirichlet(epsilon=0.5)), solve=True),
    "gumbel": tz.gumbel_mcts(64, 9, solve=True),
}


@eqx.filter_jit
def traced(mcts, evaluator, moves):
    """Returns the root after each simulation, and the results of the search."""

    def one(moves, key):
        state = tz.init_search(mcts, *tz.play_moves(ENV, moves))
        state = tz.start_search(mcts, evaluator, state, key=key)

        def step(state, key):
            after = tz.search_step(mcts, ENV, evaluator, state, key=key)
            return after, (state.root, after.root.visits)

        state, roots = jax.lax.scan(step, state, jax.random.split(key, mcts.num_simulations))
        return roots, state.root, tz.action_weights(mcts, state), tz.root_value(mcts, state)

    return jax.vmap(one)(moves, jax.random.split(jax.random.key(0), len(moves)))


@pytest.mark.parametrize("name", ROOTS)
def test_every_root_leaves_lost_moves_alone_and_every_target_honours_proofs(name):
    (before, visits), root, policy, value = jax.device_get(traced(ROOTS[name], boastful_evaluator, jnp.asarray(MOVES)))
    num_lost = num_won = num_hopeless = 0
    for game, board in enumerate(BOARDS):
        legal = root.logits[game] > -np.inf
        for t in range(64):
            seen = before.visits[game, t] > 0
            lost = seen & (before.q[game, t] <= -1)
            if (legal & ~lost).any():
                assert not (visits[game, t] - before.visits[game, t])[lost].any(), "a proven loss was tried once more"
        won, lost = (root.visits[game] > 0) & (root.q[game] >= 1), (root.visits[game] > 0) & (root.q[game] <= -1)
        np.testing.assert_allclose(policy[game].sum(), 1, rtol=1e-5)
        assert (policy[game][~legal] == 0).all()
        if won.any():
            num_won += 1
            assert (policy[game][~won] == 0).all() and value[game] == 1 == minimax(board)[0]
        elif lost[legal].all():
            num_hopeless += 1
            assert value[game] == -1 == minimax(board)[0]
        else:
            num_lost += lost.any()
            assert (policy[game][lost] == 0).all() and abs(value[game]) < 1
    assert num_lost > 3 and num_won > 3 and num_hopeless > 0
