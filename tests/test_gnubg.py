"""The adapter of GNU Backgammon in `experiments/`: its positions and moves are those of pgx."""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz

pytestmark = [pytest.mark.slow, pytest.mark.once]

PROGRAM = pathlib.Path("/usr/games/gnubg")


@pytest.fixture(scope="module")
def adapter():
    folder = str(pathlib.Path(__file__).parents[1] / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("gnubg_moves")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def step():
    return jax.jit(tz.from_pgx("backgammon").step)


@pytest.fixture(scope="module")
def rolls():
    """Positions after rolls, from games of random moves, most of them played to the end."""
    env, random = tz.from_pgx("backgammon"), np.random.default_rng(0)
    move = jax.jit(lambda state, action, key: tz.games.make_move(env, state, action, key=key))
    found = []
    for game in range(3):
        key = jax.random.key(game)
        state, metadata = jax.jit(env.init)(key)
        for number in range(600):
            if metadata.terminated:
                break
            if state._played_dice_num == 0:
                found.append((state, metadata))
            action = random.choice(np.flatnonzero(metadata.action_mask))
            state, metadata = move(state, jnp.int32(action), jax.random.fold_in(key, number))
    return found


def from_gnubg(position):
    """Converts a position of gnubg into a board of pgx."""
    other, own = map(np.array, position)
    return [*(own[23::-1] - other[:24]), own[24], -other[24], 15 - own.sum(), other.sum() - 15]


def played(adapter, step, roll, pairs):
    """Returns gnubg's position after the moves of a roll, from the perspective of the player who moved."""
    (state, metadata), player = roll, roll[1].cur_player_id
    while True:
        state, metadata = step(state, jnp.int32(adapter.next_action(pairs, np.asarray(metadata.action_mask))))
        pairs = pairs[1:]
        if metadata.terminated or metadata.cur_player_id != player or np.any(metadata.chance > 0):
            break
    assert pairs == []
    position = adapter.to_gnubg(np.asarray(state._board))
    return position if metadata.terminated else position[::-1]


def test_positions_are_the_same_in_both_forms(adapter, rolls):
    boards = np.stack([state._board for state, _ in rolls])
    assert (boards[:, 24:] != 0).any(0).all()  # with checkers on both bars, and off the board, on both sides
    for board in boards:
        position = adapter.to_gnubg(board)
        assert min(map(min, position)) >= 0
        np.testing.assert_array_equal(from_gnubg(position), board)
    own = [0, 0, 0, 0, 0, 5, 0, 3, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    assert adapter.to_gnubg(boards[0]) == [own, own]  # the usual first position, in the order of gnubg's points


def test_moves_of_a_roll_can_be_made_in_pgx_in_whatever_order_they_come(adapter, step, rolls):
    """Random rolls played in pgx, written as pairs of points and shuffled, lead to the same position again."""
    random = np.random.default_rng(1)
    for roll in rolls[::2]:
        (state, metadata), player, moves = roll, roll[1].cur_player_id, []
        while metadata.cur_player_id == player and not metadata.terminated and not np.any(metadata.chance > 0):
            action = int(random.choice(np.flatnonzero(metadata.action_mask)))
            source, die = action // 6, action % 6 + 1
            if source > 0:
                start = 25 if source == 1 else 26 - source
                moves.append((start, max(start - die, 0)))
            state, metadata = step(state, jnp.int32(action))
        expected = adapter.to_gnubg(np.asarray(state._board))
        expected = expected if metadata.terminated else expected[::-1]
        flat = [point for number in random.permutation(len(moves)) for point in moves[number]]
        pairs = adapter.pairs_of([*flat, *[0] * (8 - len(flat))])
        assert played(adapter, step, roll, pairs) == expected
        assert adapter.after_moves(adapter.to_gnubg(np.asarray(roll[0]._board)), pairs) == expected


@pytest.mark.skipif(not PROGRAM.exists(), reason="GNU Backgammon is not installed: apt-get install gnubg")
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_every_answer_of_gnubg_is_legal_and_leads_where_gnubg_means_it_to(adapter, step, rolls, noise):
    gnubg = adapter.Gnubg()
    try:
        boards, dice = (np.stack([getattr(state, name) for state, _ in rolls]) for name in ("_board", "_dice"))
        answers = gnubg.best_moves(boards, dice, 0, noise)
    finally:
        gnubg.close()
    assert len(answers) == len(rolls) > 200
    assert sum(len(pairs) for pairs in answers) > len(rolls)
    for roll, board, pairs in zip(rolls, boards, answers, strict=True):
        expected = adapter.after_moves(adapter.to_gnubg(board), pairs)
        assert played(adapter, step, roll, pairs) == expected


@pytest.mark.parametrize(
    ("places", "points"),
    [
        ({5: 14, 27: 1}, 1),  # one checker is borne off
        ({5: 15}, 2),  # a gammon: no checker is borne off
        ({5: 14, 20: 1}, 3),  # a backgammon: and one checker is in the winner's home
        ({5: 14, 25: 1}, 2),  # a checker on the bar: three points by the usual rules, two in pgx
    ],
)
def test_points_of_a_game_are_what_the_script_says(step, rolls, places, points):
    board = np.zeros(28, np.int32)
    board[23], board[26] = 1, 14
    for place, count in places.items():
        board[place] = -count
    dice = {"_dice": jnp.array([0, 1]), "_playable_dice": jnp.array([0, 1, -1, -1])}
    last = jnp.arange(26 * 6) == 25 * 6  # the last checker, by a 1
    state = rolls[0][0].replace(_board=jnp.asarray(board), legal_action_mask=last, **dice)
    _, metadata = step(state, jnp.argmax(last))
    assert metadata.terminated
    assert metadata.rewards[metadata.cur_player_id] == points
    assert metadata.rewards.sum() == 0
