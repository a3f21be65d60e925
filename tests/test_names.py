"""Names of moves and boards as text: each name finds its action, and agrees with the board after the move."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pgx.go
import pytest
from test_pgx import CHANCE, PLAYABLE

import tz
from tz.games.chance import make_move
from tz.games.names import find_move, move_label, text_board

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("standard_promotion")]


def random_game(env, num_moves, seed=0):
    """Plays random moves; returns `(state, action_mask, action)` of each position, and the last state."""
    rng = np.random.default_rng(seed)
    state, metadata = env.init(jax.random.key(seed))
    positions = []
    while len(positions) < num_moves and not metadata.terminated:
        mask = np.asarray(metadata.action_mask)
        action = int(rng.choice(np.flatnonzero(mask)))
        positions.append((state, mask, action))
        state, metadata = make_move(env, state, jnp.int32(action), key=jax.random.key(len(positions)))
    return positions, state


def all_names_work(env, state):
    everything = np.ones(env.num_actions, bool)
    names = [move_label(env, state, action) for action in range(env.num_actions)]
    assert len({name.lower() for name in names}) == env.num_actions
    for action, name in enumerate(names):
        assert find_move(env, state, everything, f" {name.upper()} ") == action


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(n for n in (*PLAYABLE, *CHANCE) if "chess" not in n and n != "shogi"), "go_5x5"])
def test_every_action_has_a_name_that_finds_it(name):
    env = tz.from_pgx(pgx.go.Go(size=5) if name == "go_5x5" else name)
    positions, last = random_game(env, 5)
    for state in (positions[0][0], last):
        all_names_work(env, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chess", "gardner_chess", "shogi"])
def test_every_legal_move_has_a_name_that_finds_it(name):
    env = tz.from_pgx(name)
    for state, mask, _ in random_game(env, 120)[0][::12]:  # a game ends early at times
        names = {int(action): move_label(env, state, action) for action in np.flatnonzero(mask)}
        assert len(set(names.values())) == len(names)
        assert all(find_move(env, state, mask, text) == action for action, text in names.items())
    all_names = [move_label(env, state, action) for action in range(env.num_actions)]
    assert len(set(all_names)) == env.num_actions


def squares(env, state):
    """Reads the cells from the text of a board, which has the names of columns above and below."""
    lines = text_board(env, state).splitlines()
    columns = lines[0].split()
    rows = [line.split() for line in lines[1 : lines.index(lines[0], 1)]]
    return {column + row[0]: cell for row in rows for column, cell in zip(columns, row[1:], strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chess", "gardner_chess", "shogi", "animal_shogi"])
def test_a_move_changes_the_squares_that_its_name_says(name):
    env = tz.from_pgx(name)
    positions, last = random_game(env, 60, seed=3)
    states = [*(state for state, _, _ in positions), last]
    for number, (state, _, action) in enumerate(positions):
        label, before, after = move_label(env, state, action), squares(env, state), squares(env, states[number + 1])
        if "*" in label:
            piece, target = label.split("*")
            assert before[target] == "." and after[target].upper() == piece
            continue
        start, target, ending = re.fullmatch(r"(..)(..)([qrbn+]?)", label).groups()
        white = number % 2 == 0  # capitals are the side that moves first
        assert before[start].isupper() == white and after[start] == "."
        assert after[target].isupper() == white
        expected = {"": before[start], "+": "+" + before[start]}.get(ending, ending.upper())
        hatched = name == "animal_shogi" and before[start].upper() == "C" and after[target].upper() == "H"
        assert after[target].upper() == expected.upper() or hatched


@pytest.mark.slow
@pytest.mark.parametrize("name", ["othello", "go_9x9", "hex", "tic_tac_toe"])
def test_a_stone_appears_where_its_name_says(name):
    env = tz.from_pgx(name)
    positions, last = random_game(env, 20, seed=1)
    states = [*(state for state, _, _ in positions), last]
    seen = 0
    for number, (state, _, action) in enumerate(positions):
        label = move_label(env, state, action)
        if label in ("pass", "swap"):
            continue
        seen += 1
        before, after = squares(env, state), squares(env, states[number + 1])
        assert before[label] == "." and after[label] == "XO"[number % 2] if name != "othello" else after[label] in "XO"
    assert seen > 4


def test_a_disc_falls_in_the_column_of_its_name():
    env = tz.from_pgx("connect_four")
    state, metadata = env.init(jax.random.key(0))
    for text in ("4", "4", "1"):
        state, metadata = env.step(state, jnp.int32(find_move(env, state, metadata.action_mask, text)))
    lines = text_board(env, state).splitlines()
    assert lines[0].split() == list("1234567")
    assert [line.split() for line in lines[5:7]] == [[*"...O..."], [*"X..X..."]]
    assert "to move: yellow" in lines


@pytest.mark.slow
def test_known_openings():
    """Names agree with other sources: first moves as books write them."""
    firsts = {
        "othello": "d3 c4 f5 e6",
        "chess": "e2e4 g1f3 a2a3",
        "gardner_chess": "a2a3 b1a3 e2e3",
        "shogi": "7g7f 2g2f 2h3h",
        "animal_shogi": "2c2b 1d1c 2d1c",
    }
    for name, moves in firsts.items():
        env = tz.from_pgx(name)
        state, metadata = env.init(jax.random.key(0))
        for text in moves.split():
            find_move(env, state, metadata.action_mask, text)
    env = tz.from_pgx("go_19x19")
    state, metadata = env.init(jax.random.key(0))
    assert find_move(env, state, metadata.action_mask, "A19") == 0
    assert find_move(env, state, metadata.action_mask, "J1") == 18 * 19 + 8
    assert find_move(env, state, metadata.action_mask, "PASS") == 361


def test_backgammon_is_named_from_the_player_to_move():
    env = tz.from_pgx("backgammon")
    state, _ = env.init(jax.random.key(0))
    names = {move_label(env, state, action): action for action in range(env.num_actions)}
    assert {"pass", "bar/20", "24/18", "13/7", "6/off", "2/off", "2/off(6)"} <= set(names)
    legal = [move_label(env, state, a) for a in np.flatnonzero(env.init(jax.random.key(0))[1].action_mask)]
    assert {int(name.split("/")[0]) for name in legal} <= {24, 13, 8, 6}


def toy(label=None, text=None):
    def look(left):
        return tz.StepMetadata(jnp.zeros(2), jnp.arange(4) < left, left <= 0, jnp.int32(0))

    return tz.Env(
        lambda key: (jnp.int32(3), look(jnp.int32(3))),
        lambda left, action: (left - 1, look(left - 1)),
        lambda left: left[None],
        name="toy",
        label=label,
        text=text,
    )


MASK = np.array([True, True, True, False])


def test_a_game_without_names_goes_by_numbers():
    env = toy()
    assert move_label(env, jnp.int32(3), 2) == "2" and find_move(env, jnp.int32(3), MASK, " 2") == 2
    assert text_board(env, jnp.int32(3)) == "state: 3"
    assert text_board(env, {"left": jnp.int32(3), "who": jnp.zeros(2)}) == "['left']: 3\n['who']: [0. 0.]"


def test_case_matters_only_where_names_differ_by_it():
    env = toy(lambda state, action: ("aa", "AA", "b c", "D")[action])
    assert [find_move(env, 3, MASK, text) for text in ("aa", "AA", "BC", "1")] == [0, 1, 2, 1]
    with pytest.raises(ValueError, match="find_move: found 'aA', expected one of aa, AA; mind the case"):
        find_move(env, 3, MASK, "aA")
    with pytest.raises(ValueError, match="find_move: found 'd', which is not legal here, expected a legal move of toy"):
        find_move(env, 3, MASK, "d")


@pytest.mark.parametrize("text", ["", "zz", "9", "-1", "x" * 1_000_000, "³", "१"])
def test_what_cannot_be_read_is_answered(text):
    with pytest.raises(
        ValueError, match="names no move, expected a legal move of toy; choose one of: [012], [012], 2"
    ) as error:
        find_move(toy(), 3, MASK, text)
    assert len(str(error.value)) < 200


def test_a_number_that_is_the_name_of_another_move_is_no_action():
    env = toy(lambda state, action: f"{action + 1}")
    mask = np.array([True, False, True, True])
    assert [find_move(env, 3, mask, text) for text in ("1", "3", "4", "0")] == [0, 2, 3, 0]
    for text in ("2", " 2 "):  # action 2 is legal, but it is the move "3"
        with pytest.raises(ValueError, match="which is not legal here, expected a legal move of toy; choose one of: 1"):
            find_move(env, 3, mask, text)
    with pytest.raises(ValueError, match="found '02', which names no move"):
        find_move(env, 3, mask, "02")


def test_near_names_are_listed_first():
    env = toy(lambda state, action: ("a1", "b2", "castle", "d4")[action])
    with pytest.raises(ValueError, match="choose one of: castle, a1, b2"):
        find_move(env, 3, MASK, "castel")


def test_names_and_texts_must_be_texts():
    with pytest.raises(ValueError, match="label of toy: found 1 for action 1, expected a text"):
        move_label(toy(lambda state, action: action), 3, 1)
    with pytest.raises(ValueError, match="text of toy: found 3, expected a text"):
        text_board(toy(text=lambda state: 3), 3)
    with pytest.raises(ValueError, match="found action 4, expected one from 0 to 3"):
        move_label(toy(), 3, 4)
