"""Selectors, which choose the edge that a simulation follows from a node.

A selector is any function `Node -> action`.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tz._arguments import check_fields, check_number
from tz.mcts.tree import Node


def best_action(scores: Float[Array, " A"]) -> Int[Array, ""]:
    """Returns the index of the largest score, the first among equals; the last index if any score is NaN.

    It works in floats, which a CPU reduces several times faster than integers. `jnp.argmax` is slower still.
    """
    # `num_left` is the number of actions from an index to the end. Among the best actions it is largest for the first,
    # so the maximum gives that action's index.
    num_left = jnp.arange(scores.shape[0], 0, -1, dtype=jnp.float32)  # exact up to 2**24 actions
    most_left = jnp.max(jnp.where(scores == jnp.max(scores), num_left, 1.0))
    return scores.shape[0] - most_left.astype(jnp.int32)


def _width(low: Float[Array, ""], high: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the width of a range of values, by which they are divided; infinity if they differ only by rounding.

    Equal values, computed in several ways, differ in their last bits. Scaled to [0, 1], this noise would decide.
    """
    rounding = jnp.float32(1e-6) * jnp.maximum(jnp.abs(low), jnp.abs(high))  # eight times the precision of float32
    return jnp.where(high - low > rounding, jnp.maximum(high - low, 1e-8), jnp.inf)


class PUCT(eqx.Module):
    r"""AlphaZero's selector: chooses the largest sum of `q` and an exploration bonus.

    At a node with $N$ visits, it chooses the action $a$ with the largest

    $$q(a) + c \, p(a) \, \frac{\sqrt{N}}{1 + n(a)}$$

    where $p(a)$ is the prior of the action and $n(a)$ the visits of its edge. The visits of a node include its own
    evaluation, so the first choice at a node follows the prior. The $q$ of an edge without visits is the node's value
    minus `fpu_reduction` ("first-play urgency").

    **Fields:**

    - `c`: the weight of exploration; at least 0.
    - `fpu_reduction`: the amount by which an unvisited edge is worth less than its node; at least 0. With 0, the
        default, a move that has not been tried counts as neither better nor worse than the node.

    **Raises:** `ValueError` if a number is negative.

    Silver et al., *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*,
    Science 2018.
    """

    c: float | Float[Array, ""] = 1.5
    fpu_reduction: float | Float[Array, ""] = 0.0

    def __check_init__(self):
        check_number("PUCT", "c", self.c)
        check_number("PUCT", "fpu_reduction", self.fpu_reduction)

    def __call__(self, node: Node) -> Int[Array, ""]:
        """Returns the action to follow from `node`; it is always legal."""
        prior, visits = jnp.exp(node.logits), node.visits.astype(jnp.float32)
        q = jnp.where(node.visits > 0, node.q, node.value - jnp.float32(self.fpu_reduction))
        explore = jnp.float32(self.c) * jnp.sqrt(node.num_visits.astype(jnp.float32)) * prior / (1 + visits)
        return best_action(jnp.where(node.logits > -jnp.inf, q + explore, -jnp.inf))


class MuZeroPUCT(eqx.Module):
    r"""MuZero's selector: PUCT with a weight that grows with the visits, and with `q` scaled to [0, 1].

    The weight $c$ in the formula of [`tz.PUCT`][] is, at a node with $N$ visits,

    $$c = c_\mathrm{init} + \log \frac{1 + N + c_\mathrm{base}}{c_\mathrm{base}}$$

    The scale adapts to the values that the search finds, so rewards may have any size.

    **Fields:**

    - `c_init`, `c_base`: the two numbers in the weight of exploration; `c_base` is above 0.
    - `scale`: the values whose minimum and maximum become 0 and 1: "siblings" for the node's value and the `q` of its
        visited edges, "tree" for the node's value and every `q` that the tree has had, or "none" to leave `q` unscaled.
    - `fpu_reduction`: if given, an edge without visits counts as the node's scaled value minus this number. By default
        (None), it counts as the lowest value: 0 on the scale, or -1 if `scale` is "none".

    **Raises:** `ValueError` if `scale` is none of the three, or `c_base` is not above 0.

    Schrittwieser et al., *Mastering Atari, Go, chess and shogi by planning with a learned model*, Nature 2020, which
    uses "tree"; mctx uses "siblings".
    """

    c_init: float | Float[Array, ""] = 1.25
    c_base: float | Float[Array, ""] = 19652.0
    scale: Literal["siblings", "tree", "none"] = eqx.field(static=True, default="siblings")
    fpu_reduction: float | Float[Array, ""] | None = None

    def __check_init__(self):
        check_number("MuZeroPUCT", "c_base", self.c_base, above=True)
        if self.scale not in ("siblings", "tree", "none"):
            raise ValueError(
                f'MuZeroPUCT: found scale={self.scale!r}, expected "siblings", "tree" or "none"; choose one of them.'
            )

    def __call__(self, node: Node) -> Int[Array, ""]:
        """Returns the action to follow from `node`; it is always legal."""
        visited, value, num_visits = node.visits > 0, node.value, node.num_visits.astype(jnp.float32)
        if self.scale == "none":
            low, width = jnp.float32(0), jnp.float32(1)
        else:
            if self.scale == "siblings":
                low = jnp.min(jnp.where(visited, node.q, value), initial=value)
                high = jnp.max(jnp.where(visited, node.q, value), initial=value)
            else:
                low, high = jnp.minimum(node.q_low, value), jnp.maximum(node.q_high, value)
            width = _width(low, high)
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
    r"""The bonus that `q` adds to the logits of an improved policy.

    For an action $a$ of a node, the bonus is

    $$\left(c_\mathrm{visit} + \max_b n(b)\right) c_\mathrm{scale} \, q(a)$$

    where $n(b)$ are the visits of the node's edges. An edge without visits has no $q$. The node's mixed value, an
    estimate of the value of playing by the prior $p$, takes its place:

    $$\frac{1}{1 + N} \left(v + N \, \frac{\sum_{b \in V} p(b) \, q(b)}{\sum_{b \in V} p(b)}\right)$$

    Here $v$ is the value from the evaluator, $V$ are the visited edges, and $N$ is the sum of their visits. The mixed
    value neither favours nor punishes a move that was not tried.

    **Fields:**

    - `c_visit`: a number of visits that is added to the largest count, so that `q` has weight from the first visit.
    - `c_scale`: the factor of the bonus. A larger one follows `q` more, and the prior less.
    - `rescale`: True to scale the completed `q` of a node to [0, 1] first. Then the bonus of the best action is always
        the full weight above the bonus of the worst, even if their `q` hardly differ. Actions without visits, and with
        them illegal ones, take part with the mixed value, as in mctx. Differences that rounding explains are no
        differences: then every bonus is 0.

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022: equation 8 and appendix D.
    """

    c_visit: float | Float[Array, ""] = 50.0
    c_scale: float | Float[Array, ""] = 0.1
    rescale: bool = eqx.field(static=True, default=True)

    def complete(self, node: Node) -> Float[Array, " A"]:
        """Returns the `q` of each action of `node`, `[A]`; it is the mixed value for actions without visits."""
        visited, num_edge_visits = node.visits > 0, jnp.sum(node.visits.astype(jnp.float32))
        # A visited action keeps a positive weight even if its prior underflows, since the weights' sum is a divisor.
        prior = jnp.maximum(jnp.exp(node.logits), jnp.finfo(jnp.float32).tiny)
        prior = jnp.where(visited, prior, 0.0)
        mean = jnp.sum(prior * node.q) / jnp.maximum(jnp.sum(prior), jnp.finfo(jnp.float32).tiny)
        mixed = (node.raw_value + num_edge_visits * mean) / (1 + num_edge_visits)
        return jnp.where(visited, node.q, mixed)

    def __call__(self, node: Node) -> Float[Array, " A"]:
        """Returns the bonus of each action of `node`, `[A]`."""
        q = self.complete(node)
        if self.rescale:
            low, high = jnp.min(q), jnp.max(q)
            q = (q - low) / _width(low, high)
        most_visits = jnp.max(node.visits).astype(jnp.float32)
        return (jnp.float32(self.c_visit) + most_visits) * jnp.float32(self.c_scale) * q


class ImprovedPolicy(eqx.Module):
    r"""Gumbel AlphaZero's selector below the root: distributes the visits in proportion to the improved policy.

    The improved policy $\pi$ is the softmax of the logits plus the bonus of [`tz.mcts.CompletedQ`][]. The selector
    chooses the action whose fraction of the visits falls short of $\pi$ the most, that is, the action with the largest

    $$\pi(a) - \frac{n(a)}{1 + \sum_b n(b)}$$

    where $n(a)$ are the visits of an edge. The choice is deterministic.

    **Fields:**

    - `completed_q`: a [`tz.mcts.CompletedQ`][], the bonus of `q`.

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022, section 5.
    """

    completed_q: CompletedQ = CompletedQ()

    def __post_init__(self):
        check_fields(self)

    def __call__(self, node: Node) -> Int[Array, ""]:
        """Returns the action to follow from `node`; it is always legal."""
        policy = jax.nn.softmax(node.logits + self.completed_q(node))
        visits = node.visits.astype(jnp.float32)
        shortfall = policy - visits / (1 + jnp.sum(visits))
        return best_action(jnp.where(node.logits > -jnp.inf, shortfall, -jnp.inf))
