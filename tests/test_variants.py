"""Selectors, root policies, backups and final moves: each against its formula, and all of them together."""

import dataclasses
import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_search import make_node, plain_search, puct
from tabular import (
    NUM_ACTIONS,
    advance_each,
    begin,
    draw_tables,
    search_each,
    stack_tables,
    tabular_env,
    tabular_evaluator,
)

import tz
from tz.mcts.gumbel_root import GumbelNotes

pytestmark = pytest.mark.slow

NUM_GAMES = 12
SELECTORS = {
    "puct": tz.PUCT(fpu_reduction=0.2),
    "muzero": tz.mcts.MuZeroPUCT(),
    "tree": tz.mcts.MuZeroPUCT(scale="tree", fpu_reduction=0.1),
    "none": tz.mcts.MuZeroPUCT(scale="none"),
    "improved": tz.ImprovedPolicy(),
}
ROOTS = {
    "plain": tz.PlainRoot(),
    "dirichlet": tz.Dirichlet(),
    "forced": tz.mcts.ForcedPlayouts(),
    "gumbel": tz.Gumbel(3),
}
BACKUPS = {"mean": tz.mcts.MeanBackup(), "softmax": tz.mcts.SoftmaxBackup(), "max": tz.mcts.MaxBackup()}


@functools.cache
def random_nodes(num: int, seed: int = 0) -> list[tz.mcts.Node]:
    """Nodes of six actions with some illegal, some unvisited, in float32."""
    rng, nodes = np.random.default_rng(seed), []
    for _ in range(num):
        legal = rng.random(6) < 0.8
        legal[rng.integers(6)] = True
        visits = rng.integers(0, 30, 6) * legal * (rng.random(6) < 0.7)
        weights = np.where(legal, np.exp(2 * rng.normal(size=6)), 0)
        with np.errstate(divide="ignore"):
            logits = np.log(weights / weights.sum()).astype(np.float32)
        q = (3 * rng.normal(size=6) * (visits > 0)).astype(np.float32)
        numbers = np.float32([rng.normal(), q.min() - 1, q.max() + 0.5])
        nodes.append(tz.mcts.Node(*map(jnp.asarray, (logits, visits.astype(np.int32), q, *numbers))))
    return jax.device_get(nodes)  # indexing other arrays is slow


def stacked(nodes):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *nodes)


def for_each(function, *arrays):
    """Applies `function` to each node of a batch; returns NumPy arrays."""
    return jax.device_get(jax.jit(lambda *arrays: jax.vmap(function)(*arrays))(*arrays))


NODES = 200


@pytest.mark.parametrize(("scale", "fpu"), list(itertools.product(["siblings", "tree", "none"], [None, 0.3])))
def test_muzero_puct_is_its_formula(scale, fpu):
    nodes = random_nodes(NODES)
    selector = tz.mcts.MuZeroPUCT(scale=scale, fpu_reduction=fpu)
    for node, found in zip(nodes, for_each(selector, stacked(nodes)), strict=True):
        logits, visits, q = (np.asarray(x, float) for x in (node.logits, node.visits, node.q))
        total, visited = 1 + visits.sum(), visits > 0
        value = (float(node.raw_value) + visits @ q) / total
        seen = {"siblings": [*q[visited], value], "tree": [float(node.q_low), float(node.q_high), value]}
        low, high = (0, 1) if scale == "none" else (min(seen[scale]), max(seen[scale]))
        width = max(high - low, 1e-8)
        least = -1 if scale == "none" else 0
        q = np.where(visited, (q - low) / width, least if fpu is None else (value - low) / width - fpu)
        score = q + np.exp(logits) * np.sqrt(total) / (1 + visits) * (1.25 + np.log((total + 19653) / 19652))
        assert found == np.argmax(np.where(logits > -np.inf, score, -np.inf))


def completed_q(node, c_visit=50, c_scale=0.1, rescale=True):
    """Equations 8 and 33 of the paper, with q rescaled as in its code."""
    logits, visits, q = (np.asarray(x, float) for x in (node.logits, node.visits, node.q))
    visited, value = visits > 0, float(node.raw_value)
    if visited.any():
        prior = np.exp(logits)
        mean = sum(prior[a] * q[a] for a in np.flatnonzero(visited)) / prior[visited].sum()
        value = (value + visits.sum() * mean) / (1 + visits.sum())
    q = np.where(visited, q, value)
    if rescale:
        q = (q - q.min()) / max(q.max() - q.min(), 1e-8)
    return (c_visit + visits.max()) * c_scale * q


@pytest.mark.parametrize("rescale", [True, False])
def test_completed_q_and_the_improved_policy_are_their_formulas(rescale):
    nodes = random_nodes(NODES)
    bonus = tz.mcts.CompletedQ(rescale=rescale)
    actions = for_each(tz.ImprovedPolicy(bonus), stacked(nodes))
    for node, found, action in zip(nodes, for_each(bonus, stacked(nodes)), actions, strict=True):
        expected = completed_q(node, rescale=rescale)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        improved = np.asarray(node.logits, float) + expected
        policy = np.exp(improved - improved.max()) / np.exp(improved - improved.max()).sum()
        shortfall = policy - np.asarray(node.visits) / (1 + int(node.visits.sum()))
        legal = np.asarray(node.logits) > -np.inf
        assert shortfall[action] >= shortfall[legal].max() - 1e-5 and legal[action]


def test_values_that_differ_only_by_rounding_count_as_equal():
    """Otherwise rounding would decide, and a GPU, which rounds in other places, would search another tree."""
    nodes, rng = random_nodes(NODES), np.random.default_rng(1)
    batch, worth = stacked(nodes), rng.normal(size=(NODES, 1))
    q = worth * (1 + rng.integers(-2, 3, batch.q.shape) * np.finfo(np.float32).eps)
    q, raw = (jnp.asarray(x, jnp.float32) for x in (np.where(batch.visits > 0, q, 0), worth[:, 0]))
    batch = eqx.tree_at(lambda node: (node.q, node.raw_value), batch, (q, raw))
    actions, bonuses = (for_each(function, batch) for function in (tz.mcts.MuZeroPUCT(), tz.mcts.CompletedQ()))
    for node, action, bonus in zip(nodes, actions, bonuses, strict=True):
        np.testing.assert_array_equal(bonus, 0)
        explore = np.where(node.logits > -np.inf, np.exp(node.logits) / (1 + node.visits), -np.inf)
        assert explore[action] >= explore.max() * (1 - 1e-5)


def test_forced_playouts_are_forced_and_then_pruned():
    nodes = random_nodes(NODES)
    root = tz.mcts.ForcedPlayouts(k=2.0, c=1.5, noise=tz.PlainRoot())
    selected = for_each(lambda node: root.select(node, None, tz.PUCT()), stacked(nodes))
    otherwise = for_each(tz.PUCT(), stacked(nodes))
    policies = for_each(lambda node: root.read(node, None).policy, stacked(nodes))
    num_pruned = 0
    for node, action, free, policy in zip(nodes, selected, otherwise, policies, strict=True):
        prior, visits, q = np.exp(np.asarray(node.logits, float)), np.asarray(node.visits), np.asarray(node.q, float)
        total = visits.sum()
        forced = np.sqrt(2.0 * prior * total)
        owed = (visits > 0) & (visits < forced - 1e-4)
        assert owed[action] if owed.any() else action == free
        if total == 0:
            continue
        explore = 1.5 * prior * np.sqrt(1 + total)
        best = visits.argmax()
        score = q[best] + explore[best] / (1 + visits[best])
        pruned = visits.copy()
        for a in range(len(visits)):
            taken = 0
            while a != best and pruned[a] > 0 and taken + 1 <= forced[a]:
                if q[a] + explore[a] / pruned[a] > score + 1e-6:
                    break  # with one visit less it would look better than the best
                pruned[a], taken = pruned[a] - 1, taken + 1
            if a != best and pruned[a] <= 1:
                pruned[a] = 0
        num_pruned += (pruned < visits).any()
        np.testing.assert_allclose(policy, pruned / pruned.sum(), atol=1e-6)
    assert num_pruned > NODES / 4


@eqx.filter_jit
def read_each(mcts, states, keys):
    """Returns the move to play and the policy of each game of a batch."""
    return jax.vmap(lambda s, key: (tz.choose_action(mcts, s, key=key), tz.action_weights(mcts, s)))(states, keys)


def search_twice(mcts, tables):
    """Searches, plays a move, and searches again; returns also the moves and policies after both searches, stacked."""
    keys = jax.random.split(jax.random.key(0), (4, NUM_GAMES))
    first = search_each(mcts, tables, begin(mcts, tables), keys[0])
    action, policy = read_each(mcts, first, keys[1])
    kept = advance_each(mcts, tables, first, action)
    second = search_each(mcts, tables, kept, keys[2])
    move, after = read_each(mcts, second, keys[3])
    return first, action, kept, second, move, jnp.stack([policy, after], axis=1)


def pairs():
    """Every selector with every root policy, and every backup and number of leaves with both."""
    for index, (selector, root) in enumerate(itertools.product(SELECTORS, ROOTS)):
        yield selector, root, list(BACKUPS)[(index + index // 4) % 3], (1, 4)[(index + index // 4) % 2]


@pytest.mark.parametrize(("selector", "root", "backup", "num_leaves"), list(pairs()))
def test_all_variants_compose(selector, root, backup, num_leaves):
    settings = {"selector": SELECTORS[selector], "root": ROOTS[root], "backup": BACKUPS[backup]}
    mcts = tz.MCTS(20, discount=0.95, num_leaves=num_leaves, **settings)
    tables = [draw_tables(seed, end_rate=0.1) for seed in range(NUM_GAMES)]
    found = search_twice(mcts, stack_tables(tables))
    tables, (first, action, kept, second, move, weights) = jax.device_get((tables, found))
    for game in range(NUM_GAMES):
        row = int(second.tree.state[game, 0])
        legal = [tables[game].legal[0], tables[game].legal[row] | tables[game].terminated[row]]
        assert legal[0][action[game]] and legal[1][move[game]]
        for tree, mask, policy in zip((first.tree, second.tree), legal, weights[game], strict=True):
            assert (tree.visits[game, 0][~mask] == 0).all() and (policy[~mask] == 0).all()
            np.testing.assert_allclose(policy.sum(), 1, rtol=1e-5)
            assert np.isfinite(tree.q[game]).all()
        before = kept.tree.visits[game, 0].sum()
        assert first.tree.visits[game, 0].sum() == 20 and second.tree.visits[game, 0].sum() == before + 20
    assert kept.tree.size.mean() > 2, "something was kept"


def test_gumbel_moves_by_the_best_of_the_most_visited():
    """It also selects the best of the moves whose turn it is. `gumbel + logits + completed q` decides in both cases."""
    nodes, rng = random_nodes(NODES), np.random.default_rng(1)
    gumbel = jnp.asarray(rng.gumbel(size=(NODES, 6)), jnp.float32)
    before = jnp.asarray(np.stack([node.visits // 2 for node in nodes]))
    turns = jnp.asarray(rng.integers(0, 2, (NODES, 90)), jnp.int32)
    root = tz.Gumbel()
    notes = jax.vmap(GumbelNotes)(gumbel, before, turns)
    moves = for_each(lambda node, notes: jnp.argmax(root.read(node, notes).log_weights), stacked(nodes), notes)
    selected = for_each(lambda node, notes: root.select(node, notes, tz.PUCT()), stacked(nodes), notes)
    gumbel, before, turns = jax.device_get((gumbel, before, turns))
    num_others = 0
    for index, node in enumerate(nodes):
        new, legal = node.visits - before[index], np.asarray(node.logits) > -np.inf
        score = np.where(legal, np.asarray(gumbel[index]) + np.asarray(node.logits) + completed_q(node), -np.inf)
        assert moves[index] == np.argmax(np.where(new == new[legal].max(), score, -np.inf))
        num_others += moves[index] != np.argmax(score)
        turn = int(turns[index, new.sum()]) if new.sum() < 90 else new.max()
        if (legal & (new == turn)).any():
            assert selected[index] == np.argmax(np.where(new == turn, score, -np.inf))
    assert num_others > NODES / 4


@pytest.mark.parametrize("num_leaves", [1, 5])
def test_gumbel_on_a_reused_root_counts_the_visits_of_this_search(num_leaves):
    mcts = tz.gumbel_mcts(20, 3, num_leaves=num_leaves)
    tables = [draw_tables(seed, end_rate=0.0) for seed in range(NUM_GAMES)]
    found = search_twice(mcts, stack_tables(tables))
    tables, (first, _, kept, second, move, _) = jax.device_get((tables, found))
    assert kept.tree.visits[:, 0].any()
    for game in range(NUM_GAMES):
        row = int(second.tree.state[game, 0])
        for tree, start, num_legal in (
            (first.tree, 0 * kept.tree.visits[game, 0], tables[game].legal[0].sum()),
            (second.tree, kept.tree.visits[game, 0], tables[game].legal[row].sum()),
        ):
            new = np.sort(tree.visits[game, 0] - start)[::-1]
            by_hand = {1: [20, 0, 0, 0], 2: [10, 10, 0, 0], 3: [9, 8, 3, 0]}  # 3: three visits each, then two moves
            assert new.tolist() == by_hand[min(int(num_legal), 3)]
        new = second.tree.visits[game, 0] - kept.tree.visits[game, 0]
        assert new[move[game]] == new.max()


def test_gumbel_improves_on_the_prior_with_two_simulations():
    """The paper proves it: with exact values, the played moves are better than those of the prior."""
    values, logits = jnp.array([0.1, -0.3, 0.5, 0.2]), jnp.array([1.0, 2.0, -0.5, 0.0])
    done = tz.StepMetadata(jnp.zeros(1), jnp.ones(4, bool), jnp.bool_(True), jnp.int32(0))
    start = dataclasses.replace(done, terminated=jnp.bool_(False))
    env = tz.Env(
        lambda key: (jnp.int32(0), start),
        lambda state, action: (jnp.int32(1), dataclasses.replace(done, rewards=values[action][None])),
        lambda state: state[None],
    )
    expected = jax.nn.softmax(logits) @ values
    mcts = tz.gumbel_mcts(2, 2)

    @jax.jit
    @jax.vmap
    def played(key):
        state = tz.init_search(mcts, *env.init(key))
        state = tz.search(mcts, env, lambda *_: (logits, expected), state, key=key)
        return values[tz.choose_action(mcts, state, key=key)], tz.action_weights(mcts, state) @ values

    move, policy = played(jax.random.split(jax.random.key(0), 4000))
    assert move.mean() - 4 * move.std() / np.sqrt(4000) > expected
    assert policy.mean() > expected


def test_gumbel_without_noise_and_with_one_legal_action():
    assert tz.without_exploration(tz.gumbel_mcts(8)).root.scale == 0
    node = jax.tree.map(jnp.asarray, random_nodes(1)[0])
    node = dataclasses.replace(node, logits=jnp.array([-jnp.inf, 0.0] + 4 * [-jnp.inf]), visits=jnp.zeros(6, jnp.int32))
    root = tz.Gumbel()
    _, notes = root.start(node, 8, key=jax.random.key(0))
    assert isinstance(notes, GumbelNotes) and root.select(node, notes, tz.PUCT()) == 1
    assert root.read(node, notes).policy[1] == 1


@pytest.fixture(scope="module")
def searched():
    """Returns searches of tabular games, and the returns that a plain search of the same games saw at the root."""
    mcts = tz.MCTS(40, discount=0.95, root=tz.PlainRoot())
    tables = [draw_tables(seed, end_rate=0.3) for seed in range(NUM_GAMES)]
    first, returns = search_twice(mcts, stack_tables(tables))[0], []
    for game in range(NUM_GAMES):
        plain = jax.tree.map(np.asarray, tables[game])
        root = make_node(plain, 0)
        plain_search(plain, root, lambda node, legal: puct(node, legal, 1.5), 40, 100, 0.95)
        returns.append([[q for a, q in root.returns if a == action] for action in range(NUM_ACTIONS)])
    return mcts, first, returns


def test_root_returns_are_those_of_the_simulations(searched):
    mcts, first, returns = searched
    found = jax.vmap(lambda state: tz.mcts.root_returns(state.tree, mcts.discount))(first)
    for game, (count, mean, variance) in enumerate(zip(*jax.device_get(found), strict=True)):
        for action, seen in enumerate(returns[game]):
            assert count[action] == len(seen)
            if seen:
                np.testing.assert_allclose(mean[action], np.mean(seen), atol=1e-5)
            if len(seen) > 1:
                np.testing.assert_allclose(variance[action], np.var(seen, ddof=1), rtol=1e-3, atol=1e-6)


def test_the_lower_confidence_bound_chooses_the_move_that_is_surely_good(searched):
    mcts, first, returns = searched
    mcts = dataclasses.replace(mcts, final_move=tz.mcts.LowerConfidenceBound(z=2.0, min_fraction=0.25))
    moves = jax.vmap(lambda state: tz.choose_action(mcts, state, key=jax.random.key(0)))(first)
    most = first.tree.visits[:, 0].argmax(axis=1)
    for game, move in enumerate(moves):
        counts = np.array([len(seen) for seen in returns[game]])
        bounds = np.array(
            [
                np.mean(seen) - 2 * np.std(seen, ddof=1) / np.sqrt(len(seen))
                if len(seen) > 1 and len(seen) >= 0.25 * counts.max()
                else -np.inf
                for seen in returns[game]
            ]
        )
        assert bounds[move] >= bounds.max() - 1e-4
    assert (moves != most).any(), "it makes a difference"


VARIANTS = {
    "puct": tz.MCTS(30),
    "muzero": tz.MCTS(30, selector=tz.mcts.MuZeroPUCT(scale="tree"), backup=tz.mcts.SoftmaxBackup()),
    "forced": tz.MCTS(30, root=tz.mcts.ForcedPlayouts(), backup=tz.mcts.MaxBackup()),
    "gumbel": tz.gumbel_mcts(30, final_move=tz.mcts.LowerConfidenceBound()),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_extreme_logits_do_not_break_a_search(name):
    mcts, tables = VARIANTS[name], draw_tables(2, end_rate=0.0)
    env = tabular_env(eqx.tree_at(lambda t: t.legal, tables, tables.legal.at[:, :3].set(True)))

    @jax.jit
    def run(logits):
        state = tz.init_search(mcts, *env.init(jax.random.key(0)))
        state = tz.search(mcts, env, lambda *_: (logits, jnp.float32(0.1)), state, key=jax.random.key(0))
        return state, tz.action_weights(mcts, state), tz.choose_action(mcts, state, key=jax.random.key(1))

    for logits in ([1e30, -1e30, 0, 0], [-1e30] * 4, [-np.inf, 0, 0, 0], [200.0, 0, 0, 0]):
        state, weights, action = run(jnp.array(logits, jnp.float32))
        assert jnp.isfinite(state.tree.q).all() and not jnp.isnan(state.tree.logits).any()
        assert (
            state.tree.visits[0].sum() == 30 and not state.tree.visits[0, ~np.asarray(state.metadata.action_mask)].any()
        )
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
        assert state.metadata.action_mask[action]


@pytest.mark.parametrize("name", VARIANTS)
def test_ten_thousand_simulations_in_float32(name):
    tables = draw_tables(5, end_rate=0.1)
    with pytest.warns(UserWarning, match="10000 simulations"):
        mcts = dataclasses.replace(VARIANTS[name], num_simulations=10_000, max_nodes=500, discount=0.99)
    env, evaluator = tabular_env(tables), tabular_evaluator(tables)
    run = jax.jit(lambda key: tz.search(mcts, env, evaluator, tz.init_search(mcts, *env.init(key)), key=key))
    tree = jax.device_get(run(jax.random.key(0))).tree
    assert tree.visits[0].sum() == 10_000
    bound = 48 * np.abs(tables.rewards).max() + 1  # no game is longer than 48 moves
    assert np.isfinite(tree.q).all() and np.abs(tree.q).max() < bound
    if name in ("puct", "gumbel"):  # for means, the value of an edge is the value of its child
        size = int(tree.size)
        node = np.arange(1, size)
        parent, action = tree.parent[node], tree.action[node]
        sums = tree.visits[node].sum(1)
        value = (tree.raw_value[node] + (tree.visits[node] * tree.q[node]).sum(1)) / (1 + sums)
        q = tree.reward[node] + 0.99 * np.where(tree.player[node] == tree.player[parent], 1, -1) * value
        np.testing.assert_allclose(tree.q[parent, action], q, atol=1e-3)
