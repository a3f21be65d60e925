"""Models that a search steps through instead of the game.

The real game is played by its environment. A search of it may step through something else: a learned model, or simpler
rules. Wherever a search needs a model, the environment will do, and is the default.
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

    Its states are any PyTree of arrays, and need not be those of the game. The evaluator of the search sees them; pair
    the two as a [`tz.mcts.ModelEvaluator`][] for self-play and matches.

    **Fields:**

    - `root`: `(env_state, metadata) -> (model_state, StepMetadata)`, the model's state of a real position, and what the
        search is told about it. The player to move there is the one who moves in the game. Actions may be forbidden;
        those that the game forbids are never searched at the root. A model that has nothing to add returns the metadata
        of the game. The rewards are not looked at.
    - `step`: `(model_state, action) -> (model_state, StepMetadata)`, as `step` of a [`tz.Env`][]. The metadata may have
        a `discount`; then those of the root have one too, which is not looked at.
    - `name`: for messages.
    - `outcome`: `(model_state, outcome, key) -> (model_state, StepMetadata)`, nature's move as in [`tz.Env`][], for a
        model whose metadata have `chance`. A model without it takes the game to be one without chance. Its state and
        metadata have the shapes of those of `step`, and a `discount` where those have one; the two are multiplied.

    A model with parameters holds them as arrays of its fields, so that new parameters need no new compilation. The
    methods of an Equinox module do: `tz.mcts.Model(network.root, network.step)`; or `eqx.Partial(step, parameters)`.
    """

    root: Callable[[PyTree, StepMetadata], tuple[PyTree, StepMetadata]]
    step: Callable[[PyTree, Int[Array, ""]], tuple[PyTree, StepMetadata]]
    name: str = eqx.field(static=True, default="model")
    outcome: Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]] | None = None


class ModelEvaluator(eqx.Module):
    """An evaluator of the states of a model, together with the model: what plans with it in self-play and matches.

    [`tz.collect`][] and a [`tz.Player`][] that are given it search the model, while the real game goes on beside.

    **Fields:** `model`; `evaluator`, `(model_state, metadata, key) -> (logits [A], value [])`.
    """

    model: Model
    evaluator: Callable[..., Any]

    def __post_init__(self):
        if not isinstance(self.model, Model):
            raise ValueError(
                f"ModelEvaluator: found model={shown(self.model)}, expected a tz.mcts.Model; a search of the game "
                "itself needs only the evaluator."
            )
        check_evaluator("ModelEvaluator", self.evaluator)

    def __call__(
        self, model_state: PyTree, metadata: StepMetadata, key: PRNGKeyArray
    ) -> tuple[Float[Array, " A"], Float[Array, ""]]:
        """The evaluator's logits and value for the player to move."""
        return self.evaluator(model_state, metadata, key)


def model_of(evaluator: Any, env: Env) -> Env | Model:
    """What a search with this evaluator steps through: its model, or else the game."""
    return evaluator.model if isinstance(evaluator, ModelEvaluator) else env


def root_of(model: Env | Model | None, env_state: PyTree, metadata: StepMetadata) -> tuple[PyTree, StepMetadata]:
    """Where the search of a real position begins: at the position itself, or at the model's root of it.

    Where the model forbids all actions that the game allows, those that the game allows are searched.

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
            f"{metadata.action_mask.shape}, that of the game; give the model all actions of the game."
        )
    both = root.action_mask & metadata.action_mask
    mask = jnp.where(jnp.any(both), both, metadata.action_mask)
    return strong((model_state, dataclasses.replace(root, action_mask=mask)))


def without_forbidden(tree: Tree, child: Int[Array, ""], root: StepMetadata) -> tuple[Tree, Int[Array, ""]]:
    """The tree that is about to be moved to node `child`, without the edges of that node that are not allowed there.

    A model may have allowed them. What is below them hangs on the old root instead, and is given up with it.

    **Arguments:** `root`, the metadata of the new root, which may differ from what the model expected.

    **Returns:** the tree, and `child`, or -1 where no edge is left or another player is to move.
    """
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
    """Raises `ValueError` for a position that is not of the kind that the tree holds."""
    root = jax.eval_shape(lambda: jax.tree.map(lambda row: row[0], tree.state))
    found, expected = (
        {name: f"{x.dtype}{list(x.shape)}" for name, x in named_arrays(state)} for state in (strong(env_state), root)
    )
    if found != expected:
        raise ValueError(
            f"advance: found a position of {found}, expected one of {expected}, as the tree has them; if the search "
            "stepped through a model, pass model=."
        )


def check_is_model(model: Any) -> None:
    """Raises `ValueError` for something that no search can step through."""
    if not isinstance(model, Env | Model):
        raise ValueError(
            f"search: found {shown(model)} as its second argument, expected a game or a tz.mcts.Model; for a "
            "tz.mcts.ModelEvaluator write planner.model."
        )


def stepped(
    model: Env | Model, model_state: PyTree, action: Int[Array, ""], root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """The state and metadata after a step of a search.

    **Arguments:** `root`, the metadata of the root of the search.

    **Raises:** `ValueError` if their shapes or dtypes are not those of the root, so that one tree cannot hold both.
    """
    check_is_model(model)
    return _fitting(model, "step", model.step(model_state, action), model_state, root)


def answered(
    model: Env | Model, model_state: PyTree, metadata: StepMetadata, edge: EdgeChance, root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """Returns the position after the outcome of an edge, or the same position where a player is to move.

    The key of sampled chance depends on the edge and the outcome alone, so a search that comes back finds the state
    that it left.

    **Arguments:** `model_state` and `metadata`, from `stepped`; `root`, the metadata of the root of the search.

    **Raises:** `ValueError` if the shapes or dtypes of the outcome are not those of the root.
    """

    def nature(model_state: PyTree, outcome: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        assert model.outcome is not None  # `search` says so by name
        return _fitting(model, "outcome", model.outcome(model_state, outcome, key), model_state, root)

    key = jax.random.fold_in(jax.random.key(edge.offset), edge.outcome)
    return answer(nature, model_state, metadata, edge.outcome, key=key)


def _fitting(
    model: Env | Model, name: str, result: Any, model_state: PyTree, root: StepMetadata
) -> tuple[PyTree, StepMetadata]:
    """What a function of a model returned; raises `ValueError` unless it could be at the root as well."""
    after, metadata = strong(_checked(model, name, result))
    rows = {"state": (after, model_state), "metadata": (metadata, root)}
    for part, trees in rows.items():  # the dtypes of metadata may be any
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
    """Raises `ValueError` if a model does not fit a game, or its `step` its `root`. Compiles nothing."""

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
            f"expected a state and metadata from `root` and `step`; it is likely to be one of another game. {error}"
        ) from error


def check_same_model(where: str, model: Any, evaluator: Any) -> None:
    """Raises `ValueError` for the evaluator of a model's states in a search that steps through the game."""
    if isinstance(evaluator, ModelEvaluator) and isinstance(model, Env):
        raise ValueError(
            f"{where}: found a ModelEvaluator, of the states of {evaluator.model.name}, in a search of {model.name}, "
            f"expected the model itself; write tz.{where}(mcts, evaluator.model, evaluator, state, ...), where the "
            "state begins at the model's root: tz.init_search(mcts, env_state, metadata, model=evaluator.model)."
        )


def _checked(model: Env | Model, name: str, result: Any) -> tuple[PyTree, StepMetadata]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], StepMetadata):
        kinds = [type(x).__name__ for x in result] if isinstance(result, tuple) else shown(result)
        raise ValueError(
            f"{model.name}: found {kinds} returned by `{name}`, expected a pair (state, tz.StepMetadata); make the "
            "second a tz.StepMetadata."
        )
    return result


def _described(part: str, tree: PyTree, *, with_dtypes: bool) -> dict[str, str]:
    arrays = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    return {part + name: f"{x.dtype if with_dtypes else ''}{list(x.shape)}" for name, x in named_arrays(arrays)}
