"""Gumbel AlphaZero's root: sequential halving over actions that are drawn without replacement."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tz._arguments import check_fields
from tz.mcts.root_policies import RootPolicy, RootResult, Selector
from tz.mcts.selectors import CompletedQ, best_action
from tz.mcts.tree import Node


class GumbelNotes(eqx.Module):
    """The notes of [`tz.Gumbel`][] for one search: its noise, the visits at its start, and its halving schedule."""

    gumbel: Float[Array, " A"]
    visits: Int[Array, " A"]
    schedule: Int[Array, " S"]


class Gumbel(RootPolicy):
    """Gumbel AlphaZero's root, for few simulations: sequential halving over actions drawn without replacement.

    The actions with the largest `gumbel + logits` are considered and get equally many simulations; the better half by
    `gumbel + logits + completed q` goes on, until two are left. The policy is the softmax of `logits + completed q`,
    and the move is the best of the most visited actions, whatever the temperature. On a reused root the halving counts
    the visits of this search alone, while `q` has all of them.

    **Fields:** `max_num_considered_actions`; `scale` of the noise, 0 for none; `completed_q`, a
    [`tz.mcts.CompletedQ`][]. Below the root belongs [`tz.ImprovedPolicy`][], see [`tz.gumbel_mcts`][].

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022.
    """

    max_num_considered_actions: int = eqx.field(static=True, default=16)
    scale: float | Float[Array, ""] = 1.0
    completed_q: CompletedQ = CompletedQ()

    def __post_init__(self):
        check_fields(self)

    def __check_init__(self):
        if self.max_num_considered_actions < 1:
            raise ValueError(
                f"Gumbel: max_num_considered_actions must be at least 1, found {self.max_num_considered_actions}."
            )

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], GumbelNotes]:
        """The same log prior; the notes have the noise and the schedule."""
        most = self.max_num_considered_actions
        schedules = np.stack([halving_schedule(number, num_simulations) for number in range(most + 1)])
        num_considered = jnp.minimum(jnp.sum(node.logits > -jnp.inf, dtype=jnp.int32), most)
        gumbel = jnp.float32(self.scale) * jax.random.gumbel(key, node.logits.shape, jnp.float32)
        return node.logits, GumbelNotes(gumbel, node.visits, jnp.asarray(schedules)[num_considered])

    def _score(self, node: Node, notes: GumbelNotes, considered: Any) -> Float[Array, " A"]:
        """`gumbel + logits + completed q` of the legal actions that are considered, -inf of the others."""
        score = notes.gumbel + node.logits - jnp.max(node.logits) + self.completed_q(node)
        return jnp.where((node.logits > -jnp.inf) & considered, jnp.maximum(score, -1e9), -jnp.inf)

    def select(self, node: Node, notes: GumbelNotes, selector: Selector) -> Int[Array, ""]:
        """The best of the actions whose turn it is: those with as many new visits as the schedule says."""
        del selector
        visits = node.visits - notes.visits
        index, last = jnp.sum(visits, dtype=jnp.int32), len(notes.schedule)
        turn = jnp.where(index < last, notes.schedule[jnp.minimum(index, last - 1)], jnp.max(visits))
        # All moves whose turn it is may have been proven to lose: then it is the turn of those with the nearest number.
        distance = jnp.where(node.logits > -jnp.inf, jnp.abs(visits - turn).astype(jnp.float32), jnp.inf)
        return best_action(self._score(node, notes, distance == jnp.min(distance)))

    def read(self, node: Node, notes: GumbelNotes) -> RootResult:
        """The improved policy, its value, and the one move: the best of those with the most new visits.

        The value is the mean of the completed `q` under the improved policy. The mean of all visits would be a poor
        one, since half of them go to moves that the halving drops.
        """
        visits = jnp.where(node.logits > -jnp.inf, node.visits - notes.visits, -1)
        move = best_action(self._score(node, notes, visits == jnp.max(visits)))
        policy = jax.nn.softmax(node.logits + self.completed_q(node))
        value = jnp.sum(policy * self.completed_q.complete(node))
        return RootResult(
            policy, value, jnp.where(jnp.arange(len(visits), dtype=jnp.int32) == move, jnp.float32(0), -jnp.inf)
        )

    def quiet(self) -> "Gumbel":
        """The same with noise of scale 0."""
        return Gumbel(self.max_num_considered_actions, 0.0, self.completed_q)


def halving_schedule(num_considered: int, num_simulations: int) -> np.ndarray:
    """Returns, for each simulation, the number of visits of the actions that sequential halving considers in it.

    Every phase has an equal part of the simulations, and half the actions of the one before, but two at least.

    Karnin et al., *Almost optimal exploration in multi-armed bandits*, ICML 2013.
    """
    if num_considered <= 1:
        return np.arange(num_simulations, dtype=np.int32)
    num_phases, schedule, visits = math.ceil(math.log2(num_considered)), [], 0
    while len(schedule) < num_simulations:
        for _ in range(max(1, num_simulations // (num_phases * num_considered))):
            schedule += num_considered * [visits]
            visits += 1
        num_considered = max(2, num_considered // 2)
    return np.array(schedule[:num_simulations], dtype=np.int32)
