"""Games with chance in self-play, matches, rollouts and plots, and those whose step takes a key."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chance_games import HOLD, ROLL, noisy, pig, pig_values, searched
from scipy import stats

import tz
from tz.games.chance import make_move
from tz.plot import plot_tree, tree_to_dot
from tz.plot.tree_view import read_nodes, show_nodes

pytestmark = pytest.mark.slow

PIG, GOAL = pig(10), 10


def sampled_pig() -> tz.Env:
    """Pig with a step that takes a key, the simplest way to write it."""

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
    """The observations follow the rules of pig, the throws are fair, and the search has not known them."""
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


def test_lambda_returns_are_those_of_the_players_moves_with_nature_between_them():
    """Compared with the recursion. After a roll the same player may move again, so signs do not simply alternate."""
    made = collected(tz.MCTS(8), PIG, jax.random.split(jax.random.key(5), 64))
    buffer = tz.EpisodeReplayBuffer(40, td_lambda=0.8)
    rings = jax.jit(jax.vmap(lambda rows: buffer.add(buffer.init(rows), rows, discount=0.9)))(made)
    made, rings = jax.device_get((made, rings))
    num_same = 0
    for game in range(64):
        num_known, target = rings.num_known[game], None
        assert num_known == np.flatnonzero(made.terminated[game])[-1] + 1
        for t in reversed(range(num_known)):
            reward = made.rewards[game, t, made.player[game, t]]
            if made.terminated[game, t]:
                target = reward
            else:
                same = made.player[game, t] == made.player[game, t + 1]
                num_same += same
                later = 0.2 * made.value[game, t + 1] + 0.8 * target
                target = reward + 0.9 * (later if same else -later)
            assert rings.value.offset[game, t] == pytest.approx(target, abs=1e-5)
    assert num_same > 300


@pytest.mark.once
def test_games_with_chance_are_the_same_on_any_number_of_devices():
    keys = jax.random.split(jax.random.key(2), 8)
    alone = collected(tz.gumbel_mcts(8, 2), PIG, keys)
    mesh = tz.data_mesh()
    assert mesh.size == 8
    split = tz.over_games(mesh, lambda mcts, keys: collected(mcts, PIG, keys), tz.gumbel_mcts(8, 2), keys)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True):
        np.testing.assert_array_equal(one, other)


def raw_keys(match):
    """Returns a match with its keys as numbers, since NumPy cannot compare keys."""
    return dataclasses.replace(match, chance_keys=jax.random.key_data(match.chance_keys))


@pytest.mark.once
def test_both_games_of_an_opening_have_the_same_dice_and_can_be_replayed():
    """Two players that always roll: both games of an opening have the same throws, in the same order."""
    roller = tz.Player(
        tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), lambda *_: (jnp.array([9.0, 0]), jnp.float32(0))
    )
    options = {"num_games": 8, "key": jax.random.key(0), "opening_moves": 0, "max_moves": 40}
    match = tz.play_match(PIG, roller, roller, **options)
    on_four = tz.play_match(PIG, roller, roller, mesh=tz.data_mesh(jax.devices()[:4]), **options)
    assert jax.tree.all(jax.tree.map(np.array_equal, raw_keys(on_four), raw_keys(match)))
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


def test_a_missing_move_throws_no_dice():
    """The throws after a -1 are those that would have come without it."""
    start = PIG.init(jax.random.key(0))
    follow = lambda moves: tz.games.follow_moves(PIG, start, jnp.array(moves), chance_key=jax.random.key(1))[0]
    straight, paused = follow([ROLL, HOLD, ROLL, ROLL]), follow([ROLL, -1, HOLD, -1, ROLL, ROLL])
    taken = jax.tree.map(lambda x: x[jnp.array([0, 1, 3, 5, 6])], paused)
    assert jax.tree.all(jax.tree.map(np.array_equal, taken, straight))
    assert jax.tree.all(jax.tree.map(lambda x: np.array_equal(x[1], x[2]), paused))
    assert len(np.unique(np.asarray(straight.turn))) > 1


def test_rollouts_openings_and_lists_of_moves_know_chance():
    values = pig_values(GOAL)
    rollouts = tz.RolloutEvaluator(PIG, num_rollouts=2000, max_moves=200)
    start = PIG.init(jax.random.key(0))
    value = jax.jit(lambda key: rollouts(*start, key)[1])(jax.random.key(1))
    assert 0.0 < value < max(values[0, 0, 0]) + 0.1  # also with random moves, the player who moves first is ahead
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
