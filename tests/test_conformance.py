import itertools

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import pytest

from tz.conformance import check_env
from tz.env import Env, StepMetadata


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
    """A change of one metadata field, behind the back of the constructor, whose types the tests' import hook checks."""
    return lambda state, metadata: (
        state,
        eqx.tree_at(lambda metadata: getattr(metadata, field), metadata, replace_fn=value),
    )


def everywhere(change):
    return countdown(init=changed(start, change), step=changed(take, change))


def at_five_left(field, value):
    """One counter a move is taken, so that five are left after two moves; there, a metadata field is set."""
    return countdown(
        step=lambda state, action: put(field, lambda old: jnp.where(state["left"] == 6, value, old).astype(old.dtype))(
            *take(state, jnp.int32(0))
        )
    )


def after_the_end(change):
    """`change` is applied, in place of `step`, to a terminated state."""

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
        "`init` cannot be traced by JAX .TracerBoolConversionError",
    ),
    "step branches on an array": (
        lambda: countdown(step=lambda state, action: take(state, 0 if action > 0 else 1)),
        "`step` cannot be traced by JAX .TracerBoolConversionError",
    ),
    "observe fails": (
        lambda: countdown(observe=lambda state: state["board"]),
        "`observe` cannot be traced by JAX .KeyError: 'board'",
    ),
    "init returns no metadata": (
        lambda: countdown(init=lambda key: start(key)[0]),
        r"`init` returned dict, expected a pair `\(state, tz.StepMetadata\)`",
    ),
    "step returns metadata of its own": (
        lambda: countdown(step=lambda state, action: (state, {"rewards": jnp.zeros(2)})),
        r"`step` returned \['dict', 'dict'\], expected a pair",
    ),
    "integer rewards": (
        lambda: everywhere(put("rewards", jnp.int32)),
        r"`rewards` in the metadata from `init` is int32\[2\], expected a float array of shape \[P\]",
    ),
    "one reward without an axis": (
        lambda: everywhere(put("rewards", lambda rewards: rewards[0])),
        r"`rewards` in the metadata from `init` is float32\[\], expected a float array of shape \[P\]",
    ),
    "float mask": (
        lambda: everywhere(put("action_mask", jnp.float32)),
        r"`action_mask` in the metadata from `init` is float32\[3\], expected a boolean array of shape \[A\]",
    ),
    "mask with two axes": (
        lambda: everywhere(put("action_mask", lambda mask: mask[None])),
        r"`action_mask` in the metadata from `init` is bool\[1, 3\], expected a boolean array of shape \[A\]",
    ),
    "no actions": (
        lambda: everywhere(put("action_mask", lambda mask: mask[:0])),
        "`action_mask` from `init` is empty, expected at least one action",
    ),
    "terminated as an integer": (
        lambda: everywhere(put("terminated", jnp.int32)),
        r"`terminated` in the metadata from `init` is int32\[\], expected a boolean scalar",
    ),
    "player as a float": (
        lambda: everywhere(put("cur_player_id", jnp.float32)),
        r"`cur_player_id` in the metadata from `init` is float32\[\], expected an integer scalar",
    ),
    "three players": (
        lambda: everywhere(put("rewards", lambda rewards: jnp.zeros(3))),
        "`rewards` from `init` has 3 entries, one for each player; tz plays games of one or two players",
    ),
    "step adds a part": (
        lambda: countdown(step=changed(take, lambda state, metadata: ({**state, "last": state["left"]}, metadata))),
        r"`state\['last'\]` is missing from `init` and int32\[\] from `step`; both must return the same tree",
    ),
    "step changes a shape": (
        lambda: countdown(
            step=changed(take, lambda state, metadata: ({**state, "left": state["left"][None]}, metadata)),
            observe=lambda state: jnp.zeros(2),
        ),
        r"`state\['left'\]` is int32\[\] from `init` and int32\[1\] from `step`",
    ),
    "step changes a dtype": (
        lambda: countdown(
            step=changed(take, lambda state, metadata: ({**state, "left": state["left"] * 1.0}, metadata))
        ),
        r"`state\['left'\]` is int32\[\] from `init` and float32\[\] from `step`",
    ),
    "step changes the dtype of metadata": (
        lambda: countdown(step=changed(take, put("cur_player_id", jnp.int8))),
        r"`metadata.cur_player_id` is int32\[\] from `init` and int8\[\] from `step`",
    ),
    "step changes a container": (
        lambda: countdown(
            init=changed(start, lambda state, metadata: ([state["left"], state["player"]], metadata)),
            step=lambda state, action: changed(take, lambda state, metadata: (tuple(state.values()), metadata))(
                {"left": state[0], "player": state[1]}, action
            ),
        ),
        r"the state has the structure PyTreeDef\(\[\*, \*\]\) from `init` and PyTreeDef\(\(\*, \*\)\) from `step`",
    ),
    "observation in two parts": (
        lambda: countdown(observe=lambda state: (state["left"], state["player"])),
        "`observe` returned a tuple, expected one array",
    ),
    "observation is a key": (
        lambda: countdown(observe=lambda state: jax.random.key(0)),
        r"`observe` returned key<fry>\[\], expected one array of numbers or booleans",
    ),
    "observation changes its shape": (
        lambda: countdown(observe=growing),
        r"`observe` gave float32\[\d+\] in an initial state and float32\[\d+\] after a move",
    ),
    "new game is over": (
        lambda: countdown(init=changed(start, put("terminated", lambda terminated: ~terminated))),
        "in game 0 after 0 moves: a new game is terminated already",
    ),
    "new game pays": (
        lambda: countdown(init=changed(start, put("rewards", lambda rewards: jnp.array([1.0, -1.0])))),
        r"in game 0 after 0 moves: an initial state has rewards, expected zeros.*rewards = \[ 1. -1.\]",
    ),
    "game goes on after its end": (
        lambda: after_the_end(reopen),
        "a step from a terminated state is not terminated, expected the game to stay over",
    ),
    "end is paid twice": (
        lambda: after_the_end(lambda state: (state, describe(state, jnp.array([1.0, -1.0])))),
        r"a step from a terminated state paid again.*rewards = \[ 1. -1.\], .* terminated = True",
    ),
    "no legal action": (
        lambda: at_five_left("action_mask", False),
        "in game 0 after 2 moves: no action is legal though the game is not over",
    ),
    "rewards do not sum to zero": (
        lambda: at_five_left("rewards", 0.5),
        r"in game 0 after 2 moves: the rewards of the two players do not sum to zero.*rewards = \[0.5 0.5\]",
    ),
    "rewards are not numbers": (
        lambda: at_five_left("rewards", jnp.nan),
        r"in game 0 after 2 moves: `rewards` has NaN or infinity.*rewards = \[nan nan\]",
    ),
    "player too large": (
        lambda: at_five_left("cur_player_id", 2),
        "in game 0 after 2 moves: `cur_player_id` is out of range, expected 0 to 1.*cur_player_id = 2",
    ),
    "player below zero": (
        lambda: at_five_left("cur_player_id", -1),
        "in game 0 after 2 moves: `cur_player_id` is out of range, expected 0 to 1.*cur_player_id = -1",
    ),
    "observation is infinite": (
        lambda: countdown(observe=lambda state: 1 / look(state)),
        "after 0 moves: `observe` returned NaN or infinity",
    ),
    "init is impure": (
        lambda: countdown(init=changed(start, with_calls)),
        r"`init` is impure: called twice with the same arguments, its results differ at `\[0\]\['turns'\]`",
    ),
    "step is impure": (
        lambda: countdown(init=changed(start, with_turns), step=changed(take, with_calls)),
        r"`step` is impure: called twice with the same arguments, its results differ at `\[0\]\['turns'\]`",
    ),
    "observe is impure": (
        lambda: countdown(observe=lambda state: look(state) + np.random.default_rng().random()),
        "`observe` is impure: called twice with the same arguments, its results differ",
    ),
    "observe depends on jit": (
        lambda: countdown(observe=lambda state: look(state) + isinstance(state["left"], jax.core.Tracer)),
        "`observe` gives another result under `jax.jit` and `jax.vmap` than without",
    ),
    "step raises in a game": (
        lambda: countdown(step=fussy),
        "a random game under `jax.jit`, `jax.vmap` and `jax.lax.scan` failed .*Error",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_env_names_the_broken_rule(case):
    make, message = BROKEN[case]
    with pytest.raises(ValueError, match=message) as raised:
        check_env(make(), num_games=2, max_steps=16)
    assert str(raised.value).startswith("countdown: ")


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

    with pytest.raises(ValueError, match="in game 1 after 1 moves: the rewards of the two players do not sum"):
        check_env(countdown(init=init, step=changed(take, pay)), key=jax.random.key(0), num_games=2, max_steps=16)


def test_check_env_warns_when_no_game_ended():
    with pytest.warns(UserWarning, match="none of 2 random games ended within 1 moves.*Raise `max_steps`"):
        check_env(countdown(), num_games=2, max_steps=1)


@pytest.mark.parametrize(("num_games", "max_steps"), [(0, 1), (1, 0)])
def test_check_env_needs_a_game_and_a_move(num_games, max_steps):
    with pytest.raises(ValueError, match=f"at least 1, found {num_games} and {max_steps}"):
        check_env(countdown(), num_games=num_games, max_steps=max_steps)


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
    check_env(env, max_steps=16)


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
    check_env(env, max_steps=16)
