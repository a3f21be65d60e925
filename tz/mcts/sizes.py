"""The memory that searches need, computed from shapes without allocating it."""

import jax

from tz.games.env import Env
from tz.mcts.models import Model
from tz.mcts.settings import MCTS
from tz.mcts.simulation import init_search


def search_bytes(mcts: MCTS, env: Env, num_games: int = 1, *, model: Model | None = None) -> int:
    """Returns the number of bytes that the search states of `num_games` games take, most of them for the trees.

    A running program needs more: [`tz.advance`][] writes a second tree before the first is freed.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `env`: the game.
    - `num_games`: the number of games that are searched at the same time.
    - `model`: the model that the search steps through, whose states the trees then hold; None, the default, if it steps
        through the game.

    **Returns:** the number of bytes.
    """
    state = jax.eval_shape(lambda key: init_search(mcts, *env.init(key), model=model), jax.random.key(0))
    return num_games * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
