"""Checks that a training state and its settings belong together. Only shapes are compared."""

from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from tz.games.env import Env
from tz.learn.new_games import evaluator_of
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import init_train
from tz.matches.testers import Tester
from tz.mcts.simulation import Evaluator
from tz.runs.checkpoint_format import describe, differences
from tz.runs.stopping import any_deleted


def check_state(config: TrainConfig, env: Env, state: LoopState, *, mesh: Mesh, where: str = "train_loop") -> None:
    """Checks that a state was made for this game, and with settings that need the same arrays.

    Settings that no array depends on may have changed: the number of simulations (as long as `max_nodes` stays the
    same), the learning rate, the loss, the temperature, and the numbers of samples and gradient steps.

    **Raises:** `ValueError`, with all mismatches at once, for a state of other settings; or for a state whose arrays
    were donated to an earlier call.
    """
    if any_deleted(state):
        raise ValueError(
            f"{where}: found a state whose arrays were donated to an earlier call, expected one that is still usable; "
            "continue with the state that the call returned, or with the attribute `state` of the exception that it "
            "raised."
        )
    wrong = [
        f"{name}: found {found}, expected {expected}"
        for name, (found, expected) in _numbers(config, state).items()
        if found != expected
    ]
    wrong += [f"{name}: {text}" for name, text in _other_arrays(config, env, state, mesh).items() if text]
    if wrong:
        raise ValueError(
            f"{where}: found a state that was made with other settings than those given ({'; '.join(wrong)}), expected "
            "the same settings; use the settings of the state, make a new state with tz.init_loop, or start a new run "
            "from a checkpoint with tz.fork, where trees, buffer and testers may differ."
        )


def _numbers(config: TrainConfig, state: LoopState) -> dict[str, tuple[Any, Any]]:
    """Returns, by name, pairs of the number in the state and the number that the settings ask for."""
    tree, mcts, capacity = state.games.search.tree, config.mcts, state.replay.policy_weight.shape[-1]
    num_actions = state.games.metadata.action_mask.shape[-1]
    has_average = state.train.average is not None
    return {
        "games (num_games)": (state.games.step.shape[0], config.num_games),
        "nodes of a tree (max_nodes of mcts)": (tree.parent.shape[-1], mcts.num_nodes),
        "actions that a node keeps (max_actions of mcts)": (tree.logits.shape[-1], mcts.max_actions or num_actions),
        "positions of a game in the buffer (capacity of replay)": (capacity, config.replay.capacity),
        "a running average of the weights (average_decay)": (has_average, config.average_decay is not None),
        "number of testers": (len(state.testers), len(config.testers)),
    }


def _other_arrays(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> dict[str, str]:
    """Describes, for each part of a state, the arrays that differ from what the settings need; empty if none does."""

    def start(key):
        env_state, metadata = env.init(key)
        return (env_state, metadata), env.observe(env_state)

    def row(tree, num_axes):  # one position, without the axes of games and of rows
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[num_axes:], x.dtype), tree)

    position, observation = eqx.filter_eval_shape(start, jax.random.key(0))
    train = eqx.filter_eval_shape(init_train, config.optimizer, state.train.network)
    games = state.games
    parts = {
        f"positions of {env.name}": (row((games.env_state, games.metadata), 1), position),
        f"observations of {env.name}": (row(state.replay.observation, 2), observation),
        "state of the optimizer": (state.train.opt_state, train.opt_state),
    }
    if len(state.testers) == len(config.testers):
        for tester, found in zip(config.testers, state.testers, strict=True):
            if (expected := _state_of_tester(tester, evaluator_of(config, env, state.train), mesh)) is not None:
                parts[f"state of the {type(tester).__name__}"] = found, expected[0]
    return {name: differences(_arrays(found), _arrays(expected), most=2) for name, (found, expected) in parts.items()}


def _state_of_tester(tester: Tester, evaluator: Evaluator, mesh: Mesh) -> tuple[PyTree] | None:
    """Returns the shapes of a tester's state, in a tuple since the state may be None; None if they cannot be known."""
    try:
        return (eqx.filter_eval_shape(lambda evaluator: tester.init(evaluator, mesh=mesh), evaluator),)
    except jax.errors.JAXTypeError:  # the tester looks at values, so shapes alone are not enough
        return None


def _arrays(tree: Any) -> dict[str, list[Any]]:
    """Returns the shape and the dtype of each array by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): describe(x) for path, x in leaves if hasattr(x, "dtype")}
