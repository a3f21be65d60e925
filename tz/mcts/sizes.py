"""The memory that searches take, from shapes alone."""

import jax

from tz.games.env import Env
from tz.mcts.settings import MCTS
from tz.mcts.simulation import init_search


def search_bytes(mcts: MCTS, env: Env, num_games: int = 1) -> int:
    """The bytes that the search states of `num_games` games take: their trees, mostly.

    A program needs more while it runs: [`tz.advance`][] writes a second tree before it gives up the first.
    """
    state = jax.eval_shape(lambda key: init_search(mcts, *env.init(key)), jax.random.key(0))
    return num_games * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
