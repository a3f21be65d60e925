"""Models that a search steps through instead of the game.

The environment plays the real game. A search may step through something else: a learned model, or simpler rules.
Wherever a search takes a model, it takes the environment as well.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_evaluator, shown
from tz._arrays import named_arrays, strong
from tz.games.chance import answer
from tz.games.env import Env, StepMetadata
from tz.mcts._chance import EdgeChance
from tz.mcts.tree import Tree


class Model(eqx.Module):
    """A model that the search steps through instead of the game: learned dynamics, or simpler rules.

    Its states are any PyTree of arrays, and may differ from the states of the game. The evaluator of the search sees
    the model's states, so pair the two in a [`tz.mcts.ModelEvaluator`][] for self-play and matches.

    **Fields:**

    - `root`: `(env_state, metadata) -> (model_state, StepMetadata)`, the model's state for a real position, and the
        metadata that the search uses there. The player to move must be the same as in the game. The model may forbid
        actions; actions that the game forbids are never searched at the root. A model that has nothing to add returns
        the metadata of the game. The rewards are ignored.
    - `step`: `(model_state, action) -> (model_state, StepMetadata)`, like `step` of a [`tz.Env`][]. If the metadata has
        a `discount`, the metadata of `root` needs one too, whose value is ignored.
    - `name`: the name of the model in messages.
    - `outcome`: `(model_state, outcome, key) -> (model_state, StepMetadata)`, nature's move as in [`tz.Env`][], for a
        model whose metadata has `chance`. A model without it treats the game as one without chance. The state and the
        metadata have the same shapes as after `step`. If `step` gives a `discount`, so must `outcome`, and the two
        are multiplied.

    A model with parameters must hold them as arrays in its fields, so that new parameters need no new compilation. Pass
    the methods of an Equinox module, `tz.mcts.Model(network.root, network.step)`, or `eqx.Partial(step, parameters)`.
    """

    root: Callable[[PyTree, StepMetadata], tuple[PyTree, StepMetadata]]
    step: Callable[[PyTree, Int[Array, ""]], tuple[PyTree, StepMetadata]]
    name: str = eqx.field(static=True, default="model")
    outcome: Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]] | None = None


class ModelEvaluator(eqx.Module):
    """A model together with an evaluator of its states, for self-play and matches.

    With one of these as the evaluator, [`tz.collect`][] and a [`tz.Player`][] search in the model and play the moves in
    the real game.

    **Fields:**

    - `model`: the [`tz.mcts.Model`][] that searches step through.
    - `evaluator`: `(model_state, metadata, key) -> (logits [A], value [])`, the value for the player to move.

    **Raises:** `ValueError` if `model` is not a [`tz.mcts.Model`][], or `evaluator` cannot be called in this way.
    """

    model: Model
    evaluator: Callable[..., Any]

    def __post_init__(self):
        if not isinstance(self.model, Model):
            raise ValueError(
                f"ModelEvaluator: found model={shown(self.model)}, expected a tz.mcts.Model; a search of the game "
                "itself needs only the evaluator, so pass that alone."
            )
        check_evaluator("ModelEvaluator", self.evaluator)

    def __call__(
        self, model_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """Returns the evaluator's logits and value for the player to move.

        **Arguments:**

        - `model_state`, `metadata`: a position of the model.
        - `key`: a random key, for the evaluator.
        """
        return self.evaluator(model_state, metadata, key)


def model_of(evaluator: Any, env: Env) -> Env | Model:
    """Returns what a search with this evaluator steps through: the evaluator's model if it has one, else the game."""
    return evaluator.model if isinstance(evaluator, ModelEvaluator) else env


def root_of(model: Env | Model | None, env_state: PyTree, metadata: StepMetadata) -> tuple[PyTree, StepMetadata]:
    """Returns the position where a search begins: the real position, or the model's root for it.

    If the model forbids every legal action of the game, the search considers all of them.

    **Raises:** `ValueError` if the root of a model does not fit the game.
    """
    if not isinstance(model, Model):
        if model is not None and not isinstance(model, Env):
            advice = "write model=planner.model" if isinstance(model, ModelEvaluator) else "give a tz.mcts.Model"
            raise ValueError(f"model: found {shown(model)}, expected a tz.mcts.Model, a game or None; {advice}.")
        return env_state, metadata
    model_state, root = _checked(model, "root", model.root(env_state, metadata))
    if root.action_mask.shape != metadata.action_mask.shape:
        raise ValueError(
            f"{model.name}: found an action mask of shape {root.action_mask.shape} from `root`, expected "
            f"{metadata.action_mask.shape} as in the game; give the model all actions of the game."
        )
    both = root.action_mask & metadata.action_mask
    mask = jnp.where(jnp.any(both), both, metadata.action_mask)
    chance = None if model.outcome is None else root.chance
    return strong((model_state, dataclasses.replace(root, action_mask=mask, chance=chance)))


def without_forbidden(tree: Tree, child: Int[Array, ""], root: StepMetadata) -> tuple[Tree, Int[Array, ""]]:
    """Removes the edges of node `child` that the real position forbids. The node is about to become the root.

    A model may have allowed these edges. The nodes that they lead to become children of the old root, so `reroot` drops
    them and everything below.

    **Arguments:** `root`, the metadata of the new root, which may differ from what the model predicted.

    **Returns:** the tree, and `child`, or -1 if no edge is left or the model predicted another player to move.
    """
    # If `child` is -1 already, this changes the last row of the tree, but then `reroot` keeps no row.
    allowed = root.action_mask if tree.actions is None else root.action_mask[tree.actions[child]]
    cut = (tree.parent == child) & ~allowed[tree.action]
    logits = jnp.where(allowed, tree.logits[child], -jnp.inf)
    rows = logits, jnp.where(allowed, tree.visits[child], 0), jnp.where(allowed, tree.q[child], 0.0)
    columns = [x.at[child].set(row) for x, row in zip((tree.logits, tree.visits, tree.q), rows, strict=True)]
    parent = jnp.where(cut, 0, tree.parent)
    tree = eqx.tree_at(lambda tree: (tree.logits, tree.visits, tree.q, tree.parent), tree, (*columns, parent))
    is_of_use = jnp.any(logits > -jnp.inf) & (tree.player[child] == root.cur_player_id.astype(jnp.int32))
    return tree, jnp.where(is_of_use, child, -1)


def check_position(tree: Tree, env_state: PyTree) -> None:
    """Raises `ValueError` for a position whose shapes or dtypes differ from the states in the tree."""
    root = jax.eval_shape(lambda: jax.tree.map(lambda row: row[0], tree.state))
    found, expected = (
        {name: f"{x.dtype}{list(x.shape)}" for name, x in named_arrays(state)} for state in (strong(env_state), root)
    )
    if found != expected:
        raise ValueError(
            f"advance: found a position of {found}, expected {expected} as in the tree; if the search stepped through "
            "a model, pass model=."
        )


def check_is_model(model: Any) -> None:
    """Raises `ValueError` unless `model` is a game or a `Model`."""
    if not isinstance(model, Env | Model):
        raise ValueError(
            f"search: found {shown(model)} as its second argument, expected a game or a tz.mcts.Model; for a "
            "tz.mcts.ModelEvaluator write planner.model."
        )


def stepped(
    model: Env | Model, model_state: PyTree, action: Int[Array, ""], root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """Returns the state and metadata after an action.

    **Arguments:** `root`, the metadata of the root of the search.

    **Raises:** `ValueError` if their shapes or dtypes differ from the root's, so that one tree cannot hold both.
    """
    check_is_model(model)
    return _fitting(model, "step", model.step(model_state, action), model_state, root)


def answered(
    model: Env | Model, model_state: PyTree, metadata: StepMetadata, edge: EdgeChance, root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """Returns the position after the outcome of an edge, or the same position if a player is to move.

    The key of `outcome` depends only on the edge and the outcome, so that later visits reach the same state again.

    **Arguments:** `model_state` and `metadata`, from `stepped`; `root`, the metadata of the root of the search.

    **Raises:** `ValueError` if the shapes or dtypes of the outcome differ from the root's.
    """

    def nature(model_state: PyTree, outcome: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        assert model.outcome is not None  # otherwise `check_nature` has already raised an error
        return _fitting(model, "outcome", model.outcome(model_state, outcome, key), model_state, root)

    key = jax.random.fold_in(jax.random.key(edge.offset), edge.outcome)
    return answer(nature, model_state, metadata, edge.outcome, key=key)


def _fitting(
    model: Env | Model, name: str, result: Any, model_state: PyTree, root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """Returns the result of a function of a model, after a check that it has the root's shapes and dtypes."""
    after, metadata = strong(_checked(model, name, result))
    rows = {"state": (after, model_state), "metadata": (metadata, root)}
    for part, trees in rows.items():  # the tree casts metadata, so their dtypes may differ
        found, expected = (_described(part, tree, with_dtypes=part == "state") for tree in trees)
        for path in found | expected:
            if found.get(path) != expected.get(path):
                raise ValueError(
                    f"{model.name}: found `{path}` to be {found.get(path, 'missing')} after `{name}`, expected "
                    f"{expected.get(path, 'nothing')} as at the root of the search; let both return one tree of the "
                    "same shapes and dtypes."
                )
    return after, metadata


def check_model(model: Model, env: Env) -> None:
    """Raises `ValueError` if a model does not fit a game, or its functions do not fit each other. Compiles nothing."""

    def trace(key):
        model_state, root = root_of(model, *env.init(key))
        after = stepped(model, model_state, jnp.int32(0), root)
        if model.outcome is None or root.chance is None:
            return after
        edge = EdgeChance(root.chance, jnp.uint32(0), jnp.int32(0))
        return answered(model, *after, edge, root)

    try:
        eqx.filter_eval_shape(trace, jax.random.key(0))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{model.name}: found a model that raised {type(error).__name__} on a first position of {env.name}, "
            "expected a state and metadata from `root` and `step`; give the model of this game, as this one is likely "
            f"to be for another. The error was: {error}"
        ) from error


def check_same_model(where: str, model: Any, evaluator: Any) -> None:
    """Raises `ValueError` if the evaluator judges the states of a model, but the search steps through the game."""
    if isinstance(evaluator, ModelEvaluator) and isinstance(model, Env):
        raise ValueError(
            f"{where}: found a ModelEvaluator for states of {evaluator.model.name} in a search that steps through "
            f"{model.name}, expected its model as the second argument; write tz.{where}(mcts, evaluator.model, "
            "evaluator, state, ...), where the state comes from tz.init_search(mcts, env_state, metadata, "
            "model=evaluator.model)."
        )


def _checked(model: Env | Model, name: str, result: Any) -> tuple[PyTree, StepMetadata]:
    """Returns a model's result, after a check that it is a state and its metadata."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], StepMetadata):
        kinds = [type(x).__name__ for x in result] if isinstance(result, tuple) else shown(result)
        raise ValueError(
            f"{model.name}: found {kinds} returned by `{name}`, expected a pair (state, tz.StepMetadata); make the "
            "second a tz.StepMetadata."
        )
    return result


def _described(part: str, tree: PyTree, *, with_dtypes: bool) -> dict[str, str]:
    """Returns the shapes, and the dtypes if asked, of the arrays in a tree, by their names."""
    arrays = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    return {part + name: f"{x.dtype if with_dtypes else ''}{list(x.shape)}" for name, x in named_arrays(arrays)}
