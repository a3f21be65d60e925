"""Matches and testers: sides, openings, counts, trees."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz
from tz.arena import _Games, _play_ply
from tz.testers import OpponentTester, TwoPlayerTester

STRONG = tz.MCTS(60, 80, root=tz.PlainRoot(), temperature=0.0)
WEAK = tz.MCTS(2, 8, root=tz.PlainRoot(), temperature=1.0)
compiled_match = eqx.filter_jit(tz.play_match)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def match(env):
    players = tz.Player(STRONG, tz.uniform_evaluator), tz.Player(WEAK, tz.uniform_evaluator)
    return compiled_match(env, *players, num_games=40, opening_plies=2, max_steps=9, key=jax.random.key(0))


def test_the_stronger_player_wins_and_every_game_is_counted_once(match):
    assert match.finished.all()
    assert match.wins + match.draws + match.losses == 40
    assert match.score > 0.75, "0.90 in 2,000 games, where 40 have a standard error of 0.04"
    np.testing.assert_allclose(match.score, (match.wins + match.draws / 2) / 40)


def test_both_sides_of_every_opening_are_played(env, match):
    pairs = match.player_id.reshape(-1, 2)
    np.testing.assert_array_equal(pairs[:, 0], 1 - pairs[:, 1])
    board = match.opening._x.board.reshape(20, 2, 9)
    np.testing.assert_array_equal(board[:, 0], board[:, 1])
    assert ((board != -1).sum(-1) == 2).all(), "two plies were played"
    np.testing.assert_array_equal(match.opening.current_player.reshape(20, 2)[:, 0], pairs[:, 0])


def test_games_differ(match):
    games = {tuple(np.append(board, moves)) for board, moves in zip(match.opening._x.board, match.actions, strict=True)}
    assert len(games) > 20


def test_a_replayed_game_ends_as_it_was_counted(env, match):
    for game in range(6):
        states = tz.replay_game(env, match, game)
        assert states.terminated[-1] and not states.terminated[:-1].any()
        assert len(states.terminated) == 1 + (match.actions[game] >= 0).sum()
        assert states.rewards[-1][match.player_id[game]] == match.returns[game]


def test_swapping_the_players_swaps_the_result(env):
    """From the same openings, the better player scores as much whether it is named first or second."""
    better = tz.Player(STRONG, tz.uniform_evaluator)
    mover = lambda state, metadata, key: (jnp.arange(9.0)[::-1], jnp.float32(0))
    worse = tz.Player(dataclasses.replace(STRONG, num_simulations=1), mover)
    options = {"num_games": 20, "max_steps": 9, "opening_plies": 2, "key": jax.random.key(3)}
    one, other = compiled_match(env, better, worse, **options), compiled_match(env, worse, better, **options)
    assert one.score > 0.6 > 0.4 > other.score
    np.testing.assert_array_equal(one.opening._x.board, other.opening._x.board)


def test_unfinished_games_count_in_nothing(env):
    player = tz.Player(WEAK, tz.uniform_evaluator)
    match = compiled_match(env, player, player, num_games=10, opening_plies=0, max_steps=4, key=jax.random.key(0))
    assert not match.finished.any()
    assert match.wins == match.draws == match.losses == match.score == 0


def test_each_player_follows_the_game_with_a_tree_of_its_own(env):
    """After every ply both trees have the position on the board as their root, and only the mover has searched."""
    players = (
        tz.Player(STRONG, tz.uniform_evaluator),
        tz.Player(dataclasses.replace(STRONG, max_nodes=70), tz.uniform_evaluator),
    )
    position = jax.vmap(env.init)(jax.random.split(jax.random.key(0), 3))
    trees = tuple(jax.vmap(lambda *p, player=player: tz.init_search(player.mcts, *p))(*position) for player in players)
    games = _Games(*position, trees, jnp.zeros(3), jax.random.split(jax.random.key(1), 3))
    first = position[1].cur_player_id
    ply = eqx.filter_jit(_play_ply)
    for step in range(4):
        games, _ = ply(env, players, games, first, jnp.int32(step))
        boards = [tree.tree.state._x.board[:, 0] for tree in games.trees]
        for board in boards:
            np.testing.assert_array_equal(board, games.env_state._x.board)
        sizes = [np.asarray(tree.tree.size) for tree in games.trees]
        # The one who searched keeps a subtree; the other has at most what is left of its last search.
        assert (sizes[step % 2] > 1).all() and ((sizes[1 - step % 2] == 1).all() or step > 0)


@pytest.mark.parametrize("num_games", [0, 7])
def test_a_number_of_games_without_both_sides_is_refused(env, num_games):
    player = tz.Player(WEAK, tz.uniform_evaluator)
    with pytest.raises(ValueError, match="must be even and at least 2"):
        tz.play_match(env, player, player, num_games=num_games, key=jax.random.key(0))
    for tester in (lambda n: TwoPlayerTester(n), lambda n: OpponentTester(tz.random_player(), "random", n)):
        with pytest.raises(ValueError, match="num_episodes must be even"):
            tester(num_games)


def test_an_opening_does_not_end_the_game():
    env = tz.from_pgx("tic_tac_toe")
    opening = jax.jit(jax.vmap(lambda key: tz.random_opening(env, 9, key=key)))(jax.random.split(jax.random.key(0), 64))
    assert not opening[1].terminated.any()


def test_the_best_network_is_replaced_only_by_a_better_one(env):
    class Rigged(eqx.Module):
        """Knows the value of a won position only if `skill` is set: an evaluator that can be weak or strong."""

        skill: jax.Array

        def __call__(self, env_state, metadata, key):
            logits, value = tz.RolloutEvaluator(env, num_rollouts=8)(env_state, metadata, key)
            return logits, self.skill * value

    strong, weak = Rigged(jnp.float32(1)), Rigged(jnp.float32(-1))
    tester = TwoPlayerTester(num_episodes=20, opening_plies=2, max_steps=9)
    mcts = tz.MCTS(12, 24, root=tz.PlainRoot(), temperature=0.0)
    mesh = tz.data_mesh(jax.devices()[:1])
    test = lambda new, best: tester.test(env, mcts, new, best, key=jax.random.key(0), mesh=mesh)
    best, metrics = test(strong, tester.init(weak, mesh=mesh))
    assert metrics["best_replaced"] == 1 and metrics["best_score"] > 0.6 and best.skill == 1
    best, metrics = test(weak, strong)
    assert metrics["best_replaced"] == 0 and metrics["best_score"] < 0.4 and best.skill == 1
    assert metrics["best_wins"] + metrics["best_draws"] + metrics["best_losses"] == 20


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
