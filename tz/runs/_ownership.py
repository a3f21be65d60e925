"""A second target of a recipe: who holds each point of the final board."""

import dataclasses
import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int8, PyTree

from tz.games.env import Env, StepMetadata
from tz.learn.losses import ownership_loss
from tz.learn.settings import TrainConfig
from tz.learn.symmetries import Turn
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
        record_end=functools.partial(_holders, env, name.startswith("go_")),
        loss=functools.partial(ownership_loss, weight=weight, l2_reg_lambda=l2),
        augment=augment,
    )


def _holders(env: Env, has_territory: bool, env_state: PyTree, metadata: StepMetadata) -> Array:
    """Returns the holder of each point, `[H, W, 1]`: 1 for player 0, -1 for player 1, 0 for neither."""
    pieces = env.observe(env_state)[..., :2].astype(jnp.int8)
    mine = pieces[..., :1] - pieces[..., 1:]
    if has_territory:
        mine = with_territory(mine)
    return jnp.where(metadata.cur_player_id == 0, mine, -mine)


def with_territory(board: Int8[Array, "H W 1"]) -> Int8[Array, "H W 1"]:
    """Gives the empty points of Go that border on one player only to that player, as in area scoring.

    **Arguments:** `board`, 1 and -1 for the stones of the players, and 0 for empty points.
    """
    empty = board == 0

    def spread(reached):  # to the empty neighbours of what has been reached
        padded = jnp.pad(reached, ((1, 1), (1, 1), (0, 0)))
        near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        return reached | (near & empty)

    def grow(carry):
        reached, _ = carry
        return spread(reached), jnp.any(spread(reached) != reached)

    def reach(stones):
        return lax.while_loop(lambda carry: carry[1], grow, (stones, jnp.any(stones)))[0].astype(jnp.int8)

    return reach(board == 1) - reach(board == -1)


def _turn_final(sample: Sample, turn: Turn) -> Sample:
    """Turns the final board together with the observation."""
    end = sample.end
    assert end is not None  # `record_end` makes it
    return dataclasses.replace(sample, end=dataclasses.replace(end, final=turn(end.final)))
