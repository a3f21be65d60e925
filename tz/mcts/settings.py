"""The settings of a search, and two ready-made ones."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from tz._arguments import check_fields
from tz.games.env import StepMetadata
from tz.mcts.backups import MeanBackup, SoftmaxBackup
from tz.mcts.final_moves import LowerConfidenceBound, by_weights
from tz.mcts.gumbel_root import Gumbel
from tz.mcts.root_policies import Dirichlet, RootPolicy
from tz.mcts.selectors import PUCT, CompletedQ, ImprovedPolicy
from tz.mcts.tree import Node


class MCTS(eqx.Module):
    """The settings of a search.

    **Fields:**

    - `num_simulations`: simulations a search; each evaluates one position.
    - `max_nodes`: node slots of the tree, the root included. None, the default, derives `num_nodes` from the other
        settings, also after `dataclasses.replace`: enough for one search, or for two with `persist_tree`. A full tree
        keeps searching and updating its statistics but adds no nodes.
    - `max_actions`: how many actions a node keeps, those with the largest prior; all by default. A game of many actions
        of which few are legal takes far less memory that way, and with room for all legal ones nothing else changes.
    - `selector`: `Node -> action`, such as [`tz.PUCT`][] or [`tz.mcts.MuZeroPUCT`][].
    - `root`: what is special at the root, such as [`tz.Dirichlet`][] or [`tz.Gumbel`][].
    - `backup`: `(Node, action, q) -> (new q, value)`, such as [`tz.mcts.MeanBackup`][].
    - `discount`: of the return, a step.
    - `temperature`: of the choice of the move, `weights ** (1 / temperature)`; 0 takes the best. Or a function of the
        number of moves made in the game (in a match, since its opening), such as
        `optax.piecewise_constant_schedule(1.0, {30: 0.0})`.
    - `final_move`: `(tree, discount, log_weights) -> log_weights`, such as [`tz.mcts.LowerConfidenceBound`][].
    - `persist_tree`: whether [`tz.advance`][] keeps the subtree of the move played.
    - `num_leaves`: positions evaluated together; above 1, the simulations of a step choose their edges before any of
        them is evaluated, each seeing the others as visits that returned what was expected. For one game or a few and
        a large network: faster, and a little weaker at equally many simulations.
    - `solve`: whether wins and losses that the tree has proven count as such: lost moves are tried no more, a won one
        is played. For games that end with a reward of 1 or -1 and bring none before; see `tz/mcts/_solver.py`.

    The floats may be JAX arrays, to sweep them with `vmap`.

    **Raises:** `ValueError` if a number is out of its range.
    """

    num_simulations: int = eqx.field(static=True)
    max_nodes: int | None = eqx.field(static=True, default=None)
    max_actions: int | None = eqx.field(static=True, default=None)
    selector: Callable[[Node], Int[Array, ""]] = PUCT()
    root: RootPolicy = Dirichlet()
    backup: Callable[..., Any] = MeanBackup()
    discount: float | Float[Array, ""] = 1.0
    temperature: float | Float[Array, ""] | Callable[[Int[Array, ""]], ArrayLike] = 1.0
    final_move: Callable[..., Float[Array, " A"]] = by_weights
    persist_tree: bool = eqx.field(static=True, default=True)
    num_leaves: int = eqx.field(static=True, default=1)
    solve: bool = eqx.field(static=True, default=False)

    def __post_init__(self):
        check_fields(self)
        if self.num_simulations < 1:
            raise ValueError(f"MCTS: num_simulations must be at least 1, found {self.num_simulations}.")
        if self.max_nodes is not None and self.max_nodes < 2:
            raise ValueError(f"MCTS: max_nodes must be at least 2 (the root and one child), found {self.max_nodes}.")
        if self.num_nodes <= self.num_simulations:
            warnings.warn(
                f"MCTS: {self.num_simulations} simulations can add as many nodes, but max_nodes={self.max_nodes} has "
                f"room for {self.num_nodes - 1} below the root. Once the tree is full, simulations go on to improve "
                "its statistics but add no nodes. Raise max_nodes or lower num_simulations to avoid this.",
                stacklevel=2,
            )
        if self.max_actions is not None and not 1 <= self.max_actions < 2**15:
            raise ValueError(f"MCTS: max_actions must be from 1 to 32767, found {self.max_actions}.")
        if self.num_leaves < 1 or self.num_simulations % self.num_leaves:
            raise ValueError(
                "MCTS: num_leaves must be at least 1 and divide num_simulations, found "
                f"num_leaves={self.num_leaves} and num_simulations={self.num_simulations}."
            )
        if isinstance(self.temperature, int | float) and not 0 <= self.temperature < math.inf:
            raise ValueError(f"MCTS: temperature must be 0 or more and finite, found {self.temperature}.")
        if isinstance(self.discount, int | float) and not 0 <= self.discount <= 1:
            raise ValueError(f"MCTS: discount must be from 0 to 1, found {self.discount}.")
        if self.solve and self.max_actions is not None:
            raise ValueError("MCTS: solve needs all actions of a node to prove a loss; leave max_actions None.")
        if self.solve and not (isinstance(self.discount, int | float) and self.discount == 1):
            raise ValueError(f"MCTS: solve needs results that keep their worth, discount=1, found {self.discount}.")

    @property
    def num_nodes(self) -> int:
        """The node slots of a tree: `max_nodes`, or the number derived where that is None."""
        if self.max_nodes is not None:
            return self.max_nodes
        return self.num_simulations * (2 if self.persist_tree else 1) + 1


def check_settings(mcts: MCTS, metadata: StepMetadata) -> None:
    """Raises `ValueError` for settings that do not fit a game with chance.

    There the edge that a simulation follows leads to one outcome of several, whose return is not the edge's worth.
    """
    if metadata.chance is None:
        return
    advice = None
    if mcts.solve:
        advice = "solve=True, which takes what one outcome proves for proven; leave it False"
    elif isinstance(mcts.backup, SoftmaxBackup):
        advice = "SoftmaxBackup, which takes an edge to be worth what its last outcome is; choose tz.mcts.MeanBackup()"
    elif isinstance(mcts.final_move, LowerConfidenceBound):
        advice = "LowerConfidenceBound, which counts an outcome as often as its whole edge; leave final_move as it is"
    if advice is not None:
        raise ValueError(f"MCTS: found a game with chance and {advice}.")


def without_exploration(mcts: MCTS) -> MCTS:
    """The same search for matches and analysis: no noise at the root, and the best move taken (temperature 0)."""
    return dataclasses.replace(mcts, root=mcts.root.quiet(), temperature=0.0)


def gumbel_mcts(
    num_simulations: int, max_num_considered_actions: int = 16, completed_q: CompletedQ = CompletedQ(), **settings: Any
) -> MCTS:
    """The search of Gumbel AlphaZero: [`tz.Gumbel`][] at the root and [`tz.ImprovedPolicy`][] below.

    **Arguments:** `completed_q`, of both; `settings`, of [`tz.MCTS`][].
    """
    root = Gumbel(max_num_considered_actions, completed_q=completed_q)
    return MCTS(num_simulations, root=root, selector=ImprovedPolicy(completed_q), **settings)


def on_trees_of(mcts: MCTS, fast_mcts: MCTS) -> MCTS:
    """The fast search on the trees of the other: where its `max_nodes` is None, it takes theirs.

    **Raises:** `ValueError` if the two searches need different trees.
    """
    if fast_mcts.max_nodes is None:
        fast_mcts = dataclasses.replace(fast_mcts, max_nodes=mcts.num_nodes)
    for name in ("num_nodes", "max_actions", "persist_tree"):
        found, expected = getattr(fast_mcts, name), getattr(mcts, name)
        name = "max_nodes" if name == "num_nodes" else name
        if found != expected:
            raise ValueError(
                f"fast_mcts: found {name}={found}, expected {expected}, since it searches the trees of mcts. Make one "
                "from the other: dataclasses.replace(mcts, num_simulations=8)."
            )
    return fast_mcts
