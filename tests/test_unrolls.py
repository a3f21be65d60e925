"""Unrolls against plain Python: one begins in every row of an episode, and none continues into the next episode."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz
from tz.learn import Trajectory, turn_unroll

pytestmark = pytest.mark.slow

NUM_GAMES, LENGTH, CAPACITY, STEPS, DISCOUNT = 3, 33, 12, 4, 0.9
BUFFER = tz.EpisodeReplayBuffer(CAPACITY, td_lambda=0.7, max_unroll=STEPS)
ONGOING, TERMINATED, TRUNCATED = range(3)


def draw_games():
    """Draws random moves whose observation encodes game and move. In one game, episodes are longer than the ring."""
    rng, shape = np.random.default_rng(0), (NUM_GAMES, LENGTH)
    ending = rng.choice([ONGOING, TERMINATED, TRUNCATED], shape, p=[0.7, 0.2, 0.1])
    ending[2] = np.where(np.arange(LENGTH) % 14 == 13, TERMINATED, ONGOING)
    first = rng.normal(size=shape).astype(np.float32)
    policy = rng.dirichlet(np.ones(3), shape).astype(np.float32)
    return {
        "ending": ending,
        "name": 1 + np.arange(LENGTH) + 100 * np.arange(NUM_GAMES)[:, None],
        "action": rng.integers(0, 3, shape),
        "rewards": np.stack([first, -first], -1),
        "player": rng.integers(0, 2, shape),
        "policy": policy,
        "value": rng.uniform(-1, 1, shape).astype(np.float32),
        "action_value": rng.uniform(-1, 1, shape).astype(np.float32),
    }


def trajectory(games, part):
    rows = {name: x[:, part] for name, x in games.items()}
    ending = rows.pop("ending")
    name = rows.pop("name")
    rows |= {key: rows[key].astype(np.int32) for key in ("action", "player")}
    return Trajectory(
        observation=jnp.asarray(name[..., None], jnp.float32),
        action_mask=jnp.asarray(rows["policy"] > 0.1),
        terminated=jnp.asarray(ending == TERMINATED),
        truncated=jnp.asarray(ending == TRUNCATED),
        policy_weight=jnp.asarray(name % 2, jnp.float32),
        extra={"twice": jnp.asarray(2 * name, jnp.int32)},
        **{key: jnp.asarray(x) for key, x in rows.items()},
    )


def targets(steps):
    """Computes the value target of each move of one game by its recursion; None if its episode is not over."""
    found, later = [], None
    for t in reversed(range(LENGTH)):
        reward = steps["rewards"][t, steps["player"][t]]
        if steps["ending"][t] == TERMINATED:
            target = reward
        elif steps["ending"][t] == TRUNCATED:
            target = steps["action_value"][t]
        elif later is None:
            target = None
        else:
            sign = 1 if steps["player"][t + 1] == steps["player"][t] else -1
            target = reward + DISCOUNT * sign * (0.3 * steps["value"][t + 1] + 0.7 * later)
        found.append(target)
        later = target
    return found[::-1]


def filled(buffer, games, length=LENGTH, chunk=3):
    first = jax.tree.map(lambda x: x[0], trajectory(games, slice(0, chunk)))
    state = jax.vmap(lambda _: buffer.init(first))(jnp.arange(NUM_GAMES))
    add = jax.jit(jax.vmap(lambda ring, rows: buffer.add(ring, rows, discount=DISCOUNT)))
    for start in range(0, length, chunk):
        state = add(state, trajectory(games, slice(start, start + chunk)))
    return state


@pytest.fixture(scope="module")
def games():
    return draw_games()


@pytest.fixture(scope="module")
def rings(games):
    return filled(BUFFER, games)


@pytest.mark.parametrize("num_steps", [1, STEPS])
def test_every_unroll_is_what_was_played(games, rings, num_steps):
    drawn = jax.device_get(eqx.filter_jit(BUFFER.sample)(rings, 600, key=jax.random.key(0), unroll=num_steps))
    begun, kinds = set(), {"ends inside": 0, "cut off inside": 0, "goes on": 0, "over the seam of the ring": 0}
    for i in range(600):
        unroll = jax.tree.map(lambda x, i=i: x[i], drawn)
        game, t = divmod(int(unroll.positions.observation[0, 0]) - 1, 100)
        begun.add((game, t))
        steps = {name: x[game] for name, x in games.items()}
        expected, over = targets(steps), None
        for k in range(num_steps + 1):
            position = jax.tree.map(lambda x, k=k: x[k], unroll.positions)
            if over is not None:
                assert not unroll.is_in_episode[k] and unroll.has_terminated[k] == (over == TERMINATED)
                assert position.value == 0 and position.weight == 0 and not position.policy.any()
                assert int(position.observation[0]) == steps["name"][t], "the last position again"
                assert k == num_steps or (unroll.action[k] == 0 and unroll.reward[k] == 0)
                continue
            assert unroll.is_in_episode[k] and not unroll.has_terminated[k]
            assert int(position.observation[0]) == steps["name"][t] and position.extra["twice"] == 2 * steps["name"][t]
            np.testing.assert_allclose(position.value, expected[t], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(position.policy, steps["policy"][t])
            np.testing.assert_array_equal(position.action_mask, steps["policy"][t] > 0.1)
            assert position.policy_weight == steps["name"][t] % 2 and position.weight == unroll.weight > 0
            assert unroll.player[k] == steps["player"][t]
            if k < num_steps:
                assert unroll.action[k] == steps["action"][t]
                assert unroll.reward[k] == steps["rewards"][t, steps["player"][t]]
            over = None if steps["ending"][t] == ONGOING else steps["ending"][t]
            kinds["over the seam of the ring"] += k > 0 and t % CAPACITY == 0
            t += over is None
        kinds["goes on" if over is None else "ends inside" if over == TERMINATED else "cut off inside"] += 1
    known = {
        (game, t)
        for game in range(NUM_GAMES)
        for t in range(LENGTH - CAPACITY, LENGTH)
        if targets({name: x[game] for name, x in games.items()})[t] is not None
    }
    assert begun == known and all(kinds.values()), kinds


def test_an_unroll_begins_with_the_sample_of_the_same_key(rings):
    keys = jax.random.split(jax.random.key(1), 3)
    sample = BUFFER.sample_parts(rings, 30, keys=keys, window=3)
    unroll = BUFFER.sample_parts(rings, 30, keys=keys, window=3, unroll=2)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, 0]), sample, unroll.positions)
    np.testing.assert_array_equal(unroll.weight, sample.weight)


def test_another_ring_keeps_the_newest_steps(games, rings):
    smaller = dataclasses.replace(BUFFER, capacity=8)
    resized = jax.vmap(smaller.resize)(rings)
    expected = filled(smaller, games)
    first, second = (smaller.sample(ring, 100, key=jax.random.key(2), unroll=3) for ring in (resized, expected))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), first, second)


def test_a_ring_for_positions_alone_keeps_no_steps(games):
    plain = dataclasses.replace(BUFFER, max_unroll=None)
    first = jax.tree.map(lambda x: x[0], trajectory(games, slice(0, 3)))
    ring, with_steps = (jax.eval_shape(lambda buffer=buffer: buffer.init(first)) for buffer in (plain, BUFFER))
    assert ring.steps is None
    assert jax.tree.structure(ring) == jax.tree.structure(eqx.tree_at(lambda ring: ring.steps, with_steps, None))


def test_a_tabular_model_that_is_unrolled_predicts_every_target():
    """As in MuZero's loss: along the actions of an unroll, the table of the game gives the rewards and outcomes."""
    left = 6  # players take 1 or 2 in turn; who takes the last one wins

    def shown(state, rewards):
        counters, player = state
        return tz.StepMetadata(rewards, jnp.arange(1, 3) <= jnp.maximum(counters, 1), counters <= 0, player)

    def step(state, action):
        after = jnp.maximum(state[0] - 1 - action, 0)
        won = (state[0] > 0) & (after == 0)
        rewards = jnp.where(won, jnp.where(jnp.arange(2) == state[1], 1.0, -1.0), 0.0).astype(jnp.float32)
        new = after, jnp.where(state[0] > 0, 1 - state[1], state[1])
        return new, shown(new, rewards)

    start = jnp.int32(left), jnp.int32(0)
    env = tz.Env(lambda key: (start, shown(start, jnp.zeros(2, jnp.float32))), step, lambda s: jnp.stack(s), name="nim")
    buffer, mcts = tz.EpisodeReplayBuffer(20, max_unroll=5), tz.MCTS(2, persist_tree=False)

    @jax.jit
    def drawn(keys):
        def play(key):
            game = tz.init_collect(mcts, env, key=key)
            return tz.collect(mcts, env, tz.uniform_evaluator, game, num_moves=20)[1]

        moves = jax.vmap(play)(keys)
        one = jax.tree.map(lambda x: x[0], moves)
        rings = jax.vmap(lambda rows: buffer.add(buffer.init(one), rows, discount=1.0))(moves)
        return buffer.sample(rings, 64, key=keys[0], unroll=5)

    unrolls = jax.device_get(drawn(jax.random.split(jax.random.key(0), 4)))
    for i in range(64):
        counters, player = (int(x) for x in unrolls.positions.observation[i, 0])
        total, sign = 0.0, 1
        for k in range(5):
            over = counters == 0
            assert unrolls.is_in_episode[i, k] == (not over) and unrolls.has_terminated[i, k] == over
            if over:
                break
            assert unrolls.player[i, k] == player
            assert unrolls.positions.value[i, k] * sign + total == pytest.approx(unrolls.positions.value[i, 0])
            counters = max(counters - 1 - int(unrolls.action[i, k]), 0)
            assert unrolls.reward[i, k] == (counters == 0)
            total, sign, player = total + sign * float(unrolls.reward[i, k]), -sign, 1 - player
        assert counters > 0 or total == pytest.approx(unrolls.positions.value[i, 0])


def test_a_symmetry_turns_all_steps_alike(games, rings):
    def mirrored(sample, *, key):
        return dataclasses.replace(sample, policy=sample.policy[::-1], action_mask=sample.action_mask[::-1])

    drawn = BUFFER.sample(rings, 64, key=jax.random.key(3), unroll=3)
    made = np.asarray(drawn.is_in_episode[:, :-1])
    turned = jax.vmap(lambda unroll: turn_unroll(mirrored, unroll, key=jax.random.key(4)))(drawn)
    np.testing.assert_array_equal(turned.action, np.where(made, 2 - drawn.action, 0))
    assert made.all(1).any() and not made.all(), "some unrolls end before three moves"
    unroll, turned = (jax.tree.map(lambda x: x[made.all(1).argmax()], tree) for tree in (drawn, turned))
    np.testing.assert_array_equal(turned.positions.policy, unroll.positions.policy[:, ::-1])
    np.testing.assert_array_equal(turned.positions.value, unroll.positions.value)

    def noisy(sample, *, key):
        return dataclasses.replace(sample, observation=sample.observation + jax.random.normal(key, dtype=jnp.float32))

    noise = turn_unroll(noisy, unroll, key=jax.random.key(5)).positions.observation - unroll.positions.observation
    np.testing.assert_allclose(noise, noise[0, 0], atol=1e-4)


@pytest.mark.parametrize("max_unroll", [0, 12, 40])
def test_an_unroll_that_does_not_fit_the_ring_is_refused(max_unroll):
    with pytest.raises(ValueError, match=rf"found max_unroll={max_unroll}, expected from 1 to 11.*capacity=12"):
        tz.EpisodeReplayBuffer(12, max_unroll=max_unroll)


def test_an_unroll_longer_than_the_buffer_keeps_steps_for_is_refused(rings):
    plain = dataclasses.replace(BUFFER, max_unroll=None)
    for num_steps in (0, 5):
        with pytest.raises(ValueError, match=rf"found unroll={num_steps}, expected from 1 to max_unroll=4"):
            BUFFER.sample(rings, 2, key=jax.random.key(0), unroll=num_steps)
    with pytest.raises(ValueError, match=r"found a ring with actions and rewards, .* max_unroll=None"):
        plain.sample(rings, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"found a ring without actions and rewards, .* max_unroll=4"):
        BUFFER.sample(eqx.tree_at(lambda ring: ring.steps, rings, None), 2, key=jax.random.key(0), unroll=1)
