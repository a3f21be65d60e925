"""Which edge a simulation follows from a node: a selector is any `Node -> action`."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tz.tree import Node


def best_action(scores: Float[Array, " A"]) -> Int[Array, ""]:
    """The index of the largest score, the first of equals (faster on a CPU than `jnp.argmax`)."""
    actions = jnp.arange(scores.shape[0], dtype=jnp.int32)
    first = jnp.min(jnp.where(scores == jnp.max(scores), actions, scores.shape[0]))
    return jnp.minimum(first, scores.shape[0] - 1)  # all NaN: nothing equals the maximum


class PUCT(eqx.Module):
    """AlphaZero's selection: the largest `q + c * prior * sqrt(node visits) / (1 + edge visits)`.

    Node visits count the node's own evaluation, so the first choice at a node follows the prior. An edge without
    visits is given the node's value less `fpu_reduction` ("first-play urgency").

    **Fields:** `c`, the weight of exploration; `fpu_reduction`, at least 0.

    Silver et al., *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*,
    Science 2018.
    """

    c: float | Float[Array, ""] = 1.5
    fpu_reduction: float | Float[Array, ""] = 0.0

    def __call__(self, node: Node) -> Int[Array, ""]:
        """The action to follow from `node`; never an illegal one."""
        prior = jnp.exp(node.logits)
        q = jnp.where(node.visits > 0, node.q, node.value - self.fpu_reduction)
        explore = self.c * jnp.sqrt(node.num_visits.astype(jnp.float32)) * prior / (1 + node.visits)
        return best_action(jnp.where(node.logits > -jnp.inf, q + explore, -jnp.inf))


class MuZeroPUCT(eqx.Module):
    """MuZero's selection: PUCT whose weight grows with the visits and whose `q` is scaled to [0, 1] at each node.

    The scale is that of the node's own value and of its visited edges, so rewards need not be bounded.

    **Fields:** `c_init` and `c_base`, of the weight `c_init + log((1 + c_base + node visits) / c_base)`.

    Schrittwieser et al., *Mastering Atari, Go, chess and shogi by planning with a learned model*, Nature 2020.
    """

    c_init: float | Float[Array, ""] = 1.25
    c_base: float | Float[Array, ""] = 19652.0

    def __call__(self, node: Node) -> Int[Array, ""]:
        """The action to follow from `node`; never an illegal one."""
        visited, value, num_visits = node.visits > 0, node.value, node.num_visits.astype(jnp.float32)
        q = jnp.where(visited, node.q, value)  # an edge without visits stands at the node's value
        low, high = jnp.min(q), jnp.max(q)
        low, high = jnp.minimum(low, value), jnp.maximum(high, value)
        q = jnp.where(visited, (q - low) / jnp.maximum(high - low, 1e-8), 0.0)
        weight = self.c_init + jnp.log((1 + self.c_base + num_visits) / self.c_base)
        explore = weight * jnp.sqrt(num_visits) * jnp.exp(node.logits) / (1 + node.visits)
        return best_action(jnp.where(node.logits > -jnp.inf, q + explore, -jnp.inf))
