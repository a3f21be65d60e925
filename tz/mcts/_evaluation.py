"""The evaluation of a position in the form that the tree stores: masked logits, a value, and the log prior."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz.games.env import StepMetadata
from tz.mcts._part_checks import check_returns
from tz.mcts._solver import estimate
from tz.mcts.settings import MCTS


@jax.named_scope("evaluate")
def evaluate(
    mcts: MCTS, evaluator: Callable[..., Any], env_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Returns the evaluator's logits, -inf where illegal, and its value, which is 0 if the game is over."""
    found = check_returns("search: evaluator", evaluator(env_state, metadata, key), ("logits", "value"))
    logits, value = map(jnp.asarray, found)
    if logits.shape != metadata.action_mask.shape or value.shape != ():
        raise ValueError(
            f"search: found an evaluator that returned logits of shape {logits.shape} and a value of shape "
            f"{value.shape}, expected logits of shape {metadata.action_mask.shape} and a scalar value for this game; "
            "change the size of the network's policy, or its value head."
        )
    # In the tree, -inf means illegal. A legal action must not look like that, however unlikely it is.
    logits = jnp.maximum(logits.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    logits = jnp.where(metadata.action_mask, logits, -jnp.inf)
    value = estimate(value.astype(jnp.float32)) if mcts.solve else value.astype(jnp.float32)
    # If a legal action's logit is NaN or +inf, the value becomes NaN. The backup carries the NaN to the root, where
    # self-play finds it.
    value = jnp.where(jnp.max(logits) < jnp.inf, value, jnp.nan)
    return logits, jnp.where(metadata.terminated, 0.0, value)


def largest(mcts: MCTS, logits: Float[Array, " A"]) -> Int[Array, " K"] | None:
    """Returns the actions that a node keeps, those with the largest logits; None if it keeps all."""
    return None if mcts.max_actions is None else lax.top_k(logits, mcts.max_actions)[1].astype(jnp.int16)


@jax.named_scope("prior")
def log_prior(logits: Float[Array, " A"], actions: Int[Array, " K"] | None) -> Float[Array, " K"]:
    """Returns the log prior of the kept actions; the prior sums to 1 over them."""
    logits = logits if actions is None else logits[actions]
    # The clip keeps legal actions above -inf. Without a legal action, as in an ended game, the softmax is NaN.
    prior = jnp.maximum(jax.nn.log_softmax(logits), jnp.finfo(jnp.float32).min)
    return jnp.where(logits == -jnp.inf, -jnp.inf, prior)  # a NaN from the evaluator stays NaN


def uniform_prior(logits: Float[Array, " A"], actions: Int[Array, " K"] | None) -> Float[Array, " K"]:
    """Returns the log prior of the kept actions if all legal ones, whose logits are 0, are equally likely.

    It equals `log_prior`, but makes no NaN on the way if no action is legal, which `jax_debug_nans` would report.
    """
    legal = (logits if actions is None else logits[actions]) > -jnp.inf
    return jnp.where(legal, -jnp.log(jnp.maximum(jnp.sum(legal, dtype=jnp.float32), 1)), -jnp.inf)
