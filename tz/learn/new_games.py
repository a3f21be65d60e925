"""The beginning of self-play: new games, empty rings, and the evaluator of their positions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree, Shaped

from tz.games.env import Env
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState, collect, init_collect
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import TrainState, init_train
from tz.mcts.evaluators import NetworkEvaluator, uniform_evaluator
from tz.mcts.models import Model, ModelEvaluator, model_of
from tz.sharding import over_games


def init_epoch(
    config: TrainConfig, env: Env, network: PyTree, norm_state: eqx.nn.State | None = None, *, key: PRNGKeyArray
) -> LoopState:
    """Returns the state before the first epoch, on one device, with the same numbers as [`tz.init_loop`][].

    Unlike `init_loop`, it checks nothing and makes no testers. So it can be compiled and mapped over keys.

    **Arguments:**

    - `config`: the settings of training.
    - `env`: the game.
    - `network`, `norm_state`: the network and its state, as in [`tz.init_train`][].
    - `key`: decides the games and all later randomness.

    **Returns:** the state for [`tz.learn.epoch`][].
    """
    games_key, key = jax.random.split(key)
    train = init_train(config.optimizer, network, norm_state, average=config.average_decay is not None)
    games, replay = start_games(config, env, learned_model(config, env, train), game_keys(config, games_key))
    return LoopState(train, games, replay, (), jnp.int32(0), key)


def game_keys(config: TrainConfig, key: PRNGKeyArray) -> Shaped[PRNGKeyArray, " B"]:
    """Returns the keys of all games. The key of a game depends on its number alone, and not on the number of games."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(config.num_games))


def start_games(
    config: TrainConfig, env: Env, model: Model | None, keys: Shaped[PRNGKeyArray, " B"], *, mesh: Mesh | None = None
) -> tuple[CollectState, ReplayState]:
    """Starts a game and makes an empty ring for each key, on the device that will keep them."""

    def start(shared, keys):
        config, env, model = shared
        evaluator = uniform_evaluator if model is None else ModelEvaluator(model, uniform_evaluator)
        games = jax.vmap(lambda key: init_collect(config.mcts, env, key=key, model=model))(keys)
        # One traced move gives the shapes of the rows. The evaluator does not matter for them, so the cheapest is used.
        one = jax.tree.map(lambda x: x[0], games)
        options = {"num_moves": 1, "record": config.record, "record_end": config.record_end}
        steps = jax.eval_shape(lambda: collect(config.mcts, env, evaluator, one, **options)[1])
        rings = jax.vmap(lambda _: config.replay.init(steps))(keys)
        return games, rings

    return over_games(mesh, start, (config, env, model), keys)


def evaluator_of(config: TrainConfig, env: Env, train: TrainState) -> Any:
    """Returns the evaluator of self-play and tests, with the newest weights or their running average."""
    evaluator = NetworkEvaluator(train.playing, env.observe, train.playing_norm_state, dtype=config.search_dtype)
    return evaluator if config.evaluator is None else config.evaluator(evaluator)


def learned_model(config: TrainConfig, env: Env, train: TrainState) -> Model | None:
    """Returns the model that the searches step through, with the newest weights; None if that is the game itself."""
    if config.evaluator is None:
        return None
    model = model_of(evaluator_of(config, env, train), env)
    return model if isinstance(model, Model) else None
