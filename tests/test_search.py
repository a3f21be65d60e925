"""The search against an oracle, its invariants, and its errors."""

import dataclasses
import functools
import warnings

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from plain_search import make_node, max_backup, mean_backup, muzero_puct, plain_search, puct, softmax_backup
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

NUM_GAMES = 24
SEARCHES = {  # name: (settings of the search, plain selector, settings of the games)
    "two players": ({}, (puct, 1.5), {}),
    "alternating, deep": ({"discount": 0.97}, (puct, 0.4), {"alternate": True, "end_rate": 0.0}),
    "one player": ({"discount": 0.9}, (puct, 1.5), {"num_players": 1}),
    "early ends": ({}, (puct, 1.5), {"end_rate": 0.6}),
    "full tree": ({"max_nodes": 7}, (puct, 1.5), {}),
    "muzero": ({"discount": 0.95}, (muzero_puct, 1.25), {}),
    "max backup": ({"discount": 0.95, "backup": tz.mcts.MaxBackup()}, (puct, 1.5), {}),
    "softmax backup": ({"discount": 0.95, "backup": tz.mcts.SoftmaxBackup()}, (puct, 1.5), {}),
    "leaves together": ({"num_leaves": 8}, (puct, 1.5), {}),
    "leaves together, full tree, muzero": ({"num_leaves": 5, "max_nodes": 23}, (muzero_puct, 1.25), {}),
}
PLAIN_BACKUPS = {"max backup": max_backup, "softmax backup": softmax_backup}


def settings(options, plain) -> tz.MCTS:
    selector = tz.PUCT(plain[1]) if plain[0] is puct else tz.mcts.MuZeroPUCT(plain[1])
    options = {"num_simulations": 40, "max_nodes": 96} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if options["max_nodes"] <= options["num_simulations"] else "error")
        return tz.MCTS(selector=selector, root=tz.PlainRoot(), **options)


def search_twice(mcts, tables):
    """Searches, plays the most visited move, and searches again in the kept subtree, for a batch of games."""
    keys = jax.random.split(jax.random.key(0), len(tables.player))
    first = search_each(mcts, tables, begin(mcts, tables), keys)
    actions = jnp.argmax(jax.vmap(lambda state: state.root.visits)(first), axis=1).astype(jnp.int32)
    kept = advance_each(mcts, tables, first, actions)
    return first, actions, kept, search_each(mcts, tables, kept, keys)


@functools.cache
def searched(name):
    """Returns the search, the games and the results of `search_twice`, as NumPy arrays, which are faster to index."""
    options, plain, games = SEARCHES[name]
    tables = [draw_tables(seed, **games) for seed in range(NUM_GAMES)]
    mcts = settings(options, plain)
    return mcts, *jax.device_get((tables, search_twice(mcts, stack_tables(tables))))


def flat_tree(node, tree, index=0):
    """Asserts that a node of the plain search and its descendants equal those of `tree`."""
    np.testing.assert_array_equal(tree.visits[index], node.visits)
    np.testing.assert_allclose(tree.q[index], node.q, atol=2e-5)
    for action in range(NUM_ACTIONS):
        child = int(tree.children[index, action])
        assert (child >= 0) == (action in node.children)
        if child >= 0:
            flat_tree(node.children[action], tree, child)


@pytest.mark.parametrize("name", SEARCHES)
def test_agrees_with_the_plain_search(name):
    mcts, tables, (first, actions, _, second) = searched(name)
    _, (select, c), _ = SEARCHES[name]
    for game in range(NUM_GAMES):
        plain = tables[game]
        run = functools.partial(
            plain_search, plain, select=lambda node, legal: select(node, legal, c), max_nodes=mcts.max_nodes,
            num_simulations=mcts.num_simulations, discount=mcts.discount, backup=PLAIN_BACKUPS.get(name, mean_backup),
            num_leaves=mcts.num_leaves,
        )  # fmt: skip
        root = make_node(plain, 0)
        run(root)
        np.testing.assert_allclose(first.tree.q_low[game], min(root.seen), atol=2e-5)
        np.testing.assert_allclose(first.tree.q_high[game], max(root.seen), atol=2e-5)
        flat_tree(root, jax.tree.map(lambda x, game=game: x[game], first.tree))

        after = int(plain.next_state[0, actions[game]])
        if plain.terminated[after]:
            continue
        root = root.children[int(actions[game])] if int(actions[game]) in root.children else make_node(plain, after)
        run(root)
        flat_tree(root, jax.tree.map(lambda x, game=game: x[game], second.tree))


@pytest.mark.parametrize("name", SEARCHES)
def test_tree_invariants(name):
    mcts, tables, (first, _, _, second) = searched(name)
    for state in (first, second):
        tree = state.tree
        for game in range(NUM_GAMES):
            if tree.terminated[game, 0]:
                continue  # the move played ended the game: nothing to search
            size = tree.size[game]
            parent, action, visits = tree.parent[game, :size], tree.action[game, :size], tree.visits[game, :size]
            assert size <= mcts.max_nodes and parent[0] == -1
            assert (parent[1:] < np.arange(1, size)).all(), "a parent stands before its children"
            assert (tree.children[game][parent[1:], action[1:]] == np.arange(1, size)).all()
            assert (tree.children[game] >= 0).sum() == size - 1
            illegal = ~tables[game].legal[tree.state[game, :size]] & ~tree.terminated[game, :size, None]
            assert not visits[np.asarray(illegal)].any(), "an illegal action was visited"
            assert not visits[tree.terminated[game, :size]].any(), "the search went on after the end"
            below = visits[1:].sum(1)
            into = tree.visits[game][parent[1:], action[1:]]
            live = ~tree.terminated[game, 1:size]
            # A node is visited once by its own evaluation (more often if simulations of one step met there), and
            # once for each visit of one of its edges.
            if mcts.max_nodes > mcts.num_simulations:
                own = into[live] - below[live]
                assert (own >= 1).all() and (mcts.num_leaves > 1 or (own == 1).all())
        np.testing.assert_allclose(jax.vmap(lambda s: tz.action_weights(mcts, s))(state).sum(-1), 1, rtol=1e-6)
    assert (first.tree.visits[:, 0].sum(-1) == mcts.num_simulations).all()


def test_a_full_tree_goes_on_searching():
    mcts, _, (first, *_) = searched("full tree")
    assert (first.tree.size <= 7).all() and (first.tree.size == 7).any()
    assert (first.tree.visits[:, 0].sum(-1) == 40).all()


def test_advance_keeps_the_played_subtree():
    mcts, tables, (first, actions, kept, _) = searched("two players")
    num_kept = 0
    for game in range(NUM_GAMES):
        old, new = (jax.tree.map(lambda x, game=game: x[game], s.tree) for s in (first, kept))
        pairs = [(int(old.children[0, actions[game]]), 0)]
        while pairs:
            before, after = pairs.pop()
            num_kept += 1
            for field in ("state", "player", "terminated", "raw_value", "logits", "visits", "q"):
                np.testing.assert_array_equal(getattr(old, field)[before], getattr(new, field)[after], err_msg=field)
            for action in range(NUM_ACTIONS):
                child = int(old.children[before, action]), int(new.children[after, action])
                assert (child[0] < 0) == (child[1] < 0)
                if child[0] >= 0:
                    assert old.reward[child[0]] == new.reward[child[1]]
                    pairs.append(child)
    assert num_kept == kept.tree.size.sum() > NUM_GAMES


@pytest.mark.slow
def test_advance_to_an_unvisited_move_and_reset_start_anew():
    mcts, tables, (first, actions, *_) = searched("two players")
    env = tabular_env(jax.tree.map(jnp.asarray, tables[0]))
    state, action = jax.tree.map(lambda x: jnp.asarray(x[0]), (first, actions))
    after = env.step(jnp.int32(0), action)
    in_use = lambda s: eqx.tree_at(lambda s: s.tree.state, s, s.tree.state[: int(s.tree.size)])  # the rest is unused
    fresh = in_use(tz.init_search(mcts, *after))
    chex.assert_trees_all_equal(in_use(tz.advance(mcts, state, action, *after, reset=True)), fresh)
    forgetful = dataclasses.replace(mcts, persist_tree=False)
    chex.assert_trees_all_equal(in_use(tz.advance(forgetful, state, action, *after)), fresh)
    childless = eqx.tree_at(lambda s: s.tree.children, state, state.tree.children.at[0].set(-1))
    chex.assert_trees_all_equal(in_use(tz.advance(mcts, childless, action, *after)), fresh)


def test_games_of_a_batch_do_not_touch_each_other():
    mcts, tables, (first, *_) = searched("two players")
    alone = stack_tables(tables[3:4])
    alone = jax.device_get(search_each(mcts, alone, begin(mcts, alone), jax.random.split(jax.random.key(0), 1)))
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x, i=i: x[i], s) for s, i in ((first, 3), (alone, 0))))


def test_the_values_of_nodes_of_a_batch_are_those_of_each_game():
    _, _, (first, *_) = searched("two players")
    nodes = jax.vmap(lambda state: state.root)(first)
    chex.assert_trees_all_close(nodes.value, jax.vmap(lambda state: state.root.value)(first))
    assert np.array_equal(nodes.num_visits, jax.vmap(lambda state: state.root.num_visits)(first))


def test_one_trace_a_shape_and_settings_sweep_under_vmap():
    tables = draw_tables(0)
    env, evaluator = tabular_env(tables), tabular_evaluator(tables)
    traces = []

    def weights(c, temperature, key):
        traces.append(c)
        mcts = tz.MCTS(24, selector=tz.PUCT(c), temperature=temperature)
        state = tz.search(mcts, env, evaluator, tz.init_search(mcts, *env.init(key)), key=key)
        return tz.action_weights(mcts, state), tz.choose_action(mcts, state, key=key)

    compiled = jax.jit(weights)
    for seed, c in enumerate([0.1, 1.0, 4.0]):
        compiled(jnp.float32(c), jnp.float32(seed), jax.random.key(seed))
    assert len(traces) == 1
    swept = jax.jit(jax.vmap(lambda c: weights(c, jnp.float32(1), jax.random.key(0))[0]))(jnp.array([0.05, 50.0]))
    entropy = jax.scipy.special.entr(swept).sum(-1)
    assert entropy[0] < entropy[1], "more exploration spreads the visits"


@pytest.fixture(scope="module")
def root_search():
    """A search of one game with noise, compiled once: `(alpha, epsilon, state, key) -> state`."""
    tables = draw_tables(1, end_rate=0.0)
    env, evaluator = tabular_env(tables), tabular_evaluator(tables)

    @jax.jit
    def run(alpha, epsilon, state, key):
        mcts = tz.MCTS(24, 64, root=tz.Dirichlet(alpha, epsilon))
        return tz.search(mcts, env, evaluator, state, key=key)

    mcts = tz.MCTS(24, 64)
    return mcts, env, tables, run, tz.init_search(mcts, *env.init(jax.random.key(0)))


def root_prior(state):
    return np.exp(np.asarray(state.tree.logits[0]))


def test_noise_is_at_the_root_on_legal_actions_and_once_a_search(root_search):
    _, _, tables, run, state = root_search
    legal = np.asarray(tables.legal[0])
    priors = np.asarray(jax.nn.softmax(jnp.where(tables.legal, tables.logits, -jnp.inf)))
    clean = root_prior(run(0.3, 0.0, state, jax.random.key(0)))
    np.testing.assert_allclose(clean, priors[0], rtol=1e-5)
    searches = [jax.device_get(run(0.3, 0.25, state, jax.random.key(seed))) for seed in range(30)]
    for noisy in searches:
        prior = root_prior(noisy)
        assert (prior[~legal] == 0).all() and (prior[legal] > 0).all()
        np.testing.assert_allclose(prior.sum(), 1, rtol=1e-5)
        assert (prior[legal] >= 0.75 * clean[legal] - 1e-6).all(), "a quarter of the prior at most is noise"
        size = int(noisy.tree.size)
        live = ~noisy.tree.terminated[1:size]
        expected = priors[noisy.tree.state[1:size]]
        np.testing.assert_allclose(np.exp(noisy.tree.logits[1:size])[live], expected[live], rtol=1e-5)  # root only
    mean = np.mean([root_prior(noisy) for noisy in searches], 0)
    assert np.std([root_prior(noisy) for noisy in searches], 0)[legal].min() > 0.01
    np.testing.assert_allclose(mean[legal], 0.75 * clean[legal] + 0.25 / legal.sum(), atol=0.08)


def test_noise_is_drawn_anew_on_a_reused_root_and_does_not_pile_up(root_search):
    mcts, env, tables, run, state = root_search
    first = run(0.3, 0.25, state, jax.random.key(0))
    action = jnp.argmax(first.tree.visits[0]).astype(jnp.int32)
    kept = tz.advance(mcts, first, action, *env.step(jnp.int32(0), action))
    row = int(kept.tree.state[0])
    clean = jax.nn.softmax(jnp.where(tables.legal[row], tables.logits[row], -jnp.inf))
    once = run(0.3, 0.25, kept, jax.random.key(1))
    again = run(0.3, 0.25, once, jax.random.key(1))
    assert not np.allclose(root_prior(once), clean, atol=1e-3)
    np.testing.assert_array_equal(root_prior(once), root_prior(again))


@pytest.mark.parametrize("num_leaves", [1, 4])
def test_the_root_policy_is_asked_once_a_search_and_no_key_is_used_twice(num_leaves):
    tables = draw_tables(1, end_rate=0.0)
    env, seen = tabular_env(tables), {"root": [], "evaluator": []}

    def note(who, key):
        jax.debug.callback(lambda data: seen[who].append(tuple(np.asarray(data))), jax.random.key_data(key))

    class NotingRoot(tz.PlainRoot):
        def start(self, node, num_simulations, *, key):
            note("root", key)
            return node.logits, None

    def evaluator(row, metadata, key):
        note("evaluator", key)
        return tables.logits[row], tables.values[row]

    mcts = tz.MCTS(12, root=NotingRoot(), num_leaves=num_leaves)
    state = tz.init_search(mcts, *env.init(jax.random.key(0)))
    jax.block_until_ready(jax.jit(lambda s: tz.search(mcts, env, evaluator, s, key=jax.random.key(5)))(state))
    jax.effects_barrier()
    assert len(seen["root"]) == 1
    assert len(seen["evaluator"]) == 13
    assert len({*seen["root"], *seen["evaluator"]}) == 14


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-3, 0.03, 10.0])
def test_noise_of_any_concentration_is_finite(alpha):
    logits = jnp.log(jnp.array([0.2, 0.0, 0.8, 0.0]))
    keys = jax.random.split(jax.random.key(0), 200)
    zeros = jnp.zeros(4)
    node = tz.mcts.Node(logits, zeros.astype(int), zeros, jnp.float32(0), jnp.float32(0), jnp.float32(0))
    noisy = jax.vmap(lambda key: tz.Dirichlet(alpha, 1.0).start(node, 1, key=key)[0])(keys)
    assert not jnp.isnan(noisy).any() and (noisy[:, jnp.array([1, 3])] == -jnp.inf).all()
    np.testing.assert_allclose(jnp.exp(noisy).sum(-1), 1, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_noise_has_the_marginals_of_a_dirichlet_distribution(alpha):
    logits = jnp.log(jnp.array([0.2, 0.0, 0.5, 0.1, 0.2]))
    zeros = jnp.zeros(5)
    node = tz.mcts.Node(logits, zeros.astype(int), zeros, jnp.float32(0), jnp.float32(0), jnp.float32(0))
    keys = jax.random.split(jax.random.key(0), 4000)
    noise = np.exp(jax.vmap(lambda key: tz.Dirichlet(alpha, 1.0).start(node, 1, key=key)[0])(keys))
    for action in (0, 2, 3, 4):
        assert scipy.stats.kstest(noise[:, action], scipy.stats.beta(alpha, 3 * alpha).cdf).pvalue > 1e-3
    pair = scipy.stats.beta(2 * alpha, 2 * alpha)  # the sum of two shows that the noise is drawn independently
    assert scipy.stats.kstest(noise[:, 0] + noise[:, 2], pair.cdf).pvalue > 1e-3


def test_temperature(root_search):
    mcts, _, _, run, state = root_search
    searched = run(0.3, 0.0, state, jax.random.key(0))
    searched = eqx.tree_at(lambda s: s.tree.visits, searched, searched.tree.visits.at[0].set(jnp.array([12, 0, 6, 6])))
    keys = jax.random.split(jax.random.key(0), 20_000)

    def shares(temperature):
        choose = functools.partial(tz.choose_action, dataclasses.replace(mcts, temperature=temperature), searched)
        return np.bincount(jax.vmap(lambda key: choose(key=key))(keys), minlength=4) / len(keys)

    np.testing.assert_allclose(shares(1.0), [0.5, 0, 0.25, 0.25], atol=0.015)
    np.testing.assert_allclose(shares(0.5), [4 / 6, 0, 1 / 6, 1 / 6], atol=0.015)
    np.testing.assert_array_equal(shares(0.0), [1, 0, 0, 0])
    np.testing.assert_array_equal(shares(1e-30), [1, 0, 0, 0])
    searched = eqx.tree_at(lambda s: s.tree.visits, searched, searched.tree.visits.at[0].set(jnp.array([6, 0, 6, 3])))
    np.testing.assert_allclose(shares(0.0), [0.5, 0, 0.5, 0], atol=0.015)


def test_logits_are_not_softmaxed_twice(root_search):
    """The prior of a node is one softmax of the evaluator's logits; a second softmax would change these logits."""
    _, _, tables, run, state = root_search
    legal = tables.legal[0]
    expected = jax.nn.softmax(jnp.where(legal, tables.logits[0], -jnp.inf))
    twice = jax.nn.softmax(jnp.where(legal, expected, -jnp.inf))
    prior = root_prior(run(0.3, 0.0, state, jax.random.key(0)))
    np.testing.assert_allclose(prior, expected, rtol=1e-5)
    assert np.abs(prior - twice).max() > 0.05


def test_more_than_two_players_are_refused():
    env = tabular_env(draw_tables(0))
    row, metadata = env.init(jax.random.key(0))
    metadata = dataclasses.replace(metadata, rewards=jnp.zeros(3))
    with pytest.raises(ValueError, match="found a game whose rewards have 3 entries, expected one or two players"):
        tz.init_search(tz.MCTS(4), row, metadata)


def test_an_evaluator_of_the_wrong_shape_is_refused():
    env = tabular_env(draw_tables(0))
    mcts = tz.MCTS(4)
    state = tz.init_search(mcts, *env.init(jax.random.key(0)))
    for evaluator in (lambda s, m, k: (jnp.zeros(5), jnp.float32(0)), lambda s, m, k: (jnp.zeros(4), jnp.zeros(1))):
        with pytest.raises(ValueError, match=r"found an evaluator that .* expected logits of shape \(4,\)"):
            tz.search(mcts, env, evaluator, state, key=jax.random.key(0))


@pytest.mark.parametrize("mcts", [tz.MCTS(20), tz.gumbel_mcts(20, max_nodes=30)])
def test_search_bytes_are_those_allocated(mcts):
    env = tz.from_pgx("connect_four")
    states = jax.jit(jax.vmap(lambda key: tz.init_search(mcts, *env.init(key))))(jax.random.split(jax.random.key(0), 6))
    assert tz.mcts.search_bytes(mcts, env, 6) == sum(leaf.nbytes for leaf in jax.tree.leaves(states))


def test_search_bytes_of_a_model_count_its_states():
    env, mcts = tz.from_pgx("connect_four"), tz.MCTS(20)
    model = tz.mcts.Model(lambda state, metadata: (jnp.zeros(100), metadata), lambda *state_and_action: None)
    of_the_game = sum(leaf.nbytes for leaf in jax.tree.leaves(env.init(jax.random.key(0))[0]))
    difference = tz.mcts.search_bytes(mcts, env, 3, model=model) - tz.mcts.search_bytes(mcts, env, 3)
    assert difference == 3 * mcts.num_nodes * (400 - of_the_game)


@pytest.mark.slow
@pytest.mark.parametrize("max_actions", [NUM_ACTIONS, 2])
def test_nodes_that_keep_some_actions_search_as_if_the_others_were_illegal(max_actions):
    tables = [draw_tables(seed) for seed in range(NUM_GAMES)]
    ranks = [jnp.argsort(jnp.argsort(-jnp.where(t.legal, t.logits, -jnp.inf), axis=1), axis=1) for t in tables]
    fewer = [eqx.tree_at(lambda t: t.legal, t, t.legal & (r < max_actions)) for t, r in zip(tables, ranks, strict=True)]
    mcts = settings({}, (puct, 1.5))
    kept = search_twice(dataclasses.replace(mcts, max_actions=max_actions), stack_tables(tables))
    every = search_twice(mcts, stack_tables(fewer))
    for index in (0, 3):  # before and after a move
        for field in ("visits", "q", "logits"):
            found, expected = (getattr(jax.vmap(lambda s: s.root)(s[index]), field) for s in (kept, every))
            over = every[index].tree.terminated[:, 0]  # the prior does not matter there
            np.testing.assert_allclose(found[~over], expected[~over], atol=1e-6, err_msg=field)
    assert kept[0].tree.visits.shape == (NUM_GAMES, mcts.num_nodes, max_actions)


@pytest.mark.slow
def test_a_thousand_games_of_chess_fit_a_gpu():
    """Nodes keep 218 actions, the most that are ever legal; with all 4,672, the trees alone would fill the GPU."""
    env = tz.from_pgx("chess")
    mcts = tz.MCTS(127, 128)
    assert tz.mcts.search_bytes(mcts, env, 1024) > 10e9
    assert tz.mcts.search_bytes(dataclasses.replace(mcts, max_actions=218), env, 1024) < 16e9 / 4


def test_max_actions_out_of_range_are_refused():
    with pytest.raises(ValueError, match="found max_actions=0, expected from 1 to 32767"):
        tz.MCTS(4, max_actions=0)
    env = tabular_env(draw_tables(0))
    with pytest.raises(ValueError, match="found max_actions=9, expected at most 4, the number of actions"):
        tz.init_search(tz.MCTS(4, max_actions=9), *env.init(jax.random.key(0)))
    row, metadata = env.init(jax.random.key(0))
    metadata = dataclasses.replace(metadata, action_mask=jnp.ones(40_000, bool))  # more than the narrow dtype can count
    with pytest.raises(ValueError, match="a game of 40000 actions, expected a game of at most 32768"):
        tz.init_search(tz.MCTS(4, max_actions=9), row, metadata)


def test_kept_statistics_stay_with_their_actions_when_the_evaluator_changes():
    """The root is evaluated again; an evaluator with another order of preference must not mix up its edges."""
    mcts = dataclasses.replace(settings({}, (puct, 1.5)), max_actions=2)
    tables = stack_tables([draw_tables(seed, end_rate=0.0) for seed in range(NUM_GAMES)])
    _, _, kept, _ = search_twice(mcts, tables)
    other = dataclasses.replace(tables, logits=-tables.logits, values=-tables.values)
    second = search_each(mcts, other, kept, jax.random.split(jax.random.key(0), NUM_GAMES))
    before, after = (jax.vmap(lambda s: s.root.visits)(s) for s in (kept, second))
    assert (before > 0).any() and (after >= before).all()
    rows = jax.vmap(lambda t, row: t.legal[row])(tables, kept.tree.state[:, 0])
    assert not after[~rows].any()


@pytest.mark.filterwarnings("ignore:MCTS. found max_nodes=2")
def test_visits_without_a_child_stay_with_their_actions_too():
    """In a full tree, an edge has visits but no child. Its node is the root after a move, and has only itself."""
    env, key = tz.from_pgx("tic_tac_toe"), jax.random.key(0)
    mcts = tz.MCTS(8, max_nodes=2, max_actions=2, root=tz.PlainRoot())

    def evaluator(sign):
        return lambda state, metadata, key: (sign * jnp.arange(9, dtype=jnp.float32), jnp.float32(0))

    position = env.init(key)
    state = tz.search(mcts, env, evaluator(1), tz.init_search(mcts, *position), key=key)
    action = jnp.argmax(state.tree.children[0] >= 0)  # among the kept actions
    action = state.tree.actions[0, action].astype(jnp.int32)
    kept = tz.advance(mcts, state, action, *env.step(position[0], action))
    assert kept.tree.size == 1 and kept.root.visits.sum() > 0
    after = tz.start_search(mcts, evaluator(-1), kept, key=key)
    np.testing.assert_array_equal(after.root.visits, kept.root.visits)


def test_python_numbers_of_an_evaluator_or_a_game_are_taken():
    def metadata(state):
        made = tz.StepMetadata(jnp.zeros(1), jnp.ones(2, bool), state > 3, jnp.int32(0))
        object.__setattr__(made, "cur_player_id", 0)  # the type checks of the tests would refuse it
        return made

    def step(state, action):
        return state + 1, metadata(state + 1)

    start = jnp.int32(0), metadata(jnp.int32(0))
    env = tz.Env(lambda key: start, step, lambda state: state, name="steps")
    mcts, key = tz.MCTS(4), jax.random.key(0)
    state = tz.search(mcts, env, lambda *position: (jnp.zeros(2), 0.0), tz.init_search(mcts, *start), key=key)
    kept = tz.advance(mcts, state, jnp.int32(0), *step(start[0], 0))
    assert kept.root.visits.sum() > 0


def test_a_concentration_for_which_nothing_is_accepted_ends_and_is_seen():
    with pytest.raises(ValueError, match="found alpha=inf, expected a finite number above 0"):
        tz.Dirichlet(float("inf"))
    logits, zeros = jnp.zeros(3), jnp.zeros(3)
    node = tz.mcts.Node(logits, zeros.astype(int), zeros, jnp.float32(0), jnp.float32(0), jnp.float32(0))
    alphas = jnp.array([jnp.inf, jnp.nan, -1.0, 0.0, 0.3])
    noisy = jax.vmap(lambda alpha: tz.Dirichlet(alpha, 1.0).start(node, 1, key=jax.random.key(0))[0])(alphas)
    np.testing.assert_array_equal(jnp.isfinite(noisy).all(1), [False, False, False, False, True])
