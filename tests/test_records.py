"""Records of the user reach the loss from self-play, with facts that are known only at the end of an episode."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz

pytestmark = pytest.mark.slow

TABLES = draw_tables(8, end_rate=0.05)
ENV, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)
NUM_GAMES, CAPACITY = 3, 24
MESH = tz.data_mesh(jax.devices()[:1])


def record(row, searched, metadata):
    """Records the row, the search's results, the number of legal actions, a Python number, and an empty array.

    The states of pgx, without their observations, have such empty arrays too.
    """
    weights, legal = tz.action_weights(MCTS, searched), jnp.sum(metadata.action_mask, dtype=jnp.int8)
    return {"row": row, "weights": weights, "legal": legal, "three": 3, "empty": jnp.zeros((2, 0), jnp.int8)}


def record_end(row, metadata):
    return row, metadata.terminated


MCTS = tz.MCTS(6, root=tz.Dirichlet(epsilon=0.6), temperature=2.0)


@functools.cache
def games_and_rings():
    """Returns chunks of 5, 7, 1, 9, ... moves of each game, and the rings after each chunk."""
    buffer = tz.EpisodeReplayBuffer(CAPACITY, td_lambda=0.7)
    options = {"max_episode_moves": 6, "record": record, "record_end": record_end}

    @eqx.filter_jit
    def play(games, num_moves):
        one = lambda game: tz.collect(MCTS, ENV, EVALUATOR, game, num_moves=num_moves, **options)
        return jax.vmap(one)(games)

    add = jax.jit(jax.vmap(lambda ring, moves: buffer.add(ring, moves, discount=0.9)))
    games = jax.vmap(lambda key: tz.init_collect(MCTS, ENV, key=key))(jax.random.split(jax.random.key(0), NUM_GAMES))
    chunks, rings, states = [], None, []
    for num_moves in (5, 7, 1, 7, 5, 7, 1):
        games, moves = play(games, num_moves)
        if rings is None:
            rings = jax.vmap(buffer.init)(moves)
        rings = add(rings, moves)
        chunks.append(moves)
        states.append(rings)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *jax.device_get(chunks))
    return buffer, whole, np.cumsum([5, 7, 1, 7, 5, 7, 1]), states


def expected_ends(whole, game, length):
    """Computes by plain loops, for the first moves of a game: moves left, outcome, cut off, and the final record."""
    rows = []
    for start in range(length):
        outcome, scale, mover = 0.0, 1.0, whole.player[game, start]
        for t in range(start, length):
            sign = 1.0 if whole.player[game, t] == mover else -1.0
            if whole.truncated[game, t]:
                outcome += scale * sign * whole.action_value[game, t]
            else:
                outcome += scale * whole.rewards[game, t, mover]
            scale *= 0.9
            if whole.terminated[game, t] or whole.truncated[game, t]:
                final = [x[game, t] for x in whole.final]
                rows.append((t - start + 1, outcome, bool(whole.truncated[game, t]), mover, *final))
                break
        else:
            rows.append(None)
    return rows


def test_each_sample_has_its_record_and_the_end_of_its_episode():
    """Compares all rows of all rings after every chunk with plain loops over the moves."""
    buffer, whole, lengths, states = games_and_rings()
    num_cut, num_checked = 0, 0
    for length, rings in zip(lengths, states, strict=True):
        known, size = np.asarray(rings.num_known), np.asarray(rings.size)
        if known.sum() == 0:
            continue
        samples = jax.device_get(buffer.sample(rings, 256, key=jax.random.key(int(length))))
        ends = [expected_ends(whole, game, length) for game in range(NUM_GAMES)]
        # The policy of the search identifies a row, as no other position of these games has it.
        where = {
            whole.extra["weights"][game, t].tobytes() + whole.value[game, t].tobytes(): (game, t)
            for game in range(NUM_GAMES)
            for t in range(length - size[game], length - size[game] + known[game])
        }
        seen = set()
        for i in range(256):
            candidates = [
                (game, t)
                for game, t in where.values()
                if (whole.extra["weights"][game, t] == samples.extra["weights"][i]).all()
                and whole.extra["row"][game, t] == samples.extra["row"][i]
                and ends[game][t][0] == samples.end.moves_left[i]
                and np.isclose(ends[game][t][1], samples.end.outcome[i], atol=1e-5)
            ]
            assert candidates, "a row with these records and this end was played"
            game, t = candidates[0]
            seen.add((game, t))
            np.testing.assert_array_equal(samples.policy[i], whole.policy[game, t])
            np.testing.assert_array_equal(samples.extra["weights"][i], samples.policy[i])
            assert samples.extra["legal"][i] == samples.action_mask[i].sum() and samples.extra["three"][i] == 3
            assert samples.observation[i].argmax() == samples.extra["row"][i]
            _, _, truncated, player, final_row, terminated = ends[game][t]
            end = samples.end
            assert (end.truncated[i], end.player[i]) == (truncated, player)
            assert (end.final[0][i], end.final[1][i]) == (final_row, terminated)
            assert terminated != truncated
            num_cut += truncated
        num_checked += len(seen)
    assert num_checked > 100 and num_cut > 50


def test_nothing_is_kept_that_was_not_asked_for():
    game = tz.init_collect(MCTS, ENV, key=jax.random.key(0))
    moves = jax.eval_shape(lambda: tz.collect(MCTS, ENV, EVALUATOR, game, num_moves=2)[1])
    ring = tz.EpisodeReplayBuffer(4).init(moves)
    assert moves.extra is moves.final is ring.extra is ring.ends is None


def test_a_record_that_changes_is_named():
    buffer = tz.EpisodeReplayBuffer(8)
    game = tz.init_collect(MCTS, ENV, key=jax.random.key(0))
    collect = lambda **options: jax.eval_shape(
        lambda: tz.collect(MCTS, ENV, EVALUATOR, game, num_moves=2, **options)[1]
    )
    ring = jax.eval_shape(buffer.init, collect(record=lambda row, searched, metadata: row))
    for other, message in [
        ({}, r"trajectory.extra with rows of nothing, expected int32\[\] as in the ring"),
        ({"record": lambda *args: jnp.zeros(3)}, r"rows of float32\[3\], expected int32\[\]"),
        (
            {"record": lambda row, *args: row, "record_end": lambda row, metadata: row},
            r"trajectory.final with rows of int32\[\], expected nothing",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda r, moves: buffer.add(r, moves, discount=1.0), ring, collect(**other))


def board_sample(key):
    keys = jax.random.split(key, 4)
    board, held = jax.random.normal(keys[0], (3, 3, 2)), jax.random.normal(keys[1], (3, 3))
    policy = jax.nn.softmax(jax.random.normal(keys[2], (9,)))
    one = jnp.float32(1)
    end = tz.learn.EpisodeEnd(jnp.int32(2), one, jnp.bool_(False), jnp.int32(0), held)
    return tz.Sample(board, policy > 0.1, policy, one, one, one, extra=board[..., 0], end=end)


def turn_both(sample, turn):
    end = dataclasses.replace(sample.end, final=turn(sample.end.final))
    return dataclasses.replace(sample, extra=turn(sample.extra), end=end)


@pytest.mark.parametrize("index", range(8))
def test_records_turn_with_the_board(index):
    sample = board_sample(jax.random.key(0))
    turned = tz.learn.dihedral(sample, jnp.int32(index), turn_records=turn_both)
    np.testing.assert_array_equal(turned.extra, turned.observation[..., 0])
    like_policy = dataclasses.replace(sample, policy=sample.end.final.reshape(9))
    expected = tz.learn.dihedral(like_policy, jnp.int32(index), turn_records=lambda sample, turn: sample)
    np.testing.assert_array_equal(turned.end.final.reshape(9), expected.policy)
    assert turned.end.moves_left == 2


def test_the_mirror_turns_records_too():
    sample = board_sample(jax.random.key(0))
    sample = dataclasses.replace(sample, policy=sample.policy[:3], action_mask=sample.action_mask[:3])
    mirrored = tz.learn.mirror(sample, turn_records=turn_both)
    np.testing.assert_array_equal(mirrored.extra, mirrored.observation[..., 0])
    np.testing.assert_array_equal(mirrored.end.final, sample.end.final[:, ::-1])


@pytest.mark.parametrize("augment", [tz.random_dihedral, tz.random_mirror])
def test_records_that_nobody_says_how_to_turn_are_refused(augment):
    sample = board_sample(jax.random.key(0))
    if augment is tz.random_mirror:
        sample = dataclasses.replace(sample, policy=sample.policy[:3], action_mask=sample.action_mask[:3])
    for records in ({}, {"extra": None}, {"end": None}):
        with pytest.raises(ValueError, match="a sample with records, expected turn_records"):
            augment(dataclasses.replace(sample, **records), key=jax.random.key(0))
    augment(dataclasses.replace(sample, extra=None, end=None), key=jax.random.key(0))


def three_in_a_row(state, metadata):
    """The holder of each cell of a board, from the perspective of player 0."""
    board = state._x.board.reshape(3, 3)  # colour 0 is the player who began, not player 0
    began = (state.current_player + state._x.color) % 2
    return jnp.where(board < 0, 0, jnp.where(board == began, 1, -1)).astype(jnp.int8)[..., None]


def turn_final(sample, turn):
    return dataclasses.replace(sample, end=dataclasses.replace(sample.end, final=turn(sample.end.final)))


@pytest.mark.once
def test_a_network_learns_who_holds_each_cell_in_the_end():
    """With a record of the final board that symmetries turn, a third output, and a loss that includes it."""
    env = tz.from_pgx("tic_tac_toe")
    network = tz.AZResNet(env.observation.shape, 9, 1, 16, num_planes=1, key=jax.random.key(0))
    config = tz.TrainConfig(
        mcts=tz.MCTS(4),
        optimizer=optax.adam(1e-2),
        replay=tz.EpisodeReplayBuffer(40),
        num_games=16,
        train_batch_size=64,
        moves_per_epoch=20,
        train_steps_per_epoch=20,
        augment=functools.partial(tz.random_dihedral, turn_records=turn_final),
        loss=functools.partial(tz.learn.ownership_loss, weight=1.0),
        record_end=three_in_a_row,
    )
    rows, state = [], tz.init_loop(config, env, network, key=jax.random.key(1), mesh=MESH)
    state = tz.train_loop(config, env, state, num_epochs=4, sinks=[rows.append], progress=False, mesh=MESH)
    parts = [rows[-1][name] for name in ("policy_loss", "value_loss", "l2_loss", "ownership_loss")]
    assert rows[-1]["loss"] == pytest.approx(sum(parts), rel=1e-5)
    # A disc that is on the board stays there, and the network sees whose it is.
    batch = config.replay.sample(state.replay, 256, key=jax.random.key(2))
    planes = jax.vmap(state.train.network)(batch.observation)[2][..., 0]
    mine, theirs = batch.observation[..., 0], batch.observation[..., 1]
    sign = jnp.where(batch.end.player == 0, 1.0, -1.0)[:, None, None]
    held = batch.end.final[..., 0].astype(jnp.float32) * sign
    assert (held[mine] == 1).all() and (held[theirs] == -1).all(), "the record is of the same episode"
    assert jnp.mean((jnp.tanh(planes) - held) ** 2) < 0.6 * jnp.mean(held**2), "better than to know nothing"
    assert jnp.mean(planes[mine] > 0) > 0.9 and jnp.mean(planes[theirs] < 0) > 0.9


OUTPUTS = {
    "a tuple of three": lambda observation: (jnp.zeros(4), jnp.float32(0.5), jnp.zeros(2)),
    "a dict": lambda observation: {"value": jnp.float32(0.5), "more": jnp.zeros(2), "logits": jnp.zeros(4)},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_network_may_return_more_than_a_search_asks_for(name):
    logits, value = tz.NetworkEvaluator(OUTPUTS[name], ENV.observe)(*ENV.init(None), jax.random.key(0))
    assert logits.shape == (4,) and value == 0.5


@pytest.mark.parametrize("output", [jnp.zeros(4), (jnp.zeros(4),), {"policy": jnp.zeros(4)}, None])
def test_an_output_without_a_policy_and_a_value_is_refused(output):
    with pytest.raises(ValueError, match=r"network: found an output that is .*, expected \(logits, value, ...\)"):
        tz.nn.policy_and_value(output)


def test_an_output_or_a_record_that_a_loss_asks_for_in_vain_is_named():
    network = tz.MLP((48,), 4, width=4, key=jax.random.key(0))
    state, one = tz.init_train(optax.sgd(0.1), network), jnp.ones(2)
    batch = jax.vmap(tz.Sample)(jnp.ones((2, 48)), jnp.ones((2, 4), bool), jnp.ones((2, 4)) / 4, one, one, one)
    for loss, words in [
        (lambda network, output, sample: (output["ownership"].sum(), {}), "TypeError"),
        (tz.learn.ownership_loss, "found sample.end=None|IndexError"),
        (lambda network, output, sample: (sample.end.outcome, {}), "AttributeError"),
    ]:
        with pytest.raises(ValueError, match=f"train_step: found a loss that raised .*{words}.*whose end is None"):
            tz.train_step(optax.sgd(0.1), loss, state, batch)


def test_a_ring_of_another_size_keeps_the_ends_of_its_rows():
    """A larger ring keeps every known row, a smaller one the newest. Each sample has the end of its own episode."""
    _, _, _, states = games_and_rings()
    rings = states[-1]
    for capacity in (10, 40):
        other = tz.EpisodeReplayBuffer(capacity, td_lambda=0.7)
        resized = jax.vmap(other.resize)(rings)
        before, after = (
            jax.device_get(buffer.sample(ring, 400, key=jax.random.key(0)))
            for buffer, ring in ((tz.EpisodeReplayBuffer(CAPACITY), rings), (other, resized))
        )
        rows = [
            {
                (x.extra["weights"][i].tobytes(), *(leaf[i].tobytes() for leaf in jax.tree.leaves(x.end)))
                for i in range(400)
            }
            for x in (before, after)
        ]
        assert len(rows[1]) > 10 and (rows[1] == rows[0] if capacity == 40 else rows[1] < rows[0])
