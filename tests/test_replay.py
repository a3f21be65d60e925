"""The replay ring against a plain list of episodes, and the sampler against the uniform distribution."""

import functools
import operator
import re

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tz.learn.replay import EpisodeReplayBuffer
from tz.learn.trajectory import Trajectory

NUM_GAMES = 2
ONGOING, TERMINATED, TRUNCATED = range(3)


def make_trajectory(player, ending, rewards, action_value, identity, value=None, num_actions=3):
    """Returns a batch of trajectories `[B, T]` whose observation, mask and policy encode the `identity` of a move."""
    identity = np.asarray(identity)
    columns = np.arange(num_actions)
    return Trajectory(
        observation=jnp.asarray(np.stack([identity, -identity], axis=-1), jnp.float32),
        action_mask=jnp.asarray((identity[..., None] + columns) % 2 == 0),
        policy=jnp.asarray(identity[..., None] * 10 + columns, jnp.float32),
        value=jnp.full(identity.shape, 99.0) if value is None else jnp.asarray(value, jnp.float32),
        action=jnp.zeros(identity.shape, jnp.int32),
        action_value=jnp.asarray(action_value, jnp.float32),
        rewards=jnp.asarray(rewards, jnp.float32),
        player=jnp.asarray(player, jnp.int32),
        terminated=jnp.asarray(np.asarray(ending) == TERMINATED),
        truncated=jnp.asarray(np.asarray(ending) == TRUNCATED),
        policy_weight=jnp.asarray(identity % 2, jnp.float32),
    )


def empty_state(buffer, trajectory, num_games):
    """Returns the empty rings of `num_games` games, made from shapes alone."""
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), trajectory)
    return jax.vmap(lambda _: buffer.init(example))(jnp.arange(num_games))


@functools.cache
def compiled_add(capacity):
    """Returns `add` for a batch of games, compiled once for all tests with this `capacity` and these shapes."""
    buffer = EpisodeReplayBuffer(capacity)
    return jax.jit(jax.vmap(lambda state, rows, discount: buffer.add(state, rows, discount=discount), (0, 0, None)))


def model_targets(steps, discount):
    """Computes the value target of every move of one game from the definition; None if its episode is not over."""
    targets = []
    for start in range(len(steps)):
        total, scale, mover = 0.0, 1.0, steps[start]["player"]
        target = None
        for step in steps[start:]:
            sign = 1.0 if step["player"] == mover else -1.0
            if step["ending"] == TRUNCATED:
                target = total + scale * sign * step["action_value"]
                break
            total += scale * sign * step["rewards"][step["player"]]
            if step["ending"] == TERMINATED:
                target = total
                break
            scale *= discount
        targets.append(target)
    return targets


def ring_rows(buffer, state, game):
    """Returns `(identity, target or None)` of a game's rows, oldest first; checks that a row belongs to one move."""
    size, known, position = (int(leaf[game]) for leaf in (state.size, state.num_known, state.position))
    slots = (position - size + np.arange(size)) % buffer.capacity
    identity = np.asarray(state.observation)[game, slots, 0]
    columns = np.arange(state.policy.shape[-1])
    np.testing.assert_array_equal(np.asarray(state.observation)[game, slots, 1], -identity)
    np.testing.assert_array_equal(np.asarray(state.policy)[game, slots], identity[:, None] * 10 + columns)
    np.testing.assert_array_equal(np.asarray(state.policy_weight)[game, slots], identity % 2)
    np.testing.assert_array_equal(np.asarray(state.action_mask)[game, slots], (identity[:, None] + columns) % 2 == 0)
    targets = np.asarray(state.value.offset)[game, slots]
    return [(int(identity[i]), float(targets[i]) if i < known else None) for i in range(size)]


step_strategy = st.fixed_dictionaries(
    {
        "player": st.integers(0, 1),
        "ending": st.sampled_from([ONGOING, ONGOING, ONGOING, TERMINATED, TRUNCATED]),
        "rewards": st.tuples(*[st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.5])] * 2),
        "action_value": st.sampled_from([-0.75, -0.25, 0.25, 0.75]),
    }
)


@pytest.mark.parametrize(
    ("capacity", "num_moves"),
    [(7, 3), (8, 4), (4, 4), (5, 1), (1, 1)],
    ids=["wraps", "divides", "chunk_is_capacity", "single_steps", "one_slot"],
)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_ring_equals_a_plain_list(capacity, num_moves, data):
    """After any sequence of adds, each ring has the last moves of its game, with the targets of the definition."""
    num_adds = data.draw(st.integers(0, 6), label="num_adds")
    discount = data.draw(st.sampled_from([1.0, 0.9, 0.5, 0.0]), label="discount")
    length = num_adds * num_moves
    games = [data.draw(st.lists(step_strategy, min_size=length, max_size=length)) for _ in range(NUM_GAMES)]

    buffer = EpisodeReplayBuffer(capacity)
    blank = np.zeros((NUM_GAMES, num_moves), int)
    state = empty_state(
        buffer, make_trajectory(blank, blank, np.zeros((*blank.shape, 2)), blank, blank), num_games=NUM_GAMES
    )
    for start in range(0, length, num_moves):
        rows = [game[start : start + num_moves] for game in games]
        field = {name: [[step[name] for step in row] for row in rows] for name in rows[0][0]}
        identity = 1 + start + np.arange(num_moves) + 1000 * np.arange(NUM_GAMES)[:, None]
        state = compiled_add(capacity)(state, make_trajectory(**field, identity=identity), discount)

    for game, steps in enumerate(games):
        expected = [(1 + i + 1000 * game, target) for i, target in enumerate(model_targets(steps, discount))]
        found = ring_rows(buffer, state, game)
        assert len(found) == min(length, capacity)
        for (name, target), (expected_name, expected_target) in zip(found, expected[-capacity:], strict=True):
            assert name == expected_name
            assert (target is None) == (expected_target is None)
            if target is not None:
                assert target == pytest.approx(expected_target, abs=1e-5)
    num_known = sum(target is not None for game in range(NUM_GAMES) for _, target in ring_rows(buffer, state, game))
    assert int(buffer.num_known(state)) == num_known


def model_lambda_returns(steps, discount, lambda_, share):
    """Computes the target of every move of one game by its recursion; None if its episode is not over."""
    targets, later, later_step = [], None, None
    for step in reversed(steps):
        if step["ending"] == TRUNCATED:
            found = step["action_value"]
        elif step["ending"] == TERMINATED:
            found = step["rewards"][step["player"]]
        elif later is None:
            found = None
        else:
            sign = 1.0 if later_step["player"] == step["player"] else -1.0
            mixed = (1 - lambda_) * later_step["value"] + lambda_ * later
            found = step["rewards"][step["player"]] + discount * sign * mixed
        targets.append(None if found is None else share * step["value"] + (1 - share) * found)
        later, later_step = found, step
    return targets[::-1]


def test_the_lambda_return_and_the_share_of_the_search_value_are_their_definitions():
    """Random episodes in chunks, many times longer than the ring, with several settings in one compiled program."""
    rng, num_games, length, num_moves = np.random.default_rng(0), 64, 24, 4
    shape = num_games, length
    field = {
        "player": rng.integers(0, 2, shape),
        "ending": rng.choice([ONGOING, TERMINATED, TRUNCATED], shape, p=[0.8, 0.1, 0.1]),
        "rewards": rng.normal(size=(*shape, 2)),
        "action_value": rng.normal(size=shape),
        "value": rng.normal(size=shape),
    }
    identity = 1 + np.arange(length) + 1000 * np.arange(num_games)[:, None]

    @jax.jit
    def add(state, rows, lambda_, share, discount):
        buffer = EpisodeReplayBuffer(10, lambda_, share)
        return jax.vmap(lambda state, rows: buffer.add(state, rows, discount=discount))(state, rows)

    num_known = 0
    for lambda_, share, discount in [
        (1.0, 0.0, 0.9),
        (0.0, 0.0, 1.0),
        (0.7, 0.0, 0.9),
        (0.6, 0.3, 0.8),
        (0.4, 1.0, 1.0),
    ]:
        buffer, state = EpisodeReplayBuffer(10, lambda_, share), None
        for start in range(0, length, num_moves):
            part = slice(None), slice(start, start + num_moves)
            rows = make_trajectory(**{name: x[part] for name, x in field.items()}, identity=identity[part])
            state = empty_state(buffer, rows, num_games) if state is None else state
            state = add(state, rows, lambda_, share, discount)
        for game in range(num_games):
            steps = [{name: x[game, t] for name, x in field.items()} for t in range(length)]
            expected = model_lambda_returns(steps, discount, lambda_, share)[-10:]
            for (_, found), target in zip(ring_rows(buffer, state, game), expected, strict=True):
                assert (found is None) == (target is None)
                if target is not None:
                    assert found == pytest.approx(target, abs=1e-4)
                    num_known += 1
    assert num_known > 5 * num_games * 4


@pytest.mark.parametrize("name", ["td_lambda", "search_value_fraction"])
def test_a_fraction_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=f"found {name}=1.5, expected a number from 0 to 1"):
        EpisodeReplayBuffer(10, **{name: 1.5})


def one_game(endings, player=None, outcome=1.0, first_identity=1):
    """Returns a batch of one trajectory, in which players alternate and player 0 wins every finished episode."""
    length = len(endings)
    player = np.arange(length) % 2 if player is None else np.asarray(player)
    rewards = np.where(np.asarray(endings)[:, None] == TERMINATED, [outcome, -outcome], 0.0)
    identity = first_identity + np.arange(length)
    return make_trajectory(player[None], [endings], rewards[None], np.full((1, length), 0.25), identity[None])


def test_episode_longer_than_the_ring_gets_its_outcome():
    """An episode ten times as long as the ring gets its outcome, with the sign of the player who moved in each row."""
    buffer = EpisodeReplayBuffer(4)
    add = compiled_add(4)
    quiet = one_game([ONGOING] * 4)
    state = empty_state(buffer, quiet, num_games=1)
    for _ in range(10):
        state = add(state, quiet, 1.0)
        assert int(buffer.num_known(state)) == 0
    state = add(state, one_game([TERMINATED, ONGOING, ONGOING, ONGOING]), 1.0)
    assert ring_rows(buffer, state, 0) == [(1, 1.0), (2, None), (3, None), (4, None)]
    state = add(state, one_game([ONGOING, ONGOING, TRUNCATED, ONGOING], player=[1, 1, 0, 0], first_identity=5), 1.0)
    assert ring_rows(buffer, state, 0) == [(5, -0.25), (6, -0.25), (7, 0.25), (8, None)]


def test_settled_targets_never_change():
    """Once a target is known, nothing later in this game or another changes it."""
    buffer = EpisodeReplayBuffer(6)
    add = compiled_add(6)
    chunk = one_game([ONGOING, TERMINATED, ONGOING])
    state = add(empty_state(buffer, chunk, num_games=1), chunk, 0.9)
    before = ring_rows(buffer, state, 0)[:2]
    assert before == [(1, pytest.approx(0.9)), (2, -1.0)]
    state = add(state, one_game([ONGOING, ONGOING, TERMINATED], outcome=-7.0), 0.9)
    assert ring_rows(buffer, state, 0)[:2] == before


def test_one_player_game_keeps_its_sign():
    """With one player, rewards add up without changes of sign."""
    rewards = np.array([1.0, 2.0, 4.0, 8.0])
    nothing = np.zeros((1, 4))
    endings = [[ONGOING, ONGOING, ONGOING, TERMINATED]]
    rows = make_trajectory(nothing, endings, rewards[None, :, None], nothing, [[1, 2, 3, 4]])
    buffer = EpisodeReplayBuffer(4)
    state = compiled_add(4)(empty_state(buffer, rows, num_games=1), rows, 1.0)
    assert ring_rows(buffer, state, 0) == [(1, 15.0), (2, 14.0), (3, 12.0), (4, 8.0)]


@pytest.fixture(scope="module", params=[6, 12], ids=["part_filled", "wrapped"])
def uneven(request):
    """Returns `(buffer, state, target of each known row)` of three unequal games, after one chunk or two."""
    buffer = EpisodeReplayBuffer(8)
    endings = np.zeros((3, 12), int)
    endings[0, [2, 8]] = TERMINATED
    endings[2, [5, 11]] = TRUNCATED
    identity = 1 + np.arange(12) + 1000 * np.arange(3)[:, None]
    player = np.broadcast_to(np.arange(12) % 2, (3, 12))
    rewards = np.zeros((3, 12, 2))
    state = None
    for start in range(0, request.param, 6):
        part = (slice(None), slice(start, start + 6))
        rows = make_trajectory(player[part], endings[part], rewards[part], identity[part] / 1000, identity[part])
        state = empty_state(buffer, rows, num_games=3) if state is None else state
        state = compiled_add(8)(state, rows, 1.0)
    known = {name: target for game in range(3) for name, target in ring_rows(buffer, state, game) if target is not None}
    expected = {6: [1, 2, 3, *range(2001, 2007)], 12: [*range(5, 10), *range(2005, 2013)]}
    assert sorted(known) == expected[request.param]
    return buffer, state, known


def test_sample_is_uniform_over_known_rows(uneven):
    """Every known row is drawn equally often (chi-square, p > 0.001 at a fixed key), and other rows never."""
    buffer, state, known = uneven
    sample = eqx.filter_jit(buffer.sample)(state, 2000 * len(known), key=jax.random.key(0))
    names, counts = np.unique(np.asarray(sample.observation)[:, 0].astype(int), return_counts=True)
    assert names.tolist() == sorted(known)
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_a_window_draws_uniformly_from_the_newest_known_rows_of_each_game(uneven):
    buffer, state, known = uneven
    draw = eqx.filter_jit(lambda window, key: buffer.sample_parts(state, 6000, keys=key[None], window=window))
    for window in (1, 3, 100):
        expected = [name for game in range(3) for name in sorted(n for n in known if n // 1000 == game)[-window:]]
        sample = draw(jnp.int32(window), jax.random.key(window))
        drawn = np.asarray(sample.observation)[:, 0].astype(int)
        names, counts = np.unique(drawn, return_counts=True)
        assert names.tolist() == expected
        assert scipy.stats.chisquare(counts).pvalue > 0.001 if len(expected) > 1 else True
        np.testing.assert_allclose(
            sample.value, [known[name] for name in np.asarray(sample.observation)[:, 0].astype(int)]
        )


def test_shares_are_drawn_from_equally_and_their_weights_make_up_for_it(uneven):
    """Rows of a part are equally likely, and the weights of a part add up to its fraction of all known rows."""
    buffer, state, known = uneven
    num_samples = 3 * 4000
    sample = eqx.filter_jit(buffer.sample_parts)(state, num_samples, keys=jax.random.split(jax.random.key(0), 3))
    names = np.asarray(sample.observation)[:, 0].astype(int).reshape(3, -1)
    weights = np.asarray(sample.weight, float).reshape(3, -1)
    num_known = [sum(name // 1000 == game for name in known) for game in range(3)]
    np.testing.assert_allclose(weights.sum(1) / weights.sum(), np.array(num_known) / len(known), rtol=1e-5)
    for game in range(3):
        assert len(set(weights[game])) == 1
        if num_known[game]:
            found, counts = np.unique(names[game], return_counts=True)
            assert found.tolist() == sorted(name for name in known if name // 1000 == game)
            assert scipy.stats.chisquare(counts).pvalue > 0.001
        else:
            assert (weights[game] == 0).all() and np.isfinite(sample.value).all()


@pytest.mark.slow
def test_a_share_does_not_depend_on_the_others(uneven):
    buffer, state, _ = uneven
    keys = jax.random.split(jax.random.key(0), 3)
    whole = buffer.sample_parts(state, 30, keys=keys)
    for share in range(3):
        part = jax.tree.map(lambda x, share=share: x[share : share + 1], state)
        alone = buffer.sample_parts(part, 10, keys=keys[share : share + 1])
        chex.assert_trees_all_equal(alone, jax.tree.map(lambda x, share=share: x[10 * share : 10 * share + 10], whole))


@pytest.mark.parametrize(("num_samples", "num_parts"), [(30, 2), (31, 3)])
def test_parts_that_do_not_divide_are_refused(uneven, num_samples, num_parts):
    buffer, state, _ = uneven
    with pytest.raises(ValueError, match=f"3 games and {num_samples} samples, expected multiples of .* {num_parts};"):
        buffer.sample_parts(state, num_samples, keys=jax.random.split(jax.random.key(0), num_parts))


def test_sample_keeps_rows_together(uneven):
    """The four columns of a sample come from one row."""
    buffer, state, known = uneven
    sample = eqx.filter_jit(buffer.sample)(state, 200, key=jax.random.key(1))
    sample = jax.tree.map(np.asarray, sample)
    identity = sample.observation[:, 0]
    columns = np.arange(3)
    np.testing.assert_array_equal(sample.policy, identity[:, None] * 10 + columns)
    np.testing.assert_array_equal(sample.action_mask, (identity[:, None] + columns) % 2 == 0)
    np.testing.assert_allclose(sample.value, [known[int(name)] for name in identity], atol=1e-6)


@pytest.mark.parametrize("transform", [lambda f: f, eqx.filter_jit], ids=["eager", "jit"])
def test_sampling_without_a_finished_episode_is_an_error(transform):
    """An empty buffer and one that holds only unfinished episodes say what to do."""
    buffer = EpisodeReplayBuffer(4)
    rows = one_game([ONGOING] * 4)
    state = empty_state(buffer, rows, num_games=1)
    sample = transform(lambda state: buffer.sample(state, 2, key=jax.random.key(0)))
    for unready in (state, compiled_add(4)(state, rows, 1.0)):
        with pytest.raises(RuntimeError, match="found no position with a known value target"):
            jax.block_until_ready(sample(unready))
    ready = compiled_add(4)(state, one_game([TERMINATED] * 4), 1.0)
    assert sample(ready).value.shape == (2,)


def copies_of(text, column):
    """How many times a compiled program copies a whole array of the shape of `column`."""
    shape = ",".join(map(str, column.shape))
    return len(re.findall(rf"= \w+\[{shape}\]\S* copy\(", text))


def test_add_writes_in_place():
    """If the state is donated, the compiled program copies no big column; otherwise it must copy all three."""
    buffer = EpisodeReplayBuffer(50)
    rows = Trajectory(
        observation=jnp.zeros((4, 3, 6, 7, 2)),
        action_mask=jnp.ones((4, 3, 9), bool),
        policy=jnp.ones((4, 3, 9)),
        value=jnp.zeros((4, 3)),
        action=jnp.zeros((4, 3), jnp.int32),
        action_value=jnp.zeros((4, 3)),
        rewards=jnp.zeros((4, 3, 2)),
        player=jnp.zeros((4, 3), jnp.int32),
        terminated=jnp.zeros((4, 3), bool),
        truncated=jnp.zeros((4, 3), bool),
        policy_weight=jnp.ones((4, 3)),
    )
    state = empty_state(buffer, rows, num_games=4)

    def add(state, rows):
        return jax.vmap(lambda state, rows: buffer.add(state, rows, discount=0.9))(state, rows)

    donated = jax.jit(add, donate_argnums=0).lower(state, rows).compile()
    kept = jax.jit(add).lower(state, rows).compile().as_text()
    big = (state.observation, state.action_mask, state.policy)
    assert copies_of(donated.as_text(), state.observation) == 0
    # The mask and the policy have one shape but different dtypes; `copies_of` counts both.
    assert copies_of(donated.as_text(), state.policy) == 0
    assert copies_of(kept, state.observation) == 1
    assert copies_of(kept, state.policy) == 2
    assert donated.memory_analysis().temp_size_in_bytes < sum(column.nbytes for column in big)


def test_a_sequence_of_equal_chunks_compiles_once():
    """The ring's position and the discount are data, so neither compiles the program again."""
    buffer = EpisodeReplayBuffer(5)
    traces = []

    @jax.jit
    def add(state, rows, discount):
        traces.append(None)
        return jax.vmap(lambda state, rows: buffer.add(state, rows, discount=discount))(state, rows)

    rows = one_game([ONGOING, TERMINATED, ONGOING])
    state = empty_state(buffer, rows, num_games=1)
    for discount in (1.0, 0.9, 0.5, 0.1):
        state = add(state, rows, discount)
    assert len(traces) == 1


def test_capacity_must_be_positive():
    with pytest.raises(ValueError, match="found capacity=0, expected at least 1"):
        EpisodeReplayBuffer(0)


def squeeze(rows):
    return jax.tree.map(lambda leaf: leaf[0], rows)


def test_chunk_longer_than_the_ring_is_refused():
    rows = squeeze(one_game([ONGOING] * 6))
    buffer = EpisodeReplayBuffer(5)
    with pytest.raises(ValueError, match="6 moves, expected at most capacity=5"):
        jax.jit(lambda: buffer.add(buffer.init(rows), rows, discount=1.0))()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("observation", {"observation": lambda column: column[:, :1]}),
        ("action_mask", {"action_mask": lambda column: column[:, :2], "policy": lambda column: column[:, :2]}),
        ("policy", {"policy": lambda column: column[:, :2]}),
        ("observation", {"observation": lambda column: column.astype(bool)}),
        ("policy", {"policy": lambda column: column.astype(jnp.float16)}),
    ],
    ids=["observation_shape", "num_actions", "policy_shape", "observation_dtype", "policy_dtype"],
)
def test_rows_of_another_game_are_refused(field, change):
    """The message names the field that differs from the rows of the ring."""
    rows = squeeze(one_game([ONGOING] * 3))
    buffer = EpisodeReplayBuffer(5)
    other = rows
    for name, alter in change.items():
        other = eqx.tree_at(operator.attrgetter(name), other, replace_fn=alter)
    with pytest.raises(ValueError, match=f"trajectory.{field}"):
        buffer.add(buffer.init(rows), other, discount=1.0)


@pytest.mark.parametrize("field", ["value", "action", "action_value", "rewards", "terminated", "truncated"])
def test_fields_of_unequal_length_are_refused(field):
    rows = squeeze(one_game([ONGOING] * 3))
    buffer = EpisodeReplayBuffer(5)
    other = eqx.tree_at(operator.attrgetter(field), rows, replace_fn=lambda column: column[:2])
    with pytest.raises(ValueError, match=f"trajectory.{field}"):
        buffer.add(buffer.init(rows), other, discount=1.0)


def test_a_batch_without_vmap_is_refused():
    rows = one_game([ONGOING] * 3)
    with pytest.raises(ValueError, match="jax.vmap"):
        EpisodeReplayBuffer(5).init(rows)


def test_three_players_are_refused():
    rows = squeeze(one_game([ONGOING] * 3))
    other = eqx.tree_at(lambda rows: rows.rewards, rows, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="3 players"):
        EpisodeReplayBuffer(5).init(other)
