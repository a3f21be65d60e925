"""Loops that end when every game of the batch is done."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.custom_batching.custom_vmap
def any_game(pred: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `pred` holds in any game of the batch, over every enclosing `vmap`.

    As the condition of a `while_loop` it keeps the loop's predicate unbatched, so that `vmap` adds no select of the
    whole carry at every iteration; the body must then leave the games where `pred` is False as they are.
    """
    return pred


@any_game.def_vmap
def _any_game_batched(axis_size, in_batched, pred):
    del axis_size, in_batched
    return any_game(jnp.any(pred)), False
