"""Games on the host: moves by name, agents and functions as players, undo, and analyses as data."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz
import tz.play

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def agent():
    return tz.Player(tz.without_exploration(tz.MCTS(64, selector=tz.PUCT())), tz.uniform_evaluator)


def test_a_game_between_people(env):
    game = tz.play.Game(env)
    for move in ("b2", "A1", 8, np.int32(2)):
        game.move(move)
    assert game.names == ("b2", "a1", "c1", "c3")


def test_the_winner_has_the_returns_in_the_order_of_moving(env):
    for seed in range(4):  # pgx draws which player moves first
        game = tz.play.Game(env, key=jax.random.key(seed))
        for name in ["a1", "a2", "b1", "b2", "c1"]:
            assert not game.is_over
            game.move(name)
        assert game.is_over and game.returns == (1.0, -1.0) and game.legal_moves() == {}
        with pytest.raises(ValueError, match=r"Game.move: found a game that is over, expected one that is not; undo"):
            game.move("c3")
        game.undo()
        assert game.names == ("a1", "a2", "b1", "b2") and game.returns == (0.0, 0.0) and "c1" in game.legal_moves()


def test_an_agent_takes_a_win_and_says_what_it_expects(env, agent):
    game = tz.play.Game(env, [None, agent])
    game.move("a1")
    (first,) = game.play()
    game.go_back(0)
    assert (game.move("a1"), *game.play()) == ("a1", first), "the same key and moves make the same game"
    game = tz.play.Game(env, analyst=agent)
    for name in ["a1", "a2", "b1", "b2"]:
        game.move(name)
    analysis = game.suggest()
    assert analysis.name == "c1" and analysis.line == ("c1",) and analysis.moves[0].name == "c1"
    assert analysis.value > 0.5 and analysis.moves[0].q == 1.0
    assert {move.name for move in analysis.moves} == set(game.legal_moves())
    assert sum(move.visits for move in analysis.moves) == analysis.num_simulations == 64
    assert sum(move.policy for move in analysis.moves) == pytest.approx(1)
    assert game.suggest() is analysis
    assert tz.play.analyse(env, agent, game.position).name == "c1"


def test_the_line_is_one_that_can_be_played(env, agent):
    game = tz.play.Game(env, analyst=agent)
    line = game.suggest().line
    assert len(line) >= 2
    for name in line:
        game.move(name)


def test_a_search_is_compiled_once(env):
    @chex.assert_max_traces(n=3)  # twice for shapes, once to compile
    def evaluator(state, metadata, key):
        return jnp.zeros(9), jnp.float32(0)

    game = tz.play.Game(env, [tz.Player(tz.MCTS(4, root=tz.PlainRoot()), evaluator)] * 2)
    game.play()
    assert game.is_over


def test_functions_play_and_may_name_their_moves(env):
    def first_free(state):
        return int(np.argmax(np.asarray(state._x.board) < 0))

    game = tz.play.Game(env, [first_free, lambda state: "C1"])
    with pytest.raises(ValueError, match=r"the function <lambda>, expected one; find_move: found 'C1', which is not"):
        game.play()
    assert game.names == ("a3", "c1", "b3")
    game.set_players([first_free, None])
    game.move("a1")
    game.play()
    assert game.is_over and game.returns == (1.0, -1.0)


def test_undo_goes_to_the_last_move_of_a_person(env):
    first_free = lambda state: int(np.argmax(np.asarray(state._x.board) < 0))
    game = tz.play.Game(env, [first_free, None])
    assert game.play() == ("a3",) and game.play() == ()
    game.move("a1")
    game.play()
    assert game.names == ("a3", "a1", "b3")
    assert game.undo() == 2 and game.names == ("a3",)
    assert game.undo() == 0 and game.names == ("a3",)
    alone = tz.play.Game(env, [first_free, first_free])
    alone.play()
    assert alone.undo() == 1 and not alone.is_over


@pytest.mark.parametrize("seats", [(None, "other"), ("other", None)])
def test_the_person_resigns_whoever_is_to_move(env, seats):
    other = lambda state: int(np.argmax(np.asarray(state._x.board) < 0))
    game = tz.play.Game(env, [other if seat else None for seat in seats])
    person = seats.index(None)
    if person == 0:
        game.move("b2")
    assert game.to_move != person
    game.resign()
    assert game.returns[person] == -1.0 and game.winner == 1 - person
    assert game.undo() == 0 and not game.is_over


def test_a_temperature_may_depend_on_the_number_of_moves(env):
    mcts = tz.MCTS(64, root=tz.PlainRoot(), persist_tree=False, temperature=lambda n: jnp.where(n >= 4, 0.0, 100.0))
    player = tz.Player(mcts, tz.uniform_evaluator)
    names = set()
    for seed in range(8):
        game = tz.play.Game(env, [player, None], key=jax.random.key(seed))
        for name in ("a1", "a2", "b1", "b2"):
            game.move(name)
        assert game.reply() == "c1", "the winning move, at temperature 0"
        key, last = jax.random.key(seed), game.turns[4]
        position = last.state, last.metadata
        assert tz.play.analyse(env, player, position, num_moves=4, key=key).name == "c1"
        names.add(tz.play.analyse(env, player, position, key=key).name)
    assert len(names) > 1, "without the number of moves, it is hot"


@pytest.mark.parametrize("player", [tz.random_player, tz.uniform_evaluator, tz.MCTS, lambda: 3])
def test_what_cannot_be_a_player_is_refused_at_once(env, player):
    with pytest.raises(ValueError, match=r"Game: found .* as a player, expected None for a person, a tz.Player"):
        tz.play.Game(env, [None, player])


def test_resigning_and_starting_anew(env):
    game = tz.play.Game(env)
    game.move("a1")
    game.resign()
    assert game.is_over and game.returns == (1.0, -1.0)
    game.undo()
    assert not game.is_over and game.names == ("a1",)
    game.restart()
    assert game.names == () and "to move: X" in game.board and "no move made" in repr(game)


@pytest.mark.slow
def test_the_dice_are_the_games_own():
    env = tz.from_pgx("backgammon")
    first = lambda state: int(np.argmax(np.asarray(state.legal_action_mask)))

    def played(seed):
        game = tz.play.Game(env, [first, None], key=jax.random.key(seed))
        for _ in range(4):
            game.play()
            game.move(next(iter(game.legal_moves())))
        return game

    one, same, other = played(1), played(1), played(2)
    assert one.names == same.names and one.board == same.board
    assert one.board != other.board


@pytest.mark.slow
def test_a_game_for_one():
    env = tz.from_pgx("2048")
    game = tz.play.Game(env)
    for _ in range(5):
        game.move(next(iter(game.legal_moves())))
    assert len(game.returns) == 1 and len(game.names) == 5


def test_what_is_wrong_is_said_and_the_game_goes_on(env):
    game = tz.play.Game(env)
    game.move("b2")
    for move, message in {
        "b2": "find_move: found 'b2', which is not legal here",
        "z9": "which names no move, expected a legal move of tic_tac_toe",
        4: "found 'action 4', which names no move",
        99: "found 'action 99'",
        2.5: "Game.move: found 2.5, expected a move; give its name",
    }.items():
        with pytest.raises(ValueError, match=message):
            game._read("Game.move", move)
    assert game.names == ("b2",)
    with pytest.raises(ValueError, match="Game.reply: found a person to move"):
        game.reply()
    with pytest.raises(ValueError, match="Game.suggest: found no agent"):
        game.suggest()
    with pytest.raises(ValueError, match=r"Game.go_back: found 7, expected a number of moves from 0 to 1"):
        game.go_back(7)
    with pytest.raises(ValueError, match="found 3 players, expected 2"):
        game.set_players([None] * 3)
    with pytest.raises(ValueError, match="num_simulations: found -1, expected at least 0"):
        tz.play.analyse(env, tz.random_player(), game.position, num_simulations=-1)


def test_a_full_column_is_not_another_column():
    game = tz.play.Game(tz.from_pgx("connect_four"))
    for _ in range(6):
        game.move("3")
    with pytest.raises(ValueError, match="found '3', which is not legal here, expected a legal move of connect_four"):
        game.move("3")
    assert game.names == ("3",) * 6


def test_a_suggestion_is_that_of_the_players_of_now(env):
    def agent(best):
        logits = jnp.where(jnp.arange(9) == best, 9.0, 0.0)
        return tz.Player(tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0), lambda *_: (logits, jnp.float32(0)))

    old, new = agent(2), agent(5)
    game = tz.play.Game(env, [None, old])
    first = game.suggest()
    game.set_players([None, old])
    assert game.suggest() is first and first.action == 2
    game.set_players([new, old])
    assert game.suggest().action == 5
    known = tz.play.Game(env, [None, old], analyst=old)
    first = known.suggest()
    known.set_players([new, None])
    assert known.suggest() is first, "the analyst stays"


def test_an_agent_of_another_game_is_refused(env):
    other = tz.Player(tz.MCTS(4), lambda state, metadata, key: (jnp.zeros(7), jnp.float32(0)))
    with pytest.raises(ValueError, match="it is one of another game"):
        tz.play.Game(env, [None, other])
