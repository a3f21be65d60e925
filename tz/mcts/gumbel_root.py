"""Gumbel AlphaZero's root policy: sequential halving over actions that are drawn without replacement."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tz._arguments import check_fields, check_number
from tz.mcts.root_policies import RootPolicy, RootResult, Selector
from tz.mcts.selectors import CompletedQ, best_action
from tz.mcts.tree import Node


class GumbelNotes(eqx.Module):
    """The notes of [`tz.Gumbel`][] for one search: its noise, the visits at its start, and its schedule."""

    gumbel: Float[Array, " A"]
    visits: Int[Array, " A"]
    schedule: Int[Array, " S"]


class Gumbel(RootPolicy):
    """Gumbel AlphaZero's root, for few simulations: sequential halving over actions drawn without replacement.

    The search considers the actions with the largest `gumbel + logits`, which are a sample from the prior without
    replacement. It gives each of them equally many simulations and keeps the better half, by the score
    `gumbel + logits + bonus`, where the bonus grows with the action's `q` ([`tz.mcts.CompletedQ`][]). It repeats this
    until two actions are left. The policy is the softmax of `logits + bonus`. Actions that were never visited keep a
    probability, so the policy is a good target even after a few simulations. The move is the most visited action, at
    any temperature; the score decides between equals. On a root that was kept from an earlier search, the halving and
    the move count only the visits of this search, while `q` includes all visits.

    Use [`tz.ImprovedPolicy`][] below this root, as [`tz.gumbel_mcts`][] does.

    **Fields:**

    - `max_num_considered_actions`: the number of actions to begin with; all legal ones if there are fewer.
    - `scale`: the factor of the Gumbel noise, at least 0; 0 for no noise.
    - `completed_q`: a [`tz.mcts.CompletedQ`][], the bonus of `q`. Give [`tz.ImprovedPolicy`][] the same.

    **Raises:** `ValueError` if `max_num_considered_actions` is below 1, or `scale` is negative.

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022.
    """

    max_num_considered_actions: int = eqx.field(static=True, default=16)
    scale: float | Float[Array, ""] = 1.0
    completed_q: CompletedQ = CompletedQ()

    def __post_init__(self):
        check_fields(self)

    def __check_init__(self):
        check_number("Gumbel", "scale", self.scale)
        if self.max_num_considered_actions < 1:
            raise ValueError(
                f"Gumbel: found max_num_considered_actions={self.max_num_considered_actions}, expected at least 1; "
                "raise it."
            )

    def start(self, node: Node, num_simulations: int, *, key: PRNGKeyArray) -> tuple[Float[Array, " A"], GumbelNotes]:
        """Returns the log prior unchanged; the notes hold the noise and the schedule."""
        # The number of legal actions is known only at run time. So NumPy makes the schedules for all possible numbers
        # while the search is traced, and the search then looks up the one that it needs.
        most = self.max_num_considered_actions
        schedules = np.stack([halving_schedule(number, num_simulations) for number in range(most + 1)])
        num_considered = jnp.minimum(jnp.sum(node.logits > -jnp.inf, dtype=jnp.int32), most)
        gumbel = jnp.float32(self.scale) * jax.random.gumbel(key, node.logits.shape, jnp.float32)
        return node.logits, GumbelNotes(gumbel, node.visits, jnp.asarray(schedules)[num_considered])

    def _score(self, node: Node, notes: GumbelNotes, considered: Any) -> Float[Array, " A"]:
        """Returns the score `gumbel + logits + bonus` of the legal actions that are considered, -inf for the others."""
        # Subtracting the largest logit changes no comparison, and the clip keeps legal actions above -inf.
        score = notes.gumbel + node.logits - jnp.max(node.logits) + self.completed_q(node)
        return jnp.where((node.logits > -jnp.inf) & considered, jnp.maximum(score, -1e9), -jnp.inf)

    def select(self, node: Node, notes: GumbelNotes, selector: Selector) -> Int[Array, ""]:
        """Returns the best of the actions whose turn it is: those with as many new visits as the schedule says."""
        # The halving keeps no list of candidates. For each simulation, the schedule gives a number of visits, and the
        # candidates are the actions with exactly that many. At first these are all actions, with 0. A dropped action
        # keeps its number of visits, which the schedule does not use again.
        del selector
        visits = node.visits - notes.visits
        index, last = jnp.sum(visits, dtype=jnp.int32), len(notes.schedule)
        turn = jnp.where(index < last, notes.schedule[jnp.minimum(index, last - 1)], jnp.max(visits))
        # With `solve`, an action becomes illegal during the search once it is proven to lose. If this leaves no action
        # with the scheduled number of visits, those with the nearest number take their turn.
        distance = jnp.where(node.logits > -jnp.inf, jnp.abs(visits - turn).astype(jnp.float32), jnp.inf)
        return best_action(self._score(node, notes, distance == jnp.min(distance)))

    def read(self, node: Node, notes: GumbelNotes) -> RootResult:
        """Returns the improved policy, its value, and log weights that leave one move: the best of the most visited.

        The value is the mean of the completed `q` under the improved policy. The mean of all returns would be a poor
        estimate, since half of the visits go to moves that the halving drops.
        """
        visits = jnp.where(node.logits > -jnp.inf, node.visits - notes.visits, -1)
        move = best_action(self._score(node, notes, visits == jnp.max(visits)))
        policy = self.policy(node)
        value = jnp.sum(policy * self.completed_q.complete(node))
        return RootResult(
            policy, value, jnp.where(jnp.arange(len(visits), dtype=jnp.int32) == move, jnp.float32(0), -jnp.inf)
        )

    def policy(self, node: Node) -> Float[Array, " A"]:
        """Returns the improved policy, the softmax of `logits + bonus`; 0 where illegal, even if no action is legal."""
        return jnp.where(node.logits == -jnp.inf, 0.0, jax.nn.softmax(node.logits + self.completed_q(node)))

    def quiet(self) -> "Gumbel":
        """Returns the same root policy with noise of scale 0."""
        return Gumbel(self.max_num_considered_actions, 0.0, self.completed_q)


def halving_schedule(num_considered: int, num_simulations: int) -> np.ndarray:
    """Returns the schedule of sequential halving: for each simulation, the visits of the actions whose turn it is.

    A phase gives all its actions equally many visits, one round after the other; the next phase continues with half of
    them, but at least two. Phases have about equally many simulations. For example, 8 actions and 16 simulations give
    `[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]`: all 8 actions get their first visit, the best 4 their second,
    and the best 2 their third and fourth.

    **Arguments:**

    - `num_considered`: the number of actions to begin with.
    - `num_simulations`: the number of simulations of the search.

    **Returns:** `[num_simulations]`, int32.

    Karnin et al., *Almost optimal exploration in multi-armed bandits*, ICML 2013.
    """
    if num_considered <= 1:  # nothing to halve: every simulation goes to the same action
        return np.arange(num_simulations, dtype=np.int32)
    num_phases, schedule, visits = math.ceil(math.log2(num_considered)), [], 0
    while len(schedule) < num_simulations:
        for _ in range(max(1, num_simulations // (num_phases * num_considered))):
            schedule += num_considered * [visits]
            visits += 1
        num_considered = max(2, num_considered // 2)
    return np.array(schedule[:num_simulations], dtype=np.int32)
