"""The game interface: how a game starts, how a move changes it, and what the network sees of it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree


class StepMetadata(eqx.Module):
    """What a game tells about a state, whatever the game.

    **Fields:**

    - `rewards`: `[P]`, what each player received for the move that led here; zeros in an initial state.
    - `action_mask`: `[A]`, True where an action is legal for the player to move.
    - `terminated`: True once the game is over.
    - `cur_player_id`: the player to move, from 0 to `P - 1`, in a terminated state too. It may stay the same from one
        move to the next.
    - `discount`: of a [`tz.mcts.Model`][] only, from 0 to 1: what the value of this state is multiplied by, beside the
        discount of the search, in the return of the move that led here. None, the default, for none. Games have none.
    - `chance`: `[C]`, of a game with chance only: the probabilities of nature's outcomes where nature is to move, and
        zeros where a player is. None, the default, for a game without chance. Where nature is to move,
        `cur_player_id` and `action_mask` are not read.
    """

    rewards: Float[Array, " P"]
    action_mask: Bool[Array, " A"]
    terminated: Bool[Array, ""]
    cur_player_id: Int[Array, ""]
    discount: Float[Array, ""] | None = None
    chance: Float[Array, " C"] | None = None


class Env(eqx.Module):
    """A game: two functions that move it on and one that shows it to a network.

    Each function sees one game and has no batch axis; `jax.vmap` makes the batch. All three must be pure.

    **Fields:**

    - `init`: `key -> (state, StepMetadata)`, a new game. `state` is any PyTree of arrays.
    - `step`: `(state, action) -> (state, StepMetadata)`. `action` is an integer scalar. A step from a terminated state
        must leave it terminated, with rewards of zero.
    - `observe`: `state -> observation`, the network's input, seen by the player to move: an array, or a PyTree of
        arrays.
    - `name`: for messages and file names.
    - `draw`: `state -> SVG text` or image `[H, W, 3]`, a picture of one position for [`tz.plot.plot_tree`][] and
        [`tz.plot.render_game`][]; not needed for anything else.
    - `outcome`: of a game with chance only: `(state, outcome, key) -> (state, StepMetadata)`, nature's move. `outcome`
        is an integer scalar from 0 to `C - 1`. The state that it leads to is a player's, or the end of the game, and
        its rewards are those that the outcome brings. The key decides what the outcome leaves open, which is nothing in
        a game that lists its outcomes; see [`tz.games.sampled_chance`][] for the others.
    - `label`: `(state, action) -> str`, the name of a move as people know it, such as `"d3"` or `"pass"`. The names of
        the legal moves of a state are all different. `action` is an int of Python; the function runs on the host, on
        one state, and is never traced. See [`tz.games.move_label`][] and [`tz.games.find_move`][].
    - `text`: `state -> str`, a position as text, on the host as well; see [`tz.games.text_board`][].
    - `board`: `state -> tz.games.Board`, a drawing of a position with named squares to click on, on the host as well;
        see [`tz.games.draw_board`][].

    Neither `step` nor the state may hold anything that chance has yet to decide, such as a random key: a search steps
    through the same states, and would foresee it. `init` may draw as it likes.

    Check a game of your own with [`tz.check_env`][].
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

    @property
    def num_actions(self) -> int:
        """`A`, the number of actions, legal or not."""
        return self._initial()[1].action_mask.shape[0]

    @property
    def num_players(self) -> int:
        """`P`, the number of players."""
        return self._initial()[1].rewards.shape[0]

    @property
    def num_outcomes(self) -> int:
        """`C`, the number of nature's outcomes; 0 in a game without chance."""
        chance = self._initial()[1].chance
        return 0 if chance is None else chance.shape[0]

    @property
    def observation(self) -> Any:
        """Shape and dtype of one observation, or a PyTree of them, as `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(lambda key: self.observe(self.init(key)[0]), jax.random.key(0))
