"""Games with chance: searched trees against the sequence of outcomes, exact expectimax, real games and bad input."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chance_games import HOLD, ROLL, pig, pig_values, race, race_value, small_2048, small_2048_value
from scipy import stats

import tz
from tz.games.chance import cumulative, make_move, outcome_at
from tz.mcts._chance import nth_point
from tz.plot import plot_tree, tree_to_dot
from tz.plot.tree_view import read_nodes, show_nodes

PIG, GOAL = pig(10), 10


def searched(mcts, env, evaluator, num_games=4, seed=0):
    """Searches of new games, as NumPy arrays."""

    @eqx.filter_jit
    def run(keys):
        def one(key):
            init_key, key = jax.random.split(key)
            return tz.search(mcts, env, evaluator, tz.init_search(mcts, *env.init(init_key)), key=key)

        return jax.vmap(one)(keys)

    return jax.device_get(run(jax.random.split(jax.random.key(seed), num_games)))


def noisy(env_state, metadata, key):
    """Logits and a value that depend on what the state looks like, so that no two nodes are alike by accident."""
    x = sum(jnp.sum(jnp.sin(1.0 + 0.7 * leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(env_state))
    return jnp.stack([x, -x]), jnp.tanh(x)


SEARCHES = {
    "puct": tz.MCTS(48, root=tz.PlainRoot()),
    "gumbel": tz.gumbel_mcts(48, 2),
    "forced": tz.MCTS(48, root=tz.mcts.ForcedPlayouts()),
    "muzero": tz.MCTS(48, selector=tz.mcts.MuZeroPUCT(scale="tree"), discount=0.9),
    "leaves": tz.MCTS(48, root=tz.PlainRoot(), num_leaves=4),
    "full": tz.MCTS(48, root=tz.PlainRoot(), max_nodes=49, persist_tree=False),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_each_edge_is_the_mean_of_its_outcomes_and_their_visits_follow_the_sequence(name):
    """By hand from the arrays: returns add up, and the outcomes are those of the points of the edge's visits."""
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


def test_the_values_of_long_searches_are_those_of_expectimax():
    """The evaluator knows nothing; the race is short enough to be searched to its end."""
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
    assert errors[2048] < errors[128] / 4  # as the square root at the least


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
    """Compares the search with exact values in every fifth position where one of the two moves is clearly better."""
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


def gamble(*, is_seen: bool) -> tz.Env:
    """Action 0 is paid 0.2; action 1 wins or loses 1, at even odds: by nature, or by a key that the state holds."""

    def metadata(over, reward, is_nature=False):
        return tz.StepMetadata(
            rewards=jnp.stack([reward, -reward]),
            action_mask=jnp.ones(2, bool),
            terminated=jnp.asarray(over),
            cur_player_id=jnp.int32(0),
            chance=None if is_seen else jnp.where(is_nature, 0.5, jnp.zeros(2, jnp.float32)),
        )

    def init(key):
        start = jnp.int32(0), jax.random.key_data(key) if is_seen else jnp.int32(0)
        return start, metadata(False, jnp.float32(0))

    def step(state, action):
        over, rest = state
        paid = jnp.where(over == 0, jnp.where(action == 0, 0.2, 0.0), 0.0)
        if is_seen:
            wins = jax.random.bernoulli(jax.random.wrap_key_data(rest))
            paid = jnp.where((over == 0) & (action == 1), jnp.where(wins, 1.0, -1.0), paid)
            return (jnp.int32(1), rest), metadata(True, paid)
        is_nature = (over == 0) & (action == 1)
        return (jnp.where(is_nature, 0, 1), rest), metadata(~is_nature, paid, is_nature)

    def outcome(state, outcome, key):
        del key
        return (jnp.int32(1), state[1]), metadata(True, jnp.where(outcome == 0, 1.0, -1.0))

    observe = lambda state: state[0].astype(jnp.float32)[None]
    return tz.Env(init, step, observe, "gamble", outcome=None if is_seen else outcome)


def test_a_search_gambles_on_dice_that_it_sees_and_not_on_those_that_nature_throws():
    mcts = tz.MCTS(32, root=tz.PlainRoot())
    fractions = {}
    for is_seen in (True, False):
        states = searched(mcts, gamble(is_seen=is_seen), tz.uniform_evaluator, num_games=512)
        fractions[is_seen] = (states.tree.visits[:, 0].argmax(1) == 1).mean()
    assert 0.4 < fractions[True] < 0.6
    assert fractions[False] == 0


@pytest.mark.parametrize("is_seen", [True, False])
def test_check_env_finds_dice_that_a_search_would_see(is_seen):
    env = gamble(is_seen=is_seen)
    if is_seen:
        with pytest.warns(UserWarning, match=r"rewards.*depend on a random key.*let nature draw, by `outcome`"):
            tz.check_env(env, max_moves=16)
    else:
        tz.check_env(env, max_moves=16)


def test_check_env_finds_a_deck_that_was_shuffled_before_the_game():
    """Two new games that look alike, in which the same moves show different cards."""

    def metadata(place):
        over = place >= 4
        return tz.StepMetadata(jnp.zeros(1), jnp.ones(2, bool), over, jnp.int32(0))

    def init(key):
        return (jax.random.permutation(key, 4), jnp.int32(0)), metadata(jnp.int32(0))

    def step(state, action):
        after = state[0], jnp.minimum(state[1] + 1, 4)
        return after, metadata(after[1])

    def observe(state):
        seen = jnp.where(jnp.arange(4, dtype=jnp.int32) < state[1], state[0], -1)
        return seen.astype(jnp.float32)

    with pytest.warns(UserWarning, match="look alike in which the same moves lead to differences in the observation"):
        tz.check_env(tz.Env(init, step, observe, "cards"), max_moves=8)


def with_chance(change, env=PIG):
    """The game, with other metadata from `step`."""

    def step(state, action):
        after, metadata = env.step(state, action)
        return after, change(metadata)

    return dataclasses.replace(env, step=step)


def doubled_natures(state, outcome, key):
    after, metadata = PIG.outcome(state, outcome, key)
    return after, dataclasses.replace(metadata, chance=jnp.full(6, 1 / 6, jnp.float32))


BAD = {
    "sum": (with_chance(lambda m: dataclasses.replace(m, chance=0.9 * m.chance)), "whose sum is neither 1 nor 0"),
    "negative": (
        with_chance(lambda m: dataclasses.replace(m, chance=m.chance * jnp.array([-1, 3, 1, 1, 1, 1.0]))),
        "negative probabilities of nature's outcomes",
    ),
    "ended": (
        with_chance(lambda m: dataclasses.replace(m, chance=jnp.where(m.terminated, 1 / 6, m.chance))),
        "nature to move after the end of the game",
    ),
    "endless": (dataclasses.replace(PIG, outcome=doubled_natures), "nature to move after an outcome of nature"),
    "stuck": (
        dataclasses.replace(
            PIG,
            outcome=lambda *inputs: (
                (after := PIG.outcome(*inputs))[0],
                dataclasses.replace(after[1], action_mask=after[1].action_mask & (inputs[1] != 3)),
            ),
        ),
        "an outcome of nature, of a probability above 0, without a legal action",
    ),
    "more": (
        dataclasses.replace(
            PIG,
            outcome=lambda *inputs: (
                (after := PIG.outcome(*inputs))[0],
                dataclasses.replace(after[1], chance=jnp.zeros(7)),
            ),
        ),
        r"`metadata.chance` to be float32\[6\] from `init` and float32\[7\] from `outcome`",
    ),
    "no outcome": (dataclasses.replace(PIG, outcome=None), "found `chance` without an `outcome`"),
    "new": (
        dataclasses.replace(
            PIG,
            init=lambda key: (
                PIG.init(key)[0],
                dataclasses.replace(PIG.init(key)[1], chance=jnp.full(6, 1 / 6, jnp.float32)),
            ),
        ),
        "nature to move in a new game",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_chance_is_named(name):
    env, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        tz.check_env(env, max_moves=128)


def test_settings_that_chance_does_not_allow_are_refused_by_name():
    start = PIG.init(jax.random.key(0))
    for settings, message in (
        ({"solve": True}, "solve=True, which takes what one outcome proves"),
        ({"backup": tz.mcts.SoftmaxBackup()}, "SoftmaxBackup, which takes an edge"),
        ({"final_move": tz.mcts.LowerConfidenceBound()}, "LowerConfidenceBound"),
    ):
        with pytest.raises(ValueError, match=f"found a game with chance and {message}"):
            tz.init_search(tz.MCTS(4, **settings), *start)
    blind = dataclasses.replace(PIG, outcome=None)
    with pytest.raises(ValueError, match="search of pig: found `chance` without an `outcome`"):
        tz.search(tz.MCTS(4), blind, tz.uniform_evaluator, tz.init_search(tz.MCTS(4), *start), key=jax.random.key(0))
    with pytest.raises(ValueError, match="sampled_chance: found num_outcomes=0"):
        tz.games.sampled_chance(PIG.init, PIG.step, PIG.observe, num_outcomes=0)
    with pytest.raises(ValueError, match="play_moves: found pig, a game with chance, and key=None"):
        tz.play_moves(PIG, jnp.array([0]))


def sampled_pig() -> tz.Env:
    """Pig again, whose step takes a key, as one would first write it."""

    def step(state, action, key):
        return make_move(PIG, state, action, key=key)

    def without(metadata):
        return dataclasses.replace(metadata, chance=None)

    init = lambda key: (PIG.init(key)[0], without(PIG.init(key)[1]))
    keyed = lambda *inputs: ((after := step(*inputs[:2], inputs[2]))[0], without(after[1]))
    return tz.games.sampled_chance(init, keyed, PIG.observe, num_outcomes=16, name="sampled pig")


def test_a_game_whose_step_takes_a_key_has_outcomes_of_the_searchs_own_that_are_met_again():
    env = sampled_pig()
    tz.check_env(env, max_moves=128)
    mcts = tz.MCTS(64, root=tz.PlainRoot())
    states = searched(mcts, env, tz.uniform_evaluator, num_games=8)
    turns = set()
    for game in range(8):
        tree = jax.tree.map(lambda x, game=game: x[game], states.tree)
        children = [c for c in tree.chance.children[tree.children[0, ROLL]] if c >= 0]
        assert len(children) > 8  # of 16 outcomes, for 64 visits
        turns |= {int(tree.state.state.turn[c]) for c in children}
    assert turns == {0, 2, 3, 4, 5, 6}


@eqx.filter_jit
def collected(mcts, env, keys, num_moves=40):
    def one(key):
        start = tz.init_collect(mcts, env, key=key)
        half, first = tz.collect(mcts, env, tz.uniform_evaluator, start, num_moves=num_moves // 2)
        _, second = tz.collect(mcts, env, tz.uniform_evaluator, half, num_moves=num_moves // 2)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)

    return jax.vmap(one)(keys)


def test_self_play_throws_dice_of_its_own_and_learns_from_players_moves_alone():
    """The observations follow the rules of pig; the throws are fair; the search cannot have known them."""
    made = jax.device_get(collected(tz.MCTS(8), PIG, jax.random.split(jax.random.key(5), 64)))
    seen = np.round(made.observation * GOAL).astype(int)
    throws = []
    for game in range(64):
        for t in range(39):
            (own, other, turn), after = seen[game, t], seen[game, t + 1]
            if made.terminated[game, t]:
                assert (after == 0).all()
                assert made.rewards[game, t, made.player[game, t]] == 1
                continue
            assert (made.rewards[game, t] == 0).all()
            same = made.player[game, t] == made.player[game, t + 1]
            if made.action[game, t] == HOLD:
                assert not same
                np.testing.assert_array_equal(after, [other, own + turn, 0])
            elif same:
                np.testing.assert_array_equal(after, [own, other, after[2]])
                throws.append(after[2] - turn)
            else:
                np.testing.assert_array_equal(after, [other, own, 0])
                throws.append(1)
    counts = np.bincount(throws, minlength=7)[1:]
    assert counts.sum() > 1000
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (made.policy.sum(-1) > 0.999).all()


def test_games_with_chance_are_the_same_on_any_number_of_devices():
    keys = jax.random.split(jax.random.key(2), 8)
    alone = collected(tz.gumbel_mcts(8, 2), PIG, keys)
    mesh = tz.data_mesh()
    assert mesh.size == 8
    split = tz.over_games(mesh, lambda mcts, keys: collected(mcts, PIG, keys), tz.gumbel_mcts(8, 2), keys)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        np.testing.assert_array_equal(one, other)


def test_both_games_of_an_opening_have_the_same_dice_and_can_be_replayed():
    """Two players without any choice but to roll: the throws of a game are those of its twin, draw by draw."""
    roller = tz.Player(
        tz.MCTS(1, root=tz.PlainRoot(), temperature=0.0), lambda *_: (jnp.array([9.0, 0]), jnp.float32(0))
    )
    match = tz.play_match(PIG, roller, roller, num_games=8, key=jax.random.key(0), opening_moves=0, max_moves=40)
    throws = []
    for game in range(8):
        states = tz.replay_game(PIG, match, game)
        turns, players = np.asarray(states.turn), np.asarray(states.player)
        assert len(turns) == (match.actions[game] >= 0).sum() + 1
        same = players[1:] == players[:-1]
        throws.append(np.where(same, turns[1:] - turns[:-1], 1))
        assert set(throws[-1]) <= {1, 2, 3, 4, 5, 6}
    for one, other in zip(throws[::2], throws[1::2], strict=True):
        shorter = min(len(one), len(other))
        np.testing.assert_array_equal(one[:shorter], other[:shorter])
    assert len({tuple(x[:6]) for x in throws}) == 4
    drawn = tz.games.played_positions(
        PIG, match.opening, match.actions, 64, key=jax.random.key(1), chance_keys=match.chance_keys
    )
    assert not drawn[1].terminated.any()
    assert len(np.unique(drawn[0].turn)) > 3
    with pytest.raises(ValueError, match="follow_moves: found pig, a game with chance, and chance_key=None"):
        tz.games.played_positions(PIG, match.opening, match.actions, 64, key=jax.random.key(1))


def test_rollouts_openings_and_lists_of_moves_know_chance():
    values = pig_values(GOAL)
    rollouts = tz.RolloutEvaluator(PIG, num_rollouts=2000, max_moves=200)
    start = PIG.init(jax.random.key(0))
    value = jax.jit(lambda key: rollouts(*start, key)[1])(jax.random.key(1))
    assert 0.0 < value < max(values[0, 0, 0]) + 0.1  # the first to move is ahead, by random moves as well
    moves = jnp.array([[ROLL, ROLL, -1], [ROLL, ROLL, -1]])
    keys = jax.random.split(jax.random.key(3), 200)
    play = jax.jit(jax.vmap(lambda key: tz.play_moves(PIG, moves[0], key=key)[0]))
    turns = np.asarray(play(keys).turn)
    assert len(np.unique(turns)) > 8
    again = jax.jit(jax.vmap(lambda key: tz.play_moves(PIG, moves[1], key=key)[0]))(keys)
    np.testing.assert_array_equal(again.turn, turns)
    opened = jax.jit(jax.vmap(lambda key: tz.random_opening(PIG, 3, key=key)[1]))(keys)
    assert not opened.terminated.any()


def test_trees_are_drawn_with_natures_nodes_between_moves_and_outcomes():
    mcts = tz.MCTS(48, root=tz.PlainRoot())
    state = jax.tree.map(lambda x: x[0], searched(mcts, PIG, noisy))
    nodes = {node.number: node for node in read_nodes(state)}
    assert sum(not node.is_nature for node in nodes.values()) == state.tree.size
    for node in list(nodes.values())[1:]:
        parent = nodes[node.parent]
        assert node.depth == parent.depth + 1
        assert (node.outcome >= 0) == parent.is_nature
        if parent.is_nature:
            assert node.prior == pytest.approx(1 / 6)
        below = [other for other in nodes.values() if other.parent == node.number]
        if node.is_nature:
            assert sum(child.visits for child in below) == node.visits
            mean = sum(child.visits * child.value for child in below) / node.visits
            assert mean == pytest.approx(node.value, abs=1e-5)  # no rewards before the end, and no discount
    text = tree_to_dot(state, labels=["roll", "hold"], outcomes=[f"die {side}" for side in range(1, 7)])
    assert "shape=ellipse" in text
    assert 'label="die 2 17%"' in text
    shown = show_nodes(state, max_depth=4, min_visits=1, max_leaves=10)
    figure = plot_tree(state, labels=["roll", "hold"], draw=lambda state: np.zeros((4, 4, 3)))
    assert len(figure.axes[0].images) == sum(not node.is_nature for node in shown) < len(shown)
