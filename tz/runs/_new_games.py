"""New games for a run: at its beginning, and in the place of those that a failed call took."""

import dataclasses

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from tz.games.env import Env
from tz.learn.new_games import game_keys, learned_model, start_games
from tz.learn.ring import ReplayState
from tz.learn.self_play import CollectState
from tz.learn.settings import LoopState, TrainConfig
from tz.learn.training import TrainState
from tz.mcts.models import Model
from tz.runs.stopping import any_deleted
from tz.sharding import place


def new_games(
    config: TrainConfig, env: Env, train: TrainState, mesh: Mesh, key: PRNGKeyArray
) -> tuple[CollectState, ReplayState]:
    """New games and empty rings, split over the mesh."""
    keys = place(game_keys(config, key), mesh, split=True)
    return compiled_start(config, env, learned_model(config, env, train), mesh, keys)


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
def compiled_start(
    config: TrainConfig, env: Env, model: Model | None, mesh: Mesh, keys: Array
) -> tuple[CollectState, ReplayState]:
    """New games and empty rings, see `tz.learn.new_games.start_games`."""
    return start_games(config, env, model, keys, mesh=mesh)
