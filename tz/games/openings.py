"""Functions that give a game other starting positions: positions after random moves, or given positions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key
from tz._arrays import strong
from tz.games.chance import check_player_to_move, make_move
from tz.games.env import Env, StepMetadata


def random_opening(
    env: Env, max_moves: int, num_moves: int | Int[Array, ""] | None = None, *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """Starts a new game and makes random legal moves in it.

    Moves that would end the game are skipped and not replaced, so the game is not over, but may have fewer moves.

    **Arguments:**

    - `env`: the game.
    - `max_moves`: the largest number of moves; a Python int, since it is the length of a compiled loop.
    - `num_moves`: the number of moves, from 0 to `max_moves`; an int or an integer scalar. By default, `max_moves`.
    - `key`: decides the new game and the moves.

    **Returns:** the state and metadata after the moves.

    **Raises:** `ValueError` if `max_moves` is not an int or is negative, or if `key` has a batch axis.
    """
    check_ints("random_opening", max_moves=max_moves)
    if max_moves < 0:
        raise ValueError(f"random_opening: found max_moves={max_moves}, expected 0 or more; raise it.")
    check_one_key("random_opening", key)
    return _random_moves(env, max_moves, num_moves, key, with_moves=False)[0]


def opening_with_moves(
    env: Env, max_moves: int, *, key: PRNGKeyArray
) -> tuple[tuple[PyTree, StepMetadata], tuple[PyTree, StepMetadata, Int[Array, " T"]]]:
    """Plays a random opening and records it.

    **Returns:** the position of `random_opening`; and, for each of the `max_moves` moves, the state and metadata before
    it and the move, or -1 if it was skipped.
    """
    return _random_moves(env, max_moves, None, key, with_moves=True)


def _random_moves(
    env: Env, max_moves: int, num_moves: int | Int[Array, ""] | None, key: PRNGKeyArray, *, with_moves: bool
) -> tuple[tuple[PyTree, StepMetadata], Any]:
    def play(carry, key_and_index):
        (env_state, metadata), (key, index) = carry, key_and_index
        logits = jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)
        action = jax.random.categorical(key, logits).astype(jnp.int32)
        # Nature needs another key, since `key` has already drawn the action.
        after = make_move(env, env_state, action, key=None if env.outcome is None else jax.random.fold_in(key, 1))
        stays = after[1].terminated if num_moves is None else after[1].terminated | (index >= num_moves)
        move = (*carry, jnp.where(stays, -1, action)) if with_moves else None
        return jax.tree.map(lambda new, old: jnp.where(stays, old, new), after, carry), move

    init_key, key = jax.random.split(key)
    return lax.scan(
        play, env.init(init_key), (jax.random.split(key, max_moves), jnp.arange(max_moves, dtype=jnp.int32))
    )


def random_starts(env: Env, max_moves: int) -> Env:
    """Makes a game that starts after a random number of random legal moves, for more varied self-play.

    Each start costs `max_moves` steps of the game.

    **Arguments:**

    - `env`: the game.
    - `max_moves`: the largest number of moves. The number is uniform from 0 to `max_moves`.

    **Returns:** the same game with another `init`.

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
    """Returns a position as the start of a game, with rewards of zero."""
    return env_state, dataclasses.replace(metadata, rewards=jnp.zeros_like(metadata.rewards))


class _StartsFrom(eqx.Module):
    """An `init` with a list of positions. It is a module, so another list of the same length compiles nothing."""

    init: Callable
    openings: tuple[PyTree, StepMetadata]
    fraction: float

    def __call__(self, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        share_key, index_key, init_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, (), 0, len(self.openings[1].terminated))
        given = _as_new(*jax.tree.map(lambda x: x[index], self.openings))
        is_given = jax.random.bernoulli(share_key, jnp.float32(self.fraction))
        return jax.tree.map(lambda one, other: jnp.where(is_given, one, other), given, self.init(init_key))


def starts_from(env: Env, openings: tuple[PyTree, StepMetadata], fraction: float = 0.5) -> Env:
    """Makes a game in which a fraction of the episodes begin in given positions.

    Use it for self-play from positions that self-play rarely reaches, such as positions of games against another
    player; see [`tz.games.played_positions`][]. Programs that were compiled for one list of openings also take other
    lists of the same length.

    **Arguments:**

    - `env`: the game.
    - `openings`: the states and metadata of the positions, `[N, ...]`. All are equally likely, and the game must not be
        over in any of them.
    - `fraction`: the probability, from 0 to 1, that an episode begins in one of the openings. The other episodes begin
        as in `env`.

    **Returns:** the same game with another `init`.

    **Raises:** `ValueError` if there is no opening, if the game is over or nature is to move in one of them, if they
    are positions of another game, or if the fraction is not from 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"starts_from: found fraction={fraction}, expected a number from 0 to 1; give a fraction of the games."
        )
    openings = jax.tree.map(jnp.asarray, openings)
    over = openings[1].terminated
    if over.ndim != 1 or not len(over):
        raise ValueError(
            f"starts_from: found openings with `terminated` of shape {over.shape}, expected [N] with N at least "
            "1; for one position, add the axis: jax.tree.map(lambda x: x[None], position)."
        )
    if jnp.any(over):
        raise ValueError(
            f"starts_from: found {jnp.sum(over)} openings in which the game is over, expected none; leave them out."
        )
    check_openings("starts_from", env, openings)
    return dataclasses.replace(env, init=_StartsFrom(env.init, openings, fraction))


def check_openings(where: str, env: Env, openings: tuple[PyTree, StepMetadata]) -> None:
    """Raises `ValueError` unless these are positions `[N, ...]` of this game in which a player is to move."""
    expected = jax.eval_shape(lambda key: strong(env.init(key)), jax.random.key(0))
    found = jax.eval_shape(lambda openings: jax.tree.map(lambda x: x[0], openings), openings)
    if not eqx.tree_equal(_shapes(found), _shapes(expected)):
        raise ValueError(
            f"{where}: found openings of another game, expected positions of {env.name}; make them with its `init` and "
            "tz.games.make_move."
        )
    check_player_to_move(where, openings[1])


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.shape} {x.dtype}", tree)
