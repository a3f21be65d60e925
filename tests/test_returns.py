"""Returns of any size: sums in self-play, value heads, and puzzles for one with a known best result."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from knapsack import PRICES, best_return, knapsack, return_in_order
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz
from tz.games._random_games import GameRecord, proven_returns
from tz.learn.self_play import mean_and_spread, returns_so_far

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])


@pytest.mark.parametrize("num_players", [1, 2])
def test_the_return_of_an_episode_is_the_sum_of_its_rewards_also_over_several_collections(num_players):
    tables = draw_tables(5, num_players=num_players)
    env, mcts = tabular_env(tables), tz.MCTS(2)
    collect = jax.jit(
        lambda state: tz.collect(mcts, env, tabular_evaluator(tables), state, num_moves=7, max_episode_moves=4)
    )
    state, total, seen = tz.init_collect(mcts, env, key=jax.random.key(0)), np.zeros(num_players), 0
    for _ in range(4):
        before = state
        state, moves = collect(before)
        so_far = returns_so_far(before, moves)
        for step, reward in enumerate(np.asarray(moves.rewards)):
            total = total + reward
            np.testing.assert_allclose(so_far[step], total[0], rtol=1e-5)
            if moves.terminated[step] or moves.truncated[step]:
                total, seen = np.zeros(num_players), seen + 1
        np.testing.assert_allclose(state.episode_return, total, rtol=1e-5)
    assert seen > 5


HEADS = st.builds(
    lambda low, width, num_bins, transform: tz.nn.CategoricalValue(low, low + width, num_bins, transform),
    st.floats(-2000, 1000),
    st.floats(0.5, 5000),
    st.integers(2, 60),
    st.sampled_from(["none", "muzero", "symlog"]),
)


@settings(max_examples=60, deadline=None)
@given(HEADS, st.floats(0, 1))
def test_a_two_hot_target_has_the_value_as_its_mean_and_two_neighbours(head, part):
    value = np.float32(np.clip(head.low + part * (head.high - head.low), head.low, head.high))
    weights = np.asarray(head.two_hot(jnp.asarray(value)))
    size = max(abs(head.low), abs(head.high))
    np.testing.assert_allclose(weights @ head.bins.astype(np.float64), value, atol=1e-6 * size)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    (used,) = np.nonzero(weights)
    assert (weights >= 0).all() and len(used) <= 2 and used[-1] - used[0] <= 1
    assert head.bins[max(used[0] - 1, 0)] <= value <= head.bins[min(used[-1] + 1, head.num_bins - 1)]


@pytest.mark.parametrize("transform", ["none", "muzero", "symlog"])
def test_bins_are_evenly_spaced_after_the_transform(transform):
    head = tz.nn.CategoricalValue(-20.0, 4000.0, 40, transform)
    x = head.bins.astype(np.float64)
    transformed = {
        "none": x,
        "muzero": np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x,
        "symlog": np.sign(x) * np.log(np.abs(x) + 1),
    }[transform]
    steps = np.diff(transformed)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    assert (x[0], x[-1]) == (-20, 4000)


def test_values_outside_of_the_support_count_as_its_ends():
    head = tz.nn.CategoricalValue(-5.0, 60.0, 14)
    for value, end in [(-100.0, 0), (-5.0, 0), (60.0, -1), (1e9, -1)]:
        np.testing.assert_array_equal(head.two_hot(jnp.float32(value)), np.eye(14, dtype=np.float32)[end])
    outside = head.is_outside(jnp.array([-5.1, -5.0, 0.0, 60.0, 60.1], jnp.float32))
    np.testing.assert_array_equal(outside, [1, 0, 0, 0, 1])


@pytest.mark.parametrize("transform", ["none", "muzero", "symlog"])
def test_the_categorical_loss_its_gradient_and_what_its_minimum_means(transform):
    """Compares with NumPy. For targets that differ, the head learns their mean with any spacing of the bins."""
    head, rng = tz.nn.CategoricalValue(-10.0, 90.0, 21, transform), np.random.default_rng(0)
    logits, targets = rng.normal(size=21).astype(np.float32), rng.uniform(-10, 90, 40).astype(np.float32)
    policy = jnp.zeros(3, jnp.float32)
    loss = lambda logits: tz.nn.value_loss((policy, head(logits)), jnp.float32(33.3))
    two_hot, p = np.asarray(head.two_hot(jnp.float32(33.3))), np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(loss(jnp.asarray(logits)), -(two_hot * np.log(p)).sum(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(logits)), p - two_hot, atol=1e-6)
    value = tz.nn.policy_and_value({"logits": policy, "value": head(jnp.asarray(logits))})[1]
    np.testing.assert_allclose(value, p @ head.bins, rtol=1e-5)
    best = np.asarray(jax.vmap(head.two_hot)(jnp.asarray(targets))).mean(0)
    found = tz.nn.policy_and_value((policy, head(jnp.log(jnp.asarray(best) + 1e-30))))[1]
    np.testing.assert_allclose(found, targets.mean(), rtol=1e-5)


class Constant(eqx.Module):
    """A network that ignores its input: its outputs are parameters."""

    logits: jax.Array
    outputs: jax.Array
    head: tz.nn.ValueHead

    def __call__(self, observation):
        return self.logits + 0 * observation, self.head(self.outputs)


def test_the_floor_of_a_categorical_loss_is_what_the_best_constant_has_and_targets_outside_are_counted():
    head, rng = tz.nn.CategoricalValue(0.0, 50.0, 11), np.random.default_rng(1)
    targets, weight = (jnp.asarray(rng.uniform(low, 60, 24), jnp.float32) for low in (0, 1))
    ones = jnp.ones((24, 2), jnp.float32)
    batch = jax.vmap(tz.Sample)(ones, ones > 0, 0.5 * ones, targets, weight, ones[:, 0])
    two_hot = np.asarray(jax.vmap(head.two_hot)(targets))
    best = np.average(two_hot, axis=0, weights=weight)
    network = Constant(jnp.zeros(2, jnp.float32), jnp.asarray(np.log(best + 1e-30)), head)
    optimizer = optax.sgd(1.0)
    loss = functools.partial(tz.az_loss, l2_reg_lambda=0.0)
    after, metrics = tz.train_step(optimizer, loss, tz.init_train(optimizer, network), batch)
    np.testing.assert_allclose(metrics["value_loss"], metrics["value_loss_floor"], rtol=1e-5)
    np.testing.assert_allclose(after.network.outputs, network.outputs, atol=1e-5, err_msg="the gradient is 0 there")
    outside = np.average(np.asarray(targets) > 50, weights=weight)
    np.testing.assert_allclose(metrics["value_outside"], outside, rtol=1e-5)
    assert outside > 0 and metrics["value_loss_floor"] > 1


@pytest.mark.parametrize(
    "head", [tz.nn.TanhValue(), tz.nn.LinearValue(), tz.nn.CategoricalValue(-3.0, 40.0, 9, "symlog")]
)
@pytest.mark.parametrize("make", [tz.MLP, tz.AZResNet])
def test_a_network_has_the_value_of_its_head_in_the_search_and_in_its_file(make, head, tmp_path):
    env = tz.from_pgx("tic_tac_toe")
    network = make(env.observation.shape, env.num_actions, 1, 3, value_head=head, key=jax.random.key(0))
    state, metadata = env.init(jax.random.key(0))
    logits, value = tz.NetworkEvaluator(network, env.observe)(state, metadata, jax.random.key(0))
    assert value.shape == () and value.dtype == jnp.float32
    plain = make(**network.settings | {"value_head": tz.nn.LinearValue()}, key=jax.random.key(0))
    if not isinstance(head, tz.nn.CategoricalValue):
        raw = plain(env.observe(state))[1]
        assert value == (jnp.tanh(raw) if isinstance(head, tz.nn.TanhValue) else raw)
    half = tz.NetworkEvaluator(network, env.observe, dtype=jnp.bfloat16)(state, metadata, jax.random.key(0))[1]
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, value, rtol=0.1, atol=0.05)
    tz.save_agent(tmp_path / "agent.tz", env, network)
    again = tz.load_agent(tmp_path / "agent.tz").evaluator.network
    assert again.value_head == head
    np.testing.assert_array_equal(tz.nn.policy_and_value(again(env.observe(state)))[1], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 5.0, "high": 5.0}, "found the support from 5 to 5, expected two finite numbers"),
        ({"low": 0.0, "high": np.inf}, "found the support from 0 to inf, expected two finite numbers"),
        ({"low": 0.0, "high": 1.0, "num_bins": 1}, "found num_bins=1, expected at least 2"),
        ({"low": 1e6, "high": 1e6 + 1, "num_bins": 51}, "too close for float32"),
    ],
)
def test_a_support_without_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tz.nn.CategoricalValue(**options)


@pytest.mark.parametrize("num_players", [1, 2])
def test_the_returns_that_random_games_prove_are_those_of_plain_sums(num_players):
    """A game that was cut off proves only the returns that hold for every value, low to high, of its last position."""
    rng = np.random.default_rng(num_players)
    for trial in range(40):
        num_games, num_moves, discount = 3, 6, [1.0, 0.9][trial % 2]
        low, high = [(-1.0, 1.0), (0.0, 30.0), (-8.0, 3.0)][trial % 3]
        first = rng.normal(0, 6, (num_games, num_moves + 1)).astype(np.float32)
        rewards = np.stack([first, -first][:num_players], -1)
        player = rng.integers(0, num_players, (num_games, num_moves + 1)).astype(np.int32)
        ends = rng.integers(1, 2 * num_moves, num_games)
        terminated = np.arange(num_moves + 1) >= ends[:, None]
        rewards[np.arange(num_moves + 1) > ends[:, None]] = 0
        record = GameRecord(*map(jnp.asarray, (rewards, terminated, player)), {}, jnp.asarray(terminated), {}, {})
        least, greatest = [], []
        for game in range(num_games):
            for start in range(num_moves):
                if terminated[game, start]:
                    continue
                me = player[game, start]
                total = sum(discount ** (t - start) * rewards[game, t + 1, me] for t in range(start, num_moves))
                left = 0 if terminated[game, -1] else discount ** (num_moves - start)
                left *= 1 if player[game, -1] == me else -1
                possible = total + left * np.linspace(low, high, 5)
                least.append(possible.max())
                greatest.append(possible.min())
        found = proven_returns(jax.device_get(record), discount, low, high)
        np.testing.assert_allclose(found, (min(least), max(greatest)), rtol=1e-4, atol=1e-4)


def test_episodes_for_one_have_the_returns_of_the_moves_and_no_mesh_changes_them():
    """Compares a player that takes items in an order of preference, and one that moves at random."""
    env, order = knapsack(), np.random.default_rng(3).permutation(10)
    place = jnp.asarray(np.argsort(order), jnp.float32)
    stubborn = tz.Player(tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), lambda *_: (-1e3 * place, jnp.float32(0)))
    expected, num_moves = return_in_order(order)
    result = tz.matches.play_episodes(env, stubborn, num_games=2, key=jax.random.key(0), max_moves=12)
    assert result.returns.tolist() == 2 * [expected] and result.num_moves.tolist() == 2 * [num_moves]
    assert result.finished.all() and result.interval() == (expected, expected)
    cut = tz.matches.play_episodes(env, stubborn, num_games=2, key=jax.random.key(0), max_moves=2)
    assert not cut.finished.any() and cut.returns.tolist() == 2 * [PRICES[order[:2]].sum()]

    play = functools.partial(tz.matches.play_episodes, env, tz.random_player(), num_games=8, max_moves=12)
    one, two = play(key=jax.random.key(1)), play(key=jax.random.key(1), mesh=tz.data_mesh(jax.devices()[:2]))
    np.testing.assert_array_equal(one.returns, two.returns)
    assert len(set(one.returns.tolist())) > 2 and one.returns.max() <= best_return()
    low, high = scipy.stats.t.interval(0.95, 7, np.mean(one.returns), scipy.stats.sem(one.returns))
    np.testing.assert_allclose(one.interval(), (low, high), rtol=2e-3)


def test_episodes_step_through_the_model_of_their_player():
    """With a model that is the game itself, with states of another type, the same episodes are played."""
    env, mcts = knapsack(), tz.MCTS(6, root=tz.PlainRoot(), temperature=0.0)
    model = tz.mcts.Model(
        lambda state, metadata: ({"game": state}, metadata),
        lambda state, action: (lambda after, metadata: ({"game": after}, metadata))(*env.step(state["game"], action)),
    )
    players = tz.mcts.ModelEvaluator(model, tz.uniform_evaluator), tz.uniform_evaluator
    results = [
        tz.matches.play_episodes(env, tz.Player(mcts, evaluator), num_games=2, key=jax.random.key(0), max_moves=12)
        for evaluator in players
    ]
    chex.assert_trees_all_equal(*results)
    assert results[0].finished.all()


def test_episodes_and_their_tester_refuse_what_makes_no_sense():
    env, player = knapsack(), tz.random_player()
    for make, message in [
        (lambda: tz.matches.ReturnTester(num_games=1), "ReturnTester: found num_games=1 .* expected at least 2 games"),
        (lambda: tz.matches.ReturnTester(max_moves=0), "ReturnTester: found .*max_moves=0, expected"),
        (lambda: tz.matches.play_episodes(env, player, num_games=0, key=jax.random.key(0)), "play_episodes: found"),
        (
            lambda: tz.matches.play_episodes(tz.from_pgx("tic_tac_toe"), player, num_games=2, key=jax.random.key(0)),
            "play_episodes: found tic_tac_toe, a game of 2 players, expected a game for one player; for two",
        ),
        (
            lambda: tz.matches.ReturnTester(num_games=3).init(
                tz.uniform_evaluator, mesh=tz.data_mesh(jax.devices()[:2])
            ),
            "found num_games=3, which cannot be split evenly over 2 devices",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_mean_and_spread_are_of_the_last_moves_alone():
    rng = np.random.default_rng(0)
    returns, ended = rng.normal(1000, 5, (6, 9)).astype(np.float32), rng.random((6, 9)) < 0.3
    found, last = mean_and_spread(jnp.asarray(returns), jnp.asarray(ended)), returns[ended].astype(np.float64)
    np.testing.assert_allclose(found, (last.mean(), last.std()), rtol=1e-5)


def train(scale, head, seed, num_epochs, **changes):
    """Learns the knapsack as the guide one_player_games does; returns the state and the metrics."""
    game = knapsack(scale)
    env = tz.random_starts(game, max_moves=3)
    config = {
        "mcts": tz.gumbel_mcts(8, 8),
        "optimizer": optax.adam(1e-2),
        "replay": tz.EpisodeReplayBuffer(60),
        "num_games": 32,
        "train_batch_size": 128,
        "moves_per_epoch": 8,
        "train_steps_per_epoch": 16,
        "test_env": game,
    }
    config, rows = tz.TrainConfig(**config | changes), []
    network = tz.MLP(env.observation.shape, env.num_actions, 32, 1, value_head=head, key=jax.random.key(seed))
    state = tz.init_loop(config, env, network, key=jax.random.key(100 + seed), mesh=MESH)
    sinks, options = [rows.append], {"progress": False, "mesh": MESH}
    return tz.train_loop(config, env, state, num_epochs=num_epochs, sinks=sinks, **options), rows


@pytest.mark.once
@pytest.mark.parametrize("head", [tz.nn.CategoricalValue(0.0, 150.0)], ids=["categorical"])
def test_training_finds_what_is_nearly_the_best_result_of_a_puzzle(head):
    """Rewards are in the tens. The episodes of the tester begin with the empty knapsack and have no exploration."""
    tester = tz.matches.ReturnTester(num_games=8, max_moves=12, baseline=tz.random_player())
    state, rows = train(1.0, head, 0, 30, testers=(tester,), epochs_per_test=30)
    last, best = rows[-1], best_return()
    print(last)
    assert last["test_return"] >= 0.95 * best and last["test_unfinished"] == 0
    assert last["test_baseline_return"] < last["test_baseline_return_high"] < 0.9 * best
    game = knapsack()
    _, value = state.train.network(game.observe(game.init(jax.random.key(0))[0]))
    assert abs(value.mean() - best) < 0.1 * best, "the value of the first position is the return to come"
    assert last["value_loss"] < 0.8 * last["value_loss_floor"] and last["value_outside"] == 0
    assert {"mean_return", "return_spread"} <= last.keys()


@pytest.mark.once
def test_a_game_whose_rewards_are_128_times_as_large_is_learned_alike():
    """The factor is a power of two, so that rounding is the same, and all moves, losses and weights are equal."""
    runs = [train(scale, tz.nn.CategoricalValue(0.0, 150.0 * scale), 0, 4) for scale in (1.0, 128.0)]
    weights = [jax.tree.leaves(eqx.filter(state.train.network, eqx.is_array)) for state, _ in runs]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for small, large in zip(*(rows for _, rows in runs), strict=True):
        for name in ("policy_loss", "value_loss", "value_loss_floor", "mean_length", "episodes"):
            assert small[name] == large[name]
        for name in ("mean_return", "return_spread"):
            assert 128 * small[name] == pytest.approx(large[name], rel=1e-6)
