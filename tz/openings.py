"""Where games begin: after random moves, or after given ones."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz.env import Env, StepMetadata


def random_opening(
    env: Env, max_plies: int, num_plies: int | Int[Array, ""] | None = None, *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """A new game after `num_plies` random legal moves, by default `max_plies`; one that would end it is not made."""

    def ply(carry, key_and_index):
        (env_state, metadata), (key, index) = carry, key_and_index
        action = jax.random.categorical(key, jnp.where(metadata.action_mask, 0.0, -jnp.inf)).astype(jnp.int32)
        after = env.step(env_state, action)
        stays = after[1].terminated if num_plies is None else after[1].terminated | (index >= num_plies)
        return jax.tree.map(lambda new, old: jnp.where(stays, old, new), after, carry), None

    init_key, key = jax.random.split(key)
    return lax.scan(ply, env.init(init_key), (jax.random.split(key, max_plies), jnp.arange(max_plies)))[0]


def random_starts(env: Env, max_plies: int) -> Env:
    """The same game, begun after a random number of random legal moves, from 0 to `max_plies`, for varied self-play.

    Each start costs `max_plies` steps of the game.

    **Raises:** `ValueError` if `max_plies` is below 1.
    """
    if max_plies < 1:
        raise ValueError(f"random_starts: max_plies must be at least 1, found {max_plies}.")

    def init(key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        number_key, key = jax.random.split(key)
        return random_opening(env, max_plies, jax.random.randint(number_key, (), 0, max_plies + 1), key=key)

    return dataclasses.replace(env, init=init)


def play_moves(env: Env, moves: Int[Array, " T"], *, key: PRNGKeyArray | None = None) -> tuple[PyTree, StepMetadata]:
    """The position after a list of moves from the beginning, for one game; `jax.vmap` over lists makes many openings.

    **Arguments:** `moves`, actions; -1 makes no move, so that lists of several lengths can be padded. `key`, for the
    first position, where it is drawn.

    **Raises:** a runtime error, through `eqx.error_if`, if a move is no action, or not legal where it is made.
    """

    def ply(carry, action):
        _, metadata = carry
        is_move, num_actions = action != -1, metadata.action_mask.shape[0]
        there_is = (action >= 0) & (action < num_actions)
        action = jnp.clip(action, 0, num_actions - 1)
        legal = there_is & metadata.action_mask[action] & ~metadata.terminated
        action = eqx.error_if(action, is_move & ~legal, "play_moves: a move of the list is not legal where it is made.")
        after = env.step(carry[0], action)
        return jax.tree.map(lambda new, old: jnp.where(is_move, new, old), after, carry), None

    return lax.scan(ply, env.init(jax.random.key(0) if key is None else key), jnp.asarray(moves))[0]
