"""Games of one's own: rewards in every move, clocks, dice, NumPy arrays and names that are not unique."""

import dataclasses
import json
import pathlib
import sys
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slips
from chance_games import ROLL, pig

import tz
from tz._arguments import check_position

NUM_MOVES = 6
KEY = jax.random.key(0)


def points(label=None, number=jnp.int32, unit=1.0) -> tz.Env:
    """Returns a game of six moves, each of which takes one to three points from the opponent, `unit` for each."""

    def view(n, player, rewards):
        return tz.StepMetadata(rewards, jnp.ones(3, bool), n >= NUM_MOVES, player)

    def init(key):
        return (number(0), number(0)), view(jnp.int32(0), jnp.int32(0), jnp.zeros(2))

    def step(state, action):
        n, player = state
        taken = jnp.where(n < NUM_MOVES, unit * (1 + action).astype(jnp.float32), 0.0)
        after = jnp.minimum(n + 1, NUM_MOVES), 1 - player
        return after, view(*after, taken * jnp.where(jnp.arange(2) == player, 1.0, -1.0))

    return tz.Env(init, step, lambda state: jax.nn.one_hot(state[0], NUM_MOVES + 1), name="points", label=label)


def always(action: int) -> tz.Player:
    """Returns an agent that prefers one action, without a search."""
    logits = 9.0 * jax.nn.one_hot(action, 3)
    search = tz.MCTS(0, root=tz.PlainRoot(), temperature=0.0, persist_tree=False)
    return tz.Player(search, lambda state, metadata, key: (logits, jnp.float32(0)))


RESIGNS = """
import sys

asked = 0
for line in sys.stdin:
    command = line.split()[0]
    asked = 0 if command == "clear_board" else asked + (command == "genmove")
    print("= " + ({1: "t3"}.get(asked, "resign") if command == "genmove" else "") + "\\n", flush=True)
    if command == "quit":
        break
"""


def test_who_resigns_has_lost_whatever_the_points(tmp_path):
    env = points(label=lambda state, action: f"t{action + 1}")
    (tmp_path / "resigns.py").write_text(RESIGNS)
    engine = tz.matches.GtpEngine(f"{sys.executable} {tmp_path / 'resigns.py'}", num_processes=2, timeout=120.0)
    match = tz.play_match(env, always(0), engine, num_games=2, opening_moves=0, key=KEY)
    assert match.wins == 2 and match.returns.tolist() == [1.0, 1.0] and not match.failures
    game = tz.play.Game(env, [always(0), engine])
    game.play()
    assert game.has_resigned and game.returns == (1.0, -1.0)


@pytest.mark.parametrize("part", ["mcts", "test_mcts"])
def test_proofs_are_refused_where_a_reward_proves_nothing(part):
    env = points()
    network = tz.MLP(env.observation.shape, 3, value_head=tz.nn.LinearValue(), key=KEY)
    config = slips.config(num_games=8, train_batch_size=8, **{part: tz.MCTS(4, solve=True)})
    with pytest.raises(ValueError, match="found solve=True, and rewards before the end in random games of points"):
        tz.init_loop(config, env, network, key=KEY)


class Walk(NamedTuple):
    place: jax.Array
    goal: jax.Array
    clock: jax.Array


def walk() -> tz.Env:
    """Returns a game for one whose clock goes on after the end."""

    def view(state, reward):
        return tz.StepMetadata(reward[None], jnp.ones(2, bool), state.place >= state.goal, jnp.int32(0))

    def init(key):
        state = Walk(jnp.int32(0), jax.random.randint(key, (), 2, 7), jnp.int32(0))
        return state, view(state, jnp.float32(0))

    def step(state, action):
        over = state.place >= state.goal
        after = Walk(jnp.where(over, state.place, state.place + 1 + action), state.goal, state.clock + 1)
        return after, view(after, jnp.where(over, 0.0, -0.1))

    return tz.Env(init, step, lambda state: jnp.stack(state).astype(jnp.float32), name="walk")


def test_a_sum_of_fractions_that_is_nearly_zero_is_a_draw():
    env = points(unit=0.1)
    game = tz.play.Game(env)
    for action in (0, 1, 1, 1, 2, 1):  # 0.1 + 0.2 + 0.3 against 0.2 + 0.2 + 0.2
        game.move(action)
    assert game.returns[0] != 0 and game.winner is None
    result = tz.play_match(env, always(0), always(0), num_games=4, key=KEY, opening_moves=0)
    returns = jnp.array([1.5e-8, -1.5e-8, 0.1, -0.1])
    result = dataclasses.replace(result, returns=returns, finished=jnp.ones(4, bool))
    assert (int(result.wins), int(result.draws), int(result.losses)) == (1, 2, 1) and float(result.score) == 0.5


def test_a_state_without_its_metadata_is_named():
    """The users of tz have no type checks, which would refuse it before."""
    state, metadata = points().init(KEY)
    for position in (state, metadata, None, (state, metadata, metadata)):
        with pytest.raises(
            ValueError, match="Game: found .* as a position, expected a pair of a state and its metadata"
        ):
            check_position("Game", position)
    assert check_position("Game", (state, metadata)) == (state, metadata)


def test_the_final_state_of_an_episode_is_its_own():
    played = tz.matches.play_episodes(walk(), tz.random_player(), num_games=8, key=KEY, max_moves=16)
    assert len(set(played.num_moves.tolist())) > 1
    np.testing.assert_array_equal(played.final_state.clock, played.num_moves)


def test_no_game_begins_while_nature_is_to_move():
    env = pig(10)
    thrown = jax.vmap(lambda key: env.step(env.init(key)[0], jnp.int32(ROLL)))(jax.random.split(KEY, 4))
    one = jax.tree.map(lambda x: x[0], thrown)
    agent = tz.Player(tz.MCTS(2), tz.uniform_evaluator)
    for call in (
        lambda: tz.games.starts_from(env, thrown),
        lambda: tz.play.Game(env, position=one),
        lambda: tz.play.analyse(env, agent, one),
    ):
        with pytest.raises(ValueError, match=r"found a position in which nature is to move.*tz.games.make_move"):
            call()


class Table(eqx.Module):
    """A game that looks its points up in a NumPy array."""

    value: np.ndarray

    def step(self, state, action):
        after, metadata = points().step(state, action)
        return after, dataclasses.replace(metadata, rewards=metadata.rewards * jnp.asarray(self.value)[action])


def test_arrays_of_numpy_are_taken_in_games_and_openings():
    env = dataclasses.replace(points(), step=Table(np.array([0.1, 0.1, 0.1], np.float32)).step)
    network = tz.MLP(env.observation.shape, 3, width=4, key=KEY)
    assert tz.init_loop(slips.config(num_games=8, train_batch_size=8), env, network, key=KEY).epoch == 0
    given = jax.device_get(jax.vmap(points().init)(jax.random.split(KEY, 3)))
    state, _ = jax.vmap(tz.games.starts_from(points(), given, 1.0).init)(jax.random.split(KEY, 3))
    np.testing.assert_array_equal(state[0], 0)


def test_python_numbers_in_the_first_state_are_taken():
    env = points(number=int)
    states, _ = tz.games.follow_moves(env, env.init(KEY), jnp.array([0, 1]))
    assert states[0].tolist() == [0, 1, 2]


def test_a_key_in_the_state_is_shown():
    env = points()
    keyed = dataclasses.replace(env, init=lambda key: ((*env.init(key)[0], key), env.init(key)[1]))
    assert "[0 0]" in tz.games.text_board(keyed, keyed.init(KEY)[0])


def test_a_board_may_have_numbers_of_numpy_and_needs_a_color_for_each_side():
    svg = '<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    size = np.float32(40)
    board = tz.games.Board(svg, size, size, squares={"1": (np.int64(0), 0, size, size)})
    env = dataclasses.replace(points(), board=lambda state: board)
    shown = json.loads(json.dumps(tz.play.Session(env, always(0)).ask({})))
    assert shown["width"] == 40 and shown["squares"] == {"1": [0, 0, 40, 40]}
    one_color = dataclasses.replace(board, sides=("one", "two"), colors=("red",))
    state = env.init(KEY)[0]
    with pytest.raises(ValueError, match="found 1 colors for 2 sides"):
        tz.games.draw_board(dataclasses.replace(env, board=lambda state: one_color), state)
    with pytest.raises(ValueError, match="found an <svg> without its end"):
        tz.games.draw_board(dataclasses.replace(points(), draw=lambda state: "<svg/>"), state)


def test_two_moves_with_one_name_are_named():
    game = tz.play.Game(points(label=lambda state, action: "x" if action < 2 else "y"))
    with pytest.raises(ValueError, match="points: found the name 'x' for the legal actions 0 and 1 in one position"):
        game.legal_moves()


@dataclasses.dataclass
class Unhashable:
    def __call__(self, state, action):
        return points().step(state, action)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": Unhashable()}, r"found .* as `step`, which has no hash .* eqx.Module"),
        ({"init": lambda key: int_rewards(points().init(key))}, r"found int32\[2\] as `rewards`.*with `astype`"),
    ],
)
def test_the_check_names_the_fault_and_not_another(change, message):
    with pytest.raises(ValueError, match=message):
        tz.check_env(dataclasses.replace(points(), **change))


def int_rewards(start):
    return start[0], eqx.tree_at(lambda metadata: metadata.rewards, start[1], jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(("name", "value"), [("opening_moves", -1), ("max_moves", 0)])
def test_numbers_of_moves_are_checked_at_once(name, value):
    found = f"found .*{name}={value}"
    with pytest.raises(ValueError, match=f"play_match: {found}"):
        tz.play_match(points(), always(0), always(1), num_games=2, key=KEY, **{name: value})
    for make in tz.TwoPlayerTester, lambda **options: tz.OpponentTester(always(0), "one", **options):
        with pytest.raises(ValueError, match=f"PlayerTester: {found}|OpponentTester: {found}"):
            make(num_games=2, **{name: value})
    with pytest.raises(ValueError, match="random_opening: found max_moves=-1"):
        tz.random_opening(points(), -1, key=KEY)


def test_openings_of_another_game_are_refused():
    given = jax.vmap(walk().init)(jax.random.split(KEY, 1))
    with pytest.raises(ValueError, match="play_match: found openings of another game, expected positions of points"):
        tz.play_match(points(), always(0), always(1), num_games=2, key=KEY, openings=given)


def test_the_line_after_a_training_names_a_game_of_ones_own(capsys, monkeypatch):
    from tz._commands import training

    recipe, settings = tz.Recipe("my_games:make_env"), tz.runs.RunSettings(epochs=1, out=pathlib.Path("runs/mine"))
    monkeypatch.setattr(training, "train_run", lambda *_: type("State", (), {"epoch": 1})())
    training._train(recipe, settings)
    assert "tz play runs/mine --env my_games:make_env lets" in capsys.readouterr().out
