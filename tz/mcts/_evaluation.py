"""What an evaluator says of a position, as the tree keeps it: masked logits, a value, and the log prior."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz.games.env import StepMetadata
from tz.mcts._solver import estimate
from tz.mcts.settings import MCTS


@jax.named_scope("evaluate")
def evaluate(
    mcts: MCTS, evaluator: Callable[..., Any], env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """The evaluator's logits, -inf where illegal, and its value, 0 where the game is over."""
    logits, value = evaluator(env_state, metadata, key)
    if logits.shape != metadata.action_mask.shape or value.shape != ():
        raise ValueError(
            f"The evaluator returned logits of shape {logits.shape} and a value of shape {value.shape}; this game "
            f"needs logits of shape {metadata.action_mask.shape} and a scalar value. Change the network's policy size "
            "or head."
        )
    logits = jnp.maximum(logits.astype(jnp.float32), jnp.finfo(jnp.float32).min)  # legal, however unlikely
    logits = jnp.where(metadata.action_mask, logits, -jnp.inf)
    value = estimate(value.astype(jnp.float32)) if mcts.solve else value.astype(jnp.float32)
    # Logits that are NaN or infinite make the value NaN, and that reaches the root, where self-play looks for it.
    value = jnp.where(jnp.max(logits) < jnp.inf, value, jnp.nan)
    return logits, jnp.where(metadata.terminated, 0.0, value)


def largest(mcts: MCTS, logits: Float[Array, " A"]) -> Int[Array, " K"] | None:
    """The actions that a node keeps, or None for all."""
    return None if mcts.max_actions is None else lax.top_k(logits, mcts.max_actions)[1].astype(jnp.int16)


@jax.named_scope("prior")
def log_prior(logits: Float[Array, " A"], actions: Int[Array, " K"] | None) -> Float[Array, " K"]:
    """The log prior of the actions kept; it sums to 1 over them."""
    logits = logits if actions is None else logits[actions]
    prior = jnp.maximum(jax.nn.log_softmax(logits), jnp.finfo(jnp.float32).min)
    return jnp.where(logits == -jnp.inf, -jnp.inf, prior)  # NaN stays NaN
