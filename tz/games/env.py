"""The interface of a game: `Env`, a record of functions, and `StepMetadata`, the facts that they report."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_axes


class StepMetadata(eqx.Module):
    """The facts about a state that every game reports in the same form.

    **Fields:**

    - `rewards`: `[P]`, the reward of each player for the move that led to this state; zeros in an initial state.
    - `action_mask`: `[A]`, True for the actions that are legal for the player to move.
    - `terminated`: True once the game is over.
    - `cur_player_id`: the player to move, from 0 to `P - 1`, also in a terminated state. It may stay the same from one
        move to the next.
    - `discount`: only for a [`tz.mcts.Model`][]: a factor from 0 to 1. In the return of the move that led to this
        state, the value of this state is multiplied by it and by the discount of the search. None, the default, means
        no factor. A game must leave it None.
    - `chance`: only for a game with chance: `[C]`, the probabilities of nature's outcomes if nature is to move, and
        zeros if a player is to move. None, the default, for a game without chance. If nature is to move, tz ignores
        `cur_player_id` and `action_mask`.
    """

    rewards: Float[Array, " P"]
    action_mask: Bool[Array, " A"]
    terminated: Bool[Array, ""]
    cur_player_id: Int[Array, ""]
    discount: Float[Array, ""] | None = None
    chance: Float[Array, " C"] | None = None


class Env(eqx.Module):
    """A game, as pure functions: `init` and `step` play it, and `observe` makes the input of the network.

    Each function takes one game, without a batch axis; use `jax.vmap` for a batch. A game needs the first three fields.

    The state must not hold anything that decides future chance, such as a random key or a shuffled deck. A search steps
    through the same states as the game, so it would foresee the draw. Only `init` may draw at random, from its key; in
    a game with chance, nature draws through `outcome`.

    Check a game of your own with [`tz.check_env`][].

    **Fields:**

    - `init`: `key -> (state, StepMetadata)`, starts a new game. `state` is any PyTree of arrays.
    - `step`: `(state, action) -> (state, StepMetadata)`, makes a move. `action` is an integer scalar. A step from a
        terminated state must leave it terminated, with rewards of zero.
    - `observe`: `state -> observation`, the input of the network, from the perspective of the player to move: an array,
        or a PyTree of arrays.
    - `name`: the name of the game in messages and file names.
    - `draw`: `state -> SVG text` or image `[H, W, 3]`, a picture of one position, for [`tz.plot.plot_tree`][] and
        [`tz.plot.render_game`][].
    - `outcome`: only for a game with chance: `(state, outcome, key) -> (state, StepMetadata)`, nature's move. `outcome`
        is an integer scalar from 0 to `C - 1`. In the new state a player is to move or the game is over; its rewards
        are the rewards of the outcome. The key decides everything that the outcome does not. A game that lists all its
        outcomes ignores the key; see [`tz.games.sampled_chance`][] for other games.
    - `label`: `(state, action) -> str`, the name of a move as people know it, such as `"d3"` or `"pass"`. The legal
        moves of a state must have different names. This function is never traced: it runs on the host, on one state,
        and `action` is a Python int. See [`tz.games.move_label`][] and [`tz.games.find_move`][].
    - `text`: `state -> str`, a position as text. It runs on the host, too; see [`tz.games.text_board`][].
    - `board`: `state -> tz.games.Board`, a drawing of a position with named squares to click on. It runs on the host,
        too; see [`tz.games.draw_board`][].
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, StepMetadata]]
    step: Callable[[PyTree, Int[Array, ""]], tuple[PyTree, StepMetadata]]
    observe: Callable[[PyTree], PyTree]
    name: str = eqx.field(static=True, default="env")
    draw: Callable[[PyTree], Any] | None = None
    outcome: Callable[[PyTree, Int[Array, ""], PRNGKeyArray], tuple[PyTree, StepMetadata]] | None = None
    label: Callable[[PyTree, int], str] | None = None
    text: Callable[[PyTree], str] | None = None
    board: Callable[[PyTree], Any] | None = None

    def _initial(self) -> Any:
        return jax.eval_shape(lambda key: self.init(key), jax.random.key(0))

    def _metadata(self) -> StepMetadata:
        metadata = self._initial()[1]
        check_axes(f"init of {self.name}", metadata)
        return metadata

    @property
    def num_actions(self) -> int:
        """The number of actions, `A`, whether legal or not."""
        return self._metadata().action_mask.shape[0]

    @property
    def num_players(self) -> int:
        """The number of players, `P`."""
        return self._metadata().rewards.shape[0]

    @property
    def num_outcomes(self) -> int:
        """The number of nature's outcomes, `C`; 0 in a game without chance."""
        chance = self._initial()[1].chance
        return 0 if chance is None else chance.shape[0]

    @property
    def observation(self) -> Any:
        """The shape and dtype of one observation: a `jax.ShapeDtypeStruct`, or a PyTree of them."""
        return jax.eval_shape(lambda key: self.observe(self.init(key)[0]), jax.random.key(0))
