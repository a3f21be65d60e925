"""Starts the games of a run, and replaces games that were lost in a failed call."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from tz._programs import RunOnce
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
    """Starts new games with empty replay rings, split over the mesh."""
    keys = place(game_keys(config, key), mesh, split=True)
    return compiled_start(config, env, learned_model(config, env, train), mesh, keys)


def revive(config: TrainConfig, env: Env, state: LoopState, mesh: Mesh) -> tuple[LoopState, str]:
    """Makes a state usable again after a failed call, and describes what was replaced.

    A call that fails has already consumed the arrays that were donated to it: the games, or the games and the buffer.
    This function starts new ones. Since new games do not continue the unfinished episodes in the buffer, the moves of
    these episodes are dropped.

    **Returns:** the state, and a sentence for the user that says what was replaced; empty if nothing was lost.
    """
    if not any_deleted((state.games, state.replay)):
        return state, ""
    # Gradient steps, tests and fast moves fold in 0, 1 and 2.
    key = jax.random.fold_in(jax.random.fold_in(state.key, 3), state.epoch)
    games, replay = new_games(config, env, state.train, mesh, key)
    if (epoch := int(state.epoch)) > 0:  # `replay_window` depends on the number of moves, and so does the warm-up
        moves = config.warmup_moves + epoch * config.moves_per_epoch
        games = eqx.tree_at(lambda games: games.step, games, games.step + jnp.int32(moves))
    if any_deleted(state.replay):
        return dataclasses.replace(state, games=games, replay=replay), " Its games and its buffer were started anew."
    replay = without_open_moves(state.replay)
    return dataclasses.replace(state, games=games, replay=replay), " Its games in progress were started anew."


def without_open_moves(replay: ReplayState) -> ReplayState:
    """Drops the moves of episodes in progress from the rings, so that moves of new games can follow."""
    num_open = replay.size - replay.num_known  # rows whose value target is not yet known: always the newest
    position = (replay.position - num_open) % replay.policy_weight.shape[1]
    return eqx.tree_at(lambda ring: (ring.position, ring.size), replay, (position, replay.size - num_open))


@RunOnce
def compiled_start(
    config: TrainConfig, env: Env, model: Model | None, mesh: Mesh, keys: Array
) -> tuple[CollectState, ReplayState]:
    """Starts new games with empty rings in one compiled call, see `tz.learn.new_games.start_games`."""
    return start_games(config, env, model, keys, mesh=mesh)
