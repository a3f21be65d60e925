"""Root policies: the noise at the root, the edge that each simulation begins with, and the result of a search.

A root policy has four methods, see [`tz.mcts.RootPolicy`][]. Root policies that read the result from the visits use
`visit_fractions`.
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_instance, check_number, shown
from tz.mcts._any_game import any_game
from tz.mcts.selectors import best_action
from tz.mcts.tree import Node

Selector = Callable[[Node], Int[Array, ""]]


class RootResult(eqx.Module):
    """The result of a search, as a root policy reads it from the root.

    **Fields:**

    - `policy`: `[A]`, the probabilities that training takes as the policy target.
    - `value`: the value of the position under `policy`, from the perspective of the player to move.
    - `log_weights`: `[A]`, the logarithms of the weights by which a move is drawn, before the temperature.
    """

    policy: Float[Array, " A"]
    value: Float[Array, ""]
    log_weights: Float[Array, " A"]


class RootPolicy(eqx.Module):
    """The interface of a root policy: the part of a search that treats the root differently from other nodes.

    A search calls `start` once, `select` in every simulation, and `read` when its result is asked for. To write a root
    policy, subclass this class and implement all four methods.
    """

    @abc.abstractmethod
    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], PyTree]:
        """Prepares the root; called once per search, before its first simulation.

        **Arguments:**

        - `node`: the evaluated root. If its subtree was kept from an earlier search, it has the visits and `q` of that
            search.
        - `num_simulations`: the number of simulations of the search, which may be 0.
        - `key`: a random key, for noise.

        **Returns:** the log prior to search with, `[A]`, -inf where illegal; and notes, any PyTree of arrays, which
        `select` and `read` receive.
        """

    @abc.abstractmethod
    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """Chooses the edge that a simulation begins with.

        **Arguments:**

        - `node`: the root, as the simulations so far have left it.
        - `notes`: from `start`.
        - `selector`: the selector of the search, `Node -> action`, which chooses at all other nodes.

        **Returns:** the action, as an index into the arrays of `node`; it must be legal.
        """

    @abc.abstractmethod
    def read(self, node: Node, notes: PyTree) -> RootResult:
        """Reads the result of a search; also called before any simulation.

        **Arguments:**

        - `node`: the root. With `MCTS(solve=True)`, moves that are proven to lose are shown as illegal and unvisited.
        - `notes`: from `start`; zeros if it has not been called.

        **Returns:** the policy, its value, and the log weights for drawing a move. Without any visits, they must follow
        from the prior and the evaluator's value.
        """

    @abc.abstractmethod
    def quiet(self) -> "RootPolicy":
        """Returns this root policy without its noise, for matches and analysis."""


def check_root(where: str, name: str, root: Any) -> None:
    """Raises `ValueError` unless the value is a root policy."""
    check_instance(where, name, root)
    if not isinstance(root, RootPolicy):
        raise ValueError(
            f"{where}: found {name}={shown(root)}, expected a root policy, a subclass of tz.mcts.RootPolicy; give for "
            f"example {name}=tz.Dirichlet() or {name}=tz.mcts.PlainRoot()."
        )


def visit_fractions(node: Node) -> RootResult:
    """Reads a root by its visits: the policy is each action's fraction of the visits, or the prior if there are none.

    The value is the mean of all returns. Moves are drawn with the probabilities of the policy.
    """
    prior = jnp.exp(node.logits)
    weights = jnp.where(jnp.any(node.visits > 0), node.visits.astype(prior.dtype), prior)
    policy = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(prior.dtype).tiny)
    return RootResult(policy, node.value, jnp.log(policy))


class PlainRoot(RootPolicy):
    """Treats the root like any other node, without noise; for matches and analysis.

    The policy is the fractions of the visits, and the value is the mean of all returns.
    """

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], None]:
        """Returns the log prior unchanged, and no notes."""
        del num_simulations, key
        return node.logits, None

    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """Returns the choice of the selector."""
        del notes
        return selector(node)

    def read(self, node: Node, notes: PyTree) -> RootResult:
        """Returns the fractions of the visits and the mean of all returns."""
        del notes
        return visit_fractions(node)

    def quiet(self) -> "PlainRoot":
        """Returns this policy, which has no noise."""
        return self


def _log_gamma(key: PRNGKeyArray, alpha: Float[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws logarithms of gamma variates, by rejection: each round draws all variates and keeps the accepted ones.

    `jax.random.loggamma` runs a separate loop, with a separate key, for each variate, and takes four times as long.

    Marsaglia and Tsang, *A simple method for generating gamma variables*, ACM TOMS 2000, with the boost of section 6.
    """
    # The method needs an alpha of at least 1. So this draws with alpha + 1, for which the paper's d is alpha + 1 - 1/3.
    # The boost, a factor of uniform ** (1 / alpha), then turns it into a draw with alpha. If alpha is small, variates
    # can underflow, but their logarithms do not.
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

    is_usable = (alpha > 0) & (alpha < jnp.inf)  # otherwise no draw would ever be accepted
    carry = key, jnp.full(shape, ~is_usable), jnp.zeros(shape, alpha.dtype)
    _, _, log_v = lax.while_loop(lambda carry: any_game(~jnp.all(carry[1])), draw, carry)
    return jnp.where(is_usable, jnp.log(d) + log_v + boost, jnp.nan)


class Dirichlet(RootPolicy):
    """Mixes Dirichlet noise into the root's prior, `(1 - epsilon) * prior + epsilon * noise`, on legal actions only.

    Noise makes self-play try moves whose prior is low. The policy is each action's fraction of the visits. The mean of
    all returns would be too low a value, since noise spends visits on poor moves. So in the value, a visit has the
    weight `prior / noisy prior` if noise raised the prior of its move, and the weight 1 otherwise.

    **Fields:**

    - `alpha`: the concentration, above 0 and finite. The paper uses 0.3 in chess and 0.03 in Go, about 10 divided by
        the usual number of legal moves. An array out of this range makes the prior NaN.
    - `epsilon`: the fraction of noise in the mixture, from 0 to 1.

    **Raises:** `ValueError` if a number is out of its range.

    Silver et al., *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*,
    Science 2018.
    """

    alpha: float | Float[Array, ""] = 0.3
    epsilon: float | Float[Array, ""] = 0.25

    def __check_init__(self):
        if isinstance(self.alpha, int | float) and not 0 < self.alpha < math.inf:
            raise ValueError(
                f"Dirichlet: found alpha={self.alpha}, expected a finite number above 0; the default is 0.3."
            )
        check_number("Dirichlet", "epsilon", self.epsilon, high=1.0)

    def start(
        self, node: Node, num_simulations: int, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, " A"]]:
        """Returns the log prior with noise. The notes hold, for each action, the share of its visits due to noise."""
        del num_simulations
        logits, epsilon = node.logits, jnp.float32(self.epsilon)
        legal = logits > -jnp.inf
        # Gamma variates divided by their sum are a Dirichlet draw, so the softmax of their logs is one. Illegal actions
        # have no part in it.
        gamma = _log_gamma(key, jnp.asarray(self.alpha, logits.dtype), logits.shape)
        noise = jax.nn.softmax(jnp.where(legal, gamma, -jnp.inf))
        mixed = (1 - epsilon) * jnp.exp(logits) + epsilon * noise
        mixed = jnp.maximum(mixed, jnp.finfo(logits.dtype).tiny)  # a legal action has a log prior above -inf
        excess = jnp.where(legal, jnp.maximum(1 - jnp.exp(logits) / mixed, 0.0), 0.0)
        return jnp.where(legal, jnp.log(mixed), -jnp.inf), excess

    def select(self, node: Node, notes: Float[Array, " A"], selector: Selector) -> Int[Array, ""]:
        """Returns the choice of the selector."""
        del notes
        return selector(node)

    def read(self, node: Node, notes: Float[Array, " A"]) -> RootResult:
        """Returns the fractions of the visits, and the mean of all returns with less weight on those due to noise."""
        result, weights = visit_fractions(node), node.visits.astype(notes.dtype) * (1 - notes)
        value = (node.raw_value + jnp.sum(weights * node.q)) / (1 + jnp.sum(weights))
        return RootResult(result.policy, value, result.log_weights)

    def quiet(self) -> PlainRoot:
        """Returns a plain root."""
        return PlainRoot()


class ForcedPlayouts(RootPolicy):
    """KataGo's root: forces visits to moves that the noise favours, and removes wasted visits from the policy.

    During the search, an edge that has visits gets at least `sqrt(k * prior * all visits)` of them, where `prior`
    includes the noise. Afterwards, up to that many visits are removed from each edge except the most visited one, as
    long as the edge's PUCT score does not rise above the score of the most visited edge. An edge that is left with a
    single visit loses it too. The policy and the value are read from the visits that remain.

    **Fields:**

    - `k`: the strength of forcing, in the formula above.
    - `c`: the weight of exploration in the PUCT scores; give it the value of the selector's `c`.
    - `noise`: the root policy that changes the prior, and selects if no visit is forced.

    **Raises:** `ValueError` if `k` or `c` is negative, or `noise` is no root policy.

    Wu, *Accelerating self-play learning in Go*, 2019, section 3.2.
    """

    k: float | Float[Array, ""] = 2.0
    c: float | Float[Array, ""] = 1.5
    noise: RootPolicy = Dirichlet()

    def __check_init__(self):
        check_number("ForcedPlayouts", "k", self.k)
        check_number("ForcedPlayouts", "c", self.c)
        check_root("ForcedPlayouts", "noise", self.noise)

    def _num_forced(self, node: Node) -> Float[Array, " A"]:
        return jnp.sqrt(jnp.float32(self.k) * jnp.exp(node.logits) * jnp.sum(node.visits.astype(jnp.float32)))

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], PyTree]:
        """Returns the log prior and the notes of `noise`."""
        return self.noise.start(node, num_simulations, key=key)

    def select(self, node: Node, notes: PyTree, selector: Selector) -> Int[Array, ""]:
        """Returns the edge that lacks the most forced visits; if none lacks any, the choice of `noise`."""
        visits = node.visits.astype(jnp.float32)
        owed = jnp.where(visits > 0, self._num_forced(node) - visits, 0.0)
        otherwise = jnp.asarray(self.noise.select(node, notes, selector), jnp.int32)
        return jnp.where(jnp.max(owed) > 0, best_action(owed), otherwise)

    def read(self, node: Node, notes: PyTree) -> RootResult:
        """Returns the fractions of the visits that are left after pruning, and the mean of their returns."""
        del notes
        visits = node.visits.astype(jnp.float32)
        explore = jnp.float32(self.c) * jnp.exp(node.logits) * jnp.sqrt(node.num_visits.astype(jnp.float32))
        best = best_action(visits)
        target = node.q[best] + explore[best] / (1 + visits[best])
        # `q + explore / (1 + visits) <= target`, solved for the visits, gives the fewest that an edge can be left with.
        # If q alone reaches the target, no number is enough, and the edge keeps all its visits.
        gap = target - node.q
        fewest = jnp.where(gap > 0, explore / jnp.maximum(gap, 1e-9) - 1, visits)
        pruned = jnp.clip(jnp.maximum(jnp.ceil(fewest), visits - jnp.floor(self._num_forced(node))), 0.0, visits)
        pruned = jnp.where(pruned <= 1, 0.0, pruned)
        pruned = jnp.where(jnp.arange(len(visits), dtype=jnp.int32) == best, visits, pruned)
        left = Node(node.logits, pruned.astype(jnp.int32), node.q, node.raw_value, node.q_low, node.q_high)
        return visit_fractions(left)

    def quiet(self) -> RootPolicy:
        """Returns `noise` without its noise: nothing needs to be forced then."""
        return self.noise.quiet()
