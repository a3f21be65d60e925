"""Makes nature a player in the pgx games with chance, whose `step(state, action, key)` draws by itself.

For 2048 and backgammon, this module splits the step of pgx in two: `step` leads to the position before the draw, and
`outcome` to each position that the draw may lead to. Both call private functions of pgx, so the tests compare outcomes
and probabilities with the draws of pgx's own step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    import pgx

SAMPLED = "minatar-asterix", "minatar-breakout", "minatar-freeway", "minatar-seaquest", "minatar-space_invaders"
NUM_SAMPLED = 8

# The 21 rolls of two dice, with pips from 0 as in pgx. A double has a chance of 1 in 36, any other roll of 2 in 36.
_ROLLS = np.array([(low, high) for low in range(6) for high in range(low, 6)], np.int32)
_ROLL_PROBABILITIES = np.where(_ROLLS[:, 0] == _ROLLS[:, 1], 1 / 36, 2 / 36).astype(np.float32)


class Split(NamedTuple):
    """A step of pgx in two parts.

    **Fields:** `num_outcomes`, the number of outcomes; `step`, `(state, action) -> (state, probabilities)`; `outcome`,
    `(state, outcome) -> state`. The probabilities are zeros if nature is not to move.
    """

    num_outcomes: int
    step: Callable[[Any, Array], tuple[Any, Float[Array, " C"]]]
    outcome: Callable[[Any, Array], Any]


def split_2048(game: "pgx.Env") -> Split:
    """Splits the step of 2048. Outcome `2 * cell` puts a 2 in a cell, outcome `2 * cell + 1` a 4."""
    from pgx import play2048

    def step(state: Any, action: Int[Array, ""]) -> tuple[Any, Float[Array, " 32"]]:
        # Only the fields that depend on the new tile are wrong after pgx's step; they are replaced below.
        after: Any = game.step(state, action, jax.random.key(0))
        # As in pgx: turn the board so that the tiles slide to the left, and back again.
        board = jnp.stack([jnp.rot90(state._board.reshape(4, 4), turns) for turns in range(4)])[action]
        board = jax.vmap(play2048._slide_and_merge)(board)[0]
        board = jnp.stack([jnp.rot90(board, -turns) for turns in range(4)])[action].ravel()
        is_over = state.terminated | state.truncated | ~state.legal_action_mask[action]
        empty = (board == 0).astype(jnp.float32)
        chance = (empty / jnp.maximum(empty.sum(), 1))[:, None] * jnp.array([0.9, 0.1], jnp.float32)
        after = after.replace(
            _board=jnp.where(is_over, state._board, board),
            terminated=is_over,
            legal_action_mask=jnp.where(is_over, True, after.legal_action_mask),
        )
        return after, jnp.where(is_over, 0.0, chance.ravel())

    def outcome(state: Any, outcome: Int[Array, ""]) -> Any:
        board = state._board.at[outcome // 2].set(1 + outcome % 2)
        legal = play2048._legal_action_mask(board.reshape(4, 4))
        is_over = ~legal.any()
        return state.replace(
            _board=board,
            legal_action_mask=legal | is_over,
            terminated=is_over,
            rewards=jnp.zeros_like(state.rewards),
        )

    return Split(32, step, outcome)


def split_backgammon(game: "pgx.Env") -> Split:
    """Splits the step of backgammon. The outcomes are the 21 rolls; nature is to move whenever the turn passes."""
    from pgx import backgammon

    def step(state: Any, action: Int[Array, ""]) -> tuple[Any, Float[Array, " 21"]]:
        after: Any = game.step(state, action, jax.random.key(0))
        passed = (after._turn != state._turn) & ~after.terminated
        return after, jnp.where(passed, jnp.asarray(_ROLL_PROBABILITIES), 0.0)

    def outcome(state: Any, outcome: Int[Array, ""]) -> Any:
        dice = jnp.asarray(_ROLLS)[outcome]
        return state.replace(
            _dice=dice,
            _playable_dice=backgammon._set_playable_dice(dice),
            legal_action_mask=backgammon._legal_action_mask(state._board, dice),
            rewards=jnp.zeros_like(state.rewards),
        )

    return Split(len(_ROLLS), step, outcome)


SPLITS: dict[str, Callable[["pgx.Env"], Split]] = {"2048": split_2048, "backgammon": split_backgammon}
