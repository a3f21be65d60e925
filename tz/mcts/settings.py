"""The settings of a search, and functions that make them."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from tz._arguments import check_fields, shown, shown_settings, takes
from tz.games.env import StepMetadata
from tz.mcts.backups import MeanBackup, SoftmaxBackup
from tz.mcts.final_moves import LowerConfidenceBound, by_weights
from tz.mcts.gumbel_root import Gumbel
from tz.mcts.root_policies import Dirichlet, RootPolicy, check_root
from tz.mcts.selectors import PUCT, CompletedQ, ImprovedPolicy
from tz.mcts.tree import Node


class MCTS(eqx.Module):
    """The settings of a search.

    **Fields:**

    - `num_simulations`: the number of simulations of a search; each evaluates one position. With 0, only the root is
        evaluated. Without a kept tree, moves then follow from the prior, which includes the noise of `root`;
        `tz.without_exploration(tz.MCTS(0))` plays the favourite move of the network.
    - `max_nodes`: the number of node slots of the tree, including the root. With None, the default, `num_nodes` follows
        from the other settings, also after `dataclasses.replace`: enough for one search, or for two with
        `persist_tree`. In a full tree, simulations still update the statistics but add no nodes.
    - `max_actions`: the number of actions that a node keeps, those with the largest prior; None, the default, keeps
        all. In a game with many actions, few of them legal, the tree then takes far less memory, and as long as
        there is room for all legal actions, PUCT searches as it does without. In Gumbel's search, illegal actions take
        part in the scale of `q` (see `rescale` of [`tz.mcts.CompletedQ`][]), so fewer of them may change the result.
    - `selector`: `Node -> action`, such as [`tz.PUCT`][] or [`tz.mcts.MuZeroPUCT`][].
    - `root`: the root policy, such as [`tz.Dirichlet`][] or [`tz.Gumbel`][]. The default adds noise for self-play;
        [`tz.without_exploration`][] removes it.
    - `backup`: `(Node, action, q) -> (new q, value)`, such as [`tz.mcts.MeanBackup`][].
    - `discount`: the discount of the return, per move.
    - `temperature`: a move is drawn with probabilities proportional to `weights ** (1 / temperature)`; 0 takes the best
        move. It may be a function of the number of moves made in the game (in a match, since its opening), such as
        `optax.piecewise_constant_schedule(1.0, {30: 0.0})`.
    - `final_move`: `(tree, discount, log_weights) -> log_weights`, such as [`tz.mcts.LowerConfidenceBound`][].
    - `persist_tree`: True to make [`tz.advance`][] keep the subtree of the move played.
    - `num_leaves`: the number of positions that are evaluated together. Above 1, the simulations of a step choose their
        edges before any position is evaluated, and each sees the earlier ones as visits that returned the expected
        value. Use it for one or a few games with a large network: it is faster, but a little weaker at the same number
        of simulations.
    - `solve`: True to use the wins and losses that the tree has proven: lost moves are no longer tried, and a won move
        is played. It assumes that games end with a reward of 1 or -1, or 0 for a draw, and that all earlier rewards are
        zero; see `tz/mcts/_solver.py`.

    Settings that are floats may be JAX arrays, to sweep them with `jax.vmap`.

    **Raises:** `ValueError` if a number is out of its range, a part of the search is not of its kind, or `solve` does
    not fit the other settings. A warning is given if the tree has too little room for one search.
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
        self._check_parts()
        if self.num_simulations < 0:
            raise ValueError(
                f"MCTS: found num_simulations={self.num_simulations}, expected at least 0; give 0 to play without a "
                "search, by the policy of the evaluator alone."
            )
        fewest = min(2, 1 + self.num_simulations)
        if self.max_nodes is not None and self.max_nodes < fewest:
            raise ValueError(
                f"MCTS: found max_nodes={self.max_nodes}, expected at least {fewest}, for the root"
                f"{' and a child' if fewest == 2 else ''}; raise it."
            )
        if self.num_nodes <= self.num_simulations:
            warnings.warn(
                f"MCTS: found max_nodes={self.max_nodes}, with room for {self.num_nodes - 1} nodes below the root, "
                f"expected room for the nodes that {self.num_simulations} simulations can add; raise max_nodes or "
                "lower num_simulations. In a full tree, simulations still update the statistics but add no nodes.",
                stacklevel=2,
            )
        if self.max_actions is not None and not 1 <= self.max_actions < 2**15:
            raise ValueError(
                f"MCTS: found max_actions={self.max_actions}, expected from 1 to 32767; leave it None to keep all."
            )
        if self.num_leaves < 1 or self.num_simulations % self.num_leaves:
            raise ValueError(
                f"MCTS: found num_leaves={self.num_leaves} and num_simulations={self.num_simulations}, expected "
                "num_leaves to be at least 1 and to divide num_simulations; change one of them."
            )
        if isinstance(self.temperature, int | float) and not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"MCTS: found temperature={self.temperature}, expected a finite number of at least 0; 0 takes the best "
                "move."
            )
        if isinstance(self.discount, int | float) and not 0 <= self.discount <= 1:
            raise ValueError(f"MCTS: found discount={self.discount}, expected from 0 to 1; give 1 for no discount.")
        if self.solve and self.max_actions is not None:
            raise ValueError(
                f"MCTS: found solve=True and max_actions={self.max_actions}, expected None, since a proof of a loss "
                "needs all actions of a node; leave max_actions None."
            )
        if self.solve and not (isinstance(self.discount, int | float) and self.discount == 1):
            raise ValueError(
                f"MCTS: found solve=True and discount={self.discount}, expected 1, since only a value of exactly 1 or "
                "-1 is a proof; leave solve False, or the discount 1."
            )

    def _check_parts(self) -> None:
        check_root("MCTS", "root", self.root)
        for name, form, number in (
            ("selector", "Node -> action", 1),
            ("backup", "(Node, action, q) -> (new q, value)", 3),
            ("final_move", "(tree, discount, log_weights) -> log_weights", 3),
        ):
            part = getattr(self, name)
            if not takes(part, number):
                raise ValueError(
                    f"MCTS: found {name}={shown(part)}, expected a function {form}; give one, or leave it at its "
                    "default."
                )

    def __repr__(self) -> str:
        """Shows the settings that differ from their defaults."""
        return shown_settings(self)

    @property
    def num_nodes(self) -> int:
        """The number of node slots of a tree: `max_nodes`, or if that is None, the number derived from the settings."""
        if self.max_nodes is not None:
            return self.max_nodes
        return self.num_simulations * (2 if self.persist_tree else 1) + 1


def check_settings(mcts: MCTS, metadata: StepMetadata) -> None:
    """Raises `ValueError` for settings that do not fit a game with chance, or a model with a discount.

    In a game with chance, one simulation sees one of several outcomes of an edge, and its return is not the value of
    the edge.
    """
    if mcts.solve and metadata.discount is not None:
        raise ValueError(
            "MCTS: found solve=True and a model with a discount, expected no discount, since only a value of exactly "
            "1 or -1 is a proof; leave solve False, or the discount None."
        )
    if metadata.chance is None:
        return
    advice = None
    if mcts.solve:
        advice = "solve=True, expected False, since one outcome of a move proves nothing; leave it False"
    elif isinstance(mcts.backup, SoftmaxBackup):
        advice = (
            "SoftmaxBackup, expected a backup that averages the outcomes of an edge, while this one keeps the last; "
            "choose tz.mcts.MeanBackup()"
        )
    elif isinstance(mcts.final_move, LowerConfidenceBound):
        advice = (
            "LowerConfidenceBound, expected another final move, since this one counts an outcome as often as its whole "
            "edge; leave final_move at its default"
        )
    if advice is not None:
        raise ValueError(f"MCTS: found a game with chance and {advice}.")


def without_exploration(mcts: MCTS) -> MCTS:
    """Returns the settings for matches and analysis: no noise at the root, and temperature 0 (the best move).

    **Arguments:**

    - `mcts`: the settings, such as those of self-play.

    **Returns:** new settings, which differ only in the noise and the temperature.
    """
    return dataclasses.replace(mcts, root=mcts.root.quiet(), temperature=0.0)


def gumbel_mcts(
    num_simulations: int, max_num_considered_actions: int = 16, completed_q: CompletedQ = CompletedQ(), **settings: Any
) -> MCTS:
    """Makes the settings of Gumbel AlphaZero: [`tz.Gumbel`][] at the root and [`tz.ImprovedPolicy`][] below.

    Use it for few simulations, after which the visits of a search with PUCT make a poor policy target.

    **Arguments:**

    - `num_simulations`: the number of simulations of a search.
    - `max_num_considered_actions`: the number of actions that the root considers, see [`tz.Gumbel`][].
    - `completed_q`: the bonus of `q`, for the root and below.
    - `settings`: other fields of [`tz.MCTS`][].

    **Returns:** a [`tz.MCTS`][].

    Danihelka et al., *Policy improvement by planning with Gumbel*, ICLR 2022.
    """
    root = Gumbel(max_num_considered_actions, completed_q=completed_q)
    return MCTS(num_simulations, root=root, selector=ImprovedPolicy(completed_q), **settings)


def on_trees_of(mcts: MCTS, fast_mcts: MCTS) -> MCTS:
    """Checks that two searches can share a tree, and returns the fast one.

    If `max_nodes` of the fast search is None, it is set to the number of nodes of the other.

    **Raises:** `ValueError` if the two searches need different trees.
    """
    if fast_mcts.max_nodes is None:
        fast_mcts = dataclasses.replace(fast_mcts, max_nodes=mcts.num_nodes)
    # Without `solve`, a search may store values of 1 and -1 that are no proofs.
    for name in ("num_nodes", "max_actions", "persist_tree", "solve"):
        found, expected = getattr(fast_mcts, name), getattr(mcts, name)
        name = "max_nodes" if name == "num_nodes" else name
        if found != expected:
            raise ValueError(
                f"fast_mcts: found {name}={found}, expected {expected}, since it searches the same trees as mcts; make "
                "it from mcts, such as dataclasses.replace(mcts, num_simulations=8)."
            )
    return fast_mcts
