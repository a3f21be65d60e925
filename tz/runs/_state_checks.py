"""Checks, by shapes alone, that a training state and the settings that it is used with belong together."""

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
    """Raises `ValueError` unless the state was made for this game with settings whose arrays are the same.

    Whatever is in no array may have changed: simulations (with `max_nodes` as it was), learning rate, loss,
    temperature, the number of samples and steps. All mismatches are named at once.
    """
    if any_deleted(state):
        raise ValueError(
            f"{where}: found a state whose arrays were given up to an earlier call, expected a living one; go on with "
            "the state that this call returned, or that is the attribute `state` of the exception it ended with."
        )
    wrong = [
        f"{name}: found {found}, expected {expected}"
        for name, (found, expected) in _numbers(config, state).items()
        if found != expected
    ]
    wrong += [f"{name}: {text}" for name, text in _other_arrays(config, env, state, mesh).items() if text]
    if wrong:
        raise ValueError(
            f"{where}: the state was made with other settings than those given. {'; '.join(wrong)}. Go on with the "
            "settings of the state, or make a new state with tz.init_loop. With a checkpoint of the run, tz.fork "
            "begins another run from it, whose trees, buffer and testers may differ."
        )


def _numbers(config: TrainConfig, state: LoopState) -> dict[str, tuple[Any, Any]]:
    """Pairs of the number in the state and the number that the settings ask for, by name."""
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
    """The arrays of each part that differ from those that the settings make, in words; empty for none."""

    def start(key):
        env_state, metadata = env.init(key)
        return (env_state, metadata), env.observe(env_state)

    def row(tree, num_axes):
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
    try:
        return (eqx.filter_eval_shape(lambda evaluator: tester.init(evaluator, mesh=mesh), evaluator),)
    except jax.errors.JAXTypeError:  # a tester that looks at values can only be asked with values
        return None


def _arrays(tree: Any) -> dict[str, list[Any]]:
    """Shapes and dtypes by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): describe(x) for path, x in leaves if hasattr(x, "dtype")}
