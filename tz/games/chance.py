"""Games with chance: nature is a player of its own, who draws an outcome where dice or cards decide.

After a move that chance decides, the state is nature's to move in, and `StepMetadata.chance` has the probabilities of
its outcomes. `Env.outcome` leads from there to a state of a player. So the game itself never draws anything: self-play
and matches draw nature's outcomes from their own keys, and a search tries those that may come.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one, check_one_key
from tz.games.env import Env, StepMetadata


def cumulative(probabilities: Float[Array, " C"]) -> Float[Array, " C"]:
    """Returns the cumulative distribution of outcomes, -1 where one cannot happen; its greatest entry is exactly 1.

    Where nothing can happen, since a player is to move, all entries are -1.
    """
    possible = probabilities > 0
    sums = jnp.where(possible, jnp.cumsum(probabilities.astype(jnp.float32)), 0.0)
    return jnp.where(possible, sums / jnp.maximum(jnp.max(sums), jnp.finfo(jnp.float32).tiny), -1.0)


def outcome_at(cdf: Float[Array, " C"], point: Float[Array, ""]) -> Int[Array, ""]:
    """Returns the outcome at a point of a cumulative distribution; 0 where nothing can happen.

    **Arguments:** `cdf`, from `cumulative`; `point`, from 0 up to but not including 1.
    """
    return jnp.argmax(cdf > point).astype(jnp.int32)


def is_to_draw(metadata: StepMetadata) -> Bool[Array, "..."]:
    """Returns whether nature is to move, in a game with chance."""
    assert metadata.chance is not None  # `check_env` and `search` say so by name
    return jnp.any(metadata.chance > 0, axis=-1)


Outcome = Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]]


def answer(
    nature: Outcome | None, env_state: PyTree, metadata: StepMetadata, outcome: Int[Array, ""], *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """Returns the position after an outcome of nature, or the same position where a player is to move.

    **Arguments:** `nature`, the `outcome` of a game or model; `env_state` and `metadata`, from its `step`. Either both
    have a discount or neither has.

    **Returns:** the state and its metadata, whose rewards are those of the move and of the outcome together.
    """
    assert nature is not None  # `check_env` and `search` say so by name
    is_nature = is_to_draw(metadata)
    next_state, after = nature(env_state, outcome, key)
    rewards = metadata.rewards + after.rewards.astype(metadata.rewards.dtype)
    discount = None
    if metadata.discount is not None and after.discount is not None:
        discount = metadata.discount * after.discount
    after = dataclasses.replace(after, rewards=rewards, discount=discount)
    return jax.tree.map(
        lambda new, old: jnp.where(is_nature, jnp.asarray(new, jnp.asarray(old).dtype), old),
        (next_state, after),
        (env_state, metadata),
    )


def make_move(
    env: Env, env_state: PyTree, action: Int[Array, ""], *, key: PRNGKeyArray | None = None
) -> tuple[PyTree, StepMetadata]:
    """Make a move in one game, and draw nature's answer if the move has one.

    In a game without chance this is `env.step`.

    **Arguments:**

    - `env`: the game.
    - `env_state`: a state in which a player is to move, or in which the game is over.
    - `action`: the move of the player to move.
    - `key`: decides nature's outcome. With the same key, equal probabilities give the same outcome. A game without
        chance needs none.

    **Returns:** the next state in which a player is to move, or in which the game is over, and its metadata. The
    rewards are those of the move and of nature's outcome together.

    **Raises:** `ValueError` for a game with chance without a key.
    """
    check_one("make_move", "action", action)
    check_key("make_move", env, key)
    after = env.step(env_state, action)
    return after if key is None or env.outcome is None else draw_answer(env, *after, key=key)


def check_key(where: str, env: Env, key: PRNGKeyArray | None, name: str = "key") -> None:
    """Raises `ValueError` for a game with chance without a key, and for something else in the place of a key."""
    if key is not None:
        check_one_key(where, key)
    elif env.outcome is not None:
        raise ValueError(
            f"{where}: found {env.name}, a game with chance, and {name}=None, expected a key of nature's outcomes; "
            "give one."
        )


def make_numbered_move(
    env: Env, env_state: PyTree, action: Int[Array, ""], num_draws: Int[Array, ""] | None, *, key: PRNGKeyArray | None
) -> tuple[PyTree, StepMetadata, Int[Array, ""] | None]:
    """Makes a move like `make_move`, in a game whose draws are numbered.

    Nature's n-th draw depends on the key and on n alone, so two games with one key get the same dice, whatever is
    played in them.

    **Arguments:** `num_draws`, nature's draws in this game so far; `key`, of all draws of the game; both are None in a
    game without chance.

    **Returns:** the next state and its metadata, and the number of draws after the move.
    """
    after = env.step(env_state, action)
    if num_draws is None or key is None:
        return *after, None
    drawn = draw_answer(env, *after, key=jax.random.fold_in(key, num_draws))
    return *drawn, num_draws + is_to_draw(after[1]).astype(jnp.int32)


def draw_answer(
    env: Env, env_state: PyTree, metadata: StepMetadata, *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """Draws nature's outcome with the key where nature is to move, and returns the position after it."""
    draw_key, outcome_key = jax.random.split(key)
    assert metadata.chance is not None  # `check_env` and `search` say so by name
    outcome = outcome_at(cumulative(metadata.chance), jax.random.uniform(draw_key, (), jnp.float32))
    return answer(env.outcome, env_state, metadata, outcome, key=outcome_key)


def split_with_chance(env: Env, key: PRNGKeyArray, num: int) -> list[Any]:
    """Splits a key into `num` keys and one for nature's draws, which is None in a game without chance."""
    keys = jax.random.split(key, num if env.outcome is None else num + 1)
    return [*(keys[index] for index in range(num)), None if env.outcome is None else keys[num]]


class SampledState(eqx.Module):
    """A state of a game with sampled chance.

    **Fields:** `state`, of the game as its user wrote it; `action`, the move made in it, where nature is to move;
    `player` to move, and `terminated`, whether the game is over.
    """

    state: PyTree
    action: Int[Array, ""]
    player: Int[Array, ""]
    terminated: Bool[Array, ""]


def sampled_chance(
    init: Callable[[PRNGKeyArray], tuple[PyTree, StepMetadata]],
    step: Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]],
    observe: Callable[[PyTree], PyTree],
    *,
    num_outcomes: int = 8,
    name: str = "env",
    draw: Callable[[PyTree], Any] | None = None,
    label: Callable[[PyTree, int], str] | None = None,
    text: Callable[[PyTree], str] | None = None,
    board: Callable[[PyTree], Any] | None = None,
) -> Env:
    """Make a game of a step that takes a key, where the outcomes of chance are too many to list.

    Each move is answered by nature. In the real game its outcome is drawn by `step` with a key of the game. A search
    never sees that key: it gives each move up to `num_outcomes` outcomes, which it draws with keys of its own, and
    takes them to be equally likely.

    **Arguments:**

    - `init`: `key -> (state, StepMetadata)`, a new game.
    - `step`: `(state, action, key) -> (state, StepMetadata)`. The result of a step from a terminated state
        is not used.
    - `observe`: `state -> observation`.
    - `num_outcomes`: `C`, how many outcomes of one move a search tells apart. More are closer to the truth, and leave
        fewer simulations for each.
    - `name`, `draw`, `label`, `text`, `board`: as in [`tz.Env`][]; the functions see the states of `init` and `step`.

    **Returns:** a game whose states are [`tz.games.SampledState`][]s.

    **Raises:** `ValueError` if `num_outcomes` is below 1.

    **Example:**

    ```python
    env = tz.games.sampled_chance(init, step, observe, num_outcomes=16, name="my game")
    ```
    """
    check_ints("sampled_chance", num_outcomes=num_outcomes)
    if num_outcomes < 1:
        raise ValueError(f"sampled_chance: found num_outcomes={num_outcomes}, expected at least 1; raise it.")

    def init_sampled(key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        return _a_players_turn(*init(key), num_outcomes)

    def step_sampled(state: SampledState, action: Int[Array, ""]) -> tuple[PyTree, StepMetadata]:
        return _natures_turn(state, action, jax.eval_shape(init, jax.random.key(0))[1], num_outcomes)

    def outcome(state: SampledState, outcome: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        del outcome  # all are alike: the key tells them apart
        return _a_players_turn(*step(state.state, state.action, key), num_outcomes)

    return Env(
        init=init_sampled,
        step=step_sampled,
        observe=lambda state: observe(state.state),
        name=name,
        draw=None if draw is None else lambda state: draw(state.state),
        outcome=outcome,
        label=None if label is None else lambda state, action: label(state.state, action),
        text=None if text is None else lambda state: text(state.state),
        board=None if board is None else lambda state: board(state.state),
    )


def _a_players_turn(state: PyTree, metadata: StepMetadata, num_outcomes: int) -> tuple[SampledState, StepMetadata]:
    """Returns a position of the user's game as one of the game with sampled chance, in which nature is not to move."""
    metadata = dataclasses.replace(metadata, chance=jnp.zeros(num_outcomes, jnp.float32))
    player = jnp.asarray(metadata.cur_player_id, jnp.int32)
    return SampledState(state, jnp.int32(0), player, jnp.asarray(metadata.terminated)), metadata


def _natures_turn(
    state: SampledState, action: Int[Array, ""], like: StepMetadata, num_outcomes: int
) -> tuple[SampledState, StepMetadata]:
    """Returns the position after a move, which nature has yet to answer; `like` has the shapes of the metadata."""
    chance = jnp.where(state.terminated, jnp.zeros(num_outcomes, jnp.float32), jnp.float32(1 / num_outcomes))
    metadata = StepMetadata(
        rewards=jnp.zeros(like.rewards.shape, like.rewards.dtype),
        action_mask=jnp.zeros(like.action_mask.shape, bool),
        terminated=state.terminated,
        cur_player_id=state.player.astype(like.cur_player_id.dtype),
        chance=chance,
    )
    return dataclasses.replace(state, action=jnp.asarray(action, jnp.int32)), metadata


def check_nature(where: str, model: Any, metadata: StepMetadata) -> None:
    """Raises `ValueError` unless a game or model has both probabilities and outcomes of chance, or neither."""
    if (model.outcome is None) != (metadata.chance is None):
        found, missing = ("an `outcome`", "`chance`") if metadata.chance is None else ("`chance`", "an `outcome`")
        raise ValueError(
            f"{where}{model.name}: found {found} without {missing}, expected both in a game with chance and neither "
            "in others; let the metadata have the probabilities of nature's outcomes, and `outcome` lead to them."
        )
