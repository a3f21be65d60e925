"""Which edge a simulation follows from a node: a selector is any `Node -> action`."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tz._arguments import check_fields
from tz.mcts.tree import Node


def best_action(scores: Float[Array, " A"]) -> Int[Array, ""]:
    """The index of the largest score, the first of equals; the last where all are NaN.

    In floats, which a CPU reduces several times faster than integers; `jnp.argmax` is slower still.
    """
    num_left = jnp.arange(scores.shape[0], 0, -1, dtype=jnp.float32)  # exact up to 2**24 actions
    most_left = jnp.max(jnp.where(scores == jnp.max(scores), num_left, 1.0))
    return scores.shape[0] - most_left.astype(jnp.int32)


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
        prior, visits = jnp.exp(node.logits), node.visits.astype(jnp.float32)
        q = jnp.where(node.visits > 0, node.q, node.value - jnp.float32(self.fpu_reduction))
        explore = jnp.float32(self.c) * jnp.sqrt(node.num_visits.astype(jnp.float32)) * prior / (1 + visits)
        return best_action(jnp.where(node.logits > -jnp.inf, q + explore, -jnp.inf))


class MuZeroPUCT(eqx.Module):
    """MuZero's selection: PUCT whose weight grows with the visits and whose `q` can be scaled to [0, 1].

    **Fields:**

    - `c_init`, `c_base`: of the weight `c_init + log((1 + c_base + node visits) / c_base)`.
    - `scale`: what `q` is scaled by: the least and greatest among the node's own value and its visited edges
        ("siblings"), or among all that this tree has seen ("tree"), so that rewards need not be bounded; or "none".
    - `fpu_reduction`: an edge without visits is given the node's value, scaled, less this; by default (None) the least
        value there is: 0 on the scale, -1 without one.

    Schrittwieser et al., *Mastering Atari, Go, chess and shogi by planning with a learned model*, Nature 2020, whose
    scale is "tree"; "siblings" is that of mctx.
    """

    c_init: float | Float[Array, ""] = 1.25
    c_base: float | Float[Array, ""] = 19652.0
    scale: Literal["siblings", "tree", "none"] = eqx.field(static=True, default="siblings")
    fpu_reduction: float | Float[Array, ""] | None = None

    def __check_init__(self):
        if self.scale not in ("siblings", "tree", "none"):
            raise ValueError(f'MuZeroPUCT: scale must be "siblings", "tree" or "none", found {self.scale!r}.')

    def __call__(self, node: Node) -> Int[Array, ""]:
        """The action to follow from `node`; never an illegal one."""
        visited, value, num_visits = node.visits > 0, node.value, node.num_visits.astype(jnp.float32)
        if self.scale == "none":
            low, width = jnp.float32(0), jnp.float32(1)
        else:
            if self.scale == "siblings":
                low = jnp.min(jnp.where(visited, node.q, value), initial=value)
                high = jnp.max(jnp.where(visited, node.q, value), initial=value)
            else:
                low, high = jnp.minimum(node.q_low, value), jnp.maximum(node.q_high, value)
            width = jnp.maximum(high - low, 1e-8)
        if self.fpu_reduction is None:
            unvisited = jnp.float32(-1 if self.scale == "none" else 0)
        else:
            unvisited = (value - low) / width - jnp.float32(self.fpu_reduction)
        q = jnp.where(visited, (node.q - low) / width, unvisited)
        c_base = jnp.float32(self.c_base)
        weight = jnp.float32(self.c_init) + jnp.log((1 + c_base + num_visits) / c_base)
        explore = weight * jnp.sqrt(num_visits) * jnp.exp(node.logits) / (1 + node.visits.astype(jnp.float32))
        return best_action(jnp.where(node.logits > -jnp.inf, q + explore, -jnp.inf))


class CompletedQ(eqx.Module):
    """The bonus that `q` adds to the logits of an improved policy, `(c_visit + most visits) * c_scale * q`.

    An edge without visits is given the node's mixed value: of the evaluator's value and, with the weight of all visits,
    the prior-weighted mean of the visited edges.

    **Fields:** `c_visit`, `c_scale`; `rescale`, whether `q` is first scaled to [0, 1] at the node.

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022: equation 8 and appendix D.
    """

    c_visit: float | Float[Array, ""] = 50.0
    c_scale: float | Float[Array, ""] = 0.1
    rescale: bool = eqx.field(static=True, default=True)

    def complete(self, node: Node) -> Float[Array, " A"]:
        """The `q` of each action of `node`, with the mixed value in the place of those without visits."""
        visited, num_edge_visits = node.visits > 0, jnp.sum(node.visits.astype(jnp.float32))
        prior = jnp.maximum(jnp.exp(node.logits), jnp.finfo(jnp.float32).tiny)
        prior = jnp.where(visited, prior, 0.0)
        mean = jnp.sum(prior * node.q) / jnp.maximum(jnp.sum(prior), jnp.finfo(jnp.float32).tiny)
        mixed = (node.raw_value + num_edge_visits * mean) / (1 + num_edge_visits)
        return jnp.where(visited, node.q, mixed)

    def __call__(self, node: Node) -> Float[Array, " A"]:
        """The bonus of each action of `node`."""
        q = self.complete(node)
        if self.rescale:
            low, high = jnp.min(q), jnp.max(q)
            q = (q - low) / jnp.maximum(high - low, 1e-8)
        most_visits = jnp.max(node.visits).astype(jnp.float32)
        return (jnp.float32(self.c_visit) + most_visits) * jnp.float32(self.c_scale) * q


class ImprovedPolicy(eqx.Module):
    """Gumbel AlphaZero's selection below the root: brings the visits into the proportions of the improved policy.

    The improved policy is the softmax of `logits + completed q`; the action chosen is the one whose fraction of the
    visits falls furthest short of it. Nothing is random.

    **Fields:** `completed_q`, a [`tz.mcts.CompletedQ`][].

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022, section 5.
    """

    completed_q: CompletedQ = CompletedQ()

    def __post_init__(self):
        check_fields(self)

    def __call__(self, node: Node) -> Int[Array, ""]:
        """The action to follow from `node`; never an illegal one."""
        policy = jax.nn.softmax(node.logits + self.completed_q(node))
        visits = node.visits.astype(jnp.float32)
        shortfall = policy - visits / (1 + jnp.sum(visits))
        return best_action(jnp.where(node.logits > -jnp.inf, shortfall, -jnp.inf))
