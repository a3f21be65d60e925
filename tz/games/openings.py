"""Starting positions of games: after random moves, or after given ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key
from tz.games.chance import make_move
from tz.games.env import Env, StepMetadata


def random_opening(
    env: Env, max_moves: int, num_moves: int | Int[Array, ""] | None = None, *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """A new game after `num_moves` random legal moves, by default `max_moves`; one that would end it is not made."""

    check_ints("random_opening", max_moves=max_moves)
    check_one_key("random_opening", key)
    return _random_moves(env, max_moves, num_moves, key, with_moves=False)[0]


def opening_with_moves(
    env: Env, max_moves: int, *, key: PRNGKeyArray
) -> tuple[tuple[PyTree, StepMetadata], tuple[PyTree, StepMetadata, Int[Array, " T"]]]:
    """The position of `random_opening`, and how it came about: the positions before each move, and the moves.

    The move is -1 where none was made.
    """
    return _random_moves(env, max_moves, None, key, with_moves=True)


def _random_moves(
    env: Env, max_moves: int, num_moves: int | Int[Array, ""] | None, key: PRNGKeyArray, *, with_moves: bool
) -> tuple[tuple[PyTree, StepMetadata], Any]:
    def play(carry, key_and_index):
        (env_state, metadata), (key, index) = carry, key_and_index
        logits = jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)
        action = jax.random.categorical(key, logits).astype(jnp.int32)
        after = make_move(env, env_state, action, key=None if env.outcome is None else jax.random.fold_in(key, 1))
        stays = after[1].terminated if num_moves is None else after[1].terminated | (index >= num_moves)
        move = (*carry, jnp.where(stays, -1, action)) if with_moves else None
        return jax.tree.map(lambda new, old: jnp.where(stays, old, new), after, carry), move

    init_key, key = jax.random.split(key)
    return lax.scan(
        play, env.init(init_key), (jax.random.split(key, max_moves), jnp.arange(max_moves, dtype=jnp.int32))
    )


def random_starts(env: Env, max_moves: int) -> Env:
    """The same game, begun after a random number of random legal moves, from 0 to `max_moves`, for varied self-play.

    Each start costs `max_moves` steps of the game.

    **Raises:** `ValueError` if `max_moves` is below 1.
    """
    check_ints("random_starts", max_moves=max_moves)
    if max_moves < 1:
        raise ValueError(f"random_starts: found max_moves={max_moves}, expected at least 1; raise it.")

    def init(key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        number_key, key = jax.random.split(key)
        num_moves = jax.random.randint(number_key, (), 0, max_moves + 1, jnp.int32)
        return _as_new(*random_opening(env, max_moves, num_moves, key=key))

    return dataclasses.replace(env, init=init)


def _as_new(env_state: PyTree, metadata: StepMetadata) -> tuple[PyTree, StepMetadata]:
    """A position as one to begin in, where nobody has been paid yet."""
    return env_state, dataclasses.replace(metadata, rewards=jnp.zeros_like(metadata.rewards))


class _StartsFrom(eqx.Module):
    """An `init` with a list of positions; a module, so that with another list of that length nothing is compiled."""

    init: Callable
    openings: tuple[PyTree, StepMetadata]
    fraction: float

    def __call__(self, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        share_key, index_key, init_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, (), 0, len(self.openings[1].terminated))
        given = _as_new(*jax.tree.map(lambda x: x[index], self.openings))
        is_given = jax.random.bernoulli(share_key, self.fraction)
        return jax.tree.map(lambda one, other: jnp.where(is_given, one, other), given, self.init(init_key))


def starts_from(env: Env, openings: tuple[PyTree, StepMetadata], fraction: float = 0.5) -> Env:
    """The same game, a fraction of whose episodes begin in given positions, each as likely as any other.

    For self-play from where it does not go by itself, such as positions of games against another player, see
    [`tz.games.played_positions`][]. How many there are is part of what is compiled, which they are is not.

    **Arguments:** `openings`, the environment's states and metadata, `[N, ...]`, none of them over.

    **Raises:** `ValueError` if there is no opening, one is over or of another game, or the fraction is not from 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"starts_from: found fraction={fraction}, expected a number from 0 to 1; give the fraction of games."
        )
    over = openings[1].terminated
    if over.ndim != 1 or not len(over):
        raise ValueError(
            f"starts_from: found openings with `terminated` of shape {over.shape}, expected [N], at least one; for one "
            "position, add the axis: jax.tree.map(lambda x: x[None], position)."
        )
    if jnp.any(over):
        raise ValueError(
            f"starts_from: found {jnp.sum(over)} openings in which the game is over, expected none; leave them out."
        )
    expected = jax.eval_shape(lambda key: env.init(key), jax.random.key(0))
    found = jax.eval_shape(lambda openings: jax.tree.map(lambda x: x[0], openings), openings)
    if not eqx.tree_equal(_shapes(found), _shapes(expected)):
        raise ValueError(
            f"starts_from: found openings of another game, expected positions of {env.name}; make them with its `init` "
            "and `step`."
        )
    return dataclasses.replace(env, init=_StartsFrom(env.init, openings, fraction))


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.shape} {x.dtype}", tree)
