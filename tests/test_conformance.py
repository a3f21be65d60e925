import dataclasses
import itertools

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import pytest

from tz.games._hidden_keys import keys_used
from tz.games.conformance import check_env
from tz.games.env import Env, StepMetadata

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def describe(state, rewards):
    return StepMetadata(
        rewards=jnp.float32(rewards),
        action_mask=jnp.arange(1, 4) <= state["left"],
        terminated=state["left"] <= 0,
        cur_player_id=state["player"],
    )


def start(key):
    state = {"left": jnp.int32(7), "player": jnp.int32(0)}
    return state, describe(state, jnp.zeros(2))


def take(state, action):
    was_over = state["left"] <= 0
    after = {**state, "left": state["left"] - 1 - action, "player": 1 - state["player"]}
    won = ~was_over & (after["left"] <= 0)
    rewards = jnp.where(won, jnp.where(jnp.arange(2) == state["player"], 1.0, -1.0), 0.0)
    state = jax.tree.map(lambda old, new: jnp.where(was_over, old, new), state, after)
    return state, describe(state, rewards)


def look(state):
    return jnp.stack([state["left"], state["player"]]).astype(jnp.float32)


def countdown(init=start, step=take, observe=look):
    return Env(init=init, step=step, observe=observe, name="countdown")


def changed(function, change):
    """An `init` or a `step` with `change` applied to its state and metadata."""
    return lambda *arguments: change(*function(*arguments))


def put(field, value):
    """Returns a change of one metadata field that bypasses the constructor, since tests check its types."""
    return lambda state, metadata: (
        state,
        eqx.tree_at(lambda metadata: getattr(metadata, field), metadata, replace_fn=value),
    )


def everywhere(change):
    return countdown(init=changed(start, change), step=changed(take, change))


def at_five_left(field, value):
    """Each move takes one counter. After two moves five are left; there, a metadata field is set."""
    return countdown(
        step=lambda state, action: put(field, lambda old: jnp.where(state["left"] == 6, value, old).astype(old.dtype))(
            *take(state, jnp.int32(0))
        )
    )


def after_the_end(change):
    """Returns a game in which `change` replaces `step` in a terminated state."""

    def step(state, action):
        was_over = state["left"] <= 0
        return jax.tree.map(lambda old, new: jnp.where(was_over, old, new), change(state), take(state, action))

    return countdown(step=step)


def reopen(state):
    state = {**state, "left": jnp.int32(5)}
    return state, describe(state, jnp.zeros(2))


def with_turns(state, metadata):
    return {**state, "turns": jnp.int32(0)}, metadata


NUM_CALLS = itertools.count()


def with_calls(state, metadata):
    return {**state, "turns": jnp.int32(next(NUM_CALLS))}, metadata


def growing(state):
    return jnp.zeros(next(NUM_CALLS))


def fussy(state, action):
    left = eqx.error_if(state["left"], state["left"] < 7, "not a new game")
    return take({**state, "left": left}, action)


BROKEN = {
    "init branches on an array": (
        lambda: countdown(init=lambda key: start(key) if jax.random.bits(key) > 0 else None),
        "found that `init` cannot be traced by JAX .TracerBoolConversionError",
    ),
    "step branches on an array": (
        lambda: countdown(step=lambda state, action: take(state, 0 if action > 0 else 1)),
        "found that `step` cannot be traced by JAX .TracerBoolConversionError",
    ),
    "observe fails": (
        lambda: countdown(observe=lambda state: state["board"]),
        "found that `observe` cannot be traced by JAX .KeyError: 'board'",
    ),
    "init returns no metadata": (
        lambda: countdown(init=lambda key: start(key)[0]),
        r"found dict returned by `init`, expected a pair `\(state, tz.StepMetadata\)`",
    ),
    "step returns metadata of its own": (
        lambda: countdown(step=lambda state, action: (state, {"rewards": jnp.zeros(2)})),
        r"found \['dict', 'dict'\] returned by `step`, expected a pair",
    ),
    "integer rewards": (
        lambda: everywhere(put("rewards", jnp.int32)),
        r"found int32\[2\] as `rewards` in the metadata from `init`, expected a float array of shape \[P\]",
    ),
    "one reward without an axis": (
        lambda: everywhere(put("rewards", lambda rewards: rewards[0])),
        r"found float32\[\] as `rewards` in the metadata from `init`, expected a float array of shape \[P\]",
    ),
    "float mask": (
        lambda: everywhere(put("action_mask", jnp.float32)),
        r"found float32\[3\] as `action_mask` in the metadata from `init`, expected a boolean array of shape \[A\]",
    ),
    "mask with two axes": (
        lambda: everywhere(put("action_mask", lambda mask: mask[None])),
        r"found bool\[1, 3\] as `action_mask` in the metadata from `init`, expected a boolean array of shape \[A\]",
    ),
    "no actions": (
        lambda: everywhere(put("action_mask", lambda mask: mask[:0])),
        "found an empty `action_mask` from `init`, expected an entry for each action",
    ),
    "terminated as an integer": (
        lambda: everywhere(put("terminated", jnp.int32)),
        r"found int32\[\] as `terminated` in the metadata from `init`, expected a boolean scalar",
    ),
    "player as a float": (
        lambda: everywhere(put("cur_player_id", jnp.float32)),
        r"found float32\[\] as `cur_player_id` in the metadata from `init`, expected an integer scalar",
    ),
    "three players": (
        lambda: everywhere(put("rewards", lambda rewards: jnp.zeros(3))),
        "found 3 entries in `rewards` from `init`, one for each player, expected 1 or 2; tz plays games of one or two",
    ),
    "step adds a part": (
        lambda: countdown(step=changed(take, lambda state, metadata: ({**state, "last": state["left"]}, metadata))),
        r"found `state\['last'\]` to be missing from `init` and int32\[\] from `step`, expected one tree",
    ),
    "step changes a shape": (
        lambda: countdown(
            step=changed(take, lambda state, metadata: ({**state, "left": state["left"][None]}, metadata)),
            observe=lambda state: jnp.zeros(2),
        ),
        r"found `state\['left'\]` to be int32\[\] from `init` and int32\[1\] from `step`",
    ),
    "step changes a dtype": (
        lambda: countdown(
            step=changed(take, lambda state, metadata: ({**state, "left": state["left"] * 1.0}, metadata))
        ),
        r"found `state\['left'\]` to be int32\[\] from `init` and float32\[\] from `step`",
    ),
    "step changes the dtype of metadata": (
        lambda: countdown(step=changed(take, put("cur_player_id", jnp.int8))),
        r"found `metadata.cur_player_id` to be int32\[\] from `init` and int8\[\] from `step`",
    ),
    "step changes a container": (
        lambda: countdown(
            init=changed(start, lambda state, metadata: ([state["left"], state["player"]], metadata)),
            step=lambda state, action: changed(take, lambda state, metadata: (tuple(state.values()), metadata))(
                {"left": state[0], "player": state[1]}, action
            ),
        ),
        r"found the state to have the structure PyTreeDef\(\[\*, \*\]\) from `init` and PyTreeDef\(\(\*, \*\)\)",
    ),
    "nothing to see": (
        lambda: countdown(observe=lambda state: ()),
        "found a tuple returned by `observe`, expected an array of numbers or booleans",
    ),
    "observation is a key": (
        lambda: countdown(observe=lambda state: jax.random.key(0)),
        r"found key<fry>\[\] returned by `observe`, expected an array of numbers or booleans",
    ),
    "observation changes its shape": (
        lambda: countdown(observe=growing),
        r"found float32\[\d+\] from `observe` in an initial state and float32\[\d+\] after a move",
    ),
    "new game is over": (
        lambda: countdown(init=changed(start, put("terminated", lambda terminated: ~terminated))),
        "game 0 after 0 moves: found a new game that is over",
    ),
    "new game pays": (
        lambda: countdown(init=changed(start, put("rewards", lambda rewards: jnp.array([1.0, -1.0])))),
        r"game 0 after 0 moves: found a new game that pays .rewards = \[ 1. -1.\].*, expected rewards of zero",
    ),
    "game goes on after its end": (
        lambda: after_the_end(reopen),
        "found a step from a terminated state that leads to a game that is not over .*auto-reset",
    ),
    "end is paid twice": (
        lambda: after_the_end(lambda state: (state, describe(state, jnp.array([1.0, -1.0])))),
        r"found a step from a terminated state that pays again .rewards = \[ 1. -1.\], .* terminated = True",
    ),
    "no legal action": (
        lambda: at_five_left("action_mask", False),
        "game 0 after 2 moves: found no legal action though the game is not over",
    ),
    "rewards do not sum to zero": (
        lambda: at_five_left("rewards", 0.5),
        r"game 0 after 2 moves: found rewards of two players that do not sum to zero .rewards = \[0.5 0.5\]",
    ),
    "rewards are not numbers": (
        lambda: at_five_left("rewards", jnp.nan),
        r"game 0 after 2 moves: found NaN or infinity in `rewards` .rewards = \[nan nan\]",
    ),
    "player too large": (
        lambda: at_five_left("cur_player_id", 2),
        "game 0 after 2 moves: found `cur_player_id` out of range .*cur_player_id = 2.*expected 0 to 1",
    ),
    "player below zero": (
        lambda: at_five_left("cur_player_id", -1),
        "game 0 after 2 moves: found `cur_player_id` out of range .*cur_player_id = -1.*expected 0 to 1",
    ),
    "observation is infinite": (
        lambda: countdown(observe=lambda state: 1 / look(state)),
        "after 0 moves: found NaN or infinity from `observe`",
    ),
    "init is impure": (
        lambda: countdown(init=changed(start, with_calls)),
        r"found `init` to be impure, as two calls with the same arguments .* at `\[0\]\['turns'\]`",
    ),
    "step is impure": (
        lambda: countdown(init=changed(start, with_turns), step=changed(take, with_calls)),
        r"found `step` to be impure, as two calls with the same arguments .* at `\[0\]\['turns'\]`",
    ),
    "observe is impure": (
        lambda: countdown(observe=lambda state: look(state) + np.random.default_rng().random()),
        "found `observe` to be impure, as two calls with the same arguments differ",
    ),
    "observe depends on jit": (
        lambda: countdown(observe=lambda state: look(state) + isinstance(state["left"], jax.core.Tracer)),
        "found `observe` to give another result under `jax.jit` and `jax.vmap` than without",
    ),
    "step raises in a game": (
        lambda: countdown(step=fussy),
        "found that a random game fails under `jax.jit`, `jax.vmap` and `jax.lax.scan` .*Error",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_env_names_the_broken_rule(case):
    make, message = BROKEN[case]
    with pytest.raises(ValueError, match=message) as raised:
        check_env(make(), num_games=2, max_moves=16)
    assert str(raised.value).startswith(("countdown: ", "countdown, game "))


def test_check_env_reports_the_first_violation_of_all_games():
    def pay(state, metadata):  # game 1 breaks a rule after its first move, game 0 after the second
        turns = state["turns"] + 1
        wrong = turns == 2 - state["late"]
        return {**state, "turns": turns}, put("rewards", lambda old: jnp.where(wrong, 1.0, old))(state, metadata)[1]

    keys = jax.random.split(jax.random.split(jax.random.key(0))[0], 2)

    def init(key):
        late = (jax.random.key_data(key) == jax.random.key_data(keys[1])).all().astype(jnp.int32)
        state, metadata = start(key)
        return {**state, "turns": jnp.int32(0), "late": late}, metadata

    with pytest.raises(ValueError, match="game 1 after 1 moves: found rewards of two players that do not sum"):
        check_env(countdown(init=init, step=changed(take, pay)), key=jax.random.key(0), num_games=2, max_moves=16)


def test_check_env_warns_when_no_game_ended():
    with pytest.warns(UserWarning, match="found no end in 2 random games of 1 moves.*raise `max_moves`"):
        check_env(countdown(), num_games=2, max_moves=1)


@pytest.mark.parametrize(("num_games", "max_moves"), [(0, 1), (1, 0)])
def test_check_env_needs_a_game_and_a_move(num_games, max_moves):
    with pytest.raises(ValueError, match=f"found num_games={num_games} and max_moves={max_moves}, expected at least 1"):
        check_env(countdown(), num_games=num_games, max_moves=max_moves)


def test_check_env_passes_a_python_number_in_the_first_state():
    check_env(
        countdown(
            init=changed(start, lambda state, metadata: ({**state, "turns": 0}, metadata)),
            step=changed(take, with_turns),
        )
    )


def test_check_env_passes_a_game_where_a_player_moves_twice():
    def step(state, action):  # whoever takes a single counter moves again
        after, metadata = take(state, action)
        after = {**after, "player": jnp.where(action == 0, state["player"], after["player"])}
        return after, describe(after, metadata.rewards)

    env = countdown(step=step)
    assert env.step(start(jax.random.key(0))[0], jnp.int32(0))[1].cur_player_id == 0
    check_env(env, max_moves=16)


def test_check_env_passes_a_game_for_one_and_keys_in_the_state():
    def alone(state, metadata):
        state = {**state, "player": jnp.int32(0), "key": jax.random.key(3)}
        return state, eqx.tree_at(
            lambda metadata: (metadata.rewards, metadata.cur_player_id),
            metadata,
            (metadata.rewards[:1], state["player"]),
        )

    env = everywhere(alone)
    assert env.num_players == 1
    check_env(env, max_moves=16)


def with_key(make, draws=lambda key, state, metadata: metadata, uses=lambda key: jax.random.split(key)[0]):
    """Returns the game with a key in its state. `step` splits it, and `draws` uses it to change the metadata."""

    def init(key):
        state, metadata = start(key)
        return {**state, "key": make(7)}, metadata

    def step(state, action):
        after, metadata = take({name: x for name, x in state.items() if name != "key"}, action)
        return {**after, "key": uses(state["key"])}, draws(state["key"], after, metadata)

    return countdown(init=init, step=step)


def double_or_nothing(key, state, metadata):
    """The last move pays 1 or 2 at random."""
    return dataclasses.replace(metadata, rewards=metadata.rewards * (1.0 + jax.random.bernoulli(key)))


def sometimes_again(key, state, metadata):
    return dataclasses.replace(metadata, cur_player_id=jax.random.bernoulli(key).astype(jnp.int32))


def by_index(key, state, metadata):
    """The key stays the same, and each move folds its number into it."""
    return double_or_nothing(jax.random.fold_in(key, state["left"]), state, metadata)


@pytest.mark.parametrize(
    ("make", "draws", "uses", "what"),
    [
        (jax.random.key, double_or_nothing, lambda key: jax.random.split(key)[0], "the rewards depend"),
        (jax.random.PRNGKey, double_or_nothing, lambda key: jax.random.split(key)[0], "the rewards depend"),
        (jax.random.PRNGKey, by_index, lambda key: key, "the rewards depend"),
        (jax.random.key, sometimes_again, lambda key: jax.random.split(key)[0], "the player to move depend"),
    ],
)
def test_check_env_warns_of_a_key_in_the_state_that_decides_something(make, draws, uses, what):
    message = rf"found that {what} on a random key in the state \(state\['key'\]\), expected only the moves"
    with pytest.warns(UserWarning, match=message):
        check_env(with_key(make, draws, uses), num_games=4, max_moves=16)


def words(state, metadata):
    return {**state, "words": jnp.uint32(state["left"]) << jnp.arange(2, dtype=jnp.uint32)}, metadata


def test_check_env_is_quiet_about_keys_that_decide_nothing_and_boards_in_words():
    for make in (jax.random.key, jax.random.PRNGKey):
        check_env(with_key(make), num_games=2, max_moves=16)  # a warning would be an error here

    def look(state):  # a board in two words of 32 bits, which the network sees and on which a choice of the key depends
        return state["words"].astype(jnp.float32)

    def init(key):
        return words({**start(key)[0], "key": jax.random.PRNGKey(1)}, start(key)[1])

    def step(state, action):
        after, metadata = take({"left": state["words"][0].astype(jnp.int32), "player": state["player"]}, action)
        key = jax.lax.cond(state["words"][0] > 3, lambda key: jax.random.split(key)[0], lambda key: key, state["key"])
        return words({**after, "key": key}, metadata)

    env = countdown(init=init, step=step, observe=look)
    assert keys_used(env) == ["['key']"]
    check_env(env, num_games=2, max_moves=16)


def restarting(state, action):
    """Begins a new game in the move that ends the old one, and never shows that the old one is over."""
    after, metadata = take(state, action)
    new = jax.tree.map(lambda new, old: jnp.where(metadata.terminated, new, old), start(None)[0], after)
    return new, describe(new, metadata.rewards)


def restarting_with_the_end_shown(state, action):
    """Shows that the game is over together with the state of the new game, as many vectorised environments do."""
    after, metadata = take(state, action)
    new = jax.tree.map(lambda new, old: jnp.where(metadata.terminated, new, old), start(None)[0], after)
    return new, dataclasses.replace(describe(new, metadata.rewards), terminated=metadata.terminated)


def test_check_env_finds_a_step_that_begins_new_games_by_itself():
    with pytest.raises(ValueError, match=r"found a step from a terminated state that leads to .* \(auto-reset\)"):
        check_env(countdown(step=restarting_with_the_end_shown), num_games=2, max_moves=16)
    restarts = pytest.warns(UserWarning, match=r"found no game that ended, but \d+ moves that paid .* \(auto-reset\)")
    with pytest.warns(UserWarning, match="found no end in 2 random games"), restarts:
        check_env(countdown(step=restarting), num_games=2, max_moves=32)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda state, action: f"take {action // 2}", "found the name 'take 0' for the legal actions 0 and 1 in one"),
        (lambda state, action: action, "label of countdown: found 0 for action 0, expected a text"),
        (
            lambda state, action: f"take {action + 1}" if state["left"] > 3 else "take the rest",
            "found the name 'take the rest' for the legal actions 0 and 1 in one position",
        ),
    ],
)
def test_names_of_moves_are_checked(label, message):
    """In the positions of a game, but not after its end, where the names below are all "leave 0"."""
    named = dataclasses.replace(countdown(), label=lambda state, action: f"leave {max(state['left'] - action - 1, 0)}")
    game = {"key": jax.random.key(4), "num_games": 2, "max_moves": 9}  # the first game ends with 3 left
    check_env(named, **game)
    with pytest.raises(ValueError, match=message):
        check_env(dataclasses.replace(named, label=label), **game)
