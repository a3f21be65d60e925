"""The loop on tic-tac-toe: continuing, no recompilation, the newest weights, and errors."""

import dataclasses
import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tz
from tz.learn.new_games import evaluator_of
from tz.runs.phases import NotFiniteError

TRACES = []
MESH = tz.data_mesh(jax.devices()[:1])
init_loop, train_loop = (functools.partial(function, mesh=MESH) for function in (tz.init_loop, tz.train_loop))


@pytest.fixture(scope="module")
def env():
    """Tic-tac-toe that counts how often it is traced."""
    game = tz.from_pgx("tic_tac_toe")

    def step(state, action):
        TRACES.append("step")
        return game.step(state, action)

    return tz.Env(game.init, step, game.observe, name="tic_tac_toe")


@pytest.fixture(scope="module")
def config():
    return tz.TrainConfig(
        mcts=tz.MCTS(6, 14),
        optimizer=optax.adam(1e-2),
        replay=tz.EpisodeReplayBuffer(40),
        num_games=8,
        train_batch_size=16,
        warmup_moves=12,
        moves_per_epoch=6,
        train_steps_per_epoch=4,
        testers=(
            tz.TwoPlayerTester(num_games=4, opening_moves=1, max_moves=9),
            tz.OpponentTester(tz.random_player(), "random", num_games=4, max_moves=9),
            tz.ApproxEloTester(3, 4, 2, opening_moves=1, max_moves=9),
        ),
        augment=tz.random_dihedral,
        loss=functools.partial(tz.az_loss, l2_reg_lambda=1e-3),
    )


@pytest.fixture(scope="module")
def network(env):
    return tz.MLP(env.observation.shape, env.num_actions, width=16, key=jax.random.key(0))


@pytest.fixture(scope="module")
def five_epochs(config, env, network, tmp_path_factory):
    """Five epochs in one go: the state, the metrics' file, and the traces of each epoch."""
    path, traces = tmp_path_factory.mktemp("run") / "new" / "metrics.jsonl", []
    state = init_loop(config, env, network, key=jax.random.key(1))
    count = lambda metrics: traces.append(len(TRACES))
    return train_loop(config, env, state, num_epochs=5, sinks=[tz.JsonLinesSink(path), count]), path, traces


@pytest.mark.slow
def test_nothing_recompiles_after_the_first_epoch(five_epochs):
    _, _, traces = five_epochs
    assert traces[0] > 0 and len(set(traces)) == 1, traces


@pytest.mark.slow
def test_it_continues_where_it_stopped(config, env, network, five_epochs):
    state = init_loop(config, env, network, key=jax.random.key(1))
    for num_epochs in (2, 3):
        state = train_loop(config, env, state, num_epochs=num_epochs, sinks=[], progress=False)
    straight, resumed = (jax.tree.leaves(eqx.filter(s, eqx.is_array)) for s in (five_epochs[0], state))
    for a, b in zip(straight, resumed, strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)
    assert state.epoch == 5


@pytest.mark.slow
def test_the_metrics_of_an_epoch(config, five_epochs):
    state, path, _ = five_epochs
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    names = {"loss", "policy_loss", "value_loss", "l2_loss", "episodes", "mean_length", "truncated", "moves_per_second"}
    names |= {"simulations_per_second", "replay_known", "seconds", "best_score", "best_replaced", "random_score"}
    names |= {"elo", "elo_low", "elo_high"}
    names |= {f"{tester}_{result}" for tester in ("best", "random") for result in ("wins", "draws", "losses")}
    for row in rows:
        assert names <= row.keys()
        assert row["random_wins"] + row["random_draws"] + row["random_losses"] == 4
        assert row["simulations_per_second"] == pytest.approx(6 * row["moves_per_second"])
        assert 5 <= row["mean_length"] <= 9
    moves = 8 * (12 + 5 * 6)
    in_progress = int(state.games.episode_moves.sum())
    assert 0 <= in_progress < 8 * 9
    assert rows[-1]["replay_known"] == state.replay.num_known.sum() <= moves - in_progress
    assert state.train.step == 20


@pytest.mark.slow
def test_the_network_given_is_not_used_up(network, five_epochs):
    assert all(not x.is_deleted() for x in jax.tree.leaves(eqx.filter(network, eqx.is_array)))


class Leaning(eqx.Module):
    """A network with a weight as the logit of action 0, and a parameter as the value."""

    weight: jax.Array
    value: jax.Array

    def __call__(self, observation):
        return self.weight * jax.nn.one_hot(0, 9, dtype=jnp.float32), jnp.tanh(self.value)


def leaning(config, optimizer, loss, **options):
    """With `optax.sign_sgd`, a step is exact for any sum of the sample weights."""
    options = {"warmup_moves": 9, "moves_per_epoch": 9, "testers": (), "augment": None} | options
    config = dataclasses.replace(config, optimizer=optimizer, loss=loss, **options)
    return config, Leaning(jnp.float32(0), jnp.float32(0))


@pytest.mark.slow
def test_self_play_uses_the_newest_weights(config, env):
    """The loss only increases the weight, so from the second epoch on, the first moves are action 0."""
    push = lambda network, output, sample: (-network.weight, {})
    config, network = leaning(config, optax.sign_sgd(5.0), push)
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=1, sinks=[], progress=False)
    assert state.train.network.weight == 20
    before = int(state.replay.position[0])
    state = train_loop(config, env, state, num_epochs=1, sinks=[], progress=False)
    rows = slice(before, before + config.moves_per_epoch)
    policy, legal = state.replay.policy[:, rows, 0], state.replay.action_mask[:, rows, 0]
    assert legal.any() and policy[legal].mean() > 0.6


@pytest.mark.slow
def test_a_network_that_turns_nan_is_named_with_its_step_and_output(config, env):
    def predict(observation):  # on any board with a stone, hence at the first child of the root
        return jnp.zeros(9), jnp.where(observation.sum() > 0, jnp.nan, 0.0)

    with pytest.warns(UserWarning, match="found the function .* without any parameters, expected arrays to train"):
        state = init_loop(dataclasses.replace(config, warmup_moves=0), env, predict, key=jax.random.key(0))
    found = r"an output of the network below the root, at self-play move 0 of epoch 0"
    with pytest.raises(FloatingPointError, match=found):
        train_loop(config, env, state, num_epochs=1, sinks=[], progress=False)


@pytest.mark.slow
def test_a_step_to_weights_that_are_not_finite_is_named_and_not_made(config, env):
    push = lambda network, output, sample: (network.weight, {})
    settings, network = leaning(config, optax.sign_sgd(lambda step: jnp.where(step == 1, jnp.nan, 1.0)), push)
    state = init_loop(settings, env, network, key=jax.random.key(0))
    with pytest.raises(NotFiniteError, match=r"a gradient is not finite at gradient step 1 of epoch 0") as error:
        train_loop(settings, env, state, num_epochs=1, sinks=[], progress=False)
    kept = error.value.state.train
    assert kept.step == 1 and kept.network.weight == network.weight - 1


@pytest.mark.slow
def test_steps_that_are_not_finite_can_be_left_out_and_are_counted(config, env):
    def sometimes_nan(sample, *, key):
        return eqx.tree_at(lambda s: s.value, sample, jnp.where(jax.random.bernoulli(key, 0.04), jnp.nan, 0.0))

    push = lambda network, output, sample: (sample.value - network.weight, {})
    settings, network = leaning(config, optax.sign_sgd(1.0), push, skip_nonfinite=True)
    settings = dataclasses.replace(settings, augment=sometimes_nan)
    state, rows = init_loop(settings, env, network, key=jax.random.key(0)), []
    state = train_loop(settings, env, state, num_epochs=4, sinks=[rows.append], progress=False)
    skipped = sum(row["skipped_steps"] for row in rows)
    assert 0 < skipped < state.train.step == 16
    assert state.train.network.weight == 16 - skipped
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.slow
def test_a_loss_that_turns_nan_is_named_with_its_step(config, env):
    undefined = lambda network, output, sample: (0 * network.weight + jnp.log(-1.0 - output[1] ** 2), {})
    settings, network = leaning(config, optax.sgd(0.1), undefined)
    state = init_loop(settings, env, network, key=jax.random.key(0))
    with pytest.raises(FloatingPointError, match="loss is nan at gradient step 0 of epoch 0"):
        train_loop(settings, env, state, num_epochs=1, sinks=[], progress=False)


def test_a_network_that_is_nan_from_the_start_is_refused(config, env):
    network = Leaning(jnp.float32(0), jnp.float32(jnp.nan))
    with pytest.raises(ValueError, match="found non-finite numbers in the network's value"):
        init_loop(config, env, network, key=jax.random.key(0))


@pytest.mark.once
@pytest.mark.slow
def test_training_waits_for_the_first_episode_to_end(config, env, network):
    config = dataclasses.replace(config, warmup_moves=0, moves_per_epoch=2, testers=(), augment=None)
    rows = []
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=2, sinks=[rows.append], progress=False)
    assert state.train.step == 0 and all("loss" not in row and row["replay_known"] == 0 for row in rows)


@pytest.mark.once
@pytest.mark.slow
def test_truncated_episodes_are_learned_from_and_counted(config, env, network):
    config = dataclasses.replace(config, warmup_moves=0, max_episode_moves=3, testers=(), augment=None)
    rows = []
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=1, sinks=[rows.append], progress=False)
    assert rows[0]["truncated"] == rows[0]["episodes"] == 16 and rows[0]["mean_length"] == 3
    assert rows[0]["replay_known"] == 48 and state.train.step == 4


@pytest.mark.slow
def test_every_gradient_step_draws_samples_of_its_own(config, env, network):
    seen = []

    def augment(sample, *, key):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data))), jax.random.key_data(key))
        return sample

    config = dataclasses.replace(config, augment=augment, testers=())
    state = init_loop(config, env, network, key=jax.random.key(0))
    train_loop(config, env, state, num_epochs=2, sinks=[], progress=False)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 2 * 4 * 16


@pytest.mark.slow
def test_the_average_of_the_weights_plays(config, env):
    """The average follows its formula, and self-play and tests use it instead of the newest weights."""
    push = lambda network, output, sample: (-network.weight, {})
    config, network = leaning(config, optax.sign_sgd(5.0), push, average_decay=0.9)
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=2, sinks=[], progress=False)
    average, weight = 0.0, 0.0
    for step in range(8):
        weight += 5
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert state.train.network.weight == 40
    np.testing.assert_allclose(state.train.average.weight, average, rtol=1e-5)
    np.testing.assert_allclose(evaluator_of(config, env, state.train).network.weight, average, rtol=1e-5)


@pytest.mark.slow
def test_a_schedule_of_optax_is_followed(config, env):
    push = lambda network, output, sample: (-network.weight, {})
    config, network = leaning(config, optax.sign_sgd(optax.piecewise_constant_schedule(5.0, {3: 0.0})), push)
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=2, sinks=[], progress=False)
    assert state.train.step == 8 and state.train.network.weight == 15, "three steps of 5, the rest of 0"


@pytest.mark.once
@pytest.mark.slow
def test_a_window_of_one_row_a_game_trains_on_the_newest_only(config, env):
    """With a window of 1, the targets in the loss are those of the last known row of each game."""
    seen = []

    def loss(network, output, sample):
        jax.debug.callback(lambda policy: seen.append(tuple(np.asarray(policy).round(5))), sample.policy)
        return network.weight**2, {}

    moves = []
    window = lambda count: moves.append(count) or 1
    config, network = leaning(config, optax.sgd(0.0), loss, replay_window=window, moves_per_epoch=6)
    state = init_loop(config, env, network, key=jax.random.key(0))
    state = train_loop(config, env, state, num_epochs=1, sinks=[], progress=False)
    jax.effects_barrier()
    ring = state.replay
    newest = (ring.position - ring.size + ring.num_known - 1) % config.replay.capacity
    rows = {tuple(np.asarray(ring.policy[game, newest[game]]).round(5)) for game in range(8) if ring.num_known[game]}
    assert set(seen) <= rows and len(set(seen)) > 1
    assert moves == [9 + 6], "warm-up and one epoch"


@pytest.mark.slow
def test_some_moves_are_fast_and_they_are_the_same_in_all_games(config, env, network):
    fast = dataclasses.replace(config.mcts, num_simulations=2, root=tz.PlainRoot())
    config = dataclasses.replace(config, fast_mcts=fast, fast_fraction=0.5, testers=(), warmup_moves=0)
    state = init_loop(config, env, network, key=jax.random.key(0))
    rows = []
    state = train_loop(config, env, state, num_epochs=5, sinks=[rows.append], progress=False)
    weight = np.asarray(state.replay.policy_weight)[:, :30]
    a_move = [2 + 4 * weight[0, index : index + 6].mean() for index in range(0, 30, 6)]  # 2 simulations or 6
    assert [row["simulations_per_second"] / row["moves_per_second"] for row in rows] == pytest.approx(a_move)
    assert (weight == weight[0]).all(), "the same moves in all games"
    assert 5 < weight[0].sum() < 25 and set(np.unique(weight)) == {0, 1}
    assert len({tuple(row) for row in weight[0].reshape(5, 6)}) > 1, "other moves in other epochs"


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("root", [tz.Dirichlet(), tz.Gumbel()])
def test_more_simulations_later_are_another_call_of_the_loop(config, env, network, root):
    """A schedule of simulations: the next search keeps the trees if they have the same size."""
    config = dataclasses.replace(config, testers=(), mcts=dataclasses.replace(config.mcts, root=root))
    state = init_loop(config, env, network, key=jax.random.key(0))
    more = dataclasses.replace(config, mcts=dataclasses.replace(config.mcts, num_simulations=12))
    rows = []
    for settings in (config, more):
        state = train_loop(settings, env, state, num_epochs=1, sinks=[rows.append], progress=False)
    for row, number in zip(rows, (6, 12), strict=True):
        assert row["simulations_per_second"] == pytest.approx(number * row["moves_per_second"])
    assert state.epoch == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fast_mcts": tz.MCTS(2, 9)}, "found max_nodes=9, expected 14"),
        ({"fast_fraction": 1.5}, "found fast_fraction=1.5, expected from 0 to 1"),
        ({"testers": 2 * (tz.TwoPlayerTester(num_games=8),)}, r"with the names \['best', 'best'\], expected different"),
        ({"average_decay": -0.1}, "found average_decay=-0.1, expected from 0 to 1"),
        ({"num_games": 0}, "found num_games=0, expected at least 1"),
        ({"train_batch_size": -3}, "found train_batch_size=-3, expected at least 1"),
        ({"epochs_per_test": 0}, "found epochs_per_test=0, expected at least 1"),
        ({"warmup_moves": -1}, "found warmup_moves=-1, expected 0 or more"),
        ({"moves_per_epoch": 41}, "found replay.capacity=40, expected at least 41"),
        ({"max_episode_moves": 50}, r"found replay.capacity=40, expected at least 5\d"),
        ({"max_episode_moves": 0}, "found max_episode_moves=0, expected at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **options)


def test_an_opponent_of_another_game_is_refused_before_training(config, env, network):
    stranger = tz.load_agent("connect_four_small")
    elo = tz.ApproxEloTester(2, 8, 1, anchors=(tz.random_player(), stranger))
    for tester in tz.OpponentTester(stranger, "stranger"), elo, tz.matches.LadderTester((tz.random_player(), stranger)):
        wrong = dataclasses.replace(config, testers=(tester,))
        with pytest.raises(ValueError, match="one of another game"):
            init_loop(wrong, env, network, key=jax.random.key(0))


class FirstMoves(eqx.Module):
    """A tester that plays nothing, but reports the number of legal moves at the start of its games."""

    def init(self, evaluator, *, mesh):
        return None

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        _, metadata = jax.vmap(env.init)(jax.random.split(key, 32))
        return state, {"legal": float(metadata.action_mask.sum(1).mean())}


@pytest.mark.once
@pytest.mark.slow
def test_tests_can_be_played_from_other_beginnings_than_self_play(config, env, network):
    varied, seen = tz.random_starts(env, 4), []
    for test_env in (None, env):
        changed = dataclasses.replace(config, testers=(FirstMoves(),), test_env=test_env)
        state = init_loop(changed, varied, network, key=jax.random.key(1))
        train_loop(changed, varied, state, num_epochs=1, sinks=[seen.append], progress=False)
    assert seen[0]["legal"] < 8 and seen[1]["legal"] == 9
    assert seen[0]["episodes"] == seen[1]["episodes"] and seen[0]["loss"] == seen[1]["loss"]
    other = dataclasses.replace(config, test_env=tz.from_pgx("connect_four"))
    with pytest.raises(ValueError, match=r"test_env=connect_four with 7 actions .* tic_tac_toe, which has 9"):
        init_loop(other, env, network, key=jax.random.key(0))


@pytest.mark.slow
def test_a_network_of_the_wrong_shape_is_refused(config, env):
    for network, message in [
        (tz.MLP((3, 3, 2), 10, key=jax.random.key(0)), r"logits of shape \(10,\).* expected logits of shape \(9,\)"),
        (tz.MLP((3, 3, 5), 9, key=jax.random.key(0)), r"\(3, 3, 2\)|\[3, 3, 2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            init_loop(config, env, network, key=jax.random.key(0))
