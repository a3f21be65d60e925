"""Games with chance: nature is an additional player, which draws an outcome where dice or cards decide.

After a move whose result depends on chance, nature is to move, and `StepMetadata.chance` has the probabilities of its
outcomes. `Env.outcome` then leads to a state in which a player is to move. So the game itself never draws anything:
self-play and matches draw nature's outcomes with their own keys, and a search tries the possible outcomes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one, check_one_key
from tz.games.env import Env, StepMetadata


def cumulative(probabilities: Float[Array, " C"]) -> Float[Array, " C"]:
    """Returns the cumulative distribution of nature's outcomes, with -1 for outcomes that cannot happen.

    The greatest entry is exactly 1, so that every point below 1 has an outcome. If a player is to move, all entries are
    -1.
    """
    possible = probabilities > 0
    sums = jnp.where(possible, jnp.cumsum(probabilities.astype(jnp.float32)), 0.0)
    return jnp.where(possible, sums / jnp.maximum(jnp.max(sums), jnp.finfo(jnp.float32).tiny), -1.0)


def outcome_at(cdf: Float[Array, " C"], point: Float[Array, ""]) -> Int[Array, ""]:
    """Returns the outcome at a point of a cumulative distribution; 0 if no outcome can happen.

    `cdf` comes from `cumulative`; `point` is at least 0 and below 1.
    """
    # argmax finds the first entry above the point. An impossible outcome has -1, so it is never found.
    return jnp.argmax(cdf > point).astype(jnp.int32)


def is_to_draw(metadata: StepMetadata) -> Bool[Array, "..."]:
    """Returns whether nature is to move, in a state of a game with chance."""
    assert metadata.chance is not None  # `check_env` and `search` report this with the name of the game
    return jnp.any(metadata.chance > 0, axis=-1)


def check_player_to_move(where: str, metadata: StepMetadata) -> None:
    """Raises `ValueError` if nature is to move.

    It does nothing where that is not known: under `jax.jit`, and for arrays that are split over several processes.
    """
    chance = metadata.chance
    if chance is None or isinstance(chance, Tracer) or not getattr(chance, "is_fully_addressable", True):
        return
    if np.any(np.asarray(chance) > 0):  # jnp would trace even a known array
        raise ValueError(
            f"{where}: found a position in which nature is to move, expected one in which a player is to move; make "
            "moves with tz.games.make_move, which draws nature's outcome, instead of env.step."
        )


Outcome = Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]]


def answer(
    nature: Outcome | None, env_state: PyTree, metadata: StepMetadata, outcome: Int[Array, ""], *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """Returns the position after an outcome of nature, or the same position if a player is to move.

    **Arguments:** `nature`, the function `outcome` of a game or model; `env_state` and `metadata`, from its `step`;
    `outcome` and `key`, the arguments of `nature`. Either both `step` and `nature` return a discount, or neither does.

    **Returns:** the state and its metadata. The rewards are the sum of the rewards of the move and of the outcome, and
    the discount is the product of the two discounts.
    """
    assert nature is not None  # as in `is_to_draw`
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
    """Makes a move in one game, and draws nature's outcome if nature is to move after it.

    In a game without chance, this is `env.step`.

    **Arguments:**

    - `env`: the game.
    - `env_state`: a state in which a player is to move, or in which the game is over.
    - `action`: an integer scalar, the action of the player to move.
    - `key`: decides nature's outcome. The same key gives the same outcome wherever the probabilities are equal. Only a
        game with chance needs a key.

    **Returns:** the next state in which a player is to move, or in which the game is over, and its metadata. The
    rewards are the sum of the rewards of the move and of nature's outcome.

    **Raises:** `ValueError` if a game with chance gets no key, or if `action` or `key` has a batch axis.
    """
    check_one("make_move", "action", action)
    check_key("make_move", env, key)
    after = env.step(env_state, action)
    return after if key is None or env.outcome is None else draw_answer(env, *after, key=key)


def check_key(where: str, env: Env, key: PRNGKeyArray | None, name: str = "key") -> None:
    """Raises `ValueError` if a game with chance gets no key, or if several keys are given in place of one."""
    if key is not None:
        check_one_key(where, key)
    elif env.outcome is not None:
        raise ValueError(
            f"{where}: found {env.name}, a game with chance, and {name}=None, expected a key for nature's outcomes; "
            f"pass {name}=jax.random.key(seed)."
        )


def make_numbered_move(
    env: Env, env_state: PyTree, action: Int[Array, ""], num_draws: Int[Array, ""] | None, *, key: PRNGKeyArray | None
) -> tuple[PyTree, StepMetadata, Int[Array, ""] | None]:
    """Makes a move as `make_move` does, but counts nature's draws and gives each draw a different key.

    Nature's n-th draw depends only on `key` and n. So two games with the same key get the same dice, whatever moves are
    made in them.

    **Arguments:** `num_draws`, the number of nature's draws in this game so far; `key`, from which the keys of all its
    draws are made. Both are None in a game without chance.

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
    """Returns the position after a random outcome of nature, or the same position if a player is to move."""
    draw_key, outcome_key = jax.random.split(key)
    assert metadata.chance is not None  # as in `is_to_draw`
    outcome = outcome_at(cumulative(metadata.chance), jax.random.uniform(draw_key, (), jnp.float32))
    return answer(env.outcome, env_state, metadata, outcome, key=outcome_key)


def split_with_chance(env: Env, key: PRNGKeyArray, num: int) -> list[Any]:
    """Splits a key into `num` keys and one more for nature's draws, which is None in a game without chance."""
    keys = jax.random.split(key, num if env.outcome is None else num + 1)
    return [*(keys[index] for index in range(num)), None if env.outcome is None else keys[num]]


class SampledState(eqx.Module):
    """A state of a game from [`tz.games.sampled_chance`][].

    If nature is to move, the move has been chosen but not yet made: `state` is still the state before it.

    **Fields:**

    - `state`: the state of the original game.
    - `action`: the move that nature has yet to answer. It has no meaning if a player is to move.
    - `player`: the player to move in `state`.
    - `terminated`: whether the game is over in `state`.
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
    """Makes a game from a `step` that takes a key, for chance with too many outcomes to list.

    In this game, nature is to move after every move of a player. When the game is played, `step` draws the outcome with
    a key that a search never sees. A search draws up to `num_outcomes` outcomes of each move with its own keys, and
    treats them as equally likely.

    If you can list the outcomes and their probabilities, write an [`tz.Env`][] with `outcome` instead: its search is
    exact about chance.

    **Arguments:**

    - `init`: `key -> (state, StepMetadata)`, starts a new game.
    - `step`: `(state, action, key) -> (state, StepMetadata)`, makes a move and draws at random with the key. The result
        of a step from a terminated state is not used.
    - `observe`: `state -> observation`, the input of the network.
    - `num_outcomes`: `C`, the most outcomes of one move that a search tells apart. More outcomes are closer to the true
        distribution, but leave fewer simulations for each outcome.
    - `name`, `draw`, `label`, `text`, `board`: as in [`tz.Env`][]. The functions get the states of `init` and `step`.

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
        del outcome  # outcomes differ only by their keys
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
    """Converts a position of the original game to one with sampled chance, in which nature is not to move."""
    metadata = dataclasses.replace(metadata, chance=jnp.zeros(num_outcomes, jnp.float32))
    player = jnp.asarray(metadata.cur_player_id, jnp.int32)
    return SampledState(state, jnp.int32(0), player, jnp.asarray(metadata.terminated)), metadata


def _natures_turn(
    state: SampledState, action: Int[Array, ""], like: StepMetadata, num_outcomes: int
) -> tuple[SampledState, StepMetadata]:
    """Returns the position after a move, in which nature is to move; `like` has the shapes of the metadata."""
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
    """Raises `ValueError` if a game or model has probabilities of chance without `outcome`, or the reverse."""
    if (model.outcome is None) != (metadata.chance is None):
        found, missing = ("an `outcome`", "`chance`") if metadata.chance is None else ("`chance`", "an `outcome`")
        raise ValueError(
            f"{where}{model.name}: found {found} without {missing}, expected both in a game with chance and neither "
            "in other games; put the probabilities in the metadata and pass a function `outcome` for nature's moves."
        )
