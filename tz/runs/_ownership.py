"""A second target of a recipe: whose piece is on each point of the final board."""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from tz.games.env import Env, StepMetadata
from tz.learn.settings import TrainConfig
from tz.learn.symmetries import Turn
from tz.learn.training import ownership_loss
from tz.learn.trajectory import Sample

# In these games of pgx, the first two planes of an observation are the pieces of the player to move and the opponent's.
GAMES = ("connect_four", "go_19x19", "go_9x9", "othello", "tic_tac_toe")


def with_ownership(config: TrainConfig, name: str, env: Env, weight: float, l2: float) -> TrainConfig:
    """Adds the target of `ownership_loss` to settings, for a network with one plane.

    **Arguments:** `name`, the name of the game in the recipe, as a user's own game may have any `env.name`.

    **Raises:** `ValueError` if the weight is negative, or if the pieces of this game are not known.
    """
    if not weight > 0:
        raise ValueError(f"Recipe: found ownership={weight}, expected 0 or more; raise it.")
    if name not in GAMES:
        raise ValueError(
            f"Recipe: found ownership={weight} for {name}, expected it for one of {', '.join(GAMES)}; set it to 0, "
            "or write a record_end for tz.learn.ownership_loss."
        )
    augment = config.augment and functools.partial(config.augment, turn_records=_turn_final)
    return dataclasses.replace(
        config,
        record_end=functools.partial(_holders, env),
        loss=functools.partial(ownership_loss, weight=weight, l2_reg_lambda=l2),
        augment=augment,
    )


def _holders(env: Env, env_state: PyTree, metadata: StepMetadata) -> Array:
    """Returns the holder of each point, `[H, W, 1]`: 1 for player 0, -1 for player 1, 0 for neither."""
    pieces = env.observe(env_state)[..., :2].astype(jnp.int8)
    mine = pieces[..., :1] - pieces[..., 1:]
    return jnp.where(metadata.cur_player_id == 0, mine, -mine)


def _turn_final(sample: Sample, turn: Turn) -> Sample:
    """Turns the final board together with the observation."""
    end = sample.end
    assert end is not None  # `record_end` makes it
    return dataclasses.replace(sample, end=dataclasses.replace(end, final=turn(end.final)))
