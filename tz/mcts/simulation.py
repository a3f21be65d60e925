"""Monte Carlo tree search over one game, as functions: start, simulate, read the result, move on with the subtree."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_evaluator, check_one_game, check_one_key
from tz._arrays import strong
from tz.games.chance import check_nature
from tz.games.env import Env, StepMetadata
from tz.mcts._evaluation import evaluate, largest, log_prior
from tz.mcts._leaves import add_leaf, choose_edge, choose_edges, expand_edge
from tz.mcts.models import Model, check_is_model, check_position, check_same_model, root_of, without_forbidden
from tz.mcts.settings import MCTS, check_settings
from tz.mcts.tree import Node, Tree, init_tree, reroot

Evaluator = Callable[[PyTree, StepMetadata, PRNGKeyArray], tuple[Float[Array, " A"], Float[Array, ""]]]
"""`(env_state, metadata, key) -> (logits [A], value [])`; the value is for the player to move. Where a search steps
through a [`tz.mcts.Model`][], the state is the model's."""


class SearchState(eqx.Module):
    """A search in progress.

    **Fields:** `tree`, whose node 0 is the position searched; `metadata` of that position; `notes` of the root policy.
    """

    tree: Tree
    metadata: StepMetadata
    notes: PyTree

    @property
    def root(self) -> Node:
        """The root's statistics, of all actions of the game."""
        node = self.tree.node(jnp.int32(0))
        logits, visits, q = self.spread(node.logits, -jnp.inf), self.spread(node.visits, 0), self.spread(node.q, 0.0)
        return Node(logits, visits, q, node.raw_value, node.q_low, node.q_high)

    def spread(self, x: Shaped[Array, " K"], fill: int | float) -> Shaped[Array, " A"]:
        """What is known of the root's kept actions as an array of all, `fill` where an action is not kept."""
        if self.tree.actions is None:
            return x
        return jnp.full(self.metadata.action_mask.shape, fill, x.dtype).at[self.tree.actions[0]].set(x)


def init_search(
    mcts: MCTS, env_state: PyTree, metadata: StepMetadata, *, model: Env | Model | None = None
) -> SearchState:
    """A search state that knows only its root, not yet evaluated.

    **Arguments:** `env_state` and `metadata`, as [`tz.Env`][]'s `init` and `step` return them, one game; `model`, what
    the search is to step through, by default the game.

    **Raises:** `ValueError` for games of more than two players, or fewer actions than `max_actions`, for a model whose
    root does not fit the game, for `solve` with a model that discounts, and for settings that a game with chance does
    not allow.
    """
    check_one_game("init_search", metadata)
    env_state, metadata = root_of(model, env_state, metadata)
    if metadata.rewards.shape[0] > 2:
        raise ValueError(
            f"tz searches games of one or two players, but the rewards of this one have {metadata.rewards.shape[0]} "
            "entries. Values are negated between two opponents, which means nothing among three."
        )
    if mcts.solve and metadata.discount is not None:
        raise ValueError(
            "MCTS: found solve=True and a model with a discount, expected results that keep their worth; leave solve "
            "False, or the discount None."
        )
    check_settings(mcts, metadata)
    num_actions = metadata.action_mask.shape[0]
    if mcts.max_actions is not None and mcts.max_actions > num_actions:
        raise ValueError(f"MCTS: max_actions={mcts.max_actions}, but the game has no more than {num_actions} actions.")
    if mcts.max_actions is not None and num_actions > 2**15:
        raise ValueError(
            f"MCTS: max_actions needs a game of at most 32768 actions, found {num_actions}; leave it None."
        )
    env_state, metadata = strong((env_state, metadata))
    tree = init_tree(env_state, metadata, mcts.num_nodes, mcts.max_actions)
    tree = _with_root_prior(mcts, tree, _no_preference(metadata))
    return SearchState(tree, metadata, _no_notes(mcts, tree))


def _no_preference(metadata: StepMetadata) -> Float[Array, " A"]:
    return jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)


def _with_root_prior(mcts: MCTS, tree: Tree, logits: Float[Array, " A"]) -> Tree:
    """The tree with a prior at its root, and with the actions that the root keeps."""
    actions = largest(mcts, logits)
    if actions is not None and tree.actions is not None:
        actions = jnp.where(tree.size > 1, tree.actions[0], actions)  # what was kept is about the actions it had
        tree = eqx.tree_at(lambda tree: tree.actions, tree, tree.actions.at[0].set(actions))
    return eqx.tree_at(lambda tree: tree.logits, tree, tree.logits.at[0].set(log_prior(logits, actions)))


def check_trees(mcts: MCTS, state: SearchState) -> None:
    """Raises `ValueError` if a search state was made with settings that need other trees."""
    num_actions = state.metadata.action_mask.shape[-1]
    found = state.tree.parent.shape[-1], state.tree.logits.shape[-1], state.tree.actions is None
    expected = mcts.num_nodes, mcts.max_actions or num_actions, mcts.max_actions is None
    if found != expected:
        nodes, actions, _ = found
        raise ValueError(
            f"search: found a tree of {nodes} nodes that keep {actions} actions each, expected {expected[0]} nodes "
            f"(max_nodes) and {expected[1]} actions (max_actions) by the MCTS given. Make the state with "
            f"tz.init_search and these settings, or search on with settings of max_nodes={nodes}."
        )


def check_notes(mcts: MCTS, state: SearchState) -> None:
    """Raises `ValueError` if a state has other trees, or notes of another root policy, than these settings have."""
    check_trees(mcts, state)
    found, expected = jax.tree.structure(state.notes), jax.tree.structure(_no_notes(mcts, state.tree))
    if found != expected and expected.num_leaves > 0:  # a root policy without notes can read any search
        raise ValueError(
            f"search: found a state whose root policy left the notes {found}, expected {expected} by the MCTS given "
            f"({type(mcts.root).__name__}). Call tz.start_search or tz.search with these settings first."
        )


def _no_notes(mcts: MCTS, tree: Tree) -> PyTree:
    """Zeros in the place of what the root policy will note."""

    def start(tree, key):
        return mcts.root.start(tree.node(jnp.int32(0)), mcts.num_simulations, key=key)

    notes = eqx.filter_eval_shape(start, tree, jax.random.key(0))[1]
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), notes)


def start_search(mcts: MCTS, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray) -> SearchState:
    """Evaluates the root and lets the root policy change its prior: what [`tz.search`][] does before its simulations.

    The root is evaluated anew at each search, so noise never piles up on a subtree that was kept.

    **Arguments:** `state`, of one game; `key`, for noise and evaluator.
    """
    check_one_game("start_search", state.metadata)
    check_one_key("start_search", key)
    check_trees(mcts, state)
    evaluate_key, root_key = jax.random.split(key)
    env_state = jax.tree.map(lambda x: x[0], state.tree.state)
    logits, value = evaluate(mcts, evaluator, env_state, state.metadata, evaluate_key)
    tree = _with_root_prior(mcts, state.tree, logits)
    tree = eqx.tree_at(lambda tree: tree.raw_value, tree, tree.raw_value.at[0].set(value))
    logits, notes = mcts.root.start(tree.node(jnp.int32(0)), mcts.num_simulations, key=root_key)
    tree = eqx.tree_at(lambda tree: tree.logits, tree, tree.logits.at[0].set(logits.astype(jnp.float32)))
    return SearchState(tree, state.metadata, notes)


def _check_model(where: str, model: Any, evaluator: Evaluator, state: SearchState) -> None:
    """Raises `ValueError` for a model of another kind, and for one that does not fit the evaluator or the state."""
    check_is_model(model)
    check_same_model(where, model, evaluator)
    check_nature(f"{where} of ", model, state.metadata)


def search_step(
    mcts: MCTS, model: Env | Model, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray
) -> SearchState:
    """One simulation: go down to an edge without a child, step the game, evaluate, add the node, back up.

    With `mcts.num_leaves` above 1, that many simulations.

    **Arguments:** `model`, the game or a [`tz.mcts.Model`][]; `state`, from [`tz.start_search`][] or an earlier step;
    `key`, for the evaluator.
    """
    check_one_game("search_step", state.metadata)
    _check_model("search_step", model, evaluator, state)
    check_notes(mcts, state)
    tree, chance_key = state.tree, key
    if tree.chance is not None:
        key, chance_key = jax.random.split(key)
    expanded = functools.partial(expand_edge, mcts, model, evaluator, tree, state.metadata)
    if mcts.num_leaves == 1:
        tree = add_leaf(mcts, tree, expanded(choose_edge(mcts, tree, state.notes), key, chance_key))
    else:
        edges = choose_edges(mcts, tree, state.notes)
        keys = jax.random.split(key, mcts.num_leaves)
        leaves = jax.vmap(expanded, (0, 0, None))(edges, keys, chance_key)
        tree = lax.scan(lambda tree, leaf: (add_leaf(mcts, tree, leaf), None), tree, leaves)[0]
    return SearchState(tree, state.metadata, state.notes)


def search(
    mcts: MCTS, model: Env | Model, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray
) -> SearchState:
    """Evaluates the root, lets the root policy prepare it, and runs `mcts.num_simulations` simulations.

    **Arguments:** `model`, what the search steps through: the game, or a [`tz.mcts.Model`][] of it; `evaluator`, of the
    states of that; `state`, of one game; `jax.vmap` this function for many. `key`, for noise and evaluator.

    **Raises:** `ValueError` if the state was made with other settings, or its root and `step` of the model differ in
    shapes or dtypes.
    """
    check_one_game("search", state.metadata)
    _check_model("search", model, evaluator, state)
    check_one_key("search", key)
    check_evaluator("search", evaluator)
    root_key, key = jax.random.split(key)
    state = start_search(mcts, evaluator, state, key=root_key)

    def body(state, key):
        return search_step(mcts, model, evaluator, state, key=key), None

    return lax.scan(body, state, jax.random.split(key, mcts.num_simulations // mcts.num_leaves))[0]


def advance(
    mcts: MCTS,
    state: SearchState,
    action: Int[Array, ""],
    env_state: PyTree,
    metadata: StepMetadata,
    *,
    reset: bool | Bool[Array, ""] = False,
    model: Env | Model | None = None,
) -> SearchState:
    """The search state after a move: the played subtree if `mcts.persist_tree`, a new tree otherwise.

    **Arguments:** `action`, the move played at the root; `env_state` and `metadata`, the position it led to; `reset`,
    whether that position belongs to a new game, so that nothing may be kept; `model`, what the search steps through, by
    default the game. The state of the new root is the model's of the real position. Nothing is kept below it that the
    game forbids, nor anything where the model expected another player to move. In a game with chance, the position is
    the one after nature's outcome, and what is kept is the subtree of the outcome that led to the very same state.
    """
    check_one_game("advance", metadata)
    if not mcts.persist_tree:
        return init_search(mcts, env_state, metadata, model=model)
    check_trees(mcts, state)
    child = state.spread(state.tree.children[0], -1)[action]
    tree, child = state.tree, jnp.where(reset, -1, child)
    if isinstance(model, Model):
        env_state, metadata = root_of(model, env_state, metadata)
    check_position(tree, env_state)
    if tree.chance is not None:
        child = tree.chance.child_with_state(child, tree.state, env_state)
    if isinstance(model, Model):
        tree, child = without_forbidden(tree, child, metadata)
    tree = reroot(tree, child, env_state, metadata)
    blank = _with_root_prior(mcts, tree, _no_preference(metadata))

    def prior(tree):
        return jax.tree.leaves((tree.logits, tree.actions))

    pairs = zip(prior(blank), prior(tree), strict=True)
    tree = eqx.tree_at(prior, tree, [old.at[0].set(jnp.where(child < 0, new[0], old[0])) for new, old in pairs])
    return SearchState(tree, metadata, _no_notes(mcts, tree))
