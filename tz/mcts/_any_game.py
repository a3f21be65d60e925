"""A condition for loops that run until every game of the batch is done."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.custom_batching.custom_vmap
def any_game(pred: Bool[Array, ""]) -> Bool[Array, ""]:
    """Returns whether `pred` holds in any game of the batch, across every enclosing `vmap`.

    Use it in the condition of a `while_loop`. Under `vmap`, a condition that differs between games makes JAX select
    between the old and the new carry in every iteration, which copies the whole carry. A condition that is the same for
    all games needs no select. In return, the body itself must leave a game unchanged if its `pred` is False.
    """
    return pred  # without `vmap` there is only one game


@any_game.def_vmap
def _any_game_batched(axis_size, in_batched, pred):
    # The result has no batch axis (`False`). The inner call reduces it over the next enclosing `vmap`.
    del axis_size, in_batched
    return any_game(jnp.any(pred)), False
