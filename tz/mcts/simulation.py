"""Monte Carlo tree search of one game, as functions: start a search, run simulations, keep the subtree of a move.

`jax.vmap` searches many games at once. `tz/mcts/results.py` reads the policy, the value and the move from a search.
"""

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
from tz.games.chance import check_nature, check_player_to_move
from tz.games.env import Env, StepMetadata
from tz.mcts._evaluation import evaluate, largest, log_prior, uniform_prior
from tz.mcts._leaves import add_leaf, choose_edge, choose_edges, expand_edge
from tz.mcts._part_checks import check_returns, check_row, name_of
from tz.mcts.models import Model, check_is_model, check_position, check_same_model, root_of, without_forbidden
from tz.mcts.settings import MCTS, check_settings
from tz.mcts.tree import Node, Tree, init_tree, reroot

Evaluator = Callable[[PyTree, StepMetadata, PRNGKeyArray], tuple[Float[Array, " A"], Float[Array, ""]]]
"""A function `(env_state, metadata, key) -> (logits [A], value [])` that judges a position for the search. The value is
for the player to move. If the search steps through a [`tz.mcts.Model`][], the state is the model's."""


class SearchState(eqx.Module):
    """The state of a search: its tree, and the data of its root.

    **Fields:**

    - `tree`: the [`tz.mcts.Tree`][]. Its node 0, the root, is the position that is searched.
    - `metadata`: the metadata of that position.
    - `notes`: the arrays that the root policy keeps for this search, see [`tz.mcts.RootPolicy`][].
    """

    tree: Tree
    metadata: StepMetadata
    notes: PyTree

    @property
    def root(self) -> Node:
        """The root's statistics, over all actions of the game.

        **Raises:** `ValueError` for the states of several games.
        """
        check_one_game("SearchState.root", self.metadata)
        node = self.tree.node(jnp.int32(0))
        logits, visits, q = self.spread(node.logits, -jnp.inf), self.spread(node.visits, 0), self.spread(node.q, 0.0)
        return Node(logits, visits, q, node.raw_value, node.q_low, node.q_high)

    def spread(self, x: Shaped[Array, " K"], fill: int | float) -> Shaped[Array, " A"]:
        """Returns an array over the root's kept actions as an array over all actions.

        **Arguments:**

        - `x`: `[K]`, an entry for each action that the root keeps.
        - `fill`: the entry of the other actions.
        """
        if self.tree.actions is None:
            return x
        return jnp.full(self.metadata.action_mask.shape, fill, x.dtype).at[self.tree.actions[0]].set(x)


def init_search(
    mcts: MCTS, env_state: PyTree, metadata: StepMetadata, *, model: Env | Model | None = None
) -> SearchState:
    """Creates a search state that has only a root, which is not evaluated yet.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `env_state`, `metadata`: the position to search, of one game, as `init` and `step` of [`tz.Env`][] return it.
    - `model`: the model that the search steps through; None, the default, if it steps through the game.

    **Returns:** the search state, ready for [`tz.search`][].

    **Raises:** `ValueError` for a game of more than two players or with fewer actions than `max_actions`, for a model
    whose root does not fit the game, for `solve` with a model that discounts, for settings that a game with chance
    does not allow, and, outside of `jax.jit`, for a position in which nature is to move.
    """
    check_one_game("init_search", metadata)
    check_player_to_move("init_search", metadata)
    env_state, metadata = root_of(model, env_state, metadata)
    if metadata.rewards.shape[0] > 2:
        raise ValueError(
            f"init_search: found a game whose rewards have {metadata.rewards.shape[0]} entries, expected one or two "
            "players, since values are negated between two opponents; this game cannot be searched."
        )
    check_settings(mcts, metadata)
    num_actions = metadata.action_mask.shape[0]
    if mcts.max_actions is not None and mcts.max_actions > num_actions:
        raise ValueError(
            f"MCTS: found max_actions={mcts.max_actions}, expected at most {num_actions}, the number of actions of the "
            "game; lower it, or leave it None."
        )
    if mcts.max_actions is not None and num_actions > 2**15:  # the tree stores kept actions as int16
        raise ValueError(
            f"MCTS: found max_actions={mcts.max_actions} and a game of {num_actions} actions, expected a game of at "
            "most 32768 actions; leave max_actions None."
        )
    env_state, metadata = strong((env_state, metadata))
    tree = init_tree(env_state, metadata, mcts.num_nodes, mcts.max_actions)
    tree = _with_root_prior(mcts, tree, _no_preference(metadata), uniform_prior)
    return SearchState(tree, metadata, _no_notes(mcts, tree))


def _no_preference(metadata: StepMetadata) -> Float[Array, " A"]:
    return jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)


def _with_root_prior(
    mcts: MCTS, tree: Tree, logits: Float[Array, " A"], prior: Callable[..., Array] = log_prior
) -> Tree:
    """Returns the tree with a new prior at its root, and with the actions that the root keeps."""
    actions = largest(mcts, logits)
    if actions is not None and tree.actions is not None:
        # A root with children or visits keeps its actions, since their statistics are stored in their order. (In a full
        # tree, an edge may have visits and no child.)
        is_searched = (tree.size > 1) | jnp.any(tree.visits[0] > 0)
        actions = jnp.where(is_searched, tree.actions[0], actions)
        tree = eqx.tree_at(lambda tree: tree.actions, tree, tree.actions.at[0].set(actions))
    return eqx.tree_at(lambda tree: tree.logits, tree, tree.logits.at[0].set(prior(logits, actions)))


def check_trees(mcts: MCTS, state: SearchState) -> None:
    """Raises `ValueError` if the tree of a search state does not have the shapes that these settings need."""
    num_actions = state.metadata.action_mask.shape[-1]
    found = state.tree.parent.shape[-1], state.tree.logits.shape[-1], state.tree.actions is None
    expected = mcts.num_nodes, mcts.max_actions or num_actions, mcts.max_actions is None
    if found != expected:
        nodes, actions, _ = found
        raise ValueError(
            f"search: found a tree of {nodes} nodes that keep {actions} actions each, expected {expected[0]} nodes "
            f"(max_nodes) and {expected[1]} actions (max_actions) for the given MCTS; make the state with "
            f"tz.init_search and these settings, or search it with settings of max_nodes={nodes}."
        )


def check_notes(mcts: MCTS, state: SearchState) -> None:
    """Raises `ValueError` if a search state has a tree of the wrong shapes, or the notes of another root policy."""
    check_trees(mcts, state)
    found, expected = jax.tree.structure(state.notes), jax.tree.structure(_no_notes(mcts, state.tree))
    if found != expected and expected.num_leaves > 0:  # a root policy without notes can read any search
        raise ValueError(
            f"search: found a state whose root policy left the notes {found}, expected {expected}, the notes of the "
            f"given MCTS ({type(mcts.root).__name__}); call tz.start_search or tz.search with these settings first."
        )


def _no_notes(mcts: MCTS, tree: Tree) -> PyTree:
    """Returns zeros in place of the root policy's notes, so that a search does not change the types of its state."""

    def start(tree, key):
        return _started(mcts, tree, key)

    notes = eqx.filter_eval_shape(start, tree, jax.random.key(0))[1]
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), notes)


def _started(mcts: MCTS, tree: Tree, key: PRNGKeyArray) -> tuple[Float[Array, " K"], PyTree]:
    """Returns the log prior and the notes with which the root policy starts a search."""
    where = f"{name_of(mcts.root)}.start"
    found = mcts.root.start(tree.node(jnp.int32(0)), mcts.num_simulations, key=key)
    logits, notes = check_returns(where, found, ("log prior", "notes"))
    return check_row(f"{where}, log prior", logits, tree.logits.shape[-1]), notes


def start_search(mcts: MCTS, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray) -> SearchState:
    """Evaluates the root and lets the root policy change its prior, as [`tz.search`][] does before its simulations.

    The root is evaluated again in each search. Otherwise, noise would add up on a subtree that was kept.

    **Arguments:**

    - `mcts`: the settings that the state was made with.
    - `evaluator`: a [`tz.mcts.Evaluator`][].
    - `state`: from [`tz.init_search`][] or [`tz.advance`][], of one game.
    - `key`: a random key, for the evaluator and the noise of the root policy.

    **Returns:** the search state, ready for [`tz.search_step`][].

    **Raises:** `ValueError` if the state was made with other settings, or the evaluator's arrays do not fit the game.
    """
    check_one_game("start_search", state.metadata)
    check_one_key("start_search", key)
    check_settings(mcts, state.metadata)
    check_trees(mcts, state)
    evaluate_key, root_key = jax.random.split(key)
    env_state = jax.tree.map(lambda x: x[0], state.tree.state)
    logits, value = evaluate(mcts, evaluator, env_state, state.metadata, evaluate_key)
    tree = _with_root_prior(mcts, state.tree, logits)
    tree = eqx.tree_at(lambda tree: tree.raw_value, tree, tree.raw_value.at[0].set(value))
    logits, notes = _started(mcts, tree, root_key)
    tree = eqx.tree_at(lambda tree: tree.logits, tree, tree.logits.at[0].set(logits.astype(jnp.float32)))
    return SearchState(tree, state.metadata, notes)


def _check_model(where: str, model: Any, evaluator: Evaluator, state: SearchState) -> None:
    """Raises `ValueError` if the model is neither a game nor a `Model`, or does not fit the evaluator or the state."""
    check_is_model(model)
    check_same_model(where, model, evaluator)
    check_nature(f"{where} of ", model, state.metadata)


def search_step(
    mcts: MCTS, model: Env | Model, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray
) -> SearchState:
    """Runs one simulation, or `mcts.num_leaves` simulations together.

    A simulation goes down the tree to an edge without a child (or with a terminal child), steps the game along that
    edge, evaluates the position that it reaches, adds it as a node, and backs its value up to the root.

    **Arguments:**

    - `mcts`: the settings that the state was made with.
    - `model`: the game, or the [`tz.mcts.Model`][] that the search steps through.
    - `evaluator`: a [`tz.mcts.Evaluator`][] of the states of `model`.
    - `state`: from [`tz.start_search`][] or an earlier step, of one game.
    - `key`: a random key, for the evaluator and, in a game with chance, for nature.

    **Returns:** the search state with the grown tree.

    **Raises:** `ValueError` as [`tz.search`][] does, if the state has the notes of another root policy, and for
    settings without simulations.
    """
    check_one_game("search_step", state.metadata)
    if mcts.num_simulations == 0:
        raise ValueError(
            "search_step: found settings with num_simulations=0, expected at least 1, since a step is a simulation; "
            "raise it, or read the result after tz.start_search."
        )
    _check_model("search_step", model, evaluator, state)
    check_notes(mcts, state)
    tree, chance_key = state.tree, key
    if tree.chance is not None:
        key, chance_key = jax.random.split(key)
    expanded = functools.partial(expand_edge, mcts, model, evaluator, tree, state.metadata)
    if mcts.num_leaves == 1:
        tree = add_leaf(mcts, tree, expanded(choose_edge(mcts, tree, state.notes), key, chance_key))
    else:
        # The positions are evaluated together, as one batch. Their nodes are added one after the other, since each
        # changes the tree.
        edges = choose_edges(mcts, tree, state.notes)
        keys = jax.random.split(key, mcts.num_leaves)
        leaves = jax.vmap(expanded, (0, 0, None))(edges, keys, chance_key)
        tree = lax.scan(lambda tree, leaf: (add_leaf(mcts, tree, leaf), None), tree, leaves)[0]
    return SearchState(tree, state.metadata, state.notes)


def search(
    mcts: MCTS, model: Env | Model, evaluator: Evaluator, state: SearchState, *, key: PRNGKeyArray
) -> SearchState:
    """Searches a position: calls [`tz.start_search`][], then runs `mcts.num_simulations` simulations.

    It searches one game; `jax.vmap` it for many.

    **Arguments:**

    - `mcts`: the settings that the state was made with.
    - `model`: the game, or the [`tz.mcts.Model`][] that the search steps through.
    - `evaluator`: a [`tz.mcts.Evaluator`][] of the states of `model`.
    - `state`: from [`tz.init_search`][] or [`tz.advance`][], of one game.
    - `key`: a random key, for the evaluator, the noise of the root policy and, in a game with chance, for nature.

    **Returns:** the search state. Read it with [`tz.action_weights`][], [`tz.root_value`][] and [`tz.choose_action`][].

    **Raises:** `ValueError` if the state was made with other settings, if the evaluator's arrays do not fit the game,
    or if `step` of the model returns other shapes or dtypes than the root of the search has.
    """
    check_one_game("search", state.metadata)
    _check_model("search", model, evaluator, state)
    check_one_key("search", key)
    check_evaluator("search", evaluator)
    root_key, key = jax.random.split(key)
    state = start_search(mcts, evaluator, state, key=root_key)
    if mcts.num_simulations == 0:  # the body of a loop would be compiled even if it never runs
        return state

    # Unlike a `while_loop`, a `scan` may carry the tree: all games run the same number of iterations, so `vmap` adds no
    # select between old and new trees.
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
    """Moves a search on to the position after a move: keeps the subtree of that move, or begins a new tree.

    With `mcts.persist_tree` it keeps the subtree, so that the next search continues with the statistics found so far.
    In a game with chance, it keeps the subtree of the outcome that led to exactly this state. With a model, the state
    of the new root is the model's state for the real position, and edges of the root that the game forbids are dropped.
    Nothing is kept if this leaves no edge, or if the model predicted another player to move.

    **Arguments:**

    - `mcts`: the settings that the state was made with.
    - `state`: the search state before the move, of one game.
    - `action`: the move that was played at the root.
    - `env_state`, `metadata`: the position after the move and, in a game with chance, after nature's outcome.
    - `reset`: True if this position belongs to a new game, so that nothing may be kept.
    - `model`: the model that the search steps through; None, the default, if it steps through the game.

    **Returns:** a search state whose root is the new position, ready for [`tz.search`][].

    **Raises:** `ValueError` if the state was made with other settings, if the position does not have the shapes and
    dtypes of the states in the tree, or, outside of `jax.jit`, if nature is to move in it.
    """
    check_one_game("advance", metadata)
    check_player_to_move("advance", metadata)
    if not mcts.persist_tree:
        return init_search(mcts, env_state, metadata, model=model)
    check_trees(mcts, state)
    child = state.spread(state.tree.children[0], -1)[action]
    tree, child = state.tree, jnp.where(reset, -1, child)
    env_state, metadata = root_of(model, *strong((env_state, metadata)))
    check_position(tree, env_state)
    if tree.chance is not None:
        child = tree.chance.child_with_state(child, tree.state, env_state)
    if isinstance(model, Model):
        tree, child = without_forbidden(tree, child, metadata)
    tree = reroot(tree, child, env_state, metadata)
    # A kept root has a prior. A new one gets a uniform prior until it is evaluated. Only its row is selected: a
    # `jnp.where` or `lax.cond` over whole trees would copy them.
    blank = _with_root_prior(mcts, tree, _no_preference(metadata), uniform_prior)

    def prior(tree):
        return jax.tree.leaves((tree.logits, tree.actions))

    pairs = zip(prior(blank), prior(tree), strict=True)
    tree = eqx.tree_at(prior, tree, [old.at[0].set(jnp.where(child < 0, new[0], old[0])) for new, old in pairs])
    return SearchState(tree, metadata, _no_notes(mcts, tree))
