"""What is special at the root of a search: noise, which edge a simulation begins with, and what the visits mean.

A root policy has four methods, see [`tz.mcts.RootPolicy`][]. Those that only change the prior leave the rest
to `visit_fractions`.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz.mcts._any_game import any_game
from tz.mcts.selectors import best_action
from tz.mcts.tree import Node

Selector = Callable[[Node], Int[Array, ""]]


class RootResult(eqx.Module):
    """The conclusions of a search at its root.

    **Fields:**

    - `policy`: `[A]`, the policy target of training; probabilities.
    - `value`: the value of the position if it is played on by that policy, from the perspective of the player to move.
    - `log_weights`: `[A]`, the logarithm of the weights that moves are drawn by.
    """

    policy: Float[Array, " A"]
    value: Float[Array, ""]
    log_weights: Float[Array, " A"]


class RootPolicy(eqx.Module):
    """The interface of a root policy."""

    @abc.abstractmethod
    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], PyTree]:
        """Called once a search, before its first simulation.

        **Arguments:** `node`, the evaluated root, with what was kept of an earlier search.

        **Returns:** the log prior to search with, -inf where illegal, and notes (any arrays) that go to the other two.
        """

    @abc.abstractmethod
    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """The edge that a simulation begins with; `selector` is the search's, for the nodes below."""

    @abc.abstractmethod
    def read(self, node: Node, notes: PyTree) -> RootResult:
        """Called after the search, or before any simulation of it.

        With `MCTS(solve=True)`, moves that are proven to lose are illegal and unvisited in `node`.

        **Returns:** the policy, the value that belongs to it, and the log weights that moves are drawn by. Without any
        visits these are the answer of the prior.
        """

    @abc.abstractmethod
    def quiet(self) -> "RootPolicy":
        """The same without noise, for matches and analysis."""


def visit_fractions(node: Node) -> RootResult:
    """The fraction of the visits that each action has, and the mean of all returns; the prior where nothing is visited.

    Moves are drawn by the same fractions.
    """
    prior = jnp.exp(node.logits)
    weights = jnp.where(jnp.any(node.visits > 0), node.visits.astype(prior.dtype), prior)
    policy = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(prior.dtype).tiny)
    return RootResult(policy, node.value, jnp.log(policy))


class PlainRoot(RootPolicy):
    """A root like any other node: for matches and analysis."""

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], None]:
        """The same log prior."""
        del num_simulations, key
        return node.logits, None

    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """What the selector says."""
        del notes
        return selector(node)

    def read(self, node: Node, notes: PyTree) -> RootResult:
        """The fractions of the visits and the mean of all returns."""
        del notes
        return visit_fractions(node)

    def quiet(self) -> "PlainRoot":
        """Itself."""
        return self


def _log_gamma(key: PRNGKeyArray, alpha: Float[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Logarithms of gamma variates: all of a round are drawn at once, and kept where they are accepted.

    `jax.random.loggamma` gives each variate a key and a loop of its own, which takes four times as long.

    Marsaglia and Tsang, *A simple method for generating gamma variables*, ACM TOMS 2000, with the boost of section 6.
    """
    key, boost_key = jax.random.split(key)
    boost = jnp.log(jax.random.uniform(boost_key, shape, alpha.dtype, jnp.finfo(alpha.dtype).tiny)) / alpha
    d = alpha + 2 / 3

    def draw(carry):
        key, accepted, log_v = carry
        key, normal_key, uniform_key = jax.random.split(key, 3)
        normal = jax.random.normal(normal_key, shape, alpha.dtype)
        uniform = jax.random.uniform(uniform_key, shape, alpha.dtype)
        v = (1 + normal / jnp.sqrt(9 * d)) ** 3
        new = jnp.log(jnp.maximum(v, jnp.finfo(alpha.dtype).tiny))
        accept = (v > 0) & (jnp.log(uniform) < normal**2 / 2 + d - d * v + d * new)
        return key, accepted | accept, jnp.where(accepted, log_v, new)

    carry = key, jnp.zeros(shape, bool), jnp.zeros(shape, alpha.dtype)
    _, _, log_v = lax.while_loop(lambda carry: any_game(~jnp.all(carry[1])), draw, carry)
    return jnp.log(d) + log_v + boost


class Dirichlet(RootPolicy):
    """Mixes Dirichlet noise into the root's prior, `(1 - epsilon) * prior + epsilon * noise`, on legal actions only.

    Noise makes the search try moves that it thinks little of, which is its purpose, but their returns lower the mean.
    In the value they count by `prior / noisy prior` where the noise has raised the prior, as if it had not.

    **Fields:** `alpha`, the concentration, above 0 (the paper: 0.3 in chess, 0.03 in Go, about 10 divided by the usual
    number of legal moves); `epsilon`, the fraction of the noise, from 0 to 1.

    Silver et al., *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*,
    Science 2018.
    """

    alpha: float | Float[Array, ""] = 0.3
    epsilon: float | Float[Array, ""] = 0.25

    def __check_init__(self):
        if isinstance(self.alpha, int | float) and not self.alpha > 0:
            raise ValueError(f"Dirichlet: alpha must be above 0, found {self.alpha}.")
        if isinstance(self.epsilon, int | float) and not 0 <= self.epsilon <= 1:
            raise ValueError(f"Dirichlet: epsilon must be from 0 to 1, found {self.epsilon}.")

    def start(
        self, node: Node, num_simulations: int, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, " A"]]:
        """The noisy log prior, in which illegal actions (-inf) stay illegal, and how much a visit of each counts."""
        del num_simulations
        logits, epsilon = node.logits, jnp.float32(self.epsilon)
        legal = logits > -jnp.inf
        gamma = _log_gamma(key, jnp.asarray(self.alpha, logits.dtype), logits.shape)  # in logs: no underflow
        noise = jax.nn.softmax(jnp.where(legal, gamma, -jnp.inf))
        mixed = (1 - epsilon) * jnp.exp(logits) + epsilon * noise
        mixed = jnp.maximum(mixed, jnp.finfo(logits.dtype).tiny)
        return jnp.where(legal, jnp.log(mixed), -jnp.inf), jnp.minimum(jnp.exp(logits) / mixed, 1.0)

    def select(self, node: Node, notes: Float[Array, " A"], selector: Selector) -> Int[Array, ""]:
        """What the selector says."""
        del notes
        return selector(node)

    def read(self, node: Node, notes: Float[Array, " A"]) -> RootResult:
        """The fractions of the visits, and the mean of all returns, of which those due to noise count for less."""
        result, weights = visit_fractions(node), node.visits.astype(notes.dtype) * notes
        value = (node.raw_value + jnp.sum(weights * node.q)) / (1 + jnp.sum(weights))
        return RootResult(result.policy, value, result.log_weights)

    def quiet(self) -> PlainRoot:
        """A plain root."""
        return PlainRoot()


class ForcedPlayouts(RootPolicy):
    """KataGo's root: noise may claim visits, but what it claimed in vain is taken out of the policy.

    An edge that has visits is given at least `sqrt(k * prior * all visits)` of them. Afterwards up to as many are taken
    from every edge but the most visited, as long as its PUCT score stays below that one's; what then has a single visit
    loses it.

    **Fields:** `k`; `c`, the weight of exploration in PUCT, the same as the selector's; `noise`, the root policy that
    changes the prior.

    Wu, *Accelerating self-play learning in Go*, 2019, section 3.2.
    """

    k: float | Float[Array, ""] = 2.0
    c: float | Float[Array, ""] = 1.5
    noise: RootPolicy = Dirichlet()

    def _num_forced(self, node: Node) -> Float[Array, " A"]:
        return jnp.sqrt(jnp.float32(self.k) * jnp.exp(node.logits) * jnp.sum(node.visits.astype(jnp.float32)))

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], PyTree]:
        """What `noise` makes of the log prior."""
        return self.noise.start(node, num_simulations, key=key)

    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """The edge that is furthest below what it is owed; if there is none, what the selector says."""
        visits = node.visits.astype(jnp.float32)
        owed = jnp.where(visits > 0, self._num_forced(node) - visits, 0.0)
        otherwise = jnp.asarray(self.noise.select(node, notes, selector), jnp.int32)
        return jnp.where(jnp.max(owed) > 0, best_action(owed), otherwise)

    def read(self, node: Node, notes: PyTree) -> RootResult:
        """The fractions of the visits that are left after pruning, and the mean of the returns that belong to them."""
        del notes
        visits = node.visits.astype(jnp.float32)
        explore = jnp.float32(self.c) * jnp.exp(node.logits) * jnp.sqrt(node.num_visits.astype(jnp.float32))
        best = best_action(visits)
        target = node.q[best] + explore[best] / (1 + visits[best])
        # The fewest visits with which an edge's score is no more than the target; none if its q alone is above it.
        gap = target - node.q
        fewest = jnp.where(gap > 0, explore / jnp.maximum(gap, 1e-9) - 1, visits)
        pruned = jnp.clip(jnp.maximum(jnp.ceil(fewest), visits - jnp.floor(self._num_forced(node))), 0.0, visits)
        pruned = jnp.where(pruned <= 1, 0.0, pruned)
        pruned = jnp.where(jnp.arange(len(visits), dtype=jnp.int32) == best, visits, pruned)
        left = Node(node.logits, pruned.astype(jnp.int32), node.q, node.raw_value, node.q_low, node.q_high)
        return visit_fractions(left)

    def quiet(self) -> RootPolicy:
        """Nothing to force without noise."""
        return self.noise.quiet()
