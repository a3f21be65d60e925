"""The beginning of self-play: new games and empty rings, and what evaluates their positions."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from tz.games.env import Env
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, collect, init_collect
from tz.learn.training import TrainState
from tz.mcts.evaluators import NetworkEvaluator, uniform_evaluator
from tz.mcts.models import Model, ModelEvaluator, model_of
from tz.runs.settings import LoopState, TrainConfig
from tz.runs.stopping import any_deleted
from tz.sharding import over_games, place


def new_games(
    config: TrainConfig, env: Env, train: TrainState, mesh: Mesh, key: PRNGKeyArray
) -> tuple[CollectState, ReplayState]:
    """New games and empty rings, split over the mesh."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(config.num_games))
    return start_games(config, env, learned_model(config, env, train), mesh, place(keys, mesh, split=True))


def revive(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> tuple[LoopState, str]:
    """A living state of one whose games, or games and buffer, were taken by a call that failed; and what is new in it.

    Games that are begun anew do not follow the moves of unfinished ones in the buffer, so these are left out.
    """
    if not any_deleted((state.games, state.replay)):
        return state, ""
    key = jax.random.fold_in(jax.random.fold_in(state.key, 3), state.epoch)
    games, replay = new_games(config, env, state.train, mesh, key)
    if any_deleted(state.replay):
        return dataclasses.replace(state, games=games, replay=replay), " Its games and its buffer are begun anew."
    replay = without_open_moves(state.replay)
    return dataclasses.replace(state, games=games, replay=replay), " Its games in progress are begun anew."


def without_open_moves(replay: ReplayState) -> ReplayState:
    """The rings without the moves of episodes in progress, so that games can be added that do not follow these."""
    num_open = replay.size - replay.num_known
    position = (replay.position - num_open) % replay.policy_weight.shape[1]
    return eqx.tree_at(lambda ring: (ring.position, ring.size), replay, (position, replay.size - num_open))


@eqx.filter_jit
def start_games(
    config: TrainConfig, env: Env, model: Model | None, mesh: Mesh, keys: Array
) -> tuple[CollectState, ReplayState]:
    """A new game and an empty ring for each key, each made on the device that keeps it."""

    def start(shared, keys):
        config, env, model = shared
        evaluator = uniform_evaluator if model is None else ModelEvaluator(model, uniform_evaluator)
        games = jax.vmap(lambda key: init_collect(config.mcts, env, key=key, model=model))(keys)
        one = jax.tree.map(lambda x: x[0], games)
        options = {"num_moves": 1, "record": config.record, "record_end": config.record_end}
        steps = jax.eval_shape(lambda: collect(config.mcts, env, evaluator, one, **options)[1])
        rings = jax.vmap(lambda _: config.replay.init(steps))(keys)
        return games, rings

    return over_games(mesh, start, (config, env, model), keys)


def evaluator_of(config: TrainConfig, env: Env, train: TrainState) -> Any:
    """What self-play and tests evaluate by: the network as it is now, or the average of its weights."""
    evaluator = NetworkEvaluator(train.playing, env.observe, train.playing_norm_state, dtype=config.search_dtype)
    return evaluator if config.evaluator is None else config.evaluator(evaluator)


def learned_model(config: TrainConfig, env: Env, train: TrainState) -> Model | None:
    """The model that the searches step through, with the newest weights; None where it is the game itself."""
    if config.evaluator is None:
        return None
    model = model_of(evaluator_of(config, env, train), env)
    return model if isinstance(model, Model) else None
