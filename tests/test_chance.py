"""Games with chance: searched trees against the sequence of outcomes and against exact expectimax; kept subtrees."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chance_games import (
    HOLD,
    ROLL,
    noisy,
    pig,
    pig_values,
    race,
    race_value,
    searched,
    small_2048,
    small_2048_value,
)
from scipy import stats

import tz
from tz.games.chance import cumulative, make_move, outcome_at
from tz.mcts._chance import nth_point

pytestmark = pytest.mark.slow

PIG = pig(10)


SEARCHES = {
    "puct": tz.MCTS(48, root=tz.PlainRoot()),
    "gumbel": tz.gumbel_mcts(48, 2),
    "forced": tz.MCTS(48, root=tz.mcts.ForcedPlayouts()),
    "muzero": tz.MCTS(48, selector=tz.mcts.MuZeroPUCT(scale="tree"), discount=0.9),
    "leaves": tz.MCTS(48, root=tz.PlainRoot(), num_leaves=4),
    "kept": tz.MCTS(48, root=tz.PlainRoot(), max_actions=2),
    "full": tz.MCTS(48, root=tz.PlainRoot(), max_nodes=49, persist_tree=False),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_each_edge_is_the_mean_of_its_outcomes_and_their_visits_follow_the_sequence(name):
    """Computed by hand from the arrays: returns add up, and each visit of an edge takes the outcome of its point."""
    mcts = SEARCHES[name]
    states = searched(mcts, PIG, noisy)
    for game in range(4):
        tree = jax.tree.map(lambda x, game=game: x[game], states.tree)
        for node in range(tree.size):
            for action in range(2):
                count, first = tree.visits[node, action], tree.children[node, action]
                if count == 0:
                    continue
                children = [i for i in range(tree.size) if (tree.parent[i], tree.action[i]) == (node, action)]
                assert first == min(children)
                points = (int(tree.chance.offset[first]) + np.arange(count) * 0x9E3779B9) % 2**32 // 256 / 2**24
                expected = np.bincount((tree.chance.cdf[first] > points[:, None]).argmax(1), minlength=6)
                total = 0.0
                for child in children:
                    outcome = tree.chance.outcome[child]
                    assert tree.chance.children[first, outcome] == child
                    arrivals = expected[outcome] if tree.terminated[child] else 1 + tree.visits[child].sum()
                    assert arrivals == expected[outcome]
                    value = tree.raw_value[child] * (not tree.terminated[child]) + tree.visits[child] @ tree.q[child]
                    sign = 1 if tree.player[child] == tree.player[node] else -1
                    total += arrivals * tree.reward[child] + float(mcts.discount) * sign * value
                assert expected.sum() == sum(expected[tree.chance.outcome[child]] for child in children) == count
                np.testing.assert_allclose(tree.q[node, action], total / count, atol=2e-5)


def test_discounts_of_a_models_moves_and_of_its_outcomes_are_multiplied():
    """Each move is discounted by 3/8 at once, or by 3/4 and then 1/2 if nature answers it."""

    def with_discount(state, metadata, discount):
        return state, dataclasses.replace(metadata, discount=jnp.asarray(discount, jnp.float32))

    def step(state, action):
        after, metadata = PIG.step(state, action)
        return with_discount(after, metadata, jnp.where(jnp.any(metadata.chance > 0), 0.75, 0.375))

    model = tz.mcts.Model(
        root=lambda *start: with_discount(*start, 1.0),
        step=step,
        outcome=lambda *inputs: with_discount(*PIG.outcome(*inputs), 0.5),
    )
    key, start = jax.random.key(0), PIG.init(jax.random.key(1))
    mcts, plain = tz.MCTS(48, root=tz.PlainRoot()), tz.MCTS(48, root=tz.PlainRoot(), discount=0.375)
    expected = eqx.filter_jit(tz.search)(plain, PIG, noisy, tz.init_search(plain, *start), key=key)
    found = eqx.filter_jit(tz.search)(mcts, model, noisy, tz.init_search(mcts, *start, model=model), key=key)
    assert jnp.any(jnp.abs(expected.root.q) > 0.01)
    np.testing.assert_array_equal(found.tree.visits, expected.tree.visits)
    np.testing.assert_allclose(found.tree.q, expected.tree.q, atol=1e-6)


def test_where_nature_is_to_move_its_player_and_its_legal_actions_are_not_read():
    def step(state, action):
        after, metadata = PIG.step(state, action)
        is_nature = jnp.any(metadata.chance > 0)
        player = jnp.where(is_nature, 1 - metadata.cur_player_id, metadata.cur_player_id)
        return after, dataclasses.replace(metadata, cur_player_id=player, action_mask=metadata.action_mask | is_nature)

    mcts = SEARCHES["puct"]
    expected, found = (searched(mcts, env, noisy).tree for env in (PIG, dataclasses.replace(PIG, step=step)))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_visits_follow_the_probabilities_closely_and_each_by_itself_without_bias():
    probabilities = np.array([0.5, 0.0, 0.25, 0.2, 0.05, 0.0], np.float32)
    cdf = cumulative(jnp.asarray(probabilities))
    offsets = jax.random.bits(jax.random.key(0), (20_000,), jnp.uint32)
    visits = jnp.arange(1000, dtype=jnp.int32)
    outcome = jax.jit(
        jax.vmap(jax.vmap(lambda o, n: outcome_at(cdf, nth_point(o, n)), (None, 0)), (0, None)),
    )
    for visit in (0, 1, 7):
        drawn = np.bincount(outcome(offsets, visits[visit : visit + 1])[:, 0], minlength=6)
        assert drawn[probabilities == 0].sum() == 0
        possible = probabilities > 0
        assert stats.chisquare(drawn[possible], 20_000 * probabilities[possible]).pvalue > 1e-3
    counts = np.cumsum(np.eye(6)[np.asarray(outcome(offsets[:50], visits))], axis=1)
    off = np.abs(counts - probabilities * np.arange(1, 1001)[:, None])
    assert off.max() < 3  # independent draws would be off by 15 after 1,000 visits
    assert (np.asarray(outcome_at(cumulative(jnp.zeros(6)), jnp.float32(0.3))) == 0).all()


def test_an_outcome_that_cannot_happen_is_never_drawn_whatever_the_rounding():
    key = jax.random.key(1)
    probabilities = jax.random.uniform(key, (2000, 37)) * jax.random.bernoulli(key, 0.3, (2000, 37)).astype(jnp.float32)
    cdfs = jax.vmap(cumulative)(probabilities / probabilities.sum(1, keepdims=True))
    points = jnp.array([0.0, *np.linspace(0, 1, 50, endpoint=False), 1 - 2.0**-24], jnp.float32)
    drawn = jax.vmap(jax.vmap(outcome_at, (None, 0)), (0, None))(cdfs, points)
    assert (jnp.take_along_axis(probabilities, drawn, 1) > 0).all()


def exact_pig(goal, values):
    """An evaluator that knows the value of each position of pig."""
    table = np.ones((goal, goal, 2 * goal), np.float32)
    for (own, other, turn), q in values.items():
        table[own, other, turn] = max(q)

    def evaluator(env_state, metadata, key):
        own, other = jnp.minimum(env_state.scores, goal - 1)
        return jnp.zeros(2, jnp.float32), jnp.asarray(table)[own, other, env_state.turn]

    return evaluator


@pytest.mark.once
def test_the_values_of_long_searches_are_those_of_expectimax():
    """The evaluator is constant, but the race is short enough to be searched to its end."""
    env = race(num_sides=2, start=2)
    errors = {}
    for num_simulations in (128, 2048):
        states = searched(tz.MCTS(num_simulations, root=tz.PlainRoot()), env, tz.uniform_evaluator, num_games=16)
        dice = states.tree.state.die[:, 0]
        exact = np.array([race_value((2, 2), (2, 2), int(die), 2) for die in dice])
        visits, q = states.tree.visits[:, 0], states.tree.q[:, 0]
        best = np.take_along_axis(q, visits.argmax(1)[:, None], 1)[:, 0]
        errors[num_simulations] = np.sqrt(np.mean((best - exact) ** 2))
    assert errors[2048] < 0.05
    assert errors[2048] < errors[128] / 4  # at least as fast as one over the square root


@pytest.mark.once
def test_scores_of_long_searches_are_those_of_expectimax_too():
    """A game for one, with rewards on the way, on a board of 2 by 2."""
    env, exact = small_2048(), small_2048_value((1, 0, 0, 1))
    tz.check_env(env, max_moves=16)
    errors = {}
    for num_simulations in (64, 4096):
        mcts = tz.MCTS(num_simulations, root=tz.PlainRoot(), selector=tz.ImprovedPolicy())
        visits, q = (getattr(searched(mcts, env, tz.uniform_evaluator).tree, name)[:, 0] for name in ("visits", "q"))
        best = np.take_along_axis(q, visits.argmax(1)[:, None], 1)[:, 0]
        errors[num_simulations] = np.sqrt(np.mean((best - exact) ** 2))
    assert errors[4096] < 0.01 * exact
    assert errors[4096] < errors[64] / 30  # nearly as one over the number of simulations


def test_a_search_whose_evaluator_is_exact_rolls_and_holds_as_it_should_everywhere():
    """Compares with exact values, in every fifth of the positions in which one of the two moves is clearly better."""
    goal = 20
    env, values = pig(goal), pig_values(goal)
    mcts, evaluator = tz.MCTS(128, root=tz.PlainRoot(), persist_tree=False), exact_pig(goal, values)
    positions = np.array([position for position, (roll, hold) in values.items() if abs(roll - hold) > 0.05])[::5]

    @eqx.filter_jit
    def run(positions, keys):
        def one(position, key):
            own, other, turn = position
            state, metadata = env.init(key)
            state = dataclasses.replace(state, scores=jnp.stack([own, other]), turn=turn)
            metadata = dataclasses.replace(metadata, action_mask=jnp.stack([jnp.bool_(True), turn > 0]))
            return tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=key).root

        return jax.vmap(one)(positions, keys)

    root = run(jnp.asarray(positions, jnp.int32), jax.random.split(jax.random.key(0), len(positions)))
    best = [int(np.argmax(values[tuple(map(int, position))])) for position in positions]
    assert {ROLL, HOLD} == set(best)
    np.testing.assert_array_equal(root.visits.argmax(1), best)


@pytest.mark.parametrize("num_leaves", [1, 4])
def test_kept_subtrees_are_those_of_the_outcome_and_others_are_given_up(num_leaves):
    mcts = tz.MCTS(64, root=tz.PlainRoot(), num_leaves=num_leaves)

    @eqx.filter_jit
    def run(keys):
        def one(key):
            init_key, search_key, move_key = jax.random.split(key, 3)
            before = tz.search(mcts, PIG, noisy, tz.init_search(mcts, *PIG.init(init_key)), key=search_key)
            state = jax.tree.map(lambda x: x[0], before.tree.state)
            after, metadata = make_move(PIG, state, jnp.int32(ROLL), key=move_key)
            kept = tz.advance(mcts, before, jnp.int32(ROLL), after, metadata)
            elsewhere = dataclasses.replace(after, turn=after.turn + 50)
            lost = tz.advance(mcts, before, jnp.int32(ROLL), elsewhere, metadata)
            return before.tree, kept.tree, lost.tree, tz.search(mcts, PIG, noisy, kept, key=search_key).tree

        return jax.vmap(one)(keys)

    trees = jax.device_get(run(jax.random.split(jax.random.key(3), 8)))
    outcomes = set()
    for game in range(8):
        before, kept, lost, _ = (jax.tree.map(lambda x, game=game: x[game], tree) for tree in trees)
        assert lost.size == 1
        assert lost.visits.sum() == 0
        turn = kept.state.turn[0]
        outcomes.add(int(turn))
        child = before.chance.children[before.children[0, ROLL], max(int(turn) - 1, 0)]
        compare(before, int(child), kept, 0)
    assert len(outcomes) > 2
    grown = trees[3]
    assert (grown.size > trees[1].size).all()
    for game in range(8):
        tree = jax.tree.map(lambda x, game=game: x[game], grown)
        parents = tree.parent[1 : tree.size]
        assert (parents < np.arange(1, tree.size)).all()


def compare(before, node, after, place):
    """Checks that two subtrees have the same statistics, along moves and outcomes."""
    for name in ("visits", "q", "logits", "raw_value", "player", "terminated"):
        np.testing.assert_array_equal(getattr(before, name)[node], getattr(after, name)[place], err_msg=name)
    assert before.state.turn[node] == after.state.turn[place]
    for action in range(2):
        first, new_first = before.children[node, action], after.children[place, action]
        assert (first < 0) == (new_first < 0)
        if first < 0:
            continue
        assert before.chance.offset[first] == after.chance.offset[new_first]
        np.testing.assert_array_equal(before.chance.cdf[first], after.chance.cdf[new_first])
        for child, new_child in zip(before.chance.children[first], after.chance.children[new_first], strict=True):
            assert (child < 0) == (new_child < 0)
            if child >= 0:
                compare(before, child, after, new_child)
