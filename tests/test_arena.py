"""Matches: sides, openings, counts, trees."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz
from tz.matches._playing import Games, _play_move

pytestmark = pytest.mark.slow

STRONG = tz.MCTS(60, 80, root=tz.PlainRoot(), temperature=0.0)
WEAK = tz.MCTS(2, 8, root=tz.PlainRoot(), temperature=1.0)
compiled_match = eqx.filter_jit(tz.play_match)
ONE, TWO = (tz.data_mesh(jax.devices()[:number]) for number in (1, 2))
OPTIONS = {"num_games": 40, "opening_moves": 2, "max_moves": 9, "key": jax.random.key(0), "mesh": ONE}


def backwards(state, metadata, key):
    """An evaluator that prefers the first cells, whatever is on them."""
    return jnp.arange(9.0)[::-1], jnp.float32(0)


BETTER, WORSE = tz.Player(STRONG, tz.uniform_evaluator), tz.Player(WEAK, backwards)
UNIFORM = tz.Player(WEAK, tz.uniform_evaluator)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@eqx.filter_jit
def played(env, lists):
    """The positions after lists of moves."""
    return jax.vmap(lambda moves: tz.play_moves(env, moves))(lists)


@pytest.fixture(scope="module")
def match(env):
    return tz.play_match(env, BETTER, WORSE, **OPTIONS)


def test_the_stronger_player_wins_and_every_game_is_counted_once(match):
    assert match.finished.all()
    assert match.wins + match.draws + match.losses == 40
    assert match.score > 0.75, "0.94 in 2,000 games, where 40 have a standard error of 0.04"
    np.testing.assert_allclose(match.score, (float(match.wins) + float(match.draws) / 2) / 40, rtol=1e-6)


def test_both_sides_of_every_opening_are_played(env, match):
    pairs = match.player_id.reshape(-1, 2)
    np.testing.assert_array_equal(pairs[:, 0], 1 - pairs[:, 1])
    board = match.opening[0]._x.board.reshape(20, 2, 9)
    np.testing.assert_array_equal(board[:, 0], board[:, 1])
    assert ((board != -1).sum(-1) == 2).all(), "two plies were played"
    np.testing.assert_array_equal(match.opening[0].current_player.reshape(20, 2)[:, 0], pairs[:, 0])


def test_games_differ(match):
    games = {
        tuple(np.append(board, moves)) for board, moves in zip(match.opening[0]._x.board, match.actions, strict=True)
    }
    assert len(games) > 20


def test_a_replayed_game_ends_as_it_was_counted(env, match):
    for game in range(6):
        states = tz.replay_game(env, match, game)
        assert states.terminated[-1] and not states.terminated[:-1].any()
        assert len(states.terminated) == 1 + (match.actions[game] >= 0).sum()
        assert states.rewards[-1][match.player_id[game]] == match.returns[game]


@pytest.mark.once
def test_swapping_the_players_swaps_the_result(env, match):
    """From the same openings, the better player has the same score as the first and as the second player."""
    swapped = tz.play_match(env, WORSE, BETTER, **OPTIONS)
    assert match.score > 0.6 > 0.4 > swapped.score
    np.testing.assert_array_equal(match.opening[0]._x.board, swapped.opening[0]._x.board)


@pytest.mark.once
def test_unfinished_games_count_in_nothing(env):
    match = compiled_match(env, UNIFORM, UNIFORM, num_games=10, opening_moves=0, max_moves=4, key=jax.random.key(0))
    assert not match.finished.any()
    assert match.wins == match.draws == match.losses == 0
    assert match.score == 0.5 and match.interval() == (0, 1), "nothing is known"


@pytest.mark.once
def test_each_player_follows_the_game_with_a_tree_of_its_own(env):
    """After every move, the current position is the root of both trees, and only the mover has searched."""
    players = (
        tz.Player(STRONG, tz.uniform_evaluator),
        tz.Player(dataclasses.replace(STRONG, max_nodes=70), tz.uniform_evaluator),
    )
    position = jax.vmap(env.init)(jax.random.split(jax.random.key(0), 3))
    trees = tuple(jax.vmap(lambda *p, player=player: tz.init_search(player.mcts, *p))(*position) for player in players)
    games = Games(*position, trees, jnp.zeros(3), jax.random.split(jax.random.key(1), 3))
    first = position[1].cur_player_id
    ply = eqx.filter_jit(_play_move)
    for step in range(4):
        games, _ = ply(env, players, games, first, jnp.int32(step))
        boards = [tree.tree.state._x.board[:, 0] for tree in games.trees]
        for board in boards:
            np.testing.assert_array_equal(board, games.env_state._x.board)
        sizes = [np.asarray(tree.tree.size) for tree in games.trees]
        # The player who searched keeps a subtree; the other has at most the rest of its last search.
        assert (sizes[step % 2] > 1).all() and ((sizes[1 - step % 2] == 1).all() or step > 0)


@pytest.mark.parametrize("num_games", [0, 7])
def test_a_number_of_games_without_both_sides_is_refused(env, num_games):
    player = tz.Player(WEAK, tz.uniform_evaluator)
    with pytest.raises(ValueError, match=f"found num_games={num_games}, expected an even number of at least 2"):
        tz.play_match(env, player, player, num_games=num_games, key=jax.random.key(0))


def test_an_opening_does_not_end_the_game():
    env = tz.from_pgx("tic_tac_toe")
    opening = jax.jit(jax.vmap(lambda key: tz.random_opening(env, 9, key=key)))(jax.random.split(jax.random.key(0), 64))
    assert not opening[1].terminated.any()


@pytest.mark.once
def test_openings_can_be_given(env):
    """Each list of moves is played from both sides, on any number of devices; lists may be of different lengths."""
    player = UNIFORM
    openings = played(env, jnp.array([[4, 0, -1, -1, -1], [0, 1, 2, -1, -1], [-1] * 5, [3, -1, -1, -1, -1]]))
    options = {"num_games": 8, "openings": openings, "max_moves": 9, "key": jax.random.key(0)}
    match, split = (tz.play_match(env, player, player, mesh=mesh, **options) for mesh in (ONE, TWO))
    chex.assert_trees_all_equal(*jax.device_get((match, split)))
    filled = (match.opening[0]._x.board != -1).sum(-1)
    np.testing.assert_array_equal(filled, [2, 2, 3, 3, 0, 0, 1, 1])
    assert (match.opening[0]._x.board[::2, 4] != -1).tolist() == [True, False, False, False]
    assert match.finished.all() and (match.player_id[::2] != match.player_id[1::2]).all()
    league = tz.round_robin(env, [player, player], mesh=ONE, **options)
    assert league.wins.sum() + league.draws[0, 1] == 8
    with pytest.raises(ValueError, match=r"found openings of shape .* for 6 games, expected \(3,\)"):
        tz.play_match(env, player, player, num_games=6, openings=openings, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"found openings of shape .* for 16 games, expected \(8,\)"):
        tz.play_match(env, player, player, num_games=16, openings=openings, key=jax.random.key(0))


def test_a_list_with_an_illegal_move_is_refused(env):
    play = eqx.filter_jit(lambda moves: tz.play_moves(env, moves)[1].terminated)
    assert not play(jnp.array([4, 3, 2]))
    refused = eqx.EquinoxRuntimeError, ValueError  # the second with JAX 0.7
    for moves in ([4, 4, 2], [4, 5, 4], [4, 9, 2], [4, -2, 2]):
        with pytest.raises(refused, match="play_moves: found a move that is not legal in its position"):
            jax.block_until_ready(play(jnp.array(moves)))


def test_random_starts_are_of_every_length(env):
    starts = jax.jit(jax.vmap(tz.random_starts(env, 3).init))(jax.random.split(jax.random.key(0), 400))
    plies = np.asarray((starts[0]._x.board != -1).sum(-1))
    counts = np.bincount(plies, minlength=4)
    assert len(counts) == 4 and (abs(counts - 100) < 4 * np.sqrt(400 * 3 / 16)).all()
    np.testing.assert_array_equal(starts[1].action_mask.sum(-1), 9 - plies)
    with pytest.raises(ValueError, match="found max_moves=0, expected at least 1"):
        tz.random_starts(env, 0)


class Warm(eqx.Module):
    """A temperature of 1 for the first moves, whose number is an argument of the compiled program, and then 0."""

    moves: jax.Array

    def __call__(self, num_moves):
        return jnp.where(num_moves < self.moves, 1.0, 0.0)


@pytest.mark.once
def test_a_temperature_for_the_first_moves_makes_games_differ(env):
    """Without random openings there is one game for each side at temperature 0, and many with a temperature."""
    prefer = lambda state, metadata, key: (jnp.arange(9.0) / 4, jnp.float32(0))

    def games(num_warm):
        mcts = dataclasses.replace(STRONG, temperature=Warm(jnp.int32(num_warm)))
        player, options = tz.Player(mcts, prefer), {"num_games": 16, "opening_moves": 0, "max_moves": 9}
        match = compiled_match(env, player, player, key=jax.random.key(0), **options)
        return {tuple(moves) for moves in np.asarray(match.actions)}, {tuple(m[:2]) for m in np.asarray(match.actions)}

    assert len(games(0)[0]) <= 2
    varied, starts = games(2)
    assert len(starts) > 4 and len(varied) >= len(starts)


def fake_match(points, finished=None):
    """A match whose first player scored `points` in each game."""
    returns = 2 * jnp.asarray(points, jnp.float32) - 1
    finished = jnp.ones(len(points), bool) if finished is None else jnp.asarray(finished)
    return tz.matches.MatchResult(
        returns, finished, jnp.arange(len(points)) % 2, None, jnp.zeros((len(points), 1), jnp.int32)
    )


@pytest.mark.parametrize(("rate", "most"), [(0.5, 0.96), (0.8, 0.97), (0.95, 0.995)])
def test_the_interval_holds_the_true_score_at_the_stated_rate(rate, most):
    """4,000 matches of 30 openings, half of whose pairs are equal. Near 1 the interval is wider than stated."""
    rng = np.random.default_rng(0)
    wins = rng.random((4000, 30, 2)) < rate
    alike = rng.random((4000, 30)) < 0.5
    wins[..., 1] = np.where(alike, wins[..., 0], wins[..., 1])
    low, high = jax.vmap(lambda points: fake_match(points).interval())(jnp.asarray(wins.reshape(4000, 60)))
    inside = ((low <= rate) & (rate <= high)).mean()
    assert 0.93 < inside < most


def test_the_interval_of_a_match_won_to_the_last_game_is_not_a_point():
    low, high = fake_match(np.ones(40)).interval()
    assert 0.8 < low < 0.95 and high == 1
    assert fake_match(np.ones(400)).interval()[0] > low
    low, high = fake_match(np.ones(40), np.zeros(40, bool)).interval()
    assert (low, high) == (0, 1), "nothing was finished, nothing is known"


@pytest.mark.once
def test_a_round_robin_counts_every_pair_from_both_ends(env):
    players = [WORSE, BETTER, BETTER]
    league = tz.round_robin(env, players, **OPTIONS)
    games = league.wins + league.wins.T + league.draws
    np.testing.assert_array_equal(games, 40 * (1 - np.eye(3)))
    np.testing.assert_array_equal(league.draws, league.draws.T)
    ratings = league.ratings()
    assert ratings.elo[0] == 0 and (ratings.elo[1:] > 100).all()
    for bad, message in [(players[:1], r"len\(players\)=1, expected at least 2"), ([], r"len\(players\)=0")]:
        with pytest.raises(ValueError, match=message):
            tz.round_robin(env, bad, **OPTIONS)
    with pytest.raises(ValueError, match="found num_games=0, expected an even number"):
        tz.round_robin(env, players, **OPTIONS | {"num_games": 0})


def test_an_opponent_of_another_game_is_refused(env):
    stranger = tz.Player(WEAK, lambda state, metadata, key: (jnp.zeros(7), jnp.float32(0)))
    player = tz.Player(WEAK, tz.uniform_evaluator)
    with pytest.raises(
        ValueError, match=r"tic_tac_toe: found a player that gives logits of shape \(7,\), expected \(9,\)"
    ):
        tz.play_match(env, player, stranger, num_games=2, key=jax.random.key(0))
    for stranger in tz.load_agent("connect_four"), tz.Player(WEAK, tz.RolloutEvaluator(tz.from_pgx("connect_four"))):
        with pytest.raises(
            ValueError, match="tic_tac_toe: found a player whose evaluator raised .* one of another game"
        ):
            tz.play_match(env, stranger, player, num_games=2, key=jax.random.key(0))


def test_openings_that_are_over_count_in_nothing(env):
    """The second of four openings is already won, so six games count."""
    openings = played(env, jnp.array([[4, -1, -1, -1, -1], [0, 3, 1, 4, 2], [8, 2, -1, -1, -1], [8, -1, -1, -1, -1]]))
    options = {"num_games": 8, "openings": openings, "max_moves": 9, "key": jax.random.key(0)}
    match = tz.play_match(env, UNIFORM, UNIFORM, mesh=ONE, **options)
    assert match.finished.tolist() == [True, True, False, False, True, True, True, True]
    assert match.wins + match.draws + match.losses == 6 and (match.actions[2:4] == -1).all()


def test_the_random_player_favours_no_legal_move():
    env = tz.from_pgx("tic_tac_toe")
    player = tz.random_player()

    @jax.jit
    @jax.vmap
    def first_move(key):
        state, metadata = env.step(env.init(key)[0], 4)
        searched = tz.search(player.mcts, env, player.evaluator, tz.init_search(player.mcts, state, metadata), key=key)
        return tz.choose_action(player.mcts, searched, key=key)

    counts = np.bincount(first_move(jax.random.split(jax.random.key(0), 4000)), minlength=9)
    assert counts[4] == 0, "taken"
    expected, deviation = 4000 / 8, np.sqrt(4000 * 1 / 8 * 7 / 8)
    assert (abs(np.delete(counts, 4) - expected) < 4 * deviation).all(), counts
